//! The checksum of a whole database that goes along with every commit.
//!
//! Each page has a checksum: the first 8 bytes of the SHA-256 of its number and its bytes. The database's is their sum
//! (wrapping), so that a commit changes it by what it changes. The page of SQLite's locks does not count: nothing is
//! ever in it. The source adds up what it ships, a replay what it applies, and both begin from all pages as they read
//! them: so the two agree only if the replay has made what the source had.
//!
//! Memory: 8 bytes a page, which is a 512th of a database of the usual pages of 4 KiB.

use sha2::{Digest, Sha256};

/// Where SQLite keeps its locks; the page there is never used.
const LOCK_BYTE: u64 = 1 << 30;

/// The checksums of all pages, and their sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pages: Vec<u64>,
    total: u64,
}

/// What a commit changes: the pages that it writes, in order, with their checksums, and the size that it leaves.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    pub(super) pages: Vec<(u32, u64)>,
    pub(super) size: u32,
}

/// The number of the page that is never used.
pub(super) fn lock_page(page_bytes: u32) -> u32 {
    u32::try_from(LOCK_BYTE / u64::from(page_bytes) + 1).expect("pages have at least 512 bytes")
}

/// The checksum of one page.
pub(super) fn of_page(number: u32, bytes: &[u8]) -> u64 {
    let digest = Sha256::new().chain_update(number.to_le_bytes()).chain_update(bytes).finalize();
    u64::from_le_bytes(*digest.first_chunk().expect("32 bytes have 8"))
}

impl Sums {
    /// The checksum of the database.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// How many pages there are.
    pub(super) fn size(&self) -> u32 {
        u32::try_from(self.pages.len()).expect("SQLite numbers pages with 32 bits")
    }

    /// Adds the next page.
    pub(super) fn push(&mut self, sum: u64) {
        self.pages.push(sum);
        self.total = self.total.wrapping_add(sum);
    }

    /// Applies a commit; says which page is missing when the database grows and not every new page is written.
    pub(super) fn apply(&mut self, change: &Change, page_bytes: u32) -> Result<(), u32> {
        let before = self.size();
        let longest = change.pages.iter().map(|(page, _)| *page).max().unwrap_or(0).max(change.size);
        let mut is_written = vec![false; longest.saturating_sub(before) as usize];
        self.pages.resize(longest.max(before) as usize, 0);
        for &(page, sum) in &change.pages {
            let place = &mut self.pages[page as usize - 1];
            self.total = self.total.wrapping_sub(*place).wrapping_add(sum);
            *place = sum;
            if page > before {
                is_written[(page - before - 1) as usize] = true;
            }
        }
        for page in before + 1..=change.size {
            if page != lock_page(page_bytes) && !is_written[(page - before - 1) as usize] {
                return Err(page);
            }
        }
        for gone in self.pages.drain(change.size as usize..) {
            self.total = self.total.wrapping_sub(gone);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pages: &[u64]) -> Sums {
        let mut sums = Sums::default();
        pages.iter().for_each(|sum| sums.push(*sum));
        sums
    }

    #[test]
    fn a_commit_leads_to_what_all_pages_say() {
        let mut sums = of(&[5, 7, u64::MAX]);
        sums.apply(&Change { pages: vec![(2, 9), (4, 1), (2, 8)], size: 4 }, 4096).unwrap();
        assert_eq!(sums, of(&[5, 8, u64::MAX, 1]));
        // It shrinks, and a page is written that is gone at the end.
        sums.apply(&Change { pages: vec![(4, 3), (1, 6)], size: 2 }, 4096).unwrap();
        assert_eq!(sums, of(&[6, 8]));
        assert_eq!(sums.apply(&Change { pages: vec![(4, 3)], size: 4 }, 4096), Err(3));
    }

    #[test]
    fn the_page_of_the_locks_need_not_be_written() {
        let lock = lock_page(65536);
        assert_eq!(lock, 16385);
        let mut sums = of(&vec![1; lock as usize - 1]);
        sums.apply(&Change { pages: vec![(lock + 1, 2)], size: lock + 1 }, 65536).unwrap();
        assert_eq!(sums.total(), u64::from(lock) - 1 + 2);
    }
}
