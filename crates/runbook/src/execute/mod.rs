//! The executor: walks the runbook, asks the state at every step what is still to be done, does it, and writes it down.
//!
//! Lives here: the ways in. The walking is in `walk`, waiting and orders in `wait`, taking back in `undo`, the
//! one writer in `recorder`.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::actions::{Actions, Failure};
use crate::clock::Clock;
use crate::event::{Outcome, RunBegun};
use crate::journal::{Journal, JournalError};
use crate::model::InvalidRunbook;
use crate::observer::Observer;
use crate::order::{Controls, Order};
use crate::state::{IllegalEvent, RunStatus, State, Verdict};

/// What a run needs of the world.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Effects and answers.
    pub actions: &'a dyn Actions,
    /// Where orders come from.
    pub controls: &'a dyn Controls,
    /// Who watches.
    pub observer: &'a dyn Observer,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Becomes true when the process is to end: the run is suspended, and can be resumed.
    pub interrupt: &'a AtomicBool,
    /// The machine's name, for the journal.
    pub host: &'a str,
    /// The program's version, for the journal.
    pub version: &'a str,
    /// The rest.
    pub options: Options,
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Environment").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What can be chosen for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a person is waited for where the runbook does not say; `None` is for ever.
    pub answer_within: Option<Duration>,
}

/// How it ended, for now.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The state at the end.
    pub state: State,
    /// What was shown.
    pub verdict: Verdict,
}

impl Ended {
    /// The outcome for the process's exit code: of a run that ended, its own; interrupted, if it was suspended; of
    /// a rollback or commit, verified if it is through and failed if it is stuck.
    pub fn outcome(&self) -> Outcome {
        match self.state.status() {
            RunStatus::Ended(outcome) => outcome,
            RunStatus::Running | RunStatus::RollingBack | RunStatus::Committing => Outcome::Interrupted,
            RunStatus::Stuck => Outcome::Failed,
            RunStatus::RolledBack | RunStatus::Committed => Outcome::Verified,
        }
    }
}

/// Why a run was not begun, or could not go on. Whatever had happened is in the journal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runbook makes no sense.
    #[error(transparent)]
    Invalid(#[from] InvalidRunbook),
    /// The journal cannot be read or written: the run stops where it is.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The executor came to an event that cannot be.
    #[error(transparent)]
    Illegal(#[from] IllegalEvent),
    /// What is wanted makes no sense in this state.
    #[error("cannot {verb} run {run}: {why}")]
    NotNow {
        /// What is wanted.
        verb: &'static str,
        /// Of which run.
        run: String,
        /// Why not, and what would be possible.
        why: String,
    },
    /// What the run kept could not be thrown away.
    #[error("failed to commit run {run}: {failure}; commit it again")]
    Commit {
        /// Which run.
        run: String,
        /// Why.
        failure: Failure,
    },
}

/// Begins a run in an empty journal and executes it to its end.
pub fn begin(journal: Journal, begun: RunBegun, env: Environment<'_>) -> Result<Ended, Error> {
    begun.runbook.validate()?;
    let _ = (journal, env);
    unimplemented!("the executor is being written against these types")
}

/// Takes up a run that was killed, suspended, or ended without being verified, and executes it to its end. The orders
/// are obeyed first; without any, what failed is tried again.
pub fn resume(journal: Journal, by: &str, orders: Vec<Order>, env: Environment<'_>) -> Result<Ended, Error> {
    let _ = (journal, by, orders, env);
    unimplemented!("the executor is being written against these types")
}

/// Takes back what succeeded, the last first. Takes up a rollback that was killed or stuck; the orders (skip an undo) are
/// obeyed first.
pub fn rollback(
    journal: Journal,
    by: &str,
    orders: Vec<Order>,
    env: Environment<'_>,
) -> Result<Ended, Error> {
    let _ = (journal, by, orders, env);
    unimplemented!("the executor is being written against these types")
}

/// Throws away what a rollback would need: writes that it begins, calls `effect`, writes that it is done. `effect` is called again
/// if the process was killed in it.
pub fn commit(
    journal: Journal,
    by: &str,
    env: Environment<'_>,
    effect: &mut dyn FnMut(&State) -> Result<(), Failure>,
) -> Result<Ended, Error> {
    let _ = (journal, by, env, effect);
    unimplemented!("the executor is being written against these types")
}
