//! Copying an archive into that of another repository.
//!
//! The copy is an archive of its own: it is written by an [`Appender`], with epochs of its own, and can be compacted,
//! verified and go on being written, should it become the original. What it gets is what counts at the source, with the
//! same links. What the source gave up stays until the copy's own retention; what the copy gave up does not come back.
//!
//! # Order of writes, and what a crash leaves
//! 1. Lineages that others continue, before these.
//! 2. Of each: where it continues another, the engine's small files, the segments in order. *What is there
//!    is unbroken up to somewhere; the repetition goes on from there.*

use std::collections::BTreeSet;

use super::catalogue::{Catalogue, Lineage, Run};
use super::name::{Segment, unescape};
use super::segment::Content;
use super::spans::{Needed, Step};
use super::{Appender, Archive, Piece, ReadAhead, Result};
use crate::{Context, Repository};

/// What a copy of an archive brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Segments that the copy lacked.
    pub segments: u64,
    /// Their bytes in the source's store.
    pub bytes: u64,
    /// Small files that the copy lacked.
    pub files: u64,
}

impl Archive {
    /// Brings to `target`, the archive of the same component in another repository, what it lacks; repeatable.
    ///
    /// A segment that cannot be read ends its lineage there for now; the others are copied before its error is
    /// returned. Fails with [`super::Error::Conflict`] when the copy has something else at a position.
    pub fn copy_to(&self, target: &Self, context: Context<'_>) -> Result<CopyReport> {
        let catalogue = self.catalogue()?;
        let mut report = CopyReport::default();
        let mut failure = None;
        for name in parents_first(&catalogue) {
            context.check()?;
            let lineage = &catalogue.lineages[name];
            if let Err(error) = self.copy_lineage(name, lineage, target, &mut report, context) {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(report), Err)
    }

    fn copy_lineage(
        &self,
        name: &str,
        lineage: &Lineage,
        target: &Self,
        report: &mut CopyReport,
        context: Context<'_>,
    ) -> Result<()> {
        let there = target.lineage(name)?;
        for fork in lineage.forks.iter().filter(|fork| !there.forks.contains(fork)) {
            target.create_small(&target.name(name, &format!("f/{}", fork.file_name())), b"")?;
        }
        for (file, _) in
            lineage.files.iter().filter(|(file, _)| there.files.iter().all(|(other, _)| other != file))
        {
            if let Some(bytes) = self.file(name, file)? {
                target.put_file(name, file, &bytes)?;
                report.files += 1;
            }
        }
        let mut appender = None;
        for run in &lineage.runs {
            let lacking: Vec<Segment> = lineage.segments[run.segments.clone()]
                .iter()
                .filter(|segment| is_lacking(segment, &there.runs))
                .copied()
                .collect();
            if lacking.is_empty() {
                continue;
            }
            let appender = match &mut appender {
                Some(appender) => appender,
                none => none.insert(target.appender(name)?),
            };
            self.copy_segments(name, &lacking, appender, report, context)?;
        }
        Ok(())
    }

    fn copy_segments(
        &self,
        name: &str,
        segments: &[Segment],
        appender: &Appender,
        report: &mut CopyReport,
        context: Context<'_>,
    ) -> Result<()> {
        // A stretch at a time, as what lies between two is there already.
        for stretch in segments.chunk_by(|before, segment| before.last == segment.first) {
            let step = |segment: &Segment| Step {
                lineage: name.to_owned(),
                segment: *segment,
                from: segment.first,
                to: segment.last,
            };
            let steps = stretch.iter().map(step).collect();
            let to = stretch[stretch.len() - 1].last;
            let mut contents =
                self.replay(&Needed { base: 0, steps, to, until_ms: None }, ReadAhead::default());
            for segment in stretch {
                context.check()?;
                let mut parts: Vec<Content> = Vec::new();
                while parts.last().is_none_or(|content| content.part.last < segment.last) {
                    let Some(content) = contents.next() else { break };
                    parts.push(content?.1);
                }
                let pieces: Vec<Piece<'_>> = parts.iter().map(piece).collect();
                appender.append_copied(&pieces, segment.before)?;
                report.segments += 1;
                report.bytes += u64::from(segment.size);
            }
        }
        Ok(())
    }
}

/// The components of whose logs the repository has anything.
///
/// Those whose names are so long that their directory has a digest instead are not among them.
pub fn components(repository: &Repository) -> crate::Result<BTreeSet<String>> {
    let names = repository.sidecar_list("log")?;
    let component = |name: &str| unescape(name.split('/').nth(1)?);
    Ok(names.iter().filter_map(|(name, _)| component(name)).collect())
}

fn piece(content: &Content) -> Piece<'_> {
    let part = &content.part;
    Piece {
        first: part.first,
        last: part.last,
        from_ms: part.from_ms,
        until_ms: part.until_ms,
        name: part.name.as_deref(),
        bytes: &content.bytes,
    }
}

/// Whether a segment has positions that the copy has not; what lies before all that the copy has was given up there.
fn is_lacking(segment: &Segment, there: &[Run]) -> bool {
    let is_old = there.first().is_some_and(|run| segment.last <= run.first);
    let next = there.partition_point(|run| run.last < segment.last);
    !is_old && there.get(next).is_none_or(|run| run.first > segment.first)
}

/// The lineages, each behind the one that it continues.
fn parents_first(catalogue: &Catalogue) -> Vec<&str> {
    let mut ordered: Vec<&str> = Vec::new();
    let mut left: BTreeSet<&str> = catalogue.lineages.keys().map(String::as_str).collect();
    while !left.is_empty() {
        let is_free = |name: &&str| {
            let fork = catalogue.lineages[*name].forks.first();
            fork.is_none_or(|fork| !left.contains(fork.parent.as_str()))
        };
        let free: Vec<&str> = left.iter().copied().filter(|name| is_free(name)).collect();
        // A circle is nonsense, and copied as it is.
        let free = if free.is_empty() { left.iter().copied().collect() } else { free };
        left.retain(|name| !free.contains(name));
        ordered.extend(free);
    }
    ordered
}
