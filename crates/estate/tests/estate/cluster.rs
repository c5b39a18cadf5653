//! Real PostgreSQL clusters in temporary directories: made, started, asked and killed by PostgreSQL's own programs, as a
//! user that is not root.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use estate::component::PostgresOptions;
use estate::component::postgres::Postgres;

use crate::support::copy;

/// A cluster below a directory: `data`, its socket in `run`.
#[derive(Clone)]
pub struct Cluster {
    pub root: PathBuf,
}

/// A directory that the server's user owns and can reach.
pub fn directory() -> tempfile::TempDir {
    let directory =
        tempfile::Builder::new().prefix("pg").permissions(fs::Permissions::from_mode(0o755)).tempdir();
    let directory = directory.unwrap();
    give(directory.path());
    directory
}

/// The user and group as whom servers run: `postgres`, which Debian's package makes, when this is root.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("the package makes the user");
    let field = |number: usize| line.split(':').nth(number).unwrap().parse().unwrap();
    Some((field(2), field(3)))
}

/// Makes a path the server's user's own.
pub fn give(path: &Path) {
    if let Some((uid, gid)) = user() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// One of PostgreSQL's programs, as the server's user.
pub fn program(name: &str) -> Command {
    let directory = programs();
    let mut command = Command::new(directory.join(name));
    command.current_dir("/").env_remove("PGDATA");
    if let Some((uid, gid)) = user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn programs() -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed by `cargo xtask setup`");
    let mut found: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|directory| directory.join("initdb").is_file());
    found.sort();
    found.pop().expect("postgresql is installed by `cargo xtask setup`")
}

/// Runs a program to its end, which must be a good one.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A cluster that was made once, to be copied: `initdb` takes seconds.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = TEMPLATE.get_or_init(|| {
        let directory = directory();
        init(&directory.path().join("data"));
        directory
    });
    directory.path()
}

/// Makes a cluster with page checksums and segments of 1 MiB, so that a test has several of them.
fn init(data: &Path) {
    let arguments =
        ["-A", "trust", "-U", "postgres", "--data-checksums", "--wal-segsize=1", "--no-sync", "-E", "UTF8"];
    run(program("initdb").args(arguments).args(["--locale=C", "-D"]).arg(data));
}

impl Cluster {
    /// A cluster of the given directory, as it is or is not.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes and starts a cluster in a directory; all of them have the same number.
    pub fn make(root: &Path) -> Self {
        let cluster = Self::at(root);
        copy(&template().join("data"), &cluster.data());
        cluster.set_up();
        cluster
    }

    /// Makes and starts a cluster with a number of its own.
    pub fn make_another(root: &Path) -> Self {
        let cluster = Self::at(root);
        init(&cluster.data());
        cluster.set_up();
        cluster
    }

    fn set_up(&self) {
        let run = self.root.join("run");
        fs::create_dir(&run).unwrap();
        give(&run);
        let settings = format!(
            "unix_socket_directories = '{}'\nlisten_addresses = ''\nfsync = off\nautovacuum = off\n\
             shared_buffers = 16MB\nmax_wal_size = 64MB\nmin_wal_size = 2MB\n",
            run.display()
        );
        let mut file = fs::File::options().append(true).open(self.data().join("postgresql.conf")).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
        self.start();
    }

    /// Makes and starts a standby of this cluster in a directory, which streams its log.
    pub fn standby(&self, root: &Path) -> Self {
        let standby = Self::at(root);
        run(program("pg_basebackup")
            .args(["-U", "postgres", "-R", "-c", "fast", "-X", "stream", "-h"])
            .arg(self.root.join("run"))
            .arg("-D")
            .arg(standby.data()));
        standby.set_up();
        standby
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        assert!(self.pg_ctl(&["promote", "-w"]).status.success());
    }

    /// Waits until this standby has replayed all that another one has written.
    pub fn catch_up(&self, primary: &Self) {
        let position = primary.sql("select pg_current_wal_lsn()");
        for _ in 0..1000 {
            if self.sql(&format!("select pg_last_wal_replay_lsn() >= '{position}'")) == "t" {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the standby does not come to {position}");
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The driver for it, with these facts.
    pub fn component(&self, facts: &[(&str, &str)]) -> Postgres {
        Postgres::new(self.options(facts), place::Place::host())
    }

    pub fn options(&self, facts: &[(&str, &str)]) -> PostgresOptions {
        PostgresOptions {
            user: Some("postgres".to_owned()),
            facts: facts.iter().map(|(name, query)| ((*name).to_owned(), (*query).to_owned())).collect(),
            ..PostgresOptions::of(self.data())
        }
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Output {
        program("pg_ctl").args(arguments).arg("-D").arg(self.data()).output().unwrap()
    }

    pub fn is_running(&self) -> bool {
        self.pg_ctl(&["status"]).status.success()
    }

    /// Starts it, if there is one and it does not run.
    pub fn start(&self) {
        if !self.data().join("PG_VERSION").exists() || self.is_running() {
            return;
        }
        let log = self.root.join("run/log");
        let status = program("pg_ctl")
            .args(["start", "-w", "-t", "120", "-l"])
            .arg(&log)
            .arg("-D")
            .arg(self.data())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{}", fs::read_to_string(log).unwrap_or_default());
    }

    /// Stops it in order.
    pub fn stop(&self) {
        if self.is_running() {
            assert!(self.pg_ctl(&["stop", "-m", "fast", "-w"]).status.success());
        }
        self.wait_until_nobody_works_here();
    }

    /// Ends it as a crash of the machine does.
    pub fn kill(&self) {
        self.pg_ctl(&["stop", "-m", "immediate", "-w"]);
        self.wait_until_nobody_works_here();
    }

    /// The server's processes end a moment after it says so; until then the data directory is rightly called in use.
    fn wait_until_nobody_works_here(&self) {
        let data = self.data();
        let works_here =
            |entry: fs::DirEntry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data);
        for _ in 0..1000 {
            if !fs::read_dir("/proc").unwrap().flatten().any(works_here) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub fn psql(&self) -> Command {
        let mut psql = program("psql");
        psql.args(["-AtXq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
        psql.arg(self.root.join("run"));
        psql
    }

    /// Runs statements and gives what they print.
    pub fn sql(&self, text: &str) -> String {
        run(self.psql().args(["-c", text]))
    }

    /// The file of a table's first pages.
    pub fn file_of(&self, table: &str) -> PathBuf {
        self.data().join(self.sql(&format!("select pg_relation_filepath('{table}')")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Runs a statement on a data directory that no server has open.
pub fn alone(data: &Path, statement: &str) {
    let mut child = program("postgres")
        .args(["--single", "-D"])
        .arg(data)
        .arg("postgres")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{statement}").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("ERROR"), "{said}");
}

/// Kills a cluster's server when the test ends, however it does.
pub struct Server(pub Cluster);

/// A session that writes numbers one after the other and knows which were acknowledged.
pub struct Writer {
    child: Child,
    acknowledged: std::sync::Arc<std::sync::atomic::AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Writer {
    /// Begins to write into the table `ledger`, each number in a transaction of its own.
    pub fn begin(cluster: &Cluster) -> Self {
        cluster.sql("create table if not exists ledger(n bigint primary key, filler text)");
        let mut psql = cluster.psql();
        let mut child =
            psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let acknowledged = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let acks = acknowledged.clone();
        // One after the other: the next number is written when the one before was acknowledged.
        let write = move || {
            let mut lines = BufReader::new(from).lines();
            for number in 1_u64.. {
                let statement =
                    format!("insert into ledger values({number}, repeat('x', 200)) returning n;\n");
                if to.write_all(statement.as_bytes()).is_err() {
                    return;
                }
                match lines.next() {
                    Some(Ok(line)) if line == number.to_string() => {
                        acks.store(number, std::sync::atomic::Ordering::SeqCst);
                    }
                    _ => return,
                }
            }
        };
        let threads = vec![std::thread::spawn(write)];
        Self { child, acknowledged, threads }
    }

    /// The last number that the server has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Waits until so many were acknowledged.
    pub fn wait_for(&self, number: u64) {
        for _ in 0..12_000 {
            if self.acknowledged() >= number {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("only {} of {number} were acknowledged", self.acknowledged());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        for thread in self.threads.drain(..) {
            _ = thread.join();
        }
    }
}
