//! Scratch directories: where what is written in twins is kept on the host, and how none is forgotten.
//!
//! A twin has a directory `NAME` and a file `NAME.lock` beside it. Lifeboat and the twin's first process hold
//! a lock on the file while they live; whoever gets it knows that both are dead. Crash: the file is made
//! first and removed last, so that a directory without a file cannot be.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// The scratch directory of one living twin.
#[derive(Debug)]
pub(super) struct Scratch {
    pub directory: PathBuf,
    pub lock: File,
}

impl Scratch {
    /// Makes a directory that nobody else has, readable by nobody else: what a twin's root writes there may
    /// be a setuid program.
    pub fn make(root: &Path) -> Result<Self> {
        let failed = |reason| Error::Make {
            what: format!("make the scratch directory in {}", root.display()),
            reason,
        };
        fs::create_dir_all(root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        loop {
            let name = new_name();
            let Some(lock) = lock(&root.join(format!("{name}.lock"))).map_err(failed)? else { continue };
            let directory = root.join(name);
            DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
            return Ok(Self { directory, lock });
        }
    }

    /// Removes it with all that is in it.
    pub fn remove(&self) -> Result<()> {
        remove(&self.directory)
    }
}

/// Removes what twins left whose processes are dead; tells how many there were.
pub(super) fn reap(root: &Path) -> Result<usize> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(reason) => return Err(file_error("list", root, reason)),
    };
    let mut reaped = 0;
    for entry in entries {
        let path = entry.map_err(|reason| file_error("list", root, reason))?.path();
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let held = lock(&path).map_err(|reason| file_error("lock", &path, reason))?;
        if let Some(_dead) = held {
            remove(&path.with_extension(""))?;
            reaped += 1;
        }
    }
    Ok(reaped)
}

fn new_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("twin-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Locks the file and makes sure that it still is the one of that name; `None` when somebody else has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let is_same =
        fs::metadata(path).is_ok_and(|named| file.metadata().is_ok_and(|ours| ours.ino() == named.ino()));
    Ok(is_same.then_some(file))
}

fn remove(directory: &Path) -> Result<()> {
    let removed = match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Overlays make directories that only root may enter, and so may whoever wrote in the twin.
            open_up(directory).and_then(|()| fs::remove_dir_all(directory))
        }
        other => other,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", directory, error)),
        _ => {
            let lock = directory.with_extension("lock");
            fs::remove_file(&lock).map_err(|reason| file_error("remove", &lock, reason))
        }
    }
}

fn open_up(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

fn file_error(what: &'static str, path: &Path, reason: io::Error) -> Error {
    Error::File { what, path: path.to_owned(), place: "this host".into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_spared_and_the_dead_are_reaped() {
        let root = tempfile::tempdir().unwrap();
        let living = Scratch::make(root.path()).unwrap();
        let dead = Scratch::make(root.path()).unwrap();
        fs::create_dir(dead.directory.join("work")).unwrap();
        fs::set_permissions(dead.directory.join("work"), fs::Permissions::from_mode(0o0)).unwrap();
        let directory = dead.directory.clone();
        drop(dead.lock);
        assert_eq!(reap(root.path()).unwrap(), 1);
        assert!(living.directory.exists() && !directory.exists());
        living.remove().unwrap();
        drop(living);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert_eq!(reap(root.path()).unwrap(), 0);
        assert_eq!(reap(&root.path().join("absent")).unwrap(), 0);
    }
}
