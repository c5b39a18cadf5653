//! Why an operation on an archive failed, or a restore cannot be had from it.

/// The result of an operation on an archive.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on an archive failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository or its store failed.
    #[error(transparent)]
    Repository(#[from] crate::Error),

    /// What is archived at this position is something else; nothing was written.
    #[error("failed to archive position {first:#x} of {lineage}: {object} has other content there: {why}")]
    Conflict {
        /// The lineage.
        lineage: String,
        /// The first position of what was to be archived.
        first: u64,
        /// The object that is there.
        object: String,
        /// In what the two differ.
        why: String,
    },

    /// What was to be archived does not follow what is; nothing was written.
    #[error(
        "failed to archive position {first:#x} of {lineage}: the archive ends at {end:#x}; archive what lies between, \
         or accept the gap and take a new base"
    )]
    Gap {
        /// The lineage.
        lineage: String,
        /// Where the archive ends.
        end: u64,
        /// The first position of what was to be archived.
        first: u64,
    },

    /// Another process does the same work on this lineage; whether the last write counts is not known.
    #[error("failed to write to {lineage}: another process has taken over; only one may, stop one of them")]
    Superseded {
        /// The lineage.
        lineage: String,
    },

    /// An object cannot be read or contradicts its name.
    #[error("{object} is damaged: {why}")]
    Damaged {
        /// The object.
        object: String,
        /// What is wrong.
        why: String,
    },

    /// An object was written under another name than it has now.
    #[error("{object} was written under another name, {written_as}")]
    WrongName {
        /// The object.
        object: String,
        /// The name under which it was sealed.
        written_as: String,
    },

    /// An object that was listed is gone, and nothing else holds what it held.
    #[error("{object} is missing")]
    Missing {
        /// The object.
        object: String,
    },

    /// It was refused because it would lose data or make no sense.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    pub(super) fn damaged(object: &str, why: impl std::fmt::Display) -> Self {
        Self::Damaged { object: object.to_owned(), why: why.to_string() }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Repository(error.into())
    }
}

/// Why a state cannot be restored from an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRestorable {
    /// The log is interrupted on the way.
    #[error("the log of {lineage} has a gap from {after:#x} to {before:#x}")]
    Gap {
        /// The lineage.
        lineage: String,
        /// Up to where it is whole.
        after: u64,
        /// From where on it goes on.
        before: u64,
    },
    /// The log ends before what was asked for.
    #[error("the log of {lineage} ends at {last:#x}{}", ends(*.last_ms))]
    BeyondEnd {
        /// The lineage.
        lineage: String,
        /// Where it ends.
        last: u64,
        /// The latest instant known in it, in milliseconds since 1970.
        last_ms: Option<u64>,
    },
    /// No base leads there: every one is of another lineage, or consistent only later.
    #[error("no base of {lineage} is consistent before what was asked for")]
    NoBase {
        /// The lineage.
        lineage: String,
    },
}

fn ends(last_ms: Option<u64>) -> String {
    let instant = last_ms.and_then(|ms| i64::try_from(ms).ok());
    match instant.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) {
        Some(instant) => format!(", {instant}"),
        None => String::new(),
    }
}
