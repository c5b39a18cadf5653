//! Restores along a server's log: killed at every event of their journals, and to instants that nobody chose, under load.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::postgres::{Write, ask_beside};
use crate::wal::Shop;

/// How far what is archived tells instants apart.
const ARCHIVE_COUNTS: Duration = Duration::from_millis(1);

/// A lost server, the instant to which it is brought back, and a copy of what is left of it.
struct Lost {
    shop: Shop,
    at: String,
    kept: PathBuf,
}

impl Lost {
    fn new() -> Self {
        let shop = Shop::new();
        let plan = fs::read_to_string(shop.plan()).unwrap();
        let plan = plan + "scenarios:\n  lost:\n    steps:\n      - restore: orders\n";
        fs::write(shop.plan(), plan).unwrap();
        shop.insert(1);
        shop.succeeds(&["backup"]);
        let at = shop.insert(2);
        std::thread::sleep(Duration::from_millis(20));
        shop.insert(3);
        shop.switch();
        shop.cluster.stop("fast");
        let kept = shop.cluster.home.path().join("kept");
        copy(&shop.cluster.data(), &kept);
        Self { shop, at: at.to_string(), kept }
    }

    fn restore(&self) -> [&str; 5] {
        ["restore", "orders", "--yes", "--at", &self.at]
    }

    /// Puts what was there before back.
    fn reset(&self) {
        for path in self.beside("data") {
            fs::remove_dir_all(path).unwrap();
        }
        copy(&self.kept, &self.shop.cluster.data());
    }

    /// What lies where the server's data does, under its name or one that begins so.
    fn beside(&self, begin: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.shop.cluster.home.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(begin)).collect()
    }

    /// Restores, and is killed when the journal has `events` events; the run, unless it came through before.
    fn killed_at(&self, events: usize) -> Option<String> {
        let runs = self.shop.directory.join("state/runs");
        let known: BTreeSet<String> = names(&runs);
        let mut command = self.shop.command(&self.restore());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            let new = names(&runs).difference(&known).next().cloned();
            if new.is_some_and(|run| self.events(&run).len() >= events) {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        let run = names(&runs).difference(&known).next().cloned().expect("it has begun");
        (status.code() != Some(0)).then_some(run)
    }

    /// The events of a run so far: the lines of its journal.
    fn events(&self, run: &str) -> Vec<String> {
        let journal = self.shop.directory.join("state/runs").join(run).join("journal");
        let text = fs::read_to_string(journal).unwrap_or_default();
        text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::to_owned).collect()
    }

    fn rows(&self) -> String {
        ask_beside(&self.shop.cluster.data(), "select string_agg(n::text, ',' order by n) from orders")
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Every file below a directory, with its size and the time of its last change.
fn listing(directory: &Path) -> BTreeSet<(PathBuf, u64, i64, i64)> {
    let (mut open, mut files) = (vec![directory.to_owned()], BTreeSet::new());
    while let Some(path) = open.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        if found.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let name = path.strip_prefix(directory).unwrap().to_owned();
            files.insert((name, found.len(), found.mtime(), found.mtime_nsec()));
        }
    }
    files
}

#[test]
fn a_restore_that_is_killed_at_any_event_is_repeated_or_goes_on() {
    let lost = Lost::new();
    let before = listing(&lost.kept);
    lost.shop.succeeds(&lost.restore());
    assert_eq!(lost.rows(), "1,2");
    let runs = names(&lost.shop.directory.join("state/runs"));
    let all = lost.events(runs.iter().rev().find(|run| run.contains("restore")).unwrap());
    assert!(all.iter().any(|event| event.contains("swap")) && all.len() >= 10, "{all:#?}");
    let mut killed = 0;
    for events in 1..all.len() {
        lost.reset();
        let old = fs::metadata(lost.shop.cluster.data()).unwrap().ino();
        let Some(run) = lost.killed_at(events) else { continue };
        killed += 1;
        let what =
            format!("killed at event {events} of {}: {}", all.len(), lost.events(&run).last().unwrap());
        let keeps_the_old = || {
            let places = lost.beside("data").into_iter();
            let mut old = places.filter(|path| fs::metadata(path).unwrap().ino() == old);
            let place = old.next().unwrap_or_else(|| panic!("{what}: the old data is gone"));
            assert!(listing(&place) == before, "{what}: the old data in {} was touched", place.display());
        };
        keeps_the_old();
        // With its head alone a journal holds no run that could go on.
        if events % 2 == 0 || events == 1 {
            lost.shop.succeeds(&lost.restore());
        } else {
            let (code, said) = lost.shop.run(&["recover", "lost", "--resume", &run]);
            assert_eq!(code, 0, "{what}: {said}");
            let left = lost.beside("data.lifeboat-");
            assert!(left.is_empty(), "{what}: {left:?} is left");
        }
        keeps_the_old();
        assert_eq!(lost.rows(), "1,2", "{what}");
    }
    assert!(killed + 3 >= all.len(), "killed {killed} times at {} events", all.len());
}

/// Rows of several writers, by writer and number.
struct Written(Vec<Vec<Write>>);

impl Written {
    /// Holds what was restored to an instant to what was acknowledged: nothing older is missing, nothing later is there.
    fn agrees(&self, there: &str, at: Timestamp) {
        let there: BTreeSet<&str> = there.split(',').collect();
        let (mut before, mut after) = (0, 0);
        for (writes, writer) in self.0.iter().zip(1..) {
            for write in writes {
                let is_there = there.contains(format!("{writer} {}", write.n).as_str());
                assert!(is_there || write.acknowledged > at, "{at}: {writer} {write:?} is missing");
                assert!(!is_there || write.begun <= at + ARCHIVE_COUNTS, "{at}: {writer} {write:?} is there");
                before += u32::from(write.acknowledged <= at);
                after += u32::from(write.begun > at);
            }
        }
        assert!(before > 0 && after > 0, "{at}: {before} before, {after} after");
    }
}

#[test]
fn random_older_instants_of_a_log_are_verified_and_are_what_was_acknowledged_by_then() {
    const ROWS: &str = "select string_agg(writer || ' ' || n, ',') from orders";
    let shop = Shop::new();
    let stop = AtomicBool::new(false);
    let mut first = Timestamp::now();
    let written = std::thread::scope(|scope| {
        let write = |writer: u32| {
            let (stop, cluster) = (&stop, &shop.cluster);
            scope.spawn(move || cluster.write(writer, stop))
        };
        let writers: Vec<_> = (1..=3).map(write).collect();
        std::thread::sleep(Duration::from_millis(500));
        // Two points, so that an older instant may be behind either.
        shop.succeeds(&["backup"]);
        first = Timestamp::now();
        std::thread::sleep(Duration::from_millis(1500));
        shop.succeeds(&["backup"]);
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::SeqCst);
        Written(writers.into_iter().map(|writer| writer.join().unwrap()).collect())
    });
    shop.switch();
    let last = written.0.iter().flatten().map(|write| write.begun).max().unwrap();

    // The latest, and one that Lifeboat chooses: it is proven, and what it brings back is what was there.
    let said = shop.succeeds(&["verify", "--restore", "--json"]);
    let line =
        said.lines().find(|line| line.contains("\"kind\":\"chosen\"")).unwrap_or_else(|| panic!("{said}"));
    let chosen: serde_json::Value = serde_json::from_str(line).unwrap();
    let chosen = chosen["answer"].as_array().unwrap();
    assert_eq!(chosen.len(), 2, "{line}");
    let instant = |chosen: &serde_json::Value| -> Timestamp {
        let further = chosen["further"].as_str().or(chosen["instant"].as_str());
        further.unwrap().parse().unwrap()
    };
    let (latest, older) = (instant(&chosen[0]), instant(&chosen[1]));
    assert!(older < latest, "{line}");
    let all: usize = written.0.iter().map(Vec::len).sum();
    assert_eq!(shop.restored(None, "select count(*) from orders").unwrap(), all.to_string());
    written.agrees(&shop.restored(Some(older), ROWS).unwrap(), older);

    // And three that the test chooses, of all that was written since the first point.
    let seed = last.as_nanosecond().unsigned_abs() as u64;
    let mut random = seed;
    for _ in 0..3 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let span = u64::try_from(last.as_microsecond() - first.as_microsecond()).unwrap();
        let at = first + Duration::from_micros((random >> 20) % span);
        let there = shop.restored(Some(at), ROWS).unwrap_or_else(|why| panic!("seed {seed}, {at}: {why}"));
        written.agrees(&there, at);
    }
}
