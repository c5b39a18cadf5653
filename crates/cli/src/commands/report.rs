//! `lifeboat report`

use std::path::PathBuf;

use clap::ValueEnum;
use engine::report::{self, Report, html, markdown};
use engine::runs::{self, Files};

use crate::access::Access;
use crate::estate::{PlanArgs, access};
use crate::json::Line;
use crate::outcome::{Answer, Done, Failure};
use crate::ui::Ui;

/// Tell what one run did, showed and measured
///
/// Made from the run's journal on this machine or, where that is not, from its copy in the repository. The page that
/// `--format html` writes needs nothing else to be shown, mailed or printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat report latest
  lifeboat report 7f3a --format html --output report.html
  lifeboat report latest --format json")]
pub struct Args {
    /// The run: its id, the end of its id, or `latest`
    #[arg(value_name = "RUN")]
    run: String,
    /// How it is written
    #[arg(long, value_name = "FORMAT", default_value = "md")]
    format: Format,
    /// Write it to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    plan: PlanArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Markdown
    Md,
    /// One page of HTML that needs nothing else
    Html,
    /// JSON
    Json,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let report = args.read(ui)?;
    let value = serde_json::to_value(&report).expect("a report has only text keys");
    ui.event(&Line::Answer { kind: "report", answer: value.clone() })?;
    let text = match args.format {
        Format::Md => markdown(&report),
        Format::Html => html(&report),
        Format::Json => format!("{value:#}\n"),
    };
    write(ui, args.output.as_deref(), &text)?;
    Ok(Done::verified(&serde_json::json!({ "run": report.run, "outcome": report.outcome })))
}

impl Args {
    /// Reads the report; the repository is opened only if this machine does not have the run.
    fn read(&self, ui: &Ui) -> Result<Report, Failure> {
        let read = self.plan.read()?;
        let state = self.plan.state(&read)?;
        // The newest of all runs may be another machine's, and this one must answer also when the repository is gone.
        let id = runs::find(&state, &self.run)?;
        if Files::of(&state, &id).journal().exists() {
            return Ok(report::read(&state, None, &id)?);
        }
        let access: Access = access(&read)?;
        let repository = access.open(ui)?;
        let id = runs::find_everywhere(&state, &repository, &self.run)?;
        Ok(report::read(&state, Some(&repository), &id)?)
    }
}

/// Writes a document to a file, or to standard output unless that is for JSON lines.
pub fn write(ui: &Ui, output: Option<&std::path::Path>, text: &str) -> Result<(), Failure> {
    match output {
        Some(file) => {
            std::fs::write(file, text)
                .map_err(|error| Failure::other(format!("failed to write {}: {error}", file.display())))?;
            ui.talk(format!("written to {}", file.display()))
        }
        None if ui.is_json() => Ok(()),
        None => ui.raw(text.as_bytes()),
    }
}
