//! `lifeboat repository check`

use repository::check::{CheckOptions, CheckReport, ReadData, Remedy, Severity, check};
use serde::Serialize;

use crate::access::Access;
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::ui::{Style, Ui, printable};
use crate::units;

/// See whether everything that snapshots need is there and right
///
/// Without --read-data the structure is checked: every snapshot, every directory, and that every pack is there and
/// has the right size. With it every byte is read as well. Nothing is changed. Exits with 1 when something is lost
/// or damaged, and with 2 when something should be put in order.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository check
  lifeboat repository check --read-data
  lifeboat repository check --read-data-subset 1/7     on Mondays, 2/7 on Tuesdays, and so on
  lifeboat repository check --read-data-subset 10%     a random tenth")]
pub struct Args {
    /// Read every byte
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read a part: the Nth of T parts, or a random choice of this share or size
    #[arg(long, value_name = "N/T|P%|SIZE", value_parser = parse_subset)]
    read_data_subset: Option<ReadData>,
}

#[derive(Serialize)]
struct Summary {
    errors: u64,
    warnings: u64,
    notes: u64,
    affected_snapshots: u64,
    snapshots: u64,
    trees: u64,
    blobs: u64,
    packs: u64,
    packs_read: u64,
    bytes_read: u64,
}

/// So many paths of a snapshot are named for people; JSON has them all.
const PATHS_SHOWN: usize = 20;

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let read_data = match args.read_data_subset {
        Some(subset) => subset,
        None if args.read_data => ReadData::All,
        None => ReadData::None,
    };
    let repository = access.open(ui)?;
    let progress = Progress::new(ui).without_problems();
    let options = CheckOptions { read_data, lock: access.lock_of_check() };
    let report = check(&repository, &options, progress.context())?;
    drop(progress);
    print(&report, ui)?;

    let count = |severity| report.findings.iter().filter(|f| f.severity() == severity).count() as u64;
    let summary = Summary {
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        notes: count(Severity::Note),
        affected_snapshots: report.affected.len() as u64,
        snapshots: report.snapshots,
        trees: report.trees,
        blobs: report.blobs,
        packs: report.packs,
        packs_read: report.packs_read,
        bytes_read: report.bytes_read,
    };
    let verdict = verdict(&summary, &report);
    if matches!(verdict, Verdict::Verified) {
        ui.line("no errors were found")?;
        if read_data == ReadData::None {
            ui.talk("(the structure only: --read-data reads every byte)")?;
        }
    }
    Ok(Done::new(verdict, &summary))
}

fn print(report: &CheckReport, ui: &Ui) -> Result<(), Failure> {
    ui.talk(format!(
        "checked {}, {}, {} with {}",
        units::counted(report.snapshots, "snapshot", "snapshots"),
        units::counted(report.trees, "folder", "folders"),
        units::counted(report.packs, "pack", "packs"),
        units::counted(report.blobs, "blob", "blobs"),
    ))?;
    if report.packs_read > 0 {
        let packs = units::counted(report.packs_read, "pack", "packs");
        ui.talk(format!("read {packs}, {}", units::bytes(report.bytes_read)))?;
    }
    for finding in &report.findings {
        let (name, style) = match finding.severity() {
            Severity::Note => ("note", Style::Dim),
            Severity::Warning => ("warning", Style::Yellow),
            Severity::Error => ("error", Style::Red),
        };
        let remedy = finding.remedy().map(|remedy| remedy.to_string());
        ui.event(&Line::Finding { severity: name, message: finding.to_string(), remedy })?;
        if finding.severity() == Severity::Note {
            ui.talk(format!("{} {}", ui.paint(style, "note:"), printable(&finding.to_string())))?;
        } else {
            ui.line(format!("{} {}", ui.paint(style, &format!("{name}:")), printable(&finding.to_string())))?;
        }
    }
    for affected in &report.affected {
        let paths = affected.paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        let snapshot_id = affected.id.to_hex();
        let time = affected.time.to_string();
        ui.event(&Line::Affected { snapshot_id, time, count: affected.count, paths })?;
        let items = units::counted(affected.count, "item", "items");
        let time = units::local_time(affected.time);
        ui.line(format!("snapshot {} of {time} has lost {items}:", affected.id.short()))?;
        for path in affected.paths.iter().take(PATHS_SHOWN) {
            ui.line(format!("  {}", printable(&path.to_string_lossy())))?;
        }
        let more = affected.count.saturating_sub(PATHS_SHOWN as u64);
        if more > 0 {
            ui.line(format!("  and {} more", units::count(more)))?;
        }
    }
    Ok(())
}

fn verdict(summary: &Summary, report: &CheckReport) -> Verdict {
    let remedies = report.remedies();
    let mut hints: Vec<String> = remedies.iter().copied().map(hint).collect();
    if !report.affected.is_empty() && !remedies.contains(&Remedy::RepairSnapshots) {
        hints.push(format!("if that does not help, {}", hint(Remedy::RepairSnapshots)));
    }
    match (summary.errors, summary.warnings) {
        (0, 0) => Verdict::Verified,
        (0, warnings) => {
            let why = format!("{}, no errors", units::counted(warnings, "warning", "warnings"));
            Verdict::NotProven(Explained { why, hints })
        }
        (errors, _) => Verdict::Failed(Explained { why: units::counted(errors, "error", "errors"), hints }),
    }
}

/// The commands that a remedy means.
fn hint(remedy: Remedy) -> String {
    let commands = match remedy {
        Remedy::RepairIndex => "lifeboat repository repair index",
        Remedy::RepairPacks => "lifeboat repository repair packs",
        Remedy::RepairSnapshots => "lifeboat repository repair snapshots",
        Remedy::Prune => "lifeboat repository prune",
        Remedy::InspectSnapshots => "lifeboat repository snapshots",
        Remedy::RemoveKey => "lifeboat repository key remove",
    };
    format!("{remedy}: `{commands}`")
}

fn parse_subset(text: &str) -> Result<ReadData, String> {
    let fail = || format!("{text:?} is no part such as 1/7, 10% or 2G");
    if let Some((part, of)) = text.split_once('/') {
        let (part, of) = (part.parse().map_err(|_| fail())?, of.parse().map_err(|_| fail())?);
        return Ok(ReadData::Part { part, of });
    }
    if let Some(percent) = text.strip_suffix('%') {
        return Ok(ReadData::Percent(percent.trim().parse().map_err(|_| fail())?));
    }
    units::parse_bytes(text).map(ReadData::Bytes).map_err(|_| fail())
}
