//! The options of every kind of check: plain data, as the engine takes it from a plan.
//!
//! Nothing in here is checked or asked; [`super::Check::new`] does the one and [`super::Check::ask`] the other.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::text::TextMatch;
use crate::component::PostgresOptions;

/// A question about the world, and the answer that is expected.
#[derive(Debug, Clone)]
pub enum Question {
    /// A request over HTTP or HTTPS, made from within the place.
    Http(Http),
    /// A connection over TCP, made from within the place.
    Tcp(Tcp),
    /// A command that is run in the place to its end.
    Command(Command),
    /// A query of a database.
    Sql(Sql),
    /// A file or directory.
    File(File),
    /// Whether something listens at a TCP port of the place.
    Port(Port),
    /// Free space of a file system.
    Disk(Disk),
}

/// One HTTP/1.1 request. A new connection each time; nothing is cached, no proxy is used.
#[derive(Clone)]
pub struct Http {
    /// `http://` or `https://`; user and password in it become an `Authorization` header.
    pub url: String,
    /// `GET`, `HEAD`, `POST` and so on.
    pub method: String,
    /// Header fields to send, name and value. The values are shown nowhere.
    pub headers: Vec<(String, String)>,
    /// What to send along.
    pub body: Option<String>,
    /// What must come back.
    pub expect: HttpExpect,
    /// Which certificates are believed.
    pub trust: Trust,
    /// How many redirects are followed. At 0, a redirect is the answer.
    ///
    /// Header fields go along to the same scheme, host and port only.
    pub redirects_max: u32,
}

impl Http {
    /// Gives a `GET` of the URL that trusts the system's certificates and follows no redirect.
    pub fn get(url: impl Into<String>, expect: HttpExpect) -> Http {
        Http {
            url: url.into(),
            method: "GET".into(),
            headers: Vec::new(),
            body: None,
            expect,
            trust: Trust::System,
            redirects_max: 0,
        }
    }
}

/// What must come back from a request; everything that is stated must hold, and something must be stated.
#[derive(Debug, Clone, Default)]
pub struct HttpExpect {
    /// Any of these. When none is stated and something else is, it must be a 2xx: an error page that happens to
    /// hold the right word is no success.
    pub status: Vec<Status>,
    /// Header fields that must be there, by name, with a matching value.
    pub headers: Vec<(String, TextMatch)>,
    /// A JMESPath expression over the body, which must evaluate to `true` and nothing else.
    pub json: Option<String>,
    /// The body.
    pub body: Option<TextMatch>,
    /// For how many days from now the certificate of the server must be valid, at least.
    pub tls_days_min: Option<u32>,
}

/// A status, or a class of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Exactly this one.
    Is(u16),
    /// All with this first digit: 2 is 2xx.
    Class(u8),
}

/// Which certificates of servers are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system's certificate authorities signed.
    System,
    /// Those that an authority in this PEM file signed. The file is read within the place, each time.
    CaFile(PathBuf),
    /// Any, also expired ones and those of others: encrypted, but nobody knows with whom.
    Anyone,
}

/// A connection.
#[derive(Debug, Clone)]
pub struct Tcp {
    /// A name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What must come of it.
    pub expect: TcpExpect,
}

/// What must come of a connection.
#[derive(Debug, Clone)]
pub enum TcpExpect {
    /// It is accepted.
    Open,
    /// It is accepted, and what the server sends first matches.
    Banner(TextMatch),
    /// It is refused.
    Closed,
}

/// A command that is run to its end.
#[derive(Debug, Clone)]
pub struct Command {
    /// What is run.
    pub command: place::Command,
    /// Exit codes of which one is expected. When none is stated and some output is, it must be 0.
    pub exit: Vec<i32>,
    /// What it must write to standard output.
    pub stdout: Option<TextMatch>,
    /// What it must write to standard error.
    pub stderr: Option<TextMatch>,
}

/// A query.
#[derive(Debug, Clone)]
pub struct Sql {
    /// Where the database is, and of what make.
    pub database: Database,
    /// One statement that reads.
    pub query: String,
    /// What it must yield.
    pub expect: SqlExpect,
}

/// A database that can be asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Database {
    /// A SQLite file, by its path in the place. It is opened read-only and never made.
    Sqlite {
        /// The database file.
        path: PathBuf,
    },
    /// The PostgreSQL server that works in a data directory.
    Postgres(Box<PostgresOptions>),
}

/// What a query must yield.
///
/// `Equals`, `AtLeast` and `AtMost` are about one value: the query must yield one row of one column.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlExpect {
    /// The value, written as SQLite's shell or `psql -At` writes it.
    Equals(String),
    /// A number, at least this.
    AtLeast(f64),
    /// A number, at most this.
    AtMost(f64),
    /// One row or more.
    NotEmpty,
    /// No row.
    Empty,
}

/// A file or directory.
#[derive(Debug, Clone)]
pub struct File {
    /// Its path in the place. Symbolic links are followed.
    pub path: PathBuf,
    /// What must be there.
    pub expect: FileExpect,
}

/// What must be at a path.
#[derive(Debug, Clone)]
pub enum FileExpect {
    /// Nothing, not even a symbolic link that leads nowhere.
    Absent,
    /// Something, with these properties.
    Present(Properties),
}

/// What a file must be like. All that is stated must hold; nothing but being there need be stated.
#[derive(Debug, Clone, Default)]
pub struct Properties {
    /// Size of a regular file, in bytes, at least.
    pub bytes_min: Option<u64>,
    /// The SHA-256 of its content, 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// What its content must match. Files above [`super::CONTENT_BYTES_MAX`] are not searched.
    pub content: Option<TextMatch>,
    /// It was last modified no longer ago than this.
    pub younger_than: Option<Duration>,
}

/// A TCP port of the place.
#[derive(Debug, Clone)]
pub struct Port {
    /// The port.
    pub port: u16,
    /// The address at which something has to listen; any, when none is stated.
    pub address: Option<IpAddr>,
    /// What must be true of it.
    pub expect: PortExpect,
}

/// What must be true of a port.
#[derive(Debug, Clone)]
pub enum PortExpect {
    /// Something listens.
    Listening,
    /// A program of this name listens (as in `/proc/PID/comm`: its first 15 bytes).
    ListeningAs(String),
    /// Nothing listens.
    Free,
}

/// The file system on which a path lies; all that is stated must hold, and something must be.
#[derive(Debug, Clone)]
pub struct Disk {
    /// A path in the place.
    pub path: PathBuf,
    /// Bytes that an ordinary user can still write, at least.
    pub free_bytes_min: Option<u64>,
    /// The same as a share of what there is for ordinary users, in percent, as `df` counts it.
    pub free_percent_min: Option<f64>,
}
