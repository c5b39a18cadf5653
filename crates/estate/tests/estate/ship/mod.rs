//! Shipping the log of SQLite databases that other processes write, checkpoint, replace and kill, and replaying it.

mod continuity;
mod faults;
mod instants;
mod locks;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use estate::component::{Cancel, Component, Follow, LogPiece, Proven, Replay, Replayed, SqliteOptions};
use jiff::Timestamp;
use rusqlite::Connection;

use crate::sqlite::Database;
use crate::support::{Stored, back_up};

/// A small database with a write-ahead log.
pub const NOTES: &str = "pragma journal_mode = wal; create table note(id integer primary key, text);
    insert into note values(1, 'first');";

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A stand-in for the archive: the pieces of all lineages, and what follows them.
pub struct Shipping {
    pub database: Database,
    pub options: SqliteOptions,
    pub archive: Vec<LogPiece>,
    pub follower: Option<Box<dyn Follow>>,
}

impl Shipping {
    /// Makes a database and begins to ship it.
    pub fn of(script: &str) -> Self {
        let database = Database::new(script);
        let options = database.options();
        let mut shipping = Self { database, options, archive: Vec::new(), follower: None };
        shipping.follow();
        shipping
    }

    pub fn component(&self) -> estate::component::sqlite::Sqlite {
        estate::component::sqlite::Sqlite::new(self.options.clone())
    }

    /// Begins to follow behind what is archived; why a new lineage began, if one did.
    pub fn follow(&mut self) -> Option<String> {
        self.follower = None;
        let component = self.component();
        let follower = component.log().unwrap().follow(self.archive.last()).unwrap().unwrap();
        let began = follower.began().map(str::to_owned);
        self.follower = Some(follower);
        self.settle().unwrap();
        began
    }

    /// Looks once and archives what there is.
    pub fn ship(&mut self) -> estate::Result<()> {
        let follower = self.follower.as_mut().unwrap();
        follower.look()?;
        while let Some(piece) = follower.piece()? {
            let piece = piece.clone();
            if let Some(last) = self.archive.iter().rev().find(|last| last.lineage == piece.lineage) {
                assert_eq!(last.last, piece.first, "pieces follow each other");
            }
            follower.acknowledge(piece.last);
            self.archive.push(piece);
        }
        follower.tend()
    }

    /// Ships until all is archived.
    pub fn settle(&mut self) -> estate::Result<()> {
        let begin = Instant::now();
        loop {
            self.ship()?;
            let follower = self.follower.as_mut().unwrap();
            // Keeping the log short may have written an anchor.
            follower.look()?;
            if follower.behind_bytes() == 0 {
                return Ok(());
            }
            assert!(begin.elapsed() < PATIENCE, "nothing gets on");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Why it does not go on.
    pub fn broken(&mut self) -> String {
        let error = self.settle().expect_err("the log is interrupted");
        assert!(matches!(error, estate::Error::Broken { .. }), "{error}");
        self.follower = None;
        error.to_string()
    }

    pub fn base(&self) -> Stored {
        let stored = back_up(&self.component(), None).unwrap();
        let log = stored.point.log.as_ref().expect("it knows where it stands in the log");
        assert_eq!(log.lineage, self.follower.as_ref().unwrap().lineage());
        stored
    }

    /// Restores a base and replays the log.
    pub fn replay(&self, base: &Stored, at: Option<Timestamp>) -> Restored {
        self.try_replay(base, at, &self.archive).unwrap()
    }

    pub fn try_replay(
        &self,
        base: &Stored,
        at: Option<Timestamp>,
        archive: &[LogPiece],
    ) -> estate::Result<Restored> {
        let directory = tempfile::tempdir().unwrap();
        let component = estate::component::sqlite::Sqlite::new(SqliteOptions {
            path: directory.path().join("restored.db"),
            ..self.options.clone()
        });
        let parts = component.parts("r2", &base.point);
        base.restore(&parts);
        let replayed = replay_on(&component, base, at, archive, directory.path(), &parts)?;
        let point = estate::component::PointFacts {
            facts: estate::facts::Facts::default(),
            queries: std::collections::BTreeMap::new(),
            bytes: None,
            ..base.point.clone()
        };
        let proof = component.prove(&parts, &point, &Cancel::default())?;
        assert_eq!(proof.outcome(), Proven::Proven, "{proof:?}");
        Ok(Restored { path: parts[0].beside.clone(), replayed, _directory: directory })
    }
}

pub fn replay_on(
    component: &dyn Component,
    base: &Stored,
    at: Option<Timestamp>,
    archive: &[LogPiece],
    scratch: &Path,
    parts: &[estate::component::Part],
) -> estate::Result<Replayed> {
    let log = base.point.log.clone().unwrap();
    let needed = |piece: &&LogPiece| piece.lineage == log.lineage && piece.last > log.needed_from;
    let pieces: Vec<LogPiece> = archive.iter().filter(needed).cloned().collect();
    let to = pieces.last().map_or(log.consistent_at, |piece| piece.last);
    component.log().unwrap().replay(
        parts,
        &base.point,
        Replay {
            at,
            lineage: &log.lineage,
            to,
            is_end: true,
            pieces: &mut pieces.into_iter().map(Ok),
            file: &|_, _| Ok(None),
            scratch,
            cancel: &Cancel::default(),
        },
    )
}

/// A database that was brought to some instant.
pub struct Restored {
    pub path: PathBuf,
    pub replayed: Replayed,
    _directory: tempfile::TempDir,
}

impl Restored {
    /// The answer to a query for one text or number.
    pub fn ask(&self, query: &str) -> String {
        crate::support::sqlite3(&self.path, query)
    }

    /// The checksum of the source was compared and is the same.
    pub fn is_summed(&self) -> bool {
        self.replayed.proof.outcome() == Proven::Proven
    }
}

/// Every page as SQLite shows it, so that no file of a live database is opened.
pub fn pages(path: &Path) -> Vec<Vec<u8>> {
    let connection = Connection::open(path).unwrap();
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    let mut statement = connection.prepare("select data from sqlite_dbpage('main') order by pgno").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What is restored has the very pages of the source.
pub fn assert_same(shipping: &Shipping, restored: &Restored) {
    let (source, found) = (pages(&shipping.database.path), fs::read(&restored.path).unwrap());
    let found: Vec<&[u8]> = found.chunks(source[0].len()).collect();
    let differing: Vec<usize> = (0..source.len().max(found.len()))
        .filter(|&page| source.get(page).map(Vec::as_slice) != found.get(page).copied())
        .collect();
    assert!(
        differing.is_empty(),
        "{differing:?} of {} and {} pages; {:?}",
        source.len(),
        found.len(),
        restored.replayed
    );
    assert!(restored.is_summed(), "{:?}", restored.replayed);
}

/// The size of the database's log.
pub fn log_bytes(database: &Database) -> u64 {
    let log = database.directory.path().join("app.db-wal");
    fs::metadata(log).map_or(0, |found| found.len())
}
