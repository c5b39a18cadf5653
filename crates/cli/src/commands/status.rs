//! `lifeboat status`

use std::time::Duration;

use engine::status::{Proof, Protection, Readiness, status};

use crate::estate::PlanArgs;
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Verdict};
use crate::table::Table;
use crate::ui::{Style, Ui, printable};
use crate::units;

/// Show how ready you are: every objective beside what is measured
///
/// Reads the repository only, so that it works from any machine that has the plan and the key. Exits with 0 if everything is
/// protected and proven, 1 if something is broken, and 2 if something is late, stale or was never tried.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat status
  lifeboat status --json")]
pub struct Args {
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open(ui)?;
    let readiness = status(&site)?;
    show(ui, &readiness)?;
    let summary = serde_json::to_value(&readiness).expect("readiness has only text keys");
    ui.event(&Line::Answer { kind: "readiness", answer: summary.clone() })?;
    let verdict = if readiness.is_ready() {
        Verdict::Verified
    } else if readiness.is_broken() {
        Verdict::Failed(Explained::new(
            "something is broken",
            "see above; `lifeboat report RUN` tells the whole story",
        ))
    } else {
        Verdict::NotProven(Explained::new(
            "not everything is protected and proven",
            if readiness.unreadable.is_empty() {
                "see above what is missing"
            } else {
                "see above what is missing, and what is damaged with `lifeboat verify --data`"
            },
        ))
    };
    Ok(Done::new(verdict, &summary))
}

fn show(ui: &Ui, readiness: &Readiness) -> Result<(), crate::outcome::Failure> {
    let mut table = Table::new(&["component", "", "newest", "RPO", "size", "points"], &[2, 3, 4, 5]);
    for one in &readiness.components {
        table.row([
            one.component.clone(),
            match one.protection {
                Protection::Protected => "protected",
                Protection::Late => "LATE",
                Protection::Broken => "BROKEN",
                Protection::Unprotected => "UNPROTECTED",
            }
            .to_owned(),
            one.age_seconds.map(|age| format!("{} ago", seconds(age))).unwrap_or_default(),
            one.rpo_seconds.map(seconds).unwrap_or_default(),
            one.bytes.map(units::bytes).unwrap_or_default(),
            one.points.to_string(),
        ]);
    }
    table.lines().try_for_each(|line| ui.line(line))?;
    ui.line("")?;
    let mut table = Table::new(&["scenario", "", "measured", "RTO", "last run"], &[2, 3]);
    for one in &readiness.scenarios {
        table.row([
            one.scenario.clone(),
            match one.proof {
                Proof::Proven if one.meets_rto() => "proven",
                Proof::Proven => "TOO SLOW",
                Proof::Stale => "STALE",
                Proof::Failed => "FAILED",
                Proof::NeverTried => "NEVER TRIED",
            }
            .to_owned(),
            one.rto_measured_seconds.map(seconds).unwrap_or_default(),
            one.rto_seconds.map(seconds).unwrap_or_default(),
            one.run.clone().unwrap_or_default(),
        ]);
    }
    table.lines().try_for_each(|line| ui.line(line))?;
    ui.line("")?;
    for one in &readiness.components {
        if let Some(why) = &one.why {
            ui.line(format!("{} {}: {}", ui.paint(Style::Yellow, "!"), one.component, printable(why)))?;
        }
    }
    for one in &readiness.scenarios {
        for why in &one.why {
            ui.line(format!("{} {}: {}", ui.paint(Style::Yellow, "!"), one.scenario, printable(why)))?;
        }
    }
    for run in &readiness.open {
        ui.line(format!("{} run {run} is not at its end", ui.paint(Style::Yellow, "!")))?;
    }
    for what in &readiness.unreadable {
        ui.problem("a record", what);
    }
    Ok(())
}

fn seconds(seconds: f64) -> String {
    units::duration(Duration::from_secs_f64(seconds.max(0.0)))
}
