//! Where a file is cut into blobs.
//!
//! Boundaries are free in this format: readers join whatever blobs a file lists. So each repository has one
//! chunker, whichever finds the same content again best: keyed gear by default, restic's Rabin where restic
//! has already stored data, fixed blocks for files that change in place. Reading files is not done here.

mod fixed;
mod gear;
mod polynomial;
mod rabin;

pub use fixed::Fixed;
pub use gear::Gear;
pub use polynomial::{Polynomial, PolynomialError};
pub use rabin::Rabin;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Length of the run of zeros that is always a blob of its own; restic's restore knows its id and makes a hole.
pub const ZERO_RUN_BYTES: usize = 512 * KIB;

/// A way to cut files. Holds no state between calls, so one chunker serves any number of files at once.
#[derive(Debug, Clone)]
pub enum Chunker {
    /// Keyed, content-defined; the default.
    Gear(Box<Gear>),
    /// Content-defined, the same cuts as restic with the same polynomial.
    Rabin(Box<Rabin>),
    /// Blocks of one size.
    Fixed(Fixed),
}

impl Chunker {
    /// Gives the length of the first chunk of `data`, which begins where a chunk begins.
    ///
    /// `last` says that nothing follows `data` in the file. `None` asks for more: `data` is empty, or it is not
    /// the last and shorter than `max_bytes`. The cut depends on nothing behind it that has to be waited for:
    /// however a file is fed, it is cut at the same places.
    pub fn next_cut(&self, data: &[u8], last: bool) -> Option<usize> {
        match self {
            Self::Gear(gear) => gear.next_cut(data, last),
            Self::Rabin(rabin) => rabin.next_cut(data, last),
            Self::Fixed(fixed) => fixed.next_cut(data, last),
        }
    }

    /// Length of the longest possible chunk.
    pub fn max_bytes(&self) -> usize {
        match self {
            Self::Gear(_) => Gear::MAX_BYTES,
            Self::Rabin(_) => Rabin::MAX_BYTES,
            Self::Fixed(fixed) => fixed.bytes(),
        }
    }

    /// Length below which no content is cut; shorter are only ends of files and what lies before a zero run.
    pub fn min_bytes(&self) -> usize {
        match self {
            Self::Gear(_) => Gear::MIN_BYTES,
            Self::Rabin(_) => Rabin::MIN_BYTES,
            Self::Fixed(fixed) => fixed.bytes(),
        }
    }
}

/// What a content-defined chunker answers when it found no place to cut in `data`.
fn cut_at_end(data: &[u8], last: bool, max_bytes: usize) -> Option<usize> {
    if data.len() >= max_bytes {
        return Some(max_bytes);
    }
    (last && !data.is_empty()).then_some(data.len())
}

#[cfg(test)]
mod tests;
