//! A twin of the test's own process, for what only its maker can see: errors, panics, closures, threads.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use place::{Command, End, Error, Init, Limits, Place, Twin, TwinOptions};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

fn options(scratch: &TempDir) -> TwinOptions {
    // A harness can lend itself as the first process, because it is born into its namespaces.
    let helper = "twin::is_the_first_process_of_a_twin";
    let init = Init::this_program(["--exact", helper, "--ignored", "--nocapture"]);
    TwinOptions { scratch: scratch.path().join("twins"), init, keep: Vec::new(), gone: Vec::new() }
}

/// A directory on the disk, because `/tmp` is fresh in a twin.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("lifeboat-place-").tempdir_in("/var/tmp").unwrap()
}

fn make() -> (Twin, TempDir) {
    let scratch = folder();
    (Twin::make(&options(&scratch)).unwrap(), scratch)
}

#[test]
#[ignore = "is started by make"]
fn is_the_first_process_of_a_twin() -> ExitCode {
    place::twin_init()
}

#[test]
fn a_twin_is_a_place_like_the_host() {
    let (twin, _scratch) = make();
    let place = twin.place();
    assert!(place.is_twin() && !Place::host().is_twin());
    assert_eq!((place.name(), Place::host().name()), ("the twin", "this host"));
    let pid =
        |place: &Place| place.run(&Command::shell("echo $$"), &Limits::timeout(SOON)).unwrap().out.text();
    assert!(pid(&place).trim().parse::<u32>().unwrap() < 100);
    let limits = Limits { grace: Duration::ZERO, ..Limits::timeout(Duration::from_millis(200)) };
    assert_eq!(place.run(&Command::shell("setsid sleep 1000"), &limits).unwrap().end, End::TimedOut);
    let mut read = String::new();
    let mut reading = place.read(&Command::shell("echo /proc/[0-9]*"), &Limits::timeout(SOON)).unwrap();
    std::io::Read::read_to_string(&mut reading, &mut read).unwrap();
    assert!(reading.finish().unwrap().success());
    assert!(read.starts_with("/proc/1 ") && read.split(' ').count() < 5, "{read}");
    let daemon =
        place.run(&Command::shell("setsid sleep 1000 >/dev/null 2>&1 &"), &Limits::timeout(SOON)).unwrap();
    assert_eq!(daemon.daemons.len(), 1);
    assert!(daemon.daemons[0].is_running());
    twin.destroy().unwrap();
    assert!(!daemon.daemons[0].is_running());
}

#[test]
fn a_closure_has_the_twins_files_and_the_hosts_network_also_on_its_threads() {
    let (twin, scratch) = make();
    let place = twin.place();
    let file = scratch.path().join("file");
    let network = fs::read_link("/proc/self/ns/net").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let read = place
        .within(|| {
            fs::write(&file, "twin").unwrap();
            std::net::TcpStream::connect(address).unwrap();
            thread::scope(|scope| scope.spawn(|| fs::read_to_string(&file).unwrap()).join().unwrap())
        })
        .unwrap();
    assert_eq!(read, "twin");
    assert!(!file.exists());
    // The caller's thread has stayed where it was.
    assert_eq!(fs::read_link("/proc/self/ns/net").unwrap(), network);
    assert!(!Place::host().within(|| file.exists()).unwrap());
}

#[test]
fn a_panic_goes_on_in_the_caller_and_the_twin_lives() {
    let (twin, _scratch) = make();
    let place = twin.place();
    let panicked = std::panic::catch_unwind(|| place.within(|| panic!("a word"))).unwrap_err();
    assert_eq!(*panicked.downcast::<&str>().unwrap(), "a word");
    assert!(place.within(|| Path::new("/etc/passwd").exists()).unwrap());
}

#[test]
fn many_threads_use_one_twin_while_it_is_destroyed() {
    let (twin, _scratch) = make();
    let place = twin.place();
    let destroyed = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let was_destroyed = destroyed.load(Ordering::SeqCst);
                    match place.run(&Command::shell("exit 7"), &Limits::timeout(SOON)) {
                        Ok(finished) => assert!(!was_destroyed || finished.end != End::Exited(7)),
                        Err(_) if was_destroyed => break,
                        // It was being destroyed meanwhile.
                        Err(_) => thread::sleep(Duration::from_millis(1)),
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(300));
        twin.destroy().unwrap();
        destroyed.store(true, Ordering::SeqCst);
    });
    assert!(matches!(place.within(|| ()), Err(Error::Gone { .. })));
}

#[test]
fn a_first_process_that_is_none_is_an_error_that_leaves_nothing() {
    let scratch = folder();
    let init = |program: &str| Init { program: program.into(), arguments: Vec::new() };
    for (program, expected) in
        [("/bin/false", "ended without an answer"), ("/no/such/program", "No such file")]
    {
        let error = Twin::make(&TwinOptions { init: init(program), ..options(&scratch) }).unwrap_err();
        assert!(matches!(error, Error::Make { .. }) && error.to_string().contains(expected), "{error}");
        assert_eq!(fs::read_dir(scratch.path().join("twins")).unwrap().count(), 0);
    }
}

#[test]
fn two_twins_are_apart() {
    let (one, scratch) = make();
    let other = Twin::make(&options(&scratch)).unwrap();
    let file = scratch.path().join("file");
    one.place().within(|| fs::write(&file, "one")).unwrap().unwrap();
    assert!(!other.place().within(|| file.exists()).unwrap());
    drop(one);
    assert!(other.place().run(&Command::shell("true"), &Limits::timeout(SOON)).unwrap().success());
    drop(other);
    assert_eq!(fs::read_dir(scratch.path().join("twins")).unwrap().count(), 0);
}

#[test]
fn a_command_that_is_being_read_does_not_keep_a_twin_alive() {
    let (twin, _scratch) = make();
    let mut reading =
        twin.place().read(&Command::shell("echo $$; sleep 1000"), &Limits::timeout(SOON)).unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(&mut reading, &mut first).unwrap();
    twin.destroy().unwrap();
    std::io::Read::read_to_string(&mut reading, &mut String::new()).unwrap();
    let finished = reading.finish();
    assert!(!finished.is_ok_and(|finished| finished.success()));
}
