//! The one error of all places: what was tried, where, why, and what to do.

use std::io;
use std::path::PathBuf;

/// The result of an operation in a place.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation in a place.
///
/// No message holds the arguments, the environment or the input of a command: they may be secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command was not started: no such program, no such directory, not allowed.
    #[error("failed to start {command} in {place}: {reason}")]
    Spawn {
        /// The command's [label](crate::Command::label).
        command: String,
        /// The place's name.
        place: String,
        /// Why.
        reason: io::Error,
    },
    /// A command that ran could not be watched or ended.
    #[error("failed to {what} of {command} in {place}: {reason}")]
    Watch {
        /// A verb and its object.
        what: &'static str,
        /// The command's label.
        command: String,
        /// The place's name.
        place: String,
        /// Why.
        reason: io::Error,
    },
    /// A file that the operation needs.
    #[error("failed to {what} {} in {place}: {reason}", path.display())]
    File {
        /// A verb.
        what: &'static str,
        /// The file, as the place sees it.
        path: PathBuf,
        /// The place's name.
        place: String,
        /// Why.
        reason: io::Error,
    },
    /// A process could not be looked at or signalled.
    #[error("failed to {what} process {pid}: {reason}")]
    Process {
        /// A verb.
        what: &'static str,
        /// The process, as this host numbers it.
        pid: i32,
        /// Why.
        reason: io::Error,
    },
    /// Nobody answered there, or nobody of that name is known.
    #[error("failed to connect to {address} in {place}: {reason}")]
    Connect {
        /// `HOST:PORT` as it was given.
        address: String,
        /// The place's name.
        place: String,
        /// Why.
        reason: io::Error,
    },
    /// The twin was destroyed, or its first process died.
    #[error("failed to use {place}: it is gone; make another")]
    Gone {
        /// The place's name.
        place: String,
    },
    /// A thread could not move into the twin's namespaces.
    #[error("failed to enter {place}: {reason}")]
    Enter {
        /// The place's name.
        place: String,
        /// Why.
        reason: io::Error,
    },
    /// The twin could not be made; nothing of it is left.
    #[error("failed to make a twin: {what}: {reason}")]
    Make {
        /// The step that failed, with the path that it concerns.
        what: String,
        /// Why.
        reason: io::Error,
    },
    /// This system does not let an ordinary user make a twin.
    #[error(
        "failed to make a twin as an ordinary user: {forbidden_by}; {remedy}, or run the drill as root; \
         `verify --restore` needs no twin"
    )]
    UserNamespaces {
        /// The setting that forbids it, as far as it can be told.
        forbidden_by: String,
        /// How whoever owns the machine allows it.
        remedy: String,
    },
    /// Only a process with one thread can enter a user namespace; the caller did it too late.
    #[error("failed to enter a user namespace: the process has {threads} threads already")]
    TooLate {
        /// How many threads there are.
        threads: usize,
    },
}
