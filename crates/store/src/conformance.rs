//! What every store and every wrapper has to pass: the promises of [`Store`], one function each.
//!
//! A support module for tests: its functions panic with what was expected and what came. [`run`] runs them
//! all; each gets a store of its own from the factory, empty, and may leave it full.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};

use bytes::Bytes;

use crate::{Error, ErrorKind, Object, Store};

/// What a store can promise beyond the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// Of several concurrent creators exactly one succeeds. Some S3 servers ignore the condition.
    pub exclusive_create: bool,
}

/// Makes an empty store; called once for each case.
pub type Factory<'a> = &'a dyn Fn() -> Box<dyn Store>;

/// One promise: its name and the function that panics when it is broken.
pub type Case = (&'static str, fn(&dyn Store));

/// What holds for every store.
pub const CASES: [Case; 13] = [
    ("what was put is read back", read_back),
    ("a put replaces", overwrite),
    ("a create does not replace", create_refuses),
    ("what is not there is NotFound", not_found),
    ("ranges", ranges),
    ("a listing shows exactly what is below the prefix", listing),
    ("a listing hands an error of its reader through", listing_stops),
    ("a listing of more than two pages is complete", long_listing),
    ("a delete may be repeated", delete),
    ("bad keys are refused", bad_keys),
    ("a large object", large_object),
    ("readers see a replaced object whole", atomic_replacement),
    ("many threads at once", many_threads),
];

/// Runs every case; panics at the first that fails and names it.
pub fn run(promises: Promises, new: Factory<'_>) {
    for (name, case) in CASES {
        check(name, case, new);
    }
    if promises.exclusive_create {
        check("of several creators one succeeds", one_creator, new);
    }
}

fn check(name: &str, case: fn(&dyn Store), new: Factory<'_>) {
    let store = new();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(&*store))) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        match text.or_else(|| panic.downcast_ref::<&str>().copied()) {
            Some(text) => panic!("{store:?}\nbreaks the promise \"{name}\": {text}"),
            None => resume_unwind(panic),
        }
    }
}

/// What was put or created is read back, empty objects included.
pub fn read_back(store: &dyn Store) {
    for (key, data) in
        [("config", &b"abc"[..]), ("keys/k1", b""), ("a/b/c/d/e", b"deep"), ("data/00/A.b_c-9", b"name")]
    {
        put(store, key, data);
        assert_eq!(get(store, key), data, "{key}");
        assert_eq!(size(store, key), data.len() as u64, "size of {key}");
    }
    ok(store.create("locks/l", Bytes::from_static(b"lock")), "create locks/l");
    assert_eq!(get(store, "locks/l"), b"lock");
    ok(store.create("locks/empty", Bytes::new()), "create of an empty object");
    assert_eq!(get(store, "locks/empty"), b"");
}

/// A `put` takes the place of what was there, also when it is shorter.
pub fn overwrite(store: &dyn Store) {
    put(store, "a", b"a long first version");
    put(store, "a", b"second");
    assert_eq!(get(store, "a"), b"second");
    put(store, "a", b"second");
    assert_eq!(get(store, "a"), b"second");
    assert_eq!(list(store, ""), entries(&[("a", 6)]));
}

/// A `create` of what exists is `AlreadyExists` and leaves it alone.
pub fn create_refuses(store: &dyn Store) {
    for key in ["config", "locks/a"] {
        ok(store.create(key, Bytes::from_static(b"first")), "first create");
        kind(store.create(key, Bytes::from_static(b"second")), ErrorKind::AlreadyExists, "second create");
        kind(store.create(key, Bytes::from_static(b"first")), ErrorKind::AlreadyExists, "the same again");
        assert_eq!(get(store, key), b"first");
        ok(store.delete(key), "delete");
        ok(store.create(key, Bytes::from_static(b"third")), "create after delete");
        assert_eq!(get(store, key), b"third");
    }
    put(store, "put", b"x");
    kind(store.create("put", Bytes::new()), ErrorKind::AlreadyExists, "create of what was put");
}

/// Reading what is not there is `NotFound` for every reading operation, and names the object.
pub fn not_found(store: &dyn Store) {
    absent(store, "config");
    put(store, "data/aa/x", b"x");
    for key in ["config", "data", "data/aa", "data/aa/y", "data/ab/x", "data/aa/x1"] {
        absent(store, key);
    }
    let error = store.get("data/aa/y").expect_err("an absent object");
    assert_eq!(error.key, "data/aa/y", "the error must name the object");
    assert!(!error.location.is_empty(), "the error must name the store");
}

fn absent(store: &dyn Store, key: &str) {
    let mut buffer = vec![1, 2, 3];
    kind(store.get(key), ErrorKind::NotFound, key);
    kind(store.size(key), ErrorKind::NotFound, key);
    kind(store.get_range(key, 0..1, &mut buffer), ErrorKind::NotFound, key);
    kind(store.get_range(key, 0..0, &mut buffer), ErrorKind::NotFound, key);
}

/// Ranges are exact, discard what the buffer held, and are `Truncated` past the end.
pub fn ranges(store: &dyn Store) {
    let data = pattern(100_000, 7);
    put(store, "data/r", &data);
    let mut buffer = b"what was here before".to_vec();
    for range in
        [0..100_000, 0..1, 99_999..100_000, 5..50_000, 10..20, 0..0, 100_000..100_000, 40..40, 3..99_000]
    {
        ok(store.get_range("data/r", range.clone(), &mut buffer), "a range");
        let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
        let wanted = start.ok().zip(end.ok()).and_then(|(start, end)| data.get(start..end));
        assert!(
            wanted == Some(&buffer[..]),
            "range {range:?} returned other bytes ({} of them)",
            buffer.len()
        );
    }
    for range in [0..100_001, 99_999..100_001, 100_000..100_001, 200_000..200_010, 0..u64::MAX] {
        let what = format!("range {range:?} of 100000 bytes");
        kind(store.get_range("data/r", range, &mut buffer), ErrorKind::Truncated, &what);
    }
    put(store, "data/empty", b"");
    ok(store.get_range("data/empty", 0..0, &mut buffer), "an empty range of an empty object");
    assert!(buffer.is_empty(), "the buffer must be emptied");
    kind(store.get_range("data/empty", 0..1, &mut buffer), ErrorKind::Truncated, "one byte of none");
}

/// A listing shows what lies in the folder, at any depth, and nothing that only begins alike.
pub fn listing(store: &dyn Store) {
    assert_eq!(list(store, ""), entries(&[]), "an empty store");
    assert_eq!(list(store, "data"), entries(&[]), "a prefix below which nothing lies");
    for (key, data) in [
        ("config", &b"c"[..]),
        ("data/a", b"1"),
        ("data/ab", b"12"),
        ("data/aa/x", b"123"),
        ("data/aa/deep/er", b"1234"),
        ("data-2/x", b""),
        ("data2", b"12345"),
    ] {
        put(store, key, data);
    }
    let data = [("data/a", 1), ("data/ab", 2), ("data/aa/x", 3), ("data/aa/deep/er", 4)];
    assert_eq!(list(store, "data"), entries(&data));
    assert_eq!(list(store, "data/aa"), entries(&data[2..]));
    assert_eq!(list(store, "data/aa/deep"), entries(&data[3..]));
    assert_eq!(list(store, "data/a"), entries(&[]), "data/a must match neither itself nor data/ab");
    assert_eq!(list(store, "config"), entries(&[]), "an object is not below itself");
    let rest = [("config", 1), ("data-2/x", 0), ("data2", 5)];
    assert_eq!(list(store, ""), entries(&[&data[..], &rest[..]].concat()));
    ok(store.delete("data/ab"), "delete");
    assert_eq!(list(store, "data/aa"), entries(&data[2..]));
    assert!(!list(store, "data").contains_key("data/ab"), "a deleted object is still listed");
}

/// An error that `found` returns ends the listing and comes back as it is.
pub fn listing_stops(store: &dyn Store) {
    for key in ["l/1", "l/2", "l/3"] {
        put(store, key, b"x");
    }
    let mut shown = 0;
    let result = store.list("l", &mut |object| {
        shown += 1;
        Err(Error::new(ErrorKind::Full, "think of", &object.key, "nowhere".to_owned(), "enough"))
    });
    let error = result.expect_err("the error of the reader must come back");
    assert_eq!((error.kind, error.operation, shown), (ErrorKind::Full, "think of", 1));
}

/// Servers list a thousand at a time; nothing may be lost or doubled where pages meet.
pub fn long_listing(store: &dyn Store) {
    const COUNT: usize = 2100;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let n @ ..COUNT = next.fetch_add(1, Ordering::Relaxed) {
                    put(store, &format!("index/{n:04}"), b"i");
                }
            });
        }
    });
    assert_eq!(list(store, "index").len(), COUNT);
    assert_eq!(list(store, "").len(), COUNT);
}

/// Deleting removes, and what is not there counts as deleted.
pub fn delete(store: &dyn Store) {
    ok(store.delete("never/was"), "delete of what never was");
    put(store, "snapshots/a", b"a");
    put(store, "snapshots/b", b"b");
    for _ in 0..2 {
        ok(store.delete("snapshots/a"), "delete");
        absent(store, "snapshots/a");
    }
    assert_eq!(get(store, "snapshots/b"), b"b");
    ok(store.delete("snapshots"), "delete of what is a prefix only");
    assert_eq!(get(store, "snapshots/b"), b"b", "deleting a prefix must not delete what is below");
}

/// Keys that break the rule are `Other` for every operation, before anything happens.
pub fn bad_keys(store: &dyn Store) {
    for key in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "../a",
        "a/.",
        ".tmp-1",
        "a/.hidden",
        "a b",
        "ä",
        "a\0b",
        "a\\b",
        "a\n",
        "a:b",
        "%2e",
        "a*",
    ] {
        let data = Bytes::from_static(b"x");
        let what = format!("the key {key:?}");
        kind(store.put(key, data.clone()), ErrorKind::Other, &what);
        kind(store.create(key, data), ErrorKind::Other, &what);
        kind(store.get(key), ErrorKind::Other, &what);
        kind(store.get_range(key, 0..1, &mut Vec::new()), ErrorKind::Other, &what);
        kind(store.size(key), ErrorKind::Other, &what);
        kind(store.delete(key), ErrorKind::Other, &what);
        if !key.is_empty() {
            kind(store.list(key, &mut |_| Ok(())), ErrorKind::Other, &format!("the prefix {key:?}"));
        }
    }
    assert_eq!(list(store, ""), entries(&[]), "a refused key left something");
}

/// An object larger than a pack and than any buffer on the way.
pub fn large_object(store: &dyn Store) {
    let data = pattern(20 << 20, 1);
    put(store, "data/ff/large", &data);
    assert!(get(store, "data/ff/large") == data, "20 MiB came back changed");
    let mut buffer = Vec::new();
    ok(store.get_range("data/ff/large", 7_000_001..19_000_003, &mut buffer), "a large range");
    assert!(buffer == data[7_000_001..19_000_003], "a range of 12 MB came back changed");
}

/// While an object is replaced again and again, every read sees one version whole.
pub fn atomic_replacement(store: &dyn Store) {
    const SIZE: usize = 300_000;
    const VERSIONS: u8 = 25;
    put(store, "data/atomic", &[0; SIZE]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let data = get(store, "data/atomic");
                    assert_eq!(data.len(), SIZE, "a reader saw a cut object");
                    assert!(data.iter().all(|byte| *byte == data[0]), "a reader saw two versions mixed");
                    assert_eq!(list(store, "data"), entries(&[("data/atomic", SIZE as u64)]));
                }
            });
        }
        let written = catch_unwind(AssertUnwindSafe(|| {
            for version in 1..VERSIONS {
                put(store, "data/atomic", &[version; SIZE]);
            }
        }));
        done.store(true, Ordering::Relaxed);
        written.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Threads that write, read and delete objects of their own do not disturb each other.
pub fn many_threads(store: &dyn Store) {
    const THREADS: u8 = 8;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..6_u8 {
                    let data = pattern(5_000 + usize::from(round), thread);
                    let key = format!("data/{round:02x}/{thread}");
                    put(store, &key, &data);
                    assert!(get(store, &key) == data, "{key} came back changed");
                    if round % 2 == 0 {
                        ok(store.delete(&key), &key);
                    }
                }
            });
        }
    });
    assert_eq!(list(store, "data").len(), usize::from(THREADS) * 3);
}

/// Of creators that start together exactly one succeeds, and its bytes stay.
pub fn one_creator(store: &dyn Store) {
    const CREATORS: u8 = 8;
    for round in 0..10 {
        let key = format!("locks/{round}");
        let barrier = Barrier::new(usize::from(CREATORS));
        let winners = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for creator in 0..CREATORS {
                let (key, barrier, winners) = (&key, &barrier, &winners);
                scope.spawn(move || {
                    barrier.wait();
                    match store.create(key, Bytes::from(vec![creator; 1000])) {
                        Ok(()) => winners.lock().unwrap_or_else(PoisonError::into_inner).push(creator),
                        Err(error) => assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}"),
                    }
                });
            }
        });
        let winners = winners.into_inner().unwrap_or_else(PoisonError::into_inner);
        let [winner] = winners[..] else { panic!("{} creators succeeded: {winners:?}", winners.len()) };
        assert!(get(store, &key) == [winner; 1000], "the winner's bytes did not stay");
    }
}

/// Bytes that differ at every place and for every `salt`, so that a shift or a mix-up shows.
fn pattern(length: usize, salt: u8) -> Vec<u8> {
    (0..length as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (n >> 8) as u8 ^ salt)
        .collect()
}

fn put(store: &dyn Store, key: &str, data: &[u8]) {
    ok(store.put(key, Bytes::copy_from_slice(data)), &format!("put {key}"));
}

fn get(store: &dyn Store, key: &str) -> Vec<u8> {
    ok(store.get(key), &format!("get {key}"))
}

fn size(store: &dyn Store, key: &str) -> u64 {
    ok(store.size(key), &format!("size of {key}"))
}

/// Lists into a map, and refuses an object shown twice.
fn list(store: &dyn Store, prefix: &str) -> BTreeMap<String, u64> {
    let mut shown = BTreeMap::new();
    let mut twice = BTreeSet::new();
    let result = store.list(prefix, &mut |Object { key, size }| {
        if shown.insert(key.clone(), size).is_some() {
            twice.insert(key);
        }
        Ok(())
    });
    ok(result, &format!("list {prefix:?}"));
    assert!(twice.is_empty(), "listed twice: {twice:?}");
    shown
}

fn entries(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(key, size)| ((*key).to_owned(), *size)).collect()
}

fn ok<T>(result: crate::Result<T>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn kind<T>(result: crate::Result<T>, expected: ErrorKind, what: &str) {
    match result {
        Ok(_) => panic!("{what}: expected {expected:?}, but it succeeded"),
        Err(error) => assert_eq!(error.kind, expected, "{what}: {error}"),
    }
}
