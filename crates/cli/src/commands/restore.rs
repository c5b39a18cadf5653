//! `lifeboat restore`

use std::path::PathBuf;

use engine::goal::Goal;
use engine::recover::{execute_preview, preview_restore};

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
  lifeboat restore database --at name:before-upgrade
  lifeboat restore config --dry-run")]
pub struct Args {
    /// The component
    #[arg(value_name = "COMPONENT")]
    component: String,
    /// The instant to which it is brought back; the latest if not given. `immediate` is the newest recovery point as it is,
    /// `lsn:0/3000028` a position in PostgreSQL's log, `name:before-upgrade` a restore point that was named there
    #[arg(long, value_name = "INSTANT", value_parser = parse_goal)]
    at: Option<Goal>,
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
    let preview =
        preview_restore(&site, &args.component, args.at.as_ref().unwrap_or(&Goal::Latest), to.as_deref())?;
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

/// Reads what a component is to come to.
fn parse_goal(text: &str) -> Result<Goal, String> {
    match (text, text.split_once(':')) {
        ("immediate", _) => Ok(Goal::Immediate),
        (_, Some(("lsn", position))) => Ok(Goal::Position(position.to_owned())),
        (_, Some(("name", name))) if !name.is_empty() => Ok(Goal::Name(name.to_owned())),
        _ => parse_instant(text).map(Goal::At),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_as_people_write_them() {
        assert_eq!(parse_goal("immediate"), Ok(Goal::Immediate));
        assert_eq!(parse_goal("lsn:0/3000028"), Ok(Goal::Position("0/3000028".to_owned())));
        assert_eq!(parse_goal("name:a: b"), Ok(Goal::Name("a: b".to_owned())));
        assert!(matches!(parse_goal("2026-11-20T14:00:00Z"), Ok(Goal::At(_))));
        assert!(parse_goal("name:").is_err() && parse_goal("later").is_err());
    }
}
