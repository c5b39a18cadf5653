//! The first plan of a machine, from looking to the first backup.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::Place;

/// A place with an application in it, and no repository of its own in the environment.
fn application() -> Place {
    let place = Place::new().with("LIFEBOAT_REPOSITORY", "").with("LIFEBOAT_PASSWORD", "");
    let state = place.path("state").to_str().unwrap().to_owned();
    let place = place.with("LIFEBOAT_STATE", &state);
    place.write("app/config/app.toml", b"port = 1");
    place.write("app/.env", b"TOKEN=s3cr3t-value\n");
    place.write("app/uploads/cat.jpg", b"meow");
    let database = rusqlite::Connection::open(place.path("app/it's \"a\" shop.db")).unwrap();
    database.execute_batch("create table orders (x); insert into orders values (1), (2)").unwrap();
    place
}

const PLAN: &str = "app/lifeboat.yaml";
const INIT: [&str; 5] = ["init", "app", "--output", PLAN, "--yes"];

#[test]
fn the_commands_that_it_tells_work_one_after_the_other() {
    let place = application();
    let output = place.output(&INIT);
    let told = place.transcript(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("Keep a copy of the password somewhere else"), "{told}");
    let plan = std::fs::read_to_string(place.path(PLAN)).unwrap();
    let password = std::fs::read_to_string(place.path("app/lifeboat-password")).unwrap();
    for secret in ["s3cr3t-value", password.trim()] {
        assert!(!plan.contains(secret) && !told.contains(secret), "{told}\n{plan}");
    }
    let mode = std::fs::metadata(place.path("app/lifeboat-password")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let next: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("  lifeboat ")).collect();
    assert_eq!(next.len(), 3, "{told}");
    for command in &next[..2] {
        let words: Vec<&str> = command.split(' ').collect();
        let output = place.output(&words);
        assert_eq!(output.status.code(), Some(0), "{command}: {}\n{plan}", place.transcript(&output));
    }
    assert_eq!(next[2], "drill server-lost --plan app/lifeboat.yaml");
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let place = application();
    place.write(PLAN, b"mine");
    let output = place.output(&INIT);
    assert_eq!(output.status.code(), Some(3), "{}", place.transcript(&output));
    assert_eq!(std::fs::read(place.path(PLAN)).unwrap(), b"mine");
    assert!(!place.path("app/lifeboat-password").exists() && !place.path("app/lifeboat-repository").exists());

    // A second attempt after one that was cut off before its plan takes what is there.
    std::fs::remove_file(place.path(PLAN)).unwrap();
    place.write("app/lifeboat-password", b"chosen\n");
    place.succeeds(&INIT);
    std::fs::remove_file(place.path(PLAN)).unwrap();
    place.succeeds(&INIT);
    assert_eq!(std::fs::read(place.path("app/lifeboat-password")).unwrap(), b"chosen\n");

    // A repository without its password is nobody's to guess.
    for name in [PLAN, "app/lifeboat-password"] {
        std::fs::remove_file(place.path(name)).unwrap();
    }
    let output = place.output(&INIT);
    assert_eq!(output.status.code(), Some(3), "{}", place.transcript(&output));
    assert!(!place.path(PLAN).exists() && !place.path("app/lifeboat-password").exists());
}

#[test]
fn without_a_yes_nothing_is_written() {
    let place = application();
    let output = place.output(&INIT[..4]);
    assert_eq!(output.status.code(), Some(3), "{}", place.transcript(&output));
    for name in [PLAN, "app/lifeboat-password", "app/lifeboat-repository"] {
        assert!(!place.path(name).exists(), "{name}");
    }
}

#[test]
fn an_empty_directory_makes_no_plan() {
    let place = application();
    std::fs::create_dir(place.path("empty")).unwrap();
    let output = place.output(&["init", "empty", "--yes"]);
    assert_eq!(output.status.code(), Some(3), "{}", place.transcript(&output));
    assert!(place.transcript(&output).contains("nothing to protect"));
    assert!(!place.path("lifeboat.yaml").exists());
}
