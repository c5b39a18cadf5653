//! Locks: ours keep restic out, restic's keep us out, and those of the dead keep nobody out for ever.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use repository::backup::{BackupOptions, Source, backup as run_backup};
use repository::format::LockFile;
use repository::{Clock, Context, Error, Event, FileKind, Id, Lock, LockOptions, Repository, WriterOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use store::fault::{Effect, Filter, Operation};
use store::{ErrorKind, Fault, Memory, Store};

use crate::support::engine::{
    PASSWORD, backup, backup_watched, digest, in_memory, init, local, open, options, restore,
};
use crate::support::restic::Restic;
use crate::support::tree::{assert_same, describe};
use crate::support::{child, noise};

struct Scene {
    directory: tempfile::TempDir,
    repository: Repository,
    restic: Restic,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("repository");
        Self { repository: init(local(&path)), restic: Restic::at(path), directory }
    }

    fn source(&self) -> PathBuf {
        let path = self.directory.path().join("source");
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn locks(&self) -> Vec<Id> {
        self.repository.list(FileKind::Lock).unwrap().into_iter().map(|(id, _)| id).collect()
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lock_file(minutes_ago: i64, exclusive: bool, hostname: &str, pid: i64) -> LockFile {
    let time = Timestamp::now() - SignedDuration::from_mins(minutes_ago);
    LockFile {
        time: time.into(),
        exclusive,
        hostname: hostname.into(),
        username: "somebody".into(),
        pid,
        uid: 0,
        gid: 0,
    }
}

fn this_host() -> String {
    rustix::system::uname().nodename().to_str().unwrap().to_owned()
}

fn is_locked<T>(result: &repository::Result<T>) -> bool {
    matches!(result, Err(Error::Locked { .. }))
}

#[test]
#[ignore = "is started by a_backup_that_stands_still_is_not_pruned_away"]
fn helper_that_backs_up_its_standard_input() {
    let Some(orders) = child::orders() else { return };
    let repository = open(local(orders));
    let source = Source::Stream {
        name: "stream".into(),
        reader: Box::new(std::io::stdin()),
        finish: Box::new(|| Ok(())),
    };
    let options = BackupOptions { writer: WriterOptions { pack_bytes: 100_000 }, ..options() };
    run_backup(&repository, source, &options, Context::silent()).unwrap();
}

/// A backup that stands still while packs of it lie in no index: the moment at which a prune would destroy it.
#[test]
fn a_backup_that_stands_still_is_not_pruned_away() {
    let scene = Scene::new();
    fs::write(scene.source().join("file"), "to have something to prune").unwrap();
    backup(&scene.repository, &[&scene.source()]);
    let packs = || scene.repository.list(FileKind::Pack).unwrap().len();
    let before = packs();
    let data = noise(1, 30 << 20);
    // restic tells whether a process lives by sending it SIGHUP.
    let mut writer = child::command(
        &["nohup"],
        "locks::helper_that_backs_up_its_standard_input",
        scene.restic.repository.to_str().unwrap(),
    )
    // A stopped process in our own group would have the kernel hang up on the whole group.
    .process_group(0)
    .stdin(Stdio::piped())
    .spawn()
    .unwrap();
    let mut input = writer.stdin.take().unwrap();
    let half = data.len() / 2;
    input.write_all(&data[..half]).unwrap();
    wait_for("packs", || packs() > before);
    let pid = Pid::from_child(&writer);
    kill_process(pid, Signal::STOP).unwrap();
    wait_for("its threads to stop", || threads_are(writer.id(), 'T'));

    let store = digest(&**scene.repository.store());
    for command in
        [&["prune"][..], &["forget", "--keep-last=1", "--prune"], &["rebuild-index"], &["check"], &["unlock"]]
    {
        let output = scene.restic.try_run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let unlocks = command == ["unlock"];
        assert_eq!(output.status.success(), unlocks, "{command:?}: {said}");
        assert!(unlocks || said.contains("already locked"), "{command:?}: {said}");
        assert_eq!(digest(&**scene.repository.store()), store, "{command:?} changed something");
    }
    assert!(is_locked(&Lock::exclusive(&scene.repository, LockOptions::default())));
    // Others may add meanwhile, of either kind.
    scene.restic.backup(&[&scene.source()]);
    backup(&scene.repository, &[&scene.source()]);

    kill_process(pid, Signal::CONT).unwrap();
    input.write_all(&data[half..]).unwrap();
    drop(input);
    assert!(writer.wait().unwrap().success());
    scene.restic.run(["prune", "--max-unused=0"]);
    scene.restic.check();
    assert!(scene.restic.run(["dump", "--path=/stream", "latest", "/stream"]) == data);
    assert_eq!(scene.locks(), []);
}

#[test]
fn our_exclusive_lock_keeps_restic_out() {
    let scene = Scene::new();
    let source = scene.source();
    let lock = Lock::exclusive(&scene.repository, LockOptions::default()).unwrap();
    for command in [&["backup", source.to_str().unwrap()][..], &["check"], &["prune"], &["forget", "latest"]]
    {
        let output = scene.restic.try_run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("already locked exclusively"),
            "{command:?}: {said}"
        );
    }
    assert!(is_locked(&Lock::shared(&scene.repository, LockOptions::default())));
    lock.release().unwrap();
    scene.restic.backup(&[&source]);
}

#[test]
fn restic_at_work_keeps_us_out() {
    let scene = Scene::new();
    fs::write(scene.source().join("file"), noise(1, 20 << 20)).unwrap();
    backup(&scene.repository, &[&scene.source()]);
    // A backup of restic's waits for its input.
    let mut theirs =
        scene.restic.command().args(["backup", "--stdin"]).stdin(Stdio::piped()).spawn().unwrap();
    wait_for("restic's lock", || !scene.locks().is_empty());
    assert!(is_locked(&Lock::exclusive(&scene.repository, LockOptions::default())));
    drop(Lock::shared(&scene.repository, LockOptions::default()).unwrap());
    let holder = match Lock::exclusive(&scene.repository, LockOptions::default()) {
        Err(Error::Locked { holder: Some(holder), exclusive: false, .. }) => holder,
        other => panic!("{other:?}"),
    };
    assert_eq!((holder.pid, holder.hostname), (i64::from(theirs.id()), this_host()));
    theirs.stdin.take().unwrap().write_all(b"not nothing").unwrap();
    assert!(theirs.wait().unwrap().success());
    drop(Lock::exclusive(&scene.repository, LockOptions::default()).unwrap());

    // A check of restic's is exclusive; it is stopped while it is at it.
    let mut stopped = false;
    for _ in 0..20 {
        let mut theirs =
            scene.restic.command().args(["check", "--read-data"]).process_group(0).spawn().unwrap();
        wait_for("restic's lock", || !scene.locks().is_empty() || threads_are(theirs.id(), 'Z'));
        kill_process(Pid::from_child(&theirs), Signal::STOP).unwrap();
        if !scene.locks().is_empty() {
            let shared = Lock::shared(&scene.repository, LockOptions::default());
            stopped = matches!(shared, Err(Error::Locked { exclusive: true, .. }));
        }
        kill_process(Pid::from_child(&theirs), Signal::CONT).unwrap();
        theirs.wait().unwrap();
        if stopped {
            break;
        }
    }
    assert!(stopped, "restic's exclusive lock was never met");
}

/// Whether all threads of a process are in this state: `T` stopped, `Z` ended and not yet asked for its status.
fn threads_are(pid: u32, state: char) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(state))
    })
}

#[test]
fn others_locks_block_until_they_are_removed() {
    // restic tells whether a process lives by sending it SIGHUP, which this one must not get.
    let mut living = std::process::Command::new("nohup").args(["sleep", "600"]).spawn().unwrap();
    let alive = i64::from(living.id());
    // (what it is, the lock, whether taking a shared lock is refused, whether unlock removes it)
    let cases = [
        ("shared, elsewhere", lock_file(0, false, "elsewhere", 1), false, false),
        ("exclusive, elsewhere", lock_file(0, true, "elsewhere", 1), true, false),
        ("exclusive, elsewhere, 29 minutes", lock_file(29, true, "elsewhere", 1), true, false),
        ("exclusive, elsewhere, 31 minutes", lock_file(31, true, "elsewhere", 1), true, true),
        ("exclusive, here, alive", lock_file(0, true, &this_host(), alive), true, false),
        ("exclusive, here, alive, 31 minutes", lock_file(31, true, &this_host(), alive), true, true),
        ("exclusive, elsewhere, in the future", lock_file(-600, true, "elsewhere", 1), true, false),
    ];
    for (what, file, refused, removed) in cases {
        for by_restic in [false, true] {
            let scene = Scene::new();
            let id = scene.repository.save_json(FileKind::Lock, &file).unwrap();
            let shared = Lock::shared(&scene.repository, LockOptions::default());
            assert_eq!(is_locked(&shared), refused, "{what}");
            drop(shared);
            assert!(is_locked(&Lock::exclusive(&scene.repository, LockOptions::default())), "{what}");
            if by_restic {
                scene.restic.run(["unlock"]);
            } else {
                let gone = scene.repository.unlock(false, LockOptions::default()).unwrap();
                assert_eq!(gone.contains(&id), removed, "{what}");
            }
            assert_eq!(scene.locks().is_empty(), removed, "{what}, by restic: {by_restic}");
            scene.repository.unlock(true, LockOptions::default()).unwrap();
            assert_eq!(scene.locks(), [], "{what}");
            drop(Lock::exclusive(&scene.repository, LockOptions::default()).unwrap());
        }
    }
    living.kill().unwrap();
    living.wait().unwrap();
}

#[test]
fn the_lock_of_a_dead_process_of_this_host_is_removed() {
    let (_, repository) = in_memory();
    // A process that was, and has been waited for: its number is free.
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let file = lock_file(0, true, &this_host(), dead.id().into());
    repository.save_json(FileKind::Lock, &file).unwrap();
    drop(Lock::exclusive(&repository, LockOptions::default()).unwrap());
    assert_eq!(repository.list(FileKind::Lock).unwrap(), []);
    // On another host the same number says nothing.
    let elsewhere = LockFile { hostname: "elsewhere".into(), ..file };
    repository.save_json(FileKind::Lock, &elsewhere).unwrap();
    assert!(is_locked(&Lock::shared(&repository, LockOptions::default())));
}

#[test]
fn a_lock_that_cannot_be_read_blocks_until_it_is_removed() {
    let half = |repository: &Repository| {
        let sealed = repository.key().seal(b"{\"time\":");
        (Id::of(&sealed), sealed)
    };
    type Make = fn(&Repository) -> (Id, Vec<u8>);
    let kinds: [(&str, Make); 3] = [
        ("empty", |_| (Id::of(b"whatever"), Vec::new())),
        ("noise", |_| (Id::of(&noise(1, 200)), noise(1, 200))),
        ("cut short", half),
    ];
    for (what, make) in kinds {
        let (memory, repository) = in_memory();
        let (id, data) = make(&repository);
        memory.put(&FileKind::Lock.object(&id), data.into()).unwrap();
        let error = Lock::shared(&repository, LockOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Locked { holder: None, .. }), "{what}: {error}");
        assert!(error.to_string().contains(&id.short()), "{what}: {error}");
        assert_eq!(repository.unlock(false, LockOptions::default()).unwrap(), [id], "{what}");
        drop(Lock::exclusive(&repository, LockOptions::default()).unwrap());
    }
}

#[test]
fn a_held_lock_is_refreshed() {
    let (_, repository) = in_memory();
    let options = LockOptions { refresh_every: Duration::from_millis(10), ..LockOptions::default() };
    let lock = Lock::exclusive(&repository, options).unwrap();
    let first = repository.locks().unwrap()[0].0;
    let is_new = || {
        let locks = repository.locks().unwrap();
        locks.iter().all(|(id, file)| *id != first && file.as_ref().unwrap().exclusive) && !locks.is_empty()
    };
    wait_for("a new lock file", is_new);
    lock.guard().check().unwrap();
    lock.release().unwrap();
    assert_eq!(repository.list(FileKind::Lock).unwrap(), []);
}

fn many_files(directory: &Path) {
    for number in 0..50 {
        fs::write(directory.join(format!("{number}")), noise(number, 5000)).unwrap();
    }
}

/// Backs up while `interfere` does its worst once, half-way; there must be no snapshot and no word of success.
fn assert_lost(repository: &Repository, lock: LockOptions, interfere: impl Fn() + Sync) {
    let directory = tempfile::tempdir().unwrap();
    many_files(directory.path());
    let options = BackupOptions { lock, threads: Some(1), ..options() };
    let (files, done) = (AtomicI64::new(0), AtomicBool::new(false));
    let result = backup_watched(repository, directory.path(), &options, |event| {
        let is_file = matches!(event, Event::Item { .. });
        if is_file && files.fetch_add(1, Ordering::Relaxed) == 25 && !done.swap(true, Ordering::Relaxed) {
            interfere();
        }
    });
    assert!(matches!(result, Err(Error::LockLost { .. })), "{result:?}");
    assert_eq!(repository.list(FileKind::Snapshot).unwrap(), []);
}

#[test]
fn without_its_lock_a_backup_writes_no_snapshot() {
    let fault = Arc::new(Fault::new(Memory::new()));
    let repository = init(Arc::clone(&fault) as Arc<dyn Store>);
    let refreshing = LockOptions { refresh_every: Duration::from_millis(5), ..LockOptions::default() };
    assert_lost(&repository, refreshing, || {
        for (id, _) in repository.list(FileKind::Lock).unwrap() {
            repository.remove(FileKind::Lock, &id).unwrap();
        }
        // Until the refresher has looked twice.
        let looks = || {
            let log = fault.log();
            log.iter()
                .filter(|call| call.operation == Operation::Size && call.key.starts_with("locks/"))
                .count()
        };
        let before = looks();
        let deadline = Instant::now() + Duration::from_secs(5);
        while looks() < before + 2 && Instant::now() < deadline {
            // A refresh that was under way may have written a lock once more.
            for (id, _) in repository.list(FileKind::Lock).unwrap() {
                repository.remove(FileKind::Lock, &id).unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn a_lock_that_cannot_be_refreshed_is_lost() {
    let fault = Arc::new(Fault::new(Memory::new()));
    let repository = init(Arc::clone(&fault) as Arc<dyn Store>);
    let lock = LockOptions {
        refresh_every: Duration::from_millis(10),
        lost_after: Duration::from_millis(200),
        ..LockOptions::default()
    };
    assert_lost(&repository, lock, || {
        fault.inject(Filter::of(&[Operation::Put]).at("locks"), Effect::Fail(ErrorKind::Unavailable));
        std::thread::sleep(Duration::from_millis(300));
    });
}

/// A machine that slept, or a clock that was put right: nobody knows how old the lock looks to others.
#[test]
fn a_clock_that_jumps_loses_the_lock() {
    for minutes in [23, -23, 60 * 24 * 365] {
        let jump = Arc::new(Mutex::new(SignedDuration::ZERO));
        let clock = {
            let jump = Arc::clone(&jump);
            Clock::new(move || Timestamp::now() + *jump.lock().unwrap())
        };
        let memory = Arc::new(Memory::new());
        init(Arc::clone(&memory) as Arc<dyn Store>);
        let repository = Repository::open(memory, PASSWORD.as_bytes(), clock).unwrap();
        assert_lost(&repository, LockOptions::default(), || {
            *jump.lock().unwrap() = SignedDuration::from_mins(minutes);
        });
    }
}

#[test]
fn waiting_for_a_lock_ends_with_it() {
    let (_, repository) = in_memory();
    let lock = Lock::exclusive(&repository, LockOptions::default()).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let options = LockOptions { wait: Duration::from_secs(60), ..LockOptions::default() };
            Lock::shared(&repository, options).map(drop)
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        lock.release().unwrap();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn two_writers_at_once_are_both_right() {
    let scene = Scene::new();
    let sources = ["one", "two", "three"].map(|name| scene.source().join(name));
    for (number, source) in sources.iter().enumerate() {
        fs::create_dir_all(source).unwrap();
        for file in 0..40u64 {
            // Half of it they have in common.
            let seed = if file % 2 == 0 { file } else { file + 1000 * number as u64 };
            fs::write(source.join(file.to_string()), noise(seed, 100_000)).unwrap();
        }
    }
    let options = BackupOptions { writer: WriterOptions { pack_bytes: 300_000 }, ..options() };
    let reports = std::thread::scope(|scope| {
        let writers: Vec<_> = sources
            .iter()
            .map(|source| {
                scope.spawn(|| {
                    let repository = open(local(&scene.restic.repository));
                    crate::support::engine::backup_with(&repository, &[source], &options)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    scene.restic.check();
    assert_eq!(scene.locks(), []);
    for (source, report) in sources.iter().zip(&reports) {
        let target = scene.directory.path().join("target");
        restore(&scene.repository, &report.snapshot.snapshot.tree, &target);
        assert_same(&describe(source), &describe(&target.join(source.strip_prefix("/").unwrap())));
        fs::remove_dir_all(target).unwrap();
    }
}

/// What we write into a lock file is what restic expects there.
#[test]
fn restic_reads_our_lock() {
    let scene = Scene::new();
    let lock = Lock::shared(&scene.repository, LockOptions::default()).unwrap();
    let id = scene.locks()[0].to_hex();
    let file: Value = scene.restic.json(["cat", "--no-lock", "lock", &id]);
    assert_eq!(file["pid"], std::process::id());
    assert_eq!(file["hostname"], this_host());
    assert_eq!(file["exclusive"], false);
    drop(lock);
}
