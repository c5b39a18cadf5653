//! Who has a file open, as far as this process may see.

use serde::{Deserialize, Serialize};

/// A process that holds a file open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// The name of its program; empty when it may not be seen.
    pub name: String,
}

/// Who was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Holders {
    /// Those who were seen, each once.
    pub seen: Vec<Holder>,
    /// How many processes could not be looked into, for want of rights.
    pub unseen: usize,
}

impl Holder {
    /// Names several in a row.
    pub fn list(holders: &[Self]) -> String {
        if holders.is_empty() {
            return "another process".to_owned();
        }
        let one = |holder: &Self| match holder.name.as_str() {
            "" => format!("process {}", holder.pid),
            name => format!("{name} (process {})", holder.pid),
        };
        holders.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}
