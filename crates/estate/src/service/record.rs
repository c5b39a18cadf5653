//! What a service of kind process remembers: which process it is, in one small file for each service.
//!
//! # Crash consistency
//! A record is replaced whole (write beside, sync, rename, sync the directory), so it is the old or the new one.
//! A start writes [`Phase::Starting`] with a mark that no other start ever has, starts the process with the mark in its
//! environment, and writes [`Phase::Running`]. Killed between the two, the next start finds the process by its mark and
//! adopts it, so that nothing is started twice.
//!
//! # Places
//! A record says for which place and which start of the machine it is; any other is as good as none. A twin sees the
//! records of the host through its overlay and must not take a live service of the host for its own, much less stop it.
//!
//! # Concurrency
//! Starting and stopping hold the lock file; reading needs none.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use place::ProcessId;
use serde::{Deserialize, Serialize};

use super::{Context, Error};
use crate::proc;

/// What this version writes; a newer one is refused, because it may mean something else.
const VERSION: u32 = 1;

/// A log that has grown beyond this is put aside at the next start, and the one before it is dropped.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How much of the end of a log is read for a message.
const TAIL_BYTES: u64 = 8 * 1024;

/// The files of one service in its state directory.
pub(super) struct Files<'a> {
    context: &'a Context<'a>,
    service: &'a str,
}

/// Which process a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    place: String,
    boot: String,
    /// In the environment of every process of this start, and of no other.
    pub(super) mark: String,
    /// When it was started.
    pub(super) since: Timestamp,
    /// Where in the log this start begins, in bytes.
    pub(super) log_begins: u64,
    pub(super) phase: Phase,
}

/// How far a start has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// It was to be started; whether it was is seen by its mark.
    Starting,
    /// It was.
    Running(ProcessId),
    /// It did its work, and counts as running without a process until it is stopped.
    Done,
}

impl Record {
    /// Makes the record of a start that is about to happen.
    pub(super) fn starting(context: &Context<'_>, mark: String, log_begins: u64) -> Record {
        Record {
            version: VERSION,
            place: context.place.name().to_owned(),
            boot: proc::boot(),
            mark,
            since: Timestamp::now(),
            log_begins,
            phase: Phase::Starting,
        }
    }
}

impl<'a> Files<'a> {
    pub(super) fn of(context: &'a Context<'a>, service: &'a str) -> Files<'a> {
        Files { context, service }
    }

    pub(super) fn log(&self) -> PathBuf {
        self.context.state.join(format!("{}.log", self.service))
    }

    fn record(&self) -> PathBuf {
        self.context.state.join(format!("{}.json", self.service))
    }

    /// Waits until nobody else starts or stops the service; the lock ends with the file that is returned.
    pub(super) fn lock(&self, verb: &'static str) -> Result<File, Error> {
        let path = self.context.state.join(format!("{}.lock", self.service));
        let file = self.within("open", &path, |path| {
            fs::create_dir_all(self.context.state)?;
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
        })?;
        let end = Instant::now() + self.context.timeout;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(state("lock", &path, &error)),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Busy { verb, service: self.service.to_owned() });
                }
            }
            if self.context.cancel.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reads the record, if there is one of this place and this start of the machine.
    pub(super) fn read(&self) -> Result<Option<Record>, Error> {
        let path = self.record();
        let bytes = self.within("read", &path, |path| match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            bytes => bytes.map(Some),
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let damaged = |why: String| Error::State {
            action: "understand",
            path: path.display().to_string(),
            why: format!("{why}; if {} does not run, remove the file", self.service),
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.version > VERSION {
            return Err(damaged(format!("a newer Lifeboat wrote it (version {})", record.version)));
        }
        let is_ours = record.place == self.context.place.name() && record.boot == proc::boot();
        Ok(is_ours.then_some(record))
    }

    /// Replaces the record; it is durable when this returns.
    pub(super) fn write(&self, record: &Record) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(record).expect("a record is numbers and words");
        self.within("write", &self.record(), |path| {
            let beside = path.with_extension("json.new");
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            File::open(self.context.state)?.sync_all()
        })
    }

    /// Removes the record.
    pub(super) fn remove(&self) -> Result<(), Error> {
        self.within("remove", &self.record(), |path| match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done.and_then(|()| File::open(self.context.state)?.sync_all()),
        })
    }

    /// Makes room in the log if it is long, and tells where the next start begins in it.
    pub(super) fn begin_log(&self) -> Result<u64, Error> {
        self.within("look at", &self.log(), |path| {
            let length = match fs::metadata(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => 0,
                metadata => metadata?.len(),
            };
            if length <= LOG_BYTES_MAX {
                return Ok(length);
            }
            fs::rename(path, path.with_extension("log.1"))?;
            Ok(0)
        })
    }

    /// The end of what was logged since a start.
    pub(super) fn log_tail(&self, begins: u64) -> String {
        let text = self.within("read", &self.log(), |path| {
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            // A log that became shorter was cut by somebody; then all of it is later than the start.
            let begins = if begins > length { 0 } else { begins };
            file.seek(SeekFrom::Start(begins.max(length.saturating_sub(TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        match text {
            Ok(text) if text.trim().is_empty() => "nothing".into(),
            Ok(text) => super::tail(&text, self.context.secrets),
            Err(error) => format!("({error})"),
        }
    }

    fn within<T: Send>(
        &self,
        action: &'static str,
        path: &Path,
        work: impl FnOnce(&Path) -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        self.context.place.within(|| work(path))?.map_err(|error| state(action, path, &error))
    }
}

fn state(action: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::State { action, path: path.display().to_string(), why: error.to_string() }
}
