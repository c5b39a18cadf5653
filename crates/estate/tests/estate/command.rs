//! Commands whose output is kept: the ways in which such backups lie.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use estate::component::command::{COMMANDS, Dump};
use estate::component::{Cancel, CaptureRequest, CommandOptions, Component, Content, Proven};
use estate::facts::Value;
use place::{Command, Place};

use crate::support::{RUN, back_up, store};

fn dump(directory: &Path, backup: &str) -> (Dump, CommandOptions) {
    let shell = |text: &str| Command::shell(text).directory(directory).env("SECRET", "hunter2");
    let options = CommandOptions {
        name: "ledger".to_owned(),
        file: "out.txt".to_owned(),
        backup: shell(backup),
        restore: shell("cat > restored"),
        verify: None,
        facts: Vec::new(),
        hold: directory.join("hold"),
        destroy: Vec::new(),
        timeout: Duration::from_secs(10),
    };
    (Dump::new(options.clone(), Place::host()), options)
}

#[test]
fn whatever_is_not_a_whole_dump_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (backup, expected) in [
        ("true", "printed nothing"),
        ("exit 3", "ended with status 3"),
        ("echo half a dump; echo 'disk on fire' >&2; exit 1", "ended with status 1: disk on fire"),
        ("head -c 3000000 /dev/zero; exit 7", "ended with status 7"),
        ("echo begun; kill -9 $$", "was killed by signal 9"),
        ("nosuchcommand", "not found"),
    ] {
        let error = back_up(&dump(directory.path(), backup).0, None).err().expect(backup).to_string();
        assert!(error.contains(expected) && error.contains("ledger"), "{backup}: {error}");
        assert!(!error.contains("hunter2"));
    }
    let (_, mut options) = dump(directory.path(), "echo begun; sleep 60");
    options.timeout = Duration::from_millis(300);
    let start = Instant::now();
    let error = back_up(&Dump::new(options, Place::host()), None).err().unwrap().to_string();
    assert!(error.contains("in time") && start.elapsed() < Duration::from_secs(20), "{error}");
}

#[test]
fn large_output_is_streamed_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (component, _) = dump(directory.path(), "head -c 20000000 /dev/zero; echo end");
    let stored = back_up(&component, None).unwrap();
    assert_eq!(stored.point.bytes, Some(20_000_004));
    let kept = stored.path(format!("{COMMANDS}/ledger/out.txt"));
    assert!(fs::read(&kept).unwrap().ends_with(b"\0end\n"));
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    // Nothing but a check of the plan shows that the data is good.
    assert_eq!(proof.outcome(), Proven::NotProven, "{proof:#?}");
    assert_eq!(fs::metadata(directory.path().join("restored")).unwrap().len(), 20_000_004);
}

#[test]
fn nothing_runs_before_it_is_read_and_nothing_after_an_abort() {
    let directory = tempfile::tempdir().unwrap();
    let (component, _) = dump(directory.path(), "touch started; echo first; sleep 30; touch went-on");
    let request =
        CaptureRequest { run: RUN, scratch: directory.path(), previous: None, cancel: Cancel::default() };
    let mut capture = component.capture(&request).unwrap();
    assert!(!directory.path().join("started").exists());
    let Content::Stream { open, .. } = capture.members.remove(0).content else { panic!("a stream") };
    let mut reader = open().unwrap();
    let mut first = [0; 6];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    drop(reader);
    let start = Instant::now();
    let is_running = || {
        let found =
            std::process::Command::new("pgrep").args(["-f", "sleep 30; touch went-on"]).output().unwrap();
        found.status.success()
    };
    while is_running() {
        assert!(start.elapsed() < Duration::from_secs(10), "the command goes on after the abort");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(capture.finish.finish(None).is_err());
}

#[test]
fn cancelling_ends_a_silent_command() {
    let directory = tempfile::tempdir().unwrap();
    let (component, _) = dump(directory.path(), "sleep 60");
    let cancel = Cancel::default();
    let request =
        CaptureRequest { run: RUN, scratch: directory.path(), previous: None, cancel: cancel.clone() };
    let capture = component.capture(&request).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(store(capture, None).is_err());
    });
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_failed_restore_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (component, mut options) = dump(directory.path(), "echo data");
    let stored = back_up(&component, None).unwrap();
    options.restore = Command::shell("cat > /dev/null; echo 'no such database' >&2; exit 2");
    let error = stored.recover(&Dump::new(options, Place::host()), RUN).err().unwrap().to_string();
    assert!(error.contains("status 2") && error.contains("no such database"), "{error}");
}

/// A dump of `state` with facts.
fn with_facts(directory: &Path, backup: &str, facts: &[(&str, &str)]) -> Dump {
    let (_, mut options) = dump(directory, backup);
    options.facts = facts.iter().map(|(name, query)| ((*name).to_owned(), (*query).to_owned())).collect();
    Dump::new(options, Place::host())
}

/// Asks the source, and in a proof what was restored.
const LINES: &str = "wc -l < \"${LIFEBOAT_RESTORED:-state}\" | tr -d ' '";

#[test]
fn facts_are_asked_of_the_source_and_of_what_was_restored() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state"), "one\ntwo\nthree\n").unwrap();
    let facts =
        [("lines", LINES), ("first", "head -n 1 \"${LIFEBOAT_RESTORED:-state}\""), ("share", "echo 0.5")];
    let component = with_facts(directory.path(), "cat state", &facts);
    let stored = back_up(&component, None).unwrap();
    let declared = &stored.point.facts.declared;
    assert_eq!(declared["lines"], Value::Integer(3));
    assert_eq!(declared["first"], Value::Text("one".to_owned()));
    assert_eq!(declared["share"], Value::Real(0.5));
    // The source has moved on: a proof must not ask it.
    fs::write(directory.path().join("state"), "other\n").unwrap();
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
}

#[test]
fn a_fact_that_is_wrong_after_the_restore_fails_the_proof() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state"), "one\ntwo\nthree\n").unwrap();
    // A dump that lacks a line of the source: what a broken export does.
    let component = with_facts(directory.path(), "head -n 2 state", &[("lines", LINES)]);
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts(RUN, &stored.point);
    component.prepare(&parts, &stored.point).unwrap();
    stored.restore(&parts);
    let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
}

#[test]
fn a_fact_that_cannot_be_asked_is_no_backup_and_later_not_proven() {
    let directory = tempfile::tempdir().unwrap();
    for (query, expected) in
        [("exit 4", "status 4"), ("true", "printed nothing"), ("echo a; echo b", "more than one line")]
    {
        let component = with_facts(directory.path(), "echo data", &[("lines", query)]);
        let error = back_up(&component, None).err().expect(query).to_string();
        assert!(error.contains("the fact lines") && error.contains(expected), "{query}: {error}");
    }
    let only_at_the_source = "test -z \"$LIFEBOAT_RESTORED\" && echo 1";
    let component = with_facts(directory.path(), "echo data", &[("lines", only_at_the_source)]);
    let stored = back_up(&component, None).unwrap();
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::NotProven, "{proof:#?}");
}

#[test]
fn a_fact_that_moves_while_it_is_dumped_is_told_and_not_recorded() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state"), "one\n").unwrap();
    let component = with_facts(directory.path(), "cat state; echo two >> state", &[("lines", LINES)]);
    let request =
        CaptureRequest { run: RUN, scratch: directory.path(), previous: None, cancel: Cancel::default() };
    let mut capture = component.capture(&request).unwrap();
    let Content::Stream { open, .. } = capture.members.remove(0).content else { panic!("a stream") };
    std::io::copy(&mut open().unwrap(), &mut std::io::sink()).unwrap();
    let finished = capture.finish.finish(None).unwrap();
    assert_eq!(finished.facts.declared.get("lines"), None);
    assert!(finished.problems[0].what.contains("changed from 1 to 2"), "{:?}", finished.problems);
}
