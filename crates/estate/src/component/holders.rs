//! Who has a file open, as far as this process may see.
//!
//! Two sources: the descriptors of every process, which only their owner and root may read, and the kernel's
//! list of locks, which everybody may.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

impl Holders {
    /// Looks for processes that hold one of the files open or locked; this process is one of them.
    pub fn of(files: &[PathBuf]) -> Self {
        let files: BTreeSet<FileId> = files.iter().filter_map(|file| FileId::of(file)).collect();
        if files.is_empty() {
            return Self::default();
        }
        let mut pids = lockers(&files);
        let mut unseen = 0;
        for pid in processes() {
            match holds_one(pid, &files) {
                Some(true) => _ = pids.insert(pid),
                Some(false) => {}
                None => unseen += 1,
            }
        }
        let seen = pids.into_iter().map(|pid| Holder { pid, name: name_of(pid) }).collect();
        Self { seen, unseen }
    }
}

impl Holders {
    /// Looks for processes that work in a directory, as servers do that have gone to their data; whatever it is called
    /// where they are.
    pub fn working_in(directory: &Path) -> Vec<Holder> {
        let Some(wanted) = FileId::of(directory) else { return Vec::new() };
        let works_there = |pid: &u32| FileId::of(Path::new(&format!("/proc/{pid}/cwd"))) == Some(wanted);
        processes().into_iter().filter(works_there).map(|pid| Holder { pid, name: name_of(pid) }).collect()
    }
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

/// A file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|found| Self { device: found.dev(), inode: found.ino() })
    }
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Tells whether a process has one of the files open; nothing when it may not be looked into.
///
/// A process that has ended meanwhile holds nothing.
fn holds_one(pid: u32, files: &BTreeSet<FileId>) -> Option<bool> {
    let directory = PathBuf::from(format!("/proc/{pid}/fd"));
    match fs::read_dir(directory) {
        Ok(descriptors) => {
            let mut open = descriptors.flatten().filter_map(|entry| FileId::of(&entry.path()));
            Some(open.any(|file| files.contains(&file)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(_) => Some(false),
    }
}

/// Finds the processes that hold a lock on one of the files.
fn lockers(files: &BTreeSet<FileId>) -> BTreeSet<u32> {
    let list = fs::read_to_string("/proc/locks").unwrap_or_default();
    list.lines().filter_map(|line| lock_of(line, files)).collect()
}

/// Reads a line such as `1: POSIX  ADVISORY  WRITE 1234 08:01:131122 0 EOF`.
fn lock_of(line: &str, files: &BTreeSet<FileId>) -> Option<u32> {
    let mut words = line.split_whitespace().skip_while(|word| !matches!(*word, "READ" | "WRITE"));
    let pid = words.nth(1)?.parse().ok()?;
    let mut numbers = words.next()?.split(':');
    let major = u32::from_str_radix(numbers.next()?, 16).ok()?;
    let minor = u32::from_str_radix(numbers.next()?, 16).ok()?;
    let inode = numbers.next()?.parse().ok()?;
    let device = rustix::fs::makedev(major, minor);
    files.contains(&FileId { device, inode }).then_some(pid)
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map(|name| name.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let device = rustix::fs::makedev(0xfe, 1);
        let files = BTreeSet::from([FileId { device, inode: 131_122 }]);
        let line = "1: POSIX  ADVISORY  WRITE 1234 fe:01:131122 1073741824 1073741824";
        assert_eq!(lock_of(line, &files), Some(1234));
        assert_eq!(lock_of("1: -> POSIX  ADVISORY  READ 99 fe:01:131122 0 EOF", &files), Some(99));
        assert_eq!(lock_of("1: POSIX  ADVISORY  WRITE 1234 fe:02:131122 0 EOF", &files), None);
        assert_eq!(lock_of("1: POSIX  ADVISORY", &files), None);
    }

    #[test]
    fn an_open_file_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("held");
        fs::write(&path, "x").unwrap();
        assert_eq!(Holders::of(std::slice::from_ref(&path)).seen, []);
        let _open = fs::File::open(&path).unwrap();
        let holders = Holders::of(&[path]);
        assert_eq!(holders.seen.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [std::process::id()]);
        assert!(!holders.seen[0].name.is_empty());
    }
}
