//! Backups that are killed or cancelled half-way: what they leave, and how the next one goes on from there.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use repository::backup::{BackupOptions, Source, backup as run_backup};
use repository::{Context, Error, Event, FileKind, Repository, WriterOptions};
use serde_json::{Value, json};
use store::fault::{Effect, Filter, Operation};
use store::{Fault, Local};

use crate::support::engine::{On, backup_with, init, local, open, options, restore};
use crate::support::restic::Restic;
use crate::support::tree::{Listing, assert_same, describe};
use crate::support::{child, noise};

/// A repository on disk and a source of many files.
struct Scene {
    directory: tempfile::TempDir,
    repository: Repository,
}

const FILES: u64 = 120;

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let repository = init(local(directory.path().join("repository")));
        let scene = Self { directory, repository };
        for directory in 0..6 {
            fs::create_dir_all(scene.source().join(format!("{directory}/below"))).unwrap();
        }
        for number in 0..FILES {
            let below = if number % 2 == 0 { "below" } else { "." };
            let path = scene.source().join(format!("{}/{below}/{number}", number % 6));
            fs::write(path, noise(number, 40_000)).unwrap();
        }
        scene
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    /// Starts a backup in a process of its own, on a disk that takes its time.
    fn start_backup(&self) -> Child {
        let orders = json!({ "repository": self.path(), "source": self.source() });
        child::start("crash_killed::helper_that_backs_up_slowly", &orders.to_string())
    }

    /// How many files are there, but for those that are being written.
    fn files_in(&self, directory: &str) -> usize {
        let entries = fs::read_dir(self.path().join(directory)).into_iter().flatten();
        entries.filter(|entry| !entry.as_ref().unwrap().file_name().as_bytes().starts_with(b".")).count()
    }

    fn assert_restores(&self, report: &repository::backup::BackupReport, state: &Listing) {
        let target = self.directory.path().join("target");
        restore(&self.repository, &report.snapshot.snapshot.tree, &target);
        assert_same(state, &describe(&target.join(self.source().strip_prefix("/").unwrap())));
        fs::remove_dir_all(target).unwrap();
    }
}

fn small_packs() -> BackupOptions {
    BackupOptions {
        writer: WriterOptions { pack_bytes: 100_000 },
        checkpoint_every: Some(Duration::ZERO),
        ..options()
    }
}

#[test]
#[ignore = "is started by killed_at_any_moment"]
fn helper_that_backs_up_slowly() {
    let Some(orders) = child::orders() else { return };
    let orders: Value = serde_json::from_str(&orders).unwrap();
    let path = |name: &str| PathBuf::from(orders[name].as_str().unwrap());
    let slow = Fault::new(Local::open(path("repository")).unwrap());
    slow.inject(Filter::of(&[Operation::Put]).at("data"), Effect::Delay(Duration::from_millis(20)));
    backup_with(&open(Arc::new(slow)), &[&path("source")], &small_packs());
}

/// Kills at random moments from before the first write to after the last.
#[test]
fn killed_at_any_moment() {
    let seed = getrandom::u64().unwrap();
    println!("seed {seed}");
    let scene = Scene::new();
    let state = describe(&scene.source());
    fs::rename(scene.source().join("0"), scene.directory.path().join("aside")).unwrap();
    let older = backup_with(&scene.repository, &[&scene.source()], &small_packs());
    let older_state = describe(&scene.source());
    fs::rename(scene.directory.path().join("aside"), scene.source().join("0")).unwrap();

    let restic = Restic::at(scene.path());
    let renew = |round: u64| {
        for number in 0..FILES / 6 {
            let path = scene.source().join(format!("1/{number} of round"));
            fs::write(path, noise(seed ^ (round << 32 | number), 40_000)).unwrap();
        }
    };
    renew(24);
    let start = Instant::now();
    assert!(scene.start_backup().wait().unwrap().success());
    let whole = start.elapsed();
    let (mut killed, mut random) = (0, seed);
    for round in 0..24u64 {
        // Fresh content every time, so that there is something to write every time.
        renew(round);
        let mut child = scene.start_backup();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(whole.mul_f64((random >> 40) as f64 / f64::from(1 << 24)));
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        // Of a process that is gone: restic too takes it for stale.
        restic.run(["unlock"]);
        let checked = restic.try_run(["check"]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success(), "seed {seed}, round {round}: {said}");
        if round % 4 == 0 {
            // Left to us, the dead process's lock goes as well.
            let state = describe(&scene.source());
            let report = backup_with(&scene.repository, &[&scene.source()], &small_packs());
            scene.assert_restores(&report, &state);
        }
    }
    println!("{killed} of 24 were killed before they were done, a whole one takes {whole:?}");
    assert!(killed >= 5, "{killed}: hardly anything was interrupted");
    restic.check();
    scene.assert_restores(&older, &older_state);
    for number in 0..FILES / 6 {
        fs::remove_file(scene.source().join(format!("1/{number} of round"))).unwrap();
    }
    let report = backup_with(&scene.repository, &[&scene.source()], &small_packs());
    let mut state_now = describe(&scene.source());
    // The directory itself was written to since.
    let mut state = state;
    for directory in ["", "0", "1"] {
        state_now.remove(Path::new(directory));
        state.remove(Path::new(directory));
    }
    assert_same(&state, &state_now);
    scene.assert_restores(&report, &describe(&scene.source()));
}

/// Backs up until `stop_after` files are read, and says how many were.
fn read_files(scene: &Scene, options: &BackupOptions, stop_after: u64) -> (repository::Result<u64>, u64) {
    let (read, cancel) = (AtomicU64::new(0), AtomicBool::new(false));
    let observer = On(|event: Event<'_>| {
        if matches!(event, Event::Item { .. }) && read.fetch_add(1, Ordering::Relaxed) + 1 == stop_after {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    let context = Context { observer: &observer, cancel: &cancel };
    let result = run_backup(&scene.repository, Source::Paths(vec![scene.source()]), options, context);
    (result.map(|report| report.summary.files_unmodified), read.into_inner())
}

#[test]
fn a_cancelled_first_backup_is_not_read_again() {
    let scene = Scene::new();
    let options = BackupOptions { threads: Some(1), checkpoint_every: None, ..small_packs() };
    let mut read = 0;
    for _ in 0..3 {
        let (result, more) = read_files(&scene, &options, 25);
        assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
        assert_eq!(more, 25);
        read += more;
        assert_eq!(scene.repository.list(FileKind::Snapshot).unwrap(), []);
        assert!(!scene.repository.list(FileKind::Checkpoint).unwrap().is_empty());
        assert_eq!(scene.repository.list(FileKind::Lock).unwrap(), []);
        // Nobody else takes the half of it for a whole.
        Restic::at(scene.path()).run(["check"]);
        assert!(Restic::at(scene.path()).snapshots().is_empty());
    }
    let (unmodified, rest) = read_files(&scene, &options, u64::MAX);
    assert_eq!((unmodified.unwrap(), rest), (read, FILES - read), "every file is read once");
    assert_eq!(scene.repository.list(FileKind::Checkpoint).unwrap(), []);
    let report = backup_with(&scene.repository, &[&scene.source()], &options);
    assert!(!report.resumed);
    scene.assert_restores(&report, &describe(&scene.source()));
}

#[test]
fn what_changed_since_the_checkpoint_is_read_again() {
    let scene = Scene::new();
    let options = BackupOptions { threads: Some(1), ..small_packs() };
    let (result, _) = read_files(&scene, &options, 60);
    assert!(matches!(result, Err(Error::Interrupted)));
    for number in 0..FILES {
        let below = if number % 2 == 0 { "below" } else { "." };
        let path = scene.source().join(format!("{}/{below}/{number}", number % 6));
        fs::write(path, noise(number + 1000, 40_000)).unwrap();
    }
    let report = backup_with(&scene.repository, &[&scene.source()], &options);
    assert_eq!((report.summary.files_unmodified, report.resumed), (0, true));
    scene.assert_restores(&report, &describe(&scene.source()));
}

/// Killed without notice, it goes on from the last checkpoint.
#[test]
fn a_killed_first_backup_goes_on_from_its_checkpoint() {
    let scene = Scene::new();
    let mut child = scene.start_backup();
    let deadline = Instant::now() + Duration::from_secs(60);
    while scene.files_in("lifeboat/checkpoints") == 0 {
        assert!(Instant::now() < deadline, "no checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(scene.files_in("snapshots"), 0, "it was too fast for this test");
    let report = backup_with(&scene.repository, &[&scene.source()], &small_packs());
    assert!(report.resumed);
    assert!(report.summary.files_unmodified > 0, "{:?}", report.summary);
    assert_eq!(report.summary.files_unmodified + report.summary.files_new, FILES);
    scene.assert_restores(&report, &describe(&scene.source()));
    Restic::at(scene.path()).check();
}
