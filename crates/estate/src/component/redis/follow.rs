//! Following the append-only files of a live server: whole commands out, a second at a time, what is archived in.
//!
//! What is not archived is kept by the server's own files, which stay open here: a rewrite may remove them, and they
//! are read to their ends all the same. Then the lineage is over, and the next one begins with the new base.
//!
//! # Continuity
//! It is proven by the bytes themselves. A follower goes on behind the last archived piece only where the files hold that very
//! piece; and whenever a file is another one than before (a restart, a restore), it must end, up to what is
//! archived, as the old one did.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use jiff::Timestamp;
use place::Place;

use super::super::{Cancel, Follow, LogPiece, RedisOptions};
use super::aof::Scan;
use super::layout::Layout;
use super::live::Held;
use super::server::{self, Server};
use super::within;
use crate::{Error, Result};

/// A piece has about so many bytes at most, unless a single command has more.
const PIECE_BYTES: u64 = 1 << 20;
/// How much of what is archived is compared when a file has become another one.
const COMPARED_BYTES: u64 = 64 << 10;

/// Follows one server's files.
pub(super) struct Follower {
    options: RedisOptions,
    place: Place,
    directory: PathBuf,
    name: String,
    held: Held,
    began: Option<String>,
    /// How far the files were read, and in which second that was.
    scan: Scan,
    acknowledged: u64,
    /// The latest instant in what is acknowledged.
    until: Option<Timestamp>,
    piece: Option<LogPiece>,
    looked: Timestamp,
    /// The list names another base by now.
    is_over: bool,
}

/// Where a server that may be followed keeps its append-only files: the directory and what their names begin with.
pub(super) fn files_of(server: &Server, options: &RedisOptions) -> Result<(PathBuf, String)> {
    let bad = |why: &str| Err(Error::BadSource { path: options.data.clone(), why: why.to_owned() });
    if !server.address.is_here() {
        return bad("its server is on another machine, and its files are needed: let Lifeboat run there");
    }
    if server.appends_time() == Some(false) {
        return bad(
            "its append-only files hold no times: set `aof-timestamp-enabled yes` in its configuration and by \
             `redis-cli CONFIG SET`",
        );
    }
    match server.layout() {
        Ok(Layout::Parts(directory, name)) => Ok((options.data.join(directory), name)),
        Ok(_) => bad("to be continuous it must append, and be version 7 or later: set `appendonly yes` and \
             `aof-timestamp-enabled yes`"),
        Err(why) => bad(&why),
    }
}

impl Follower {
    /// Begins behind `last` where the files hold it, at the beginning of the lineage otherwise.
    pub(super) fn begin(options: &RedisOptions, place: &Place, last: Option<&LogPiece>) -> Result<Self> {
        let mut server = Server::reach(options, place, &Cancel::default())?;
        within(place, || server.may_be_dumped(&options.data))??;
        let (directory, name) = files_of(&server, options)?;
        let held = within(place, || Held::open(&directory, &name))??;
        let looked = Timestamp::now();
        let (mut scan, mut until, mut began) = (Scan::default(), None, None);
        match last {
            Some(last) if last.lineage == held.lineage => {
                let holds = within(place, || held.holds(last))??;
                if !holds {
                    // The same base and another continuation: what is appended from now on must get another name.
                    let asked = server.connection.ask(&["BGREWRITEAOF"]);
                    let asked =
                        asked.map_or_else(|failure| failure.to_string(), |_| "it has begun".to_owned());
                    let why = format!(
                        "its files do not hold what is archived of them, as after a crash or a restore; a rewrite begins \
                         anew ({asked})"
                    );
                    return Err(Error::Broken { path: directory, why });
                }
                scan = Scan::from(last.last);
                until = last.until;
            }
            Some(_) => began = Some("the server has written a new base".to_owned()),
            None => began = Some("nothing is archived yet".to_owned()),
        }
        let acknowledged = scan.position;
        let (options, place) = (options.clone(), place.clone());
        let is_over = false;
        Ok(Self {
            options,
            place,
            directory,
            name,
            held,
            began,
            scan,
            acknowledged,
            until,
            piece: None,
            looked,
            is_over,
        })
    }

    fn broken(&self, why: &str) -> Error {
        Error::Broken { path: self.directory.clone(), why: why.to_owned() }
    }

    /// Opens the files anew if they are others than before.
    fn renew(&mut self) -> Result<()> {
        if self.is_over || !within(&self.place, || self.held.is_old())?? {
            return Ok(());
        }
        let renewed = within(&self.place, || Held::open(&self.directory, &self.name))??;
        if renewed.lineage != self.held.lineage {
            self.is_over = true;
            return Ok(());
        }
        let from = self.acknowledged.saturating_sub(COMPARED_BYTES);
        let same = within(&self.place, || {
            let old = self.held.bytes(from, self.acknowledged)?;
            // One that is shorter is not the continuation.
            Ok::<_, Error>(renewed.bytes(from, self.acknowledged).is_ok_and(|new| new == old))
        })??;
        if !same {
            return Err(self.broken("its files do not hold any more what is archived of them"));
        }
        self.held = renewed;
        // What was read and not archived may be something else by now.
        let time = self.scan.time.filter(|time| time.at < self.acknowledged);
        self.scan = Scan { time, ..Scan::from(self.acknowledged) };
        self.piece = None;
        Ok(())
    }

    /// How much of the log from what is acknowledged on is the next piece: whole commands.
    fn next_end(&self) -> Result<Option<u64>> {
        let mut most = PIECE_BYTES;
        loop {
            let end = self.scan.boundary.min(self.acknowledged.saturating_add(most));
            if end == self.acknowledged {
                return Ok(None);
            }
            let mut scan = Scan::from(self.acknowledged);
            let bytes = self.held.bytes(self.acknowledged, end)?;
            scan.feed(&bytes, None).map_err(|torn| self.broken(&torn.to_string()))?;
            if scan.boundary > self.acknowledged {
                return Ok(Some(scan.boundary));
            }
            most = most.saturating_mul(2);
        }
    }
}

impl Follow for Follower {
    fn lineage(&self) -> &str {
        &self.held.lineage
    }

    fn began(&self) -> Option<&str> {
        self.began.as_deref()
    }

    fn look(&mut self) -> Result<bool> {
        let now = Timestamp::now();
        self.renew()?;
        let (held, scan) = (&self.held, &mut self.scan);
        within(&self.place, || held.read_on(scan))??;
        self.looked = now;
        if self.is_over && self.scan.boundary == self.acknowledged {
            return Err(self.broken("the server has written a new base, and this one is archived to its end"));
        }
        Ok(self.scan.boundary > self.acknowledged)
    }

    fn piece(&mut self) -> Result<Option<&LogPiece>> {
        if self.piece.is_none()
            && let Some(last) = within(&self.place, || self.next_end())??
        {
            let first = self.acknowledged;
            let bytes = within(&self.place, || self.held.bytes(first, last))??;
            let lineage = self.held.lineage.clone();
            let (from, until) = (self.until, Some(self.looked));
            self.piece = Some(LogPiece { lineage, first, last, from, until, name: None, bytes });
        }
        Ok(self.piece.as_ref())
    }

    fn acknowledge(&mut self, position: u64) {
        if position > self.acknowledged {
            self.acknowledged = position;
            self.until = self.piece.take().and_then(|piece| piece.until);
        }
    }

    fn tend(&mut self) -> Result<()> {
        // A server that was told to append no more leaves its files as they are.
        let server = Server::reach(&self.options, &self.place, &Cancel::default())?;
        if server.info("aof_enabled") != "1" && server.info("loading") != "1" {
            return Err(self.broken("its server does not append any more: set `appendonly yes`"));
        }
        if server.info("aof_last_write_status") == "err" {
            let address = server::address(&self.options).to_string();
            let why = "it could not write to its append-only file: its disk may be full".to_owned();
            return Err(Error::Server { action: "follow", server: address, why });
        }
        Ok(())
    }

    fn behind_bytes(&self) -> u64 {
        self.scan.position - self.acknowledged
    }

    fn seen(&self) -> (u64, Timestamp) {
        (self.scan.boundary, self.looked)
    }
}

impl Held {
    /// Tells whether the files hold this piece where it says it is.
    fn holds(&self, piece: &LogPiece) -> Result<bool> {
        let mut length = 0;
        for file in &self.appended {
            length += file.metadata().map_err(Error::io("look at", &PathBuf::from(&self.lineage)))?.size();
        }
        Ok(piece.last <= length && self.bytes(piece.first, piece.last)? == piece.bytes)
    }
}
