//! `lifeboat points`

use std::time::Duration;

use engine::point::{Catalogue, Point};
use engine::site::Site;
use engine::timeline::{Interruption, Stretch, Timeline, timeline};
use estate::floor::Plausibility;
use jiff::Timestamp;

use crate::estate::{FromArgs, PlanArgs};
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::table::Table;
use crate::timeline::{COLUMNS, Drawn, draw};
use crate::ui::{Style, Ui, printable};
use crate::units;

/// Show the recovery points that there are
///
/// One line for each point, the newest last: the moment that it represents, what was measured in it, and whether it counts.
/// Then, for each component whose log is archived, a time line: = is any instant, * a point, x a gap.
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
    let timelines = timelines(&site, &catalogue, args.component.as_deref())?;
    for timeline in &timelines {
        show(timeline, &catalogue, ui)?;
    }
    for what in &catalogue.unreadable {
        ui.problem("a recovery point", what);
    }
    let mut summary = serde_json::json!({ "points": shown, "unreadable": catalogue.unreadable });
    if !timelines.is_empty() {
        summary["logs"] = serde_json::to_value(&timelines).expect("a time line has only text keys");
    }
    if catalogue.unreadable.is_empty() {
        return Ok(Done::verified(&summary));
    }
    let why = "not every record of a recovery point can be read, so that points may be missing above";
    let hint = "see what is damaged with `lifeboat verify --data`";
    Ok(Done::new(Verdict::NotProven(Explained::new(why, hint)), &summary))
}

/// The time lines of the components of the plan, or of one, that have a log.
fn timelines(
    site: &Site,
    catalogue: &Catalogue,
    wanted: Option<&str>,
) -> Result<Vec<Timeline>, engine::Error> {
    let components = site.plan.components.names().filter(|name| wanted.is_none_or(|wanted| wanted == *name));
    let timelines = components.map(|name| timeline(&site.repository, catalogue, name));
    timelines.filter_map(Result::transpose).collect()
}

fn show(timeline: &Timeline, catalogue: &Catalogue, ui: &Ui) -> Result<(), Failure> {
    let name = &timeline.component;
    ui.event(&Line::Answer {
        kind: "log",
        answer: serde_json::to_value(timeline).expect("a time line has only text keys"),
    })?;
    ui.line("")?;
    let points: Vec<Timestamp> = catalogue.of(name).map(Point::instant).collect();
    let ends = timeline.stretches.iter().map(|stretch| stretch.end);
    let known = points.iter().copied().chain(ends).chain(timeline.archived_to);
    let Some((from, to)) = known.fold(None, |extent: Option<(Timestamp, Timestamp)>, instant| {
        let (from, to) = extent.unwrap_or((instant, instant));
        Some((from.min(instant), to.max(instant)))
    }) else {
        return ui.line(format!("{name}: a log is archived, and no point leads into it"));
    };
    let (left, right) = (second(from), second(to));
    let between = COLUMNS.saturating_sub(left.len() + right.len());
    ui.line(format!("{name}  {left}{}{right}", " ".repeat(between)))?;
    let mut lineages: Vec<&str> = timeline.stretches.iter().map(|stretch| stretch.lineage.as_str()).collect();
    lineages.extend(timeline.gaps.iter().map(|gap| gap.lineage.as_str()));
    lineages.sort_unstable();
    lineages.dedup();
    let indent = " ".repeat(name.chars().count() + 2);
    for lineage in lineages {
        let of = |stretch: &&Stretch| stretch.lineage == lineage;
        let gaps = timeline.gaps.iter().filter(|gap| gap.lineage == lineage);
        let drawn = Drawn {
            stretches: timeline.stretches.iter().filter(of).map(|one| (one.begin, one.end)).collect(),
            points: catalogue
                .of(name)
                .filter(|point| stands_in(point, lineage))
                .map(Point::instant)
                .collect(),
            gaps: gaps.filter_map(|gap| Some((gap.since?, gap.until))).collect(),
        };
        ui.line(format!("{indent}{}  {}", draw(&drawn, from, to), printable(lineage)))?;
    }
    for stretch in &timeline.stretches {
        let points = units::counted(stretch.points.len() as u64, "point", "points");
        ui.line(format!(
            "{indent}any instant from {} to {} ({points})",
            second(stretch.begin),
            second(stretch.end)
        ))?;
    }
    for gap in &timeline.gaps {
        ui.line(format!("{indent}{} {}", ui.paint(Style::Yellow, "GAP"), printable(&told(gap, name))))?;
    }
    for without in &timeline.without {
        let why = printable(&without.why);
        ui.line(format!("{indent}the point of {} stands alone: {why}", second(without.instant)))?;
    }
    Ok(())
}

/// Whether a point belongs to the line of a lineage; one without a log belongs to all.
fn stands_in(point: &Point, lineage: &str) -> bool {
    point.recorded.log.as_ref().is_none_or(|log| log.lineage == lineage)
}

fn told(gap: &Interruption, component: &str) -> String {
    if gap.hides_newest {
        return gap.alarm(component);
    }
    let since = gap.since.map_or_else(|| "an unknown instant".to_owned(), second);
    let until = gap.until.map(|until| format!(" to {}", second(until))).unwrap_or_default();
    format!("from {since}{until}: {:#x} to {:#x} is missing", gap.after, gap.before)
}

fn second(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
