//! What people want to see of a run, derived from its state.
//!
//! Times are the run's: counted from its first entry, by clocks that only go forward. `now` in a view is that
//! time now; of a run at which no process is, it is [`State::at`].

use std::time::Duration;

use super::{Interval, State, Status, StepState, Waiting};
use crate::actions::Failure;
use crate::model::{Action, Body, Step, StepId};

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

impl State {
    /// All steps, parents before children, in the order of the runbook.
    pub fn steps(&self, now: Duration) -> Vec<StepView<'_>> {
        let mut views = Vec::new();
        self.runbook().visit(&mut |step, depth| {
            let state = &self.steps[&step.id];
            views.push(StepView {
                step,
                depth,
                in_remedy: self.is_in_remedy(&step.id),
                phase: self.phase_of(&step.id),
                status: &state.status,
                attempts: state.attempts,
                failure: state.failure.as_ref(),
                elapsed: total(&state.intervals(now)),
                waiting: state.waiting.as_ref(),
            });
        });
        views
    }

    /// The steps at work that have no children at work.
    pub fn current(&self) -> Vec<&Step> {
        let mut current = Vec::new();
        self.runbook().visit(&mut |step, _| {
            let running = |step: &Step| self.steps[&step.id].status == Status::Running;
            if running(step) && !step.all_children().any(running) {
                current.push(step);
            }
        });
        current
    }

    /// The steps that come after the current ones if nothing fails: those that do something themselves, in order. Attempts
    /// and remedies are not among them, because nobody knows whether they will be needed.
    pub fn upcoming(&self) -> Vec<&Step> {
        let mut upcoming = Vec::new();
        self.runbook().steps.iter().for_each(|step| self.collect_upcoming(step, &mut upcoming));
        upcoming
    }

    fn collect_upcoming<'a>(&self, step: &'a Step, upcoming: &mut Vec<&'a Step>) {
        let status = &self.steps[&step.id].status;
        match &step.body {
            Body::Sequence(steps) | Body::Parallel(steps) if !status.is_settled() => {
                steps.iter().for_each(|step| self.collect_upcoming(step, upcoming));
            }
            Body::Sequence(_) | Body::Parallel(_) => {}
            _ if *status == Status::Pending => upcoming.push(step),
            _ => {}
        }
    }

    /// Everything that waits for a person, by step.
    pub fn waiting(&self) -> Vec<(&StepId, &Waiting)> {
        self.steps.iter().filter_map(|(id, state)| Some((id, state.waiting.as_ref()?))).collect()
    }

    /// How long each phase took, in the order in which the runbook first names them. A phase's time is that in which
    /// at least one of its steps was at work; time in which such a step waited for a person is taken out.
    pub fn phases(&self, now: Duration) -> Vec<PhaseTime> {
        let mut phases: Vec<(String, Vec<Interval>)> = Vec::new();
        self.runbook().visit(&mut |step, _| {
            let Some(phase) = self.phase_of(&step.id) else { return };
            // A parent's time is its children's; only what does something itself counts.
            let work = if step.children().is_empty() || matches!(step.body, Body::Try { .. }) {
                let state = &self.steps[&step.id];
                subtract(&union(state.intervals(now)), &union(state.people(now)))
            } else {
                Vec::new()
            };
            match phases.iter_mut().find(|(name, _)| name == phase) {
                Some((_, intervals)) => intervals.extend(work),
                None => phases.push((phase.to_owned(), work)),
            }
        });
        let time = |intervals: Vec<Interval>| total(&union(intervals));
        phases.into_iter().map(|(phase, work)| PhaseTime { phase, time: time(work) }).collect()
    }

    /// How long people were waited for: questions that were open, and pauses.
    pub fn people_time(&self, now: Duration) -> Duration {
        let mut waits: Vec<Interval> = self.steps.values().flat_map(|state| state.people(now)).collect();
        waits.extend(&self.pauses);
        waits.extend(self.paused.map(|since| (since, now)));
        total(&union(waits))
    }

    /// How long no process was at the run, from its first entry to the last.
    pub fn down_time(&self) -> Duration {
        let pairs = self.incarnations.windows(2);
        pairs.map(|pair| pair[1].from.saturating_sub(pair[0].to)).sum()
    }

    /// What a rollback would do, in its order.
    pub fn undo_list(&self) -> Vec<UndoView<'_>> {
        let mut list = Vec::new();
        for id in self.succeeded.iter().rev() {
            let (Some(step), state) = (self.runbook().find(id), &self.steps[id]) else { continue };
            let total = step.undo.len() + usize::from(matches!(step.body, Body::Action(_)));
            if state.undone < total {
                let actions = step.undo.get(state.undone..).unwrap_or_default();
                list.push(UndoView { step: &step.id, actions, failure: state.undo_failure.as_ref() });
            }
        }
        list
    }

    /// What a step that succeeded put out.
    pub fn output_of(&self, id: &StepId) -> Option<&serde_json::Value> {
        match &self.steps.get(id)?.status {
            Status::Succeeded { performed, .. } => Some(&performed.output),
            _ => None,
        }
    }

    fn phase_of(&self, id: &StepId) -> Option<&str> {
        let mut at = Some(id);
        while let Some(id) = at {
            if let Some(phase) = self.runbook().find(id).and_then(|step| step.phase.as_deref()) {
                return Some(phase);
            }
            at = self.parents[id].step.as_ref();
        }
        None
    }

    fn is_in_remedy(&self, id: &StepId) -> bool {
        let mut at = Some(id);
        while let Some(id) = at {
            let parent = &self.parents[id];
            if parent.remedy.is_some() {
                return true;
            }
            at = parent.step.as_ref();
        }
        false
    }
}

impl StepState {
    fn intervals(&self, now: Duration) -> Vec<Interval> {
        let open = self.since.map(|since| (since, now.max(since)));
        self.active.iter().copied().chain(open).collect()
    }

    fn people(&self, now: Duration) -> Vec<Interval> {
        let open = self.waiting.as_ref().map(|waiting| (waiting.since, now.max(waiting.since)));
        self.waits.iter().copied().chain(open).collect()
    }
}

/// Sorted, without overlaps.
fn union(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::new();
    for (from, to) in intervals {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// What of the first lies in none of the second; both as `union` makes them.
fn subtract(whole: &[Interval], holes: &[Interval]) -> Vec<Interval> {
    let mut left = Vec::new();
    for &(mut from, to) in whole {
        for &(begin, end) in holes {
            if begin < to && end > from {
                left.extend((begin > from).then_some((from, begin)));
                from = from.max(end);
            }
        }
        if from < to {
            left.push((from, to));
        }
    }
    left
}

fn total(intervals: &[Interval]) -> Duration {
    intervals.iter().map(|(from, to)| to.saturating_sub(*from)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(pairs: &[(u64, u64)]) -> Vec<Interval> {
        pairs.iter().map(|(from, to)| (Duration::from_secs(*from), Duration::from_secs(*to))).collect()
    }

    #[test]
    fn overlaps_count_once() {
        assert_eq!(union(seconds(&[(5, 7), (0, 2), (1, 3), (3, 4)])), seconds(&[(0, 4), (5, 7)]));
    }

    #[test]
    fn holes_are_taken_out() {
        let whole = seconds(&[(0, 10), (20, 30)]);
        let left = subtract(&whole, &seconds(&[(0, 1), (4, 6), (9, 22), (29, 40)]));
        assert_eq!(left, seconds(&[(1, 4), (6, 9), (22, 29)]));
        assert_eq!(subtract(&whole, &[]), whole);
        assert_eq!(subtract(&whole, &seconds(&[(0, 40)])), []);
    }
}
