//! Log archives: what is acknowledged is there, what contradicts is refused, what is missing is seen.

use std::sync::Arc;

use repository::log::{
    Appended, Appender, Archive, AsideKind, Base, CompactOptions, CompactReport, Content, Error, Finding,
    NotRestorable, Piece, ReadAhead, RetainOptions, Scope, Target,
};
use repository::{Context, Repository};
use store::{Memory, Store};

use crate::sample::open;
use crate::support::engine::in_memory;

pub const LINEAGE: &str = "7412345678901234567-00000001";

/// What the engine of these tests writes from `first` to `last`: the same whenever it is asked.
pub fn bytes_of(first: u64, last: u64) -> Vec<u8> {
    (first..last).flat_map(u64::to_le_bytes).collect()
}

pub fn piece(first: u64, last: u64, bytes: &[u8]) -> Piece<'_> {
    Piece { first, last, from_ms: Some(first * 1000), until_ms: Some(last * 1000 - 1), name: None, bytes }
}

pub fn append(appender: &Appender, first: u64, last: u64) -> repository::log::Result<Appended> {
    appender.append(&piece(first, last, &bytes_of(first, last)))
}

pub fn base(lineage: &str, needed_from: u64, consistent_at: u64) -> Base {
    Base { lineage: lineage.into(), needed_from, consistent_at, instant_ms: Some(consistent_at * 1000) }
}

pub fn everything() -> CompactOptions {
    CompactOptions { below_bytes: 1 << 20, upto_bytes: 8 << 20, objects_min: 2 }
}

pub fn spans(archive: &Archive, bases: &[Base]) -> Vec<(u64, u64)> {
    let (spans, _) = archive.catalogue().unwrap().spans(bases);
    spans.iter().map(|span| (span.begin, span.end)).collect()
}

/// Reads from a base to a target and gives what was read in one.
pub fn replay(archive: &Archive, bases: &[Base], lineage: &str, target: Target) -> Vec<u8> {
    let needed = archive.catalogue().unwrap().needed(bases, lineage, target).unwrap();
    let contents = archive.replay(&needed, ReadAhead::default()).map(|read| read.map(|(_, content)| content));
    let contents: Result<Vec<Content>, Error> = contents.collect();
    contents.unwrap().iter().flat_map(|content| content.bytes.to_vec()).collect()
}

fn gaps(archive: &Archive) -> Vec<(u64, u64)> {
    archive.catalogue().unwrap().gaps().iter().map(|gap| (gap.after, gap.before)).collect()
}

fn scene() -> (Arc<Memory>, Repository, Archive) {
    let (memory, repository) = in_memory();
    let archive = Archive::new(&repository, "Orders").unwrap();
    (memory, repository, archive)
}

/// The keys of the segments in the store, in the order of their positions.
fn keys(memory: &Memory) -> Vec<String> {
    let mut keys: Vec<String> = memory.contents().into_keys().collect();
    keys.retain(|key| key.starts_with("lifeboat/log/") && key.split('/').count() == 5);
    keys.sort_unstable_by_key(|key| key.rsplit('/').next().unwrap().to_owned());
    keys
}

#[test]
fn what_was_archived_is_read_in_order() {
    let (_, _, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    assert_eq!(appender.end(), None);
    for first in 10..40 {
        assert_eq!(append(&appender, first, first + 1).unwrap(), Appended::Written);
    }
    assert_eq!(appender.end(), Some(40));
    // By the same, by another, and in one that begins anew.
    for appender in [&appender, &archive.appender(LINEAGE).unwrap()] {
        assert_eq!(append(appender, 25, 26).unwrap(), Appended::AlreadyThere);
    }
    let bases = [base(LINEAGE, 12, 15), base(LINEAGE, 20, 22)];
    assert_eq!(spans(&archive, &bases), [(15, 40), (22, 40)]);
    assert!(replay(&archive, &bases[..1], LINEAGE, Target::End) == bytes_of(12, 40));
    assert!(replay(&archive, &bases, LINEAGE, Target::Position(30)) == bytes_of(20, 30));
    assert!(replay(&archive, &bases, LINEAGE, Target::InstantMs(17_000)) == bytes_of(12, 18));
    assert!(replay(&archive, &bases, LINEAGE, Target::InstantMs(39_999)) == bytes_of(20, 40));
    let needed =
        |target| archive.catalogue().unwrap().needed(&bases, LINEAGE, target).map(|needed| needed.base);
    let ends = |last_ms| NotRestorable::BeyondEnd { lineage: LINEAGE.into(), last: 40, last_ms };
    assert_eq!(needed(Target::InstantMs(40_000)), Err(ends(Some(39_999))));
    assert_eq!(needed(Target::Position(41)), Err(ends(Some(39_999))));
    assert_eq!(needed(Target::Position(14)), Err(NotRestorable::NoBase { lineage: LINEAGE.into() }));
    assert_eq!(needed(Target::InstantMs(1)), Err(NotRestorable::NoBase { lineage: LINEAGE.into() }));
    assert_eq!(needed(Target::Position(15)), Ok(0));
    assert_eq!(needed(Target::Position(22)), Ok(1));
    // A little at a time, as when there is hardly any memory.
    let needed = archive.catalogue().unwrap().needed(&bases, LINEAGE, Target::End).unwrap();
    let slow = archive.replay(&needed, ReadAhead { threads: 3, bytes_max: 1 });
    assert_eq!(slow.count(), 20);
    drop(archive.replay(&needed, ReadAhead::default()));
}

#[test]
fn something_else_at_the_same_position_is_refused() {
    let (memory, _, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    append(&appender, 0, 10).unwrap();
    append(&appender, 10, 20).unwrap();
    let before = keys(&memory);
    let conflict = |result| assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
    for appender in [&appender, &archive.appender(LINEAGE).unwrap()] {
        for (first, last) in [(0, 10), (10, 20), (10, 30), (10, 15), (5, 15), (0, 20)] {
            conflict(appender.append(&piece(first, last, b"other")));
        }
        let bytes = bytes_of(10, 20);
        conflict(appender.append(&Piece { name: Some("x"), ..piece(10, 20, &bytes) }));
        // When it was archived is no part of what it is.
        let later = Piece { from_ms: None, until_ms: Some(77), ..piece(10, 20, &bytes) };
        assert_eq!(appender.append(&later).unwrap(), Appended::AlreadyThere);
    }
    assert_eq!(keys(&memory), before);
}

#[test]
fn a_gap_is_refused_or_stays_visible_until_it_is_filled() {
    let (_, _, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    append(&appender, 0, 10).unwrap();
    let refused = append(&appender, 20, 30);
    assert!(matches!(refused, Err(Error::Gap { end: 10, first: 20, .. })), "{refused:?}");
    appender.append_after_gap(&piece(20, 30, &bytes_of(20, 30))).unwrap();
    append(&appender, 30, 40).unwrap();
    assert_eq!(gaps(&archive), [(10, 20)]);
    let bases = [base(LINEAGE, 0, 5), base(LINEAGE, 22, 25), base(LINEAGE, 12, 14)];
    let catalogue = archive.catalogue().unwrap();
    let (spans, without) = catalogue.spans(&bases);
    assert_eq!(
        spans.iter().map(|span| (span.base, span.begin, span.end)).collect::<Vec<_>>(),
        [(0, 5, 10), (1, 25, 40)]
    );
    let gap = |after, before| NotRestorable::Gap { lineage: LINEAGE.into(), after, before };
    assert_eq!(without, [(2, gap(12, 20))]);
    assert_eq!(catalogue.needed(&bases[..1], LINEAGE, Target::Position(35)), Err(gap(10, 20)));
    assert_eq!(catalogue.gaps()[0].since_ms, Some(9_999));
    // What begins a new chain never is taken for a continuation, even where nothing lies between any more.
    append(&appender, 10, 20).unwrap();
    assert_eq!(gaps(&archive), [(20, 20)]);
}

#[test]
fn what_is_lost_in_the_middle_can_be_archived_again() {
    let (memory, _, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    (0..5).for_each(|number| _ = append(&appender, number * 10, number * 10 + 10).unwrap());
    memory.delete(&keys(&memory)[2]).unwrap();
    assert_eq!(gaps(&archive), [(20, 30)]);
    let report = archive.verify(Scope::All, Context::silent()).unwrap();
    assert!(matches!(&report.findings[..], [Finding::Gap(gap)] if gap.after == 20), "{:?}", report.findings);
    let appender = archive.appender(LINEAGE).unwrap();
    let other = appender.append(&piece(20, 30, b"other"));
    assert!(matches!(other, Err(Error::Conflict { .. })), "{other:?}");
    assert_eq!(append(&appender, 20, 30).unwrap(), Appended::Written);
    assert_eq!(gaps(&archive), []);
    assert!(replay(&archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::End) == bytes_of(0, 50));
}

#[test]
fn damage_is_named_and_never_read() {
    let (memory, repository, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    (0..4).for_each(|number| _ = append(&appender, number * 10, number * 10 + 10).unwrap());
    let other = archive.appender("other").unwrap();
    (0..4).for_each(|number| _ = append(&other, number * 10, number * 10 + 10).unwrap());
    let keys = keys(&memory);
    let (own, foreign): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.contains(LINEAGE));
    let sound = memory.get(own[1]).unwrap();
    let zeroed = vec![0; sound.len()];
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    let cut = sound[..sound.len() - 1].to_vec();
    let swapped = memory.get(foreign[1]).unwrap();
    let neighbour = memory.get(own[2]).unwrap();
    let chunk = repository.key().seal(b"a chunk of a file");
    for (bytes, is_moved) in [
        (zeroed, false),
        (flipped, false),
        (cut, false),
        (Vec::new(), false),
        (swapped, true),
        (neighbour, true),
        (chunk, false),
    ] {
        memory.put(own[1], bytes.into()).unwrap();
        let needed =
            archive.catalogue().unwrap().needed(&[base(LINEAGE, 0, 0)], LINEAGE, Target::End).unwrap();
        let mut replay = archive.replay(&needed, ReadAhead::default());
        assert_eq!(replay.next().unwrap().unwrap().1.part.first, 0);
        let error = replay.next().unwrap().unwrap_err();
        assert!(error.to_string().contains(own[1].as_str()), "{error}");
        assert_eq!(matches!(error, Error::WrongName { .. }), is_moved, "{error}");
        assert!(replay.next().is_none());
        let report = archive.verify(Scope::New, Context::silent()).unwrap();
        let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
        assert!(finding.to_string().contains(own[1].as_str()) && !finding.repair().is_empty(), "{finding}");
        // It is no success to find it, and nothing is put over it.
        let again = append(&archive.appender(LINEAGE).unwrap(), 10, 20);
        assert!(matches!(again, Err(Error::Damaged { .. } | Error::WrongName { .. })), "{again:?}");
        let segment = needed.steps[1].segment;
        assert!(archive.discard_damaged(LINEAGE, &segment).unwrap());
        assert_eq!(append(&archive.appender(LINEAGE).unwrap(), 10, 20).unwrap(), Appended::Written);
        let mended = archive.catalogue().unwrap().get(LINEAGE).unwrap().segments[1];
        assert!(!archive.discard_damaged(LINEAGE, &mended).unwrap());
        // Back under the name that this test knows.
        let current = crate::log_archive::keys(&memory);
        let current: Vec<_> = current.iter().filter(|key| key.contains(LINEAGE)).collect();
        memory.delete(current[1]).unwrap();
        memory.put(own[1], sound.clone().into()).unwrap();
    }
}

#[test]
fn small_files_are_kept_as_they_are() {
    let (_, _, archive) = scene();
    let name = "00000001000000000000000A.00000028.backup";
    assert_eq!(archive.file(LINEAGE, name).unwrap(), None);
    assert_eq!(archive.put_file(LINEAGE, name, b"START").unwrap(), Appended::Written);
    assert_eq!(archive.put_file(LINEAGE, name, b"START").unwrap(), Appended::AlreadyThere);
    let other = archive.put_file(LINEAGE, name, b"STOP");
    assert!(matches!(other, Err(Error::Conflict { .. })), "{other:?}");
    assert_eq!(archive.file(LINEAGE, name).unwrap().unwrap(), b"START");
    let catalogue = archive.catalogue().unwrap();
    assert_eq!(catalogue.get(LINEAGE).unwrap().files[0].0, name);
    assert!(matches!(archive.put_file(LINEAGE, "", b""), Err(Error::Refused(_))));
    assert!(matches!(archive.appender(&"x".repeat(34)), Err(Error::Refused(_))));
    assert_eq!(archive.verify(Scope::New, Context::silent()).unwrap().verified, 1);
}

#[test]
fn a_lineage_goes_on_where_another_forked_off() {
    let (_, _, archive) = scene();
    let one = archive.appender("1").unwrap();
    (0..6).for_each(|number| _ = append(&one, number * 10, number * 10 + 10).unwrap());
    // The position of the fork lies within what has become one object.
    assert_eq!(archive.compact("1", &everything(), Context::silent()).unwrap().removed, 6);
    assert!(matches!(archive.fork("2", "1", 35), Err(Error::Refused(_))));
    archive.fork("2", "1", 40).unwrap();
    archive.fork("2", "1", 40).unwrap();
    assert!(matches!(archive.fork("2", "1", 30), Err(Error::Refused(_))));
    let two = archive.appender("2").unwrap();
    assert_eq!(two.end(), Some(40));
    for first in [30, 50] {
        let refused = two.append(&piece(first, first + 10, b"2"));
        assert!(matches!(refused, Err(Error::Gap { .. })), "{refused:?}");
    }
    let forked = |first: u64| vec![2; 10 + first as usize];
    for first in [40, 50, 60] {
        two.append(&piece(first, first + 10, &forked(first))).unwrap();
    }
    let catalogue = archive.catalogue().unwrap();
    let bases = [base("1", 10, 15), base("1", 42, 45)];
    let (spans, without) = catalogue.spans(&bases);
    let spans: Vec<_> =
        spans.iter().map(|span| (span.base, &span.lineage[..], span.begin, span.end)).collect();
    assert_eq!(spans, [(0, "1", 15, 60), (0, "2", 15, 70), (1, "1", 45, 60)]);
    assert_eq!(without, []);
    let expected = [bytes_of(10, 40), forked(40), forked(50)].concat();
    assert!(replay(&archive, &bases, "2", Target::Position(60)) == expected);
    assert!(replay(&archive, &bases[..1], "2", Target::Position(30)) == bytes_of(10, 30));
    // A listing does not show at which of its parts a merged object reaches an instant; the engine stops there.
    assert!(replay(&archive, &bases[..1], "2", Target::InstantMs(25_000)) == bytes_of(10, 40));
    // A base beyond the fork does not lead into the other branch.
    let none = catalogue.needed(&bases[1..], "2", Target::End);
    assert_eq!(none, Err(NotRestorable::NoBase { lineage: "2".into() }));
    // The branch needs its base's lineage, and stays because of it.
    let options = RetainOptions { keep_marked: Default::default(), keep_without_base: Default::default() };
    let plan = archive.plan_retention(&bases, &options).unwrap();
    assert!(plan.lineages.is_empty());
}

#[test]
fn compaction_changes_nothing_but_the_number_of_objects() {
    let (memory, _, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    (0..20).for_each(|number| _ = append(&appender, number, number + 1).unwrap());
    let bases = [base(LINEAGE, 3, 5)];
    let listed = archive.catalogue().unwrap();
    let old = listed.needed(&bases, LINEAGE, Target::Position(17)).unwrap();
    let report = archive.compact(LINEAGE, &everything(), Context::silent()).unwrap();
    assert_eq!((report.created, report.removed, keys(&memory).len()), (1, 20, 1));
    // What a reader found before is still read, from what it has become.
    let contents: Result<Vec<_>, _> = archive.replay(&old, ReadAhead::default()).collect();
    let read: Vec<u8> = contents.unwrap().iter().flat_map(|(_, content)| content.bytes.to_vec()).collect();
    assert!(read == bytes_of(3, 17));
    assert!(replay(&archive, &bases, LINEAGE, Target::Position(17)) == bytes_of(3, 17));
    // The writer goes on, and knows again what it wrote; so does the next.
    for appender in [&appender, &archive.appender(LINEAGE).unwrap()] {
        assert_eq!(append(appender, 7, 8).unwrap(), Appended::AlreadyThere);
        let other = appender.append(&piece(7, 8, b"other"));
        assert!(matches!(other, Err(Error::Conflict { .. })), "{other:?}");
    }
    let appender = archive.appender(LINEAGE).unwrap();
    (20..30).for_each(|number| _ = append(&appender, number, number + 1).unwrap());
    assert_eq!(spans(&archive, &bases), [(5, 30)]);
    // Small options leave what is large, and what is few.
    let few = CompactOptions { objects_min: 12, ..everything() };
    assert_eq!(archive.compact(LINEAGE, &few, Context::silent()).unwrap().created, 0);
    let size = archive.catalogue().unwrap().get(LINEAGE).unwrap().segments[1].size;
    let bounded = CompactOptions {
        below_bytes: u64::from(size) + 8,
        upto_bytes: u64::from(size) * 11 / 2,
        ..everything()
    };
    assert_eq!(archive.compact(LINEAGE, &bounded, Context::silent()).unwrap().created, 2);
    assert!(replay(&archive, &bases, LINEAGE, Target::End) == bytes_of(3, 30));
    assert_eq!(archive.verify(Scope::All, Context::silent()).unwrap().findings, []);
}

/// Lays what `appender` writes under its name only after `meanwhile`: a write that was long on its way.
fn append_late(memory: &Memory, appender: &Appender, late: &Piece<'_>, meanwhile: &mut dyn FnMut()) {
    let before = keys(memory);
    appender.append(late).unwrap();
    let late = keys(memory).into_iter().find(|key| !before.contains(key)).unwrap();
    let bytes = memory.get(&late).unwrap();
    memory.delete(&late).unwrap();
    meanwhile();
    memory.put(&late, bytes.into()).unwrap();
}

#[test]
fn what_a_superseded_writer_wrote_is_not_made_part_of_what_counts() {
    let (memory, _, archive) = scene();
    let first = archive.appender(LINEAGE).unwrap();
    (0..5).for_each(|number| _ = append(&first, number, number + 1).unwrap());
    append_late(&memory, &first, &piece(5, 7, b"late"), &mut || drop(archive.appender(LINEAGE).unwrap()));
    // The second has recorded what it found: five.
    assert_eq!(archive.compact(LINEAGE, &everything(), Context::silent()).unwrap().removed, 5);
    let known = archive.lineage(LINEAGE).unwrap();
    assert_eq!((known.end().unwrap().0, known.aside[0].kind), (5, AsideKind::Late));
    let findings = archive.verify(Scope::All, Context::silent()).unwrap().findings;
    assert!(matches!(findings[..], [Finding::Late { .. }]), "{findings:?}");
    // Nor is anything compacted while a writer takes over: its mark has replaced that of the one before.
    let (marks, _) = memory.contents().into_iter().find(|(key, _)| key.contains("/w/")).unwrap();
    append(&archive.appender(LINEAGE).unwrap(), 5, 6).unwrap();
    append(&archive.appender(LINEAGE).unwrap(), 6, 7).unwrap();
    let marks_now: Vec<_> = memory.contents().into_keys().filter(|key| key.contains("/w/")).collect();
    assert!(!marks_now.contains(&marks) && marks_now.len() == 1, "{marks_now:?}");
    memory.delete(&marks_now[0]).unwrap();
    assert_eq!(archive.compact(LINEAGE, &everything(), Context::silent()).unwrap(), CompactReport::default());
}

/// The interleaving that once had two writers acknowledged for one position: what an earlier writer had left was
/// acknowledged to a later one, and then overruled by one between the two, which had not seen it.
#[test]
fn what_was_acknowledged_as_found_is_not_overruled_later() {
    let (memory, _, archive) = scene();
    let first = archive.appender(LINEAGE).unwrap();
    append(&first, 0, 10).unwrap();
    // The write of the first arrives after the second has begun, and that of the second after the third was acknowledged.
    let mut second = None;
    append_late(&memory, &first, &piece(10, 20, &bytes_of(10, 20)), &mut || {
        second = Some(archive.appender(LINEAGE).unwrap());
    });
    append_late(&memory, &second.unwrap(), &piece(10, 20, b"between"), &mut || {
        append(&archive.appender(LINEAGE).unwrap(), 10, 20).unwrap();
    });
    // Whoever looks now, and however often somebody begins: the third was acknowledged.
    for _ in 0..3 {
        let refused = archive.appender(LINEAGE).unwrap().append(&piece(10, 20, b"between"));
        assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
        assert_eq!(append(&archive.appender(LINEAGE).unwrap(), 10, 20).unwrap(), Appended::AlreadyThere);
        assert!(replay(&archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::End) == bytes_of(0, 20));
    }
}

#[test]
fn verification_reads_only_what_is_new() {
    let (memory, _, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    (0..10).for_each(|number| _ = append(&appender, number, number + 1).unwrap());
    let verify = |scope| {
        let report = archive.verify(scope, Context::silent()).unwrap();
        (report.verified, report.known, report.findings.len())
    };
    assert_eq!(verify(Scope::New), (10, 0, 0));
    assert_eq!(verify(Scope::New), (0, 10, 0));
    assert_eq!(verify(Scope::All), (10, 0, 0));
    append(&appender, 10, 11).unwrap();
    assert_eq!(verify(Scope::New), (1, 10, 0));
    // Another size is another object.
    let keys = keys(&memory);
    memory.put(&keys[3], vec![1; 500].into()).unwrap();
    assert_eq!(verify(Scope::New), (0, 10, 1));
    // And one that changed behind the listing's back is found when everything is read.
    let mut bytes = memory.get(&keys[5]).unwrap();
    bytes[30] ^= 1;
    memory.put(&keys[5], bytes.into()).unwrap();
    assert_eq!(verify(Scope::New), (0, 10, 1));
    assert_eq!(verify(Scope::All), (9, 0, 2));
    assert_eq!(verify(Scope::New).2, 2, "what was found damaged is not remembered as sound");
    let records = memory.contents().into_keys().filter(|key| key.contains("/v/")).count();
    assert_eq!(records, 1);
    memory.put("lifeboat/log/_orders/what/is-this", vec![1].into()).unwrap();
    let report = archive.verify(Scope::New, Context::silent()).unwrap();
    assert!(report.findings.contains(&Finding::Unknown { count: 1 }), "{:?}", report.findings);
}

#[test]
fn retention_keeps_what_a_base_needs_and_waits_before_it_removes() {
    let (memory, _, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    (0..10).for_each(|number| _ = append(&appender, number * 10, number * 10 + 10).unwrap());
    let old = archive.appender("old").unwrap();
    let young = archive.appender("young").unwrap();
    let unknown = archive.appender("unknown").unwrap();
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    old.append(&Piece { until_ms: Some(now - 10 * 86_400_000), ..piece(0, 5, b"old") }).unwrap();
    young.append(&Piece { until_ms: Some(now - 86_400_000), ..piece(0, 5, b"young") }).unwrap();
    unknown.append(&Piece { until_ms: None, ..piece(0, 5, b"unknown") }).unwrap();
    let later = |days: i64| {
        let repository = open(Arc::clone(&memory) as Arc<dyn Store>, crate::sample::later(24 * days));
        Archive::new(&repository, "Orders").unwrap()
    };
    let options = RetainOptions::default();
    assert!(matches!(archive.plan_retention(&[], &options), Err(Error::Refused(_))));
    assert!(matches!(archive.plan_retention(&[base("nowhere", 0, 0)], &options), Err(Error::Refused(_))));
    let retain = |archive: &Archive, bases: &[Base]| {
        let plan = archive.plan_retention(bases, &options).unwrap();
        let report = plan.execute(Context::silent()).unwrap();
        (report.removed, report.marked)
    };
    // Position 35 lies within a segment, which stays.
    let bases = [base(LINEAGE, 35, 38), base(LINEAGE, 70, 75)];
    assert_eq!(retain(&archive, &bases), (0, 4));
    assert_eq!(retain(&archive, &bases), (0, 4));
    assert_eq!(spans(&archive, &[base(LINEAGE, 0, 0)]), [(0, 100)], "what is marked can be read");
    // An older base has come back: what it needs is needed again, the rest goes on waiting.
    assert_eq!(retain(&later(2), &[base(LINEAGE, 20, 20)]), (3, 0));
    assert_eq!(spans(&archive, &[base(LINEAGE, 20, 20)]), [(20, 100)]);
    assert_eq!(retain(&later(2), &bases), (0, 1), "it waits anew");
    assert_eq!(retain(&later(4), &bases), (1, 0));
    assert_eq!(retain(&later(4), &bases), (0, 0));
    assert_eq!(spans(&archive, &bases), [(38, 100), (75, 100)]);
    assert!(replay(&archive, &bases[..1], LINEAGE, Target::End) == bytes_of(30, 100));
    let catalogue = archive.catalogue().unwrap();
    let left: Vec<_> = catalogue.lineages().map(|(name, lineage)| (name, lineage.segments.len())).collect();
    assert_eq!(left, [(LINEAGE, 7), ("old", 0), ("unknown", 1), ("young", 1)]);
    assert_eq!(catalogue.gaps(), []);
}

#[test]
fn segments_are_sidecar_objects() {
    let (memory, repository, archive) = scene();
    let appender = archive.appender(LINEAGE).unwrap();
    (0..3).for_each(|number| _ = append(&appender, number, number + 1).unwrap());
    archive.compact(LINEAGE, &everything(), Context::silent()).unwrap();
    append(&appender, 3, 4).unwrap();
    for key in keys(&memory) {
        let content = repository.sidecar_read(key.strip_prefix("lifeboat/").unwrap()).unwrap().unwrap();
        let (parts, table_bytes) = repository::log::decode_table(&content).unwrap();
        let bytes: u64 = parts.iter().map(|part| part.length).sum();
        assert_eq!(content.len() as u64, table_bytes as u64 + bytes);
    }
    let report = crate::sample::check_all(&repository);
    assert_eq!(report.findings.len(), 0);
}

/// A fork that only two writers at once can make, laid by hand.
#[test]
fn what_was_written_late_by_a_superseded_writer_does_not_count() {
    let (memory, _, archive) = scene();
    let first = archive.appender(LINEAGE).unwrap();
    append(&first, 0, 10).unwrap();
    let before = memory.contents();
    first.append(&piece(10, 25, b"never acknowledged")).unwrap();
    let late = keys(&memory).pop().unwrap();
    let bytes = memory.get(&late).unwrap();
    memory.delete(&late).unwrap();
    assert_eq!(keys(&memory).len(), before.keys().filter(|key| key.split('/').count() == 5).count());
    let second = archive.appender(LINEAGE).unwrap();
    append(&second, 10, 20).unwrap();
    append(&second, 20, 30).unwrap();
    memory.put(&late, bytes.into()).unwrap();
    let catalogue = archive.catalogue().unwrap();
    let lineage = catalogue.get(LINEAGE).unwrap();
    assert_eq!(lineage.aside.iter().map(|aside| aside.kind).collect::<Vec<_>>(), [AsideKind::Fork]);
    assert!(replay(&archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::End) == bytes_of(0, 30));
    let report = archive.verify(Scope::All, Context::silent()).unwrap();
    assert!(matches!(report.findings[..], [Finding::Fork { .. }]), "{:?}", report.findings);
    archive.compact(LINEAGE, &everything(), Context::silent()).unwrap();
    assert!(replay(&archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::End) == bytes_of(0, 30));
}
