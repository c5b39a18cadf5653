//! Counting what snapshots hold, in the four ways that restic counts.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use crate::format::{BlobKind, NodeKind};
use crate::trees::{BlobSet, Descend, Met, walk_in_order, walk_trees};
use crate::{BlobReader, Context, Error, Id, Repository, Result, SnapshotEntry};

/// How to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatsMode {
    /// What a restore of every snapshot would write.
    RestoreSize,
    /// Files that differ in content, once each.
    FilesByContents,
    /// The blobs of files that differ in content, once for each path.
    BlobsPerFile,
    /// The blobs as they are stored, once each.
    RawData,
}

/// What was counted; what a mode does not count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Snapshots.
    pub snapshots: u64,
    /// Files, and in the mode of restore size everything else as well.
    pub files: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes; as stored in the mode of raw data, else of the plaintext.
    pub bytes: u64,
    /// Plaintext bytes of what `bytes` counts as stored.
    pub plain_bytes: u64,
}

/// Counts `snapshots` in the way of `mode`; fails at the first tree that cannot be read. The caller holds a lock.
pub fn stats(
    repository: &Repository,
    reader: &BlobReader<'_>,
    snapshots: &[SnapshotEntry],
    mode: StatsMode,
    context: Context<'_>,
) -> Result<Stats> {
    let mut stats = match mode {
        StatsMode::RestoreSize => restore_size(reader, snapshots, context),
        StatsMode::FilesByContents => files_by_contents(repository, reader, snapshots, context),
        StatsMode::BlobsPerFile => blobs_per_file(reader, snapshots, context),
        StatsMode::RawData => raw_data(repository, reader, snapshots, context),
    }?;
    stats.snapshots = snapshots.len() as u64;
    Ok(stats)
}

fn restore_size(reader: &BlobReader<'_>, snapshots: &[SnapshotEntry], context: Context<'_>) -> Result<Stats> {
    let mut stats = Stats::default();
    for entry in snapshots {
        // Hard links are restored as such: their content counts once a snapshot.
        let mut linked = HashSet::new();
        walk_in_order(reader, &entry.snapshot.tree, context, &mut |_, met| {
            let node = readable(met)?;
            stats.files += 1;
            let counted = node.kind == NodeKind::File
                && (node.links <= 1 || linked.insert((node.device_id, node.inode)));
            if counted {
                stats.bytes += node.size;
            }
            Ok(Descend::Yes)
        })?;
    }
    Ok(stats)
}

fn files_by_contents(
    repository: &Repository,
    reader: &BlobReader<'_>,
    snapshots: &[SnapshotEntry],
    context: Context<'_>,
) -> Result<Stats> {
    let counted = Mutex::new((HashSet::new(), Stats::default()));
    let seen = BlobSet::new(reader.index());
    let roots = snapshots.iter().map(|entry| entry.snapshot.tree);
    walk_trees(repository, reader, roots, &seen, context, &|_, tree| {
        for node in tree? {
            let Some(content) = &node.content else { continue };
            let mut counted = counted.lock().expect("no holder panics");
            let (contents, stats) = &mut *counted;
            if contents.insert(content_hash(content)) {
                stats.files += 1;
                stats.bytes += node.size;
            }
        }
        Ok(())
    })?;
    Ok(counted.into_inner().expect("no holder panics").1)
}

fn blobs_per_file(
    reader: &BlobReader<'_>,
    snapshots: &[SnapshotEntry],
    context: Context<'_>,
) -> Result<Stats> {
    let mut stats = Stats::default();
    let mut contents = HashSet::new();
    let mut counted: HashSet<Id> = HashSet::new();
    for entry in snapshots {
        walk_in_order(reader, &entry.snapshot.tree, context, &mut |path, met| {
            let node = readable(met)?;
            let Some(content) = &node.content else { return Ok(Descend::Yes) };
            if !contents.insert(content_hash(content)) {
                return Ok(Descend::Yes);
            }
            let path = Id::of(path.as_os_str().as_bytes());
            // As restic counts: a path once, whatever it held.
            stats.files += u64::from(counted.insert(path));
            for id in content {
                if counted.insert(Id::of(&[path.0, id.0].concat())) {
                    let location = reader.index().find(BlobKind::Data, id);
                    let location =
                        location.ok_or_else(|| Error::Missing { what: format!("data blob {id}") })?;
                    stats.blobs += 1;
                    stats.bytes += u64::from(location.blob.plain_length());
                }
            }
            Ok(Descend::Yes)
        })?;
    }
    Ok(stats)
}

fn raw_data(
    repository: &Repository,
    reader: &BlobReader<'_>,
    snapshots: &[SnapshotEntry],
    context: Context<'_>,
) -> Result<Stats> {
    let index = reader.index();
    let used = BlobSet::new(index);
    let roots = snapshots.iter().map(|entry| entry.snapshot.tree);
    walk_trees(repository, reader, roots, &used, context, &|_, tree| {
        for id in tree?.iter().flat_map(|node| node.content.iter().flatten()) {
            let location = index.find(BlobKind::Data, id);
            used.insert(location.ok_or_else(|| Error::Missing { what: format!("data blob {id}") })?.slot);
        }
        Ok(())
    })?;
    let mut stats = Stats::default();
    for location in index.iter().filter(|location| used.contains(location.slot)) {
        stats.blobs += 1;
        stats.bytes += u64::from(location.blob.length);
        stats.plain_bytes += u64::from(location.blob.plain_length());
    }
    Ok(stats)
}

fn content_hash(content: &[Id]) -> [u8; 32] {
    let mut hash = Sha256::new();
    content.iter().for_each(|id| hash.update(id.0));
    hash.finalize().into()
}

fn readable(met: Met<'_>) -> Result<&crate::format::Node> {
    match met {
        Met::Node(node) => Ok(node),
        Met::Unreadable(error) => Err(Error::damaged("a tree", error)),
    }
}
