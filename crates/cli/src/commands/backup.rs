//! `lifeboat backup`

use engine::protect;

use super::run;
use crate::estate::PlanArgs;
use crate::live::Live;
use crate::outcome::Answer;
use crate::ui::Ui;

/// Back up what the plan protects
///
/// Captures each component consistently, measures its facts in the same moment, and keeps both as a recovery point.
/// A backup that is empty, lacks something declared, or has lost too much since the last one does not count, and
/// the command fails; `--accept` says that the loss is meant. Then the plan's copies get the point, and what `keep` does
/// not keep is forgotten. Nothing runs this by itself yet: let cron or a timer do it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat backup                      everything in the plan
  lifeboat backup database             one component
  lifeboat backup database --accept    half the rows are gone, and that is right
  */30 * * * * cd /srv/hub && lifeboat backup --quiet    a line of a crontab")]
pub struct Args {
    /// What to back up; everything in the plan if nothing is named
    #[arg(value_name = "COMPONENT")]
    components: Vec<String>,
    /// Let a backup count although it lost more than the plan's tolerance
    #[arg(long)]
    accept: bool,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open(ui)?;
    let live = Live::new(ui, &site.who, None);
    let finished = protect::backup(&site, &args.components, args.accept, run::conduct(&live));
    drop(live);
    run::conclude(ui, &finished?)
}
