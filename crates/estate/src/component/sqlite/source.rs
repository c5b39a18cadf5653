//! Opening a database without harming it, and saying what went wrong in words.
//!
//! # Locks
//! A database file is never opened by the standard library here: POSIX drops all of a process's locks
//! on a file when any of its descriptors is closed (SQLite's "How to corrupt", 2.2). `stat` is harmless, and
//! so is reading the `-wal`, on which SQLite holds no locks.
//!
//! # What a capture leaves behind
//! Nothing is written to the database. A write-ahead log that was there stays
//! as it is, because our connection neither checkpoints nor deletes it on close; checkpoints belong to the
//! application. A hot journal of a crashed writer is rolled back by SQLite, as any reader would.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::super::restore::appended;
use super::super::{Cancel, Holders};
use crate::{Error, Result};

/// What SQLite, and shipping, keep beside a database, by the ending of its name.
pub(super) const COMPANIONS: &[&str] = &["-wal", "-shm", "-journal", super::ship::STATE_ENDING];

/// How many steps of SQLite's machine pass between two looks at the clock; some tens of microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// Opens a live database for reading; waits `busy` for others' locks.
pub(super) fn open_live(path: &Path, busy: Duration) -> Result<Connection> {
    let wal = fs::metadata(appended(path, "-wal")).is_ok_and(|found| found.len() > 0);
    // Write access is for what SQLite itself must do to read: the shared index of a log, a hot journal. Where
    // the file may not be written, SQLite falls back to reading by itself.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| unusable(path, &error))?;
    let configure = || {
        connection.busy_timeout(busy)?;
        if wal {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        connection.pragma_update(None, "query_only", true)
    };
    configure().map_err(|error| unusable(path, &error))?;
    Ok(connection)
}

/// Opens a database that nobody else has open, without locks and without making files beside it.
pub(super) fn open_still(path: &Path) -> std::result::Result<Connection, rusqlite::Error> {
    let mut uri = OsString::from("file:");
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => escaped.push(byte),
            _ => escaped.extend(format!("%{byte:02x}").into_bytes()),
        }
    }
    uri.push(OsString::from_vec(escaped));
    uri.push("?immutable=1");
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(PathBuf::from(uri), flags)?;
    // 32 MiB: enough that the inner pages of large trees are not read again and again.
    connection.pragma_update(None, "cache_size", -32_768)?;
    Ok(connection)
}

/// The same with the whole file mapped into memory: for a process that does nothing else, because a page that cannot
/// be read ends it with SIGBUS.
pub(super) fn open_mapped(path: &Path) -> std::result::Result<Connection, rusqlite::Error> {
    let connection = open_still(path)?;
    connection.pragma_update(None, "mmap_size", i64::MAX)?;
    Ok(connection)
}

/// Checks that a path is a file that can be a database at all, by looking at its metadata only.
///
/// Fails with [`Error::Missing`] or [`Error::BadSource`].
pub(super) fn look_at(path: &Path) -> Result<fs::Metadata> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let hint = "create the database, or correct `sqlite:` in the plan".to_owned();
            return Err(Error::Missing { path: path.to_owned(), hint });
        }
        Err(error) => return Err(Error::io("look at", path)(error)),
    };
    let why = if !found.is_file() {
        "is not a regular file"
    } else if found.len() == 0 {
        "is empty (0 bytes): no database was ever written to it, or it was truncated"
    } else {
        return Ok(found);
    };
    Err(Error::BadSource { path: path.to_owned(), why: why.to_owned() })
}

/// Turns an error of SQLite at the source into ours.
pub(super) fn unusable(path: &Path, error: &rusqlite::Error) -> Error {
    let why = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let hint = "end the long transaction or the exclusive lock, then try again";
            return Error::InUse {
                path: path.to_owned(),
                holders: Holders::of(&with_companions(path)).seen,
                hint: hint.to_owned(),
            };
        }
        Some(ErrorCode::OperationInterrupted) => return Error::Interrupted,
        Some(ErrorCode::NotADatabase) => {
            "is not a SQLite database, or is encrypted: back up an encrypted one with a `command` component \
             that runs its own tool"
                .to_owned()
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!("is damaged ({error}): recover it from an earlier point, or with `sqlite3 FILE .recover`")
        }
        _ => error.to_string(),
    };
    Error::BadSource { path: path.to_owned(), why }
}

/// The database and the files that are kept beside it, whether they are there or not.
pub(super) fn with_companions(path: &Path) -> Vec<PathBuf> {
    let beside = COMPANIONS.iter().map(|ending| appended(path, ending));
    std::iter::once(path.to_owned()).chain(beside).collect()
}

/// Makes queries of a connection stop at a deadline and when asked to; a new call sets a new deadline.
pub(super) fn bound(
    connection: &mut Connection,
    patience: Duration,
    cancel: &Cancel,
) -> rusqlite::Result<()> {
    let (deadline, cancel) = (Instant::now() + patience, cancel.clone());
    let ask = move || cancel.load(std::sync::atomic::Ordering::Relaxed) || Instant::now() >= deadline;
    connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(ask))
}
