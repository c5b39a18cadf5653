//! The retry wrapper: what it repeats, for how long, and the lost acknowledgement.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use store::clock::{Clock, ManualClock};
use store::fault::{Effect, Filter, Operation};
use store::retry::Budget;
use store::{Error, ErrorKind, Fault, Memory, Retry, Store, conformance};

use crate::{ALL, keys};

const SECOND: Duration = Duration::from_secs(1);
const BUDGET: Budget = Budget {
    attempts: 4,
    total: Duration::from_secs(100),
    first_delay: SECOND,
    longest_delay: Duration::from_secs(3),
};

type Faulty = Arc<Fault<Memory>>;

/// A retry over a faulty memory, that memory, and the clock that the retry sleeps by.
fn faulty(budget: Budget) -> (Retry<Faulty>, Faulty, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let fault = Arc::new(Fault::new(Memory::new()));
    let store = Retry::new(fault.clone(), budget).with_clock(clock.clone(), 1);
    (store, fault, clock)
}

#[test]
fn conforms() {
    conformance::run(ALL, &|| Box::new(Retry::new(Memory::new(), Budget::DEFAULT)));
}

/// The suite again with every tenth operation failing, half of the writes after they happened. A case that
/// breaks shows the store, and with it the seed.
#[test]
fn conforms_over_an_unreliable_store() {
    let seed = 20;
    conformance::run(ALL, &|| {
        let fault = Fault::new(Memory::new());
        fault.fail_at_random(seed, 10);
        let budget = Budget { attempts: 50, total: Duration::from_secs(1 << 30), ..Budget::DEFAULT };
        Box::new(Retry::new(fault, budget).with_clock(Arc::new(ManualClock::new()), seed))
    });
}

#[test]
fn repeats_what_is_transient_and_tells_of_it() {
    let (store, fault, clock) = faulty(BUDGET);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let store = store.observed_by(Arc::new(move |error: &Error, delay| {
        log.lock().unwrap().push((error.kind, delay));
    }));
    fault.inject(Filter::any().first(3), Effect::Fail(ErrorKind::Unavailable));
    store.put("a", Bytes::from_static(b"x")).unwrap();
    assert_eq!(fault.log().len(), 4);
    let seen = seen.lock().unwrap();
    let limits = [(SECOND / 2, SECOND), (SECOND, SECOND * 2), (SECOND * 3 / 2, SECOND * 3)];
    assert_eq!(seen.len(), limits.len());
    for ((kind, delay), (least, most)) in seen.iter().zip(limits) {
        assert_eq!(*kind, ErrorKind::Unavailable);
        assert!(*delay >= least && *delay <= most, "a pause of {delay:?}");
    }
    assert_eq!(clock.now(), seen.iter().map(|(_, delay)| *delay).sum());
}

#[test]
fn repeats_nothing_else() {
    for kind in
        [ErrorKind::NotFound, ErrorKind::Denied, ErrorKind::Full, ErrorKind::Truncated, ErrorKind::Other]
    {
        let (store, fault, clock) = faulty(BUDGET);
        fault.inject(Filter::any(), Effect::Fail(kind));
        assert_eq!(store.get("a").unwrap_err().kind, kind);
        assert_eq!((fault.log().len(), clock.now()), (1, Duration::ZERO), "{kind:?}");
    }
}

#[test]
fn gives_up_after_its_attempts_and_says_so() {
    let (store, fault, _) = faulty(BUDGET);
    fault.freeze();
    let error = store.get("a").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(fault.log().len(), 4);
    let text = error.to_string();
    assert!(
        text.starts_with("failed to read a in memory: the store is frozen (injected) (tried 4 times in ")
    );
}

#[test]
fn gives_up_when_its_time_is_over() {
    let budget = Budget { attempts: u32::MAX, total: Duration::from_secs(60), ..BUDGET };
    let (store, fault, clock) = faulty(budget);
    fault.freeze();
    assert_eq!(store.delete("a").unwrap_err().kind, ErrorKind::Unavailable);
    assert!(
        clock.now() <= Duration::from_secs(60) && clock.now() >= Duration::from_secs(57),
        "{:?}",
        clock.now()
    );
}

#[test]
fn a_create_whose_answer_was_lost_succeeds() {
    let (store, fault, _) = faulty(BUDGET);
    fault.inject(Filter::of(&[Operation::Create]).only(1), Effect::LoseAcknowledgement);
    store.create("a", Bytes::from_static(b"mine")).unwrap();
    assert_eq!(fault.inner().get("a").unwrap(), b"mine");
}

#[test]
fn a_create_that_lost_to_another_fails() {
    let (store, fault, _) = faulty(BUDGET);
    fault.inner().put("a", Bytes::from_static(b"theirs")).unwrap();
    fault.inject(Filter::of(&[Operation::Create]).only(1), Effect::Fail(ErrorKind::Unavailable));
    let error = store.create("a", Bytes::from_static(b"mine")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(fault.inner().get("a").unwrap(), b"theirs");
}

#[test]
fn without_a_failure_before_equal_bytes_are_still_someone_elses() {
    let (store, fault, _) = faulty(BUDGET);
    fault.inner().put("a", Bytes::from_static(b"same")).unwrap();
    let error = store.create("a", Bytes::from_static(b"same")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
}

#[test]
fn the_check_of_a_lost_answer_is_repeated_too() {
    let (store, fault, _) = faulty(BUDGET);
    fault.inject(Filter::of(&[Operation::Create]).only(1), Effect::LoseAcknowledgement);
    fault.inject(Filter::of(&[Operation::Get]).only(1), Effect::Fail(ErrorKind::Unavailable));
    store.create("a", Bytes::from_static(b"mine")).unwrap();
}

#[test]
fn a_listing_that_breaks_off_shows_nothing_twice() {
    let (store, fault, _) = faulty(BUDGET);
    for key in ["1", "2", "3"] {
        store.put(key, Bytes::new()).unwrap();
    }
    fault.inject(Filter::of(&[Operation::List]).only(1), Effect::LoseAcknowledgement);
    assert_eq!(keys(&store), ["1", "2", "3"]);
    assert_eq!(fault.log().iter().filter(|call| call.operation == Operation::List).count(), 2);
}
