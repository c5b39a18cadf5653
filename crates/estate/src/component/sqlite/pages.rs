//! The bytes of a database, page after page, as one read transaction sees them.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::Connection;

/// How much is taken from SQLite at once, so that several readers can take turns.
const BATCH_BYTES: usize = 256 << 10;
/// Blocks for the repository: a change of one page stores one block, and any page size divides it.
pub(super) const BLOCK_BYTES: u32 = 64 << 10;
/// Where SQLite keeps its locks; the page there is never used.
const LOCK_BYTE: u64 = 1 << 30;

/// A connection inside a read transaction, shared by what reads from it.
pub(super) struct Snapshot {
    connection: Mutex<Connection>,
}

impl Snapshot {
    pub(super) fn new(connection: Connection) -> Arc<Self> {
        Arc::new(Self { connection: Mutex::new(connection) })
    }

    /// Takes the connection; a reader that panicked has left it as usable as before.
    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Reads all pages in order.
pub(super) struct PageReader {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) page_bytes: u32,
    pub(super) pages: u32,
    /// The log, and how long it may become.
    pub(super) log: (PathBuf, u64),
    next: u32,
    batch: Vec<u8>,
    given: usize,
}

impl PageReader {
    pub(super) fn new(snapshot: Arc<Snapshot>, page_bytes: u32, pages: u32, log: (PathBuf, u64)) -> Self {
        Self { snapshot, page_bytes, pages, log, next: 1, batch: Vec::new(), given: 0 }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.check_log()?;
        self.batch.clear();
        self.given = 0;
        let connection = self.snapshot.connection();
        let mut page = connection
            .prepare("select data from sqlite_dbpage('main') where pgno = ?1")
            .map_err(io::Error::other)?;
        while self.next <= self.pages && self.batch.len() < BATCH_BYTES {
            if u64::from(self.next) == LOCK_BYTE / u64::from(self.page_bytes) + 1 {
                self.batch.resize(self.batch.len() + self.page_bytes as usize, 0);
            } else {
                let mut rows = page.query([self.next]).map_err(io::Error::other)?;
                let row = rows.next().map_err(io::Error::other)?;
                let data = row.map(|row| row.get_ref(0)).transpose().map_err(io::Error::other)?;
                let bytes = data.and_then(|data| data.as_blob().ok()).unwrap_or_default();
                if bytes.len() != self.page_bytes as usize {
                    let said = format!("page {} of {} was not given whole", self.next, self.pages);
                    return Err(io::Error::other(said));
                }
                self.batch.extend_from_slice(bytes);
            }
            self.next += 1;
        }
        Ok(())
    }

    /// Our transaction keeps the log from being reset: rather no backup than a full disk.
    fn check_log(&self) -> io::Result<()> {
        let (path, bytes_max) = &self.log;
        let bytes = fs::metadata(path).map_or(0, |found| found.len());
        if bytes > *bytes_max {
            let path = path.display();
            return Err(io::Error::other(format!(
                "{path} grew to {bytes} bytes while the database was read (at most {bytes_max}): back up when less is written"
            )));
        }
        Ok(())
    }
}

impl Read for PageReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.batch.len() && self.next <= self.pages {
            self.fill()?;
        }
        let count = buffer.len().min(self.batch.len() - self.given);
        buffer[..count].copy_from_slice(&self.batch[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}
