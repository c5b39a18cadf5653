//! Scenarios and their steps.

use super::{Section, Validator};
use crate::language::{Action, Remedy, Scenario, Step};
use crate::{Name, OneOrMore, Position, Selection};

/// Actions that have an effect of their own: only these can be there already, and be undone with.
const EFFECTS: [&str; 10] =
    ["restore", "start", "stop", "restart", "boot", "run", "dns", "notify", "backup", "recover"];

impl Validator<'_> {
    pub(super) fn scenario(&mut self, name: &str, scenario: &Scenario) {
        for check in scenario.when.iter() {
            self.known(Section::Checks, check);
        }
        self.steps(&scenario.steps, scenario.at, &format!("the scenario `{name}`"));
    }

    fn steps(&mut self, steps: &[Step], at: Position, what: &str) {
        if steps.is_empty() {
            self.if_complete(at, format!("{what} has no steps"), "write what is to be done under `steps`");
        }
        for step in steps {
            self.step(step);
        }
    }

    pub(super) fn remedy(&mut self, remedy: &Remedy) {
        self.steps(&remedy.steps, remedy.at, "this remedy");
    }

    fn step(&mut self, step: &Step) {
        self.action(&step.action, step.at);
        let kind = step.action.kind();
        if let Some(ask) = &step.done_when {
            if !EFFECTS.contains(&kind) {
                let message = format!("`done_when` says nothing about a step that is `{kind}`");
                self.say_with_hint(ask.at, message, "say it of the steps that do something");
            }
            self.ask(ask);
        }
        for undo in step.undo.iter() {
            let kind = undo.action.kind();
            if !EFFECTS.contains(&kind) {
                let message = format!("`{kind}` undoes nothing");
                self.say_with_hint(undo.at, message, format!("an undo is one of: {}", EFFECTS.join(", ")));
            }
            self.step(undo);
        }
        for remedy in &step.on_error {
            self.remedy(remedy);
        }
        if let Some(place) = step.place.as_ref().filter(|place| place.as_str() != "host") {
            let message = format!("the place `{place}` is not yet supported");
            self.say_with_hint(place.at(), message, "leave `where` out, or write `host`");
        }
        if step.timeout.is_zero() {
            self.say_with_hint(
                step.at,
                "a step that may take no time cannot be done",
                "write a longer `timeout`",
            );
        }
    }

    fn action(&mut self, action: &Action, at: Position) {
        match action {
            Action::Restore(step) => self.components(&step.restore, at),
            Action::Start(step) => self.services(&step.start, at),
            Action::Stop(step) => self.services(&step.stop, at),
            Action::Restart(step) => self.services(&step.restart, at),
            Action::Boot(step) => {
                if let Selection::These(names) = &step.boot {
                    self.services(&OneOrMore(names.clone()), at);
                }
            }
            Action::Backup(step) => {
                if let Selection::These(names) = &step.backup {
                    self.components(&OneOrMore(names.clone()), at);
                }
            }
            Action::Check(step) => self.all_known(Section::Checks, &step.check, at),
            Action::Recover(step) => self.known(Section::Scenarios, &step.recover),
            Action::Notify(step) => {
                for name in step.notify.to.iter() {
                    self.known(Section::Notify, name);
                }
            }
            Action::Group(step) => match (step.group.parallel.as_slice(), step.group.sequence.as_slice()) {
                (steps, []) | ([], steps) => self.steps(steps, at, "this group"),
                _ => {
                    let hint = "make two groups of them; a group can hold groups";
                    self.say_with_hint(at, "this group is both parallel and a sequence", hint);
                }
            },
            Action::Try(step) => {
                self.all_known(Section::Checks, &step.attempt.until, at);
                if step.attempt.attempts.is_empty() {
                    self.if_complete(
                        at,
                        "this attempts nothing",
                        "list remedies under `attempts`, cheapest first",
                    );
                }
                for steps in &step.attempt.attempts {
                    self.steps(steps, at, "this attempt");
                }
            }
            Action::Run(_) | Action::Dns(_) | Action::Approve(_) | Action::Wait(_) => {}
        }
    }

    fn components(&mut self, names: &OneOrMore<Name>, at: Position) {
        self.all_known(Section::Components, names, at);
    }

    fn services(&mut self, names: &OneOrMore<Name>, at: Position) {
        self.all_known(Section::Services, names, at);
    }
}
