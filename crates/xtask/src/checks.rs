//! The checks that need no test: format, lints, licences and sources of dependencies, documents, and a little fuzzing.
//!
//! Crate directions and the tidiness of files are tests (`tests/house`), so that `cargo test` shows them too.

use std::process::Command;

use crate::process::{Result, run};
use crate::{fuzz, paths, tools};

/// A check by name; it shows its own findings.
pub type Check = (&'static str, fn() -> Result<()>);

/// All of them, quickest first.
pub const ALL: &[Check] = &[
    ("format", format),
    ("dependencies", dependencies),
    ("clippy", clippy),
    ("documents", documents),
    ("fuzz", fuzz::briefly),
];

fn format() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))
}

/// Advisories are left out: their database is fetched from the network and changes by itself, so that
/// a commit which passed would fail later for no change of its own.
fn dependencies() -> Result<()> {
    let mut command = Command::new(tools::cargo_deny()?);
    command.current_dir(paths::workspace());
    run(command.args([
        "--workspace",
        "--all-features",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))
}

fn clippy() -> Result<()> {
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))
}

fn documents() -> Result<()> {
    run(cargo()
        .args(["doc", "--workspace", "--no-deps", "--document-private-items", "--all-features", "--locked"])
        .env("RUSTDOCFLAGS", "-D warnings"))
}

/// Makes a cargo command that works on the whole workspace, wherever xtask was called.
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(paths::workspace());
    command
}
