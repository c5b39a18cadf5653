//! The store in a directory.
//!
//! **Writing.** Each step, and what a crash leaves after it:
//!
//! 1. the folder is made and its parent synced: an empty folder;
//! 2. `.tmp-…` is written beside the object and synced: a file that no reading operation shows
//!    ([`Local::remove_stale_temporaries`] removes it);
//! 3. it is renamed to its name (for `create` only if that is free): the object, whole; a power cut may
//!    still undo the rename;
//! 4. the folder is synced: the object, for good.
//!
//! **A directory that goes away.** The root is opened once and held, so that it cannot be unmounted
//! quietly under a running backup, and what is mounted over its path later is not mistaken for it. When
//! it is removed, or the device below it fails, operations answer `Unavailable`, never `NotFound`.
//!
//! **Concurrency.** Any number of threads and processes may use one directory; all ordering comes from
//! `rename` and `link`.
//!
//! File systems without hard links and without `RENAME_NOREPLACE` (some FUSE ones) cannot `create`; they
//! say so.

use std::collections::HashSet;
use std::io::ErrorKind as IoErrorKind;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::{Error, ErrorKind, Object, Result, Store, key};

/// How files of unfinished writes begin; no key can.
const TEMPORARY: &str = ".tmp-";

/// Only the owner may read a repository: file names in it are sealed, sizes and times are not.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const FOLDER_MODE: Mode = Mode::RWXU;

/// Keeps each object as a file of the same relative path.
#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    /// Set once the directory has been seen or made.
    root: OnceLock<OwnedFd>,
    folders: Mutex<Folders>,
    /// Tells the temporary files of this writer from those of all others.
    writer: u64,
    temporaries: AtomicU64,
}

/// The folders that this writer knows to survive a power cut.
#[derive(Debug, Default)]
struct Folders {
    durable: HashSet<String>,
    /// Those synced after they were opened: what others had made in them before is durable too.
    synced: HashSet<String>,
}

impl Local {
    /// Opens the directory `path`; when it does not exist, the first write makes it and what is missing
    /// above.
    ///
    /// Until then the store is empty: reads answer `NotFound`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let writer = getrandom::u64().map_err(|e| {
            Error::new(
                ErrorKind::Other,
                "open",
                "",
                path.display().to_string(),
                format!("no randomness: {e}"),
            )
        })?;
        let store = Self {
            path,
            root: OnceLock::new(),
            folders: Mutex::default(),
            writer,
            temporaries: AtomicU64::new(0),
        };
        store.root().map_err(|e| store.error("open", "", e))?;
        Ok(store)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what writers left behind that died at least `older_than` ago, and tells how many files that
    /// were.
    ///
    /// A writer that is still at work must not lose its file, so `older_than` has to be longer than any
    /// write can take; a day is safe.
    pub fn remove_stale_temporaries(&self, older_than: Duration) -> Result<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let limit = now.saturating_sub(older_than).as_secs();
        let mut removed = 0;
        self.walk("delete", "", &|name| name.starts_with(TEMPORARY), &mut |folder, path, name, stat| {
            if u64::try_from(stat.st_mtime).is_ok_and(|modified| modified <= limit) {
                match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                    Ok(()) => removed += 1,
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(self.error("delete", &path, e)),
                }
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// The open directory, or `None` as long as it does not exist.
    fn root(&self) -> rustix::io::Result<Option<BorrowedFd<'_>>> {
        if self.root.get().is_none() {
            match open_folder(CWD, &self.path) {
                Ok(root) => drop(self.root.set(root)),
                Err(Errno::NOENT) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(self.root.get().map(AsFd::as_fd))
    }

    /// The open directory for reading `key`.
    fn root_to_read(&self, operation: &'static str, key: &str) -> Result<BorrowedFd<'_>> {
        self.root().and_then(|root| root.ok_or(Errno::NOENT)).map_err(|e| self.error(operation, key, e))
    }

    /// The open directory, made when it did not exist.
    fn root_to_write(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        if let Some(root) = self.root()? {
            return Ok(root);
        }
        // `"."` and `""` stand for the current directory, which exists.
        let missing = self.path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists());
        for folder in missing.collect::<Vec<_>>().into_iter().rev() {
            match rustix::fs::mkdir(folder, FOLDER_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            rustix::fs::fsync(open_folder(CWD, parent)?)?;
        }
        self.root()?.ok_or(Errno::NOENT)
    }

    /// Opens the folder of an object that is to be written, and makes it if need be.
    fn folder_to_write(&self, folder: &str) -> rustix::io::Result<OwnedFd> {
        let root = self.root_to_write()?;
        if folder.is_empty() {
            return open_folder(root, ".");
        }
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.make_durable(root, folder)?;
        match open_folder(root, folder) {
            // Someone has removed it since; that is allowed as long as it was empty.
            Err(Errno::NOENT) => {
                *folders = Folders::default();
                folders.make_durable(root, folder)?;
                open_folder(root, folder)
            }
            opened => opened,
        }
    }

    /// Writes the object in the steps that the head of this module lists.
    fn write(&self, key: &str, data: &[u8], publish: Publish) -> Result<()> {
        key::check("write", key, || self.location())?;
        self.try_write(key, data, publish).map_err(|e| match self.error("write", key, e) {
            // Something above the object is missing, which is never what `NotFound` promises.
            e if e.kind == ErrorKind::NotFound => Error { kind: ErrorKind::Other, ..e },
            e => e,
        })
    }

    fn try_write(&self, key: &str, data: &[u8], publish: Publish) -> rustix::io::Result<()> {
        let (folder, name) = key.rsplit_once('/').unwrap_or(("", key));
        let folder = self.folder_to_write(folder)?;
        if publish == Publish::IfAbsent && rustix::fs::statat(&folder, name, AtFlags::empty()).is_ok() {
            return Err(Errno::EXIST);
        }
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY}{:016x}-{number}", self.writer);
        let written = write_new(&folder, &temporary, data)
            .and_then(|()| rename(&folder, &temporary, name, publish))
            .inspect_err(|_| {
                // The first error is the one to tell; what stays is removed as stale later.
                let _ = rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty());
            });
        written.and_then(|()| rustix::fs::fsync(&folder))
    }

    /// Opens an object and tells its size.
    fn open_object(&self, key: &str) -> Result<(OwnedFd, u64)> {
        key::check("read", key, || self.location())?;
        let root = self.root_to_read("read", key)?;
        // NONBLOCK: a fifo in the object's place must not hang the reader.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::openat(root, key, flags, Mode::empty());
        let file = opened.map_err(|e| self.error("read", key, e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| self.error("read", key, e))?;
        Ok((file, self.size_of_file("read", key, &stat)?))
    }

    /// The size of a regular file; of anything else, that it is no object.
    fn size_of_file(&self, operation: &'static str, key: &str, stat: &Stat) -> Result<u64> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.error(operation, key, Errno::NOENT));
        }
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn read_into(
        &self,
        key: &str,
        file: &OwnedFd,
        range: &Range<u64>,
        buffer: &mut Vec<u8>,
        size: u64,
    ) -> Result<()> {
        let truncated = |size: u64| {
            let reason = format!("bytes {} to {} wanted, the file has {size}", range.start, range.end);
            Error::new(ErrorKind::Truncated, "read", key, self.location(), reason)
        };
        if range.end > size {
            buffer.clear();
            return Err(truncated(size));
        }
        let read = read_at(file, range, buffer).map_err(|e| self.error("read", key, e))?;
        // Shorter than it said a moment ago: someone cuts it, or the file system is damaged.
        if read { Ok(()) } else { Err(truncated(range.start + buffer.len() as u64)) }
    }

    /// Calls `visit` with every file below `prefix` whose name `wanted` accepts.
    ///
    /// Names that no key can have (`lost+found`, say) are not ours and not entered; files and folders that
    /// vanish meanwhile are passed over.
    fn walk(
        &self,
        operation: &'static str,
        prefix: &str,
        wanted: &dyn Fn(&str) -> bool,
        visit: &mut dyn FnMut(&OwnedFd, String, &str, &Stat) -> Result<()>,
    ) -> Result<()> {
        let Some(root) = self.root().map_err(|e| self.error(operation, prefix, e))? else { return Ok(()) };
        let mut pending = vec![prefix.to_owned()];
        while let Some(path) = pending.pop() {
            let fail = |e| self.error(operation, &path, e);
            let folder = match open_folder(root, if path.is_empty() { "." } else { &path }) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(e) => return Err(fail(e)),
            };
            for entry in Dir::read_from(&folder).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let Ok(name) = entry.file_name().to_str() else { continue };
                let child = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                if key::is_segment(name) && entry.file_type() == FileType::Directory {
                    pending.push(child);
                    continue;
                }
                if !key::is_segment(name) && !wanted(name) {
                    continue;
                }
                // Follows links: people move `data` to a second disk that way.
                let stat = match rustix::fs::statat(&folder, name, AtFlags::empty()) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(self.error(operation, &child, e)),
                };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory if key::is_segment(name) => pending.push(child),
                    FileType::RegularFile if wanted(name) => visit(&folder, child, name, &stat)?,
                    _ => {}
                }
            }
        }
        // A removed directory lists as empty; that must not pass for an empty store.
        if self.root_was_removed() { Err(self.error(operation, prefix, Errno::NOENT)) } else { Ok(()) }
    }

    fn root_was_removed(&self) -> bool {
        self.root.get().is_some_and(|root| !rustix::fs::fstat(root).is_ok_and(|stat| stat.st_nlink > 0))
    }

    /// Turns an error number into the store's error; only here is "not there" told from "gone away".
    fn error(&self, operation: &'static str, key: &str, errno: Errno) -> Error {
        let location = self.location();
        if errno == Errno::NOENT && self.root_was_removed() {
            let reason = "the directory was removed while in use";
            return Error::new(ErrorKind::Unavailable, operation, key, location, reason);
        }
        let reason = std::io::Error::from(errno);
        Error::new(kind_of(errno), operation, key, location, reason)
    }
}

impl Store for Local {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn put(&self, key: &str, data: Bytes) -> Result<()> {
        self.write(key, &data, Publish::Always)
    }

    fn create(&self, key: &str, data: Bytes) -> Result<()> {
        self.write(key, &data, Publish::IfAbsent)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let (file, size) = self.open_object(key)?;
        let mut buffer = Vec::new();
        self.read_into(key, &file, &(0..size), &mut buffer, size)?;
        Ok(buffer)
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        let (file, size) = self.open_object(key)?;
        if range.is_empty() {
            buffer.clear();
            return Ok(());
        }
        self.read_into(key, &file, &range, buffer, size)
    }

    fn size(&self, key: &str) -> Result<u64> {
        key::check("read", key, || self.location())?;
        let root = self.root_to_read("read", key)?;
        let stat = rustix::fs::statat(root, key, AtFlags::empty()).map_err(|e| self.error("read", key, e))?;
        self.size_of_file("read", key, &stat)
    }

    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        key::check_prefix(prefix, || self.location())?;
        self.walk("list", prefix, &key::is_segment, &mut |_, key, _, stat| {
            found(Object { key, size: u64::try_from(stat.st_size).unwrap_or(0) })
        })
    }

    fn delete(&self, key: &str) -> Result<()> {
        key::check("delete", key, || self.location())?;
        let fail = |e| self.error("delete", key, e);
        let Some(root) = self.root().map_err(fail)? else { return Ok(()) };
        let (folder, name) = key.rsplit_once('/').unwrap_or((".", key));
        let removed = open_folder(root, folder).and_then(|folder| {
            match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                Err(e) => return Err(e),
            }
            // Also when it was not there: an earlier attempt may have got no further than the unlink.
            rustix::fs::fsync(folder)
        });
        match removed {
            Err(Errno::NOENT | Errno::NOTDIR) if !self.root_was_removed() => Ok(()),
            removed => removed.map_err(fail),
        }
    }

    fn parallelism(&self) -> usize {
        // Enough to have one file being filled while others wait for their sync.
        4
    }
}

/// Whether a finished file may take the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Publish {
    Always,
    IfAbsent,
}

impl Folders {
    /// Makes `folder` and all above it, and makes sure that a power cut does not undo that.
    fn make_durable(&mut self, root: BorrowedFd<'_>, folder: &str) -> rustix::io::Result<()> {
        if self.durable.contains(folder) {
            return Ok(());
        }
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        let mut parent = ".";
        for path in ends.map(|end| &folder[..end]) {
            let made = match rustix::fs::mkdirat(root, path, FOLDER_MODE) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(e) => return Err(e),
            };
            // Someone who died may have made it without syncing, so the first look syncs once.
            if made || !self.synced.contains(parent) {
                rustix::fs::fsync(open_folder(root, parent)?)?;
                self.synced.insert(parent.to_owned());
            }
            self.durable.insert(path.to_owned());
            parent = path;
        }
        Ok(())
    }
}

fn open_folder(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Writes and syncs a file that did not exist.
fn write_new(folder: &OwnedFd, name: &str, data: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, FILE_MODE)?;
    let mut rest = data;
    while !rest.is_empty() {
        match rustix::io::write(&file, rest) {
            // POSIX has no such answer for a non-empty write; looping on it would hang.
            Ok(0) => return Err(Errno::IO),
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    rustix::fs::fsync(&file)
}

/// Gives a finished file its name.
fn rename(folder: &OwnedFd, from: &str, to: &str, publish: Publish) -> rustix::io::Result<()> {
    match publish {
        Publish::Always => rustix::fs::renameat(folder, from, folder, to),
        Publish::IfAbsent => {
            match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
                // NFS and older kernels know no such rename, but link.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    rustix::fs::linkat(folder, from, folder, to, AtFlags::empty())?;
                    rustix::fs::unlinkat(folder, from, AtFlags::empty())
                }
                renamed => renamed,
            }
        }
    }
}

/// Fills `buffer` with exactly the bytes `range`, or as many as there are and `false`.
fn read_at(file: &OwnedFd, range: &Range<u64>, buffer: &mut Vec<u8>) -> rustix::io::Result<bool> {
    let wanted = usize::try_from(range.end - range.start).map_err(|_| Errno::NOMEM)?;
    if buffer.capacity() / 2 > wanted {
        // Much room: reading into all of it would read too much. Only what was never filled is zeroed.
        buffer.resize(wanted, 0);
        let mut filled = 0;
        while filled < wanted {
            match rustix::io::pread(file, &mut buffer[filled..], range.start + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        buffer.truncate(filled);
        return Ok(filled == wanted);
    }
    buffer.clear();
    buffer.try_reserve_exact(wanted).map_err(|_| Errno::NOMEM)?;
    while buffer.len() < wanted {
        let offset = range.start + buffer.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(buffer), offset) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(wanted);
    Ok(buffer.len() == wanted)
}

/// What callers do about an error number.
fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::NotFound,
        Errno::EXIST => ErrorKind::AlreadyExists,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorKind::Full,
        // What network file systems and failing devices say; the retry budget bounds the hope.
        Errno::IO
        | Errno::STALE
        | Errno::NOTCONN
        | Errno::CONNRESET
        | Errno::CONNREFUSED
        | Errno::CONNABORTED
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::NETRESET
        | Errno::PIPE
        | Errno::REMOTEIO
        | Errno::NODEV
        | Errno::NXIO
        | Errno::SHUTDOWN
        | Errno::NOMEM
        | Errno::MFILE
        | Errno::NFILE
        | Errno::BUSY => ErrorKind::Unavailable,
        errno => match std::io::Error::from(errno).kind() {
            IoErrorKind::TimedOut | IoErrorKind::WouldBlock | IoErrorKind::Interrupted => {
                ErrorKind::Unavailable
            }
            _ => ErrorKind::Other,
        },
    }
}
