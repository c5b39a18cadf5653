//! `lifeboat repository prune`

use std::time::Duration;

use repository::Repository;
use repository::prune::{Amount, MaxUnused, PruneOptions, PruneSummary, plan_prune};
use serde::Serialize;

use crate::access::Access;
use crate::json::Line;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::ui::Ui;
use crate::units::{self, parse_bytes, parse_duration};

/// Delete data that no snapshot needs
///
/// In two phases: packs that nothing needs are marked, and a later prune deletes those marked for a day, unless
/// something needs them again. A backup that runs meanwhile therefore loses nothing, and what was forgotten by mistake
/// is not gone at once. The plan is shown before it is carried out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository prune --dry-run
  lifeboat repository prune
  lifeboat repository prune --max-unused 0 --instant-delete    smallest, now, no way back")]
pub struct Args {
    /// Only tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    options: PruneArgs,
}

/// How to prune.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pruning")]
pub struct PruneArgs {
    /// How much of what is stored may be unneeded before packs are written anew: a share, a size, or unlimited
    #[arg(long, value_name = "P%|SIZE|unlimited", default_value = "5%", value_parser = parse_max_unused)]
    max_unused: MaxUnused,
    /// Write no more than this anew
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_repack_size: Option<u64>,
    /// How long a marked pack stays
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    keep_delete: Duration,
    /// Delete at once instead of marking; there is no way back
    #[arg(long, conflicts_with = "keep_delete")]
    instant_delete: bool,
    /// Allow to prune a repository without snapshots, which deletes all data
    #[arg(long)]
    allow_empty: bool,
}

#[derive(Serialize)]
struct Summary {
    dry_run: bool,
    used_blobs: u64,
    used_bytes: u64,
    unused_bytes: u64,
    keep: Packs,
    repack: Packs,
    mark: Packs,
    orphans: Packs,
    recover: Packs,
    waiting: Packs,
    delete: Packs,
    failed: usize,
}

#[derive(Serialize)]
struct Packs {
    packs: u64,
    bytes: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    prune(&args.options, &repository, args.dry_run, access, ui)
}

/// Plans, shows and prunes; `forget --prune` does the same.
pub fn prune(args: &PruneArgs, repository: &Repository, dry_run: bool, access: &Access, ui: &Ui) -> Answer {
    let options = PruneOptions {
        max_unused: args.max_unused,
        repack_bytes_max: args.max_repack_size,
        keep_delete: if args.instant_delete { Duration::ZERO } else { args.keep_delete },
        allow_empty: args.allow_empty,
        lock: access.lock(),
        ..PruneOptions::default()
    };
    let progress = Progress::new(ui);
    let plan = plan_prune(repository, &options, progress.context())?;
    for finding in &plan.findings {
        ui.event(&Line::Finding { severity: "note", message: finding.to_string(), remedy: None })?;
        ui.talk(format!("note: {finding}"))?;
    }
    show(&plan.summary, ui)?;
    if dry_run {
        let summary = summary(&plan.summary, true, 0);
        drop(plan);
        ui.line("dry run: nothing was changed")?;
        return Ok(Done::verified(&summary));
    }
    let report = plan.execute(progress.context())?;
    drop(progress);
    match access.remove_leftovers()? {
        0 => {}
        n => {
            ui.talk(format!("removed {} that dead writers left behind", units::counted(n, "file", "files")))?;
        }
    }
    for (id, error) in &report.failed {
        ui.problem(&format!("pack {id}"), &error.to_string());
    }
    let verdict = match report.failed.len() as u64 {
        0 => Verdict::Verified,
        n => Verdict::NotProven(Explained::new(
            format!("{} could not be deleted", units::counted(n, "pack", "packs")),
            "nothing is lost; the next prune tries again",
        )),
    };
    ui.line("pruned")?;
    Ok(Done::new(verdict, &summary(&report.summary, false, report.failed.len())))
}

fn show(summary: &PruneSummary, ui: &Ui) -> Result<(), Failure> {
    let total = (summary.used_bytes + summary.unused_bytes).max(1);
    let share = summary.unused_bytes as f64 * 100.0 / total as f64;
    ui.talk(format!(
        "needed    {} in {}; unneeded {} ({share:.1} %)",
        units::bytes(summary.used_bytes),
        units::counted(summary.used_blobs, "blob", "blobs"),
        units::bytes(summary.unused_bytes)
    ))?;
    let rows = [
        ("keep", summary.keep, ""),
        ("rewrite", summary.repack, ", for the needed part of them"),
        ("mark", summary.mark, ", to be deleted by a later prune"),
        ("take back", summary.recover, ", marked and needed again"),
        ("wait", summary.waiting, ", marked not long enough ago"),
        ("delete", summary.delete, ""),
    ];
    for (name, amount, remark) in rows {
        if amount.packs > 0 {
            let packs = units::counted(amount.packs, "pack", "packs");
            ui.talk(format!("{name:<9} {packs}, {}{remark}", units::bytes(amount.bytes)))?;
        }
    }
    Ok(())
}

fn summary(plan: &PruneSummary, dry_run: bool, failed: usize) -> Summary {
    let packs = |amount: Amount| Packs { packs: amount.packs, bytes: amount.bytes };
    Summary {
        dry_run,
        used_blobs: plan.used_blobs,
        used_bytes: plan.used_bytes,
        unused_bytes: plan.unused_bytes,
        keep: packs(plan.keep),
        repack: packs(plan.repack),
        mark: packs(plan.mark),
        orphans: packs(plan.orphans),
        recover: packs(plan.recover),
        waiting: packs(plan.waiting),
        delete: packs(plan.delete),
        failed,
    }
}

fn parse_max_unused(text: &str) -> Result<MaxUnused, String> {
    let fail = || format!("{text:?} is none of a share such as 5%, a size such as 2G, and unlimited");
    if text == "unlimited" {
        return Ok(MaxUnused::Unlimited);
    }
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.trim().parse().map_err(|_| fail())?;
            if (0.0..100.0).contains(&percent) { Ok(MaxUnused::Percent(percent)) } else { Err(fail()) }
        }
        None => parse_bytes(text).map(MaxUnused::Bytes).map_err(|_| fail()),
    }
}
