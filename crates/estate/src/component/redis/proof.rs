//! What is shown about a restored dump: it is the one that was taken, Redis' own program finds it whole, and a private
//! server that starts as the restored one will has the same keys and answers the facts as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use place::{Limits, Place};
use sha2::{Digest, Sha256};

use super::super::{Cancel, Part, PointFacts, Proof, Proven, RedisOptions};
use super::boot::{Boot, No, Programs};
use super::connection::{Connection, Failure};
use super::layout::Layout;
use super::rdb::{self, Bad};
use super::{detail, facts, within};
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
    within(place, || {
        fs::metadata(data).map_err(Error::io("look at", data))?;
        crate::swap::remove(&data.join(WORK))?;
        look(&mut proof, data, &layout, recorded)?;
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
    let dump = data.join(layout.dump());
    let mut checks = vec![("check-rdb", dump.clone())];
    checks.extend(layout.list().map(|(list, _)| ("check-aof", data.join(list))));
    for (program, file) in checks {
        let said = programs.check(program, &file, place, &limits)?;
        interrupted(cancel)?;
        proof.compare(programs.name(program), "ok", said.err().as_deref().unwrap_or("ok"));
    }
    let boot = Boot {
        place,
        programs: &programs,
        dump: &dump,
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

/// Reads the dump and the list beside it.
fn look(proof: &mut Proof, data: &Path, layout: &Layout, recorded: &PointFacts) -> Result<()> {
    let path = data.join(layout.dump());
    let expected = recorded.details.get(detail::DUMP).map_or("", String::as_str);
    let read = File::open(&path).map_err(Bad::Unreadable).and_then(rdb::read);
    match read {
        Ok(dump) => {
            proof.compare("digest of the dump", expected, &dump.sha256);
            if dump.uncounted.is_none() {
                keys(proof, "the dump", &recorded.facts.automatic, &facts::of_keys(&dump.keys));
            }
        }
        Err(Bad::Unreadable(error)) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("read", &path)(error));
        }
        Err(bad) => proof.compare("the dump", "whole", bad),
    }
    if let Some((list, text)) = layout.list() {
        let found = fs::read_to_string(data.join(list)).unwrap_or_else(|error| error.to_string());
        proof.compare("the list of files", text.trim_end(), found.trim_end());
    }
    Ok(())
}

/// Compares the keys of each database, those that only one side has included.
fn keys(proof: &mut Proof, by: &str, expected: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) {
    let none = Value::Integer(0);
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
        Ok(found) => keys(proof, "the server", &recorded.facts.automatic, &facts::of_keys(&found)),
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
