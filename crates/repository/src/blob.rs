//! One blob's way between plaintext and sealed bytes: compression, sealing, and both undone and checked.

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use crate::Id;
use crate::crypto::{IV_BYTES, MasterKey, OVERHEAD_BYTES, TAG_BYTES};
use crate::format::{BlobKind, PackedBlob};

/// Compression level; the next one takes much longer over text for a few per cent.
const LEVEL: i32 = 2;
/// The least match that is looked for: 5 bytes instead of the level's 6 or 7. It takes no longer, and a database's
/// indexes and logs, which repeat little that is longer, shrink by a fifth more.
const MIN_MATCH_BYTES: u32 = 5;
/// Binary logarithm of the entries in the table of matches: 128 KiB stay in a processor's own cache.
const HASH_LOG: u32 = 15;
/// A chunk at least this long is sampled before it is compressed as a whole.
const SAMPLED_BYTES_MIN: usize = 128 << 10;
/// How much of a long chunk is compressed to learn whether it compresses at all.
const SAMPLE_BYTES: usize = 16 << 10;
/// How many samples, spread evenly; one alone would judge a file by its head.
const SAMPLES: usize = 3;
/// Compression that saves less than one part in this many is not worth undoing: the blob is stored raw.
const SAVING_DIVISOR: usize = 32;

/// Turns plaintext into sealed blobs; one a thread, for it keeps the compressor and the buffer.
pub struct Sealer {
    key: MasterKey,
    compressor: Compressor<'static>,
    buffer: Vec<u8>,
}

impl Sealer {
    /// Makes a sealer for the repository that has `key`.
    pub fn new(key: MasterKey) -> Self {
        let mut compressor = Compressor::new(LEVEL).expect("the level is one that zstd has");
        for parameter in [CParameter::MinMatch(MIN_MATCH_BYTES), CParameter::HashLog(HASH_LOG)] {
            compressor.set_parameter(parameter).expect("the parameter is within zstd's bounds");
        }
        Self { key, compressor, buffer: Vec::new() }
    }

    /// Seals `plaintext`: its sealed bytes and, when it is compressed, the length of the plaintext, else 0.
    pub fn seal(&mut self, kind: BlobKind, plaintext: &[u8]) -> (&[u8], u32) {
        match self.compress(kind, plaintext) {
            Some(length) => {
                let message = &mut self.buffer[..IV_BYTES + length + TAG_BYTES];
                self.key.seal_in_place(message);
                (message, u32::try_from(plaintext.len()).expect("chunks are far below 4 GiB"))
            }
            None => {
                self.reserve(plaintext.len());
                let message = &mut self.buffer[..plaintext.len() + OVERHEAD_BYTES];
                message[IV_BYTES..IV_BYTES + plaintext.len()].copy_from_slice(plaintext);
                self.key.seal_in_place(message);
                (message, 0)
            }
        }
    }

    /// Compresses into the buffer behind the room for an IV; `None` when that is not worth it.
    ///
    /// Trees are always compressed: restic's prune rewrites uncompressed tree packs.
    fn compress(&mut self, kind: BlobKind, plaintext: &[u8]) -> Option<usize> {
        if plaintext.is_empty() {
            return None;
        }
        let is_sampled = kind == BlobKind::Data && plaintext.len() >= SAMPLED_BYTES_MIN;
        if is_sampled && !self.promises(plaintext) {
            return None;
        }
        let room = zstd::zstd_safe::compress_bound(plaintext.len());
        self.reserve(room);
        let target = &mut self.buffer[IV_BYTES..IV_BYTES + room];
        let length = self
            .compressor
            .compress_to_buffer(plaintext, target)
            .expect("compressing into a buffer of the library's own bound does not fail");
        let worth = kind == BlobKind::Tree || length + plaintext.len() / SAVING_DIVISOR < plaintext.len();
        worth.then_some(length)
    }

    /// Whether any sample of a long chunk compresses.
    fn promises(&mut self, plaintext: &[u8]) -> bool {
        self.reserve(zstd::zstd_safe::compress_bound(SAMPLE_BYTES));
        let stride = (plaintext.len() - SAMPLE_BYTES) / (SAMPLES - 1);
        (0..SAMPLES).any(|sample| {
            let sample = &plaintext[sample * stride..][..SAMPLE_BYTES];
            let length = self
                .compressor
                .compress_to_buffer(sample, &mut self.buffer[..])
                .expect("compressing into a buffer of the library's own bound does not fail");
            length + SAMPLE_BYTES / SAVING_DIVISOR < SAMPLE_BYTES
        })
    }

    fn reserve(&mut self, content_bytes: usize) {
        let bytes = content_bytes + OVERHEAD_BYTES;
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
    }
}

/// A blob is not what the index or its id says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobDamage {
    /// The sealed bytes do not open.
    #[error("{0}")]
    Sealed(#[from] crate::crypto::OpenError),
    /// The compressed bytes do not decompress, or not to the length that was stated.
    #[error("it does not decompress to the {expected} bytes stated: {why}")]
    Compression {
        /// The length that the index or the header states.
        expected: u32,
        /// What zstd says.
        why: String,
    },
    /// The plaintext has another SHA-256 than the blob's id.
    #[error("its plaintext has the SHA-256 {found}")]
    Hash {
        /// The id that the plaintext really has.
        found: Id,
    },
}

/// Turns sealed blobs into verified plaintext; one a thread, for it keeps the decompressor and the buffer.
pub struct Opener {
    key: MasterKey,
    decompressor: Decompressor<'static>,
    buffer: Vec<u8>,
}

impl Opener {
    /// Makes an opener for the repository that has `key`.
    pub fn new(key: MasterKey) -> Self {
        let decompressor = Decompressor::new().expect("a decompressor without dictionary");
        Self { key, decompressor, buffer: Vec::new() }
    }

    /// Opens `sealed` in place and returns the plaintext, whose SHA-256 is the blob's id.
    pub fn open<'a>(&'a mut self, blob: &PackedBlob, sealed: &'a mut [u8]) -> Result<&'a [u8], BlobDamage> {
        let opened = self.key.open(sealed)?;
        let plaintext: &[u8] = if blob.uncompressed_length == 0 {
            opened
        } else {
            decompress(&mut self.decompressor, &mut self.buffer, opened, blob.uncompressed_length)?;
            &self.buffer
        };
        let found = Id::of(plaintext);
        if found == blob.id { Ok(plaintext) } else { Err(BlobDamage::Hash { found }) }
    }
}

/// Decompresses to exactly `expected` bytes: a frame that holds more is refused, however large it claims to be.
fn decompress(
    decompressor: &mut Decompressor<'static>,
    buffer: &mut Vec<u8>,
    compressed: &[u8],
    expected: u32,
) -> Result<(), BlobDamage> {
    let failed = |why: String| BlobDamage::Compression { expected, why };
    let length = expected as usize;
    // What a frame says of itself is checked before memory is taken for what the index says of it.
    match zstd::zstd_safe::get_frame_content_size(compressed) {
        Ok(Some(size)) if size != u64::from(expected) => {
            return Err(failed(format!("its frame holds {size}")));
        }
        Ok(_) => {}
        Err(_) => return Err(failed("it is no zstd frame".into())),
    }
    buffer.clear();
    buffer.try_reserve_exact(length).map_err(|error| failed(error.to_string()))?;
    let found =
        decompressor.decompress_to_buffer(compressed, buffer).map_err(|error| failed(error.to_string()))?;
    if found == length { Ok(()) } else { Err(failed(format!("it holds {found}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(kind: BlobKind, plaintext: &[u8]) -> u32 {
        let key = MasterKey::random();
        let mut sealer = Sealer::new(key.clone());
        let (sealed, uncompressed_length) = sealer.seal(kind, plaintext);
        let mut sealed = sealed.to_vec();
        let length = sealed.len() as u32;
        let blob = PackedBlob { kind, id: Id::of(plaintext), offset: 0, length, uncompressed_length };
        assert_eq!(blob.plain_length() as usize, plaintext.len());
        assert_eq!(Opener::new(key).open(&blob, &mut sealed).unwrap(), plaintext);
        uncompressed_length
    }

    #[test]
    fn compresses_what_compresses() {
        assert_eq!(round_trip(BlobKind::Data, &[7; 1_000_000]), 1_000_000);
        assert_eq!(round_trip(BlobKind::Data, b""), 0);
        assert_eq!(round_trip(BlobKind::Tree, b"{\"nodes\":[]}\n"), 13);
        let mut noise = vec![0; 300_000];
        getrandom::fill(&mut noise).unwrap();
        assert_eq!(round_trip(BlobKind::Data, &noise), 0);
        noise[150_000..220_000].fill(1);
        assert_eq!(round_trip(BlobKind::Data, &noise), 300_000);
    }

    #[test]
    fn refuses_bombs_and_lies() {
        let key = MasterKey::random();
        let plaintext = vec![0; 100 << 20];
        let compressed = zstd::bulk::compress(&plaintext, 1).unwrap();
        let sealed = key.seal(&compressed);
        let blob = |uncompressed_length| PackedBlob {
            kind: BlobKind::Data,
            id: Id::of(&plaintext),
            offset: 0,
            length: sealed.len() as u32,
            uncompressed_length,
        };
        let mut opener = Opener::new(key.clone());
        assert!(opener.open(&blob(100 << 20), &mut sealed.clone()).is_ok());
        for lie in [1, 1000, u32::MAX] {
            let damage = opener.open(&blob(lie), &mut sealed.clone()).unwrap_err();
            assert!(matches!(damage, BlobDamage::Compression { .. }), "{damage}");
        }
        let other = PackedBlob { id: Id::of(b"other"), ..blob(100 << 20) };
        let damage = opener.open(&other, &mut sealed.clone()).unwrap_err();
        assert_eq!(damage, BlobDamage::Hash { found: Id::of(&plaintext) });
    }
}
