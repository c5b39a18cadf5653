//! How reports write instants and words of the vocabulary; and text that cannot deceive.

use jiff::Timestamp;
use runbook::Outcome;

use super::{Met, Report, Stage, StepStatus};
use crate::resolve::Mode;
pub(crate) use crate::units::{bytes, seconds as duration};

/// Writes an instant, in UTC to the second.
pub(crate) fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The beginning of a snapshot's id, as restic and people use it.
pub(crate) fn short(snapshot: &str) -> &str {
    snapshot.get(..8).unwrap_or(snapshot)
}

/// The word for an outcome.
pub(crate) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Verified => "verified",
        Outcome::NotProven => "not proven",
        Outcome::CouldNotRun => "could not run",
        Outcome::Failed => "failed",
        Outcome::Interrupted => "interrupted",
    }
}

/// The word for how a run ended, or that it has not.
pub(crate) fn ending(report: &Report) -> &'static str {
    report.outcome.map_or("not at its end", outcome)
}

/// What became of a run after its end, if something did.
pub(crate) fn afterwards(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Open | Stage::Ended => None,
        Stage::RollingBack => Some("it is being rolled back"),
        Stage::Stuck => Some("its rollback is stuck"),
        Stage::RolledBack => Some("it was rolled back"),
        Stage::Committed => Some("it was committed: what was there before is gone"),
    }
}

/// The word for where a step is.
pub(crate) fn status(status: StepStatus) -> &'static str {
    match status {
        StepStatus::NotReached => "not reached",
        StepStatus::Open => "not ended",
        StepStatus::Done => "done",
        StepStatus::AlreadyThere => "already there",
        StepStatus::NotProven => "not proven",
        StepStatus::Failed => "failed",
        StepStatus::FailedTolerated => "failed, went on",
        StepStatus::Skipped => "skipped",
        StepStatus::NotNeeded => "not needed",
    }
}

/// What is said of an objective.
pub(crate) fn met(met: Met) -> &'static str {
    match met {
        Met::Met => "met",
        Met::Missed => "missed",
        Met::NotShown => "not shown",
        Met::NoObjective => "no objective",
    }
}

/// What a run is called in a sentence.
pub(crate) fn kind(report: &Report) -> String {
    match (report.kind.as_str(), report.mode) {
        ("drill", _) | (_, Mode::Drill) => "Drill".to_owned(),
        ("recover", _) => "Recovery".to_owned(),
        ("restore", _) => "Restore".to_owned(),
        ("backup", _) => "Backup".to_owned(),
        ("verify", _) => "Verification".to_owned(),
        (other, _) => other.to_owned(),
    }
}

/// Text without characters that would move a reader's eye elsewhere: control characters but the newline, and those
/// that turn the direction of writing, become the replacement character.
pub(crate) fn plain(text: &str) -> String {
    let deceives = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    text.chars().map(|c| if deceives(c) { '\u{fffd}' } else { c }).collect()
}

/// The heading above how old what came back was.
pub(super) fn how_old(report: &Report) -> &'static str {
    if report.disaster.is_some() { "before the disaster" } else { "age" }
}
