//! Going on by proof, or not at all: checkpoints of others, ends of processes, other databases.

use std::fs;

use super::{NOTES, Shipping, assert_same, log_bytes};
use crate::support::{Shell, sqlite3, sqlite3_output};

const INSERT: &str = "insert into note(text) select randomblob(500) from generate_series(1, 20);";

#[test]
fn checkpoints_of_other_processes_interrupt_nothing() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    let path = shipping.database.path.clone();
    for mode in ["passive", "full", "restart", "truncate"] {
        for _ in 0..3 {
            sqlite3(&path, INSERT);
            // It is not even shipped when the checkpoint comes.
            let answer = sqlite3(&path, &format!("pragma wal_checkpoint({mode})"));
            assert_eq!(answer.split('|').count(), 3);
            if ["restart", "truncate"].contains(&mode) {
                assert!(answer.starts_with("1|"), "{mode} is kept from its last step: {answer}");
            }
            shipping.settle().unwrap();
        }
        assert_same(&shipping, &shipping.replay(&base, None));
    }
    // A full one waits for nobody: our read transaction is at the newest commit by then.
    std::thread::sleep(std::time::Duration::from_millis(60));
    shipping.settle().unwrap();
    let answer = sqlite3(&path, "pragma wal_checkpoint(full)");
    assert!(answer.starts_with("0|"), "{answer}");
    assert!(fs::metadata(&path).unwrap().len() > 20_000, "the pages are in the database");
    // And everything being checkpointed, the next writer does not begin the log anew.
    for _ in 0..3 {
        sqlite3(&path, INSERT);
        sqlite3(&path, "pragma wal_checkpoint(truncate)");
        shipping.settle().unwrap();
    }
    assert_same(&shipping, &shipping.replay(&base, None));
}

#[test]
fn an_end_of_shipping_leaves_the_log_and_the_next_one_goes_on() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    let path = shipping.database.path.clone();
    let mut application = Shell::open(&path);
    application.run(INSERT);
    shipping.ship().unwrap();
    shipping.follower = None;
    assert!(log_bytes(&shipping.database) > 0, "the log was not removed");
    // Written while nobody ships.
    application.run(INSERT);
    assert_eq!(shipping.follow(), None);
    assert_same(&shipping, &shipping.replay(&base, None));
    // And with nobody else there.
    application.run(INSERT);
    application.kill();
    shipping.follower = None;
    assert!(log_bytes(&shipping.database) > 0);
    assert_eq!(shipping.follow(), None);
    assert_same(&shipping, &shipping.replay(&base, None));
    for _ in 0..3 {
        sqlite3(&path, INSERT);
        shipping.settle().unwrap();
    }
    assert_same(&shipping, &shipping.replay(&base, None));
}

#[test]
fn what_was_checkpointed_behind_its_back_needs_a_new_base() {
    type Meanwhile = fn(&mut Shell);
    let cases: [(Meanwhile, &str); 3] = [
        (|shell| _ = shell.run(&format!("pragma wal_checkpoint(restart); {INSERT}")), "begun anew"),
        (|shell| _ = shell.run("pragma wal_checkpoint(truncate);"), "empty"),
        (|shell| _ = shell.run(&format!("pragma wal_checkpoint(truncate); {INSERT}")), "begun anew"),
    ];
    for (meanwhile, expected) in cases {
        let mut shipping = Shipping::of(NOTES);
        let mut application = Shell::open(&shipping.database.path);
        application.run(INSERT);
        shipping.settle().unwrap();
        let before = shipping.archive.last().unwrap().lineage.clone();
        shipping.follower = None;
        meanwhile(&mut application);
        let why = shipping.follow().expect("a new lineage begins");
        assert!(why.contains(expected), "{why}");
        assert_ne!(shipping.follower.as_ref().unwrap().lineage(), before);
        let base = shipping.base();
        application.run(INSERT);
        shipping.settle().unwrap();
        assert_same(&shipping, &shipping.replay(&base, None));
    }
    // The last connection of the application removes the log, if nobody ships.
    let mut shipping = Shipping::of(NOTES);
    shipping.follower = None;
    sqlite3(&shipping.database.path, INSERT);
    sqlite3(&shipping.database.path, INSERT);
    assert!(shipping.follow().is_some());
}

#[test]
fn another_database_is_another_lineage() {
    let mut shipping = Shipping::of(NOTES);
    let path = shipping.database.path.clone();
    let other = shipping.database.directory.path().join("other.db");
    sqlite3(&other, NOTES);
    sqlite3(&other, INSERT);
    // As a restore does it: what was there is moved away with its companions, another takes its place.
    for ending in ["", "-wal", "-shm"] {
        let name = |path: &std::path::Path| format!("{}{ending}", path.display());
        fs::rename(name(&path), format!("{}.before-r1{ending}", path.display())).unwrap();
    }
    fs::rename(&other, &path).unwrap();
    assert!(shipping.broken().contains("replaced or removed"));
    sqlite3(&path, INSERT);
    let before = shipping.archive.last().unwrap().lineage.clone();
    assert!(shipping.follow().is_some());
    assert_ne!(shipping.follower.as_ref().unwrap().lineage(), before);
    let base = shipping.base();
    sqlite3(&path, INSERT);
    shipping.settle().unwrap();
    assert_same(&shipping, &shipping.replay(&base, None));

    fs::remove_file(&path).unwrap();
    assert!(shipping.broken().contains("replaced or removed"));
    let component = shipping.component();
    let error = estate::component::Component::log(&component).unwrap().follow(None).err().unwrap();
    assert!(matches!(error, estate::Error::Missing { .. }), "{error}");
    assert!(!path.exists(), "it is not made by looking for it");
}

#[test]
fn another_page_size_needs_another_journal_first() {
    let mut shipping = Shipping::of(NOTES);
    let path = shipping.database.path.clone();
    let change = "pragma journal_mode = delete; pragma page_size = 8192; vacuum;";
    let output = sqlite3_output(&path, change);
    assert!(String::from_utf8_lossy(&output.stderr).contains("locked"), "a log that is shipped stays");
    shipping.settle().unwrap();
    shipping.follower = None;
    sqlite3(&path, change);
    let component = shipping.component();
    let error = estate::component::Component::log(&component).unwrap().follow(shipping.archive.last());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("journal mode is delete") && error.contains("PRAGMA journal_mode=WAL"), "{error}");
    sqlite3(&path, "pragma journal_mode = wal");
    sqlite3(&path, INSERT);
    assert!(shipping.follow().is_some());
    let base = shipping.base();
    sqlite3(&path, INSERT);
    shipping.settle().unwrap();
    assert_same(&shipping, &shipping.replay(&base, None));
}

#[test]
fn rollback_mode_and_what_is_no_database_are_refused() {
    for mode in ["delete", "truncate", "persist"] {
        let database =
            crate::sqlite::Database::new(&format!("pragma journal_mode = {mode}; create table t(a);"));
        let error =
            estate::component::Component::log(&database.component()).unwrap().follow(None).err().unwrap();
        assert!(error.to_string().contains("PRAGMA journal_mode=WAL"), "{error}");
        assert!(!database.directory.path().join("app.db-lifeboat").exists(), "nothing is left behind");
    }
    let database = crate::sqlite::Database::new(NOTES);
    fs::write(&database.path, "no database".repeat(1000)).unwrap();
    let error = estate::component::Component::log(&database.component()).unwrap().follow(None).err().unwrap();
    assert!(error.to_string().contains("not a SQLite database"), "{error}");
}
