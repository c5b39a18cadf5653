//! The bandwidth limit, by a clock that jumps.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::clock::{Clock, ManualClock};
use store::limit::Bandwidth;
use store::{Limit, Memory, Store, conformance};

use crate::ALL;

/// 1000 bytes a second up, 500 down.
fn limited() -> (Limit<Memory>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let bandwidth = Bandwidth { upload: NonZeroU64::new(1000), download: NonZeroU64::new(500) };
    (Limit::with_clock(Memory::new(), bandwidth, clock.clone()), clock)
}

#[test]
fn conforms() {
    conformance::run(ALL, &|| {
        let bandwidth = Bandwidth { upload: NonZeroU64::new(1), download: NonZeroU64::new(1) };
        Box::new(Limit::with_clock(Memory::new(), bandwidth, Arc::new(ManualClock::new())))
    });
    conformance::run(ALL, &|| Box::new(Limit::new(Memory::new(), Bandwidth::default())));
}

#[test]
fn uploads_take_their_time() {
    let (store, clock) = limited();
    for n in 0..10 {
        store.put(&format!("{n}"), Bytes::from(vec![0; 2000])).unwrap();
    }
    store.create("c", Bytes::new()).unwrap();
    assert_eq!(clock.now(), Duration::from_secs(20));
}

#[test]
fn downloads_take_their_time_and_do_not_wait_for_uploads() {
    let (store, clock) = limited();
    store.put("a", Bytes::from(vec![0; 100_000])).unwrap();
    assert_eq!(clock.now(), Duration::ZERO, "the first upload need not wait");
    let mut buffer = Vec::new();
    store.get_range("a", 0..2000, &mut buffer).unwrap();
    assert_eq!(clock.now(), Duration::from_secs(4));
    store.get("a").unwrap();
    assert_eq!(clock.now(), Duration::from_secs(204));
    store.size("a").unwrap();
    store.list("", &mut |_| Ok(())).unwrap();
    assert_eq!(clock.now(), Duration::from_secs(204));
}

#[test]
fn a_long_pause_saves_up_one_second_only() {
    let (store, clock) = limited();
    store.put("a", Bytes::new()).unwrap();
    clock.advance(Duration::from_secs(1000));
    for _ in 0..4 {
        store.put("a", Bytes::from(vec![0; 1000])).unwrap();
    }
    assert_eq!(clock.now(), Duration::from_secs(1002));
}
