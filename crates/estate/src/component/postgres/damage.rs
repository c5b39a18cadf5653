//! Damage done on purpose to a restored cluster, for a negative drill.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::damage::{self, Damage};
use super::super::{Part, PointFacts};
use super::detail;
use super::log::Lsn;
use super::pages::PAGE_BYTES;
use crate::{Error, Result};

/// Numbers of relations from which on they are users' (`FirstNormalObjectId` of `transam.h`).
const USERS: u32 = 16_384;
/// Where in a page's header it says where its rows begin, and where what only indexes have (`PageHeaderData` of `bufpage.h`).
const UPPER: usize = 14;
const SPECIAL: usize = 16;

/// Damages a cluster; `None` when it has no table with a row.
pub(super) fn damage(parts: &[Part], recorded: &PointFacts, how: Damage) -> Result<Option<String>> {
    let Some(data) = parts.last().map(|part| &part.beside) else { return Ok(None) };
    if how == Damage::Cut {
        return cut_log(data, recorded);
    }
    let tables = tables(parts)?;
    let Some(largest) = tables.first() else { return Ok(None) };
    if how == Damage::Flip {
        // The last row that was put there first lies at the end of the first page.
        damage::flip(&largest.path, u64::from(largest.rows_begin), 4)?;
        return Ok(Some(format!("bytes were flipped in a row in {}", largest.path.display())));
    }
    for table in &tables {
        let pages = table.bytes / PAGE_BYTES as u64;
        damage::cut(&table.path, pages / 2 * PAGE_BYTES as u64)?;
    }
    let count = tables.len();
    Ok(Some(format!("half of the pages of all {count} tables with rows were removed, one at least of each")))
}

/// A file with rows.
struct Table {
    path: PathBuf,
    bytes: u64,
    /// Where in its first page rows begin.
    rows_begin: u16,
}

/// The files of users' tables that have rows, the largest first; only the first gigabyte of each.
fn tables(parts: &[Part]) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for (path, bytes) in damage::files(parts)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_users = name.parse::<u32>().is_ok_and(|number| number >= USERS);
        if !is_users || bytes < PAGE_BYTES as u64 {
            continue;
        }
        let mut page = [0; 24];
        let read = File::open(&path).and_then(|mut file| file.read_exact(&mut page));
        read.map_err(Error::io("read", &path))?;
        let field = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        let (rows_begin, special) = (field(UPPER), field(SPECIAL));
        // Indexes keep something at the end of each page; a page without a row has nothing before that.
        if usize::from(special) == PAGE_BYTES && rows_begin < special {
            tables.push(Table { path, bytes, rows_begin });
        }
    }
    Ok(tables)
}

/// Cuts the segment of the log with which the replay begins, at the record at which it does.
fn cut_log(data: &Path, recorded: &PointFacts) -> Result<Option<String>> {
    let directory = data.join("pg_wal");
    let mut segments: Vec<PathBuf> = fs::read_dir(&directory)
        .map_err(Error::io("list", &directory))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.len() == 24))
        .collect();
    segments.sort();
    let start = recorded.details.get(detail::START).and_then(|start| start.parse::<Lsn>().ok());
    let (Some(first), Some(start)) = (segments.first(), start) else { return Ok(None) };
    let bytes = fs::metadata(first).map_err(Error::io("look at", first))?.len();
    let kept = start.0 % bytes.max(1);
    damage::cut(first, kept)?;
    Ok(Some(format!("{} was cut to {kept} of {bytes} bytes, where the replay begins", first.display())))
}
