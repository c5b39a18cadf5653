//! Facts of a SQLite database: those that the plan declares and those that the driver measures by itself.

use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};
use sha2::{Digest, Sha256};

use super::super::Cancel;
use super::source::bound;
use crate::facts::{Facts, Value};
use crate::{Error, Result};

/// Rows and foreign keys of larger databases are not looked at by ourselves: it would take longer than to
/// back them up. What the plan declares always is.
const COUNTED_BYTES_MAX: u64 = 1 << 30;
/// A fact is something to compare and to print, not a document.
const TEXT_BYTES_MAX: usize = 4096;

/// The names of the driver's own facts.
pub(super) const SCHEMA: &str = "schema";
pub(super) const PAGES: &str = "pages";
pub(super) const VIOLATIONS: &str = "foreign key violations";
const ROWS_IN: &str = "rows in ";

/// Evaluates one declared fact: a query that gives one row with one value.
pub(super) fn declared(
    connection: &mut Connection,
    name: &str,
    query: &str,
    patience: Duration,
    cancel: &Cancel,
) -> Result<Value> {
    let failed = |why: String| Error::Query { what: format!("fact `{name}`"), why };
    let sql = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) if cancel.load(std::sync::atomic::Ordering::Relaxed) => {
            Error::Interrupted
        }
        Some(ErrorCode::OperationInterrupted) => failed(format!("it took longer than {patience:?}")),
        _ => failed(error.to_string()),
    };
    bound(connection, patience, cancel).map_err(sql)?;
    let mut statement = connection.prepare(query).map_err(sql)?;
    if !statement.readonly() {
        return Err(failed("it would change the database: a fact is a query".to_owned()));
    }
    if statement.column_count() != 1 {
        return Err(failed(format!("it gives {} columns: select one value", statement.column_count())));
    }
    let mut rows = statement.query([]).map_err(sql)?;
    let Some(row) = rows.next().map_err(sql)? else {
        return Err(failed("it gives no row: select one value, such as a count".to_owned()));
    };
    let value = value(row.get_ref(0).map_err(sql)?).map_err(failed)?;
    if rows.next().map_err(sql)?.is_some() {
        return Err(failed("it gives more than one row: select one value".to_owned()));
    }
    Ok(value)
}

fn value(found: ValueRef<'_>) -> std::result::Result<Value, String> {
    match found {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(number) => Ok(Value::Integer(number)),
        ValueRef::Real(number) => Ok(Value::Real(number)),
        ValueRef::Text(text) if text.len() > TEXT_BYTES_MAX => {
            Err(format!("it gives {} bytes of text: at most {TEXT_BYTES_MAX}", text.len()))
        }
        ValueRef::Text(text) => Ok(Value::Text(String::from_utf8_lossy(text).into_owned())),
        ValueRef::Blob(_) => Err("it gives a blob: select hex() or length() of it".to_owned()),
    }
}

/// Measures what the driver measures by itself.
///
/// Rows of tables and violations of foreign keys only in databases of up to 1 GiB.
pub(super) fn automatic(connection: &Connection) -> rusqlite::Result<Facts> {
    let mut facts = Facts::default();
    let mut add = |name: &str, value: Value| _ = facts.automatic.insert(name.to_owned(), value);
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (pages, page_bytes) = (number("page_count")?, number("page_size")?);
    add(PAGES, Value::Integer(pages));
    add("page size", Value::Integer(page_bytes));
    add("user_version", Value::Integer(number("user_version")?));
    add("application_id", Value::Integer(number("application_id")?));
    add(SCHEMA, Value::Text(schema(connection)?));
    if pages.saturating_mul(page_bytes).unsigned_abs() <= COUNTED_BYTES_MAX {
        for table in tables(connection)? {
            add(&format!("{ROWS_IN}{table}"), Value::Integer(rows(connection, &table)?));
        }
        add(VIOLATIONS, Value::Integer(violations(connection)?));
    }
    Ok(facts)
}

/// Evaluates one of the driver's own facts, by its name; nothing for a name that it does not know.
pub(super) fn again(connection: &Connection, name: &str) -> rusqlite::Result<Option<Value>> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let value = match name {
        PAGES => Value::Integer(number("page_count")?),
        "page size" => Value::Integer(number("page_size")?),
        "user_version" | "application_id" => Value::Integer(number(name)?),
        SCHEMA => Value::Text(schema(connection)?),
        VIOLATIONS => Value::Integer(violations(connection)?),
        _ => match name.strip_prefix(ROWS_IN) {
            Some(table) => Value::Integer(rows(connection, table)?),
            None => return Ok(None),
        },
    };
    Ok(Some(value))
}

/// Whose database it is, for people and for [`is_other`].
pub(super) fn identity(connection: &Connection) -> rusqlite::Result<String> {
    let id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok(format!("application {id}; tables {}", tables(connection)?.join(", ")))
}

/// Tells whether two identities are of two applications: their ids differ, or they share no table.
pub(super) fn is_other(one: &str, two: &str) -> bool {
    let (Some((id, tables)), Some((other_id, others))) = (one.split_once("; "), two.split_once("; ")) else {
        return false;
    };
    let names = |tables: &str| -> Vec<String> {
        let list = tables.strip_prefix("tables ").unwrap_or_default();
        list.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let (tables, others) = (names(tables), names(others));
    let disjoint = !tables.iter().any(|name| others.contains(name));
    id != other_id || (disjoint && !tables.is_empty() && !others.is_empty())
}

/// The ordinary tables, without those of SQLite itself and those that only carry a virtual one.
pub(super) fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let query = "select name from pragma_table_list where schema = 'main' and type = 'table' \
                 and name not like 'sqlite\\_%' escape '\\' order by name";
    connection.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

fn rows(connection: &Connection, table: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("select count(*) from main.{}", super::quoted(table)), [], |row| row.get(0))
}

fn violations(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare("pragma main.foreign_key_check")?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while rows.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

fn schema(connection: &Connection) -> rusqlite::Result<String> {
    let query = "select type, name, tbl_name, coalesce(sql, '') from main.sqlite_schema order by 1, 2, 3, 4";
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    let mut digest = Sha256::new();
    while let Some(row) = rows.next()? {
        for column in 0..4 {
            let text = row.get_ref(column)?.as_str().unwrap_or_default();
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
    }
    Ok(super::hex(&digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::is_other;

    #[test]
    fn identities_differ_by_application_or_by_all_tables() {
        let hub = "application 7; tables agents, events";
        assert!(!is_other(hub, "application 7; tables agents, audit"));
        assert!(!is_other(hub, "application 7; tables "));
        assert!(is_other(hub, "application 8; tables agents, events"));
        assert!(is_other(hub, "application 7; tables invoices"));
        assert!(!is_other(hub, "unreadable"));
    }
}
