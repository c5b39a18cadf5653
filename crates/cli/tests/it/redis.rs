//! A Redis server by the plan, from the backup of a running server to the recovery of a lost one.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::Place;

/// A server of the test's own, which ends with it. It appends, so that a dump alone would not bring it back.
pub struct Cache {
    pub home: tempfile::TempDir,
    server: Option<Child>,
}

impl Cache {
    pub fn new() -> Self {
        Self::with("")
    }

    /// One with further settings.
    pub fn with(more: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("data")).unwrap();
        let mut cache = Self { home, server: None };
        let settings = format!(
            "port 0\nunixsocket {}\ndir {}\nappendonly yes\nsave \"\"\nrequirepass right-word\nrepl-diskless-sync-delay 0\n{more}",
            cache.socket().display(),
            cache.data().display()
        );
        fs::write(cache.home.path().join("redis.conf"), settings).unwrap();
        cache.start();
        cache
    }

    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.home.path().join("s")
    }

    pub fn start(&mut self) {
        let mut command = Command::new("redis-server");
        let command = command.arg(self.home.path().join("redis.conf")).stdout(Stdio::null());
        self.server = Some(command.spawn().expect("installed by `cargo xtask setup`"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.ask(&["PING"]) != "PONG" {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The number of its process, which runs.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    pub fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["--no-auth-warning", "-a", "right-word", "-s"]).arg(self.socket()).args(words);
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim_end().to_owned()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_server_is_backed_up_proven_lost_and_restored() {
    let mut cache = Cache::new();
    cache.ask(&["SADD", "users", "ada", "grace", "edsger"]);
    cache.ask(&["SET", "version", "7"]);
    let place = Place::new().with("CACHE_PASSWORD", "right-word");
    let plan = format!(
        "lifeboat: 1\nname: shop\nrepository: {{ location: repository, password: \"${{env:LIFEBOAT_PASSWORD}}\" }}\ncomponents:\n  \
         cache:\n    redis: {}\n    socket: {}\n    password: \"${{env:CACHE_PASSWORD}}\"\n    \
         config: {}\n    facts: {{ users: SCARD users }}\n",
        cache.data().display(),
        cache.socket().display(),
        cache.home.path().join("redis.conf").display(),
    );
    place.write("lifeboat.yaml", plan.as_bytes());
    place.succeeds(&["repository", "init"]);
    let told = place.succeeds(&["backup"]);
    assert!(told.contains("users 3"), "{told}");
    cache.ask(&["SADD", "users", "alan"]);

    // The source runs on while its backup is proven.
    let told = place.succeeds(&["verify", "--restore"]);
    assert!(told.contains("users 3"), "{told}");
    assert_eq!(cache.ask(&["SCARD", "users"]), "4");

    // What a person would type is printed, without the password.
    let book = place.succeeds(&["runbook"]);
    assert!(book.contains("redis-check-aof") && book.contains("SCARD users"), "{book}");
    assert!(!book.contains("right-word"), "{book}");

    // A running server is not replaced.
    let refused = place.run(&["restore", "cache", "--yes"]);
    assert!(refused.contains("in use by redis-server") && refused.ends_with("exit code 3"), "{refused}");
    assert_eq!(cache.ask(&["SCARD", "users"]), "4");

    cache.kill();
    fs::remove_dir_all(cache.data()).unwrap();
    fs::remove_file(cache.home.path().join("redis.conf")).unwrap();
    let told = place.succeeds(&["restore", "cache", "--yes"]);
    assert!(told.contains("users 3"), "{told}");
    cache.start();
    assert_eq!(cache.ask(&["SCARD", "users"]), "3");
    assert_eq!(cache.ask(&["GET", "version"]), "7");

    // A server that has lost everything is no good backup.
    cache.ask(&["FLUSHALL"]);
    let told = place.run(&["backup"]);
    assert!(told.contains("implausible") && !told.ends_with("exit code 0"), "{told}");
}
