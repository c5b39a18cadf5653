//! Pruning: giving back the room of blobs that no snapshot needs, in two phases.
//!
//! A prune finds out what is needed, moves needed blobs out of packs that hold much else, and marks packs that
//! hold nothing needed. Only a later prune deletes what was marked long enough ago and is still unneeded; one
//! that is needed again by then is taken back. So a writer that the locks failed to keep out, or a forget that was a
//! mistake, has a day to be noticed.
//!
//! # Order of writes, and what a crash leaves
//! 1. Packs with the moved blobs, and index files that list them. *These blobs are there twice; the next
//!    prune keeps one copy of each.*
//! 2. Index files that list every pack that stays, and the marks. *The old index files say the same of all
//!    needed blobs.*
//! 3. The old index files are deleted. *Until all are, a pack may be listed as in use and as marked: it counts as in use.*
//! 4. Packs are deleted whose time is up. *Those that remain are in no index; the next prune marks them.*
//! 5. Records of recovery points whose snapshots are gone go the same way: marked, and deleted later (`points`).
//!
//! # Concurrency
//! An exclusive lock, from the planning to the end. Packs that no index lists are marked, never deleted at once: they may belong
//! to a writer whose lock was removed.
//!
//! # Refusals
//! No snapshot at all; a snapshot, tree or index file that cannot be read; a needed blob that no index has, or
//! whose every pack is missing or has the wrong size. In all of these cases pruning would make a loss final.

mod choose;
mod execute;
mod points;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::check::{Finding, is_in_future};
use crate::format::{BlobKind, IndexPack, Time};
use crate::trees::{BlobSet, walk_trees};
use crate::{
    BlobReader, Context, Error, FileKind, Id, Index, IndexProblem, Lock, LockOptions, Repository, Result,
    WriterOptions,
};

use choose::{PackUse, Uses};

pub use execute::PruneReport;

/// How to prune.
#[derive(Debug, Clone, Copy)]
pub struct PruneOptions {
    /// How much unneeded data may stay, so that less is rewritten.
    pub max_unused: MaxUnused,
    /// Rewrite no more than about this many bytes.
    pub repack_bytes_max: Option<u64>,
    /// How long a pack stays marked before it is deleted; zero deletes in this very prune, without a way back.
    pub keep_delete: Duration,
    /// Allows to prune a repository without snapshots, which deletes all data.
    pub allow_empty: bool,
    /// How new packs are made.
    pub writer: WriterOptions,
    /// Intervals of the lock.
    pub lock: LockOptions,
}

/// How much of what is stored may be unneeded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxUnused {
    /// This share of all that is stored.
    Percent(f64),
    /// This many bytes.
    Bytes(u64),
    /// Any amount: nothing is rewritten for its sake.
    Unlimited,
}

impl Default for PruneOptions {
    /// restic's 5 %, and a day between marking and deleting.
    fn default() -> Self {
        Self {
            max_unused: MaxUnused::Percent(5.0),
            repack_bytes_max: None,
            keep_delete: Duration::from_secs(24 * 60 * 60),
            allow_empty: false,
            writer: WriterOptions::default(),
            lock: LockOptions::default(),
        }
    }
}

/// So many packs with so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }
}

/// What a prune would do, as numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneSummary {
    /// Blobs that snapshots need.
    pub used_blobs: u64,
    /// Their sealed bytes.
    pub used_bytes: u64,
    /// Sealed bytes of blobs in packs in use that no snapshot needs, copies included.
    pub unused_bytes: u64,
    /// Packs that stay as they are.
    pub keep: Amount,
    /// Packs whose needed blobs are written anew; the packs themselves are marked, or deleted, with the others.
    pub repack: Amount,
    /// Bytes of the blobs that are written anew.
    pub repack_bytes: u64,
    /// Packs without a needed blob that are marked now, orphans included.
    pub mark: Amount,
    /// Of these, packs that no index lists.
    pub orphans: Amount,
    /// Marked packs that are needed again and taken back.
    pub recover: Amount,
    /// Marked packs whose time is not up.
    pub waiting: Amount,
    /// Packs that are deleted now.
    pub delete: Amount,
    /// Listed packs that are not there, and of which nothing is needed.
    pub gone: u64,
    /// Records of recovery points without a snapshot that are marked now.
    pub points_marked: u64,
    /// Of those marked before, records whose time is up, and which are deleted.
    pub points_deleted: u64,
}

/// What becomes of a pack that the index lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It stays.
    Keep,
    /// Its needed blobs are written anew, and then it goes the way of `Mark`.
    Repack,
    /// Nothing in it is needed.
    Mark,
    /// It was marked and is needed.
    Recover,
    /// It was marked and its time is not up.
    Wait,
    /// It was marked long enough ago, or no mark is wanted.
    Delete,
    /// It is not there.
    Gone,
}

/// What a prune would do; nothing has changed yet.
pub struct PrunePlan {
    /// The numbers.
    pub summary: PruneSummary,
    /// What is odd and does not keep from pruning.
    pub findings: Vec<Finding>,
    repository: Repository,
    options: PruneOptions,
    lock: Lock,
    index: Arc<Index>,
    /// The fate of every pack of the index, by number.
    fates: Vec<Fate>,
    /// The copy of every needed blob that stays.
    chosen: BlobSet,
    orphans: Vec<Id>,
    points: points::Sweep,
    now: Time,
}

/// Finds out what is needed, and plans what to do with everything else.
///
/// See the module for when it refuses.
pub fn plan_prune(
    repository: &Repository,
    options: &PruneOptions,
    context: Context<'_>,
) -> Result<PrunePlan> {
    let lock = Lock::exclusive(repository, options.lock)?;
    let now = repository.now();
    let snapshots = repository.snapshots().map_err(|error| explain(error, "repair the snapshots first"))?;
    if snapshots.is_empty() && !options.allow_empty {
        let why =
            "there is no snapshot, so all data would be deleted; nothing is pruned unless that is asked for";
        return Err(Error::Refused(why.into()));
    }
    let (index, first_marked, problems) = Index::load_with_marked(repository, context)?;
    refuse_problems(problems)?;
    let sizes: HashMap<Id, u64> = repository.list(FileKind::Pack)?.into_iter().collect();
    let used = find_used(repository, &index, snapshots.iter().map(|entry| entry.snapshot.tree), context)?;
    let (uses, chosen) = choose::choose_copies(&index, first_marked, &sizes, &used)?;
    let mut plan = PrunePlan {
        summary: PruneSummary::default(),
        findings: Vec::new(),
        repository: repository.clone(),
        options: *options,
        lock,
        fates: Vec::new(),
        chosen,
        orphans: Vec::new(),
        points: points::Sweep::plan(repository, &snapshots, options.keep_delete, now)?,
        now,
        index: Arc::new(index),
    };
    plan.fates = choose::choose_repacks(&uses, options);
    plan.settle_marked(&uses, first_marked);
    plan.settle_unneeded(first_marked);
    plan.find_orphans(&sizes);
    plan.summarize(&uses, &sizes);
    Ok(plan)
}

fn explain(error: Error, what_to_do: &str) -> Error {
    match error {
        Error::Damaged { object, why } => {
            Error::Damaged { object, why: format!("{why}; nothing is pruned: {what_to_do}") }
        }
        Error::Missing { what } => Error::Refused(format!(
            "{what} is needed and missing from the index; nothing is pruned: {what_to_do}"
        )),
        other => other,
    }
}

fn refuse_problems(problems: Vec<IndexProblem>) -> Result<()> {
    match problems.into_iter().next() {
        None => Ok(()),
        Some(IndexProblem::Unusable { error, .. }) => Err(explain(error, "repair the index first")),
        Some(problem) => Err(Error::Refused(format!("{problem}; nothing is pruned: repair the index first"))),
    }
}

/// Finds every blob that is reachable from `roots`, each by its first copy.
fn find_used(
    repository: &Repository,
    index: &Index,
    roots: impl Iterator<Item = Id>,
    context: Context<'_>,
) -> Result<BlobSet> {
    let used = BlobSet::new(index);
    let reader = BlobReader::new(repository, index);
    let missing = Mutex::new(Vec::new());
    walk_trees(repository, &reader, roots, &used, context, &|_, tree| {
        let nodes = tree.map_err(|error| explain(error, "repair index and snapshots first"))?;
        for id in nodes.iter().flat_map(|node| node.content.iter().flatten()) {
            match index.find(BlobKind::Data, id) {
                Some(location) => _ = used.insert(location.slot),
                None => missing.lock().expect("no holder panics").push(*id),
            }
        }
        Ok(())
    })?;
    let missing = missing.into_inner().expect("no holder panics");
    match missing.first() {
        None => Ok(used),
        Some(first) => Err(Error::Refused(format!(
            "{} needed data blobs are in no index, such as {first}; nothing is pruned: repair the index, then the snapshots",
            missing.len()
        ))),
    }
}

impl PrunePlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.orphans.is_empty() && self.fates.iter().all(|fate| matches!(fate, Fate::Keep | Fate::Wait))
    }

    /// Decides about packs that an earlier prune marked.
    fn settle_marked(&mut self, uses: &Uses, first_marked: u32) {
        for (offset, pack) in self.index.packs_to_delete().iter().enumerate() {
            let number = first_marked as usize + offset;
            let PackUse { size, used_bytes, .. } = uses.packs[number];
            self.fates[number] = match pack.time {
                _ if size.is_none() => Fate::Gone,
                _ if used_bytes > 0 => Fate::Recover,
                Some(time) if is_in_future(&self.repository, time) => {
                    self.findings.push(Finding::PackMarkedInFuture { pack: pack.id, time });
                    Fate::Wait
                }
                Some(time) if self.is_due(time) => Fate::Delete,
                // Whoever marked it did not say when: the waiting begins now.
                None => Fate::Mark,
                Some(_) => Fate::Wait,
            };
        }
    }

    fn is_due(&self, marked: Time) -> bool {
        let age = self.now.to_timestamp().duration_since(marked.to_timestamp());
        std::time::Duration::try_from(age).unwrap_or_default() >= self.options.keep_delete
    }

    /// Without a time to wait, what would be marked is deleted.
    fn settle_unneeded(&mut self, first_marked: u32) {
        if !self.options.keep_delete.is_zero() {
            return;
        }
        for (number, fate) in self.fates.iter_mut().enumerate() {
            if *fate == Fate::Mark || (*fate == Fate::Wait && number >= first_marked as usize) {
                *fate = Fate::Delete;
            }
        }
    }

    fn find_orphans(&mut self, sizes: &HashMap<Id, u64>) {
        let listed: std::collections::HashSet<Id> =
            (0..self.index.pack_count()).map(|number| self.index.pack_id(number)).collect();
        self.orphans = sizes.keys().filter(|id| !listed.contains(id)).copied().collect();
        self.orphans.sort_unstable();
    }

    fn summarize(&mut self, uses: &Uses, sizes: &HashMap<Id, u64>) {
        let summary = &mut self.summary;
        (summary.used_blobs, summary.used_bytes) = (uses.used_blobs, uses.used_bytes);
        for (pack, fate) in uses.packs.iter().zip(&self.fates) {
            let bytes = pack.size.unwrap_or(0);
            match fate {
                Fate::Keep => summary.keep.add(bytes),
                Fate::Repack => {
                    summary.repack.add(bytes);
                    summary.repack_bytes += pack.used_bytes;
                }
                Fate::Mark => summary.mark.add(bytes),
                Fate::Recover => summary.recover.add(bytes),
                Fate::Wait => summary.waiting.add(bytes),
                Fate::Delete => summary.delete.add(bytes),
                Fate::Gone => summary.gone += 1,
            }
        }
        let in_use = uses.packs[..uses.first_marked].iter().filter(|pack| pack.size.is_some());
        (summary.points_marked, summary.points_deleted) = self.points.counts();
        summary.unused_bytes = in_use.map(|pack| pack.content_bytes - pack.used_bytes).sum();
        for id in &self.orphans {
            let bytes = sizes.get(id).copied().unwrap_or(0);
            summary.orphans.add(bytes);
            if self.options.keep_delete.is_zero() {
                summary.delete.add(bytes);
            } else {
                summary.mark.add(bytes);
            }
        }
    }

    /// The pack as it is listed among the marked.
    fn mark_now(&self, pack: IndexPack) -> IndexPack {
        IndexPack { time: Some(self.now), ..pack }
    }
}

impl std::fmt::Debug for PrunePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrunePlan").field("summary", &self.summary).finish_non_exhaustive()
    }
}
