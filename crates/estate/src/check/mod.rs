//! Checks: questions about the world with an expected answer.
//!
//! A [`Question`] is plain data. [`Check::new`] refuses one that expects nothing or cannot be understood, and
//! [`Check::ask`] asks it once, in a [`Place`]; waiting and asking again is the runbook's business.
//!
//! What each kind answers when things are not as they should be:
//!
//! | kind | fails | unknown | fatal |
//! |---|---|---|---|
//! | http | refused, reset, silent, no HTTP, wrong answer, certificate not trusted, answered by another service | no such name, no route, body too long, CA file unreadable | – |
//! | tcp | refused, reset, silent, wrong banner | no such name, no route | – |
//! | command | exit code or output are wrong, ended by a signal | not over in time, output too long | no such program, not executable |
//! | sql | wrong value, no such file, no such table, no database, damaged | locked, unreadable, not over in time | no SQL, more than one statement, a statement that writes |
//! | file | absent, too small, wrong content, too old | unreadable, too large to search, dated in the future | – |
//! | port | nothing (or something else) listens | `/proc` unreadable, owner not visible | – |
//! | disk | less is free | no such path | – |
//!
//! A time-out of the network is an answer: who is silent does not serve. A time-out of a command or a query is
//! none: it might have been about to say the right thing.
//!
//! *Invariant: what could not be evaluated is [`Answer::Unknown`], never [`Answer::Holds`].*
//!
//! *Invariant: no answer holds a secret.* Every text goes through [`crate::secrets::Secrets::mask`] on its way out
//! of [`Check::ask`], and values of header fields are in no text in the first place.

mod answer;
mod by_hand;
mod command;
mod disk;
mod file;
mod http;
mod network;
mod port;
mod question;
mod sql;
mod tcp;
mod text;

pub use answer::{Answer, AskContext};
pub use file::CONTENT_BYTES_MAX;
pub use http::BODY_BYTES_MAX;
pub use question::{
    Command, Database, Disk, File, FileExpect, Http, HttpExpect, Port, PortExpect, Properties, Question, Sql,
    SqlExpect, Status, Tcp, TcpExpect, Trust,
};
pub use text::TextMatch;

use std::time::Duration;

use place::Place;
use thiserror::Error;

use crate::secrets::Secrets;
use answer::Deadline;

/// A question that can be asked: understood, and with an expectation.
#[derive(Debug)]
pub struct Check(Kind);

#[derive(Debug)]
enum Kind {
    Http(Box<http::HttpCheck>),
    Tcp(tcp::TcpCheck),
    Command(command::CommandCheck),
    Sql(sql::SqlCheck),
    File(file::FileCheck),
    Port(port::PortCheck),
    Disk(disk::DiskCheck),
}

impl Check {
    /// Makes a check of a question, without asking it.
    ///
    /// Refuses a question that expects nothing, because it would hold whatever is the case, and expressions and
    /// addresses that cannot be understood.
    pub fn new(question: Question) -> Result<Check, Invalid> {
        Ok(Check(match question {
            Question::Http(http) => Kind::Http(Box::new(http::HttpCheck::new(http)?)),
            Question::Tcp(tcp) => Kind::Tcp(tcp::TcpCheck::new(tcp)?),
            Question::Command(command) => Kind::Command(command::CommandCheck::new(command)?),
            Question::Sql(sql) => Kind::Sql(sql::SqlCheck::new(sql)?),
            Question::File(file) => Kind::File(file::FileCheck::new(file)?),
            Question::Port(port) => Kind::Port(port::PortCheck::new(port)?),
            Question::Disk(disk) => Kind::Disk(disk::DiskCheck::new(disk)?),
        }))
    }

    /// Asks once, in the place, within the context's time.
    ///
    /// Changes nothing, a command's own effects aside. Returns at most a moment after the time is over or the
    /// flag is set. Never fails: what went wrong is in the answer.
    pub fn ask(&self, place: &Place, context: &AskContext<'_>) -> Answer {
        let asking = Asking { place, context, deadline: Deadline::of(context) };
        let answer = match &self.0 {
            Kind::Http(http) => http.ask(&asking),
            Kind::Tcp(tcp) => tcp.ask(&asking),
            Kind::Command(command) => command.ask(&asking),
            Kind::Sql(sql) => sql.ask(&asking),
            Kind::File(file) => file.ask(&asking),
            Kind::Port(port) => port.ask(&asking),
            Kind::Disk(disk) => disk.ask(&asking),
        };
        answer.map_texts(|text| text::presentable(context.secrets, text))
    }

    /// Says what is asked and what is expected, in one line, without values of header fields.
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Http(http) => http.describe(),
            Kind::Tcp(tcp) => tcp.describe(),
            Kind::Command(command) => command.describe(),
            Kind::Sql(sql) => sql.describe(),
            Kind::File(file) => file.describe(),
            Kind::Port(port) => port.describe(),
            Kind::Disk(disk) => disk.describe(),
        }
    }

    /// Gives the command that a person would type to ask the same, for the printed runbook.
    ///
    /// Where the value of a header field or of a variable belongs, an ellipsis stands.
    pub fn by_hand(&self, secrets: &Secrets) -> String {
        secrets.mask(&by_hand::of(&self.0))
    }
}

/// Everything that one asking needs.
struct Asking<'a> {
    place: &'a Place,
    context: &'a AskContext<'a>,
    deadline: Deadline<'a>,
}

impl<'a> Asking<'a> {
    /// The time that is left as limits of a command.
    fn limits(&self) -> place::Limits<'a> {
        let mut limits = place::Limits::timeout(self.deadline.left().unwrap_or_default());
        limits.grace = COMMAND_GRACE;
        limits.cancel = Some(self.context.cancel);
        limits
    }
}

/// What a command that is out of time gets to end by itself; it is a question, not a service.
const COMMAND_GRACE: Duration = Duration::from_millis(500);

/// Why a question cannot be asked. Shows no value of a header field.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// Whatever is the case, the check would hold.
    #[error("the check of {what} expects nothing, so it would always hold: state {example}")]
    NoExpectation {
        /// What is asked.
        what: String,
        /// What could be stated.
        example: &'static str,
    },
    /// A text to look for that is in every text.
    #[error("the text to look for is empty, so it would always be found: state what must be there")]
    EmptyText,
    /// A regular expression that matches every text.
    #[error(
        "the regular expression /{pattern}/ matches even nothing, so it would always match: make it stricter"
    )]
    RegexOfAnything {
        /// The expression.
        pattern: String,
    },
    /// A regular expression that cannot be understood.
    #[error("cannot understand the regular expression /{pattern}/: {why}")]
    Regex {
        /// The expression.
        pattern: String,
        /// What the parser says.
        why: String,
    },
    /// A JMESPath expression that cannot be understood.
    #[error("cannot understand the JMESPath expression `{expression}`: {why}")]
    Json {
        /// The expression.
        expression: String,
        /// What the parser says.
        why: String,
    },
    /// A URL that cannot be asked.
    #[error("cannot ask the URL {url}: {why}")]
    Url {
        /// The URL, without what may be secret in it.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A method, header field, status or digest that cannot be.
    #[error("cannot use {what}: {why}")]
    Value {
        /// Which one.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
}
