//! What a server has still to archive, by the notes that it keeps: a segment that is full has a file `NAME.ready` until its
//! `archive_command` has succeeded. The server never gives up such a segment, so that its disk fills while archiving stands.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::units;

/// Where the notes lie in a data directory.
const NOTES: &str = "pg_wal/archive_status";
/// How a note of something that waits ends.
const READY: &str = ".ready";
/// What waits for so long is not archived in the ordinary course of things any more.
const STANDS_AFTER: Duration = Duration::from_secs(60);
/// From so many segments on it matters how much room is left for more.
const MANY: u64 = 16;
/// So many times what waits has to be free.
const ROOM: u64 = 4;

/// What waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Waiting {
    /// How many files of the log wait to be archived.
    pub files: u64,
    /// How many bytes they have, all taken for whole segments.
    pub bytes: u64,
    /// How long the first of them waits, in seconds.
    pub oldest_seconds: f64,
    /// How much is free on the file system of the server's log, in bytes.
    pub free_bytes: u64,
}

/// The names of what waits, in the order of their names.
pub(super) fn names(data: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(data.join(NOTES))? {
        if let Ok(file) = entry?.file_name().into_string()
            && let Some(name) = file.strip_suffix(READY)
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// When a note was last written or taken away.
pub(super) fn changed(data: &Path) -> Option<SystemTime> {
    fs::metadata(data.join(NOTES)).and_then(|found| found.modified()).ok()
}

impl Waiting {
    /// Looks at a data directory on this machine; `None` when there is none that could be read.
    pub fn of(data: &Path, segment_bytes: u64) -> Option<Self> {
        let names = names(data).ok()?;
        let noted = |name: &String| {
            fs::metadata(data.join(NOTES).join(format!("{name}{READY}")))
                .and_then(|found| found.modified())
                .ok()
        };
        let first = names.iter().filter_map(noted).min();
        let age = first.and_then(|first| SystemTime::now().duration_since(first).ok()).unwrap_or_default();
        let free = rustix::fs::statvfs(data.join("pg_wal")).ok()?;
        let files = names.len() as u64;
        Some(Self {
            files,
            bytes: files * segment_bytes,
            oldest_seconds: age.as_secs_f64(),
            free_bytes: free.f_bavail.saturating_mul(free.f_frsize),
        })
    }

    /// Whether archiving stands still, or the disk fills faster than is archived.
    pub fn is_alarming(&self) -> bool {
        let stands = self.files > 0 && self.oldest_seconds >= STANDS_AFTER.as_secs_f64();
        let fills = self.files >= MANY && self.free_bytes < self.bytes.saturating_mul(ROOM);
        stands || fills
    }

    /// What waits, in words.
    pub fn words(&self) -> String {
        format!(
            "archiving stands still: {} of its log ({}) {}, the first for {}; {} are free there, and the server stops when \
             nothing is",
            units::counted(self.files, "file", "files"),
            units::bytes(self.bytes),
            if self.files == 1 { "waits" } else { "wait" },
            units::duration(Duration::from_secs(Duration::from_secs_f64(self.oldest_seconds).as_secs())),
            units::bytes(self.free_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_too_long_or_fills_the_disk_is_an_alarm() {
        let waiting = |files, oldest_seconds, free_bytes| Waiting {
            files,
            bytes: files * 16,
            oldest_seconds,
            free_bytes,
        };
        assert!(!waiting(0, 0.0, 0).is_alarming());
        assert!(!waiting(3, 59.0, 10_000).is_alarming());
        assert!(waiting(1, 61.0, 10_000).is_alarming());
        assert!(!waiting(20, 5.0, 20 * 16 * 4).is_alarming());
        assert!(waiting(20, 5.0, 20 * 16 * 4 - 1).is_alarming());
    }

    #[test]
    fn the_notes_of_a_server_are_read() {
        let data = tempfile::tempdir().unwrap();
        assert!(Waiting::of(data.path(), 16).is_none());
        let notes = data.path().join(NOTES);
        fs::create_dir_all(&notes).unwrap();
        for name in ["000000010000000000000002.ready", "000000010000000000000001.ready", "x.done"] {
            fs::write(notes.join(name), "").unwrap();
        }
        assert_eq!(names(data.path()).unwrap(), ["000000010000000000000001", "000000010000000000000002"]);
        let waiting = Waiting::of(data.path(), 16).unwrap();
        assert_eq!((waiting.files, waiting.bytes), (2, 32));
    }
}
