//! What a run has shown: the outcome, and why it is not better.
//!
//! The rules, in the order in which they matter: an aborted run is *interrupted*; a step that was given up takes the run to its
//! failure's outcome; a gate whose failure was tolerated has *failed* all the same; anything else that was tolerated, skipped,
//! not reached or not shown makes the run *not proven*; and so does a run in which no check held. What failed inside a
//! try or a remedy does not count, because their check or the next attempt decides; what was skipped or not shown there does.

use super::{RemedyState, RunStatus, State, Status};
use crate::actions::{FailureKind, Proven};
use crate::event::Outcome;
use crate::model::{Body, Step, StepId};

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

impl State {
    /// What the run has shown so far; of a run that goes on, as if it ended here.
    pub fn verdict(&self) -> Verdict {
        let mut verdict =
            Verdict { outcome: Outcome::Verified, reasons: Vec::new(), held: 0, losses: Vec::new() };
        if let Some((by, reason)) = &self.aborted {
            verdict.add(None, Outcome::Interrupted, format!("aborted by {by}: {reason}"));
        }
        self.begun.runbook.steps.iter().for_each(|step| self.judge(step, true, &mut verdict));
        if verdict.held == 0 {
            verdict.add(None, Outcome::NotProven, "no check held, so nothing was shown".to_owned());
        }
        verdict
    }

    /// Whether the run has ended for good with that outcome.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.status {
            RunStatus::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// `decides`: whether a failure of this step is the run's; in attempts and remedies it is not.
    fn judge(&self, step: &Step, decides: bool, verdict: &mut Verdict) {
        let id = || Some(step.id.clone());
        match &self.steps[&step.id].status {
            Status::NotNeeded => {}
            Status::Pending | Status::Running if decides => {
                verdict.add(id(), Outcome::NotProven, "was not reached, or not ended".to_owned());
            }
            Status::Pending | Status::Running => {}
            Status::Skipped { reason, by } => {
                let who = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
                verdict.add(id(), Outcome::NotProven, format!("skipped{who}: {reason}"));
            }
            Status::Failed { failure, tolerated } => {
                if decides {
                    let outcome = match (tolerated, &step.body) {
                        (true, body) if !matches!(body, Body::Gate { .. }) => Outcome::NotProven,
                        _ => outcome_of(failure.kind),
                    };
                    // A parent fails for its child's reason, which is told at the child.
                    let of_child = failure.step.as_ref().is_some_and(|at| *at != step.id);
                    verdict.worsen(outcome);
                    if !of_child || *tolerated {
                        verdict.add(id(), outcome, failure.message.clone());
                    }
                }
                self.judge_inside(step, decides && !tolerated, verdict);
            }
            Status::Succeeded { performed, .. } => {
                match &performed.proven {
                    Proven::Not(why) => verdict.add(id(), Outcome::NotProven, why.clone()),
                    Proven::Shown(_) => verdict.held += usize::from(decides),
                    Proven::NotAsked => {}
                }
                verdict.losses.extend(performed.losses.iter().map(|loss| (step.id.clone(), loss.clone())));
                self.judge_inside(step, decides, verdict);
            }
        }
    }

    fn judge_inside(&self, step: &Step, decides: bool, verdict: &mut Verdict) {
        let in_try = matches!(step.body, Body::Try { .. });
        for child in step.children() {
            self.judge(child, decides && !in_try, verdict);
        }
        for (index, remedy) in step.remedies.iter().enumerate() {
            let state = self.steps[&step.id].remedies.get(&index);
            let begun = state.is_some_and(|state| !matches!(state, RemedyState::Refused(_)));
            if let (true, Some(loses)) = (begun, &remedy.loses) {
                verdict.losses.push((step.id.clone(), loses.clone()));
            }
            remedy.steps.iter().for_each(|child| self.judge(child, false, verdict));
        }
    }
}

impl Verdict {
    fn add(&mut self, step: Option<StepId>, outcome: Outcome, why: String) {
        self.worsen(outcome);
        self.reasons.push(Reason { step, outcome, why });
    }

    fn worsen(&mut self, outcome: Outcome) {
        self.outcome = self.outcome.max(outcome);
    }
}

/// What a step that was given up makes of the run. Ended from outside counts as failed here: if the run was aborted, that is
/// said apart.
fn outcome_of(kind: FailureKind) -> Outcome {
    match kind {
        FailureKind::Failed | FailureKind::Interrupted => Outcome::Failed,
        FailureKind::CouldNotRun => Outcome::CouldNotRun,
        FailureKind::NotProven => Outcome::NotProven,
    }
}
