//! How twins live and end: processes and servers in them, being destroyed, being killed, being reaped.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use place::{ProcessId, Twin};
use serde_json::json;

use crate::session::{Ground, Session, everybody};

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A server in the twin that says one word to everybody.
fn serve(ground: &Ground, twin: &mut Session, port: u16) -> ProcessId {
    let server =
        twin.start(&format!("exec {} serve {port} twin", ground.helper().display()), "/tmp/log/server");
    until("the server is up", || twin.ask(&json!({ "Read": "/tmp/log/server" })) == "\"up\"\n");
    server
}

#[test]
fn a_connection_leads_to_the_twins_server_and_not_to_the_hosts() {
    for &who in everybody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = thread::spawn(move || {
            listener.incoming().for_each(|client| client.unwrap().write_all(b"host").unwrap());
        });
        let ground = Ground::new(who);
        let mut twin = ground.twin();
        let refused = twin.ask(&json!({ "Connect": ["localhost", port] }));
        assert!(refused["error"].as_str().unwrap().contains("refused"), "{refused}");
        let server = serve(&ground, &mut twin, port);
        assert_eq!(twin.ask(&json!({ "Connect": ["localhost", port] })), "twin");
        assert_eq!(twin.ask(&json!({ "Connect": ["127.0.0.1", port] })), "twin");
        assert_eq!(twin.ask(&json!({ "Stop": server })), "Terminated");
        assert_eq!(twin.ask(&json!({ "IsRunning": server })), false);
        assert!(twin.ask(&json!({ "Connect": ["localhost", port] }))["error"].is_string());
        let mut word = String::new();
        let mut stream = place::Place::host().connect("localhost", port, Duration::from_secs(5)).unwrap();
        std::io::Read::read_to_string(&mut stream, &mut word).unwrap();
        assert_eq!(word, "host");
        assert!(!host.is_finished());
    }
}

#[test]
fn orphans_are_reaped_and_their_numbers_are_small() {
    for &who in everybody() {
        let mut twin = Ground::new(who).twin();
        twin.must("(setsid sleep 0.1 &) ; (setsid sh -c 'sleep 0.1; exit 3' &)");
        until("the orphans are reaped", || {
            let states = twin.must("cat /proc/[0-9]*/stat 2>/dev/null | cut -d' ' -f2,3");
            !states.contains("(sleep)") && !states.contains(" Z")
        });
        assert_eq!(twin.must("cat /proc/1/stat | cut -d' ' -f4,6").trim(), "0 1");
    }
}

#[test]
fn destroying_ends_every_process_and_removes_what_was_written() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let mut twin = ground.twin();
        let started =
            twin.start("trap '' TERM; setsid sleep 7654321 & while :; do sleep 1; done", "/var/tmp/log");
        twin.must("mkdir -p /var/tmp/x/y; chmod 0 /var/tmp/x/y /var/tmp/x; (setsid sleep 7654321 &)");
        assert_eq!(twin.ask(&json!({ "IsRunning": started })), true);
        assert!(fs::read_dir(ground.scratch()).unwrap().count() > 0);
        assert_eq!(twin.ask(&json!("Destroy")), json!(null));
        assert!(!started.is_running());
        assert_eq!(fs::read_dir(ground.scratch()).unwrap().count(), 0);
        for order in
            [json!({ "Run": "true" }), json!({ "Read": "/etc/passwd" }), json!({ "Connect": ["::1", 9] })]
        {
            let answer = twin.ask(&order);
            assert!(answer["error"].as_str().unwrap().contains("the twin: it is gone"), "{answer}");
        }
    }
}

#[test]
fn a_killed_run_leaves_no_process_and_what_it_wrote_is_reaped() {
    for &who in everybody() {
        let ground = Ground::new(who);
        let mut killed = ground.twin();
        let mut living = ground.twin();
        let started = killed
            .start("trap '' TERM INT HUP; setsid sleep 7654321 & while :; do sleep 1; done", "/var/tmp/log");
        killed.must("mkdir -m 0 /var/tmp/locked; (setsid nohup sleep 7654321 > /dev/null 2>&1 &)");
        let inside = |session: &Session| {
            let namespace = fs::read_link(format!("/proc/{}/ns/net", started.pid)).unwrap();
            assert!(!namespace.as_os_str().is_empty() && session.child.id() > 0);
            namespace
        };
        let namespace = inside(&killed);
        let members = || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            processes
                .filter(|entry| {
                    fs::read_link(entry.path().join("ns/net")).is_ok_and(|other| other == namespace)
                })
                .count()
        };
        assert!(members() >= 4, "{}", members());
        assert_eq!(Twin::reap(&ground.scratch()).unwrap(), 0, "the living are spared");
        killed.child.kill().unwrap();
        killed.child.wait().unwrap();
        // A process that ends leaves its namespaces before it is dead.
        until("nobody is left in the twin", || members() == 0 && !started.is_running());
        assert_eq!(fs::read_dir(ground.scratch()).unwrap().count(), 4);
        assert_eq!(Twin::reap(&ground.scratch()).unwrap(), 1);
        assert_eq!(Twin::reap(&ground.scratch()).unwrap(), 0);
        living.must("true");
        drop(living);
        assert_eq!(fs::read_dir(ground.scratch()).unwrap().count(), 0);
    }
}

#[test]
fn a_command_in_the_twin_is_bounded_as_on_the_host() {
    for &who in everybody() {
        let mut twin = Ground::new(who).twin();
        let ran = twin.run("sleep 1000 & echo started; exit 5");
        assert!(!ran.success && ran.text == "started\n", "{}", ran.text);
        until("it is gone", || !twin.run("cat /proc/[0-9]*/comm").text.contains("sleep"));
    }
}
