//! Numbers as people write and read them.

use std::time::Duration;

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

/// Writes a number of bytes as `512 B`, `1.2 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
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

/// Writes a count in groups of three digits: `12 345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Writes a count and what is counted: `1 file`, `2 files`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Writes a duration as `0.3 s`, `12 s`, `3:07`, `2:03:07`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
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

    #[test]
    fn numbers_are_written() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(bytes((1 << 30) - 1), "1.0 GiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!([count(1), count(999), count(1000), count(1_234_567)], ["1", "999", "1 000", "1 234 567"]);
        assert_eq!(duration(Duration::from_millis(340)), "0.3 s");
        assert_eq!(duration(Duration::from_secs(7387)), "2:03:07");
    }
}
