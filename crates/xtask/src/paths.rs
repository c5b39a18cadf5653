//! Where things are: the clone, and the cache beside it. The only place of this crate that reads the
//! environment.

use std::path::{Path, PathBuf};

use crate::process::Result;

/// The root of the clone.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate lies in crates/ of the workspace")
}

/// The directory outside the clone that tools and corpora are kept in, so that a fresh clone finds them.
pub fn cache() -> Result<PathBuf> {
    let base = match absolute("XDG_CACHE_HOME") {
        Some(cache) => cache,
        None => absolute("HOME")
            .ok_or("neither HOME nor XDG_CACHE_HOME is set: no place for a cache")?
            .join(".cache"),
    };
    Ok(base.join("lifeboat"))
}

/// The root that tools are installed under with `cargo install --root`; their commands are in `bin`.
pub fn tools() -> Result<PathBuf> {
    Ok(cache()?.join("tools"))
}

/// The directories in which commands are looked for.
///
/// The administrator's are searched too, even where an ordinary user's PATH leaves them out.
pub fn search_path() -> Vec<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect()
}

/// The S3 server that the developer wants tests to use instead of the one that setup builds.
pub fn given_garage() -> Option<PathBuf> {
    variable("LIFEBOAT_TEST_GARAGE").filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn absolute(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[expect(clippy::disallowed_methods, reason = "this binary is its own command line")]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}
