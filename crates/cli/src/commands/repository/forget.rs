//! `lifeboat repository forget`

use jiff::tz::TimeZone;
use repository::forget::{
    Age, Count, ForgetGroup, ForgetOptions, ForgetPlan, GroupBy, KeepPolicy, plan_forget, plan_forget_named,
};
use repository::{Repository, SnapshotEntry};
use serde::Serialize;

use super::{FilterArgs, prune, split_tags};
use crate::access::Access;
use crate::json::{ForgetGroupLine, KeptLine, Line};
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::table::Table;
use crate::ui::{Style, Ui, printable};
use crate::units;

/// Remove snapshots: those that a policy does not keep, or those named
///
/// Every rule keeps more, and what no rule keeps goes. Data stay in the repository until `prune` takes what no
/// snapshot needs. A policy that would leave a group of snapshots without any is refused, and so is one beside
/// snapshots that are dated in the future, which would push real ones out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  lifeboat repository forget --keep-within 30d --keep-tag golden --prune
  lifeboat repository forget 4a1b2c3d 5e6f7a8b")]
pub struct Args {
    /// Remove these snapshots
    #[arg(value_name = "SNAPSHOT")]
    names: Vec<String>,
    /// Only tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Then prune as well
    #[arg(long)]
    prune: bool,
    /// What makes snapshots one history, to which the policy is applied on its own: of host, paths, tags
    #[arg(short, long, value_name = "LIST", default_value = "host,paths")]
    group_by: GroupBy,
    /// Allow to remove all snapshots of a group
    #[arg(long)]
    allow_remove_all: bool,
    /// Keep snapshots that are dated in the future, and do not count them
    #[arg(long)]
    ignore_future: bool,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    prune_options: prune::PruneArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

/// What to keep.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to keep (N may be `unlimited`; AGE is such as 1y6m14d12h)")]
#[group(conflicts_with = "names")]
struct KeepArgs {
    /// The N newest
    #[arg(short = 'l', long, value_name = "N")]
    keep_last: Option<Count>,
    /// The newest of each of the N newest hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<Count>,
    /// The same for days
    #[arg(short = 'd', long, value_name = "N")]
    keep_daily: Option<Count>,
    /// The same for weeks
    #[arg(short = 'w', long, value_name = "N")]
    keep_weekly: Option<Count>,
    /// The same for months
    #[arg(short = 'm', long, value_name = "N")]
    keep_monthly: Option<Count>,
    /// The same for years
    #[arg(short = 'y', long, value_name = "N")]
    keep_yearly: Option<Count>,
    /// Everything made within this age of the newest
    #[arg(long, value_name = "AGE")]
    keep_within: Option<Age>,
    /// The newest of each hour within this age
    #[arg(long, value_name = "AGE")]
    keep_within_hourly: Option<Age>,
    /// The same for days
    #[arg(long, value_name = "AGE")]
    keep_within_daily: Option<Age>,
    /// The same for weeks
    #[arg(long, value_name = "AGE")]
    keep_within_weekly: Option<Age>,
    /// The same for months
    #[arg(long, value_name = "AGE")]
    keep_within_monthly: Option<Age>,
    /// The same for years
    #[arg(long, value_name = "AGE")]
    keep_within_yearly: Option<Age>,
    /// Everything with all of these tags; may be repeated
    #[arg(long, value_name = "TAG[,TAG…]")]
    keep_tag: Vec<String>,
}

#[derive(Serialize)]
struct Summary {
    dry_run: bool,
    kept: usize,
    removed: usize,
    failed: usize,
    prune: Option<serde_json::Value>,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    let progress = Progress::new(ui);
    let plan = args.plan(&repository, access, &progress)?;
    let named = !args.names.is_empty();
    for group in &plan.groups {
        show(group, named, ui)?;
    }
    let kept = plan.groups.iter().map(|group| group.keep.len()).sum();
    let mut summary =
        Summary { dry_run: args.dry_run, kept, removed: plan.remove().count(), failed: 0, prune: None };
    if args.dry_run {
        drop(plan);
        drop(progress);
        let would = units::counted(summary.removed as u64, "snapshot", "snapshots");
        ui.line(format!("dry run: {would} would be removed"))?;
        return Ok(Done::verified(&summary));
    }
    let report = plan.execute(progress.context())?;
    drop(progress);
    for id in &report.removed {
        ui.event(&Line::Removed { kind: "snapshot", id: id.to_hex() })?;
    }
    for (id, error) in &report.failed {
        ui.problem(&format!("snapshot {id}"), &error.to_string());
    }
    (summary.removed, summary.failed) = (report.removed.len(), report.failed.len());
    ui.line(format!("removed {}", units::counted(summary.removed as u64, "snapshot", "snapshots")))?;
    if summary.failed > 0 {
        let failed = units::counted(summary.failed as u64, "snapshot", "snapshots");
        let hint = "run the command again";
        let verdict = Verdict::Failed(Explained::new(format!("{failed} could not be removed"), hint));
        return Ok(Done::new(verdict, &summary));
    }
    if !args.prune {
        return Ok(Done::verified(&summary));
    }
    let pruned = prune::prune(&args.prune_options, &repository, false, access, ui)?;
    summary.prune = Some(pruned.summary);
    Ok(Done::new(pruned.verdict, &summary))
}

impl Args {
    fn plan(
        &self,
        repository: &Repository,
        access: &Access,
        progress: &Progress,
    ) -> Result<ForgetPlan, Failure> {
        let options = ForgetOptions {
            filter: self.filter.resolve()?,
            group_by: self.group_by,
            zone: TimeZone::system(),
            allow_remove_all: self.allow_remove_all,
            ignore_future: self.ignore_future,
            lock: access.lock(),
        };
        Ok(if self.names.is_empty() {
            plan_forget(repository, &self.keep.policy(), &options, progress.context())?
        } else {
            plan_forget_named(repository, &self.names, &options, progress.context())?
        })
    }
}

impl KeepArgs {
    fn policy(&self) -> KeepPolicy {
        KeepPolicy {
            last: self.keep_last.unwrap_or_default(),
            hourly: self.keep_hourly.unwrap_or_default(),
            daily: self.keep_daily.unwrap_or_default(),
            weekly: self.keep_weekly.unwrap_or_default(),
            monthly: self.keep_monthly.unwrap_or_default(),
            yearly: self.keep_yearly.unwrap_or_default(),
            within: self.keep_within,
            within_hourly: self.keep_within_hourly,
            within_daily: self.keep_within_daily,
            within_weekly: self.keep_within_weekly,
            within_monthly: self.keep_within_monthly,
            within_yearly: self.keep_within_yearly,
            tags: self.keep_tag.iter().map(|list| split_tags(list).collect()).collect(),
        }
    }
}

/// Shows what becomes of a group; of named snapshots only those that go.
fn show(group: &ForgetGroup, named: bool, ui: &Ui) -> Result<(), Failure> {
    let key = &group.key;
    let mut words = Vec::new();
    words.extend(key.host.iter().map(|host| format!("host {}", printable(host))));
    words.extend(key.paths.iter().map(|paths| format!("paths {}", printable(&paths.join(" ")))));
    words.extend(key.tags.iter().map(|tags| format!("tags {}", printable(&tags.join(",")))));
    if !words.is_empty() && !named {
        ui.talk(ui.paint(Style::Bold, &words.join(", ")))?;
    }
    let mut table = Table::new(&["", "id", "time", "host", "paths", "why"], &[]);
    if !named {
        for kept in &group.keep {
            let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
            table.row(row("keep", &kept.entry, reasons.join(", ")));
        }
    }
    for entry in &group.remove {
        table.row(row("remove", entry, String::new()));
    }
    for (number, line) in table.lines().enumerate() {
        ui.talk(if number == 0 { ui.paint(Style::Dim, &line) } else { line })?;
    }
    let kept = |kept: &repository::forget::Kept| KeptLine {
        snapshot_id: kept.entry.id.to_hex(),
        reasons: kept.reasons.iter().map(ToString::to_string).collect(),
    };
    ui.event(&Line::ForgetGroup(ForgetGroupLine {
        host: key.host.clone(),
        paths: key.paths.clone(),
        tags: key.tags.clone(),
        keep: group.keep.iter().map(kept).collect(),
        remove: group.remove.iter().map(|entry| entry.id.to_hex()).collect(),
    }))
}

fn row(what: &str, entry: &SnapshotEntry, why: String) -> [String; 6] {
    let snapshot = &entry.snapshot;
    let time = units::local_time(snapshot.time);
    let paths = printable(&snapshot.paths.join(" "));
    [what.to_owned(), entry.id.short(), time, printable(&snapshot.hostname), paths, why]
}
