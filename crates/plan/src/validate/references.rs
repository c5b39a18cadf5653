//! Cycles: services that need each other, scenarios that recover each other.

use std::collections::HashSet;

use super::{Validator, chain};
use crate::language::{Action, Body};
use crate::{Name, Position};

impl Validator<'_> {
    /// Tells every cycle in `needs` once, in full.
    pub(super) fn cycles_of_needs(&mut self) {
        let body = self.body;
        let next = |name: &str| -> Vec<(String, Position)> {
            let needs = body.services.get(name).map(|service| &service.needs);
            let services = needs.into_iter().flat_map(|needs| needs.iter());
            services.filter(|need| body.services.get(need).is_some()).map(edge).collect()
        };
        for (cycle, at) in cycles(body.services.names(), next) {
            let message = format!("the services need each other in a circle: {}", chain(&cycle));
            self.say_with_hint(at, message, "none of them could be started first; remove one of these needs");
        }
    }

    /// Tells every cycle of scenarios that recover each other once, in full.
    pub(super) fn cycles_of_scenarios(&mut self) {
        let body = self.body;
        let next = |name: &str| recovers(body, name);
        for (cycle, at) in cycles(body.scenarios.names(), next) {
            let message = format!("the scenarios recover each other in a circle: {}", chain(&cycle));
            self.say_with_hint(at, message, "a recovery would never end; remove one of these steps");
        }
    }
}

fn edge(name: &Name) -> (String, Position) {
    (name.to_string(), name.at())
}

/// Gives the scenarios that a scenario's steps recover.
fn recovers(body: &Body, name: &str) -> Vec<(String, Position)> {
    let mut found = Vec::new();
    if let Some(scenario) = body.scenarios.get(name) {
        scenario.walk(&mut |step| {
            if let Action::Recover(recover) = &step.action {
                found.push(edge(&recover.recover));
            }
        });
    }
    found
}

/// Finds a cycle through every node that is on one: each as its names, the first repeated at the end, and the place of the
/// reference that closes it.
///
/// Walks without recursion, each node once: a plan may have a chain of a hundred thousand.
fn cycles<'a>(
    names: impl Iterator<Item = &'a str>,
    next: impl Fn(&str) -> Vec<(String, Position)>,
) -> Vec<(Vec<String>, Position)> {
    let mut found = Vec::new();
    let mut done: HashSet<String> = HashSet::new();
    for start in names {
        if done.contains(start) {
            continue;
        }
        let mut path = vec![(start.to_owned(), next(start))];
        let mut on_path: HashSet<String> = HashSet::from([start.to_owned()]);
        while let Some((name, rest)) = path.last_mut() {
            let Some((to, at)) = rest.pop() else {
                on_path.remove(name);
                done.insert(std::mem::take(name));
                path.pop();
                continue;
            };
            if on_path.contains(&to) {
                let begin = path.iter().position(|(name, _)| *name == to).expect("it is on the path");
                let mut cycle: Vec<String> = path[begin..].iter().map(|(name, _)| name.clone()).collect();
                cycle.push(to);
                found.push((cycle, at));
            } else if !done.contains(&to) {
                on_path.insert(to.clone());
                let after = next(&to);
                path.push((to, after));
            }
        }
    }
    found
}
