//! What a capture is made of: members to be read, what is recorded about the point, and its end.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cancel, LogBase, Tally};
use crate::Result;
use crate::facts::Facts;

/// What a capture is told.
pub struct CaptureRequest<'a> {
    /// The run's id, for names that must be its own.
    pub run: &'a str,
    /// An existing directory for files that live as long as the capture; on the place's own file system.
    pub scratch: &'a Path,
    /// The newest point of this component that is wholly in the repository; lets unchanged state be
    /// recognised.
    pub previous: Option<&'a PointFacts>,
    /// Asks to stop.
    pub cancel: Cancel,
}

/// A component held still, to be read.
pub struct Capture {
    /// What to read; every one of them belongs to the point.
    pub members: Vec<Member>,
    /// What is recorded with the point; completed by [`Finish::finish`].
    pub point: PointFacts,
    /// To be finished after all members were read. Dropping it aborts.
    pub finish: Box<dyn Finish>,
}

impl Capture {
    /// Tells whether nothing has changed since the previous point, so that every member is as it was.
    pub fn is_unchanged(&self) -> bool {
        !self.members.is_empty()
            && self.members.iter().all(|member| matches!(member.content, Content::AsBefore))
    }
}

/// Everything that is recorded about a recovery point beside its bytes. Kept with the snapshot and given back
/// to [`super::Component::parts`], `prepare` and `prove`, and as `previous` to the next capture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointFacts {
    /// The driver that made it.
    pub kind: String,
    /// The engine's name and version.
    pub engine: String,
    /// The moment that the point represents.
    pub instant: Timestamp,
    /// What was measured in that moment.
    pub facts: Facts,
    /// How the declared facts were measured, by their names: a proof asks the same again, whatever the plan
    /// says by then.
    pub queries: BTreeMap<String, String>,
    /// What the point is made of, in bytes; for the floor. `None` until it is known.
    pub bytes: Option<u64>,
    /// The paths in the snapshot that are restored, each a file or a whole directory.
    pub roots: Vec<PathBuf>,
    /// Whose data it is, so that it is not restored over somebody else's.
    pub identity: Option<String>,
    /// Equal to the token of the next capture if nothing has changed in between. `None` when that cannot be
    /// told.
    pub token: Option<String>,
    /// What the driver needs to know of the point when it restores it, by names of its own.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
    /// Where it stands in the component's log; `None` where nothing can be replayed on it.
    #[serde(default)]
    pub log: Option<LogBase>,
}

/// One file or tree of the snapshot.
#[derive(Debug)]
pub struct Member {
    /// Where it lies in the snapshot, absolute.
    pub path_in_snapshot: PathBuf,
    /// Where its bytes come from.
    pub content: Content,
}

/// Opens a stream's content; called at most once.
pub type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>;

/// Where a member's bytes come from.
pub enum Content {
    /// A file or directory of the place, to be walked.
    Host {
        /// Its path; absolute.
        path: PathBuf,
        /// What is left out, in restic's patterns.
        excludes: Vec<String>,
        /// It is written to while it is read, and a log that is captured, too, puts right what comes of that: what
        /// vanishes or changes meanwhile is no problem, and nothing is taken for unchanged by its times.
        live: bool,
    },
    /// One file, read from here. May be read from any thread; an error of the reader makes the capture void.
    Stream {
        /// What its node in the snapshot says.
        meta: StreamMeta,
        /// Its length; exact where given.
        size: Option<u64>,
        /// Cut it into blocks of this many bytes, for files made of pages.
        block_bytes: Option<u32>,
        /// Begins the reading.
        open: Open,
        /// The file that is read, where it may be taken as the snapshot of `previous` has it without being read.
        origin: Option<Origin>,
    },
    /// As the snapshot of `previous` has it at this path.
    AsBefore,
    /// What is known only when all other members have been read: what [`Finish::later`] gives at this path or below
    /// it, or nothing.
    Later,
}

/// A file that a stream gives as it is, as it was found before the stream is opened.
pub struct Origin {
    /// The device that holds it.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Its length.
    pub size: u64,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Called instead of opening the stream when the snapshot of `previous` has this very file; `None` to have it read in
    /// any case.
    pub as_before: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { path, excludes, live } => f
                .debug_struct("Host")
                .field("path", path)
                .field("excludes", excludes)
                .field("live", live)
                .finish(),
            Self::Stream { meta, size, block_bytes, .. } => f
                .debug_struct("Stream")
                .field("meta", meta)
                .field("size", size)
                .field("block_bytes", block_bytes)
                .finish_non_exhaustive(),
            Self::AsBefore => f.write_str("AsBefore"),
            Self::Later => f.write_str("Later"),
        }
    }
}

/// What the node of a stream says about the file that it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamMeta {
    /// Permission bits, such as `0o640`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was last changed.
    pub mtime: Timestamp,
}

impl StreamMeta {
    /// The owner, mode and time of change of a file, for the one that it is restored to.
    pub(crate) fn of(found: &fs::Metadata) -> Self {
        let mtime = instant(found.mtime(), found.mtime_nsec());
        Self { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid(), mtime }
    }
}

impl Origin {
    /// What the file system says of a file.
    pub(crate) fn of(found: &fs::Metadata, as_before: Option<Box<dyn FnOnce() + Send>>) -> Self {
        let ctime = instant(found.ctime(), found.ctime_nsec());
        Self { device: found.dev(), inode: found.ino(), size: found.len(), ctime, as_before }
    }
}

fn instant(seconds: i64, nanoseconds: i64) -> Timestamp {
    let nanoseconds = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Timestamp::from_nanosecond(nanoseconds).unwrap_or_default()
}

/// The end of a capture.
pub trait Finish: Send {
    /// Gives the members at the places of [`Content::Later`]; called once, when all others have been read. None of
    /// them is later itself, or as before.
    ///
    /// Fails when it turns out by then that the capture is no good.
    fn later(&mut self) -> Result<Vec<Member>> {
        Ok(Vec::new())
    }

    /// Ends the capture after all its members were read without an error; `stored` counts what the snapshot
    /// holds under [`PointFacts::roots`], or is `None` when nobody counted.
    ///
    /// Fails when it turns out only now that the capture is no good; then it must not become a recovery
    /// point.
    fn finish(self: Box<Self>, stored: Option<&Tally>) -> Result<Finished>;
}

/// What the end of a capture adds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Finished {
    /// Facts that are known only now; to be added to the point's.
    pub facts: Facts,
    /// How much it was, where it was not known before.
    pub bytes: Option<u64>,
    /// The moment that the point represents, where that is known only now.
    pub instant: Option<Timestamp>,
    /// More that the driver needs to know of the point.
    pub details: BTreeMap<String, String>,
    /// Where the point stands in the component's log, where that is known only now.
    pub log: Option<LogBase>,
    /// What is not as it should be, though the capture counts.
    pub problems: Vec<Problem>,
    /// What else is worth telling about the capture.
    pub notes: Vec<String>,
}

#[cfg(test)]
impl PointFacts {
    /// A point with nothing in it.
    pub(crate) fn example(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            engine: "test".to_owned(),
            instant: Timestamp::UNIX_EPOCH,
            facts: Facts::default(),
            queries: BTreeMap::new(),
            bytes: None,
            roots: Vec::new(),
            identity: None,
            token: None,
            details: BTreeMap::new(),
            log: None,
        }
    }
}

impl PointFacts {
    /// Takes in what the end of the capture added.
    pub fn complete(&mut self, finished: &Finished) {
        self.facts.absorb(&finished.facts);
        self.bytes = finished.bytes.or(self.bytes);
        self.instant = finished.instant.unwrap_or(self.instant);
        self.details.extend(finished.details.clone());
        self.log = finished.log.clone().or(self.log.take());
    }
}

/// Something about a capture that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it concerns.
    pub path: PathBuf,
    /// What is the matter.
    pub what: String,
}

/// The end of a capture that holds nothing still.
pub struct Nothing;

impl Finish for Nothing {
    fn finish(self: Box<Self>, _stored: Option<&Tally>) -> Result<Finished> {
        Ok(Finished::default())
    }
}
