//! Following the append-only files of a live server: whole commands out, what is archived in.
//!
//! What is not archived is kept by the server's own files, which stay open here: a rewrite may remove them, and they
//! are read to their ends all the same. A rewrite is no interruption: the stream goes on in the next file, as `live` says.
//!
//! # Continuity
//! It is proven by the bytes themselves. A follower goes on behind the last archived piece only where the files hold that very
//! piece, at the place that the last follower wrote down (`standing`); and before each further piece it looks whether the
//! bytes before it are still those that it archived.
//!
//! # Instants
//! The server says in which second a command was done. A piece is said to reach to the end of the second of its last
//! command, or to the moment at which it was read if that is earlier: nothing in it is later, and nothing behind it is of
//! an earlier second.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use place::Place;

use super::super::{Follow, LogPiece, RedisOptions};
use super::aof::Scan;
use super::layout::Layout;
use super::live::Held;
use super::server::{self, Server};
use super::standing::{self, Standing};
use super::{appended, within};
use crate::{Error, Result};

/// A piece has about so many bytes at most, unless a single command has more.
const PIECE_BYTES: u64 = 1 << 20;
/// How much of what is archived is compared each time before more is.
const COMPARED_BYTES: usize = 4 << 10;
/// How often the server is asked whether it still appends.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Follows one server's files.
pub(super) struct Follower {
    options: RedisOptions,
    place: Place,
    directory: PathBuf,
    name: String,
    lineage: String,
    began: Option<String>,
    held: Held,
    /// How far the files were read.
    scan: Scan,
    acknowledged: u64,
    /// The bytes before that.
    tail: Vec<u8>,
    /// The second of the last command that is acknowledged.
    second: Option<i64>,
    piece: Option<Cut>,
    /// Before and after the last look.
    looked: [Timestamp; 2],
    /// What is not acknowledged was not there yet at this instant.
    since: Timestamp,
    /// The server has begun another stream.
    is_over: bool,
    asked: Instant,
    _lock: File,
}

/// The next piece.
struct Cut {
    piece: LogPiece,
    /// The second of its last command.
    second: Option<i64>,
}

/// Where a server that may be followed keeps its append-only files: the directory and what their names begin with.
pub(super) fn files_of(server: &Server, options: &RedisOptions) -> Result<(PathBuf, String)> {
    let bad = |why: &str| Err(Error::BadSource { path: options.data.clone(), why: why.to_owned() });
    if !server.address.is_here() {
        return bad("its server is on another machine, and its files are needed: let Lifeboat run there");
    }
    let (directory, name) = match server.layout() {
        Ok(Layout::Parts(directory, name)) => (options.data.join(directory), name),
        Ok(_) => {
            return bad(
                "to be continuous it must append, and be version 7 or later: set `appendonly yes` and \
                 `aof-timestamp-enabled yes`",
            );
        }
        Err(why) => return bad(&why),
    };
    match server.appends_time() {
        Some(true) => Ok((directory, name)),
        Some(false) => bad(
            "its append-only files hold no times: set `aof-timestamp-enabled yes` in its configuration and by \
             `redis-cli CONFIG SET`",
        ),
        None => bad("it does not tell its settings: allow the user `+config|get`"),
    }
}

/// Where following begins.
struct Start {
    lineage: String,
    began: Option<String>,
    held: Held,
    position: u64,
    second: Option<i64>,
    tail: Vec<u8>,
}

impl Start {
    /// Finds out whether the lineage of `last` can be gone on with in these files, and begins a new one otherwise.
    fn find(held: Held, standing: Option<&Standing>, last: Option<&LogPiece>) -> Result<Self> {
        let why = match (last, standing) {
            (None, _) => "nothing is archived yet",
            (Some(last), Some(standing)) if standing.lineage == last.lineage => {
                match standing.beginning(&held) {
                    None => "the server has begun new files while nobody followed them",
                    Some(first) => {
                        let held = held.begin_at(first);
                        if held.ends_with(last) {
                            return Ok(Self::behind(held, last));
                        }
                        return Self::anew(
                            held,
                            "its files do not hold what is archived of them, as after a crash or a restore",
                        );
                    }
                }
            }
            (Some(_), _) => "nobody has followed these files before",
        };
        Self::anew(held, why)
    }

    fn behind(held: Held, last: &LogPiece) -> Self {
        Self {
            lineage: last.lineage.clone(),
            began: None,
            held,
            position: last.last,
            second: last.until.map(Timestamp::as_second),
            tail: tail(&last.bytes),
        }
    }

    /// Begins at the present second: what is older is in every base that is yet to be made.
    fn anew(held: Held, why: &str) -> Result<Self> {
        let first = held.appended.first().map_or(0, |kept| kept.at);
        let mut scan = Scan::from(first);
        let now = Timestamp::now();
        held.read_on(&mut scan)?;
        let (position, _) = appended::cut(&scan, now);
        let (lineage, began) = (standing::new_lineage(now), Some(why.to_owned()));
        Ok(Self { lineage, began, held, position, second: None, tail: Vec::new() })
    }
}

impl Follower {
    /// Begins behind `last` where the files hold it, and a new lineage otherwise.
    pub(super) fn begin(options: &RedisOptions, place: &Place, last: Option<&LogPiece>) -> Result<Self> {
        let server = Server::ask(options, place)?;
        within(place, || server.may_be_dumped(&options.data))??;
        let (directory, name) = files_of(&server, options)?;
        let now = Timestamp::now();
        let (lock, start) = within(place, || {
            let lock = standing::lock(&directory, &name)?;
            let held = Held::open(&directory, &name)?;
            let start = Start::find(held, Standing::read(&directory, &name).as_ref(), last)?;
            Standing::of(&start.held, &start.lineage).write(&directory, &name)?;
            Ok::<_, Error>((lock, start))
        })??;
        let since = last.filter(|_| start.began.is_none()).and_then(|last| last.until).unwrap_or(now);
        Ok(Self {
            options: options.clone(),
            place: place.clone(),
            directory,
            name,
            lineage: start.lineage,
            began: start.began,
            held: start.held,
            scan: Scan::from(start.position),
            acknowledged: start.position,
            tail: start.tail,
            second: start.second,
            piece: None,
            looked: [now, now],
            since,
            is_over: false,
            asked: Instant::now(),
            _lock: lock,
        })
    }

    fn broken(&self, why: &str) -> Error {
        Error::Broken { path: self.directory.clone(), why: why.to_owned() }
    }

    /// Opens the files anew if they are others than before.
    fn renew(&mut self) -> Result<()> {
        // A list that cannot be read has gone with its directory; what is open is archived to its end.
        if self.is_over || self.held.is_old().is_ok_and(|is_old| !is_old) {
            return Ok(());
        }
        match self.held.catch_up(&self.directory, &self.name, self.acknowledged) {
            Ok(true) => Standing::of(&self.held, &self.lineage).write(&self.directory, &self.name),
            Ok(false) | Err(Error::Missing { .. }) => {
                self.is_over = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads on; once more from what is archived on if that fails: a server that starts cuts off what is no whole command.
    fn read_on(&mut self) -> Result<()> {
        let boundary = self.scan.boundary;
        if self.held.read_on(&mut self.scan).is_ok() {
            return Ok(());
        }
        self.scan = Scan::from(self.acknowledged);
        let read = self.held.read_on(&mut self.scan);
        if self.scan.boundary < boundary {
            return Err(self.broken("its files do not hold any more what was read of them"));
        }
        read.map(drop)
    }

    /// Cuts the next piece: whole commands.
    fn cut(&self) -> Result<Option<Cut>> {
        let first = self.acknowledged;
        if self.scan.boundary == first {
            return Ok(None);
        }
        let before = self.held.bytes(first.saturating_sub(self.tail.len() as u64), first);
        if before.is_ok_and(|before| before != self.tail) {
            return Err(self.broken("its files do not hold any more what is archived of them"));
        }
        let mut most = PIECE_BYTES;
        loop {
            let end = self.scan.boundary.min(first.saturating_add(most));
            let mut bytes = self.held.bytes(first, end)?;
            let mut scan = Scan::from(first);
            scan.feed(&bytes, None).map_err(|torn| self.broken(&torn.to_string()))?;
            if scan.boundary == first {
                most = most.saturating_mul(2);
                continue;
            }
            bytes.truncate((scan.boundary - first) as usize);
            let second = scan.second.or(self.second);
            let piece = LogPiece {
                lineage: self.lineage.clone(),
                first,
                last: scan.boundary,
                from: Some(self.since),
                until: Some(self.until(second)),
                name: None,
                bytes,
            };
            return Ok(Some(Cut { piece, second }));
        }
    }

    /// Up to when a piece reaches whose last command is of this second.
    fn until(&self, second: Option<i64>) -> Timestamp {
        let end = second.and_then(|second| Timestamp::new(second, 999_999_999).ok());
        end.map_or(self.looked[1], |end| end.min(self.looked[1]))
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
        let place = self.place.clone();
        let before = Timestamp::now();
        let seen = self.scan.boundary;
        within(&place, || self.renew().and_then(|()| self.read_on()))??;
        if self.scan.boundary > self.acknowledged && seen == self.acknowledged {
            self.since = self.looked[0];
        }
        self.looked = [before, Timestamp::now()];
        if self.is_over && self.scan.boundary == self.acknowledged {
            return Err(self.broken(
                "the server has begun other files, and these are archived to their end: its directory was replaced, or it did \
                 not append for a while",
            ));
        }
        Ok(self.scan.boundary > self.acknowledged)
    }

    fn piece(&mut self) -> Result<Option<&LogPiece>> {
        if self.piece.is_none() {
            self.piece = within(&self.place, || self.cut())??;
        }
        Ok(self.piece.as_ref().map(|cut| &cut.piece))
    }

    fn acknowledge(&mut self, position: u64) {
        let Some(cut) = self.piece.take_if(|cut| cut.piece.last <= position) else { return };
        self.acknowledged = cut.piece.last;
        self.second = cut.second;
        self.tail = tail(&cut.piece.bytes);
    }

    fn tend(&mut self) -> Result<()> {
        if self.asked.elapsed() < ASK_EVERY {
            return Ok(());
        }
        self.asked = Instant::now();
        // A server that was told to append no more leaves its files as they are. One that does not answer appends nothing.
        let Ok(server) = Server::ask(&self.options, &self.place) else { return Ok(()) };
        if server.info("aof_enabled") != "1" && server.info("loading") != "1" {
            return Err(self.broken("its server does not append any more: set `appendonly yes`"));
        }
        if server.appends_time() != Some(true) {
            return Err(self.broken("its server says no times any more: set `aof-timestamp-enabled yes`"));
        }
        if server.info("aof_last_write_status") == "err" {
            let address = server::address(&self.options).to_string();
            let why = "it could not write to its append-only file: its disk may be full".to_owned();
            return Err(Error::Server { action: "follow", server: address, why });
        }
        Ok(())
    }

    fn behind_bytes(&self) -> u64 {
        self.scan.boundary - self.acknowledged
    }

    fn seen(&self) -> (u64, Timestamp) {
        (self.scan.boundary, self.looked[0])
    }
}

impl Held {
    /// Tells whether the files hold what they have of this piece, and go as far as it does.
    fn ends_with(&self, piece: &LogPiece) -> bool {
        let first = self.appended.first().map_or(0, |kept| kept.at);
        let missing = usize::try_from(first.saturating_sub(piece.first)).unwrap_or(usize::MAX);
        let expected = piece.bytes.get(missing..);
        let found = self.bytes(first.max(piece.first), piece.last);
        expected.zip(found.ok()).is_some_and(|(expected, found)| expected == found)
    }
}

fn tail(bytes: &[u8]) -> Vec<u8> {
    bytes[bytes.len().saturating_sub(COMPARED_BYTES)..].to_vec()
}
