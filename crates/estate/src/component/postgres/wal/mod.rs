//! Files of the write-ahead log: what a server hands to its `archive_command`, and asks its `restore_command` for.
//!
//! A file is known by its name: a segment, a timeline's history, the mark that a backup leaves, or the last segment of a
//! timeline that another one continued, as far as it was written. Of a segment everything that can be known by
//! itself is checked before it is archived: whose it is, where it belongs, and that its records are whole and follow each
//! other (`walk`). What lies there is the same for whoever reads it back.

mod crc;
mod walk;

use std::path::Path;

pub(super) use crc::Crc;
pub use walk::Seen;
pub(super) use walk::{LONG_HEADER, PAGE, Stop, Walk};

use super::control::Control;
pub use super::log::Lsn;
use super::log::{self, Segments};
use crate::{Error, Result};

/// The longest name that a server gives a file of its log (`MAXFNAMELEN` of `xlog_internal.h`).
const NAME_BYTES_MAX: usize = 63;
/// The first two bytes of a page of the log (`XLOG_PAGE_MAGIC`), by version.
const MAGICS: &[(u32, u16)] =
    &[(13, 0xd106), (14, 0xd10d), (15, 0xd110), (16, 0xd113), (17, 0xd116), (18, 0xd118)];

/// What a file of the log is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole segment.
    Segment,
    /// The last segment of a timeline that another one continued, as far as it was written.
    Partial,
    /// From which timelines a timeline comes.
    History,
    /// The mark of a backup in the log.
    Backup,
}

/// A file of the log, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// What it is.
    pub kind: Kind,
    /// The timeline.
    pub timeline: u32,
    /// The two halves of the segment's number, which mean something only together with the size of segments.
    halves: (u32, u32),
}

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's own number.
    pub system: u64,
    /// The major version of its server, such as 15.
    pub major: u32,
    /// Bytes of its segments.
    pub segment_bytes: u64,
}

/// A segment that was looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its first position.
    pub begin: Lsn,
    /// Behind its last.
    pub end: Lsn,
    /// What its records state.
    pub seen: Seen,
    /// Where its records are damaged, or do not follow each other.
    pub damage: Option<String>,
}

impl Name {
    /// Reads a name; `None` for one that no server gives.
    pub fn parse(name: &str) -> Option<Self> {
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        let (stem, kind) = match name.split_once('.') {
            None => (name, Kind::Segment),
            Some((stem, "partial")) => (stem, Kind::Partial),
            Some((stem, "history")) => (stem, Kind::History),
            Some((stem, rest)) => {
                let offset = rest.strip_suffix(".backup")?;
                hex(offset)?;
                (stem, Kind::Backup)
            }
        };
        let timeline = hex(stem.get(..8)?)?;
        let halves = match (kind, stem.len()) {
            (Kind::History, 8) => (0, 0),
            (Kind::History, _) => return None,
            (_, 24) => (hex(&stem[8..16])?, hex(&stem[16..])?),
            _ => return None,
        };
        (timeline > 0).then_some(Self { kind, timeline, halves })
    }

    /// Where the segment begins, with segments of so many bytes; `None` when there can be no such segment.
    pub fn begin(&self, segment_bytes: u64) -> Option<Lsn> {
        let per_high = (1_u64 << 32).checked_div(segment_bytes)?;
        let (high, low) = (u64::from(self.halves.0), u64::from(self.halves.1));
        (low < per_high).then(|| Lsn((high << 32) + low * segment_bytes))
    }

    /// The name of the segment of a timeline that begins at `begin`.
    pub fn of(timeline: u32, begin: Lsn, segment_bytes: u64) -> String {
        Segments { timeline, bytes: segment_bytes }.name(begin.0 / segment_bytes)
    }
}

/// Eight digits, in the capitals that a server writes.
fn hex(text: &str) -> Option<u32> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    (text.len() == 8 && text.bytes().all(is_digit)).then(|| u32::from_str_radix(text, 16).ok())?
}

impl Cluster {
    /// Reads whose data directory it is.
    pub fn of(data: &Path) -> Result<Self> {
        let control = Control::read(data).map_err(Error::io("read", &data.join(super::control::PATH)))?;
        let version = data.join("PG_VERSION");
        let major = std::fs::read_to_string(&version).map_err(Error::io("read", &version))?;
        let major = major.trim().parse().map_err(|_| Error::BadSource {
            path: version,
            why: format!("{:?} is no version of PostgreSQL that is known", major.trim()),
        })?;
        let segment_bytes = control.segment_bytes().ok_or_else(|| Error::BadSource {
            path: data.join(super::control::PATH),
            why: "it does not say how large the segments of its log are: it is of another version of PostgreSQL".to_owned(),
        })?;
        Ok(Self { system: control.system, major, segment_bytes })
    }

    /// The name of a timeline's lineage: another cluster's never continues it.
    pub fn lineage(&self, timeline: u32) -> String {
        lineage(self.system, timeline)
    }

    /// Looks through a segment: it must be this cluster's, of this version, and be where its name says.
    ///
    /// Fails, in words, when it is not; damage within is told in what it gives.
    pub fn look(&self, name: &Name, bytes: &[u8]) -> std::result::Result<Segment, String> {
        let length = bytes.len() as u64;
        if length != self.segment_bytes {
            return Err(format!(
                "it has {length} bytes, and segments of this cluster have {}",
                self.segment_bytes
            ));
        }
        let begin = name
            .begin(length)
            .ok_or_else(|| format!("with {length} bytes there is no segment of this name"))?;
        let segments = Segments { timeline: name.timeline, bytes: length };
        log::check_header(bytes, segments, begin.0 / length, self.system)?;
        let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
        match MAGICS.iter().find(|(major, _)| *major == self.major) {
            Some((_, known)) if *known != magic => {
                return Err(format!(
                    "it is not of PostgreSQL {}: its pages begin with {magic:04X}",
                    self.major
                ));
            }
            _ => {}
        }
        let mut walk = Walk::default();
        let damage = walk.segment(begin, bytes, name.kind == Kind::Segment).err();
        Ok(Segment { begin, end: Lsn(begin.0 + length), seen: walk.seen().clone(), damage })
    }
}

/// The name of a timeline's lineage in a log archive.
pub fn lineage(system: u64, timeline: u32) -> String {
    format!("{system}-{timeline:08X}")
}

/// Reads the name of a lineage.
pub fn parse_lineage(lineage: &str) -> Option<(u64, u32)> {
    let (system, timeline) = lineage.split_once('-')?;
    Some((system.parse().ok()?, hex(timeline)?))
}

/// The name of the file with a timeline's history.
pub fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// From where a timeline forked off, by its history: the parent, and the position up to which the parent's log counts.
///
/// Fails, in words, for what is no history of this timeline.
pub fn parent(history: &[u8], timeline: u32) -> std::result::Result<(u32, Lsn), String> {
    let text = String::from_utf8_lossy(history);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let last = lines.next_back().ok_or_else(|| format!("the history of timeline {timeline} has no line"))?;
    let mut words = last.split_whitespace();
    let parsed =
        words.next().and_then(|word| word.parse().ok()).zip(words.next().and_then(|word| word.parse().ok()));
    match parsed {
        Some((parent, position)) if parent < timeline => Ok((parent, position)),
        _ => Err(format!("the history of timeline {timeline} says {last:?}, and that cannot be")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let kind = |name: &str| Name::parse(name).map(|name| (name.kind, name.timeline));
        assert_eq!(kind("0000000100000000000000AB"), Some((Kind::Segment, 1)));
        assert_eq!(kind("0000000A00000000000000AB.partial"), Some((Kind::Partial, 10)));
        assert_eq!(kind("0000000B.history"), Some((Kind::History, 11)));
        assert_eq!(kind("000000010000000000000002.00000028.backup"), Some((Kind::Backup, 1)));
        for no in [
            "",
            "00000001",
            "0000000100000000000000ab",
            "000000010000000000000002.gz",
            "../000000010000000000001",
            "000000010000000000000002.0000002.backup",
            "0000000000000000000000AB",
            "0000000100000000000000AB.history",
            "000000010000000000000002.partial.partial",
        ] {
            assert_eq!(kind(no), None, "{no}");
        }
    }

    #[test]
    fn a_segment_begins_where_its_name_says() {
        let name = Name::parse("0000000A00000016000000B3").unwrap();
        assert_eq!(name.begin(16 << 20), Some("16/B3000000".parse().unwrap()));
        assert_eq!(name.begin(1 << 20), Some("16/B300000".parse().unwrap()));
        assert_eq!(name.begin(1 << 30), None);
        assert_eq!(Name::of(10, "16/B3000000".parse().unwrap(), 16 << 20), "0000000A00000016000000B3");
    }

    #[test]
    fn a_lineage_is_of_one_cluster_and_timeline() {
        assert_eq!(lineage(7, 0xA), "7-0000000A");
        assert_eq!(parse_lineage("7-0000000A"), Some((7, 10)));
        assert_eq!(parse_lineage("7-A"), None);
    }

    #[test]
    fn a_timelines_parent_is_read() {
        let text = b"1\t0/3000060\tno recovery target specified\n\n2\t0/5A000C8\tbefore 2026\n";
        assert_eq!(parent(text, 3), Ok((2, "0/5A000C8".parse().unwrap())));
        assert!(parent(b"", 3).is_err());
        assert!(parent(b"4\t0/1\tx", 3).is_err());
    }
}
