//! Retention against a repository: what it refuses, what stays, and what a crash leaves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use estate::component::{LogBase, PointFacts};
use estate::facts::Facts;
use estate::floor::{Plausibility, Reason as Doubt};
use plan::{Lookup, Plan, Reference};
use repository::crypto::ScryptCost;
use repository::format::Chunking;
use repository::keys::Author;
use repository::{Clock, Id, InitOptions, LockOptions};
use serde_json::json;
use store::{Fault, Memory, Store};

use super::*;
use crate::log::Choice;
use crate::resolve::{Chosen, Mode};
use crate::runs::Record;

const PLAN: &str = "\
lifeboat: 1
name: shop
components:
  database: { sqlite: shop.db, keep: { last: 2 } }
  config: { files: [etc] }
";

struct Nothing;

impl Lookup for Nothing {
    fn look_up(&self, _: &Reference) -> std::result::Result<String, String> {
        Err("there is none".into())
    }
}

/// A shop whose repository lies in `store`.
pub(crate) fn site(store: Arc<dyn Store>, base: &Path) -> Site {
    let options = InitOptions {
        chunking: Chunking::Gear,
        polynomial: None,
        cost: ScryptCost { n: 2, r: 1, p: 1 },
        author: Author { username: String::new(), hostname: String::new() },
    };
    let opened = match store.size("config") {
        Ok(_) => Repository::open(store, b"secret", Clock::system()),
        Err(_) => Repository::init(store, b"secret", &options, Clock::system()),
    };
    Site {
        plan: Arc::new(Plan::parse(PLAN, "lifeboat.yaml", None).unwrap()),
        plan_text: PLAN.into(),
        base: base.to_owned(),
        state: base.join("state"),
        repository: opened.unwrap(),
        copies: Vec::new(),
        from: None,
        zone: jiff::tz::TimeZone::UTC,
        lookup: Arc::new(Nothing),
        who: "ada@shop-1".into(),
        host: "shop-1".into(),
        program: "lifeboat 0.3.0".into(),
        twin_init: place::Init::this_program(["twin-init"]),
        sqlite_proof: None,
        lock_wait: std::time::Duration::ZERO,
    }
}

fn ago(hours: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(hours)
}

/// Makes a point as it was so many hours ago.
fn point_of(site: &Site, component: &str, instant: Timestamp, counts: bool) -> Point {
    point_with(site, component, instant, counts, None)
}

/// Makes a point that stands somewhere in a log.
pub(crate) fn point_with(
    site: &Site,
    component: &str,
    instant: Timestamp,
    counts: bool,
    log: Option<LogBase>,
) -> Point {
    let tree = Id::random();
    let snapshot =
        json!({ "time": instant.to_string(), "tree": tree, "paths": ["/x"], "hostname": "shop-1" });
    let snapshot = site.repository.save_json(FileKind::Snapshot, &snapshot).unwrap();
    let recorded = PointFacts {
        kind: "sqlite".into(),
        engine: "SQLite".into(),
        instant,
        facts: Facts::default(),
        queries: BTreeMap::new(),
        bytes: Some(1),
        roots: Vec::new(),
        identity: None,
        details: BTreeMap::new(),
        token: None,
        log,
    };
    let point = Point {
        version: Point::VERSION,
        snapshot,
        tree,
        estate: site.estate(),
        component: component.into(),
        run: "r".into(),
        host: "shop-1".into(),
        recorded,
        plausibility: if counts {
            Plausibility::Plausible
        } else {
            Plausibility::Implausible(vec![Doubt::Empty])
        },
        accepted_by: None,
        remarks: Vec::new(),
    };
    crate::point::save(&site.repository, &point).unwrap();
    point
}

fn point(site: &Site, component: &str, hours: i64) -> Point {
    point_of(site, component, ago(hours), true)
}

/// Writes that a run brought back these points.
fn ran(site: &Site, kind: Kind, outcome: Outcome, points: &[&Point]) {
    let now = site.now();
    let record = Record {
        version: Record::VERSION,
        run: runs::new_id(kind, now),
        kind,
        estate: site.estate(),
        scenario: None,
        mode: Mode::Disaster,
        by: "ada".into(),
        host: "shop-1".into(),
        program: "lifeboat".into(),
        plan_digest: String::new(),
        began: now,
        ended: now,
        outcome,
        reasons: Vec::new(),
        held: 1,
        phases: Vec::new(),
        waited_seconds: 0.0,
        chosen: points.iter().map(|point| Chosen::of(&Choice { point, further: None })).collect(),
        components: BTreeMap::new(),
        rto_seconds: None,
        rpo_seconds: None,
    };
    runs::save_record(&site.repository, &record, 1).unwrap();
}

fn fresh() -> (tempfile::TempDir, Site) {
    let base = tempfile::tempdir().unwrap();
    let site = site(Arc::new(Memory::new()), base.path());
    (base, site)
}

/// The ages in hours of the points that would go.
fn going(site: &Site) -> Vec<i64> {
    let retention = plan(site, &[]).unwrap();
    retention.remove().map(|point| site.now().duration_since(point.instant()).as_hours()).collect()
}

fn refused(site: &Site) -> String {
    plan(site, &[]).unwrap_err().to_string()
}

fn carry_out_all(site: &Site) -> Result<Forgotten> {
    carry_out(site, &plan(site, &[])?, Context::silent())
}

#[test]
fn what_the_policy_does_not_keep_goes_with_its_record() {
    let (_base, site) = fresh();
    let points: Vec<Point> = [5, 4, 3, 2].map(|hours| point(&site, "database", hours)).into();
    point(&site, "config", 9);
    point(&site, "retired", 99);
    assert_eq!(going(&site), [5, 4]);
    let forgotten = carry_out_all(&site).unwrap();
    assert_eq!(forgotten.removed, points[..2]);
    assert_eq!(forgotten.kept, 2);
    let catalogue = site.catalogue().unwrap();
    let left: Vec<&str> = catalogue.all().iter().map(|point| point.component.as_str()).collect();
    assert_eq!(
        left,
        ["retired", "config", "database", "database"],
        "what has no `keep` or is not in the plan stays"
    );
    assert_eq!(site.repository.sidecar_list("points").unwrap().len(), 4);
    assert_eq!(site.repository.list(FileKind::Snapshot).unwrap().len(), 4);
    assert_eq!(going(&site), Vec::<i64>::new());
}

#[test]
fn nothing_goes_while_something_is_unknown() {
    let (_base, site) = fresh();
    assert!(refused(&site).contains("shows no recovery point"));
    for hours in [5, 4, 3] {
        point(&site, "database", hours);
    }
    // This clock was set back: to it, every point is of the future.
    let earlier = plan_at(&site, &[], ago(6)).unwrap_err().to_string();
    assert!(earlier.contains("dated in the future"), "{earlier}");
    assert_eq!(going(&site), [5]);
    let ahead = point(&site, "config", -1);
    assert!(refused(&site).contains("dated in the future"));
    remove_point(&site.repository, &ahead).unwrap();
    // Minutes are what clocks of two machines may be apart.
    point_of(&site, "config", Timestamp::now() + SignedDuration::from_mins(5), true);
    assert_eq!(going(&site), [5]);
    let unread = site
        .repository
        .save_json(FileKind::Snapshot, &json!({ "time": "2026-01-01T00:00:00Z", "tree": Id::random() }));
    let name = format!("points/{}", unread.unwrap());
    site.repository.sidecar_create(&name, b"{ torn").unwrap();
    assert!(refused(&site).contains("cannot be read"));
    site.repository.sidecar_remove(&name).unwrap();
    site.repository.sidecar_create("runs/20260101-000000-000-drill-0000/end-000001", b"?").unwrap();
    assert!(refused(&site).contains("may be a proof"));
}

#[test]
fn a_week_of_implausible_points_pushes_nothing_out() {
    let (_base, site) = fresh();
    let good: Vec<Point> = [99, 98].map(|hours| point(&site, "database", hours)).into();
    for hours in 1..20 {
        point_of(&site, "database", ago(hours), false);
    }
    carry_out_all(&site).unwrap();
    let catalogue = site.catalogue().unwrap();
    assert_eq!(catalogue.newest("database"), Some(&good[1]));
    assert_eq!(catalogue.of("database").filter(|point| point.counts()).count(), 2);
    assert_eq!(catalogue.of("database").count(), 4, "two that do not count stay to be looked at");
}

#[test]
fn when_no_point_counts_none_goes() {
    let (_base, site) = fresh();
    for hours in 1..9 {
        point_of(&site, "database", ago(hours), false);
    }
    assert_eq!(going(&site), Vec::<i64>::new());
}

#[test]
fn the_newest_point_that_a_proof_stands_on_stays() {
    let (_base, site) = fresh();
    let points: Vec<Point> = [9, 8, 7, 6, 5].map(|hours| point(&site, "database", hours)).into();
    ran(&site, Kind::Drill, Outcome::Verified, &[&points[0]]);
    ran(&site, Kind::Verify, Outcome::Verified, &[&points[1]]);
    ran(&site, Kind::Drill, Outcome::Failed, &[&points[2]]);
    assert_eq!(going(&site), [9, 7], "the older proof and the failed drill hold nothing");
    let why = &plan(&site, &[]).unwrap().components[0].keep[0];
    assert_eq!((why.0.instant(), &why.1), (points[1].instant(), &vec![Why::Proven]));
}

#[test]
fn what_is_needed_again_after_it_was_shown_stays() {
    let (_base, site) = fresh();
    let points: Vec<Point> = [5, 4, 3, 2].map(|hours| point(&site, "database", hours)).into();
    let shown = plan(&site, &[]).unwrap();
    ran(&site, Kind::Drill, Outcome::Verified, &[&points[0]]);
    point(&site, "database", 1);
    let forgotten = carry_out(&site, &shown, Context::silent()).unwrap();
    // Proven meanwhile, it stays; what only the new point pushes out was not shown, and stays until it is.
    assert_eq!(forgotten.removed, [points[1].clone()]);
}

#[test]
fn others_at_work_keep_it_from_forgetting() {
    let (_base, site) = fresh();
    for hours in [5, 4, 3] {
        point(&site, "database", hours);
    }
    let reader = Lock::shared(&site.repository, LockOptions::default()).unwrap();
    assert!(matches!(carry_out_all(&site), Err(Error::Repository(repository::Error::Locked { .. }))));
    assert_eq!(site.catalogue().unwrap().all().len(), 3);
    reader.release().unwrap();
    assert_eq!(carry_out_all(&site).unwrap().removed.len(), 1);
}

#[test]
fn a_crash_leaves_no_point_without_its_data_and_no_rest() {
    let base = tempfile::tempdir().unwrap();
    let memory = Arc::new(Memory::new());
    let whole = site(memory.clone(), base.path());
    for hours in [6, 5, 4, 3, 2] {
        point(&whole, "database", hours);
    }
    let contents = memory.contents();
    let mut stopped = 0;
    for n in 0.. {
        let fault = Arc::new(Fault::new(Memory::from_contents(contents.clone())));
        let crashing = site(fault.clone(), base.path());
        fault.freeze_after(fault.durable_log().len() as u64 + n);
        let result = carry_out_all(&crashing);
        fault.heal();
        let survivor = site(fault.clone(), base.path());
        survivor.repository.unlock(true, LockOptions::default()).unwrap();
        let left: Vec<i64> = {
            let catalogue = survivor.catalogue().unwrap();
            assert_eq!(catalogue.unreadable, Vec::<String>::new());
            let snapshots: Vec<Id> =
                survivor.repository.list(FileKind::Snapshot).unwrap().into_iter().map(|(id, _)| id).collect();
            assert!(catalogue.all().iter().all(|point| snapshots.contains(&point.snapshot)));
            catalogue
                .all()
                .iter()
                .map(|point| survivor.now().duration_since(point.instant()).as_hours())
                .collect()
        };
        assert!(left.ends_with(&[3, 2]), "{n}: {left:?}");
        carry_out_all(&survivor).unwrap();
        let catalogue = survivor.catalogue().unwrap();
        assert_eq!(catalogue.all().len(), 2, "{n}: what was begun is ended by the next");
        // The rest that a crash can leave is a record, whose name says what it was of.
        let records = survivor.repository.sidecar_list("points").unwrap().len();
        assert!((2..=3).contains(&records), "{n}: {records}");
        match result {
            Ok(_) => break,
            Err(_) => stopped += 1,
        }
    }
    assert!(stopped >= 6, "a lock, three points with their records: {stopped}");
}

#[test]
fn a_prune_is_due_once_a_week() {
    let (_base, site) = fresh();
    assert!(!prune_is_due(&site).unwrap(), "nothing is there");
    point(&site, "database", 24);
    assert!(!prune_is_due(&site).unwrap());
    point(&site, "database", 24 * 8);
    assert!(prune_is_due(&site).unwrap(), "its oldest point is of last week, and it was never pruned");
    let name = |time: Timestamp| format!("{PRUNES}/prune-{}", time.strftime("%Y%m%dt%H%M%S"));
    site.repository.sidecar_create(&name(ago(24 * 6)), b"").unwrap();
    assert!(!prune_is_due(&site).unwrap());
}

#[test]
fn runs_say_when_they_began() {
    let began = "2026-11-21T09:45:00.123Z".parse::<Timestamp>().unwrap();
    let id = runs::new_id(Kind::Recover, began);
    assert_eq!(runs::began(&id), Some("2026-11-21T09:45:00Z".parse().unwrap()));
    assert_eq!(runs::began("7f3a"), None);
}
