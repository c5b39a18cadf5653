//! The check of a database: one query that reads, and what it must yield.
//!
//! Another engine is a variant of [`Database`] and a function like [`sqlite`] and [`postgres`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, ErrorCode, OpenFlags};

use super::answer::{Answer, Deadline, Over};
use super::network::late;
use super::question::{Database, Sql, SqlExpect};
use super::{Asking, Invalid};
use crate::component::PostgresOptions;
use crate::component::postgres::question::{self, Unanswered};

/// How long to wait for a writer that holds the database, if the check has that long; the runbook asks again.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);

/// Rows that an answer shows.
const ROWS_SHOWN: usize = 3;

/// A question to a database that has been understood.
#[derive(Debug)]
pub(super) struct SqlCheck(Sql);

/// What a query yielded, as far as it matters: the first rows.
#[derive(Debug, Default)]
struct Rows {
    first: Vec<Vec<String>>,
    columns: usize,
    more: bool,
}

/// Why a query yielded nothing.
enum Failed {
    Over(Over),
    /// The path has no file.
    Missing,
    Sqlite(rusqlite::Error),
    Postgres(Unanswered),
    /// The query is not one that a check may run; says why.
    Refused(&'static str),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Failed {
        Failed::Sqlite(error)
    }
}

impl SqlCheck {
    pub(super) fn new(sql: Sql) -> Result<SqlCheck, Invalid> {
        if sql.query.trim().is_empty() {
            return Err(Invalid::Value { what: "the query".into(), why: "it is empty" });
        }
        if matches!(sql.expect, SqlExpect::AtLeast(number) | SqlExpect::AtMost(number) if number.is_nan()) {
            return Err(Invalid::Value { what: "the limit".into(), why: "it is not a number" });
        }
        Ok(SqlCheck(sql))
    }

    pub(super) fn question(&self) -> &Sql {
        &self.0
    }

    pub(super) fn describe(&self) -> String {
        format!("{} on {} yields {}", self.0.query.trim(), self.path().display(), expected(&self.0.expect))
    }

    pub(super) fn ask(&self, asking: &Asking<'_>) -> Answer {
        let asked = asking.place.within(|| match &self.0.database {
            Database::Sqlite { path } => sqlite(path, &self.0.query, &asking.deadline),
            Database::Postgres(options) => postgres(options, &self.0.query, asking),
        });
        match asked {
            Ok(Ok(rows)) => self.judge(&rows),
            Ok(Err(failed)) => self.failed(failed, asking),
            Err(error) => Answer::unknown(error.to_string()),
        }
    }

    fn path(&self) -> &Path {
        match &self.0.database {
            Database::Sqlite { path } => path,
            Database::Postgres(options) => &options.data,
        }
    }

    fn judge(&self, rows: &Rows) -> Answer {
        let holds = match &self.0.expect {
            SqlExpect::NotEmpty => !rows.first.is_empty(),
            SqlExpect::Empty => rows.first.is_empty(),
            SqlExpect::Equals(value) => rows.only_value() == Some(value.as_str()),
            SqlExpect::AtLeast(least) => rows.only_number().is_some_and(|number| number >= *least),
            SqlExpect::AtMost(most) => rows.only_number().is_some_and(|number| number <= *most),
        };
        let found = rows.describe();
        if holds {
            return Answer::Holds { detail: format!("{} yields {found}", self.0.query.trim()) };
        }
        self.fails("the query yields something else", found)
    }

    fn fails(&self, why: &str, found: String) -> Answer {
        Answer::fails(format!("{}: {why}", self.path().display()), expected(&self.0.expect), found)
    }

    fn failed(&self, failed: Failed, asking: &Asking<'_>) -> Answer {
        let path = self.path().display();
        match failed {
            Failed::Over(Over::Cancelled) => Answer::unknown("interrupted"),
            Failed::Over(Over::Late) => Answer::unknown(format!("the query on {path} gave {}", late(asking))),
            Failed::Missing => self.fails("the database is not there", "no such file".into()),
            Failed::Refused(why) => Answer::fatal(format!("cannot ask {path}: {why}: {}", self.0.query)),
            Failed::Sqlite(error) => self.failed_in_sqlite(&error),
            Failed::Postgres(Unanswered::Interrupted) => Answer::unknown("interrupted"),
            Failed::Postgres(Unanswered::Silent(why)) => self.fails("its server does not answer", why),
            Failed::Postgres(Unanswered::Wrong(why)) => self.fails("something is missing or damaged", why),
            Failed::Postgres(Unanswered::Nonsense(why)) => Answer::fatal(format!("cannot ask {path}: {why}")),
            Failed::Postgres(Unanswered::Unknown(why)) => {
                Answer::unknown(format!("cannot ask {path}: {why}"))
            }
        }
    }

    fn failed_in_sqlite(&self, error: &rusqlite::Error) -> Answer {
        let path = self.path().display();
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                self.fails("the database is damaged", text)
            }
            // SQLite has one code for a table that is missing, which a restore may yet bring, and for nonsense.
            Some(ErrorCode::Unknown) | None if is_absence(&text) => self.fails("something is missing", text),
            Some(ErrorCode::Unknown) | None => Answer::fatal(format!("cannot ask {path}: {text}")),
            Some(_) => Answer::unknown(format!("cannot ask {path}: {text}")),
        }
    }
}

impl Rows {
    fn only_value(&self) -> Option<&str> {
        match (self.first.as_slice(), self.more) {
            ([row], false) if self.columns == 1 => row.first().map(String::as_str),
            _ => None,
        }
    }

    fn only_number(&self) -> Option<f64> {
        self.only_value()?.parse().ok().filter(|number: &f64| !number.is_nan())
    }

    fn describe(&self) -> String {
        if self.first.is_empty() {
            return "no row".into();
        }
        let rows: Vec<String> = self.first.iter().map(|row| row.join("|")).collect();
        format!("{}{}", rows.join("; "), if self.more { "; and more rows" } else { "" })
    }
}

fn expected(expect: &SqlExpect) -> String {
    match expect {
        SqlExpect::Equals(value) => format!("{value:?} and nothing else"),
        SqlExpect::AtLeast(least) => format!("a number of {least} or more"),
        SqlExpect::AtMost(most) => format!("a number of {most} or less"),
        SqlExpect::NotEmpty => "a row or more".into(),
        SqlExpect::Empty => "no row".into(),
    }
}

fn is_absence(text: &str) -> bool {
    ["no such table", "no such column", "no such view"].iter().any(|words| text.contains(words))
}

/// Runs one reading statement on a SQLite file that is opened read-only.
///
/// A database in WAL mode needs its `-shm` file even for reading; SQLite makes one if the directory lets it.
fn sqlite(path: &Path, query: &str, deadline: &Deadline<'_>) -> Result<Rows, Failed> {
    // SQLite says only "unable to open" of a file that is not there.
    if std::fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Err(Failed::Missing);
    }
    let left = deadline.left().map_err(Failed::Over)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(left.min(LOCK_WAIT_MAX))?;
    let interrupt = connection.get_interrupt_handle();
    let rows = watched(deadline, move || interrupt.interrupt(), || rows_of(&connection, query));
    match rows {
        Err(Failed::Sqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Err(Failed::Over(deadline.left().err().unwrap_or(Over::Late)))
        }
        rows => rows,
    }
}

/// Does something that `interrupt` ends when the time is over.
fn watched<T>(deadline: &Deadline<'_>, interrupt: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while deadline.left().is_ok() {
                if is_done.recv_timeout(Duration::from_millis(50))
                    != Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                {
                    return;
                }
            }
            interrupt();
        });
        let result = work();
        drop(done);
        result
    })
}

/// Asks the server that works in a data directory.
fn postgres(options: &PostgresOptions, query: &str, asking: &Asking<'_>) -> Result<Rows, Failed> {
    let deadline = &asking.deadline;
    deadline.left().map_err(Failed::Over)?;
    let over = Arc::new(AtomicBool::new(false));
    let interrupt = || over.store(true, Ordering::Relaxed);
    let answer = watched(deadline, interrupt, || question::ask(options, asking.place, query, &over));
    match answer {
        Ok(answer) => {
            let more = answer.rows.len() > ROWS_SHOWN;
            let first = answer.rows.into_iter().take(ROWS_SHOWN).collect();
            Ok(Rows { first, columns: answer.columns, more })
        }
        Err(Unanswered::Interrupted) => Err(Failed::Over(deadline.left().err().unwrap_or(Over::Late))),
        Err(other) => Err(Failed::Postgres(other)),
    }
}

fn rows_of(connection: &Connection, query: &str) -> Result<Rows, Failed> {
    let mut statements = Batch::new(connection, query);
    let mut statement = statements.next()?.ok_or(Failed::Refused("there is no statement in it"))?;
    if statements.next()?.is_some() {
        return Err(Failed::Refused("a check is one statement"));
    }
    if !statement.readonly() {
        return Err(Failed::Refused("a check only reads, and this would write"));
    }
    let mut rows = Rows { columns: statement.column_count(), ..Rows::default() };
    let mut cursor = statement.query([])?;
    while let Some(row) = cursor.next()? {
        if rows.first.len() == ROWS_SHOWN {
            rows.more = true;
            break;
        }
        let values = (0..rows.columns).map(|column| row.get_ref(column).map(written));
        rows.first.push(values.collect::<Result<_, _>>()?);
    }
    Ok(rows)
}

/// A value as SQLite's shell writes it.
fn written(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        // With a point, also where there is nothing after it.
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
