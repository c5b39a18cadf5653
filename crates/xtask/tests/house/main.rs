//! The rules of the house that no compiler checks: who may use whom, and how files are kept.

mod directions;
mod tidy;

use std::path::Path;

/// The root of the clone.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate lies in crates/ of the workspace")
}
