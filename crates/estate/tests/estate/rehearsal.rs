//! Units rehearsed in a twin: run as processes by what their files say, or refused with the reason.
//!
//! The unit files are written in the twin, so that the machine of the tests never sees them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use estate::service::{Context, Error, Kind, Look, OtherUnit, Service, Status, Systemd};
use place::{Limits, Place};

use crate::services::until;
use crate::twin::Stage;

/// A twin in which units can be written.
struct Ground {
    stage: Stage,
    place: Place,
}

impl Ground {
    fn new() -> Ground {
        let stage = Stage::set(|_| {});
        let place = stage.twin.place();
        Ground { stage, place }
    }

    fn context(&self) -> Context<'_> {
        Context { place: &self.place, ..self.stage.host.context() }
    }

    fn write(&self, path: &str, text: &str) {
        let path = Path::new(path);
        let write = || fs::create_dir_all(path.parent().unwrap()).and_then(|()| fs::write(path, text));
        self.place.within(write).unwrap().unwrap();
    }

    fn unit(&self, name: &str, text: &str) -> Service {
        self.write(&format!("/etc/systemd/system/{name}.service"), text);
        named(name, &[])
    }

    /// Runs a line of shell in the twin.
    fn shell(&self, line: &str) -> String {
        let command = place::Command::shell(line);
        let finished = self.place.run(&command, &Limits::timeout(Duration::from_secs(20))).unwrap();
        assert!(finished.success(), "{line}: {}", finished.err.text());
        finished.out.text().trim_end().to_owned()
    }
}

fn named(name: &str, others: &[&str]) -> Service {
    let others = others
        .iter()
        .map(|other| OtherUnit { unit: format!("{other}.service"), service: (*other).to_owned() });
    let unit = Systemd { unit: format!("{name}.service"), user: false, others: others.collect() };
    Service::new(name.replace('@', "-"), Kind::Systemd(unit)).unwrap()
}

#[test]
fn a_unit_runs_as_systemd_would_run_it() {
    let ground = Ground::new();
    let context = ground.context();
    ground.write(
        "/etc/systemd/system/shop@.service",
        "[Service]\nExecStartPre=/bin/sh -c 'id -u > /run/shop/one/before'\n\
         ExecStartPre=+/bin/sh -c 'id -u > /tmp/privileged'\n\
         ExecStart=/bin/false\nEnvironment=\"GREETING=good day\" WHO=%i\nEnvironmentFile=/etc/shop.env\n\
         EnvironmentFile=-/etc/missing.env\nRuntimeDirectory=shop/%i\nStateDirectory=shop\nUMask=0027\n\
         WorkingDirectory=/var/lib/shop\nPrivateTmp=yes\nProtectSystem=strict\n",
    );
    ground.write(
        "/etc/systemd/system/shop@one.service.d/run.conf",
        "[Service]\nUser=nobody\nExecStart=\n\
         ExecStart=@/bin/sh shop-%i -c 'umask > ready.new; printf \"%%s|\" \"$$0\" \"$$@\" >> ready.new; \
         echo >> ready.new; env >> ready.new; id -u >> ready.new; pwd >> ready.new; mv ready.new ready; exec sleep 300' \
         zero $GREETING ${GREETING} $LIST $NOTHING\n\
         ExecStartPost=/bin/sh -c 'echo $MAINPID > /run/shop/one/main'\n\
         ExecStop=/bin/sh -c 'echo $MAINPID > /var/lib/shop/stopped'\n",
    );
    ground.write("/etc/shop.env", "# what is secret\nWHO='file wins'\nLIST=a b\n");
    let shop = named("shop@one", &[]);
    assert_eq!(shop.status(&context), Status::Stopped);
    let started = shop.start(&context).unwrap();
    assert_eq!(started.notes, ["without PrivateTmp, ProtectSystem"]);
    assert!(shop.start(&context).unwrap().already);
    until(|| ground.place.within(|| Path::new("/var/lib/shop/ready").exists()).unwrap());
    let said = ground.shell("cat /var/lib/shop/ready");
    let nobody = ground.shell("id -u nobody");
    assert!(said.starts_with("0027\nzero|good|day|good day|a|b|"), "{said}");
    for line in [
        "GREETING=good day",
        "WHO=file wins",
        "USER=nobody",
        "RUNTIME_DIRECTORY=/run/shop/one",
        "STATE_DIRECTORY=/var/lib/shop",
        "/var/lib/shop",
        nobody.as_str(),
    ] {
        assert!(said.lines().any(|said| said == line), "{line} is not in {said}");
    }
    assert!(!said.contains("CARGO"), "our own environment stays with us: {said}");
    assert_eq!(ground.shell("cat /run/shop/one/before"), nobody);
    assert_eq!(ground.shell("cat /tmp/privileged"), "0");
    let main = ground.shell("cat /run/shop/one/main");
    assert_eq!(ground.shell(&format!("cat /proc/{main}/comm")), "sleep", "the twin's own number");
    let watch = shop.watch(&context).unwrap();
    assert_eq!(shop.look_again(&context, &watch), Look::Same);
    assert!(shop.served(&context).unwrap().includes(started.process.unwrap().pid));

    assert!(shop.stop(&context).unwrap().was_running);
    assert_eq!(ground.shell("cat /var/lib/shop/stopped"), main);
    assert_eq!(ground.shell("ls /run/shop"), "", "its RuntimeDirectory is gone");
    assert_eq!(shop.status(&context), Status::Stopped);
    assert!(!Path::new("/var/lib/shop").exists(), "nothing of it is on the host");
}

#[test]
fn a_unit_that_says_when_it_is_ready_is_waited_for() {
    let ground = Ground::new();
    let context = ground.context();
    let say = "import os, socket, sys, time; time.sleep(float(sys.argv[1])); s = socket.socket(socket.AF_UNIX, \
               socket.SOCK_DGRAM); open(\"/tmp/said\", \"w\"); s.sendto(b\"STATUS=up\\\\nREADY=1\", \
               os.environ[\"NOTIFY_SOCKET\"]); time.sleep(300)";
    let ready = |seconds: &str| {
        format!(
            "[Service]\nType=notify\nTimeoutStartSec=2\nExecStart=/usr/bin/python3 -c '{say}' {seconds}\n"
        )
    };
    let late = ground.unit("late", &ready("0.8"));
    let started = late.start(&context).unwrap();
    assert!(started.process.is_some() && ground.place.within(|| Path::new("/tmp/said").exists()).unwrap());
    assert!(matches!(late.status(&context), Status::Running { .. }));
    assert!(late.stop(&context).unwrap().was_running);

    let never = ground.unit("never", &ready("60"));
    let error = never.start(&context).unwrap_err().to_string();
    assert!(error.contains("did not say that it is ready"), "{error}");
    assert_eq!(never.status(&context), Status::Stopped, "what did not come up is ended");
    let dies = ground
        .unit("dies", "[Service]\nType=notify\nExecStart=/bin/sh -c 'sleep 0.5; echo no port; exit 1'\n");
    let error = dies.start(&context).unwrap_err().to_string();
    assert!(error.contains("before it said that it was ready") && error.contains("no port"), "{error}");
}

#[test]
fn a_unit_that_forks_is_known_by_the_process_that_stays() {
    let ground = Ground::new();
    let context = ground.context();
    let script =
        "trap 'echo quit > /tmp/quit; exit' USR1; echo $$ > /run/daemon.pid; while :; do sleep 0.1; done";
    ground.write("/tmp/daemon", script);
    let daemon = "[Service]\nType=forking\nPIDFile=daemon.pid\nKillSignal=SIGUSR1\n\
                  ExecStart=/bin/sh -c 'setsid sh /tmp/daemon & sleep 0.2'\n";
    let daemon = ground.unit("daemon", daemon);
    let started = daemon.start(&context).unwrap();
    let main = ground.shell("cat /run/daemon.pid");
    let status = fs::read_to_string(format!("/proc/{}/status", started.process.unwrap().pid)).unwrap();
    let inside = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    assert!(inside.ends_with(&format!("\t{main}")), "{inside} is not {main}");
    assert!(matches!(daemon.status(&context), Status::Running { .. }));
    assert!(daemon.stop(&context).unwrap().was_running);
    assert_eq!(ground.shell("cat /tmp/quit"), "quit", "it was asked in its own way");

    let fails = ground.unit("fails", "[Service]\nType=forking\nExecStart=/bin/sh -c 'echo bad; exit 3'\n");
    assert!(fails.start(&context).unwrap_err().to_string().contains("status 3"));
    let none = ground.unit("none", "[Service]\nType=forking\nExecStart=/bin/true\n");
    assert!(none.start(&context).unwrap_err().to_string().contains("left none that stays"));
    assert_eq!(none.status(&context), Status::Stopped);
}

#[test]
fn a_oneshot_is_done_or_remains() {
    let ground = Ground::new();
    let context = ground.context();
    let text = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo 1 >> /tmp/once'\n\
                ExecStart=-/bin/false\nExecStart=/bin/sh -c 'echo 2 >> /tmp/once'\n";
    let once = ground.unit("once", text);
    once.start(&context).unwrap();
    assert_eq!(ground.shell("cat /tmp/once"), "1\n2");
    assert_eq!(once.status(&context), Status::Stopped);
    let remains = ground.unit("remains", &format!("{text}RemainAfterExit=yes\nExecStop=/bin/rm /tmp/once\n"));
    remains.start(&context).unwrap();
    assert!(remains.start(&context).unwrap().already);
    assert!(matches!(remains.status(&context), Status::Running { .. }));
    let watch = remains.watch(&context).unwrap();
    assert_eq!(remains.look_again(&context, &watch), Look::Same);
    assert!(remains.stop(&context).unwrap().was_running);
    assert_eq!(ground.shell("ls /tmp"), "");
    let fails = ground.unit("fails", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo broken; exit 4'\n");
    let error = fails.start(&context).unwrap_err().to_string();
    assert!(error.contains("status 4") && error.contains("broken"), "{error}");
}

#[test]
fn what_cannot_be_stood_in_for_is_not_proven() {
    let ground = Ground::new();
    let context = ground.context();
    let lasting = "ExecStart=/bin/sleep 300\n";
    for (name, unit, why) in [
        ("bus", format!("[Service]\nType=dbus\nBusName=a.b\n{lasting}"), "there is no D-Bus"),
        (
            "socket",
            format!("[Unit]\nRequires=web.socket\n[Service]\n{lasting}"),
            "hands the service its sockets",
        ),
        ("root", format!("[Service]\nRootDirectory=/srv\nDynamicUser=yes\n{lasting}"), "DynamicUser"),
        (
            "needs",
            format!("[Unit]\nBindsTo=other.service\n[Service]\n{lasting}"),
            "make it a service of the plan",
        ),
        ("user", format!("[Service]\nUser=no-such-user\n{lasting}"), "not in the twin's /etc/passwd"),
        ("letter", format!("[Service]\nUser=%d\n{lasting}"), "%d"),
    ] {
        let service = ground.unit(name, &unit);
        let error = service.start(&context).unwrap_err();
        assert!(matches!(error, Error::NotHere { .. }), "{name}: {error}");
        assert!(error.to_string().contains(why), "{name}: {error}");
        assert!(error.to_string().contains("declare it as a process"), "{name}: {error}");
        let status = service.status(&context);
        assert!(matches!(status, Status::Unknown { .. }), "{name}: {status:?}");
    }
    // All reasons at once.
    let error = named("root", &[]).start(&context).unwrap_err().to_string();
    assert!(error.contains("RootDirectory") && error.contains("DynamicUser"), "{error}");
    // What it requires may be a service of the plan, and has to run.
    let other = ground.unit("other", &format!("[Service]\n{lasting}"));
    let needs = named("needs", &["other"]);
    let error = needs.start(&context).unwrap_err();
    assert!(error.to_string().contains("let it need other"), "{error}");
    other.start(&context).unwrap();
    needs.start(&context).unwrap();
}

#[test]
fn what_systemd_would_not_start_fails() {
    let ground = Ground::new();
    let context = ground.context();
    ground.shell("ln -s /dev/null /etc/systemd/system/masked.service");
    ground.unit("skipped", "[Unit]\nConditionPathExists=/nowhere\n[Service]\nExecStart=/bin/sleep 300\n");
    ground.unit("file", "[Service]\nEnvironmentFile=/nowhere\nExecStart=/bin/sleep 300\n");
    ground.unit(
        "before",
        "[Service]\nExecStartPre=/bin/sh -c 'echo no config; exit 1'\nExecStart=/bin/sleep 300\n",
    );
    ground.unit(
        "dies",
        "[Service]\nEnvironmentFile=/etc/secret\nExecStart=/bin/sh -c 'echo token $TOKEN; exit 1'\n",
    );
    ground.write("/etc/secret", "TOKEN=swordfish\n");
    for (name, why) in [
        ("missing", "there is no file of missing.service"),
        ("masked", "is masked"),
        ("skipped", "ConditionPathExists=/nowhere does not hold"),
        ("file", "EnvironmentFile=/nowhere"),
        ("before", "no config"),
        ("dies", "token ***"),
    ] {
        let service = named(name, &[]);
        let error = service.start(&context).unwrap_err();
        assert!(!matches!(error, Error::NotHere { .. }), "{name}: {error}");
        assert!(error.to_string().contains(why), "{name}: {error}");
        let status = format!("{:?}", service.status(&context));
        assert!(
            !status.contains("swordfish") && !error.to_string().contains("swordfish"),
            "{name}: {status}"
        );
        assert!(!status.contains("Running"), "{name}: {status}");
        assert!(!service.stop(&context).unwrap().was_running, "{name}");
    }
}
