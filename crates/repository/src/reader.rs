//! Reading blobs back, verified; other copies are tried where one is damaged.

use std::sync::{Arc, Mutex};

use crate::format::BlobKind;
use crate::{Error, FileKind, Id, Index, Location, Opener, Repository, Result};

/// Packs of trees that are kept in memory when the store is far away.
const CACHED_PACKS: usize = 4;
/// A pack larger than this is never fetched whole for one tree.
const CACHED_PACK_BYTES_MAX: u64 = 20 << 20;
/// A store that wants at least this many requests at once is taken to be far away.
const FAR_PARALLELISM: usize = 8;

/// Reads single blobs: trees above all.
///
/// From a store across a network a tree is read with the whole pack that holds it: the next trees are
/// mostly its neighbours.
pub struct BlobReader<'a> {
    repository: &'a Repository,
    index: &'a Index,
    openers: Mutex<Vec<Opener>>,
    cache: Mutex<Vec<(u32, Arc<Vec<u8>>)>>,
}

impl<'a> BlobReader<'a> {
    /// Makes a reader; it may be shared by threads.
    pub fn new(repository: &'a Repository, index: &'a Index) -> Self {
        Self { repository, index, openers: Mutex::default(), cache: Mutex::default() }
    }

    /// The index that the reader looks into.
    pub fn index(&self) -> &'a Index {
        self.index
    }

    /// How many reads at once make the store fast.
    pub fn parallelism(&self) -> usize {
        self.repository.store().parallelism()
    }

    /// Reads a blob's plaintext.
    ///
    /// Fails with [`Error::Missing`] when no pack is listed for it, and with [`Error::Damaged`], naming the
    /// pack, when every copy is damaged.
    pub fn read(&self, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        let mut failure = None;
        for location in self.index.find_all(kind, id) {
            match self.read_at(&location) {
                Ok(plaintext) => return Ok(plaintext),
                Err(error) if error.is_isolated() => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Missing { what: format!("{kind} blob {id}") }))
    }

    /// Reads the copy of a blob that lies at `location`.
    pub fn read_at(&self, location: &Location) -> Result<Vec<u8>> {
        let mut sealed = self.read_sealed(location)?;
        let mut opener = self.opener();
        let plaintext = opener.open(&location.blob, &mut sealed).map(<[u8]>::to_vec);
        self.openers.lock().expect("no holder panics").push(opener);
        plaintext.map_err(|damage| {
            let pack = self.index.pack_id(location.pack);
            let object = format!("{} blob {} in pack {pack}", location.blob.kind, location.blob.id);
            Error::damaged(object, damage)
        })
    }

    fn read_sealed(&self, location: &Location) -> Result<Vec<u8>> {
        let blob = &location.blob;
        let (start, end) = (u64::from(blob.offset), u64::from(blob.offset) + u64::from(blob.length));
        let object = FileKind::Pack.object(&self.index.pack_id(location.pack));
        if blob.kind == BlobKind::Tree
            && self.repository.store().parallelism() >= FAR_PARALLELISM
            && let Some(pack) = self.cached_pack(location.pack, &object)?
        {
            let sealed = pack.get(start as usize..end as usize).ok_or_else(|| {
                Error::damaged(object, format!("it has {} bytes and should have at least {end}", pack.len()))
            })?;
            return Ok(sealed.to_vec());
        }
        let mut sealed = Vec::new();
        self.repository.store().get_range(&object, start..end, &mut sealed)?;
        Ok(sealed)
    }

    /// The whole pack, unless it is too large to be fetched for one tree.
    fn cached_pack(&self, number: u32, object: &str) -> Result<Option<Arc<Vec<u8>>>> {
        let mut cache = self.cache.lock().expect("no holder panics");
        if let Some(position) = cache.iter().position(|(cached, _)| *cached == number) {
            let entry = cache.remove(position);
            cache.push(entry);
            return Ok(Some(Arc::clone(&cache[cache.len() - 1].1)));
        }
        drop(cache);
        if self.repository.store().size(object)? > CACHED_PACK_BYTES_MAX {
            return Ok(None);
        }
        let pack = Arc::new(self.repository.store().get(object)?);
        let mut cache = self.cache.lock().expect("no holder panics");
        if cache.len() >= CACHED_PACKS {
            cache.remove(0);
        }
        cache.push((number, Arc::clone(&pack)));
        Ok(Some(pack))
    }

    fn opener(&self) -> Opener {
        let spare = self.openers.lock().expect("no holder panics").pop();
        spare.unwrap_or_else(|| Opener::new(self.repository.key().clone()))
    }
}
