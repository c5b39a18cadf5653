//! `lifeboat repository repair`

use clap::Subcommand;
use repository::check::{CheckOptions, Finding, ReadData, check};
use repository::format::Chunking;
use repository::repair::{
    HeaderRead, LossKind, RepairIndexOptions, RepairSnapshotsOptions, plan_repair_index, plan_repair_packs,
    plan_repair_snapshots,
};
use repository::{Clock, FileKind, Id, InitOptions, Repository};
use serde::Serialize;

use super::{FilterArgs, choose_snapshots};
use crate::access::{Access, KEY_COST, author};
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::ui::{Ui, printable_path};
use crate::units;

/// Put a damaged repository in order
///
/// `check --read-data` says what is wrong and which repair helps. In this order: index, packs, snapshots; and a
/// backup of what is still there brings back what was lost of it. Copy the repository first if you can.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository repair index --dry-run
  lifeboat repository repair packs
  lifeboat repository repair snapshots --forget")]
pub struct Args {
    /// Only tell what would be done
    #[arg(short = 'n', long, global = true)]
    dry_run: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the index anew from the packs that are there
    Index {
        /// Believe no index file, and read the end of every pack
        #[arg(long, visible_alias = "read-all-packs")]
        read_all: bool,
    },
    /// Take what can be read out of damaged packs
    Packs {
        /// The packs; without any, every byte is read to find them
        #[arg(value_name = "ID")]
        ids: Vec<String>,
    },
    /// Rewrite snapshots without what is lost
    Snapshots {
        /// Only these snapshots
        #[arg(value_name = "SNAPSHOT")]
        names: Vec<String>,
        /// Remove the snapshots that were rewritten, and those that cannot be read at all
        #[arg(long)]
        forget: bool,
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Write a new config where it is lost or damaged
    Config {
        /// The repository was made by restic, or with --restic-chunks
        #[arg(long)]
        restic_chunks: bool,
    },
}

#[derive(Serialize)]
struct Summary {
    dry_run: bool,
    repaired: u64,
    lost: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let dry_run = args.dry_run;
    let open = || access.open(ui);
    let progress = Progress::new(ui).without_problems();
    match &args.command {
        // The only one for a repository that cannot be opened.
        Command::Config { restic_chunks } => config(*restic_chunks, dry_run, access, ui),
        Command::Index { read_all } => index(&open()?, *read_all, dry_run, access, &progress, ui),
        Command::Packs { ids } => packs(&open()?, ids, dry_run, access, &progress, ui),
        Command::Snapshots { names, forget, filter } => {
            let repository = open()?;
            // Snapshots that cannot be read can neither be named nor fit a filter, and only all means them too.
            let filtered = !names.is_empty() || filter.resolve()? != repository::SnapshotFilter::default();
            let chosen = if filtered { choose_snapshots(&repository, names, filter)? } else { Vec::new() };
            if filtered && chosen.is_empty() {
                return Err(repository::Error::NoSuchSnapshot("no snapshot fits".into()).into());
            }
            let ids = chosen.iter().map(|entry| entry.id).collect();
            let options = RepairSnapshotsOptions { snapshots: ids, forget: *forget, lock: access.lock() };
            snapshots(&repository, &options, dry_run, &progress, ui)
        }
    }
}

fn index(
    repository: &Repository,
    read_all: bool,
    dry_run: bool,
    access: &Access,
    progress: &Progress,
    ui: &Ui,
) -> Answer {
    let options = RepairIndexOptions { read_all, lock: access.lock() };
    let plan = plan_repair_index(repository, &options, progress.context())?;
    for (id, why) in &plan.unusable {
        tell("index", id, format!("cannot be used and is replaced: {why}"), ui)?;
    }
    for id in &plan.missing {
        tell("pack", id, "is not there and is taken out of the index".into(), ui)?;
    }
    let mut lost = 0;
    for (id, read) in &plan.read {
        let what = match read {
            HeaderRead::Blobs(blobs) => {
                format!("is listed with {}", units::counted(blobs.len() as u64, "blob", "blobs"))
            }
            HeaderRead::Listed(why) => format!("stays listed, though its own list cannot be read: {why}"),
            HeaderRead::Unlisted(why) => {
                lost += 1;
                format!("cannot be listed: {why}")
            }
        };
        tell("pack", id, what, ui)?;
    }
    let repaired = (plan.unusable.len() + plan.missing.len() + plan.read.len()) as u64 - lost;
    let summary = Summary { dry_run, repaired, lost };
    if plan.is_empty() {
        ui.line("the index is right; nothing to do")?;
        return Ok(Done::verified(&summary));
    }
    if dry_run {
        return dry(&summary, ui);
    }
    let report = plan.execute(progress.context())?;
    ui.line(format!(
        "wrote {} in place of {}",
        units::counted(report.written.len() as u64, "index file", "index files"),
        report.removed.len()
    ))?;
    Ok(Done::new(
        with_losses(
            lost,
            ["pack", "packs", "could not be listed"],
            "try `lifeboat repository repair packs` with their ids",
        ),
        &summary,
    ))
}

fn packs(
    repository: &Repository,
    names: &[String],
    dry_run: bool,
    access: &Access,
    progress: &Progress,
    ui: &Ui,
) -> Answer {
    let ids: Vec<Id> = if names.is_empty() {
        find_damaged(repository, access, progress, ui)?
    } else {
        names
            .iter()
            .map(|name| repository.find_file(FileKind::Pack, name))
            .collect::<repository::Result<_>>()?
    };
    if ids.is_empty() {
        ui.line("no pack is damaged; nothing to do")?;
        return Ok(Done::verified(&Summary { dry_run, repaired: 0, lost: 0 }));
    }
    let plan = plan_repair_packs(repository, &ids, access.lock(), progress.context())?;
    for pack in &plan.packs {
        let what = match &pack.unlisted {
            Some(why) => format!("nothing can be had from it: {why}"),
            None => format!(
                "{} saved, {} are sound elsewhere, {} lost",
                units::counted(pack.readable.len() as u64, "blob", "blobs"),
                pack.elsewhere.len(),
                pack.lost.len()
            ),
        };
        tell("pack", &pack.pack, what, ui)?;
    }
    let unlisted = plan.packs.iter().filter(|pack| pack.unlisted.is_some()).count();
    let summary =
        Summary { dry_run, repaired: plan.packs.len() as u64, lost: (plan.lost() + unlisted) as u64 };
    if dry_run {
        return dry(&summary, ui);
    }
    let report = plan.execute(progress.context())?;
    for (id, error) in &report.failed {
        ui.problem(&format!("pack {id}"), &error.to_string());
    }
    ui.line(format!("wrote {} anew", units::bytes(report.salvaged.sealed_bytes)))?;
    let hint = "back up again what is still there, then run `lifeboat repository repair snapshots`";
    Ok(Done::new(with_losses(summary.lost, ["blob", "blobs", "lost"], hint), &summary))
}

/// The packs that a look at every byte finds damaged.
fn find_damaged(
    repository: &Repository,
    access: &Access,
    progress: &Progress,
    ui: &Ui,
) -> Result<Vec<Id>, Failure> {
    ui.note("reading every pack to find those that are damaged");
    let options = CheckOptions { read_data: ReadData::All, lock: Some(access.lock()) };
    let report = check(repository, &options, progress.context())?;
    let damaged = report.findings.iter().filter_map(|finding| match finding {
        Finding::PackDamaged { pack, .. } | Finding::PackSize { pack, .. } => Some(*pack),
        _ => None,
    });
    let mut ids: Vec<Id> = damaged.collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn snapshots(
    repository: &Repository,
    options: &RepairSnapshotsOptions,
    dry_run: bool,
    progress: &Progress,
    ui: &Ui,
) -> Answer {
    let plan = plan_repair_snapshots(repository, options, progress.context())?;
    let mut lost = 0;
    for repair in &plan.repairs {
        let id = repair.entry.id;
        ui.line(format!("snapshot {} of {} loses", id.short(), units::local_time(repair.entry.time())))?;
        for loss in &repair.losses {
            lost += 1;
            let what = match &loss.kind {
                LossKind::Directory(why) => format!("the folder with all that is in it: {why}"),
                LossKind::File => "the file".to_owned(),
                LossKind::Parts { bytes_before, bytes_left, kept_as, .. } => format!(
                    "{} of {}; the rest is kept as {}",
                    units::bytes(bytes_before.saturating_sub(*bytes_left)),
                    units::bytes(*bytes_before),
                    printable_path(kept_as)
                ),
            };
            ui.line(format!("  {}: {what}", printable_path(&loss.path)))?;
            let path = loss.path.to_string_lossy().into_owned();
            ui.event(&Line::Loss { snapshot_id: id.to_hex(), path, what })?;
        }
    }
    for (id, why) in &plan.unreadable {
        tell("snapshot", id, format!("cannot be read: {why}"), ui)?;
    }
    let repaired = (plan.repairs.len() + plan.unreadable.len()) as u64;
    let summary = Summary { dry_run, repaired, lost };
    if plan.is_empty() {
        ui.line("no snapshot has lost anything; nothing to do")?;
        return Ok(Done::verified(&summary));
    }
    if dry_run {
        return dry(&summary, ui);
    }
    let unreadable = plan.unreadable.len() as u64;
    let report = plan.execute(progress.context())?;
    for (old, new) in &report.rewritten {
        ui.line(format!("snapshot {} is now {}", old.short(), new.short()))?;
        ui.event(&Line::Rewritten { old_id: old.to_hex(), new_id: new.to_hex() })?;
    }
    for id in &report.removed {
        ui.line(format!("removed snapshot {}", id.short()))?;
        ui.event(&Line::Removed { kind: "snapshot", id: id.to_hex() })?;
    }
    for (id, error) in &report.failed {
        ui.problem(&format!("snapshot {id}"), &error.to_string());
    }
    let left = if options.forget { report.failed.len() as u64 } else { unreadable };
    let hint = "remove them with `lifeboat repository repair snapshots --forget`";
    Ok(Done::new(with_losses(left, ["damaged snapshot", "damaged snapshots", "still there"], hint), &summary))
}

fn config(restic_chunks: bool, dry_run: bool, access: &Access, ui: &Ui) -> Answer {
    let store = access.store(ui)?;
    if dry_run {
        return Err(Failure::usage("a repair of the config has no dry run", "leave --dry-run out"));
    }
    let password = access.password.read(&access.location.to_string(), false)?;
    let chunking = if restic_chunks { Chunking::Rabin } else { Chunking::Gear };
    let options = InitOptions { chunking, polynomial: None, cost: KEY_COST, author: author() };
    let repository = Repository::rebuild_config(store, &password, &options, Clock::system())?;
    ui.line(format!("wrote a new config; the repository is now {}", repository.config().id.short()))?;
    ui.talk("files are cut at new places from now on, so that the next backup stores changed ones anew")?;
    let (id, location) = (repository.config().id.to_hex(), repository.location());
    ui.event(&Line::Repository { id, location })?;
    Ok(Done::verified(&Summary { dry_run, repaired: 1, lost: 0 }))
}

fn tell(kind: &'static str, id: &Id, what: String, ui: &Ui) -> Result<(), Failure> {
    ui.line(format!("{kind} {} {what}", id.short()))?;
    ui.event(&Line::Repair { kind, id: id.to_hex(), what })
}

fn dry(summary: &Summary, ui: &Ui) -> Answer {
    ui.line("dry run: nothing was changed")?;
    Ok(Done::verified(summary))
}

/// `what` is told in the singular, in the plural, and with what became of it.
fn with_losses(number: u64, what: [&str; 3], hint: &str) -> Verdict {
    let [one, many, became] = what;
    match number {
        0 => Verdict::Verified,
        n => {
            Verdict::NotProven(Explained::new(format!("{}: {}", became, units::counted(n, one, many)), hint))
        }
    }
}
