//! The demo, from beginning to end.

use crate::harness::{Place, check};

#[test]
fn proves_and_cleans_up() {
    let place = Place::new();
    let temporary = place.path("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let place = place.with("TMPDIR", temporary.to_str().unwrap());
    check!(place.run(&["demo", "--seed", "1"]), @r"
    --- stdout
    made  3 061 files in 164 folders, [size]: text, random, 3 sparse, 50 hard links, 150 symlinks, 450 with attributes (seed 1)
    backed up  in [duration] ([size]/s), [size] as stored; again, unchanged, in [duration]
    checked  every byte of the repository, no errors, in [duration]
    damaged  575 files deleted, 25 truncated, 26 with flipped bits under the same size and time, 25 with another mode, 25 replaced, 1 stranger
    noticed  702 of 702 by a comparison with the tree as it was
    restored  in place, 651 files and [size] written, in [duration]
    proved  3 376 items are what they were: names, bytes, modes, owners, times, links, attributes
    --- exit code 0
    ");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn keeps_what_it_is_told_to_keep() {
    let place = Place::new();
    place.succeeds(&["demo", "--seed", "2", "--keep", "kept"]);
    assert!(place.path("kept/repository/config").exists());
    let output = place.output(&["demo", "--keep", "kept"]);
    assert_eq!(output.status.code(), Some(3), "it does not touch a directory with something in it");
}
