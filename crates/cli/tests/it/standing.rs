//! An idle server, one that hangs and one whose archiver is dead, as another machine sees them: it has the repository alone.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::postgres::Cluster;
use crate::shipping::Serve;
use crate::wal::{Shop, told};

const PATIENCE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Sends a signal to the server's first process.
    fn signal(&self, signal: &str) {
        let notes = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let pid = notes.lines().next().unwrap();
        assert!(Command::new("kill").args(["-s", signal, pid]).status().unwrap().success());
    }

    /// Changes a setting of the running server.
    pub fn set(&self, name: &str, value: &str) {
        self.sql(&format!("alter system set {name} = '{value}'"));
        self.sql("select pg_reload_conf()");
    }
}

impl Shop {
    /// What status says of the orders, where their server is and elsewhere: the word, and why.
    fn seen(&self, from: &[&str]) -> (String, String) {
        let (_, said) = told(&self.command(&[&["status", "--json"], from].concat()).output().unwrap());
        let line =
            said.lines().find(|line| line.contains("\"readiness\"")).unwrap_or_else(|| panic!("{said}"));
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        let orders = &answer["answer"]["components"][0];
        (
            orders["protection"].as_str().unwrap().to_owned(),
            orders["why"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

/// Where there is no such server, and nothing is remembered of it.
const ELSEWHERE: [&str; 4] = ["--plan", "elsewhere.yaml", "--state", "elsewhere"];

#[test]
fn another_machine_tells_an_idle_server_from_a_dead_one() {
    let shop = Shop::new();
    // Six seconds are what is not known of an idle server with this archive_timeout.
    let plan =
        fs::read_to_string(shop.plan()).unwrap().replace("archive: true\n", "archive: true\n    rpo: 12s\n");
    fs::write(shop.plan(), &plan).unwrap();
    let nowhere = plan.replace(&shop.cluster.data().display().to_string(), "/nowhere/data");
    fs::write(shop.directory.join("elsewhere.yaml"), nowhere).unwrap();
    shop.cluster.give(&shop.directory);
    shop.cluster.set("archive_timeout", "1");
    shop.insert(1);
    shop.succeeds(&["backup"]);
    shop.insert(2);
    shop.switch();
    let idle = || std::thread::sleep(Duration::from_secs(14));
    idle();
    assert_eq!(shop.seen(&[]), ("protected".to_owned(), String::new()), "it can be asked here");
    let (protection, why) = shop.seen(&ELSEWHERE);
    assert!(protection == "late" && why.contains("not known whether it is idle"), "{protection}: {why}");

    // Somebody who can ask it leaves a mark, and only one.
    let serve = Serve::start(&mut shop.command(&["serve", "--json"]));
    let begin = Instant::now();
    while shop.seen(&ELSEWHERE) != ("protected".to_owned(), String::new()) {
        assert!(begin.elapsed() < PATIENCE, "{:?}", shop.seen(&ELSEWHERE));
        std::thread::sleep(Duration::from_millis(100));
    }
    let marks = || fs::read_dir(shop.directory.join("repository/lifeboat/seen/orders")).unwrap().count();
    std::thread::sleep(Duration::from_secs(21));
    assert_eq!(marks(), 1);

    // A server that hangs is waited for by nobody, and gets no mark.
    shop.cluster.signal("STOP");
    idle();
    let begin = Instant::now();
    let here = shop.seen(&[]);
    let took = begin.elapsed();
    shop.cluster.signal("CONT");
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(here.0 == "late" && here.1.contains("does not answer here"), "{here:?}");
    assert_eq!(serve.end(), Some(0));

    // An archiver that keeps nothing, and says that all is well.
    shop.cluster.set("archive_command", "true");
    shop.insert(3);
    shop.switch();
    let serve = Serve::start(&mut shop.command(&["serve", "--json"]));
    serve.await_event("listening");
    idle();
    let (protection, why) = shop.seen(&ELSEWHERE);
    assert!(protection == "late" && why.contains("old, at most"), "{protection}: {why}");
    assert_eq!(serve.end(), Some(0));
}
