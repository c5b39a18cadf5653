//! Modes, owners, times and extended attributes: setting them, and telling whether they are right.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use crate::format::{NodeKind, Time, Xattr};

use super::Ownership;
use super::table::{Existing, Meta};
use super::target::{magic_path, magic_path_in};

/// Who restores, what that allows, and what it did not allow.
pub(super) struct Setter {
    uid: u32,
    gid: u32,
    ownership: Ownership,
    pub owners_skipped: AtomicU64,
    pub attributes_skipped: AtomicU64,
}

/// What an item may bring along that the snapshot does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// Made by this restore in a directory made by this restore: nothing.
    Blank,
    /// It, or its directory with a default ACL, was there before.
    Existed,
}

impl Setter {
    pub fn new(ownership: Ownership) -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            ownership,
            owners_skipped: AtomicU64::new(0),
            attributes_skipped: AtomicU64::new(0),
        }
    }

    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Sets everything on an open file or directory.
    ///
    /// The order matters: a change of owner clears setuid and capabilities, a mode may forbid attributes,
    /// and the time comes last, because it says that everything before is done.
    pub fn set(&self, fd: BorrowedFd<'_>, meta: &Meta, xattrs: &[Xattr], before: Before) -> Result<()> {
        let owned = self.own(meta, before, || rustix::fs::fchown(fd, uid(meta), gid(meta)))?;
        if before == Before::Existed {
            let mut list = |buffer: &mut [u8]| rustix::fs::flistxattr(fd, buffer);
            for name in surplus(&read_names(&mut list)?, xattrs) {
                self.attribute(rustix::fs::fremovexattr(fd, name.as_str()))?;
            }
        }
        for xattr in xattrs {
            self.attribute(rustix::fs::fsetxattr(
                fd,
                xattr.name.as_str(),
                &xattr.value,
                XattrFlags::empty(),
            ))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(allowed_mode(meta, owned)))?;
        rustix::fs::futimens(fd, &timestamps(meta))
    }

    /// Sets everything on something without opening it: a link, a device, a pipe, a file nobody may read.
    pub fn set_at(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        kind: NodeKind,
        meta: &Meta,
        xattrs: &[Xattr],
        before: Before,
    ) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let item = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let path = magic_path(item.as_fd());
        let owned = self.own(meta, before, || {
            rustix::fs::chownat(&item, c"", uid(meta), gid(meta), AtFlags::EMPTY_PATH)
        })?;
        if before == Before::Existed {
            for name in surplus(&read_names(&mut |buffer| rustix::fs::listxattr(&path, buffer))?, xattrs) {
                self.attribute(rustix::fs::removexattr(&path, name.as_str()))?;
            }
        }
        for xattr in xattrs {
            let flags = XattrFlags::empty();
            self.attribute(rustix::fs::setxattr(&path, xattr.name.as_str(), &xattr.value, flags))?;
        }
        if kind != NodeKind::Symlink {
            rustix::fs::chmod(&path, Mode::from_raw_mode(allowed_mode(meta, owned)))?;
        }
        rustix::fs::utimensat(dir, name, &timestamps(meta), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Changes the owner unless it is right already, and tells whether it is right in the end.
    fn own(&self, meta: &Meta, before: Before, change: impl FnOnce() -> Result<()>) -> Result<bool> {
        let mine = meta.uid == self.uid && meta.gid == self.gid;
        match self.ownership {
            Ownership::Skip => return Ok(mine),
            Ownership::Restore if mine && before == Before::Blank => return Ok(true),
            Ownership::Restore => {}
        }
        match change() {
            Ok(()) => Ok(true),
            // A number that this user namespace does not have: its root may not give things to it either.
            Err(Errno::INVAL) => self.owner_skipped(),
            Err(Errno::PERM) if !self.is_root() => self.owner_skipped(),
            Err(error) => Err(error),
        }
    }

    fn owner_skipped(&self) -> Result<bool> {
        self.owners_skipped.fetch_add(1, Ordering::Relaxed);
        Ok(false)
    }

    fn attribute(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(Errno::OPNOTSUPP) => {}
            Err(Errno::PERM | Errno::ACCESS) if !self.is_root() => {}
            other => return other,
        }
        self.attributes_skipped.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether mode, owner and time of what exists are the snapshot's.
    pub fn is_right(&self, existing: &Existing, kind: NodeKind, meta: &Meta) -> bool {
        let owner = existing.uid == meta.uid && existing.gid == meta.gid;
        let owner_wanted = self.ownership == Ownership::Restore && self.is_root();
        (owner || !owner_wanted)
            && (kind == NodeKind::Symlink || existing.mode == allowed_mode(meta, owner))
            && existing.mtime == meta.mtime
            && existing.same_rest
    }
}

/// Whether a name of the target has exactly these extended attributes; asked without opening it.
pub(super) fn has_xattrs(dir: BorrowedFd<'_>, name: &[u8], wanted: &[Xattr]) -> Result<bool> {
    let path = magic_path_in(dir, name);
    let names = match read_names(&mut |buffer| rustix::fs::llistxattr(&path, buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(error) => return Err(error),
    };
    if surplus(&names, wanted).next().is_some() {
        return Ok(false);
    }
    for xattr in wanted {
        let mut value = vec![0; xattr.value.len() + 1];
        match rustix::fs::lgetxattr(&path, xattr.name.as_str(), &mut value[..]) {
            Ok(length) if value[..length] == xattr.value => {}
            Ok(_) | Err(Errno::NODATA | Errno::RANGE | Errno::OPNOTSUPP) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads a list of names, each ended by a NUL.
fn read_names(list: &mut dyn FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    // The kernel's limit for a list of names.
    const NAMES_BYTES_MAX: usize = 64 << 10;
    let mut few = [0; 256];
    match list(&mut few) {
        Ok(length) => Ok(few[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut names = vec![0; NAMES_BYTES_MAX];
            let length = list(&mut names)?;
            names.truncate(length);
            Ok(names)
        }
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Attributes that exist and are not wanted; `security.` ones belong to the system's policy and stay.
fn surplus<'a>(names: &'a [u8], wanted: &'a [Xattr]) -> impl Iterator<Item = String> + 'a {
    names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security."))
        .filter(|name| !wanted.iter().any(|xattr| xattr.name.as_bytes() == *name))
        .map(|name| String::from_utf8_lossy(name).into_owned())
}

/// Without its owner a program must not run as whoever owns it now.
fn allowed_mode(meta: &Meta, owned: bool) -> u32 {
    if owned { meta.mode } else { meta.mode & !0o6000 }
}

/// The number that means "no change" to the system is nobody's.
fn uid(meta: &Meta) -> Option<Uid> {
    (meta.uid != u32::MAX).then(|| Uid::from_raw(meta.uid))
}

fn gid(meta: &Meta) -> Option<Gid> {
    (meta.gid != u32::MAX).then(|| Gid::from_raw(meta.gid))
}

fn timestamps(meta: &Meta) -> Timestamps {
    let time = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.min(999_999_999).into() };
    Timestamps { last_access: time(meta.atime), last_modification: time(meta.mtime) }
}
