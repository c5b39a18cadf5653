//! Gear: one shift and one addition per byte, cut where chosen bits are zero (FastCDC 2020).
//!
//! The table of random numbers comes from a key of the repository: cuts say nothing about content to whoever does
//! not have the key, and all hosts of a repository cut alike. Chunks gather around 1 MiB because the
//! condition is sharper before that length and weaker after it (normalised chunking, level 2).
//!
//! Runs of at least 512 KiB of zeros are cut into blobs of exactly 512 KiB, which restic's restore knows by id and
//! turns into holes; a chunk ends where such a run begins, even when that makes it shorter than the minimum.

use sha2::{Digest, Sha256};

use super::{KIB, MIB, ZERO_RUN_BYTES, cut_at_end};

/// A shift per byte moves a byte out of 64 bits after this many.
const WINDOW_BYTES: usize = 64;
/// Expected length of a chunk, where the condition changes.
const NORMAL_BYTES: usize = MIB;

// 20 bits make one cut in 1 MiB; level 2 takes two more before that and two fewer after it. The bits lie in the
// upper half, where a bit depends on most of the window, and apart, which makes it depend on more of it. The weak
// mask is part of the sharp one.
const SHARP_MASK: u64 = spread_mask(22);
const WEAK_MASK: u64 = spread_mask(18);

const fn spread_mask(bits: u32) -> u64 {
    let mut mask = 0;
    let mut bit = 0;
    while bit < bits {
        mask |= 1 << (63 - 2 * bit);
        bit += 1;
    }
    mask
}

/// Cuts where a keyed gear hash says so.
#[derive(Debug, Clone)]
pub struct Gear {
    table: [u64; 256],
}

impl Gear {
    /// Least length of a chunk that does not end its file or precede a run of zeros.
    pub const MIN_BYTES: usize = 512 * KIB;
    /// Greatest length of a chunk.
    pub const MAX_BYTES: usize = 8 * MIB;

    /// Expands the key to a table: SHA-256 of a label, the key and a counter.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut table = [0; 256];
        for (counter, entries) in (0_u32..).zip(table.chunks_exact_mut(4)) {
            let mut hash = Sha256::new();
            hash.update(b"lifeboat gear table 1");
            hash.update(key);
            hash.update(counter.to_le_bytes());
            let digest: [u8; 32] = hash.finalize().into();
            for (entry, bytes) in entries.iter_mut().zip(digest.chunks_exact(8)) {
                *entry = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            }
        }
        // The hash of 64 zeros is the negated entry of zero. Were it a cut, runs of zeros would be cut at the
        // minimum wherever they begin; the top bit is in both masks.
        if table[0].wrapping_neg() & WEAK_MASK == 0 {
            table[0] ^= 1 << 63;
        }
        Self { table }
    }

    /// See `Chunker::next_cut`.
    pub fn next_cut(&self, data: &[u8], last: bool) -> Option<usize> {
        if starts_with_zero_run(data) {
            return Some(ZERO_RUN_BYTES);
        }
        let end = data.len().min(Self::MAX_BYTES);
        let cut = self.find(&data[..end]).or_else(|| cut_at_end(data, last, Self::MAX_BYTES))?;
        Some(find_zero_run(&data[..cut]).unwrap_or(cut))
    }

    fn find(&self, data: &[u8]) -> Option<usize> {
        let window = data.get(Self::MIN_BYTES - WINDOW_BYTES..Self::MIN_BYTES)?;
        let mut hash = window.iter().fold(0_u64, |hash, byte| self.step(hash, *byte));
        let normal = data.len().min(NORMAL_BYTES);
        self.scan(&mut hash, &data[Self::MIN_BYTES..normal], SHARP_MASK)
            .map(|at| Self::MIN_BYTES + at)
            .or_else(|| self.scan(&mut hash, &data[normal..], WEAK_MASK).map(|at| normal + at))
    }

    /// Gives the length up to the first cut.
    fn scan(&self, hash: &mut u64, data: &[u8], mask: u64) -> Option<usize> {
        let mut value = *hash;
        for (at, byte) in data.iter().enumerate() {
            value = self.step(value, *byte);
            if value & mask == 0 {
                return Some(at + 1);
            }
        }
        *hash = value;
        None
    }

    #[inline(always)]
    fn step(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.table[usize::from(byte)])
    }
}

fn is_zero(data: &[u8]) -> bool {
    // The compiler turns this into wide comparisons, which an `all` with its early exit is not.
    data.chunks(4 * KIB).all(|part| part.iter().fold(0, |seen, byte| seen | byte) == 0)
}

fn starts_with_zero_run(data: &[u8]) -> bool {
    data.first() == Some(&0) && data.get(..ZERO_RUN_BYTES).is_some_and(is_zero)
}

/// Finds where the first long run of zeros begins that lies whole in `chunk`, which does not begin with one.
///
/// Looks at a few bytes every 256 KiB: a long run covers at least one such place whole.
fn find_zero_run(chunk: &[u8]) -> Option<usize> {
    const STRIDE: usize = ZERO_RUN_BYTES / 2;
    let last_start = chunk.len().checked_sub(ZERO_RUN_BYTES)?;
    (STRIDE..chunk.len()).step_by(STRIDE).find_map(|probe| {
        let begin = run_begin(chunk, probe)?;
        (begin <= last_start && is_zero(&chunk[probe..begin + ZERO_RUN_BYTES])).then_some(begin)
    })
}

/// Where the run of zeros around `probe` begins, looking no farther back than matters.
fn run_begin(chunk: &[u8], probe: usize) -> Option<usize> {
    if chunk[probe] != 0 {
        return None;
    }
    let zeros_before = chunk[..probe].iter().rev().take_while(|byte| **byte == 0).count();
    Some(probe - zeros_before)
}
