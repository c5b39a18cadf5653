//! `lifeboat repository find`

use std::collections::HashSet;

use repository::find::{FindQuery, Found, find};
use repository::format::Time;
use repository::{BlobReader, FileKind, Id, Index, Repository};
use serde::Serialize;

use super::backup::parse_time;
use super::{FilterArgs, choose_snapshots, ls};
use crate::access::Access;
use crate::outcome::{Answer, Done, Explained, Failure, Relay, Verdict};
use crate::progress::Progress;
use crate::ui::{Style, Ui};
use crate::units;

/// Find files in all snapshots
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository find fstab '*.conf'
  lifeboat repository find /home/ada/thesis.tex --newest 2026-01-31
  lifeboat repository find --blob 4a1b…            who needs what `check` found damaged")]
pub struct Args {
    /// A name, or with a `/` a path; patterns as for `backup --exclude`
    #[arg(value_name = "PATTERN", required_unless_present_any = ["blobs", "packs"])]
    patterns: Vec<String>,
    /// Upper or lower case is the same
    #[arg(short, long)]
    ignore_case: bool,
    /// Show mode, owner, size and time as well
    #[arg(short, long)]
    long: bool,
    /// Only what was last changed at this time or later, such as '2026-01-31 12:00:00'
    #[arg(short = 'O', long, value_name = "TIME", value_parser = parse_time)]
    oldest: Option<Time>,
    /// Only what was last changed before this time
    #[arg(short = 'N', long, value_name = "TIME", value_parser = parse_time)]
    newest: Option<Time>,
    /// Find what has this blob; may be repeated
    #[arg(long = "blob", value_name = "ID", conflicts_with_all = ["patterns", "packs"])]
    blobs: Vec<Id>,
    /// Find what has a blob in this pack; may be repeated
    #[arg(long = "pack", value_name = "ID", conflicts_with = "patterns")]
    packs: Vec<String>,
    /// Look in this snapshot only; may be repeated
    #[arg(short, long = "snapshot", value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Summary {
    snapshots: usize,
    found: u64,
    unreadable: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    let lock = access.lock_for_reading(&repository)?;
    let mut snapshots = choose_snapshots(&repository, &args.snapshots, &args.filter)?;
    // What one looks for is mostly in the newest.
    snapshots.reverse();
    let progress = Progress::new(ui);
    let index = Index::load(&repository, progress.context())?;
    let query = args.query(&repository, &index)?;
    let reader = BlobReader::new(&repository, &index);
    let mut summary = Summary { snapshots: snapshots.len(), found: 0, unreadable: 0 };
    let mut relay = Relay::default();
    let mut heading = None;
    let found = find(&reader, &snapshots, &query, progress.context(), &mut |found| match found {
        Found::Entry { snapshot, path, node, .. } => {
            summary.found += 1;
            if heading.replace(snapshot.id) != Some(snapshot.id) {
                let time = units::local_time(snapshot.time());
                let text = format!("snapshot {} of {time}", snapshot.id.short());
                relay.pass(ui.line(ui.paint(Style::Bold, &text)))?;
            }
            relay.pass(ls::show(snapshot.id, path, node, args.long, ui))
        }
        Found::Unreadable { snapshot, path, error } => {
            summary.unreadable += 1;
            ui.problem(
                &format!("{} in snapshot {}", path.display(), snapshot.id.short()),
                &error.to_string(),
            );
            Ok(())
        }
    });
    relay.settle(found)?;
    drop(progress);
    lock.map_or(Ok(()), repository::Lock::release)?;
    if summary.found == 0 {
        ui.talk(format!(
            "nothing found in {}",
            units::counted(summary.snapshots as u64, "snapshot", "snapshots")
        ))?;
    }
    let verdict = match summary.unreadable {
        0 => Verdict::Verified,
        n => Verdict::NotProven(Explained::new(
            format!("{} could not be looked into", units::counted(n, "folder", "folders")),
            "see what can be done with `lifeboat repository check`",
        )),
    };
    Ok(Done::new(verdict, &summary))
}

impl Args {
    fn query(&self, repository: &Repository, index: &Index) -> Result<FindQuery, Failure> {
        let mut query = if !self.blobs.is_empty() {
            FindQuery::blobs(self.blobs.iter().copied())
        } else if !self.packs.is_empty() {
            let packs = self.packs.iter().map(|name| repository.find_file(FileKind::Pack, name));
            FindQuery::packs(index, &packs.collect::<repository::Result<HashSet<Id>>>()?)
        } else {
            let patterns: Vec<&str> = self.patterns.iter().map(String::as_str).collect();
            FindQuery::patterns(&patterns, self.ignore_case).map_err(|error| {
                Failure::usage(error.to_string(), "quote patterns, and escape `[` and `\\` with `\\`")
            })?
        };
        (query.newer_than, query.older_than) = (self.oldest, self.newest);
        Ok(query)
    }
}
