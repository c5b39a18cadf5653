//! Commands, processes and connections on this host.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use place::{Command, Daemons, End, Error, Input, Limits, Place, ProcessId, Stopped, Stream};

const SOON: Duration = Duration::from_secs(20);

fn run(text: &str) -> place::Finished {
    Place::host().run(&Command::shell(text), &Limits::timeout(SOON)).expect("it starts")
}

/// The number that a command wrote as its first line.
fn pid_in(output: &str) -> i32 {
    output.lines().next().and_then(|line| line.trim().parse().ok()).expect("a number was written")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_there(pid: i32) -> bool {
    ProcessId::of(pid).is_ok_and(|process| process.is_running())
}

#[test]
fn a_command_tells_its_status_and_outputs() {
    let finished = run("echo out; echo err >&2; exit 3");
    assert_eq!(finished.end, End::Exited(3));
    assert!(!finished.success());
    assert_eq!((finished.out.text(), finished.err.text()), ("out\n".into(), "err\n".into()));
    assert_eq!((finished.left_behind, finished.daemons.len()), (0, 0));
}

#[test]
fn a_signal_is_told_from_a_status() {
    assert_eq!(run("kill -9 $$").end, End::Killed { signal: 9 });
}

#[test]
fn directory_environment_and_input_are_given() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("here"), "x").unwrap();
    let command = Command::shell("ls; echo $COLOUR; cat")
        .directory(folder.path())
        .env("COLOUR", "green")
        .input(Input::Bytes(b"fed".to_vec()));
    let finished = Place::host().run(&command, &Limits::timeout(SOON)).unwrap();
    assert_eq!(finished.out.text(), "here\ngreen\nfed");
}

#[test]
fn a_clean_environment_holds_what_was_given() {
    let command = Command::new("env", [""; 0]).clean_environment().env("A", "b");
    let finished = Place::host().run(&command, &Limits::timeout(SOON)).unwrap();
    let mut names: Vec<String> =
        finished.out.text().lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    names.sort();
    assert_eq!(names, ["A", "LIFEBOAT_COMMAND", "PATH"]);
}

#[test]
fn more_input_than_a_pipe_holds_is_fed_while_output_is_read() {
    let input = vec![b'x'; 3 << 20];
    let command = Command::new("cat", [""; 0]).input(Input::Bytes(input.clone()));
    let limits = Limits { output_bytes_max: 8 << 20, ..Limits::timeout(SOON) };
    let finished = Place::host().run(&command, &limits).unwrap();
    assert!(finished.out.whole() == Some(input), "the output is not the input");
}

#[test]
fn a_command_that_does_not_read_its_input_is_no_failure() {
    let command = Command::shell("exit 0").input(Input::Bytes(vec![0; 1 << 20]));
    assert!(Place::host().run(&command, &Limits::timeout(SOON)).unwrap().success());
}

#[test]
fn lines_are_told_as_they_come() {
    let lines = Mutex::new(Vec::new());
    let told = |stream: Stream, line: &str| lines.lock().unwrap().push((stream, line.to_owned()));
    let limits = Limits { on_line: Some(&told), ..Limits::timeout(SOON) };
    Place::host()
        .run(&Command::shell("echo a; sleep 0.1; echo b >&2; sleep 0.1; printf c"), &limits)
        .unwrap();
    let lines = lines.into_inner().unwrap();
    let expected = [(Stream::Out, "a"), (Stream::Err, "b"), (Stream::Out, "c")];
    assert_eq!(lines, expected.map(|(stream, line)| (stream, line.to_owned())));
}

#[test]
fn a_flood_of_output_is_bounded() {
    let finished = run("head -c 20000000 /dev/zero");
    assert!(finished.success());
    assert_eq!(finished.out.head.len() + finished.out.tail.len(), 64 << 10);
    assert_eq!(finished.out.omitted, 20_000_000 - (64 << 10));
}

#[test]
fn what_cannot_be_started_is_told_without_arguments() {
    let command = Command::new("no-such-program", ["secret"]).env("K", "secret");
    let error = Place::host().run(&command, &Limits::timeout(SOON)).unwrap_err();
    assert!(matches!(error, Error::Spawn { .. }));
    let all = format!("{error} {error:?} {command:?}");
    assert!(all.contains("no-such-program") && !all.contains("secret"), "{all}");
}

#[test]
fn a_timeout_kills_also_who_ignores_sigterm_and_who_left_the_session() {
    let limits = Limits { grace: Duration::from_millis(200), ..Limits::timeout(Duration::from_millis(500)) };
    let text =
        "trap '' TERM; setsid sleep 1000 & sleep 1000 & echo $! >&2; echo $$; while :; do sleep 1; done";
    let finished = Place::host().run(&Command::shell(text), &limits).unwrap();
    assert_eq!(finished.end, End::TimedOut);
    assert!(finished.left_behind >= 3, "{finished:?}");
    assert!(!is_there(pid_in(&finished.out.text())) && !is_there(pid_in(&finished.err.text())));
    assert!(finished.daemons.is_empty());
    assert!(finished.took < Duration::from_secs(10));
}

#[test]
fn a_timeout_kills_also_daemons_whose_parent_is_gone() {
    let limits = Limits { grace: Duration::ZERO, ..Limits::timeout(Duration::from_secs(1)) };
    let text = "(setsid sh -c 'echo $$; exec sleep 1000' &); while :; do sleep 0.1; done";
    let finished = Place::host().run(&Command::shell(text), &limits).unwrap();
    assert_eq!(finished.end, End::TimedOut);
    assert!(!is_there(pid_in(&finished.out.text())));
}

#[test]
fn one_that_ends_at_sigterm_is_still_told_as_timed_out() {
    let finished = Place::host()
        .run(
            &Command::shell("trap 'exit 0' TERM; while :; do sleep 0.05; done"),
            &Limits::timeout(Duration::from_millis(300)),
        )
        .unwrap();
    assert_eq!(finished.end, End::TimedOut);
}

#[test]
fn cancelling_ends_it() {
    let cancel = AtomicBool::new(false);
    let limits = Limits { cancel: Some(&cancel), ..Limits::timeout(SOON) };
    let finished = thread::scope(|scope| {
        let running = scope.spawn(|| Place::host().run(&Command::shell("sleep 1000"), &limits).unwrap());
        thread::sleep(Duration::from_millis(200));
        cancel.store(true, Ordering::Relaxed);
        running.join().unwrap()
    });
    assert_eq!(finished.end, End::Cancelled);
}

#[test]
fn who_is_left_in_the_session_is_killed_and_counted() {
    let finished = run("sleep 1000 & echo $!");
    assert!(finished.success());
    assert_eq!(finished.left_behind, 1);
    assert!(!is_there(pid_in(&finished.out.text())));
}

#[test]
fn a_daemon_stays_or_dies_as_the_limits_say() {
    // As daemon(3) does it: the parent ends before the child has left the session.
    let text = "perl -MPOSIX -e 'if (fork) { exit } select undef, undef, undef, 0.1; setsid; $| = 1; print \"$$\\n\"; \
        open STDOUT, \">/dev/null\"; open STDERR, \">&STDOUT\"; sleep 1000'";
    let finished = run(text);
    let pid = pid_in(&finished.out.text());
    assert_eq!((finished.left_behind, finished.daemons.len()), (0, 1), "{finished:?}");
    assert!(is_there(pid));
    finished.daemons[0].stop(Duration::from_secs(1)).unwrap();
    until("the daemon ends", || !is_there(pid));

    let limits = Limits { daemons: Daemons::Die, ..Limits::timeout(SOON) };
    let finished = Place::host().run(&Command::shell(text), &limits).unwrap();
    assert_eq!((finished.left_behind, finished.daemons.len()), (1, 0));
    // It was killed before it could leave the session and write its number.
    assert_eq!(finished.out.text(), "");
}

#[test]
fn a_daemon_that_holds_the_output_does_not_hold_us() {
    let started = Instant::now();
    let finished = run("setsid sleep 1000 & echo done");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(finished.out.text(), "done\n");
    finished.daemons.iter().for_each(|daemon| drop(daemon.stop(Duration::ZERO)));
}

#[test]
fn a_command_has_no_terminal_and_leads_its_session() {
    let finished = run("cut -d' ' -f6,7 /proc/$$/stat; echo $$");
    let text = finished.out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("{} 0", lines[1]));
}

#[test]
fn a_long_output_is_read_to_its_end_beside_a_flood_of_errors() {
    let command = Command::shell(
        "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2; head -c 5 /dev/zero; exit 4",
    );
    let mut reading = Place::host().read(&command, &Limits::timeout(SOON)).unwrap();
    let mut bytes = Vec::new();
    reading.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 3_000_005);
    let finished = reading.finish().unwrap();
    assert_eq!(finished.end, End::Exited(4));
    assert_eq!(finished.err.omitted, 1_000_000 - (64 << 10));
}

#[test]
fn reading_ends_when_the_time_is_up_and_dropping_kills() {
    let command = Command::shell("echo $$; sleep 1000");
    let mut reading = Place::host().read(&command, &Limits::timeout(Duration::from_millis(300))).unwrap();
    let mut bytes = Vec::new();
    assert_eq!(reading.read_to_end(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    let pid = pid_in(&String::from_utf8(bytes).unwrap());
    assert!(is_there(pid));
    drop(reading);
    assert!(!is_there(pid));
}

#[test]
fn a_started_process_writes_its_log_runs_on_and_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("logs/server.log");
    let host = Place::host();
    let text = "echo up; (sleep 1000 &) ; setsid sleep 1000 & trap 'echo down; exit' TERM; while :; do sleep 0.05; done";
    let process = host.start(&Command::shell(text), &log).unwrap();
    until("it is up", || fs::read_to_string(&log).is_ok_and(|text| text.contains("up")));
    assert!(host.is_running(&process));
    let again: ProcessId = serde_json::from_str(&serde_json::to_string(&process).unwrap()).unwrap();
    assert_eq!(again, process);
    thread::sleep(Duration::from_millis(200));
    // The one that stayed in the group ends by SIGTERM as the leader does; the one with a session of its own
    // does not get it and is killed.
    assert_eq!(host.stop(&process, SOON).unwrap(), Stopped::Killed { processes: 1 });
    assert!(!host.is_running(&process));
    let text = fs::read_to_string(&log).unwrap(); // The shell tells of its child that was terminated.
    assert!(text.starts_with("up\n") && text.ends_with("down\n"), "{text}");
    assert_eq!(host.stop(&process, SOON).unwrap(), Stopped::WasNotRunning);
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let host = Place::host();
    let process =
        host.start(&Command::shell("trap '' TERM; echo up; while :; do sleep 0.05; done"), &log).unwrap();
    until("it is up", || fs::read_to_string(&log).is_ok_and(|text| text == "up\n"));
    let stopped = host.stop(&process, Duration::from_millis(200)).unwrap();
    assert!(matches!(stopped, Stopped::Killed { processes } if processes >= 1), "{stopped:?}");
    assert!(!host.is_running(&process));
}

#[test]
fn a_started_process_that_ended_is_not_running() {
    let folder = tempfile::tempdir().unwrap();
    let host = Place::host();
    let process = host.start(&Command::shell("exit 0"), &folder.path().join("log")).unwrap();
    until("it has ended", || !host.is_running(&process));
    assert!(!fs::exists(format!("/proc/{}", process.pid)).unwrap(), "a zombie is left");
}

#[test]
fn connecting_reaches_a_server_by_name_and_says_when_there_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    Place::host().connect("localhost", port, SOON).unwrap();
    drop(listener);
    let error = Place::host().connect("127.0.0.1", port, SOON).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")));
}
