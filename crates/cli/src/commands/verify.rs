//! `lifeboat verify`

use engine::logs;
use engine::proving::{Wanted, Which, execute_preview, preview};
use engine::recover::Preview;
use engine::site::Site;
use jiff::Timestamp;
use repository::check::{CheckOptions, ReadData, Severity, check};
use repository::log::{Scope, VerifyReport};

use super::recover::parse_instant;
use super::run;
use crate::estate::{FromArgs, PlanArgs};
use crate::json::Line;
use crate::live::Live;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::ui::{Style, Ui, printable};
use crate::units;

/// Verify what is stored: its structure, all of its data, or a real restore
///
/// Without options the repository's structure is checked. --data reads every byte, of archived logs those that no earlier
/// one has read. --restore restores the latest of each component and something older, chosen at random, into scratch, proves
/// both by their integrity and their facts, and throws them away. --negative damages copies as well: their proof must fail.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat verify
  lifeboat verify --data
  lifeboat verify --restore database
  lifeboat verify --restore database --at '3d ago'
  lifeboat verify --restore --negative")]
pub struct Args {
    /// With --restore: which components; all if not given
    #[arg(value_name = "COMPONENT", requires = "restore")]
    components: Vec<String>,
    /// Read and verify every byte that is stored
    #[arg(long)]
    data: bool,
    /// Read also the archived logs that were read before
    #[arg(long, requires = "data")]
    logs_again: bool,
    /// Restore into scratch and prove what comes back
    #[arg(long)]
    restore: bool,
    /// With --restore: the latest alone, and nothing older
    #[arg(long, requires = "restore", conflicts_with = "at")]
    latest_only: bool,
    /// With --restore: what there is of this instant instead of the latest and something older
    #[arg(long, value_name = "INSTANT", requires = "restore", value_parser = parse_instant)]
    at: Option<Timestamp>,
    /// With --restore: damage restored copies, too, and see that it is noticed
    #[arg(long, requires = "restore")]
    negative: bool,
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open_from(&args.from, ui)?;
    let mut checked = None;
    if args.data || !args.restore {
        let progress = Progress::new(ui).without_problems();
        let read_data = if args.data { ReadData::All } else { ReadData::None };
        let options = CheckOptions { read_data, ..CheckOptions::default() };
        let report = check(&site.repository, &options, progress.context())?;
        drop(progress);
        let errors: Vec<String> = report
            .findings
            .iter()
            .filter(|finding| finding.severity() == Severity::Error)
            .map(ToString::to_string)
            .collect();
        for error in &errors {
            ui.problem("the repository", error);
        }
        if !errors.is_empty() {
            let why = format!("the repository has {} errors", errors.len());
            let hint = "see what can be done with `lifeboat repository check --read-data`";
            return Ok(Done::new(
                Verdict::Failed(Explained::new(why, hint)),
                &serde_json::json!({ "errors": errors }),
            ));
        }
        let what = if args.data { "every byte of the repository" } else { "the repository's structure" };
        ui.line(format!("verified {what}: no errors"))?;
        checked = Some(what);
    }
    let mut summary = serde_json::json!({ "verified": checked });
    if args.data
        && let Some(failed) = verify_logs(args, &site, &mut summary, ui)?
    {
        return Ok(Done::new(Verdict::Failed(failed), &summary));
    }
    if !args.restore {
        return Ok(Done::verified(&summary));
    }
    let which = match args.at {
        Some(at) => Which::At(at),
        None if args.latest_only => Which::Latest,
        None => Which::LatestAndOlder,
    };
    let wanted = Wanted { components: args.components.clone(), which, negative: args.negative };
    let preview = preview(&site, &wanted)?;
    ui.talk(&preview.runbook.title)?;
    show_choice(ui, &preview)?;
    let live = Live::new(ui, &site.who, None);
    let finished = execute_preview(&site, preview, run::conduct(&live));
    drop(live);
    run::conclude(ui, &finished?)
}

/// Says what is tested, so that it can be asked for again.
fn show_choice(ui: &Ui, preview: &Preview) -> Result<(), Failure> {
    ui.event(&Line::Answer {
        kind: "chosen",
        answer: serde_json::to_value(&preview.context.chosen).expect("choices have only text keys"),
    })?;
    run::show_chosen(ui, preview)
}

/// Reads the archived logs; why it failed, if something is wrong with one.
fn verify_logs(
    args: &Args,
    site: &Site,
    summary: &mut serde_json::Value,
    ui: &Ui,
) -> Result<Option<Explained>, Failure> {
    let scope = if args.logs_again { Scope::All } else { Scope::New };
    let progress = Progress::new(ui).without_problems();
    let logs = logs::verify(&site.repository, site.plan.components.names(), scope, progress.context())?;
    drop(progress);
    if logs.is_empty() {
        return Ok(None);
    }
    let (mut errors, mut remarks) = (Vec::new(), Vec::new());
    for (component, report) in &logs {
        for finding in &report.findings {
            let told = format!("{component}: {finding}; {}", finding.repair());
            match finding.severity() {
                Severity::Error => errors.push(told),
                Severity::Warning | Severity::Note => remarks.push(told),
            }
        }
        if let Some(why) = &report.not_remembered {
            remarks.push(format!("{component}: what was verified is not remembered: {why}"));
        }
    }
    let sum = |of: fn(&VerifyReport) -> u64| logs.iter().map(|(_, report)| of(report)).sum::<u64>();
    let (read, known, bytes) = (sum(|one| one.verified), sum(|one| one.known), sum(|one| one.bytes));
    summary["logs"] = serde_json::json!({
        "read": read, "verified_before": known, "bytes": bytes, "errors": errors, "remarks": remarks,
    });
    for error in &errors {
        ui.problem("an archived log", error);
    }
    for remark in &remarks {
        ui.line(format!("{} {}", ui.paint(Style::Yellow, "!"), printable(remark)))?;
    }
    if errors.is_empty() {
        let read = units::counted(read, "object", "objects");
        ui.line(format!(
            "verified the archived logs: {read} read ({}), {known} verified before; no errors",
            units::bytes(bytes)
        ))?;
        return Ok(None);
    }
    let why = format!("the archived logs have {}", units::counted(errors.len() as u64, "error", "errors"));
    Ok(Some(Explained::new(why, "see above what to do about each")))
}
