//! Checkpoints: what an interrupted backup had finished, so that the next need not read it again.

use crate::format::{Snapshot, Time};
use crate::writer::BlobWriter;
use crate::{FileKind, Id, Repository, Result};

use super::Parent;

/// Loads the checkpoints of the same host and paths, the newest first; none when nothing is to be compared.
pub(super) fn find(
    repository: &Repository,
    parent: Parent,
    host: &str,
    paths: &[String],
) -> Result<Vec<(Id, Snapshot)>> {
    if parent == Parent::None {
        return Ok(Vec::new());
    }
    let ids: Vec<Id> = repository.list(FileKind::Checkpoint)?.into_iter().map(|(id, _)| id).collect();
    let mut found = Vec::new();
    for (id, checkpoint) in repository.load_many::<Snapshot>(FileKind::Checkpoint, &ids) {
        match checkpoint {
            Ok(checkpoint) if checkpoint.hostname == host && checkpoint.paths == paths => {
                found.push((id, checkpoint));
            }
            Ok(_) => {}
            // It only saves time; one that cannot be read saves none.
            Err(error) if error.is_isolated() => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|(_, checkpoint)| std::cmp::Reverse(checkpoint.time));
    Ok(found)
}

/// Saves a checkpoint of `tree`: first everything it needs, then itself, then its predecessors are removed.
pub(super) fn save(
    repository: &Repository,
    writer: &BlobWriter,
    snapshot: &Snapshot,
    tree: Id,
) -> Result<()> {
    writer.flush()?;
    let time: Time = repository.now();
    let checkpoint = Snapshot { tree, time, ..snapshot.clone() };
    let predecessors = find(repository, Parent::Latest, &snapshot.hostname, &snapshot.paths)?;
    repository.save_json(FileKind::Checkpoint, &checkpoint)?;
    // Those of the interrupted runs before this one stay: this run may not have come as far yet.
    for (id, earlier) in predecessors {
        if earlier.time >= snapshot.time {
            repository.remove(FileKind::Checkpoint, &id)?;
        }
    }
    Ok(())
}

/// Removes the checkpoints that `snapshot` makes needless.
pub(super) fn remove(repository: &Repository, snapshot: &Snapshot) -> Result<()> {
    for (id, _) in find(repository, Parent::Latest, &snapshot.hostname, &snapshot.paths)? {
        repository.remove(FileKind::Checkpoint, &id)?;
    }
    Ok(())
}
