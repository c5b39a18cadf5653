//! Forgetting snapshots: by policy or by name, planned, shown, and then done.
//!
//! A plan is made under an exclusive lock, which it holds until it is executed or dropped: what was shown is what
//! is done. Data goes later, with a prune.
//!
//! # Crash
//! Every snapshot is removed by one deletion. A crash leaves some of the planned ones, and nothing else
//! changed; the same plan can be made again.

mod policy;

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::check::is_in_future;
use crate::event::{Event, Task};
use crate::parallel::remove_all;
use crate::{
    Context, Error, FileKind, Id, Lock, LockOptions, Repository, Result, SnapshotEntry, SnapshotFilter,
};

pub use policy::{Age, Count, KeepPolicy, Period, Reason};

/// How to forget.
#[derive(Debug, Clone)]
pub struct ForgetOptions {
    /// Which snapshots are meant at all; others are neither counted nor removed.
    pub filter: SnapshotFilter,
    /// What makes snapshots one history, to which the policy is applied.
    pub group_by: GroupBy,
    /// Where hours, days, weeks, months and years begin.
    pub zone: TimeZone,
    /// Allows a plan that leaves a group, or the repository, without any snapshot.
    pub allow_remove_all: bool,
    /// Leaves snapshots that are dated in the future out of account, and keeps them, instead of refusing.
    pub ignore_future: bool,
    /// Intervals of the lock.
    pub lock: LockOptions,
}

impl Default for ForgetOptions {
    /// All snapshots, by host and paths as restic does, in UTC, with every refusal in force.
    fn default() -> Self {
        Self {
            filter: SnapshotFilter::default(),
            group_by: GroupBy::default(),
            zone: TimeZone::UTC,
            allow_remove_all: false,
            ignore_future: false,
            lock: LockOptions::default(),
        }
    }
}

/// What makes snapshots one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// They are of the same host.
    pub host: bool,
    /// They are of the same paths.
    pub paths: bool,
    /// They have the same tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

impl std::str::FromStr for GroupBy {
    type Err = String;

    /// Reads a list of `host`, `paths` and `tags`, separated by commas; an empty one is a single group.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut group_by = Self { host: false, paths: false, tags: false };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "host" | "hosts" => group_by.host = true,
                "path" | "paths" => group_by.paths = true,
                "tag" | "tags" => group_by.tags = true,
                other => return Err(format!("{other:?} is none of host, paths and tags")),
            }
        }
        Ok(group_by)
    }
}

/// What all snapshots of one group share; a field is empty when it does not make the group.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// The host.
    pub host: Option<String>,
    /// The paths, sorted.
    pub paths: Option<Vec<String>>,
    /// The tags, sorted.
    pub tags: Option<Vec<String>>,
}

impl GroupBy {
    fn key(self, entry: &SnapshotEntry) -> GroupKey {
        let sorted = |texts: &[String]| {
            let mut texts = texts.to_vec();
            texts.sort_unstable();
            texts
        };
        GroupKey {
            host: self.host.then(|| entry.snapshot.hostname.clone()),
            paths: self.paths.then(|| sorted(&entry.snapshot.paths)),
            tags: self.tags.then(|| sorted(&entry.snapshot.tags)),
        }
    }
}

/// A snapshot that stays, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The snapshot.
    pub entry: SnapshotEntry,
    /// Every rule that keeps it.
    pub reasons: Vec<Reason>,
}

/// What becomes of one group; both lists newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForgetGroup {
    /// What its snapshots share.
    pub key: GroupKey,
    /// Those that stay.
    pub keep: Vec<Kept>,
    /// Those that go.
    pub remove: Vec<SnapshotEntry>,
}

/// Which snapshots go; nothing has changed yet.
#[derive(Debug)]
pub struct ForgetPlan {
    /// What becomes of every group.
    pub groups: Vec<ForgetGroup>,
    repository: Repository,
    lock: Lock,
}

/// What forgetting did.
#[derive(Debug, Default)]
pub struct ForgetReport {
    /// Snapshots that were removed.
    pub removed: Vec<Id>,
    /// Snapshots that are still there because they could not be removed, and why.
    pub failed: Vec<(Id, Error)>,
}

/// Plans what `policy` does not keep.
///
/// Refuses with [`Error::Refused`] a policy without a rule, one that leaves a group without a snapshot, and
/// snapshots dated in the future, which would count as the newest and push real ones out; and fails at the
/// first snapshot that cannot be read, which may be one that counts.
pub fn plan_forget(
    repository: &Repository,
    policy: &KeepPolicy,
    options: &ForgetOptions,
    context: Context<'_>,
) -> Result<ForgetPlan> {
    if policy.is_empty() && !options.allow_remove_all {
        let why = "the policy keeps nothing: give at least one rule of what to keep";
        return Err(Error::Refused(why.into()));
    }
    let lock = Lock::exclusive(repository, options.lock)?;
    context.check()?;
    let mut entries = repository.snapshots().map_err(explain_unreadable)?;
    entries.retain(|entry| options.filter.matches(&entry.snapshot));
    let (future, entries): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| is_in_future(repository, entry.time()));
    if !future.is_empty() && !options.ignore_future {
        return Err(refuse_future(&future));
    }
    let mut groups = group(entries, options.group_by)
        .into_iter()
        .map(|(key, entries)| apply(policy, key, entries, &options.zone))
        .collect::<Vec<_>>();
    if let Some(group) = groups.iter().find(|group| group.keep.is_empty())
        && !options.allow_remove_all
    {
        return Err(refuse_empty(group));
    }
    keep_future(&mut groups, future, options.group_by);
    Ok(ForgetPlan { groups, repository: repository.clone(), lock })
}

/// Plans to forget the snapshots that `names` name, by the beginnings of their ids or as `latest`.
///
/// Refuses with [`Error::Refused`] to remove the last snapshots of the repository.
pub fn plan_forget_named(
    repository: &Repository,
    names: &[String],
    options: &ForgetOptions,
    context: Context<'_>,
) -> Result<ForgetPlan> {
    let lock = Lock::exclusive(repository, options.lock)?;
    let mut remove: Vec<SnapshotEntry> = Vec::new();
    for name in names {
        context.check()?;
        let entry = repository.find_snapshot(name, &options.filter).map_err(explain_unreadable)?;
        if !remove.contains(&entry) {
            remove.push(entry);
        }
    }
    if !remove.is_empty()
        && remove.len() == repository.list(FileKind::Snapshot)?.len()
        && !options.allow_remove_all
    {
        return Err(Error::Refused("this would leave the repository without any snapshot".into()));
    }
    remove.sort_by_key(|entry| std::cmp::Reverse(entry.time()));
    let groups = vec![ForgetGroup { key: GroupKey::default(), keep: Vec::new(), remove }];
    Ok(ForgetPlan { groups, repository: repository.clone(), lock })
}

impl ForgetPlan {
    /// The snapshots that go.
    pub fn remove(&self) -> impl Iterator<Item = &SnapshotEntry> {
        self.groups.iter().flat_map(|group| &group.remove)
    }

    /// Removes the snapshots, and gives the lock back.
    pub fn execute(self, context: Context<'_>) -> Result<ForgetReport> {
        let ids: Vec<Id> = self.remove().map(|entry| entry.id).collect();
        self.lock.guard().check()?;
        context.tell(Event::Begin(Task::Delete));
        let failed = remove_all(&self.repository, FileKind::Snapshot, &ids, context)?;
        context.tell(Event::End(Task::Delete));
        let removed = ids.into_iter().filter(|id| failed.iter().all(|(other, _)| other != id)).collect();
        self.lock.release()?;
        Ok(ForgetReport { removed, failed })
    }
}

fn group(entries: Vec<SnapshotEntry>, group_by: GroupBy) -> BTreeMap<GroupKey, Vec<SnapshotEntry>> {
    let mut groups: BTreeMap<GroupKey, Vec<SnapshotEntry>> = BTreeMap::new();
    for entry in entries {
        groups.entry(group_by.key(&entry)).or_default().push(entry);
    }
    groups
}

fn apply(
    policy: &KeepPolicy,
    key: GroupKey,
    mut entries: Vec<SnapshotEntry>,
    zone: &TimeZone,
) -> ForgetGroup {
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.time(), entry.id)));
    let reasons = policy.apply(&entries.iter().collect::<Vec<_>>(), zone);
    let mut group = ForgetGroup { key, keep: Vec::new(), remove: Vec::new() };
    for (entry, reasons) in entries.into_iter().zip(reasons) {
        if reasons.is_empty() {
            group.remove.push(entry);
        } else {
            group.keep.push(Kept { entry, reasons });
        }
    }
    group
}

fn keep_future(groups: &mut Vec<ForgetGroup>, future: Vec<SnapshotEntry>, group_by: GroupBy) {
    for entry in future.into_iter().rev() {
        let key = group_by.key(&entry);
        let kept = Kept { entry, reasons: vec![Reason::InFuture] };
        match groups.iter_mut().find(|group| group.key == key) {
            Some(group) => group.keep.insert(0, kept),
            None => groups.push(ForgetGroup { key, keep: vec![kept], remove: Vec::new() }),
        }
    }
}

fn explain_unreadable(error: Error) -> Error {
    match error {
        Error::Damaged { object, why } => {
            let why = format!(
                "{why}; nothing is forgotten while a snapshot cannot be read: repair the snapshots first"
            );
            Error::Damaged { object, why }
        }
        other => other,
    }
}

fn refuse_future(future: &[SnapshotEntry]) -> Error {
    let names: Vec<String> =
        future.iter().map(|entry| format!("{} ({})", entry.id.short(), entry.time())).collect();
    Error::Refused(format!(
        "snapshots are dated in the future and would count as the newest: {}; set the clock right, remove them by name, \
         or say that they are to be ignored",
        names.join(", ")
    ))
}

fn refuse_empty(group: &ForgetGroup) -> Error {
    let GroupKey { host, paths, tags } = &group.key;
    let mut shared = Vec::new();
    shared.extend(host.as_ref().map(|host| format!("host {host}")));
    shared.extend(paths.as_ref().map(|paths| format!("paths {}", paths.join(", "))));
    shared.extend(tags.as_ref().map(|tags| format!("tags {}", tags.join(", "))));
    let shared = if shared.is_empty() { "all snapshots".to_owned() } else { shared.join(", ") };
    Error::Refused(format!(
        "the policy would keep none of the {} snapshots of {shared}; add a rule that keeps one",
        group.remove.len()
    ))
}
