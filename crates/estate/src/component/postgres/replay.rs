//! Recovery along a log archive: a private server replays what is handed to it, up to its target and not beyond.
//!
//! # How
//! The server recovers as a standby does. Its `restore_command` is a small shell script that asks in a directory (`spool`)
//! and waits for the answer; this side lays segments there, a few ahead of need. A standby never ends its recovery because
//! something is missing or damaged: it asks again. So the end is decided here: when the server asks for what lies behind the
//! last segment it has replayed everything and is promoted; with a target it stops there by itself.
//!
//! # What is shown
//! Every segment is walked record by record before it is handed over (`wal::walk`). So it is known before which record the
//! server must have stopped, and where its new timeline must fork off; the history that it wrote is compared with that.
//! A log in which a tablespace is made or dropped is refused: the server would do so at the tablespace's own path, outside
//! of what was restored.
//!
//! # Crash
//! The server is a child of the run that may outlive it; the next attempt ends it and goes on where it was, because a server
//! that recovers can be interrupted anywhere. One that had been promoted already is only looked at again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use place::Place;

use super::super::{Part, PointFacts, PostgresOptions, Proof, Replay, Replayed};
use super::boot::{Boot, No, Recovery, hindrance, programs};
use super::listing::Tablespace;
use super::wal::{self, Cluster, Kind, LONG_HEADER, Lsn, Name, PAGE, Stop, Walk};
use super::{detail, links};
use crate::by_hand::quoted;
use crate::{Error, Result};

/// How many segments lie ready for the server.
const AHEAD: usize = 4;
/// How often the spool is looked into, and the server asked whether it has ended its recovery.
const LOOK_EVERY: Duration = Duration::from_millis(4);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How often a server may ask again for what it has been given, without asking for anything new.
const AGAIN_MAX: u32 = 250;

/// How often a server may ask for the segment within which the log ends before that means that it has replayed it.
const ASKED_AGAIN: u32 = 3;

/// What the server calls for a file of the log: its name, and where to put it.
const SCRIPT: &str = r#"d=${0%/*}
: > "$d/ask-$1" || exit 255
while [ -d "$d" ]; do
  if [ -e "$d/have-$1" ]; then
    mv "$d/have-$1" "$2" || exit 255
    rm -f "$d/ask-$1"
    exit 0
  fi
  if [ -e "$d/none-$1" ]; then
    rm -f "$d/ask-$1" "$d/none-$1"
    exit 1
  fi
  sleep 0.005
done
exit 255
"#;

/// Brings a restored cluster to the target.
pub(super) fn replay(
    options: &PostgresOptions,
    place: &Place,
    parts: &[Part],
    recorded: &PointFacts,
    replay: Replay<'_>,
) -> Result<Replayed> {
    let Some(part) = parts.last() else {
        let why = "the point has no parts".to_owned();
        return Err(Error::BadTarget { path: options.data.clone(), why });
    };
    let data = &part.beside;
    let bad = |why: String| Error::BadTarget { path: data.clone(), why };
    let base = recorded.log.as_ref();
    let base = base.ok_or_else(|| bad("the point does not say where it is in the log".to_owned()))?;
    let within =
        |error: place::Error| Error::Command { what: "the replay".to_owned(), why: error.to_string() };
    let look = || {
        let found = fs::metadata(data).map_err(Error::io("look at", data))?;
        Ok::<_, Error>((Cluster::of(data)?, (found.uid(), found.gid())))
    };
    let (cluster, owner) = place.within(look).map_err(within)??;
    let lineage = wal::parse_lineage(replay.lineage);
    let (system, timeline) = lineage.ok_or_else(|| bad(format!("{} is no timeline", replay.lineage)))?;
    if system != cluster.system {
        return Err(bad(format!("the log is of the cluster {system}, and this is {}", cluster.system)));
    }
    if let Some(why) = hindrance(owner.0) {
        return Err(bad(why));
    }
    let major = cluster.major.to_string();
    let found = place.within(|| programs(options.binaries.as_deref(), &major)).map_err(within)?;
    let programs = found.map_err(bad)?;
    let stop = match replay.at {
        Some(at) => Some(Stop::After(at.as_microsecond())),
        None if !replay.is_end && !replay.to.is_multiple_of(cluster.segment_bytes) => {
            Some(Stop::At(Lsn(replay.to)))
        }
        None => None,
    };
    let of = |name: &str| recorded.details.get(name).map_or("", String::as_str);
    let tablespaces: Vec<Tablespace> = serde_json::from_str(of(detail::TABLESPACES)).unwrap_or_default();
    let spool = data.join(super::boot::DIRECTORY).join("spool");
    let script = spool.join("get").to_string_lossy().replace('%', "%%");
    let mut settings: Vec<(String, String)> = serde_json::from_str(of(detail::SETTINGS)).unwrap_or_default();
    if cluster.major >= 15 {
        // A server that looks ahead asks for what is behind the last segment before it has replayed that one.
        settings.push(("recovery_prefetch".to_owned(), "off".to_owned()));
    }
    let boot = Boot {
        place,
        data,
        programs,
        owner,
        settings,
        timeout: options.proof_timeout,
        cancel: replay.cancel,
        recovery: Recovery::Log {
            command: format!("sh {} %f %p", quoted(&script)),
            timeline,
            target: stop.map(target),
        },
    };
    let beside = links::locations(&tablespaces, parts, |part| &part.beside)?;
    let home = links::locations(&tablespaces, parts, |part| &part.target)?;
    let mut feed = Feed {
        walk: Walk::until(Lsn(base.needed_from), stop),
        next: base.needed_from - base.needed_from % cluster.segment_bytes,
        boot: &boot,
        spool,
        cluster,
        timeline,
        replay,
        is_exhausted: false,
        last: None,
        again: BTreeMap::new(),
    };
    if feed.fork()?.is_some() {
        // An attempt before this one came to the end of its recovery.
        while feed.segment()?.is_some() {}
    } else {
        boot.within(|| links::set(data, &beside))??;
        feed.recover()?;
    }
    let replayed = feed.judge(stop)?;
    boot.clean()?;
    boot.within(|| links::set(data, &home))??;
    Ok(replayed)
}

/// The target as the server's settings have it.
fn target(stop: Stop) -> (&'static str, String) {
    match stop {
        Stop::After(micros) => {
            // With its offset as a number: when the server reads this, it knows no abbreviations yet, not even `Z`.
            let written = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
            ("recovery_target_time", instant(micros).map_or(String::new(), written))
        }
        Stop::At(position) => ("recovery_target_lsn", position.to_string()),
    }
}

fn instant(micros: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(micros).ok()
}

/// Hands the log to the server.
struct Feed<'a, 'r> {
    boot: &'a Boot<'a>,
    spool: PathBuf,
    cluster: Cluster,
    /// The timeline in which the recovery ends.
    timeline: u32,
    replay: Replay<'r>,
    walk: Walk,
    /// Where the segment begins that is read next.
    next: u64,
    is_exhausted: bool,
    /// The last segment, where the log ends within it: the rest of it is zeros.
    last: Option<(String, Vec<u8>)>,
    /// How often each segment was asked for again.
    again: BTreeMap<String, u32>,
}

impl Feed<'_, '_> {
    /// Starts the server and hands it the log until it has ended its recovery; then stops it.
    fn recover(&mut self) -> Result<()> {
        let (boot, spool) = (self.boot, self.spool.clone());
        let server = match boot.begin_with(|| make_spool(boot, &spool))? {
            Ok(server) => server,
            Err(No::Wrong(why) | No::Untried(why)) => return Err(self.bad(why)),
        };
        let deadline = Instant::now() + boot.timeout;
        let mut asked = Instant::now();
        loop {
            if self.replay.cancel.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if let Some(said) = server.ended() {
                return Err(self.bad(format!("the server gave up{}: {said}", self.so_far())));
            }
            self.fill()?;
            let names = boot.within(|| asks(&spool))?.map_err(Error::io("list", &spool))?;
            for name in names {
                self.answer(&name)?;
            }
            if asked.elapsed() > ASK_EVERY {
                asked = Instant::now();
                if server.answers()? {
                    break;
                }
            }
            if Instant::now() > deadline {
                let why = format!("the server did not end its recovery in time{}", self.so_far());
                return Err(self.bad(why));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        server.stop()?.map_err(|why| self.bad(why))
    }

    /// Lays a few segments ready.
    fn fill(&mut self) -> Result<()> {
        let spool = &self.spool;
        let ready = self.boot.within(|| count(spool, "have-"))?.map_err(Error::io("list", spool))?;
        for _ in ready..AHEAD {
            match self.segment()? {
                Some((name, bytes)) => self.lay("have-", &name, &bytes)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Answers a file that the server asks for and that does not lie ready.
    fn answer(&mut self, name: &str) -> Result<()> {
        let parsed = Name::parse(name);
        let Some(parsed) = parsed.filter(|parsed| matches!(parsed.kind, Kind::Segment | Kind::History))
        else {
            return self.lay("none-", name, b"");
        };
        if parsed.kind == Kind::History {
            let lineage = wal::lineage(self.cluster.system, parsed.timeline);
            let file = (self.replay.file)(&lineage, name);
            let file = file.map_err(|error| self.bad(format!("failed to get {name}: {error}")))?;
            return match file {
                Some(bytes) => self.lay("have-", name, &bytes),
                None => self.lay("none-", name, b""),
            };
        }
        let Some(begin) = parsed.begin(self.cluster.segment_bytes) else {
            return self.lay("none-", name, b"");
        };
        while begin.0 >= self.next {
            match self.segment()? {
                Some((name, bytes)) => self.lay("have-", &name, &bytes)?,
                None => break,
            }
        }
        if self.has("have-", name)? {
            return Ok(());
        }
        if begin.0 >= self.next && self.is_exhausted {
            return self.end(name);
        }
        if let Some((last, bytes)) = &self.last
            && last == name
        {
            // It was given before. A server asks for a segment more than once before it has replayed it, and again when it has
            // and nothing follows.
            let again = self.again.get(name).copied().unwrap_or_default();
            self.lay("have-", name, bytes)?;
            if again >= ASKED_AGAIN {
                return self.end_of_part(name);
            }
            self.again.insert(name.to_owned(), again + 1);
            return Ok(());
        }
        // It was given before, or the backup has brought it.
        let times = self.again.entry(name.to_owned()).or_default();
        *times += 1;
        if *times > AGAIN_MAX {
            return Err(self.bad(format!("the server does not go on behind {name}{}", self.so_far())));
        }
        self.lay("none-", name, b"")
    }

    /// The server has replayed all that there is.
    fn end(&mut self, name: &str) -> Result<()> {
        if let Recovery::Log { target: Some((target, value)), .. } = &self.boot.recovery {
            return Err(self.bad(format!("the log ends before {target} {value}{}", self.so_far())));
        }
        let times = self.again.entry(name.to_owned()).or_default();
        *times += 1;
        if *times == 1 {
            self.promote()?;
        }
        self.lay("none-", name, b"")
    }

    /// The server asks and asks for the segment within which the log ends, which it has.
    fn end_of_part(&mut self, name: &str) -> Result<()> {
        if let Recovery::Log { target: Some((target, value)), .. } = &self.boot.recovery {
            return Err(self.bad(format!("the log ends before {target} {value}{}", self.so_far())));
        }
        let times = self.again.entry(name.to_owned()).or_default();
        *times += 1;
        match *times - ASKED_AGAIN {
            1 => self.promote(),
            again if again < AGAIN_MAX => Ok(()),
            _ => Err(self.bad(format!("the server does not end its recovery{}", self.so_far()))),
        }
    }

    fn promote(&self) -> Result<()> {
        let promoted = self.boot.run("pg_ctl", &["promote", "-W", "-D"])?;
        if promoted.success() {
            return Ok(());
        }
        let said = promoted.err.text();
        Err(self.bad(format!("pg_ctl promote {}: {}", promoted.end, said.trim())))
    }

    /// Reads the next segment and looks through it.
    fn segment(&mut self) -> Result<Option<(String, Vec<u8>)>> {
        let segment_bytes = self.cluster.segment_bytes;
        let (begin, mut bytes, mut name) = (self.next, Vec::new(), String::new());
        while (bytes.len() as u64) < segment_bytes && !self.is_at_end(begin + bytes.len() as u64) {
            let Some(piece) = self.replay.pieces.next() else {
                if bytes.is_empty() {
                    self.is_exhausted = true;
                    return Ok(None);
                }
                return Err(self.bad(format!("the log ends within the segment at {}", Lsn(begin))));
            };
            let lost = |error: io::Error| format!("the log is lost at {}: {error}", Lsn(begin));
            let piece = piece.map_err(|error| self.bad(lost(error)))?;
            let timeline = wal::parse_lineage(&piece.lineage).map_or(0, |(_, timeline)| timeline);
            name = Name::of(timeline, Lsn(begin), segment_bytes);
            if piece.first != begin + bytes.len() as u64 || piece.name.as_deref() != Some(&name) {
                let found = piece.name.unwrap_or_default();
                return Err(self.bad(format!("the log has {found} where {name} must be")));
            }
            if bytes.is_empty() {
                bytes = piece.bytes;
            } else {
                bytes.extend_from_slice(&piece.bytes);
            }
        }
        if bytes.is_empty() {
            self.is_exhausted = true;
            return Ok(None);
        }
        // What was archived since the run began is behind its target.
        if self.replay.is_end {
            bytes.truncate(usize::try_from(self.replay.to.saturating_sub(begin)).unwrap_or(usize::MAX));
        }
        let length = bytes.len();
        bytes.resize(usize::try_from(segment_bytes).unwrap_or(usize::MAX), 0);
        let is_whole = length == bytes.len();
        let mut parsed = Name::parse(&name).expect("it was just written");
        if !is_whole {
            parsed.kind = Kind::Partial;
        }
        let looked = self.cluster.look(&parsed, &bytes);
        let looked = looked.map_err(|why| self.bad(format!("{name}: {why}")))?;
        // Less than a page's header at the end says nothing.
        let there = if length % PAGE < LONG_HEADER { length - length % PAGE } else { length };
        let walked = self.walk.segment(looked.begin, &bytes[..there], true);
        walked.map_err(|why| self.bad(format!("the log is damaged in {name}: {why}")))?;
        // Behind where the server stops it does no harm.
        if let Some(at) = self.walk.seen().tablespace
            && self.walk.stopped().is_none_or(|stopped| stopped.before > at)
        {
            return Err(self.bad(format!(
                "a tablespace is made or dropped in the log, at {at}: choose an instant before that, or a backup made \
                 after it"
            )));
        }
        self.next = begin + segment_bytes;
        if !is_whole {
            self.is_exhausted = true;
            self.last = Some((name.clone(), bytes.clone()));
        }
        Ok(Some((name, bytes)))
    }

    /// Whether all that there is ends here, within a segment.
    fn is_at_end(&self, position: u64) -> bool {
        self.is_exhausted || self.replay.is_end && position >= self.replay.to
    }

    /// Lays a file where the script looks; it appears whole.
    fn lay(&self, what: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, beside) = (self.spool.join(format!("{what}{name}")), self.spool.join("laying"));
        let boot = self.boot;
        let laid = boot.within(|| {
            fs::write(&beside, bytes)?;
            boot.give(&beside)?;
            fs::rename(&beside, &path)
        })?;
        laid.map_err(Error::io("write", &path))
    }

    fn has(&self, what: &str, name: &str) -> Result<bool> {
        let path = self.spool.join(format!("{what}{name}"));
        self.boot.within(|| path.exists())
    }

    /// How far the log was handed over.
    fn so_far(&self) -> String {
        let time = self.walk.time().and_then(instant).map_or(String::new(), |time| format!(", {time}"));
        format!("; the log was handed to it up to {}{time}", Lsn(self.next))
    }

    /// Where the cluster's newest timeline forked off from the one in which the recovery had to end, if it has done so.
    fn fork(&self) -> Result<Option<Lsn>> {
        let data = self.boot.data;
        let found = self.boot.within(|| {
            if ["standby.signal", "recovery.signal"].iter().any(|name| data.join(name).exists()) {
                return Ok(None);
            }
            newest_history(&data.join("pg_wal"))
        })?;
        let Some((timeline, history)) = found.map_err(Error::io("list", &data.join("pg_wal")))? else {
            return Ok(None);
        };
        match wal::parent(&history, timeline) {
            Ok((parent, position)) if parent == self.timeline => Ok(Some(position)),
            _ => Ok(None),
        }
    }

    /// Compares where the server has stopped with where it must have.
    fn judge(&self, stop: Option<Stop>) -> Result<Replayed> {
        let mut proof = Proof::default();
        let Some(fork) = self.fork()? else {
            return Err(self.bad("the server has ended its recovery on no new timeline".to_owned()));
        };
        let (expected, low, high, time) = match (stop, self.walk.stopped()) {
            (None, _) => {
                let (begin, _) = self.walk.seen().last.unwrap_or((Lsn(0), Lsn(0)));
                let told = format!("behind the last record, at {begin}");
                (told, Lsn(begin.0 + 1), Lsn(self.replay.to), self.walk.time())
            }
            (Some(_), Some(stopped)) => {
                let told = format!("before the record at {}", stopped.before);
                (told, stopped.after, stopped.before, stopped.time)
            }
            (Some(_), None) => {
                let why = format!("the log ends before what was asked for{}", self.so_far());
                return Err(self.bad(why));
            }
        };
        if !(low..=high).contains(&fork) {
            return Err(self.bad(format!("the server stopped at {fork}, and had to {expected}")));
        }
        proof.compare("the log is replayed", &expected, &expected);
        // All before a target within the log was replayed when the server stopped there.
        let position = if self.replay.at.is_some() { fork.0 } else { self.replay.to };
        Ok(Replayed { position, instant: time.and_then(instant), proof })
    }

    fn bad(&self, why: String) -> Error {
        Error::BadTarget { path: self.boot.data.to_owned(), why }
    }
}

fn make_spool(boot: &Boot<'_>, spool: &Path) -> io::Result<()> {
    fs::create_dir(spool)?;
    let script = spool.join("get");
    fs::write(&script, SCRIPT)?;
    boot.give(&script)?;
    boot.give(spool)
}

/// The files that are asked for and not answered.
fn asks(spool: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(spool)? {
        let file = entry?.file_name();
        if let Some(name) = file.to_str().and_then(|name| name.strip_prefix("ask-")) {
            let is_answered =
                ["have-", "none-"].iter().any(|what| spool.join(format!("{what}{name}")).exists());
            if !is_answered {
                names.push(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn count(spool: &Path, what: &str) -> io::Result<usize> {
    let names = fs::read_dir(spool)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_string_lossy().starts_with(what)).count())
}

/// The newest timeline's history.
fn newest_history(log: &Path) -> io::Result<Option<(u32, Vec<u8>)>> {
    let names = fs::read_dir(log)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let histories = names.filter_map(|name| {
        let parsed = Name::parse(&name)?;
        (parsed.kind == Kind::History).then_some((parsed.timeline, name))
    });
    match histories.max() {
        Some((timeline, name)) => Ok(Some((timeline, fs::read(log.join(name))?))),
        None => Ok(None),
    }
}
