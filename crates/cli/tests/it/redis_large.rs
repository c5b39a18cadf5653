//! A command that is larger than what one piece of a log may be, and a server that hangs under `lifeboat serve`.

use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::harness::Place;
use crate::redis::Cache;
use crate::shipping::Serve;

/// A server that is shipped, and where that is done from.
fn shipped() -> (Cache, Place) {
    let cache = Cache::with("aof-timestamp-enabled yes\nappendfsync always\n");
    let place = Place::new().with("CACHE_PASSWORD", "right-word").with("LIFEBOAT_STATE", "state");
    let plan = format!(
        "lifeboat: 1\nname: shop\nrepository: {{ location: repository, password: \"${{env:LIFEBOAT_PASSWORD}}\" }}\ncomponents:\n  \
         cache:\n    redis: {}\n    socket: {}\n    password: \"${{env:CACHE_PASSWORD}}\"\n    every: continuous\n    rpo: 1m\n    \
         may_be_empty: true\n    tolerance: 100%\n",
        cache.data().display(),
        cache.socket().display(),
    );
    place.write("lifeboat.yaml", plan.as_bytes());
    place.succeeds(&["repository", "init"]);
    (cache, place)
}

fn serve(place: &Place) -> Serve {
    Serve::start(&mut place.command(&["serve", "--json"]))
}

#[test]
fn a_command_that_is_larger_than_a_piece_begins_a_new_lineage_and_loses_nothing() {
    const LARGE: usize = 40 << 20;
    let (mut cache, place) = shipped();
    let shipping = serve(&place);
    shipping.await_event("based");
    cache.ask(&["SET", "small", "1"]);
    shipping.await_event("shipped");
    std::thread::sleep(Duration::from_millis(1200));
    let before = Timestamp::now();
    std::thread::sleep(Duration::from_millis(1200));
    let script = "redis.call('SET', 'large', string.rep('x', tonumber(ARGV[1])))";
    cache.ask(&["EVAL", script, "0", &LARGE.to_string()]);
    cache.ask(&["SET", "right-after", "1"]);

    // That the log is interrupted is said, and the next base is made at once.
    let why = shipping.await_event("interrupted");
    assert!(why.contains("a piece has at most"), "{why}");
    shipping.await_event("began");
    shipping.await_event("based");
    cache.ask(&["SET", "after", "1"]);
    shipping.await_event("shipped");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(shipping.end(), Some(0));
    cache.kill();

    let restored = |cache: &mut Cache, at: &[&str]| {
        place.succeeds(&[&["restore", "cache", "--yes"], at].concat());
        cache.start();
        let lengths = ["small", "large", "right-after", "after"].map(|key| cache.ask(&["STRLEN", key]));
        cache.kill();
        lengths
    };
    let large = LARGE.to_string();
    assert_eq!(restored(&mut cache, &[]), ["1", &large, "1", "1"]);
    assert_eq!(restored(&mut cache, &["--at", &before.to_string()]), ["1", "0", "0", "0"]);
}

#[test]
fn serve_ends_in_time_and_goes_on_beside_a_server_that_hangs() {
    let (cache, place) = shipped();
    let shipping = serve(&place);
    shipping.await_event("based");
    cache.ask(&["SET", "before", "1"]);
    shipping.await_event("shipped");
    let signal = |signal: &str| {
        let pid = cache.pid().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    };
    signal("STOP");
    // Long enough for it to ask.
    std::thread::sleep(Duration::from_secs(6));
    let begin = Instant::now();
    assert_eq!(shipping.end(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    // One that begins beside it says what is the matter, again and again.
    let shipping = serve(&place);
    let why = shipping.await_event("waiting");
    assert!(why.contains("said nothing for 5 s"), "{why}");
    signal("CONT");
    shipping.await_event("continues");
    cache.ask(&["SET", "after", "1"]);
    shipping.await_event("shipped");
    assert_eq!(shipping.end(), Some(0));
}
