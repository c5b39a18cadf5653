//! `lifeboat repository stats`

use clap::ValueEnum;
use repository::stats::{StatsMode, stats};
use repository::{BlobReader, Index};
use serde::Serialize;

use super::{FilterArgs, choose_snapshots};
use crate::access::Access;
use crate::outcome::{Answer, Done};
use crate::progress::Progress;
use crate::ui::Ui;
use crate::units;

/// Count what snapshots hold
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository stats                    what a restore of every snapshot would write
  lifeboat repository stats latest --mode raw-data")]
pub struct Args {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    names: Vec<String>,
    /// How to count
    #[arg(long, value_name = "MODE", default_value = "restore-size")]
    mode: Mode,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// What a restore of every snapshot would write
    RestoreSize,
    /// Files that differ in content, once each
    FilesByContents,
    /// The blobs of files, once for each path
    BlobsPerFile,
    /// The blobs as they are stored, once each
    RawData,
}

#[derive(Serialize)]
struct Summary {
    snapshots: u64,
    files: u64,
    blobs: u64,
    bytes: u64,
    plain_bytes: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    let lock = access.lock_for_reading(&repository)?;
    let snapshots = choose_snapshots(&repository, &args.names, &args.filter)?;
    let progress = Progress::new(ui);
    let index = Index::load(&repository, progress.context())?;
    let reader = BlobReader::new(&repository, &index);
    let mode = match args.mode {
        Mode::RestoreSize => StatsMode::RestoreSize,
        Mode::FilesByContents => StatsMode::FilesByContents,
        Mode::BlobsPerFile => StatsMode::BlobsPerFile,
        Mode::RawData => StatsMode::RawData,
    };
    let stats = stats(&repository, &reader, &snapshots, mode, progress.context())?;
    drop(progress);
    lock.map_or(Ok(()), repository::Lock::release)?;

    ui.line(format!("snapshots  {}", units::count(stats.snapshots)))?;
    if stats.files > 0 {
        ui.line(format!("files      {}", units::count(stats.files)))?;
    }
    if stats.blobs > 0 {
        ui.line(format!("blobs      {}", units::count(stats.blobs)))?;
    }
    ui.line(format!("size       {}", units::bytes(stats.bytes)))?;
    if stats.plain_bytes > 0 && stats.bytes > 0 {
        let ratio = stats.plain_bytes as f64 / stats.bytes as f64;
        ui.line(format!("unpacked   {} ({ratio:.2} times as much)", units::bytes(stats.plain_bytes)))?;
    }
    Ok(Done::verified(&Summary {
        snapshots: stats.snapshots,
        files: stats.files,
        blobs: stats.blobs,
        bytes: stats.bytes,
        plain_bytes: stats.plain_bytes,
    }))
}
