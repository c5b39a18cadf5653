//! Twins: what they show, what they keep from the host, how they end.

use std::process::ExitCode;
use std::time::Duration;

use place::{Command, Finished, Init, Limits, Place, Twin, TwinOptions};
use tempfile::TempDir;

pub const SOON: Duration = Duration::from_secs(20);

/// A twin, and the scratch directory in which it keeps what is written.
pub struct Made {
    pub twin: Twin,
    pub scratch: TempDir,
}

impl Made {
    pub fn sh(&self, text: &str) -> Finished {
        run(&self.twin.place(), text)
    }
}

pub fn options(scratch: &TempDir) -> TwinOptions {
    TwinOptions { scratch: scratch.path().join("twins"), init: init(), keep: Vec::new() }
}

/// The harness runs a test on the main thread when it may have one thread only, as a first process needs.
pub fn init() -> Init {
    let helper = "twin::is_the_first_process_of_a_twin";
    Init::this_program(["--exact", helper, "--ignored", "--nocapture", "--test-threads=1"])
}

/// A directory on the disk, because `/tmp` is fresh in a twin.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("lifeboat-place-").tempdir_in("/var/tmp").unwrap()
}

pub fn make() -> Made {
    let scratch = folder();
    let twin = Twin::make(&options(&scratch)).unwrap();
    Made { twin, scratch }
}

pub fn run(place: &Place, text: &str) -> Finished {
    place.run(&Command::shell(text), &Limits::timeout(SOON)).unwrap()
}

#[test]
#[ignore = "is started by make"]
fn is_the_first_process_of_a_twin() -> ExitCode {
    place::twin_init()
}

#[test]
fn try_it() {
    let made = make();
    println!("{:#?}", made.twin.report());
    let out = made.sh(
        "id; ls -la / /dev /run; cat /proc/self/mountinfo; ps aux; ip a; grep Cap /proc/self/status; df -h",
    );
    println!("{} {}", out.out.text(), out.err.text());
    made.twin.destroy().unwrap();
    println!("{:?}", std::fs::read_dir(made.scratch.path().join("twins")).unwrap().collect::<Vec<_>>());
}
