//! The resident helper: it has the repository open, archives ahead of the server, and answers those who ask for it (`ask`).
//!
//! # What it may say at once
//! What it has archived itself is durable, so that a push of it is answered without any work, if the file is still the one
//! that was read: same inode, size and times of change. Everything else is done when it is asked for, by the same
//! functions as without a helper.
//!
//! # Two at once
//! A client that does the work itself takes over as the archive's writer, and the helper's next piece takes over from it: see
//! `log/fence` of the repository. Of the threads in here, one at a time works on a file; the others wait for it.
//!
//! # Crash
//! Nothing in here is durable but what is archived. A client whose helper dies before it answers does the work itself.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use estate::component::postgres::wal::{Cluster, Segment};
use jiff::Timestamp;
use repository::log::Error as LogError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;

use super::ask::{self, Answer, Carrier, PROTOCOL, Question};
use super::prefetch::{self, Given, Prefetch};
use super::sheet::{Filled, Sheets};
use super::{File as LogFile, How, Pushed, Wal, Wanted, Writers, ahead, parse};
use crate::ship::{Event, Shipped, Watch};
use crate::site::Site;
use crate::{Error, Result};

/// How many are answered at once; who comes beyond that does the work itself.
const ASKERS_MAX: usize = 32;
/// How long a question may take to arrive, and an answer to be taken.
const QUESTION_WITHIN: Duration = Duration::from_secs(10);
/// How long a file waits for another thread that archives the one before it.
const WAIT: Duration = Duration::from_secs(5);
/// How often is looked whether one is to stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How often is looked whether the server archives.
const PUSHES: Duration = Duration::from_millis(5);
/// How long after a failure is tried again to listen.
const PAUSE: Duration = Duration::from_secs(2);

/// The helper of one component.
pub(crate) struct Helper<'a> {
    pub(super) site: &'a Site,
    pub(super) name: String,
    /// The data directory.
    pub(super) data: PathBuf,
    pub(super) watch: Watch<'a>,
    pub(super) stop: &'a AtomicBool,
    pub(super) writers: Writers,
    pub(super) shipped: Mutex<Shipped>,
    files: Mutex<HashMap<String, Known>>,
    settled: Condvar,
    prefetch: Prefetch,
    /// For how long nobody may have asked.
    until_idle: Option<Duration>,
    asked: Mutex<Instant>,
    /// Somebody has asked to archive something.
    pushes: AtomicBool,
}

/// What is known of a file of the server's log.
enum Known {
    /// A thread archives it.
    Working,
    /// It is archived as it was then.
    Archived(Identity),
    /// It follows nothing that is archived: what is to be done about that is decided when the server asks for it.
    Left,
}

/// A file as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    file: (u64, u64),
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(found: &Metadata) -> Self {
        Self {
            file: (found.dev(), found.ino()),
            bytes: found.len(),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// A socket that is listened at, and gone when this is dropped.
struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Locked as long as the socket is ours.
    _lock: File,
}

impl<'a> Helper<'a> {
    pub fn new(
        site: &'a Site,
        name: &str,
        data: PathBuf,
        watch: Watch<'a>,
        stop: &'a AtomicBool,
        until_idle: Option<Duration>,
    ) -> Self {
        Self {
            site,
            name: name.to_owned(),
            data,
            watch,
            stop,
            writers: Writers::default(),
            shipped: Mutex::new(Shipped { component: name.to_owned(), ..Shipped::default() }),
            files: Mutex::default(),
            settled: Condvar::new(),
            prefetch: Prefetch::default(),
            until_idle,
            asked: Mutex::new(Instant::now()),
            pushes: AtomicBool::new(false),
        }
    }

    /// Helps until it is to stop.
    pub fn run(self) -> Shipped {
        let mut told = None;
        while !self.is_stopping() {
            match self.open() {
                Ok(socket) => {
                    let component = self.name.clone();
                    (self.watch)(&Event::Listening { component, socket: socket.path.clone() });
                    self.serve(&socket);
                }
                Err(error) => {
                    let why = error.to_string();
                    if told.as_ref() != Some(&why) {
                        let component = self.name.clone();
                        (self.watch)(&Event::Waiting { component, why: why.clone() });
                        told = Some(why);
                    }
                    if self.until_idle.is_some() {
                        // Whoever has started it does the work itself.
                        break;
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
        self.shipped.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.until_idle.is_some_and(|idle| self.asked().elapsed() > idle)
    }

    /// When somebody has asked last, or was answered.
    fn asked(&self) -> MutexGuard<'_, Instant> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wal(&self) -> Wal<'_> {
        Wal { repository: &self.site.repository, component: &self.name, data: &self.data }
    }

    /// Opens the socket, which only those can connect to who are answered, as far as its permissions can say that.
    fn open(&self) -> Result<Socket> {
        let path = ask::socket(&self.site.state, &self.name);
        let directory = path.parent().unwrap_or(&self.site.state);
        if let Some(above) = self.site.state.parent() {
            std::fs::create_dir_all(above).map_err(Error::io("make", above))?;
        }
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(Error::io("make", directory))?;
        crate::proving::let_through(&self.site.state, directory)?;
        let lock = path.with_extension("lock");
        // Only its owner may open it: whoever can may lock it.
        let mut options = File::options();
        let held =
            options.create(true).append(true).mode(0o600).open(&lock).map_err(Error::io("make", &lock))?;
        if rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
            let message = format!("another `lifeboat serve` helps the server of {} already", self.name);
            return Err(Error::refused(message, "stop one of them"));
        }
        // What is there is of one that was killed: the lock says that nobody listens.
        let _stale = std::fs::remove_file(&path);
        let listener =
            ask::at(&path, |path| UnixListener::bind(path)).map_err(Error::io("listen at", &path))?;
        let let_in = Error::io("let the server's user connect to", &path);
        self.let_in(&path).and_then(|()| listener.set_nonblocking(true)).map_err(let_in)?;
        Ok(Socket { path, listener, _lock: held })
    }

    fn let_in(&self, path: &Path) -> io::Result<()> {
        let own = rustix::process::geteuid();
        let owner = std::fs::metadata(&self.data).ok().map(|found| (found.uid(), found.gid()));
        let mode = match owner {
            Some((uid, gid)) if own.is_root() => {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
                0o600
            }
            Some((uid, _)) if uid == own.as_raw() => 0o600,
            // Who is answered is looked at when somebody asks.
            _ => 0o666,
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    }

    fn serve(&self, socket: &Socket) {
        let over = AtomicBool::new(false);
        let asking = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..prefetch::THREADS {
                scope.spawn(|| self.prefetch.run(&self.wal(), &over));
            }
            scope.spawn(|| self.archive_ahead());
            while !self.is_stopping() {
                let Some(stream) = next(&socket.listener) else { continue };
                if asking.load(Ordering::Relaxed) >= ASKERS_MAX {
                    continue;
                }
                asking.fetch_add(1, Ordering::Relaxed);
                *self.asked() = Instant::now();
                let asking = &asking;
                scope.spawn(move || {
                    // Whoever hung up has other means.
                    _ = self.answer(&stream);
                    *self.asked() = Instant::now();
                    asking.fetch_sub(1, Ordering::Relaxed);
                });
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    /// Archives ahead of the server; what is there for a while only, not before the server has begun: it may be there for one
    /// that recovers and is not to archive.
    fn archive_ahead(&self) {
        while self.until_idle.is_some() && !self.pushes.load(Ordering::Relaxed) {
            if self.is_stopping() {
                return;
            }
            std::thread::sleep(PUSHES);
        }
        ahead::run(self);
    }

    /// Answers the one question of a connection.
    fn answer(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(QUESTION_WITHIN))?;
        stream.set_write_timeout(Some(QUESTION_WITHIN))?;
        let owner = std::fs::metadata(&self.data).ok().map(|found| found.uid());
        if !ask::is_trusted(stream, owner)? {
            return Ok(());
        }
        let not_mine = |why: &str| Answer::NotMine { why: why.to_owned() };
        let mut carrier = BufReader::new(Carrier::new(stream));
        let question = match ask::receive::<Question>(&mut carrier) {
            Ok(question) => question,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(_) => return ask::send(stream, &not_mine("the question is of another version of Lifeboat")),
        };
        match question {
            Question::Push { protocol: PROTOCOL, name, device, inode, accepts_damage } => {
                let own = std::fs::metadata(&self.data);
                if !own.is_ok_and(|own| (own.dev(), own.ino()) == (device, inode)) {
                    return ask::send(stream, &not_mine("it is another server's"));
                }
                ask::send(stream, &self.push(&name, accepts_damage).map_or_else(failed, pushed))
            }
            Question::Fetch {
                protocol: PROTOCOL,
                name,
                system,
                major,
                segment_bytes,
                server_has_it,
                directory,
            } => {
                let cluster = Cluster { system, major, segment_bytes };
                let sheets = Sheets::of(carrier.get_mut().files.drain(..).collect(), directory);
                self.give(stream, &name, cluster, server_has_it, sheets)
            }
            _ => ask::send(stream, &not_mine("it is of another version of Lifeboat")),
        }
    }

    fn push(&self, name: &str, accepts_damage: bool) -> Result<Pushed> {
        parse(name)?;
        self.pushes.store(true, Ordering::Relaxed);
        let others = self.files().values().any(|known| matches!(known, Known::Working));
        let how = How { accepts_damage, wait: if others { WAIT } else { Duration::ZERO }, ..How::default() };
        self.archive(name, how, &mut Vec::new())
    }

    /// Archives a file of the server's log unless that is done; one thread at a time.
    pub(super) fn archive(&self, name: &str, how: How, buffer: &mut Vec<u8>) -> Result<Pushed> {
        let path = self.data.join("pg_wal").join(name);
        let before = std::fs::metadata(&path).map_err(Error::io("look at", &path))?;
        if self.is_archived(name, Identity::of(&before)) {
            return Ok(Pushed { was_there: true, along: 0, warning: None });
        }
        let archived = self.read_and_push(&path, how, buffer);
        let after = std::fs::metadata(&path).map(|found| Identity::of(&found));
        let is_same = after.is_ok_and(|after| after == Identity::of(&before));
        let mut files = self.files();
        match &archived {
            Ok(_) if is_same => _ = files.insert(name.to_owned(), Known::Archived(Identity::of(&before))),
            Err(Error::Log(LogError::Gap { .. })) if how.only_if_it_follows => {
                files.insert(name.to_owned(), Known::Left);
            }
            _ => _ = files.remove(name),
        }
        if archived.is_ok() {
            // What followed nothing may follow this.
            files.retain(|_, known| !matches!(known, Known::Left));
        }
        drop(files);
        self.settled.notify_all();
        let (pushed, segment) = archived?;
        self.count(&pushed, before.len(), segment.as_ref());
        Ok(pushed)
    }

    fn read_and_push(
        &self,
        path: &Path,
        how: How,
        buffer: &mut Vec<u8>,
    ) -> Result<(Pushed, Option<Segment>)> {
        let file = LogFile::read(path, std::mem::take(buffer))?;
        let pushed = self.wal().push_by(&self.writers, &file, how);
        *buffer = file.bytes;
        pushed
    }

    /// Whether a file is archived as it is now; if not, it is this thread's to be archived.
    fn is_archived(&self, name: &str, identity: Identity) -> bool {
        let mut files = self.files();
        loop {
            match files.get(name) {
                Some(Known::Archived(archived)) if *archived == identity => return true,
                Some(Known::Working) => {
                    files = self.settled.wait(files).unwrap_or_else(PoisonError::into_inner);
                }
                _ => {
                    files.insert(name.to_owned(), Known::Working);
                    return false;
                }
            }
        }
    }

    fn count(&self, pushed: &Pushed, bytes: u64, segment: Option<&Segment>) {
        let Some(segment) = segment.filter(|_| !pushed.was_there) else { return };
        let instant = |micros: i64| Timestamp::from_microsecond(micros).ok();
        let times = segment.seen.times;
        let (from, until) =
            (times.and_then(|times| instant(times.0)), times.and_then(|times| instant(times.1)));
        let mut shipped = self.shipped.lock().unwrap_or_else(PoisonError::into_inner);
        shipped.pieces += 1;
        shipped.bytes += bytes;
        shipped.until = shipped.until.max(until);
        drop(shipped);
        (self.watch)(&Event::Shipped {
            component: self.name.clone(),
            position: segment.end.0,
            until,
            bytes,
            delay_seconds: from.map(|from| Timestamp::now().duration_since(from).as_secs_f64()),
        });
    }

    /// How many of what is known are archived.
    pub(super) fn archived(&self) -> u64 {
        self.files().values().filter(|known| matches!(known, Known::Archived(_))).count() as u64
    }

    /// Whether anything is known of a file.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.files().contains_key(name)
    }

    /// Forgets files that the server does not wait for any more; `waiting` is in order.
    pub(super) fn forget_but(&self, waiting: &[String]) {
        self.files().retain(|name, known| {
            matches!(known, Known::Working)
                || waiting.binary_search_by(|waits| waits.as_str().cmp(name)).is_ok()
        });
    }

    fn files(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers with a file of the log of `cluster`.
    fn give(
        &self,
        mut stream: &UnixStream,
        name: &str,
        cluster: Cluster,
        server_has_it: bool,
        sheets: Sheets,
    ) -> io::Result<()> {
        let found = parse(name).and_then(|parsed| {
            self.prefetch.find(&self.wal(), Wanted { name, parsed, cluster, server_has_it }, sheets)
        });
        match found {
            Ok(Given::Filled(Filled { bytes, file, .. })) => {
                ask::send_with(stream, &Answer::Filled { bytes }, &[file])
            }
            Ok(Given::Pieces(pieces)) => {
                let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
                ask::send(stream, &Answer::Found { bytes })?;
                pieces.iter().try_for_each(|piece| stream.write_all(piece))
            }
            Ok(Given::Absent(why)) => ask::send(stream, &Answer::Absent { why }),
            Err(error) => ask::send(stream, &failed(error)),
        }
    }
}

fn pushed(Pushed { was_there, along, warning }: Pushed) -> Answer {
    Answer::Pushed { was_there, along, warning }
}

fn failed(error: Error) -> Answer {
    match error {
        Error::Refused { message, hint } => Answer::Failed { why: message, hint: Some(hint) },
        other => Answer::Failed { why: other.to_string(), hint: None },
    }
}

/// The next connection, if there is one soon.
fn next(listener: &UnixListener) -> Option<UnixStream> {
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    let count = rustix::event::poll(&mut ready, Some(&TICK)).ok()?;
    if count == 0 {
        return None;
    }
    let accepted = listener.accept();
    if accepted.is_err() {
        // Out of descriptors, say: not at once again.
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(accepted.ok()?.0)
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}
