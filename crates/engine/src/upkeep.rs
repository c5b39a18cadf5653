//! What follows the backup of a component: its copies get it, and what `keep` does not keep is forgotten.
//!
//! The point that was made stands whatever becomes of this. What was left out makes the run *not proven*.

use repository::{Context, Repository};
use runbook::{Performed, Proven};
use serde_json::json;

use crate::perform::Performer;
use crate::point::Point;
use crate::site::Site;
use crate::units::counted;
use crate::{Error, Result, copies, retain};

/// Brings a component's points to a copy, and looks whether the newest has arrived.
pub(crate) fn copy(
    performer: &Performer<'_>,
    component: &str,
    number: usize,
    context: Context<'_>,
) -> Result<Performed> {
    let site = performer.site;
    let declared = site.copies.get(number).ok_or_else(|| {
        Error::refused(format!("the plan has no copy {}", number + 1), "the journal is of another plan")
    })?;
    let location = &declared.location;
    let brought = match open(performer, number) {
        Err(why) => Err(why),
        Ok(target) => match bring(site, target, component, location, context) {
            Err(Error::Repository(repository::Error::Interrupted)) => {
                return Err(Error::Repository(repository::Error::Interrupted));
            }
            other => other.map_err(|error| error.to_string()),
        },
    };
    brought.or_else(|why| {
        let known = match copies::recall(site, location) {
            Some(seen) => seen.age(component, site.now()),
            None => "it was never seen from here, so its age is not known".to_owned(),
        };
        let why = format!(
            "the copy {location} did not get {component}: {why}; {known}; the point itself stands; bring the copy up to \
             date with `lifeboat copy`"
        );
        Ok(Performed { proven: Proven::Not(why.clone()), ..Performed::new(why) })
    })
}

fn bring(
    site: &Site,
    target: &Repository,
    component: &str,
    location: &str,
    context: Context<'_>,
) -> Result<Performed> {
    let report = copies::update(site, target, Some(component), context)?;
    let there = copies::catalogue(site, target)?;
    copies::remember(site, location, &there);
    let main = site.catalogue()?;
    if let Some(newest) = main.newest(component)
        && !copies::lag_of(newest, &there).is_current()
    {
        return Err(Error::Failed(format!(
            "its newest point, {}, is not there after the copy",
            newest.short()
        )));
    }
    let summary = format!("{} copied, as new as the repository", counted(report.points, "point", "points"));
    Ok(Performed { proven: Proven::Shown(summary.clone()), ..Performed::new(summary) }.with_output(json!({
        "points": report.points,
        "bytes_added": report.written.sealed_bytes,
    })))
}

fn open<'a>(performer: &'a Performer<'_>, number: usize) -> std::result::Result<&'a Repository, String> {
    let opened = performer.copies[number].get_or_init(|| performer.site.copies[number].open());
    opened.as_ref().map_err(Clone::clone)
}

/// Applies a component's `keep` to the repository and to the copies that can be reached, after the run `run` has made
/// a point of it.
pub(crate) fn forget(
    performer: &Performer<'_>,
    component: &str,
    run: &str,
    context: Context<'_>,
) -> Result<Performed> {
    let site = performer.site;
    // A listing that lacks what was just written is a stale one, and nothing is forgotten by it.
    if site.catalogue()?.of(component).next_back().is_none_or(|newest| newest.run != run) {
        let why = format!(
            "the repository does not show the point of {component} that was just made, so nothing is forgotten"
        );
        return Ok(Performed { proven: Proven::Not(why.clone()), ..Performed::new(why) });
    }
    let mut told = Vec::new();
    let mut removed = Vec::new();
    let mut left_out = Vec::new();
    for place in places(performer) {
        let Place { name, site } = place;
        match forget_in(&site, component, context) {
            Ok(done) => {
                told.push(format!("{name}{}", done.0));
                removed.extend(done.1);
            }
            Err(Error::Repository(repository::Error::Interrupted)) => {
                return Err(Error::Repository(repository::Error::Interrupted));
            }
            // Others are at work there; the next backup forgets.
            Err(Error::Repository(error @ repository::Error::Locked { .. })) => {
                told.push(format!("{name}left to the next backup: {error}"));
            }
            Err(Error::Refused { message, hint }) => left_out.push(format!("{name}{message}; {hint}")),
            Err(error) => left_out.push(format!("{name}{error}")),
        }
    }
    let removed: Vec<_> = removed
        .iter()
        .map(|point| json!({ "snapshot": point.snapshot.to_hex(), "instant": point.instant() }))
        .collect();
    let performed = Performed::new(told.join("; ")).with_output(json!({ "removed": removed }));
    Ok(match left_out.as_slice() {
        [] => performed,
        some => performed.with_proven(Proven::Not(some.join("; "))),
    })
}

/// A repository whose points are kept by the plan.
struct Place {
    /// What messages begin with: nothing for the repository itself.
    name: String,
    site: Site,
}

fn places(performer: &Performer<'_>) -> Vec<Place> {
    let mut places = vec![Place { name: String::new(), site: performer.site.clone() }];
    for (number, copy) in performer.site.copies.iter().enumerate() {
        // One that is away was told of when it did not get the point.
        if let Ok(target) = open(performer, number) {
            let site = performer.site.of_copy(target.clone());
            places.push(Place { name: format!("in the copy {}: ", copy.location), site });
        }
    }
    places
}

/// Forgets, and prunes when a week is over; what was done in words, and the points that are gone.
fn forget_in(site: &Site, component: &str, context: Context<'_>) -> Result<(String, Vec<Point>)> {
    let shown = retain::plan(site, &[component.to_owned()])?;
    let kept_by = rules(&shown);
    let forgotten = retain::carry_out(site, &shown, context)?;
    let mut told = match forgotten.removed.as_slice() {
        [] => format!("nothing to forget, {} kept ({kept_by})", forgotten.kept),
        gone => {
            let names: Vec<String> =
                gone.iter().map(|point| format!("{} of {}", point.short(), minute(point))).collect();
            format!("forgot {}; {} kept ({kept_by})", names.join(", "), forgotten.kept)
        }
    };
    if retain::prune_is_due(site)? {
        let retain::Pruned { data, logs } = retain::prune(site, context)?;
        told += &format!(
            "; pruned: {} packs deleted, {} marked",
            data.delete.packs,
            data.mark.packs + data.repack.packs
        );
        if logs.removed + logs.marked > 0 {
            told += &format!("; of logs, {} segments deleted, {} marked", logs.removed, logs.marked);
        }
    }
    Ok((told, forgotten.removed))
}

fn minute(point: &Point) -> String {
    point.instant().strftime("%Y-%m-%d %H:%MZ").to_string()
}

/// How many points each rule keeps.
fn rules(shown: &retain::Retention) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    let reasons =
        shown.components.iter().flat_map(|component| component.keep.iter().flat_map(|(_, why)| why));
    for why in reasons {
        let why = why.to_string();
        match counts.iter_mut().find(|(known, _)| *known == why) {
            Some((_, count)) => *count += 1,
            None => counts.push((why, 1)),
        }
    }
    counts.iter().map(|(why, count)| format!("{why} {count}")).collect::<Vec<_>>().join(", ")
}
