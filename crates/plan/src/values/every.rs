//! How often: words, durations, cron expressions, continuously.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::amounts::{parse_duration, show_duration};
use crate::decode::{Decode, Reader};
use crate::schema::Schemas;
use crate::yaml::Node;

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

/// The words for intervals, and their hours.
const WORDS: [(&str, u64); 3] = [("hourly", 1), ("daily", 24), ("weekly", 7 * 24)];

impl Every {
    /// Makes an interval of days.
    pub const fn days(days: u64) -> Self {
        Self::Interval(Duration::from_secs(days * 24 * 3600))
    }

    /// Gives the interval, if it is one.
    pub fn interval(&self) -> Option<Duration> {
        match self {
            Self::Interval(interval) => Some(*interval),
            Self::Cron(_) | Self::Continuous => None,
        }
    }

    /// Gives a time that at least passes between some two times of it; the longest one, where no day is left out.
    pub fn longest_gap(&self) -> Duration {
        match self {
            Self::Interval(interval) => *interval,
            Self::Cron(cron) => cron.longest_gap_of_a_day(),
            Self::Continuous => Duration::ZERO,
        }
    }
}

impl std::fmt::Display for Every {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interval(interval) => formatter.write_str(&show_duration(*interval)),
            Self::Cron(cron) => formatter.write_str(&cron.text),
            Self::Continuous => formatter.write_str("continuous"),
        }
    }
}

fn parse_every(text: &str) -> Result<Every, String> {
    if let Some((_, hours)) = WORDS.iter().find(|(word, _)| *word == text) {
        return Ok(Every::Interval(Duration::from_secs(hours * 3600)));
    }
    if text == "continuous" {
        return Ok(Every::Continuous);
    }
    if text.split_ascii_whitespace().count() > 1 {
        return Cron::parse(text).map(Every::Cron);
    }
    match parse_duration(text)? {
        Duration::ZERO => Err("nothing can be done all the time; did you mean `continuous`?".to_owned()),
        interval => Ok(Every::Interval(interval)),
    }
}

impl Decode for Every {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let example = "30m, hourly, daily, weekly, \"0 2 * * *\" or continuous";
        reader.parsed(node, "a schedule", example, parse_every)
    }

    fn encode(&self) -> Option<Json> {
        Some(self.to_string().into())
    }

    fn schema(schemas: &mut Schemas) -> Json {
        json!({ "anyOf": [
            { "enum": ["hourly", "daily", "weekly", "continuous"] },
            Duration::schema(schemas),
            { "type": "string", "pattern": "^\\S+( +\\S+){4}$" },
        ] })
    }
}

/// A cron expression of five fields: minute, hour, day of the month, month, day of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    /// Bit n is minute n, and so on; Sunday is 0.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the days of the month and of the week are both restricted, so that one of them is enough.
    either_day: bool,
}

/// One field of a cron expression: its name, its least and greatest number, and names for numbers.
struct CronField {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const CRON_FIELDS: [CronField; 5] = [
    CronField { name: "minute", least: 0, most: 59, names: &[] },
    CronField { name: "hour", least: 0, most: 23, names: &[] },
    CronField { name: "day of the month", least: 1, most: 31, names: &[] },
    CronField {
        name: "month",
        least: 1,
        most: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    // 7 is Sunday too.
    CronField {
        name: "day of the week",
        least: 0,
        most: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

impl Cron {
    /// Parses an expression as cron does: lists, ranges, steps, names of months and days.
    ///
    /// Says which field is wrong. An expression that never comes, such as the 31st of February, is refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let Ok(fields) = <[&str; 5]>::try_from(fields.as_slice()) else {
            let count = fields.len();
            return Err(format!(
                "a cron expression has five fields (minute, hour, day, month, weekday), and this has {count}"
            ));
        };
        let mut sets = [0; 5];
        for ((set, field), text) in sets.iter_mut().zip(&CRON_FIELDS).zip(fields) {
            *set = field.set(text).ok_or_else(|| {
                format!("`{text}` is no {} ({} to {})", field.name, field.least, field.most)
            })?;
        }
        let [minutes, hours, days, months, weekdays] = sets;
        let weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let either_day = !fields[2].starts_with('*') && !fields[4].starts_with('*');
        let cron = Self { text: fields.join(" "), minutes, hours, days, months, weekdays, either_day };
        if !cron.comes() {
            return Err("that day never comes".to_owned());
        }
        Ok(cron)
    }

    /// Gives the expression as it was written, with single spaces.
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

    /// Gives the longest time between two of its times if it came every day.
    fn longest_gap_of_a_day(&self) -> Duration {
        const MINUTES: u64 = 24 * 60;
        let has =
            |minute: &u64| self.hours & (1 << (minute / 60)) != 0 && self.minutes & (1 << (minute % 60)) != 0;
        let times: Vec<u64> = (0..MINUTES).filter(has).collect();
        let next = times.iter().skip(1).copied().chain(times.first().map(|first| first + MINUTES));
        let longest = times.iter().zip(next).map(|(time, next)| next - time).max();
        Duration::from_secs(longest.unwrap_or_default() * 60)
    }

    /// Tells whether any of its months has any of its days.
    fn comes(&self) -> bool {
        const LENGTHS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let first_day = self.days.trailing_zeros();
        self.either_day
            || (1..=12_u32)
                .zip(LENGTHS)
                .any(|(month, length)| self.months & (1 << month) != 0 && first_day <= length)
    }
}

impl CronField {
    fn set(&self, text: &str) -> Option<u64> {
        text.split(',').try_fold(0, |set, part| Some(set | self.part(part)?))
    }

    /// One part of a list: `*`, a number, a range, each with a step perhaps.
    fn part(&self, text: &str) -> Option<u64> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
            None => (text, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.number(first)?, self.number(last)?),
            None => {
                let first = self.number(range)?;
                (first, if step.is_some() { self.most } else { first })
            }
        };
        if first > last {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        Some((first..=last).step_by(step).fold(0, |set, number| set | 1 << number))
    }

    fn number(&self, text: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|index| u32::try_from(index).ok()).map(|index| index + self.least);
        let digits = !text.is_empty() && text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        named.or(number).filter(|number| (self.least..=self.most).contains(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_and_written() {
        let cases = [
            ("30m", "30m"),
            ("hourly", "1h"),
            ("daily", "1d"),
            ("weekly", "7d"),
            ("continuous", "continuous"),
            ("0 2 * * *", "0 2 * * *"),
            ("*/15  8-18 * * mon-fri", "*/15 8-18 * * mon-fri"),
        ];
        for (text, written) in cases {
            assert_eq!(parse_every(text).map(|every| every.to_string()), Ok(written.to_owned()), "{text}");
        }
        for text in
            ["", "0s", "dayly", "0 2 * *", "60 * * * *", "0 2 31 2 *", "5-1 * * * *", "*/0 * * * *", "@daily"]
        {
            assert!(parse_every(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_time_between_two() {
        let minutes = |text| parse_every(text).expect(text).longest_gap().as_secs() / 60;
        let cases = [
            ("30m", 30),
            ("continuous", 0),
            ("0 2 * * *", 24 * 60),
            ("0 2 * * 0", 24 * 60),
            ("*/15 * * * *", 15),
            ("0,40 * * * *", 40),
            ("0 8-18 * * *", 14 * 60),
        ];
        for (text, gap) in cases {
            assert_eq!(minutes(text), gap, "{text}");
        }
    }

    #[test]
    fn a_cron_expression_means_what_cron_means_by_it() {
        let matches = |text: &str, minute, hour, day, month, weekday| {
            Cron::parse(text).expect(text).matches(minute, hour, day, month, weekday)
        };
        assert!(matches("0 2 * * *", 0, 2, 17, 5, 3));
        assert!(!matches("0 2 * * *", 1, 2, 17, 5, 3));
        assert!(matches("*/15 * * * *", 45, 2, 17, 5, 3));
        assert!(!matches("*/15 * * * *", 46, 2, 17, 5, 3));
        assert!(matches("0 3 * * 0", 0, 3, 17, 5, 0) && matches("0 3 * * 7", 0, 3, 17, 5, 0));
        assert!(matches("0 3 * * sun", 0, 3, 17, 5, 0) && !matches("0 3 * * sun", 0, 3, 17, 5, 1));
        // Both days restricted: either is enough; one of them: it alone.
        assert!(matches("0 0 13 * fri", 0, 0, 13, 5, 2) && matches("0 0 13 * fri", 0, 0, 14, 5, 5));
        assert!(!matches("0 0 13 * *", 0, 0, 14, 5, 5) && !matches("0 0 * * fri", 0, 0, 13, 5, 2));
        assert!(matches("0 0 1 jan,jul *", 0, 0, 1, 7, 2) && !matches("0 0 1 jan,jul *", 0, 0, 1, 6, 2));
        assert!(matches("10/20 * * * *", 50, 0, 1, 1, 1) && !matches("10/20 * * * *", 0, 0, 1, 1, 1));
    }
}
