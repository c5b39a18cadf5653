//! What is shown about a restored database: SQLite's own checks, then every recorded fact, evaluated anew.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::super::{Cancel, Part, PointFacts, Proof};
use super::measure::{self, VIOLATIONS};
use super::source::{bound, open_still};
use crate::facts::Value;
use crate::{Error, Result};

/// How long SQLite's integrity check may take: it reads everything, which for the largest databases takes
/// hours.
const CHECK_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How many findings of a check are told.
const FINDINGS_MAX: usize = 5;

/// Shows what can be shown about `parts`, which nobody has open. `declared` are the facts of the plan as it
/// is now.
///
/// The integrity check and the facts read the same file on two threads.
pub(super) fn prove(
    parts: &[Part],
    recorded: &PointFacts,
    declared: &[String],
    patience: Duration,
    cancel: &Cancel,
) -> Result<Proof> {
    let mut proof = Proof::default();
    let [part] = parts else {
        proof.unknown("database", "one file", format!("the point has {} parts", parts.len()));
        return Ok(proof);
    };
    let path = &part.beside;
    let bytes = super::file_of(part)?.len();
    // Nothing of SQLite is open on it yet, so that opening and closing it does no harm.
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path))?;
    if let Some(expected) = recorded.bytes {
        proof.compare("size in bytes", expected, bytes);
    }
    let (checked, facts) = std::thread::scope(|scope| {
        let checked = scope.spawn(|| integrity(path, cancel));
        let facts = facts(path, recorded, declared, patience, cancel);
        (checked.join().expect("the check does not panic"), facts)
    });
    for part in [checked, facts] {
        proof.shown.extend(part?.shown);
    }
    Ok(proof)
}

/// SQLite's own check of every page and index.
fn integrity(path: &Path, cancel: &Cancel) -> Result<Proof> {
    let mut proof = Proof::default();
    let check = |connection: &Connection| -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare("pragma main.integrity_check")?;
        statement.query_map([], |row| row.get(0))?.take(FINDINGS_MAX).collect()
    };
    match opened(path, CHECK_PATIENCE, cancel).and_then(|connection| check(&connection)) {
        Ok(lines) => proof.compare("integrity_check", "ok", lines.join("; ")),
        Err(error) => note(&mut proof, "integrity_check", "ok", &error, cancel)?,
    }
    Ok(proof)
}

/// Every recorded fact, by the query that measured it, and those that the plan has by now and the point has
/// not.
fn facts(
    path: &Path,
    recorded: &PointFacts,
    declared: &[String],
    patience: Duration,
    cancel: &Cancel,
) -> Result<Proof> {
    let mut proof = Proof::default();
    let mut connection = match opened(path, patience, cancel) {
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

fn opened(path: &Path, patience: Duration, cancel: &Cancel) -> rusqlite::Result<Connection> {
    let mut connection = open_still(path)?;
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
