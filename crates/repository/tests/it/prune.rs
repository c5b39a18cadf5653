//! Pruning: what is needed stays, what is not goes in two phases, whatever happens in between.

use std::sync::Arc;
use std::time::Duration;

use repository::check::Finding;
use repository::forget::{ForgetOptions, plan_forget_named};
use repository::format::{BlobKind, IndexFile, IndexPack, Time};
use repository::prune::{MaxUnused, PruneOptions, PruneReport, plan_prune};
use repository::{Clock, Context, Error, FileKind, Id, Lock, LockOptions, Repository};
use store::fault::{Effect, Filter, Operation};
use store::{Fault, Memory};

use crate::sample::{
    Sample, assert_restic_finds_sound, assert_sound, at_every_crash_point, check_all, ids, later,
    listed_packs, noise, open, pack_key, write_index, write_pack,
};

/// Leaves no unneeded byte in place, so that small repositories show everything.
fn strict() -> PruneOptions {
    PruneOptions { max_unused: MaxUnused::Bytes(0), ..PruneOptions::default() }
}

fn at_once() -> PruneOptions {
    PruneOptions { keep_delete: Duration::ZERO, ..strict() }
}

fn prune(repository: &Repository, options: &PruneOptions) -> repository::Result<PruneReport> {
    let report = plan_prune(repository, options, Context::silent())?.execute(Context::silent())?;
    assert_eq!(ids(repository, FileKind::Lock), []);
    Ok(report)
}

fn forget_oldest(repository: &Repository) -> Id {
    let oldest = repository.snapshots().unwrap()[0].id;
    let plan =
        plan_forget_named(repository, &[oldest.to_hex()], &ForgetOptions::default(), Context::silent());
    plan.unwrap().execute(Context::silent()).unwrap();
    oldest
}

fn refused(result: repository::Result<PruneReport>) -> String {
    match result {
        Err(error @ (Error::Refused(_) | Error::Damaged { .. })) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("was not refused"),
    }
}

#[test]
fn gives_room_back_in_two_phases() {
    for sample in [Sample::ours(), Sample::restics()] {
        let repository = sample.open();
        let kept = repository.snapshots().unwrap()[1].id;
        forget_oldest(&repository);
        let before = ids(&repository, FileKind::Pack);
        let plan = plan_prune(&repository, &strict(), Context::silent()).unwrap();
        assert!(plan.summary.repack.packs + plan.summary.mark.packs > 0, "{:?}", plan.summary);
        assert!(plan.summary.unused_bytes > 1_000_000, "{:?}", plan.summary);
        assert_eq!(plan.summary.delete.packs, 0);
        plan.execute(Context::silent()).unwrap();
        // Nothing is gone yet.
        let between = ids(&repository, FileKind::Pack);
        assert!(before.iter().all(|pack| between.contains(pack)));
        let report = check_all(&repository);
        assert!(matches!(report.findings[..], [Finding::PacksMarked { .. }]), "{:?}", report.findings);
        sample.restic(&["check", "--read-data"]);
        // Too early for the second phase.
        let plan = plan_prune(&sample.open_later(23), &strict(), Context::silent()).unwrap();
        assert!(plan.is_empty() && plan.summary.waiting.packs > 0, "{:?}", plan.summary);
        drop(plan);
        let report = prune(&sample.open_later(25), &strict()).unwrap();
        assert!(report.summary.delete.packs > 0 && report.failed.is_empty());
        assert_eq!(check_all(&repository).findings, []);
        sample.restic(&["check", "--read-data"]);
        sample.assert_restores(kept, 2);
        let mut listed: Vec<Id> = listed_packs(&repository).iter().map(|pack| pack.id).collect();
        listed.sort_unstable();
        assert_eq!(listed, ids(&repository, FileKind::Pack));
        assert!(plan_prune(&sample.open_later(50), &strict(), Context::silent()).unwrap().is_empty());
    }
}

#[test]
fn deletes_at_once_when_asked() {
    let sample = Sample::ours();
    let repository = sample.open();
    forget_oldest(&repository);
    write_pack(&repository, &[(BlobKind::Data, b"orphan")]);
    let size = |repository: &Repository| {
        repository.list(FileKind::Pack).unwrap().iter().map(|(_, size)| size).sum::<u64>()
    };
    let before = size(&repository);
    let report = prune(&repository, &at_once()).unwrap();
    assert_eq!((report.summary.mark.packs, report.summary.orphans.packs), (0, 1));
    assert!(before - size(&repository) > 1_000_000);
    assert_eq!(check_all(&repository).findings, []);
    sample.restic(&["check", "--read-data"]);
}

#[test]
fn both_programs_prune_after_each_other() {
    let sample = Sample::ours();
    let repository = sample.open();
    let kept = repository.snapshots().unwrap()[1].id;
    forget_oldest(&repository);
    prune(&repository, &strict()).unwrap();
    sample.restic(&["prune", "--max-unused", "0"]);
    assert_eq!(check_all(&repository).findings, []);
    sample.assert_restores(kept, 2);
    sample.write_source(3);
    let third = sample.back_up(&repository);
    sample.restic(&["forget", &kept.to_hex()]);
    prune(&repository, &at_once()).unwrap();
    sample.restic(&["rebuild-index"]);
    sample.restic(&["check", "--read-data"]);
    assert_eq!(check_all(&repository).findings, []);
    sample.assert_restores(third, 3);
}

#[test]
fn orphans_wait_as_long_as_others() {
    let sample = Sample::ours();
    let repository = sample.open();
    let orphan = write_pack(&repository, &[(BlobKind::Data, b"orphan")]).id;
    let report = prune(&repository, &strict()).unwrap();
    assert_eq!((report.summary.orphans.packs, report.summary.mark.packs), (1, 1));
    assert!(ids(&repository, FileKind::Pack).contains(&orphan));
    prune(&sample.open_later(23), &strict()).unwrap();
    assert!(ids(&repository, FileKind::Pack).contains(&orphan));
    prune(&sample.open_later(25), &strict()).unwrap();
    assert!(!ids(&repository, FileKind::Pack).contains(&orphan));
    assert_eq!(check_all(&repository).findings, []);
}

#[test]
fn an_orphan_that_its_writer_indexes_after_all_stays() {
    let sample = Sample::ours();
    let repository = sample.open();
    let pack = write_pack(&repository, &[(BlobKind::Data, &noise(77, 1000))]);
    prune(&repository, &strict()).unwrap();
    // The writer, whose lock somebody removed, ends only now.
    write_index(&repository, vec![pack.clone()], vec![]);
    let later = sample.open_later(25);
    let report = prune(&later, &PruneOptions::default()).unwrap();
    assert_eq!(report.summary.delete.packs, 0);
    assert!(ids(&repository, FileKind::Pack).contains(&pack.id));
}

#[test]
fn a_marked_pack_that_is_needed_again_is_taken_back() {
    let sample = Sample::ours();
    let repository = sample.open();
    let oldest = repository.snapshots().unwrap()[0].clone();
    forget_oldest(&repository);
    prune(&repository, &strict()).unwrap();
    // A writer that began before the prune, and whose lock somebody removed, ends now.
    let again = repository.save_json(FileKind::Snapshot, &oldest.snapshot).unwrap();
    let report = check_all(&repository);
    assert!(report.has_errors() && report.affected[0].id == again);
    let taken_back = prune(&sample.open_later(48), &strict()).unwrap();
    assert!(taken_back.summary.recover.packs > 0, "{:?}", taken_back.summary);
    assert_sound(&repository);
    sample.restic(&["check", "--read-data"]);
    sample.assert_restores(again, 1);
}

#[test]
fn a_mark_of_the_future_deletes_nothing() {
    let sample = Sample::ours();
    let repository = sample.open();
    forget_oldest(&repository);
    // The clock was a year ahead when the packs were marked.
    prune(&sample.open_later(24 * 365), &strict()).unwrap();
    let marked = ids(&repository, FileKind::Pack);
    let plan = plan_prune(&sample.open_later(48), &strict(), Context::silent()).unwrap();
    assert!(matches!(plan.findings[0], Finding::PackMarkedInFuture { .. }), "{:?}", plan.findings);
    assert!(plan.is_empty());
    drop(plan);
    assert_eq!(ids(&repository, FileKind::Pack), marked);
    assert!(
        check_all(&repository)
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::PackMarkedInFuture { .. }))
    );
}

#[test]
fn one_copy_of_what_is_there_twice_stays() {
    let sample = Sample::ours();
    let repository = sample.open();
    // Everything again, in one pack of data that is whole and one of both kinds.
    let mut copies = Vec::new();
    for pack in listed_packs(&repository) {
        let bytes = repository.store().get(&pack_key(&pack.id)).unwrap();
        for blob in pack.blobs {
            let mut sealed = bytes[blob.offset as usize..][..blob.length as usize].to_vec();
            let mut opener = repository::Opener::new(repository.key().clone());
            copies.push((blob.kind, opener.open(&blob.into(), &mut sealed).unwrap().to_vec()));
        }
    }
    let copies: Vec<(BlobKind, &[u8])> = copies.iter().map(|(kind, bytes)| (*kind, &bytes[..])).collect();
    let mixed = write_pack(&repository, &copies);
    write_index(&repository, vec![mixed.clone()], vec![]);
    assert!(check_all(&repository).findings.contains(&Finding::PackMixed { pack: mixed.id }));
    let summary = prune(&repository, &at_once()).unwrap().summary;
    // The originals are whole and of one kind: the mixture goes, and nothing is rewritten.
    assert_eq!((summary.delete.packs, summary.repack.packs), (1, 0), "{summary:?}");
    assert!(summary.unused_bytes > 1_000_000, "{summary:?}");
    assert_eq!(check_all(&repository).findings, []);
    sample.restic(&["check", "--read-data"]);
    sample.assert_restores(repository.snapshots().unwrap()[0].id, 1);
}

#[test]
fn uncompressed_trees_are_compressed() {
    let sample = Sample::ours();
    let repository = sample.open();
    let tree = br#"{"nodes":[]}"#;
    let blob = repository.key().seal(tree);
    let listed = repository::format::PackedBlob {
        kind: BlobKind::Tree,
        id: Id::of(tree),
        offset: 0,
        length: blob.len() as u32,
        uncompressed_length: 0,
    };
    let pack = crate::sample::seal_pack(&repository, blob, vec![listed]);
    write_index(&repository, vec![pack], vec![]);
    let mut snapshot = repository.snapshots().unwrap()[0].snapshot.clone();
    snapshot.tree = listed.id;
    repository.save_json(FileKind::Snapshot, &snapshot).unwrap();
    prune(&repository, &at_once()).unwrap();
    let packs = listed_packs(&repository);
    let found = packs.iter().flat_map(|pack| &pack.blobs).find(|blob| blob.id == listed.id).unwrap();
    assert_eq!(found.uncompressed_length, tree.len() as u32);
    assert_eq!(check_all(&repository).findings, []);
}

#[test]
fn small_packs_are_merged() {
    let sample = Sample::ours();
    let repository = sample.open();
    let source = sample.source();
    for number in 0..12u64 {
        std::fs::write(source.join("changing"), noise(1000 + number, 50_000)).unwrap();
        sample.back_up(&repository);
    }
    let before = ids(&repository, FileKind::Pack).len();
    let report = prune(&repository, &PruneOptions { keep_delete: Duration::ZERO, ..PruneOptions::default() });
    let after = ids(&repository, FileKind::Pack).len();
    assert!(before > 24 && after <= 4, "{before} packs became {after}: {report:?}");
    assert_eq!(ids(&repository, FileKind::Index).len(), 1);
    assert_sound(&repository);
}

#[test]
fn refuses_where_it_would_make_a_loss_final() {
    let sample = Sample::ours();
    let repository = sample.open();
    let contents = sample.contents();
    let restore = || {
        for (key, data) in &contents {
            repository.store().put(key, data.clone()).unwrap();
        }
    };
    let snapshots = ids(&repository, FileKind::Snapshot);
    // No snapshot: once somebody's listing showed none, and restic deleted everything (restic#4612).
    snapshots.iter().for_each(|id| sample.delete(&FileKind::Snapshot.object(id)));
    assert!(refused(prune(&repository, &at_once())).contains("no snapshot"));
    restore();
    sample.change(&FileKind::Snapshot.object(&snapshots[0]), |data| data[7] ^= 1);
    assert!(refused(prune(&repository, &at_once())).contains("repair the snapshots first"));
    restore();
    for id in ids(&repository, FileKind::Index) {
        sample.delete(&FileKind::Index.object(&id));
        assert!(refused(prune(&repository, &at_once())).contains("nothing is pruned"));
        restore();
        sample.change(&FileKind::Index.object(&id), |data| data[7] ^= 1);
        assert!(refused(prune(&repository, &at_once())).contains("repair the index first"));
        restore();
    }
    for id in ids(&repository, FileKind::Pack) {
        sample.delete(&pack_key(&id));
        let result = prune(&repository, &at_once());
        let trees_lost =
            matches!(&result, Err(Error::Store(error)) if error.kind == store::ErrorKind::NotFound);
        assert!(trees_lost || refused(result).contains("nothing is pruned"));
        restore();
        sample.change(&pack_key(&id), |data| data.truncate(data.len() - 9));
        assert!(refused(prune(&repository, &at_once())).contains("nothing is pruned"));
        restore();
    }
    assert_eq!(sample.contents().len(), contents.len(), "nothing was written, nothing removed");
    assert_sound(&repository);
}

#[test]
fn a_damaged_blob_stops_it_before_anything_is_removed() {
    let sample = Sample::ours();
    let repository = sample.open();
    forget_oldest(&repository);
    let before = sample.contents();
    for pack in listed_packs(&repository) {
        for blob in &pack.blobs {
            sample.change(&pack_key(&pack.id), |data| data[blob.offset as usize + 20] ^= 1);
        }
    }
    assert!(prune(&repository, &at_once()).is_err());
    let after = sample.contents();
    assert!(before.keys().all(|key| after.contains_key(key)));
}

#[test]
fn may_be_killed_at_any_moment() {
    let sample = Sample::ours();
    forget_oldest(&sample.open());
    // Marked packs whose time is up, packs to repack, and an orphan, so that every kind of write occurs.
    prune(&sample.open(), &strict()).unwrap();
    sample.write_source(3);
    let repository = sample.open();
    let third = sample.back_up(&repository);
    forget_oldest(&repository);
    write_pack(&repository, &[(BlobKind::Data, b"orphan")]);
    let contents = sample.contents();
    let clock = later(25);
    let run = |options: PruneOptions| {
        move |repository: &Repository| {
            let report = plan_prune(repository, &options, Context::silent())?.execute(Context::silent())?;
            match report.failed.into_iter().next() {
                Some((_, error)) => Err(error),
                None => Ok(()),
            }
        }
    };
    for options in [strict(), at_once()] {
        let run = run(options);
        let points = at_every_crash_point(&contents, &clock, run, |point, left| {
            assert_restic_finds_sound(&left);
            let survivor = open(Arc::new(Memory::from_contents(left)), clock.clone());
            assert_sound(&survivor);
            assert_eq!(ids(&survivor, FileKind::Snapshot), [third], "point {point}");
            run(&survivor).unwrap();
            assert_sound(&survivor);
        });
        assert!(points >= 8, "{points} points");
    }
}

#[test]
fn a_dropped_plan_changes_nothing() {
    let sample = Sample::ours();
    let repository = sample.open();
    forget_oldest(&repository);
    let before = sample.contents();
    drop(plan_prune(&repository, &at_once(), Context::silent()).unwrap());
    assert_eq!(sample.contents(), before);
}

#[test]
fn marks_without_a_time_begin_to_wait_now() {
    let sample = Sample::ours();
    let repository = sample.open();
    let pack = write_pack(&repository, &[(BlobKind::Data, b"unneeded")]);
    write_index(&repository, vec![], vec![IndexPack { time: None, ..pack.clone() }]);
    let moment: Time = Clock::system().now().into();
    prune(&repository, &strict()).unwrap();
    let files = ids(&repository, FileKind::Index);
    let marked = files
        .iter()
        .flat_map(|id| repository.load_json::<IndexFile>(FileKind::Index, id).unwrap().packs_to_delete)
        .find(|marked| marked.id == pack.id)
        .unwrap();
    assert!(marked.time.unwrap() >= moment && marked.blobs == pack.blobs);
}

#[test]
fn writers_and_prunes_keep_each_other_out() {
    let sample = Sample::ours();
    let repository = sample.open();
    let writer = Lock::shared(&repository, LockOptions::default()).unwrap();
    assert!(matches!(plan_prune(&sample.open(), &strict(), Context::silent()), Err(Error::Locked { .. })));
    // restic's prune must refuse as well, and say why.
    let output = sample.try_restic(&["prune"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("locked"), "{output:?}");
    writer.release().unwrap();
    let plan = plan_prune(&repository, &strict(), Context::silent()).unwrap();
    assert!(matches!(Lock::shared(&sample.open(), LockOptions::default()), Err(Error::Locked { .. })));
    let source = sample.source();
    let output = sample.try_restic(&["backup", source.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("locked"), "{output:?}");
    plan.execute(Context::silent()).unwrap();
    sample.restic(&["backup", source.to_str().unwrap()]);
    assert_sound(&repository);
}

#[test]
fn a_store_that_goes_away_or_is_full_loses_nothing() {
    let sample = Sample::ours();
    forget_oldest(&sample.open());
    let contents = sample.contents();
    type Inject<'a> = &'a dyn Fn(&Fault<Memory>);
    let faults: [(&str, Inject); 3] = [
        // Room for the lock; how much is rewritten depends on which blobs share packs, which is chance.
        ("full", &|store| store.fill_after(1_000)),
        ("away for reading", &|store| {
            // The seven trees can still be read, the packs to be rewritten no more.
            let reads = Filter::of(&[Operation::GetRange]).from(8);
            store.inject(reads, Effect::Fail(store::ErrorKind::Unavailable));
        }),
        ("loses an acknowledgement", &|store| {
            store.inject(Filter::of(&[Operation::Put]).at("index").first(1), Effect::LoseAcknowledgement);
        }),
    ];
    for (what, inject) in faults {
        let store = Arc::new(Fault::new(Memory::from_contents(contents.clone())));
        let repository = open(store.clone(), Clock::system());
        inject(&store);
        let result = prune(&repository, &at_once());
        assert!(result.is_err(), "{what}");
        store.heal();
        let survivor = open(Arc::new(store.inner().snapshot()), Clock::system());
        assert_sound(&survivor);
        prune(&survivor, &at_once()).unwrap();
        assert_sound(&survivor);
    }
}

fn records(repository: &Repository, directory: &str) -> Vec<String> {
    repository.sidecar_list(directory).unwrap().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn records_of_points_go_with_their_snapshots_a_day_later() {
    let sample = Sample::ours();
    let repository = sample.open();
    let all: Vec<Id> = repository.snapshots().unwrap().iter().map(|entry| entry.id).collect();
    for id in &all {
        repository.sidecar_create(&format!("points/{id}"), b"{}").unwrap();
    }
    prune(&repository, &strict()).unwrap();
    assert_eq!(records(&repository, "points").len(), 2, "both snapshots are there");
    assert_eq!(records(&repository, "forgotten"), Vec::<String>::new());
    let snapshot = repository.store().get(&FileKind::Snapshot.object(&all[0])).unwrap();
    let gone = forget_oldest(&repository);
    let report = prune(&repository, &strict()).unwrap();
    assert_eq!((report.summary.points_marked, report.summary.points_deleted), (1, 0));
    assert_eq!(records(&repository, "points").len(), 2, "it is only marked");
    assert_eq!(records(&repository, "forgotten"), [format!("forgotten/{gone}")]);
    prune(&sample.open_later(23), &strict()).unwrap();
    assert_eq!(records(&repository, "points").len(), 2, "a day is not over");
    // The snapshot is brought back: its record is as good as before.
    repository.store().put(&FileKind::Snapshot.object(&gone), snapshot.into()).unwrap();
    prune(&sample.open_later(25), &strict()).unwrap();
    assert_eq!(records(&repository, "points").len(), 2);
    assert_eq!(records(&repository, "forgotten"), Vec::<String>::new());
    forget_oldest(&repository);
    prune(&sample.open_later(26), &strict()).unwrap();
    let report = prune(&sample.open_later(51), &strict()).unwrap();
    assert_eq!(report.summary.points_deleted, 1);
    assert_eq!(records(&repository, "points"), [format!("points/{}", all[1])]);
    assert_eq!(records(&repository, "forgotten"), Vec::<String>::new());
}

#[test]
fn records_of_points_go_at_once_when_packs_do() {
    let sample = Sample::ours();
    let repository = sample.open();
    let oldest = repository.snapshots().unwrap()[0].id;
    repository.sidecar_create(&format!("points/{oldest}"), b"{}").unwrap();
    forget_oldest(&repository);
    prune(&repository, &at_once()).unwrap();
    assert_eq!(records(&repository, ""), Vec::<String>::new());
}
