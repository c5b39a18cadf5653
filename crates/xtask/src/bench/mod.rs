//! `cargo xtask bench`: measures Lifeboat beside its peers, and writes down what was measured.
//!
//! Nothing is asserted here: a figure depends on the machine, and what counts is the ratio to a peer that
//! ran on the same data in the same minutes. Corpora and scratch space lie outside the clone.

mod corpus;
mod databases;
mod files;
mod machine;
mod material;
mod measure;
mod postgres;
mod recovery;
mod report;
mod repository;
mod tools;
mod tree;
mod warm;

pub use measure::PACKAGE as NEEDED_TO_MEASURE;

use crate::process::Result;

/// What can be measured.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Back up, back up again, restore and check three corpora; write docs/benchmarks/repository.md
    Repository(repository::Args),
    /// Back up, recover and rehearse by a plan, and the same by hand; write docs/benchmarks/recovery.md
    Recovery(recovery::Args),
    /// Back databases up, ship their logs and restore them, and the same by others; write docs/benchmarks/databases.md
    Databases(databases::Args),
}

/// Measures what was asked for.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Repository(args) => repository::run(args),
        Command::Recovery(args) => recovery::run(args),
        Command::Databases(args) => databases::run(args),
    }
}
