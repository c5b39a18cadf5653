//! The capture of a continuous server: its base and what it has appended to it, up to a moment that is known to the second,
//! and where in its log that is.
//!
//! The base is read whole and checked while it is copied to scratch; what is appended, command by command. A private server
//! loads it all and counts: nothing else can tell what the commands amount to.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::super::LogBase;
use super::aof::{Announced, Scan};
use super::capture::{Taken, Tee, Work};
use super::layout::Files;
use super::live::{Held, List};
use super::rdb;
use super::server::Server;
use super::standing::{self, Standing};
use super::{detail, follow, within};
use crate::{Error, Result};

/// How much is copied at once.
const PIECE_BYTES: u64 = 1 << 20;
/// How often a base is begun again because the server has begun other files.
const ATTEMPTS: u32 = 5;
/// How often the list is looked at while the clock is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long the clock is waited for; one that was set back is not waited for any longer.
const CLOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a follower is waited for that has not seen a new list yet.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(2);

/// Takes the files of a server that goes on appending.
pub(super) fn take(work: &Work<'_>, server: &Server) -> Result<Taken> {
    let (directory, name) = follow::files_of(server, work.options)?;
    for _ in 0..ATTEMPTS {
        if let Some(taken) = attempt(work, &directory, &name)? {
            return Ok(taken);
        }
        within(work.place, || crate::swap::remove(&work.data))??;
    }
    let why = "its server begins other files faster than they can be read: try again".to_owned();
    Err(Error::BadSource { path: directory, why })
}

/// What there is up to a moment; nothing when the server has begun other files meanwhile.
fn attempt(work: &Work<'_>, directory: &Path, name: &str) -> Result<Option<Taken>> {
    let inside = PathBuf::from(directory.file_name().unwrap_or_default());
    let mut held = within(work.place, || Held::open(directory, name))??;
    let mut list = List { base: held.list.base.clone(), appended: Vec::new() };
    let (mut files, mut details) = (Vec::new(), Vec::new());
    let mut add = |name: &str, bytes: u64, digest: String| {
        let path = inside.join(name);
        details.push((format!("{}{}", detail::FILE, path.display()), digest));
        files.push((path, bytes));
    };
    let (mut bytes, mut begun) = (0, 0);
    if let Some(base) = &list.base {
        let dump = within(work.place, || copy_base(work, &held, &inside.join(&base.name)))??;
        bytes += dump.bytes - dump.bytes_of_fields;
        begun = dump.fields.get("ctime").and_then(|second| second.parse::<i64>().ok()).unwrap_or_default();
        add(&base.name, dump.bytes, dump.sha256);
    }
    let Some(Appended { scan, ends, now }) =
        within(work.place, || read_up_to_now(work, &mut held, directory, name, begun))??
    else {
        return Ok(None);
    };
    let (cut, instant) = cut(&scan, now);

    let mut begin = 0;
    for (kept, end) in held.appended.iter().zip(ends) {
        let end = end.min(cut);
        if begin < end {
            let digest = within(work.place, || {
                copy_appended(work, &held, &inside.join(&kept.listed.name), begin, end)
            })??;
            bytes += end - begin;
            add(&kept.listed.name, end - begin, digest);
            list.appended.push(kept.listed.clone());
        }
        begin = end;
    }
    let log = within(work.place, || stands_at(directory, name, &held, cut))?;
    let text = list.text();
    let databases = work.databases.unwrap_or_default();
    let (keys, facts) = work.measure(&set(&inside, name, &list), databases)?;
    details.push((detail::LIST.to_owned(), text.clone()));
    details.push((detail::DATABASES.to_owned(), databases.to_string()));
    Ok(Some(Taken {
        instant,
        files,
        texts: vec![(inside.join(format!("{name}.manifest")), text)],
        bytes: if keys.values().all(|&count| count == 0) { 0 } else { bytes },
        keys,
        facts,
        details,
        log,
    }))
}

/// All that was appended before an instant.
struct Appended {
    scan: Scan,
    /// Where each of the files ends.
    ends: Vec<u64>,
    now: Timestamp,
}

/// Reads what was appended up to a moment behind the second in which the base was begun, into whichever files that went.
///
/// A server announces a second once. What it appends behind a new base in the second in which it began that has no time before
/// it; from the next second on it is known of all of it that it is older.
fn read_up_to_now(
    work: &Work<'_>,
    held: &mut Held,
    directory: &Path,
    name: &str,
    begun: i64,
) -> Result<Option<Appended>> {
    let patience = Instant::now() + CLOCK_PATIENCE;
    let mut scan = Scan::default();
    loop {
        if work.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let now = Timestamp::now();
        let ends = held.read_on(&mut scan)?;
        // As long as the list is the same, its last file is the one to which the server appends.
        if held.is_old()? {
            if !held.catch_up(directory, name, 0)? {
                return Ok(None);
            }
        } else if now.as_second() > begun || Instant::now() > patience {
            return Ok(Some(Appended { scan, ends, now }));
        } else {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Where the files are cut, and the instant at which everything before is there and nothing behind.
///
/// Times in the files are whole seconds: what was done in the present one is left to the log.
pub(super) fn cut(scan: &Scan, now: Timestamp) -> (u64, Timestamp) {
    match scan.time {
        Some(Announced { second, at }) if second >= now.as_second() => {
            (at.min(scan.boundary), Timestamp::from_second(second).unwrap_or(now))
        }
        _ => (scan.boundary, now),
    }
}

/// Where in the log a base stands that was cut there; nothing where nobody follows the files, so that it comes back alone.
fn stands_at(directory: &Path, name: &str, held: &Held, cut: u64) -> Option<LogBase> {
    let deadline = Instant::now() + FOLLOWER_PATIENCE;
    while standing::is_followed(directory) && Instant::now() < deadline {
        let standing = Standing::read(directory, name);
        if let Some((standing, first)) = standing.and_then(|it| it.beginning(held).map(|first| (it, first))) {
            let position = first + cut;
            let lineage = standing.lineage;
            return Some(LogBase { lineage, needed_from: position, consistent_at: position });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// What a private server loads of a list, and one more empty file for it to append to.
pub(super) fn set(directory: &Path, name: &str, list: &List) -> Files {
    let (with, added) = list.and(name);
    Files {
        files: list.files().map(|listed| directory.join(&listed.name)).collect(),
        list: Some((directory.join(format!("{name}.manifest")), with.text())),
        empty: Some(directory.join(added.name)),
    }
}

fn copy_base(work: &Work<'_>, held: &Held, to: &Path) -> Result<rdb::Dump> {
    let mut tee = Tee(&held.base, work.file(to)?);
    let bad = |bad: rdb::Bad| Error::BadSource { path: work.options.data.join(to), why: bad.to_string() };
    rdb::read(&mut tee).map_err(bad)
}

fn copy_appended(work: &Work<'_>, held: &Held, to: &Path, begin: u64, end: u64) -> Result<String> {
    let mut file = work.file(to)?;
    let mut digest = Sha256::new();
    let mut at = begin;
    while at < end {
        if work.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let bytes = held.bytes(at, end.min(at + PIECE_BYTES))?;
        file.write_all(&bytes).map_err(Error::io("write", to))?;
        digest.update(&bytes);
        at += bytes.len() as u64;
    }
    Ok(super::hex(&digest.finalize()))
}
