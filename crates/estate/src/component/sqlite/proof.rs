//! What is shown about a restored database: SQLite's own checks, then every recorded fact, evaluated anew.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use serde::{Deserialize, Serialize};

use super::super::{Cancel, Part, PointFacts, Proof};
use super::aside::{self, Asked, Prover};
use super::measure::{self, VIOLATIONS};
use super::source::{bound, open_mapped, open_still};
use crate::facts::Value;
use crate::{Error, Result};

/// How long SQLite's integrity check may take: it reads everything, which for the largest databases takes
/// hours.
const CHECK_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How many findings of a check are told.
const FINDINGS_MAX: usize = 5;
/// The name of SQLite's own check.
const CHECK: &str = "integrity_check";

/// What is to be shown, and about which file: what a process of its own is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    /// The restored file, which nobody has open.
    pub path: PathBuf,
    /// What was recorded about it.
    pub recorded: PointFacts,
    /// The facts of the plan as it is now.
    pub declared: Vec<String>,
    /// How long each fact may take.
    pub patience: Duration,
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// By calls of the system, which fail where a page cannot be read.
    Called,
    /// Mapped into memory, for half the time of the processor; a page that cannot be read ends the process.
    Mapped,
}

/// Shows what can be shown about `parts`, which nobody has open. `declared` are the facts of the plan as it
/// is now.
///
/// With a prover it is called outside of its place, and the proof has a process of its own.
pub(super) fn prove(
    parts: &[Part],
    recorded: &PointFacts,
    (declared, patience): (Vec<String>, Duration),
    prover: Option<&Prover>,
    cancel: &Cancel,
) -> Result<Proof> {
    let mut proof = Proof::default();
    let [part] = parts else {
        proof.unknown("database", "one file", format!("the point has {} parts", parts.len()));
        return Ok(proof);
    };
    let question = Question { path: part.beside.clone(), recorded: recorded.clone(), declared, patience };
    let bytes = aside::within(prover, &part.beside, || super::file_of(part).map(|found| found.len()))?;
    if let Some(expected) = recorded.bytes {
        proof.compare("size in bytes", expected, bytes);
    }
    // What is in a twin is gone with it.
    let is_kept = prover.is_none_or(|prover| !prover.place.is_twin());
    let (synced, shown) = std::thread::scope(|scope| {
        let synced = scope.spawn(|| match is_kept {
            true => aside::within(prover, &part.beside, || sync(&part.beside)),
            false => Ok(()),
        });
        let shown = match prover {
            Some(prover) => by_another(prover, &question, cancel),
            None => answer(&question, Reading::Called, cancel),
        };
        (synced.join().expect("a sync does not panic"), shown)
    });
    synced?;
    proof.shown.extend(shown?.shown);
    Ok(proof)
}

/// Makes the restored file durable.
///
/// Closing it again drops no lock of SQLite's: on a file that is immutable it has none.
fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path))
}

/// Has a process of its own prove it. What ended that process is never proven, whatever is found afterwards.
fn by_another(prover: &Prover, question: &Question, cancel: &Cancel) -> Result<Proof> {
    let here = || aside::within(Some(prover), &question.path, || answer(question, Reading::Called, cancel));
    match aside::ask(prover, question, cancel)? {
        Asked::Answered(proof) => Ok(proof),
        Asked::Unable => here(),
        Asked::Killed { signal } if signal == aside::UNREADABLE => {
            let mut proof = Proof::default();
            let why = "a page of the file could not be read: look at the disk (the kernel's log names it), \
                       then restore again";
            proof.unknown(CHECK, "ok", why);
            // Reads by calls tell where, and why.
            proof.shown.extend(here()?.shown);
            Ok(proof)
        }
        Asked::Killed { signal } => {
            let mut proof = Proof::default();
            let why = format!(
                "the process that checks the database was ended by signal {signal}, which is not Lifeboat's: \
                 see whether memory ran out (the kernel's log tells), then try again"
            );
            proof.unknown(CHECK, "ok", why);
            Ok(proof)
        }
    }
}

/// Evaluates everything. The integrity check and the facts read the same file on two threads.
pub(super) fn answer(question: &Question, reading: Reading, cancel: &Cancel) -> Result<Proof> {
    let mut proof = Proof::default();
    let (checked, facts) = std::thread::scope(|scope| {
        let checked = scope.spawn(|| integrity(&question.path, reading, cancel));
        let facts = facts(question, reading, cancel);
        (checked.join().expect("the check does not panic"), facts)
    });
    for part in [checked, facts] {
        proof.shown.extend(part?.shown);
    }
    Ok(proof)
}

/// SQLite's own check of every page and index.
fn integrity(path: &Path, reading: Reading, cancel: &Cancel) -> Result<Proof> {
    let mut proof = Proof::default();
    let check = |connection: &Connection| -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare("pragma main.integrity_check")?;
        statement.query_map([], |row| row.get(0))?.take(FINDINGS_MAX).collect()
    };
    match opened(path, reading, CHECK_PATIENCE, cancel).and_then(|connection| check(&connection)) {
        Ok(lines) => proof.compare(CHECK, "ok", lines.join("; ")),
        Err(error) => note(&mut proof, CHECK, "ok", &error, cancel)?,
    }
    Ok(proof)
}

/// Every recorded fact, by the query that measured it, and those that the plan has by now and the point has
/// not.
fn facts(question: &Question, reading: Reading, cancel: &Cancel) -> Result<Proof> {
    let Question { path, recorded, declared, patience } = question;
    let patience = *patience;
    let mut proof = Proof::default();
    let mut connection = match opened(path, reading, patience, cancel) {
        Ok(connection) => connection,
        Err(error) => {
            note(&mut proof, "facts", "readable", &error, cancel)?;
            return Ok(proof);
        }
    };
    for (name, expected) in &recorded.facts.declared {
        let what = format!("fact {name}");
        let Some(query) = recorded.queries.get(name) else {
            proof.unknown(what, expected, "the point does not say how it was measured");
            continue;
        };
        match measure::declared(&mut connection, name, query, patience, cancel) {
            Ok(found) => proof.agree(what, expected, &found),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => proof.unknown(what, expected, error),
        }
    }
    // Behind a replay nothing is recorded: what was measured was true at the point only.
    let is_point = !recorded.facts.automatic.is_empty();
    for name in declared.iter().filter(|name| is_point && !recorded.facts.declared.contains_key(*name)) {
        let why = "the plan did not have it when this point was made: a newer point will";
        proof.unknown(format!("fact {name}"), "measured at the source", why);
    }
    for (name, expected) in &recorded.facts.automatic {
        again(&mut proof, &mut connection, (name, expected), patience, cancel)?;
    }
    if !recorded.facts.automatic.contains_key(VIOLATIONS) {
        unmeasured_violations(&mut proof, &mut connection, cancel)?;
    }
    Ok(proof)
}

fn again(
    proof: &mut Proof,
    connection: &mut Connection,
    (name, expected): (&str, &Value),
    patience: Duration,
    cancel: &Cancel,
) -> Result<()> {
    let found = bound(connection, patience, cancel).and_then(|()| measure::again(connection, name));
    match found {
        Ok(Some(found)) => proof.agree(name, expected, &found),
        Ok(None) => proof.unknown(name, expected, "this lifeboat does not know how to measure it"),
        Err(error) => note(proof, name, &expected.to_string(), &error, cancel)?,
    }
    Ok(())
}

/// Of a database too large to be checked at the source, only that there are no violations can be shown.
fn unmeasured_violations(proof: &mut Proof, connection: &mut Connection, cancel: &Cancel) -> Result<()> {
    let found =
        bound(connection, CHECK_PATIENCE, cancel).and_then(|()| measure::again(connection, VIOLATIONS));
    match found {
        Ok(Some(Value::Integer(0))) => proof.compare(VIOLATIONS, 0, 0),
        Ok(found) => {
            let found = found.map_or_else(String::new, |value| value.to_string());
            proof.unknown(
                VIOLATIONS,
                0,
                format!("there are {found}; whether the source had them was not measured"),
            );
        }
        Err(error) => note(proof, VIOLATIONS, "0", &error, cancel)?,
    }
    Ok(())
}

fn opened(
    path: &Path,
    reading: Reading,
    patience: Duration,
    cancel: &Cancel,
) -> rusqlite::Result<Connection> {
    let mut connection = match reading {
        Reading::Called => open_still(path)?,
        Reading::Mapped => open_mapped(path)?,
    };
    bound(&mut connection, patience, cancel)?;
    Ok(connection)
}

/// Damage is an answer; anything else leaves the question open.
fn note(
    proof: &mut Proof,
    what: &str,
    expected: &str,
    error: &rusqlite::Error,
    cancel: &Cancel,
) -> Result<()> {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => proof.compare(what, expected, error),
        Some(ErrorCode::OperationInterrupted) if cancel.load(std::sync::atomic::Ordering::Relaxed) => {
            return Err(Error::Interrupted);
        }
        // A table that was counted and cannot be found is a loss, and no lack of knowledge.
        Some(ErrorCode::Unknown) if error.to_string().contains("no such table") => {
            proof.compare(what, expected, error);
        }
        _ => proof.unknown(what, expected, error),
    }
    Ok(())
}
