//! What people want to see of a run, derived from its state.

use std::time::Duration;

use super::{Status, Waiting};
use crate::actions::Failure;
use crate::model::{Action, Step, StepId};

/// One step of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct StepView<'a> {
    /// The step.
    pub step: &'a Step,
    /// How deep it lies; top steps are 0.
    pub depth: usize,
    /// Whether it belongs to a remedy, and is only done when that is applied.
    pub in_remedy: bool,
    /// Its phase, its parents' if it has none.
    pub phase: Option<&'a str>,
    /// Where it is.
    pub status: &'a Status,
    /// How often it was started.
    pub attempts: u32,
    /// Why the last attempt failed, while the next has not begun.
    pub failure: Option<&'a Failure>,
    /// How long it was at work, people's time included.
    pub elapsed: Duration,
    /// What it waits for.
    pub waiting: Option<&'a Waiting>,
}

/// How long a phase took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseTime {
    /// Its name.
    pub phase: String,
    /// Machine time in which at least one of its steps was at work; waiting for people is not in it.
    pub time: Duration,
}

/// What a rollback does for one step.
#[derive(Clone, Debug, PartialEq)]
pub struct UndoView<'a> {
    /// The step that succeeded.
    pub step: &'a StepId,
    /// Its undo actions that are still to be done; after them the driver takes back what it knows.
    pub actions: &'a [Action],
    /// Why it is stuck.
    pub failure: Option<&'a Failure>,
}
