//! Every durable operation as the last one that a process got done: nothing is lost, whatever it was doing.
//!
//! An operation runs on a store that freezes before its nth write, and again on one that freezes after it, for every n
//! until it comes through. What the store holds then is what a dead process leaves. On that, stock restic must
//! find no error, every snapshot from before must restore byte for byte with restic and with us, and the
//! next backup must succeed and restore.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use repository::backup::BackupOptions;
use repository::check::{CheckOptions, ReadData, check};
use repository::copy::{CopyOptions, copy};
use repository::forget::{ForgetOptions, plan_forget_named};
use repository::prune::{MaxUnused, PruneOptions, plan_prune};
use repository::repair::{
    RepairIndexOptions, RepairSnapshotsOptions, plan_repair_index, plan_repair_packs, plan_repair_snapshots,
};
use repository::{Clock, Context, Error, FileKind, Id, Lock, LockOptions, Repository, Result, WriterOptions};
use store::{Fault, Memory, Store};

use crate::support::engine::{
    self, CHEAP, PASSWORD, backup_with, init_options, options, restore, try_backup, write_out,
};
use crate::support::restic::Restic;
use crate::support::tree::{Listing, assert_same, describe};
use crate::support::{noise, text};

type Frozen = Arc<Fault<Memory>>;

/// A repository in memory with what its snapshots have to give back.
struct Scene {
    directory: tempfile::TempDir,
    memory: Memory,
    states: Vec<(Id, Listing)>,
}

impl Scene {
    /// `snapshots` snapshots of a tree that changes between them.
    fn new(snapshots: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let memory = Arc::new(Memory::new());
        let repository = engine::init(Arc::clone(&memory) as Arc<dyn Store>);
        let mut scene = Self { directory, memory: Memory::new(), states: Vec::new() };
        for round in 0..=snapshots {
            scene.change(round as u64);
            if round < snapshots {
                let report = backup_with(&repository, &[&scene.source()], &small_packs());
                scene.states.push((report.snapshot.id, describe(&scene.source())));
            }
        }
        scene.memory = memory.snapshot();
        scene
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    /// Changes the source so that some blobs of every earlier pack are needed no more.
    fn change(&self, round: u64) {
        for directory in ["a/deep", "b", "same"] {
            fs::create_dir_all(self.source().join(directory)).unwrap();
        }
        for number in 0..12 {
            let same = self.source().join(format!("same/{number}"));
            if !same.exists() {
                fs::write(same, noise(1000 + number, 9_000)).unwrap();
            }
            let (seed, name) = (round * 100 + number, format!("a/deep/{number}"));
            fs::write(self.source().join(name), noise(seed, 7_000)).unwrap();
        }
        fs::write(self.source().join("b/text"), &text(60_000)[round as usize * 100..]).unwrap();
    }
}

/// About ten packs for a snapshot of the scene, and checkpoints whenever one is looked for.
fn small_packs() -> BackupOptions {
    BackupOptions {
        writer: WriterOptions { pack_bytes: 32 << 10 },
        checkpoint_every: Some(Duration::ZERO),
        threads: Some(2),
        ..options()
    }
}

fn open(store: &Frozen) -> Result<Repository> {
    Repository::open(Arc::clone(store) as Arc<dyn Store>, PASSWORD.as_bytes(), Clock::system())
}

/// Runs `operation` to every crash point and has `verify` look at what is left. Gives the number of points.
///
/// The operation must fail where the store froze, and come through where it did not.
fn for_every_crash_point(
    memory: &Memory,
    operation: impl Fn(&Frozen) -> Result<()>,
    verify: impl Fn(Memory, &str),
) -> u64 {
    // No operation of these tests takes as many; one that never ends would.
    const POINTS_MAX: u64 = 300;
    for point in 1..POINTS_MAX {
        let mut done = false;
        for (when, freeze) in
            [("before", Fault::freeze_before as fn(&Fault<Memory>, u64)), ("after", Fault::freeze_after)]
        {
            let store = Arc::new(Fault::new(memory.snapshot()));
            freeze(&store, point);
            let result = operation(&store);
            let log = store.durable_log();
            let last = log.get(point as usize - 1).map_or_else(|| "the end".to_owned(), ToString::to_string);
            let what = format!("{when} write {point}: {last}");
            if store.is_frozen() {
                verify(store.inner().snapshot(), &what);
            } else {
                result.unwrap_or_else(|error| panic!("{what}: {error}"));
                done = true;
            }
        }
        if done {
            return point - 1;
        }
    }
    panic!("not done after {POINTS_MAX} writes");
}

/// Holds what a dead process left to everything that was promised.
fn assert_nothing_lost(scene: &Scene, states: &[(Id, Listing)], left: Memory, what: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    write_out(&left, &path);
    let restic = Restic::at(&path);
    // Its lock names this very process, which lives.
    restic.run(["unlock", "--remove-all"]);
    let checked = restic.try_run(["check", "--read-data"]);
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.success(), "{what}: {said}");

    let memory = Arc::new(left);
    let repository = engine::open(Arc::clone(&memory) as Arc<dyn Store>);
    repository.unlock(true, LockOptions::default()).unwrap();
    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    let report = check(&repository, &options, Context::silent()).unwrap();
    assert!(!report.has_errors(), "{what}: {:?}", report.findings);
    for (id, state) in states {
        assert_restores(&repository, id, state, &scene.source(), directory.path(), what);
    }
    let report = try_backup(&repository, &[&scene.source()], &small_packs())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(report.problems, [], "{what}");
    let state = describe(&scene.source());
    assert_restores(&repository, &report.snapshot.id, &state, &scene.source(), directory.path(), what);
    assert_eq!(repository.list(FileKind::Checkpoint).unwrap(), [], "{what}: checkpoints are removed");
}

fn assert_restores(
    repository: &Repository,
    snapshot: &Id,
    state: &Listing,
    source: &Path,
    place: &Path,
    what: &str,
) {
    let found = repository.find_snapshot(&snapshot.to_hex(), &Default::default());
    let tree = found.unwrap_or_else(|error| panic!("{what}: {error}")).snapshot.tree;
    let target = place.join(snapshot.short());
    restore(repository, &tree, &target);
    assert_same(state, &describe(&target.join(source.strip_prefix("/").unwrap())));
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn a_first_backup() {
    let scene = Scene::new(0);
    let points = for_every_crash_point(
        &scene.memory,
        |store| try_backup(&open(store)?, &[&scene.source()], &small_packs()).map(drop),
        |left, what| assert_nothing_lost(&scene, &[], left, what),
    );
    // Lock, packs, index, snapshot, lock.
    assert!(points >= 10, "{points}");
}

#[test]
fn a_second_backup() {
    let scene = Scene::new(2);
    let points = for_every_crash_point(
        &scene.memory,
        |store| try_backup(&open(store)?, &[&scene.source()], &small_packs()).map(drop),
        |left, what| assert_nothing_lost(&scene, &scene.states, left, what),
    );
    assert!(points >= 6, "{points}");
}

#[test]
fn forgetting() {
    let scene = Scene::new(3);
    let names: Vec<String> = scene.states[..2].iter().map(|(id, _)| id.to_hex()).collect();
    let points = for_every_crash_point(
        &scene.memory,
        |store| {
            let plan =
                plan_forget_named(&open(store)?, &names, &ForgetOptions::default(), Context::silent())?;
            let report = plan.execute(Context::silent())?;
            report.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
        },
        |left, what| assert_nothing_lost(&scene, &scene.states[2..], left, what),
    );
    assert_eq!(points, 4, "a lock, two snapshots, the lock");
}

/// Forgets the first of three snapshots, which leaves packs with blobs in use and out of use.
fn half_used() -> Scene {
    let mut scene = Scene::new(3);
    let memory = Arc::new(scene.memory.snapshot());
    let repository = engine::open(Arc::clone(&memory) as Arc<dyn Store>);
    for (id, _) in scene.states.drain(..2) {
        repository.remove(FileKind::Snapshot, &id).unwrap();
    }
    scene.memory = memory.snapshot();
    scene
}

fn prune_at_once() -> PruneOptions {
    PruneOptions {
        max_unused: MaxUnused::Bytes(0),
        keep_delete: Duration::ZERO,
        writer: small_packs().writer,
        ..PruneOptions::default()
    }
}

fn prune(store: &Frozen, options: &PruneOptions) -> Result<()> {
    let report = plan_prune(&open(store)?, options, Context::silent())?.execute(Context::silent())?;
    report.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

#[test]
fn a_prune_that_deletes_at_once() {
    let scene = half_used();
    let points = for_every_crash_point(
        &scene.memory,
        |store| prune(store, &prune_at_once()),
        |left, what| assert_nothing_lost(&scene, &scene.states, left, what),
    );
    assert!(points >= 15, "{points}");
}

#[test]
fn a_prune_that_marks_and_one_that_deletes() {
    let scene = half_used();
    let marking = PruneOptions { keep_delete: Duration::from_secs(3600), ..prune_at_once() };
    let points = for_every_crash_point(
        &scene.memory,
        |store| prune(store, &marking),
        |left, what| assert_nothing_lost(&scene, &scene.states, left, what),
    );
    assert!(points >= 6, "{points}");

    let marked = Arc::new(Fault::new(scene.memory.snapshot()));
    prune(&marked, &marking).unwrap();
    let points = for_every_crash_point(
        marked.inner(),
        |store| prune(store, &prune_at_once()),
        |left, what| assert_nothing_lost(&scene, &scene.states, left, what),
    );
    assert!(points >= 6, "{points}");
}

/// A prune that dies is followed by another one, which must come through and leave nothing of it behind.
#[test]
fn a_prune_after_a_prune_that_died() {
    let scene = half_used();
    let clean = Arc::new(Fault::new(scene.memory.snapshot()));
    prune(&clean, &prune_at_once()).unwrap();
    prune(&clean, &prune_at_once()).unwrap();
    let clean_bytes = stored_bytes(clean.inner());
    for_every_crash_point(
        &scene.memory,
        |store| prune(store, &prune_at_once()),
        |left, what| {
            let store = Arc::new(Fault::new(left));
            open(&store).unwrap().unlock(true, LockOptions::default()).unwrap();
            // The first takes up what the dead one left, the second what the first only marked.
            for _ in 0..2 {
                prune(&store, &prune_at_once()).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            let bytes = stored_bytes(store.inner());
            assert!(bytes <= clean_bytes + clean_bytes / 10, "{what}: {bytes} instead of {clean_bytes}");
            assert_nothing_lost(&scene, &scene.states, store.inner().snapshot(), what);
        },
    );
}

fn stored_bytes(memory: &Memory) -> usize {
    let contents = memory.contents();
    contents.iter().filter(|(key, _)| key.starts_with("data/")).map(|(_, data)| data.len()).sum()
}

#[test]
fn a_rebuilt_index() {
    let scene = Scene::new(2);
    for read_all in [true, false] {
        let memory = scene.memory.snapshot();
        if !read_all {
            // One index file is gone, which leaves its packs to be read.
            let index = memory.contents().into_keys().find(|key| key.starts_with("index/")).unwrap();
            memory.delete(&index).unwrap();
        }
        let options = RepairIndexOptions { read_all, lock: LockOptions::default() };
        let repair = |store: &Frozen| {
            plan_repair_index(&open(store)?, &options, Context::silent())?
                .execute(Context::silent())
                .map(drop)
        };
        for_every_crash_point(&memory, repair, |left, what| {
            let store = Arc::new(Fault::new(left));
            open(&store).unwrap().unlock(true, LockOptions::default()).unwrap();
            if !read_all {
                // What was lost before is lost until the repair has come through.
                repair(&store).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            assert_nothing_lost(&scene, &scene.states, store.inner().snapshot(), what);
        });
    }
}

/// The damage that repairs are there for: some bytes of the pack that holds a file of the first snapshot.
fn damaged(scene: &Scene) -> (Memory, Id) {
    let memory = scene.memory.snapshot();
    let repository = engine::open(Arc::new(memory.snapshot()) as Arc<dyn Store>);
    let tree =
        repository.find_snapshot(&scene.states[0].0.to_hex(), &Default::default()).unwrap().snapshot.tree;
    let entries = engine::entries_below(&repository, &tree, &scene.source());
    let blob = entries[Path::new("a/deep/3")].content.as_ref().unwrap()[0];
    let index = repository::Index::load(&repository, Context::silent()).unwrap();
    let found = index.find(repository::format::BlobKind::Data, &blob).unwrap();
    let pack = index.pack_id(found.pack);
    let key = FileKind::Pack.object(&pack);
    let mut bytes = memory.get(&key).unwrap();
    bytes[found.blob.offset as usize + 20] ^= 1;
    memory.put(&key, bytes.into()).unwrap();
    (memory, pack)
}

/// Repairs of damage: the snapshot that is not hit stays whole at every point, and after them all is sound.
#[test]
fn repairs_of_packs_and_snapshots() {
    let scene = Scene::new(2);
    let (memory, pack) = damaged(&scene);
    let repair = |store: &Frozen| -> Result<()> {
        let repository = open(store)?;
        let plan = plan_repair_packs(&repository, &[pack], LockOptions::default(), Context::silent());
        match plan {
            Ok(plan) => {
                let report = plan.execute(Context::silent())?;
                if let Some((_, error)) = report.failed.into_iter().next() {
                    return Err(error);
                }
            }
            // A repair that died later may have removed it already.
            Err(Error::Missing { .. } | Error::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        let options = RepairSnapshotsOptions { forget: true, ..Default::default() };
        plan_repair_snapshots(&repository, &options, Context::silent())?.execute(Context::silent()).map(drop)
    };
    let whole = &scene.states[1..];
    let points = for_every_crash_point(&memory, repair, |left, what| {
        let store = Arc::new(Fault::new(left));
        let repository = open(&store).unwrap();
        repository.unlock(true, LockOptions::default()).unwrap();
        for (id, state) in whole {
            assert_restores(&repository, id, state, &scene.source(), scene.directory.path(), what);
        }
        repair(&store).unwrap_or_else(|error| panic!("{what}: repeated: {error}"));
        assert_nothing_lost(&scene, whole, store.inner().snapshot(), what);
    });
    assert!(points >= 8, "{points}");
}

#[test]
fn making_a_repository() {
    let init = |store: &Frozen| {
        let store = Arc::clone(store) as Arc<dyn Store>;
        let options = init_options(repository::format::Chunking::Gear);
        Repository::init(store, PASSWORD.as_bytes(), &options, Clock::system()).map(drop)
    };
    let points = for_every_crash_point(&Memory::new(), init, |left, what| {
        let store = Arc::new(Fault::new(left));
        match open(&store) {
            Ok(_) => {}
            Err(Error::NoRepository { .. } | Error::Incomplete { .. }) => {
                init(&store).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            Err(error) => panic!("{what}: {error}"),
        }
        // One key, for a repeated init takes up what the first one left.
        assert_eq!(open(&store).unwrap().keys().unwrap().len(), 1, "{what}");
        let scene = Scene::new(0);
        assert_nothing_lost(&scene, &[], store.inner().snapshot(), what);
    });
    assert_eq!(points, 2, "a key and the config");
}

#[test]
fn changing_the_password() {
    let scene = Scene::new(1);
    let change =
        |store: &Frozen| open(store)?.change_password(b"another", CHEAP, &Default::default()).map(drop);
    let points = for_every_crash_point(&scene.memory, change, |left, what| {
        let opens = |password: &[u8]| {
            let store = Arc::new(left.snapshot());
            Repository::open(store, password, Clock::system())
        };
        let repository = opens(PASSWORD.as_bytes()).or_else(|_| opens(b"another"));
        let repository = repository.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (id, state) = &scene.states[0];
        assert_restores(&repository, id, state, &scene.source(), scene.directory.path(), what);
    });
    assert_eq!(points, 2, "the new key and the old one");
}

/// A lock that is being refreshed when its process dies never leaves the repository without one.
#[test]
fn refreshing_a_lock() {
    let options = LockOptions { refresh_every: Duration::from_millis(20), ..LockOptions::default() };
    let memory = Scene::new(0).memory;
    for point in 2..8 {
        for freeze in [Fault::freeze_before as fn(&Fault<Memory>, u64), Fault::freeze_after] {
            let store = Arc::new(Fault::new(memory.snapshot()));
            freeze(&store, point);
            let lock = Lock::shared(&open(&store).unwrap(), options).unwrap();
            while !store.is_frozen() {
                std::thread::sleep(Duration::from_millis(2));
            }
            let left = engine::open(Arc::new(store.inner().snapshot()));
            let locks = left.locks().unwrap();
            assert!((1..=2).contains(&locks.len()), "{locks:?}");
            let result = Lock::exclusive(&left, LockOptions::default());
            assert!(matches!(result, Err(Error::Locked { .. })), "{result:?}");
            drop(lock);
        }
    }
}

/// The copy is whole at every moment, and the next one completes it.
#[test]
fn copying() {
    let scene = Scene::new(2);
    let source = engine::open(Arc::new(scene.memory.snapshot()));
    let run = |store: &Frozen| {
        let options = CopyOptions { writer: small_packs().writer, ..CopyOptions::default() };
        copy(&source, &open(store)?, &options, Context::silent()).map(|report| report.copied)
    };
    let target = Scene::new(0);
    let points = for_every_crash_point(
        &target.memory,
        |store| run(store).map(drop),
        |left, what| {
            assert_nothing_lost(&scene, &[], left.snapshot(), what);
            let store = Arc::new(Fault::new(left));
            let repository = open(&store).unwrap();
            repository.unlock(true, LockOptions::default()).unwrap();
            run(&store).unwrap_or_else(|error| panic!("{what}: repeated: {error}"));
            let snapshots = repository.snapshots().unwrap();
            assert_eq!(
                snapshots.len(),
                scene.states.len(),
                "{what}: none is missing and none is there twice"
            );
            let copies: Vec<_> = snapshots
                .iter()
                .zip(&scene.states)
                .map(|(copy, (_, state))| (copy.id, state.clone()))
                .collect();
            assert_nothing_lost(&scene, &copies, store.inner().snapshot(), what);
        },
    );
    assert!(points >= 10, "{points}");
}
