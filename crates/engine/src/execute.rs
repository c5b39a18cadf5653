//! Executing a runbook: the journal on this machine, its copy in the repository, and the record of the end.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runbook::journal::Journal;
use runbook::{
    Actions, Body, ControlDirectory, Controls, Ended, Environment, Observer, Options, Order, Outcome, Proven,
    RunBegun, Runbook, State, Status, SystemClock, Verdict,
};

use crate::copy_run::CopyRun;
use crate::resolve::{Context, Mode};
use crate::runs::{Files, Kind, Record};
use crate::site::Site;
use crate::work::{Work, read};
use crate::{Error, Result, runs};

/// How a run is watched and steered.
#[derive(Clone, Copy)]
pub struct Conduct<'a> {
    /// Sees everything that happens.
    pub observer: &'a dyn Observer,
    /// Orders of this process, beside those of others.
    pub controls: &'a dyn Controls,
    /// Becomes true when the process is to end; the run can be resumed then.
    pub interrupt: &'a AtomicBool,
    /// How long a person is waited for where the plan does not say; `None` is for ever.
    pub answer_within: Option<Duration>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Finished {
    /// The state at the end.
    pub state: State,
    /// What was shown.
    pub verdict: Verdict,
    /// The record that was written.
    pub record: Record,
    /// What went wrong with Lifeboat's own bookkeeping, though the run is through.
    pub remarks: Vec<String>,
}

impl Finished {
    /// The outcome.
    pub fn outcome(&self) -> Outcome {
        self.record.outcome
    }
}

/// What is executed.
pub(crate) enum What {
    /// A new run.
    Begin(Runbook),
    /// One that was interrupted or failed; the orders are obeyed first.
    Resume(Vec<Order>),
    /// Everything is taken back.
    Rollback(Vec<Order>),
}

/// Executes a run to its end, copying its journal to the repository meanwhile, and writes the record of its end.
pub(crate) fn execute(
    site: &Site,
    kind: Kind,
    id: &str,
    what: What,
    actions: &dyn Actions,
    conduct: Conduct<'_>,
) -> Result<Finished> {
    let files = Files::of(&site.state, id);
    // Before anything is done: without a journal nothing is.
    files.make().map_err(|error| {
        Error::refused(error.to_string(), "make it writable, or name another directory with --state DIR")
    })?;
    let orders = ControlDirectory::of(&files.journal());
    let controls = (conduct.controls, orders);
    let environment = Environment {
        actions,
        controls: &controls,
        observer: conduct.observer,
        clock: &SystemClock,
        interrupt: conduct.interrupt,
        host: &site.host,
        version: &site.program,
        options: Options { answer_within: conduct.answer_within },
    };
    let copy = CopyRun::new(&site.repository, id, files.journal());
    let (stop, stopped) = channel::<()>();
    let ended = std::thread::scope(|scope| {
        let copying = scope.spawn({
            let copy = &copy;
            move || copy.follow(&stopped)
        });
        let ended = carry_out(site, kind, id, what, &files, environment);
        drop(stop);
        copying.join().expect("copying does not panic");
        ended
    })?;
    let mut remarks = Vec::new();
    if let Err(error) = copy.catch_up() {
        remarks.push(format!("the run's journal is not wholly copied to the repository: {error}"));
    }
    let record = record_of(site, kind, &ended, begun_at(&files))?;
    if is_ended(&ended)
        && let Err(error) = runs::save_record(&site.repository, &record, ended.state.incarnations().len())
    {
        remarks.push(format!("the record of the run is not in the repository: {error}"));
    }
    Ok(Finished { state: ended.state, verdict: ended.verdict, record, remarks })
}

fn carry_out(
    site: &Site,
    kind: Kind,
    id: &str,
    what: What,
    files: &Files,
    environment: Environment<'_>,
) -> Result<Ended> {
    Ok(match what {
        What::Begin(runbook) => {
            let begun = RunBegun {
                run: id.to_owned(),
                kind: kind.as_str().to_owned(),
                by: site.who.clone(),
                plan_digest: site.plan.digest(),
                runbook,
            };
            runbook::begin(Journal::create(&files.journal(), id)?, begun, environment)?
        }
        What::Resume(orders) => {
            runbook::resume(Journal::open(&files.journal())?, &site.who, orders, environment)?
        }
        What::Rollback(orders) => {
            runbook::rollback(Journal::open(&files.journal())?, &site.who, orders, environment)?
        }
    })
}

fn is_ended(ended: &Ended) -> bool {
    ended.outcome() != Outcome::Interrupted || ended.state.aborted().is_some()
}

/// What the wall clock said when the run began, by its journal: it may have jumped since.
fn begun_at(files: &Files) -> Option<Timestamp> {
    let replayed = runbook::journal::read(&files.journal()).ok()?;
    replayed.entries.first().map(|entry| entry.wall)
}

fn record_of(site: &Site, kind: Kind, ended: &Ended, begun_at: Option<Timestamp>) -> Result<Record> {
    let state = &ended.state;
    let context = runs::context_of(state)?;
    let now = site.now();
    let took = |time: Duration| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    let began = now.checked_sub(took(state.at())).unwrap_or(now);
    let is_recovery = matches!(kind, Kind::Recover | Kind::Drill);
    let reasons = ended.verdict.reasons.iter().map(|reason| match &reason.step {
        Some(step) => format!("{}: {}", name_of(state, step), reason.why),
        None => reason.why.clone(),
    });
    // A proof holds as long as what its scenario stands on is the same.
    let digest = match &context.scenario {
        Some(scenario) => site.plan.scenario_digest(scenario)?,
        None => state.begun().plan_digest.clone(),
    };
    Ok(Record {
        version: Record::VERSION,
        run: state.run().to_owned(),
        kind,
        estate: context.estate.clone(),
        scenario: context.scenario.clone(),
        mode: context.mode,
        by: state.begun().by.clone(),
        host: site.host.clone(),
        program: site.program.clone(),
        plan_digest: digest,
        began,
        ended: now,
        outcome: ended.outcome(),
        reasons: reasons.collect(),
        held: ended.verdict.held,
        phases: state
            .phases(state.at())
            .into_iter()
            .map(|phase| (phase.phase, phase.time.as_secs_f64()))
            .collect(),
        waited_seconds: state.people_time(state.at()).as_secs_f64(),
        chosen: context.chosen.clone(),
        components: components_of(state, kind),
        rto_seconds: is_recovery.then(|| recovery_time(state, &context, begun_at.unwrap_or(began))),
        rpo_seconds: is_recovery.then(|| recovery_point(&ended.state, &context)).flatten(),
    })
}

fn name_of(state: &State, step: &runbook::StepId) -> String {
    state.runbook().find(step).map_or_else(|| step.to_string(), |step| step.name.clone())
}

/// The time from the declaration to the end of the last check after the cut-over, in seconds. In a drill the disaster is
/// declared when it has happened.
pub(crate) fn recovery_time(state: &State, context: &Context, began: Timestamp) -> f64 {
    let end_of = |step: &runbook::StepState| step.active.iter().map(|(_, to)| *to).max();
    let mut last = None;
    let mut declared_at = None;
    state.runbook().visit(&mut |step, _| {
        let Some(there) = state.step(&step.id) else { return };
        if step.phase.as_deref() == Some("disaster") {
            declared_at = end_of(there);
        }
        let is_check = matches!(step.body, Body::Gate { .. }) || step.phase.as_deref() == Some("validate");
        if is_check && matches!(there.status, Status::Succeeded { .. }) {
            last = last.max(end_of(there));
        }
    });
    let last = last.unwrap_or_else(|| state.at());
    match (context.mode, declared_at) {
        (Mode::Drill, Some(declared)) => last.saturating_sub(declared).as_secs_f64(),
        _ => (began - context.declared).seconds_or_zero() + last.as_secs_f64(),
    }
}

/// The time from the oldest of what was brought back to the disaster, in seconds.
pub(crate) fn recovery_point(state: &State, context: &Context) -> Option<f64> {
    let replayed = replayed(state);
    let recovered = context.chosen.iter().map(|chosen| match replayed.get(&chosen.component) {
        Some(instant) => (*instant).max(chosen.instant),
        None => chosen.recovered(),
    });
    let oldest = recovered.min()?;
    Some((context.happened - oldest).seconds_or_zero())
}

/// The instants of the last things that replays have brought back, by component.
pub(crate) fn replayed(state: &State) -> BTreeMap<String, Timestamp> {
    let mut replayed = BTreeMap::new();
    state.runbook().visit(&mut |step, _| {
        let Body::Action(action) = &step.body else { return };
        if let Ok(Work::Replay(restored)) = read::<Work>(action)
            && let Some(Status::Succeeded { performed, .. }) = state.step(&step.id).map(|step| &step.status)
            && let Some(instant) = performed.output.get("instant").and_then(serde_json::Value::as_str)
            && let Ok(instant) = instant.parse()
        {
            replayed.insert(restored.component, instant);
        }
    });
    replayed
}

trait SecondsOrZero {
    fn seconds_or_zero(self) -> f64;
}

impl SecondsOrZero for jiff::Span {
    fn seconds_or_zero(self) -> f64 {
        self.total(jiff::Unit::Second).unwrap_or(0.0).max(0.0)
    }
}

/// The components that the run backed up or brought back, and why not if not. In a restore test what was not shown counts.
fn components_of(state: &State, kind: Kind) -> BTreeMap<String, Option<String>> {
    let mut components = BTreeMap::new();
    state.runbook().visit(&mut |step, _| {
        let Body::Action(action) = &step.body else { return };
        // What follows a backup says nothing about the component: its point stands.
        if matches!(read::<Work>(action), Ok(Work::Copy { .. } | Work::Forget { .. })) {
            return;
        }
        let input = action.input.get("restored").unwrap_or(&action.input);
        let Some(component) = input.get("component").and_then(serde_json::Value::as_str) else { return };
        let why = match state.step(&step.id).map(|step| &step.status) {
            Some(Status::Succeeded { performed, .. }) => match &performed.proven {
                Proven::Not(why) if kind == Kind::Verify => Some(format!("not proven: {why}")),
                _ => None,
            },
            Some(Status::NotNeeded) => None,
            Some(Status::Failed { failure, .. }) => Some(failure.message.clone()),
            Some(Status::Skipped { reason, .. }) => Some(format!("skipped: {reason}")),
            _ => Some("not reached".to_owned()),
        };
        let entry = components.entry(component.to_owned()).or_insert(None);
        if entry.is_none() {
            *entry = why;
        }
    });
    components
}
