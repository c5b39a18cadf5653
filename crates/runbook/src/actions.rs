//! What the caller provides: the trait [`Actions`] that turns actions into effects, and the values that go in and out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Clock;
use crate::model::{Action, StepId};

/// Turns actions into effects and questions into answers.
///
/// Called from several threads at once when steps run in parallel. Everything returned is written to the journal
/// and shown to people: no value of a secret may be in it.
///
/// **Ending in time.** A call must return soon after [`StepContext::is_cancelled`] becomes true (the deadline has
/// passed, or an operator wants the step to end); nothing else can end it.
///
/// **Being called again.** A process can be killed after the effect and before the journal has it. What was begun and
/// not finished is asked about with [`probe`](Actions::probe) and then performed again, unless the action says
/// that it is not repeatable.
pub trait Actions: Sync {
    /// Does it. `Err` means that the effect must be regarded as not there.
    fn perform(&self, action: &Action, at: &StepContext<'_>) -> Result<Performed, Failure>;

    /// Asks a check once.
    fn ask(&self, check: &Action, at: &StepContext<'_>) -> Answer;

    /// Tells what has become of an action that was begun by a process that was killed.
    fn probe(&self, action: &Action, at: &StepContext<'_>) -> Probe;

    /// Takes back what a performed action did, as far as the driver itself knows how; the step's own `undo` actions
    /// were performed before. Called again if it was interrupted, so it must be safe to do twice.
    fn undo(&self, action: &Action, performed: &Performed, at: &StepContext<'_>) -> Result<Undone, Failure>;
}

/// What came of an action that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Performed {
    /// One line for people.
    pub summary: String,
    /// What later steps and the report need; kept small, it lies in the journal.
    pub output: Value,
    /// Whether the action itself showed that its result is right.
    pub proven: Proven,
    /// What was lost by it, in words; for the report.
    pub losses: Vec<String>,
}

impl Performed {
    /// Something done that proves nothing by itself, as most actions.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), output: Value::Null, proven: Proven::NotAsked, losses: Vec::new() }
    }

    /// Adds what later steps need.
    pub fn with_output(mut self, output: Value) -> Self {
        self.output = output;
        self
    }

    /// Adds whether the result was shown to be right.
    pub fn with_proven(mut self, proven: Proven) -> Self {
        self.proven = proven;
        self
    }
}

/// Whether an action showed that its result is right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proven {
    /// It is not the kind of action that shows anything; checks must.
    NotAsked,
    /// It was shown, by this. Counts as a check that held.
    Shown(String),
    /// It should have been shown and was not, for this reason. The run is at most not proven.
    Not(String),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{message}")]
pub struct Failure {
    /// Which outcome it leads to.
    pub kind: FailureKind,
    /// What failed, why, what to do.
    pub message: String,
    /// In which step it happened; filled in by the executor when a parent fails because of a child.
    pub step: Option<StepId>,
}

impl Failure {
    /// It was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::of(FailureKind::Failed, message)
    }

    /// It could not even be tried.
    pub fn could_not_run(message: impl Into<String>) -> Self {
        Self::of(FailureKind::CouldNotRun, message)
    }

    /// It was told to end, or its time was over.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::of(FailureKind::Interrupted, message)
    }

    /// It may or may not be right; that could not be found out.
    pub fn not_proven(message: impl Into<String>) -> Self {
        Self::of(FailureKind::NotProven, message)
    }

    /// Makes a failure of that kind.
    pub fn of(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), step: None }
    }
}

/// Which outcome a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Tried and failed.
    Failed,
    /// Could not be tried.
    CouldNotRun,
    /// Ended from outside.
    Interrupted,
    /// Could not be evaluated.
    NotProven,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is as expected; with what was seen.
    Holds(String),
    /// It is not, and may become so.
    Fails(String),
    /// It is not, and never will be.
    Fatal(String),
    /// The question could not be evaluated. Never counts as held.
    Unknown(String),
}

impl Answer {
    /// What was seen, or why not.
    pub fn detail(&self) -> &str {
        match self {
            Answer::Holds(text) | Answer::Fails(text) | Answer::Fatal(text) | Answer::Unknown(text) => text,
        }
    }
}

/// What has become of an action that was begun and not finished.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// Its effect is there; this is what `perform` would have returned.
    Done(Performed),
    /// Its effect is not there, wholly or in part, and `perform` may be called.
    NotDone,
    /// Nobody knows.
    Unknown,
}

/// What came of taking an action back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It was taken back; one line for people.
    Done(String),
    /// There is nothing that the driver would have to take back.
    Nothing,
}

/// What a running action tells while it runs. Never journaled; for the live view only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A line of its output, or what it is doing.
    Line(String),
    /// How far it is.
    Amount {
        /// So much is done.
        done: u64,
        /// Of so much, if that is known.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// A gate's check was asked.
    Asked(Answer),
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files or other things.
    Items,
}

/// Where and when an action is called.
pub struct StepContext<'a> {
    pub(crate) run: &'a str,
    pub(crate) step: &'a StepId,
    pub(crate) attempt: u32,
    pub(crate) cancel: Arc<AtomicBool>,
    /// On the clock.
    pub(crate) deadline: Option<Duration>,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) progress: &'a (dyn Fn(&Progress) + Sync),
    pub(crate) output: &'a (dyn Fn(&StepId) -> Option<Value> + Sync),
}

impl<'a> StepContext<'a> {
    /// Makes a context outside any run, for asking a check by itself: nothing cancels it but the flag, and nobody
    /// watches its progress.
    pub fn alone(run: &'a str, step: &'a StepId, clock: &'a dyn Clock, cancel: Arc<AtomicBool>) -> Self {
        Self { run, step, attempt: 1, cancel, deadline: None, clock, progress: &|_| (), output: &|_| None }
    }

    /// The run's id.
    pub fn run(&self) -> &str {
        self.run
    }

    /// The step's id.
    pub fn step(&self) -> &StepId {
        self.step
    }

    /// Counts from 1; a start after a restart is a new attempt.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether to end at once.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.time_left() == Some(Duration::ZERO)
    }

    /// The flag that becomes true when the call must end, the passing of the deadline included.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// The time until the deadline; `None` if there is none.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_sub(self.clock.now()))
    }

    /// Tells the live view; nothing of it is kept.
    pub fn progress(&self, progress: &Progress) {
        (self.progress)(progress);
    }

    /// What an earlier step of this run put out, if it succeeded.
    pub fn output_of(&self, step: &StepId) -> Option<Value> {
        (self.output)(step)
    }
}

impl fmt::Debug for StepContext<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StepContext")
            .field("run", &self.run)
            .field("step", &self.step)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
