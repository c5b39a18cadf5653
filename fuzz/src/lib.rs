//! What the fuzz targets do with an input: parse it as one kind of bytes, and hold what came out to account.
//!
//! Bytes of others lie beneath every function here, so none may panic, overflow, run for long or take memory that the
//! input does not justify. A target also asserts what must hold whenever the bytes make sense at all: what
//! was read can be written and read again, and lookups agree with each other. `fuzz_targets/` has one file
//! a function; the drawing of inputs is libFuzzer's.

mod chunk;
mod files;
mod index;
mod log;
mod plan_file;
mod run;
mod text;

pub use chunk::{blob, chunks, sealed_file, sidecar};
pub use files::{pack_header, small_files, snapshot, tree};
pub use index::{index_blobs, index_file};
pub use log::log_segment;
pub use plan_file::plan;
pub use run::{journal, run_events};
pub use text::{name, patterns, time};

use repository::crypto::MasterKey;

/// A key that is the same in every run.
fn key() -> MasterKey {
    let mut bytes = [0; 64];
    for (value, byte) in (1..).zip(&mut bytes) {
        *byte = value;
    }
    MasterKey::from_bytes(&bytes)
}
