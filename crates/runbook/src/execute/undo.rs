//! Rolling back: the undos of what succeeded, the last first, until they are through or one is stuck.

use super::recorder::Halt;
use super::walk::Walker;
use crate::actions::{Failure, Probe, Undone};
use crate::event::Event;
use crate::model::{Body, StepId};
use crate::state::Status;

impl Walker<'_> {
    /// What a killed process had begun is looked at first: if its effect is there it succeeded, and is taken back with the rest.
    pub(super) fn settle_interrupted(&self) -> Result<(), Halt> {
        let mut interrupted = Vec::new();
        self.runbook.visit(&mut |step, _| {
            if matches!(step.body, Body::Action(_)) && self.recorder.step(&step.id).interrupted {
                interrupted.push(step);
            }
        });
        for step in interrupted {
            let Body::Action(action) = &step.body else { continue };
            if self.recorder.step(&step.id).waiting.is_some() {
                continue;
            }
            if let Probe::Done(performed) = self.probe(step, action, None)? {
                self.recorder.record(Event::StepSucceeded {
                    step: step.id.clone(),
                    performed,
                    found: true,
                })?;
            }
        }
        Ok(())
    }

    /// Undoes until nothing is left or an undo fails.
    pub(super) fn roll_back(&self, by: &str) -> Result<(), Halt> {
        self.recorder.record(Event::RollbackBegun { by: by.to_owned() })?;
        loop {
            let next = self.recorder.with(|state| state.next_undo().map(|(step, undo)| (step.clone(), undo)));
            let Some((step, undo)) = next else { return self.recorder.record(Event::RolledBack) };
            if !self.undo(step, undo)? {
                return Ok(());
            }
        }
    }

    /// Tells whether the rollback may go on.
    fn undo(&self, step: StepId, undo: usize) -> Result<bool, Halt> {
        if let Some((by, reason)) = self.recorder.step(&step).undo_skip_ordered {
            self.recorder.record(Event::UndoSkipped { step, undo, reason, by })?;
            return Ok(true);
        }
        if self.recorder.is_halted() {
            return Err(Halt);
        }
        self.recorder.record(Event::UndoStarted { step: step.clone(), undo })?;
        match self.take_back(&step, undo) {
            Ok(summary) => {
                self.recorder.record(Event::UndoSucceeded { step, undo, summary })?;
                Ok(true)
            }
            // Cut off because the process is to end: begun again by the next one.
            Err(_) if self.recorder.is_halted() => Err(Halt),
            Err(failure) => {
                self.recorder.record(Event::UndoFailed { step, undo, failure })?;
                Ok(false)
            }
        }
    }

    fn take_back(&self, id: &StepId, undo: usize) -> Result<Option<String>, Failure> {
        let step = self.runbook.find(id).expect("only steps of the runbook succeed");
        let deadline = step.timeout.map(|timeout| self.recorder.env.clock.now() + timeout);
        let actions = self.recorder.env.actions;
        if let Some(action) = step.undo.get(undo) {
            let done = self.call(step, vec![id.clone()], deadline, |at| actions.perform(action, at));
            return done.and_then(|result| result).map(|performed| Some(performed.summary));
        }
        let (Body::Action(action), Status::Succeeded { performed, .. }) =
            (&step.body, self.recorder.step(id).status)
        else {
            return Ok(None);
        };
        let done = self.call(step, vec![id.clone()], deadline, |at| actions.undo(action, &performed, at));
        done.and_then(|result| result).map(|undone| match undone {
            Undone::Done(summary) => Some(summary),
            Undone::Nothing => None,
        })
    }
}
