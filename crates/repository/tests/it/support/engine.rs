//! Our engine with the settings that tests want: cheap keys, small packs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repository::backup::{BackupOptions, BackupReport, Source, backup as run_backup};
use repository::crypto::ScryptCost;
use repository::format::{BlobKind, Chunking, Node, NodeKind, mode_to_unix, parse_tree};
use repository::restore::{Fsync, RestoreOptions, RestorePlan, Subtree};
use repository::{BlobReader, Clock, Context, Event, Id, Index, InitOptions, Observer, Repository, Result};
use store::{Local, Memory, Store};

use super::tree::{Content, Entry, Listing};

pub const PASSWORD: &str = "secret";
/// A cost that takes a millisecond.
pub const CHEAP: ScryptCost = ScryptCost { n: 1 << 8, r: 8, p: 1 };

pub fn init_options(chunking: Chunking) -> InitOptions {
    InitOptions { chunking, polynomial: None, cost: CHEAP, author: Default::default() }
}

/// Makes a repository that cuts with the gear chunker.
pub fn init(store: Arc<dyn Store>) -> Repository {
    Repository::init(store, PASSWORD.as_bytes(), &init_options(Chunking::Gear), Clock::system()).unwrap()
}

pub fn open(store: Arc<dyn Store>) -> Repository {
    Repository::open(store, PASSWORD.as_bytes(), Clock::system()).unwrap()
}

pub fn local(path: impl Into<PathBuf>) -> Arc<dyn Store> {
    Arc::new(Local::open(path).unwrap())
}

pub fn in_memory() -> (Arc<Memory>, Repository) {
    let memory = Arc::new(Memory::new());
    (Arc::clone(&memory), init(memory))
}

/// Options of a backup by the name of a program.
pub fn options() -> BackupOptions {
    BackupOptions { program_version: "lifeboat test".into(), ..Default::default() }
}

/// Backs up with `options`, in silence.
pub fn try_backup(repository: &Repository, paths: &[&Path], options: &BackupOptions) -> Result<BackupReport> {
    let paths = paths.iter().map(|path| path.to_path_buf()).collect();
    run_backup(repository, Source::Paths(paths), options, Context::silent())
}

/// Backs up and fails the test for any problem.
pub fn backup(repository: &Repository, paths: &[&Path]) -> BackupReport {
    backup_with(repository, paths, &options())
}

/// Backs up with `options` and fails the test for any problem.
pub fn backup_with(repository: &Repository, paths: &[&Path], options: &BackupOptions) -> BackupReport {
    let report = try_backup(repository, paths, options).unwrap();
    assert_eq!(report.problems, []);
    report
}

/// Every entry of a snapshot's tree by its path within it, such as `srv/www/index.html`.
pub fn entries(repository: &Repository, tree: &Id) -> BTreeMap<PathBuf, Node> {
    let index = Index::load(repository, Context::silent()).unwrap();
    let reader = BlobReader::new(repository, &index);
    let mut entries = BTreeMap::new();
    let mut trees = vec![(PathBuf::new(), *tree)];
    while let Some((path, tree)) = trees.pop() {
        for node in parse_tree(&reader.read(BlobKind::Tree, &tree).unwrap()).unwrap() {
            let path = path.join(OsStr::from_bytes(&node.name));
            trees.extend(node.subtree.map(|subtree| (path.clone(), subtree)));
            entries.insert(path, node);
        }
    }
    entries
}

/// The tree of the directory `path` of this machine: those above it change with every other test.
pub fn tree_of(repository: &Repository, report: &BackupReport, path: &Path) -> Id {
    let mut entries = entries(repository, &report.snapshot.snapshot.tree);
    entries.remove(path.strip_prefix("/").unwrap()).unwrap().subtree.unwrap()
}

/// The entries below the directory `path` of this machine, by their paths relative to it.
pub fn entries_below(repository: &Repository, tree: &Id, path: &Path) -> BTreeMap<PathBuf, Node> {
    let top = path.strip_prefix("/").unwrap_or(path);
    entries(repository, tree)
        .into_iter()
        .filter_map(|(path, node)| Some((path.strip_prefix(top).ok()?.to_path_buf(), node)))
        .filter(|(path, _)| !path.as_os_str().is_empty())
        .collect()
}

/// The same, only the names.
pub fn names_below(repository: &Repository, tree: &Id, path: &Path) -> Vec<String> {
    let entries = entries_below(repository, tree, path);
    entries.keys().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// The content of a file as the repository has it.
pub fn content(repository: &Repository, node: &Node) -> Vec<u8> {
    assert_eq!(node.kind, NodeKind::File);
    let index = Index::load(repository, Context::silent()).unwrap();
    let reader = BlobReader::new(repository, &index);
    let blobs = node.content.as_ref().unwrap();
    blobs.iter().flat_map(|id| reader.read(BlobKind::Data, id).unwrap()).collect()
}

/// Writes what is in `memory` into a directory, for restic.
pub fn write_out(memory: &Memory, directory: &Path) {
    for folder in ["data", "index", "keys", "locks", "snapshots"] {
        std::fs::create_dir_all(directory.join(folder)).unwrap();
    }
    for (key, data) in memory.contents() {
        let path = directory.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
}

/// Every object of a store with its SHA-256, to see whether anything has changed.
pub fn digest(store: &dyn Store) -> BTreeMap<String, Id> {
    let mut digest = BTreeMap::new();
    store
        .list("", &mut |object| {
            digest.insert(object.key.clone(), Id([0; 32]));
            Ok(())
        })
        .unwrap();
    for (key, id) in &mut digest {
        *id = Id::of(&store.get(key).unwrap());
    }
    digest
}

/// What a snapshot holds at and below the directory `path` of this machine, as it would be there.
pub fn listing(repository: &Repository, tree: &Id, path: &Path) -> Listing {
    let index = Index::load(repository, Context::silent()).unwrap();
    let reader = BlobReader::new(repository, &index);
    let top = path.strip_prefix("/").unwrap_or(path);
    let mut inodes = BTreeMap::new();
    let mut listing = Listing::new();
    for (path, node) in entries(repository, tree) {
        let Ok(path) = path.strip_prefix(top) else { continue };
        if node.kind == NodeKind::Socket {
            continue;
        }
        let mut same_as = None;
        if node.links > 1 && node.kind != NodeKind::Dir {
            let first = inodes.entry((node.device_id, node.inode)).or_insert_with(|| path.to_path_buf());
            same_as = Some(first.clone()).filter(|first| first != path);
        }
        let entry = Entry {
            mode: mode_to_unix(node.mode) | if node.kind == NodeKind::File { 0o100_000 } else { 0 },
            owner: (node.uid, node.gid),
            mtime: (node.mtime.seconds, node.mtime.nanos.into()),
            content: match node.kind {
                NodeKind::File => {
                    let read = |id: &Id| reader.read(BlobKind::Data, id).unwrap();
                    let data: Vec<u8> = node.content.iter().flatten().flat_map(read).collect();
                    Content::File(node.size, Id::of(&data))
                }
                NodeKind::Symlink => Content::Link(node.link_target),
                NodeKind::Dev | NodeKind::Chardev => Content::Device(node.device),
                NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket => Content::Nothing,
            },
            xattrs: node.xattrs.into_iter().map(|xattr| (xattr.name.into_bytes(), xattr.value)).collect(),
            same_as,
        };
        listing.insert(path.to_path_buf(), entry);
    }
    listing
}

/// Restores a whole tree into `target`; nothing may go wrong.
pub fn restore(repository: &Repository, tree: &Id, target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    let index = Index::load(repository, Context::silent()).unwrap();
    let options = RestoreOptions { fsync: Fsync::None, ..Default::default() };
    let source = Subtree::Dir(*tree);
    let plan = RestorePlan::new(repository, &index, &source, target, options, Context::silent()).unwrap();
    let report = plan.execute(Context::silent()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

/// An observer that calls a function.
pub struct On<F>(pub F);

impl<F: Fn(Event<'_>) + Sync> Observer for On<F> {
    fn observe(&self, event: Event<'_>) {
        (self.0)(event);
    }
}

/// Backs up `path` while `observer` looks on, and interferes.
pub fn backup_watched(
    repository: &Repository,
    path: &Path,
    options: &BackupOptions,
    observer: impl Fn(Event<'_>) + Sync,
) -> Result<BackupReport> {
    let observer = On(observer);
    let context = Context { observer: &observer, ..Context::silent() };
    run_backup(repository, Source::Paths(vec![path.to_owned()]), options, context)
}
