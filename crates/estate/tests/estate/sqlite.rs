//! SQLite under writers: one moment, whatever happens meanwhile; and telling the unchanged from the changed.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use estate::component::sqlite::Sqlite;
use estate::component::{Cancel, Capture, CaptureRequest, Component, Content, Pages, Proven, SqliteOptions};
use estate::facts::Value;
use rusqlite::Connection;

use crate::support::{RUN, Shell, age, back_up, sqlite3, store};

/// A database in a directory of its own.
pub struct Database {
    pub directory: tempfile::TempDir,
    pub path: PathBuf,
}

impl Database {
    /// Makes one with the real `sqlite3`.
    pub fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.db");
        sqlite3(&path, script);
        age(&path);
        Self { directory, path }
    }

    pub fn options(&self) -> SqliteOptions {
        SqliteOptions { busy_timeout: Duration::from_secs(20), ..SqliteOptions::of(&self.path) }
    }

    pub fn component(&self) -> Sqlite {
        Sqlite::new(self.options())
    }

    pub fn with_facts(&self, facts: &[(&str, &str)]) -> Sqlite {
        let facts = facts.iter().map(|(name, query)| ((*name).to_owned(), (*query).to_owned())).collect();
        Sqlite::new(SqliteOptions { facts, ..self.options() })
    }

    /// Begins a capture and forgets the request.
    pub fn capture(&self, component: &Sqlite) -> estate::Result<Capture> {
        component.capture(&CaptureRequest {
            run: RUN,
            scratch: self.directory.path(),
            previous: None,
            cancel: Cancel::default(),
        })
    }
}

/// Two accounts of which each transaction moves something from one to the other and notes it.
const BANK: &str = "create table account(id integer primary key, balance integer);
    insert into account values(1, 0), (2, 0);
    create table note(id integer primary key, amount integer, padding text);
    with recursive n(i) as (select 1 union all select i+1 from n where i<3000)
    insert into note select null, 0, hex(randomblob(200)) from n;";
const TRANSFER: &str = "begin immediate;
    update account set balance = balance - 7 where id = 1;
    insert into note(amount, padding) values(7, hex(randomblob(300)));
    update account set balance = balance + 7 where id = 2;
    commit;";
/// Holds between transactions only.
const BALANCED: &str = "select (select sum(balance) from account) = 0 and (select balance from account where id=2) = (select sum(amount) from note)";

/// Ends the writers of a test.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Captures `times` times while two threads and another process write, checkpoint and vacuum.
fn under_writers(journal: &str, pages: Pages, times: usize) {
    let database = Database::new(&format!("pragma journal_mode={journal}; {BANK}"));
    let options = SqliteOptions {
        facts: vec![
            ("balanced".to_owned(), BALANCED.to_owned()),
            ("notes".to_owned(), "select count(*) from note".to_owned()),
        ],
        pages,
        ..database.options()
    };
    let component = Sqlite::new(options);
    let stop = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let connection = Connection::open(&database.path).unwrap();
                connection.busy_timeout(Duration::from_secs(30)).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    connection.execute_batch(TRANSFER).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let more =
                    format!(".timeout 30000\n{TRANSFER}\n{TRANSFER}\npragma wal_checkpoint(truncate);");
                sqlite3(&database.path, &more);
            }
        });
        // Also when an assertion fails, or the writers would go on for ever.
        let _stop = StopAtEnd(&stop);
        let mut counts = Vec::new();
        for _ in 0..times {
            let stored = back_up(&component, None).unwrap();
            assert_eq!(stored.point.facts.declared["balanced"], Value::Integer(1));
            let restored = stored.path(&database.path);
            assert_eq!(sqlite3(&restored, BALANCED), "1", "the pages are of one moment");
            assert_eq!(sqlite3(&restored, "pragma integrity_check"), "ok");
            let notes = sqlite3(&restored, "select count(*) from note");
            assert_eq!(
                stored.point.facts.declared["notes"].to_string(),
                notes,
                "of the same moment as the facts"
            );
            let mut parts = component.parts(RUN, &stored.point);
            parts[0].beside = database.directory.path().join("beside");
            stored.restore(&parts);
            let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
            assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
            counts.push(notes.parse::<u64>().unwrap());
        }
        counts
    });
    assert!(counts.first() < counts.last(), "somebody wrote all the time: {counts:?}");
    assert_eq!(sqlite3(&database.path, "pragma integrity_check"), "ok");
}

#[test]
fn one_moment_with_a_log() {
    under_writers("wal", Pages::Auto, 12);
}

#[test]
fn one_moment_with_a_journal() {
    under_writers("delete", Pages::Auto, 6);
}

#[test]
fn one_moment_in_one_copy() {
    under_writers("wal", Pages::Copied, 6);
}

/// Writers and checkpoints between the first and the last byte of one stream.
#[test]
fn a_slow_reader_still_sees_its_moment() {
    let database = Database::new(&format!("pragma journal_mode=wal; {BANK}"));
    let component = database.component();
    let capture = database.capture(&component).unwrap();
    let Capture { members, point, finish } = capture;
    let [member] = <[_; 1]>::try_from(members).unwrap();
    let Content::Stream { open, size, .. } = member.content else { panic!("{member:?}") };
    let mut reader = open().unwrap();
    let mut bytes = vec![0; size.unwrap() as usize];
    for (number, piece) in bytes.chunks_mut(300_001).enumerate() {
        reader.read_exact(piece).unwrap();
        sqlite3(&database.path, "update note set padding = hex(randomblob(200)), amount = amount + 1");
        let mode = ["passive", "full", "truncate"][number % 3];
        sqlite3(&database.path, &format!("pragma wal_checkpoint({mode})"));
    }
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    finish.finish(None).unwrap();
    let copy = database.directory.path().join("copy.db");
    fs::write(&copy, &bytes).unwrap();
    assert_eq!(sqlite3(&copy, "pragma integrity_check; select sum(amount) from note"), "ok\n0");
    assert_eq!(point.facts.automatic["rows in note"], Value::Integer(3000));
    // The log can be emptied as soon as the capture has ended.
    drop(reader);
    assert_eq!(sqlite3(&database.path, "pragma wal_checkpoint(truncate)"), "0|0|0");
}

/// A database beyond 1 GiB has a page that SQLite keeps its locks in and never reads.
#[test]
fn the_lock_page_is_passed_over() {
    for page_bytes in [4096_u64, 65536] {
        let database = Database::new(&format!(
            "pragma page_size={page_bytes}; create table t(id integer primary key, b blob)"
        ));
        // Made large in an instant: the header claims pages up to just before the lock's; nothing is in them.
        let pages = (1 << 30) / page_bytes - 2;
        let file = File::options().write(true).open(&database.path).unwrap();
        file.set_len(pages * page_bytes).unwrap();
        file.write_all_at(&u32::try_from(pages).unwrap().to_be_bytes(), 28).unwrap();
        drop(file);
        sqlite3(&database.path, "insert into t values(1, randomblob(400000)), (3, 'the end')");
        age(&database.path);
        let component = database.with_facts(&[("end", "select b from t where id = 3")]);
        let capture = database.capture(&component).unwrap();
        assert_eq!(capture.point.facts.declared["end"], Value::Text("the end".to_owned()));
        assert!(capture.point.bytes.unwrap() > 1 << 30);
        assert!(!capture.point.facts.automatic.contains_key("rows in t"), "too large to be counted unasked");
        let Capture { mut members, finish, .. } = capture;
        let Content::Stream { open, size, .. } = members.remove(0).content else { panic!("a stream") };
        let mut reader = open().unwrap();
        // Another process, because closing a descriptor here would drop our own locks.
        let mut file = Command::new("cat").arg(&database.path).stdout(Stdio::piped()).spawn().unwrap();
        let mut expected = file.stdout.take().unwrap();
        let (mut one, mut two) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut left = size.unwrap();
        while left > 0 {
            let count = left.min(one.len() as u64) as usize;
            reader.read_exact(&mut one[..count]).unwrap();
            expected.read_exact(&mut two[..count]).unwrap();
            assert!(one[..count] == two[..count], "{left} bytes before the end of {page_bytes}");
            left -= count as u64;
        }
        assert_eq!(expected.read(&mut two).unwrap(), 0);
        file.wait().unwrap();
        finish.finish(None).unwrap();
    }
}

/// Rows that are only in the log of a crashed writer come along, and the log is left as it was.
#[test]
fn a_log_left_behind_is_read_and_left_alone() {
    for pages in [Pages::Auto, Pages::Copied] {
        let database =
            Database::new("pragma journal_mode=wal; create table t(x); insert into t values('in the file')");
        let mut shell = Shell::open(&database.path);
        shell.run("pragma wal_autocheckpoint=0; insert into t values('in the log');");
        shell.run("begin; insert into t values('never committed');");
        shell.kill();
        let wal = database.directory.path().join("app.db-wal");
        let before = (fs::read(&database.path).unwrap(), fs::read(&wal).unwrap());
        assert!(!before.1.is_empty());
        let component = Sqlite::new(SqliteOptions { pages, ..database.options() });
        let stored = back_up(&component, None).unwrap();
        let rows = sqlite3(&stored.path(&database.path), "select group_concat(x) from t");
        assert_eq!(rows, "in the file,in the log");
        let after = (fs::read(&database.path).unwrap(), fs::read(&wal).unwrap());
        assert!(before == after, "a capture neither checkpoints nor deletes a log");
        // The main file alone is what a naive copy would have.
        let naive = database.directory.path().join("naive.db");
        fs::copy(&database.path, &naive).unwrap();
        assert_eq!(sqlite3(&naive, "select group_concat(x) from t"), "in the file");
    }
}

#[test]
fn no_log_is_left_where_there_was_none() {
    let database = Database::new("pragma journal_mode=wal; create table t(x); insert into t values(1)");
    back_up(&database.component(), None).unwrap();
    let names: Vec<_> =
        fs::read_dir(database.directory.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["app.db"]);
}

/// A writer that died in the middle of a transaction has left changed pages and the journal that undoes them.
#[test]
fn a_hot_journal_is_rolled_back() {
    let database = Database::new(&format!("pragma journal_mode=delete; {BANK}"));
    let mut shell = Shell::open(&database.path);
    shell.run(
        "pragma cache_size=2; begin; update note set amount = 1, padding = hex(randomblob(220)); select 1;",
    );
    shell.kill();
    let journal = database.directory.path().join("app.db-journal");
    assert!(fs::metadata(&journal).unwrap().len() > 100_000, "pages have been spilled");
    let naive = database.directory.path().join("naive.db");
    fs::copy(&database.path, &naive).unwrap();
    let damaged = sqlite3(&naive, "select count(*) from note where amount = 1");
    assert_ne!(damaged, "0", "without its journal the file holds half a transaction");
    let stored = back_up(&database.component(), None).unwrap();
    let restored = stored.path(&database.path);
    assert_eq!(
        sqlite3(&restored, "pragma integrity_check; select count(*) from note where amount = 1"),
        "ok\n0"
    );
}

/// Locks of this very process survive everything that the driver does with the file.
#[test]
fn locks_of_this_process_are_kept() {
    let database = Database::new(&format!("pragma journal_mode=delete; {BANK}"));
    let component = database.component();
    let ours = Connection::open(&database.path).unwrap();
    ours.execute_batch("begin immediate; update account set balance = 1 where id = 1").unwrap();
    let is_locked = || {
        let output = crate::support::sqlite3_output(&database.path, "begin immediate;");
        String::from_utf8_lossy(&output.stderr).contains("locked")
    };
    assert!(is_locked());
    assert_eq!(component.preflight(), []);
    let state = component.state().unwrap();
    assert!(state.holders.iter().any(|holder| holder.pid == std::process::id()), "{state:?}");
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts(RUN, &stored.point);
    assert!(matches!(component.prepare(&parts, &stored.point), Err(estate::Error::InUse { .. })));
    assert!(is_locked(), "the lock is still there");
    ours.execute_batch("rollback").unwrap();
    assert!(!is_locked());
}

#[test]
fn a_log_that_grows_too_far_ends_the_capture() {
    let database = Database::new(&format!("pragma journal_mode=wal; {BANK}"));
    let component = Sqlite::new(SqliteOptions { wal_bytes_max: Some(300_000), ..database.options() });
    let capture = database.capture(&component).unwrap();
    let mut shell = Shell::open(&database.path);
    shell.run("pragma wal_autocheckpoint=0; update note set amount = 1;");
    let failed = store(capture, None).err().expect("the log is too long").to_string();
    assert!(failed.contains("app.db-wal grew to") && failed.contains("back up when"), "{failed}");
    // The transaction is over; the log may be emptied.
    assert_eq!(shell.run("pragma wal_checkpoint(truncate);"), ["0|0|0"]);
}

/// What a change of one row costs: the blocks that differ.
#[test]
fn a_small_change_is_a_few_blocks() {
    let database = Database::new(&format!("pragma journal_mode=wal; {BANK}"));
    let component = database.component();
    let blocks = || {
        let stored = back_up(&component, None).unwrap();
        fs::read(stored.path(&database.path)).unwrap().chunks(65536).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let before = blocks();
    sqlite3(&database.path, "update note set amount = 5 where id = 1500");
    let after = blocks();
    assert_eq!(before.len(), after.len());
    let differing = before.iter().zip(&after).filter(|(one, two)| one != two).count();
    assert!(before.len() > 20 && (1..=2).contains(&differing), "{differing} of {}", before.len());
}

fn unchanged(component: &dyn Component, previous: &crate::support::Stored) -> bool {
    back_up(component, Some(previous)).unwrap().unchanged
}

#[test]
fn an_unchanged_database_is_told_from_a_changed_one() {
    let database = Database::new(&format!("pragma journal_mode=wal; {BANK}"));
    let component = database.component();
    let first = back_up(&component, None).unwrap();
    assert!(first.point.token.is_some());
    assert!(unchanged(&component, &first));
    // A commit into the log leaves the file itself untouched.
    let mut shell = Shell::open(&database.path);
    shell.run("pragma wal_autocheckpoint=0;");
    let modified = fs::metadata(&database.path).unwrap().modified().unwrap();
    shell.run("update account set balance = 1 where id = 1;");
    assert_eq!(fs::metadata(&database.path).unwrap().modified().unwrap(), modified);
    assert!(!unchanged(&component, &first));
    let second = back_up(&component, Some(&first)).unwrap();
    assert!(unchanged(&component, &second));
    // What is rolled back is no change; another that rewrites the same page is.
    shell.run("begin; update account set balance = 2 where id = 1; rollback;");
    assert!(unchanged(&component, &second));
    shell.run("update account set balance = 3 where id = 1;");
    assert!(!unchanged(&component, &second));
    // Another query under the same name is another question.
    let asked = database.with_facts(&[("n", "select 1")]);
    let stored = back_up(&asked, Some(&second)).unwrap();
    assert!(unchanged(&asked, &stored));
    assert!(!unchanged(&database.with_facts(&[("n", "select 2")]), &stored));
    // The same bytes in another file are not known to be the same.
    drop(shell);
    sqlite3(&database.path, "pragma wal_checkpoint(truncate)");
    age(&database.path);
    let third = back_up(&component, None).unwrap();
    let copy = database.directory.path().join("copy");
    fs::copy(&database.path, &copy).unwrap();
    fs::rename(&copy, &database.path).unwrap();
    age(&database.path);
    assert!(!unchanged(&component, &third));
}

#[test]
fn what_was_just_written_has_no_token() {
    let database = Database::new("create table t(x); insert into t values(1)");
    sqlite3(&database.path, "update t set x = 2");
    let stored = back_up(&database.component(), None).unwrap();
    assert_eq!(stored.point.token, None);
    assert!(!unchanged(&database.component(), &stored));
    // A clock that jumped: a file of tomorrow says nothing about changes.
    let day = Duration::from_secs(86400);
    File::options()
        .write(true)
        .open(&database.path)
        .unwrap()
        .set_modified(std::time::SystemTime::now() + day)
        .unwrap();
    assert_eq!(back_up(&database.component(), None).unwrap().point.token, None);
}

/// Whatever an application does between two captures: if it changed anything, the second says so.
#[test]
fn no_change_is_overlooked() {
    for journal in ["wal", "delete", "truncate", "persist"] {
        let database = Database::new(&format!("pragma journal_mode={journal}; {BANK}"));
        let component = database
            .with_facts(&[("sum", "select sum(note.id * amount) + total(balance) from note, account")]);
        let application = Connection::open(&database.path).unwrap();
        let mut known = 0;
        let mut previous = back_up(&component, None).unwrap();
        for number in 0..24_usize {
            let (script, changes) = match number % 8 {
                0 => ("pragma wal_checkpoint(passive)", false),
                1 | 5 => ("update note set amount = amount + 1 where id = 2000", true),
                2 => ("begin; update note set amount = 99; rollback", false),
                3 => ("pragma wal_checkpoint(truncate)", false),
                4 => ("select 1", false),
                6 => (
                    "insert into note values(null, 1, 'x'); delete from note where id = (select min(id) from note)",
                    true,
                ),
                _ => ("update account set balance = balance - 1 where id = 1", true),
            };
            application.execute_batch(script).unwrap();
            if number % 3 != 1 {
                age(&database.path);
            }
            let next = back_up(&component, Some(&previous)).unwrap();
            assert!(!(next.unchanged && changes), "{journal}: {script} was overlooked");
            let truth = sqlite3(
                &next.path(&database.path),
                "select sum(note.id * amount) + total(balance) from note, account",
            );
            let Value::Real(sum) = next.point.facts.declared["sum"] else { panic!("{:?}", next.point.facts) };
            assert_eq!(truth.parse::<f64>().unwrap(), sum);
            known += usize::from(next.unchanged);
            previous = next;
        }
        assert!(known > 0, "{journal}: only {known} of the unchanged were known");
    }
}

/// The rules that need the version of SQLite itself.
#[test]
fn the_built_in_sqlite_is_new_enough_and_shows_pages() {
    assert!(rusqlite::version_number() >= 3_051_003, "the reset of the log is mended in 3.51.3");
    let shows: i64 = Connection::open_in_memory()
        .unwrap()
        .query_row(
            "select count(*) from pragma_compile_options where compile_options='ENABLE_DBPAGE_VTAB'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(shows, 1, ".cargo/config.toml sets the flag, or the streaming path is not tested");
}

#[test]
fn an_application_in_the_affected_range_is_named() {
    let script = "create table t(x); insert into t values(1)";
    let version = sqlite3(Path::new(":memory:"), "select sqlite_version()");
    let warned = |database: &Database| {
        database
            .component()
            .preflight()
            .iter()
            .any(|finding| finding.what.contains(&format!("SQLite {version}")))
    };
    let number: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    let is_affected = number[..] < [3, 51, 3][..];
    assert_eq!(warned(&Database::new(&format!("pragma journal_mode=wal; {script}"))), is_affected);
    assert!(!warned(&Database::new(script)), "without a log there is nothing to reset");
}
