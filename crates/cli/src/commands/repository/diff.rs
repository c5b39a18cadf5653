//! `lifeboat repository diff`

use repository::diff::{DiffSide, Difference, diff};
use repository::{BlobReader, Index, SnapshotFilter, find_directory};
use serde::Serialize;

use super::SnapshotPath;
use crate::access::Access;
use crate::json::Line;
use crate::outcome::{Answer, Done, Relay};
use crate::progress::Progress;
use crate::ui::{Style, Ui, printable_path};
use crate::units::{bytes, count, counted};

/// Show what differs between two snapshots
///
/// `+` is only in the second, `-` only in the first, `M` has other content, `T` is of another kind, and with
/// --metadata `U` has the same content and another mode, owner, time or attribute.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository diff 4a1b2c3d latest
  lifeboat repository diff 4a1b2c3d:/etc latest:/etc --metadata")]
pub struct Args {
    /// The first snapshot, or a directory in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    before: SnapshotPath,
    /// The second
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    after: SnapshotPath,
    /// Show also what differs in metadata only
    #[arg(long)]
    metadata: bool,
}

#[derive(Serialize)]
struct Summary {
    files_changed: u64,
    metadata_changed: u64,
    kinds_changed: u64,
    added: Side,
    removed: Side,
}

#[derive(Serialize)]
struct Side {
    files: u64,
    dirs: u64,
    others: u64,
    data_blobs: u64,
    tree_blobs: u64,
    bytes: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    let lock = access.lock_for_reading(&repository)?;
    let progress = Progress::new(ui);
    let everything = SnapshotFilter::default();
    let before = repository.find_snapshot(&args.before.name, &everything)?;
    let after = repository.find_snapshot(&args.after.name, &everything)?;
    let index = Index::load(&repository, progress.context())?;
    let reader = BlobReader::new(&repository, &index);
    let before = find_directory(&reader, before.snapshot.tree, &args.before.path)?;
    let after = find_directory(&reader, after.snapshot.tree, &args.after.path)?;
    let mut relay = Relay::default();
    let summary = diff(&reader, &before, &after, progress.context(), &mut |entry| {
        let (sign, style, change) = match entry.difference {
            Difference::Added => ('+', Style::Green, "added"),
            Difference::Removed => ('-', Style::Red, "removed"),
            Difference::Kind => ('T', Style::Yellow, "kind"),
            Difference::Content => ('M', Style::Yellow, "content"),
            Difference::Metadata if args.metadata => ('U', Style::Dim, "metadata"),
            Difference::Metadata => return Ok(()),
        };
        relay.pass(ui.line(ui.paint(style, &format!("{sign}  {}", printable_path(entry.path)))))?;
        let path = entry.path.to_string_lossy().into_owned();
        relay.pass(ui.event(&Line::Difference { path, change }))
    });
    let summary = relay.settle(summary)?;
    drop(progress);
    lock.map_or(Ok(()), repository::Lock::release)?;
    for (name, side) in [("added", summary.added), ("removed", summary.removed)] {
        let (files, dirs) = (counted(side.files, "file", "files"), counted(side.dirs, "folder", "folders"));
        ui.talk(format!("{name:<8}  {files}, {dirs}, {} others; {}", count(side.others), bytes(side.bytes)))?;
    }
    ui.talk(format!(
        "changed   {}, {} in metadata only, {} of another kind",
        counted(summary.files_changed, "file", "files"),
        count(summary.metadata_changed),
        count(summary.kinds_changed),
    ))?;
    Ok(Done::verified(&Summary {
        files_changed: summary.files_changed,
        metadata_changed: summary.metadata_changed,
        kinds_changed: summary.kinds_changed,
        added: side(summary.added),
        removed: side(summary.removed),
    }))
}

fn side(side: DiffSide) -> Side {
    let DiffSide { files, dirs, others, data_blobs, tree_blobs, bytes } = side;
    Side { files, dirs, others, data_blobs, tree_blobs, bytes }
}
