//! Services: what runs, is started and stopped, and needs components and other services.

use std::path::PathBuf;
use std::time::Duration;

use crate::table::{choice, record};
use crate::{CommandLine, Given, Late, Name, Named, OneOrMore, Pattern, Position};

use super::{Ask, Step};

record! {
    /// Something that runs.
    pub struct Service "service" {
        /// Where it stands in the plan file.
        at: Position,
        /// What starts and stops it.
        kind: ServiceKind,
        /// A sentence about it, for the printed runbook.
        description: Option<String>,
        /// Components that must be there and services that must be ready before it starts.
        needs: OneOrMore<Name> = OneOrMore::default(),
        /// Its gate: what must hold before it counts as running.
        ready: Option<Gate>,
        /// How long starting it may take, without its gate.
        start_within: Given<Duration> = Given::by_default(Duration::from_secs(120)),
        /// How long stopping it may take.
        stop_within: Given<Duration> = Given::by_default(Duration::from_secs(60)),
        /// Known symptoms when it does not start, and what mends them.
        on_error: Vec<Remedy>,
    }
}

choice! {
    /// What starts and stops a service.
    pub enum ServiceKind "kind of service" {
        /// A command that Lifeboat starts and looks after.
        Process(ProcessService) = ["process"],
        /// A unit of systemd.
        Systemd(SystemdService) = ["systemd"],
        /// Commands that start it, stop it and tell whether it runs.
        Command(CommandService) = ["command"],
    }
    later { "compose", "docker", "podman", "kubernetes" }
}

record! {
    /// A service that is a process.
    pub struct ProcessService "process service" {
        /// The process.
        process: Process,
    }
}

record! {
    /// A command that Lifeboat starts and looks after.
    pub struct Process "process" short "command" {
        /// The command; it must stay in the foreground.
        command: CommandLine,
        /// The directory in which it runs, relative to the plan file; without it, the plan file's.
        dir: Option<PathBuf>,
        /// Variables of its environment, by name.
        env: Named<Late>,
        /// The user as whom it runs; without it, whoever runs Lifeboat.
        user: Option<String>,
        /// How long it may take to end when it was asked to, before it is killed.
        stop_grace: Given<Duration> = Given::by_default(Duration::from_secs(10)),
    }
}

record! {
    /// A service that is a unit of systemd.
    pub struct SystemdService "systemd service" {
        /// The unit's name; `.service` may be left out.
        systemd: String,
    }
}

record! {
    /// A service that is started and stopped by commands.
    pub struct CommandService "command service" {
        /// The commands.
        command: CommandServiceOptions,
    }
}

record! {
    /// Commands that start a service, stop it and tell whether it runs.
    pub struct CommandServiceOptions "commands of a service" {
        /// Starts it and ends with 0.
        start: CommandLine,
        /// Stops it and ends with 0, also when it does not run.
        stop: CommandLine,
        /// Ends with 0 if it runs.
        status: CommandLine,
        /// The directory in which they run, relative to the plan file; without it, the plan file's.
        dir: Option<PathBuf>,
        /// Variables of their environment, by name.
        env: Named<Late>,
        /// The user as whom they run; without it, whoever runs Lifeboat.
        user: Option<String>,
    }
}

record! {
    /// What must hold before a service counts as running: a named check, or a question asked here.
    ///
    /// Here, and only here, a question by http or command need not say what it expects: a status from 200 to 299, or
    /// the exit code 0.
    pub struct Gate "gate" short "check" {
        /// Where it stands in the plan file.
        at: Position,
        /// What is asked.
        ask: crate::Flat<Ask>,
        /// How long it may take to hold.
        within: Given<Duration> = Given::by_default(Duration::from_secs(60)),
        /// How long to wait between two questions.
        every: Given<Duration> = Given::by_default(Duration::from_secs(1)),
        /// How long it must then go on holding.
        hold: Given<Duration> = Given::by_default(Duration::from_secs(2)),
    }
}

record! {
    /// A known symptom and its known remedy.
    pub struct Remedy "on_error rule" {
        /// Where it stands in the plan file.
        at: Position,
        /// A regular expression over the output of what failed.
        pattern: Pattern,
        /// What mends it; afterwards what failed is tried again, once.
        steps: Vec<Step>,
        /// What is lost by it. A remedy that loses something asks for approval.
        loses: Option<String>,
    }
}
