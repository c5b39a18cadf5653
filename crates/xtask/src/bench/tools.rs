//! The tools that are measured: how each is installed, called, and asked for its version.
//!
//! Every tool runs with its defaults, with encryption, and with a cache of its own that begins empty.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::measure::Invocation;
use crate::checks;
use crate::packages::{self, Package, on_path};
use crate::process::{Result, output, run};

/// A password for repositories of made-up data that live for a minute.
const PASSWORD: &str = "benchmark";

/// A backup program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Tool {
    /// Lifeboat as this clone builds it
    Lifeboat,
    /// restic as Debian packages it
    Restic,
    /// borg as Debian packages it, with zstd,1 and repokey
    Borg,
    /// rustic, built from source when asked for
    Rustic,
}

/// The directories of one turn of one tool.
pub struct Places {
    pub repository: PathBuf,
    pub cache: PathBuf,
    pub target: PathBuf,
}

/// A tool that is ready to run.
pub struct Installed {
    pub tool: Tool,
    program: PathBuf,
}

/// Installs or builds the tool if need be.
pub fn install(tool: Tool) -> Result<Installed> {
    let program = match tool {
        Tool::Lifeboat => build()?,
        Tool::Restic => packages::ensure(&[Package { name: "restic", present: || on_path("restic") }])
            .map(|()| "restic".into())?,
        Tool::Borg => packages::ensure(&[Package { name: "borgbackup", present: || on_path("borg") }])
            .map(|()| "borg".into())?,
        Tool::Rustic => crate::tools::rustic()?,
    };
    Ok(Installed { tool, program })
}

impl Tool {
    /// The word for it on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Lifeboat => "lifeboat",
            Tool::Restic => "restic",
            Tool::Borg => "borg",
            Tool::Rustic => "rustic",
        }
    }
}

impl Installed {
    /// The program itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What the tool says its version is.
    pub fn version(&self) -> Result<String> {
        let argument = if self.tool == Tool::Restic { "version" } else { "--version" };
        let version = output(Command::new(&self.program).arg(argument))?;
        Ok(version.lines().next().unwrap_or_default().to_owned())
    }

    /// Makes the repository.
    pub fn init(&self, places: &Places) -> Invocation {
        match self.tool {
            Tool::Lifeboat => self.lifeboat(places, &["init"]),
            Tool::Restic | Tool::Rustic => self.call(places, &["init"]),
            Tool::Borg => self.call(places, &["init", "--encryption", "repokey"]),
        }
    }

    /// Backs the corpus up; `number` tells the first time from the second.
    pub fn backup(&self, places: &Places, corpus: &Path, number: u32) -> Invocation {
        let mut invocation = match self.tool {
            Tool::Lifeboat => self.lifeboat(places, &["backup"]),
            Tool::Restic | Tool::Rustic => self.call(places, &["backup"]),
            Tool::Borg => self.call(places, &["create", "--compression", "zstd,1", &format!("::{number}")]),
        };
        invocation.words.push(corpus.into());
        invocation
    }

    /// Restores the newest backup into the target, which is an empty directory.
    pub fn restore(&self, places: &Places) -> Invocation {
        let mut invocation = match self.tool {
            Tool::Lifeboat => self.lifeboat(places, &["restore", "latest", "--target"]),
            Tool::Restic => self.call(places, &["restore", "latest", "--target"]),
            Tool::Rustic => self.call(places, &["restore", "latest"]),
            // Borg extracts into the working directory.
            Tool::Borg => {
                return Invocation {
                    directory: places.target.clone(),
                    ..self.call(places, &["extract", "::2"])
                };
            }
        };
        invocation.words.push(places.target.clone().into());
        invocation
    }

    /// Checks the repository, reading all of its data.
    pub fn check(&self, places: &Places) -> Invocation {
        match self.tool {
            Tool::Lifeboat => self.lifeboat(places, &["check", "--read-data"]),
            Tool::Restic | Tool::Rustic => self.call(places, &["check", "--read-data"]),
            Tool::Borg => self.call(places, &["check", "--verify-data"]),
        }
    }

    fn lifeboat(&self, places: &Places, arguments: &[&str]) -> Invocation {
        let mut invocation = self.call(places, &["repository"]);
        invocation.words.extend(arguments.iter().map(OsString::from));
        invocation
    }

    fn call(&self, places: &Places, arguments: &[&str]) -> Invocation {
        let mut words = vec![OsString::from(&self.program)];
        words.extend(arguments.iter().map(OsString::from));
        let [repository, password, cache] = match self.tool {
            Tool::Lifeboat => ["LIFEBOAT_REPOSITORY", "LIFEBOAT_PASSWORD", "XDG_CACHE_HOME"],
            Tool::Restic => ["RESTIC_REPOSITORY", "RESTIC_PASSWORD", "RESTIC_CACHE_DIR"],
            Tool::Borg => ["BORG_REPO", "BORG_PASSPHRASE", "BORG_BASE_DIR"],
            Tool::Rustic => ["RUSTIC_REPOSITORY", "RUSTIC_PASSWORD", "RUSTIC_CACHE_DIR"],
        };
        let variables = vec![
            (repository, places.repository.clone().into()),
            (password, PASSWORD.into()),
            (cache, places.cache.clone().into()),
        ];
        Invocation { words, variables, directory: places.cache.clone() }
    }
}

/// Builds Lifeboat for release and tells where the binary is.
fn build() -> Result<PathBuf> {
    run(checks::cargo().args(["build", "--release", "--locked", "--package", "lifeboat"]))?;
    let metadata = output(checks::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str().ok_or("cargo metadata names no target directory")?;
    Ok(Path::new(target).join("release/lifeboat"))
}
