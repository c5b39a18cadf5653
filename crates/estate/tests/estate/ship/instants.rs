//! Every commit comes back, alone and in order, at its instant.

use std::time::Duration;

use jiff::Timestamp;

use super::{NOTES, Shipping, assert_same};
use crate::support::{Shell, sqlite3};

#[test]
fn each_instant_has_the_commits_up_to_it() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    let mut instants = Vec::new();
    for number in 2..30 {
        sqlite3(&shipping.database.path, &format!("insert into note values({number}, 'text {number}')"));
        shipping.settle().unwrap();
        instants.push((Timestamp::now(), number));
        std::thread::sleep(Duration::from_millis(2));
    }
    for (at, number) in instants.into_iter().step_by(5) {
        let restored = shipping.replay(&base, Some(at));
        assert_eq!(restored.ask("select count(*), max(id) from note"), format!("{number}|{number}"));
        assert!(restored.replayed.instant.unwrap() <= at);
        assert!(restored.is_summed());
    }
    let latest = shipping.replay(&base, None);
    assert_eq!(latest.ask("select count(*) from note"), "29");
    assert_same(&shipping, &latest);
}

#[test]
fn before_the_first_commit_there_is_the_base() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    let at = Timestamp::now();
    std::thread::sleep(Duration::from_millis(5));
    shipping.ship().unwrap();
    sqlite3(&shipping.database.path, "insert into note values(2, 'second')");
    shipping.settle().unwrap();
    let restored = shipping.replay(&base, Some(at));
    assert_eq!(restored.ask("select count(*) from note"), "1");
}

#[test]
fn a_base_made_under_writes_is_brought_further_exactly() {
    let mut shipping = Shipping::of(NOTES);
    let path = shipping.database.path.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut shell = Shell::open(&path);
            shell.run(".timeout 10000");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                shell.run("insert into note(text) values(hex(randomblob(400)));");
            }
        });
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(100));
            shipping.ship().unwrap();
            let base = shipping.base();
            std::thread::sleep(Duration::from_millis(100));
            shipping.settle().unwrap();
            let restored = shipping.replay(&base, None);
            assert!(restored.is_summed(), "{:?}", restored.replayed);
            assert_eq!(restored.ask("select count(*) = max(id) from note"), "1");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let base = shipping.base();
    // With nothing behind it, it is the point itself.
    assert_same(&shipping, &shipping.replay(&base, None));
}

#[test]
fn growing_shrinking_and_vacuum_come_back_to_the_page() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    let path = shipping.database.path.clone();
    let fill = "insert into note(text) select randomblob(3000) from generate_series(1, 600);";
    for script in [
        fill,
        "delete from note where id > 50; vacuum;",
        fill,
        "pragma auto_vacuum = incremental; vacuum;",
        "create index by_text on note(text); delete from note where id % 3 = 0;",
        "pragma incremental_vacuum;",
        "drop index by_text; create table other(a, b, primary key(a, b)) without rowid;
         insert into other select value, randomblob(900) from generate_series(1, 900);",
        "vacuum;",
    ] {
        sqlite3(&path, script);
        shipping.settle().unwrap();
        assert_same(&shipping, &shipping.replay(&base, None));
    }
}

#[test]
fn a_commit_of_many_pieces_comes_back_whole_or_not_at_all() {
    let mut shipping = Shipping::of(NOTES);
    let base = shipping.base();
    // As long as somebody reads what was before, the log is not begun anew.
    let mut reader = Shell::open(&shipping.database.path);
    reader.run("begin; select count(*) from note;");
    let before = shipping.archive.len();
    let fill = "insert into note(text) select randomblob(4000) from generate_series(1, 4000);";
    sqlite3(&shipping.database.path, fill);
    shipping.settle().unwrap();
    assert!(shipping.archive.len() >= before + 4, "it takes several pieces");
    assert_same(&shipping, &shipping.replay(&base, None));
    // Shipping was killed in the middle of it: what is there of it is no commit.
    shipping.archive.truncate(before + 2);
    let restored = shipping.replay(&base, None);
    assert_eq!(restored.ask("select count(*) from note"), "1");
    // It goes on where it was.
    assert_eq!(shipping.follow(), None);
    let restored = shipping.replay(&base, None);
    assert_eq!(restored.ask("select count(*) from note"), "4001");
    assert_same(&shipping, &restored);
}
