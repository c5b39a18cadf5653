//! Repairing what a check found: the index, damaged packs, and snapshots that lost something, in this order.
//!
//! Each is planned under an exclusive lock, shown, and executed. Each first makes durable what replaces
//! something, and then removes what is replaced; so a crash leaves both, which harms nobody, and the same repair
//! can be planned again. Nothing that can still be read is given up.

mod index;
mod packs;
mod snapshots;

use crate::{Context, Error, Index, IndexProblem, Repository, Result};

pub use index::{HeaderRead, RepairIndexOptions, RepairIndexPlan, RepairIndexReport, plan_repair_index};
pub use packs::{PackSalvage, RepairPacksPlan, RepairPacksReport, plan_repair_packs};
pub use snapshots::{
    Loss, LossKind, RepairSnapshotsOptions, RepairSnapshotsPlan, RepairSnapshotsReport, SnapshotRepair,
    plan_repair_snapshots,
};

/// Loads an index without any problem; repairs of packs and snapshots build on one.
fn load_sound_index(repository: &Repository, context: Context<'_>) -> Result<Index> {
    let (index, problems) = Index::load_tolerant(repository, context)?;
    let problem = problems.into_iter().find(|problem| !matches!(problem, IndexProblem::Contradiction { .. }));
    match problem {
        None => Ok(index),
        Some(problem) => Err(Error::Refused(format!("{problem}; repair the index first"))),
    }
}
