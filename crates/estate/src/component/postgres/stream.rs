//! Following the log of a running server as a replica does: it sends what it has written, within moments.
//!
//! # What is never lost
//! A replication slot makes the server keep its log until it is archived, however long nobody follows it: up to
//! `max_slot_wal_keep_size`, where that is set. The server is told of what is archived, up to the begin of the segment that
//! holds the last of it, so that the next follower can compare.
//!
//! # Continuity
//! It is proven by the bytes. A follower has the server begin with the segment in which the last archived piece lies, and
//! goes on behind the piece only where the server sends that very piece again. Where the server has not kept its log up to there
//! (the slot was dropped, or held too much), following begins behind a gap, and a new base is needed.
//!
//! # Instants
//! Every record is walked on its way, so that a piece knows at which instants its transactions ended. And the server is asked
//! every moment how far its log is on the disk: what was acknowledged before the question lies before the answer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use jiff::Timestamp;
use place::Place;

use super::super::{Cancel, Follow, LogPiece, PostgresOptions, Severity, Standing};
use super::connection::{Connection, Failure};
use super::control::{self, Control};
use super::log::Lsn;
use super::question;
use super::server::{self, Access, Server};
use super::wal::{self, LONG_HEADER, Name, PAGE, Walk};
use crate::{Error, Result};

/// The most that one piece has.
const PIECE_BYTES: u64 = 4 << 20;
/// The most that is held in memory; beyond, the server is left waiting.
const HELD_BYTES_MAX: usize = 32 << 20;
/// How long one look waits for something to come, and how long it takes what comes and comes.
const LOOK_WAITS: Duration = Duration::from_millis(1);
const LOOK_TAKES: Duration = Duration::from_millis(50);
/// How often the server is asked how far its log is.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How often the server is told what is archived, and that somebody is there.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// How long the server may take to send again what the last piece has.
const PROVEN_WITHIN: Duration = Duration::from_secs(60);
/// Microseconds between 1970 and 2000, from which PostgreSQL counts.
const EPOCH: i64 = 946_684_800_000_000;
/// What a server says of a file of its log that it has no more.
const REMOVED: &str = "58P01";

/// Follows one server.
pub(super) struct Follower {
    log: Connection,
    options: PostgresOptions,
    timeline: u32,
    segment_bytes: u64,
    lineage: String,
    began: Option<String>,
    /// What was sent and is not acknowledged begins here.
    from: u64,
    held: Vec<u8>,
    walked: Walked,
    piece: Option<LogPiece>,
    /// Where the slot kept the log from, if following began there.
    kept_from: u64,
    /// Up to where the log is archived, as far as the server may know.
    told: u64,
    said: Instant,
    flushed: Flushed,
    /// The last position that was looked at, and what of it is certain: everything before the instant is before the position.
    seen: (u64, Timestamp),
}

impl Follower {
    /// Begins behind `last` where it is proven that nothing is missing.
    ///
    /// Fails when the server cannot be reached, is a standby, has another follower, or has another log than the archive.
    pub(super) fn begin(options: &PostgresOptions, slot: &str, last: Option<&LogPiece>) -> Result<Self> {
        let cancel = Cancel::default();
        let data = &options.data;
        let access = Access::of(options)?;
        let name = access.name();
        let at = |action: &'static str| {
            let name = name.clone();
            move |error: Failure| server::at(action, &name, &error)
        };
        let mut asked = access.open(&cancel).map_err(at("connect"))?;
        let source = Source::ask(&mut asked).map_err(at("ask how its log stands"))?;
        let bad = |why: String| Error::BadSource { path: data.clone(), why };
        let control = Control::read(data).map_err(Error::io("read", &data.join(control::PATH)))?;
        if control.system != source.system {
            let found = super::identity(control.system);
            let expected = format!("system {}, which the server at {name} is", source.system);
            return Err(Error::OtherIdentity { path: data.clone(), expected, found });
        }
        let flushed = flushed_by(&mut asked).map_err(at("ask how its log stands"))?;
        let Some(timeline) = source.timeline else {
            return Err(bad("its server is a standby: ship the log of the primary".to_owned()));
        };
        let kept_from = keep(&mut asked, slot).map_err(at("make a replication slot"))?;
        let lineage = wal::lineage(source.system, timeline);
        let segment_bytes = source.segment_bytes;
        let begin_of = |position: u64| position - position % segment_bytes;
        let open = |position: u64| {
            let mut log = access.open_for_log(&cancel)?;
            let position = Lsn(position);
            log.copy(&format!("START_REPLICATION SLOT {slot} PHYSICAL {position} TIMELINE {timeline}"))?;
            Ok::<_, Failure>(log)
        };
        let starts = Starts { lineage: &lineage, segment_bytes, open: &open };
        let mut began = match last {
            None => Some("nothing is archived yet".to_owned()),
            Some(last) if last.lineage != lineage => Some(format!("timeline {timeline} is a new one")),
            Some(_) => None,
        };
        let mut resumed = None;
        if let (None, Some(last)) = (&began, last) {
            match starts.behind(last) {
                Ok(start) => resumed = Some(start),
                Err(Failure::Server { code, message }) if code == REMOVED => {
                    began = Some(format!("the server has not kept its log: {message}"));
                }
                Err(Failure::Refused(why)) => return Err(bad(why)),
                Err(error) => return Err(at("follow its log")(error)),
            }
        }
        let Start { log, position, held, walked } = match resumed {
            Some(start) => start,
            None => starts.at(begin_of(kept_from.0)).map_err(at("follow its log"))?,
        };
        Ok(Self {
            log,
            options: options.clone(),
            timeline,
            segment_bytes,
            lineage,
            kept_from: if began.is_some() { position } else { 0 },
            began,
            from: position,
            held,
            walked,
            piece: None,
            told: position,
            said: Instant::now(),
            flushed: Flushed::ask(asked, flushed),
            seen: (position, flushed.1),
        })
    }

    fn broken(&self, why: impl Into<String>) -> Error {
        Error::Broken { path: self.options.data.clone(), why: why.into() }
    }

    fn received(&self) -> u64 {
        self.from + self.held.len() as u64
    }

    /// Takes a message of the server; tells whether it wants an answer.
    fn take(&mut self, message: &BytesMut) -> Result<bool> {
        match Message::parse(message) {
            Some(Message::Log { position, bytes }) if position == self.received() => {
                self.held.extend_from_slice(bytes);
                Ok(false)
            }
            Some(Message::Log { position, .. }) => {
                let expected = Lsn(self.received());
                Err(self.broken(format!("the server sent {} where {expected} had to come", Lsn(position))))
            }
            Some(Message::Alive { wants_answer }) => Ok(wants_answer),
            None => Err(self.broken("the server sent a message that nobody knows")),
        }
    }

    /// Tells the server what is archived, so that it need not be kept.
    fn say(&mut self) -> Result<()> {
        // The segment of the last archived byte is kept: the next follower compares with it. Nothing before the begin of a new
        // one is asked for, because the server may not have that any more.
        let last = self.told.saturating_sub(1);
        let position = (last - last % self.segment_bytes).max(self.kept_from);
        let now = Timestamp::now().as_microsecond() - EPOCH;
        let mut message = vec![b'r'];
        for number in [position, position, position] {
            message.extend_from_slice(&number.to_be_bytes());
        }
        message.extend_from_slice(&now.to_be_bytes());
        message.push(0);
        self.said = Instant::now();
        let said = self.log.say(&message);
        said.map_err(|error| self.ended(&error))
    }

    /// The connection is over. The log is not interrupted by that: the next follower goes on.
    fn ended(&self, error: &Failure) -> Error {
        server::at("follow its log", &self.options.data.display().to_string(), error)
    }
}

impl Follow for Follower {
    fn lineage(&self) -> &str {
        &self.lineage
    }

    fn began(&self) -> Option<&str> {
        self.began.as_deref()
    }

    fn look(&mut self) -> Result<bool> {
        let before = self.held.len();
        let mut wants_answer = false;
        let begun = Instant::now();
        while self.held.len() < HELD_BYTES_MAX && begun.elapsed() < LOOK_TAKES {
            let arrived = self.log.arrived(LOOK_WAITS).map_err(|error| self.ended(&error))?;
            let Some(message) = arrived else { break };
            wants_answer |= self.take(&message)?;
        }
        if wants_answer {
            self.say()?;
        }
        let (flushed, instant) = self.flushed.known().map_err(|why| self.ended(&Failure::Refused(why)))?;
        if flushed <= self.received() {
            self.seen = (self.received(), instant);
        }
        Ok(self.held.len() > before)
    }

    fn piece(&mut self) -> Result<Option<&LogPiece>> {
        if self.piece.is_none() && !self.held.is_empty() {
            let segment = self.from - self.from % self.segment_bytes;
            let last = self.received().min(segment + self.segment_bytes).min(self.from + PIECE_BYTES);
            let length = usize::try_from(last - self.from).expect("a piece is small");
            let bytes = self.held[..length].to_vec();
            let times = self.walked.times(self.from, &bytes);
            let times =
                times.map_err(|why| self.broken(format!("what the server sent is damaged: {why}")))?;
            let instant = |micros: i64| Timestamp::from_microsecond(micros).ok();
            self.piece = Some(LogPiece {
                lineage: self.lineage.clone(),
                first: self.from,
                last,
                from: times.and_then(|(from, _)| instant(from)),
                until: times.and_then(|(_, until)| instant(until)),
                name: Some(Name::of(self.timeline, Lsn(segment), self.segment_bytes)),
                bytes,
            });
        }
        Ok(self.piece.as_ref())
    }

    fn acknowledge(&mut self, position: u64) {
        if self.piece.as_ref().is_some_and(|piece| piece.last <= position) {
            self.piece = None;
        }
        let archived = position.saturating_sub(self.from).min(self.held.len() as u64);
        self.held.drain(..usize::try_from(archived).expect("it is held in memory"));
        self.from += archived;
        self.told = self.told.max(self.from);
    }

    fn tend(&mut self) -> Result<()> {
        if self.said.elapsed() >= SAY_EVERY { self.say() } else { Ok(()) }
    }

    fn behind_bytes(&self) -> u64 {
        let flushed = self.flushed.known().map_or(0, |(flushed, _)| flushed);
        flushed.max(self.received()) - self.from
    }

    fn seen(&self) -> (u64, Timestamp) {
        self.seen
    }
}

/// Where the log of a running server that is followed stands, and whether somebody follows; `None` when none answers here.
pub(super) fn standing(
    options: &PostgresOptions,
    place: &Place,
    slot: &str,
    cancel: &Cancel,
) -> Option<Standing> {
    let asked = Timestamp::now();
    let slot = super::connection::literal(slot);
    let query = format!(
        "select pg_catalog.pg_current_wal_flush_lsn()::text, \
         pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8), \
         (select system_identifier::text from pg_catalog.pg_control_system()), slot.active::text, slot.wal_status, \
         ((pg_catalog.pg_current_wal_flush_lsn() - slot.restart_lsn) / 1048576)::bigint::text \
         from (select 1) one left join pg_catalog.pg_replication_slots slot on slot.slot_name = {slot}"
    );
    let answered = place.within(|| question::ask(options, place, &query, cancel)).ok()?.ok()?;
    let row: Vec<&str> = answered.rows.first()?.iter().map(String::as_str).collect();
    let [at, timeline, system, active, kept, mebibytes] = row[..] else { return None };
    let stuck = match (active, kept) {
        ("true", "unreserved") => Some(
            "the server is about to give up log that is not archived: more than max_slot_wal_keep_size waits"
                .to_owned(),
        ),
        ("true", _) => None,
        (_, "lost") => {
            Some("the server has given up log that was not archived: start `lifeboat serve`".to_owned())
        }
        ("", _) => Some("the server keeps none of its log for it: start `lifeboat serve`".to_owned()),
        _ => Some(format!(
            "nobody follows its log, of which the server keeps {mebibytes} MiB until its disk is full: start `lifeboat serve`"
        )),
    };
    let system = system.parse::<i64>().ok()?.cast_unsigned();
    Some(Standing {
        lineage: wal::lineage(system, u32::from_str_radix(timeline, 16).ok()?),
        position: at.parse::<Lsn>().ok()?.0,
        instant: Ok(asked),
        stuck,
    })
}

/// What stands in the way of following a server, and what is unwise.
pub(super) fn findings(server: &mut Server, find: &mut impl FnMut(Severity, String, &str)) {
    if server.is_standby {
        find(
            Severity::Error,
            "its server is a standby, which is not followed".to_owned(),
            "let Lifeboat run at the primary",
        );
    }
    let mut ask = |sql: &str| server.connection.value(sql).ok().flatten().unwrap_or_default();
    let may = ask("select rolsuper or rolreplication from pg_catalog.pg_roles where rolname = current_user");
    if may == "f" {
        find(
            Severity::Error,
            "the role may not replicate, so that its log cannot be followed".to_owned(),
            "`alter role NAME replication`, and let pg_hba.conf allow it connections for `replication`",
        );
    }
    for name in ["max_wal_senders", "max_replication_slots"] {
        if ask(&format!("show {name}")) == "0" {
            let what = format!("{name} is 0, so that its log cannot be followed");
            find(Severity::Error, what, "raise it in postgresql.conf and restart the server");
        }
    }
    if ask("show max_slot_wal_keep_size") == "-1" {
        find(
            Severity::Warning,
            "max_slot_wal_keep_size is not set: while nobody follows its log, the server keeps all of it, until its disk is full"
                .to_owned(),
            "set it in postgresql.conf to what its disk has to spare, such as 20GB, and reload the server",
        );
    }
}

/// What is to be known of a server before it is followed.
struct Source {
    system: u64,
    /// None of a standby.
    timeline: Option<u32>,
    segment_bytes: u64,
}

impl Source {
    fn ask(connection: &mut Connection) -> std::result::Result<Self, Failure> {
        let nonsense = |what: &str| Failure::Refused(format!("it does not say {what}"));
        let system =
            connection.known("select system_identifier::text from pg_catalog.pg_control_system()")?;
        let segment = "select setting from pg_catalog.pg_settings where name = 'wal_segment_size'";
        let segment_bytes = connection.known(segment)?;
        let timeline = "select case when pg_catalog.pg_is_in_recovery() then '' else pg_catalog.substr( \
                        pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) end";
        let timeline = connection.known(timeline)?;
        Ok(Self {
            // A bigint, which shows numbers beyond its half as negative.
            system: system.parse::<i64>().map_err(|_| nonsense("whose it is"))?.cast_unsigned(),
            timeline: u32::from_str_radix(&timeline, 16).ok(),
            segment_bytes: segment_bytes
                .parse()
                .ok()
                .filter(|bytes: &u64| bytes.is_power_of_two() && *bytes >= PAGE as u64)
                .ok_or_else(|| nonsense("how large the segments of its log are"))?,
        })
    }
}

/// Makes the slot that keeps the server's log, if there is none of use; tells from where on it keeps it.
fn keep(connection: &mut Connection, slot: &str) -> std::result::Result<Lsn, Failure> {
    let name = super::connection::literal(slot);
    let asked = format!(
        "select restart_lsn::text from pg_catalog.pg_replication_slots where slot_name = {name} and slot_type = 'physical' \
         and restart_lsn is not null and wal_status is distinct from 'lost'"
    );
    let nonsense = |why: String| Failure::Refused(why);
    if let Some(kept) = connection.value(&asked)? {
        return kept.parse().map_err(nonsense);
    }
    let lost = format!(
        "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots where slot_name = {name}"
    );
    connection.query(&lost)?;
    connection.query(&format!("select pg_catalog.pg_create_physical_replication_slot({name}, true)"))?;
    connection.known(&asked)?.parse().map_err(nonsense)
}

/// Where following may begin.
struct Starts<'a> {
    lineage: &'a str,
    segment_bytes: u64,
    open: &'a dyn Fn(u64) -> std::result::Result<Connection, Failure>,
}

struct Start {
    log: Connection,
    position: u64,
    /// What has come from there on.
    held: Vec<u8>,
    walked: Walked,
}

impl Starts<'_> {
    /// At the begin of a segment.
    fn at(&self, position: u64) -> std::result::Result<Start, Failure> {
        let walked = Walked::from(position, self.segment_bytes);
        Ok(Start { log: (self.open)(position)?, position, held: Vec::new(), walked })
    }

    /// Behind a piece that the server sends once more, to the byte.
    fn behind(&self, last: &LogPiece) -> std::result::Result<Start, Failure> {
        let other = || {
            Failure::Refused(format!(
                "its log up to {} of {} is not the one that is archived, as of a server that was set back to an earlier \
                 state: promote it, so that it begins a timeline of its own, or keep its log as a component of another name",
                Lsn(last.last),
                self.lineage
            ))
        };
        let begin = last.last.saturating_sub(1);
        let mut start = self.at(begin - begin % self.segment_bytes)?;
        let (mut sent, deadline) = (Vec::new(), Instant::now() + PROVEN_WITHIN);
        let length = usize::try_from(last.last - start.position).expect("a segment is in memory anyway");
        while sent.len() < length {
            if Instant::now() > deadline {
                return Err(other());
            }
            let Some(message) = start.log.arrived(Duration::from_millis(100))? else { continue };
            if let Some(Message::Log { position, bytes }) = Message::parse(&message)
                && position == start.position + sent.len() as u64
            {
                sent.extend_from_slice(bytes);
            }
        }
        let first = last.first.max(start.position);
        let [expected, found] =
            [&last.bytes[(first - last.first) as usize..], &sent[(first - start.position) as usize..length]];
        if expected != found {
            return Err(other());
        }
        start.walked.times(start.position, &sent[..length]).map_err(Failure::Refused)?;
        start.position = last.last;
        start.held = sent.split_off(length);
        Ok(start)
    }
}

/// What a server sends when it copies its log.
enum Message<'a> {
    Log { position: u64, bytes: &'a [u8] },
    Alive { wants_answer: bool },
}

impl<'a> Message<'a> {
    /// Reads one, by "Streaming Replication Protocol" of PostgreSQL's documentation; `None` for what it does not have.
    fn parse(message: &'a [u8]) -> Option<Self> {
        match message.split_first()? {
            // Its position, the end of the server's log, the server's time.
            (b'w', rest) => {
                let position = u64::from_be_bytes(*rest.first_chunk()?);
                Some(Self::Log { position, bytes: rest.get(24..)? })
            }
            // The end of what was sent, the server's time, whether to answer.
            (b'k', rest) => Some(Self::Alive { wants_answer: *rest.get(16)? != 0 }),
            _ => None,
        }
    }
}

/// The walk along what is sent, which ends anywhere: whole pages are gone through once, the last part of one by a copy.
struct Walked {
    walk: Walk,
    segment_bytes: u64,
    /// Where the page begins that is not whole yet, and what there is of it.
    page: u64,
    part: Vec<u8>,
    /// The server has switched to the segment that begins here; until then there is nothing.
    next: u64,
}

impl Walked {
    fn from(position: u64, segment_bytes: u64) -> Self {
        Self { walk: Walk::default(), segment_bytes, page: position, part: Vec::new(), next: 0 }
    }

    /// Goes on through `bytes` at `first`, which follow what came before and stay in one segment; the first and the last
    /// instant at which one of its transactions ended, in microseconds since 1970.
    ///
    /// Fails, in words, where records do not follow each other, or one is damaged.
    fn times(&mut self, first: u64, bytes: &[u8]) -> std::result::Result<Option<(i64, i64)>, String> {
        self.part.extend_from_slice(bytes);
        let whole = self.part.len() - self.part.len() % PAGE;
        let rest = self.part.split_off(whole);
        let pages = std::mem::replace(&mut self.part, rest);
        self.walk.note_from(Lsn(first));
        let begin = self.page;
        self.page += pages.len() as u64;
        if begin >= self.next && !pages.is_empty() {
            self.walk.segment(Lsn(begin), &pages, true)?;
            if self.walk.is_switched() {
                self.next = (begin - begin % self.segment_bytes) + self.segment_bytes;
            }
        }
        let mut ahead = self.walk.clone();
        // Less than a page's header says nothing yet.
        if self.page >= self.next && self.part.len() >= LONG_HEADER {
            ahead.segment(Lsn(self.page), &self.part, true)?;
        }
        Ok(ahead.seen().times)
    }
}

/// How far the server's log is on its disk, and when that was asked.
fn flushed_by(connection: &mut Connection) -> std::result::Result<(u64, Timestamp), Failure> {
    let now = Timestamp::now();
    let answer = connection.known("select pg_catalog.pg_current_wal_flush_lsn()::text")?;
    Ok((answer.parse::<Lsn>().map_err(Failure::Refused)?.0, now))
}

/// The same, asked again and again on a connection of its own.
struct Flushed {
    answer: Arc<Mutex<std::result::Result<(u64, Timestamp), String>>>,
    over: Cancel,
}

impl Flushed {
    fn ask(mut connection: Connection, first: (u64, Timestamp)) -> Self {
        let (answer, over) = (Arc::new(Mutex::new(Ok(first))), Cancel::default());
        let (shared, is_over) = (Arc::clone(&answer), Arc::clone(&over));
        connection.give_up_by(&over);
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(ASK_EVERY);
                let answer = flushed_by(&mut connection).map_err(|error| error.to_string());
                let is_lost = answer.is_err();
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = answer;
                if is_lost {
                    return;
                }
            }
        });
        Self { answer, over }
    }

    fn known(&self) -> std::result::Result<(u64, Timestamp), String> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
