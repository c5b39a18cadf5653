//! Who watches a run: the live view, the copy in the repository.

use crate::actions::Progress;
use crate::event::Entry;
use crate::model::StepId;
use crate::state::State;

/// Is told everything that happens in a run, in order.
///
/// `recorded` is called while the run's state is locked, from whatever thread the event happened in: it must be
/// quick and must not wait for anything that the run does. It cannot fail: an observer that has trouble keeps it to itself
/// and catches up later, from the journal's file.
pub trait Observer: Sync {
    /// An entry is in the journal; `line` is its line there with the newline, `state` is what it led to.
    fn recorded(&self, entry: &Entry, line: &str, state: &State);

    /// A running step is doing something; not in the journal.
    fn progress(&self, step: &StepId, progress: &Progress) {
        let _ = (step, progress);
    }

    /// Something beside the run does not work, and the run goes on without it: orders cannot be read.
    fn trouble(&self, message: &str) {
        let _ = message;
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn recorded(&self, _: &Entry, _: &str, _: &State) {}
}
