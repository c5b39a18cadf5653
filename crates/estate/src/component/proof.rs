//! What a proof consists of: what was shown, what was not, and what is left to people.

use std::fmt;
use std::path::PathBuf;

use crate::facts::Value;
use serde::{Deserialize, Serialize};

/// What was shown about one restored component.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Proof {
    /// Every single thing that was looked at, in order.
    pub shown: Vec<Shown>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// What, such as `fact agents` or `integrity_check`.
    pub what: String,
    /// What it must be.
    pub expected: String,
    /// What it is; empty when it could not be evaluated.
    pub found: String,
    /// Whether they agree.
    pub holds: Holds,
}

/// Whether something holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// It was evaluated and holds.
    Yes,
    /// It was evaluated and does not hold.
    No,
    /// It could not be evaluated, for this reason.
    Unknown(String),
}

/// What a proof comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proven {
    /// Something was shown, and everything that was to be shown holds.
    Proven,
    /// Something does not hold.
    Failed,
    /// Nothing failed, but nothing was shown, or something could not be.
    NotProven,
}

impl Proof {
    /// Sums it up. An empty proof proves nothing.
    pub fn outcome(&self) -> Proven {
        if self.shown.iter().any(|shown| shown.holds == Holds::No) {
            Proven::Failed
        } else if self.shown.is_empty() || self.shown.iter().any(|shown| shown.holds != Holds::Yes) {
            Proven::NotProven
        } else {
            Proven::Proven
        }
    }

    /// Adds a comparison that could be made.
    pub(crate) fn compare(
        &mut self,
        what: impl Into<String>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) {
        let (expected, found) = (expected.to_string(), found.to_string());
        let holds = if expected == found { Holds::Yes } else { Holds::No };
        self.shown.push(Shown { what: what.into(), expected, found, holds });
    }

    /// Adds a comparison of two values: the same kind and the same value, to the last bit of a number.
    pub(crate) fn agree(&mut self, what: impl Into<String>, expected: &Value, found: &Value) {
        let same = match (expected, found) {
            (Value::Real(one), Value::Real(two)) => one.to_bits() == two.to_bits(),
            _ => expected == found,
        };
        let holds = if same { Holds::Yes } else { Holds::No };
        self.shown.push(Shown {
            what: what.into(),
            expected: expected.to_string(),
            found: found.to_string(),
            holds,
        });
    }

    /// Adds something that could not be evaluated.
    pub(crate) fn unknown(
        &mut self,
        what: impl Into<String>,
        expected: impl fmt::Display,
        why: impl fmt::Display,
    ) {
        self.shown.push(Shown {
            what: what.into(),
            expected: expected.to_string(),
            found: String::new(),
            holds: Holds::Unknown(why.to_string()),
        });
    }
}

/// Something that only a person can bring back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftToPeople {
    /// The file that it concerns.
    pub path: PathBuf,
    /// What to do, such as `fill in the values of /srv/app/.env`.
    pub what: String,
    /// The names whose values are missing.
    pub names: Vec<String>,
}
