//! Trees and files at the limits: very deep, very wide, very sparse.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use repository::backup::{BackupOptions, Source, backup as run_backup};
use repository::{Context, Error, Event};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::support::child;
use crate::support::engine::{
    On, backup, backup_with, entries_below, in_memory, init, local, options, restore, tree_of,
};
use crate::support::restic::Restic;
use crate::support::tree::{assert_same, describe};

/// More levels than open files are allowed, and a path longer than the system takes at once.
#[test]
fn a_tree_may_be_deeper_than_files_may_be_open() {
    const LEVELS: usize = 3000;
    if !child::inside(
        &["prlimit", "--nofile=256"],
        "backup_extremes::a_tree_may_be_deeper_than_files_may_be_open",
    ) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut here = openat(CWD, directory.path(), flags, Mode::empty()).unwrap();
    for level in 0..LEVELS {
        mkdirat(&here, "d", Mode::RWXU).unwrap();
        if level % 100 == 0 {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&here, "file", flags, Mode::RUSR).unwrap();
            rustix::io::write(&file, format!("level {level}").as_bytes()).unwrap();
        }
        here = openat(&here, "d", flags, Mode::empty()).unwrap();
    }
    let (_, repository) = in_memory();
    // With checkpoints on the way, which look at all that is open.
    let options = BackupOptions { checkpoint_every: Some(Duration::from_millis(1)), ..options() };
    // One that is cancelled at the bottom has everything open, and saves and drops it.
    let cancel = AtomicBool::new(false);
    let observer = On(|event: Event<'_>| {
        if matches!(event, Event::Current(path) if path.as_os_str().len() > 2 * LEVELS - 10) {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    let source = Source::Paths(vec![directory.path().to_owned()]);
    let context = Context { observer: &observer, cancel: &cancel };
    let result = run_backup(&repository, source, &options, context);
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    let report = backup_with(&repository, &[directory.path()], &options);
    let summary = &report.summary;
    assert_eq!(summary.files_new + summary.files_unmodified, LEVELS as u64 / 100);
    assert_eq!(summary.dirs_new + summary.dirs_changed + summary.dirs_unmodified, LEVELS as u64 + 1);
    let again = backup(&repository, &[directory.path()]);
    let tree_of = |report| tree_of(&repository, report, directory.path());
    assert_eq!(tree_of(&again), tree_of(&report));
    let removed = Command::new("rm").arg("-rf").arg(directory.path()).status().unwrap();
    assert!(removed.success());
}

#[test]
fn a_directory_may_hold_200_000_entries() {
    const ENTRIES: usize = 200_000;
    if !child::inside_mount_namespace("backup_extremes::a_directory_may_hold_200_000_entries") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // In memory, where making and removing them takes no time.
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(directory.path()).status();
    assert!(mounted.unwrap().success());
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    for number in 0..ENTRIES {
        File::create(source.join(format!("entry {number}"))).unwrap();
    }
    fs::write(source.join("entry 77"), "not empty").unwrap();
    let repository = init(local(directory.path().join("repository")));
    let first = backup(&repository, &[&source]);
    assert_eq!(first.summary.files_new, ENTRIES as u64);
    fs::write(source.join("entry 777"), "not empty either").unwrap();
    let second = backup(&repository, &[&source]);
    assert_eq!((second.summary.files_changed, second.summary.files_unmodified), (1, ENTRIES as u64 - 1));
    let restic = Restic::at(directory.path().join("repository"));
    restic.check();
    let entries = entries_below(&repository, &second.snapshot.snapshot.tree, &source);
    assert_eq!(entries.len(), ENTRIES);
    assert_eq!(entries[Path::new("entry 777")].size, 16);
}

#[test]
fn a_hole_of_100_gib_takes_no_time() {
    const HOLE: u64 = 100 << 30;
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    let file = File::create(source.join("sparse")).unwrap();
    {
        use std::os::unix::fs::FileExt;
        file.write_all_at(b"far away", HOLE + 12_345).unwrap();
    }
    let repository = init(local(directory.path().join("repository")));
    let start = Instant::now();
    let report = backup(&repository, &[&source]);
    let time = start.elapsed();
    // Reading 100 GiB of zeros takes minutes at the least.
    assert!(time < Duration::from_secs(30), "{time:?}");
    assert_eq!(report.summary.data_blobs, 2);
    assert_eq!(report.summary.total_bytes_processed, HOLE + 12_345 + 8);
    let node = &entries_below(&repository, &report.snapshot.snapshot.tree, &source)[Path::new("sparse")];
    assert_eq!(node.size, HOLE + 12_345 + 8);
    assert_eq!(node.content.as_ref().unwrap().len() as u64, HOLE / (512 << 10) + 1);
    Restic::at(directory.path().join("repository")).check();
}

#[test]
fn names_of_every_length_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    for length in 1..=255usize {
        let byte = if length.is_multiple_of(3) { 0xff } else { b'n' };
        fs::write(source.join(std::ffi::OsStr::from_bytes(&vec![byte; length])), "").unwrap();
    }
    let (_, repository) = in_memory();
    let tree = backup(&repository, &[&source]).snapshot.snapshot.tree;
    let target = directory.path().join("target");
    restore(&repository, &tree, &target);
    assert_same(&describe(&source), &describe(&target.join(source.strip_prefix("/").unwrap())));
}
