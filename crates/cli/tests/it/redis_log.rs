//! A Redis server that `lifeboat serve` ships, beside a database of SQLite: any second of it, and one instant of both.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;

use crate::harness::Place;
use crate::redis::Cache;

const PATIENCE: Duration = Duration::from_secs(60);

struct Serve {
    child: Child,
    lines: Receiver<String>,
}

impl Serve {
    fn start(place: &Place) -> Self {
        let mut command = place.command(&["serve", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines }
    }

    /// Waits until this was told of the component.
    fn awaits(&self, what: &str, component: &str) -> String {
        let begin = Instant::now();
        loop {
            let left = PATIENCE.checked_sub(begin.elapsed()).expect("it happens in time");
            let line = self.lines.recv_timeout(left).expect("serve goes on");
            if line.contains(&format!("\"what\":\"{what}\""))
                && line.contains(&format!("\"component\":\"{component}\""))
            {
                return line;
            }
        }
    }

    fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn what_was_flushed_comes_back_with_the_orders_of_the_same_instant() {
    let mut cache = Cache::with("aof-timestamp-enabled yes\nappendfsync always\n");
    let place = Place::new().with("CACHE_PASSWORD", "right-word");
    let database = place.path("orders.db");
    let connect = || Connection::open(&database).unwrap();
    connect()
        .execute_batch("pragma journal_mode = wal; create table orders(id integer primary key)")
        .unwrap();
    let plan = format!(
        "lifeboat: 1\nname: shop\nrepository: {{ location: repository, password: \"${{env:LIFEBOAT_PASSWORD}}\" }}\n\
         components:\n  cache:\n    redis: {}\n    socket: {}\n    password: \"${{env:CACHE_PASSWORD}}\"\n    \
         every: continuous\n    rpo: 1m\n    facts: {{ users: SCARD users }}\n    may_be_empty: true\n  \
         orders:\n    sqlite: orders.db\n    every: continuous\n    rpo: 1m\nscenarios:\n  lost:\n    title: All is lost\n    \
         steps:\n      - restore: cache\n      - restore: orders\n",
        cache.data().display(),
        cache.socket().display(),
    );
    place.write("lifeboat.yaml", plan.as_bytes());
    place.succeeds(&["repository", "init"]);
    cache.ask(&["SADD", "users", "ada"]);
    let serve = Serve::start(&place);
    let (mut based, begin) = (0, Instant::now());
    while based < 2 && begin.elapsed() < PATIENCE {
        let line = serve.lines.recv_timeout(PATIENCE).expect("serve goes on");
        based += i32::from(line.contains("\"what\":\"based\""));
    }

    // Each number goes into both, within the same second.
    let mut written = Vec::new();
    for number in 1..=40_i64 {
        connect().execute("insert into orders values(?1)", [number]).unwrap();
        assert_eq!(cache.ask(&["RPUSH", "orders", &number.to_string()]), number.to_string());
        written.push(Timestamp::now());
        std::thread::sleep(Duration::from_millis(100));
    }
    let delay = serve.awaits("shipped", "cache");
    let seconds =
        delay.split("\"delay_seconds\":").nth(1).and_then(|rest| rest.split([',', '}']).next()).unwrap();
    assert!(seconds.parse::<f64>().unwrap() < 5.0, "{delay}");
    std::thread::sleep(Duration::from_millis(1200));
    let before = Timestamp::now();
    std::thread::sleep(Duration::from_millis(50));
    cache.ask(&["FLUSHALL"]);
    connect().execute("delete from orders", []).unwrap();
    // So that the mistake is not of the last second, of which a common instant has nothing.
    std::thread::sleep(Duration::from_millis(1200));
    cache.ask(&["SET", "after", "1"]);
    connect().execute("insert into orders values(100)", []).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    serve.end();
    let shown = place.succeeds(&["points"]);
    assert!(shown.contains("cache"), "{shown}");

    // Only the server, and to an instant in the middle: only what is older than its second.
    let at = written[25];
    let second = Timestamp::from_second(at.as_second()).unwrap();
    cache.kill();
    place.succeeds(&["restore", "cache", "--at", &at.to_string(), "--yes"]);
    cache.start();
    let expected = written.iter().filter(|written| **written < second).count();
    let there: usize = cache.ask(&["LLEN", "orders"]).parse().unwrap();
    // One may have been done in the last moment of a second and answered in the next.
    assert!(there == expected || there == expected + 1, "{there} and not {expected}");
    assert!(there <= 26);

    // Both, to the instant before.
    cache.kill();
    let told = place.succeeds(&["recover", "lost", "--at", &before.to_string(), "--yes"]);
    assert!(told.contains("cache") && told.contains("orders"), "{told}");
    cache.start();
    assert_eq!(cache.ask(&["LLEN", "orders"]), "40");
    assert_eq!(cache.ask(&["SCARD", "users"]), "1");
    let rows: i64 = connect().query_row("select count(*) from orders", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 40);

    // The latest that both have is behind the mistake.
    cache.kill();
    place.succeeds(&["recover", "lost", "--at", "common", "--yes"]);
    cache.start();
    assert_eq!(cache.ask(&["LLEN", "orders"]), "0");
    let rows: i64 =
        connect().query_row("select count(*) from orders where id < 100", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0);
}
