//! Restore tests: the latest and something older, what is left when they fail or are killed, and copies damaged on purpose.

use std::time::{Duration, Instant};

use crate::harness::Place;
use crate::hub::{AGENTS, Hub};
use crate::postgres::Cluster;
use crate::redis::Cache;

/// What lies in scratch.
fn scratch(place: &Place) -> Vec<std::path::PathBuf> {
    place.files("state/scratch").into_iter().filter(|path| !path.ends_with("scratch")).collect()
}

#[test]
fn the_latest_and_something_older_are_restored_and_shown() {
    let hub = Hub::running();
    let said = hub.exits(&["verify", "--restore", "database"], 0);
    assert_eq!(said.matches(" old, ").count(), 1, "there is nothing older: {said}");
    hub.sql("delete from agents where id % 10 = 0");
    hub.exits(&["backup", "database"], 0);
    hub.sql("update agents set status = 'away'");
    hub.exits(&["backup", "database"], 0);

    let said = hub.exits(&["verify", "--restore", "database"], 0);
    assert_eq!(said.matches(" old, ").count(), 2, "{said}");
    assert!(said.contains(" old, ") && !said.contains("disaster"), "{said}");
    assert!(said.contains("every byte of them"), "{said}");
    let said = hub.exits(&["verify", "--restore", "database", "--latest-only"], 0);
    assert_eq!(said.matches(" old, ").count(), 1, "{said}");
    // The first point has its own facts.
    let points = hub.exits(&["points", "database", "--json"], 0);
    let first = points.split("\"instant\":\"").nth(1).unwrap().split('"').next().unwrap();
    let said = hub.exits(&["verify", "--restore", "database", "--at", first], 0);
    assert!(said.contains(&format!("agents {AGENTS}")) && said.matches(" old, ").count() == 1, "{said}");
    hub.exits(&["verify", "--restore", "--at", "2099-01-01T00:00:00Z"], 3);
    assert!(scratch(&hub.place).is_empty(), "{:?}", scratch(&hub.place));
    let status = hub.place.run(&["status"]);
    assert!(status.contains("came back") && !status.contains("FAILED"), "{status}");
}

#[test]
fn every_older_point_has_its_turn() {
    let hub = Hub::running();
    for agents in [400, 300] {
        hub.sql(&format!("delete from agents where rowid > {agents}"));
        hub.exits(&["backup", "database", "--accept"], 0);
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let said = hub.exits(&["verify", "--restore", "database"], 0);
        seen.extend([AGENTS, 400].into_iter().filter(|agents| said.contains(&format!("agents {agents}"))));
        assert!(said.contains("agents 300"), "the latest is always one of them: {said}");
    }
    assert_eq!(seen.len(), 2, "by chance never the same in twelve: {seen:?}");
}

#[test]
fn a_test_that_failed_is_over_leaves_nothing_and_is_told() {
    let hub = Hub::running();
    hub.exits(&["verify", "--restore"], 0);
    for pack in hub.place.files("lifeboat-repository/data") {
        let bytes: Vec<u8> = std::fs::read(&pack).unwrap().into_iter().map(|byte| byte ^ 1).collect();
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, bytes).unwrap();
    }
    let said = hub.exits(&["verify", "--restore", "database"], 1);
    assert!(said.contains("nothing of the test is left"), "{said}");
    assert!(scratch(&hub.place).is_empty(), "{:?}", scratch(&hub.place));
    let status = hub.exits(&["status"], 1);
    assert!(!status.contains("is not at its end"), "{status}");
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("database").contains("FAILED") && !line("config").contains("FAILED"), "{status}");
    assert!(status.contains("database, when it was last brought back: "), "{status}");
    // Another machine sees it, too.
    let elsewhere = hub.exits(&["status", "--state", "elsewhere"], 1);
    assert!(elsewhere.contains("FAILED"), "{elsewhere}");
    let said = hub.exits(&["recover", "server-lost", "--resume", "latest"], 3);
    assert!(said.contains("cannot go on"), "{said}");
}

#[test]
fn a_test_that_was_killed_is_told_and_the_next_one_removes_what_it_left() {
    let place = Place::new().with("LIFEBOAT_STATE", "state").with("PATH", "/usr/bin:/bin");
    let plan = "lifeboat: 1\nname: shop\nrepository: { location: repository, password: \"${env:LIFEBOAT_PASSWORD}\" }\n\
                components:\n  notes:\n    command: echo a note\n    file: notes.txt\n    restore: cat\n    \
                verify: cat > /dev/null; test -e quick || { touch waits; sleep 30; }\n";
    place.write("lifeboat.yaml", plan.as_bytes());
    place.succeeds(&["repository", "init"]);
    place.succeeds(&["backup"]);
    let mut child = place.command(&["verify", "--restore"]).spawn().unwrap();
    let begin = Instant::now();
    while !place.path("waits").exists() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it does not come to the proof");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = place.run(&["status"]);
    assert!(!status.contains("was killed") && !status.contains("is not at its end"), "it runs: {status}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!scratch(&place).is_empty());
    let status = place.run(&["status"]);
    assert!(
        status.contains("was killed and has shown nothing") && status.contains("state/scratch/"),
        "{status}"
    );
    place.write("quick", b"");
    place.succeeds(&["verify", "--restore"]);
    assert!(scratch(&place).is_empty(), "{:?}", scratch(&place));
    let status = place.run(&["status"]);
    assert!(!status.contains("was killed"), "{status}");
}

#[test]
fn a_restore_speaks_of_no_disaster_where_there_is_none() {
    let hub = Hub::running();
    let said = hub.exits(&["restore", "database", "--dry-run"], 0);
    assert!(!said.contains("disaster") && said.contains(" old, "), "{said}");
    hub.exits(&["restore", "config", "--to", "look", "--yes"], 0);
    let report = hub.exits(&["report", "latest"], 0);
    assert!(!report.contains("disaster") && report.contains("| age |"), "{report}");
}

#[test]
fn a_negative_drill_notices_what_was_damaged_in_files_and_in_a_database() {
    let hub = Hub::running();
    let said = hub.exits(&["verify", "--restore", "--negative"], 0);
    for damage in
        ["was flipped", "was removed", "rows of the table", "bytes were flipped in page", "was cut to"]
    {
        assert!(said.contains(damage), "{damage}: {said}");
    }
    assert_eq!(said.matches("; noticed: ").count(), 6, "three ways, two components: {said}");
    assert!(scratch(&hub.place).is_empty(), "{:?}", scratch(&hub.place));
    assert_eq!(hub.sql("select count(*) from agents"), AGENTS.to_string(), "the source was not touched");
}

#[test]
fn a_proof_that_holds_for_anything_has_failed() {
    let place = Place::new().with("LIFEBOAT_STATE", "state").with("PATH", "/usr/bin:/bin");
    let plan = |verify: &str| {
        format!(
            "lifeboat: 1\nname: shop\nrepository: {{ location: repository, password: \"${{env:LIFEBOAT_PASSWORD}}\" }}\n\
             components:\n  notes:\n    command: echo a note\n    file: notes.txt\n    restore: cat\n    verify: {verify}\n"
        )
    };
    place.write("lifeboat.yaml", plan("cat > /dev/null").as_bytes());
    place.succeeds(&["repository", "init"]);
    place.succeeds(&["backup"]);
    place.succeeds(&["verify", "--restore"]);
    let said = place.run(&["verify", "--restore", "--negative"]);
    assert!(said.contains("the proof of notes proves nothing: a byte of "), "{said}");
    assert!(said.ends_with("exit code 1"), "{said}");
    assert!(place.run(&["status"]).contains("proves nothing"), "{}", place.run(&["status"]));
    place.write("lifeboat.yaml", plan("grep -qx 'a note'").as_bytes());
    let said = place.run(&["verify", "--restore", "--negative"]);
    assert!(said.ends_with("exit code 0"), "{said}");
}

#[test]
fn a_negative_drill_notices_what_was_damaged_in_a_cluster() {
    let cluster = Cluster::with(&[]);
    cluster.sql("create table orders(n int); insert into orders select generate_series(1, 5000)");
    let state = cluster.home.path().join("state");
    let place = Place::new().with("LIFEBOAT_STATE", &state.to_string_lossy());
    let write_plan = |facts: &str| {
        let plan = format!(
            "lifeboat: 1\nname: shop\nrepository: {{ location: repository, password: \"${{env:LIFEBOAT_PASSWORD}}\" }}\n\
             components:\n  orders:\n    postgres: {}\n    role: keeper\n{facts}",
            cluster.data().display()
        );
        place.write("lifeboat.yaml", plan.as_bytes());
    };
    write_plan("    facts: { orders: select count(*) from orders }\n");
    place.succeeds(&["repository", "init"]);
    place.succeeds(&["backup"]);
    let said = place.succeeds(&["verify", "--restore", "--negative"]);
    for noticed in
        ["bytes were flipped in a row", "half of the pages of all 1 tables", "where the replay begins"]
    {
        assert!(said.contains(noticed), "{noticed}: {said}");
    }
    assert_eq!(said.matches("; noticed: ").count(), 3, "{said}");
    assert!(said.contains("pg_checksums is ") && said.contains("fact orders is 2"), "{said}");
    assert!(!state.join("scratch").read_dir().is_ok_and(|mut left| left.next().is_some()));
    assert_eq!(cluster.sql("select count(*) from orders"), "5000", "the source was not touched");

    // Without a fact of its own, nothing tells that rows are gone.
    write_plan("");
    place.succeeds(&["backup"]);
    let said = place.run(&["verify", "--restore", "--negative"]);
    assert!(said.contains("proves nothing: half of the pages") && said.ends_with("exit code 1"), "{said}");
}

#[test]
fn a_negative_drill_notices_what_was_damaged_in_a_dump_of_redis() {
    let cache = Cache::new();
    for number in 0..500 {
        cache.ask(&["SET", &format!("key:{number}"), &format!("value {number}")]);
    }
    let place = Place::new().with("CACHE_PASSWORD", "right-word").with("LIFEBOAT_STATE", "state");
    let plan = format!(
        "lifeboat: 1\nname: shop\nrepository: {{ location: repository, password: \"${{env:LIFEBOAT_PASSWORD}}\" }}\ncomponents:\n  \
         cache:\n    redis: {}\n    socket: {}\n    password: \"${{env:CACHE_PASSWORD}}\"\n    facts: {{ first: GET key:0 }}\n",
        cache.data().display(),
        cache.socket().display(),
    );
    place.write("lifeboat.yaml", plan.as_bytes());
    place.succeeds(&["repository", "init"]);
    place.succeeds(&["backup"]);
    let said = place.succeeds(&["verify", "--restore", "--negative"]);
    for noticed in ["was flipped", "all keys of ", "was cut to"] {
        assert!(said.contains(noticed), "{noticed}: {said}");
    }
    assert_eq!(said.matches("; noticed: ").count(), 3, "{said}");
    assert_eq!(cache.ask(&["DBSIZE"]), "500", "the source was not touched");
}
