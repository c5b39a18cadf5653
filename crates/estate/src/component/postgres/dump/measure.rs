//! Facts of databases: measured in the very snapshot that is dumped, so that a restored copy must have the same values, whoever
//! wrote meanwhile.
//!
//! The rows of every table are counted: that is exact, and costs less than the dump, which reads the same rows. What
//! belongs to an extension is left out, because a restore makes it by the extension that is installed there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::super::{PointFacts, Problem, Proof};
use super::super::connection::{Connection, Failure, text};
use super::super::facts::{failed, value};
use super::Contents;
use crate::facts::{Facts, Value};
use crate::{Error, Result};

/// How an automatic fact was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub database: String,
    pub query: String,
}

/// What was measured in one database.
#[derive(Default)]
pub(super) struct Measured {
    pub facts: Facts,
    pub asked: BTreeMap<String, Asked>,
    pub problems: Vec<Problem>,
    /// Tables whose rows the dump must hold.
    pub tables: usize,
}

/// A schema that is nobody's but the users'.
const OWN_SCHEMA: &str = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'";

/// What a database has of its own, by name and query.
fn own() -> Vec<(&'static str, String)> {
    let not_of_extension = |catalog: &str, alias: &str| {
        format!(
            "not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass \
             and d.objid = {alias}.oid and d.deptype = 'e')"
        )
    };
    // A number that falls makes a backup implausible; of these only what holds data is one.
    let relations = |count: &str, kinds: &str| {
        format!(
            "select {count} from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where \
             c.relkind in ({kinds}) and c.relpersistence <> 't' and {OWN_SCHEMA} and {}",
            not_of_extension("pg_class", "c")
        )
    };
    let of_tables = |catalog: &str, table: &str, more: &str| {
        format!(
            "select count(*)::text from pg_catalog.{catalog} x join pg_catalog.pg_class c on c.oid = x.{table} join \
             pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.relpersistence <> 't' and {OWN_SCHEMA} and {}{more}",
            not_of_extension("pg_class", "c")
        )
    };
    vec![
        ("tables", relations("count(*)", "'r', 'p'")),
        ("views", relations("count(*)::text", "'v', 'm'")),
        ("sequences", relations("count(*)::text", "'S'")),
        ("indexes", of_tables("pg_index", "indrelid", "")),
        // From version 18 on there is one for every column that must not be null.
        ("constraints", of_tables("pg_constraint", "conrelid", " and x.contype <> 'n'")),
        ("triggers", of_tables("pg_trigger", "tgrelid", " and not x.tgisinternal")),
        (
            "functions",
            format!(
                "select count(*)::text from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace where \
                 {OWN_SCHEMA} and {}",
                not_of_extension("pg_proc", "p")
            ),
        ),
        ("large objects", "select count(*) from pg_catalog.pg_largeobject_metadata".to_owned()),
    ]
}

/// Tables with rows of their own, as they are written in a query.
fn tables() -> String {
    format!(
        "select pg_catalog.format('%I.%I', n.nspname, c.relname) from pg_catalog.pg_class c join pg_catalog.pg_namespace n \
         on n.oid = c.relnamespace where c.relkind = 'r' and c.relpersistence <> 't' and {OWN_SCHEMA} and not exists \
         (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = \
         c.oid and d.deptype = 'e') order by 1"
    )
}

/// Tells whether there is something in the database.
pub(super) fn is_empty(measured: &Measured) -> bool {
    measured.facts.automatic.values().all(|value| value.to_string() == "0")
}

/// Begins a transaction that sees one moment and cannot write.
pub(super) fn begin(connection: &mut Connection, patience: Duration) -> std::result::Result<(), Failure> {
    connection.query("begin isolation level repeatable read read only")?;
    // Rows that are hidden from the role would be missing from the dump: that is an error and no smaller count.
    connection.query("set local row_security = off")?;
    let patience = format!("set local statement_timeout = {}", patience.as_millis());
    connection.query(&patience).map(drop)
}

/// Measures what the plan declares, in the transaction that was begun.
pub(super) fn declared(
    connection: &mut Connection,
    declared: &[(String, String)],
) -> Result<BTreeMap<String, Value>> {
    let one = |(name, query): &(String, String)| {
        let value = value(connection, query).map_err(|error| failed(&format!("fact `{name}`"), &error))?;
        Ok((name.clone(), value))
    };
    declared.iter().map(one).collect()
}

/// Measures the driver's own facts, in the transaction that was begun.
///
/// A table that takes too long to be counted is a problem, and its count is none of the facts.
pub(super) fn automatic(connection: &mut Connection, patience: Duration) -> Result<Measured> {
    let database = connection.database.clone();
    let mut measured = Measured::default();
    let wrong = |error: &Failure| failed(&format!("what is in {database}"), error);
    let mut all: Vec<(String, String)> =
        own().into_iter().map(|(name, query)| (format!("{name} in {database}"), query)).collect();
    let tables = connection.query(&tables()).map_err(|error| wrong(&error))?;
    measured.tables = tables.rows.len();
    for table in tables.rows.into_iter().flatten().flatten().map(text) {
        // Of each table its own rows: those of tables that inherit from it are counted there.
        let query = format!("select count(*) from only {table}");
        all.push((format!("rows in {database}: {table}"), query));
    }
    connection.query("savepoint counted").map_err(|error| wrong(&error))?;
    for (name, query) in all {
        match value(connection, &query) {
            Ok(value) => {
                measured.facts.automatic.insert(name.clone(), value);
                measured.asked.insert(name, Asked { database: database.clone(), query });
            }
            Err(error) if error.code() == "57014" => {
                connection.query("rollback to savepoint counted").map_err(|error| wrong(&error))?;
                let what = format!("they were not counted within {} s", patience.as_secs());
                measured.problems.push(Problem { path: PathBuf::from(name), what });
            }
            Err(error) => return Err(failed(&name, &error)),
        }
    }
    Ok(measured)
}

/// Compares every recorded fact with what `connect` gives for its database.
///
/// `declared` are the facts of the plan as it is now.
pub(super) fn compare(
    proof: &mut Proof,
    recorded: &PointFacts,
    contents: &Contents,
    declared: &[(String, String)],
    patience: Duration,
    connect: &mut dyn FnMut(&str) -> std::result::Result<Connection, Failure>,
) -> Result<()> {
    let of_plan = recorded.facts.declared.iter().map(|(name, value)| {
        let query = recorded.queries.get(name);
        (format!("fact {name}"), value, query.map(|query| (contents.fact_database.as_str(), query.as_str())))
    });
    let own = recorded.facts.automatic.iter().filter(|(name, _)| !super::counted_by_us(name));
    let own = own.map(|(name, value)| {
        let asked = contents.asked.get(name);
        (name.clone(), value, asked.map(|asked| (asked.database.as_str(), asked.query.as_str())))
    });
    let mut open: Option<(String, Connection)> = None;
    for (what, expected, asked) in of_plan.chain(own) {
        let Some((database, query)) = asked else {
            proof.unknown(what, expected, "the point does not say how it was measured");
            continue;
        };
        if open.as_ref().is_none_or(|(known, _)| known != database) {
            open = match connect(database) {
                Ok(connection) => Some((database.to_owned(), connection)),
                Err(Failure::Interrupted) => return Err(Error::Interrupted),
                Err(error) if error.code() == "3D000" => {
                    proof.compare(what, expected, error);
                    continue;
                }
                Err(error) => {
                    proof.unknown(what, expected, error);
                    continue;
                }
            };
        }
        let Some((_, connection)) = &mut open else { continue };
        let found = begin(connection, patience).and_then(|()| value(connection, query));
        // What a failed statement leaves is a transaction to be ended; if not even that works, the next one says so.
        let ended = connection.query("rollback");
        match (found, ended) {
            (Err(Failure::Interrupted), _) | (_, Err(Failure::Interrupted)) => {
                return Err(Error::Interrupted);
            }
            (Ok(found), _) => proof.agree(what, expected, &found),
            // What is not there, or cannot be read, is a loss and no lack of knowledge.
            (Err(error), _)
                if matches!(error.code(), "42P01" | "42703" | "3F000" | "42883" | "XX001" | "XX002") =>
            {
                proof.compare(what, expected, error);
            }
            (Err(error), _) => proof.unknown(what, expected, error),
        }
    }
    for (name, _) in declared.iter().filter(|(name, _)| !recorded.facts.declared.contains_key(name)) {
        let why = "the plan did not have it when this point was made: a newer point will";
        proof.unknown(format!("fact {name}"), "measured at the source", why);
    }
    Ok(())
}
