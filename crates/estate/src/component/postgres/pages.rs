//! Reading relation files: no more than their length when they were listed, and every page's checksum on the way.
//!
//! # What a wrong checksum means
//! The server may be writing the page: it is read again, and when that gives other bytes or a right checksum, the
//! page was torn, and the log that is captured, too, has the whole of it. When the same wrong bytes stay, the page
//! is damaged at the source: that is told with its position in the log, and the capture goes on, because a backup
//! of everything else is worth more than none.
//!
//! The checksum is that of `checksum_impl.h`, over the page with the checksum itself as zero.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::Problem;
use super::log::Lsn;
use super::unchanged::{Looked, wait_for_writers};

/// The block size that PostgreSQL is built with unless somebody chose another.
pub(super) const PAGE_BYTES: usize = 8192;
/// Blocks of a relation file as they are stored: small enough that one changed page costs little, large enough that
/// the index stays small.
pub(super) const BLOCK_BYTES: u32 = 64 << 10;
/// Pages read at once where the reader asks for few bytes; who asks for more gets them without a copy between.
const BATCH_PAGES: usize = 32;
/// How often a page with a wrong checksum is read again, and how long between.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// How many damaged pages are told one by one.
const TOLD_MAX: usize = 20;

/// Damaged pages that were met, by all readers of a capture.
pub(super) type Damage = Arc<Mutex<Damaged>>;

/// What of the pages is damaged.
#[derive(Debug, Default)]
pub(super) struct Damaged {
    /// The first of them, and that there are more.
    pub told: Vec<Problem>,
    /// All files that have one.
    pub files: BTreeSet<PathBuf>,
}

/// A relation file that is read page by page.
pub(super) struct PageReader {
    file: File,
    path: PathBuf,
    /// Where the next batch begins, and where the file ended when it was listed.
    at: u64,
    end: u64,
    /// The number of the file's first page within its relation; `None` where pages have no checksums.
    first: Option<u64>,
    damage: Damage,
    looked: Arc<Looked>,
    batch: Vec<u8>,
    given: usize,
}

impl PageReader {
    /// Begins to read up to `end` bytes of `path`; a file that is gone by now is empty, because the log has its
    /// removal.
    pub(super) fn open(
        path: PathBuf,
        end: u64,
        first: Option<u64>,
        damage: Damage,
        looked: Arc<Looked>,
    ) -> io::Result<Box<dyn Read + Send>> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Box::new(io::empty())),
            Err(error) => return Err(error),
        };
        wait_for_writers(&file);
        Ok(Box::new(Self { file, path, at: 0, end, first, damage, looked, batch: Vec::new(), given: 0 }))
    }

    /// Reads the next whole pages, or the rest of the file, as many as fit `into`; returns the bytes.
    fn pages(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = if left <= into.len() { left } else { into.len() - into.len() % PAGE_BYTES };
        let mut length = 0;
        while length < wanted {
            match self.file.read_at(&mut into[length..wanted], self.at + length as u64) {
                // It was truncated: the log has that.
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(first) = self.first {
            for (number, page) in into[..length].chunks_exact_mut(PAGE_BYTES).enumerate() {
                let block = first + self.at / PAGE_BYTES as u64 + number as u64;
                if !is_right(page, block) {
                    self.look_again(page, self.at + (number * PAGE_BYTES) as u64, block)?;
                }
            }
            self.looked.pages.fetch_add((length / PAGE_BYTES) as u64, Ordering::Relaxed);
        }
        self.looked.read.fetch_add(length as u64, Ordering::Relaxed);
        self.at += length as u64;
        if length < wanted {
            self.end = self.at;
        }
        Ok(length)
    }

    fn look_again(&self, here: &mut [u8], at: u64, block: u64) -> io::Result<()> {
        let mut again = vec![0; PAGE_BYTES];
        for _ in 0..LOOKS {
            std::thread::sleep(BETWEEN_LOOKS);
            match self.file.read_exact_at(&mut again, at) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let changed = *here != again[..];
            here.copy_from_slice(&again);
            if changed || is_right(here, block) {
                return Ok(());
            }
        }
        let lsn = lsn_of(here);
        self.tell(format!("page {block} has a wrong checksum and does not change; it was written at {lsn}"));
        Ok(())
    }

    fn tell(&self, what: String) {
        let mut found = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        found.files.insert(self.path.clone());
        if found.told.len() < TOLD_MAX {
            found.told.push(Problem { path: self.path.clone(), what });
        } else if found.told.len() == TOLD_MAX {
            let what = "and more pages with wrong checksums".to_owned();
            found.told.push(Problem { path: self.path.clone(), what });
        }
    }
}

impl Read for PageReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.batch.len() && self.at < self.end {
            if buffer.len() >= BATCH_PAGES * PAGE_BYTES {
                return self.pages(buffer);
            }
            let mut batch = std::mem::take(&mut self.batch);
            batch.resize(BATCH_PAGES * PAGE_BYTES, 0);
            let length = self.pages(&mut batch)?;
            batch.truncate(length);
            (self.batch, self.given) = (batch, 0);
        }
        let count = buffer.len().min(self.batch.len() - self.given);
        buffer[..count].copy_from_slice(&self.batch[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// Where the log was when a page was last written.
fn lsn_of(page: &[u8]) -> Lsn {
    let half = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    Lsn(u64::from(half(0)) << 32 | u64::from(half(4)))
}

/// Tells whether a page is what it was when it was written; one of zeros is new.
fn is_right(page: &[u8], block: u64) -> bool {
    let stored = u16::from_le_bytes([page[8], page[9]]);
    stored == checksum(page, block) || page.iter().all(|&byte| byte == 0)
}

const PRIME: u32 = 16_777_619;
const OFFSETS: [u32; 32] = [
    0x5b1f_36e9,
    0xb852_5960,
    0x02ab_50aa,
    0x1de6_6d2a,
    0x79ff_467a,
    0x9bb9_f8a3,
    0x217e_7cd2,
    0x83e1_3d2c,
    0xf8d4_474f,
    0xe39e_b970,
    0x42c6_ae16,
    0x9932_16fa,
    0x7b09_3b5d,
    0x98da_ff3c,
    0xf718_902a,
    0x0b1c_9cdb,
    0xe58f_764b,
    0x1876_36bc,
    0x5d7b_3bb1,
    0xe73d_e7de,
    0x92be_c979,
    0xcca6_c0b2,
    0x304a_0979,
    0x85aa_43d4,
    0x7831_25bb,
    0x6ca8_eaa2,
    0xe407_eac6,
    0x4b5c_fc3e,
    0x9fbf_8c76,
    0x15ca_20be,
    0xf2ca_9fd3,
    0x959b_d756,
];

/// PostgreSQL's checksum of a page: 32 sums side by side, folded, mixed with the block's number, never 0.
fn checksum(page: &[u8], block: u64) -> u16 {
    let step = |sum: u32, value: u32| {
        let mixed = sum ^ value;
        mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
    };
    let mut sums = OFFSETS;
    for (row, values) in page.chunks_exact(4 * OFFSETS.len()).enumerate() {
        for (lane, (sum, value)) in sums.iter_mut().zip(values.chunks_exact(4)).enumerate() {
            let mut value = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
            if row == 0 && lane == 2 {
                // The checksum's own two bytes.
                value &= 0xffff_0000;
            }
            *sum = step(*sum, value);
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| *sum = step(*sum, 0));
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum);
    // A relation's pages are numbered with 32 bits.
    let mixed = folded ^ (block & 0xffff_ffff) as u32;
    (mixed % 65535 + 1) as u16
}

/// Tells which page of its relation a file begins with, by its name; nothing for what is no relation file.
///
/// `16384`, `16384.2`, `16384_fsm`, `16384_init`: a number, a fork, a part.
pub(super) fn first_page(path: &Path, part_pages: u64) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let (relation, part) = name.split_once('.').map_or((name, "0"), |(relation, part)| (relation, part));
    let (number, fork) = relation.split_once('_').map_or((relation, "main"), |(number, fork)| (number, fork));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(number) || !digits(part) || !matches!(fork, "main" | "fsm" | "vm" | "init") {
        return None;
    }
    Some(part.parse::<u64>().ok()? * part_pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_files_are_known_by_their_names() {
        let first = |name: &str| first_page(Path::new(name), 131_072);
        assert_eq!(first("/d/base/5/16384"), Some(0));
        assert_eq!(first("16384.2"), Some(262_144));
        assert_eq!(first("16384_fsm"), Some(0));
        assert_eq!(first("16384_vm.1"), Some(131_072));
        for other in ["PG_VERSION", "pg_filenode.map", "t3_16384", "16384_x", "16384.", "_vm", "pg_control"] {
            assert_eq!(first(other), None, "{other}");
        }
    }
}
