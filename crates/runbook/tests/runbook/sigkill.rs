//! Real kills: a process that runs a runbook in a file is killed with SIGKILL at moments that nobody chose, and another goes on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use runbook::journal::{Journal, JournalError, read};
use runbook::*;
use serde_json::json;

use crate::harness::*;

/// Effects are lines in files, so that they outlive the process and can be counted.
struct Files(PathBuf);

impl Files {
    fn file(&self, action: &Action) -> PathBuf {
        self.0.join(action.input["name"].as_str().unwrap())
    }
}

impl Actions for Files {
    fn perform(&self, action: &Action, _: &StepContext<'_>) -> Result<Performed, Failure> {
        std::thread::sleep(Duration::from_millis(3));
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.file(action)).unwrap();
        file.write_all(b"done\n").unwrap();
        std::thread::sleep(Duration::from_millis(3));
        Ok(Performed::new("done"))
    }

    fn ask(&self, _: &Action, _: &StepContext<'_>) -> Answer {
        Answer::Holds("yes".to_owned())
    }

    fn probe(&self, action: &Action, _: &StepContext<'_>) -> Probe {
        match fs::read(self.file(action)) {
            Ok(bytes) if !bytes.is_empty() => Probe::Done(Performed::new("was done")),
            _ => Probe::NotDone,
        }
    }

    fn undo(&self, _: &Action, _: &Performed, _: &StepContext<'_>) -> Result<Undone, Failure> {
        Ok(Undone::Nothing)
    }
}

const STEPS: usize = 12;

fn run_or_resume(folder: &Path) -> Result<Ended, Error> {
    let files = Files(folder.to_owned());
    let interrupt = AtomicBool::new(false);
    let env = Environment {
        actions: &files,
        controls: &NoControls,
        observer: &NoObserver,
        clock: &SystemClock,
        interrupt: &interrupt,
        host: "host",
        version: "0",
        options: Options { answer_within: None },
    };
    let path = folder.join("run.journal");
    match read(&path) {
        Ok(_) => resume(Journal::open(&path)?, "ann", vec![], env),
        Err(JournalError::Io { .. } | JournalError::Empty) => {
            let _ = fs::remove_file(&path);
            let children = (0..4).map(|n| once(&format!("p.{n}"), &format!("p{n}"))).collect();
            let mut steps: Vec<Step> = (0..STEPS).map(|n| once(&n.to_string(), &format!("a{n}"))).collect();
            steps.push(group("p", Body::Parallel, children));
            steps.push(gate("g", "api", json!({})));
            begin(Journal::create(&path, RUN)?, begun(&book(steps)), env)
        }
        Err(error) => Err(error.into()),
    }
}

#[test]
#[ignore = "is started by killed_at_any_moment_everything_is_done_once"]
fn helper_that_runs_until_it_is_killed() {
    let folder = std::env::args().next_back().unwrap();
    assert!(folder.starts_with('/'), "a helper runs only when the test of its note starts it");
    run_or_resume(Path::new(&folder)).unwrap();
}

/// How many lines the journal has; none if it is not there.
fn length(path: &Path) -> usize {
    fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn killed_at_any_moment_everything_is_done_once() {
    let mut killed_in_the_middle = 0;
    for round in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.journal");
        for kill in 0..40 {
            let before = length(&path);
            let mut helper = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "sigkill::helper_that_runs_until_it_is_killed", "--skip"])
                .arg(folder.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Some lines further on, and then somewhere between two lines.
            let lines = 1 + (round * 3 + kill) % 7;
            while length(&path) < before + lines && helper.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(300));
            }
            std::thread::sleep(Duration::from_micros(
                u64::try_from((round * 7 + kill * 13) % 50).unwrap() * 100,
            ));
            helper.kill().unwrap();
            helper.wait().unwrap();
            if read(&path).is_ok_and(|read| read.state.outcome().is_some()) {
                break;
            }
            killed_in_the_middle += 1;
        }
        let state = match read(&folder.path().join("run.journal")) {
            Ok(read) if read.state.outcome().is_some() => read.state,
            _ => run_or_resume(folder.path()).unwrap().state,
        };
        assert_eq!(state.outcome(), Some(Outcome::Verified));
        let names = (0..STEPS).map(|n| format!("a{n}")).chain((0..4).map(|n| format!("p{n}")));
        for name in names {
            assert_eq!(fs::read_to_string(folder.path().join(&name)).unwrap(), "done\n", "{name}");
        }
    }
    assert!(killed_in_the_middle > 8, "hardly any kill came while there was something to kill");
}
