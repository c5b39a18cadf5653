//! Components: what has state to protect, what may be lost of it and how soon it must be back.

use std::path::PathBuf;
use std::time::Duration;

use crate::table::{choice, record, words};
use crate::{CommandLine, Databases, Every, Given, Late, Named, OneOrMore, Percent, Position};

record! {
    /// Something with state to protect.
    pub struct Component "component" {
        /// Where it stands in the plan file.
        at: Position,
        /// What it is, and where.
        kind: ComponentKind,
        /// A sentence about it, for the printed runbook.
        description: Option<String>,
        /// How much it matters; the order in which status and runbook show components.
        priority: Given<Priority> = Given::by_default(Priority::Medium),
        /// How much of it may be lost, as time.
        rpo: Option<Duration>,
        /// How soon it must be back.
        rto: Option<Duration>,
        /// How often it is to be backed up; `continuous` ships the log of a sqlite or redis component, by `lifeboat
        /// serve`. Anything else does not start by itself yet: let cron or a timer run `lifeboat backup`.
        every: Option<Every>,
        /// Which recovery points are kept; without it, all. Applied after each backup, and by `lifeboat forget`.
        keep: Option<Keep>,
        /// Numbers or texts measured when it is backed up and compared after it was restored, by name: for sqlite, postgres
        /// and postgres_dump a query that yields one value, for a command component a shell command that prints one line. That is
        /// asked of the source before and after the dump; in a proof it is asked of what was restored, which it reads on
        /// its standard input and finds at the path that `LIFEBOAT_RESTORED` names. While the source is asked, that
        /// variable is not set. For redis a command that is answered with one value, such as `SCARD users`, with `-n 3`
        /// before it for database 3.
        facts: Named<String>,
        /// By how much its size and its facts may shrink between two backups before a backup is implausible.
        tolerance: Given<Percent> = Given::by_default(Percent::new(30)),
        /// Whether a backup may hold nothing at all. Otherwise an empty one has failed.
        may_be_empty: Given<bool> = Given::by_default(false),
        /// How long one backup of it, or one restore, may take.
        timeout: Given<Duration> = Given::by_default(Duration::from_secs(6 * 3600)),
    }
}

choice! {
    /// What a component is.
    pub enum ComponentKind "kind of component" {
        /// Files and directories, and the names in files of variables.
        Files(FilesComponent) = ["files", "env_files"],
        /// A SQLite database.
        Sqlite(SqliteComponent) = ["sqlite"],
        /// A PostgreSQL cluster, all of its databases.
        Postgres(PostgresComponent) = ["postgres"],
        /// Databases of a PostgreSQL server, dumped.
        PostgresDump(PostgresDumpComponent) = ["postgres_dump"],
        /// A Redis or Valkey server, all of its databases.
        Redis(RedisComponent) = ["redis"],
        /// Whatever a command writes to its standard output.
        Command(CommandComponent) = ["command"],
    }
    later { "mariadb", "etcd", "wal_store", "images", "kubernetes" }
}

record! {
    /// Files and directories.
    pub struct FilesComponent "files component" {
        /// Files and directories, relative to the plan file.
        files: OneOrMore<PathBuf> = OneOrMore::default(),
        /// Files of `NAME=VALUE` lines, relative to the plan file, of which the names are kept and the values are not.
        env_files: OneOrMore<PathBuf> = OneOrMore::default(),
        /// Patterns of what is left out, as in restic's `--exclude`.
        exclude: OneOrMore<String> = OneOrMore::default(),
    }
}

record! {
    /// A SQLite database.
    pub struct SqliteComponent "sqlite component" {
        /// The database file, relative to the plan file.
        sqlite: PathBuf,
        /// Derived files kept beside the database, by file name: `dump`, or a query whose rows become CSV.
        exports: Named<String>,
    }
}

record! {
    /// A PostgreSQL cluster, all of its databases, copied from its files while it runs.
    pub struct PostgresComponent "postgres component" {
        /// The data directory, relative to the plan file: `/var/lib/postgresql/15/main` on Debian.
        postgres: PathBuf,
        /// The directory of the server's socket; without it, where the running server says it is.
        socket: Option<PathBuf>,
        /// The host to connect to by TCP, instead of the socket.
        host: Option<String>,
        /// The port; without it, what the running server says.
        port: Option<u16>,
        /// Says that TLS is spoken with that host, and how; `{}` is enough if the server asks for no certificate.
        tls: Option<Tls>,
        /// The role to connect as, which may replicate and begin and end backups; without it, the one with the name of
        /// the data directory's owner.
        role: Option<String>,
        /// The database to connect to, in which the facts are measured.
        database: Given<String> = Given::by_default("postgres".to_owned()),
        /// The role's password, if the server asks for one.
        password: Option<Late>,
        /// Whether the server archives its log with `lifeboat wal push`, so that it can be brought back to any instant. A
        /// backup counts only when the log that it needs is in the archive.
        archive: Given<bool> = Given::by_default(false),
        /// The directory of the server's programs, with which a restore is proven; without it, Debian's.
        binaries: Option<PathBuf>,
    }
}

record! {
    /// Databases of a PostgreSQL server, each as `pg_dump` writes it, and the server's roles. It needs no access to the
    /// server's files. A restore loads them into the server that is named here.
    pub struct PostgresDumpComponent "postgres_dump component" {
        /// The databases: `all` (without templates, and without `postgres` if nothing is in it), one, or a list.
        postgres_dump: Databases,
        /// The directory of the server's socket; without it and without `host`, where Debian's servers have it.
        socket: Option<PathBuf>,
        /// The host to connect to by TCP, instead of the socket.
        host: Option<String>,
        /// The port; without it, 5432.
        port: Option<u16>,
        /// Says that TLS is spoken with that host, and how; `{}` is enough if the server asks for no certificate.
        tls: Option<Tls>,
        /// The role to connect as; without it, `postgres`. To be restored, it must be allowed to make databases.
        role: Option<String>,
        /// The database in which the facts are measured; without it, the first that is named, or `postgres`.
        database: Option<String>,
        /// The role's password, if the server asks for one.
        password: Option<Late>,
        /// The directory of PostgreSQL's programs: `pg_dump`, which must not be older than the server, and for proofs
        /// those of a server; without it, where packages put them.
        binaries: Option<PathBuf>,
    }
}

record! {
    /// A Redis or Valkey server, all of its databases, dumped as a replica would get them.
    pub struct RedisComponent "redis component" {
        /// The server's data directory, relative to the plan file: `/var/lib/redis` on Debian. A restore replaces it as a
        /// whole. Of a server on another machine, where it is restored to on this one.
        redis: PathBuf,
        /// The server's socket.
        socket: Option<PathBuf>,
        /// The host to connect to by TCP, if there is no socket; without it, this machine.
        host: Option<String>,
        /// The port; without it, 6379.
        port: Option<u16>,
        /// Says that TLS is spoken at that port (`tls-port`), and how; `{}` is enough if the server asks for no certificate.
        tls: Option<Tls>,
        /// The user to log in as; without it, the default one.
        username: Option<String>,
        /// The password, if the server asks for one.
        password: Option<Late>,
        /// Files of its configuration that are kept and restored with its data, relative to the plan file, such as
        /// `redis.conf` and the file of its users.
        config: OneOrMore<PathBuf> = OneOrMore::default(),
        /// The directory of the server's programs, with which facts are measured and a restore is proven; without it, where
        /// packages put them.
        binaries: Option<PathBuf>,
    }
}

record! {
    /// How TLS is spoken with a server.
    pub struct Tls "tls of a component" {
        /// A PEM file of the authorities that are believed, relative to the plan file; without it, the system's.
        ca_file: Option<PathBuf>,
        /// Whether the server's certificate is verified.
        verify_tls: Given<bool> = Given::by_default(true),
        /// A PEM file of the certificate that the server wants to see, relative to the plan file. Redis does unless
        /// `tls-auth-clients` is off, PostgreSQL if `pg_hba.conf` says so.
        certificate: Option<PathBuf>,
        /// A PEM file of its private key, relative to the plan file.
        key: Option<PathBuf>,
    }
}

record! {
    /// Whatever a command writes to its standard output.
    pub struct CommandComponent "command component" {
        /// Writes what is to be kept to its standard output, and ends with 0.
        command: CommandLine,
        /// The name under which the output is kept.
        file: Given<String> = Given::by_default("stdout".to_owned()),
        /// Reads what was kept on its standard input and puts it back.
        restore: CommandLine,
        /// Reads what was kept on its standard input, before it is put back, and ends with 0 if it is whole. Without
        /// it, a restore is not proven by the component itself.
        verify: Option<CommandLine>,
        /// The directory in which all of these run, relative to the plan file; without it, the plan file's.
        dir: Option<PathBuf>,
        /// Variables of their environment, by name.
        env: Named<Late>,
        /// The user as whom they run; without it, whoever runs Lifeboat.
        user: Option<String>,
    }
}

words! {
    /// How much a component matters.
    pub enum Priority "priority" {
        /// Nothing works without it.
        Critical = "critical",
        /// Much does not work without it.
        High = "high",
        /// The default.
        Medium = "medium",
        /// It would be missed.
        Low = "low",
    }
}

record! {
    /// Which recovery points are kept: the union of what each key keeps. Only points that count take up places. Whatever the
    /// keys say, the newest that counts stays, the newest that was proven, and what an unfinished recovery uses.
    pub struct Keep "retention" short "within" {
        /// The newest so many.
        last: Option<u32>,
        /// The newest of each of so many hours.
        hourly: Option<u32>,
        /// The newest of each of so many days.
        daily: Option<u32>,
        /// The newest of each of so many weeks.
        weekly: Option<u32>,
        /// The newest of each of so many months.
        monthly: Option<u32>,
        /// The newest of each of so many years.
        yearly: Option<u32>,
        /// All that are at most so much older than the newest.
        within: Option<Duration>,
    }
}
