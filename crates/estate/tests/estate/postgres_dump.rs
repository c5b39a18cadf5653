//! Dumps of real servers: roles, odd names, large objects, others who write meanwhile; and everything by which a dump lies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use estate::component::postgres::dump::Dumps;
use estate::component::{Cancel, Component, Damage, DumpOptions, Holds, Part, Proof, Proven};
use estate::facts::Value;

use crate::cluster::{Cluster, Server, Writer, directory, give, program, run};
use crate::support::{Stored, back_up};

/// The databases of the tests; the second is one that must be quoted everywhere.
pub const NAMES: &[&str] = &["shop", "o dd\"na'me=\\x;"];
const LARGE: &str = "5000";

/// Makes two databases with what dumps have trouble with.
pub fn fill(cluster: &Cluster) {
    cluster.sql("create role keeper login password 'hunter2-keeper'");
    cluster.sql("create role \"Odd \"\"role\" nologin in role keeper");
    cluster.sql("create database shop owner keeper");
    cluster.sql(
        "create database \"o dd\"\"na'me=\\x;\" owner \"Odd \"\"role\" encoding 'UTF8' template template0",
    );
    sql(
        cluster,
        "shop",
        "create table agents(id bigint primary key, name text not null);
         insert into agents select i, 'agent ' || i from generate_series(1, 3000) i;
         create schema \"Odd schema\"; create table \"Odd schema\".\"ta\"\"ble\"(x text, y int references agents(id));
         insert into \"Odd schema\".\"ta\"\"ble\" select repeat('ä\\n', i), i from generate_series(1, 50) i;
         create view named as select name from agents; create sequence numbers; select nextval('numbers');
         grant select on agents to \"Odd \"\"role\"; alter table agents owner to keeper;
         comment on database shop is 'it''s; a shop'; alter database shop set work_mem to '5MB';
         revoke connect on database shop from public; grant connect on database shop to \"Odd \"\"role\"",
    );
    sql(cluster, NAMES[1], &format!("select lo_from_bytea({LARGE}, 'large'); create table empty(n int)"));
}

/// Runs statements in a database of whatever name.
pub fn sql(cluster: &Cluster, database: &str, text: &str) -> String {
    run(&mut psql(cluster, database, text))
}

fn psql(cluster: &Cluster, database: &str, text: &str) -> Command {
    let mut psql = program("psql");
    psql.args(["-AtXq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(cluster.root.join("run"));
    psql.env("PGDATABASE", database).args(["-c", text]);
    psql
}

/// What is in the databases, their rights and large objects included; empty when the first is not there.
pub fn contents(cluster: &Cluster) -> String {
    let there = psql(cluster, "shop", "select 1").output().unwrap();
    if !there.status.success() {
        return String::new();
    }
    let about = "select (select string_agg(a::text, ' ' order by a::text) from unnest(datacl) a), shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba), \
                 (select setconfig::text from pg_db_role_setting where setdatabase = d.oid) from pg_database d where datname = ";
    [
        sql(cluster, "shop", "select id, name from agents order by id"),
        sql(cluster, "shop", "select y, md5(x) from \"Odd schema\".\"ta\"\"ble\" order by y"),
        sql(cluster, "shop", &format!("{about} 'shop'")),
        sql(cluster, "shop", "select relowner::regrole, relacl from pg_class where relname = 'agents'"),
        sql(
            cluster,
            NAMES[1],
            &format!("select convert_from(lo_get({LARGE}), 'UTF8'); select count(*) from empty"),
        ),
    ]
    .join("\n")
}

/// Removes the databases and their roles.
pub fn drop_all(cluster: &Cluster) {
    for name in ["shop", "\"o dd\"\"na'me=\\x;\""] {
        cluster.sql(&format!("drop database if exists {name}"));
    }
    cluster.sql("drop role if exists \"Odd \"\"role\"");
    cluster.sql("drop role if exists keeper");
}

fn options(cluster: &Cluster, names: Option<&[&str]>, facts: &[(&str, &str)]) -> DumpOptions {
    DumpOptions {
        databases: names.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        socket: Some(cluster.root.join("run")),
        database: Some("shop".to_owned()),
        facts: facts.iter().map(|&(name, query)| (name.to_owned(), query.to_owned())).collect(),
        ..DumpOptions::of("orders", cluster.root.join("state"))
    }
}

/// The driver for these databases.
pub fn component(cluster: &Cluster, names: Option<&[&str]>, facts: &[(&str, &str)]) -> Dumps {
    Dumps::new(options(cluster, names, facts), place::Place::host())
}

/// The files with the rows of tables, the largest first.
fn rows_in(dump: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for database in fs::read_dir(dump).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let entries = fs::read_dir(database.path()).unwrap().flatten().map(|entry| entry.path());
        files.extend(entries.filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.strip_suffix(".dat").is_some_and(|number| number.parse::<u32>().is_ok())
        }));
    }
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

/// Changes the largest file of rows.
pub fn in_rows(dump: &Path, change: fn(&mut Vec<u8>)) {
    let path = &rows_in(dump)[0];
    let mut text = fs::read(path).unwrap();
    change(&mut text);
    fs::write(path, text).unwrap();
}

fn made() -> (tempfile::TempDir, Server) {
    let directory = directory();
    let cluster = Cluster::make(directory.path());
    (directory, Server(cluster))
}

/// Restores into scratch, as restore tests do.
fn in_scratch(component: &Dumps, stored: &Stored) -> (tempfile::TempDir, Vec<Part>) {
    let scratch = directory();
    let parts = component.parts("r1", &stored.point);
    let parts: Vec<Part> = parts.iter().map(|part| part.moved_to(scratch.path())).collect();
    component.prepare(&parts, &stored.point).unwrap();
    stored.restore(&parts);
    (scratch, parts)
}

fn prove(component: &Dumps, stored: &Stored, parts: &[Part]) -> Proof {
    component.prove(parts, &stored.point, &Cancel::default()).unwrap()
}

/// Proves in scratch, and sees that nothing of that is left.
fn proven_in_scratch(component: &Dumps, stored: &Stored) -> Proof {
    let (scratch, parts) = in_scratch(component, stored);
    let proof = prove(component, stored, &parts);
    let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "the private cluster is gone: {left:?}");
    proof
}

fn failed(proof: &Proof) -> Vec<String> {
    let failed = proof.shown.iter().filter(|shown| shown.holds == Holds::No);
    failed.map(|shown| format!("{} is {}, expected {}", shown.what, shown.found, shown.expected)).collect()
}

#[test]
fn all_databases_come_back_in_a_private_cluster() {
    let (_directory, server) = made();
    fill(&server.0);
    let component = component(&server.0, None, &[("agents", "select count(*) from agents")]);
    let stored = back_up(&component, None).unwrap();
    let facts = &stored.point.facts;
    assert_eq!(facts.declared["agents"], Value::Integer(3000));
    assert_eq!(facts.automatic["rows in shop: public.agents"], Value::Integer(3000));
    assert_eq!(facts.automatic["rows in shop: \"Odd schema\".\"ta\"\"ble\""], Value::Integer(50));
    assert_eq!(facts.automatic[&format!("large objects in {}", NAMES[1])], Value::Integer(1));
    assert_eq!(facts.automatic["databases"], Value::Integer(2), "postgres is empty, and left out");
    let proof = proven_in_scratch(&component, &stored);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert!(proof.shown.len() > 20, "{proof:#?}");
    // Passwords of roles are in the dump, and nowhere else.
    let record = serde_json::to_string(&stored.point).unwrap();
    assert!(
        !record.contains("SCRAM")
            && fs::read_to_string(stored.path("/lifeboat/postgres/orders/roles.sql"))
                .unwrap()
                .contains("SCRAM")
    );
}

#[test]
fn what_others_write_meanwhile_is_in_all_of_it_or_in_nothing() {
    let (_directory, server) = made();
    let cluster = &server.0;
    cluster.sql("create database shop");
    let writer = Writer::begin(cluster);
    writer.wait_for(200);
    // In the database of the writer, which is postgres, and too large to be dumped in a moment.
    cluster.sql("create table wide as select i, repeat('x', 500) filler from generate_series(1, 40000) i");
    let facts = [("rows", "select count(*) from ledger"), ("last", "select max(n) from ledger")];
    let options = DumpOptions { database: None, ..options(cluster, Some(&["postgres"]), &facts) };
    let component = Dumps::new(options, place::Place::host());
    let before = writer.acknowledged();
    let stored = back_up(&component, None).unwrap();
    let after = writer.acknowledged();
    let Value::Integer(rows) = stored.point.facts.declared["rows"] else { panic!() };
    let rows = u64::try_from(rows).unwrap();
    assert!(before <= rows && rows < after, "{before} {rows} {after}: written to while it was dumped");
    assert_eq!(
        stored.point.facts.automatic["rows in postgres: public.ledger"],
        Value::Integer(rows.cast_signed())
    );
    let proof = proven_in_scratch(&component, &stored);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
}

#[test]
fn tables_in_a_tablespace_come_back_and_never_go_near_its_directory() {
    let (directory, server) = made();
    let outside = directory.path().join("out side");
    fs::create_dir(&outside).unwrap();
    give(&outside);
    let cluster = &server.0;
    cluster.sql(&format!("create tablespace far location '{}'", outside.display()));
    cluster.sql("create database shop tablespace far");
    sql(cluster, "shop", "create table agents(n int) tablespace pg_default; insert into agents values (1)");
    let component = component(cluster, Some(&["shop"]), &[]);
    let stored = back_up(&component, None).unwrap();
    let proof = proven_in_scratch(&component, &stored);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "one cluster has something there");
    sql(cluster, "postgres", "drop database shop");
    sql(cluster, "postgres", "drop tablespace far");
    let parts = component.parts("r1", &stored.point);
    let refused = component.prepare(&parts, &stored.point).unwrap_err().to_string();
    assert!(refused.contains("has no tablespace \"far\""), "{refused}");
}

#[test]
fn rows_that_are_gone_and_damage_are_noticed() {
    let (_directory, server) = made();
    fill(&server.0);
    let component = component(&server.0, Some(NAMES), &[("agents", "select count(*) from agents")]);
    let stored = back_up(&component, None).unwrap();
    let (_scratch, parts) = in_scratch(&component, &stored);
    let lost = component.damage(&parts, &stored.point, Damage::Lose, &Cancel::default()).unwrap().unwrap();
    assert!(lost.contains("half of the rows of all 2 tables"), "{lost}");
    let noticed = failed(&prove(&component, &stored, &parts));
    // The rows of one table refer to those of the other, so that not even the keys can be made.
    assert!(!noticed.is_empty(), "{noticed:?}");
    for how in [Damage::Cut, Damage::Flip] {
        let (_scratch, parts) = in_scratch(&component, &stored);
        component.damage(&parts, &stored.point, how, &Cancel::default()).unwrap().unwrap();
        let proof = prove(&component, &stored, &parts);
        assert!(proof.outcome() != Proven::Proven || how == Damage::Flip, "{how}: {proof:#?}");
    }
    // One row is gone, and everything that is left is as whole as before.
    let (_scratch, parts) = in_scratch(&component, &stored);
    let path = &rows_in(&parts[0].beside)[0];
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, text.replacen("3000\tagent 3000\n", "", 1)).unwrap();
    let noticed = failed(&prove(&component, &stored, &parts));
    let expected =
        ["fact agents is 2999, expected 3000", "rows in shop: public.agents is 2999, expected 3000"];
    assert_eq!(noticed, expected);
    // A dump of which a part is missing.
    let (_scratch, parts) = in_scratch(&component, &stored);
    fs::remove_file(parts[0].beside.join("001-shop/toc.dat")).unwrap();
    assert!(failed(&prove(&component, &stored, &parts))[0].contains("the dump of shop is "));
}

/// A directory of programs in which one is another.
fn programs_with(directory: &Path, name: &str, script: &str) -> PathBuf {
    let programs = directory.join("programs");
    fs::create_dir(&programs).unwrap();
    let real = PathBuf::from(program("pg_dump").get_program());
    for entry in fs::read_dir(real.parent().unwrap()).unwrap().flatten() {
        if entry.file_name() != name {
            std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name())).unwrap();
        }
    }
    let script = script.replace("REAL", &real.parent().unwrap().join(name).display().to_string());
    fs::write(programs.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    programs
}

/// Backs up with another program in the place of one, which must fail; what it says.
fn sabotaged(name: &str, script: &str) -> String {
    let (directory, server) = made();
    fill(&server.0);
    let binaries = Some(programs_with(directory.path(), name, script));
    let options = DumpOptions { binaries, ..options(&server.0, Some(NAMES), &[]) };
    let component = Dumps::new(options, place::Place::host());
    back_up(&component, None).err().expect("it must not be a backup").to_string()
}

#[test]
fn a_dump_that_fails_or_is_empty_is_no_backup() {
    let version = "case \"$1\" in --version) exec REAL --version;; esac; ";
    let said = sabotaged("pg_dump", &format!("{version}exit 0"));
    assert!(said.contains("pg_dump of the database shop"), "{said}");
    let said = sabotaged("pg_dump", &format!("{version}REAL \"$@\" || exit 1; echo 'disk full' >&2; exit 1"));
    assert!(said.contains("ended with status 1: disk full"), "{said}");
    let said = sabotaged("pg_dump", &format!("{version}exec REAL --schema-only \"$@\""));
    assert!(said.contains("wrote the rows of 0 tables, of 2"), "{said}");
    let said = sabotaged("pg_dumpall", "exit 0");
    assert!(said.contains("wrote nothing"), "{said}");
    let said = sabotaged("pg_dump", "echo 'pg_dump (PostgreSQL) 9.6.24'");
    assert!(said.contains("is of PostgreSQL 9") && said.contains("`binaries:`"), "{said}");
    // The database vanishes between the list and its turn.
    let said = sabotaged(
        "pg_dump",
        &format!(
            "{version}REAL \"$@\" || exit 1; psql -d postgres -c 'drop database \"o dd\"\"na'\\''me=\\x;\"'"
        ),
    );
    assert!(said.contains("does not exist"), "{said}");
}

#[test]
fn a_server_that_cannot_be_asked_is_told_of_without_its_password() {
    let (_directory, server) = made();
    let cluster = &server.0;
    fill(cluster);
    cluster.sql("create role asker login password 'right-word'");
    fs::write(cluster.data().join("pg_hba.conf"), "local all postgres trust\nlocal all all scram-sha-256\n")
        .unwrap();
    cluster.sql("select pg_reload_conf()");
    let with = |user: &str, password: &str, names: &[&str]| {
        let options = DumpOptions {
            user: Some(user.to_owned()),
            password: Some(password.to_owned()),
            ..options(cluster, Some(names), &[])
        };
        Dumps::new(options, place::Place::host())
    };
    let said = back_up(&with("keeper", "wrong-word", &["shop"]), None).err().unwrap().to_string();
    assert!(said.contains("password authentication failed") && !said.contains("wrong-word"), "{said}");
    let said = back_up(&with("keeper", "hunter2-keeper", &["shop", "gone"]), None).err().unwrap().to_string();
    assert!(said.contains("there is no database \"gone\"") && said.contains("shop"), "{said}");
    // Who may not read a table makes no dump without it.
    let said = back_up(&with("keeper", "hunter2-keeper", &["shop"]), None).err().unwrap().to_string();
    assert!(said.contains("permission denied"), "{said}");
    sql(
        cluster,
        "shop",
        "grant usage on schema \"Odd schema\" to keeper; grant select on all tables in schema public, \"Odd schema\" to keeper;
         grant select on all sequences in schema public to keeper",
    );
    let keeper = with("keeper", "hunter2-keeper", &["shop"]);
    let stored = back_up(&keeper, None).unwrap();
    assert!(stored.notes[0].contains("without the passwords of its roles"), "{:?}", stored.notes);
    assert!(keeper.left_to_people(&stored.point)[0].what.contains("set the passwords"));
    assert_eq!(proven_in_scratch(&keeper, &stored).outcome(), Proven::Proven);
    // Nor may it put a database back.
    let parts = keeper.parts("r1", &stored.point);
    let said = keeper.prepare(&parts, &stored.point).unwrap_err().to_string();
    assert!(said.contains("may not make databases"), "{said}");
    assert!(!format!("{keeper:?}").contains("hunter2"));
}

#[test]
fn nobody_who_is_connected_loses_a_database() {
    let (_directory, server) = made();
    let cluster = &server.0;
    fill(cluster);
    let component = component(cluster, Some(NAMES), &[]);
    let stored = back_up(&component, None).unwrap();
    let mut sleeper = psql(cluster, "shop", "select pg_sleep(600)").spawn().unwrap();
    let parts = component.parts("r1", &stored.point);
    let mut said = String::new();
    for _ in 0..200 {
        match component.prepare(&parts, &stored.point) {
            Ok(()) => std::thread::sleep(std::time::Duration::from_millis(50)),
            Err(error) => {
                said = error.to_string();
                break;
            }
        }
    }
    assert!(said.contains("somebody is connected to shop (psql of postgres)"), "{said}");
    let before = contents(cluster);
    // One who comes when everything is loaded is not pushed out either, and nothing has changed.
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    cluster.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'shop'");
    component.prepare(&parts, &stored.point).unwrap();
    stored.restore(&parts);
    let proof = prove(&component, &stored, &parts);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    estate::swap::plan("r1", &parts).unwrap().apply(&mut |_, _| Ok(())).unwrap();
    let mut sleeper = psql(cluster, "shop", "select pg_sleep(600)").spawn().unwrap();
    while cluster.sql("select count(*) from pg_stat_activity where datname = 'shop' and state = 'active'")
        == "0"
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let said = component.after_swap(&parts, &stored.point, &Cancel::default()).unwrap_err().to_string();
    assert!(said.contains("somebody is connected"), "{said}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    cluster.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'shop'");
    assert_eq!(contents(cluster), before);
    // Gone on with, it is done; and done again, it does nothing.
    for _twice in 0..2 {
        component.after_swap(&parts, &stored.point, &Cancel::default()).unwrap();
    }
    assert_eq!(contents(cluster), before);
    assert_eq!(component.kept(&parts, &Cancel::default()).unwrap().len(), 2);
    component.commit(&parts, &Cancel::default()).unwrap();
    assert_eq!(cluster.sql("select count(*) from pg_database where datname ~ 'before|lifeboat|undone'"), "0");
}

#[test]
fn a_copy_that_is_not_what_was_recorded_is_not_swapped_and_not_left_on_the_server() {
    let (_directory, server) = made();
    let cluster = &server.0;
    fill(cluster);
    let component = component(cluster, Some(NAMES), &[]);
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts("r1", &stored.point);
    component.prepare(&parts, &stored.point).unwrap();
    stored.restore(&parts);
    in_rows(&parts[0].beside, |text| {
        let end = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        text.drain(..end);
    });
    assert_eq!(prove(&component, &stored, &parts).outcome(), Proven::Failed);
    assert_eq!(cluster.sql("select count(*) from pg_database where datname ~ 'lifeboat'"), "0");
    let said = component.after_swap(&parts, &stored.point, &Cancel::default()).unwrap_err().to_string();
    assert!(said.contains("has loaded nothing"), "{said}");
}
