//! The top of the command line, and what its end is when it makes no sense.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    backup, copy, demo, diagnose, drill, forget, init, order, points, recover, report, repository, restore,
    rollback, runbook, serve, status, validate, verify, wal,
};
use crate::outcome::{Answer, COULD_NOT_RUN, VERIFIED};
use crate::ui::Ui;

/// Disaster recovery that is rehearsed
///
/// One plan file says what there is, how much of it may be lost and how soon it must be back. Lifeboat backs it up, brings it
/// back in the right order, checks that what came back is what was there, and rehearses that on a twin of this machine.
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
  lifeboat demo                            see it all on this machine, on an estate of its own
  lifeboat init                            write a first plan for what is in this directory
  lifeboat backup                          back up what ./lifeboat.yaml protects
  lifeboat recover server-lost --dry-run   what would be done if the server were lost
  lifeboat drill server-lost               rehearse it in a twin
  lifeboat repository backup ~             file trees, without a plan"
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
    Init(init::Args),
    Validate(validate::Args),
    Backup(backup::Args),
    Points(points::Args),
    Forget(forget::Args),
    Copy(copy::Args),
    Restore(restore::Args),
    Verify(verify::Args),
    Diagnose(diagnose::Args),
    Recover(Box<recover::Args>),
    Drill(drill::Args),
    Order(order::Args),
    Rollback(rollback::RollbackArgs),
    Commit(rollback::CommitArgs),
    Serve(serve::Args),
    Status(status::Args),
    Report(report::Args),
    Runbook(runbook::Args),
    Wal(Box<wal::Args>),
    Repository(Box<repository::Args>),
    #[command(hide = true)]
    DemoService(demo::service::Args),
}

impl Command {
    /// The command's name as JSON lines state it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Demo(_) => "demo",
            Self::Init(_) => "init",
            Self::Validate(_) => "validate",
            Self::Backup(_) => "backup",
            Self::Points(_) => "points",
            Self::Forget(_) => "forget",
            Self::Copy(_) => "copy",
            Self::Restore(_) => "restore",
            Self::Verify(_) => "verify",
            Self::Diagnose(_) => "diagnose",
            Self::Recover(_) => "recover",
            Self::Drill(_) => "drill",
            Self::Order(_) => "order",
            Self::Rollback(_) => "rollback",
            Self::Commit(_) => "commit",
            Self::Serve(_) => "serve",
            Self::Status(_) => "status",
            Self::Report(_) => "report",
            Self::Runbook(_) => "runbook",
            Self::Wal(_) => "wal",
            Self::Repository(args) => args.command.name(),
            Self::DemoService(_) => "demo-service",
        }
    }

    /// Runs it.
    pub fn run(self, ui: &Ui) -> Answer {
        match self {
            Self::Demo(args) => demo::run(&args, ui),
            Self::Init(args) => init::run(&args, ui),
            Self::Validate(args) => validate::run(&args, ui),
            Self::Backup(args) => backup::run(&args, ui),
            Self::Points(args) => points::run(&args, ui),
            Self::Forget(args) => forget::run(&args, ui),
            Self::Copy(args) => copy::run(&args, ui),
            Self::Restore(args) => restore::run(&args, ui),
            Self::Verify(args) => verify::run(&args, ui),
            Self::Diagnose(args) => diagnose::run(&args, ui),
            Self::Recover(args) => recover::run(&args, ui),
            Self::Drill(args) => drill::run(&args, ui),
            Self::Order(args) => order::run(&args, ui),
            Self::Rollback(args) => rollback::roll_back(&args, ui),
            Self::Commit(args) => rollback::commit_run(&args, ui),
            Self::Serve(args) => serve::run(&args, ui),
            Self::Status(args) => status::run(&args, ui),
            Self::Report(args) => report::run(&args, ui),
            Self::Runbook(args) => runbook::run(&args, ui),
            Self::Wal(args) => wal::run(&args, ui),
            Self::Repository(args) => args.run(ui),
            Self::DemoService(args) => demo::service::run(&args),
        }
    }
}

/// Parses the command line; prints help, version or what is wrong, and then gives the exit code.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let code = if error.use_stderr() { COULD_NOT_RUN } else { VERIFIED };
        // A closed pipe is the reader's choice, and there is nobody left to tell.
        let _closed = error.print();
        wal::code_of_wrong_usage(code)
    })
}
