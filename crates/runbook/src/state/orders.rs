//! What an operator's order does to the state, and when it makes no sense.

use std::sync::Arc;
use std::time::Duration;

use super::apply::{Anew, Illegal};
use super::{RunStatus, State, Status, Waiting};
use crate::event::{Decision, Outcome};
use crate::model::{Step, StepId};
use crate::order::{Order, Verb};

impl State {
    /// Tells why an order makes no sense now; `None` if it may be obeyed.
    pub fn refusal(&self, order: &Order) -> Option<String> {
        if self.orders.contains(&order.id) {
            return Some(format!("the order {} was given before", order.id));
        }
        let running = self.status == RunStatus::Running;
        match &order.verb {
            Verb::Skip { step, .. } if !running => self.refuse_skip_of_undo(step),
            _ if !running => Some("the run is not running; resume it with this order".to_owned()),
            Verb::Pause if self.paused.is_some() => Some("the run is paused already".to_owned()),
            Verb::Continue if self.paused.is_none() => Some("the run is not paused".to_owned()),
            Verb::Abort { .. } if self.aborted.is_some() => {
                Some("the run is being aborted already".to_owned())
            }
            Verb::Pause | Verb::Continue | Verb::Abort { .. } => None,
            Verb::Approve { step } | Verb::Deny { step, .. } => self.find_approval(step.as_ref()).err(),
            Verb::Skip { step, .. } => self.refuse_skip(step),
            Verb::Retry { step } => self.refuse_retry(step),
            Verb::ContinueFrom { step, .. } => self.refuse_continue_from(step),
        }
    }

    /// Tells whether the order changes what lies behind the executor, so that it can only be obeyed before the executor
    /// walks.
    pub(crate) fn is_for_resuming(&self, order: &Order) -> bool {
        match &order.verb {
            Verb::ContinueFrom { .. } => true,
            Verb::Retry { step } | Verb::Skip { step, .. } => self
                .steps
                .get(step)
                .is_some_and(|state| !matches!(state.status, Status::Running | Status::Pending)),
            _ => false,
        }
    }

    /// Whether an order with this id was obeyed or refused.
    pub(crate) fn has_order(&self, id: &str) -> bool {
        self.orders.contains(id)
    }

    /// Tells why the orders could not be obeyed one after the other on resuming, without changing anything.
    pub(crate) fn try_orders(&self, orders: &[Order]) -> Result<(), String> {
        let mut trial = self.clone();
        if matches!(trial.status, RunStatus::Ended(_)) {
            trial.reopen_run(self.at)?;
        }
        orders.iter().try_for_each(|order| trial.obey(order, self.at))
    }

    pub(super) fn take_order(&mut self, id: &str) -> Illegal {
        // A refused order may be one that was taken before; otherwise every id comes once.
        self.orders.insert(id.to_owned());
        Ok(())
    }

    pub(super) fn obey(&mut self, order: &Order, at: Duration) -> Illegal {
        if let Some(why) = self.refusal(order) {
            return Err(why);
        }
        self.take_order(&order.id)?;
        let by = || order.by.clone();
        match &order.verb {
            Verb::Pause => self.paused = Some(at),
            Verb::Continue => self.end_pause(at),
            Verb::Abort { reason } => self.aborted = Some((by(), reason.clone())),
            Verb::Approve { step } => {
                let step = self.find_approval(step.as_ref())?;
                self.answer(&step, Decision::Approved { by: by() });
            }
            Verb::Deny { step, reason } => {
                let step = self.find_approval(step.as_ref())?;
                self.answer(&step, Decision::Denied { by: by(), reason: reason.clone() });
            }
            Verb::Skip { step, reason } => self.order_skip(step, by(), reason),
            Verb::Retry { step } => self.order_retry(step, by()),
            Verb::ContinueFrom { step, reason } => {
                let begun = Arc::clone(&self.begun);
                let reason = format!("the run was continued from step {step}: {reason}");
                self.skip_before(&begun.runbook.steps, step, &by(), &reason, at);
            }
        }
        Ok(())
    }

    fn find_approval(&self, wanted: Option<&StepId>) -> Result<StepId, String> {
        let open = |waiting: &Waiting| waiting.question.is_approval() && waiting.answer.is_none();
        let asks =
            |id: &StepId| self.steps.get(id).and_then(|state| state.waiting.as_ref()).is_some_and(open);
        if let Some(id) = wanted {
            return if asks(id) {
                Ok(id.clone())
            } else {
                Err(format!("step {id} does not wait for an approval"))
            };
        }
        let ids: Vec<&StepId> = self.steps.keys().filter(|id| asks(id)).collect();
        match ids.as_slice() {
            [] => Err("no step waits for an approval".to_owned()),
            [id] => Ok((*id).clone()),
            many => {
                let many: Vec<&str> = many.iter().map(|id| id.as_str()).collect();
                Err(format!("several steps wait for an approval; say which: {}", many.join(", ")))
            }
        }
    }

    fn answer(&mut self, id: &StepId, decision: Decision) {
        let waiting = self.steps.get_mut(id).and_then(|state| state.waiting.as_mut());
        waiting.expect("the step was found waiting").answer = Some(decision);
    }

    /// Whether the step waits for a person to say retry, skip or abort.
    fn asks_what_to_do(&self, id: &StepId) -> bool {
        let waiting = self.steps.get(id).and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| !waiting.question.is_approval() && waiting.answer.is_none())
    }

    fn refuse_skip(&self, id: &StepId) -> Option<String> {
        let Some(state) = self.steps.get(id) else { return Some(format!("there is no step {id}")) };
        match &state.status {
            _ if state.skip_ordered.is_some() => Some(format!("step {id} is being skipped already")),
            Status::Pending | Status::Running | Status::Failed { tolerated: false, .. } => None,
            Status::Failed { .. } => Some(format!("step {id} failed, and the run goes on all the same")),
            Status::Succeeded { .. } => Some(format!("step {id} is done")),
            Status::Skipped { .. } | Status::NotNeeded => Some(format!("step {id} is left out already")),
        }
    }

    fn order_skip(&mut self, id: &StepId, by: String, reason: &str) {
        let reason = reason.to_owned();
        if self.status != RunStatus::Running {
            let state = self.steps.get_mut(id).expect("the order was not refused");
            state.undo_skip_ordered = Some((by, reason));
            return;
        }
        if self.asks_what_to_do(id) {
            return self.answer(id, Decision::Skip { by, reason });
        }
        self.pend(id);
        self.steps.get_mut(id).expect("the order was not refused").skip_ordered = Some((by, reason));
    }

    fn refuse_skip_of_undo(&self, id: &StepId) -> Option<String> {
        let stuck = self.steps.get(id).is_some_and(|state| state.undo_failure.is_some());
        (!stuck).then(|| format!("the undo of step {id} is not stuck"))
    }

    fn refuse_retry(&self, id: &StepId) -> Option<String> {
        let Some(state) = self.steps.get(id) else { return Some(format!("there is no step {id}")) };
        match &state.status {
            Status::Succeeded { .. } => {
                Some(format!("step {id} is done, and what is done is not done again"))
            }
            Status::Pending if state.attempts == 0 => Some(format!("step {id} was not tried yet")),
            Status::NotNeeded => Some(format!("step {id} was not needed")),
            Status::Running if state.waiting.is_some() && !self.asks_what_to_do(id) => {
                Some(format!("step {id} waits for a person; approve or deny it"))
            }
            Status::Pending | Status::Running | Status::Failed { .. } | Status::Skipped { .. } => None,
        }
    }

    fn order_retry(&mut self, id: &StepId, by: String) {
        if self.asks_what_to_do(id) {
            return self.answer(id, Decision::Retry { by });
        }
        let state = self.steps.get_mut(id).expect("the order was not refused");
        if state.status == Status::Running {
            state.retry_ordered = true;
        } else {
            self.pend(id);
        }
    }

    /// Makes a step that had ended pending again, and with it whatever it belongs to.
    fn pend(&mut self, id: &StepId) {
        let ended = |status: &Status| !matches!(status, Status::Pending | Status::Running);
        if !ended(&self.steps[id].status) {
            return;
        }
        let begun = Arc::clone(&self.begun);
        let step = begun.runbook.find(id).expect("the order was not refused");
        self.steps.get_mut(id).expect("the order was not refused").renew();
        self.reopen_inside(step, Anew::ByPerson);
        let mut parent = self.parents[id].step.clone();
        while let Some(id) = parent {
            let state = self.steps.get_mut(&id).expect("every step of the runbook has a state");
            if ended(&state.status) {
                state.renew();
            }
            self.succeeded.retain(|other| *other != id);
            parent = self.parents[&id].step.clone();
        }
    }

    fn refuse_continue_from(&self, id: &StepId) -> Option<String> {
        let Some(parent) = self.parents.get(id) else { return Some(format!("there is no step {id}")) };
        if parent.remedy.is_some() {
            return Some(format!("step {id} belongs to a remedy"));
        }
        let done = self.steps[id].status.is_settled();
        done.then(|| format!("step {id} is done or left out already"))
    }

    /// Leaves out what comes before a step and is not settled; tells whether the step was met.
    fn skip_before(&mut self, steps: &[Step], id: &StepId, by: &str, reason: &str, at: Duration) -> bool {
        for step in steps {
            if step.id == *id {
                return true;
            }
            if step.children().iter().any(|child| contains(child, id)) {
                return self.skip_before(step.children(), id, by, reason, at);
            }
            if !self.steps[&step.id].status.is_settled() {
                self.give_up(step, "the run was continued from a later step", at);
                let state = self.steps.get_mut(&step.id).expect("every step of the runbook has a state");
                state.status = Status::Skipped { reason: reason.to_owned(), by: Some(by.to_owned()) };
            }
        }
        false
    }

    /// Whether a run in this state can be resumed, and why not.
    pub fn refuse_resume(&self) -> Option<&'static str> {
        match self.status {
            RunStatus::Running => None,
            RunStatus::Ended(Outcome::Verified) => Some("it is verified, there is nothing left to do"),
            RunStatus::Ended(_) => None,
            RunStatus::RollingBack | RunStatus::Stuck => {
                Some("it is being rolled back; go on with the rollback")
            }
            RunStatus::RolledBack => Some("it was rolled back; begin a new run"),
            RunStatus::Committing | RunStatus::Committed => Some("it was committed; begin a new run"),
        }
    }
}

fn contains(step: &Step, id: &StepId) -> bool {
    step.id == *id || step.all_children().any(|child| contains(child, id))
}
