//! PostgreSQL clusters: real servers under load, killed, restored beside, proven and sabotaged.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use estate::Error;
use estate::component::postgres::Postgres;
use estate::component::{
    Cancel, Capture, CaptureRequest, Component, Holds, Part, PostgresOptions, Proof, Proven,
};

use crate::cluster::{Cluster, Server, Writer, directory, program, run};
use crate::support::{RUN, Stored, back_up, store_with};

/// A running cluster with a table of 2 000 rows.
fn sample(root: &Path) -> Server {
    let cluster = Cluster::make(root);
    cluster.sql(
        "create table agents(id bigint primary key, name text);
         insert into agents select i, 'agent ' || i from generate_series(1, 2000) i",
    );
    Server(cluster)
}

const AGENTS: &[(&str, &str)] = &[("agents", "select count(*) from agents")];

fn request(scratch: &Path) -> CaptureRequest<'_> {
    CaptureRequest { run: RUN, scratch, previous: None, cancel: Cancel::default() }
}

fn begin(component: &Postgres) -> Capture {
    component.capture(&request(Path::new("/nowhere"))).unwrap()
}

/// The parts below another directory, restored there.
fn elsewhere(stored: &Stored, component: &Postgres, directory: &Path) -> Vec<Part> {
    let parts = component.parts(RUN, &stored.point);
    let parts: Vec<Part> = parts.iter().map(|part| part.moved_to(directory)).collect();
    component.prepare(&parts, &stored.point).unwrap();
    stored.restore(&parts);
    parts
}

fn prove(component: &Postgres, stored: &Stored, parts: &[Part]) -> Proof {
    component.prove(parts, &stored.point, &Cancel::default()).unwrap()
}

fn no_of(proof: &Proof) -> String {
    let no = proof.shown.iter().filter(|shown| shown.holds == Holds::No);
    no.map(|shown| format!("{}: {}", shown.what, shown.found)).collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_acknowledged_is_missing_after_a_crash_under_load() {
    let home = directory();
    let cluster = Cluster::make(home.path());
    let _server = Server(cluster.clone());
    let database =
        ["-U", "postgres", "-h", &home.path().join("run").to_string_lossy(), "postgres"].map(str::to_owned);
    run(program("pgbench").args(["-i", "-q", "-s", "2"]).args(&database).stderr(Stdio::null()));
    let mut load = program("pgbench")
        .args(["-c", "2", "-T", "600"])
        .args(&database)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let writer = Writer::begin(&cluster);
    writer.wait_for(20);
    let facts = [
        ("ledger", "select count(*) from ledger"),
        ("accounts", "select count(*) from pgbench_accounts"),
        ("history", "select count(*) from pgbench_history"),
    ];
    let component = cluster.component(&facts);
    let capture = begin(&component);
    writer.wait_for(writer.acknowledged() + 20);
    let mut before_the_end = 0;
    let stored = store_with(capture, None, || {
        writer.wait_for(writer.acknowledged() + 20);
        before_the_end = writer.acknowledged();
    })
    .unwrap();
    let after_the_end = writer.acknowledged() + 1;
    cluster.kill();
    _ = load.kill();
    _ = load.wait();
    drop(writer);
    assert_eq!(stored.problems, []);
    assert!(stored.path(cluster.data().join("backup_label")).is_file());
    assert!(!stored.path(cluster.data().join("postmaster.pid")).exists());

    let (proof, plan) = stored.recover(&component, RUN).unwrap();
    assert_ne!(proof.outcome(), Proven::Failed, "{proof:#?}");
    assert!(
        proof.shown.iter().any(|shown| shown.what == "pg_checksums" && shown.holds == Holds::Yes),
        "{proof:#?}"
    );
    cluster.start();
    let rows = cluster.sql("select count(*), max(n) from ledger");
    let (count, last) = rows.split_once('|').unwrap();
    assert_eq!(count, last, "no number is missing in between");
    let last: u64 = last.parse().unwrap();
    assert!(
        (before_the_end..=after_the_end).contains(&last),
        "{before_the_end} <= {last} <= {after_the_end}"
    );
    assert_eq!(cluster.sql("select count(*) from pgbench_accounts"), "200000");
    let sums = "select (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history), \
                (select sum(tbalance) from pgbench_tellers) = (select sum(abalance) from pgbench_accounts)";
    assert_eq!(cluster.sql(sums), "t|t");
    // A log of its own: it is never taken for the lost cluster's.
    assert_eq!(cluster.sql("select timeline_id from pg_control_checkpoint()"), "2");
    plan.commit().unwrap();
}

#[test]
fn a_capture_leaves_nothing_at_the_server() {
    let home = directory();
    let server = sample(home.path());
    let component = server.0.component(AGENTS);
    let slots = || {
        // The server needs a moment to see that the connection is gone.
        for _ in 0..200 {
            if server.0.sql("select count(*) from pg_replication_slots") == "0" {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("a slot was left");
    };
    let capture = begin(&component);
    assert_eq!(server.0.sql("select count(*) from pg_replication_slots where temporary"), "1");
    drop(capture);
    slots();
    back_up(&component, None).unwrap();
    slots();
    assert!(!server.0.data().join("backup_label").exists());
}

#[test]
fn tablespaces_come_back_and_live_ones_are_not_touched() {
    let home = directory();
    let server = sample(home.path());
    let cluster = &server.0;
    let space = home.path().join("space one");
    fs::create_dir(&space).unwrap();
    crate::cluster::give(&space);
    cluster.sql(&format!("create tablespace one location '{}'", space.display()));
    cluster.sql("create table far(n int) tablespace one; insert into far select generate_series(1, 500)");
    let component = cluster.component(&[("far", "select count(*) from far")]);
    let stored = back_up(&component, None).unwrap();
    assert_eq!(stored.point.roots, [space.clone(), cluster.data()]);
    cluster.sql("insert into far select generate_series(501, 600)");

    // Beside the running source: a drill must not reach its tablespace.
    let scratch = directory();
    let parts = elsewhere(&stored, &component, scratch.path());
    let proof = prove(&component, &stored, &parts);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert_eq!(cluster.sql("checkpoint; select count(*) from far"), "600");
    let link = fs::read_dir(parts[1].beside.join("pg_tblspc")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_link(link).unwrap(), parts[0].target);

    cluster.stop();
    for path in component.destroy() {
        fs::remove_dir_all(path).unwrap();
    }
    let (proof, plan) = stored.recover(&component, "r2").unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    plan.commit().unwrap();
    cluster.start();
    assert_eq!(cluster.sql("select count(*) from far"), "500");
}

#[test]
fn a_tablespace_that_comes_meanwhile_makes_the_backup_void() {
    let home = directory();
    let server = sample(home.path());
    let space = home.path().join("new");
    fs::create_dir(&space).unwrap();
    crate::cluster::give(&space);
    let stored = store_with(begin(&server.0.component(AGENTS)), None, || {
        _ = server.0.sql(&format!("create tablespace new location '{}'", space.display()));
    });
    let error = stored.err().unwrap();
    assert!(error.to_string().contains("a tablespace was made or dropped"), "{error}");
}

#[test]
fn a_tablespace_that_came_and_went_is_not_replayed_at_its_own_path() {
    let home = directory();
    let server = sample(home.path());
    let space = home.path().join("short");
    fs::create_dir(&space).unwrap();
    crate::cluster::give(&space);
    let component = server.0.component(AGENTS);
    let stored = store_with(begin(&component), None, || {
        server.0.sql(&format!("create tablespace short location '{}'", space.display()));
        server.0.sql("drop tablespace short");
    })
    .unwrap();
    let scratch = directory();
    let parts = elsewhere(&stored, &component, scratch.path());
    let proof = prove(&component, &stored, &parts);
    assert!(no_of(&proof).contains("tablespaces made in the log"), "{proof:#?}");
    assert_eq!(fs::read_dir(&space).unwrap().count(), 0);
}

#[test]
fn a_server_that_is_killed_meanwhile_makes_the_backup_void() {
    let home = directory();
    let server = sample(home.path());
    let component = server.0.component(AGENTS);
    let stored = store_with(begin(&component), None, || server.0.kill());
    assert!(matches!(stored.err().unwrap(), Error::Query { .. } | Error::Server { .. }));
    // Also when it is up again by then.
    server.0.start();
    let stored = store_with(begin(&component), None, || {
        server.0.kill();
        server.0.start();
    });
    assert!(matches!(stored.err().unwrap(), Error::Query { .. } | Error::Server { .. }));
    back_up(&component, None).unwrap();
}

#[test]
fn a_segment_that_is_missing_or_strange_makes_the_backup_void() {
    let home = directory();
    let server = sample(home.path());
    let component = server.0.component(AGENTS);
    let log = server.0.data().join("pg_wal");
    type Sabotage = fn(&Path);
    let sabotages: [(Sabotage, &str); 3] = [
        (|path| fs::rename(path, path.with_extension("away")).unwrap(), "is missing"),
        (|path| fs::File::options().write(true).open(path).unwrap().set_len(4096).unwrap(), "4096 bytes"),
        (
            |path| fs::File::options().write(true).open(path).unwrap().write_all_at(&[9; 8], 24).unwrap(),
            "of the cluster",
        ),
    ];
    for (sabotage, told) in sabotages {
        let name = std::cell::RefCell::new(String::new());
        let stored = store_with(begin(&component), None, || {
            let now = server.0.sql("select pg_walfile_name(pg_current_wal_lsn())");
            // So that it is not the one that the server is writing.
            server
                .0
                .sql("create table if not exists t(n int); insert into t values(1); select pg_switch_wal()");
            sabotage(&log.join(&now));
            *name.borrow_mut() = now;
        });
        let error = stored.err().unwrap().to_string();
        assert!(error.contains(told) && error.contains(&*name.borrow()), "{error}");
        _ = fs::rename(log.join(&*name.borrow()).with_extension("away"), log.join(&*name.borrow()));
    }
}

#[test]
fn a_log_that_is_not_whole_is_not_proven() {
    let home = directory();
    let server = sample(home.path());
    let component = server.0.component(AGENTS);
    let stored = store_with(begin(&component), None, || {
        for _ in 0..3 {
            server.0.sql("insert into agents select max(id) + 1, 'late' from agents; select pg_switch_wal()");
        }
    })
    .unwrap();
    type Sabotage = fn(&Path);
    let sabotages: [Sabotage; 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::File::options().write(true).open(path).unwrap().write_all_at(&[0; 8192], 0).unwrap(),
        |path| fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap(),
    ];
    for sabotage in sabotages {
        let scratch = directory();
        let parts = elsewhere(&stored, &component, scratch.path());
        let mut segments: Vec<PathBuf> = fs::read_dir(parts[0].beside.join("pg_wal"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        segments.retain(|path| path.is_file());
        segments.sort();
        assert!(segments.len() >= 3, "{segments:?}");
        sabotage(&segments[1]);
        let proof = prove(&component, &stored, &parts);
        assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
    }
}

#[test]
fn a_damaged_page_is_told_and_never_proven() {
    let home = directory();
    let server = sample(home.path());
    let cluster = &server.0;
    let file = cluster.file_of("agents");
    cluster.stop();
    crate::support::scribble(&file, 8192 * 3 + 4000);
    cluster.start();
    let component = cluster.component(&[("one", "select 1")]);
    let stored = back_up(&component, None).unwrap();
    let [problem] = &stored.problems[..] else { panic!("{:?}", stored.problems) };
    assert_eq!(problem.path, file);
    assert!(
        problem.what.contains("page 3 has a wrong checksum") && problem.what.contains("written at 0/"),
        "{problem:?}"
    );
    let scratch = directory();
    let parts = elsewhere(&stored, &component, scratch.path());
    let proof = prove(&component, &stored, &parts);
    assert!(no_of(&proof).contains("pg_checksums"), "{proof:#?}");
}

#[test]
fn a_data_directory_of_another_cluster_is_refused() {
    let (home, other) = (directory(), directory());
    let server = sample(home.path());
    let another = Server(Cluster::make_another(other.path()));
    let stored = back_up(&server.0.component(AGENTS), None).unwrap();

    // The server of one, the files of the other.
    let options = PostgresOptions { socket: Some(home.path().join("run")), ..another.0.options(&[]) };
    let crossed = Postgres::new(options, place::Place::host());
    let failed = back_up(&crossed, None).err().unwrap();
    assert!(matches!(failed, Error::OtherIdentity { .. }), "{failed}");

    // And never over the other.
    another.0.stop();
    let component = another.0.component(AGENTS);
    let parts = component.parts(RUN, &stored.point);
    let failed = component.prepare(&parts, &stored.point).unwrap_err();
    assert!(matches!(failed, Error::OtherIdentity { .. }), "{failed}");
}

#[test]
fn a_running_server_is_not_replaced() {
    let home = directory();
    let server = sample(home.path());
    let component = server.0.component(AGENTS);
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts(RUN, &stored.point);
    let failed = component.prepare(&parts, &stored.point).unwrap_err();
    assert!(matches!(&failed, Error::InUse { holders, .. } if holders.len() == 1), "{failed}");
    // Nor when its file of process and socket is gone.
    let pid_file = server.0.data().join("postmaster.pid");
    let kept = fs::read(&pid_file).unwrap();
    fs::remove_file(&pid_file).unwrap();
    assert!(matches!(component.prepare(&parts, &stored.point), Err(Error::InUse { .. })));
    fs::write(&pid_file, kept).unwrap();
    crate::cluster::give(&pid_file);
    server.0.stop();
    component.prepare(&parts, &stored.point).unwrap();
}

#[test]
fn what_recovery_makes_anew_is_not_in_the_backup() {
    let home = directory();
    let server = sample(home.path());
    let cluster = &server.0;
    cluster.sql("create unlogged table quick(n int); insert into quick select generate_series(1, 1000)");
    let quick = cluster.file_of("quick");
    let component = cluster.component(&[("quick", "select count(*) from agents")]);
    let stored = back_up(&component, None).unwrap();
    assert!(quick.exists() && !stored.path(&quick).exists());
    let mut empty_form = quick.into_os_string();
    empty_form.push("_init");
    assert!(stored.path(PathBuf::from(empty_form)).exists());
    for kept in
        ["pg_notify", "pg_replslot", "pg_subtrans", "pg_stat_tmp", "pg_dynshmem", "pg_serial", "pg_snapshots"]
    {
        let directory = stored.path(cluster.data().join(kept));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{kept}");
    }
    let (proof, _) = {
        cluster.stop();
        stored.recover(&component, RUN).unwrap()
    };
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    cluster.start();
    assert_eq!(cluster.sql("select count(*) from quick"), "0");
}

#[test]
fn a_fact_is_one_query_that_reads() {
    let home = directory();
    let server = sample(home.path());
    for (query, told) in [
        ("delete from agents returning 1", "read-only"),
        ("select 1; commit; drop table agents", "multiple commands"),
        ("select 1, 2", "2 columns"),
        ("select id from agents", "more than one"),
        ("select nonsense", "nonsense"),
    ] {
        let failed = back_up(&server.0.component(&[("f", query)]), None).err().unwrap();
        assert!(matches!(&failed, Error::Query { .. }) && failed.to_string().contains(told), "{failed}");
    }
    let slow = PostgresOptions {
        query_timeout: std::time::Duration::from_millis(200),
        ..server.0.options(&[("slow", "select count(pg_sleep(60))")])
    };
    let failed = back_up(&Postgres::new(slow, place::Place::host()), None).err().unwrap();
    assert!(failed.to_string().contains("too long"), "{failed}");
    assert_eq!(server.0.sql("select count(*) from agents"), "2000");
}

#[test]
fn passwords_are_used_and_not_shown() {
    let home = directory();
    let server = sample(home.path());
    let cluster = &server.0;
    cluster.sql("create role keeper login superuser password 'open sesame'");
    let access = cluster.data().join("pg_hba.conf");
    let open = fs::read_to_string(&access).unwrap();
    fs::write(&access, format!("local all keeper scram-sha-256\n{open}")).unwrap();
    cluster.sql("select pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let with = |password: Option<&str>| {
        let options = PostgresOptions {
            user: Some("keeper".to_owned()),
            password: password.map(str::to_owned),
            ..cluster.options(AGENTS)
        };
        assert!(!format!("{options:?}").contains("sesame"));
        back_up(&Postgres::new(options, place::Place::host()), None)
    };
    with(Some("open sesame")).unwrap();
    let failed = with(Some("open barley")).err().unwrap().to_string();
    assert!(failed.contains("password authentication failed") && !failed.contains("barley"), "{failed}");
    let failed = with(None).err().unwrap().to_string();
    assert!(failed.contains("password:"), "{failed}");
}

#[test]
fn indexes_are_checked_where_amcheck_is_installed() {
    let home = directory();
    let server = sample(home.path());
    server.0.sql("create extension amcheck");
    let component = server.0.component(AGENTS);
    let stored = back_up(&component, None).unwrap();
    let scratch = directory();
    let parts = elsewhere(&stored, &component, scratch.path());
    let proof = prove(&component, &stored, &parts);
    assert!(
        proof.shown.iter().any(|shown| shown.what == "amcheck" && shown.holds == Holds::Yes),
        "{proof:#?}"
    );
}

#[test]
fn settings_of_the_source_do_not_reach_the_proof() {
    let home = directory();
    let server = sample(home.path());
    let cluster = &server.0;
    let marker = home.path().join("archived");
    for setting in [
        "archive_mode = 'on'".to_owned(),
        format!("archive_command = 'touch {}'", marker.display()),
        "max_connections = 150".to_owned(),
        "max_prepared_transactions = 10".to_owned(),
    ] {
        cluster.sql(&format!("alter system set {setting}"));
    }
    cluster.stop();
    cluster.start();
    cluster.sql("begin; insert into agents values(5000, 'prepared'); prepare transaction 'p'");
    let component = cluster.component(AGENTS);
    let stored = back_up(&component, None).unwrap();
    cluster.stop();
    _ = fs::remove_file(&marker);
    let scratch = directory();
    let parts = elsewhere(&stored, &component, scratch.path());
    let proof = prove(&component, &stored, &parts);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert!(!marker.exists(), "a proof archives nothing");
    let names: Vec<_> =
        fs::read_dir(&parts[0].beside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "lifeboat-proof" || name == "postmaster.pid"), "{names:?}");
}
