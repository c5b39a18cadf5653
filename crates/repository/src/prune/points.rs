//! Records of recovery points whose snapshots are gone: forgotten by name, or with stock restic, which knows no records.
//!
//! Such a record is marked by an object `forgotten/<snapshot>` that says since when, and deleted by a prune that
//! finds it marked long enough ago and its snapshot still missing. A snapshot that was brought back meanwhile takes
//! its record back.
//!
//! # Crash
//! Each write is one object. A record goes before its mark, so that a crash leaves a mark without a record,
//! which the next prune removes.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::format::Time;
use crate::{Id, Repository, Result, SnapshotEntry};

/// The directory of records that belong to one snapshot each and are named after it.
const POINTS: &str = "points";
/// The directory of marks.
const MARKS: &str = "forgotten";

/// What a mark says.
#[derive(Serialize, Deserialize)]
struct Mark {
    since: Time,
}

/// What becomes of records without a snapshot, and of marks; nothing has changed yet.
#[derive(Default)]
pub(super) struct Sweep {
    mark: Vec<Id>,
    delete: Vec<Id>,
    /// Marks of records that are gone, or whose snapshot is there again.
    unmark: Vec<Id>,
}

impl Sweep {
    pub fn plan(
        repository: &Repository,
        snapshots: &[SnapshotEntry],
        keep: Duration,
        now: Time,
    ) -> Result<Self> {
        let there: HashSet<Id> = snapshots.iter().map(|entry| entry.id).collect();
        let points = listed(repository, POINTS)?;
        let mut marks = BTreeMap::new();
        for id in listed(repository, MARKS)? {
            // A mark that says nothing is written anew.
            let mark = match repository.sidecar_read(&name(MARKS, id)) {
                Err(error) if error.is_isolated() => None,
                other => other?,
            };
            let since =
                mark.and_then(|bytes| serde_json::from_slice::<Mark>(&bytes).ok()).map(|mark| mark.since);
            marks.insert(id, since);
        }
        let mut sweep = Self::default();
        for id in points.iter().filter(|id| !there.contains(id)) {
            match marks.get(id) {
                _ if keep.is_zero() => sweep.delete.push(*id),
                Some(Some(since)) if is_due(*since, keep, now) => sweep.delete.push(*id),
                Some(Some(_)) => {}
                Some(None) | None => sweep.mark.push(*id),
            }
        }
        sweep.unmark = marks
            .into_iter()
            .filter(|(id, since)| since.is_none() || there.contains(id) || !points.contains(id))
            .map(|(id, _)| id)
            .collect();
        Ok(sweep)
    }

    /// How many are marked and how many deleted.
    pub fn counts(&self) -> (u64, u64) {
        (self.mark.len() as u64, self.delete.len() as u64)
    }

    pub fn execute(&self, repository: &Repository, now: Time) -> Result<()> {
        for id in &self.unmark {
            repository.sidecar_remove(&name(MARKS, *id))?;
        }
        let mark = serde_json::to_vec(&Mark { since: now }).expect("a mark has only text keys");
        for id in &self.mark {
            repository.sidecar_create(&name(MARKS, *id), &mark)?;
        }
        for id in &self.delete {
            repository.sidecar_remove(&name(POINTS, *id))?;
            repository.sidecar_remove(&name(MARKS, *id))?;
        }
        Ok(())
    }
}

fn listed(repository: &Repository, directory: &str) -> Result<HashSet<Id>> {
    let names = repository.sidecar_list(directory)?;
    Ok(names.iter().filter_map(|(name, _)| name.rsplit('/').next()?.parse().ok()).collect())
}

fn name(directory: &str, id: Id) -> String {
    format!("{directory}/{}", id.to_hex())
}

fn is_due(since: Time, keep: Duration, now: Time) -> bool {
    let age = now.to_timestamp().duration_since(since.to_timestamp());
    Duration::try_from(age).is_ok_and(|age| age >= keep)
}
