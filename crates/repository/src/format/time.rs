//! Instants as the format writes them: RFC 3339 in UTC, nanoseconds without trailing zeros.
//!
//! Hand-written because it runs three times for every node of every tree. Years outside 0..=9999 have no
//! RFC 3339 form; like restic, the writer moves the year to the nearest one that has and keeps the rest.

use std::fmt;

use jiff::Timestamp;

/// An instant: seconds since 1970 and nanoseconds within the second (0..1 000 000 000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Bytes of the longest written form, `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ`.
const WRITTEN_BYTES_MAX: usize = 30;

const SECONDS_PER_DAY: i64 = 86_400;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

impl Time {
    /// Takes the two numbers that `statx` and `clock_gettime` give.
    pub fn new(seconds: i64, nanos: u32) -> Self {
        let carry = i64::from(nanos / NANOS_PER_SECOND);
        Self { seconds: seconds.saturating_add(carry), nanos: nanos % NANOS_PER_SECOND }
    }

    /// Reads RFC 3339 with any offset and up to nine digits of a fraction; `None` when it is anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (fixed, rest) = text.split_first_chunk::<19>()?;
        let separators = [fixed[4], fixed[7], fixed[10], fixed[13], fixed[16]];
        if separators != *b"--T::" {
            return None;
        }
        let year = two_digits(fixed, 0)? * 100 + two_digits(fixed, 2)?;
        let (month, day) = (two_digits(fixed, 5)?, two_digits(fixed, 8)?);
        let (hour, minute, second) = (two_digits(fixed, 11)?, two_digits(fixed, 14)?, two_digits(fixed, 17)?);
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return None;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (nanos, rest) = parse_fraction(rest)?;
        let local = days_from_civil(i64::from(year), month, day) * SECONDS_PER_DAY
            + i64::from(hour * 3600 + minute * 60 + second);
        Some(Self { seconds: local - parse_offset(rest)?, nanos })
    }

    /// Appends the RFC 3339 form to `out`.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let mut buffer = [0; WRITTEN_BYTES_MAX];
        let length = self.encode(&mut buffer);
        out.extend_from_slice(&buffer[..length]);
    }

    fn encode(self, out: &mut [u8; WRITTEN_BYTES_MAX]) -> usize {
        let (year, month, day) = civil_from_days(self.seconds.div_euclid(SECONDS_PER_DAY));
        let (year, month, day) = clamp_year(year, month, day);
        let of_day = u32::try_from(self.seconds.rem_euclid(SECONDS_PER_DAY))
            .expect("a remainder is below its divisor");
        out[..20].copy_from_slice(b"0000-00-00T00:00:00Z");
        put_two(out, 0, year / 100);
        put_two(out, 2, year % 100);
        put_two(out, 5, month);
        put_two(out, 8, day);
        put_two(out, 11, of_day / 3600);
        put_two(out, 14, of_day / 60 % 60);
        put_two(out, 17, of_day % 60);
        if self.nanos == 0 {
            return 20;
        }
        out[19] = b'.';
        let mut rest = self.nanos.min(NANOS_PER_SECOND - 1);
        for place in (20..29).rev() {
            out[place] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let mut end = 29;
        while out[end - 1] == b'0' {
            end -= 1;
        }
        out[end] = b'Z';
        end + 1
    }

    /// Converts for arithmetic and display; what `jiff` cannot hold becomes the nearest instant that it can.
    pub fn to_timestamp(self) -> Timestamp {
        let nanos = i32::try_from(self.nanos.min(NANOS_PER_SECOND - 1)).expect("a billion fits 31 bits");
        Timestamp::new(self.seconds, nanos).unwrap_or(match self.seconds {
            ..0 => Timestamp::MIN,
            0.. => Timestamp::MAX,
        })
    }
}

impl From<Timestamp> for Time {
    fn from(instant: Timestamp) -> Self {
        // jiff counts both parts towards the sign: half a second before 1970 is (0, -500 000 000).
        let (seconds, nanos) = (instant.as_second(), instant.subsec_nanosecond());
        match u32::try_from(nanos) {
            Ok(nanos) => Self { seconds, nanos },
            Err(_) => Self { seconds: seconds - 1, nanos: NANOS_PER_SECOND - nanos.unsigned_abs() },
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; WRITTEN_BYTES_MAX];
        let length = self.encode(&mut buffer);
        f.pad(std::str::from_utf8(&buffer[..length]).expect("digits and separators are ASCII"))
    }
}

impl serde::Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Time;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Time, E> {
                Time::parse(text.as_bytes())
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

fn two_digits(text: &[u8; 19], at: usize) -> Option<u32> {
    let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

fn put_two(out: &mut [u8; WRITTEN_BYTES_MAX], at: usize, value: u32) {
    out[at] = b'0' + (value / 10) as u8;
    out[at + 1] = b'0' + (value % 10) as u8;
}

/// Reads `.nnn` where there is one; gives the nanoseconds and what follows.
fn parse_fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some((b'.', rest)) = text.split_first() else { return Some((0, text)) };
    let digits = rest.iter().take_while(|digit| digit.is_ascii_digit()).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let (fraction, rest) = rest.split_at(digits);
    let value = fraction.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    let missing = u32::try_from(9 - digits).ok()?;
    Some((value * 10_u32.pow(missing), rest))
}

/// Reads `Z` or `±hh:mm`, which must be all that is left; gives the seconds that local time is ahead of UTC.
fn parse_offset(text: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match *text {
        [b'Z'] => return Some(0),
        [b'+', h1, h2, b':', m1, m2] => (1, [h1, h2], [m1, m2]),
        [b'-', h1, h2, b':', m1, m2] => (-1, [h1, h2], [m1, m2]),
        _ => return None,
    };
    let number = |digits: [u8; 2]| {
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| i64::from(digits[0] - b'0') * 10 + i64::from(digits[1] - b'0'))
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours <= 24 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

// The two conversions count in eras of 400 years that begin on 1 March, so that the leap day is the last of a
// year and the months' lengths follow one linear formula.
const DAYS_PER_ERA: i64 = 146_097;
const DAYS_FROM_ERA_0_TO_1970: i64 = 719_468;

fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - DAYS_FROM_ERA_0_TO_1970
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    // Dividing seconds by those of a day left so much room that this cannot overflow.
    let days = days + DAYS_FROM_ERA_0_TO_1970;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = u32::try_from(days.rem_euclid(DAYS_PER_ERA)).expect("a remainder is below its divisor");
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + i64::from(year_of_era) + i64::from(month <= 2);
    (year, month, day)
}

/// Moves the year into 0..=9999; 29 February of a year without one becomes 1 March, as in restic.
fn clamp_year(year: i64, month: u32, day: u32) -> (u32, u32, u32) {
    let clamped = u32::try_from(year.clamp(0, 9999)).expect("it was just clamped");
    if day > days_in_month(clamped, month) { (clamped, 3, 1) } else { (clamped, month, day) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<Time> {
        Time::parse(text.as_bytes())
    }

    #[test]
    fn writes_without_trailing_zeros() {
        let written = |seconds, nanos| Time { seconds, nanos }.to_string();
        assert_eq!(written(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(written(951_782_399, 120_000_000), "2000-02-28T23:59:59.12Z");
        assert_eq!(written(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(written(-1, 999_999_999), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(written(-62_135_596_800, 0), "0001-01-01T00:00:00Z");
        assert_eq!(written(-62_167_219_200, 0), "0000-01-01T00:00:00Z");
        assert_eq!(written(253_402_300_799, 0), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn a_year_that_cannot_be_written_is_moved() {
        let written = |seconds| Time { seconds, nanos: 5 }.to_string();
        assert_eq!(written(253_402_300_800), "9999-01-01T00:00:00.000000005Z");
        assert_eq!(written(-62_167_219_201), "0000-12-31T23:59:59.000000005Z");
        // 29 February 10000 has no counterpart in 9999.
        assert_eq!(written(253_402_300_800 + 59 * 86_400), "9999-03-01T00:00:00.000000005Z");
        for seconds in [i64::MIN, i64::MAX] {
            let time = Time { seconds, nanos: u32::MAX };
            assert!(parse(&time.to_string()).is_some(), "{time}");
        }
    }

    #[test]
    fn reads_offsets_and_fractions() {
        assert_eq!(parse("1970-01-01T02:00:00.5+02:00"), Some(Time { seconds: 0, nanos: 500_000_000 }));
        assert_eq!(parse("1969-12-31T18:30:00-05:30"), Some(Time { seconds: 0, nanos: 0 }));
        assert_eq!(parse("0000-01-01T00:00:00+01:00").map(|time| time.seconds), Some(-62_167_219_200 - 3600));
    }

    #[test]
    fn rejects_what_is_no_time() {
        for text in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-00-01T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:60Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.1234567890Z",
            "1970-01-01T00:00:00+1:00",
            "1970-01-01T00:00:00+01:60",
            "1970-01-01T00:00:00Zx",
            "197x-01-01T00:00:00Z",
            "1970-01-01T00:00:00é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn moves_to_jiff_and_back() {
        let before = Time { seconds: -1, nanos: 500_000_000 };
        assert_eq!(before.to_timestamp().as_nanosecond(), -500_000_000);
        assert_eq!(Time::from(before.to_timestamp()), before);
        assert_eq!(Time { seconds: i64::MAX, nanos: 0 }.to_timestamp(), Timestamp::MAX);
        assert_eq!(Time { seconds: i64::MIN, nanos: 0 }.to_timestamp(), Timestamp::MIN);
        assert_eq!(Time::new(1, 2_000_000_001), Time { seconds: 3, nanos: 1 });
    }

    #[test]
    fn goes_through_json() {
        let time = Time { seconds: 1, nanos: 20 };
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, "\"1970-01-01T00:00:01.00000002Z\"");
        assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), time);
        assert!(serde_json::from_str::<Time>("\"yesterday\"").is_err());
    }

    proptest! {
        #[test]
        fn every_time_reads_back(seconds in -62_167_219_200_i64..=253_402_300_799, nanos in 0_u32..1_000_000_000) {
            let time = Time { seconds, nanos };
            prop_assert_eq!(parse(&time.to_string()), Some(time));
        }

        /// An independent calendar agrees.
        #[test]
        fn agrees_with_jiff(seconds in -62_167_219_200_i64..=253_402_200_000) {
            let text = Timestamp::from_second(seconds).unwrap().to_string();
            prop_assert_eq!(Time { seconds, nanos: 0 }.to_string(), text);
        }

        #[test]
        fn never_panics_on_any_text(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Time::parse(&text);
        }
    }
}
