//! A component's log on a time line: to which instants it can be brought, and where there is a gap.

use std::collections::BTreeMap;

use jiff::Timestamp;
use repository::Repository;
use repository::log::{Archive, Base, Catalogue as Archived, Gap, Lineage, Span};
use serde::Serialize;

use crate::Result;
use crate::log::{base, logged};
use crate::logs::error;
use crate::point::{Catalogue, Point};

/// What the log of a component makes of its points.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timeline {
    /// The component.
    pub component: String,
    /// Where every instant can be had, by lineage and time.
    pub stretches: Vec<Stretch>,
    /// Where the log is interrupted behind the oldest point.
    pub gaps: Vec<Interruption>,
    /// The points that the log cannot make use of.
    pub without: Vec<Without>,
    /// The latest instant that is known of all that is archived, reachable or not.
    pub archived_to: Option<Timestamp>,
}

/// A stretch in which the component can be brought to any instant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stretch {
    /// The lineage in which it ends.
    pub lineage: String,
    /// Its first instant: that of its oldest point.
    pub begin: Timestamp,
    /// Its last instant that is known.
    pub end: Timestamp,
    /// The position of its first instant.
    pub first: u64,
    /// The position behind the end.
    pub last: u64,
    /// The instants of its points, in order.
    pub points: Vec<Timestamp>,
}

/// A gap in the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interruption {
    /// The lineage.
    pub lineage: String,
    /// Up to which position it is whole.
    pub after: u64,
    /// From which position on it goes on.
    pub before: u64,
    /// The latest instant that is known before it.
    pub since: Option<Timestamp>,
    /// The first instant behind it that can be had by the log; `None` as long as no point leads there.
    pub until: Option<Timestamp>,
    /// Whether it hides what is newest: something later than all that can be had is behind it.
    pub hides_newest: bool,
}

/// A point from which the log leads nowhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Without {
    /// The moment of the point.
    pub instant: Timestamp,
    /// Why.
    pub why: String,
}

impl Timeline {
    /// The latest instant to which the component can be brought by its log.
    pub fn end(&self) -> Option<Timestamp> {
        self.stretches.iter().map(|stretch| stretch.end).max()
    }

    /// The gap that hides what is newest, if there is one.
    pub fn alarm(&self) -> Option<&Interruption> {
        self.gaps.iter().find(|gap| gap.hides_newest)
    }
}

impl Interruption {
    /// Says in words what is missing, and what to do.
    pub fn alarm(&self, component: &str) -> String {
        let since = self.since.map_or_else(|| "an unknown instant".to_owned(), |since| since.to_string());
        format!(
            "the log has a gap from {:#x} to {:#x} of {}, and nothing after {since} can be had by it; archive what is \
             missing while the source still has it, or begin anew with `lifeboat backup {component}`",
            self.after, self.before, self.lineage
        )
    }
}

/// Looks at the log of `component`; `None` when nothing of it is archived.
pub fn timeline(repository: &Repository, catalogue: &Catalogue, component: &str) -> Result<Option<Timeline>> {
    let archived = Archive::new(repository, component)
        .and_then(|archive| archive.catalogue())
        .map_err(error(component))?;
    let points: Vec<&Point> = logged(catalogue, component).collect();
    if archived.lineages().all(|(_, lineage)| lineage.segments.is_empty()) && points.is_empty() {
        return Ok(None);
    }
    Ok(Some(draw(component, &points, &archived)))
}

fn draw(component: &str, points: &[&Point], archived: &Archived) -> Timeline {
    let bases: Vec<Base> = points.iter().filter_map(|point| base(point)).collect();
    let (spans, without) = archived.spans(&bases);
    let stretches = stretches(points, &bases, &spans);
    let gaps = archived.gaps();
    let gaps = gaps.into_iter().filter(|gap| {
        let own = bases.iter().filter(|base| base.lineage == gap.lineage);
        own.map(|base| base.needed_from).min().is_none_or(|oldest| oldest < gap.before)
    });
    let newest = points.iter().map(|point| point.instant()).chain(stretches.iter().map(|one| one.end)).max();
    let gaps = gaps.map(|gap| interruption(gap, archived, &stretches, newest)).collect();
    let without = without
        .into_iter()
        .map(|(number, why)| Without { instant: points[number].instant(), why: why.to_string() })
        .collect();
    let latest = |lineage: &Lineage| lineage.runs.iter().filter_map(|run| run.until_ms).max();
    let archived_to = archived.lineages().filter_map(|(_, lineage)| latest(lineage)).max().and_then(instant);
    Timeline { component: component.to_owned(), stretches, gaps, without, archived_to }
}

fn interruption(
    gap: Gap,
    archived: &Archived,
    stretches: &[Stretch],
    newest: Option<Timestamp>,
) -> Interruption {
    let behind = stretches.iter().filter(|one| one.lineage == gap.lineage && one.first >= gap.before);
    let until = behind.map(|stretch| stretch.begin).min();
    let runs = archived.get(&gap.lineage).map_or(&[][..], |lineage| &lineage.runs);
    let later = runs.iter().filter(|run| run.first >= gap.before).filter_map(|run| run.until_ms).max();
    // Of an engine that tells no instants, whatever is behind it may be the newest.
    let is_newer = later.and_then(instant).is_none_or(|later| newest.is_none_or(|newest| later > newest));
    Interruption {
        since: gap.since_ms.and_then(instant),
        until,
        hides_newest: until.is_none() && is_newer,
        lineage: gap.lineage,
        after: gap.after,
        before: gap.before,
    }
}

/// Joins the spans that end at the same place: one for each unbroken way.
fn stretches(points: &[&Point], bases: &[Base], spans: &[Span]) -> Vec<Stretch> {
    let mut joined: BTreeMap<(&str, u64), Stretch> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.end > bases[span.base].consistent_at) {
        let begin = points[span.base].instant();
        let end = span.end_ms.and_then(instant).unwrap_or(begin).max(begin);
        let stretch = joined.entry((span.lineage.as_str(), span.end)).or_insert_with(|| Stretch {
            lineage: span.lineage.clone(),
            begin,
            end,
            first: span.begin,
            last: span.end,
            points: Vec::new(),
        });
        if begin < stretch.begin {
            (stretch.begin, stretch.first) = (begin, span.begin);
        }
        stretch.end = stretch.end.max(end);
        stretch.points.push(begin);
    }
    let mut stretches: Vec<Stretch> = joined.into_values().collect();
    stretches.iter_mut().for_each(|stretch| stretch.points.sort_unstable());
    stretches.sort_by(|a, b| (a.begin, a.end, &a.lineage).cmp(&(b.begin, b.end, &b.lineage)));
    stretches
}

fn instant(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}
