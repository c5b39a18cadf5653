//! Debian packages: found by what they bring, installed when missing.

use std::path::Path;

use crate::paths;
use crate::process::{Result, as_root, run};

/// A package of Debian and the sign by which its presence is told.
pub struct Package {
    /// Its name for apt-get.
    pub name: &'static str,
    /// Tells whether what is needed of it is there, whoever installed it.
    pub present: fn() -> bool,
}

/// Installs those of the packages that are missing; quick when none is.
pub fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|package| !(package.present)()).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing Debian packages: {}", missing.join(" "));
    if !on_path("apt-get") {
        return Err(format!(
            "this system has no apt-get: install what these Debian packages bring by hand: {}",
            missing.join(" ")
        )
        .into());
    }
    // Package lists may be absent, as in a fresh container, or old; fetching them is worth it only then.
    if install(&missing).is_err() {
        run(as_root("apt-get").args(["update", "--quiet"]))?;
        install(&missing)?;
    }
    match packages.iter().find(|package| !(package.present)()) {
        Some(package) => {
            Err(format!("package {} is installed, but what is needed of it was not found", package.name)
                .into())
        }
        None => Ok(()),
    }
}

/// Tells whether a command of that name can be run.
pub fn on_path(command: &str) -> bool {
    paths::search_path().iter().any(|directory| directory.join(command).is_file())
}

/// Finds the directory with the programs of the newest PostgreSQL server; Debian keeps them off the PATH.
pub fn postgres_programs() -> Option<std::path::PathBuf> {
    let versions = Path::new("/usr/lib/postgresql").read_dir().ok()?.flatten();
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/initdb").is_file())
        .max_by_key(|path| number(path))?;
    Some(newest.join("bin"))
}

fn install(packages: &[&str]) -> Result<()> {
    let mut command = as_root("env");
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
    ]);
    run(command.args(packages))
}
