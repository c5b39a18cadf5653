//! One component: looking at its source, archiving what it writes, and keeping a base under it.
//!
//! # Threads
//! One looks: it alone has the follower, and never waits for the repository. One archives what it is given, a
//! piece at a time, and tries again until it is durable. One keeps house: bases, and fewer objects.
//!
//! # When it breaks
//! Whatever ends following (the source is replaced, its log begun anew by others, too much waits) begins it
//! anew after a pause; the driver proves whether the lineage may go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use estate::component::{Component, Follow, LogBase, LogPiece};
use jiff::Timestamp;
use repository::Context;
use repository::log::{Appender, Archive, Catalogue, CompactOptions, Error as LogError, Piece};
use runbook::{NoControls, NoObserver, Outcome};

use super::seen::Seen;
use super::{Event, Shipped, Watch};
use crate::execute::Conduct;
use crate::site::Site;
use crate::{Error, Result, log, protect};

/// How often is looked while something is written; how far apart two instants are that can be told apart.
const LOOK_BUSY: Duration = Duration::from_millis(5);
/// How often is looked when nothing was written for [`BUSY_FOR`].
const LOOK_IDLE: Duration = Duration::from_millis(20);
const BUSY_FOR: Duration = Duration::from_secs(1);
/// What was written is archived after this at the latest, or when there is so much of it: within a second, and in few objects.
const SEND_AFTER: Duration = Duration::from_millis(300);
const SEND_BYTES: u64 = 2 << 20;
/// How often it is recorded that an idle source was looked at.
const SEEN_EVERY: Duration = Duration::from_secs(20);
/// How old a base becomes before the next one: so much log is replayed at most.
const BASE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How often a base is looked for, and how long after a failure the next one is tried.
const BASE_CHECK: Duration = Duration::from_secs(30);
/// How often small segments are merged.
const COMPACT_EVERY: Duration = Duration::from_secs(600);
/// How long after a failure is tried again: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(15)];
/// How long is shipped after the wish to stop, until all is archived.
const DRAIN: Duration = Duration::from_secs(10);
/// How often a thread that waits looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// One component that is shipped.
pub(super) struct Line<'a> {
    site: &'a Site,
    name: String,
    driver: &'a dyn Component,
    archive: Archive,
    watch: Watch<'a>,
    stop: &'a AtomicBool,
    shipped: Shipped,
    /// The archive has something else than the source: the next lineage is a new one in any case.
    begins_anew: bool,
}

/// What is given to the thread that archives.
enum Job {
    Piece(LogPiece),
    Seen(Seen),
}

/// What it answers: the position that is durable, or why it cannot go on.
type Done = std::result::Result<Archived, Stuck>;

struct Archived {
    position: u64,
}

/// The archive does not take what it is given, and never will.
struct Stuck {
    why: String,
    begins_anew: bool,
}

impl<'a> Line<'a> {
    pub fn new(
        site: &'a Site,
        name: &str,
        driver: &'a dyn Component,
        watch: Watch<'a>,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        Ok(Self {
            site,
            name: name.to_owned(),
            driver,
            archive: Archive::new(&site.repository, name)?,
            watch,
            stop,
            shipped: Shipped { component: name.to_owned(), ..Shipped::default() },
            begins_anew: false,
        })
    }

    /// Ships until it is to stop.
    pub fn run(mut self) -> Shipped {
        let mut pause = Pause::new();
        loop {
            let (pieces, anew) = (self.shipped.pieces, self.begins_anew);
            let ended = self.follow();
            if self.is_stopping() {
                if let Err(error) = ended {
                    self.shipped.missing.get_or_insert_with(|| error.to_string());
                }
                return self.shipped;
            }
            if let Err(error) = ended {
                self.tell_end(&error, self.begins_anew && !anew);
            }
            if self.shipped.pieces > pieces {
                pause = Pause::new();
            }
            pause.wait(self.stop);
        }
    }

    /// Says why following ended; `is_refused` when the archive will never take what comes next.
    fn tell_end(&mut self, error: &Error, is_refused: bool) {
        let (component, why) = (self.name.clone(), error.to_string());
        let broken = match error {
            Error::Component { source: estate::Error::Broken { why, .. }, .. } => Some(why.clone()),
            _ => is_refused.then(|| why.clone()),
        };
        if let Some(why) = broken {
            self.shipped.interruptions += 1;
            return (self.watch)(&Event::Interrupted { component, why });
        }
        (self.watch)(&Event::Waiting { component, why });
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Follows the source until something breaks or one is to stop.
    fn follow(&mut self) -> Result<()> {
        let failed = Error::component(&self.name);
        let none =
            || Error::refused("it has no log that could be followed", "give it an interval: `every: 30m`");
        let last = if self.begins_anew { None } else { self.last_piece()? };
        let log = self.driver.log().ok_or_else(none)?;
        let mut follower = log.follow(last.as_ref()).map_err(failed)?.ok_or_else(none)?;
        let lineage = follower.lineage().to_owned();
        let appender = self.archive.appender(&lineage)?;
        let component = self.name.clone();
        (self.watch)(&match follower.began() {
            Some(why) => Event::Began { component, lineage: lineage.clone(), why: why.to_owned() },
            None => Event::Continues { component, lineage: lineage.clone() },
        });
        self.begins_anew = false;
        let over = AtomicBool::new(false);
        let (jobs, for_archive) = sync_channel(1);
        let (done, answers) = channel();
        let keeper = Keeper::of(self, &lineage);
        let may_begin_behind_a_gap = AtomicBool::new(follower.began().is_some());
        let sender = Archiver {
            watch: self.watch,
            name: self.name.clone(),
            appender,
            site: self.site,
            may_begin_behind_a_gap,
        };
        let (sending, is_over) = (&sender, &over);
        std::thread::scope(|scope| {
            scope.spawn(move || sending.run(&for_archive, &done, is_over));
            scope.spawn(|| keeper.run(&over));
            let ended = self.look(&mut *follower, &jobs, &answers);
            over.store(true, Ordering::Relaxed);
            drop(jobs);
            ended
        })?;
        if self.shipped.missing.is_none() && !keeper.is_based(Duration::MAX)? {
            self.shipped.missing =
                Some("no base was made yet, without which its log cannot be replayed".to_owned());
        }
        Ok(())
    }

    /// The last piece of the newest lineage that is archived.
    fn last_piece(&self) -> Result<Option<LogPiece>> {
        let catalogue = self.archive.catalogue()?;
        let Some((lineage, segment)) = newest(&catalogue) else { return Ok(None) };
        let last = self.archive.read(&lineage, &segment)?.pop();
        Ok(last.map(|content| log::piece((lineage, content))))
    }

    /// Looks, hands over, and takes what is archived, until one is to stop and all is.
    fn look(
        &mut self,
        follower: &mut dyn Follow,
        jobs: &SyncSender<Job>,
        answers: &Receiver<Done>,
    ) -> Result<()> {
        let failed = |error| Error::component(&self.name)(error);
        let (mut busy_since, mut waits_since) = (Instant::now(), None::<Instant>);
        let (mut in_flight, mut stop_since) = (false, None::<Instant>);
        let mut recorded = Instant::now().checked_sub(SEEN_EVERY).unwrap_or_else(Instant::now);
        loop {
            if follower.look().map_err(failed)? {
                busy_since = Instant::now();
            }
            if follower.behind_bytes() > 0 {
                waits_since.get_or_insert_with(Instant::now);
            }
            while let Ok(answer) = answers.try_recv() {
                in_flight = false;
                match answer {
                    Ok(archived) => follower.acknowledge(archived.position),
                    Err(stuck) => {
                        self.begins_anew = stuck.begins_anew;
                        return Err(Error::Failed(stuck.why));
                    }
                }
                waits_since = (follower.behind_bytes() > 0).then(Instant::now);
            }
            let is_stopping = self.is_stopping();
            if is_stopping {
                stop_since.get_or_insert_with(Instant::now);
            }
            let is_due = waits_since.is_some_and(|since| since.elapsed() >= SEND_AFTER)
                || follower.behind_bytes() >= SEND_BYTES
                || follower.is_urgent()
                || is_stopping;
            if is_due
                && !in_flight
                && let Some(piece) = follower.piece().map_err(failed)?
            {
                let bytes = piece.bytes.len() as u64;
                in_flight = jobs.try_send(Job::Piece(piece.clone())).is_ok();
                self.shipped.pieces += u64::from(in_flight);
                self.shipped.bytes += if in_flight { bytes } else { 0 };
            }
            if follower.behind_bytes() == 0 && !in_flight {
                let (position, instant) = follower.seen();
                self.shipped.until = Some(instant);
                if recorded.elapsed() >= SEEN_EVERY || is_stopping {
                    let seen = Seen::new(follower.lineage(), position, instant);
                    match jobs.try_send(Job::Seen(seen)) {
                        Ok(()) => recorded = Instant::now(),
                        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
                    }
                }
                if is_stopping {
                    return Ok(());
                }
            }
            if stop_since.is_some_and(|since| since.elapsed() >= DRAIN) {
                let behind = follower.behind_bytes();
                self.shipped.missing =
                    Some(format!("{behind} bytes of its log are not archived; the source keeps them"));
                return Ok(());
            }
            if !is_stopping {
                follower.tend().map_err(failed)?;
            }
            std::thread::sleep(if busy_since.elapsed() < BUSY_FOR { LOOK_BUSY } else { LOOK_IDLE });
        }
    }
}

/// The last segment of the newest lineage: the one whose last commit is the latest, the last name among equals.
fn newest(catalogue: &Catalogue) -> Option<(String, repository::log::Segment)> {
    let ends = catalogue.lineages().filter_map(|(name, known)| Some((name, known.segments.last()?)));
    let last = ends.max_by_key(|(name, segment)| (segment.until_ms(), *name));
    last.map(|(name, segment)| (name.to_owned(), *segment))
}

/// A pause that grows.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(PAUSE[0])
    }

    /// Waits, and the next time twice as long; not when one is to stop.
    fn wait(&mut self, stop: &AtomicBool) {
        let begin = Instant::now();
        while begin.elapsed() < self.0 && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(TICK.min(self.0));
        }
        self.0 = (self.0 * 2).min(PAUSE[1]);
    }
}

/// Archives what it is given.
struct Archiver<'a> {
    watch: Watch<'a>,
    name: String,
    appender: Appender,
    site: &'a Site,
    /// Nothing was appended yet by who began anew: what is archived of the lineage need not reach up to there.
    may_begin_behind_a_gap: AtomicBool,
}

impl Archiver<'_> {
    fn run(&self, jobs: &Receiver<Job>, done: &Sender<Done>, over: &AtomicBool) {
        for job in jobs {
            let answer = match job {
                Job::Piece(piece) => self.append(&piece, over),
                Job::Seen(seen) => {
                    // The next one says more; that this one could not be written is told by what is shipped.
                    _ = seen.save(&self.site.repository, &self.name);
                    continue;
                }
            };
            let Some(answer) = answer else { return };
            if done.send(answer).is_err() {
                return;
            }
        }
    }

    /// Appends one piece, again and again until it is durable; `None` when nobody waits for it any more.
    fn append(&self, piece: &LogPiece, over: &AtomicBool) -> Option<Done> {
        let ms = |at: Option<Timestamp>| at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        let given = Piece {
            first: piece.first,
            last: piece.last,
            from_ms: ms(piece.from),
            until_ms: ms(piece.until),
            name: piece.name.as_deref(),
            bytes: &piece.bytes,
        };
        let (mut pause, mut is_away) = (Pause::new(), false);
        loop {
            let component = self.name.clone();
            let mut appended = self.appender.append(&given);
            if matches!(appended, Err(LogError::Gap { .. }))
                && self.may_begin_behind_a_gap.load(Ordering::Relaxed)
            {
                appended = self.appender.append_after_gap(&given);
            }
            let error = match appended {
                Ok(_) => {
                    self.may_begin_behind_a_gap.store(false, Ordering::Relaxed);
                    if is_away {
                        (self.watch)(&Event::Back { component });
                    }
                    return Some(Ok(self.archived(piece)));
                }
                Err(error) => error,
            };
            let why = error.to_string();
            match error {
                LogError::Conflict { .. } | LogError::Gap { .. } | LogError::Refused(_) => {
                    return Some(Err(Stuck { why, begins_anew: true }));
                }
                LogError::Superseded { .. } => return Some(Err(Stuck { why, begins_anew: false })),
                _ => {}
            }
            if !is_away {
                let behind_bytes = piece.bytes.len() as u64;
                (self.watch)(&Event::Away { component, why, behind_bytes });
                is_away = true;
            }
            pause.wait(over);
            if over.load(Ordering::Relaxed) {
                return None;
            }
        }
    }

    fn archived(&self, piece: &LogPiece) -> Archived {
        let at = Timestamp::now();
        let age = |from: Timestamp| at.duration_since(from).as_secs_f64();
        (self.watch)(&Event::Shipped {
            component: self.name.clone(),
            position: piece.last,
            until: piece.until,
            bytes: piece.bytes.len() as u64,
            delay_seconds: piece.from.map(age),
        });
        Archived { position: piece.last }
    }
}

/// Keeps a base under the log, and the log in few objects.
struct Keeper<'a> {
    site: &'a Site,
    name: String,
    lineage: String,
    archive: Archive,
    watch: Watch<'a>,
    stop: &'a AtomicBool,
}

impl<'a> Keeper<'a> {
    fn of(line: &Line<'a>, lineage: &str) -> Self {
        Self {
            site: line.site,
            name: line.name.clone(),
            lineage: lineage.to_owned(),
            archive: line.archive.clone(),
            watch: line.watch,
            stop: line.stop,
        }
    }

    fn run(&self, over: &AtomicBool) {
        let mut compacted = Instant::now();
        let (mut based, mut pause) = (None::<Instant>, BASE_CHECK);
        let is_over = || over.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed);
        while !is_over() {
            if based.is_none_or(|looked| looked.elapsed() >= pause) {
                let kept = self.keep_based();
                based = Some(Instant::now());
                pause = if kept.is_ok() { BASE_CHECK } else { (pause * 2).min(BASE_CHECK * 20) };
                if let Err(error) = kept
                    && !is_over()
                {
                    let (component, why) = (self.name.clone(), error.to_string());
                    (self.watch)(&Event::NotBased { component, why });
                }
            }
            if compacted.elapsed() >= COMPACT_EVERY {
                // What could not be merged now is merged the next time.
                _ = self.archive.compact(&self.lineage, &CompactOptions::default(), Context::silent());
                compacted = Instant::now();
            }
            std::thread::sleep(TICK);
        }
    }

    /// Makes a base where there is none, or an old one.
    fn keep_based(&self) -> Result<()> {
        if self.is_based(BASE_EVERY)? {
            return Ok(());
        }
        let conduct = Conduct {
            observer: &NoObserver,
            controls: &NoControls,
            interrupt: self.stop,
            answer_within: Some(Duration::ZERO),
        };
        let finished = protect::backup(self.site, std::slice::from_ref(&self.name), false, conduct)?;
        let record = &finished.record;
        if finished.outcome() == Outcome::Failed || finished.outcome() == Outcome::CouldNotRun {
            return Err(Error::Failed(record.reasons.join("; ")));
        }
        if !self.is_based(BASE_EVERY)? {
            let why =
                "the backup does not know where it stands in the log: another process writes for too long";
            return Err(Error::Failed(why.to_owned()));
        }
        (self.watch)(&Event::Based { component: self.name.clone(), run: record.run.clone() });
        Ok(())
    }

    fn is_based(&self, age_max: Duration) -> Result<bool> {
        let catalogue = self.site.catalogue()?;
        // What lies before a gap is no base of what lies behind it.
        let behind = self.archive.catalogue()?.gaps();
        let behind = behind.iter().filter(|gap| gap.lineage == self.lineage).map(|gap| gap.before).max();
        let is_base = |log: &LogBase| log.lineage == self.lineage && Some(log.needed_from) >= behind;
        let newest = log::logged(&catalogue, &self.name)
            .filter(|point| point.recorded.log.as_ref().is_some_and(is_base))
            .last();
        let now = self.site.now();
        Ok(newest.is_some_and(|point| {
            let age = Duration::try_from(now.duration_since(point.instant())).unwrap_or_default();
            age <= age_max
        }))
    }
}
