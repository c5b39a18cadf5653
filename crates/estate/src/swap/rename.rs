//! One rename: never over something, durable when it returns, and possible where the file system refuses it
//! for a directory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::{Moment, Move, Told};
use crate::component::appended;
use crate::{Error, Result};

/// Moves and tells before and after.
pub(super) fn told(from: &Path, to: &Path, told: Told<'_>) -> Result<()> {
    let one = Move { from: from.to_owned(), to: to.to_owned() };
    told(Moment::Before, &one)?;
    rename(from, to)?;
    told(Moment::After, &one)
}

/// Renames without replacing, and syncs the directory.
fn rename(from: &Path, to: &Path) -> Result<()> {
    match no_replace(from, to) {
        Ok(()) => {}
        // An overlay (a twin, a container) refuses to rename a directory of its lower layer.
        Err(Errno::XDEV) => piecewise(from, &halfway(to), to)?,
        // Cut off between the last two moves of the piecewise way.
        Err(Errno::NOENT) if fs::symlink_metadata(halfway(to)).is_ok() => {
            no_replace(&halfway(to), to).map_err(|error| failed(to, error))?;
        }
        Err(error) => return Err(failed(to, error)),
    }
    sync_parent(to)
}

fn no_replace(from: &Path, to: &Path) -> std::result::Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network file systems cannot promise it in one step.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_err() => {
            rustix::fs::renameat(CWD, from, CWD, to)
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST),
        done => done,
    }
}

fn failed(to: &Path, error: Errno) -> Error {
    match error {
        Errno::EXIST | Errno::NOTEMPTY => {
            let why = "something has been put there meanwhile: stop what did, and move it away".to_owned();
            Error::Swap { path: to.to_owned(), why }
        }
        error => Error::Io { action: "rename to", path: to.to_owned(), source: error.into() },
    }
}

/// Where a directory is put together that cannot be renamed whole.
pub(super) fn halfway(to: &Path) -> PathBuf {
    appended(to, ".moving")
}

/// Moves a directory entry by entry: everything into `staging`, then the emptied directory goes, then
/// `staging` gets its name. Called again it goes on. Extended attributes of directories are not kept.
fn piecewise(from: &Path, staging: &Path, to: &Path) -> Result<()> {
    merge(from, staging)?;
    no_replace(staging, to).map_err(|error| failed(to, error))
}

fn merge(from: &Path, into: &Path) -> Result<()> {
    let found = fs::symlink_metadata(from).map_err(Error::io("look at", from))?;
    if !found.is_dir() {
        return Err(Error::Io { action: "rename", path: from.to_owned(), source: Errno::XDEV.into() });
    }
    match fs::create_dir(into) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", into)(error));
        }
        _ => {}
    }
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let name = entry.map_err(Error::io("list", from))?.file_name();
        let (from, into) = (from.join(&name), into.join(&name));
        match no_replace(&from, &into) {
            Ok(()) => {}
            // A directory that cannot be renamed either, or that an earlier attempt has begun.
            Err(Errno::XDEV | Errno::EXIST | Errno::NOTEMPTY) => merge(&from, &into)?,
            Err(error) => return Err(failed(&into, error)),
        }
    }
    let keep = || {
        std::os::unix::fs::chown(into, Some(found.uid()), Some(found.gid()))?;
        fs::set_permissions(into, found.permissions())?;
        File::open(into)?.set_modified(found.modified()?)
    };
    keep().map_err(Error::io("keep the metadata of", into))?;
    fs::remove_dir(from).map_err(Error::io("remove", from))
}

/// Brings what was restored to the disk: one file by itself, a tree with all else of its file system.
pub(super) fn to_disk(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
    let sync = || match found.file_type() {
        kind if kind.is_file() => File::open(path)?.sync_all(),
        kind if kind.is_dir() => Ok(rustix::fs::syncfs(File::open(path)?)?),
        _ => Ok(()),
    };
    sync().map_err(Error::io("sync", path))
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(Error::io("sync", parent))
}

/// Removes a file or a whole tree, without following links; what is not there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
