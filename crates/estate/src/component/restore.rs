//! What of a snapshot is restored where.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One file or directory of the snapshot and its way home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its path in the snapshot, absolute.
    pub in_snapshot: PathBuf,
    /// Where it belongs.
    pub target: PathBuf,
    /// Where it is restored first: beside its target and on the same file system, `NAME.lifeboat-RUN`.
    pub beside: PathBuf,
    /// Endings that, appended to the target's name, give files that belong to what is there and must leave
    /// with it, such as `-wal`.
    pub companions: Vec<String>,
}

impl Part {
    /// Makes the part that goes back to where it came from.
    pub fn home(in_snapshot: &Path, run: &str) -> Self {
        Self {
            in_snapshot: in_snapshot.to_owned(),
            target: in_snapshot.to_owned(),
            beside: appended(in_snapshot, &format!(".lifeboat-{run}")),
            companions: Vec::new(),
        }
    }

    /// The same part with another home: `directory` and the target's last name. For restores to elsewhere and into scratch.
    pub fn moved_to(&self, directory: &Path) -> Self {
        let moved =
            |path: &Path| path.file_name().map_or_else(|| directory.to_owned(), |name| directory.join(name));
        Self { target: moved(&self.target), beside: moved(&self.beside), ..self.clone() }
    }

    /// The same part with other companions.
    pub(crate) fn with_companions(mut self, endings: &[&str]) -> Self {
        self.companions = endings.iter().map(|&ending| ending.to_owned()).collect();
        self
    }
}

/// Appends to the last name of a path, whatever bytes it has.
pub(crate) fn appended(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}
