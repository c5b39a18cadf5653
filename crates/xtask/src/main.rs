//! What the project does to itself: set up, test, check, measure. `cargo xtask` runs it.
//!
//! One file per command. Nothing that a user of Lifeboat needs lives here, and no crate depends on it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command of the developers, not a library")]

mod bench;
mod checks;
mod fuzz;
mod packages;
mod paths;
mod process;
mod setup;
mod test;
mod tools;

use std::process::ExitCode;

use clap::Parser;

/// The chores of the Lifeboat project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Install what the tests need, outside the clone, and say what it is
    Setup,
    /// Set up, check and test everything; with filters, only run the tests that match
    Test(test::Args),
    /// What continuous integration runs: `test` without a filter
    Ci,
    /// Feed the parsers what nobody would write, and say which input they stumble over
    Fuzz(fuzz::Args),
    /// Measure Lifeboat beside its peers
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Setup => setup::run(),
        Command::Test(args) => test::run(&args),
        Command::Ci => test::everything(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench(command) => bench::run(&command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
