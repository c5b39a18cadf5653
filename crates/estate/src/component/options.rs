//! What the drivers are told by the plan, as plain data.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::sqlite::Prover;
use crate::check::Trust;
pub use crate::tls::Identity;

/// A component of kind `files`: a list of paths, and files of secrets of which only the names are kept.
#[derive(Debug, Clone, Default)]
pub struct FilesOptions {
    /// What the other paths are relative to; absolute.
    pub base: PathBuf,
    /// Files, directories and globs (`*`, `?`, `[…]`, `**`); at least one entry must match each of them.
    pub paths: Vec<String>,
    /// What is left out, in restic's patterns.
    pub excludes: Vec<String>,
    /// Files of `NAME=value` lines: the names are kept, the values never.
    pub env_files: Vec<PathBuf>,
}

/// A component of kind `sqlite`: one database file.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database; absolute.
    pub path: PathBuf,
    /// Facts by name: a query that gives one row with one value.
    pub facts: Vec<(String, String)>,
    /// Derived files that are kept beside the database.
    pub exports: Vec<Export>,
    /// How long a lock of somebody else is waited for; 30 seconds by default.
    pub busy_timeout: Duration,
    /// How long a single fact or export may take; 10 minutes by default.
    pub query_timeout: Duration,
    /// A capture fails when the write-ahead log grows beyond this while it is read, because it cannot be
    /// reset meanwhile. By default the larger of 1 GiB and the size of the database.
    pub wal_bytes_max: Option<u64>,
    /// How the pages are read.
    pub pages: Pages,
    /// What gives a proof a process of its own, in which it takes half as long; without one it runs in this process.
    pub prover: Option<Prover>,
}

/// How the pages of a SQLite database are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pages {
    /// Streamed from the read transaction if the built-in SQLite can do it, copied to scratch otherwise.
    #[default]
    Auto,
    /// Copied to scratch first: needs as much space as the database, and frees it sooner.
    Copied,
}

/// A derived file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name under `/lifeboat/exports/` in the snapshot; no directories.
    pub name: String,
    /// What it holds.
    pub what: Exported,
}

/// What a derived file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exported {
    /// The whole database as SQL text, as `sqlite3 FILE .dump` writes it.
    Dump,
    /// The rows of this query, as CSV (RFC 4180) with a line of names first.
    Csv(String),
}

/// A component of kind `postgres`: one whole cluster, by its data directory.
#[derive(Clone)]
pub struct PostgresOptions {
    /// The data directory; absolute.
    pub data: PathBuf,
    /// The directory of the server's socket; that of the running server by default.
    pub socket: Option<PathBuf>,
    /// The host to connect to by TCP instead.
    pub host: Option<String>,
    /// The port, which names the socket as well; that of the running server by default.
    pub port: Option<u16>,
    /// How to speak TLS with it; not on a socket.
    pub tls: Option<Tls>,
    /// The role to connect as; by default the name of the data directory's owner.
    pub user: Option<String>,
    /// The database to connect to, in which facts are measured.
    pub database: String,
    /// The role's password, for servers that ask for one.
    pub password: Option<String>,
    /// The directory of `postgres`, `pg_ctl` and the others of the cluster's version, for proofs; Debian's by default.
    pub binaries: Option<PathBuf>,
    /// Facts by name: a query that gives one row with one value.
    pub facts: Vec<(String, String)>,
    /// Its server archives its log where the log of the component is kept.
    pub archive: bool,
    /// Its log is followed, and kept by the server in a replication slot of this name until it is archived.
    pub slot: Option<String>,
    /// How long a single fact may take; 10 minutes by default.
    pub query_timeout: Duration,
    /// How long a server may take to replay its log and to be asked in a proof; 6 hours by default.
    pub proof_timeout: Duration,
}

/// Shows no password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("data", &self.data)
            .field("socket", &self.socket)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// The defaults for a data directory.
    pub fn of(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            socket: None,
            host: None,
            port: None,
            tls: None,
            user: None,
            database: "postgres".to_owned(),
            password: None,
            binaries: None,
            archive: false,
            slot: None,
            facts: Vec::new(),
            query_timeout: Duration::from_secs(600),
            proof_timeout: Duration::from_secs(6 * 3600),
        }
    }
}

/// A component of kind `postgres_dump`: databases of a server, each as `pg_dump` writes it, and the server's roles.
#[derive(Clone)]
pub struct DumpOptions {
    /// The component's name in the plan: the dumps lie at `/lifeboat/postgres/NAME` in the snapshot.
    pub name: String,
    /// The databases; all but templates if `None`.
    pub databases: Option<Vec<String>>,
    /// The directory of the server's socket; where Debian's servers have it by default.
    pub socket: Option<PathBuf>,
    /// The host to connect to by TCP instead.
    pub host: Option<String>,
    /// The port, which names the socket as well; 5432 by default.
    pub port: Option<u16>,
    /// How to speak TLS with that host.
    pub tls: Option<Tls>,
    /// The role to connect as; `postgres` by default.
    pub user: Option<String>,
    /// The role's password, for servers that ask for one.
    pub password: Option<String>,
    /// The database in which facts are measured; the first of `databases`, or `postgres`, by default.
    pub database: Option<String>,
    /// The directory of PostgreSQL's programs; where packages put them by default.
    pub binaries: Option<PathBuf>,
    /// Facts by name: a query that gives one row with one value.
    pub facts: Vec<(String, String)>,
    /// A directory of the place in which dumps lie while they are put back; made when it is missing.
    pub hold: PathBuf,
    /// The directory above `hold` and above the scratch of captures that is Lifeboat's own: the users of programs are let
    /// through from there on.
    pub state: PathBuf,
    /// How long a single fact, or the count of one table, may take; 10 minutes by default.
    pub query_timeout: Duration,
    /// How long a dump, or a load, of one database may take; 6 hours by default.
    pub timeout: Duration,
}

/// Shows no password.
impl fmt::Debug for DumpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DumpOptions")
            .field("name", &self.name)
            .field("databases", &self.databases)
            .field("socket", &self.socket)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl DumpOptions {
    /// The defaults for a component of this name, with a state directory of its own.
    pub fn of(name: impl Into<String>, state: impl Into<PathBuf>) -> Self {
        let (name, state) = (name.into(), state.into());
        Self {
            databases: None,
            socket: None,
            host: None,
            port: None,
            tls: None,
            user: None,
            password: None,
            database: None,
            binaries: None,
            facts: Vec::new(),
            hold: state.join("hold").join(&name),
            name,
            state,
            query_timeout: Duration::from_secs(600),
            timeout: Duration::from_secs(6 * 3600),
        }
    }
}

/// A component of kind `command`: whatever a command prints.
#[derive(Debug, Clone)]
pub struct CommandOptions {
    /// The component's name in the plan.
    pub name: String,
    /// The name under which the output is kept: it lies at `/lifeboat/commands/NAME/FILE` in the snapshot.
    pub file: String,
    /// Prints what is to be kept on its standard output, and ends with 0.
    pub backup: place::Command,
    /// Reads what was kept on its standard input and puts it back.
    pub restore: place::Command,
    /// Reads what was kept on its standard input, before it is put back, and ends with 0 if it is whole.
    /// Without it, and without facts, a restore is not proven by the component itself.
    pub verify: Option<place::Command>,
    /// Facts by name: a shell command that prints one line, run with what is around `backup`.
    pub facts: Vec<(String, String)>,
    /// A directory of the place in which what was kept lies while it is put back; made when it is missing.
    pub hold: PathBuf,
    /// What a disaster removes; absolute paths.
    pub destroy: Vec<PathBuf>,
    /// How long each command may take.
    pub timeout: Duration,
}

/// A component of kind `redis`: one Redis or Valkey server.
#[derive(Clone)]
pub struct RedisOptions {
    /// Its data directory; absolute. Of a server on another machine, where it is restored to.
    pub data: PathBuf,
    /// Its socket.
    pub socket: Option<PathBuf>,
    /// Its host, if there is no socket; this machine by default.
    pub host: Option<String>,
    /// Its port; 6379 by default.
    pub port: Option<u16>,
    /// How to speak TLS with it, where it listens to that; not on a socket.
    pub tls: Option<Tls>,
    /// The user to log in as; the default one if there is only a password.
    pub username: Option<String>,
    /// The password, if it asks for one.
    pub password: Option<String>,
    /// Files of its configuration, which are kept with its data; absolute.
    pub config: Vec<PathBuf>,
    /// The directory of its programs; where packages put them by default.
    pub binaries: Option<PathBuf>,
    /// Facts by name: a command that is answered with one value, as it is typed behind `redis-cli`.
    pub facts: Vec<(String, String)>,
    /// How long a private server may take to load a dump, and a check to read it; an hour by default.
    pub proof_timeout: Duration,
    /// Captures are bases of a log: the server's own append-only files. No by default.
    pub continuous: bool,
}

/// How TLS is spoken with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Who is believed.
    pub trust: Trust,
    /// The certificate that the server wants to see, and its key. Redis does unless `tls-auth-clients` is off, PostgreSQL if
    /// `pg_hba.conf` says so.
    pub identity: Option<Identity>,
}

impl RedisOptions {
    /// The defaults for a server with this data directory.
    pub fn of(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            socket: None,
            host: None,
            port: None,
            tls: None,
            username: None,
            password: None,
            config: Vec::new(),
            binaries: None,
            facts: Vec::new(),
            proof_timeout: Duration::from_secs(3600),
            continuous: false,
        }
    }
}

/// Shows everything but the password.
impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("data", &self.data)
            .field("socket", &self.socket)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("username", &self.username)
            .field("config", &self.config)
            .field("binaries", &self.binaries)
            .field("facts", &self.facts)
            .field("continuous", &self.continuous)
            .finish_non_exhaustive()
    }
}

impl SqliteOptions {
    /// The defaults for a database.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            facts: Vec::new(),
            exports: Vec::new(),
            busy_timeout: Duration::from_secs(30),
            query_timeout: Duration::from_secs(600),
            wal_bytes_max: None,
            pages: Pages::Auto,
            prover: None,
        }
    }
}
