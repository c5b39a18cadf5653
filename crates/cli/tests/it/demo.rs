//! The demo, from beginning to end.

use crate::harness::Place;

#[test]
fn shows_the_main_job_and_cleans_up() {
    let place = Place::new();
    let temporary = place.path("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let place = place.with("TMPDIR", temporary.to_str().unwrap());
    let output = place.output(&["demo"]);
    let said = place.transcript(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "25 000 orders in a SQLite database",
        "the scenario that fits: server-lost",
        "all 25 000 rows and 240 files are what they were",
        "RTO ",
        "the twin was up after",
        "fails as it must",
        "and not a byte of it changed",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn does_not_touch_a_directory_with_something_in_it() {
    let place = Place::new();
    place.write("kept/file", b"x");
    let output = place.output(&["demo", "--keep", "kept"]);
    assert_eq!(output.status.code(), Some(3));
}
