//! `cargo xtask bench recovery`: what a plan costs over the bare bytes, beside what is done by hand on the same data.
//!
//! Three estates, each with a plan of its own: `shop` (a large database, a tree of configuration, services that need each
//! other), `unchanged` (databases and many files that nobody has written to) and `million` (a machine full of small files).
//! What is done by hand is what runbooks say: `sqlite3 .backup`, `tar | gzip`, `cp`, and back. It is done once;
//! Lifeboat's figures are medians. Before each command the disks are synced and memory is filled (see `warm`).
//!
//! Files of an estate are not deleted before its last measurement: see `rest` in `super::repository`.

mod document;
mod made;
mod million;
mod shop;
mod unchanged;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::measure::{self, Invocation, Sample};
use super::tools::{self, Tool};
use super::warm::Ballast;
use super::{corpus, machine, report};
use crate::packages::{self, Package, on_path};
use crate::paths;
use crate::process::Result;
use document::Section;

/// Arguments of `cargo xtask bench recovery`.
#[derive(clap::Args)]
pub struct Args {
    /// Estates to measure on
    #[arg(long, value_delimiter = ',', default_value = "shop,unchanged,million")]
    only: Vec<Estate>,
    /// How often each of Lifeboat's figures is taken; the medians are reported
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Size of the estates; at 1 the shop has 5 GB, and 0.01 is enough to see that everything works
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Keep corpora and scratch space here instead of in the user's cache; 35 GB at scale 1, most of it for the run only
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the report here; by default a run of all estates at scale 1 writes docs/benchmarks/recovery.md
    #[arg(long)]
    output: Option<PathBuf>,
    /// Measure this binary instead of building one
    #[arg(long)]
    lifeboat: Option<PathBuf>,
}

/// What is measured on.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Estate {
    /// A database of 2 GB, a tree of 3 GB, three services
    Shop,
    /// 10 databases of 100 MB and 100 000 files, in which nothing changes
    Unchanged,
    /// A small plan on a machine with 1 000 000 files
    Million,
}

/// Measures, prints the report, and writes it down where it is a whole one.
pub fn run(args: &Args) -> Result<()> {
    packages::ensure(&[measure::PACKAGE, Package { name: "sqlite3", present: || on_path("sqlite3") }])?;
    if !(args.scale > 0.0 && args.scale <= 10.0) {
        return Err("--scale is a number above 0, at most 10".into());
    }
    let lifeboat = match &args.lifeboat {
        Some(program) => std::path::absolute(program)?,
        None => tools::install(Tool::Lifeboat)?.program().to_owned(),
    };
    let directory = match &args.dir {
        Some(directory) => std::path::absolute(directory)?,
        None => paths::cache()?.join("bench"),
    };
    let scratch = directory.join("recovery");
    corpus::remove(&scratch)?;
    fs::create_dir_all(&scratch).map_err(|error| format!("failed to make {}: {error}", scratch.display()))?;
    let load = machine::load()?;
    let bench = Bench {
        lifeboat,
        corpora: directory.join("corpora"),
        ballast: (args.scale >= 1.0).then(|| Ballast::make(&directory)).transpose()?,
        scratch: scratch.clone(),
        runs: args.runs,
        scale: args.scale,
    };
    let measured = args.only.iter().map(|estate| {
        let (name, measured) = match estate {
            Estate::Shop => ("shop", shop::measure(&bench)),
            Estate::Unchanged => ("unchanged", unchanged::measure(&bench)),
            Estate::Million => ("million", million::measure(&bench)),
        };
        println!("removing what {name} was made of");
        corpus::remove(&scratch.join(name))?;
        measured
    });
    let measured = measured.collect::<Result<Vec<Section>>>();
    let text = document::write(&document::Input {
        sections: &measured?,
        machine: &machine::describe(&directory)?,
        date: &machine::date()?,
        version: &bench.version()?,
        load,
        runs: args.runs,
        scale: args.scale,
    });
    corpus::remove(&scratch)?;
    println!("\n{text}");
    let is_whole = args.scale == 1.0 && args.only.len() == 3;
    let document = paths::workspace().join("docs/benchmarks/recovery.md");
    match args.output.as_ref().or(is_whole.then_some(&document)) {
        Some(path) => report::save(path, &text),
        None => {
            println!("not written down: this was not a run of all estates at scale 1");
            Ok(())
        }
    }
}

/// What is measured with, and where.
struct Bench {
    lifeboat: PathBuf,
    corpora: PathBuf,
    scratch: PathBuf,
    /// Fills memory; a small run goes without, because that takes longer than what it measures.
    ballast: Option<Ballast>,
    runs: u32,
    scale: f64,
}

/// A directory with a plan, its repository and its state.
struct Home<'a> {
    bench: &'a Bench,
    path: PathBuf,
}

impl Bench {
    /// Makes a directory for an estate, with this plan and an empty repository.
    fn home(&self, name: &str, plan: &str) -> Result<Home<'_>> {
        let path = self.scratch.join(name);
        let write = |file: &str, text: &str| fs::write(path.join(file), text);
        fs::create_dir_all(&path)
            .and_then(|()| write("lifeboat.yaml", plan))
            .and_then(|()| write("password", "benchmark"))
            .map_err(|error| format!("failed to make {}: {error}", path.display()))?;
        let home = Home { bench: self, path };
        let options = ["repository", "init", "--repository", "repository", "--password-file", "password"];
        self.untimed(&home.lifeboat(&options))?;
        Ok(home)
    }

    /// Runs a command once everything is written back and memory is full, `reads` being what it will read.
    fn time(&self, what: &str, invocation: &Invocation, reads: &Path) -> Result<Sample> {
        rustix::fs::sync();
        if let Some(ballast) = &self.ballast {
            ballast.fill(reads)?;
        }
        let sample = measure::measure(invocation, &self.scratch)?;
        println!("  {what:34} {:8.2} s  {:8.2} s of processors", sample.wall_s, sample.cpu_s);
        Ok(sample)
    }

    /// Runs a command and hands back what it wrote.
    fn untimed(&self, invocation: &Invocation) -> Result<String> {
        measure::measure(invocation, &self.scratch)?;
        self.written()
    }

    /// What the last command wrote.
    fn written(&self) -> Result<String> {
        Ok(fs::read_to_string(self.scratch.join(measure::LOG))?)
    }

    fn version(&self) -> Result<String> {
        let words = vec![OsString::from(&self.lifeboat), "--version".into()];
        let version = self.untimed(&Invocation { words, directory: "/".into(), ..Invocation::default() })?;
        Ok(version.trim_end().to_owned())
    }
}

impl Home<'_> {
    /// Lifeboat with the plan of this home.
    fn lifeboat(&self, arguments: &[&str]) -> Invocation {
        let mut words = vec![OsString::from(&self.bench.lifeboat)];
        words.extend(arguments.iter().map(OsString::from));
        let variables = vec![
            ("LIFEBOAT_PLAN", self.path.join("lifeboat.yaml").into()),
            ("LIFEBOAT_STATE", self.path.join("state").into()),
            ("XDG_CACHE_HOME", self.path.join("cache").into()),
        ];
        Invocation { words, variables, directory: self.path.clone() }
    }

    /// A line of shell in this home, as a runbook has it.
    fn by_hand(&self, line: &str) -> Invocation {
        // A pipe fails with any of its parts; dash cannot do that.
        let words = ["bash", "-o", "pipefail", "-ec", line].map(OsString::from).to_vec();
        Invocation { words, directory: self.path.clone(), ..Invocation::default() }
    }

    /// Measures Lifeboat's command so often as is asked for, with something to be done before each.
    fn times(
        &self,
        what: &str,
        arguments: &[&str],
        reads: &Path,
        before: impl Fn() -> Result<()>,
    ) -> Result<Vec<f64>> {
        let one = |_| {
            before()?;
            self.bench.time(what, &self.lifeboat(arguments), reads).map(|sample| sample.wall_s)
        };
        (0..self.bench.runs).map(one).collect()
    }
}
