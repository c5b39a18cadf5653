//! Dumps of a PostgreSQL server by the plan: backup, restore tests, a restore into the running server, back and forth.

use std::process::Command;

use crate::harness::Place;
use crate::postgres::{Cluster, program, run};

/// A server with a shop, and a plan that dumps it.
fn shop() -> (Cluster, Place) {
    let cluster = Cluster::with(&[]);
    cluster.sql("create role clerk login password 'hunter2-clerk'");
    cluster.sql("create database shop owner clerk");
    sql(&cluster, "create table orders(n int); insert into orders select generate_series(1, 1000)");
    let state = cluster.home.path().join("state");
    let place = Place::new().with("LIFEBOAT_STATE", &state.to_string_lossy()).with("PATH", "/usr/bin:/bin");
    let plan = format!(
        "lifeboat: 1\nname: shop\nrepository: {{ location: repository, password: \"${{env:LIFEBOAT_PASSWORD}}\" }}\ncomponents:\n  \
         dumps:\n    postgres_dump: shop\n    socket: {}\n    role: keeper\n    facts: {{ orders: select count(*) from orders }}\n",
        cluster.home.path().display()
    );
    place.write("lifeboat.yaml", plan.as_bytes());
    place.succeeds(&["repository", "init"]);
    (cluster, place)
}

fn sql(cluster: &Cluster, text: &str) -> String {
    let arguments = ["-AtXq", "-U", "keeper", "-d", "shop", "-c", text, "-h"];
    run(program("psql").args(arguments).arg(cluster.home.path()))
}

fn count(cluster: &Cluster) -> String {
    sql(cluster, "select count(*) from orders")
}

#[test]
fn a_dumped_database_is_proven_restored_rolled_back_and_committed() {
    let (cluster, place) = shop();
    place.succeeds(&["validate"]);
    let told = place.succeeds(&["backup"]);
    assert!(told.contains("orders 1000"), "{told}");
    sql(&cluster, "insert into orders select generate_series(1001, 1500)");
    place.succeeds(&["backup"]);

    let told = place.succeeds(&["verify", "--restore", "--negative"]);
    assert!(
        told.contains("orders 1000") && told.contains("orders 1500"),
        "the latest and an older one: {told}"
    );
    assert_eq!(told.matches("; noticed: ").count(), 3, "{told}");
    assert_eq!(count(&cluster), "1500", "the source was not touched");

    let points = place.succeeds(&["points", "dumps", "--json"]);
    let first = points.split("\"instant\":\"").nth(1).unwrap().split('"').next().unwrap();
    let shown = place.succeeds(&["restore", "dumps", "--at", first, "--dry-run", "-v"]);
    assert!(!shown.contains("hunter2"), "{shown}");
    let told = place.succeeds(&["restore", "dumps", "--at", first, "--yes"]);
    assert!(told.contains("orders 1000") && told.contains("the database shop.before-"), "{told}");
    assert_eq!(count(&cluster), "1000");
    place.succeeds(&["rollback", "latest", "--yes"]);
    assert_eq!(count(&cluster), "1500");
    // What was restored and taken back is kept for whoever wants to look at it.
    let undone = cluster.sql("select datname from pg_database where datname ~ '^shop.undone-'");
    cluster.sql(&format!("drop database \"{undone}\""));
    let left = "select string_agg(datname, ' ') from pg_database where datname ~ '^shop'";
    assert_eq!(cluster.sql(left), "shop");

    // The database and its owner are lost altogether.
    cluster.sql("drop database shop");
    cluster.sql("drop role clerk");
    place.succeeds(&["restore", "dumps", "--yes"]);
    assert_eq!(count(&cluster), "1500");
    assert_eq!(
        cluster.sql("select pg_get_userbyid(datdba) from pg_database where datname = 'shop'"),
        "clerk"
    );
    let told = place.succeeds(&["commit", "latest", "--yes"]);
    assert!(!told.contains("the database shop of"), "{told}");
    assert_eq!(cluster.sql(left), "shop");
}

#[test]
fn the_printed_runbook_brings_a_database_back_by_hand() {
    let (cluster, place) = shop();
    place.succeeds(&["backup"]);
    let book = place.succeeds(&["runbook"]);
    assert!(!book.contains("hunter2"), "{book}");
    cluster.sql("drop database shop");
    cluster.sql("drop role clerk");
    let scratch = place.path("brought-back").display().to_string();
    let all = crate::postgres::commands_under(&book, "### dumps")
        .join("\n")
        .replace("/var/tmp/brought-back", &scratch);
    let output = Command::new("sh")
        .args(["-ec", &all])
        .current_dir(place.path(""))
        .env("RESTIC_REPOSITORY", place.path("repository"))
        .env("RESTIC_PASSWORD", "secret")
        .env("RESTIC_CACHE_DIR", place.path("cache"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{all}\n{said}");
    assert!(said.contains("\n1000\n"), "what is right by hand: {said}");
    assert_eq!(count(&cluster), "1000");
}
