//! Damage done on purpose to a restored database, for a negative drill.

use std::fs;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::super::damage::{self, Damage};
use super::super::{Part, appended};
use super::{measure, quoted};
use crate::{Error, Result};

/// How much of the header of a page is flipped: its kind, its free space, how many cells it has and where they begin.
const PAGE_HEADER_BYTES: usize = 8;

/// Damages the one part; `None` when the database has no row.
pub(super) fn damage(parts: &[Part], how: Damage) -> Result<Option<String>> {
    let [part] = parts else { return Ok(None) };
    let path = &part.beside;
    let failed = |error: rusqlite::Error| Error::BadTarget { path: path.clone(), why: error.to_string() };
    if how == Damage::Cut {
        let bytes = super::file_of(part)?.len();
        damage::cut(path, bytes / 2)?;
        return Ok(Some(format!("it was cut to {} of {bytes} bytes", bytes / 2)));
    }
    let connection = Connection::open(path).map_err(failed)?;
    let Some((table, rows)) = largest(&connection).map_err(failed)? else { return Ok(None) };
    let told = match how {
        Damage::Flip => {
            let root = "select rootpage from main.sqlite_schema where type = 'table' and name = ?1";
            let root: u32 = connection.query_row(root, [&table], |row| row.get(0)).map_err(failed)?;
            let page_bytes: u32 =
                connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(failed)?;
            connection.close().map_err(|(_, error)| failed(error))?;
            damage::flip(path, u64::from(root - 1) * u64::from(page_bytes), PAGE_HEADER_BYTES)?;
            format!("bytes were flipped in page {root}, where the table {table} begins")
        }
        Damage::Lose | Damage::Cut => {
            let gone = remove_rows(&connection, &table, rows).map_err(failed)?;
            connection.close().map_err(|(_, error)| failed(error))?;
            format!("{gone} of {rows} rows of the table {table} were removed")
        }
    };
    // What SQLite itself has made beside it belongs to this opening.
    for ending in super::source::COMPANIONS {
        _ = fs::remove_file(appended(path, ending));
    }
    Ok(Some(told))
}

/// The ordinary table with the most rows, and how many; nothing when none has any.
fn largest(connection: &Connection) -> rusqlite::Result<Option<(String, i64)>> {
    let mut largest = None;
    for table in measure::tables(connection)? {
        let count = format!("select count(*) from main.{}", quoted(&table));
        let rows = connection.query_row(&count, [], |row| row.get(0))?;
        if rows > largest.as_ref().map_or(0, |(_, most)| *most) {
            largest = Some((table, rows));
        }
    }
    Ok(largest)
}

/// Removes half of the rows, one at least, as an application would: what is left is whole.
fn remove_rows(connection: &Connection, table: &str, rows: i64) -> rusqlite::Result<usize> {
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let (table, wanted) = (quoted(table), (rows + 1) / 2);
    let half =
        format!("delete from main.{table} where rowid in (select rowid from main.{table} limit {wanted})");
    // A table without row ids loses all of them.
    let gone = connection
        .execute(&half, [])
        .or_else(|_| connection.execute(&format!("delete from main.{table}"), []))?;
    let mode: String = connection.query_row("pragma journal_mode", [], |row| row.get(0))?;
    if mode == "wal" {
        connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))?;
    }
    Ok(gone)
}
