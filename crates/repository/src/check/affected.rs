//! Whom a loss hits: the files and directories of every snapshot that need what is gone.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::format::{BlobKind, Node, NodeKind, Time};
use crate::trees::{BlobSet, load_tree};
use crate::{BlobReader, Context, Id, Index, Result, SnapshotEntry};

/// A snapshot that cannot be restored whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AffectedSnapshot {
    /// The snapshot.
    pub id: Id,
    /// When its backup began.
    pub time: Time,
    /// The files and directories that lost something, in the snapshot's order; the first [`PATHS_MAX`] of them.
    pub paths: Vec<PathBuf>,
    /// How many files and directories lost something.
    pub count: u64,
}

/// How many paths of one snapshot are named; a report of millions helps nobody.
pub const PATHS_MAX: usize = 10_000;

/// What is lost.
#[derive(Default)]
pub(super) struct Losses {
    /// Copies of blobs that cannot be read, by slot.
    pub(super) bad: HashSet<u32>,
    /// Trees that cannot be read, whatever the reason.
    pub(super) trees: HashSet<Id>,
    /// Data blobs that no index has.
    pub(super) data: HashSet<Id>,
    /// Whether there are files without content or directories without a tree.
    pub(super) nodes: bool,
}

impl Losses {
    pub(super) fn is_empty(&self) -> bool {
        self.bad.is_empty() && self.trees.is_empty() && self.data.is_empty() && !self.nodes
    }

    fn has(&self, index: &Index, kind: BlobKind, id: &Id) -> bool {
        let mut copies = index.find_all(kind, id).peekable();
        let known = match kind {
            BlobKind::Tree => self.trees.contains(id),
            BlobKind::Data => self.data.contains(id),
        };
        known || copies.peek().is_none() || copies.all(|copy| self.bad.contains(&copy.slot))
    }
}

/// Finds what every snapshot lost.
///
/// A tree below which nothing is lost is looked at once, however many snapshots have it.
pub(super) fn affected(
    reader: &BlobReader<'_>,
    snapshots: &[SnapshotEntry],
    losses: &Losses,
    context: Context<'_>,
) -> Result<Vec<AffectedSnapshot>> {
    let sound = BlobSet::new(reader.index());
    let mut found = Vec::new();
    for entry in snapshots {
        let mut walk = Walk { reader, losses, sound: &sound, paths: Vec::new(), count: 0 };
        walk.run(entry.snapshot.tree, context)?;
        if walk.count > 0 {
            let (id, time) = (entry.id, entry.time());
            found.push(AffectedSnapshot { id, time, paths: walk.paths, count: walk.count });
        }
    }
    Ok(found)
}

struct Walk<'a> {
    reader: &'a BlobReader<'a>,
    losses: &'a Losses,
    sound: &'a BlobSet,
    paths: Vec<PathBuf>,
    count: u64,
}

struct Open {
    slot: u32,
    nodes: std::vec::IntoIter<Node>,
    count_before: u64,
}

impl Walk<'_> {
    fn run(&mut self, root: Id, context: Context<'_>) -> Result<()> {
        let mut path = PathBuf::from("/");
        let mut open = Vec::new();
        self.enter(&root, &path, &mut open)?;
        while let Some(directory) = open.last_mut() {
            context.check()?;
            let Some(node) = directory.nodes.next() else {
                if self.count == directory.count_before {
                    self.sound.insert(directory.slot);
                }
                open.pop();
                path.pop();
                continue;
            };
            path.push(OsStr::from_bytes(&node.name));
            let depth = open.len();
            if self.lost_content(&node) {
                self.report(&path);
            } else if let Some(subtree) = &node.subtree {
                self.enter(subtree, &path, &mut open)?;
            }
            if open.len() == depth {
                path.pop();
            }
        }
        Ok(())
    }

    fn enter(&mut self, tree: &Id, path: &std::path::Path, open: &mut Vec<Open>) -> Result<()> {
        let index = self.reader.index();
        let location = index.find(BlobKind::Tree, tree);
        if location.is_some_and(|location| self.sound.contains(location.slot)) {
            return Ok(());
        }
        if self.losses.has(index, BlobKind::Tree, tree) {
            self.report(path);
            return Ok(());
        }
        match (location, load_tree(self.reader, tree)) {
            (_, Err(error)) if !error.is_isolated() => return Err(error),
            (Some(location), Ok(nodes)) => {
                let nodes = nodes.into_iter();
                open.push(Open { slot: location.slot, nodes, count_before: self.count });
            }
            _ => self.report(path),
        }
        Ok(())
    }

    fn lost_content(&self, node: &Node) -> bool {
        let index = self.reader.index();
        match node.kind {
            NodeKind::File => node
                .content
                .as_ref()
                .is_none_or(|content| content.iter().any(|id| self.losses.has(index, BlobKind::Data, id))),
            NodeKind::Dir => node.subtree.is_none(),
            _ => false,
        }
    }

    fn report(&mut self, path: &std::path::Path) {
        self.count += 1;
        if self.paths.len() < PATHS_MAX {
            self.paths.push(path.to_owned());
        }
    }
}
