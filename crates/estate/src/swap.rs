//! The swap: what was restored beside takes the place of what was there, and what was there is kept.
//!
//! A plan is plain data, made once, journalled, and carried out as often as it takes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::component::Part;

/// What is to be moved where, for all parts of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapPlan {
    /// The run that it belongs to.
    pub run: String,
    /// Each part's moves, in order.
    pub parts: Vec<PartSwap>,
}

/// One part's moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSwap {
    /// What was restored, beside the target.
    pub beside: PathBuf,
    /// Where it goes.
    pub target: PathBuf,
    /// Where what is at the target is kept: `NAME.before-RUN`.
    pub kept: PathBuf,
    /// Where what was placed goes in a rollback: `NAME.undone-RUN`.
    pub undone: PathBuf,
    /// Endings of files that move together with what is at the target, such as `-wal`.
    pub companions: Vec<String>,
}

/// When a caller is told about a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It is about to be done.
    Before,
    /// It is done and durable.
    After,
}

/// One rename, as it is told to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// From here.
    pub from: PathBuf,
    /// To here.
    pub to: PathBuf,
}

/// Told before and after each move; its error stops the swap between moves.
pub type Told<'a> = &'a mut dyn FnMut(Moment, &Move) -> Result<()>;

/// Plans the swap of `parts` by the run `run`, changing nothing.
///
/// Fails with [`crate::Error::Swap`] when something is at a name that the run would keep the old under.
pub fn plan(run: &str, parts: &[Part]) -> Result<SwapPlan> {
    let _ = (run, parts);
    unimplemented!("is published before it is written")
}

impl SwapPlan {
    /// Carries the plan out, or goes on where an earlier attempt was cut off; done already, it does nothing.
    pub fn apply(&self, told: Told<'_>) -> Result<()> {
        let _ = told;
        unimplemented!("is published before it is written")
    }

    /// Puts back what was kept; what had been placed goes to `NAME.undone-RUN`. Resumes as [`Self::apply`] does.
    pub fn rollback(&self, told: Told<'_>) -> Result<()> {
        let _ = told;
        unimplemented!("is published before it is written")
    }

    /// Removes what was kept, and what a rollback left. Resumes by being called again.
    pub fn commit(&self) -> Result<()> {
        unimplemented!("is published before it is written")
    }

    /// Lists what `commit` would remove: what is kept now.
    pub fn kept(&self) -> Vec<PathBuf> {
        unimplemented!("is published before it is written")
    }
}
