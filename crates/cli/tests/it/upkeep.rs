//! Forgetting, pruning, copying, locks.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{Place, check};

#[test]
fn forget_refuses_everything() {
    let place = Place::with_snapshot();
    check!(place.run(&["repository", "forget"]), @r"
    --- stderr
    error: the policy keeps nothing: give at least one rule of what to keep
    --- exit code 3
    ");
    check!(place.run(&["repository", "forget", "latest"]), @r"
    --- stderr
    error: this would leave the repository without any snapshot
    --- exit code 3
    ");
    check!(place.run(&["repository", "forget", "--keep-tag", "golden"]), @r"
    --- stderr
    error: the policy would keep none of the 1 snapshots of host [host], paths [dir]/tree; add a rule that keeps one
    --- exit code 3
    ");
    check!(place.run(&["repository", "forget", "--keep-last", "many"]), @r#"
    --- stderr
    error: invalid value 'many' for '--keep-last <N>': "many" is neither a number nor `unlimited`

    For more information, try '--help'.
    --- exit code 3
    "#);
    assert!(place.succeeds(&["repository", "snapshots"]).ends_with("1 snapshot\n"));
}

#[test]
fn forget_and_prune() {
    let place = Place::with_snapshot();
    place.write("tree/a.txt", b"later");
    place.succeeds(&["repository", "backup", "tree", "--host", "here"]);
    check!(place.run(&["repository", "forget", "--keep-last", "1", "--dry-run"]), @r"
    --- stdout
    host [host], paths [dir]/tree
      id  time  host  paths  why
    keep  [id]  [time]  here  [dir]/tree  last snapshot
    remove  [id]  [time]  here  [dir]/tree
    dry run: 1 snapshot would be removed
    --- exit code 0
    ");
    check!(place.run(&["repository", "forget", "--keep-last", "1"]), @r"
    --- stdout
    host [host], paths [dir]/tree
      id  time  host  paths  why
    keep  [id]  [time]  here  [dir]/tree  last snapshot
    remove  [id]  [time]  here  [dir]/tree
    removed 1 snapshot
    --- exit code 0
    ");
    check!(place.run(&["repository", "prune", "--dry-run"]), @r"
    --- stdout
    needed  [size] in 5 blobs; unneeded [size] ([share])
    keep  3 packs, [size]
    rewrite  1 pack, [size], for the needed part of them
    mark  1 pack, [size], to be deleted by a later prune
    dry run: nothing was changed
    --- exit code 0
    ");
    check!(place.run(&["repository", "prune", "--max-unused", "0", "--instant-delete"]), @r"
    --- stdout
    needed  [size] in 5 blobs; unneeded [size] ([share])
    keep  3 packs, [size]
    rewrite  1 pack, [size], for the needed part of them
    delete  1 pack, [size]
    pruned
    --- exit code 0
    ");
    check!(place.run(&["repository", "check", "--read-data"]), @r"
    --- stdout
    checked 1 snapshot, 3 folders, 4 packs with 5 blobs
    read 4 packs, [size]
    no errors were found
    --- exit code 0
    ");
}

#[test]
fn copy() {
    let place = Place::with_snapshot().with("LIFEBOAT_FROM_PASSWORD", "secret");
    place.succeeds(&["repository", "init", "-r", "other", "--like", "repository"]);
    check!(place.run(&["repository", "copy", "-r", "other", "--from-repository", "repository"]), @r"
    --- stdout
    snapshot [id] copied as [id]
    copied 1 snapshot, 0 were there; added [size], [size] as stored
    --- exit code 0
    ");
    check!(place.run(&["repository", "copy", "-r", "other", "--from-repository", "repository"]), @r"
    --- stdout
    snapshot [id] is there already as [id]
    copied 0 snapshots, 1 were there; added [size], [size] as stored
    --- exit code 0
    ");
    check!(place.run(&["repository", "copy", "-r", "other", "--from-repository", "other"]), @r"
    --- stderr
    error: source and target are the same repository
    --- exit code 3
    ");
}

/// A backup that waits for its input holds a lock: others are kept out, its interruption gives the lock back.
#[test]
fn locked_and_interrupted() {
    let place = Place::with_snapshot();
    let mut backup = place
        .command(&["repository", "backup", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = backup.stdin.take().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while place.files("repository/locks").is_empty() {
        assert!(Instant::now() < deadline, "the backup takes no lock");
        std::thread::sleep(Duration::from_millis(20));
    }
    check!(place.run(&["repository", "prune"]), @r"
    --- stderr
    error: the repository at repository is locked: lock [id] held since [time] by process [pid] of [user]
    hint: wait for the other process with --retry-lock 10m
    hint: if that process is surely gone, remove its lock with `lifeboat repository unlock`
    --- exit code 3
    ");
    // Readers are not kept out.
    place.succeeds(&["repository", "ls", "latest"]);

    let killed =
        std::process::Command::new("kill").args(["-INT", &backup.id().to_string()]).status().unwrap();
    assert!(killed.success());
    // The signal is looked at between reads, and the read ends when there is something to read.
    std::thread::sleep(Duration::from_millis(300));
    let _gone = input.write_all(b"more");
    drop(input);
    assert_eq!(backup.wait().unwrap().code(), Some(130));
    assert!(place.files("repository/locks").is_empty(), "the lock was given back");
    check!(place.run(&["repository", "unlock"]), @r"
    --- stdout
    removed 0 locks
    --- exit code 0
    ");
    assert!(place.succeeds(&["repository", "snapshots"]).ends_with("1 snapshot\n"));
}
