//! What a run has shown: the outcome, and why it is not better.

use crate::event::Outcome;
use crate::model::StepId;

/// What a run has shown so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The outcome.
    pub outcome: Outcome,
    /// Everything that keeps it from being verified; empty if it is.
    pub reasons: Vec<Reason>,
    /// How many checks held: gates, `until`s of a try, and actions that showed that their result is right.
    pub held: usize,
    /// What was lost, in words, by step.
    pub losses: Vec<(StepId, String)>,
}

/// Why a run is not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The step; `None` if it is the run as a whole.
    pub step: Option<StepId>,
    /// How far it takes the outcome.
    pub outcome: Outcome,
    /// In words.
    pub why: String,
}
