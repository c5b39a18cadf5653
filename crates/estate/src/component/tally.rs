//! Counting a tree: in the snapshot when it is stored, on disk when it is restored, comparable with each
//! other.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// What a tree comes to: counts and two digests that do not depend on the order of the entries.
///
/// The engine fills one from the snapshot's own trees after a backup; a proof fills one from what was
/// restored. The digests are sums of the entries' SHA-256: they tell trees apart that differ by accident, not
/// by a forger's design. Contents are not in them: those the repository has verified chunk by chunk while
/// restoring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, devices, sockets, pipes.
    pub others: u64,
    /// The regular files' sizes together.
    pub bytes: u64,
    shape: Sum,
    owners: Sum,
}

/// One entry of a tree, named by its path in the snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its path in the snapshot, absolute.
    pub path: &'a Path,
    /// What it is.
    pub kind: EntryKind<'a>,
    /// Permission bits with set-uid, set-gid and sticky (`0o7777`).
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The last change of a regular file, in nanoseconds since 1970; not looked at for others.
    pub mtime_nanoseconds: i128,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A regular file of so many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(&'a Path),
    /// A device, socket or pipe.
    Special,
}

impl Tally {
    /// Counts an entry.
    pub fn add(&mut self, entry: &Entry<'_>) {
        let mut hash = Sha256::new();
        let path = entry.path.as_os_str().as_bytes();
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        let mut owner = hash.clone();
        match entry.kind {
            EntryKind::File(bytes) => {
                self.files += 1;
                self.bytes += bytes;
                hash.update(b"f");
                hash.update(bytes.to_le_bytes());
                hash.update(entry.mtime_nanoseconds.to_le_bytes());
            }
            EntryKind::Directory => {
                self.directories += 1;
                hash.update(b"d");
            }
            EntryKind::Symlink(to) => {
                self.others += 1;
                hash.update(b"l");
                hash.update(to.as_os_str().as_bytes());
            }
            EntryKind::Special => {
                self.others += 1;
                hash.update(b"s");
            }
        }
        // The permission bits of a link mean nothing and differ between systems.
        if !matches!(entry.kind, EntryKind::Symlink(_)) {
            hash.update((entry.mode & 0o7777).to_le_bytes());
        }
        owner.update(entry.uid.to_le_bytes());
        owner.update(entry.gid.to_le_bytes());
        self.shape.add(&hash.finalize().into());
        self.owners.add(&owner.finalize().into());
    }

    /// The digest over paths, kinds, sizes, permission bits, times of files and targets of links.
    pub fn shape(&self) -> String {
        self.shape.hex()
    }

    /// The digest over paths, owners and groups.
    pub fn owners(&self) -> String {
        self.owners.hex()
    }
}

/// A sum of digests in four lanes: the same for every order of the summands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum([u64; 4]);

impl Sum {
    fn add(&mut self, digest: &[u8; 32]) {
        for (lane, bytes) in self.0.iter_mut().zip(digest.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*bytes));
        }
    }

    fn hex(self) -> String {
        self.0.iter().map(|lane| format!("{lane:016x}")).collect()
    }
}
