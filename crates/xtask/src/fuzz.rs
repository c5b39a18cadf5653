//! `cargo xtask fuzz`: builds the fuzz targets of `fuzz/` instrumented, and runs each for a bounded time.
//!
//! libFuzzer finds its way by the coverage that LLVM counts, which a stable compiler can do too; only the sanitizers
//! need another, and there is no unsafe code here that they could watch. What it finds on the way stays in
//! `target/fuzz/corpus`; the seeds in `fuzz/corpus` are only read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::paths;
use crate::process::{Result, output, run as run_shown};

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these targets, by their names in fuzz/fuzz_targets
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// The seed of an earlier run
    #[arg(long)]
    seed: Option<u32>,
}

/// How long each target runs as one check of many.
const CHECK_SECONDS: u32 = 5;
/// An input that takes longer is a finding.
const INPUT_SECONDS_MAX: u32 = 20;
/// Memory of a target; more is a finding. Blobs may rightly claim 64 MiB, several times over.
const MEMORY_MIB_MAX: u32 = 1024;
/// Longest input that is drawn.
const INPUT_BYTES_MAX: u32 = 16 << 10;

/// What cargo-fuzz passes to the compiler, without what needs its nightly version.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// The seed of the check: the same every time, so that its answer is about the commit. `cargo xtask fuzz` draws others.
const CHECK_SEED: u32 = 1;

/// Runs every target for a few seconds.
pub fn briefly() -> Result<()> {
    run(&Args { targets: Vec::new(), seconds: CHECK_SECONDS, seed: Some(CHECK_SEED) })
}

/// Runs the targets, as many at once as there are cores; an error names those that failed.
pub fn run(args: &Args) -> Result<()> {
    let targets = choose(all_targets()?, &args.targets)?;
    let binaries = build()?;
    let seed = args.seed.unwrap_or_else(draw_seed);
    println!("{} targets for {} s each, seed {seed}", targets.len(), args.seconds);
    let waiting = Mutex::new(targets.iter());
    let failed = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let Some(target) = waiting.lock().expect("no holder panics").next() else { return };
                    match run_target(&binaries, target, args.seconds, seed) {
                        Ok(runs) => println!("fuzz {target}: {runs} runs"),
                        Err(error) => {
                            eprintln!("fuzz {target}: {error}");
                            failed.lock().expect("no holder panics").push(target.as_str());
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no holder panics");
    if failed.is_empty() { Ok(()) } else { Err(format!("fuzzing failed: {}", failed.join(", ")).into()) }
}

/// Every file in `fuzz/fuzz_targets`, so that none is forgotten.
fn all_targets() -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(paths::workspace().join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    targets.sort_unstable();
    if targets.is_empty() { Err("there is no fuzz target".into()) } else { Ok(targets) }
}

fn choose(all: Vec<String>, wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        return Err(format!("there is no fuzz target {unknown}; there are: {}", all.join(", ")).into());
    }
    Ok(if wanted.is_empty() { all } else { wanted.to_vec() })
}

/// Builds all targets and tells the directory they are in.
fn build() -> Result<PathBuf> {
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let directory = paths::workspace().join("target/fuzz");
    let mut command = Command::new("cargo");
    // Named even though it is this machine's: else build scripts would be instrumented too, and not link.
    command.args(["build", "--release", "--bins", "--target", &host, "--manifest-path"]);
    command.arg(paths::workspace().join("fuzz/Cargo.toml"));
    command.env("CARGO_TARGET_DIR", &directory).env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    run_shown(&mut command)?;
    Ok(directory.join(host).join("release"))
}

/// Runs one target and tells how many inputs it tried.
fn run_target(binaries: &Path, target: &str, seconds: u32, seed: u32) -> Result<u64> {
    let work = paths::workspace().join("target/fuzz");
    let (found, artifacts) = (work.join("corpus").join(target), work.join("artifacts").join(target));
    std::fs::create_dir_all(&found)?;
    std::fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(binaries.join(target));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .arg(found)
        .arg(paths::workspace().join("fuzz/corpus").join(target));
    let output = command.output().map_err(|error| crate::process::not_started(&command, &error))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(explain(&told, target).into());
    }
    match runs(&told) {
        Some(runs) if runs > 0 => Ok(runs),
        _ => Err(format!("it ran nothing:\n{told}").into()),
    }
}

/// The figure in the statistics that libFuzzer prints at its end.
fn runs(told: &str) -> Option<u64> {
    told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

/// What went wrong, where the input is, and how to see it again.
fn explain(told: &str, target: &str) -> String {
    const WRITTEN: &str = "Test unit written to ";
    let input = told.lines().find_map(|line| Some(line.split_once(WRITTEN)?.1));
    match input {
        Some(input) => format!(
            "{told}\nthe input is {input}; to run it again: target/fuzz/*/release/{target} {input}\n\
             once it is understood, keep it in fuzz/corpus/{target}"
        ),
        None => told.to_owned(),
    }
}

fn draw_seed() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // 0 asks libFuzzer to draw one itself, without telling it beforehand.
    now.subsec_nanos().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_binary_and_has_seeds() {
        let fuzz = paths::workspace().join("fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let targets = all_targets().unwrap();
        assert!(targets.iter().any(|target| target == "tree"), "{targets:?}");
        for target in targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            assert!(fuzz.join("corpus").join(&target).read_dir().unwrap().next().is_some(), "{target}");
        }
    }

    #[test]
    fn only_targets_that_exist_are_chosen() {
        let all = || vec!["name".to_owned(), "tree".to_owned()];
        assert_eq!(choose(all(), &[]).unwrap(), all());
        assert_eq!(choose(all(), &["tree".to_owned()]).unwrap(), ["tree"]);
        assert!(choose(all(), &["three".to_owned()]).is_err());
    }

    #[test]
    fn reads_what_libfuzzer_tells() {
        let told = "Done 12 runs in 2 second(s)\nstat::number_of_executed_units: 12\n";
        assert_eq!(runs(told), Some(12));
        assert_eq!(runs("nothing"), None);
        let told = "==1== ERROR\nartifact_prefix='/a/'; Test unit written to /a/crash-1\n";
        assert!(explain(told, "tree").contains("the input is /a/crash-1;"));
    }
}
