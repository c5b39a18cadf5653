//! The dumps: each database in one snapshot with its facts, all of them in scratch before anything is stored.
//!
//! # What makes it void
//! A program that fails, a database that is named and not there or vanishes meanwhile, a dump without contents or with
//! fewer tables than were counted, a session that broke, a file that was not read to its end. Scratch is removed when the capture ends,
//! however it does.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::num::NonZero;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use place::Place;

use super::super::super::whole::{Unread, Whole};
use super::super::super::{
    Capture, CaptureRequest, Content, DumpOptions, Finish, Finished, Member, Open, PointFacts, Problem,
    StreamMeta, Tally,
};
use super::super::connection::{Connection, text};
use super::measure::{self, Measured};
use super::programs::{self, Programs};
use super::reach::{self, Reach, conninfo};
use super::script::{self, identifier};
use super::{
    CONTENTS, Contents, DATABASES, Database, Dumps, KIND, ROLES, SERVER_ROLES, TABLESPACES, VERSION_MIN,
};
use crate::facts::{Facts, Value};
use crate::{Error, Result};

/// A dump needs so many workers at most: each of them is a session on a server that has others to serve.
const JOBS_MAX: usize = 4;

/// How many workers dump or load one database.
pub(super) fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(JOBS_MAX)
}

/// What is known of a server before anything is dumped.
pub(super) struct Found {
    pub version: u32,
    pub user: String,
    pub programs: Programs,
    /// Whether the role may read the passwords of others.
    pub passwords: bool,
    names: Vec<String>,
    roles: Vec<String>,
    bootstrap: String,
}

/// Looks at the server and for the programs, changing nothing.
pub(super) fn look(options: &DumpOptions, reach: &Reach<'_>) -> Result<Found> {
    let wanted = options.databases.as_deref();
    let first = wanted.and_then(|names| names.first()).or(options.database.as_ref());
    let mut connection = match first {
        // It may be the only one that the role may connect to.
        Some(name) => {
            reach.connect(name).or_else(|_| reach.connect("postgres")).map_err(|e| reach.at("connect", &e))?
        }
        None => reach.admin(&[])?,
    };
    let mut known = |sql: &str| connection.known(sql).map_err(|error| reach.at("ask what it has", &error));
    let version = known("select setting from pg_catalog.pg_settings where name = 'server_version_num'")?;
    let version: u32 = version.parse().unwrap_or_default();
    if version < VERSION_MIN {
        let why = format!("it is PostgreSQL {}: 13 or later is needed", version / 10_000);
        return Err(reach.failed("dump databases", why));
    }
    let passwords = known("select pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'select')")? == "t";
    let bootstrap = known("select rolname from pg_catalog.pg_roles where oid = 10")?;
    let roles = list(
        &mut connection,
        reach,
        "select rolname from pg_catalog.pg_roles where rolname !~ '^pg_' order by rolname",
    )?;
    let there = databases(&mut connection, reach)?;
    let names = match wanted {
        None => there,
        Some(wanted) => {
            if let Some(missing) = wanted.iter().find(|name| !there.contains(name)) {
                let why = format!(
                    "there is no database {missing:?} that takes connections (there are {}): correct `postgres_dump` in the \
                     plan if it is gone on purpose",
                    there.join(", ")
                );
                return Err(reach.failed("dump databases", why));
            }
            wanted.to_vec()
        }
    };
    let (major, binaries) = (version / 10_000, options.binaries.as_deref());
    let programs = programs::find(reach.place, binaries, major, programs::CLIENT, reach.cancel)?
        .map_err(|why| reach.failed("dump databases", why))?;
    Ok(Found { version, user: reach.user.clone(), programs, passwords, names, roles, bootstrap })
}

/// The databases that can be dumped.
pub(super) fn databases(connection: &mut Connection, reach: &Reach<'_>) -> Result<Vec<String>> {
    let sql = "select datname from pg_catalog.pg_database where datallowconn and not datistemplate order by datname";
    list(connection, reach, sql)
}

/// The texts of one column.
pub(super) fn list(connection: &mut Connection, reach: &Reach<'_>, sql: &str) -> Result<Vec<String>> {
    let rows = connection.query(sql).map_err(|error| reach.at("ask what it has", &error))?;
    Ok(rows.rows.into_iter().flatten().flatten().map(text).collect())
}

/// Scratch with dumps in it; dropping it removes them.
struct Scratch {
    place: Place,
    directory: PathBuf,
}

impl Scratch {
    /// Makes it, for the user as whom programs run.
    fn make(dumps: &Dumps, request: &CaptureRequest<'_>, reach: &Reach<'_>) -> Result<Self> {
        let directory = request.scratch.join("dumps");
        let scratch = Self { place: dumps.place.clone(), directory };
        reach::within(&scratch.place, || {
            let directory = &scratch.directory;
            let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            make(directory).map_err(Error::io("make", directory))?;
            if reach.as_user.is_some() {
                super::let_through(&dumps.options.state, request.scratch)?;
            }
            super::give(directory, reach.as_user)
        })??;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let directory = self.directory.clone();
        // What cannot be removed is removed with the scratch of the run.
        _ = self.place.within(|| fs::remove_dir_all(directory));
    }
}

/// Dumps everything, and gives it to be stored.
pub(super) fn begin(dumps: &Dumps, request: &CaptureRequest<'_>) -> Result<Capture> {
    let options = &dumps.options;
    let reach = dumps.reach(&request.cancel)?;
    let found = look(options, &reach)?;
    let scratch = Scratch::make(dumps, request, &reach)?;
    let instant = Timestamp::now();
    let fact_database = options
        .database
        .clone()
        .or_else(|| options.databases.as_ref().and_then(|names| names.first().cloned()))
        .unwrap_or_else(|| "postgres".to_owned());
    if !options.facts.is_empty() && !found.names.contains(&fact_database) {
        let why =
            format!("facts are measured in the database {fact_database:?}, which it has not: say `database`");
        return Err(reach.failed("measure facts", why));
    }
    let dumping =
        Dumping { options, reach: &reach, programs: &found.programs.directory, to: &scratch.directory };
    dumping.globals(found.passwords)?;

    let (mut facts, mut problems, mut tablespaces) = (Facts::default(), Vec::new(), BTreeSet::new());
    let mut contents = Contents {
        programs: found.programs.major,
        databases: Vec::new(),
        roles: found.roles,
        passwords: found.passwords,
        bootstrap: found.bootstrap,
        tablespaces: Vec::new(),
        fact_database,
        asked: [].into(),
    };
    let others = found.names.len() > 1 && options.databases.is_none();
    for (number, name) in found.names.iter().enumerate() {
        let has_facts = *name == contents.fact_database && !options.facts.is_empty();
        let may_be_left = others && name == "postgres" && !has_facts;
        let Some(dumped) = dumping.database(name, number, has_facts, may_be_left)? else { continue };
        facts.absorb(&dumped.measured.facts);
        problems.extend(dumped.measured.problems);
        contents.asked.extend(dumped.measured.asked);
        tablespaces.extend(dumped.tablespaces);
        contents.databases.push(dumped.database);
    }
    contents.tablespaces = tablespaces.into_iter().collect();
    let count = |number: usize| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    facts.automatic.insert(DATABASES.to_owned(), count(contents.databases.len()));
    facts.automatic.insert(SERVER_ROLES.to_owned(), count(contents.roles.len()));

    let unread = Unread::default();
    let files = reach::within(&dumps.place, || files(&scratch.directory))??;
    let bytes = files.iter().map(|(_, found)| found.len()).sum();
    let member = |(relative, found): (PathBuf, fs::Metadata)| {
        let path = scratch.directory.join(&relative);
        Member {
            path_in_snapshot: dumps.in_snapshot().join(relative),
            content: stream(&dumps.place, path, &found, &unread),
        }
    };
    let members = files.into_iter().map(member).collect();
    let text = serde_json::to_string(&contents).expect("it has only text keys");
    let point = PointFacts {
        kind: KIND.to_owned(),
        engine: format!(
            "PostgreSQL {}.{}, {}",
            found.version / 10_000,
            found.version % 10_000,
            super::DRIVER
        ),
        instant,
        facts,
        queries: options.facts.iter().cloned().collect(),
        bytes: Some(bytes),
        roots: vec![dumps.in_snapshot()],
        identity: None,
        token: None,
        details: [(CONTENTS.to_owned(), text)].into(),
        log: None,
    };
    let finish =
        Ending { _scratch: scratch, unread, problems, passwords: found.passwords, server: reach.name() };
    Ok(Capture { members, point, finish: Box::new(finish) })
}

/// One file as a member.
fn stream(place: &Place, path: PathBuf, found: &fs::Metadata, unread: &Unread) -> Content {
    let (meta, size) = (StreamMeta::of(found), found.len());
    // Counted now, so that a member that nobody opens counts as unread.
    let whole = Whole::new(std::io::empty(), size, unread);
    let place = place.clone();
    let open: Open = Box::new(move || {
        let opened =
            place.within(|| File::open(&path)).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Box::new(whole.with(opened?)) as Box<dyn Read + Send>)
    });
    Content::Stream { meta, size: Some(size), block_bytes: None, open, origin: None }
}

/// All files below a directory, by their paths in it.
fn files(directory: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>> {
    let (mut open, mut files) = (vec![PathBuf::new()], Vec::new());
    while let Some(relative) = open.pop() {
        let path = directory.join(&relative);
        for entry in fs::read_dir(&path).map_err(Error::io("list", &path))? {
            let entry = entry.map_err(Error::io("list", &path))?;
            let found = entry.metadata().map_err(Error::io("look at", &entry.path()))?;
            let relative = relative.join(entry.file_name());
            if found.is_dir() { open.push(relative) } else { files.push((relative, found)) }
        }
    }
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

/// Dumping into scratch.
struct Dumping<'a> {
    options: &'a DumpOptions,
    reach: &'a Reach<'a>,
    programs: &'a Path,
    to: &'a Path,
}

/// A database that is in scratch.
struct Dumped {
    database: Database,
    measured: Measured,
    tablespaces: Vec<String>,
}

impl Dumping<'_> {
    /// Writes the server's roles and tablespaces.
    fn globals(&self, passwords: bool) -> Result<()> {
        for (what, file) in [("--roles-only", ROLES), ("--tablespaces-only", TABLESPACES)] {
            let path = self.to.join(file);
            let mut arguments = vec![what.into(), "--no-password".into(), "--encoding=UTF8".into()];
            arguments.extend([(!passwords).then(|| "--no-role-passwords".into())].into_iter().flatten());
            arguments.extend(["--file".into(), path.clone().into()]);
            let database = self.options.databases.as_ref().and_then(|names| names.first());
            if let Some(database) = database {
                arguments.push(format!("--dbname={}", conninfo(database)).into());
            }
            self.run("pg_dumpall", arguments, "the roles of the server")?;
            let bytes =
                reach::within(self.reach.place, || fs::metadata(&path).map_or(0, |found| found.len()))?;
            if bytes == 0 {
                return Err(self.bad(
                    "pg_dumpall",
                    "the roles of the server",
                    "it ended with status 0 and wrote nothing",
                ));
            }
        }
        Ok(())
    }

    /// Dumps a database with the facts of the same snapshot; `None` if nothing is in it and it may be left out.
    fn database(
        &self,
        name: &str,
        number: usize,
        has_facts: bool,
        may_be_left: bool,
    ) -> Result<Option<Dumped>> {
        let wrong = |error| self.reach.at("dump a database", &error);
        let mut connection = self.reach.open(name)?;
        let version = connection.known("show server_version_num").map_err(wrong)?;
        let mut settings = vec!["set lock_timeout = 0", "set idle_in_transaction_session_timeout = 0"];
        if version.parse::<u32>().is_ok_and(|version| version >= 140_000) {
            settings.push("set idle_session_timeout = 0");
        }
        for setting in settings {
            connection.query(setting).map_err(wrong)?;
        }
        measure::begin(&mut connection, self.options.query_timeout).map_err(wrong)?;
        let snapshot = connection.known("select pg_catalog.pg_export_snapshot()").map_err(wrong)?;
        let used = "select spcname from pg_catalog.pg_tablespace where spcname !~ '^pg_' and oid in (select reltablespace \
                    from pg_catalog.pg_class union select dattablespace from pg_catalog.pg_database where datname = \
                    pg_catalog.current_database())";
        let tablespaces = list(&mut connection, self.reach, used)?;
        let declared = match has_facts {
            true => measure::declared(&mut connection, &self.options.facts)?,
            false => [].into(),
        };
        let mut measured = measure::automatic(&mut connection, self.options.query_timeout)?;
        if may_be_left && measure::is_empty(&measured) {
            return Ok(None);
        }
        measured.facts.declared = declared;
        let directory = format!("{:03}-{}", number + 1, plain(name));
        let path = self.to.join(&directory);
        let arguments = vec![
            "--format=directory".into(),
            "--compress=0".into(),
            format!("--jobs={}", jobs()).into(),
            format!("--snapshot={snapshot}").into(),
            "--no-password".into(),
            "--file".into(),
            path.clone().into(),
            format!("--dbname={}", conninfo(name)).into(),
        ];
        let what = format!("the database {name}");
        self.run("pg_dump", arguments, &what)?;
        // The snapshot was there to the end only if its session was.
        connection.query("rollback").map_err(wrong)?;
        let database = self.definition(name, directory, &path, measured.tables)?;
        Ok(Some(Dumped { database, measured, tablespaces }))
    }

    /// Reads from a finished dump how its database is made, and whether it has what it must.
    fn definition(&self, name: &str, directory: String, path: &Path, tables: usize) -> Result<Database> {
        let what = format!("the database {name}");
        // Without `--create` rights and comments of the database itself are not listed.
        let list = ["--create".into(), "--list".into(), path.into()].to_vec();
        let listed = self.read(list, None, &what)?;
        let data = listed.lines().filter(|line| line.contains(" TABLE DATA ")).count();
        if data < tables {
            let why = format!("it ended with status 0 and wrote the rows of {data} tables, of {tables}");
            return Err(self.bad("pg_dump", &what, &why));
        }
        let about = listed.lines().filter(|line| is_about_database(line));
        let about: Vec<&str> = about.collect();
        let script = ["--create", "--use-list=/dev/stdin", "--file=-"].map(Into::into);
        let script = script.into_iter().chain([path.into()]).collect();
        let script = self.read(script, Some(about.join("\n") + "\n"), &what)?;
        defined(name, directory, &script)
            .ok_or_else(|| self.bad("pg_dump", &what, "it does not say how the database is made"))
    }

    fn run(&self, program: &str, arguments: Vec<std::ffi::OsString>, what: &str) -> Result<()> {
        let command = self.reach.command(&self.programs.join(program), arguments);
        self.reach.run(&command)?.map(drop).map_err(|why| self.bad(program, what, &why))
    }

    /// Reads a dump with `pg_restore`, which connects to nothing.
    fn read(&self, arguments: Vec<std::ffi::OsString>, input: Option<String>, what: &str) -> Result<String> {
        let mut command = reach::plain(&self.programs.join("pg_restore"), arguments);
        if let Some(input) = input {
            command = command.input(place::Input::Bytes(input.into_bytes()));
        }
        self.reach
            .run(&command)?
            .map_err(|why| self.bad("pg_dump", what, &format!("its dump cannot be read: {why}")))
    }

    fn bad(&self, program: &str, what: &str, why: &str) -> Error {
        Error::Command { what: format!("{program} of {what} of {}", self.reach.name()), why: why.to_owned() }
    }
}

/// Tells whether a line of a dump's list is about the database as a whole.
fn is_about_database(line: &str) -> bool {
    let Some((_, entry)) = line.split_once("; ") else { return false };
    let rest = entry.splitn(3, ' ').nth(2).unwrap_or_default();
    [
        "DATABASE - ",
        "DATABASE PROPERTIES - ",
        "ACL - DATABASE ",
        "COMMENT - DATABASE ",
        "SECURITY LABEL - DATABASE ",
    ]
    .iter()
    .any(|kind| rest.starts_with(kind))
}

/// Takes the statements about a database apart.
fn defined(name: &str, directory: String, script: &str) -> Option<Database> {
    let (mut made_with, mut owner, mut properties) = (None, None, Vec::new());
    for statement in script::statements(script) {
        let behind = |head: &str| {
            let (found, rest) = identifier(statement.strip_prefix(head)?)?;
            (found == name).then(|| rest.to_owned())
        };
        if let Some(rest) = behind("CREATE DATABASE ") {
            made_with = Some(rest.trim().to_owned());
        } else if let Some(rest) = behind("ALTER DATABASE ")
            && let Some(role) = rest.strip_prefix(" OWNER TO ")
        {
            owner = identifier(role).map(|(owner, _)| owner);
        } else if !statement.starts_with("SET ") && !statement.starts_with("SELECT ") {
            properties.push(statement);
        }
    }
    Some(Database { name: name.to_owned(), directory, made_with: made_with?, owner: owner?, properties })
}

/// A name as part of a path: for people, next to the number that tells directories apart.
fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
    name.chars().map(plain).take(48).collect()
}

/// The end of a capture: everything was read, and scratch is removed.
struct Ending {
    _scratch: Scratch,
    unread: Unread,
    problems: Vec<Problem>,
    passwords: bool,
    server: String,
}

impl Finish for Ending {
    fn finish(self: Box<Self>, _stored: Option<&Tally>) -> Result<Finished> {
        if self.unread.load(Ordering::Acquire) > 0 {
            let why = "its dump was not read to its end".to_owned();
            return Err(Error::Server { action: "store the databases", server: self.server, why });
        }
        let notes = (!self.passwords)
            .then(|| "without the passwords of its roles, which its role may not read".to_owned());
        Ok(Finished { problems: self.problems, notes: notes.into_iter().collect(), ..Finished::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_a_database_is_told_from_what_is_in_it() {
        assert!(is_about_database("3364; 1262 16388 DATABASE - shop keeper"));
        assert!(is_about_database("3370; 0 0 DATABASE PROPERTIES - shop keeper"));
        assert!(is_about_database("3365; 0 0 ACL - DATABASE \"shop\" keeper"));
        for other in ["; Dumped from database version: 15.18", "3; 2615 2200 SCHEMA - DATABASE keeper", ";"] {
            assert!(!is_about_database(other), "{other}");
        }
    }

    #[test]
    fn statements_about_a_database_are_taken_apart() {
        let script = "SET x = on;\nCREATE DATABASE \"o\"\"dd\" WITH TEMPLATE = template0 ENCODING = 'UTF8';\n\n\
                      ALTER DATABASE \"o\"\"dd\" OWNER TO keeper;\n\\connect x\nSET y = 1;\nCOMMENT ON DATABASE \"o\"\"dd\" IS 'a;b';\n\
                      ALTER DATABASE \"o\"\"dd\" SET work_mem TO '5MB';\n";
        let found = defined("o\"dd", "001".to_owned(), script).unwrap();
        assert_eq!(found.made_with, "WITH TEMPLATE = template0 ENCODING = 'UTF8'");
        assert_eq!(found.owner, "keeper");
        let properties =
            ["COMMENT ON DATABASE \"o\"\"dd\" IS 'a;b'", "ALTER DATABASE \"o\"\"dd\" SET work_mem TO '5MB'"];
        assert_eq!(found.properties, properties);
        assert_eq!(defined("other", "001".to_owned(), script), None);
    }
}
