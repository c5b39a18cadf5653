//! A server that is dumped or loaded into: how our own connection and PostgreSQL's programs reach it.
//!
//! A password goes to the programs in their environment, which no list of processes shows to other users. A socket is
//! reached as the user of this machine who has the role's name, where we may choose (as root): with `peer`
//! authentication the server believes the kernel's word for it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use place::{Command, End, Finished, Limits, Place};

use super::super::super::{Cancel, DumpOptions, Tls};
use super::super::connection::{Address, Connection, Failure, Login};
use super::super::server;
use crate::check::Trust;
use crate::{Error, Result};

const PORT: u16 = 5432;
/// Where Debian's servers and those built from source have their sockets.
const SOCKETS: &[&str] = &["/run/postgresql", "/tmp"];
const ROLE: &str = "postgres";
/// The system's authorities, where Debian has them; PostgreSQL's programs before 16 do not look for them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How many of a failed program's last lines are told.
const LINES_TOLD: usize = 4;
/// A list of what is in a dump has a line for each thing in the database.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// How a server is reached.
pub(super) struct Reach<'a> {
    pub place: &'a Place,
    pub cancel: &'a Cancel,
    pub user: String,
    pub timeout: Duration,
    address: Address,
    password: Option<String>,
    tls: Option<Tls>,
    /// The user of this machine as whom its socket is reached, if that is not who we are.
    pub as_user: Option<(u32, u32)>,
}

impl<'a> Reach<'a> {
    /// The server of a plan.
    ///
    /// Fails in a twin when it would be reached by TCP: the way leads out of it.
    pub(super) fn of(options: &DumpOptions, place: &'a Place, cancel: &'a Cancel) -> Result<Self> {
        let port = options.port.unwrap_or(PORT);
        let user = options.user.clone().unwrap_or_else(|| ROLE.to_owned());
        if let Some(host) = &options.host {
            if place.is_twin() {
                let why = "in a twin it can only be reached by its socket: give `socket` instead of `host`";
                let server = format!("{host}:{port}");
                return Err(Error::Server { action: "connect", server, why: why.to_owned() });
            }
            let address = Address::Tcp(host.clone(), port);
            return Ok(Self::to(address, user, options, None, place, cancel));
        }
        let found = within(place, || {
            let socket = socket(options.socket.as_deref(), port);
            let owner = fs::metadata(&socket).map(|found| (found.uid(), found.gid())).ok();
            (socket, user_named(&user).or(owner))
        })?;
        let (socket, other) = found;
        let is_root = rustix::process::geteuid().is_root();
        let as_user = other.filter(|(uid, _)| is_root && *uid != 0 && options.password.is_none());
        Ok(Self::to(Address::Socket(socket), user, options, as_user, place, cancel))
    }

    fn to(
        address: Address,
        user: String,
        options: &DumpOptions,
        as_user: Option<(u32, u32)>,
        place: &'a Place,
        cancel: &'a Cancel,
    ) -> Self {
        let (password, tls) = (options.password.clone(), options.tls.clone());
        Self { place, cancel, user, timeout: options.timeout, address, password, tls, as_user }
    }

    /// A private server of ours on a socket.
    pub(super) fn private(
        socket: &Path,
        user: &str,
        timeout: Duration,
        place: &'a Place,
        cancel: &'a Cancel,
    ) -> Self {
        let address = Address::Socket(socket.join(format!(".s.PGSQL.{PORT}")));
        Self {
            place,
            cancel,
            user: user.to_owned(),
            timeout,
            address,
            password: None,
            tls: None,
            as_user: None,
        }
    }

    /// Where it is, for people.
    pub(super) fn name(&self) -> String {
        self.address.to_string()
    }

    /// Opens a session in a database.
    pub(super) fn connect(&self, database: &str) -> std::result::Result<Connection, Failure> {
        let login = Login {
            user: self.user.clone(),
            database: database.to_owned(),
            password: self.password.clone(),
            tls: self.tls.clone(),
        };
        let uid = self.as_user.map(|(uid, _)| uid);
        let open = || Connection::open(&self.address, &login, uid, self.cancel);
        self.place.within(open).map_err(|error| Failure::Refused(error.to_string()))?
    }

    /// Opens a session in a database, or says as an error why not.
    pub(super) fn open(&self, database: &str) -> Result<Connection> {
        self.connect(database).map_err(|error| self.at("connect", &error))
    }

    /// Opens a session in a database that is none of `besides`.
    pub(super) fn admin(&self, besides: &[&str]) -> Result<Connection> {
        let mut maintained = ["postgres", "template1"].into_iter().filter(|name| !besides.contains(name));
        let first = maintained.next().expect("nobody dumps a template");
        match (self.connect(first), maintained.next()) {
            (Err(error), Some(other)) if error.code() == "3D000" => self.open(other),
            (opened, _) => opened.map_err(|error| self.at("connect", &error)),
        }
    }

    /// What the server or the way to it said, as an error.
    pub(super) fn at(&self, action: &'static str, error: &Failure) -> Error {
        let why = match (error, error.code()) {
            (Failure::Interrupted, _) => return Error::Interrupted,
            (Failure::Broken(_), _) if action == "connect" => {
                format!("{error}: start the server, or correct `socket`, `host` and `port` in the plan")
            }
            (_, "28000" | "28P01") => {
                format!("{error}: correct `role` and `password` in the plan, or pg_hba.conf")
            }
            _ => error.to_string(),
        };
        self.failed(action, why)
    }

    pub(super) fn failed(&self, action: &'static str, why: String) -> Error {
        Error::Server { action, server: self.name(), why }
    }

    /// One of PostgreSQL's programs that connects to the server.
    pub(super) fn command(&self, program: &Path, arguments: Vec<OsString>) -> Command {
        let mut command = plain(program, arguments).env("PGUSER", &self.user);
        command = match &self.address {
            Address::Socket(socket) => {
                let port = socket.extension().unwrap_or_default();
                command.env("PGHOST", socket.parent().unwrap_or(Path::new("/"))).env("PGPORT", port)
            }
            Address::Tcp(host, port) => command.env("PGHOST", host).env("PGPORT", port.to_string()),
        };
        if let Some(password) = &self.password {
            command = command.env("PGPASSWORD", password);
        }
        if let (Address::Tcp(..), Some(tls)) = (&self.address, &self.tls) {
            command = encrypted(command, tls);
        }
        match self.as_user {
            Some((uid, gid)) => command.user(uid, gid),
            None => command,
        }
    }

    /// Runs a program to its end: its output, or the last of what it said when it failed.
    pub(super) fn run(&self, command: &Command) -> Result<std::result::Result<String, String>> {
        run(self.place, command, self.timeout, self.cancel)
    }

    /// The words of a shell that name the server to PostgreSQL's programs.
    pub(super) fn by_hand(&self) -> String {
        let (host, port) = match &self.address {
            Address::Socket(socket) => (
                crate::by_hand::path(socket.parent().unwrap_or(Path::new("/"))),
                socket.extension().unwrap_or_default().to_string_lossy().into_owned(),
            ),
            Address::Tcp(host, port) => (crate::by_hand::quoted(host).into_owned(), port.to_string()),
        };
        format!("-h {host} -p {port} -U {}", crate::by_hand::quoted(&self.user))
    }
}

/// Lets one of PostgreSQL's programs speak TLS, and believe whom the plan believes.
fn encrypted(command: Command, tls: &Tls) -> Command {
    let command = match &tls.trust {
        Trust::Anyone => command.env("PGSSLMODE", "require"),
        Trust::System => command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", AUTHORITIES),
        Trust::CaFile(path) => command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", path),
    };
    match &tls.identity {
        Some(identity) => command.env("PGSSLCERT", &identity.certificate).env("PGSSLKEY", &identity.key),
        None => command,
    }
}

/// One of PostgreSQL's programs that connects to nothing.
pub(super) fn plain(program: &Path, arguments: Vec<OsString>) -> Command {
    let label = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Its messages are read, so that they must be in one language.
    Command::new(program, arguments)
        .named(label)
        .clean_environment()
        .env("LC_ALL", "C")
        .env("PGAPPNAME", "lifeboat")
        .env("PGCONNECT_TIMEOUT", "15")
}

/// Runs a program to its end: its output, or the last of what it said when it failed.
///
/// Fails when it could not be run at all, or was interrupted.
pub(super) fn run(
    place: &Place,
    command: &Command,
    timeout: Duration,
    cancel: &Cancel,
) -> Result<std::result::Result<String, String>> {
    let limits =
        Limits { cancel: Some(cancel), output_bytes_max: OUTPUT_BYTES_MAX, ..Limits::timeout(timeout) };
    let failed = |error: place::Error| Error::Command { what: command.label.clone(), why: error.to_string() };
    let ended = place.run(command, &limits).map_err(failed)?;
    if cancel.load(Ordering::Relaxed) || ended.end == End::Cancelled {
        return Err(Error::Interrupted);
    }
    Ok(if ended.success() { Ok(ended.out.text()) } else { Err(said(&ended)) })
}

/// How a program ended, and the last of what it said.
fn said(ended: &Finished) -> String {
    let said = ended.err.text();
    let lines: Vec<&str> = said.trim().lines().map(str::trim).collect();
    let last = lines[lines.len().saturating_sub(LINES_TOLD)..].join("; ");
    if last.is_empty() { ended.end.to_string() } else { format!("{}: {last}", ended.end) }
}

/// Does something where the place's files are.
pub(super) fn within<T: Send>(place: &Place, work: impl FnOnce() -> T + Send) -> Result<T> {
    let failed =
        |error: place::Error| Error::Command { what: super::KIND.to_owned(), why: error.to_string() };
    place.within(work).map_err(failed)
}

fn socket(given: Option<&Path>, port: u16) -> PathBuf {
    let file = |directory: &Path| directory.join(format!(".s.PGSQL.{port}"));
    let standard =
        || SOCKETS.iter().map(|directory| file(Path::new(directory))).find(|socket| socket.exists());
    match given {
        Some(directory) => file(directory),
        None => standard().unwrap_or_else(|| file(Path::new(SOCKETS[0]))),
    }
}

/// The user of this machine with that name, and the user's group.
pub(super) fn user_named(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let known = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (known == name).then_some((uid, gid))
    })
}

/// The name of the user as whom programs run, for commands that people type.
pub(super) fn name_of(user: (u32, u32)) -> Option<String> {
    server::name_of(user.0)
}

/// A connection string for a database of whatever name: a name by itself might be read as one.
pub(super) fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', r"\\").replace('\'', r"\'"))
}
