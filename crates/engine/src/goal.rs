//! What one component is to be brought back to, where that is no instant: the point by itself, a position of its log, or a name
//! that was written into the log.
//!
//! A name is looked up in the archive first, and is the position behind it from then on: what a recovery is told is always a
//! position that the catalogue knows.

use std::collections::{BTreeMap, BTreeSet};

use estate::component::Component;
use jiff::Timestamp;
use repository::Repository;
use repository::log::{Archive, Base, ReadAhead, Target};

use crate::log::{self, Choice, Further, base, logged, piece};
use crate::point::{Catalogue, Point};
use crate::{Error, Result};

/// What a component is brought back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// The latest that there is.
    Latest,
    /// Everything up to this instant.
    At(Timestamp),
    /// The newest recovery point as it is, without the log behind it.
    Immediate,
    /// Everything before this position of the component's log, as its engine writes it: `0/3000028`.
    Position(String),
    /// Everything before the mark of this name in the component's log, such as a restore point of PostgreSQL.
    Name(String),
}

impl Goal {
    /// The instant that is asked for, if one is.
    pub fn instant(&self) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(*at),
            _ => None,
        }
    }
}

/// Chooses what brings `component` to `goal`.
///
/// Fails when the component has no such positions or names, and when what is asked for is not in the archive, or there more than
/// once.
pub(crate) fn choose<'a>(
    repository: &Repository,
    catalogue: &'a Catalogue,
    component: &str,
    driver: &dyn Component,
    goal: &Goal,
) -> Result<Choice<'a>> {
    let no_log = |what: &str| {
        let message = format!("{component} cannot be brought to {what}: it has no archived log with such");
        Error::refused(message, "give an instant, or leave --at out for the latest")
    };
    match goal {
        Goal::Latest => log::choose(repository, catalogue, component, None),
        Goal::At(at) => log::choose(repository, catalogue, component, Some(*at)),
        Goal::Immediate => Ok(Choice { point: catalogue.choose(component, None)?, further: None }),
        Goal::Position(text) => {
            let what = format!("the position {text}");
            let log = driver.log().ok_or_else(|| no_log(&what))?;
            let position = log.position(text).ok_or_else(|| {
                let message = format!("{text:?} is no position in the log of {component}");
                Error::refused(message, "one of PostgreSQL is written like 0/3000028")
            })?;
            at_position(repository, catalogue, component, position, &what, &|_| true)
        }
        Goal::Name(name) => {
            let what = format!("{name:?}");
            let log = driver.log().ok_or_else(|| no_log(&what))?;
            let found = marks(repository, catalogue, component, log, name)?;
            let mut found = found.ok_or_else(|| no_log(&what))?.into_iter();
            match (found.next(), found.next()) {
                (Some((position, those)), None) => {
                    // Another timeline may have the same position, and something else before it.
                    at_position(repository, catalogue, component, position, &what, &|lineage| {
                        those.contains(lineage)
                    })
                }
                (None, _) => Err(Error::refused(
                    format!(
                        "the archived log of {component} has no {name:?} behind its oldest recovery point"
                    ),
                    "a name is found once the segment that it is in is archived; `lifeboat points` shows how far that is",
                )),
                (Some((one, _)), Some((other, _))) => Err(Error::refused(
                    format!(
                        "{name:?} is in the log of {component} more than once: behind {one:#x} and {other:#x}"
                    ),
                    "give the position or an instant instead",
                )),
            }
        }
    }
}

/// The best way to everything before `position`, in the newest of the lineages that has it and that `may_be`.
fn at_position<'a>(
    repository: &Repository,
    catalogue: &'a Catalogue,
    component: &str,
    position: u64,
    what: &str,
    may_be: &dyn Fn(&str) -> bool,
) -> Result<Choice<'a>> {
    let points: Vec<&Point> = logged(catalogue, component).collect();
    let bases: Vec<Base> = points.iter().filter_map(|point| base(point)).collect();
    let archived = Archive::new(repository, component)?.catalogue()?;
    let (mut best, mut why_not) = (None::<(Option<u64>, Choice<'a>)>, None);
    let all = lineages(&bases, archived.lineages().map(|(name, _)| name));
    for lineage in all.into_iter().filter(|lineage| may_be(lineage)) {
        let needed = match archived.needed(&bases, &lineage, Target::Position(position)) {
            Ok(needed) => needed,
            Err(why) => {
                why_not.get_or_insert(why);
                continue;
            }
        };
        let (point, until) = (points[needed.base], needed.until_ms);
        // It lies in one from which this one forked off later, whose own turn comes.
        if needed.steps.last().is_some_and(|step| step.lineage != lineage) {
            continue;
        }
        let further = Further {
            base: point.recorded.log.clone().expect("only such points are asked"),
            lineage,
            to: needed.to,
            is_end: false,
            at: None,
            until: until.and_then(log::instant),
            bytes: needed.steps.iter().map(|step| u64::from(step.segment.size)).sum(),
        };
        if best.as_ref().is_none_or(|(other, _)| *other <= until) {
            best = Some((until, Choice { point, further: Some(further) }));
        }
    }
    best.map(|(_, choice)| choice).ok_or_else(|| {
        let why = why_not.map_or("nothing of it is archived".to_owned(), |why| why.to_string());
        Error::refused(
            format!("{component} cannot be brought to {what}: {why}"),
            "choose what the archive has: `lifeboat points` shows it",
        )
    })
}

/// Finds the positions behind the marks of a name in all that can be replayed, and the lineages that have them there; `None`
/// when the log has no marks.
fn marks(
    repository: &Repository,
    catalogue: &Catalogue,
    component: &str,
    log: &dyn estate::component::Log,
    name: &str,
) -> Result<Option<BTreeMap<u64, BTreeSet<String>>>> {
    let bases: Vec<Base> = logged(catalogue, component).filter_map(base).collect();
    let archive = Archive::new(repository, component)?;
    let archived = archive.catalogue()?;
    let mut found: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for lineage in lineages(&bases, archived.lineages().map(|(name, _)| name)) {
        // From the oldest point that leads there: it has all that the newer ones have.
        let oldest = bases
            .iter()
            .find_map(|base| archived.needed(std::slice::from_ref(base), &lineage, Target::End).ok());
        let Some(needed) = oldest else { continue };
        let pieces = archive.replay(&needed, ReadAhead::default());
        let mut pieces = pieces.map(|read| read.map(piece).map_err(std::io::Error::other));
        match log.marks(name, &mut pieces).map_err(Error::component(component))? {
            Some(positions) => {
                for position in positions {
                    found.entry(position).or_default().insert(lineage.clone());
                }
            }
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

fn lineages<'a>(bases: &'a [Base], archived: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    bases.iter().map(|base| base.lineage.as_str()).chain(archived).map(str::to_owned).collect()
}
