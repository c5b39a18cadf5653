//! The executor: walks the runbook, asks the state at every step what is still to be done, does it, and writes it down.
//!
//! Lives here: the ways in. The walking is in `walk`, waiting and orders in `wait`, taking back in `undo`, the
//! one writer in `recorder`.

mod recorder;
mod undo;
mod wait;
mod walk;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use recorder::{Halt, Recorder};
use walk::Walker;

use crate::actions::{Actions, Failure};
use crate::clock::Clock;
use crate::event::{Event, Outcome, RunBegun};
use crate::journal::{Journal, JournalError};
use crate::model::InvalidRunbook;
use crate::observer::Observer;
use crate::order::{Controls, Order};
use crate::state::{IllegalEvent, RunStatus, State, Verdict};

/// How soon an order or a deadline reaches an action that is under way.
const WATCH_EVERY: Duration = Duration::from_millis(50);

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
    if begun.run != journal.run() {
        let why = format!("the journal is that of {}", journal.run());
        return Err(Error::NotNow { verb: "begin", run: begun.run, why });
    }
    let event = as_journaled(&Event::RunBegun(Box::new(begun)));
    let recorder = Recorder::begin(journal, event, env)?;
    execute(recorder, take_up, walk)
}

/// Takes up a run that was killed, suspended, or ended without being verified, and executes it to its end. The orders
/// are obeyed first; without any, what failed is tried again.
pub fn resume(journal: Journal, by: &str, orders: Vec<Order>, env: Environment<'_>) -> Result<Ended, Error> {
    let recorder = Recorder::reopen(journal, env)?;
    let refusal = recorder.with(|state| match state.refuse_resume() {
        Some(why) => Err(why.to_owned()),
        None => state.try_orders(&orders),
    });
    refuse("resume", &recorder, refusal)?;
    let prepare = |recorder: &Recorder<'_>| {
        recorder.take_up()?;
        if recorder.with(|state| matches!(state.status(), RunStatus::Ended(_))) {
            recorder.record(Event::RunReopened { by: by.to_owned() })?;
        }
        orders.into_iter().try_for_each(|order| recorder.record(Event::Ordered(order)))?;
        recorder.take_orders(false)
    };
    execute(recorder, prepare, walk)
}

/// Takes back what succeeded, the last first. Takes up a rollback that was killed or stuck; the orders (skip an undo) are
/// obeyed first.
pub fn rollback(
    journal: Journal,
    by: &str,
    orders: Vec<Order>,
    env: Environment<'_>,
) -> Result<Ended, Error> {
    let recorder = Recorder::reopen(journal, env)?;
    let refusal = recorder.with(|state| match state.status() {
        RunStatus::RolledBack => Err("it was rolled back already".to_owned()),
        RunStatus::Committing | RunStatus::Committed => Err("what it would need was thrown away".to_owned()),
        RunStatus::Running if !orders.is_empty() => {
            Err("no undo is stuck that an order could be for".to_owned())
        }
        _ => orders.iter().try_for_each(|order| state.refusal(order).map_or(Ok(()), Err)),
    });
    refuse("roll back", &recorder, refusal)?;
    let prepare = |recorder: &Recorder<'_>| {
        recorder.take_up()?;
        orders.into_iter().try_for_each(|order| recorder.record(Event::Ordered(order)))
    };
    execute(recorder, prepare, |walker| {
        if walker.recorder.with(|state| state.status() == RunStatus::Running) {
            walker.settle_interrupted()?;
        }
        walker.roll_back(by)
    })
}

/// Throws away what a rollback would need: writes that it begins, calls `effect`, writes that it is done. `effect` is called again
/// if the process was killed in it.
pub fn commit(
    journal: Journal,
    by: &str,
    env: Environment<'_>,
    effect: &mut dyn FnMut(&State) -> Result<(), Failure>,
) -> Result<Ended, Error> {
    let recorder = Recorder::reopen(journal, env)?;
    let refusal = recorder.with(|state| match state.status() {
        RunStatus::Ended(_) | RunStatus::Committing => Ok(()),
        RunStatus::Running => Err("it has not ended; resume it first".to_owned()),
        RunStatus::RollingBack | RunStatus::Stuck => Err("it is being rolled back".to_owned()),
        RunStatus::RolledBack => Err("it was rolled back".to_owned()),
        RunStatus::Committed => Err("it was committed already".to_owned()),
    });
    refuse("commit", &recorder, refusal)?;
    let begun = recorder.take_up().and_then(|()| recorder.record(Event::CommitBegun { by: by.to_owned() }));
    if begun.is_ok() {
        let state = recorder.with(State::clone);
        let run = state.run().to_owned();
        effect(&state).map_err(|failure| Error::Commit { run, failure })?;
        // A journal that cannot be written is told by `finish`.
        let _ = recorder.record(Event::Committed);
    }
    ended(recorder.finish()?)
}

/// Prepares and works while a second thread listens to orders and cancels what must end.
fn execute(
    recorder: Recorder<'_>,
    prepare: impl FnOnce(&Recorder<'_>) -> Result<(), Halt>,
    work: impl FnOnce(&Walker<'_>) -> Result<(), Halt>,
) -> Result<Ended, Error> {
    let runbook = recorder.with(|state| state.runbook().clone());
    let done = AtomicBool::new(false);
    let result = prepare(&recorder).and_then(|()| {
        thread::scope(|threads| {
            let watcher = threads.spawn(|| watch(&recorder, &done));
            let _stop = StopWatching { done: &done, watcher: watcher.thread().clone() };
            work(&Walker { recorder: &recorder, runbook: &runbook })
        })
    });
    if result.is_err() {
        // If the journal itself is what failed, nothing is written, and `finish` tells.
        let _ = recorder.record(Event::Suspended { why: "the process was told to end".to_owned() });
    }
    ended(recorder.finish()?)
}

/// Ends the watcher when the work is over, by a panic too.
struct StopWatching<'a> {
    done: &'a AtomicBool,
    watcher: thread::Thread,
}

impl Drop for StopWatching<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.watcher.unpark();
    }
}

/// Real time, also in tests: the threads that are watched are real.
fn watch(recorder: &Recorder<'_>, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        thread::park_timeout(WATCH_EVERY);
        // What halts the run is found by the walker, too.
        if recorder.has_calls() && !recorder.is_halted() {
            let _ = recorder.take_orders(true);
        }
        recorder.watch_calls();
    }
}

fn ended(state: State) -> Result<Ended, Error> {
    let verdict = state.verdict();
    Ok(Ended { state, verdict })
}

fn refuse(verb: &'static str, recorder: &Recorder<'_>, refusal: Result<(), String>) -> Result<(), Error> {
    refusal.map_err(|why| Error::NotNow { verb, run: recorder.run().to_owned(), why })
}

/// The event as a reader of the journal will see it, with times in whole milliseconds, so that the live run follows the very same.
fn as_journaled(event: &Event) -> Event {
    let text = serde_json::to_string(event).expect("an event has no map whose keys are not text");
    serde_json::from_str(&text).expect("what was written as an event is read as one")
}

fn take_up(recorder: &Recorder<'_>) -> Result<(), Halt> {
    recorder.take_up()
}

/// Does what is to be done and ends the run.
fn walk(walker: &Walker<'_>) -> Result<(), Halt> {
    walker.steps(&walker.runbook.steps, None)?;
    let outcome = walker.recorder.with(|state| state.verdict().outcome);
    walker.recorder.record(Event::RunEnded { outcome })
}
