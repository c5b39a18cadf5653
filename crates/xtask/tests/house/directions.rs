//! Crate directions: which crate may use which, checked over `cargo metadata`.
//!
//! A new crate is a line in [`MAY_USE`]; crates that are planned and not made yet are in it already.

use std::process::Command;

use serde_json::Value;

/// Every crate of the workspace and the crates of the workspace that it may depend on.
const MAY_USE: &[(&str, &[&str])] = &[
    ("plan", &[]),
    ("store", &[]),
    ("repository", &["store"]),
    ("runbook", &[]),
    ("place", &[]),
    ("estate", &["place"]),
    ("engine", &["plan", "store", "repository", "runbook", "place", "estate"]),
    ("server", &["engine"]),
    // Use cases are the engine's; the plain data that goes in and out is of the crates that own it. The commands of
    // `lifeboat repository` work without a plan and call the repository themselves.
    ("lifeboat", &["engine", "server", "plan", "runbook", "place", "estate", "repository", "store"]),
    ("xtask", &[]),
    // Real S3 servers, for the tests of whatever talks to one.
    ("s3-for-tests", &[]),
    // A real, booted systemd, for the tests of whatever works with units.
    ("systemd-for-tests", &[]),
];

/// Crates of the workspace that tests may use and nothing else.
const FOR_TESTS: &[&str] = &["s3-for-tests", "systemd-for-tests"];

/// Crates from outside that belong in some rooms only, whatever else would be convenient.
const ONLY_IN: &[(&str, &[&str])] = &[
    // Arguments, terminals and prompts are the command line's.
    ("clap", &["lifeboat", "xtask"]),
    ("indicatif", &["lifeboat"]),
    ("rpassword", &["lifeboat"]),
    // Everything but the server and the inside of a network store is synchronous.
    ("tokio", &["store", "server"]),
    ("object_store", &["store"]),
    // A library error keeps its type; it may be erased at the edge.
    ("anyhow", &["lifeboat", "server"]),
];

/// One crate and everything that it depends on directly.
struct Member {
    name: String,
    uses: Vec<Use>,
}

/// A dependency, and whether only tests have it.
struct Use {
    name: String,
    in_tests: bool,
}

#[test]
fn crates_use_only_what_they_may() {
    let members = members_of_the_workspace();
    assert!(
        members.iter().any(|member| member.name == "repository"),
        "the metadata shows no repository crate"
    );
    let violations = violations(&members);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn a_wrong_direction_is_found() {
    let member = |name: &str, uses: &[&str]| {
        let used = |word: &&str| match word.strip_prefix("tests: ") {
            Some(name) => Use { name: name.to_owned(), in_tests: true },
            None => Use { name: (*word).to_owned(), in_tests: false },
        };
        Member { name: name.to_owned(), uses: uses.iter().map(used).collect() }
    };
    let wrong = [
        member("store", &["bytes", "tests: repository", "tests: s3-for-tests"]),
        member("repository", &["store", "clap", "s3-for-tests"]),
        member("lifeboat", &["repository", "store", "xtask", "clap"]),
        member("attic", &["bytes"]),
    ];
    assert_eq!(
        violations(&wrong),
        [
            "store must not use repository",
            "repository must not use clap",
            "repository must not use s3-for-tests",
            "lifeboat must not use xtask",
            "attic has no line in MAY_USE",
        ]
    );
}

#[test]
fn no_crate_may_use_the_command_line_or_xtask() {
    for (name, allowed) in MAY_USE {
        assert!(!allowed.contains(&"lifeboat") && !allowed.contains(&"xtask"), "{name}");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let document =
        std::fs::read_to_string(crate::workspace().join("ARCHITECTURE.md")).expect("the document is there");
    let (_, reasons) =
        document.split_once("\n## Dependencies\n").expect("the document has a list of dependencies");
    let members = members_of_the_workspace();
    let outside =
        members.iter().flat_map(|member| &member.uses).filter(|used| !is_ours(&used.name, &members));
    let mut unexplained: Vec<&str> = outside
        .map(|used| used.name.as_str())
        .filter(|name| !reasons.contains(&format!("`{name}`")))
        .collect();
    unexplained.sort_unstable();
    unexplained.dedup();
    assert!(unexplained.is_empty(), "ARCHITECTURE.md gives no reason for {unexplained:?}");
}

fn violations(members: &[Member]) -> Vec<String> {
    let mut found = Vec::new();
    for Member { name, uses } in members {
        let Some((_, allowed)) = MAY_USE.iter().find(|(ours, _)| ours == name) else {
            found.push(format!("{name} has no line in MAY_USE"));
            continue;
        };
        for Use { name: used, in_tests } in uses {
            let for_tests = *in_tests && FOR_TESTS.contains(&used.as_str());
            let wrong_direction = is_ours(used, members) && !for_tests && !allowed.contains(&used.as_str());
            let wrong_room =
                ONLY_IN.iter().any(|(outside, rooms)| outside == used && !rooms.contains(&name.as_str()));
            if wrong_direction || wrong_room {
                found.push(format!("{name} must not use {used}"));
            }
        }
    }
    found
}

/// Tells our crates, those that are planned included, from those of others.
fn is_ours(name: &str, members: &[Member]) -> bool {
    MAY_USE.iter().any(|(ours, _)| *ours == name) || members.iter().any(|member| member.name == name)
}

fn members_of_the_workspace() -> Vec<Member> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(crate::workspace())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let name =
        |item: &Value| item["name"].as_str().expect("everything in the metadata has a name").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let used = |dependency: &Value| Use { name: name(dependency), in_tests: dependency["kind"] == "dev" };
    let member = |package: &Value| Member {
        name: name(package),
        uses: list(&package["dependencies"]).iter().map(used).collect(),
    };
    list(&metadata["packages"]).iter().map(member).collect()
}
