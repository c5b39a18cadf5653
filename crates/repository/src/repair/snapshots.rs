//! Repairing snapshots: where files or directories are lost for good, new snapshots are written without them.
//!
//! A file that lost some of its blobs keeps the others, under a name that ends in `.repaired`, so that nobody takes it
//! for the whole file; one that lost all is left out, and so is a directory that cannot be read. The plan says
//! so of each. The new snapshot has the tag `repaired` and names the old one as its `original`; the old one stays
//! unless it is to be forgotten.
//!
//! # Order of writes, and what a crash leaves
//! 1. Packs with the new trees, and their index. *Blobs that nothing needs.*
//! 2. The new snapshots. *Both the new and the old ones.*
//! 3. The old snapshots are removed, if that was asked for.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::event::{Event, Task};
use crate::format::{BlobKind, Node, NodeKind, Snapshot, TreeBuilder};
use crate::parallel::remove_all;
use crate::trees::{BlobSet, load_tree};
use crate::{
    BlobReader, BlobWriter, Context, Error, FileKind, Id, Index, Lock, LockOptions, Repository, Result,
    Sealer, SnapshotEntry, WriterOptions,
};

/// How snapshots are repaired.
#[derive(Debug, Clone, Default)]
pub struct RepairSnapshotsOptions {
    /// Which; all when empty.
    pub snapshots: Vec<Id>,
    /// Remove the snapshots that were repaired, those of which nothing is left, and those that cannot be read.
    pub forget: bool,
    /// Intervals of the lock.
    pub lock: LockOptions,
}

/// Something that a snapshot loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Where it was.
    pub path: PathBuf,
    /// What is lost of it.
    pub kind: LossKind,
}

/// What is lost of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossKind {
    /// The whole directory, and why.
    Directory(String),
    /// The whole file.
    File,
    /// Parts of the file; the rest is kept under another name.
    Parts {
        /// How many of its blobs are lost.
        blobs_lost: usize,
        /// The size that the file had.
        bytes_before: u64,
        /// The bytes that are left.
        bytes_left: u64,
        /// The new name, in the same directory.
        kept_as: PathBuf,
    },
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRepair {
    /// The snapshot.
    pub entry: SnapshotEntry,
    /// Everything that it loses.
    pub losses: Vec<Loss>,
    /// The tree of the new snapshot; `None` when nothing is left.
    pub tree: Option<Id>,
}

/// Which snapshots would be rewritten, and what they lose; nothing has changed yet.
#[derive(Debug)]
pub struct RepairSnapshotsPlan {
    /// The snapshots that lose something.
    pub repairs: Vec<SnapshotRepair>,
    /// The snapshots that cannot be read at all, and why.
    pub unreadable: Vec<(Id, String)>,
    repository: Repository,
    lock: Lock,
    index: Arc<Index>,
    forget: bool,
}

/// What a repair of snapshots did.
#[derive(Debug, Default)]
pub struct RepairSnapshotsReport {
    /// The old and the new names of those rewritten.
    pub rewritten: Vec<(Id, Id)>,
    /// Those removed.
    pub removed: Vec<Id>,
    /// Those that could not be removed, and why.
    pub failed: Vec<(Id, Error)>,
}

/// Finds what every snapshot lost.
///
/// Lost is what no index lists, or what lies in a pack that is not there. Damaged packs are to be salvaged before, which
/// takes what cannot be read of them out of the index.
pub fn plan_repair_snapshots(
    repository: &Repository,
    options: &RepairSnapshotsOptions,
    context: Context<'_>,
) -> Result<RepairSnapshotsPlan> {
    let lock = Lock::exclusive(repository, options.lock)?;
    let (entries, failures) = repository.snapshots_tolerant()?;
    let wanted = |id: &Id| options.snapshots.is_empty() || options.snapshots.contains(id);
    let unreadable = failures.into_iter().filter(|(id, _)| wanted(id));
    let unreadable = unreadable.map(|(id, error)| (id, error.to_string())).collect();
    let index = Arc::new(super::load_sound_index(repository, context)?);
    let mut repairs = Vec::new();
    let mut rewriter = Rewriter::new(repository, &index, None)?;
    for entry in entries.into_iter().filter(|entry| wanted(&entry.id)) {
        let (tree, losses) = rewriter.rewrite(&entry.snapshot.tree, context)?;
        if !losses.is_empty() {
            repairs.push(SnapshotRepair { entry, losses, tree });
        }
    }
    drop(rewriter);
    let repository = repository.clone();
    Ok(RepairSnapshotsPlan { repairs, unreadable, repository, lock, index, forget: options.forget })
}

impl RepairSnapshotsPlan {
    /// Whether no snapshot lost anything.
    pub fn is_empty(&self) -> bool {
        self.repairs.is_empty() && self.unreadable.is_empty()
    }

    /// Writes the new snapshots, removes the old ones if that was asked for, and gives the lock back.
    pub fn execute(self, context: Context<'_>) -> Result<RepairSnapshotsReport> {
        let mut report = RepairSnapshotsReport::default();
        self.write_trees(context)?;
        for repair in &self.repairs {
            if let Some(tree) = repair.tree {
                self.lock.guard().check()?;
                let new = self.repository.save_json(FileKind::Snapshot, &repaired(&repair.entry, tree))?;
                report.rewritten.push((repair.entry.id, new));
            }
        }
        if self.forget {
            self.lock.guard().check()?;
            let repaired = self.repairs.iter().map(|repair| repair.entry.id);
            let ids: Vec<Id> = repaired.chain(self.unreadable.iter().map(|(id, _)| *id)).collect();
            context.tell(Event::Begin(Task::Delete));
            report.failed = remove_all(&self.repository, FileKind::Snapshot, &ids, context)?;
            context.tell(Event::End(Task::Delete));
            report.removed = ids;
            report.removed.retain(|id| report.failed.iter().all(|(other, _)| other != id));
        }
        self.lock.release()?;
        Ok(report)
    }

    /// Makes the trees of the new snapshots durable.
    fn write_trees(&self, context: Context<'_>) -> Result<()> {
        if self.repairs.iter().all(|repair| repair.tree.is_none()) {
            return Ok(());
        }
        let index = Arc::clone(&self.index);
        let writer = BlobWriter::new(&self.repository, index, &self.lock, WriterOptions::default());
        let mut rewriter = Rewriter::new(&self.repository, &self.index, Some(&writer))?;
        for repair in &self.repairs {
            let (tree, _) = rewriter.rewrite(&repair.entry.snapshot.tree, context)?;
            if tree != repair.tree {
                // A pack that could be read a moment ago cannot be now, or the other way round.
                let why = "the repository changed after the repair was planned; plan it again";
                return Err(Error::Refused(why.into()));
            }
        }
        drop(rewriter);
        writer.finish().map(drop)
    }
}

fn repaired(entry: &SnapshotEntry, tree: Id) -> Snapshot {
    let mut snapshot = entry.snapshot.clone();
    snapshot.tree = tree;
    snapshot.original = Some(snapshot.original.unwrap_or(entry.id));
    // The numbers were of what the backup saw.
    snapshot.summary = None;
    if !snapshot.tags.iter().any(|tag| tag == "repaired") {
        snapshot.tags.push("repaired".into());
    }
    snapshot
}

/// Makes trees without what is lost.
struct Rewriter<'a> {
    reader: BlobReader<'a>,
    /// Whether each pack is there, by number.
    present: Vec<bool>,
    /// Trees below which nothing is lost.
    sound: BlobSet,
    writer: Option<(&'a BlobWriter, Sealer)>,
}

/// A directory while it is rewritten.
struct Open {
    tree: Id,
    nodes: std::vec::IntoIter<Node>,
    kept: Vec<Node>,
    changed: bool,
    /// The entry of this directory in its parent.
    entry: Option<Node>,
}

impl<'a> Rewriter<'a> {
    fn new(repository: &'a Repository, index: &'a Index, writer: Option<&'a BlobWriter>) -> Result<Self> {
        let packs: HashSet<Id> = repository.list(FileKind::Pack)?.into_iter().map(|(id, _)| id).collect();
        let present = (0..index.pack_count()).map(|number| packs.contains(&index.pack_id(number))).collect();
        let sound = BlobSet::new(index);
        let reader = BlobReader::new(repository, index);
        Ok(Self { reader, present, sound, writer: writer.map(|writer| (writer, writer.sealer())) })
    }

    /// Returns the tree without what is lost, `None` when it cannot be read itself, and everything lost.
    fn rewrite(&mut self, root: &Id, context: Context<'_>) -> Result<(Option<Id>, Vec<Loss>)> {
        let mut losses = Vec::new();
        let mut path = PathBuf::from("/");
        let mut open = Vec::new();
        let mut finished = None;
        if self.is_sound(root) {
            return Ok((Some(*root), losses));
        }
        self.enter(*root, None, &path, &mut open, &mut losses)?;
        while let depth @ 1.. = open.len() {
            context.check()?;
            let directory = &mut open[depth - 1];
            let Some(mut node) = directory.nodes.next() else {
                let closed = open.pop().expect("there is a last one");
                path.pop();
                finished = Some(self.close(closed, &mut open)?);
                continue;
            };
            path.push(OsStr::from_bytes(&node.name));
            match (node.kind, node.subtree) {
                (NodeKind::Dir, Some(subtree)) if !self.is_sound(&subtree) => {
                    self.enter(subtree, Some(node), &path, &mut open, &mut losses)?;
                }
                (NodeKind::Dir, None) => {
                    let kind = LossKind::Directory("it has no tree".into());
                    losses.push(Loss { path: path.clone(), kind });
                    directory.changed = true;
                }
                (NodeKind::File, _) => {
                    let loss = self.mend_file(&mut node, directory);
                    directory.changed |= loss.is_some();
                    if loss != Some(LossKind::File) {
                        directory.kept.push(node);
                    }
                    losses.extend(loss.map(|kind| Loss { path: path.clone(), kind }));
                }
                _ => directory.kept.push(node),
            }
            if open.len() == depth {
                path.pop();
            }
        }
        Ok((finished, losses))
    }

    fn is_sound(&self, tree: &Id) -> bool {
        let location = self.reader.index().find(BlobKind::Tree, tree);
        location.is_some_and(|location| self.sound.contains(location.slot))
    }

    fn enter(
        &self,
        tree: Id,
        entry: Option<Node>,
        path: &Path,
        open: &mut Vec<Open>,
        losses: &mut Vec<Loss>,
    ) -> Result<()> {
        match load_tree(&self.reader, &tree) {
            Ok(nodes) => {
                open.push(Open { tree, nodes: nodes.into_iter(), kept: Vec::new(), changed: false, entry });
            }
            Err(error) if error.is_isolated() => {
                losses.push(Loss { path: path.to_owned(), kind: LossKind::Directory(error.to_string()) });
                if let Some(parent) = open.last_mut() {
                    parent.changed = true;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives the directory's tree, new if something changed, to its parent.
    fn close(&mut self, mut closed: Open, open: &mut [Open]) -> Result<Id> {
        let mut tree = closed.tree;
        if closed.changed {
            // New names may belong elsewhere in the order.
            closed.kept.sort_by(|a, b| a.name.cmp(&b.name));
            let mut builder = TreeBuilder::new();
            for node in &closed.kept {
                builder.add(node).map_err(|error| Error::damaged(format!("tree {}", closed.tree), error))?;
            }
            let bytes = builder.finish();
            tree = Id::of(&bytes);
            if let Some((writer, sealer)) = &mut self.writer {
                writer.save(sealer, BlobKind::Tree, tree, &bytes)?;
            }
        } else if let Some(location) = self.reader.index().find(BlobKind::Tree, &tree) {
            self.sound.insert(location.slot);
        }
        if let (Some(parent), Some(mut node)) = (open.last_mut(), closed.entry) {
            parent.changed |= closed.changed;
            node.subtree = Some(tree);
            parent.kept.push(node);
        }
        Ok(tree)
    }

    /// Takes lost blobs out of a file's content, and renames it if some are left.
    fn mend_file(&self, node: &mut Node, directory: &Open) -> Option<LossKind> {
        let Some(content) = &mut node.content else { return Some(LossKind::File) };
        let before = content.len();
        let index = self.reader.index();
        let find = |id: &Id| index.find_all(BlobKind::Data, id).find(|copy| self.present[copy.pack as usize]);
        let mut bytes_left = 0;
        content.retain(|id| {
            let copy = find(id);
            bytes_left += copy.map_or(0, |copy| u64::from(copy.blob.plain_length()));
            copy.is_some()
        });
        if content.len() == before {
            return None;
        }
        if content.is_empty() {
            return Some(LossKind::File);
        }
        let blobs_lost = before - content.len();
        let bytes_before = std::mem::replace(&mut node.size, bytes_left);
        node.name = free_name(&node.name, directory);

        let kept_as = PathBuf::from(OsStr::from_bytes(&node.name));
        Some(LossKind::Parts { blobs_lost, bytes_before, bytes_left, kept_as })
    }
}

/// The name with `.repaired` behind it, and a number if an entry of the directory has that.
fn free_name(name: &[u8], directory: &Open) -> Vec<u8> {
    let taken =
        |name: &[u8]| directory.kept.iter().chain(directory.nodes.as_slice()).any(|node| node.name == name);
    let mut free = [name, b".repaired"].concat();
    let mut number = 2;
    while taken(&free) {
        free = [name, format!(".repaired-{number}").as_bytes()].concat();
        number += 1;
    }
    free
}
