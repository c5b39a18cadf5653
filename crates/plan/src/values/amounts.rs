//! Amounts: durations, bytes, shares, free space.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::decode::{Decode, Reader};
use crate::schema::Schemas;
use crate::yaml::Node;

/// Longest duration that a plan can name. More is a mistake, and sums of durations must not overflow.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Units of durations in milliseconds, longest first.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Parses a duration: whole numbers with units, such as `15m`, `1h30m`, `30d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (number, unit_millis) = match (number.parse::<u64>(), known, unit) {
            (Ok(number), Some((_, millis)), _) => (number, millis),
            (Ok(_), None, "") => return Err("it has no unit; the units are ms, s, m, h, d, w".to_owned()),
            (Ok(_), None, unit) => {
                return Err(format!("`{unit}` is no unit; the units are ms, s, m, h, d, w"));
            }
            (Err(_), ..) => return Err("it is not a whole number with a unit".to_owned()),
        };
        millis = number
            .checked_mul(*unit_millis)
            .and_then(|part| millis.checked_add(part))
            .filter(|millis| Duration::from_millis(*millis) <= DURATION_MAX)
            .ok_or("it is longer than a hundred years")?;
        rest = after;
    }
    match text {
        "" => Err("it is empty".to_owned()),
        _ => Ok(Duration::from_millis(millis)),
    }
}

/// Writes a duration as plans do: `1h30m`. What is below a millisecond is left off.
pub fn show_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    // Weeks are read, not written: `30d` would become `4w2d`.
    for (unit, unit_millis) in &UNITS[1..] {
        if millis >= *unit_millis {
            text.push_str(&format!("{}{unit}", millis / unit_millis));
            millis %= unit_millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

impl Decode for Duration {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a duration", "90s, 15m, 4h or 30d", parse_duration)
    }

    fn encode(&self) -> Option<Json> {
        Some(show_duration(*self).into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w))+$" })
    }
}

/// A number of bytes: `512`, `10KB`, `4 MiB`, `1.5GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Decode for Bytes {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a number of bytes", "512, 10KB or 4GiB", parse_bytes)
    }

    fn encode(&self) -> Option<Json> {
        Some(self.0.into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": ["string", "integer"], "pattern": BYTES, "minimum": 0 })
    }
}

/// What sizes look like, for the schema.
const BYTES: &str = "^[0-9]+(\\.[0-9]+)? ?([kKMGTP]i?)?B?$";

fn parse_bytes(text: &str) -> Result<Bytes, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let factor = bytes_of(unit)
        .ok_or_else(|| format!("`{unit}` is no unit; the units are KB, MB, GB, TB, KiB, MiB, …"))?;
    let bytes = match number.split_once('.') {
        None => number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)),
        Some((whole, fraction)) if !whole.is_empty() && !fraction.is_empty() && factor > 1 => {
            let number = number.parse::<f64>().ok();
            // 2^53: above it, a fraction would be made up.
            number
                .map(|number| number * factor as f64)
                .filter(|bytes| *bytes < 9e15)
                .map(|bytes| bytes as u64)
        }
        Some(_) => None,
    };
    bytes.map(Bytes).ok_or_else(|| "it is no number that fits".to_owned())
}

fn bytes_of(unit: &str) -> Option<u64> {
    let unit = unit.strip_suffix('B').unwrap_or(unit);
    let (prefix, base) = match unit.strip_suffix('i') {
        Some("") => return None,
        Some(prefix) => (prefix, 1024_u64),
        None => (unit, 1000),
    };
    let power = match prefix {
        "" => 0,
        "k" | "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        _ => return None,
    };
    Some(base.pow(power))
}

/// A whole number of percent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// Makes a share; everything above 100 is 100.
    pub const fn new(percent: u8) -> Self {
        Self(if percent > 100 { 100 } else { percent })
    }

    /// Gives the percents, 0 to 100.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Gives the share, 0.0 to 1.0.
    pub fn share(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

fn parse_percent(text: &str) -> Result<Percent, String> {
    let number = text.strip_suffix('%').ok_or("it does not end with %")?;
    let percent = number.trim_end().parse::<u8>().ok().filter(|percent| *percent <= 100);
    percent.map(Percent).ok_or_else(|| "it is not a whole number from 0 to 100".to_owned())
}

impl Decode for Percent {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a share", "30%", parse_percent)
    }

    fn encode(&self) -> Option<Json> {
        Some(format!("{}%", self.0).into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "string", "pattern": "^[0-9]+ ?%$" })
    }
}

/// Free space: bytes, or a share of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Free {
    /// So many bytes.
    Bytes(Bytes),
    /// Such a share.
    Percent(Percent),
}

impl Decode for Free {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a number of bytes or a share", "10GB or 5%", |text| match text.ends_with('%') {
            true => parse_percent(text).map(Self::Percent),
            false => parse_bytes(text).map(Self::Bytes),
        })
    }

    fn encode(&self) -> Option<Json> {
        match self {
            Self::Bytes(bytes) => bytes.encode(),
            Self::Percent(percent) => percent.encode(),
        }
    }

    fn schema(schemas: &mut Schemas) -> Json {
        json!({ "anyOf": [Bytes::schema(schemas), Percent::schema(schemas)] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        let cases = [
            ("90s", 90_000, "1m30s"),
            ("15m", 900_000, "15m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("30d", 2_592_000_000, "30d"),
            ("2w", 1_209_600_000, "14d"),
            ("0m", 0, "0s"),
            ("250ms", 250, "250ms"),
        ];
        for (text, millis, written) in cases {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(show_duration(duration), written);
        }
        for text in
            ["", "15", "m", "1.5h", "-1h", "15 minutes", "1y", "99999999999999999999d", "101000d", "1h "]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        let cases = [
            ("512", 512),
            ("0", 0),
            ("10KB", 10_000),
            ("10 kB", 10_000),
            ("4MiB", 4 << 20),
            ("1.5GB", 1_500_000_000),
            ("2G", 2_000_000_000),
            ("1TiB", 1 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "B", "KB", "-1", "1.GB", ".5GB", "1XB", "1iB", "99999999PB", "1.2.3MB", "1e3", "7.5"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_read() {
        assert_eq!(parse_percent("30%"), Ok(Percent(30)));
        assert_eq!(parse_percent("100 %"), Ok(Percent(100)));
        for text in ["30", "101%", "-1%", "%", "1.5%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }
}
