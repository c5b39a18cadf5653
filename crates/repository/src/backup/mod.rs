//! Backing up: a walk over the sources, a comparison with the last snapshot, and new blobs for what changed.
//!
//! # How it runs
//! One pool of workers runs small tasks, the newest first: list a directory, read a file, save a chunk.
//! Depth first keeps the number of open directories near the depth of the tree. A directory is finished by
//! whichever worker finishes its last entry: its tree is saved then, and its node goes to its parent
//! (`tree`). A huge file is read by one worker that hands chunks to the others (`file`).
//!
//! # Consistency
//! The snapshot is written last, after every blob it needs is durable and indexed. An entry that could not be read
//! is left out and told as a [`SourceProblem`]; a caller must not call such a backup complete.
//!
//! # Crash
//! What was packed and indexed before is found again by the next run. So that it need not even be read
//! again, a long run writes *checkpoints*: the trees finished so far, under `lifeboat/checkpoints/`, where no other
//! program takes them for snapshots. The next backup of the same host and paths compares with them too.

mod checkpoint;
mod file;
mod members;
mod node;
mod pool;
mod select;
mod targets;
mod tree;
mod walk;

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use members::{Member, MemberContent, MemberTotals, OpenStream, Origin, StreamAttributes, ThenMembers};
pub use select::{IfPresent, Selection};

use crate::event::{Context, Event, Task};
use crate::format::{Snapshot, SnapshotSummary, Time};
use crate::lock::{Lock, LockOptions, hostname};
use crate::writer::{BlobWriter, WriterOptions};
use crate::{
    BlobReader, Error, FileKind, Id, Index, Repository, Result, SnapshotEntry, SnapshotFilter, Users,
};

/// What is backed up.
pub enum Source<'a> {
    /// Files and directories. Relative paths keep their components; absolute ones are kept whole.
    Paths(Vec<PathBuf>),
    /// One file of the name `name`, read from `reader`.
    Stream {
        /// A path for it in the snapshot.
        name: PathBuf,
        /// Its content.
        reader: Box<dyn Read + Send + 'a>,
        /// Asked at the end of the content whether its producer succeeded; the reason if not, and then no
        /// snapshot is written.
        finish: Box<dyn FnOnce() -> std::result::Result<(), String> + Send + 'a>,
    },
    /// Several things of different kinds, each at a path of the snapshot's own.
    Members(Vec<Member<'a>>),
    /// The same, and more at the places of [`MemberContent::Later`], asked for when all others have been read.
    ///
    /// For a source whose last parts exist only when the rest has been read, such as the log of a database.
    MembersThen {
        /// What is read first.
        members: Vec<Member<'a>>,
        /// Gives the rest.
        then: ThenMembers<'a>,
    },
}

/// With what a backup compares to find what has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parent {
    /// The newest snapshot of the same host and paths.
    #[default]
    Latest,
    /// This snapshot.
    Snapshot(Id),
    /// Nothing: every file is read.
    None,
}

/// How a backup is made.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// What is left out.
    pub selection: Selection,
    /// With what to compare.
    pub parent: Parent,
    /// The snapshot's time; the present when `None`.
    pub time: Option<Time>,
    /// The snapshot's host; this one when `None`.
    pub hostname: Option<String>,
    /// The snapshot's labels.
    pub tags: Vec<String>,
    /// What the snapshot says of the program.
    pub program_version: String,
    /// Keep the times of last access, which makes every read change the trees.
    pub with_atime: bool,
    /// Do not compare inode numbers, for file systems that make them up.
    pub ignore_inode: bool,
    /// Do not compare the times of the inodes' last change.
    pub ignore_ctime: bool,
    /// Reads every file that is walked, whatever its times say, and goes on from no checkpoint; streams are compared by
    /// their [`Origin`]s all the same. For what is written to while it is read.
    pub is_live: bool,
    /// Cut files into blocks of this many bytes: for files made of pages, such as a database's.
    pub block_bytes: Option<u32>,
    /// How often a long run saves the trees finished so far; every five minutes when `None`.
    pub checkpoint_every: Option<Duration>,
    /// Workers; as many as cores when `None`.
    pub threads: Option<usize>,
    /// Write nothing, only tell what would be written.
    pub dry_run: bool,
    /// How packs are made.
    pub writer: WriterOptions,
    /// How the lock is taken.
    pub lock: LockOptions,
    /// An index of this repository that was loaded before; only what is new since is read.
    pub known: Option<Arc<Index>>,
}

/// An entry of the sources that is not in the snapshot as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceProblem {
    /// Its path.
    pub path: PathBuf,
    /// What is the matter.
    pub kind: ProblemKind,
    /// The reason in words.
    pub error: String,
}

/// What is the matter with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// It could not be read and is not in the snapshot.
    Unreadable,
    /// It was listed and then gone; it is not in the snapshot.
    Vanished,
    /// It is in the snapshot, but it changed while it was read, so that its content may be of no one moment.
    Changed,
}

/// What a backup did.
#[derive(Debug, Clone)]
pub struct BackupReport {
    /// The new snapshot; its id is not stored anywhere after a dry run.
    pub snapshot: SnapshotEntry,
    /// What was found and added.
    pub summary: SnapshotSummary,
    /// What is not in the snapshot as it should be.
    pub problems: Vec<SourceProblem>,
    /// Old checkpoints that this backup could start from.
    pub resumed: bool,
    /// What of each member is in the snapshot, in the order in which the members were given.
    ///
    /// The whole content is summed up by the id of the snapshot's tree: the same id means the same bytes, names
    /// and attributes.
    pub members: Vec<MemberTotals>,
}

/// How often a long run saves the trees finished so far.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5 * 60);

/// Backs up `source` into a new snapshot.
///
/// Fails, without a snapshot, when nothing of the source could be read, when a stream's producer failed, when
/// the lock is lost, or when the repository cannot be written. An interrupted run leaves a checkpoint.
pub fn backup(
    repository: &Repository,
    source: Source<'_>,
    options: &BackupOptions,
    context: Context<'_>,
) -> Result<BackupReport> {
    // Also a dry run must not see packs vanish, so it locks the repository for real.
    let lock = Lock::shared(repository, options.lock)?;
    let dry;
    let repository = if options.dry_run {
        dry = repository.with_store(Arc::new(store::DryRun::new(Arc::clone(repository.store()))));
        &dry
    } else {
        repository
    };
    let report = backup_locked(repository, source, options, &lock, context);
    let released = lock.release();
    let report = report?;
    released?;
    Ok(report)
}

fn backup_locked(
    repository: &Repository,
    source: Source<'_>,
    options: &BackupOptions,
    lock: &Lock,
    context: Context<'_>,
) -> Result<BackupReport> {
    let start = repository.now();
    let paths = source.snapshot_paths()?;
    let host = options.hostname.clone().unwrap_or_else(hostname);
    // Snapshots before the index: what a snapshot needs is indexed before it appears.
    let parent = find_parent(repository, options.parent, &host, &paths)?;
    let resumes = if options.is_live { Parent::None } else { options.parent };
    let checkpoints = checkpoint::find(repository, resumes, &host, &paths)?;
    let index = Index::load_since(options.known.as_ref(), repository, context)?;
    let before = parent.as_ref().map(|parent| parent.snapshot.tree);
    let mut parents: Vec<Id> = checkpoints.iter().map(|(_, checkpoint)| checkpoint.tree).collect();
    parents.extend(before);

    context.tell(Event::Begin(Task::Backup));
    let writer = BlobWriter::new(repository, Arc::clone(&index), lock, options.writer);
    let users = Users::load(Path::new("/"));
    let mut snapshot = Snapshot {
        time: options.time.unwrap_or(start),
        parent: parent.map(|parent| parent.id),
        tree: Id([0; 32]),
        paths,
        hostname: host,
        username: users.user(rustix::process::getuid().as_raw()).to_owned(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        excludes: options.selection.described.clone(),
        tags: options.tags.clone(),
        original: None,
        program_version: options.program_version.clone(),
        summary: None,
    };
    let member_paths = source.member_paths();
    let run = walk::Run::new(repository, &index, &writer, options, users, parents, context)?;
    let save_checkpoint = |tree| checkpoint::save(repository, &writer, &snapshot, tree);
    let arrange = |members| {
        let reader = BlobReader::new(repository, &index);
        members::arrange(members, &members::Before { repository, reader: &reader, tree: before, context })
    };
    let saved = match source {
        Source::Paths(paths) => run.targets(targets::arrange(&paths)?, 0, None, save_checkpoint),
        Source::Stream { name, reader, finish } => run.stream(&name, reader, finish),
        Source::Members(members) => run.targets(arrange(members)?, member_paths.len(), None, save_checkpoint),
        Source::MembersThen { members, then } => {
            run.targets(arrange(members)?, member_paths.len(), Some(then), save_checkpoint)
        }
    };
    let walk::Finished { tree, counts, problems } = saved?;
    let members = member_paths.into_iter().zip(counts.members());
    let members = members.map(|(path, totals)| totals.of_member(path)).collect::<Vec<_>>();
    let totals = writer.finish()?;
    snapshot.tree = tree;
    let summary = counts.summary(start, repository.now(), totals);
    snapshot.summary = Some(summary.clone());
    context.check()?;
    lock.guard().check()?;
    let id = repository.save_json(FileKind::Snapshot, &snapshot)?;
    let resumed = !checkpoints.is_empty();
    checkpoint::remove(repository, &snapshot)?;
    context.tell(Event::End(Task::Backup));
    Ok(BackupReport { snapshot: SnapshotEntry { id, snapshot }, summary, problems, resumed, members })
}

impl Source<'_> {
    /// The absolute paths as the snapshot states them, in order and each once.
    fn snapshot_paths(&self) -> Result<Vec<String>> {
        let paths = match self {
            Self::Stream { name, .. } => vec![PathBuf::from("/").join(name)],
            Self::Members(members) | Self::MembersThen { members, .. } => outermost(members),
            Self::Paths(paths) => paths
                .iter()
                .map(|path| std::path::absolute(path).map_err(|error| Error::io("resolve", path, error)))
                .collect::<Result<_>>()?,
        };
        let mut paths: Vec<String> =
            paths.iter().map(|path| targets::clean(path).to_string_lossy().into_owned()).collect();
        paths.sort_unstable();
        paths.dedup();
        Ok(paths)
    }
}

impl Source<'_> {
    fn member_paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Members(members) | Self::MembersThen { members, .. } => {
                members.iter().map(|member| member.path.clone()).collect()
            }
            Self::Paths(_) | Self::Stream { .. } => Vec::new(),
        }
    }
}

/// The paths of the members that lie in no other one: thousands may lie in one directory.
fn outermost(members: &[Member<'_>]) -> Vec<PathBuf> {
    let paths: HashSet<&Path> = members.iter().map(|member| member.path.as_path()).collect();
    let outer = |path: &&Path| !path.ancestors().skip(1).any(|upper| paths.contains(upper));
    paths.iter().copied().filter(outer).map(Path::to_owned).collect()
}

fn find_parent(
    repository: &Repository,
    parent: Parent,
    host: &str,
    paths: &[String],
) -> Result<Option<SnapshotEntry>> {
    match parent {
        Parent::None => Ok(None),
        Parent::Snapshot(id) => {
            let snapshot = repository.load_json(FileKind::Snapshot, &id)?;
            Ok(Some(SnapshotEntry { id, snapshot }))
        }
        Parent::Latest => {
            let filter =
                SnapshotFilter { hosts: vec![host.to_owned()], paths: paths.to_vec(), ..Default::default() };
            // A snapshot that cannot be read is no parent; `check` is where it is reported.
            let (snapshots, _unreadable) = repository.snapshots_tolerant()?;
            let same = |entry: &SnapshotEntry| {
                entry.snapshot.paths.len() == paths.len() && filter.matches(&entry.snapshot)
            };
            Ok(snapshots.into_iter().rfind(same))
        }
    }
}
