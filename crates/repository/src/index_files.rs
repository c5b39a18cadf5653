//! Writing index files anew, for operations that change what the index says of existing packs.

use crate::format::{IndexFile, IndexPack};
use crate::lock::LockGuard;
use crate::{FileKind, Id, Repository, Result};

/// A full index file, as restic and the writer of new blobs divide them.
const BLOBS_MAX: usize = 50_000;
/// Below this an index file is worth merging with others when an index is written anyway.
pub(crate) const SMALL_BLOBS: usize = BLOBS_MAX / 2;

/// Writes index files, each as full as it may be; asks before every write whether the lock still holds.
pub(crate) struct IndexFileWriter<'a> {
    repository: &'a Repository,
    lock: LockGuard,
    file: IndexFile,
    blobs: usize,
    written: Vec<Id>,
}

impl<'a> IndexFileWriter<'a> {
    pub(crate) fn new(repository: &'a Repository, lock: LockGuard) -> Self {
        Self { repository, lock, file: IndexFile::default(), blobs: 0, written: Vec::new() }
    }

    /// Lists a pack as in use.
    pub(crate) fn add(&mut self, pack: IndexPack) -> Result<()> {
        self.make_room(&pack)?;
        self.file.packs.push(IndexPack { time: None, ..pack });
        Ok(())
    }

    /// Lists a pack, which states the time, as marked for deletion.
    pub(crate) fn mark(&mut self, pack: IndexPack) -> Result<()> {
        self.make_room(&pack)?;
        self.file.packs_to_delete.push(pack);
        Ok(())
    }

    /// Makes everything durable and returns the files.
    pub(crate) fn finish(mut self) -> Result<Vec<Id>> {
        self.write()?;
        Ok(self.written)
    }

    /// A pack is never divided among files.
    fn make_room(&mut self, pack: &IndexPack) -> Result<()> {
        if self.blobs > 0 && self.blobs + pack.blobs.len() > BLOBS_MAX {
            self.write()?;
        }
        self.blobs += pack.blobs.len().max(1);
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        if self.blobs == 0 {
            return Ok(());
        }
        self.lock.check()?;
        self.written.push(self.repository.save_json(FileKind::Index, &self.file)?);
        (self.file, self.blobs) = (IndexFile::default(), 0);
        Ok(())
    }
}
