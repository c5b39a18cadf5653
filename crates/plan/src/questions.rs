//! What the engine asks of a plan: things by name, the order in which services start, what a scenario reaches, digests.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::decode::{Decode, Object};
use crate::language::{Action, Ask, Body, Check, Component, Question, Scenario, Service, Step};
use crate::values::{Named, Selection, Unknown};
use crate::{Name, Plan};

/// Names of all that a scenario or a service stands on, each in the order of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    /// Components that are restored, backed up, needed or asked.
    pub components: Vec<String>,
    /// Services that are started, stopped or needed.
    pub services: Vec<String>,
    /// Checks that are asked.
    pub checks: Vec<String>,
    /// The scenario itself, and those that it recovers.
    pub scenarios: Vec<String>,
}

impl Body {
    /// Gives a component, or what the plan has instead.
    pub fn component(&self, name: &str) -> Result<&Component, Unknown> {
        self.components.find("component", name)
    }

    /// Gives a service, or what the plan has instead.
    pub fn service(&self, name: &str) -> Result<&Service, Unknown> {
        self.services.find("service", name)
    }

    /// Gives a check, or what the plan has instead.
    pub fn check(&self, name: &str) -> Result<&Check, Unknown> {
        self.checks.find("check", name)
    }

    /// Gives a scenario, or what the plan has instead.
    pub fn scenario(&self, name: &str) -> Result<&Scenario, Unknown> {
        self.scenarios.find("scenario", name)
    }

    /// Gives the stages in which services are started: those selected and all services that they need. Each needs only
    /// services of stages before its own, and stands in the earliest that it can. Stopping is the reverse.
    pub fn boot_order(&self, selection: &Selection) -> Vec<Vec<&str>> {
        let mut wanted = BTreeSet::new();
        let mut open: Vec<&str> = match selection {
            Selection::All => self.services.names().collect(),
            Selection::These(names) => names.iter().map(Name::as_str).collect(),
        };
        while let Some(name) = open.pop() {
            if let Some((name, service)) = self.services.iter().find(|(known, _)| *known == name)
                && wanted.insert(name)
            {
                open.extend(service.needs.iter().map(Name::as_str));
            }
        }
        let mut stages: Vec<Vec<&str>> = Vec::new();
        while !wanted.is_empty() {
            let is_free = |name: &&str| {
                let needs = self.services.get(name).map(|service| &service.needs);
                needs.is_none_or(|needs| needs.iter().all(|need| !wanted.contains(need.as_str())))
            };
            let stage: Vec<&str> =
                self.services.names().filter(|name| wanted.contains(name)).filter(is_free).collect();
            assert!(!stage.is_empty(), "a plan with a circle of needs is refused when it is read");
            wanted.retain(|name| !stage.contains(name));
            stages.push(stage);
        }
        stages
    }

    /// Gives all that a scenario stands on, or that there is no such scenario.
    pub fn reach(&self, scenario: &str) -> Result<Reach, Unknown> {
        self.scenario(scenario)?;
        let mut found = Found::new(self);
        found.scenario(scenario);
        Ok(found.in_order())
    }

    /// Gives all that a service stands on, itself included, or that there is no such service.
    pub fn reach_of_service(&self, service: &str) -> Result<Reach, Unknown> {
        self.service(service)?;
        let mut found = Found::new(self);
        found.service(service);
        Ok(found.in_order())
    }
}

impl Plan {
    /// Gives the SHA-256 of all that the plan says, defaults filled in, as 64 hexadecimal digits.
    ///
    /// It is the same however the file is laid out, and whatever late values are; it does not look at them.
    pub fn digest(&self) -> String {
        hash(&self.to_json())
    }

    /// Gives the SHA-256 of all that a scenario stands on: a proof of it holds as long as this is the same.
    ///
    /// Descriptions, contacts, and scenarios that have nothing to do with it do not count.
    pub fn scenario_digest(&self, scenario: &str) -> Result<String, Unknown> {
        let reach = self.reach(scenario)?;
        Ok(hash(&json!({
            "components": chosen(&self.components, &reach.components),
            "services": chosen(&self.services, &reach.services),
            "checks": chosen(&self.checks, &reach.checks),
            "scenarios": chosen(&self.scenarios, &reach.scenarios),
        })))
    }

    /// Gives the values that templates can name, as the plan has them, without those that the engine adds
    /// ([`TEMPLATE_NAMES`](crate::TEMPLATE_NAMES)). Late values are in it as they were written, never looked up.
    pub fn template_values(&self) -> Json {
        let mut values = self.to_json();
        let object = values.as_object_mut().expect("a record is an object");
        object.retain(|key, _| crate::TEMPLATE_NAMES.contains(&key.as_str()));
        // A template may ask whether there is one.
        for section in ["components", "services", "checks", "scenarios"] {
            object.entry(section).or_insert_with(|| Json::Object(Object::new()));
        }
        values
    }
}

fn chosen<T: Decode>(things: &Named<T>, names: &[String]) -> Json {
    let mut object = Object::new();
    for name in names {
        let mut thing = things.get(name).and_then(T::encode).unwrap_or_default();
        if let Some(fields) = thing.as_object_mut() {
            fields.retain(|key, _| key != "description" && key != "title");
        }
        object.insert(name.clone(), thing);
    }
    Json::Object(object)
}

fn hash(json: &Json) -> String {
    let mut text = String::new();
    write_sorted(json, &mut text);
    let mut digits = String::new();
    for byte in Sha256::digest(text.as_bytes()) {
        write!(digits, "{byte:02x}").expect("a string takes everything");
    }
    digits
}

/// Writes JSON with sorted keys, whatever order the map type of `serde_json` was built to keep.
fn write_sorted(json: &Json, text: &mut String) {
    match json {
        Json::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            text.push('{');
            for key in keys {
                text.push_str(&Json::from(key.as_str()).to_string());
                text.push(':');
                write_sorted(&object[key], text);
                text.push(',');
            }
            text.push('}');
        }
        Json::Array(items) => {
            text.push('[');
            for item in items {
                write_sorted(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// What was reached so far.
struct Found<'a> {
    body: &'a Body,
    components: BTreeSet<&'a str>,
    services: BTreeSet<&'a str>,
    checks: BTreeSet<&'a str>,
    scenarios: BTreeSet<&'a str>,
}

impl<'a> Found<'a> {
    fn new(body: &'a Body) -> Self {
        Self {
            body,
            components: BTreeSet::new(),
            services: BTreeSet::new(),
            checks: BTreeSet::new(),
            scenarios: BTreeSet::new(),
        }
    }

    fn in_order(&self) -> Reach {
        Reach {
            components: in_order(&self.body.components, &self.components),
            services: in_order(&self.body.services, &self.services),
            checks: in_order(&self.body.checks, &self.checks),
            scenarios: in_order(&self.body.scenarios, &self.scenarios),
        }
    }

    fn scenario(&mut self, name: &str) {
        let body = self.body;
        let Some((name, scenario)) = body.scenarios.iter().find(|(known, _)| *known == name) else { return };
        if self.scenarios.insert(name) {
            for check in scenario.when.iter() {
                self.check(check);
            }
            self.steps(&scenario.steps);
        }
    }

    fn steps(&mut self, steps: &'a [Step]) {
        for step in steps {
            step.walk(&mut |step| self.step(step));
        }
    }

    /// One step, without those within it.
    fn step(&mut self, step: &'a Step) {
        if let Some(ask) = &step.done_when {
            self.ask(ask);
        }
        match &step.action {
            Action::Restore(step) => self.components.extend(step.restore.iter().map(Name::as_str)),
            Action::Backup(step) => match &step.backup {
                Selection::All => self.components.extend(self.body.components.names()),
                Selection::These(names) => self.components.extend(names.iter().map(Name::as_str)),
            },
            Action::Start(step) => self.all_services(&step.start),
            Action::Stop(step) => self.all_services(&step.stop),
            Action::Restart(step) => self.all_services(&step.restart),
            Action::Boot(step) => match &step.boot {
                Selection::All => self.body.services.names().for_each(|name| self.service(name)),
                Selection::These(names) => self.all_services(names),
            },
            Action::Check(step) => step.check.iter().for_each(|name| self.check(name)),
            Action::Try(step) => step.attempt.until.iter().for_each(|name| self.check(name)),
            Action::Recover(step) => self.scenario(&step.recover),
            Action::Run(_)
            | Action::Dns(_)
            | Action::Approve(_)
            | Action::Notify(_)
            | Action::Wait(_)
            | Action::Group(_) => {}
        }
    }

    fn all_services(&mut self, names: &'a [Name]) {
        for name in names {
            self.service(name);
        }
    }

    fn service(&mut self, name: &str) {
        let body = self.body;
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            if let Some((component, _)) = body.components.iter().find(|(known, _)| *known == name) {
                self.components.insert(component);
            }
            let Some((name, service)) = body.services.iter().find(|(known, _)| *known == name) else {
                continue;
            };
            if !self.services.insert(name) {
                continue;
            }
            open.extend(service.needs.iter().map(Name::to_string));
            if let Some(gate) = &service.ready {
                self.ask(&gate.ask);
            }
            for remedy in &service.on_error {
                self.steps(&remedy.steps);
            }
        }
    }

    fn ask(&mut self, ask: &'a Ask) {
        for check in ask.check.iter() {
            self.check(check);
        }
        self.question(ask.question.as_ref());
    }

    fn check(&mut self, name: &str) {
        let body = self.body;
        if let Some((name, check)) = body.checks.iter().find(|(known, _)| *known == name) {
            self.checks.insert(name);
            self.question(Some(&check.question));
        }
    }

    fn question(&mut self, question: Option<&'a Question>) {
        if let Some(Question::Sql(check)) = question {
            self.components.insert(check.sql.component.as_str());
        }
    }
}

fn in_order<T>(things: &Named<T>, names: &BTreeSet<&str>) -> Vec<String> {
    things.names().filter(|name| names.contains(name)).map(str::to_owned).collect()
}
