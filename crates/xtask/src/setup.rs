//! `cargo xtask setup`: installs what tests and checks need, outside the clone.
//!
//! Everything here is idempotent and costs next to nothing when nothing is missing, because every test run
//! begins with it. What only the benchmark needs is installed by the benchmark.

use crate::packages::{self, Package, on_path};
use crate::process::Result;
use crate::tools;

/// What the tests run for real.
const PACKAGES: &[Package] = &[
    Package { name: "restic", present: || on_path("restic") },
    Package { name: "attr", present: || on_path("setfattr") && on_path("getfattr") },
    Package { name: "acl", present: || on_path("setfacl") && on_path("getfacl") },
    // libFuzzer, which the fuzz targets are linked with, is written in C++.
    Package { name: "g++", present: || on_path("c++") },
    // The application's own hands on a database, in another process.
    Package { name: "sqlite3", present: || on_path("sqlite3") },
    // Clusters of the tests' own; the one that the package makes is left alone.
    Package { name: "postgresql", present: || packages::postgres_programs().is_some() },
    // A server for services and checks, and what finds its processes.
    Package { name: "python3", present: || on_path("python3") },
    Package { name: "procps", present: || on_path("pgrep") },
    Package { name: "mount", present: || on_path("mount") },
    crate::bench::NEEDED_TO_MEASURE,
];

/// Installs whatever is missing.
pub fn run() -> Result<()> {
    packages::ensure(PACKAGES)?;
    tools::cargo_deny()?;
    tools::garage().map(drop)
}
