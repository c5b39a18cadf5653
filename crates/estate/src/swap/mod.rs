//! The swap: what was restored beside takes the place of what was there, and what was there is kept.
//!
//! A [`SwapPlan`] is plain data, made once, journalled, and carried out as often as it takes.
//!
//! # Order of the moves, and what a crash leaves
//! For each part: (1) what is at the target becomes
//! `NAME.before-RUN`; (2) its companions (`NAME-wal`) become `NAME.before-RUN-wal`, so that the kept database
//! can be opened as it was; (3) what lies beside becomes the target. Each is one rename that never
//! overwrites, and its directory is synced before the next. After (1) the target is missing, never half
//! there; a program that makes a new one meanwhile makes the swap fail, not lose it. No companion of the old
//! ever lies next to the new.
//!
//! What has been done is read from the disk, by names that are the run's own: a part is placed exactly when
//! nothing lies beside any more and something is at the target. So a plan goes on wherever it was cut off,
//! and does nothing when it is done.
//!
//! # Concurrency
//! Whoever uses the target must have been stopped; [`crate::component::Component::prepare`] looks for that.

mod rename;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::component::{Part, appended};
use crate::{Error, Result};

pub use rename::remove;

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
/// Fails with [`Error::Swap`] when something is at a name that the run would keep the old under, or when
/// nothing was restored beside.
pub fn plan(run: &str, parts: &[Part]) -> Result<SwapPlan> {
    let plan = SwapPlan::of(run, parts);
    for part in &plan.parts {
        if !is_there(&part.beside)? {
            let why = format!("nothing was restored to {}", part.beside.display());
            return Err(Error::Swap { path: part.target.clone(), why });
        }
        let names = [&part.kept, &part.undone];
        let companions = names.into_iter().flat_map(|name| with_companions(name, &part.companions));
        for name in companions {
            if is_there(&name)? {
                let why =
                    "an earlier run keeps something there: commit or roll back that run first".to_owned();
                return Err(Error::Swap { path: name, why });
            }
        }
    }
    Ok(plan)
}

impl SwapPlan {
    /// The moves for `parts` by the run `run`, before anything was restored and without a look at the disk.
    pub fn of(run: &str, parts: &[Part]) -> Self {
        let parts = parts.iter().map(|part| PartSwap {
            beside: part.beside.clone(),
            target: part.target.clone(),
            kept: appended(&part.target, &format!(".before-{run}")),
            undone: appended(&part.target, &format!(".undone-{run}")),
            companions: part.companions.clone(),
        });
        Self { run: run.to_owned(), parts: parts.collect() }
    }

    /// Carries the plan out, or goes on where an earlier attempt was cut off; done already, it does nothing.
    ///
    /// Fails with [`Error::Swap`] when the disk holds what none of its moves can have left; nothing is
    /// overwritten then, and [`Self::rollback`] still puts the old back.
    pub fn apply(&self, told: Told<'_>) -> Result<()> {
        self.parts.iter().try_for_each(|part| part.place(told))
    }

    /// Puts back what was kept; what had been placed goes to `NAME.undone-RUN`. Resumes as [`Self::apply`]
    /// does.
    ///
    /// A part that was never placed stays beside. Fails with [`Error::Swap`] when something that is not ours
    /// is at a target.
    pub fn rollback(&self, told: Told<'_>) -> Result<()> {
        self.parts.iter().rev().try_for_each(|part| part.undo(told))
    }

    /// Removes what was kept, and what a rollback left. Resumes by being called again.
    ///
    /// Fails with [`Error::Swap`] as long as a part is neither placed nor rolled back: what is kept may be
    /// all there is.
    pub fn commit(&self) -> Result<()> {
        for part in &self.parts {
            if !part.is_settled()? {
                return Err(
                    part.refused("it is neither replaced nor rolled back: finish the one or the other first")
                );
            }
        }
        self.kept().iter().try_for_each(|path| remove(path))
    }

    /// Lists what [`Self::commit`] would remove now.
    pub fn kept(&self) -> Vec<PathBuf> {
        let names = self.parts.iter().flat_map(|part| {
            let both = [&part.kept, &part.undone].into_iter();
            both.flat_map(|name| with_companions(name, &part.companions)).collect::<Vec<_>>()
        });
        names.filter(|path| fs::symlink_metadata(path).is_ok()).collect()
    }

    /// Tells whether every part is in its place.
    pub fn is_applied(&self) -> Result<bool> {
        for part in &self.parts {
            if is_there(&part.beside)? || !is_there(&part.target)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl PartSwap {
    /// Keeps the old and places the new, from whatever state an earlier attempt left.
    fn place(&self, told: Told<'_>) -> Result<()> {
        if is_there(&self.undone)? {
            return Err(self.refused("this run was rolled back: restore again with a new run"));
        }
        if !is_there(&self.beside)? {
            return if is_there(&self.target)? {
                Ok(())
            } else {
                Err(self.refused("neither it nor what was restored beside is there: restore again"))
            };
        }
        rename::to_disk(&self.beside)?;
        // Something at the target although the old is kept already was put there since, and is nobody's to
        // move.
        if is_there(&self.target)? && is_there(&self.kept)? {
            return Err(self.refused(
                "something was put there while it was being replaced: stop what did, and move it away",
            ));
        }
        self.shift(&self.target, &self.kept, told)?;
        rename::told(&self.beside, &self.target, told)
    }

    /// Takes the new away and puts the old back.
    ///
    /// Until the old has left its kept name, companions at the target belong to what was placed; after that,
    /// to the old.
    fn undo(&self, told: Told<'_>) -> Result<()> {
        let placed = !is_there(&self.beside)?;
        let (undone, kept, target) =
            (is_there(&self.undone)?, is_there(&self.kept)?, is_there(&self.target)?);
        if kept && target && (undone || !placed) {
            return Err(self.refused("something was put there since: stop what did, and move it away"));
        }
        if placed && (!undone || kept || !target) {
            self.shift(&self.target, &self.undone, told)?;
        }
        if kept || is_there(&rename::halfway(&self.target))? {
            rename::told(&self.kept, &self.target, told)?;
        }
        // A log that was there without its database stays where it is: nothing could use it.
        if is_there(&self.target)? { self.shift_companions(&self.kept, &self.target, told) } else { Ok(()) }
    }

    /// Tells whether nothing that is kept can still be needed: the part is placed, or all of the old is back.
    fn is_settled(&self) -> Result<bool> {
        let mut companions = false;
        for path in with_companions(&self.kept, &self.companions).iter().skip(1) {
            companions |= is_there(path)?;
        }
        let (undone, kept, target) =
            (is_there(&self.undone)?, is_there(&self.kept)?, is_there(&self.target)?);
        let placed = !is_there(&self.beside)? && target && !undone;
        let rolled_back = undone && !kept && !(target && companions);
        Ok(placed || rolled_back || !(kept || companions))
    }

    /// Moves a file or directory, if there is one, then its companions.
    fn shift(&self, from: &Path, to: &Path, told: Told<'_>) -> Result<()> {
        if is_there(from)? || is_there(&rename::halfway(to))? {
            rename::told(from, to, told)?;
        }
        self.shift_companions(from, to, told)
    }

    fn shift_companions(&self, from: &Path, to: &Path, told: Told<'_>) -> Result<()> {
        for ending in &self.companions {
            let (from, to) = (appended(from, ending), appended(to, ending));
            if is_there(&from)? {
                rename::told(&from, &to, told)?;
            }
        }
        Ok(())
    }

    fn refused(&self, why: &str) -> Error {
        Error::Swap { path: self.target.clone(), why: why.to_owned() }
    }
}

fn with_companions(path: &Path, endings: &[String]) -> Vec<PathBuf> {
    std::iter::once(path.to_owned()).chain(endings.iter().map(|ending| appended(path, ending))).collect()
}

/// Tells whether something has that name, be it a dangling link.
fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at", path)(error)),
    }
}
