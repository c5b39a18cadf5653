//! What shipping does to others: how long they wait, how large their log becomes, who else may ship.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use estate::Error;
use estate::component::{Component, SqliteOptions};

use super::{NOTES, Shipping, assert_same, log_bytes};
use crate::sqlite::Database;
use crate::support::{Shell, sqlite3};

/// Half of what is written here. The log is to be begun anew from 4 MiB on; how soon that succeeds depends on what else the
/// machine has to do.
const LOG_BYTES_MAX: u64 = 60 << 20;

/// Which filling of the log this is: what begins it anew gives it other salts.
fn filling(database: &Database) -> Option<[u8; 8]> {
    let log = std::fs::read(database.directory.path().join("app.db-wal")).ok()?;
    log.get(16..24)?.try_into().ok()
}

#[test]
fn under_constant_writes_the_log_stays_short_and_nobody_waits_long() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    let path = shipping.database.path.clone();
    let done = AtomicBool::new(false);
    let (mut largest, mut fillings) = (0, std::collections::BTreeSet::new());
    let slowest = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut shell = Shell::open(&path);
            // An application's own checkpoints, as by default.
            shell.run(".timeout 5000");
            let mut slowest = Duration::ZERO;
            for number in 2..600 {
                let begin = Instant::now();
                shell.run(&format!("insert into note values({number}, randomblob(200000));"));
                slowest = slowest.max(begin.elapsed());
                // 40 MB a second at most: whoever ships them is not to be a matter of who gets the processor.
                std::thread::sleep(Duration::from_millis(5));
            }
            done.store(true, Ordering::Release);
            slowest
        });
        while !done.load(Ordering::Acquire) {
            shipping.ship().unwrap();
            largest = largest.max(log_bytes(&shipping.database));
            fillings.extend(filling(&shipping.database));
            std::thread::sleep(Duration::from_millis(5));
        }
        writer.join().unwrap()
    });
    shipping.settle().unwrap();
    assert!(largest < LOG_BYTES_MAX, "120 MB were written, and the log grew to {largest}");
    assert!(slowest < Duration::from_secs(3), "a commit took {slowest:?}");
    let restored = shipping.replay(&base, None);
    assert_eq!(restored.ask("select count(*), max(id) from note"), "599|599");
    assert_same(&shipping, &restored);
    assert!(fillings.len() > 2, "the log was begun anew only {} times", fillings.len() - 1);
    let lineages: std::collections::BTreeSet<_> =
        shipping.archive.iter().map(|piece| &piece.lineage).collect();
    assert_eq!(lineages.len(), 1, "and the lineage is the same");
}

#[test]
fn a_long_reader_only_puts_it_off() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    let path = shipping.database.path.clone();
    let mut reader = Shell::open(&path);
    reader.run("begin; select count(*) from note;");
    let fill = "insert into note(text) select randomblob(100000) from generate_series(1, 240);";
    sqlite3(&path, fill);
    let begin = Instant::now();
    shipping.settle().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "nobody waits for the reader");
    let with_reader = log_bytes(&shipping.database);
    assert!(with_reader > 20 << 20);
    assert_eq!(reader.run("select count(*) from note;"), ["1"], "the reader sees what it saw");
    reader.run("commit;");
    drop(reader);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        sqlite3(&path, "insert into note(text) values('more')");
        shipping.settle().unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    sqlite3(&path, fill);
    shipping.settle().unwrap();
    assert!(log_bytes(&shipping.database) < with_reader * 3 / 2, "the log was begun anew meanwhile");
    assert_same(&shipping, &shipping.replay(&base, None));
}

#[test]
fn one_at_a_time_ships_a_database() {
    let shipping = Shipping::of(NOTES);
    let component = shipping.component();
    let error = component.log().unwrap().follow(None).err().expect("the second is refused");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    let own = std::process::id().to_string();
    assert!(error.to_string().contains(&own) && error.to_string().contains("stop the other"), "{error}");
    drop(shipping.follower);
    assert!(component.log().unwrap().follow(None).is_ok());
}

#[test]
fn a_database_that_is_kept_from_others_is_refused_in_time() {
    let database = Database::new(NOTES);
    let mut application = Shell::open(&database.path);
    application.run("pragma locking_mode = exclusive; insert into note(text) values('mine');");
    let options = SqliteOptions { busy_timeout: Duration::from_millis(300), ..database.options() };
    let component = estate::component::sqlite::Sqlite::new(options);
    let begin = Instant::now();
    let error = component.log().unwrap().follow(None).err().unwrap();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    // A transaction that writes for long is waited for, and no longer.
    drop(application);
    let mut application = Shell::open(&database.path);
    application.run("begin immediate;");
    assert!(matches!(component.log().unwrap().follow(None).err().unwrap(), Error::InUse { .. }));
}

#[test]
fn a_log_that_cannot_be_archived_is_given_up_loudly_and_only_beyond_its_limit() {
    let mut shipping = Shipping::of(NOTES);
    shipping.options.wal_bytes_max = Some(20 << 20);
    shipping.follow();
    let path = shipping.database.path.clone();
    let fill = "insert into note(text) select randomblob(100000) from generate_series(1, 50);";
    let mut broken = None;
    for number in 1..10 {
        sqlite3(&path, fill);
        // The archive is away: nothing is acknowledged.
        let follower = shipping.follower.as_mut().unwrap();
        _ = follower.piece().unwrap();
        if let Err(error) = follower.look() {
            broken = Some((number, error));
            break;
        }
    }
    let (number, error) = broken.expect("it does not grow for ever");
    assert!((4..=6).contains(&number), "20 MiB are kept: {number}");
    assert!(matches!(&error, Error::Broken { why, .. } if why.contains("could not be archived")), "{error}");
    shipping.follower = None;
    assert_eq!(sqlite3(&path, "pragma wal_checkpoint(truncate)"), "0|0|0", "the application is free again");
    // What comes back begins a new lineage: the gap is there to see.
    assert!(shipping.follow().is_some());
}

#[test]
fn many_databases_are_followed_by_one_process() {
    let mut all: Vec<Shipping> = (0..25).map(|_| Shipping::of(NOTES)).collect();
    let bases: Vec<_> = all.iter().map(Shipping::base).collect();
    for round in 0..3 {
        for shipping in &all {
            sqlite3(&shipping.database.path, &format!("insert into note(text) values('round {round}')"));
        }
        for shipping in &mut all {
            shipping.settle().unwrap();
        }
    }
    for (shipping, base) in all.iter().zip(&bases) {
        assert_same(shipping, &shipping.replay(base, None));
    }
}
