//! A PostgreSQL cluster by the plan, from the backup under a running server to the recovery of a lost one.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use crate::harness::Place;

/// A cluster of the test's own, whose server ends with it.
pub struct Cluster {
    pub home: tempfile::TempDir,
}

/// A row, when its writing was begun, and when it was acknowledged.
#[derive(Debug)]
pub struct Write {
    pub n: u32,
    pub begun: Timestamp,
    pub acknowledged: Timestamp,
}

impl Cluster {
    fn new() -> Self {
        Self::with(&[])
    }

    /// Makes one by `initdb` with these options.
    pub fn with(options: &[&str]) -> Self {
        let mode = fs::Permissions::from_mode(0o755);
        let home = tempfile::Builder::new().prefix("pg").permissions(mode).tempdir().unwrap();
        if let Some((uid, gid)) = server_user() {
            chown(home.path(), Some(uid), Some(gid)).unwrap();
        }
        let cluster = Self { home };
        let data = cluster.data();
        run(program("initdb")
            .args(["-A", "trust", "-U", "keeper", "-k", "--no-sync"])
            .args(options)
            .arg("-D")
            .arg(&data));
        let settings = format!(
            "unix_socket_directories = '{}'\nlisten_addresses = ''\nfsync = off\n",
            cluster.home.path().display()
        );
        cluster.configure(&settings);
        cluster.start();
        cluster
    }

    /// Appends to its configuration.
    pub fn configure(&self, settings: &str) {
        let config = self.data().join("postgresql.conf");
        fs::write(&config, fs::read_to_string(&config).unwrap() + settings).unwrap();
    }

    /// Makes a path and what is in it the server's user's own.
    pub fn give(&self, path: &Path) {
        let Some((uid, gid)) = server_user() else { return };
        chown(path, Some(uid), Some(gid)).unwrap();
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| self.give(&entry.unwrap().path()));
        }
    }

    /// What its server has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Writes rows until it is told to stop, each when the one before was acknowledged.
    pub fn write(&self, writer: u32, stop: &AtomicBool) -> Vec<Write> {
        let mut psql = program("psql");
        psql.args(["-AtXq", "-U", "keeper", "-d", "postgres", "-h"]).arg(self.home.path());
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut lines, mut written) = (BufReader::new(from).lines(), Vec::new());
        for n in 1.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let begun = Timestamp::now();
            writeln!(to, "insert into orders values ({writer}, {n}) returning n;").unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), n.to_string());
            written.push(Write { n, begun, acknowledged: Timestamp::now() });
        }
        drop(to);
        child.wait().unwrap();
        written
    }

    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn start(&self) {
        let log = self.home.path().join("log");
        let mut command = program("pg_ctl");
        command.args(["start", "-w", "-l"]).arg(&log).arg("-D").arg(self.data());
        assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }

    pub fn stop(&self, mode: &str) {
        let data = self.data();
        _ = program("pg_ctl").args(["stop", "-w", "-m", mode, "-D"]).arg(data).output().unwrap();
    }

    pub fn sql(&self, text: &str) -> String {
        let arguments = ["-AtXq", "-U", "keeper", "-d", "postgres", "-c", text, "-h"];
        run(program("psql").args(arguments).arg(self.home.path()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop("immediate");
    }
}

/// Asks a cluster that was restored into a directory, by a server that does nothing else.
pub fn ask_beside(data: &Path, question: &str) -> String {
    let socket = data.display();
    let options =
        format!("-c archive_mode=off -c unix_socket_directories={socket} -c listen_addresses= -c fsync=off");
    let log = data.join("asked.log");
    let mut command = program("pg_ctl");
    command.args(["start", "-w", "-o", &options, "-l"]).arg(&log).arg("-D").arg(data);
    let started = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(started.success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    let arguments = ["-AtXq", "-U", "keeper", "-d", "postgres", "-c", question, "-h"];
    let answer = run(program("psql").args(arguments).arg(data));
    _ = program("pg_ctl").args(["stop", "-w", "-m", "immediate", "-D"]).arg(data).output().unwrap();
    answer
}

/// The user as whom servers run when this is root, who must not.
pub fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let number = |field: usize| line.split(':').nth(field).unwrap().parse().unwrap();
    Some((number(2), number(3)))
}

pub fn program(name: &str) -> Command {
    let versions = Path::new("/usr/lib/postgresql").read_dir().expect("installed by `cargo xtask setup`");
    let mut found: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.sort();
    let directory = found.pop().expect("installed by `cargo xtask setup`");
    let mut command = Command::new(directory.join(name));
    command.current_dir("/");
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A directory with a plan for the cluster of a shop, and a repository.
fn shop(cluster: &Cluster) -> Place {
    cluster.sql("create table orders(n int); insert into orders select generate_series(1, 1000)");
    let state = cluster.home.path().join("state");
    let place = Place::new().with("LIFEBOAT_STATE", &state.to_string_lossy());
    let plan = format!(
        "lifeboat: 1\nname: shop\nrepository: {{ location: repository, password: \"${{env:LIFEBOAT_PASSWORD}}\" }}\ncomponents:\n  \
         orders:\n    postgres: {}\n    role: keeper\n    facts: {{ orders: select count(*) from orders }}\n\
         checks:\n  some-orders: {{ sql: {{ component: orders, query: select count(*) from orders, at_least: 1000 }} }}\n",
        cluster.data().display()
    );
    place.write("lifeboat.yaml", plan.as_bytes());
    place.succeeds(&["repository", "init"]);
    place
}

#[test]
fn a_cluster_is_backed_up_proven_lost_and_restored() {
    let cluster = Cluster::new();
    let place = shop(&cluster);
    place.succeeds(&["validate"]);
    let told = place.succeeds(&["backup"]);
    assert!(told.contains("orders 1000"), "{told}");
    cluster.sql("insert into orders select generate_series(1001, 1500)");

    // The source runs on while its backup is proven.
    let told = place.succeeds(&["verify", "--restore"]);
    assert!(told.contains("orders 1000"), "{told}");
    assert_eq!(cluster.sql("select count(*) from orders"), "1500");

    // A running server is not replaced.
    let refused = place.run(&["restore", "orders", "--yes"]);
    assert!(refused.contains("in use by postgres") && refused.ends_with("exit code 3"), "{refused}");
    assert_eq!(cluster.sql("select count(*) from orders"), "1500");

    cluster.stop("immediate");
    fs::remove_dir_all(cluster.data()).unwrap();
    let told = place.succeeds(&["restore", "orders", "--yes"]);
    assert!(told.contains("orders 1000"), "{told}");
    cluster.start();
    assert_eq!(cluster.sql("select count(*), max(n) from orders"), "1000|1000");
}

#[test]
fn a_second_backup_reads_what_changed_and_a_restore_takes_what_is_still_right() {
    let cluster = Cluster::new();
    let place = shop(&cluster);
    cluster.sql("create table still(n int); insert into still select generate_series(1, 100000); checkpoint");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let told = place.succeeds(&["backup"]);
    assert!(!told.contains("were not read"), "{told}");
    cluster.sql("insert into orders select generate_series(1001, 1500)");
    let told = place.succeeds(&["backup"]);
    assert!(told.contains("orders 1500") && told.contains("were not read"), "{told}");

    // Lost but for its files, in one of which something is damaged.
    let file = cluster.data().join(cluster.sql("select pg_relation_filepath('still')"));
    cluster.stop("immediate");
    let victim = fs::File::options().write(true).open(file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&victim, b"nonsense", 8192 * 5 + 100).unwrap();
    let told = place.succeeds(&["restore", "orders", "--yes", "--json"]);
    let taken = told.split("\"bytes_taken_from_the_old\":").nth(1).expect(&told);
    let taken: u64 =
        taken.split(|c: char| !c.is_ascii_digit()).find(|n| !n.is_empty()).unwrap().parse().unwrap();
    assert!(taken > 3_000_000, "{told}");
    cluster.start();
    assert_eq!(
        cluster.sql("select count(*), (select sum(n::bigint) from still) from orders"),
        "1500|5000050000"
    );
}

#[test]
fn a_check_asks_the_server_of_a_component() {
    let cluster = Cluster::new();
    let place = shop(&cluster);
    let told = place.run(&["diagnose"]);
    assert!(told.contains("yields 1000"), "{told}");
    cluster.sql("delete from orders where n > 10");
    let told = place.run(&["diagnose"]);
    assert!(told.contains("found 10"), "{told}");
    cluster.sql("drop table orders");
    let told = place.run(&["diagnose"]);
    assert!(told.contains("\"orders\" does not exist"), "{told}");
    cluster.stop("fast");
    let told = place.run(&["diagnose"]);
    assert!(told.contains("its server does not answer"), "{told}");
    let told = place.run(&["validate"]);
    assert!(told.ends_with("exit code 2"), "{told}");
}

/// The commands of the blocks under a heading, in order.
pub fn commands_under<'a>(book: &'a str, heading: &str) -> Vec<&'a str> {
    let section = book.split_once(&format!("{heading}\n")).unwrap().1;
    let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap()).collect()
}

#[test]
fn the_printed_runbook_brings_a_cluster_back_by_hand() {
    let cluster = Cluster::new();
    let outside = cluster.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    if let Some((uid, gid)) = server_user() {
        chown(&outside, Some(uid), Some(gid)).unwrap();
    }
    cluster.sql(&format!("create tablespace outside location '{}'", outside.display()));
    let place = shop(&cluster);
    cluster.sql("create table far(n int) tablespace outside; insert into far values (7)");
    place.succeeds(&["backup"]);
    let book = place.succeeds(&["runbook"]);
    cluster.stop("immediate");
    for lost in [cluster.data(), outside] {
        fs::remove_dir_all(lost).unwrap();
    }
    let scratch = place.path("brought-back").display().to_string();
    let all = commands_under(&book, "### orders").join("\n").replace("/var/tmp/brought-back", &scratch);
    let output = Command::new("sh")
        .args(["-ec", &all])
        .current_dir(place.path(""))
        .env("RESTIC_REPOSITORY", place.path("repository"))
        .env("RESTIC_PASSWORD", "secret")
        .env("RESTIC_CACHE_DIR", place.path("cache"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{all}\n{said}");
    assert!(said.contains("\n1000\n"), "what is right by hand: {said}");
    cluster.start();
    assert_eq!(cluster.sql("select count(*), (select n from far) from orders"), "1000|7");
}
