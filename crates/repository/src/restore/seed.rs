//! Pieces that another directory of this machine has already: an older copy of what is restored.
//!
//! What is read there is hashed before it is written, and those very bytes are written: a seed that is damaged, that changes
//! meanwhile or that holds something else altogether costs time and nothing else. It is only read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::{Id, Result};

use super::content::Writer;
use super::execute::Run;
use super::work;

/// Bytes of one file that one thread looks at, so that several share a huge file.
const SHARE_BYTES: u64 = 64 << 20;

/// Writes what the seed has of the wanted pieces; gives those that are still to be fetched.
pub(super) fn take(run: &Run<'_>, writer: &Writer<'_>) -> Result<Vec<u32>> {
    let wanted = &run.plan.uses;
    let Some(seed) = run.plan.options.seed.as_deref() else { return Ok(wanted.clone()) };
    let taken: Vec<AtomicU64> =
        (0..run.tables.pieces.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    // By file, and in each from its beginning.
    let mut pieces = wanted.clone();
    pieces.sort_unstable();
    let shares: Vec<&[u32]> = pieces
        .chunk_by(|one, other| run.tables.entry_of(*one) == run.tables.entry_of(*other))
        .flat_map(|file| shares(run, file))
        .collect();
    work::for_each(run.threads(), shares.len(), run.context, |number| {
        let share = shares[number];
        let Some(file) = share.first().and_then(|piece| open(run, seed, *piece)) else { return Ok(()) };
        let mut buffer = Vec::new();
        for piece in share {
            run.context.check()?;
            if read(run, &file, *piece, &mut buffer) {
                taken[*piece as usize / 64].fetch_or(1 << (piece % 64), Ordering::Relaxed);
                run.bytes_taken.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                writer.write(*piece, &buffer)?;
            }
        }
        Ok(())
    })?;
    let is_taken = |piece: &u32| taken[*piece as usize / 64].load(Ordering::Relaxed) >> (piece % 64) & 1 == 1;
    Ok(wanted.iter().filter(|piece| !is_taken(piece)).copied().collect())
}

/// Cuts the wanted pieces of one file.
fn shares<'p>(run: &Run<'_>, file: &'p [u32]) -> impl Iterator<Item = &'p [u32]> {
    let offset = |piece: &u32| run.tables.pieces[*piece as usize].offset / SHARE_BYTES;
    file.chunk_by(move |one, other| offset(one) == offset(other)).collect::<Vec<_>>().into_iter()
}

/// Opens what the seed has where the file of `piece` goes, if that is a regular file.
fn open(run: &Run<'_>, seed: &Path, piece: u32) -> Option<File> {
    let entry = &run.tables.entries[run.tables.entry_of(piece) as usize];
    let path = run.tables.entry_path(entry);
    // A seed stands in the place of what is restored, whose own name begins the path when it is one entry.
    let path: PathBuf = path.components().skip(usize::from(run.plan.is_entry)).collect();
    let path = if path.as_os_str().is_empty() { seed.to_owned() } else { seed.join(path) };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    file.metadata().is_ok_and(|found| found.is_file()).then_some(file)
}

/// Reads a piece into `buffer`; tells whether it is the right one.
fn read(run: &Run<'_>, file: &File, piece: u32, buffer: &mut Vec<u8>) -> bool {
    let entry = &run.tables.entries[run.tables.entry_of(piece) as usize];
    let wanted = &run.tables.pieces[piece as usize];
    let Ok(length) = usize::try_from(run.tables.piece_bytes(entry, piece)) else { return false };
    buffer.resize(length, 0);
    file.read_exact_at(buffer, wanted.offset).is_ok() && Id::of(buffer) == wanted.id
}
