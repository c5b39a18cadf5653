//! The bytes of a write-ahead log: its header, its frames, and the chain of checksums that binds them.
//!
//! The source is SQLite's "Database file format", section 4. A frame counts only if its salts are the header's and
//! its checksum continues that of the frame before; how far frames are committed is what SQLite itself says (see
//! `hold`), for the file may hold more: what a writer left that was killed, or rolled back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the log's own header.
pub(super) const HEADER_BYTES: u64 = 32;
/// Bytes before each page.
pub(super) const FRAME_HEADER_BYTES: usize = 24;
/// The first four bytes of a log; one more where the words of its checksums are big-endian.
const MAGIC: u32 = 0x377f_0682;
/// The only version that there is.
const VERSION: u32 = 3_007_000;

/// The two words of a checksum.
pub(super) type Chain = [u32; 2];

/// What distinguishes one filling of the log from the next.
pub(super) type Salts = [u32; 2];

/// The header of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Whether checksums are of big-endian words.
    pub(super) big_endian: bool,
    pub(super) page_bytes: u32,
    pub(super) salts: Salts,
    /// The checksum with which the first frame's begins.
    pub(super) chain: Chain,
}

/// The header of a frame whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// The number of its page, from 1.
    pub(super) page: u32,
    /// The pages of the database behind the commit that it ends; 0 for any other frame.
    pub(super) size: u32,
    /// The checksum up to its end.
    pub(super) chain: Chain,
}

/// A number of four big-endian bytes.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("the caller has the bytes"))
}

/// Reads the header; `None` where there is none yet, or a torn one.
pub(super) fn read_header(log: &File) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES as usize];
    match log.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(parse_header(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_header(bytes: &[u8; HEADER_BYTES as usize]) -> Option<Header> {
    let magic = word(bytes, 0);
    let header = Header {
        big_endian: magic & 1 == 1,
        page_bytes: word(bytes, 8),
        salts: [word(bytes, 16), word(bytes, 20)],
        chain: [word(bytes, 24), word(bytes, 28)],
    };
    let is_page = header.page_bytes.is_power_of_two() && (512..=65536).contains(&header.page_bytes);
    let sum = checksum(header.big_endian, [0; 2], &bytes[..24]);
    (magic & !1 == MAGIC && word(bytes, 4) == VERSION && is_page && sum == header.chain).then_some(header)
}

/// Continues a checksum over `bytes`, whose length is a multiple of 8.
pub(super) fn checksum(big_endian: bool, [mut one, mut two]: Chain, bytes: &[u8]) -> Chain {
    let read = if big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
    for pair in bytes.chunks_exact(8) {
        let [a, b, c, d, e, f, g, h] = *pair.first_chunk().expect("eight bytes");
        one = one.wrapping_add(read([a, b, c, d])).wrapping_add(two);
        two = two.wrapping_add(read([e, f, g, h])).wrapping_add(one);
    }
    [one, two]
}

/// Verifies a frame that follows the one whose checksum is `chain`; `None` when it does not.
pub(super) fn verify(big_endian: bool, salts: Salts, chain: Chain, frame: &[u8]) -> Option<FrameHead> {
    let (head, page) = frame.split_at_checked(FRAME_HEADER_BYTES)?;
    let chain = checksum(big_endian, checksum(big_endian, chain, &head[..8]), page);
    let stated = ([word(head, 8), word(head, 12)], [word(head, 16), word(head, 20)]);
    let found = FrameHead { page: word(head, 0), size: word(head, 4), chain };
    (stated == (salts, chain) && found.page > 0).then_some(found)
}

/// Where a frame begins, counted from 0.
pub(super) fn frame_at(page_bytes: u32, frame: u32) -> u64 {
    HEADER_BYTES + u64::from(frame) * frame_bytes(page_bytes) as u64
}

/// Bytes of a frame.
pub(super) fn frame_bytes(page_bytes: u32) -> usize {
    FRAME_HEADER_BYTES + page_bytes as usize
}

/// The salts and the checksum that the header of the `frame`th frame states, counted from 1; `None` beyond the end.
pub(super) fn stated(log: &File, page_bytes: u32, frame: u32) -> io::Result<Option<(Salts, Chain)>> {
    let mut head = [0; FRAME_HEADER_BYTES];
    match log.read_exact_at(&mut head, frame_at(page_bytes, frame - 1)) {
        Ok(()) => Ok(Some(([word(&head, 8), word(&head, 12)], [word(&head, 16), word(&head, 20)]))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
