//! The log of a PostgreSQL server that is followed as it is written: `every: continuous`, without an `archive_command`.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::postgres::Write;
use crate::shipping::Serve;
use crate::wal::Shop;

const COUNT: &str = "select count(*), max(n) from orders";
/// All rows, each as its writer and its number.
const ROWS: &str = "select coalesce(string_agg(writer || ' ' || n, ','), '') from orders";

fn shop() -> Shop {
    Shop::with("every: continuous")
}

fn serve(shop: &Shop) -> Serve {
    Serve::start(&mut shop.command(&["serve", "--json"]))
}

fn position(shop: &Shop) -> u64 {
    let text = shop.cluster.sql("select pg_current_wal_flush_lsn() - '0/0'::pg_lsn");
    text.parse().unwrap()
}

fn number(event: &str, name: &str) -> u64 {
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    event["answer"][name].as_u64().unwrap_or_else(|| panic!("{event}"))
}

/// Waits until all that the server has written by now is in the repository.
fn until_shipped(serve: &Serve, shop: &Shop) {
    let wanted = position(shop);
    while number(&serve.await_event("shipped"), "position") < wanted {}
}

/// What was acknowledged before an instant is there, and what was begun after it is not.
fn check(shop: &Shop, all: &[(u32, &Write)], at: Timestamp) {
    let there = shop.restored(Some(at), ROWS).unwrap();
    let there: BTreeSet<&str> = there.split(',').collect();
    for (writer, write) in all {
        let is_there = there.contains(format!("{writer} {}", write.n).as_str());
        assert!(is_there || write.acknowledged > at, "{at}: {writer} {write:?} is missing");
        assert!(!is_there || write.begun <= at, "{at}: {writer} {write:?} is there");
    }
}

#[test]
fn what_is_committed_is_in_the_repository_within_a_moment_and_any_instant_comes_back() {
    let shop = shop();
    let serve = serve(&shop);
    assert!(serve.await_event("began").contains("nothing is archived yet"));
    serve.await_event("based");
    let first = shop.insert(1);
    until_shipped(&serve, &shop);
    let shipped = first.duration_until(Timestamp::now());
    assert!(shipped.as_secs_f64() < 5.0, "{shipped:?} on a machine with much to do");
    // Within a segment, of which most is still to be written.
    assert_eq!(shop.restored(None, COUNT).unwrap(), "1|1");

    let stop = AtomicBool::new(false);
    let (shop, stop) = (&shop, &stop);
    let written: Vec<Vec<Write>> = std::thread::scope(|scope| {
        let writers: Vec<_> =
            (1..=3).map(|writer| scope.spawn(move || shop.cluster.write(writer, stop))).collect();
        std::thread::sleep(Duration::from_secs(4));
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    until_shipped(&serve, shop);
    let all: Vec<(u32, &Write)> = written
        .iter()
        .zip(1..)
        .flat_map(|(writes, writer)| writes.iter().map(move |w| (writer, w)))
        .collect();
    assert!(all.len() > 100, "{} writes", all.len());
    let last = all.iter().map(|(_, write)| write.acknowledged).max().unwrap();
    let there = shop.restored(None, ROWS).unwrap();
    assert_eq!(there.split(',').count(), all.len() + 1, "the latest is all of it");
    let seed = last.as_microsecond().unsigned_abs();
    for number in 0..3_u64 {
        let before = (seed >> (number * 7)).wrapping_mul(6_364_136_223_846_793_005) % 3_500_000;
        let at = Timestamp::from_microsecond(last.as_microsecond() - i64::try_from(before).unwrap()).unwrap();
        check(shop, &all, at);
    }
    assert_eq!(serve.end(), Some(0));
}

#[test]
fn whoever_goes_on_after_a_kill_or_a_crash_misses_nothing() {
    let shop = shop();
    let first = serve(&shop);
    first.await_event("based");
    shop.insert(1);
    until_shipped(&first, &shop);
    first.kill();
    // Several segments while nobody follows, which the server recycles as soon as it may.
    for n in 2..=5 {
        shop.insert(n);
        shop.cluster.sql("select pg_switch_wal(); checkpoint");
    }
    let second = serve(&shop);
    second.await_event("continues");
    until_shipped(&second, &shop);
    assert_eq!(shop.restored(None, COUNT).unwrap(), "5|5");

    shop.cluster.stop("immediate");
    shop.cluster.start();
    second.await_event("continues");
    shop.insert(6);
    until_shipped(&second, &shop);
    let sixth = Timestamp::now();
    std::thread::sleep(Duration::from_millis(20));
    shop.insert(7);
    until_shipped(&second, &shop);
    assert_eq!(shop.restored(None, COUNT).unwrap(), "7|7");
    assert_eq!(shop.restored(Some(sixth), COUNT).unwrap(), "6|6");
    assert_eq!(second.end(), Some(0));
}

#[test]
fn a_repository_that_is_away_costs_nothing_but_time() {
    let shop = shop();
    let serve = serve(&shop);
    serve.await_event("based");
    shop.insert(1);
    until_shipped(&serve, &shop);
    let log = shop.directory.join("repository/lifeboat/log");
    let aside = shop.directory.join("aside");
    fs::rename(&log, &aside).unwrap();
    fs::write(&log, "not a directory").unwrap();
    shop.insert(2);
    serve.await_event("away");
    for n in 3..=6 {
        shop.insert(n);
        shop.cluster.sql("select pg_switch_wal(); checkpoint");
    }
    fs::remove_file(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    serve.await_event("back");
    until_shipped(&serve, &shop);
    assert_eq!(shop.restored(None, COUNT).unwrap(), "6|6");
}

/// The slot is dropped by somebody, and the server gives up its log.
#[test]
fn a_log_that_the_server_has_not_kept_is_a_gap_with_a_base_behind_it() {
    let shop = shop();
    let first = serve(&shop);
    first.await_event("based");
    let one = shop.insert(1);
    std::thread::sleep(Duration::from_millis(20));
    shop.insert(2);
    until_shipped(&first, &shop);
    assert_eq!(first.end(), Some(0));
    shop.cluster.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots");
    shop.cluster.configure("max_wal_size = 2MB\nmin_wal_size = 2MB\nwal_recycle = off\n");
    shop.cluster.sql("select pg_reload_conf()");
    let lost = shop.insert(3);
    for _ in 0..4 {
        shop.cluster.sql("select pg_switch_wal(); checkpoint");
    }
    let second = serve(&shop);
    let began = second.await_event("began");
    assert!(began.contains("has not kept its log"), "{began}");
    second.await_event("based");
    shop.insert(4);
    until_shipped(&second, &shop);
    assert_eq!(shop.restored(None, COUNT).unwrap(), "4|4");
    assert_eq!(shop.restored(Some(one), COUNT).unwrap(), "1|1");
    let why = shop.restored(Some(lost), COUNT).unwrap_err();
    assert!(why.contains("gap") && why.starts_with("exit code 3"), "{why}");
    let (_, status) = shop.run(&["points"]);
    assert!(status.contains("GAP from"), "{status}");
}

#[test]
fn a_server_that_was_set_back_and_a_second_follower_are_refused() {
    let shop = shop();
    let first = serve(&shop);
    first.await_event("based");
    shop.insert(1);
    until_shipped(&first, &shop);
    let second = serve(&shop);
    let waiting = second.await_event("waiting");
    assert!(waiting.contains("is active"), "{waiting}");
    drop(second);
    assert_eq!(first.end(), Some(0));

    shop.cluster.stop("fast");
    let (data, kept) = (shop.cluster.data(), shop.directory.join("kept"));
    let copied = std::process::Command::new("cp").arg("-a").arg(&data).arg(&kept).status().unwrap();
    assert!(copied.success());
    shop.cluster.start();
    let third = serve(&shop);
    third.await_event("continues");
    shop.insert(2);
    until_shipped(&third, &shop);
    assert_eq!(third.end(), Some(0));
    shop.cluster.stop("fast");
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    shop.cluster.start();
    for n in 10..40 {
        shop.insert(n);
    }
    let fourth = serve(&shop);
    let waiting = fourth.await_event("waiting");
    assert!(waiting.contains("is not the one that is archived"), "{waiting}");
    drop(fourth);
    assert_eq!(shop.restored(None, COUNT).unwrap(), "2|2", "what was archived is as it was");
}

/// A server that was promoted, as after a restore, begins a timeline, which gets a base of its own.
#[test]
fn a_restored_server_is_followed_on_its_own_timeline() {
    let shop = shop();
    let first = serve(&shop);
    first.await_event("based");
    let one = shop.insert(1);
    std::thread::sleep(Duration::from_millis(20));
    shop.insert(2);
    until_shipped(&first, &shop);
    assert_eq!(first.end(), Some(0));
    shop.cluster.stop("fast");
    shop.succeeds(&["restore", "orders", "--yes", "--at", &one.to_string()]);
    shop.cluster.start();
    assert_eq!(shop.cluster.sql(COUNT), "1|1");
    let second = serve(&shop);
    let began = second.await_event("began");
    assert!(began.contains("timeline 2 is a new one"), "{began}");
    second.await_event("based");
    shop.insert(20);
    until_shipped(&second, &shop);
    assert_eq!(shop.restored(None, COUNT).unwrap(), "2|20");
    assert_eq!(shop.restored(Some(one), COUNT).unwrap(), "1|1");
}

#[test]
fn status_and_validate_tell_what_the_server_keeps() {
    let shop = shop();
    let (_, said) = shop.run(&["status"]);
    assert!(said.contains("never backed up"), "{said}");
    let serve = serve(&shop);
    serve.await_event("based");
    shop.insert(1);
    until_shipped(&serve, &shop);
    let (_, said) = shop.run(&["status"]);
    assert!(!said.contains("nobody follows"), "{said}");
    assert_eq!(serve.end(), Some(0));
    shop.insert(2);
    let begin = Instant::now();
    loop {
        // The server notices a moment later that nobody is there.
        let (_, said) = shop.run(&["status"]);
        if said.contains("nobody follows its log, of which the server keeps") {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{said}");
    }
    let (_, said) = shop.run(&["validate"]);
    assert!(said.contains("max_slot_wal_keep_size is not set"), "{said}");
    shop.cluster.configure("max_slot_wal_keep_size = 100MB\n");
    shop.cluster.sql("select pg_reload_conf()");
    let (_, said) = shop.run(&["validate"]);
    assert!(!said.contains("max_slot_wal_keep_size"), "{said}");
    shop.cluster.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots");
    let (_, said) = shop.run(&["status"]);
    assert!(said.contains("the server keeps none of its log"), "{said}");
}
