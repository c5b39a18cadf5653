//! `lifeboat repository backup`

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use repository::backup::{
    BackupOptions, BackupReport, IfPresent, Parent, ProblemKind, Selection, Source, backup,
};
use repository::filter::patterns_in_file;
use repository::format::Time;
use repository::{Error, Patterns, Repository, SnapshotFilter};
use serde::Serialize;

use super::{read_list, split_tags};
use crate::access::Access;
use crate::environment;
use crate::json::{Line, SnapshotLine};
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::ui::Ui;
use crate::units::{self, parse_bytes};

/// Put files and directories into a new snapshot
///
/// Only what has changed since the last snapshot of the same paths is read, and only what the repository has not
/// is stored. A backup that was interrupted goes on where it stopped. Exits with 2 when something asked
/// for could not be read or changed while it was read: the snapshot is there, and lacks just that.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Patterns are restic's: `*` within a name, `**` across names, `[a-z]`, a leading `/` for the root.
What is below a directory that is left out is left out too, and a leading `!` takes back what
earlier patterns chose.

Examples:
  lifeboat repository backup /home /etc --exclude '*.tmp' --exclude-caches --tag nightly
  lifeboat repository backup / --one-file-system --exclude-file /etc/backup-excludes
  lifeboat repository backup /home --dry-run --verbose
  pg_dump shop | lifeboat repository backup --stdin --stdin-filename shop.sql
  lifeboat repository backup --stdin-filename shop.sql --stdin-from-command -- pg_dump shop")]
pub struct Args {
    /// What to back up
    #[arg(value_name = "PATH", required_unless_present_any = ["stdin", "files_from", "files_from_raw"])]
    paths: Vec<OsString>,
    /// Back up the paths in this file as well, one a line, taken literally; `-` is standard input
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// Back up the paths in this file as well, each ended by a zero byte; `-` is standard input
    #[arg(long, value_name = "FILE")]
    files_from_raw: Vec<PathBuf>,
    /// Back up standard input as one file
    #[arg(long, conflicts_with_all = ["paths", "files_from", "files_from_raw"])]
    stdin: bool,
    /// Run the arguments as a command and back up what it prints; no snapshot is made when it fails
    #[arg(long, conflicts_with_all = ["stdin", "files_from", "files_from_raw"])]
    stdin_from_command: bool,
    /// The path that standard input has in the snapshot
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    stdin_filename: PathBuf,

    /// Write nothing; tell what would be done (with --verbose, for every file)
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Read every file, as if there were no earlier snapshot
    #[arg(short, long, conflicts_with = "parent")]
    force: bool,
    /// Compare with this snapshot instead of the newest of the same paths
    #[arg(long, value_name = "SNAPSHOT")]
    parent: Option<String>,
    /// Keep the times of last access
    #[arg(long)]
    with_atime: bool,
    /// Take a file with another inode number for the same, on file systems that make them up
    #[arg(long)]
    ignore_inode: bool,
    /// Take a file whose inode has changed for the same when size and time of its content have not
    #[arg(long)]
    ignore_ctime: bool,
    /// Cut files into blocks of this size instead of by content: for files made of pages, such as a database's
    #[arg(long, value_name = "SIZE", value_parser = parse_block_bytes)]
    block_size: Option<u32>,
    #[command(flatten)]
    exclude: ExcludeArgs,
    #[command(flatten)]
    snapshot: SnapshotArgs,
}

/// What to leave out.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to leave out")]
struct ExcludeArgs {
    /// Leave out what fits the pattern; may be repeated
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// The same, and upper or lower case is the same
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Take patterns from a file, one a line; `$NAME` stands for a variable of the environment
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// The same, and upper or lower case is the same
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
    /// Leave out what is beside a file of this name (that begins with the header)
    #[arg(long, value_name = "NAME[:HEADER]", value_parser = parse_if_present)]
    exclude_if_present: Vec<IfPresent>,
    /// Leave out what is beside a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out files larger than this, such as 500M
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    exclude_larger_than: Option<u64>,
    /// Do not go into other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
}

/// What the snapshot says of itself.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What the snapshot says")]
struct SnapshotArgs {
    /// Label the snapshot; may be repeated
    #[arg(long = "tag", value_name = "TAG[,TAG…]")]
    tags: Vec<String>,
    /// Say that this is the host, instead of its own name
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    /// Say that this is the time, such as '2026-01-31 12:00:00'
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time: Option<Time>,
}

#[derive(Serialize)]
struct Summary {
    snapshot_id: Option<String>,
    dry_run: bool,
    resumed: bool,
    files_new: u64,
    files_changed: u64,
    files_unmodified: u64,
    dirs_new: u64,
    dirs_changed: u64,
    dirs_unmodified: u64,
    data_added: u64,
    data_added_packed: u64,
    total_files_processed: u64,
    total_bytes_processed: u64,
    unreadable: usize,
    vanished: usize,
    changed_while_read: usize,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let paths = args.all_paths()?;
    let selection = args.exclude.resolve()?;
    let repository = access.open(ui)?;
    let options = BackupOptions {
        selection,
        parent: args.parent(&repository)?,
        time: args.snapshot.time,
        hostname: args.snapshot.host.clone(),
        tags: args.snapshot.tags.iter().flat_map(|list| split_tags(list)).collect(),
        program_version: concat!("lifeboat ", env!("CARGO_PKG_VERSION")).into(),
        with_atime: args.with_atime,
        ignore_inode: args.ignore_inode,
        ignore_ctime: args.ignore_ctime,
        block_bytes: args.block_size,
        dry_run: args.dry_run,
        lock: access.lock(),
        ..BackupOptions::default()
    };
    let source = args.source(paths)?;
    let progress = Progress::new(ui);
    let report = backup(&repository, source, &options, progress.context()).map_err(failure)?;
    drop(progress);
    print(&report, args.dry_run, ui)?;
    Ok(conclude(&report, args.dry_run))
}

impl Args {
    fn all_paths(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut paths: Vec<PathBuf> = self.paths.iter().map(PathBuf::from).collect();
        for file in &self.files_from {
            let content = read_list(file)?;
            let lines =
                content.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            paths.extend(lines.filter(|line| !line.is_empty() && line[0] != b'#').map(to_path));
        }
        for file in &self.files_from_raw {
            let content = read_list(file)?;
            paths.extend(content.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(to_path));
        }
        if paths.is_empty() && !self.stdin {
            return Err(Failure::usage("there is nothing to back up", "name at least one file or directory"));
        }
        Ok(paths)
    }

    fn parent(&self, repository: &Repository) -> Result<Parent, Failure> {
        Ok(match &self.parent {
            _ if self.force => Parent::None,
            None => Parent::Latest,
            Some(name) => Parent::Snapshot(repository.find_snapshot(name, &SnapshotFilter::default())?.id),
        })
    }

    fn source(&self, paths: Vec<PathBuf>) -> Result<Source<'static>, Failure> {
        let name = self.stdin_filename.clone();
        if self.stdin {
            return Ok(Source::Stream {
                name,
                reader: Box::new(std::io::stdin()),
                finish: Box::new(|| Ok(())),
            });
        }
        if !self.stdin_from_command {
            return Ok(Source::Paths(paths));
        }
        let mut child = Command::new(&self.paths[0])
            .args(&self.paths[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let message = format!("failed to run {}: {error}", paths[0].display());
                Failure::usage(message, "name the command and its arguments after `--`")
            })?;
        let reader = child.stdout.take().expect("its output is a pipe");
        Ok(Source::Stream { name, reader: Box::new(reader), finish: Box::new(|| wait(child)) })
    }
}

fn wait(mut child: Child) -> Result<(), String> {
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the command ended with {status}")),
        Err(error) => Err(format!("the command's end is unknown: {error}")),
    }
}

impl ExcludeArgs {
    fn resolve(&self) -> Result<Selection, Failure> {
        let mut described = Vec::new();
        let mut compile = |patterns: &[String], files: &[PathBuf], fold: bool| {
            let mut all = patterns.to_vec();
            for file in files {
                let content = read_list(file)?;
                let content = String::from_utf8_lossy(&content).into_owned();
                all.extend(patterns_in_file(&content).map(environment::expand));
            }
            described.extend(all.iter().cloned());
            Patterns::parse(all.iter().map(String::as_str), fold).map_err(|error| {
                Failure::usage(
                    error.to_string(),
                    "see the patterns that `lifeboat repository backup --help` describes",
                )
            })
        };
        let excludes = compile(&self.exclude, &self.exclude_file, false)?;
        let excludes = excludes.or(compile(&self.iexclude, &self.iexclude_file, true)?);
        let mut if_present = self.exclude_if_present.clone();
        if self.exclude_caches {
            if_present.push(IfPresent::cache_tag());
        }
        Ok(Selection {
            excludes,
            described,
            if_present,
            larger_than_bytes: self.exclude_larger_than,
            one_file_system: self.one_file_system,
        })
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn parse_if_present(text: &str) -> Result<IfPresent, String> {
    IfPresent::parse(text).ok_or_else(|| "it must be NAME or NAME:HEADER, and no path".to_owned())
}

fn parse_block_bytes(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| (4 << 10..=8 << 20).contains(bytes))
        .ok_or_else(|| "blocks may have 4k to 8M".to_owned())
}

pub fn parse_time(text: &str) -> Result<Time, String> {
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Ok(instant.into());
    }
    let local = text.parse::<jiff::civil::DateTime>().ok();
    local
        .and_then(|local| local.to_zoned(jiff::tz::TimeZone::system()).ok())
        .map(|zoned| zoned.timestamp().into())
        .ok_or_else(|| "it is no time such as '2026-01-31 12:00:00' or 2026-01-31T12:00:00Z".to_owned())
}

/// What the engine refuses here is a source of which nothing came, and that is a failure.
fn failure(error: Error) -> Failure {
    match error {
        Error::Refused(message) => Failure::other(message),
        error => error.into(),
    }
}

fn print(report: &BackupReport, dry_run: bool, ui: &Ui) -> Result<(), Failure> {
    let summary = &report.summary;
    let count = units::count;
    if report.resumed {
        ui.talk("went on where an interrupted backup had stopped")?;
    }
    ui.talk(format!(
        "files     {} new, {} changed, {} unchanged",
        count(summary.files_new),
        count(summary.files_changed),
        count(summary.files_unmodified)
    ))?;
    ui.talk(format!(
        "folders   {} new, {} changed, {} unchanged",
        count(summary.dirs_new),
        count(summary.dirs_changed),
        count(summary.dirs_unmodified)
    ))?;
    let (added, packed) = (units::bytes(summary.data_added), units::bytes(summary.data_added_packed));
    let would = if dry_run { "would add" } else { "added" };
    ui.talk(format!("{would:<9} {added}, {packed} as stored"))?;
    ui.talk(format!(
        "in all    {}, {} in {}",
        units::counted(summary.total_files_processed, "file", "files"),
        units::bytes(summary.total_bytes_processed),
        units::duration(std::time::Duration::from_secs_f64(ui.elapsed_seconds()))
    ))?;
    if dry_run {
        return ui.line("dry run: nothing was written");
    }
    ui.event(&Line::Snapshot(SnapshotLine::of(&report.snapshot)))?;
    ui.line(format!("saved snapshot {}", report.snapshot.id.short()))
}

fn conclude(report: &BackupReport, dry_run: bool) -> Done {
    let of = |kind| report.problems.iter().filter(|problem| problem.kind == kind).count();
    let s = &report.summary;
    let summary = Summary {
        snapshot_id: (!dry_run).then(|| report.snapshot.id.to_hex()),
        dry_run,
        resumed: report.resumed,
        files_new: s.files_new,
        files_changed: s.files_changed,
        files_unmodified: s.files_unmodified,
        dirs_new: s.dirs_new,
        dirs_changed: s.dirs_changed,
        dirs_unmodified: s.dirs_unmodified,
        data_added: s.data_added,
        data_added_packed: s.data_added_packed,
        total_files_processed: s.total_files_processed,
        total_bytes_processed: s.total_bytes_processed,
        unreadable: of(ProblemKind::Unreadable),
        vanished: of(ProblemKind::Vanished),
        changed_while_read: of(ProblemKind::Changed),
    };
    let parts: Vec<String> = [
        (summary.unreadable, "could not be read"),
        (summary.vanished, "vanished"),
        (summary.changed_while_read, "changed while read"),
    ]
    .iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{} {what}", units::counted(*number as u64, "item", "items")))
    .collect();
    let verdict = if parts.is_empty() {
        Verdict::Verified
    } else {
        let hint = "the snapshot holds everything else; run the backup again when the cause is removed, or exclude them";
        Verdict::NotProven(Explained::new(parts.join(", "), hint))
    };
    Done::new(verdict, &summary)
}
