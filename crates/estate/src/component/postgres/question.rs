//! A single question to the server that works in a data directory, as checks have it.

use std::fs;

use place::Place;

use super::super::{Cancel, PostgresOptions};
use super::connection::{Connection, Failure, text};
use super::server;

/// What a query yielded, as text.
#[derive(Debug)]
pub(crate) struct Answered {
    pub columns: usize,
    /// Null is an empty text, as `psql -At` shows it.
    pub rows: Vec<Vec<String>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// There is no server, or not yet, or not any more.
    Silent(String),
    /// What is asked for is not there, or cannot be read.
    Wrong(String),
    /// The question can never be answered.
    Nonsense(String),
    /// Nothing is known.
    Unknown(String),
    /// It was cancelled.
    Interrupted,
}

/// Asks one statement, in a transaction that cannot write; is called where the files of `place` are.
pub(crate) fn ask(
    options: &PostgresOptions,
    place: &Place,
    query: &str,
    cancel: &Cancel,
) -> Result<Answered, Unanswered> {
    if place.is_twin() && options.host.is_some() {
        let why = "in a twin its server can only be reached by its socket: give `socket` instead of `host`";
        return Err(Unanswered::Unknown(why.to_owned()));
    }
    let owner = match fs::metadata(&options.data) {
        Ok(found) => std::os::unix::fs::MetadataExt::uid(&found),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Unanswered::Silent("there is no data directory".to_owned()));
        }
        Err(error) => return Err(Unanswered::Unknown(format!("cannot look at its data directory: {error}"))),
    };
    let address = server::address(options);
    let login = server::login(options, owner);
    let mut connection =
        Connection::open(&address, &login, Some(owner), cancel).map_err(|error| match error {
            Failure::Broken(why) => Unanswered::Silent(format!("{address}: {why}")),
            other => sorted(other),
        })?;
    let asked = connection.query("begin read only").and_then(|_| connection.query(query));
    let rows = asked.map_err(sorted)?;
    let row =
        |row: Vec<Option<Vec<u8>>>| row.into_iter().map(|field| text(field.unwrap_or_default())).collect();
    Ok(Answered { columns: rows.types.len(), rows: rows.rows.into_iter().map(row).collect() })
}

/// Sorts what a server said by its code (PostgreSQL's appendix "Error Codes").
fn sorted(failure: Failure) -> Unanswered {
    let told = failure.to_string();
    match (&failure, failure.code()) {
        (Failure::Interrupted, _) => Unanswered::Interrupted,
        (Failure::Broken(_), _) => Unanswered::Silent(told),
        // Shutting down, crashing, starting, or full.
        (_, code) if code.starts_with("57P0") || code == "53300" => Unanswered::Silent(told),
        // No such table, column, schema or database: a restore may yet bring it.
        (_, "42P01" | "42703" | "3F000" | "3D000" | "42883") => Unanswered::Wrong(told),
        // Damaged data and indexes, files that are gone or cannot be read.
        (_, "XX001" | "XX002" | "58P01" | "58030") => Unanswered::Wrong(told),
        (_, "25006") => Unanswered::Nonsense(format!("a check only reads, and this would write: {told}")),
        (_, code) if code.starts_with("42") && code != "42501" => Unanswered::Nonsense(told),
        _ => Unanswered::Unknown(told),
    }
}
