//! The journal's file: torn and damaged lines, versions, locks, disks that are full or read-only.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use runbook::journal::{FORMAT_VERSION, Journal, JournalError, parse, read};
use runbook::*;
use serde_json::json;

use crate::harness::*;

fn runbook_of_two() -> Runbook {
    book(vec![act("1", "a", json!({})), gate("2", "api", json!({}))])
}

/// The bytes of a journal of a whole run.
fn whole() -> Vec<u8> {
    let bench = Bench::new(nobody);
    bench.begin(&runbook_of_two()).unwrap();
    std::mem::take(&mut *bench.bytes.lock().unwrap())
}

fn line_ends(bytes: &[u8]) -> Vec<usize> {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect()
}

#[test]
fn lines_are_json_that_other_tools_can_read() {
    let bytes = whole();
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let header: serde_json::Value = serde_json::from_slice(lines.next().unwrap()).unwrap();
    assert_eq!(header, json!({ "lifeboat_journal": FORMAT_VERSION, "run": RUN }));
    for (number, line) in (1..).zip(lines) {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(line["entry"]["seq"], number);
    }
}

#[test]
fn cut_off_anywhere_whole_lines_stay_and_the_rest_is_torn() {
    let bytes = whole();
    let ends = line_ends(&bytes);
    for length in 0..=bytes.len() {
        let lines = ends.iter().filter(|end| **end <= length).count();
        match parse(&bytes[..length]) {
            Err(JournalError::Empty) => assert_eq!(lines, 0),
            Err(error) => panic!("{error}"),
            Ok(parsed) => {
                assert_eq!(parsed.entries.len() + 1, lines);
                assert_eq!(parsed.torn, !ends.contains(&length));
                assert_eq!(parsed.whole_bytes, ends[lines - 1]);
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let bytes = whole();
    let before = parse(&bytes).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 7);
        match parse(&damaged) {
            // Without its end the last line cannot be told from one that was being written.
            Ok(parsed) => {
                assert!(at + 1 == bytes.len() && parsed.torn, "the flip at {at} was not found");
                assert_eq!(parsed.entries, before.entries[..before.entries.len() - 1]);
            }
            Err(JournalError::Damaged { .. } | JournalError::Newer { .. }) => {}
            Err(error) => panic!("flip at {at}: {error}"),
        }
    }
}

#[test]
fn a_last_line_whose_blocks_were_never_written_is_torn() {
    let bytes = whole();
    let start = line_ends(&bytes)[line_ends(&bytes).len() - 2];
    let end = bytes.len() - 1;
    for (from, to) in [(start, end), (start + 20, end), (start, end - 20)] {
        let mut torn = bytes.clone();
        torn[from..to].fill(0);
        let parsed = parse(&torn).unwrap();
        assert!(parsed.torn && parsed.whole_bytes == start);
    }
}

#[test]
fn a_line_that_is_missing_doubled_or_from_another_run_is_found() {
    let bytes = whole();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let damaged = |lines: Vec<&[u8]>| matches!(parse(&lines.concat()), Err(JournalError::Damaged { .. }));
    for at in 1..lines.len() - 1 {
        let (mut missing, mut doubled, mut swapped) = (lines.clone(), lines.clone(), lines.clone());
        missing.remove(at);
        doubled.insert(at, lines[at]);
        swapped.swap(at, at + 1);
        assert!(damaged(missing) && damaged(doubled) && damaged(swapped), "line {at}");
    }
    let mut other = lines.clone();
    let header = format!("{{\"lifeboat_journal\":{FORMAT_VERSION},\"run\":\"another\"}}\n");
    other[0] = header.as_bytes();
    assert!(damaged(other));
}

#[test]
fn a_newer_journal_is_neither_read_nor_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.journal");
    fs::write(&path, "{\"lifeboat_journal\":2,\"run\":\"r\",\"something\":\"new\"}\nwho knows\n").unwrap();
    assert!(matches!(read(&path), Err(JournalError::Newer { found: 2 })));
    assert!(matches!(Journal::open(&path), Err(JournalError::Newer { found: 2 })));
    assert!(fs::read_to_string(&path).unwrap().ends_with("who knows\n"), "it is left as it was");
}

fn file_run(path: &Path, bench: &Bench) -> Result<Ended, Error> {
    begin(Journal::create(path, RUN)?, begun(&runbook_of_two()), bench.env())
}

#[test]
fn a_run_in_a_file_is_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs/1/run.journal");
    let bench = Bench::new(nobody);
    let ended = file_run(&path, &bench).unwrap();
    let replayed = read(&path).unwrap();
    assert_eq!((&replayed.state, replayed.torn), (&ended.state, false));
    assert!(matches!(Journal::create(&path, RUN), Err(JournalError::Exists(_))));
}

#[test]
fn a_torn_end_is_cut_off_before_anything_is_appended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.journal");
    let bench = Bench::new(nobody);
    bench.begin_broken(&runbook_of_two(), Some(Break { at: 3, written: true })).unwrap_err();
    let mut bytes = bench.bytes.lock().unwrap().clone();
    bytes.extend_from_slice(b"{\"sum\":\"0123456789abcdef\",\"entry\":{\"seq\":4,");
    fs::write(&path, bytes).unwrap();
    assert!(read(&path).unwrap().torn);
    let ended = resume(Journal::open(&path).unwrap(), "ann", vec![], bench.env()).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(read(&path).unwrap().state, ended.state);
}

#[test]
fn two_processes_cannot_be_at_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.journal");
    fs::write(&path, whole()).unwrap();
    let first = Journal::open(&path).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(matches!(&error, JournalError::Locked(_)), "{error}");
    assert!(error.to_string().starts_with("another process is at the run of /"), "{error}");
    read(&path).unwrap();
    drop(first);
    Journal::open(&path).unwrap();
}

#[test]
fn a_journal_that_holds_no_run_is_told_from_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.journal");
    drop(Journal::create(&path, RUN).unwrap());
    assert!(matches!(read(&path), Err(JournalError::Empty)));
    let bench = Bench::new(nobody);
    let error = resume(Journal::open(&path).unwrap(), "ann", vec![], bench.env()).unwrap_err();
    assert!(matches!(error, Error::Journal(JournalError::Empty)), "{error}");
}

/// The directory that a helper process was started on, as its last argument.
fn directory_of_helper() -> String {
    let directory = std::env::args().next_back().unwrap();
    assert!(directory.starts_with('/'), "a helper runs only when the test of its note starts it");
    directory
}

/// Runs a helper in a mount namespace of its own, with a file system with these options on a directory.
fn in_tmpfs(helper: &str, options: &str) {
    let mount = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o \"$3\" lifeboat-test \"$2\" && \
                  exec \"$0\" --ignored --exact --nocapture \"$1\" --skip \"$2\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args([helper, mount.path().to_str().unwrap(), options])
        .output()
        .expect("unshare of util-linux is needed for this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "this test needs user namespaces (sysctl user.max_user_namespaces); {helper} said:\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "is started by a_full_disk_stops_the_run_and_it_goes_on_later"]
fn helper_on_a_full_disk() {
    let folder = directory_of_helper();
    let (path, ballast) = (Path::new(&folder).join("run.journal"), Path::new(&folder).join("ballast"));
    let bench = Bench::new(nobody);
    let fill = ballast.clone();
    let bench = bench.on_entry(move |entry| {
        if matches!(&entry.event, Event::StepStarted { .. }) {
            let mut file = fs::File::create(&fill).unwrap();
            while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
        }
    });
    let long = "x".repeat(8 << 10);
    let runbook = book(vec![once("1", &long), once("2", "b"), gate("3", "api", json!({}))]);
    let error = begin(Journal::create(&path, RUN).unwrap(), begun(&runbook), bench.env()).unwrap_err();
    assert!(matches!(&error, Error::Journal(JournalError::Io { .. })), "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(!bench.world.facts().tried.contains_key("b"), "nothing is done that cannot be written down");
    fs::remove_file(ballast).unwrap();
    *bench.on_entry.lock().unwrap() = Box::new(|_| ());
    let ended = resume(Journal::open(&path).unwrap(), "ann", vec![], bench.env()).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().done[&long], 1);
}

#[test]
fn a_full_disk_stops_the_run_and_it_goes_on_later() {
    in_tmpfs("journal::helper_on_a_full_disk", "size=256k");
}

#[test]
#[ignore = "is started by a_read_only_directory_is_said_to_be_one"]
fn helper_in_a_read_only_directory() {
    let path = Path::new(&directory_of_helper()).join("runs/run.journal");
    let error = Journal::create(&path, RUN).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("failed to make the folder of the run's journal /"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
}

#[test]
fn a_read_only_directory_is_said_to_be_one() {
    in_tmpfs("journal::helper_in_a_read_only_directory", "ro");
}

#[test]
fn a_journal_that_is_gone_is_said_to_be_gone() {
    let error = Journal::open(Path::new("/nowhere/run.journal")).unwrap_err().to_string();
    let expected = "failed to open the run's journal /nowhere/run.journal: No such file or directory";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_clock_that_jumps_is_noted_and_changes_no_duration() {
    for by in [3_600_000, -86_400_000] {
        let bench = Bench::new(nobody);
        let clock = bench.clock.clone();
        let bench = bench.on_entry(move |entry| {
            if matches!(&entry.event, Event::StepStarted { step, .. } if step.as_str() == "1") {
                clock.move_wall(by);
            }
        });
        let ended = bench.begin(&book(vec![wait("1", 10), gate("2", "api", json!({}))])).unwrap();
        assert_eq!((ended.outcome(), ended.state.at()), (Outcome::Verified, Duration::from_secs(10)));
        let jumps: Vec<Event> =
            bench.events().into_iter().filter(|event| matches!(event, Event::ClockJumped { .. })).collect();
        assert_eq!(jumps, [Event::ClockJumped { by_ms: by }]);
    }
}

#[test]
fn a_clock_that_went_back_between_two_processes_takes_no_time_back() {
    let bench = Bench::new(nobody);
    let runbook = book(vec![wait("1", 10), gate("2", "api", json!({}))]);
    bench.begin_broken(&runbook, Some(Break { at: 3, written: true })).unwrap_err();
    bench.clock.boots.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    bench.clock.move_wall(-86_400_000);
    let ended = bench.resume(vec![]).unwrap();
    assert_eq!((ended.outcome(), ended.state.at()), (Outcome::Verified, Duration::from_secs(10)));
}
