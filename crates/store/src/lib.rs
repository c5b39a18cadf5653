//! Object stores: where the bytes of a repository live.
//!
//! [`Store`] is the one trait; a directory (`Local`), memory (`Memory`) and S3 (feature `s3`) implement
//! it, and everything that cuts across them — retry, bandwidth limit, faults for tests — is a wrapper that
//! implements it again. `conformance` is the one suite that all of them run. Nothing in here knows
//! what a repository is.
//!
//! | module | what lives there |
//! |---|---|
//! | [`local`], [`memory`], `s3` | the stores |
//! | [`location`] | what a user writes to name a store |
//! | [`retry`], [`limit`], [`fault`], `dry_run`, `outside` | the wrappers |
//! | [`clock`] | time as the wrappers see it, so that tests need not wait |
//! | [`conformance`] | what every store and wrapper has to pass; panics, for tests only |

pub mod clock;
pub mod conformance;
mod dry_run;
mod error;
pub mod fault;
mod key;
pub mod limit;
pub mod local;
pub mod location;
pub mod memory;
mod outside;
pub mod retry;
#[cfg(feature = "s3")]
pub mod s3;

pub use dry_run::DryRun;
pub use error::{Error, ErrorKind, Result};
pub use fault::Fault;
pub use limit::Limit;
pub use local::Local;
pub use location::Location;
pub use memory::Memory;
pub use outside::Outside;
pub use retry::Retry;
#[cfg(feature = "s3")]
pub use s3::S3;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The full key, `/`-separated, without a leading slash.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
}

/// Holds named, immutable-by-convention objects.
///
/// Keys are relative paths of one or more segments of `[A-Za-z0-9._-]`, separated by `/`; no segment is `.`
/// or `..`, and no segment starts with `.` (such names belong to the store: temporary files). A key that
/// breaks this is refused with [`ErrorKind::Other`] by every operation.
///
/// **Atomicity.** A reader sees an object whole or not at all. A `put` or `create` that fails, or whose
/// process dies, may have happened or not, never by half.
///
/// **Durability.** When `put`, `create` or `delete` returns `Ok`, a power cut does not undo it: a
/// directory store has synced file and directory; an object store has acknowledged.
///
/// **Listing.** A `list` that starts after `put` or `create` returned shows the object; one that runs
/// beside it may or may not. Order is unspecified. Temporary files of unfinished writes are never shown.
///
/// **Retry.** No operation retries on its own beyond what its client library does; that is the wrapper
/// `Retry`'s work. Every operation may be repeated: a repeated `put` of the same bytes or `delete` changes
/// nothing; a repeated `create` answers [`ErrorKind::AlreadyExists`].
///
/// **Not found** means that the store answered and that the object is not there. A store that cannot be
/// reached, or refuses to say, is [`ErrorKind::Unavailable`] or [`ErrorKind::Denied`], never `NotFound`.
pub trait Store: Send + Sync + fmt::Debug {
    /// Names the store in messages; never contains a secret.
    fn location(&self) -> String;

    /// Writes the object, replacing one of that name.
    fn put(&self, key: &str, data: Bytes) -> Result<()>;

    /// Writes the object if no object of that name exists.
    ///
    /// Of several concurrent creators of one key, exactly one succeeds; the others get
    /// [`ErrorKind::AlreadyExists`].
    fn create(&self, key: &str, data: Bytes) -> Result<()>;

    /// Reads the whole object.
    fn get(&self, key: &str) -> Result<Vec<u8>>;

    /// Reads the bytes `range` of the object into `buffer`, whose former content is discarded.
    ///
    /// A range that reaches past the end of the object is [`ErrorKind::Truncated`]; an empty range of an
    /// existing object reads nothing.
    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()>;

    /// Tells the object's size in bytes.
    fn size(&self, key: &str) -> Result<u64>;

    /// Lists every object whose key is below `prefix`, a whole path such as `data/ab` or `""` for all.
    ///
    /// A prefix below which nothing lies is an empty list, not an error. `found` may stop the listing by
    /// returning an error, which is handed through.
    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()>;

    /// Removes the object; `Ok` when it was not there.
    fn delete(&self, key: &str) -> Result<()>;

    /// How many requests at once make this store fast: few for a disk, more for a network.
    fn parallelism(&self) -> usize;
}

/// Makes a pointer to a store a store, so that wrappers compose over `Arc<dyn Store>`.
macro_rules! forward {
    ($pointer:ident) => {
        impl<S: Store + ?Sized> Store for $pointer<S> {
            fn location(&self) -> String {
                (**self).location()
            }
            fn put(&self, key: &str, data: Bytes) -> Result<()> {
                (**self).put(key, data)
            }
            fn create(&self, key: &str, data: Bytes) -> Result<()> {
                (**self).create(key, data)
            }
            fn get(&self, key: &str) -> Result<Vec<u8>> {
                (**self).get(key)
            }
            fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
                (**self).get_range(key, range, buffer)
            }
            fn size(&self, key: &str) -> Result<u64> {
                (**self).size(key)
            }
            fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
                (**self).list(prefix, found)
            }
            fn delete(&self, key: &str) -> Result<()> {
                (**self).delete(key)
            }
            fn parallelism(&self) -> usize {
                (**self).parallelism()
            }
        }
    };
}

forward!(Arc);
forward!(Box);
