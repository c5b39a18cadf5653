//! Finding files in snapshots: by name, by the time of their last change, or by a blob or pack that holds them.

use std::collections::HashSet;
use std::path::Path;

use crate::format::{BlobKind, Node, Time};
use crate::trees::{Descend, Met, walk_in_order};
use crate::{BlobReader, Context, Error, Id, Index, PatternError, Patterns, Result, SnapshotEntry};

/// What is looked for: a file that fits the patterns and the times, or one that has one of the blobs.
#[derive(Debug, Clone, Default)]
pub struct FindQuery {
    names: Patterns,
    blobs: HashSet<Id>,
    /// Last changed at this time or later.
    pub newer_than: Option<Time>,
    /// Last changed before this time.
    pub older_than: Option<Time>,
}

impl FindQuery {
    /// Looks for what the patterns choose; as always, whatever lies below a directory that fits is chosen too.
    pub fn patterns(patterns: &[&str], case_insensitive: bool) -> std::result::Result<Self, PatternError> {
        let names = Patterns::parse(patterns.iter().copied(), case_insensitive)?;
        Ok(Self { names, ..Self::default() })
    }

    /// Looks for what has one of these blobs, data or trees.
    pub fn blobs(blobs: impl IntoIterator<Item = Id>) -> Self {
        Self { blobs: blobs.into_iter().collect(), ..Self::default() }
    }

    /// Looks for what has a blob that lies in one of these packs.
    pub fn packs(index: &Index, packs: &HashSet<Id>) -> Self {
        let inside = index.iter().filter(|location| packs.contains(&index.pack_id(location.pack)));
        Self::blobs(inside.map(|location| location.blob.id))
    }

    fn matches(&self, path: &Path, node: &Node) -> Option<FoundBy> {
        let newer = self.newer_than.is_none_or(|time| node.mtime >= time);
        let older = self.older_than.is_none_or(|time| node.mtime < time);
        if !newer || !older {
            return None;
        }
        let ids = node.content.iter().flatten().chain(&node.subtree);
        if let Some(id) = ids.into_iter().find(|id| self.blobs.contains(id)) {
            let kind = if node.subtree == Some(*id) { BlobKind::Tree } else { BlobKind::Data };
            return Some(FoundBy::Blob(kind, *id));
        }
        self.names.matches(path).then_some(FoundBy::Name)
    }

    fn may_match_below(&self, dir: &Path) -> bool {
        !self.blobs.is_empty() || self.names.may_match_below(dir)
    }
}

/// What made an entry fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// Its name or path.
    Name,
    /// This blob, which it has.
    Blob(BlobKind, Id),
}

/// What [`find`] comes upon.
#[derive(Debug)]
pub enum Found<'a> {
    /// An entry that fits.
    Entry {
        /// The snapshot.
        snapshot: &'a SnapshotEntry,
        /// The path in it.
        path: &'a Path,
        /// The entry.
        node: &'a Node,
        /// What made it fit.
        by: FoundBy,
    },
    /// A directory that could not be looked into.
    Unreadable {
        /// The snapshot.
        snapshot: &'a SnapshotEntry,
        /// The path in it.
        path: &'a Path,
        /// Why not.
        error: &'a Error,
    },
}

/// Looks through `snapshots`, one after another. The caller holds a lock.
pub fn find(
    reader: &BlobReader<'_>,
    snapshots: &[SnapshotEntry],
    query: &FindQuery,
    context: Context<'_>,
    each: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    for snapshot in snapshots {
        walk_in_order(reader, &snapshot.snapshot.tree, context, &mut |path, met| {
            match met {
                Met::Unreadable(error) => each(Found::Unreadable { snapshot, path, error })?,
                Met::Node(node) => {
                    if let Some(by) = query.matches(path, node) {
                        each(Found::Entry { snapshot, path, node, by })?;
                    }
                }
            }
            Ok(if query.may_match_below(path) { Descend::Yes } else { Descend::No })
        })?;
    }
    Ok(())
}
