//! What the plan's `keep` and `copies` promise, by the real binary on the estate of devops-hub; and the ways in which
//! retention and copies fail elsewhere, each staged.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use repository::{Clock, FileKind, Id, Repository};

use crate::hub::{AGENTS, Hub};

/// The hub's repository, or a copy of it, opened as a library.
pub fn open(hub: &Hub, location: &str) -> Repository {
    let store = store::Local::open(hub.place.path(location)).unwrap();
    Repository::open(Arc::new(store), b"secret", Clock::system()).unwrap()
}

/// Makes of the component's newest point another one as it would have been at that time: the same data, an older (or
/// later) date. `change` may change its record.
pub fn point_at(
    hub: &Hub,
    component: &str,
    instant: Timestamp,
    change: impl Fn(&mut serde_json::Value),
) -> Id {
    let repository = open(hub, "lifeboat-repository");
    let records = repository.sidecar_list("points").unwrap().into_iter().map(|(name, _)| {
        let bytes = repository.sidecar_read(&name).unwrap().unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
    });
    let newest = records
        .filter(|record| record["component"] == component)
        .max_by_key(|record| record["recorded"]["instant"].as_str().unwrap().parse::<Timestamp>().unwrap());
    let mut record = newest.unwrap();
    let id: Id = record["snapshot"].as_str().unwrap().parse().unwrap();
    let mut snapshot: serde_json::Value = repository.load_json(FileKind::Snapshot, &id).unwrap();
    snapshot["time"] = instant.to_string().into();
    let made = repository.save_json(FileKind::Snapshot, &snapshot).unwrap();
    record["snapshot"] = made.to_hex().into();
    record["recorded"]["instant"] = instant.to_string().into();
    change(&mut record);
    let bytes = serde_json::to_vec(&record).unwrap();
    repository.sidecar_create(&format!("points/{made}"), &bytes).unwrap();
    made
}

fn ago(hours: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(hours)
}

/// The snapshots of a component's points, oldest first, as `lifeboat points` shows them.
pub fn points(hub: &Hub, component: &str) -> Vec<String> {
    let said = hub.place.succeeds(&["points", component, "--json"]);
    let lines = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let points = lines.filter(|line| line["kind"] == "point");
    points.map(|line| line["answer"]["snapshot"].as_str().unwrap().to_owned()).collect()
}

/// The plan with a shorter memory, so that little is needed to show it.
fn short(plan: &str) -> String {
    plan.replace("keep: { last: 48, daily: 30 }", "keep: { last: 2, daily: 3 }")
}

/// The plan with a copy, of a password of its own.
fn with_copy(plan: &str) -> String {
    let copies =
        "copies:\n  - { location: ./second, password: \"${file:.second-password}\" }\n\ncomponents:\n";
    plan.replacen("components:\n", copies, 1)
}

/// A hub with a copy that is made and filled.
pub fn copied() -> Hub {
    let hub = Hub::with_plan(|plan| with_copy(&plan));
    hub.place.write(".second-password", b"another secret\n");
    hub.start();
    hub.place.succeeds(&["copy", "--init"]);
    hub.place.succeeds(&["backup"]);
    hub
}

#[test]
fn a_backup_forgets_what_the_plan_does_not_keep() {
    let hub = Hub::with_plan(|plan| short(&plan));
    hub.place.succeeds(&["backup"]);
    // Six days, a point each, as a cron job would have made them.
    let old: Vec<String> =
        (1..=6).map(|days| point_at(&hub, "database", ago(24 * days), |_| {}).to_hex()).collect();
    let kept_of_config = points(&hub, "config");
    let said = hub.exits(&["forget", "--dry-run"], 0);
    assert!(said.contains("dry run: 4 points would be forgotten"), "{said}");
    assert_eq!(points(&hub, "database").len(), 7, "a dry run changes nothing");
    let said = hub.exits(&["backup", "database"], 0);
    assert!(said.contains("forgot") && said.contains("kept ("), "{said}");
    // The two newest, and the newest of the last three days.
    let left = points(&hub, "database");
    assert!(left.contains(&old[0]) && left.contains(&old[1]), "{left:?}\n{said}");
    assert!(old[2..].iter().all(|gone| !left.contains(gone)), "{left:?}\n{said}");
    assert_eq!(points(&hub, "config"), kept_of_config, "only what was backed up");
    assert_eq!(hub.place.files("lifeboat-repository/lifeboat/points").len(), left.len() + 1);
    hub.exits(&["verify", "--data"], 0);
    hub.exits(&["verify", "--restore"], 0);
}

#[test]
fn forgetting_by_hand_is_shown_asked_and_pruned() {
    let hub = Hub::with_plan(|plan| short(&plan));
    hub.place.succeeds(&["backup"]);
    for days in 1..=6 {
        point_at(&hub, "database", ago(24 * days), |_| {});
    }
    let said = hub.exits(&["forget"], 3);
    assert!(said.contains("--yes"), "nobody is there to ask: {said}");
    assert_eq!(points(&hub, "database").len(), 7);
    let said = hub.exits(&["forget", "--yes", "--prune"], 0);
    assert!(said.contains("forgot 4 points") && said.contains("pruned:"), "{said}");
    assert_eq!(points(&hub, "database").len(), 3);
    hub.exits(&["forget", "--yes"], 0);
    hub.exits(&["forget", "nonsense"], 3);
}

#[test]
fn implausible_points_push_no_good_one_out() {
    let hub = Hub::with_plan(|plan| short(&plan));
    hub.place.succeeds(&["backup"]);
    let good = points(&hub, "database");
    hub.sql("delete from workflows");
    hub.sql("delete from agents where id > 100");
    for _ in 0..4 {
        hub.exits(&["backup", "database"], 1);
    }
    let said = hub.exits(&["forget", "--yes"], 0);
    assert!(points(&hub, "database").contains(&good[0]), "{said}");
    hub.exits(&["restore", "database", "--to", "look"], 0);
    // A repository in which no point counts at all keeps every one.
    let hub = Hub::with_plan(|plan| short(&plan));
    hub.place.succeeds(&["backup", "database"]);
    let empty = |record: &mut serde_json::Value| {
        record["plausibility"] = serde_json::json!({ "implausible": ["empty"] });
    };
    for days in 1..=6 {
        point_at(&hub, "database", ago(24 * days), empty);
    }
    let only = points(&hub, "database").pop().unwrap();
    hub.place.succeeds(&["repository", "forget", &only]);
    let said = hub.exits(&["forget", "--yes"], 0);
    assert_eq!(points(&hub, "database").len(), 6, "{said}");
}

#[test]
fn a_clock_that_jumped_forgets_nothing() {
    let hub = Hub::with_plan(|plan| short(&plan));
    hub.place.succeeds(&["backup"]);
    for days in 1..=6 {
        point_at(&hub, "database", ago(24 * days), |_| {});
    }
    let ahead = point_at(&hub, "config", ago(-24 * 400), |_| {});
    let said = hub.exits(&["forget", "--yes"], 3);
    assert!(said.contains("dated in the future"), "{said}");
    // The backup is good and its point stands; what it left out is told, and is no green.
    let said = hub.exits(&["backup", "database"], 2);
    assert!(said.contains("dated in the future"), "{said}");
    assert_eq!(points(&hub, "database").len(), 8);
    hub.place.succeeds(&["repository", "forget", &ahead.to_hex()]);
    hub.exits(&["backup", "database"], 0);
    assert_eq!(points(&hub, "database").len(), 4);
}

#[test]
fn the_last_proven_point_outlives_every_rule() {
    let hub = Hub::with_plan(|plan| short(&plan));
    hub.place.succeeds(&["backup"]);
    let proven = points(&hub, "database").remove(0);
    hub.exits(&["verify", "--restore", "database"], 0);
    // Its days go by: it is the oldest of all now.
    for minutes in 1..=5 {
        point_at(&hub, "database", Timestamp::now() + SignedDuration::from_mins(minutes), |_| {});
    }
    let said = hub.exits(&["forget", "--yes"], 0);
    assert!(said.contains("the last that was proven"), "{said}");
    let left = points(&hub, "database");
    assert!(left.contains(&proven) && left.len() < 5, "{left:?}\n{said}");
}

#[test]
fn what_an_open_recovery_uses_stays_until_it_is_committed() {
    let hub = Hub::with_plan(|plan| short(&plan));
    hub.place.succeeds(&["backup"]);
    let used = points(&hub, "database").remove(0);
    hub.exits(&["restore", "database", "--yes"], 0);
    for minutes in 1..=4 {
        point_at(&hub, "database", Timestamp::now() + SignedDuration::from_mins(minutes), |_| {});
    }
    // A newer one is proven by now, so that only the run holds this one.
    let restore = hub.place.files("state/runs").into_iter().map(|path| path.to_string_lossy().into_owned());
    let restore = restore.filter(|path| path.contains("-restore-")).max().unwrap();
    let restore = restore.split('/').find(|part| part.contains("-restore-")).unwrap().to_owned();
    hub.exits(&["verify", "--restore", "database"], 0);
    let said = hub.exits(&["forget", "--yes"], 0);
    assert!(said.contains("used by run"), "{said}");
    assert!(points(&hub, "database").contains(&used));
    hub.exits(&["commit", &restore, "--yes"], 0);
    hub.exits(&["forget", "--yes"], 0);
    assert!(!points(&hub, "database").contains(&used));
}

#[test]
fn records_of_snapshots_that_others_removed_go_with_a_prune() {
    let hub = Hub::new();
    hub.place.succeeds(&["backup"]);
    // Nothing has changed since; that is no loss.
    hub.place.succeeds(&["backup"]);
    let oldest = points(&hub, "database").remove(0);
    let records = || hub.place.files("lifeboat-repository/lifeboat/points").len();
    let before = records();
    hub.place.succeeds(&["repository", "forget", &oldest]);
    hub.place.succeeds(&["repository", "prune"]);
    assert_eq!(records(), before, "a day to be noticed");
    hub.place.succeeds(&["repository", "prune", "--instant-delete"]);
    assert_eq!(records(), before - 1);
}

#[test]
fn a_copy_gets_every_point_and_a_recovery_from_it_needs_nothing_else() {
    let hub = copied();
    let rows = hub.rows();
    let said = hub.place.transcript(&hub.place.output(&["status"]));
    let current =
        said.lines().filter(|line| line.starts_with("./second") && line.contains("current")).count();
    assert_eq!(current, 2, "{said}");
    // Stock restic reads it, with its own password.
    let restic = std::process::Command::new("restic")
        .args(["-r", "second", "--password-file", ".second-password", "check", "--read-data"])
        .current_dir(hub.place.path(""))
        .env("HOME", hub.place.path(""))
        .output()
        .unwrap();
    assert!(restic.status.success(), "{}", String::from_utf8_lossy(&restic.stderr));
    std::fs::remove_dir_all(hub.place.path("lifeboat-repository")).unwrap();
    hub.sql("delete from agents");
    let said = hub.exits(&["recover", "accidental-deletion", "--yes"], 3);
    assert!(said.contains("--from ./second"), "the way out is shown: {said}");
    let said = hub.exits(&["recover", "accidental-deletion", "--yes", "--from", "./second"], 0);
    assert!(said.contains("from the copy ./second"), "{said}");
    assert_eq!(hub.rows(), rows);
    assert_eq!(hub.sql("select count(*) from agents"), AGENTS.to_string());
    // What a bad day still needs after that needs the lost repository no more than the recovery did.
    let said = hub.place.transcript(&hub.place.output(&["diagnose", "--from", "./second"]));
    assert!(said.contains("✓ database-intact"), "{said}");
    hub.exits(&["rollback", "latest", "--yes", "--from", "./second"], 0);
    assert_eq!(hub.sql("select count(*) from agents"), "0");
    hub.exits(&["recover", "accidental-deletion", "--yes", "--from", "./second"], 0);
    let said = hub.exits(&["order", "latest", "pause"], 3);
    assert!(said.contains("at its end"), "{said}");
    hub.exits(&["commit", "latest", "--yes", "--from", "./second"], 0);
    hub.exits(&["verify", "--restore", "--from", "1"], 0);
    hub.exits(&["points", "--from", "./second"], 0);
    let said = hub.exits(&["recover", "accidental-deletion", "--yes", "--from", "elsewhere"], 3);
    assert!(said.contains("the plan's copies: ./second"), "{said}");
}

#[test]
fn a_copy_that_is_away_is_no_green_and_catches_up() {
    let hub = copied();
    std::fs::rename(hub.place.path("second"), hub.place.path("away")).unwrap();
    let said = hub.exits(&["backup", "database"], 2);
    assert!(said.contains("the copy ./second did not get database"), "{said}");
    assert!(
        said.contains("its newest point of database is") && said.contains("the point itself stands"),
        "{said}"
    );
    assert!(!hub.place.path("second").exists(), "a copy is made only when that is asked for");
    let said = hub.place.transcript(&hub.place.output(&["status"]));
    assert!(said.contains("UNREACHABLE"), "{said}");
    let said = hub.exits(&["copy"], 1);
    assert!(said.contains("lifeboat copy --init"), "{said}");
    std::fs::rename(hub.place.path("away"), hub.place.path("second")).unwrap();
    let said = hub.place.transcript(&hub.place.output(&["status"]));
    assert!(
        said.lines().any(|line| line.starts_with("./second  database") && line.contains("behind")),
        "{said}"
    );
    hub.exits(&["copy"], 0);
    let said = hub.place.transcript(&hub.place.output(&["status"]));
    assert!(!said.contains("behind  "), "{said}");
    hub.exits(&["backup"], 0);
}

#[test]
fn a_copy_with_another_key_than_the_plan_says_is_no_green() {
    let hub = copied();
    hub.place.write(".second-password", b"forgotten\n");
    let said = hub.exits(&["backup", "database"], 2);
    assert!(said.contains("wrong password"), "{said}");
}

#[test]
fn a_copy_keeps_by_the_plan_as_well() {
    let hub = Hub::with_plan(|plan| short(&with_copy(&plan)));
    hub.place.write(".second-password", b"another secret\n");
    let said = hub.exits(&["backup"], 2);
    assert!(said.contains("lifeboat copy --init") && said.contains("its age is not known"), "{said}");
    for days in 1..=6 {
        point_at(&hub, "database", ago(24 * days), |_| {});
    }
    hub.place.succeeds(&["copy", "--init"]);
    assert_eq!(hub.place.files("second/snapshots").len(), 8);
    hub.exits(&["backup", "database"], 0);
    // Three days and the newest two, and the one of config.
    assert_eq!(hub.place.files("second/snapshots").len(), points(&hub, "database").len() + 1);
    assert_eq!(hub.place.files("second/lifeboat/points").len(), hub.place.files("second/snapshots").len());
}

#[test]
fn facts_of_a_command_are_measured_and_compared() {
    let component = "components:\n  ledger:\n    command: cat ledger.txt\n    restore: cat > ledger.txt\n    \
                     facts:\n      lines: wc -l < ${LIFEBOAT_RESTORED:-ledger.txt}\n";
    let hub = Hub::with_plan(|plan| plan.replacen("components:\n", component, 1));
    hub.place.write("ledger.txt", b"one\ntwo\nthree\n");
    let said = hub.exits(&["backup", "ledger"], 0);
    assert!(said.contains("lines 3"), "{said}");
    hub.place.write("ledger.txt", b"");
    let said = hub.exits(&["restore", "ledger", "--yes"], 0);
    assert!(said.contains("lines 3"), "{said}");
    assert_eq!(std::fs::read(hub.place.path("ledger.txt")).unwrap(), b"one\ntwo\nthree\n");
    // The floor knows them, too.
    hub.place.write("ledger.txt", b"one\n");
    let said = hub.exits(&["backup", "ledger"], 1);
    assert!(said.contains("`lines` fell from 3 to 1"), "{said}");
}

#[test]
fn what_lies_beside_a_component_is_no_change_of_it() {
    let hub = Hub::new();
    hub.exits(&["backup", "config"], 0);
    // The directory above gets another time, and so another node in the snapshot.
    std::fs::write(hub.place.path("beside"), "new").unwrap();
    let said = hub.exits(&["backup", "config"], 0);
    assert!(said.contains("back up config: unchanged"), "{said}");
    let file = hub.place.path("frontend/nginx.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "# changed\n").unwrap();
    let said = hub.exits(&["backup", "config"], 0);
    assert!(!said.contains("unchanged"), "{said}");
}
