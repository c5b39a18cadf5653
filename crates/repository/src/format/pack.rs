//! Packs: many blobs in one stored file, with a sealed header at its end.
//!
//! `blob … blob ‖ sealed(header) ‖ length of the sealed header (u32, little-endian)`. The header has an
//! entry a blob, in order; a blob's offset is the sum of the lengths before it.

use crate::Id;
use crate::crypto::OVERHEAD_BYTES;

/// The two kinds of blobs, which have names of their own and never share a pack that we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A chunk of a file.
    Data,
    /// A directory.
    Tree,
}

impl std::fmt::Display for BlobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Tree => "tree",
        })
    }
}

/// One blob as a pack's header describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedBlob {
    /// Its kind.
    pub kind: BlobKind,
    /// SHA-256 of its plaintext.
    pub id: Id,
    /// Where its sealed bytes begin in the pack.
    pub offset: u32,
    /// How many sealed bytes it has.
    pub length: u32,
    /// Length of its plaintext when it is compressed; 0 when it is not.
    pub uncompressed_length: u32,
}

impl PackedBlob {
    /// Length of the plaintext in bytes.
    pub fn plain_length(&self) -> u32 {
        match self.uncompressed_length {
            0 => self.length.saturating_sub(OVERHEAD_BYTES as u32),
            length => length,
        }
    }
}

/// Bytes of the length field that ends a pack.
pub const LENGTH_BYTES: usize = 4;
/// The longest sealed header that restic reads.
pub const HEADER_BYTES_MAX: usize = 16 << 20;
const PLAIN_ENTRY_BYTES: usize = 1 + 4 + 32;
const COMPRESSED_ENTRY_BYTES: usize = PLAIN_ENTRY_BYTES + 4;

/// A pack's header makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackHeaderError {
    /// An entry has a type that the format does not know.
    #[error("its header has an entry of unknown type {0}")]
    UnknownType(u8),
    /// The header ends inside an entry.
    #[error("its header ends inside an entry")]
    CutOff,
    /// A blob is too short to be sealed, is compressed from nothing, or all together are longer than a pack can be.
    #[error("its header states an impossible length")]
    Length,
}

/// Bytes that the sealed header and its length field take behind `blobs`.
pub fn trailer_bytes(blobs: impl IntoIterator<Item = PackedBlob>) -> usize {
    blobs.into_iter().map(|blob| entry_bytes(&blob)).sum::<usize>() + OVERHEAD_BYTES + LENGTH_BYTES
}

/// Bytes of one blob's header entry.
pub fn entry_bytes(blob: &PackedBlob) -> usize {
    if blob.uncompressed_length == 0 { PLAIN_ENTRY_BYTES } else { COMPRESSED_ENTRY_BYTES }
}

/// Writes the header's plaintext; `blobs` must be in the order of their offsets and contiguous.
pub fn encode_header(blobs: &[PackedBlob]) -> Vec<u8> {
    let mut header = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY_BYTES);
    for blob in blobs {
        let compressed = blob.uncompressed_length != 0;
        header.push(match (blob.kind, compressed) {
            (BlobKind::Data, false) => 0,
            (BlobKind::Tree, false) => 1,
            (BlobKind::Data, true) => 2,
            (BlobKind::Tree, true) => 3,
        });
        header.extend_from_slice(&blob.length.to_le_bytes());
        if compressed {
            header.extend_from_slice(&blob.uncompressed_length.to_le_bytes());
        }
        header.extend_from_slice(&blob.id.0);
    }
    header
}

/// Reads the header's plaintext.
///
/// The lengths it states are only as true as its writer; compare them with the pack's size.
pub fn parse_header(mut header: &[u8]) -> Result<Vec<PackedBlob>, PackHeaderError> {
    let mut blobs = Vec::with_capacity(header.len() / PLAIN_ENTRY_BYTES);
    let mut offset: u32 = 0;
    while let Some(&kind_byte) = header.first() {
        let (kind, compressed) = match kind_byte {
            0 => (BlobKind::Data, false),
            1 => (BlobKind::Tree, false),
            2 => (BlobKind::Data, true),
            3 => (BlobKind::Tree, true),
            other => return Err(PackHeaderError::UnknownType(other)),
        };
        let size = if compressed { COMPRESSED_ENTRY_BYTES } else { PLAIN_ENTRY_BYTES };
        let (entry, rest) = header.split_at_checked(size).ok_or(PackHeaderError::CutOff)?;
        let length = u32_at(entry, 1);
        let uncompressed_length = if compressed { u32_at(entry, 5) } else { 0 };
        // Nobody compresses an empty blob, and a length of 0 stands for a blob that is not compressed.
        if (length as usize) < OVERHEAD_BYTES || (compressed && uncompressed_length == 0) {
            return Err(PackHeaderError::Length);
        }
        let id = Id(entry[size - 32..].try_into().expect("the last 32 bytes of the entry"));
        blobs.push(PackedBlob { kind, id, offset, length, uncompressed_length });
        offset = offset.checked_add(length).ok_or(PackHeaderError::Length)?;
        header = rest;
    }
    Ok(blobs)
}

fn u32_at(bytes: &[u8], position: usize) -> u32 {
    u32::from_le_bytes(bytes[position..position + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blobs() -> impl Strategy<Value = Vec<PackedBlob>> {
        let blob = (any::<bool>(), any::<[u8; 32]>(), 32u32..100_000, 0u32..200_000);
        proptest::collection::vec(blob, 0..50).prop_map(|blobs| {
            let mut offset = 0;
            blobs
                .into_iter()
                .map(|(tree, id, length, uncompressed_length)| {
                    let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
                    let blob = PackedBlob { kind, id: Id(id), offset, length, uncompressed_length };
                    offset += length;
                    blob
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn header_round_trips(blobs in blobs()) {
            let header = encode_header(&blobs);
            prop_assert_eq!(header.len() + OVERHEAD_BYTES + LENGTH_BYTES, trailer_bytes(blobs.iter().copied()));
            prop_assert_eq!(parse_header(&header).unwrap(), blobs);
        }

        #[test]
        fn header_parser_survives_anything(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_header(&bytes);
        }
    }

    #[test]
    fn refuses_nonsense() {
        assert_eq!(parse_header(&[9]), Err(PackHeaderError::UnknownType(9)));
        assert_eq!(parse_header(&[0, 1, 2]), Err(PackHeaderError::CutOff));
        assert_eq!(parse_header(&[0; 37]), Err(PackHeaderError::Length));
        let blob = PackedBlob {
            kind: BlobKind::Tree,
            id: Id([7; 32]),
            offset: 0,
            length: 40,
            uncompressed_length: 9,
        };
        let mut header = encode_header(&[blob]);
        assert_eq!(parse_header(&header), Ok(vec![blob]));
        header[5] = 0;
        assert_eq!(parse_header(&header), Err(PackHeaderError::Length));
    }
}
