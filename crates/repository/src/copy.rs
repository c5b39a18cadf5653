//! Copying snapshots to another repository, which has other keys.
//!
//! Blobs keep their ids, for those depend on the plaintext alone, so what the target has is not copied again.
//! Each is verified, and sealed anew without being compressed again.
//!
//! # Order of writes, and what a crash leaves
//! 1. Data blobs, all of them, and their index.
//! 2. Trees, and their index. *Up to here: blobs that nothing needs, which a repeated copy does not copy again.*
//! 3. Snapshots, oldest first. *Those that arrived are whole.*
//! 4. The sidecar objects `points/<snapshot>` of these snapshots and of those that the target had already, under
//!    the new names of the snapshots. *What is missing of them, a repeated copy brings.*
//!
//! Other sidecar objects tell what happened in the source and to the source, and stay there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::event::{Event, Task};
use crate::format::{BlobKind, PackedBlob};
use crate::packs::for_each_sealed;
use crate::parallel::{in_parallel, threads_to_write};
use crate::trees::{BlobSet, walk_trees};
use crate::{
    BlobReader, BlobWriter, Context, Error, FileKind, Id, Index, Lock, LockOptions, Opener, Repository,
    Result, Sealer, SnapshotEntry, SnapshotFilter, WriterOptions, WriterTotals,
};

/// What is copied, and how.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// The snapshots by name; when empty, all that `filter` lets through.
    pub names: Vec<String>,
    /// Which snapshots are meant.
    pub filter: SnapshotFilter,
    /// How packs of the target are made.
    pub writer: WriterOptions,
    /// Intervals of both locks.
    pub lock: LockOptions,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Snapshots that were copied: the name at the source and the new one.
    pub copied: Vec<(Id, Id)>,
    /// Snapshots that the target had already, with the name there.
    pub known: Vec<(Id, Id)>,
    /// Objects `points/<snapshot>` that were copied.
    pub points: u64,
    /// What was written to the target, points not included.
    pub written: WriterTotals,
}

/// Copies snapshots from `source` to `target`.
///
/// Fails with [`Error::Refused`] when both are the same repository, and with [`Error::Damaged`] or
/// [`Error::Missing`] when a snapshot is not whole at the source.
pub fn copy(
    source: &Repository,
    target: &Repository,
    options: &CopyOptions,
    context: Context<'_>,
) -> Result<CopyReport> {
    if source.config().id == target.config().id && source.location() == target.location() {
        return Err(Error::Refused("source and target are the same repository".into()));
    }
    let source_lock = Lock::shared(source, options.lock)?;
    let target_lock = Lock::shared(target, options.lock)?;
    let mut report = CopyReport::default();
    let wanted = choose_snapshots(source, target, options, &mut report)?;
    if !wanted.is_empty() {
        let source_index = Index::load(source, context)?;
        let target_index = Arc::new(Index::load(target, context)?);
        let writer = BlobWriter::new(target, target_index, &target_lock, options.writer);
        let copier = Copier { source, target, reader: BlobReader::new(source, &source_index), writer };
        let roots = wanted.iter().map(|entry| entry.snapshot.tree);
        report.written = copier.copy_blobs(roots, context)?;
        for entry in wanted {
            target_lock.guard().check()?;
            report.copied.push((entry.id, save_snapshot(target, &entry)?));
        }
    }
    report.points = copy_points(source, target, report.copied.iter().chain(&report.known))?;
    target_lock.release()?;
    source_lock.release()?;
    Ok(report)
}

/// The directory of sidecar objects that belong to one snapshot each and are named after it.
const POINTS: &str = "points";

/// Copies the points of snapshots, given by their names here and there; one that the target has stays as it is.
fn copy_points<'a>(
    source: &Repository,
    target: &Repository,
    snapshots: impl Iterator<Item = &'a (Id, Id)>,
) -> Result<u64> {
    let names = |repository: &Repository| -> Result<HashSet<String>> {
        Ok(repository.sidecar_list(POINTS)?.into_iter().map(|(name, _)| name).collect())
    };
    let here = names(source)?;
    if here.is_empty() {
        return Ok(0);
    }
    let there = names(target)?;
    let mut copied = 0;
    for (old, new) in snapshots {
        let (old, new) = (format!("{POINTS}/{old}"), format!("{POINTS}/{new}"));
        if !here.contains(&old) || there.contains(&new) {
            continue;
        }
        if let Some(point) = source.sidecar_read(&old)? {
            target.sidecar_create(&new, &point)?;
            copied += 1;
        }
    }
    Ok(copied)
}

fn choose_snapshots(
    source: &Repository,
    target: &Repository,
    options: &CopyOptions,
    report: &mut CopyReport,
) -> Result<Vec<SnapshotEntry>> {
    let mut wanted = if options.names.is_empty() {
        let mut all = source.snapshots()?;
        all.retain(|entry| options.filter.matches(&entry.snapshot));
        all
    } else {
        let found = options.names.iter().map(|name| source.find_snapshot(name, &options.filter));
        found.collect::<Result<Vec<_>>>()?
    };
    wanted.sort_by_key(|entry| (entry.time(), entry.id));
    wanted.dedup_by_key(|entry| entry.id);
    // A repaired snapshot has the original of the one it replaces, and another tree.
    let identity = |entry: &SnapshotEntry| (entry.snapshot.original.unwrap_or(entry.id), entry.snapshot.tree);
    let there: HashMap<_, Id> = target.snapshots()?.iter().map(|entry| (identity(entry), entry.id)).collect();
    wanted.retain(|entry| match there.get(&identity(entry)) {
        Some(id) => {
            report.known.push((entry.id, *id));
            false
        }
        None => true,
    });
    Ok(wanted)
}

fn save_snapshot(target: &Repository, entry: &SnapshotEntry) -> Result<Id> {
    let mut snapshot = entry.snapshot.clone();
    snapshot.original = Some(snapshot.original.unwrap_or(entry.id));
    // The parent has another name in the target, if it is there at all.
    snapshot.parent = None;
    target.save_json(FileKind::Snapshot, &snapshot)
}

struct Copier<'a> {
    source: &'a Repository,
    target: &'a Repository,
    reader: BlobReader<'a>,
    writer: BlobWriter,
}

impl Copier<'_> {
    fn copy_blobs(self, roots: impl Iterator<Item = Id>, context: Context<'_>) -> Result<WriterTotals> {
        let needed = self.find_needed(roots, context)?;
        context.tell(Event::Begin(Task::Copy));
        for kind in [BlobKind::Data, BlobKind::Tree] {
            self.copy_kind(kind, &needed, context)?;
            // No tree is durable before everything that it names.
            self.writer.flush()?;
        }
        context.tell(Event::End(Task::Copy));
        self.writer.finish()
    }

    /// Finds the blobs that are reachable and not in the target.
    fn find_needed(&self, roots: impl Iterator<Item = Id>, context: Context<'_>) -> Result<BlobSet> {
        let index = self.reader.index();
        let (needed, seen) = (BlobSet::new(index), BlobSet::new(index));
        let need = |kind, id: &Id| {
            if self.writer.contains(kind, id) {
                return Ok(());
            }
            let location = index.find(kind, id);
            let missing = || Error::Missing { what: format!("{kind} blob {id}, which is to be copied,") };
            needed.insert(location.ok_or_else(missing)?.slot);
            Ok(())
        };
        walk_trees(self.source, &self.reader, roots, &seen, context, &|id, tree| {
            need(BlobKind::Tree, id)?;
            let nodes = tree?;
            nodes
                .iter()
                .flat_map(|node| node.content.iter().flatten())
                .try_for_each(|id| need(BlobKind::Data, id))
        })?;
        Ok(needed)
    }

    fn copy_kind(&self, kind: BlobKind, needed: &BlobSet, context: Context<'_>) -> Result<()> {
        let mut packs: HashMap<u32, Vec<PackedBlob>> = HashMap::new();
        for location in self.reader.index().iter() {
            if location.blob.kind == kind && needed.contains(location.slot) {
                packs.entry(location.pack).or_default().push(location.blob);
            }
        }
        let mut packs: Vec<(u32, Vec<PackedBlob>)> = packs.into_iter().collect();
        packs.sort_unstable_by_key(|(number, _)| *number);
        packs.iter_mut().for_each(|(_, blobs)| blobs.sort_unstable_by_key(|blob| blob.offset));
        let bytes_of = |blobs: &[PackedBlob]| blobs.iter().map(|blob| u64::from(blob.length)).sum::<u64>();
        let bytes = packs.iter().map(|(_, blobs)| bytes_of(blobs)).sum();
        let items = packs.iter().map(|(_, blobs)| blobs.len() as u64).sum();
        context.tell(Event::Expect { task: Task::Copy, items, bytes });
        in_parallel(
            &packs,
            threads_to_write(),
            context,
            || self.hand(),
            |hand, (number, blobs)| {
                hand.copy_pack(*number, blobs)?;
                let items = blobs.len() as u64;
                context.tell(Event::Advance { task: Task::Copy, items, bytes: bytes_of(blobs) });
                Ok(())
            },
        )
    }

    fn hand(&self) -> Hand<'_> {
        let opener = Opener::new(self.source.key().clone());
        Hand { copier: self, opener, sealer: self.writer.sealer(), buffer: Vec::new() }
    }
}

/// Copies pack by pack; one a thread.
struct Hand<'a> {
    copier: &'a Copier<'a>,
    opener: Opener,
    sealer: Sealer,
    buffer: Vec<u8>,
}

impl Hand<'_> {
    fn copy_pack(&mut self, number: u32, blobs: &[PackedBlob]) -> Result<()> {
        let Self { copier, opener, sealer, buffer } = self;
        let pack = copier.reader.index().pack_id(number);
        let mut damaged = Vec::new();
        let read = for_each_sealed(copier.source, &pack, blobs, buffer, &mut |blob, sealed| {
            match opener.open(blob, sealed) {
                Err(_) => damaged.push(*blob),
                Ok(plaintext) if blob.uncompressed_length == 0 => {
                    copier.writer.save(sealer, blob.kind, blob.id, plaintext)?;
                }
                Ok(_) => {
                    // Opened in place, it lies there compressed; what is verified need not be compressed again.
                    copier.target.key().seal_in_place(sealed);
                    copier.writer.save_sealed(blob, sealed)?;
                }
            }
            Ok(())
        });
        match read {
            Ok(()) => {}
            // Part of the pack cannot be read: what was not copied yet is tried one by one.
            Err(error @ Error::Store(_)) if error.is_isolated() => damaged = blobs.to_vec(),
            Err(error) => return Err(error),
        }
        for blob in damaged {
            // Tries every copy that the source has.
            let plaintext = copier.reader.read(blob.kind, &blob.id)?;
            copier.writer.save(sealer, blob.kind, blob.id, &plaintext)?;
        }
        Ok(())
    }
}
