//! Exports: the database as SQL text, and a query's rows as CSV. Derived files that any tool can read.

use std::io::{self, Write};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::{hex, quoted};

/// Why an export could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

type Result<T> = std::result::Result<T, ExportError>;

/// Writes the whole database as SQL, as `sqlite3 FILE .dump` does, and more faithfully: with row ids, the
/// user's version and text that holds NUL or carriage returns.
///
/// Reading it back with `sqlite3 NEW < dump.sql` gives the same rows, indexes, triggers and views.
pub(super) fn dump(connection: &Connection, out: &mut dyn Write) -> Result<()> {
    out.write_all(b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n")?;
    let mut writable = false;
    // As they were made, because a table may need an earlier one; SQLite's own last, because the others' rows
    // fill them.
    let query = "select name, sql from main.sqlite_schema where type = 'table' and sql is not null \
                 order by name = 'sqlite_sequence', rowid";
    let tables: Vec<(String, String)> = connection
        .prepare(query)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (name, sql) in tables {
        if is_virtual(&sql) {
            // Making a virtual table anew would make its hidden tables, too; those come with their rows
            // below.
            if !writable {
                out.write_all(b"PRAGMA writable_schema=ON;\n")?;
                writable = true;
            }
            let (name, sql) = (literal(&name), literal(&sql));
            writeln!(
                out,
                "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)VALUES('table',{name},{name},0,{sql});"
            )?;
            continue;
        }
        if name == "sqlite_sequence" {
            out.write_all(b"DELETE FROM sqlite_sequence;\n")?;
        } else if name.starts_with("sqlite_stat") {
            out.write_all(b"ANALYZE sqlite_schema;\n")?;
        } else if name.starts_with("sqlite_") {
            continue;
        } else {
            // Making a virtual table can have made it already.
            match strip_prefix(&sql, "CREATE TABLE ") {
                Some(rest) => writeln!(out, "CREATE TABLE IF NOT EXISTS {rest};")?,
                None => writeln!(out, "{sql};")?,
            }
        }
        rows(connection, &name, out)?;
    }
    let query = "select sql from main.sqlite_schema where sql is not null \
                 and type in ('index', 'trigger', 'view') order by rowid";
    let mut rest = connection.prepare(query)?;
    let mut found = rest.query([])?;
    while let Some(row) = found.next()? {
        writeln!(out, "{};", row.get::<_, String>(0)?)?;
    }
    if writable {
        out.write_all(b"PRAGMA writable_schema=OFF;\n")?;
    }
    for pragma in ["user_version", "application_id"] {
        let number: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
        writeln!(out, "PRAGMA {pragma}={number};")?;
    }
    out.write_all(b"COMMIT;\n")?;
    Ok(())
}

fn is_virtual(sql: &str) -> bool {
    strip_prefix(sql, "CREATE VIRTUAL TABLE").is_some()
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// Writes a table's rows as INSERT statements.
fn rows(connection: &Connection, table: &str, out: &mut dyn Write) -> Result<()> {
    let columns = columns(connection, table)?;
    let list = columns.join(",");
    let head = format!("INSERT INTO {}({list}) VALUES(", quoted(table));
    let mut statement = connection.prepare(&format!("select {list} from main.{}", quoted(table)))?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        out.write_all(head.as_bytes())?;
        for column in 0..columns.len() {
            if column > 0 {
                out.write_all(b",")?;
            }
            write_value(row.get_ref(column)?, out)?;
        }
        out.write_all(b");\n")?;
    }
    Ok(())
}

/// The columns that can be inserted: not the generated ones, and the row id where it is not one of them
/// already.
///
/// Row ids are kept because other tables may point to them, as full-text indexes with outside content do.
fn columns(connection: &Connection, table: &str) -> Result<Vec<String>> {
    let query = "select name, type, pk from pragma_table_info(?1, 'main')";
    let found: Vec<(String, String, i64)> = connection
        .prepare(query)?
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut columns: Vec<String> = found.iter().map(|(name, ..)| quoted(name)).collect();
    let without_rowid: bool = connection.query_row(
        "select wr from pragma_table_list where schema = 'main' and name = ?1",
        [table],
        |row| row.get(0),
    )?;
    let mut keys = found.iter().filter(|(.., pk)| *pk > 0);
    let is_alias = matches!((keys.next(), keys.next()), (Some((_, kind, _)), None) if kind.eq_ignore_ascii_case("integer"));
    let free = ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|word| !found.iter().any(|(name, ..)| name.eq_ignore_ascii_case(word)));
    if let (false, false, false, Some(word)) = (without_rowid, is_alias, table.starts_with("sqlite_"), free) {
        columns.insert(0, word.to_owned());
    }
    Ok(columns)
}

fn write_value(value: ValueRef<'_>, out: &mut dyn Write) -> io::Result<()> {
    match value {
        ValueRef::Null => out.write_all(b"NULL"),
        ValueRef::Integer(number) => write!(out, "{number}"),
        ValueRef::Real(number) if number.is_infinite() => {
            out.write_all(if number > 0.0 { b"1e999" } else { b"-1e999" })
        }
        // The shortest text that reads back as the same number, always with a point or an exponent.
        ValueRef::Real(number) => write!(out, "{number:?}"),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            // A line end of two characters would lose one in the shell's reader, and NUL would end the
            // statement.
            Ok(plain) if !plain.contains(['\0', '\r']) => out.write_all(literal(plain).as_bytes()),
            _ => write!(out, "CAST(X'{}' AS TEXT)", hex(text)),
        },
        ValueRef::Blob(bytes) => write!(out, "X'{}'", hex(bytes)),
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Writes a query's rows as CSV with a line of names first: RFC 4180, UTF-8, null as nothing, an empty text
/// as `""`, a blob as hexadecimal.
pub(super) fn csv(connection: &Connection, query: &str, out: &mut dyn Write) -> Result<()> {
    let mut statement = connection.prepare(query)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    for (number, name) in names.iter().enumerate() {
        separate(number, out)?;
        field(name, out)?;
    }
    out.write_all(b"\r\n")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        record(row, names.len(), out)?;
    }
    Ok(())
}

fn record(row: &Row<'_>, columns: usize, out: &mut dyn Write) -> Result<()> {
    for column in 0..columns {
        separate(column, out)?;
        match row.get_ref(column)? {
            ValueRef::Null => {}
            ValueRef::Integer(number) => write!(out, "{number}")?,
            ValueRef::Real(number) => write!(out, "{number:?}")?,
            ValueRef::Text(text) => field(&String::from_utf8_lossy(text), out)?,
            ValueRef::Blob(bytes) => field(&hex(bytes), out)?,
        }
    }
    out.write_all(b"\r\n")?;
    Ok(())
}

fn separate(column: usize, out: &mut dyn Write) -> io::Result<()> {
    if column > 0 { out.write_all(b",") } else { Ok(()) }
}

fn field(text: &str, out: &mut dyn Write) -> io::Result<()> {
    if text.is_empty() || text.contains([',', '"', '\r', '\n']) {
        write!(out, "\"{}\"", text.replace('"', "\"\""))
    } else {
        out.write_all(text.as_bytes())
    }
}
