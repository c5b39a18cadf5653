//! Forgetting: the same choice as restic on random histories, and the refusals that protect from mistakes.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use repository::forget::{
    Age, Count, ForgetOptions, ForgetPlan, GroupBy, KeepPolicy, plan_forget, plan_forget_named,
};
use repository::format::Snapshot;
use repository::{Context, Error, FileKind, Id, Repository};

use crate::sample::{Sample, assert_sound, at_every_crash_point, ids, later};

/// A generator that anyone can repeat by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Adds a snapshot of the tree that is there already, so many hours ago.
fn add_snapshot(repository: &Repository, hours_ago: i64, change: impl FnOnce(&mut Snapshot)) -> Id {
    let mut snapshot = repository.snapshots().unwrap()[0].snapshot.clone();
    let time = Timestamp::now() - SignedDuration::from_hours(hours_ago);
    (snapshot.time, snapshot.summary) = (time.into(), None);
    change(&mut snapshot);
    repository.save_json(FileKind::Snapshot, &snapshot).unwrap()
}

fn random_history(repository: &Repository, random: &mut Random) {
    let spans = [48, 24 * 40, 24 * 365 * 3];
    for _ in 0..60 {
        let span = spans[random.below(3) as usize];
        let minutes = random.below(span * 60) as i64;
        add_snapshot(repository, 0, |snapshot| {
            let time = Timestamp::now() - SignedDuration::from_mins(minutes) - SignedDuration::from_secs(5);
            snapshot.time = time.into();
            snapshot.hostname = ["alpha", "beta"][random.below(2) as usize].into();
            snapshot.tags = [vec![], vec!["a"], vec!["a", "b"]][random.below(3) as usize]
                .iter()
                .map(|tag| (*tag).to_owned())
                .collect();
            snapshot.paths = vec![["/home", "/srv"][random.below(2) as usize].into()];
        });
    }
}

/// A random policy, as options of restic as well.
fn random_policy(random: &mut Random) -> (KeepPolicy, GroupBy, Vec<String>) {
    let mut policy = KeepPolicy::default();
    let mut arguments = Vec::new();
    let counts = [
        ("last", &mut policy.last),
        ("hourly", &mut policy.hourly),
        ("daily", &mut policy.daily),
        ("weekly", &mut policy.weekly),
        ("monthly", &mut policy.monthly),
        ("yearly", &mut policy.yearly),
    ];
    for (name, count) in counts {
        if random.below(3) == 0 {
            let number = random.below(8) as u32 + 1;
            *count = Count::Only(number);
            arguments.push(format!("--keep-{name}={number}"));
        }
    }
    let ages = [
        ("within", &mut policy.within),
        ("within-hourly", &mut policy.within_hourly),
        ("within-daily", &mut policy.within_daily),
        ("within-weekly", &mut policy.within_weekly),
        ("within-monthly", &mut policy.within_monthly),
        ("within-yearly", &mut policy.within_yearly),
    ];
    for (name, age) in ages {
        if random.below(4) == 0 {
            let text = ["5h", "3d", "1m", "1y5m7d2h", "2y"][random.below(5) as usize];
            *age = Some(text.parse::<Age>().unwrap());
            arguments.push(format!("--keep-{name}={text}"));
        }
    }
    if random.below(4) == 0 || policy.is_empty() {
        policy.tags = vec![vec!["a".into(), "b".into()]];
        arguments.push("--keep-tag=a,b".into());
    }
    let groups = ["host,paths", "host", "", "tags,host", "paths"];
    let group_by = groups[random.below(5) as usize];
    arguments.push(format!("--group-by={group_by}"));
    (policy, group_by.parse().unwrap(), arguments)
}

/// What is kept, and for how many reasons.
fn kept(plan: &ForgetPlan) -> BTreeMap<String, usize> {
    let kept = plan.groups.iter().flat_map(|group| &group.keep);
    kept.map(|kept| (kept.entry.id.to_hex(), kept.reasons.len())).collect()
}

fn kept_by_restic(sample: &Sample, arguments: &[String]) -> BTreeMap<String, usize> {
    let mut all = vec!["forget", "--dry-run", "--json"];
    all.extend(arguments.iter().map(String::as_str));
    let groups: serde_json::Value = serde_json::from_str(&sample.restic(&all)).unwrap();
    let mut kept = BTreeMap::new();
    for group in groups.as_array().unwrap() {
        let snapshots = group["keep"].as_array().unwrap();
        for (snapshot, reason) in snapshots.iter().zip(group["reasons"].as_array().unwrap()) {
            assert_eq!(snapshot["time"], reason["snapshot"]["time"]);
            let reasons = reason["matches"].as_array().unwrap().len();
            kept.insert(snapshot["id"].as_str().unwrap().to_owned(), reasons);
        }
    }
    kept
}

#[test]
fn keeps_exactly_what_restic_keeps() {
    let seed = 20_260_101;
    let mut random = Random(seed);
    let sample = Sample::ours();
    let repository = sample.open();
    random_history(&repository, &mut random);
    for round in 0..25 {
        let (policy, group_by, arguments) = random_policy(&mut random);
        let options = ForgetOptions { group_by, allow_remove_all: true, ..ForgetOptions::default() };
        let plan = plan_forget(&repository, &policy, &options, Context::silent()).unwrap();
        let ours = kept(&plan);
        drop(plan);
        let restics = kept_by_restic(&sample, &arguments);
        let only_ours: Vec<_> = ours.iter().filter(|(id, count)| restics.get(*id) != Some(*count)).collect();
        let only_restics: Vec<_> =
            restics.iter().filter(|(id, count)| ours.get(*id) != Some(*count)).collect();
        assert!(
            only_ours.is_empty() && only_restics.is_empty(),
            "seed {seed}, round {round}, {arguments:?}: {only_ours:?} here, {only_restics:?} there"
        );
    }
}

#[test]
fn removes_what_was_planned_and_nothing_else() {
    let sample = Sample::ours();
    let repository = sample.open();
    for hours in 1..10 {
        add_snapshot(&repository, hours, |_| {});
    }
    let policy = KeepPolicy { last: Count::Only(3), ..KeepPolicy::default() };
    let plan = plan_forget(&repository, &policy, &ForgetOptions::default(), Context::silent()).unwrap();
    let planned: Vec<Id> = plan.remove().map(|entry| entry.id).collect();
    assert_eq!((planned.len(), ids(&repository, FileKind::Snapshot).len()), (8, 11));
    // The plan holds its lock until it is done or dropped.
    let second = plan_forget(&sample.open(), &policy, &ForgetOptions::default(), Context::silent());
    assert!(matches!(second, Err(Error::Locked { .. })));
    let report = plan.execute(Context::silent()).unwrap();
    assert_eq!(report.removed, planned);
    let left = ids(&repository, FileKind::Snapshot);
    assert!(left.len() == 3 && left.iter().all(|id| !planned.contains(id)));
    assert_eq!(ids(&repository, FileKind::Lock), []);
    assert_sound(&sample.open());
}

fn refused<T>(result: repository::Result<T>) -> String {
    match result {
        Err(Error::Refused(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("was not refused"),
    }
}

#[test]
fn refuses_to_remove_everything() {
    let sample = Sample::ours();
    let repository = sample.open();
    add_snapshot(&repository, 5, |snapshot| snapshot.hostname = "other".into());
    let options = ForgetOptions::default();
    let plan = |policy: &KeepPolicy| plan_forget(&repository, policy, &options, Context::silent());
    assert!(refused(plan(&KeepPolicy::default())).contains("keeps nothing"));
    let tagged = KeepPolicy { tags: vec![vec!["keep".into()]], ..KeepPolicy::default() };
    assert!(refused(plan(&tagged)).contains("would keep none"));
    let names: Vec<String> = ids(&repository, FileKind::Snapshot).iter().map(|id| id.to_hex()).collect();
    let named = |names: &[String]| plan_forget_named(&repository, names, &options, Context::silent());
    assert!(refused(named(&names)).contains("without any snapshot"));
    assert_eq!(named(&names[1..]).unwrap().remove().count(), 2);
    let allowed = ForgetOptions { allow_remove_all: true, ..ForgetOptions::default() };
    let plan = plan_forget(&repository, &tagged, &allowed, Context::silent()).unwrap();
    assert_eq!(plan.remove().count(), 3);
    drop(plan);
    assert_eq!(ids(&repository, FileKind::Lock), [], "a dropped plan gives its lock back");
}

#[test]
fn snapshots_dated_in_the_future_push_nothing_out() {
    let sample = Sample::ours();
    let repository = sample.open();
    let fake = add_snapshot(&repository, -24 * 365, |_| {});
    let policy = KeepPolicy { last: Count::Only(1), ..KeepPolicy::default() };
    let options = ForgetOptions::default();
    let why = refused(plan_forget(&repository, &policy, &options, Context::silent()));
    assert!(why.contains(&fake.short()) && why.contains("in the future"), "{why}");
    let ignoring = ForgetOptions { ignore_future: true, ..ForgetOptions::default() };
    let plan = plan_forget(&repository, &policy, &ignoring, Context::silent()).unwrap();
    let latest_real = repository.snapshots().unwrap()[1].id;
    let kept: Vec<Id> = plan.groups.iter().flat_map(|group| &group.keep).map(|kept| kept.entry.id).collect();
    assert_eq!(kept, [fake, latest_real]);
    drop(plan);
    // The way out: to remove it by name.
    let plan = plan_forget_named(&repository, &[fake.short()], &options, Context::silent()).unwrap();
    plan.execute(Context::silent()).unwrap();
    assert!(plan_forget(&repository, &policy, &options, Context::silent()).is_ok());
}

#[test]
fn forgets_nothing_while_a_snapshot_cannot_be_read() {
    let sample = Sample::ours();
    let repository = sample.open();
    let id = add_snapshot(&repository, 3, |_| {});
    sample.change(&FileKind::Snapshot.object(&id), |data| data[5] ^= 1);
    let policy = KeepPolicy { last: Count::Only(1), ..KeepPolicy::default() };
    let result = plan_forget(&repository, &policy, &ForgetOptions::default(), Context::silent());
    assert!(matches!(&result, Err(Error::Damaged { why, .. }) if why.contains("repair the snapshots")));
}

#[test]
fn a_crash_leaves_some_of_the_planned_snapshots() {
    let sample = Sample::ours();
    let repository = sample.open();
    for hours in 1..4 {
        add_snapshot(&repository, hours, |_| {});
    }
    let contents = sample.contents();
    let policy = KeepPolicy { last: Count::Only(2), ..KeepPolicy::default() };
    let run = |repository: &Repository| {
        let plan = plan_forget(repository, &policy, &ForgetOptions::default(), Context::silent())?;
        let report = plan.execute(Context::silent())?;
        match report.failed.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    };
    let newest: Vec<Id> =
        repository.snapshots().unwrap().iter().rev().take(2).map(|entry| entry.id).collect();
    let points = at_every_crash_point(&contents, &later(0), run, |_, left| {
        let store = std::sync::Arc::new(store::Memory::from_contents(left));
        let survivor = crate::sample::open(store, later(0));
        assert_sound(&survivor);
        let left = ids(&survivor, FileKind::Snapshot);
        assert!(newest.iter().all(|id| left.contains(id)));
        run(&survivor).unwrap();
        assert_eq!(ids(&survivor, FileKind::Snapshot).len(), 2);
    });
    assert_eq!(points, 5, "a lock, three snapshots, and the lock again");
}
