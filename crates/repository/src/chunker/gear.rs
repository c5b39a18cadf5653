//! Gear: one shift and one addition per byte, cut where the sum is below a bound.
//!
//! The table of random numbers comes from a key of the repository: cuts say nothing about content to whoever does
//! not have the key, and all hosts of a repository cut alike. No chunk is shorter than 896 KiB, where the search for
//! a cut begins; on average it ends 384 KiB later. A longer search would find old cuts sooner behind large insertions,
//! a shorter one would cost less. FastCDC's two conditions (normalised chunking) at the same average length search
//! twice as long and find old cuts later.
//!
//! Runs of at least 512 KiB of zeros are cut into blobs of exactly 512 KiB, which restic's restore knows by id and
//! turns into holes; a chunk ends where such a run begins, even when that makes it shorter than the minimum.

use sha2::{Digest, Sha256};

use super::{KIB, MIB, ZERO_RUN_BYTES, cut_at_end};

/// A shift per byte moves a byte out of 64 bits after this many.
const WINDOW_BYTES: usize = 64;
/// Expected length of the search for a cut.
const SEARCH_BYTES: u64 = 384 * KIB as u64;
/// Sums below this are cuts. The upper bits of a sum, which decide, depend on most of the window.
const CUT_BELOW: u64 = u64::MAX / SEARCH_BYTES;

/// Cuts where a keyed gear sum says so.
#[derive(Debug, Clone)]
pub struct Gear {
    table: [u64; 256],
}

impl Gear {
    /// Least length of a chunk that does not end its file or precede a run of zeros.
    pub const MIN_BYTES: usize = 896 * KIB;
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
        // The sum of 64 zeros is the negated entry of zero. Were it a cut, runs of zeros would be cut at the
        // minimum wherever they begin.
        if table[0].wrapping_neg() < CUT_BELOW {
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
        let sum = window.iter().fold(0, |sum, byte| self.step(sum, *byte));
        self.scan(sum, &data[Self::MIN_BYTES..]).map(|at| Self::MIN_BYTES + at)
    }

    /// Gives the length up to the first cut.
    fn scan(&self, mut sum: u64, data: &[u8]) -> Option<usize> {
        // Four bytes at a time: only the last of four sums has to wait for the one before.
        let (groups, rest) = data.as_chunks::<4>();
        for (number, group) in groups.iter().enumerate() {
            let [one, two, three, four] = self.sums_of(group);
            let sums = [
                (sum << 1).wrapping_add(one),
                (sum << 2).wrapping_add(two),
                (sum << 3).wrapping_add(three),
                (sum << 4).wrapping_add(four),
            ];
            if sums.iter().fold(false, |cut, sum| cut | (*sum < CUT_BELOW)) {
                return sums.iter().position(|sum| *sum < CUT_BELOW).map(|at| number * 4 + at + 1);
            }
            sum = sums[3];
        }
        let searched = data.len() - rest.len();
        let at = rest.iter().position(|byte| {
            sum = self.step(sum, *byte);
            sum < CUT_BELOW
        })?;
        Some(searched + at + 1)
    }

    /// The sums of the first one, two, three and four bytes, had nothing been before.
    #[inline(always)]
    fn sums_of(&self, group: &[u8; 4]) -> [u64; 4] {
        let one = self.table[usize::from(group[0])];
        let two = self.step(one, group[1]);
        let three = self.step(two, group[2]);
        [one, two, three, self.step(three, group[3])]
    }

    #[inline(always)]
    fn step(&self, sum: u64, byte: u8) -> u64 {
        (sum << 1).wrapping_add(self.table[usize::from(byte)])
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
