//! Making snapshots, looking at them and getting them back.

use crate::harness::{Place, check, flip_bit};

#[test]
fn there_and_back() {
    let place = Place::new();
    place.write("tree/a.txt", b"first");
    place.write("tree/sub/b.txt", &vec![b'x'; 100_000]);
    place.write("tree/skip.tmp", b"no");
    place.succeeds(&["repository", "init"]);
    let host = ["--host", "here"];
    check!(place.run(&[&["repository", "backup", "tree", "--exclude", "*.tmp", "--tag", "a,b"], &host[..]].concat()), @r"
    --- stdout
    files  2 new, 0 changed, 0 unchanged
    folders  2 new, 0 changed, 0 unchanged
    added  [size], [size] as stored
    in all  2 files, [size] in [duration]
    saved snapshot [id]
    --- exit code 0
    ");
    check!(place.run(&[&["repository", "backup", "tree", "--exclude", "*.tmp"], &host[..]].concat()), @r"
    --- stdout
    files  0 new, 0 changed, 2 unchanged
    folders  0 new, 0 changed, 2 unchanged
    added  [size], [size] as stored
    in all  2 files, [size] in [duration]
    saved snapshot [id]
    --- exit code 0
    ");
    check!(place.run(&["repository", "snapshots"]), @r"
    --- stdout
    id  time  host  tags  size  paths
    [id]  [time]  here  a,b  [size]  [dir]/tree
    [id]  [time]  here  [size]  [dir]/tree
    2 snapshots
    --- exit code 0
    ");
    check!(place.run(&["repository", "snapshots", "--tag", "a", "--quiet"]), @r"
    --- stdout
    id  time  host  tags  size  paths
    [id]  [time]  here  a,b  [size]  [dir]/tree
    --- exit code 0
    ");
    check!(place.run(&["repository", "ls", "latest"]), @r"
    --- stdout
    /tree
    /tree/a.txt
    /tree/sub
    /tree/sub/b.txt
    --- exit code 0
    ");
    check!(place.run(&["repository", "find", "b.*"]), @r"
    --- stdout
    snapshot [id] of [time]
    /tree/sub/b.txt
    snapshot [id] of [time]
    /tree/sub/b.txt
    --- exit code 0
    ");
    check!(place.run(&["repository", "dump", "latest:/tree/a.txt"]), @r"
    --- stdout
    first
    --- exit code 0
    ");
    check!(place.run(&["repository", "restore", "latest:/tree", "--target", "back", "--verify"]), @r"
    --- stdout
    restore to back: 2 files to make, [size] to write
    restored  2 files, 1 folder or other; 0 files right already
    verified  2 files against the snapshot
    in all  [size] fetched, [size] written in [duration]
    --- exit code 0
    ");
    assert_eq!(std::fs::read(place.path("back/sub/b.txt")).unwrap(), vec![b'x'; 100_000]);
    assert!(!place.path("back/skip.tmp").exists());

    place.write("back/a.txt", b"other");
    place.write("back/stranger", b"");
    check!(place.run(&["repository", "restore", "latest:/tree", "--target", "back", "--delete", "--dry-run"]), @r"
    --- stdout
    restore to back: 1 file to change, 1 file right already, 1 item to delete, [size] to write
    update  [size]  back/a.txt
    delete  [size]  back/stranger
    dry run: nothing was written
    --- exit code 0
    ");
    assert_eq!(std::fs::read(place.path("back/a.txt")).unwrap(), b"other", "a dry run changes nothing");
    check!(place.run(&["repository", "restore", "latest:/tree", "--target", "back", "--delete"]), @r"
    --- stdout
    restore to back: 1 file to change, 1 file right already, 1 item to delete, [size] to write
    restored  1 file, 0 folders and others; 1 file right already
    deleted  1 item
    in all  [size] fetched, [size] written in [duration]
    --- exit code 0
    ");
    assert_eq!(std::fs::read(place.path("back/a.txt")).unwrap(), b"first");
    assert!(!place.path("back/stranger").exists());
}

#[test]
fn differences() {
    let place = Place::with_snapshot();
    place.write("tree/a.txt", b"changed it");
    std::fs::remove_file(place.path("tree/sub/b.txt")).unwrap();
    place.write("tree/new", b"new");
    place.succeeds(&["repository", "backup", "tree", "--host", "here"]);
    let listed = place.succeeds(&["repository", "snapshots", "--quiet"]);
    let first = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    check!(place.run(&["repository", "diff", first, "latest"]), @r"
    --- stdout
    M  /tree/a.txt
    +  /tree/new
    -  /tree/sub/b.txt
    added  1 file, 0 folders, 0 others; [size]
    removed  1 file, 0 folders, 0 others; [size]
    changed  1 file, 0 in metadata only, 0 of another kind
    --- exit code 0
    ");
}

#[test]
fn no_such_snapshot() {
    let place = Place::with_snapshot();
    check!(place.run(&["repository", "restore", "0123abcd", "--target", "back"]), @r"
    --- stderr
    error: no snapshot begins with [id]
    hint: list the snapshots with `lifeboat repository snapshots`
    --- exit code 3
    ");
    check!(place.run(&["repository", "restore", "latest:/not/there", "--target", "back"]), @r"
    --- stderr
    error: the snapshot has no /not/there
    hint: see what it has with `lifeboat repository ls SNAPSHOT`
    --- exit code 3
    ");
    check!(place.run(&["repository", "ls", "latest", "--host", "elsewhere"]), @r"
    --- stderr
    error: no snapshot fits
    hint: list the snapshots with `lifeboat repository snapshots`
    --- exit code 3
    ");
}

#[test]
fn nothing_to_back_up() {
    let place = Place::with_snapshot();
    check!(place.run(&["repository", "backup", "not-there"]), @r"
    --- stderr
    warning: [dir]/not-there: No such file or directory (os error 2)
    error: nothing could be read; the first problem: [dir]/not-there: No such file or directory (os error 2)
    --- exit code 1
    ");
}

/// What cannot be read is named, the rest is saved, and the exit code says that not all of it is there.
#[test]
fn unreadable_source_is_not_proven() {
    let place = Place::with_snapshot();
    check!(place.run(&["repository", "backup", "tree", "not-there", "--host", "here"]), @r"
    --- stdout
    files  2 new, 0 changed, 0 unchanged
    folders  2 new, 0 changed, 0 unchanged
    added  [size], [size] as stored
    in all  2 files, [size] in [duration]
    saved snapshot [id]
    --- stderr
    warning: [dir]/not-there: No such file or directory (os error 2)
    not proven: 1 item could not be read
    hint: the snapshot holds everything else; run the backup again when the cause is removed, or exclude them
    --- exit code 2
    ");
}

#[test]
fn standard_input() {
    let place = Place::with_snapshot();
    let arguments =
        ["repository", "backup", "--stdin-filename", "d.sql", "--stdin-from-command", "--", "echo", "rows"];
    place.succeeds(&arguments);
    assert_eq!(place.succeeds(&["repository", "dump", "latest:/d.sql"]), "rows\n");
    let arguments =
        ["repository", "backup", "--stdin-filename", "d.sql", "--stdin-from-command", "--", "false"];
    check!(place.run(&arguments), @r"
    --- stderr
    error: /d.sql was not backed up: the command ended with exit status: 1
    --- exit code 1
    ");
    assert!(
        place.succeeds(&["repository", "snapshots"]).ends_with("2 snapshots\n"),
        "a failed dump is no snapshot"
    );
}

#[test]
fn damaged_pack() {
    let place = Place::new();
    place.succeeds(&["repository", "init"]);
    // Bytes that do not compress, so that the pack of data is the largest.
    let noise: Vec<u8> = (0..60_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes())
        .collect();
    place.write("tree/big", &noise);
    place.write("tree/sub/small", b"fine");
    place.succeeds(&["repository", "backup", "tree/big", "--host", "here"]);
    let pack =
        place.files("repository/data").into_iter().max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    place.succeeds(&["repository", "backup", "tree", "--host", "here"]);
    flip_bit(&pack);

    check!(place.run(&["repository", "check"]), @r"
    --- stdout
    checked 2 snapshots, 5 folders, 4 packs with 7 blobs
    no errors were found
    (the structure only: --read-data reads every byte)
    --- exit code 0
    ");
    check!(place.run(&["repository", "check", "--read-data"]), @r"
    --- stdout
    checked 2 snapshots, 5 folders, 4 packs with 7 blobs
    read 4 packs, [size]
    error: pack [id] is damaged: data blob [id] at 0: its authentication tag does not fit its content (and 1 more)
    snapshot [id] of [time] has lost 1 item:
      /tree/big
    snapshot [id] of [time] has lost 1 item:
      /tree/big
    --- stderr
    failed: 1 error
    hint: salvage the damaged packs, then repair the snapshots and back up again: `lifeboat repository repair packs`
    hint: if that does not help, repair the snapshots and back up again: `lifeboat repository repair snapshots`
    --- exit code 1
    ");
    check!(place.run(&["repository", "restore", "latest:/tree", "--target", "back"]), @r"
    --- stdout
    restore to back: 2 files to make, [size] to write
    restored  1 file, 1 folder or other; 0 files right already
    in all  [size] fetched, [size] written in [duration]
    --- stderr
    warning: back/big: data blob [id] in pack [id] is damaged: its authentication tag does not fit its content
    failed: 1 item could not be restored
    hint: everything else is there; an older snapshot may have these items: see `lifeboat repository find`
    --- exit code 1
    ");
    assert_eq!(std::fs::read(place.path("back/sub/small")).unwrap(), b"fine");
    assert!(!place.path("back/big").exists(), "a file with wrong bytes does not pass for the right one");
    check!(place.run(&["repository", "repair", "packs"]), @r"
    --- stdout
    pack [id] 0 blobs saved, 0 are sound elsewhere, 1 lost
    wrote [size] anew
    --- stderr
    reading every pack to find those that are damaged
    not proven: lost: 1 blob
    hint: back up again what is still there, then run `lifeboat repository repair snapshots`
    --- exit code 2
    ");
    check!(place.run(&["repository", "repair", "snapshots", "--forget"]), @r"
    --- stdout
    snapshot [id] of [time] loses
      /tree/big: the file
    snapshot [id] of [time] loses
      /tree/big: the file
    snapshot [id] is now [id]
    snapshot [id] is now [id]
    removed snapshot [id]
    removed snapshot [id]
    --- exit code 0
    ");
    check!(place.run(&["repository", "check", "--read-data"]), @r"
    --- stdout
    checked 2 snapshots, 5 folders, 4 packs with 10 blobs
    read 4 packs, [size]
    note: 4 blobs with [size] are needed by no snapshot
    no errors were found
    --- exit code 0
    ");
}
