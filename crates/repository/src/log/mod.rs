//! Log archives: what engines write ahead, shipped piece by piece and kept so that any instant can be restored.
//!
//! A **lineage** is one unbroken numbering of positions: a PostgreSQL timeline, a generation of an SQLite database. A
//! **segment** is one object with one piece of it or several neighbours ([`Part`]s). A **chain value** ([`Link`]) binds each
//! part to all before it, and a segment's name has the value before and behind it: so a listing alone shows what is
//! there, what follows what, and where something is missing ([`Catalogue`]); and neighbours can become one
//! object without a change to what follows.
//!
//! | module | what lives there |
//! |---|---|
//! | `name`, `segment` | the bytes: names, tables of parts, sealing |
//! | `catalogue`, `spans` | what a listing means; what can be restored from it |
//! | `append` | writing: segments, forks, files of a lineage |
//! | `read` | reading verified, ahead of need |
//! | `verify` | reading everything that was not verified yet |
//! | `compact`, `retain` | fewer objects; those that nobody needs, away |
//! | `copy` | the same in another repository |
//! | `fence`, `inherit`, `choose` | keeping writers apart: who writes, what it goes on from, and so what counts |
//!
//! # Consistency
//! Objects are created once and never overwritten. What was acknowledged is never contradicted: a position has one
//! content, a second one is refused ([`Error::Conflict`]). What does not follow is refused, or begins a new chain on
//! request: a gap stays visible for good, until exactly what is missing is archived.
//!
//! # Crash
//! Each operation may be killed anywhere and repeated. Append: the piece is there or not, and the repetition finds it.
//! Compaction: both the parts and what they became are there, which counts once. Retention: the oldest are gone, what
//! remains is still unbroken.
//!
//! # Concurrency
//! | beside → | append | compact, retain | read, verify |
//! |---|---|---|---|
//! | append | the later one takes over | yes | yes |
//! | compact, retain | yes | the later one takes over | yes: a reader that misses an object looks again |
//!
//! Locks of the repository are not taken: nothing else refers to these objects.

mod append;
mod catalogue;
mod choose;
mod compact;
mod copy;
mod error;
mod fence;
mod inherit;
mod name;
mod read;
mod retain;
mod segment;
mod spans;
mod verify;

pub use append::{Appended, Appender, Prepared};
pub use catalogue::{Aside, AsideKind, Catalogue, Gap, Lineage, Run};
pub use compact::{CompactOptions, CompactReport};
pub use copy::{CopyReport, components};
pub use error::{Error, NotRestorable, Result};
pub use name::{Fork, Link, Segment, escape, is_lineage, unescape};
pub use read::{ReadAhead, Replay};
pub use retain::{RetainOptions, RetainPlan, RetainReport, Unneeded};
pub use segment::{Content, PARTS_MAX, PIECE_BYTES_MAX, Part, Piece, decode, decode_table, encode_table};
pub use spans::{Base, Needed, Span, Step, Target};
pub use verify::{Finding, Scope, VerifyReport};

use crate::crypto::MasterKey;
use crate::sidecar::{DIRECTORY, sealing_key};
use crate::{Repository, sidecar};

/// Compression level of segments: logs are many and are to be durable soon.
///
/// The fastest of those that look for matches: a log is read back seldom, and a commit is not safe before it is archived.
const LEVEL: i32 = 1;

/// The archive of one component's logs.
#[derive(Debug, Clone)]
pub struct Archive {
    repository: Repository,
    component: String,
    /// `log/<component>`, the name of its directory among the sidecar objects.
    directory: String,
    key: MasterKey,
}

impl Archive {
    /// Opens the archive of `component`, which need not have anything yet; no I/O.
    ///
    /// Fails with [`Error::Refused`] for an empty name.
    pub fn new(repository: &Repository, component: &str) -> Result<Self> {
        if component.is_empty() {
            return Err(Error::Refused("a component without a name has no log".into()));
        }
        Ok(Self {
            repository: repository.clone(),
            component: component.to_owned(),
            directory: format!("log/{}", name::component_directory(component)),
            key: sealing_key(repository.key()),
        })
    }

    /// The repository in which it lies.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The component whose logs are in it.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// The name among the sidecar objects of what lies in a lineage's directory as `file`.
    fn name(&self, lineage: &str, file: &str) -> String {
        format!("{}/{}/{file}", self.directory, name::escape(lineage))
    }

    fn segment_name(&self, lineage: &str, segment: &Segment) -> String {
        self.name(lineage, &segment.file_name())
    }

    /// Lists what lies below a directory of the archive, named from there: `""`, or a lineage's.
    fn list(&self, below: &str, found: &mut dyn FnMut(&str, u64)) -> Result<()> {
        let prefix = match below {
            "" => object(&self.directory),
            below => object(&format!("{}/{below}", self.directory)),
        };
        self.repository.store().list(&prefix, &mut |listed| {
            if let Some(name) = listed.key.strip_prefix(&prefix).and_then(|rest| rest.strip_prefix('/')) {
                found(name, listed.size);
            }
            Ok(())
        })?;
        Ok(())
    }

    fn check_lineage(lineage: &str) -> Result<()> {
        if is_lineage(lineage) {
            return Ok(());
        }
        Err(Error::Refused(format!("{lineage:?} is no name of a lineage: it is empty or too long")))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.repository.clock().now().as_millisecond()).unwrap_or(0)
    }

    /// Creates a small object; that it was there alike is a success.
    fn create_small(&self, name: &str, bytes: &[u8]) -> Result<sidecar::Created> {
        Ok(self.repository.sidecar_create(name, bytes)?)
    }
}

/// The key of a sidecar object in the store.
fn object(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}
