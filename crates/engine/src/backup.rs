//! Making a recovery point of one component: capture, snapshot, judgement, record.
//!
//! # Order
//! The capture begins; the repository reads its members and writes the snapshot; the capture ends; the floor judges;
//! the record makes the snapshot a recovery point. A crash before the record leaves a snapshot that is never chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use estate::component::{
    Cancel, Capture, CaptureRequest, Component, Content, Entry, EntryKind, Origin, PointFacts, Tally,
};
use estate::floor::{Plausibility, Tolerance, judge};
use repository::backup::{
    BackupOptions, BackupReport, Member, MemberContent, Parent, ProblemKind, Selection, Source,
    StreamAttributes,
};
use repository::format::{Node, NodeKind};
use repository::{BlobReader, Context, Descend, Id, Met, Patterns, find_entry, walk_in_order};
use runbook::{Performed, Proven};
use serde_json::json;

use crate::perform::Performer;
use crate::point::{self, Point};
use crate::work::Backup;
use crate::{Error, Result, log};

/// Makes a recovery point of one component.
///
/// Fails when the capture fails, when anything that belongs to it could not be read, and when the point is implausible and not accepted: it
/// is kept then, and does not count.
pub(crate) fn component(
    performer: &Performer<'_>,
    backup: &Backup,
    run: &str,
    cancel: &Cancel,
    context: Context<'_>,
) -> Result<Performed> {
    let site = performer.site;
    let catalogue = site.catalogue()?;
    let previous = catalogue.of(&backup.component).next_back().cloned();
    let believed = catalogue.newest(&backup.component).cloned();
    let driver = performer.drivers.component(&backup.component)?;
    let scratch = site.state.join("scratch").join(run).join(&backup.component);
    let taken = performer.captured(driver, || {
        make(&scratch)?;
        let taken = take(performer, driver, backup, run, &scratch, previous.as_ref(), cancel, context);
        // Whatever is left there is of no use to anybody.
        let _left = std::fs::remove_dir_all(&scratch);
        taken
    })??;
    let Taken { mut point, report, remarks, notes, unchanged } = taken;
    if let (Some(base), false) = (&point.log, backup.rehearsal) {
        log::until_archived(&performer.repository, &backup.component, base, cancel)?;
    }
    if backup.rehearsal {
        let summary = format!("{} could be backed up; nothing was written", backup.component);
        return Ok(Performed { proven: Proven::Shown(summary.clone()), ..Performed::new(summary) });
    }
    if unchanged && let Some(previous) = &previous {
        // What was counted then was counted in the same bytes; the floor must see it, or it takes it for lost. What the
        // plan declares is measured at the source each time.
        let mut counted = previous.recorded.facts.automatic.clone();
        counted.append(&mut point.facts.automatic);
        point.facts.automatic = counted;
    }
    let declared = site.plan.component(&backup.component)?;
    let tolerance = Tolerance { loss: declared.tolerance.share(), ..Tolerance::default() };
    let plausibility = match judge(
        &point,
        believed.as_ref().map(|point| &point.recorded),
        &tolerance,
        backup.accept.is_some(),
    ) {
        Plausibility::Implausible(reasons) if *declared.may_be_empty && only_empty(&reasons) => {
            Plausibility::Plausible
        }
        other => other,
    };
    let record = Point {
        version: Point::VERSION,
        snapshot: report.snapshot.id,
        tree: report.snapshot.snapshot.tree,
        estate: site.estate(),
        component: backup.component.clone(),
        run: run.to_owned(),
        host: site.host.clone(),
        recorded: point,
        plausibility,
        accepted_by: backup.accept.clone(),
        remarks: remarks.clone(),
    };
    point::save(&performer.repository, &record)?;
    if let Plausibility::Implausible(reasons) = &record.plausibility {
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        return Err(Error::Failed(format!(
            "the backup of {} is implausible: {}; it is kept as snapshot {} and does not count; if this is right, \
             run `lifeboat backup {} --accept`",
            backup.component,
            reasons.join("; "),
            record.short(),
            backup.component,
        )));
    }
    Ok(performed(&record, &report, &remarks, &notes, unchanged))
}

fn performed(
    record: &Point,
    report: &BackupReport,
    remarks: &[String],
    notes: &[String],
    unchanged: bool,
) -> Performed {
    let facts: Vec<String> =
        record.recorded.facts.declared.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let bytes = record.recorded.bytes;
    let what = if unchanged { "unchanged, " } else { "" };
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
    let summary = format!("{what}snapshot {}{facts}{notes}", record.short());
    let proven = match remarks {
        [] => Proven::Shown(summary.clone()),
        remarks => Proven::Not(remarks.join("; ")),
    };
    Performed { proven, ..Performed::new(summary) }.with_output(json!({
        "snapshot": record.snapshot.to_hex(),
        "bytes": bytes,
        "bytes_added": report.summary.data_added_packed,
        "unchanged": unchanged,
    }))
}

fn only_empty(reasons: &[estate::floor::Reason]) -> bool {
    reasons.iter().all(|reason| *reason == estate::floor::Reason::Empty)
}

pub(crate) fn make(scratch: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(scratch).map_err(Error::io("make", scratch))
}

/// A capture that is in the repository.
struct Taken {
    point: PointFacts,
    report: BackupReport,
    remarks: Vec<String>,
    notes: Vec<String>,
    unchanged: bool,
}

#[expect(clippy::too_many_arguments, reason = "each is a thing of its own, used once")]
fn take(
    performer: &Performer<'_>,
    driver: &dyn Component,
    backup: &Backup,
    run: &str,
    scratch: &Path,
    previous: Option<&Point>,
    cancel: &Cancel,
    context: Context<'_>,
) -> Result<Taken> {
    let failed = Error::component(&backup.component);
    let request = CaptureRequest {
        run,
        scratch,
        previous: previous.map(|point| &point.recorded),
        cancel: Arc::<AtomicBool>::clone(cancel),
    };
    let capture = match driver.capture(&request) {
        Ok(capture) => capture,
        Err(error) => return Err(failed(error)),
    };
    let stored = store(performer, capture, backup, run, previous, context);
    match stored {
        // The snapshot of before has lost something: everything is read anew.
        Err(Error::Repository(repository::Error::NotAsBefore { .. })) if previous.is_some() => {
            take(performer, driver, backup, run, scratch, None, cancel, context)
        }
        other => other,
    }
}

fn store(
    performer: &Performer<'_>,
    capture: Capture,
    backup: &Backup,
    run: &str,
    previous: Option<&Point>,
    context: Context<'_>,
) -> Result<Taken> {
    let Capture { members, mut point, mut finish } = capture;
    let live = Live::of(&members);
    let excludes = members.iter().find_map(|member| match &member.content {
        Content::Host { excludes, .. } => Some(excludes.clone()),
        _ => None,
    });
    let options = BackupOptions {
        selection: selection(&excludes.unwrap_or_default())?,
        parent: previous.map_or(Parent::None, |point| Parent::Snapshot(point.snapshot)),
        // What is written to while it is read is not taken for unchanged by its times: they are too coarse for it. Streams
        // know by themselves when they are not.
        is_live: !live.roots.is_empty(),
        tags: vec![format!("component:{}", backup.component), format!("run:{run}")],
        program_version: performer.site.program.clone(),
        dry_run: backup.rehearsal,
        known: performer.known_index(),
        ..BackupOptions::default()
    };
    let members = members.into_iter().map(member).collect();
    // The driver's own error, which the repository only hands on as words.
    let mut no_good = None;
    let then = || match finish.later() {
        Ok(members) => Ok(members.into_iter().map(member).collect()),
        Err(error) => {
            let why = error.to_string();
            no_good = Some(error);
            Err(why)
        }
    };
    let source = Source::MembersThen { members, then: Box::new(then) };
    let report = repository::backup::backup(&performer.repository, source, &options, context);
    if let Some(error) = no_good {
        return Err(Error::component(&backup.component)(error));
    }
    let report = report?;
    let missing: Vec<String> = report
        .problems
        .iter()
        .filter(|problem| problem.kind == ProblemKind::Unreadable)
        .map(|problem| format!("{}: {}", problem.path.display(), problem.error))
        .chain(
            report
                .members
                .iter()
                .filter(|member| !member.is_taken && !live.later.contains(&member.path))
                .map(|member| format!("{} is not in the backup", member.path.display())),
        )
        .collect();
    if !missing.is_empty() {
        return Err(Error::Failed(format!(
            "{} could not be read whole: {}; run it as a user who may read it, or exclude what is not needed",
            backup.component,
            missing.join("; "),
        )));
    }
    let mut remarks: Vec<String> = report
        .problems
        .iter()
        .filter(|problem| !live.roots.iter().any(|root| problem.path.starts_with(root)))
        .map(|problem| format!("{}: {}", problem.path.display(), problem.error))
        .collect();
    let (mut unchanged, mut counted) = (false, None);
    if !backup.rehearsal {
        let index = performer.index(context)?;
        let reader = BlobReader::new(&performer.repository, &index);
        let tree = report.snapshot.snapshot.tree;
        unchanged = previous.is_some_and(|previous| is_unchanged(&reader, previous, tree, &point.roots));
        if !unchanged {
            counted = Some(tally(&reader, tree, &point.roots, context)?);
        }
    }
    let finished = finish.finish(counted.as_ref()).map_err(Error::component(&backup.component))?;
    point.complete(&finished);
    if unchanged && let Some(previous) = previous {
        point.bytes = point.bytes.or(previous.recorded.bytes);
    }
    remarks.extend(
        finished.problems.iter().map(|problem| format!("{}: {}", problem.path.display(), problem.what)),
    );
    Ok(Taken { point, report, remarks, notes: finished.notes, unchanged })
}

/// What of a capture is not as files that nobody writes to.
struct Live {
    /// The directories in which things may vanish and change while they are read.
    roots: Vec<PathBuf>,
    /// The places at which the driver alone says whether something is there.
    later: BTreeSet<PathBuf>,
}

impl Live {
    fn of(members: &[estate::component::Member]) -> Self {
        let (mut roots, mut later) = (Vec::new(), BTreeSet::new());
        for member in members {
            match &member.content {
                Content::Host { path, live: true, .. } => roots.push(path.clone()),
                Content::Later => _ = later.insert(member.path_in_snapshot.clone()),
                _ => {}
            }
        }
        Self { roots, later }
    }
}

fn selection(excludes: &[String]) -> Result<Selection> {
    let patterns = Patterns::parse(excludes.iter().map(String::as_str), false).map_err(|error| {
        Error::refused(
            format!("cannot understand what is excluded: {}: {}", error.pattern, error.why),
            "correct the pattern in the plan",
        )
    })?;
    Ok(Selection { excludes: patterns, described: excludes.to_vec(), ..Selection::default() })
}

fn member<'a>(member: estate::component::Member) -> Member<'a> {
    let content = match member.content {
        Content::Host { path, .. } => MemberContent::Host(path),
        Content::AsBefore => MemberContent::AsBefore,
        Content::Later => MemberContent::Later,
        Content::Stream { meta, size, block_bytes, open, origin } => MemberContent::Stream {
            attributes: StreamAttributes {
                mode: meta.mode,
                uid: meta.uid,
                gid: meta.gid,
                mtime: meta.mtime.into(),
            },
            block_bytes,
            open: Box::new(move || open().map(|reader| reader as Box<dyn std::io::Read + Send + 'a>)),
            size,
            origin: origin.map(|Origin { device, inode, size, ctime, as_before }| {
                repository::backup::Origin {
                    device,
                    inode,
                    size,
                    ctime: ctime.into(),
                    as_before: as_before.map(|told| told as Box<dyn FnOnce() + Send + 'a>),
                }
            }),
        },
    };
    Member { path: member.path_in_snapshot, content }
}

/// Whether the tree holds at the roots that are restored what the previous point holds there, attributes and all. What
/// lies beside them on the way, such as the time of a directory above, makes another tree and no change.
fn is_unchanged(reader: &BlobReader<'_>, previous: &Point, tree: Id, roots: &[PathBuf]) -> bool {
    // What cannot be found or read counts as changed; counting it says what is wrong.
    let is_same = |root: &PathBuf| match find_entry(reader, previous.tree, root) {
        Ok(before) => find_entry(reader, tree, root).is_ok_and(|now| now == before),
        Err(_) => false,
    };
    previous.tree == tree || (previous.recorded.roots == roots && roots.iter().all(is_same))
}

/// Counts what the tree holds at the roots that are restored.
fn tally(reader: &BlobReader<'_>, tree: Id, roots: &[PathBuf], context: Context<'_>) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut unreadable = None;
    let mut on_the_way = BTreeMap::new();
    walk_in_order(reader, &tree, context, &mut |path, met| {
        let node = match met {
            Met::Node(node) => node,
            other => {
                unreadable.get_or_insert_with(|| format!("{}: {other:?}", path.display()));
                return Ok(Descend::No);
            }
        };
        let inside = roots.iter().any(|root| path.starts_with(root));
        let leads_to = *on_the_way
            .entry(path.to_owned())
            .or_insert_with(|| roots.iter().any(|root| root.starts_with(path)));
        if inside {
            tally.add(&entry(path, node));
        }
        Ok(if inside || leads_to { Descend::Yes } else { Descend::No })
    })?;
    match unreadable {
        None => Ok(tally),
        Some(what) => Err(Error::damaged("the snapshot just made", what)),
    }
}

fn entry<'a>(path: &'a Path, node: &'a Node) -> Entry<'a> {
    Entry {
        path,
        kind: match node.kind {
            NodeKind::File => EntryKind::File(node.size),
            NodeKind::Dir => EntryKind::Directory,
            NodeKind::Symlink => {
                EntryKind::Symlink(Path::new(std::ffi::OsStr::from_bytes(&node.link_target)))
            }
            _ => EntryKind::Special,
        },
        mode: node.permissions(),
        uid: node.uid,
        gid: node.gid,
        mtime_nanoseconds: node.mtime.to_timestamp().as_nanosecond(),
    }
}
