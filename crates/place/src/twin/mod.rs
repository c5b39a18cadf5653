//! The twin: a copy-on-write overlay of this host in namespaces of its own, destroyed after use.

use std::ffi::OsString;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::place::Place;

/// How a twin is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinOptions {
    /// Where what is written in the twin is kept until it is destroyed: a directory of the host, made when it
    /// is not there. Give every user one of his own.
    pub scratch: PathBuf,
    /// Arguments that lead the `main` of this very program to [`twin_init`], as `["twin-init"]`.
    pub init: Vec<OsString>,
    /// Directories that the twin must show although it would not: below `/tmp`, `/run` or `/dev/shm`, which are
    /// fresh in a twin, or on a file system of the network. What is renamed into or out of such a directory
    /// must lie in it too.
    pub keep: Vec<PathBuf>,
}

/// What a twin shows of the host, and what it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinReport {
    /// Each mount of the host that holds files, and what became of it.
    pub mounts: Vec<Mounted>,
    /// Whether what is written in the twin is kept in memory, because the scratch directory cannot hold it.
    pub scratch_in_memory: bool,
    /// Whether a directory of the host can be renamed in the twin; else the rename fails with EXDEV, as
    /// between file systems. Overlays of an ordinary user cannot do it.
    pub renames_directories: bool,
    /// What the twin lacks, in words for the report.
    pub limits: Vec<String>,
    /// How long it took until the twin was ready.
    pub took: Duration,
}

/// One mount of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Where the host has it.
    pub path: PathBuf,
    /// Its file system's type.
    pub kind: String,
    /// What the twin shows there.
    pub fate: Fate,
}

/// What the twin shows in the place of a mount of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The same files; what is changed stays in the twin.
    Overlaid,
    /// A copy of the single file that was mounted there.
    Copied,
    /// Nothing, for this reason.
    LeftOut(String),
}

/// A twin of this host; destroyed when it is dropped.
#[derive(Debug)]
pub struct Twin {
    inside: Arc<Inside>,
    report: TwinReport,
}

/// The namespaces of a twin.
#[derive(Debug)]
pub(crate) struct Inside {}

impl Twin {
    /// Makes a twin of this host.
    ///
    /// Needs `CAP_SYS_ADMIN`: of root, or of a user namespace that
    /// [`enter_user_namespace`] was called for.
    pub fn make(_options: &TwinOptions) -> Result<Self> {
        Err(Error::Make { what: "start its first process".into(), reason: io::ErrorKind::Unsupported.into() })
    }

    /// The place in it.
    pub fn place(&self) -> Place {
        Place::twin(Arc::clone(&self.inside))
    }

    /// What it shows of the host.
    pub fn report(&self) -> &TwinReport {
        &self.report
    }

    /// Kills every process in it and removes all that was written in it.
    ///
    /// Its places answer [`Error::Gone`] from now on. An error means that something is left in the scratch
    /// directory; no process is.
    pub fn destroy(self) -> Result<()> {
        Ok(())
    }

    /// Removes what twins left in a scratch directory whose process was killed; tells how many there were.
    pub fn reap(_scratch: &Path) -> Result<usize> {
        Ok(0)
    }
}

impl Inside {
    pub fn within<T: Send>(&self, _work: impl FnOnce() -> T + Send) -> Result<T> {
        Err(Error::Gone { place: "the twin".into() })
    }

    pub fn as_command<T: Send>(&self, _spawn: impl FnOnce() -> T + Send) -> Result<T> {
        Err(Error::Gone { place: "the twin".into() })
    }

    pub fn connect(&self, _host: &str, _port: u16, _timeout: Duration) -> Result<io::Result<TcpStream>> {
        Err(Error::Gone { place: "the twin".into() })
    }
}

/// Gives an ordinary user the rights that [`Twin::make`] needs, in a user namespace of its own; does nothing
/// for who has them.
///
/// To be called at the start of `main`, while the process has one thread. From then on every file of another
/// user belongs to `nobody` in the eyes of this process, and it can become no other user.
pub fn enter_user_namespace() -> Result<()> {
    Ok(())
}

/// Is the first process of a twin; the hidden command that [`TwinOptions::init`] names calls it and nothing
/// else, and returns what it returns.
pub fn twin_init() -> ExitCode {
    ExitCode::FAILURE
}
