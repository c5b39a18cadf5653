//! The driver of PostgreSQL clusters: a physical backup of a running server, with the log that it needs.
//!
//! # Consistency
//! The files are read while the server writes to them, so that by themselves they are of no one moment. The log from the
//! begin of the backup to its end, which is part of the snapshot, makes them so: what is restored is the cluster as it
//! was at the end of the backup, with every transaction that was acknowledged before then. `capture` has the order.
//!
//! # On the way back
//! Parts are restored beside their targets, under names that no service starts, and get their own names only when they
//! have been proven. So `pg_control` need not be written last, nor an interrupted restore be made unstartable. A proof
//! starts a private server beside (`boot`), which replays the log; what is put in place afterwards is a
//! cluster that was shut down in order, on a timeline of its own.
//!
//! # Where things live
//! `connection`: the wire. `server`: the running server. `listing`: what is read. `pages`: relation files and their
//! checksums. `unchanged`: what need not be read again. `control`, `log`, `wal`: formats. `capture`: begin and end. `facts`: what is measured. `links`: tablespaces.
//! `stream`: its log as it is written. `boot`, `proof`, `replay`: what is shown about a restored cluster. `question`: a check's query to a running one.
//! `by_hand`: the proof as a person types it. `dump`: another driver, of logical backups.
//!
//! The rules and where they come from: PostgreSQL's chapter "Continuous Archiving and Point-in-Time Recovery",
//! `basebackup.c`, and what went wrong in pgBackRest, Barman and WAL-G by their issues.

mod boot;
mod by_hand;
mod capture;
mod connection;
mod control;
mod damage;
pub mod dump;
mod facts;
mod links;
mod listing;
mod log;
mod pages;
mod proof;
pub(crate) mod question;
mod replay;
mod server;
mod standing;
mod stream;
mod unchanged;
pub mod wal;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use place::Place;

use self::control::Control;
use self::listing::Tablespace;
use self::server::{Postmaster, Server};
use super::restore::make_way;
use super::{
    Cancel, Capture, CaptureRequest, Component, Damage, Finding, Follow, Log, LogPiece, Part, PointFacts,
    PostgresOptions, Proof, Replay, Replayed, Severity, Standing, State,
};
use crate::{Error, Result};

const KIND: &str = "postgres";

/// The names of what a point keeps for its restore.
mod detail {
    pub(super) const OWNER: &str = "owner";
    pub(super) const VERSION: &str = "server_version_num";
    pub(super) const TABLESPACES: &str = "tablespaces";
    pub(super) const SETTINGS: &str = "settings";
    pub(super) const CHECKSUMS: &str = "data_checksums";
    pub(super) const START: &str = "start";
    pub(super) const STOP: &str = "stop";
    pub(super) const TIMELINE: &str = "timeline";
    pub(super) const FROM_STANDBY: &str = "from_standby";
    pub(super) const READ_WHOLE: &str = "read_whole";
    pub(super) const DAMAGED: &str = "damaged";
    pub(super) const BYTES_READ: &str = "bytes_read";
    pub(super) const BYTES_KEPT: &str = "bytes_kept";
    pub(super) const PAGES_VERIFIED: &str = "pages_verified";
}

/// A PostgreSQL cluster.
#[derive(Debug, Clone)]
pub struct Postgres {
    options: PostgresOptions,
    place: Place,
}

/// Whose data it is, for people and to be compared.
fn identity(system: u64) -> String {
    format!("system {system}")
}

/// What captures and proves on our side; another number makes a proof stale.
const DRIVER: &str = "driver 1";

/// The server of a point, and what made it: another version of either makes a proof stale. `version` is `server_version_num`.
fn engine(version: u32) -> String {
    format!("PostgreSQL {}.{}, {DRIVER}", version / 10_000, version % 10_000)
}

impl Postgres {
    /// Makes the driver for a cluster of `place`; touches nothing.
    pub fn new(options: PostgresOptions, place: Place) -> Self {
        Self { options, place }
    }

    fn data(&self) -> &Path {
        &self.options.data
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let failed = |error: place::Error| Error::Command { what: KIND.to_owned(), why: error.to_string() };
        self.place.within(work).map_err(failed)?
    }

    /// Refuses to replace what a server has open, what is somebody else's, or what cannot be replaced.
    fn may_replace(&self, part: &Part, recorded: &PointFacts) -> Result<()> {
        let target = &part.target;
        make_way(part, true)?;
        if let Some(server) = Postmaster::alive(target) {
            let hint = "stop the server, then try again".to_owned();
            return Err(Error::InUse { path: target.clone(), holders: vec![server], hint });
        }
        // Whatever cannot be read as a cluster is what a restore is for; it is kept in any case.
        let found = Control::read_once(target).map(|control| identity(control.system));
        if let (Some(found), Some(expected)) = (found, &recorded.identity)
            && found != *expected
        {
            return Err(Error::OtherIdentity { path: target.clone(), expected: expected.clone(), found });
        }
        Ok(())
    }

    /// Refuses a place that the server's user cannot reach, before anything is fetched into it.
    fn lets_through(part: &Part, recorded: &PointFacts) -> Result<()> {
        let owner = recorded.details.get(detail::OWNER).and_then(|owner| {
            let (uid, gid) = owner.split_once(':')?;
            Some((uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?))
        });
        let (Some((uid, gid)), true) = (owner, rustix::process::geteuid().is_root()) else { return Ok(()) };
        for upper in part.beside.ancestors().skip(1) {
            let found = fs::metadata(upper).map_err(Error::io("look at", upper))?;
            let bit = match (found.uid() == uid, found.gid() == gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            if uid != 0 && found.mode() & bit == 0 {
                let upper = upper.display();
                let why = format!(
                    "{upper} does not let the user {uid} through, as whom its server runs: \
                     choose another place, or run `chmod o+x {upper}`"
                );
                return Err(Error::BadTarget { path: part.target.clone(), why });
            }
        }
        Ok(())
    }

    /// Refuses a tablespace's directory in which there are other clusters' tables, which would go with it.
    fn holds_nothing_else(part: &Part, recorded: &PointFacts) -> Result<()> {
        let version: u32 =
            recorded.details.get(detail::VERSION).and_then(|v| v.parse().ok()).unwrap_or_default();
        let own = format!("PG_{}_", version / 10_000);
        let entries = fs::read_dir(&part.target).into_iter().flatten().flatten();
        let other =
            entries.map(|entry| entry.file_name()).find(|name| !name.to_string_lossy().starts_with(&own));
        match other {
            None => Ok(()),
            Some(other) => Err(Error::BadTarget {
                path: part.target.clone(),
                why: format!(
                    "it holds {} as well, which is not of this cluster: move that away",
                    other.display()
                ),
            }),
        }
    }
}

/// Whether the server archives its log, and whether that goes on.
fn findings_of_archive(server: &mut Server, find: &mut impl FnMut(Severity, String, &str)) {
    let mut ask = |sql: &str| server.connection.value(sql).ok().flatten().unwrap_or_default();
    let mode = ask("select setting from pg_catalog.pg_settings where name = 'archive_mode'");
    let command = ask("select setting from pg_catalog.pg_settings where name = 'archive_command'");
    if !matches!(mode.as_str(), "on" | "always") {
        let what = format!("archive_mode is {mode}, so that its log is not archived");
        find(Severity::Error, what, "set it to on in postgresql.conf and restart the server");
    } else if !command.contains("wal push") {
        let what = format!("archive_command is {command:?}, which does not archive into the repository");
        find(Severity::Error, what, "set it to `lifeboat wal push --plan FILE %p` and reload the server");
    }
    let stands = "select coalesce(last_failed_wal, '') from pg_catalog.pg_stat_archiver where last_failed_time > \
                  coalesce(last_archived_time, '-infinity')";
    let failed = ask(stands);
    if !failed.is_empty() {
        let what = format!("archiving stands still: {failed} could not be archived");
        find(Severity::Error, what, "see the server's log for what `lifeboat wal push` says");
    }
}

impl Log for Postgres {
    fn replay(&self, parts: &[Part], recorded: &PointFacts, replay: Replay<'_>) -> Result<Replayed> {
        replay::replay(&self.options, &self.place, parts, recorded, replay)
    }

    fn position(&self, text: &str) -> Option<u64> {
        text.parse::<log::Lsn>().ok().map(|position| position.0)
    }

    fn marks(
        &self,
        name: &str,
        pieces: &mut dyn Iterator<Item = io::Result<LogPiece>>,
    ) -> Result<Option<Vec<u64>>> {
        let failed = |why: String| Error::BadSource { path: self.data().to_owned(), why };
        let mut walk = wal::Walk::default();
        let mut pieces = pieces.peekable();
        while let Some(piece) = pieces.next() {
            let lost = |error: io::Error| failed(format!("its log cannot be read: {error}"));
            let LogPiece { first, name: file, mut bytes, .. } = piece.map_err(lost)?;
            // A segment may have come in parts.
            while let Some(Ok(more)) = pieces
                .next_if(|next| next.as_ref().is_ok_and(|next| next.name.is_some() && next.name == file))
            {
                bytes.extend_from_slice(&more.bytes);
            }
            let walked = walk.segment(log::Lsn(first), &bytes, pieces.peek().is_some());
            walked.map_err(|why| failed(format!("its archived log is damaged: {why}")))?;
        }
        let points = walk.seen().points.iter().filter(|(found, _)| found == name);
        Ok(Some(points.map(|(_, behind)| behind.0).collect()))
    }

    fn follow(&self, last: Option<&LogPiece>) -> Result<Option<Box<dyn Follow>>> {
        let Some(slot) = &self.options.slot else { return Ok(None) };
        let follower = self.within(|| stream::Follower::begin(&self.options, slot, last))?;
        Ok(Some(Box::new(follower)))
    }

    fn standing(&self, cancel: &Cancel) -> Option<Standing> {
        match &self.options.slot {
            Some(slot) => stream::standing(&self.options, &self.place, slot, cancel),
            None => self.options.archive.then(|| standing::standing(&self.options, &self.place, cancel))?,
        }
    }
}

impl Component for Postgres {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn enters_by_itself(&self) -> bool {
        true
    }

    fn is_captured_within(&self) -> bool {
        true
    }

    fn is_proven_as_another_user(&self) -> bool {
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
        let mut server = match self.within(|| Server::reach(&self.options, &Cancel::default())) {
            Ok(server) => server,
            Err(error) => {
                find(Severity::Error, error.to_string(), "a backup fails as things are");
                return findings;
            }
        };
        if self.options.archive {
            findings_of_archive(&mut server, &mut find);
        }
        if self.options.slot.is_some() {
            stream::findings(&mut server, &mut find);
        }
        if server.part_pages.is_none() {
            let what =
                format!("{} has no page checksums: damage on its disk is not noticed", self.data().display());
            find(Severity::Warning, what, "stop the server and run `pg_checksums --enable`");
        }
        if let Ok(Err(why)) = self.place.within(|| {
            let major = (server.version / 10_000).to_string();
            boot::programs(self.options.binaries.as_deref(), &major)
        }) {
            find(Severity::Warning, why, "without them a restore cannot be proven");
        }
        findings
    }

    fn state(&self) -> Result<State> {
        self.within(|| {
            let data = self.data();
            if !data.exists() {
                return Ok(State::default());
            }
            let (identity, damage) = match Control::read(data) {
                Ok(control) => (Some(identity(control.system)), None),
                Err(error) => (None, Some(format!("{}: {error}", data.join(control::PATH).display()))),
            };
            let holders = Postmaster::alive(data).into_iter().collect();
            Ok(State { present: true, identity, damage, bytes: None, holders })
        })
    }

    fn capture(&self, request: &CaptureRequest<'_>) -> Result<Capture> {
        if self.place.is_twin() && self.options.host.is_some() {
            let why =
                "in a twin its server can only be reached by its socket: give `socket` instead of `host`";
            return Err(Error::BadSource { path: self.data().to_owned(), why: why.to_owned() });
        }
        capture::begin(&self.options, request)
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

    fn prepare(&self, parts: &[Part], recorded: &PointFacts) -> Result<()> {
        self.within(|| {
            let (data, tablespaces) = parts.split_last().ok_or_else(|| Error::BadTarget {
                path: self.data().to_owned(),
                why: "the point has no parts: choose another one".to_owned(),
            })?;
            let mut targets: Vec<&PathBuf> = parts.iter().map(|part| &part.target).collect();
            targets.sort();
            if let Some(pair) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
                let why =
                    "two tablespaces of the same name would be put there: restore them to their own places";
                return Err(Error::BadTarget { path: pair[0].clone(), why: why.to_owned() });
            }
            self.may_replace(data, recorded)?;
            for part in tablespaces {
                make_way(part, true)?;
                Self::holds_nothing_else(part, recorded)?;
            }
            parts.iter().try_for_each(|part| Self::lets_through(part, recorded))
        })
    }

    fn prove(&self, parts: &[Part], recorded: &PointFacts, cancel: &Cancel) -> Result<Proof> {
        proof::prove(&self.options, &self.place, parts, recorded, cancel)
    }

    fn damage(
        &self,
        parts: &[Part],
        recorded: &PointFacts,
        how: Damage,
        cancel: &Cancel,
    ) -> Result<Option<String>> {
        // The log that comes with the point would mend most of what is damaged before it is replayed, as it is there to do.
        if how != Damage::Cut {
            proof::prove(&self.options, &self.place, parts, recorded, cancel)?;
        }
        self.within(|| damage::damage(parts, recorded, how))
    }

    fn prove_by_hand(&self, parts: &[Part], recorded: &PointFacts) -> Option<String> {
        by_hand::proof(&self.options, parts, recorded)
    }

    fn log(&self) -> Option<&dyn Log> {
        Some(self)
    }

    fn after_swap(&self, parts: &[Part], recorded: &PointFacts, _cancel: &Cancel) -> Result<()> {
        let tablespaces = recorded.details.get(detail::TABLESPACES).map_or("", String::as_str);
        let tablespaces: Vec<Tablespace> = serde_json::from_str(tablespaces).unwrap_or_default();
        let Some(data) = parts.last() else { return Ok(()) };
        let home = links::locations(&tablespaces, parts, |part| &part.target)?;
        self.within(|| links::set(&data.target, &home))
    }

    fn destroy(&self) -> Vec<PathBuf> {
        let tablespaces = self.within(|| Ok(listing::tablespaces(self.data()).unwrap_or_default()));
        let locations = tablespaces.unwrap_or_default().into_iter().map(|tablespace| tablespace.location);
        locations.chain([self.data().to_owned()]).collect()
    }
}
