//! `lifeboat verify`

use engine::protect;
use repository::check::{CheckOptions, ReadData, Severity, check};

use super::run;
use crate::estate::{FromArgs, PlanArgs};
use crate::live::Live;
use crate::outcome::{Answer, Done, Explained, Verdict};
use crate::progress::Progress;
use crate::ui::Ui;

/// Verify what is stored: its structure, all of its data, or a real restore
///
/// Without options the repository's structure is checked. --data reads every byte. --restore restores the newest point of
/// each component into scratch, proves it by its integrity and its facts, and throws it away.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat verify
  lifeboat verify --data
  lifeboat verify --restore database")]
pub struct Args {
    /// With --restore: which components; all if not given
    #[arg(value_name = "COMPONENT", requires = "restore")]
    components: Vec<String>,
    /// Read and verify every byte that is stored
    #[arg(long)]
    data: bool,
    /// Restore into scratch and prove what comes back
    #[arg(long)]
    restore: bool,
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
    if !args.restore {
        return Ok(Done::verified(&serde_json::json!({ "verified": checked })));
    }
    let live = Live::new(ui, &site.who, None);
    let finished = protect::verify_restore(&site, &args.components, run::conduct(&live));
    drop(live);
    run::conclude(ui, &finished?)
}
