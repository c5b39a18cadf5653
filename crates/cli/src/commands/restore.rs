//! `lifeboat restore`

use std::path::PathBuf;

use engine::recover::{execute_preview, preview_restore};
use jiff::Timestamp;

use super::recover::parse_instant;
use super::run;
use crate::estate::{FromArgs, PlanArgs};
use crate::live::Live;
use crate::outcome::{Answer, Done, Failure};
use crate::ui::Ui;

/// Bring one component back
///
/// Restores it beside what is there, proves it by its integrity and its facts, swaps it in and keeps the old until
/// `lifeboat commit`. With --to it is put into another directory and nothing is replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat restore database --to /tmp/look      beside, to look at
  lifeboat restore database --at '2h ago'
  lifeboat restore config --dry-run")]
pub struct Args {
    /// The component
    #[arg(value_name = "COMPONENT")]
    component: String,
    /// The instant to which it is brought back; the latest if not given
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    at: Option<Timestamp>,
    /// Put it into this directory instead of its own place
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Show what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask before what is there is replaced
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open_from(&args.from, ui)?;
    let to = args.to.as_ref().map(|to| std::path::absolute(to).unwrap_or_else(|_| to.clone()));
    let preview = preview_restore(&site, &args.component, args.at, to.as_deref())?;
    run::show_preview(ui, &preview)?;
    if args.dry_run {
        ui.line("dry run: nothing was done")?;
        return Ok(Done::verified(&serde_json::json!({ "run": preview.id })));
    }
    if to.is_none() && !run::confirm(ui, args.yes, "What is there is replaced and kept beside.")? {
        return Err(Failure::usage("not confirmed, so nothing was done", "answer yes, or give --yes"));
    }
    let live = Live::new(ui, &site.who, None);
    let finished = execute_preview(&site, preview, run::conduct(&live));
    drop(live);
    run::conclude(ui, &finished?)
}
