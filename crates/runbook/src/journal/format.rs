//! The text of a journal: lines of JSON, chained by checksums.
//!
//! ```text
//! {"lifeboat_journal":1,"run":"recover-7"}
//! {"sum":"0123456789abcdef","entry":{"seq":1,…}}
//! ```
//!
//! `sum` is the beginning of the SHA-256 of the `sum` of the line before (of the first line: its whole text) and the text of `entry`.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::JournalError;
use crate::event::Entry;

/// The version of the format that is written; older ones would be read, newer ones are refused.
pub const FORMAT_VERSION: u32 = 1;

/// Longer sums find no more damage, and shorter lines are easier to look at.
const SUM_BYTES: usize = 8;

/// Fewer zeros than this are damage to what was there, and not blocks that never were.
const ZEROS_MIN: usize = 8;

const BEFORE_SUM: &str = "{\"sum\":\"";
const BEFORE_ENTRY: &str = "\",\"entry\":";
const AFTER_ENTRY: &str = "}";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    lifeboat_journal: u32,
    run: String,
}

/// What can be told of the first line of any version.
#[derive(Deserialize)]
struct Version {
    lifeboat_journal: u32,
}

/// The text of a journal, taken apart and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The run's id.
    pub run: String,
    /// Every whole entry.
    pub entries: Vec<Entry>,
    /// How many bytes from the beginning are whole lines.
    pub whole_bytes: usize,
    /// Whether something follows them.
    pub torn: bool,
    pub(super) sum: Sum,
}

/// The link from one line to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum(String);

impl Sum {
    fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        let digest = hasher.finalize();
        Self(digest.iter().take(SUM_BYTES).map(|byte| format!("{byte:02x}")).collect())
    }

    fn next(&self, entry: &str) -> Self {
        Self::of(&[self.0.as_bytes(), entry.as_bytes()])
    }
}

/// Makes the first line, and the sum that the second one continues.
pub(super) fn header(run: &str) -> (String, Sum) {
    let header = Header { lifeboat_journal: FORMAT_VERSION, run: run.to_owned() };
    let text = serde_json::to_string(&header).expect("a header of a number and a text is JSON");
    let sum = Sum::of(&[text.as_bytes()]);
    (text + "\n", sum)
}

/// Makes the line of an entry, and the sum that the next one continues.
pub(super) fn line(before: &Sum, entry: &Entry) -> (String, Sum) {
    let text = serde_json::to_string(entry).expect("an entry has no map whose keys are not text");
    let sum = before.next(&text);
    (format!("{BEFORE_SUM}{}{BEFORE_ENTRY}{text}{AFTER_ENTRY}\n", sum.0), sum)
}

/// Takes the text of a journal apart. A last line that has no end, or was never wholly written, is left out
/// and reported as torn; any other damage is an error.
pub fn parse(bytes: &[u8]) -> Result<Parsed, JournalError> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Err(JournalError::Empty);
    };
    let mut parsed = first_line(&bytes[..end])?;
    parsed.whole_bytes = end + 1;
    let mut number = 1;
    while parsed.whole_bytes < bytes.len() {
        let rest = &bytes[parsed.whole_bytes..];
        number += 1;
        let end = rest.iter().position(|byte| *byte == b'\n');
        let is_last = end.is_none_or(|end| end + 1 == rest.len());
        let read = match end {
            Some(end) => read_line(&rest[..end], &parsed.sum).map(|(entry, sum)| (entry, sum, end + 1)),
            None => Err("it has no end".to_owned()),
        };
        match read {
            Ok((entry, sum, length)) => {
                parsed.entries.push(entry);
                parsed.sum = sum;
                parsed.whole_bytes += length;
            }
            Err(_) if is_last && (end.is_none() || was_never_written(rest)) => {
                parsed.torn = true;
                break;
            }
            Err(why) => return Err(JournalError::Damaged { line: number, why }),
        }
    }
    Ok(parsed)
}

/// After a power cut a file can be as long as the line would have made it, with zeros where the line's blocks had not been
/// written. JSON holds none.
fn was_never_written(line: &[u8]) -> bool {
    line.windows(ZEROS_MIN).any(|window| window.iter().all(|byte| *byte == 0))
}

fn first_line(line: &[u8]) -> Result<Parsed, JournalError> {
    let damaged = |error: serde_json::Error| JournalError::Damaged { line: 1, why: error.to_string() };
    let Version { lifeboat_journal: found } = serde_json::from_slice(line).map_err(damaged)?;
    if found > FORMAT_VERSION {
        return Err(JournalError::Newer { found });
    }
    let Header { run, .. } = serde_json::from_slice(line).map_err(damaged)?;
    Ok(Parsed { run, entries: Vec::new(), whole_bytes: 0, torn: false, sum: Sum::of(&[line]) })
}

fn read_line(line: &[u8], before: &Sum) -> Result<(Entry, Sum), String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let parts = text
        .strip_prefix(BEFORE_SUM)
        .and_then(|rest| rest.strip_suffix(AFTER_ENTRY))
        .and_then(|rest| rest.split_once(BEFORE_ENTRY));
    let Some((claimed, entry)) = parts else {
        return Err("it is not made of a sum and an entry".to_owned());
    };
    let sum = before.next(entry);
    if sum.0 != claimed {
        return Err("its checksum is not that of its text and the line before".to_owned());
    }
    let entry: Entry = serde_json::from_str(entry).map_err(|error| error.to_string())?;
    Ok((entry, sum))
}
