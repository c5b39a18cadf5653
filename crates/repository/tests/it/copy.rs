//! Copies between repositories with different keys, ours and restic's, whole at every moment.

use std::sync::Arc;

use repository::copy::{CopyOptions, copy};
use repository::format::BlobKind;
use repository::{Context, Error, FileKind, Repository};
use store::Memory;

use crate::sample::{
    Sample, assert_restic_finds_sound, assert_sound, at_every_crash_point, check_all, ids, later,
    listed_packs, open, pack_key,
};

fn copy_all(source: &Repository, target: &Repository) -> repository::Result<repository::copy::CopyReport> {
    let report = copy(source, target, &CopyOptions::default(), Context::silent())?;
    assert_eq!((ids(source, FileKind::Lock), ids(target, FileKind::Lock)), (vec![], vec![]));
    Ok(report)
}

#[test]
fn copies_whole_snapshots_once() {
    for (source, target) in [
        (Sample::ours(), Sample::new()),
        (Sample::restics(), Sample::new()),
        (Sample::ours(), Sample::restics()),
    ] {
        let (from, to) = (source.open(), target.open());
        let before = ids(&to, FileKind::Snapshot).len();
        let report = copy_all(&from, &to).unwrap();
        assert_eq!((report.copied.len(), report.known.len()), (2, 0));
        assert!(report.written.data_blobs > 5 && report.written.tree_blobs > 4);
        assert_eq!(ids(&to, FileKind::Snapshot).len(), before + 2);
        assert_sound(&to);
        target.restic(&["check", "--read-data"]);
        for (version, (old, new)) in [1, 2].into_iter().zip(report.copied.clone()) {
            let copied = to.find_snapshot(&new.to_hex(), &Default::default()).unwrap().snapshot;
            let original = from.find_snapshot(&old.to_hex(), &Default::default()).unwrap().snapshot;
            assert_eq!((copied.original, copied.parent), (Some(old), None));
            assert_eq!(
                (copied.tree, copied.time, copied.paths),
                (original.tree, original.time, original.paths)
            );
            // The paths in the snapshot are of the source.
            let directory = target.beside("restored");
            target.restic(&["restore", &new.to_hex(), "--target", directory.to_str().unwrap()]);
            source.write_source(version);
            let restored = directory.join(source.source().strip_prefix("/").unwrap());
            for file in ["changing", "same/noise", "same/deep/7.txt", "empty"] {
                let expected = std::fs::read(source.source().join(file)).unwrap();
                assert!(std::fs::read(restored.join(file)).unwrap() == expected, "{file}");
            }
            std::fs::remove_dir_all(directory).unwrap();
        }
        let again = copy_all(&from, &to).unwrap();
        assert_eq!((again.copied.len(), again.written.data_blobs), (0, 0));
        let known: Vec<_> = again.known;
        assert_eq!(known, report.copied);
    }
}

#[test]
fn restic_copies_ours_and_ours_copies_back() {
    let (source, target) = (Sample::ours(), Sample::restics());
    let from = source.path();
    let password = source.beside("password");
    std::fs::write(&password, crate::sample::PASSWORD).unwrap();
    let arguments =
        ["copy", "--from-repo", from.to_str().unwrap(), "--from-password-file", password.to_str().unwrap()];
    target.restic(&arguments);
    let repository = target.open();
    assert_sound(&repository);
    assert_eq!(ids(&repository, FileKind::Snapshot).len(), 4);
    // What came from there is known there.
    let report = copy_all(&repository, &source.open()).unwrap();
    assert_eq!((report.copied.len(), report.known.len()), (2, 2));
}

#[test]
fn refuses_a_copy_onto_itself() {
    let sample = Sample::ours();
    assert!(matches!(copy_all(&sample.open(), &sample.open()), Err(Error::Refused(_))));
}

#[test]
fn a_damaged_source_copies_no_snapshot_that_is_not_whole() {
    let (source, target) = (Sample::ours(), Sample::new());
    let (from, to) = (source.open(), target.open());
    let data = listed_packs(&from).into_iter().filter(|pack| pack.blobs[0].kind == BlobKind::Data);
    for pack in data {
        let before = from.store().get(&pack_key(&pack.id)).unwrap();
        source.change(&pack_key(&pack.id), |data| data[200] ^= 1);
        assert!(matches!(
            copy(&from, &to, &CopyOptions::default(), Context::silent()),
            Err(Error::Damaged { .. })
        ));
        source.delete(&pack_key(&pack.id));
        let error = copy(&from, &to, &CopyOptions::default(), Context::silent()).unwrap_err();
        assert!(error.is_isolated(), "{error}");
        from.store().put(&pack_key(&pack.id), before.into()).unwrap();
    }
    assert_eq!(ids(&to, FileKind::Snapshot), []);
    assert!(!check_all(&to).has_errors());
    copy_all(&from, &to).unwrap();
    assert_sound(&to);
}

#[test]
fn may_be_killed_at_any_moment() {
    let (source, target) = (Sample::ours(), Sample::new());
    let from = source.open();
    let clock = later(0);
    let points = at_every_crash_point(
        &target.contents(),
        &clock,
        |to| copy(&from, to, &CopyOptions::default(), Context::silent()).map(drop),
        |_, left| {
            assert_restic_finds_sound(&left);
            let survivor = open(Arc::new(Memory::from_contents(left)), clock.clone());
            assert_sound(&survivor);
            copy(&from, &survivor, &CopyOptions::default(), Context::silent()).unwrap();
            assert_sound(&survivor);
            assert_eq!(ids(&survivor, FileKind::Snapshot).len(), 2);
        },
    );
    assert!(points >= 7, "{points}");
}
