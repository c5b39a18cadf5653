//! The lines of `--json`: every line parses, the first and last are what they should be, and each event is described.

use serde_json::Value;

use crate::harness::Place;

fn lines(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let output = place.output(arguments);
    assert!(output.stderr.is_empty(), "all goes to standard output: {}", place.transcript(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["event"], "start");
    assert_eq!(lines[0]["schema"], 1);
    let end = lines.last().unwrap();
    assert_eq!(end["event"], "end");
    assert_eq!(end["exit_code"].as_i64(), output.status.code().map(i64::from));
    let described = include_str!("../../../../docs/json.md");
    for line in &lines {
        let event = line["event"].as_str().unwrap();
        assert!(described.contains(&format!("### `{event}`")), "docs/json.md does not describe {event}");
        for field in line.as_object().unwrap().keys() {
            assert!(
                described.contains(&format!("`{field}`")),
                "docs/json.md does not describe {field} of {event}"
            );
        }
    }
    lines
}

#[test]
fn a_life() {
    let place = Place::with_snapshot();
    place.write("tree/c", b"third");
    let backup = lines(&place, &["repository", "backup", "tree", "--host", "here", "--json", "--verbose"]);
    let end = backup.last().unwrap();
    assert_eq!(end["outcome"], "verified");
    assert_eq!(end["summary"]["files_new"], 1);
    let id = end["summary"]["snapshot_id"].as_str().unwrap().to_owned();
    assert!(
        backup
            .iter()
            .any(|line| line["event"] == "item" && line["path"].as_str().unwrap().ends_with("tree/c"))
    );

    let listed = lines(&place, &["repository", "snapshots", "--json"]);
    assert_eq!(listed.iter().filter(|line| line["event"] == "snapshot").count(), 2);
    assert!(listed.iter().any(|line| line["id"] == id.as_str()));
    let nodes = lines(&place, &["repository", "ls", &id, "--json"]);
    assert!(nodes.iter().any(|line| line["path"] == "/tree/sub/b.txt" && line["size"] == 6));
    lines(&place, &["repository", "find", "a.txt", "--json"]);
    lines(&place, &["repository", "diff", "latest", &id, "--json"]);
    lines(&place, &["repository", "key", "list", "--json"]);
    lines(&place, &["repository", "restore", "latest", "--target", "back", "--json", "--dry-run"]);
    lines(&place, &["repository", "restore", "latest", "--target", "back", "--json"]);
    lines(&place, &["repository", "check", "--read-data", "--json"]);
    let forgotten = lines(&place, &["repository", "forget", "--keep-last", "1", "--json"]);
    assert!(forgotten.iter().any(|line| line["event"] == "removed" && line["kind"] == "snapshot"));
    lines(&place, &["repository", "prune", "--json"]);
    lines(&place, &["repository", "stats", "--json"]);
}

#[test]
fn errors_are_events() {
    let place = Place::with_snapshot().with("LIFEBOAT_PASSWORD", "guess");
    let lines = lines(&place, &["repository", "snapshots", "--json"]);
    let error = lines.iter().find(|line| line["event"] == "error").unwrap();
    assert!(error["message"].as_str().unwrap().starts_with("wrong password"));
    assert_eq!(lines.last().unwrap()["outcome"], "could_not_run");
}
