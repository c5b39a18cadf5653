//! Each fault happens when and where it was ordered, and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::clock::{Clock, ManualClock};
use store::fault::{Effect, Filter, Operation};
use store::{ErrorKind, Fault, Memory, Store, conformance};

use crate::{ALL, keys};

fn data(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn kind<T>(result: store::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind)
}

#[test]
fn conforms_when_healthy() {
    conformance::run(ALL, &|| Box::new(Fault::new(Memory::new())));
}

#[test]
fn fails_the_nth_match_only() {
    let store = Fault::new(Memory::new());
    let filter = Filter::of(&[Operation::Put]).at("data").only(2);
    store.inject(filter, Effect::Fail(ErrorKind::Denied));
    let put = |key| kind(store.put(key, Bytes::new()));
    assert_eq!(
        [put("data/1"), put("other"), put("data/2"), put("data/3")],
        [None, None, Some(ErrorKind::Denied), None]
    );
    assert_eq!(keys(store.inner()), ["data/1", "data/3", "other"]);
    let error = {
        store.inject(Filter::any().at("config").first(1), Effect::Fail(ErrorKind::Unavailable));
        store.get("config").unwrap_err()
    };
    assert_eq!(
        error.to_string(),
        "failed to read config in memory: it was told to fail as Unavailable (injected)"
    );
    assert_eq!(kind(store.get("config")), Some(ErrorKind::NotFound));
}

#[test]
fn loses_the_acknowledgement_of_what_it_did() {
    let store = Fault::new(Memory::new());
    store.inject(Filter::of(&[Operation::Create]).only(1), Effect::LoseAcknowledgement);
    assert_eq!(kind(store.create("a", data("x"))), Some(ErrorKind::Unavailable));
    assert_eq!(store.get("a").unwrap(), b"x");
    assert_eq!(kind(store.create("a", data("x"))), Some(ErrorKind::AlreadyExists));
}

#[test]
fn flips_a_bit_by_its_place_in_the_object() {
    let store = Fault::new(Memory::new());
    store.put("a", data("abcdef")).unwrap();
    store.inject(Filter::any().at("a"), Effect::FlipBit { at: 3, bit: 0 });
    assert_eq!(store.get("a").unwrap(), b"abceef");
    let mut buffer = Vec::new();
    for (range, seen) in [(2..5, &b"cee"[..]), (3..4, b"e"), (0..3, b"abc"), (4..6, b"ef")] {
        store.get_range("a", range, &mut buffer).unwrap();
        assert_eq!(buffer, seen);
    }
    store.heal();
    assert_eq!(store.get("a").unwrap(), b"abcdef");
}

#[test]
fn cuts_an_object() {
    let store = Fault::new(Memory::new());
    store.put("a", data("abcdef")).unwrap();
    store.inject(Filter::any().at("a"), Effect::Truncate(4));
    let mut buffer = Vec::new();
    assert_eq!(store.get("a").unwrap(), b"abcd");
    assert_eq!(store.size("a").unwrap(), 4);
    store.get_range("a", 1..4, &mut buffer).unwrap();
    assert_eq!(buffer, b"bcd");
    assert_eq!(kind(store.get_range("a", 1..5, &mut buffer)), Some(ErrorKind::Truncated));
}

#[test]
fn lists_what_was_a_few_writes_ago() {
    let store = Fault::new(Memory::new());
    store.stale_listing(2);
    for key in ["1", "2", "3"] {
        store.put(key, Bytes::new()).unwrap();
    }
    assert_eq!(keys(&store), ["1"]);
    store.put("4", Bytes::new()).unwrap();
    assert_eq!(keys(&store), ["1", "2"]);
    assert!(store.get("4").is_ok(), "only listings are stale");
    store.heal();
    assert_eq!(keys(&store), ["1", "2", "3", "4"]);
}

#[test]
fn fills_up() {
    let store = Fault::new(Memory::new());
    store.fill_after(10);
    store.put("a", data("123456")).unwrap();
    assert_eq!(kind(store.put("b", data("12345"))), Some(ErrorKind::Full));
    assert_eq!(kind(store.create("b", data("12345"))), Some(ErrorKind::Full));
    store.put("c", data("1234")).unwrap();
    assert_eq!(keys(&store), ["a", "c"]);
}

#[test]
fn is_slow_by_its_clock() {
    let clock = Arc::new(ManualClock::new());
    let store = Fault::new(Memory::new()).with_clock(clock.clone());
    store.inject(Filter::of(&[Operation::Get]), Effect::Delay(Duration::from_secs(30)));
    store.put("a", Bytes::new()).unwrap();
    assert_eq!(clock.now(), Duration::ZERO);
    store.get("a").unwrap();
    assert_eq!(clock.now(), Duration::from_secs(30));
}

/// Three durable operations among others; returns whether all of them were acknowledged.
fn work(store: &dyn Store) -> store::Result<()> {
    store.put("a", data("1"))?;
    store.get("a")?;
    store.create("b", data("2"))?;
    store.size("b")?;
    store.delete("a")
}

#[test]
fn every_crash_point_can_be_reached() {
    let whole = Fault::new(Memory::new());
    work(&whole).unwrap();
    let log: Vec<String> = whole.durable_log().iter().map(ToString::to_string).collect();
    assert_eq!(log, ["Put a", "Create b", "Delete a"]);
    assert_eq!(whole.log().len(), 5);

    let states: [&[&str]; 4] = [&[], &["a"], &["a", "b"], &["b"]];
    for n in 1..=3 {
        let before = Fault::new(Memory::new());
        before.freeze_before(n as u64);
        assert_eq!(kind(work(&before)), Some(ErrorKind::Unavailable));
        assert_eq!(keys(before.inner()), states[n - 1], "before {n}");

        let after = Fault::new(Memory::new());
        after.freeze_after(n as u64);
        assert_eq!(kind(work(&after)), Some(ErrorKind::Unavailable), "the {n}th must not be acknowledged");
        assert_eq!(keys(after.inner()), states[n], "after {n}");
        assert!(after.is_frozen());
        assert_eq!(kind(after.get("a")), Some(ErrorKind::Unavailable), "reads fail, too");
        assert_eq!(kind(after.put("z", Bytes::new())), Some(ErrorKind::Unavailable));
        after.heal();
        after.put("z", Bytes::new()).unwrap();
    }
}

#[test]
fn random_failures_repeat_with_their_seed() {
    let run = |seed| {
        let store = Fault::new(Memory::new());
        store.fail_at_random(seed, 30);
        let results: Vec<Option<String>> =
            (0..200).map(|n| store.put(&format!("{n}"), Bytes::new()).err().map(|e| e.to_string())).collect();
        (results, keys(store.inner()).len())
    };
    let (results, arrived) = run(42);
    assert_eq!((results.clone(), arrived), run(42));
    assert_ne!(results, run(43).0);
    let failed = results.iter().flatten().count();
    assert!((30..=90).contains(&failed), "{failed} of 200 failed");
    assert!(arrived > 200 - failed && arrived < 200, "some of the {failed} must have arrived: {arrived}");
    assert!(results.iter().flatten().all(|text| text.contains("seed 42")));
}
