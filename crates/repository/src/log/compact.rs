//! Compaction: small neighbours become one object.
//!
//! # Order of writes, and what a crash leaves
//! 1. The merged objects are created. *Parts and merged are both there and count once.*
//! 2. Each merged object is read back and verified.
//! 3. The parts that are proven to be in it are removed, the first of them first. *The others are removed by the next run.*
//!
//! # Concurrency
//! Of two that compact or retain, the earlier stops before it removes anything (see `fence`). A writer may go on.
//! Only what is settled is touched: if the mark of the writer whose inheritance decided about a listing is still there
//! after that listing, then whoever takes over from it lists later, and inherits all that this listing shows to
//! count. If it is gone, somebody is just taking over, and there is nothing to do until the next time.
//!
//! What is merged has the greatest epoch of its parts: it counts whenever that part does.

use std::collections::HashSet;

use super::catalogue::{AsideKind, Lineage};
use super::fence::Fence;
use super::name::{Link, Segment};
use super::segment::{Content, PARTS_MAX, PIECE_BYTES_MAX, Part, seal, segment_of};
use super::{Archive, LEVEL, Result, object};
use crate::Context;
use store::ErrorKind;

/// What is compacted.
#[derive(Debug, Clone, Copy)]
pub struct CompactOptions {
    /// Segments whose objects have fewer bytes are merged.
    pub below_bytes: u64,
    /// What is merged has together no more bytes.
    pub upto_bytes: u64,
    /// Fewer objects than this are left until there are more.
    pub objects_min: usize,
}

impl Default for CompactOptions {
    /// Below 1 MiB, up to 8 MiB, at least eight: what is read twice for it stays a fraction of what was written.
    fn default() -> Self {
        Self { below_bytes: 1 << 20, upto_bytes: 8 << 20, objects_min: 8 }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Objects that were made.
    pub created: u64,
    /// Objects that were removed, those that an interrupted compaction left included.
    pub removed: u64,
}

impl Archive {
    /// Merges the small segments of a lineage, and removes what an interrupted compaction left; repeatable.
    ///
    /// Fails with [`super::Error::Superseded`] when another begins to keep house, and with the error of a segment that cannot be
    /// read; nothing is removed that is not proven to be in another object.
    pub fn compact(
        &self,
        lineage: &str,
        options: &CompactOptions,
        context: Context<'_>,
    ) -> Result<CompactReport> {
        Self::check_lineage(lineage)?;
        let fence = Fence::take(self, lineage, "k", 0)?;
        let mut report = CompactReport::default();
        let Some(known) = self.settled(lineage)? else { return Ok(report) };
        for group in groups(&known, options) {
            context.check()?;
            report.created += u64::from(self.merge(lineage, &known.segments[group])?);
        }
        let known = if report.created > 0 { self.settled(lineage)? } else { Some(known) };
        let Some(known) = known else { return Ok(report) };
        report.removed = self.remove_duplicates(lineage, &known, &fence, context)?;
        Ok(report)
    }

    /// Lists a lineage; `None` while a writer takes over, so that what counts of it may change.
    fn settled(&self, lineage: &str) -> Result<Option<Lineage>> {
        let known = self.lineage(lineage)?;
        let Some(inheritance) = known.inheritances.latest() else { return Ok(None) };
        let is_settled =
            known.epoch() == inheritance.epoch && self.marks(lineage, "w")?.has(inheritance.epoch);
        Ok(is_settled.then_some(known))
    }

    /// Creates the object of all these segments; `false` when that would be too large.
    fn merge(&self, lineage: &str, group: &[Segment]) -> Result<bool> {
        let (mut parts, mut bytes) = (Vec::<Part>::new(), Vec::new());
        for segment in group {
            for Content { part, bytes: more } in self.read_object(lineage, segment)? {
                bytes.extend_from_slice(&more);
                parts.push(part);
            }
            // A few bytes may stand for many: what they unpack to has to fit into an object as well.
            let table_bytes: usize = parts.iter().map(Part::table_bytes).sum();
            if parts.len() > PARTS_MAX || bytes.len() > PIECE_BYTES_MAX || table_bytes > PIECE_BYTES_MAX {
                return Ok(false);
            }
        }
        let epoch = group.iter().map(|segment| segment.epoch).max().expect("a group has segments");
        let merged = segment_of(group[0].before, &parts, epoch);
        let name = self.segment_name(lineage, &merged);
        let sealed = seal(&self.key, &name, &parts, &bytes, LEVEL);
        match self.repository().store().create(&object(&name), sealed) {
            Ok(()) => Ok(true),
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the segments that do not count and are the same as others that do, which are read and verified first.
    fn remove_duplicates(
        &self,
        lineage: &str,
        known: &Lineage,
        fence: &Fence,
        context: Context<'_>,
    ) -> Result<u64> {
        let mut nodes = Nodes::default();
        let mut removed = 0;
        // What a listing cannot tell, such as the write of a superseded writer that was repeated, is told by reading.
        let doubtful = known.aside.iter().filter(|aside| aside.kind != AsideKind::Late);
        for duplicate in doubtful.map(|aside| aside.segment) {
            context.check()?;
            let from = known.segments.partition_point(|segment| segment.last <= duplicate.first);
            let across = known.segments[from..].iter().take_while(|segment| segment.first < duplicate.last);
            let across: Vec<Segment> = across.copied().collect();
            if nodes.of != across {
                nodes = self.nodes(lineage, across)?;
                fence.check()?;
            }
            let (begin, end) = ((duplicate.first, duplicate.before), (duplicate.last, duplicate.after));
            if nodes.all.contains(&begin) && nodes.all.contains(&end) {
                self.repository().sidecar_remove(&self.segment_name(lineage, &duplicate))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Reads segments that follow each other, for the chain's values at the ends of all their parts.
    fn nodes(&self, lineage: &str, of: Vec<Segment>) -> Result<Nodes> {
        let mut all = HashSet::new();
        for segment in &of {
            let mut link = segment.before;
            all.insert((segment.first, link));
            for content in self.read_object(lineage, segment)? {
                link = content.part.link(link);
                all.insert((content.part.last, link));
            }
        }
        Ok(Nodes { of, all })
    }
}

/// The chain's values at the ends of all parts of some segments.
#[derive(Default)]
struct Nodes {
    of: Vec<Segment>,
    all: HashSet<(u64, Link)>,
}

/// Chooses the neighbours that are to become one.
fn groups(known: &Lineage, options: &CompactOptions) -> Vec<std::ops::Range<usize>> {
    let is_small = |number: &usize| u64::from(known.segments[*number].size) < options.below_bytes;
    let mut groups = Vec::new();
    for run in &known.runs {
        let (mut start, mut bytes) = (run.segments.start, 0);
        let mut close = |start: usize, end: usize| {
            if end - start >= options.objects_min.max(2) {
                groups.push(start..end);
            }
        };
        let end = run.segments.end;
        for number in run.segments.start..end {
            let size = u64::from(known.segments[number].size);
            if !is_small(&number) {
                close(start, number);
                (start, bytes) = (number + 1, 0);
            } else if bytes + size > options.upto_bytes {
                close(start, number);
                (start, bytes) = (number, size);
            } else {
                bytes += size;
            }
        }
        if start < end {
            close(start, end);
        }
    }
    groups
}
