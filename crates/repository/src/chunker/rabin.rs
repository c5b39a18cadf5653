//! restic's chunker: a Rabin fingerprint of the last 64 bytes, cut where its 20 low bits are zero.
//!
//! Its author's loop carries one fingerprint from byte to byte, each step waiting for a table look-up that the
//! step before decided. But a fingerprint depends on its 64 bytes alone. So this scans several stretches side by
//! side, each started 64 bytes early, and the look-ups of one fill the waiting of the others.

use super::polynomial::{Polynomial, remainder};
use super::{KIB, MIB, cut_at_end};

const WINDOW_BYTES: usize = 64;
/// Bits of a fingerprint that are zero where it cuts, which makes chunks of 1 MiB beyond the minimum on average.
const CUT_MASK: u64 = (1 << 20) - 1;

/// Stretches scanned side by side, and the length of each.
const LANES: usize = 4;
const LANE_BYTES: usize = 4 * KIB;

/// Cuts like restic's chunker with the same polynomial.
#[derive(Debug, Clone)]
pub struct Rabin {
    /// What the byte that leaves the window did to the fingerprint, moved to where the step has it.
    leave: [u64; 256],
    /// Removes the eight bits that a step pushes above the degree, and adds what they are modulo the polynomial.
    reduce: [u64; 256],
}

impl Rabin {
    /// Least length of a chunk that does not end its file.
    pub const MIN_BYTES: usize = 512 * KIB;
    /// Greatest length of a chunk.
    pub const MAX_BYTES: usize = 8 * MIB;

    /// Prepares the tables.
    pub fn new(polynomial: Polynomial) -> Self {
        let bits = polynomial.bits();
        let mut reduce = [0; 256];
        for (byte, entry) in (0..).zip(&mut reduce) {
            let high: u64 = byte << Polynomial::DEGREE;
            *entry = high | remainder(high, bits);
        }
        let mut leave = [0; 256];
        for (byte, entry) in (0..).zip(&mut leave) {
            // After its own step and those of the 63 bytes behind it, and then the step that removes it.
            *entry = (0..WINDOW_BYTES).fold(byte, |digest, _| remainder(digest << 8, bits));
        }
        Self { leave, reduce }
    }

    /// See `Chunker::next_cut`.
    pub fn next_cut(&self, data: &[u8], last: bool) -> Option<usize> {
        let end = data.len().min(Self::MAX_BYTES);
        self.find(&data[..end]).or_else(|| cut_at_end(data, last, Self::MAX_BYTES))
    }

    /// Looks for the first cut at or after the least length.
    fn find(&self, data: &[u8]) -> Option<usize> {
        // A cut after `MIN_BYTES` bytes is the first that counts; its window begins here.
        let mut start = Self::MIN_BYTES - WINDOW_BYTES - 1;
        let scanned = data.get(start..)?;
        let mut rest = scanned;
        while let Some(block) = rest.first_chunk() {
            if let Some(at) = self.find_in_block(block) {
                return Some(start + at);
            }
            start += LANES * LANE_BYTES;
            rest = &data[start..];
        }
        self.find_in_lane(rest).map(|at| start + at)
    }

    /// Scans one block and the window before it; gives the length up to the first cut.
    fn find_in_block(&self, block: &[u8; WINDOW_BYTES + LANES * LANE_BYTES]) -> Option<usize> {
        let lanes: [&[u8; WINDOW_BYTES + LANE_BYTES]; LANES] = std::array::from_fn(|lane| {
            block[lane * LANE_BYTES..].first_chunk().expect("the last lane ends with the block")
        });
        let mut digests = lanes.map(|lane| self.start(lane));
        for at in 0..LANE_BYTES {
            let mut cut = false;
            for (digest, lane) in digests.iter_mut().zip(lanes) {
                *digest = self.step(*digest, lane[at], lane[at + WINDOW_BYTES]);
                cut |= *digest & CUT_MASK == 0;
            }
            if cut {
                return self.find_in_lane(block);
            }
        }
        None
    }

    /// The same without any haste, for any length.
    fn find_in_lane(&self, lane: &[u8]) -> Option<usize> {
        let mut digest = self.start(lane.first_chunk::<WINDOW_BYTES>()?);
        for (at, (leaving, entering)) in lane.iter().zip(&lane[WINDOW_BYTES..]).enumerate() {
            digest = self.step(digest, *leaving, *entering);
            if digest & CUT_MASK == 0 {
                return Some(at + WINDOW_BYTES + 1);
            }
        }
        None
    }

    fn start(&self, window: &[u8]) -> u64 {
        window.iter().take(WINDOW_BYTES).fold(0, |digest, byte| self.step(digest, 0, *byte))
    }

    #[inline(always)]
    fn step(&self, digest: u64, leaving: u8, entering: u8) -> u64 {
        let over = usize::from((digest >> (Polynomial::DEGREE - 8)) as u8);
        // Only the first term waits for the step before.
        (digest << 8 ^ self.reduce[over]) ^ (u64::from(entering) ^ self.leave[usize::from(leaving)])
    }
}
