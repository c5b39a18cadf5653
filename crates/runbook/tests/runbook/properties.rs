//! Properties over made-up runbooks: what was executed live is what the journal replays to, a run that is killed anywhere ends as it would
//! have, no run is green without a reason, and everything that succeeded can be taken back.

use proptest::prelude::*;
use runbook::*;
use serde_json::{Value, json};

use crate::harness::*;

/// A tree without ids; `grow` gives it some.
#[derive(Clone, Debug)]
enum Tree {
    Act { fails: bool, on_failure: OnFailure, retries: u32, remedy: Option<(bool, bool)>, skipped: bool },
    Gate { says: &'static str, on_failure: OnFailure },
    Approve,
    Wait(u64),
    Group { parallel: bool, children: Vec<Tree>, on_failure: OnFailure, retries: u32 },
    Try { holds_after: Option<usize>, attempts: Vec<Tree> },
}

fn on_failure() -> impl Strategy<Value = OnFailure> {
    prop_oneof![3 => Just(OnFailure::Stop), 1 => Just(OnFailure::Continue), 1 => Just(OnFailure::Ask)]
}

fn tree() -> impl Strategy<Value = Tree> {
    let remedy = prop::option::weighted(0.3, (any::<bool>(), any::<bool>()));
    let act = (prop::bool::weighted(0.2), on_failure(), 0_u32..2, remedy, prop::bool::weighted(0.1))
        .prop_map(|(fails, on_failure, retries, remedy, skipped)| Tree::Act {
            fails,
            on_failure,
            retries,
            remedy,
            skipped,
        });
    let says = prop_oneof![6 => Just("holds"), 1 => Just("fails"), 1 => Just("fatal"), 1 => Just("unknown")];
    let gate = (says, on_failure()).prop_map(|(says, on_failure)| Tree::Gate { says, on_failure });
    let leaf =
        prop_oneof![6 => act, 2 => gate, 1 => Just(Tree::Approve), 1 => (0_u64..5).prop_map(Tree::Wait)];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let children = prop::collection::vec(inner.clone(), 0..4);
        let group = (any::<bool>(), children, on_failure(), 0_u32..2).prop_map(
            |(parallel, children, on_failure, retries)| Tree::Group {
                parallel,
                children,
                on_failure,
                retries,
            },
        );
        let attempts = prop::collection::vec(inner, 0..3);
        let tries = (prop::option::of(0_usize..3), attempts)
            .prop_map(|(holds_after, attempts)| Tree::Try { holds_after, attempts });
        prop_oneof![3 => group, 1 => tries]
    })
}

fn runbook() -> impl Strategy<Value = Runbook> {
    prop::collection::vec(tree(), 1..5).prop_map(|trees| {
        let steps = (1..).zip(&trees).map(|(n, tree)| grow(tree, &n.to_string())).collect();
        book(steps)
    })
}

fn grow_all(trees: &[Tree], id: &str) -> Vec<Step> {
    (1..).zip(trees).map(|(n, tree)| grow(tree, &format!("{id}.{n}"))).collect()
}

fn grow(tree: &Tree, id: &str) -> Step {
    match tree {
        Tree::Act { fails, on_failure, retries, remedy, skipped } => {
            let mut step = once(id, id);
            let Body::Action(action) = &mut step.body else { unreachable!() };
            action.input["fails"] = json!(if *fails { 1_000_000 } else { 0 });
            (step.on_failure, step.retries) = (*on_failure, *retries);
            step.skip_reason = skipped.then(|| "only: disaster".to_owned());
            step.undo = vec![crate::harness::action(&format!("un-{id}"), json!({}))];
            if let Some((helps, loses)) = remedy {
                if *helps {
                    action.input["mended_by"] = json!(format!("{id}.r"));
                }
                let loses = loses.then(|| "an hour".to_owned());
                let pattern = Pattern::Contains("says no".to_owned());
                step.remedies = vec![Remedy {
                    pattern,
                    steps: vec![once(&format!("{id}.r"), &format!("{id}.r"))],
                    loses,
                }];
            }
            step
        }
        Tree::Gate { says, on_failure } => {
            let mut step = gate(id, id, json!({ "says": says }));
            step.on_failure = *on_failure;
            step
        }
        Tree::Approve => approve(id),
        Tree::Wait(seconds) => wait(id, *seconds),
        Tree::Group { parallel, children, on_failure, retries } => {
            let body = if *parallel { Body::Parallel } else { Body::Sequence };
            let mut step = group(id, body, grow_all(children, id));
            (step.on_failure, step.retries) = (*on_failure, *retries);
            step
        }
        Tree::Try { holds_after, attempts } => {
            let attempts = grow_all(attempts, id);
            // It holds once an attempt's own action was done, if that attempt is one.
            let effect = holds_after.and_then(|n| attempts.get(n)).map(|step| step.id.to_string());
            let check = effect.map_or_else(|| json!({ "says": "fails" }), |effect| json!({ "when": effect }));
            try_until(id, crate::harness::action(id, check), attempts)
        }
    }
}

fn checks_that_held(state: &State) -> usize {
    let held = |view: &StepView<'_>| {
        matches!(view.step.body, Body::Gate { .. } | Body::Try { .. })
            && matches!(view.status, Status::Succeeded { .. })
    };
    state.steps(state.at()).iter().filter(|view| held(view)).count()
}

/// The steps of attempts and remedies: what fails there is not the run's failure.
fn forgiven(runbook: &Runbook) -> Vec<String> {
    fn add_all(step: &Step, ids: &mut Vec<String>) {
        ids.push(step.id.to_string());
        step.all_children().for_each(|child| add_all(child, ids));
    }
    let mut ids = Vec::new();
    runbook.visit(&mut |step, _| {
        let attempts = if let Body::Try { attempts, .. } = &step.body { attempts.as_slice() } else { &[] };
        let remedies = step.remedies.iter().flat_map(|remedy| &remedy.steps);
        attempts.iter().chain(remedies).for_each(|step| add_all(step, &mut ids));
    });
    ids
}

fn once_each(bench: &Bench) -> Result<(), TestCaseError> {
    let facts = bench.world.facts();
    for (name, count) in facts.done.iter().filter(|(name, _)| !name.starts_with("un-")) {
        prop_assert_eq!(*count, 1, "{} was done {} times\n{}", name, count, transcript(bench));
    }
    Ok(())
}

/// In parallel steps the entries may come in another order, and the time that the test clock's sleepers add up to another length.
fn is_ordered(runbook: &Runbook) -> bool {
    let mut ordered = true;
    runbook.visit(&mut |step, _| ordered &= !matches!(step.body, Body::Parallel(_)));
    ordered
}

/// Whether steps of a try are made again when it is tried again: their actions are then done again, rightly.
fn has_retried_tries(runbook: &Runbook) -> bool {
    let (mut tries, mut retries) = (false, false);
    runbook.visit(&mut |step, _| {
        tries |= matches!(step.body, Body::Try { .. });
        retries |= step.retries > 0 && !matches!(step.body, Body::Action(_));
    });
    tries && retries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_executed_is_what_is_replayed(runbook in runbook()) {
        let bench = Bench::new(willing);
        let ended = bench.begin(&runbook).unwrap();
        prop_assert_eq!(&bench.replayed(), &ended.state);
        prop_assert_eq!(ended.state.outcome(), Some(ended.verdict.outcome));
        if ended.outcome() == Outcome::Verified {
            prop_assert!(checks_that_held(&ended.state) > 0);
            let forgiven = forgiven(&runbook);
            for (step, word) in statuses(&ended.state) {
                let fails = word == "failed" || word == "tolerated" || word == "pending";
                prop_assert!(word != "skipped" && (!fails || forgiven.contains(&step)), "{} is {}", step, word);
            }
        }
        if !has_retried_tries(&runbook) {
            once_each(&bench)?;
        }
    }

    #[test]
    fn killed_anywhere_and_again_it_ends_as_it_would_have(
        runbook in runbook(),
        kills in prop::collection::vec((0.0..1.0_f64, any::<bool>()), 1..4),
    ) {
        let reference = Bench::new(willing);
        let ended = reference.begin(&runbook).unwrap();
        let appends = reference.entries().len();
        let bench = Bench::new(willing);
        let mut begun = false;
        for (part, written) in kills {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part of a small number")]
            let at = (part * appends as f64) as usize;
            let breaks = Some(Break { at, written });
            let _ = match begun {
                false => bench.begin_broken(&runbook, Some(Break { at: at + 2, written })),
                true if bench.replayed().outcome().is_some() => break,
                true => resume(bench.reopen(breaks).unwrap(), "ann", vec![], bench.env()),
            };
            begun = true;
        }
        let state = match bench.replayed() {
            state if state.outcome().is_some() => state,
            _ => bench.resume(vec![]).unwrap().state,
        };
        prop_assert_eq!(&bench.replayed(), &state);
        if is_ordered(&runbook) {
            prop_assert_eq!(statuses(&state), statuses(&ended.state), "{}", transcript(&bench));
        }
        prop_assert_eq!(state.outcome(), ended.state.outcome(), "{}", transcript(&bench));
        if !has_retried_tries(&runbook) {
            prop_assert_eq!(bench.world.facts().done, reference.world.facts().done);
            once_each(&bench)?;
        }
    }

    #[test]
    fn what_succeeded_is_taken_back_and_nothing_else(runbook in runbook()) {
        let bench = Bench::new(willing);
        let ended = bench.begin(&runbook).unwrap();
        let mut succeeded: Vec<String> = Vec::new();
        for view in ended.state.steps(ended.state.at()) {
            let is_action = matches!(view.step.body, Body::Action(_));
            if is_action && matches!(view.status, Status::Succeeded { .. }) {
                succeeded.push(view.step.id.to_string());
            }
        }
        let rolled = bench.roll_back(vec![]).unwrap();
        prop_assert_eq!(rolled.state.status(), RunStatus::RolledBack);
        prop_assert_eq!(&bench.replayed(), &rolled.state);
        let mut undone = bench.world.facts().undone;
        undone.sort();
        // A step of a try that was tried again and then not reached again was done, and is taken back, too.
        if !has_retried_tries(&runbook) {
            succeeded.sort();
            prop_assert_eq!(undone, succeeded);
        }
    }

    #[test]
    fn every_entry_is_read_as_it_was_written(runbook in runbook()) {
        let bench = Bench::new(willing);
        bench.begin(&runbook).unwrap();
        for entry in bench.entries() {
            let text = serde_json::to_string(&entry).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Entry>(&text).unwrap(), &entry);
            let mut unknown: Value = serde_json::from_str(&text).unwrap();
            unknown["more"] = json!(1);
            prop_assert!(serde_json::from_value::<Entry>(unknown).is_err(), "what is not known is not passed over");
        }
    }
}
