//! What can be restored: spans from bases along the log, and the segments that a restore needs.

use std::ops::Range;

use super::catalogue::{Catalogue, Lineage};
use super::error::NotRestorable;
use super::name::{Link, Segment};

/// A state of the component from which the log can be replayed: a snapshot and where it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The lineage in which its positions are.
    pub lineage: String,
    /// The position from which on the log is needed.
    pub needed_from: u64,
    /// The position at which the state is consistent; not before `needed_from`.
    pub consistent_at: u64,
    /// The instant of that state, in milliseconds since 1970.
    pub instant_ms: Option<u64>,
}

/// What is to be restored, in some lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All that there is in one unbroken chain.
    End,
    /// Everything before this position.
    Position(u64),
    /// Everything up to this instant, in milliseconds since 1970.
    InstantMs(u64),
}

/// A stretch in which every instant can be restored: a base and the unbroken log behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The number of the base.
    pub base: usize,
    /// The lineage in which it ends: the base's, or one that continues it.
    pub lineage: String,
    /// Where it begins: where the base is consistent.
    pub begin: u64,
    /// The instant of the base.
    pub begin_ms: Option<u64>,
    /// The position up to which it goes.
    pub end: u64,
    /// The latest instant known up to there.
    pub end_ms: Option<u64>,
}

/// The segments that a restore needs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The number of the base from which it begins.
    pub base: usize,
    /// What to read.
    pub steps: Vec<Step>,
    /// The position that is reached.
    pub to: u64,
    /// The latest instant known up to there.
    pub until_ms: Option<u64>,
}

/// A segment of which the parts between two positions are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its lineage.
    pub lineage: String,
    /// The segment.
    pub segment: Segment,
    /// Parts that end here or before are not needed.
    pub from: u64,
    /// Parts that begin here or behind are not needed.
    pub to: u64,
}

/// The way through one lineage.
struct Leg<'a> {
    name: &'a str,
    lineage: Option<&'a Lineage>,
    from: u64,
    /// Where the next lineage forks off.
    to: Option<u64>,
    /// What the chain's value must be at `from`, where the lineage forked off.
    link: Option<Link>,
}

/// How far a leg goes.
struct Extent {
    segments: Range<usize>,
    end: u64,
    /// Where the log goes on behind a gap.
    beyond: Option<u64>,
}

/// The way from a base to a lineage, and how far it goes.
struct Way<'a> {
    legs: Vec<(Leg<'a>, Extent)>,
}

type Reached<T> = std::result::Result<T, NotRestorable>;

impl Catalogue {
    /// The spans of `bases`, and why the others have none.
    ///
    /// A base has one span for its lineage and one for each lineage that continues it. One that has no log yet
    /// spans the one instant at which it is consistent, if it needs no log for that.
    pub fn spans(&self, bases: &[Base]) -> (Vec<Span>, Vec<(usize, NotRestorable)>) {
        let (mut spans, mut without) = (Vec::new(), Vec::new());
        for (number, base) in bases.iter().enumerate() {
            match self.span(number, base, &base.lineage) {
                Ok(span) => spans.push(span),
                Err(why) => without.push((number, why)),
            }
            let others = self.lineages.keys().filter(|name| **name != base.lineage);
            spans.extend(others.filter_map(|lineage| self.span(number, base, lineage).ok()));
        }
        (spans, without)
    }

    fn span(&self, number: usize, base: &Base, lineage: &str) -> Reached<Span> {
        let way = self.way(base, lineage)?;
        let (end, until_ms) = way.resolve(base, Target::End)?;
        Ok(Span {
            base: number,
            lineage: lineage.to_owned(),
            begin: base.consistent_at,
            begin_ms: base.instant_ms,
            end: end.1,
            end_ms: until_ms.max(base.instant_ms),
        })
    }

    /// What is needed to restore `target` in `lineage` from the latest of `bases` that leads there unbroken.
    ///
    /// Fails with the reason of the base that comes nearest when none does.
    pub fn needed(&self, bases: &[Base], lineage: &str, target: Target) -> Reached<Needed> {
        let mut best: Option<((u64, u64), Needed)> = None;
        let mut nearest: Option<(u64, NotRestorable)> = None;
        for (number, base) in bases.iter().enumerate() {
            let order = (base.consistent_at, base.needed_from);
            match self.needed_from(number, base, lineage, target) {
                Ok(needed) if best.as_ref().is_none_or(|(other, _)| *other < order) => {
                    best = Some((order, needed));
                }
                Ok(_) | Err(NotRestorable::NoBase { .. }) => {}
                Err(why) if nearest.as_ref().is_none_or(|(other, _)| *other < order.0) => {
                    nearest = Some((order.0, why));
                }
                Err(_) => {}
            }
        }
        match (best, nearest) {
            (Some((_, needed)), _) => Ok(needed),
            (None, Some((_, why))) => Err(why),
            (None, None) => Err(NotRestorable::NoBase { lineage: lineage.to_owned() }),
        }
    }

    fn needed_from(&self, number: usize, base: &Base, lineage: &str, target: Target) -> Reached<Needed> {
        let no_base = || NotRestorable::NoBase { lineage: lineage.to_owned() };
        let before_base = match target {
            Target::End => false,
            Target::Position(position) => position < base.consistent_at,
            Target::InstantMs(instant) => base.instant_ms.is_none_or(|base| instant < base),
        };
        if before_base {
            return Err(no_base());
        }
        let mut way = self.way(base, lineage)?;
        if let Target::Position(position) = target {
            way.leave_at(position);
        }
        let ((legs, to), until_ms) = way.resolve(base, target)?;
        let steps = way.legs[..legs].iter().enumerate().flat_map(|(leg_number, (leg, extent))| {
            let end = if leg_number + 1 == legs { to } else { leg.to.unwrap_or(to) };
            let segments = leg.lineage.map_or(&[][..], |lineage| &lineage.segments[extent.segments.clone()]);
            let needed = segments.iter().take_while(move |segment| segment.first < end);
            needed.map(move |segment| Step {
                lineage: leg.name.to_owned(),
                segment: *segment,
                from: segment.first.max(leg.from),
                to: segment.last.min(end),
            })
        });
        Ok(Needed { base: number, steps: steps.collect(), to, until_ms })
    }

    /// Finds the way from `base` to `lineage`; every leg but the last is whole.
    fn way(&self, base: &Base, lineage: &str) -> Reached<Way<'_>> {
        let no_base = || NotRestorable::NoBase { lineage: lineage.to_owned() };
        if base.needed_from > base.consistent_at {
            return Err(no_base());
        }
        let (mut legs, mut name, mut to, mut passed) = (Vec::new(), lineage, None, false);
        // A lineage that continues itself in a circle is nonsense and ends nowhere.
        for _ in 0..=self.lineages.len() {
            let found = self.lineages.get_key_value(name);
            let is_base = name == base.lineage;
            if (is_base && to.is_some_and(|to| base.consistent_at > to)) || (!is_base && found.is_none()) {
                return Err(no_base());
            }
            passed |= is_base;
            let fork = found.and_then(|(_, lineage)| lineage.forks.first());
            let fork = fork.filter(|fork| !passed || base.needed_from < fork.position);
            let from = fork.map_or(base.needed_from, |fork| fork.position);
            legs.push(Leg {
                name: found.map_or("", |(name, _)| name),
                lineage: found.map(|(_, lineage)| lineage),
                from,
                to,
                link: fork.map(|fork| fork.link),
            });
            match fork {
                Some(fork) => (name, to) = (&fork.parent, Some(fork.position)),
                None if passed => return Way::along(legs, &base.lineage),
                None => return Err(no_base()),
            }
        }
        Err(no_base())
    }
}

impl<'a> Way<'a> {
    /// Goes along legs that were found from the end.
    fn along(legs: Vec<Leg<'a>>, base_lineage: &str) -> Reached<Self> {
        let mut way = Self { legs: Vec::with_capacity(legs.len()) };
        for leg in legs.into_iter().rev() {
            let extent = leg.extent()?;
            if let Some(to) = leg.to
                && to > extent.end
            {
                return Err(leg.ends(&extent, base_lineage));
            }
            way.legs.push((leg, extent));
        }
        Ok(way)
    }

    /// Leaves out the lineages that fork off behind `position`.
    fn leave_at(&mut self, position: u64) {
        while self.legs.len() > 1 && self.legs.last().is_some_and(|(leg, _)| leg.from > position) {
            self.legs.pop();
            if let Some((leg, _)) = self.legs.last_mut() {
                leg.to = None;
            }
        }
    }

    /// Finds where `target` is: how many legs lead there, the position, and the latest instant known up to there.
    fn resolve(&self, base: &Base, target: Target) -> Reached<((usize, u64), Option<u64>)> {
        let (legs, to) = match target {
            Target::End => (self.legs.len(), self.last().1.end),
            Target::Position(position) => (self.legs.len(), position),
            Target::InstantMs(instant) => self.find_instant(base, instant)?,
        };
        let to = to.max(base.consistent_at);
        let (leg, extent) = &self.legs[legs - 1];
        if to > extent.end {
            return Err(leg.ends(extent, &base.lineage));
        }
        Ok(((legs, to), self.until(legs, to)))
    }

    fn last(&self) -> &(Leg<'a>, Extent) {
        self.legs.last().expect("a way has a leg")
    }

    /// The end of the first segment in which something is later than `instant`: nothing behind it is needed.
    fn find_instant(&self, base: &Base, instant: u64) -> Reached<(usize, u64)> {
        let mut latest = base.instant_ms;
        for (number, (leg, extent)) in self.legs.iter().enumerate() {
            for segment in leg.segments(extent) {
                latest = latest.max(segment.until_ms());
                let end = segment.last.min(leg.to.unwrap_or(u64::MAX));
                if segment.until_ms().is_some_and(|until| until > instant) && end >= base.consistent_at {
                    return Ok((number + 1, end));
                }
            }
        }
        let (leg, extent) = self.last();
        if latest == Some(instant) {
            Ok((self.legs.len(), extent.end))
        } else {
            Err(leg.ends(extent, &base.lineage))
        }
    }

    fn until(&self, legs: usize, to: u64) -> Option<u64> {
        let segments = self.legs[..legs].iter().flat_map(|(leg, extent)| leg.segments(extent));
        segments.take_while(|segment| segment.first < to).filter_map(Segment::until_ms).max()
    }
}

impl<'a> Leg<'a> {
    fn segments(&self, extent: &Extent) -> &'a [Segment] {
        let all = self.lineage.map_or(&[][..], |lineage| &lineage.segments[extent.segments.clone()]);
        let end = self.to.unwrap_or(u64::MAX);
        &all[..all.partition_point(|segment| segment.first < end)]
    }

    /// How far the log is unbroken from the leg's beginning.
    fn extent(&self) -> Reached<Extent> {
        let nothing = |beyond| Extent { segments: 0..0, end: self.from, beyond };
        let Some(lineage) = self.lineage else { return Ok(nothing(None)) };
        let Some(number) = lineage.at(self.from) else {
            let next = lineage.segments.partition_point(|segment| segment.first < self.from);
            return Ok(nothing(lineage.segments.get(next).map(|segment| segment.first)));
        };
        let segment = &lineage.segments[number];
        if self.link.is_some_and(|link| segment.first != self.from || segment.before != link) {
            return Ok(nothing(Some(self.from)));
        }
        let run = lineage.run_at(self.from).expect("a segment is in a run");
        let beyond = lineage.segments.get(run.segments.end).map(|segment| segment.first);
        Ok(Extent { segments: number..run.segments.end, end: run.last, beyond })
    }

    /// Why nothing behind the extent can be had.
    fn ends(&self, extent: &Extent, base_lineage: &str) -> NotRestorable {
        let lineage = if self.name.is_empty() { base_lineage } else { self.name }.to_owned();
        match extent.beyond {
            Some(before) => NotRestorable::Gap { lineage, after: extent.end, before },
            None => {
                let last_ms = self.segments(extent).iter().filter_map(Segment::until_ms).max();
                NotRestorable::BeyondEnd { lineage, last: extent.end, last_ms }
            }
        }
    }
}
