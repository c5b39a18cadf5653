//! `lifeboat demo`: a made-up file tree is backed up, damaged, restored in place and proved to be what it was.
//!
//! `estate` makes and damages the tree, `proof` looks at it with eyes of its own: it shares no code with the
//! engine, so that one cannot hide the other's mistakes.

mod estate;
mod proof;

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use repository::backup::{BackupOptions, Source, backup};
use repository::check::{CheckOptions, ReadData, check};
use repository::format::Chunking;
use repository::restore::{Overwrite, RestoreOptions, RestorePlan, find_subtree};
use repository::{BlobReader, Clock, FileKind, Id, Index, InitOptions, Repository};
use serde::Serialize;
use store::Local;

use crate::access::{KEY_COST, author};
use crate::environment;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::progress::Progress;
use crate::ui::{Style, Ui, printable_path};
use crate::units::{bytes, count, counted, duration};
use proof::Tree;

/// See it work: a file tree is made, backed up, damaged, restored and proved
///
/// Makes a few thousand files in a temporary directory, backs them up, damages them for real (deletes, truncates,
/// flips bits, changes modes, adds strangers), restores them in place, and compares every name, byte, mode,
/// owner, time, link and attribute with what was there before. Needs no root, no network and no set-up,
/// and takes everything away again. Exits with 0 only if the tree came back identical.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat demo
  lifeboat demo --keep /tmp/demo    leave tree and repository there, to look at")]
pub struct Args {
    /// Work in this directory, which must not exist or be empty, and leave it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Make the tree and the damage from this number, as an earlier run printed it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// What was done, with figures as measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    seed: u64,
    files: u64,
    folders: u64,
    symlinks: u64,
    hard_links: u64,
    sparse_files: u64,
    with_attributes: u64,
    bytes: u64,
    backup_seconds: f64,
    unchanged_backup_seconds: f64,
    repository_bytes: u64,
    check_seconds: f64,
    damages: u64,
    damages_noticed: u64,
    restore_seconds: f64,
    bytes_written: u64,
    files_restored: u64,
    differences: u64,
}

/// So many differences are named; more would only scroll by.
const DIFFERENCES_SHOWN: usize = 10;

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let place = Place::make(args.keep.as_deref())?;
    let estate = place.path.join("estate");
    let repository_path = place.path.join("repository");
    let mut report = Report { seed: args.seed.unwrap_or_else(random), ..Report::default() };
    let step = |name: &str, text: String| {
        ui.talk(format!("{}  {text}", ui.paint(Style::Bold, &format!("{name:<9}"))))
    };

    let made = estate::make(&estate, report.seed)?;
    let before = Tree::read(&estate)?;
    report.describe(&before, &made);
    step("made", report.made())?;

    let password = Id::random().to_hex();
    let store = Arc::new(Local::open(&repository_path)?);
    let options =
        InitOptions { chunking: Chunking::Gear, polynomial: None, cost: KEY_COST, author: author() };
    let repository = Repository::init(store, password.as_bytes(), &options, Clock::system())?;
    let (snapshot, took) = back_up(&repository, &estate, ui)?;
    report.backup_seconds = took.as_secs_f64();
    report.unchanged_backup_seconds = back_up(&repository, &estate, ui)?.1.as_secs_f64();
    report.repository_bytes = repository.list(FileKind::Pack)?.iter().map(|(_, size)| size).sum();
    step("backed up", report.backed_up())?;

    let start = Instant::now();
    verify(&repository, ui)?;
    report.check_seconds = start.elapsed().as_secs_f64();
    step(
        "checked",
        format!("every byte of the repository, no errors, in {}", seconds(report.check_seconds)),
    )?;

    let damage = estate::damage(&estate, report.seed)?;
    report.damages = damage.paths.len() as u64;
    step("damaged", damage.to_string())?;
    let noticed = before.differences(&Tree::read(&estate)?);
    let noticed: BTreeSet<&PathBuf> = noticed.iter().map(|difference| &difference.path).collect();
    report.damages_noticed = damage.paths.iter().filter(|path| noticed.contains(path)).count() as u64;
    step(
        "noticed",
        format!(
            "{} of {} by a comparison with the tree as it was",
            count(report.damages_noticed),
            count(report.damages)
        ),
    )?;

    let start = Instant::now();
    let restored = restore(&repository, &snapshot, &estate, ui)?;
    report.restore_seconds = start.elapsed().as_secs_f64();
    (report.bytes_written, report.files_restored) = (restored.bytes_written, restored.files_restored);
    step("restored", report.restored())?;

    let differences = before.differences(&Tree::read(&estate)?);
    report.differences = differences.len() as u64;
    for difference in differences.iter().take(DIFFERENCES_SHOWN) {
        ui.problem(&difference.path.to_string_lossy(), &difference.what);
    }
    let verdict = report.verdict();
    if matches!(verdict, Verdict::Verified) {
        let all = counted(before.len() as u64, "item", "items");
        let text = format!("{all} are what they were: names, bytes, modes, owners, times, links, attributes");
        step(&ui.paint(Style::Green, "proved   "), text)?;
    }
    place.leave(&password, ui)?;
    Ok(Done::new(verdict, &report))
}

fn back_up(
    repository: &Repository,
    estate: &Path,
    ui: &Ui,
) -> Result<(repository::SnapshotEntry, Duration), Failure> {
    let progress = Progress::new(ui);
    let start = Instant::now();
    let options = BackupOptions {
        program_version: concat!("lifeboat ", env!("CARGO_PKG_VERSION")).into(),
        ..BackupOptions::default()
    };
    let report = backup(repository, Source::Paths(vec![estate.to_owned()]), &options, progress.context())?;
    if !report.problems.is_empty() {
        return Err(Failure::other(format!(
            "{} items of the tree could not be backed up",
            report.problems.len()
        )));
    }
    Ok((report.snapshot, start.elapsed()))
}

fn verify(repository: &Repository, ui: &Ui) -> Result<(), Failure> {
    let progress = Progress::new(ui);
    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    let report = check(repository, &options, progress.context())?;
    match report.findings.iter().find(|finding| finding.severity() == repository::check::Severity::Error) {
        Some(finding) => Err(Failure::other(format!("the repository just made is damaged: {finding}"))),
        None => Ok(()),
    }
}

fn restore(
    repository: &Repository,
    snapshot: &repository::SnapshotEntry,
    estate: &Path,
    ui: &Ui,
) -> Result<repository::restore::RestoreReport, Failure> {
    let progress = Progress::new(ui);
    let index = Index::load(repository, progress.context())?;
    let reader = BlobReader::new(repository, &index);
    let source = find_subtree(&reader, snapshot.snapshot.tree, estate)?;
    // Some of the damage leaves size and time as they were: only a look at the content finds it.
    let options = RestoreOptions { overwrite: Overwrite::Always, delete: true, ..RestoreOptions::default() };
    let plan = RestorePlan::new(repository, &index, &source, estate, options, progress.context())?;
    Ok(plan.execute(progress.context())?)
}

impl Report {
    fn describe(&mut self, tree: &Tree, made: &estate::Made) {
        let figures = tree.figures();
        self.files = figures.files;
        self.folders = figures.folders;
        self.symlinks = figures.symlinks;
        self.hard_links = figures.hard_links;
        self.with_attributes = figures.with_attributes;
        self.bytes = figures.bytes;
        self.sparse_files = made.sparse_files;
    }

    fn made(&self) -> String {
        format!(
            "{} in {}, {}: text, random, {} sparse, {}, {}, {} with attributes (seed {})",
            counted(self.files, "file", "files"),
            counted(self.folders, "folder", "folders"),
            bytes(self.bytes),
            count(self.sparse_files),
            counted(self.hard_links, "hard link", "hard links"),
            counted(self.symlinks, "symlink", "symlinks"),
            count(self.with_attributes),
            self.seed,
        )
    }

    fn backed_up(&self) -> String {
        let rate = bytes((self.bytes as f64 / self.backup_seconds.max(1e-9)) as u64);
        format!(
            "in {} ({rate}/s), {} as stored; again, unchanged, in {}",
            seconds(self.backup_seconds),
            bytes(self.repository_bytes),
            seconds(self.unchanged_backup_seconds),
        )
    }

    fn restored(&self) -> String {
        format!(
            "in place, {} and {} written, in {}",
            counted(self.files_restored, "file", "files"),
            bytes(self.bytes_written),
            seconds(self.restore_seconds)
        )
    }

    fn verdict(&self) -> Verdict {
        if self.damages == 0 || self.damages_noticed < self.damages {
            // A comparison that is blind proves nothing, whatever it says afterwards.
            let why = "the comparison did not notice all of the damage, so that it proves nothing";
            return Verdict::NotProven(Explained::new(why, &self.repeat()));
        }
        match self.differences {
            0 => Verdict::Verified,
            n => {
                let why = format!("{} differ from what was there before", counted(n, "item", "items"));
                Verdict::Failed(Explained::new(why, &self.repeat()))
            }
        }
    }

    fn repeat(&self) -> String {
        format!("repeat it with `lifeboat demo --seed {} --keep DIR` and look", self.seed)
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.2} s", seconds) } else { duration(Duration::from_secs_f64(seconds)) }
}

fn random() -> u64 {
    // Few digits, so that a person can type them.
    u64::from(u16::from_le_bytes([Id::random().0[0], Id::random().0[1]]))
}

impl From<proof::Error> for Failure {
    fn from(error: proof::Error) -> Self {
        Self::other(error.to_string())
    }
}

/// Where the demo takes place; taken away when dropped unless it is to be kept.
struct Place {
    path: PathBuf,
    keep: bool,
}

impl Place {
    fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let path = match keep {
            Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            None => {
                let base = environment::path("TMPDIR").unwrap_or_else(|| "/tmp".into());
                base.join(format!("lifeboat-demo-{}", Id::random().short()))
            }
        };
        let fail =
            |error: std::io::Error| Failure::other(format!("failed to make {}: {error}", path.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail)?;
        if std::fs::read_dir(&path).map_err(fail)?.next().is_some() {
            let message = format!("{} is not empty", path.display());
            return Err(Failure::usage(message, "name a directory that does not exist yet"));
        }
        // The snapshot has the path without links, and the restore asks for it.
        let path = path.canonicalize().map_err(fail)?;
        Ok(Self { path, keep: keep.is_some() })
    }

    fn leave(&self, password: &str, ui: &Ui) -> Result<(), Failure> {
        if !self.keep {
            return Ok(());
        }
        let path = printable_path(&self.path);
        ui.talk(format!("left in {path}; look at it with"))?;
        ui.talk(format!(
            "  LIFEBOAT_PASSWORD={password} lifeboat repository -r {path}/repository snapshots"
        ))?;
        ui.talk(format!("  RESTIC_PASSWORD={password} restic -r {path}/repository check --read-data"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed is left in the system's temporary directory, where it harms nobody.
            let _left = std::fs::remove_dir_all(&self.path);
        }
    }
}
