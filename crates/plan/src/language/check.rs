//! Checks: questions about the world with an expected answer.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::table::{choice, record};
use crate::{
    Bytes, CommandLine, Free, Given, HostPort, JsonExpression, Late, Name, Named, OneOrMore, Position,
    Scalar, Sha256, Status, TextMatch,
};

record! {
    /// A question about the world with an expected answer.
    pub struct Check "check" {
        /// Where it stands in the plan file.
        at: Position,
        /// What is asked, and what is expected.
        question: Question,
        /// A sentence about it, for the printed runbook.
        description: Option<String>,
        /// How long one answer may take.
        timeout: Given<Duration> = Given::by_default(Duration::from_secs(10)),
    }
}

record! {
    /// One or more named checks, or a question that is asked in this place only. It is one or the other.
    pub struct Ask "question or name of a check" short "check" {
        /// Where it stands in the plan file.
        at: Position,
        /// Names of checks that must all hold; empty if there is a question.
        check: OneOrMore<Name> = OneOrMore::default(),
        /// The question, if no check is named.
        question: Option<Question>,
        /// How long one answer may take, for a question; a named check has its own.
        timeout: Given<Duration> = Given::by_default(Duration::from_secs(10)),
    }
}

choice! {
    /// What is asked.
    pub enum Question "kind of check" {
        /// A request over HTTP or HTTPS.
        Http(HttpCheck) = ["http"],
        /// A connection over TCP.
        Tcp(TcpCheck) = ["tcp"],
        /// A command that is run to its end.
        Command(CommandCheck) = ["command"],
        /// A query of a component that is a database.
        Sql(SqlCheck) = ["sql"],
        /// A file or directory.
        File(FileCheck) = ["file"],
        /// Whether something listens at a TCP port.
        Port(PortCheck) = ["port"],
        /// Free space of a file system.
        Disk(DiskCheck) = ["disk"],
    }
    later { "dns", "tls", "timer", "metric" }
}

record! {
    /// A request over HTTP or HTTPS.
    pub struct HttpCheck "http check" {
        /// The URL, `http://` or `https://`.
        http: Late,
        /// The method.
        method: Given<String> = Given::by_default("GET".to_owned()),
        /// Header fields to send, by name.
        headers: Named<Late>,
        /// What to send along.
        body: Option<Late>,
        /// How many redirects are followed; at 0 a redirect is the answer.
        redirects: Given<u32> = Given::by_default(0),
        /// A PEM file of the authorities that are believed, relative to the plan file; without it, the system's.
        ca_file: Option<PathBuf>,
        /// Whether the server's certificate is verified.
        verify_tls: Given<bool> = Given::by_default(true),
        /// What must come back.
        expect: Option<HttpExpect>,
    }
}

record! {
    /// What must come back from a request. All that is stated must hold, and something must be stated.
    #[derive(Default)]
    pub struct HttpExpect "expectation of an http check" {
        /// Any of these: a status, or a class such as `2xx`. If none is stated but something else is: 2xx.
        status: OneOrMore<Status> = OneOrMore::default(),
        /// Header fields that must be there, by name.
        headers: Named<TextMatch>,
        /// A JMESPath expression over the body that must evaluate to `true`.
        json: Option<JsonExpression>,
        /// The body.
        body: Option<TextMatch>,
        /// For how many days the server's certificate must still be valid.
        tls_days: Option<u32>,
    }
}

record! {
    /// A connection over TCP.
    pub struct TcpCheck "tcp check" {
        /// The address, `HOST:PORT`.
        tcp: HostPort,
        /// What must come of it; without it, that it is accepted.
        expect: TcpExpect = TcpExpect::default(),
    }
}

record! {
    /// What must come of a connection.
    pub struct TcpExpect "expectation of a tcp check" {
        /// Whether it is accepted or refused.
        open: Given<bool> = Given::by_default(true),
        /// What the server sends first.
        banner: Option<TextMatch>,
    }
}

impl Default for TcpExpect {
    fn default() -> Self {
        Self { open: Given::by_default(true), banner: None }
    }
}

record! {
    /// A command that is run to its end.
    pub struct CommandCheck "command check" {
        /// The command.
        command: CommandLine,
        /// The directory in which it runs, relative to the plan file; without it, the plan file's.
        dir: Option<PathBuf>,
        /// Variables of its environment, by name.
        env: Named<Late>,
        /// The user as whom it runs; without it, whoever runs Lifeboat.
        user: Option<String>,
        /// What must come of it.
        expect: Option<CommandExpect>,
    }
}

record! {
    /// What must come of a command. All that is stated must hold, and something must be stated.
    #[derive(Default)]
    pub struct CommandExpect "expectation of a command check" {
        /// Any of these exit codes. If none is stated but some output is: 0.
        exit: OneOrMore<i32> = OneOrMore::default(),
        /// What it writes to its standard output.
        stdout: Option<TextMatch>,
        /// What it writes to its standard error.
        stderr: Option<TextMatch>,
    }
}

record! {
    /// A query of a component that is a database.
    pub struct SqlCheck "sql check" {
        /// The query and its answer.
        sql: SqlQuestion,
    }
}

record! {
    /// A query and what it must yield: exactly one of `equals`, `at_least`, `at_most` and `empty`, or both bounds.
    pub struct SqlQuestion "sql question" {
        /// The component whose database is asked.
        component: Name,
        /// One statement that reads. For the first three it must yield one value.
        query: String,
        /// The value.
        equals: Option<Scalar>,
        /// The least that the value may be.
        at_least: Option<f64>,
        /// The most that the value may be.
        at_most: Option<f64>,
        /// Whether there must be no row (`true`), or one at least (`false`).
        empty: Option<bool>,
    }
}

record! {
    /// A file or directory.
    pub struct FileCheck "file check" {
        /// Its path, relative to the plan file.
        file: PathBuf,
        /// What must be there.
        expect: Option<FileExpect>,
    }
}

record! {
    /// What must be at a path. All that is stated must hold, and something must be stated.
    #[derive(Default)]
    pub struct FileExpect "expectation of a file check" {
        /// Whether there must be something; `true` if anything else is stated.
        exists: Option<bool>,
        /// The least size of a regular file.
        size_min: Option<Bytes>,
        /// The SHA-256 of its content.
        sha256: Option<Sha256>,
        /// Its content.
        content: Option<TextMatch>,
        /// It was last modified no longer ago than this.
        younger_than: Option<Duration>,
    }
}

record! {
    /// Whether something listens at a TCP port.
    pub struct PortCheck "port check" {
        /// The port.
        port: u16,
        /// The address at which it listens; without it, any.
        address: Option<IpAddr>,
        /// What must be true of it; without it, that something listens.
        expect: PortExpect = PortExpect::default(),
    }
}

record! {
    /// What must be true of a port.
    pub struct PortExpect "expectation of a port check" {
        /// Whether something listens.
        listening: Given<bool> = Given::by_default(true),
        /// The name of the program that listens.
        program: Option<String>,
    }
}

impl Default for PortExpect {
    fn default() -> Self {
        Self { listening: Given::by_default(true), program: None }
    }
}

record! {
    /// Free space of a file system.
    pub struct DiskCheck "disk check" {
        /// A path on it, relative to the plan file.
        disk: PathBuf,
        /// What must be true of it.
        expect: Option<DiskExpect>,
    }
}

record! {
    /// What must be true of a file system.
    pub struct DiskExpect "expectation of a disk check" {
        /// What an ordinary user can still write, at least: bytes (`10GB`) or a share (`5%`).
        free: Free,
    }
}
