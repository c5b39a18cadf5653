//! The log of a PostgreSQL server: archived by its `archive_command`, given back, and replayed to any instant.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::harness::Place;
use crate::postgres::{Cluster, Write, ask_beside, server_user};

/// A shop whose server archives its log into the repository. Everything is done by the server's user, as an administrator would
/// who has given the repository to it.
pub struct Shop {
    pub cluster: Cluster,
    place: Place,
    pub directory: PathBuf,
}

impl Shop {
    pub fn new() -> Self {
        let shop = Self::with("archive: true");
        shop.archive("on");
        shop
    }

    /// One whose log comes into the repository as a line of the plan says.
    pub fn with(line: &str) -> Self {
        let shop = Self::on(Cluster::with(&["--wal-segsize=1"]), line);
        shop.cluster.sql("create table orders(writer int, n int, primary key (writer, n))");
        shop
    }

    /// A shop with this server, which does not archive yet.
    pub fn of(cluster: Cluster) -> Self {
        Self::on(cluster, "archive: true")
    }

    fn on(cluster: Cluster, line: &str) -> Self {
        let directory = cluster.home.path().join("lifeboat");
        fs::create_dir(&directory).unwrap();
        let state = directory.join("state");
        let place = Place::new().with("LIFEBOAT_STATE", &state.to_string_lossy());
        let shop = Self { cluster, place, directory };
        fs::write(shop.directory.join("password"), "secret").unwrap();
        let plan = format!(
            "lifeboat: 1\nname: shop\nrepository: {{ location: ./repository, password: \"${{file:password}}\" }}\ncomponents:\n  \
             orders:\n    postgres: {}\n    role: keeper\n    {line}\n    facts: {{ orders: select count(*) from orders }}\n",
            shop.cluster.data().display()
        );
        fs::write(shop.plan(), plan).unwrap();
        shop.cluster.give(&shop.directory);
        let location = shop.directory.join("repository").display().to_string();
        shop.succeeds(&["repository", "init", "--repository", &location, "--password-file", "password"]);
        shop
    }

    pub fn plan(&self) -> PathBuf {
        self.directory.join("lifeboat.yaml")
    }

    /// What the server is to call; its environment does not say where the state is.
    pub fn archive_command(&self) -> String {
        let (plan, state) = (self.plan(), self.directory.join("state"));
        let (plan, state) = (plan.display(), state.display());
        format!("{} wal push --plan {plan} --state {state} %p", env!("CARGO_BIN_EXE_lifeboat"))
    }

    /// Lets the server archive, or fail to.
    pub fn archive(&self, mode: &str) {
        let command = self.archive_command();
        self.cluster.configure(&format!("archive_mode = {mode}\narchive_command = '{command}'\n"));
        self.cluster.stop("fast");
        self.cluster.start();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_lifeboat"), arguments)
    }

    /// Another program than Lifeboat, where Lifeboat runs otherwise.
    pub fn command_of(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.place.command_of(program, arguments);
        command
            .current_dir(&self.directory)
            .env_remove("LIFEBOAT_REPOSITORY")
            .env_remove("LIFEBOAT_PASSWORD");
        if let Some((uid, gid)) = server_user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> (i32, String) {
        told(&self.command(arguments).output().unwrap())
    }

    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let (code, text) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {text}");
        text
    }

    pub fn push(&self, file: &Path) -> (i32, String) {
        self.run(&["wal", "push", &file.to_string_lossy()])
    }

    /// Asks for a file as a server does, in its data directory.
    pub fn fetch(&self, name: &str) -> (i32, String) {
        self.fetch_to(name, &self.directory.join("fetched"))
    }

    pub fn fetch_to(&self, name: &str, target: &Path) -> (i32, String) {
        let (plan, target) = (self.plan().display().to_string(), target.display().to_string());
        let mut command = self.command(&["wal", "fetch", "--plan", &plan, name, &target]);
        told(&command.current_dir(self.cluster.data()).output().unwrap())
    }

    pub fn fetched(&self) -> Vec<u8> {
        fs::read(self.directory.join("fetched")).unwrap()
    }

    /// Ends the segment that is being written and waits until it is archived; gives its name.
    pub fn switch(&self) -> String {
        let name = self.cluster.sql("select pg_walfile_name(pg_switch_wal())");
        for _ in 0..600 {
            let archived = self.cluster.sql("select coalesce(last_archived_wal, '') from pg_stat_archiver");
            if archived.get(8..24) >= name.get(8..24) && archived.len() == 24 {
                return name;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{name} was not archived: {}", self.cluster.log());
    }

    pub fn insert(&self, n: u32) -> Timestamp {
        self.cluster.sql(&format!("insert into orders values (0, {n})"));
        Timestamp::now()
    }

    /// The objects of the log in the repository, in the order of their positions.
    pub fn segments(&self) -> Vec<PathBuf> {
        let root = self.directory.join("repository/lifeboat/log");
        let mut open = vec![root];
        let mut files = Vec::new();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.file_name().unwrap().len() == 125 {
                // What has the name of a segment: positions, instant, writer, two values of the chain.
                files.push(path);
            }
        }
        files.sort();
        files
    }

    /// The segment that an object holds, by its position.
    pub fn segment_of(object: &Path) -> String {
        let name = object.file_name().unwrap().to_string_lossy().into_owned();
        let position = u64::from_str_radix(&name[..16], 16).unwrap();
        format!("00000001{:08X}{:08X}", position >> 32, (position & 0xffff_ffff) >> 20)
    }

    /// Restores beside and gives what the restored server says to a question.
    pub fn restored(&self, at: Option<Timestamp>, question: &str) -> Result<String, String> {
        self.restored_to(at.map(|at| at.to_string()).as_deref(), question)
    }

    fn restored_to(&self, at: Option<&str>, question: &str) -> Result<String, String> {
        let to = self.directory.join("look");
        if to.exists() {
            fs::remove_dir_all(&to).unwrap();
        }
        fs::create_dir(&to).unwrap();
        self.cluster.give(&to);
        let to_text = to.display().to_string();
        let mut arguments = vec!["restore", "orders", "--to", &to_text, "--yes"];
        if let Some(at) = at {
            arguments.extend(["--at", at]);
        }
        let (code, text) = self.run(&arguments);
        // An ordinary target that is reached has no facts of its own to be compared with.
        if code != 0 {
            return Err(format!("exit code {code}: {text}"));
        }
        Ok(ask_beside(&to.join("data"), question))
    }
}

pub fn told(output: &Output) -> (i32, String) {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn what_is_archived_is_durable_once_and_never_contradicted() {
    let shop = Shop::new();
    shop.insert(1);
    let name = shop.switch();
    let path = shop.cluster.data().join("pg_wal").join(&name);
    let (code, text) = shop.fetch(&name);
    assert_eq!(code, 0, "{text}");
    assert_eq!(shop.fetched(), fs::read(&path).unwrap());

    // The same again is fine, other content of the same name is not.
    assert_eq!(shop.push(&path).0, 0);
    let other = shop.directory.join(&name);
    let mut bytes = fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[length - 1] ^= 1;
    fs::write(&other, &bytes).unwrap();
    shop.cluster.give(&other);
    let (code, text) = shop.push(&other);
    assert!(code != 0 && text.contains("other content"), "{code}: {text}");
    let (code, _) = shop.fetch(&name);
    assert_eq!((code, shop.fetched()), (0, fs::read(&path).unwrap()));

    // Histories and marks of backups are kept beside.
    let history = shop.directory.join("00000002.history");
    fs::write(&history, "1\t0/2000000\tno recovery target specified\n").unwrap();
    assert_eq!(shop.push(&history).0, 0);
    assert_eq!(shop.push(&history).0, 0);
    fs::write(&history, "1\t0/3000000\tno recovery target specified\n").unwrap();
    assert_ne!(shop.push(&history).0, 0);
    assert_eq!(shop.fetch("00000002.history").0, 0);
    assert!(shop.fetched().starts_with(b"1\t0/2000000"));
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_not_archived() {
    let shop = Shop::new();
    shop.insert(1);
    let name = shop.switch();
    let good = fs::read(shop.cluster.data().join("pg_wal").join(&name)).unwrap();
    let mut next = name.clone();
    let last = u32::from_str_radix(&name[16..], 16).unwrap() + 7;
    next.replace_range(16.., &format!("{last:08X}"));
    let refused = |file: &str, bytes: &[u8], why: &str| {
        let path = shop.directory.join(file);
        fs::write(&path, bytes).unwrap();
        shop.cluster.give(&path);
        let (code, text) = shop.push(&path);
        assert!(code != 0 && text.contains(why), "{file}: {code}: {text}");
        fs::remove_file(path).unwrap();
    };
    refused(&next, &good, "begins at");
    refused(&name, &good[..good.len() / 2], "bytes");
    refused(&name, &vec![0; good.len()], "zeros");
    refused("notes.txt", b"x", "no name");
    // A page in its middle is lost.
    let mut torn = good.clone();
    torn[8192..16384].fill(0);
    refused(&name, &torn, "not archived");
    // Another cluster's.
    let other = Cluster::with(&["--wal-segsize=1"]);
    other.sql("create table x(n int)");
    let theirs = other.sql("select pg_walfile_name(pg_switch_wal())");
    let bytes = fs::read(other.data().join("pg_wal").join(&theirs)).unwrap();
    refused(&theirs, &bytes, "cluster");
}

#[test]
fn absence_is_proven_and_a_gap_is_no_end() {
    let shop = Shop::new();
    shop.insert(1);
    let first = shop.switch();
    shop.insert(2);
    let middle = shop.switch();
    shop.insert(3);
    let last = shop.switch();
    let (code, text) = shop.fetch("0000000100000000000000FF");
    assert!(code == 1 && text.contains("ends at"), "{code}: {text}");
    assert_eq!(shop.fetch("00000002.history").0, 1);
    assert_eq!(shop.fetch("000000020000000000000001").0, 1);

    // Whatever else is the matter stops the server: a wrong command line, a plan that is not there, an archive that lost
    // something.
    let run = |arguments: &[&str]| shop.run(arguments).0;
    assert_eq!(run(&["wal", "fetch", "--no-such-option", &last, "x"]), 255);
    assert_eq!(run(&["wal", "fetch", &last]), 255);
    assert_eq!(run(&["wal", "fetch", "--plan", "/no/such/plan", &last, "x"]), 255);
    assert_eq!(run(&["wal", "fetch", "--component", "other", &last, "x"]), 255);
    assert_eq!(run(&["wal", "fetch", "strange", "x"]), 255);
    assert_eq!(run(&["wal", "push", "--no-such-option"]), 3);

    let objects = shop.segments();
    let lost = &objects[objects.len() - 2];
    fs::remove_file(lost).unwrap();
    // The server's own directory still has it, and it may use that.
    assert_eq!(shop.fetch(&middle).0, 1);
    fs::remove_file(shop.cluster.data().join("pg_wal").join(&middle)).unwrap();
    let (code, text) = shop.fetch(&middle);
    assert!(code == 255 && text.contains("missing"), "{code}: {text}");
    assert_eq!((shop.fetch(&first).0, shop.fetch(&last).0), (0, 0));
    // A damaged one is no absent one either.
    let object = &shop.segments()[0];
    let mut bytes = fs::read(object).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::write(object, bytes).unwrap();
    let oldest = Shop::segment_of(object);
    let (code, text) = shop.fetch(&oldest);
    assert!(code == 255 && text.contains("damaged"), "{code}: {text}");
}

#[test]
fn a_copy_of_the_server_does_not_archive_into_its_archive() {
    let shop = Shop::new();
    shop.insert(1);
    let name = shop.switch();
    let other = Cluster::with(&["--wal-segsize=1"]);
    let plan = shop.plan().display().to_string();
    let file = shop.cluster.data().join("pg_wal").join(&name).display().to_string();
    let mut command = shop.command(&["wal", "push", "--plan", &plan, &file]);
    let (code, text) = told(&command.current_dir(other.data()).output().unwrap());
    assert!(code != 0 && text.contains("is not orders"), "{code}: {text}");
}

#[test]
fn a_restore_reaches_the_latest_and_an_instant() {
    let shop = Shop::new();
    shop.insert(1);
    shop.succeeds(&["backup"]);
    let second = shop.insert(2);
    std::thread::sleep(Duration::from_millis(20));
    shop.insert(3);
    shop.switch();
    shop.insert(4);
    shop.switch();
    let count = "select count(*), max(n) from orders";
    assert_eq!(shop.restored(None, count).unwrap(), "4|4");
    assert_eq!(shop.restored(Some(second), count).unwrap(), "2|2");
}

#[test]
fn a_restore_reaches_a_position_a_name_and_the_point_itself() {
    let shop = Shop::new();
    shop.insert(1);
    shop.succeeds(&["backup"]);
    shop.insert(2);
    let start = shop.cluster.sql("select pg_create_restore_point('before upgrade')");
    let behind = shop.cluster.sql("select pg_current_wal_insert_lsn()");
    shop.insert(3);
    shop.switch();
    shop.insert(4);
    shop.switch();
    let count = "select count(*), max(n) from orders";
    let reached = |at: &str| shop.restored_to(Some(at), count);
    assert_eq!(reached("immediate").unwrap(), "1|1");
    assert_eq!(reached("name:before upgrade").unwrap(), "2|2");
    assert_eq!(reached(&format!("lsn:{behind}")).unwrap(), "2|2");
    assert_eq!(reached(&format!("lsn:{}", start.to_lowercase())).unwrap(), "2|2");

    for (at, told) in [
        ("lsn:FF/0", "cannot be brought to the position FF/0"),
        ("lsn:0/28", "cannot be brought to the position 0/28"),
        ("lsn:zebra", "no position in the log"),
        ("name:after upgrade", "has no \"after upgrade\""),
    ] {
        let why = reached(at).unwrap_err();
        assert!(why.contains(told) && why.starts_with("exit code 3"), "{at}: {why}");
    }
    // What is not archived yet is not promised.
    shop.cluster.sql("select pg_create_restore_point('just now')");
    assert!(reached("name:just now").unwrap_err().contains("has no"));
    shop.cluster.sql("select pg_create_restore_point('before upgrade')");
    shop.switch();
    assert!(reached("name:before upgrade").unwrap_err().contains("more than once"));
    let (code, text) = shop.run(&["recover", "anything", "--at", "lsn:0/28"]);
    assert!(code != 0 && text.contains("lifeboat restore COMPONENT --at lsn:0/28"), "{text}");
}

#[test]
fn a_log_with_a_tablespace_made_after_the_backup_is_replayed_up_to_there() {
    let shop = Shop::new();
    let space = shop.cluster.home.path().join("space");
    fs::create_dir(&space).unwrap();
    shop.cluster.give(&space);
    shop.succeeds(&["backup"]);
    let one = shop.insert(1);
    std::thread::sleep(Duration::from_millis(20));
    let two = shop.insert(2);
    std::thread::sleep(Duration::from_millis(20));
    shop.cluster.sql(&format!("create tablespace space location '{}'", space.display()));
    shop.cluster.sql("create table far(n int) tablespace space; insert into far values (7)");
    let files = || fs::read_dir(&space).unwrap().count();
    shop.switch();
    let before = files();
    let count = "select count(*) from orders";
    let why = shop.restored(None, count).unwrap_err();
    assert!(why.contains("a tablespace is made or dropped in the log"), "{why}");
    assert_eq!(shop.restored(Some(one), count).unwrap(), "1");
    // The tablespace is made before the transaction that made it is known to be later.
    let why = shop.restored(Some(two), count).unwrap_err();
    assert!(why.contains("a tablespace is made or dropped in the log"), "{why}");
    assert_eq!(files(), before, "the live tablespace was not touched");
    assert_eq!(shop.cluster.sql("select n from far"), "7");
    shop.succeeds(&["backup"]);
    shop.insert(3);
    shop.switch();
    assert_eq!(shop.restored(None, count).unwrap(), "3");
}

#[test]
fn after_a_fork_the_latest_is_the_new_timelines_and_the_old_one_stays_reachable() {
    let shop = Shop::new();
    shop.insert(1);
    shop.succeeds(&["backup"]);
    let second = shop.insert(2);
    std::thread::sleep(Duration::from_millis(20));
    shop.insert(3);
    shop.cluster.sql("select pg_create_restore_point('old end')");
    shop.switch();
    shop.cluster.stop("fast");
    shop.succeeds(&["restore", "orders", "--yes", "--at", &second.to_string()]);
    shop.cluster.start();
    let rows = "select string_agg(n::text, ',' order by n) from orders";
    assert_eq!(shop.cluster.sql(rows), "1,2");
    shop.insert(40);
    shop.switch();
    assert_eq!(shop.restored(None, rows).unwrap(), "1,2,40");
    assert_eq!(shop.restored_to(Some("name:old end"), rows).unwrap(), "1,2,3");
    shop.succeeds(&["backup"]);
    shop.insert(41);
    shop.switch();
    assert_eq!(shop.restored(None, rows).unwrap(), "1,2,40,41");
}

#[test]
fn no_gap_and_no_damage_ends_green() {
    let shop = Shop::new();
    shop.succeeds(&["backup"]);
    for n in 0..6 {
        shop.insert(n);
        shop.switch();
    }
    let objects = shop.segments();
    let victim = objects[objects.len() - 3].clone();
    let good = fs::read(&victim).unwrap();
    let neighbour = fs::read(&objects[objects.len() - 2]).unwrap();
    let other = Shop::new();
    other.insert(1);
    other.switch();
    let foreign = fs::read(other.segments().last().unwrap()).unwrap();
    let count = "select count(*) from orders";
    let faults: [(&str, Option<Vec<u8>>); 5] = [
        ("missing", None),
        ("truncated", Some(good[..good.len() / 2].to_vec())),
        ("zeroed", Some(vec![0; good.len()])),
        ("its neighbour", Some(neighbour)),
        ("another cluster's", Some(foreign)),
    ];
    for (what, bytes) in faults {
        match bytes {
            Some(bytes) => fs::write(&victim, bytes).unwrap(),
            None => fs::remove_file(&victim).unwrap(),
        }
        let restored = shop.restored(None, count);
        assert!(restored.is_err(), "{what}: {restored:?}");
        fs::write(&victim, &good).unwrap();
    }
    assert_eq!(shop.restored(None, count).unwrap(), "6");
}

#[test]
fn what_was_missed_is_taken_along_while_the_server_has_it() {
    let shop = Shop::new();
    shop.insert(1);
    shop.switch();
    shop.cluster.configure("archive_command = '/bin/true'\n");
    shop.cluster.sql("select pg_reload_conf()");
    shop.insert(2);
    let missed = shop.switch();
    shop.insert(3);
    let next = shop.cluster.sql("select pg_walfile_name(pg_switch_wal())");
    let (code, text) = shop.push(&shop.cluster.data().join("pg_wal").join(next));
    assert_eq!(code, 0, "{text}");
    assert_eq!(shop.fetch(&missed).0, 0);
}

#[test]
fn under_load_every_instant_has_what_was_acknowledged_before_and_nothing_that_was_begun_after() {
    let shop = Shop::new();
    let stop = AtomicBool::new(false);
    let written: Vec<Vec<Write>> = std::thread::scope(|scope| {
        let write = |writer: u32| {
            let (stop, cluster) = (&stop, &shop.cluster);
            scope.spawn(move || cluster.write(writer, stop))
        };
        let writers: Vec<_> = (1..=3).map(write).collect();
        std::thread::sleep(Duration::from_secs(1));
        shop.succeeds(&["backup"]);
        std::thread::sleep(Duration::from_secs(3));
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    shop.switch();
    let all: Vec<(u32, &Write)> = written
        .iter()
        .zip(1..)
        .flat_map(|(writes, writer)| writes.iter().map(move |write| (writer, write)))
        .collect();
    assert!(all.len() > 100, "{} writes", all.len());
    let last = all.iter().map(|(_, write)| write.acknowledged).max().unwrap();
    let seed = last.as_microsecond().unsigned_abs();
    for number in 0..3_u64 {
        // Within the last two seconds, which are behind the backup.
        let before = (seed >> (number * 7)).wrapping_mul(6_364_136_223_846_793_005) % 2_000_000;
        let at = Timestamp::from_microsecond(last.as_microsecond() - i64::try_from(before).unwrap()).unwrap();
        let there =
            shop.restored(Some(at), "select string_agg(writer || ' ' || n, ',') from orders").unwrap();
        let there: std::collections::BTreeSet<&str> = there.split(',').collect();
        for (writer, write) in &all {
            let is_there = there.contains(format!("{writer} {}", write.n).as_str());
            assert!(is_there || write.acknowledged > at, "{at}: {writer} {write:?} is missing");
            assert!(!is_there || write.begun <= at, "{at}: {writer} {write:?} is there");
        }
    }
}
