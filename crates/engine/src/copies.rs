//! The plan's copies: further repositories that get every recovery point, and from which one can recover.
//!
//! # Order of writes
//! Archived logs ([`repository::log`]), so that no point comes without the log that it needs; data, index, snapshots, then
//! the records that make them points ([`repository::copy`]); what was logged meanwhile; journals and ends of runs after
//! them. A copy is a whole repository with a key of its own at every moment; what a crash or an outage left out, the
//! next copy brings.
//!
//! # What is remembered
//! How new each copy was when it was last seen lies in the state directory, so that a copy that cannot be reached can
//! still be said to be so and so old. It is a note for messages and decides nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use repository::copy::{CopyOptions, CopyReport, copy};
use repository::log::{self, Archive};
use repository::{Context, Repository, SnapshotFilter};
use serde::{Deserialize, Serialize};

use crate::point::{Catalogue, Point};
use crate::site::Site;
use crate::units::duration;
use crate::{Error, Result};

/// What is copied beside the points: what proofs, reports and `status` are made of.
const BESIDE: [&str; 3] = ["runs", "proofs", "plans"];

/// Opens a copy; says in words why it cannot.
pub type Open = dyn Fn() -> std::result::Result<Repository, String> + Send + Sync;

/// One of the plan's copies, opened when it is needed: it may be away.
#[derive(Clone)]
pub struct CopySite {
    /// Where it lies, as the plan writes it: late values stand in it as references.
    pub location: String,
    open: Arc<Open>,
}

impl fmt::Debug for CopySite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopySite").field("location", &self.location).finish_non_exhaustive()
    }
}

impl CopySite {
    /// A copy that `open` opens.
    pub fn new(location: impl Into<String>, open: Arc<Open>) -> Self {
        Self { location: location.into(), open }
    }

    /// Opens it; the reason in words when it cannot be.
    pub fn open(&self) -> std::result::Result<Repository, String> {
        (self.open)()
    }
}

impl Site {
    /// The same estate with a copy in the place of its repository.
    pub fn of_copy(&self, copy: Repository) -> Self {
        Self { repository: copy, copies: Vec::new(), ..self.clone() }
    }
}

/// How far a copy is behind with one component.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lag {
    /// The component.
    pub component: String,
    /// The moment of its newest point there that counts.
    pub newest: Option<Timestamp>,
    /// By how much the repository's newest is newer, in seconds; 0 if the copy has it, `None` if the copy has none.
    pub behind_seconds: Option<f64>,
}

impl Lag {
    /// Whether the copy has the newest point.
    pub fn is_current(&self) -> bool {
        self.behind_seconds == Some(0.0)
    }
}

/// Brings to `target` what it lacks: of one component, or everything in the repository.
pub fn update(
    site: &Site,
    target: &Repository,
    component: Option<&str>,
    context: Context<'_>,
) -> Result<CopyReport> {
    let tags = component.map(|name| vec![format!("component:{name}")]);
    let options = CopyOptions {
        filter: SnapshotFilter { tags: tags.into_iter().collect(), ..SnapshotFilter::default() },
        lock: site.lock_options(),
        ..CopyOptions::default()
    };
    carry_logs(&site.repository, target, component, context)?;
    let report = copy(&site.repository, target, &options, context)?;
    carry_logs(&site.repository, target, component, context)?;
    carry_beside(&site.repository, target)?;
    Ok(report)
}

/// Copies the archived logs of one component or of all; those of the others also when one cannot be read.
fn carry_logs(
    source: &Repository,
    target: &Repository,
    component: Option<&str>,
    context: Context<'_>,
) -> Result<()> {
    let components = match component {
        Some(component) => BTreeSet::from([component.to_owned()]),
        None => log::components(source)?,
    };
    let mut failures = Vec::new();
    for component in &components {
        let carried = Archive::new(source, component)
            .and_then(|from| from.copy_to(&Archive::new(target, component)?, context));
        match carried {
            Ok(_) => {}
            Err(log::Error::Repository(error)) => return Err(error.into()),
            Err(error) => failures.push(format!("the log of {component}: {error}")),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Failed(failures.join("; "))) }
}

/// Copies the records that belong to no snapshot; those that are there are never changed.
pub(crate) fn carry_beside(source: &Repository, target: &Repository) -> Result<()> {
    for directory in BESIDE {
        let there: HashSet<String> =
            target.sidecar_list(directory)?.into_iter().map(|(name, _)| name).collect();
        let lacking: Vec<String> = source
            .sidecar_list(directory)?
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !there.contains(name))
            .collect();
        for (name, read) in lacking.iter().zip(source.sidecar_read_many(&lacking)) {
            if let Some(bytes) = read? {
                target.sidecar_create(name, &bytes)?;
            }
        }
    }
    Ok(())
}

/// How far `copy` is behind `main`, for every component of the plan that has a point that counts.
pub fn lag(site: &Site, main: &Catalogue, copy: &Catalogue) -> Vec<Lag> {
    let components = site.plan.components.names();
    components.filter_map(|name| main.newest(name).map(|newest| lag_of(newest, copy))).collect()
}

/// How far `copy` is behind the newest point of a component.
pub(crate) fn lag_of(newest: &Point, copy: &Catalogue) -> Lag {
    let there = copy.newest(&newest.component).map(Point::instant);
    let behind = |there: Timestamp| newest.instant().duration_since(there).as_secs_f64().max(0.0);
    Lag { component: newest.component.clone(), newest: there, behind_seconds: there.map(behind) }
}

/// What is remembered of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSeen {
    /// Where it lies, as the plan writes it.
    pub location: String,
    /// When it was seen.
    pub seen: Timestamp,
    /// The moment of the newest point of each component then.
    pub newest: BTreeMap<String, Timestamp>,
}

impl LastSeen {
    /// How old the copy's newest point of `component` is by `now`, in words.
    pub fn age(&self, component: &str, now: Timestamp) -> String {
        match self.newest.get(component) {
            None => format!("had no point of {component} when it was last seen"),
            Some(newest) => {
                let age = Duration::try_from(now.duration_since(*newest)).unwrap_or_default();
                format!("its newest point of {component} is {} old, as far as is known here", duration(age))
            }
        }
    }
}

/// Remembers how new a copy is. A note that cannot be written makes a later message say less, and nothing else.
pub(crate) fn remember(site: &Site, location: &str, copy: &Catalogue) {
    let newest = site.plan.components.names().filter_map(|name| {
        let point = copy.newest(name)?;
        Some((name.to_owned(), point.instant()))
    });
    let seen = LastSeen { location: location.to_owned(), seen: site.now(), newest: newest.collect() };
    let path = note(site, location);
    let (Some(directory), Ok(bytes)) = (path.parent(), serde_json::to_vec(&seen)) else { return };
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let _forgotten = std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&beside, bytes))
        .and_then(|()| std::fs::rename(&beside, &path));
}

/// What is remembered of the copy at `location`.
pub fn recall(site: &Site, location: &str) -> Option<LastSeen> {
    let bytes = std::fs::read(note(site, location)).ok()?;
    serde_json::from_slice(&bytes).ok().filter(|seen: &LastSeen| seen.location == location)
}

fn note(site: &Site, location: &str) -> PathBuf {
    let name: String =
        location.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    site.state.join("copies").join(format!("{name}.json"))
}

/// The catalogue of an open copy.
pub fn catalogue(site: &Site, copy: &Repository) -> Result<Catalogue> {
    let catalogue = Catalogue::load(copy, &site.estate(), &site.state.join("cache"))?;
    match catalogue.unreadable.first() {
        None => Ok(catalogue),
        Some(what) => Err(Error::Failed(format!("not every record in the copy can be read: {what}"))),
    }
}

/// Finds the copy that a person means: by its number in the plan, from 1, or by its location as the plan writes it.
///
/// Fails when there is none, and says which there are.
pub fn find(plan: &plan::Plan, wanted: &str) -> Result<usize> {
    let locations: Vec<&str> = plan.copies.iter().map(|copy| copy.location.written()).collect();
    let trim = |location: &str| location.trim_end_matches('/').to_owned();
    let by_name = locations.iter().position(|location| trim(location) == trim(wanted));
    let by_number = || wanted.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < locations.len());
    by_name.or_else(by_number).ok_or_else(|| {
        let hint = match locations.as_slice() {
            [] => "the plan has no `copies`".to_owned(),
            some => format!("the plan's copies: {}", some.join(", ")),
        };
        Error::refused(format!("{wanted} is no copy of the plan"), hint)
    })
}
