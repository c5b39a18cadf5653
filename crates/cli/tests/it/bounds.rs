//! `lifeboat serve` where things run out: the room of the repository, the bases that `keep` keeps, the one place of a shipper.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::shipping::{Order, Serve, Shop, check, write_orders};

/// A repository on a small file system of its own, in a namespace that only the test's processes see.
struct Small {
    holder: Child,
    home: std::path::PathBuf,
}

impl Small {
    fn of(shop: &Shop, size: &str) -> Self {
        let home = shop.place.path("");
        let script = format!(
            "cp -a repository saved && mount -t tmpfs -o size={size} none repository && cp -a saved/. repository/ && \
             echo ready && exec sleep 300"
        );
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", &script]).current_dir(&home).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("util-linux is there");
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "a file system can be mounted in a namespace of one's own");
        Self { holder, home }
    }

    /// Turns a command into one that sees the small file system.
    fn command(&self, shop: &Shop, script: &str) -> Command {
        let target = self.holder.id().to_string();
        let script = format!("cd {} && exec {script}", self.home.display());
        let arguments = ["-t", &target, "-U", "-m", "--preserve-credentials", "sh", "-c", &script];
        shop.place.command_of("nsenter", &arguments)
    }

    fn does(&self, shop: &Shop, script: &str) {
        let output = self.command(shop, script).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}

/// Lets the writer end, also when the test fails meanwhile.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes rows from `first` on for a second.
fn write(shop: &Shop, first: i64) -> Vec<Order> {
    let (stop, path) = (AtomicBool::new(false), shop.database());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_orders(&path, first, &stop));
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    })
}

fn numbers(orders: &[Order]) -> Vec<i64> {
    orders.iter().map(|order| order.id).collect()
}

#[test]
fn a_full_repository_is_told_and_nothing_is_lost_when_there_is_room_again() {
    let shop = Shop::new();
    let small = Small::of(&shop, "48m");
    let serve =
        Serve::start(&mut small.command(&shop, &format!("{} serve --json", env!("CARGO_BIN_EXE_lifeboat"))));
    serve.await_event("based");
    let stop = AtomicBool::new(false);
    let path = shop.database();
    let orders = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_orders(&path, 1, &stop));
        let stop = Stop(&stop);
        std::thread::sleep(Duration::from_secs(1));
        // Until not a byte more goes in.
        small.does(&shop, "sh -c 'cat /dev/zero > repository/filler 2>/dev/null; test -s repository/filler'");
        let away = serve.await_event("away");
        assert!(away.contains("No space left") || away.contains("full") || away.contains("room"), "{away}");
        std::thread::sleep(Duration::from_secs(3));
        small.does(&shop, "rm repository/filler");
        serve.await_event("back");
        std::thread::sleep(Duration::from_secs(2));
        drop(stop);
        writer.join().unwrap()
    });
    assert!(orders.len() > 1000, "the writer was not held up: {}", orders.len());
    assert_eq!(serve.end(), Some(0), "all is archived");
    let log = std::fs::metadata(shop.place.path("data/orders.db-wal")).map_or(0, |found| found.len());
    assert!(log < 64 << 20, "the log is begun anew once it is archived: {log} bytes");
    small.does(&shop, "sh -c 'rm -rf out && cp -a repository out'");
    drop(small);
    std::fs::remove_dir_all(shop.place.path("repository")).unwrap();
    std::fs::rename(shop.place.path("out"), shop.place.path("repository")).unwrap();

    assert_eq!(shop.rows_at(None), numbers(&orders), "the latest is the last that was acknowledged");
    // Also those that were written while there was no room.
    for part in 1..6 {
        let at = orders[orders.len() * part / 6].acknowledged;
        check(&shop.rows_at(Some(at)), &orders, at);
    }
}

#[test]
fn a_second_shipper_waits_for_the_first_and_then_takes_over() {
    let shop = Shop::new();
    let first = shop.serve();
    first.await_event("based");
    let second = shop.serve();
    let waiting = second.await_event("waiting");
    assert!(waiting.contains("stop the other"), "{waiting}");
    let mut orders = write(&shop, 1);
    assert_eq!(first.end(), Some(0));
    second.await_event("continues");
    orders.extend(write(&shop, orders.len() as i64 + 1));
    assert_eq!(second.end(), Some(0));
    assert_eq!(shop.rows_at(None), numbers(&orders));
    let at = orders[orders.len() / 2].acknowledged;
    check(&shop.rows_at(Some(at)), &orders, at);
}

#[test]
fn bases_are_kept_by_the_plan_and_the_log_of_a_kept_one_stays() {
    let shop = Shop::new();
    let plan = std::fs::read_to_string(shop.place.path("lifeboat.yaml")).unwrap();
    let plan = plan.replace("    every: continuous\n", "    every: continuous\n    keep: { last: 1 }\n");
    shop.place.write("lifeboat.yaml", plan.as_bytes());
    let mut orders = Vec::new();
    for round in 0..4 {
        if round > 0 {
            // Another database: a lineage of its own, and a base under it.
            for ending in ["", "-wal", "-shm", "-lifeboat"] {
                _ = std::fs::remove_file(shop.place.path(&format!("data/orders.db{ending}")));
            }
            let connection = shop.connect();
            connection
                .execute_batch("pragma journal_mode = wal; create table orders(id integer primary key, text)")
                .unwrap();
        }
        let serve = shop.serve();
        serve.await_event("based");
        orders = write(&shop, 1);
        assert_eq!(serve.end(), Some(0));
        let points = shop.place.succeeds(&["points", "orders", "--json"]);
        let count = points.matches("\"snapshot\":").count();
        assert!(count <= 2, "{round}: `keep` keeps one, and it forgets them: {count} in {points}");
    }
    shop.place.succeeds(&["forget", "--prune", "--yes"]);
    assert_eq!(shop.rows_at(None), numbers(&orders));
    let at = orders[orders.len() / 2].acknowledged;
    check(&shop.rows_at(Some(at)), &orders, at);
    // Nothing of the log that is left is damaged, or missing where a point needs it.
    shop.place.succeeds(&["verify", "--data"]);
}
