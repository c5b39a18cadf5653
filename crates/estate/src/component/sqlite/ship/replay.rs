//! Replaying: the pieces of a log on a restored database that nobody has open.
//!
//! Every commit's pages are written to their places, whole commits only. What is begun anew after a kill does the same
//! again and ends with the same. In the end the whole database is read and its checksum compared with the one
//! that the source had there.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::piece::{Commit, Mark, Piece, decode};
use super::sums::{Sums, lock_page, of_page};
use crate::component::{Cancel, LogPiece, Part, PointFacts, Proof, Replay, Replayed};
use crate::{Error, Result};

/// Replays `replay` on the one part.
pub(in crate::component::sqlite) fn replay(
    parts: &[Part],
    recorded: &PointFacts,
    replay: Replay<'_>,
) -> Result<Replayed> {
    let [part] = parts else {
        let (path, why) =
            (PathBuf::new(), format!("the point has {} parts, and a database is one", parts.len()));
        return Err(Error::BadTarget { path, why });
    };
    let refuse = |why: String| Error::BadTarget { path: part.beside.clone(), why };
    let base = recorded
        .log
        .as_ref()
        .ok_or_else(|| refuse("the point does not say where it is in the log".into()))?;
    if base.lineage != replay.lineage {
        return Err(refuse(format!(
            "the log of lineage {} does not continue the point, which is of {}",
            replay.lineage, base.lineage
        )));
    }
    let mut player = Player::open(&part.beside, replay.scratch, base.consistent_at)?;
    let mut reached_target = false;
    for piece in replay.pieces {
        if replay.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let piece =
            piece.map_err(|error| refuse(format!("its log ends at {:#x}: {error}", player.read_to)))?;
        if player.play(&piece, replay.at, replay.to)? {
            reached_target = true;
            break;
        }
    }
    if !reached_target && player.read_to < replay.to {
        let why = format!("its log ends at {:#x}, before {:#x}", player.read_to, replay.to);
        return Err(refuse(why));
    }
    player.finish(!reached_target, replay.cancel)
}

/// Writes commits into a database.
struct Player {
    path: PathBuf,
    file: File,
    page_bytes: u32,
    /// The position of the database as it is.
    position: u64,
    /// The position behind the last frame that was read.
    read_to: u64,
    /// Where the last piece ended in SQLite's own log.
    end: Option<Mark>,
    last: Option<Commit>,
    /// The commits that were written.
    commits: u64,
    /// How many pages the database has behind the last commit.
    size: Option<u32>,
    unfinished: Unfinished,
}

impl Player {
    fn open(path: &Path, scratch: &Path, position: u64) -> Result<Self> {
        // Nobody has it open: it was restored by us, under a name of ours.
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io("open", path))?;
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0).map_err(Error::io("read", path))?;
        let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65536,
            bytes => u32::from(bytes),
        };
        let unfinished = Unfinished { path: scratch.join("unfinished-commit"), file: None };
        Ok(Self {
            path: path.to_owned(),
            file,
            page_bytes,
            position,
            read_to: position,
            end: None,
            last: None,
            commits: 0,
            size: None,
            unfinished,
        })
    }

    /// Writes what is in a piece, as far as it is wanted; `true` when nothing further is.
    fn play(&mut self, piece: &LogPiece, at: Option<Timestamp>, to: u64) -> Result<bool> {
        let wrong = |why: String| {
            let why = format!("its log is damaged at {:#x}: {why}", piece.first);
            Error::BadTarget { path: self.path.clone(), why }
        };
        if piece.first > self.read_to {
            return Err(wrong(format!("what comes before it, from {:#x} on, is missing", self.read_to)));
        }
        let read = decode(&piece.bytes).map_err(wrong)?;
        if piece.last - piece.first != read.heads.len() as u64 {
            return Err(wrong("it has not as many frames as positions".into()));
        }
        if read.head.page_bytes != self.page_bytes {
            return Err(wrong(format!(
                "its pages have {} bytes and those of the database {}",
                read.head.page_bytes, self.page_bytes
            )));
        }
        if self.end.is_some_and(|end| end.salts == read.head.start.salts && end != read.head.start) {
            return Err(wrong("it does not follow the piece before".into()));
        }
        self.end = Some(read.end());
        let mut begin = 0;
        for commit in &read.head.commits {
            let end = piece.first + u64::from(commit.frames);
            let is_beyond = at.is_some_and(|at| commit.until_us > at.as_microsecond()) || end > to;
            if is_beyond && end > self.position {
                return Ok(true);
            }
            if end > self.position {
                self.write(&read, begin..commit.frames as usize)?;
                self.position = end;
                self.commits += 1;
            }
            if end == self.position {
                self.last = Some(*commit);
            }
            begin = commit.frames as usize;
        }
        let rest = begin..read.heads.len();
        let from = self.position.saturating_sub(piece.first);
        if !rest.is_empty() && rest.end as u64 > from {
            self.unfinished.keep(&read, rest)?;
        }
        self.read_to = self.read_to.max(piece.last);
        Ok(false)
    }

    /// Writes a commit: what is left of it from earlier pieces, then these frames.
    fn write(&mut self, piece: &Piece<'_>, frames: std::ops::Range<usize>) -> Result<()> {
        let (file, path, page_bytes) = (&self.file, &self.path, self.page_bytes);
        let put = |page: u32, bytes: &[u8]| {
            let at = u64::from(page - 1) * u64::from(page_bytes);
            file.write_all_at(bytes, at).map_err(Error::io("write", path))
        };
        self.unfinished.take(page_bytes, put)?;
        let size = frames.end - 1;
        for frame in frames {
            put(piece.heads[frame].page, piece.page(frame))?;
        }
        self.size = Some(piece.heads[size].size);
        Ok(())
    }

    /// Brings the file to its length and to the disk, and shows what it is.
    ///
    /// At the end of the log there may be the beginning of a commit, which is none: nothing is missing for it.
    fn finish(self, is_end: bool, cancel: &Cancel) -> Result<Replayed> {
        if let Some(size) = self.size {
            let bytes = u64::from(size) * u64::from(self.page_bytes);
            self.file.set_len(bytes).map_err(Error::io("write", &self.path))?;
        }
        self.file.sync_all().map_err(Error::io("sync", &self.path))?;
        let mut proof = Proof::default();
        let what = format!("page checksum at position {}", self.position);
        let show = |sum: u64| format!("{sum:016x}");
        match self.last.map(|last| last.sum) {
            Some(Some(expected)) => {
                let found = sums_of(&self.file, &self.path, self.page_bytes, cancel)?;
                proof.compare(what, show(expected), show(found.total()));
            }
            Some(None) => {
                let why = "it was committed while the database was being added up at its source: a later instant has one";
                proof.unknown(what, "the source's", why);
            }
            // The point itself, as it was restored.
            None => proof.compare("commits of the log up to there", 0, self.commits),
        }
        let instant = self.last.and_then(|last| Timestamp::from_microsecond(last.until_us).ok());
        let position = if is_end { self.read_to } else { self.position };
        let instant = instant.filter(|_| self.commits > 0);
        Ok(Replayed { position, instant, proof })
    }
}

/// Adds up a database in a file.
fn sums_of(file: &File, path: &Path, page_bytes: u32, cancel: &Cancel) -> Result<Sums> {
    let mut sums = Sums::default();
    let bytes = file.metadata().map_err(Error::io("look at", path))?.len();
    let mut page = vec![0; page_bytes as usize];
    let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
    reader.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
    for number in 1..=u32::try_from(bytes / u64::from(page_bytes)).unwrap_or(u32::MAX) {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        reader.read_exact(&mut page).map_err(Error::io("read", path))?;
        sums.push(if number == lock_page(page_bytes) { 0 } else { of_page(number, &page) });
    }
    Ok(sums)
}

/// The frames of a commit whose end is in a later piece, in a file: a commit may be as large as the database.
struct Unfinished {
    path: PathBuf,
    file: Option<File>,
}

impl Unfinished {
    fn keep(&mut self, piece: &Piece<'_>, frames: std::ops::Range<usize>) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                let file =
                    options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&self.path);
                self.file.insert(file.map_err(Error::io("write", &self.path))?)
            }
        };
        for frame in frames {
            let write = file
                .write_all(&piece.heads[frame].page.to_le_bytes())
                .and_then(|()| file.write_all(piece.page(frame)));
            write.map_err(Error::io("write", &self.path))?;
        }
        Ok(())
    }

    fn take(&mut self, page_bytes: u32, put: impl Fn(u32, &[u8]) -> Result<()>) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let failed = |error| Error::io("read", &self.path)(error);
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
        let mut frame = vec![0; 4 + page_bytes as usize];
        loop {
            match reader.read_exact(&mut frame) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(failed(error)),
            }
            let (page, bytes) = frame.split_at(4);
            put(u32::from_le_bytes([page[0], page[1], page[2], page[3]]), bytes)?;
        }
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            _ = fs::remove_file(&self.path);
        }
    }
}
