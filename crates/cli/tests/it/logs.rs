//! Archived logs by the real binary: the time line of `points`, the alarm of `status`, `verify --data`, copies.
//!
//! The log is archived by the test as a shipper would; what it says is about positions only.

use std::sync::OnceLock;

use jiff::{SignedDuration, Timestamp};
use repository::Context;
use repository::log::{Archive, Piece, Scope};

use crate::hub::Hub;
use crate::retention::{copied, open, point_at};

/// Positions are minutes after this.
fn begin() -> Timestamp {
    static BEGIN: OnceLock<Timestamp> = OnceLock::new();
    *BEGIN.get_or_init(|| Timestamp::from_second(Timestamp::now().as_second() - 36_000).unwrap())
}

fn at(position: u64) -> Timestamp {
    begin() + SignedDuration::from_mins(position.try_into().unwrap())
}

/// A point of the database that stands at a position of its log.
fn point(hub: &Hub, position: u64) {
    point_at(hub, "database", at(position), |record| {
        record["recorded"]["log"] =
            serde_json::json!({ "lineage": "one", "needed_from": position, "consistent_at": position });
    });
}

fn archive(hub: &Hub, location: &str) -> Archive {
    Archive::new(&open(hub, location), "database").unwrap()
}

fn log(hub: &Hub, from: u64, to: u64) {
    let appender = archive(hub, "lifeboat-repository").appender("one").unwrap();
    for first in (from..to).step_by(10) {
        let until_ms = at(first + 10).as_millisecond().try_into().ok();
        let piece = Piece {
            first,
            last: first + 10,
            from_ms: None,
            until_ms,
            name: None,
            bytes: b"what was written",
        };
        appender.append_after_gap(&piece).unwrap();
    }
}

/// What a command says in JSON, by kind.
fn said(hub: &Hub, arguments: &[&str], kind: &str) -> serde_json::Value {
    let output = hub.place.succeeds(arguments);
    let lines = output.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["kind"] == kind).next_back().unwrap_or_else(|| panic!("{output}"))["answer"]
        .clone()
}

#[test]
fn a_log_is_shown_verified_and_copied() {
    let hub = copied();
    assert!(!hub.place.succeeds(&["points"]).contains("any instant"), "no log, no time line");
    point(&hub, 60);
    point(&hub, 120);
    log(&hub, 60, 240);
    log(&hub, 300, 360);
    // The line from the first point to the newest, which is that of the backup.
    let shown = hub.place.succeeds(&["points", "database"]);
    let line = shown.lines().find(|line| line.contains("=*=")).unwrap_or_else(|| panic!("{shown}"));
    assert!(
        line.trim_start().starts_with("*===") && line.contains("=xxx") && line.trim_end().ends_with("one"),
        "{line}"
    );
    let second = |position| at(position).strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let stretch = format!("any instant from {} to {} (2 points)", second(60), second(240));
    assert!(shown.contains(&stretch), "{shown}");
    assert!(shown.contains(&format!("GAP from {}: 0xf0 to 0x12c is missing", second(240))), "{shown}");
    let told = said(&hub, &["points", "database", "--json"], "log");
    assert_eq!(told["stretches"][0]["points"].as_array().unwrap().len(), 2);
    assert_eq!(
        told["gaps"][0]["hides_newest"], false,
        "the point of the backup is newer than all of the log"
    );
    // Verified: what is new, and never twice; the gap is an error.
    let failed = hub.place.run(&["verify", "--data"]);
    assert!(failed.ends_with("exit code 1") && failed.contains("has a gap from 0xf0 to 0x12c"), "{failed}");
    let report = archive(&hub, "lifeboat-repository").verify(Scope::New, Context::silent()).unwrap();
    assert_eq!((report.verified, report.known), (0, 24));
    // The copy gets it, and a recovery from the copy would have it.
    hub.place.succeeds(&["copy"]);
    let repository = {
        let store = store::Local::open(hub.place.path("second")).unwrap();
        let clock = repository::Clock::system();
        repository::Repository::open(std::sync::Arc::new(store), b"another secret", clock).unwrap()
    };
    let copied = Archive::new(&repository, "database").unwrap().catalogue().unwrap();
    assert_eq!(copied.get("one").unwrap().runs.len(), 2);
    let from_copy = hub.place.succeeds(&["points", "database", "--from", "1"]);
    assert!(from_copy.contains(&stretch), "{from_copy}");
}

#[test]
fn status_tells_of_a_gap_that_hides_what_is_newest() {
    let hub = Hub::new();
    hub.start();
    hub.place.succeeds(&["backup"]);
    point(&hub, 60);
    log(&hub, 60, 90);
    log(&hub, 100, 110);
    // Newer than the backup: as if the log had gone on, behind a gap.
    let appender = archive(&hub, "lifeboat-repository").appender("one").unwrap();
    let until_ms = Timestamp::now().as_millisecond().try_into().ok().map(|now: u64| now + 1000);
    appender
        .append(&Piece { first: 110, last: 120, from_ms: None, until_ms, name: None, bytes: b"x" })
        .unwrap();
    let told = hub.place.run(&["status"]);
    assert!(told.ends_with("exit code 1"), "{told}");
    assert!(told.contains("BROKEN") && told.contains("a gap from 0x5a to 0x64"), "{told}");
}
