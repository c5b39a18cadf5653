//! The error of every operation on a component; a variant stands alone only where a caller branches on it.

use std::io;
use std::path::{Path, PathBuf};

use crate::component::Holder;

/// The result of an operation on a component.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on a component failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that the plan declares is not there.
    #[error("{path} is missing: {hint}", path = .path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What to do about it.
        hint: String,
    },

    /// A file or directory could not be read, written or renamed.
    #[error("failed to {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// What is at the source cannot be a good backup: empty, damaged, not of its kind.
    #[error("{path} cannot be backed up: {why}", path = .path.display())]
    BadSource {
        /// What was to be captured.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },

    /// Another process keeps the source or the target to itself.
    #[error("{path} is in use by {holders}: {hint}", path = .path.display(), holders = Holder::list(.holders))]
    InUse {
        /// What is in use.
        path: PathBuf,
        /// By whom, as far as it can be seen.
        holders: Vec<Holder>,
        /// What to do about it.
        hint: String,
    },

    /// At the target is something that this component did not come from.
    #[error(
        "{path} holds something else: expected {expected}, found {found}; \
         move it away, or restore to another path", path = .path.display()
    )]
    OtherIdentity {
        /// The target.
        path: PathBuf,
        /// What the recovery point was made of.
        expected: String,
        /// What is there.
        found: String,
    },

    /// The target cannot take what is to be restored, whatever it holds.
    #[error("cannot restore to {path}: {why}", path = .path.display())]
    BadTarget {
        /// The target.
        path: PathBuf,
        /// What stands in the way and what to do.
        why: String,
    },

    /// The log of a live source cannot be followed further without a gap: a new lineage and a new base are needed.
    #[error("the log of {path} is interrupted: {why}", path = .path.display())]
    Broken {
        /// Whose log.
        path: PathBuf,
        /// What happened to it.
        why: String,
    },

    /// A declared query, export or fact could not be evaluated.
    #[error("failed to evaluate {what}: {why}")]
    Query {
        /// Which one, such as `fact agents`.
        what: String,
        /// Why, and what to do.
        why: String,
    },

    /// A database server could not be reached, or refused or failed to do something.
    #[error("failed to {action} at the server {server}: {why}")]
    Server {
        /// What was to be done, as a verb.
        action: &'static str,
        /// Which one: its socket or its host and port.
        server: String,
        /// What it said, and what to do.
        why: String,
    },

    /// A command of the component failed.
    #[error("the command of {what} failed: {why}")]
    Command {
        /// What it was to do, such as `the dump`.
        what: String,
        /// Its exit and the end of what it said.
        why: String,
    },

    /// A swap met a state that none of its moves can have left.
    #[error("cannot swap {path}: {why}", path = .path.display())]
    Swap {
        /// What is in the way.
        path: PathBuf,
        /// What happened and what to do.
        why: String,
    },

    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Wraps a failure of the operating system with what was tried.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
