//! The ways to a Redis server's data: in TLS, and by its own disk where it gives no dump over the wire.

use estate::check::Trust;
use estate::component::redis::Redis;
use estate::component::{Component, Identity, Proven, RedisOptions, Tls};
use place::Place;

use crate::cache::{Cache, Ends, free_port, made};
use crate::papers::Papers;
use crate::support::{RUN, back_up};

#[test]
fn a_server_that_speaks_tls_is_dumped_and_others_are_not_believed() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    let port = free_port();
    let (_directory, cache) = made(&[
        ("tls-port", &port.to_string()),
        ("tls-cert-file", &papers.text("server.pem")),
        ("tls-key-file", &papers.text("server.key")),
        ("tls-ca-cert-file", &papers.text("ca.pem")),
    ]);
    let _ends = Ends(cache.clone());
    cache.fill("agent", 3000);
    let identity = Identity { certificate: papers.path("client.pem"), key: papers.path("client.key") };
    let with = |trust: Trust, identity: Option<Identity>| {
        let tls = Some(Tls { trust, identity });
        let options = RedisOptions {
            socket: None,
            port: Some(port),
            tls,
            ..cache.options(&[("first", "STRLEN agent:1")])
        };
        Redis::new(options, Place::host())
    };
    let redis = with(Trust::CaFile(papers.path("ca.pem")), Some(identity.clone()));
    let stored = back_up(&redis, None).unwrap();
    assert_eq!(stored.point.facts.automatic["keys in db0"], estate::facts::Value::Integer(3000));

    let why = |redis: &Redis| back_up(redis, None).err().unwrap().to_string();
    let strange = with(Trust::CaFile(strangers.path("ca.pem")), Some(identity.clone()));
    assert!(why(&strange).contains("certificate"), "{}", why(&strange));
    // The server believes its own authority only, and wants to see a certificate.
    let of_strangers =
        Identity { certificate: strangers.path("client.pem"), key: strangers.path("client.key") };
    for identity in [None, Some(of_strangers)] {
        let unknown = with(Trust::CaFile(papers.path("ca.pem")), identity);
        back_up(&unknown, None).err().unwrap();
    }
    let missing = with(Trust::CaFile(papers.path("none.pem")), Some(identity));
    assert!(why(&missing).contains("none.pem"), "{}", why(&missing));
    // Without TLS it is no answer of Redis.
    let plain = RedisOptions { socket: None, port: Some(port), ..cache.options(&[]) };
    back_up(&Redis::new(plain, Place::host()), None).err().unwrap();

    cache.kill();
    let (proof, _) = stored.recover(&redis, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    cache.start();
    assert_eq!(cache.ask(&["DBSIZE"]), "3000");
}

/// Users are in a file of their own, and come back with it.
#[test]
fn the_file_of_users_is_asked_for_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path());
    let users = directory.path().join("users.acl");
    std::fs::write(&users, "user default on nopass ~* &* +@all\nuser ada on nopass ~* +get\n").unwrap();
    cache.make(&[("aclfile", users.to_str().unwrap())]);
    let _ends = Ends(cache.clone());
    cache.ask(&["SET", "a", "1"]);
    let tells = |redis: &Redis| redis.preflight().iter().any(|finding| finding.what.contains("users.acl"));
    assert!(tells(&cache.component(&[])));
    let config = vec![users.clone(), cache.config()];
    let redis = Redis::new(RedisOptions { config, ..cache.options(&[]) }, Place::host());
    assert!(!tells(&redis));
    let stored = back_up(&redis, None).unwrap();
    cache.kill();
    std::fs::remove_file(&users).unwrap();
    let (proof, _) = stored.recover(&redis, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    cache.start();
    assert!(cache.ask(&["ACL", "LIST"]).contains("user ada"));
}

fn keeper(cache: &Cache, rights: &[&str]) -> Redis {
    cache.ask(&[&["ACL", "SETUSER", "keeper", "reset", "on", ">secret-word"][..], rights].concat());
    let (username, password) = (Some("keeper".to_owned()), Some("secret-word".to_owned()));
    Redis::new(RedisOptions { username, password, ..cache.options(&[]) }, Place::host())
}

#[test]
fn a_server_that_gives_no_dump_over_the_wire_saves_one() {
    for appends in ["no", "yes"] {
        let (_directory, cache) = made(&[("appendonly", appends), ("dbfilename", "own.rdb")]);
        let _ends = Ends(cache.clone());
        let few = ["+auth", "+ping", "+info", "+config|get", "+time"];
        cache.fill("agent", 300);
        let why = back_up(&keeper(&cache, &few), None).err().unwrap().to_string();
        assert!(why.contains("NOPERM") && why.contains("+psync") && why.contains("+bgsave"), "{why}");
        let redis = keeper(&cache, &[&few[..], &["+bgsave"]].concat());
        // One that is older than the question does not count.
        cache.ask(&["CONFIG", "SET", "rdb-key-save-delay", "3000"]);
        cache.ask(&["BGSAVE"]);
        cache.fill("more", 20);
        let stored = back_up(&redis, None).unwrap();
        assert_eq!(stored.point.facts.automatic["keys in db0"], estate::facts::Value::Integer(320));
        // One that fails is no backup.
        std::fs::remove_file(cache.data().join("own.rdb")).unwrap();
        std::fs::create_dir(cache.data().join("own.rdb")).unwrap();
        std::fs::write(cache.data().join("own.rdb/x"), "").unwrap();
        let why = back_up(&redis, None).err().unwrap().to_string();
        assert!(why.contains("its own dump failed"), "{why}");
        cache.kill();
        let (proof, _) = stored.recover(&redis, RUN).unwrap();
        assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
        cache.start();
        assert_eq!(cache.ask(&["DBSIZE"]), "320");
    }
}
