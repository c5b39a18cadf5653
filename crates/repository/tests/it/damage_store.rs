//! Stores that are full, go away or lie while a backup runs: told clearly, and nothing is the worse for it.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use repository::check::{CheckOptions, ReadData, check};
use repository::{Context, Error, FileKind, LockOptions, Repository, WriterOptions};
use store::fault::{Effect, Filter, Operation};
use store::{ErrorKind, Fault, Memory, Store};

use crate::support::engine::{backup, backup_with, init, local, options, restore, try_backup, write_out};
use crate::support::restic::Restic;
use crate::support::tree::{assert_same, describe};
use crate::support::{child, noise};
use repository::backup::{BackupOptions, BackupReport};

fn small_packs() -> BackupOptions {
    BackupOptions { writer: WriterOptions { pack_bytes: 200_000 }, ..options() }
}

fn assert_restores(repository: &Repository, report: &BackupReport, source: &std::path::Path) {
    let target = tempfile::tempdir().unwrap();
    restore(repository, &report.snapshot.snapshot.tree, target.path());
    assert_same(&describe(source), &describe(&target.path().join(source.strip_prefix("/").unwrap())));
}

#[test]
fn a_full_disk() {
    if !child::inside_mount_namespace("damage_store::a_full_disk") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (disk, source) = (directory.path().join("disk"), directory.path().join("source"));
    fs::create_dir(&disk).unwrap();
    fs::create_dir(&source).unwrap();
    let mount = |options: &str| {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&disk).status();
        assert!(status.unwrap().success());
    };
    mount("size=6m");
    let repository = init(local(disk.join("repository")));
    fs::write(source.join("first"), noise(1, 1 << 20)).unwrap();
    let first = backup_with(&repository, &[&source], &small_packs());
    let state = describe(&source);
    fs::write(source.join("second"), noise(2, 20 << 20)).unwrap();
    for _ in 0..3 {
        let error = try_backup(&repository, &[&source], &small_packs()).unwrap_err();
        assert!(matches!(&error, Error::Store(error) if error.kind == ErrorKind::Full), "{error}");
        assert!(error.to_string().contains(disk.to_str().unwrap()), "{error}");
        assert_eq!(repository.list(FileKind::Snapshot).unwrap().len(), 1);
    }
    // The lock went although the disk is full, and what was there is as it was.
    assert_eq!(repository.list(FileKind::Lock).unwrap(), []);
    let report =
        check(&repository, &CheckOptions { lock: None, read_data: ReadData::All }, Context::silent());
    assert!(!report.unwrap().has_errors());
    let target = directory.path().join("target");
    restore(&repository, &first.snapshot.snapshot.tree, &target);
    assert_same(&state, &describe(&target.join(source.strip_prefix("/").unwrap())));
    // With room again it goes on.
    mount("remount,size=60m");
    let second = backup_with(&repository, &[&source], &small_packs());
    assert_restores(&repository, &second, &source);
    Restic::at(disk.join("repository")).check();
}

/// Full after any number of bytes, wherever that falls.
#[test]
fn a_store_that_fills_up_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), noise(1, 1 << 20)).unwrap();
    let mut full = 0;
    for room in (0..1_300_000).step_by(50_000).chain([200, 400, 1_053_000, 1_055_000]) {
        let fault = Arc::new(Fault::new(Memory::new()));
        let repository = init(Arc::clone(&fault) as Arc<dyn Store>);
        fault.fill_after(room);
        match try_backup(&repository, &[directory.path()], &small_packs()) {
            Ok(_) => {}
            Err(Error::Store(error)) if error.kind == ErrorKind::Full => {
                full += 1;
                assert_eq!(repository.list(FileKind::Snapshot).unwrap(), [], "{room}");
            }
            Err(error) => panic!("{room}: {error}"),
        }
        fault.heal();
        let report = backup(&repository, &[directory.path()]);
        assert_restores(&repository, &report, directory.path());
    }
    assert!(full > 20, "{full}");
}

/// The store goes away for good in the middle, and is back later.
#[test]
fn a_store_that_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..20 {
        fs::write(directory.path().join(format!("file {number}")), noise(number, 100_000)).unwrap();
    }
    let fault = Arc::new(Fault::new(Memory::new()));
    let repository = init(Arc::clone(&fault) as Arc<dyn Store>);
    let result =
        crate::support::engine::backup_watched(&repository, directory.path(), &small_packs(), |event| {
            if matches!(event, repository::Event::Item { path, .. } if path.ends_with("file 9")) {
                fault.freeze();
            }
        });
    assert!(
        matches!(&result, Err(Error::Store(error)) if error.kind == ErrorKind::Unavailable),
        "{result:?}"
    );
    fault.heal();
    // Its lock is still there, and it is ours: only we know that nobody is at work.
    assert_eq!(repository.unlock(true, LockOptions::default()).unwrap().len(), 1);
    let report = backup(&repository, &[directory.path()]);
    assert_restores(&repository, &report, directory.path());
    let disk = tempfile::tempdir().unwrap();
    write_out(fault.inner(), disk.path());
    Restic::at(disk.path()).check();
}

/// Every single write lost on the way, or done and reported as failed: an error and no snapshot, or a whole one.
#[test]
fn any_one_write_that_fails() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), noise(1, 1 << 20)).unwrap();
    for effect in [Effect::Fail(ErrorKind::Denied), Effect::LoseAcknowledgement] {
        for nth in 1.. {
            let fault = Arc::new(Fault::new(Memory::new()));
            let repository = init(Arc::clone(&fault) as Arc<dyn Store>);
            let before = fault.durable_log().len() as u64;
            fault.inject(Filter::of(&[Operation::Put]).only(nth), effect);
            let result = try_backup(&repository, &[directory.path()], &small_packs());
            let writes = fault.durable_log().len() as u64 - before;
            let Err(error) = result else {
                assert!(nth >= 5, "nothing failed at write {nth} of {writes}");
                break;
            };
            assert!(matches!(error, Error::Store(_)), "{error}");
            fault.heal();
            repository.unlock(true, LockOptions::default()).unwrap();
            let report = backup(&repository, &[directory.path()]);
            assert_restores(&repository, &report, directory.path());
            let options = CheckOptions { lock: None, read_data: ReadData::All };
            let findings = check(&repository, &options, Context::silent()).unwrap();
            assert!(!findings.has_errors(), "{effect:?} {nth}: {:?}", findings.findings);
        }
    }
}

/// Bad luck everywhere, at a rate; whatever comes of it is whole or nothing.
#[test]
fn bad_luck() {
    let seed = getrandom::u64().unwrap();
    println!("seed {seed}");
    let directory = tempfile::tempdir().unwrap();
    for number in 0..30 {
        fs::write(directory.path().join(format!("file {number}")), noise(number, 20_000)).unwrap();
    }
    let fault = Arc::new(Fault::new(Memory::new()));
    let repository = init(Arc::clone(&fault) as Arc<dyn Store>);
    let (mut good, mut bad) = (Vec::new(), 0);
    for round in 0..60u64 {
        fs::write(directory.path().join("changes"), noise(seed ^ round, 300_000)).unwrap();
        fault.fail_at_random(seed.wrapping_add(round), 3);
        let result = try_backup(&repository, &[directory.path()], &small_packs());
        fault.heal();
        match result {
            Ok(report) => good.push(report),
            Err(_) => bad += 1,
        }
        repository.unlock(true, LockOptions::default()).unwrap();
    }
    assert!(bad >= 5 && good.len() >= 5, "seed {seed}: {bad} bad, {} good", good.len());
    let options = CheckOptions { lock: None, read_data: ReadData::All };
    let findings = check(&repository, &options, Context::silent()).unwrap();
    assert!(!findings.has_errors(), "seed {seed}: {:?}", findings.findings);
    let snapshots = repository.list(FileKind::Snapshot).unwrap();
    for report in &good {
        assert!(snapshots.iter().any(|(id, _)| *id == report.snapshot.id), "seed {seed}");
    }
    let disk = tempfile::tempdir().unwrap();
    write_out(fault.inner(), disk.path());
    Restic::at(disk.path()).check();
}
