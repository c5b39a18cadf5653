//! Executing a plan: the order of everything, and the account of what happened.

use std::collections::HashSet;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::event::{Change, Event, Task};
use crate::format::NodeKind;
use crate::{Context, Error, Result};

use super::content::Writer;
use super::metadata::{Before, Setter};
use super::table::{Dir, Entry, NONE, Step, Tables};
use super::target::{Target, remove_at};
use super::{Fsync, RestorePlan, RestoreProblem, RestoreReport, compare, fetch, seed, work};

/// How often what was written so far is synced, where the whole file system is: the disk has nothing to do meanwhile,
/// and what is left for the end is what is waited for.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// One execution of a plan, shared by its threads.
pub(super) struct Run<'a> {
    pub plan: &'a RestorePlan<'a>,
    pub tables: &'a Tables,
    pub target: Target,
    pub setter: Setter,
    pub context: Context<'a>,
    pub bytes_written: AtomicU64,
    pub bytes_fetched: AtomicU64,
    pub bytes_taken: AtomicU64,
    files_restored: AtomicU64,
    others_restored: AtomicU64,
    files_verified: AtomicU64,
    problems: Mutex<Vec<RestoreProblem>>,
    /// Entries that could not be restored.
    failed_entries: Mutex<HashSet<u32>>,
    /// Directories that could not be made, by number: nothing below them is tried.
    failed_dirs: Vec<AtomicBool>,
}

/// As many threads as the machine has processors.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// See [`RestorePlan::execute_telling`].
pub(super) fn execute(
    mut plan: RestorePlan<'_>,
    context: Context<'_>,
    written: impl FnOnce(),
) -> Result<RestoreReport> {
    let problems = std::mem::take(&mut plan.problems);
    std::fs::create_dir_all(&plan.target)
        .map_err(|error| Error::io("make the target directory", &plan.target, error))?;
    let target = Target::open(&plan.target)
        .map_err(|error| Error::io("open the target directory", &plan.target, error))?;
    let run = Run {
        plan: &plan,
        tables: &plan.tables,
        target,
        setter: Setter::new(plan.options.ownership),
        context,
        bytes_written: AtomicU64::new(0),
        bytes_fetched: AtomicU64::new(0),
        bytes_taken: AtomicU64::new(0),
        files_restored: AtomicU64::new(0),
        others_restored: AtomicU64::new(0),
        files_verified: AtomicU64::new(0),
        problems: Mutex::new(problems),
        failed_entries: Mutex::default(),
        failed_dirs: plan.tables.dirs.iter().map(|_| AtomicBool::new(false)).collect(),
    };
    context.tell(Event::Begin(Task::Restore));
    let totals = plan.totals;
    let items = totals.files_create + totals.files_update + totals.others_create;
    context.tell(Event::Expect { task: Task::Restore, items, bytes: totals.bytes_write });
    let everything = || {
        let done = run.everything()?;
        written();
        Ok(done)
    };
    let (deleted, withheld) = match plan.options.fsync {
        Fsync::Syncfs => run.while_syncing(everything)?,
        Fsync::None | Fsync::Files => everything()?,
    };
    run.sync()?;
    context.tell(Event::End(Task::Restore));
    Ok(run.into_report(deleted, withheld))
}

/// The ranges of directories that have the same depth, without the target itself.
fn levels(tables: &Tables) -> Vec<Range<usize>> {
    let mut start = 1;
    tables.dirs[1..]
        .chunk_by(|one, other| one.depth == other.depth)
        .map(|level| {
            let range = start..start + level.len();
            start = range.end;
            range
        })
        .collect()
}

impl Run<'_> {
    pub fn threads(&self) -> usize {
        self.plan.options.threads.unwrap_or_else(processors).max(1)
    }

    /// All but the sync at the end; tells how many things were deleted, and how many were left though they should be.
    fn everything(&self) -> Result<(u64, u64)> {
        let entries = 0..self.tables.entries.len();
        self.clear_the_way()?;
        let levels = levels(self.tables);
        for level in &levels {
            self.for_each(level.clone(), |number| self.make_dir(number as u32))?;
        }
        self.for_each(entries.clone(), |number| self.make_without_content(number as u32))?;
        let writer = Writer::new(self);
        let uses = seed::take(self, &writer)?;
        fetch::fetch_all(self, &writer, &uses)?;
        self.for_each(entries.clone(), |number| self.link(number as u32))?;
        let deleted = self.delete()?;
        if self.plan.options.verify {
            self.for_each(entries, |number| self.verify(number as u32))?;
        }
        for level in levels.into_iter().rev() {
            self.for_each(level, |number| self.finish_dir(number as u32))?;
        }
        Ok(deleted)
    }

    /// Works while what is written already goes to the disk. An error of the disk is told once, so it is kept.
    fn while_syncing<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let (working, done) = channel::<()>();
        std::thread::scope(|scope| {
            let syncing = scope.spawn(move || -> Result<()> {
                while done.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
                    self.sync()?;
                }
                Ok(())
            });
            let worked = work();
            drop(working);
            let synced = syncing.join().expect("syncing does not panic");
            worked.and_then(|worked| synced.map(|()| worked))
        })
    }

    fn for_each(&self, range: Range<usize>, act: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let start = range.start;
        work::for_each(self.threads(), range.len(), self.context, |number| act(start + number))
    }

    /// Takes down what went wrong with one item; fails when it means that nothing more will succeed.
    pub fn problem(&self, relative: PathBuf, error: Error) -> Result<()> {
        if is_fatal(&error) {
            return Err(error);
        }
        let path = self.plan.target.join(relative);
        let (item, text) = (path.to_string_lossy(), error.to_string());
        self.context.tell(Event::Problem { item: &item, error: &text });
        self.problems.lock().expect("no holder panics").push(RestoreProblem { path, error });
        Ok(())
    }

    /// Takes down what went wrong with an entry.
    pub fn entry_problem(&self, number: u32, error: Error) -> Result<()> {
        self.failed_entries.lock().expect("no holder panics").insert(number);
        self.problem(self.tables.entry_path(&self.tables.entries[number as usize]), error)
    }

    fn entry_io(&self, number: u32, action: &'static str, error: Errno) -> Result<()> {
        self.entry_problem(number, self.io_error(number, action, error))
    }

    /// The error of a failed access to an entry.
    pub fn io_error(&self, number: u32, action: &'static str, error: impl Into<std::io::Error>) -> Error {
        let entry = &self.tables.entries[number as usize];
        Error::io(action, self.plan.target.join(self.tables.entry_path(entry)), error)
    }

    /// Whether the directory could not be made, so that there is no place for what it holds.
    pub fn dir_failed(&self, number: u32) -> bool {
        self.failed_dirs[number as usize].load(Ordering::Relaxed)
    }

    /// What an entry or directory in `parent` may have been before.
    pub fn before(&self, step: Step, parent: u32) -> Before {
        let made = matches!(step, Step::Create | Step::Replace);
        if made && !self.tables.dirs[parent as usize].exists() { Before::Blank } else { Before::Existed }
    }

    /// Counts and tells a finished entry.
    pub fn finished(&self, number: u32) {
        let entry = &self.tables.entries[number as usize];
        let is_file = entry.kind == NodeKind::File;
        let counter = if is_file { &self.files_restored } else { &self.others_restored };
        counter.fetch_add(1, Ordering::Relaxed);
        let change = if entry.step == Step::Create { Change::New } else { Change::Changed };
        let path = self.plan.target.join(self.tables.entry_path(entry));
        let bytes = if is_file { entry.size } else { 0 };
        self.context.tell(Event::Item { path: &path, change, bytes });
        self.context.tell(Event::Advance { task: Task::Restore, items: 1, bytes: 0 });
    }

    fn clear_the_way(&self) -> Result<()> {
        for path in &self.plan.in_the_way {
            match self.target.remove(path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => {
                    let full = self.plan.target.join(path);
                    self.problem(path.clone(), Error::io("remove", full, error))?;
                }
            }
        }
        Ok(())
    }

    fn make_dir(&self, number: u32) -> Result<()> {
        let dir = &self.tables.dirs[number as usize];
        if dir.step == Step::Omit {
            return Ok(());
        }
        let failed = &self.failed_dirs[number as usize];
        if self.dir_failed(dir.parent) {
            failed.store(true, Ordering::Relaxed);
            return Ok(());
        }
        if let Err(error) = self.try_make_dir(dir) {
            failed.store(true, Ordering::Relaxed);
            let path = self.tables.dir_path(number);
            let full = self.plan.target.join(&path);
            self.problem(path, Error::io("make the directory", full, error))?;
        }
        Ok(())
    }

    fn try_make_dir(&self, dir: &Dir) -> rustix::io::Result<()> {
        let parent = self.target.dir(self.tables, dir.parent)?;
        let name = self.tables.name(dir.name);
        if dir.exists() {
            return if dir.chosen && !self.setter.is_root() { open_up(parent.as_fd(), name) } else { Ok(()) };
        }
        if dir.step == Step::Replace {
            remove_at(parent.as_fd(), name)?;
        }
        match rustix::fs::mkdirat(&*parent, name, Mode::RWXU) {
            // Made by somebody else since the plan; a link to a directory is none.
            Err(Errno::EXIST) => open_dir(parent.as_fd(), name).map(drop),
            other => other,
        }
    }

    /// Makes what needs nothing from the repository: links, devices, pipes, empty files; and sets metadata.
    fn make_without_content(&self, number: u32) -> Result<()> {
        let entry = &self.tables.entries[number as usize];
        if self.dir_failed(entry.parent) || entry.leader != NONE {
            return Ok(());
        }
        let result = match (entry.step, entry.kind) {
            (Step::Create | Step::Replace, NodeKind::File) if entry.pieces > 0 => return Ok(()),
            (Step::Update, _) if self.tables.bytes_to_write(entry) > 0 => return Ok(()),
            (Step::Update, _) => Writer::cut(self, entry),
            (Step::Create | Step::Replace, NodeKind::File) => Writer::make_empty(self, entry),
            (Step::Create | Step::Replace, _) => self.make_special(entry),
            (Step::SetMetadata, _) => self.set_metadata(entry, Before::Existed),
            _ => return Ok(()),
        };
        match result {
            Ok(()) => self.finished(number),
            Err(error) => self.entry_io(number, "restore", error)?,
        }
        Ok(())
    }

    fn make_special(&self, entry: &Entry) -> rustix::io::Result<()> {
        let dir = self.target.dir(self.tables, entry.parent)?;
        let name = self.tables.name(entry.name);
        if entry.step == Step::Replace {
            remove_at(dir.as_fd(), name)?;
        }
        let node = |kind| rustix::fs::mknodat(&*dir, name, kind, Mode::RUSR | Mode::WUSR, entry.size);
        match entry.kind {
            NodeKind::Symlink => rustix::fs::symlinkat(self.tables.link_target(entry), &*dir, name)?,
            NodeKind::Dev => node(FileType::BlockDevice)?,
            NodeKind::Chardev => node(FileType::CharacterDevice)?,
            NodeKind::Fifo => rustix::fs::mknodat(&*dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
            NodeKind::File | NodeKind::Dir | NodeKind::Socket => return Ok(()),
        }
        self.set_metadata(entry, self.before(entry.step, entry.parent))
    }

    fn set_metadata(&self, entry: &Entry, before: Before) -> rustix::io::Result<()> {
        let dir = self.target.dir(self.tables, entry.parent)?;
        let (name, xattrs) = (self.tables.name(entry.name), self.tables.xattrs(&entry.meta));
        self.setter.set_at(dir.as_fd(), name, entry.kind, &entry.meta, xattrs, before)
    }

    fn link(&self, number: u32) -> Result<()> {
        let entry = &self.tables.entries[number as usize];
        let wanted = entry.leader != NONE && matches!(entry.step, Step::Create | Step::Replace);
        if !wanted || self.dir_failed(entry.parent) {
            return Ok(());
        }
        let leader = &self.tables.entries[entry.leader as usize];
        let failed = self.failed_entries.lock().expect("no holder panics").contains(&entry.leader);
        if failed || self.dir_failed(leader.parent) {
            let first = self.plan.target.join(self.tables.entry_path(leader));
            let what = format!("the file it is a hard link of, {},", first.display());
            return self.entry_problem(number, Error::Missing { what });
        }
        match self.try_link(leader, entry) {
            Ok(()) => self.finished(number),
            Err(error) => self.entry_io(number, "link", error)?,
        }
        Ok(())
    }

    fn try_link(&self, leader: &Entry, entry: &Entry) -> rustix::io::Result<()> {
        let (from, to) =
            (self.target.dir(self.tables, leader.parent)?, self.target.dir(self.tables, entry.parent)?);
        let name = self.tables.name(entry.name);
        if entry.step == Step::Replace {
            remove_at(to.as_fd(), name)?;
        }
        rustix::fs::linkat(&*from, self.tables.name(leader.name), &*to, name, AtFlags::empty())
    }

    /// Removes what the snapshot does not have, unless something went wrong: what is to be deleted may be all
    /// that there is of what could not be restored.
    ///
    /// Tells how many things are deleted, those that were in the way among them, and how many were left.
    fn delete(&self) -> Result<(u64, u64)> {
        let mut deleted = self.plan.in_the_way.len() as u64;
        if !self.problems.lock().expect("no holder panics").is_empty() {
            return Ok((deleted, self.plan.deletes.len() as u64));
        }
        for path in &self.plan.deletes {
            self.context.check()?;
            match self.target.remove(path) {
                Ok(()) => deleted += 1,
                Err(Errno::NOENT) => {}
                Err(error) => {
                    let full = self.plan.target.join(path);
                    self.problem(path.clone(), Error::io("remove", full, error))?;
                }
            }
        }
        Ok((deleted, 0))
    }

    fn verify(&self, number: u32) -> Result<()> {
        let entry = &self.tables.entries[number as usize];
        let wanted = entry.kind == NodeKind::File && entry.leader == NONE;
        if !wanted
            || matches!(entry.step, Step::Omit | Step::Keep | Step::Skip)
            || self.dir_failed(entry.parent)
        {
            return Ok(());
        }
        if self.failed_entries.lock().expect("no holder panics").contains(&number) {
            return Ok(());
        }
        let right = compare::open_to_read(self.tables, &self.target, entry)
            .map_err(std::io::Error::from)
            .and_then(|(file, found)| {
                let mut right = found.size == entry.size;
                for piece in entry.first_piece..entry.first_piece + entry.pieces {
                    right = right && compare::piece_is_right(self.tables, entry, piece, &file)?;
                }
                Ok(right)
            });
        match right {
            Ok(true) => {
                self.files_verified.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Ok(false) => {
                let path = self.plan.target.join(self.tables.entry_path(entry));
                let why = "read again, it is not what the snapshot has";
                self.entry_problem(number, Error::damaged(path.display().to_string(), why))
            }
            Err(error) => self.entry_problem(number, self.io_error(number, "verify", error)),
        }
    }

    fn finish_dir(&self, number: u32) -> Result<()> {
        let dir = &self.tables.dirs[number as usize];
        let ours = dir.chosen || !dir.exists();
        if dir.step == Step::Omit || !ours || self.dir_failed(number) {
            return Ok(());
        }
        let finish = || {
            let parent = self.target.dir(self.tables, dir.parent)?;
            let fd = open_dir(parent.as_fd(), self.tables.name(dir.name))?;
            let xattrs = self.tables.xattrs(&dir.meta);
            self.setter.set(fd.as_fd(), &dir.meta, xattrs, self.before(dir.step, dir.parent))?;
            if self.plan.options.fsync == Fsync::Files { rustix::fs::fsync(&fd) } else { Ok(()) }
        };
        match finish() {
            Ok(()) => {
                if !dir.exists() {
                    self.others_restored.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(error) => {
                let path = self.tables.dir_path(number);
                let full = self.plan.target.join(&path);
                self.problem(path, Error::io("set the metadata of", full, error))
            }
        }
    }

    fn sync(&self) -> Result<()> {
        let result = match self.plan.options.fsync {
            Fsync::None => Ok(()),
            Fsync::Files => rustix::fs::fsync(self.target.root()),
            Fsync::Syncfs => rustix::fs::syncfs(self.target.root()),
        };
        result.map_err(|error| Error::io("sync", &self.plan.target, error))
    }

    fn into_report(self, deleted: u64, deletions_withheld: u64) -> RestoreReport {
        let count = |counter: AtomicU64| counter.into_inner();
        let skipped = self.tables.entries.iter().filter(|entry| entry.step == Step::Skip).count();
        let mut problems = self.problems.into_inner().expect("no holder panics");
        problems.sort_by(|one, other| one.path.cmp(&other.path));
        RestoreReport {
            files_restored: count(self.files_restored),
            files_unchanged: self.plan.totals.files_unchanged,
            others_restored: count(self.others_restored),
            bytes_written: count(self.bytes_written),
            bytes_fetched: count(self.bytes_fetched),
            bytes_taken: count(self.bytes_taken),
            files_verified: count(self.files_verified),
            owners_skipped: count(self.setter.owners_skipped),
            attributes_skipped: count(self.setter.attributes_skipped),
            sockets_skipped: skipped as u64,
            deleted,
            deletions_withheld,
            problems,
        }
    }
}

/// Whether an error means that whatever is tried next will fail as well.
pub(super) fn is_fatal(error: &Error) -> bool {
    use store::ErrorKind::{Denied, Full, Unavailable};
    match error {
        Error::Interrupted => true,
        Error::Store(error) => matches!(error.kind, Denied | Full | Unavailable),
        Error::Io { source, .. } => {
            let fatal = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS];
            source.raw_os_error().is_some_and(|code| fatal.iter().any(|errno| errno.raw_os_error() == code))
        }
        _ => false,
    }
}

fn open_dir(parent: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Lets its owner into an existing directory, which gets its own mode back at the end.
fn open_up(parent: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let Ok(fd) = open_dir(parent, name) else { return Ok(()) };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode & 0o7777);
    if mode.contains(Mode::RWXU) {
        return Ok(());
    }
    match rustix::fs::fchmod(&fd, mode | Mode::RWXU) {
        // Somebody else's: whatever is to be written there will say so.
        Err(Errno::PERM) => Ok(()),
        other => other,
    }
}
