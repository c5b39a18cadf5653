//! A private server for a restored cluster: it replays the log that the backup came with, and can be asked.
//!
//! # What it must not do
//! It answers on a socket in a directory that only its user may enter, with access rules and settings of its own; it
//! archives nothing, follows nobody, runs no jobs and no libraries of extensions, subscribes to nothing. What was set with
//! `ALTER SYSTEM` lies in the data directory, so that everything that matters is said on the command line, which is stronger.
//!
//! # Where recovery ends
//! At the end of the backup and nowhere else: `recovery_target = 'immediate'` makes the server stop with an error when the
//! log ends before, and begin a timeline of its own otherwise, so that its log is never taken for the source's. Or,
//! where a log archive goes on from there, at its target (`replay`): the server recovers as a standby does, which never takes a
//! log that stops for one that ends.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use place::{Command, Limits, Place, ProcessId};

use super::super::Cancel;
use super::connection::{Address, Connection, Failure, Login};
use crate::{Error, Result};

/// The directory of the private server in the data directory; recovery and restores take no notice of it.
pub(super) const DIRECTORY: &str = "lifeboat-proof";
/// Debian's directories of programs, with the version for `{}`.
const PROGRAMS: &[&str] =
    &["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql/bin", "/usr/bin"];
/// The longest path of a socket on Linux.
const SOCKET_BYTES_MAX: usize = 107;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an orderly stop may take, which writes everything that is in memory.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
const LOG_LINES_MAX: usize = 6;

/// What a private server is started with.
pub(super) struct Boot<'a> {
    pub place: &'a Place,
    /// The restored data directory.
    pub data: &'a Path,
    pub programs: PathBuf,
    /// The owner of the data directory, as whom the server runs.
    pub owner: (u32, u32),
    /// Settings of the source that replaying its log needs.
    pub settings: Vec<(String, String)>,
    pub timeout: Duration,
    pub cancel: &'a Cancel,
    pub recovery: Recovery,
}

/// How a private server recovers, where there is something to recover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recovery {
    /// To the end of the backup, by the log that came with it.
    Backup,
    /// The same for a backup of a standby, whose log ends where the backup does: all of it.
    StandbysBackup,
    /// Along a log that is handed to it. It does not end its recovery by itself but at the target.
    Log {
        /// What it calls for a file of the log.
        command: String,
        /// The timeline in which it ends.
        timeline: u32,
        /// The target, if it is not all that is handed to it.
        target: Option<(&'static str, String)>,
    },
}

/// A running private server; dropping it stops it at once.
pub(super) struct Private<'a> {
    boot: &'a Boot<'a>,
    process: ProcessId,
    socket: PathBuf,
    stopped: bool,
}

/// Why there is no answer.
pub(super) enum No {
    /// The cluster is not as it must be; the end of the server's log.
    Wrong(String),
    /// It could not be tried.
    Untried(String),
}

/// Finds the programs of a version; the reason in words when there are none.
pub(super) fn programs(given: Option<&Path>, major: &str) -> std::result::Result<PathBuf, String> {
    let places: Vec<PathBuf> = match given {
        Some(given) => vec![given.to_owned()],
        None => PROGRAMS.iter().map(|pattern| PathBuf::from(pattern.replace("{}", major))).collect(),
    };
    let whole = |directory: &&PathBuf| {
        ["postgres", "pg_ctl", "pg_waldump", "pg_checksums"].iter().all(|name| directory.join(name).is_file())
    };
    places.iter().find(whole).cloned().ok_or_else(|| {
        let tried: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        format!(
            "the programs of PostgreSQL {major} are not in {}: install them (on Debian `postgresql-{major}`), or name \
             their directory with `binaries:`",
            tried.join(", ")
        )
    })
}

/// Why no server can be started on files of this user, if none can.
pub(super) fn hindrance(owner: u32) -> Option<String> {
    let me = rustix::process::geteuid();
    if owner == 0 {
        return Some("its files are root's, as whom PostgreSQL does not run".to_owned());
    }
    (!me.is_root() && me.as_raw() != owner)
        .then(|| format!("its files are of the user {owner}: run this as that user, or as root"))
}

impl Recovery {
    fn settings(&self) -> Vec<(&'static str, String)> {
        let command = match self {
            Self::Backup | Self::StandbysBackup => "false".to_owned(),
            Self::Log { command, .. } => command.clone(),
        };
        let timeline = match self {
            Self::Backup | Self::StandbysBackup => "current".to_owned(),
            Self::Log { timeline, .. } => timeline.to_string(),
        };
        let target = match self {
            Self::Backup => Some(("recovery_target", "immediate".to_owned())),
            Self::StandbysBackup => None,
            Self::Log { target, .. } => target.clone(),
        };
        // The server refuses two targets, and an empty one after another, too: those that may be left from an earlier
        // recovery come first.
        let all = [
            "recovery_target",
            "recovery_target_time",
            "recovery_target_lsn",
            "recovery_target_name",
            "recovery_target_xid",
        ];
        let is_position = target.as_ref().is_some_and(|(target, _)| *target == "recovery_target_lsn");
        let others = all.iter().filter(|name| target.as_ref().is_none_or(|(target, _)| target != *name));
        let mut settings: Vec<(&'static str, String)> = others.map(|name| (*name, String::new())).collect();
        settings.extend(target);
        settings.extend([
            ("restore_command", command),
            ("recovery_target_timeline", timeline),
            ("recovery_target_action", "promote".to_owned()),
            // Up to and with an instant; before a position.
            ("recovery_target_inclusive", if is_position { "off" } else { "on" }.to_owned()),
            ("wal_retrieve_retry_interval", "20ms".to_owned()),
        ]);
        settings
    }
}

impl<'a> Boot<'a> {
    /// Starts the server and waits until it has replayed its log and answers.
    pub(super) fn start(&'a self) -> Result<std::result::Result<Private<'a>, No>> {
        let begun = self.begin_with(|| Ok(()))?;
        match begun {
            Ok(private) => Ok(private.wait()?.map(|()| private)),
            Err(no) => Ok(Err(no)),
        }
    }

    /// Starts the server, when `more` has made what it needs beside, and waits for nothing.
    pub(super) fn begin_with(
        &'a self,
        more: impl FnOnce() -> std::io::Result<()> + Send,
    ) -> Result<std::result::Result<Private<'a>, No>> {
        self.end_one_left_over();
        let made = self.within(|| {
            let socket = self.make_directory()?;
            more().map(|()| socket)
        })?;
        let socket = match made {
            Ok(socket) => socket,
            Err(error) => return Ok(Err(No::Untried(error.to_string()))),
        };
        let log = self.log();
        let command = self.command("postgres", self.arguments(&socket));
        let process = match self.place.start(&command, &log) {
            Ok(process) => process,
            Err(error) => return Ok(Err(No::Untried(error.to_string()))),
        };
        Ok(Ok(Private { boot: self, process, socket, stopped: false }))
    }

    /// A run before this one may have been killed while its server ran.
    fn end_one_left_over(&self) {
        let left = self.within(|| super::server::Postmaster::alive(self.data).is_some());
        if left.unwrap_or(false) {
            _ = self.run("pg_ctl", &["stop", "-m", "immediate", "-w", "-D"]);
        }
        _ = self.within(|| fs::remove_file(self.data.join("postmaster.pid")));
    }

    /// Makes the directory of settings and socket, and asks for a recovery if a backup is to be recovered.
    fn make_directory(&self) -> std::io::Result<PathBuf> {
        let directory = self.data.join(DIRECTORY);
        _ = fs::remove_dir_all(&directory);
        let mut socket = directory.clone();
        if socket.as_os_str().len() + "/.s.PGSQL.5432".len() > SOCKET_BYTES_MAX {
            let found = fs::metadata(self.data)?;
            socket = PathBuf::from(format!("/tmp/lifeboat-proof-{:x}-{:x}", found.dev(), found.ino()));
            _ = fs::remove_dir_all(&socket);
        }
        for made in [&directory, &socket] {
            if !made.is_dir() {
                fs::DirBuilder::new().mode(0o700).create(made)?;
                self.give(made)?;
            }
        }
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text)?;
            self.give(&path)
        };
        write(directory.join("postgresql.conf"), "")?;
        write(directory.join("pg_hba.conf"), "local all all trust\n")?;
        write(directory.join("pg_ident.conf"), "")?;
        match self.recovery {
            Recovery::Backup | Recovery::StandbysBackup if self.data.join("backup_label").exists() => {
                _ = fs::remove_file(self.data.join("standby.signal"));
                write(self.data.join("recovery.signal"), "")?;
            }
            Recovery::Backup | Recovery::StandbysBackup => {}
            Recovery::Log { .. } => {
                _ = fs::remove_file(self.data.join("recovery.signal"));
                write(self.data.join("standby.signal"), "")?;
            }
        }
        Ok(socket)
    }

    /// Makes a path the server's user's own.
    pub(super) fn give(&self, path: &Path) -> std::io::Result<()> {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(self.owner.0), Some(self.owner.1))?;
        }
        Ok(())
    }

    fn arguments(&self, socket: &Path) -> Vec<OsString> {
        let directory = self.data.join(DIRECTORY);
        let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let mut settings = vec![
            ("config_file", path("postgresql.conf")),
            ("hba_file", path("pg_hba.conf")),
            ("ident_file", path("pg_ident.conf")),
            // A list of directories, so that a comma in one must be quoted.
            ("unix_socket_directories", format!("\"{}\"", socket.display())),
            ("port", "5432".to_owned()),
        ];
        let fixed = [
            ("listen_addresses", ""),
            ("unix_socket_permissions", "0700"),
            ("external_pid_file", ""),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_min_messages", "warning"),
            ("log_line_prefix", "%b: "),
            ("ssl", "off"),
            ("archive_mode", "off"),
            ("archive_cleanup_command", ""),
            ("recovery_end_command", ""),
            ("primary_conninfo", ""),
            ("primary_slot_name", ""),
            // Nobody is to be asked before the log is replayed, and then the source's limits do not matter.
            ("hot_standby", "off"),
            ("shared_preload_libraries", ""),
            ("session_preload_libraries", ""),
            ("local_preload_libraries", ""),
            ("max_logical_replication_workers", "0"),
            ("autovacuum", "off"),
            ("synchronous_standby_names", ""),
            ("default_transaction_read_only", "off"),
            ("huge_pages", "off"),
            ("shared_buffers", "128MB"),
            ("jit", "off"),
        ];
        settings.extend(fixed.map(|(name, value)| (name, value.to_owned())));
        settings.extend(self.recovery.settings());
        let mut arguments: Vec<OsString> = vec!["-D".into(), self.data.into()];
        let source = self.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in settings.into_iter().chain(source) {
            arguments.push("-c".into());
            arguments.push(format!("{name}={value}").into());
        }
        arguments
    }

    fn command(&self, program: &str, arguments: Vec<OsString>) -> Command {
        let command = Command::new(self.programs.join(program), arguments)
            .named(program)
            .directory(self.data)
            .clean_environment();
        if rustix::process::geteuid().is_root() { command.user(self.owner.0, self.owner.1) } else { command }
    }

    /// Runs one of the programs on the data directory, which is its last argument.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<place::Finished> {
        self.run_on(program, arguments, self.data)
    }

    /// Runs one of the programs with a path as its last argument.
    pub(super) fn run_on(&self, program: &str, arguments: &[&str], path: &Path) -> Result<place::Finished> {
        let mut all: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        all.push(path.into());
        let limits = Limits { cancel: Some(self.cancel), ..Limits::timeout(self.timeout.max(STOP_TIMEOUT)) };
        let failed =
            |error: place::Error| Error::Command { what: program.to_owned(), why: error.to_string() };
        self.place.run(&self.command(program, all), &limits).map_err(failed)
    }

    /// Removes what the private server needed, and only that.
    pub(super) fn clean(&self) -> Result<()> {
        self.within(|| {
            for name in [DIRECTORY, "tablespace_map.old", "postmaster.opts"] {
                let path = self.data.join(name);
                crate::swap::remove(&path)?;
            }
            Ok(())
        })?
    }

    fn log(&self) -> PathBuf {
        self.data.join(DIRECTORY).join("log")
    }

    /// What the server said last that matters.
    fn said(&self) -> String {
        let text = self.within(|| fs::read_to_string(self.log())).ok().and_then(std::result::Result::ok);
        let text = text.unwrap_or_default();
        let bad = ["FATAL", "PANIC", "ERROR", "WARNING", "could not", "postgres:"];
        let lines = text.lines().filter(|line| bad.iter().any(|word| line.contains(word)));
        let lines: Vec<&str> = lines.map(str::trim).collect();
        lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("; ")
    }

    /// Does something where the place's files are.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let failed =
            |error: place::Error| Error::Command { what: "the proof".to_owned(), why: error.to_string() };
        self.place.within(work).map_err(failed)
    }
}

impl Private<'_> {
    /// Tells what the server said at its end, if it has ended.
    pub(super) fn ended(&self) -> Option<String> {
        if self.boot.place.is_running(&self.process) {
            return None;
        }
        let said = self.boot.said();
        Some(if said.is_empty() { "it ended without a word".to_owned() } else { said })
    }

    /// Waits until the server answers, or has ended.
    pub(super) fn wait(&self) -> Result<std::result::Result<(), No>> {
        let deadline = Instant::now() + self.boot.timeout;
        loop {
            if self.boot.cancel.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if let Some(said) = self.ended() {
                return Ok(Err(No::Wrong(said)));
            }
            if self.answers()? {
                return Ok(Ok(()));
            }
            if Instant::now() > deadline {
                let why = format!("the restored server did not answer within {:?}", self.boot.timeout);
                return Ok(Err(No::Untried(why)));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Tells whether it has ended its recovery and answers.
    pub(super) fn answers(&self) -> Result<bool> {
        let nobody = Login {
            user: "postgres".to_owned(),
            database: "template1".to_owned(),
            password: None,
            tls: None,
        };
        match self.connect(&nobody) {
            Ok(_) => Ok(true),
            // Any answer but "not yet" is one: who may log in is seen when the questions are asked.
            Err(Failure::Server { code, .. }) => Ok(code != "57P03"),
            Err(Failure::Interrupted) => Err(Error::Interrupted),
            Err(_) => Ok(false),
        }
    }

    /// Connects to it.
    pub(super) fn connect(&self, login: &Login) -> std::result::Result<Connection, Failure> {
        let address = Address::Socket(self.socket.join(".s.PGSQL.5432"));
        let open = || Connection::open(&address, login, None, self.boot.cancel);
        self.boot.place.within(open).map_err(|error| Failure::Refused(error.to_string()))?
    }

    /// The directory of its socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops it in order, so that everything is on the disk.
    pub(super) fn stop(mut self) -> Result<std::result::Result<(), String>> {
        let stopped = self.boot.run("pg_ctl", &["stop", "-m", "fast", "-w", "-t", "600", "-D"])?;
        self.stopped = stopped.success();
        let said = format!("pg_ctl {}: {}", stopped.end, stopped.err.text().trim());
        self.remove_socket();
        Ok(if self.stopped { Ok(()) } else { Err(said) })
    }

    fn remove_socket(&self) {
        if !self.socket.starts_with(self.boot.data) {
            _ = self.boot.within(|| fs::remove_dir_all(&self.socket));
        }
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        if !self.stopped {
            _ = self.boot.place.stop(&self.process, Duration::from_secs(5));
            self.remove_socket();
        }
    }
}
