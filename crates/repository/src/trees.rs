//! Walking trees: every one that is reachable, once and on several threads; or one snapshot in its order.
//!
//! Memory: a bit a blob for what was seen, and the ids of trees that wait. The waiting ones are taken from the
//! end, so there are about as many as the directories on one path have subdirectories.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::event::{Event, Task};
use crate::format::{BlobKind, Node, NodeKind, parse_tree};
use crate::parallel::threads_for;
use crate::{BlobReader, Context, Error, Id, Index, Repository, Result};

/// A set of blobs of one index, a bit each; shared by threads.
pub(crate) struct BlobSet(Vec<AtomicU64>);

impl BlobSet {
    /// An empty set of blobs of `index`.
    pub(crate) fn new(index: &Index) -> Self {
        Self((0..(index.slot_count() as usize).div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Adds the blob that has this slot; `false` when it was there.
    pub(crate) fn insert(&self, slot: u32) -> bool {
        let bit = 1 << (slot % 64);
        self.0[slot as usize / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.0[slot as usize / 64].load(Ordering::Relaxed) >> (slot % 64) & 1 == 1
    }
}

/// Reads and parses one tree.
pub(crate) fn load_tree(reader: &BlobReader<'_>, id: &Id) -> Result<Vec<Node>> {
    let bytes = reader.read(BlobKind::Tree, id)?;
    parse_tree(&bytes).map_err(|error| Error::damaged(format!("tree {id}"), error))
}

/// What a walk calls with every tree, or with the reason why it cannot be read.
pub(crate) type Visit<'a> = dyn Fn(&Id, Result<Vec<Node>>) -> Result<()> + Sync + 'a;

/// Calls `visit` with every tree that is reachable from `roots` and not in `seen`, once, on several threads.
///
/// A tree that cannot be read is handed over as its error, and the walk goes on; so is one that no index has.
/// `seen` gets the first copy of every tree met.
pub(crate) fn walk_trees(
    repository: &Repository,
    reader: &BlobReader<'_>,
    roots: impl IntoIterator<Item = Id>,
    seen: &BlobSet,
    context: Context<'_>,
    visit: &Visit<'_>,
) -> Result<()> {
    let walk = Walk { reader, seen, context, visit, state: Mutex::default(), changed: Condvar::new() };
    context.tell(Event::Begin(Task::Trees));
    walk.enqueue(roots);
    std::thread::scope(|scope| {
        for _ in 0..threads_for(repository) {
            scope.spawn(|| walk.run());
        }
    });
    context.tell(Event::End(Task::Trees));
    walk.state.into_inner().expect("no holder panics").failure.map_or(Ok(()), Err)
}

struct Walk<'a> {
    reader: &'a BlobReader<'a>,
    seen: &'a BlobSet,
    context: Context<'a>,
    visit: &'a Visit<'a>,
    state: Mutex<WalkState>,
    changed: Condvar,
}

#[derive(Default)]
struct WalkState {
    waiting: Vec<Id>,
    in_work: usize,
    /// Trees without a slot, because no index has them.
    missing: HashSet<Id>,
    failure: Option<Error>,
}

impl Walk<'_> {
    fn run(&self) {
        while let Some(id) = self.next() {
            let done = self.context.check().and_then(|()| self.visit_one(&id));
            let mut state = self.lock();
            state.in_work -= 1;
            if let Err(error) = done {
                state.failure.get_or_insert(error);
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Id> {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() {
                return None;
            }
            if let Some(id) = state.waiting.pop() {
                state.in_work += 1;
                return Some(id);
            }
            if state.in_work == 0 {
                return None;
            }
            state = self.changed.wait(state).expect("no holder panics");
        }
    }

    fn visit_one(&self, id: &Id) -> Result<()> {
        let tree = match load_tree(self.reader, id) {
            Ok(nodes) => {
                self.enqueue(nodes.iter().filter_map(|node| node.subtree));
                Ok(nodes)
            }
            Err(error) if error.is_isolated() => Err(error),
            Err(error) => return Err(error),
        };
        (self.visit)(id, tree)?;
        self.context.tell(Event::Advance { task: Task::Trees, items: 1, bytes: 0 });
        Ok(())
    }

    fn enqueue(&self, trees: impl IntoIterator<Item = Id>) {
        let mut new = Vec::new();
        let mut missing = Vec::new();
        for id in trees {
            match self.reader.index().find(BlobKind::Tree, &id) {
                Some(location) if self.seen.insert(location.slot) => new.push(id),
                Some(_) => {}
                None => missing.push(id),
            }
        }
        if new.is_empty() && missing.is_empty() {
            return;
        }
        // The last is taken first: in the order of the directory, whose trees lie in a pack in that order.
        new.reverse();
        let mut state = self.lock();
        for id in missing {
            if state.missing.insert(id) {
                new.push(id);
            }
        }
        let items = new.len() as u64;
        state.waiting.append(&mut new);
        drop(state);
        self.changed.notify_all();
        self.context.tell(Event::Expect { task: Task::Trees, items, bytes: 0 });
    }

    fn lock(&self) -> MutexGuard<'_, WalkState> {
        self.state.lock().expect("no holder panics")
    }
}

/// What [`walk_in_order`] meets.
#[derive(Debug, Clone, Copy)]
pub enum Met<'a> {
    /// An entry; a directory comes before what is in it.
    Node(&'a Node),
    /// The directory, which was met before, cannot be read.
    Unreadable(&'a Error),
}

/// What to do with a directory that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// Look into it.
    Yes,
    /// Pass over what is in it.
    No,
}

/// Calls `visit` with every entry below the tree `root`, directories first, names in the order of their bytes.
///
/// Paths are absolute, as in the snapshot. A directory that cannot be read does not end the walk.
pub fn walk_in_order(
    reader: &BlobReader<'_>,
    root: &Id,
    context: Context<'_>,
    visit: &mut dyn FnMut(&Path, Met<'_>) -> Result<Descend>,
) -> Result<()> {
    let mut path = PathBuf::from("/");
    let mut open: Vec<std::vec::IntoIter<Node>> = Vec::new();
    enter(reader, root, &path, &mut open, visit)?;
    while let Some(directory) = open.last_mut() {
        context.check()?;
        let Some(node) = directory.next() else {
            open.pop();
            path.pop();
            continue;
        };
        path.push(OsStr::from_bytes(&node.name));
        let descend = visit(&path, Met::Node(&node))?;
        let depth = open.len();
        if let (Descend::Yes, NodeKind::Dir, Some(subtree)) = (descend, node.kind, &node.subtree) {
            enter(reader, subtree, &path, &mut open, visit)?;
        }
        if open.len() == depth {
            path.pop();
        }
    }
    Ok(())
}

fn enter(
    reader: &BlobReader<'_>,
    tree: &Id,
    path: &Path,
    open: &mut Vec<std::vec::IntoIter<Node>>,
    visit: &mut dyn FnMut(&Path, Met<'_>) -> Result<Descend>,
) -> Result<()> {
    match load_tree(reader, tree) {
        Ok(nodes) => open.push(nodes.into_iter()),
        Err(error) if error.is_isolated() => {
            visit(path, Met::Unreadable(&error))?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Finds the entry at `path` below `tree`, a directory as any other; its node has what a snapshot says of it.
///
/// Fails with [`Error::NoSuchSnapshot`] when there is none, and for `/`, which is no entry of anything.
pub fn find_entry(reader: &BlobReader<'_>, tree: Id, path: &Path) -> Result<Node> {
    let missing = || Error::NoSuchSnapshot(format!("the snapshot has no {}", path.display()));
    let (mut current, mut found) = (Some(tree), None);
    for name in path.components() {
        let name = match name {
            Component::Normal(name) => name.as_bytes(),
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => return Err(missing()),
        };
        let nodes = load_tree(reader, &current.ok_or_else(missing)?)?;
        let node = nodes.into_iter().find(|node| node.name == name).ok_or_else(missing)?;
        current = node.subtree;
        found = Some(node);
    }
    found
        .ok_or_else(|| Error::NoSuchSnapshot("the root of a snapshot is no entry; name what is in it".into()))
}

/// Finds the tree of the directory `path` below the tree `root`, for `SNAPSHOT:PATH`.
pub fn find_directory(reader: &BlobReader<'_>, root: Id, path: &Path) -> Result<Id> {
    let mut tree = root;
    let mut so_far = PathBuf::from("/");
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        so_far.push(name);
        let nodes = load_tree(reader, &tree)?;
        let found = nodes.into_iter().find(|node| node.name == name.as_bytes());
        tree = found.and_then(|node| node.subtree).ok_or_else(|| {
            Error::NoSuchSnapshot(format!("the snapshot has no directory {}", so_far.display()))
        })?;
    }
    Ok(tree)
}
