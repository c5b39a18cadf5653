//! Redis: what goes wrong, and that none of it ends as a good backup or a proven restore.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use estate::component::redis::Redis;
use estate::component::{Cancel, Component, Holds, Proof, Proven, RedisOptions, Severity};
use estate::floor::{Tolerance, judge};
use estate::{Error, Result};
use place::Place;

use crate::cache::{Cache, Ends, dump_in, made};
use crate::support::{RUN, Stored, back_up};

/// Why a backup failed.
fn failure(result: Result<Stored>) -> String {
    result.err().expect("this must not be backed up").to_string()
}

/// Restores beside and proves, after something was done to the dump that was stored.
fn proven_after(component: &Redis, stored: &Stored, data: &Path, harm: impl FnOnce(&Path)) -> Proof {
    let parts = component.parts(RUN, &stored.point);
    for part in &parts {
        estate::swap::remove(&part.beside).unwrap();
    }
    stored.restore(&parts);
    assert_eq!(parts.last().unwrap().target, data);
    harm(&dump_in(&parts.last().unwrap().beside));
    component.prove(&parts, &stored.point, &Cancel::default()).unwrap()
}

#[test]
fn a_truncated_or_changed_dump_is_not_proven() {
    let (_directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 300);
    let component = cache.component(&[("agents", "GET agent:1")]);
    let stored = back_up(&component, None).unwrap();
    let good = proven_after(&component, &stored, &cache.data(), |_| ());
    assert_eq!(good.outcome(), Proven::Proven, "{good:#?}");
    let length = fs::metadata(dump_in(&stored.path(cache.data()))).unwrap().len();
    for shorter in [0, 5, 9, 100, length / 2, length - 9, length - 1] {
        let proof = proven_after(&component, &stored, &cache.data(), |dump| {
            File::options().write(true).open(dump).unwrap().set_len(shorter).unwrap();
        });
        assert_eq!(proof.outcome(), Proven::Failed, "{shorter}: {proof:#?}");
    }
    for at in [0, 7, 60, length / 3, length / 2, length - 9, length - 3] {
        let proof = proven_after(&component, &stored, &cache.data(), |dump| {
            let file = File::options().read(true).write(true).open(dump).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        });
        assert_eq!(proof.outcome(), Proven::Failed, "{at}: {proof:#?}");
    }
    // `redis-cli --rdb` leaves such things behind a dump.
    let proof = proven_after(&component, &stored, &cache.data(), |dump| {
        let file = File::options().append(true).open(dump).unwrap();
        std::io::Write::write_all(&mut &file, &[b'x'; 40]).unwrap();
    });
    assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
}

/// What was damaged before it was recorded has the recorded digest, and Redis' own programs must find it.
#[test]
fn redis_itself_is_asked() {
    let (_directory, cache) = made(&[("rdbchecksum", "no"), ("rdbcompression", "no"), ("appendonly", "yes")]);
    let _ends = Ends(cache.clone());
    for number in 0..20 {
        cache.ask(&["RPUSH", &format!("list:{number}"), "one", "two", "three"]);
    }
    let component = cache.component(&[]);
    let mut stored = back_up(&component, None).unwrap();
    let dump = dump_in(&stored.path(cache.data()));
    let bytes = fs::read(&dump).unwrap();
    // The end of a list's own encoding, inside of a string as far as the format of the dump goes.
    let at = bytes.windows(5).position(|window| window == b"three").unwrap();
    scribble_one(&dump, at as u64 + 6, 0x7f);
    stored.point.details.insert(
        format!("file_sha256:{}", dump.strip_prefix(stored.path(cache.data())).unwrap().display()),
        digest(&dump),
    );
    let proof = proven_after(&component, &stored, &cache.data(), |_| ());
    assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
    let digest_holds = proof.shown.iter().find(|shown| shown.what.starts_with("digest of")).unwrap();
    assert_eq!(digest_holds.holds, Holds::Yes);
}

fn scribble_one(path: &Path, at: u64, byte: u8) {
    File::options().write(true).open(path).unwrap().write_all_at(&[byte], at).unwrap();
}

fn digest(path: &Path) -> String {
    let said = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(said.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_dump_of_a_newer_server_is_refused_with_what_to_do() {
    let (_directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 10);
    let component = cache.component(&[]);
    let mut stored = back_up(&component, None).unwrap();
    let dump = dump_in(&stored.path(cache.data()));
    let length = fs::metadata(&dump).unwrap().len();
    let file = File::options().write(true).open(&dump).unwrap();
    file.write_all_at(b"0999", 5).unwrap();
    // No checksum, as with `rdbchecksum no`.
    file.write_all_at(&[0; 8], length - 8).unwrap();
    stored.point.details.insert(
        format!("file_sha256:{}", dump.strip_prefix(stored.path(cache.data())).unwrap().display()),
        digest(&dump),
    );
    let proof = proven_after(&component, &stored, &cache.data(), |_| ());
    assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
    let said: String = proof.shown.iter().map(|shown| shown.found.clone()).collect();
    assert!(said.contains("999") && said.contains("a newer server made this dump"), "{proof:#?}");
}

/// Without the server's programs nothing is proven, and facts cannot be measured.
#[test]
fn without_a_server_nothing_is_proven() {
    let (directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 10);
    let nowhere = |facts: &[(&str, &str)]| {
        let binaries = Some(directory.path().to_owned());
        Redis::new(RedisOptions { binaries, ..cache.options(facts) }, Place::host())
    };
    let stored = back_up(&nowhere(&[]), None).unwrap();
    let proof = proven_after(&nowhere(&[]), &stored, &cache.data(), |_| ());
    assert_eq!(proof.outcome(), Proven::NotProven, "{proof:#?}");
    let why = failure(back_up(&nowhere(&[("agents", "GET agent:1")]), None));
    assert!(why.contains("install them") && why.contains("binaries:"), "{why}");
    assert!(nowhere(&[]).preflight().iter().any(|finding| finding.severity == Severity::Warning));
}

#[test]
fn a_server_that_dies_during_its_dump_is_no_backup() {
    for diskless in ["yes", "no"] {
        let (_directory, cache) = made(&[("repl-diskless-sync", diskless)]);
        let _ends = Ends(cache.clone());
        cache.fill("agent", 5000);
        // Five seconds for the dump.
        cache.ask(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]);
        let component = cache.component(&[]);
        std::thread::scope(|scope| {
            let backup = scope.spawn(|| failure(back_up(&component, None)));
            let deadline = Instant::now() + Duration::from_secs(20);
            while !cache.ask(&["INFO", "persistence"]).contains("rdb_bgsave_in_progress:1") {
                assert!(Instant::now() < deadline, "{}", cache.log());
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(300));
            cache.kill();
            let why = backup.join().unwrap();
            assert!(why.contains("closed") || why.contains("broke"), "{why}");
        });
    }
}

#[test]
fn a_capture_stops_when_it_is_asked_to() {
    let (_directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 20_000);
    cache.ask(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]);
    let component = cache.component(&[]);
    let scratch = tempfile::tempdir().unwrap();
    let cancel: Cancel = Arc::new(AtomicBool::new(false));
    let request = estate::component::CaptureRequest {
        run: RUN,
        scratch: scratch.path(),
        previous: None,
        cancel: cancel.clone(),
    };
    std::thread::scope(|scope| {
        let capture = scope.spawn(|| component.capture(&request).map(|_| ()));
        std::thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        cancel.store(true, Ordering::Relaxed);
        let stopped = capture.join().unwrap();
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
        assert!(asked.elapsed() < Duration::from_secs(5));
    });
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    // Its fork ends as well, and the next dump can begin.
    cache.ask(&["CONFIG", "SET", "rdb-key-save-delay", "0"]);
    back_up(&component, None).unwrap();
}

#[test]
fn passwords_and_rights_are_told_of_and_not_told() {
    let (_directory, cache) = made(&[("requirepass", "right-word")]);
    let _ends = Ends(cache.clone());
    cache.ask(&["-a", "right-word", "SET", "a", "1"]);
    let with = |username: Option<&str>, password: Option<&str>| {
        let options = RedisOptions {
            username: username.map(str::to_owned),
            password: password.map(str::to_owned),
            ..cache.options(&[])
        };
        Redis::new(options, Place::host())
    };
    let why = failure(back_up(&with(None, None), None));
    assert!(why.contains("NOAUTH") && why.contains("`password:`"), "{why}");
    let why = failure(back_up(&with(None, Some("wrong-word")), None));
    assert!(why.contains("WRONGPASS") && !why.contains("wrong-word"), "{why}");
    cache.ask(&["-a", "right-word", "ACL", "SETUSER", "reader", "on", ">reader-word", "+info", "+auth"]);
    let why = failure(back_up(&with(Some("reader"), Some("reader-word")), None));
    assert!(why.contains("NOPERM") && why.contains("+psync"), "{why}");
    let errors = with(None, None).preflight();
    assert!(errors.iter().any(|finding| finding.severity == Severity::Error), "{errors:?}");
    back_up(&with(None, Some("right-word")), None).unwrap();
}

/// A server that cannot write to its disk can still be dumped over the wire, and that it cannot is told.
#[test]
fn a_server_whose_own_dumps_fail_is_told_of() {
    let (_directory, cache) = made(&[("save", "3600 1")]);
    let _ends = Ends(cache.clone());
    cache.ask(&["SET", "a", "1"]);
    // Stands in the way of its dump as a full disk does.
    fs::create_dir(cache.data().join("dump.rdb")).unwrap();
    fs::write(cache.data().join("dump.rdb/x"), "").unwrap();
    cache.ask(&["BGSAVE"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !cache.ask(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err") {
        assert!(Instant::now() < deadline, "{}", cache.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let refused = cache.cli(&["SET", "b", "1"]);
    assert!(String::from_utf8_lossy(&refused.stdout).contains("MISCONF"));
    let component = cache.component(&[]);
    let stored = back_up(&component, None).unwrap();
    assert!(stored.problems.iter().any(|problem| problem.what.contains("MISCONF")), "{:?}", stored.problems);
    assert!(component.preflight().iter().any(|finding| finding.what.contains("MISCONF")));
    // One that must write its dump to its disk first cannot give it.
    cache.ask(&["CONFIG", "SET", "repl-diskless-sync", "no"]);
    let why = failure(back_up(&component, None));
    assert!(why.contains("closed"), "{why}");
}

#[test]
fn an_empty_server_is_implausible() {
    let (_directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    let component = cache.component(&[]);
    let empty = back_up(&component, None).unwrap();
    assert!(!judge(&empty.point, None, &Tolerance::default(), false).counts());
    cache.fill("agent", 1000);
    let full = back_up(&component, Some(&empty)).unwrap();
    assert!(judge(&full.point, Some(&empty.point), &Tolerance::default(), false).counts());
    for number in 1..=600 {
        cache.ask(&["DEL", &format!("agent:{number}")]);
    }
    let less = back_up(&component, Some(&full)).unwrap();
    assert!(!judge(&less.point, Some(&full.point), &Tolerance::default(), false).counts());
    cache.ask(&["FLUSHALL"]);
    let flushed = back_up(&component, Some(&full)).unwrap();
    assert!(!judge(&flushed.point, Some(&full.point), &Tolerance::default(), false).counts());
    // An empty dump that somebody accepts comes back as what it is.
    cache.kill();
    let (proof, _) = flushed.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
}

#[test]
fn a_server_that_still_loads_is_no_source() {
    let (_directory, cache) = made(&[("save", "3600 1")]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 3000);
    cache.stop();
    let slow = "key-load-delay 2000\nloading-process-events-interval-bytes 1024\n";
    fs::write(cache.config(), fs::read_to_string(cache.config()).unwrap() + slow).unwrap();
    let component = cache.component(&[]);
    std::thread::scope(|scope| {
        let start = scope.spawn(|| cache.start());
        let deadline = Instant::now() + Duration::from_secs(5);
        while !String::from_utf8_lossy(&cache.cli(&["PING"]).stdout).contains("LOADING") {
            assert!(Instant::now() < deadline, "{}", cache.log());
        }
        let why = failure(back_up(&component, None));
        assert!(why.contains("still loading"), "{why}");
        start.join().unwrap();
    });
    back_up(&component, None).unwrap();
}

/// The plan's directory is the one that a restore replaces: it must be the server's.
#[test]
fn another_directory_than_the_servers_is_refused() {
    let (directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.ask(&["SET", "a", "1"]);
    fs::create_dir(directory.path().join("other")).unwrap();
    let options = RedisOptions { data: directory.path().join("other"), ..cache.options(&[]) };
    let why = failure(back_up(&Redis::new(options, Place::host()), None));
    assert!(why.contains(&format!("works in {}", cache.data().display())), "{why}");
}

#[test]
fn facts_that_cannot_be_asked_fail_the_backup() {
    let (_directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.ask(&["SADD", "set", "a"]);
    for fact in ["SMEMBERS set", "GET set", "SET a b", "NOSUCH", "GET 'a", "-n 99 GET a"] {
        let why = failure(back_up(&cache.component(&[("wrong", fact)]), None));
        assert!(why.contains("fact wrong"), "{fact}: {why}");
    }
    // A key that is not there is an answer.
    let stored = back_up(&cache.component(&[("none", "GET nothing")]), None).unwrap();
    assert_eq!(stored.point.facts.declared["none"], estate::facts::Value::Null);
    assert_eq!(Cache::at(&cache.root).ask(&["DBSIZE"]), "1");
}
