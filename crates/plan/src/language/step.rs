//! Steps: the actions of a scenario, and what every one of them can say.

use std::path::PathBuf;
use std::time::Duration;

use crate::table::{choice, record, words};
use crate::{Given, Late, Name, Named, OneOrMore, Position, Selection, Template};

use super::{Ask, Remedy};

record! {
    /// One action of a scenario.
    pub struct Step "step" {
        /// Where it stands in the plan file.
        at: Position,
        /// What it does.
        action: Action,
        /// What a person calls it; without it, one is made of what it does.
        name: Option<String>,
        /// How long one attempt may take.
        timeout: Given<Duration> => Given::by_default(
            action.as_ref().map_or(Duration::ZERO, Action::timeout_by_default)
        ),
        /// How often it is tried again after it failed.
        retries: Given<u32> = Given::by_default(0),
        /// How long to wait before each retry.
        retry_delay: Given<Duration> = Given::by_default(Duration::from_secs(5)),
        /// What becomes of the run when the last attempt failed.
        on_failure: Given<OnFailure> = Given::by_default(OnFailure::Stop),
        /// Tells that the step's effect is already there, so that it need not be done.
        done_when: Option<Ask>,
        /// What a rollback does for this step.
        undo: OneOrMore<Step> = OneOrMore::default(),
        /// Whether it is done in drills only or in disasters only; without it, in both.
        only: Option<Only>,
        /// The place in which it takes effect; without it, wherever the scenario runs.
        place ["where"]: Option<Name>,
        /// Known symptoms when it fails, and what mends them.
        on_error: Vec<Remedy>,
    }
}

choice! {
    /// What a step does.
    pub enum Action "action" {
        /// Brings components back.
        Restore(RestoreStep) = ["restore"],
        /// Starts services.
        Start(StartStep) = ["start"],
        /// Stops services.
        Stop(StopStep) = ["stop"],
        /// Stops services and starts them again.
        Restart(RestartStep) = ["restart"],
        /// Starts services and all that they need, in stages.
        Boot(BootStep) = ["boot"],
        /// Runs a shell command.
        Run(RunStep) = ["run"],
        /// Waits until checks hold.
        Check(CheckStep) = ["check"],
        /// Sets a DNS record.
        Dns(DnsStep) = ["dns"],
        /// Waits for a person's yes.
        Approve(ApproveStep) = ["approve"],
        /// Tells people.
        Notify(NotifyStep) = ["notify"],
        /// Lets time pass.
        Wait(WaitStep) = ["wait"],
        /// Runs another scenario's steps.
        Recover(RecoverStep) = ["recover"],
        /// Runs steps together, or one after the other.
        Group(GroupStep) = ["group"],
        /// Attempts remedies until a check holds.
        Try(TryStep) = ["try"],
        /// Makes fresh recovery points.
        Backup(BackupStep) = ["backup"],
    }
    later {}
}

record! {
    /// Brings components back, all of them together.
    pub struct RestoreStep "restore step" {
        /// The components.
        restore: OneOrMore<Name>,
    }
}

record! {
    /// Starts services, in this order, each up to its gate.
    pub struct StartStep "start step" {
        /// The services.
        start: OneOrMore<Name>,
    }
}

record! {
    /// Stops services, in this order.
    pub struct StopStep "stop step" {
        /// The services.
        stop: OneOrMore<Name>,
    }
}

record! {
    /// Stops services and starts them again, each up to its gate.
    pub struct RestartStep "restart step" {
        /// The services.
        restart: OneOrMore<Name>,
    }
}

record! {
    /// Starts services and all that they need, stage by stage.
    pub struct BootStep "boot step" {
        /// The services, or `all`.
        boot: Selection,
    }
}

record! {
    /// Runs a shell command, which must be safe to run twice, or the step says `done_when`.
    pub struct RunStep "run step" {
        /// The command, for `/bin/sh`; a minijinja template over the plan's values.
        run: Template,
        /// The directory in which it runs, relative to the plan file; without it, the plan file's.
        dir: Option<PathBuf>,
        /// Variables of its environment, by name; the only way in for secrets.
        env: Named<Late>,
        /// The user as whom it runs; without it, whoever runs Lifeboat.
        user: Option<String>,
        /// What is run instead in a drill, where the command reaches for something that a twin does not have.
        stand_in: Option<Template>,
    }
}

record! {
    /// Waits until checks hold.
    pub struct CheckStep "check step" {
        /// The checks, all of which must hold.
        check: OneOrMore<Name>,
        /// How long they may take to hold.
        within: Given<Duration> = Given::by_default(Duration::from_secs(60)),
        /// How long to wait between two questions.
        every: Given<Duration> = Given::by_default(Duration::from_secs(1)),
    }
}

record! {
    /// Sets a DNS record.
    pub struct DnsStep "dns step" {
        /// The record.
        dns: DnsRecord,
        /// What is run instead in a drill.
        stand_in: Option<Template>,
    }
}

record! {
    /// A DNS record.
    pub struct DnsRecord "dns record" {
        /// Its full name.
        record: String,
        /// Its type.
        kind ["type"]: Given<RecordType> = Given::by_default(RecordType::A),
        /// Its value.
        value: Late,
        /// How long others may keep it, in seconds.
        ttl: Given<u32> = Given::by_default(300),
    }
}

words! {
    /// The type of a DNS record.
    pub enum RecordType "type of record" {
        /// An IPv4 address.
        A = "A",
        /// An IPv6 address.
        Aaaa = "AAAA",
        /// Another name.
        Cname = "CNAME",
        /// Text.
        Txt = "TXT",
    }
}

record! {
    /// Waits for a person's yes.
    pub struct ApproveStep "approve step" {
        /// What the person is asked to do or to confirm.
        approve: String,
        /// How long to wait; without it, as long as the step's timeout says.
        within: Option<Duration>,
    }
}

record! {
    /// Tells people.
    pub struct NotifyStep "notify step" {
        /// The message.
        notify: Message,
    }
}

record! {
    /// A message to people.
    pub struct Message "message" short "message" {
        /// What is said.
        message: Late,
        /// The ways to notify; without any, all.
        to: OneOrMore<Name> = OneOrMore::default(),
    }
}

record! {
    /// Lets time pass.
    pub struct WaitStep "wait step" {
        /// How much.
        wait: Duration,
    }
}

record! {
    /// Runs the steps of another scenario.
    pub struct RecoverStep "recover step" {
        /// The scenario.
        recover: Name,
    }
}

record! {
    /// Runs steps as one.
    pub struct GroupStep "group step" {
        /// The steps.
        group: Group,
    }
}

record! {
    /// Steps that belong together: either `parallel` or `sequence`, the other is empty.
    pub struct Group "group" short "sequence" {
        /// Run together.
        parallel: Vec<Step>,
        /// Run one after the other.
        sequence: Vec<Step>,
    }
}

record! {
    /// Attempts remedies until a check holds.
    pub struct TryStep "try step" {
        /// The check and the remedies.
        attempt ["try"]: Try,
    }
}

record! {
    /// The cheapest remedy first, the next only while the check still fails.
    pub struct Try "try" {
        /// Checks that must all hold; while they do, nothing (more) is attempted.
        until: OneOrMore<Name>,
        /// The remedies, cheapest first, each a list of steps.
        attempts: Vec<OneOrMore<Step>>,
        /// How long the check may take to hold after each attempt.
        within: Given<Duration> = Given::by_default(Duration::from_secs(30)),
        /// How long to wait between two questions.
        every: Given<Duration> = Given::by_default(Duration::from_secs(1)),
    }
}

record! {
    /// Makes fresh recovery points.
    pub struct BackupStep "backup step" {
        /// The components, or `all`.
        backup: Selection,
    }
}

words! {
    /// What becomes of the run when a step's last attempt failed.
    pub enum OnFailure "answer to a failure" {
        /// The run stops.
        Stop = "stop",
        /// The run goes on, and is at most not proven.
        Continue = "continue",
        /// A person decides.
        Ask = "ask",
    }
}

words! {
    /// In which runs a step is done.
    pub enum Only "kind of run" {
        /// In drills.
        Drill = "drill",
        /// In disasters.
        Disaster = "disaster",
    }
}

impl Action {
    /// Gives how long a step of this action may take if its plan does not say.
    pub fn timeout_by_default(&self) -> Duration {
        let minutes = match self {
            Action::Restore(_) | Action::Backup(_) => 6 * 60,
            Action::Boot(_) | Action::Group(_) | Action::Try(_) => 60,
            Action::Recover(_) | Action::Approve(_) => 24 * 60,
            Action::Start(_) | Action::Stop(_) | Action::Restart(_) | Action::Run(_) | Action::Check(_) => 10,
            Action::Dns(_) | Action::Notify(_) => 1,
            Action::Wait(WaitStep { wait }) => return wait.saturating_add(Duration::from_secs(60)),
        };
        Duration::from_secs(minutes * 60)
    }
}

impl Step {
    /// Gives the steps that its action holds: those of a group, and those of all attempts, in order.
    pub fn children(&self) -> Vec<&Step> {
        match &self.action {
            Action::Group(step) => step.group.steps().iter().collect(),
            Action::Try(step) => step.attempt.attempts.iter().flat_map(|steps| steps.iter()).collect(),
            _ => Vec::new(),
        }
    }

    /// Visits it and all steps within it: children, undos, and those of remedies.
    pub fn walk<'s>(&'s self, visit: &mut dyn FnMut(&'s Step)) {
        visit(self);
        let remedies = self.on_error.iter().flat_map(|remedy| &remedy.steps);
        for step in self.children().into_iter().chain(self.undo.iter()).chain(remedies) {
            step.walk(visit);
        }
    }
}

impl Group {
    /// Gives its steps, however they are run.
    pub fn steps(&self) -> &[Step] {
        if self.is_parallel() { &self.parallel } else { &self.sequence }
    }

    /// Tells whether its steps are run together.
    pub fn is_parallel(&self) -> bool {
        !self.parallel.is_empty()
    }
}
