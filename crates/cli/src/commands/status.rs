//! `lifeboat status`

use std::time::Duration;

use engine::status::{ComponentProof, Proof, Protection, Readiness, status};

use crate::estate::{FromArgs, PlanArgs};
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Verdict};
use crate::table::Table;
use crate::ui::{Style, Ui, printable, printable_path};
use crate::units;

/// Show how ready you are: every objective beside what is measured
///
/// Reads the repository, so that it works from any machine that has the plan and the key, and asks a PostgreSQL server of this
/// machine where its log stands. Exits with 0 if everything is
/// protected and proven, 1 if something is broken, and 2 if something is late, stale or was never tried.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat status
  lifeboat status --json")]
pub struct Args {
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open_from(&args.from, ui)?;
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
    let mut table =
        Table::new(&["component", "", "newest", "RPO", "size", "points", "came back"], &[2, 3, 4, 5]);
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
            one.restored
                .as_ref()
                .map_or_else(|| "not tried".to_owned(), |restored| came_back(restored, readiness)),
        ]);
    }
    table.lines().try_for_each(|line| ui.line(line))?;
    ui.line("")?;
    show_copies(ui, readiness)?;
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
    for one in &readiness.components {
        for why in one.restored.iter().flat_map(|restored| &restored.why) {
            let mark = ui.paint(Style::Yellow, "!");
            ui.line(format!("{mark} {}, when it was last brought back: {}", one.component, printable(why)))?;
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
    for killed in &readiness.killed {
        let mark = ui.paint(Style::Yellow, "!");
        let left = printable_path(&killed.left);
        ui.line(format!(
            "{mark} the restore test {} was killed and has shown nothing; the next one removes {left}, or do it by hand",
            killed.run
        ))?;
    }
    for what in &readiness.unreadable {
        ui.problem("a record", what);
    }
    Ok(())
}

/// How far each copy is behind, by component.
fn show_copies(ui: &Ui, readiness: &Readiness) -> Result<(), crate::outcome::Failure> {
    if readiness.copies.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["copy", "component", "", "newest there", "behind"], &[3, 4]);
    for copy in &readiness.copies {
        if copy.why.is_some() {
            let [empty, none] = [String::new(), String::new()];
            table.row([printable(&copy.location), empty, "UNREACHABLE".to_owned(), none, String::new()]);
        }
        for one in &copy.components {
            let age = one.newest.map(|newest| readiness.now.duration_since(newest).as_secs_f64());
            let word = match one.behind_seconds {
                None => "MISSING",
                Some(_) if one.is_late => "LATE",
                Some(0.0) => "current",
                Some(_) => "behind",
            };
            table.row([
                printable(&copy.location),
                one.component.clone(),
                word.to_owned(),
                age.map(|age| format!("{} ago", seconds(age))).unwrap_or_default(),
                one.behind_seconds.map(seconds).unwrap_or_default(),
            ]);
        }
    }
    table.lines().try_for_each(|line| ui.line(line))?;
    for copy in &readiness.copies {
        if let Some(why) = &copy.why {
            let mark = ui.paint(Style::Yellow, "!");
            ui.line(format!("{mark} the copy {}: {}", printable(&copy.location), printable(why)))?;
        }
    }
    ui.line("")
}

/// Whether a component came back when it was last tried, and how long ago that was.
fn came_back(restored: &ComponentProof, readiness: &Readiness) -> String {
    let age = readiness.now.duration_since(restored.when).as_secs_f64();
    match restored.proof {
        Proof::Proven => format!("{} ago", seconds(age)),
        Proof::Stale => format!("STALE, {} ago", seconds(age)),
        Proof::Failed | Proof::NeverTried => "FAILED".to_owned(),
    }
}

fn seconds(seconds: f64) -> String {
    units::duration(Duration::from_secs_f64(seconds.max(0.0)))
}
