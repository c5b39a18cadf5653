//! Which tables a SQLite database has, and how many rows are in them; read only, and for a short time only.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

/// How long the tables of one database are counted.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a writer is waited for.
const BUSY: Duration = Duration::from_millis(500);
/// How many tables are counted.
const TABLES_MAX: usize = 200;
/// How many steps of SQLite's machine pass between two looks at the clock; some tens of microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// Gives the tables that have rows, the most first; and what is not known about them.
///
/// `live` says that a process has it open. One that nobody has open is read as it lies there, so that no file is made
/// beside it; what a crashed program left in a log is then not seen, which is good enough for choosing tables.
pub(super) fn count(path: &Path, live: bool, deadline: Instant) -> (Vec<(String, u64)>, Option<String>) {
    let deadline = deadline.min(Instant::now() + PATIENCE);
    let opened = open(path, live || beside(path, "-shm").exists());
    let tables = opened.and_then(|mut connection| {
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() >= deadline))?;
        let names = names(&connection)?;
        Ok((connection, names))
    });
    let (connection, names) = match tables {
        Ok(tables) => tables,
        Err(error) => return (Vec::new(), Some(format!("its tables could not be read: {error}"))),
    };
    let (mut counted, mut untold) = (Vec::new(), None);
    for name in names {
        match connection.query_row(&query(&name), [], |row| row.get::<_, i64>(0)) {
            Ok(rows) => counted.push((name, rows.cast_unsigned())),
            Err(error) => untold = Some(format!("the rows of {name:?} could not be counted: {error}")),
        }
    }
    counted.retain(|(_, rows)| *rows > 0);
    counted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    (counted, untold)
}

/// The query that counts the rows of a table.
pub(crate) fn query(table: &str) -> String {
    let plain = table.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && table.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && table.contains('_');
    // A single word may be a keyword such as `order`, so only names with an underscore go without quotes.
    if plain {
        format!("select count(*) from {table}")
    } else {
        format!("select count(*) from \"{}\"", table.replace('"', "\"\""))
    }
}

fn open(path: &Path, live: bool) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = if live {
        Connection::open_with_flags(path, flags)?
    } else {
        let mut uri = String::from("file:");
        for &byte in path.as_os_str().as_encoded_bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => uri.push(byte.into()),
                _ => uri.push_str(&format!("%{byte:02x}")),
            }
        }
        Connection::open_with_flags(uri + "?immutable=1", flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// The tables themselves: neither views, nor virtual tables, nor what belongs to those.
fn names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let text = "select name from pragma_table_list where schema = 'main' and type = 'table' \
                and name not like 'sqlite\\_%' escape '\\' order by name";
    let mut statement = connection.prepare(text)?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.take(TABLES_MAX).collect()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
