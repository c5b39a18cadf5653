//! Sources that cannot be read, vanish, or change while they are read: told, and never a silent success.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use repository::backup::{BackupOptions, BackupReport, ProblemKind, Source, backup as run_backup};
use repository::{Context, Error, Event, FileKind, Repository};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::child::as_nobody;
use crate::support::engine::{
    backup, backup_watched, content, digest, entries_below, in_memory, names_below, options, try_backup,
};
use crate::support::noise;

fn problems(report: &BackupReport, root: &Path) -> Vec<(String, ProblemKind)> {
    let relative = |path: &Path| path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
    report.problems.iter().map(|problem| (relative(&problem.path), problem.kind)).collect()
}

fn names(repository: &Repository, report: &BackupReport, root: &Path) -> Vec<String> {
    names_below(repository, &report.snapshot.snapshot.tree, root)
}

fn snapshots(repository: &Repository) -> usize {
    repository.list(FileKind::Snapshot).unwrap().len()
}

/// One worker, so that what an observer does comes before the next step.
fn one_thread() -> BackupOptions {
    BackupOptions { threads: Some(1), ..options() }
}

#[test]
fn what_may_not_be_read_is_told_and_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
    for name in ["closed directory", "open"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("within"), "within").unwrap();
    }
    for name in ["closed", "open/closed", "readable"] {
        fs::write(root.join(name), name).unwrap();
    }
    fs::write(root.join("closed and large"), noise(1, 2 << 20)).unwrap();
    for name in ["closed", "open/closed", "closed directory", "closed and large"] {
        fs::set_permissions(root.join(name), Permissions::from_mode(0o000)).unwrap();
    }
    let (_, repository) = in_memory();
    let report = as_nobody(|| try_backup(&repository, &[root], &options())).unwrap();
    let unreadable = ["closed", "closed and large", "closed directory", "open/closed"];
    assert_eq!(
        problems(&report, root),
        unreadable.map(|path| (path.to_owned(), ProblemKind::Unreadable)),
        "{:?}",
        report.problems
    );
    assert!(report.problems.iter().all(|problem| problem.error.contains("denied")));
    assert_eq!(names(&repository, &report, root), ["open", "open/within", "readable"]);
    let said = AtomicBool::new(false);
    let nothing = as_nobody(|| {
        backup_watched(&repository, &root.join("closed"), &options(), |event| {
            said.fetch_or(matches!(event, Event::Problem { .. }), Ordering::Relaxed);
        })
    });
    assert!(matches!(&nothing, Err(Error::Refused(why)) if why.contains("denied")), "{nothing:?}");
    assert!(said.into_inner());
    assert_eq!(snapshots(&repository), 1, "a backup of nothing is none");
    for name in ["closed", "closed directory"] {
        fs::set_permissions(root.join(name), Permissions::from_mode(0o700)).unwrap();
    }
}

/// The kernel lists this file and refuses to read it, to root as well.
#[test]
fn a_file_that_fails_while_it_is_read_is_told() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("sound"), "sound").unwrap();
    let (_, repository) = in_memory();
    // Reading at offset 0 of one's own memory is an input/output error.
    let paths = [directory.path(), Path::new("/proc/self/mem")];
    let report = try_backup(&repository, &paths, &options()).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].kind, ProblemKind::Unreadable);
    assert!(report.problems[0].error.contains("os error 5"), "{:?}", report.problems);
    assert_eq!(names(&repository, &report, directory.path()), ["sound"]);
}

#[test]
fn missing_targets_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::write(root.join("there"), "there").unwrap();
    let (memory, repository) = in_memory();
    let report = try_backup(&repository, &[&root.join("there"), &root.join("gone")], &options()).unwrap();
    assert_eq!(problems(&report, root).len(), 1);
    assert_eq!(report.problems[0].path, root.join("gone"));
    assert_eq!(names(&repository, &report, root), ["there"]);
    let before = digest(&*memory);
    for targets in [vec![root.join("gone")], vec![root.join("a/b/c"), root.join("gone")], vec![]] {
        let targets: Vec<&Path> = targets.iter().map(PathBuf::as_path).collect();
        let result = try_backup(&repository, &targets, &options());
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    }
    assert_eq!(snapshots(&repository), 1);
    let left: Vec<_> = digest(&*memory).into_keys().filter(|key| !before.contains_key(key)).collect();
    assert!(left.iter().all(|key| key.starts_with("data/") || key.starts_with("index/")), "{left:?}");
}

#[test]
fn what_vanishes_after_it_was_listed_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["a", "b", "c"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), name).unwrap();
        fs::write(root.join(format!("{name}.txt")), name).unwrap();
    }
    let (_, repository) = in_memory();
    let report = backup_watched(&repository, root, &one_thread(), |event| {
        // The root is listed now, and nothing in it is read yet.
        if matches!(event, Event::Expect { items: 3, .. }) {
            fs::remove_file(root.join("b.txt")).unwrap();
            fs::remove_dir_all(root.join("b")).unwrap();
        }
    })
    .unwrap();
    assert_eq!(
        problems(&report, root),
        [("b".into(), ProblemKind::Vanished), ("b.txt".into(), ProblemKind::Vanished)]
    );
    assert_eq!(names(&repository, &report, root), ["a", "a/file", "a.txt", "c", "c/file", "c.txt"]);
}

/// What was a file when it was listed and is something else when it is opened.
#[test]
fn what_becomes_something_else_is_told_and_hangs_nobody() {
    type Put = fn(&Path);
    let kinds: [(&str, Put); 4] = [
        ("fifo", |path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap()),
        ("link", |path| symlink("/etc/passwd", path).unwrap()),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("nothing", |_| {}),
    ];
    for bytes in [10, 2 << 20] {
        for (kind, put) in kinds {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path();
            fs::write(root.join("victim"), noise(1, bytes)).unwrap();
            fs::write(root.join("witness"), "sound").unwrap();
            let (_, repository) = in_memory();
            let report = backup_watched(&repository, root, &one_thread(), |event| {
                if matches!(event, Event::Expect { items: 2, .. }) {
                    fs::remove_file(root.join("victim")).unwrap();
                    put(&root.join("victim"));
                }
            })
            .unwrap();
            assert_eq!(problems(&report, root).len(), 1, "{kind} {bytes}: {:?}", report.problems);
            assert_eq!(problems(&report, root)[0].0, "victim", "{kind} {bytes}");
            assert_eq!(names(&repository, &report, root), ["witness"], "{kind} {bytes}");
        }
    }
}

#[test]
fn a_file_that_grows_after_it_was_listed_is_taken_whole() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let data = noise(1, 3 << 20);
    fs::write(root.join("grows"), &data[..10]).unwrap();
    let (_, repository) = in_memory();
    let report = backup_watched(&repository, root, &one_thread(), |event| {
        if matches!(event, Event::Expect { items: 1, .. }) {
            fs::write(root.join("grows"), &data).unwrap();
        }
    })
    .unwrap();
    let entries = entries_below(&repository, &report.snapshot.snapshot.tree, root);
    let node = &entries[Path::new("grows")];
    assert_eq!(content(&repository, node), data);
    assert_eq!(node.size, data.len() as u64);
    // The next backup must not take the file for unchanged by the time of before.
    let again = backup(&repository, &[root]);
    let entries = entries_below(&repository, &again.snapshot.snapshot.tree, root);
    assert_eq!(content(&repository, &entries[Path::new("grows")]), data);
}

#[test]
fn a_large_file_that_changes_while_it_is_read_is_told() {
    type Alter = fn(&Path);
    let alterations: [(&str, Alter); 3] = [
        ("appended", |path| {
            File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
        }),
        ("cut", |path| File::options().write(true).open(path).unwrap().set_len(5).unwrap()),
        ("written over", |path| {
            use std::os::unix::fs::FileExt;
            File::options().write(true).open(path).unwrap().write_all_at(b"x", 100).unwrap();
        }),
    ];
    for (what, alter) in alterations {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("changes"), noise(1, 30 << 20)).unwrap();
        let (_, repository) = in_memory();
        let done = AtomicBool::new(false);
        let report = backup_watched(&repository, root, &one_thread(), |event| {
            // The first of its chunks is saved.
            if matches!(event, Event::Advance { bytes: 1.., .. }) && !done.swap(true, Ordering::Relaxed) {
                alter(&root.join("changes"));
            }
        })
        .unwrap();
        assert_eq!(problems(&report, root), [("changes".into(), ProblemKind::Changed)], "{what}");
        // What is stored is what the node says, and the next backup reads the file again.
        let entries = entries_below(&repository, &report.snapshot.snapshot.tree, root);
        let node = &entries[Path::new("changes")];
        assert_eq!(content(&repository, node).len() as u64, node.size, "{what}");
        let again = backup(&repository, &[root]);
        assert_eq!(again.summary.files_changed, 1, "{what}");
        let entries = entries_below(&repository, &again.snapshot.snapshot.tree, root);
        assert!(
            content(&repository, &entries[Path::new("changes")]) == fs::read(root.join("changes")).unwrap()
        );
    }
}

/// A real race: a writer that never rests beside backup after backup, until one of them is hit.
#[test]
fn a_busy_file_is_told_sooner_or_later() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for number in 0..20 {
        fs::write(root.join(format!("busy {number}")), noise(1, 100_000)).unwrap();
    }
    let (_, repository) = in_memory();
    let stop = AtomicBool::new(false);
    let hit = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                fs::write(root.join(format!("busy {}", round % 20)), noise(round, 100_000)).unwrap();
            }
        });
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut hit = None;
        while hit.is_none() && Instant::now() < deadline {
            let report = try_backup(&repository, &[root], &options()).unwrap();
            hit = report.problems.into_iter().find(|problem| problem.kind == ProblemKind::Changed);
        }
        stop.store(true, Ordering::Relaxed);
        hit
    });
    assert!(hit.is_some(), "120 s of backups beside a writer, and not one file changed");
    // At rest again, everything is as it is on disk.
    let report = backup(&repository, &[root]);
    for (path, node) in entries_below(&repository, &report.snapshot.snapshot.tree, root) {
        assert!(content(&repository, &node) == fs::read(root.join(&path)).unwrap(), "{path:?}");
    }
}

fn stream(
    repository: &Repository,
    name: &str,
    reader: impl Read + Send,
    end: Result<(), String>,
) -> repository::Result<BackupReport> {
    let source =
        Source::Stream { name: name.into(), reader: Box::new(reader), finish: Box::new(move || end) };
    run_backup(repository, source, &options(), Context::silent())
}

#[test]
fn a_stream_is_a_file() {
    let (_, repository) = in_memory();
    let data = noise(1, 20 << 20);
    for (name, data) in [("dump.sql", &data[..]), ("a/b/dump.sql", &data[..]), ("empty", &[])] {
        let report = stream(&repository, name, data, Ok(())).unwrap();
        assert_eq!(report.snapshot.snapshot.paths, [format!("/{name}")]);
        let entries = entries_below(&repository, &report.snapshot.snapshot.tree, Path::new("/"));
        let node = &entries[Path::new(name)];
        assert_eq!((node.size, node.mode), (data.len() as u64, 0o644));
        assert!(content(&repository, node) == data);
    }
}

/// Fails after some bytes, as a broken pipe would.
struct Breaks(usize);

impl Read for Breaks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::Error::other("the pipe broke"));
        }
        let length = buffer.len().min(self.0);
        buffer[..length].fill(7);
        self.0 -= length;
        Ok(length)
    }
}

#[test]
fn a_stream_that_fails_leaves_no_snapshot() {
    let (_, repository) = in_memory();
    let data = noise(1, 3 << 20);
    let result = stream(&repository, "dump", &data[..], Err("pg_dump ended with status 1".into()));
    assert!(matches!(&result, Err(Error::Refused(why)) if why.contains("status 1")), "{result:?}");
    for bytes in [0, 100, 12 << 20] {
        let result = stream(&repository, "dump", Breaks(bytes), Ok(()));
        assert!(matches!(&result, Err(Error::Io { .. })), "{bytes}: {result:?}");
    }
    for name in ["", "/", ".", ".."] {
        assert!(matches!(stream(&repository, name, &b"x"[..], Ok(())), Err(Error::Refused(_))), "{name:?}");
    }
    assert_eq!(snapshots(&repository), 0);
    assert_eq!(repository.list(FileKind::Lock).unwrap(), []);
}

#[test]
fn a_dry_run_changes_nothing_and_tells_the_truth() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::write(root.join("large"), noise(1, 5 << 20)).unwrap();
    fs::write(root.join("small"), "small").unwrap();
    let (memory, repository) = in_memory();
    let dry = BackupOptions { dry_run: true, checkpoint_every: Some(Duration::ZERO), ..options() };
    for round in 0..2 {
        let before = digest(&*memory);
        let told = try_backup(&repository, &[root], &dry).unwrap();
        assert_eq!(digest(&*memory), before);
        let report = backup(&repository, &[root]);
        let counts = |report: &BackupReport| {
            let summary = &report.summary;
            (summary.files_new, summary.files_changed, summary.files_unmodified, summary.data_blobs)
        };
        assert_eq!(counts(&told), counts(&report), "round {round}");
        fs::write(root.join("small"), "smaller").unwrap();
    }
}
