//! Faults of the machine, of people and of plans, each staged for real: how a run ends then, and what it tells people to do.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::flip_bit;
use crate::hub::{AGENTS, Hub};

/// A hub that is backed up and does not run, with one more scenario of these steps.
fn with_steps(steps: &str) -> Hub {
    with_plan(|plan| scenario(&plan, steps))
}

fn with_plan(change: impl FnOnce(String) -> String) -> Hub {
    let hub = Hub::with_plan(change);
    hub.place.succeeds(&["backup", "database"]);
    hub
}

/// Adds the scenario `staged` to a plan.
fn scenario(plan: &str, steps: &str) -> String {
    plan.replacen("scenarios:\n", &format!("scenarios:\n  staged:\n    steps:\n{steps}\n"), 1)
}

/// The steps of a restore that is checked without a service.
const RESTORED: &str = "      - restore: database\n      - check: [database-intact, agents-there]\n";
const RECOVER: [&str; 3] = ["recover", "staged", "--yes"];
const RESUME: [&str; 4] = ["recover", "staged", "--resume", "latest"];

/// What a shell script says that runs with mounts of its own; `lifeboat` in it says its exit code.
pub fn with_mounts(hub: &Hub, script: &str) -> String {
    let program = env!("CARGO_BIN_EXE_lifeboat");
    let script =
        format!("lifeboat() {{ code=0; {program} \"$@\" 2>&1 || code=$?; echo \"exit $code\"; }}\n{script}");
    // An ordinary user may mount what it likes in a user namespace of its own.
    let root = rustix::process::geteuid().is_root();
    let user: &[&str] = if root { &[] } else { &["--map-root-user"] };
    let arguments = [user, &["--mount", "sh", "-euc", script.as_str()]].concat();
    let output = hub.place.command_of("unshare", &arguments).output().unwrap();
    let text = hub.place.transcript(&output);
    assert!(output.status.success(), "{text}");
    text
}

/// The parts of a text between its exit codes, with these codes.
fn parts(text: &str) -> Vec<(String, i32)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((part, after)) = rest.split_once("\nexit ") {
        let (code, after) = after.split_once('\n').unwrap();
        parts.push((part.to_owned(), code.parse().unwrap()));
        rest = after;
    }
    parts
}

fn has_all(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
}

#[test]
fn the_disk_is_full() {
    let hub = with_steps(&format!("      - run: head -c 64M /dev/zero > data/filler || true\n{RESTORED}"));
    let rows = hub.rows();
    let said = with_mounts(
        &hub,
        "cp -a data kept; mount -t tmpfs -o size=8m tmpfs data; cp -a kept/. data/
         lifeboat recover staged --yes
         cmp data/devops_hub.db kept/devops_hub.db && echo untouched
         rm data/filler
         lifeboat recover staged --resume latest
         head -c 64M /dev/zero > data/filler || true
         lifeboat recover database-corruption --yes
         cat data/devops_hub.db > after.db",
    );
    let parts = parts(&said);
    let codes: Vec<i32> = parts.iter().map(|(_, code)| *code).collect();
    assert_eq!(codes, [1, 0, 3], "{said}");
    has_all(&parts[0].0, &["No space left on device", "free space", "--resume"]);
    has_all(&parts[1].0, &["untouched"]);
    // Full before it began: seen before anything was done.
    has_all(&parts[2].0, &["in the way: ", "free; free space"]);
    std::fs::copy(hub.place.path("after.db"), hub.place.path("data/devops_hub.db")).unwrap();
    assert_eq!(hub.rows(), rows);
}

#[test]
fn the_journal_cannot_be_written() {
    // More text than a page of the file system has left when it is full.
    let fill = "      - run: head -c 64M /dev/zero > state/filler; head -c 6000 /dev/zero | tr '\\0' x\n";
    let hub = with_steps(&format!("{fill}{RESTORED}"));
    let rows = hub.rows();
    let said = with_mounts(
        &hub,
        "mkdir -p other; mount -t tmpfs -o ro tmpfs other
         lifeboat recover staged --yes --state other
         mount -t tmpfs -o size=1m tmpfs state
         lifeboat recover staged --yes
         rm state/filler
         sed -i s/state.filler/other-filler/ lifeboat.yaml
         lifeboat recover staged --resume latest --skip 1 --reason 'it fills the disk'
         lifeboat report latest",
    );
    let parts = parts(&said);
    let codes: Vec<i32> = parts.iter().map(|(_, code)| *code).collect();
    assert_eq!(codes, [3, 1, 2, 0], "{said}");
    has_all(&parts[0].0, &["Read-only file system", "hint: ", "--state"]);
    has_all(&parts[1].0, &["No space left on device", "journal", "hint: ", "--resume"]);
    assert!(!parts[1].0.contains("✓ fetch database"), "nothing is done that cannot be written down: {said}");
    has_all(&parts[2].0, &["it fills the disk"]);
    assert_eq!(hub.rows(), rows);
}

#[test]
fn the_repository_is_gone_in_the_middle() {
    let hub = with_steps(&format!(
        "      - run: test -e once || (mkdir once && mv lifeboat-repository/* once/)\n{RESTORED}"
    ));
    let rows = hub.rows();
    let said = hub.exits(&RECOVER, 1);
    has_all(&said, &["lifeboat-repository", "--resume"]);
    assert_eq!(hub.rows(), rows, "what is there was not touched");
    for moved in std::fs::read_dir(hub.place.path("once")).unwrap() {
        let moved = moved.unwrap();
        let home = hub.place.path("lifeboat-repository").join(moved.file_name());
        // What the run has tried to write there meanwhile.
        let _nothing = std::fs::remove_dir_all(&home);
        std::fs::rename(moved.path(), home).unwrap();
    }
    hub.exits(&RESUME, 0);
    // The end is in the repository although the first one could not be put there.
    let status = hub.place.command(&["status", "--state", "elsewhere"]).output().unwrap();
    let status = hub.place.transcript(&status);
    assert!(status.lines().any(|line| line.starts_with("staged") && line.contains("proven")), "{status}");
}

#[test]
fn a_step_that_leaves_children_behind_or_never_ends() {
    let hub = with_steps(
        "      - run: sleep 4711 & sleep 4712 & echo begun\n      - run: sleep 4713\n        timeout: 1s\n",
    );
    let begun = Instant::now();
    let said = hub.exits(&RECOVER, 1);
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for children: {said}");
    has_all(
        &said,
        &["2 processes that it left behind were killed", "not done within its timeout of 1s", "--resume"],
    );
    let left = Command::new("pgrep").args(["-f", "^sleep 471[123]$"]).output().unwrap();
    assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
}

#[test]
fn at_the_target_is_something_else() {
    let hub = with_steps(RESTORED);
    let path = hub.place.path("data/devops_hub.db");
    let rows = hub.rows();
    std::fs::remove_file(&path).unwrap();
    hub.sql("create table invoices (id integer primary key)");
    let said = hub.exits(&RECOVER, 3);
    has_all(
        &said,
        &["holds something else", "agents", "found application 0; tables invoices", "move it away"],
    );
    assert_eq!(hub.sql("select name from sqlite_master"), "invoices", "it was not touched");
    std::fs::rename(&path, hub.place.path("invoices.db")).unwrap();
    hub.exits(&RESUME, 0);
    assert_eq!(hub.rows(), rows);
}

#[test]
fn a_stranger_has_the_file_open() {
    let hub = with_steps(RESTORED);
    let rows = hub.rows();
    let holds = "import sqlite3, sys; c = sqlite3.connect('data/devops_hub.db'); \
                 c.execute('select count(*) from agents').fetchall(); print('open', flush=True); sys.stdin.read()";
    let mut stranger = Command::new("python3")
        .args(["-c", holds])
        .current_dir(hub.place.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stranger.stdout.as_mut().unwrap()), &mut line)
        .unwrap();
    let said = hub.exits(&RECOVER, 3);
    has_all(&said, &["is in use by python3", &stranger.id().to_string(), "stop the service that uses it"]);
    drop(stranger.stdin.take());
    stranger.wait().unwrap();
    hub.exits(&RESUME, 0);
    assert_eq!(hub.rows(), rows);
}

/// The repository as somebody with its key has forged it: the record of the whole point speaks of the tree of another one
/// that lacks rows.
#[test]
fn a_restored_database_with_fewer_rows() {
    let hub = Hub::running();
    hub.sql("delete from workflows where id > 400");
    hub.sql("delete from agents where id > 400");
    hub.place.succeeds(&["backup", "database"]);
    let repository = repository::Repository::open(
        std::sync::Arc::new(store::Local::open(hub.place.path("lifeboat-repository")).unwrap()),
        b"secret",
        repository::Clock::system(),
    )
    .unwrap();
    let mut points: Vec<(String, serde_json::Value)> = Vec::new();
    for (name, _) in repository.sidecar_list("points").unwrap() {
        let bytes = repository.sidecar_read(&name).unwrap().unwrap();
        let point: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        if point["component"] == "database" {
            points.push((name, point));
        }
    }
    points.sort_by_key(|(_, point)| point["recorded"]["instant"].as_str().unwrap().to_owned());
    let [(whole, mut forged), (short, fewer)]: [_; 2] = points.try_into().unwrap();
    forged["tree"] = fewer["tree"].clone();
    for name in [&whole, &short] {
        std::fs::remove_file(hub.place.path("lifeboat-repository/lifeboat").join(name)).unwrap();
    }
    repository.sidecar_create(&whole, &serde_json::to_vec(&forged).unwrap()).unwrap();
    std::fs::remove_dir_all(hub.place.path("state/cache")).unwrap();

    let rows = hub.rows();
    let said = hub.exits(&["recover", "accidental-deletion", "--yes"], 1);
    has_all(&said, &["database as restored is not what was backed up", "agents is 400, expected 500"]);
    assert_eq!(hub.rows(), rows, "what is there was not touched");
    let said = hub.exits(&["verify", "--restore", "database"], 1);
    has_all(&said, &["agents is 400, expected 500"]);
    let said = hub.exits(&["drill", "database-corruption"], 1);
    has_all(&said, &["agents is 400, expected 500"]);
}

#[test]
fn a_record_of_a_point_that_cannot_be_read() {
    let hub = with_plan(|plan| plan);
    hub.place.succeeds(&["backup", "database"]);
    let record = hub.place.files("lifeboat-repository/lifeboat/points").pop().unwrap();
    flip_bit(&record);
    // What this machine has read before, it still knows.
    for command in [&["points"][..], &["status"]] {
        let said = hub.exits(&[command, &["--state", "elsewhere"]].concat(), 2);
        has_all(&said, &["warning: ", "damaged", "lifeboat verify --data"]);
    }
    let said = hub.exits(&["points", "--state", "elsewhere", "--json"], 2);
    has_all(&said, &[r#""outcome":"not_proven""#, r#""points":1"#]);
    let said = hub.exits(&["verify", "--data"], 1);
    has_all(&said, &["points/", "cannot be read", "lifeboat repository check --read-data"]);
}

#[test]
fn a_gate_that_never_turns_healthy() {
    let hub = with_plan(|plan| {
        plan.replacen("json: \"status == 'ok'\" }", "json: \"status == 'fine'\" }", 1).replacen(
            "within: 30s",
            "within: 2s",
            1,
        )
    });
    let said = hub.exits(&["recover", "planned-start", "--yes"], 1);
    has_all(&said, &["backend is ready", "status == 'fine'", "within 2", "found false from", "--resume"]);
    let plan = std::fs::read_to_string(hub.place.path("lifeboat.yaml")).unwrap();
    hub.place.write("lifeboat.yaml", plan.replace("'fine'", "'ok'").as_bytes());
    // The run has its plan with it: mending the file does not mend the run.
    hub.exits(&["recover", "planned-start", "--resume", "latest"], 1);
    hub.exits(&["recover", "planned-start", "--yes"], 0);
}

#[test]
fn a_check_that_is_never_answered() {
    // Whoever connects is let in by the kernel and never hears anything.
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let check =
        format!("checks:\n  hangs:\n    http: http://127.0.0.1:{port}/\n    expect: {{ status: 200 }}\n");
    let hub = with_plan(|plan| {
        scenario(&plan, "      - check: hangs\n        within: 2s\n").replacen("checks:\n", &check, 1)
    });
    let said = hub.exits(&RECOVER, 1);
    has_all(
        &said,
        &["did not hold within 2s", "hangs: ", "expected HTTP 200, found no answer within", "--resume"],
    );
}

#[test]
fn a_remedy_that_does_not_help() {
    let remedy = "    on_error:\n      - pattern: Address already in use\n        steps:\n          - run: echo tried >> tried\n";
    let hub = with_plan(|plan| {
        let line =
            plan.lines().find(|line| line.contains("command: [python3, backend.py")).unwrap().to_owned();
        let plan = plan.replacen(&line, "      command: [sh, -c, 'echo Address already in use; exit 1']", 1);
        let needs = "    needs: [database, config]\n";
        plan.replacen(needs, &format!("{needs}{remedy}"), 1)
    });
    let said = hub.exits(&["recover", "planned-start", "--yes"], 1);
    has_all(&said, &["a known symptom", "Address already in use", "--resume"]);
    assert_eq!(std::fs::read_to_string(hub.place.path("tried")).unwrap(), "tried\n", "once, and not again");
}

#[test]
fn a_drill_that_is_killed() {
    let hub = Hub::running();
    let (rows, health) = (hub.rows(), hub.get("/health").unwrap());
    let mut drill = hub.place.command(&["drill", "database-corruption"]);
    let mut drill = drill.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let left = |of: &Path| std::fs::read_dir(of).map_or(0, Iterator::count);
    let twins = hub.place.path("state/twins");
    while left(&twins) == 0 {
        assert!(drill.try_wait().unwrap().is_none(), "it ended before its twin was seen");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Its journal comes after its twin.
    let begun = |name: &str| name.contains("-drill-");
    let runs = || std::fs::read_dir(hub.place.path("state/runs")).unwrap();
    while !runs().any(|run| begun(&run.unwrap().file_name().to_string_lossy())) {
        assert!(drill.try_wait().unwrap().is_none(), "it ended before it was seen to begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(drill.try_wait().unwrap().is_none(), "it ended before it was killed");
    drill.kill().unwrap();
    drill.wait().unwrap();
    assert_eq!(hub.rows(), rows);
    assert_eq!(hub.get("/health").unwrap(), health, "the same process answers");
    let said = hub.exits(&["recover", "database-corruption", "--resume", "latest"], 3);
    has_all(&said, &["its twin is gone", "begin a new drill"]);
    hub.exits(&["drill", "database-corruption"], 0);
    assert_eq!(hub.rows(), rows);
    assert_eq!(left(&twins), 0, "what the killed one left is taken away");
}

#[test]
fn an_instant_after_everything() {
    let hub = with_steps(RESTORED);
    let said = hub.exits(&["recover", "staged", "--at", "2999-01-01T00:00:00Z", "--yes"], 3);
    has_all(&said, &["2999-01-01", "in the future", "hint: "]);
    let said = hub.exits(&["restore", "database", "--at", "2999-01-01T00:00:00Z", "--yes"], 3);
    has_all(&said, &["in the future"]);
}

/// A clock that jumps while a recovery runs, by libfaketime: what is measured goes by the clock that never does.
#[test]
fn the_clock_jumps() {
    for (offset, jump) in [("-7200", "-7"), ("+7200", "7")] {
        let hub =
            with_steps(&format!("      - run: echo {offset} > offset\n{RESTORED}      - backup: database\n"));
        hub.place.write("offset", b"+0\n");
        let output = hub
            .place
            .command(&RECOVER)
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME_TIMESTAMP_FILE", hub.place.path("offset"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .output()
            .unwrap();
        let said = hub.place.transcript(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        has_all(&said, &[&format!("the clock was moved by {jump}"), "back after"]);
        let back = said.lines().find(|line| line.starts_with("back after")).unwrap();
        assert!(!back.contains(" h ") && !back.contains(" min "), "hours were measured: {back}");
        assert_eq!(hub.sql("select count(*) from agents"), AGENTS.to_string());
        let report = hub.place.succeeds(&["report", "latest"]);
        has_all(&report, &["clock"]);
    }
}

/// The library that shifts the clock of one process, of Debian's package `libfaketime`.
fn faketime() -> String {
    let name = "faketime/libfaketime.so.1";
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join(name)).find(|path| path.exists());
    found.expect("cargo xtask setup installs libfaketime").to_str().unwrap().to_owned()
}
