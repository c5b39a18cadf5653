//! `lifeboat serve`

use std::time::Duration;

use engine::ship::{Event, Shipped, ship};

use crate::estate::PlanArgs;
use crate::interrupt;
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Verdict};
use crate::ui::{Style, Ui, printable};
use crate::units;

/// Ship logs until told to stop
///
/// Follows the log of every component that says `every: continuous`, and archives what is written within a second, so that
/// `lifeboat recover --at INSTANT` reaches any instant. A log that begins gets a base at once, and a new one each day.
///
/// For every PostgreSQL component that says `archive: true` it is the helper of `lifeboat wal push` and `wal fetch`, which the
/// server calls: it archives ahead of the server, reads ahead for a recovery, and says when archiving stands still.
///
/// Stops at SIGTERM or SIGINT, after what was written by then is archived; killed, it goes on where the archive ends, if it can be proven
/// that nothing is missing, and with a new base otherwise. Needs write access to the databases, beside which it keeps a file
/// NAME-lifeboat. Other schedules of the plan are not obeyed yet (let cron or a timer run `lifeboat backup`), and there are
/// no metrics and no dashboard yet.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat serve                 every continuous component, and every server that archives
  lifeboat serve database        one of them
  lifeboat serve --verbose       with a line for each piece that is archived
  lifeboat serve --json          for a program that watches it")]
pub struct Args {
    /// What to ship; every continuous component and every server that archives if nothing is named
    #[arg(value_name = "COMPONENT")]
    components: Vec<String>,
    /// End when no server has asked for so many seconds: what `lifeboat wal --start-helper` starts
    #[arg(long, value_name = "SECONDS", hide = true)]
    until_idle: Option<u64>,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open(ui)?;
    let stop = interrupt::arm();
    let until_idle = args.until_idle.map(Duration::from_secs);
    let shipped = ship(&site, &args.components, &|event| show(ui, event), stop, until_idle)?;
    for one in &shipped {
        ui.line(summary(one))?;
    }
    Ok(Done::new(verdict(&shipped), &shipped))
}

fn verdict(shipped: &[Shipped]) -> Verdict {
    let missing = shipped.iter().filter_map(|one| {
        let why = one.missing.as_ref()?;
        Some(format!("{}: {}", one.component, printable(why)))
    });
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() {
        return Verdict::Verified;
    }
    let hint = "nothing is lost as long as the source has it: run `lifeboat serve` again";
    Verdict::NotProven(Explained::new(missing.join("\n  "), hint))
}

fn summary(one: &Shipped) -> String {
    let until = one.until.map_or_else(|| "nothing yet".to_owned(), |until| format!("up to {until}"));
    let interruptions = match one.interruptions {
        0 => String::new(),
        1 => ", interrupted once".to_owned(),
        count => format!(", interrupted {count} times"),
    };
    let (pieces, bytes) = (units::counted(one.pieces, "piece", "pieces"), units::bytes(one.bytes));
    format!("{}: {until}; {pieces}, {bytes}{interruptions}", one.component)
}

/// A line for what a person wants to know; `--verbose` adds every piece.
fn show(ui: &Ui, event: &Event) {
    ui.json(&Line::Answer {
        kind: "shipping",
        answer: serde_json::to_value(event).expect("events have only text keys"),
    });
    let (style, component, text) = match event {
        Event::Began { component, lineage, why } => {
            let text = format!("a new log {lineage} begins ({why}); a base is made");
            (Style::Yellow, component, text)
        }
        Event::Continues { component, lineage } => {
            (Style::Green, component, format!("the log {lineage} goes on where the archive ends"))
        }
        Event::Shipped { .. } if !ui.is_verbose() => return,
        Event::Shipped { component, bytes, delay_seconds, .. } => {
            let delay = delay_seconds.map(|delay| format!(", {delay:.3} s after it was written"));
            let text = format!("{} archived{}", units::bytes(*bytes), delay.unwrap_or_default());
            (Style::Dim, component, text)
        }
        Event::Based { component, run } => (
            Style::Green,
            component,
            format!("there is a base (run {run}): from here on any instant comes back"),
        ),
        Event::NotBased { component, why } => {
            (Style::Red, component, format!("no base could be made: {why}; it is tried again"))
        }
        Event::Away { component, why, .. } => (
            Style::Red,
            component,
            format!("the repository does not take it: {why}; the source keeps it meanwhile"),
        ),
        Event::Back { component } => (Style::Green, component, "the repository takes it again".to_owned()),
        Event::Interrupted { component, why } => {
            let text =
                format!("the log is interrupted: {why}; nothing comes back from here to the next base");
            (Style::Red, component, text)
        }
        Event::Listening { component, socket } => {
            let text = format!("its server's `lifeboat wal` is answered at {}", socket.display());
            (Style::Green, component, text)
        }
        Event::Standing { component, waiting, archived } => {
            let text = match archived {
                0 => waiting.words(),
                archived => format!(
                    "{}; {} in the repository already: see the server's log for why its archive_command fails",
                    waiting.words(),
                    units::counted(*archived, "file is", "files are"),
                ),
            };
            (Style::Red, component, text)
        }
        Event::Moving { component } => (Style::Green, component, "archiving goes on".to_owned()),
        Event::Waiting { component, why } => (Style::Yellow, component, format!("{why}; it is tried again")),
    };
    // A closed pipe is no reason to stop.
    let _closed = ui.talk(format!("{} {}", ui.paint(style, &format!("{component}:")), printable(&text)));
}
