//! Scenarios: what to do in one kind of disaster; and how often that is rehearsed.

use std::time::Duration;

use crate::table::{record, words};
use crate::{Every, Given, Name, OneOrMore, Position};

use super::Step;

record! {
    /// What to do in one kind of disaster.
    pub struct Scenario "scenario" {
        /// Where it stands in the plan file.
        at: Position,
        /// What has happened, in a few words.
        title: Option<String>,
        /// How it shows and what else a person should know, for the printed runbook.
        description: Option<String>,
        /// How bad it is.
        severity: Given<Severity> = Given::by_default(Severity::P2),
        /// How soon all of it must be back.
        rto: Option<Duration>,
        /// How much may be lost, as time.
        rpo: Option<Duration>,
        /// Checks that suggest this scenario when they fail.
        when: OneOrMore<Name> = OneOrMore::default(),
        /// What is done, in this order.
        steps: Vec<Step>,
    }
}

words! {
    /// How bad a disaster is.
    pub enum Severity "severity" {
        /// Total outage.
        P1 = "P1",
        /// Partial outage.
        P2 = "P2",
        /// Limited impact.
        P3 = "P3",
        /// Minimal impact.
        P4 = "P4",
    }
}

record! {
    /// A scenario that is rehearsed.
    pub struct Drill "drill" {
        /// Where it stands in the plan file.
        at: Position,
        /// The scenario.
        scenario: Name,
        /// How often; a proof older than that is stale.
        every: Given<Every> = Given::by_default(Every::days(30)),
    }
}

impl Scenario {
    /// Visits all of its steps and the steps within them, in order.
    pub fn walk<'s>(&'s self, visit: &mut dyn FnMut(&'s Step)) {
        for step in &self.steps {
            step.walk(visit);
        }
    }
}
