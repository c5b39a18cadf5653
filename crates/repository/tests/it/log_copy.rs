//! Log archives copied to another repository: the same can be restored there, whatever either has been through.

use std::sync::Arc;

use repository::log::{Appended, Archive, CopyReport, Error, Piece, Scope, Target, components};
use repository::{Clock, Context};
use store::{Fault, Memory, Store};

use crate::log_archive::{LINEAGE, append, base, bytes_of, everything, piece, replay};
use crate::sample::open;
use crate::support::engine::in_memory;

fn archive_in_memory() -> (Arc<Memory>, Archive) {
    let (memory, repository) = in_memory();
    (memory, Archive::new(&repository, "Orders").unwrap())
}

fn copy(source: &Archive, target: &Archive) -> CopyReport {
    source.copy_to(target, Context::silent()).unwrap()
}

/// What a listing says of each lineage: its runs, with the chain's values at their ends, and its files.
fn told(archive: &Archive) -> Vec<String> {
    let catalogue = archive.catalogue().unwrap();
    let of = |(name, lineage): (&str, &repository::log::Lineage)| {
        let ends = lineage.runs.iter().map(|run| {
            let (head, tail) = (lineage.segments[run.segments.start], lineage.segments[run.segments.end - 1]);
            format!("{} {} {} {} {:?}", head.first, head.before, tail.last, tail.after, run.until_ms)
        });
        let files: Vec<&str> = lineage.files.iter().map(|(file, _)| &file[..]).collect();
        format!("{name}: {:?} {:?} {files:?}", ends.collect::<Vec<_>>(), lineage.forks)
    };
    catalogue.lineages().filter(|(_, lineage)| !lineage.segments.is_empty()).map(of).collect()
}

#[test]
fn a_copy_has_what_the_source_has_and_goes_on_from_there() {
    let ((_, source), (_, target)) = (archive_in_memory(), archive_in_memory());
    let two = source.appender("a-second").unwrap();
    let one = source.appender(LINEAGE).unwrap();
    (0..6).for_each(|number| _ = append(&one, number, number + 1).unwrap());
    source.put_file(LINEAGE, "00000002.history", b"forked").unwrap();
    assert_eq!(copy(&source, &target), CopyReport { segments: 6, files: 1, ..copy_of_bytes(&source, 0) });
    assert_eq!(told(&source), told(&target));
    assert_eq!(components(target.repository()).unwrap().into_iter().collect::<Vec<_>>(), ["Orders"]);
    // Nothing to do is nothing written.
    let before = target.repository().sidecar_list("log").unwrap();
    assert_eq!(copy(&source, &target), CopyReport::default());
    assert_eq!(target.repository().sidecar_list("log").unwrap(), before);
    // A branch, a gap, objects that became one, and an older part that the source gave up.
    drop(two);
    source.fork("branch", LINEAGE, 4).unwrap();
    let branch = source.appender("branch").unwrap();
    branch.append(&piece(4, 9, b"branch")).unwrap();
    one.append_after_gap(&piece(10, 12, &bytes_of(10, 12))).unwrap();
    (12..20).for_each(|number| _ = append(&one, number, number + 1).unwrap());
    assert!(source.compact(LINEAGE, &everything(), Context::silent()).unwrap().removed > 10);
    assert_eq!(copy(&source, &target).segments, 2);
    assert_eq!(told(&source), told(&target));
    assert!(replay(&target, &[base(LINEAGE, 10, 11)], LINEAGE, Target::End) == bytes_of(10, 20));
    assert_eq!(target.verify(Scope::New, Context::silent()).unwrap().findings.len(), 1, "the gap");
    // What fills the gap at the source fills it in the copy.
    one.append_after_gap(&piece(7, 10, &bytes_of(7, 10))).unwrap();
    append(&one, 6, 7).unwrap();
    copy(&source, &target);
    assert_eq!(told(&source), told(&target));
}

fn copy_of_bytes(source: &Archive, lineage: usize) -> CopyReport {
    let catalogue = source.catalogue().unwrap();
    let (_, lineage) = catalogue.lineages().nth(lineage).unwrap();
    let bytes = lineage.segments.iter().map(|segment| u64::from(segment.size)).sum();
    CopyReport { bytes, ..CopyReport::default() }
}

#[test]
fn a_copy_begins_where_the_source_begins() {
    let ((memory, source), (_, target)) = (archive_in_memory(), archive_in_memory());
    let one = source.appender(LINEAGE).unwrap();
    (0..9).for_each(|number| _ = append(&one, number, number + 1).unwrap());
    for segment in &source.catalogue().unwrap().get(LINEAGE).unwrap().segments[..3] {
        memory.delete(&format!("lifeboat/log/_orders/{LINEAGE}/{}", segment.file_name())).unwrap();
    }
    assert_eq!(copy(&source, &target).segments, 6);
    assert_eq!(told(&source), told(&target));
    // And what was lost in the middle there is put into the copy once it is mended, too.
    let lost = source.catalogue().unwrap().get(LINEAGE).unwrap().segments[2];
    let name = format!("lifeboat/log/_orders/{LINEAGE}/{}", lost.file_name());
    let bytes = memory.get(&name).unwrap();
    memory.delete(&name).unwrap();
    let (_, other) = archive_in_memory();
    copy(&source, &other);
    assert_eq!(told(&source), told(&other));
    memory.put(&name, bytes.into()).unwrap();
    copy(&source, &other);
    assert_eq!(told(&target), told(&other));
}

#[test]
fn a_copy_refuses_what_contradicts_and_what_is_damaged() {
    let ((memory, source), (_, target)) = (archive_in_memory(), archive_in_memory());
    for (lineage, content) in [("a", &b"1"[..]), ("b", b"2")] {
        let appender = source.appender(lineage).unwrap();
        (0..3).for_each(|at| _ = appender.append(&piece(at, at + 1, content)).unwrap());
    }
    let damaged = source.catalogue().unwrap().get("a").unwrap().segments[1];
    let name = format!("lifeboat/log/_orders/a/{}", damaged.file_name());
    let sound = memory.get(&name).unwrap();
    memory.put(&name, vec![0; sound.len()].into()).unwrap();
    let error = source.copy_to(&target, Context::silent()).unwrap_err();
    assert!(matches!(&error, Error::Damaged { object, .. } if *object == name), "{error}");
    let runs = |lineage| target.lineage(lineage).unwrap().runs.iter().map(|run| run.last).collect::<Vec<_>>();
    assert_eq!((runs("a"), runs("b")), (vec![1], vec![3]), "the other lineage is copied");
    memory.put(&name, sound.into()).unwrap();
    copy(&source, &target);
    assert_eq!(told(&source), told(&target));
    // Both went their own way.
    let (here, there) = (source.appender("a").unwrap(), target.appender("a").unwrap());
    assert_eq!(there.append(&piece(3, 4, b"there")).unwrap(), Appended::Written);
    here.append(&piece(3, 6, b"here")).unwrap();
    let refused = source.copy_to(&target, Context::silent());
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
}

#[test]
fn copying_can_die_anywhere_and_be_repeated() {
    let (_, source) = archive_in_memory();
    let one = source.appender(LINEAGE).unwrap();
    (0..4).for_each(|number| _ = append(&one, number, number + 1).unwrap());
    source.fork("branch", LINEAGE, 3).unwrap();
    source.appender("branch").unwrap().append(&piece(3, 5, b"branch")).unwrap();
    source.put_file("branch", "branch.history", b"3").unwrap();
    let (empty, _) = in_memory();
    for point in 1.. {
        for is_before in [true, false] {
            let store = Arc::new(Fault::new(Memory::from_contents(empty.contents())));
            let target = Archive::new(&open(store.clone(), Clock::system()), "Orders").unwrap();
            if is_before {
                store.freeze_before(point);
            } else {
                store.freeze_after(point);
            }
            let done = source.copy_to(&target, Context::silent());
            if !store.is_frozen() {
                done.unwrap();
                // Mark, inheritance, and what is copied of each lineage.
                assert_eq!(point - 1, 11);
                return;
            }
            let left = Arc::new(Memory::from_contents(store.inner().contents()));
            let survivor = Archive::new(&open(left, Clock::system()), "Orders").unwrap();
            let catalogue = survivor.catalogue().unwrap();
            assert_eq!(catalogue.gaps(), []);
            let has = |lineage: &str| catalogue.get(lineage).is_some_and(|known| !known.segments.is_empty());
            assert!(
                !has("branch")
                    || replay(&survivor, &[base(LINEAGE, 0, 0)], "branch", Target::End).len() == 30
            );
            copy(&source, &survivor);
            assert_eq!(told(&source), told(&survivor));
        }
    }
}

#[test]
fn neighbours_are_archived_as_one_object() {
    let (_, archive) = archive_in_memory();
    let appender = archive.appender(LINEAGE).unwrap();
    let bytes: Vec<Vec<u8>> = (0..5).map(|at| bytes_of(at, at + 1)).collect();
    let pieces: Vec<Piece<'_>> = bytes.iter().zip(0..).map(|(bytes, at)| piece(at, at + 1, bytes)).collect();
    assert_eq!(appender.append_all(&pieces[..3]).unwrap(), Appended::Written);
    assert_eq!(archive.lineage(LINEAGE).unwrap().segments.len(), 1);
    // Some are there: each is decided about.
    assert_eq!(appender.append_all(&pieces[..3]).unwrap(), Appended::AlreadyThere);
    assert_eq!(appender.append_all(&pieces[1..]).unwrap(), Appended::Written);
    assert!(replay(&archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::End) == bytes_of(0, 5));
    for bad in [&[][..], &[pieces[0], pieces[2]], &[pieces[1], pieces[0]]] {
        assert!(matches!(appender.append_all(bad), Err(Error::Refused(_))));
    }
    let other = [pieces[3], Piece { bytes: b"other", ..pieces[4] }];
    assert!(matches!(appender.append_all(&other), Err(Error::Conflict { .. })));
    let beyond = [Piece { first: 7, last: 8, ..pieces[0] }, Piece { first: 8, last: 9, ..pieces[0] }];
    assert!(matches!(appender.append_all(&beyond), Err(Error::Gap { .. })));
}
