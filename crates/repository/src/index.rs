//! The index in memory: where every blob of the repository lies, in 40 bytes a blob.
//!
//! # Layout
//! Blobs are numbered in *slots*, pack by pack in the order of their offsets. Per slot there are two 24-bit
//! lengths (sealed and uncompressed) and a bit for the kind; a blob's offset is the sum of the lengths
//! before it in its pack, with an anchor every [`ANCHOR_STRIDE`] slots so that a lookup adds few. Beside
//! them stands one array sorted by id: the id without its leading bytes, which the position implies, and the
//! slot. With a million blobs that is 30 + 3 + 3 + 3 bytes and fractions for kind and anchors; the packs take 36
//! bytes each.
//!
//! # Concurrency
//! An [`Index`] never changes; a writer keeps what it adds beside it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use crate::event::{Context, Event, Task};
use crate::format::{BlobKind, IndexFile, IndexPack, PackedBlob};
use crate::{Error, FileKind, Id, Repository, Result};

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Number of the pack within the index; [`Index::pack_id`] names it.
    pub pack: u32,
    /// Number of this copy of the blob within the index, below [`Index::slot_count`].
    pub slot: u32,
    /// The blob as the pack's header describes it.
    pub blob: PackedBlob,
}

/// A blob together with the pack that holds it, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedBlob {
    /// The pack.
    pub pack: Id,
    /// The blob.
    pub blob: PackedBlob,
}

/// Something in the index files that is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum IndexProblem {
    /// An index file that cannot be used.
    #[error("index {id} cannot be used: {error}")]
    Unusable {
        /// The file.
        id: Id,
        /// Why.
        error: Error,
    },
    /// A pack is listed by more than one index file, differently.
    #[error("pack {pack} is listed differently by several index files")]
    Contradiction {
        /// The pack.
        pack: Id,
    },
    /// The blobs that are listed for a pack overlap.
    #[error("the blobs listed for pack {pack} overlap")]
    Overlap {
        /// The pack.
        pack: Id,
    },
}

/// Where every blob of the repository lies.
pub struct Index {
    packs: Vec<Pack>,
    lengths: Vec<[u8; 3]>,
    plain_lengths: Vec<[u8; 3]>,
    /// Lengths, sealed and uncompressed, that do not fit 24 bits, by slot.
    long: HashMap<u32, (u32, u32)>,
    /// A bit a slot: set for trees.
    trees: Vec<u64>,
    /// Offset within its pack of every slot whose number [`ANCHOR_STRIDE`] divides.
    anchors: Vec<u32>,
    sorted: SortedIds,
    to_delete: Vec<IndexPack>,
    files: Vec<Id>,
}

#[derive(Clone)]
struct Pack {
    id: Id,
    first_slot: u32,
}

const ANCHOR_STRIDE: usize = 64;
/// Stands in a 24-bit length for one that is found in `long`.
const LONG: u32 = 0x00ff_ffff;

impl Index {
    /// Loads every index file of the repository; fails at the first that cannot be used.
    ///
    /// To be called after the snapshots were listed, never before: what a snapshot needs is indexed before
    /// the snapshot appears.
    pub fn load(repository: &Repository, context: Context<'_>) -> Result<Self> {
        let (index, problems) = Self::load_tolerant(repository, context)?;
        refuse_unusable(problems)?;
        Ok(index)
    }

    /// The same, reading only what is new since `known`, an index of the same repository, was loaded.
    pub fn load_since(
        known: Option<&Arc<Self>>,
        repository: &Repository,
        context: Context<'_>,
    ) -> Result<Arc<Self>> {
        let Some(known) = known else { return Ok(Arc::new(Self::load(repository, context)?)) };
        let had: HashSet<Id> = known.files.iter().copied().collect();
        let (old, mut new): (Vec<_>, Vec<_>) =
            repository.list(FileKind::Index)?.into_iter().partition(|(id, _)| had.contains(id));
        if old.len() < had.len() {
            // A prune wrote the index anew.
            return Ok(Arc::new(Self::load(repository, context)?));
        }
        if new.is_empty() {
            return Ok(Arc::clone(known));
        }
        new.sort_unstable();
        let mut builder = IndexBuilder::of(known);
        refuse_unusable(add_files(&mut builder, repository, &new, context)?)?;
        Ok(Arc::new(builder.finish()))
    }

    /// Loads what can be used of the index files, and tells what cannot.
    pub fn load_tolerant(repository: &Repository, context: Context<'_>) -> Result<(Self, Vec<IndexProblem>)> {
        let (builder, problems) = load_builder(repository, context)?;
        Ok((builder.finish(), problems))
    }

    /// Loads the index with the packs that are marked for deletion counted in, as the last ones; for a prune,
    /// which takes them back when they are needed. Also returns the number of the first of these.
    pub(crate) fn load_with_marked(
        repository: &Repository,
        context: Context<'_>,
    ) -> Result<(Self, u32, Vec<IndexProblem>)> {
        let (mut builder, problems) = load_builder(repository, context)?;
        let marked = builder.take_marked();
        let first_marked = builder.packs.len() as u32;
        for pack in &marked {
            let mut blobs: Vec<PackedBlob> = pack.blobs.iter().copied().map(PackedBlob::from).collect();
            blobs.sort_unstable_by_key(|blob| blob.offset);
            builder.add_pack(pack.id, &blobs);
        }
        let mut index = builder.finish();
        index.to_delete = marked;
        Ok((index, first_marked, problems))
    }

    /// Finds a blob; of several copies, the one in the pack that was listed first.
    pub fn find(&self, kind: BlobKind, id: &Id) -> Option<Location> {
        self.find_all(kind, id).next()
    }

    /// Finds every copy of a blob.
    pub fn find_all<'a>(&'a self, kind: BlobKind, id: &'a Id) -> impl Iterator<Item = Location> + 'a {
        self.sorted
            .slots_of(id)
            .filter(move |&slot| self.kind(slot) == kind)
            .map(|slot| self.location(slot, *id))
    }

    /// Whether the blob is there.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.sorted.slots_of(id).any(|slot| self.kind(slot) == kind)
    }

    /// How many blobs are listed, copies included.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether no blob is listed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many packs are listed.
    pub fn pack_count(&self) -> u32 {
        self.packs.len() as u32
    }

    /// Above every blob's [`slot`](Location::slot); gaps between listed blobs have slots too.
    pub fn slot_count(&self) -> u32 {
        self.lengths.len() as u32
    }

    /// The name of pack number `pack`.
    pub fn pack_id(&self, pack: u32) -> Id {
        self.packs[pack as usize].id
    }

    /// Every blob, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = Location> + '_ {
        (0..self.sorted.len()).map(|position| {
            let (id, slot) = self.sorted.entry(position);
            self.location(slot, id)
        })
    }

    /// The blobs of every pack, in the order of their offsets: the inverse of [`find`](Self::find).
    ///
    /// Takes 36 bytes a blob while it lives.
    pub fn by_pack(&self) -> PacksView<'_> {
        let mut ids = vec![Id([0; 32]); self.lengths.len()];
        let mut listed = vec![0u64; self.lengths.len().div_ceil(64)];
        for position in 0..self.sorted.len() {
            let (id, slot) = self.sorted.entry(position);
            ids[slot as usize] = id;
            listed[slot as usize / 64] |= 1 << (slot % 64);
        }
        PacksView { index: self, ids, listed }
    }

    /// Packs that a prune marked for deletion.
    pub fn packs_to_delete(&self) -> &[IndexPack] {
        &self.to_delete
    }

    /// The index files that were used.
    pub fn files(&self) -> &[Id] {
        &self.files
    }

    /// Bytes of memory that the index holds.
    pub fn resident_bytes(&self) -> usize {
        self.packs.capacity() * size_of::<Pack>()
            + (self.lengths.capacity() + self.plain_lengths.capacity()) * 3
            + self.trees.capacity() * 8
            + self.anchors.capacity() * 4
            + self.long.capacity() * 12
            + self.sorted.resident_bytes()
    }

    fn kind(&self, slot: u32) -> BlobKind {
        if self.trees[slot as usize / 64] >> (slot % 64) & 1 == 1 { BlobKind::Tree } else { BlobKind::Data }
    }

    fn lengths_of(&self, slot: u32) -> (u32, u32) {
        let short = (read_24(self.lengths[slot as usize]), read_24(self.plain_lengths[slot as usize]));
        if short.0 == LONG || short.1 == LONG { self.long[&slot] } else { short }
    }

    fn location(&self, slot: u32, id: Id) -> Location {
        let pack = self.packs.partition_point(|pack| pack.first_slot <= slot) - 1;
        let first_slot = self.packs[pack].first_slot;
        let anchor = slot as usize / ANCHOR_STRIDE;
        let (start, base) = if anchor * ANCHOR_STRIDE >= first_slot as usize {
            ((anchor * ANCHOR_STRIDE) as u32, self.anchors[anchor])
        } else {
            (first_slot, 0)
        };
        let offset = (start..slot).fold(base, |offset, slot| offset + self.lengths_of(slot).0);
        let (length, uncompressed_length) = self.lengths_of(slot);
        let blob = PackedBlob { kind: self.kind(slot), id, offset, length, uncompressed_length };
        Location { pack: pack as u32, slot, blob }
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Index({} blobs in {} packs)", self.len(), self.packs.len())
    }
}

/// The blobs of an index, pack by pack.
pub struct PacksView<'a> {
    index: &'a Index,
    ids: Vec<Id>,
    listed: Vec<u64>,
}

impl PacksView<'_> {
    /// The listed blobs of pack number `pack`, in the order of their offsets.
    pub fn blobs(&self, pack: u32) -> Vec<PackedBlob> {
        let packs = &self.index.packs;
        let first = packs[pack as usize].first_slot;
        let end = packs.get(pack as usize + 1).map_or(self.ids.len() as u32, |next| next.first_slot);
        let mut offset = 0;
        let mut blobs = Vec::with_capacity((end - first) as usize);
        for slot in first..end {
            let (length, uncompressed_length) = self.index.lengths_of(slot);
            if self.listed[slot as usize / 64] >> (slot % 64) & 1 == 1 {
                let (kind, id) = (self.index.kind(slot), self.ids[slot as usize]);
                blobs.push(PackedBlob { kind, id, offset, length, uncompressed_length });
            }
            offset += length;
        }
        blobs
    }
}

/// Gathers packs into an [`Index`].
#[derive(Default)]
pub struct IndexBuilder {
    packs: Vec<Pack>,
    seen: HashMap<Id, u64>,
    lengths: Vec<[u8; 3]>,
    plain_lengths: Vec<[u8; 3]>,
    long: HashMap<u32, (u32, u32)>,
    trees: Vec<u64>,
    anchors: Vec<u32>,
    entries: Vec<[u8; ENTRY_BYTES]>,
    to_delete: Vec<IndexPack>,
    files: Vec<Id>,
}

/// An entry while the index is built: id and slot, both so that bytes sort as numbers.
const ENTRY_BYTES: usize = 32 + 4;

impl IndexBuilder {
    /// Begins an empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins with everything that `index` has.
    fn of(index: &Index) -> Self {
        let view = index.by_pack();
        let entry = |position| {
            let (id, slot) = index.sorted.entry(position);
            let mut entry = [0; ENTRY_BYTES];
            entry[..32].copy_from_slice(&id.0);
            entry[32..].copy_from_slice(&slot.to_be_bytes());
            entry
        };
        Self {
            seen: (0..index.pack_count())
                .map(|pack| (index.pack_id(pack), fingerprint_of(&view.blobs(pack))))
                .collect(),
            packs: index.packs.clone(),
            lengths: index.lengths.clone(),
            plain_lengths: index.plain_lengths.clone(),
            long: index.long.clone(),
            trees: index.trees.clone(),
            anchors: index.anchors.clone(),
            entries: (0..index.sorted.len()).map(entry).collect(),
            to_delete: index.to_delete.clone(),
            files: index.files.clone(),
        }
    }

    /// Adds what an index file lists.
    pub fn add_file(&mut self, file_id: Id, file: IndexFile, problems: &mut Vec<IndexProblem>) {
        self.files.push(file_id);
        for pack in file.packs {
            let mut blobs: Vec<PackedBlob> = pack.blobs.into_iter().map(PackedBlob::from).collect();
            // A total order, so that two files that list the same blobs differently are not taken to disagree.
            blobs.sort_unstable_by_key(|blob| (blob.offset, blob.length, blob.id, blob.kind));
            match self.seen.get(&pack.id) {
                None => {
                    if !self.add_pack(pack.id, &blobs) {
                        problems.push(IndexProblem::Overlap { pack: pack.id });
                    }
                }
                Some(&fingerprint) if fingerprint == fingerprint_of(&blobs) => {}
                Some(_) => {
                    self.add_pack(pack.id, &blobs);
                    problems.push(IndexProblem::Contradiction { pack: pack.id });
                }
            }
        }
        self.to_delete.extend(file.packs_to_delete);
    }

    /// Adds a pack whose blobs are in the order of their offsets; `false` when some overlap, which are left out.
    pub fn add_pack(&mut self, id: Id, blobs: &[PackedBlob]) -> bool {
        self.seen.insert(id, fingerprint_of(blobs));
        self.packs.push(Pack { id, first_slot: self.lengths.len() as u32 });
        let mut end: u32 = 0;
        let mut sound = true;
        for blob in blobs {
            let (Some(gap), Some(next)) =
                (blob.offset.checked_sub(end), blob.offset.checked_add(blob.length))
            else {
                sound = false;
                continue;
            };
            if gap > 0 {
                // Bytes of the pack that no listed blob has: a slot without an entry keeps the offsets right.
                self.add_slot(end, gap, 0, BlobKind::Data);
            }
            let slot = self.add_slot(blob.offset, blob.length, blob.uncompressed_length, blob.kind);
            let mut entry = [0; ENTRY_BYTES];
            entry[..32].copy_from_slice(&blob.id.0);
            entry[32..].copy_from_slice(&slot.to_be_bytes());
            self.entries.push(entry);
            end = next;
        }
        sound
    }

    fn add_slot(&mut self, offset: u32, length: u32, uncompressed_length: u32, kind: BlobKind) -> u32 {
        let slot = u32::try_from(self.lengths.len()).expect("four milliard blobs would not fit memory");
        if self.lengths.len().is_multiple_of(ANCHOR_STRIDE) {
            self.anchors.push(offset);
        }
        if self.lengths.len().is_multiple_of(64) {
            self.trees.push(0);
        }
        if kind == BlobKind::Tree {
            self.trees[slot as usize / 64] |= 1 << (slot % 64);
        }
        if length >= LONG || uncompressed_length >= LONG {
            self.long.insert(slot, (length, uncompressed_length));
        }
        self.lengths.push(write_24(length.min(LONG)));
        self.plain_lengths.push(write_24(uncompressed_length.min(LONG)));
        slot
    }

    /// Takes out the packs that are marked for deletion, each once, in the order of their ids.
    fn take_marked(&mut self) -> Vec<IndexPack> {
        let mut marked = std::mem::take(&mut self.to_delete);
        // A pack that is also listed as in use was taken back by a later prune.
        marked.retain(|pack| !self.seen.contains_key(&pack.id));
        // One marked twice was so by a prune that was interrupted: the later mark waits longer.
        marked.sort_unstable_by_key(|pack| (pack.id, std::cmp::Reverse(pack.time)));
        marked.dedup_by_key(|pack| pack.id);
        marked
    }

    /// Sorts what was gathered into an index.
    pub fn finish(mut self) -> Index {
        self.packs.shrink_to_fit();
        self.lengths.shrink_to_fit();
        self.plain_lengths.shrink_to_fit();
        self.trees.shrink_to_fit();
        self.anchors.shrink_to_fit();
        let to_delete = self.take_marked();
        Index {
            packs: self.packs,
            sorted: SortedIds::new(self.entries, self.lengths.len()),
            lengths: self.lengths,
            plain_lengths: self.plain_lengths,
            long: self.long,
            trees: self.trees,
            anchors: self.anchors,
            to_delete,
            files: self.files,
        }
    }
}

/// Tells two lists of a pack's blobs apart, in everything that is listed of them.
fn fingerprint_of(blobs: &[PackedBlob]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for blob in blobs {
        hasher.write(&blob.id.0);
        hasher.write_u8(u8::from(blob.kind == BlobKind::Tree));
        hasher.write_u32(blob.offset);
        hasher.write_u32(blob.length);
        hasher.write_u32(blob.uncompressed_length);
    }
    hasher.finish()
}

/// Ids in order, each with its slot, in one array of bytes without the id's leading bytes.
struct SortedIds {
    bytes: Vec<u8>,
    /// How many leading bytes of the id the position implies: 1, 2 or 3.
    implied_bytes: usize,
    slot_bytes: usize,
    /// For every value of the implied bytes, where its entries begin; one more at the end.
    starts: Vec<u32>,
}

impl SortedIds {
    /// Sorts and compacts in place: building needs no second copy of the ids.
    fn new(mut entries: Vec<[u8; ENTRY_BYTES]>, slots: usize) -> Self {
        entries.sort_unstable();
        let count = entries.len();
        let implied_bytes = match count {
            0..4096 => 1,
            4096..16_777_216 => 2,
            _ => 3,
        };
        let slot_bytes = if slots < 1 << 24 { 3 } else { 4 };
        let mut starts = vec![0u32; (1 << (8 * implied_bytes)) + 1];
        for entry in &entries {
            starts[leading(entry, implied_bytes) + 1] += 1;
        }
        for position in 1..starts.len() {
            starts[position] += starts[position - 1];
        }
        let tail_bytes = 32 - implied_bytes;
        let stride = tail_bytes + slot_bytes;
        let mut bytes = entries.into_flattened();
        for position in 0..count {
            let from = position * ENTRY_BYTES;
            let to = position * stride;
            bytes.copy_within(from + implied_bytes..from + 32, to);
            bytes.copy_within(from + ENTRY_BYTES - slot_bytes..from + ENTRY_BYTES, to + tail_bytes);
        }
        bytes.truncate(count * stride);
        bytes.shrink_to_fit();
        Self { bytes, implied_bytes, slot_bytes, starts }
    }

    fn stride(&self) -> usize {
        32 - self.implied_bytes + self.slot_bytes
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.stride()
    }

    fn resident_bytes(&self) -> usize {
        self.bytes.capacity() + self.starts.capacity() * 4
    }

    fn tail(&self, position: usize) -> &[u8] {
        &self.bytes[position * self.stride()..][..32 - self.implied_bytes]
    }

    fn slot(&self, position: usize) -> u32 {
        let bytes = &self.bytes[position * self.stride() + 32 - self.implied_bytes..][..self.slot_bytes];
        bytes.iter().fold(0, |slot, &byte| slot << 8 | u32::from(byte))
    }

    fn entry(&self, position: usize) -> (Id, u32) {
        let implied = self.starts.partition_point(|&start| start as usize <= position) - 1;
        let mut id = Id([0; 32]);
        id.0[..self.implied_bytes].copy_from_slice(&implied.to_be_bytes()[8 - self.implied_bytes..]);
        id.0[self.implied_bytes..].copy_from_slice(self.tail(position));
        (id, self.slot(position))
    }

    /// The slots of all entries of `id`.
    fn slots_of(&self, id: &Id) -> impl Iterator<Item = u32> + '_ {
        let bucket = leading(&id.0, self.implied_bytes);
        let (mut low, end) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let tail: [u8; 32] = id.0;
        let tail_of = move |implied: usize| -> [u8; 32] {
            let mut bytes = [0; 32];
            bytes[..32 - implied].copy_from_slice(&tail[implied..]);
            bytes
        };
        let wanted = tail_of(self.implied_bytes);
        let wanted_bytes = 32 - self.implied_bytes;
        let mut high = end;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.tail(middle) < &wanted[..wanted_bytes] {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low..end)
            .take_while(move |&position| self.tail(position) == &wanted[..wanted_bytes])
            .map(|position| self.slot(position))
    }
}

fn leading(bytes: &[u8], count: usize) -> usize {
    bytes[..count].iter().fold(0, |value, &byte| value << 8 | usize::from(byte))
}

fn read_24(bytes: [u8; 3]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
}

fn write_24(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

/// Loads every index file that can be used into a builder.
fn load_builder(repository: &Repository, context: Context<'_>) -> Result<(IndexBuilder, Vec<IndexProblem>)> {
    let mut files = repository.list(FileKind::Index)?;
    files.sort_unstable();
    let mut builder = IndexBuilder::new();
    let problems = add_files(&mut builder, repository, &files, context)?;
    Ok((builder, problems))
}

/// Fails for a file that cannot be used. A pack that is listed twice is found either way; `check` reports it.
fn refuse_unusable(problems: Vec<IndexProblem>) -> Result<()> {
    problems.into_iter().try_for_each(|problem| match problem {
        IndexProblem::Unusable { error, .. } => Err(error),
        IndexProblem::Contradiction { .. } | IndexProblem::Overlap { .. } => Ok(()),
    })
}

/// Reads index files into the builder, and tells what is wrong with them.
fn add_files(
    builder: &mut IndexBuilder,
    repository: &Repository,
    files: &[(Id, u64)],
    context: Context<'_>,
) -> Result<Vec<IndexProblem>> {
    context.tell(Event::Begin(Task::Index));
    let bytes = files.iter().map(|(_, size)| size).sum();
    context.tell(Event::Expect { task: Task::Index, items: files.len() as u64, bytes });
    let mut problems = Vec::new();
    let loaded = load_files(repository, files, context);
    for (id, size, result) in loaded {
        match result {
            Ok(file) => {
                builder.add_file(id, file, &mut problems);
            }
            Err(error) if error.is_isolated() => problems.push(IndexProblem::Unusable { id, error }),
            Err(error) => return Err(error),
        }
        context.tell(Event::Advance { task: Task::Index, items: 1, bytes: size });
        context.check()?;
    }
    context.tell(Event::End(Task::Index));
    Ok(problems)
}

type LoadedFile = (Id, u64, Result<IndexFile>);

/// Loads index files on several threads and hands them over one by one, in order.
fn load_files<'a>(
    repository: &'a Repository,
    files: &'a [(Id, u64)],
    context: Context<'a>,
) -> impl Iterator<Item = LoadedFile> + 'a {
    // An index file takes a few megabytes; as many at once as the machine has cores and the store likes.
    let at_once = repository.store().parallelism().max(2);
    files.chunks(at_once).flat_map(move |files| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = files
                .iter()
                .map(|(id, size)| {
                    scope.spawn(move || {
                        let result = context.check().and_then(|()| repository.load_json(FileKind::Index, id));
                        (*id, *size, result)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("loading an index file does not panic"))
                .collect::<Vec<_>>()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u32, offset: u32, length: u32) -> PackedBlob {
        let kind = if number.is_multiple_of(3) { BlobKind::Tree } else { BlobKind::Data };
        let uncompressed_length = if number.is_multiple_of(2) { length * 2 } else { 0 };
        PackedBlob { kind, id: Id::of(&number.to_le_bytes()), offset, length, uncompressed_length }
    }

    fn build(packs: u32, blobs_each: u32) -> (Index, Vec<IndexedBlob>) {
        let mut builder = IndexBuilder::new();
        let mut all = Vec::new();
        for pack in 0..packs {
            let mut offset = 0;
            let blobs: Vec<_> = (0..blobs_each)
                .map(|number| {
                    let length = 32 + (pack * 7919 + number * 104_729) % 50_000;
                    let blob = blob(pack * blobs_each + number, offset, length);
                    offset += length;
                    blob
                })
                .collect();
            let pack = Id::of(format!("pack {pack}").as_bytes());
            assert!(builder.add_pack(pack, &blobs));
            all.extend(blobs.into_iter().map(|blob| IndexedBlob { pack, blob }));
        }
        (builder.finish(), all)
    }

    #[test]
    fn finds_every_blob_where_it_lies() {
        for (packs, blobs_each) in [(1, 1), (3, 200), (40, 300), (7, 1)] {
            let (index, all) = build(packs, blobs_each);
            assert_eq!(index.len(), all.len());
            for IndexedBlob { pack, blob } in &all {
                let found = index.find(blob.kind, &blob.id).unwrap();
                assert_eq!((index.pack_id(found.pack), found.blob), (*pack, *blob));
                let other = if blob.kind == BlobKind::Data { BlobKind::Tree } else { BlobKind::Data };
                assert!(!index.contains(other, &blob.id));
            }
            assert!(index.find(BlobKind::Data, &Id::of(b"absent")).is_none());
            let mut ids: Vec<_> = all.iter().map(|entry| entry.blob.id).collect();
            ids.sort_unstable();
            assert_eq!(index.iter().map(|location| location.blob.id).collect::<Vec<_>>(), ids);
            let view = index.by_pack();
            let listed: Vec<_> = (0..index.pack_count()).flat_map(|pack| view.blobs(pack)).collect();
            assert_eq!(listed, all.iter().map(|entry| entry.blob).collect::<Vec<_>>());
        }
    }

    #[test]
    fn keeps_gaps_long_lengths_and_copies() {
        let mut builder = IndexBuilder::new();
        let long = PackedBlob { length: 1 << 24, uncompressed_length: 1 << 30, ..blob(1, 500, 0) };
        let after = blob(2, 500 + (1 << 24) + 9, 77);
        assert!(builder.add_pack(Id::of(b"a"), &[long, after]));
        assert!(builder.add_pack(Id::of(b"b"), &[blob(2, 0, 99)]));
        let index = builder.finish();
        assert_eq!(index.find(BlobKind::Data, &long.id).unwrap().blob, long);
        let copies: Vec<_> = index.find_all(BlobKind::Data, &after.id).collect();
        assert_eq!(copies.len(), 2);
        assert_eq!((copies[0].blob.offset, copies[1].blob.offset), (after.offset, 0));
        assert_eq!(index.by_pack().blobs(0), [long, after]);
    }

    #[test]
    fn leaves_overlapping_blobs_out() {
        let mut builder = IndexBuilder::new();
        assert!(
            !builder.add_pack(Id::of(b"a"), &[blob(1, 0, 100), blob(2, 50, 100), blob(4, u32::MAX, 100)])
        );
        assert_eq!(builder.finish().len(), 1);
    }

    #[test]
    fn takes_40_bytes_a_blob() {
        let (index, all) = build(30_000, 30);
        let packs_bytes = index.packs.len() * size_of::<Pack>();
        let per_blob = (index.resident_bytes() - packs_bytes) as f64 / all.len() as f64;
        assert!(per_blob <= 40.0, "{per_blob} bytes a blob");
    }
}
