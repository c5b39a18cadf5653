//! Restoring what stock restic backed up, against everything that can be in the way.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use repository::restore::{
    Action, Fsync, INCOMPLETE_SUFFIX, Overwrite, RestoreOptions, RestorePlan, RestoreReport, Subtree,
    find_subtree,
};
use repository::{
    BlobReader, Clock, Context, Error, Event, Id, Index, Observer, Patterns, Repository, Result, Task,
};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::support::restic::ResticRepository;
use crate::support::tree::{Content, assert_same_tree, differences, read_tree};

/// A repository of restic's with one snapshot of `source`, opened by us.
struct Scene {
    restic: ResticRepository,
    source: PathBuf,
    target: PathBuf,
    repository: Repository,
    tree: Id,
}

impl Scene {
    fn new(build: impl FnOnce(&Path)) -> Self {
        let restic = ResticRepository::init();
        let source = restic.source();
        build(&source);
        let root = restic.backup(&source);
        let target = source.parent().unwrap().join("target");
        let repository = open(&restic);
        let index = Index::load(&repository, Context::silent()).unwrap();
        let found = find_subtree(&BlobReader::new(&repository, &index), root, &source).unwrap();
        let Subtree::Dir(tree) = found else { panic!("the source is a directory") };
        Self { restic, source, target, repository, tree }
    }

    fn data_packs(&self) -> Vec<PathBuf> {
        let index = Index::load(&self.repository, Context::silent()).unwrap();
        let packs = index.by_pack();
        (0..index.pack_count())
            .filter(|pack| {
                packs.blobs(*pack).iter().any(|blob| blob.kind == repository::format::BlobKind::Data)
            })
            .map(|pack| self.restic.path().join(repository::FileKind::Pack.object(&index.pack_id(pack))))
            .collect()
    }

    fn restore(&self, options: RestoreOptions) -> RestoreReport {
        self.try_restore(&self.repository, options, Context::silent()).unwrap()
    }

    fn try_restore(
        &self,
        repository: &Repository,
        options: RestoreOptions,
        context: Context<'_>,
    ) -> Result<RestoreReport> {
        let index = Index::load(repository, context)?;
        let source = Subtree::Dir(self.tree);
        RestorePlan::new(repository, &index, &source, &self.target, options, context)?.execute(context)
    }

    #[track_caller]
    fn assert_restored(&self) {
        assert_same_tree(&self.source, &self.target);
    }
}

fn open(restic: &ResticRepository) -> Repository {
    let store = store::Local::open(restic.path()).unwrap();
    Repository::open(Arc::new(store), b"secret", Clock::system()).unwrap()
}

fn quick() -> RestoreOptions {
    RestoreOptions { fsync: Fsync::None, ..RestoreOptions::default() }
}

/// Bytes that do not compress and differ by `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Every kind of thing with every kind of metadata.
fn build_everything(source: &Path) {
    std::fs::create_dir_all(source.join("dir/deep/deeper")).unwrap();
    std::fs::write(source.join("empty"), b"").unwrap();
    std::fs::write(source.join("small"), b"hello").unwrap();
    std::fs::write(source.join("dir/deep/deeper/file"), noise(1, 100_000)).unwrap();
    std::fs::write(source.join("large"), noise(2, 9 << 20)).unwrap();
    std::fs::write(source.join("twice"), noise(2, 9 << 20)).unwrap();
    std::fs::write(source.join("zeros"), vec![0; 3 << 20]).unwrap();
    std::fs::write(source.join(OsStr::from_bytes(b"not \xff utf-8 <&>\\\"")), b"name").unwrap();
    symlink("small", source.join("link")).unwrap();
    symlink("/nowhere/at all", source.join("dir/dangling")).unwrap();
    std::fs::hard_link(source.join("large"), source.join("dir/hard")).unwrap();
    std::fs::hard_link(source.join("small"), source.join("dir/deep/hard too")).unwrap();
    rustix::fs::mknodat(CWD, source.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    rustix::fs::setxattr(source.join("small"), "user.comment", b"a\0b", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(source.join("dir"), "user.dir", b"", XattrFlags::empty()).unwrap();
    set_mode(&source.join("large"), 0o400);
    set_mode(&source.join("empty"), 0o4755);
    set_mode(&source.join("dir/deep"), 0o3570);
    if is_root() {
        let device = rustix::fs::makedev(7, 0x1_23);
        for (name, kind) in [("block", FileType::BlockDevice), ("char", FileType::CharacterDevice)] {
            rustix::fs::mknodat(CWD, source.join(name), kind, Mode::from_raw_mode(0o606), device).unwrap();
        }
        for name in ["small", "link", "dir", "fifo"] {
            std::os::unix::fs::lchown(source.join(name), Some(1234), Some(4321)).unwrap();
        }
        set_mode(&source.join("small"), 0o6751);
    }
    for (number, path) in read_tree(source).keys().enumerate() {
        set_time(&source.join(path), 1_000_000_000 + number as i64, 123_456_789);
    }
    set_time(&source.join("link"), -5, 7);
    set_time(&source.join("dir"), 4_000_000_000, 999_999_999);
}

#[test]
fn everything_comes_back() {
    let scene = Scene::new(build_everything);
    let report = scene.restore(RestoreOptions { verify: true, ..quick() });
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    scene.assert_restored();
    assert_eq!(report.files_verified, 7);

    // A second time nothing is left to do, and nothing is done.
    let before = read_tree(&scene.target);
    let again = scene.restore(quick());
    assert_eq!((again.files_restored, again.bytes_fetched, again.others_restored), (0, 0, 0));
    assert_eq!(differences(&before, &read_tree(&scene.target)), Vec::<String>::new());
}

#[test]
fn everything_comes_back_sparse_and_synced_on_one_thread() {
    let scene = Scene::new(|source| {
        build_everything(source);
        let mut holes = noise(3, 6 << 20);
        holes[1 << 20..4 << 20].fill(0);
        std::fs::write(source.join("holes"), holes).unwrap();
        std::fs::write(source.join("one hole"), vec![0; 200_000]).unwrap();
    });
    let options =
        RestoreOptions { sparse: true, fsync: Fsync::Files, threads: Some(1), ..RestoreOptions::default() };
    let report = scene.restore(options.clone());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    scene.assert_restored();
    let blocks = |name: &str| std::fs::metadata(scene.target.join(name)).unwrap().blocks() * 512;
    assert!(blocks("zeros") < 1 << 20, "{}", blocks("zeros"));
    assert!(blocks("holes") < 4 << 20, "{}", blocks("holes"));
    assert!(blocks("one hole") < 100_000, "{}", blocks("one hole"));

    // Holes are also made in what exists.
    std::fs::write(scene.target.join("zeros"), noise(4, 3 << 20)).unwrap();
    scene.restore(options);
    scene.assert_restored();
    assert!(blocks("zeros") < 1 << 20, "{}", blocks("zeros"));
}

#[test]
fn what_restic_restores_is_what_we_restore() {
    let scene = Scene::new(build_everything);
    scene.restore(quick());
    let theirs = scene.target.with_file_name("theirs");
    scene.restic.run([
        OsStr::new("restore"),
        OsStr::new("latest"),
        OsStr::new("--target"),
        theirs.as_os_str(),
    ]);
    let below = theirs.join(scene.source.strip_prefix("/").unwrap());
    assert_same_tree(&below, &scene.target);
}

#[test]
fn a_part_is_found_by_its_path() {
    let scene = Scene::new(build_everything);
    let index = Index::load(&scene.repository, Context::silent()).unwrap();
    let reader = BlobReader::new(&scene.repository, &index);
    let context = Context::silent();
    let restore = |path: &str| {
        let part = find_subtree(&reader, scene.tree, Path::new(path)).unwrap();
        let target = scene.target.join("of").join(path.replace('/', "_"));
        RestorePlan::new(&scene.repository, &index, &part, &target, quick(), context)
            .unwrap()
            .execute(context)
            .unwrap();
        target
    };
    assert_same_tree(&scene.source.join("dir/deep/deeper"), &restore("/dir/deep/deeper/"));
    let file = restore("dir/deep/deeper/file").join("file");
    assert_eq!(std::fs::read(file).unwrap(), noise(1, 100_000));
    for path in ["/none", "small/below", "dir/none/x"] {
        let error = find_subtree(&reader, scene.tree, Path::new(path)).unwrap_err();
        assert!(matches!(error, Error::NoSuchSnapshot(_)), "{error}");
    }
}

#[test]
fn only_what_differs_is_written() {
    let scene = Scene::new(build_everything);
    scene.restore(quick());
    let at = |name: &str| scene.target.join(name);
    // One byte in the middle, something cut off, something appended, another mode, time, attribute.
    let mut bytes = std::fs::read(at("twice")).unwrap();
    bytes[5 << 20] ^= 1;
    std::fs::write(at("twice"), &bytes).unwrap();
    std::fs::File::options().write(true).open(at("zeros")).unwrap().set_len(1 << 20).unwrap();
    std::fs::write(at("dir/deep/deeper/file"), [noise(1, 100_000), vec![1; 50]].concat()).unwrap();
    set_mode(&at("empty"), 0o777);
    rustix::fs::setxattr(at("dir"), "user.more", b"x", XattrFlags::empty()).unwrap();
    // Other kinds.
    std::fs::remove_file(at("link")).unwrap();
    std::fs::create_dir(at("link")).unwrap();
    std::fs::remove_file(at("fifo")).unwrap();
    symlink("/etc", at("fifo")).unwrap();
    // A hard link that is none any more.
    std::fs::remove_file(at("dir/hard")).unwrap();
    std::fs::write(at("dir/hard"), b"other").unwrap();
    let report = scene.restore(quick());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    scene.assert_restored();
    // A chunk of restic's has at most 8 MiB; the other parts of `twice` and all of `large` are left alone.
    let chunk = 8 << 20;
    assert!(report.bytes_written < chunk + (2 << 20), "{}", report.bytes_written);
    assert!(report.bytes_fetched < chunk + (2 << 20), "{}", report.bytes_fetched);
}

#[test]
fn what_an_older_copy_has_is_not_fetched() {
    let scene = Scene::new(build_everything);
    let seed = scene.source.parent().unwrap().join("seed");
    scene.restore(quick());
    std::fs::rename(&scene.target, &seed).unwrap();
    let whole = scene.restore(RestoreOptions { seed: Some(seed.clone()), ..quick() });
    scene.assert_restored();
    assert_eq!((whole.bytes_fetched, whole.bytes_taken), (0, whole.bytes_written));

    // A page of it changed, a file cut, one replaced by something else, one gone: that alone is fetched.
    std::fs::remove_dir_all(&scene.target).unwrap();
    let file = std::fs::File::options().write(true).open(seed.join("twice")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 5 << 20).unwrap();
    std::fs::File::options().write(true).open(seed.join("zeros")).unwrap().set_len(1 << 20).unwrap();
    std::fs::remove_file(seed.join("small")).unwrap();
    std::fs::create_dir(seed.join("small")).unwrap();
    std::fs::remove_file(seed.join("dir/deep/deeper/file")).unwrap();
    symlink(scene.source.join("dir/deep/deeper/file"), seed.join("dir/deep/deeper/file")).unwrap();
    let before = read_tree(&seed);
    let some = scene.restore(RestoreOptions { seed: Some(seed.clone()), ..quick() });
    scene.assert_restored();
    assert!(some.bytes_taken > 9 << 20 && some.bytes_taken < some.bytes_written, "{some:?}");
    assert!(some.bytes_fetched > 0 && some.bytes_fetched < 9 << 20, "{some:?}");
    assert_eq!(read_tree(&seed), before, "it is only read");

    // One that holds nothing of it, and one that is not there.
    for seed in [scene.source.parent().unwrap().join("none"), PathBuf::from("/proc/self")] {
        std::fs::remove_dir_all(&scene.target).unwrap();
        let none = scene.restore(RestoreOptions { seed: Some(seed), ..quick() });
        scene.assert_restored();
        assert_eq!(none.bytes_taken, 0);
    }
}

#[test]
fn an_older_copy_of_one_entry_stands_in_its_place() {
    let scene = Scene::new(build_everything);
    let index = Index::load(&scene.repository, Context::silent()).unwrap();
    for entry in ["dir", "large"] {
        let beside = scene.source.parent().unwrap().join(format!("{entry}.beside"));
        let options = RestoreOptions { seed: Some(scene.source.join(entry)), ..quick() };
        let what = (scene.tree, Path::new(entry));
        let report = repository::restore::restore_to(
            &scene.repository,
            &index,
            what,
            &beside,
            options,
            Context::silent(),
        );
        let report = report.unwrap();
        assert_eq!((report.bytes_fetched, report.bytes_taken), (0, report.bytes_written), "{entry}");
        assert!(report.bytes_taken > 0 && report.problems.is_empty());
    }
}

#[test]
fn changes_that_size_and_time_hide_are_found_when_asked_for() {
    let scene = Scene::new(build_everything);
    scene.restore(quick());
    let twice = scene.target.join("twice");
    let stat = std::fs::metadata(&twice).unwrap();
    let mut bytes = std::fs::read(&twice).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&twice, &bytes).unwrap();
    set_time(&twice, stat.mtime(), stat.mtime_nsec());
    assert_eq!(scene.restore(quick()).files_restored, 0);
    let verified = scene.restore(RestoreOptions { verify: true, ..quick() });
    assert_eq!(verified.problems.len(), 1);
    assert_eq!(verified.problems[0].path, twice);
    assert_eq!(scene.restore(RestoreOptions { overwrite: Overwrite::Always, ..quick() }).files_restored, 1);
    scene.assert_restored();
}

#[test]
fn what_is_there_is_kept_when_asked_for() {
    let scene = Scene::new(|source| {
        for name in ["old", "new", "gone"] {
            std::fs::write(source.join(name), b"snapshot").unwrap();
            set_time(&source.join(name), 1_000_000, 0);
        }
    });
    let set_up = || {
        let _ = std::fs::remove_dir_all(&scene.target);
        std::fs::create_dir(&scene.target).unwrap();
        for (name, time) in [("old", 999_999), ("new", 1_000_001)] {
            std::fs::write(scene.target.join(name), b"here").unwrap();
            set_time(&scene.target.join(name), time, 0);
        }
    };
    let contents =
        || ["old", "new", "gone"].map(|name| std::fs::read_to_string(scene.target.join(name)).unwrap());
    for (overwrite, expected) in [
        (Overwrite::Never, ["here", "here", "snapshot"]),
        (Overwrite::IfNewer, ["snapshot", "here", "snapshot"]),
        (Overwrite::Changed, ["snapshot", "snapshot", "snapshot"]),
    ] {
        set_up();
        scene.restore(RestoreOptions { overwrite, ..quick() });
        assert_eq!(contents(), expected, "{overwrite:?}");
    }
}

#[test]
fn a_plan_changes_nothing_and_tells_everything() {
    let scene = Scene::new(build_everything);
    let index = Index::load(&scene.repository, Context::silent()).unwrap();
    let options = RestoreOptions { delete: true, ..quick() };
    let plan = || {
        let source = Subtree::Dir(scene.tree);
        let (target, options) = (&scene.target, options.clone());
        RestorePlan::new(&scene.repository, &index, &source, target, options, Context::silent()).unwrap()
    };
    assert_eq!(plan().totals().bytes_write, plan().totals().bytes);
    assert!(!scene.target.exists());

    std::fs::create_dir_all(scene.target.join("extra/below")).unwrap();
    std::fs::create_dir_all(scene.target.join("small/in the way")).unwrap();
    std::fs::write(scene.target.join("twice"), b"other").unwrap();
    let before = read_tree(&scene.target);
    let actions: Vec<_> = plan()
        .actions()
        .map(|action| (action.path.strip_prefix(&scene.target).unwrap().to_owned(), action.action))
        .collect();
    assert_eq!(differences(&before, &read_tree(&scene.target)), Vec::<String>::new());
    for (path, action) in [
        ("extra/below", Action::Delete),
        ("extra", Action::Delete),
        ("small/in the way", Action::Delete),
        ("small", Action::Replace),
        ("twice", Action::Update),
        ("large", Action::Create),
        ("dir/deep", Action::Create),
    ] {
        assert!(actions.contains(&(path.into(), action)), "{path} {action:?} in {actions:?}");
    }
    let report = plan().execute(Context::silent()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.deleted, 3);
    scene.assert_restored();
}

#[test]
fn a_directory_with_content_gives_way_only_to_delete() {
    let scene = Scene::new(build_everything);
    std::fs::create_dir_all(scene.target.join("small/in the way")).unwrap();
    let report = scene.restore(quick());
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].path, scene.target.join("small"));
    assert!(scene.target.join("small/in the way").exists());
    assert_eq!(std::fs::read(scene.target.join("large")).unwrap(), noise(2, 9 << 20));
}

#[test]
fn deleting_respects_what_was_chosen() {
    let scene = Scene::new(|source| {
        std::fs::create_dir(source.join("dir")).unwrap();
        std::fs::write(source.join("dir/file"), b"x").unwrap();
    });
    std::fs::create_dir_all(scene.target.join("dir/extra")).unwrap();
    for name in ["dir/extra/keep.log", "dir/extra/gone", "other"] {
        std::fs::write(scene.target.join(name), b"y").unwrap();
    }
    let exclude = Patterns::parse(["*.log"].into_iter(), false).unwrap();
    scene.restore(RestoreOptions { delete: true, exclude, ..quick() });
    let names: Vec<_> = read_tree(&scene.target).into_keys().collect();
    assert_eq!(names, ["dir", "dir/extra", "dir/extra/keep.log", "dir/file"].map(PathBuf::from));

    let index = Index::load(&scene.repository, Context::silent()).unwrap();
    let root = RestorePlan::new(
        &scene.repository,
        &index,
        &Subtree::Dir(scene.tree),
        Path::new("/"),
        RestoreOptions { delete: true, ..quick() },
        Context::silent(),
    );
    assert!(matches!(root, Err(Error::Refused(_))));
}

#[test]
fn nothing_is_written_outside_the_target() {
    let scene = Scene::new(build_everything);
    let outside = scene.target.with_file_name("outside");
    std::fs::create_dir_all(outside.join("deep/deeper")).unwrap();
    std::fs::write(outside.join("file"), b"mine").unwrap();
    std::fs::create_dir(&scene.target).unwrap();
    // A link where a directory is to be, links where files are to be, and another name of a file outside.
    symlink(&outside, scene.target.join("dir")).unwrap();
    symlink(outside.join("file"), scene.target.join("small")).unwrap();
    symlink(outside.join("new"), scene.target.join("large")).unwrap();
    std::fs::hard_link(outside.join("file"), scene.target.join("empty")).unwrap();
    std::fs::hard_link(outside.join("file"), scene.target.join("twice")).unwrap();
    let before = read_tree(&outside);
    let report = scene.restore(RestoreOptions { delete: true, ..quick() });
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(differences(&before, &read_tree(&outside)), Vec::<String>::new());
    scene.assert_restored();
}

/// Puts a link in the way of a directory as soon as the restore has begun to write.
struct Planter<'a> {
    target: &'a Path,
    outside: &'a Path,
    done: AtomicBool,
}

impl Observer for Planter<'_> {
    fn observe(&self, event: Event<'_>) {
        if matches!(event, Event::Item { .. }) && !self.done.swap(true, Ordering::Relaxed) {
            for number in 0..400 {
                let dir = self.target.join(format!("d{number:03}"));
                std::fs::remove_dir(&dir).unwrap_or_default();
                symlink(self.outside, dir).unwrap_or_default();
            }
        }
    }
}

#[test]
fn links_planted_while_it_runs_lead_nowhere() {
    let scene = Scene::new(|source| {
        std::fs::write(source.join("first"), b"").unwrap();
        // More directories than are kept open, so that most are opened again by name.
        for number in 0..400u64 {
            let dir = source.join(format!("d{number:03}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("file"), noise(number, 2000)).unwrap();
        }
    });
    let outside = scene.target.with_file_name("outside");
    std::fs::create_dir(&outside).unwrap();
    let planter = Planter { target: &scene.target, outside: &outside, done: AtomicBool::new(false) };
    let cancel = AtomicBool::new(false);
    let context = Context { observer: &planter, cancel: &cancel };
    let report = scene.try_restore(&scene.repository, quick(), context).unwrap();
    assert!(!report.problems.is_empty());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);

    assert!(scene.restore(quick()).problems.is_empty());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    scene.assert_restored();
}

#[test]
fn a_damaged_blob_costs_its_files_only() {
    let scene = Scene::new(|source| {
        for number in 0..50 {
            std::fs::write(source.join(format!("f{number:02}")), noise(number, 300_000)).unwrap();
        }
        std::fs::write(source.join("long"), noise(99, 12 << 20)).unwrap();
    });
    for pack in scene.data_packs() {
        let mut bytes = std::fs::read(&pack).unwrap();
        for position in [bytes.len() / 2, bytes.len() / 3] {
            bytes[position] ^= 0x40;
        }
        set_mode(&pack, 0o600);
        std::fs::write(&pack, &bytes).unwrap();
    }
    std::fs::create_dir(&scene.target).unwrap();
    std::fs::write(scene.target.join("surplus"), b"").unwrap();
    let report = scene.restore(RestoreOptions { delete: true, ..quick() });
    assert!(!report.problems.is_empty() && report.problems.len() < 20);
    assert!(scene.target.join("surplus").exists(), "nothing is deleted when something is missing");
    assert_eq!(report.deletions_withheld, 1);
    for problem in &report.problems {
        assert!(matches!(problem.error, Error::Damaged { .. }), "{:?}", problem.error);
        assert!(!problem.path.exists(), "{} looks whole", problem.path.display());
    }
    let mut incomplete = 0;
    for (path, item) in read_tree(&scene.source) {
        let restored = scene.target.join(&path);
        if report.problems.iter().any(|problem| problem.path == restored) {
            let aside = PathBuf::from(format!("{}{INCOMPLETE_SUFFIX}", restored.display()));
            incomplete += u32::from(aside.exists());
        } else {
            let found = std::fs::read(&restored).unwrap();
            let found = Content::File(found.len() as u64, Id::of(&found));
            assert_eq!(item.content, found, "{}", path.display());
        }
    }
    assert!(incomplete > 0, "a file of several pieces keeps those that it has, under a name that says so");
}

#[test]
fn a_missing_pack_costs_its_files_only() {
    let scene = Scene::new(|source| {
        for number in 0..60 {
            std::fs::write(source.join(format!("f{number:02}")), noise(number, 900_000)).unwrap();
        }
    });
    let packs = scene.data_packs();
    assert!(packs.len() > 1);
    std::fs::remove_file(&packs[0]).unwrap();
    let report = scene.restore(quick());
    assert!(!report.problems.is_empty() && report.problems.len() < 60);
    for problem in &report.problems {
        let name = packs[0].file_name().unwrap().to_str().unwrap();
        assert!(problem.error.to_string().contains(name), "{}", problem.error);
    }
    let problems = report.problems.iter().map(|problem| problem.path.clone()).collect::<Vec<_>>();
    for path in read_tree(&scene.source).into_keys() {
        let restored = scene.target.join(&path);
        assert_eq!(restored.exists(), !problems.contains(&restored), "{}", path.display());
    }
}

#[test]
fn a_blob_that_is_in_no_index_is_known_to_the_plan() {
    let scene = Scene::new(build_everything);
    let empty = repository::IndexBuilder::new();
    let index = {
        let full = Index::load(&scene.repository, Context::silent()).unwrap();
        let packs = full.by_pack();
        let mut builder = empty;
        for pack in 0..full.pack_count() {
            let blobs = packs.blobs(pack);
            if blobs.iter().any(|blob| blob.kind == repository::format::BlobKind::Tree) {
                builder.add_pack(full.pack_id(pack), &blobs);
            }
        }
        builder.finish()
    };
    let source = Subtree::Dir(scene.tree);
    let context = Context::silent();
    let plan = RestorePlan::new(&scene.repository, &index, &source, &scene.target, quick(), context).unwrap();
    assert_eq!(plan.problems().len(), 8);
    let report = plan.execute(context).unwrap();
    assert_eq!(report.problems.len(), 8);
    assert!(scene.target.join("empty").exists() && scene.target.join("dir/dangling").is_symlink());
    assert!(!scene.target.join("small").exists());
}

#[test]
fn a_full_disk_is_told_once_and_a_second_run_goes_on() {
    if !is_root() {
        return; // Only root may mount the small file system that this takes.
    }
    let scene = Scene::new(|source| {
        for number in 0..40 {
            std::fs::write(source.join(format!("f{number:02}")), noise(number, 200_000)).unwrap();
        }
        std::fs::write(source.join("long"), noise(99, 6 << 20)).unwrap();
    });
    std::fs::create_dir(&scene.target).unwrap();
    let mount = |options: &str| {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&scene.target);
        assert!(mount.status().unwrap().success());
    };
    mount("size=10m");
    let result = scene.try_restore(&scene.repository, quick(), Context::silent());
    let error = result.unwrap_err();
    mount("remount,size=40m");
    let again = scene.try_restore(&scene.repository, quick(), Context::silent());
    let differences = differences(&read_tree(&scene.source), &read_tree(&scene.target));
    assert!(std::process::Command::new("umount").arg(&scene.target).status().unwrap().success());
    let Error::Io { path, source, .. } = error else { panic!("{error}") };
    assert_eq!(source.raw_os_error(), Some(rustix::io::Errno::NOSPC.raw_os_error()));
    assert!(path.starts_with(&scene.target));
    assert!(again.unwrap().problems.is_empty());
    assert_eq!(differences, Vec::<String>::new());
}

#[test]
fn a_store_that_goes_away_ends_it_and_a_second_run_goes_on() {
    let scene = Scene::new(|source| {
        for number in 0..80 {
            std::fs::write(source.join(format!("f{number:02}")), noise(number, 700_000)).unwrap();
        }
    });
    let store = store::Fault::new(store::Local::open(scene.restic.path()).unwrap());
    let filter = store::fault::Filter::of(&[store::fault::Operation::GetRange]).from(13);
    store.inject(filter, store::fault::Effect::Fail(store::ErrorKind::Unavailable));
    let faulty = scene.repository.with_store(Arc::new(store));
    let error = scene.try_restore(&faulty, quick(), Context::silent()).unwrap_err();
    assert!(matches!(&error, Error::Store(error) if error.is_transient()), "{error}");
    let part = std::fs::read_dir(&scene.target).unwrap().count();
    let report = scene.restore(quick());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(part > 0 && report.files_restored < 80, "{part} of 80 were there, {report:?}");
    scene.assert_restored();
}

/// Asks to stop after a number of written bytes.
struct Stopper {
    after: u64,
    seen: AtomicU64,
    cancel: AtomicBool,
}

impl Observer for Stopper {
    fn observe(&self, event: Event<'_>) {
        if let Event::Advance { task: Task::Restore, bytes, .. } = event
            && self.seen.fetch_add(bytes, Ordering::Relaxed) + bytes >= self.after
        {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn an_interrupted_restore_goes_on_where_it_was() {
    let scene = Scene::new(|source| {
        build_everything(source);
        for number in 0..100 {
            std::fs::write(source.join(format!("f{number:03}")), noise(number, 500_000)).unwrap();
        }
    });
    let total: u64 = 50_000_000 + (18 << 20);
    for after in [1, 3 << 20, 9 << 20] {
        let stopper = Stopper { after, seen: AtomicU64::new(0), cancel: AtomicBool::new(false) };
        let context = Context { observer: &stopper, cancel: &stopper.cancel };
        match scene.try_restore(&scene.repository, quick(), context) {
            Err(Error::Interrupted) => {}
            other => panic!("{other:?}"),
        }
    }
    let report = scene.restore(quick());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.bytes_written < total, "{}", report.bytes_written);
    scene.assert_restored();
}

/// Names the repository for the child of the next test.
const CHILD: &str = "LIFEBOAT_TEST_RESTORE_CHILD";

#[test]
#[expect(clippy::disallowed_methods, reason = "the parent has no other way to say where the repository is")]
fn a_killed_restore_goes_on_where_it_was() {
    if let Some(path) = std::env::var_os(CHILD) {
        return restore_as_child(Path::new(&path));
    }
    let scene = Scene::new(|source| {
        build_everything(source);
        for number in 0..300 {
            std::fs::write(source.join(format!("f{number:03}")), noise(number, 150_000)).unwrap();
        }
    });
    // The child is this very test, told by a variable that it is to restore.
    let mut killed = 0;
    for files in [1, 60, 200] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "restore::a_killed_restore_goes_on_where_it_was", "--quiet"])
            .env(CHILD, scene.restic.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let count = || std::fs::read_dir(&scene.target).map_or(0, Iterator::count);
        while count() < files && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().signal() == Some(9));
    }
    assert!(killed > 0, "the child was always done before it could be killed");
    let report = scene.restore(quick());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.files_restored < 300, "{report:?}");
    scene.assert_restored();
}

/// What the child does until it is killed.
fn restore_as_child(path: &Path) {
    let store = store::Local::open(path).unwrap();
    let repository = Repository::open(Arc::new(store), b"secret", Clock::system()).unwrap();
    let context = Context::silent();
    let entry = repository.find_snapshot("latest", &repository::SnapshotFilter::default()).unwrap();
    let index = Index::load(&repository, context).unwrap();
    let source = Path::new(&entry.snapshot.paths[0]);
    let part = find_subtree(&BlobReader::new(&repository, &index), entry.snapshot.tree, source).unwrap();
    let target = path.with_file_name("target");
    RestorePlan::new(&repository, &index, &part, &target, quick(), context)
        .unwrap()
        .execute(context)
        .unwrap();
}
