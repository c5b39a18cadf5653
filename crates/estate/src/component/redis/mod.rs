//! The driver of Redis and Valkey servers: a dump taken as a replica takes it, from this machine or another.
//!
//! # Consistency
//! The server forks, and what it sends is its data of that moment, all databases of it; writers go on meanwhile. The dump is
//! read whole before it counts: its checksum, and how many keys it holds.
//!
//! A continuous server is another matter: its base is its own append-only files (`appended`), and what it appends goes into
//! the log (`follow`), so that it can be brought to any second (`replay`). For that Lifeboat must see its disk.
//!
//! # On the way back
//! The whole data directory is replaced, so that there is only one thing that a server could load: `layout` says where
//! the server that was backed up looks for its data, which for one with `appendonly yes` is not the dump's own place.
//! A proof loads it with a private server (`boot`) in the same layout.
//!
//! # Where things live
//! `connection`: the wire. `server`: the running server. `sync`: the dump as it comes; `saved`: or as
//! it is saved. `rdb`, `checksum`: its format.
//! `layout`: where a server looks for it. `aof`, `live`, `standing`: append-only files, how those of a running server are held still, and where they stand in the
//! log. `capture`, `boot`, `facts`, `proof`: what their names say.
//!
//! The rules and where they come from: Redis' `replication.c`, `rdb.c`, `aof.c`; "Redis persistence" of its
//! documentation; what `redis-cli --rdb` gets wrong, by running it.

mod aof;
mod appended;
mod boot;
mod capture;
mod checksum;
mod connection;
mod damage;
mod facts;
mod follow;
mod layout;
mod live;
mod proof;
mod rdb;
mod replay;
mod saved;
mod server;
mod standing;
mod sync;

use std::path::{Path, PathBuf};

use place::Place;

use self::boot::Programs;
use self::server::Server;
use super::restore::make_way;
use super::{
    Cancel, Capture, CaptureRequest, Component, Damage, Finding, Follow, Holder, Holders, Log, LogPiece,
    Part, PointFacts, Proof, RedisOptions, Replay, Replayed, Severity, State,
};
use crate::{Error, Result};

pub use capture::SETTINGS;

const KIND: &str = "redis";

/// The names of what a point keeps for its restore.
mod detail {
    /// Which server, of which version, made the dump.
    pub(super) const VERSION: &str = "server_version";
    /// Where the dump lies in the data directory, and why.
    pub(super) const LAYOUT: &str = "layout";
    /// Before the path of a file in the data directory: its digest.
    pub(super) const FILE: &str = "file_sha256:";
    /// The list of append-only files, where the point has a log.
    pub(super) const LIST: &str = "list";
    /// Owner, group and mode of the data directory.
    pub(super) const OWNER: &str = "owner";
    /// How many databases a server needs to load it.
    pub(super) const DATABASES: &str = "databases";
    /// Before the path of a configuration file: its digest.
    pub(super) const CONFIG: &str = "config_sha256:";
}

/// A Redis or Valkey server.
#[derive(Debug, Clone)]
pub struct Redis {
    options: RedisOptions,
    place: Place,
}

/// What captures and proves on our side; another number makes a proof stale.
const DRIVER: &str = "driver 1";

/// The server of a point, such as `Redis 7.0.15`, and what made it: another version of either makes a proof stale.
fn engine(server: &str) -> String {
    format!("{server}, {DRIVER}")
}

fn within<T: Send>(place: &Place, work: impl FnOnce() -> T + Send) -> Result<T> {
    let failed = |error: place::Error| Error::Command { what: KIND.to_owned(), why: error.to_string() };
    place.within(work).map_err(failed)
}

/// Writes bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The servers that have gone into a directory; a shell there does no harm.
fn servers_in(data: &Path) -> Vec<Holder> {
    let is_server =
        |holder: &Holder| ["redis", "valkey", "keydb"].iter().any(|name| holder.name.contains(name));
    Holders::working_in(data).into_iter().filter(is_server).collect()
}

impl Redis {
    /// Makes the driver for a server that is reached from `place`; touches nothing.
    pub fn new(options: RedisOptions, place: Place) -> Self {
        Self { options, place }
    }

    fn data(&self) -> &Path {
        &self.options.data
    }

    /// Finds the servers that work in a directory: those that have gone there, and the one of the plan if it says so.
    ///
    /// A server has none of its files open between two dumps; but it works in its data directory.
    fn users(&self, data: &Path) -> Result<Vec<Holder>> {
        let users = within(&self.place, || servers_in(data))?;
        if !users.is_empty() || data != self.data() || !server::address(&self.options).is_here() {
            return Ok(users);
        }
        // It may be another user's, into which this process may not look.
        let works_here = match Server::reach(&self.options, &self.place, &Cancel::default()) {
            Ok(server) => within(&self.place, || server.may_be_dumped(data).is_ok())?,
            Err(_) => false,
        };
        Ok(if works_here {
            vec![Holder { pid: 0, name: "a server that answers at its address".to_owned() }]
        } else {
            users
        })
    }
}

impl Component for Redis {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn enters_by_itself(&self) -> bool {
        true
    }

    fn engine(&self) -> String {
        DRIVER.to_owned()
    }

    fn preflight(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |severity, what: String, hint: &str| {
            findings.push(Finding { severity, what, hint: hint.to_owned() });
        };
        let reached = Server::ask(&self.options, &self.place);
        let looked = reached.and_then(|server| {
            within(&self.place, || server.may_be_dumped(self.data()))??;
            Ok(server)
        });
        let server = match looked {
            Ok(server) => server,
            Err(error) => {
                find(Severity::Error, error.to_string(), "a backup fails as things are");
                return findings;
            }
        };
        if self.options.continuous
            && let Err(error) = follow::files_of(&server, &self.options)
        {
            find(Severity::Error, error.to_string(), "a continuous backup fails as things are");
        }
        if let Err(why) = server.layout() {
            find(Severity::Error, why, "a backup fails as things are");
        }
        for (what, hint) in server.complaints() {
            find(Severity::Warning, what, hint);
        }
        if !server.tells_settings() {
            let what = "its server does not tell its settings (CONFIG GET)".to_owned();
            find(
                Severity::Warning,
                what,
                "names of files are taken to be Redis' own: dump.rdb, appendonlydir",
            );
        }
        if server.cluster_file().is_some() {
            let what = "its server is a member of a cluster, and holds a part of the data only".to_owned();
            find(Severity::Warning, what, "make every master of the cluster a component");
        }
        let is_kept = |path: &PathBuf| self.options.config.contains(path);
        if let Some(users) = server.users_file().filter(|users| !is_kept(users)) {
            let what = format!("its users are in {}, which is not in the backup", users.display());
            find(Severity::Warning, what, "add the file to `config:`");
        }
        let missing = |path: &&PathBuf| !path.is_file();
        let config = within(&self.place, || self.options.config.iter().find(missing).cloned());
        if let Ok(Some(path)) = config {
            find(Severity::Error, format!("{} is missing", path.display()), "correct `config:` in the plan");
        }
        let programs = || Programs::find(self.options.binaries.as_deref(), &server.version());
        if let Ok(Err(why)) = within(&self.place, programs) {
            find(Severity::Warning, why, "without them a restore cannot be proven, and no facts be measured");
        }
        findings
    }

    fn state(&self) -> Result<State> {
        let data = self.data();
        if !within(&self.place, || data.exists())? {
            return Ok(State::default());
        }
        let holders = within(&self.place, || servers_in(data))?;
        Ok(State { present: true, holders, ..State::default() })
    }

    fn capture(&self, request: &CaptureRequest<'_>) -> Result<Capture> {
        capture::begin(&self.options, &self.place, request)
    }

    fn parts(&self, run: &str, recorded: &PointFacts) -> Vec<Part> {
        let mut parts: Vec<Part> = recorded.roots.iter().map(|root| Part::home(root, run)).collect();
        // The plan may have moved the data directory since; it goes where the plan says now.
        if let Some(data) = parts.last_mut() {
            data.target = self.data().to_owned();
            data.beside = super::appended(self.data(), &format!(".lifeboat-{run}"));
        }
        parts
    }

    fn prepare(&self, parts: &[Part], _recorded: &PointFacts) -> Result<()> {
        let Some((data, config)) = parts.split_last() else {
            let why = "the point has no parts: choose another one".to_owned();
            return Err(Error::BadTarget { path: self.data().to_owned(), why });
        };
        within(&self.place, || {
            config.iter().try_for_each(|part| make_way(part, false))?;
            make_way(data, true)
        })??;
        let holders = self.users(&data.target)?;
        if !holders.is_empty() {
            let hint = "stop the server, then try again".to_owned();
            return Err(Error::InUse { path: data.target.clone(), holders, hint });
        }
        Ok(())
    }

    fn prove(&self, parts: &[Part], recorded: &PointFacts, cancel: &Cancel) -> Result<Proof> {
        proof::prove(&self.options, &self.place, parts, recorded, cancel)
    }

    fn damage(
        &self,
        parts: &[Part],
        recorded: &PointFacts,
        how: Damage,
        _cancel: &Cancel,
    ) -> Result<Option<String>> {
        within(&self.place, || damage::damage(parts, recorded, how))?
    }

    fn log(&self) -> Option<&dyn Log> {
        Some(self)
    }

    fn destroy(&self) -> Vec<PathBuf> {
        self.options.config.iter().cloned().chain([self.data().to_owned()]).collect()
    }
}

impl Log for Redis {
    fn replay(&self, parts: &[Part], recorded: &PointFacts, mut replay: Replay<'_>) -> Result<Replayed> {
        within(&self.place, || replay::replay(parts, recorded, &mut replay))?
    }

    fn follow(&self, last: Option<&LogPiece>) -> Result<Option<Box<dyn Follow>>> {
        let follower = follow::Follower::begin(&self.options, &self.place, last)?;
        Ok(Some(Box::new(follower)))
    }
}
