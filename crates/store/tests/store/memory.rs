//! The store in memory, and pointers to stores.

use std::sync::Arc;

use bytes::Bytes;
use store::{Memory, Store, conformance};

use crate::ALL;

#[test]
fn conforms() {
    conformance::run(ALL, &|| Box::new(Memory::new()));
}

#[test]
fn pointers_to_stores_conform() {
    conformance::run(ALL, &|| {
        let shared: Arc<dyn Store> = Arc::new(Memory::new());
        Box::new(Box::new(shared))
    });
}

#[test]
fn a_snapshot_is_independent() {
    let store = Memory::new();
    store.put("a", Bytes::from_static(b"1")).unwrap();
    let snapshot = store.snapshot();
    store.put("a", Bytes::from_static(b"2")).unwrap();
    store.put("b", Bytes::new()).unwrap();
    assert_eq!(snapshot.get("a").unwrap(), b"1");
    assert_eq!(snapshot.contents().len(), 1);
    snapshot.delete("a").unwrap();
    assert_eq!(store.get("a").unwrap(), b"2");
}
