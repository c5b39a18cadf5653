//! `lifeboat rollback` and `lifeboat commit`

use engine::recover::{commit, rollback};
use engine::runs;
use runbook::{Order, StepId, Verb};

use super::run;
use crate::estate::{FromArgs, PlanArgs};
use crate::live::Live;
use crate::outcome::{Answer, Done, Failure};
use crate::ui::{Ui, printable};

/// Take back what a run did
///
/// Swaps back what was there before, stops what was started and starts what was stopped, the last step first. Needs no
/// repository: the journal of the run is on this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat rollback latest
  lifeboat rollback 7f3a --skip 4 --reason 'mended by hand'")]
pub struct RollbackArgs {
    /// The run: its id, the end of its id, or `latest`
    #[arg(value_name = "RUN")]
    run: String,
    /// Leave out the undo of this step, which is stuck
    #[arg(long, value_name = "STEP", requires = "reason")]
    skip: Vec<String>,
    /// Why it is left out; recorded in the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    from: FromArgs,
}

pub fn roll_back(args: &RollbackArgs, ui: &Ui) -> Answer {
    let site = args.plan.open_or_do_without(&args.from, ui)?;
    let id = runs::find(&site.state, &args.run)?;
    if !run::confirm(ui, args.yes, &format!("What run {id} did is taken back."))? {
        return Err(Failure::usage("not confirmed, so nothing was done", "answer yes, or give --yes"));
    }
    let reason = args.reason.clone().unwrap_or_default();
    let orders = args
        .skip
        .iter()
        .map(|step| Order::new(&site.who, Verb::Skip { step: StepId::new(step), reason: reason.clone() }))
        .collect();
    let live = Live::new(ui, &site.who, None);
    let finished = rollback(&site, &id, orders, run::conduct(&live));
    drop(live);
    run::conclude(ui, &finished?)
}

/// Throw away what a run kept for a rollback
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat commit latest")]
pub struct CommitArgs {
    /// The run: its id, the end of its id, or `latest`
    #[arg(value_name = "RUN")]
    run: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    from: FromArgs,
}

pub fn commit_run(args: &CommitArgs, ui: &Ui) -> Answer {
    let site = args.plan.open_from(&args.from, ui)?;
    let id = runs::find(&site.state, &args.run)?;
    let live = Live::new(ui, &site.who, None);
    let mut trouble = None;
    let committed = commit(&site, &id, run::conduct(&live), &mut |kept| {
        let shown = kept.iter().try_for_each(|kept| ui.line(format!("removes {}", printable(kept))));
        match shown.and_then(|()| run::confirm(ui, args.yes, "This cannot be undone.")) {
            Ok(confirmed) => confirmed,
            Err(failure) => {
                trouble = Some(failure);
                false
            }
        }
    });
    drop(live);
    if let Some(failure) = trouble {
        return Err(failure);
    }
    match committed? {
        Some(removed) => Ok(Done::verified(&serde_json::json!({ "run": id, "removed": removed }))),
        None => Err(Failure::usage("not confirmed, so nothing was done", "answer yes, or give --yes")),
    }
}
