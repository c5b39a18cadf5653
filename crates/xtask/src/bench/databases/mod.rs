//! `cargo xtask bench databases`: backups, logs and restores of database servers, beside what else is used for them.
//!
//! One file for each engine, each of which makes its servers, lets the contenders take turns, and compares what was restored
//! with its source: a figure stands only for work that was done. Servers run as their own users, so that the scratch directory must
//! be one that everybody may enter.

mod cluster;
mod document;
mod dump;
mod followed;
mod home;
mod pgbackrest;
mod postgres;
mod redis;
mod sqlite;
mod statistics;
mod wal;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{self, Tool};
use super::warm::Ballast;
use super::{corpus, machine, measure, report};
use crate::packages::{self, Package, on_path};
use crate::paths;
use crate::process::{Result, output};
use cluster::Cluster;
use document::Section;
use home::Bench;

/// Arguments of `cargo xtask bench databases`.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "postgres,dump,wal,followed,sqlite,redis")]
    only: Vec<What>,
    /// How often each figure is taken; the medians are reported
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Size of the databases; at 1 PostgreSQL has 2 GB, and 0.05 is enough to see that everything works
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Keep scratch space here, where every user may enter; 25 GB at scale 1, all of it for the run only
    #[arg(long, default_value = "/var/tmp/lifeboat-bench")]
    dir: PathBuf,
    /// Write the report here; by default a run of everything at scale 1 writes docs/benchmarks/databases.md
    #[arg(long)]
    output: Option<PathBuf>,
    /// Measure this binary instead of building one
    #[arg(long)]
    lifeboat: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// A cluster of 2 GB, beside pgBackRest
    Postgres,
    /// The same cluster, beside pg_dump and psql
    Dump,
    /// The log of a server, pushed and fetched, beside pgBackRest
    Wal,
    /// A server whose log is followed while it is written
    Followed,
    /// A database that is shipped while it is written to
    Sqlite,
    /// A server with 1 GB, beside BGSAVE and gzip
    Redis,
}

const PACKAGES: &[Package] = &[
    measure::PACKAGE,
    cluster::PACKAGE,
    pgbackrest::PACKAGE,
    redis::PACKAGE,
    Package { name: "sqlite3", present: || on_path("sqlite3") },
];

/// Measures, prints the report, and writes it down where it is a whole one.
pub fn run(args: &Args) -> Result<()> {
    packages::ensure(PACKAGES)?;
    if !(args.scale > 0.0 && args.scale <= 10.0) {
        return Err("--scale is a number above 0, at most 10".into());
    }
    let lifeboat = match &args.lifeboat {
        Some(program) => std::path::absolute(program)?,
        None => tools::install(Tool::Lifeboat)?.program().to_owned(),
    };
    let directory = std::path::absolute(&args.dir)?;
    fs::create_dir_all(&directory)
        .map_err(|error| format!("failed to make {}: {error}", directory.display()))?;
    // A name of its own, so that two runs do not meet.
    let scratch = output(
        Command::new("mktemp").arg("--directory").arg(format!("--tmpdir={}", home::text(&directory)?)),
    )?;
    let scratch = PathBuf::from(scratch);
    let measured = measure_all(args, &directory, &scratch, &lifeboat);
    corpus::remove(&scratch)?;
    corpus::remove(&directory.join("ballast"))?;
    let text = measured?;
    println!("\n{text}");
    let is_whole = args.scale == 1.0 && args.only.len() == 6;
    let document = paths::workspace().join("docs/benchmarks/databases.md");
    match args.output.as_ref().or(is_whole.then_some(&document)) {
        Some(path) => report::save(path, &text),
        None => {
            println!("not written down: this was not a run of everything at scale 1");
            Ok(())
        }
    }
}

/// Measures what was asked for and gives the report.
fn measure_all(args: &Args, directory: &Path, scratch: &Path, lifeboat: &Path) -> Result<String> {
    open_to_all(scratch)?;
    // Servers call it as their own user, who may not be able to enter the clone.
    let own = scratch.join("lifeboat");
    fs::copy(lifeboat, &own).map_err(|error| format!("failed to copy {}: {error}", lifeboat.display()))?;
    let load = machine::load()?;
    let bench = Bench {
        lifeboat: own,
        scratch: scratch.to_owned(),
        ballast: (args.scale >= 1.0).then(|| Ballast::make(directory)).transpose()?,
        runs: args.runs,
        scale: args.scale,
    };
    let sections = sections(args, &bench)?;
    Ok(document::write(&document::Input {
        sections: &sections,
        machine: &machine::describe(directory)?,
        versions: &versions(&bench.lifeboat)?,
        date: &machine::date()?,
        load,
        runs: args.runs,
        scale: args.scale,
    }))
}

fn sections(args: &Args, bench: &Bench) -> Result<Vec<Section>> {
    let is_wanted = |what| args.only.contains(&what);
    let mut sections = Vec::new();
    if is_wanted(What::Postgres) || is_wanted(What::Dump) {
        let home = bench.home("cluster", Some(cluster::USER))?;
        let cluster = postgres::make_cluster(&home, bench)?;
        let measured = measure_cluster(args, bench, &cluster, &mut sections);
        drop(cluster);
        corpus::remove(&home.path)?;
        measured?;
    }
    if is_wanted(What::Wal) {
        sections.push(wal::measure(bench)?);
    }
    if is_wanted(What::Followed) {
        sections.push(followed::measure(bench)?);
    }
    if is_wanted(What::Sqlite) {
        sections.push(sqlite::measure(bench)?);
    }
    if is_wanted(What::Redis) {
        sections.push(redis::measure(bench)?);
    }
    Ok(sections)
}

fn measure_cluster(args: &Args, bench: &Bench, cluster: &Cluster, sections: &mut Vec<Section>) -> Result<()> {
    if args.only.contains(&What::Postgres) {
        sections.push(postgres::measure(bench, cluster)?);
    }
    if args.only.contains(&What::Dump) {
        sections.push(dump::measure(bench, cluster)?);
    }
    Ok(())
}

fn versions(lifeboat: &Path) -> Result<Vec<(&'static str, String)>> {
    let postgres = packages::postgres_programs().ok_or("no programs of a PostgreSQL server are installed")?;
    let programs: [(&str, PathBuf); 5] = [
        ("lifeboat", lifeboat.to_owned()),
        ("PostgreSQL", postgres.join("postgres")),
        ("pgBackRest", "pgbackrest".into()),
        ("SQLite's shell", "sqlite3".into()),
        ("Redis", "redis-server".into()),
    ];
    let ask = |(name, program): &(&'static str, PathBuf)| {
        let argument = if *name == "pgBackRest" { "version" } else { "--version" };
        let version = output(Command::new(program).arg(argument))?;
        Ok((*name, version.lines().next().unwrap_or_default().to_owned()))
    };
    programs.iter().map(ask).collect()
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("failed to open {} to all: {error}", path.display()).into())
}
