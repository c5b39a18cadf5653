//! Everything in which time passes: checks that are asked until they hold, people that are waited for, pauses.

use std::time::Duration;

use super::recorder::Halt;
use super::walk::{Attempt, End, Scope, TICK, Walker, ids};
use crate::actions::{Answer, Failure, Performed, Progress, Proven};
use crate::event::{Decision, Event, Question};
use crate::model::{Action, Step};
use crate::state::Status;

/// A check is not asked more often than this, whatever the runbook says.
const EVERY_MIN: Duration = Duration::from_millis(10);
/// How long the answer to a question may take that is asked when the time of its gate is over.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A check that gives the same answer all the time is written to the journal this often.
const POLLED_EVERY: Duration = Duration::from_secs(60);

/// How long a check may take to hold, and how often it is asked.
type Patience = (Duration, Duration);

impl Walker<'_> {
    /// Asks a check once. What is cut off by an order, the step's timeout or `deadline` (on the clock) counts as not evaluated
    /// unless it says something else.
    pub(super) fn ask(&self, scope: &Scope<'_>, check: &Action, deadline: Option<Duration>) -> Answer {
        let deadline = [deadline, self.clock_deadline(scope)].into_iter().flatten().min();
        let actions = self.recorder.env.actions;
        let answer = self.call(scope.step, scope.chain(), deadline, |at| actions.ask(check, at));
        let answer = answer.unwrap_or_else(|failure| Answer::Unknown(failure.message));
        self.recorder.env.observer.progress(&scope.step.id, &Progress::Asked(answer.clone()));
        answer
    }

    pub(super) fn gate(
        &self,
        scope: &Scope<'_>,
        check: &Action,
        patience: Patience,
    ) -> Result<Attempt, Halt> {
        let within = patience.0;
        Ok(match self.poll(scope, check, patience, &mut 0, true)? {
            Answer::Holds(detail) => {
                Ok((Performed::new(detail.clone()).with_proven(Proven::Shown(detail)), false))
            }
            Answer::Fatal(why) => Err(Failure::failed(why)),
            Answer::Fails(why) => {
                Err(Failure::failed(format!("the check did not hold within {within:?}: {why}")))
            }
            Answer::Unknown(why) => {
                Err(Failure::not_proven(format!("the check could not be evaluated within {within:?}: {why}")))
            }
        })
    }

    /// Asks until the check holds, its time is over, it can never hold (if `fatal` counts), or the step is to end. Returns the last answer.
    fn poll(
        &self,
        scope: &Scope<'_>,
        check: &Action,
        (within, every): Patience,
        polls: &mut u64,
        fatal: bool,
    ) -> Result<Answer, Halt> {
        let until = self.recorder.now() + within;
        let clock = self.recorder.env.clock;
        let cut_off = (!within.is_zero()).then(|| clock.now() + within);
        let mut written: Option<(Duration, std::mem::Discriminant<Answer>)> = None;
        loop {
            // The last question is asked when the time is over, and would else always be cut off.
            let answered_by = cut_off.map(|cut_off| cut_off.max(clock.now() + LAST_WORD.min(within)));
            let answer = self.ask(scope, check, answered_by);
            *polls += 1;
            let now = self.recorder.now();
            let over = now >= until
                || self.late(scope).is_some()
                || self.recorder.stop_reason(scope.ids()).is_some();
            let last =
                over || matches!(answer, Answer::Holds(_)) || (fatal && matches!(answer, Answer::Fatal(_)));
            let kind = std::mem::discriminant(&answer);
            let known = written.is_some_and(|(at, before)| before == kind && now - at < POLLED_EVERY);
            if self.recorder.is_halted() {
                return Err(Halt);
            }
            if last || !known {
                let (step, answer) = (scope.step.id.clone(), answer.clone());
                self.recorder.record(Event::Polled { step, answer, polls: *polls })?;
                written = Some((now, kind));
            }
            if last {
                return Ok(answer);
            }
            self.pass_time(scope.step, scope.parent, until.min(now + every.max(EVERY_MIN)))?;
        }
    }

    /// The cheapest remedy first, the next only while the check still fails. A check that could not be evaluated is no ground for
    /// the next remedy: the step ends as not proven.
    pub(super) fn try_until(
        &self,
        scope: &Scope<'_>,
        until: &Action,
        (within, every): Patience,
        attempts: &[Step],
    ) -> Result<Attempt, Halt> {
        let mut polls = 0;
        let begun = |step: &Step| self.recorder.step(&step.id).status != Status::Pending;
        let mut rest = attempts;
        // What a killed process had begun is brought to its end before anything is asked.
        while let Some((attempt, others)) = rest.split_first()
            && begun(attempt)
        {
            self.step(attempt, Some(scope))?;
            rest = others;
        }
        loop {
            let tried = rest.len() < attempts.len();
            let patience = if tried { within } else { Duration::ZERO };
            let answer = self.poll(scope, until, (patience, every), &mut polls, false)?;
            let cut_off = self.late(scope).is_some() || self.recorder.stop_reason(scope.ids()).is_some();
            match answer {
                Answer::Holds(detail) => {
                    for step in rest {
                        self.recorder.record(Event::StepNotNeeded { step: step.id.clone() })?;
                    }
                    return Ok(Ok((
                        Performed::new(detail.clone()).with_proven(Proven::Shown(detail)),
                        false,
                    )));
                }
                Answer::Unknown(why) => {
                    let why = format!(
                        "cannot tell whether more must be tried, the check could not be evaluated: {why}"
                    );
                    return Ok(Err(Failure::not_proven(why)));
                }
                Answer::Fails(why) | Answer::Fatal(why) if cut_off => return Ok(Err(Failure::failed(why))),
                Answer::Fails(why) | Answer::Fatal(why) => {
                    let Some((attempt, others)) = rest.split_first() else {
                        let why = format!("everything was tried, and the check still fails: {why}");
                        return Ok(Err(Failure::failed(why)));
                    };
                    if let End::Failed(failure) = self.step(attempt, Some(scope))?
                        && self.recorder.stop_reason(scope.ids()).is_some()
                    {
                        return Ok(Err(failure));
                    }
                    rest = others;
                }
            }
        }
    }

    pub(super) fn wait(&self, scope: &Scope<'_>, time: Duration) -> Result<Attempt, Halt> {
        let from = self.recorder.step(&scope.step.id).first_started.unwrap_or_else(|| self.recorder.now());
        self.pass_time(scope.step, scope.parent, from + time)?;
        Ok(match self.recorder.now() >= from + time {
            true => Ok((Performed::new(format!("{time:?} have passed")), false)),
            false => Err(Failure::interrupted("not all of the time has passed")),
        })
    }

    pub(super) fn approve(
        &self,
        scope: &Scope<'_>,
        message: &str,
        within: Option<Duration>,
    ) -> Result<Attempt, Halt> {
        let step = scope.step;
        let state = self.recorder.step(&step.id);
        if state.waiting.is_none() && state.decision.is_none() {
            self.ask_people(step, Question::Approve { message: message.to_owned() }, within)?;
        }
        if self.recorder.step(&step.id).waiting.is_some() {
            self.await_answer(step, scope.parent)?;
        }
        let decision = self.recorder.step(&step.id).decision.map(|(_, decision)| decision);
        Ok(match decision {
            Some(Decision::Approved { by }) => Ok((Performed::new(format!("approved by {by}")), false)),
            Some(Decision::Denied { by, reason }) => {
                Err(Failure::failed(format!("denied by {by}: {reason}")))
            }
            Some(Decision::Nobody) => Err(Failure::could_not_run(format!(
                "nobody approved in time: {message}; resume the run and approve step {}",
                step.id
            ))),
            _ => Err(Failure::interrupted("the question was withdrawn")),
        })
    }

    pub(super) fn ask_people(
        &self,
        step: &Step,
        question: Question,
        within: Option<Duration>,
    ) -> Result<(), Halt> {
        let within = within.or(self.recorder.env.options.answer_within).map(super::recorder::whole_millis);
        self.recorder.record(Event::WaitBegun { step: step.id.clone(), question, within })
    }

    /// Waits until the question of a step is answered, has no time left, or does not matter any more.
    pub(super) fn await_answer(&self, step: &Step, parent: Option<&Scope<'_>>) -> Result<(), Halt> {
        let end = |decision| self.recorder.record(Event::WaitEnded { step: step.id.clone(), decision });
        loop {
            self.look_around()?;
            let Some(waiting) = self.recorder.step(&step.id).waiting else { return Ok(()) };
            if let Some(answer) = waiting.answer {
                return end(answer);
            }
            if let Some(why) = self.recorder.stop_reason(ids(step, parent)) {
                return end(Decision::Withdrawn { why });
            }
            let until = waiting.within.map(|within| waiting.since + within);
            if until.is_some_and(|until| self.recorder.now() >= until) {
                return end(Decision::Nobody);
            }
            self.tick(until)?;
        }
    }

    /// Lets time pass until that time of the run, or until the step is to end, or its time is over.
    pub(super) fn pass_time(
        &self,
        step: &Step,
        parent: Option<&Scope<'_>>,
        until: Duration,
    ) -> Result<(), Halt> {
        while self.recorder.now() < until
            && self.recorder.stop_reason(ids(step, parent)).is_none()
            && parent.is_none_or(|parent| self.late(parent).is_none())
        {
            self.tick(Some(until))?;
        }
        Ok(())
    }

    /// Sleeps for a moment, at most until that time of the run, and looks around.
    pub(super) fn tick(&self, until: Option<Duration>) -> Result<(), Halt> {
        let left = until.map(|until| until.saturating_sub(self.recorder.now()));
        self.recorder.env.clock.sleep(left.unwrap_or(TICK).min(TICK));
        self.look_around()
    }
}
