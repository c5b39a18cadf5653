//! From a journal to a report: the state that the events amount to, sorted by what a reader looks for.

use std::path::PathBuf;
use std::time::Duration;

use runbook::journal::Replayed;
use runbook::{Body, Outcome, Proven, RunStatus, State, Status, Step, StepView, Verdict};

use super::{
    Clock, Disaster, Loss, Met, Phase, PlanUsed, PointUsed, Process, Report, ScenarioUsed, Shown, Stage,
    StepLine, StepStatus, VERSION, Why, timeline, words,
};
use crate::resolve::{Context, Mode};
use crate::runs::{self, Kind};
use crate::{Result, execute};

/// What the performer writes before what is left to people, where it tells of it as a loss.
const LEFT_TO_PEOPLE: &str = "left to people: ";

pub(super) fn report(run: &Replayed) -> Result<Report> {
    let Replayed { state, entries, torn } = run;
    let context = runs::context_of(state)?;
    let mut remarks = Vec::new();
    if *torn {
        remarks.push("the journal ends in a line that was never acknowledged; it was left out".to_owned());
    }
    let plan = match plan::Plan::parse(&context.plan_text, &context.plan_file, context.environment.as_deref())
    {
        Ok(plan) => Some(plan),
        Err(error) => {
            remarks.push(format!(
                "the plan of the run cannot be read, so that its objectives are unknown: {error}"
            ));
            None
        }
    };
    let plan = plan.as_ref();
    let verdict = state.verdict();
    let began = entries.first().map(|entry| entry.wall).unwrap_or_default();
    let last = entries.last().map(|entry| entry.wall).unwrap_or_default();
    let is_recovery = [Kind::Recover, Kind::Drill].map(Kind::as_str).contains(&state.begun().kind.as_str());
    let disaster = is_recovery.then_some(Disaster {
        declared: context.declared,
        happened: context.happened,
        at: context.at,
    });
    let outcome = (state.status() != RunStatus::Running).then_some(verdict.outcome);
    let measured = Measured { state, context: &context, plan, outcome, began };
    let seconds = |time: Duration| time.as_secs_f64();
    Ok(Report {
        version: VERSION,
        run: state.run().to_owned(),
        kind: state.begun().kind.clone(),
        title: state.runbook().title.clone(),
        estate: context.estate.clone(),
        plan: PlanUsed {
            file: context.plan_file.clone(),
            digest: state.begun().plan_digest.clone(),
            environment: context.environment.clone(),
        },
        scenario: context.scenario.as_ref().map(|name| scenario(name, plan)),
        mode: context.mode,
        stage: stage(state.status()),
        outcome,
        reasons: verdict.reasons.iter().map(|reason| why(state, reason)).collect(),
        by: state.begun().by.clone(),
        processes: processes(state),
        clocks: if is_recovery { measured.clocks() } else { Vec::new() },
        points: measured.points(),
        disaster,
        began,
        last,
        took_seconds: seconds(state.at()),
        phases: state
            .phases(state.at())
            .into_iter()
            .map(|phase| Phase { phase: phase.phase, seconds: seconds(phase.time) })
            .collect(),
        people_seconds: seconds(state.people_time(state.at())),
        down_seconds: seconds(state.down_time()),
        steps: state.steps(state.at()).iter().map(|view| line(state, view)).collect(),
        shown: shown(state),
        not_shown: not_shown(state),
        left_out: context.left_out.clone(),
        losses: losses(&verdict),
        left_to_people: outputs(state, "left_to_people"),
        kept: kept(state),
        people: timeline::people(entries),
        timeline: timeline::timeline(state, entries),
        remarks,
    })
}

fn scenario(name: &str, plan: Option<&plan::Plan>) -> ScenarioUsed {
    let declared = plan.and_then(|plan| plan.scenarios.get(name));
    ScenarioUsed {
        name: name.to_owned(),
        title: declared.and_then(|scenario| scenario.title.clone()),
        severity: declared.map(|scenario| scenario.severity.as_str().to_owned()),
    }
}

fn stage(status: RunStatus) -> Stage {
    match status {
        RunStatus::Running => Stage::Open,
        RunStatus::Ended(_) => Stage::Ended,
        RunStatus::RollingBack => Stage::RollingBack,
        RunStatus::Stuck => Stage::Stuck,
        RunStatus::RolledBack => Stage::RolledBack,
        RunStatus::Committing | RunStatus::Committed => Stage::Committed,
    }
}

fn why(state: &State, reason: &runbook::Reason) -> Why {
    let name = reason.step.as_ref().and_then(|id| state.runbook().find(id)).map(|step| step.name.clone());
    let step = reason.step.as_ref().map(ToString::to_string);
    Why { step, name, outcome: reason.outcome, why: reason.why.clone() }
}

fn processes(state: &State) -> Vec<Process> {
    let process = |process: &runbook::Incarnated| Process {
        host: process.incarnation.host.clone(),
        program: process.incarnation.version.clone(),
        from_seconds: process.from.as_secs(),
        left: process.suspended.clone(),
    };
    state.incarnations().iter().map(process).collect()
}

/// What the figures are made of.
struct Measured<'a> {
    state: &'a State,
    context: &'a Context,
    plan: Option<&'a plan::Plan>,
    outcome: Option<Outcome>,
    began: jiff::Timestamp,
}

impl Measured<'_> {
    /// The RTO and the RPO. What did not come back has neither; what was not shown to be right meets nothing.
    fn clocks(&self) -> Vec<Clock> {
        let scenario = self.context.scenario.as_deref();
        let declared = scenario.and_then(|name| self.plan?.scenarios.get(name));
        let is_back = matches!(self.outcome, Some(Outcome::Verified | Outcome::NotProven));
        let has_check = self.state.verdict().held > 0;
        let rto =
            (is_back && has_check).then(|| execute::recovery_time(self.state, self.context, self.began));
        let rpo = is_back.then(|| execute::recovery_point(self.state, self.context)).flatten();
        let from = match self.context.mode {
            Mode::Drill => "from the disaster in the twin to the last check that held",
            Mode::Disaster => "from the declaration of the disaster to the last check that held",
        };
        let oldest = "from the oldest recovery point that was brought back to the disaster";
        vec![
            self.clock("RTO", from, declared.and_then(|scenario| scenario.rto), rto),
            self.clock("RPO", oldest, declared.and_then(|scenario| scenario.rpo), rpo),
        ]
    }

    fn clock(&self, name: &str, meaning: &str, objective: Option<Duration>, measured: Option<f64>) -> Clock {
        let objective = objective.map(|time| time.as_secs_f64());
        let met = match (objective, measured) {
            (None, _) => Met::NoObjective,
            (Some(objective), Some(measured)) if measured > objective => Met::Missed,
            (Some(_), Some(_)) if self.outcome == Some(Outcome::Verified) => Met::Met,
            (Some(_), _) => Met::NotShown,
        };
        let (name, meaning) = (name.to_owned(), meaning.to_owned());
        Clock { name, meaning, objective_seconds: objective, measured_seconds: measured, met }
    }

    fn points(&self) -> Vec<PointUsed> {
        let replayed = execute::replayed(self.state);
        // A restore test brings a component back several times, each to an instant of its own.
        let is_one = |chosen: &crate::resolve::Chosen| {
            let same = self.context.chosen.iter().filter(|other| other.component == chosen.component);
            same.count() == 1
        };
        let further = |chosen: &crate::resolve::Chosen| match replayed.get(&chosen.component) {
            Some(instant) if is_one(chosen) => Some(*instant),
            _ => chosen.further,
        };
        let point = |chosen: &crate::resolve::Chosen| PointUsed {
            component: chosen.component.clone(),
            snapshot: chosen.snapshot.clone(),
            instant: chosen.instant,
            further: further(chosen),
            before_seconds: Some({
                let recovered = further(chosen).unwrap_or(chosen.instant);
                // Of a run that answers no disaster, its own begin.
                self.context.happened.duration_since(recovered).as_secs_f64().max(0.0)
            }),
            rpo_seconds: self
                .plan
                .and_then(|plan| plan.components.get(&chosen.component)?.rpo)
                .map(|rpo| rpo.as_secs_f64()),
            bytes: chosen.bytes,
            engine: chosen.engine.clone(),
        };
        self.context.chosen.iter().map(point).collect()
    }
}

fn line(state: &State, view: &StepView<'_>) -> StepLine {
    let is_begun = view.attempts > 0 || !view.elapsed.is_zero();
    let said = match view.status {
        // What a parent has to say is what its children say.
        Status::Succeeded { .. } if matches!(view.step.body, Body::Sequence(_) | Body::Parallel(_)) => None,
        Status::Succeeded { performed, .. } => Some(performed.summary.clone()),
        Status::Failed { failure, .. } => Some(failure.message.clone()),
        Status::Skipped { reason, by: Some(by) } => Some(format!("{reason} ({by})")),
        Status::Skipped { reason, by: None } => Some(reason.clone()),
        Status::Pending | Status::Running => view.failure.map(|failure| failure.message.clone()),
        Status::NotNeeded => None,
    };
    StepLine {
        id: view.step.id.to_string(),
        depth: view.depth,
        name: view.step.name.clone(),
        phase: view.phase.map(str::to_owned),
        status: step_status(state, view),
        took_seconds: is_begun.then_some(view.elapsed.as_secs_f64()),
        attempts: view.attempts,
        said: said.filter(|said| !said.trim().is_empty()),
        command: command(view.step),
        in_remedy: view.in_remedy,
    }
}

fn step_status(state: &State, view: &StepView<'_>) -> StepStatus {
    match view.status {
        Status::Pending if view.in_remedy => StepStatus::NotNeeded,
        Status::Pending => StepStatus::NotReached,
        Status::Running if state.status() == RunStatus::Running => StepStatus::Open,
        Status::Running => StepStatus::NotReached,
        Status::Succeeded { performed, .. } if matches!(performed.proven, Proven::Not(_)) => {
            StepStatus::NotProven
        }
        Status::Succeeded { found: true, .. } => StepStatus::AlreadyThere,
        Status::Succeeded { .. } => StepStatus::Done,
        Status::Failed { tolerated: true, .. } => StepStatus::FailedTolerated,
        Status::Failed { .. } => StepStatus::Failed,
        Status::Skipped { .. } => StepStatus::Skipped,
        Status::NotNeeded => StepStatus::NotNeeded,
    }
}

/// What a person would type to do the same.
pub(crate) fn command(step: &Step) -> Option<String> {
    let command = match &step.body {
        Body::Action(action) => action.command.clone(),
        Body::Gate { check, .. } => check.command.clone(),
        Body::Try { until, .. } => until.command.clone(),
        Body::Approve { message, .. } => format!("# a person says yes to: {message}"),
        Body::Wait { time } => format!("sleep {}", time.as_secs()),
        Body::Sequence(_) | Body::Parallel(_) => return None,
    };
    Some(command).filter(|command| !command.is_empty())
}

fn shown(state: &State) -> Vec<Shown> {
    let mut shown = Vec::new();
    state.runbook().visit(&mut |step, _| {
        if let Some(Status::Succeeded { performed, .. }) = state.step(&step.id).map(|step| &step.status)
            && let Proven::Shown(what) = &performed.proven
        {
            let (step, name) = (step.id.to_string(), step.name.clone());
            shown.push(Shown { step, name, what: what.clone() });
        }
    });
    shown
}

/// Everything that is there to show something and did not, and what was left out.
fn not_shown(state: &State) -> Vec<Why> {
    let mut not_shown = Vec::new();
    for view in state.steps(state.at()) {
        let asks = matches!(view.step.body, Body::Gate { .. } | Body::Try { .. });
        let (outcome, why) = match view.status {
            Status::Succeeded { performed, .. } => match &performed.proven {
                Proven::Not(why) => (Outcome::NotProven, why.clone()),
                Proven::Shown(_) | Proven::NotAsked => continue,
            },
            Status::Skipped { reason, .. } => (Outcome::NotProven, format!("skipped: {reason}")),
            Status::Failed { failure, .. } if asks => (Outcome::Failed, failure.message.clone()),
            Status::Pending | Status::Running if asks && !view.in_remedy => {
                (Outcome::NotProven, "was not reached, or not ended".to_owned())
            }
            _ => continue,
        };
        let (step, name) = (Some(view.step.id.to_string()), Some(view.step.name.clone()));
        not_shown.push(Why { step, name, outcome, why });
    }
    not_shown
}

fn losses(verdict: &Verdict) -> Vec<Loss> {
    let lost = verdict.losses.iter().filter(|(_, what)| !what.starts_with(LEFT_TO_PEOPLE));
    lost.map(|(step, what)| Loss { step: step.to_string(), what: what.clone() }).collect()
}

/// The texts that steps put out under `key`.
fn outputs(state: &State, key: &str) -> Vec<String> {
    let mut texts = Vec::new();
    state.runbook().visit(&mut |step, _| {
        let output = state.output_of(&step.id).and_then(|output| output.get(key)?.as_array());
        texts.extend(output.into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)));
    });
    texts
}

fn kept(state: &State) -> Vec<PathBuf> {
    match state.status() {
        RunStatus::RolledBack | RunStatus::Committed => Vec::new(),
        _ => outputs(state, "kept").into_iter().map(PathBuf::from).collect(),
    }
}

/// The sentence at the top: what came of the run.
pub(super) fn headline(report: &Report) -> String {
    let ending = words::ending(report);
    let took = words::duration(report.took_seconds);
    let when = if report.outcome.is_some() { format!("after {took}") } else { format!("{took} in so far") };
    let afterwards = words::afterwards(report.stage).map(|words| format!("; {words}")).unwrap_or_default();
    format!("{} of {}: {ending} {when}{afterwards}", words::kind(report), report.estate)
}
