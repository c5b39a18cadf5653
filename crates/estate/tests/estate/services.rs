//! Services: real processes that are started, killed, stopped and asked.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use estate::secrets::Secrets;
use estate::service::{
    Commands, Context, Ended, Error, Kind, Look, Process, Service, Started, Status, Systemd, Verb,
};
use place::{Command, Place, ProcessId};
use tempfile::TempDir;

/// A state directory on this host, and everything else that an operation is told.
pub(crate) struct Ground {
    pub(crate) state: TempDir,
    pub(crate) place: Place,
    cancel: AtomicBool,
    secrets: Secrets,
}

impl Ground {
    pub(crate) fn new() -> Ground {
        Ground::at(Place::host(), tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(place: Place, state: TempDir) -> Ground {
        Ground { state, place, cancel: AtomicBool::new(false), secrets: Secrets::new(["hunter2".into()]) }
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context {
            place: &self.place,
            state: self.state.path(),
            timeout: Duration::from_secs(20),
            cancel: &self.cancel,
            secrets: &self.secrets,
        }
    }

    fn file(&self, name: &str) -> String {
        self.state.path().join(name).display().to_string()
    }
}

/// Ends a service also when its test fails.
pub(crate) struct Guard<'a>(pub(crate) &'a Service, pub(crate) &'a Ground);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let _ = self.0.stop(&self.1.context());
    }
}

fn process(command: Command) -> Service {
    named("web", command)
}

pub(crate) fn named(name: &str, command: Command) -> Service {
    let process = Process { command, grace: Duration::from_millis(500), settle: Duration::from_millis(300) };
    Service::new(name, Kind::Process(process)).unwrap()
}

/// A real server of the machine, in the foreground.
pub(crate) fn server(port: u16, folder: &Path) -> Command {
    Command::new("python3", ["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()])
        .directory(folder)
        .env("PYTHONUNBUFFERED", "1")
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn kill(process: ProcessId) {
    let pid = rustix::process::Pid::from_raw(process.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until(|| !process.is_running());
}

pub(crate) fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "it never came to that");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How many processes have this word in their command line.
fn count(word: &str) -> usize {
    let found = std::process::Command::new("pgrep").args(["-f", "--", word]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().count()
}

fn running(status: &Status) -> bool {
    matches!(status, Status::Running { .. })
}

#[test]
fn a_process_runs_once_however_often_it_is_started() {
    let ground = Ground::new();
    let web = process(server(free_port(), ground.state.path()));
    let _guard = Guard(&web, &ground);
    let context = ground.context();
    assert_eq!(web.status(&context), Status::Stopped);
    let first = web.start(&context).unwrap();
    assert!(!first.already && first.cleared == 0 && first.stand_in.is_none());
    let Status::Running { since: Some(since) } = web.status(&context) else { panic!("it does not run") };
    assert!((jiff::Timestamp::now() - since).get_seconds() < 60);
    let second = web.start(&context).unwrap();
    assert_eq!(second, Started { already: true, ..first.clone() });

    let watch = web.watch(&context).unwrap();
    assert_eq!(web.look_again(&context, &watch), Look::Same);
    let third = web.restart(&context).unwrap();
    assert_ne!(third.process, first.process);
    assert!(matches!(web.look_again(&context, &watch), Look::Restarted { .. }));

    assert_eq!(web.stop(&context).unwrap(), Ended { was_running: true, killed: 0 });
    assert_eq!(web.status(&context), Status::Stopped);
    assert_eq!(web.stop(&context).unwrap(), Ended { was_running: false, killed: 0 });
    assert!(matches!(web.look_again(&context, &watch), Look::Gone { .. }));
    assert!(web.watch(&context).is_err() && web.served(&context).is_err());
}

#[test]
fn two_starts_at_the_same_time_start_one() {
    let ground = Ground::new();
    let word = format!("only-once-{}", free_port());
    let web = process(Command::shell(format!(": {word}; sleep 300")));
    let _guard = Guard(&web, &ground);
    let started: Vec<Started> = thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| web.start(&ground.context()).unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(started.iter().filter(|started| !started.already).count(), 1);
    assert!(started.iter().all(|other| other.process == started[0].process));
    assert_eq!(count(&word), 1);
}

#[test]
fn a_service_that_somebody_else_is_starting_is_waited_for_only_so_long() {
    let ground = Ground::new();
    let web = process(Command::shell("sleep 300"));
    let lock = fs::File::create(ground.file("web.lock")).unwrap();
    lock.lock().unwrap();
    let short = Context { timeout: Duration::from_millis(200), ..ground.context() };
    assert!(matches!(web.start(&short), Err(Error::Busy { .. })));
    assert!(matches!(web.stop(&short), Err(Error::Busy { .. })));
    ground.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(web.start(&ground.context()), Err(Error::Interrupted)));
    assert_eq!(web.status(&ground.context()), Status::Stopped);
}

#[test]
fn a_process_that_dies_at_once_is_a_failed_start_with_the_end_of_its_log() {
    let ground = Ground::new();
    let web = process(Command::shell("echo token hunter2; echo cannot bind: address in use >&2; exit 1"));
    // What an earlier start said must not be taken for what this one says.
    fs::write(ground.file("web.log"), "yesterday all was well\n").unwrap();
    let error = web.start(&ground.context()).unwrap_err();
    assert!(matches!(error, Error::Died { .. }));
    let text = error.to_string();
    assert!(text.contains("cannot bind: address in use") && text.contains("token ***"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("yesterday"), "{text}");
    let Status::Failed { why } = web.status(&ground.context()) else { panic!("it has not failed") };
    assert!(why.contains("cannot bind") && !why.contains("hunter2"), "{why}");
    // It is tried again, not taken for running.
    assert!(matches!(web.start(&ground.context()), Err(Error::Died { .. })));
}

#[test]
fn a_process_that_dies_after_its_gate_is_seen_at_the_second_look() {
    let ground = Ground::new();
    let text = "echo up; while [ ! -e die ]; do sleep 0.05; done; echo out of memory; exit 1";
    let web = process(Command::shell(text).directory(ground.state.path()));
    let context = ground.context();
    web.start(&context).unwrap();
    let watch = web.watch(&context).unwrap();
    assert_eq!(web.look_again(&context, &watch), Look::Same);
    fs::write(ground.file("die"), "").unwrap();
    until(|| !running(&web.status(&context)));
    let Look::Gone { why } = web.look_again(&context, &watch) else { panic!("its end was not seen") };
    assert!(why.contains("out of memory"), "{why}");
    // One that somebody started again is not the one that passed the gate.
    fs::remove_file(ground.file("die")).unwrap();
    web.start(&context).unwrap();
    assert!(matches!(web.look_again(&context, &watch), Look::Restarted { .. }));
    web.stop(&context).unwrap();
}

#[test]
fn what_a_killed_process_leaves_behind_is_ended_before_the_next_start() {
    let ground = Ground::new();
    let word = format!("left-behind-{}", free_port());
    // One child in the session and one that leaves it, as daemons do.
    let text = format!("sh -c ': {word}; sleep 300' & setsid sh -c ': {word}; sleep 300' & wait");
    let web = process(Command::shell(text));
    let _guard = Guard(&web, &ground);
    let context = ground.context();
    let started = web.start(&context).unwrap().process.unwrap();
    until(|| count(&word) == 3);
    kill(started);
    let Status::Failed { why } = web.status(&context) else { panic!("its death was not seen") };
    assert!(why.contains("left 4 processes behind"), "{why}");
    let again = web.start(&context).unwrap();
    assert!(!again.already && again.cleared >= 2, "{again:?}");
    until(|| count(&word) == 3);
    let ended = web.stop(&context).unwrap();
    assert!(ended.was_running);
    assert_eq!(count(&word), 0);
}

#[test]
fn who_does_not_end_on_being_asked_is_killed() {
    let ground = Ground::new();
    let word = format!("deaf-{}", free_port());
    let web = process(Command::shell(format!("trap '' TERM; while :; do : {word}; sleep 0.1; done")));
    let _guard = Guard(&web, &ground);
    web.start(&ground.context()).unwrap();
    let ended = web.stop(&ground.context()).unwrap();
    assert!(ended.was_running && ended.killed >= 1, "{ended:?}");
    assert_eq!(count(&word), 0);
}

#[test]
fn a_number_that_was_given_to_somebody_else_is_not_the_service() {
    let ground = Ground::new();
    let web = process(Command::shell("sleep 300"));
    let _guard = Guard(&web, &ground);
    let context = ground.context();
    let real = web.start(&context).unwrap().process.unwrap();
    // The record as it would be had the service's number been given to this very test process.
    let path = ground.file("web.json");
    let record = fs::read_to_string(&path).unwrap();
    let me = std::process::id();
    let stolen = record.replace(&format!("\"pid\": {}", real.pid), &format!("\"pid\": {me}"));
    assert_ne!(record, stolen);
    fs::write(&path, stolen).unwrap();
    assert!(matches!(web.status(&context), Status::Failed { .. }));
    // Whoever holds the number now is left alone, and the real one, known by its mark, is not left running beside.
    let again = web.start(&context).unwrap();
    assert!(!again.already && again.cleared >= 1 && !real.is_running());
    assert_eq!(web.stop(&context).unwrap().killed, 0);
}

#[test]
fn a_start_that_was_killed_before_it_could_tell_is_adopted() {
    let ground = Ground::new();
    let word = format!("adopted-{}", free_port());
    let web = process(Command::shell(format!(": {word}; sleep 300")));
    let _guard = Guard(&web, &ground);
    let context = ground.context();
    let real = web.start(&context).unwrap().process.unwrap();
    // The record as it is between the process's start and the note of it.
    let path = ground.file("web.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["phase"] = "starting".into();
    fs::write(&path, record.to_string()).unwrap();
    assert!(running(&web.status(&context)));
    let again = web.start(&context).unwrap();
    assert!(again.already && again.process == Some(real));
    assert_eq!(count(&word), 1);
    assert!(web.stop(&context).unwrap().was_running);
    assert_eq!(count(&word), 0);

    // Killed before the process was made: there is nothing to adopt.
    fs::write(&path, record.to_string()).unwrap();
    assert_eq!(web.status(&context), Status::Stopped);
    assert!(!web.start(&context).unwrap().already);
}

#[test]
fn records_of_another_place_or_boot_mean_nothing() {
    let ground = Ground::new();
    let web = process(Command::shell("sleep 300"));
    let _guard = Guard(&web, &ground);
    let context = ground.context();
    let real = web.start(&context).unwrap().process.unwrap();
    let path = ground.file("web.json");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, other) in [("place", "the twin"), ("boot", "another")] {
        let mut foreign = record.clone();
        foreign[field] = other.into();
        fs::write(&path, foreign.to_string()).unwrap();
        assert_eq!(web.status(&context), Status::Stopped, "{field}");
        assert_eq!(web.stop(&context).unwrap(), Ended { was_running: false, killed: 0 });
        assert!(real.is_running(), "a process of another place was ended");
    }
    fs::write(&path, record.to_string()).unwrap();
    assert!(web.stop(&context).unwrap().was_running);
}

#[test]
fn a_record_that_cannot_be_understood_stops_everything() {
    let ground = Ground::new();
    let web = process(Command::shell("sleep 300"));
    for damage in ["", "{", "[]", r#"{"version": 1, "extra": 2}"#] {
        fs::write(ground.file("web.json"), damage).unwrap();
        assert!(matches!(web.status(&ground.context()), Status::Unknown { .. }), "{damage}");
        let error = web.start(&ground.context()).unwrap_err();
        assert!(matches!(&error, Error::State { .. }), "{error}");
        assert!(error.to_string().contains("remove the file"), "{error}");
    }
}

#[test]
fn what_cannot_be_started_is_an_error_and_leaves_no_record() {
    let ground = Ground::new();
    let web = process(Command::new("no-such-program-of-lifeboat", [""; 0]));
    let error = web.start(&ground.context()).unwrap_err();
    assert!(error.to_string().contains("no-such-program-of-lifeboat"), "{error}");
    assert_eq!(web.status(&ground.context()), Status::Stopped);
    let nowhere = ground.state.path().join("a file");
    fs::write(&nowhere, "").unwrap();
    let context = Context { state: &nowhere, ..ground.context() };
    let error = process(Command::shell("sleep 300")).start(&context).unwrap_err();
    assert!(matches!(error, Error::State { .. }), "{error}");
}

#[test]
fn a_long_log_is_put_aside() {
    let ground = Ground::new();
    let web = process(Command::shell("echo fresh; sleep 300"));
    let _guard = Guard(&web, &ground);
    fs::File::create(ground.file("web.log")).unwrap().set_len(17 << 20).unwrap();
    web.start(&ground.context()).unwrap();
    until(|| fs::read_to_string(ground.file("web.log")).is_ok_and(|text| text == "fresh\n"));
    assert_eq!(fs::metadata(ground.file("web.log.1")).unwrap().len(), 17 << 20);
}

#[test]
fn commands_start_stop_and_tell() {
    let ground = Ground::new();
    let flag = ground.file("flag");
    let commands = Commands {
        start: Command::shell(format!("test ! -e {flag} && touch {flag}")),
        stop: Some(Command::shell(format!("rm {flag}"))),
        status: Some(Command::shell(format!("test -e {flag}"))),
    };
    let service = Service::new("flag", Kind::Command(commands)).unwrap();
    let context = ground.context();
    assert_eq!(service.status(&context), Status::Stopped);
    assert!(!service.start(&context).unwrap().already);
    assert!(running(&service.status(&context)));
    // A start command that fails when the service runs is not run then.
    assert!(service.start(&context).unwrap().already);
    let watch = service.watch(&context).unwrap();
    // It runs, but nobody can say that it did so all the time.
    assert_eq!(service.look_again(&context, &watch), Look::Running);
    assert!(service.stop(&context).unwrap().was_running);
    assert!(!service.stop(&context).unwrap().was_running);
    assert!(matches!(service.look_again(&context, &watch), Look::Gone { .. }));
    assert!(service.served(&context).unwrap_err().to_string().contains("nobody knows its processes"));
}

#[test]
fn commands_that_fail_or_do_not_know_say_so() {
    let ground = Ground::new();
    let service = |start: &str, status: Option<&str>| {
        let status = status.map(Command::shell);
        let commands = Commands { start: Command::shell(start), stop: None, status };
        Service::new("flag", Kind::Command(commands)).unwrap()
    };
    let context = ground.context();
    let error = service("echo no hunter2 today >&2; exit 7", Some("false")).start(&context).unwrap_err();
    assert_eq!(error.to_string(), "failed to start flag: ended with status 7: no *** today");
    let error = service("true", None).stop(&context).unwrap_err();
    assert!(error.to_string().contains("no stop command"), "{error}");
    assert!(matches!(service("true", None).status(&context), Status::Unknown { .. }));
    for status in ["exit 4", "no-such-program-of-lifeboat", "kill -9 $$"] {
        assert!(matches!(service("true", Some(status)).status(&context), Status::Unknown { .. }), "{status}");
    }
    let short = Context { timeout: Duration::from_millis(200), ..context };
    assert!(matches!(service("true", Some("sleep 300")).status(&short), Status::Unknown { .. }));
    let error = service("sleep 300", Some("false")).start(&short).unwrap_err();
    assert!(error.to_string().contains("did not end in time"), "{error}");
}

#[test]
fn units_without_a_systemd_are_not_known_to_run() {
    let ground = Ground::new();
    let unit = Systemd { unit: "lifeboat-test-no-such-unit.service".into(), user: false, others: Vec::new() };
    let service = Service::new("unit", Kind::Systemd(unit)).unwrap();
    let context = ground.context();
    // Without systemctl, without systemd, or with both and without the unit: it never runs, and cannot be started.
    let status = service.status(&context);
    assert!(matches!(status, Status::Unknown { .. } | Status::Failed { .. }), "{status:?}");
    assert!(service.start(&context).is_err());
    assert!(service.watch(&context).is_err() && service.served(&context).is_err());
}

#[test]
fn what_a_person_would_type_is_told() {
    let ground = Ground::new();
    let web = process(server(8100, Path::new("/srv/web")).env("TOKEN", "hunter2"));
    let by_hand = |verb| web.by_hand(verb, Path::new("/var/lib/lifeboat"), &Secrets::default());
    let start = "( cd /srv/web && export PYTHONUNBUFFERED=… TOKEN=… && \
                 python3 -m http.server --bind 127.0.0.1 8100 ) < /dev/null >> /var/lib/lifeboat/web.log 2>&1 &";
    assert_eq!(by_hand(Verb::Start), start);
    assert_eq!(by_hand(Verb::Stop), "pkill -TERM -f -- 'python3 -m http.server --bind 127.0.0.1 8100'");
    assert!(by_hand(Verb::Status).starts_with("pgrep -a -f -- 'python3"));
    let unit = Systemd { unit: "nginx".into(), user: false, others: Vec::new() };
    let unit = Service::new("nginx", Kind::Systemd(unit)).unwrap();
    assert_eq!(
        unit.by_hand(Verb::Restart, ground.state.path(), &Secrets::default()),
        "systemctl reset-failed -- nginx; systemctl restart -- nginx"
    );
}

#[test]
fn names_that_are_no_names_are_refused() {
    for name in ["", "..", ".hidden", "a/b", "a b", "a\nb"] {
        let kind = Kind::Systemd(Systemd { unit: "nginx".into(), user: false, others: Vec::new() });
        assert!(matches!(Service::new(name, kind), Err(Error::BadName { .. })), "{name:?}");
    }
    let kind = Kind::Systemd(Systemd { unit: "--force".into(), user: false, others: Vec::new() });
    assert!(matches!(Service::new("a", kind), Err(Error::BadName { what: "a unit", .. })));
}
