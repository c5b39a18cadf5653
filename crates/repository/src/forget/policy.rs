//! Which snapshots a policy keeps, and why: arithmetic on dates, without a repository.
//!
//! The rules are those of restic 0.14, to the letter, so that the two never disagree about what to throw away.
//! (Since 0.16 restic also keeps the oldest snapshot while a rule is not used up.) Where a
//! day or an hour begins depends on the time zone, which the caller names; restic takes the offset that a
//! snapshot was written with.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::SnapshotEntry;

/// What to keep; every rule adds to what the others keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeepPolicy {
    /// The newest snapshots.
    pub last: Count,
    /// The newest snapshot of an hour, for the newest hours that have one.
    pub hourly: Count,
    /// The same for days.
    pub daily: Count,
    /// The same for weeks, which begin on Monday.
    pub weekly: Count,
    /// The same for months.
    pub monthly: Count,
    /// The same for years.
    pub yearly: Count,
    /// Everything made within this age of the newest snapshot.
    pub within: Option<Age>,
    /// The newest of every hour within this age.
    pub within_hourly: Option<Age>,
    /// The same for days.
    pub within_daily: Option<Age>,
    /// The same for weeks.
    pub within_weekly: Option<Age>,
    /// The same for months.
    pub within_monthly: Option<Age>,
    /// The same for years.
    pub within_yearly: Option<Age>,
    /// Everything that has all tags of one of these lists.
    pub tags: Vec<Vec<String>>,
}

/// How many of something to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Count {
    /// At most this many.
    Only(u32),
    /// As many as there are.
    All,
    /// None: the rule is not there.
    #[default]
    None,
}

impl FromStr for Count {
    type Err = String;

    /// Reads a number, or `unlimited`; 0 is no rule.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" | "-1" => Ok(Self::All),
            "0" => Ok(Self::None),
            _ => text
                .parse()
                .map(Self::Only)
                .map_err(|_| format!("{text:?} is neither a number nor `unlimited`")),
        }
    }
}

/// An age such as `1y5m7d2h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Age {
    /// Years.
    pub years: u16,
    /// Months.
    pub months: u16,
    /// Days.
    pub days: u16,
    /// Hours.
    pub hours: u16,
}

impl FromStr for Age {
    type Err = String;

    /// Reads numbers each followed by `y`, `m` (month), `d` or `h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no age such as 1y5m7d2h");
        let mut age = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u16 = rest[..digits].parse().map_err(|_| wrong())?;
            let field = match rest.as_bytes()[digits] {
                b'y' => &mut age.years,
                b'm' => &mut age.months,
                b'd' => &mut age.days,
                b'h' => &mut age.hours,
                _ => return Err(wrong()),
            };
            *field = field.checked_add(number).ok_or_else(wrong)?;
            rest = &rest[digits + 1..];
        }
        if age == Self::default() { Err(wrong()) } else { Ok(age) }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')] {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Age {
    /// The instant this long before `latest`.
    ///
    /// A day that a month does not have runs over into the next month, as in Go: a month before 31 March is
    /// 3 March (2 March in a leap year).
    fn before(self, latest: Timestamp, zone: &TimeZone) -> Timestamp {
        let local = zone.to_datetime(latest);
        let months = i64::from(local.year()) * 12 + i64::from(local.month())
            - 1
            - i64::from(self.years) * 12
            - i64::from(self.months);
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
        let first =
            i16::try_from(year).ok().and_then(|year| jiff::civil::Date::new(year, month as i8, 1).ok());
        let day = i64::from(local.day()) - 1 - i64::from(self.days);
        let date = first.and_then(|first| first.checked_add(day.days()).ok());
        let instant = date.and_then(|date| zone.to_timestamp(date.to_datetime(local.time())).ok());
        let hours = SignedDuration::from_hours(i64::from(self.hours));
        instant.and_then(|instant| instant.checked_sub(hours).ok()).unwrap_or(Timestamp::MIN)
    }
}

/// Into what time is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// Every snapshot stands alone.
    Last,
    /// Hours.
    Hourly,
    /// Days.
    Daily,
    /// Weeks from Monday on.
    Weekly,
    /// Months.
    Monthly,
    /// Years.
    Yearly,
}

impl Period {
    /// A number that all instants of one period share; `position` tells apart what stands alone.
    fn of(self, time: Timestamp, zone: &TimeZone, position: usize) -> i64 {
        let local = zone.to_datetime(time);
        let (year, month, day) = (i64::from(local.year()), i64::from(local.month()), i64::from(local.day()));
        match self {
            Self::Last => position as i64,
            Self::Hourly => ((year * 100 + month) * 100 + day) * 100 + i64::from(local.hour()),
            Self::Daily => (year * 100 + month) * 100 + day,
            Self::Weekly => {
                let week = local.date().iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Self::Monthly => year * 100 + month,
            Self::Yearly => year,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        })
    }
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is the newest of a period that counts.
    Newest(Period),
    /// It was made within this age of the newest.
    Within(Age),
    /// It is the newest of a period within this age.
    NewestWithin(Period, Age),
    /// It has these tags.
    Tags(Vec<String>),
    /// It is dated in the future, and the caller said to leave such snapshots alone.
    InFuture,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest(period) => write!(f, "{period} snapshot"),
            Self::Within(age) => write!(f, "within {age}"),
            Self::NewestWithin(period, age) => write!(f, "{period} within {age}"),
            Self::Tags(tags) => write!(f, "has tags {}", tags.join(", ")),
            Self::InFuture => f.write_str("dated in the future"),
        }
    }
}

impl KeepPolicy {
    /// Whether it has no rule, so that it would keep nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Tells for each snapshot, given newest first, why it is kept; no reason means that it is not.
    pub fn apply(&self, newest_first: &[&SnapshotEntry], zone: &TimeZone) -> Vec<Vec<Reason>> {
        let dated = |entry: &&SnapshotEntry| (entry.time().to_timestamp(), entry.snapshot.tags.clone());
        self.apply_to(&newest_first.iter().map(dated).collect::<Vec<_>>(), zone)
    }

    /// The same for anything that has an instant and tags.
    pub fn apply_to(&self, newest_first: &[(Timestamp, Vec<String>)], zone: &TimeZone) -> Vec<Vec<Reason>> {
        let latest = newest_first.first().map_or(Timestamp::MIN, |(time, _)| *time);
        let mut counts = self.counts().map(|(period, count)| (period, count, None));
        let ages = self.ages().map(|(period, age)| (period, age, age.map(|age| age.before(latest, zone))));
        let mut newest_within = [None; 5];
        let mut all_reasons = Vec::with_capacity(newest_first.len());
        for (position, (time, own_tags)) in newest_first.iter().enumerate() {
            let time = *time;
            let mut reasons = Vec::new();
            for tags in &self.tags {
                if has_all(own_tags, tags) {
                    reasons.push(Reason::Tags(tags.clone()));
                }
            }
            if self.within.is_some_and(|age| time > age.before(latest, zone)) {
                reasons.extend(self.within.map(Reason::Within));
            }
            for (period, count, newest) in &mut counts {
                if *count == Count::None || *count == Count::Only(0) {
                    continue;
                }
                let number = period.of(time, zone, position);
                if *newest != Some(number) {
                    *newest = Some(number);
                    reasons.push(Reason::Newest(*period));
                    if let Count::Only(left) = count {
                        *left -= 1;
                    }
                }
            }
            for ((period, age, since), newest) in ages.iter().zip(&mut newest_within) {
                let (Some(age), Some(since)) = (age, since) else { continue };
                let number = period.of(time, zone, position);
                if time > *since && *newest != Some(number) {
                    *newest = Some(number);
                    reasons.push(Reason::NewestWithin(*period, *age));
                }
            }
            all_reasons.push(reasons);
        }
        all_reasons
    }

    fn counts(&self) -> [(Period, Count); 6] {
        [
            (Period::Last, self.last),
            (Period::Hourly, self.hourly),
            (Period::Daily, self.daily),
            (Period::Weekly, self.weekly),
            (Period::Monthly, self.monthly),
            (Period::Yearly, self.yearly),
        ]
    }

    fn ages(&self) -> [(Period, Option<Age>); 5] {
        [
            (Period::Hourly, self.within_hourly),
            (Period::Daily, self.within_daily),
            (Period::Weekly, self.within_weekly),
            (Period::Monthly, self.within_monthly),
            (Period::Yearly, self.within_yearly),
        ]
    }
}

/// An empty tag in `wanted` fits a snapshot that has none.
fn has_all(tags: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|tag| tags.contains(tag) || tag.is_empty() && tags.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_ages() {
        let age: Age = "1y5m7d2h".parse().unwrap();
        assert_eq!(age, Age { years: 1, months: 5, days: 7, hours: 2 });
        assert_eq!(age.to_string(), "1y5m7d2h");
        for wrong in ["", "5", "y", "1w", "-1d", "1d5", "99999d", "0d"] {
            assert!(wrong.parse::<Age>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_back_as_go_does() {
        let before = |age: &str, latest: &str| {
            let age: Age = age.parse().unwrap();
            age.before(latest.parse().unwrap(), &TimeZone::UTC).to_string()
        };
        assert_eq!(before("1m", "2023-03-31T12:00:00Z"), "2023-03-03T12:00:00Z");
        assert_eq!(before("1y", "2024-02-29T00:00:00Z"), "2023-03-01T00:00:00Z");
        assert_eq!(before("1m1d2h", "2023-01-01T01:00:00Z"), "2022-11-29T23:00:00Z");
        assert_eq!(before("60000y", "2023-01-01T01:00:00Z"), Timestamp::MIN.to_string());
    }
}
