//! What the commands that begin or go on with runs share: showing a preview, asking, conducting, concluding.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use engine::execute::{Conduct, Finished};
use engine::recover::Preview;
use engine::runs::Record;
use estate::component::Severity;
use runbook::{Body, Outcome, RunStatus};

use crate::interrupt;
use crate::json::Line;
use crate::live::Live;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::ui::{Style, Ui, printable, printable_lines};
use crate::units;

/// How long a person is waited for where the plan does not say.
const ANSWER_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// How a run is watched and steered from this terminal.
pub fn conduct(live: &Live) -> Conduct<'_> {
    Conduct {
        observer: live,
        controls: &*live.orders,
        interrupt: interrupt::arm(),
        answer_within: Some(ANSWER_WITHIN),
    }
}

/// Shows what a run will do, before anything is done.
pub fn show_preview(ui: &Ui, preview: &Preview) -> Result<(), Failure> {
    ui.event(&Line::Answer {
        kind: "preview",
        answer: serde_json::json!({
            "run": preview.id,
            "runbook": preview.runbook,
            "findings": preview.findings,
        }),
    })?;
    ui.line(ui.paint(Style::Bold, &printable(&preview.runbook.title)))?;
    if let Some(copy) = &preview.context.from {
        ui.line(format!("  from the copy {}", printable(copy)))?;
    }
    show_chosen(ui, preview)?;
    ui.line("")?;
    let mut lines = Vec::new();
    preview.runbook.visit(&mut |step, depth| {
        let indent = "  ".repeat(depth + 1);
        let what = match &step.body {
            Body::Action(action) => format!("  {}", ui.paint(Style::Dim, &clip(&action.command))),
            Body::Gate { check, within, .. } => {
                let within = units::duration(*within);
                format!("  {}", ui.paint(Style::Dim, &format!("{}, at most {within}", clip(&check.command))))
            }
            Body::Parallel(_) => format!("  {}", ui.paint(Style::Dim, "together")),
            Body::Approve { .. } => format!("  {}", ui.paint(Style::Yellow, "a person")),
            _ => String::new(),
        };
        lines.push(format!("{indent}{} {}{what}", step.id, printable(&step.name)));
    });
    for line in lines {
        ui.line(line)?;
    }
    for left in &preview.context.left_out {
        ui.line(format!("  – {}: {}", printable(&left.step), left.why))?;
    }
    ui.line("")?;
    for finding in &preview.findings {
        let (style, word) = match finding.severity {
            Severity::Error => (Style::Red, "in the way:"),
            Severity::Warning => (Style::Yellow, "note:"),
        };
        ui.line(format!("{} {}; {}", ui.paint(style, word), printable(&finding.what), finding.hint))?;
    }
    Ok(())
}

/// Shows which points are brought back. Without a scenario there is no disaster to count from.
pub fn show_chosen(ui: &Ui, preview: &Preview) -> Result<(), Failure> {
    for chosen in &preview.context.chosen {
        let size = chosen.bytes.map(|bytes| format!(", {}", units::bytes(bytes))).unwrap_or_default();
        let age = preview.context.happened.duration_since(chosen.recovered());
        let age = Duration::try_from(age).map(units::duration).unwrap_or_default();
        let when = if preview.context.scenario.is_some() { "before the disaster" } else { "old" };
        let snapshot = chosen.snapshot.get(..8).unwrap_or(&chosen.snapshot);
        let further = chosen.further.map(|to| format!(" and its log up to {to}")).unwrap_or_default();
        ui.line(format!(
            "  {} from snapshot {snapshot} of {}{further} ({age} {when}{size})",
            chosen.component, chosen.instant
        ))?;
    }
    Ok(())
}

/// Asks once; without a terminal to ask at, `--yes` is needed.
pub fn confirm(ui: &Ui, yes: bool, question: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if ui.is_json() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nobody is there to ask, and this changes things",
            "look at it with --dry-run, and give --yes to do it",
        ));
    }
    let mut out = std::io::stderr().lock();
    write!(out, "{question} Type yes to go on: ").and_then(|()| out.flush()).map_err(Failure::Output)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(Failure::Output)?;
    Ok(answer.trim() == "yes")
}

/// The answer of a command whose run has ended.
pub fn conclude(ui: &Ui, finished: &Finished) -> Answer {
    let record = &finished.record;
    for remark in &finished.remarks {
        ui.problem(&record.run, remark);
    }
    for (step, loss) in &finished.verdict.losses {
        ui.note(&format!("note: {loss} ({step})"));
    }
    // What was taken back is not back.
    let is_back = !matches!(finished.state.status(), RunStatus::RolledBack | RunStatus::RollingBack);
    if let Some(line) = clocks(record).filter(|_| is_back) {
        ui.line(line)?;
    }
    ui.line(format!("run {}", record.run))?;
    ui.event(&Line::Answer {
        kind: "record",
        answer: serde_json::to_value(record).expect("a record has only text keys"),
    })?;
    Ok(Done::new(verdict(record), record))
}

/// What was measured, beside phases.
fn clocks(record: &Record) -> Option<String> {
    let rto = record.rto_seconds?;
    let phases: Vec<String> = record
        .phases
        .iter()
        .filter(|(_, seconds)| *seconds >= 0.05)
        .map(|(phase, seconds)| format!("{phase} {}", units::duration(Duration::from_secs_f64(*seconds))))
        .collect();
    let rpo = record.rpo_seconds.map(|seconds| {
        format!("; data as of {} before the disaster", units::duration(Duration::from_secs_f64(seconds)))
    });
    let phases = if phases.is_empty() { String::new() } else { format!(" ({})", phases.join(", ")) };
    Some(format!(
        "back after {}{phases}{}",
        units::duration(Duration::from_secs_f64(rto)),
        rpo.unwrap_or_default()
    ))
}

fn verdict(record: &Record) -> Verdict {
    let why = if record.reasons.is_empty() { "it was ended".to_owned() } else { record.reasons.join("\n  ") };
    let explained = |hint: String| Explained { why: printable_lines(&why), hints: vec![hint] };
    match record.outcome {
        Outcome::Verified => Verdict::Verified,
        Outcome::NotProven => {
            Verdict::NotProven(explained(format!("see what was shown with `lifeboat report {}`", record.run)))
        }
        Outcome::Failed => Verdict::Failed(explained(again(record))),
        Outcome::CouldNotRun => Verdict::CouldNotRun(explained(again(record))),
        Outcome::Interrupted => Verdict::Interrupted(explained(again(record))),
    }
}

fn again(record: &Record) -> String {
    match (record.kind, &record.scenario) {
        (engine::runs::Kind::Recover, Some(scenario)) => {
            format!("mend the cause and go on with `lifeboat recover {scenario} --resume {}`", record.run)
        }
        (engine::runs::Kind::Verify, _) => {
            format!(
                "nothing of the test is left in scratch; see the whole story with `lifeboat report {}`, and which \
                 points there are with `lifeboat points`",
                record.run
            )
        }
        (kind, _) => format!("mend the cause and run `lifeboat {}` again", kind.as_str()),
    }
}

fn clip(text: &str) -> String {
    const CHARS: usize = 100;
    let text = text.replace('\n', "; ");
    if text.chars().count() <= CHARS { text } else { text.chars().take(CHARS).chain(['…']).collect() }
}
