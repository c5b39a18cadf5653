//! `cargo xtask test` and `cargo xtask ci`: set up, check, test, and one closing line that sums it up.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::process::{Result, line, not_started};
use crate::{checks, setup};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Run only tests whose name contains one of these, and no checks
    filters: Vec<String>,
    /// Test only this crate, and run no checks
    #[arg(long, short)]
    package: Option<String>,
}

/// Runs what was asked for: everything, or only the tests that match.
pub fn run(args: &Args) -> Result<()> {
    if args.filters.is_empty() && args.package.is_none() {
        return everything();
    }
    setup::run()?;
    let started = Instant::now();
    let totals = cargo_test(args)?;
    println!("\n{} in {}", totals.line(), minutes(started.elapsed()));
    totals.verdict()
}

/// Sets up, then runs every check and every test; a failure does not hide the findings of the next stage.
pub fn everything() -> Result<()> {
    let started = Instant::now();
    setup::run()?;
    let mut failed = Vec::new();
    for (name, check) in checks::ALL {
        if let Err(error) = check() {
            eprintln!("error: {error}");
            failed.push(*name);
        }
    }
    let totals = cargo_test(&Args { filters: Vec::new(), package: None })?;
    let checked = if failed.is_empty() {
        format!("{} passed", checks::ALL.len())
    } else {
        format!("FAILED: {}", failed.join(", "))
    };
    println!("\nchecks: {checked}; {} in {}", totals.line(), minutes(started.elapsed()));
    totals.verdict()?;
    if failed.is_empty() { Ok(()) } else { Err(format!("checks failed: {}", failed.join(", ")).into()) }
}

/// What the `test result:` lines of all test binaries add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    binaries: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Whether cargo itself ended well: it also fails when something does not compile.
    cargo_succeeded: bool,
}

impl Totals {
    /// Adds the figures of a line such as `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(figures) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        self.binaries += 1;
        for figure in figures.1.split(';') {
            let Some((number, what)) = figure.trim().split_once(' ') else { continue };
            let number: u64 = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn line(&self) -> String {
        let Totals { binaries, passed, failed, ignored, .. } = self;
        let broken = if *failed == 0 && !self.cargo_succeeded { ", and cargo test failed" } else { "" };
        format!("tests: {passed} passed, {failed} failed, {ignored} ignored, of {binaries} binaries{broken}")
    }

    fn verdict(&self) -> Result<()> {
        if self.failed > 0 || !self.cargo_succeeded {
            return Err("tests failed".into());
        }
        if self.passed == 0 { Err("no test was run".into()) } else { Ok(()) }
    }
}

/// Runs cargo's own test runner, unit, integration and documentation tests alike, and shows its output.
fn cargo_test(args: &Args) -> Result<Totals> {
    let mut command = checks::cargo();
    command.args(["test", "--all-features", "--locked", "--no-fail-fast"]);
    match &args.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.arg("--").args(&args.filters);
    println!("$ {}", line(&command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(&command, &error))?;
    let mut totals = Totals::default();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        totals.add(&line);
    }
    totals.cargo_succeeded = child.wait()?.success();
    Ok(totals)
}

fn minutes(elapsed: Duration) -> String {
    format!("{} min {} s", elapsed.as_secs() / 60, elapsed.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up() {
        let mut totals = Totals::default();
        totals.add("running 3 tests");
        totals.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
        );
        totals.add("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s");
        assert_eq!(totals, Totals { binaries: 2, passed: 7, failed: 2, ignored: 1, cargo_succeeded: false });
    }

    #[test]
    fn nothing_run_and_a_failed_build_are_not_green() {
        assert!(Totals { cargo_succeeded: true, ..Totals::default() }.verdict().is_err());
        assert!(Totals { passed: 5, ..Totals::default() }.verdict().is_err());
        assert!(
            Totals { passed: 5, failed: 1, cargo_succeeded: true, ..Totals::default() }.verdict().is_err()
        );
        assert!(Totals { passed: 5, cargo_succeeded: true, ..Totals::default() }.verdict().is_ok());
    }
}
