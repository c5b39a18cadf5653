//! Real Redis servers in temporary directories: started, asked and killed by the tests, on a socket and on no port unless a
//! test wants one.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use estate::component::RedisOptions;
use estate::component::redis::Redis;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server below a directory: `data`, its configuration and its socket beside it.
#[derive(Clone)]
pub struct Cache {
    pub root: PathBuf,
}

impl Cache {
    /// A server of the given directory, as it is or is not.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes and starts a server with these settings; it saves nothing by itself.
    pub fn make(&self, settings: &[(&str, &str)]) {
        let fixed = [
            ("port", "0"),
            ("save", "\"\""),
            ("daemonize", "no"),
            ("logfile", "\"\""),
            ("loglevel", "notice"),
            ("repl-diskless-sync-delay", "0"),
            ("shutdown-timeout", "0"),
        ];
        let given = |name: &str| settings.iter().any(|(other, _)| *other == name);
        let mut config: String = fixed
            .iter()
            .filter(|(name, _)| !given(name))
            .chain(settings)
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect();
        config += &format!("unixsocket {}\ndir {}\n", self.socket().display(), self.data().display());
        fs::create_dir_all(self.data()).unwrap();
        fs::write(self.config(), config).unwrap();
        self.start();
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("redis.conf")
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join("s")
    }

    /// The driver for it, with these facts.
    pub fn component(&self, facts: &[(&str, &str)]) -> Redis {
        Redis::new(self.options(facts), place::Place::host())
    }

    pub fn options(&self, facts: &[(&str, &str)]) -> RedisOptions {
        RedisOptions {
            socket: Some(self.socket()),
            facts: facts.iter().map(|(name, query)| ((*name).to_owned(), (*query).to_owned())).collect(),
            proof_timeout: Duration::from_secs(60),
            ..RedisOptions::of(self.data())
        }
    }

    /// Starts it if it does not run, and waits until it has loaded its data; nothing where there is no data directory.
    #[expect(clippy::zombie_processes, reason = "it goes on; `stop` ends it, by its number")]
    pub fn start(&self) {
        if self.pid().is_some() || !self.data().exists() {
            return;
        }
        _ = fs::remove_file(self.socket());
        let log = fs::File::options().create(true).append(true).open(self.root.join("log")).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(self.config()).stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        // It must not end with the test's thread, nor be ended by a signal to the group.
        let mut child =
            command.process_group(0).spawn().expect("redis-server is installed by `cargo xtask setup`");
        fs::write(self.root.join("pid"), child.id().to_string()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.cli(&["PING"]);
            if String::from_utf8_lossy(&said.stdout).starts_with("PONG")
                || String::from_utf8_lossy(&said.stdout).contains("NOAUTH")
            {
                return;
            }
            assert!(child.try_wait().unwrap().is_none(), "{}", self.log());
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process that runs, if one does.
    pub fn pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.root.join("pid")).ok()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = status.rsplit(") ").next()?.chars().next()?;
        (state != 'Z').then_some(pid)
    }

    /// Ends it as its administrator does; it saves what it is set to save.
    pub fn stop(&self) {
        self.signal("TERM");
    }

    /// Ends it as a crash does.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    pub fn signal(&self, signal: &str) {
        let Some(pid) = self.pid() else { return };
        Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
        let deadline = Instant::now() + PATIENCE;
        // A child that makes a dump outlives it by a moment, and is rightly seen in the data directory.
        while matches!(signal, "TERM" | "KILL") && (self.pid().is_some() || self.somebody_works_here()) {
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn somebody_works_here(&self) -> bool {
        let data = self.data();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .into_iter()
            .any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// Runs `redis-cli` and tells how it went.
    pub fn cli(&self, words: &[&str]) -> Output {
        let mut command = Command::new("redis-cli");
        command
            .arg("-s")
            .arg(self.socket())
            .args(words)
            .output()
            .expect("redis-cli is installed by `cargo xtask setup`")
    }

    /// Asks something that must be answered well.
    pub fn ask(&self, words: &[&str]) -> String {
        let said = self.cli(words);
        let text = String::from_utf8_lossy(&said.stdout).trim_end().to_owned();
        assert!(said.status.success() && !text.starts_with("ERR"), "{words:?}: {text}");
        text
    }

    /// Puts so many keys with values that begin with this into database 0.
    pub fn fill(&self, name: &str, count: u32) {
        let script = "for i = 1, tonumber(ARGV[2]) do redis.call('SET', ARGV[1] .. ':' .. i, string.rep(ARGV[1] .. i, 20)) end";
        self.ask(&["EVAL", script, "0", name, &count.to_string()]);
    }

    /// Everything that it holds, as a digest, and how many keys.
    pub fn contents(&self) -> String {
        let of = |database: &str| {
            // DEBUG DIGEST must be allowed; a digest of all values by a script needs nothing.
            let script = "local keys = redis.call('KEYS', '*') table.sort(keys) local all = {} \
                          for _, key in ipairs(keys) do local kind = redis.call('TYPE', key).ok \
                          local value = kind \
                          if kind == 'string' then value = redis.call('GET', key) \
                          elseif kind == 'set' then local members = redis.call('SMEMBERS', key) table.sort(members) value = table.concat(members, ',') end \
                          all[#all + 1] = key .. '=' .. value end return redis.sha1hex(table.concat(all, ';')) .. ' ' .. #keys";
            self.ask(&["-n", database, "EVAL", script, "0"])
        };
        format!("{} {}", of("0"), of("3"))
    }
}

/// Makes and starts a server in a directory of its own.
pub fn made(settings: &[(&str, &str)]) -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path());
    cache.make(settings);
    (directory, cache)
}

/// Stops a server when a test ends, however it does.
pub struct Ends(pub Cache);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// The dump in a data directory, wherever it lies there.
pub fn dump_in(data: &Path) -> PathBuf {
    let parts = data.join("appendonlydir/appendonly.aof.1.base.rdb");
    if parts.exists() { parts } else { data.join("dump.rdb") }
}

/// Takes a key away from a dump that nobody has open, and leaves it well-formed: what another server would save.
pub fn lessen(dump: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path());
    fs::create_dir(cache.data()).unwrap();
    fs::copy(dump, cache.data().join("dump.rdb")).unwrap();
    cache.make(&[]);
    cache.ask(&["DEL", "agent:1"]);
    cache.ask(&["SAVE"]);
    cache.kill();
    fs::copy(cache.data().join("dump.rdb"), dump).unwrap();
}

/// A port at which nobody listens.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
