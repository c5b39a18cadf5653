//! Damage done on purpose to a restored copy, so that its proof can be seen to notice: what a negative drill does.
//!
//! Only what was restored into scratch to be thrown away is ever damaged: the caller says where that is, and every
//! function here works on `beside` alone.

use std::fmt;
use std::fs::{self, File, FileTimes, Metadata, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Part;
use crate::{Error, Result};

/// A way of damaging a restored copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// Bytes are flipped where data is.
    Flip,
    /// Some of what is kept is gone, and what is left looks whole: rows, keys, files.
    Lose,
    /// A file ends too early.
    Cut,
}

impl Damage {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Flip, Self::Lose, Self::Cut];
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flip => "flipped bytes",
            Self::Lose => "a part of it gone",
            Self::Cut => "a file cut short",
        })
    }
}

/// Flips all bits of `bytes` bytes at `offset`. The file keeps its times, as it does when a disk does this.
pub(in crate::component) fn flip(path: &Path, offset: u64, bytes: usize) -> Result<()> {
    let wrong = |error| Error::io("damage", path)(error);
    let found = fs::metadata(path).map_err(wrong)?;
    let file = writable(path)?;
    let mut content = vec![0; bytes];
    file.read_exact_at(&mut content, offset).map_err(wrong)?;
    content.iter_mut().for_each(|byte| *byte = !*byte);
    file.write_all_at(&content, offset).map_err(wrong)?;
    keep_times(&file, &found).map_err(wrong)
}

/// Lets a file end after `bytes`. It keeps its times.
pub(in crate::component) fn cut(path: &Path, bytes: u64) -> Result<()> {
    let wrong = |error| Error::io("damage", path)(error);
    let found = fs::metadata(path).map_err(wrong)?;
    let file = writable(path)?;
    file.set_len(bytes).map_err(wrong)?;
    keep_times(&file, &found).map_err(wrong)
}

fn writable(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).map_err(Error::io("damage", path))
}

fn keep_times(file: &File, found: &Metadata) -> std::io::Result<()> {
    file.set_times(FileTimes::new().set_accessed(found.accessed()?).set_modified(found.modified()?))
}

/// The regular files of what was restored, the largest first, with their sizes; empty ones are left out.
pub(in crate::component) fn files(parts: &[Part]) -> Result<Vec<(PathBuf, u64)>> {
    let mut open: Vec<PathBuf> = parts.iter().map(|part| part.beside.clone()).collect();
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        let found = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        if found.is_dir() {
            for entry in fs::read_dir(&path).map_err(Error::io("list", &path))? {
                open.push(entry.map_err(Error::io("list", &path))?.path());
            }
        } else if found.is_file() && found.len() > 0 {
            files.push((path, found.len()));
        }
    }
    files.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    Ok(files)
}

/// Damages the largest of the files, whatever is in it; `None` when there is none.
pub(in crate::component) fn of_files(parts: &[Part], how: Damage) -> Result<Option<String>> {
    let files = files(parts)?;
    let Some((path, bytes)) = files.first() else { return Ok(None) };
    Ok(Some(match how {
        Damage::Flip => {
            flip(path, bytes / 2, 1)?;
            format!("a byte of {} was flipped", path.display())
        }
        Damage::Lose => {
            fs::remove_file(path).map_err(Error::io("damage", path))?;
            format!("{} was removed", path.display())
        }
        Damage::Cut => {
            cut(path, bytes / 2)?;
            format!("{} was cut to {} of {bytes} bytes", path.display(), bytes / 2)
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_file_is_damaged_and_keeps_its_times() {
        let directory = tempfile::tempdir().unwrap();
        let beside = directory.path().join("tree");
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("small"), "1").unwrap();
        fs::write(beside.join("large"), "123456").unwrap();
        fs::write(beside.join("empty"), "").unwrap();
        let part = Part { beside: beside.clone(), ..Part::home(&beside, "run") };
        let of = |how| of_files(std::slice::from_ref(&part), how).unwrap();
        let large = beside.join("large");
        let before = fs::metadata(&large).unwrap().modified().unwrap();
        assert!(of(Damage::Flip).unwrap().contains("large was flipped"));
        assert_ne!(fs::read(&large).unwrap(), b"123456");
        assert_eq!(fs::metadata(&large).unwrap().len(), 6);
        assert!(of(Damage::Cut).unwrap().contains("cut to 3 of 6 bytes"));
        assert_eq!(fs::metadata(&large).unwrap().modified().unwrap(), before);
        of(Damage::Lose).unwrap();
        assert!(!large.exists());
        fs::remove_file(beside.join("small")).unwrap();
        assert_eq!(of(Damage::Flip), None, "there is nothing in it");
    }
}
