//! Ways in which backups and recoveries lie in the field, each staged for real: none may end green.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};

use crate::hub::Hub;

/// Adds to the plan's components.
fn component(plan: &str, text: &str) -> String {
    plan.replacen("components:\n", &format!("components:\n{text}"), 1)
}

#[test]
fn a_backup_command_that_fails_or_prints_nothing() {
    for (command, reason) in [("exit 3", "status 3"), ("true", "")] {
        let hub = Hub::with_plan(|plan| {
            component(&plan, &format!("  dump:\n    command: '{command}'\n    restore: cat > /dev/null\n"))
        });
        let said = hub.exits(&["backup", "dump"], 1);
        assert!(said.contains(reason), "{said}");
        let said = hub.exits(&["points", "dump"], 0);
        assert!(said.contains("no recovery points"), "{said}");
        let said = hub.place.transcript(&hub.place.output(&["status"]));
        assert!(said.contains("BROKEN"), "{said}");
    }
}

#[test]
fn an_empty_database() {
    let hub = Hub::new();
    std::fs::write(hub.place.path("data/devops_hub.db"), b"").unwrap();
    hub.exits(&["backup", "database"], 1);
}

#[test]
fn a_source_that_is_missing() {
    let hub = Hub::running();
    std::fs::remove_file(hub.place.path("frontend/nginx.conf")).unwrap();
    let said = hub.exits(&["backup", "config"], 1);
    assert!(said.contains("nginx.conf"), "{said}");
    // The other component is backed up all the same.
    let said = hub.exits(&["backup"], 1);
    assert!(said.contains("back up database"), "{said}");
}

#[test]
fn half_of_the_rows_are_gone() {
    let hub = Hub::running();
    hub.sql("delete from workflows");
    hub.sql("delete from agents where id > 100");
    let said = hub.exits(&["backup", "database"], 1);
    assert!(said.contains("implausible"), "{said}");
    let said = hub.exits(&["status"], 1);
    assert!(said.contains("BROKEN"), "{said}");
    // It is not what a recovery takes.
    hub.exits(&["recover", "accidental-deletion", "--yes"], 0);
    assert_eq!(hub.sql("select count(*) from agents"), "500", "recovered from the plausible point");
    hub.sql("delete from workflows");
    hub.exits(&["backup", "database", "--accept"], 0);
    hub.exits(&["backup", "database"], 0);
}

#[test]
fn a_pack_that_is_lost() {
    let hub = Hub::running();
    let rows = hub.rows();
    for pack in hub.place.files("lifeboat-repository/data") {
        std::fs::remove_file(pack).unwrap();
    }
    hub.exits(&["verify", "--data"], 1);
    hub.exits(&["verify", "--restore"], 1);
    let said = hub.exits(&["recover", "accidental-deletion", "--yes"], 1);
    assert!(!said.contains("in place"), "nothing is swapped in: {said}");
    assert_eq!(hub.rows(), rows, "what is there was not touched");
}

#[test]
fn a_pack_that_is_damaged() {
    let hub = Hub::running();
    for pack in hub.place.files("lifeboat-repository/data") {
        let bytes: Vec<u8> = std::fs::read(&pack).unwrap().into_iter().map(|byte| byte ^ 1).collect();
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, bytes).unwrap();
    }
    hub.exits(&["verify", "--data"], 1);
    hub.exits(&["verify", "--restore"], 1);
}

/// What makes a snapshot a point is lost or cut short in the repository, and this machine has read it before.
#[test]
fn a_record_of_a_point_that_is_lost_or_damaged() {
    let hub = Hub::running();
    hub.sql("update agents set status = 'busy'");
    hub.exits(&["backup", "database"], 0);
    hub.exits(&["points"], 0);
    let newest = || crate::retention::points(&hub, "database").pop().unwrap();
    let id = newest();
    let file = hub.place.path(&format!("lifeboat-repository/lifeboat/points/{id}"));
    let bytes = std::fs::read(&file).unwrap();
    let put = |bytes: &[u8]| {
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
    };
    let notices = |told: &str| {
        for command in ["points", "status"] {
            let said = hub.place.output(&[command]);
            let text = hub.place.transcript(&said);
            assert!(text.contains(told), "{text}");
            assert!(matches!(said.status.code(), Some(1 | 2)), "{text}");
        }
        let said = hub.place.transcript(&hub.place.output(&["points", "database"]));
        let shown = said.lines().filter(|line| line.starts_with("database") && line.contains(&id[..8]));
        assert_eq!(shown.count(), 0, "it is not shown as one that can be had: {said}");
        let said = hub.place.transcript(&hub.place.output(&["forget", "--yes"]));
        assert!(said.contains("nothing is forgotten"), "{said}");
    };
    put(&bytes[..bytes.len() - 1]);
    notices("sidecar object points/");
    std::fs::remove_file(&file).unwrap();
    notices(&format!("its snapshot {} is there", &id[..8]));
    // What is there again is a point again.
    std::fs::write(&file, &bytes).unwrap();
    hub.exits(&["points"], 0);
    assert_eq!(newest(), id);
    // What was forgotten is not lost.
    hub.place.succeeds(&["repository", "forget", &id]);
    hub.exits(&["points"], 0);
    std::fs::remove_file(&file).unwrap();
    hub.exits(&["points"], 0);
    assert_ne!(newest(), id);
}

#[test]
fn a_wrong_key_and_a_missing_repository() {
    let hub = Hub::running();
    hub.place.write(".lifeboat-password", b"another");
    for command in
        [&["backup"][..], &["recover", "server-lost", "--yes"], &["drill", "server-lost"], &["status"]]
    {
        hub.exits(command, 3);
    }
    std::fs::rename(hub.place.path("lifeboat-repository"), hub.place.path("moved")).unwrap();
    hub.exits(&["backup"], 3);
}

#[test]
fn a_repository_that_somebody_has_locked() {
    let hub = Hub::running();
    let before = hub.place.succeeds(&["points", "database"]);
    // Held by a process that is alive and takes its time.
    let mut holder = std::process::Command::new("restic")
        .args(["-r", "lifeboat-repository", "--password-file", ".lifeboat-password", "--limit-download", "1"])
        .args(["check", "--read-data"])
        .current_dir(hub.place.path(""))
        .env("HOME", hub.place.path(""))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while hub.place.files("lifeboat-repository/locks").is_empty() {
        assert!(holder.try_wait().unwrap().is_none(), "it ended before it was seen to lock");
    }
    let said = hub.place.output(&["backup", "database"]);
    let text = hub.place.transcript(&said);
    assert!(holder.try_wait().unwrap().is_none(), "the lock was gone too soon");
    holder.kill().unwrap();
    assert!(matches!(said.status.code(), Some(1 | 3)), "{text}");
    assert!(text.contains("locked"), "{text}");
    holder.wait().unwrap();
    hub.place.succeeds(&["repository", "unlock"]);
    assert_eq!(hub.place.succeeds(&["points", "database"]).lines().count(), before.lines().count());
}

#[test]
fn yesterdays_point_as_todays() {
    let hub = Hub::with_plan(|plan| plan.replace("rpo: 1h\n", "rpo: 1s\n"));
    hub.place.succeeds(&["backup"]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let said = hub.place.transcript(&hub.place.output(&["status"]));
    assert!(said.lines().any(|line| line.starts_with("database") && line.contains("LATE")), "{said}");
}

#[test]
fn a_check_that_expects_nothing() {
    let hub = Hub::with_plan(|plan| {
        plan.replacen("checks:\n", "checks:\n  nothing:\n    http: http://127.0.0.1:1/\n", 1)
    });
    let said = hub.exits(&["validate"], 3);
    assert!(said.contains("lifeboat.yaml:"), "{said}");
    hub.exits(&["recover", "server-lost", "--yes"], 3);
}

#[test]
fn another_service_answers_at_the_port() {
    let hub = Hub::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, hub.port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let body = r#"{"status": "ok", "agents": 500}"#;
            let _gone = stream.and_then(|mut stream| {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
            });
        }
    });
    hub.exits(&["recover", "planned-start", "--yes"], 1);
}

#[test]
fn a_service_that_dies_after_its_gate() {
    let hub = Hub::with_plan(|plan| {
        plan.replacen(
            "command: [python3, backend.py, serve",
            "command: [timeout, \"1\", python3, backend.py, serve",
            1,
        )
    });
    let said = hub.exits(&["recover", "planned-start", "--yes"], 1);
    assert!(said.contains("was ready and is not any more"), "{said}");
}

#[test]
fn a_drill_that_restores_nothing_is_not_answered_by_live_data() {
    let hub = Hub::with_plan(|plan| plan.replace("      - restore: [config, database]\n", ""));
    hub.start();
    hub.place.succeeds(&["backup"]);
    let output = hub.place.output(&["drill", "server-lost"]);
    let said = hub.place.transcript(&output);
    assert_ne!(output.status.code(), Some(0), "{said}");
}

/// Nothing of the recovery was tried, so nothing of it has failed.
#[test]
fn a_disaster_that_cannot_be_staged() {
    let hub = Hub::with_plan(|plan| {
        plan.replacen("scenarios:\n", "scenarios:\n  staged:\n    steps:\n      - restore: config\n", 1)
    });
    hub.exits(&["backup", "config"], 0);
    let said = crate::faults::with_mounts(
        &hub,
        "mkdir -p k8s/mounted; mount -t tmpfs tmpfs k8s/mounted; lifeboat drill staged; rmdir k8s/mounted || true",
    );
    assert!(said.contains("\nexit 2"), "{said}");
    assert!(said.contains("/k8s cannot be removed in the twin"), "{said}");
    assert!(said.contains("a file system is mounted below it"), "{said}");
}

#[test]
fn an_instant_before_everything() {
    let hub = Hub::running();
    let said = hub.exits(&["recover", "server-lost", "--at", "2001-01-01T00:00:00Z", "--yes"], 3);
    assert!(said.contains("no recovery point as old as"), "{said}");
}

#[test]
fn an_approval_that_nobody_gives() {
    let hub = Hub::with_plan(|plan| {
        plan.replacen(
            "      - approve: A replacement machine is ready, and this plan, its key and the application are on it\n",
            "      - approve: A replacement machine is ready\n        within: 1s\n",
            1,
        )
    });
    hub.place.succeeds(&["backup"]);
    let output = hub.place.output(&["recover", "server-lost", "--yes"]);
    let said = hub.place.transcript(&output);
    assert!(matches!(output.status.code(), Some(1 | 3)), "{said}");
    assert!(said.contains("nobody answered"), "{said}");
}
