//! Checking a repository: that everything which snapshots need is there, and on request that every byte is right.
//!
//! A check changes nothing and does not stop at what it finds. It collects typed [`Finding`]s and names the
//! files that are hit. What can be done about them is in `repair`.
//!
//! # Concurrency
//! A shared lock: backups may go on beside it. Snapshots are listed before the index is loaded, and packs
//! after it, so that whatever a listed snapshot needs must be seen; what a backup adds meanwhile shows at most
//! as packs in no index.

mod affected;
mod finding;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::SignedDuration;

use crate::event::{Event, Task};
use crate::format::{BlobKind, Node, NodeKind, PackedBlob, trailer_bytes};
use crate::index::PacksView;
use crate::packs::PackInspector;
use crate::parallel::{in_parallel, threads_for};
use crate::trees::{BlobSet, walk_trees};
use crate::{
    BlobReader, Context, Error, FileKind, Id, Index, IndexProblem, Lock, LockOptions, Repository, Result,
    SnapshotEntry,
};

use affected::{Losses, affected};

pub use crate::packs::PackFault;
pub use affected::{AffectedSnapshot, PATHS_MAX};
pub use finding::{Finding, NodeFault, Remedy, Severity};

/// Clocks of different hosts may differ by this much before a snapshot counts as dated in the future.
pub(crate) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(10);

/// How a repository is checked.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Which packs are read.
    pub read_data: ReadData,
    /// `None` checks without a lock, for a store that cannot be written to.
    pub lock: Option<LockOptions>,
}

impl Default for CheckOptions {
    /// Reads no packs but those of trees.
    fn default() -> Self {
        Self { read_data: ReadData::None, lock: Some(LockOptions::default()) }
    }
}

/// Which packs a check reads from the first byte to the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadData {
    /// None.
    None,
    /// All.
    All,
    /// The `part`th of `of` parts, both counted from 1, as restic divides them: by the first byte of a pack's name.
    Part {
        /// Which part.
        part: u32,
        /// How many parts there are; at most 256.
        of: u32,
    },
    /// A random choice of this share of all packs.
    Percent(f64),
    /// A random choice of packs of about this many bytes.
    Bytes(u64),
}

/// What a check saw.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// Everything that is not as it should be, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// The snapshots that cannot be restored whole, and what in them is hit.
    pub affected: Vec<AffectedSnapshot>,
    /// Snapshots loaded.
    pub snapshots: u64,
    /// Different trees read.
    pub trees: u64,
    /// Blobs listed.
    pub blobs: u64,
    /// Packs listed.
    pub packs: u64,
    /// Packs read from the first byte to the last.
    pub packs_read: u64,
    /// Bytes of these packs.
    pub bytes_read: u64,
    /// Sidecar objects read: all.
    pub sidecar_objects: u64,
}

impl CheckReport {
    /// The worst severity found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(Finding::severity).max()
    }

    /// Whether something is lost or may not be restored.
    pub fn has_errors(&self) -> bool {
        self.worst() == Some(Severity::Error)
    }

    /// The packs to salvage: those with wrong bytes or a wrong size.
    pub fn damaged_packs(&self) -> Vec<Id> {
        let damaged = self.findings.iter().filter(|finding| finding.remedy() == Some(Remedy::RepairPacks));
        let mut packs: Vec<Id> = damaged
            .filter_map(|finding| match finding {
                Finding::PackDamaged { pack, .. } | Finding::PackSize { pack, .. } => Some(*pack),
                _ => None,
            })
            .collect();
        packs.sort_unstable();
        packs.dedup();
        packs
    }

    /// What helps, without repetition, in the order in which it should be done.
    pub fn remedies(&self) -> Vec<Remedy> {
        let mut remedies: Vec<_> = self.findings.iter().filter_map(Finding::remedy).collect();
        remedies.sort_unstable();
        remedies.dedup();
        remedies
    }
}

/// Checks the repository.
///
/// Fails only where the check itself cannot go on: the store is not there, or another process excludes it.
pub fn check(repository: &Repository, options: &CheckOptions, context: Context<'_>) -> Result<CheckReport> {
    options.read_data.validate()?;
    let lock = options.lock.map(|options| Lock::shared(repository, options)).transpose()?;
    let report = check_unlocked(repository, options.read_data, context)?;
    lock.map_or(Ok(()), Lock::release)?;
    Ok(report)
}

fn check_unlocked(repository: &Repository, read_data: ReadData, context: Context<'_>) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    check_keys(repository, &mut report)?;
    let snapshots = check_snapshots(repository, &mut report)?;
    check_sidecar(repository, &mut report, context)?;
    let (index, problems) = Index::load_tolerant(repository, context)?;
    report.findings.extend(problems.into_iter().map(finding_of));
    let sizes: HashMap<Id, u64> = repository.list(FileKind::Pack)?.into_iter().collect();
    let view = index.by_pack();
    let mut losses = Losses::default();
    check_packs(&index, &view, &sizes, &mut report, &mut losses);
    check_marked(repository, &index, &sizes, &mut report);
    let used = check_trees(repository, &index, &snapshots, &mut report, &mut losses, context)?;
    check_use(&index, &used, &mut report);
    read_packs(repository, &index, &view, &sizes, read_data, &mut report, &mut losses, context)?;
    drop(view);
    if !losses.is_empty() {
        let reader = BlobReader::new(repository, &index);
        report.affected = affected(&reader, &snapshots, &losses, context)?;
    }
    Ok(report)
}

fn check_keys(repository: &Repository, report: &mut CheckReport) -> Result<()> {
    for entry in repository.keys()? {
        if let Err(why) = entry.content {
            report.findings.push(Finding::KeyDamaged { id: entry.id, why });
        }
    }
    Ok(())
}

fn check_snapshots(repository: &Repository, report: &mut CheckReport) -> Result<Vec<SnapshotEntry>> {
    let (snapshots, failures) = repository.snapshots_tolerant()?;
    report.snapshots = snapshots.len() as u64;
    for (id, error) in failures {
        report.findings.push(Finding::SnapshotUnusable { id, why: error.to_string() });
    }
    for entry in &snapshots {
        if is_in_future(repository, entry.time()) {
            report.findings.push(Finding::SnapshotInFuture { id: entry.id, time: entry.time() });
        }
    }
    Ok(snapshots)
}

/// Reads every sidecar object.
fn check_sidecar(repository: &Repository, report: &mut CheckReport, context: Context<'_>) -> Result<()> {
    let names: Vec<String> = repository.sidecar_list("")?.into_iter().map(|(name, _)| name).collect();
    report.sidecar_objects = names.len() as u64;
    let findings = Mutex::new(Vec::new());
    let new_state = || ();
    in_parallel(&names, threads_for(repository), context, new_state, |(), name| {
        let why = match repository.sidecar_read(name) {
            // Listed a moment ago and gone: somebody has removed it.
            Ok(_) => return Ok(()),
            Err(Error::Damaged { why, .. }) => why,
            Err(error) if error.is_isolated() => error.to_string(),
            Err(error) => return Err(error),
        };
        let finding = Finding::SidecarDamaged { name: name.clone(), why };
        findings.lock().expect("no holder panics").push((name.clone(), finding));
        Ok(())
    })?;
    let mut findings = findings.into_inner().expect("no holder panics");
    findings.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    report.findings.extend(findings.into_iter().map(|(_, finding)| finding));
    Ok(())
}

/// Whether `time` is later than the clocks of two hosts can differ.
pub(crate) fn is_in_future(repository: &Repository, time: crate::format::Time) -> bool {
    time.to_timestamp().duration_since(repository.clock().now()) > CLOCK_TOLERANCE
}

fn finding_of(problem: IndexProblem) -> Finding {
    match problem {
        IndexProblem::Unusable { id, error } => Finding::IndexUnusable { id, why: error.to_string() },
        IndexProblem::Contradiction { pack } => Finding::IndexContradiction { pack },
        IndexProblem::Overlap { pack } => Finding::IndexOverlap { pack },
    }
}

/// The bytes that a pack of exactly these blobs has.
pub(crate) fn expected_size(blobs: &[PackedBlob]) -> u64 {
    let content: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
    content + trailer_bytes(blobs.iter().copied()) as u64
}

fn check_packs(
    index: &Index,
    view: &PacksView<'_>,
    sizes: &HashMap<Id, u64>,
    report: &mut CheckReport,
    losses: &mut Losses,
) {
    let mut listed = HashSet::new();
    for number in 0..index.pack_count() {
        let pack = index.pack_id(number);
        let blobs = view.blobs(number);
        listed.insert(pack);
        let found = sizes.get(&pack).copied();
        match found {
            None => report.findings.push(Finding::PackMissing { pack, blobs: blobs.len() }),
            Some(found) => {
                let expected = expected_size(&blobs);
                if found != expected {
                    report.findings.push(Finding::PackSize { pack, expected, found });
                }
            }
        }
        let end = found.unwrap_or(0);
        losses.add_bad(index, number, blobs.iter().filter(|blob| end < blob_end(blob)));
        if blobs.iter().any(|blob| blob.kind != blobs[0].kind) {
            report.findings.push(Finding::PackMixed { pack });
        }
    }
    report.packs = listed.len() as u64;
    report.blobs = index.len() as u64;
    let marked: HashSet<Id> = index.packs_to_delete().iter().map(|pack| pack.id).collect();
    let orphans = || sizes.iter().filter(|(id, _)| !listed.contains(id) && !marked.contains(id));
    let bytes = orphans().map(|(_, size)| size).sum();
    let mut packs: Vec<Id> = orphans().map(|(id, _)| *id).collect();
    packs.sort_unstable();
    if !packs.is_empty() {
        report.findings.push(Finding::PacksUnindexed { packs, bytes });
    }
}

fn blob_end(blob: &PackedBlob) -> u64 {
    u64::from(blob.offset) + u64::from(blob.length)
}

impl Losses {
    /// Notes that these copies in pack number `pack` cannot be read.
    fn add_bad<'a>(&mut self, index: &Index, pack: u32, blobs: impl Iterator<Item = &'a PackedBlob>) {
        for blob in blobs {
            let copies = index.find_all(blob.kind, &blob.id);
            let here = copies.filter(|copy| copy.pack == pack && copy.blob.offset == blob.offset);
            self.bad.extend(here.map(|copy| copy.slot));
        }
    }
}

fn check_marked(repository: &Repository, index: &Index, sizes: &HashMap<Id, u64>, report: &mut CheckReport) {
    let (mut packs, mut bytes) = (0, 0);
    for pack in index.packs_to_delete() {
        let Some(size) = sizes.get(&pack.id) else { continue };
        packs += 1;
        bytes += size;
        if let Some(time) = pack.time
            && is_in_future(repository, time)
        {
            report.findings.push(Finding::PackMarkedInFuture { pack: pack.id, time });
        }
    }
    if packs > 0 {
        report.findings.push(Finding::PacksMarked { packs, bytes });
    }
}

/// Reads every tree and returns the set of blobs that are needed, each by its first copy.
fn check_trees(
    repository: &Repository,
    index: &Index,
    snapshots: &[SnapshotEntry],
    report: &mut CheckReport,
    losses: &mut Losses,
    context: Context<'_>,
) -> Result<BlobSet> {
    let reader = BlobReader::new(repository, index);
    let used = BlobSet::new(index);
    let trees = AtomicU64::new(0);
    let found = Mutex::new((Vec::new(), HashSet::new(), HashSet::new()));
    let roots = snapshots.iter().map(|entry| entry.snapshot.tree);
    walk_trees(repository, &reader, roots, &used, context, &|id, tree| {
        let mut findings = Vec::new();
        let mut missing = Vec::new();
        let lost = tree.is_err();
        match tree {
            Ok(nodes) => {
                trees.fetch_add(1, Ordering::Relaxed);
                nodes.iter().for_each(|node| check_node(index, id, node, &used, &mut findings, &mut missing));
            }
            Err(error) => findings.push(Finding::TreeUnreadable { tree: *id, why: error.to_string() }),
        }
        if !findings.is_empty() || !missing.is_empty() {
            let mut found = found.lock().expect("no holder panics");
            found.0.append(&mut findings);
            found.1.extend(missing);
            if lost {
                found.2.insert(*id);
            }
        }
        Ok(())
    })?;
    report.trees = trees.into_inner();
    let (findings, data, trees) = found.into_inner().expect("no holder panics");
    losses.nodes = findings.iter().any(|finding| {
        matches!(finding, Finding::NodeInvalid { .. }) && finding.severity() == Severity::Error
    });
    report.findings.extend(findings);
    if !data.is_empty() {
        let mut blobs: Vec<Id> = data.iter().copied().collect();
        blobs.sort_unstable();
        let marked: HashSet<Id> =
            index.packs_to_delete().iter().flat_map(|pack| pack.blobs.iter().map(|blob| blob.id)).collect();
        let marked = data.intersection(&marked).count();
        report.findings.push(Finding::DataMissing { blobs, marked });
    }
    (losses.data, losses.trees) = (data, trees);
    Ok(used)
}

fn check_node(
    index: &Index,
    tree: &Id,
    node: &Node,
    used: &BlobSet,
    findings: &mut Vec<Finding>,
    missing: &mut Vec<Id>,
) {
    let mut invalid = |fault| {
        let name = String::from_utf8_lossy(&node.name).into_owned();
        findings.push(Finding::NodeInvalid { tree: *tree, name, fault });
    };
    match (node.kind, &node.content) {
        (NodeKind::File, None) => invalid(NodeFault::NoContent),
        (NodeKind::File, Some(content)) => {
            let mut content_bytes = 0u64;
            let missing_before = missing.len();
            for id in content {
                match index.find(BlobKind::Data, id) {
                    Some(location) => {
                        used.insert(location.slot);
                        content_bytes += u64::from(location.blob.plain_length());
                    }
                    None => missing.push(*id),
                }
            }
            if missing.len() == missing_before && content_bytes != node.size {
                invalid(NodeFault::Size { stated: node.size, content: content_bytes });
            }
        }
        (NodeKind::Dir, _) if node.subtree.is_none() => invalid(NodeFault::NoSubtree),
        _ => {}
    }
}

/// Counts what no snapshot needs and what is there more than once.
fn check_use(index: &Index, used: &BlobSet, report: &mut CheckReport) {
    let (mut unused, mut copies) = ((0, 0), (0, 0));
    let mut firsts: Vec<(Id, BlobKind)> = Vec::new();
    for location in index.iter() {
        let blob = &location.blob;
        // Copies follow one another; data and tree of one id, though they never occur, would too.
        if firsts.first().is_some_and(|(id, _)| *id != blob.id) {
            firsts.clear();
        }
        if firsts.contains(&(blob.id, blob.kind)) {
            copies = (copies.0 + 1, copies.1 + u64::from(blob.length));
            continue;
        }
        firsts.push((blob.id, blob.kind));
        if !used.contains(location.slot) {
            unused = (unused.0 + 1, unused.1 + u64::from(blob.length));
        }
    }
    if copies.0 > 0 {
        report.findings.push(Finding::BlobsDuplicate { blobs: copies.0, bytes: copies.1 });
    }
    if unused.0 > 0 {
        report.findings.push(Finding::BlobsUnused { blobs: unused.0, bytes: unused.1 });
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, and a struct would only name the arguments again")]
fn read_packs(
    repository: &Repository,
    index: &Index,
    view: &PacksView<'_>,
    sizes: &HashMap<Id, u64>,
    read_data: ReadData,
    report: &mut CheckReport,
    losses: &mut Losses,
    context: Context<'_>,
) -> Result<()> {
    if read_data == ReadData::None {
        return Ok(());
    }
    let packs: Vec<(u32, u64)> = (0..index.pack_count())
        .filter_map(|number| sizes.get(&index.pack_id(number)).map(|size| (number, *size)))
        .collect();
    let packs = read_data.choose(packs, |number| index.pack_id(number));
    report.packs_read = packs.len() as u64;
    report.bytes_read = packs.iter().map(|(_, size)| size).sum();
    context.tell(Event::Begin(Task::Packs));
    context.tell(Event::Expect { task: Task::Packs, items: report.packs_read, bytes: report.bytes_read });
    let damaged = Mutex::new(Vec::new());
    let new_inspector = || PackInspector::new(repository);
    in_parallel(&packs, threads_for(repository), context, new_inspector, |inspector, (number, size)| {
        let pack = index.pack_id(*number);
        let faults = inspector.inspect(&pack, *size, &view.blobs(*number))?;
        if !faults.is_empty() {
            let finding = Finding::PackDamaged { pack, faults };
            context.tell(Event::Problem { item: &format!("pack {pack}"), error: &finding.to_string() });
            damaged.lock().expect("no holder panics").push((*number, finding));
        }
        context.tell(Event::Advance { task: Task::Packs, items: 1, bytes: *size });
        Ok(())
    })?;
    context.tell(Event::End(Task::Packs));
    let mut damaged = damaged.into_inner().expect("no holder panics");
    damaged.sort_unstable_by_key(|(number, _)| *number);
    for (number, finding) in damaged {
        if let Finding::PackDamaged { faults, .. } = &finding {
            let all = view.blobs(number);
            let unreadable = faults.iter().any(|fault| matches!(fault, PackFault::Unreadable(_)));
            let bad = faults.iter().filter_map(|fault| match fault {
                PackFault::Blob { blob, .. } => Some(blob),
                _ => None,
            });
            losses.add_bad(index, number, bad.chain(if unreadable { &all[..] } else { &[] }));
        }
        report.findings.push(finding);
    }
    Ok(())
}

impl ReadData {
    fn validate(self) -> Result<()> {
        let refuse = |why: String| Err(Error::Refused(why));
        match self {
            Self::Part { part, of } if part == 0 || part > of || of > 256 => {
                refuse(format!("part {part}/{of} makes no sense: parts are counted from 1, up to 256"))
            }
            Self::Percent(percent) if !(percent > 0.0 && percent <= 100.0) => {
                refuse(format!("{percent} % is not between 0 and 100"))
            }
            _ => Ok(()),
        }
    }

    /// Chooses among packs, given by number and size.
    fn choose(self, mut packs: Vec<(u32, u64)>, pack_id: impl Fn(u32) -> Id) -> Vec<(u32, u64)> {
        match self {
            Self::None => packs.clear(),
            Self::All => {}
            Self::Part { part, of } => {
                packs.retain(|(number, _)| u32::from(pack_id(*number).0[0]) % of == part - 1);
            }
            Self::Percent(percent) => {
                let count = (packs.len() as f64 * percent / 100.0).ceil() as usize;
                shuffle(&mut packs);
                packs.truncate(count);
            }
            Self::Bytes(bytes) => {
                shuffle(&mut packs);
                let mut sum = 0;
                packs.retain(|(_, size)| {
                    let wanted = sum < bytes;
                    sum += size;
                    wanted
                });
            }
        }
        packs
    }
}

/// Brings `items` into random order, so that every check reads others.
fn shuffle<T>(items: &mut [T]) {
    for end in (1..items.len()).rev() {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the kernel's random source does not fail once it is seeded");
        items.swap(end, (u64::from_le_bytes(random) % (end as u64 + 1)) as usize);
    }
}
