//! Numbers as people read them: durations, sizes, counts. Reports, messages and the terminal write them alike.

use std::time::Duration;

/// Writes a duration: `0.8 s`, `12 s`, `3 min 7 s`, `2 h 3 min`, `4 d 1 h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
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

/// Writes a measured number of seconds as a duration; what is less than nothing is nothing.
pub fn seconds(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

/// Writes a number of bytes: `512 B`, `1.2 GiB`.
pub fn bytes(bytes: u64) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let written = [0.04, 9.94, 9.96, 59.6, 187.0, 3_600.0, 7_387.0, 349_200.0, -1.0].map(seconds);
        let expected =
            ["0.0 s", "9.9 s", "10 s", "1 min", "3 min 7 s", "1 h", "2 h 3 min", "4 d 1 h", "0.0 s"];
        assert_eq!(written, expected);
    }

    #[test]
    fn sizes() {
        let written = [0, 1023, 1536, 1 << 30, (1 << 30) - 1, u64::MAX].map(bytes);
        assert_eq!(written, ["0 B", "1023 B", "1.5 KiB", "1.0 GiB", "1.0 GiB", "16.0 EiB"]);
    }

    #[test]
    fn counts() {
        assert_eq!([1, 999, 1_000, 1_234_567].map(count), ["1", "999", "1 000", "1 234 567"]);
        assert_eq!([1, 2].map(|number| counted(number, "file", "files")), ["1 file", "2 files"]);
    }
}
