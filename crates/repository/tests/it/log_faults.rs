//! Log archives under faults: every crash point, lost answers, the same shipped twice, a store without exclusive create.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use repository::log::{Appended, Archive, Error, RetainOptions, Scope, Target};
use repository::{Clock, Context, Repository};
use s3_for_tests::{ACCESS_KEY_ID, BUCKET, Garage, REGION, SECRET_ACCESS_KEY};
use store::fault::{Effect, Filter, Operation};
use store::location::Bucket;
use store::s3::{S3Credentials, S3Options};
use store::{ErrorKind, Fault, Local, Memory, S3, Store};

use crate::log_archive::{LINEAGE, append, base, bytes_of, everything, piece, replay, spans};
use crate::log_race::{assert_one_each, race};
use crate::sample::{later, open};
use crate::support::engine::{in_memory, init};

type Contents = BTreeMap<String, Bytes>;

fn archive_of(repository: &Repository) -> Archive {
    Archive::new(repository, "database").unwrap()
}

fn archive_on(store: Arc<dyn Store>) -> Archive {
    archive_of(&open(store, Clock::system()))
}

/// Runs `work` once for every point at which it can die, and looks at what is left each time; then repeats the work.
fn at_every_crash(
    start: &Contents,
    clock: &Clock,
    work: &dyn Fn(&Archive) -> Result<(), Error>,
    look: &dyn Fn(&Archive),
) -> u64 {
    let reopen = |store: Arc<dyn Store>| archive_of(&open(store, clock.clone()));
    for point in 1.. {
        for is_before in [true, false] {
            let store = Arc::new(Fault::new(Memory::from_contents(start.clone())));
            let archive = reopen(store.clone());
            if is_before {
                store.freeze_before(point);
            } else {
                store.freeze_after(point);
            }
            let done = work(&archive);
            if !store.is_frozen() {
                done.unwrap();
                return point - 1;
            }
            let left = Arc::new(Memory::from_contents(store.inner().contents()));
            let survivor = reopen(left);
            look(&survivor);
            work(&survivor).unwrap();
            look(&survivor);
        }
    }
    unreachable!()
}

fn with_segments(count: u64) -> Contents {
    let (memory, repository) = in_memory();
    let appender = archive_of(&repository).appender(LINEAGE).unwrap();
    (0..count).for_each(|number| _ = append(&appender, number, number + 1).unwrap());
    memory.contents()
}

#[test]
fn an_append_can_die_anywhere_and_be_repeated() {
    let acknowledged = AtomicU64::new(0);
    let work = |archive: &Archive| {
        acknowledged.store(3, Ordering::Relaxed);
        let appender = archive.appender(LINEAGE)?;
        for first in 3..6 {
            append(&appender, first, first + 1)?;
            acknowledged.store(first + 1, Ordering::Relaxed);
        }
        archive.put_file(LINEAGE, "00000002.history", b"forked")?;
        Ok(())
    };
    let look = |archive: &Archive| {
        let end = acknowledged.load(Ordering::Relaxed);
        let read = replay(archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::Position(end));
        assert!(read == bytes_of(0, end));
        assert_eq!(archive.catalogue().unwrap().gaps(), []);
        assert_eq!(archive.verify(Scope::All, Context::silent()).unwrap().findings, []);
    };
    let points = at_every_crash(&with_segments(3), &Clock::system(), &work, &look);
    // Mark and inheritance, the old ones away, three segments, one file.
    assert_eq!(points, 8);
}

#[test]
fn a_compaction_can_die_anywhere_and_be_repeated() {
    let work = |archive: &Archive| archive.compact(LINEAGE, &everything(), Context::silent()).map(drop);
    let look = |archive: &Archive| {
        assert_eq!(spans(archive, &[base(LINEAGE, 0, 2)]), [(2, 9)]);
        assert!(replay(archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::End) == bytes_of(0, 9));
        assert!(replay(archive, &[base(LINEAGE, 3, 3)], LINEAGE, Target::Position(7)) == bytes_of(3, 7));
        assert_eq!(archive.verify(Scope::All, Context::silent()).unwrap().findings, []);
        assert_eq!(append(&archive.appender(LINEAGE).unwrap(), 4, 5).unwrap(), Appended::AlreadyThere);
    };
    let points = at_every_crash(&with_segments(9), &Clock::system(), &work, &look);
    // The epoch, the merged object, nine parts.
    assert_eq!(points, 11);
}

#[test]
fn a_retention_can_die_anywhere_and_be_repeated() {
    let memory = Arc::new(Memory::from_contents(with_segments(9)));
    let bases = [base(LINEAGE, 4, 5)];
    let retain = |archive: &Archive| {
        let plan = archive.plan_retention(&bases, &RetainOptions::default())?;
        plan.execute(Context::silent()).map(drop)
    };
    retain(&archive_on(memory.clone())).unwrap();
    let look = |archive: &Archive| {
        assert_eq!(spans(archive, &bases), [(5, 9)]);
        assert!(replay(archive, &bases, LINEAGE, Target::End) == bytes_of(4, 9));
        assert_eq!(archive.catalogue().unwrap().gaps(), []);
    };
    let points = at_every_crash(&memory.contents(), &later(30), &retain, &look);
    // The epoch, the old one away, marks, old marks away, four segments.
    assert_eq!(points, 8);
}

#[test]
fn an_append_whose_answer_was_lost_finds_its_own_object() {
    let (memory, _) = in_memory();
    let store = Arc::new(Fault::new(Memory::from_contents(memory.contents())));
    let archive = archive_on(store.clone());
    let appender = archive.appender(LINEAGE).unwrap();
    append(&appender, 0, 1).unwrap();
    let segments = format!("lifeboat/log/database/{LINEAGE}");
    store.inject(Filter::of(&[Operation::Create]).at(&segments).only(1), Effect::LoseAcknowledgement);
    let lost = append(&appender, 1, 2);
    assert!(matches!(lost, Err(Error::Repository(_))), "{lost:?}");
    // The engine has forgotten the instants meanwhile.
    let bytes = bytes_of(1, 2);
    let again = repository::log::Piece { from_ms: None, until_ms: None, ..piece(1, 2, &bytes) };
    assert_eq!(appender.append(&again).unwrap(), Appended::AlreadyThere);
    append(&appender, 2, 3).unwrap();
    assert_eq!(spans(&archive, &[base(LINEAGE, 0, 0)]), [(0, 3)]);
    // A full disk is no success, and what was not written is not there.
    store.fill_after(10);
    let full = append(&appender, 3, 4);
    assert!(
        matches!(&full, Err(Error::Repository(repository::Error::Store(error))) if error.kind == ErrorKind::Full),
        "{full:?}"
    );
    store.heal();
    assert_eq!(append(&appender, 3, 4).unwrap(), Appended::Written);
}

#[test]
fn nothing_acknowledged_is_lost_to_a_store_that_fails_by_chance() {
    let seed = getrandom::u64().unwrap();
    println!("seed {seed}");
    let (memory, _) = in_memory();
    let store = Arc::new(Fault::new(Memory::from_contents(memory.contents())));
    let archive = archive_on(store.clone());
    let mut appender = archive.appender(LINEAGE).unwrap();
    store.fail_at_random(seed, 10);
    let mut end = 0;
    for _ in 0..300 {
        match append(&appender, end, end + 1) {
            Ok(_) => end += 1,
            Err(Error::Repository(_)) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
        if end % 20 == 0 {
            drop(archive.compact(LINEAGE, &everything(), Context::silent()));
        }
        if end % 50 == 0 {
            appender = archive.appender(LINEAGE).unwrap_or(appender);
        }
    }
    store.heal();
    assert!(end > 100, "seed {seed}: {end}");
    let archive = archive_on(Arc::new(Memory::from_contents(store.inner().contents())));
    let read = replay(&archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::Position(end));
    assert!(read == bytes_of(0, end), "seed {seed}");
    assert_eq!(archive.verify(Scope::All, Context::silent()).unwrap().findings, [], "seed {seed}");
}

#[test]
fn the_same_shipped_twice_at_once_is_a_success_for_both() {
    let (_, repository) = in_memory();
    let archive = archive_of(&repository);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let appender = archive.appender(LINEAGE).unwrap();
                for first in 0..20 {
                    while let Err(error) = append(&appender, first, first + 1) {
                        assert!(matches!(error, Error::Superseded { .. }), "{error}");
                    }
                }
            });
        }
    });
    assert!(replay(&archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::End) == bytes_of(0, 20));
}

#[test]
fn neighbours_can_be_shipped_by_several_threads() {
    let directory = tempfile::tempdir().unwrap();
    let repository = init(Arc::new(Local::open(directory.path()).unwrap()));
    let archive = archive_of(&repository);
    let appender = archive.appender(LINEAGE).unwrap();
    let turn = std::sync::Mutex::new(0);
    append(&appender, 0, 1).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let first = {
                        let mut turn = turn.lock().unwrap();
                        *turn += 1;
                        *turn
                    };
                    if first > 40 {
                        return;
                    }
                    // Whose turn it is may be overtaken by the next: then there is a gap for a moment.
                    while let Err(error) = append(&appender, first, first + 1) {
                        assert!(matches!(error, Error::Gap { .. }), "{error}");
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    assert!(replay(&archive, &[base(LINEAGE, 0, 0)], LINEAGE, Target::End) == bytes_of(0, 41));
    assert_eq!(archive.catalogue().unwrap().gaps(), []);
}

/// Garage ignores the condition of a conditional write, as many servers do.
#[test]
fn an_archive_in_a_bucket() {
    let garage = Garage::start();
    let bucket =
        Bucket { endpoint: Some(garage.endpoint()), bucket: BUCKET.to_owned(), prefix: "logs".to_owned() };
    let credentials = S3Credentials::Keys {
        access_key_id: ACCESS_KEY_ID.to_owned(),
        secret_access_key: SECRET_ACCESS_KEY.to_owned(),
        session_token: None,
    };
    let options = S3Options { region: Some(REGION.to_owned()), ..S3Options::new(bucket, credentials) };
    let repository = init(Arc::new(S3::open(&options).unwrap()));
    let archive = archive_of(&repository);
    let appender = archive.appender(LINEAGE).unwrap();
    (0..12).for_each(|number| _ = append(&appender, number, number + 1).unwrap());
    assert_eq!(append(&archive.appender(LINEAGE).unwrap(), 3, 4).unwrap(), Appended::AlreadyThere);
    let other = appender.append(&piece(11, 12, b"other"));
    assert!(matches!(other, Err(Error::Conflict { .. })), "{other:?}");
    append(&appender, 12, 13).unwrap();
    append(&appender, 13, 14).unwrap();
    // The one at 12 was written twice: when it was first, another appender had taken over.
    assert_eq!(archive.compact(LINEAGE, &everything(), Context::silent()).unwrap().removed, 15);
    append(&appender, 14, 15).unwrap();
    let raced = Archive::new(&repository, "race").unwrap();
    assert_one_each(&raced, &race(&vec![raced.clone(); 3], 5));
    assert_eq!(archive.verify(Scope::New, Context::silent()).unwrap().findings, []);
    let bases = [base(LINEAGE, 2, 4)];
    assert!(replay(&archive, &bases, LINEAGE, Target::End) == bytes_of(2, 15));
    let options = RetainOptions { keep_marked: Default::default(), ..RetainOptions::default() };
    let plan = archive.plan_retention(&[base(LINEAGE, 14, 14)], &options).unwrap();
    assert_eq!(plan.execute(Context::silent()).unwrap().removed, 1);
    assert!(replay(&archive, &[base(LINEAGE, 14, 14)], LINEAGE, Target::End) == bytes_of(14, 15));
}
