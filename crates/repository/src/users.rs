//! Names of users and groups, from the machine's own tables.

use std::collections::HashMap;
use std::path::Path;

/// The names of this machine's users and groups, by number and back.
///
/// Read from `/etc/passwd` and `/etc/group` below a root; a directory service behind NSS is not asked, so its
/// users appear by number only, which restores just as well.
#[derive(Debug, Default, Clone)]
pub struct Users {
    user_names: HashMap<u32, String>,
    group_names: HashMap<u32, String>,
}

impl Users {
    /// Reads the tables below `root`, usually `/`; a table that cannot be read counts as empty.
    pub fn load(root: &Path) -> Self {
        Self {
            user_names: read_table(&root.join("etc/passwd")),
            group_names: read_table(&root.join("etc/group")),
        }
    }

    /// The user's name, or an empty text.
    pub fn user(&self, uid: u32) -> &str {
        self.user_names.get(&uid).map_or("", String::as_str)
    }

    /// The group's name, or an empty text.
    pub fn group(&self, gid: u32) -> &str {
        self.group_names.get(&gid).map_or("", String::as_str)
    }
}

/// Both tables have the name in the first field and the number in the third; the first entry of a number wins.
fn read_table(path: &Path) -> HashMap<u32, String> {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}
