//! The estate `shop`: the demo's, grown to 5 GB, lost and recovered, beside the bare restore of the same bytes.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::super::corpus::{self, Corpus, Kind};
use super::super::measure::Invocation;
use super::super::report::median;
use super::super::tree;
use super::document::{Row, Section, Target};
use super::{Bench, Home, made};
use crate::process::{Result, output};

/// Counts the changes of what is made here: raised with each, so that nobody measures an older corpus.
const GENERATION: u32 = 1;
/// At scale 1.
const DATABASE_BYTES: f64 = 2e9;
/// The restore, and a stage for each of the services, which need each other.
const STAGES: f64 = 4.0;
/// Where the database lies in the estate.
const DATABASE: &str = "data/orders.db";
const SERVICES: [&str; 3] = ["shop", "web", "edge"];

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    println!("shop");
    let made = make(bench)?;
    let home = bench.home("shop", &plan(bench)?)?;
    let live = Live::make(&home, &made)?;
    let repository = home.path.join("repository");
    let first = bench.time("first backup", &home.lifeboat(&["backup"]), &live.estate)?.wall_s;
    let hand_backup = hand_backup(&home, &live.estate)?;

    let mut taken = Taken::default();
    for number in 0..bench.runs {
        let target = home.path.join(format!("bare-{number}"));
        let bare = bench.time("repository restore", &bare_restore(&home, &target, ""), &repository)?;
        fs::remove_file(restored_path(&target, &live.estate.join(DATABASE)))?;
        live.lose(number)?;
        let recover = home.lifeboat(&["recover", "server-lost", "--yes"]);
        let recovery = bench.time("recover", &recover, &repository)?;
        live.expect_same(&made)?;
        let report = bench.untimed(&home.lifeboat(&["report", "latest", "--format", "json"]))?;
        taken.add(bare.wall_s, recovery.wall_s, &report)?;
    }
    let synced = bare_restore(&home, &home.path.join("synced"), "--sync");
    let synced = bench.time("repository restore --sync", &synced, &repository)?.wall_s;
    let drill = bench.time("drill", &home.lifeboat(&["drill", "server-lost"]), &repository)?.wall_s;
    live.lose(bench.runs)?;
    let hand_back = hand_back(&home)?;
    live.expect_same_content(&made)?;

    let targets = taken.targets();
    let mut rows = vec![
        Row::beside("first backup", vec![first], "`sqlite3 .backup`, `tar` and `gzip`", hand_backup),
        Row::of("bare `repository restore`, twice", taken.bare),
        Row::of("the same with `--sync`", vec![synced]),
        Row::beside("recovery", taken.recovery, "`cp`, `gunzip` and `tar`", hand_back),
    ];
    rows.extend(taken.steps.into_iter().map(|(name, times)| Row::of(format!("– {name}"), times)));
    rows.push(Row::of("drill of the same", vec![drill]));
    Ok(Section { title: "An estate of 5 GB is lost", about: made.about()?, rows, targets })
}

/// What the shop is made of: a database, and the files of the other benchmark.
struct Made {
    database: PathBuf,
    config: Corpus,
}

impl Made {
    fn database_bytes(&self) -> Result<u64> {
        Ok(fs::metadata(&self.database)?.len())
    }

    fn about(&self) -> Result<String> {
        let (database, files) = (self.database_bytes()?, &self.config.manifest);
        Ok(format!(
            "The demo's estate, grown to {:.2} GB: a SQLite database of {:.2} GB of orders, a tree of {} files, three services \
             that need each other. The recovery stops what runs, restores both components beside their places, proves \
             them (SQLite's integrity check, facts, every name, size, mode and time), swaps them in, starts the services \
             stage by stage, checks, and looks a second time 1 s after the last start; all of it is durable when it \
             ends. The bare restore is two commands, one for each snapshot, and the same bytes. By hand nothing is \
             proven, synced or started.",
            (database + files.bytes) as f64 / 1e9,
            database as f64 / 1e9,
            files.files,
        ))
    }
}

/// Finds what the shop is made of, or makes it.
fn make(bench: &Bench) -> Result<Made> {
    let config = corpus::ensure(Kind::Files, bench.scale, &bench.corpora)?;
    let name = format!("orders-{GENERATION}-{}.db", (bench.scale * 1e6).round());
    let database = bench.corpora.join(name);
    if !database.exists() {
        println!("making {}", database.display());
        let unfinished = database.with_extension("unfinished");
        corpus::remove(&unfinished)?;
        made::database(&unfinished, DATABASE_BYTES * bench.scale, 1)?;
        fs::rename(&unfinished, &database)?;
    }
    Ok(Made { database, config })
}

/// The estate that is lost and recovered; its services are stopped when it is dropped.
struct Live<'a> {
    home: &'a Home<'a>,
    estate: PathBuf,
}

impl<'a> Live<'a> {
    /// Copies what the estate is made of, and waits until the database counts as settled.
    fn make(home: &'a Home<'a>, made: &Made) -> Result<Self> {
        let live = Self { home, estate: home.path.join("shop") };
        fs::create_dir_all(live.estate.join("data"))?;
        for (from, to) in [(&made.database, DATABASE), (&made.config.path, "config")] {
            output(Command::new("cp").arg("-a").arg(from).arg(live.estate.join(to)))?;
        }
        rustix::fs::sync();
        std::thread::sleep(Duration::from_secs(3));
        Ok(live)
    }

    fn stop(&self) -> Result<()> {
        let stop = self.home.lifeboat(&["recover", "all-stopped", "--yes"]);
        self.home.bench.untimed(&stop).map(drop)
    }

    /// The disaster. The files of the configuration are only moved away: deleting many slows down who makes new ones.
    fn lose(&self, number: u32) -> Result<()> {
        self.stop()?;
        corpus::remove(&self.estate.join("data"))?;
        fs::rename(&self.estate, self.home.path.join(format!("lost-{number}")))?;
        // The place of what is restored must be there, as after the machine was set up anew.
        fs::create_dir_all(self.estate.join("data"))?;
        Ok(())
    }

    /// Compares what is there with what it was made from.
    fn expect_same(&self, made: &Made) -> Result<()> {
        made.config.manifest.expect_same(&tree::read(&self.estate.join("config"))?)?;
        output(Command::new("cmp").arg(&made.database).arg(self.estate.join(DATABASE))).map(drop)
    }

    /// The same for what came out of an archive, which keeps no fractions of seconds.
    fn expect_same_content(&self, made: &Made) -> Result<()> {
        let mut diff = Command::new("diff");
        diff.args(["--recursive", "--brief"]).arg(&made.config.path).arg(self.estate.join("config"));
        output(&mut diff).map(drop)
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("the services of {} may still run: {error}", self.estate.display());
        }
    }
}

/// Restores both snapshots with the plain commands of the repository.
fn bare_restore(home: &Home, target: &Path, option: &str) -> Invocation {
    let lifeboat = home.bench.lifeboat.display();
    let one = |component: &str| {
        format!(
            "'{lifeboat}' repository restore latest --tag component:{component} --target '{}' {option} \
             --repository repository --password-file password",
            target.display()
        )
    };
    let mut invocation = home.by_hand(&format!("{}; {}", one("orders"), one("config")));
    invocation.variables = home.lifeboat(&[]).variables;
    invocation
}

/// Where a path of the snapshot lies below the target.
fn restored_path(target: &Path, path: &Path) -> PathBuf {
    target.join(path.strip_prefix("/").expect("the estate has an absolute path"))
}

fn hand_backup(home: &Home, estate: &Path) -> Result<f64> {
    let line = "mkdir by-hand; sqlite3 shop/data/orders.db '.backup by-hand/orders.db'; \
        tar -C shop -cf - config | gzip > by-hand/config.tar.gz";
    Ok(home.bench.time("by hand: .backup, tar | gzip", &home.by_hand(line), estate)?.wall_s)
}

fn hand_back(home: &Home) -> Result<f64> {
    let line = "mkdir -p shop/data; cp by-hand/orders.db shop/data/orders.db; \
        gunzip < by-hand/config.tar.gz | tar -C shop -xf -";
    let by_hand = home.path.join("by-hand");
    Ok(home.bench.time("by hand: cp, gunzip | tar", &home.by_hand(line), &by_hand)?.wall_s)
}

/// What bare restores and recoveries took, run by run, in seconds.
#[derive(Default)]
struct Taken {
    bare: Vec<f64>,
    recovery: Vec<f64>,
    /// Restoring and proving alone.
    restore: Vec<f64>,
    /// The steps of the recoveries, in their order.
    steps: Vec<(String, Vec<f64>)>,
}

impl Taken {
    /// Takes a bare restore, a recovery, and what the recovery's report tells.
    fn add(&mut self, bare: f64, recovery: f64, report: &str) -> Result<()> {
        let report: Value = serde_json::from_str(report)?;
        let mut restore = None;
        for step in report["steps"].as_array().into_iter().flatten() {
            let (Some(name), Some(seconds)) = (step["name"].as_str(), step["took_seconds"].as_f64()) else {
                continue;
            };
            // The outermost comes first, and those of single components after it.
            if name.ends_with(" beside, proven") {
                restore.get_or_insert(seconds);
            }
            let is_part = ["fetch ", "prove "].iter().any(|verb| name.starts_with(verb));
            if step["depth"] == 0 || is_part {
                self.add_step(name, seconds);
            }
        }
        self.restore.push(restore.ok_or("the report of the recovery has no step that restores")?);
        self.bare.push(bare);
        self.recovery.push(recovery);
        Ok(())
    }

    fn add_step(&mut self, name: &str, seconds: f64) {
        match self.steps.iter_mut().find(|(known, _)| known == name) {
            Some((_, times)) => times.push(seconds),
            None => self.steps.push((name.to_owned(), vec![seconds])),
        }
    }

    fn targets(&self) -> Vec<Target> {
        let added =
            self.recovery.iter().zip(&self.restore).map(|(whole, restore)| (whole - restore) / STAGES);
        vec![
            Target {
                what: "recovery of the demo's estate grown to 5 GB, beside the bare restore of the same bytes",
                target: "≤ 1.3×".to_owned(),
                figure: median(self.recovery.clone()) / median(self.bare.clone()),
                limit: 1.3 + f64::EPSILON,
                unit: "×",
            },
            Target {
                what: "what a recovery adds to restoring and proving, for the restore and each of three boot stages",
                target: "< 1 s a stage".to_owned(),
                figure: median(added.collect()),
                limit: 1.0,
                unit: " s",
            },
        ]
    }
}

fn plan(bench: &Bench) -> Result<String> {
    let program = bench.lifeboat.display();
    let mut services = String::new();
    let mut last = 0;
    let listeners = SERVICES.map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    for (number, (name, listener)) in SERVICES.iter().zip(listeners).enumerate() {
        let port = listener?.local_addr()?.port();
        let needs = if number == 0 { "orders, config" } else { SERVICES[number - 1] };
        services += &format!(
            r#"  {name}:
    process:
      command: ["{program}", demo-service, --database, shop/data/orders.db, --config, shop/config, --port, "{port}"]
    needs: [{needs}]
    ready:
      http: http://127.0.0.1:{port}/health
      expect: {{ json: "status == 'ok'" }}
      within: 30s
"#
        );
        last = port;
    }
    Ok(format!(
        r#"lifeboat: 1
name: shop

repository:
  location: ./repository
  password: ${{file:password}}

components:
  orders:
    sqlite: shop/data/orders.db
    facts:
      orders: select count(*) from orders
      turnover: select sum(cents) from orders
  config:
    files: shop/config

services:
{services}
checks:
  orders-served:
    http: http://127.0.0.1:{last}/orders
    expect: {{ status: 200, json: "orders > `0`" }}
  nothing-served:
    port: {last}
    expect: {{ listening: false }}

scenarios:
  all-stopped:
    title: Nothing runs
    steps:
      - stop: [edge, web, shop]
      - check: nothing-served
  server-lost:
    title: The shop's disk is gone
    steps:
      - stop: [edge, web, shop]
      - restore: [orders, config]
      - boot: all
      - check: orders-served
"#
    ))
}

#[cfg(test)]
mod tests {
    use super::Taken;

    #[test]
    fn figures_come_from_the_clock_and_from_the_report() {
        let report = r#"{"steps": [
            {"name": "stop edge", "depth": 0, "phase": "boot", "took_seconds": 0.1},
            {"name": "restore orders, config", "depth": 0, "phase": "restore", "took_seconds": 9.6},
            {"name": "orders, config beside, proven", "depth": 1, "phase": "restore", "took_seconds": 9.5},
            {"name": "orders beside, proven", "depth": 2, "phase": "restore", "took_seconds": 9.0},
            {"name": "fetch orders", "depth": 3, "phase": "restore", "took_seconds": 8.0},
            {"name": "skipped", "depth": 0, "phase": "boot", "took_seconds": null}]}"#;
        let mut taken = Taken::default();
        taken.add(10.0, 12.5, report).expect("it is a report");
        let figures: Vec<String> =
            taken.targets().iter().map(|target| format!("{:.2}", target.figure)).collect();
        assert_eq!(figures, ["1.25", "0.75"]);
        let steps: Vec<&str> = taken.steps.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(steps, ["stop edge", "restore orders, config", "fetch orders"]);
        assert!(taken.add(1.0, 1.0, r#"{"steps": []}"#).is_err());
    }
}
