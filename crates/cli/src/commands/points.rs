//! `lifeboat points`

use std::time::Duration;

use estate::floor::Plausibility;

use crate::estate::{FromArgs, PlanArgs};
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Verdict};
use crate::table::Table;
use crate::ui::Ui;
use crate::units;

/// Show the recovery points that there are
///
/// One line for each point, the newest last: the moment that it represents, what was measured in it, and whether it counts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat points
  lifeboat points database")]
pub struct Args {
    /// Whose points; those of all components if not given
    #[arg(value_name = "COMPONENT")]
    component: Option<String>,
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open_from(&args.from, ui)?;
    if let Some(component) = &args.component {
        site.plan.component(component).map_err(engine::Error::from)?;
    }
    let catalogue = site.catalogue()?;
    let now = site.now();
    let mut table = Table::new(&["component", "instant", "age", "size", "snapshot", "facts"], &[2, 3]);
    let mut shown = 0_u64;
    for point in catalogue.all() {
        if args.component.as_ref().is_some_and(|wanted| *wanted != point.component) {
            continue;
        }
        shown += 1;
        ui.event(&Line::Answer {
            kind: "point",
            answer: serde_json::to_value(point).expect("a point has only text keys"),
        })?;
        let age = Duration::try_from(now.duration_since(point.instant())).unwrap_or_default();
        let facts: Vec<String> =
            point.recorded.facts.declared.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let doubt = match &point.plausibility {
            Plausibility::Plausible => String::new(),
            Plausibility::Accepted(_) => " (accepted)".to_owned(),
            Plausibility::Implausible(reasons) => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                format!(" DOES NOT COUNT: {}", reasons.join("; "))
            }
        };
        table.row([
            point.component.clone(),
            point.instant().strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            units::duration(age),
            point.recorded.bytes.map(units::bytes).unwrap_or_default(),
            point.short(),
            format!("{}{doubt}", facts.join(", ")),
        ]);
    }
    if shown == 0 {
        ui.line("there are no recovery points yet; make some with `lifeboat backup`")?;
    } else {
        table.lines().try_for_each(|line| ui.line(line))?;
    }
    for what in &catalogue.unreadable {
        ui.problem("a recovery point", what);
    }
    let summary = serde_json::json!({ "points": shown, "unreadable": catalogue.unreadable });
    if catalogue.unreadable.is_empty() {
        return Ok(Done::verified(&summary));
    }
    let why = "not every record of a recovery point can be read, so that points may be missing above";
    let hint = "see what is damaged with `lifeboat verify --data`";
    Ok(Done::new(Verdict::NotProven(Explained::new(why, hint)), &summary))
}
