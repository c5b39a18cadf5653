//! From the words of a plan to the drivers of the estate: components, services, checks and commands, late values filled in.
//!
//! Late values are looked up here and nowhere else, when a run begins or goes on; what they are is known to the drivers
//! that need them and to [`Secrets`], which takes them out of everything that is said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use estate::check::{self, Check};
use estate::component::{
    self, CommandOptions, Component, DumpOptions, Export, Exported, FilesOptions, PostgresOptions,
    RedisOptions, SqliteOptions,
};
use estate::secrets::Secrets;
use estate::service::{self, Service, Verb};
use place::{Command, Place};
use plan::{CommandLine, ComponentKind, Late, Named, Question, ServiceKind, TextMatch};

use crate::site::{Site, absolute};
use crate::work::At;
use crate::{Error, Result};

/// Everything that a plan names, ready to be used in one place.
pub(crate) struct Drivers {
    components: BTreeMap<String, Box<dyn Component>>,
    services: BTreeMap<String, ServiceDriver>,
    checks: BTreeMap<String, CheckDriver>,
    inline: BTreeMap<At, CheckDriver>,
    runs: BTreeMap<At, Surroundings>,
    messages: BTreeMap<At, Vec<Message>>,
    secrets: Secrets,
    state: PathBuf,
}

/// A service and its gate.
pub(crate) struct ServiceDriver {
    pub service: Service,
    pub gate: Option<Gate>,
}

/// What must hold before a service counts as running.
pub(crate) enum Gate {
    /// Checks of the plan.
    Checks(Vec<String>),
    /// A question of its own.
    Own(Box<CheckDriver>),
}

/// A check and how long one answer may take.
pub(crate) struct CheckDriver {
    pub check: Check,
    pub timeout: Duration,
}

/// A message to one way of telling people.
pub(crate) struct Message {
    pub channel: String,
    pub send: Send,
}

/// How a message goes out.
pub(crate) enum Send {
    /// A command that reads it.
    Command(Command),
    /// A request that posts it.
    Http(Box<CheckDriver>),
}

/// How long one request that posts a message may take.
const POST_TIMEOUT: Duration = Duration::from_secs(20);

/// What is around a command: directory, environment, user.
struct Surroundings {
    directory: PathBuf,
    environment: Vec<(String, String)>,
    user: Option<(u32, u32)>,
}

/// What a person would type for a service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Typed {
    pub start: String,
    pub stop: String,
    pub status: String,
}

impl Drivers {
    /// Makes the drivers of a plan for `place`.
    ///
    /// Fails when a late value cannot be looked up, or a user is not known.
    pub fn of(site: &Site, place: &Place) -> Result<Self> {
        let mut maker = Maker { site, place, values: Vec::new() };
        let mut drivers = Self {
            components: BTreeMap::new(),
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            inline: BTreeMap::new(),
            runs: BTreeMap::new(),
            messages: BTreeMap::new(),
            secrets: Secrets::default(),
            state: site.state.join("services"),
        };
        for (name, declared) in site.plan.components.iter() {
            drivers.components.insert(name.to_owned(), maker.component(name, declared)?);
        }
        for (name, declared) in site.plan.checks.iter() {
            let check = maker.check(name, &declared.question, false)?;
            drivers.checks.insert(name.to_owned(), CheckDriver { check, timeout: *declared.timeout });
        }
        for (name, declared) in site.plan.services.iter() {
            drivers.services.insert(name.to_owned(), maker.service(name, declared)?);
        }
        let mut steps = Vec::new();
        for (_, scenario) in site.plan.scenarios.iter() {
            all_steps(&scenario.steps, &mut steps);
        }
        for (_, service) in site.plan.services.iter() {
            service.on_error.iter().for_each(|rule| all_steps(&rule.steps, &mut steps));
        }
        for step in steps {
            if let Some(ask) = &step.done_when
                && let Some(question) = &ask.question
            {
                let check = maker.check(&format!("line {}", step.at.line), question, false)?;
                drivers.inline.insert(step.at.into(), CheckDriver { check, timeout: *ask.timeout });
            }
            if let plan::Action::Run(run) = &step.action {
                let around = maker.surroundings(run.dir.as_deref(), &run.env, run.user.as_deref())?;
                drivers.runs.insert(step.at.into(), around);
            }
            if let plan::Action::Notify(notify) = &step.action {
                drivers.messages.insert(step.at.into(), maker.messages(&notify.notify)?);
            }
        }
        drivers.secrets = Secrets::new(maker.values);
        Ok(drivers)
    }

    /// Makes drivers that are only to be printed: late values stand in them as the plan writes them, and none is looked
    /// up.
    pub fn written(site: &Site, place: &Place) -> Result<Self> {
        let site = Site { lookup: Arc::new(AsWritten), ..site.clone() };
        let drivers = Self::of(&site, place)?;
        Ok(Self { secrets: Secrets::default(), ..drivers })
    }

    pub fn component(&self, name: &str) -> Result<&dyn Component> {
        self.components.get(name).map(AsRef::as_ref).ok_or_else(|| unknown("component", name))
    }

    pub fn service(&self, name: &str) -> Result<&ServiceDriver> {
        self.services.get(name).ok_or_else(|| unknown("service", name))
    }

    pub fn check(&self, name: &str) -> Result<&CheckDriver> {
        self.checks.get(name).ok_or_else(|| unknown("check", name))
    }

    /// The question that stands at a step of the plan.
    pub fn inline(&self, at: At) -> Option<&CheckDriver> {
        self.inline.get(&at)
    }

    /// Values that are said nowhere.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The directory in which services keep what they remember.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What a check asks, in words.
    pub fn describe(&self, check: &str) -> String {
        self.checks.get(check).map(|driver| driver.check.describe()).unwrap_or_default()
    }

    /// What a person would type to ask a check.
    pub fn check_by_hand(&self, check: &str) -> String {
        self.checks.get(check).map(|driver| driver.check.by_hand(&self.secrets)).unwrap_or_default()
    }

    /// What a person would type for a service.
    pub fn typed(&self, service: &str) -> Typed {
        let Some(driver) = self.services.get(service) else { return Typed::default() };
        let by_hand = |verb| driver.service.by_hand(verb, &self.state, &self.secrets);
        Typed { start: by_hand(Verb::Start), stop: by_hand(Verb::Stop), status: by_hand(Verb::Status) }
    }

    /// What a `notify:` step sends.
    pub fn messages(&self, at: At) -> Result<&[Message]> {
        self.messages.get(&at).map(Vec::as_slice).ok_or_else(|| {
            let message = format!("the plan has no notify: at line {}", at.0);
            Error::refused(message, "the journal is of another plan; begin a new run")
        })
    }

    /// The command of a `run:` step.
    pub fn run_command(&self, at: At, script: &str) -> Result<Command> {
        let around = self.runs.get(&at).ok_or_else(|| {
            Error::refused(
                format!("the plan has no run: at line {}", at.0),
                "the journal is of another plan; begin a new run",
            )
        })?;
        Ok(around.dress(Command::shell(script)))
    }
}

/// Gives late values as the plan writes them.
struct AsWritten;

impl plan::Lookup for AsWritten {
    fn look_up(&self, reference: &plan::Reference) -> std::result::Result<String, String> {
        Ok(reference.to_string())
    }
}

fn unknown(what: &'static str, name: &str) -> Error {
    let known = Vec::new();
    Error::Unknown(plan::Unknown { what, name: name.to_owned(), suggestion: None, known })
}

/// All steps, those inside of others and in remedies included.
fn all_steps<'a>(steps: &'a [plan::Step], into: &mut Vec<&'a plan::Step>) {
    for step in steps {
        into.push(step);
        step.on_error.iter().for_each(|rule| all_steps(&rule.steps, into));
        all_steps(&step.undo, into);
        match &step.action {
            plan::Action::Group(group) => {
                all_steps(&group.group.parallel, into);
                all_steps(&group.group.sequence, into);
            }
            plan::Action::Try(attempt) => {
                attempt.attempt.attempts.iter().for_each(|steps| all_steps(steps, into));
            }
            _ => {}
        }
    }
}

impl Surroundings {
    fn dress(&self, command: Command) -> Command {
        let mut command = command.directory(&self.directory);
        for (name, value) in &self.environment {
            command = command.env(name, value);
        }
        match self.user {
            Some((uid, gid)) => command.user(uid, gid),
            None => command,
        }
    }
}

/// The name of the replication slot that keeps a server's log for a component: no other repository has the same, and a server
/// takes nothing but small letters, digits and `_`, at most 63.
fn slot(repository: &str, component: &str) -> String {
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' }
    };
    let component: String = component.chars().map(plain).take(40).collect();
    let repository: String = repository.chars().take(8).collect();
    format!("lifeboat_{repository}_{component}")
}

struct Maker<'a> {
    site: &'a Site,
    place: &'a Place,
    /// What was looked up.
    values: Vec<String>,
}

impl Maker<'_> {
    fn late(&mut self, late: &Late) -> Result<String> {
        let value = late.resolve(&*self.site.lookup)?.expose().to_owned();
        if late.is_secret() {
            self.values.push(value.clone());
        }
        Ok(value)
    }

    fn late_named(&mut self, named: &Named<Late>) -> Result<Vec<(String, String)>> {
        named.iter().map(|(name, late)| Ok((name.to_owned(), self.late(late)?))).collect()
    }

    fn path(&self, path: &Path) -> PathBuf {
        absolute(&self.site.base, path)
    }

    fn surroundings(
        &mut self,
        dir: Option<&Path>,
        env: &Named<Late>,
        user: Option<&str>,
    ) -> Result<Surroundings> {
        Ok(Surroundings {
            directory: dir.map_or_else(|| self.site.base.clone(), |dir| self.path(dir)),
            environment: self.late_named(env)?,
            user: user.map(find_user).transpose()?,
        })
    }

    fn component(&mut self, name: &str, declared: &plan::Component) -> Result<Box<dyn Component>> {
        let facts: Vec<(String, String)> =
            declared.facts.iter().map(|(name, query)| (name.to_owned(), query.clone())).collect();
        Ok(match &declared.kind {
            ComponentKind::Files(files) => Box::new(component::files::Files::new(FilesOptions {
                base: self.site.base.clone(),
                paths: files.files.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
                excludes: files.exclude.to_vec(),
                env_files: files.env_files.iter().map(|path| self.path(path)).collect(),
            })),
            ComponentKind::Sqlite(sqlite) => Box::new(component::sqlite::Sqlite::new(SqliteOptions {
                facts,
                exports: sqlite
                    .exports
                    .iter()
                    .map(|(name, what)| Export {
                        name: name.to_owned(),
                        what: if what == "dump" { Exported::Dump } else { Exported::Csv(what.clone()) },
                    })
                    .collect(),
                prover: self
                    .site
                    .sqlite_proof
                    .clone()
                    .map(|program| component::sqlite::Prover { place: self.place.clone(), program }),
                ..SqliteOptions::of(self.path(&sqlite.sqlite))
            })),
            ComponentKind::Postgres(postgres) => {
                let is_followed = matches!(declared.every, Some(plan::Every::Continuous));
                let options = PostgresOptions {
                    facts,
                    proof_timeout: *declared.timeout,
                    slot: is_followed.then(|| slot(&self.site.repository.config().id.to_hex(), name)),
                    ..self.postgres(postgres)?
                };
                Box::new(component::postgres::Postgres::new(options, self.place.clone()))
            }
            ComponentKind::PostgresDump(dump) => {
                let password = dump.password.as_ref().map(|late| self.late(late)).transpose()?;
                let databases = match &dump.postgres_dump {
                    plan::Databases::All => None,
                    plan::Databases::These(names) => Some(names.clone()),
                };
                let options = DumpOptions {
                    databases,
                    socket: dump.socket.as_ref().map(|path| self.path(path)),
                    host: dump.host.clone(),
                    port: dump.port,
                    tls: dump.tls.as_ref().map(|tls| self.tls(tls)),
                    user: dump.role.clone(),
                    password,
                    database: dump.database.clone(),
                    binaries: dump.binaries.as_ref().map(|path| self.path(path)),
                    facts,
                    hold: self.site.state.join("scratch").join("hold").join(name),
                    timeout: *declared.timeout,
                    ..DumpOptions::of(name, self.site.state.clone())
                };
                Box::new(component::postgres::dump::Dumps::new(options, self.place.clone()))
            }
            ComponentKind::Redis(redis) => {
                let password = redis.password.as_ref().map(|late| self.late(late)).transpose()?;
                let options = RedisOptions {
                    socket: redis.socket.as_ref().map(|path| self.path(path)),
                    host: redis.host.clone(),
                    port: redis.port,
                    tls: redis.tls.as_ref().map(|tls| self.tls(tls)),
                    username: redis.username.clone(),
                    password,
                    config: redis.config.iter().map(|path| self.path(path)).collect(),
                    binaries: redis.binaries.as_ref().map(|path| self.path(path)),
                    facts,
                    proof_timeout: *declared.timeout,
                    continuous: matches!(declared.every, Some(plan::Every::Continuous)),
                    ..RedisOptions::of(self.path(&redis.redis))
                };
                Box::new(component::redis::Redis::new(options, self.place.clone()))
            }
            ComponentKind::Command(command) => {
                let around =
                    self.surroundings(command.dir.as_deref(), &command.env, command.user.as_deref())?;
                let dressed = |line: &CommandLine| around.dress(command_of(line));
                let options = CommandOptions {
                    name: name.to_owned(),
                    file: command.file.value.clone(),
                    backup: dressed(&command.command),
                    restore: dressed(&command.restore),
                    verify: command.verify.as_ref().map(dressed),
                    facts,
                    hold: self.site.state.join("scratch").join("hold").join(name),
                    destroy: Vec::new(),
                    timeout: *declared.timeout,
                };
                Box::new(component::command::Dump::new(options, self.place.clone()))
            }
        })
    }

    fn tls(&self, declared: &plan::Tls) -> component::Tls {
        let identity = declared.certificate.as_ref().zip(declared.key.as_ref());
        component::Tls {
            trust: self.trust(declared.ca_file.as_deref(), *declared.verify_tls),
            identity: identity.map(|(certificate, key)| component::Identity {
                certificate: self.path(certificate),
                key: self.path(key),
            }),
        }
    }

    fn trust(&self, ca_file: Option<&Path>, verifies: bool) -> check::Trust {
        match ca_file {
            _ if !verifies => check::Trust::Anyone,
            Some(file) => check::Trust::CaFile(self.path(file)),
            None => check::Trust::System,
        }
    }

    fn postgres(&mut self, declared: &plan::PostgresComponent) -> Result<PostgresOptions> {
        let password = declared.password.as_ref().map(|late| self.late(late)).transpose()?;
        Ok(PostgresOptions {
            socket: declared.socket.as_ref().map(|path| self.path(path)),
            host: declared.host.clone(),
            port: declared.port,
            tls: declared.tls.as_ref().map(|tls| self.tls(tls)),
            user: declared.role.clone(),
            database: declared.database.value.clone(),
            password,
            archive: *declared.archive,
            binaries: declared.binaries.as_ref().map(|path| self.path(path)),
            ..PostgresOptions::of(self.path(&declared.postgres))
        })
    }

    fn messages(&mut self, message: &plan::Message) -> Result<Vec<Message>> {
        let text = self.late(&message.message)?;
        let plan = &self.site.plan;
        let channels = plan.notify.iter().filter(|(name, _)| {
            message.to.is_empty() || message.to.iter().any(|wanted| wanted.as_str() == *name)
        });
        let mut messages = Vec::new();
        for (name, channel) in channels {
            let send = match &channel.kind {
                plan::ChannelKind::Slack(slack) => self.post(&slack.slack, Vec::new(), &text)?,
                plan::ChannelKind::Webhook(webhook) => {
                    let headers = self.late_named(&webhook.headers)?;
                    self.post(&webhook.webhook, headers, &text)?
                }
                plan::ChannelKind::Command(command) => {
                    let around = self.surroundings(None, &command.env, None)?;
                    let input = place::Input::Bytes(text.clone().into_bytes());
                    Send::Command(around.dress(command_of(&command.command)).input(input))
                }
            };
            messages.push(Message { channel: name.to_owned(), send });
        }
        Ok(messages)
    }

    /// A request that posts `text` as JSON, in the form that Slack and those who speak like it understand.
    fn post(&mut self, url: &Late, mut headers: Vec<(String, String)>, text: &str) -> Result<Send> {
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        let expect = check::HttpExpect { status: vec![check::Status::Class(2)], ..Default::default() };
        let http = check::Http {
            method: "POST".to_owned(),
            headers,
            body: Some(serde_json::json!({ "text": text }).to_string()),
            ..check::Http::get(self.late(url)?, expect)
        };
        let check = Check::new(check::Question::Http(http))
            .map_err(|error| Error::refused(error.to_string(), "correct the way to notify in the plan"))?;
        Ok(Send::Http(Box::new(CheckDriver { check, timeout: POST_TIMEOUT })))
    }

    fn service(&mut self, name: &str, declared: &plan::Service) -> Result<ServiceDriver> {
        let kind = match &declared.kind {
            ServiceKind::Process(process) => {
                let process = &process.process;
                let around =
                    self.surroundings(process.dir.as_deref(), &process.env, process.user.as_deref())?;
                service::Kind::Process(service::Process {
                    command: around.dress(command_of(&process.command)),
                    grace: *process.stop_grace,
                    settle: service::SETTLE,
                })
            }
            ServiceKind::Systemd(systemd) => {
                let others =
                    self.site.plan.services.iter().filter_map(|(other, declared)| match &declared.kind {
                        ServiceKind::Systemd(unit) if other != name => {
                            Some(service::OtherUnit { unit: unit.systemd.clone(), service: other.to_owned() })
                        }
                        _ => None,
                    });
                let others = others.collect();
                service::Kind::Systemd(service::Systemd {
                    unit: systemd.systemd.clone(),
                    user: false,
                    others,
                })
            }
            ServiceKind::Command(command) => {
                let commands = &command.command;
                let around =
                    self.surroundings(commands.dir.as_deref(), &commands.env, commands.user.as_deref())?;
                let dressed = |line: &CommandLine| around.dress(command_of(line));
                service::Kind::Command(service::Commands {
                    start: dressed(&commands.start),
                    stop: Some(dressed(&commands.stop)),
                    status: Some(dressed(&commands.status)),
                })
            }
        };
        let service = Service::new(name, kind)
            .map_err(|error| Error::refused(error.to_string(), "correct the service in the plan"))?;
        let gate = match &declared.ready {
            None => None,
            Some(gate) => Some(match &gate.ask.question {
                Some(question) => Gate::Own(Box::new(CheckDriver {
                    check: self.check(&format!("the gate of {name}"), question, true)?,
                    timeout: *gate.ask.timeout,
                })),
                None => Gate::Checks(gate.ask.check.iter().map(|name| name.as_str().to_owned()).collect()),
            }),
        };
        Ok(ServiceDriver { service, gate })
    }

    /// Makes a check. At a gate a question need not say what it expects: that the service answers well.
    fn check(&mut self, name: &str, question: &Question, is_gate: bool) -> Result<Check> {
        let question = self.question(question, is_gate)?;
        Check::new(question)
            .map_err(|error| Error::refused(format!("{name}: {error}"), "correct the check in the plan"))
    }

    fn question(&mut self, question: &Question, is_gate: bool) -> Result<check::Question> {
        Ok(match question {
            Question::Http(http) => {
                let mut expect = http.expect.as_ref().map(http_expect).unwrap_or_default();
                if is_gate && http.expect.is_none() {
                    expect.status = vec![check::Status::Class(2)];
                }
                let trust = self.trust(http.ca_file.as_deref(), *http.verify_tls);
                check::Question::Http(check::Http {
                    url: self.late(&http.http)?,
                    method: http.method.value.clone(),
                    headers: self.late_named(&http.headers)?,
                    body: http.body.as_ref().map(|body| self.late(body)).transpose()?,
                    expect,
                    trust,
                    redirects_max: *http.redirects,
                })
            }
            Question::Tcp(tcp) => check::Question::Tcp(check::Tcp {
                host: tcp.tcp.host.clone(),
                port: tcp.tcp.port,
                expect: match &tcp.expect.banner {
                    _ if !*tcp.expect.open => check::TcpExpect::Closed,
                    Some(banner) => check::TcpExpect::Banner(text_match(banner)),
                    None => check::TcpExpect::Open,
                },
            }),
            Question::Command(command) => {
                let around =
                    self.surroundings(command.dir.as_deref(), &command.env, command.user.as_deref())?;
                let (mut exit, mut stdout, mut stderr) = (Vec::new(), None, None);
                if let Some(expect) = &command.expect {
                    exit = expect.exit.to_vec();
                    stdout = expect.stdout.as_ref().map(text_match);
                    stderr = expect.stderr.as_ref().map(text_match);
                } else if is_gate {
                    exit = vec![0];
                }
                let command = around.dress(command_of(&command.command));
                check::Question::Command(check::Command { command, exit, stdout, stderr })
            }
            Question::Sql(sql) => self.sql(&sql.sql)?,
            Question::File(file) => check::Question::File(check::File {
                path: self.path(&file.file),
                expect: file_expect(file.expect.as_ref()),
            }),
            Question::Port(port) => check::Question::Port(check::Port {
                port: port.port,
                address: port.address,
                expect: match &port.expect.program {
                    _ if !*port.expect.listening => check::PortExpect::Free,
                    Some(program) => check::PortExpect::ListeningAs(program.clone()),
                    None => check::PortExpect::Listening,
                },
            }),
            Question::Disk(disk) => {
                let free = disk.expect.as_ref().map(|expect| &expect.free);
                check::Question::Disk(check::Disk {
                    path: self.path(&disk.disk),
                    free_bytes_min: match free {
                        Some(plan::Free::Bytes(bytes)) => Some(bytes.0),
                        _ => None,
                    },
                    free_percent_min: match free {
                        Some(plan::Free::Percent(percent)) => Some(percent.share() * 100.0),
                        _ => None,
                    },
                })
            }
        })
    }

    fn sql(&mut self, sql: &plan::SqlQuestion) -> Result<check::Question> {
        let site = self.site;
        let database = match site.plan.components.get(&sql.component).map(|component| &component.kind) {
            Some(ComponentKind::Sqlite(sqlite)) => {
                check::Database::Sqlite { path: self.path(&sqlite.sqlite) }
            }
            Some(ComponentKind::Postgres(postgres)) => {
                check::Database::Postgres(Box::new(self.postgres(postgres)?))
            }
            _ => {
                return Err(Error::refused(
                    format!("line {}: {} is no database", sql.component.at().line, sql.component),
                    "ask a component of kind sqlite or postgres",
                ));
            }
        };
        let expect = match (&sql.equals, sql.at_least, sql.at_most, sql.empty) {
            (Some(value), ..) => check::SqlExpect::Equals(value.as_str().to_owned()),
            (_, Some(least), ..) => check::SqlExpect::AtLeast(least),
            (_, _, Some(most), _) => check::SqlExpect::AtMost(most),
            (.., Some(true)) => check::SqlExpect::Empty,
            (.., Some(false) | None) => check::SqlExpect::NotEmpty,
        };
        Ok(check::Question::Sql(check::Sql { database, query: sql.query.clone(), expect }))
    }
}

fn command_of(line: &CommandLine) -> Command {
    match line {
        CommandLine::Shell(text) => Command::shell(text),
        CommandLine::Arguments(words) => {
            let (program, arguments) = words.split_first().expect("the plan language demands a program");
            Command::new(program, arguments.iter().map(String::as_str))
        }
    }
}

fn text_match(expected: &TextMatch) -> check::TextMatch {
    match expected {
        TextMatch::Contains(text) => check::TextMatch::Contains(text.clone()),
        TextMatch::Equals(text) => check::TextMatch::Equals(text.clone()),
        TextMatch::Regex(pattern) => check::TextMatch::Regex(pattern.as_str().to_owned()),
    }
}

fn http_expect(expect: &plan::HttpExpect) -> check::HttpExpect {
    check::HttpExpect {
        status: expect
            .status
            .iter()
            .map(|status| match status {
                plan::Status::Is(code) => check::Status::Is(*code),
                plan::Status::Class(class) => check::Status::Class(*class),
            })
            .collect(),
        headers: expect.headers.iter().map(|(name, value)| (name.to_owned(), text_match(value))).collect(),
        json: expect.json.as_ref().map(|expression| expression.as_str().to_owned()),
        body: expect.body.as_ref().map(text_match),
        tls_days_min: expect.tls_days,
    }
}

fn file_expect(expect: Option<&plan::FileExpect>) -> check::FileExpect {
    let Some(expect) = expect else { return check::FileExpect::Present(check::Properties::default()) };
    if expect.exists == Some(false) {
        return check::FileExpect::Absent;
    }
    check::FileExpect::Present(check::Properties {
        bytes_min: expect.size_min.as_ref().map(|bytes| bytes.0),
        sha256: expect.sha256.as_ref().map(|digest| digest.as_str().to_owned()),
        content: expect.content.as_ref().map(text_match),
        younger_than: expect.younger_than,
    })
}

/// Finds a user of this machine and the user's group, by name or number.
fn find_user(name: &str) -> Result<(u32, u32)> {
    let path = Path::new("/etc/passwd");
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (known, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (known == name || uid == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
    });
    found.ok_or_else(|| {
        Error::refused(
            format!("there is no user {name} on this machine"),
            "add the user, or correct the plan",
        )
    })
}
