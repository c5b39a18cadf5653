//! `lifeboat repository copy`

use std::path::PathBuf;

use repository::copy::{CopyOptions, copy};
use serde::Serialize;

use super::FilterArgs;
use crate::access::Access;
use crate::environment;
use crate::json::Line;
use crate::outcome::{Answer, Done, Failure};
use crate::password::Source;
use crate::progress::Progress;
use crate::ui::Ui;
use crate::units;

/// Copy snapshots from another repository into this one
///
/// What this repository has already is not copied again. Both may have passwords of their own. Make the new repository
/// with `init --like` so that what both store is cut alike.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository copy -r s3://offsite/backup --from-repository /srv/backup
  lifeboat repository copy --from-repository /srv/backup --from-password-file /root/other latest")]
pub struct Args {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    names: Vec<String>,
    /// Where to copy from [env: LIFEBOAT_FROM_REPOSITORY]
    #[arg(long, visible_alias = "from-repo", value_name = "LOCATION")]
    from_repository: Option<String>,
    /// Read its password from a file [env: LIFEBOAT_FROM_PASSWORD_FILE, or LIFEBOAT_FROM_PASSWORD itself]
    #[arg(long, value_name = "FILE", conflicts_with = "from_password_command")]
    from_password_file: Option<PathBuf>,
    /// Take its password from what a shell command prints [env: LIFEBOAT_FROM_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND")]
    from_password_command: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Summary {
    copied: usize,
    were_there: usize,
    data_added: u64,
    data_added_packed: u64,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let from = args.from_repository.clone().or_else(|| environment::text("LIFEBOAT_FROM_REPOSITORY"));
    let from = from.ok_or_else(|| {
        Failure::usage("no repository given to copy from", "name it with --from-repository LOCATION")
    })?;
    let (file, command) = (args.from_password_file.as_deref(), args.from_password_command.as_deref());
    let from = access.beside(&from, Source::resolve(file, command, "LIFEBOAT_FROM"))?;
    let options = CopyOptions {
        names: args.names.clone(),
        filter: args.filter.resolve()?,
        lock: access.lock(),
        ..CopyOptions::default()
    };
    let (source, target) = (from.open(ui)?, access.open(ui)?);
    let progress = Progress::new(ui);
    let report = copy(&source, &target, &options, progress.context())?;
    drop(progress);
    for (list, was_there) in [(&report.known, true), (&report.copied, false)] {
        for (source, target) in list {
            let verb = if was_there { "is there already as" } else { "copied as" };
            ui.talk(format!("snapshot {} {verb} {}", source.short(), target.short()))?;
            let (source_id, target_id) = (source.to_hex(), target.to_hex());
            ui.event(&Line::Copied { source_id, target_id, was_there })?;
        }
    }
    let (added, packed) = (report.written.plain_bytes, report.written.sealed_bytes);
    ui.line(format!(
        "copied {}, {} were there; added {}, {} as stored",
        units::counted(report.copied.len() as u64, "snapshot", "snapshots"),
        report.known.len(),
        units::bytes(added),
        units::bytes(packed)
    ))?;
    Ok(Done::verified(&Summary {
        copied: report.copied.len(),
        were_there: report.known.len(),
        data_added: added,
        data_added_packed: packed,
    }))
}
