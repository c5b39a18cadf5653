//! `lifeboat validate`

use estate::component::{Finding, Severity};

use crate::estate::{PlanArgs, access};
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Verdict};
use crate::ui::Ui;
use crate::units::counted;

/// Read the plan and say what is wrong with it
///
/// All that is wrong is told at once, each with its line. Then what the plan names is looked for: the repository, values from
/// outside. What is right and unwise is told as a warning, which does not change how this ends. Changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat validate
  lifeboat validate --plan /srv/app/lifeboat.yaml --environment staging")]
pub struct Args {
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let read = args.plan.read()?;
    let plan = &read.plan;
    ui.line(format!(
        "{} is a plan: {}, {}, {}, {}",
        plan.file,
        counted(plan.components.len() as u64, "component", "components"),
        counted(plan.services.len() as u64, "service", "services"),
        counted(plan.checks.len() as u64, "check", "checks"),
        counted(plan.scenarios.len() as u64, "scenario", "scenarios"),
    ))?;
    let warnings = plan.warnings();
    for warning in &warnings {
        ui.warning(&warning.text(&plan.file));
        ui.event(&Line::Answer { kind: "warning", answer: located(warning) })?;
    }
    let is_timed = |every: &plan::Every| *every != plan::Every::Continuous;
    if plan.components.iter().any(|(_, component)| component.every.as_ref().is_some_and(is_timed)) {
        ui.note("note: `every` starts nothing by itself yet: let cron or a timer run `lifeboat backup`");
    }
    let summary =
        serde_json::json!({ "plan": plan.file, "digest": plan.digest(), "warnings": warnings.len() });
    // What the plan names must be there, too, before it is of use.
    let opened = access(&read).and_then(|access| access.open(ui));
    let opened = opened.and_then(|repository| args.plan.site(read, repository, ui));
    let problems: Vec<String> = match opened {
        Ok(site) => {
            let (errors, unwise): (Vec<_>, Vec<_>) = engine::diagnose::missing(&site)?
                .into_iter()
                .partition(|(_, finding)| finding.severity == Severity::Error);
            let told =
                |(name, finding): &(String, Finding)| format!("{name}: {}; {}", finding.what, finding.hint);
            unwise.iter().for_each(|finding| ui.warning(&told(finding)));
            let copies = site
                .copies
                .iter()
                .filter_map(|copy| copy.open().err().map(|why| format!("the copy {}: {why}", copy.location)));
            errors.iter().map(told).chain(copies).collect()
        }
        Err(failure) => {
            let said = std::iter::once(failure.to_string()).chain(failure.hints());
            vec![said.collect::<Vec<_>>().join("; ")]
        }
    };
    for problem in &problems {
        ui.problem("the plan", problem);
    }
    if problems.is_empty() {
        return Ok(Done::verified(&summary));
    }
    let count = counted(problems.len() as u64, "thing that it names is", "things that it names are");
    let why = format!("the plan is right, and {count} not");
    Ok(Done::new(Verdict::NotProven(Explained::new(why, "see above")), &summary))
}

fn located(warning: &plan::Problem) -> serde_json::Value {
    serde_json::json!({
        "line": warning.line,
        "column": warning.column,
        "width": warning.width,
        "message": warning.message,
        "hint": warning.hint,
    })
}
