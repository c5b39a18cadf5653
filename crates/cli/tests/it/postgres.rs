//! A PostgreSQL cluster by the plan, from the backup under a running server to the recovery of a lost one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::Place;

/// A cluster of the test's own, whose server ends with it.
struct Cluster {
    home: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        let mode = fs::Permissions::from_mode(0o755);
        let home = tempfile::Builder::new().prefix("pg").permissions(mode).tempdir().unwrap();
        if let Some((uid, gid)) = server_user() {
            chown(home.path(), Some(uid), Some(gid)).unwrap();
        }
        let cluster = Self { home };
        let data = cluster.data();
        run(program("initdb").args(["-A", "trust", "-U", "keeper", "-k", "--no-sync", "-D"]).arg(&data));
        let settings = format!(
            "unix_socket_directories = '{}'\nlisten_addresses = ''\nfsync = off\n",
            cluster.home.path().display()
        );
        let config = data.join("postgresql.conf");
        fs::write(&config, fs::read_to_string(&config).unwrap() + &settings).unwrap();
        cluster.start();
        cluster
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn start(&self) {
        let log = self.home.path().join("log");
        let mut command = program("pg_ctl");
        command.args(["start", "-w", "-l"]).arg(&log).arg("-D").arg(self.data());
        assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }

    fn stop(&self, mode: &str) {
        let data = self.data();
        _ = program("pg_ctl").args(["stop", "-w", "-m", mode, "-D"]).arg(data).output().unwrap();
    }

    fn sql(&self, text: &str) -> String {
        let arguments = ["-AtXq", "-U", "keeper", "-d", "postgres", "-c", text, "-h"];
        run(program("psql").args(arguments).arg(self.home.path()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop("immediate");
    }
}

/// The user as whom servers run when this is root, who must not.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let number = |field: usize| line.split(':').nth(field).unwrap().parse().unwrap();
    Some((number(2), number(3)))
}

fn program(name: &str) -> Command {
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

fn run(command: &mut Command) -> String {
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
fn commands_under<'a>(book: &'a str, heading: &str) -> Vec<&'a str> {
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
