//! What signals do to a command at work.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::Place;

/// A backup of a stream that has not ended; it holds its lock.
fn backup_under_way(place: &Place) -> Child {
    let mut command = place.command(&["repository", "backup", "--stdin", "--quiet"]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while place.files("repository/locks").is_empty() {
        assert!(Instant::now() < deadline, "the backup has taken no lock");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn a_backup_outlives_restics_question_whether_it_is_alive() {
    let place = Place::with_snapshot();
    let mut child = backup_under_way(&place);
    for _ in 0..2 {
        let mut restic = Command::new("restic");
        restic.args(["unlock", "--no-cache", "--repo"]).arg(place.path("repository"));
        let output = restic.env("RESTIC_PASSWORD", "secret").output().expect("run `cargo xtask setup`");
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(place.files("repository/locks").len(), 1, "the lock of a living process stays");
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"the end of the stream").unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
    let dumped = place.succeeds(&["repository", "dump", "latest:/stdin"]);
    assert_eq!(dumped, "the end of the stream");
}

#[test]
fn an_interrupted_backup_gives_its_lock_back_and_says_so() {
    let place = Place::with_snapshot();
    let mut child = backup_under_way(&place);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    // The stream has to go on for the backup to come to a safe point.
    let mut input = child.stdin.take().unwrap();
    let _closed = input.write_all(&vec![7; 64 << 20]);
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(place.files("repository/locks").is_empty());
    assert_eq!(place.files("repository/snapshots").len(), 1, "no snapshot of half a stream");
}
