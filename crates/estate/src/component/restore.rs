//! What of a snapshot is restored where.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

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

    /// The same part with another home: `directory` and the target's last name. For restores to elsewhere and
    /// into scratch.
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

/// Makes sure that a part can be restored beside its target and swapped in: the parent directory is there,
/// the target is a file or a directory as `is_directory` says or nothing, no symbolic link and no mount
/// point.
///
/// Fails with [`Error::BadTarget`].
pub(crate) fn make_way(part: &Part, is_directory: bool) -> Result<()> {
    let bad = |why: String| Error::BadTarget { path: part.target.clone(), why };
    let Some(parent) = part.target.parent() else {
        return Err(bad("the root directory cannot be replaced: name what lies in it".to_owned()));
    };
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let found = match fs::symlink_metadata(&part.target) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("look at", &part.target)(error)),
    };
    if found.is_symlink() {
        return Err(
            bad("it is a symbolic link: name what it points to in the plan, or remove it".to_owned()),
        );
    }
    if found.is_dir() != is_directory {
        let (is, was) = if found.is_dir() { ("directory", "file") } else { ("file", "directory") };
        return Err(bad(format!("it is a {is}, and what is restored is a {was}: move it away first")));
    }
    let parent_found = fs::metadata(parent).map_err(Error::io("look at", parent))?;
    if found.is_dir() && found.dev() != parent_found.dev() {
        return Err(bad("it is a mount point, which cannot be renamed: name what lies in it".to_owned()));
    }
    Ok(())
}
