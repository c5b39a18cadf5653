//! What operators may want of a run, and how they say it: [`Controls`] is where the executor looks for orders.
//!
//! Orders come from this process ([`OrderQueue`]) or from another one ([`ControlDirectory`], a directory beside the
//! journal). An order has an id, and is obeyed once: the journal's entry of it is its effect, and what is found
//! again after a crash is known by its id.

mod directory;

use std::collections::VecDeque;
use std::io;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use directory::ControlDirectory;

use crate::model::StepId;

/// What someone wants of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Unique, and sorted by time of giving.
    pub id: String,
    /// Who wants it.
    pub by: String,
    /// What.
    pub verb: Verb,
}

impl Order {
    /// Makes an order with an id of its own.
    pub fn new(by: impl Into<String>, verb: Verb) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = Timestamp::now().as_nanosecond();
        Self { id: format!("{now:020}-{}-{count:06}", process::id()), by: by.into(), verb }
    }
}

/// What can be wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Verb {
    /// Begin no further step; those that run go on to their ends.
    Pause,
    /// Go on after a pause.
    Continue,
    /// Say yes.
    Approve {
        /// To which step; `None` if only one waits.
        step: Option<StepId>,
    },
    /// Say no.
    Deny {
        /// To which step; `None` if only one waits.
        step: Option<StepId>,
        /// Why.
        reason: String,
    },
    /// End the run; it can be rolled back, or reopened.
    Abort {
        /// Why.
        reason: String,
    },
    /// Leave a step out, ending it if it runs. In a rollback: leave out its undo that is stuck.
    Skip {
        /// Which.
        step: StepId,
        /// Why.
        reason: String,
    },
    /// Try a step again: one that waits for a decision, one that runs (it is ended first), or, on resuming, one that failed.
    Retry {
        /// Which.
        step: StepId,
    },
    /// Leave out everything before a step that is not done yet. Only before the executor runs, on resuming.
    ContinueFrom {
        /// Which.
        step: StepId,
        /// Why.
        reason: String,
    },
}

/// Where the executor looks for orders, several times a second.
pub trait Controls: Sync {
    /// Returns the orders that have come and are not settled; returning one again does no harm.
    fn take(&self) -> io::Result<Vec<Order>>;

    /// The order is in the journal, obeyed or refused, and need not be returned again.
    fn settled(&self, order: &Order) -> io::Result<()>;
}

/// Nobody can want anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoControls;

impl Controls for NoControls {
    fn take(&self) -> io::Result<Vec<Order>> {
        Ok(Vec::new())
    }

    fn settled(&self, _: &Order) -> io::Result<()> {
        Ok(())
    }
}

/// Orders of this process, from a prompt on the terminal or a web page.
#[derive(Debug, Default)]
pub struct OrderQueue {
    waiting: Mutex<VecDeque<Order>>,
}

impl OrderQueue {
    /// Gives an order.
    pub fn give(&self, order: Order) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
    }
}

impl Controls for OrderQueue {
    fn take(&self) -> io::Result<Vec<Order>> {
        Ok(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect())
    }

    fn settled(&self, _: &Order) -> io::Result<()> {
        Ok(())
    }
}

/// Several sources of orders at once.
impl<A: Controls, B: Controls> Controls for (A, B) {
    fn take(&self) -> io::Result<Vec<Order>> {
        let mut orders = self.0.take()?;
        orders.extend(self.1.take()?);
        Ok(orders)
    }

    fn settled(&self, order: &Order) -> io::Result<()> {
        self.0.settled(order)?;
        self.1.settled(order)
    }
}

impl<C: Controls + ?Sized> Controls for &C {
    fn take(&self) -> io::Result<Vec<Order>> {
        (**self).take()
    }

    fn settled(&self, order: &Order) -> io::Result<()> {
        (**self).settled(order)
    }
}
