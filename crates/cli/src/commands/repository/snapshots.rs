//! `lifeboat repository snapshots`

use std::collections::HashMap;

use repository::{Repository, SnapshotEntry};
use serde::Serialize;

use super::{FilterArgs, choose_snapshots};
use crate::access::Access;
use crate::json::{Line, SnapshotLine};
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::table::Table;
use crate::ui::{Style, Ui, printable};
use crate::units;

/// List the snapshots
///
/// The oldest comes first. A snapshot is named by the beginning of its id, or `latest`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository snapshots
  lifeboat repository snapshots --host web1 --tag nightly --latest 3")]
pub struct Args {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    names: Vec<String>,
    /// Only the newest this many of every host and set of paths
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Summary {
    snapshots: usize,
    unreadable: usize,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    let (mut entries, unreadable) = select(args, &repository, ui)?;
    if let Some(latest) = args.latest {
        keep_latest(&mut entries, latest);
    }
    let mut table = Table::new(&["id", "time", "host", "tags", "size", "paths"], &[4]);
    for entry in &entries {
        table.row(row(entry));
        ui.event(&Line::Snapshot(SnapshotLine::of(entry)))?;
    }
    for (number, line) in table.lines().enumerate() {
        match number {
            0 if entries.is_empty() => {}
            0 => ui.line(ui.paint(Style::Dim, &line))?,
            _ => ui.line(line)?,
        }
    }
    ui.talk(units::counted(entries.len() as u64, "snapshot", "snapshots"))?;
    let summary = Summary { snapshots: entries.len(), unreadable };
    let verdict = match unreadable {
        0 => Verdict::Verified,
        n => Verdict::Failed(Explained::new(
            format!("{} cannot be read", units::counted(n as u64, "snapshot", "snapshots")),
            "see what can be done with `lifeboat repository check`",
        )),
    };
    Ok(Done::new(verdict, &summary))
}

fn select(args: &Args, repository: &Repository, ui: &Ui) -> Result<(Vec<SnapshotEntry>, usize), Failure> {
    if !args.names.is_empty() {
        return Ok((choose_snapshots(repository, &args.names, &args.filter)?, 0));
    }
    let filter = args.filter.resolve()?;
    let (mut entries, failures) = repository.snapshots_tolerant()?;
    for (id, error) in &failures {
        ui.problem(&format!("snapshot {id}"), &error.to_string());
    }
    entries.retain(|entry| filter.matches(&entry.snapshot));
    Ok((entries, failures.len()))
}

fn keep_latest(entries: &mut Vec<SnapshotEntry>, latest: usize) {
    let mut seen: HashMap<(String, Vec<String>), usize> = HashMap::new();
    let mut kept: Vec<SnapshotEntry> = Vec::new();
    for entry in entries.drain(..).rev() {
        let group = (entry.snapshot.hostname.clone(), entry.snapshot.paths.clone());
        let count = seen.entry(group).or_default();
        *count += 1;
        if *count <= latest {
            kept.push(entry);
        }
    }
    kept.reverse();
    *entries = kept;
}

fn row(entry: &SnapshotEntry) -> [String; 6] {
    let snapshot = &entry.snapshot;
    let size = snapshot.summary.as_ref().map(|summary| units::bytes(summary.total_bytes_processed));
    [
        entry.id.short(),
        units::local_time(snapshot.time),
        printable(&snapshot.hostname),
        printable(&snapshot.tags.join(",")),
        size.unwrap_or_default(),
        printable(&snapshot.paths.join(" ")),
    ]
}
