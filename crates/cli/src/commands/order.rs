//! `lifeboat order`

use clap::ValueEnum;
use engine::runs::{self, Files};
use runbook::{ControlDirectory, Order, StepId, Verb};

use crate::estate::{PlanArgs, who};
use crate::outcome::{Answer, Done, Failure};
use crate::ui::Ui;

/// Tell a run what to do, from another terminal
///
/// The run's own process obeys within a second, and the journal says who wanted it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat order latest approve
  lifeboat order latest pause
  lifeboat order 7f3a skip 4.2 --reason 'the record was set by hand'
  lifeboat order latest abort --reason 'wrong scenario'")]
pub struct Args {
    /// The run: its id, the end of its id, or `latest`
    #[arg(value_name = "RUN")]
    run: String,
    /// What to do
    #[arg(value_name = "VERB")]
    verb: Word,
    /// Which step, as `lifeboat recover --dry-run` numbers it
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// Why; recorded in the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    plan: PlanArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    /// Say yes to what is asked
    Approve,
    /// Say no to what is asked
    Deny,
    /// Begin no further step
    Pause,
    /// Go on after a pause
    Continue,
    /// Try a step again
    Retry,
    /// Leave a step out
    Skip,
    /// End the run
    Abort,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    // The repository is not opened: a run must be steered also when that is what is gone.
    let state = args.plan.state(&args.plan.read()?)?;
    let id = runs::find(&state, &args.run)?;
    let files = Files::of(&state, &id);
    if !files.journal().exists() {
        return Err(Failure::usage(format!("there is no run {id} on this machine"), "see `lifeboat status`"));
    }
    if !runs::is_open(&runs::read(&state, None, &id)?.state) {
        let message = format!("run {id} is at its end, so nobody would obey");
        return Err(Failure::usage(message, format!("see what came of it with `lifeboat report {id}`")));
    }
    let verb = args.verb()?;
    let order = Order::new(who(), verb);
    ControlDirectory::of(&files.journal()).give(&order).map_err(|error| {
        Failure::other(format!("failed to leave an order in {}: {error}", files.directory().display()))
    })?;
    ui.line(format!("left for run {id}; its own output tells what came of it"))?;
    Ok(Done::verified(&serde_json::json!({ "run": id, "order": order.id })))
}

impl Args {
    fn verb(&self) -> Result<Verb, Failure> {
        let step = self.step.as_ref().map(StepId::new);
        let needed = || step.clone().ok_or_else(|| Failure::usage("which step?", "name it after the verb"));
        let reason = || {
            self.reason
                .clone()
                .ok_or_else(|| Failure::usage("why?", "say it with --reason; the journal keeps it"))
        };
        Ok(match self.verb {
            Word::Approve => Verb::Approve { step },
            Word::Deny => Verb::Deny { step, reason: reason()? },
            Word::Pause => Verb::Pause,
            Word::Continue => Verb::Continue,
            Word::Retry => Verb::Retry { step: needed()? },
            Word::Skip => Verb::Skip { step: needed()?, reason: reason()? },
            Word::Abort => Verb::Abort { reason: reason()? },
        })
    }
}
