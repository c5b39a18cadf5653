//! Fetching ahead of a recovery: what it will ask for next is read and verified while it replays what it has.
//!
//! Everything is held in memory, or in the sheets of whoever asks, so that nothing of it outlives the process or is taken for
//! something else, and never more than [`AHEAD`] segments. What is not here is asked of the archive: nothing is ever
//! inferred from an absence here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use estate::component::postgres::wal::{Lsn, Name};
use repository::log::{Archive, Lineage};

use super::sheet::{Blank, Filled, Home, Sheets};
use super::{Found, Wal, Wanted};
use crate::Result;

/// How many segments of 16 MiB are read ahead.
const AHEAD: u64 = 8;
/// How many bytes these are: of larger segments there are fewer.
const AHEAD_BYTES: u64 = AHEAD << 24;
/// How many are read at once.
pub(super) const THREADS: usize = 2;
/// A listing that is older is made anew.
const LISTED_FOR: Duration = Duration::from_secs(30);
/// When nobody has asked for so long, what was read ahead is let go.
const IDLE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(200);

/// What was read ahead.
#[derive(Default)]
pub(super) struct Prefetch {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is read, or to be read, by position.
    slots: BTreeMap<u64, Slot>,
    /// The log that is being asked for.
    of: Option<Of>,
    /// What is to be filled.
    sheets: Sheets,
    asked: Option<Instant>,
}

/// A log of which the next is read.
#[derive(Clone)]
struct Of {
    lineage: String,
    timeline: u32,
    segment_bytes: u64,
    known: Arc<Lineage>,
    listed: Instant,
}

enum Slot {
    Wanted,
    Reading,
    There(Held),
}

/// A segment, verified.
enum Held {
    Pieces(Vec<Bytes>),
    Filled(Filled),
}

/// What a question is answered with.
pub(super) enum Given {
    /// The bytes of the file, in pieces.
    Pieces(Vec<Bytes>),
    /// A sheet of the asker's that holds it.
    Filled(Filled),
    /// It is proven that there is none.
    Absent(String),
}

impl Prefetch {
    /// Gets a file: what was read ahead, or else what the archive has now; and has the next be read.
    pub fn find(&self, wal: &Wal<'_>, wanted: Wanted<'_>, sheets: Sheets) -> Result<Given> {
        let bytes = wanted.cluster.segment_bytes;
        let is_segment = wanted.parsed.kind == super::Kind::Segment;
        let Some(begin) = wanted.parsed.begin(bytes).filter(|_| is_segment) else {
            return Ok(match wal.find(wanted)? {
                Found::There(pieces, _) => Given::Pieces(pieces),
                Found::Absent(why) => Given::Absent(why),
            });
        };
        let home = sheets.home();
        let most = usize::try_from(AHEAD).expect("it is small");
        self.state().sheets.add(sheets, most);
        let lineage = wanted.cluster.lineage(wanted.parsed.timeline);
        if let Some(held) = self.take(&lineage, bytes, begin.0) {
            self.want_behind(begin.0 + bytes);
            if let Some(given) = self.fit(held, home) {
                return Ok(given);
            }
        }
        match wal.find(wanted)? {
            Found::There(pieces, known) => {
                if let Some(known) = known {
                    let timeline = wanted.parsed.timeline;
                    let of = Of { lineage, timeline, segment_bytes: bytes, known, listed: Instant::now() };
                    self.state().of = Some(of);
                    self.want_behind(begin.0 + bytes);
                }
                Ok(self.fit(Held::Pieces(pieces.clone()), home).unwrap_or(Given::Pieces(pieces)))
            }
            Found::Absent(why) => {
                // The recovery is at its end: nothing of the server's directory is held open any longer.
                self.state().let_go();
                Ok(Given::Absent(why))
            }
        }
    }

    /// What somebody can use whose sheets are of this home; `None` when that cannot be made of it.
    fn fit(&self, held: Held, home: Option<Home>) -> Option<Given> {
        match held {
            Held::Filled(filled) if home == Some(filled.home) => Some(Given::Filled(filled)),
            Held::Filled(filled) => filled.read().ok().map(|bytes| Given::Pieces(vec![bytes])),
            Held::Pieces(pieces) => {
                let blank = home.and_then(|home| self.state().sheets.take(home));
                let filled = blank.and_then(|blank| blank.fill(&pieces).ok());
                Some(filled.map_or(Given::Pieces(pieces), Given::Filled))
            }
        }
    }

    /// Takes what was read ahead, waiting for what is being read.
    fn take(&self, lineage: &str, segment_bytes: u64, begin: u64) -> Option<Held> {
        let mut state = self.state();
        state.asked = Some(Instant::now());
        loop {
            let of = state.of.as_ref()?;
            if of.lineage != lineage || of.segment_bytes != segment_bytes || of.listed.elapsed() > LISTED_FOR
            {
                state.slots.clear();
                return None;
            }
            match state.slots.get(&begin) {
                Some(Slot::Reading) => {
                    state = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(Slot::There(_)) => {
                    let Some(Slot::There(held)) = state.slots.remove(&begin) else { return None };
                    return Some(held);
                }
                Some(Slot::Wanted) | None => {
                    state.slots.remove(&begin);
                    return None;
                }
            }
        }
    }

    /// Has what begins at `begin` and behind be read, as far as it is archived; the rest is let go.
    fn want_behind(&self, begin: u64) {
        let mut state = self.state();
        let State { slots, of: Some(of), .. } = &mut *state else { return };
        let archived = of.known.segments.last().map_or(0, |last| last.last);
        let count = (AHEAD_BYTES / of.segment_bytes).clamp(1, AHEAD);
        let window = begin..begin + count * of.segment_bytes;
        slots.retain(|at, _| window.contains(at));
        for at in (0..count).map(|number| begin + number * of.segment_bytes) {
            if at + of.segment_bytes <= archived {
                slots.entry(at).or_insert(Slot::Wanted);
            }
        }
        self.changed.notify_all();
    }

    /// Reads what is wanted until `over`.
    pub fn run(&self, wal: &Wal<'_>, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            let Some((of, at)) = self.next() else { continue };
            let read = Self::read(wal, &of, at).map(|pieces| self.hold(pieces));
            let mut state = self.state();
            let is_same = state.of.as_ref().is_some_and(|now| now.lineage == of.lineage);
            if is_same && matches!(state.slots.get(&at), Some(Slot::Reading)) {
                match read {
                    Some(held) => _ = state.slots.insert(at, Slot::There(held)),
                    // Whoever asks for it is told by the archive itself why it cannot be had.
                    None => _ = state.slots.remove(&at),
                }
            }
            self.changed.notify_all();
        }
    }

    /// Puts a segment where it is held until it is asked for: into a sheet, if there is one.
    fn hold(&self, pieces: Vec<Bytes>) -> Held {
        let mut state = self.state();
        let blank = state.sheets.home().and_then(|home| state.sheets.take(home));
        drop(state);
        let filled = blank.filter(Blank::has_room).and_then(|blank| blank.fill(&pieces).ok());
        filled.map_or(Held::Pieces(pieces), Held::Filled)
    }

    /// The next that is to be read; waits a little for one.
    fn next(&self) -> Option<(Of, u64)> {
        let mut state = self.state();
        let wanted = |state: &State| {
            state.slots.iter().find(|(_, slot)| matches!(slot, Slot::Wanted)).map(|(at, _)| *at)
        };
        if wanted(&state).is_none() {
            state = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.asked.is_some_and(|asked| asked.elapsed() > IDLE) {
            *state = State::default();
        }
        let at = wanted(&state)?;
        let of = state.of.clone()?;
        state.slots.insert(at, Slot::Reading);
        Some((of, at))
    }

    /// Reads a segment, verified; `None` when the archive has not all of it.
    fn read(wal: &Wal<'_>, of: &Of, at: u64) -> Option<Vec<Bytes>> {
        let archive = Archive::new(wal.repository, wal.component).ok()?;
        let (begin, end) = (Lsn(at), Lsn(at + of.segment_bytes));
        let name = Name::of(of.timeline, begin, of.segment_bytes);
        let contents = wal.read(&archive, &of.lineage, &of.known, &name, begin, end).ok()??;
        Some(contents.into_iter().map(|content| content.bytes).collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets go of what was read ahead, and of sheets.
    fn let_go(&mut self) {
        *self = Self { asked: self.asked, ..Self::default() };
    }
}
