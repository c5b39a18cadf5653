//! The wrapper whose requests are carried out by threads of its own.

use std::sync::Arc;

use store::{ErrorKind, Memory, Outside, Store, conformance};

use crate::ALL;

#[test]
fn conforms() {
    conformance::run(ALL, &|| Box::new(Outside::new(Arc::new(Memory::new()))));
}

#[test]
fn errors_come_through() {
    let outside = Outside::new(Arc::new(Memory::new()));
    assert_eq!(outside.get("config").unwrap_err().kind, ErrorKind::NotFound);
}
