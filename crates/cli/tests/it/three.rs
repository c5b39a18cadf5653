//! The shop of `examples/shop`: PostgreSQL, Redis and SQLite under writes, all lost, and brought back to one instant.
//!
//! The test is the application: it notes when each row was begun and when it was acknowledged. Everything is done by the user of
//! the servers, as the example says.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::postgres::server_user;

/// How far apart an acknowledgement and the look of serve that finds the commit may be on a machine with much to do.
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Redis' log says in which second a command was done, and of the second of the instant nothing comes back; and it may
/// answer before it writes to its file.
const SECOND: Duration = Duration::from_secs(3);
/// The archive counts milliseconds.
const ARCHIVE_COUNTS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(90);

/// The example in a directory of its own; its servers end with it.
struct Shop {
    home: tempfile::TempDir,
}

/// A row, when its writing was begun, and when it was acknowledged.
#[derive(Debug)]
struct Row {
    n: u32,
    begun: Timestamp,
    acknowledged: Timestamp,
}

impl Shop {
    fn new() -> Self {
        let mode = fs::Permissions::from_mode(0o755);
        let home = tempfile::Builder::new().prefix("shop").permissions(mode).tempdir().unwrap();
        let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
        for file in ["lifeboat.yaml", "redis.conf", "servers.sh", "set-up.sh"] {
            fs::copy(example.join(file), home.path().join(file)).unwrap();
        }
        if let Some((uid, gid)) = server_user() {
            chown(home.path(), Some(uid), Some(gid)).unwrap();
            for entry in fs::read_dir(home.path()).unwrap() {
                chown(entry.unwrap().path(), Some(uid), Some(gid)).unwrap();
            }
        }
        let shop = Self { home };
        shop.does("./set-up.sh");
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A command of the user of the servers, with nothing else in its environment.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.home.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("TZ", "UTC");
        command.env("LIFEBOAT", env!("CARGO_BIN_EXE_lifeboat")).env("LIFEBOAT_STATE", self.path("state"));
        command.env("HOME", self.home.path()).env("USER", "shop");
        if let Some((uid, gid)) = server_user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn does(&self, script: &str) -> String {
        let output = self.command("sh").args(["-c", script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    fn lifeboat(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(env!("CARGO_BIN_EXE_lifeboat")).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let (code, said) = self.lifeboat(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }

    fn sql(&self, text: &str) -> String {
        self.does(&format!("psql -AtXq -U shop -d postgres -h \"$PWD/run\" -c \"{text}\"")).trim().to_owned()
    }

    /// Ships all three; the first base of each is there when this returns.
    fn serve(&self) -> Serving {
        let mut command = self.command(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(["serve", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // What it says is read to its end, so that it never waits for that.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || lines.next().expect("serve goes on").unwrap();
        let mut bases = 0;
        while bases < 3 {
            let line = next();
            assert!(!line.contains("not_based"), "{line}");
            bases += usize::from(line.contains("\"what\":\"based\""));
        }
        std::thread::spawn(move || lines.count());
        Serving(child)
    }

    /// Writes rows into one engine, each when the one before was acknowledged: its client reads lines, and answers each with one.
    fn write(&self, client: &mut Command, line: impl Fn(u32) -> String, stop: &AtomicBool) -> Vec<Row> {
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut answers, mut rows) = (BufReader::new(from).lines(), Vec::new());
        for n in 1.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let begun = Timestamp::now();
            writeln!(to, "{}", line(n)).unwrap();
            let answer = answers.next().expect("the client goes on").unwrap();
            assert!(answer == n.to_string() || answer.ends_with('1'), "{answer}");
            rows.push(Row { n, begun, acknowledged: Timestamp::now() });
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(to);
        child.wait().unwrap();
        rows
    }

    fn psql(&self) -> Command {
        let mut psql = self.command("psql");
        psql.args(["-AtXq", "-U", "shop", "-d", "postgres", "-h"]).arg(self.path("run"));
        psql
    }

    fn redis(&self) -> Command {
        let mut redis = self.command("redis-cli");
        redis.args(["-s", "run/redis.sock"]);
        redis
    }

    fn sqlite(&self) -> Command {
        let script = "import sqlite3, sys\n\
                      c = sqlite3.connect('data/catalogue.db', isolation_level=None, timeout=60)\n\
                      c.execute('pragma synchronous = normal')\n\
                      for line in sys.stdin:\n  \
                      c.execute('insert into products values (?, ?)', (int(line), 'product'))\n  \
                      print(line.strip(), flush=True)\n";
        let mut python = self.command("python3");
        python.args(["-c", script]);
        python
    }

    /// Ends the segment that is being written, and waits until it is archived.
    fn switch(&self) {
        let name = self.sql("select pg_walfile_name(pg_switch_wal())");
        let begin = Instant::now();
        loop {
            let archived = self.sql("select coalesce(last_archived_wal, '') from pg_stat_archiver");
            if archived.len() == 24 && archived.get(8..24) >= name.get(8..24) {
                return;
            }
            let log = fs::read_to_string(self.path("run/postgres.log")).unwrap_or_default();
            assert!(begin.elapsed() < PATIENCE, "{name} is not archived: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn rows(&self, engine: &str) -> BTreeSet<u32> {
        let text = match engine {
            "orders" => self.sql("select n from orders"),
            "sessions" => self.does("redis-cli -s run/redis.sock SMEMBERS sessions"),
            _ => self.does(
                "python3 -c \"import sqlite3; [print(n) for n, in sqlite3.connect('data/catalogue.db').execute('select n from products')]\"",
            ),
        };
        text.lines().map(|line| line.trim().parse().unwrap()).collect()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        for server in ["postgres", "redis"] {
            _ = self.command("sh").args(["-c", &format!("./servers.sh {server} stop")]).output();
        }
    }
}

/// A `lifeboat serve` that ends with the test.
struct Serving(Child);

impl Serving {
    /// Asks it to end, and gives its exit code.
    fn end(mut self) -> Option<i32> {
        assert!(Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Lets the writers end, also when the test fails meanwhile.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What was acknowledged before an instant is there, and what was begun after it is not.
fn compare(
    engine: &str,
    there: &BTreeSet<u32>,
    rows: &[Row],
    at: Timestamp,
    early: Duration,
    late: Duration,
) {
    let (mut before, mut after) = (0, 0);
    for row in rows {
        let is_there = there.contains(&row.n);
        if row.acknowledged + early <= at {
            assert!(is_there, "{engine}: {row:?} was acknowledged before {at} and is missing");
            before += 1;
        }
        if row.begun > at + late {
            assert!(!is_there, "{engine}: {row:?} was begun after {at} and is there");
            after += 1;
        }
    }
    assert!(before > 50 && after > 50, "{engine}: {before} rows before {at}, {after} after");
    assert!(there.iter().all(|n| rows.iter().any(|row| row.n == *n)), "{engine}: a row that nobody wrote");
}

#[test]
fn three_engines_come_back_to_one_instant() {
    let shop = Shop::new();
    let serve = shop.serve();
    let stop = AtomicBool::new(false);
    let (orders, sessions, products) = std::thread::scope(|scope| {
        let (stop, shop) = (&stop, &shop);
        let insert = |n| format!("insert into orders values ({n}) returning n;");
        let orders = scope.spawn(move || shop.write(&mut shop.psql(), insert, stop));
        let add = |n| format!("SADD sessions {n}");
        let sessions = scope.spawn(move || shop.write(&mut shop.redis(), add, stop));
        let products = scope.spawn(move || shop.write(&mut shop.sqlite(), |n| n.to_string(), stop));
        let stop = Stop(stop);
        std::thread::sleep(SECOND + Duration::from_secs(4));
        // What is written from now on is not archived: serve itself may say that it did not get to the end of it.
        assert!(matches!(serve.end(), Some(0 | 2)));
        std::thread::sleep(Duration::from_secs(2));
        drop(stop);
        (orders.join().unwrap(), sessions.join().unwrap(), products.join().unwrap())
    });
    // Each is what it was, restored into scratch, before anything is lost.
    shop.succeeds(&["verify", "--restore", "--latest-only"]);

    for server in ["postgres", "redis"] {
        shop.does(&format!("./servers.sh {server} stop"));
    }
    fs::remove_dir_all(shop.path("data")).unwrap();
    fs::remove_file(shop.path("redis.conf")).unwrap();
    let (code, said) = shop.lifeboat(&["diagnose"]);
    assert!(code == Some(1) && said.contains("server-lost fits"), "{said}");
    let said = shop.succeeds(&["recover", "server-lost", "--at", "common", "--yes"]);
    assert!(said.contains("back after"), "{said}");
    let report: serde_json::Value =
        serde_json::from_str(&shop.succeeds(&["report", "latest", "--format", "json"])).unwrap();
    let at: Timestamp = report["disaster"]["at"].as_str().expect("an instant was asked for").parse().unwrap();

    compare("orders", &shop.rows("orders"), &orders, at, Duration::ZERO, ARCHIVE_COUNTS);
    compare("products", &shop.rows("products"), &products, at, LOOK_MAX, ARCHIVE_COUNTS);
    compare("sessions", &shop.rows("sessions"), &sessions, at, SECOND, Duration::ZERO);
    assert!(shop.path("redis.conf").exists());
}

/// Of what is idle `serve` says up to when it was looked at, and that moment all have.
#[test]
fn what_was_written_last_comes_back_though_the_others_were_idle() {
    let shop = Shop::new();
    shop.does("redis-cli -s run/redis.sock SADD sessions 1");
    let product = "import sqlite3; c = sqlite3.connect('data/catalogue.db'); c.execute('insert into products values (1, 0)')";
    shop.does(&format!("python3 -c \"{product}; c.commit()\""));
    let serve = shop.serve();
    shop.sql("insert into orders select generate_series(1, 1000)");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(serve.end(), Some(0));
    for server in ["postgres", "redis"] {
        shop.does(&format!("./servers.sh {server} stop"));
    }
    fs::remove_dir_all(shop.path("data")).unwrap();
    shop.succeeds(&["recover", "server-lost", "--at", "common", "--yes"]);
    assert_eq!(shop.rows("orders").len(), 1000);
    shop.succeeds(&["drill", "server-lost", "--at", "common"]);
}

/// What status says of the orders: the word, and why.
fn of_orders(shop: &Shop) -> (String, String) {
    let (_, said) = shop.lifeboat(&["status", "--json"]);
    let line = said.lines().find(|line| line.contains("\"readiness\"")).unwrap_or_else(|| panic!("{said}"));
    let answer: serde_json::Value = serde_json::from_str(line).unwrap();
    let orders = &answer["answer"]["components"][0];
    assert_eq!(orders["component"], "orders", "{said}");
    (orders["protection"].as_str().unwrap().to_owned(), orders["why"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn an_idle_server_is_not_behind_and_a_dead_archiver_is() {
    let shop = Shop::new();
    let plan = fs::read_to_string(shop.path("lifeboat.yaml")).unwrap();
    // Six seconds are what is not known of an idle server with this archive_timeout.
    let plan = plan.replacen("rpo: 1m", "rpo: 12s", 1);
    fs::write(
        shop.path("lifeboat.yaml"),
        plan.replacen("every: continuous", "every: 6h\n    archive: true", 1),
    )
    .unwrap();
    shop.does(
        "cat >> data/postgres/postgresql.conf <<CONF\narchive_mode = on\narchive_command = '$LIFEBOAT wal push --plan \
         $PWD/lifeboat.yaml --state $LIFEBOAT_STATE %p'\nCONF\n./servers.sh postgres stop; ./servers.sh postgres start",
    );
    let set = |name: &str, value: &str| {
        shop.sql(&format!("alter system set {name} = '{value}'"));
        shop.sql("select pg_reload_conf()");
    };
    let idle = || std::thread::sleep(Duration::from_secs(14));
    set("archive_timeout", "1");
    shop.sql("insert into orders values (1)");
    shop.succeeds(&["backup", "orders"]);
    shop.sql("insert into orders values (2)");
    shop.switch();
    idle();
    assert_eq!(of_orders(&shop), ("protected".to_owned(), String::new()), "nothing was written meanwhile");
    // What is not ended by itself may hold something.
    set("archive_timeout", "0");
    let (protection, why) = of_orders(&shop);
    assert!(protection == "late" && why.contains("archive_timeout is 0"), "{protection}: {why}");
    set("archive_timeout", "1");

    // An archiver that fails, and says so.
    let works = shop.sql("show archive_command");
    set("archive_command", "false");
    shop.sql("insert into orders values (3)");
    shop.sql("select pg_switch_wal()");
    idle();
    let (protection, why) = of_orders(&shop);
    assert!(protection == "late" && why.contains("could not be archived"), "{protection}: {why}");
    // One that keeps nothing, and says that all is well.
    set("archive_command", "true");
    let begin = Instant::now();
    let failing = "select count(*) from pg_stat_archiver where last_failed_time > last_archived_time";
    while shop.sql(failing) != "0" {
        assert!(begin.elapsed() < PATIENCE);
        shop.sql("select pg_switch_wal()");
        std::thread::sleep(Duration::from_secs(1));
    }
    idle();
    let (protection, why) = of_orders(&shop);
    assert!(protection == "late" && why.contains("old, at most"), "{protection}: {why}");
    set("archive_command", &works);
}

#[test]
fn the_files_of_the_example_are_what_its_readme_names() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let readme = fs::read_to_string(example.join("README.md")).unwrap();
    for name in ["lifeboat.yaml", "set-up.sh", "servers.sh"] {
        assert!(readme.contains(name) && example.join(name).exists(), "{name}");
    }
    for script in ["set-up.sh", "servers.sh"] {
        let mode = fs::metadata(example.join(script)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} can be run");
    }
}
