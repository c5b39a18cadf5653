//! What is in a segment's object, and how it is sealed and opened.
//!
//! A segment is one part or several, each a piece of the log as it was archived. It is a sidecar object: what its
//! content says is described in `docs/format.md`. Sealing compresses straight from the caller's bytes into the
//! message that is encrypted in place, and compressing need not wait for the name; opening decompresses once, and parts are slices of that.

use std::io::{Cursor, Read};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zstd::zstd_safe::{WriteBuf, compress_bound, find_frame_compressed_size, get_frame_content_size};

use crate::crypto::{IV_BYTES, MasterKey, TAG_BYTES};
use crate::sidecar::{
    COMPRESSED, ENVELOPE_BYTES_MAX, NAME_BYTES_MAX, SIDECAR_BYTES_MAX, VERSION as ENVELOPE_VERSION,
};

use super::error::{Error, Result};
use super::name::{Link, Segment, UNKNOWN_MS};

/// The most bytes of a piece; what an engine cuts larger is archived as several.
pub const PIECE_BYTES_MAX: usize = 32 << 20;
/// The most parts of one segment.
pub const PARTS_MAX: usize = 1 << 16;
/// The version of a segment's content.
const VERSION: u8 = 1;
/// What a table takes without its parts.
const TABLE_BYTES_MIN: usize = 5;
/// What a part takes in the table without its name: five numbers, the digest, the name's length.
const PART_BYTES_MIN: usize = 5 * 8 + 32 + 1;
/// The most bytes of an engine's name for a piece.
pub const PIECE_NAME_BYTES_MAX: usize = 255;

/// A piece of a log, to be archived.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Its first position, in whatever the engine counts.
    pub first: u64,
    /// The position behind its last; greater than `first`.
    pub last: u64,
    /// The earliest instant in it, in milliseconds since 1970, if that is known.
    pub from_ms: Option<u64>,
    /// The latest instant in it.
    pub until_ms: Option<u64>,
    /// What the engine calls it, such as a file's name.
    pub name: Option<&'a str>,
    /// Its bytes, at most [`PIECE_BYTES_MAX`].
    pub bytes: &'a [u8],
}

/// A piece as its segment describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its first position.
    pub first: u64,
    /// The position behind its last.
    pub last: u64,
    /// The earliest instant in it, in milliseconds since 1970.
    pub from_ms: Option<u64>,
    /// The latest instant in it.
    pub until_ms: Option<u64>,
    /// What the engine calls it.
    pub name: Option<String>,
    /// Its length in bytes.
    pub length: u64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// A part with its bytes, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What it is.
    pub part: Part,
    /// Its bytes; all parts of a segment share one allocation.
    pub bytes: Bytes,
}

impl Part {
    /// Describes a piece; refuses one that no archive can hold.
    pub(super) fn describe(piece: &Piece<'_>) -> Result<Self> {
        let refuse =
            |why: String| Err(Error::Refused(format!("failed to archive {:#x}: {why}", piece.first)));
        if piece.first >= piece.last {
            return refuse(format!("it ends at {:#x}, not behind its beginning", piece.last));
        }
        if piece.bytes.len() > PIECE_BYTES_MAX {
            return refuse(format!("{} bytes; a piece has at most {PIECE_BYTES_MAX}", piece.bytes.len()));
        }
        if piece.name.is_some_and(|name| name.is_empty() || name.len() > PIECE_NAME_BYTES_MAX) {
            return refuse(format!("its name has not 1 to {PIECE_NAME_BYTES_MAX} bytes"));
        }
        Ok(Self {
            first: piece.first,
            last: piece.last,
            from_ms: piece.from_ms.filter(|ms| *ms != UNKNOWN_MS),
            until_ms: piece.until_ms.filter(|ms| *ms != UNKNOWN_MS),
            name: piece.name.map(str::to_owned),
            length: piece.bytes.len() as u64,
            sha256: Sha256::digest(piece.bytes).into(),
        })
    }

    /// Whether it is the same piece of the log; what is said about instants does not count.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        (self.first, self.last, &self.name, self.length, self.sha256)
            == (other.first, other.last, &other.name, other.length, other.sha256)
    }

    /// The chain's value behind the part, where `before` is the one before it.
    pub fn link(&self, before: Link) -> Link {
        let mut hash = Sha256::new();
        hash.update(b"lifeboat log link 1\0");
        hash.update(before.0);
        for number in self.numbers() {
            hash.update(number.to_le_bytes());
        }
        let name = self.name.as_deref().unwrap_or_default();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(self.sha256);
        Link::from_digest(&hash.finalize().into())
    }

    fn numbers(&self) -> [u64; 5] {
        let instant = |ms: Option<u64>| ms.unwrap_or(UNKNOWN_MS);
        [self.first, self.last, instant(self.from_ms), instant(self.until_ms), self.length]
    }

    pub(super) fn table_bytes(&self) -> usize {
        PART_BYTES_MIN + self.name.as_ref().map_or(0, String::len)
    }
}

/// The segment of these parts; they follow each other without a gap.
pub(super) fn segment_of(before: Link, parts: &[Part], epoch: u32) -> Segment {
    let (head, tail) = (parts.first().expect("a part at least"), parts.last().expect("a part at least"));
    let after = parts.iter().fold(before, |link, part| part.link(link));
    let until = latest(parts);
    Segment { first: head.first, last: tail.last, until, before, after, size: 0, epoch }
}

fn latest(parts: &[Part]) -> u64 {
    parts.iter().filter_map(|part| part.until_ms).max().unwrap_or(UNKNOWN_MS)
}

/// Writes the table of a segment: what stands in its content before the bytes of the parts.
pub fn encode_table(parts: &[Part]) -> Vec<u8> {
    let mut table = Vec::with_capacity(TABLE_BYTES_MIN + parts.iter().map(Part::table_bytes).sum::<usize>());
    table.push(VERSION);
    table.extend(u32::try_from(parts.len()).expect("at most 65536 parts").to_le_bytes());
    for part in parts {
        part.numbers().iter().for_each(|number| table.extend(number.to_le_bytes()));
        table.extend(part.sha256);
        let name = part.name.as_deref().unwrap_or_default();
        table.push(u8::try_from(name.len()).expect("a name has at most 255 bytes"));
        table.extend(name.as_bytes());
    }
    table
}

/// Reads the table at the beginning of a segment's content; the parts and how long the table is.
///
/// Fails in words when it is none, or when the parts do not follow each other or are longer than what there is.
pub fn decode_table(content: &[u8]) -> std::result::Result<(Vec<Part>, usize), String> {
    let mut cursor = Reader(content);
    match cursor.take::<1>()? {
        [VERSION] => {}
        [version] => return Err(format!("it has version {version}; this lifeboat knows version {VERSION}")),
    }
    let count = u32::from_le_bytes(cursor.take()?) as usize;
    if count == 0 || count > PARTS_MAX || count > cursor.0.len() / PART_BYTES_MIN {
        return Err(format!("it states {count} parts"));
    }
    let mut parts: Vec<Part> = Vec::with_capacity(count);
    let mut length = 0_u64;
    for _ in 0..count {
        let part = decode_part(&mut cursor)?;
        if parts.last().is_some_and(|before| before.last != part.first) {
            return Err(format!("its part at {:#x} does not follow the one before", part.first));
        }
        length = length.saturating_add(part.length);
        parts.push(part);
    }
    if length != cursor.0.len() as u64 {
        return Err(format!("its parts state {length} bytes and it has {}", cursor.0.len()));
    }
    Ok((parts, content.len() - cursor.0.len()))
}

fn decode_part(cursor: &mut Reader<'_>) -> std::result::Result<Part, String> {
    let mut number = || cursor.take().map(u64::from_le_bytes);
    let (first, last, from, until, length) = (number()?, number()?, number()?, number()?, number()?);
    let known = |ms: u64| (ms != UNKNOWN_MS).then_some(ms);
    let sha256 = cursor.take()?;
    let [name_bytes] = cursor.take()?;
    let (name, rest) = cursor.0.split_at_checked(usize::from(name_bytes)).ok_or(CUT_OFF)?;
    cursor.0 = rest;
    let name = std::str::from_utf8(name).map_err(|_| "the name of a part is not UTF-8".to_owned())?;
    if first >= last {
        return Err(format!("its part at {first:#x} ends at {last:#x}"));
    }
    Ok(Part {
        first,
        last,
        from_ms: known(from),
        until_ms: known(until),
        name: (!name.is_empty()).then(|| name.to_owned()),
        length,
        sha256,
    })
}

const CUT_OFF: &str = "its table is cut off";

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> std::result::Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(*taken)
    }
}

/// The bytes of a segment, compressed, in what is to become the message of its object.
#[derive(Debug)]
pub(super) struct Packed {
    /// Room for the head, the compressed bytes, room for the tag.
    message: Vec<u8>,
    /// Where the compressed bytes begin.
    bytes_at: usize,
}

impl Packed {
    /// Compresses the bytes of the parts, one behind the other.
    pub(super) fn new(parts: &[Part], bytes: &[u8], level: i32) -> Self {
        let table_bytes = TABLE_BYTES_MIN + parts.iter().map(Part::table_bytes).sum::<usize>();
        let bytes_at = IV_BYTES + 1 + compress_bound(2 + NAME_BYTES_MAX + table_bytes);
        // Only what is written of the room becomes memory: mostly it is much less.
        let mut message = Vec::with_capacity(bytes_at + compress_bound(bytes.len()) + TAG_BYTES);
        message.resize(bytes_at, 0);
        let mut behind = Cursor::new(message);
        behind.set_position(bytes_at as u64);
        compress(bytes, &mut behind, level);
        let mut message = behind.into_inner();
        message.resize(message.len() + TAG_BYTES, 0);
        Self { message, bytes_at }
    }

    /// Seals the segment as the sidecar object `name`.
    pub(super) fn seal(mut self, key: &MasterKey, name: &str, parts: &[Part], level: i32) -> Bytes {
        let mut head =
            vec![ENVELOPE_VERSION, u8::try_from(name.len()).expect("a name has at most 200 bytes")];
        head.extend(name.as_bytes());
        head.extend(encode_table(parts));
        // Two frames: the head is not known yet when the bytes are compressed, and to join the two would be a copy.
        let mut frame = vec![0; compress_bound(head.len())];
        let length = compress(&head, &mut frame[..], level);
        let head_at = self.bytes_at - length;
        self.message[head_at..self.bytes_at].copy_from_slice(&frame[..length]);
        self.message[head_at - 1] = COMPRESSED;
        let begin = head_at - 1 - IV_BYTES;
        key.seal_in_place(&mut self.message[begin..]);
        Bytes::from(self.message).slice(begin..)
    }
}

fn compress(bytes: &[u8], into: &mut (impl WriteBuf + ?Sized), level: i32) -> usize {
    let mut compressor = zstd::bulk::Compressor::new(level).expect("the level is one that zstd has");
    let compressed = compressor.compress_to_buffer(bytes, into);
    compressed.expect("compressing into a buffer of the library's own bound does not fail")
}

/// Seals a segment as the sidecar object `name`; `bytes` are those of the parts, one behind the other.
pub(super) fn seal(key: &MasterKey, name: &str, parts: &[Part], bytes: &[u8], level: i32) -> Bytes {
    Packed::new(parts, bytes, level).seal(key, name, parts, level)
}

/// Opens the sealed bytes of the object `name` and verifies all that it says against the segment's name.
pub(super) fn open(
    key: &MasterKey,
    object: &str,
    name: &str,
    segment: &Segment,
    mut sealed: Vec<u8>,
) -> Result<Vec<Content>> {
    let plaintext = key.open(&mut sealed).map_err(|error| Error::damaged(object, error))?;
    decode(object, name, segment, plaintext)
}

/// Verifies the plaintext of a segment's object and gives its parts; fails with [`Error::Damaged`] or
/// [`Error::WrongName`] for anything else.
pub fn decode(object: &str, name: &str, segment: &Segment, plaintext: &[u8]) -> Result<Vec<Content>> {
    let damaged = |why: String| Error::damaged(object, why);
    let [COMPRESSED, compressed @ ..] = plaintext else {
        return Err(damaged("its content is not compressed as it should be".into()));
    };
    let envelope = Bytes::from(decompress(compressed).map_err(damaged)?);
    let [ENVELOPE_VERSION, length, rest @ ..] = &envelope[..] else {
        return Err(damaged("its envelope has an unknown version".into()));
    };
    let Some((written_as, content)) = rest.split_at_checked(usize::from(*length)) else {
        return Err(damaged("its name is cut off".into()));
    };
    if written_as != name.as_bytes() {
        let written_as = String::from_utf8_lossy(written_as).into_owned();
        return Err(Error::WrongName { object: object.to_owned(), written_as });
    }
    let (parts, table_bytes) = decode_table(content).map_err(damaged)?;
    let stated = segment_of(segment.before, &parts, segment.epoch);
    if (Segment { size: segment.size, ..stated }) != *segment {
        return Err(damaged("its name does not follow from its parts".into()));
    }
    let mut at = envelope.len() - content.len() + table_bytes;
    let mut contents = Vec::with_capacity(parts.len());
    for part in parts {
        let end = at + usize::try_from(part.length).expect("the lengths add up to what there is");
        let bytes = envelope.slice(at..end);
        at = end;
        if <[u8; 32]>::from(Sha256::digest(&bytes)) != part.sha256 {
            return Err(damaged(format!("its part at {:#x} has another SHA-256 than stated", part.first)));
        }
        contents.push(Content { part, bytes });
    }
    Ok(contents)
}

/// Decompresses frames that hold no more than an envelope may.
fn decompress(compressed: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let too_much = || format!("it decompresses to more than {SIDECAR_BYTES_MAX} bytes");
    let Some(length) = stated_length(compressed) else {
        // Another writer's frames, which need not state their lengths.
        let mut envelope = Vec::new();
        let limit = ENVELOPE_BYTES_MAX as u64 + 1;
        let decoder = zstd::stream::Decoder::with_buffer(compressed).map_err(|error| error.to_string())?;
        decoder.take(limit).read_to_end(&mut envelope).map_err(|error| error.to_string())?;
        return if envelope.len() > ENVELOPE_BYTES_MAX { Err(too_much()) } else { Ok(envelope) };
    };
    if length > ENVELOPE_BYTES_MAX {
        return Err(too_much());
    }
    let mut envelope = Vec::new();
    envelope.try_reserve_exact(length).map_err(|error| error.to_string())?;
    let mut decompressor = zstd::bulk::Decompressor::new().expect("a decompressor without dictionary");
    decompressor.decompress_to_buffer(compressed, &mut envelope).map_err(|error| error.to_string())?;
    Ok(envelope)
}

/// What all frames together state to hold; `None` when one does not say.
fn stated_length(mut compressed: &[u8]) -> Option<usize> {
    let mut length = 0_usize;
    while !compressed.is_empty() {
        let states = get_frame_content_size(compressed).ok()??;
        length = length.saturating_add(usize::try_from(states).unwrap_or(usize::MAX));
        let frame = find_frame_compressed_size(compressed).ok()?;
        compressed = compressed.get(frame..).filter(|rest| rest.len() < compressed.len())?;
    }
    Some(length)
}
