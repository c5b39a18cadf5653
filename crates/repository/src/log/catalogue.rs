//! The catalogue: what a listing alone tells about lineages, their chains, gaps and forks.
//!
//! A segment takes 64 bytes here, and while its lineage is sorted out, up to 210. Making it is one listing and one sort:
//! time grows with the number of segments, and a little with its logarithm.
//!
//! Which segments count is decided in `choose`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::choose::choose;
use super::fence::Marks;
use super::inherit::{Inheritance, Inheritances};
use super::name::{self, Fork, Link, Segment, unescape};
use super::{Archive, Result};

/// How often a listing is repeated that missed something; what an inheritance was lost of stays so.
const LISTINGS_MAX: u32 = 3;

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
    pub(super) inheritances: Inheritances,
    /// Names below `m/` and `v/`: what retention and verification remember.
    pub(super) marks: Vec<String>,
    pub(super) verified: Vec<String>,
    /// The listing missed what it must have, were it of one moment: a writer began while it was read.
    is_torn: bool,
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
    /// The same, where nothing else has been written.
    Late,
    /// It has positions that others have too, and does not fit to them.
    Overlap,
}

impl Archive {
    /// Lists the archive and sorts out what is there.
    pub fn catalogue(&self) -> Result<Catalogue> {
        let mut catalogue = self.list_all()?;
        for _ in 1..LISTINGS_MAX {
            if !catalogue.lineages.values().any(|lineage| lineage.is_torn) {
                break;
            }
            catalogue = self.list_all()?;
        }
        Ok(catalogue)
    }

    fn list_all(&self) -> Result<Catalogue> {
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
        let mut listed = self.list_one(lineage)?;
        for _ in 1..LISTINGS_MAX {
            if !listed.is_torn {
                break;
            }
            listed = self.list_one(lineage)?;
        }
        Ok(listed)
    }

    fn list_one(&self, lineage: &str) -> Result<Lineage> {
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
            "i" => return self.inheritances.add(file).is_some(),
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
        let inheritance = self.inheritances.latest();
        self.is_torn = is_torn(&segments, &self.inheritances, inheritance.as_ref());
        (self.segments, self.aside) = choose(segments, inheritance.as_ref(), &is_start);
        self.runs = runs(&self.segments);
        self.forks.sort_unstable_by_key(|fork| fork.position);
        self.files.sort_unstable();
        self
    }

    /// Where the last run ends: the position that the next piece must have, and the chain's value there.
    pub fn end(&self) -> Option<(u64, Link)> {
        self.segments.last().map(|segment| (segment.last, segment.after))
    }

    /// The greatest epoch of a writer of whom anything is there but its mark.
    pub(super) fn epoch(&self) -> u32 {
        let aside = self.aside.iter().map(|aside| &aside.segment);
        let segments = self.segments.iter().chain(aside).map(|segment| segment.epoch).max().unwrap_or(0);
        segments.max(self.inheritances.epoch())
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

pub(super) fn continues(before: &Segment, segment: &Segment) -> bool {
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

/// Whether there is what no writer writes before its inheritance is whole.
fn is_torn(segments: &[Segment], all: &Inheritances, latest: Option<&Inheritance>) -> bool {
    let settled = latest.map_or(0, |inheritance| inheritance.epoch);
    segments.iter().any(|segment| segment.epoch > settled) || (latest.is_none() && all.epoch() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment whose chain values are those of a chain called `chain` at its ends.
    fn segment(chain: u8, first: u64, last: u64, epoch: u32) -> Segment {
        let link = |position: u64| {
            let mut bytes = [chain; 16];
            bytes[..8].copy_from_slice(&position.to_be_bytes());
            Link(bytes)
        };
        Segment { first, last, until: 0, before: link(first), after: link(last), size: 1, epoch }
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
