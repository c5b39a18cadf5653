//! Logs: where a point stands in what its engine writes ahead, and how a restored point is brought further by it.
//!
//! A driver knows its engine's log, not where it is kept. Positions are what the engine counts, within a lineage;
//! both are the driver's words, and mean nothing to anybody else but their order.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cancel, Follow, Part, PointFacts, Proof};
use crate::Result;

/// Where a point stands in its component's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBase {
    /// The lineage in which the positions are.
    pub lineage: String,
    /// The position from which on the log is needed to go on from the point.
    pub needed_from: u64,
    /// The position at which the point is consistent; not before `needed_from`.
    pub consistent_at: u64,
}

/// A piece of a log, as it was archived; verified to follow the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The lineage that it is of.
    pub lineage: String,
    /// Its first position.
    pub first: u64,
    /// The position behind its last.
    pub last: u64,
    /// The earliest instant in it, if that is known.
    pub from: Option<Timestamp>,
    /// The latest instant in it, if that is known.
    pub until: Option<Timestamp>,
    /// What the engine calls it, such as a file's name.
    pub name: Option<String>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A small file of a lineage, such as the history of a timeline, by lineage and name.
pub type LogFile<'a> = dyn Fn(&str, &str) -> io::Result<Option<Vec<u8>>> + Sync + 'a;

/// How far a log is to be replayed, and where it comes from.
pub struct Replay<'a> {
    /// Up to and with this instant; to the end of the pieces if `None`.
    pub at: Option<Timestamp>,
    /// The lineage in which it ends.
    pub lineage: &'a str,
    /// The position behind the last of it.
    pub to: u64,
    /// Whether all that there is ends there, as far as is known; otherwise what is behind it in the last piece is not wanted.
    pub is_end: bool,
    /// The pieces from the point's [`LogBase::needed_from`] on, in order. An error ends them: what follows is missing or
    /// damaged, and the replay has failed.
    pub pieces: &'a mut (dyn Iterator<Item = io::Result<LogPiece>> + Send),
    /// Finds small files of lineages.
    pub file: &'a LogFile<'a>,
    /// An existing directory for what is needed meanwhile, on the place's own file system.
    pub scratch: &'a Path,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

/// How far a log was replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// The position that was reached.
    pub position: u64,
    /// The instant of the last thing that was replayed, if that is known.
    pub instant: Option<Timestamp>,
    /// What was shown on the way.
    pub proof: Proof,
}

/// Where the log of a live source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The lineage that is being written.
    pub lineage: String,
    /// The position before which everything lies that was written by `instant`.
    pub position: u64,
    /// That instant; why it is not known, in words, when the source does not bring its log into the archive after a time.
    pub instant: std::result::Result<Timestamp, String>,
    /// Why nothing is archived now, as the source says.
    pub stuck: Option<String>,
}

/// The log of a component.
pub trait Log {
    /// Brings what lies beside from the point `recorded` as far as `replay` says.
    ///
    /// Does it again from the beginning when it was killed. Fails when the engine stops before the target, whatever the
    /// engine itself calls that; what was reached is never passed off as what was asked for.
    fn replay(&self, parts: &[Part], recorded: &PointFacts, replay: Replay<'_>) -> Result<Replayed>;

    /// Reads a position of the log as its engine writes it; `None` where it is none, or people know no positions.
    fn position(&self, _text: &str) -> Option<u64> {
        None
    }

    /// Finds the positions behind the marks of this name that people wrote into the log, in pieces that follow each
    /// other; `None` where nobody can do that.
    ///
    /// Fails when the pieces cannot be read through to their end.
    fn marks(
        &self,
        _name: &str,
        _pieces: &mut dyn Iterator<Item = io::Result<LogPiece>>,
    ) -> Result<Option<Vec<u64>>> {
        Ok(None)
    }

    /// Asks a live source where its log stands, changing nothing; `None` when it does not answer here, or cannot tell.
    fn standing(&self, _cancel: &Cancel) -> Option<Standing> {
        None
    }

    /// Begins to follow the log at its live source, behind `last`, the last piece that is archived, if it can be proven
    /// that nothing is missing there; [`Follow::began`] says whether it was.
    ///
    /// `None` where the log does not come by following, but is handed over by the engine. Fails when the source
    /// has no log, is in use by another follower, or is not there.
    fn follow(&self, _last: Option<&LogPiece>) -> Result<Option<Box<dyn Follow>>> {
        Ok(None)
    }
}
