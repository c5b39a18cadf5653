//! Cutting a live log into pieces, resuming by proof, and beginning the log anew.
//!
//! # Resuming
//! A lineage goes on behind its last piece if the log still has the frame with which that ended: the same salts and
//! the same checksum, which stands for all frames before it. Anything else (other salts, a shorter log) means
//! that a checkpoint may have been missed: then a new lineage begins, and with it the need for a base. It is never guessed.
//!
//! # What is kept where
//! Frames that are not acknowledged stay in the log. Only when the log is begun anew are the last of them
//! copied to memory first, at most [`QUEUE_BYTES_MAX`]; a process that is killed then leaves a log that does not prove
//! what came before, and the next one begins a new lineage.
//!
//! # When the archive is away
//! The log grows, as nothing may be left out. Beyond the limit the follower gives up with [`Error::Broken`], which lets the
//! application begin its log anew: a declared gap instead of a full disk.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;

use super::super::{WAL_BYTES_MAX, source};
use super::hold::{Extent, Hold};
use super::piece::{Commit, Head, Mark, decode, encode};
use super::sums::{Change, Sums, lock_page, of_page};
use super::wal::{Header, frame_at, frame_bytes, stated, verify};
use crate::component::{Follow, LogPiece, SqliteOptions, appended};
use crate::{Error, Result};

/// How many bytes of frames a piece has at most; a page at least.
const PIECE_BYTES_MAX: usize = 4 << 20;
/// How much is copied to memory at most before the log is begun anew.
const QUEUE_BYTES_MAX: u64 = 32 << 20;
/// How much may have to be copied for that when following begins, after a time in which nobody shipped.
const CATCH_UP_BYTES_MAX: u64 = 128 << 20;
/// From this size on the log is begun anew, as SQLite itself does: from there on an application checkpoints at each commit.
const TURN_FRAMES: u32 = 1000;
/// How long after a reader was in the way is it tried again to begin the log anew; twice as long each time, up to the second:
/// each try may leave an anchor in the log.
const TURN_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The same after writers and checkpoints of others were.
const TURN_SOON: Duration = Duration::from_millis(100);
/// How long the write lock is waited for then: nothing is shipped meanwhile.
const TURN_WAIT: Duration = Duration::from_millis(250);
/// How often writers may come in between before another time is better.
const TURN_ATTEMPTS: u32 = 4;
/// How often an anchor is tried while others checkpoint, when following begins.
const ANCHOR_ATTEMPTS: u32 = 50;
const BETWEEN_ANCHORS: Duration = Duration::from_millis(5);
/// How old the read transaction becomes while something is written. Each next one lets every commit of an application with
/// a long log checkpoint again, so there should be few.
const READING_AGE_MAX: Duration = Duration::from_secs(1);
/// How long nothing must have been written for the next one to begin earlier: whoever waits for it with a `FULL` checkpoint
/// keeps all others from writing.
const QUIET: Duration = Duration::from_millis(50);
/// How long pieces wait for the database to be added up, when a lineage goes on.
const SUMS_WAIT: Duration = Duration::from_secs(2);

/// Follows the log of one database.
pub(in crate::component::sqlite) struct Follower {
    hold: Hold,
    lineage: String,
    began: Option<String>,
    wal_bytes_max: u64,
    big_endian: bool,
    page_bytes: u32,
    /// The position before the first frame of this filling of the log.
    offset: u64,
    /// Up to where pieces were cut.
    cut: Mark,
    /// Up to where was looked.
    seen_frame: u32,
    /// What was seen and is not cut.
    seen: VecDeque<Seen>,
    looked_us: i64,
    /// No frame behind this one is in the read transaction.
    reading_frame_max: u32,
    reading_since: Instant,
    /// When something new was seen last.
    written: Instant,
    began_at: Instant,
    /// What was cut and is not acknowledged.
    queue: VecDeque<LogPiece>,
    acknowledged: u64,
    /// The commit that is being cut.
    change: Change,
    sums: SourceSums,
    /// The last commit that was cut has no checksum.
    is_unsummed: bool,
    turn_after: Instant,
    turn_pause: Duration,
}

/// What one look has found.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The last frame that was there.
    frame: u32,
    from_us: i64,
    until_us: i64,
}

/// Begins to follow the log, behind `last` if it can be proven that nothing is missing there.
pub(in crate::component::sqlite) fn follow(
    options: &SqliteOptions,
    last: Option<&LogPiece>,
) -> Result<Follower> {
    let hold = Hold::open(&options.path, options.busy_timeout)?;
    if !hold.lock(options.busy_timeout)? {
        return Err(hold.in_use());
    }
    // From here to the unlocking or the anchor nobody commits anything.
    let (start, extent) = begin(&hold, options, last)?;
    let now = Timestamp::now();
    let (lineage, began, since) = match (start.resumed, last) {
        (Ok(()), Some(last)) => (last.lineage.clone(), None, last.until.unwrap_or(now)),
        (why, _) => (new_lineage(now), Some(why.err().unwrap_or_default()), now),
    };
    let page_bytes = start.page_bytes;
    let mut follower = Follower {
        sums: SourceSums::begin(&hold, options, start.offset + u64::from(extent.frames), page_bytes)?,
        hold,
        lineage,
        began,
        wal_bytes_max: options.wal_bytes_max.unwrap_or(WAL_BYTES_MAX),
        big_endian: start.big_endian,
        page_bytes,
        offset: start.offset,
        cut: start.cut,
        seen_frame: start.cut.frame,
        seen: VecDeque::new(),
        looked_us: since.as_microsecond(),
        reading_frame_max: 0,
        reading_since: Instant::now(),
        written: Instant::now(),
        began_at: Instant::now(),
        is_unsummed: false,
        queue: VecDeque::new(),
        acknowledged: start.offset + u64::from(start.cut.frame),
        change: Change::default(),
        turn_after: Instant::now(),
        turn_pause: TURN_AGAIN[0],
    };
    follower.take_hold(extent)?;
    Ok(follower)
}

/// Where following begins, found under the write lock.
struct Start {
    /// Whether it is the last piece's end, or why not.
    resumed: std::result::Result<(), String>,
    offset: u64,
    cut: Mark,
    big_endian: bool,
    page_bytes: u32,
}

fn begin(hold: &Hold, options: &SqliteOptions, last: Option<&LogPiece>) -> Result<(Start, Extent)> {
    let (extent, header) = (hold.extent()?, hold.header()?);
    let header = header.filter(|_| extent.frames > 0);
    let resumed = match last {
        None => Err("nothing of it is archived yet".to_owned()),
        Some(last) => prove(hold, header, extent, last)?,
    };
    let backlog = |mark: &Mark| u64::from(extent.frames - mark.frame);
    let resumed = resumed.and_then(|(mark, header)| {
        let bytes = backlog(&mark) * frame_bytes(header.page_bytes) as u64;
        // What is not in the database stays in the log; what is has to be copied before the anchor.
        let all = options.wal_bytes_max.unwrap_or(WAL_BYTES_MAX);
        let is_copied = extent.in_database == extent.frames;
        let limit = if is_copied { all.min(CATCH_UP_BYTES_MAX) } else { all };
        if bytes <= limit {
            return Ok((mark, header));
        }
        Err(format!(
            "{bytes} bytes were written meanwhile, which is more than the {limit} that are caught up with"
        ))
    });
    let start = match (resumed, header) {
        (Ok((cut, header)), _) => Start {
            resumed: Ok(()),
            offset: last.map_or(0, |last| last.last) - u64::from(cut.frame),
            cut,
            big_endian: header.big_endian,
            page_bytes: header.page_bytes,
        },
        (Err(why), Some(header)) => Start {
            resumed: Err(why),
            offset: 0,
            cut: Mark {
                salts: header.salts,
                frame: extent.frames,
                chain: chain_at(hold, &header, extent.frames)?,
            },
            big_endian: header.big_endian,
            page_bytes: header.page_bytes,
        },
        // An empty log: its first filling will have the anchor as its first frame.
        (Err(why), None) => Start {
            resumed: Err(why),
            offset: 0,
            cut: Mark { salts: [0; 2], frame: 0, chain: [0; 2] },
            big_endian: false,
            page_bytes: hold.page_bytes()?,
        },
    };
    Ok((start, extent))
}

type Proven = std::result::Result<(Mark, Header), String>;

/// Proves that the log still has the end of the last piece, so that nothing can be missing behind it.
fn prove(hold: &Hold, header: Option<Header>, extent: Extent, last: &LogPiece) -> Result<Proven> {
    let end = match decode(&last.bytes) {
        Ok(piece) => piece.end(),
        Err(why) => return Ok(Err(format!("the end of what is archived cannot be read: {why}"))),
    };
    let Some(header) = header else {
        return Ok(Err("its log is empty: it was checkpointed and removed meanwhile".into()));
    };
    if header.salts != end.salts {
        return Ok(Err("its log was begun anew meanwhile".into()));
    }
    if extent.frames < end.frame || last.last < u64::from(end.frame) {
        return Ok(Err("its log is shorter than what is archived".into()));
    }
    if chain_at(hold, &header, end.frame)? != end.chain {
        return Ok(Err("its log has something else where the archive ends".into()));
    }
    Ok(Ok((end, header)))
}

/// SQLite's checksum up to the end of a frame.
fn chain_at(hold: &Hold, header: &Header, frame: u32) -> Result<super::wal::Chain> {
    if frame == 0 {
        return Ok(header.chain);
    }
    let found = stated(&hold.log, header.page_bytes, frame);
    let found = found.map_err(Error::io("read", &appended(hold.path(), "-wal")))?;
    match found {
        Some((salts, chain)) if salts == header.salts => Ok(chain),
        _ => Err(broken(hold, "its log is not what SQLite's index says of it".into())),
    }
}

fn new_lineage(now: Timestamp) -> String {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the kernel gives random bytes");
    format!("{:012x}-{:016x}", now.as_millisecond(), u64::from_le_bytes(random))
}

fn broken(hold: &Hold, why: String) -> Error {
    Error::Broken { path: hold.path().to_owned(), why }
}

impl Follower {
    /// Lets go of the write lock and holds the log for good.
    fn take_hold(&mut self, extent: Extent) -> Result<()> {
        self.reading_frame_max = extent.frames;
        self.note(extent.frames, now_us());
        self.hold.advance()?;
        let now = self.hold.extent()?;
        if now.in_database < now.frames {
            // What is not in the database yet is read from the log, which is held by that.
            self.hold.unlock()?;
            return self.hold.tell(&self.lineage, self.cut.salts, self.offset);
        }
        for _ in 0..ANCHOR_ATTEMPTS {
            if self.anchor()? {
                return Ok(());
            }
            std::thread::sleep(BETWEEN_ANCHORS);
        }
        Err(self.hold.in_use())
    }

    /// Commits an anchor under the write lock, which ends that; `false` when another process is at a checkpoint.
    ///
    /// It may begin the log anew, so everything that was seen, which is all there is, is copied before.
    fn anchor(&mut self) -> Result<bool> {
        self.copy_all()?;
        if !self.hold.anchor()? {
            return Ok(false);
        }
        self.turned()?;
        self.hold.tell(&self.lineage, self.cut.salts, self.offset)?;
        Ok(true)
    }

    /// Learns which filling of the log there is behind an anchor; everything before it was copied.
    fn turned(&mut self) -> Result<()> {
        let header = self.hold.header()?.ok_or_else(|| self.broken("its log has no header"))?;
        if header.page_bytes != self.page_bytes {
            return Err(self.broken("its pages have another size than before"));
        }
        if header.salts != self.cut.salts {
            self.offset += u64::from(self.cut.frame);
            self.cut = Mark { salts: header.salts, frame: 0, chain: header.chain };
            self.big_endian = header.big_endian;
            self.seen_frame = 0;
        }
        self.reading_frame_max = self.hold.extent()?.frames;
        self.reading_since = Instant::now();
        Ok(())
    }

    fn broken(&self, why: &str) -> Error {
        broken(&self.hold, why.to_owned())
    }

    /// Takes up that there are so many frames.
    fn note(&mut self, frames: u32, until_us: i64) {
        if frames > self.seen_frame {
            let until_us = until_us.max(self.looked_us);
            self.seen.push_back(Seen { frame: frames, from_us: self.looked_us, until_us });
            self.seen_frame = frames;
        }
    }

    /// Cuts everything that was seen.
    fn copy_all(&mut self) -> Result<()> {
        while self.cut_one()? {}
        Ok(())
    }

    /// Cuts the next piece of what was seen.
    fn cut_one(&mut self) -> Result<bool> {
        let Some(end) = self.seen.back().map(|seen| seen.frame) else { return Ok(false) };
        self.sums.settle(self.page_bytes).map_err(|why| self.broken(&why))?;
        let frame_bytes = frame_bytes(self.page_bytes);
        let frames_max = u32::try_from((PIECE_BYTES_MAX / frame_bytes).max(1)).expect("it is small");
        let count = (end - self.cut.frame).min(frames_max);
        let mut frames = vec![0; count as usize * frame_bytes];
        let read = self.hold.log.read_exact_at(&mut frames, frame_at(self.page_bytes, self.cut.frame));
        if read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof) {
            return Err(self.broken("its log was cut off by another program"));
        }
        read.map_err(Error::io("read", &appended(self.hold.path(), "-wal")))?;
        let start = self.cut;
        let commits = self.take_frames(&frames)?;
        let instant = |us: i64| Timestamp::from_microsecond(us).ok();
        let first = self.offset + u64::from(start.frame);
        let (from, until) = (commits.first().copied(), commits.last().copied());
        let head = Head { big_endian: self.big_endian, page_bytes: self.page_bytes, start, commits };
        self.queue.push_back(LogPiece {
            lineage: self.lineage.clone(),
            first,
            last: first + u64::from(count),
            from: from.and_then(|commit| instant(commit.from_us)),
            until: until.and_then(|commit| instant(commit.until_us)),
            name: None,
            bytes: encode(&head, &frames),
        });
        while self.seen.front().is_some_and(|seen| seen.frame <= self.cut.frame) {
            self.seen.pop_front();
        }
        Ok(true)
    }

    /// Verifies the frames behind the cut, moves it behind them, and tells their commits.
    fn take_frames(&mut self, frames: &[u8]) -> Result<Vec<Commit>> {
        let mut commits = Vec::new();
        for (number, frame) in (1_u32..).zip(frames.chunks_exact(frame_bytes(self.page_bytes))) {
            let Some(found) = verify(self.big_endian, self.cut.salts, self.cut.chain, frame) else {
                return Err(self.broken("its log was begun anew by another process before it was shipped"));
            };
            self.cut.chain = found.chain;
            self.cut.frame += 1;
            let page = &frame[super::wal::FRAME_HEADER_BYTES..];
            self.change.pages.push((found.page, of_page(found.page, page)));
            if found.size == 0 {
                continue;
            }
            self.change.size = found.size;
            let change = std::mem::take(&mut self.change);
            let end = self.offset + u64::from(self.cut.frame);
            let sum = self.sums.commit(end, change, self.page_bytes).map_err(|why| self.broken(&why))?;
            self.is_unsummed = sum.is_none();
            let cut = self.cut.frame;
            let seen = self.seen.iter().find(|seen| seen.frame >= cut).expect("only what was seen is cut");
            commits.push(Commit { frames: number, from_us: seen.from_us, until_us: seen.until_us, sum });
        }
        Ok(commits)
    }

    fn position_seen(&self) -> u64 {
        self.offset + u64::from(self.seen_frame)
    }

    /// Lets the next read transaction begin, so that others' checkpoints get on.
    fn read_on(&mut self, frames: u32) -> Result<()> {
        // One that begins when everything it sees is in the database would not hold the log (see `hold`). No frame
        // behind `reading_frame_max` is in the database while the last one is open.
        if frames <= self.reading_frame_max {
            return Ok(());
        }
        self.hold.advance()?;
        self.reading_frame_max = self.hold.extent()?.frames;
        self.reading_since = Instant::now();
        Ok(())
    }

    /// Commits an anchor that has the checksum which the last commit has not, so that the latest can be proven.
    fn sum_up(&mut self) -> Result<()> {
        if self.hold.lock(TURN_WAIT)? {
            self.look()?;
            self.anchor()?;
            self.hold.unlock()?;
        }
        Ok(())
    }

    /// Tries to begin the log anew.
    fn turn(&mut self) -> Result<Turn> {
        // Most of the work, without a lock that anybody waits for.
        self.hold.checkpoint()?;
        for _ in 0..TURN_ATTEMPTS {
            if !self.hold.lock(TURN_WAIT)? {
                return Ok(Turn::Again);
            }
            let turned = self.turn_locked();
            self.hold.unlock()?;
            match turned? {
                Turn::Again => {}
                other => return Ok(other),
            }
        }
        Ok(Turn::Again)
    }

    fn turn_locked(&mut self) -> Result<Turn> {
        self.look()?;
        let extent = self.hold.extent()?;
        if extent.in_database < extent.frames {
            self.read_on(extent.frames)?;
            // The transaction that has the lock began before, and reads the log: the next one need not.
            let is_in_the_way = self.hold.checkpoint()? == Some(false);
            return Ok(if is_in_the_way { Turn::InTheWay } else { Turn::Again });
        }
        let before = self.cut.salts;
        let is_anchored = self.anchor()?;
        Ok(match is_anchored {
            true if self.cut.salts != before => Turn::Done,
            true => Turn::InTheWay,
            false => Turn::Again,
        })
    }
}

/// What came of a try to begin the log anew under the write lock.
enum Turn {
    Done,
    /// All is in the database now, and in the next transaction it can be done; or others are busy.
    Again,
    /// Somebody reads what is older.
    InTheWay,
}

impl Follow for Follower {
    fn lineage(&self) -> &str {
        &self.lineage
    }

    fn began(&self) -> Option<&str> {
        self.began.as_deref()
    }

    fn look(&mut self) -> Result<bool> {
        let before = now_us();
        if !self.hold.is_there() {
            return Err(self.broken("it was replaced or removed"));
        }
        let extent = self.hold.extent()?;
        if extent.frames < self.seen_frame {
            return Err(self.broken("its log was begun anew by another process before it was shipped"));
        }
        let is_new = extent.frames > self.seen_frame;
        self.note(extent.frames, now_us());
        self.looked_us = self.looked_us.max(before);
        if is_new {
            self.written = Instant::now();
        }
        if self.reading_since.elapsed() >= READING_AGE_MAX || self.written.elapsed() >= QUIET {
            self.read_on(extent.frames)?;
        }
        let behind = self.behind_bytes();
        if behind > self.wal_bytes_max {
            return Err(self.broken(&format!(
                "{behind} bytes of its log could not be archived, which is more than the {} that may be kept for it",
                self.wal_bytes_max
            )));
        }
        Ok(is_new)
    }

    fn piece(&mut self) -> Result<Option<&LogPiece>> {
        // Nothing can be restored from a new lineage before its base is made, which takes longer than to add up
        // what is there: so every commit that can be restored has its checksum.
        let waits = self.sums.is_reading() && (self.began.is_some() || self.began_at.elapsed() < SUMS_WAIT);
        if self.queue.is_empty() && !waits {
            self.cut_one()?;
        }
        Ok(self.queue.front())
    }

    fn acknowledge(&mut self, position: u64) {
        while self.queue.front().is_some_and(|piece| piece.last <= position) {
            self.queue.pop_front();
        }
        self.acknowledged = self.acknowledged.max(position);
    }

    fn tend(&mut self) -> Result<()> {
        if self.sums.is_reading() || self.behind_bytes() > QUEUE_BYTES_MAX {
            return Ok(());
        }
        self.sums.settle(self.page_bytes).map_err(|why| self.broken(&why))?;
        if self.is_unsummed && self.sums.is_known() && self.seen.is_empty() {
            self.sum_up()?;
        }
        if self.seen_frame < TURN_FRAMES || Instant::now() < self.turn_after {
            return Ok(());
        }
        let pause = match self.turn()? {
            Turn::Done => {
                self.turn_pause = TURN_AGAIN[0];
                return Ok(());
            }
            Turn::Again => TURN_SOON,
            Turn::InTheWay => {
                let longer = (self.turn_pause * 2).min(TURN_AGAIN[1]);
                std::mem::replace(&mut self.turn_pause, longer)
            }
        };
        self.turn_after = Instant::now() + pause;
        Ok(())
    }

    fn behind_bytes(&self) -> u64 {
        let behind = self.position_seen().saturating_sub(self.acknowledged);
        behind * frame_bytes(self.page_bytes) as u64
    }

    fn is_urgent(&self) -> bool {
        // Nothing of this filling of the log is archived, by which it could be recognised.
        self.acknowledged <= self.offset
    }

    fn seen(&self) -> (u64, Timestamp) {
        (self.position_seen(), Timestamp::from_microsecond(self.looked_us).unwrap_or_default())
    }
}

fn now_us() -> i64 {
    Timestamp::now().as_microsecond()
}

/// What is known of the database's checksum.
enum SourceSums {
    /// The pages are being read, as they were at a position; commits behind it wait.
    Reading { reading: Reading, from: u64, changes: Vec<Change> },
    /// They were, with the checksum that was found at the position.
    Known { sums: Sums, from: u64, total_from: u64 },
    /// This build's SQLite cannot show pages.
    Unknown,
}

/// A thread that reads all pages; dropping it stops it.
struct Reading {
    thread: Option<JoinHandle<rusqlite::Result<Sums>>>,
    stop: Arc<AtomicBool>,
}

impl SourceSums {
    /// Begins to read the database as it is now, under the write lock.
    fn begin(hold: &Hold, options: &SqliteOptions, from: u64, page_bytes: u32) -> Result<Self> {
        let mut connection = hold.snapshot(options.busy_timeout)?;
        let failed = |error: rusqlite::Error| source::unusable(&options.path, &error);
        if !super::super::shows_pages(&connection).map_err(failed)? {
            return Ok(Self::Unknown);
        }
        let stop = Arc::new(AtomicBool::new(false));
        source::bound(&mut connection, super::super::AS_LONG_AS_IT_TAKES, &stop).map_err(failed)?;
        let thread = std::thread::spawn(move || read_sums(&connection, page_bytes));
        Ok(Self::Reading { reading: Reading { thread: Some(thread), stop }, from, changes: Vec::new() })
    }

    fn is_reading(&self) -> bool {
        matches!(self, Self::Reading { reading, .. } if !reading.is_done())
    }

    fn is_known(&self) -> bool {
        matches!(self, Self::Known { .. })
    }

    /// Takes up what was read, when it was.
    fn settle(&mut self, page_bytes: u32) -> std::result::Result<(), String> {
        let Self::Reading { reading, from, changes } = self else { return Ok(()) };
        let Some(read) = reading.take() else { return Ok(()) };
        let mut sums = read.map_err(|error| format!("its pages cannot be read: {error}"))?;
        let total_from = sums.total();
        for change in changes.iter() {
            sums.apply(change, page_bytes).map_err(missing)?;
        }
        *self = Self::Known { sums, from: *from, total_from };
        Ok(())
    }

    /// The checksum behind a commit that ends at `end`, if it is known by now.
    fn commit(
        &mut self,
        end: u64,
        change: Change,
        page_bytes: u32,
    ) -> std::result::Result<Option<u64>, String> {
        match self {
            Self::Reading { from, changes, .. } => {
                if end > *from {
                    changes.push(change);
                }
                Ok(None)
            }
            Self::Known { from, total_from, .. } if end <= *from => Ok((end == *from).then_some(*total_from)),
            Self::Known { sums, .. } => {
                sums.apply(&change, page_bytes).map(|()| Some(sums.total())).map_err(missing)
            }
            Self::Unknown => Ok(None),
        }
    }
}

fn missing(page: u32) -> String {
    format!("its log has a commit that makes it larger and does not hold the new page {page}")
}

impl Reading {
    fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn take(&mut self) -> Option<rusqlite::Result<Sums>> {
        let thread = self.thread.take_if(|thread| thread.is_finished())?;
        Some(thread.join().expect("reading does not panic"))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

fn read_sums(connection: &Connection, page_bytes: u32) -> rusqlite::Result<Sums> {
    let mut sums = Sums::default();
    let mut pages = connection.prepare("select data from sqlite_dbpage('main') where pgno = ?1")?;
    let size: u32 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    for number in 1..=size {
        // SQLite does not give the page of its locks.
        let sum = if number == lock_page(page_bytes) {
            0
        } else {
            pages.query_row([number], |row| Ok(of_page(number, row.get_ref(0)?.as_blob()?)))?
        };
        sums.push(sum);
    }
    Ok(sums)
}
