//! Rolling back: in reverse, once each, stuck where an undo fails, and never after a commit.

use runbook::*;
use serde_json::json;

use crate::harness::*;

fn with_undo(id: &str, name: &str) -> Step {
    let mut step = once(id, name);
    step.undo = vec![action(&format!("un-{name}"), json!({}))];
    step
}

fn three() -> Runbook {
    book(vec![
        with_undo("1", "a"),
        group("2", Body::Sequence, vec![with_undo("2.1", "b"), act("2.2", "c", json!({}))]),
        gate("3", "api", json!({})),
    ])
}

#[test]
fn what_succeeded_is_taken_back_in_reverse() {
    let bench = Bench::new(nobody);
    assert_eq!(bench.begin(&three()).unwrap().outcome(), Outcome::Verified);
    let ended = bench.roll_back(vec![]).unwrap();
    assert_eq!((ended.state.status(), ended.outcome()), (RunStatus::RolledBack, Outcome::Verified));
    let facts = bench.world.facts();
    assert_eq!(facts.undone, ["c", "b", "a"]);
    assert_eq!((facts.done["un-a"], facts.done["un-b"]), (1, 1));
    assert!(matches!(bench.roll_back(vec![]), Err(Error::NotNow { .. })));
    assert!(matches!(bench.resume(vec![]), Err(Error::NotNow { .. })));
}

#[test]
fn only_what_succeeded_is_taken_back() {
    let bench = Bench::new(nobody);
    let mut runbook = three();
    runbook.steps.insert(1, act("1b", "bad", json!({ "fails": 9 })));
    assert_eq!(bench.begin(&runbook).unwrap().outcome(), Outcome::Failed);
    bench.roll_back(vec![]).unwrap();
    assert_eq!(bench.world.facts().undone, ["a"]);
}

#[test]
fn a_failing_undo_is_stuck_until_it_is_mended_or_left_out() {
    for mend in [true, false] {
        let bench = Bench::new(nobody);
        let steps = vec![
            with_undo("1", "a"),
            act("2", "b", json!({ "undo_fails": true })),
            gate("3", "api", json!({})),
        ];
        bench.begin(&book(steps)).unwrap();
        let ended = bench.roll_back(vec![]).unwrap();
        assert_eq!((ended.state.status(), ended.outcome()), (RunStatus::Stuck, Outcome::Failed));
        assert_eq!(ended.state.undo_list()[0].failure.unwrap().message, "b will not go");
        let orders = if mend {
            bench.world.facts.lock().unwrap().done.insert("mended".to_owned(), 1);
            vec![]
        } else {
            vec![order(skip("2"))]
        };
        let ended = bench.roll_back(orders).unwrap();
        assert_eq!(ended.state.status(), RunStatus::RolledBack);
        assert_eq!(bench.world.facts().undone, if mend { vec!["b", "a"] } else { vec!["a"] });
        assert_eq!(bench.replayed(), ended.state);
    }
}

#[test]
fn an_undo_that_is_not_stuck_cannot_be_left_out() {
    let bench = Bench::new(nobody);
    bench.begin(&three()).unwrap();
    let error = bench.roll_back(vec![order(skip("1"))]).unwrap_err();
    assert_eq!(error.to_string(), "cannot roll back run recover-1: the undo of step 1 is not stuck");
    assert!(bench.world.facts().undone.is_empty());
}

#[test]
fn killed_at_every_append_a_rollback_takes_everything_back() {
    let reference = Bench::new(nobody);
    reference.begin(&three()).unwrap();
    let before = reference.entries().len();
    reference.roll_back(vec![]).unwrap();
    let appends = reference.entries().len() - before;
    for at in 0..appends {
        for written in [false, true] {
            let bench = Bench::new(nobody);
            bench.begin(&three()).unwrap();
            let journal = bench.reopen(Some(Break { at, written })).unwrap();
            let error = rollback(journal, "ann", vec![], bench.env()).unwrap_err();
            assert!(matches!(error, Error::Journal(_)), "{error}");
            if bench.replayed().status() != RunStatus::RolledBack {
                bench.roll_back(vec![]).unwrap();
            }
            assert_eq!(bench.replayed().status(), RunStatus::RolledBack);
            let mut undone = bench.world.facts().undone;
            undone.dedup();
            assert_eq!(undone, ["c", "b", "a"], "at {at}, written {written}");
        }
    }
}

#[test]
fn what_a_killed_process_had_done_is_taken_back_too() {
    let runbook = book(vec![once("1", "a"), gate("2", "api", json!({}))]);
    let bench = Bench::new(nobody);
    // Killed after the effect, before its entry: header, begun, incarnation, started.
    bench.begin_broken(&runbook, Some(Break { at: 4, written: false })).unwrap_err();
    assert_eq!(bench.world.facts().done["a"], 1);
    assert_eq!(status(&bench.replayed(), "1"), "running");
    bench.roll_back(vec![]).unwrap();
    assert_eq!(bench.world.facts().undone, ["a"]);
}

#[test]
fn after_a_commit_nothing_can_be_taken_back() {
    let bench = Bench::new(nobody);
    bench.begin(&three()).unwrap();
    let mut calls = 0;
    let failed = commit(bench.reopen(None).unwrap(), "ann", bench.env(), &mut |_| {
        calls += 1;
        Err(Failure::failed("the disk is gone"))
    });
    assert!(matches!(failed, Err(Error::Commit { .. })));
    assert!(matches!(bench.roll_back(vec![]), Err(Error::NotNow { .. })), "half of it may be gone");
    let ended = commit(bench.reopen(None).unwrap(), "ann", bench.env(), &mut |state| {
        calls += 1;
        assert_eq!(state.run(), RUN);
        Ok(())
    });
    assert_eq!(ended.unwrap().state.status(), RunStatus::Committed);
    assert_eq!(calls, 2);
    assert!(matches!(bench.roll_back(vec![]), Err(Error::NotNow { .. })));
}
