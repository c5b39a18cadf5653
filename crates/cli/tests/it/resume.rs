//! Recoveries that are killed and go on; and what another machine sees of them.

use std::process::Stdio;
use std::time::Duration;

use crate::hub::{AGENTS, Hub};

/// Kills a recovery after `delay` and goes on with it until it is through.
fn killed_after(hub: &Hub, delay: Duration) -> String {
    let mut command = hub.place.command(&["recover", "accidental-deletion", "--yes"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    // SIGKILL: no chance to tidy up.
    child.kill().unwrap();
    child.wait().unwrap();
    let runs = std::fs::read_dir(hub.place.path("state/runs")).unwrap();
    let newest = runs.map(|entry| entry.unwrap().file_name().into_string().unwrap()).max().unwrap();
    let resume = ["recover", "accidental-deletion", "--resume", &newest];
    if newest.contains("recover") && hub.place.output(&resume).status.success() {
        return newest;
    }
    // Killed before the run was begun: there is nothing to resume, and nothing was done.
    hub.exits(&["recover", "accidental-deletion", "--yes"], 0);
    newest
}

#[test]
fn a_recovery_that_is_killed_goes_on() {
    let hub = Hub::running();
    let rows = hub.rows();
    for milliseconds in [30, 90, 150, 250, 400, 700, 1100, 1800] {
        hub.sql("delete from agents");
        let run = killed_after(&hub, Duration::from_millis(milliseconds));
        assert_eq!(
            hub.sql("select count(*) from agents"),
            AGENTS.to_string(),
            "killed after {milliseconds} ms: {run}"
        );
        assert_eq!(hub.rows(), rows);
        assert!(hub.get("/health").unwrap().contains("ok"), "killed after {milliseconds} ms: {run}");
        let beside = hub.place.files("data");
        let left: Vec<_> =
            beside.iter().filter(|path| path.to_string_lossy().contains(".lifeboat-")).collect();
        assert!(left.is_empty(), "killed after {milliseconds} ms: {left:?}");
    }
}

#[test]
fn a_plan_that_is_edited_while_a_run_is_open_does_not_change_the_run() {
    let hub = Hub::with_plan(|plan| {
        plan.replacen(
            "      - restore: database\n      - start: backend\n      - check: [agents-there, agents-listed]\n",
            "      - approve: Go on?\n        within: 1s\n      - restore: database\n      - start: backend\n      - check: [agents-there, agents-listed]\n",
            1,
        )
    });
    hub.start();
    hub.place.succeeds(&["backup"]);
    hub.sql("delete from agents");
    let output = hub.place.output(&["recover", "accidental-deletion", "--yes"]);
    assert_ne!(output.status.code(), Some(0), "nobody approves");
    let plan = std::fs::read_to_string(hub.place.path("lifeboat.yaml")).unwrap();
    hub.place.write("lifeboat.yaml", plan.replace("data/devops_hub.db\n", "data/other.db\n").as_bytes());
    let output = hub.run_approved(&["recover", "accidental-deletion", "--resume", "latest"]);
    assert_eq!(output.status.code(), Some(0), "{}", hub.place.transcript(&output));
    assert_eq!(hub.sql("select count(*) from agents"), AGENTS.to_string());
}

#[test]
fn another_machine_sees_the_same_with_the_repository_alone() {
    let hub = Hub::running();
    hub.exits(&["drill", "database-corruption"], 0);
    let here = hub.place.transcript(&hub.place.output(&["status"]));
    let elsewhere = hub.place.command(&["status", "--state", "elsewhere"]).output().unwrap();
    let elsewhere = hub.place.transcript(&elsewhere);
    let proven = |text: &str| {
        text.lines().any(|line| line.starts_with("database-corruption") && line.contains("proven"))
    };
    assert!(proven(&here), "{here}");
    assert!(proven(&elsewhere), "{elsewhere}");
}
