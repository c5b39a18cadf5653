//! `lifeboat repository restore`

use std::path::PathBuf;

use clap::ValueEnum;
use repository::filter::patterns_in_file;
use repository::restore::{
    Action, Fsync, Overwrite, Ownership, RestoreOptions, RestorePlan, RestoreReport, find_subtree,
};
use repository::{BlobReader, Index, Patterns};
use serde::Serialize;

use super::{FilterArgs, SnapshotPath, read_list};
use crate::access::Access;
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::ui::{Ui, printable, printable_path};
use crate::{environment, units};

/// Bring a snapshot, or a part of it, back
///
/// The target gets what lies in the snapshot: /etc of the snapshot becomes DIR/etc, so that `--target /` restores
/// in place. What is there already is compared, and only what differs is fetched and written; an interrupted restore
/// goes on when it is run again. Every byte is checked before it is written, nothing outside the target is
/// touched, and a file that cannot be restored is named and does not stop the others.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository restore latest --target /tmp/back
  lifeboat repository restore latest --target / --include /etc/nginx            in place
  lifeboat repository restore 4a1b2c3d:/home/ada -t /home/ada --delete           just as it was
  lifeboat repository restore latest --host web1 --target /srv --dry-run")]
pub struct Args {
    /// The snapshot: the beginning of its id, or `latest`; and what in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: SnapshotPath,
    /// Where to put it
    #[arg(short, long, value_name = "DIR")]
    target: PathBuf,
    /// Only tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// What to do about files that exist: if-changed compares size and time first, always compares content
    #[arg(long, value_name = "WHEN", default_value = "if-changed")]
    overwrite: OverwriteArg,
    /// Remove what the target's directories hold and the snapshot's do not
    #[arg(long)]
    delete: bool,
    /// Leave holes where there are long runs of zeros
    #[arg(long)]
    sparse: bool,
    /// Read everything again afterwards and compare it with the snapshot
    #[arg(long)]
    verify: bool,
    /// End only when everything is safe from a power cut; otherwise the system writes it back when it likes
    #[arg(long)]
    sync: bool,
    /// Leave everything to whoever restores it instead of to its owner
    #[arg(long)]
    no_owner: bool,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Which of the snapshot's files.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which files (paths begin at what is restored)")]
struct ChoiceArgs {
    /// Restore only what fits the pattern; may be repeated
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// The same, and upper or lower case is the same
    #[arg(long, value_name = "PATTERN")]
    iinclude: Vec<String>,
    /// Take such patterns from a file, one a line
    #[arg(long, value_name = "FILE")]
    include_file: Vec<PathBuf>,
    /// Do not restore what fits the pattern; may be repeated
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// The same, and upper or lower case is the same
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Take such patterns from a file, one a line
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OverwriteArg {
    IfChanged,
    Always,
    IfNewer,
    Never,
}

#[derive(Serialize)]
struct Summary {
    snapshot_id: String,
    target: String,
    dry_run: bool,
    files_restored: u64,
    files_unchanged: u64,
    others_restored: u64,
    bytes_written: u64,
    bytes_fetched: u64,
    deleted: u64,
    deletions_withheld: u64,
    files_verified: u64,
    owners_skipped: u64,
    attributes_skipped: u64,
    sockets_skipped: u64,
    problems: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let options = args.options()?;
    let repository = access.open(ui)?;
    let lock = access.lock_for_reading(&repository)?;
    let entry = repository.find_snapshot(&args.snapshot.name, &args.filter.resolve()?)?;
    let progress = Progress::new(ui);
    let index = Index::load(&repository, progress.context())?;
    let reader = BlobReader::new(&repository, &index);
    let source = find_subtree(&reader, entry.snapshot.tree, &args.snapshot.path)?;
    let plan = RestorePlan::new(&repository, &index, &source, &args.target, options, progress.context())?;
    show(&plan, args, ui)?;
    let (snapshot_id, target) = (entry.id.to_hex(), args.target.to_string_lossy().into_owned());
    let report = if args.dry_run { predict(&plan) } else { plan.execute(progress.context())? };
    let problems = progress.problems().max(report.problems.len() as u64);
    drop(progress);
    lock.map_or(Ok(()), repository::Lock::release)?;

    let summary = Summary {
        snapshot_id,
        target,
        dry_run: args.dry_run,
        files_restored: report.files_restored,
        files_unchanged: report.files_unchanged,
        others_restored: report.others_restored,
        bytes_written: report.bytes_written,
        bytes_fetched: report.bytes_fetched,
        deleted: report.deleted,
        deletions_withheld: report.deletions_withheld,
        files_verified: report.files_verified,
        owners_skipped: report.owners_skipped,
        attributes_skipped: report.attributes_skipped,
        sockets_skipped: report.sockets_skipped,
        problems,
    };
    print(&summary, ui)?;
    Ok(Done::new(verdict(&summary), &summary))
}

impl Args {
    fn options(&self) -> Result<RestoreOptions, Failure> {
        let choice = &self.choice;
        Ok(RestoreOptions {
            include: compile(&choice.include, &choice.include_file, false)?.or(compile(
                &choice.iinclude,
                &[],
                true,
            )?),
            exclude: compile(&choice.exclude, &choice.exclude_file, false)?.or(compile(
                &choice.iexclude,
                &[],
                true,
            )?),
            overwrite: match self.overwrite {
                OverwriteArg::IfChanged => Overwrite::Changed,
                OverwriteArg::Always => Overwrite::Always,
                OverwriteArg::IfNewer => Overwrite::IfNewer,
                OverwriteArg::Never => Overwrite::Never,
            },
            delete: self.delete,
            sparse: self.sparse,
            verify: self.verify,
            fsync: if self.sync { Fsync::Syncfs } else { Fsync::None },
            ownership: if self.no_owner { Ownership::Skip } else { Ownership::Restore },
            ..RestoreOptions::default()
        })
    }
}

fn compile(patterns: &[String], files: &[PathBuf], fold: bool) -> Result<Patterns, Failure> {
    let mut all = patterns.to_vec();
    for file in files {
        let content = read_list(file)?;
        all.extend(patterns_in_file(&String::from_utf8_lossy(&content)).map(environment::expand));
    }
    Patterns::parse(all.iter().map(String::as_str), fold).map_err(|error| {
        Failure::usage(error.to_string(), "quote patterns, and escape `[` and `\\` with `\\`")
    })
}

/// Tells what the plan is; all of it for a dry run.
fn show(plan: &RestorePlan<'_>, args: &Args, ui: &Ui) -> Result<(), Failure> {
    let totals = plan.totals();
    let counted =
        |number, what: &str| units::counted(number, &format!("file {what}"), &format!("files {what}"));
    let mut parts: Vec<String> = [
        (totals.files_create, "to make"),
        (totals.files_update, "to change"),
        (totals.files_unchanged, "right already"),
        (totals.kept, "to keep"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| counted(number, what))
    .collect();
    if totals.delete > 0 {
        parts.push(format!("{} to delete", units::counted(totals.delete, "item", "items")));
    }
    parts.push(format!("{} to write", units::bytes(totals.bytes_write)));
    let target = printable_path(&args.target);
    ui.talk(format!("restore to {target}: {}", parts.join(", ")))?;
    if !args.dry_run {
        return Ok(());
    }
    for planned in plan.actions() {
        let action = match planned.action {
            Action::Create => "create",
            Action::Update => "update",
            Action::Replace => "replace",
            Action::SetMetadata => "set metadata",
            Action::Keep => "keep",
            Action::Delete => "delete",
            Action::Skip => "skip",
            Action::Unchanged if ui.is_verbose() || ui.is_json() => "unchanged",
            Action::Unchanged => continue,
        };
        let path = planned.path.to_string_lossy().into_owned();
        ui.line(format!("{action:<12}  {:>10}  {}", units::bytes(planned.bytes), printable(&path)))?;
        ui.event(&Line::Planned { path, action, bytes: planned.bytes })?;
    }
    Ok(())
}

/// What the plan would come to if nothing went wrong; what is known to be impossible is told already.
fn predict(plan: &RestorePlan<'_>) -> RestoreReport {
    let totals = plan.totals();
    RestoreReport {
        files_restored: totals.files_create + totals.files_update,
        files_unchanged: totals.files_unchanged,
        others_restored: totals.dirs_create + totals.others_create,
        bytes_written: totals.bytes_write,
        bytes_fetched: totals.bytes_fetch,
        deleted: totals.delete,
        ..RestoreReport::default()
    }
}

fn print(summary: &Summary, ui: &Ui) -> Result<(), Failure> {
    if summary.dry_run {
        return ui.line("dry run: nothing was written");
    }
    ui.talk(format!(
        "restored  {}, {}; {} right already",
        units::counted(summary.files_restored, "file", "files"),
        units::counted(summary.others_restored, "folder or other", "folders and others"),
        units::counted(summary.files_unchanged, "file", "files"),
    ))?;
    if summary.deleted > 0 {
        ui.talk(format!("deleted   {}", units::counted(summary.deleted, "item", "items")))?;
    }
    if summary.files_verified > 0 {
        ui.talk(format!(
            "verified  {} against the snapshot",
            units::counted(summary.files_verified, "file", "files")
        ))?;
    }
    if summary.sockets_skipped > 0 {
        ui.talk(format!(
            "left out  {}: only programs make them",
            units::counted(summary.sockets_skipped, "socket", "sockets")
        ))?;
    }
    ui.talk(format!(
        "in all    {} fetched, {} written in {}",
        units::bytes(summary.bytes_fetched),
        units::bytes(summary.bytes_written),
        units::duration(std::time::Duration::from_secs_f64(ui.elapsed_seconds()))
    ))
}

fn verdict(summary: &Summary) -> Verdict {
    if summary.problems > 0 {
        let items = units::counted(summary.problems, "item", "items");
        let verb = if summary.dry_run { "cannot" } else { "could not" };
        let mut why = format!("{items} {verb} be restored");
        if summary.deletions_withheld > 0 {
            why += &format!(", so that {} were not deleted", summary.deletions_withheld);
        }
        return Verdict::Failed(Explained::new(
            why,
            "everything else is there; an older snapshot may have these items: see `lifeboat repository find`",
        ));
    }
    let skipped: Vec<String> = [
        (summary.owners_skipped, "owner", "owners"),
        (summary.attributes_skipped, "extended attribute", "extended attributes"),
    ]
    .into_iter()
    .filter(|(number, ..)| *number > 0)
    .map(|(number, one, many)| units::counted(number, one, many))
    .collect();
    if skipped.is_empty() {
        return Verdict::Verified;
    }
    Verdict::NotProven(Explained::new(
        format!("{} could not be set", skipped.join(" and ")),
        "restore as root to a file system that has them, or give --no-owner if owners do not matter",
    ))
}
