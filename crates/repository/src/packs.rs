//! Reading whole packs: checking every byte of one, and taking chosen blobs out of it.

use sha2::{Digest, Sha256};
use store::ErrorKind;

use crate::crypto::OVERHEAD_BYTES;
use crate::format::{HEADER_BYTES_MAX, LENGTH_BYTES, PackedBlob, parse_header};
use crate::{Error, FileKind, Id, Opener, Repository, Result};

/// How much of a pack is read at once: enough for one request to pay, little enough for eight threads.
const WINDOW_BYTES: u32 = 8 << 20;
/// A gap between wanted blobs that is read over rather than asked around.
const GAP_BYTES_MAX: u32 = 256 << 10;

/// Something wrong with one pack's bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackFault {
    /// The pack cannot be read to its end.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// The SHA-256 of the pack is not its name.
    #[error("its SHA-256 is {found}")]
    Hash {
        /// What it is.
        found: Id,
    },
    /// The header at the pack's end does not open or parse.
    #[error("{0}")]
    Header(String),
    /// The header is sound and lists other blobs than the index.
    #[error("its header and the index list different blobs")]
    IndexMismatch,
    /// Bytes of the pack belong to no blob.
    #[error("{bytes} bytes from {offset} on belong to no blob")]
    Gap {
        /// Where they begin.
        offset: u64,
        /// How many they are.
        bytes: u64,
    },
    /// A blob cannot be opened or is not what its id says.
    #[error("{} blob {} at {}: {why}", blob.kind, blob.id, blob.offset)]
    Blob {
        /// The blob as the index lists it.
        blob: PackedBlob,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads packs from the first byte to the last; one a thread.
pub(crate) struct PackInspector<'a> {
    repository: &'a Repository,
    opener: Opener,
    buffer: Vec<u8>,
}

impl<'a> PackInspector<'a> {
    pub(crate) fn new(repository: &'a Repository) -> Self {
        Self { repository, opener: Opener::new(repository.key().clone()), buffer: Vec::new() }
    }

    /// Verifies a pack of `size` bytes that should hold `blobs`, given in the order of their offsets.
    ///
    /// Fails only when the store is not there; whatever is wrong with the pack is a fault.
    pub(crate) fn inspect(&mut self, pack: &Id, size: u64, blobs: &[PackedBlob]) -> Result<Vec<PackFault>> {
        let mut faults = Vec::new();
        let inside = blobs.partition_point(|blob| end_of(blob) <= size);
        for blob in &blobs[inside..] {
            faults.push(PackFault::Blob { blob: *blob, why: format!("the pack ends at {size}") });
        }
        match self.inspect_bytes(pack, size, blobs, inside, &mut faults) {
            Ok(()) => Ok(faults),
            Err(Error::Store(error)) if error.kind != ErrorKind::Unavailable => {
                faults.push(PackFault::Unreadable(error.to_string()));
                Ok(faults)
            }
            Err(error) => Err(error),
        }
    }

    fn inspect_bytes(
        &mut self,
        pack: &Id,
        size: u64,
        blobs: &[PackedBlob],
        inside: usize,
        faults: &mut Vec<PackFault>,
    ) -> Result<()> {
        let object = FileKind::Pack.object(pack);
        let store = self.repository.store();
        let mut hash = Sha256::new();
        let mut position = 0;
        for group in groups(&blobs[..inside], 0) {
            let range = range_of(group);
            if range.start > position {
                faults.push(PackFault::Gap { offset: position, bytes: range.start - position });
                self.hash_range(&object, position..range.start, &mut hash)?;
            }
            store.get_range(&object, range.clone(), &mut self.buffer)?;
            for blob in group {
                let sealed = blob_in(&mut self.buffer, &range, blob);
                // Hashed before it is opened, which changes it, and blob by blob, while it is in the cache.
                hash.update(&*sealed);
                if let Err(damage) = self.opener.open(blob, sealed) {
                    faults.push(PackFault::Blob { blob: *blob, why: damage.to_string() });
                }
            }
            position = range.end;
        }
        self.inspect_trailer(&object, position..size, blobs, &mut hash, faults)?;
        let found = Id(hash.finalize().into());
        if found != *pack {
            faults.push(PackFault::Hash { found });
        }
        Ok(())
    }

    fn inspect_trailer(
        &mut self,
        object: &str,
        mut range: std::ops::Range<u64>,
        blobs: &[PackedBlob],
        hash: &mut Sha256,
        faults: &mut Vec<PackFault>,
    ) -> Result<()> {
        let trailer_bytes_max = (HEADER_BYTES_MAX + LENGTH_BYTES) as u64;
        if range.end - range.start > trailer_bytes_max {
            let split = range.end - trailer_bytes_max;
            faults.push(PackFault::Gap { offset: range.start, bytes: split - range.start });
            self.hash_range(object, range.start..split, hash)?;
            range.start = split;
        }
        self.repository.store().get_range(object, range.clone(), &mut self.buffer)?;
        hash.update(&self.buffer);
        let Some(header_bytes) = header_bytes(&self.buffer) else {
            faults.push(PackFault::Header("its end states no possible length of a header".into()));
            return Ok(());
        };
        let gap = self.buffer.len() - LENGTH_BYTES - header_bytes;
        match open_header(self.repository, &mut self.buffer[gap..gap + header_bytes]) {
            Err(why) => faults.push(PackFault::Header(why)),
            Ok(listed) if listed != blobs => faults.push(PackFault::IndexMismatch),
            Ok(_) if gap > 0 => {
                faults.push(PackFault::Gap { offset: range.start, bytes: gap as u64 });
            }
            Ok(_) => {}
        }
        Ok(())
    }

    fn hash_range(&mut self, object: &str, mut range: std::ops::Range<u64>, hash: &mut Sha256) -> Result<()> {
        while range.start < range.end {
            let end = range.end.min(range.start + u64::from(WINDOW_BYTES));
            self.repository.store().get_range(object, range.start..end, &mut self.buffer)?;
            hash.update(&self.buffer);
            range.start = end;
        }
        Ok(())
    }
}

/// How much of a pack's end is read before its header's length is known; most headers fit.
const HEADER_GUESS_BYTES: u64 = 16 << 10;

/// Reads the header of a pack of `size` bytes; the inner error tells a damaged pack.
pub(crate) fn read_header(
    repository: &Repository,
    pack: &Id,
    size: u64,
) -> Result<std::result::Result<Vec<PackedBlob>, String>> {
    let object = FileKind::Pack.object(pack);
    let mut tail = Vec::new();
    let read = |bytes: u64, tail: &mut Vec<u8>| match repository.store().get_range(
        &object,
        size - bytes..size,
        tail,
    ) {
        Ok(()) => Ok(Ok(())),
        Err(error) if error.kind == ErrorKind::Unavailable => Err(Error::from(error)),
        Err(error) => Ok(Err(error.to_string())),
    };
    if let Err(why) = read(size.min(HEADER_GUESS_BYTES), &mut tail)? {
        return Ok(Err(why));
    }
    let Some(length) = stated_header_bytes(&tail) else {
        return Ok(Err("its end states no possible length of a header".into()));
    };
    let trailer_bytes = (length + LENGTH_BYTES) as u64;
    if trailer_bytes > size {
        return Ok(Err("it is shorter than its header should be".into()));
    }
    if trailer_bytes > tail.len() as u64
        && let Err(why) = read(trailer_bytes, &mut tail)?
    {
        return Ok(Err(why));
    }
    let start = tail.len() - trailer_bytes as usize;
    let listed = open_header(repository, &mut tail[start..start + length]);
    Ok(listed.and_then(|blobs| {
        let listed_bytes = blobs.last().map_or(0, end_of);
        if listed_bytes + trailer_bytes == size {
            Ok(blobs)
        } else {
            Err(format!("its header lists {listed_bytes} bytes of blobs, which does not fit its size {size}"))
        }
    }))
}

/// The length of the sealed header as the pack's end states it, when it can be true.
fn stated_header_bytes(tail: &[u8]) -> Option<usize> {
    let (_, length) = tail.split_last_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    (OVERHEAD_BYTES..=HEADER_BYTES_MAX).contains(&length).then_some(length)
}

fn header_bytes(trailer: &[u8]) -> Option<usize> {
    stated_header_bytes(trailer).filter(|length| length + LENGTH_BYTES <= trailer.len())
}

fn open_header(repository: &Repository, sealed: &mut [u8]) -> std::result::Result<Vec<PackedBlob>, String> {
    let header =
        repository.key().open(sealed).map_err(|error| format!("its header does not open: {error}"))?;
    parse_header(header).map_err(|error| error.to_string())
}

/// Reads `blobs` of a pack, given in the order of their offsets, and hands each over as its sealed bytes.
pub(crate) fn for_each_sealed(
    repository: &Repository,
    pack: &Id,
    blobs: &[PackedBlob],
    buffer: &mut Vec<u8>,
    each: &mut dyn FnMut(&PackedBlob, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let object = FileKind::Pack.object(pack);
    for group in groups(blobs, GAP_BYTES_MAX) {
        let range = range_of(group);
        repository.store().get_range(&object, range.clone(), buffer)?;
        for blob in group {
            each(blob, blob_in(buffer, &range, blob))?;
        }
    }
    Ok(())
}

/// Divides blobs into runs to be read at once: at most a window long (or one blob), without longer gaps.
fn groups(blobs: &[PackedBlob], gap_bytes_max: u32) -> impl Iterator<Item = &[PackedBlob]> {
    let mut rest = blobs;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut count = 1;
        while let Some(next) = rest.get(count) {
            let end = end_of(&rest[count - 1]);
            let near = u64::from(next.offset) <= end + u64::from(gap_bytes_max);
            if !near || end_of(next) - u64::from(first.offset) > u64::from(WINDOW_BYTES) {
                break;
            }
            count += 1;
        }
        let (group, others) = rest.split_at(count);
        rest = others;
        Some(group)
    })
}

fn range_of(group: &[PackedBlob]) -> std::ops::Range<u64> {
    u64::from(group[0].offset)..end_of(&group[group.len() - 1])
}

fn blob_in<'a>(buffer: &'a mut [u8], range: &std::ops::Range<u64>, blob: &PackedBlob) -> &'a mut [u8] {
    let start = (u64::from(blob.offset) - range.start) as usize;
    &mut buffer[start..start + blob.length as usize]
}

fn end_of(blob: &PackedBlob) -> u64 {
    u64::from(blob.offset) + u64::from(blob.length)
}
