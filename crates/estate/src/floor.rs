//! The floor: what a backup must at least look like to be believed, compared with the one before it.
//!
//! A backup that is empty, that has lost a table, or that has shrunk beyond the tolerance is *implausible*:
//! it is kept, and it does not count until somebody accepts it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::component::PointFacts;
use crate::facts::Value;

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
/// `accept` is a person's word that the loss is meant; the reasons stay in the answer, to be recorded. A
/// point of another kind is not compared with.
pub fn judge(
    current: &PointFacts,
    previous: Option<&PointFacts>,
    tolerance: &Tolerance,
    accept: bool,
) -> Plausibility {
    let mut reasons = Vec::new();
    if current.bytes.is_none_or(|bytes| bytes == 0) {
        reasons.push(Reason::Empty);
    }
    if let Some(previous) = previous.filter(|previous| previous.kind == current.kind) {
        reasons.extend(compared(current, previous, tolerance));
    }
    match (reasons.is_empty(), accept) {
        (true, _) => Plausibility::Plausible,
        (false, true) => Plausibility::Accepted(reasons),
        (false, false) => Plausibility::Implausible(reasons),
    }
}

fn compared(current: &PointFacts, previous: &PointFacts, tolerance: &Tolerance) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let fell = |from: f64, to: f64| from > 0.0 && to < from * (1.0 - tolerance.loss);
    for (name, before) in &previous.facts.automatic {
        match (numeric(before), current.facts.automatic.get(name)) {
            // A table that was dropped is as sudden a loss as its rows. What is not a number may come and go.
            (Some(_), None) if !is_about_size(name) => reasons.push(Reason::Gone { fact: name.clone() }),
            (Some(from), Some(now)) if !is_about_size(name) => {
                reasons.extend(numeric(now).filter(|&to| fell(from, to)).map(|to| dropped(name, from, to)));
            }
            _ => {}
        }
    }
    for (name, before) in &previous.facts.declared {
        // A fact that was taken out of the plan is nobody's loss; one that still is in it has been evaluated.
        match (numeric(before), current.facts.declared.get(name)) {
            (Some(from), Some(Value::Null)) => reasons.push(dropped(name, from, 0.0)),
            (Some(from), Some(now)) => {
                reasons.extend(numeric(now).filter(|&to| fell(from, to)).map(|to| dropped(name, from, to)));
            }
            _ => {}
        }
    }
    if let (Some(from), Some(to)) = (previous.bytes, current.bytes)
        && from >= tolerance.bytes_min
        && fell(from as f64, to as f64)
    {
        reasons.push(Reason::Shrunk { from, to });
    }
    reasons
}

fn dropped(name: &str, from: f64, to: f64) -> Reason {
    Reason::Dropped { fact: name.to_owned(), from, to }
}

/// Counts of what there is; how it is stored may change, and sizes are judged by themselves.
fn is_about_size(fact: &str) -> bool {
    matches!(
        fact,
        "pages"
            | "page size"
            | "user_version"
            | "application_id"
            | "foreign key violations"
            | "bytes"
            | "links and special files"
            | "directories"
    )
}

fn numeric(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Real(number) => Some(*number),
        Value::Null | Value::Text(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(bytes: u64, facts: &[(&str, i64)]) -> PointFacts {
        let mut point = PointFacts::example("sqlite");
        point.bytes = Some(bytes);
        for (name, number) in facts {
            let value = Value::Integer(*number);
            let map =
                if name.starts_with("rows") { &mut point.facts.automatic } else { &mut point.facts.declared };
            map.insert((*name).to_owned(), value);
        }
        point
    }

    fn judged(current: &PointFacts, previous: Option<&PointFacts>) -> Plausibility {
        judge(current, previous, &Tolerance::default(), false)
    }

    #[test]
    fn what_is_empty_is_implausible_from_the_start() {
        assert_eq!(judged(&point(0, &[]), None), Plausibility::Implausible(vec![Reason::Empty]));
        let mut unknown = point(1, &[]);
        unknown.bytes = None;
        assert!(!judged(&unknown, None).counts());
        assert_eq!(judged(&point(1, &[]), None), Plausibility::Plausible);
    }

    #[test]
    fn half_may_go_and_more_may_not() {
        let before = point(1 << 20, &[("agents", 100), ("rows in events", 1000)]);
        assert_eq!(
            judged(&point(1 << 20, &[("agents", 50), ("rows in events", 500)]), Some(&before)),
            Plausibility::Plausible
        );
        let reasons = vec![
            Reason::Dropped { fact: "rows in events".to_owned(), from: 1000.0, to: 499.0 },
            Reason::Dropped { fact: "agents".to_owned(), from: 100.0, to: 49.0 },
        ];
        let now = point(1 << 20, &[("agents", 49), ("rows in events", 499)]);
        assert_eq!(judged(&now, Some(&before)), Plausibility::Implausible(reasons.clone()));
        let strict = Tolerance { loss: 0.1, ..Tolerance::default() };
        let now = point(1 << 20, &[("agents", 89), ("rows in events", 1000)]);
        assert!(!judge(&now, Some(&before), &strict, false).counts());
        let accepted = judge(
            &point(1 << 20, &[("agents", 49), ("rows in events", 499)]),
            Some(&before),
            &Tolerance::default(),
            true,
        );
        assert_eq!(accepted, Plausibility::Accepted(reasons));
        assert!(accepted.counts());
    }

    #[test]
    fn a_table_or_the_bulk_that_is_gone_is_implausible() {
        let before = point(1 << 20, &[("rows in events", 0), ("retired", 5)]);
        let now = point(1 << 20, &[]);
        let gone = Reason::Gone { fact: "rows in events".to_owned() };
        assert_eq!(judged(&now, Some(&before)), Plausibility::Implausible(vec![gone]));
        let shrunk = Reason::Shrunk { from: 1 << 20, to: 1 << 10 };
        let before = point(1 << 20, &[]);
        assert_eq!(judged(&point(1 << 10, &[]), Some(&before)), Plausibility::Implausible(vec![shrunk]));
        // Small files halve for good reasons.
        assert!(judged(&point(10, &[]), Some(&point(1000, &[]))).counts());
    }

    #[test]
    fn another_kind_is_no_measure() {
        let mut before = point(1 << 20, &[("agents", 100)]);
        before.kind = "command".to_owned();
        assert!(judged(&point(10, &[("agents", 1)]), Some(&before)).counts());
    }
}
