//! Salvaging damaged packs: what can be read of them is written anew, and then they are removed.
//!
//! # Order of writes, and what a crash leaves
//! 1. New packs with the readable blobs, and index files that list them. *These blobs are listed twice.*
//! 2. Index files without the damaged packs. *The same.*
//! 3. The old index files are deleted. *The same.*
//! 4. The damaged packs are deleted. *Those that remain are in no index.*

use std::collections::HashSet;
use std::sync::Arc;

use crate::event::{Event, Task};
use crate::format::{BlobKind, IndexFile, PackedBlob};
use crate::index_files::IndexFileWriter;
use crate::packs::{for_each_sealed, read_header};
use crate::parallel::remove_all;
use crate::{
    BlobReader, BlobWriter, Context, Error, FileKind, Id, Index, IndexBuilder, Lock, LockOptions, Opener,
    Repository, Result, WriterOptions, WriterTotals,
};

/// What can be had from one damaged pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSalvage {
    /// The pack.
    pub pack: Id,
    /// Blobs that can be read and will be written anew.
    pub readable: Vec<PackedBlob>,
    /// Blobs that cannot be read here, of which another pack has a sound copy.
    pub elsewhere: Vec<PackedBlob>,
    /// Blobs that are lost, unless a later backup brings them back.
    pub lost: Vec<PackedBlob>,
    /// Why not even a list of the pack's blobs can be had, if so.
    pub unlisted: Option<String>,
}

/// What can be had from damaged packs; nothing has changed yet.
#[derive(Debug)]
pub struct RepairPacksPlan {
    /// Pack by pack.
    pub packs: Vec<PackSalvage>,
    repository: Repository,
    lock: Lock,
    index: Index,
}

/// What a repair of packs did.
#[derive(Debug, Default)]
pub struct RepairPacksReport {
    /// What was written anew.
    pub salvaged: WriterTotals,
    /// Damaged packs that could not be removed, and why; they are in no index any more.
    pub failed: Vec<(Id, Error)>,
}

/// Tries every blob of `packs`, which a check found damaged.
///
/// Fails with [`Error::Refused`] when one of them is not there: then the index is to be repaired.
pub fn plan_repair_packs(
    repository: &Repository,
    packs: &[Id],
    lock: LockOptions,
    context: Context<'_>,
) -> Result<RepairPacksPlan> {
    let lock = Lock::exclusive(repository, lock)?;
    let index = super::load_sound_index(repository, context)?;
    let numbers: Vec<(Id, Vec<u32>)> = packs
        .iter()
        .map(|pack| {
            (*pack, (0..index.pack_count()).filter(|number| index.pack_id(*number) == *pack).collect())
        })
        .collect();
    let damaged: HashSet<u32> = numbers.iter().flat_map(|(_, numbers)| numbers).copied().collect();
    let mut salvages = Vec::new();
    {
        let view = index.by_pack();
        let mut trial = Trial::new(repository, &index, &damaged);
        for (pack, numbers) in &numbers {
            context.check()?;
            let mut listed: Vec<PackedBlob> = numbers.iter().flat_map(|number| view.blobs(*number)).collect();
            listed.sort_unstable_by_key(|blob| (blob.offset, blob.id));
            listed.dedup();
            salvages.push(trial.try_pack(*pack, listed)?);
        }
    }
    Ok(RepairPacksPlan { packs: salvages, repository: repository.clone(), lock, index })
}

struct Trial<'a> {
    repository: &'a Repository,
    reader: BlobReader<'a>,
    damaged: &'a HashSet<u32>,
    opener: Opener,
    buffer: Vec<u8>,
}

impl<'a> Trial<'a> {
    fn new(repository: &'a Repository, index: &'a Index, damaged: &'a HashSet<u32>) -> Self {
        let opener = Opener::new(repository.key().clone());
        let reader = BlobReader::new(repository, index);
        Self { repository, reader, damaged, opener, buffer: Vec::new() }
    }

    fn try_pack(&mut self, pack: Id, mut blobs: Vec<PackedBlob>) -> Result<PackSalvage> {
        let mut salvage =
            PackSalvage { pack, readable: vec![], elsewhere: vec![], lost: vec![], unlisted: None };
        let size = match self.repository.store().size(&FileKind::Pack.object(&pack)) {
            Ok(size) => size,
            Err(error) if error.kind == store::ErrorKind::NotFound => {
                let why = format!("pack {pack} is not there, so nothing can be salvaged; repair the index");
                return Err(Error::Refused(why));
            }
            Err(error) => return Err(error.into()),
        };
        if blobs.is_empty() {
            match read_header(self.repository, &pack, size)? {
                Ok(listed) => blobs = listed,
                Err(why) => salvage.unlisted = Some(why),
            }
        }
        for blob in blobs {
            let outcome = if self.opens(&pack, &blob)? {
                &mut salvage.readable
            } else if self.is_elsewhere(&blob)? {
                &mut salvage.elsewhere
            } else {
                &mut salvage.lost
            };
            outcome.push(blob);
        }
        Ok(salvage)
    }

    fn opens(&mut self, pack: &Id, blob: &PackedBlob) -> Result<bool> {
        let mut sound = false;
        let read = for_each_sealed(
            self.repository,
            pack,
            std::slice::from_ref(blob),
            &mut self.buffer,
            &mut |blob, sealed| {
                sound = self.opener.open(blob, sealed).is_ok();
                Ok(())
            },
        );
        match read {
            Ok(()) => Ok(sound),
            Err(error) if error.is_isolated() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_elsewhere(&self, blob: &PackedBlob) -> Result<bool> {
        for copy in self.reader.index().find_all(blob.kind, &blob.id) {
            if self.damaged.contains(&copy.pack) {
                continue;
            }
            match self.reader.read_at(&copy) {
                Ok(_) => return Ok(true),
                Err(error) if error.is_isolated() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl RepairPacksPlan {
    /// How many blobs are lost.
    pub fn lost(&self) -> usize {
        self.packs.iter().map(|pack| pack.lost.len()).sum()
    }

    /// Writes the readable blobs anew, removes the damaged packs, and gives the lock back.
    pub fn execute(self, context: Context<'_>) -> Result<RepairPacksReport> {
        let mut report = RepairPacksReport::default();
        if !self.packs.is_empty() {
            context.check()?;
            report.salvaged = self.save_readable()?;
            let old = self.write_index()?;
            context.tell(Event::Begin(Task::Delete));
            let kept = remove_all(&self.repository, FileKind::Index, &old, context)?;
            if let Some((_, error)) = kept.into_iter().next() {
                return Err(error);
            }
            self.lock.guard().check()?;
            let packs: Vec<Id> = self.packs.iter().map(|pack| pack.pack).collect();
            report.failed = remove_all(&self.repository, FileKind::Pack, &packs, context)?;
            context.tell(Event::End(Task::Delete));
        }
        self.lock.release()?;
        Ok(report)
    }

    fn save_readable(&self) -> Result<WriterTotals> {
        let nothing = Arc::new(IndexBuilder::new().finish());
        let writer = BlobWriter::new(&self.repository, nothing, &self.lock, WriterOptions::default());
        let mut sealer = writer.sealer();
        let mut opener = Opener::new(self.repository.key().clone());
        let mut buffer = Vec::new();
        for PackSalvage { pack, readable, .. } in &self.packs {
            // One by one: a stretch of the disk that cannot be read may lie between two that can.
            for blob in readable {
                for_each_sealed(
                    &self.repository,
                    pack,
                    std::slice::from_ref(blob),
                    &mut buffer,
                    &mut |blob, sealed| {
                        let mut copy = sealed.to_vec();
                        let plaintext = opener.open(blob, &mut copy).map_err(|damage| {
                            Error::damaged(format!("{} blob {} in pack {pack}", blob.kind, blob.id), damage)
                        })?;
                        if blob.kind == BlobKind::Tree && blob.uncompressed_length == 0 {
                            writer.save(&mut sealer, blob.kind, blob.id, plaintext)?;
                        } else {
                            writer.save_sealed(blob, sealed)?;
                        }
                        Ok(())
                    },
                )?;
            }
        }
        writer.finish()
    }

    fn write_index(&self) -> Result<Vec<Id>> {
        let damaged: HashSet<Id> = self.packs.iter().map(|pack| pack.pack).collect();
        let mut writer = IndexFileWriter::new(&self.repository, self.lock.guard());
        let mut replaced = Vec::new();
        for id in self.index.files() {
            let file: IndexFile = self.repository.load_json(FileKind::Index, id)?;
            if !file.packs.iter().chain(&file.packs_to_delete).any(|pack| damaged.contains(&pack.id)) {
                continue;
            }
            replaced.push(*id);
            for pack in file.packs.into_iter().filter(|pack| !damaged.contains(&pack.id)) {
                writer.add(pack)?;
            }
            for pack in file.packs_to_delete.into_iter().filter(|pack| !damaged.contains(&pack.id)) {
                writer.mark(pack)?;
            }
        }
        writer.finish()?;
        Ok(replaced)
    }
}
