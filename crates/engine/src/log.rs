//! Points and logs together: which point, and how much of the log behind it, brings a component to an instant.
//!
//! "The latest" is the last position that the archive knows, and the driver is told that very position: a replay that
//! stops before it has failed. What lies behind a gap is never silently left out: without an instant that is before the
//! gap, a recovery is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use estate::component::{Cancel, Component, Log, LogBase, LogPiece, Part, PointFacts, Replay, Replayed};
use estate::facts::Facts;
use jiff::Timestamp;
use repository::Repository;
use repository::log::{Archive, Base, Catalogue as LogCatalogue, NotRestorable, ReadAhead, Target};
use serde::{Deserialize, Serialize};

use crate::point::{Catalogue, Point};
use crate::work::Restored;
use crate::{Error, Result};

/// How a point is brought further; pinned by the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Further {
    /// Where the point stands.
    pub base: LogBase,
    /// The lineage in which the replay ends.
    pub lineage: String,
    /// The position behind the last piece that is replayed.
    pub to: u64,
    /// Whether all that was archived ended there when it was chosen.
    pub is_end: bool,
    /// The instant up to which; all up to `to` if `None`.
    pub at: Option<Timestamp>,
    /// The latest instant that the archive knows of these pieces.
    pub until: Option<Timestamp>,
    /// How much is read, in bytes as they are stored.
    pub bytes: u64,
}

/// What a component is brought back from.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice<'a> {
    /// The point.
    pub point: &'a Point,
    /// The log behind it; `None` where the point alone is what is wanted.
    pub further: Option<Further>,
}

impl Choice<'_> {
    /// The instant to which it leads, as far as that is known before it is done.
    pub fn instant(&self) -> Timestamp {
        let Some(further) = &self.further else { return self.point.instant() };
        let known = further.until.map_or(self.point.instant(), |until| until.max(self.point.instant()));
        further.at.map_or(known, |at| known.min(at))
    }
}

/// Chooses what brings `component` to `at`, or to the latest that there is.
///
/// Fails when there is no such point, and when a gap in the log is in the way.
pub(crate) fn choose<'a>(
    repository: &Repository,
    catalogue: &'a Catalogue,
    component: &str,
    at: Option<Timestamp>,
) -> Result<Choice<'a>> {
    let logged: Vec<&Point> = logged(catalogue, component).collect();
    if logged.is_empty() {
        return Ok(Choice { point: catalogue.choose(component, at)?, further: None });
    }
    let archived = Archive::new(repository, component)?.catalogue()?;
    let along = along_the_log(&logged, &archived, component, at)?;
    // A point may be newer than all of the log: when it was made by hand, or shipping stood still.
    let plain = catalogue.choose(component, at).ok().map(|point| Choice { point, further: None });
    let newest = [along, plain]
        .into_iter()
        .flatten()
        .max_by_key(|choice| (choice.instant(), choice.further.is_some()));
    match newest {
        Some(choice) => Ok(choice),
        // Says why not.
        None => Ok(Choice { point: catalogue.choose(component, at)?, further: None }),
    }
}

/// Says what a run is to restore: the choice, and what goes where.
pub(crate) fn restored(component: &str, choice: &Choice<'_>, parts: Vec<Part>) -> Restored {
    let point = choice.point;
    Restored {
        component: component.to_owned(),
        snapshot: point.snapshot.to_hex(),
        tree: point.tree.to_hex(),
        parts,
        recorded: point.recorded.clone(),
        further: choice.further.clone(),
    }
}

/// The points of a component that count and know where they stand in its log.
pub(crate) fn logged<'a>(catalogue: &'a Catalogue, component: &str) -> impl Iterator<Item = &'a Point> {
    catalogue.of(component).filter(|point| point.counts() && point.recorded.log.is_some())
}

/// What a point is to its log.
pub(crate) fn base(point: &Point) -> Option<Base> {
    let log = point.recorded.log.as_ref()?;
    Some(Base {
        lineage: log.lineage.clone(),
        needed_from: log.needed_from,
        consistent_at: log.consistent_at,
        instant_ms: u64::try_from(point.instant().as_millisecond()).ok(),
    })
}

/// The best way along the log, of all lineages.
fn along_the_log<'a>(
    points: &[&'a Point],
    archived: &LogCatalogue,
    component: &str,
    at: Option<Timestamp>,
) -> Result<Option<Choice<'a>>> {
    let bases: Vec<Base> = points.iter().filter_map(|point| base(point)).collect();
    let mut lineages: Vec<&str> = bases.iter().map(|base| base.lineage.as_str()).collect();
    lineages.extend(archived.lineages().map(|(name, _)| name));
    lineages.sort_unstable();
    lineages.dedup();
    let (mut best, mut in_the_way): (Option<Choice<'a>>, Option<(Timestamp, String)>) = (None, None);
    let mut out_of_reach: Vec<(Timestamp, NotRestorable)> = Vec::new();
    for lineage in lineages {
        let (needed, gap) = match reach(archived, &bases, lineage, at) {
            Ok(reached) => reached,
            Err(why) => {
                out_of_reach.extend(archived_until(archived, lineage, at).map(|until| (until, why)));
                continue;
            }
        };
        let point = points[needed.base];
        let further =
            (needed.to > bases[needed.base].consistent_at || !needed.steps.is_empty()).then(|| Further {
                base: point.recorded.log.clone().expect("only such points are asked"),
                lineage: lineage.to_owned(),
                to: needed.to,
                is_end: true,
                at,
                until: needed.until_ms.and_then(instant),
                bytes: needed.steps.iter().map(|step| u64::from(step.segment.size)).sum(),
            });
        let choice = Choice { point, further };
        if best.as_ref().is_none_or(|best| best.instant() <= choice.instant()) {
            in_the_way = gap.map(|why| (choice.instant(), why));
            best = Some(choice);
        }
    }
    // What was archived behind an interruption and has no base yet is newer than what can be had.
    if let Some(best) = &best
        && let Some((until, why)) = out_of_reach.into_iter().max_by_key(|(until, _)| *until)
        && until > best.instant()
    {
        in_the_way = Some((best.instant(), format!("{why}, which goes up to {until}")));
    }
    if let Some((before, why)) = in_the_way {
        // Without an instant the latest is wanted, and it lies behind the gap; so does an instant behind its beginning.
        if at.is_none_or(|at| at > before) {
            return Err(Error::refused(
                format!(
                    "{component} cannot be brought to {}: {why}",
                    at.map_or("the latest".to_owned(), |at| at.to_string())
                ),
                format!(
                    "what was before the gap comes back with --at {before}; what came after it is lost then"
                ),
            ));
        }
    }
    Ok(best)
}

/// The latest instant that is archived in a lineage which begins before `at`.
fn archived_until(archived: &LogCatalogue, lineage: &str, at: Option<Timestamp>) -> Option<Timestamp> {
    let segments = &archived.get(lineage)?.segments;
    let first = segments.iter().find_map(repository::log::Segment::until_ms).and_then(instant)?;
    let last = segments.iter().filter_map(repository::log::Segment::until_ms).max().and_then(instant)?;
    at.is_none_or(|at| first <= at).then_some(last)
}

/// What is needed to reach `at` in `lineage`, and the gap that hides what comes after, if there is one.
fn reach(
    archived: &LogCatalogue,
    bases: &[Base],
    lineage: &str,
    at: Option<Timestamp>,
) -> std::result::Result<(repository::log::Needed, Option<String>), NotRestorable> {
    let until = |target| archived.needed(bases, lineage, target);
    let needed = match at.and_then(|at| u64::try_from(at.as_millisecond()).ok()) {
        None => until(Target::End)?,
        Some(ms) => match until(Target::InstantMs(ms)) {
            Ok(needed) => return Ok((needed, None)),
            // The log ends before the instant, as far as is known: its end is the newest that there is. Bases behind the
            // instant are out of the question.
            Err(NotRestorable::BeyondEnd { .. } | NotRestorable::Gap { .. }) => {
                let before: Vec<Base> = bases
                    .iter()
                    .map(|base| match base.instant_ms.is_some_and(|instant| instant <= ms) {
                        true => base.clone(),
                        false => Base { lineage: String::new(), ..base.clone() },
                    })
                    .collect();
                archived.needed(&before, lineage, Target::End)?
            }
            Err(other) => return Err(other),
        },
    };
    let gap = archived.get(lineage).and_then(|known| {
        let beyond = known.segments.iter().find(|segment| segment.first > needed.to)?;
        Some(
            NotRestorable::Gap { lineage: lineage.to_owned(), after: needed.to, before: beyond.first }
                .to_string(),
        )
    });
    Ok((needed, gap))
}

/// How long a source may take to archive what a backup needs of its log, and how often one looks.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits until the log that a base needs to be consistent is in the archive, where the source brings it there by itself.
///
/// Fails when it does not come: a backup whose log is not proven to be there does not count.
pub(crate) fn until_archived(
    repository: &Repository,
    component: &str,
    base: &LogBase,
    cancel: &Cancel,
) -> Result<()> {
    let archive = Archive::new(repository, component)?;
    let wanted = Base {
        lineage: base.lineage.clone(),
        needed_from: base.needed_from,
        consistent_at: base.consistent_at,
        instant_ms: None,
    };
    let deadline = Instant::now() + ARCHIVED_WITHIN;
    loop {
        let target = Target::Position(base.consistent_at);
        let needed = archive.catalogue()?.needed(std::slice::from_ref(&wanted), &base.lineage, target);
        let Err(why) = needed else { return Ok(()) };
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::component(component)(estate::Error::Interrupted));
        }
        if Instant::now() > deadline {
            return Err(Error::Failed(format!(
                "the backup of {component} does not count: the log that it needs is not in the archive: {why}; see what the \
                 source says of its archiving"
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Replays the log that a run has pinned on what lies beside. To be called where the place's files are.
///
/// Fails when the archive has lost what it had then, and when the engine stops before the target.
pub(crate) fn replay(
    repository: &Repository,
    driver: &dyn Component,
    restored: &Restored,
    scratch: &Path,
    cancel: &Cancel,
) -> Result<Replayed> {
    let component = &restored.component;
    let Some(further) = &restored.further else {
        return Err(Error::Failed(format!("the run says not how far {component} is to be replayed")));
    };
    let log = driver.log().ok_or_else(|| {
        let message = format!("the driver of {component} replays no log");
        Error::refused(message, "the run is of another version of this program; begin a new one")
    })?;
    let archive = Archive::new(repository, component)?;
    let base = Base {
        lineage: further.base.lineage.clone(),
        needed_from: further.base.needed_from,
        consistent_at: further.base.consistent_at,
        instant_ms: None,
    };
    let needed = archive
        .catalogue()?
        .needed(&[base], &further.lineage, Target::Position(further.to))
        .map_err(|why| {
            Error::Failed(format!("the log of {component} is not what it was when the run began: {why}"))
        })?;
    let pieces = archive.replay(&needed, ReadAhead::default());
    let mut pieces = pieces.map(|read| read.map(piece).map_err(io::Error::other));
    let file = |lineage: &str, name: &str| archive.file(lineage, name).map_err(io::Error::other);
    let replayed = run(log, restored, further, &mut pieces, &file, scratch, cancel)
        .map_err(Error::component(component))?;
    reached(component, further, &replayed)?;
    Ok(replayed)
}

fn run(
    log: &dyn Log,
    restored: &Restored,
    further: &Further,
    pieces: &mut (dyn Iterator<Item = io::Result<LogPiece>> + Send),
    file: &estate::component::LogFile<'_>,
    scratch: &Path,
    cancel: &Cancel,
) -> estate::Result<Replayed> {
    // An instant behind all that the pieces have is their end: an engine would look for something later in vain.
    let at = further.at.filter(|at| further.until.is_some_and(|until| until > *at));
    let (lineage, to) = (further.lineage.as_str(), further.to);
    let replay = Replay { at, lineage, to, is_end: further.is_end, pieces, file, scratch, cancel };
    log.replay(&restored.parts, &restored.recorded, replay)
}

/// Refuses a replay that is not as far as was asked, or farther.
fn reached(component: &str, further: &Further, replayed: &Replayed) -> Result<()> {
    let stopped = match further.at {
        None if replayed.position < further.to => format!(
            "the replay stopped at {:#x}, and the log goes on to {:#x}",
            replayed.position, further.to
        ),
        // The archive counts milliseconds: the last one that it knows is asked for without what comes behind the point.
        Some(at)
            if replayed.instant.is_some_and(|instant| instant.as_millisecond() > at.as_millisecond()) =>
        {
            format!("the replay went beyond {at}")
        }
        _ => return Ok(()),
    };
    Err(Error::Failed(format!("{component}: {stopped}; what is there was not touched")))
}

/// What a proof has to compare with: what was measured at the point's moment is no more true behind a replay, so that
/// the engine's own checks and what the replay itself has shown remain.
pub(crate) fn recorded_after(restored: &Restored) -> Cow<'_, PointFacts> {
    match restored.further {
        None => Cow::Borrowed(&restored.recorded),
        Some(_) => Cow::Owned(PointFacts {
            facts: Facts::default(),
            queries: BTreeMap::new(),
            bytes: None,
            ..restored.recorded.clone()
        }),
    }
}

/// A piece of the archive as drivers know it.
pub(crate) fn piece((lineage, content): (String, repository::log::Content)) -> LogPiece {
    let part = content.part;
    LogPiece {
        lineage,
        first: part.first,
        last: part.last,
        from: part.from_ms.and_then(instant),
        until: part.until_ms.and_then(instant),
        name: part.name,
        bytes: content.bytes.into(),
    }
}

pub(crate) fn instant(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}
