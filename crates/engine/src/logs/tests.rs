//! Archived logs as the use cases see them: time lines, alarms, verification, retention, copies.

use std::sync::Arc;

use estate::component::LogBase;
use jiff::{SignedDuration, Timestamp};
use repository::log::{Appender, Archive, Base, Piece, RetainOptions, Scope, Target};
use repository::{Context, Repository};
use store::fault::{Filter, Operation};
use store::{Fault, Memory, Store};

use crate::point::Point;
use crate::retain::tests::{point_with, site};
use crate::site::Site;
use crate::status::{Protection, Readiness, status};
use crate::timeline::{Timeline, timeline};
use crate::{copies, retain};

/// Positions are seconds after this.
fn begin() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() - 1000).unwrap()
}

struct Scene {
    _base: tempfile::TempDir,
    memory: Arc<Memory>,
    site: Site,
    begin: Timestamp,
}

impl Scene {
    fn new() -> Self {
        let (base, memory) = (tempfile::tempdir().unwrap(), Arc::new(Memory::new()));
        let site = site(Arc::clone(&memory) as Arc<dyn Store>, base.path());
        Self { _base: base, memory, site, begin: begin() }
    }

    fn at(&self, position: u64) -> Timestamp {
        self.begin + SignedDuration::from_secs(position.try_into().unwrap())
    }

    /// A point of the database that is consistent at a position, and needs the log from five before on.
    fn point(&self, lineage: &str, position: u64) -> Point {
        let log = LogBase {
            lineage: lineage.into(),
            needed_from: position.saturating_sub(5),
            consistent_at: position,
        };
        point_with(&self.site, "database", self.at(position), true, Some(log))
    }

    fn archive(&self) -> Archive {
        Archive::new(&self.site.repository, "database").unwrap()
    }

    /// Archives ten positions at a time.
    fn log(&self, appender: &Appender, from: u64, to: u64) {
        for first in (from..to).step_by(10) {
            let until = self.at(first + 10).as_millisecond().try_into().ok();
            let bytes = first.to_le_bytes();
            let piece =
                Piece { first, last: first + 10, from_ms: None, until_ms: until, name: None, bytes: &bytes };
            appender.append_after_gap(&piece).unwrap();
        }
    }

    fn timeline(&self) -> Option<Timeline> {
        timeline(&self.site.repository, &self.site.catalogue().unwrap(), "database").unwrap()
    }

    fn database(&self) -> (Protection, Option<String>, Readiness) {
        let readiness = status(&self.site).unwrap();
        let database = &readiness.components[0];
        (database.protection, database.why.clone(), readiness)
    }
}

#[test]
fn a_time_line_shows_stretches_points_and_gaps() {
    let scene = Scene::new();
    assert_eq!(scene.timeline(), None);
    let appender = scene.archive().appender("one").unwrap();
    scene.log(&appender, 0, 200);
    scene.point("one", 20);
    scene.point("one", 100);
    scene.log(&appender, 300, 400);
    let early = scene.point("one", 5);
    let shown = scene.timeline().unwrap();
    let [stretch] = &shown.stretches[..] else { panic!("{shown:?}") };
    assert_eq!((stretch.begin, stretch.end), (scene.at(5), scene.at(200)));
    assert_eq!(stretch.points, [5, 20, 100].map(|position| scene.at(position)));
    let [gap] = &shown.gaps[..] else { panic!("{shown:?}") };
    assert_eq!((gap.after, gap.before, gap.since), (200, 300, Some(scene.at(200))));
    assert!(gap.hides_newest && gap.until.is_none());
    assert_eq!((shown.end(), shown.archived_to), (Some(scene.at(200)), Some(scene.at(400))));
    // A point behind the gap leads on.
    scene.point("one", 310);
    let shown = scene.timeline().unwrap();
    assert_eq!(shown.stretches.len(), 2);
    assert_eq!((shown.gaps[0].until, shown.gaps[0].hides_newest), (Some(scene.at(310)), false));
    assert_eq!(shown.alarm(), None);
    // One whose log is not there stands alone; a gap before the oldest point is of no interest.
    scene.point("two", 350);
    assert_eq!(scene.timeline().unwrap().without.len(), 1);
    for point in scene.site.catalogue().unwrap().all() {
        if point.recorded.log.as_ref().is_some_and(|log| log.consistent_at < 300) {
            scene.site.repository.remove(repository::FileKind::Snapshot, &point.snapshot).unwrap();
        }
    }
    let shown = scene.timeline().unwrap();
    assert_eq!((shown.gaps.len(), shown.stretches.len()), (0, 1));
    assert!(!scene.site.catalogue().unwrap().all().contains(&early));
}

#[test]
fn status_alarms_for_a_gap_that_hides_the_newest() {
    let scene = Scene::new();
    let appender = scene.archive().appender("one").unwrap();
    scene.point("one", 10);
    scene.log(&appender, 0, 100);
    let (protection, why, readiness) = scene.database();
    assert_eq!((protection, why), (Protection::Protected, None));
    assert_eq!(readiness.components[0].newest, Some(scene.at(100)), "the log counts, not only the point");
    scene.log(&appender, 110, 200);
    let (protection, why, readiness) = scene.database();
    assert_eq!(protection, Protection::Broken);
    let why = why.unwrap();
    assert!(why.contains("a gap from 0x64 to 0x6e") && why.contains("lifeboat backup database"), "{why}");
    assert_eq!(readiness.components[0].newest, Some(scene.at(100)));
    // What is missing comes after all: but what began a chain of its own stays apart, so a new point it must be.
    scene.point("one", 150);
    assert_eq!(scene.database().0, Protection::Protected);
}

#[test]
fn verification_reads_each_log_once_and_finds_what_is_wrong() {
    let scene = Scene::new();
    let verify = || {
        let names = scene.site.plan.components.names();
        let reports = super::verify(&scene.site.repository, names, Scope::New, Context::silent()).unwrap();
        reports
            .into_iter()
            .map(|(name, one)| (name, one.verified, one.known, one.findings.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(verify(), []);
    scene.log(&scene.archive().appender("one").unwrap(), 0, 50);
    let other = Archive::new(&scene.site.repository, "Not in the plan").unwrap();
    scene.log(&other.appender("x").unwrap(), 0, 20);
    let of = |name: &str, verified, known, findings| (name.to_owned(), verified, known, findings);
    assert_eq!(verify(), [of("Not in the plan", 2, 0, 0), of("database", 5, 0, 0)]);
    let damaged = scene.archive().lineage("one").unwrap().segments[2].file_name();
    let key = format!("lifeboat/log/database/one/{damaged}");
    scene.memory.put(&key, vec![7; 30].into()).unwrap();
    assert_eq!(verify(), [of("Not in the plan", 0, 2, 0), of("database", 0, 4, 1)]);
}

#[test]
fn a_prune_keeps_every_log_that_a_point_needs_and_drops_the_others_in_two_phases() {
    let scene = Scene::new();
    let appender = scene.archive().appender("one").unwrap();
    scene.log(&appender, 0, 200);
    let prune = |keep_marked| {
        let options = RetainOptions { keep_marked, ..RetainOptions::default() };
        let pruned = retain::prune_logs_with(&scene.site, &options, Context::silent()).unwrap();
        (pruned.removed, pruned.marked, pruned.left_alone.len())
    };
    let (day, now) = (std::time::Duration::from_secs(86_400), std::time::Duration::ZERO);
    assert_eq!(prune(now), (0, 0, 1), "no point knows the log, so nothing goes");
    let old = scene.point("one", 25);
    // Of another estate, in the same repository.
    let mut neighbour = scene.site.clone();
    neighbour.plan = Arc::new(
        plan::Plan::parse("lifeboat: 1\nname: other\ncomponents: { database: { sqlite: a } }\n", "x", None)
            .unwrap(),
    );
    let log = LogBase { lineage: "one".into(), needed_from: 60, consistent_at: 65 };
    point_with(&neighbour, "database", scene.at(65), true, Some(log));
    scene.point("one", 155);
    assert_eq!(prune(now), (2, 0, 0), "from 20 on it is needed");
    scene.site.repository.remove(repository::FileKind::Snapshot, &old.snapshot).unwrap();
    assert_eq!(prune(day), (0, 4, 0), "marked, and there for now");
    assert_eq!(prune(day), (0, 4, 0));
    let reach = |needed_from| {
        let base = Base { lineage: "one".into(), needed_from, consistent_at: 65, instant_ms: None };
        scene.archive().catalogue().unwrap().needed(&[base], "one", Target::End).is_ok()
    };
    assert!(reach(20));
    assert_eq!(prune(now), (4, 0, 0));
    assert!(reach(60) && !reach(50));
    // A record that cannot be read may be of a point that needs it.
    let unreadable = format!("lifeboat/points/{}", scene.point("one", 190).snapshot.to_hex());
    scene.memory.put(&unreadable, vec![0; 40].into()).unwrap();
    std::fs::remove_dir_all(scene.site.state.join("cache")).unwrap();
    assert_eq!(prune(now), (0, 0, 1));
}

#[test]
fn a_copy_gets_the_log_before_the_points_that_need_it() {
    let scene = Scene::new();
    scene.log(&scene.archive().appender("one").unwrap(), 0, 50);
    let base = tempfile::tempdir().unwrap();
    let target = |store: Arc<dyn Store>| -> Repository { site(store, base.path()).repository };
    let store = Arc::new(Fault::new(Memory::new()));
    let copy = target(store.clone());
    let before = store.durable_log().len();
    copies::update(&scene.site, &copy, None, Context::silent()).unwrap();
    let archive = Archive::new(&copy, "database").unwrap();
    let known = archive.lineage("one").unwrap();
    assert_eq!(known.runs.iter().map(|run| (run.first, run.last)).collect::<Vec<_>>(), [(0, 50)]);
    // Each segment behind the one before, none before its writer's inheritance, and all before the records of runs.
    let written: Vec<String> = store.durable_log()[before..].iter().map(|call| call.key.clone()).collect();
    let segments: Vec<&String> = written.iter().filter(|key| key.split('/').count() == 5).collect();
    assert!(segments.len() == 5 && segments.is_sorted(), "{written:?}");
    // A log that cannot be written is told, and no snapshot is copied without it.
    store.inject(
        Filter::of(&[Operation::Create]).at("lifeboat/log"),
        store::fault::Effect::Fail(store::ErrorKind::Denied),
    );
    scene.log(&scene.archive().appender("one").unwrap(), 50, 60);
    let writes = store.durable_log().len();
    assert!(copies::update(&scene.site, &copy, None, Context::silent()).is_err());
    let failed: Vec<String> = store.durable_log()[writes..].iter().map(|call| call.key.clone()).collect();
    assert!(failed.iter().all(|key| key.starts_with("lifeboat/log")), "{failed:?}");
}
