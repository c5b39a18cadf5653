//! The error of every use case: what could not be done, and whether it could be tried at all.

use std::io;
use std::path::{Path, PathBuf};

/// The result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a use case could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan file is wrong.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// The plan has no such thing.
    #[error(transparent)]
    Unknown(#[from] plan::Unknown),
    /// A value from outside the plan is not to be had.
    #[error(transparent)]
    Late(#[from] plan::LateError),
    /// The repository could not be read or written.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// A log archive could not be read or written.
    #[error(transparent)]
    Log(#[from] repository::log::Error),
    /// A component's driver failed.
    #[error("{component}: {source}")]
    Component {
        /// Which component.
        component: String,
        /// What its driver says.
        source: estate::Error,
    },
    /// A place could not be made or entered.
    #[error(transparent)]
    Place(#[from] place::Error),
    /// A run could not begin or go on.
    #[error(transparent)]
    Run(#[from] runbook::Error),
    /// A run's journal could not be read or written.
    #[error(transparent)]
    Journal(#[from] runbook::journal::JournalError),
    /// It was not even tried, for this reason.
    #[error("{message}")]
    Refused {
        /// What is the matter.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// It was tried and failed, for this reason.
    #[error("{0}")]
    Failed(String),
    /// A file of Lifeboat's own could not be read or written.
    #[error("failed to {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A record in the repository or the state directory is not what was written there.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Which record.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// It is not tried, because of `message`; `hint` says what to do.
    pub fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), hint: hint.into() }
    }

    /// Wraps a failure of the operating system with what was tried.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Wraps what a component's driver says.
    pub(crate) fn component(name: &str) -> impl FnOnce(estate::Error) -> Self {
        move |source| Self::Component { component: name.to_owned(), source }
    }

    /// Wraps a record that cannot be understood.
    pub(crate) fn damaged(what: &str, why: impl std::fmt::Display) -> Self {
        Self::Damaged { what: what.to_owned(), why: why.to_string() }
    }
}
