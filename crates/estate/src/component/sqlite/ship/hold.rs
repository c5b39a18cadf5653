//! Holding a live log so that nobody begins it anew unseen, and harming nobody by it.
//!
//! # How it is held
//! SQLite begins a log anew only when no reader uses it. A read transaction of ours always does: the next one begins
//! before the last one ends, so that other processes' checkpoints get on, as far as readers let them, and only their
//! last step fails, which they are made for (`PASSIVE`, which is what SQLite does by itself, notices nothing; `RESTART`
//! and `TRUNCATE` say busy). A transaction that begins when everything is checkpointed would use the
//! database alone and hold nothing. So whatever is to hold begins behind a commit of our own, the **anchor**: it sets
//! `user_version` to what it is, which writes page 1 as it was but for its change counter. It is the one thing that is ever
//! written to the database.
//!
//! # How the log is begun anew
//! By the anchor, too: in its transaction, which has the write lock, everything that was committed is copied; then our read
//! transaction ends, and if all is checkpointed, SQLite itself begins the log anew with the anchor as its first
//! frame. A read statement that is open since before the commit keeps the log from then on, until the next read
//! transaction has begun. There is no moment in between in which nobody holds what was not copied.
//!
//! # Old SQLites
//! Up to 3.51.2 a checkpoint that begins just when the log is begun anew by another process damages the database (fixed in
//! 3.51.3; SQLite's release notes of 3.51.3). So the anchor is written while we have the lock of checkpoints, too:
//! whoever checkpoints begins before, and then there is no anchor, or afterwards. SQLite has no call that only takes
//! that lock; but a `FULL` checkpoint takes it and then waits for the write lock, which we have, by asking its busy
//! handler: and that writes the anchor. As long as the log is held nobody else begins it anew.
//!
//! # Locks
//! The last part of a checkpoint and the anchor need the write lock, for as long as it takes to write what is left (a
//! passive checkpoint goes ahead) and to sync it. They wait for others and give up; they never wait while they have it.
//! The database's file and `-shm`, on which SQLite has its locks, are never opened but by SQLite: closing them would drop
//! the locks of the whole process. `-wal` carries none.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::wal::{Header, Salts, read_header};
use crate::component::sqlite::source::{self, unusable};
use crate::component::{Holder, Holders, LogBase, appended};
use crate::{Error, Result};

/// What stands beside a database that is shipped: who does it, and where it is in the log.
pub(in crate::component::sqlite) const STATE_ENDING: &str = "-lifeboat";
/// The version of the file.
const VERSION: u32 = 1;
/// The most bytes of the file.
const STATE_BYTES_MAX: usize = 512;
/// How often a log is looked for that somebody has just removed, or a file for what is about to be in it.
const ATTEMPTS_MAX: u32 = 20;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);
/// How often the log is looked at while others write down what it is, which takes them microseconds.
const LOOKS_MAX: u32 = 2000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// How long is waited for a lock before it is tried again.
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

/// How far a log goes, as SQLite's index says: no further, whatever is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Frames that are committed.
    pub(super) frames: u32,
    /// How many of them are in the database, too.
    pub(super) in_database: u32,
}

/// Where the log stands in its lineage, for captures of other processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::component::sqlite) struct Standing {
    version: u32,
    /// The process that ships.
    pub(in crate::component::sqlite) pid: u32,
    pub(in crate::component::sqlite) lineage: String,
    /// The filling of the log for which this holds.
    pub(in crate::component::sqlite) salts: Salts,
    /// The position before its first frame.
    pub(in crate::component::sqlite) offset: u64,
}

/// A log that is held.
#[derive(Debug)]
pub(super) struct Hold {
    path: PathBuf,
    identity: [u64; 4],
    /// For questions and checkpoints; has no transaction.
    probe: Connection,
    held: Arc<Mutex<Held>>,
    pub(super) log: File,
    state: File,
}

/// The connections that have transactions.
#[derive(Debug)]
struct Held {
    /// Has the read transaction.
    reader: Connection,
    /// Has the next one.
    next: Connection,
    /// Has the write lock when we have it, and writes the anchor.
    writer: Connection,
    /// The anchor is wanted; then what came of it.
    is_wanted: bool,
    anchored: Option<rusqlite::Result<()>>,
}

impl Hold {
    /// Opens a database to be shipped; nothing is held yet.
    ///
    /// Fails when it is none, when it has no write-ahead log, and when somebody else ships it.
    pub(super) fn open(path: &Path, busy: Duration) -> Result<Self> {
        source::look_at(path)?;
        let open = || open(path, busy).map_err(|error| unusable(path, &error));
        let [probe, reader, next, writer] = [open()?, open()?, open()?, open()?];
        let mode: String = reader
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .map_err(|error| unusable(path, &error))?;
        if mode != "wal" {
            let why = format!(
                "has no write-ahead log (its journal mode is {mode}), and only that can be shipped: run `PRAGMA \
                 journal_mode=WAL` on it once, or back it up at intervals instead of `every: continuous`"
            );
            return Err(Error::BadSource { path: path.to_owned(), why });
        }
        let state = lock_state(path)?;
        let held = Held { reader, next, writer, is_wanted: false, anchored: None };
        let held = Arc::new(Mutex::new(held));
        let mut probe = probe;
        let asked = Arc::clone(&held);
        probe
            .busy_handler(Some(move |count| when_busy(&asked, count, busy)))
            .map_err(|error| unusable(path, &error))?;
        for _ in 0..ATTEMPTS_MAX {
            // The log comes into being by reading; what is opened must be what SQLite has.
            probe.query_row(READING, [], |_| Ok(())).map_err(|error| unusable(path, &error))?;
            let log_path = appended(path, "-wal");
            let log = match File::open(&log_path) {
                Ok(log) => log,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("read", &log_path)(error)),
            };
            let identity = identity(path).ok_or_else(|| moved(path))?;
            let hold = Self { path: path.to_owned(), identity, probe, held, log, state };
            hold.asked(begin_reading(&hold.held().reader))?;
            return Ok(hold);
        }
        Err(moved(path))
    }

    /// Who keeps the write lock, as far as it can be seen.
    pub(super) fn in_use(&self) -> Error {
        Error::InUse {
            path: self.path.clone(),
            holders: Holders::of(&source::with_companions(&self.path)).seen,
            hint: "end the long transaction or the exclusive lock, then try again".to_owned(),
        }
    }

    pub(super) fn page_bytes(&self) -> Result<u32> {
        self.asked(self.probe.pragma_query_value(None, "page_size", |row| row.get(0)))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no holder panics")
    }

    fn asked<T>(&self, answer: rusqlite::Result<T>) -> Result<T> {
        answer.map_err(|error| unusable(&self.path, &error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the paths still lead to what is open.
    pub(super) fn is_there(&self) -> bool {
        identity(&self.path) == Some(self.identity)
    }

    pub(super) fn extent(&self) -> Result<Extent> {
        for _ in 0..LOOKS_MAX {
            if let Some(extent) = self.asked(extent(&self.probe, "noop"))? {
                return Ok(extent);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Err(self.in_use())
    }

    /// Runs a checkpoint that waits for nobody, and tells whether all of the log is in the database then; `None` when
    /// another process is at one.
    pub(super) fn checkpoint(&self) -> Result<Option<bool>> {
        let extent = self.asked(extent(&self.probe, "passive"))?;
        Ok(extent.map(|extent| extent.in_database == extent.frames))
    }

    pub(super) fn header(&self) -> Result<Option<Header>> {
        read_header(&self.log).map_err(Error::io("read", &appended(&self.path, "-wal")))
    }

    /// Begins the next read transaction, then ends the last: others' checkpoints may go up to here.
    pub(super) fn advance(&self) -> Result<()> {
        self.asked(self.held().advance())
    }

    /// A connection in a read transaction of its own.
    pub(super) fn snapshot(&self, busy: Duration) -> Result<Connection> {
        let connection = self.asked(open(&self.path, busy))?;
        self.asked(begin_reading(&connection)).map(|()| connection)
    }

    /// Takes the write lock, waiting at most so long; `false` when others have it.
    pub(super) fn lock(&self, wait: Duration) -> Result<bool> {
        let held = self.held();
        match held.writer.busy_timeout(wait).and_then(|()| held.writer.execute_batch("begin immediate")) {
            Ok(()) => Ok(true),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) => Err(unusable(&self.path, &error)),
        }
    }

    /// Gives the write lock back without having written.
    pub(super) fn unlock(&self) -> Result<()> {
        self.asked(end(&self.held().writer))
    }

    /// Commits the anchor in the transaction that has the write lock, and holds the log behind it; `false` when another
    /// process is at a checkpoint just now: then nothing was done.
    ///
    /// If it fails the log is held as well as can be; whoever reads it next finds out.
    pub(super) fn anchor(&self) -> Result<bool> {
        self.held().is_wanted = true;
        // It asks for the lock of checkpoints, then for the write lock, which we have: that is when it is done.
        let checkpoint = extent(&self.probe, "full");
        let mut held = self.held();
        held.is_wanted = false;
        match held.anchored.take() {
            Some(anchored) => self.asked(anchored).map(|()| true),
            None => self.asked(checkpoint).map(|_| false),
        }
    }

    /// Tells captures where the log stands in its lineage.
    pub(super) fn tell(&self, lineage: &str, salts: Salts, offset: u64) -> Result<()> {
        let standing = Standing {
            version: VERSION,
            pid: std::process::id(),
            lineage: lineage.to_owned(),
            salts,
            offset,
        };
        let mut line = serde_json::to_vec(&standing).expect("numbers and a name");
        line.resize(STATE_BYTES_MAX - 1, b' ');
        line.push(b'\n');
        self.state.write_all_at(&line, 0).map_err(Error::io("write", &appended(&self.path, STATE_ENDING)))
    }
}

impl Held {
    fn advance(&mut self) -> rusqlite::Result<()> {
        begin_reading(&self.next)?;
        std::mem::swap(&mut self.reader, &mut self.next);
        end(&self.next)
    }

    fn anchor(&mut self) -> rusqlite::Result<()> {
        end(&self.reader)?;
        let anchored = self.write_anchor();
        if anchored.is_err() {
            begin_reading(&self.reader)?;
            end(&self.writer)?;
        }
        anchored
    }

    fn write_anchor(&self) -> rusqlite::Result<()> {
        let version: i64 = self.writer.pragma_query_value(None, "user_version", |row| row.get(0))?;
        // Open until the function ends: the commit leaves its read lock behind.
        let mut open = self.writer.prepare(READING)?;
        let mut rows = open.query([])?;
        rows.next()?;
        self.writer.pragma_update(None, "user_version", version)?;
        self.writer.execute_batch("commit")?;
        begin_reading(&self.reader)
    }
}

/// What the connection for checkpoints does when it finds a lock taken: the anchor, if that is what it was called for.
fn when_busy(held: &Mutex<Held>, count: i32, patience: Duration) -> bool {
    let mut held = held.lock().expect("no holder panics");
    if std::mem::take(&mut held.is_wanted) {
        held.anchored = Some(held.anchor());
        return false;
    }
    drop(held);
    std::thread::sleep(BETWEEN_TRIES);
    BETWEEN_TRIES * count.unsigned_abs() < patience
}

/// Ends a transaction, if there is one.
fn end(connection: &Connection) -> rusqlite::Result<()> {
    if connection.is_autocommit() { Ok(()) } else { connection.execute_batch("rollback") }
}

/// Reads something and gives two rows, so that it is not at its end behind the first.
const READING: &str = "select count(*) from main.sqlite_schema union all select 0";

/// A transaction begins with its first read.
fn begin_reading(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("begin")?;
    connection.query_row(READING, [], |_| Ok(()))
}

/// Begins the read transaction of a capture, and tells where it stands in the lineage that is shipped, if one is.
///
/// For that nobody may commit meanwhile: the write lock is taken for as long as it takes to begin. Where it cannot be had
/// within `busy`, and where nobody ships what the log holds now, the transaction begins all the same and
/// stands nowhere.
pub(in crate::component::sqlite) fn begin_capture(
    path: &Path,
    connection: &Connection,
    busy: Duration,
) -> Result<Option<LogBase>> {
    let failed = |error: rusqlite::Error| unusable(path, &error);
    let log_path = appended(path, "-wal");
    let is_shipped = || {
        let standing = standing(path)?;
        let header = File::open(&log_path).and_then(|log| read_header(&log)).ok()??;
        (header.salts == standing.salts).then_some(standing)
    };
    if standing(path).is_some() {
        let [writer, probe] = [open(path, busy).map_err(failed)?, open(path, busy).map_err(failed)?];
        for _ in 0..ATTEMPTS_MAX {
            // Busy for too long, or not ours to write: a point that cannot be brought further is better than none.
            if writer.execute_batch("begin immediate").is_err() {
                break;
            }
            // What is shipped says where it stands a moment after the log was begun anew.
            if let Some(standing) = is_shipped() {
                // Nobody else writes, so that it can be looked at.
                let Some(extent) = extent(&probe, "noop").map_err(failed)? else { break };
                let frames = extent.frames;
                begin_reading(connection).map_err(failed)?;
                let position = standing.offset + u64::from(frames);
                let lineage = standing.lineage;
                return Ok(Some(LogBase { lineage, needed_from: position, consistent_at: position }));
            }
            writer.execute_batch("rollback").map_err(failed)?;
            std::thread::sleep(BETWEEN_ATTEMPTS);
        }
    }
    begin_reading(connection).map_err(failed).map(|()| None)
}

/// The process that ships a database at this moment.
pub(in crate::component::sqlite) fn shipper(path: &Path) -> Option<u32> {
    let state = File::open(appended(path, STATE_ENDING)).ok()?;
    let is_locked = flock(&state, FlockOperation::NonBlockingLockShared).is_err();
    standing(path).filter(|_| is_locked).map(|standing| standing.pid)
}

/// Runs a checkpoint of SQLite's, or none (`noop`), and tells what the log is then; `None` when it could not even look,
/// because another process was just writing that down, or is at a checkpoint.
fn extent(connection: &Connection, mode: &str) -> rusqlite::Result<Option<Extent>> {
    let mut statement = connection.prepare(&format!("pragma main.wal_checkpoint({mode})"))?;
    let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<[i64; 2]> { Ok([row.get(1)?, row.get(2)?]) };
    let [frames, in_database] = statement.query_row([], row)?.map(u32::try_from);
    Ok(frames.ok().zip(in_database.ok()).map(|(frames, in_database)| Extent { frames, in_database }))
}

fn open(path: &Path, busy: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // The last one to close would checkpoint the log and remove it, shipped or not.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(busy)?;
    connection.execute_batch("pragma wal_autocheckpoint = 0; pragma synchronous = normal")?;
    Ok(connection)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The file systems and numbers of a database and its log.
fn identity(path: &Path) -> Option<[u64; 4]> {
    let (database, log) = (fs::metadata(path).ok()?, fs::metadata(appended(path, "-wal")).ok()?);
    Some([database.dev(), database.ino(), log.dev(), log.ino()])
}

fn moved(path: &Path) -> Error {
    let why = "was replaced or removed while it was opened".to_owned();
    Error::BadSource { path: path.to_owned(), why }
}

/// Opens the file beside a database that says who ships it, and locks it as long as it is open.
fn lock_state(path: &Path) -> Result<File> {
    let state_path = appended(path, STATE_ENDING);
    let mut options = OpenOptions::new();
    let state = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&state_path);
    let state = state.map_err(Error::io("write", &state_path))?;
    match flock(&state, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(state),
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
            let holders =
                standing(path).map(|standing| Holder { pid: standing.pid, name: "lifeboat".to_owned() });
            let hint = "it is shipped already; one process at a time may, stop the other".to_owned();
            Err(Error::InUse { path: path.to_owned(), holders: holders.into_iter().collect(), hint })
        }
        Err(error) => Err(Error::io("lock", &state_path)(error.into())),
    }
}

/// What the file beside a database says; `None` when there is none, or it says nothing.
pub(in crate::component::sqlite) fn standing(path: &Path) -> Option<Standing> {
    let text = fs::read(appended(path, STATE_ENDING)).ok()?;
    let standing: Standing = serde_json::from_slice(text.get(..STATE_BYTES_MAX)?).ok()?;
    (standing.version == VERSION).then_some(standing)
}
