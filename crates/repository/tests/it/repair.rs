//! Repairs of really damaged repositories: what can be read stays, what is lost is named, and restic agrees.

use std::path::PathBuf;
use std::sync::Arc;

use repository::check::{Finding, Remedy};
use repository::format::{BlobKind, IndexPack};
use repository::repair::{
    HeaderRead, LossKind, RepairIndexOptions, RepairSnapshotsOptions, plan_repair_index, plan_repair_packs,
    plan_repair_snapshots,
};
use repository::{Context, Error, FileKind, Id, LockOptions, Repository};
use store::Memory;

use crate::sample::{
    Sample, assert_restic_finds_sound, assert_sound, at_every_crash_point, check_all, ids, in_snapshot,
    later, listed_packs, open, pack_key, write_index, write_pack,
};

fn repair_index(repository: &Repository) -> repository::Result<()> {
    let plan = plan_repair_index(repository, &RepairIndexOptions::default(), Context::silent())?;
    plan.execute(Context::silent()).map(drop)
}

fn repair_packs(repository: &Repository, packs: &[Id]) -> repository::Result<usize> {
    let plan = plan_repair_packs(repository, packs, LockOptions::default(), Context::silent())?;
    let lost = plan.lost();
    let report = plan.execute(Context::silent())?;
    report.failed.into_iter().next().map_or(Ok(lost), |(_, error)| Err(error))
}

fn forgetting() -> RepairSnapshotsOptions {
    RepairSnapshotsOptions { forget: true, ..RepairSnapshotsOptions::default() }
}

fn repair_snapshots(repository: &Repository, options: &RepairSnapshotsOptions) -> repository::Result<()> {
    let plan = plan_repair_snapshots(repository, options, Context::silent())?;
    let report = plan.execute(Context::silent())?;
    report.failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

#[test]
fn an_index_is_rebuilt_from_the_packs() {
    for sample in [Sample::ours(), Sample::restics()] {
        let repository = sample.open();
        let files = ids(&repository, FileKind::Index);
        let contents = sample.contents();
        let damages: [(&str, &dyn Fn()); 3] = [
            ("one lost", &|| sample.delete(&FileKind::Index.object(&files[0]))),
            ("all lost", &|| files.iter().for_each(|id| sample.delete(&FileKind::Index.object(id)))),
            ("one damaged", &|| sample.change(&FileKind::Index.object(&files[0]), |data| data[40] ^= 8)),
        ];
        for (what, damage) in damages {
            damage();
            assert!(check_all(&repository).has_errors(), "{what}");
            let plan = plan_repair_index(&repository, &RepairIndexOptions::default(), Context::silent());
            let plan = plan.unwrap();
            assert_eq!(plan.unusable.len(), usize::from(what == "one damaged"));
            assert!(!plan.read.is_empty() && plan.missing.is_empty());
            assert!(plan.read.iter().all(|(_, read)| matches!(read, HeaderRead::Blobs(_))));
            plan.execute(Context::silent()).unwrap();
            assert_eq!(check_all(&repository).findings, [], "{what}");
            sample.restic(&["check", "--read-data"]);
            let again = plan_repair_index(&repository, &RepairIndexOptions::default(), Context::silent());
            assert!(again.unwrap().is_empty(), "{what}");
            for id in ids(&repository, FileKind::Index) {
                sample.delete(&FileKind::Index.object(&id));
            }
            for id in &files {
                let key = FileKind::Index.object(id);
                repository.store().put(&key, contents[&key].clone()).unwrap();
            }
        }
        let all = RepairIndexOptions { read_all: true, ..RepairIndexOptions::default() };
        let plan = plan_repair_index(&repository, &all, Context::silent()).unwrap();
        assert_eq!(plan.read.len(), ids(&repository, FileKind::Pack).len());
        plan.execute(Context::silent()).unwrap();
        assert_eq!(check_all(&repository).findings, []);
    }
}

#[test]
fn an_index_that_lies_is_put_right() {
    let sample = Sample::ours();
    let repository = sample.open();
    let honest = write_pack(&repository, &[(BlobKind::Data, b"one blob"), (BlobKind::Data, b"another")]);
    let gone = IndexPack { id: Id::of(b"gone"), ..honest.clone() };
    let mut short = honest.clone();
    short.blobs.truncate(1);
    let mut overlapping = honest.clone();
    overlapping.blobs[1].offset -= 1;
    for lie in [vec![gone.clone()], vec![short.clone()], vec![overlapping], vec![short, honest.clone(), gone]]
    {
        write_index(&repository, lie, vec![]);
        repair_index(&repository).unwrap();
        let listed = listed_packs(&repository);
        assert_eq!(listed.iter().filter(|pack| pack.id == honest.id).collect::<Vec<_>>(), [&honest]);
        assert_sound(&repository);
    }
}

#[test]
fn marks_survive_a_repair_of_the_index() {
    let sample = Sample::ours();
    let repository = sample.open();
    let time = Some(repository.now());
    let marked = IndexPack { time, ..write_pack(&repository, &[(BlobKind::Data, b"unneeded")]) };
    let gone = IndexPack { id: Id::of(b"gone"), time, blobs: vec![] };
    write_index(&repository, vec![], vec![marked, gone]);
    let all = RepairIndexOptions { read_all: true, ..RepairIndexOptions::default() };
    plan_repair_index(&repository, &all, Context::silent()).unwrap().execute(Context::silent()).unwrap();
    let findings = check_all(&repository).findings;
    assert!(matches!(findings[..], [Finding::PacksMarked { packs: 1, .. }]), "{findings:?}");
}

#[test]
fn a_pack_without_a_readable_header_loses_nothing() {
    let sample = Sample::ours();
    let repository = sample.open();
    for IndexPack { id, blobs, .. } in listed_packs(&repository) {
        sample.change(&pack_key(&id), |data| {
            let place = data.len() - 30;
            data[place] ^= 1;
        });
        // Repairing the index first must not make it worse.
        repair_index(&repository).unwrap();
        let damaged = check_all(&repository).damaged_packs();
        assert_eq!(damaged, [id]);
        let plan = plan_repair_packs(&repository, &damaged, LockOptions::default(), Context::silent());
        let plan = plan.unwrap();
        assert_eq!((plan.packs[0].readable.len(), plan.lost()), (blobs.len(), 0));
        plan.execute(Context::silent()).unwrap();
        assert_eq!(check_all(&repository).findings, []);
    }
    sample.restic(&["check", "--read-data"]);
}

#[test]
fn a_truncated_pack_gives_what_is_left_of_it() {
    let sample = Sample::ours();
    let repository = sample.open();
    let pack = listed_packs(&repository).into_iter().find(|pack| pack.blobs.len() > 5).unwrap();
    let cut = pack.blobs[3].offset + 10;
    sample.change(&pack_key(&pack.id), |data| data.truncate(cut as usize));
    repair_index(&repository).unwrap();
    let lost = repair_packs(&repository, &[pack.id]).unwrap();
    assert_eq!(lost, pack.blobs.len() - 3);
    let listed = listed_packs(&repository);
    let still = |id: &Id| listed.iter().flat_map(|pack| &pack.blobs).any(|blob| blob.id == *id);
    assert!(pack.blobs[..3].iter().all(|blob| still(&blob.id)));
    repair_snapshots(&repository, &forgetting()).unwrap();
    assert_sound(&repository);
}

/// The data pack and the blob in it that `file` of the latest snapshot has as its `number`th.
fn locate(repository: &Repository, file: &std::path::Path, number: usize) -> (Id, u32, u64) {
    let index = repository::Index::load(repository, Context::silent()).unwrap();
    let reader = repository::BlobReader::new(repository, &index);
    let tree = repository.find_snapshot("latest", &Default::default()).unwrap().snapshot.tree;
    let mut found = None;
    repository::walk_in_order(&reader, &tree, Context::silent(), &mut |path, met| {
        if let repository::Met::Node(node) = met
            && path == file
        {
            found = index.find(BlobKind::Data, &node.content.as_ref().unwrap()[number]);
        }
        Ok(repository::Descend::Yes)
    })
    .unwrap();
    let found = found.unwrap();
    (index.pack_id(found.pack), found.blob.offset, u64::from(found.blob.plain_length()))
}

#[test]
fn a_damaged_blob_costs_its_own_files_and_no_other() {
    let sample = Sample::ours();
    let repository = sample.open();
    let second = repository.snapshots().unwrap()[1].id;
    let whole = in_snapshot(&sample, "only-2/file");
    let part = in_snapshot(&sample, "changing");
    let (part_pack, part_offset, part_bytes) = locate(&repository, &part, 1);
    sample.change(&pack_key(&part_pack), |data| data[part_offset as usize + 99] ^= 1);
    let (whole_pack, whole_offset, _) = locate(&repository, &whole, 0);
    sample.change(&pack_key(&whole_pack), |data| data[whole_offset as usize + 99] ^= 1);

    let report = check_all(&repository);
    assert_eq!(report.remedies(), [Remedy::RepairPacks]);
    assert_eq!(repair_packs(&repository, &report.damaged_packs()).unwrap(), 2);
    let plan = plan_repair_snapshots(&repository, &forgetting(), Context::silent()).unwrap();
    let [repair] = &plan.repairs[..] else { panic!("{:?}", plan.repairs) };
    assert_eq!(repair.entry.id, second);
    let losses: Vec<_> = repair.losses.iter().map(|loss| (loss.path.clone(), loss.kind.clone())).collect();
    let parts = LossKind::Parts {
        blobs_lost: 1,
        bytes_before: 4_000_000,
        bytes_left: 4_000_000 - part_bytes,
        kept_as: PathBuf::from("changing.repaired"),
    };
    assert_eq!(losses, [(part, parts), (whole, LossKind::File)]);
    let report = plan.execute(Context::silent()).unwrap();
    let [(old, new)] = report.rewritten[..] else { panic!("{report:?}") };
    assert_eq!((old, &report.removed[..]), (second, &[second][..]));
    assert_sound(&repository);
    sample.restic(&["check", "--read-data"]);
    let snapshot = repository.find_snapshot(&new.to_hex(), &Default::default()).unwrap().snapshot;
    assert_eq!((snapshot.original, &snapshot.tags[..]), (Some(second), &["repaired".to_owned()][..]));

    // Everything else is as it was, and the next backup brings back what was lost.
    let target = sample.beside("restored");
    sample.restic(&["restore", &new.to_hex(), "--target", target.to_str().unwrap()]);
    let restored = target.join(sample.source().strip_prefix("/").unwrap());
    assert!(!restored.join("changing").exists() && !restored.join("only-2/file").exists());
    let left = std::fs::read(restored.join("changing.repaired")).unwrap();
    let source = std::fs::read(sample.source().join("changing")).unwrap();
    let lost_at = left.iter().zip(&source).position(|(a, b)| a != b).unwrap();
    assert_eq!([&source[..lost_at], &source[lost_at + part_bytes as usize..]].concat(), left);
    assert_eq!(std::fs::read(restored.join("same/noise")).unwrap().len(), 700_000);
    let again = sample.back_up(&repository);
    sample.assert_restores(again, 2);
}

#[test]
fn a_lost_directory_is_named_and_the_rest_kept() {
    let sample = Sample::ours();
    let repository = sample.open();
    let tree_packs: Vec<IndexPack> =
        listed_packs(&repository).into_iter().filter(|pack| pack.blobs[0].kind == BlobKind::Tree).collect();
    for pack in &tree_packs {
        sample.delete(&pack_key(&pack.id));
    }
    // The root is gone with the rest: nothing is left of any snapshot.
    repair_index(&repository).unwrap();
    let plan = plan_repair_snapshots(&repository, &Default::default(), Context::silent()).unwrap();
    assert_eq!(plan.repairs.len(), 2);
    assert!(plan.repairs.iter().all(|repair| repair.tree.is_none()
        && matches!(&repair.losses[..], [loss] if matches!(loss.kind, LossKind::Directory(_)))));
    let report = plan.execute(Context::silent()).unwrap();
    assert!(
        report.rewritten.is_empty() && report.removed.is_empty(),
        "nothing goes that was not to be forgotten"
    );
    assert_eq!(ids(&repository, FileKind::Snapshot).len(), 2);

    let sample = Sample::ours();
    let repository = sample.open();
    sample.back_up(&repository);
    let index = repository::Index::load(&repository, Context::silent()).unwrap();
    let reader = repository::BlobReader::new(&repository, &index);
    let latest = repository.find_snapshot("latest", &Default::default()).unwrap();
    let lost = in_snapshot(&sample, "same/deep");
    let tree = repository::find_directory(&reader, latest.snapshot.tree, &lost).unwrap();
    let location = index.find(BlobKind::Tree, &tree).unwrap();
    let pack = index.pack_id(location.pack);
    drop(reader);
    sample.change(&pack_key(&pack), |data| data[location.blob.offset as usize + 20] ^= 1);
    assert_eq!(repair_packs(&repository, &[pack]).unwrap(), 1);
    let plan = plan_repair_snapshots(&repository, &forgetting(), Context::silent()).unwrap();
    assert_eq!(plan.repairs.len(), 2, "two snapshots have the directory as it is");
    for repair in &plan.repairs {
        assert_eq!(repair.losses.iter().map(|loss| &loss.path).collect::<Vec<_>>(), [&lost]);
    }
    plan.execute(Context::silent()).unwrap();
    assert_sound(&repository);
    sample.restic(&["check", "--read-data"]);
}

#[test]
fn unreadable_snapshots_go_only_when_asked() {
    let sample = Sample::ours();
    let repository = sample.open();
    let id = ids(&repository, FileKind::Snapshot)[0];
    sample.change(&FileKind::Snapshot.object(&id), Vec::clear);
    repair_snapshots(&repository, &RepairSnapshotsOptions::default()).unwrap();
    assert_eq!(ids(&repository, FileKind::Snapshot).len(), 2);
    repair_snapshots(&repository, &forgetting()).unwrap();
    assert_eq!(ids(&repository, FileKind::Snapshot).len(), 1);
}

#[test]
fn a_missing_pack_cannot_be_salvaged() {
    let sample = Sample::ours();
    let repository = sample.open();
    let pack = ids(&repository, FileKind::Pack)[0];
    sample.delete(&pack_key(&pack));
    let result = repair_packs(&repository, &[pack]);
    assert!(matches!(&result, Err(Error::Refused(why)) if why.contains("repair the index")), "{result:?}");
    assert_eq!(ids(&repository, FileKind::Lock), []);
}

#[test]
fn repairs_may_be_killed_at_any_moment() {
    let sample = Sample::ours();
    let repository = sample.open();
    let sound = sample.contents();
    let index = ids(&repository, FileKind::Index)[0];
    sample.delete(&FileKind::Index.object(&index));
    let clock = later(0);
    let points = at_every_crash_point(&sample.contents(), &clock, repair_index, |_, left| {
        let survivor = open(Arc::new(Memory::from_contents(left.clone())), clock.clone());
        repair_index(&survivor).unwrap();
        assert_sound(&survivor);
        // Whatever was lost is lost in restic's eyes too until the repair is done, but no pack or snapshot is.
        let kept = |key: &&String| key.starts_with("data/") || key.starts_with("snapshots/");
        assert!(sound.keys().filter(kept).all(|key| left.contains_key(key)));
    });
    assert!(points >= 4, "{points}");

    let sample = Sample::from_contents(&sound);
    let repository = sample.open();
    let pack = listed_packs(&repository)
        .into_iter()
        .find(|pack| pack.blobs[0].kind == BlobKind::Data && pack.blobs.len() > 1)
        .unwrap();
    sample.change(&pack_key(&pack.id), |data| data[100] ^= 1);
    let damaged = sample.contents();
    let salvage = |repository: &Repository| {
        // Killed after the pack was taken out of the index, a repetition finds it in none.
        repair_packs(repository, &[pack.id]).map(drop)
    };
    let points = at_every_crash_point(&damaged, &clock, salvage, |_, left| {
        let survivor = open(Arc::new(Memory::from_contents(left)), clock.clone());
        if ids(&survivor, FileKind::Pack).contains(&pack.id) {
            repair_packs(&survivor, &[pack.id]).unwrap();
        }
        let listed = listed_packs(&survivor);
        let blobs: Vec<Id> = listed.iter().flat_map(|pack| &pack.blobs).map(|blob| blob.id).collect();
        assert!(pack.blobs[1..].iter().all(|blob| blobs.contains(&blob.id)), "what could be read is there");
        repair_snapshots(&survivor, &forgetting()).unwrap();
        assert_sound(&survivor);
    });
    assert!(points >= 6, "{points}");

    repair_packs(&repository, &[pack.id]).unwrap();
    let mend = |repository: &Repository| repair_snapshots(repository, &forgetting());
    let points = at_every_crash_point(&sample.contents(), &clock, mend, |_, left| {
        let store = Arc::new(Memory::from_contents(left));
        let survivor = open(store.clone(), clock.clone());
        mend(&survivor).unwrap();
        assert_sound(&survivor);
        assert_restic_finds_sound(&store.contents());
    });
    assert!(points >= 6, "{points}");
}
