//! The five scenarios of devops-hub, each staged for real and recovered from end to end; its backup, its restores, its
//! monthly test.

use crate::hub::{AGENTS, Hub};

#[test]
fn what_has_not_changed_is_backed_up_again_and_counts() {
    let hub = Hub::running();
    for _ in 0..3 {
        hub.exits(&["backup", "config"], 0);
    }
    assert!(!hub.place.succeeds(&["points", "config"]).contains("DOES NOT COUNT"));
}

#[test]
fn a_corrupt_database_is_recovered() {
    let hub = Hub::running();
    let rows = hub.rows();
    let path = hub.place.path("data/devops_hub.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[4096..length / 2].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let said = hub.exits(&["diagnose"], 1);
    assert!(said.contains("database-corruption fits"), "{said}");
    let said = hub.exits(&["recover", "database-corruption", "--yes"], 0);
    assert!(said.contains("back after"), "{said}");
    assert_eq!(hub.rows(), rows);
    assert!(hub.get("/api/agents").unwrap().contains("agent-499"));
    // A fresh point after the recovery, by the scenario's last step.
    assert_eq!(hub.place.succeeds(&["points", "database"]).lines().count(), 3);
}

#[test]
fn deleted_data_comes_back() {
    let hub = Hub::running();
    let rows = hub.rows();
    hub.sql("delete from agents");
    let said = hub.exits(&["diagnose"], 1);
    assert!(said.contains("accidental-deletion fits"), "{said}");
    hub.exits(&["recover", "accidental-deletion", "--yes"], 0);
    assert_eq!(hub.rows(), rows);
    assert_eq!(hub.sql("select count(*) from agents"), AGENTS.to_string());
}

#[test]
fn a_lost_server_is_recovered_and_what_is_secret_is_left_to_people() {
    let hub = Hub::running();
    let rows = hub.rows();
    for gone in ["data", "k8s", "frontend"] {
        std::fs::remove_dir_all(hub.place.path(gone)).unwrap();
    }
    for gone in ["docker-compose.yml", "docker-compose.prod.yml", ".env"] {
        std::fs::remove_file(hub.place.path(gone)).unwrap();
    }
    let output = hub.run_approved(&["recover", "server-lost", "--yes"]);
    let said = hub.place.transcript(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(hub.rows(), rows);
    assert!(hub.place.path("frontend/nginx.conf").exists());
    assert!(said.contains("approved by"), "{said}");
    let names = hub.place.files("").into_iter().find(|path| path.ends_with(".env.names")).unwrap();
    let names = std::fs::read_to_string(names).unwrap();
    assert!(names.contains("SECRET_KEY") && !names.contains("hunter2"), "{names}");
    assert!(!said.contains("hunter2"), "a secret is shown: {said}");
}

#[test]
fn a_lost_cluster_is_rehearsed_as_far_as_a_twin_reaches() {
    let hub = Hub::running();
    let said = hub.exits(&["drill", "cluster-lost"], 2);
    assert!(said.contains("for disasters only"), "{said}");
    assert!(said.contains("backend is ready"), "{said}");
}

#[test]
fn compromised_keys_are_disabled() {
    let hub = Hub::running();
    let output = hub.run_approved(&["recover", "keys-compromised", "--yes"]);
    let said = hub.place.transcript(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(hub.sql("select count(*) from api_keys where is_active = 1 and name <> 'bootstrap'"), "0");
}

#[test]
fn a_drill_leaves_the_live_estate_as_it_is() {
    let hub = Hub::running();
    let (rows, health) = (hub.rows(), hub.get("/health").unwrap());
    let said = hub.exits(&["drill", "server-lost"], 0);
    assert!(said.contains("fails as it must"), "{said}");
    assert_eq!(hub.rows(), rows);
    assert_eq!(hub.get("/health").unwrap(), health, "the same process answers");
    let status = hub.place.output(&["status"]);
    let status = hub.place.transcript(&status);
    assert!(
        status.lines().any(|line| line.starts_with("server-lost") && line.contains("proven")),
        "{status}"
    );
    // A changed plan makes the proof stale.
    let plan = std::fs::read_to_string(hub.place.path("lifeboat.yaml")).unwrap();
    hub.place.write("lifeboat.yaml", plan.replace("rto: 4h", "rto: 3h").as_bytes());
    let status = hub.place.transcript(&hub.place.output(&["status"]));
    assert!(status.lines().any(|line| line.starts_with("server-lost") && line.contains("STALE")), "{status}");
}

#[test]
fn a_restore_beside_a_dry_run_a_rollback_and_the_monthly_test() {
    let hub = Hub::running();
    hub.exits(&["restore", "database", "--to", "look"], 0);
    assert!(hub.place.path("look/devops_hub.db").exists());
    hub.exits(&["verify", "--restore"], 0);
    hub.exits(&["verify", "--data"], 0);
    hub.exits(&["recover", "database-corruption", "--dry-run"], 0);
    hub.sql("insert into agents (name, status, config, created_at) values ('after', 'active', '{}', 'now')");
    let rows = hub.rows();
    hub.exits(&["recover", "accidental-deletion", "--yes"], 0);
    assert_ne!(hub.rows(), rows, "the newest row is lost by going back");
    hub.exits(&["rollback", "latest", "--yes"], 0);
    assert_eq!(hub.rows(), rows, "and there again after the rollback");
}

#[test]
fn stock_restic_restores_it_without_lifeboat() {
    let hub = Hub::running();
    let restic = |arguments: &[&str]| {
        let output = std::process::Command::new("restic")
            .args(["-r", "lifeboat-repository", "--password-file", ".lifeboat-password"])
            .args(arguments)
            .current_dir(hub.place.path(""))
            .env("HOME", hub.place.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    restic(&["check", "--read-data"]);
    restic(&["restore", "latest", "--tag", "component:database", "--target", "by-restic"]);
    let restored = hub.place.files("by-restic");
    let csv = restored.iter().find(|path| path.ends_with("api_keys_metadata.csv")).unwrap();
    assert!(std::fs::read_to_string(csv).unwrap().contains("dashboard"));
    assert!(restored.iter().any(|path| path.ends_with("devops_hub.db")));
}
