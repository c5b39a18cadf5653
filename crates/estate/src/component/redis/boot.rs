//! A private server for a dump: it loads what a restored server would load, and can be asked.
//!
//! # What it must not do
//! It answers on a socket in a directory that only this user may enter, and at no port; it has a configuration of its own,
//! no modules, no users but the default one, and no limit of memory, by which it would throw keys away. It works in a
//! directory of its own, into which the files are linked, and saves nothing. As a replica it has nothing to append.
//!
//! # Why it is a replica of nobody
//! A server that is its own master forgets keys whose time is up while it loads them and afterwards, so that the count
//! would depend on when it is asked. A replica waits for its master's word. Its master is port 0, where nothing can
//! be, so that no word ever comes; and a replica refuses to be written to, so that a fact cannot change anything.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use place::{Command, Limits, Place, ProcessId};

use super::super::{Cancel, Holders};
use super::connection::{Address, Connection, Failure, Login, Patience};
use super::layout::{Files, Layout};
use crate::{Error, Result};

/// Where Redis' programs are, by the packages that bring them.
const DIRECTORIES: &[&str] =
    &["/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/redis/bin", "/opt/valkey/bin"];
/// The longest path of a socket on Linux.
const SOCKET_BYTES_MAX: usize = 107;
const LOOK_EVERY: Duration = Duration::from_millis(50);
const STOP_GRACE: Duration = Duration::from_secs(5);
const DATABASES_MIN: u64 = 16;
const LOG_LINES_MAX: usize = 4;
/// What a server says when it is not the data that is wrong.
const NOT_THE_DATA: &[&str] =
    &["CONFIG FILE ERROR", "module", "Cannot allocate", "Out Of Memory", "Unix socket", "fork"];

/// The programs of one kind of server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    directory: PathBuf,
    /// `redis` or `valkey`.
    family: &'static str,
}

impl Programs {
    /// Finds them; the reason in words when there are none. Those of `preferred` go before the other's.
    pub(super) fn find(given: Option<&Path>, preferred: &str) -> std::result::Result<Self, String> {
        let mut families = ["redis", "valkey"];
        if preferred.starts_with("Valkey") {
            families.reverse();
        }
        let directories: Vec<PathBuf> = match given {
            Some(given) => vec![given.to_owned()],
            None => DIRECTORIES.iter().map(PathBuf::from).collect(),
        };
        for family in families {
            for directory in &directories {
                let programs = Self { directory: directory.clone(), family };
                if ["server", "check-rdb", "check-aof"].iter().all(|name| programs.path(name).is_file()) {
                    return Ok(programs);
                }
            }
        }
        let tried: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        Err(format!(
            "no redis-server or valkey-server, with its redis-check-rdb and redis-check-aof, is in {}: install \
             them (on Debian `redis-server`), or name their directory with `binaries:`",
            tried.join(", ")
        ))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(self.name(name))
    }

    /// What a program is called, such as `redis-check-rdb` for `check-rdb`.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.family)
    }

    /// Runs one of the checking programs on a file; what it says when it does not end well.
    pub(super) fn check(
        &self,
        name: &str,
        file: &Path,
        place: &Place,
        limits: &Limits<'_>,
    ) -> Result<std::result::Result<(), String>> {
        let what = self.name(name);
        let command = Command::new(self.path(name), [file]).named(&what).clean_environment();
        let failed = |error: place::Error| Error::Command { what: what.clone(), why: error.to_string() };
        let ended = place.run(&command, limits).map_err(failed)?;
        if ended.success() {
            return Ok(Ok(()));
        }
        let said = format!("{}\n{}", ended.out.text(), ended.err.text());
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("; ");
        Ok(Err(format!("{}: {last}", ended.end)))
    }
}

/// What a private server is started with.
pub(super) struct Boot<'a> {
    pub place: &'a Place,
    pub programs: &'a Programs,
    /// A data directory; on the file system of `work`.
    pub data: &'a Path,
    /// What of it the server is to load.
    pub files: &'a Files,
    pub layout: &'a Layout,
    /// A directory that does not exist yet, or is left from an earlier attempt.
    pub work: PathBuf,
    /// How many databases the server must have at least.
    pub databases: u64,
    pub timeout: Duration,
    pub cancel: &'a Cancel,
}

/// A running private server; dropping it stops it and removes its directory.
pub(super) struct Private<'a> {
    boot: &'a Boot<'a>,
    process: ProcessId,
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum No {
    /// The data is not as it must be; the end of the server's log.
    Wrong(String),
    /// It could not be tried.
    Untried(String),
}

impl<'a> Boot<'a> {
    /// Starts the server and waits until it has loaded everything and answers.
    pub(super) fn start(&'a self) -> Result<std::result::Result<Private<'a>, No>> {
        let made = self.within(|| {
            self.end_one_left_over();
            self.make_directory()
        })?;
        let socket = match made {
            Ok(socket) => socket,
            Err(error) => {
                self.clean();
                return Ok(Err(No::Untried(error.to_string())));
            }
        };
        let command = Command::new(self.programs.path("server"), self.arguments(&socket))
            .named(self.programs.name("server"))
            .directory(&self.work)
            .clean_environment();
        let process = match self.place.start(&command, &self.log()) {
            Ok(process) => process,
            Err(error) => {
                self.clean();
                return Ok(Err(No::Untried(error.to_string())));
            }
        };
        let private = Private { boot: self, process, socket };
        Ok(private.wait()?.map(|()| private))
    }

    /// A run before this one may have been killed while its server ran.
    fn end_one_left_over(&self) {
        for holder in Holders::working_in(&self.work) {
            if let Ok(process) =
                i32::try_from(holder.pid).map_err(|_| ()).and_then(|pid| ProcessId::of(pid).map_err(|_| ()))
            {
                _ = process.stop(STOP_GRACE);
            }
        }
    }

    /// Makes the directory with everything that the server loads; gives the place of its socket.
    fn make_directory(&self) -> Result<PathBuf> {
        crate::swap::remove(&self.work)?;
        let make =
            |path: &Path| fs::DirBuilder::new().mode(0o700).create(path).map_err(Error::io("create", path));
        make(&self.work)?;
        if let Some((list, text)) = &self.files.list {
            let list = self.work.join(list);
            make(list.parent().unwrap_or(&self.work))?;
            fs::write(&list, text).map_err(Error::io("write", &list))?;
        }
        for file in &self.files.files {
            let link = self.work.join(file);
            fs::hard_link(self.data.join(file), &link).map_err(Error::io("link", &link))?;
        }
        if let Some(empty) = &self.files.empty {
            let empty = self.work.join(empty);
            fs::write(&empty, "").map_err(Error::io("create", &empty))?;
        }
        let mut directory = self.work.clone();
        if directory.as_os_str().len() + "/socket".len() > SOCKET_BYTES_MAX {
            let found = fs::metadata(&self.work).map_err(Error::io("look at", &self.work))?;
            directory = PathBuf::from(format!("/tmp/lifeboat-redis-{:x}-{:x}", found.dev(), found.ino()));
            crate::swap::remove(&directory)?;
            make(&directory)?;
        }
        Ok(directory.join("socket"))
    }

    fn arguments(&self, socket: &Path) -> Vec<OsString> {
        let fixed = [
            ("port", "0"),
            ("unixsocketperm", "700"),
            ("daemonize", "no"),
            ("supervised", "no"),
            ("logfile", ""),
            ("loglevel", "notice"),
            ("save", ""),
            ("replica-read-only", "yes"),
            ("replica-serve-stale-data", "yes"),
            ("maxmemory", "0"),
            // What is cut off is not whole.
            ("aof-load-truncated", "no"),
            ("auto-aof-rewrite-percentage", "0"),
        ];
        let mut arguments: Vec<OsString> = Vec::new();
        let mut set = |name: &str, value: OsString| arguments.extend([format!("--{name}").into(), value]);
        for (name, value) in fixed {
            set(name, value.into());
        }
        for (name, value) in self.layout.settings() {
            set(name, value.into());
        }
        set("dir", self.work.clone().into());
        set("unixsocket", socket.into());
        set("databases", self.databases.max(DATABASES_MIN).to_string().into());
        arguments.extend(["--replicaof", "127.0.0.1", "0"].map(OsString::from));
        arguments
    }

    fn clean(&self) {
        // What stays is in the way of nothing, and is removed by the next attempt.
        _ = self.within(|| crate::swap::remove(&self.work));
    }

    fn log(&self) -> PathBuf {
        self.work.join("log")
    }

    /// Why the server has ended, by its log.
    fn why(&self) -> No {
        let text = self.within(|| fs::read_to_string(self.log()).unwrap_or_default()).unwrap_or_default();
        let lines = text.lines().filter_map(|line| match line.split_once(" # ") {
            Some((_, said)) => Some(said.trim()),
            None => line.contains("***").then_some(line.trim()),
        });
        // Every server on a machine that is not tuned says this.
        let lines: Vec<&str> = lines.filter(|line| !line.starts_with("WARNING")).collect();
        let said = lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("; ");
        if said.is_empty() {
            return No::Untried("it ended without a word".to_owned());
        }
        if said.contains("Can't handle RDB format") {
            let hint =
                "a newer server made this dump: install that version, or name its programs with `binaries:`";
            return No::Wrong(format!("{said}: {hint}"));
        }
        if said.contains("module") {
            let hint = "it needs a module, and a proof loads none";
            return No::Untried(format!("{said}: {hint}"));
        }
        if NOT_THE_DATA.iter().any(|words| said.contains(words)) {
            No::Untried(said)
        } else {
            No::Wrong(said)
        }
    }

    /// Does something where the place's files are.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let failed =
            |error: place::Error| Error::Command { what: "the proof".to_owned(), why: error.to_string() };
        self.place.within(work).map_err(failed)
    }
}

impl Private<'_> {
    /// Waits until the server answers, or has ended.
    fn wait(&self) -> Result<std::result::Result<(), No>> {
        let deadline = Instant::now() + self.boot.timeout;
        loop {
            if self.boot.cancel.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if !self.boot.place.is_running(&self.process) {
                return Ok(Err(self.boot.why()));
            }
            match self.connect().and_then(|mut connection| connection.ask(&["PING"])) {
                Ok(_) => return Ok(Ok(())),
                Err(Failure::Interrupted) => return Err(Error::Interrupted),
                Err(_) => {}
            }
            if Instant::now() > deadline {
                let why = format!("the private server did not answer within {:?}", self.boot.timeout);
                return Ok(Err(No::Untried(why)));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Connects to it.
    pub(super) fn connect(&self) -> std::result::Result<Connection, Failure> {
        let address = Address::Socket(self.socket.clone());
        Connection::open(&address, &Login::default(), self.boot.place, self.boot.cancel, Patience::WORK)
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        _ = self.boot.place.stop(&self.process, STOP_GRACE);
        if let Some(directory) = self.socket.parent().filter(|directory| **directory != self.boot.work) {
            _ = self.boot.within(|| crate::swap::remove(directory));
        }
        self.boot.clean();
    }
}
