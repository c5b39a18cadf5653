//! Finding snapshots: all, some, or the one that a person means.

use crate::format::{Snapshot, Time};
use crate::{Error, FileKind, Id, Repository, Result};

/// A snapshot and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Its name.
    pub id: Id,
    /// What it says.
    pub snapshot: Snapshot,
}

/// Files that could not be loaded, each with the reason.
pub type Failures = Vec<(Id, Error)>;

/// Which snapshots are meant; an empty list does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// One of these hosts.
    pub hosts: Vec<String>,
    /// All tags of at least one of these lists.
    pub tags: Vec<Vec<String>>,
    /// All of these paths among those backed up.
    pub paths: Vec<String>,
}

impl SnapshotFilter {
    /// Whether the snapshot is meant.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let host = self.hosts.is_empty() || self.hosts.contains(&snapshot.hostname);
        let tags = self.tags.is_empty()
            || self.tags.iter().any(|tags| {
                tags.iter()
                    .all(|tag| tag.is_empty() && snapshot.tags.is_empty() || snapshot.tags.contains(tag))
            });
        let paths = self.paths.iter().all(|path| snapshot.paths.contains(path));
        host && tags && paths
    }
}

impl Repository {
    /// Loads all snapshots, oldest first; fails at the first that cannot be loaded.
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        let (entries, mut failures) = self.snapshots_tolerant()?;
        match failures.pop() {
            Some((_, error)) => Err(error),
            None => Ok(entries),
        }
    }

    /// Loads all snapshots that can be loaded, oldest first, and tells which cannot.
    pub fn snapshots_tolerant(&self) -> Result<(Vec<SnapshotEntry>, Failures)> {
        let ids: Vec<Id> = self.list(FileKind::Snapshot)?.into_iter().map(|(id, _)| id).collect();
        let mut entries = Vec::new();
        let mut failures = Vec::new();
        for (id, result) in self.load_many(FileKind::Snapshot, &ids) {
            match result {
                Ok(snapshot) => entries.push(SnapshotEntry { id, snapshot }),
                Err(error) if error.is_isolated() => failures.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        entries.sort_by_key(|entry| (entry.snapshot.time, entry.id));
        Ok((entries, failures))
    }

    /// Finds the one snapshot that `name` means: `latest` of those that `filter` lets through, or the
    /// beginning of an id.
    pub fn find_snapshot(&self, name: &str, filter: &SnapshotFilter) -> Result<SnapshotEntry> {
        if name == "latest" {
            let (entries, failures) = self.snapshots_tolerant()?;
            let latest = entries.into_iter().rfind(|entry| filter.matches(&entry.snapshot));
            // A newer snapshot may be among those that cannot be read; an older one must not pass for it.
            return match (latest, failures.into_iter().next()) {
                (_, Some((_, error))) => Err(error),
                (Some(entry), None) => Ok(entry),
                (None, None) => Err(Error::NoSuchSnapshot("no snapshot fits".into())),
            };
        }
        let id = self.find_file(FileKind::Snapshot, name)?;
        let snapshot = self.load_json(FileKind::Snapshot, &id)?;
        Ok(SnapshotEntry { id, snapshot })
    }

    /// Finds the one file of a kind whose name begins with `prefix`.
    pub fn find_file(&self, kind: FileKind, prefix: &str) -> Result<Id> {
        if prefix.is_empty()
            || !prefix.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        {
            return Err(Error::NoSuchSnapshot(format!("{prefix:?} is not the beginning of a {kind} id")));
        }
        let mut fitting = self.list(kind)?.into_iter().filter(|(id, _)| id.to_hex().starts_with(prefix));
        match (fitting.next(), fitting.next()) {
            (Some((id, _)), None) => Ok(id),
            (None, _) => Err(Error::NoSuchSnapshot(format!("no {kind} begins with {prefix}"))),
            (Some(_), Some(_)) => Err(Error::NoSuchSnapshot(format!(
                "more than one {kind} begins with {prefix}; give more digits"
            ))),
        }
    }

    /// Loads JSON files on as many threads as the store likes; in the order of `ids`.
    pub(crate) fn load_many<T: serde::de::DeserializeOwned + Send>(
        &self,
        kind: FileKind,
        ids: &[Id],
    ) -> Vec<(Id, Result<T>)> {
        let threads = self.store().parallelism().clamp(1, 16);
        let share = ids.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = ids
                .chunks(share)
                .map(|ids| {
                    scope.spawn(|| ids.iter().map(|id| (*id, self.load_json(kind, id))).collect::<Vec<_>>())
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("loading does not panic")).collect()
        })
    }
}

impl SnapshotEntry {
    /// When the backup began.
    pub fn time(&self) -> Time {
        self.snapshot.time
    }
}
