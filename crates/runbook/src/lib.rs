//! Runs a runbook by a journal: resumable after a kill at any point, steered by people, honest about its outcome.
//!
//! Lives here: the runbook as data ([`Runbook`]), the events of a run ([`Event`]), the one function that applies an event
//! to a state ([`State::apply`]), the journal that keeps them ([`journal`]), the executor ([`begin`], [`resume`],
//! [`rollback`]) and the orders of operators ([`Order`]). Does not live here: what an action means. The caller's
//! [`Actions`] know it; this crate knows no component, no plan, no repository and no place.
//!
//! ```text
//!                  orders (Controls)
//!                        │
//!  Runbook ──→ executor ─┴─→ event ──→ journal (fsync) ──→ State::apply ──→ Observer
//!                 ↑  │                    │                      ↑
//!                 │  └── Actions          └── replay after a kill ┘
//!                 └───── State: what is done, what is next
//! ```
//!
//! # Consistency
//! The journal is the state. The executor holds none of its own: it walks the runbook, and asks the [`State`]
//! at every step what is still to be done. An event is checked, written, synced, and then applied; an effect comes only after
//! the event that announces it, and what it led to is written after it.
//!
//! # Crash
//! After a kill the journal is replayed through the same function. Steps that had ended are not touched. A step that had
//! been started is probed (its `done_when`, then [`Actions::probe`]) and, if its effect is not there,
//! performed again. The window that remains, between an effect and its entry, is what probing and
//! [`Action::repeatable`] are for.
//!
//! # Concurrency
//! One process at a time has a journal: it is locked. Within the process, parallel steps record their events
//! one after the other under one lock. Orders of other processes come through a directory beside the journal.

mod actions;
mod clock;
mod event;
mod execute;
pub mod journal;
mod millis;
mod model;
mod observer;
mod order;
mod state;

pub use actions::{
    Actions, Answer, Failure, FailureKind, Performed, Probe, Progress, Proven, StepContext, Undone, Unit,
};
pub use clock::{Clock, SystemClock};
pub use event::{Decision, Entry, Event, Incarnation, Outcome, Question, RunBegun};
pub use execute::{Ended, Environment, Error, Options, begin, commit, resume, rollback};
pub use model::{Action, Body, DEPTH_MAX, InvalidRunbook, OnFailure, Pattern, Remedy, Runbook, Step, StepId};
pub use observer::{NoObserver, Observer};
pub use order::{ControlDirectory, Controls, NoControls, Order, OrderQueue, Verb};
pub use state::{
    IllegalEvent, Incarnated, Interval, PhaseTime, Reason, RemedyState, RunStatus, State, Status, StepState,
    StepView, UndoView, Verdict, Waiting,
};
