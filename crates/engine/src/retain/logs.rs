//! Retention of archived logs: what no point that is left needs any more goes, in two phases like data.
//!
//! A log lies in the repository by its component alone, so the points of every estate in it say what is needed. Nothing
//! goes of a component none of whose points knows its log: then the points were lost, and not the need for the log.

use repository::log::{Archive, Base, CompactOptions, Error as LogError, RetainOptions};
use repository::{Context, Lock};
use serde::Serialize;

use crate::Result;
use crate::log::base;
use crate::logs::components;
use crate::point::{Catalogue, Point};
use crate::site::Site;

/// What a prune did with archived logs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PrunedLogs {
    /// Segments that are gone.
    pub removed: u64,
    /// Their bytes in the store.
    pub removed_bytes: u64,
    /// Segments that are marked, to go with a prune a day or more from now.
    pub marked: u64,
    /// Small segments that became one with their neighbours.
    pub joined: u64,
    /// Components of whose logs everything stays, and why.
    pub left_alone: Vec<(String, String)>,
}

/// Marks and removes what no point needs of the logs of every component, and joins small segments.
pub(super) fn prune_logs(site: &Site, context: Context<'_>) -> Result<PrunedLogs> {
    prune_logs_with(site, &RetainOptions::default(), context)
}

pub(crate) fn prune_logs_with(
    site: &Site,
    options: &RetainOptions,
    context: Context<'_>,
) -> Result<PrunedLogs> {
    let mut pruned = PrunedLogs::default();
    let names = components(&site.repository, site.plan.components.names())?;
    if names.is_empty() {
        return Ok(pruned);
    }
    let lock = Lock::exclusive(&site.repository, site.lock_options())?;
    // Under the lock, so that no point is forgotten or comes meanwhile.
    let catalogue = Catalogue::of_every_estate(&site.repository, &site.state.join("cache"))?;
    for name in &names {
        context.check()?;
        lock.guard().check()?;
        match prune_log(site, &catalogue, name, options, context, &mut pruned) {
            Ok(()) => {}
            Err(LogError::Repository(error)) => return Err(error.into()),
            // What is damaged or contradicts is told by status and verify; the others are pruned all the same.
            Err(other) => pruned.left_alone.push((name.clone(), other.to_string())),
        }
    }
    lock.release()?;
    Ok(pruned)
}

fn prune_log(
    site: &Site,
    catalogue: &Catalogue,
    component: &str,
    options: &RetainOptions,
    context: Context<'_>,
    pruned: &mut PrunedLogs,
) -> repository::log::Result<()> {
    let archive = Archive::new(&site.repository, component)?;
    let archived = archive.catalogue()?;
    if archived.lineages().all(|(_, lineage)| lineage.segments.is_empty()) {
        return Ok(());
    }
    if let Some(what) = catalogue.unreadable.first() {
        let why = format!("a record of a recovery point, which may need it, cannot be read: {what}");
        return Err(LogError::Refused(why));
    }
    // Points that do not count need their logs too: as long as one is there, it can be restored.
    let bases: Vec<Base> = catalogue.of(component).filter_map(|point: &Point| base(point)).collect();
    let report = archive.plan_retention(&bases, options)?.execute(context)?;
    pruned.removed += report.removed;
    pruned.removed_bytes += report.removed_bytes;
    pruned.marked += report.marked;
    for (lineage, _) in archived.lineages() {
        pruned.joined += archive.compact(lineage, &CompactOptions::default(), context)?.removed;
    }
    Ok(())
}
