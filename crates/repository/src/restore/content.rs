//! Writing files: small ones in one go, the others piece by piece by several threads, in any order.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::event::{Event, Task};
use crate::format::NodeKind;
use crate::{Error, Result};

use super::execute::{Run, is_fatal};
use super::metadata::Before;
use super::table::{Entry, Step};
use super::target::{existing, remove_at};
use super::{Fsync, INCOMPLETE_SUFFIX};

/// Files that are kept open between two of their pieces; the usual limit of open files is 1024.
const OPEN_FILES_MAX: usize = 128;
/// Bytes that are written at a time. For longer writes the kernel (Linux 6.18, ext4) looks for long runs of free pages, and
/// where memory is in use that search can cost more than the copying.
const WRITE_BYTES: usize = 64 << 10;
/// Zeros are left out of a sparse file in aligned blocks of this size.
const HOLE_BYTES: u64 = 16 << 10;
static ZEROS: [u8; HOLE_BYTES as usize] = [0; HOLE_BYTES as usize];

/// Writes the contents of a plan's files.
pub(super) struct Writer<'a> {
    run: &'a Run<'a>,
    /// Entries that are written in several pieces, in order, and beside each what is known of its writing.
    entries: Vec<u32>,
    states: Vec<State>,
    opened: Mutex<VecDeque<usize>>,
}

struct State {
    pieces_left: AtomicU32,
    failed: AtomicBool,
    file: Mutex<Opened>,
}

enum Opened {
    NotYet,
    Open(Arc<File>),
    /// Closed to keep within the limit.
    Again,
    /// Could not be opened, or is finished.
    No,
}

impl<'a> Writer<'a> {
    pub fn new(run: &'a Run<'a>) -> Self {
        let (mut entries, mut states) = (Vec::new(), Vec::new());
        for (number, entry) in run.tables.entries.iter().enumerate() {
            if !run.tables.writes_content(entry) || in_one_go(entry) {
                continue;
            }
            let pieces = entry.first_piece..entry.first_piece + entry.pieces;
            let wanted = pieces.filter(|piece| run.tables.wants(entry, *piece)).count();
            if wanted > 0 {
                entries.push(number as u32);
                let pieces_left = AtomicU32::new(wanted as u32);
                let (failed, file) = (AtomicBool::new(false), Mutex::new(Opened::NotYet));
                states.push(State { pieces_left, failed, file });
            }
        }
        Self { run, entries, states, opened: Mutex::default() }
    }

    /// Writes one piece, and finishes the file when it was the last.
    ///
    /// Fails only when nothing more will succeed.
    pub fn write(&self, piece: u32, plaintext: &[u8]) -> Result<()> {
        let number = self.run.tables.entry_of(piece);
        let entry = &self.run.tables.entries[number as usize];
        if self.run.dir_failed(entry.parent) {
            return Ok(());
        }
        let result = if in_one_go(entry) {
            self.write_whole(number, entry, plaintext)
        } else {
            self.write_part(number, entry, piece, plaintext)
        };
        let bytes = plaintext.len() as u64;
        self.run.bytes_written.fetch_add(bytes, Ordering::Relaxed);
        self.run.context.tell(Event::Advance { task: Task::Restore, items: 0, bytes });
        result
    }

    /// Takes down that a piece cannot be had.
    pub fn give_up(&self, piece: u32, error: Error) -> Result<()> {
        let number = self.run.tables.entry_of(piece);
        let entry = &self.run.tables.entries[number as usize];
        if in_one_go(entry) {
            return self.run.entry_problem(number, error);
        }
        let state = self.state(number);
        self.fail(number, state, error)?;
        self.piece_done(number, entry, state)
    }

    fn state(&self, number: u32) -> usize {
        self.entries.binary_search(&number).expect("every file with several wanted pieces is in the list")
    }

    /// Makes a file of a single piece.
    fn write_whole(&self, number: u32, entry: &Entry, plaintext: &[u8]) -> Result<()> {
        let made = create(self.run, entry).map_err(std::io::Error::from).and_then(|fd| {
            let file = File::from(fd);
            let written = self.put(&file, entry, 0, plaintext).and_then(|()| {
                if self.run.plan.options.sparse {
                    file.set_len(entry.size)?;
                }
                Ok(complete(self.run, &file, entry)?)
            });
            if written.is_err() {
                // Nothing of it is worth keeping, and it must not pass for the whole.
                let _ = self.remove(entry);
            }
            written
        });
        match made {
            Ok(()) => self.run.finished(number),
            Err(error) => self.run.entry_problem(number, self.run.io_error(number, "write", error))?,
        }
        Ok(())
    }

    fn write_part(&self, number: u32, entry: &Entry, piece: u32, plaintext: &[u8]) -> Result<()> {
        let state = self.state(number);
        match self.file(state, entry) {
            Ok(Some(file)) => {
                let offset = self.run.tables.pieces[piece as usize].offset;
                if let Err(error) = self.put(&file, entry, offset, plaintext) {
                    self.fail(number, state, self.run.io_error(number, "write", error))?;
                }
            }
            Ok(None) => {}
            Err(error) => self.fail(number, state, self.run.io_error(number, "write", error))?,
        }
        self.piece_done(number, entry, state)
    }

    /// The first failure of a file is told; the others would say the same.
    fn fail(&self, number: u32, state: usize, error: Error) -> Result<()> {
        if self.states[state].failed.swap(true, Ordering::Relaxed) && !is_fatal(&error) {
            return Ok(());
        }
        self.run.entry_problem(number, error)
    }

    /// The open file; `None` when it could not be opened, which has been told.
    fn file(&self, state: usize, entry: &Entry) -> std::io::Result<Option<Arc<File>>> {
        let mut opened = self.states[state].file.lock().expect("no holder panics");
        let result = match &*opened {
            Opened::Open(file) => return Ok(Some(Arc::clone(file))),
            Opened::No => return Ok(None),
            Opened::NotYet => begin(self.run, entry),
            Opened::Again => open_to_write(self.run, entry),
        };
        match result {
            Ok(fd) => {
                let file = Arc::new(File::from(fd));
                *opened = Opened::Open(Arc::clone(&file));
                drop(opened);
                self.close_oldest(state);
                Ok(Some(file))
            }
            Err(error) => {
                *opened = Opened::No;
                Err(error.into())
            }
        }
    }

    fn close_oldest(&self, newest: usize) {
        let mut opened = self.opened.lock().expect("no holder panics");
        opened.push_back(newest);
        let oldest = if opened.len() > OPEN_FILES_MAX { opened.pop_front() } else { None };
        drop(opened);
        if let Some(oldest) = oldest {
            let mut file = self.states[oldest].file.lock().expect("no holder panics");
            if matches!(*file, Opened::Open(_)) {
                *file = Opened::Again;
            }
        }
    }

    fn piece_done(&self, number: u32, entry: &Entry, state: usize) -> Result<()> {
        // Whoever does the last piece must see all that the others did before.
        if self.states[state].pieces_left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let state = &self.states[state];
        let opened = std::mem::replace(&mut *state.file.lock().expect("no holder panics"), Opened::No);
        if state.failed.load(Ordering::Relaxed) {
            if !matches!(opened, Opened::No | Opened::NotYet) {
                self.set_aside(number, entry)?;
            }
            return Ok(());
        }
        let file = match opened {
            Opened::Open(file) => Ok(file),
            _ => open_to_write(self.run, entry).map(|fd| Arc::new(File::from(fd))),
        };
        match file.and_then(|file| complete(self.run, &file, entry)) {
            Ok(()) => self.run.finished(number),
            Err(error) => {
                self.run.entry_problem(number, self.run.io_error(number, "finish", error))?;
            }
        }
        Ok(())
    }

    /// Gives a file that lacks pieces a name that says so; it must not pass for the whole.
    fn set_aside(&self, number: u32, entry: &Entry) -> Result<()> {
        let rename = || {
            let dir = self.run.target.dir(self.run.tables, entry.parent)?;
            let name = self.run.tables.name(entry.name);
            let aside = [name, INCOMPLETE_SUFFIX.as_bytes()].concat();
            rustix::fs::renameat_with(&*dir, name, &*dir, &aside[..], RenameFlags::NOREPLACE)
        };
        // The name may be too long, or taken by an earlier attempt that got as far as this one.
        match rename().or_else(|_| self.remove(entry)) {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = self.run.io_error(number, "set the incomplete file aside:", error);
                self.run.entry_problem(number, error)
            }
        }
    }

    fn remove(&self, entry: &Entry) -> rustix::io::Result<()> {
        let dir = self.run.target.dir(self.run.tables, entry.parent)?;
        remove_at(dir.as_fd(), self.run.tables.name(entry.name))
    }

    fn put(&self, file: &File, entry: &Entry, offset: u64, plaintext: &[u8]) -> std::io::Result<()> {
        if !self.run.plan.options.sparse {
            let mut at = offset;
            for part in plaintext.chunks(WRITE_BYTES) {
                file.write_all_at(part, at)?;
                at += part.len() as u64;
            }
            return Ok(());
        }
        let mut position = 0;
        for run in plaintext_runs(offset, plaintext) {
            let at = offset + position as u64;
            position += run.len();
            let zero = run.iter().all(|byte| *byte == 0);
            if !zero || entry.step == Step::Update && punch(file, at, run.len() as u64).is_err() {
                file.write_all_at(run, at)?;
            }
        }
        Ok(())
    }

    /// Makes a file without content.
    pub fn make_empty(run: &Run<'_>, entry: &Entry) -> rustix::io::Result<()> {
        complete(run, &File::from(create(run, entry)?), entry)
    }

    /// Finishes an existing file that has all the pieces and too much behind them.
    pub fn cut(run: &Run<'_>, entry: &Entry) -> rustix::io::Result<()> {
        complete(run, &File::from(begin(run, entry)?), entry)
    }
}

/// Whether the file is made, written and finished when its only piece comes.
fn in_one_go(entry: &Entry) -> bool {
    entry.pieces == 1 && entry.step != Step::Update
}

/// Makes the file, readable by nobody else until it has its own mode.
fn create(run: &Run<'_>, entry: &Entry) -> rustix::io::Result<OwnedFd> {
    let dir = run.target.dir(run.tables, entry.parent)?;
    let name = run.tables.name(entry.name);
    if entry.step == Step::Replace {
        remove_at(dir.as_fd(), name)?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&*dir, name, flags, Mode::RUSR | Mode::WUSR)
}

/// Opens a file for its first piece: makes it, or takes the existing one if it is still what the plan saw.
fn begin(run: &Run<'_>, entry: &Entry) -> rustix::io::Result<OwnedFd> {
    if entry.step != Step::Update {
        let fd = create(run, entry)?;
        if run.plan.options.sparse {
            rustix::fs::ftruncate(&fd, entry.size)?;
        } else {
            // The size stays what is written, so that an interrupted file shows as one.
            match rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, 0, entry.size) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                other => other?,
            }
        }
        return Ok(fd);
    }
    let fd = open_to_write(run, entry)?;
    let planned = &run.tables.existing[entry.existing as usize];
    let now = existing(&rustix::fs::fstat(&fd)?);
    let same = now.kind == Some(NodeKind::File)
        && (now.device, now.inode, now.links) == (planned.device, planned.inode, 1)
        && (now.size, now.mtime) == (planned.size, planned.mtime);
    if !same {
        return Err(Errno::STALE);
    }
    if now.size != entry.size {
        rustix::fs::ftruncate(&fd, entry.size)?;
    }
    Ok(fd)
}

fn open_to_write(run: &Run<'_>, entry: &Entry) -> rustix::io::Result<OwnedFd> {
    let dir = run.target.dir(run.tables, entry.parent)?;
    let name = run.tables.name(entry.name);
    let open = |access: OFlags| {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&*dir, name, flags, Mode::empty())
    };
    match open(OFlags::WRONLY) {
        Err(Errno::ACCESS) => {
            // Its owner may write what he may not, as it were: the mode is set at the end anyway.
            rustix::fs::fchmod(open(OFlags::RDONLY)?, Mode::RUSR | Mode::WUSR)?;
            open(OFlags::WRONLY)
        }
        other => other,
    }
}

/// Gives a written file its metadata; its time comes last and says that it is whole.
fn complete(run: &Run<'_>, file: &File, entry: &Entry) -> rustix::io::Result<()> {
    let before = match entry.step {
        Step::Update => Before::Existed,
        step => run.before(step, entry.parent),
    };
    run.setter.set(file.as_fd(), &entry.meta, run.tables.xattrs(&entry.meta), before)?;
    if run.plan.options.fsync == Fsync::Files { rustix::fs::fsync(file) } else { Ok(()) }
}

fn punch(file: &File, offset: u64, length: u64) -> rustix::io::Result<()> {
    rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
}

/// Cuts a piece into runs of whole zero blocks and runs of anything else.
fn plaintext_runs(offset: u64, plaintext: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = plaintext;
    let mut at = offset;
    std::iter::from_fn(move || {
        let mut length = 0;
        let mut first_is_hole = None;
        while length < rest.len() {
            let to_boundary = HOLE_BYTES - (at + length as u64) % HOLE_BYTES;
            let block = &rest[length..rest.len().min(length + to_boundary as usize)];
            let is_hole = block == &ZEROS[..];
            if *first_is_hole.get_or_insert(is_hole) != is_hole {
                break;
            }
            length += block.len();
        }
        let (run, behind) = rest.split_at(length);
        rest = behind;
        at += length as u64;
        (!run.is_empty()).then_some(run)
    })
}
