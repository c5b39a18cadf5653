//! `cargo xtask bench repository`: every tool in turn on every corpus, and the report of it.
//!
//! A turn is one tool's first backup, second backup without a change, restore into an empty directory and
//! check of all data, in a fresh repository. Turns of the tools alternate, so that a machine that drifts
//! drifts for all. Before each command the disks are synced, memory is filled and what the command will read is
//! read (warm cache); what was restored is compared with the corpus outside the measured time: a figure
//! stands only for work that was done.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::corpus::{self, Corpus, Kind};
use super::measure::{self, Invocation, Sample};
use super::tools::{self, Installed, Places, Tool};
use super::warm::Ballast;
use super::{machine, report, tree};
use crate::process::Result;
use crate::{packages, paths};

/// Arguments of `cargo xtask bench repository`.
#[derive(clap::Args)]
pub struct Args {
    /// Peers to measure beside Lifeboat
    #[arg(long, value_delimiter = ',', default_value = "restic")]
    vs: Vec<Tool>,
    /// Corpora to measure on
    #[arg(long, value_delimiter = ',', default_value = "files,postgres,random")]
    only: Vec<Kind>,
    /// Turns of each tool on each corpus; the medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Size of the corpora; at 1 the small files are 100 000
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Keep corpora and scratch space here instead of in the user's cache; 15 GB at scale 1
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the report here; by default a run of all corpora at scale 1 writes docs/benchmarks/repository.md
    #[arg(long)]
    output: Option<PathBuf>,
    /// Measure the peers alone
    #[arg(long)]
    without_lifeboat: bool,
}

/// What is measured, in the order in which it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Backup,
    Unchanged,
    Restore,
    Check,
}

impl Operation {
    /// All four, in their order.
    pub const ALL: [Operation; 4] =
        [Operation::Backup, Operation::Unchanged, Operation::Restore, Operation::Check];

    /// The words for it in the report.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Backup => "first backup",
            Operation::Unchanged => "no change",
            Operation::Restore => "restore",
            Operation::Check => "check all data",
        }
    }
}

/// One turn of one tool on one corpus.
pub struct Turn {
    pub tool: Tool,
    /// In the order of [`Operation::ALL`].
    pub samples: [Sample; 4],
    /// Size of the repository after the first backup.
    pub repository_bytes: u64,
}

/// All turns on one corpus.
pub struct Measured {
    pub corpus: Corpus,
    pub turns: Vec<Turn>,
}

/// Measures, prints the report, and writes it down where it is a whole one.
pub fn run(args: &Args) -> Result<()> {
    packages::ensure(&[measure::PACKAGE])?;
    if !(args.scale > 0.0 && args.scale <= 100.0) {
        return Err("--scale is a number above 0, at most 100".into());
    }
    let lifeboat = (!args.without_lifeboat).then_some(Tool::Lifeboat);
    let mut wanted: Vec<Tool> = Vec::new();
    for tool in lifeboat.into_iter().chain(args.vs.iter().copied()) {
        if !wanted.contains(&tool) {
            wanted.push(tool);
        }
    }
    let tools = wanted.into_iter().map(tools::install).collect::<Result<Vec<Installed>>>()?;
    let directory = match &args.dir {
        Some(directory) => std::path::absolute(directory)?,
        None => paths::cache()?.join("bench"),
    };
    let corpora = args.only.iter().map(|&kind| corpus::ensure(kind, args.scale, &directory.join("corpora")));
    let corpora = corpora.collect::<Result<Vec<Corpus>>>()?;
    let load = machine::load()?;
    let scratch = directory.join("scratch");
    let ballast = Ballast::make(&directory)?;
    let bench = Bench { tools: &tools, runs: args.runs, scratch: &scratch, ballast: &ballast };
    let measured = corpora.into_iter().map(|corpus| bench.corpus(corpus));
    let measured = measured.collect::<Result<Vec<Measured>>>()?;
    let versions = tools.iter().map(|tool| Ok((tool.tool, tool.version()?))).collect::<Result<Vec<_>>>()?;
    let text = report::write(&report::Input {
        measured: &measured,
        versions: &versions,
        machine: &machine::describe(&directory)?,
        date: &machine::date()?,
        load,
        runs: args.runs,
        scale: args.scale,
    });
    println!("\n{text}");
    let is_whole = args.scale == 1.0 && args.only.len() == 3 && !args.without_lifeboat;
    let document = paths::workspace().join("docs/benchmarks/repository.md");
    match args.output.as_ref().or(is_whole.then_some(&document)) {
        Some(path) => report::save(path, &text),
        None => {
            println!("not written down: this was not a run of all corpora at scale 1");
            Ok(())
        }
    }
}

/// Who is measured, how often and where.
struct Bench<'a> {
    tools: &'a [Installed],
    runs: u32,
    scratch: &'a Path,
    ballast: &'a Ballast,
}

impl Bench<'_> {
    fn corpus(&self, corpus: Corpus) -> Result<Measured> {
        let mut turns = Vec::new();
        if self.scratch.exists() {
            corpus::remove(self.scratch)?;
            rest();
        }
        for number in 0..self.runs as usize {
            // Each tool goes first in turn: going first is an advantage or a disadvantage on some disks.
            for place in 0..self.tools.len() {
                let installed = &self.tools[(place + number) % self.tools.len()];
                let (tool, kind) = (installed.tool.name(), corpus.kind.name());
                println!("{kind}, run {} of {}: {tool}", number + 1, self.runs);
                // What a turn wrote stays until all are done: ext4 avoids the numbers of files deleted a moment
                // ago, and searching for others costs whoever comes next more than his own work.
                let own = self.scratch.join(turns.len().to_string());
                let turn = self
                    .turn(&corpus, installed, &own)
                    .map_err(|error| format!("{tool} on {kind}: {error}"))?;
                turns.push(turn);
            }
        }
        corpus::remove(self.scratch)?;
        rest();
        Ok(Measured { corpus, turns })
    }

    fn turn(&self, corpus: &Corpus, installed: &Installed, scratch: &Path) -> Result<Turn> {
        let places = Places {
            repository: scratch.join("repository"),
            cache: scratch.join("cache"),
            target: scratch.join("target"),
        };
        for directory in [&places.cache, &places.target] {
            fs::create_dir_all(directory)
                .map_err(|error| format!("failed to make {}: {error}", directory.display()))?;
        }
        corpus.manifest.expect_same(&tree::read(&corpus.path)?)?;
        measure::measure(&installed.init(&places), scratch)?;

        let sample = |operation, invocation: &Invocation, reads: &Path| -> Result<Sample> {
            rustix::fs::sync();
            self.ballast.fill(reads)?;
            let sample = measure::measure(invocation, scratch)?;
            tell(operation, &sample);
            Ok(sample)
        };
        let first = sample(Operation::Backup, &installed.backup(&places, &corpus.path, 1), &corpus.path)?;
        let repository_bytes = size(&places.repository)?;
        let second = sample(Operation::Unchanged, &installed.backup(&places, &corpus.path, 2), &corpus.path)?;
        let restore = sample(Operation::Restore, &installed.restore(&places), &places.repository)?;
        let restored = restored_root(&places.target, &corpus.path);
        corpus
            .manifest
            .expect_same(&tree::read(&restored)?)
            .map_err(|error| format!("what was restored is wrong: {error}"))?;
        let check = sample(Operation::Check, &installed.check(&places), &places.repository)?;
        Ok(Turn { tool: installed.tool, samples: [first, second, restore, check], repository_bytes })
    }
}

/// Waits until ext4 no longer avoids the numbers of files that were deleted: it looks back 35 s.
fn rest() {
    rustix::fs::sync();
    std::thread::sleep(Duration::from_secs(40));
}

fn tell(operation: Operation, sample: &Sample) {
    let Sample { wall_s, cpu_s, memory_bytes } = sample;
    println!(
        "  {:14} {wall_s:8.2} s  {cpu_s:8.2} s of processors  {:5} MB",
        operation.name(),
        memory_bytes / 1_000_000
    );
}

/// Tools restore an absolute path below the target either with all of its parents or without them.
fn restored_root(target: &Path, corpus: &Path) -> PathBuf {
    let with_parents = target.join(corpus.strip_prefix("/").expect("the corpus has an absolute path"));
    let with_name = target.join(corpus.file_name().expect("the corpus has a name"));
    [with_parents, with_name].into_iter().find(|path| path.is_dir()).unwrap_or_else(|| target.to_owned())
}

/// Bytes of all files below the directory.
fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in
        directory.read_dir().map_err(|error| format!("failed to read {}: {error}", directory.display()))?
    {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
