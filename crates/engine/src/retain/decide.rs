//! Which recovery points of one component a policy keeps, and why: arithmetic, without a repository and without a clock.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use plan::Keep;
use repository::forget::{Count, KeepPolicy, Reason};
use serde::Serialize;

/// What is known of a point when its fate is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The moment that it represents.
    pub instant: Timestamp,
    /// Whether it counts: it is plausible, or was accepted.
    pub counts: bool,
    /// Whether a run that was verified brought it back.
    pub proven: bool,
    /// The run that may still need it.
    pub used_by: Option<String>,
}

/// Why a point stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is the newest that counts.
    Newest,
    /// It is the newest that was proven.
    Proven,
    /// A run that is not at its end, or not committed, uses it.
    UsedBy(String),
    /// A rule of the plan keeps it.
    Rule(String),
    /// It does not count, and this rule would keep it if it did: it may still be looked at.
    IfItCounted(String),
    /// No point of its component counts, so none goes.
    NoneCounts,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest"),
            Self::Proven => f.write_str("the last that was proven"),
            Self::UsedBy(run) => write!(f, "used by run {run}"),
            Self::Rule(rule) => f.write_str(rule),
            Self::IfItCounted(rule) => write!(f, "does not count; {rule} if it did"),
            Self::NoneCounts => f.write_str("no point of it counts"),
        }
    }
}

/// Tells for each point, given oldest first, why it is kept; one without a reason goes.
///
/// Only points that count, or that were proven, take up the places that `keep` gives. One that does neither is kept
/// as long as it would be kept if it counted, beside them and never instead of one of them. A policy without a rule
/// keeps everything.
pub fn decide(keep: &Keep, zone: &TimeZone, points: &[Candidate]) -> Vec<Vec<Why>> {
    let believed = |point: &Candidate| point.counts || point.proven;
    if !points.iter().any(believed) {
        return vec![vec![Why::NoneCounts]; points.len()];
    }
    let mut reasons: Vec<Vec<Why>> = vec![Vec::new(); points.len()];
    for (index, rule) in rules(keep, zone, points, &believed) {
        reasons[index].push(Why::Rule(rule));
    }
    for (index, rule) in rules(keep, zone, points, &|_| true) {
        if !believed(&points[index]) {
            reasons[index].push(Why::IfItCounted(rule));
        }
    }
    // The newest that counts stays even when an implausible one after it was proven.
    let newest = [points.iter().rposition(believed), points.iter().rposition(|point| point.counts)];
    for newest in newest.into_iter().flatten().collect::<BTreeSet<usize>>() {
        reasons[newest].insert(0, Why::Newest);
    }
    if let Some(proven) = points.iter().rposition(|point| point.proven) {
        reasons[proven].push(Why::Proven);
    }
    for (reasons, point) in reasons.iter_mut().zip(points) {
        reasons.extend(point.used_by.clone().map(Why::UsedBy));
    }
    reasons
}

/// The points among `those` that rules of `keep` keep, by index, with the rule.
fn rules(
    keep: &Keep,
    zone: &TimeZone,
    points: &[Candidate],
    those: &dyn Fn(&Candidate) -> bool,
) -> Vec<(usize, String)> {
    let newest_first: Vec<usize> = (0..points.len()).rev().filter(|index| those(&points[*index])).collect();
    let dated: Vec<(Timestamp, Vec<String>)> =
        newest_first.iter().map(|index| (points[*index].instant, Vec::new())).collect();
    let policy = policy(keep);
    let everything = policy.is_empty() && keep.within.is_none();
    let since = keep.within.and_then(|within| before(dated.first()?.0, within));
    let mut kept = Vec::new();
    for ((index, reasons), (instant, _)) in newest_first.iter().zip(policy.apply_to(&dated, zone)).zip(&dated)
    {
        kept.extend(reasons.iter().map(|reason| (*index, word(reason))));
        if since.is_some_and(|since| *instant >= since) {
            kept.push((*index, "within".to_owned()));
        }
        if everything {
            kept.push((*index, "no rule".to_owned()));
        }
    }
    kept
}

fn word(reason: &Reason) -> String {
    match reason {
        Reason::Newest(period) => period.to_string(),
        other => other.to_string(),
    }
}

fn policy(keep: &Keep) -> KeepPolicy {
    let count = |count: Option<u32>| count.filter(|count| *count > 0).map_or(Count::None, Count::Only);
    KeepPolicy {
        last: count(keep.last),
        hourly: count(keep.hourly),
        daily: count(keep.daily),
        weekly: count(keep.weekly),
        monthly: count(keep.monthly),
        yearly: count(keep.yearly),
        ..KeepPolicy::default()
    }
}

/// Ages count from the newest point and not from now: when backups stop, nothing goes.
fn before(newest: Timestamp, within: Duration) -> Option<Timestamp> {
    let within = SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX);
    Some(newest.checked_sub(within).unwrap_or(Timestamp::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: Keep = Keep {
        last: None,
        hourly: None,
        daily: None,
        weekly: None,
        monthly: None,
        yearly: None,
        within: None,
    };

    fn at(hours: i64) -> Timestamp {
        "2026-01-01T00:30:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
    }

    fn point(hours: i64) -> Candidate {
        Candidate { instant: at(hours), counts: true, proven: false, used_by: None }
    }

    /// The hours of the points that stay.
    fn kept(keep: &Keep, points: &[Candidate]) -> Vec<i64> {
        let fates = decide(keep, &TimeZone::UTC, points);
        let stay = points.iter().zip(fates).filter(|(_, why)| !why.is_empty());
        stay.map(|(point, _)| point.instant.duration_since(at(0)).as_hours()).collect()
    }

    #[test]
    fn each_rule_keeps_what_it_says() {
        let points: Vec<Candidate> = (0..72).map(point).collect();
        assert_eq!(kept(&Keep { last: Some(3), ..NONE }, &points), [69, 70, 71]);
        assert_eq!(kept(&Keep { daily: Some(2), ..NONE }, &points), [47, 71]);
        let within = Some(Duration::from_secs(2 * 3600));
        assert_eq!(kept(&Keep { within, ..NONE }, &points), [69, 70, 71]);
        assert_eq!(kept(&Keep { last: Some(1), daily: Some(9), ..NONE }, &points), [23, 47, 71]);
        assert_eq!(kept(&NONE, &points).len(), 72, "without a rule everything stays");
    }

    #[test]
    fn what_does_not_count_takes_up_no_place() {
        // A week of empty dumps after two good ones: the good ones stay.
        let mut points: Vec<Candidate> = (0..10).map(point).collect();
        points[2..].iter_mut().for_each(|point| point.counts = false);
        let keep = Keep { last: Some(2), ..NONE };
        assert_eq!(kept(&keep, &points), [0, 1, 8, 9]);
        let why = decide(&keep, &TimeZone::UTC, &points);
        assert_eq!(why[9], [Why::IfItCounted("last".into())]);
        assert_eq!(why[1], [Why::Newest, Why::Rule("last".into())]);
        points.iter_mut().for_each(|point| point.counts = false);
        assert_eq!(kept(&keep, &points).len(), 10, "when none counts, none goes");
    }

    #[test]
    fn the_last_proven_and_what_is_used_stay() {
        let mut points: Vec<Candidate> = (0..10).map(point).collect();
        (points[1].proven, points[3].proven) = (true, true);
        points[5].used_by = Some("r".into());
        assert_eq!(kept(&Keep { last: Some(1), ..NONE }, &points), [3, 5, 9]);
        // One that was proven counts, whatever the floor said of it.
        points.iter_mut().for_each(|point| point.counts = false);
        assert_eq!(kept(&Keep { last: Some(1), ..NONE }, &points), [3, 5, 9]);
    }

    #[test]
    fn the_newest_that_counts_stays_before_a_proven_one_that_does_not() {
        let mut points = vec![point(0), point(24 * 85)];
        (points[1].counts, points[1].proven) = (false, true);
        assert_eq!(kept(&Keep { monthly: Some(1), ..NONE }, &points), [0, 24 * 85]);
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0_i64..24 * 400, any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.05));
        prop::collection::vec(one, 0..60).prop_map(|mut points| {
            points.sort_unstable();
            let used = |is: bool| is.then(|| "r".to_owned());
            let candidate = |(hours, counts, proven, is_used)| Candidate {
                instant: at(hours),
                counts,
                proven,
                used_by: used(is_used),
            };
            points.into_iter().map(candidate).collect()
        })
    }

    fn keeps() -> impl Strategy<Value = Keep> {
        let count = || prop::option::of(0_u32..20);
        let within = prop::option::of((0_u64..24 * 400).prop_map(|hours| Duration::from_secs(hours * 3600)));
        (count(), count(), count(), count(), count(), count(), within).prop_map(
            |(last, hourly, daily, weekly, monthly, yearly, within)| Keep {
                last,
                hourly,
                daily,
                weekly,
                monthly,
                yearly,
                within,
            },
        )
    }

    /// A policy that keeps at least as much.
    fn more(keep: &Keep) -> impl Strategy<Value = (Keep, Keep)> + use<> {
        let keep = keep.clone();
        prop::array::uniform7(0_u32..4).prop_map(move |by| {
            let add = |count: Option<u32>, by: u32| Some(count.unwrap_or(0) + by);
            let wider = Keep {
                last: add(keep.last, by[0]),
                hourly: add(keep.hourly, by[1]),
                daily: add(keep.daily, by[2]),
                weekly: add(keep.weekly, by[3]),
                monthly: add(keep.monthly, by[4]),
                yearly: add(keep.yearly, by[5]),
                within: keep.within.map(|within| within + Duration::from_secs(u64::from(by[6]) * 86_400)),
            };
            (keep.clone(), wider)
        })
    }

    fn has_rule(keep: &Keep) -> bool {
        !policy(keep).is_empty() || keep.within.is_some()
    }

    proptest! {
        #[test]
        fn no_component_is_emptied_and_what_must_stay_stays(keep in keeps(), points in candidates()) {
            let fates = decide(&keep, &TimeZone::UTC, &points);
            let stays = |index: usize| !fates[index].is_empty();
            if let Some(newest) = points.iter().rposition(|point| point.counts) {
                prop_assert!(stays(newest));
            }
            if let Some(proven) = points.iter().rposition(|point| point.proven) {
                prop_assert!(stays(proven));
            }
            for (index, point) in points.iter().enumerate() {
                prop_assert!(point.used_by.is_none() || stays(index));
            }
            prop_assert!(points.is_empty() || (0..points.len()).any(stays));
        }

        #[test]
        fn a_wider_policy_keeps_no_less(
            (narrow, wide) in keeps().prop_flat_map(|keep| more(&keep)),
            points in candidates(),
        ) {
            prop_assume!(has_rule(&narrow));
            let (narrow, wide) = (kept(&narrow, &points), kept(&wide, &points));
            prop_assert!(narrow.iter().all(|hours| wide.contains(hours)), "{narrow:?} {wide:?}");
        }

        #[test]
        fn what_does_not_count_changes_nothing_for_what_does(keep in keeps(), points in candidates()) {
            let believed: Vec<Candidate> =
                points.iter().filter(|point| point.counts || point.proven).cloned().collect();
            prop_assume!(!believed.is_empty());
            let fates = decide(&keep, &TimeZone::UTC, &points);
            let alone = decide(&keep, &TimeZone::UTC, &believed);
            let among = points.iter().zip(fates).filter(|(point, _)| point.counts || point.proven);
            prop_assert_eq!(among.map(|(_, why)| why).collect::<Vec<_>>(), alone);
        }

        #[test]
        fn what_was_forgotten_makes_nothing_else_go(keep in keeps(), points in candidates()) {
            let fates = decide(&keep, &TimeZone::UTC, &points);
            let left: Vec<Candidate> =
                points.iter().zip(&fates).filter(|(_, why)| !why.is_empty()).map(|(point, _)| point.clone()).collect();
            prop_assert_eq!(kept(&keep, &left).len(), left.len(), "a second time nothing goes");
        }
    }
}
