//! Forgetting recovery points by the plan's `keep`: decided, shown, and then done.
//!
//! # What never goes
//! Points of components that the plan does not have or that have no `keep`; of a component of which no point counts, any; the
//! newest that counts; the newest that a verified run brought back; what a recovery uses that is not at its end,
//! or not committed. `decide` has the arithmetic.
//!
//! # Refusals
//! Nothing goes while something is unknown: a record of a point or of a run that cannot be read, a repository that shows no
//! point, a point dated in the future (then this clock was set back, or that one was wrong).
//!
//! # Order of removals, and what a crash leaves
//! Under an exclusive lock, oldest first, for each point:
//! 1. Its snapshot. *From this moment it is no point, because a catalogue believes no record without a snapshot. The
//!    record that is left names what is gone, so every later prune knows it for a rest and removes it.*
//! 2. Its record.
//!
//! The other way round, a crash would leave a snapshot without a record, and nobody could tell it from a backup whose
//! record is still to come. Data and archived logs go with a prune, a week's at once and in two phases.

mod decide;
mod logs;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use repository::prune::{PruneOptions, PruneSummary, plan_prune};
use repository::{Context, FileKind, Lock, Repository};
use runbook::Outcome;
use serde::Serialize;

pub use decide::{Candidate, Why, decide};
pub use logs::PrunedLogs;
#[cfg(test)]
pub(crate) use logs::prune_logs_with;

use crate::point::{Catalogue, Point};
use crate::runs::{self, Kind};
use crate::site::Site;
use crate::{Error, Result};

/// How far clocks may be apart before a point counts as dated in the future; as for snapshots.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(10);
/// How often a backup prunes what was forgotten: seldom, because it looks at every tree.
const PRUNE_EVERY: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Marks of prunes in the repository; each says when by its name.
const PRUNES: &str = "upkeep";
/// A test or drill that is older has ended, whatever its journal says: all of them together may take so long.
const REHEARSAL_MAX: SignedDuration = SignedDuration::from_hours(24);
/// A recovery of another machine that has shown no end for so long was given up.
const ELSEWHERE_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What would be forgotten and what stays; nothing has changed yet.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Retention {
    /// Every component that has a `keep`, in the order of the plan.
    pub components: Vec<ComponentRetention>,
    /// Components of which everything stays, and why.
    pub left_alone: Vec<(String, String)>,
}

/// What becomes of the points of one component, oldest first.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentRetention {
    /// Its name.
    pub component: String,
    /// The points that stay, and why.
    pub keep: Vec<(Point, Vec<Why>)>,
    /// The points that go.
    pub remove: Vec<Point>,
}

/// What was forgotten.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Forgotten {
    /// The points that are gone.
    pub removed: Vec<Point>,
    /// How many of the components' points are left.
    pub kept: usize,
}

impl Retention {
    /// The points that go.
    pub fn remove(&self) -> impl Iterator<Item = &Point> {
        self.components.iter().flat_map(|component| &component.remove)
    }
}

/// Decides what goes of the components `names`, or of all; changes nothing.
///
/// Fails when the plan has no such component, and refuses as the module says.
pub fn plan(site: &Site, names: &[String]) -> Result<Retention> {
    plan_at(site, names, site.now())
}

/// The same, as if it were `now`.
pub(crate) fn plan_at(site: &Site, names: &[String], now: Timestamp) -> Result<Retention> {
    for name in names {
        site.plan.component(name)?;
    }
    let catalogue = site.catalogue()?;
    refuse_unknown(&catalogue, now)?;
    let proven = proven(site)?;
    let used = used(site, now)?;
    let mut retention = Retention::default();
    for (name, declared) in site.plan.components.iter() {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let Some(keep) = &declared.keep else {
            retention.left_alone.push((name.to_owned(), "it has no `keep`".to_owned()));
            continue;
        };
        let points: Vec<&Point> = catalogue.of(name).collect();
        let candidates: Vec<Candidate> = points
            .iter()
            .map(|point| Candidate {
                instant: point.instant(),
                counts: point.counts(),
                proven: proven.contains(&point.identity()),
                used_by: used.get(&point.identity()).cloned(),
            })
            .collect();
        let mut fate =
            ComponentRetention { component: name.to_owned(), keep: Vec::new(), remove: Vec::new() };
        for (point, why) in points.into_iter().zip(decide(keep, &site.zone, &candidates)) {
            if why.is_empty() {
                fate.remove.push(point.clone());
            } else {
                fate.keep.push((point.clone(), why));
            }
        }
        retention.components.push(fate);
    }
    Ok(retention)
}

fn refuse_unknown(catalogue: &Catalogue, now: Timestamp) -> Result<()> {
    if let Some(what) = catalogue.unreadable.first() {
        return Err(Error::refused(
            format!("nothing is forgotten while a record of a recovery point cannot be read: {what}"),
            "see what is damaged with `lifeboat verify --data`",
        ));
    }
    let Some(newest) = catalogue.all().last() else {
        return Err(Error::refused(
            "the repository shows no recovery point of this plan, so nothing is forgotten",
            "make one with `lifeboat backup`; if there were some, see that this is the right repository",
        ));
    };
    if newest.instant().duration_since(now) > CLOCK_TOLERANCE {
        return Err(Error::refused(
            format!(
                "a recovery point of {} is dated in the future ({}, and it is {now} here), so nothing is forgotten: a \
                 clock was wrong",
                newest.component,
                newest.instant()
            ),
            format!(
                "set this clock right; if it is, remove the point with `lifeboat repository forget {}`",
                newest.short()
            ),
        ));
    }
    Ok(())
}

/// A component and the moment of a point: what it is in every repository.
type Identity = (String, Timestamp);

/// The points that verified runs brought back.
fn proven(site: &Site) -> Result<BTreeSet<Identity>> {
    let (records, unreadable) = runs::records(&site.repository)?;
    if let Some(what) = unreadable.first() {
        return Err(Error::refused(
            format!(
                "nothing is forgotten while the record of a run, which may be a proof, cannot be read: {what}"
            ),
            "see what is damaged with `lifeboat verify --data`",
        ));
    }
    let verified = records.into_iter().filter(|record| {
        record.estate == site.estate() && record.outcome == Outcome::Verified && record.kind != Kind::Backup
    });
    let chosen = verified.flat_map(|record| record.chosen);
    Ok(chosen.map(|chosen| (chosen.component, chosen.instant)).collect())
}

/// The points that runs may still need, with the run.
fn used(site: &Site, now: Timestamp) -> Result<BTreeMap<Identity, String>> {
    let local = runs::local(&site.state)?;
    let elsewhere: Vec<String> = runs::copied_open(&site.repository)?
        .into_iter()
        .filter(|id| !local.contains(id) && began_within(id, ELSEWHERE_MAX, now))
        .collect();
    let mut used = BTreeMap::new();
    // Backups bring nothing back, and there are many of them.
    let no_backup = |id: &&String| !id.contains(&format!("-{}-", Kind::Backup.as_str()));
    for id in local.iter().chain(&elsewhere).filter(no_backup) {
        let read = match runs::read(&site.state, Some(&site.repository), id) {
            Ok(read) => read,
            // Begun and killed before its first entry: it has chosen nothing.
            Err(Error::Journal(runbook::journal::JournalError::Empty)) => continue,
            Err(error) => {
                return Err(Error::refused(
                    format!(
                        "nothing is forgotten while run {id}, which may need a point, cannot be read: {error}"
                    ),
                    format!("look at it with `lifeboat report {id}`"),
                ));
            }
        };
        if needs_its_points(&read.state, id, now) {
            let context = runs::context_of(&read.state)?;
            used.extend(
                context.chosen.into_iter().map(|chosen| ((chosen.component, chosen.instant), id.clone())),
            );
        }
    }
    Ok(used)
}

fn needs_its_points(state: &runbook::State, id: &str, now: Timestamp) -> bool {
    let changes = [Kind::Recover, Kind::Restore].iter().any(|kind| kind.as_str() == state.begun().kind);
    if !changes {
        return runs::is_open(state) && began_within(id, REHEARSAL_MAX, now);
    }
    let keeps_the_old = || crate::recover::swaps_of(state).iter().any(|(_, swap)| !swap.kept().is_empty());
    runs::is_open(state) || keeps_the_old()
}

fn began_within(id: &str, age: SignedDuration, now: Timestamp) -> bool {
    // A run whose id says nothing may be of any time.
    runs::began(id).is_none_or(|began| now.duration_since(began) <= age)
}

/// Forgets what was `shown`, as far as it is still to go.
///
/// Everything is decided anew under the lock: what somebody has come to need meanwhile stays. Fails when others
/// hold a lock for longer than a minute.
pub fn carry_out(site: &Site, shown: &Retention, context: Context<'_>) -> Result<Forgotten> {
    let names: Vec<String> = shown.components.iter().map(|component| component.component.clone()).collect();
    let mut forgotten = Forgotten::default();
    if names.is_empty() {
        return Ok(forgotten);
    }
    let repository = &site.repository;
    let was_shown: BTreeSet<Identity> = shown.remove().map(Point::identity).collect();
    if was_shown.is_empty() {
        forgotten.kept = shown.components.iter().map(|component| component.keep.len()).sum();
        return Ok(forgotten);
    }
    let lock = Lock::exclusive(repository, site.lock_options())?;
    let now = plan(site, &names)?;
    let mut remove: Vec<&Point> =
        now.remove().filter(|point| was_shown.contains(&point.identity())).collect();
    remove.sort_by_key(|point| point.instant());
    forgotten.kept =
        now.components.iter().map(|component| component.keep.len() + component.remove.len()).sum();
    for point in remove {
        context.check()?;
        lock.guard().check()?;
        remove_point(repository, point)?;
        forgotten.kept -= 1;
        forgotten.removed.push(point.clone());
    }
    lock.release()?;
    Ok(forgotten)
}

fn remove_point(repository: &Repository, point: &Point) -> Result<()> {
    repository.remove(FileKind::Snapshot, &point.snapshot)?;
    repository.sidecar_remove(&point.name())?;
    Ok(())
}

/// Whether the last prune of this repository is a week ago; of one that was never pruned, its oldest point.
///
/// Without this, what is forgotten would never leave the store.
pub fn prune_is_due(site: &Site) -> Result<bool> {
    let last = match prunes(&site.repository)?.last() {
        Some((_, time)) => Some(*time),
        None => site.catalogue()?.all().first().map(Point::instant),
    };
    Ok(last.is_some_and(|last| site.now().duration_since(last) >= PRUNE_EVERY))
}

/// What a prune did.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// With data.
    pub data: PruneSummary,
    /// With archived logs.
    pub logs: PrunedLogs,
}

/// Prunes data and logs with the usual limits and in two phases, and notes when.
pub fn prune(site: &Site, context: Context<'_>) -> Result<Pruned> {
    let repository = &site.repository;
    let options = PruneOptions { lock: site.lock_options(), ..PruneOptions::default() };
    let report = plan_prune(repository, &options, context)?.execute(context)?;
    let logs = logs::prune_logs(site, context)?;
    let before = prunes(repository)?;
    let name = format!("{PRUNES}/prune-{}", site.now().strftime("%Y%m%dt%H%M%S"));
    repository.sidecar_create(&name, b"")?;
    for (old, _) in before.iter().filter(|(old, _)| *old != name) {
        repository.sidecar_remove(old)?;
    }
    Ok(Pruned { data: report.summary, logs })
}

/// The marks of prunes, the newest last.
fn prunes(repository: &Repository) -> Result<Vec<(String, Timestamp)>> {
    let listed = repository.sidecar_list(PRUNES)?;
    let time = |name: &str| {
        let text = name.rsplit_once("/prune-")?.1;
        let time = jiff::civil::DateTime::strptime("%Y%m%dt%H%M%S", text).ok()?;
        time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    };
    Ok(listed.into_iter().filter_map(|(name, _)| time(&name).map(|time| (name, time))).collect())
}

#[cfg(test)]
pub(crate) mod tests;
