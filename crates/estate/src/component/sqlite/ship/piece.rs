//! What a piece of a shipped log holds, byte for byte.
//!
//! A position is a number of frames since the lineage began, so that a piece has as many positions as frames. All of
//! them are of one filling of the log. Numbers are little-endian, but for the frames, which are as SQLite wrote them:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `LBWL` |
//! | 2 | the version of all this, 1 |
//! | 2 | 1 where the words of SQLite's checksums are big-endian, else 0 |
//! | 4 | bytes of a page |
//! | 8 | the salts |
//! | 4 | how many frames of this filling come before |
//! | 8 | SQLite's checksum before the first frame |
//! | 4 | how many commits end here |
//! | 4 | how many frames there are |
//! | 32 each | a commit: up to which frame of the piece (4), 1 where the checksum is known, else 0 (4), the instant at which it was not there yet and the one at which it was, in microseconds since 1970 (8 each), the database's checksum behind it (8, see `sums`) |
//! | 24 and a page each | the frames |
//!
//! A commit may begin in one piece and end in a later one. Reading verifies SQLite's own checksums once more.

use super::wal::{Chain, FRAME_HEADER_BYTES, FrameHead, Salts, frame_bytes, verify};

const MAGIC: &[u8; 4] = b"LBWL";
const VERSION: u16 = 1;
/// Bytes before the commits.
const HEAD_BYTES: usize = 4 + 2 + 2 + 4 + 8 + 4 + 8 + 4 + 4;
/// Bytes of a commit.
const COMMIT_BYTES: usize = 4 + 4 + 8 + 8 + 8;

/// A place in a log: behind so many frames of one filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) salts: Salts,
    pub(super) frame: u32,
    /// SQLite's checksum there.
    pub(super) chain: Chain,
}

/// What a piece says beside its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) big_endian: bool,
    pub(super) page_bytes: u32,
    pub(super) start: Mark,
    pub(super) commits: Vec<Commit>,
}

/// A commit that ends in a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    /// The number of frames of the piece up to its end.
    pub(super) frames: u32,
    /// When it was not there yet, in microseconds since 1970.
    pub(super) from_us: i64,
    /// When it was.
    pub(super) until_us: i64,
    /// The database's checksum behind it, where the source knew it.
    pub(super) sum: Option<u64>,
}

/// A piece that was read and verified.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub(super) head: Head,
    /// The headers of its frames.
    pub(super) heads: Vec<FrameHead>,
    frames: &'a [u8],
}

/// Writes a piece; `frames` is whole frames.
pub(super) fn encode(head: &Head, frames: &[u8]) -> Vec<u8> {
    let count = frames.len() / frame_bytes(head.page_bytes);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + COMMIT_BYTES * head.commits.len() + frames.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(u16::from(head.big_endian).to_le_bytes());
    let Mark { salts, frame, chain } = head.start;
    let numbers = [head.page_bytes, salts[0], salts[1], frame, chain[0], chain[1]];
    let counts = [head.commits.len(), count].map(|count| u32::try_from(count).expect("pieces are small"));
    for number in numbers.into_iter().chain(counts) {
        bytes.extend(number.to_le_bytes());
    }
    for commit in &head.commits {
        bytes.extend(commit.frames.to_le_bytes());
        bytes.extend(u32::from(commit.sum.is_some()).to_le_bytes());
        bytes.extend(commit.from_us.to_le_bytes());
        bytes.extend(commit.until_us.to_le_bytes());
        bytes.extend(commit.sum.unwrap_or_default().to_le_bytes());
    }
    bytes.extend(frames);
    bytes
}

/// Takes numbers from the front of what is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.0.split_first_chunk().ok_or("it is cut off")?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn pair(&mut self) -> Result<[u32; 2], String> {
        Ok([self.u32()?, self.u32()?])
    }
}

/// Reads a piece; says what is wrong with anything else.
pub(super) fn decode(bytes: &[u8]) -> Result<Piece<'_>, String> {
    let mut reader = Reader(bytes);
    if &reader.take::<4>()? != MAGIC {
        return Err("it is no piece of a SQLite log".into());
    }
    let version = u16::from_le_bytes(reader.take()?);
    if version != VERSION {
        return Err(format!("it has version {version}, which this program does not know: use a newer one"));
    }
    let big_endian = match u16::from_le_bytes(reader.take()?) {
        0 => false,
        1 => true,
        other => return Err(format!("its flags are {other:#x}, which mean nothing")),
    };
    let page_bytes = reader.u32()?;
    if !page_bytes.is_power_of_two() || !(512..=65536).contains(&page_bytes) {
        return Err(format!("its pages have {page_bytes} bytes"));
    }
    let start = Mark { salts: reader.pair()?, frame: reader.u32()?, chain: reader.pair()? };
    let (commits, count) = (reader.u32()?, reader.u32()?);
    let commits = (0..commits).map(|_| commit(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    let frames = reader.0;
    if frames.len() as u64 != u64::from(count) * frame_bytes(page_bytes) as u64 {
        return Err("it has not as many frames as it says".into());
    }
    let head = Head { big_endian, page_bytes, start, commits };
    let heads = verified(&head, frames)?;
    Ok(Piece { head, heads, frames })
}

fn commit(reader: &mut Reader<'_>) -> Result<Commit, String> {
    let (frames, is_known) = (reader.u32()?, reader.u32()?);
    let (from_us, until_us) = (reader.u64()?.cast_signed(), reader.u64()?.cast_signed());
    let sum = reader.u64()?;
    match is_known {
        0 | 1 => Ok(Commit { frames, from_us, until_us, sum: (is_known == 1).then_some(sum) }),
        other => Err(format!("a commit's flags are {other:#x}, which mean nothing")),
    }
}

/// Verifies that the frames follow each other, and that the commits are those that the frames end.
fn verified(head: &Head, frames: &[u8]) -> Result<Vec<FrameHead>, String> {
    let mut chain = head.start.chain;
    let mut heads = Vec::with_capacity(frames.len() / frame_bytes(head.page_bytes));
    for frame in frames.chunks_exact(frame_bytes(head.page_bytes)) {
        let found = verify(head.big_endian, head.start.salts, chain, frame)
            .ok_or_else(|| format!("frame {} does not follow the one before", heads.len() + 1))?;
        chain = found.chain;
        heads.push(found);
    }
    let ends = heads.iter().zip(1_u32..).filter(|(found, _)| found.size > 0).map(|(_, number)| number);
    if !ends.eq(head.commits.iter().map(|commit| commit.frames)) {
        return Err("its commits are not those of its frames".into());
    }
    Ok(heads)
}

impl Piece<'_> {
    /// The bytes of the page of a frame, counted from 0.
    pub(super) fn page(&self, frame: usize) -> &[u8] {
        let bytes = frame_bytes(self.head.page_bytes);
        &self.frames[frame * bytes + FRAME_HEADER_BYTES..(frame + 1) * bytes]
    }

    /// Where it ends.
    pub(super) fn end(&self) -> Mark {
        let chain = self.heads.last().map_or(self.head.start.chain, |head| head.chain);
        let count = u32::try_from(self.heads.len()).expect("the count was read as one");
        Mark { salts: self.head.start.salts, frame: self.head.start.frame.saturating_add(count), chain }
    }
}
