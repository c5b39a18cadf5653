//! Reaching things below the target, without ever following a link on the way, and removing them.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

use crate::format::{NodeKind, Time};

use super::table::{Existing, Tables};

/// Directories that are kept open; the usual limit of open files is 1024.
const OPEN_DIRS_MAX: usize = 256;
const DIR: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::PATH);

/// The directory that is restored to.
pub(super) struct Target {
    root: Arc<OwnedFd>,
    open: Mutex<OpenDirs>,
}

#[derive(Default)]
struct OpenDirs {
    by_number: HashMap<u32, Arc<OwnedFd>>,
    oldest_first: VecDeque<u32>,
}

impl Target {
    /// Opens the target; links in `path` itself are the caller's wish and are followed.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { root: Arc::new(root), open: Mutex::default() })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A descriptor of a directory, good for reaching what it holds.
    pub fn dir(&self, tables: &Tables, number: u32) -> Result<Arc<OwnedFd>> {
        if number == 0 {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(fd) = self.open.lock().expect("no holder panics").by_number.get(&number) {
            return Ok(Arc::clone(fd));
        }
        let (mut chain, mut fd) = (vec![number], Arc::clone(&self.root));
        let mut current = tables.dirs[number as usize].parent;
        while current != 0 {
            if let Some(open) = self.open.lock().expect("no holder panics").by_number.get(&current) {
                fd = Arc::clone(open);
                break;
            }
            chain.push(current);
            current = tables.dirs[current as usize].parent;
        }
        for number in chain.into_iter().rev() {
            let name = tables.name(tables.dirs[number as usize].name);
            fd = Arc::new(rustix::fs::openat(&*fd, name, DIR, Mode::empty())?);
            self.keep(number, &fd);
        }
        Ok(fd)
    }

    fn keep(&self, number: u32, fd: &Arc<OwnedFd>) {
        let mut open = self.open.lock().expect("no holder panics");
        if open.by_number.insert(number, Arc::clone(fd)).is_none() {
            open.oldest_first.push_back(number);
        }
        if open.oldest_first.len() > OPEN_DIRS_MAX
            && let Some(oldest) = open.oldest_first.pop_front()
        {
            open.by_number.remove(&oldest);
        }
    }

    /// A descriptor of the directory at a path below the target.
    fn dir_at(&self, relative: &Path) -> Result<Arc<OwnedFd>> {
        let mut fd = Arc::clone(&self.root);
        for component in relative.components() {
            let Component::Normal(name) = component else { return Err(Errno::INVAL) };
            fd = Arc::new(rustix::fs::openat(&*fd, name, DIR, Mode::empty())?);
        }
        Ok(fd)
    }

    /// Removes what lies at a path below the target: anything but a directory that is not empty.
    pub fn remove(&self, relative: &Path) -> Result<()> {
        let parent = self.dir_at(relative.parent().unwrap_or(Path::new("")))?;
        let name = relative.file_name().ok_or(Errno::INVAL)?;
        remove_at(parent.as_fd(), name.as_bytes())
    }

    /// Names in a directory of the target and whether each is a directory itself.
    pub fn list(&self, relative: &Path) -> Result<Vec<(Vec<u8>, bool)>> {
        list(self.dir_at(relative)?.as_fd())
    }
}

/// Removes a name from a directory: anything but a directory that is not empty.
pub(super) fn remove_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        other => other,
    }
}

/// Names in a directory, in order, and whether each is a directory itself.
pub(super) fn list(dir: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, bool)>> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let readable = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(readable)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let is_dir = match entry.file_type() {
            FileType::Unknown => matches!(look(dir, name)?, Some(Existing { kind: Some(NodeKind::Dir), .. })),
            kind => kind == FileType::Directory,
        };
        names.push((name.to_vec(), is_dir));
    }
    names.sort_unstable();
    Ok(names)
}

/// What a directory of the target has under a name; `None` when it has nothing.
pub(super) fn look(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Existing>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(existing(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn existing(stat: &Stat) -> Existing {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(NodeKind::File),
        FileType::Directory => Some(NodeKind::Dir),
        FileType::Symlink => Some(NodeKind::Symlink),
        FileType::BlockDevice => Some(NodeKind::Dev),
        FileType::CharacterDevice => Some(NodeKind::Chardev),
        FileType::Fifo => Some(NodeKind::Fifo),
        FileType::Socket => Some(NodeKind::Socket),
        FileType::Unknown => None,
    };
    Existing {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size.unsigned_abs(),
        mtime: Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
        device: stat.st_dev,
        inode: stat.st_ino,
        links: stat.st_nlink,
        rdev: stat.st_rdev,
        same_rest: false,
    }
}

/// A path that reaches the very thing that `fd` stands for, for calls that take no descriptor.
pub(super) fn magic_path(fd: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A path of a name in the directory `dir`; its last segment is to be given to calls that do not follow links.
pub(super) fn magic_path_in(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    magic_path(dir).join(OsStr::from_bytes(name))
}
