//! Retention: which segments nobody needs any more, and their removal in two phases.
//!
//! A segment is needed when a retained base needs it to become consistent, or when it lies behind the oldest retained
//! base of its lineage or of one that its lineage continues: then it is part of a span, or of what a span
//! becomes once a gap is mended. A lineage without a base stays while it is young, or while nobody knows how old it is. Small
//! files and forks always stay.
//!
//! # Order of writes, and what a crash leaves
//! 1. A mark: up to which position nothing has been needed, since when. *Nothing has changed for readers.*
//! 2. Older marks go. *Of several the latest counts.*
//! 3. What was marked long enough ago, and is not needed now either, is removed, the first first. *What remains is still
//!    unbroken; the next run goes on.*

use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration;

use super::catalogue::{Catalogue, Lineage};
use super::fence::Fence;
use super::name::{Segment, parse_hex};
use super::spans::Base;
use super::{Archive, Error, Result};
use crate::Context;

/// How long what is not needed stays.
#[derive(Debug, Clone, Copy)]
pub struct RetainOptions {
    /// How long a segment stays marked before it is removed; zero removes at once, without a way back.
    pub keep_marked: Duration,
    /// How long a lineage without a base stays after its latest instant.
    pub keep_without_base: Duration,
}

impl Default for RetainOptions {
    /// A day between marking and removing, as for packs; a week for a lineage whose base failed or is to come.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { keep_marked: day, keep_without_base: 7 * day }
    }
}

/// What a retention would do; nothing has changed yet.
#[derive(Debug)]
pub struct RetainPlan {
    /// Of each lineage in which something is not needed: how much, and how much of that is removed now.
    pub lineages: Vec<Unneeded>,
    archive: Archive,
    options: RetainOptions,
    now_ms: u64,
}

/// What is not needed of one lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unneeded {
    /// The lineage.
    pub lineage: String,
    /// Nothing before this position is needed.
    pub below: u64,
    /// The segments that are not needed.
    pub segments: Vec<Segment>,
    /// How many of them, the first, were marked long enough ago to be removed.
    pub due: usize,
    marks: Vec<Mark>,
    old_records: Vec<String>,
}

/// Since when nothing below a position has been needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    below: u64,
    since_ms: u64,
}

/// The marks of a lineage as they are stored.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    marks: Vec<Mark>,
}

const VERSION: u32 = 1;

/// What a retention did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetainReport {
    /// Segments that were removed.
    pub removed: u64,
    /// Their bytes in the store.
    pub removed_bytes: u64,
    /// Segments that are marked and stay for now.
    pub marked: u64,
}

impl Archive {
    /// Finds out what none of the retained `bases` needs.
    ///
    /// Fails with [`Error::Refused`] when there is no base, or none of a lineage that the archive knows: whoever asks for
    /// that has lost the list of bases, not the need for the log.
    pub fn plan_retention(&self, bases: &[Base], options: &RetainOptions) -> Result<RetainPlan> {
        if bases.is_empty() {
            return Err(Error::Refused("no base is retained; nothing of the log is removed".into()));
        }
        let catalogue = self.catalogue()?;
        if !bases.iter().any(|base| catalogue.lineages.contains_key(&base.lineage)) {
            let why = "no retained base is of a lineage that is archived; nothing of the log is removed";
            return Err(Error::Refused(why.into()));
        }
        let now_ms = self.now_ms();
        let mut plan = RetainPlan { lineages: Vec::new(), archive: self.clone(), options: *options, now_ms };
        for (name, lineage) in catalogue.lineages() {
            let below = match needed_from(&catalogue, name, bases) {
                Some(needed_from) => needed_from,
                None if plan.is_old(lineage) => u64::MAX,
                None => continue,
            };
            plan.lineages.extend(plan.unneeded(name, lineage, below)?);
        }
        Ok(plan)
    }

    fn read_marks(&self, name: &str, records: &[String]) -> Result<Vec<Mark>> {
        // The last was written by the last; one that cannot be read marks nothing, and the waiting begins anew.
        let latest = records.iter().filter_map(|record| Some((parse_hex(record)?, record))).max();
        let Some((_, latest)) = latest else { return Ok(Vec::new()) };
        match self.repository.sidecar_read(&self.name(name, &format!("m/{latest}"))) {
            Ok(Some(content)) => Ok(match serde_json::from_slice::<Record>(&content) {
                Ok(Record { version: VERSION, marks }) => marks,
                _ => Vec::new(),
            }),
            Ok(None) | Err(crate::Error::Damaged { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The position from which on a lineage is needed; `None` when no base leads into it.
fn needed_from(catalogue: &Catalogue, lineage: &str, bases: &[Base]) -> Option<u64> {
    bases.iter().filter_map(|base| needed_by(catalogue, lineage, base)).min()
}

/// The same for one base: its own lineage, those that continue it, and those that it begins in.
fn needed_by(catalogue: &Catalogue, lineage: &str, base: &Base) -> Option<u64> {
    let forks = |name: &str| catalogue.lineages.get(name).and_then(|lineage| lineage.forks.first());
    if lineage == base.lineage {
        return Some(base.needed_from);
    }
    // Upwards from the lineage: does it continue the base's, from behind where the base begins?
    let (mut name, mut seen) = (lineage, HashSet::new());
    while let Some(fork) = forks(name).filter(|_| seen.insert(name)) {
        if fork.position < base.needed_from {
            break;
        }
        if fork.parent == base.lineage {
            return Some(0);
        }
        name = &fork.parent;
    }
    // Upwards from the base: does it begin before its own lineage does?
    let (mut name, mut seen) = (base.lineage.as_str(), HashSet::new());
    while let Some(fork) = forks(name).filter(|fork| fork.position > base.needed_from && seen.insert(name)) {
        if fork.parent == lineage {
            return Some(base.needed_from);
        }
        name = &fork.parent;
    }
    None
}

impl RetainPlan {
    /// Marks what is newly not needed, and removes what was marked long enough ago.
    ///
    /// May be stopped or fail at any point, and be planned and executed again. Fails with [`Error::Superseded`] when
    /// another begins to keep house.
    pub fn execute(self, context: Context<'_>) -> Result<RetainReport> {
        let mut report = RetainReport::default();
        for unneeded in &self.lineages {
            context.check()?;
            let fence = Fence::take(&self.archive, &unneeded.lineage, "k", greatest(&unneeded.old_records))?;
            self.write_marks(unneeded, &fence)?;
            for segment in &unneeded.segments[..unneeded.due] {
                context.check()?;
                fence.check()?;
                let name = self.archive.segment_name(&unneeded.lineage, segment);
                self.archive.repository.sidecar_remove(&name)?;
                report.removed += 1;
                report.removed_bytes += u64::from(segment.size);
            }
            report.marked += (unneeded.segments.len() - unneeded.due) as u64;
        }
        Ok(report)
    }

    fn is_old(&self, lineage: &Lineage) -> bool {
        let latest = lineage.segments.iter().map(Segment::until_ms).max().flatten();
        let all_known = lineage.segments.iter().all(|segment| segment.until_ms().is_some());
        all_known && latest.is_some_and(|latest| self.has_passed(latest, self.options.keep_without_base))
    }

    fn has_passed(&self, since_ms: u64, time: Duration) -> bool {
        u128::from(self.now_ms.saturating_sub(since_ms)) >= time.as_millis() && self.now_ms >= since_ms
    }

    fn unneeded(&self, name: &str, lineage: &Lineage, below: u64) -> Result<Option<Unneeded>> {
        let aside = lineage.aside.iter().map(|aside| &aside.segment);
        let all = lineage.segments.iter().chain(aside).copied();
        let mut segments: Vec<Segment> = all.filter(|segment| segment.last <= below).collect();
        if segments.is_empty() && lineage.marks.is_empty() {
            return Ok(None);
        }
        segments.sort_unstable_by_key(|segment| (segment.last, segment.first));
        // What has become needed again was never unneeded for long.
        let mut marks = self.archive.read_marks(name, &lineage.marks)?;
        for mark in &mut marks {
            mark.below = mark.below.min(below);
        }
        let reach = segments.last().map_or(0, |segment| segment.last);
        if marks.iter().all(|mark| mark.below < reach) && !segments.is_empty() {
            marks.push(Mark { below: reach, since_ms: self.now_ms });
        }
        let is_due = |mark: &&Mark| self.has_passed(mark.since_ms, self.options.keep_marked);
        let due_below = marks.iter().filter(is_due).map(|mark| mark.below).max().unwrap_or(0);
        // Of those whose time is up the greatest says it all.
        marks.retain(|mark| !is_due(&mark) || mark.below == due_below);
        let due = segments.partition_point(|segment| segment.last <= due_below);
        let old_records = lineage.marks.clone();
        Ok(Some(Unneeded { lineage: name.to_owned(), below, segments, due, marks, old_records }))
    }

    /// Writes the marks under a number greater than all, and removes those that they replace.
    fn write_marks(&self, unneeded: &Unneeded, fence: &Fence) -> Result<()> {
        let name = |record: &str| self.archive.name(&unneeded.lineage, &format!("m/{record}"));
        let record = Record { version: VERSION, marks: unneeded.marks.clone() };
        let content = serde_json::to_vec(&record).expect("numbers make JSON");
        self.archive.create_small(&name(&format!("{:08x}", fence.epoch)), &content)?;
        fence.check()?;
        for old in &unneeded.old_records {
            self.archive.repository.sidecar_remove(&name(old))?;
        }
        Ok(())
    }
}

/// The greatest number of records of marks.
fn greatest(records: &[String]) -> u32 {
    let numbers = records.iter().filter_map(|record| u32::try_from(parse_hex(record)?).ok());
    numbers.max().unwrap_or(0)
}
