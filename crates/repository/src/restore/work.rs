//! Sharing numbered work out to threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{Context, Error, Result};

/// Does `act` for every number below `count`, in no order; stops at the first error, or when the caller wants.
pub(super) fn for_each(
    threads: usize,
    count: usize,
    context: Context<'_>,
    act: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let outcome = Outcome::default();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || outcome.failed() {
                return;
            }
            outcome.note(context.check().and_then(|()| act(number)));
        }
    };
    let threads = threads.min(count);
    if threads <= 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    outcome.into_result()
}

/// Collects what `make` returns for every number below `count`, in order.
pub(super) fn map<T: Send>(
    threads: usize,
    count: usize,
    context: Context<'_>,
    make: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let slots: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    for_each(threads, count, context, |number| {
        *slots[number].lock().expect("no holder panics") = Some(make(number)?);
        Ok(())
    })?;
    let made = |slot: Mutex<Option<T>>| slot.into_inner().expect("no holder panics");
    Ok(slots.into_iter().map(|slot| made(slot).expect("no error, so every number was done")).collect())
}

/// The first error of several threads, which stops them all.
#[derive(Default)]
pub(super) struct Outcome {
    stopped: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Outcome {
    pub fn failed(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub fn note(&self, result: Result<()>) {
        if let Err(error) = result {
            self.error.lock().expect("no holder panics").get_or_insert(error);
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    pub fn into_result(self) -> Result<()> {
        self.error.into_inner().expect("no holder panics").map_or(Ok(()), Err)
    }
}
