//! Telling an unchanged database from a changed one without reading it.
//!
//! # Why it can be believed
//! The token names the last commit. In rollback mode that is the change counter of
//! page 1, read inside the transaction, and the file's own metadata. With a write-ahead log it is the chain
//! of the log's frame headers: a commit appends a frame, or begins the log anew with another salt, and either
//! changes the chain. The log is looked at before the transaction begins and again after; only if nothing has
//! moved in between does the token stand for what the transaction sees. A file that was changed within the
//! last two seconds has no token: a later change could leave it with the same time, as the clocks of file
//! systems are coarse (FAT: 2 s).

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::super::restore::appended;

/// Younger files have no token.
const SETTLED: Duration = Duration::from_secs(2);
/// Bytes of the log's own header.
const LOG_HEADER: u64 = 32;
/// Bytes before each page in the log.
const FRAME_HEADER: u64 = 24;
/// A log with more frames is not looked through: reading the database costs little more.
const FRAMES_MAX: u64 = 1 << 18;

/// What can be seen of a database from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    file: String,
    settled: bool,
    log: String,
}

impl Mark {
    /// Looks at the file and its log; nothing when they cannot be looked at.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        let age = SystemTime::now().duration_since(found.modified().ok()?);
        Some(Self {
            file: format!(
                "{:x}.{:x}.{:x}.{}.{}.{}.{}",
                found.dev(),
                found.ino(),
                found.len(),
                found.mtime(),
                found.mtime_nsec(),
                found.ctime(),
                found.ctime_nsec()
            ),
            settled: age.is_ok_and(|age| age >= SETTLED),
            log: log_mark(&appended(path, "-wal"))?,
        })
    }

    /// The token for what a transaction sees that began after `self` was taken and before `later` was.
    ///
    /// `header` is the beginning of page 1 as the transaction sees it, or zeros, and then the file's times
    /// alone must do; `asked` stands for everything else that decides what a capture contains.
    pub(super) fn token(&self, later: Option<&Self>, header: &[u8; 100], asked: &str) -> Option<String> {
        if later != Some(self) || !self.settled {
            return None;
        }
        let counter = u32::from_be_bytes([header[24], header[25], header[26], header[27]]);
        Some(format!("{}/{counter:x}/{}/{asked}", self.file, self.log))
    }
}

/// Sums up a log: `-` for none or an empty one. Nothing when it cannot be read or is too long.
fn log_mark(path: &Path) -> Option<String> {
    let log = match File::open(path) {
        Ok(log) => log,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some("-".to_owned()),
        Err(_) => return None,
    };
    let bytes = log.metadata().ok()?.len();
    if bytes < LOG_HEADER {
        return Some("-".to_owned());
    }
    let mut header = [0; LOG_HEADER as usize];
    log.read_exact_at(&mut header, 0).ok()?;
    let page_bytes = u32::from_be_bytes(header[8..12].try_into().ok()?);
    let stride = FRAME_HEADER + u64::from(page_bytes);
    let frames = (bytes - LOG_HEADER) / stride;
    if frames > FRAMES_MAX {
        return None;
    }
    let mut chain = Sha256::new_with_prefix(header);
    for number in 0..frames {
        let mut frame = [0; FRAME_HEADER as usize];
        log.read_exact_at(&mut frame, LOG_HEADER + number * stride).ok()?;
        // Frames with another salt are left from before the log was last begun anew.
        if frame[8..16] != header[16..24] {
            break;
        }
        chain.update(frame);
    }
    Some(super::hex(&chain.finalize()[..16]))
}
