//! What only the whole plan can tell: names that nothing has, cycles, checks that expect nothing, and keys that
//! contradict each other. What a single value can tell is in its own `decode`.

mod questions;
mod references;
mod steps;

use std::fmt::Display;

use crate::decode::Reader;
use crate::language::{
    Body, Component, ComponentKind, Gate, Keep, PostgresComponent, PostgresDumpComponent, Question,
    RedisComponent, Service, Tls,
};
use crate::values::{Databases, Name, OneOrMore, Status};
use crate::yaml::{Node, Value};
use crate::{CommandExpect, Every, HttpExpect, Position, Unknown};

/// The sections of a plan that give names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Components,
    Services,
    Checks,
    Scenarios,
    Notify,
}

impl Section {
    /// What one of its things is called.
    fn what(self) -> &'static str {
        match self {
            Self::Components => "component",
            Self::Services => "service",
            Self::Checks => "check",
            Self::Scenarios => "scenario",
            Self::Notify => "way to notify",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Components => "components",
            Self::Services => "services",
            Self::Checks => "checks",
            Self::Scenarios => "scenarios",
            Self::Notify => "notify",
        }
    }
}

/// The names that a plan gives, those of things that could not be read included: what refers to them is not wrong.
pub struct Names<'n>(&'n Node);

impl<'n> Names<'n> {
    pub fn of(root: &'n Node) -> Self {
        Self(root)
    }

    fn all(&self, section: Section) -> impl Iterator<Item = &'n str> + Clone {
        let entries = match self.0.get(section.key()).map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|entry| entry.key.as_str())
    }

    fn has(&self, section: Section, name: &str) -> bool {
        self.all(section).any(|known| known == name)
    }
}

/// Looks for what is wrong in a plan that was read, in whole or in part.
pub struct Validator<'a> {
    pub body: &'a Body,
    pub names: Names<'a>,
    pub reader: &'a mut Reader,
    /// Whether all of the plan could be read. Otherwise what seems to be missing may only have been misspelt, and that was
    /// told already.
    pub complete: bool,
}

impl Validator<'_> {
    /// Tells everything that is wrong.
    pub fn run(&mut self) {
        let body = self.body;
        self.clashes();
        for (name, component) in body.components.iter() {
            self.component(name, component);
        }
        for (name, service) in body.services.iter() {
            self.service(name, service);
        }
        self.cycles_of_needs();
        for (_, check) in body.checks.iter() {
            self.question(&check.question, check.at);
        }
        for (name, scenario) in body.scenarios.iter() {
            self.scenario(name, scenario);
        }
        self.cycles_of_scenarios();
        for drill in &body.drills {
            self.known(Section::Scenarios, &drill.scenario);
        }
    }

    /// Tells of a name that nothing has.
    fn known(&mut self, section: Section, name: &Name) {
        if !self.names.has(section, name) {
            let unknown = Unknown::new(section.what(), name, self.names.all(section));
            self.say_with_hint(name.at(), format!("there is no {} `{name}`", unknown.what), unknown.hint());
        }
    }

    /// Tells of names that nothing has, and of a list that names nothing.
    fn all_known(&mut self, section: Section, names: &OneOrMore<Name>, at: Position) {
        if names.is_empty() {
            self.if_complete(at, format!("this names no {}", section.what()), "name one at least");
        }
        for name in names.iter() {
            self.known(section, name);
        }
    }

    fn say_with_hint(&mut self, at: Position, message: impl Into<String>, hint: impl Into<String>) {
        self.reader.say_with_hint(at, message, hint);
    }

    fn if_complete(&mut self, at: Position, message: impl Into<String>, hint: &str) {
        if self.complete {
            self.reader.say_with_hint(at, message, hint);
        }
    }

    /// `needs` names components and services alike, so no two may share a name; and `all` is taken.
    fn clashes(&mut self) {
        for (name, service) in self.body.services.iter() {
            if self.names.has(Section::Components, name) {
                let message = format!("`{name}` is both a component and a service");
                self.say_with_hint(service.at, message, "`needs` could mean either; rename one of them");
            }
        }
        let places = self.body.services.iter().map(|(name, service)| (name, service.at));
        let places = places.chain(self.body.components.iter().map(|(name, component)| (name, component.at)));
        for (_, at) in places.filter(|(name, _)| *name == "all").collect::<Vec<_>>() {
            self.say_with_hint(at, "`all` cannot be a name", "it means everything there is");
        }
    }

    fn redis(&mut self, name: &str, at: Position, redis: &RedisComponent) {
        if redis.socket.is_some() && (redis.host.is_some() || redis.port.is_some()) {
            let message = format!("the component `{name}` says a socket and a host or port");
            self.say_with_hint(at, message, "one of them is enough: remove `socket`, or `host` and `port`");
        }
        if redis.username.is_some() && redis.password.is_none() {
            let message = format!("the component `{name}` says who logs in, and no password");
            self.say_with_hint(at, message, "add `password: \"${env:…}\"` or `password: \"${file:…}\"`");
        }
        self.tls(name, at, redis.tls.as_ref(), redis.socket.is_some());
    }

    fn postgres(&mut self, name: &str, at: Position, postgres: &PostgresComponent) {
        let ways = (postgres.socket.is_some(), postgres.host.is_some());
        self.tls_of_host(name, at, postgres.tls.as_ref(), ways);
    }

    fn tls_of_host(&mut self, name: &str, at: Position, tls: Option<&Tls>, (socket, host): (bool, bool)) {
        if tls.is_some() && !socket && !host {
            let message =
                format!("the component `{name}` says `tls` and no host, so that its socket is used");
            self.say_with_hint(at, message, "add `host`, or remove `tls`: on a socket nobody speaks it");
        }
        self.tls(name, at, tls, socket);
    }

    fn tls(&mut self, name: &str, at: Position, tls: Option<&Tls>, has_socket: bool) {
        let Some(tls) = tls else { return };
        if has_socket {
            let message =
                format!("the component `{name}` says `tls` and a socket, on which nobody speaks it");
            self.say_with_hint(at, message, "remove one of them");
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            let message = format!(
                "`tls` of `{name}` has a certificate without its key, or a key without its certificate"
            );
            self.say_with_hint(at, message, "give both `certificate` and `key`, or none");
        }
        if tls.ca_file.is_some() && !*tls.verify_tls {
            let message = format!(
                "`ca_file` of `{name}` says who is believed, and `verify_tls: false` that anybody is"
            );
            self.say_with_hint(at, message, "remove one of them");
        }
    }

    fn postgres_dump(&mut self, name: &str, component: &Component, dump: &PostgresDumpComponent) {
        let ways = (dump.socket.is_some(), dump.host.is_some());
        self.tls_of_host(name, component.at, dump.tls.as_ref(), ways);
        if dump.socket.is_some() && dump.host.is_some() {
            let message = format!("the component `{name}` says a socket and a host");
            self.say_with_hint(component.at, message, "one of them is enough: remove `socket` or `host`");
        }
        if let (Databases::These(names), Some(database)) = (&dump.postgres_dump, &dump.database)
            && !names.contains(database)
        {
            let message = format!("`database: {database}` of `{name}` is none of those that are dumped");
            let hint = "facts are measured in what is dumped: name one of them, or add it to `postgres_dump`";
            self.say_with_hint(component.at, message, hint);
        }
    }

    fn component(&mut self, name: &str, component: &Component) {
        let at = component.at;
        if let ComponentKind::Redis(redis) = &component.kind {
            self.redis(name, at, redis);
        }
        if let ComponentKind::Postgres(postgres) = &component.kind {
            self.postgres(name, at, postgres);
        }
        if let ComponentKind::PostgresDump(dump) = &component.kind {
            self.postgres_dump(name, component, dump);
        }
        if let ComponentKind::Files(files) = &component.kind {
            if files.files.is_empty() && files.env_files.is_empty() {
                self.if_complete(
                    at,
                    format!("the component `{name}` names no files"),
                    "list some under `files`",
                );
            }
            if !component.facts.is_empty() {
                let message = format!("the component `{name}` is files, and files have no facts");
                self.say_with_hint(
                    at,
                    message,
                    "every file is compared with its digest anyway; remove `facts`",
                );
            }
        }
        let is_continuous = component.every == Some(Every::Continuous);
        let has_log = matches!(
            component.kind,
            ComponentKind::Sqlite(_) | ComponentKind::Redis(_) | ComponentKind::Postgres(_)
        );
        if is_continuous && !has_log {
            let message = format!(
                "`every: continuous` of `{name}`: only the logs of sqlite, redis and postgres components are shipped"
            );
            self.say_with_hint(at, message, "give it an interval, for example 30m");
        }
        if let (true, ComponentKind::Postgres(postgres)) = (is_continuous, &component.kind)
            && *postgres.archive
        {
            let message = format!("`{name}` is continuous, and its server archives its log, too");
            self.say_with_hint(
                at,
                message,
                "remove `archive: true`, and `archive_command` from the server; or give it an interval, for example 6h",
            );
        }
        if let Some(keep) = &component.keep
            && keeps_nothing(keep)
        {
            let message = format!("`keep` of `{name}` keeps nothing");
            self.if_complete(
                at,
                message,
                "for example { last: 48, daily: 30 }; without `keep`, all are kept",
            );
        }
    }

    fn service(&mut self, _: &str, service: &Service) {
        for need in service.needs.iter() {
            if !self.names.has(Section::Components, need) && !self.names.has(Section::Services, need) {
                let known = self.names.all(Section::Components).chain(self.names.all(Section::Services));
                let unknown = Unknown::new("component or service", need, known);
                let message = format!("there is no component and no service `{need}`");
                self.say_with_hint(need.at(), message, unknown.hint());
            }
        }
        if let Some(gate) = &service.ready {
            self.ask(&gate.ask);
        }
        for remedy in &service.on_error {
            self.remedy(remedy);
        }
    }
}

fn keeps_nothing(keep: &Keep) -> bool {
    let Keep { last, hourly, daily, weekly, monthly, yearly, within } = keep;
    [last, hourly, daily, weekly, monthly, yearly].into_iter().all(|count| count.unwrap_or(0) == 0)
        && within.is_none_or(|within| within.is_zero())
}

/// Gives gates that only say where they ask what they may leave unsaid: a status 2xx, the exit code 0.
pub fn fill_in_gates(body: &mut Body) {
    let services = body.services.0.iter_mut().map(|(_, service)| service);
    for Gate { ask, .. } in services.filter_map(|service| service.ready.as_mut()) {
        match &mut ask.0.question {
            Some(Question::Http(http)) if http.expect.is_none() => {
                let status = OneOrMore(vec![Status::Class(2)]);
                http.expect = Some(HttpExpect { status, ..HttpExpect::default() });
            }
            Some(Question::Command(command)) if command.expect.is_none() => {
                command.expect = Some(CommandExpect { exit: OneOrMore(vec![0]), ..CommandExpect::default() });
            }
            _ => {}
        }
    }
}

/// Joins names as they are shown in messages.
fn chain(names: &[impl Display]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" → ")
}
