//! `lifeboat drill`

use engine::drill::execute_preview;
use engine::recover::{RecoverOptions, Wished, preview};
use engine::resolve::Mode;

use super::recover::parse_wished;
use super::run;
use crate::estate::{FromArgs, PlanArgs};
use crate::json::Line;
use crate::live::Live;
use crate::outcome::{Answer, Done, Failure};
use crate::ui::Ui;

/// Rehearse a scenario in a twin of this machine
///
/// The twin is a copy-on-write overlay of this machine in namespaces of its own, cut off from the network, in which the
/// disaster really happens: what the plan protects is removed there. The same scenario then runs unchanged, is checked
/// and timed, and the twin is thrown away. The machine itself is not touched, and its services go on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat drill server-lost
  lifeboat drill server-lost --dry-run
  lifeboat drill database-corruption --at '2d ago'")]
pub struct Args {
    /// The scenario
    #[arg(value_name = "SCENARIO")]
    scenario: String,
    /// The instant to which everything is brought back, or `common`: the latest that all components have. If not given,
    /// each comes back to the latest that there is of it
    #[arg(long, value_name = "INSTANT", value_parser = parse_wished)]
    at: Option<Wished>,
    /// Show what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    // Before the first thread: an ordinary user needs a user namespace, which only a single thread can enter.
    if !args.dry_run && !rustix::process::geteuid().is_root() {
        place::enter_user_namespace().map_err(engine::Error::from)?;
    }
    let site = args.plan.open_from(&args.from, ui)?;
    let objective = site.plan.scenario(&args.scenario).map_err(engine::Error::from)?.rto;
    let options = RecoverOptions { to: args.at.unwrap_or_default(), ..RecoverOptions::default() };
    let preview = preview(&site, &args.scenario, Mode::Drill, &options)?;
    if args.dry_run {
        run::show_preview(ui, &preview)?;
        ui.line("dry run: nothing was done")?;
        if preview.is_blocked() {
            return Err(Failure::usage("something stands in the way of this drill", "mend it and try again"));
        }
        return Ok(Done::verified(&serde_json::json!({ "run": preview.id })));
    }
    let live = Live::new(ui, &site.who, objective);
    let drilled = execute_preview(&site, preview, run::conduct(&live));
    drop(live);
    let drilled = drilled?;
    ui.talk(format!("the twin was up after {}", crate::units::duration(drilled.twin.took)))?;
    ui.event(&Line::Answer {
        kind: "twin",
        answer: serde_json::json!({
            "took_seconds": drilled.twin.took.as_secs_f64(),
            "mounts": drilled.twin.mounts,
            "limits": drilled.twin.limits,
        }),
    })?;
    for limit in &drilled.twin.limits {
        ui.note(&format!("note: {limit}"));
    }
    run::conclude(ui, &drilled.finished)
}
