//! Walking the runbook: what to do with a step is read from its state, one event at a time, so that a walk that is taken up
//! again in the middle does what the one before would have done next.
//!
//! ```text
//!            ┌────────── remedy, retry, "retry" ──────────┐
//!            ↓                                            │
//!  Pending → StepStarted → body ─┬─ done → StepSucceeded  │
//!     ↑          ↑               └─ failed → AttemptFailed ┴→ StepFailed (stop, or tolerated)
//!     │          │ not there
//!     │        probe ← killed in an attempt
//!     └─ StepSkipped: left out by the runbook, or by a person at any time
//! ```

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::recorder::{Halt, Recorder};
use crate::actions::{Answer, Failure, FailureKind, Performed, Probe, StepContext};
use crate::event::{Decision, Event, Question};
use crate::model::{Action, Body, OnFailure, Runbook, Step, StepId};
use crate::state::{RemedyState, Status, StepState};

/// How often the executor looks around while it waits: soon enough for a person, seldom enough to cost nothing.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Parallel steps beyond this many wait for one to end: more threads would not restore faster.
const PARALLEL_MAX: usize = 16;

pub(super) struct Walker<'a> {
    pub(super) recorder: &'a Recorder<'a>,
    pub(super) runbook: &'a Runbook,
}

/// A step that is being done, and all that it belongs to.
pub(super) struct Scope<'a> {
    pub(super) step: &'a Step,
    pub(super) parent: Option<&'a Scope<'a>>,
    /// When it began, and how long people had been waited for by then.
    began: (Duration, Duration),
}

/// What became of a step, for what it belongs to.
#[derive(Debug)]
pub(super) enum End {
    /// Go on.
    Settled,
    /// It was given up.
    Failed(Failure),
}

/// What came of an attempt: it was done (by it, or found done), or it failed.
pub(super) type Attempt = Result<(Performed, bool), Failure>;

/// What to do next with a step.
enum Next {
    Attempt,
    Again,
    End(End),
}

impl<'a> Walker<'a> {
    /// Does the steps one after the other until one is given up.
    pub(super) fn steps(&self, steps: &[Step], parent: Option<&Scope<'_>>) -> Result<End, Halt> {
        for step in steps {
            if let End::Failed(failure) = self.step(step, parent)? {
                return Ok(End::Failed(failure));
            }
        }
        Ok(End::Settled)
    }

    pub(super) fn step(&self, step: &Step, parent: Option<&Scope<'_>>) -> Result<End, Halt> {
        loop {
            self.look_around()?;
            match self.next(step, parent)? {
                Next::Again => {}
                Next::Attempt => self.attempt(step, parent)?,
                Next::End(end) => return Ok(end),
            }
        }
    }

    /// Takes orders; tells when nothing more may be done.
    pub(super) fn look_around(&self) -> Result<(), Halt> {
        if self.recorder.is_halted() {
            return Err(Halt);
        }
        self.recorder.take_orders(true)
    }

    fn next(&self, step: &Step, parent: Option<&Scope<'_>>) -> Result<Next, Halt> {
        let state = self.recorder.step(&step.id);
        match &state.status {
            status if status.is_settled() => return Ok(Next::End(End::Settled)),
            Status::Failed { failure, .. } => return Ok(Next::End(End::Failed(failure.clone()))),
            _ => {}
        }
        if let Some(why) = self.recorder.stop_reason(parent.into_iter().flat_map(Scope::ids)) {
            return self.give_up(step, &state, &why).map(Next::End);
        }
        if let Some((by, reason)) = state.skip_ordered.clone() {
            self.withdraw(step, &state, "the step is skipped")?;
            let step = step.id.clone();
            self.recorder.record(Event::StepSkipped { step, reason, by: Some(by) })?;
            return Ok(Next::Again);
        }
        if let (Status::Pending, Some(reason)) = (&state.status, step.skip_reason.clone()) {
            self.recorder.record(Event::StepSkipped { step: step.id.clone(), reason, by: None })?;
            return Ok(Next::Again);
        }
        if let Some(failure) = parent.and_then(|parent| self.late(parent)) {
            return self.give_up_late(step, &state, failure).map(Next::End);
        }
        let approves = matches!(step.body, Body::Approve { .. });
        if state.waiting.is_some() && !(approves && state.interrupted) {
            self.await_answer(step, parent)?;
            return Ok(Next::Again);
        }
        if state.interrupted {
            return self.after_kill(step, &state, parent);
        }
        match &state.failure {
            Some(failure) => self.after_failure(step, &state, failure, parent),
            None => Ok(Next::Attempt),
        }
    }

    /// A process was killed in an attempt: what has become of it?
    fn after_kill(&self, step: &Step, state: &StepState, parent: Option<&Scope<'_>>) -> Result<Next, Halt> {
        let Body::Action(action) = &step.body else { return Ok(Next::Attempt) };
        if matches!(state.decision, Some((Question::Uncertain { .. }, Decision::Retry { .. }))) {
            return Ok(Next::Attempt);
        }
        if matches!(state.decision, Some((Question::Uncertain { .. }, _))) {
            let why = "the process was killed in the middle of it, and nobody said whether it was done; resume the run \
                 with an order to retry or to skip it";
            return self.fail_attempt(step, Failure::could_not_run(why)).map(|()| Next::Again);
        }
        match self.probe(step, action, parent)? {
            Probe::Done(performed) => {
                let step = step.id.clone();
                self.recorder.record(Event::StepSucceeded { step, performed, found: true })?;
                Ok(Next::Again)
            }
            Probe::NotDone => Ok(Next::Attempt),
            Probe::Unknown if action.repeatable || state.retry_ordered => Ok(Next::Attempt),
            Probe::Unknown => {
                self.ask_people(step, Question::Uncertain { command: action.command.clone() }, None)?;
                Ok(Next::Again)
            }
        }
    }

    /// Asks `done_when`, and then the driver itself.
    pub(super) fn probe(
        &self,
        step: &Step,
        action: &Action,
        parent: Option<&Scope<'_>>,
    ) -> Result<Probe, Halt> {
        let scope = self.scope(step, parent);
        let actions = self.recorder.env.actions;
        if let Some(check) = &step.done_when
            && let Answer::Holds(detail) = self.ask(&scope, check, None)
        {
            return Ok(Probe::Done(Performed::new(detail)));
        }
        let probed =
            self.call(step, scope.chain(), self.clock_deadline(&scope), |at| actions.probe(action, at));
        // What was cut off says nothing.
        if self.recorder.is_halted() {
            return Err(Halt);
        }
        Ok(probed.unwrap_or(Probe::Unknown))
    }

    /// An attempt failed: a remedy, another attempt, a person, or the end of it.
    fn after_failure(
        &self,
        step: &Step,
        state: &StepState,
        failure: &Failure,
        parent: Option<&Scope<'_>>,
    ) -> Result<Next, Halt> {
        if state.mended || state.retry_ordered {
            return Ok(Next::Attempt);
        }
        match &state.decision {
            Some((Question::Failed { .. }, Decision::Retry { .. })) => return Ok(Next::Attempt),
            Some((Question::Failed { .. }, Decision::Nobody)) => {
                let message = format!("{}; nobody said in time what to do about it", failure.message);
                return self.fail(step, Failure { message, ..failure.clone() });
            }
            Some((Question::Failed { .. }, _)) => return self.fail(step, failure.clone()),
            _ => {}
        }
        if failure.kind == FailureKind::Interrupted {
            return self.fail(step, failure.clone());
        }
        let mut remedies = state.remedies.iter();
        if let Some((&index, _)) = remedies.find(|(_, remedy)| **remedy == RemedyState::Running) {
            self.remedy(step, index, parent)?;
            return Ok(Next::Again);
        }
        let remedies = step.remedies.iter().enumerate();
        let mut unused = remedies.filter(|(index, _)| !state.remedies.contains_key(index));
        if let Some((index, remedy)) = unused.find(|(_, remedy)| remedy.pattern.matches(&failure.message)) {
            return self.begin_remedy(step, state, index, remedy.loses.as_deref());
        }
        if state.failed_attempts <= step.retries {
            self.pass_time(step, parent, self.recorder.now() + step.retry_delay)?;
            let stopped = self.recorder.stop_reason(ids(step, parent)).is_some();
            return Ok(if stopped { Next::Again } else { Next::Attempt });
        }
        if step.on_failure == OnFailure::Ask {
            self.ask_people(step, Question::Failed { failure: failure.clone() }, None)?;
            return Ok(Next::Again);
        }
        let why = state.remedies.values().rev().find_map(|remedy| match remedy {
            RemedyState::Failed(failure) => Some(&failure.message),
            RemedyState::Refused(why) => Some(why),
            RemedyState::Running | RemedyState::Done => None,
        });
        let message = match why {
            Some(why) => format!("{}; its remedy did not help: {why}", failure.message),
            None => failure.message.clone(),
        };
        self.fail(step, Failure { message, ..failure.clone() })
    }

    fn begin_remedy(
        &self,
        step: &Step,
        state: &StepState,
        remedy: usize,
        loses: Option<&str>,
    ) -> Result<Next, Halt> {
        let approved = matches!(
            &state.decision,
            Some((Question::LossyRemedy { remedy: asked, .. }, Decision::Approved { .. })) if *asked == remedy
        );
        match loses {
            Some(loses) if !approved => {
                self.ask_people(step, Question::LossyRemedy { remedy, loses: loses.to_owned() }, None)?;
            }
            _ => self.recorder.record(Event::RemedyBegun { step: step.id.clone(), remedy })?,
        }
        Ok(Next::Again)
    }

    fn remedy(&self, step: &Step, remedy: usize, parent: Option<&Scope<'_>>) -> Result<(), Halt> {
        let scope = self.scope(step, parent);
        let failure = match self.steps(&step.remedies[remedy].steps, Some(&scope))? {
            End::Settled => None,
            End::Failed(failure) => Some(failure),
        };
        self.recorder.record(Event::RemedyEnded { step: step.id.clone(), remedy, failure })
    }

    fn fail(&self, step: &Step, failure: Failure) -> Result<Next, Halt> {
        let tolerated = step.on_failure == OnFailure::Continue && failure.kind != FailureKind::Interrupted;
        self.recorder.record(Event::StepFailed { step: step.id.clone(), failure, tolerated })?;
        Ok(Next::Again)
    }

    fn fail_attempt(&self, step: &Step, mut failure: Failure) -> Result<(), Halt> {
        failure.step.get_or_insert_with(|| step.id.clone());
        self.recorder.record(Event::AttemptFailed { step: step.id.clone(), failure })
    }

    /// What it belongs to ends: so does the step, wherever it is.
    fn give_up(&self, step: &Step, state: &StepState, why: &str) -> Result<End, Halt> {
        self.give_up_late(step, state, Failure::interrupted(why))
    }

    fn give_up_late(&self, step: &Step, state: &StepState, failure: Failure) -> Result<End, Halt> {
        if state.status == Status::Running {
            self.withdraw(step, state, &failure.message)?;
            if state.open {
                self.fail_attempt(step, failure.clone())?;
            }
            let (step, failure) = (step.id.clone(), failure.clone());
            self.recorder.record(Event::StepFailed { step, failure, tolerated: false })?;
        }
        Ok(End::Failed(failure))
    }

    fn withdraw(&self, step: &Step, state: &StepState, why: &str) -> Result<(), Halt> {
        if state.waiting.is_none() {
            return Ok(());
        }
        let decision = Decision::Withdrawn { why: why.to_owned() };
        self.recorder.record(Event::WaitEnded { step: step.id.clone(), decision })
    }

    fn attempt(&self, step: &Step, parent: Option<&Scope<'_>>) -> Result<(), Halt> {
        while self.recorder.with(crate::State::is_paused) {
            if self.recorder.stop_reason(ids(step, parent)).is_some() {
                return Ok(());
            }
            self.tick(None)?;
        }
        let attempt = self.recorder.step(&step.id).attempts + 1;
        self.recorder.record(Event::StepStarted { step: step.id.clone(), attempt })?;
        let scope = self.scope(step, parent);
        match self.body(&scope)? {
            Ok((performed, found)) => {
                self.recorder.record(Event::StepSucceeded { step: step.id.clone(), performed, found })
            }
            Err(failure) => {
                let failure = self.explain(&scope, failure)?;
                self.fail_attempt(step, failure)
            }
        }
    }

    fn body(&self, scope: &Scope<'_>) -> Result<Attempt, Halt> {
        match &scope.step.body {
            Body::Action(action) => Ok(self.perform(scope, action)),
            Body::Sequence(steps) => Ok(done(self.steps(steps, Some(scope))?, "all steps are through")),
            Body::Parallel(steps) => Ok(done(self.parallel(steps, scope)?, "all steps are through")),
            Body::Try { until, within, every, attempts } => {
                self.try_until(scope, until, (*within, *every), attempts)
            }
            Body::Gate { check, within, every } => self.gate(scope, check, (*within, *every)),
            Body::Approve { message, within } => self.approve(scope, message, *within),
            Body::Wait { time } => self.wait(scope, *time),
        }
    }

    fn perform(&self, scope: &Scope<'_>, action: &Action) -> Attempt {
        if let Some(check) = &scope.step.done_when
            && let Answer::Holds(detail) = self.ask(scope, check, None)
        {
            return Ok((Performed::new(detail), true));
        }
        // `done_when` may have taken all the time there was, and orders may have come.
        if self.recorder.is_halted()
            || self.recorder.stop_reason(scope.ids()).is_some()
            || self.late(scope).is_some()
        {
            return Err(Failure::interrupted("it was not begun"));
        }
        let actions = self.recorder.env.actions;
        let call = |at: &StepContext<'_>| actions.perform(action, at);
        let result = self.call(scope.step, scope.chain(), self.clock_deadline(scope), call);
        result.and_then(|result| result).map(|performed| (performed, false))
    }

    fn parallel(&self, steps: &[Step], scope: &Scope<'_>) -> Result<End, Halt> {
        let next = AtomicUsize::new(0);
        let ends: Mutex<Vec<(usize, Result<End, Halt>)>> = Mutex::default();
        let work = || {
            while let Some((index, step)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, steps.get(index)?)))
            {
                let end = self.step(step, Some(scope));
                ends.lock().unwrap_or_else(PoisonError::into_inner).push((index, end));
            }
        };
        thread::scope(|threads| {
            for _ in 0..steps.len().min(PARALLEL_MAX) {
                threads.spawn(work);
            }
        });
        let mut ends = ends.into_inner().unwrap_or_else(PoisonError::into_inner);
        ends.sort_by_key(|(index, _)| *index);
        let mut first = End::Settled;
        for (_, end) in ends {
            if let (End::Failed(failure), End::Settled) = (end?, &first) {
                first = End::Failed(failure);
            }
        }
        Ok(first)
    }

    /// Calls the actions with a way to end them; a panic is a failure like others.
    pub(super) fn call<T>(
        &self,
        step: &Step,
        chain: Vec<StepId>,
        deadline: Option<Duration>,
        call: impl FnOnce(&StepContext<'_>) -> T,
    ) -> Result<T, Failure> {
        let env = self.recorder.env;
        let guard = self.recorder.call(chain, deadline);
        let output =
            |id: &StepId| -> Option<Value> { self.recorder.with(|state| state.output_of(id).cloned()) };
        let at = StepContext {
            run: self.recorder.run(),
            step: &step.id,
            attempt: self.recorder.step(&step.id).attempts,
            cancel: guard.cancel.clone(),
            deadline,
            clock: env.clock,
            progress: &|progress| env.observer.progress(&step.id, progress),
            output: &output,
        };
        catch_unwind(AssertUnwindSafe(|| call(&at))).map_err(|panic| {
            Failure::failed(format!("a mistake in the program: {}", panic_text(panic.as_ref())))
        })
    }

    /// Says why an attempt failed when it was cut off: because nothing more may be done, because someone wants it, or because its time
    /// was over.
    fn explain(&self, scope: &Scope<'_>, failure: Failure) -> Result<Failure, Halt> {
        if self.recorder.is_halted() {
            return Err(Halt);
        }
        if let Some(why) = self.recorder.stop_reason(scope.ids()) {
            return Ok(Failure::interrupted(why));
        }
        let of_child = failure.step.as_ref().is_some_and(|step| *step != scope.step.id);
        if !of_child && let Some(late) = self.late(scope) {
            let message = format!("{}: {}", late.message, failure.message);
            return Ok(Failure { message, ..late });
        }
        let kind = match failure.kind {
            FailureKind::Interrupted if !of_child => FailureKind::Failed,
            kind => kind,
        };
        Ok(Failure { kind, ..failure })
    }

    pub(super) fn scope<'s>(&self, step: &'s Step, parent: Option<&'s Scope<'s>>) -> Scope<'s> {
        let now = self.recorder.now();
        Scope { step, parent, began: (now, self.recorder.with(|state| state.people_time(now))) }
    }

    /// The time that is left until the first of the deadlines of a step and what it belongs to.
    pub(super) fn time_left(&self, scope: &Scope<'_>) -> Option<Duration> {
        scope.up().filter_map(|scope| self.own_time_left(scope)).min()
    }

    fn own_time_left(&self, scope: &Scope<'_>) -> Option<Duration> {
        let timeout = scope.step.timeout?;
        let now = self.recorder.now();
        let people = self.recorder.with(|state| state.people_time(now)).saturating_sub(scope.began.1);
        Some(timeout.saturating_sub((now - scope.began.0).saturating_sub(people)))
    }

    pub(super) fn clock_deadline(&self, scope: &Scope<'_>) -> Option<Duration> {
        self.time_left(scope).map(|left| self.recorder.env.clock.now() + left)
    }

    /// The failure of a step, or of what it belongs to, whose time is over.
    pub(super) fn late(&self, scope: &Scope<'_>) -> Option<Failure> {
        let late = scope.up().find(|scope| self.own_time_left(scope) == Some(Duration::ZERO))?;
        let timeout = late.step.timeout.unwrap_or_default();
        let message = format!("step {} was not done within its timeout of {timeout:?}", late.step.id);
        Some(Failure { step: Some(late.step.id.clone()), ..Failure::failed(message) })
    }
}

impl<'s> Scope<'s> {
    /// This one and all that it belongs to, from the inside.
    fn up(&self) -> impl Iterator<Item = &Scope<'s>> {
        std::iter::successors(Some(self), |scope| scope.parent)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &StepId> {
        self.up().map(|scope| &scope.step.id)
    }

    pub(super) fn chain(&self) -> Vec<StepId> {
        self.ids().cloned().collect()
    }
}

pub(super) fn ids<'i>(step: &'i Step, parent: Option<&'i Scope<'_>>) -> impl Iterator<Item = &'i StepId> {
    std::iter::once(&step.id).chain(parent.into_iter().flat_map(Scope::ids))
}

fn done(end: End, summary: &str) -> Attempt {
    match end {
        End::Settled => Ok((Performed::new(summary), false)),
        End::Failed(failure) => Err(failure),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked without words")
}
