//! The suite itself: a store that breaks a promise must not pass.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use store::fault::{Effect, Filter, Operation};
use store::{ErrorKind, Fault, Memory, Object, Result, Store, conformance};

use crate::ALL;

/// What the suite says of the stores that `new` makes; `None` when it is content.
fn verdict(new: conformance::Factory<'_>) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| conformance::run(ALL, new))).err()?;
    Some(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a thread panicked".to_owned()))
}

fn verdict_on_fault(filter: &Filter, effect: Effect) -> Option<String> {
    verdict(&|| {
        let fault = Fault::new(Memory::new());
        fault.inject(filter.clone(), effect);
        Box::new(fault)
    })
}

#[test]
fn damage_and_loss_are_noticed() {
    let get = Filter::of(&[Operation::Get]);
    let range = Filter::of(&[Operation::GetRange]);
    for (filter, effect, promise) in [
        (get.clone(), Effect::FlipBit { at: 0, bit: 3 }, "is read back"),
        (get.clone(), Effect::Truncate(2), "is read back"),
        (range, Effect::FlipBit { at: 77, bit: 0 }, "ranges"),
        (get.at("data/ff"), Effect::Truncate(1 << 20), "a large object"),
        (Filter::of(&[Operation::Size]), Effect::Truncate(0), "is read back"),
        (Filter::of(&[Operation::Delete]), Effect::LoseAcknowledgement, "a create does not replace"),
    ] {
        let text = verdict_on_fault(&filter, effect).expect("the suite passes a damaged store");
        assert!(text.contains(promise), "{text}");
    }
    let stale = verdict(&|| {
        let fault = Fault::new(Memory::new());
        fault.stale_listing(1);
        Box::new(fault)
    });
    assert!(stale.is_some(), "the suite passes a stale listing");
}

/// How a store may be wrong in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// `create` looks first and writes then.
    CreateRaces,
    /// A prefix matches what begins alike.
    PrefixWithoutSlash,
    /// Deleting twice is an error.
    DeleteNotRepeatable,
    /// A range past the end returns what there is.
    ShortRange,
    /// The second thousand of a listing is lost.
    FirstPageOnly,
    /// A key that leads out is taken without a word.
    AnyKeyGoes,
}

#[derive(Debug)]
struct Flawed(Memory, Flaw);

impl Store for Flawed {
    fn location(&self) -> String {
        self.0.location()
    }

    fn put(&self, key: &str, data: Bytes) -> Result<()> {
        if self.1 == Flaw::AnyKeyGoes && key.contains("..") {
            return Ok(());
        }
        self.0.put(key, data)
    }

    fn create(&self, key: &str, data: Bytes) -> Result<()> {
        if self.1 == Flaw::CreateRaces && self.0.size(key).is_err_and(|e| e.kind == ErrorKind::NotFound) {
            std::thread::sleep(std::time::Duration::from_millis(2));
            return self.0.put(key, data);
        }
        self.0.create(key, data)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.0.get(key)
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        let end = if self.1 == Flaw::ShortRange { range.end.min(self.0.size(key)?) } else { range.end };
        self.0.get_range(key, range.start..end, buffer)
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.0.size(key)
    }

    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let mut shown = 0;
        let whole = if self.1 == Flaw::PrefixWithoutSlash { "" } else { prefix };
        self.0.list(whole, &mut |object| {
            shown += 1;
            let lost = self.1 == Flaw::FirstPageOnly && shown > 1000;
            if lost || !object.key.starts_with(prefix) { Ok(()) } else { found(object) }
        })
    }

    fn delete(&self, key: &str) -> Result<()> {
        if self.1 == Flaw::DeleteNotRepeatable {
            self.0.size(key)?;
        }
        self.0.delete(key)
    }

    fn parallelism(&self) -> usize {
        1
    }
}

#[test]
fn every_flaw_is_found() {
    for (flaw, promise) in [
        (Flaw::CreateRaces, "of several creators one succeeds"),
        (Flaw::PrefixWithoutSlash, "below the prefix"),
        (Flaw::DeleteNotRepeatable, "a delete may be repeated"),
        (Flaw::ShortRange, "ranges"),
        (Flaw::FirstPageOnly, "more than two pages"),
        (Flaw::AnyKeyGoes, "bad keys"),
    ] {
        let text = verdict(&|| Box::new(Flawed(Memory::new(), flaw)));
        let text = text.unwrap_or_else(|| panic!("the suite passes {flaw:?}"));
        assert!(text.contains(promise), "{flaw:?}: {text}");
    }
}
