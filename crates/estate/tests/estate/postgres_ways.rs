//! The ways to a PostgreSQL server: in TLS, and on connections beside the one that backs up.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use estate::check::Trust;
use estate::component::postgres::Postgres;
use estate::component::{Component, Holds, Identity, PostgresOptions, Proven, Tls};
use estate::facts::Value;
use place::Place;

use crate::cache::free_port;
use crate::cluster::{Cluster, Server, directory, give};
use crate::papers::Papers;
use crate::support::{RUN, Stored, back_up, store_with};

/// Lets the server of a cluster speak TLS at a port of its own, to users with passwords.
fn encrypt(cluster: &Cluster, papers: &Papers, root: &Path) -> u16 {
    let port = free_port();
    for name in ["server.pem", "server.key", "ca.pem"] {
        fs::copy(papers.path(name), root.join(name)).unwrap();
        give(&root.join(name));
    }
    let key = root.join("server.key");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    cluster.sql("create role keeper superuser login password 'secret-word'");
    let settings = format!(
        "port = {port}\nlisten_addresses = '127.0.0.1'\nssl = on\nssl_cert_file = '{0}/server.pem'\nssl_key_file = \
         '{0}/server.key'\nssl_ca_file = '{0}/ca.pem'\n",
        root.display()
    );
    fs::write(cluster.data().join("postgresql.auto.conf"), settings).unwrap();
    let rules = "local all all trust\nhostssl postgres keeper 127.0.0.1/32 scram-sha-256\n\
                 hostssl template1 keeper 127.0.0.1/32 password clientcert=verify-ca\n";
    fs::write(cluster.data().join("pg_hba.conf"), rules).unwrap();
    cluster.stop();
    cluster.start();
    port
}

#[test]
fn a_server_that_speaks_tls_is_backed_up_and_others_are_not_believed() {
    let (home, papers, strangers) = (directory(), Papers::new(), Papers::new());
    let cluster = Cluster::make(home.path());
    let _server = Server(cluster.clone());
    let port = encrypt(&cluster, &papers, home.path());
    let with = |tls: Option<Tls>, database: &str| {
        let options = PostgresOptions {
            host: Some("127.0.0.1".to_owned()),
            port: Some(port),
            tls,
            user: Some("keeper".to_owned()),
            password: Some("secret-word".to_owned()),
            database: database.to_owned(),
            ..cluster.options(&[("tls", "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()")])
        };
        Postgres::new(options, Place::host())
    };
    let believed = Trust::CaFile(papers.path("ca.pem"));
    let tls = |trust: &Trust, identity| Some(Tls { trust: trust.clone(), identity });
    let stored = back_up(&with(tls(&believed, None), "postgres"), None).unwrap();
    assert_eq!(stored.point.facts.declared["tls"], Value::Text("true".to_owned()));
    let identity = Identity { certificate: papers.path("client.pem"), key: papers.path("client.key") };
    back_up(&with(tls(&believed, Some(identity)), "template1"), None).unwrap();
    back_up(&with(tls(&Trust::Anyone, None), "postgres"), None).unwrap();

    let why = |postgres: &Postgres| back_up(postgres, None).err().unwrap().to_string();
    let strange = why(&with(tls(&Trust::CaFile(strangers.path("ca.pem")), None), "postgres"));
    assert!(strange.contains("no TLS with it") && strange.contains("certificate"), "{strange}");
    let without_papers = why(&with(tls(&believed, None), "template1"));
    assert!(without_papers.contains("client certificate"), "{without_papers}");
    let plain = why(&with(None, "postgres"));
    assert!(plain.contains("pg_hba.conf"), "{plain}");

    fs::write(
        cluster.data().join("postgresql.auto.conf"),
        format!("port = {port}\nlisten_addresses = '127.0.0.1'\n"),
    )
    .unwrap();
    fs::write(cluster.data().join("pg_hba.conf"), "local all all trust\nhost all all 127.0.0.1/32 trust\n")
        .unwrap();
    cluster.stop();
    cluster.start();
    let none = why(&with(tls(&believed, None), "postgres"));
    assert!(none.contains("speaks no TLS"), "{none}");
}

/// A cluster with a fact that tells the server's log each time that it is asked.
fn telling(home: &Path) -> (Server, Postgres) {
    let cluster = Cluster::make(home);
    cluster.sql(
        "create table agents(id bigint);
         insert into agents select generate_series(1, 100);
         create function told() returns bigint language plpgsql as
         $$ begin raise log 'asked for agents'; return (select count(*) from agents); end $$",
    );
    let component = cluster.component(&[("agents", "select told()")]);
    (Server(cluster), component)
}

fn asked(home: &Path) -> usize {
    // Of each time the message, not the statement that it came from.
    let log = fs::read_to_string(home.join("run/log")).unwrap();
    log.lines().filter(|line| line.contains("LOG:  asked for agents")).count()
}

/// Stores a backup during the reading of which the fact is asked, before something is done.
fn stored_after(home: &Path, component: &Postgres, then: impl FnOnce()) -> Stored {
    let request = estate::component::CaptureRequest {
        run: RUN,
        scratch: Path::new("/nowhere"),
        previous: None,
        cancel: estate::component::Cancel::default(),
    };
    let capture = component.capture(&request).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while asked(home) == 0 {
        assert!(Instant::now() < until, "nobody asks beside the reading");
        std::thread::sleep(Duration::from_millis(20));
    }
    store_with(capture, None, then).unwrap()
}

#[test]
fn facts_are_measured_once_beside_the_reading_where_nobody_writes() {
    let home = directory();
    let (_server, component) = telling(home.path());
    let stored = stored_after(home.path(), &component, || ());
    assert_eq!(asked(home.path()), 1);
    assert_eq!(stored.point.facts.declared["agents"], Value::Integer(100));
    assert!(!stored.point.details.keys().any(|name| name.starts_with("before: ")));
}

#[test]
fn facts_that_somebody_changed_since_are_measured_again() {
    let home = directory();
    let (server, component) = telling(home.path());
    let stored = stored_after(home.path(), &component, || {
        server.0.sql("delete from agents where id <= 40");
    });
    assert_eq!(asked(home.path()), 2, "once more, and nobody wrote at the end");
    assert_eq!(stored.point.facts.declared["agents"], Value::Integer(60));
    let (proof, _plan) = {
        server.0.kill();
        stored.recover(&component, RUN).unwrap()
    };
    let agents = proof.shown.iter().find(|shown| shown.what == "fact agents").unwrap();
    assert_eq!(agents.holds, Holds::Yes, "{proof:#?}");
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
}

/// A transaction that was open all the time and ends before the end changes no number of the next one.
#[test]
fn what_an_older_transaction_commits_in_between_is_noticed() {
    let home = directory();
    let (server, component) = telling(home.path());
    let mut older = std::process::Stdio::piped();
    let mut psql = server.0.psql();
    let mut child = psql.stdin(std::mem::replace(&mut older, std::process::Stdio::null())).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut say = |text: &str| std::io::Write::write_all(&mut input, text.as_bytes()).unwrap();
    say("begin; delete from agents where id <= 10;\n");
    let is_open = || {
        server.0.sql(
            "select count(*) from pg_locks where mode = 'RowExclusiveLock' and relation = 'agents'::regclass",
        )
    };
    let until = Instant::now() + Duration::from_secs(60);
    while is_open() == "0" {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(20));
    }
    let stored = stored_after(home.path(), &component, || {
        say("commit;\n\\q\n");
        assert!(child.wait().unwrap().success());
    });
    assert_eq!(stored.point.facts.declared["agents"], Value::Integer(90));
}
