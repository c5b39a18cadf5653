//! A backup while the server runs: what is read first, and what only its end brings.
//!
//! # Order
//! The backup begins on a connection that is kept to its end. Everything but four things is listed and read. Then
//! `pg_control` is read, the facts are measured, the backup is ended, the facts are measured again (unless nobody wrote since
//! they last were), and label, map and the log from the begin to the end are read from `pg_wal`, where a slot has kept them. The slot is a temporary
//! one: it goes with the connection, whatever happens to us.
//!
//! # What makes it void
//! The connection broke (the server was killed or restarted), a tablespace came or went, a segment of the log is
//! missing, cut or somebody else's, or a member was not read.
//!
//! # A standby
//! It writes no log and ends no segment. What its end says is only how far its files need the log to be consistent, which lies
//! before what its readers see. So the backup goes on to where it had replayed its log when it ended, which is between the two
//! measurements of the facts, and what its last segment has behind that is left out. It must have the log itself, as one has
//! that streams; the slot keeps it. A standby that is promoted meanwhile makes the backup void.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::super::whole::{Unread, Whole};
use super::super::{
    Capture, CaptureRequest, Content, Finish, Finished, LogBase, Member, Open, PointFacts, PostgresOptions,
    StreamMeta, Tally,
};
use super::control::{self, Control};
use super::facts::{self, Early, Measured};
use super::listing::{self, Layout, Readers, Tablespace};
use super::log::{self, Label, Lsn, Segments};
use super::server::Server;
use super::unchanged::{self, Before};
use super::{detail, engine, identity};
use crate::facts::Facts;
use crate::{Error, Result};

/// How many bytes of a segment are looked at before it is read.
const HEADER_BYTES: usize = 40;

/// Begins a capture.
pub(super) fn begin(options: &PostgresOptions, request: &CaptureRequest<'_>) -> Result<Capture> {
    let data = &options.data;
    let mut server = Server::reach(options, &request.cancel)?;
    server.begin(request.run)?;
    let instant = Timestamp::now();
    let tablespaces = listing::tablespaces(data).map_err(Error::io("list the tablespaces of", data))?;
    let layout = Layout { data, version: server.tablespace_version.clone(), part_pages: server.part_pages };
    let excludes = listing::excludes(&layout, &tablespaces).map_err(Error::io("list", data))?;
    let relations = listing::relations(&layout, &tablespaces).map_err(Error::io("list", data))?;
    let control = Control::read(data).map_err(Error::io("read", &data.join(control::PATH)))?;
    let before = Before::of(
        request.previous,
        &identity(server.system),
        control.timeline().map(|timeline| timeline.to_string()).as_deref(),
        instant,
    );
    let local = tablespaces.iter().map(|tablespace| &tablespace.location).chain([data]);
    let local = local.filter(|directory| unchanged::is_local(directory)).cloned().collect();
    let readers = Readers { local, ..Readers::default() };
    let bytes = relations.iter().map(listing::RelationFile::bytes).sum();

    let mut members = vec![listing::live(data, &excludes)];
    members.extend(tablespaces.iter().map(|tablespace| listing::live(&tablespace.location, &excludes)));
    members.extend(server.outside.iter().map(|file| listing::live(file, &excludes)));
    members.extend(relations.into_iter().map(|relation| relation.member(&layout, &before, &readers)));
    let later = |name: &&str| Member { path_in_snapshot: data.join(name), content: Content::Later };
    members.extend(listing::LATER.iter().map(later));

    let control = fs::metadata(data.join(control::PATH)).map_err(Error::io("look at", data))?;
    let roots = tablespaces.iter().map(|tablespace| tablespace.location.clone()).chain([data.clone()]);
    let owner = StreamMeta::of(&control);
    let details = BTreeMap::from([
        (detail::OWNER.to_owned(), format!("{}:{}", owner.uid, owner.gid)),
        (detail::VERSION.to_owned(), server.version.to_string()),
        (detail::TABLESPACES.to_owned(), json(&tablespaces)),
        (detail::SETTINGS.to_owned(), json(&server.settings)),
        (detail::CHECKSUMS.to_owned(), server.part_pages.is_some().to_string()),
    ]);
    let point = PointFacts {
        kind: super::KIND.to_owned(),
        engine: engine(server.version),
        instant,
        facts: Facts::default(),
        queries: options.facts.iter().cloned().collect(),
        bytes: Some(bytes),
        roots: roots.collect(),
        identity: Some(identity(server.system)),
        token: None,
        log: None,
        details,
    };
    let meta = StreamMeta { mode: 0o600, ..owner };
    let options = options.clone();
    let early = Early::begin(server.another(), options.facts.clone(), options.query_timeout);
    let finish = Ending {
        server,
        early: Some(early),
        options,
        tablespaces,
        readers,
        instant,
        read_whole: before.read_whole(),
        meta,
        cancel: request.cancel.clone(),
        ended: None,
    };
    Ok(Capture { members, point, finish: Box::new(finish) })
}

/// A value as JSON text.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("it has only text keys")
}

/// The end of a backup; dropping it closes the connection, which aborts a backup that was not ended.
struct Ending {
    server: Server,
    /// The facts that are measured beside the reading.
    early: Option<Early>,
    options: PostgresOptions,
    tablespaces: Vec<Tablespace>,
    readers: Readers,
    /// When it began.
    instant: Timestamp,
    /// When everything was last read, if not now.
    read_whole: Option<Timestamp>,
    /// What the files that only the end brings say of themselves.
    meta: StreamMeta,
    cancel: super::super::Cancel,
    ended: Option<Ended>,
}

/// What is known when the backup has ended.
struct Ended {
    facts: Facts,
    details: BTreeMap<String, String>,
    instant: Timestamp,
    log: Option<LogBase>,
}

impl Finish for Ending {
    fn later(&mut self) -> Result<Vec<Member>> {
        if self.readers.unread.load(Ordering::Acquire) > 0 {
            return Err(self.bad("was not read to its end".to_owned()));
        }
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let data = self.options.data.clone();
        let control = Control::read(&data).map_err(Error::io("read", &data.join(control::PATH)))?;
        let before = self.measured_by_now()?;
        let (stop, label_bytes, map) = self.server.end()?;
        let replayed = if self.server.is_standby { Some(self.server.replayed()?) } else { None };
        let instant = Timestamp::now();
        let is_quiet = facts::seen(&mut self.server.connection)? == before.seen;
        let after = if is_quiet { before.clone() } else { self.measure()? };
        self.same_tablespaces()?;
        let label_text = String::from_utf8_lossy(&label_bytes);
        let label = Label::parse(&label_text).map_err(|why| self.bad(why))?;
        let stop: Lsn = stop.parse().map_err(|why| self.bad(why))?;
        let replayed = replayed.map(|text| text.parse::<Lsn>()).transpose().map_err(|why| self.bad(why))?;
        if label.from_standby != self.server.is_standby {
            return Err(self.bad("the server became another one while it was backed up".to_owned()));
        }
        let stop = replayed.map_or(stop, |replayed| replayed.max(stop));
        let segments = Segments { timeline: label.timeline, bytes: self.server.segment_bytes };
        let mut details = facts::details(&before, &after);
        details.insert(detail::START.to_owned(), label.start.to_string());
        details.insert(detail::STOP.to_owned(), stop.to_string());
        details.insert(detail::TIMELINE.to_owned(), label.timeline.to_string());
        details.insert(detail::FROM_STANDBY.to_owned(), label.from_standby.to_string());
        let has_log = self.options.archive || self.options.slot.is_some();
        let log = has_log.then(|| LogBase {
            lineage: super::wal::lineage(self.server.system, label.timeline),
            needed_from: label.start.0 - label.start.0 % self.server.segment_bytes,
            consistent_at: stop.0,
        });

        let mut members = vec![
            self.written(Path::new(control::PATH), control.bytes),
            self.written(Path::new("backup_label"), label_bytes.clone()),
        ];
        if !map.is_empty() {
            members.push(self.written(Path::new("tablespace_map"), map));
        }
        for number in segments.between(label.start, stop) {
            // What a standby's segments have behind the end may be half of a record, or an older file's.
            let keep = if label.from_standby {
                stop.0 - segments.begin(number).0.min(stop.0)
            } else {
                segments.bytes
            };
            members.push(self.segment(segments, number, keep)?);
        }
        if label.timeline > 1 {
            members.extend(self.histories()?);
        }
        self.ended = Some(Ended { facts: after.facts, details, instant, log });
        Ok(members)
    }

    fn finish(self: Box<Self>, _stored: Option<&Tally>) -> Result<Finished> {
        if self.readers.unread.load(Ordering::Acquire) > 0 || self.ended.is_none() {
            return Err(self.bad("was not read to its end".to_owned()));
        }
        let Self { readers, ended, read_whole, instant: begun, .. } = *self;
        let Ended { facts, mut details, instant, log } =
            ended.unwrap_or_else(|| unreachable!("it was just looked at"));
        let damage = std::mem::take(&mut *readers.damage.lock().unwrap_or_else(PoisonError::into_inner));
        let looked = &readers.looked;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        details.extend(
            [
                (detail::READ_WHOLE, read_whole.unwrap_or(begun).to_string()),
                (detail::DAMAGED, json(&damage.files)),
                (detail::BYTES_READ, count(&looked.read)),
                (detail::BYTES_KEPT, count(&looked.kept_bytes)),
                (detail::PAGES_VERIFIED, count(&looked.pages)),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let notes = looked.in_words(read_whole).into_iter().collect();
        Ok(Finished {
            facts,
            details,
            problems: damage.told,
            instant: Some(instant),
            bytes: None,
            log,
            notes,
        })
    }
}

impl Ending {
    fn bad(&self, why: String) -> Error {
        Error::BadSource { path: self.options.data.clone(), why }
    }

    /// The facts as they are now, which may have been measured before.
    fn measured_by_now(&mut self) -> Result<Measured> {
        let now = facts::seen(&mut self.server.connection)?;
        match self.early.take().and_then(|early| early.valid_at(&now)) {
            Some(measured) => Ok(measured),
            None => self.measure(),
        }
    }

    fn measure(&mut self) -> Result<Measured> {
        facts::measure(&mut self.server.connection, &self.options.facts, self.options.query_timeout)
    }

    /// A tablespace that came meanwhile would be made by the replay at its own path, which may be in use; one that went
    /// was read in part.
    fn same_tablespaces(&self) -> Result<()> {
        let data = &self.options.data;
        let now = listing::tablespaces(data).map_err(Error::io("list the tablespaces of", data))?;
        if now == self.tablespaces {
            return Ok(());
        }
        Err(self.bad("a tablespace was made or dropped while it was backed up: back it up again".to_owned()))
    }

    /// A small file of the data directory that is known by now.
    fn written(&self, path: &Path, bytes: Vec<u8>) -> Member {
        let length = bytes.len() as u64;
        self.stream(path, length, move || Ok(Cursor::new(bytes)))
    }

    /// A segment of the log, whole and of this cluster.
    ///
    /// That every record in it is right is more than its header shows; a proof replays it. Behind the first `keep` bytes
    /// there are zeros.
    fn segment(&self, segments: Segments, number: u64, keep: u64) -> Result<Member> {
        let name = segments.name(number);
        let path = self.options.data.join("pg_wal").join(&name);
        let bad = |why: String| {
            let why = format!("the backup needs the segment {name} of the log, and {why}: back it up again");
            self.bad(why)
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let from = "; a standby must stream its log to be backed up";
                let why = format!("it is missing{}", if self.server.is_standby { from } else { "" });
                return Err(bad(why));
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let length = file.metadata().map_err(Error::io("look at", &path))?.len();
        if length != segments.bytes {
            return Err(bad(format!("it has {length} bytes instead of {}", segments.bytes)));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).map_err(Error::io("read", &path))?;
        log::check_header(&header, segments, number, self.server.system).map_err(bad)?;
        let rest = move || {
            let begin = Cursor::new(header);
            Ok(begin.chain(file).take(keep).chain(io::repeat(0)).take(length))
        };
        Ok(self.stream(&Path::new("pg_wal").join(&name), length, rest))
    }

    /// The files that say which timeline comes from which.
    fn histories(&self) -> Result<Vec<Member>> {
        let directory = self.options.data.join("pg_wal");
        let entries = fs::read_dir(&directory).map_err(Error::io("list", &directory))?;
        let is_history = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "history");
        let histories = entries.flatten().map(|entry| entry.path()).filter(is_history);
        histories
            .map(|path| {
                let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
                let name = path.file_name().map_or_else(PathBuf::new, PathBuf::from);
                Ok(self.written(&Path::new("pg_wal").join(name), bytes))
            })
            .collect()
    }

    fn stream<R: Read + Send + 'static>(
        &self,
        path: &Path,
        length: u64,
        open: impl FnOnce() -> io::Result<R> + Send + 'static,
    ) -> Member {
        let unread = Unread::clone(&self.readers.unread);
        // Counted from now on, not from when it is opened.
        let whole = Whole::new(io::empty(), length, &unread);
        let open: Open = Box::new(move || Ok(Box::new(whole.with(open()?)) as Box<dyn Read + Send>));
        let content = Content::Stream {
            meta: self.meta.clone(),
            size: Some(length),
            block_bytes: None,
            open,
            origin: None,
        };
        Member { path_in_snapshot: self.options.data.join(path), content }
    }
}
