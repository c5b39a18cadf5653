//! What people read of the commands that work by a plan, as it stands on the terminal: the files of `snapshots`.
//!
//! What differs from run to run and from machine to machine (ids, times, sizes, ports, processes) is taken out.

use crate::harness::{FILTERS, Place};
use crate::hub::Hub;

/// What differs from run to run and from machine to machine, besides what differs everywhere. In this order.
const MORE_FILTERS: [(&str, &str); 13] = [
    // Cut off after so many characters, which are more or fewer by the length of the directory.
    (r"(?m)^( +[\w.]+ .*?)  \S.*\[dir\].*$", "$1  [what is typed in the directory]"),
    (r"\b\d{8}-\d{6}-\d{3}-(\w+)-[0-9a-f]{4}\b", "[$1 run]"),
    (r"tester@[\w.-]+", "tester@[host]"),
    (r"\| on \| \S+ with", "| on | [host] with"),
    (r"\bprocess \d+", "process [pid]"),
    (r#""pid": \d+"#, r#""pid": [pid]"#),
    (r"\bSQLite \d[\d.]*", "SQLite [version]"),
    (r"\bdigest [0-9a-f]{12}\b", "digest [digest]"),
    (r"\bback after .*", "back after [phases]"),
    (r"note: there is no network.*", "note: [what a twin lacks]"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z)?", "[time]"),
    (r"\b\d+(\.\d)? s\b", "[seconds]"),
    (r"-{3,}", "---"),
];

/// Compares what people read with the file `name` of the snapshots.
fn shown(name: &str, text: &str) {
    let filters: Vec<_> = MORE_FILTERS.into_iter().chain(FILTERS).collect();
    insta::with_settings!({ filters => filters, omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

/// The same with every blank as it is: carets stand below what they mean.
fn exactly(name: &str, text: &str) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

/// What a run says, with its exit code.
fn said(hub: &Hub, arguments: &[&str]) -> String {
    let text = hub.place.run(arguments).replace(&hub.port.to_string(), "[port]");
    format!("$ lifeboat {}\n{text}\n", arguments.join(" "))
}

#[test]
fn help_of_every_command_of_a_plan() {
    let place = Place::new();
    let top = place.succeeds(&["--help"]);
    let commands = top.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = commands.lines().filter_map(|line| line.split_whitespace().next());
    let names: Vec<_> = names.filter(|name| *name != "repository").collect();
    assert!(names.len() >= 16, "{names:?}");
    let mut text = String::new();
    for name in names {
        let help = place.succeeds(&[name, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("  lifeboat {name}")), "{name}: {help}");
        // What all of them have in common is shown once, with the first.
        let own = help.split("\nOutput:").next().unwrap();
        let own = own.split("\nPlan:").next().unwrap();
        let examples = help.rsplit("\nExamples:").next().unwrap();
        text += &format!("$ lifeboat {name} --help\n{own}\nExamples:{examples}\n");
    }
    shown("help", &text);
    shown("help_whole", &place.succeeds(&["backup", "--help"]));
}

#[test]
fn a_plan_with_several_errors() {
    let place = Place::new();
    place.write(
        "lifeboat.yaml",
        b"lifeboat: 1
name: shop
components:
  orders: { sqlite: orders.db, rpoo: 1h }
  config: { files: [/etc/shop], every: dayly }
services:
  shop: { process: ./shop, needs: [order] }
checks:
  served: { http: http://localhost/ }
scenarios:
  lost:
    steps:
      - restore: [orders, confg]
      - check: served
",
    );
    exactly("validate_errors", &place.run(&["validate"]));
    let json = place.output(&["validate", "--json"]);
    assert_eq!(json.status.code(), Some(3));
}

#[test]
fn a_plan_that_is_right_and_unwise() {
    let place = Place::new().with("LIFEBOAT_PASSWORD", "").with("LIFEBOAT_STATE", "state");
    place.write("password", b"secret");
    place.write("srv/page", b"page");
    place.write(
        "lifeboat.yaml",
        b"lifeboat: 1
name: shop
repository:
  location: ./repository
  password: ${file:password}
components:
  pages: { files: srv, rpo: 1h, every: 2h }
services:
  shop: { process: ./shop, needs: pages }
scenarios:
  lost:
    steps:
      - restore: pages
",
    );
    place.succeeds(&["repository", "init", "--password-file", "password"]);
    exactly("validate_warnings", &place.run(&["validate"]));
    let output = place.output(&["validate", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let warnings: Vec<_> = lines.iter().filter(|line| line["kind"] == "warning").collect();
    let line = warnings.iter().find(|line| line["answer"]["message"].as_str().unwrap().contains("every 2h"));
    assert_eq!(line.unwrap()["answer"]["line"], 7);
    assert_eq!(lines.last().unwrap()["summary"]["warnings"], warnings.len());
}

#[test]
fn a_bad_day_from_beginning_to_end() {
    let hub = Hub::new();
    let steps: [(&str, &[&[&str]]); 3] = [
        ("backup", &[&["backup", "database"], &["points"], &["backup", "nothing"]]),
        ("status_before", &[&["status"]]),
        ("boot", &[&["recover", "planned-start", "--yes"]]),
    ];
    for (name, commands) in steps {
        shown(name, &commands.iter().map(|command| said(&hub, command)).collect::<String>());
    }
    hub.sql("delete from agents");
    shown("diagnose", &said(&hub, &["diagnose"]));
    shown("recover_dry_run", &said(&hub, &["recover", "accidental-deletion", "--dry-run"]));
    shown("recover_unasked", &said(&hub, &["recover", "accidental-deletion"]));
    shown("recover", &said(&hub, &["recover", "accidental-deletion", "--yes"]));
    shown("report", &said(&hub, &["report", "latest"]));
    shown("rollback", &said(&hub, &["rollback", "latest", "--yes"]));
    shown("drill", &said(&hub, &["drill", "database-corruption"]));
    shown("status_after", &said(&hub, &["status"]));
}

#[test]
fn the_printed_runbook() {
    let hub = Hub::new();
    hub.place.succeeds(&["backup", "database"]);
    shown("runbook", &said(&hub, &["runbook"]));
}
