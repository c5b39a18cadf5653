//! What is no database, what is in somebody's hands, and what a proof must notice.

use std::fs;
use std::time::Duration;

use estate::Error;
use estate::component::sqlite::Sqlite;
use estate::component::{Cancel, CaptureRequest, Component, Holds, Proven, SqliteOptions};

use crate::sqlite::Database;
use crate::support::{RUN, Shell, Stored, age, back_up, sqlite3};

const SMALL: &str = "create table agents(id integer primary key, name text);
    insert into agents values(1, 'one'), (2, 'two'), (3, 'three');";

fn refused(database: &Database) -> String {
    let component =
        Sqlite::new(SqliteOptions { busy_timeout: Duration::from_millis(200), ..database.options() });
    let error = back_up(&component, None).err().expect("this must not be backed up");
    assert!(error.to_string().contains("app.db"), "{error}");
    error.to_string()
}

#[test]
fn what_is_no_database_is_refused() {
    let database = Database::new(SMALL);
    fs::remove_file(&database.path).unwrap();
    assert!(refused(&database).contains("is missing"));
    assert!(database.component().preflight()[0].what.contains("is missing"));
    assert!(!database.path.exists(), "it is not made by looking for it");

    fs::write(&database.path, "").unwrap();
    assert!(refused(&database).contains("0 bytes"));

    fs::write(&database.path, "id,name\n1,one\n".repeat(1000)).unwrap();
    assert!(refused(&database).contains("not a SQLite database, or is encrypted"));
    assert!(database.component().state().unwrap().damage.unwrap().contains("not a SQLite database"));

    // SQLCipher and its like: nothing but noise.
    let noise: Vec<u8> =
        (0..64_u64 << 10).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    fs::write(&database.path, noise).unwrap();
    assert!(refused(&database).contains("`command` component"));

    fs::remove_file(&database.path).unwrap();
    fs::create_dir(&database.path).unwrap();
    assert!(refused(&database).contains("not a regular file"));
}

#[test]
fn a_damaged_schema_is_refused() {
    let database = Database::new(SMALL);
    crate::support::scribble(&database.path, 100);
    assert!(refused(&database).contains("is damaged"));
}

#[test]
fn a_locked_database_names_its_holder() {
    let database = Database::new(SMALL);
    let mut shell = Shell::open(&database.path);
    shell.run("begin exclusive;");
    let said = refused(&database);
    let holder = format!("sqlite3 (process {})", shell.pid());
    assert!(said.contains("is in use by") && said.contains(&holder), "{said}");
    // Waiting helps when the lock goes in time.
    let waiting = std::thread::spawn({
        let component = Sqlite::new(database.options());
        move || back_up(&component, None).map(drop)
    });
    std::thread::sleep(Duration::from_millis(300));
    shell.run("commit;");
    waiting.join().unwrap().unwrap();
}

/// An idle application holds no lock and would go on writing into the file that was moved away.
#[test]
fn a_target_in_use_is_refused() {
    for journal in ["wal", "delete"] {
        let database = Database::new(&format!("pragma journal_mode={journal}; {SMALL}"));
        let component = database.component();
        let stored = back_up(&component, None).unwrap();
        let mut shell = Shell::open(&database.path);
        shell.run("select count(*) from agents;");
        let parts = component.parts(RUN, &stored.point);
        let error = component.prepare(&parts, &stored.point).unwrap_err();
        let Error::InUse { holders, .. } = &error else { panic!("{error}") };
        assert_eq!(
            holders.iter().map(|holder| (holder.pid, &*holder.name)).collect::<Vec<_>>(),
            [(shell.pid(), "sqlite3")]
        );
        assert!(error.to_string().contains("stop the service"), "{error}");
        drop(shell);
        component.prepare(&parts, &stored.point).unwrap();
    }
}

#[test]
fn somebody_elses_database_is_not_replaced() {
    let database = Database::new(SMALL);
    let component = database.component();
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts(RUN, &stored.point);
    let place = |script: &str| {
        fs::remove_file(&database.path).unwrap();
        sqlite3(&database.path, script);
        component.prepare(&parts, &stored.point)
    };
    let error = place("create table invoices(x);").unwrap_err();
    assert!(matches!(&error, Error::OtherIdentity { .. }), "{error}");
    assert!(error.to_string().contains("invoices") && error.to_string().contains("agents"), "{error}");
    let error = place("create table agents(x); pragma application_id=77;").unwrap_err();
    assert!(matches!(error, Error::OtherIdentity { .. }));
    // The same application at another stage, an empty new one, and a wreck may all be replaced.
    place("create table agents(x); create table more(x);").unwrap();
    place("pragma user_version=1; create table t(x); drop table t").unwrap();
    fs::write(&database.path, "a wreck").unwrap();
    component.prepare(&parts, &stored.point).unwrap();
    // What cannot be swapped is told before anything is fetched.
    fs::remove_file(&database.path).unwrap();
    fs::create_dir(&database.path).unwrap();
    assert!(matches!(component.prepare(&parts, &stored.point), Err(Error::BadTarget { .. })));
    fs::remove_dir(&database.path).unwrap();
    std::os::unix::fs::symlink("elsewhere.db", &database.path).unwrap();
    let error = component.prepare(&parts, &stored.point).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    // A lost directory is made.
    let lost = Sqlite::new(SqliteOptions::of(database.directory.path().join("new/dir/app.db")));
    let parts = lost.parts(RUN, &stored.point);
    lost.prepare(&parts, &stored.point).unwrap();
    assert!(database.directory.path().join("new/dir").is_dir());
}

/// A stale log next to a restored database would be applied to it.
#[test]
fn stale_companions_do_not_survive_a_restore() {
    let database = Database::new(&format!("pragma journal_mode=wal; {SMALL}"));
    let component = database.component();
    let stored = back_up(&component, None).unwrap();
    let mut shell = Shell::open(&database.path);
    shell.run("pragma wal_autocheckpoint=0; delete from agents;");
    shell.kill();
    let (proof, plan) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven);
    assert!(!database.directory.path().join("app.db-wal").exists());
    assert_eq!(sqlite3(&database.path, "select count(*) from agents"), "3");
    // What was there is kept with its log, and can be opened as it was.
    let kept = database.directory.path().join("app.db.before-r1");
    assert_eq!(sqlite3(&kept, "select count(*) from agents"), "0");
    // The restored database has run and has a log of its own when it is rolled back.
    let mut shell = Shell::open(&database.path);
    shell.run("pragma wal_autocheckpoint=0; insert into agents values(9, 'nine');");
    shell.kill();
    plan.rollback(&mut |_, _| Ok(())).unwrap();
    assert_eq!(sqlite3(&database.path, "select count(*) from agents"), "0");
    let undone = database.directory.path().join("app.db.undone-r1");
    assert_eq!(sqlite3(&undone, "select count(*) from agents"), "4");
}

fn prove(component: &dyn Component, stored: &Stored, script: &str) -> estate::component::Proof {
    let parts = component.parts(RUN, &stored.point);
    estate::swap::remove(&parts[0].beside).unwrap();
    stored.restore(&parts);
    if !script.is_empty() {
        sqlite3(&parts[0].beside, script);
    }
    component.prove(&parts, &stored.point, &Cancel::default()).unwrap()
}

fn failing(proof: &estate::component::Proof) -> Vec<&str> {
    proof.shown.iter().filter(|shown| shown.holds == Holds::No).map(|shown| &*shown.what).collect()
}

#[test]
fn a_proof_notices_what_sqlite_would_not() {
    let database = Database::new(SMALL);
    let component = database.with_facts(&[("third", "select name from agents where id = 3")]);
    let stored = back_up(&component, None).unwrap();
    assert_eq!(prove(&component, &stored, "").outcome(), Proven::Proven);
    // It opens, and it is whole, and it has fewer rows.
    let proof = prove(&component, &stored, "delete from agents where id = 1");
    assert_eq!(failing(&proof), ["rows in agents"]);
    let proof = prove(&component, &stored, "update agents set name = 'drei' where id = 3");
    assert_eq!(failing(&proof), ["fact third"]);
    let proof = prove(&component, &stored, "drop table agents; vacuum");
    assert!(failing(&proof).contains(&"rows in agents"), "{proof:#?}");
    let proof = prove(&component, &stored, "create index i on agents(name)");
    assert!(failing(&proof).contains(&"schema"), "{proof:#?}");
    // Cut short, overwritten with another file, emptied.
    for (damage, at_least) in [
        ("truncate -s 4096", "integrity_check"),
        ("cp /etc/passwd", "integrity_check"),
        ("truncate -s 0", "size in bytes"),
    ] {
        let parts = component.parts(RUN, &stored.point);
        estate::swap::remove(&parts[0].beside).unwrap();
        stored.restore(&parts);
        let line = format!("{damage} {}", parts[0].beside.display());
        assert!(std::process::Command::new("sh").args(["-c", &line]).status().unwrap().success());
        let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
        assert_eq!(proof.outcome(), Proven::Failed, "{damage}: {proof:#?}");
        assert!(failing(&proof).contains(&at_least), "{damage}: {proof:#?}");
    }
}

#[test]
fn what_cannot_be_evaluated_is_not_proven() {
    let database = Database::new(SMALL);
    let component = database.with_facts(&[("agents", "select count(*) from agents")]);
    let stored = back_up(&component, None).unwrap();
    // A fact that the plan has by now and the point has not.
    let newer = database.with_facts(&[("agents", "select 1"), ("names", "select count(name) from agents")]);
    let proof = prove(&newer, &stored, "");
    assert_eq!(proof.outcome(), Proven::NotProven, "{proof:#?}");
    // Another query under an old name is not held against an old point: it is asked as it was.
    assert_eq!(prove(&database.with_facts(&[("agents", "select 1")]), &stored, "").outcome(), Proven::Proven);
    // A point that does not say how it was measured.
    let mut forgotten = Stored {
        directory: tempfile::tempdir().unwrap(),
        point: stored.point.clone(),
        unchanged: false,
        problems: Vec::new(),
        notes: Vec::new(),
        origins: [].into(),
    };
    crate::support::copy(stored.directory.path(), forgotten.directory.path());
    forgotten.point.queries.clear();
    assert_eq!(prove(&component, &forgotten, "").outcome(), Proven::NotProven);
    // A fact of a driver to come.
    forgotten.point.queries = stored.point.queries.clone();
    forgotten.point.facts.automatic.insert("phase of the moon".to_owned(), estate::facts::Value::Integer(1));
    assert_eq!(prove(&component, &forgotten, "").outcome(), Proven::NotProven);
    // An empty proof proves nothing.
    assert_eq!(estate::component::Proof::default().outcome(), Proven::NotProven);
}

/// Most applications leave foreign keys unchecked; what the source had is not held against the restore.
#[test]
fn violations_of_the_source_are_told_from_new_ones() {
    let database = Database::new(
        "pragma foreign_keys=off; create table a(id integer primary key); create table b(a references a(id));
         insert into a values(1); insert into b values(1), (2);",
    );
    let component = database.component();
    let stored = back_up(&component, None).unwrap();
    let proof = prove(&component, &stored, "");
    assert_eq!(proof.outcome(), Proven::Proven);
    assert!(proof.shown.iter().any(|shown| shown.what == "foreign key violations" && shown.found == "1"));
    let proof = prove(&component, &stored, "pragma foreign_keys=off; update b set a = 3 where a = 1");
    assert_eq!(failing(&proof), ["foreign key violations"]);
}

#[test]
fn facts_are_single_values_of_reading_queries() {
    let database = Database::new(SMALL);
    for (query, expected) in [
        ("select count(*) from agent", "no such table"),
        ("select id from agents", "more than one row"),
        ("select id from agents where id = 9", "no row"),
        ("select id, name from agents where id = 1", "2 columns"),
        ("select x'00ff'", "blob"),
        ("select hex(zeroblob(4000))", "bytes of text"),
        ("delete from agents returning id", "would change"),
        ("commit", "0 columns"),
        ("selec 1", "syntax error"),
    ] {
        let error = back_up(&database.with_facts(&[("broken", query)]), None).err().expect(query).to_string();
        assert!(error.contains("fact `broken`") && error.contains(expected), "{query}: {error}");
    }
    assert_eq!(sqlite3(&database.path, "select count(*) from agents"), "3");
    let facts = [
        ("i", "select 1"),
        ("r", "select 0.5"),
        ("t", "select 'ä'"),
        ("n", "select null"),
        ("p", "pragma integrity_check"),
    ];
    let stored = back_up(&database.with_facts(&facts), None).unwrap();
    let found: Vec<String> = stored.point.facts.declared.values().map(ToString::to_string).collect();
    assert_eq!(found, ["1", "null", "ok", "0.5", "ä"]);
}

#[test]
fn endless_queries_end() {
    let database = Database::new(SMALL);
    let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";
    let facts = vec![("endless".to_owned(), endless.to_owned())];
    let component =
        Sqlite::new(SqliteOptions { facts, query_timeout: Duration::from_millis(200), ..database.options() });
    let error = back_up(&component, None).err().unwrap().to_string();
    assert!(error.contains("took longer than 200ms"), "{error}");

    let component = database.with_facts(&[("endless", endless)]);
    let cancel = Cancel::default();
    let scratch = tempfile::tempdir().unwrap();
    let request =
        CaptureRequest { run: RUN, scratch: scratch.path(), previous: None, cancel: cancel.clone() };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(matches!(component.capture(&request), Err(Error::Interrupted)));
    });
}

/// Names with everything that a file name may have.
#[test]
fn odd_paths_are_paths() {
    let directory = tempfile::tempdir().unwrap();
    let odd = directory.path().join("a b?mode=ro&x=%41#frag 'q\" ü");
    fs::create_dir(&odd).unwrap();
    let path = odd.join("data%20.db");
    sqlite3(&path, SMALL);
    age(&path);
    let component = Sqlite::new(SqliteOptions::of(&path));
    assert_eq!(component.state().unwrap().damage, None);
    let stored = back_up(&component, None).unwrap();
    let (proof, _) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert_eq!(sqlite3(&path, "select count(*) from agents"), "3");
}
