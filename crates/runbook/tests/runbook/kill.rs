//! Killed before and after every append of the journal, a run that is resumed ends as it would have, and nothing is done twice that must
//! not be.

use std::time::Duration;

use runbook::*;
use serde_json::json;

use crate::harness::*;

/// One of everything.
fn everything() -> Runbook {
    let mut mended = act("3", "start", json!({ "fails": 99, "mended_by": "mend" }));
    let pattern = Pattern::Contains("says no".to_owned());
    mended.remedies =
        vec![Remedy { pattern, steps: vec![once("3.r1.1", "mend")], loses: Some("an hour".to_owned()) }];
    let mut asked = act("6", "hopeless", json!({ "fails": 99 }));
    asked.on_failure = OnFailure::Ask;
    let mut tolerated = act("7", "notify", json!({ "fails": 99 }));
    tolerated.on_failure = OnFailure::Continue;
    let mut left_out = act("8", "dns", json!({}));
    left_out.skip_reason = Some("only: disaster".to_owned());
    let attempts = vec![
        act("5.1", "restart", json!({ "fails": 99 })),
        group("5.2", Body::Sequence, vec![once("5.2.1", "restore"), once("5.2.2", "boot")]),
        once("5.3", "rebuild"),
    ];
    book(vec![
        once("1", "a"),
        group(
            "2",
            Body::Parallel,
            vec![once("2.1", "b"), group("2.2", Body::Sequence, vec![once("2.2.1", "c")])],
        ),
        mended,
        approve("4"),
        try_until("5", action("up", json!({ "when": "boot" })), attempts),
        asked,
        tolerated,
        left_out,
        wait("9", 3),
        gate("10", "api", json!({ "when": "restore" })),
    ])
}

/// Resumes, unless the run had ended before the kill.
fn to_the_end(bench: &Bench) -> State {
    let state = bench.replayed();
    if state.outcome().is_some() { state } else { bench.resume(vec![]).unwrap().state }
}

/// How often what must not be done twice was done. The action `start` may be repeated, and is when nobody knows.
fn done(bench: &Bench) -> std::collections::BTreeMap<String, u32> {
    let mut done = bench.world.facts().done;
    done.entry("start".to_owned()).and_modify(|count| *count = 1);
    done
}

fn sweep(runbook: &Runbook) {
    let reference = Bench::new(willing);
    let ended = reference.begin(runbook).unwrap();
    let appends = reference.entries().len() + 1;
    assert!(appends > 5);
    for at in 1..appends {
        for written in [false, true] {
            let bench = Bench::new(willing);
            let error = bench.begin_broken(runbook, Some(Break { at, written })).unwrap_err();
            assert!(matches!(error, Error::Journal(_)), "{error}");
            if bench.entries().is_empty() {
                // Nothing was begun, so there is nothing to resume.
                assert!(
                    matches!(bench.resume(vec![]), Err(Error::Journal(_)))
                        && bench.world.facts().tried.is_empty()
                );
                continue;
            }
            let state = to_the_end(&bench);
            let place = || format!("killed at append {at}, written: {written}\n{}", transcript(&bench));
            assert_eq!(state.outcome(), Some(ended.outcome()), "{}", place());
            assert_eq!(statuses(&state), statuses(&ended.state), "{}", place());
            assert_eq!(done(&bench), done(&reference), "{}", place());
            assert_eq!(bench.replayed(), state, "{}", place());
        }
    }
}

#[test]
fn killed_at_every_append_a_run_ends_as_it_would_have() {
    sweep(&everything());
}

#[test]
fn killed_at_every_append_a_run_that_fails_fails_all_the_same() {
    for failing in ["1", "2.1", "2.2.1", "3.r1.1", "5.2.1"] {
        let mut runbook = everything();
        runbook.steps.iter_mut().for_each(|step| break_step(step, failing));
        sweep(&runbook);
    }
}

fn break_step(step: &mut Step, failing: &str) {
    if step.id.as_str() == failing
        && let Body::Action(action) = &mut step.body
    {
        action.input["fails"] = json!(99);
    }
    let children: &mut [Step] = match &mut step.body {
        Body::Sequence(steps) | Body::Parallel(steps) => steps,
        Body::Try { attempts, .. } => attempts,
        _ => &mut [],
    };
    let remedies = step.remedies.iter_mut().flat_map(|remedy| &mut remedy.steps);
    children.iter_mut().chain(remedies).for_each(|step| break_step(step, failing));
}

#[test]
fn killed_at_every_append_of_the_second_process_too() {
    let runbook = everything();
    let reference = Bench::new(willing);
    let ended = reference.begin(&runbook).unwrap();
    for first in [4, 15, 30] {
        let appends = {
            let bench = Bench::new(willing);
            bench.begin_broken(&runbook, Some(Break { at: first, written: true })).unwrap_err();
            let before = bench.entries().len();
            bench.resume(vec![]).unwrap();
            bench.entries().len() - before
        };
        for at in 0..appends {
            let bench = Bench::new(willing);
            bench.begin_broken(&runbook, Some(Break { at: first, written: true })).unwrap_err();
            let journal = bench.reopen(Some(Break { at, written: at % 2 == 0 })).unwrap();
            resume(journal, "ann", vec![], bench.env()).unwrap_err();
            let state = to_the_end(&bench);
            assert_eq!(statuses(&state), statuses(&ended.state), "killed at {first}, then {at}");
            assert_eq!(done(&bench), done(&reference), "killed at {first}, then {at}");
        }
    }
}

/// A run that is killed after the first step's effect and before its entry.
fn killed_in_a(step: Step, react: React) -> Bench {
    let bench = Bench::new(react);
    let runbook = book(vec![step, gate("2", "api", json!({}))]);
    bench.begin_broken(&runbook, Some(Break { at: 4, written: false })).unwrap_err();
    assert_eq!(bench.world.facts().tried["a"], 1);
    bench
}

#[test]
fn an_action_that_may_be_repeated_is_repeated_when_nobody_knows() {
    let bench = killed_in_a(act("1", "a", json!({})), nobody);
    assert_eq!(bench.resume(vec![]).unwrap().outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().done["a"], 2);
}

#[test]
fn done_when_tells_that_a_killed_process_had_done_it() {
    let mut step = act("1", "a", json!({}));
    step.done_when = Some(action("look", json!({ "when": "a" })));
    let bench = killed_in_a(step, nobody);
    let ended = bench.resume(vec![]).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().done["a"], 1);
    assert_eq!(ended.state.undo_list().len(), 1, "the run made it, so the run can take it back");
}

fn unknowable() -> Step {
    let mut step = act("1", "a", json!({}));
    let Body::Action(action) = &mut step.body else { unreachable!() };
    action.repeatable = false;
    step
}

#[test]
fn an_action_that_must_not_be_repeated_is_asked_about_when_nobody_knows() {
    let bench = killed_in_a(unknowable(), willing);
    let ended = bench.resume(vec![]).unwrap();
    assert_eq!(ended.outcome(), Outcome::NotProven, "a person said that it was seen to");
    assert_eq!(bench.world.facts().tried["a"], 1);

    let bench = killed_in_a(unknowable(), nobody);
    let ended = bench.resume(vec![]).unwrap();
    assert_eq!(ended.outcome(), Outcome::CouldNotRun);
    assert_eq!(bench.world.facts().tried["a"], 1);
    let ended = bench.resume(vec![order(Verb::Retry { step: id("1") })]).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().tried["a"], 2, "a person said so");
}

#[test]
fn an_order_to_retry_decides_what_nobody_knows() {
    let bench = killed_in_a(unknowable(), nobody);
    let ended = bench.resume(vec![order(Verb::Retry { step: id("1") })]).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().tried["a"], 2);
}

#[test]
fn waits_go_on_where_they_were() {
    // Killed right after the wait had been begun: header, begun, incarnation, started.
    for same_boot in [true, false] {
        let bench = Bench::new(nobody);
        let runbook = book(vec![wait("1", 100), gate("2", "api", json!({}))]);
        bench.begin_broken(&runbook, Some(Break { at: 3, written: true })).unwrap_err();
        bench.clock.advance(Duration::from_secs(70));
        bench.clock.boots.fetch_add(u64::from(!same_boot), std::sync::atomic::Ordering::Relaxed);
        let ended = bench.resume(vec![]).unwrap();
        assert_eq!(ended.state.at(), Duration::from_secs(100));
        assert_eq!(ended.state.down_time(), Duration::from_secs(70));
    }
}

#[test]
fn an_approval_goes_on_waiting_and_an_answer_given_meanwhile_counts() {
    let runbook = book(vec![approve("1"), gate("2", "api", json!({}))]);
    // Killed when the question was out: header, begun, incarnation, started, wait begun.
    let killed = || {
        let bench = Bench::new(nobody);
        bench.begin_broken(&runbook, Some(Break { at: 4, written: true })).unwrap_err();
        assert_eq!(bench.replayed().waiting().len(), 1);
        bench.clock.advance(Duration::from_secs(500));
        bench
    };
    let bench = killed();
    let ended = bench.resume(vec![]).unwrap();
    assert_eq!((ended.outcome(), ended.state.at()), (Outcome::CouldNotRun, Duration::from_secs(600)));

    let bench = killed();
    bench.queue.give(Order::new("bob", Verb::Approve { step: None }));
    let ended = bench.resume(vec![]).unwrap();
    assert_eq!((ended.outcome(), ended.state.at()), (Outcome::Verified, Duration::from_secs(500)));
    assert_eq!(ended.state.people_time(ended.state.at()), Duration::from_secs(500));
}

#[test]
fn a_changed_plan_changes_nothing_in_flight() {
    let bench = Bench::new(nobody);
    bench
        .begin_broken(
            &book(vec![once("1", "a"), gate("2", "api", json!({}))]),
            Some(Break { at: 3, written: true }),
        )
        .unwrap_err();
    // Whatever the caller holds by now: only the journal is given to `resume`.
    let ended = bench.resume(vec![]).unwrap();
    assert_eq!(ended.state.runbook(), &book(vec![once("1", "a"), gate("2", "api", json!({}))]));
}
