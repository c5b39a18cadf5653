//! Recovery points: the record of each, kept in the repository beside its snapshot, and the choice among them.
//!
//! A snapshot becomes a recovery point by its record, which is written after the capture has ended well. A snapshot
//! without one belongs to a backup that did not come to its end, and is never chosen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use estate::component::PointFacts;
use estate::floor::Plausibility;
use jiff::Timestamp;
use repository::{Id, Repository};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The directory of the records in the repository.
const DIRECTORY: &str = "points";

/// The version of the record; a newer one is not guessed at.
const VERSION: u32 = 1;

/// A snapshot to which a component can be restored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The version of this record.
    pub version: u32,
    /// The snapshot's id.
    pub snapshot: Id,
    /// The tree of that snapshot.
    pub tree: Id,
    /// The estate: the plan's name.
    pub estate: String,
    /// The component's name in the plan.
    pub component: String,
    /// The run that made it.
    pub run: String,
    /// The machine that it is from.
    pub host: String,
    /// What the driver recorded.
    pub recorded: PointFacts,
    /// Whether it is to be believed.
    pub plausibility: Plausibility,
    /// Who accepted it although it was implausible.
    pub accepted_by: Option<String>,
    /// What was not as it should be when it was made, though it counts.
    pub remarks: Vec<String>,
}

impl Point {
    /// The version of the records that this program writes.
    pub const VERSION: u32 = VERSION;

    /// Whether it may be chosen without being asked for by name.
    pub fn counts(&self) -> bool {
        self.plausibility.counts()
    }

    /// The moment that it represents.
    pub fn instant(&self) -> Timestamp {
        self.recorded.instant
    }

    /// The first characters of the snapshot's id, as people use it.
    pub fn short(&self) -> String {
        self.snapshot.short()
    }

    /// The name of its record.
    pub(crate) fn name(&self) -> String {
        format!("{DIRECTORY}/{}", self.snapshot.to_hex())
    }

    /// What it is wherever it lies: the component and its moment. A copy has another id for the same point.
    pub fn identity(&self) -> (String, Timestamp) {
        (self.component.clone(), self.instant())
    }
}

/// Writes the record of a point, which makes it one.
pub(crate) fn save(repository: &Repository, point: &Point) -> Result<()> {
    let bytes = serde_json::to_vec(point).expect("a record has only text keys");
    repository.sidecar_create(&point.name(), &bytes)?;
    Ok(())
}

/// All recovery points of an estate, by instant, the newest last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue {
    points: Vec<Point>,
    /// Records that could not be read or are lost, and why: each may be a point that is missing in `points`.
    pub unreadable: Vec<String>,
}

impl Catalogue {
    /// Reads the records of `estate`, those already read from `cache`, a directory of this machine.
    ///
    /// Fails when the repository cannot be listed; a record that cannot be read is told in `unreadable`, and so is one
    /// that is lost although its snapshot is there, where this machine has seen it. A record whose snapshot is gone
    /// (forgotten, or lost) is no point. One of another size than it had when it was read is read again; damage that
    /// leaves the size as it was is found by who reads the repository.
    pub fn load(repository: &Repository, estate: &str, cache: &Path) -> Result<Self> {
        Self::load_those(repository, &|point| point.estate == estate, cache)
    }

    /// The same for every estate that has points in the repository.
    pub(crate) fn of_every_estate(repository: &Repository, cache: &Path) -> Result<Self> {
        Self::load_those(repository, &|_| true, cache)
    }

    fn load_those(repository: &Repository, wanted: &dyn Fn(&Point) -> bool, cache: &Path) -> Result<Self> {
        let snapshots = snapshots(repository)?;
        let mut records = repository.sidecar_list(DIRECTORY)?;
        records.retain(|(name, _)| snapshots.contains(id_of(name)));
        let mut catalogue = Self::default();
        let (mut missing, mut sizes, cache) = (Vec::new(), Vec::new(), Cache(cache));
        for (name, size) in &records {
            match cache.read(name, *size) {
                Some(point) => catalogue.take(point, wanted),
                None => {
                    missing.push(name.clone());
                    sizes.push(*size);
                }
            }
        }
        for ((name, size), read) in missing.iter().zip(sizes).zip(repository.sidecar_read_many(&missing)) {
            let parsed = read.map_err(Error::from).and_then(|bytes| {
                let point = parse(name, bytes.as_deref())?;
                if let (Some(_), Some(bytes)) = (&point, &bytes) {
                    cache.write(name, size, bytes);
                }
                Ok(point)
            });
            match parsed {
                Ok(Some(point)) => catalogue.take(point, wanted),
                // Removed since the listing.
                Ok(None) => {}
                Err(error) => catalogue.unreadable.push(error.to_string()),
            }
        }
        let mut lost = cache.those(|id| {
            let is_there = || records.binary_search_by(|(name, _)| id_of(name).cmp(id)).is_ok();
            snapshots.contains(id) && !is_there()
        });
        if !lost.is_empty() {
            // Who forgets a point removes its snapshot first, and may have done so since.
            let snapshots = self::snapshots(repository)?;
            lost.retain(|point| wanted(point) && snapshots.contains(&point.snapshot.to_hex()));
            catalogue.unreadable.extend(lost.iter().map(said_of_lost));
        }
        catalogue.points.sort_by_key(Point::instant);
        Ok(catalogue)
    }

    fn take(&mut self, point: Point, wanted: &dyn Fn(&Point) -> bool) {
        if wanted(&point) {
            self.points.push(point);
        }
    }

    /// The points of `component`, by instant, the newest last.
    pub fn of<'a, 'c>(
        &'a self,
        component: &'c str,
    ) -> impl DoubleEndedIterator<Item = &'a Point> + use<'a, 'c> {
        self.points.iter().filter(move |point| point.component == component)
    }

    /// All points, by instant, the newest last.
    pub fn all(&self) -> &[Point] {
        &self.points
    }

    /// The newest point of `component` that counts.
    pub fn newest(&self, component: &str) -> Option<&Point> {
        self.of(component).rfind(|point| point.counts())
    }

    /// Chooses the newest point of `component` that counts and is not younger than `at`, or the newest of all.
    ///
    /// Fails when there is none, and says which there are.
    pub fn choose(&self, component: &str, at: Option<Timestamp>) -> Result<&Point> {
        let chosen =
            self.of(component).rfind(|point| point.counts() && at.is_none_or(|at| point.instant() <= at));
        chosen.ok_or_else(|| {
            let mut counting = self.of(component).filter(|point| point.counts());
            match (counting.next(), at) {
                (Some(oldest), Some(at)) => Error::refused(
                    format!(
                        "{component} has no recovery point as old as {at}: the oldest is of {}",
                        oldest.instant()
                    ),
                    "choose a later instant; `lifeboat points` shows what there is",
                ),
                _ if self.of(component).next().is_some() => Error::refused(
                    format!("no recovery point of {component} counts: every one is implausible"),
                    "see why with `lifeboat points`, and accept one by a backup with --accept if it is right",
                ),
                _ => Error::refused(
                    format!("{component} has no recovery point in this repository"),
                    format!("make one with `lifeboat backup {component}`"),
                ),
            }
        })
    }
}

fn parse(name: &str, bytes: Option<&[u8]>) -> Result<Option<Point>> {
    let Some(bytes) = bytes else { return Ok(None) };
    let mut point: Point = serde_json::from_slice(bytes).map_err(|error| Error::damaged(name, error))?;
    if point.version > VERSION {
        let why = format!("it has version {}, and this program knows up to {VERSION}", point.version);
        return Err(Error::damaged(name, why));
    }
    if point.name() != name {
        let named = name.rsplit('/').next().unwrap_or_default();
        // A copied record has the same bytes under the name of the copied snapshot; that name is sealed with it, so it is
        // the one to go by.
        point.snapshot = named.parse().map_err(|_| Error::damaged(name, "its name is no snapshot's"))?;
    }
    Ok(Some(point))
}

/// The ids of all snapshots, in hexadecimal.
fn snapshots(repository: &Repository) -> Result<BTreeSet<String>> {
    Ok(repository.list(repository::FileKind::Snapshot)?.into_iter().map(|(id, _)| id.to_hex()).collect())
}

/// The snapshot's id in the name of a record.
fn id_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

fn said_of_lost(point: &Point) -> String {
    let (component, instant, short) = (&point.component, point.instant(), point.short());
    format!(
        "the record of {component} as of {instant} is lost, and its snapshot {short} is there: have the point from a copy \
         with --from, or its files with `lifeboat repository restore {short}`; when it is not needed, remove it with \
         `lifeboat repository forget {short}`"
    )
}

/// Records that were read before: they never change, and reading hundreds from an object store takes seconds. Each lies
/// under its name and the size that it has in the repository.
struct Cache<'a>(&'a Path);

impl Cache<'_> {
    fn path(&self, name: &str, size: u64) -> PathBuf {
        self.0.join(format!("{name}.{size}"))
    }

    fn read(&self, name: &str, size: u64) -> Option<Point> {
        let bytes = std::fs::read(self.path(name, size)).ok()?;
        parse(name, Some(&bytes)).ok().flatten()
    }

    fn write(&self, name: &str, size: u64, bytes: &[u8]) {
        let path = self.path(name, size);
        let Some(directory) = path.parent() else { return };
        // A cache that cannot be written only costs time.
        let beside = path.with_extension(format!("{}.part", std::process::id()));
        let _uncached = std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&beside, bytes))
            .and_then(|()| std::fs::rename(&beside, &path));
    }

    /// The points whose snapshots' ids `wanted` chooses.
    fn those(&self, wanted: impl Fn(&str) -> bool) -> Vec<Point> {
        let entries = std::fs::read_dir(self.0.join(DIRECTORY)).into_iter().flatten();
        let mut found: Vec<Point> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let (id, size) = name.split_once('.')?;
                let is_wanted = wanted(id);
                is_wanted.then(|| self.read(&format!("{DIRECTORY}/{id}"), size.parse().ok()?))?
            })
            .collect();
        found.sort_by_key(Point::instant);
        found.dedup_by_key(|point| point.snapshot);
        found
    }
}
