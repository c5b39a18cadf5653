//! What happens during an operation, as data: the one stream that bars, JSON lines and reports are made of.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// The parts of operations that have progress of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Loading the index.
    Index,
    /// Walking the sources and saving them.
    Backup,
    /// Reading what is at the target already.
    Compare,
    /// Fetching and writing file contents.
    Restore,
    /// Reading snapshots and trees.
    Trees,
    /// Reading packs.
    Packs,
    /// Writing packs anew.
    Repack,
    /// Copying blobs to another repository.
    Copy,
    /// Removing files of the repository.
    Delete,
}

/// How a source item compares with the parent snapshot, or a target item with what is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Was not there.
    New,
    /// Was there and differs.
    Changed,
    /// Is as it was.
    Unchanged,
}

/// One thing that happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A task has begun.
    Begin(Task),
    /// This much more work is known to exist.
    Expect {
        /// The task.
        task: Task,
        /// Files, packs or whatever the task counts.
        items: u64,
        /// Bytes.
        bytes: u64,
    },
    /// This much more work is done.
    Advance {
        /// The task.
        task: Task,
        /// Files, packs or whatever the task counts.
        items: u64,
        /// Bytes.
        bytes: u64,
    },
    /// An item is about to be worked on.
    Current(&'a Path),
    /// An item is finished.
    Item {
        /// The item.
        path: &'a Path,
        /// How it compares.
        change: Change,
        /// Its size in bytes.
        bytes: u64,
    },
    /// Something went wrong with one item; the operation goes on and its result will say so too.
    Problem {
        /// The item: a path or an object of the repository.
        item: &'a str,
        /// What went wrong.
        error: &'a str,
    },
    /// A task has ended.
    End(Task),
}

/// Receives the events of an operation, from several threads.
pub trait Observer: Sync {
    /// Takes one event; must return soon.
    fn observe(&self, event: Event<'_>);
}

/// Takes no notice.
impl Observer for () {
    fn observe(&self, _event: Event<'_>) {}
}

/// What every long operation is given by its caller: where to tell events, and the wish to stop.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Receives the events.
    pub observer: &'a dyn Observer,
    /// Set by the caller when the operation is to stop at the next safe point.
    pub cancel: &'a AtomicBool,
}

impl Context<'static> {
    /// A context without observer that is never cancelled.
    pub fn silent() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self { observer: &(), cancel: &NEVER }
    }
}

impl Context<'_> {
    /// Hands `event` to the observer.
    pub fn tell(&self, event: Event<'_>) {
        self.observer.observe(event);
    }

    /// Fails with [`Error::Interrupted`] once the caller has asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
