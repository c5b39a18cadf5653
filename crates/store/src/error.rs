//! The one error of all stores: what was tried, on which object, where, why, and its kind.

use std::fmt;

/// The result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store answered that the object is not there.
    NotFound,
    /// `create` found an object of that name.
    AlreadyExists,
    /// The store refuses this to these credentials; a retry will not help.
    Denied,
    /// No space or quota left.
    Full,
    /// The object ends before the range that was asked for.
    Truncated,
    /// The store could not be reached or was overloaded; a retry may help.
    Unavailable,
    /// Anything else; a retry will not help.
    Other,
}

/// A failed store operation.
///
/// Displays as `failed to OPERATION KEY in LOCATION: REASON`.
#[derive(Debug)]
pub struct Error {
    /// What callers branch on.
    pub kind: ErrorKind,
    /// What was tried, as a verb: `read`, `write`, `list`, `delete`.
    pub operation: &'static str,
    /// The object, or the prefix of a listing.
    pub key: String,
    /// The store's [`location`](crate::Store::location).
    pub location: String,
    /// Why it failed.
    pub reason: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, key, location, reason, .. } = self;
        if key.is_empty() {
            write!(f, "failed to {operation} {location}: {reason}")
        } else {
            write!(f, "failed to {operation} {key} in {location}: {reason}")
        }
    }
}

impl std::error::Error for Error {
    // `reason` is part of the message already; as `source` it would be printed twice.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

impl Error {
    /// Builds an error; `key` is empty where the operation concerns the store as a whole.
    pub fn new(
        kind: ErrorKind,
        operation: &'static str,
        key: &str,
        location: String,
        reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, key: key.to_owned(), location, reason: reason.into() }
    }

    /// Whether a repetition may succeed.
    pub fn is_transient(&self) -> bool {
        self.kind == ErrorKind::Unavailable
    }
}
