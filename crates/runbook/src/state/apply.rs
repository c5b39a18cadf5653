//! The transition function: what each event does to the state, and in which states it can happen at all.

use std::sync::Arc;
use std::time::Duration;

use super::{
    IllegalEvent, Incarnated, Interval, Parent, RemedyState, RunStatus, State, Status, StepState, Waiting,
};
use crate::actions::{Answer, Failure, Performed};
use crate::event::{Decision, Entry, Event, Incarnation, Outcome, Question};
use crate::model::{Body, OnFailure, Step, StepId};

/// Why a step is to be done again. A remedy is applied once, unless a person wants the step tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anew {
    ByItself,
    ByPerson,
}

/// Why an event cannot be.
pub(super) type Illegal<T = ()> = Result<T, String>;

impl State {
    /// Makes the state of a run from its first entry.
    pub fn new(first: &Entry) -> Result<Self, IllegalEvent> {
        let illegal = |why: String| IllegalEvent { seq: first.seq, why };
        let Event::RunBegun(begun) = &first.event else {
            return Err(illegal("a run begins with its runbook".to_owned()));
        };
        if first.seq != 1 {
            return Err(illegal("the first entry has the number 1".to_owned()));
        }
        begun.runbook.validate().map_err(|error| illegal(error.to_string()))?;
        let mut state = Self {
            begun: Arc::new((**begun).clone()),
            status: RunStatus::Running,
            incarnations: Vec::new(),
            seq: first.seq,
            at: first.at,
            steps: Default::default(),
            parents: Default::default(),
            paused: None,
            pauses: Vec::new(),
            aborted: None,
            orders: Default::default(),
            succeeded: Vec::new(),
        };
        begun.runbook.steps.iter().for_each(|step| state.add(step, None, None, 0));
        Ok(state)
    }

    /// Replays entries from the first.
    pub fn replay(entries: &[Entry]) -> Result<Self, IllegalEvent> {
        let Some((first, rest)) = entries.split_first() else {
            return Err(IllegalEvent { seq: 1, why: "there is no first entry".to_owned() });
        };
        let mut state = Self::new(first)?;
        rest.iter().try_for_each(|entry| state.apply(entry))?;
        Ok(state)
    }

    /// Applies an entry: the only way in which a state changes, in the live run and in replay. After an error the state is
    /// not to be used any more.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), IllegalEvent> {
        let illegal = |why: String| IllegalEvent { seq: entry.seq, why };
        if entry.seq != self.seq + 1 {
            return Err(illegal(format!("it follows number {}", self.seq)));
        }
        if entry.at < self.at {
            return Err(illegal("its time lies before that of the entry before".to_owned()));
        }
        self.change(&entry.event, entry.at).map_err(illegal)?;
        self.seq = entry.seq;
        self.at = entry.at;
        if let Some(incarnated) = self.incarnations.last_mut() {
            incarnated.to = entry.at;
        }
        Ok(())
    }

    fn add(&mut self, step: &Step, parent: Option<&StepId>, remedy: Option<usize>, depth: usize) {
        self.steps.insert(step.id.clone(), StepState::default());
        self.parents.insert(step.id.clone(), Parent { step: parent.cloned(), remedy, depth });
        step.children().iter().for_each(|child| self.add(child, Some(&step.id), None, depth + 1));
        for (index, remedy) in step.remedies.iter().enumerate() {
            remedy.steps.iter().for_each(|child| self.add(child, Some(&step.id), Some(index), depth + 1));
        }
    }

    fn change(&mut self, event: &Event, at: Duration) -> Illegal {
        match event {
            Event::RunBegun(_) => return Err("the run had begun already".to_owned()),
            Event::IncarnationBegun(incarnation) => return self.take_up(incarnation, at),
            _ => {}
        }
        let last = self.incarnations.last();
        require(last.is_some_and(|last| last.suspended.is_none()), || {
            "no process was at the run".to_owned()
        })?;
        match event {
            Event::RunBegun(_) | Event::IncarnationBegun(_) | Event::ClockJumped { .. } => Ok(()),
            Event::Suspended { why } => {
                let last = self.incarnations.last_mut().expect("a process is at the run");
                last.suspended = Some(why.clone());
                Ok(())
            }
            Event::RunReopened { .. } => self.reopen_run(at),
            Event::StepStarted { step, attempt } => self.start(step, *attempt, at),
            Event::AttemptFailed { step, failure } => self.fail_attempt(step, failure, at),
            Event::RemedyBegun { step, remedy } => self.begin_remedy(step, *remedy, at),
            Event::RemedyEnded { step, remedy, failure } => {
                self.end_remedy(step, *remedy, failure.as_ref(), at)
            }
            Event::StepSucceeded { step, performed, found } => self.succeed(step, performed, *found, at),
            Event::StepFailed { step, failure, tolerated } => self.fail(step, failure, *tolerated, at),
            Event::StepSkipped { step, reason, by } => self.skip(step, reason, by.as_deref(), at),
            Event::StepNotNeeded { step } => self.not_needed(step),
            Event::Polled { step, answer, polls } => self.polled(step, answer, *polls, at),
            Event::WaitBegun { step, question, within } => self.begin_wait(step, question, *within, at),
            Event::WaitEnded { step, decision } => self.end_wait(step, decision, at),
            Event::Ordered(order) => self.obey(order, at),
            Event::Refused { order, .. } => self.take_order(&order.id),
            Event::RunEnded { outcome } => self.end_run(*outcome, at),
            Event::RollbackBegun { .. } => self.begin_rollback(at),
            Event::UndoStarted { step, undo } => self.start_undo(step, *undo),
            Event::UndoSucceeded { step, undo, .. } => self.end_undo(step, *undo, true).map(drop),
            Event::UndoFailed { step, undo, failure } => {
                self.end_undo(step, *undo, false)?.undo_failure = Some(failure.clone());
                self.status = RunStatus::Stuck;
                Ok(())
            }
            Event::UndoSkipped { step, undo, reason, by } => self.skip_undo(step, *undo, (by, reason)),
            Event::RolledBack => self.end_rollback(),
            Event::CommitBegun { .. } => {
                let may = matches!(self.status, RunStatus::Ended(_) | RunStatus::Committing);
                require(may, || "only a run that has ended can be committed".to_owned())?;
                self.status = RunStatus::Committing;
                Ok(())
            }
            Event::Committed => {
                require(self.status == RunStatus::Committing, || "no commit had begun".to_owned())?;
                self.status = RunStatus::Committed;
                Ok(())
            }
        }
    }

    fn take_up(&mut self, incarnation: &Incarnation, at: Duration) -> Illegal {
        let over = matches!(self.status, RunStatus::RolledBack | RunStatus::Committed);
        require(!over, || "the run was rolled back or committed".to_owned())?;
        let died_at = self.at;
        for state in self.steps.values_mut() {
            state.rest(died_at);
            state.interrupted = state.open;
            state.undoing = false;
        }
        let incarnation = incarnation.clone();
        self.incarnations.push(Incarnated { incarnation, from: at, to: at, suspended: None });
        Ok(())
    }

    pub(super) fn reopen_run(&mut self, at: Duration) -> Illegal {
        match self.status {
            RunStatus::Ended(outcome) if outcome != Outcome::Verified => {}
            _ => return Err("only a run that ended without being verified can be reopened".to_owned()),
        }
        self.status = RunStatus::Running;
        self.aborted = None;
        self.end_pause(at);
        let begun = Arc::clone(&self.begun);
        begun.runbook.steps.iter().for_each(|step| self.reopen(step, Anew::ByPerson));
        Ok(())
    }

    /// Makes a step that had failed pending again; what had succeeded inside stays as it is, but for the attempts of a try,
    /// which only make sense from the first.
    fn reopen(&mut self, step: &Step, anew: Anew) {
        let state = self.steps.get_mut(&step.id).expect("every step of the runbook has a state");
        if matches!(state.status, Status::Failed { tolerated: false, .. }) {
            let remedies = std::mem::take(&mut state.remedies);
            state.renew();
            if anew == Anew::ByItself {
                state.remedies = remedies;
            }
            self.reopen_inside(step, anew);
        }
    }

    /// Makes pending again what had failed inside a step.
    pub(super) fn reopen_inside(&mut self, step: &Step, anew: Anew) {
        let is_try = matches!(step.body, Body::Try { .. });
        for child in step.children() {
            if is_try { self.renew(child) } else { self.reopen(child, anew) }
        }
        if anew == Anew::ByPerson {
            self.renew_remedies(step);
        }
    }

    fn renew_remedies(&mut self, step: &Step) {
        step.remedies.iter().flat_map(|remedy| &remedy.steps).for_each(|child| self.renew(child));
    }

    /// Makes a step pending again with everything inside, whatever had become of it.
    fn renew(&mut self, step: &Step) {
        self.steps.get_mut(&step.id).expect("every step of the runbook has a state").renew();
        step.all_children().for_each(|child| self.renew(child));
    }

    fn start(&mut self, id: &StepId, attempt: u32, at: Duration) -> Illegal {
        self.require_parent(id)?;
        let begun = Arc::clone(&self.begun);
        let step = known(&begun.runbook, id)?;
        let state = self.running_or_pending(id)?;
        require(attempt == state.attempts + 1, || format!("step {id} was started {} times", state.attempts))?;
        let again = state.interrupted || state.failure.is_some();
        require(state.status == Status::Pending || again, || format!("step {id} is being done"))?;
        let asks = state
            .waiting
            .as_ref()
            .is_some_and(|waiting| !matches!(waiting.question, Question::Approve { .. }));
        require(!asks, || format!("step {id} waits for a person"))?;
        let retried = state.failure.take().is_some();
        let renewed = state.retry_ordered;
        if renewed {
            state.failed_attempts = 0;
            state.remedies.clear();
        }
        if retried || !matches!(step.body, Body::Approve { .. }) {
            state.decision = None;
        }
        state.status = Status::Running;
        state.attempts = attempt;
        (state.open, state.interrupted, state.retry_ordered) = (true, false, false);
        (state.mended, state.answer) = (false, None);
        if retried {
            state.first_started = None;
        }
        state.first_started.get_or_insert(at);
        state.work(at);
        if retried {
            self.reopen_inside(step, if renewed { Anew::ByPerson } else { Anew::ByItself });
        }
        Ok(())
    }

    fn fail_attempt(&mut self, id: &StepId, failure: &Failure, at: Duration) -> Illegal {
        let state = self.at_work(id)?;
        require(state.waiting.is_none(), || format!("step {id} waits for a person"))?;
        state.open = false;
        state.interrupted = false;
        state.failed_attempts += 1;
        state.failure = Some(failure.clone());
        state.work(at);
        Ok(())
    }

    fn begin_remedy(&mut self, id: &StepId, index: usize, at: Duration) -> Illegal {
        let begun = Arc::clone(&self.begun);
        let step = known(&begun.runbook, id)?;
        let state = self.between_attempts(id)?;
        let remedy = step.remedies.get(index).ok_or_else(|| format!("step {id} has no remedy {index}"))?;
        require(!state.remedies.contains_key(&index), || format!("remedy {index} of step {id} was applied"))?;
        let approved = matches!(&state.decision, Some((Question::LossyRemedy { remedy, .. }, Decision::Approved { .. })) if *remedy == index);
        require(remedy.loses.is_none() || approved, || format!("nobody approved what remedy {index} loses"))?;
        state.decision = None;
        state.remedies.insert(index, RemedyState::Running);
        state.work(at);
        Ok(())
    }

    fn end_remedy(&mut self, id: &StepId, index: usize, failure: Option<&Failure>, at: Duration) -> Illegal {
        let begun = Arc::clone(&self.begun);
        let step = known(&begun.runbook, id)?;
        let steps = step.remedies.get(index).map(|remedy| remedy.steps.as_slice()).unwrap_or_default();
        let through = self.all_settled(steps);
        let state = self.between_attempts(id)?;
        require(state.remedies.get(&index) == Some(&RemedyState::Running), || {
            format!("remedy {index} of step {id} had not begun")
        })?;
        require(through || failure.is_some(), || format!("remedy {index} of step {id} is not through"))?;
        state.remedies.insert(index, failure.cloned().map_or(RemedyState::Done, RemedyState::Failed));
        state.mended = failure.is_none();
        // An attempt that a remedy follows does not use up a retry.
        state.failed_attempts = state.failed_attempts.saturating_sub(u32::from(state.mended));
        state.work(at);
        Ok(())
    }

    fn succeed(&mut self, id: &StepId, performed: &Performed, found: bool, at: Duration) -> Illegal {
        let begun = Arc::clone(&self.begun);
        let step = known(&begun.runbook, id)?;
        let children_settled = self.all_settled(step.children());
        let state = self.at_work(id)?;
        require(state.waiting.is_none(), || format!("step {id} waits for a person"))?;
        let shown = match &step.body {
            Body::Action(_) => true,
            Body::Wait { .. } => !found,
            Body::Sequence(_) | Body::Parallel(_) => !found && children_settled,
            Body::Gate { .. } | Body::Try { .. } => {
                !found && matches!(state.answer, Some((Answer::Holds(_), _)))
            }
            Body::Approve { .. } => {
                !found
                    && matches!(state.decision, Some((Question::Approve { .. }, Decision::Approved { .. })))
            }
        };
        require(shown, || format!("step {id} cannot have succeeded: what it stands for was not done"))?;
        // What was there before the run touched it is not the run's to take back.
        let ours = !found || state.interrupted || state.attempts > 1;
        state.status = Status::Succeeded { performed: performed.clone(), found };
        state.end(at);
        self.succeeded.retain(|other| other != id);
        if ours {
            self.succeeded.push(id.clone());
        }
        Ok(())
    }

    fn fail(&mut self, id: &StepId, failure: &Failure, tolerated: bool, at: Duration) -> Illegal {
        let goes_on = known(&self.begun.runbook, id)?.on_failure == OnFailure::Continue;
        let state = self.between_attempts(id)?;
        require(!tolerated || goes_on, || format!("the failure of step {id} is not to be tolerated"))?;
        state.status = Status::Failed { failure: failure.clone(), tolerated };
        state.end(at);
        Ok(())
    }

    fn skip(&mut self, id: &StepId, reason: &str, by: Option<&str>, at: Duration) -> Illegal {
        self.require_parent(id)?;
        let begun = Arc::clone(&self.begun);
        let step = known(&begun.runbook, id)?;
        let state = self.running_or_pending(id)?;
        require(state.waiting.is_none(), || format!("step {id} waits for a person"))?;
        let wanted = match (by, &state.skip_ordered) {
            (None, _) => step.skip_reason.as_deref() == Some(reason),
            (Some(by), Some(ordered)) => ordered.0 == by && ordered.1 == reason,
            (Some(_), None) => false,
        };
        require(wanted, || format!("nobody wanted step {id} to be skipped"))?;
        state.status = Status::Skipped { reason: reason.to_owned(), by: by.map(str::to_owned) };
        state.end(at);
        step.all_children()
            .for_each(|child| self.give_up(child, "the step that it belongs to was skipped", at));
        Ok(())
    }

    /// Ends what was under way in a step, and in those inside, when nobody will come back to it.
    pub(super) fn give_up(&mut self, step: &Step, why: &str, at: Duration) {
        let state = self.steps.get_mut(&step.id).expect("every step of the runbook has a state");
        if state.status == Status::Running {
            let since = state.waiting.take().map(|waiting| waiting.since);
            state.waits.extend(since.map(|since| (since, at)));
            let failure = state.failure.clone().unwrap_or_else(|| Failure::interrupted(why));
            state.status = Status::Failed { failure, tolerated: false };
            state.end(at);
        }
        step.all_children().for_each(|child| self.give_up(child, why, at));
    }

    fn not_needed(&mut self, id: &StepId) -> Illegal {
        self.require_parent(id)?;
        let parent = self.parents[id].step.clone();
        let is_attempt = parent
            .and_then(|parent| self.begun.runbook.find(&parent))
            .is_some_and(|parent| matches!(parent.body, Body::Try { .. }));
        let state = self.running_or_pending(id)?;
        require(is_attempt && state.status == Status::Pending, || format!("step {id} is needed"))?;
        state.status = Status::NotNeeded;
        Ok(())
    }

    fn polled(&mut self, id: &StepId, answer: &Answer, polls: u64, at: Duration) -> Illegal {
        let asks = matches!(known(&self.begun.runbook, id)?.body, Body::Gate { .. } | Body::Try { .. });
        let state = self.at_work(id)?;
        let before = state.answer.as_ref().map_or(0, |(_, polls)| *polls);
        require(asks && polls > before, || format!("step {id} did not ask then"))?;
        state.answer = Some((answer.clone(), polls));
        state.work(at);
        Ok(())
    }

    fn begin_wait(
        &mut self,
        id: &StepId,
        question: &Question,
        within: Option<Duration>,
        at: Duration,
    ) -> Illegal {
        let begun = Arc::clone(&self.begun);
        let step = known(&begun.runbook, id)?;
        let state = self.running_or_pending(id)?;
        let fits = match question {
            Question::Approve { .. } => state.open && matches!(step.body, Body::Approve { .. }),
            Question::LossyRemedy { remedy, .. } => {
                state.failure.is_some()
                    && step.remedies.get(*remedy).is_some_and(|remedy| remedy.loses.is_some())
            }
            Question::Failed { .. } => state.failure.is_some(),
            Question::Uncertain { .. } => state.interrupted,
        };
        require(fits && state.waiting.is_none(), || format!("step {id} has nothing to ask"))?;
        state.waiting = Some(Waiting { question: question.clone(), since: at, within, answer: None });
        state.decision = None;
        state.work(at);
        Ok(())
    }

    fn end_wait(&mut self, id: &StepId, decision: &Decision, at: Duration) -> Illegal {
        let state = self.running_or_pending(id)?;
        let waiting = state.waiting.take().ok_or_else(|| format!("step {id} waits for nobody"))?;
        let right = match (decision, &waiting.answer) {
            (Decision::Withdrawn { .. }, _) => true,
            (Decision::Nobody, None) => waiting.within.is_some_and(|within| at >= waiting.since + within),
            (Decision::Nobody, Some(_)) => false,
            (decision, answer) => answer.as_ref() == Some(decision),
        };
        require(right, || format!("step {id} got another answer, or none"))?;
        state.waits.push((waiting.since, at));
        match decision {
            Decision::Retry { .. } => {
                state.failed_attempts = 0;
                state.remedies.clear();
            }
            Decision::Skip { by, reason } => state.skip_ordered = Some((by.clone(), reason.clone())),
            _ => {}
        }
        if let (Question::LossyRemedy { remedy, .. }, Some(why)) = (&waiting.question, refused(decision)) {
            state.remedies.insert(*remedy, RemedyState::Refused(why));
        }
        state.decision = Some((waiting.question, decision.clone()));
        state.work(at);
        if matches!(decision, Decision::Retry { .. }) {
            let begun = Arc::clone(&self.begun);
            self.renew_remedies(known(&begun.runbook, id)?);
        }
        Ok(())
    }

    fn end_run(&mut self, outcome: Outcome, at: Duration) -> Illegal {
        require(self.status == RunStatus::Running, || "the run was not running".to_owned())?;
        if self.aborted.is_some() {
            let begun = Arc::clone(&self.begun);
            begun.runbook.steps.iter().for_each(|step| self.give_up(step, "the run was aborted", at));
        }
        let busy = self.steps.iter().find(|(_, state)| state.status == Status::Running);
        require(busy.is_none(), || format!("step {} had not ended", busy.map_or("", |(id, _)| id.as_str())))?;
        let runbook = &self.begun.runbook;
        let failed =
            |step: &Step| matches!(self.steps[&step.id].status, Status::Failed { tolerated: false, .. });
        let through =
            self.all_settled(&runbook.steps) || runbook.steps.iter().any(failed) || self.aborted.is_some();
        require(through, || "there were steps to be done".to_owned())?;
        let derived = self.verdict().outcome;
        require(derived == outcome, || format!("its steps amount to {derived:?}, not {outcome:?}"))?;
        self.end_pause(at);
        self.status = RunStatus::Ended(outcome);
        Ok(())
    }

    fn begin_rollback(&mut self, at: Duration) -> Illegal {
        let over =
            matches!(self.status, RunStatus::RolledBack | RunStatus::Committing | RunStatus::Committed);
        require(!over, || "the run was rolled back or committed".to_owned())?;
        self.end_pause(at);
        self.status = RunStatus::RollingBack;
        self.steps.values_mut().for_each(|state| state.undo_failure = None);
        Ok(())
    }

    /// The next undo of a rollback: of the step that succeeded last, its next action. An index past the actions is what the
    /// driver knows itself.
    pub fn next_undo(&self) -> Option<(&StepId, usize)> {
        self.succeeded.iter().rev().find_map(|id| {
            let undone = self.steps[id].undone;
            (undone < self.undos(id)).then_some((id, undone))
        })
    }

    /// How many undos a step has: its actions, and the driver's own if it is an action itself.
    fn undos(&self, id: &StepId) -> usize {
        let step = self.begun.runbook.find(id).expect("only steps of the runbook have a state");
        step.undo.len() + usize::from(matches!(step.body, Body::Action(_)))
    }

    fn start_undo(&mut self, id: &StepId, undo: usize) -> Illegal {
        self.require_undo(id, undo)?;
        let state = self.steps.get_mut(id).expect("what is to be undone has a state");
        require(!state.undoing, || format!("undo {undo} of step {id} is being done"))?;
        state.undoing = true;
        Ok(())
    }

    fn end_undo(&mut self, id: &StepId, undo: usize, done: bool) -> Illegal<&mut StepState> {
        self.require_undo(id, undo)?;
        let state = self.steps.get_mut(id).expect("what is to be undone has a state");
        require(state.undoing, || format!("undo {undo} of step {id} had not begun"))?;
        state.undoing = false;
        state.undone += usize::from(done);
        Ok(state)
    }

    fn skip_undo(&mut self, id: &StepId, undo: usize, wanted: (&str, &str)) -> Illegal {
        self.require_undo(id, undo)?;
        let state = self.steps.get_mut(id).expect("what is to be undone has a state");
        let ordered = state.undo_skip_ordered.take();
        let is_wanted = ordered.is_some_and(|(by, reason)| (by.as_str(), reason.as_str()) == wanted);
        require(is_wanted, || format!("nobody wanted undo {undo} of step {id} to be skipped"))?;
        state.undoing = false;
        state.undone += 1;
        Ok(())
    }

    fn require_undo(&self, id: &StepId, undo: usize) -> Illegal {
        require(self.status == RunStatus::RollingBack, || "the run is not being rolled back".to_owned())?;
        require(self.next_undo() == Some((id, undo)), || format!("undo {undo} of step {id} is not the next"))
    }

    fn end_rollback(&mut self) -> Illegal {
        require(self.status == RunStatus::RollingBack, || "the run is not being rolled back".to_owned())?;
        require(self.next_undo().is_none(), || "there is more to be undone".to_owned())?;
        self.status = RunStatus::RolledBack;
        Ok(())
    }

    pub(super) fn end_pause(&mut self, at: Duration) {
        if let Some(since) = self.paused.take() {
            self.pauses.push((since, at));
        }
    }

    fn all_settled(&self, steps: &[Step]) -> bool {
        steps.iter().all(|step| self.steps[&step.id].status.is_settled())
    }

    /// A step can only begin or be left out while what it belongs to is being done.
    fn require_parent(&self, id: &StepId) -> Illegal {
        let Some(Parent { step: Some(parent), remedy, .. }) = self.parents.get(id) else {
            return require(self.parents.contains_key(id), || format!("there is no step {id}"));
        };
        let state = &self.steps[parent];
        let under_way = match remedy {
            None => state.open && !state.interrupted,
            Some(index) => state.remedies.get(index) == Some(&RemedyState::Running),
        };
        require(state.status == Status::Running && under_way, || format!("step {parent} is not being done"))
    }

    fn running_or_pending(&mut self, id: &StepId) -> Illegal<&mut StepState> {
        require(self.status == RunStatus::Running, || "the run is not running".to_owned())?;
        let state = self.steps.get_mut(id).ok_or_else(|| format!("there is no step {id}"))?;
        let ended = !matches!(state.status, Status::Pending | Status::Running);
        require(!ended, || format!("step {id} had ended"))?;
        Ok(state)
    }

    fn at_work(&mut self, id: &StepId) -> Illegal<&mut StepState> {
        let state = self.running_or_pending(id)?;
        require(state.open, || format!("step {id} had not been started"))?;
        Ok(state)
    }

    fn between_attempts(&mut self, id: &StepId) -> Illegal<&mut StepState> {
        let state = self.running_or_pending(id)?;
        let between = !state.open && state.failure.is_some() && state.waiting.is_none();
        require(between, || format!("step {id} had no failed attempt"))?;
        Ok(state)
    }
}

impl StepState {
    /// It is at work from here on, if it was not.
    fn work(&mut self, at: Duration) {
        self.since.get_or_insert(at);
    }

    /// It is not at work any more.
    fn rest(&mut self, at: Duration) {
        let since: Option<Duration> = self.since.take();
        self.active.extend(since.map(|since| -> Interval { (since, at) }));
    }

    fn end(&mut self, at: Duration) {
        self.rest(at);
        (self.open, self.interrupted, self.retry_ordered, self.skip_ordered) = (false, false, false, None);
    }

    /// Makes it pending again. What it cost so far stays: attempts, times.
    pub(super) fn renew(&mut self) {
        let before = std::mem::take(self);
        let Self { attempts, active, waits, undone, .. } = before;
        *self = Self { attempts, active, waits, undone, ..Self::default() };
    }
}

/// In which words a lossy remedy was not approved; `None` if it was.
fn refused(decision: &Decision) -> Option<String> {
    match decision {
        Decision::Denied { by, reason } => Some(format!("denied by {by}: {reason}")),
        Decision::Nobody => Some("nobody approved what it loses".to_owned()),
        _ => None,
    }
}

fn known<'a>(runbook: &'a crate::model::Runbook, id: &StepId) -> Illegal<&'a Step> {
    runbook.find(id).ok_or_else(|| format!("there is no step {id}"))
}

fn require(holds: bool, why: impl FnOnce() -> String) -> Illegal {
    if holds { Ok(()) } else { Err(why()) }
}
