//! Doing what was planned, in the order that the parent module states.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::event::{Event, Task};
use crate::format::{BlobKind, IndexFile, IndexPack, PackedBlob};
use crate::index_files::{IndexFileWriter, SMALL_BLOBS};
use crate::packs::for_each_sealed;
use crate::parallel::{in_parallel, remove_all, threads_to_write};
use crate::{BlobWriter, Context, Error, FileKind, Id, IndexBuilder, Opener, Result, Sealer, WriterTotals};

use super::{Fate, PrunePlan, PruneSummary};

/// What a prune did.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// What was planned, all of which was done but for `failed`.
    pub summary: PruneSummary,
    /// What was written anew.
    pub repacked: WriterTotals,
    /// Packs that could not be deleted, and why; the next prune finds them as orphans.
    pub failed: Vec<(Id, Error)>,
}

impl PrunePlan {
    /// Carries the plan out, and gives the lock back.
    ///
    /// May be stopped or fail at any point: what snapshots need is never the worse for it.
    pub fn execute(self, context: Context<'_>) -> Result<PruneReport> {
        let mut report = PruneReport { summary: self.summary.clone(), ..PruneReport::default() };
        if !self.is_empty() {
            report.repacked = self.repack(context)?;
            context.check()?;
            let old = self.write_index()?;
            self.lock.guard().check()?;
            context.tell(Event::Begin(Task::Delete));
            let kept = remove_all(&self.repository, FileKind::Index, &old, context)?;
            // An index file that still lists a pack promises that it is there.
            if let Some((_, error)) = kept.into_iter().next() {
                return Err(error);
            }
            self.lock.guard().check()?;
            report.failed = remove_all(&self.repository, FileKind::Pack, &self.packs_to_delete(), context)?;
            context.tell(Event::End(Task::Delete));
        }
        self.lock.guard().check()?;
        self.points.execute(&self.repository, self.now)?;
        self.lock.release()?;
        Ok(report)
    }

    /// Writes the needed blobs of the packs to be repacked into new ones, each verified on the way.
    fn repack(&self, context: Context<'_>) -> Result<WriterTotals> {
        let packs = self.blobs_to_repack();
        if packs.is_empty() {
            return Ok(WriterTotals::default());
        }
        let sealed_bytes =
            |blobs: &[PackedBlob]| blobs.iter().map(|blob| u64::from(blob.length)).sum::<u64>();
        context.tell(Event::Begin(Task::Repack));
        let bytes = packs.iter().map(|(_, blobs)| sealed_bytes(blobs)).sum();
        context.tell(Event::Expect { task: Task::Repack, items: packs.len() as u64, bytes });
        // The writer knows no blob: what is chosen is to be written although it is there.
        let nothing = Arc::new(IndexBuilder::new().finish());
        let writer = BlobWriter::new(&self.repository, nothing, &self.lock, self.options.writer);
        let threads = threads_to_write();
        let moved = in_parallel(
            &packs,
            threads,
            context,
            || Mover::new(&writer, self),
            |mover, (pack, blobs)| {
                mover.move_pack(pack, blobs)?;
                context.tell(Event::Advance { task: Task::Repack, items: 1, bytes: sealed_bytes(blobs) });
                Ok(())
            },
        );
        // What was moved before a failure is indexed too, so that the next prune need not move it again.
        let totals = writer.finish();
        moved?;
        context.tell(Event::End(Task::Repack));
        totals
    }

    /// The chosen blobs of every pack to be repacked, in the order of their offsets.
    fn blobs_to_repack(&self) -> Vec<(Id, Vec<PackedBlob>)> {
        let mut packs: HashMap<u32, Vec<PackedBlob>> = HashMap::new();
        for location in self.index.iter() {
            if self.fates[location.pack as usize] == Fate::Repack && self.chosen.contains(location.slot) {
                packs.entry(location.pack).or_default().push(location.blob);
            }
        }
        let mut packs: Vec<_> = packs.into_iter().collect();
        packs.sort_unstable_by_key(|(number, _)| *number);
        packs
            .into_iter()
            .map(|(number, mut blobs)| {
                blobs.sort_unstable_by_key(|blob| blob.offset);
                (self.index.pack_id(number), blobs)
            })
            .collect()
    }

    /// Writes index files for what changes, and returns the old ones that they replace.
    fn write_index(&self) -> Result<Vec<Id>> {
        let fates: HashMap<Id, Fate> = (0..self.index.pack_count())
            .map(|number| (self.index.pack_id(number), self.fates[number as usize]))
            .filter(|(_, fate)| *fate != Fate::Keep)
            .collect();
        let mut writer = IndexFileWriter::new(&self.repository, self.lock.guard());
        let mut replaced = Vec::new();
        // Files are read one by one: an index may be larger than the memory to hold it as JSON.
        let mut listed = HashSet::new();
        for id in self.index.files() {
            let file: IndexFile = self.repository.load_json(FileKind::Index, id)?;
            if !file_changes(&file, &fates) {
                continue;
            }
            replaced.push(*id);
            for pack in file.packs.into_iter().chain(file.packs_to_delete) {
                if listed.insert(pack.id) {
                    self.list(pack, &fates, &mut writer)?;
                }
            }
        }
        if !self.options.keep_delete.is_zero() {
            for id in &self.orphans {
                writer.mark(self.mark_now(IndexPack { id: *id, blobs: Vec::new(), time: None }))?;
            }
        }
        writer.finish()?;
        Ok(replaced)
    }

    fn list(
        &self,
        pack: IndexPack,
        fates: &HashMap<Id, Fate>,
        writer: &mut IndexFileWriter<'_>,
    ) -> Result<()> {
        match fates.get(&pack.id).copied().unwrap_or(Fate::Keep) {
            Fate::Keep | Fate::Recover => writer.add(pack),
            Fate::Repack if self.options.keep_delete.is_zero() => Ok(()),
            Fate::Repack | Fate::Mark => writer.mark(self.mark_now(pack)),
            Fate::Wait => {
                // Of several marks the index kept the one that waits longest.
                let marked = self.index.packs_to_delete();
                let kept = marked.binary_search_by_key(&pack.id, |marked| marked.id);
                let time = kept.map_or(pack.time, |position| marked[position].time);
                writer.mark(IndexPack { time, ..pack })
            }
            Fate::Delete | Fate::Gone => Ok(()),
        }
    }

    fn packs_to_delete(&self) -> Vec<Id> {
        let at_once = self.options.keep_delete.is_zero();
        let orphans = if at_once { &self.orphans[..] } else { &[] };
        (0..self.index.pack_count())
            .filter(|number| match self.fates[*number as usize] {
                Fate::Delete => true,
                Fate::Repack => at_once,
                _ => false,
            })
            .map(|number| self.index.pack_id(number))
            .chain(orphans.iter().copied())
            .collect()
    }
}

/// Whether a file has to be written anew: a pack in it has another fate than to stay, or it is small.
fn file_changes(file: &IndexFile, fates: &HashMap<Id, Fate>) -> bool {
    let small = file.packs.iter().map(|pack| pack.blobs.len()).sum::<usize>() < SMALL_BLOBS;
    let packs_change = file.packs.iter().any(|pack| fates.contains_key(&pack.id));
    let marks_change = file.packs_to_delete.iter().any(|pack| fates.get(&pack.id) != Some(&Fate::Wait));
    small || packs_change || marks_change
}

/// Moves blobs into new packs; one a thread.
struct Mover<'a> {
    writer: &'a BlobWriter,
    plan: &'a PrunePlan,
    opener: Opener,
    sealer: Sealer,
    buffer: Vec<u8>,
    opened: Vec<u8>,
}

impl<'a> Mover<'a> {
    fn new(writer: &'a BlobWriter, plan: &'a PrunePlan) -> Self {
        let opener = Opener::new(plan.repository.key().clone());
        Self { writer, plan, opener, sealer: writer.sealer(), buffer: Vec::new(), opened: Vec::new() }
    }

    fn move_pack(&mut self, pack: &Id, blobs: &[PackedBlob]) -> Result<()> {
        let Self { writer, opener, sealer, opened, buffer, .. } = self;
        for_each_sealed(&self.plan.repository, pack, blobs, buffer, &mut |blob, sealed| {
            opened.clear();
            opened.extend_from_slice(sealed);
            let plaintext = opener.open(blob, opened).map_err(|damage| {
                let object = format!("{} blob {} in pack {pack}", blob.kind, blob.id);
                Error::damaged(object, format!("{damage}; nothing is deleted: salvage the pack first"))
            })?;
            if blob.kind == BlobKind::Tree && blob.uncompressed_length == 0 {
                writer.save(sealer, blob.kind, blob.id, plaintext)?;
            } else {
                writer.save_sealed(blob, sealed)?;
            }
            Ok(())
        })
    }
}
