//! How reports write durations, sizes, instants and words of the vocabulary; and text that cannot deceive.

use jiff::Timestamp;
use runbook::Outcome;

use super::{Met, Report, Stage, StepStatus};
use crate::resolve::Mode;

/// Writes a duration: `0.8 s`, `12 s`, `3 min 7 s`, `2 h 3 min`, `4 d 1 h`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        small => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match whole {
        0..60 => format!("{whole} s"),
        60..3_600 => pair(whole / 60, "min", whole % 60, "s"),
        3_600..86_400 => pair(whole / 3_600, "h", whole / 60 % 60, "min"),
        _ => pair(whole / 86_400, "d", whole / 3_600 % 24, "h"),
    }
}

/// Writes a size: `512 B`, `1.2 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let written = [0.04, 9.94, 9.96, 59.6, 187.0, 3_600.0, 7_387.0, 349_200.0, -1.0].map(duration);
        let expected =
            ["0.0 s", "9.9 s", "10 s", "1 min", "3 min 7 s", "1 h", "2 h 3 min", "4 d 1 h", "0.0 s"];
        assert_eq!(written, expected);
    }

    #[test]
    fn sizes() {
        assert_eq!([0, 1023, 1536, 1 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "1.0 GiB"]);
    }
}
