//! Reading files of the target and comparing them with the snapshot, piece by piece.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::event::{Event, Task};
use crate::format::NodeKind;
use crate::{Context, Id, Result};

use super::table::{Entry, Existing, Piece, Step, Tables};
use super::target::{Target, existing};
use super::walk::Walker;
use super::work;

/// Bytes of one file that one thread compares at a time, so that several share a huge file.
const SHARE_BYTES: u64 = 64 << 20;
/// Pieces longer than this are hashed in parts of this length.
const BUFFER_BYTES: usize = 1 << 20;

/// Decides about every entry whose step is [`Step::Compare`], by its content.
///
/// A file that cannot be read counts as different: what then happens at its writing says why.
pub(super) fn decide(
    tables: &mut Tables,
    target: &Target,
    walker: &Walker<'_>,
    context: Context<'_>,
) -> Result<()> {
    let undecided: Vec<u32> = (0..tables.entries.len() as u32)
        .filter(|number| tables.entries[*number as usize].step == Step::Compare)
        .collect();
    if undecided.is_empty() {
        return Ok(());
    }
    let have: Vec<AtomicU64> = (0..tables.pieces.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    let shares = shares(tables, &undecided);
    let bytes = undecided.iter().map(|number| tables.entries[*number as usize].size).sum();
    context.tell(Event::Begin(Task::Compare));
    context.tell(Event::Expect { task: Task::Compare, items: undecided.len() as u64, bytes });
    let shared: &Tables = tables;
    work::for_each(walker.threads(), shares.len(), context, |number| {
        let share = &shares[number];
        let entry = &shared.entries[share.entry as usize];
        let mut bytes = 0;
        if let Ok((file, _)) = open_to_read(shared, target, entry) {
            for piece in share.pieces.clone() {
                context.check()?;
                if piece_is_right(shared, entry, piece, &file).unwrap_or(false) {
                    have[piece as usize / 64].fetch_or(1 << (piece % 64), Ordering::Relaxed);
                }
                bytes += shared.piece_bytes(entry, piece);
            }
        }
        let items = u64::from(share.is_last);
        context.tell(Event::Advance { task: Task::Compare, items, bytes });
        Ok(())
    })?;
    tables.have = have.into_iter().map(AtomicU64::into_inner).collect();
    for number in undecided {
        let entry = &tables.entries[number as usize];
        let found = tables.existing[entry.existing as usize];
        let pieces = entry.first_piece..entry.first_piece + entry.pieces;
        let same = found.size == entry.size && pieces.clone().all(|piece| tables.has(piece));
        let step = if same {
            walker.metadata_step(&found, NodeKind::File, &entry.meta)
        } else if found.links > 1 {
            // Its other names may be somebody else's.
            Step::Replace
        } else {
            Step::Update
        };
        tables.entries[number as usize].step = step;
    }
    context.tell(Event::End(Task::Compare));
    Ok(())
}

/// Some pieces of one file.
struct Share {
    entry: u32,
    pieces: std::ops::Range<u32>,
    is_last: bool,
}

fn shares(tables: &Tables, entries: &[u32]) -> Vec<Share> {
    let mut shares = Vec::new();
    for &number in entries {
        let entry = &tables.entries[number as usize];
        let end = entry.first_piece + entry.pieces;
        let mut start = entry.first_piece;
        loop {
            let from = tables.pieces.get(start as usize).map_or(0, |piece| piece.offset);
            let mut stop = start;
            while stop < end && (stop == start || tables.pieces[stop as usize].offset - from < SHARE_BYTES) {
                stop += 1;
            }
            shares.push(Share { entry: number, pieces: start..stop, is_last: stop == end });
            if stop == end {
                break;
            }
            start = stop;
        }
    }
    shares
}

/// Opens a regular file of the target for reading, and tells what it is now.
pub(super) fn open_to_read(
    tables: &Tables,
    target: &Target,
    entry: &Entry,
) -> rustix::io::Result<(File, Existing)> {
    let dir = target.dir(tables, entry.parent)?;
    let name = tables.name(entry.name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Comparing is no access that anyone wants to see; only its owner may ask for that.
    let fd = match rustix::fs::openat(&*dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(&*dir, name, flags, Mode::empty())?,
        other => other?,
    };
    let found = existing(&rustix::fs::fstat(fd.as_fd())?);
    if found.kind != Some(NodeKind::File) {
        return Err(Errno::INVAL);
    }
    Ok((File::from(fd), found))
}

/// Whether the file has the piece.
pub(super) fn piece_is_right(
    tables: &Tables,
    entry: &Entry,
    piece: u32,
    file: &File,
) -> std::io::Result<bool> {
    use sha2::{Digest, Sha256};
    let Piece { id, mut offset, .. } = tables.pieces[piece as usize];
    let mut left = tables.piece_bytes(entry, piece);
    let mut buffer = vec![0; BUFFER_BYTES.min(left as usize)];
    let mut hasher = Sha256::new();
    while left > 0 {
        let part = &mut buffer[..BUFFER_BYTES.min(left as usize)];
        match file.read_exact_at(part, offset) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        hasher.update(&*part);
        offset += part.len() as u64;
        left -= part.len() as u64;
    }
    Ok(Id(hasher.finalize().into()) == id)
}
