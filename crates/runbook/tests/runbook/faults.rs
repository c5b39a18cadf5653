//! Events that cannot be: a journal whose checksums are right and whose story is not.

use runbook::journal::Journal;
use runbook::*;
use serde_json::json;

use crate::harness::*;

fn entries() -> Vec<Entry> {
    let bench = Bench::new(willing);
    let mut asked = act("3", "c", json!({ "fails": 9 }));
    asked.on_failure = OnFailure::Ask;
    let inside = vec![once("2.1", "b"), approve("2.2")];
    let until = action("up", json!({ "when": "x" }));
    let attempts = vec![act("4.1", "w", json!({})), act("4.2", "x", json!({})), act("4.3", "y", json!({}))];
    let steps = vec![
        act("1", "a", json!({})),
        group("2", Body::Sequence, inside),
        asked,
        try_until("4", until, attempts),
        gate("5", "api", json!({})),
    ];
    bench.begin(&book(steps)).unwrap();
    bench.roll_back(vec![]).unwrap();
    bench.entries()
}

/// Numbers and times as they would be, so that only the story can be wrong.
fn renumbered(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut at = std::time::Duration::ZERO;
    for (seq, entry) in (1..).zip(&mut entries) {
        at = at.max(entry.at);
        (entry.seq, entry.at) = (seq, at);
    }
    entries
}

#[test]
fn every_event_happens_once() {
    let entries = entries();
    State::replay(&entries).unwrap();
    for (at, entry) in entries.iter().enumerate() {
        // A process may come, and a rollback may be wanted, again at any time.
        if matches!(entry.event, Event::IncarnationBegun(_) | Event::RollbackBegun { .. }) {
            continue;
        }
        let mut twice = entries.clone();
        twice.insert(at, entry.clone());
        assert!(State::replay(&renumbered(twice)).is_err(), "twice: {entry:?}");
    }
}

#[test]
fn no_event_of_a_step_can_be_left_out() {
    let entries = entries();
    for (at, entry) in entries.iter().enumerate() {
        // Every poll but the one that held is told for the reader only; a rollback needs no process that begins.
        let optional = matches!(&entry.event, Event::Polled { answer, .. } if !matches!(answer, Answer::Holds(_)))
            || matches!(entry.event, Event::IncarnationBegun(_)) && at > 2
            || matches!(entry.event, Event::RunEnded { .. } | Event::StepNotNeeded { .. })
            || at + 1 == entries.len();
        if optional {
            continue;
        }
        let mut without = entries.clone();
        without.remove(at);
        assert!(State::replay(&renumbered(without)).is_err(), "without: {entry:?}");
    }
}

#[test]
fn a_run_cannot_be_said_to_be_better_than_its_steps() {
    let mut entries = entries();
    let end = entries.iter().position(|entry| matches!(entry.event, Event::RunEnded { .. })).unwrap();
    assert_eq!(entries[end].event, Event::RunEnded { outcome: Outcome::NotProven });
    for outcome in [Outcome::Verified, Outcome::Failed, Outcome::CouldNotRun, Outcome::Interrupted] {
        entries[end].event = Event::RunEnded { outcome };
        let error = State::replay(&entries).unwrap_err();
        assert_eq!(error.why, format!("its steps amount to NotProven, not {outcome:?}"));
    }
}

#[test]
fn numbers_and_times_only_go_forward() {
    let entries = entries();
    let mut gap = entries.clone();
    gap[5].seq += 1;
    assert!(State::replay(&gap).is_err());
    let mut back = entries;
    back[5].at = std::time::Duration::from_secs(9);
    assert!(State::replay(&back).is_err());
    assert!(State::replay(&[]).is_err());
}

#[test]
fn a_journal_of_another_run_is_not_begun_in() {
    let bench = Bench::new(nobody);
    let journal = Journal::onto(bench.sink(None), "another").unwrap();
    let error = begin(journal, begun(&book(vec![act("1", "a", json!({}))])), bench.env()).unwrap_err();
    assert_eq!(error.to_string(), "cannot begin run recover-1: the journal is that of another");
}
