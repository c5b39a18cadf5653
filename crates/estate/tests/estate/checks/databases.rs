//! SQL: what a query yields, of a database that is well, damaged, locked, or none.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use estate::check::{Database, Question, Sql, SqlExpect};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{ask, ask_and_cancel, ask_for, fails, fatal, holds, refused, unknown};

fn database() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("estate.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "create table agents (id integer primary key, name text);
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)
             insert into agents (name) select 'agent ' || i from n;",
        )
        .unwrap();
    (folder, path)
}

fn sql(path: &Path, query: &str, expect: SqlExpect) -> Question {
    Question::Sql(Sql { database: Database::Sqlite { path: path.to_owned() }, query: query.into(), expect })
}

fn equals(value: &str) -> SqlExpect {
    SqlExpect::Equals(value.into())
}

const COUNT: &str = "select count(*) from agents";

#[test]
fn values_are_compared() {
    let (_folder, path) = database();
    holds(&ask(sql(&path, "pragma integrity_check", equals("ok"))));
    holds(&ask(sql(&path, COUNT, equals("5000"))));
    fails(&ask(sql(&path, COUNT, equals("4999"))), "found 5000");
    holds(&ask(sql(&path, COUNT, SqlExpect::AtLeast(5000.0))));
    fails(&ask(sql(&path, COUNT, SqlExpect::AtLeast(5000.5))), "found 5000");
    holds(&ask(sql(&path, COUNT, SqlExpect::AtMost(5000.0))));
    fails(&ask(sql(&path, COUNT, SqlExpect::AtMost(4999.0))), "found 5000");
    holds(&ask(sql(&path, "select 0.5", equals("0.5"))));
    holds(&ask(sql(&path, "select x'00ff'", equals("00ff"))));
    holds(&ask(sql(&path, "select 1.0", equals("1.0"))));
    fails(&ask(sql(&path, "select null", SqlExpect::AtLeast(0.0))), "a number of 0 or more");
    fails(&ask(sql(&path, "select 'nan'", SqlExpect::AtLeast(0.0))), "found nan");
}

#[test]
fn one_value_means_one_row_of_one_column() {
    let (_folder, path) = database();
    fails(&ask(sql(&path, "select 'ok' union all select 'not ok'", equals("ok"))), "found ok; not ok");
    fails(&ask(sql(&path, "select 'ok', 1", equals("ok"))), "found ok|1");
    fails(&ask(sql(&path, "select name from agents where id > 9999", equals(""))), "found no row");
    holds(&ask(sql(&path, "select name from agents", SqlExpect::NotEmpty)));
    fails(&ask(sql(&path, "select name from agents", SqlExpect::Empty)), "and more rows");
    let none = "select name from agents where id > 9999";
    holds(&ask(sql(&path, none, SqlExpect::Empty)));
    fails(&ask(sql(&path, none, SqlExpect::NotEmpty)), "no row");
}

#[test]
fn what_is_missing_or_damaged_fails() {
    let (folder, path) = database();
    fails(&ask(sql(&path, "select count(*) from orders", equals("1"))), "no such table: orders");
    fails(&ask(sql(&path, "select age from agents", SqlExpect::NotEmpty)), "no such column: age");
    let missing = folder.path().join("missing.db");
    fails(&ask(sql(&missing, COUNT, SqlExpect::NotEmpty)), "no such file");
    assert!(!missing.exists(), "the check made a database");
    let text = folder.path().join("text.db");
    fs::write(&text, "this is no database, whatever its name says. ".repeat(50)).unwrap();
    fails(&ask(sql(&text, COUNT, SqlExpect::NotEmpty)), "is damaged");
    // An empty file is an empty database, to SQLite.
    let empty = folder.path().join("empty.db");
    fs::write(&empty, "").unwrap();
    fails(&ask(sql(&empty, COUNT, SqlExpect::AtLeast(1.0))), "no such table");

    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xaa; 4096], 3 * 4096).unwrap();
    let damaged = ask(sql(&path, "pragma integrity_check", equals("ok")));
    fails(&damaged, "estate.db");
}

#[test]
fn nonsense_and_writing_are_final() {
    let (_folder, path) = database();
    fatal(&ask(sql(&path, "selekt 1", SqlExpect::NotEmpty)), "syntax error");
    fatal(&ask(sql(&path, "delete from agents", SqlExpect::Empty)), "would write");
    fatal(&ask(sql(&path, "select 1; delete from agents", equals("1"))), "a check is one statement");
    fatal(&ask(sql(&path, "-- only a comment", SqlExpect::Empty)), "there is no statement");
    holds(&ask(sql(&path, "select 1; -- and a comment", equals("1"))));
    holds(&ask(sql(&path, COUNT, equals("5000"))));
    assert!(refused(sql(&path, "  ", SqlExpect::Empty)).contains("empty"));
    assert!(refused(sql(&path, COUNT, SqlExpect::AtLeast(f64::NAN))).contains("not a number"));
}

#[test]
fn a_locked_database_is_not_judged() {
    let (_folder, path) = database();
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("begin exclusive").unwrap();
    unknown(&ask_for(sql(&path, COUNT, SqlExpect::NotEmpty), Duration::from_millis(300)), "locked");
    writer.execute_batch("commit").unwrap();
    holds(&ask(sql(&path, COUNT, SqlExpect::NotEmpty)));
}

#[test]
fn a_query_without_end_is_not_judged() {
    let (_folder, path) = database();
    let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";
    let begun = Instant::now();
    let answer = ask_for(sql(&path, endless, SqlExpect::NotEmpty), Duration::from_millis(300));
    unknown(&answer, "no answer within 300ms");
    assert!(begun.elapsed() < Duration::from_secs(10));
    ask_and_cancel(sql(&path, endless, SqlExpect::NotEmpty));
}

#[test]
fn writers_in_wal_mode_are_seen_and_not_disturbed() {
    let (_folder, path) = database();
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("pragma journal_mode = wal; insert into agents (name) values ('late')").unwrap();
    holds(&ask(sql(&path, COUNT, equals("5001"))));
    writer.execute_batch("insert into agents (name) values ('later')").unwrap();
    holds(&ask(sql(&path, COUNT, equals("5002"))));
}
