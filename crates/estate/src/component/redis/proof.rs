//! What is shown about restored data: it is what was taken, Redis' own program finds it whole, and a private
//! server that starts as the restored one will has the same keys and answers the facts as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use place::{Limits, Place};
use sha2::{Digest, Sha256};

use super::super::{Cancel, Part, PointFacts, Proof, Proven, RedisOptions};
use super::boot::{Boot, No, Programs};
use super::connection::{Connection, Failure};
use super::layout::{Files, Layout};
use super::live::List;
use super::rdb::{self, Bad};
use super::{appended, detail, facts, within};
use crate::facts::Value;
use crate::{Error, Result};

const BOOT: &str = "a server starts with it";
/// The private server's directory, in the restored one.
const WORK: &str = "lifeboat-proof";

/// Shows what can be shown about `parts`, with which no server works.
pub(super) fn prove(
    options: &RedisOptions,
    place: &Place,
    parts: &[Part],
    recorded: &PointFacts,
    cancel: &Cancel,
) -> Result<Proof> {
    let mut proof = Proof::default();
    let of = |name: &str| recorded.details.get(name).map_or("", String::as_str);
    let (Some(part), Ok(layout)) = (parts.last(), serde_json::from_str::<Layout>(of(detail::LAYOUT))) else {
        proof.unknown("data directory", "one", "the point does not say what it is made of");
        return Ok(proof);
    };
    let data = &part.beside;
    let mut files = layout.files();
    within(place, || {
        fs::metadata(data).map_err(Error::io("look at", data))?;
        crate::swap::remove(&data.join(WORK))?;
        look(&mut proof, data, &layout, recorded)?;
        files = list_of(&mut proof, data, &layout, recorded)?;
        configuration(&mut proof, parts, part, recorded)?;
        adopt(data, &part.target, of(detail::OWNER))
    })??;
    if proof.outcome() == Proven::Failed {
        return Ok(proof);
    }
    let programs = within(place, || Programs::find(options.binaries.as_deref(), of(detail::VERSION)))?;
    let programs = match programs {
        Ok(programs) => programs,
        Err(why) => {
            proof.unknown(BOOT, "it does", why);
            return Ok(proof);
        }
    };
    let limits = Limits { cancel: Some(cancel), ..Limits::timeout(options.proof_timeout) };
    for (program, file) in within(place, || checks(data, &files))? {
        let said = programs.check(program, &file, place, &limits)?;
        interrupted(cancel)?;
        proof.compare(programs.name(program), "ok", said.err().as_deref().unwrap_or("ok"));
    }
    let boot = Boot {
        place,
        programs: &programs,
        data,
        files: &files,
        layout: &layout,
        work: data.join(WORK),
        databases: of(detail::DATABASES).parse().unwrap_or_default(),
        timeout: options.proof_timeout,
        cancel,
    };
    match boot.start()? {
        Ok(server) => {
            proof.compare(BOOT, "it does", "it does");
            match server.connect() {
                Ok(connection) => ask(&mut proof, connection, options, recorded)?,
                Err(Failure::Interrupted) => return Err(Error::Interrupted),
                Err(failure) => proof.unknown("facts", "answered", failure),
            }
        }
        Err(No::Wrong(said)) => proof.compare(BOOT, "it does", said),
        Err(No::Untried(why)) => proof.unknown(BOOT, "it does", why),
    }
    Ok(proof)
}

/// What the engine's own programs are to look at.
///
/// That of Valkey 9 takes a base that begins as Valkey's dumps do for one that was appended to, and calls it damaged (seen with
/// 9.1.2): there it looks at what was appended, file by file.
fn checks(data: &Path, files: &Files) -> Vec<(&'static str, PathBuf)> {
    let Some((base, appended)) = files.files.split_first() else { return Vec::new() };
    let mut checks = vec![("check-rdb", data.join(base))];
    let mut begin = [0; 6];
    let read = File::open(data.join(base)).and_then(|mut file| file.read_exact(&mut begin));
    if read.is_ok() && &begin == b"VALKEY" {
        let appended = appended.iter().map(|file| data.join(file));
        let is_empty = |file: &PathBuf| fs::metadata(file).is_ok_and(|found| found.len() == 0);
        checks.extend(appended.filter(|file| !is_empty(file)).map(|file| ("check-aof", file)));
    } else {
        checks.extend(files.list.iter().map(|(list, _)| ("check-aof", data.join(list))));
    }
    checks
}

/// Reads every file of the point and compares it with what was stored.
fn look(proof: &mut Proof, data: &Path, layout: &Layout, recorded: &PointFacts) -> Result<()> {
    let is_dump = !recorded.details.contains_key(detail::LIST);
    for (name, expected) in &recorded.details {
        let Some(name) = name.strip_prefix(detail::FILE) else { continue };
        let path = data.join(name);
        let opened = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                proof.compare(name, "there", "missing");
                continue;
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        if !is_dump && !name.ends_with(".rdb") {
            proof.compare(
                format!("digest of {name}"),
                expected,
                digest(opened).map_err(Error::io("read", &path))?,
            );
            continue;
        }
        match rdb::read(opened) {
            Ok(dump) => {
                proof.compare(format!("digest of {name}"), expected, &dump.sha256);
                if is_dump && dump.uncounted.is_none() {
                    keys(proof, "the dump", recorded, &facts::of_keys(&dump.keys));
                }
            }
            Err(Bad::Unreadable(error)) => return Err(Error::io("read", &path)(error)),
            Err(bad) => proof.compare(name, "whole", bad),
        }
    }
    if let Some((list, text)) = layout.list().filter(|_| is_dump) {
        let found = fs::read_to_string(data.join(list)).unwrap_or_else(|error| error.to_string());
        proof.compare("the list of files", text.trim_end(), found.trim_end());
    }
    Ok(())
}

fn digest(mut file: File) -> io::Result<String> {
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(super::hex(&digest.finalize())),
            count => digest.update(&buffer[..count]),
        }
    }
}

/// What a server loads of a point that has a log: its files, and what was replayed behind them.
fn list_of(proof: &mut Proof, data: &Path, layout: &Layout, recorded: &PointFacts) -> Result<Files> {
    let (Some(expected), Layout::Parts(directory, name)) = (recorded.details.get(detail::LIST), layout)
    else {
        return Ok(layout.files());
    };
    let path = data.join(directory).join(format!("{name}.manifest"));
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let begins: String =
        text.lines().take(expected.lines().count()).map(|line| format!("{line}\n")).collect();
    proof.compare("the list of files", expected.trim_end(), begins.trim_end());
    match List::parse(&text) {
        Ok(list) => Ok(appended::set(Path::new(directory), name, &list)),
        Err(why) => {
            proof.compare("the list of files", "readable", why);
            Ok(layout.files())
        }
    }
}

/// Tells whether a log was replayed on the point, so that nothing that was measured at it holds any more: then nothing of that is
/// handed over, and there is nothing to compare with.
fn is_replayed(recorded: &PointFacts) -> bool {
    let facts = &recorded.facts;
    recorded.bytes.is_none() && facts.automatic.is_empty() && facts.declared.is_empty()
}

/// Compares the keys of each database, those that only one side has included.
fn keys(proof: &mut Proof, by: &str, recorded: &PointFacts, found: &BTreeMap<String, Value>) {
    let (none, expected) = (Value::Integer(0), &recorded.facts.automatic);
    if is_replayed(recorded) {
        return;
    }
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    if names.is_empty() {
        proof.compare(format!("keys by {by}"), 0, 0);
    }
    for name in names {
        let (expected, found) = (expected.get(name).unwrap_or(&none), found.get(name).unwrap_or(&none));
        proof.agree(format!("{name} by {by}"), expected, found);
    }
}

fn configuration(proof: &mut Proof, parts: &[Part], data: &Part, recorded: &PointFacts) -> Result<()> {
    for (name, digest) in &recorded.details {
        let Some(path) = name.strip_prefix(detail::CONFIG).map(PathBuf::from) else { continue };
        let home = &recorded.roots[recorded.roots.len().saturating_sub(1)..];
        let inside = home.first().and_then(|home| path.strip_prefix(home).ok());
        let beside = match (inside, parts.iter().find(|part| part.in_snapshot == path)) {
            (Some(inside), _) => data.beside.join(inside),
            (None, Some(part)) => part.beside.clone(),
            (None, None) => continue,
        };
        let bytes = fs::read(&beside).map_err(Error::io("read", &beside))?;
        proof.compare(path.display().to_string(), digest, super::hex(&Sha256::digest(&bytes)));
    }
    Ok(())
}

/// Gives the restored directory to whom it belonged, or, where that is not known, to whom the present one belongs: its
/// server runs as that user. Only root can.
fn adopt(data: &Path, target: &Path, recorded: &str) -> Result<()> {
    let (owner, mode) = match owner(recorded) {
        Some((uid, gid, mode)) => ((uid, gid), mode),
        None => match fs::metadata(target) {
            Ok(found) => ((found.uid(), found.gid()), found.mode() & 0o7777),
            Err(_) => return Ok(()),
        },
    };
    fs::set_permissions(data, fs::Permissions::from_mode(mode))
        .map_err(Error::io("set the mode of", data))?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut open = vec![data.to_owned()];
    while let Some(path) = open.pop() {
        let found = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        lchown(&path, Some(owner.0), Some(owner.1)).map_err(Error::io("set the owner of", &path))?;
        if found.is_dir() {
            for entry in fs::read_dir(&path).map_err(Error::io("read", &path))? {
                open.push(entry.map_err(Error::io("read", &path))?.path());
            }
        }
    }
    Ok(())
}

fn owner(recorded: &str) -> Option<(u32, u32, u32)> {
    let mut fields = recorded.split(':');
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((uid, gid, u32::from_str_radix(fields.next()?, 8).ok()?))
}

/// Asks the private server everything that is recorded, by the commands with which it was asked.
fn ask(
    proof: &mut Proof,
    mut connection: Connection,
    options: &RedisOptions,
    recorded: &PointFacts,
) -> Result<()> {
    match facts::count(&mut connection) {
        Ok(found) => keys(proof, "the server", recorded, &facts::of_keys(&found)),
        Err(Failure::Interrupted) => return Err(Error::Interrupted),
        Err(failure) => proof.unknown("keys", "counted", failure),
    }
    for (name, expected) in &recorded.facts.declared {
        let what = format!("fact {name}");
        let Some(query) = recorded.queries.get(name) else {
            proof.unknown(what, expected, "the point does not say how it was measured");
            continue;
        };
        match facts::ask(&mut connection, query) {
            Ok(found) => proof.agree(what, expected, &found),
            Err(why) => proof.unknown(what, expected, why),
        }
    }
    if is_replayed(recorded) {
        return Ok(());
    }
    let declared = options.facts.iter().map(|(name, _)| name);
    for name in declared.filter(|name| !recorded.facts.declared.contains_key(*name)) {
        let why = "the plan did not have it when this point was made: a newer point will";
        proof.unknown(format!("fact {name}"), "measured at the source", why);
    }
    Ok(())
}

fn interrupted(cancel: &Cancel) -> Result<()> {
    match cancel.load(std::sync::atomic::Ordering::Relaxed) {
        true => Err(Error::Interrupted),
        false => Ok(()),
    }
}
