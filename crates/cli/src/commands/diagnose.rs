//! `lifeboat diagnose`

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use engine::diagnose::diagnose;
use runbook::Answer as Asked;

use crate::estate::{FromArgs, PlanArgs};
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Verdict};
use crate::ui::{Style, Ui, printable};

/// Ask the plan's checks, and name the scenario that fits
///
/// Changes nothing. Exits with 0 if every check holds, 1 if one fails, and 2 if one could not be asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat diagnose
  lifeboat diagnose database-intact")]
pub struct Args {
    /// Which checks; all of them, and the gates of all services, if none is named
    #[arg(value_name = "CHECK")]
    checks: Vec<String>,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    from: FromArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open_or_do_without(&args.from, ui)?;
    let diagnosis = diagnose(&site, &args.checks, &Arc::new(AtomicBool::new(false)))?;
    for asked in &diagnosis.asked {
        let (style, mark) = match asked.answer {
            Asked::Holds(_) => (Style::Green, "✓"),
            Asked::Fails(_) | Asked::Fatal(_) => (Style::Red, "✗"),
            Asked::Unknown(_) => (Style::Yellow, "?"),
        };
        let detail = printable(asked.answer.detail());
        ui.line(format!("{} {}: {detail}", ui.paint(style, mark), asked.name))?;
    }
    for (scenario, signs) in &diagnosis.scenarios {
        ui.line(format!("→ {scenario} fits ({}): lifeboat recover {scenario} --dry-run", signs.join(", ")))?;
    }
    let summary = serde_json::to_value(&diagnosis).expect("a diagnosis has only text keys");
    ui.event(&Line::Answer { kind: "diagnosis", answer: summary.clone() })?;
    let hint = match diagnosis.scenarios.first() {
        Some((scenario, _)) => format!("see what would be done with `lifeboat recover {scenario} --dry-run`"),
        None => "no scenario of the plan names a failing check under `when`".to_owned(),
    };
    let verdict = if diagnosis.any_fails() {
        Verdict::Failed(Explained::new("not every check holds", &hint))
    } else if diagnosis.all_hold() {
        Verdict::Verified
    } else {
        Verdict::NotProven(Explained::new("not every check could be asked", "see above why"))
    };
    Ok(Done::new(verdict, &summary))
}
