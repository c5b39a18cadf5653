//! How often: words, durations, cron expressions, continuously.

use std::time::Duration;

/// How often something is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Every {
    /// Again and again, so long after the last time: `30m`, and the words `hourly`, `daily`, `weekly`.
    Interval(Duration),
    /// At the times of a cron expression, in the local time zone.
    Cron(Cron),
    /// All the time: the log is shipped as it grows.
    Continuous,
}

impl Every {
    /// Makes an interval of days.
    pub const fn days(days: u64) -> Self {
        Self::Interval(Duration::from_secs(days * 24 * 3600))
    }
}

/// A cron expression of five fields: minute, hour, day of the month, month, day of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    pub(crate) text: String,
    /// Bit n is minute n, and so on; Sunday is 0.
    pub(crate) minutes: u64,
    pub(crate) hours: u64,
    pub(crate) days: u64,
    pub(crate) months: u64,
    pub(crate) weekdays: u64,
    /// Whether the days of the month and of the week are both restricted, so that one of them is enough.
    pub(crate) either_day: bool,
}

impl Cron {
    /// Gives the expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Tells whether a minute is one of its times; `day` and `month` count from 1, `weekday` from Sunday at 0.
    pub fn matches(&self, minute: u8, hour: u8, day: u8, month: u8, weekday: u8) -> bool {
        let has = |set: u64, number: u8| number < 64 && set & (1 << number) != 0;
        let (of_month, of_week) = (has(self.days, day), has(self.weekdays, weekday));
        let on_day = if self.either_day { of_month || of_week } else { of_month && of_week };
        has(self.minutes, minute) && has(self.hours, hour) && has(self.months, month) && on_day
    }
}
