//! Kills at any point, on either side, and logs that are not what they should be.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use estate::component::{Component, LogPiece, Proven, SqliteOptions};
use jiff::Timestamp;

use super::{NOTES, Shipping, assert_same, replay_on};
use crate::support::{Shell, sqlite3};

const INSERT: &str = "insert into note(text) select randomblob(500) from generate_series(1, 20);";

#[test]
fn a_writer_that_is_killed_leaves_nothing_that_was_not_committed() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    let path = shipping.database.path.clone();
    for round in 0..10 {
        let mut writer = Shell::open(&path);
        // What does not fit into its memory is in the log before it is committed.
        writer.run("pragma cache_size = 10; pragma cache_spill = 1;");
        writer.run(&format!(
            "begin; insert into note(text) select randomblob(3000) from generate_series(1, {});",
            50 + round
        ));
        shipping.ship().unwrap();
        writer.kill();
        shipping.ship().unwrap();
        // The next writer begins where the last one had.
        sqlite3(&path, &format!("insert into note values({}, 'whole')", 100 + round));
        shipping.settle().unwrap();
    }
    let restored = shipping.replay(&base, None);
    assert_eq!(restored.ask("select count(*) from note"), "11");
    assert_same(&shipping, &restored);
}

/// Keeps each piece as a file, durable before it is acknowledged, until it is killed.
#[test]
#[ignore = "is started by shipping_that_is_killed_goes_on_where_it_was"]
#[expect(clippy::disallowed_methods, reason = "the parent has no other way to say where the database is")]
fn ships_until_it_is_killed() {
    let Some(directory) = std::env::var_os("LIFEBOAT_TEST_SHIP").map(PathBuf::from) else { return };
    let component = estate::component::sqlite::Sqlite::new(SqliteOptions::of(directory.join("app.db")));
    let last = kept(&directory).pop();
    let mut follower = component.log().unwrap().follow(last.as_ref()).unwrap().unwrap();
    assert_eq!(follower.began().is_none(), last.is_some(), "{:?}", follower.began());
    loop {
        follower.look().unwrap();
        while let Some(piece) = follower.piece().unwrap().cloned() {
            keep(&directory, &piece);
            follower.acknowledge(piece.last);
        }
        follower.tend().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn keep(directory: &Path, piece: &LogPiece) {
    let us = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_microsecond);
    let name = format!(
        "piece.{:016x}.{:016x}.{}.{}.{}",
        piece.first,
        piece.last,
        us(piece.from),
        us(piece.until),
        piece.lineage
    );
    let path = directory.join(&name);
    assert!(!path.exists(), "a piece is archived once");
    let mut file = fs::File::create(directory.join("unfinished")).unwrap();
    file.write_all(&piece.bytes).unwrap();
    fs::rename(directory.join("unfinished"), path).unwrap();
}

fn kept(directory: &Path) -> Vec<LogPiece> {
    let names =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pieces: Vec<LogPiece> = names
        .filter(|name| name.starts_with("piece."))
        .map(|name| {
            let fields: Vec<&str> = name.split('.').collect();
            let instant = |field: &str| Timestamp::from_microsecond(field.parse().unwrap()).ok();
            LogPiece {
                lineage: fields[5].to_owned(),
                first: u64::from_str_radix(fields[1], 16).unwrap(),
                last: u64::from_str_radix(fields[2], 16).unwrap(),
                from: instant(fields[3]),
                until: instant(fields[4]),
                name: None,
                bytes: fs::read(directory.join(&name)).unwrap(),
            }
        })
        .collect();
    pieces.sort_by_key(|piece| piece.first);
    pieces
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ship::faults::ships_until_it_is_killed", "--ignored", "--nocapture"])
        .env("LIFEBOAT_TEST_SHIP", directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn shipping_that_is_killed_goes_on_where_it_was() {
    let mut shipping = Shipping::of(NOTES);
    let directory = shipping.database.directory.path().to_owned();
    let path = shipping.database.path.clone();
    let base = shipping.base();
    shipping.archive.iter().for_each(|piece| keep(&directory, piece));
    sqlite3(&path, INSERT);
    shipping.ship().unwrap();
    kept(&directory).is_empty().then(|| shipping.archive.iter().for_each(|piece| keep(&directory, piece)));
    shipping.follower = None;
    // An application that leaves checkpoints to others: what was not shipped stays in the log.
    let mut writer = Shell::open(&path);
    writer.run(".timeout 10000\npragma wal_autocheckpoint = 0;");
    let mut written = 21;
    // Less than what makes it begin the log anew: that is proven elsewhere.
    for round in 0..10_u64 {
        let mut child = start(&directory);
        for _ in 0..3 + round * 3 % 7 {
            writer.run(INSERT);
            written += 20;
        }
        std::thread::sleep(Duration::from_millis(round * 37 % 90));
        child.kill().unwrap();
        child.wait().unwrap();
        writer.run(INSERT);
        written += 20;
    }
    shipping.archive = kept(&directory);
    assert!(shipping.archive.len() > 3, "it got somewhere before it was killed");
    assert_eq!(shipping.follow(), None, "nothing is missing");
    let restored = shipping.replay(&base, None);
    assert_eq!(restored.ask("select count(*) from note"), written.to_string());
    assert_same(&shipping, &restored);
}

#[test]
fn a_replay_that_is_killed_is_done_again() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    for _ in 0..8 {
        sqlite3(&shipping.database.path, INSERT);
        shipping.settle().unwrap();
    }
    sqlite3(&shipping.database.path, "delete from note where id > 5; vacuum;");
    shipping.settle().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { path: directory.path().join("restored.db"), ..shipping.options.clone() };
    let component = estate::component::sqlite::Sqlite::new(options);
    let parts = component.parts("r2", &base.point);
    base.restore(&parts);
    for pieces in [3, 7, 5, shipping.archive.len(), shipping.archive.len()] {
        let archive = &shipping.archive[..pieces];
        let replayed = replay_on(&component, &base, None, archive, directory.path(), &parts).unwrap();
        if pieces == shipping.archive.len() {
            assert_eq!(replayed.proof.outcome(), Proven::Proven, "{replayed:?}");
        }
    }
    assert!(super::pages(&shipping.database.path).concat() == fs::read(&parts[0].beside).unwrap());
}

#[test]
fn a_log_that_is_not_what_it_was_is_never_replayed_silently() {
    let filled =
        format!("{NOTES} insert into note(text) select randomblob(2000) from generate_series(1, 50);");
    let mut shipping = Shipping::of(&filled);
    let base = shipping.base();
    for _ in 0..4 {
        sqlite3(&shipping.database.path, INSERT);
        shipping.settle().unwrap();
    }
    let whole = shipping.archive.clone();
    let refused =
        |archive: &[LogPiece]| shipping.try_replay(&base, None, archive).err().expect("refused").to_string();
    let with = |number: usize, change: &dyn Fn(&mut LogPiece)| {
        let mut archive = whole.clone();
        change(&mut archive[number]);
        archive
    };
    let middle = whole.len() - 2;
    // Every byte that says something.
    let length = whole[middle].bytes.len();
    for at in (0..120).chain((120..length).step_by(911)) {
        let archive = with(middle, &|piece| piece.bytes[at] ^= 0x10);
        match shipping.try_replay(&base, None, &archive) {
            Err(error) => assert!(error.to_string().contains("its log"), "{error}"),
            // The instants of the commits stand for themselves.
            Ok(restored) => assert!(restored.is_summed() || at < 120, "byte {at}: {:?}", restored.replayed),
        }
    }
    assert!(refused(&with(middle, &|piece| piece.bytes.truncate(length - 100))).contains("frames"));
    assert!(refused(&with(middle, &|piece| piece.bytes.clear())).contains("cut off"));
    let mut gap = whole.clone();
    gap.remove(middle);
    assert!(refused(&gap).contains("is missing"));
    let swapped = with(middle, &|piece| piece.bytes.clone_from(&whole[middle - 1].bytes));
    assert!(refused(&swapped).contains("its log"));

    // A base that is not the one that it says: the database's checksum tells.
    let other = Shipping::of(&filled);
    let mut foreign = other.base();
    foreign.point.log.clone_from(&base.point.log);
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { path: directory.path().join("restored.db"), ..shipping.options.clone() };
    let component = estate::component::sqlite::Sqlite::new(options);
    let parts = component.parts("r2", &foreign.point);
    foreign.restore(&parts);
    let replayed = replay_on(&component, &foreign, None, &whole, directory.path(), &parts).unwrap();
    assert_eq!(replayed.proof.outcome(), Proven::Failed, "{replayed:?}");
}

#[test]
fn a_base_of_another_lineage_is_refused() {
    let mut shipping = Shipping::of(NOTES);
    let mut base = shipping.base();
    sqlite3(&shipping.database.path, INSERT);
    shipping.settle().unwrap();
    let component = shipping.component();
    let log = base.point.log.as_mut().unwrap();
    let lineage = std::mem::replace(&mut log.lineage, "another".to_owned());
    let parts = component.parts("r2", &base.point);
    base.restore(&parts);
    let error = component.log().unwrap().replay(
        &parts,
        &base.point,
        estate::component::Replay {
            at: None,
            lineage: &lineage,
            to: 1,
            is_end: true,
            pieces: &mut std::iter::empty(),
            file: &|_, _| Ok(None),
            scratch: shipping.database.directory.path(),
            cancel: &estate::component::Cancel::default(),
        },
    );
    assert!(error.unwrap_err().to_string().contains("does not continue"));
}
