//! The error of every repository operation; a variant stands alone only where a caller branches on it.

use std::path::{Path, PathBuf};

use crate::format::LockFile;

/// The result of a repository operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a repository operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),

    /// There is nothing like a repository at the location.
    #[error("no repository at {location}")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },

    /// There is a repository where one was to be made.
    #[error("a repository already exists at {location}")]
    AlreadyExists {
        /// Where it lies.
        location: String,
    },

    /// Parts of a repository are there, but it cannot be opened.
    #[error("the repository at {location} is incomplete: {what}")]
    Incomplete {
        /// Where it lies.
        location: String,
        /// What is missing.
        what: String,
    },

    /// No key of the repository opens with the password.
    #[error("wrong password: it opens no key of {location}")]
    WrongPassword {
        /// Where the repository lies.
        location: String,
        /// How many keys were tried.
        keys: usize,
    },

    /// The repository has a format that this program does not know.
    #[error("the repository at {location} has format version {version}; this lifeboat knows version 2")]
    UnsupportedVersion {
        /// Where the repository lies.
        location: String,
        /// The version it states.
        version: u32,
    },

    /// A stored object is not what its name or its writer says.
    #[error("{object} is damaged: {why}")]
    Damaged {
        /// The object, such as `pack 0011…` or `snapshot 0011…`.
        object: String,
        /// What is wrong with it.
        why: String,
    },

    /// A blob that is needed is in no index.
    #[error("{what} is missing from the repository")]
    Missing {
        /// The blob or file.
        what: String,
    },

    /// A member of a backup was to be taken over from the snapshot before and cannot be.
    #[error("{} cannot be taken over from the snapshot before: {why}", path.display())]
    NotAsBefore {
        /// Its path in the snapshot.
        path: PathBuf,
        /// Why.
        why: String,
    },

    /// A sidecar object has other content than the one that was to be created under its name.
    #[error("{name} is in the repository already, with other content; such an object is never overwritten")]
    SidecarDiffers {
        /// Its name, without `lifeboat/`.
        name: String,
    },

    /// Somebody else holds a lock that excludes this operation.
    #[error("the repository at {location} is locked{}: {lock}", if *.exclusive { " exclusively" } else { "" })]
    Locked {
        /// Where the repository lies.
        location: String,
        /// The lock's id and what it says.
        lock: String,
        /// Whether the lock found is an exclusive one.
        exclusive: bool,
        /// What the lock file says, when it could be read.
        holder: Option<Box<LockFile>>,
    },

    /// This process's own lock could not be kept fresh, so that others may have removed it.
    #[error("the lock on the repository was lost: {why}")]
    LockLost {
        /// How it was lost.
        why: String,
    },

    /// No snapshot, or more than one, fits what was asked for.
    #[error("{0}")]
    NoSuchSnapshot(String),

    /// The operation was refused because it would lose data or make no sense.
    #[error("{0}")]
    Refused(String),

    /// A file of this machine could not be read or written.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },

    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn damaged(object: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Damaged { object: object.into(), why: why.to_string() }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// Whether the error speaks of one object only, so that work on other objects may go on.
    pub fn is_isolated(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Missing { .. } | Self::Io { .. } => true,
            Self::Store(error) => {
                // `Other` is what a bad sector gives: the objects beside it can mostly be read.
                use store::ErrorKind::{NotFound, Other, Truncated};
                matches!(error.kind, NotFound | Truncated | Other)
            }
            _ => false,
        }
    }
}
