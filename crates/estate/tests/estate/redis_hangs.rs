//! A server that hangs: whoever only asks it something waits for seconds, and whoever follows it goes on when it does.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use estate::component::redis::Redis;
use estate::component::{Component, Follow, LogPiece, RedisOptions, Severity};
use place::Place;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::cache::{Cache, Ends, made};

const CONTINUOUS: &[(&str, &str)] = &[
    ("appendonly", "yes"),
    ("aof-timestamp-enabled", "yes"),
    ("appendfsync", "always"),
    ("tcp-backlog", "16"),
];
/// What a question may take, with what else this machine may have to do.
const SOON: Duration = Duration::from_secs(20);

fn follow(redis: &Redis, last: Option<&LogPiece>) -> estate::Result<Box<dyn Follow>> {
    Ok(redis.log().unwrap().follow(last)?.unwrap())
}

/// Archives what there is; gives the last piece.
fn drain(follower: &mut dyn Follow) -> Option<LogPiece> {
    let mut last = None;
    while follower.look().unwrap() {
        while let Some(piece) = follower.piece().unwrap().cloned() {
            follower.acknowledge(piece.last);
            last = Some(piece);
        }
    }
    last
}

/// Connects until the server's queue takes no more: it accepts nobody.
fn fill_queue(cache: &Cache) -> Vec<OwnedFd> {
    let mut all = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match connect(&socket, &SocketAddrUnix::new(cache.socket()).unwrap()) {
            Ok(()) => all.push(socket),
            Err(Errno::AGAIN) => return all,
            Err(error) => panic!("{error}"),
        }
        assert!(all.len() < 5000, "the queue has no end");
    }
}

#[test]
fn a_server_that_hangs_is_asked_for_seconds_only() {
    let (_directory, cache) = made(CONTINUOUS);
    let _ends = Ends(cache.clone());
    let options = RedisOptions { continuous: true, ..cache.options(&[]) };
    let redis = Redis::new(options, Place::host());
    let mut follower = follow(&redis, None).unwrap();
    cache.ask(&["SET", "before", "1"]);
    let last = drain(&mut *follower);
    cache.signal("STOP");
    // It is asked every five seconds.
    std::thread::sleep(Duration::from_millis(5100));
    let begin = Instant::now();
    follower.tend().unwrap();
    let took = begin.elapsed();
    assert!((Duration::from_secs(4)..SOON).contains(&took), "asked for {took:?}");
    follower.look().unwrap();

    let hangs = |what: &str, begin: Instant, why: &str| {
        assert!(why.contains(what), "{why}");
        assert!(begin.elapsed() < SOON, "{why}: {:?}", begin.elapsed());
    };
    let begin = Instant::now();
    let findings = redis.preflight();
    assert_eq!(findings[0].severity, Severity::Error);
    hangs("said nothing for 5 s", begin, &findings[0].what);
    drop(follower);
    let begin = Instant::now();
    let error = follow(&redis, last.as_ref()).err().expect("nothing is known of it").to_string();
    hangs("said nothing for 5 s", begin, &error);
    // Whoever asks again and again fills its queue some time.
    let held = fill_queue(&cache);
    let begin = Instant::now();
    let error = follow(&redis, last.as_ref()).err().expect("it takes nobody").to_string();
    hangs("took no connection for 5 s", begin, &error);
    drop(held);

    cache.signal("CONT");
    cache.ask(&["SET", "after", "1"]);
    let mut follower = follow(&redis, last.as_ref()).unwrap();
    assert_eq!(follower.began(), None, "the lineage goes on");
    assert!(drain(&mut *follower).is_some());
    follower.tend().unwrap();
}
