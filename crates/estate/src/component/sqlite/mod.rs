//! The driver of SQLite databases: one consistent read of the pages, under writers.
//!
//! # Consistency
//! Everything of a capture (pages, facts, exports) is read inside one read transaction of one
//! connection. With a write-ahead log writers go on meanwhile; in rollback mode they wait until the pages are
//! read.
//!
//! # Where things live
//! `source`: opening without harm. `token`: telling an unchanged database. `pages`: the
//! stream. `measure`: facts. `dump`: exports. `proof`: what is shown about a restored one; `aside`: in a process of
//! its own.
//!
//! The rules and where they come from: SQLite's "How to corrupt an SQLite database file", "Write-ahead
//! logging" and "Database file format"; Litestream's issue list for what goes wrong in the field.

mod aside;
mod damage;
mod dump;
mod measure;
mod pages;
mod proof;
mod ship;
mod source;
mod token;

use std::fs::{self, File, Metadata};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use sha2::{Digest, Sha256};

pub use self::aside::{Prover, answer_aside};
use self::pages::{BLOCK_BYTES, PageReader, Snapshot};
use self::token::Mark;
use super::restore::appended;
use super::whole::{Unread, Whole};
use super::{
    Cancel, Capture, CaptureRequest, Component, Content, Damage, Export, Exported, Finding, Finish, Finished,
    Follow, Holders, Log, LogPiece, Member, Open, Pages, Part, PointFacts, Proof, Replay, Replayed, Severity,
    SqliteOptions, State, StreamMeta, Tally,
};
use crate::facts::Facts;
use crate::{Error, Result};

/// Where derived files lie in a snapshot.
pub const EXPORTS: &str = "/lifeboat/exports";
/// For what only the caller's wish may end: 136 years, as a deadline must be a time that there is.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(u32::MAX as u64);
/// How far a write-ahead log may grow at least while a database is read.
const WAL_BYTES_MAX: u64 = 1 << 30;
/// The first and the last SQLite whose reset of the log can damage a database, as SQLite's release notes of
/// 3.51.3 say.
const FAULTY: (u32, u32) = (3_007_000, 3_051_002);
/// How often, and how far apart, a live database is looked at before it is called damaged.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Changes with what a capture of the same options contains, so that an old token does not stand for it.
const CAPTURE_VERSION: u32 = 1;

/// A SQLite database.
#[derive(Debug, Clone)]
pub struct Sqlite {
    options: SqliteOptions,
}

impl Sqlite {
    /// Makes the driver; touches nothing.
    pub fn new(options: SqliteOptions) -> Self {
        Self { options }
    }

    fn path(&self) -> &Path {
        &self.options.path
    }

    /// What decides the content of a capture beside the database: part of the token.
    fn asked(&self) -> String {
        let asked = (CAPTURE_VERSION, rusqlite::version(), &self.options.facts, &self.options.exports);
        hex(&Sha256::digest(format!("{asked:?}"))[..8])
    }

    /// Copies the database within the open transaction: its pages as they are, in one step.
    ///
    /// More steps would begin anew whenever somebody writes (databases.md §2: 5 restarts in 18 steps).
    fn copy(&self, connection: &Connection, copy: &Path) -> Result<()> {
        let failed = |error: rusqlite::Error| source::unusable(self.path(), &error);
        drop(private_file(copy)?);
        let mut target = Connection::open(copy).map_err(failed)?;
        target.pragma_update(None, "synchronous", "off").map_err(failed)?;
        let done = Backup::new(connection, &mut target).and_then(|backup| backup.step(-1)).map_err(failed)?;
        if done != StepResult::Done {
            let why = format!("the copy ended with {done:?}: try again");
            return Err(Error::BadSource { path: self.path().to_owned(), why });
        }
        target.close().map_err(|(_, error)| failed(error))
    }

    fn write_export(
        &self,
        connection: &mut Connection,
        export: &Export,
        at: &Path,
        cancel: &Cancel,
    ) -> Result<()> {
        let failed = |why: String| Error::Query { what: format!("export `{}`", export.name), why };
        source::bound(connection, self.options.query_timeout, cancel)
            .map_err(|error| failed(error.to_string()))?;
        let mut out = BufWriter::with_capacity(256 << 10, private_file(at)?);
        let written = match &export.what {
            Exported::Dump => dump::dump(connection, &mut out),
            Exported::Csv(query) => dump::csv(connection, query, &mut out),
        };
        written.map_err(|error| failed(error.to_string()))?;
        out.flush().map_err(Error::io("write", at))
    }
}

impl Component for Sqlite {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn engine(&self) -> String {
        format!("SQLite {}", rusqlite::version())
    }

    fn preflight(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |severity, what: String, hint: &str| {
            findings.push(Finding { severity, what, hint: hint.to_owned() });
        };
        let path = self.path().display();
        if fs::symlink_metadata(self.path()).is_ok_and(|found| found.is_symlink()) {
            let what =
                format!("{path} is a symbolic link; it can be backed up, and not be restored in place");
            find(Severity::Warning, what, "name the file that it points to in the plan");
        }
        if let Err(error) = source::look_at(self.path()) {
            find(Severity::Error, error.to_string(), "a backup fails as things are");
            return findings;
        }
        match looked_at(|| header(self.path())) {
            Err(error) => {
                let error = source::unusable(self.path(), &error);
                find(Severity::Error, error.to_string(), "a backup fails as things are");
            }
            Ok(header) if header[18] == 2 => {
                let version = u32::from_be_bytes([header[96], header[97], header[98], header[99]]);
                if (FAULTY.0..=FAULTY.1).contains(&version) {
                    let (major, minor, patch) = (version / 1_000_000, version / 1000 % 1000, version % 1000);
                    let what = format!(
                        "{path} was last written by SQLite {major}.{minor}.{patch}, which can damage a database \
                         with a write-ahead log when it resets the log while another connection writes"
                    );
                    find(Severity::Warning, what, "use SQLite 3.51.3 or later in the application");
                }
            }
            Ok(_) => {}
        }
        findings
    }

    fn state(&self) -> Result<State> {
        let found = match fs::metadata(self.path()) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(Error::io("look at", self.path())(error)),
        };
        let look = || source::open_still(self.path()).and_then(|connection| measure::identity(&connection));
        let (identity, damage) = match source::look_at(self.path()).map(|_| looked_at(look)) {
            Ok(Ok(identity)) => (Some(identity), None),
            Ok(Err(error)) => (None, Some(source::unusable(self.path(), &error).to_string())),
            Err(error) => (None, Some(error.to_string())),
        };
        let holders = Holders::of(&source::with_companions(self.path())).seen;
        Ok(State { present: true, identity, damage, bytes: Some(found.len()), holders })
    }

    fn capture(&self, request: &CaptureRequest<'_>) -> Result<Capture> {
        let failed = |error: rusqlite::Error| source::unusable(self.path(), &error);
        let found = source::look_at(self.path())?;
        let before = Mark::of(self.path());
        let mut connection = source::open_live(self.path(), self.options.busy_timeout)?;
        // The transaction begins with the first read, not with BEGIN.
        let log = ship::begin_capture(self.path(), &connection, self.options.busy_timeout)?;
        let instant = Timestamp::now();
        let after = Mark::of(self.path());
        let head = first_page(&connection).map_err(failed)?.unwrap_or([0; 100]);
        let token = before.and_then(|before| before.token(after.as_ref(), &head, &self.asked()));
        let mut point = PointFacts {
            kind: self.kind().to_owned(),
            engine: self.engine(),
            instant,
            facts: Facts::default(),
            queries: self.options.facts.iter().cloned().collect(),
            bytes: None,
            roots: vec![self.path().to_owned()],
            identity: Some(measure::identity(&connection).map_err(failed)?),
            token,
            details: [].into(),
            log,
        };
        let exports = self.options.exports.iter().map(|export| Path::new(EXPORTS).join(&export.name));
        if let Some(previous) = request.previous.filter(|previous| is_same(previous, &point)) {
            point.facts = previous.facts.clone();
            point.bytes = previous.bytes;
            let as_before = |path_in_snapshot| Member { path_in_snapshot, content: Content::AsBefore };
            let members = std::iter::once(self.path().to_owned()).chain(exports).map(as_before).collect();
            return Ok(Capture { members, point, finish: Box::new(super::Nothing) });
        }

        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
        let (pages, page_bytes) =
            (pragma("page_count").map_err(failed)?, pragma("page_size").map_err(failed)?);
        let bytes = u64::from(pages) * u64::from(page_bytes);
        if pages == 0 {
            let why = "holds no page: no database was ever written to it".to_owned();
            return Err(Error::BadSource { path: self.path().to_owned(), why });
        }
        point.bytes = Some(bytes);
        source::bound(&mut connection, self.options.query_timeout, &request.cancel).map_err(failed)?;
        point.facts = measure::automatic(&connection).map_err(failed)?;
        for (name, query) in &self.options.facts {
            let patience = self.options.query_timeout;
            let value = measure::declared(&mut connection, name, query, patience, &request.cancel)?;
            point.facts.declared.insert(name.clone(), value);
        }
        let scratch = Scratch::new(request)?;
        let meta = StreamMeta::of(&found);
        let (unread, mut members) = (Unread::default(), Vec::new());
        for (number, (export, path)) in self.options.exports.iter().zip(exports).enumerate() {
            let file = scratch.path.join(format!("export-{number}"));
            self.write_export(&mut connection, export, &file, &request.cancel)?;
            members.push(file_member(path, &file, StreamMeta { mode: 0o600, ..meta.clone() }, &unread)?);
        }
        // The pages may take longer than a query: only the caller's wish may end them.
        source::bound(&mut connection, AS_LONG_AS_IT_TAKES, &request.cancel).map_err(failed)?;
        let streams = self.options.pages == Pages::Auto && shows_pages(&connection).map_err(failed)?;
        let snapshot = if streams {
            let log = (appended(self.path(), "-wal"), self.wal_bytes_max(bytes));
            let snapshot = Snapshot::new(connection);
            let reader =
                Whole::new(PageReader::new(Arc::clone(&snapshot), page_bytes, pages, log), bytes, &unread);
            let open: Open = Box::new(move || Ok(Box::new(reader) as Box<dyn Read + Send>));
            let content = Content::Stream {
                meta,
                size: Some(bytes),
                block_bytes: Some(BLOCK_BYTES),
                open,
                origin: None,
            };
            members.insert(0, Member { path_in_snapshot: self.path().to_owned(), content });
            Some(snapshot)
        } else {
            let copy = scratch.path.join("copy");
            self.copy(&connection, &copy)?;
            drop(connection);
            let mut member = file_member(self.path().to_owned(), &copy, meta, &unread)?;
            if let Content::Stream { block_bytes, .. } = &mut member.content {
                *block_bytes = Some(BLOCK_BYTES);
            }
            members.insert(0, member);
            None
        };
        let finish = Box::new(Ending { snapshot, unread, path: self.path().to_owned(), _scratch: scratch });
        Ok(Capture { members, point, finish })
    }

    fn parts(&self, run: &str, recorded: &PointFacts) -> Vec<Part> {
        let part = |root: &PathBuf| Part::home(root, run).with_companions(source::COMPANIONS);
        let mut parts: Vec<Part> = recorded.roots.iter().map(part).collect();
        // The plan may have moved the database since; it goes where the plan says now.
        if let [part] = &mut parts[..] {
            part.target = self.path().to_owned();
            part.beside = appended(self.path(), &format!(".lifeboat-{run}"));
        }
        parts
    }

    fn prepare(&self, parts: &[Part], recorded: &PointFacts) -> Result<()> {
        for part in parts {
            super::restore::make_way(part, false)?;
            let mut holders = Holders::of(&source::with_companions(&part.target));
            // Whoever ships it notices that it is another one.
            let shipper = ship::shipper(&part.target);
            holders.seen.retain(|holder| Some(holder.pid) != shipper);
            if !holders.seen.is_empty() {
                let hint = "stop the service that uses it, then try again".to_owned();
                return Err(Error::InUse { path: part.target.clone(), holders: holders.seen, hint });
            }
            // Whatever cannot be read as a database is what a restore is for; it is kept in any case.
            let found = source::open_still(&part.target).and_then(|there| measure::identity(&there)).ok();
            let nothing_there = !part.target.exists();
            if let (Some(found), Some(expected), false) = (found, &recorded.identity, nothing_there)
                && measure::is_other(expected, &found)
            {
                let (path, expected) = (part.target.clone(), expected.clone());
                return Err(Error::OtherIdentity { path, expected, found });
            }
        }
        Ok(())
    }

    fn prove(&self, parts: &[Part], recorded: &PointFacts, cancel: &Cancel) -> Result<Proof> {
        let names = self.options.facts.iter().map(|(name, _)| name.clone()).collect();
        let asked = (names, self.options.query_timeout);
        proof::prove(parts, recorded, asked, self.options.prover.as_ref(), cancel)
    }

    fn is_proven_within(&self) -> bool {
        self.options.prover.is_none()
    }

    fn damage(
        &self,
        parts: &[Part],
        _recorded: &PointFacts,
        how: Damage,
        _cancel: &Cancel,
    ) -> Result<Option<String>> {
        damage::damage(parts, how)
    }

    fn log(&self) -> Option<&dyn Log> {
        Some(self)
    }

    fn destroy(&self) -> Vec<PathBuf> {
        source::with_companions(self.path())
    }
}

impl Log for Sqlite {
    fn replay(&self, parts: &[Part], recorded: &PointFacts, replay: Replay<'_>) -> Result<Replayed> {
        ship::replay(parts, recorded, replay)
    }

    fn follow(&self, last: Option<&LogPiece>) -> Result<Option<Box<dyn Follow>>> {
        let follower = ship::follow(&self.options, last)?;
        Ok(Some(Box::new(follower)))
    }
}

impl Sqlite {
    fn wal_bytes_max(&self, database_bytes: u64) -> u64 {
        self.options.wal_bytes_max.unwrap_or(database_bytes.max(WAL_BYTES_MAX))
    }
}

/// Tells whether nothing has changed since `previous`.
fn is_same(previous: &PointFacts, point: &PointFacts) -> bool {
    point.token.is_some() && previous.token == point.token && previous.roots == point.roots
}

/// A file of the scratch directory as a member.
fn file_member(path_in_snapshot: PathBuf, file: &Path, meta: StreamMeta, unread: &Unread) -> Result<Member> {
    let content = File::open(file).map_err(Error::io("read", file))?;
    let size = content.metadata().map_err(Error::io("look at", file))?.len();
    let reader = Whole::new(content, size, unread);
    let open: Open = Box::new(move || Ok(Box::new(reader) as Box<dyn Read + Send>));
    let content = Content::Stream { meta, size: Some(size), block_bytes: None, open, origin: None };
    Ok(Member { path_in_snapshot, content })
}

/// Makes a file that nobody else may read: what goes into it may be secret.
fn private_file(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600).open(path).map_err(Error::io("create", path))
}

/// Tells whether this build's SQLite can show pages to a transaction (`SQLITE_ENABLE_DBPAGE_VTAB`).
fn shows_pages(connection: &Connection) -> rusqlite::Result<bool> {
    let query = "select count(*) from pragma_compile_options where compile_options = 'ENABLE_DBPAGE_VTAB'";
    connection.query_row(query, [], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

/// Reads the header as the transaction sees it; nothing where this build cannot.
fn first_page(connection: &Connection) -> rusqlite::Result<Option<[u8; 100]>> {
    if !shows_pages(connection)? {
        return Ok(None);
    }
    let query = "select substr(data, 1, 100) from sqlite_dbpage('main') where pgno = 1";
    connection.query_row(query, [], |row| row.get(0)).map(Some)
}

/// Reads the header of a database on disk, through SQLite.
fn header(path: &Path) -> rusqlite::Result<[u8; 100]> {
    let connection = source::open_still(path)?;
    connection.query_row("select count(*) from main.sqlite_schema", [], |row| row.get::<_, i64>(0))?;
    Ok(first_page(&connection)?.unwrap_or([0; 100]))
}

/// Looks at a live database without a lock; a writer in the middle of something can make it look damaged, so
/// that it counts as damaged only when it looks so again and again.
fn looked_at<T>(look: impl Fn() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    for _ in 1..LOOKS {
        if let Ok(found) = look() {
            return Ok(found);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    look()
}

/// A directory of the capture's own, gone with it.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(request: &CaptureRequest<'_>) -> Result<Self> {
        for number in 0_u32.. {
            let path = request.scratch.join(format!("sqlite-{}-{number}", request.run));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", &path)(error)),
            }
        }
        unreachable!("some number is free")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is the caller's scratch directory, which it removes whole.
        _ = fs::remove_dir_all(&self.path);
    }
}

/// The end of a capture: nothing is kept of the transaction or the scratch files, finished or not.
struct Ending {
    snapshot: Option<Arc<Snapshot>>,
    unread: Unread,
    path: PathBuf,
    _scratch: Scratch,
}

impl Finish for Ending {
    fn finish(self: Box<Self>, _stored: Option<&Tally>) -> Result<Finished> {
        if self.unread.load(Ordering::Acquire) > 0 {
            let why = "was not read to its end".to_owned();
            return Err(Error::BadSource { path: self.path.clone(), why });
        }
        Ok(Finished::default())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(snapshot) = &self.snapshot {
            // Closing the connection would end the transaction as well; a forgotten reader must not keep it.
            _ = snapshot.connection().execute_batch("rollback");
        }
    }
}

/// Writes bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits =
        bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}

/// Quotes a name for SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Tells whether a restored file can be looked at; for `proof`.
fn file_of(part: &Part) -> Result<Metadata> {
    fs::metadata(&part.beside).map_err(Error::io("look at", &part.beside))
}
