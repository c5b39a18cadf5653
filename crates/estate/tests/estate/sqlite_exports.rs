//! Exports, read back by the real `sqlite3`.

use std::fs;

use estate::component::sqlite::{EXPORTS, Sqlite};
use estate::component::{Export, Exported, SqliteOptions};

use crate::sqlite::Database;
use crate::support::{back_up, sqlite3, sqlite3_output};

/// One of everything that a database can have.
const ZOO: &str = r#"
    pragma user_version=42; pragma application_id=7;
    create table "odd ""name"" 'x'"("a b" text, 'c''d' integer, "select" real);
    insert into "odd ""name"" 'x'" values('it''s', -9223372036854775808, 1e300), (null, 9223372036854775807, -0.1);
    create table kinds(id integer primary key autoincrement, v);
    insert into kinds(v) values(null), (0), (1.0), (0.1), (1e-7), (123456789012345678), (9e999), (-9e999), (''),
        ('two
lines'), ('cr' || char(13) || char(10) || 'lf'), ('nul' || char(0) || 'in'), ('ünïcödé 🛟'), (x''), (x'00ff27'),
        (cast(x'ff41' as text)), ('.dot at the start'), ('; -- ''quoted'' /* "all" */'), (3.141592653589793);
    delete from kinds where id = 3;
    create table gaps(x); insert into gaps(rowid, x) values(5, 'five'), (-2, 'minus two'), (9000000000, 'far');
    create table pair(a, b, primary key(b, a)) without rowid; insert into pair values(1, 'x'), (2, 'y');
    create table made(w integer, area integer generated always as (w * w) stored, half as (w / 2)); insert into made(w) values(3), (8);
    create table strict_one(n integer not null check(n > 0), t text) strict; insert into strict_one values(1, 'a');
    create table parent(id integer primary key); create table child(p references parent(id) on delete cascade);
    insert into child values(1); insert into parent values(1);
    create unique index by_area on made(area); create index partial on kinds(v) where v is not null; create index expr on pair(length(b));
    create view doubled as select w * 2 as d from made;
    create trigger no_more before insert on strict_one begin select raise(abort, 'no more; really'); end;
    create trigger view_in instead of insert on doubled begin insert into made(w) values(new.d / 2); end;
    create virtual table docs using fts5(title, body); insert into docs values('one', 'quick brown fox'), ('two', 'lazy dog');
    create table source(id integer primary key, t); insert into source values(10, 'alpha beta'), (20, 'gamma');
    create virtual table outside using fts5(t, content='source', content_rowid='id'); insert into outside(outside) values('rebuild');
    create virtual table boxes using rtree(id, x0, x1); insert into boxes values(1, 0.5, 2.5);
    analyze;
"#;

/// What both databases must agree in.
const SAME: &str = r#"
    pragma user_version; pragma application_id; pragma integrity_check; pragma foreign_key_check;
    select type, name, tbl_name, sql from sqlite_schema order by type, name;
    select rowid, quote("a b"), quote("c'd"), quote("select") from "odd ""name"" 'x'";
    select id, typeof(v), quote(v), hex(v), length(v) from kinds; select * from sqlite_sequence;
    select rowid, x from gaps; select * from pair; select * from made; select * from strict_one; select * from child;
    select * from doubled; select * from docs where docs match 'fox'; select rowid, * from outside where outside match 'beta';
    select * from boxes where x0 < 1; select * from sqlite_stat1 order by 1, 2, 3;
"#;

fn export(database: &Database, what: Exported) -> Vec<u8> {
    let exports = vec![Export { name: "out".to_owned(), what }];
    let stored = back_up(&Sqlite::new(SqliteOptions { exports, ..database.options() }), None).unwrap();
    assert_eq!(
        stored.point.roots,
        std::slice::from_ref(&database.path),
        "an export is not restored by itself"
    );
    fs::read(stored.path(format!("{EXPORTS}/out"))).unwrap()
}

#[test]
fn a_dump_is_read_back_by_sqlite3() {
    for journal in ["wal", "delete"] {
        let database = Database::new(&format!("pragma journal_mode={journal};{ZOO}"));
        let dump = String::from_utf8(export(&database, Exported::Dump)).unwrap();
        let copy = database.directory.path().join("copy.db");
        let output = sqlite3_output(&copy, &dump);
        assert!(output.status.success(), "{}\n{dump}", String::from_utf8_lossy(&output.stderr));
        let (expected, found) = (sqlite3(&database.path, SAME), sqlite3(&copy, SAME));
        assert!(expected.lines().count() > 60, "{expected}");
        assert_eq!(found, expected);
    }
}

/// Also where SQLite's own dump would do: an ordinary database gives the same rows as `.dump`.
#[test]
fn a_plain_database_dumps_like_sqlite3() {
    let database = Database::new(
        "create table agents(id integer primary key, name text, score real);
         insert into agents values(1, 'one', 0.5), (2, null, -1.25), (3, 'it''s', 1e20); create index by_name on agents(name);",
    );
    let ours = String::from_utf8(export(&database, Exported::Dump)).unwrap();
    let theirs = sqlite3(&database.path, ".dump");
    for line in theirs.lines().filter(|line| line.starts_with("CREATE INDEX") || line.starts_with("PRAGMA")) {
        assert!(ours.contains(line), "{line}\n{ours}");
    }
    assert_eq!(ours.matches("INSERT INTO").count(), theirs.matches("INSERT INTO").count());
}

#[test]
fn a_query_becomes_csv() {
    let database = Database::new(
        "create table t(id integer, name text, note text, raw blob, score real);
         insert into t values(1, 'plain', null, x'00ff', 0.5), (2, 'comma, and \"quote\"', '', null, 1e20),
             (3, 'two' || char(10) || 'lines', 'cr' || char(13), x'', -3.0);",
    );
    let csv = export(&database, Exported::Csv("select * , name as \"a,b\" from t order by id".to_owned()));
    let expected = "id,name,note,raw,score,\"a,b\"\r\n\
        1,plain,,00ff,0.5,plain\r\n\
        2,\"comma, and \"\"quote\"\"\",\"\",,1e20,\"comma, and \"\"quote\"\"\"\r\n\
        3,\"two\nlines\",\"cr\r\",\"\",-3.0,\"two\nlines\"\r\n";
    assert_eq!(String::from_utf8(csv).unwrap(), expected);
    // The real tool reads it back.
    let csv = export(&database, Exported::Csv("select id, name from t order by id".to_owned()));
    let file = database.directory.path().join("t.csv");
    fs::write(&file, csv).unwrap();
    let script = format!(
        ".mode csv\n.import {} back\n.mode quote\nselect id, name from back order by id;",
        file.display()
    );
    let back = sqlite3(&database.directory.path().join("back.db"), &script);
    assert_eq!(back, "'1','plain'\n'2','comma, and \"quote\"'\n'3','two\nlines'");
}

#[test]
fn a_broken_export_is_no_backup() {
    let database = Database::new("create table t(x)");
    let exports =
        vec![Export { name: "keys.csv".to_owned(), what: Exported::Csv("select y from t".to_owned()) }];
    let component = Sqlite::new(SqliteOptions { exports, ..database.options() });
    let error = back_up(&component, None).err().unwrap().to_string();
    assert!(error.contains("export `keys.csv`") && error.contains("no such column"), "{error}");
    assert_eq!(fs::read_dir(database.directory.path()).unwrap().count(), 1);
}
