//! The journal of a run: one file of lines, each an entry with a checksum, only ever appended to.
//!
//! `format` is the text of the file and touches no disk; `file` is the file.
//!
//! # Consistency
//! Every line's checksum covers the checksum of the line before, so a line that was changed, left out, put elsewhere or taken from
//! another run is found. The first line names the format's version and the run.
//!
//! # Crash
//! An append is one write and one sync, and is acknowledged after both. A kill or a power cut can therefore only
//! hurt the last line, which nobody was told of: a last line without an end, or with a stretch of zeros, is dropped, and cut off when the journal is
//! opened for appending. Any other line that is not as it was written is an error.
//!
//! # Concurrency
//! Whoever appends holds an exclusive lock (`flock`) on the file. Reading needs none: what is not yet whole
//! at the end is dropped.

mod file;
mod format;

pub(crate) use file::same_run;
pub use file::{Journal, Sink, is_held, read};
pub use format::{FORMAT_VERSION, Parsed, parse};

use std::io;
use std::path::PathBuf;

use crate::state::{IllegalEvent, State};

/// A journal that was read, and what it amounts to.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// What the events amount to.
    pub state: State,
    /// The events.
    pub entries: Vec<crate::event::Entry>,
    /// Whether the end of a line was found that was never acknowledged.
    pub torn: bool,
}

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system says no.
    #[error("failed to {verb} the run's journal {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The journal exists already.
    #[error("the run's journal {} is there already; resume that run, or begin one with another id", .0.display())]
    Exists(PathBuf),
    /// Another process is at the run.
    #[error("another process is at the run of {}; wait for its end, or give it orders", .0.display())]
    Locked(PathBuf),
    /// The text is not what was written.
    #[error("line {line} of the run's journal is damaged: {why}; take the copy in the repository")]
    Damaged {
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It is written by a later version.
    #[error(
        "the run's journal has format {found}, and this program knows up to {FORMAT_VERSION}; use the newer program"
    )]
    Newer {
        /// The format of the file.
        found: u32,
    },
    /// It ends before the run began.
    #[error("the journal holds no run: its process ended before anything was begun; begin anew")]
    Empty,
    /// It holds an event that cannot be.
    #[error(transparent)]
    Illegal(#[from] IllegalEvent),
}
