//! The catalogue: what a listing alone tells about lineages, their chains, gaps and forks.
//!
//! A segment takes 64 bytes here, and while its lineage is sorted out, up to 210. Making it is one listing and one sort:
//! time grows with the number of segments, and a little with its logarithm.
//!
//! # Which segments count
//! Of segments that contradict each other, that of the later writer counts: what the earlier wrote after the later had
//! begun was never acknowledged (see `fence`), and what it wrote before, the later has seen and not contradicted.
//! Where segments say the same (the parts of an interrupted compaction and what they became), those
//! count from which the chain goes farthest, and of these the fewest.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use super::fence::Marks;
use super::name::{self, Fork, Link, Segment, unescape};
use super::{Archive, Result};

/// What is in the archive of a component.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    pub(super) lineages: BTreeMap<String, Lineage>,
    /// How many objects have names that say nothing to this program.
    pub unknown: u64,
}

/// What is there of one lineage.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    /// The segments that count, in order, none overlapping another.
    pub segments: Vec<Segment>,
    /// Its unbroken stretches, in order.
    pub runs: Vec<Run>,
    /// The segments that do not count, and why.
    pub aside: Vec<Aside>,
    /// Where it continues another lineage.
    pub forks: Vec<Fork>,
    /// The engine's small files, with their sizes in the store in bytes.
    pub files: Vec<(String, u64)>,
    pub(super) writers: Marks,
    pub(super) keepers: Marks,
    /// Names below `m/` and `v/`: what retention and verification remember.
    pub(super) marks: Vec<String>,
    pub(super) verified: Vec<String>,
}

/// A stretch of segments each of which continues the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which segments of the lineage.
    pub segments: Range<usize>,
    /// The first position.
    pub first: u64,
    /// The position behind the last.
    pub last: u64,
    /// The latest instant known in it, in milliseconds since 1970.
    pub until_ms: Option<u64>,
}

/// Where a lineage is interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The lineage.
    pub lineage: String,
    /// Up to where it is whole.
    pub after: u64,
    /// From where on it goes on; the same as `after` where nothing lies between, but the chain is broken.
    pub before: u64,
    /// The latest instant known before the gap: from then on nothing can be restored across it.
    pub since_ms: Option<u64>,
}

/// A segment that does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aside {
    /// The segment.
    pub segment: Segment,
    /// Why.
    pub kind: AsideKind,
}

/// Why a segment does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsideKind {
    /// Another, larger or smaller, has the same: a compaction was interrupted.
    Duplicate,
    /// It begins like another and says something else: the unacknowledged write of a writer that was superseded.
    Fork,
    /// It has positions that others have too, and does not fit to them.
    Overlap,
}

impl Archive {
    /// Lists the archive and sorts out what is there.
    pub fn catalogue(&self) -> Result<Catalogue> {
        let mut listed: BTreeMap<String, (Lineage, Vec<Segment>)> = BTreeMap::new();
        let mut unknown = 0;
        let mut current = String::new();
        self.list("", &mut |name, size| {
            let Some((lineage, file)) = name.split_once('/') else {
                unknown += 1;
                return;
            };
            if current != lineage && !listed.contains_key(lineage) {
                listed.insert(lineage.to_owned(), Default::default());
            }
            if current != lineage {
                lineage.clone_into(&mut current);
            }
            let (listed, segments) = listed.get_mut(lineage).expect("inserted above");
            if !listed.add(segments, file, size) {
                unknown += 1;
            }
        })?;
        let mut catalogue = Catalogue { lineages: BTreeMap::new(), unknown };
        for (escaped, (lineage, segments)) in listed {
            match unescape(&escaped).filter(|name| super::is_lineage(name)) {
                Some(name) => {
                    let lineage = lineage.settle(&self.component, &name, segments);
                    catalogue.lineages.insert(name, lineage);
                }
                None => catalogue.unknown += segments.len().max(1) as u64,
            }
        }
        Ok(catalogue)
    }

    /// The same for one lineage; an empty one where there is none.
    pub fn lineage(&self, lineage: &str) -> Result<Lineage> {
        Self::check_lineage(lineage)?;
        let (mut found, mut segments) = (Lineage::default(), Vec::new());
        self.list(&name::escape(lineage), &mut |file, size| _ = found.add(&mut segments, file, size))?;
        Ok(found.settle(&self.component, lineage, segments))
    }
}

impl Catalogue {
    /// The lineages by name.
    pub fn lineages(&self) -> impl Iterator<Item = (&str, &Lineage)> {
        self.lineages.iter().map(|(name, lineage)| (name.as_str(), lineage))
    }

    /// The lineage of this name.
    pub fn get(&self, lineage: &str) -> Option<&Lineage> {
        self.lineages.get(lineage)
    }

    /// Every interruption, by lineage and position.
    pub fn gaps(&self) -> Vec<Gap> {
        let of = |(name, lineage): (&String, &Lineage)| {
            let gap = |pair: &[Run]| Gap {
                lineage: name.clone(),
                after: pair[0].last,
                before: pair[1].first,
                since_ms: pair[0].until_ms,
            };
            lineage.runs.windows(2).map(gap).collect::<Vec<_>>()
        };
        self.lineages.iter().flat_map(of).collect()
    }
}

impl Lineage {
    /// Takes up one name of a listing; `false` when it says nothing.
    fn add(&mut self, segments: &mut Vec<Segment>, file: &str, size: u64) -> bool {
        if let Some(segment) = Segment::parse(file, size) {
            segments.push(segment);
            return true;
        }
        let Some((directory, file)) = file.split_once('/') else { return false };
        match directory {
            "w" => return self.writers.add(file).is_some(),
            "k" => return self.keepers.add(file).is_some(),
            "f" => return Fork::parse(file).map(|fork| self.forks.push(fork)).is_some(),
            "a" => return unescape(file).map(|name| self.files.push((name, size))).is_some(),
            "m" => self.marks.push(file.to_owned()),
            "v" => self.verified.push(file.to_owned()),
            _ => return false,
        }
        true
    }

    fn settle(mut self, component: &str, lineage: &str, segments: Vec<Segment>) -> Self {
        let is_start = |segment: &Segment| segment.before == Link::start(component, lineage, segment.first);
        (self.segments, self.aside) = choose(segments, &is_start);
        self.runs = runs(&self.segments);
        self.forks.sort_unstable_by_key(|fork| fork.position);
        self.files.sort_unstable();
        self
    }

    /// Where the last run ends: the position that the next piece must have, and the chain's value there.
    pub fn end(&self) -> Option<(u64, Link)> {
        self.segments.last().map(|segment| (segment.last, segment.after))
    }

    /// The run that holds `position`, or ends there.
    pub(super) fn run_at(&self, position: u64) -> Option<&Run> {
        let next = self.runs.partition_point(|run| run.last < position);
        let ending = self.runs.get(next).filter(|run| run.first <= position)?;
        // Where a run ends and another begins at once, the later one holds the position.
        Some(self.runs.get(next + 1).filter(|run| run.first == position).unwrap_or(ending))
    }

    /// The segment that has `position`, by number.
    pub(super) fn at(&self, position: u64) -> Option<usize> {
        let number = self.segments.partition_point(|segment| segment.last <= position);
        self.segments.get(number).filter(|segment| segment.first <= position).map(|_| number)
    }
}

fn continues(before: &Segment, segment: &Segment) -> bool {
    before.last == segment.first && before.after == segment.before
}

fn runs(segments: &[Segment]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if continues(&segments[number - 1], segment) => {
                run.segments.end = number + 1;
                run.last = segment.last;
                run.until_ms = run.until_ms.max(segment.until_ms());
            }
            _ => runs.push(Run {
                segments: number..number + 1,
                first: segment.first,
                last: segment.last,
                until_ms: segment.until_ms(),
            }),
        }
    }
    runs
}

/// Decides which segments count; see the module.
fn choose(mut all: Vec<Segment>, is_start: &dyn Fn(&Segment) -> bool) -> (Vec<Segment>, Vec<Aside>) {
    all.sort_unstable_by_key(|segment| {
        (segment.first, segment.last, segment.before, segment.after, segment.epoch)
    });
    let overruled = overruled(&all, is_start);
    // What continues a segment begins behind its beginning, so it is sorted behind it.
    let mut reaches: Vec<u64> = all.iter().map(|segment| segment.last).collect();
    for number in (0..all.len()).rev() {
        let Segment { last, after, .. } = all[number];
        if let Some(next) = best(&all, &overruled, &reaches, last, Some(after)) {
            reaches[number] = reaches[next];
        }
    }
    let mut counts: Vec<Segment> = Vec::with_capacity(all.len());
    let mut chosen = vec![false; all.len()];
    loop {
        let end = counts.last().map(|segment| (segment.last, segment.after));
        let next = end.and_then(|(last, after)| best(&all, &overruled, &reaches, last, Some(after)));
        let next = next.or_else(|| {
            let from = all.partition_point(|segment| end.is_some_and(|(last, _)| segment.first < last));
            let offset = overruled[from..].iter().position(|overruled| !overruled)?;
            best(&all, &overruled, &reaches, all[from + offset].first, None)
        });
        let Some(next) = next else { break };
        chosen[next] = true;
        counts.push(all[next]);
    }
    let aside = all.iter().zip(&chosen).filter(|(_, chosen)| !**chosen);
    let aside =
        aside.map(|(segment, _)| Aside { segment: *segment, kind: why_not(&counts, segment) }).collect();
    (counts, aside)
}

/// The best segment that begins at `first`, behind the chain's value `link` if that is given.
fn best(
    all: &[Segment],
    overruled: &[bool],
    reaches: &[u64],
    first: u64,
    link: Option<Link>,
) -> Option<usize> {
    let from = all.partition_point(|segment| segment.first < first);
    let here = (from..all.len()).take_while(|number| all[*number].first == first);
    here.filter(|number| !overruled[*number] && link.is_none_or(|link| all[*number].before == link))
        .max_by_key(|number| (all[*number].epoch, reaches[*number], all[*number].last, Reverse(*number)))
}

/// Finds the segments that contradict one of a later writer.
fn overruled(all: &[Segment], is_start: &dyn Fn(&Segment) -> bool) -> Vec<bool> {
    let mut contradictions: Vec<(usize, usize)> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for (number, segment) in all.iter().enumerate() {
        open.retain(|other| all[*other].last > segment.first);
        for &other in &open {
            if all[other].epoch != segment.epoch && contradict(&all[other], segment, is_start) {
                let earlier_first = all[other].epoch < segment.epoch;
                contradictions.push(if earlier_first { (other, number) } else { (number, other) });
            }
        }
        open.push(number);
    }
    // The latest writers first: what is overruled itself overrules nothing.
    contradictions.sort_unstable_by_key(|(_, later)| Reverse(all[*later].epoch));
    let mut overruled = vec![false; all.len()];
    for (earlier, later) in contradictions {
        overruled[earlier] |= !overruled[later];
    }
    overruled
}

/// Whether two segments that overlap, `a` beginning no later than `b`, cannot be the same log cut differently.
fn contradict(a: &Segment, b: &Segment, is_start: &dyn Fn(&Segment) -> bool) -> bool {
    if a.first == b.first {
        // Which of the two is chosen is decided where they begin.
        return a.before != b.before || (a.last == b.last && a.after != b.after);
    }
    b.last > a.last || (b.last == a.last && a.after != b.after) || is_start(b)
}

/// Tells why `segment` is not among those that count.
fn why_not(counts: &[Segment], segment: &Segment) -> AsideKind {
    let from = counts.partition_point(|other| other.last <= segment.first);
    let to = counts.partition_point(|other| other.first < segment.last);
    let Some(across) = counts.get(from..to).filter(|across| !across.is_empty()) else {
        return AsideKind::Overlap;
    };
    let (head, tail) = (&across[0], &across[across.len() - 1]);
    let is_whole = head.first <= segment.first
        && tail.last >= segment.last
        && across.windows(2).all(|pair| continues(&pair[0], &pair[1]));
    let begins_alike = head.first != segment.first || head.before == segment.before;
    let ends_alike = tail.last != segment.last || tail.after == segment.after;
    // What is cut finer than one that counts agrees with it in nothing that a listing shows, but in the epoch.
    let same_writer = head.first != segment.first || head.epoch == segment.epoch;
    if is_whole && begins_alike && ends_alike && same_writer {
        return AsideKind::Duplicate;
    }
    if head.first == segment.first && head.before == segment.before {
        AsideKind::Fork
    } else {
        AsideKind::Overlap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment whose chain values are those of a chain called `chain` at its ends.
    fn segment(chain: u8, first: u64, last: u64, epoch: u32) -> Segment {
        forked(chain, chain, first, last, epoch)
    }

    fn forked(chain: u8, other: u8, first: u64, last: u64, epoch: u32) -> Segment {
        let link = |chain: u8, position: u64| {
            let mut bytes = [chain; 16];
            bytes[..8].copy_from_slice(&position.to_be_bytes());
            Link(bytes)
        };
        let (before, after) = (link(chain, first), link(other, last));
        Segment { first, last, until: 0, before, after, size: 1, epoch }
    }

    fn chosen(all: &[Segment]) -> (Vec<(u64, u64, u32)>, Vec<AsideKind>) {
        let (counts, aside) = choose(all.to_vec(), &|_| false);
        // The order of a listing must not matter.
        let reversed = choose(all.iter().rev().copied().collect(), &|_| false);
        assert_eq!((&counts, &aside), (&reversed.0, &reversed.1));
        let counts = counts.iter().map(|segment| (segment.first, segment.last, segment.epoch)).collect();
        (counts, aside.iter().map(|aside| aside.kind).collect())
    }

    #[test]
    fn what_a_compaction_left_counts_once() {
        use AsideKind::Duplicate;
        let part = |number: u64| segment(1, number, number + 1, 1);
        let merged = segment(1, 1, 5, 1);
        let all = [part(0), part(1), part(2), part(3), part(4), merged, part(5)];
        let expected = vec![(0, 1, 1), (1, 5, 1), (5, 6, 1)];
        assert_eq!(chosen(&all), (expected.clone(), vec![Duplicate; 4]));
        assert_eq!(chosen(&[part(0), part(3), merged, part(5)]), (expected.clone(), vec![Duplicate]));
        assert_eq!(chosen(&[part(0), part(1), merged, part(5)]), (expected, vec![Duplicate]));
        // Two compactions of which the first was superseded before it removed anything.
        let all = [part(0), part(1), segment(1, 0, 4, 1), segment(1, 2, 6, 1)];
        assert_eq!(chosen(&all), (vec![(0, 1, 1), (1, 2, 1), (2, 6, 1)], vec![Duplicate]));
    }

    #[test]
    fn the_later_writer_counts() {
        // Both wrote what follows position 10.
        let all =
            [segment(1, 0, 10, 1), forked(1, 2, 10, 30, 1), segment(1, 10, 20, 2), segment(1, 20, 25, 2)];
        let (counts, aside) = chosen(&all);
        assert_eq!(counts, [(0, 10, 1), (10, 20, 2), (20, 25, 2)]);
        assert_eq!(aside, [AsideKind::Fork]);
        // Both began, at different positions.
        let (counts, aside) = chosen(&[segment(1, 0, 10, 1), segment(2, 5, 15, 2)]);
        assert_eq!(counts, [(5, 15, 2)]);
        assert_eq!(aside, [AsideKind::Overlap]);
        // The earlier wrote to the end where the later began anew behind a gap, inside of what the earlier wrote.
        let all = [segment(1, 0, 10, 1), segment(1, 10, 30, 1), segment(2, 20, 25, 2)];
        let (counts, _) = choose(all.to_vec(), &|segment| segment.first == 20);
        assert_eq!(counts, [all[0], all[2]]);
    }

    #[test]
    fn a_broken_chain_is_a_gap() {
        let all = [segment(1, 0, 10, 1), segment(1, 10, 20, 1), segment(2, 20, 30, 1), segment(2, 40, 50, 1)];
        let lineage = Lineage::default().settle("c", "l", all.to_vec());
        let runs: Vec<_> = lineage.runs.iter().map(|run| (run.first, run.last)).collect();
        assert_eq!(runs, [(0, 20), (20, 30), (40, 50)]);
        let catalogue = Catalogue { lineages: [("l".to_owned(), lineage)].into(), unknown: 0 };
        let gaps: Vec<_> = catalogue.gaps().iter().map(|gap| (gap.after, gap.before)).collect();
        assert_eq!(gaps, [(20, 20), (30, 40)]);
        let lineage = &catalogue.lineages["l"];
        let at = |position| lineage.run_at(position).map(|run| (run.first, run.last));
        assert_eq!([at(0), at(20), at(30), at(35)], [Some((0, 20)), Some((20, 30)), Some((20, 30)), None]);
    }
}
