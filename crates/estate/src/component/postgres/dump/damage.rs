//! Damage done on purpose to restored dumps, for a negative drill.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::super::Part;
use super::super::super::damage::{self, Damage};
use super::{Contents, only};
use crate::{Error, Result};

/// The end of the rows in a file of them, as `COPY` writes it.
const END: &[u8] = b"\\.\n";

/// Damages dumps; `None` when there is no table with a row.
pub(super) fn damage(parts: &[Part], contents: &Contents, how: Damage) -> Result<Option<String>> {
    let part = only(parts)?;
    let tables = tables(&part.beside, contents)?;
    let Some((path, bytes)) = tables.first() else { return Ok(None) };
    Ok(Some(match how {
        Damage::Flip => {
            damage::flip(path, bytes / 2, 1)?;
            format!("a byte of {} was flipped", path.display())
        }
        Damage::Cut => {
            damage::cut(path, bytes / 2)?;
            format!("{} was cut to {} of {bytes} bytes", path.display(), bytes / 2)
        }
        Damage::Lose => {
            for (path, _) in &tables {
                lose(path)?;
            }
            format!(
                "half of the rows of all {} tables with rows were removed, one at least of each",
                tables.len()
            )
        }
    }))
}

/// Takes the first half of the rows away; what is left is as whole as before.
fn lose(path: &Path) -> Result<()> {
    let wrong = |error| Error::io("damage", path)(error);
    let text = fs::read(path).map_err(wrong)?;
    let rows = rows(&text);
    let lost: usize = rows.iter().take(rows.len().div_ceil(2)).map(|row| row.len()).sum();
    fs::write(path, &text[lost..]).map_err(wrong)
}

/// The lines of a file that are rows.
fn rows(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').take_while(|line| *line != END).collect()
}

/// The files of tables that have rows, the largest first.
fn tables(dump: &Path, contents: &Contents) -> Result<Vec<(PathBuf, u64)>> {
    let mut tables = Vec::new();
    for database in &contents.databases {
        let directory = dump.join(&database.directory);
        for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
            let path = entry.map_err(Error::io("list", &directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_table = name.strip_suffix(".dat").is_some_and(|number| number.parse::<u32>().is_ok());
            if is_table {
                let text = fs::read(&path).map_err(Error::io("read", &path))?;
                if !rows(&text).is_empty() {
                    tables.push((path, text.len() as u64));
                }
            }
        }
    }
    tables.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    Ok(tables)
}
