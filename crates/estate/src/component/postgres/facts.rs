//! Facts of a cluster, and how far they can be compared while others write.
//!
//! What is restored is the cluster as it was at the end of the backup, to the byte of the log. That moment cannot be asked:
//! a query sees what was committed when it began. So every fact is measured twice, in one transaction each, right before
//! the end and right after it. Where nobody wrote in between, both are that moment, and the restored value must be the same. Where
//! somebody did, the restored value must lie between the two; one that is further off than transactions were begun in between
//! is wrong, and one that is nearer is *not known*: a number may have gone up and down again.
//!
//! Counting may take as long as reading does. So it begins beside the reading, on a connection of its own, where nobody seems
//! to write; and what was counted then holds at the end, if what a transaction sees is the same there.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::{Cancel, Proof};
use super::connection::{Connection, Failure, text};
use crate::facts::{Facts, Value};
use crate::{Error, Result};

/// A fact is something to compare and to print, not a document.
const TEXT_BYTES_MAX: usize = 4096;
/// The driver's own facts, by name.
const OWN: &[(&str, &str)] = &[
    ("databases", "select string_agg(datname, ', ' order by datname) from pg_catalog.pg_database"),
    ("roles", "select count(*) from pg_catalog.pg_roles where rolname !~ '^pg_'"),
    (
        "relations",
        "select count(*) from pg_catalog.pg_class where relpersistence <> 't' and relnamespace not in \
         (select oid from pg_catalog.pg_namespace where nspname ~ '^pg_(toast_)?temp_')",
    ),
];

/// For how long nobody may have written for it to be likely that nobody will.
const QUIET_FOR: Duration = Duration::from_millis(300);
/// How often who waits for that looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a transaction sees. Two that see the same, and measure, measure the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The transactions that had begun by then, by the number of the next one.
    next: i64,
    /// Those that had not ended.
    open: String,
}

/// What was measured in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub facts: Facts,
    pub seen: Seen,
}

/// A measurement beside the reading. Dropping it gives it up.
pub(super) struct Early {
    /// Set when it has begun to measure.
    seen: Arc<OnceLock<Seen>>,
    given_up: Cancel,
    thread: Option<JoinHandle<Option<Measured>>>,
}

impl Early {
    /// Begins it on the connection that `open` makes; it may fail, because what it cannot tell is measured at the end.
    pub(super) fn begin(
        open: impl FnOnce(&Cancel) -> std::result::Result<Connection, Failure> + Send + 'static,
        declared: Vec<(String, String)>,
        patience: Duration,
    ) -> Self {
        let (seen, given_up) = (Arc::<OnceLock<Seen>>::default(), Cancel::default());
        let thread = {
            let (begun, given_up) = (Arc::clone(&seen), Cancel::clone(&given_up));
            move || {
                let mut connection = open(&given_up).ok()?;
                // So that the server, too, ends what was given up; before version 14 it does when it has counted.
                let _unknown = connection.query("set client_connection_check_interval = '1s'");
                if !is_quiet(&mut connection, &given_up) {
                    return None;
                }
                measure_telling(&mut connection, &declared, patience, |seen| _ = begun.set(seen)).ok()
            }
        };
        Self { seen, given_up, thread: std::thread::Builder::new().spawn(thread).ok() }
    }

    /// What it measures, if a transaction now, which sees `now`, would measure the same; waits for it then.
    pub(super) fn valid_at(mut self, now: &Seen) -> Option<Measured> {
        if self.seen.get() != Some(now) {
            return None;
        }
        self.thread.take()?.join().ok()?
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// Tells whether no transaction is begun for a moment.
fn is_quiet(connection: &mut Connection, given_up: &Cancel) -> bool {
    let (Ok(before), since) = (seen(connection), Instant::now()) else { return false };
    while since.elapsed() < QUIET_FOR {
        if given_up.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    seen(connection).is_ok_and(|after| after == before)
}

/// What a transaction that begins now would see.
pub(super) fn seen(connection: &mut Connection) -> Result<Seen> {
    let snapshot = connection.known("select pg_catalog.pg_current_snapshot()::text");
    // `xmin:xmax:xip_list`.
    let snapshot = snapshot.map_err(|error| failed("the transaction of the facts", &error))?;
    let mut parts = snapshot.splitn(3, ':').skip(1);
    let next = parts.next().and_then(|next| next.parse().ok()).unwrap_or_default();
    Ok(Seen { next, open: parts.next().unwrap_or_default().to_owned() })
}

/// Measures everything within one transaction that cannot write.
pub(super) fn measure(
    connection: &mut Connection,
    declared: &[(String, String)],
    patience: Duration,
) -> Result<Measured> {
    measure_telling(connection, declared, patience, |_| ())
}

fn measure_telling(
    connection: &mut Connection,
    declared: &[(String, String)],
    patience: Duration,
    tell: impl FnOnce(Seen),
) -> Result<Measured> {
    begin(connection, patience).map_err(|error| failed("the transaction of the facts", &error))?;
    let seen = seen(connection)?;
    tell(seen.clone());
    let mut facts = Facts::default();
    for (name, query) in declared {
        let value = value(connection, query).map_err(|error| failed(&format!("fact `{name}`"), &error))?;
        facts.declared.insert(name.clone(), value);
    }
    for (name, query) in OWN {
        let value = value(connection, query).map_err(|error| failed(&format!("fact `{name}`"), &error))?;
        facts.automatic.insert((*name).to_owned(), value);
    }
    connection.query("rollback").map_err(|error| failed("the transaction of the facts", &error))?;
    Ok(Measured { facts, seen })
}

fn begin(connection: &mut Connection, patience: Duration) -> std::result::Result<(), Failure> {
    connection.query("begin isolation level repeatable read read only")?;
    let patience = format!("set local statement_timeout = {}", patience.as_millis());
    connection.query(&patience).map(drop)
}

pub(super) fn failed(what: &str, error: &Failure) -> Error {
    if let Failure::Interrupted = error {
        return Error::Interrupted;
    }
    let why = match error.code() {
        "57014" => format!("it took too long ({error})"),
        "25006" => format!("it would change the database: a fact is a query ({error})"),
        _ => error.to_string(),
    };
    Error::Query { what: what.to_owned(), why }
}

/// Evaluates a query that gives one row with one value.
pub(super) fn value(connection: &mut Connection, query: &str) -> std::result::Result<Value, Failure> {
    let refused = |why: String| Failure::Refused(why);
    let rows = connection.query(query)?;
    let [kind] = rows.types[..] else {
        return Err(refused(format!("it gives {} columns: select one value", rows.types.len())));
    };
    let Ok([row]) = <[_; 1]>::try_from(rows.rows) else {
        return Err(refused(
            "it gives no row or more than one: select one value, such as a count".to_owned(),
        ));
    };
    let Some(found) = row.into_iter().next().flatten().map(text) else { return Ok(Value::Null) };
    let number = |found: &str| found.parse().ok().map(Value::Integer);
    Ok(match kind {
        // int8, int2, int4, oid; numeric, where it is whole and fits.
        20 | 21 | 23 | 26 | 1700 => number(&found).unwrap_or(Value::Text(found)),
        // float4, float8
        700 | 701 => found.parse().map_or(Value::Text(found), Value::Real),
        _ if found.len() > TEXT_BYTES_MAX => {
            return Err(refused(format!("it gives {} bytes of text: at most {TEXT_BYTES_MAX}", found.len())));
        }
        _ => Value::Text(found),
    })
}

/// The detail under which a fact's value before the end of the backup is kept.
fn before_of(name: &str) -> String {
    format!("before: {name}")
}

/// The detail that counts the transactions begun between the two measurements.
const BETWEEN: &str = "transactions between";

/// What must be known beside the facts of `after` to compare them.
pub(super) fn details(before: &Measured, after: &Measured) -> BTreeMap<String, String> {
    let mut details = BTreeMap::new();
    if before.seen == after.seen {
        return details;
    }
    // Those that were open before may have ended in between, too.
    let open = before.seen.open.split(',').filter(|open| !open.is_empty()).count();
    let between = after.seen.next.abs_diff(before.seen.next) + open as u64;
    details.insert(BETWEEN.to_owned(), between.to_string());
    for (name, value) in before.facts.all() {
        let value = serde_json::to_string(value).expect("a value has only text keys");
        details.insert(before_of(name), value);
    }
    details
}

/// Compares what was recorded with what a restored server says, within one transaction there.
///
/// `declared` are the facts of the plan as it is now.
pub(super) fn compare(
    proof: &mut Proof,
    recorded: &super::super::PointFacts,
    declared: &[String],
    connection: &mut Connection,
    patience: Duration,
) -> Result<()> {
    let own = |name: &str| OWN.iter().find(|(own, _)| *own == name).map(|(_, query)| (*query).to_owned());
    let declared_then = recorded.facts.declared.iter();
    let all = declared_then
        .map(|(name, value)| (name, value, format!("fact {name}"), recorded.queries.get(name).cloned()))
        .chain(recorded.facts.automatic.iter().map(|(name, value)| (name, value, name.clone(), own(name))));
    for (name, expected, what, query) in all {
        let Some(query) = query else {
            proof.unknown(what, expected, "this lifeboat does not know how it was measured");
            continue;
        };
        // Each by itself: one that fails would end the transaction of the others.
        let found = begin(connection, patience).and_then(|()| value(connection, &query));
        let ended = connection.query("rollback");
        match (found, ended) {
            (Err(Failure::Interrupted), _) | (_, Err(Failure::Interrupted)) => {
                return Err(Error::Interrupted);
            }
            (Ok(found), _) => one(proof, what, recorded, name, (expected, &found)),
            // Data that cannot be read, or is not there, is a loss and no lack of knowledge.
            (Err(error), _)
                if matches!(error.code(), "42P01" | "3F000" | "XX001" | "XX002" | "58030" | "58P01") =>
            {
                proof.compare(what, expected, error);
            }
            (Err(error), _) => proof.unknown(what, expected, error),
        }
    }
    for name in declared.iter().filter(|name| !recorded.facts.declared.contains_key(*name)) {
        let why = "the plan did not have it when this point was made: a newer point will";
        proof.unknown(format!("fact {name}"), "measured at the source", why);
    }
    Ok(())
}

/// Asks the facts of a cluster that was replayed beyond the moment in which they were measured: that they can be answered is
/// all that can be shown by them.
pub(super) fn asked(
    proof: &mut Proof,
    declared: &[(String, String)],
    connection: &mut Connection,
    patience: Duration,
) -> Result<()> {
    let own = OWN.iter().map(|(name, query)| ((*name).to_owned(), (*query).to_owned()));
    for (name, query) in own.chain(declared.iter().cloned()) {
        let found = begin(connection, patience).and_then(|()| value(connection, &query));
        let ended = connection.query("rollback");
        match (found, ended) {
            (Err(Failure::Interrupted), _) | (_, Err(Failure::Interrupted)) => {
                return Err(Error::Interrupted);
            }
            (Ok(_), _) => proof.compare(format!("the query of {name}"), "answered", "answered"),
            (Err(error), _) => proof.compare(format!("the query of {name}"), "answered", error),
        }
    }
    Ok(())
}

fn one(
    proof: &mut Proof,
    what: String,
    recorded: &super::super::PointFacts,
    name: &str,
    (expected, found): (&Value, &Value),
) {
    let before = recorded.details.get(&before_of(name)).and_then(|json| serde_json::from_str(json).ok());
    let between = recorded.details.get(BETWEEN).and_then(|count| count.parse::<u64>().ok());
    let (Some(before), Some(between)) = (before, between) else { return proof.agree(what, expected, found) };
    match (&before, expected, found) {
        (Value::Integer(before), Value::Integer(after), Value::Integer(now)) => {
            let (low, high) = (*before.min(after), *before.max(after));
            let expected = if low == high { low.to_string() } else { format!("{low} to {high}") };
            let off = low.abs_diff(*now.min(&low)).max(now.max(&high).abs_diff(high));
            if off == 0 {
                // Within is what it must be; said so that both sides read the same.
                proof.compare(what, &expected, &expected);
            } else if off <= between {
                let why =
                    format!("it is {now}, and others wrote while it was measured ({between} transactions)");
                proof.unknown(what, expected, why);
            } else {
                proof.compare(what, expected, now);
            }
        }
        _ if found == expected || *found == before => proof.compare(what, found, found),
        _ if before == *expected => proof.agree(what, expected, found),
        _ => {
            let why = format!("it is {found}, and others wrote while it was measured");
            proof.unknown(what, format!("{before} or {expected}"), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{PointFacts, Proven};
    use super::*;

    fn judged(before: i64, after: i64, between: u64, now: i64) -> Proven {
        let mut recorded = PointFacts::example("postgres");
        recorded.details.insert(before_of("rows"), serde_json::to_string(&Value::Integer(before)).unwrap());
        recorded.details.insert(BETWEEN.to_owned(), between.to_string());
        let mut proof = Proof::default();
        one(
            &mut proof,
            "fact rows".to_owned(),
            &recorded,
            "rows",
            (&Value::Integer(after), &Value::Integer(now)),
        );
        proof.outcome()
    }

    #[test]
    fn a_moving_fact_must_lie_between_its_measurements() {
        assert_eq!(judged(10, 20, 5, 10), Proven::Proven);
        assert_eq!(judged(10, 20, 5, 20), Proven::Proven);
        assert_eq!(judged(20, 10, 5, 15), Proven::Proven);
        assert_eq!(judged(10, 20, 5, 21), Proven::NotProven);
        assert_eq!(judged(10, 20, 5, 5), Proven::NotProven);
        assert_eq!(judged(10, 20, 5, 4), Proven::Failed);
        assert_eq!(judged(10, 20, 5, 26), Proven::Failed);
        assert_eq!(judged(1000, 1000, 3, 0), Proven::Failed);
    }

    #[test]
    fn a_quiet_fact_must_be_the_same() {
        let recorded = PointFacts::example("postgres");
        let mut proof = Proof::default();
        one(&mut proof, "fact rows".to_owned(), &recorded, "rows", (&Value::Integer(5), &Value::Integer(4)));
        assert_eq!(proof.outcome(), Proven::Failed);
        let at = |next| Measured { facts: Facts::default(), seen: Seen { next, open: String::new() } };
        let quiet = at(7);
        assert_eq!(details(&quiet, &quiet), BTreeMap::new());
        let busy = at(9);
        assert_eq!(details(&quiet, &busy)[BETWEEN], "2");
    }
}
