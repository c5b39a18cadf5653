//! Restoring a snapshot, or a part of it, to a directory.
//!
//! A [`RestorePlan`] is made first: it reads the trees, looks at what the target holds already (down to the
//! content of files that look changed) and alters nothing. [`RestorePlan::execute`] then fetches and writes
//! what differs, and only that.
//!
//! | module | what it does |
//! |---|---|
//! | `table` | the plan's directories, entries and pieces, packed |
//! | `walk` | reads trees and the target side by side, and decides |
//! | `compare` | reads files of the target and compares them piece by piece; verifies |
//! | `target` | reaches things below the target without following a link; deletes |
//! | `metadata` | modes, owners, times, extended attributes |
//! | `fetch` | reads packs in long ranges, opens the blobs |
//! | `content` | writes files |
//! | `seed` | takes what another directory has already |
//! | `execute` | the order of all that |
//! | `work` | sharing work out to threads |
//!
//! # Staying inside the target
//! Every access goes through a descriptor of the directory that holds the item, and that was opened from its
//! parent's descriptor without following links, up to the target itself. Names come from the snapshot and are
//! checked to be one path segment. A file of the target that has other hard links is replaced, never written,
//! for they may lie outside.
//!
//! # Crash
//! Directories get their modes and times last, files their time after their content: an interrupted restore
//! leaves files that differ in size or time from the snapshot's, and a second run finishes them. It does not
//! leave them under another name, so that what was written is not written again. After a power cut a file may
//! have its time and lack its content unless [`Fsync`] had come to an end; [`Overwrite::Always`] finds that.

mod compare;
mod content;
mod execute;
mod fetch;
mod metadata;
mod seed;
mod table;
mod target;
mod walk;
mod work;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::filter::Patterns;
use crate::format::{BlobKind, Node, NodeKind, parse_tree};
use crate::{BlobReader, Context, Error, Id, Index, Repository, Result};

use table::{Step, Tables};

/// What is done about files that the target has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// A file with the snapshot's size and modification time is taken to be the same; of others, what differs
    /// is written.
    #[default]
    Changed,
    /// The content of every file is compared; what differs is written.
    Always,
    /// Like `Changed`, for files that are older than the snapshot's.
    IfNewer,
    /// What exists stays.
    Never,
}

/// Whether owners are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// By number; where the process may not, the report counts it.
    #[default]
    Restore,
    /// Everything belongs to whoever restores.
    Skip,
}

/// What is made durable before the restore ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// Nothing: the system writes it back when it likes.
    None,
    /// Every file and directory by itself.
    Files,
    /// The target's whole file system, once at the end.
    #[default]
    Syncfs,
}

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// When there are any, only what they choose is restored. Paths begin with `/` at what is restored.
    pub include: Patterns,
    /// What they choose is not restored.
    pub exclude: Patterns,
    /// What is done about files that exist.
    pub overwrite: Overwrite,
    /// Removes what the target's directories hold and the snapshot's do not.
    pub delete: bool,
    /// Leaves holes where there are long runs of zeros.
    pub sparse: bool,
    /// Reads every restored file again and compares it with the snapshot.
    pub verify: bool,
    /// Whether owners are set.
    pub ownership: Ownership,
    /// What is made durable.
    pub fsync: Fsync,
    /// An older copy of what is restored, such as the directory whose place it is to take: what of the content is there, at the
    /// same paths, is hashed and taken from there instead of from the repository. Only read. With
    /// [`RestorePlan::to_exact_path`] it stands for the target itself.
    pub seed: Option<PathBuf>,
    /// Threads that open and write; as many as there are processors when not given.
    pub threads: Option<usize>,
}

/// What is to be restored: a directory's content, or one entry by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Subtree {
    /// The content of the directory with this tree.
    Dir(Id),
    /// One entry, under the name that its node has; a directory with its own mode, owner and times.
    Entry(Box<Node>),
}

/// Finds what lies at `path` below `tree`; `/` is the tree itself.
pub fn find_subtree(reader: &BlobReader<'_>, tree: Id, path: &Path) -> Result<Subtree> {
    let bytes = path.as_os_str().as_bytes();
    let mut segments = bytes.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let mut current = tree;
    let missing = || Error::NoSuchSnapshot(format!("the snapshot has no {}", path.display()));
    while let Some(name) = segments.next() {
        let nodes = read_tree(reader, &current)?;
        let node = nodes.into_iter().find(|node| node.name == name).ok_or_else(missing)?;
        match (node.kind, node.subtree) {
            (NodeKind::Dir, Some(subtree)) => current = subtree,
            (NodeKind::Dir, None) => {
                return Err(Error::damaged(format!("directory {}", path.display()), "it has no tree"));
            }
            _ if segments.next().is_none() => return Ok(Subtree::Entry(Box::new(node))),
            _ => return Err(missing()),
        }
    }
    Ok(Subtree::Dir(current))
}

fn read_tree(reader: &BlobReader<'_>, id: &Id) -> Result<Vec<Node>> {
    let bytes = reader.read(BlobKind::Tree, id)?;
    parse_tree(&bytes).map_err(|error| Error::damaged(format!("tree {id}"), error))
}

/// Something that could not be restored as the snapshot has it.
#[derive(Debug)]
pub struct RestoreProblem {
    /// The item, at the target.
    pub path: PathBuf,
    /// What went wrong.
    pub error: Error,
}

/// What is done, or was found, at one path of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is not there and is made.
    Create,
    /// It is there and what differs is written.
    Update,
    /// Something else is there and gives way.
    Replace,
    /// It is there; mode, owner, times or attributes differ and are set.
    SetMetadata,
    /// It is as it should be.
    Unchanged,
    /// It differs and is left as it is, as [`Overwrite`] asks.
    Keep,
    /// It is not in the snapshot and is removed.
    Delete,
    /// It is of a kind that is never restored: a socket.
    Skip,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedAction {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub action: Action,
    /// The kind of what the snapshot has there; `None` for what is deleted.
    pub kind: Option<NodeKind>,
    /// Bytes of content that will be written.
    pub bytes: u64,
}

/// A plan in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreTotals {
    /// Regular files to make anew, hard links among them.
    pub files_create: u64,
    /// Regular files to change: content or metadata.
    pub files_update: u64,
    /// Regular files that are as they should be.
    pub files_unchanged: u64,
    /// Files and others that differ and are kept.
    pub kept: u64,
    /// Directories to make.
    pub dirs_create: u64,
    /// Directories that are there.
    pub dirs_existing: u64,
    /// Symbolic links, devices and pipes to make.
    pub others_create: u64,
    /// Symbolic links, devices and pipes that are as they should be but for metadata.
    pub others_unchanged: u64,
    /// Things to delete.
    pub delete: u64,
    /// Bytes of all files that the plan covers.
    pub bytes: u64,
    /// Bytes to read from the repository.
    pub bytes_fetch: u64,
    /// Bytes to write into files.
    pub bytes_write: u64,
}

/// What a restore will do; plain data until it is executed.
pub struct RestorePlan<'a> {
    repository: &'a Repository,
    index: &'a Index,
    target: PathBuf,
    options: RestoreOptions,
    /// One entry is restored, whose name all paths begin with.
    is_entry: bool,
    tables: Tables,
    /// Pieces to fetch, in the order of packs and offsets.
    uses: Vec<u32>,
    /// Removed before anything is made, because it is in the way; relative to the target.
    in_the_way: Vec<PathBuf>,
    /// Removed at the end; relative to the target.
    deletes: Vec<PathBuf>,
    problems: Vec<RestoreProblem>,
    totals: RestoreTotals,
}

/// What a restore did.
#[derive(Debug, Default)]
pub struct RestoreReport {
    /// Files whose content was written, and hard links made.
    pub files_restored: u64,
    /// Files that needed no content.
    pub files_unchanged: u64,
    /// Directories, symbolic links, devices and pipes made.
    pub others_restored: u64,
    /// Bytes written into files.
    pub bytes_written: u64,
    /// Bytes read from the repository.
    pub bytes_fetched: u64,
    /// Bytes of what was written that came from the seed.
    pub bytes_taken: u64,
    /// Things deleted.
    pub deleted: u64,
    /// Things not deleted, because there were problems: what they are is in the plan.
    pub deletions_withheld: u64,
    /// Files read again and found right.
    pub files_verified: u64,
    /// Items whose owner could not be set because the process may not.
    pub owners_skipped: u64,
    /// Extended attributes that could not be set because the process may not or the file system has none.
    pub attributes_skipped: u64,
    /// Sockets, which are never made.
    pub sockets_skipped: u64,
    /// What could not be restored; the restore is complete only when this is empty.
    pub problems: Vec<RestoreProblem>,
}

/// Ends the name of a file of which parts could not be read.
pub const INCOMPLETE_SUFFIX: &str = ".lifeboat-incomplete";

impl<'a> RestorePlan<'a> {
    /// Reads the trees, looks at the target and decides; changes nothing.
    ///
    /// Fails when the repository cannot be read as such, when `target` is no directory, and with
    /// [`Error::Refused`] when `delete` is asked for with the root directory as target and nothing chosen.
    /// A damaged tree or a missing blob is a problem of its directory or file.
    pub fn new(
        repository: &'a Repository,
        index: &'a Index,
        source: &Subtree,
        target: &Path,
        options: RestoreOptions,
        context: Context<'_>,
    ) -> Result<Self> {
        walk::plan(repository, index, source, target, options, context)
    }

    /// Plans to restore one entry, whatever its kind, to exactly the path `target`, whose name may be another.
    ///
    /// Directories above `target` are made when they are missing, and a link among them is followed. Nothing but
    /// `target` and what is below it is written: a link at `target` itself gives way and is never followed, and
    /// what lies beside it stays, also with [`RestoreOptions::delete`]. Patterns of the options begin with `/` and the
    /// name of `target`. Fails like [`new`](Self::new), and with [`Error::Refused`] when `target` does not end in a
    /// name.
    pub fn to_exact_path(
        repository: &'a Repository,
        index: &'a Index,
        entry: Node,
        target: &Path,
        options: RestoreOptions,
        context: Context<'_>,
    ) -> Result<Self> {
        let refuse = || Error::Refused(format!("{} does not end in a name to restore to", target.display()));
        let name = target.file_name().ok_or_else(refuse)?.as_bytes().to_vec();
        let above = match target.parent() {
            Some(above) if above.as_os_str().is_empty() => Path::new("."),
            above => above.ok_or_else(refuse)?,
        };
        let source = Subtree::Entry(Box::new(Node { name, ..entry }));
        Self::new(repository, index, &source, above, options, context)
    }

    /// The plan in numbers.
    pub fn totals(&self) -> RestoreTotals {
        self.totals
    }

    /// What is known already not to be restorable.
    pub fn problems(&self) -> &[RestoreProblem] {
        &self.problems
    }

    /// What will be done at every path: what is removed first, then directories, then everything else, then
    /// what is removed at the end.
    pub fn actions(&self) -> impl Iterator<Item = PlannedAction> + '_ {
        let removal = |path: &PathBuf| PlannedAction {
            path: self.target.join(path),
            action: Action::Delete,
            kind: None,
            bytes: 0,
        };
        let dirs = self.tables.dirs.iter().enumerate().skip(1).filter_map(|(number, dir)| {
            let path = self.target.join(self.tables.dir_path(number as u32));
            let action = action_of(dir.step)?;
            Some(PlannedAction { path, action, kind: Some(NodeKind::Dir), bytes: 0 })
        });
        let entries = self.tables.entries.iter().filter_map(|entry| {
            let path = self.target.join(self.tables.entry_path(entry));
            let action = action_of(entry.step)?;
            let bytes = if entry.kind == NodeKind::File { self.tables.bytes_to_write(entry) } else { 0 };
            Some(PlannedAction { path, action, kind: Some(entry.kind), bytes })
        });
        let first = self.in_the_way.iter().map(removal);
        first.chain(dirs).chain(entries).chain(self.deletes.iter().map(removal))
    }

    /// Does it.
    ///
    /// Writes in this order: what is in the way is removed; directories are made, top down; links, devices,
    /// pipes and empty files; file contents in the order of packs, each file finished when its last byte is
    /// in; hard links; what the snapshot does not have is removed, unless there were problems; directories get
    /// their metadata, bottom up; the file system is synced. A crash at any point leaves a target that a
    /// second run completes.
    ///
    /// Fails only when nothing more can be done: the disk is full, the store is gone, the caller asked to
    /// stop. What fails at one item is in the report.
    pub fn execute(self, context: Context<'_>) -> Result<RestoreReport> {
        self.execute_telling(context, || {})
    }

    /// The same; tells by `written` when all is written and only the last sync is waited for, which leaves the processors
    /// to others.
    pub fn execute_telling(self, context: Context<'_>, written: impl FnOnce()) -> Result<RestoreReport> {
        execute::execute(self, context, written)
    }
}

/// Restores what the snapshot with the tree `tree` has at `path` to exactly the path `target`.
///
/// The one call for [`find_entry`](crate::find_entry), [`RestorePlan::to_exact_path`] and [`RestorePlan::execute`], which say how it
/// fails. The restore is complete only when the report has no problems.
pub fn restore_to(
    repository: &Repository,
    index: &Index,
    (tree, path): (Id, &Path),
    target: &Path,
    options: RestoreOptions,
    context: Context<'_>,
) -> Result<RestoreReport> {
    let entry = crate::find_entry(&BlobReader::new(repository, index), tree, path)?;
    RestorePlan::to_exact_path(repository, index, entry, target, options, context)?.execute(context)
}

fn action_of(step: Step) -> Option<Action> {
    Some(match step {
        Step::Create => Action::Create,
        Step::Update => Action::Update,
        Step::Replace => Action::Replace,
        Step::SetMetadata => Action::SetMetadata,
        Step::Unchanged => Action::Unchanged,
        Step::Keep => Action::Keep,
        Step::Skip => Action::Skip,
        Step::Compare | Step::Omit => return None,
    })
}

impl std::fmt::Debug for RestorePlan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RestorePlan(to {}, {:?})", self.target.display(), self.totals)
    }
}
