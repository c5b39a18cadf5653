//! What a check finds when a repository is really damaged, and that restic agrees about what is an error.

use std::sync::Arc;

use repository::check::{CheckOptions, Finding, NodeFault, PackFault, ReadData, Remedy, Severity, check};
use repository::format::{BlobKind, IndexPack, Time};
use repository::{Clock, Context, Error, FileKind, Id, Repository, SnapshotEntry};
use store::fault::{Effect, Filter, Operation};
use store::{Fault, Memory};

use crate::sample::{
    Sample, assert_sound, check_all, ids, in_snapshot, listed_packs, open, pack_key, seal_pack, write_index,
    write_pack,
};

fn errors(repository: &Repository) -> Vec<Finding> {
    let report = check_all(repository);
    report.findings.into_iter().filter(|finding| finding.severity() == Severity::Error).collect()
}

/// What happens to the bytes of an object.
type Change = fn(&mut Vec<u8>);

/// restic repeats for minutes what it cannot read, so it is asked only where it need not read what is cut off.
fn assert_restic_finds_errors(sample: &Sample, arguments: &[&str]) {
    assert!(!sample.try_restic(arguments).status.success());
}

#[test]
fn a_sound_repository_has_no_findings() {
    for sample in [Sample::ours(), Sample::restics()] {
        let report = check_all(&sample.open());
        assert_eq!(report.findings, []);
        assert_eq!(report.affected, []);
        assert_eq!((report.snapshots, report.packs_read), (2, report.packs));
        assert!(report.trees > 4 && report.blobs > 20, "{report:?}");
        sample.restic(&["check", "--read-data"]);
    }
}

#[test]
fn every_region_of_a_pack_is_watched() {
    let sample = Sample::ours();
    let repository = sample.open();
    for IndexPack { id, blobs, .. } in listed_packs(&repository) {
        let last = blobs.last().unwrap();
        let content_bytes = (last.offset + last.length) as usize;
        let size = repository.store().size(&pack_key(&id)).unwrap() as usize;
        let places = [0, 20, content_bytes - 1, content_bytes, content_bytes + 30, size - 5, size - 2];
        for place in places {
            sample.change(&pack_key(&id), |data| data[place] ^= 4);
            let found = errors(&repository);
            sample.change(&pack_key(&id), |data| data[place] ^= 4);
            let faults = found
                .iter()
                .find_map(|finding| match finding {
                    Finding::PackDamaged { pack, faults } if *pack == id => Some(faults),
                    _ => None,
                })
                .unwrap_or_else(|| panic!("nothing found for byte {place}: {found:?}"));
            assert!(faults.iter().any(|fault| matches!(fault, PackFault::Hash { .. })), "{faults:?}");
            let blob = faults.iter().any(|fault| matches!(fault, PackFault::Blob { .. }));
            let header = faults.iter().any(|fault| matches!(fault, PackFault::Header(_)));
            assert_eq!(
                (blob, header),
                (place < content_bytes, place >= content_bytes),
                "{place}: {faults:?}"
            );
        }
    }
    assert_sound(&repository);
}

#[test]
fn the_files_that_a_damaged_blob_hits_are_named() {
    let sample = Sample::ours();
    let repository = sample.open();
    // The only file with a blob of this version's noise: its first bytes lie in some pack of data.
    let damaged = repository.find_snapshot("latest", &Default::default()).unwrap();
    let victim = in_snapshot(&sample, "only-2/file");
    let index = repository::Index::load(&repository, Context::silent()).unwrap();
    let reader = repository::BlobReader::new(&repository, &index);
    let mut location = None;
    repository::walk_in_order(&reader, &damaged.snapshot.tree, Context::silent(), &mut |path, met| {
        if let repository::Met::Node(node) = met
            && path == victim
        {
            location = index.find(BlobKind::Data, &node.content.as_ref().unwrap()[0]);
        }
        Ok(repository::Descend::Yes)
    })
    .unwrap();
    let location = location.unwrap();
    let pack = index.pack_id(location.pack);
    sample.change(&pack_key(&pack), |data| data[location.blob.offset as usize + 50] ^= 1);
    let report = check_all(&repository);
    assert_eq!(report.damaged_packs(), [pack]);
    assert_eq!(report.remedies(), [Remedy::RepairPacks]);
    let [affected] = &report.affected[..] else { panic!("{:?}", report.affected) };
    assert_eq!((affected.id, affected.count, &affected.paths[..]), (damaged.id, 1, &[victim][..]));
    // Without reading data nothing can be known of it.
    let report = check(&repository, &CheckOptions::default(), Context::silent()).unwrap();
    assert_eq!(report.findings, []);
    assert_restic_finds_errors(&sample, &["check", "--read-data"]);
}

#[test]
fn packs_of_wrong_size_and_missing_ones_are_named() {
    let sample = Sample::ours();
    let repository = sample.open();
    for IndexPack { id, blobs, .. } in listed_packs(&repository) {
        let before = repository.store().get(&pack_key(&id)).unwrap();
        let changes: [(&str, Change); 4] = [
            ("a byte less", |data| data.truncate(data.len() - 1)),
            ("a byte more", |data| data.push(0)),
            ("a hundred bytes", |data| data.truncate(100)),
            ("no byte", Vec::clear),
        ];
        for (what, change) in changes {
            sample.change(&pack_key(&id), change);
            let report = check_all(&repository);
            let size = report.findings.iter().any(
                |finding| matches!(finding, Finding::PackSize { pack, expected, .. } if *pack == id && *expected == before.len() as u64),
            );
            assert!(size && report.damaged_packs() == [id], "{what}: {:?}", report.findings);
            assert_eq!(report.affected.is_empty(), what.contains("a byte"), "{what}: {:?}", report.affected);
            sample.change(&pack_key(&id), |data| data.clone_from(&before));
        }
        sample.delete(&pack_key(&id));
        let report = check_all(&repository);
        assert!(report.findings.contains(&Finding::PackMissing { pack: id, blobs: blobs.len() }));
        assert!(!report.affected.is_empty());
        if blobs[0].kind == BlobKind::Data {
            assert_restic_finds_errors(&sample, &["check"]);
        }
        repository.store().put(&pack_key(&id), before.into()).unwrap();
    }
    assert_sound(&repository);
}

#[test]
fn damaged_index_files_and_snapshots_are_named() {
    let sample = Sample::ours();
    let repository = sample.open();
    let changes: [fn(&mut Vec<u8>); 4] =
        [|data| data[3] ^= 1, |data| data.truncate(20), Vec::clear, |data| data.reverse()];
    for change in changes {
        for kind in [FileKind::Index, FileKind::Snapshot] {
            let contents = sample.contents();
            let id = ids(&repository, kind)[0];
            sample.change(&kind.object(&id), change);
            let found = errors(&repository);
            let named = found.iter().any(|finding| match finding {
                Finding::IndexUnusable { id: found, .. } => kind == FileKind::Index && *found == id,
                Finding::SnapshotUnusable { id: found, .. } => kind == FileKind::Snapshot && *found == id,
                _ => false,
            });
            assert!(named, "{found:?}");
            repository.store().put(&kind.object(&id), contents[&kind.object(&id)].clone()).unwrap();
        }
    }
    assert_sound(&repository);
}

#[test]
fn a_lost_index_file_leaves_trees_or_data_missing() {
    let sample = Sample::ours();
    let repository = sample.open();
    let contents = sample.contents();
    for id in ids(&repository, FileKind::Index) {
        sample.delete(&FileKind::Index.object(&id));
        let report = check_all(&repository);
        let missing = report
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::TreeUnreadable { .. } | Finding::DataMissing { .. }));
        let unindexed =
            report.findings.iter().any(|finding| matches!(finding, Finding::PacksUnindexed { .. }));
        assert!(missing && unindexed, "{:?}", report.findings);
        assert!(report.has_errors() && !report.affected.is_empty());
        repository
            .store()
            .put(&FileKind::Index.object(&id), contents[&FileKind::Index.object(&id)].clone())
            .unwrap();
    }
}

#[test]
fn a_damaged_key_is_named() {
    let sample = Sample::ours();
    let repository = sample.open();
    let cost = repository::crypto::ScryptCost { n: 1 << 10, r: 8, p: 1 };
    let id = repository.add_key(b"other", cost, &Default::default()).unwrap();
    sample.change(&FileKind::Key.object(&id), |data| data[40] ^= 1);
    let report = check_all(&sample.open());
    assert!(matches!(&report.findings[..], [Finding::KeyDamaged { id: found, .. }] if *found == id));
    assert_eq!(report.worst(), Some(Severity::Warning));
}

#[test]
fn copies_mixtures_and_orphans_are_no_errors() {
    let sample = Sample::ours();
    let repository = sample.open();
    let tree = br#"{"nodes":[]}"#;
    let mixed = write_pack(&repository, &[(BlobKind::Data, b"data"), (BlobKind::Tree, tree)]);
    let copies = write_pack(&repository, &[(BlobKind::Data, b"data"), (BlobKind::Data, b"more")]);
    let orphan = write_pack(&repository, &[(BlobKind::Data, b"orphan")]);
    write_index(&repository, vec![mixed.clone()], vec![]);
    // Listed twice alike is what an interrupted prune leaves.
    write_index(&repository, vec![mixed.clone(), copies.clone()], vec![]);
    let report = check_all(&repository);
    let has = |wanted: &dyn Fn(&Finding) -> bool| report.findings.iter().any(wanted);
    assert!(has(&|finding| *finding == Finding::PackMixed { pack: mixed.id }));
    assert!(has(&|finding| matches!(finding, Finding::BlobsDuplicate { blobs: 1, .. })));
    assert!(has(&|finding| matches!(finding, Finding::BlobsUnused { blobs: 3, .. })));
    assert!(has(
        &|finding| matches!(finding, Finding::PacksUnindexed { packs, .. } if packs[..] == [orphan.id])
    ));
    assert_eq!(report.findings.len(), 4, "{:?}", report.findings);
    sample.restic(&["check", "--read-data"]);
}

#[test]
fn lies_of_the_index_are_found() {
    let sample = Sample::ours();
    let repository = sample.open();
    let honest = write_pack(&repository, &[(BlobKind::Data, b"one blob"), (BlobKind::Data, b"another")]);
    let with = |change: &dyn Fn(&mut IndexPack)| {
        let mut pack = honest.clone();
        change(&mut pack);
        let id = write_index(&repository, vec![pack], vec![]);
        let findings = check_all(&repository).findings;
        repository.remove(FileKind::Index, &id).unwrap();
        findings
    };
    let swapped = with(&|pack| {
        let [a, b] = &mut pack.blobs[..] else { unreachable!() };
        std::mem::swap(&mut a.id, &mut b.id);
    });
    let hash = swapped.iter().any(|finding| {
        matches!(finding, Finding::PackDamaged { pack, faults } if *pack == honest.id
            && faults.iter().filter(|fault| matches!(fault, PackFault::Blob { .. })).count() == 2
            && faults.contains(&PackFault::IndexMismatch))
    });
    assert!(hash, "{swapped:?}");
    let overlapping = with(&|pack| pack.blobs[1].offset -= 1);
    assert!(overlapping.contains(&Finding::IndexOverlap { pack: honest.id }), "{overlapping:?}");
    let short = with(&|pack| pack.blobs.truncate(1));
    assert!(short.iter().any(|finding| matches!(finding, Finding::PackSize { .. })), "{short:?}");
    let bomb = with(&|pack| pack.blobs[0].uncompressed_length = u32::MAX);
    assert!(bomb.iter().any(|finding| matches!(finding, Finding::PackDamaged { .. })), "{bomb:?}");
    write_index(&repository, vec![honest.clone()], vec![]);
    let contradicting = with(&|pack| pack.blobs.truncate(1));
    assert!(contradicting.contains(&Finding::IndexContradiction { pack: honest.id }), "{contradicting:?}");
}

#[test]
fn bytes_that_belong_to_no_blob_are_found() {
    let sample = Sample::ours();
    let repository = sample.open();
    let honest = write_pack(&repository, &[(BlobKind::Data, b"one blob")]);
    let mut bytes = repository.store().get(&pack_key(&honest.id)).unwrap();
    bytes.truncate(honest.blobs[0].length as usize);
    bytes.extend_from_slice(&[7; 99]);
    let gap = seal_pack(&repository, bytes, vec![honest.blobs[0].into()]);
    write_index(&repository, vec![gap.clone()], vec![]);
    let found = errors(&repository);
    let gap_found = found.iter().any(|finding| {
        matches!(finding, Finding::PackDamaged { pack, faults } if *pack == gap.id
            && faults.iter().any(|fault| matches!(fault, PackFault::Gap { bytes: 99, .. })))
    });
    assert!(gap_found, "{found:?}");
}

#[test]
fn trees_that_make_no_sense_are_found() {
    let sample = Sample::ours();
    let repository = sample.open();
    let time = "2020-01-01T00:00:00Z";
    let node = |rest: &str| {
        format!(
            r#"{{"nodes":[{{"name":"x","mtime":"{time}","atime":"{time}","ctime":"{time}","uid":0,"gid":0,{rest}}}]}}"#
        )
    };
    let gone = Id::of(b"gone");
    let cases = [
        (node(r#""type":"file","content":null"#), "no content"),
        (node(r#""type":"dir","content":null"#), "no tree"),
        (node(r#""type":"file","size":5,"content":[]"#), "size"),
        (node(&format!(r#""type":"file","size":5,"content":["{gone}"]"#)), "data"),
        (node(&format!(r#""type":"dir","subtree":"{gone}""#)), "tree"),
        (node(r#""type":"teapot""#), "tree"),
        ("{".to_owned(), "tree"),
        (r#"{"nodes":[{"name":"","type":"dir"}]}"#.to_owned(), "tree"),
    ];
    for (json, what) in cases {
        let pack = write_pack(&repository, &[(BlobKind::Tree, json.as_bytes())]);
        let tree = pack.blobs[0].id;
        let index = write_index(&repository, vec![pack], vec![]);
        let mut snapshot = repository.snapshots().unwrap()[0].snapshot.clone();
        snapshot.tree = tree;
        let id = repository.save_json(FileKind::Snapshot, &snapshot).unwrap();
        let report = check_all(&repository);
        let found = report.findings.iter().any(|finding| match finding {
            Finding::NodeInvalid { tree: found, name, fault } => {
                let expected = match fault {
                    NodeFault::NoContent => "no content",
                    NodeFault::NoSubtree => "no tree",
                    NodeFault::Size { stated: 5, content: 0 } => "size",
                    NodeFault::Size { .. } => "another size",
                };
                *found == tree && name == "x" && expected == what
            }
            Finding::DataMissing { blobs, marked: 0 } => what == "data" && blobs[..] == [gone],
            Finding::TreeUnreadable { tree: found, .. } => {
                what == "tree" && (*found == tree || *found == gone)
            }
            _ => false,
        });
        assert!(found, "{what}: {:?}", report.findings);
        let affected: Vec<Id> = report.affected.iter().map(|affected| affected.id).collect();
        assert_eq!(affected, if what == "size" { vec![] } else { vec![id] }, "{what}");
        repository.remove(FileKind::Snapshot, &id).unwrap();
        repository.remove(FileKind::Index, &index).unwrap();
    }
}

#[test]
fn snapshots_of_the_future_are_noticed() {
    let sample = Sample::ours();
    let repository = sample.open_later(-2);
    let report = check_all(&repository);
    let future: Vec<Time> = report
        .findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::SnapshotInFuture { time, .. } => Some(*time),
            _ => None,
        })
        .collect();
    let times: Vec<Time> = repository.snapshots().unwrap().iter().map(SnapshotEntry::time).collect();
    assert_eq!(future, times);
    assert_eq!(report.worst(), Some(Severity::Warning));
}

#[test]
fn parts_cover_every_pack_once() {
    let sample = Sample::ours();
    let repository = sample.open();
    let read = |read_data| {
        let options = CheckOptions { read_data, ..CheckOptions::default() };
        check(&repository, &options, Context::silent())
    };
    let packs = ids(&repository, FileKind::Pack).len() as u64;
    let of = 3;
    let sum: u64 = (1..=of).map(|part| read(ReadData::Part { part, of }).unwrap().packs_read).sum();
    assert_eq!(sum, packs);
    assert_eq!(read(ReadData::Percent(100.0)).unwrap().packs_read, packs);
    assert_eq!(read(ReadData::Percent(0.1)).unwrap().packs_read, 1);
    assert_eq!(read(ReadData::Bytes(1)).unwrap().packs_read, 1);
    assert_eq!(read(ReadData::Bytes(u64::MAX)).unwrap().packs_read, packs);
    for absurd in
        [ReadData::Part { part: 0, of: 3 }, ReadData::Part { part: 4, of: 3 }, ReadData::Percent(0.0)]
    {
        assert!(read(absurd).is_err(), "{absurd:?}");
    }
}

#[test]
fn a_store_that_goes_away_is_an_error_and_never_a_clean_report() {
    let contents = Sample::ours().contents();
    let reads =
        |store: &Fault<Memory>| store.log().iter().filter(|call| !call.operation.is_durable()).count() as u64;
    let store = Arc::new(Fault::new(Memory::from_contents(contents.clone())));
    let repository = open(store.clone(), Clock::system());
    let before = reads(&store);
    assert_sound(&repository);
    let all = reads(&store);
    for nth in before + 1..=all {
        let store = Arc::new(Fault::new(Memory::from_contents(contents.clone())));
        let repository = open(store.clone(), Clock::system());
        let operations = [Operation::Get, Operation::GetRange, Operation::Size, Operation::List];
        store.inject(Filter::of(&operations).only(nth - before), Effect::Fail(store::ErrorKind::Unavailable));
        let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
        let result = check(&repository, &options, Context::silent());
        assert!(matches!(&result, Err(Error::Store(_))), "read {nth} of {before} to {all}: {result:?}");
    }
}
