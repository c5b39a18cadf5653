//! Every store and wrapper: the conformance suite, and what is particular to each.

#![expect(clippy::unwrap_used, reason = "the lint exempts tests, but not the functions that they share")]

mod conformance;
mod fault;
mod limit;
mod local;
mod memory;
mod outside;
mod retry;
#[cfg(feature = "s3")]
mod s3;

use store::conformance::Promises;

/// What everything but some S3 servers promises.
const ALL: Promises = Promises { exclusive_create: true };

/// The keys of a whole store, in order.
fn keys(store: &dyn store::Store) -> Vec<String> {
    let mut keys = Vec::new();
    store
        .list("", &mut |object| {
            keys.push(object.key);
            Ok(())
        })
        .unwrap();
    keys.sort();
    keys
}
