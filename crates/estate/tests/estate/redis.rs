//! Redis servers under load: what is in a dump, where it is put, and what is asked of whom.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use estate::Error;
use estate::component::redis::{Redis, SETTINGS};
use estate::component::{Cancel, Component, Proven, RedisOptions, Severity};
use estate::facts::Value;
use place::Place;

use crate::cache::{Cache, Ends, dump_in, free_port, made};
use crate::support::{RUN, back_up};

fn automatic(facts: &[(&str, i64)]) -> BTreeMap<String, Value> {
    facts.iter().map(|(name, count)| ((*name).to_owned(), Value::Integer(*count))).collect()
}

/// What Redis can hold, in every way in which it writes it.
fn every_kind(cache: &Cache) {
    let big = "for i = 1, 2000 do redis.call(ARGV[1], KEYS[1], unpack((function(i) \
               if ARGV[1] == 'HSET' then return {'field' .. i, string.rep('v', 100)} \
               elseif ARGV[1] == 'ZADD' then return {i * 1.5, 'member' .. i} \
               elseif ARGV[1] == 'XADD' then return {'*', 'field', 'value' .. i} \
               else return {string.rep('e', 100) .. i} end end)(i))) end";
    for (command, key) in
        [("HSET", "hash"), ("ZADD", "sorted"), ("XADD", "stream"), ("RPUSH", "list"), ("SADD", "set")]
    {
        cache.ask(&["EVAL", big, "1", key, command]);
    }
    for words in [
        &["SET", "text", "abc"][..],
        &["SET", "number", "12345678901"],
        &["SET", "small", "-5"],
        &["SET", "packed", &"compressible ".repeat(500)],
        &["SETRANGE", "long", "200000", "x"],
        &["SET", "dies", "soon", "EX", "1000"],
        &["HSET", "little-hash", "a", "b"],
        &["ZADD", "little-sorted", "1", "a", "inf", "b", "-inf", "c"],
        &["SADD", "numbers", "1", "2", "3"],
        &["SADD", "little-set", "a", "b"],
        &["RPUSH", "little-list", "a", "b"],
        &["XGROUP", "CREATE", "stream", "group", "0"],
        &["XREADGROUP", "GROUP", "group", "reader", "COUNT", "5", "STREAMS", "stream", ">"],
        &["PFADD", "distinct", "a", "b", "c"],
        &["GEOADD", "places", "13.4", "52.5", "Berlin"],
        &["-n", "3", "SET", "elsewhere", "1"],
        &["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 1 end)"],
    ] {
        cache.ask(words);
    }
}

#[test]
fn every_kind_of_value_is_counted_and_comes_back() {
    for policy in ["noeviction", "allkeys-lfu", "allkeys-lru"] {
        // The frequency or the age of each key is then written before it.
        let (_directory, cache) = made(&[("maxmemory-policy", policy), ("maxmemory", "500mb")]);
        let _ends = Ends(cache.clone());
        every_kind(&cache);
        let facts = [("hash", "HLEN hash"), ("stream", "XLEN stream"), ("best", "ZSCORE sorted member2000")];
        let component = cache.component(&facts);
        let stored = back_up(&component, None).unwrap();
        let count: i64 = cache.ask(&["DBSIZE"]).parse().unwrap();
        assert_eq!(stored.point.facts.automatic, automatic(&[("keys in db0", count), ("keys in db3", 1)]));
        let declared = &stored.point.facts.declared;
        assert_eq!(declared["hash"], Value::Integer(2000));
        assert_eq!(declared["best"], Value::Integer(3000));
        assert_eq!(stored.problems, []);
        cache.kill();
        let (proof, _) = stored.recover(&component, RUN).unwrap();
        assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
        cache.start();
        assert_eq!(cache.ask(&["DBSIZE"]), count.to_string());
        assert_eq!(cache.ask(&["XPENDING", "stream", "group"]).lines().next(), Some("5"));
        assert_eq!(cache.ask(&["FCALL", "f", "0"]), "1");
    }
}

/// What was acknowledged before the capture began is in it, and it is of one moment: two counters that are always raised
/// together are equal.
#[test]
fn a_dump_under_writers_is_of_one_moment() {
    let (_directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.fill("ballast", 20_000);
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let script =
                    "redis.call('INCR', 'one') redis.call('INCR', 'two') return redis.call('INCR', 'three')";
                let count = cache.ask(&["EVAL", script, "0"]);
                acknowledged.store(count.parse().unwrap(), Ordering::SeqCst);
            }
        });
        let component = cache.component(&[("one", "GET one"), ("two", "GET two"), ("three", "GET three")]);
        while acknowledged.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        for _ in 0..5 {
            let (before, at_least) = (jiff::Timestamp::now(), acknowledged.load(Ordering::SeqCst));
            let stored = back_up(&component, None).unwrap();
            let declared = &stored.point.facts.declared;
            assert_eq!(declared["one"], declared["two"]);
            assert_eq!(declared["one"], declared["three"]);
            let Value::Integer(count) = declared["one"] else { panic!("{declared:?}") };
            assert!(u64::try_from(count).unwrap() >= at_least);
            assert!(stored.point.instant >= before && stored.point.instant <= jiff::Timestamp::now());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A server with `appendonly yes` does not look at a dump. What is restored must be what it loads, and must survive its
/// next stop.
#[test]
fn a_server_that_appends_finds_what_was_restored() {
    let (_directory, cache) = made(&[("appendonly", "yes"), ("save", "3600 1")]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 500);
    let component = cache.component(&[]);
    let stored = back_up(&component, None).unwrap();
    cache.ask(&["FLUSHALL"]);
    cache.stop();
    stored.recover(&component, RUN).unwrap();
    assert!(!cache.data().join("dump.rdb").exists());
    for _ in 0..2 {
        cache.start();
        assert_eq!(cache.ask(&["DBSIZE"]), "500");
        cache.stop();
    }
    // It goes on appending.
    cache.start();
    cache.ask(&["SET", "later", "1"]);
    cache.kill();
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "501");
    back_up(&component, Some(&stored)).unwrap();
}

/// Before version 7 there is one append-only file, which may begin with a dump: that is what is put there. A server of
/// version 7 takes such a file over when it finds one, which shows that it is good.
#[test]
fn an_old_server_that_appends_finds_what_was_restored() {
    let (_directory, cache) = made(&[("appendonly", "yes")]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 50);
    let component = cache.component(&[]);
    let mut stored = back_up(&component, None).unwrap();
    // As a server of version 6 would have been recorded.
    let single = stored.path(cache.data().join("appendonly.aof"));
    fs::rename(dump_in(&stored.path(cache.data())), &single).unwrap();
    fs::remove_dir_all(stored.path(cache.data().join("appendonlydir"))).unwrap();
    stored.point.details.insert("layout".to_owned(), r#"{"single":"appendonly.aof"}"#.to_owned());
    let digest = stored.point.details.remove("file_sha256:appendonlydir/appendonly.aof.1.base.rdb").unwrap();
    stored.point.details.insert("file_sha256:appendonly.aof".to_owned(), digest);
    cache.stop();
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert!(cache.data().join("appendonly.aof").is_file() && !cache.data().join("appendonlydir").exists());
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "50");
}

/// Keys whose time is up by the time of the proof were there when the dump was made.
#[test]
fn what_expires_before_the_proof_is_no_loss() {
    let (_directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 100);
    for number in 0..50 {
        cache.ask(&["SET", &format!("session:{number}"), "x", "PX", "1500"]);
    }
    let component = cache.component(&[("agents", "GET agent:1")]);
    let stored = back_up(&component, None).unwrap();
    let Value::Integer(count) = stored.point.facts.automatic["keys in db0"] else { panic!() };
    assert!(count > 100, "{count}");
    std::thread::sleep(Duration::from_millis(1600));
    cache.kill();
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "100");
}

/// Over TCP, with a user of its own and nothing of the server's disk.
#[test]
fn a_server_elsewhere_is_dumped_by_its_port_and_a_user_of_few_rights() {
    let port = free_port();
    let (_directory, cache) = made(&[("port", &port.to_string())]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 200);
    let rights = ["+auth", "+ping", "+info", "+replconf", "+psync"];
    cache.ask(&[&["ACL", "SETUSER", "keeper", "on", ">secret-word"][..], &rights].concat());
    let home = tempfile::tempdir().unwrap();
    let options = RedisOptions {
        // Not a name that means this machine.
        host: Some("127.0.0.2".to_owned()),
        port: Some(port),
        username: Some("keeper".to_owned()),
        password: Some("secret-word".to_owned()),
        ..RedisOptions::of(home.path().join("redis"))
    };
    cache.ask(&["CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2"]);
    let component = Redis::new(options, Place::host());
    // It may not ask for the settings, which is told.
    let findings = component.preflight();
    assert!(findings.iter().all(|finding| finding.severity == Severity::Warning), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.what.contains("CONFIG GET")), "{findings:?}");
    let stored = back_up(&component, None).unwrap();
    assert!(!stored.path(SETTINGS).exists());
    // It is restored where somebody has made the directory for the server's user.
    fs::create_dir(home.path().join("redis")).unwrap();
    fs::set_permissions(home.path().join("redis"), fs::Permissions::from_mode(0o751)).unwrap();
    let user = if rustix::process::geteuid().is_root() { 1234 } else { rustix::process::geteuid().as_raw() };
    chown(home.path().join("redis"), Some(user), None).unwrap();
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    let restored = fs::metadata(home.path().join("redis")).unwrap();
    assert_eq!((restored.uid(), restored.mode() & 0o777), (user, 0o751));
    assert_eq!(fs::metadata(home.path().join("redis/dump.rdb")).unwrap().uid(), user);
    assert_eq!(proof.shown.iter().filter(|shown| shown.what.starts_with("keys in db0")).count(), 2);
    // The dump itself says nothing of it.
    let known = format!("{component:?} {proof:?} {:?}", stored.point);
    assert!(!known.contains("secret-word"));
}

/// The owner, the mode, the configuration and the users come back; secrets do not go into the list of settings.
#[test]
fn configuration_and_owners_come_back() {
    let (directory, cache) = made(&[("requirepass", "hunter2-word"), ("masterauth", "hunter3-word")]);
    let _ends = Ends(cache.clone());
    let users = directory.path().join("users.acl");
    fs::write(&users, "user default on nopass ~* +@all\n").unwrap();
    let options = RedisOptions {
        config: vec![cache.config(), users.clone()],
        password: Some("hunter2-word".to_owned()),
        ..cache.options(&[])
    };
    let component = Redis::new(options, Place::host());
    fs::set_permissions(cache.data(), fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o640)).unwrap();
    cache.ask(&["-a", "hunter2-word", "SET", "a", "1"]);
    let stored = back_up(&component, None).unwrap();
    let settings = fs::read_to_string(stored.path(SETTINGS)).unwrap();
    assert!(settings.contains("maxmemory-policy \"noeviction\"\n"), "{settings}");
    assert!(!settings.contains("hunter"), "{settings}");
    cache.kill();
    let written = fs::read(cache.config()).unwrap();
    for path in component.destroy() {
        estate::swap::remove(&path).unwrap();
    }
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert_eq!(fs::read(cache.config()).unwrap(), written);
    assert_eq!(fs::metadata(&users).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::metadata(cache.data()).unwrap().mode() & 0o777, 0o750);
    cache.start();
    assert_eq!(cache.ask(&["-a", "hunter2-word", "GET", "a"]), "1");
}

/// A member of a cluster keeps who it is in a file of its own.
#[test]
fn a_member_of_a_cluster_comes_back_as_itself() {
    let port = free_port();
    let bus = free_port().to_string();
    let (_directory, cache) =
        made(&[("cluster-enabled", "yes"), ("port", &port.to_string()), ("cluster-port", &bus)]);
    let _ends = Ends(cache.clone());
    cache.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let myself = cache.ask(&["CLUSTER", "MYID"]);
    let component = cache.component(&[]);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !cache.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    cache.ask(&["SET", "a", "1"]);
    assert!(component.preflight().iter().any(|finding| finding.what.contains("cluster")));
    let stored = back_up(&component, None).unwrap();
    cache.kill();
    fs::remove_dir_all(cache.data()).unwrap();
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    cache.start();
    assert_eq!(cache.ask(&["CLUSTER", "MYID"]), myself);
}

/// A replica that follows its master is as good a source as the master.
#[test]
fn a_replica_can_be_dumped_as_long_as_it_follows() {
    let port = free_port();
    let (_one, master) = made(&[("port", &port.to_string())]);
    let _ends = Ends(master.clone());
    master.fill("agent", 100);
    let (_two, replica) = made(&[("replicaof", &format!("127.0.0.1 {port}"))]);
    let _end = Ends(replica.clone());
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !replica.ask(&["INFO", "replication"]).contains("master_link_status:up") {
        assert!(std::time::Instant::now() < deadline, "{}", replica.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let component = replica.component(&[]);
    let stored = back_up(&component, None).unwrap();
    assert_eq!(stored.point.facts.automatic, automatic(&[("keys in db0", 100)]));
    master.kill();
    while !replica.ask(&["INFO", "replication"]).contains("master_link_status:down") {
        assert!(std::time::Instant::now() < deadline, "{}", replica.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = back_up(&component, None).err().unwrap().to_string();
    assert!(refused.contains("lost its master"), "{refused}");
}

/// Nobody may work in the directory that is replaced, and a shell there is nobody.
#[test]
fn a_running_server_is_not_replaced() {
    let (_directory, cache) = made(&[]);
    let _ends = Ends(cache.clone());
    cache.ask(&["SET", "a", "1"]);
    let component = cache.component(&[]);
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts(RUN, &stored.point);
    let refused = component.prepare(&parts, &stored.point).unwrap_err();
    assert!(
        matches!(&refused, Error::InUse { holders, .. } if holders[0].pid == cache.pid().unwrap()),
        "{refused}"
    );
    cache.stop();
    let mut shell = std::process::Command::new("sleep").arg("60").current_dir(cache.data()).spawn().unwrap();
    component.prepare(&parts, &stored.point).unwrap();
    shell.kill().unwrap();
    shell.wait().unwrap();
}

/// Nothing of a private server stays, neither its process nor its files.
#[test]
fn a_proof_leaves_nothing() {
    let (_directory, cache) = made(&[("appendonly", "yes")]);
    let _ends = Ends(cache.clone());
    cache.ask(&["SET", "a", "1"]);
    let component = cache.component(&[("a", "GET a")]);
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts(RUN, &stored.point);
    stored.restore(&parts);
    let beside = &parts.last().unwrap().beside;
    let listing = |path: &Path| {
        let found =
            std::process::Command::new("find").arg(path).args(["-printf", "%P %s %T@\n"]).output().unwrap();
        let mut lines: Vec<String> =
            String::from_utf8(found.stdout).unwrap().lines().skip(1).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // What an attempt that was killed has left is in nobody's way.
    fs::create_dir(beside.join("lifeboat-proof")).unwrap();
    fs::write(beside.join("lifeboat-proof/socket"), "x").unwrap();
    let mut left = std::process::Command::new("sleep")
        .arg("60")
        .current_dir(beside.join("lifeboat-proof"))
        .spawn()
        .unwrap();
    let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    let names = |lines: Vec<String>| {
        lines.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let once = listing(beside);
    assert_eq!(
        names(once.clone()),
        ["appendonlydir", "appendonlydir/appendonly.aof.1.base.rdb", "appendonlydir/appendonly.aof.manifest"]
    );
    let again = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(again, proof);
    assert_eq!(listing(beside), once);
    _ = left.kill();
    _ = left.wait();
    let stopped: Arc<AtomicBool> = Arc::new(AtomicBool::new(true));
    assert!(matches!(component.prove(&parts, &stored.point, &stopped), Err(Error::Interrupted)));
    assert_eq!(listing(beside), once);
}
