//! Numbers as people write them on a command line, and instants as they read them; how numbers are shown is the engine's.

use std::time::Duration;

pub use engine::units::{bytes, count, counted, duration};

/// Reads a size such as `512`, `10k`, `1.5G`; suffixes are powers of 1024, with or without `iB` or `B`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches("ib").trim_end_matches('b');
    let (number, shift) = match digits.char_indices().last() {
        Some((end, 'k')) => (&digits[..end], 10),
        Some((end, 'm')) => (&digits[..end], 20),
        Some((end, 'g')) => (&digits[..end], 30),
        Some((end, 't')) => (&digits[..end], 40),
        _ => (digits, 0),
    };
    let number: f64 = number.trim().parse().map_err(|_| format!("{text:?} is no size such as 500M or 2G"))?;
    let bytes = number * f64::from(1 << (shift % 30)) * if shift >= 30 { f64::from(1 << 30) } else { 1.0 };
    if !(0.0..9e18).contains(&bytes) {
        return Err(format!("{text:?} is no size such as 500M or 2G"));
    }
    Ok(bytes as u64)
}

/// Reads a duration such as `90s`, `10m`, `1h 30m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is no duration such as 90s, 10m or 1h30m"))?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is less than nothing"))
}

/// Writes an instant in the local time zone: `2026-01-31 12:00:00`.
pub fn local_time(time: repository::format::Time) -> String {
    let zoned = time.to_timestamp().to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("0", 0),
            ("512", 512),
            ("10k", 10 << 10),
            ("1.5G", 3 << 29),
            ("2TiB", 2 << 40),
            ("7 MB", 7 << 20),
        ] {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "k", "-1", "1x", "inf", "nan", "99999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        for text in ["", "5", "-5s", "soon"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
