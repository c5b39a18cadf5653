//! Services that are units, on a real systemd that was booted for these tests.
//!
//! The outer test boots it and starts this very program again inside, where the inner ones are.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use estate::service::{Ended, Error, Kind, Look, Service, Status, Systemd, Verb};
use systemd_for_tests::Booted;

use crate::services::{Ground, free_port, until};
use crate::twin::Stage;

/// How many tests are started inside.
const INSIDE: usize = 7;

#[test]
fn units_are_run_by_a_real_systemd() {
    let machine = Booted::new();
    let program = std::env::current_exe().unwrap();
    let output = machine
        .command(&program)
        .args(["--ignored", "--test-threads", "2", "systemd::inside_"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let passed = format!("test result: ok. {INSIDE} passed; 0 failed");
    assert!(output.status.success() && said.contains(&passed), "{said}\n{}", machine.log());
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A service whose unit says this.
fn unit(name: &str, text: &str) -> Service {
    fs::write(format!("/etc/systemd/system/{name}.service"), text).unwrap();
    systemctl(&["daemon-reload"]);
    named(name)
}

fn named(name: &str) -> Service {
    let unit = Systemd { unit: format!("{name}.service"), user: false, others: Vec::new() };
    Service::new(name, Kind::Systemd(unit)).unwrap()
}

fn main_pid(name: &str) -> i32 {
    systemctl(&["show", "--property", "MainPID", "--value", name]).parse().unwrap()
}

#[test]
#[ignore = "is started by units_are_run_by_a_real_systemd"]
fn inside_a_unit_is_started_asked_and_stopped() {
    let ground = Ground::new();
    let context = ground.context();
    let web = unit("web", "[Service]\nExecStart=/bin/sleep 300\n");
    assert_eq!(web.status(&context), Status::Stopped);
    assert!(web.watch(&context).is_err() && web.served(&context).is_err());
    assert!(!web.start(&context).unwrap().already);
    assert!(web.start(&context).unwrap().already, "a start may be repeated");
    let Status::Running { since: Some(since) } = web.status(&context) else { panic!("it runs") };
    let age = jiff::Timestamp::now().duration_since(since);
    assert!((0..20).contains(&age.as_secs()), "{age}");
    let watch = web.watch(&context).unwrap();
    assert_eq!(web.look_again(&context, &watch), Look::Same);
    let served = web.served(&context).unwrap();
    let main = main_pid("web");
    assert!(
        served.includes(main) && !served.includes(1) && !served.includes(std::process::id().cast_signed())
    );

    web.restart(&context).unwrap();
    assert_ne!(main_pid("web"), main);
    assert!(matches!(web.look_again(&context, &watch), Look::Restarted { .. }));
    assert_eq!(web.stop(&context).unwrap(), Ended { was_running: true, killed: 0 });
    assert_eq!(web.stop(&context).unwrap(), Ended { was_running: false, killed: 0 });
    assert!(matches!(web.look_again(&context, &watch), Look::Gone { .. }));
    assert_eq!(systemctl(&["is-active", "web"]), "inactive");
    // What is printed for people works when it is typed.
    let typed = web.by_hand(Verb::Start, ground.state.path(), &estate::secrets::Secrets::default());
    assert!(Command::new("/bin/sh").args(["-c", &typed]).status().unwrap().success());
    assert!(matches!(web.status(&context), Status::Running { .. }));
}

#[test]
#[ignore = "is started by units_are_run_by_a_real_systemd"]
fn inside_units_that_fail_are_told() {
    let ground = Ground::new();
    let context = ground.context();
    let never = unit("never", "[Service]\nType=oneshot\nExecStart=/bin/false\n");
    assert!(matches!(never.start(&context), Err(Error::Failed { .. })));
    let Status::Failed { why } = never.status(&context) else { panic!("it failed") };
    assert!(why.contains("exit-code"), "{why}");

    let soon = unit("soon", "[Service]\nExecStart=/bin/sh -c 'sleep 0.3; exit 7'\n");
    soon.start(&context).unwrap();
    let watch = soon.watch(&context).unwrap();
    until(|| matches!(soon.status(&context), Status::Failed { .. }));
    assert!(matches!(soon.look_again(&context, &watch), Look::Gone { .. }));

    let killed = unit("killed", "[Service]\nExecStart=/bin/sleep 300\nRestart=always\nRestartSec=0\n");
    killed.start(&context).unwrap();
    let watch = killed.watch(&context).unwrap();
    let pid = rustix::process::Pid::from_raw(main_pid("killed")).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until(|| matches!(killed.look_again(&context, &watch), Look::Restarted { .. }));
    killed.stop(&context).unwrap();

    let slow = unit("slow", "[Service]\nType=oneshot\nExecStart=/bin/sleep 300\n");
    let short = estate::service::Context { timeout: Duration::from_millis(500), ..context };
    let error = slow.start(&short).unwrap_err();
    assert!(error.to_string().contains("did not end in time"), "{error}");
    assert!(matches!(slow.status(&context), Status::Unknown { .. }), "it is still being started");
    slow.stop(&context).unwrap();
}

#[test]
#[ignore = "is started by units_are_run_by_a_real_systemd"]
fn inside_a_unit_that_systemd_has_given_up_is_started() {
    let ground = Ground::new();
    let context = ground.context();
    let text = "[Service]\nRestart=always\nRestartSec=0\nExecStart=/bin/sh -c 'test -e /tmp/mended && exec sleep 300'\n";
    let loops = unit("loops", text);
    // Whether the first start or a later one is seen to fail is chance.
    let _ = loops.start(&context);
    until(|| matches!(loops.status(&context), Status::Failed { .. }));
    fs::write("/tmp/mended", "").unwrap();
    let by_hand = Command::new("systemctl").args(["start", "loops"]).status().unwrap();
    assert!(!by_hand.success(), "it is refused for having been started too often");
    loops.start(&context).unwrap();
    assert!(matches!(loops.status(&context), Status::Running { .. }));
    loops.stop(&context).unwrap();
}

#[test]
#[ignore = "is started by units_are_run_by_a_real_systemd"]
fn inside_units_that_are_masked_missing_or_broken_are_told() {
    let ground = Ground::new();
    let context = ground.context();
    let masked = named("masked");
    std::os::unix::fs::symlink("/dev/null", "/etc/systemd/system/masked.service").unwrap();
    let broken = unit("broken", "[Service]\nType=simple\n");
    for (service, word) in [(masked, "masked"), (named("missing"), "knows no unit"), (broken, "cannot load")]
    {
        let Status::Failed { why } = service.status(&context) else { panic!("{word}") };
        assert!(why.contains(word), "{why}");
        assert!(matches!(service.start(&context), Err(Error::Failed { .. })), "{word}");
        assert!(service.watch(&context).is_err() && service.served(&context).is_err(), "{word}");
    }
}

#[test]
#[ignore = "is started by units_are_run_by_a_real_systemd"]
fn inside_a_oneshot_that_remains_counts_as_running() {
    let ground = Ground::new();
    let context = ground.context();
    let text = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n";
    let once = unit("once", text);
    once.start(&context).unwrap();
    thread::sleep(Duration::from_millis(100));
    assert!(matches!(once.status(&context), Status::Running { .. }));
    let watch = once.watch(&context).unwrap();
    assert_eq!(once.look_again(&context, &watch), Look::Same);
    assert!(once.stop(&context).unwrap().was_running);
    assert_eq!(once.status(&context), Status::Stopped);
}

#[test]
#[ignore = "is started by units_are_run_by_a_real_systemd"]
fn inside_a_port_is_known_to_be_served_by_its_unit() {
    use estate::check::{Answer, AskContext, Check, Question, Tcp, TcpExpect};
    let ground = Ground::new();
    let context = ground.context();
    let port = free_port();
    let server = |name: &str, port: u16| {
        unit(name, &format!("[Service]\nExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 {port}\n"))
    };
    let (right, wrong) = (server("right", port), server("wrong", free_port()));
    right.start(&context).unwrap();
    wrong.start(&context).unwrap();
    until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let ask = |service: &Service| {
        let served = service.served(&context).unwrap();
        let check = Question::Tcp(Tcp { host: "127.0.0.1".into(), port, expect: TcpExpect::Open });
        let timeout = Duration::from_secs(10);
        let ask = AskContext {
            timeout,
            cancel: context.cancel,
            secrets: context.secrets,
            served_by: Some(&served),
        };
        Check::new(check).unwrap().ask(&ground.place, &ask)
    };
    let answer = ask(&right);
    assert!(answer.holds(), "{answer:?}");
    assert!(matches!(ask(&wrong), Answer::Fails { .. }), "another unit answers there");
    right.stop(&context).unwrap();
    wrong.stop(&context).unwrap();
}

/// Writes down how it was started.
const TELL: &str = "\
import json, os, sys
mask = os.umask(0)
os.umask(mask)
own = ['INVOCATION_ID', 'JOURNAL_STREAM', 'SYSTEMD_EXEC_PID', 'PWD', 'OLDPWD', 'SHLVL', '_']
environment = {k: v for k, v in os.environ.items() if k not in own and not k.startswith('LIFEBOAT_')}
made = [os.stat(path) for path in os.environ['STATE_DIRECTORY'].split(':')]
told = dict(arguments=sys.argv, environment=environment, user=[os.getuid(), os.getgid(), sorted(os.getgroups())],
            mask=mask, directory=os.getcwd(), made=[[oct(it.st_mode), it.st_uid, it.st_gid] for it in made])
json.dump(told, open('told', 'w'), indent=1, sort_keys=True)
";

/// Everything that is easily understood otherwise than systemd does.
const TELLING: &str = r#"
[Service]
Type=oneshot
StandardError=append:/tell.log
User=www-data
SupplementaryGroups=adm 12
UMask=0026
StateDirectory=tell/%i tell/other
StateDirectoryMode=0750
WorkingDirectory=/var/lib/tell/%i
Environment=A=one "B=two words" 'C=a "quoted" word' D=%i-%I-%p-%n-%N-%j-%J-%f-%H-%l-%v-%b-%t-%S-%% E=\x41\tb
Environment="LIST=x 'y z' w" EMPTY= LOST=1
EnvironmentFile=/etc/tell.env
EnvironmentFile=-/etc/tell-missing.env
UnsetEnvironment=LOST
ExecStart=/usr/bin/python3 /srv/tell.py $A ${B} "$LIST" $LIST pre$A pre${A}post '${C}' $EMPTY ${EMPTY} $NONE ${NONE} \
  # a comment in between
  $$A $${A} "tab\there" \x42 a"b c"d \; ";" 'single \'quote' %i "%I" 100%% ä\u00e4 \q $FROM_FILE ${FROM_FILE}
"#;

/// An environment file that is easily read otherwise than systemd does.
const TELL_ENV: &str = r#"# a comment
B=file wins
FROM_FILE="quoted \"text\" \$A \n" tail
F = spaces around \t
G='single'"double"
H=it's # no comment
I=goes \
on
 J=indented
bad-name=1
K=
"#;

#[test]
#[ignore = "is started by units_are_run_by_a_real_systemd"]
fn inside_a_rehearsal_is_what_systemd_does() {
    fs::write("/srv/tell.py", TELL).unwrap();
    fs::write("/etc/tell.env", TELL_ENV).unwrap();
    fs::write("/etc/systemd/system/tell-all@.service", TELLING).unwrap();
    fs::create_dir("/etc/systemd/system/tell-all@a-b\\x2dc.service.d").unwrap();
    fs::write(
        "/etc/systemd/system/tell-all@a-b\\x2dc.service.d/more.conf",
        "[Service]\nEnvironment=DROPPED=in\n",
    )
    .unwrap();
    systemctl(&["daemon-reload"]);
    let unit = Systemd { unit: "tell-all@a-b\\x2dc".into(), user: false, others: Vec::new() };
    let service = Service::new("tell", Kind::Systemd(unit)).unwrap();
    let told = "/var/lib/tell/a-b\\x2dc/told";
    let stage = Stage::set(|_| {});
    let started = service.start(&stage.host.context());
    assert!(started.is_ok(), "{started:?}: {}", fs::read_to_string("/tell.log").unwrap_or_default());
    let real = fs::read_to_string(told).unwrap();
    let place = stage.twin.place();
    place.within(|| _ = fs::remove_dir_all("/var/lib/tell")).unwrap();
    let twin = estate::service::Context { place: &place, ..stage.host.context() };
    service.start(&twin).unwrap();
    let rehearsed = place.within(|| fs::read_to_string(told)).unwrap().unwrap();
    assert!(real.contains("file wins"), "{real}");
    assert_eq!(rehearsed, real);
}
