//! Members: several things of different kinds in one snapshot, each at a path of the snapshot's own.
//!
//! A recovery point is made of files as they lie on the disk, of what a database streams, and of what is as
//! it was last time. What a member is stands here; the walk takes it in.

use std::io::{self, Read};
use std::path::PathBuf;

use crate::format::Time;

/// One thing in a snapshot.
pub struct Member<'a> {
    /// Where it is in the snapshot: absolute, below `/`, without `.` and `..`.
    ///
    /// A member may lie inside a [`MemberContent::Host`] directory: it then stands in place of what the directory
    /// holds there, if that holds anything. No two members may have the same path.
    pub path: PathBuf,
    /// What it is.
    pub content: MemberContent<'a>,
}

/// What a member is.
pub enum MemberContent<'a> {
    /// A file or directory of this machine, under whatever path; walked as `Source::Paths` is.
    ///
    /// What the selection leaves out is said by paths of this machine. When it is not there, or cannot be read, that is
    /// a `SourceProblem` with its path on this machine, and the member's totals say that it was not taken.
    Host(PathBuf),
    /// A file whose content is read from a stream.
    ///
    /// Several are read beside each other, at most as many as there are workers; one may be opened long after
    /// another has ended, or never when the backup fails before. Reading is not interrupted from outside: when the
    /// caller cancels, the reader must come to an end.
    Stream {
        /// What the file's node says.
        attributes: StreamAttributes,
        /// Cuts it into blocks of this many bytes, at most 8 MiB; as the repository cuts when `None`.
        block_bytes: Option<u32>,
        /// Begins the stream. A reader whose producer failed must end with an error, not with the end of the
        /// content: the error fails the backup.
        open: OpenStream<'a>,
        /// How many bytes come; any other number fails the backup. Not checked when `None`.
        size: Option<u64>,
    },
    /// What the parent snapshot has at the member's path, as it is there.
    ///
    /// Fails the backup with [`Error::NotAsBefore`](crate::Error::NotAsBefore), before anything is read, when there
    /// is no parent, when it has nothing there, or when a blob of it is no longer in the repository's index.
    AsBefore,
}

/// Begins a stream.
pub type OpenStream<'a> = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send + 'a>> + Send + 'a>;

/// What the node of a streamed file says beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamAttributes {
    /// Unix permission bits: `0o600`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Time,
}

/// What of one member is in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberTotals {
    /// Its path in the snapshot.
    pub path: PathBuf,
    /// Whether there is something at that path; not when it could not be read or the selection leaves it out.
    pub is_taken: bool,
    /// Regular files.
    pub files: u64,
    /// Directories, the member itself among them.
    pub dirs: u64,
    /// Bytes of the files.
    pub bytes: u64,
}
