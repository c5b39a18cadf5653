//! The top of the command line, and what its end is when it makes no sense.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::commands::{demo, repository};
use crate::outcome::{Answer, COULD_NOT_RUN, VERIFIED};
use crate::ui::Ui;

/// Disaster recovery that is rehearsed
///
/// Keeps file trees in an encrypted, deduplicated repository that stock restic can read, check and restore.
#[derive(Debug, Parser)]
#[command(
    name = "lifeboat",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
Exit codes:
  0    verified: everything that was asked for is done and was seen to be right
  1    failed
  2    not proven: nothing failed, but something asked for was left out or could not be shown
  3    could not run: wrong usage, wrong password, no repository, locked
  130  interrupted

Examples:
  lifeboat demo                                  see it work on this machine
  lifeboat repository init -r /srv/backup        make a repository
  lifeboat repository backup -r /srv/backup ~    put your home into it"
)]
pub struct Cli {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// How a command talks; understood by all of them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print JSON, one object a line (docs/json.md describes them)
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print every item that is worked on
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Draw no progress bars
    #[arg(long, global = true)]
    pub no_progress: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(demo::Args),
    Repository(Box<repository::Args>),
}

impl Command {
    /// The command's name as JSON lines state it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Demo(_) => "demo",
            Self::Repository(args) => args.command.name(),
        }
    }

    /// Runs it.
    pub fn run(self, ui: &Ui) -> Answer {
        match self {
            Self::Demo(args) => demo::run(&args, ui),
            Self::Repository(args) => args.run(ui),
        }
    }
}

/// Parses the command line; prints help, version or what is wrong, and then gives the exit code.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let code = if error.use_stderr() { COULD_NOT_RUN } else { VERIFIED };
        // A closed pipe is the reader's choice, and there is nobody left to tell.
        let _closed = error.print();
        ExitCode::from(code)
    })
}
