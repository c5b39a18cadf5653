//! The estate of `examples/devops-hub`, set up for real in a directory of its own: its database, its backend, its plan.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::Place;

/// A devops-hub with a database of this many agents.
pub const AGENTS: usize = 500;

/// An estate that runs, and whose processes end with it.
pub struct Hub {
    pub place: Place,
    pub port: u16,
}

impl Hub {
    /// The estate with its repository; nothing runs and nothing is backed up yet.
    pub fn new() -> Self {
        Self::with_plan(|plan| plan)
    }

    /// The same with another plan than the example's.
    pub fn with_plan(change: impl FnOnce(String) -> String) -> Self {
        Self::with(&[], change)
    }

    /// The same with more in the environment, or something else.
    pub fn with(variables: &[(&str, &str)], change: impl FnOnce(String) -> String) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let place = Place::new()
            .with("LIFEBOAT_REPOSITORY", "lifeboat-repository")
            .with("LIFEBOAT_STATE", "state")
            .with("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .with("USER", "tester");
        let place = variables.iter().fold(place, |place, (name, value)| place.with(name, value));
        let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/devops-hub");
        copy(&example, &place.path(""));
        let plan = std::fs::read_to_string(example.join("lifeboat.yaml")).unwrap();
        let plan = plan.replace("8100", &port.to_string());
        place.write("lifeboat.yaml", change(plan).as_bytes());
        place.write(".lifeboat-password", b"secret\n");
        place.write(".env", b"SECRET_KEY=hunter2hunter2\nADMIN_EMAIL=ops@example.org\n");
        let hub = Self { place, port };
        hub.python(&["backend.py", "seed", "--agents", &AGENTS.to_string()]);
        hub.place.succeeds(&["repository", "init"]);
        hub
    }

    /// The estate as it is on a good day: it runs, and it is backed up.
    pub fn running() -> Self {
        let hub = Self::new();
        hub.start();
        hub.place.succeeds(&["backup"]);
        hub
    }

    pub fn start(&self) {
        self.place.succeeds(&["recover", "planned-start", "--yes"]);
    }

    pub fn python(&self, arguments: &[&str]) -> String {
        let output =
            Command::new("python3").args(arguments).current_dir(self.place.path("")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs SQL on the live database.
    pub fn sql(&self, statement: &str) -> String {
        let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10); \
                      print('\\n'.join('|'.join(map(str, row)) for row in c.execute(sys.argv[2])))";
        self.python(&["-c", script, "data/devops_hub.db", statement]).trim().to_owned()
    }

    /// Everything that the database holds about agents and workflows.
    pub fn rows(&self) -> String {
        self.sql("select 'a', id, name, status, config from agents union all select 'w', id, name, agent_id, steps from workflows")
    }

    /// What the live backend answers; `None` when it does not.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    /// Runs a command whose approvals are given by another process, as a person at another terminal would.
    pub fn run_approved(&self, arguments: &[&str]) -> Output {
        let mut command = self.place.command(arguments);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        while child.try_wait().unwrap().is_none() {
            // Refused as long as nothing waits.
            self.place.output(&["order", "latest", "approve"]);
            std::thread::sleep(Duration::from_millis(200));
        }
        child.wait_with_output().unwrap()
    }

    /// What a run of the program says, with its exit code, which must be `code`.
    pub fn exits(&self, arguments: &[&str], code: i32) -> String {
        let output = self.place.output(arguments);
        let text = self.place.transcript(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{text}");
        text
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // The backend outlives the runs that start it, as it must; not the test.
        let here = self.place.path("");
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.bytes().all(|byte| byte.is_ascii_digit())
                && std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&here))
            {
                let _gone = Command::new("kill").args(["-9", &name]).status();
            }
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
