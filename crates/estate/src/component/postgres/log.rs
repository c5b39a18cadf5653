//! Positions in the write-ahead log and the names of its segments; what a `backup_label` says.

use std::fmt;
use std::str::FromStr;

/// A position in the log: a number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl FromStr for Lsn {
    type Err = String;

    /// Reads `16/B374D848`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.trim().split_once('/').and_then(|(high, low)| {
            let (high, low) = (u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?);
            Some(Self(u64::from(high) << 32 | u64::from(low)))
        });
        parsed.ok_or_else(|| format!("{text} is no position in a log"))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The segments of a log: their names depend on their size, which `initdb` chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segments {
    /// The timeline.
    pub timeline: u32,
    /// Bytes of each; a power of two from 1 MiB to 1 GiB.
    pub bytes: u64,
}

impl Segments {
    /// The numbers of the segments that hold what lies from `start` up to `stop`, which is not in it.
    pub(super) fn between(self, start: Lsn, stop: Lsn) -> std::ops::RangeInclusive<u64> {
        start.0 / self.bytes..=stop.0.saturating_sub(1) / self.bytes
    }

    /// The name of a segment: timeline, and its number in two parts, all in hexadecimal.
    pub(super) fn name(self, number: u64) -> String {
        let per_high = (1 << 32) / self.bytes;
        format!("{:08X}{:08X}{:08X}", self.timeline, number / per_high, number % per_high)
    }

    /// Where a segment begins in the log.
    pub(super) fn begin(self, number: u64) -> Lsn {
        Lsn(number * self.bytes)
    }
}

/// What a `backup_label` says that recovery depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    /// From where the log is needed.
    pub start: Lsn,
    /// The timeline on which the backup began.
    pub timeline: u32,
    /// It was taken from a standby.
    pub from_standby: bool,
}

impl Label {
    /// Reads a label.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let line = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            found.ok_or_else(|| format!("the backup label has no line `{key}`"))
        };
        let start = line("START WAL LOCATION")?;
        let start = start.split_whitespace().next().unwrap_or_default().parse()?;
        let timeline = line("START TIMELINE")?;
        // Decimal here, though hexadecimal in the names of files.
        let timeline = timeline.trim().parse().map_err(|_| format!("{timeline} is no timeline"))?;
        Ok(Self { start, timeline, from_standby: line("BACKUP FROM").is_ok_and(|from| from != "primary") })
    }
}

/// Checks that the bytes begin the segment `number` of the cluster `system`.
///
/// The layout is `XLogLongPageHeaderData` of PostgreSQL's `xlog_internal.h`, the same from 13 to 18 but for the
/// magic number.
pub(super) fn check_header(
    header: &[u8],
    segments: Segments,
    number: u64,
    system: u64,
) -> Result<(), String> {
    let field = |at: usize| -> Option<[u8; 8]> { header.get(at..at + 8)?.try_into().ok() };
    let (Some(head), Some(address), Some(owner), Some(sizes)) = (field(0), field(8), field(24), field(32))
    else {
        return Err("it is too short for a segment of the log".to_owned());
    };
    let timeline = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let (address, owner) = (u64::from_le_bytes(address), u64::from_le_bytes(owner));
    let bytes = u32::from_le_bytes([sizes[0], sizes[1], sizes[2], sizes[3]]);
    let begin = segments.begin(number);
    if head[0] == 0 && head[1] == 0 {
        return Err("it begins with zeros: the log was never written to it".to_owned());
    }
    if owner != system {
        return Err(format!("it is of the cluster {owner}, and this is {system}"));
    }
    if address != begin.0 || u64::from(bytes) != segments.bytes {
        return Err(format!("it says that it begins at {}, and it must at {begin}", Lsn(address)));
    }
    if timeline > segments.timeline {
        return Err(format!("it is of timeline {timeline}, and this is {}", segments.timeline));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIXTEEN: Segments = Segments { timeline: 0xA, bytes: 16 << 20 };

    #[test]
    fn positions_are_read_and_written() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("16".parse::<Lsn>().is_err());
    }

    #[test]
    fn segments_are_named_as_the_server_names_them() {
        // select pg_walfile_name('16/B374D848')
        let number = Lsn(0x16_B374_D848).0 / SIXTEEN.bytes;
        assert_eq!(SIXTEEN.name(number), "0000000A00000016000000B3");
        assert_eq!(SIXTEEN.begin(number), Lsn(0x16_B300_0000));
        let small = Segments { timeline: 1, bytes: 1 << 20 };
        assert_eq!(small.name(0x16_B374_D848 >> 20), "000000010000001600000B37");
        let large = Segments { timeline: 1, bytes: 1 << 30 };
        assert_eq!(large.name(0x16_B374_D848 >> 30), "000000010000001600000002");
    }

    #[test]
    fn the_last_segment_is_the_one_before_the_end() {
        let end = |stop| SIXTEEN.between(Lsn(0x100_0028), Lsn(stop));
        assert_eq!(end(0x100_0100), 1..=1);
        assert_eq!(end(0x200_0000), 1..=1);
        assert_eq!(end(0x200_0001), 1..=2);
    }

    #[test]
    fn a_label_is_read() {
        let text = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                    CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
                    START TIME: 2026-11-21 12:00:00 UTC\nLABEL: lifeboat\nSTART TIMELINE: 10\n";
        let label = Label::parse(text).unwrap();
        assert_eq!(label, Label { start: Lsn(0x200_0028), timeline: 10, from_standby: false });
        assert!(Label::parse("LABEL: x\n").is_err());
    }

    #[test]
    fn a_strange_segment_is_told() {
        let mut header = vec![0; 40];
        assert!(check_header(&header, SIXTEEN, 3, 7).unwrap_err().contains("zeros"));
        header[0] = 0x10;
        header[4] = 0xA;
        header[8..16].copy_from_slice(&(3 * SIXTEEN.bytes).to_le_bytes());
        header[24..32].copy_from_slice(&7_u64.to_le_bytes());
        header[32..36].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        check_header(&header, SIXTEEN, 3, 7).unwrap();
        assert!(check_header(&header, SIXTEEN, 3, 8).unwrap_err().contains("cluster"));
        assert!(check_header(&header, SIXTEEN, 4, 7).unwrap_err().contains("begins at"));
        assert!(check_header(&header[..20], SIXTEEN, 3, 7).is_err());
    }
}
