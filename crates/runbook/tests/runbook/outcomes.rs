//! How runs end, and that none ends better than it was: every way to fail, to skip and to be unable.

use std::time::Duration;

use runbook::*;
use serde_json::json;

use crate::harness::*;

fn run(steps: Vec<Step>, react: React) -> (Bench, Ended) {
    let bench = Bench::new(react);
    let ended = bench.begin(&book(steps)).unwrap();
    assert_eq!(bench.replayed(), ended.state);
    (bench, ended)
}

fn outcome(steps: Vec<Step>) -> Outcome {
    run(steps, nobody).1.outcome()
}

fn holds() -> Step {
    gate("9", "api", json!({}))
}

#[test]
fn everything_done_and_a_check_held_is_verified() {
    let steps =
        vec![act("1", "a", json!({})), group("2", Body::Sequence, vec![act("2.1", "b", json!({}))]), holds()];
    let (bench, ended) = run(steps, nobody);
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!((ended.verdict.held, ended.verdict.reasons.as_slice()), (1, [].as_slice()));
    assert_eq!(bench.world.facts().done.len(), 2);
}

#[test]
fn a_run_without_a_check_that_held_is_not_proven() {
    assert_eq!(outcome(vec![act("1", "a", json!({}))]), Outcome::NotProven);
    assert_eq!(outcome(vec![act("1", "a", json!({ "proven": true }))]), Outcome::Verified);
}

#[test]
fn a_check_in_an_attempt_or_a_remedy_proves_nothing_for_the_run() {
    let mut failing = act("1", "a", json!({ "fails": 1 }));
    let pattern = Pattern::Contains("says no".to_owned());
    failing.remedies = vec![Remedy { pattern, steps: vec![gate("1.r1", "c", json!({}))], loses: None }];
    assert_eq!(outcome(vec![failing]), Outcome::NotProven);
}

#[test]
fn what_was_not_shown_or_left_out_makes_it_not_proven() {
    assert_eq!(outcome(vec![act("1", "a", json!({ "proven": false })), holds()]), Outcome::NotProven);
    let mut only = act("1", "a", json!({}));
    only.skip_reason = Some("only: disaster".to_owned());
    let (bench, ended) = run(vec![only, holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::NotProven);
    assert_eq!(ended.verdict.reasons[0].why, "skipped: only: disaster");
    assert!(bench.world.facts().tried.is_empty());
}

#[test]
fn a_failure_stops_the_run_with_its_own_outcome() {
    for (kind, expected) in
        [("", Outcome::Failed), ("could_not_run", Outcome::CouldNotRun), ("not_proven", Outcome::NotProven)]
    {
        let failing = act("2", "b", json!({ "fails": 9, "kind": kind }));
        let (bench, ended) = run(vec![holds(), failing, act("3", "c", json!({}))], nobody);
        assert_eq!(ended.outcome(), expected);
        assert_eq!(status(&ended.state, "3"), "pending");
        assert!(!bench.world.facts().tried.contains_key("c"));
        assert!(ended.verdict.reasons.iter().any(|reason| reason.why == "b says no"), "{:?}", ended.verdict);
    }
}

#[test]
fn a_tolerated_failure_is_never_green_and_a_tolerated_gate_is_red() {
    let mut notify = act("1", "notify", json!({ "fails": 9 }));
    notify.on_failure = OnFailure::Continue;
    let (bench, ended) = run(vec![notify, act("2", "b", json!({})), holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::NotProven);
    assert!(bench.world.facts().done.contains_key("b"));

    let mut check = gate("1", "db", json!({ "says": "fails" }));
    check.on_failure = OnFailure::Continue;
    assert_eq!(outcome(vec![check, holds()]), Outcome::Failed);
}

#[test]
fn retries_wait_and_then_succeed_or_give_up() {
    let mut flaky = act("1", "a", json!({ "fails": 2 }));
    (flaky.retries, flaky.retry_delay) = (2, Duration::from_secs(10));
    let (bench, ended) = run(vec![flaky.clone(), holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().tried["a"], 3);
    assert_eq!(ended.state.at(), Duration::from_secs(20));

    flaky.retries = 1;
    let (bench, ended) = run(vec![flaky, holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    assert_eq!(bench.world.facts().tried["a"], 2);
}

#[test]
fn a_retried_sequence_does_only_what_was_not_done() {
    let inner = vec![once("1.1", "a"), act("1.2", "b", json!({ "fails": 1 })), once("1.3", "c")];
    let mut sequence = group("1", Body::Sequence, inner);
    sequence.retries = 1;
    let (bench, ended) = run(vec![sequence, holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(
        bench.world.facts().tried,
        [("a", 1), ("b", 2), ("c", 1)].map(|(n, c)| (n.to_owned(), c)).into()
    );
}

#[test]
fn what_is_there_already_is_not_done() {
    let mut step = act("1", "a", json!({}));
    step.done_when = Some(action("look", json!({})));
    let (bench, ended) = run(vec![step, holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert!(bench.world.facts().tried.is_empty());
    assert!(
        ended.state.undo_list().is_empty(),
        "what was there before the run is not the run's to take back"
    );
}

#[test]
fn a_done_when_that_cannot_be_asked_means_do_it() {
    let mut step = act("1", "a", json!({}));
    step.done_when = Some(action("look", json!({ "says": "unknown" })));
    assert_eq!(run(vec![step, holds()], nobody).0.world.facts().done["a"], 1);
}

#[test]
fn a_gate_polls_until_it_holds() {
    let (bench, ended) = run(vec![gate("1", "api", json!({ "from": 5 }))], nobody);
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().asked["api"], 5);
    assert_eq!(ended.state.at(), Duration::from_secs(4));
    let polls = bench.events().iter().filter(|event| matches!(event, Event::Polled { .. })).count();
    assert_eq!(polls, 2, "the first answer and the last");
}

#[test]
fn a_gate_that_never_turns_healthy_fails_at_its_deadline() {
    let (_, ended) = run(vec![gate("1", "api", json!({ "says": "fails" }))], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    assert_eq!(ended.verdict.reasons[0].why, "the check did not hold within 30s: api is down");
    assert_eq!(ended.state.at(), Duration::from_secs(30));
}

#[test]
fn a_gate_that_can_never_hold_fails_at_once_and_one_that_cannot_be_asked_is_not_proven() {
    let (_, ended) = run(vec![gate("1", "api", json!({ "says": "fatal" }))], nobody);
    assert_eq!((ended.outcome(), ended.state.at()), (Outcome::Failed, Duration::ZERO));
    let (_, ended) = run(vec![holds(), gate("1", "api2", json!({ "says": "unknown" }))], nobody);
    assert_eq!(ended.outcome(), Outcome::NotProven);
}

#[test]
fn a_try_stops_at_the_cheapest_attempt_that_helps() {
    let attempts = || {
        vec![
            act("1.1", "restart", json!({ "fails": 9 })),
            group("1.2", Body::Sequence, vec![act("1.2.1", "restore", json!({}))]),
            act("1.3", "rebuild", json!({})),
        ]
    };
    let step = try_until("1", action("api", json!({ "when": "restore" })), attempts());
    let (bench, ended) = run(vec![step], nobody);
    assert_eq!(ended.outcome(), Outcome::Verified, "{:?}", ended.verdict);
    assert_eq!(status(&ended.state, "1.1"), "failed");
    assert_eq!(status(&ended.state, "1.3"), "not needed");
    assert!(!bench.world.facts().tried.contains_key("rebuild"));

    let (bench, ended) = run(vec![try_until("1", action("api", json!({})), attempts())], nobody);
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert!(bench.world.facts().tried.is_empty(), "the check held before anything was tried");

    let (bench, ended) =
        run(vec![try_until("1", action("api", json!({ "says": "fails" })), attempts())], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    assert_eq!(bench.world.facts().tried.len(), 3);
}

#[test]
fn a_try_whose_check_cannot_be_evaluated_tries_nothing() {
    let attempts = vec![act("1.1", "restore", json!({}))];
    let (bench, ended) =
        run(vec![try_until("1", action("api", json!({ "says": "unknown" })), attempts)], nobody);
    assert_eq!(ended.outcome(), Outcome::NotProven);
    assert!(bench.world.facts().tried.is_empty());
}

fn with_remedy(fails: u32, pattern: Pattern, loses: Option<&str>) -> Step {
    let mut step = act("1", "start", json!({ "fails": fails, "mended_by": "mend" }));
    let steps = vec![act("1.r1.1", "mend", json!({}))];
    step.remedies = vec![Remedy { pattern, steps, loses: loses.map(str::to_owned) }];
    step
}

#[test]
fn a_known_symptom_gets_its_remedy_once_and_costs_no_retry() {
    let pattern = Pattern::Regex("^start says (no|never)$".to_owned());
    let (bench, ended) = run(vec![with_remedy(9, pattern, None), holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Verified, "{:?}", ended.verdict);
    assert_eq!(bench.world.facts().tried, [("mend", 1), ("start", 2)].map(|(n, c)| (n.to_owned(), c)).into());
}

#[test]
fn another_symptom_gets_no_remedy() {
    let (bench, ended) =
        run(vec![with_remedy(9, Pattern::Contains("disk full".to_owned()), None), holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    assert!(!bench.world.facts().tried.contains_key("mend"));
}

#[test]
fn a_remedy_that_does_not_help_is_not_applied_twice() {
    let mut step = act("1", "start", json!({ "fails": 9 }));
    let pattern = Pattern::Contains("says no".to_owned());
    step.remedies = vec![Remedy { pattern, steps: vec![act("1.r1.1", "mend", json!({}))], loses: None }];
    let (bench, ended) = run(vec![step, holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    assert_eq!(bench.world.facts().tried, [("mend", 1), ("start", 2)].map(|(n, c)| (n.to_owned(), c)).into());
}

#[test]
fn a_remedy_that_loses_something_is_approved_first_and_told_afterwards() {
    let loses = Some("the writes of the last hour");
    let pattern = || Pattern::Contains("says no".to_owned());
    let (_, ended) = run(vec![with_remedy(9, pattern(), loses), holds()], willing);
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(ended.verdict.losses, [(id("1"), "the writes of the last hour".to_owned())]);

    let deny: React = |entry| match &entry.event {
        Event::WaitBegun { .. } => vec![("eve", Verb::Deny { step: None, reason: "too much".to_owned() })],
        _ => vec![],
    };
    let (bench, ended) = run(vec![with_remedy(9, pattern(), loses), holds()], deny);
    assert_eq!(ended.outcome(), Outcome::Failed);
    let why = "start says no; its remedy did not help: denied by eve: too much";
    assert_eq!(ended.verdict.reasons[0].why, why);
    assert!(ended.verdict.losses.is_empty() && !bench.world.facts().tried.contains_key("mend"));

    let (bench, ended) = run(vec![with_remedy(9, pattern(), loses), holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    assert!(!bench.world.facts().tried.contains_key("mend"), "nobody's silence loses anything");
}

#[test]
fn parallel_steps_go_to_their_ends_when_one_fails() {
    let children = vec![
        act("1.1", "a", json!({ "fails": 9 })),
        group("1.2", Body::Sequence, vec![act("1.2.1", "b", json!({})), act("1.2.2", "c", json!({}))]),
    ];
    let (bench, ended) = run(vec![group("1", Body::Parallel, children), holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    assert_eq!(bench.world.facts().done.len(), 2);
    assert_eq!(status(&ended.state, "1.2"), "succeeded");
}

#[test]
fn many_parallel_steps_are_all_done() {
    let children = (0..100).map(|n| act(&format!("1.{n}"), &format!("a{n}"), json!({}))).collect();
    let (bench, ended) = run(vec![group("1", Body::Parallel, children), holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().done.len(), 100);
}

#[test]
fn a_step_that_hangs_is_ended_by_its_timeout_or_that_of_its_parent() {
    // The world hangs in real time, so somebody must move the clock while it does.
    fn advance(bench: &Bench, begin: impl FnOnce() -> Ended) -> Ended {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                    bench.clock.advance(Duration::from_millis(500));
                }
            });
            let ended = begin();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            ended
        })
    }
    for at_parent in [false, true] {
        let mut hanging = act("1.1", "a", json!({ "hangs": true }));
        let mut parent = group("1", Body::Sequence, vec![]);
        let timed = if at_parent { &mut parent } else { &mut hanging };
        timed.timeout = Some(Duration::from_secs(3));
        parent.body = Body::Sequence(vec![hanging, act("1.2", "b", json!({}))]);
        let bench = Bench::new(nobody);
        let ended = advance(&bench, || bench.begin(&book(vec![parent, holds()])).unwrap());
        assert_eq!(ended.outcome(), Outcome::Failed);
        let why = &ended.verdict.reasons[0].why;
        assert!(why.contains("was not done within its timeout of 3s"), "{why}");
        assert!(!bench.world.facts().tried.contains_key("b"));
        assert_eq!(bench.replayed(), ended.state);
    }
}

#[test]
fn a_parents_timeout_leaves_out_the_time_of_people() {
    let mut parent = group("1", Body::Sequence, vec![approve("1.1"), act("1.2", "b", json!({}))]);
    parent.timeout = Some(Duration::from_secs(5));
    let bench = Bench::new(willing);
    let clock = bench.clock.clone();
    let bench = bench.on_entry(move |entry| {
        if matches!(entry.event, Event::WaitBegun { .. }) {
            clock.advance(Duration::from_secs(60));
        }
    });
    let ended = bench.begin(&book(vec![parent, holds()])).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified, "{}", transcript(&bench));
    assert_eq!(ended.state.people_time(ended.state.at()), Duration::from_secs(60));
}

#[test]
fn a_panic_in_an_action_is_a_failure_of_its_step() {
    let (_, ended) = run(vec![holds(), act("1", "a", json!({ "panics": true }))], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    let why = "a mistake in the program: the world is upside down";
    assert!(ended.verdict.reasons.iter().any(|reason| reason.why == why), "{:?}", ended.verdict);
}

#[test]
fn an_approval_that_nobody_gives_could_not_run() {
    let (bench, ended) = run(vec![holds(), approve("1"), act("2", "a", json!({}))], nobody);
    assert_eq!(ended.outcome(), Outcome::CouldNotRun);
    assert_eq!(ended.state.people_time(ended.state.at()), Duration::from_secs(600));
    assert!(bench.world.facts().tried.is_empty());
    let (_, ended) = run(vec![approve("1"), holds()], willing);
    assert_eq!(ended.outcome(), Outcome::Verified);
}

#[test]
fn what_a_person_is_asked_about_a_failure_is_done() {
    let mut step = act("1", "a", json!({ "fails": 1 }));
    step.on_failure = OnFailure::Ask;
    let retry: React = |entry| match &entry.event {
        Event::WaitBegun { step, .. } => vec![("ann", Verb::Retry { step: step.clone() })],
        _ => vec![],
    };
    assert_eq!(run(vec![step.clone(), holds()], retry).1.outcome(), Outcome::Verified);
    assert_eq!(run(vec![step.clone(), holds()], willing).1.outcome(), Outcome::NotProven);
    let (_, ended) = run(vec![step, holds()], nobody);
    assert_eq!(ended.outcome(), Outcome::Failed);
    assert_eq!(ended.verdict.reasons[0].why, "a says no; nobody said in time what to do about it");
    assert_eq!(ended.state.people_time(ended.state.at()), Duration::from_secs(60));
}

#[test]
fn a_wait_takes_its_time() {
    let (_, ended) = run(vec![wait("1", 7), holds()], nobody);
    assert_eq!((ended.outcome(), ended.state.at()), (Outcome::Verified, Duration::from_secs(7)));
}

#[test]
fn a_runbook_that_makes_no_sense_is_not_begun() {
    let same = vec![act("1", "a", json!({})), group("2", Body::Sequence, vec![act("1", "b", json!({}))])];
    let mut pattern = act("1", "a", json!({}));
    pattern.remedies = vec![Remedy { pattern: Pattern::Regex("(".to_owned()), steps: vec![], loses: None }];
    let mut deep = act("0", "a", json!({}));
    for n in 1..=DEPTH_MAX {
        deep = group(&n.to_string(), Body::Sequence, vec![deep]);
    }
    for steps in [vec![], same, vec![pattern], vec![deep]] {
        let bench = Bench::new(nobody);
        assert!(matches!(bench.begin(&book(steps)), Err(Error::Invalid(_))));
        assert!(bench.entries().is_empty());
    }
}
