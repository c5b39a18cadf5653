//! Writing blobs: packing, uploading and indexing what is new.
//!
//! # Consistency
//! Packs are durable before an index file lists them, and [`BlobWriter::flush`] returns when both are, so
//! that a snapshot written after it needs nothing that could be lost.
//!
//! # Crash
//! At any moment there may be packs that no index lists yet. They are orphans that a prune removes; the blobs
//! in them count as never saved. An index file is written at least every [`INDEX_EVERY`], so that a long backup
//! that dies has most of its blobs indexed and the next one does not save them again.
//!
//! # Concurrency
//! Threads save blobs at once. An id is reserved before its blob is sealed, so two threads never save the
//! same blob; the loser may go on at once, because nothing refers to the blob before the flush.
//! Before anything is uploaded the lock is asked whether it still holds.
//!
//! # Privacy
//! Data blobs go at random to one of two open packs. Chunk lengths that can be read off consecutive offsets
//! of one pack would otherwise say something about the content (restic does the same since 0.18).

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::format::{BlobKind, IndexFile, IndexPack, LENGTH_BYTES, PackedBlob, encode_header};
use crate::lock::LockGuard;
use crate::{Error, FileKind, Id, Index, Repository, Result, Sealer};

/// How packs are made.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// A pack is closed when it has at least this many bytes.
    pub pack_bytes: usize,
}

impl Default for WriterOptions {
    /// restic's pack size of 16 MiB.
    fn default() -> Self {
        Self { pack_bytes: 16 << 20 }
    }
}

/// How many data packs are open at once.
const OPEN_DATA_PACKS: usize = 2;
/// Packs that wait for an uploader beside those being uploaded: none, for each would be one more pack of memory.
const WAITING_PACKS: usize = 0;
/// Uploads at once, however many the store likes: each holds a pack in memory, and three keep a disk busy with
/// syncing and hide a network's round trips behind 16 MiB of transfer.
const UPLOADS_MAX: usize = 3;
/// A full index file; restic splits at the same number.
const INDEX_BLOBS_MAX: usize = 50_000;
/// How much work a crash may undo.
const INDEX_EVERY: Duration = Duration::from_secs(5 * 60);
/// A header entry a blob must fit restic's limit of 16 MiB for a header.
const PACK_BLOBS_MAX: usize = (12 << 20) / 41;
/// Sets of new ids are divided to keep threads out of each other's way.
const SHARDS: usize = 16;

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It was there already, or another thread saves it.
    Known,
    /// It was packed, in this many sealed bytes.
    New(u32),
}

/// What a writer has added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterTotals {
    /// New data blobs.
    pub data_blobs: u64,
    /// New tree blobs.
    pub tree_blobs: u64,
    /// Plaintext bytes of the new blobs.
    pub plain_bytes: u64,
    /// Sealed bytes of the new blobs.
    pub sealed_bytes: u64,
}

/// Saves blobs into packs; shared by threads.
pub struct BlobWriter {
    shared: Arc<Shared>,
    full: Option<Sender<Packer>>,
    uploaders: Vec<JoinHandle<()>>,
}

struct Shared {
    repository: Repository,
    index: Arc<Index>,
    lock: LockGuard,
    options: WriterOptions,
    salt: u8,
    new: [Mutex<HashSet<(BlobKind, Id)>>; SHARDS],
    data: [Mutex<Packer>; OPEN_DATA_PACKS],
    trees: Mutex<Packer>,
    uploads: Mutex<Uploads>,
    idle: Condvar,
    totals: [AtomicU64; 4],
    /// Buffers of packs that are uploaded: what has been touched once need not be mapped and zeroed again.
    spares: Mutex<Vec<Vec<u8>>>,
}

/// Packs on their way, and those that arrived and are not indexed yet.
struct Uploads {
    in_flight: usize,
    unindexed: Vec<IndexPack>,
    unindexed_blobs: usize,
    indexed_at: Instant,
    failure: Option<Error>,
}

#[derive(Default)]
struct Packer {
    bytes: Vec<u8>,
    blobs: Vec<PackedBlob>,
}

impl BlobWriter {
    /// Makes a writer that saves what `index` does not have.
    pub fn new(
        repository: &Repository,
        index: Arc<Index>,
        lock: &crate::Lock,
        options: WriterOptions,
    ) -> Self {
        let mut salt = [0];
        getrandom::fill(&mut salt).expect("the kernel's random source does not fail once it is seeded");
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            index,
            lock: lock.guard(),
            options,
            salt: salt[0],
            new: Default::default(),
            data: Default::default(),
            trees: Mutex::default(),
            uploads: Mutex::new(Uploads {
                in_flight: 0,
                unindexed: Vec::new(),
                unindexed_blobs: 0,
                indexed_at: Instant::now(),
                failure: None,
            }),
            idle: Condvar::new(),
            totals: Default::default(),
            spares: Mutex::default(),
        });
        let (full, waiting) = bounded(WAITING_PACKS);
        let uploaders = (0..repository.store().parallelism().clamp(1, UPLOADS_MAX))
            .map(|_| {
                let (shared, waiting) = (Arc::clone(&shared), waiting.clone());
                std::thread::spawn(move || upload_all(&shared, &waiting))
            })
            .collect();
        Self { shared, full: Some(full), uploaders }
    }

    /// A sealer for this repository; one a thread.
    pub fn sealer(&self) -> Sealer {
        Sealer::new(self.shared.repository.key().clone())
    }

    /// Whether the blob is in the repository or on its way there.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.shared.index.contains(kind, id)
            || self.shared.shard(id).lock().expect("no holder panics").contains(&(kind, *id))
    }

    /// Saves a blob unless it is there.
    ///
    /// Fails when an earlier upload failed or the lock is lost: then nothing of this writer may be used.
    pub fn save(&self, sealer: &mut Sealer, kind: BlobKind, id: Id, plaintext: &[u8]) -> Result<Saved> {
        if !self.shared.reserve(kind, id) {
            return Ok(Saved::Known);
        }
        let (sealed, uncompressed_length) = sealer.seal(kind, plaintext);
        self.append(kind, id, sealed, uncompressed_length, plaintext.len())
    }

    /// Saves a blob that is sealed for this repository already, unless it is there.
    pub fn save_sealed(&self, blob: &PackedBlob, sealed: &[u8]) -> Result<Saved> {
        if !self.shared.reserve(blob.kind, blob.id) {
            return Ok(Saved::Known);
        }
        self.append(blob.kind, blob.id, sealed, blob.uncompressed_length, blob.plain_length() as usize)
    }

    fn append(
        &self,
        kind: BlobKind,
        id: Id,
        sealed: &[u8],
        uncompressed_length: u32,
        plain: usize,
    ) -> Result<Saved> {
        let shared = &*self.shared;
        let length = u32::try_from(sealed.len()).expect("chunks are far below 4 GiB");
        let full = {
            let mut packer = shared.packer(kind, &id).lock().expect("no holder panics");
            if packer.bytes.capacity() == 0 {
                packer.bytes = shared.spares.lock().expect("no holder panics").pop().unwrap_or_default();
            }
            packer.push(
                PackedBlob { kind, id, offset: 0, length, uncompressed_length },
                sealed,
                shared.options,
            );
            packer.is_full(shared.options).then(|| std::mem::take(&mut *packer))
        };
        shared.count(kind, plain, sealed.len());
        if let Some(packer) = full {
            self.send(packer)?;
        }
        Ok(Saved::New(length))
    }

    fn send(&self, packer: Packer) -> Result<()> {
        {
            let mut uploads = self.shared.uploads.lock().expect("no holder panics");
            if uploads.failure.is_some() {
                return Err(uploads.take_failure());
            }
            uploads.in_flight += 1;
        }
        let full = self.full.as_ref().expect("the channel is closed by drop alone");
        full.send(packer).expect("uploaders live as long as the writer");
        Ok(())
    }

    /// Makes everything saved so far durable and indexed.
    pub fn flush(&self) -> Result<()> {
        let shared = &*self.shared;
        for packer in shared.data.iter().chain([&shared.trees]) {
            let packer = std::mem::take(&mut *packer.lock().expect("no holder panics"));
            if !packer.blobs.is_empty() {
                self.send(packer)?;
            }
        }
        let mut uploads = shared.uploads.lock().expect("no holder panics");
        while uploads.in_flight > 0 {
            uploads = shared.idle.wait(uploads).expect("no holder panics");
        }
        if uploads.failure.is_some() {
            return Err(uploads.take_failure());
        }
        shared.write_index(&mut uploads)
    }

    /// Flushes, and tells what was added.
    pub fn finish(self) -> Result<WriterTotals> {
        self.flush()?;
        Ok(self.totals())
    }

    /// What was added so far.
    pub fn totals(&self) -> WriterTotals {
        let [data_blobs, tree_blobs, plain_bytes, sealed_bytes] =
            [0, 1, 2, 3].map(|total| self.shared.totals[total].load(Ordering::Relaxed));
        WriterTotals { data_blobs, tree_blobs, plain_bytes, sealed_bytes }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        self.full = None;
        for uploader in self.uploaders.drain(..) {
            uploader.join().expect("uploaders do not panic");
        }
    }
}

impl Shared {
    fn shard(&self, id: &Id) -> &Mutex<HashSet<(BlobKind, Id)>> {
        &self.new[usize::from(id.0[31]) % SHARDS]
    }

    fn reserve(&self, kind: BlobKind, id: Id) -> bool {
        !self.index.contains(kind, &id)
            && self.shard(&id).lock().expect("no holder panics").insert((kind, id))
    }

    fn packer(&self, kind: BlobKind, id: &Id) -> &Mutex<Packer> {
        match kind {
            BlobKind::Tree => &self.trees,
            BlobKind::Data => &self.data[usize::from(id.0[30] ^ self.salt) % OPEN_DATA_PACKS],
        }
    }

    fn count(&self, kind: BlobKind, plain: usize, sealed: usize) {
        let kind = usize::from(kind == BlobKind::Tree);
        for (total, more) in [(kind, 1), (2, plain as u64), (3, sealed as u64)] {
            self.totals[total].fetch_add(more, Ordering::Relaxed);
        }
    }

    fn upload(&self, packer: Packer) -> Result<IndexPack> {
        let Packer { mut bytes, blobs } = packer;
        let header = self.repository.key().seal(&encode_header(&blobs));
        let header_bytes = u32::try_from(header.len()).expect("bounded by the number of blobs in a pack");
        bytes.reserve_exact(header.len() + LENGTH_BYTES);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&header_bytes.to_le_bytes());
        let id = Id::of(&bytes);
        self.lock.check()?;
        let bytes = bytes::Bytes::from(bytes);
        self.repository.store().put(&FileKind::Pack.object(&id), bytes.clone())?;
        // A store that keeps what it was given keeps the buffer.
        if let Ok(bytes) = bytes.try_into_mut() {
            let mut buffer = Vec::from(bytes);
            buffer.clear();
            self.spares.lock().expect("no holder panics").push(buffer);
        }
        Ok(IndexPack { id, blobs: blobs.into_iter().map(Into::into).collect(), time: None })
    }

    fn write_index(&self, uploads: &mut Uploads) -> Result<()> {
        uploads.indexed_at = Instant::now();
        if uploads.unindexed.is_empty() {
            return Ok(());
        }
        self.lock.check()?;
        let file = IndexFile { packs: std::mem::take(&mut uploads.unindexed), packs_to_delete: Vec::new() };
        uploads.unindexed_blobs = 0;
        self.repository.save_json(FileKind::Index, &file)?;
        Ok(())
    }

    fn arrived(&self, result: Result<IndexPack>) {
        let mut uploads = self.uploads.lock().expect("no holder panics");
        let result = result.and_then(|pack| {
            uploads.unindexed_blobs += pack.blobs.len();
            uploads.unindexed.push(pack);
            let due =
                uploads.unindexed_blobs >= INDEX_BLOBS_MAX || uploads.indexed_at.elapsed() >= INDEX_EVERY;
            if due { self.write_index(&mut uploads) } else { Ok(()) }
        });
        if let Err(error) = result {
            uploads.failure.get_or_insert(error);
        }
        uploads.in_flight -= 1;
        self.idle.notify_all();
    }
}

impl Uploads {
    /// The first failure says what happened; later callers hear that the writer is unusable.
    fn take_failure(&mut self) -> Error {
        let again = Error::Refused("an earlier upload failed".into());
        self.failure.replace(again).expect("asked for only when there is one")
    }
}

impl Packer {
    fn push(&mut self, blob: PackedBlob, sealed: &[u8], options: WriterOptions) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(options.pack_bytes + options.pack_bytes / 8);
        }
        // Only what is needed: growing by doubling would hold up to three times the memory.
        self.bytes.reserve_exact(sealed.len());
        let offset = u32::try_from(self.bytes.len()).expect("packs are far below 4 GiB");
        self.bytes.extend_from_slice(sealed);
        self.blobs.push(PackedBlob { offset, ..blob });
    }

    fn is_full(&self, options: WriterOptions) -> bool {
        self.bytes.len() + LENGTH_BYTES >= options.pack_bytes || self.blobs.len() >= PACK_BLOBS_MAX
    }
}

fn upload_all(shared: &Shared, waiting: &Receiver<Packer>) {
    for packer in waiting {
        let failed = shared.uploads.lock().expect("no holder panics").failure.is_some();
        let result = if failed { Err(Error::Interrupted) } else { shared.upload(packer) };
        shared.arrived(result);
    }
}
