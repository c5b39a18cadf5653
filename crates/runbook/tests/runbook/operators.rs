//! Orders of operators, while a run runs, when it is resumed, and from another process.

use std::time::Duration;

use runbook::*;
use serde_json::json;

use crate::harness::*;

fn two() -> Vec<Step> {
    vec![act("1", "a", json!({})), act("2", "b", json!({})), gate("3", "api", json!({}))]
}

/// Gives the orders when step 1 has succeeded.
fn after_first(verbs: Vec<Verb>) -> Bench {
    let bench = Bench::new(nobody);
    let give = std::sync::Arc::new(verbs);
    let queue = bench.queue.clone();
    bench.on_entry(move |entry| {
        if matches!(&entry.event, Event::StepSucceeded { step, .. } if step.as_str() == "1") {
            give.iter().for_each(|verb| queue.give(order(verb.clone())));
        }
    })
}

#[test]
fn an_abort_ends_the_run_and_it_can_be_taken_up_again() {
    let bench = after_first(vec![Verb::Abort { reason: "wrong machine".to_owned() }]);
    let ended = bench.begin(&book(two())).unwrap();
    assert_eq!(ended.outcome(), Outcome::Interrupted);
    assert_eq!(ended.verdict.reasons[0].why, "aborted by bob: wrong machine");
    assert!(!bench.world.facts().tried.contains_key("b"));
    let ended = bench.resume(vec![]).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().done, [("a", 1), ("b", 1)].map(|(n, c)| (n.to_owned(), c)).into());
    assert_eq!(bench.replayed(), ended.state);
}

#[test]
fn an_abort_ends_what_hangs_what_waits_and_what_is_asked() {
    let hangs = act("1", "a", json!({ "hangs": true }));
    for step in [hangs, wait("1", 9999), approve("1"), gate("1", "api", json!({ "says": "fails" }))] {
        let bench = Bench::new(nobody);
        let queue = bench.queue.clone();
        let bench = bench.on_entry(move |entry| {
            if matches!(entry.event, Event::StepStarted { .. }) {
                queue.give(order(Verb::Abort { reason: "enough".to_owned() }));
            }
        });
        let ended = bench.begin(&book(vec![group("0", Body::Sequence, vec![step])])).unwrap();
        assert_eq!(ended.outcome(), Outcome::Interrupted, "{}", transcript(&bench));
        assert!(ended.state.at() < Duration::from_secs(30));
        assert_eq!(bench.replayed(), ended.state);
    }
}

#[test]
fn a_pause_begins_nothing_until_it_is_ended() {
    let bench = after_first(vec![Verb::Pause]);
    let ended = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !String::from_utf8_lossy(&bench.bytes.lock().unwrap()).contains("\"ordered\"") {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(20));
            assert!(!bench.world.facts().tried.contains_key("b"));
            bench.queue.give(order(Verb::Continue));
        });
        bench.begin(&book(two())).unwrap()
    });
    assert_eq!(ended.outcome(), Outcome::Verified);
    assert!(ended.state.people_time(ended.state.at()) > Duration::ZERO, "a pause is people's time");
}

#[test]
fn a_step_is_skipped_before_it_is_reached_and_while_it_runs() {
    let bench = after_first(vec![skip("2")]);
    let ended = bench.begin(&book(two())).unwrap();
    assert_eq!(ended.outcome(), Outcome::NotProven);
    assert_eq!(ended.verdict.reasons[0].why, "skipped by bob: not today");
    assert!(!bench.world.facts().tried.contains_key("b"));

    for whole_group in [false, true] {
        let bench = Bench::new(nobody);
        let queue = bench.queue.clone();
        let bench = bench.on_entry(move |entry| {
            if matches!(&entry.event, Event::StepStarted { step, .. } if step.as_str() == "1.1") {
                queue.give(order(skip(if whole_group { "1" } else { "1.1" })));
            }
        });
        let inside = vec![act("1.1", "hang", json!({ "hangs": true })), act("1.2", "c", json!({}))];
        let ended = bench
            .begin(&book(vec![group("1", Body::Sequence, inside), gate("3", "api", json!({}))]))
            .unwrap();
        assert_eq!(ended.outcome(), Outcome::NotProven, "{}", transcript(&bench));
        assert_eq!(bench.world.facts().done.contains_key("c"), !whole_group);
        assert_eq!(bench.replayed(), ended.state);
    }
}

#[test]
fn a_step_that_hangs_is_tried_again_by_order() {
    let bench = Bench::new(nobody);
    let queue = bench.queue.clone();
    let bench = bench.on_entry(move |entry| match &entry.event {
        Event::StepStarted { attempt: 1, .. } => queue.give(order(Verb::Retry { step: id("1") })),
        Event::StepStarted { attempt: 2, .. } => queue.give(order(skip("1"))),
        _ => {}
    });
    let hangs = act("1", "a", json!({ "hangs": true }));
    let ended = bench.begin(&book(vec![hangs, gate("2", "api", json!({}))])).unwrap();
    assert_eq!(ended.outcome(), Outcome::NotProven, "{}", transcript(&bench));
    assert_eq!(bench.world.facts().tried["a"], 2);
}

#[test]
fn orders_that_make_no_sense_are_refused_and_told() {
    let bench = after_first(vec![
        Verb::Continue,
        Verb::Approve { step: None },
        Verb::Retry { step: id("1") },
        Verb::Retry { step: id("2") },
        skip("1"),
        skip("nowhere"),
        Verb::ContinueFrom { step: id("3"), reason: "hurry".to_owned() },
    ]);
    let ended = bench.begin(&book(two())).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified);
    let refused: Vec<String> = bench
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Refused { why, .. } => Some(why),
            _ => None,
        })
        .collect();
    assert_eq!(
        refused,
        [
            "the run is not paused",
            "no step waits for an approval",
            "step 1 is done, and what is done is not done again",
            "step 2 was not tried yet",
            "step 1 is done",
            "there is no step nowhere",
            "the run is past it; when it has ended, resume it with this order",
        ]
    );
}

#[test]
fn an_order_is_obeyed_once_however_often_it_is_found() {
    struct Again(Order);
    impl Controls for Again {
        fn take(&self) -> std::io::Result<Vec<Order>> {
            Ok(vec![self.0.clone()])
        }
        fn settled(&self, _: &Order) -> std::io::Result<()> {
            Err(std::io::Error::other("cannot be removed"))
        }
    }
    let bench = Bench::new(nobody);
    let again = Again(order(skip("2")));
    let env = Environment { controls: &again, ..bench.env() };
    let journal = journal::Journal::onto(bench.sink(None), RUN).unwrap();
    let ended = begin(journal, begun(&book(two())), env).unwrap();
    assert_eq!(ended.outcome(), Outcome::NotProven);
    assert_eq!(bench.events().iter().filter(|event| matches!(event, Event::Ordered(_))).count(), 1);
    assert!(!bench.events().iter().any(|event| matches!(event, Event::Refused { .. })));
}

fn failed_at_two() -> Bench {
    let bench = Bench::new(nobody);
    let mut steps = two();
    steps[1] = act("2", "b", json!({ "fails": 1 }));
    assert_eq!(bench.begin(&book(steps)).unwrap().outcome(), Outcome::Failed);
    bench
}

#[test]
fn a_failed_run_is_resumed_by_trying_again_skipping_or_continuing_later() {
    let bench = failed_at_two();
    assert_eq!(bench.resume(vec![]).unwrap().outcome(), Outcome::Verified);
    assert_eq!(bench.world.facts().done, [("a", 1), ("b", 1)].map(|(n, c)| (n.to_owned(), c)).into());
    assert!(matches!(bench.resume(vec![]), Err(Error::NotNow { .. })), "there is nothing left to do");

    let bench = failed_at_two();
    assert_eq!(
        bench.resume(vec![order(Verb::Retry { step: id("2") })]).unwrap().outcome(),
        Outcome::Verified
    );

    let bench = failed_at_two();
    let ended = bench.resume(vec![order(skip("2"))]).unwrap();
    assert_eq!(ended.outcome(), Outcome::NotProven);
    assert!(!bench.world.facts().done.contains_key("b"));

    let bench = failed_at_two();
    let ended = bench
        .resume(vec![order(Verb::ContinueFrom { step: id("3"), reason: "by hand".to_owned() })])
        .unwrap();
    assert_eq!((ended.outcome(), status(&ended.state, "2")), (Outcome::NotProven, "skipped"));
    assert_eq!(bench.replayed(), ended.state);

    let bench = failed_at_two();
    let ended = bench.resume(vec![order(Verb::Abort { reason: "give up".to_owned() })]).unwrap();
    assert_eq!(ended.outcome(), Outcome::Interrupted);
}

#[test]
fn an_order_that_makes_no_sense_resumes_nothing() {
    let bench = failed_at_two();
    let before = bench.entries();
    let error = bench.resume(vec![order(skip("1"))]).unwrap_err();
    assert_eq!(error.to_string(), "cannot resume run recover-1: step 1 is done");
    assert_eq!(bench.entries(), before);
}

#[test]
fn what_was_tolerated_or_skipped_can_be_tried_again_later() {
    let bench = Bench::new(nobody);
    let mut notify = act("1.1", "notify", json!({ "fails": 1 }));
    notify.on_failure = OnFailure::Continue;
    let steps = vec![group("1", Body::Sequence, vec![notify, once("1.2", "b")]), gate("2", "api", json!({}))];
    assert_eq!(bench.begin(&book(steps)).unwrap().outcome(), Outcome::NotProven);
    let ended = bench.resume(vec![order(Verb::Retry { step: id("1.1") })]).unwrap();
    assert_eq!(ended.outcome(), Outcome::Verified, "{}", transcript(&bench));
    assert_eq!(bench.world.facts().done["b"], 1);
}

#[test]
fn a_suspended_run_goes_on_and_loses_nothing() {
    let bench = Bench::new(nobody);
    let bench = std::sync::Arc::new(bench);
    let flag = std::sync::Arc::downgrade(&bench);
    *bench.on_entry.lock().unwrap() = Box::new(move |entry| {
        if matches!(&entry.event, Event::StepStarted { step, .. } if step.as_str() == "2") {
            flag.upgrade().unwrap().interrupt.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let mut steps = two();
    steps[1] = act("2", "b", json!({ "hangs": true }));
    let ended = bench.begin(&book(steps)).unwrap();
    assert_eq!(ended.outcome(), Outcome::Interrupted);
    assert_eq!(ended.state.status(), RunStatus::Running);
    assert!(matches!(bench.events().last(), Some(Event::Suspended { .. })));
    bench.interrupt.store(false, std::sync::atomic::Ordering::Relaxed);
    *bench.on_entry.lock().unwrap() = Box::new(|_| ());
    let ended = bench.resume(vec![order(skip("2"))]).unwrap();
    assert_eq!(ended.outcome(), Outcome::NotProven, "{}", transcript(&bench));
    assert_eq!(bench.world.facts().done["a"], 1);
}

#[test]
fn orders_come_through_a_directory_beside_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("run.journal");
    let control = ControlDirectory::of(&journal);
    assert!(control.take().unwrap().is_empty(), "nobody gave an order yet");
    let (first, second) = (order(Verb::Pause), order(skip("2")));
    control.give(&second).unwrap();
    control.give(&first).unwrap();
    std::fs::write(folder.path().join("run.journal.control/zzz.json"), "no order").unwrap();
    std::fs::write(folder.path().join("run.journal.control/.half"), "{").unwrap();
    assert_eq!(
        control.take().unwrap(),
        [first.clone(), second.clone()],
        "in the order in which they were given"
    );
    assert!(folder.path().join("run.journal.control/zzz.unreadable").exists());
    control.settled(&first).unwrap();
    control.settled(&first).unwrap();
    assert_eq!(control.take().unwrap(), [second]);
}

#[test]
fn controls_that_cannot_be_read_are_told_once_and_stop_nothing() {
    struct Broken;
    impl Controls for Broken {
        fn take(&self) -> std::io::Result<Vec<Order>> {
            Err(std::io::Error::other("no such device"))
        }
        fn settled(&self, _: &Order) -> std::io::Result<()> {
            Ok(())
        }
    }
    #[derive(Default)]
    struct Told(std::sync::Mutex<Vec<String>>);
    impl Observer for Told {
        fn recorded(&self, _: &Entry, _: &str, _: &State) {}
        fn trouble(&self, message: &str) {
            self.0.lock().unwrap().push(message.to_owned());
        }
    }
    let (bench, told) = (Bench::new(nobody), Told::default());
    let env = Environment { controls: &Broken, observer: &told, ..bench.env() };
    let journal = journal::Journal::onto(bench.sink(None), RUN).unwrap();
    assert_eq!(begin(journal, begun(&book(two())), env).unwrap().outcome(), Outcome::Verified);
    assert_eq!(*told.0.lock().unwrap(), ["failed to read the run's orders: no such device"]);
}
