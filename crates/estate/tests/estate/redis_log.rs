//! Redis to any second: what is appended is followed, archived by a stand-in, and replayed on a restored base.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use estate::component::redis::Redis;
use estate::component::{
    Cancel, Component, Follow, LogPiece, PointFacts, Proven, RedisOptions, Replay, Replayed, Severity,
};
use estate::facts::Facts;
use estate::{Error, Result};
use jiff::Timestamp;
use place::Place;

use crate::cache::{Cache, Ends, made};
use crate::support::{RUN, Stored, back_up};

const CONTINUOUS: &[(&str, &str)] = &[
    ("appendonly", "yes"),
    ("aof-timestamp-enabled", "yes"),
    ("appendfsync", "always"),
    ("auto-aof-rewrite-percentage", "0"),
];

fn component(cache: &Cache) -> Redis {
    Redis::new(RedisOptions { continuous: true, ..cache.options(&[("keys", "DBSIZE")]) }, Place::host())
}

fn follow(redis: &Redis, last: Option<&LogPiece>) -> Result<Box<dyn Follow>> {
    Ok(redis.log().unwrap().follow(last)?.unwrap())
}

/// Archives all that there is.
fn drain(follower: &mut dyn Follow, archive: &mut Vec<LogPiece>) -> Result<()> {
    while follower.look()? {
        while let Some(piece) = follower.piece()?.cloned() {
            assert_eq!(follower.piece()?, Some(&piece), "the same until it is acknowledged");
            if let Some(last) = archive.last().filter(|last| last.lineage == piece.lineage) {
                assert_eq!(last.last, piece.first);
            }
            follower.acknowledge(piece.last);
            archive.push(piece);
        }
    }
    assert_eq!(follower.behind_bytes(), 0);
    Ok(())
}

/// Restores the base beside and replays what was archived behind it.
fn replayed(redis: &Redis, stored: &Stored, archive: &[LogPiece], at: Option<Timestamp>) -> Result<Replayed> {
    let parts = redis.parts(RUN, &stored.point);
    for part in &parts {
        estate::swap::remove(&part.beside).unwrap();
    }
    redis.prepare(&parts, &stored.point)?;
    stored.restore(&parts);
    again(redis, stored, archive, at)
}

fn again(redis: &Redis, stored: &Stored, archive: &[LogPiece], at: Option<Timestamp>) -> Result<Replayed> {
    let parts = redis.parts(RUN, &stored.point);
    let base = stored.point.log.clone().unwrap();
    let is_of_it = |piece: &&LogPiece| piece.lineage == base.lineage && piece.last > base.needed_from;
    let mut of_it: Vec<&LogPiece> = archive.iter().filter(is_of_it).collect();
    // As the engine chooses: up to the first piece that has something later, and without an instant if none has.
    let later = at.and_then(|at| of_it.iter().position(|piece| piece.until > Some(at)));
    of_it.truncate(later.map_or(of_it.len(), |later| later + 1));
    let at = at.filter(|_| later.is_some());
    let to = of_it.last().map_or(base.consistent_at, |last| last.last);
    let scratch = tempfile::tempdir().unwrap();
    let cancel = Cancel::default();
    redis.log().unwrap().replay(
        &parts,
        &stored.point,
        Replay {
            at,
            lineage: &base.lineage,
            to,
            is_end: true,
            pieces: &mut of_it.into_iter().cloned().map(io::Result::Ok),
            file: &|_, _| Ok(None),
            scratch: scratch.path(),
            cancel: &cancel,
        },
    )
}

/// Proves what was replayed, as the engine does, and puts it in its place.
fn placed(redis: &Redis, stored: &Stored) {
    let parts = redis.parts(RUN, &stored.point);
    let recorded =
        PointFacts { facts: Facts::default(), queries: [].into(), bytes: None, ..stored.point.clone() };
    let proof = redis.prove(&parts, &recorded, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    let plan = estate::swap::plan(RUN, &parts).unwrap();
    plan.apply(&mut |_, _| Ok(())).unwrap();
    plan.commit().unwrap();
}

/// A command that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    number: u64,
    sent: Timestamp,
    answered: Timestamp,
}

/// Writes numbers, one after the other, until it is told to stop or the server has gone.
fn write(cache: &Cache, stop: &AtomicBool, log: &Mutex<Vec<Acknowledged>>) {
    use std::io::{Read, Write};
    let mut socket = UnixStream::connect(cache.socket()).unwrap();
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Two keys in one transaction: half of it must never be seen.
        let text = format!("MULTI\r\nRPUSH numbers {number}\r\nSET last {number}\r\nEXEC\r\n");
        let sent = Timestamp::now();
        if socket.write_all(text.as_bytes()).is_err() {
            return;
        }
        let mut said = Vec::new();
        let mut piece = [0; 256];
        // One line for each command, and what the two in the transaction have come to.
        while said.iter().filter(|&&byte| byte == b'\n').count() < 6 {
            match socket.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(count) => said.extend_from_slice(&piece[..count]),
            }
        }
        log.lock().unwrap().push(Acknowledged { number, sent, answered: Timestamp::now() });
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a server has of the numbers: they are whole, and agree with what was written with them.
fn numbers(cache: &Cache) -> u64 {
    let all = cache.ask(&["LRANGE", "numbers", "0", "-1"]);
    let all: Vec<u64> = all.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(all.iter().copied().eq(1..=all.len() as u64), "{} numbers with holes", all.len());
    let last = cache.ask(&["GET", "last"]);
    assert_eq!(last.parse().unwrap_or(0), all.len() as u64);
    all.len() as u64
}

/// Nothing that was acknowledged before the second of the instant is missing, nothing that was sent after it is there.
fn agrees(there: u64, log: &[Acknowledged], at: Timestamp) {
    let second = Timestamp::from_second(at.as_second()).unwrap();
    let missing = log.iter().find(|write| write.answered < second && write.number > there);
    assert!(missing.is_none(), "{missing:?} was acknowledged before {at}, and {there} are there");
    let beyond = log.iter().find(|write| write.sent > at && write.number <= there);
    assert!(beyond.is_none(), "{beyond:?} was sent after {at}, and {there} are there");
}

/// Makes rewrites take a while, as those of a server with much data do.
fn slow_rewrites(cache: &Cache) {
    cache.ask(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]);
}

fn lists_two_appended(cache: &Cache) -> bool {
    let list = cache.data().join("appendonlydir/appendonly.aof.manifest");
    fs::read_to_string(list).unwrap().matches("type i").count() == 2
}

/// Writers, a follower, rewrites by the server, two bases; then instants all over that time.
#[test]
fn every_second_of_a_written_server_comes_back() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    cache.fill("ballast", 500);
    slow_rewrites(&cache);
    let redis = component(&cache);
    assert!(redis.preflight().iter().all(|finding| finding.severity == Severity::Warning));
    let (stop, log) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let (mut archive, mut bases) = (Vec::new(), Vec::new());
    let began = Timestamp::now();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&cache, &stop, &log));
        let mut follower = follow(&redis, None).unwrap();
        assert!(follower.began().is_some());
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            let seconds = started.elapsed().as_secs();
            // At the beginning, and in the middle of the second rewrite.
            if (bases.is_empty() || seconds == 6) && bases.len() < 2 {
                bases.push(back_up(&redis, None).unwrap());
            }
            if matches!(seconds, 2 | 5 | 8) {
                _ = cache.cli(&["BGREWRITEAOF"]);
            }
            // No rewrite is an interruption.
            drain(&mut *follower, &mut archive).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        drain(&mut *follower, &mut archive).unwrap();
        follower.tend().unwrap();
    });
    assert_eq!(bases.len(), 2);
    let list = fs::read_to_string(cache.data().join("appendonlydir/appendonly.aof.manifest")).unwrap();
    assert!(!list.contains("appendonly.aof.1."), "{list}");
    let log = log.into_inner().unwrap();
    assert!(log.len() > 500, "{}", log.len());
    cache.kill();
    let end = Timestamp::now();
    let span = (end.as_millisecond() - began.as_millisecond()) as u64;
    let seed = began.as_nanosecond() as u64;
    let mut random = seed;
    let mut tried = [0; 2];
    for round in 0..12 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Whole seconds as well as any.
        let mut at = began + Duration::from_millis((random >> 33) % span);
        if round % 3 == 0 {
            at = Timestamp::from_second(at.as_second()).unwrap();
        }
        // The newest base before the instant, and for an instant that the older one leads to as well, both.
        for (which, base) in bases.iter().enumerate() {
            let lineage = &base.point.log.as_ref().unwrap().lineage;
            let reaches = archive
                .iter()
                .filter(|piece| piece.lineage == *lineage)
                .filter_map(|piece| piece.until)
                .max();
            if base.point.instant > at || reaches.is_none() {
                continue;
            }
            tried[which] += 1;
            let reached = replayed(&redis, base, &archive, Some(at)).unwrap();
            assert!(reached.instant.is_none_or(|instant| instant <= at), "{reached:?}");
            placed(&redis, base);
            cache.start();
            agrees(numbers(&cache), &log, at);
            cache.kill();
        }
    }
    assert!(tried[0] > 3 && tried[1] > 0, "{tried:?} with seed {seed}");
    // To the end: nothing at all is missing, as every write was synced before it was acknowledged.
    let newest = bases.last().unwrap();
    replayed(&redis, newest, &archive, None).unwrap();
    placed(&redis, newest);
    cache.start();
    assert_eq!(numbers(&cache), log.last().unwrap().number);
}

/// The mistake that everybody makes once.
#[test]
fn a_flushall_is_undone() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let mut follower = follow(&redis, None).unwrap();
    let stored = back_up(&redis, None).unwrap();
    let mut archive = Vec::new();
    cache.fill("agent", 300);
    std::thread::sleep(Duration::from_millis(1100));
    let before = Timestamp::now();
    std::thread::sleep(Duration::from_millis(20));
    cache.ask(&["FLUSHALL"]);
    cache.ask(&["SET", "after", "1"]);
    drain(&mut *follower, &mut archive).unwrap();
    cache.kill();
    replayed(&redis, &stored, &archive, Some(before)).unwrap();
    // Killed in the middle and done again, it comes to the same.
    again(&redis, &stored, &archive, None).unwrap();
    again(&redis, &stored, &archive, Some(before)).unwrap();
    placed(&redis, &stored);
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "300");
}

/// A base is of one moment, whatever rewrites do meanwhile, and without a log it comes back by itself.
#[test]
fn a_base_is_whole_while_the_server_rewrites() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    cache.fill("ballast", 100);
    slow_rewrites(&cache);
    let redis = component(&cache);
    let (stop, log) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let mut bases = Vec::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&cache, &stop, &log));
        let rewriter = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                _ = cache.cli(&["BGREWRITEAOF"]);
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        std::thread::sleep(Duration::from_millis(1200));
        for _ in 0..6 {
            bases.push(back_up(&redis, None).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        rewriter.join().unwrap();
    });
    // Its child would still work in the directory.
    while cache.ask(&["INFO", "persistence"]).contains("aof_rewrite_in_progress:1") {
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = log.into_inner().unwrap();
    for stored in &bases {
        cache.kill();
        let (proof, _) = stored.recover(&redis, RUN).unwrap();
        assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
        cache.start();
        let there = numbers(&cache);
        let missing = log.iter().find(|write| write.answered < stored.point.instant && write.number > there);
        assert!(missing.is_none(), "{missing:?} of {} with {there}", stored.point.instant);
        estate::swap::remove(&cache.root.join("data.before-r1")).unwrap();
    }
}

/// A crash and a restart of the server are followed; what the last follower did not archive, the next one does.
#[test]
fn a_follower_goes_on_where_the_archive_ends() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let mut follower = follow(&redis, None).unwrap();
    let stored = back_up(&redis, None).unwrap();
    let mut archive = Vec::new();
    cache.fill("one", 50);
    drain(&mut *follower, &mut archive).unwrap();
    cache.fill("two", 50);
    // Read, and not acknowledged.
    assert!(follower.look().unwrap());
    follower.piece().unwrap();
    drop(follower);
    cache.kill();
    cache.start();
    cache.fill("three", 50);
    let mut follower = follow(&redis, archive.last()).unwrap();
    assert_eq!(follower.began(), None);
    drain(&mut *follower, &mut archive).unwrap();
    // The same follower over a restart.
    cache.kill();
    cache.start();
    cache.fill("four", 50);
    drain(&mut *follower, &mut archive).unwrap();
    cache.kill();
    replayed(&redis, &stored, &archive, None).unwrap();
    placed(&redis, &stored);
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "200");
}

/// A restored server goes on from an earlier instant: what it appends must never be taken for the old continuation.
#[test]
fn after_a_restore_a_new_lineage_begins() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let mut follower = follow(&redis, None).unwrap();
    let stored = back_up(&redis, None).unwrap();
    let mut archive = Vec::new();
    cache.fill("one", 50);
    std::thread::sleep(Duration::from_millis(1100));
    let at = Timestamp::now();
    std::thread::sleep(Duration::from_millis(1100));
    cache.fill("two", 50);
    drain(&mut *follower, &mut archive).unwrap();
    cache.kill();
    replayed(&redis, &stored, &archive, Some(at)).unwrap();
    placed(&redis, &stored);
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "50");
    cache.fill("three", 80);
    // Neither the follower that still holds the old files nor a new one goes on.
    let old = drain(&mut *follower, &mut archive);
    assert!(matches!(old, Err(Error::Broken { .. })), "{old:?}");
    let refused = follow(&redis, archive.last()).map(|_| ());
    assert_eq!(refused.map_err(|error| error.to_string()), Ok(()), "another directory, another lock");
    drop(follower);
    let mut follower = follow(&redis, archive.last()).unwrap();
    assert!(follower.began().is_some());
    assert_ne!(follower.lineage(), archive.last().unwrap().lineage);
    let stored = back_up(&redis, None).unwrap();
    cache.fill("four", 5);
    drain(&mut *follower, &mut archive).unwrap();
    cache.kill();
    replayed(&redis, &stored, &archive, None).unwrap();
    placed(&redis, &stored);
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "135");
}

#[test]
fn a_log_with_a_gap_or_of_another_server_is_refused() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let mut follower = follow(&redis, None).unwrap();
    let stored = back_up(&redis, None).unwrap();
    let mut archive = Vec::new();
    for name in ["one", "two", "three"] {
        cache.fill(name, 20);
        drain(&mut *follower, &mut archive).unwrap();
    }
    cache.kill();
    assert!(archive.len() >= 3);
    replayed(&redis, &stored, &archive, None).unwrap();
    let without = [&archive[..1], &archive[2..]].concat();
    let refused = replayed(&redis, &stored, &without, None).unwrap_err().to_string();
    assert!(refused.contains("gap"), "{refused}");
    let mut torn = archive.clone();
    let last = torn.last_mut().unwrap();
    last.bytes.truncate(last.bytes.len() - 3);
    let refused = replayed(&redis, &stored, &torn, None).unwrap_err().to_string();
    assert!(refused.contains("in the middle of a command"), "{refused}");
    // Cut in the middle of the log, what follows is no command any more.
    let mut torn = archive.clone();
    let length = torn[1].bytes.len();
    torn[1].bytes.truncate(length - 3);
    assert!(replayed(&redis, &stored, &torn, None).is_err());
    // Zeroes where commands were.
    let mut zeroed = archive.clone();
    zeroed[1].bytes.iter_mut().take(300).for_each(|byte| *byte = 0);
    assert!(replayed(&redis, &stored, &zeroed, None).is_err());

    let base = stored.point.log.clone().unwrap();
    let parts = redis.parts(RUN, &stored.point);
    let (scratch, cancel) = (tempfile::tempdir().unwrap(), Cancel::default());
    let refused = |pieces: Vec<LogPiece>| {
        let replay = Replay {
            at: None,
            lineage: &base.lineage,
            to: archive.last().unwrap().last,
            is_end: true,
            pieces: &mut pieces.into_iter().map(io::Result::Ok),
            file: &|_, _| Ok(None),
            scratch: scratch.path(),
            cancel: &cancel,
        };
        redis.log().unwrap().replay(&parts, &stored.point, replay).unwrap_err().to_string()
    };
    let mut short = archive.clone();
    short.pop();
    let why = refused(short);
    assert!(why.contains("ends at"), "{why}");
    let mut others = archive.clone();
    others[1].lineage = "another".to_owned();
    let why = refused(others);
    assert!(why.contains("of another does not follow"), "{why}");
}

#[test]
fn files_that_are_damaged_at_the_source_are_no_base() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    cache.fill("one", 50);
    // While it rewrites, two files are appended to: the first of them must be whole.
    cache.ask(&["CONFIG", "SET", "rdb-key-save-delay", "200000"]);
    cache.ask(&["BGREWRITEAOF"]);
    let directory = cache.data().join("appendonlydir");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !directory.join("appendonly.aof.2.incr.aof").exists() {
        assert!(Instant::now() < deadline, "{}", cache.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    cache.ask(&["SET", "more", "1"]);
    // By itself it comes back; nobody follows, so that it stands in no log.
    assert_eq!(back_up(&redis, None).unwrap().point.log, None);
    let first = directory.join("appendonly.aof.1.incr.aof");
    let length = fs::metadata(&first).unwrap().len();
    let bytes = fs::read(&first).unwrap();
    File::options().write(true).open(&first).unwrap().set_len(length - 3).unwrap();
    let why = back_up(&redis, None).err().unwrap().to_string();
    assert!(why.contains("in the middle of a command"), "{why}");
    fs::remove_file(&first).unwrap();
    let why = back_up(&redis, None).err().unwrap().to_string();
    assert!(why.contains("appendonly.aof.1.incr.aof, which is not there"), "{why}");
    fs::write(&first, bytes).unwrap();
    back_up(&redis, None).unwrap();
    // A base that was changed on the disk has another checksum.
    crate::support::scribble(&directory.join("appendonly.aof.1.base.rdb"), 20);
    let why = back_up(&redis, None).err().unwrap().to_string();
    assert!(why.contains("base.rdb cannot be backed up"), "{why}");
}

#[test]
fn what_cannot_be_followed_says_why() {
    for (settings, words) in [
        (&[][..], "appendonly yes"),
        (&[("appendonly", "yes")], "aof-timestamp-enabled yes"),
        (
            &[("appendonly", "yes"), ("aof-timestamp-enabled", "yes"), ("aof-use-rdb-preamble", "no")],
            "aof-use-rdb-preamble yes",
        ),
    ] {
        let (_directory, cache) = made(settings);
        let _ends = Ends(cache.clone());
        let redis = component(&cache);
        let why = follow(&redis, None).err().unwrap().to_string();
        assert!(why.contains(words), "{why}");
        assert!(back_up(&redis, None).is_err());
    }
    // One that is told to append no more while it is followed.
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let mut follower = follow(&redis, None).unwrap();
    cache.ask(&["CONFIG", "SET", "appendonly", "no"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let why = loop {
        assert!(Instant::now() < deadline);
        if let Err(error) = follower.tend() {
            break error;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(matches!(why, Error::Broken { .. }), "{why}");
    let twice = follow(&redis, None).err().unwrap().to_string();
    assert!(twice.contains("appendonly yes"), "{twice}");
}

/// What was not followed without a break is not the same log, whatever it looks like.
#[test]
fn a_break_in_the_stream_begins_a_new_lineage() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let mut archive = Vec::new();
    let mut follower = follow(&redis, None).unwrap();
    let busy = follow(&redis, None).err().unwrap();
    assert!(matches!(busy, Error::InUse { .. }), "{busy}");
    cache.fill("one", 50);
    drain(&mut *follower, &mut archive).unwrap();
    // It does not append for a while.
    cache.ask(&["CONFIG", "SET", "appendonly", "no"]);
    cache.fill("unseen", 5);
    cache.ask(&["CONFIG", "SET", "appendonly", "yes"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let why = loop {
        assert!(Instant::now() < deadline);
        if let Err(error) = drain(&mut *follower, &mut archive) {
            break error;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(matches!(why, Error::Broken { .. }), "{why}");
    drop(follower);
    let mut follower = follow(&redis, archive.last()).unwrap();
    assert!(follower.began().is_some());
    cache.fill("two", 50);
    drain(&mut *follower, &mut archive).unwrap();
    assert_ne!(archive.first().unwrap().lineage, archive.last().unwrap().lineage);
    // A whole rewrite while nobody follows.
    drop(follower);
    let rewritten = || {
        let list = fs::read_to_string(cache.data().join("appendonlydir/appendonly.aof.manifest")).unwrap();
        list.lines().next().unwrap().to_owned()
    };
    let before = rewritten();
    cache.ask(&["BGREWRITEAOF"]);
    while rewritten() == before {
        std::thread::sleep(Duration::from_millis(20));
    }
    let follower = follow(&redis, archive.last()).unwrap();
    assert!(follower.began().unwrap().contains("while nobody followed"), "{:?}", follower.began());
}

/// A rewrite begins while one follower is there, and the next one comes when it is over.
#[test]
fn a_rewrite_that_began_while_it_was_followed_is_no_break() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let mut archive = Vec::new();
    let mut follower = follow(&redis, None).unwrap();
    let stored = back_up(&redis, None).unwrap();
    cache.fill("one", 500);
    slow_rewrites(&cache);
    cache.ask(&["BGREWRITEAOF"]);
    while !lists_two_appended(&cache) {
        std::thread::sleep(Duration::from_millis(5));
    }
    cache.ask(&["SET", "two", "2"]);
    drain(&mut *follower, &mut archive).unwrap();
    drop(follower);
    while lists_two_appended(&cache) {
        std::thread::sleep(Duration::from_millis(20));
    }
    cache.ask(&["SET", "three", "3"]);
    let mut follower = follow(&redis, archive.last()).unwrap();
    assert_eq!(follower.began(), None);
    drain(&mut *follower, &mut archive).unwrap();
    cache.kill();
    replayed(&redis, &stored, &archive, None).unwrap();
    placed(&redis, &stored);
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "502");
}

/// Zeroes where commands were, at the source: told, and never archived.
#[test]
fn zeroes_in_a_followed_file_are_told() {
    use std::os::unix::fs::FileExt;
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let (mut archive, mut follower) = (Vec::new(), follow(&redis, None).unwrap());
    cache.fill("one", 50);
    drain(&mut *follower, &mut archive).unwrap();
    cache.fill("two", 50);
    let path = cache.data().join("appendonlydir/appendonly.aof.1.incr.aof");
    let end = fs::metadata(&path).unwrap().len();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4000], end - 5000).unwrap();
    let why = drain(&mut *follower, &mut archive).unwrap_err().to_string();
    assert!(why.contains("not where a command can begin or go on"), "{why}");
    assert!(archive.last().unwrap().last <= end - 5000);
    // What was archived already is looked at, too, before anything is archived behind it.
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let redis = component(&cache);
    let (mut archive, mut follower) = (Vec::new(), follow(&redis, None).unwrap());
    cache.fill("one", 50);
    drain(&mut *follower, &mut archive).unwrap();
    let path = cache.data().join("appendonlydir/appendonly.aof.1.incr.aof");
    let end = fs::metadata(&path).unwrap().len();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 64], end - 500).unwrap();
    cache.fill("two", 5);
    let why = drain(&mut *follower, &mut archive).unwrap_err();
    assert!(matches!(why, Error::Broken { .. }), "{why}");
}
