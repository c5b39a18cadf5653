//! Doing one thing to many items on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::event::{Event, Task};
use crate::{Context, Error, FileKind, Id, Repository, Result};

/// More threads would hold more packs in memory and gain nothing: reading is bounded by the cores or by the line.
const THREADS_MAX: usize = 8;

/// How many threads reading `repository` is worth: one a core, and enough to keep the store busy.
pub(crate) fn threads_for(repository: &Repository) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    repository.store().parallelism().min(2 * cores).max(cores).clamp(2, THREADS_MAX)
}

/// How many threads moving blobs is worth: one a core, for the writer beside them holds a pack for each upload.
pub(crate) fn threads_to_write() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, THREADS_MAX)
}

/// Calls `work` with every item, in order of their start; each thread has a state of its own.
///
/// The first failure, or the caller's wish to stop, ends it; items in work are finished.
pub(crate) fn in_parallel<T: Sync, S>(
    items: &[T],
    threads: usize,
    context: Context<'_>,
    new_state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let run = || {
        let mut state = new_state();
        while !stopped.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = context.check().and_then(|()| work(&mut state, item)) {
                failure.lock().expect("no holder panics").get_or_insert(error);
                stopped.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(run);
        }
    });
    failure.into_inner().expect("no holder panics").map_or(Ok(()), Err)
}

/// Removes files of one kind; goes on where one cannot be removed and returns those.
pub(crate) fn remove_all(
    repository: &Repository,
    kind: FileKind,
    ids: &[Id],
    context: Context<'_>,
) -> Result<Vec<(Id, Error)>> {
    context.tell(Event::Expect { task: Task::Delete, items: ids.len() as u64, bytes: 0 });
    let failures = Mutex::new(Vec::new());
    let threads = repository.store().parallelism().clamp(1, THREADS_MAX);
    in_parallel(
        ids,
        threads,
        context,
        || (),
        |(), id| {
            if let Err(error) = repository.remove(kind, id) {
                let item = format!("{kind} {id}");
                context.tell(Event::Problem { item: &item, error: &error.to_string() });
                failures.lock().expect("no holder panics").push((*id, error));
            }
            context.tell(Event::Advance { task: Task::Delete, items: 1, bytes: 0 });
            Ok(())
        },
    )?;
    Ok(failures.into_inner().expect("no holder panics"))
}
