//! `global/pg_control`: whose cluster it is, and whether the file is whole.
//!
//! Only what has stood at the same place from PostgreSQL 13 to 18 is read. The checksum follows the fields, whose
//! number differs by version, so that it is looked for.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::wal::Crc;

/// Where in a data directory it lies.
pub(super) const PATH: &str = "global/pg_control";
/// How often a file that is being written is read again, and how long between.
const LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Between which lengths the fields of all versions end (`ControlFileData` of `pg_control.h`).
const FIELDS: std::ops::Range<usize> = 200..512;
/// `checkPointCopy.ThisTimeLineID`.
const TIMELINE_AT: usize = 48;
/// `FLOATFORMAT_VALUE`, behind which the sizes stand: of a page, of a relation's parts, of a page of the log, of its segments.
const BEFORE_SIZES: f64 = 1_234_567.0;

/// What is known of a cluster by its control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Control {
    /// The cluster's own number.
    pub system: u64,
    /// The whole file.
    pub bytes: Vec<u8>,
}

impl Control {
    /// Reads the file of a data directory, again and again until its checksum is right: the server may be writing
    /// it.
    pub(super) fn read(data: &Path) -> io::Result<Self> {
        let path = data.join(PATH);
        for _ in 1..LOOKS {
            if let Some(control) = Self::parse(fs::read(&path)?) {
                return Ok(control);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        let why = "its checksum is wrong: it is damaged, or of another version of PostgreSQL";
        Self::parse(fs::read(&path)?).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Reads the file once; nothing when it is not there or not whole.
    pub(super) fn read_once(data: &Path) -> Option<Self> {
        Self::parse(fs::read(data.join(PATH)).ok()?)
    }

    /// The timeline of the last checkpoint, which stands behind its position and that of its log.
    pub(super) fn timeline(&self) -> Option<u32> {
        let bytes = self.bytes.get(TIMELINE_AT..TIMELINE_AT + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Bytes of a segment of the log.
    pub(super) fn segment_bytes(&self) -> Option<u64> {
        let (eights, _) = self.bytes.get(..FIELDS.end)?.as_chunks::<8>();
        let found = eights.iter().position(|eight| *eight == BEFORE_SIZES.to_le_bytes())?;
        let four = |at: usize| Some(u32::from_le_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?));
        let bytes = four((found + 1) * 8 + 12)?;
        bytes.is_power_of_two().then_some(u64::from(bytes))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let system = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        is_whole(&bytes).then_some(Self { system, bytes })
    }
}

/// Tells whether the fields are followed by their checksum.
fn is_whole(bytes: &[u8]) -> bool {
    let mut crc = Crc::default();
    for (at, &byte) in bytes.iter().enumerate().take(FIELDS.end) {
        let found = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
        if at % 4 == 0 && FIELDS.contains(&at) && found == Some(crc.value()) {
            return true;
        }
        crc.add(&[byte]);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_file_is_told_from_a_whole_one() {
        let mut bytes = vec![7_u8; 8192];
        let mut crc = Crc::default();
        crc.add(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.value().to_le_bytes());
        assert!(Control::parse(bytes.clone()).is_some());
        bytes[100] ^= 1;
        assert_eq!(Control::parse(bytes), None);
        assert_eq!(Control::parse(Vec::new()), None);
    }

    #[test]
    fn the_size_of_segments_is_found() {
        let mut bytes = vec![0_u8; 8192];
        bytes[208..216].copy_from_slice(&BEFORE_SIZES.to_le_bytes());
        bytes[228..232].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        let control = |bytes| Control { system: 1, bytes };
        assert_eq!(control(bytes.clone()).segment_bytes(), Some(16 << 20));
        bytes[208] = 1;
        assert_eq!(control(bytes).segment_bytes(), None);
    }
}
