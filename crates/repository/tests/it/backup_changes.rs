//! What a backup reads again, and what it takes over from the snapshot before.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repository::backup::{BackupOptions, BackupReport, Parent};
use repository::format::{NodeKind, SnapshotSummary};
use repository::{Context, FileKind, Id, Index, Repository};

use crate::support::engine::{
    backup, backup_with, content, entries_below, in_memory, listing, options, tree_of,
};
use crate::support::noise;
use crate::support::tree::{assert_same, describe};

/// A directory with one file, backed up once.
struct Scene {
    directory: tempfile::TempDir,
    repository: Repository,
    first: BackupReport,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "before").unwrap();
        fs::create_dir(directory.path().join("beside")).unwrap();
        fs::write(directory.path().join("beside/other"), "other").unwrap();
        let (_, repository) = in_memory();
        let first = backup(&repository, &[directory.path()]);
        Self { directory, repository, first }
    }

    fn tree_of(&self, report: &BackupReport) -> Id {
        tree_of(&self.repository, report, self.directory.path())
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("file")
    }

    /// Backs up again and gives the summary and the file's content in the snapshot.
    fn again(&self, options: &BackupOptions) -> (SnapshotSummary, Vec<u8>) {
        let report = backup_with(&self.repository, &[self.directory.path()], options);
        let tree = report.snapshot.snapshot.tree;
        let node = &entries_below(&self.repository, &tree, self.directory.path())[Path::new("file")];
        (report.summary, content(&self.repository, node))
    }
}

fn times_of(path: &Path) -> FileTimes {
    FileTimes::new().set_modified(fs::metadata(path).unwrap().modified().unwrap())
}

fn set_times(path: &Path, times: FileTimes) {
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

fn ignoring(ctime: bool, inode: bool) -> BackupOptions {
    BackupOptions { ignore_ctime: ctime, ignore_inode: inode, ..options() }
}

#[test]
fn nothing_changed_nothing_is_stored() {
    let scene = Scene::new();
    let report = backup(&scene.repository, &[scene.directory.path()]);
    assert_eq!(scene.tree_of(&report), scene.tree_of(&scene.first));
    assert_eq!(report.snapshot.snapshot.parent, Some(scene.first.snapshot.id));
    let SnapshotSummary { files_new, files_changed, files_unmodified, data_blobs, tree_blobs, .. } =
        report.summary;
    assert_eq!((files_new, files_changed, files_unmodified, data_blobs), (0, 0, 2, 0));
    let above = scene.directory.path().components().count() as i64 - 1;
    assert!(tree_blobs <= above, "{tree_blobs}: only what lies above may have changed");
    assert_eq!((report.summary.dirs_new, report.summary.dirs_changed), (0, 0));
    assert_eq!(report.summary.dirs_unmodified, 2);
    assert_eq!(report.summary.total_bytes_processed, 11);
}

#[test]
fn a_later_mtime_is_enough() {
    let scene = Scene::new();
    set_times(&scene.file(), FileTimes::new().set_modified(SystemTime::now() + Duration::from_secs(10)));
    let (summary, _) = scene.again(&ignoring(true, true));
    assert_eq!((summary.files_changed, summary.files_unmodified, summary.data_blobs), (1, 1, 0));
}

#[test]
fn an_earlier_mtime_is_enough() {
    let scene = Scene::new();
    set_times(&scene.file(), FileTimes::new().set_modified(SystemTime::UNIX_EPOCH));
    assert_eq!(scene.again(&ignoring(true, true)).0.files_changed, 1);
}

/// Same size, same mtime, other content: only the inode's time of change tells.
#[test]
fn a_restored_mtime_does_not_deceive() {
    let scene = Scene::new();
    let times = times_of(&scene.file());
    fs::write(scene.file(), "behind").unwrap();
    set_times(&scene.file(), times);
    let (summary, content) = scene.again(&ignoring(true, false));
    assert_eq!((summary.files_changed, content.as_slice()), (0, b"before".as_slice()), "as it was told to");
    // That snapshot states the new time; one that states the old one is to be compared with.
    let parent = Parent::Snapshot(scene.first.snapshot.id);
    let (summary, content) = scene.again(&BackupOptions { parent, ..options() });
    assert_eq!((summary.files_changed, content.as_slice()), (1, b"behind".as_slice()));
}

#[test]
fn another_size_is_enough() {
    let scene = Scene::new();
    let times = times_of(&scene.file());
    fs::write(scene.file(), "before and more").unwrap();
    set_times(&scene.file(), times);
    let (summary, content) = scene.again(&ignoring(true, true));
    assert_eq!((summary.files_changed, content.as_slice()), (1, b"before and more".as_slice()));
}

/// A file of the same size and mtime put in place of the old one.
#[test]
fn another_inode_is_enough() {
    let scene = Scene::new();
    let put = scene.directory.path().join("put");
    fs::write(&put, "behind").unwrap();
    set_times(&put, times_of(&scene.file()));
    let old = fs::metadata(scene.file()).unwrap().ino();
    fs::rename(&put, scene.file()).unwrap();
    assert_ne!(fs::metadata(scene.file()).unwrap().ino(), old);
    let (summary, content) = scene.again(&ignoring(true, true));
    assert_eq!((summary.files_changed, content.as_slice()), (0, b"before".as_slice()), "as it was told to");
    // That snapshot states the new inode; one that states the old one is to be compared with.
    let parent = Parent::Snapshot(scene.first.snapshot.id);
    let (summary, content) = scene.again(&BackupOptions { parent, ..ignoring(true, false) });
    assert_eq!((summary.files_changed, content.as_slice()), (1, b"behind".as_slice()));
}

#[test]
fn metadata_alone_stores_no_content() {
    let scene = Scene::new();
    fs::set_permissions(scene.file(), Permissions::from_mode(0o4751)).unwrap();
    rustix::fs::setxattr(scene.file(), "user.new", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    let report = backup(&scene.repository, &[scene.directory.path()]);
    assert_eq!(report.summary.data_blobs, 0);
    let tree = report.snapshot.snapshot.tree;
    assert_same(
        &describe(scene.directory.path()),
        &listing(&scene.repository, &tree, scene.directory.path()),
    );
}

#[test]
fn xattrs_are_looked_at_even_where_the_ctime_is_ignored() {
    let scene = Scene::new();
    rustix::fs::setxattr(scene.file(), "user.new", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    let report = backup_with(&scene.repository, &[scene.directory.path()], &ignoring(true, false));
    assert_eq!(report.summary.files_unmodified, 2);
    let tree = report.snapshot.snapshot.tree;
    assert_same(
        &describe(scene.directory.path()),
        &listing(&scene.repository, &tree, scene.directory.path()),
    );
}

#[test]
fn a_file_may_become_a_directory_and_back() {
    let scene = Scene::new();
    let root = scene.directory.path();
    for round in 0..2 {
        let (file, directory) = if round == 0 { ("file", "beside") } else { ("beside", "file") };
        fs::remove_file(root.join(file)).unwrap();
        fs::remove_dir_all(root.join(directory)).unwrap();
        fs::create_dir(root.join(file)).unwrap();
        fs::write(root.join(file).join("within"), "within").unwrap();
        fs::write(root.join(directory), "now a file").unwrap();
        let tree = backup(&scene.repository, &[root]).snapshot.snapshot.tree;
        let entries = entries_below(&scene.repository, &tree, root);
        assert_eq!(entries[Path::new(file)].kind, NodeKind::Dir);
        assert_eq!(entries[Path::new(directory)].kind, NodeKind::File);
        assert_same(&describe(root), &listing(&scene.repository, &tree, root));
    }
}

#[test]
fn the_parent_is_the_newest_of_the_same_host_and_paths() {
    let scene = Scene::new();
    let root = scene.directory.path();
    let of_host = |host: &str| BackupOptions { hostname: Some(host.into()), ..options() };
    let other = backup_with(&scene.repository, &[root], &of_host("elsewhere"));
    assert_eq!((other.snapshot.snapshot.parent, other.summary.files_new), (None, 2));
    assert_eq!(other.summary.data_blobs, 0, "it is all there, though it had to be read");
    let below = backup(&scene.repository, &[&root.join("beside")]);
    assert_eq!(below.snapshot.snapshot.parent, None);
    let both = backup(&scene.repository, &[&root.join("beside"), &root.join("file")]);
    assert_eq!(both.snapshot.snapshot.parent, None);
    let second = backup(&scene.repository, &[root]);
    assert_eq!(second.snapshot.snapshot.parent, Some(scene.first.snapshot.id));
    let third = backup(&scene.repository, &[root]);
    assert_eq!(third.snapshot.snapshot.parent, Some(second.snapshot.id));
    let told = BackupOptions { parent: Parent::Snapshot(other.snapshot.id), ..options() };
    let told = backup_with(&scene.repository, &[root], &told);
    assert_eq!(told.snapshot.snapshot.parent, Some(other.snapshot.id));
    assert_eq!(told.summary.files_unmodified, 2);
    let none = backup_with(&scene.repository, &[root], &BackupOptions { parent: Parent::None, ..options() });
    assert_eq!((none.snapshot.snapshot.parent, none.summary.files_new), (None, 2));
    assert_eq!(scene.tree_of(&none), scene.tree_of(&scene.first));
}

/// What an earlier snapshot refers to and the repository has lost is read and stored again.
#[test]
fn lost_content_is_stored_again() {
    let scene = Scene::new();
    for (id, _) in scene.repository.list(FileKind::Index).unwrap() {
        scene.repository.remove(FileKind::Index, &id).unwrap();
    }
    let report = backup(&scene.repository, &[scene.directory.path()]);
    assert_eq!(report.summary.data_blobs, 2);
    let tree = report.snapshot.snapshot.tree;
    assert_same(
        &describe(scene.directory.path()),
        &listing(&scene.repository, &tree, scene.directory.path()),
    );
}

#[test]
fn the_same_content_is_stored_once() {
    let directory = tempfile::tempdir().unwrap();
    let data = noise(1, 3 << 20);
    for number in 0..20 {
        fs::write(directory.path().join(format!("copy {number}")), &data).unwrap();
        fs::write(directory.path().join(format!("small {number}")), "the same").unwrap();
    }
    let (memory, repository) = in_memory();
    let report = backup(&repository, &[directory.path()]);
    let stored: usize = memory.contents().values().map(bytes::Bytes::len).sum();
    assert!(stored < data.len() + 100_000, "{stored}");
    assert!(report.summary.data_added < data.len() as u64 + 100_000, "{}", report.summary.data_added);
    assert_eq!(report.summary.total_bytes_processed, 20 * (data.len() as u64 + 8));
}

#[test]
fn blocks_are_cut_at_their_size() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pages");
    fs::write(&file, noise(2, 10 * 100_000 + 77)).unwrap();
    let (_, repository) = in_memory();
    let options = BackupOptions { block_bytes: Some(100_000), ..options() };
    let report = backup_with(&repository, &[directory.path()], &options);
    assert_eq!(report.summary.data_blobs, 11);
    // A page that changes in place is one new blob.
    let mut data = fs::read(&file).unwrap();
    data[345_678] ^= 1;
    fs::write(&file, &data).unwrap();
    let report = backup_with(&repository, &[directory.path()], &options);
    assert_eq!(report.summary.data_blobs, 1);
    let node =
        &entries_below(&repository, &report.snapshot.snapshot.tree, directory.path())[Path::new("pages")];
    assert_eq!(content(&repository, node), data);
}

/// Holes in a file of blocks must not move the blocks behind them.
#[test]
fn blocks_stay_in_place_behind_holes() {
    use std::os::unix::fs::FileExt;
    const BLOCK: u32 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (holes, full) = (directory.path().join("holes"), directory.path().join("full"));
    let file = File::create(&holes).unwrap();
    // A hole of one and a half blocks, then noise.
    file.write_all_at(&noise(3, 5 << 19), 3 << 19).unwrap();
    fs::write(&full, fs::read(&holes).unwrap()).unwrap();
    let (_, repository) = in_memory();
    let options = BackupOptions { block_bytes: Some(BLOCK), ..options() };
    let report = backup_with(&repository, &[directory.path()], &options);
    let entries = entries_below(&repository, &report.snapshot.snapshot.tree, directory.path());
    assert_eq!(entries[Path::new("holes")].content, entries[Path::new("full")].content);
    assert_eq!(content(&repository, &entries[Path::new("holes")]), fs::read(&full).unwrap());
}

/// Everything that an index says.
fn said(index: &Index) -> Vec<(Id, repository::format::PackedBlob)> {
    let mut said: Vec<_> =
        index.iter().map(|location| (index.pack_id(location.pack), location.blob)).collect();
    said.sort_unstable_by_key(|(pack, blob)| (*pack, blob.offset));
    said
}

#[test]
fn an_index_that_is_known_is_brought_up_to_date() {
    let scene = Scene::new();
    let whole = || Index::load(&scene.repository, Context::silent()).unwrap();
    let since =
        |known: &Arc<Index>| Index::load_since(Some(known), &scene.repository, Context::silent()).unwrap();
    let first = Index::load_since(None, &scene.repository, Context::silent()).unwrap();
    assert_eq!(said(&first), said(&whole()));
    assert!(Arc::ptr_eq(&first, &since(&first)), "nothing is read when nothing is new");

    // What is new is there, for finding and for not storing it twice.
    fs::write(scene.file(), noise(1, 3_000_000)).unwrap();
    backup_with(
        &scene.repository,
        &[scene.directory.path()],
        &BackupOptions { known: Some(Arc::clone(&first)), ..options() },
    );
    let second = since(&first);
    assert!(said(&second).len() > said(&first).len());
    assert_eq!(said(&second), said(&whole()));
    fs::copy(scene.file(), scene.directory.path().join("again")).unwrap();
    let known = BackupOptions { known: Some(first), ..options() };
    let report = backup_with(&scene.repository, &[scene.directory.path()], &known);
    assert_eq!(report.summary.data_blobs, 0, "{:?}", report.summary);

    // Files that are gone were replaced by others.
    for (id, _) in scene.repository.list(FileKind::Index).unwrap() {
        scene.repository.remove(FileKind::Index, &id).unwrap();
    }
    assert_eq!(said(&since(&second)), []);
}
