//! Pushing ahead: what a server has noted as ready is archived before its `archive_command` asks for it, several at once; and
//! the alarm when archiving stands still.
//!
//! The server's notes are read and never touched. Only what continues the archive is taken: what to do about a gap is decided
//! when the server asks for the segment behind it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use estate::component::postgres::wal::{Cluster, Kind, Name};
use repository::log::Error as LogError;

use super::How;
use super::helper::Helper;
use super::waiting::{self, Waiting};
use crate::Error;
use crate::ship::Event;

/// How many are archived before the notes are read again.
const BATCH_MAX: usize = 64;
/// The most threads that archive: of three, one waits for the disk while two use the processors of a small machine.
const THREADS_MAX: usize = 4;
/// How long one waits for those before it in its batch.
const WAIT: Duration = Duration::from_secs(5);
/// How often is looked whether there are new notes.
const LOOK: Duration = Duration::from_millis(20);
/// How often notes are read even where nothing seems new, and what waits is judged.
const JUDGE: Duration = Duration::from_secs(1);
/// How long after a failure is tried again: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(15)];
/// How often an alarm is repeated.
const REPEAT: Duration = Duration::from_secs(60);
/// Bytes of a segment, where nothing is known.
const USUAL_BYTES: u64 = 16 << 20;

/// Archives ahead of the server until one is to stop.
pub(super) fn run(helper: &Helper<'_>) {
    let mut alarm = Alarm::default();
    let (mut changed, mut read) = (None, None::<Instant>);
    let (mut pause, mut tried, mut is_away) = (PAUSE[0], None::<Instant>, false);
    while !helper.is_stopping() {
        let is_judged = read.is_none_or(|read| read.elapsed() >= JUDGE);
        let now = waiting::changed(&helper.data);
        let is_paused = tried.is_some_and(|tried| tried.elapsed() < pause);
        if (is_paused || now == changed) && !is_judged {
            std::thread::sleep(LOOK);
            continue;
        }
        (changed, read) = (now, Some(Instant::now()));
        let Ok(cluster) = Cluster::of(&helper.data) else {
            alarm.unreadable(helper);
            continue;
        };
        alarm.judge(helper, cluster.segment_bytes);
        let names = waiting::names(&helper.data).unwrap_or_default();
        helper.forget_but(&names);
        let batch = if is_paused { Vec::new() } else { batch(helper, &cluster, &names) };
        if batch.is_empty() {
            continue;
        }
        // There may be more of it.
        changed = None;
        let component = helper.name.clone();
        match push(helper, &batch) {
            Ok(()) => {
                (pause, tried) = (PAUSE[0], None);
                if std::mem::take(&mut is_away) {
                    (helper.watch)(&Event::Back { component });
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    let behind_bytes = names.len() as u64 * cluster.segment_bytes;
                    (helper.watch)(&Event::Away { component, why: error.to_string(), behind_bytes });
                }
                pause = if tried.is_some() { (pause * 2).min(PAUSE[1]) } else { pause };
                tried = Some(Instant::now());
            }
        }
    }
    alarm.end(helper);
}

/// The first of what waits and is not archived, with those that follow it at once.
fn batch(helper: &Helper<'_>, cluster: &Cluster, names: &[String]) -> Vec<String> {
    let mut batch: Vec<String> = Vec::new();
    let mut next = None;
    let mut is_alone = true;
    for name in names.iter().filter(|name| !helper.knows(name)) {
        let Some(parsed) = Name::parse(name).filter(|parsed| parsed.kind == Kind::Segment) else { continue };
        let Some(begin) = parsed.begin(cluster.segment_bytes) else { continue };
        let at = (parsed.timeline, begin.0);
        if next.is_some_and(|next| next != at) || batch.len() >= BATCH_MAX {
            break;
        }
        if batch.is_empty() {
            let end = helper.writers.end(&cluster.lineage(parsed.timeline));
            if end.is_some_and(|end| end < begin.0) {
                return batch;
            }
            // Where the log goes on is not known yet, or that is behind it: then nothing is known to follow it.
            is_alone = end != Some(begin.0);
        }
        next = Some((parsed.timeline, begin.0 + cluster.segment_bytes));
        batch.push(name.clone());
    }
    if is_alone {
        batch.truncate(1);
    }
    batch
}

/// Archives a batch; fails with the first that failed for itself.
fn push(helper: &Helper<'_>, batch: &[String]) -> crate::Result<()> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None::<Error>);
    let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
    let wait = if batch.len() == 1 { Duration::from_millis(1) } else { WAIT };
    let how = How { wait, only_if_it_follows: true, ..How::default() };
    let work = || {
        let mut buffer = Vec::new();
        while let Some(name) = batch.get(next.fetch_add(1, Ordering::Relaxed)) {
            if helper.is_stopping() || failed().is_some() {
                return;
            }
            match helper.archive(name, how, &mut buffer) {
                Ok(_) => {}
                // One before it has failed, or it is left to the server.
                Err(Error::Log(LogError::Gap { .. })) => {}
                // The server has taken it away meanwhile.
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => _ = failed().get_or_insert(error),
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores + 1).min(THREADS_MAX).min(batch.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The alarm that archiving stands still.
#[derive(Default)]
struct Alarm {
    told: Option<Instant>,
    is_unreadable: bool,
}

impl Alarm {
    fn judge(&mut self, helper: &Helper<'_>, segment_bytes: u64) {
        let Some(waiting) = Waiting::of(&helper.data, segment_bytes) else { return self.unreadable(helper) };
        self.is_unreadable = false;
        let component = helper.name.clone();
        if !waiting.is_alarming() {
            if self.told.take().is_some() {
                (helper.watch)(&Event::Moving { component });
            }
            return;
        }
        if self.told.is_none_or(|told| told.elapsed() >= REPEAT) {
            self.told = Some(Instant::now());
            (helper.watch)(&Event::Standing {
                component,
                waiting,
                archived: helper.archived().min(waiting.files),
            });
        }
    }

    fn unreadable(&mut self, helper: &Helper<'_>) {
        if !std::mem::replace(&mut self.is_unreadable, true) {
            let component = helper.name.clone();
            let why = format!("the log in {} cannot be read", helper.data.display());
            (helper.watch)(&Event::Waiting { component, why });
        }
    }

    fn end(&self, helper: &Helper<'_>) {
        if self.told.is_none() {
            return;
        }
        let bytes = Cluster::of(&helper.data).map_or(USUAL_BYTES, |cluster| cluster.segment_bytes);
        let waiting = Waiting::of(&helper.data, bytes).filter(Waiting::is_alarming);
        let mut shipped = helper.shipped.lock().unwrap_or_else(PoisonError::into_inner);
        shipped.missing = waiting.map(|waiting| waiting.words());
    }
}
