//! Blocks of one size, for disk images and database files, whose content changes in place and does not move.

use std::num::NonZeroUsize;

/// Cuts every so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct Fixed(NonZeroUsize);

impl Fixed {
    /// Cuts every `bytes`.
    pub fn new(bytes: NonZeroUsize) -> Self {
        Self(bytes)
    }

    /// Length of every block but the last of a file.
    pub fn bytes(self) -> usize {
        self.0.get()
    }

    /// See `Chunker::next_cut`.
    pub fn next_cut(self, data: &[u8], last: bool) -> Option<usize> {
        super::cut_at_end(data, last, self.bytes())
    }
}
