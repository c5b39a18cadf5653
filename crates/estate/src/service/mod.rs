//! Services: what runs, is started and stopped, and is asked whether it still runs.
//!
//! A [`Service`] is plain data and holds nothing open; what it must remember between two runs of Lifeboat (which
//! process it started) is a small file in a state directory of the place, see `record`. All operations may be
//! repeated: a service that runs is not started again, one that does not run is not stopped again.
//!
//! Whether a service is *ready* is a question for a [`crate::check::Check`]; a service only knows whether it runs.
//!
//! | kind | runs as | in a twin |
//! |---|---|---|
//! | process | a command that is started detached, and remembered by its [`ProcessId`] | the same |
//! | systemd | a unit | a process, by what the unit's files say; [`Error::NotHere`], and not proven, where that would show nothing |
//! | command | whatever its start command brings up | the same, if the commands need nothing outside |

mod command;
mod process;
mod record;
mod systemd;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;
use place::{Command, Limits, Place, ProcessId};
use serde::{Deserialize, Serialize};

use crate::secrets::Secrets;
use crate::served::Served;

/// How long a process is watched after its start for an early death, unless the plan says otherwise.
///
/// What cannot open its port or its configuration says so in the first instants; a recovery may add less than a second
/// to each of its stages.
pub const SETTLE: Duration = Duration::from_millis(300);

/// How long a process gets between SIGTERM and SIGKILL, unless the plan says otherwise.
pub const GRACE: Duration = Duration::from_secs(10);

/// Something that runs.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    kind: Kind,
}

/// How a service is run.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a plan has a few dozen of them, and a box would be in the way of matching"
)]
pub enum Kind {
    /// A command that Lifeboat starts and remembers.
    Process(Process),
    /// A unit of systemd.
    Systemd(Systemd),
    /// Commands that start, stop and ask.
    Command(Commands),
}

/// A command that stays in the foreground as long as the service runs.
#[derive(Debug, Clone)]
pub struct Process {
    /// What is run.
    pub command: Command,
    /// How long it gets between SIGTERM and SIGKILL; usually [`GRACE`].
    pub grace: Duration,
    /// How long it is watched for an early death; usually [`SETTLE`].
    pub settle: Duration,
}

/// A unit of systemd.
#[derive(Debug, Clone)]
pub struct Systemd {
    /// Its name, with or without `.service`.
    pub unit: String,
    /// Whether it belongs to the user's own manager.
    pub user: bool,
    /// The other services that are units: in a twin, what this one requires must be one of them and run.
    pub others: Vec<OtherUnit>,
}

/// A unit by the name that it has as a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherUnit {
    /// The unit.
    pub unit: String,
    /// The service.
    pub service: String,
}

/// Commands that start, stop and ask; each is run to its end.
#[derive(Debug, Clone)]
pub struct Commands {
    /// Starts the service, and returns.
    pub start: Command,
    /// Stops it.
    pub stop: Option<Command>,
    /// Exits with 0 if the service runs, and with another code if it does not; 4, 126 and 127 mean that it does not know.
    pub status: Option<Command>,
}

/// What every operation on a service is told.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Where the service runs.
    pub place: &'a Place,
    /// The directory, as the place sees it, that keeps what is to be remembered: `NAME.json`, `NAME.log`, `NAME.lock`.
    pub state: &'a Path,
    /// How long the operation may take; the grace of a process is not counted.
    pub timeout: Duration,
    /// Set by whoever wants it to end early.
    pub cancel: &'a AtomicBool,
    /// What must not be seen in errors and reasons.
    pub secrets: &'a Secrets,
}

/// What a service is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Status {
    /// It runs.
    Running {
        /// Since when, where that can be told.
        since: Option<Timestamp>,
    },
    /// It does not run, and nobody expects it to.
    Stopped,
    /// It does not run, though it was started.
    Failed {
        /// What is known of it, the end of its log included.
        why: String,
    },
    /// It cannot be told.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// What a start did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// It was running already, and nothing was done.
    pub already: bool,
    /// Its process, if it is one of ours.
    pub process: Option<ProcessId>,
    /// How many processes of an earlier run, whose first process was gone, were ended before.
    pub cleared: usize,
    /// What was started in place of the real thing; nothing, for the kinds that there are. What is shown by a stand-in must
    /// be reported as shown by one.
    pub stand_in: Option<String>,
    /// What differs from a real start and is no reason to doubt it: the sandboxing of a unit that is rehearsed.
    pub notes: Vec<String>,
}

/// What a stop did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// It was running.
    pub was_running: bool,
    /// How many processes did not end on being asked, or were left behind by a first process that had gone, and were
    /// ended all the same.
    pub killed: usize,
}

/// Which run of a service it was, for [`Service::look_again`]; may be written to a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch(Identity);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Identity {
    Process(ProcessId),
    Invocation {
        id: String,
        restarts: u64,
    },
    /// It runs; whether it is the same one cannot be told later.
    Nameless,
}

/// What a second look showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "look", rename_all = "snake_case")]
pub enum Look {
    /// The very same run goes on.
    Same,
    /// It runs, but in between it ended and was started again.
    Restarted {
        /// By what that is seen.
        detail: String,
    },
    /// It runs; whether it did so without interruption cannot be told of this kind.
    Running,
    /// It no longer runs.
    Gone {
        /// What is known of it.
        why: String,
    },
    /// It cannot be told.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// What can be done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// See [`Service::start`].
    Start,
    /// See [`Service::stop`].
    Stop,
    /// See [`Service::restart`].
    Restart,
    /// See [`Service::status`].
    Status,
}

/// Why an operation on a service failed. Holds no secret that the context knows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that cannot be one.
    #[error("cannot use {name:?} as the name of {what}: {why}")]
    BadName {
        /// The name.
        name: String,
        /// What it should name.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The process ended within moments of its start.
    #[error(
        "{service} ended right after its start (a service has to stay in the foreground); its log {log} ends with: {tail}"
    )]
    Died {
        /// The service.
        service: String,
        /// The log file, as the place sees it.
        log: String,
        /// Its last lines.
        tail: String,
    },
    /// A command of the service failed, or systemctl did.
    #[error("failed to {verb} {service}: {why}")]
    Failed {
        /// What was tried.
        verb: &'static str,
        /// The service.
        service: String,
        /// How the command ended and what it said.
        why: String,
    },
    /// It cannot be done in this place; a drill reports it as not proven.
    #[error("{service} cannot be rehearsed in {place}: {why}")]
    NotHere {
        /// The service.
        service: String,
        /// The place.
        place: String,
        /// What is missing there.
        why: String,
    },
    /// What should be remembered between runs could not be read or written.
    #[error("failed to {action} {path}: {why}")]
    State {
        /// What was tried.
        action: &'static str,
        /// With which file, as the place sees it.
        path: String,
        /// Why it failed, and what to do.
        why: String,
    },
    /// Somebody else is starting or stopping the same service.
    #[error("failed to {verb} {service}: another Lifeboat is at it; wait until it is done")]
    Busy {
        /// What was tried.
        verb: &'static str,
        /// The service.
        service: String,
    },
    /// Something in the place did not work.
    #[error(transparent)]
    Place(#[from] place::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Service {
    /// Makes a service; its name becomes the name of files, and its unit an argument of systemctl.
    pub fn new(name: impl Into<String>, kind: Kind) -> Result<Service, Error> {
        let name = name.into();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(is_plain) {
            let why = "it is made of letters, digits, hyphens, points and underscores, and does not begin with a point";
            return Err(Error::BadName { name, what: "a service", why });
        }
        if let Kind::Systemd(systemd) = &kind {
            systemd::well_named(&systemd.unit)?;
        }
        Ok(Service { name, kind })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, unless it runs.
    ///
    /// A process that ends within its settling time is an error with the end of its log.
    pub fn start(&self, context: &Context<'_>) -> Result<Started, Error> {
        match &self.kind {
            Kind::Process(process) => process::start(&self.name, process, context),
            Kind::Systemd(systemd) => systemd::start(&self.name, systemd, context),
            Kind::Command(commands) => command::start(&self.name, commands, context),
        }
    }

    /// Stops it with all that belongs to it, if it runs.
    pub fn stop(&self, context: &Context<'_>) -> Result<Ended, Error> {
        match &self.kind {
            Kind::Process(process) => process::stop(&self.name, process.grace, context),
            Kind::Systemd(systemd) => systemd::stop(&self.name, systemd, context),
            Kind::Command(commands) => command::stop(&self.name, commands, context),
        }
    }

    /// Stops it, if it runs, and starts it.
    pub fn restart(&self, context: &Context<'_>) -> Result<Started, Error> {
        match &self.kind {
            Kind::Systemd(systemd) if !context.place.is_twin() => {
                systemd::restart(&self.name, systemd, context)
            }
            _ => {
                self.stop(context)?;
                self.start(context)
            }
        }
    }

    /// Tells what it is doing. Never fails: what cannot be told is [`Status::Unknown`].
    pub fn status(&self, context: &Context<'_>) -> Status {
        match &self.kind {
            Kind::Process(_) => process::status(&self.name, context),
            Kind::Systemd(systemd) => systemd::status(&self.name, systemd, context),
            Kind::Command(commands) => command::status(commands, context),
        }
    }

    /// Remembers which run of it this is, to be looked at again later; fails if it does not run.
    pub fn watch(&self, context: &Context<'_>) -> Result<Watch, Error> {
        let identity = match &self.kind {
            Kind::Process(_) => process::identity(&self.name, context),
            Kind::Systemd(systemd) => systemd::identity(&self.name, systemd, context),
            Kind::Command(_) => Ok(Identity::Nameless),
        };
        match self.status(context) {
            Status::Running { .. } => identity.map(Watch),
            other => Err(self.failed("watch", format!("it does not run: {}", reason(&other)))),
        }
    }

    /// Looks whether the run that was watched still goes on: a service that starts, passes its gate and dies is gone here.
    pub fn look_again(&self, context: &Context<'_>, watch: &Watch) -> Look {
        match self.status(context) {
            Status::Running { .. } => {}
            Status::Unknown { why } => return Look::Unknown { why },
            other => return Look::Gone { why: reason(&other) },
        }
        let now = match &self.kind {
            Kind::Process(_) => process::identity(&self.name, context),
            Kind::Systemd(systemd) => systemd::identity(&self.name, systemd, context),
            Kind::Command(_) => return Look::Running,
        };
        match now {
            Ok(now) if now == watch.0 => Look::Same,
            Ok(now) => {
                Look::Restarted { detail: format!("was {}, is {}", watch.0.describe(), now.describe()) }
            }
            Err(error) => Look::Unknown { why: error.to_string() },
        }
    }

    /// Tells which processes are the service's, so that a check can require that it is this service that answers.
    ///
    /// Fails if it does not run, and for services of commands, whose processes nobody knows.
    pub fn served(&self, context: &Context<'_>) -> Result<Served, Error> {
        match &self.kind {
            Kind::Process(_) => process::served(&self.name, context),
            Kind::Systemd(systemd) => systemd::served(&self.name, systemd, context),
            Kind::Command(_) => Err(self.failed(
                "find the processes of",
                "it is started by a command, so nobody knows its processes: declare it as a process or unit"
                    .into(),
            )),
        }
    }

    /// Gives what a person would type to do the same, for the printed runbook.
    ///
    /// Values of variables are not in it. `state` is the directory of [`Context::state`], where the log goes.
    pub fn by_hand(&self, verb: Verb, state: &Path, secrets: &Secrets) -> String {
        secrets.mask(&match &self.kind {
            Kind::Process(process) => process::by_hand(&self.name, process, verb, state),
            Kind::Systemd(systemd) => systemd::by_hand(systemd, verb),
            Kind::Command(commands) => command::by_hand(commands, verb),
        })
    }

    fn failed(&self, verb: &'static str, why: String) -> Error {
        Error::Failed { verb, service: self.name.clone(), why }
    }
}

impl Context<'_> {
    fn limits(&self) -> Limits<'_> {
        let mut limits = Limits::timeout(self.timeout);
        limits.cancel = Some(self.cancel);
        limits
    }
}

impl Identity {
    fn describe(&self) -> String {
        match self {
            Identity::Process(process) => format!("process {}", process.pid),
            Identity::Invocation { id, restarts } => format!("invocation {id} with {restarts} restarts"),
            Identity::Nameless => "not known".into(),
        }
    }
}

fn reason(status: &Status) -> String {
    match status {
        Status::Running { .. } => "it runs".into(),
        Status::Stopped => "it is stopped".into(),
        Status::Failed { why } | Status::Unknown { why } => why.clone(),
    }
}

/// How a command that failed ended, and what it said last.
fn how_it_ended(finished: &place::Finished, secrets: &Secrets) -> String {
    let said = [&finished.err, &finished.out].map(|output| tail(&output.text(), secrets));
    let said = said.into_iter().find(|text| !text.is_empty());
    format!("{}: {}", finished.end, said.unwrap_or_else(|| "it said nothing".into()))
}

/// The last lines of a text, without secrets.
fn tail(text: &str, secrets: &Secrets) -> String {
    const LINES: usize = 10;
    const CHARS: usize = 1500;
    let masked = secrets.mask(text.trim());
    let lines: Vec<&str> = masked.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
    let surplus = last.chars().count().saturating_sub(CHARS);
    last.chars().skip(surplus).collect()
}
