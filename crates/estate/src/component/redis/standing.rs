//! What stands beside append-only files that are followed: which lineage they are, and where in it each of them begins.
//!
//! A capture may be of another process than the follower, and has to say where its base stands in the log. So the follower
//! writes it down, in the server's directory of append-only files, as `NAME.lifeboat`: a restore puts another directory
//! there, which is no continuation. Redis itself looks at nothing but what its list names. The directory is locked as
//! long as it is followed: what nobody follows proves nothing.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::super::Holder;
use super::live::{FileId, Held};
use crate::{Error, Result};

const VERSION: u32 = 1;

/// Where a server's append-only files stand in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    version: u32,
    /// The process that follows.
    pid: u32,
    pub lineage: String,
    /// Files, and the positions of their first bytes.
    files: Vec<(FileId, u64)>,
}

impl Standing {
    /// Says where these files stand.
    pub(super) fn of(held: &Held, lineage: &str) -> Self {
        let files = held.appended.iter().map(|kept| (kept.id, kept.at)).collect();
        Self { version: VERSION, pid: std::process::id(), lineage: lineage.to_owned(), files }
    }

    /// Where the first of these files begins in the lineage; nothing if it is none of it.
    pub(super) fn beginning(&self, held: &Held) -> Option<u64> {
        held.beginning(self.files.iter().copied())
    }

    /// Reads it; nothing where there is none, or it says nothing.
    pub(super) fn read(directory: &Path, name: &str) -> Option<Self> {
        let standing: Self = serde_json::from_slice(&fs::read(path(directory, name)).ok()?).ok()?;
        (standing.version == VERSION).then_some(standing)
    }

    /// Writes it in the place of what is there.
    pub(super) fn write(&self, directory: &Path, name: &str) -> Result<()> {
        let path = path(directory, name);
        let text = serde_json::to_vec(self).expect("it has only numbers and text");
        replace(&path, &text, 0o600).map_err(Error::io("write", &path))
    }
}

/// Writes a file anew: it is the old one or the new one, also after a crash.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let temporary = super::super::appended(path, ".new");
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// Keeps all others from following, as long as it is open.
pub(super) fn lock(directory: &Path, name: &str) -> Result<File> {
    let file = File::open(directory).map_err(Error::io("open", directory))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder =
                Standing::read(directory, name).map(|it| Holder { pid: it.pid, name: "lifeboat".to_owned() });
            let hint = "it is shipped already; one process at a time may, stop the other".to_owned();
            Err(Error::InUse { path: directory.to_owned(), holders: holder.into_iter().collect(), hint })
        }
        Err(error) => Err(Error::io("lock", directory)(error.into())),
    }
}

/// Tells whether somebody follows the files in this directory.
pub(super) fn is_followed(directory: &Path) -> bool {
    File::open(directory).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// Names a lineage that was never there.
pub(super) fn new_lineage(now: Timestamp) -> String {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the kernel gives random bytes");
    format!("{:012x}-{:016x}", now.as_millisecond(), u64::from_le_bytes(random))
}

fn path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.lifeboat"))
}
