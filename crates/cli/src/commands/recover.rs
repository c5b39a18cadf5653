//! `lifeboat recover`

use engine::recover::{RecoverOptions, Wished, execute_preview, preview, resume};
use engine::resolve::Mode;
use engine::runs;
use jiff::Timestamp;
use runbook::{Order, StepId, Verb};

use super::run;
use crate::estate::{FromArgs, PlanArgs};
use crate::live::Live;
use crate::outcome::{Answer, Done, Failure};
use crate::ui::Ui;

/// Answer a disaster: run a scenario of the plan
///
/// Shows what will be done, asks once, and does it: restores beside what is there, proves what was restored, swaps it
/// in, keeps the old, starts services gate by gate, and checks. Kill it at any point and it goes on with --resume.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat recover server-lost --dry-run      what would be done, and what stands in the way
  lifeboat recover server-lost                do it
  lifeboat recover database-corruption --at 2026-11-20T14:00:00Z
  lifeboat recover server-lost --from s3://hub-backups-eu/prod     the repository is gone, a copy is not
  lifeboat recover server-lost --resume latest
  lifeboat recover server-lost --resume latest --skip 4 --reason 'the record was set by hand'")]
pub struct Args {
    /// The scenario
    #[arg(value_name = "SCENARIO")]
    scenario: String,
    /// The instant to which everything is brought back, or `common`: the latest that all components have. If not given,
    /// each comes back to the latest that there is of it
    #[arg(long, value_name = "INSTANT", value_parser = parse_wished)]
    at: Option<Wished>,
    /// When the disaster was declared; the RTO runs from here. Now if not given
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    declared: Option<Timestamp>,
    /// When the disaster happened; the RPO counts back from here
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    happened: Option<Timestamp>,
    /// Show what would be done, and do nothing
    #[arg(short = 'n', long, conflicts_with = "resume")]
    dry_run: bool,
    /// Do not ask before the first change
    #[arg(short, long)]
    yes: bool,
    /// Go on with a run that was interrupted or failed: its id, the end of its id, or `latest`
    #[arg(long, value_name = "RUN")]
    resume: Option<String>,
    /// With --resume: leave this step out
    #[arg(long, value_name = "STEP", requires = "resume", requires = "reason")]
    skip: Vec<String>,
    /// With --resume: try this step again first
    #[arg(long, value_name = "STEP", requires = "resume")]
    retry: Vec<String>,
    /// With --resume: leave out everything before this step
    #[arg(long, value_name = "STEP", requires = "resume", requires = "reason")]
    continue_from: Option<String>,
    /// Why steps are left out; recorded in the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open_from(&args.from, ui)?;
    let scenario = site.plan.scenario(&args.scenario).map_err(engine::Error::from)?;
    let objective = scenario.rto;
    if let Some(name) = &args.resume {
        let id = runs::find(&site.state, name)?;
        let live = Live::new(ui, &site.who, objective);
        let finished = resume(&site, &id, args.orders(&site.who), run::conduct(&live));
        drop(live);
        return run::conclude(ui, &finished?);
    }
    let options =
        RecoverOptions { to: args.at.unwrap_or_default(), declared: args.declared, happened: args.happened };
    let preview = preview(&site, &args.scenario, Mode::Disaster, &options)?;
    run::show_preview(ui, &preview)?;
    if args.dry_run {
        ui.line("dry run: nothing was done")?;
        return blocked_or(&preview, ui);
    }
    if preview.is_blocked() {
        return blocked_or(&preview, ui);
    }
    if !run::confirm(ui, args.yes, "This changes this machine.")? {
        return Err(Failure::usage("not confirmed, so nothing was done", "answer yes, or give --yes"));
    }
    let live = Live::new(ui, &site.who, objective);
    let finished = execute_preview(&site, preview, run::conduct(&live));
    drop(live);
    run::conclude(ui, &finished?)
}

/// The end of a dry run: it could run, or something stands in the way.
fn blocked_or(preview: &engine::recover::Preview, _ui: &Ui) -> Answer {
    if preview.is_blocked() {
        return Err(Failure::usage(
            "something stands in the way of this run",
            "mend it and try again; nothing was changed",
        ));
    }
    Ok(Done::verified(&serde_json::json!({ "run": preview.id })))
}

impl Args {
    fn orders(&self, who: &str) -> Vec<Order> {
        let reason = || self.reason.clone().unwrap_or_default();
        let skip = self.skip.iter().map(|step| Verb::Skip { step: StepId::new(step), reason: reason() });
        let retry = self.retry.iter().map(|step| Verb::Retry { step: StepId::new(step) });
        let from = self
            .continue_from
            .iter()
            .map(|step| Verb::ContinueFrom { step: StepId::new(step), reason: reason() });
        from.chain(skip).chain(retry).map(|verb| Order::new(who, verb)).collect()
    }
}

/// Reads what a recovery is to come to: an instant, or `common`.
pub fn parse_wished(text: &str) -> Result<Wished, String> {
    match text {
        "common" => Ok(Wished::Common),
        text if text == "immediate" || text.starts_with("lsn:") || text.starts_with("name:") => Err(format!(
            "{text:?} is a place in one component's log: `lifeboat restore COMPONENT --at {text}` goes there"
        )),
        text => parse_instant(text).map(Wished::At),
    }
}

/// Reads an instant: with a zone or offset, or in the local time zone; `30m ago` counts back from now.
pub fn parse_instant(text: &str) -> Result<Timestamp, String> {
    let wrong =
        || format!("{text:?} is no instant such as 2026-11-20T14:00:00Z, '2026-11-20 14:00' or '30m ago'");
    if let Some(ago) = text.strip_suffix("ago") {
        let time: jiff::SignedDuration = ago.trim().parse().map_err(|_| wrong())?;
        return Timestamp::now().checked_sub(time).map_err(|_| wrong());
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    let civil: jiff::civil::DateTime = text.parse().map_err(|_| wrong())?;
    civil.to_zoned(jiff::tz::TimeZone::system()).map(|zoned| zoned.timestamp()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_as_people_write_them() {
        assert!(parse_instant("2026-11-20T14:00:00Z").is_ok());
        assert!(parse_instant("2026-11-20 14:00").is_ok());
        let ago = parse_instant("30m ago").unwrap();
        assert!((Timestamp::now().as_second() - ago.as_second() - 1800).abs() < 5);
        assert!(parse_instant("yesterday-ish").is_err());
    }
}
