//! Choosing: of every needed blob the copy that stays, and of the packs those worth rewriting.

use std::collections::HashMap;

use crate::crypto::OVERHEAD_BYTES;
use crate::format::{BlobKind, LENGTH_BYTES, entry_bytes};
use crate::trees::BlobSet;
use crate::{Error, Id, Index, Location, Result};

use super::{Fate, MaxUnused, PruneOptions};

/// So many small packs of one kind are worth merging; fewer are left over by every backup.
const SMALL_PACKS_MIN: usize = 10;

/// What a pack holds, and how much of it is needed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PackUse {
    /// Its size in the store; `None` when it is not there.
    pub(super) size: Option<u64>,
    /// The size that the listed blobs imply.
    expected_bytes: u64,
    /// Sealed bytes of its blobs.
    pub(super) content_bytes: u64,
    /// Sealed bytes of the blobs for which this is the copy that stays.
    pub(super) used_bytes: u64,
    /// Sealed bytes of needed blobs, whichever copy stays.
    needed_bytes: u64,
    /// It has a needed blob of which no other copy can stay.
    is_needed: bool,
    has_data: bool,
    has_trees: bool,
    has_uncompressed_trees: bool,
}

impl PackUse {
    /// Whether the pack is there and as long as it should be.
    fn is_whole(&self) -> bool {
        self.size == Some(self.expected_bytes)
    }

    /// A pack of both kinds is rewritten if anything in it stays.
    fn is_mixed(&self) -> bool {
        self.has_data && self.has_trees
    }

    fn needed_share(&self) -> f64 {
        self.needed_bytes as f64 / self.content_bytes.max(1) as f64
    }
}

/// What all packs hold, by number.
pub(super) struct Uses {
    pub(super) packs: Vec<PackUse>,
    pub(super) used_blobs: u64,
    pub(super) used_bytes: u64,
    pub(super) first_marked: usize,
}

/// Chooses the copy of every needed blob that stays.
///
/// Preferred are packs that are not marked; among these, packs that must stay for another blob's sake; then
/// those of one kind of blobs, and those that hold the least else. A needed blob without a whole pack is a refusal.
pub(super) fn choose_copies(
    index: &Index,
    first_marked: u32,
    sizes: &HashMap<Id, u64>,
    used: &BlobSet,
) -> Result<(Uses, BlobSet)> {
    let mut packs: Vec<PackUse> = (0..index.pack_count())
        .map(|number| PackUse {
            size: sizes.get(&index.pack_id(number)).copied(),
            expected_bytes: (OVERHEAD_BYTES + LENGTH_BYTES) as u64,
            ..PackUse::default()
        })
        .collect();
    for Location { pack, blob, .. } in index.iter() {
        let pack = &mut packs[pack as usize];
        pack.expected_bytes += u64::from(blob.length) + entry_bytes(&blob) as u64;
        pack.content_bytes += u64::from(blob.length);
        pack.has_data |= blob.kind == BlobKind::Data;
        pack.has_trees |= blob.kind == BlobKind::Tree;
    }
    for_each_needed(index, used, |copies| {
        let candidates = candidates(copies, &packs, first_marked);
        if candidates.is_empty() {
            return Err(refuse_lost(index, &copies[0]));
        }
        for copy in &candidates {
            let pack = &mut packs[copy.pack as usize];
            pack.needed_bytes += u64::from(copy.blob.length);
            pack.is_needed |= candidates.len() == 1;
        }
        Ok(())
    })?;
    let chosen = BlobSet::new(index);
    let (mut used_blobs, mut used_bytes) = (0, 0);
    for_each_needed(index, used, |copies| {
        let best = candidates(copies, &packs, first_marked)
            .into_iter()
            .max_by(|a, b| {
                let [a, b] = [a, b].map(|copy| &packs[copy.pack as usize]);
                let by_mixture = b.is_mixed().cmp(&a.is_mixed());
                a.is_needed
                    .cmp(&b.is_needed)
                    .then(by_mixture)
                    .then(a.needed_share().total_cmp(&b.needed_share()))
            })
            .expect("the first pass found one");
        chosen.insert(best.slot);
        let length = u64::from(best.blob.length);
        let pack = &mut packs[best.pack as usize];
        pack.used_bytes += length;
        pack.is_needed = true;
        pack.has_uncompressed_trees |= best.blob.kind == BlobKind::Tree && best.blob.uncompressed_length == 0;
        used_blobs += 1;
        used_bytes += length;
        Ok(())
    })?;
    Ok((Uses { packs, used_blobs, used_bytes, first_marked: first_marked as usize }, chosen))
}

/// Calls `each` with all copies of every needed blob.
fn for_each_needed(
    index: &Index,
    used: &BlobSet,
    mut each: impl FnMut(&[Location]) -> Result<()>,
) -> Result<()> {
    let mut same_id: Vec<Location> = Vec::new();
    let mut blobs = index.iter().peekable();
    while let Some(blob) = blobs.next() {
        same_id.push(blob);
        if blobs.peek().is_some_and(|next| next.blob.id == blob.blob.id) {
            continue;
        }
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let copies: Vec<Location> =
                same_id.iter().filter(|copy| copy.blob.kind == kind).copied().collect();
            // The first copy stands for all in the set of what is used.
            if copies.first().is_some_and(|first| used.contains(first.slot)) {
                each(&copies)?;
            }
        }
        same_id.clear();
    }
    Ok(())
}

fn candidates(copies: &[Location], packs: &[PackUse], first_marked: u32) -> Vec<Location> {
    let whole = |copy: &&Location| packs[copy.pack as usize].is_whole();
    let unmarked: Vec<Location> =
        copies.iter().filter(|copy| copy.pack < first_marked).filter(whole).copied().collect();
    if unmarked.is_empty() { copies.iter().filter(whole).copied().collect() } else { unmarked }
}

fn refuse_lost(index: &Index, copy: &Location) -> Error {
    let (kind, id, pack) = (copy.blob.kind, copy.blob.id, index.pack_id(copy.pack));
    Error::Refused(format!(
        "{kind} blob {id} is needed, and pack {pack} that should hold it is missing or has the wrong size; \
         nothing is pruned: salvage the pack, repair the index, then the snapshots"
    ))
}

/// Decides what becomes of packs that are not marked; the others are left at `Wait`.
pub(super) fn choose_repacks(uses: &Uses, options: &PruneOptions) -> Vec<Fate> {
    let mut fates: Vec<Fate> = uses.packs[..uses.first_marked]
        .iter()
        .map(|pack| match pack {
            PackUse { size: None, .. } => Fate::Gone,
            PackUse { used_bytes: 0, .. } => Fate::Mark,
            pack if pack.is_mixed() || pack.has_uncompressed_trees => Fate::Repack,
            _ => Fate::Keep,
        })
        .collect();
    fates.resize(uses.packs.len(), Fate::Wait);
    repack_small(uses, options, &mut fates);
    repack_wasteful(uses, options, &mut fates);
    limit_repacks(uses, options, &mut fates);
    fates
}

fn repack_small(uses: &Uses, options: &PruneOptions, fates: &mut [Fate]) {
    for has_trees in [false, true] {
        let small: Vec<usize> = (0..uses.first_marked)
            .filter(|&number| {
                let pack = &uses.packs[number];
                fates[number] == Fate::Keep
                    && pack.has_trees == has_trees
                    && pack.expected_bytes < options.writer.pack_bytes as u64 / 2
            })
            .collect();
        if small.len() >= SMALL_PACKS_MIN {
            small.into_iter().for_each(|number| fates[number] = Fate::Repack);
        }
    }
}

/// Of the packs that hold unneeded blobs, chooses those with the largest share of them, until what stays is little enough.
fn repack_wasteful(uses: &Uses, options: &PruneOptions, fates: &mut [Fate]) {
    let unused = |number: usize| uses.packs[number].content_bytes - uses.packs[number].used_bytes;
    let mut partial: Vec<usize> =
        (0..uses.first_marked).filter(|&number| fates[number] == Fate::Keep && unused(number) > 0).collect();
    let limit = match options.max_unused {
        MaxUnused::Percent(percent) if percent >= 100.0 => u64::MAX,
        MaxUnused::Percent(percent) => {
            // A share of all that is stored: of the needed and the unneeded together.
            (uses.used_bytes as f64 * percent.max(0.0) / (100.0 - percent.max(0.0))) as u64
        }
        MaxUnused::Bytes(bytes) => bytes,
        MaxUnused::Unlimited => u64::MAX,
    };
    let mut left: u64 = partial.iter().map(|&number| unused(number)).sum();
    let share = |number: usize| unused(number) as f64 / uses.packs[number].content_bytes as f64;
    partial.sort_unstable_by(|&a, &b| share(b).total_cmp(&share(a)).then(a.cmp(&b)));
    for number in partial {
        if left <= limit {
            break;
        }
        left -= unused(number);
        fates[number] = Fate::Repack;
    }
}

fn limit_repacks(uses: &Uses, options: &PruneOptions, fates: &mut [Fate]) {
    let mut left = options.repack_bytes_max.unwrap_or(u64::MAX);
    for (pack, fate) in uses.packs.iter().zip(fates) {
        if *fate == Fate::Repack {
            match left.checked_sub(pack.used_bytes) {
                Some(rest) => left = rest,
                None => *fate = Fate::Keep,
            }
        }
    }
}
