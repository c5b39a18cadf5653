//! `lifeboat forget`

use engine::retain::{self, Forgotten, PrunedLogs, Retention};
use engine::site::Site;
use serde::Serialize;

use super::run;
use crate::estate::PlanArgs;
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::table::Table;
use crate::ui::{Style, Ui, printable};
use crate::units;

/// Forget recovery points that the plan's `keep` does not keep
///
/// Every backup does this for what it has backed up; here it is shown first, and done once it is confirmed, in the
/// repository and in the plan's copies. Only points that count take up the places that `keep` gives. The newest of them
/// stays whatever `keep` says, and so do the newest that was proven by a restore and what an unfinished recovery
/// uses. Data goes with the prune that a backup does once a week, or now with --prune.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat forget --dry-run            which points would go, and why the others stay
  lifeboat forget database --yes
  lifeboat forget --prune              and give back the room that no point needs")]
pub struct Args {
    /// Whose points; those of every component that has a `keep` if not given
    #[arg(value_name = "COMPONENT")]
    components: Vec<String>,
    /// Show what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Then mark data that no snapshot needs, and delete what was marked a day ago
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    plan: PlanArgs,
}

/// One repository whose points are kept by the plan.
struct Place {
    name: String,
    site: Site,
    shown: Retention,
}

#[derive(Default, Serialize)]
struct Summary {
    dry_run: bool,
    kept: usize,
    removed: usize,
    pruned: bool,
    unreachable: Vec<String>,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let site = args.plan.open(ui)?;
    let mut summary = Summary { dry_run: args.dry_run, ..Summary::default() };
    let places = places(args, &site, &mut summary, ui)?;
    for place in &places {
        show(place, &site, ui)?;
    }
    let going: usize = places.iter().map(|place| place.shown.remove().count()).sum();
    summary.kept = places.iter().flat_map(|place| &place.shown.components).map(|one| one.keep.len()).sum();
    let count = units::counted(going as u64, "point", "points");
    if args.dry_run {
        ui.line(format!("dry run: {count} would be forgotten"))?;
        return Ok(conclude(&summary));
    }
    if going > 0 && !run::confirm(ui, args.yes, &format!("{count} cannot be recovered to any more."))? {
        return Err(Failure::usage("not confirmed, so nothing was done", "answer yes, or give --yes"));
    }
    for place in &places {
        let progress = Progress::new(ui);
        let Forgotten { removed, .. } = retain::carry_out(&place.site, &place.shown, progress.context())?;
        let pruned = args.prune.then(|| retain::prune(&place.site, progress.context())).transpose()?;
        drop(progress);
        summary.removed += removed.len();
        for point in &removed {
            ui.event(&Line::Removed { kind: "snapshot", id: point.snapshot.to_hex() })?;
        }
        let forgot = units::counted(removed.len() as u64, "point", "points");
        ui.line(format!("forgot {forgot} in {}", printable(&place.name)))?;
        if let Some(pruned) = pruned {
            summary.pruned = true;
            ui.line(format!(
                "pruned: {} deleted, {} marked to be deleted by a prune a day or more from now",
                units::counted(pruned.data.delete.packs, "pack", "packs"),
                units::counted(pruned.data.mark.packs + pruned.data.repack.packs, "pack", "packs"),
            ))?;
            show_logs(&pruned.logs, ui)?;
        }
    }
    Ok(conclude(&summary))
}

/// The repository, and the copies that can be reached; a copy without a point has nothing to forget.
fn places(args: &Args, site: &Site, summary: &mut Summary, ui: &Ui) -> Result<Vec<Place>, Failure> {
    let shown = retain::plan(site, &args.components)?;
    let mut places = vec![Place { name: "the repository".into(), site: site.clone(), shown }];
    for copy in &site.copies {
        let name = format!("the copy {}", copy.location);
        let planned = copy.open().and_then(|repository| {
            let site = site.of_copy(repository);
            let shown = retain::plan(&site, &args.components).map_err(|error| error.to_string())?;
            Ok(Place { name: name.clone(), site, shown })
        });
        match planned {
            Ok(place) => places.push(place),
            Err(why) => {
                ui.problem(&name, &why);
                summary.unreachable.push(copy.location.clone());
            }
        }
    }
    Ok(places)
}

fn conclude(summary: &Summary) -> Done {
    let verdict = match summary.unreachable.as_slice() {
        [] => Verdict::Verified,
        some => Verdict::NotProven(Explained::new(
            format!("nothing was forgotten in {}", some.join(", ")),
            "see above; run the command again when they can be reached",
        )),
    };
    Done::new(verdict, summary)
}

fn show(place: &Place, site: &Site, ui: &Ui) -> Result<(), Failure> {
    ui.event(&Line::Answer {
        kind: "retention",
        answer: serde_json::json!({ "place": place.name, "retention": place.shown }),
    })?;
    if !site.copies.is_empty() {
        ui.talk(ui.paint(Style::Bold, &printable(&place.name)))?;
    }
    let mut table = Table::new(&["", "component", "instant", "snapshot", "why"], &[]);
    for component in &place.shown.components {
        let mut rows: Vec<_> = component.remove.iter().map(|point| (point, None)).collect();
        rows.extend(component.keep.iter().map(|(point, why)| (point, Some(why))));
        rows.sort_by_key(|(point, _)| point.instant());
        for (point, why) in rows {
            let why = why.map(|why| why.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
            table.row([
                if why.is_some() { "keep" } else { "forget" }.to_owned(),
                component.component.clone(),
                point.instant().strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
                point.short(),
                why.unwrap_or_default(),
            ]);
        }
    }
    table.lines().try_for_each(|line| ui.talk(line))?;
    for (component, why) in &place.shown.left_alone {
        ui.talk(format!("{component}: every point stays, {why}"))?;
    }
    Ok(())
}

/// What became of archived logs; nothing where there are none.
fn show_logs(logs: &PrunedLogs, ui: &Ui) -> Result<(), Failure> {
    if logs.removed + logs.marked > 0 {
        ui.line(format!(
            "of archived logs: {} deleted ({}), {} marked to be deleted by a prune a day or more from now",
            units::counted(logs.removed, "segment", "segments"),
            units::bytes(logs.removed_bytes),
            units::counted(logs.marked, "segment", "segments"),
        ))?;
    }
    for (component, why) in &logs.left_alone {
        ui.line(format!("the whole log of {component} stays: {}", printable(why)))?;
    }
    Ok(())
}
