//! `lifeboat serve`: an application writes, its log is shipped, and any instant comes back.
//!
//! The test is the application: it notes when each row was begun and when it was acknowledged.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;

use crate::harness::Place;

const PLAN: &str = "
lifeboat: 1
name: shop
repository: { location: ./repository }
components:
  orders:
    sqlite: data/orders.db
    every: continuous
    rpo: 1m
    rto: 5m
    facts: { orders: select count(*) from orders }
scenarios:
  lost:
    title: The database is lost
    rto: 5m
    steps:
      - restore: orders
";

/// How far apart an acknowledgement and the look that finds the commit may be on a machine with much to do.
const LOOK_MAX: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

/// A shop whose orders are shipped.
pub struct Shop {
    pub place: Place,
}

/// A row, and when it was written.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub id: i64,
    pub begun: Timestamp,
    pub acknowledged: Timestamp,
}

/// A `lifeboat serve` and what it says.
pub struct Serve {
    child: Child,
    lines: Receiver<String>,
}

impl Shop {
    pub fn new() -> Self {
        let place = Place::new()
            .with("LIFEBOAT_STATE", "state")
            .with("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .with("USER", "tester");
        place.write("lifeboat.yaml", PLAN.as_bytes());
        std::fs::create_dir(place.path("data")).unwrap();
        let shop = Self { place };
        let connection = shop.connect();
        connection
            .execute_batch("pragma journal_mode = wal; create table orders(id integer primary key, text)")
            .unwrap();
        drop(connection);
        shop.place.succeeds(&["repository", "init"]);
        shop
    }

    pub fn database(&self) -> std::path::PathBuf {
        self.place.path("data/orders.db")
    }

    pub fn connect(&self) -> Connection {
        connect(&self.database())
    }

    pub fn serve(&self) -> Serve {
        Serve::start(&mut self.place.command(&["serve", "--json"]))
    }

    /// Restores to an instant beside, and gives the rows that are there.
    pub fn rows_at(&self, at: Option<Timestamp>) -> Vec<i64> {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().to_str().unwrap();
        let at = at.map(|at| at.to_string());
        let mut arguments = vec!["restore", "orders", "--to", to, "--yes"];
        arguments.extend(at.iter().flat_map(|at| ["--at", at.as_str()]));
        let output = self.place.output(&arguments);
        assert!(output.status.success(), "{}", self.place.transcript(&output));
        let found = find(directory.path(), "orders.db");
        let connection = connect(&found);
        let mut statement = connection.prepare("select id from orders order by id").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch("pragma synchronous = normal").unwrap();
    connection
}

fn find(directory: &Path, name: &str) -> std::path::PathBuf {
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_file() && path.file_name().is_some_and(|found| found == name) {
            return path;
        }
        if let Ok(entries) = std::fs::read_dir(&path) {
            open.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    panic!("{name} is not below {}", directory.display());
}

/// Writes about 500 rows a second until told to stop.
pub fn write_orders(path: &Path, first: i64, stop: &AtomicBool) -> Vec<Order> {
    let connection = connect(path);
    let mut orders = Vec::new();
    let mut insert = connection.prepare("insert into orders values(?1, hex(randomblob(150)))").unwrap();
    let begin = Instant::now();
    for number in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = first + i64::from(number);
        let begun = Timestamp::now();
        insert.execute([id]).unwrap();
        orders.push(Order { id, begun, acknowledged: Timestamp::now() });
        std::thread::sleep((Duration::from_millis(2) * number).saturating_sub(begin.elapsed()));
    }
    orders
}

impl Serve {
    /// Starts `lifeboat serve --json`.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines }
    }

    /// Waits for something to happen.
    pub fn await_event(&self, what: &str) -> String {
        let wanted = format!("\"what\":\"{what}\"");
        let (begin, mut others) = (Instant::now(), Vec::new());
        while let Some(left) = PATIENCE.checked_sub(begin.elapsed()) {
            let Ok(line) = self.lines.recv_timeout(left) else { break };
            if line.contains(&wanted) {
                return line;
            }
            others.push(line);
        }
        panic!("{what} did not happen, but: {others:#?}");
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and gives its exit code.
    pub fn end(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What was acknowledged before is there, what was begun afterwards is not.
pub fn check(rows: &[i64], orders: &[Order], at: Timestamp) {
    let last = rows.last().copied().unwrap_or(0);
    assert_eq!(rows.len(), usize::try_from(last).unwrap(), "no row in the middle is missing");
    for order in orders {
        if order.acknowledged + LOOK_MAX <= at {
            assert!(order.id <= last, "{order:?} was acknowledged before {at}, and the last is {last}");
        }
        if order.begun > at {
            assert!(order.id > last, "{order:?} was begun after {at}, and the last is {last}");
        }
    }
}

#[test]
fn any_instant_comes_back_and_nothing_that_was_acknowledged_is_missing() {
    let shop = Shop::new();
    let serve = shop.serve();
    serve.await_event("based");
    let stop = AtomicBool::new(false);
    let path = shop.database();
    let orders = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_orders(&path, 1, &stop));
        std::thread::sleep(Duration::from_secs(8));
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert!(orders.len() > 500, "{}", orders.len());
    // Each commit is in the repository within a second, without the end of the process.
    std::thread::sleep(Duration::from_secs(1));
    serve.kill();
    let all: Vec<i64> = (1..=i64::try_from(orders.len()).unwrap()).collect();
    assert_eq!(shop.rows_at(None), all, "the latest is the last that was acknowledged");
    let (first, last) = (orders[0].acknowledged, orders[orders.len() - 1].acknowledged);
    let mut random: u64 = 0x5eed;
    for _ in 0..8 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let span = last.duration_since(first).as_secs_f64();
        let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
        let at = first + Duration::from_secs_f64(span * share);
        check(&shop.rows_at(Some(at)), &orders, at);
    }
}

#[test]
fn serve_that_is_killed_loses_nothing_and_ends_well_when_asked() {
    let shop = Shop::new();
    let stop = AtomicBool::new(false);
    let path = shop.database();
    shop.serve().await_event("based");
    let orders = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_orders(&path, 1, &stop));
        for round in 0..6_u64 {
            let serve = shop.serve();
            serve.await_event("shipped");
            std::thread::sleep(Duration::from_millis(round * 211 % 900));
            serve.kill();
            std::thread::sleep(Duration::from_millis(round * 97 % 400));
        }
        let serve = shop.serve();
        serve.await_event("shipped");
        stop.store(true, Ordering::Relaxed);
        let orders = writer.join().unwrap();
        // A base may still be due; then any instant from now on comes back.
        let begin = Instant::now();
        while !shop.place.succeeds(&["points", "orders", "--json"]).contains("consistent_at")
            && begin.elapsed() < Duration::from_secs(2)
        {
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(serve.end(), Some(0));
        orders
    });
    let rows = shop.rows_at(None);
    assert_eq!(rows.len(), orders.len(), "the latest is the last that was acknowledged");
    assert_eq!(rows.last(), orders.last().map(|order| &order.id));
}

#[test]
fn a_restored_database_begins_a_lineage_of_its_own() {
    let shop = Shop::new();
    let serve = shop.serve();
    serve.await_event("based");
    let path = shop.database();
    let write = |ids: std::ops::RangeInclusive<i64>| {
        let connection = shop.connect();
        for id in ids {
            connection.execute("insert into orders values(?1, 'text')", [id]).unwrap();
        }
    };
    write(1..=20);
    std::thread::sleep(Duration::from_secs(1));
    let good = Timestamp::now();
    std::thread::sleep(Duration::from_millis(300));
    shop.connect().execute("delete from orders where id > 5", []).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let at = good.to_string();
    let output = shop.place.output(&["restore", "orders", "--at", &at, "--yes"]);
    assert!(output.status.success(), "{}", shop.place.transcript(&output));
    assert_eq!(connect(&path).query_row("select count(*) from orders", [], |row| row.get(0)), Ok(20));
    assert!(serve.await_event("interrupted").contains("replaced"));
    serve.await_event("began");
    serve.await_event("based");
    write(21..=30);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(serve.end(), Some(0));
    assert_eq!(shop.rows_at(None), (1..=30).collect::<Vec<_>>());
    // What was before is not lost by it.
    let before_delete = shop.rows_at(Some(good));
    assert_eq!(before_delete, (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_recovery_goes_to_the_last_shipped_commit_and_says_so() {
    let shop = Shop::new();
    let serve = shop.serve();
    serve.await_event("based");
    shop.connect().execute("insert into orders values(1, 'only')", []).unwrap();
    let written = Timestamp::now();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(serve.end(), Some(0));
    let readiness = shop.place.output(&["status", "--json"]);
    let readiness = String::from_utf8(readiness.stdout).unwrap();
    assert!(readiness.contains("\"protection\":\"protected\""), "{readiness}");
    for ending in ["", "-wal", "-shm"] {
        _ = std::fs::remove_file(format!("{}{ending}", shop.database().display()));
    }
    let output = shop.place.output(&["recover", "lost", "--yes", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let rows: i64 = shop.connect().query_row("select count(*) from orders", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
    let rpo = text.split("\"rpo_seconds\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
    let rpo: f64 = rpo.unwrap().parse().unwrap();
    let since = Timestamp::now().duration_since(written).as_secs_f64();
    assert!(rpo <= since + 1.0, "{rpo} beside {since}");
}
