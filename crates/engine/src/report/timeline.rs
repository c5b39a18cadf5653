//! What happened in a run, in words: the timeline of an incident, and what people said.

use runbook::{Answer, Body, Decision, Entry, Event, Order, Outcome, Question, State, StepId, Verb};

use super::{Moment, Said, Tone, words};

/// The events that a person cares for, in order.
pub(super) fn timeline(state: &State, entries: &[Entry]) -> Vec<Moment> {
    let mut teller = Teller { state, incarnations: 0 };
    let moment = |entry: &Entry| {
        let (tone, what) = teller.tell(&entry.event)?;
        Some(Moment { at: entry.wall, seconds: entry.at.as_secs_f64(), what, tone })
    };
    entries.iter().filter_map(moment).collect()
}

/// What people wanted, with their names.
pub(super) fn people(entries: &[Entry]) -> Vec<Said> {
    let said = |entry: &Entry| {
        let (who, what) = match &entry.event {
            Event::RunBegun(begun) => (begun.by.clone(), "began the run".to_owned()),
            Event::RunReopened { by } => (by.clone(), "took the run up again".to_owned()),
            Event::RollbackBegun { by } => (by.clone(), "rolled the run back".to_owned()),
            Event::CommitBegun { by } => (by.clone(), "committed the run".to_owned()),
            Event::UndoSkipped { step, reason, by, .. } => {
                (by.clone(), format!("left the undo of {step} out: {reason}"))
            }
            Event::Ordered(order) => (order.by.clone(), wanted(order)),
            Event::Refused { order, why } => (order.by.clone(), format!("{}; refused: {why}", wanted(order))),
            _ => return None,
        };
        Some(Said { at: entry.wall, who, what })
    };
    entries.iter().filter_map(said).collect()
}

fn wanted(order: &Order) -> String {
    let to = |step: &Option<StepId>| step.as_ref().map(|step| format!(" {step}")).unwrap_or_default();
    let because = |reason: &str| if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match &order.verb {
        Verb::Pause => "pause".to_owned(),
        Verb::Continue => "continue".to_owned(),
        Verb::Approve { step } => format!("approve{}", to(step)),
        Verb::Deny { step, reason } => format!("deny{}{}", to(step), because(reason)),
        Verb::Abort { reason } => format!("abort{}", because(reason)),
        Verb::Skip { step, reason } => format!("skip {step}{}", because(reason)),
        Verb::Retry { step } => format!("retry {step}"),
        Verb::ContinueFrom { step, reason } => format!("continue from {step}{}", because(reason)),
    }
}

struct Teller<'a> {
    state: &'a State,
    incarnations: usize,
}

impl Teller<'_> {
    fn tell(&mut self, event: &Event) -> Option<(Tone, String)> {
        Some(match event {
            Event::RunBegun(begun) => {
                (Tone::People, format!("begun by {}: {}", begun.by, begun.runbook.title))
            }
            Event::IncarnationBegun(process) => {
                self.incarnations += 1;
                if self.incarnations == 1 {
                    return None;
                }
                (Tone::Doubt, format!("taken up again on {} by {}", process.host, process.version))
            }
            Event::RunReopened { by } => {
                (Tone::People, format!("opened again by {by}; what had failed is tried again"))
            }
            Event::Suspended { why } => (Tone::Doubt, format!("the process went away: {why}")),
            Event::ClockJumped { by_ms } => {
                (Tone::Doubt, format!("the wall clock was moved by {:.1} s", *by_ms as f64 / 1000.0))
            }
            Event::WaitBegun { .. } | Event::WaitEnded { .. } | Event::Ordered(_) | Event::Refused { .. } => {
                return self.people(event);
            }
            Event::RunEnded { outcome } => (tone(*outcome), format!("ended: {}", words::outcome(*outcome))),
            Event::RollbackBegun { by } => (Tone::People, format!("{by} rolls the run back")),
            Event::UndoSucceeded { step, summary: Some(summary), .. } => {
                (Tone::Plain, format!("{} taken back: {summary}", self.name(step)))
            }
            Event::UndoFailed { step, failure, .. } => {
                (Tone::Bad, format!("{} could not be taken back: {failure}", self.name(step)))
            }
            Event::UndoSkipped { step, reason, by, .. } => {
                (Tone::Doubt, format!("the undo of {} left out by {by}: {reason}", self.name(step)))
            }
            Event::UndoStarted { .. } | Event::UndoSucceeded { summary: None, .. } => return None,
            Event::RolledBack => (Tone::Good, "everything is taken back".to_owned()),
            Event::CommitBegun { by } => {
                (Tone::People, format!("{by} throws away what was kept for a rollback"))
            }
            Event::Committed => (Tone::Plain, "what was kept for a rollback is gone".to_owned()),
            _ => return self.step(event),
        })
    }

    fn step(&self, event: &Event) -> Option<(Tone, String)> {
        Some(match event {
            Event::StepStarted { step, attempt } => match (self.is_group(step), *attempt) {
                (true, 1) if self.is_top(step) => (Tone::Plain, format!("{} begins", self.name(step))),
                (_, 1) => return None,
                (_, attempt) => {
                    (Tone::Doubt, format!("{} is tried again, attempt {attempt}", self.name(step)))
                }
            },
            Event::AttemptFailed { step, failure } if failure.step.as_ref().is_none_or(|at| at == step) => {
                (Tone::Bad, format!("{} did not work: {failure}", self.name(step)))
            }
            Event::RemedyBegun { step, .. } => {
                (Tone::Doubt, format!("a known symptom of {}: its remedy is applied", self.name(step)))
            }
            Event::RemedyEnded { step, failure, .. } => match failure {
                Some(failure) => (Tone::Bad, format!("the remedy of {} failed: {failure}", self.name(step))),
                None => (Tone::Plain, format!("the remedy of {} is through", self.name(step))),
            },
            Event::StepSucceeded { step, performed, found } => {
                // Of a group its children tell, and of a question its answer.
                if self.is_group(step) || self.is_question(step) {
                    return None;
                }
                let there = if *found { " (was already there)" } else { "" };
                let tone = match &performed.proven {
                    runbook::Proven::Shown(_) => Tone::Good,
                    runbook::Proven::Not(_) => Tone::Doubt,
                    runbook::Proven::NotAsked => Tone::Plain,
                };
                (tone, format!("{}: {}{there}", self.name(step), performed.summary))
            }
            Event::StepFailed { step, failure, tolerated } => {
                if failure.step.as_ref().is_some_and(|at| at != step) {
                    return None;
                }
                let on = if *tolerated { "; the run goes on" } else { "" };
                (Tone::Bad, format!("{} is given up: {failure}{on}", self.name(step)))
            }
            Event::StepSkipped { step, reason, by } => {
                let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
                (Tone::Doubt, format!("{} skipped{by}: {reason}", self.name(step)))
            }
            Event::Polled { step, answer: Answer::Unknown(why), .. } => {
                (Tone::Doubt, format!("{} could not be asked: {why}", self.name(step)))
            }
            _ => return None,
        })
    }

    fn people(&self, event: &Event) -> Option<(Tone, String)> {
        let text = match event {
            Event::WaitBegun { step, question, .. } => match question {
                Question::Approve { message } => format!("waits for a yes at {step}: {message}"),
                Question::LossyRemedy { loses, .. } => {
                    format!("asks whether {step} may be mended at a loss: {loses}")
                }
                Question::Failed { failure } => {
                    format!("asks what to do about {}, which failed: {failure}", self.name(step))
                }
                Question::Uncertain { command } => {
                    format!("asks whether this was done before the process was killed: {command}")
                }
            },
            Event::WaitEnded { step, decision } => match decision {
                Decision::Approved { by } => format!("{by} says yes at {step}"),
                Decision::Denied { by, reason } => format!("{by} says no at {step}: {reason}"),
                Decision::Nobody => format!("nobody answered at {step}"),
                Decision::Withdrawn { why } => format!("the question at {step} is withdrawn: {why}"),
                // The order itself tells it.
                Decision::Retry { .. } | Decision::Skip { .. } | Decision::Abort { .. } => return None,
            },
            // The answer's effect tells it.
            Event::Ordered(Order { verb: Verb::Approve { .. } | Verb::Deny { .. }, .. }) => return None,
            Event::Ordered(order) => format!("{} orders: {}", order.by, wanted(order)),
            Event::Refused { order, why } => {
                format!("{} ordered: {}; refused: {why}", order.by, wanted(order))
            }
            _ => return None,
        };
        Some((Tone::People, text))
    }

    fn name(&self, step: &StepId) -> String {
        let name = self.state.runbook().find(step).map_or("", |step| step.name.as_str());
        format!("{step} {name}").trim_end().to_owned()
    }

    fn is_group(&self, step: &StepId) -> bool {
        let found = self.state.runbook().find(step);
        found.is_some_and(|step| matches!(step.body, Body::Sequence(_) | Body::Parallel(_)))
    }

    fn is_question(&self, step: &StepId) -> bool {
        self.state.runbook().find(step).is_some_and(|step| matches!(step.body, Body::Approve { .. }))
    }

    fn is_top(&self, step: &StepId) -> bool {
        self.state.runbook().steps.iter().any(|top| top.id == *step)
    }
}

fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Verified => Tone::Good,
        Outcome::NotProven => Tone::Doubt,
        Outcome::CouldNotRun | Outcome::Failed | Outcome::Interrupted => Tone::Bad,
    }
}
