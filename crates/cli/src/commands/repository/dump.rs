//! `lifeboat repository dump`

use repository::format::{BlobKind, NodeKind};
use repository::restore::{Subtree, find_subtree};
use repository::{BlobReader, Error, Index};
use serde::Serialize;

use super::{FilterArgs, SnapshotPath};
use crate::access::Access;
use crate::outcome::{Answer, Done, Failure};
use crate::ui::Ui;

/// Write one file of a snapshot to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository dump latest:/etc/fstab
  lifeboat repository dump latest:/shop.sql | psql shop")]
pub struct Args {
    /// The snapshot: the beginning of its id, or `latest`; and the file
    #[arg(value_name = "SNAPSHOT:PATH")]
    snapshot: SnapshotPath,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Summary {
    snapshot_id: String,
    bytes: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    if ui.is_json() {
        return Err(Failure::usage("a file's content is not JSON", "leave --json out"));
    }
    let repository = access.open(ui)?;
    let lock = access.lock_for_reading(&repository)?;
    let context = repository::Context { observer: &(), cancel: crate::interrupt::arm() };
    let entry = repository.find_snapshot(&args.snapshot.name, &args.filter.resolve()?)?;
    let index = Index::load(&repository, context)?;
    let reader = BlobReader::new(&repository, &index);
    let path = args.snapshot.path.display();
    let content = match find_subtree(&reader, entry.snapshot.tree, &args.snapshot.path)? {
        Subtree::Entry(node) if node.kind == NodeKind::File => node.content.unwrap_or_default(),
        Subtree::Entry(_) | Subtree::Dir(_) => {
            let hint = "name a file as SNAPSHOT:PATH, or restore the directory";
            return Err(Failure::usage(format!("{path} is no regular file in the snapshot"), hint));
        }
    };
    let mut bytes = 0;
    for blob in &content {
        context.check()?;
        let chunk = reader.read(BlobKind::Data, blob).map_err(|error| match error {
            Error::Missing { what } => Error::Missing { what: format!("{what} of {path}") },
            other => other,
        })?;
        ui.raw(&chunk)?;
        bytes += chunk.len() as u64;
    }
    lock.map_or(Ok(()), repository::Lock::release)?;
    Ok(Done::verified(&Summary { snapshot_id: entry.id.to_hex(), bytes }))
}
