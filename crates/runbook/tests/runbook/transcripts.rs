//! Golden transcripts: whole runs, event by event, as their journals tell them.

use std::time::Duration;

use runbook::*;
use serde_json::json;

use crate::harness::*;

fn recovery() -> Runbook {
    let mut boot = act("3", "boot", json!({ "fails": 99, "mended_by": "clear the lock" }));
    boot.phase = Some("boot".to_owned());
    let pattern = Pattern::Contains("says no".to_owned());
    let mend = vec![act("3.r1.1", "clear the lock", json!({}))];
    boot.remedies = vec![Remedy { pattern, steps: mend, loses: Some("the last write".to_owned()) }];
    let mut restore = group("2", Body::Sequence, vec![once("2.1", "database"), wait("2.2", 4)]);
    restore.phase = Some("restore".to_owned());
    let mut check = gate("4", "api", json!({ "from": 3 }));
    check.phase = Some("validate".to_owned());
    book(vec![approve("1"), restore, boot, check])
}

#[test]
fn a_recovery() {
    let bench = Bench::new(willing);
    bench.begin(&recovery()).unwrap();
    insta::assert_snapshot!(transcript(&bench));
}

#[test]
fn a_recovery_that_is_killed_and_resumed() {
    let bench = Bench::new(willing);
    bench.begin_broken(&recovery(), Some(Break { at: 10, written: false })).unwrap_err();
    bench.clock.advance(Duration::from_secs(100));
    bench.resume(vec![]).unwrap();
    insta::assert_snapshot!(transcript(&bench));
}

#[test]
fn a_recovery_that_fails_and_is_rolled_back() {
    let bench = Bench::new(nobody);
    let mut runbook = recovery();
    runbook.steps.remove(0);
    bench.begin(&runbook).unwrap();
    bench.roll_back(vec![]).unwrap();
    insta::assert_snapshot!(transcript(&bench));
}

#[test]
fn times_are_told_by_phase_and_people_apart() {
    let bench = Bench::new(willing);
    let clock = bench.clock.clone();
    let bench = bench.on_entry(move |entry| match &entry.event {
        Event::WaitBegun { .. } => clock.advance(Duration::from_secs(30)),
        Event::StepStarted { step, .. } if step.as_str() == "3" => clock.advance(Duration::from_secs(2)),
        _ => {}
    });
    let state = bench.begin(&recovery()).unwrap().state;
    let phases: Vec<(String, u64)> =
        state.phases(state.at()).into_iter().map(|phase| (phase.phase, phase.time.as_secs())).collect();
    assert_eq!(
        phases,
        [("restore", 4), ("boot", 4), ("validate", 2)].map(|(name, time)| (name.to_owned(), time))
    );
    assert_eq!(state.people_time(state.at()), Duration::from_secs(60));
    assert_eq!(state.at(), Duration::from_secs(4 + 4 + 2 + 60));
}

#[test]
fn the_live_view_knows_what_is_done_what_is_on_and_what_comes() {
    let bench = Bench::new(nobody);
    bench.begin_broken(&recovery(), Some(Break { at: 4, written: true })).unwrap_err();
    let state = bench.replayed();
    let ids = |steps: Vec<&Step>| steps.into_iter().map(|step| step.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(state.current()), ["1"]);
    assert_eq!(ids(state.upcoming()), ["2.1", "2.2", "3", "4"]);
    let views = state.steps(Duration::from_secs(9));
    assert_eq!((views[0].elapsed, views[0].depth), (Duration::from_secs(9), 0));
    assert_eq!((views[2].phase, views[2].depth), (Some("restore"), 1));
    assert!(views.iter().any(|view| view.in_remedy && view.step.id.as_str() == "3.r1.1"));
}
