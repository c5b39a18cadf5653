//! Directories on their way into the repository: each is saved when its last entry is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use crate::format::{BlobKind, Node, TreeBuilder};
use crate::{Error, Id, Result, Sealer};

use super::walk::Run;

/// A directory that is being backed up.
pub(super) struct PendingDir {
    /// Its path on this machine.
    pub path: PathBuf,
    /// Whether it is listed; the upper part of the tree is not.
    listed: bool,
    /// It as it was in earlier snapshots, the nearest first.
    earlier: Vec<Earlier>,
    node: Node,
    place: Option<Place>,
    slots: Mutex<Slots>,
}

/// Where an entry's node goes: a slot of the directory above.
#[derive(Clone)]
pub(super) struct Place {
    pub directory: Arc<PendingDir>,
    pub slot: usize,
    /// The member that the entry is or lies in, by its number.
    pub member: Option<usize>,
}

/// A directory in an earlier snapshot.
pub(super) struct Earlier {
    pub tree: Id,
    pub nodes: Vec<Node>,
}

/// One entry's node, in the order of names.
pub(super) enum Slot {
    /// It is being made.
    Waiting,
    /// It is a directory that is being backed up.
    Open(Weak<PendingDir>),
    /// It is made.
    Done(Box<Node>),
    /// The entry could not be read.
    Missing,
}

struct Slots {
    entries: Vec<Slot>,
    waiting: usize,
}

impl PendingDir {
    /// Begins a directory; its entries' slots are given with [`fill`](Self::fill).
    pub fn new(
        path: PathBuf,
        listed: bool,
        earlier: Vec<Earlier>,
        node: Node,
        place: Option<Place>,
    ) -> Arc<Self> {
        let slots = Mutex::new(Slots { entries: Vec::new(), waiting: 0 });
        let directory = Arc::new(Self { path, listed, earlier, node, place, slots });
        if let Some(place) = &directory.place {
            let mut slots = place.directory.slots.lock().expect("no holder panics");
            slots.entries[place.slot] = Slot::Open(Arc::downgrade(&directory));
        }
        directory
    }

    /// Sets the slots; `true` when none of them waits, so that the caller must finish the directory.
    pub fn fill(&self, entries: Vec<Slot>) -> bool {
        let mut slots = self.slots.lock().expect("no holder panics");
        slots.waiting = entries.iter().filter(|slot| matches!(slot, Slot::Waiting)).count();
        slots.entries = entries;
        slots.waiting == 0
    }

    /// The entry `name` in the earlier snapshots, the nearest first.
    pub fn earlier(&self, name: &[u8]) -> impl Iterator<Item = &Node> {
        self.earlier.iter().filter_map(move |earlier| {
            let position = earlier.nodes.binary_search_by(|node| node.name.as_slice().cmp(name)).ok()?;
            Some(&earlier.nodes[position])
        })
    }

    /// The member that it is or lies in.
    pub fn member(&self) -> Option<usize> {
        self.place.as_ref().and_then(|place| place.member)
    }

    fn put(&self, slot: usize, node: Option<Node>) -> bool {
        let mut slots = self.slots.lock().expect("no holder panics");
        slots.entries[slot] = node.map_or(Slot::Missing, |node| Slot::Done(Box::new(node)));
        slots.waiting -= 1;
        slots.waiting == 0
    }

    fn take_nodes(&self) -> Vec<Node> {
        let entries = std::mem::take(&mut self.slots.lock().expect("no holder panics").entries);
        let done = |slot| match slot {
            Slot::Done(node) => Some(*node),
            Slot::Missing => None,
            Slot::Waiting | Slot::Open(_) => unreachable!("a directory is finished when no slot waits"),
        };
        entries.into_iter().filter_map(done).collect()
    }
}

impl Run<'_> {
    /// Puts an entry's node, or its absence, in its place, and saves every directory that this completes.
    pub(super) fn complete(&self, sealer: &mut Sealer, place: &Place, node: Option<Node>) -> Result<()> {
        if place.directory.put(place.slot, node) { self.finish(sealer, &place.directory) } else { Ok(()) }
    }

    /// Saves a directory whose entries are all there, and those above it that this completes.
    pub(super) fn finish(&self, sealer: &mut Sealer, directory: &Arc<PendingDir>) -> Result<()> {
        let mut directory = Arc::clone(directory);
        loop {
            let tree = self.save_tree(sealer, &directory)?;
            let Some(place) = directory.place.clone() else {
                self.set_root(tree);
                return Ok(());
            };
            let node = Node { subtree: Some(tree), ..directory.node.clone() };
            if !place.directory.put(place.slot, Some(node)) {
                return Ok(());
            }
            directory = place.directory;
        }
    }

    fn save_tree(&self, sealer: &mut Sealer, directory: &PendingDir) -> Result<Id> {
        let nodes = directory.take_nodes();
        let unchanged = directory.earlier.iter().find(|earlier| earlier.nodes == nodes);
        let tree = match unchanged {
            // Nodes that are equal may still have been written differently; what is there serves as well.
            Some(earlier) if self.writer.contains(BlobKind::Tree, &earlier.tree) => earlier.tree,
            _ => self.save_nodes(sealer, &directory.path, nodes.iter())?,
        };
        let is_same = directory.earlier.first().is_some_and(|earlier| earlier.tree == tree);
        if directory.listed {
            self.counts.directory(directory.member(), !directory.earlier.is_empty(), is_same);
        }
        Ok(tree)
    }

    fn save_nodes<'a>(
        &self,
        sealer: &mut Sealer,
        path: &Path,
        nodes: impl Iterator<Item = &'a Node>,
    ) -> Result<Id> {
        let mut builder = TreeBuilder::new();
        for node in nodes {
            builder
                .add(node)
                .map_err(|error| Error::io("save the tree of", path, std::io::Error::other(error)))?;
        }
        let json = builder.finish();
        let id = Id::of(&json);
        self.writer.save(sealer, BlobKind::Tree, id, &json)?;
        Ok(id)
    }

    /// Saves what is finished below `directory` so far, as the tree of a checkpoint.
    ///
    /// Without recursion: a tree may be deeper than a stack.
    pub(super) fn save_partial(&self, sealer: &mut Sealer, directory: &Arc<PendingDir>) -> Result<Id> {
        let mut above: Vec<Partial> = Vec::new();
        let mut here = Partial::of(Arc::clone(directory));
        loop {
            // A directory that its workers are saving just now has no entries left to look at; what it would hide
            // is found again by the next checkpoint or read again by the next backup.
            if let Some(directory) = here.open.pop() {
                above.push(std::mem::replace(&mut here, Partial::of(directory)));
                continue;
            }
            here.nodes.sort_by(|a, b| a.name.cmp(&b.name));
            let tree = self.save_nodes(sealer, &here.directory.path, here.nodes.iter())?;
            let Some(upper) = above.pop() else { return Ok(tree) };
            let node = Node { subtree: Some(tree), ..here.directory.node.clone() };
            here = upper;
            here.nodes.push(node);
        }
    }
}

/// A directory on its way into a checkpoint.
struct Partial {
    directory: Arc<PendingDir>,
    /// Its entries that are finished.
    nodes: Vec<Node>,
    /// Its directories that are not, and not looked at yet.
    open: Vec<Arc<PendingDir>>,
}

impl Partial {
    fn of(directory: Arc<PendingDir>) -> Self {
        let (mut nodes, mut open) = (Vec::new(), Vec::new());
        for slot in &directory.slots.lock().expect("no holder panics").entries {
            match slot {
                Slot::Done(node) => nodes.push((**node).clone()),
                Slot::Open(directory) => open.extend(directory.upgrade()),
                Slot::Waiting | Slot::Missing => {}
            }
        }
        Self { directory, nodes, open }
    }
}
