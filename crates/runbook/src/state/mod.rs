//! The state of a run: what the journal's events amount to, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::actions::{Answer, Failure, Performed};
use crate::event::{Decision, Incarnation, Outcome, Question, RunBegun};
use crate::model::{Runbook, StepId};

mod apply;
mod orders;
mod verdict;
mod views;

pub use verdict::{Reason, Verdict};
pub use views::{PhaseTime, StepView, UndoView};

/// The state of a run. Made from its first entry, changed by [`apply`](State::apply) and by nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    begun: Arc<RunBegun>,
    status: RunStatus,
    incarnations: Vec<Incarnated>,
    seq: u64,
    at: Duration,
    steps: BTreeMap<StepId, StepState>,
    parents: BTreeMap<StepId, Parent>,
    paused: Option<Duration>,
    pauses: Vec<Interval>,
    aborted: Option<(String, String)>,
    /// The ids of the orders that were taken.
    orders: BTreeSet<String>,
    /// Steps that succeeded, by the time of their last success, without those whose effect was there before.
    succeeded: Vec<StepId>,
}

/// Where the run as a whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStatus {
    /// Steps are to be done. Says nothing about whether a process is at it.
    Running,
    /// It is over.
    Ended(Outcome),
    /// Undos are to be done.
    RollingBack,
    /// An undo failed; a person must mend it and roll back again, or leave that undo out.
    Stuck,
    /// Everything was taken back.
    RolledBack,
    /// What a rollback would need is being thrown away.
    Committing,
    /// What a rollback would need is gone.
    Committed,
}

/// A process that was at the run, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnated {
    /// The process.
    pub incarnation: Incarnation,
    /// From its first entry.
    pub from: Duration,
    /// To its last.
    pub to: Duration,
    /// Whether it said that it goes; otherwise it was killed, or is still at it.
    pub suspended: Option<String>,
}

/// From when to when, on the run's time.
pub type Interval = (Duration, Duration);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parent {
    step: Option<StepId>,
    /// The index of the remedy to which the step belongs; `None` for the body.
    remedy: Option<usize>,
    depth: usize,
}

/// The state of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepState {
    /// Where it is.
    pub status: Status,
    /// How often it was started.
    pub attempts: u32,
    /// How many of those failed since a person last wanted it tried again.
    pub failed_attempts: u32,
    /// Whether an attempt was begun of which it is not known how it ended.
    pub open: bool,
    /// Whether that attempt was begun by a process that is no more.
    pub interrupted: bool,
    /// Why the last attempt failed, until the next begins.
    pub failure: Option<Failure>,
    /// When it was first started; after it failed and is to be done again, when that began.
    pub first_started: Option<Duration>,
    /// Since when it is at work without interruption.
    pub since: Option<Duration>,
    /// When it was at work before.
    pub active: Vec<Interval>,
    /// What it waits for, if a person.
    pub waiting: Option<Waiting>,
    /// What the last question to a person was and what it led to, until the next attempt.
    pub decision: Option<(Question, Decision)>,
    /// When people were waited for.
    pub waits: Vec<Interval>,
    /// The remedies that were begun or refused, by their index.
    pub remedies: BTreeMap<usize, RemedyState>,
    /// Whether a remedy was applied since the last attempt failed, so that the step is to be tried again.
    pub mended: bool,
    /// The last answer of its check that was written down in the present attempt, and how often it was asked.
    pub answer: Option<(Answer, u64)>,
    /// Who wants it left out and why, until that is done.
    pub skip_ordered: Option<(String, String)>,
    /// Whether someone wants it ended and tried again, until that is done.
    pub retry_ordered: bool,
    /// How many of its undos are done or left out.
    pub undone: usize,
    /// Whether an undo was begun of which it is not known how it ended.
    pub undoing: bool,
    /// Why its undo is stuck, if it is.
    pub undo_failure: Option<Failure>,
    /// Who wants that undo left out and why, until that is done.
    pub undo_skip_ordered: Option<(String, String)>,
}

/// Where a remedy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemedyState {
    /// Its steps are being done.
    Running,
    /// They are through.
    Done,
    /// One of them was given up.
    Failed(Failure),
    /// What it loses was not approved, for this reason.
    Refused(String),
}

/// Where a step is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Status {
    /// Not begun, or to be done again.
    #[default]
    Pending,
    /// Begun and not ended, retries and remedies included.
    Running,
    /// Done.
    Succeeded {
        /// What came of it.
        performed: Performed,
        /// Whether the effect was found already there.
        found: bool,
    },
    /// Given up.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether the run goes on all the same.
        tolerated: bool,
    },
    /// Left out although it belongs to the run.
    Skipped {
        /// Why.
        reason: String,
        /// Who decided it; `None` if the runbook did.
        by: Option<String>,
    },
    /// An attempt that was not needed any more.
    NotNeeded,
}

impl Status {
    /// Whether the run may go on after it: it is done, left out, not needed, or its failure is tolerated.
    pub fn is_settled(&self) -> bool {
        match self {
            Status::Succeeded { .. } | Status::Skipped { .. } | Status::NotNeeded => true,
            Status::Failed { tolerated, .. } => *tolerated,
            Status::Pending | Status::Running => false,
        }
    }
}

/// Waiting for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// What is asked.
    pub question: Question,
    /// Since when.
    pub since: Duration,
    /// How long an answer is waited for.
    pub within: Option<Duration>,
    /// The answer that has come and is not yet acted on.
    pub answer: Option<Decision>,
}

/// An event that cannot happen in the state in which it is said to have happened: a damaged journal, or a mistake in the executor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq} of the run's journal is illegal there: {why}")]
pub struct IllegalEvent {
    /// The entry's number.
    pub seq: u64,
    /// What is wrong.
    pub why: String,
}

impl State {
    /// The first event.
    pub fn begun(&self) -> &RunBegun {
        &self.begun
    }

    /// The run's id.
    pub fn run(&self) -> &str {
        &self.begun.run
    }

    /// What is to be done.
    pub fn runbook(&self) -> &Runbook {
        &self.begun.runbook
    }

    /// Where the run as a whole is.
    pub fn status(&self) -> RunStatus {
        self.status
    }

    /// The number of the last entry.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The time of the last entry, since the run began.
    pub fn at(&self) -> Duration {
        self.at
    }

    /// The state of a step; `None` if the runbook has no such step.
    pub fn step(&self, id: &StepId) -> Option<&StepState> {
        self.steps.get(id)
    }

    /// The processes that were at the run.
    pub fn incarnations(&self) -> &[Incarnated] {
        &self.incarnations
    }

    /// Whether an operator paused it.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Who aborted it, and why.
    pub fn aborted(&self) -> Option<(&str, &str)> {
        self.aborted.as_ref().map(|(by, reason)| (by.as_str(), reason.as_str()))
    }
}
