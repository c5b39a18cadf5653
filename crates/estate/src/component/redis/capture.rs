//! The capture: a dump into scratch, read whole and checked, with the configuration that goes with it.
//!
//! The dump is taken as fast as the server gives it, so that its fork lives as short as possible and no slow repository
//! makes it wait. It needs as much space in scratch as it is long.
//!
//! # What is measured when
//! Keys are counted in the dump itself: they are of its very moment. The facts of the plan are asked of a private server
//! that has loaded the dump, so that they are, too; that needs as much memory as the data for that long. The
//! server itself is asked for nothing but its state. The instant is the one at which the server began to write the dump:
//! what it acknowledged before is in there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use jiff::{Timestamp, ToSpan};
use place::Place;
use sha2::{Digest, Sha256};

use super::super::whole::{Unread, Whole};
use super::super::{
    Cancel, Capture, CaptureRequest, Content, Finish, Finished, LogBase, Member, Open, PointFacts, Problem,
    RedisOptions, StreamMeta, Tally,
};
use super::boot::{Boot, No, Programs};
use super::connection::{Answer, Failure};
use super::layout::{Files, Layout};
use super::rdb::{self, Dump};
use super::server::{self, Server};
use super::{appended, detail, facts, saved, sync};
use crate::facts::{Facts, Value};
use crate::{Error, Result};

/// The longest configuration file that is kept.
const CONFIG_BYTES_MAX: u64 = 64 << 20;
/// Where the settings of the running server lie in a snapshot, for people.
pub const SETTINGS: &str = "/lifeboat/redis/settings";

/// What was taken of a server, in scratch.
pub(super) struct Taken {
    /// The moment that it represents.
    pub instant: Timestamp,
    /// Its files, by their paths in the data directory.
    pub files: Vec<(PathBuf, u64)>,
    /// Short texts that go with them.
    pub texts: Vec<(PathBuf, String)>,
    /// What it is made of, in bytes.
    pub bytes: u64,
    /// The keys of each database.
    pub keys: BTreeMap<u64, u64>,
    /// The facts of the plan.
    pub facts: BTreeMap<String, Value>,
    pub details: Vec<(String, String)>,
    pub log: Option<LogBase>,
}

/// What a capture works with.
pub(super) struct Work<'a> {
    pub options: &'a RedisOptions,
    pub place: &'a Place,
    pub cancel: &'a Cancel,
    pub layout: Layout,
    /// The server's version, for people and to find its programs.
    pub version: String,
    /// How many databases the server says that it has.
    pub databases: Option<u64>,
    /// A directory of scratch in which files lie as in the data directory.
    pub data: PathBuf,
    /// One beside it for a private server, which does not exist yet.
    pub private: PathBuf,
}

/// Begins a capture: everything but the reading of its members is done when this returns.
pub(super) fn begin(options: &RedisOptions, place: &Place, request: &CaptureRequest<'_>) -> Result<Capture> {
    let server = Server::reach(options, place, &request.cancel)?;
    within(place, || server.may_be_dumped(&options.data))??;
    let layout = server.layout().map_err(|why| Error::BadSource { path: options.data.clone(), why })?;
    let config = within(place, || read_config(options, server.cluster_file()))??;
    let owner = within(place, || owner(&options.data, server.address.is_here()))?;
    let settings = server.settings_text();
    let address = server.address.to_string();
    let problems = server
        .complaints()
        .into_iter()
        .map(|(what, hint)| Problem { path: PathBuf::from(&address), what: format!("{what}: {hint}") });
    let problems = problems.collect();
    let scratch = within(place, || Scratch::new(request, place))??;
    let work = Work {
        options,
        place,
        cancel: &request.cancel,
        version: server.version(),
        databases: server.databases(),
        data: scratch.path.join("data"),
        private: scratch.path.join("private"),
        layout,
    };
    let taken = if options.continuous { appended::take(&work, &server)? } else { dump(&work, server)? };

    let mut point = PointFacts {
        kind: super::KIND.to_owned(),
        engine: super::engine(&work.version),
        instant: taken.instant,
        facts: Facts { declared: taken.facts, automatic: facts::of_keys(&taken.keys) },
        queries: options.facts.iter().cloned().collect(),
        // What holds no key holds nothing, however long it is.
        bytes: Some(taken.bytes),
        roots: Vec::new(),
        identity: None,
        token: None,
        log: taken.log,
        details: taken.details.into_iter().collect(),
    };
    point.details.insert(detail::VERSION.to_owned(), work.version.clone());
    point.details.insert(detail::LAYOUT.to_owned(), serde_json::to_string(&work.layout).unwrap_or_default());
    if let Some((uid, gid, mode)) = owner {
        point.details.insert(detail::OWNER.to_owned(), format!("{uid}:{gid}:{mode:o}"));
    }

    let unread = Unread::default();
    let meta = StreamMeta {
        mode: 0o640,
        uid: owner.map_or_else(|| rustix::process::geteuid().as_raw(), |(uid, ..)| uid),
        gid: owner.map_or_else(|| rustix::process::getegid().as_raw(), |(_, gid, _)| gid),
        mtime: point.instant,
    };
    let mut members = Vec::new();
    for (name, bytes) in taken.files {
        let path = work.data.join(&name);
        let stream = within(place, || File::open(&path).map_err(Error::io("read", &path)))??;
        members.push(member(options.data.join(name), meta.clone(), stream, bytes, &unread));
    }
    for (name, text) in taken.texts {
        members.push(text_member(options.data.join(name), meta.clone(), text.into_bytes(), &unread));
    }
    if let Some(settings) = settings {
        let meta = StreamMeta { mode: 0o600, ..meta };
        members.push(text_member(PathBuf::from(SETTINGS), meta, settings.into_bytes(), &unread));
    }
    for Config { path, meta, bytes } in config {
        // What lies in the data directory comes back with it.
        if !path.starts_with(&options.data) {
            point.roots.push(path.clone());
        }
        let digest = super::hex(&Sha256::digest(&bytes));
        point.details.insert(format!("{}{}", detail::CONFIG, path.display()), digest);
        members.push(text_member(path, meta, bytes, &unread));
    }
    // Last, as it is the one that brings the service down when it is missing.
    point.roots.push(options.data.clone());
    let finish = Box::new(Ending { unread, path: options.data.clone(), problems, _scratch: scratch });
    Ok(Capture { members, point, finish })
}

/// Takes a dump as a replica does.
fn dump(work: &Work<'_>, mut server: Server) -> Result<Taken> {
    let clock = Clock::of(&mut server);
    let name = work.layout.dump();
    let file = within(work.place, || work.file(&name))??;
    let address = server.address.clone();
    let dump = match sync::begin(server.connection) {
        Ok(incoming) => {
            let mut tee = Tee(incoming, file);
            rdb::read(&mut tee).map_err(|bad| match tee.0.is_interrupted() {
                true => Error::Interrupted,
                false => {
                    Error::Server { action: "take a dump", server: address.to_string(), why: bad.to_string() }
                }
            })?
        }
        Err(Failure::Server(said)) if address.is_here() && saved::is_refusal(&said) => {
            saved::take(work, file, &said)?
        }
        Err(failure) => return Err(server::failed("begin a dump", &address)(failure)),
    };
    let databases = work.databases.max(dump.keys.keys().last().map(|last| last + 1)).unwrap_or_default();
    let (mut keys, mut facts) = (dump.keys.clone(), BTreeMap::new());
    if !work.options.facts.is_empty() || dump.uncounted.is_some() {
        (keys, facts) = work.measure(&work.layout.files(), databases)?;
    }
    let bytes = match dump.keys_in_all() {
        0 if dump.uncounted.is_none() => 0,
        _ => dump.bytes - dump.bytes_of_fields,
    };
    Ok(Taken {
        instant: clock.instant(&dump),
        details: vec![
            (format!("{}{}", detail::FILE, name.display()), dump.sha256),
            (detail::DATABASES.to_owned(), databases.to_string()),
        ],
        files: vec![(name, dump.bytes)],
        texts: work.layout.list().into_iter().collect(),
        bytes,
        keys,
        facts,
        log: None,
    })
}

/// The keys of each database, and the facts of the plan.
type Measured = (BTreeMap<u64, u64>, BTreeMap<String, Value>);

impl Work<'_> {
    /// Makes a file in scratch that nobody else may read.
    pub(super) fn file(&self, name: &Path) -> Result<File> {
        let path = self.data.join(name);
        let above = path.parent().unwrap_or(&self.data);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(above).map_err(Error::io("create", above))?;
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600).open(&path).map_err(Error::io("create", &path))
    }

    /// What the files hold, asked of a private server.
    pub(super) fn measure(&self, files: &Files, databases: u64) -> Result<Measured> {
        let failed = |why: String| Error::Query { what: "the facts of the dump".to_owned(), why };
        let given = self.options.binaries.as_deref();
        let programs = within(self.place, || Programs::find(given, &self.version))?.map_err(failed)?;
        let boot = Boot {
            place: self.place,
            programs: &programs,
            data: &self.data,
            files,
            layout: &self.layout,
            work: self.private.clone(),
            databases,
            timeout: self.options.proof_timeout,
            cancel: self.cancel,
        };
        let private = boot.start()?.map_err(|no| match no {
            No::Wrong(why) | No::Untried(why) => failed(format!("a private server does not load it: {why}")),
        })?;
        let ask = |failure: Failure| match failure {
            Failure::Interrupted => Error::Interrupted,
            failure => failed(failure.to_string()),
        };
        let mut connection = private.connect().map_err(ask)?;
        let mut facts = BTreeMap::new();
        for (name, query) in &self.options.facts {
            let value = facts::ask(&mut connection, query)
                .map_err(|why| Error::Query { what: format!("fact {name}"), why })?;
            facts.insert(name.clone(), value);
        }
        Ok((facts::count(&mut connection).map_err(ask)?, facts))
    }
}

/// Writes into a file what is read.
pub(super) struct Tee<R>(pub R, pub File);

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        let full = |error: io::Error| {
            io::Error::new(error.kind(), format!("failed to write it to scratch: {error}"))
        };
        self.1.write_all(&buffer[..count]).map_err(full)?;
        Ok(count)
    }
}

/// The server's clock beside ours, so that the dump's time can be told by ours.
struct Clock {
    ours: Timestamp,
    theirs: Option<i64>,
}

impl Clock {
    fn of(server: &mut Server) -> Self {
        let ours = Timestamp::now();
        let theirs = match server.connection.ask(&["TIME"]) {
            Ok(Answer::List(list)) => list.first().and_then(|first| first.text()?.parse().ok()),
            _ => None,
        };
        Self { ours, theirs }
    }

    /// When the dump was begun: everything acknowledged before is in it.
    ///
    /// A server that already writes a dump for a replica gives the same one to us: then it is older than our question.
    fn instant(&self, dump: &Dump) -> Timestamp {
        let made = dump.fields.get("ctime").and_then(|made| made.parse::<i64>().ok());
        match (self.theirs, made) {
            (Some(theirs), Some(made)) if made < theirs => {
                self.ours.checked_sub((theirs - made).seconds()).unwrap_or(self.ours)
            }
            _ => self.ours,
        }
    }
}

/// A file of configuration.
struct Config {
    path: PathBuf,
    meta: StreamMeta,
    bytes: Vec<u8>,
}

fn read_config(options: &RedisOptions, cluster: Option<PathBuf>) -> Result<Vec<Config>> {
    let cluster = cluster.map(|name| options.data.join(name)).filter(|path| path.exists());
    let read = |path: &PathBuf| {
        let found = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing {
                path: path.clone(),
                hint: "correct `config:` in the plan, or bring it back".to_owned(),
            },
            _ => Error::io("look at", path)(error),
        })?;
        if !found.is_file() || found.len() > CONFIG_BYTES_MAX {
            let why = "it is no file of at most 64 MiB".to_owned();
            return Err(Error::BadSource { path: path.clone(), why });
        }
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        Ok(Config { path: path.clone(), meta: StreamMeta::of(&found), bytes })
    };
    options.config.iter().chain(&cluster).map(read).collect()
}

/// Who owns the data directory, and its mode; nothing when the server is on another machine.
fn owner(data: &Path, is_here: bool) -> Option<(u32, u32, u32)> {
    let found = fs::metadata(data).ok().filter(|_| is_here)?;
    Some((found.uid(), found.gid(), found.mode() & 0o7777))
}

fn member(
    path: PathBuf,
    meta: StreamMeta,
    from: impl Read + Send + 'static,
    bytes: u64,
    unread: &Unread,
) -> Member {
    let reader = Whole::new(from, bytes, unread);
    let open: Open = Box::new(move || Ok(Box::new(reader) as Box<dyn Read + Send>));
    let content = Content::Stream { meta, size: Some(bytes), block_bytes: None, open, origin: None };
    Member { path_in_snapshot: path, content }
}

fn text_member(path: PathBuf, meta: StreamMeta, bytes: Vec<u8>, unread: &Unread) -> Member {
    let length = bytes.len() as u64;
    member(path, meta, io::Cursor::new(bytes), length, unread)
}

fn within<T: Send>(place: &Place, work: impl FnOnce() -> T + Send) -> Result<T> {
    super::within(place, work)
}

/// A directory of the capture's own, gone with it.
struct Scratch {
    path: PathBuf,
    place: Place,
}

impl Scratch {
    fn new(request: &CaptureRequest<'_>, place: &Place) -> Result<Self> {
        let path = request.scratch.join(format!("redis-{}", request.run));
        crate::swap::remove(&path)?;
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&path).map_err(Error::io("create", &path))?;
        Ok(Self { path, place: place.clone() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is the caller's scratch directory, which it removes whole.
        _ = self.place.within(|| fs::remove_dir_all(&self.path));
    }
}

/// The end of a capture: nothing is kept, finished or not.
struct Ending {
    unread: Unread,
    path: PathBuf,
    problems: Vec<Problem>,
    _scratch: Scratch,
}

impl Finish for Ending {
    fn finish(self: Box<Self>, _stored: Option<&Tally>) -> Result<Finished> {
        if self.unread.load(Ordering::Acquire) > 0 {
            let why = "was not read to its end".to_owned();
            return Err(Error::BadSource { path: self.path.clone(), why });
        }
        Ok(Finished { problems: self.problems, ..Finished::default() })
    }
}
