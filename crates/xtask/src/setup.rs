//! `cargo xtask setup`: installs what tests and checks need, outside the clone.
//!
//! Everything here is idempotent and costs next to nothing when nothing is missing, because every test run
//! begins with it. What only the benchmark needs is installed by the benchmark.

use std::path::Path;
use std::process::Command;

use crate::packages::{self, Package, on_path};
use crate::process::{Result, output};
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
    // Servers of the tests' own; the one that the package brings is left alone.
    Package { name: "redis-server", present: || on_path("redis-server") && on_path("redis-cli") },
    // A server for services and checks, and what finds its processes.
    Package { name: "python3", present: || on_path("python3") },
    Package { name: "python3-venv", present: has_venv },
    Package { name: "openssl", present: || on_path("openssl") },
    Package { name: "procps", present: || on_path("pgrep") },
    // Clocks that jump.
    Package { name: "libfaketime", present: || is_in_library_folder("faketime/libfaketime.so.1") },
    // Deaths at a chosen call to the kernel.
    Package { name: "strace", present: || on_path("strace") },
    Package { name: "mount", present: || on_path("mount") },
    // Services that are units, on a machine of the tests' own that it boots; and what makes that machine.
    Package { name: "systemd", present: || Path::new("/lib/systemd/systemd").exists() },
    Package {
        name: "util-linux",
        present: || ["unshare", "nsenter", "setpriv"].iter().all(|it| on_path(it)),
    },
    crate::bench::NEEDED_TO_MEASURE,
];

/// Tells whether one of the machine's folders of libraries has a file.
fn is_in_library_folder(name: &str) -> bool {
    let folders = std::path::Path::new("/usr/lib").read_dir().into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join(name)).any(|path| path.is_file())
}

/// Installs whatever is missing.
pub fn run() -> Result<()> {
    packages::ensure(PACKAGES)?;
    tools::cargo_deny()?;
    tools::garage()?;
    tools::moto()
}

/// Debian packs what makes environments apart from Python itself.
fn has_venv() -> bool {
    output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok()
}
