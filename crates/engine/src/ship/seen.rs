//! The record that a source was looked at and nothing new was there: the log of an idle database is not an old one.
//!
//! It is a sidecar object `seen/<component>/<instant>`; the newest counts, and the one before is removed when it is
//! written. It says up to which position everything was archived at that instant, and counts only as long as that is the end of
//! what is archived.

use jiff::Timestamp;
use repository::Repository;
use repository::log::escape;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const DIRECTORY: &str = "seen";
const VERSION: u32 = 1;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    version: u32,
    /// The lineage that was followed.
    pub lineage: String,
    /// The position before which everything is that was committed before the instant.
    pub position: u64,
    /// The instant.
    pub instant: Timestamp,
}

fn directory(component: &str) -> String {
    format!("{DIRECTORY}/{}", escape(component))
}

impl Seen {
    pub fn new(lineage: &str, position: u64, instant: Timestamp) -> Self {
        Self { version: VERSION, lineage: lineage.to_owned(), position, instant }
    }

    /// Writes it in the place of those before.
    pub fn save(&self, repository: &Repository, component: &str) -> Result<()> {
        let directory = directory(component);
        let before = repository.sidecar_list(&directory)?;
        let name = format!("{directory}/{:016x}", self.instant.as_microsecond());
        let bytes = serde_json::to_vec(self).expect("a record has only text keys");
        repository.sidecar_create(&name, &bytes)?;
        for (old, _) in before.into_iter().filter(|(old, _)| *old < name) {
            repository.sidecar_remove(&old)?;
        }
        Ok(())
    }

    /// Reads the newest; `None` where there is none, or it is of a newer version than this program knows.
    pub fn newest(repository: &Repository, component: &str) -> Result<Option<Self>> {
        let listed = repository.sidecar_list(&directory(component))?;
        let Some((name, _)) = listed.last() else { return Ok(None) };
        let Some(bytes) = repository.sidecar_read(name)? else { return Ok(None) };
        let seen: Self = serde_json::from_slice(&bytes).map_err(|error| Error::damaged(name, error))?;
        Ok((seen.version <= VERSION).then_some(seen))
    }
}
