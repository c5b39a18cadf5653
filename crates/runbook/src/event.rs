//! The events of a run: the only things that change its [`State`](crate::State), and what its journal holds.
//!
//! They are a contract: whoever changes one raises [`FORMAT_VERSION`](crate::journal::FORMAT_VERSION).

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::actions::{Answer, Failure, Performed};
use crate::model::{Runbook, StepId};
use crate::order::Order;

/// An event with its place in the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counts from 1 without gaps, through all incarnations.
    pub seq: u64,
    /// What the wall clock said; written down and never calculated with.
    pub wall: Timestamp,
    /// Time since the run began, by clocks that only go forward; never less than in the entry before.
    #[serde(rename = "at_ms", with = "crate::millis")]
    pub at: Duration,
    /// What happened.
    pub event: Event,
}

/// What can happen in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The first event: what is to be done is pinned here.
    RunBegun(Box<RunBegun>),
    /// A process has taken up the run; the first one does so after `RunBegun`.
    IncarnationBegun(Incarnation),
    /// A run that had ended without being verified is taken up again; what had failed is pending again.
    RunReopened {
        /// Who wants it.
        by: String,
    },
    /// The process goes away in order (a signal, not an operator's abort); the run can be resumed.
    Suspended {
        /// Why.
        why: String,
    },
    /// The wall clock was moved.
    ClockJumped {
        /// By so much, in milliseconds; negative if it went back.
        by_ms: i64,
    },

    /// An attempt begins; written before any effect of it.
    StepStarted {
        /// Which step.
        step: StepId,
        /// Counts from 1; a start after a restart counts too.
        attempt: u32,
    },
    /// The attempt failed; a remedy or another attempt may follow.
    AttemptFailed {
        /// Which step.
        step: StepId,
        /// What failed.
        failure: Failure,
    },
    /// A remedy of the step is applied.
    RemedyBegun {
        /// Whose remedy.
        step: StepId,
        /// The index in the step's list.
        remedy: usize,
    },
    /// The remedy's steps are through.
    RemedyEnded {
        /// Whose remedy.
        step: StepId,
        /// The index in the step's list.
        remedy: usize,
        /// Why they failed, if they did.
        failure: Option<Failure>,
    },
    /// The step is done.
    StepSucceeded {
        /// Which step.
        step: StepId,
        /// What came of it.
        performed: Performed,
        /// Whether the effect was found already there instead of being made by this attempt.
        found: bool,
    },
    /// The step is given up.
    StepFailed {
        /// Which step.
        step: StepId,
        /// Why.
        failure: Failure,
        /// Whether the run goes on all the same.
        tolerated: bool,
    },
    /// The step is left out although it belongs to the run; the run is at most not proven.
    StepSkipped {
        /// Which step.
        step: StepId,
        /// Why.
        reason: String,
        /// Who decided it; `None` if the runbook did.
        by: Option<String>,
    },
    /// The step is an attempt that was not needed any more.
    StepNotNeeded {
        /// Which step.
        step: StepId,
    },
    /// A gate's or a try's check was asked. Only some of the polls are written: the first, the last, those
    /// with another answer than before, and one now and then.
    Polled {
        /// Which step.
        step: StepId,
        /// What it said.
        answer: Answer,
        /// How often it was asked in this attempt so far.
        polls: u64,
    },

    /// The run waits for a person here.
    WaitBegun {
        /// Which step waits.
        step: StepId,
        /// What the person is asked.
        question: Question,
        /// How long an answer is waited for; `None` is for ever.
        #[serde(rename = "within_ms", with = "crate::millis::option")]
        within: Option<Duration>,
    },
    /// It waits no longer.
    WaitEnded {
        /// Which step waited.
        step: StepId,
        /// What came of it.
        decision: Decision,
    },
    /// An operator's order was taken; its effect on the state is this event's.
    Ordered(Order),
    /// An operator's order made no sense now.
    Refused {
        /// The order.
        order: Order,
        /// Why not.
        why: String,
    },

    /// The run is over.
    RunEnded {
        /// With which outcome; always the one that the state itself derives.
        outcome: Outcome,
    },

    /// The run is being rolled back.
    RollbackBegun {
        /// Who wants it.
        by: String,
    },
    /// An undo action begins.
    UndoStarted {
        /// Whose undo.
        step: StepId,
        /// The index in the step's list; after its last comes what the driver knows.
        undo: usize,
    },
    /// The undo action is done.
    UndoSucceeded {
        /// Whose undo.
        step: StepId,
        /// The index.
        undo: usize,
        /// One line for people; `None` if there was nothing to take back.
        summary: Option<String>,
    },
    /// The undo action failed: the rollback is stuck here until a person has mended it.
    UndoFailed {
        /// Whose undo.
        step: StepId,
        /// The index.
        undo: usize,
        /// Why.
        failure: Failure,
    },
    /// An undo is left out because a person says so.
    UndoSkipped {
        /// Whose undo.
        step: StepId,
        /// The index.
        undo: usize,
        /// Why.
        reason: String,
        /// Who decided it.
        by: String,
    },
    /// Everything was taken back.
    RolledBack,

    /// What the run kept for a rollback is about to be thrown away; a rollback is impossible from here on.
    CommitBegun {
        /// Who wants it.
        by: String,
    },
    /// It is thrown away.
    Committed,
}

/// The first event of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunBegun {
    /// The run's id; also in the journal's first line.
    pub run: String,
    /// What kind of run it is (`recover`, `drill`, …); never looked into here.
    pub kind: String,
    /// Who began it.
    pub by: String,
    /// The digest of the plan from which the runbook was resolved.
    pub plan_digest: String,
    /// What is to be done.
    pub runbook: Runbook,
}

/// A process that takes up a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incarnation {
    /// The process.
    pub pid: u32,
    /// The machine's name.
    pub host: String,
    /// The boot of the machine.
    pub boot: String,
    /// What that boot's clock says; with it, the time between two incarnations of one boot is known exactly.
    #[serde(rename = "since_boot_ms", with = "crate::millis")]
    pub since_boot: Duration,
    /// The version of the program.
    pub version: String,
}

/// What a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// May the run go on here? Answered by approve or deny.
    Approve {
        /// The words of the runbook.
        message: String,
    },
    /// May this remedy be applied, although something is lost? Answered by approve or deny.
    LossyRemedy {
        /// The index in the step's list.
        remedy: usize,
        /// What is lost.
        loses: String,
    },
    /// The step failed: retry, skip or abort?
    Failed {
        /// Why it failed.
        failure: Failure,
    },
    /// The process was killed in the middle of an action that must not be done twice, and nobody can tell
    /// whether it was done: retry, skip (it was done) or abort?
    Uncertain {
        /// What a person would have typed.
        command: String,
    },
}

impl Question {
    /// Whether it is answered by approve or deny; otherwise by retry, skip or abort.
    pub fn is_approval(&self) -> bool {
        matches!(self, Question::Approve { .. } | Question::LossyRemedy { .. })
    }
}

/// What came of waiting for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decision {
    /// Yes.
    Approved {
        /// Who.
        by: String,
    },
    /// No.
    Denied {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// Try the step again.
    Retry {
        /// Who.
        by: String,
    },
    /// Leave the step out.
    Skip {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// End the run.
    Abort {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// Nobody answered in time.
    Nobody,
    /// The question does not matter any more.
    Withdrawn {
        /// Why.
        why: String,
    },
}

/// How a run ended. There is no sixth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything was done, and it was shown that it is right.
    Verified,
    /// Nothing failed, but something that had to be shown was not shown, or was skipped.
    NotProven,
    /// It could not be done at all.
    CouldNotRun,
    /// Something failed.
    Failed,
    /// It was aborted.
    Interrupted,
}
