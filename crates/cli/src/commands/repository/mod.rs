//! `lifeboat repository`: everything about one repository, without a plan.

mod backup;
mod check;
mod copy;
mod diff;
mod dump;
mod find;
mod forget;
mod init;
mod key;
mod ls;
mod prune;
mod repair;
mod restore;
mod snapshots;
mod stats;
mod unlock;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use repository::{Repository, SnapshotEntry, SnapshotFilter};

use crate::access::{Access, AccessArgs};
use crate::outcome::{Answer, Failure};
use crate::ui::Ui;

/// Keep file trees in a repository, and get them back
///
/// The repository has restic's format: `restic -r LOCATION` opens it with the same password.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "repo",
    after_help = "\
The password is taken from --password-file or --password-command; else from LIFEBOAT_PASSWORD,
LIFEBOAT_PASSWORD_FILE or LIFEBOAT_PASSWORD_COMMAND; else it is asked for.

Examples:
  export LIFEBOAT_REPOSITORY=/srv/backup LIFEBOAT_PASSWORD_FILE=~/.backup-password
  lifeboat repository init
  lifeboat repository backup /home /etc --exclude '*.tmp'
  lifeboat repository snapshots
  lifeboat repository restore latest --target /tmp/back --include /etc/fstab
  lifeboat repository check --read-data"
)]
pub struct Args {
    #[command(flatten)]
    access: AccessArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::Args),
    Backup(Box<backup::Args>),
    Restore(Box<restore::Args>),
    Snapshots(snapshots::Args),
    Ls(ls::Args),
    Find(find::Args),
    Diff(diff::Args),
    Dump(dump::Args),
    Check(check::Args),
    Repair(repair::Args),
    Forget(Box<forget::Args>),
    Prune(prune::Args),
    Copy(copy::Args),
    Key(key::Args),
    Unlock(unlock::Args),
    Stats(stats::Args),
}

impl Command {
    /// The command's name as JSON lines state it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => "repository init",
            Self::Backup(_) => "repository backup",
            Self::Restore(_) => "repository restore",
            Self::Snapshots(_) => "repository snapshots",
            Self::Ls(_) => "repository ls",
            Self::Find(_) => "repository find",
            Self::Diff(_) => "repository diff",
            Self::Dump(_) => "repository dump",
            Self::Check(_) => "repository check",
            Self::Repair(_) => "repository repair",
            Self::Forget(_) => "repository forget",
            Self::Prune(_) => "repository prune",
            Self::Copy(_) => "repository copy",
            Self::Key(_) => "repository key",
            Self::Unlock(_) => "repository unlock",
            Self::Stats(_) => "repository stats",
        }
    }
}

impl Args {
    /// Runs the command.
    pub fn run(self, ui: &Ui) -> Answer {
        let access = Access::resolve(&self.access)?;
        match self.command {
            Command::Init(args) => init::run(&args, &access, ui),
            Command::Backup(args) => backup::run(&args, &access, ui),
            Command::Restore(args) => restore::run(&args, &access, ui),
            Command::Snapshots(args) => snapshots::run(&args, &access, ui),
            Command::Ls(args) => ls::run(&args, &access, ui),
            Command::Find(args) => find::run(&args, &access, ui),
            Command::Diff(args) => diff::run(&args, &access, ui),
            Command::Dump(args) => dump::run(&args, &access, ui),
            Command::Check(args) => check::run(&args, &access, ui),
            Command::Repair(args) => repair::run(&args, &access, ui),
            Command::Forget(args) => forget::run(&args, &access, ui),
            Command::Prune(args) => prune::run(&args, &access, ui),
            Command::Copy(args) => copy::run(&args, &access, ui),
            Command::Key(args) => key::run(&args, &access, ui),
            Command::Unlock(args) => unlock::run(&args, &access, ui),
            Command::Stats(args) => stats::run(&args, &access, ui),
        }
    }
}

/// Which snapshots are meant.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Snapshots")]
pub struct FilterArgs {
    /// Only snapshots of this host; may be repeated
    #[arg(short = 'H', long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Only snapshots with all of these tags; repeated, with those of any one list
    #[arg(long = "tag", value_name = "TAG[,TAG…]")]
    pub tags: Vec<String>,
    /// Only snapshots of this path; repeated, of all of them
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

impl FilterArgs {
    /// The filter of the engine.
    pub fn resolve(&self) -> Result<SnapshotFilter, Failure> {
        let absolute = |path: &PathBuf| {
            let path = std::path::absolute(path)
                .map_err(|error| Failure::other(format!("failed to resolve {}: {error}", path.display())))?;
            Ok(path.to_string_lossy().into_owned())
        };
        Ok(SnapshotFilter {
            hosts: self.hosts.clone(),
            tags: self.tags.iter().map(|list| split_tags(list).collect()).collect(),
            paths: self.paths.iter().map(absolute).collect::<Result<_, Failure>>()?,
        })
    }
}

/// The snapshots that are named, or all that the filter lets through; oldest first.
fn choose_snapshots(
    repository: &Repository,
    names: &[String],
    filter: &FilterArgs,
) -> Result<Vec<SnapshotEntry>, Failure> {
    let filter = filter.resolve()?;
    if names.is_empty() {
        let mut entries = repository.snapshots()?;
        entries.retain(|entry| filter.matches(&entry.snapshot));
        return Ok(entries);
    }
    let found = names.iter().map(|name| repository.find_snapshot(name, &filter));
    Ok(found.collect::<repository::Result<_>>()?)
}

/// The tags of a list with commas between.
fn split_tags(list: &str) -> impl Iterator<Item = String> + '_ {
    list.split(',').map(|tag| tag.trim().to_owned())
}

/// A snapshot and a path in it, as `SNAPSHOT[:PATH]`.
#[derive(Debug, Clone)]
pub struct SnapshotPath {
    /// The beginning of an id, or `latest`.
    pub name: String,
    /// Absolute; `/` for all.
    pub path: PathBuf,
}

impl std::str::FromStr for SnapshotPath {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, path) = text.split_once(':').unwrap_or((text, "/"));
        Ok(Self { name: name.to_owned(), path: Path::new("/").join(path) })
    }
}

/// Reads a file that the command line names; `-` is standard input.
fn read_list(file: &Path) -> Result<Vec<u8>, Failure> {
    let read = if file == Path::new("-") {
        let mut content = Vec::new();
        std::io::stdin().lock().read_to_end(&mut content).map(|_| content)
    } else {
        std::fs::read(file)
    };
    read.map_err(|error| {
        let message = format!("failed to read {}: {error}", file.display());
        Failure::Usage { message, hints: Vec::new() }
    })
}
