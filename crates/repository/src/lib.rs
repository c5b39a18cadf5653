//! The repository engine: reads and writes the restic repository format, version 2.
//!
//! From the bytes up: [`mod@format`] is the codec; [`crypto`] seals and opens; [`Repository`] loads and saves
//! the files of a repository; [`Index`] tells where every blob lies; `writer` packs new blobs, `reader`
//! fetches them back verified; [`Lock`] keeps writers and removers apart. On these stand the operations,
//! one module each.
//!
//! Nothing in here prints, prompts, exits or reads the environment; what happens is told as [`Event`]s.
//! `docs/format.md` describes what is written and why it is valid.

pub mod backup;
mod blob;
pub mod check;
pub mod chunker;
pub mod copy;
pub mod crypto;
pub mod diff;
mod error;
pub mod event;
pub mod filter;
pub mod find;
pub mod forget;
pub mod format;
mod id;
mod index;
mod index_files;
pub mod keys;
mod lock;
pub mod log;
mod packs;
mod parallel;
pub mod prune;
mod reader;
pub mod repair;
mod repository;
pub mod restore;
pub mod sidecar;
mod snapshots;
pub mod stats;
mod trees;
mod users;
mod writer;

pub use blob::{Opener, Sealer};
pub use error::{Error, Result};
pub use event::{Context, Event, Observer, Task};
pub use filter::{PatternError, Patterns};
pub use id::Id;
pub use index::{Index, IndexBuilder, IndexProblem, IndexedBlob, Location};
pub use lock::{Lock, LockKind, LockOptions};
pub use reader::BlobReader;
pub use repository::{Clock, FileKind, InitOptions, Repository};
pub use snapshots::{Failures, SnapshotEntry, SnapshotFilter};
pub use trees::{Descend, Met, find_directory, find_entry, walk_in_order};
pub use users::Users;
pub use writer::{BlobWriter, Saved, WriterOptions, WriterTotals};
