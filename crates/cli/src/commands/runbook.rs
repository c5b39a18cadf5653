//! `lifeboat runbook`

use std::path::PathBuf;

use engine::handbook::{handbook, no_repository};

use crate::commands::report::write;
use crate::estate::{PlanArgs, access};
use crate::json::Line;
use crate::outcome::{Answer, Done};
use crate::ui::Ui;

/// Print the plan as a document for people, with the commands to type by hand
///
/// For the day on which Lifeboat itself is not there: what there is, where its backups are, whom to call, how to bring
/// everything back with stock restic, and every scenario step by step. It holds no secret; values from outside the plan
/// stand there as the plan writes them. Works without the repository, too, and says then what is missing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat runbook
  lifeboat runbook --output RUNBOOK.md
  lifeboat runbook --environment staging")]
pub struct Args {
    /// Write it to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let read = args.plan.read()?;
    let opened = access(&read).and_then(|access| access.open(ui));
    let (repository, problem) = match opened {
        Ok(repository) => (repository, None),
        Err(failure) => (no_repository()?, Some(failure.to_string())),
    };
    let site = args.plan.site(read, repository, ui)?;
    let catalogue = match problem {
        Some(why) => Err(why),
        None => site.catalogue().map_err(|error| error.to_string()),
    };
    let unreadable = catalogue.as_ref().err().cloned();
    if let Some(why) = &unreadable {
        ui.problem("the repository", why);
    }
    let text = handbook(&site, catalogue);
    ui.event(&Line::Answer { kind: "runbook", answer: serde_json::json!({ "markdown": text }) })?;
    write(ui, args.output.as_deref(), &text)?;
    Ok(Done::verified(&serde_json::json!({ "estate": site.estate(), "repository_error": unreadable })))
}
