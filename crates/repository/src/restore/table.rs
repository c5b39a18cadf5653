//! The plan's tables: what a restore of millions of files keeps in memory, packed.
//!
//! A directory and an entry take about 90 bytes and their name, a piece of a file 56 bytes. Directories are
//! numbered breadth first, so that a parent comes before its children and those of one depth lie together;
//! entries come in the order of their directories, and pieces in the order of their entries.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::format::{Node, NodeKind, Time, Xattr};
use crate::{Error, Id, Result};

/// What is to be done about one directory or entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    /// Same kind, other content: pieces that the target lacks are written in place.
    Update,
    /// Something else is there, or something that must not be written to; it is removed first.
    Replace,
    SetMetadata,
    Unchanged,
    Keep,
    Skip,
    /// Undecided until its content has been read.
    Compare,
    /// Takes no part: nothing below it was chosen, or it cannot be restored.
    Omit,
}

/// Where a name lies among the bytes of all names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    start: u32,
    length: u32,
}

/// What is set on an item beside its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// One more than the position in the table of extended attributes; 0 for none.
    xattrs: u32,
    pub mtime: Time,
    pub atime: Time,
}

pub(super) struct Dir {
    pub parent: u32,
    pub depth: u32,
    pub name: Name,
    pub step: Step,
    /// Whether it was chosen itself, and not only something below it.
    pub chosen: bool,
    pub tree: Option<Id>,
    pub meta: Meta,
}

impl Dir {
    /// Whether the target has it already.
    pub fn exists(&self) -> bool {
        matches!(self.step, Step::SetMetadata | Step::Unchanged)
    }
}

pub(super) struct Entry {
    pub parent: u32,
    pub name: Name,
    pub kind: NodeKind,
    pub step: Step,
    /// Bytes of a file; number of a device; bytes of a link's target, which lies behind the name.
    pub size: u64,
    pub first_piece: u32,
    pub pieces: u32,
    /// The entry that it is a hard link to, or [`NONE`].
    pub leader: u32,
    /// What the target has there, in the table of that, or [`NONE`].
    pub existing: u32,
    pub meta: Meta,
}

/// Stands for no entry.
pub(super) const NONE: u32 = u32::MAX;

impl Entry {
    pub fn piece_range(&self) -> std::ops::Range<usize> {
        self.first_piece as usize..self.first_piece as usize + self.pieces as usize
    }
}

/// One blob at one place of one file.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub id: Id,
    /// Where it begins in the file.
    pub offset: u64,
    /// The pack that it will be fetched from, and where it begins there.
    pub pack: u32,
    pub pack_offset: u32,
    /// Its sealed bytes.
    pub length: u32,
}

/// What the target has at a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Existing {
    pub kind: Option<NodeKind>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Time,
    pub device: u64,
    pub inode: u64,
    pub links: u64,
    pub rdev: u64,
    /// Whether extended attributes and a link's target are the snapshot's.
    pub same_rest: bool,
}

#[derive(Default)]
pub(super) struct Tables {
    pub dirs: Vec<Dir>,
    pub entries: Vec<Entry>,
    pub pieces: Vec<Piece>,
    pub existing: Vec<Existing>,
    /// A bit a piece: set when the target's file has it already.
    pub have: Vec<u64>,
    names: Vec<u8>,
    xattrs: Vec<Vec<Xattr>>,
}

impl Tables {
    /// Adds the target's own directory, which takes nothing from the snapshot.
    pub fn add_root(&mut self, tree: Option<Id>, exists: bool) {
        let none = Time::default();
        let meta = Meta { mode: 0, uid: 0, gid: 0, xattrs: 0, mtime: none, atime: none };
        let step = if exists { Step::Unchanged } else { Step::Create };
        let name = Name { start: 0, length: 0 };
        self.dirs.push(Dir { parent: 0, depth: 0, name, step, chosen: false, tree, meta });
    }

    pub fn add_dir(&mut self, parent: u32, node: &mut Node, step: Step, chosen: bool) -> Result<()> {
        let name = self.add_name(&node.name, &[])?;
        let meta = self.add_meta(node)?;
        let depth = self.dirs[parent as usize].depth + 1;
        checked(self.dirs.len())?;
        self.dirs.push(Dir { parent, depth, name, step, chosen, tree: node.subtree, meta });
        Ok(())
    }

    /// Adds an entry; a file's pieces are added right behind it.
    pub fn add_entry(&mut self, parent: u32, node: &mut Node, step: Step, size: u64) -> Result<u32> {
        let target: &[u8] = if node.kind == NodeKind::Symlink { &node.link_target } else { &[] };
        let entry = Entry {
            parent,
            name: self.add_name(&node.name, target)?,
            kind: node.kind,
            step,
            size: if node.kind == NodeKind::Symlink { target.len() as u64 } else { size },
            first_piece: checked(self.pieces.len())?,
            pieces: 0,
            leader: NONE,
            existing: NONE,
            meta: self.add_meta(node)?,
        };
        let number = checked(self.entries.len())?;
        self.entries.push(entry);
        Ok(number)
    }

    fn add_name(&mut self, name: &[u8], behind: &[u8]) -> Result<Name> {
        let start = checked(self.names.len())?;
        self.names.extend_from_slice(name);
        self.names.extend_from_slice(behind);
        checked(self.names.len())?;
        Ok(Name { start, length: checked(name.len())? })
    }

    fn add_meta(&mut self, node: &mut Node) -> Result<Meta> {
        let mut xattrs = 0;
        if !node.xattrs.is_empty() {
            self.xattrs.push(std::mem::take(&mut node.xattrs));
            xattrs = checked(self.xattrs.len())?;
        }
        Ok(Meta { xattrs, ..meta_of(node) })
    }

    /// Adds the pieces of the entry that was added last.
    pub fn add_pieces(&mut self, entry: u32, pieces: &[Piece]) -> Result<()> {
        self.pieces.extend_from_slice(pieces);
        checked(self.pieces.len())?;
        self.entries[entry as usize].pieces = checked(pieces.len())?;
        Ok(())
    }

    pub fn name(&self, name: Name) -> &[u8] {
        &self.names[name.start as usize..name.start as usize + name.length as usize]
    }

    pub fn link_target(&self, entry: &Entry) -> &[u8] {
        let start = entry.name.start as usize + entry.name.length as usize;
        &self.names[start..start + entry.size as usize]
    }

    pub fn xattrs(&self, meta: &Meta) -> &[Xattr] {
        match meta.xattrs {
            0 => &[],
            number => &self.xattrs[number as usize - 1],
        }
    }

    /// The path of a directory, relative to the target.
    pub fn dir_path(&self, number: u32) -> PathBuf {
        let mut chain = Vec::new();
        let mut current = number;
        while current != 0 {
            let dir = &self.dirs[current as usize];
            chain.push(dir.name);
            current = dir.parent;
        }
        chain.iter().rev().map(|name| OsStr::from_bytes(self.name(*name))).collect()
    }

    /// The path of an entry, relative to the target.
    pub fn entry_path(&self, entry: &Entry) -> PathBuf {
        let mut path = self.dir_path(entry.parent);
        path.push(OsStr::from_bytes(self.name(entry.name)));
        path
    }

    /// The entry that has the piece.
    pub fn entry_of(&self, piece: u32) -> u32 {
        (self.entries.partition_point(|entry| entry.first_piece <= piece) - 1) as u32
    }

    /// Bytes of a piece of `entry`.
    pub fn piece_bytes(&self, entry: &Entry, piece: u32) -> u64 {
        let next = piece + 1;
        let end = if next < entry.first_piece + entry.pieces {
            self.pieces[next as usize].offset
        } else {
            entry.size
        };
        end - self.pieces[piece as usize].offset
    }

    /// Whether the file's pieces are to be written by this plan.
    pub fn writes_content(&self, entry: &Entry) -> bool {
        entry.kind == NodeKind::File
            && entry.leader == NONE
            && matches!(entry.step, Step::Create | Step::Update | Step::Replace)
    }

    /// Whether a piece of an entry that gets content is to be fetched and written.
    pub fn wants(&self, entry: &Entry, piece: u32) -> bool {
        entry.step != Step::Update || !self.has(piece)
    }

    /// Whether the target's file has the piece already.
    pub fn has(&self, piece: u32) -> bool {
        self.have.get(piece as usize / 64).is_some_and(|bits| bits >> (piece % 64) & 1 == 1)
    }

    pub fn bytes_to_write(&self, entry: &Entry) -> u64 {
        if !self.writes_content(entry) {
            return 0;
        }
        let pieces = entry.first_piece..entry.first_piece + entry.pieces;
        pieces.filter(|piece| self.wants(entry, *piece)).map(|piece| self.piece_bytes(entry, piece)).sum()
    }
}

/// What a node says beside its content and its extended attributes.
pub(super) fn meta_of(node: &Node) -> Meta {
    let Node { uid, gid, mtime, atime, .. } = *node;
    Meta { mode: node.permissions(), uid, gid, xattrs: 0, mtime, atime }
}

fn checked(number: usize) -> Result<u32> {
    match u32::try_from(number) {
        Ok(number) if number != NONE => Ok(number),
        _ => Err(Error::Refused("the snapshot is too large to restore at once; choose a part of it".into())),
    }
}
