//! The plan file as a whole: where recovery points go, who is told, and what the other modules of the language hold.

use crate::table::{choice, record};
use crate::{Given, Late, Name, Named, Position, SecretLate, Version};
use std::time::Duration;

use super::{Check, Component, Drill, Scenario, Service};

record! {
    /// Everything that a plan file says, after its environment was laid over it and its defaults were filled in.
    pub struct Body "plan" {
        /// The version of the plan language; there is one: 1.
        lifeboat: Version,
        /// The name of the estate.
        name: Name,
        /// A sentence about the estate, for the printed runbook.
        description: Option<String>,
        /// Where recovery points are kept.
        repository: Repository = Repository::default(),
        /// Further repositories to which every recovery point is copied after its backup.
        copies: Vec<Copy>,
        /// What has state to protect, by name.
        components: Named<Component>,
        /// What runs, by name.
        services: Named<Service>,
        /// Questions about the world with an expected answer, by name.
        checks: Named<Check>,
        /// What to do in each kind of disaster, by name.
        scenarios: Named<Scenario>,
        /// Which scenarios are rehearsed, and how often.
        drills: Vec<Drill>,
        /// Where messages go, by name.
        notify: Named<Channel>,
        /// Who is called, and when.
        contacts: Vec<Contact>,
    }
}

record! {
    /// Where recovery points are kept.
    pub struct Repository "repository" {
        /// Where it stands in the plan file; the plan's beginning, if the plan does not speak of it.
        at: Position,
        /// A directory (relative to the plan file), or `s3://BUCKET/PREFIX`, or `s3:https://HOST/BUCKET/PREFIX`.
        location: Given<Late> = Given::by_default(Late::literal("./lifeboat-repository")),
        /// What opens it: `${file:/etc/lifeboat/password}` or `${env:NAME}`, never the password itself.
        password: Option<SecretLate>,
    }
}

impl Default for Repository {
    fn default() -> Self {
        let location = Given::by_default(Late::literal("./lifeboat-repository"));
        Self { at: crate::yaml::START, location, password: None }
    }
}

record! {
    /// A further repository to which every recovery point is copied. `lifeboat copy --init` makes it.
    pub struct Copy "copy" {
        /// Where it stands in the plan file.
        at: Position,
        /// A directory (relative to the plan file), or `s3://BUCKET/PREFIX`, or `s3:https://HOST/BUCKET/PREFIX`.
        location: Late,
        /// What opens it; without one, what opens the repository.
        password: Option<SecretLate>,
    }
}

record! {
    /// Where messages go.
    pub struct Channel "way to notify" {
        /// Where it stands in the plan file.
        at: Position,
        /// What it speaks to.
        kind: ChannelKind,
    }
}

choice! {
    /// What a message is handed to.
    pub enum ChannelKind "kind of notification" {
        /// A Slack webhook (or one that understands the same).
        Slack(SlackChannel) = ["slack"],
        /// A URL that takes a JSON object.
        Webhook(WebhookChannel) = ["webhook"],
        /// A command that reads the message on its standard input.
        Command(CommandChannel) = ["command"],
    }
    later {}
}

record! {
    /// A Slack webhook.
    pub struct SlackChannel "notification by slack" {
        /// The webhook's URL.
        slack: Late,
    }
}

record! {
    /// A URL that takes a JSON object.
    pub struct WebhookChannel "notification by webhook" {
        /// The URL, to which the message is posted.
        webhook: Late,
        /// Header fields to send along, by name.
        headers: Named<Late>,
    }
}

record! {
    /// A command that reads the message on its standard input.
    pub struct CommandChannel "notification by command" {
        /// The command.
        command: crate::CommandLine,
        /// Variables of its environment, by name.
        env: Named<Late>,
    }
}

record! {
    /// Somebody who is called.
    pub struct Contact "contact" {
        /// Who.
        name: String,
        /// How to reach them: a number, an address, a pager.
        reach: String,
        /// How long after the incident was opened they are called if it is still open.
        after: Given<Duration> = Given::by_default(Duration::ZERO),
    }
}
