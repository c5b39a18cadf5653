//! Index files, as JSON and as the numbers in them.

use std::collections::HashSet;

use repository::format::{BlobKind, IndexBlob, IndexFile, IndexPack};
use repository::{Id, Index, IndexBuilder, IndexProblem};

/// An index file as JSON.
pub fn index_file(data: &[u8]) {
    if let Some(file) = crate::files::settles::<IndexFile>(data) {
        check([file]);
    }
}

/// Bytes of one blob in the input of [`index_blobs`].
const ENTRY_BYTES: usize = 12;

/// Index files whose numbers are drawn directly, so that no mutation is lost on the JSON around them.
///
/// An entry has a byte for the pack and the file (its top bit), one for the id, one for the kind and how the
/// uncompressed length comes about, one reserved, and four each for offset and length.
pub fn index_blobs(data: &[u8]) {
    let mut files = [IndexFile::default(), IndexFile::default()];
    for entry in data.chunks_exact(ENTRY_BYTES) {
        let number = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"));
        let (offset, length) = (number(4), number(8));
        let blob = IndexBlob {
            id: Id::of(&entry[1..2]),
            kind: if entry[2] & 1 == 0 { BlobKind::Data } else { BlobKind::Tree },
            offset,
            length,
            uncompressed_length: match entry[2] >> 1 & 3 {
                0 => 0,
                1 => length,
                2 => length.wrapping_mul(3),
                _ => u32::MAX - u32::from(entry[3]),
            },
        };
        let id = Id::of(&[entry[0] & 0x7f, 1]);
        let file = &mut files[usize::from(entry[0] >> 7)];
        let list = if entry[2] >> 3 == 31 { &mut file.packs_to_delete } else { &mut file.packs };
        match list.iter_mut().find(|pack| pack.id == id) {
            Some(pack) => pack.blobs.push(blob),
            None => list.push(IndexPack { id, blobs: vec![blob], time: None }),
        }
    }
    check(files);
}

fn check(files: impl IntoIterator<Item = IndexFile>) {
    let mut builder = IndexBuilder::new();
    let mut problems = Vec::new();
    let mut listed = Vec::new();
    let mut listings = 0;
    for (number, file) in (0_u8..).zip(files) {
        for pack in &file.packs {
            listings += 1;
            listed.extend(pack.blobs.iter().map(|blob| (pack.id, *blob)));
        }
        builder.add_file(Id::of(&[number]), file, &mut problems);
    }
    let index = builder.finish();
    check_lookups(&index);
    check_against(&index, &listed, &problems);
    // Every blob can bring a gap; the fixed part is the table of leading bytes.
    let bound = 4096 + 64 * listings + 160 * listed.len();
    assert!(index.resident_bytes() <= bound, "{} bytes for {} blobs", index.resident_bytes(), listed.len());
}

/// What the index says of itself agrees, whichever way it is asked.
fn check_lookups(index: &Index) {
    let mut by_id: Vec<_> = Vec::new();
    for location in index.iter() {
        let blob = location.blob;
        assert!(blob.offset.checked_add(blob.length).is_some());
        assert!(index.contains(blob.kind, &blob.id));
        assert!(index.find_all(blob.kind, &blob.id).any(|found| found == location));
        assert!(location.pack < index.pack_count());
        by_id.push((location.pack, blob.offset, blob.length, blob.id));
    }
    assert_eq!(by_id.len(), index.len());
    let view = index.by_pack();
    let mut by_pack = Vec::new();
    for pack in 0..index.pack_count() {
        let mut end = 0;
        for blob in view.blobs(pack) {
            assert!(blob.offset >= end, "blobs of a pack neither overlap nor go back");
            end = blob.offset + blob.length;
            by_pack.push((pack, blob.offset, blob.length, blob.id));
        }
    }
    by_id.sort_unstable();
    by_pack.sort_unstable();
    assert_eq!(by_id, by_pack);
}

/// Nothing is in the index that was not listed, and nothing is left out in silence.
fn check_against(index: &Index, listed: &[(Id, IndexBlob)], problems: &[IndexProblem]) {
    let wanted: HashSet<_> =
        listed.iter().map(|(pack, blob)| (*pack, blob.id, blob.kind, blob.offset, blob.length)).collect();
    let found: HashSet<_> = index
        .iter()
        .map(|location| {
            let blob = location.blob;
            (index.pack_id(location.pack), blob.id, blob.kind, blob.offset, blob.length)
        })
        .collect();
    assert!(found.is_subset(&wanted));
    if problems.is_empty() {
        assert_eq!(found, wanted);
    }
}
