//! Log archives written by several at once: for each position one content is acknowledged, and it is what is read.
//!
//! Besides the stores as they are, in one that delays every operation by chance, shows in a listing no more than
//! the contract of [`Store`] promises, and carries out writes after it has reported them as failed.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use repository::check::Severity;
use repository::log::{Archive, CompactOptions, Error, Finding, Scope, Target};
use repository::{Clock, Context};
use store::{ErrorKind, Local, Memory, Object, Store};

use crate::log_archive::{LINEAGE, base, piece, replay};
use crate::sample::open;
use crate::support::engine::{in_memory, init};

/// A store whose `create` excludes nobody, that is slow by chance, and whose listings are read entry by entry.
#[derive(Debug)]
struct Erratic {
    inner: Arc<Memory>,
    excludes: bool,
    chance: Chance,
    late: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// Numbers by chance that several threads draw from; how they interleave is the machine's.
#[derive(Debug)]
struct Chance(AtomicU64);

impl Chance {
    fn new() -> Self {
        Self(AtomicU64::new(getrandom::u64().unwrap()))
    }

    fn below(&self, bound: u64) -> u64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Mostly not at all, sometimes for long enough that others finish whole operations.
    fn pause(&self) {
        match self.below(8) {
            0..4 => {}
            4..7 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(self.below(600))),
        }
    }
}

impl Erratic {
    fn new(excludes: bool) -> Self {
        let (memory, _) = in_memory();
        let inner = Arc::new(Memory::from_contents(memory.contents()));
        Self { inner, excludes, chance: Chance::new(), late: Mutex::default() }
    }

    /// Waits for the writes that are still on their way.
    fn settle(&self) {
        let late: Vec<_> = std::mem::take(&mut self.late.lock().unwrap());
        late.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn write(inner: &Memory, key: &str, data: Bytes, excludes: bool) -> store::Result<()> {
        if excludes { inner.create(key, data) } else { inner.put(key, data) }
    }
}

impl Store for Erratic {
    fn location(&self) -> String {
        "erratic".into()
    }
    fn put(&self, key: &str, data: Bytes) -> store::Result<()> {
        self.inner.put(key, data)
    }
    fn create(&self, key: &str, data: Bytes) -> store::Result<()> {
        self.chance.pause();
        if self.chance.below(25) == 0 {
            let (inner, key_later, excludes) = (Arc::clone(&self.inner), key.to_owned(), self.excludes);
            let wait = Duration::from_micros(self.chance.below(4000));
            self.late.lock().unwrap().push(std::thread::spawn(move || {
                std::thread::sleep(wait);
                let _ = Self::write(&inner, &key_later, data, excludes);
            }));
            let reason = "nobody answered in time";
            return Err(store::Error::new(ErrorKind::Unavailable, "write", key, self.location(), reason));
        }
        let written = Self::write(&self.inner, key, data, self.excludes);
        self.chance.pause();
        written
    }
    fn get(&self, key: &str) -> store::Result<Vec<u8>> {
        self.inner.get(key)
    }
    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> store::Result<()> {
        self.chance.pause();
        self.inner.get_range(key, range, buffer)
    }
    fn size(&self, key: &str) -> store::Result<u64> {
        self.chance.pause();
        self.inner.size(key)
    }
    /// Entry by entry, from anywhere: what is removed meanwhile is missing, what is added may be.
    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> store::Result<()>) -> store::Result<()> {
        self.chance.pause();
        let mut there = Vec::new();
        self.inner.list(prefix, &mut |object| {
            there.push(object);
            Ok(())
        })?;
        let middle = if there.is_empty() { 0 } else { self.chance.below(there.len() as u64) as usize };
        there.rotate_left(middle);
        for object in there {
            self.chance.pause();
            if let Ok(size) = self.inner.size(&object.key) {
                found(Object { size, ..object })?;
            }
        }
        self.chance.pause();
        Ok(())
    }
    fn delete(&self, key: &str) -> store::Result<()> {
        self.chance.pause();
        self.inner.delete(key)
    }
    fn parallelism(&self) -> usize {
        2
    }
}

/// Each of several writers has its own content for each position; returns whose was acknowledged.
pub fn race(archives: &[Archive], positions: u64) -> Vec<(u64, u8)> {
    let acknowledged = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (writer, archive) in archives.iter().enumerate() {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                let writer = writer as u8;
                for first in 0..positions {
                    if write_one(archive, writer, first) {
                        acknowledged.lock().unwrap().push((first, writer));
                    }
                }
            });
        }
    });
    let mut acknowledged = acknowledged.into_inner().unwrap();
    acknowledged.sort_unstable();
    acknowledged
}

/// Tries until it is acknowledged or something else is; with an appender of its own, as another process would.
fn write_one(archive: &Archive, writer: u8, first: u64) -> bool {
    let bytes = [writer; 100];
    for attempt in 0..60_u64 {
        // Longer and longer, or four that take over from each other all the time never come to an end.
        std::thread::sleep(Duration::from_micros(getrandom::u64().unwrap() % (1 + attempt * 500)));
        let appended =
            archive.appender(LINEAGE).and_then(|appender| appender.append(&piece(first, first + 1, &bytes)));
        match appended {
            Ok(_) => return true,
            Err(Error::Conflict { .. }) => return false,
            // Taken over by others all the time; or nobody knows whether it was written; or what was there for a
            // moment was an unacknowledged write.
            Err(Error::Superseded { .. } | Error::Gap { .. } | Error::Missing { .. }) => {}
            Err(Error::Repository(repository::Error::Store(error)))
                if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::AlreadyExists) => {}
            Err(error) => panic!("{error}"),
        }
    }
    false
}

/// One content a position was acknowledged, and that is what is read, now and after another writer has begun.
pub fn assert_one_each(archive: &Archive, acknowledged: &[(u64, u8)]) {
    let twice = acknowledged.windows(2).any(|pair| pair[0].0 == pair[1].0);
    assert!(!twice && !acknowledged.is_empty(), "{acknowledged:?}");
    let end = acknowledged.last().unwrap().0 + 1;
    for _ in 0..2 {
        let read = replay(archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::Position(end));
        for (first, writer) in acknowledged {
            assert_eq!(read[*first as usize * 100], *writer, "position {first} of {acknowledged:?}");
        }
        // Begins to write, which settles what counts.
        for _ in 0..100 {
            if archive.appender(LINEAGE).is_ok() {
                break;
            }
        }
    }
    let findings = archive.verify(Scope::All, Context::silent()).unwrap().findings;
    let is_harmless = |finding: &Finding| finding.severity() != Severity::Error;
    assert!(findings.iter().all(is_harmless), "{findings:?}");
}

fn archives_on(store: &Arc<dyn Store>, writers: usize) -> Vec<Archive> {
    let archive = |_| Archive::new(&open(Arc::clone(store), Clock::system()), "database").unwrap();
    (0..writers).map(archive).collect()
}

#[test]
fn of_writers_at_once_one_is_acknowledged_for_each_position() {
    for round in 0..8 {
        let erratic = Arc::new(Erratic::new(round % 2 == 0));
        let store: Arc<dyn Store> = Arc::clone(&erratic) as Arc<dyn Store>;
        let acknowledged = race(&archives_on(&store, 4), 4);
        erratic.settle();
        let memory: Arc<dyn Store> = Arc::new(Memory::from_contents(erratic.inner.contents()));
        assert_one_each(&archives_on(&memory, 1)[0], &acknowledged);
    }
}

#[test]
fn of_writers_at_once_in_a_directory_one_is_acknowledged_for_each_position() {
    for _ in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        init(Arc::new(Local::open(directory.path()).unwrap()));
        // Each with a store of its own, as processes have.
        let archives: Vec<Archive> = (0..4)
            .flat_map(|_| {
                archives_on(&(Arc::new(Local::open(directory.path()).unwrap()) as Arc<dyn Store>), 1)
            })
            .collect();
        assert_one_each(&archives[0], &race(&archives, 6));
    }
}

#[test]
fn writers_at_once_and_a_compaction_lose_nothing() {
    for round in 0..4 {
        let erratic = Arc::new(Erratic::new(round % 2 == 0));
        let store: Arc<dyn Store> = Arc::clone(&erratic) as Arc<dyn Store>;
        let archives = archives_on(&store, 4);
        let (keeper, writers) = archives.split_last().unwrap();
        let is_over = AtomicU64::new(0);
        let acknowledged = std::thread::scope(|scope| {
            scope.spawn(|| {
                let options = CompactOptions { below_bytes: 1 << 20, upto_bytes: 8 << 20, objects_min: 2 };
                while is_over.load(Ordering::Relaxed) == 0 {
                    // What fails is repeated; what it did until then must do no harm.
                    let _ = keeper.compact(LINEAGE, &options, Context::silent());
                }
            });
            let acknowledged = race(writers, 4);
            is_over.store(1, Ordering::Relaxed);
            acknowledged
        });
        erratic.settle();
        let memory: Arc<dyn Store> = Arc::new(Memory::from_contents(erratic.inner.contents()));
        assert_one_each(&archives_on(&memory, 1)[0], &acknowledged);
    }
}
