//! Bringing restored append-only files to an instant: what was archived is appended to them, and ends where it is asked for.
//!
//! # The end
//! Times in the files are whole seconds. Of what was done in the second of the asked instant some is before it and some behind,
//! and nobody can tell which: all of it is left out. So nothing that is later than the instant comes back, and what
//! is missing before it is less than a second.
//!
//! # Crashes
//! The appended file is written anew each time, then the list that names it; the list is put in place by a rename.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::super::{Part, PointFacts, Proof, Replay, Replayed};
use super::aof::{Announced, Scan};
use super::detail;
use super::layout::Layout;
use super::live::List;
use super::standing;
use crate::{Error, Result};

/// Replays on what lies beside.
pub(super) fn replay(parts: &[Part], recorded: &PointFacts, replay: &mut Replay<'_>) -> Result<Replayed> {
    let of = |name: &str| recorded.details.get(name).map_or("", String::as_str);
    let (Some(part), Some(base)) = (parts.last(), recorded.log.as_ref()) else {
        return Err(unusable(Path::new(""), "the point does not say where it stands in the log"));
    };
    let Ok(Layout::Parts(directory, name)) = serde_json::from_str(of(detail::LAYOUT)) else {
        return Err(unusable(&part.beside, "the point has no append-only files"));
    };
    let directory = part.beside.join(directory);
    let list = List::parse(of(detail::LIST)).map_err(|why| unusable(&directory, &why))?;
    let (list, added) = list.and(&name);
    let path = directory.join(&added.name);
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&path)
        .map_err(Error::io("create", &path))?;
    let until = replay.at.map(Timestamp::as_second);
    let begin = base.consistent_at;
    let mut scan = Scan::from(begin);
    let mut cut = None;
    for piece in &mut *replay.pieces {
        if replay.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let piece = piece.map_err(Error::io("read the log for", &path))?;
        if piece.lineage != base.lineage || piece.first > scan.position {
            let why = format!(
                "the log has a gap: {} of {} does not follow {} of {}",
                piece.first, piece.lineage, scan.position, base.lineage
            );
            return Err(unusable(&path, &why));
        }
        // A piece may begin before the point.
        let known = scan.position - piece.first;
        let Some(bytes) = usize::try_from(known).ok().and_then(|known| piece.bytes.get(known..)) else {
            continue;
        };
        file.write_all(bytes).map_err(Error::io("write", &path))?;
        if scan.feed(bytes, until).map_err(|torn| unusable(&path, &torn.to_string()))? {
            cut = scan.time.map(|Announced { at, .. }| at.min(scan.boundary));
            break;
        }
    }
    let end = match cut {
        Some(cut) => cut,
        None if !scan.is_whole() => {
            return Err(unusable(&path, "the archived log ends in the middle of a command"));
        }
        None if scan.position < replay.to => {
            let why = format!("the archived log ends at {} and not at {}", scan.position, replay.to);
            return Err(unusable(&path, &why));
        }
        None => scan.position,
    };
    file.set_len(end - begin).and_then(|()| file.sync_all()).map_err(Error::io("write", &path))?;
    let path = directory.join(format!("{name}.manifest"));
    standing::replace(&path, list.text().as_bytes(), 0o640).map_err(Error::io("write", &path))?;
    // What the engine itself says of the files, the proof shows.
    Ok(Replayed { position: end, instant: reached(replay.at, cut.is_some(), &scan), proof: Proof::default() })
}

/// The instant up to which everything is there, as far as the log knows: the asked second's begin, or the last one announced.
fn reached(at: Option<Timestamp>, was_cut: bool, scan: &Scan) -> Option<Timestamp> {
    let second = match (at, was_cut) {
        (Some(at), true) => at.as_second(),
        _ => scan.time?.second,
    };
    Timestamp::from_second(second).ok()
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::BadTarget { path: path.to_owned(), why: why.to_owned() }
}
