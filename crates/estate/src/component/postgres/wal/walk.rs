//! Walking the records of a log: that each is whole and follows the one before, and what times and names they state.
//!
//! The layouts are those of `xlogrecord.h`, `xlog_internal.h` and `xact.h`, the same from PostgreSQL 13 to 18 in what is
//! read here. Pages have 8 KiB, as all builds that distributions make.

use super::crc::Crc;
use crate::component::postgres::log::Lsn;

/// Bytes of a page of the log.
pub(crate) const PAGE: usize = 8192;
/// Bytes of the header of a page, and of the first page of a segment.
const HEADER: usize = 24;
pub(crate) const LONG_HEADER: usize = 40;
/// Bytes of the header of a record.
const RECORD_HEADER: usize = 24;
/// What a record at most has (`XLogRecordMaxSize`), with room to spare.
const RECORD_MAX: u32 = 1 << 30;
/// Bytes of a record that are kept: more than the name of a restore point needs.
const KEPT_MAX: usize = 128;

/// Flags of a page (`XLP_`).
const IS_CONTINUED: u16 = 1;
const IS_LONG: u16 = 2;
const IS_OVERWRITTEN: u16 = 8;

/// Managers of records, and what of theirs is looked at.
const XLOG: u8 = 0;
const XACT: u8 = 1;
const TABLESPACE: u8 = 5;
const SWITCH: u8 = 0x40;
const RESTORE_POINT: u8 = 0x70;
/// Commit, abort, and both of prepared transactions.
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];

/// Microseconds between 1970 and 2000, from which PostgreSQL counts.
const EPOCH: i64 = 946_684_800_000_000;

/// What the records of a stretch of log state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The first and the last instant at which a transaction ended, in microseconds since 1970.
    pub times: Option<(i64, i64)>,
    /// Where the last whole record begins, and where it ends.
    pub last: Option<(Lsn, Lsn)>,
    /// Restore points by name, and where their records end.
    pub points: Vec<(String, Lsn)>,
    /// Where the first record begins that makes or drops a tablespace.
    pub tablespace: Option<Lsn>,
}

/// Where a recovery is to stop, so that it can be said where it must have stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Before the first transaction that ended later, in microseconds since 1970.
    After(i64),
    /// Before the first record that begins here or behind.
    At(Lsn),
}

/// The record before which a recovery must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// Where the record before it ends.
    pub after: Lsn,
    /// Where it begins.
    pub before: Lsn,
    /// The last instant at which a transaction ended before it.
    pub time: Option<i64>,
}

/// Goes through a log, segment by segment.
///
/// Begun in the middle, it takes the first record that begins there for the first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Walk {
    seen: Seen,
    /// The first record that begins here was found.
    is_begun: bool,
    /// A record that goes on in what comes next.
    open: Option<Record>,
    /// Where the last record began.
    before: Option<Lsn>,
    /// Records before this position are of no interest: the recovery begins there.
    from: Lsn,
    stop: Option<Stop>,
    stopped: Option<Stopped>,
    /// The instant at which the last transaction ended, in the order of the log.
    time: Option<i64>,
    /// Where the record before the last ended.
    end_before: Lsn,
    /// Instants of records that end before this are not noted.
    noted_from: Lsn,
    /// The last record was a switch: nothing follows in its segment.
    is_switched: bool,
}

/// A record that is being read.
#[derive(Debug, Clone)]
struct Record {
    begin: Lsn,
    bytes: u32,
    got: u32,
    /// Its first bytes.
    kept: Vec<u8>,
    /// Over what follows its header.
    crc: Crc,
}

/// Where in a segment the walk is.
struct Place<'a> {
    bytes: &'a [u8],
    begin: Lsn,
    at: usize,
    magic: u16,
}

/// The header of a page.
struct Page {
    flags: u16,
    continued: u32,
    length: usize,
}

impl Walk {
    /// Begins a walk along what a recovery from `from` on replays until `stop`.
    pub(crate) fn until(from: Lsn, stop: Option<Stop>) -> Self {
        Self { from, stop, ..Self::default() }
    }

    /// Where the recovery must have stopped, once that was passed.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.stopped
    }

    /// The instant at which the last transaction ended, in the order of the log.
    pub(crate) fn time(&self) -> Option<i64> {
        self.time
    }

    /// What was seen up to now.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Notes from now on only the instants of records that end behind `from`, and none of those before.
    pub(crate) fn note_from(&mut self, from: Lsn) {
        self.seen.times = None;
        self.noted_from = from;
    }

    /// Whether nothing follows in the segment that was gone through last, of which the server has switched away.
    pub(crate) fn is_switched(&self) -> bool {
        self.is_switched
    }

    /// Goes through a segment, or the part of one up to which there is anything, that begins at `begin`.
    ///
    /// `is_whole` says that a server has finished it, so that it is filled with records or ends with a switch.
    /// Fails, in words, where records do not follow each other, or one is damaged.
    pub(crate) fn segment(&mut self, begin: Lsn, bytes: &[u8], is_whole: bool) -> Result<(), String> {
        let walked = self.pages(begin, bytes);
        if walked.is_err() && !is_whole {
            // Behind what was written there is what the file held before.
            self.open = None;
            return Ok(());
        }
        walked
    }

    fn pages(&mut self, begin: Lsn, bytes: &[u8]) -> Result<(), String> {
        let magic = bytes.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
        let mut place = Place { bytes, begin, at: 0, magic };
        if !self.is_begun {
            self.is_begun = self.skip_unknown(&mut place)?;
            if !self.is_begun {
                return Ok(());
            }
        }
        while place.at < bytes.len() {
            self.is_switched = false;
            let is_last = match self.whole(&mut place) {
                Some(judged) => judged?,
                None if self.open.is_none() && !self.begin(&mut place)? => return Ok(()),
                None => self.fill(&mut place)? && self.end()?,
            };
            if is_last {
                self.is_switched = true;
                // What follows a switch is filled up: the next record begins the next segment.
                let end = Lsn(begin.0 + bytes.len() as u64);
                self.seen.last = self.seen.last.map(|(begin, _)| (begin, end));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Passes the rest of a record of which the beginning is not known; tells whether it ends in this segment.
    fn skip_unknown(&mut self, place: &mut Place<'_>) -> Result<bool, String> {
        loop {
            let page = place.page()?;
            if page.flags & IS_CONTINUED == 0 {
                return Ok(true);
            }
            let rest = page.continued as usize;
            let here = PAGE - page.length;
            if rest < here {
                place.at = aligned(place.at + rest);
                return Ok(true);
            }
            place.at += here;
            if place.at >= place.bytes.len() {
                return Ok(false);
            }
            if rest == here {
                // What follows begins the next page.
                return Ok(true);
            }
        }
    }

    /// Judges the record at this place if it lies in this page as a whole, as most do: nothing of it need be kept for later.
    /// `None` when it does not, or when there is none.
    fn whole(&mut self, place: &mut Place<'_>) -> Option<Result<bool, String>> {
        if self.open.is_some() || place.at.is_multiple_of(PAGE) {
            return None;
        }
        let rest = place.bytes.get(place.at..place.at.next_multiple_of(PAGE))?;
        let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        let record = rest.get(..length).filter(|record| record.len() >= RECORD_HEADER)?;
        let begin = place.lsn();
        place.at = aligned(place.at + length);
        self.passed(begin, place.lsn());
        let mut crc = Crc::default();
        crc.add(&record[RECORD_HEADER..]);
        Some(self.judge(begin, &record[..length.min(KEPT_MAX)], crc))
    }

    /// Takes note of where a whole record lies.
    fn passed(&mut self, begin: Lsn, end: Lsn) {
        self.end_before = self.seen.last.map_or(begin, |(_, end)| end);
        self.seen.last = Some((begin, end));
    }

    /// Begins the record at this place; `false` when there is none.
    fn begin(&mut self, place: &mut Place<'_>) -> Result<bool, String> {
        if place.at.is_multiple_of(PAGE) {
            let page = place.page()?;
            if page.flags & IS_CONTINUED != 0 {
                return Err(place.says("a record goes on there that does not begin before it"));
            }
        }
        let begin = place.lsn();
        let Some(length) = place.bytes.get(place.at..place.at + 4) else { return Ok(false) };
        let bytes = u32::from_le_bytes(length.try_into().expect("four bytes"));
        if bytes < RECORD_HEADER as u32 || bytes > RECORD_MAX {
            return Err(place.says("there is no record where one must begin"));
        }
        self.open =
            Some(Record { begin, bytes, got: 0, kept: Vec::with_capacity(KEPT_MAX), crc: Crc::default() });
        Ok(true)
    }

    /// Takes what this page has of the open record; tells whether that was its end.
    fn fill(&mut self, place: &mut Place<'_>) -> Result<bool, String> {
        let Some(record) = &mut self.open else { return Ok(false) };
        if place.at.is_multiple_of(PAGE) {
            let page = place.page()?;
            let left = record.bytes - record.got;
            if page.flags & IS_OVERWRITTEN != 0 && page.flags & IS_CONTINUED == 0 {
                // The server crashed before the record was whole, and wrote something else from here on.
                self.open = None;
                return Ok(false);
            }
            if page.flags & IS_CONTINUED == 0 || page.continued != left {
                return Err(place.says("the record before does not go on there"));
            }
        }
        let room = (PAGE - place.at % PAGE).min(place.bytes.len() - place.at);
        let take = room.min((record.bytes - record.got) as usize);
        record.take(&place.bytes[place.at..place.at + take]);
        place.at += take;
        if record.got < record.bytes {
            return Ok(false);
        }
        place.at = aligned(place.at).min(place.bytes.len());
        let begin = record.begin;
        self.passed(begin, place.lsn());
        Ok(true)
    }

    /// Judges the record that is whole now; tells whether nothing follows in its segment.
    fn end(&mut self) -> Result<bool, String> {
        let Some(record) = self.open.take() else { return Ok(false) };
        self.judge(record.begin, &record.kept, record.crc)
    }

    /// Judges a record by its first bytes and the sum of what follows its header.
    fn judge(&mut self, begin: Lsn, kept: &[u8], mut crc: Crc) -> Result<bool, String> {
        let wrong = |what: &str| Err(format!("the record at {begin} is damaged: {what}"));
        let (header, data) = kept.split_at(RECORD_HEADER.min(kept.len()));
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        crc.add(&header[..20]);
        if crc.value() != number(20) {
            return wrong("its checksum is wrong");
        }
        let before = Lsn(u64::from(number(8)) | u64::from(number(12)) << 32);
        if self.before.is_some_and(|expected| expected != before) {
            return wrong("it does not follow the one before it");
        }
        self.before = Some(begin);
        let (info, manager) = (header[16] & 0xf0, header[17]);
        let time = match (manager, info & 0x70) {
            (XACT, kind) if ENDS.contains(&kind) => main_data(data).and_then(|data| data.first_chunk()),
            _ => None,
        };
        let time = time.map(|time| i64::from_le_bytes(*time).saturating_add(EPOCH));
        let stops = match self.stop {
            _ if begin < self.from => false,
            Some(Stop::After(instant)) => time.is_some_and(|time| time > instant),
            Some(Stop::At(position)) => begin >= position,
            None => false,
        };
        if stops && self.stopped.is_none() {
            self.stopped = Some(Stopped { after: self.end_before, before: begin, time: self.time });
        }
        if let Some(time) = time {
            if self.seen.last.is_some_and(|(_, end)| end > self.noted_from) {
                self.seen.note(time);
            }
            self.time = Some(time);
        }
        match (manager, info) {
            (TABLESPACE, _) if begin >= self.from => {
                _ = self.seen.tablespace.get_or_insert(begin);
            }
            (XLOG, RESTORE_POINT) => {
                let name = main_data(data).and_then(|data| data.get(8..)).unwrap_or_default();
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                let end = self.seen.last.map_or(begin, |(_, end)| end);
                self.seen.points.push((String::from_utf8_lossy(name).into_owned(), end));
            }
            _ => {}
        }
        Ok((manager, info) == (XLOG, SWITCH))
    }
}

impl Seen {
    fn note(&mut self, time: i64) {
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
    }
}

impl Record {
    fn take(&mut self, piece: &[u8]) {
        let kept = piece.len().min(KEPT_MAX - self.kept.len());
        self.kept.extend_from_slice(&piece[..kept]);
        let header_left = RECORD_HEADER.saturating_sub(self.got as usize).min(piece.len());
        self.crc.add(&piece[header_left..]);
        self.got += u32::try_from(piece.len()).expect("a piece is at most a page");
    }
}

impl Place<'_> {
    fn lsn(&self) -> Lsn {
        Lsn(self.begin.0 + self.at as u64)
    }

    fn says(&self, what: &str) -> String {
        format!("at {}, {what}", self.lsn())
    }

    /// Reads the header of the page that begins here, and goes behind it.
    fn page(&mut self) -> Result<Page, String> {
        let Some(header) = self.bytes.get(self.at..self.at + HEADER) else {
            return Err(self.says("it is cut off"));
        };
        let two = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let (magic, flags) = (two(0), two(2));
        let address = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
        let continued = u32::from_le_bytes(header[16..20].try_into().expect("four bytes"));
        if magic != self.magic || magic == 0 {
            return Err(self.says(if header.iter().all(|byte| *byte == 0) {
                "there are zeros where a page must begin"
            } else {
                "there is something else where a page must begin"
            }));
        }
        if address != self.lsn().0 {
            return Err(self.says(&format!("there is the page of {}", Lsn(address))));
        }
        let length = if flags & IS_LONG == 0 { HEADER } else { LONG_HEADER };
        self.at += length;
        Ok(Page { flags, continued, length })
    }
}

/// Records begin at multiples of eight.
fn aligned(at: usize) -> usize {
    at.next_multiple_of(8)
}

/// Finds the main data of a record that refers to no block, by what follows its header.
fn main_data(mut data: &[u8]) -> Option<&[u8]> {
    loop {
        data = match data {
            // Its length in one byte, or in four.
            [0xff, _, rest @ ..] => return Some(rest),
            [0xfe, _, _, _, _, rest @ ..] => return Some(rest),
            // The origin of replication; the transaction above it.
            [0xfd, _, _, rest @ ..] | [0xfc, _, _, _, _, rest @ ..] => rest,
            _ => return None,
        };
    }
}
