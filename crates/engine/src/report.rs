//! The report of one run: everything that its journal tells, as plain data, and its forms for people.
//!
//! A report is derived from the journal and from nothing else: whoever has the journal, or its copy in the repository, has
//! the same report, years later and without the plan file. What the journal does not hold is left open here, never
//! guessed: a run that is not at its end has no outcome, and a recovery that failed has no RTO.
//!
//! `build` makes the data, `timeline` puts what happened into words; `markdown` and `html` write it, `words` has the
//! forms of durations, sizes and instants that both use.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use repository::Repository;
use runbook::Outcome;
use serde::Serialize;

use crate::Result;
use crate::resolve::{LeftOut, Mode};
use crate::runs;

mod build;
mod html;
pub(crate) mod markdown;
#[cfg(test)]
mod tests;
mod timeline;
pub(crate) mod words;

pub use html::html;
pub use markdown::markdown;

/// The version of what [`Report`] serialises to.
pub const VERSION: u32 = 1;

/// Everything that is known of one run. Durations are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of this record.
    pub version: u32,
    /// The run's id.
    pub run: String,
    /// What kind of run it is: `recover`, `drill`, …
    pub kind: String,
    /// What the runbook is called.
    pub title: String,
    /// The estate: the plan's name.
    pub estate: String,
    /// The plan.
    pub plan: PlanUsed,
    /// The scenario, if it was one.
    pub scenario: Option<ScenarioUsed>,
    /// Disaster or drill.
    pub mode: Mode,
    /// Where the run is.
    pub stage: Stage,
    /// How it ended; `None` while it is not at its end.
    pub outcome: Option<Outcome>,
    /// Everything that keeps it from being verified.
    pub reasons: Vec<Why>,
    /// Who began it.
    pub by: String,
    /// The processes that were at it, the first one first.
    pub processes: Vec<Process>,
    /// When the disaster was declared and when it happened; for recoveries.
    pub disaster: Option<Disaster>,
    /// When the run began.
    pub began: Timestamp,
    /// When the last thing happened in it.
    pub last: Timestamp,
    /// How long it took, people and interruptions included.
    pub took_seconds: f64,
    /// What was measured, beside the objectives of the plan.
    pub clocks: Vec<Clock>,
    /// Machine time by phase.
    pub phases: Vec<Phase>,
    /// Time in which people were waited for.
    pub people_seconds: f64,
    /// Time in which no process was at the run.
    pub down_seconds: f64,
    /// What was brought back.
    pub points: Vec<PointUsed>,
    /// Every step, parents before children.
    pub steps: Vec<StepLine>,
    /// What was shown to be right.
    pub shown: Vec<Shown>,
    /// What should have been shown and was not.
    pub not_shown: Vec<Why>,
    /// Steps that this kind of run leaves out because the plan says so.
    pub left_out: Vec<LeftOut>,
    /// What was lost.
    pub losses: Vec<Loss>,
    /// What people have still to do.
    pub left_to_people: Vec<String>,
    /// What was there before, kept until commit; empty once that was done, or rolled back.
    pub kept: Vec<PathBuf>,
    /// Orders and answers of people, with their names.
    pub people: Vec<Said>,
    /// What happened, as far as a person cares.
    pub timeline: Vec<Moment>,
    /// What this report could not find out.
    pub remarks: Vec<String>,
}

/// The plan that a run has pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanUsed {
    /// The file, as it was named.
    pub file: String,
    /// The digest of what it said.
    pub digest: String,
    /// The environment that was laid over it.
    pub environment: Option<String>,
}

/// The scenario of a run, as the pinned plan has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScenarioUsed {
    /// Its name.
    pub name: String,
    /// What has happened.
    pub title: Option<String>,
    /// How bad that is.
    pub severity: Option<String>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Steps are to be done; whether a process is at it is not known.
    Open,
    /// It is over.
    Ended,
    /// It is being taken back.
    RollingBack,
    /// Taking it back is stuck.
    Stuck,
    /// Everything was taken back.
    RolledBack,
    /// What a rollback would need is thrown away.
    Committed,
}

/// Something and the reason for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// The step; `None` if it is the run as a whole.
    pub step: Option<String>,
    /// What the step is called.
    pub name: Option<String>,
    /// How far it takes the outcome.
    pub outcome: Outcome,
    /// In words.
    pub why: String,
}

/// A process that was at a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The machine.
    pub host: String,
    /// The program and its version.
    pub program: String,
    /// When it came, in seconds since the run began.
    pub from_seconds: u64,
    /// Why it went, if it said so; one that was killed did not.
    pub left: Option<String>,
}

/// The disaster that a recovery answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Disaster {
    /// The RTO runs from here.
    pub declared: Timestamp,
    /// The RPO counts back from here.
    pub happened: Timestamp,
    /// The recovery instant that was asked for; the latest if none was.
    pub at: Option<Timestamp>,
}

/// One figure beside its objective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Clock {
    /// `RTO` or `RPO`.
    pub name: String,
    /// From when to when.
    pub meaning: String,
    /// What the plan demands.
    pub objective_seconds: Option<f64>,
    /// What was measured; `None` if there is nothing to measure, because nothing came back.
    pub measured_seconds: Option<f64>,
    /// What follows.
    pub met: Met,
}

/// Whether an objective is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Met {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// It was not shown, because the run was not verified.
    NotShown,
    /// The plan has no such objective.
    NoObjective,
}

/// How long a phase took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// Its name.
    pub phase: String,
    /// Machine time.
    pub seconds: f64,
}

/// A recovery point that was brought back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointUsed {
    /// The component.
    pub component: String,
    /// The snapshot's id in hexadecimal.
    pub snapshot: String,
    /// The moment that it represents.
    pub instant: Timestamp,
    /// The moment of the last thing that the log behind it has brought back; `None` without a log.
    pub further: Option<Timestamp>,
    /// How much older than the disaster what it comes to is; of a run that answers none, than the run.
    pub before_seconds: Option<f64>,
    /// How much the plan allows.
    pub rpo_seconds: Option<f64>,
    /// How much it is.
    pub bytes: Option<u64>,
    /// The engine that made it.
    pub engine: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepLine {
    /// Its id.
    pub id: String,
    /// How deep it lies; top steps are 0.
    pub depth: usize,
    /// What it is called.
    pub name: String,
    /// To which phase its time counts.
    pub phase: Option<String>,
    /// Where it is.
    pub status: StepStatus,
    /// How long it was at work, people's time included; `None` if it was not begun.
    pub took_seconds: Option<f64>,
    /// How often it was started.
    pub attempts: u32,
    /// What came of it, or why it failed or was left out.
    pub said: Option<String>,
    /// What a person would type.
    pub command: Option<String>,
    /// Whether it belongs to a remedy, and is only done when that is applied.
    pub in_remedy: bool,
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Not begun.
    NotReached,
    /// Begun and not ended.
    Open,
    /// Done.
    Done,
    /// Its effect was there already.
    AlreadyThere,
    /// Done, and it should have shown something and did not.
    NotProven,
    /// Given up.
    Failed,
    /// Given up, and the run went on.
    FailedTolerated,
    /// Left out although it belongs to the run.
    Skipped,
    /// An attempt or a remedy that was not needed.
    NotNeeded,
}

/// Something that was shown to be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The step that showed it.
    pub step: String,
    /// What the step is called.
    pub name: String,
    /// What was seen.
    pub what: String,
}

/// Something that was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The step by which it was lost.
    pub step: String,
    /// What.
    pub what: String,
}

/// What a person wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: String,
    /// What.
    pub what: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// What the wall clock said.
    pub at: Timestamp,
    /// Since the run began, by a clock that only goes forward.
    pub seconds: f64,
    /// What happened.
    pub what: String,
    /// What kind of news it is.
    pub tone: Tone,
}

/// What kind of news something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// It went on.
    Plain,
    /// Something was shown, or all is well.
    Good,
    /// Something needs a look: tried again, left out, not shown.
    Doubt,
    /// Something failed.
    Bad,
    /// A person was asked, or said something.
    People,
}

/// Reads the report of a run: from this machine, or else from the journal's copy in the repository.
///
/// Fails when neither has its journal, when that is damaged, and when it is no run of this program.
pub fn read(state: &Path, repository: Option<&Repository>, id: &str) -> Result<Report> {
    build::report(&runs::read(state, repository, id)?)
}

/// Makes the report of a run whose journal was read.
///
/// Fails when what the run has pinned cannot be understood.
pub fn of(run: &runbook::journal::Replayed) -> Result<Report> {
    build::report(run)
}
