//! Proofs of restored databases in a process of their own: what it says, and what becomes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use estate::Error;
use estate::component::sqlite::{Prover, Sqlite};
use estate::component::{Cancel, Component, Holds, Proof, Proven, SqliteOptions};
use place::{Init, Limits, Place};
use serde_json::json;

use crate::sqlite::Database;
use crate::support::{RUN, Stored, back_up, sqlite3};
use crate::twin::Stage;

/// Rows in pages of their own, and two threads' worth of them.
const ROWS: &str = "create table t(id integer primary key, body blob);
    with recursive n(i) as (select 1 union all select i+1 from n where i<2000)
    insert into t select i, randomblob(3000) from n;";
/// Counts for some seconds before it reads the table.
const SLOW: &str = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000000) \
                    select sum(length(body)) from t where id <= (select max(i) from n)";
const ENDLESS: &str =
    "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";
const HELPER: &str = env!("CARGO_BIN_EXE_twin-init-for-tests");

/// The real process of its own, in `place`.
pub(crate) fn prover(place: Place) -> Prover {
    Prover { place, program: Init { program: HELPER.into(), arguments: vec!["sqlite-proof".into()] } }
}

/// What `script` makes of it; `$0` is the real one.
fn instead(script: &str) -> Prover {
    Prover { place: Place::host(), program: shell(script) }
}

fn shell(script: &str) -> Init {
    Init { program: "/bin/sh".into(), arguments: ["-c", script, HELPER].map(Into::into).to_vec() }
}

fn with(database: &Database, prover: Option<Prover>) -> Sqlite {
    Sqlite::new(SqliteOptions { prover, ..database.options() })
}

/// Restores it beside, once.
fn restored(component: &Sqlite, stored: &Stored) -> Vec<estate::component::Part> {
    let parts = component.parts(RUN, &stored.point);
    estate::swap::remove(&parts[0].beside).unwrap();
    stored.restore(&parts);
    parts
}

fn unknowns(proof: &Proof) -> Vec<&str> {
    fn why(holds: &Holds) -> Option<&str> {
        match holds {
            Holds::Unknown(why) => Some(why),
            _ => None,
        }
    }
    proof.shown.iter().filter_map(|shown| why(&shown.holds)).collect()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_there(pid: &str) -> bool {
    // One that has ended and is not yet waited for is gone as well.
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

#[test]
fn another_process_shows_what_this_one_would() {
    let database =
        Database::new(&format!("{ROWS} create table child(t references t(id)); create index i on t(body);"));
    let facts = vec![
        ("rows".to_owned(), "select count(*) from t".to_owned()),
        // Numbers that lose their last bit when they are read carelessly.
        ("third".to_owned(), "select 1.0 / 3 + 123456789.123456".to_owned()),
        ("tiny".to_owned(), "select 5e-324".to_owned()),
        ("text".to_owned(), "select 'ä \"quoted\" ' || char(10)".to_owned()),
    ];
    let options = SqliteOptions { facts, ..database.options() };
    let here = Sqlite::new(options.clone());
    let stored = back_up(&here, None).unwrap();
    let parts = restored(&here, &stored);
    let marker = database.directory.path().join("was-asked");
    let asked = instead(&format!("touch {}; exec \"$0\" sqlite-proof", marker.display()));
    let aside = Sqlite::new(SqliteOptions { prover: Some(asked), ..options });
    assert!(here.is_proven_within() && !aside.is_proven_within());
    let expected = here.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert!(!marker.exists());
    let proof = aside.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert_eq!(proof, expected);
    assert!(marker.exists(), "it was asked");

    // It notices what this one notices.
    sqlite3(&parts[0].beside, "delete from t where id = 7; update t set body = x'00' where id = 8");
    let proof = aside.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::Failed);
    assert_eq!(proof, here.prove(&parts, &stored.point, &Cancel::default()).unwrap());
    let parts = restored(&here, &stored);
    crate::support::scribble(&parts[0].beside, 4096 * 20 + 8);
    let proof = aside.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::Failed);
    assert!(proof.shown.iter().any(|shown| shown.what == "integrity_check" && shown.holds == Holds::No));
}

/// A page that cannot be read ends a process that has mapped it; ours goes on and says so.
#[test]
fn a_file_that_is_cut_while_it_is_mapped_is_not_proven() {
    let database = Database::new(ROWS);
    let facts = vec![("slow".to_owned(), SLOW.to_owned())];
    let pid = database.directory.path().join("pid");
    let asked = instead(&format!("echo $$ > {}; exec \"$0\" sqlite-proof", pid.display()));
    let component = Sqlite::new(SqliteOptions { facts, prover: Some(asked), ..database.options() });
    let stored = back_up(&component, None).unwrap();
    let parts = restored(&component, &stored);
    let beside = parts[0].beside.clone();
    let proof = std::thread::scope(|scope| {
        let proof = scope.spawn(|| component.prove(&parts, &stored.point, &Cancel::default()));
        until("it is mapped", || {
            let pid = fs::read_to_string(&pid).unwrap_or_default();
            let maps = fs::read_to_string(format!("/proc/{}/maps", pid.trim())).unwrap_or_default();
            maps.contains(beside.to_str().unwrap())
        });
        let file = fs::File::options().write(true).open(&beside).unwrap();
        file.set_len(64 << 10).unwrap();
        proof.join().unwrap().unwrap()
    });
    assert!(unknowns(&proof)[0].contains("a page of the file could not be read"), "{proof:#?}");
    // What reads by calls tells what is wrong.
    assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
    assert!(proof.shown.iter().any(|shown| shown.what == "integrity_check" && shown.holds == Holds::No));
}

#[test]
fn a_process_that_is_killed_has_proven_nothing() {
    let database = Database::new(ROWS);
    let stored = back_up(&database.component(), None).unwrap();
    for (signal, said) in [("KILL", "ended by signal 9"), ("SEGV", "ended by signal 11")] {
        let component = with(&database, Some(instead(&format!("kill -{signal} $$"))));
        let parts = restored(&component, &stored);
        let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
        assert_eq!(proof.outcome(), Proven::NotProven, "{proof:#?}");
        assert!(unknowns(&proof)[0].contains(said), "{proof:#?}");
    }
    // The file is whole, and was unreadable once all the same.
    let component = with(&database, Some(instead("kill -BUS $$")));
    let parts = restored(&component, &stored);
    let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::NotProven, "{proof:#?}");
    assert!(proof.shown.iter().any(|shown| shown.what == "integrity_check" && shown.holds == Holds::Yes));
}

/// Not there, of another version, without an answer, with half of one: this process looks itself.
#[test]
fn whoever_cannot_be_asked_is_not_needed() {
    let database = Database::new(ROWS);
    let stored = back_up(&database.component(), None).unwrap();
    let nobody = Init { program: "/nowhere/lifeboat".into(), arguments: Vec::new() };
    let other = r#"{"engine":"3.0.0","proof":{"shown":[]}}"#;
    let provers = [
        Prover { place: Place::host(), program: nobody },
        instead("exit 3"),
        instead("echo no such command"),
        instead("\"$0\" sqlite-proof | head -c 100"),
        instead(&format!("echo '{other}'")),
    ];
    for prover in provers {
        let component = with(&database, Some(prover));
        let parts = restored(&component, &stored);
        let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
        assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
        assert!(proof.shown.iter().any(|shown| shown.what == "rows in t"), "{proof:#?}");
        crate::support::scribble(&parts[0].beside, 4096 * 20 + 8);
        let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
        assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
    }
}

#[test]
fn what_is_cancelled_is_killed() {
    let database = Database::new(ROWS);
    let mut stored = back_up(&database.component(), None).unwrap();
    let endless = estate::facts::Value::Integer(0);
    stored.point.facts.declared.insert("endless".to_owned(), endless);
    stored.point.queries.insert("endless".to_owned(), ENDLESS.to_owned());
    let pid = database.directory.path().join("pid");
    let component =
        with(&database, Some(instead(&format!("echo $$ > {}; exec \"$0\" sqlite-proof", pid.display()))));
    let parts = restored(&component, &stored);
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let proof = scope.spawn(|| component.prove(&parts, &stored.point, &cancel));
        let read = || fs::read_to_string(&pid).unwrap_or_default();
        until("it runs", || is_there(&read()) && !read().is_empty());
        std::thread::sleep(Duration::from_millis(200));
        let asked = Instant::now();
        cancel.store(true, Ordering::Relaxed);
        assert!(matches!(proof.join().unwrap(), Err(Error::Interrupted)));
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert!(!is_there(&read()));
    });
}

#[test]
fn facts_have_their_patience_aside_as_well() {
    let database = Database::new(ROWS);
    let mut stored = back_up(&database.component(), None).unwrap();
    stored.point.facts.declared.insert("endless".to_owned(), estate::facts::Value::Integer(0));
    stored.point.queries.insert("endless".to_owned(), ENDLESS.to_owned());
    let options = database.options();
    let component = Sqlite::new(SqliteOptions {
        query_timeout: Duration::from_millis(300),
        prover: Some(prover(Place::host())),
        ..options
    });
    let parts = restored(&component, &stored);
    let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::NotProven);
    assert!(unknowns(&proof)[0].contains("it took longer than 300ms"), "{proof:#?}");
}

/// Whoever asked was killed: nobody waits for the answer.
#[test]
fn it_ends_with_its_parent() {
    let database = Database::new(ROWS);
    let mut stored = back_up(&database.component(), None).unwrap();
    stored.point.facts.declared.insert("endless".to_owned(), estate::facts::Value::Integer(0));
    stored.point.queries.insert("endless".to_owned(), ENDLESS.to_owned());
    let question = json!({
        "path": database.path, "recorded": stored.point, "declared": [], "patience": { "secs": 3600, "nanos": 0 },
    });
    let file = database.directory.path().join("question");
    fs::write(&file, question.to_string()).unwrap();
    let pid = database.directory.path().join("pid");
    let script = format!("\"$0\" sqlite-proof < {} & echo $! > {}; wait", file.display(), pid.display());
    let mut parent =
        Command::new("/bin/sh").args(["-c", &script, HELPER]).stdout(Stdio::null()).spawn().unwrap();
    let read = || fs::read_to_string(&pid).unwrap_or_default();
    until("it runs", || !read().is_empty() && is_there(&read()));
    std::thread::sleep(Duration::from_millis(500));
    assert!(is_there(&read()));
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("it has ended", || !is_there(&read()));
}

/// The twin's file is proven, not the host's of the same name; several at once.
#[test]
fn in_a_twin_it_sees_the_files_of_the_twin() {
    let mut databases: Vec<(PathBuf, Stored)> = Vec::new();
    let stage = Stage::set(|host| {
        for number in 0..3 {
            let path = host.state.path().join(format!("{number}.db"));
            sqlite3(&path, ROWS);
            let stored = back_up(&Sqlite::new(SqliteOptions::of(&path)), None).unwrap();
            // What lies on the host under the name of the restored file is worth nothing.
            let parts = Sqlite::new(SqliteOptions::of(&path)).parts(RUN, &stored.point);
            fs::write(&parts[0].beside, "the host's").unwrap();
            fs::copy(stored.path(&path), path.with_extension("good")).unwrap();
            databases.push((path, stored));
        }
    });
    let here = stage.twin.place();
    let component = |path: &Path, program: &Init| {
        let prover = Prover { place: here.clone(), program: program.clone() };
        Sqlite::new(SqliteOptions { prover: Some(prover), ..SqliteOptions::of(path) })
    };
    let ended = stage.host.state.path().join("ended");
    let real = shell(&format!("\"$0\" sqlite-proof; echo $? >> {}", ended.display()));
    let gone = Init { program: "/tmp/not-in-a-twin".into(), arguments: Vec::new() };
    for program in [&gone, &real] {
        std::thread::scope(|scope| {
            for (path, stored) in &databases {
                let component = component(path, program);
                let here = &here;
                scope.spawn(move || {
                    let parts = component.parts(RUN, &stored.point);
                    let restore = || fs::copy(path.with_extension("good"), &parts[0].beside);
                    here.within(restore).unwrap().unwrap();
                    let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
                    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
                    assert!(proof.shown.iter().any(|shown| shown.what == "rows in t"));
                    assert_eq!(fs::read_to_string(&parts[0].beside).unwrap(), "the host's");
                    let cut = place::Command::new(
                        "truncate",
                        ["-s".as_ref(), "40960".as_ref(), parts[0].beside.as_os_str()],
                    );
                    assert!(here.run(&cut, &Limits::timeout(Duration::from_secs(20))).unwrap().success());
                    let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
                    assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
                });
            }
        });
    }
    // It was asked there, six times, and answered.
    let said = here.within(|| fs::read_to_string(&ended)).unwrap().unwrap();
    assert_eq!(said, "0\n".repeat(6));
    assert!(!ended.exists(), "it ran in the twin");
}
