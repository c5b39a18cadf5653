//! Readiness: every objective beside what is measured, from what lies in the repository; a server of this machine that archives by
//! itself is asked where its log stands, because an idle one archives nothing. Of one of another machine the marks of its
//! `lifeboat serve` say that.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use estate::component::Standing;
use jiff::Timestamp;
use place::Place;
use plan::Every;
use runbook::{Outcome, RunStatus};
use serde::Serialize;

use crate::copies::CopySite;
use crate::drivers::Drivers;
use crate::log::logged;
use crate::point::{Catalogue, Point};
use crate::runs::{self, Kind, Record};
use crate::ship::seen::Seen;
use crate::site::Site;
use crate::timeline::{Timeline, timeline};
use crate::units::duration;
use crate::wal::waiting::Waiting;
use crate::{Error, Result, copies, proving};

/// A drill that the plan does not schedule is overdue after this.
const DRILL_EVERY: Duration = Duration::from_secs(30 * 86_400);

/// How ready the estate is.
#[derive(Debug, Clone, Serialize)]
pub struct Readiness {
    /// The estate.
    pub estate: String,
    /// When this was looked at.
    pub now: Timestamp,
    /// Every component, in the order of the plan.
    pub components: Vec<ComponentReadiness>,
    /// Every scenario, in the order of the plan.
    pub scenarios: Vec<ScenarioReadiness>,
    /// Every copy of the plan, in its order.
    pub copies: Vec<CopyReadiness>,
    /// Runs of this machine that can be taken up again.
    pub open: Vec<String>,
    /// Restore tests of this machine that were killed, and what they have left in scratch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub killed: Vec<KilledTest>,
    /// The newest runs, the newest first.
    pub recent: Vec<Record>,
    /// Records that could not be read: something may be missing above.
    pub unreadable: Vec<String>,
}

/// Whether a component is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// Its newest point is younger than its RPO demands.
    Protected,
    /// Its newest point is older.
    Late,
    /// The last backup failed, or is implausible.
    Broken,
    /// It was never backed up.
    Unprotected,
}

/// A restore test that did not come to its end, and so has shown nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KilledTest {
    /// Its run.
    pub run: String,
    /// What it has left, which the next restore test removes.
    pub left: std::path::PathBuf,
}

/// The last proof of one component by itself: a restore test, or a run of a scenario that brought it back.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentProof {
    /// What it comes to.
    pub proof: Proof,
    /// Why not proven, if not.
    pub why: Vec<String>,
    /// The run.
    pub run: String,
    /// When that ended.
    pub when: Timestamp,
}

/// One component's readiness.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentReadiness {
    /// Its name.
    pub component: String,
    /// Whether it is protected.
    pub protection: Protection,
    /// Why not, if not.
    pub why: Option<String>,
    /// The newest moment to which it can be brought: of its newest point that counts, or of its log.
    pub newest: Option<Timestamp>,
    /// How old that is, in seconds.
    pub age_seconds: Option<f64>,
    /// How old it may be, in seconds.
    pub rpo_seconds: Option<f64>,
    /// How many points count.
    pub points: usize,
    /// How much the newest is, in bytes.
    pub bytes: Option<u64>,
    /// Its log, if that is archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Timeline>,
    /// Whether it was shown to come back; `None` if that was never tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<ComponentProof>,
    /// What its server has still to archive, if it archives its log and is on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// How far one copy is behind the repository.
#[derive(Debug, Clone, Serialize)]
pub struct CopyReadiness {
    /// Where it lies, as the plan writes it.
    pub location: String,
    /// Why it could not be looked at, and what is remembered of it.
    pub why: Option<String>,
    /// Its lag with every component that has a point.
    pub components: Vec<CopyLag>,
}

/// How far a copy is behind with one component.
#[derive(Debug, Clone, Serialize)]
pub struct CopyLag {
    /// The component.
    pub component: String,
    /// The moment of its newest point there that counts.
    pub newest: Option<Timestamp>,
    /// By how much the repository's newest is newer, in seconds; `None` if the copy has no point.
    pub behind_seconds: Option<f64>,
    /// Whether more would be lost than the RPO allows if only this copy were left; without an RPO, whether it is behind at
    /// all.
    pub is_late: bool,
}

/// Whether a scenario is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Its last run was verified, and nothing has changed since.
    Proven,
    /// It was verified once, and something has changed, or too much time has passed.
    Stale,
    /// Its last run failed or showed too little.
    Failed,
    /// It was never tried.
    NeverTried,
}

/// One scenario's readiness.
#[derive(Debug, Clone, Serialize)]
pub struct ScenarioReadiness {
    /// Its name.
    pub scenario: String,
    /// Whether it is proven.
    pub proof: Proof,
    /// Why not, if not.
    pub why: Vec<String>,
    /// Its last run.
    pub run: Option<String>,
    /// When that ended.
    pub when: Option<Timestamp>,
    /// How long the recovery took in it, in seconds.
    pub rto_measured_seconds: Option<f64>,
    /// How long it may take, in seconds.
    pub rto_seconds: Option<f64>,
}

impl Readiness {
    /// Whether everything is protected and proven, and every objective is met.
    pub fn is_ready(&self) -> bool {
        let components = self
            .components
            .iter()
            .all(|one| one.protection == Protection::Protected && !one.has_failed_to_come_back());
        let scenarios = self.scenarios.iter().all(|one| one.proof == Proof::Proven && one.meets_rto());
        let copies = self.copies.iter().all(CopyReadiness::is_ready);
        components && scenarios && copies && self.unreadable.is_empty()
    }

    /// Whether something failed or is broken, as opposed to late, stale or not tried.
    pub fn is_broken(&self) -> bool {
        let is_broken =
            |one: &ComponentReadiness| one.protection == Protection::Broken || one.has_failed_to_come_back();
        self.components.iter().any(is_broken) || self.scenarios.iter().any(|one| one.proof == Proof::Failed)
    }
}

impl ComponentReadiness {
    /// Whether the last try to bring it back failed.
    pub fn has_failed_to_come_back(&self) -> bool {
        self.restored.as_ref().is_some_and(|restored| restored.proof == Proof::Failed)
    }
}

impl CopyReadiness {
    /// Whether one could recover from it within every RPO.
    pub fn is_ready(&self) -> bool {
        self.why.is_none() && self.components.iter().all(|one| !one.is_late)
    }
}

impl ScenarioReadiness {
    /// Whether the recovery was as fast as it must be.
    pub fn meets_rto(&self) -> bool {
        match (self.rto_measured_seconds, self.rto_seconds) {
            (Some(measured), Some(objective)) => measured <= objective,
            _ => true,
        }
    }
}

/// How many of the newest runs are shown.
const RECENT_MAX: usize = 10;

/// Looks how ready the estate is.
pub fn status(site: &Site) -> Result<Readiness> {
    let catalogue = site.catalogue()?;
    let (mut records, mut unreadable) = runs::records(&site.repository)?;
    records.retain(|record| record.estate == site.estate());
    unreadable.extend(catalogue.unreadable.iter().cloned());
    let now = site.now();
    // Elsewhere than at home late values may not be had; then the repository alone says what it knows.
    let drivers = Drivers::of(site, &Place::host()).ok();
    let components = site
        .plan
        .components
        .iter()
        .map(|(name, declared)| {
            let log = timeline(&site.repository, &catalogue, name)?;
            let looked = log.as_ref().map(|log| looked(site, &catalogue, log)).transpose()?.flatten();
            let standing = log.as_ref().and_then(|_| standing(drivers.as_ref()?, name));
            let up_to_date =
                standing.as_ref().zip(log.as_ref()).and_then(|(standing, log)| archived(standing, log));
            let mut readiness =
                component(name, declared, &catalogue, &records, (log, looked.max(up_to_date)), now);
            readiness.why = match standing {
                Some(standing) => told(readiness.protection, readiness.why, &standing),
                None => unasked(readiness.protection, readiness.why, declared),
            };
            let restored = restored(site, name, &catalogue, &records, now);
            Ok(with_waiting(site, declared, ComponentReadiness { restored, ..readiness }))
        })
        .collect::<Result<_>>()?;
    let scenarios = site
        .plan
        .scenarios
        .iter()
        .map(|(name, declared)| scenario(site, name, declared, &catalogue, &records, now))
        .collect();
    let recent = records.iter().rev().take(RECENT_MAX).cloned().collect();
    let estate = site.estate();
    let copies = site.copies.iter().map(|copy| of_copy(site, copy, &catalogue, now)).collect();
    let killed =
        proving::killed_tests(site).into_iter().map(|(run, left)| KilledTest { run, left }).collect();
    Ok(Readiness {
        estate,
        now,
        components,
        scenarios,
        copies,
        open: open(site)?,
        killed,
        recent,
        unreadable,
    })
}

fn of_copy(site: &Site, copy: &CopySite, main: &Catalogue, now: Timestamp) -> CopyReadiness {
    let location = copy.location.clone();
    let looked = copy
        .open()
        .and_then(|repository| copies::catalogue(site, &repository).map_err(|error| error.to_string()));
    let there = match looked {
        Ok(there) => there,
        Err(why) => {
            let known = copies::recall(site, &location).map(|seen| {
                let names = seen.newest.keys().map(|name| seen.age(name, now)).collect::<Vec<_>>().join("; ");
                format!("; {names}")
            });
            let why = format!("it cannot be read: {why}{}", known.unwrap_or_default());
            return CopyReadiness { location, why: Some(why), components: Vec::new() };
        }
    };
    copies::remember(site, &location, &there);
    let judged = copies::lag(site, main, &there).into_iter().map(|lag| {
        let rpo = site.plan.components.get(&lag.component).and_then(|declared| declared.rpo);
        let age = lag.newest.and_then(|newest| Duration::try_from(now.duration_since(newest)).ok());
        let is_late = match (age, rpo) {
            _ if lag.newest.is_none() => true,
            (Some(age), Some(rpo)) => !lag.is_current() && age > rpo,
            _ => !lag.is_current(),
        };
        CopyLag { component: lag.component, newest: lag.newest, behind_seconds: lag.behind_seconds, is_late }
    });
    CopyReadiness { location, why: None, components: judged.collect() }
}

fn open(site: &Site) -> Result<Vec<String>> {
    let mut open = Vec::new();
    for id in runs::local(&site.state)? {
        match runs::read(&site.state, None, &id) {
            Ok(run) if can_go_on(&run.state) => open.push(id),
            Ok(_) => {}
            // Begun and killed before its first entry: there is nothing to go on with.
            Err(Error::Journal(runbook::journal::JournalError::Empty)) => {}
            Err(error) => open.push(format!("{id} ({error})")),
        }
    }
    Ok(open)
}

/// Whether a run is of a kind that is taken up again: a drill's twin and a restore test's scratch are gone with their process, and
/// a backup that has failed is made anew.
fn can_go_on(state: &runbook::State) -> bool {
    let kind = state.begun().kind.as_str();
    let is_over = kind == Kind::Backup.as_str() && matches!(state.status(), RunStatus::Ended(_));
    let is_rehearsal = [Kind::Drill, Kind::Verify].iter().any(|rehearsal| rehearsal.as_str() == kind);
    !is_over && !is_rehearsal && runs::is_open(state)
}

/// The last time that a component was tried to be brought back, with or without a scenario around it.
fn restored(
    site: &Site,
    name: &str,
    catalogue: &Catalogue,
    records: &[Record],
    now: Timestamp,
) -> Option<ComponentProof> {
    let is_try = |record: &&Record| match record.kind {
        Kind::Verify => record.outcome != Outcome::Interrupted && record.components.contains_key(name),
        // Why a scenario failed may have nothing to do with the component.
        Kind::Drill | Kind::Recover | Kind::Restore => {
            record.outcome == Outcome::Verified && record.chosen.iter().any(|chosen| chosen.component == name)
        }
        Kind::Backup => false,
    };
    let record = records.iter().rev().find(is_try)?;
    let (proof, why) = match record.components.get(name) {
        Some(Some(why)) => (Proof::Failed, vec![why.clone()]),
        _ => match aged(site, name, record, catalogue, now) {
            reasons if reasons.is_empty() => (Proof::Proven, Vec::new()),
            reasons => (Proof::Stale, reasons),
        },
    };
    Some(ComponentProof { proof, why, run: record.run.clone(), when: record.ended })
}

/// What has changed since a component came back.
fn aged(site: &Site, name: &str, proof: &Record, catalogue: &Catalogue, now: Timestamp) -> Vec<String> {
    let mut reasons = Vec::new();
    if proof.program != site.program {
        reasons.push(format!("it was proven with {}, this is {}", proof.program, site.program));
    }
    reasons.extend(other_engines(proof, catalogue, Some(name)));
    let age = Duration::try_from(now.duration_since(proof.ended)).unwrap_or_default();
    if age > DRILL_EVERY {
        reasons.push(format!(
            "it was proven {} ago, and is to be every {}",
            duration(age),
            duration(DRILL_EVERY)
        ));
    }
    reasons
}

/// The components, or the one, whose newest point another engine made than the one that was proven.
fn other_engines(proof: &Record, catalogue: &Catalogue, only: Option<&str>) -> Vec<String> {
    let mut reasons = Vec::new();
    for chosen in proof.chosen.iter().filter(|chosen| only.is_none_or(|only| chosen.component == only)) {
        // What was chosen last may be an older point, of an older engine, beside the latest.
        let proven = proof.chosen.iter().filter(|other| other.component == chosen.component);
        let newest = proven.max_by_key(|other| other.recovered()).unwrap_or(chosen);
        if let Some(engine) = catalogue.newest(&chosen.component).map(|point| point.recorded.engine.as_str())
            && engine != newest.engine
        {
            reasons.push(format!("{} was {}, and is {engine} now", chosen.component, newest.engine));
        }
    }
    reasons.dedup();
    reasons
}

/// Where the log of a live source of this machine stands that archives by itself.
fn standing(drivers: &Drivers, name: &str) -> Option<Standing> {
    let never = Arc::new(AtomicBool::new(false));
    drivers.component(name).ok()?.log()?.standing(&never)
}

/// What a live source says beside what the repository shows.
fn told(protection: Protection, why: Option<String>, standing: &Standing) -> Option<String> {
    let more = match (protection, &standing.stuck, &standing.instant) {
        (Protection::Protected | Protection::Late, Some(stuck), _) => stuck,
        (Protection::Late, None, Err(unknown)) => unknown,
        _ => return why,
    };
    Some(why.map_or_else(|| more.clone(), |why| format!("{why}; {more}")))
}

/// Says of a server that archives its log and does not answer here that nobody knows why nothing new is archived.
///
/// It is late all the same: from another machine a dead archiver looks no different.
fn unasked(protection: Protection, why: Option<String>, declared: &plan::Component) -> Option<String> {
    if protection != Protection::Late || crate::ship::archives(declared).is_none() {
        return why;
    }
    let more = "its server does not answer here, so that it is not known whether it is idle or its archiver is dead: run \
                `lifeboat status` on its machine, and `lifeboat serve`, which marks for all others where an idle server stands";
    Some(why.map_or_else(|| more.to_owned(), |why| format!("{why}; {more}")))
}

/// The instant up to which everything that a live source has written is archived and can be had; `None` when that is not known,
/// or something is missing.
fn archived(standing: &Standing, log: &Timeline) -> Option<Timestamp> {
    let is_archived = log
        .stretches
        .iter()
        .any(|stretch| stretch.lineage == standing.lineage && stretch.last >= standing.position);
    standing.instant.as_ref().ok().copied().filter(|_| is_archived)
}

/// The last look at a live source that found nothing more than what is archived and can be had: the log of an idle
/// component is not an old one.
fn looked(site: &Site, catalogue: &Catalogue, log: &Timeline) -> Result<Option<Timestamp>> {
    let seen = Seen::newest(&site.repository, &log.component)?;
    // Of a base behind which nothing was written there is no stretch of log.
    let bases = logged(catalogue, &log.component).filter_map(|point| point.recorded.log.as_ref());
    let ends: Vec<(&str, u64)> = bases
        .map(|base| (base.lineage.as_str(), base.consistent_at))
        .chain(log.stretches.iter().map(|stretch| (stretch.lineage.as_str(), stretch.last)))
        .collect();
    let is_current = |seen: &Seen| ends.contains(&(seen.lineage.as_str(), seen.position));
    Ok(seen.filter(is_current).map(|seen| seen.instant))
}

/// The same, of a component by its name.
pub(crate) fn looked_at(site: &Site, catalogue: &Catalogue, component: &str) -> Result<Option<Timestamp>> {
    timeline(&site.repository, catalogue, component)?.map_or(Ok(None), |log| looked(site, catalogue, &log))
}

fn component(
    name: &str,
    declared: &plan::Component,
    catalogue: &Catalogue,
    records: &[Record],
    (log, looked): (Option<Timeline>, Option<Timestamp>),
    now: Timestamp,
) -> ComponentReadiness {
    let newest = catalogue.newest(name);
    let reached = newest.map(Point::instant).max(log.as_ref().and_then(Timeline::end)).max(looked);
    let age = reached.and_then(|newest| Duration::try_from(now.duration_since(newest)).ok());
    let last = records
        .iter()
        .rev()
        .filter(|record| record.kind == Kind::Backup)
        .find_map(|record| record.components.get(name));
    let implausible = catalogue.of(name).next_back().filter(|point| !point.counts());
    let gap = log.as_ref().and_then(Timeline::alarm).map(|gap| gap.alarm(name));
    let (protection, why) = match (newest, last, implausible) {
        _ if gap.is_some() => (Protection::Broken, gap),
        (_, Some(Some(why)), _) => (Protection::Broken, Some(format!("the last backup failed: {why}"))),
        (_, _, Some(_)) => (Protection::Broken, Some("the last backup is implausible".to_owned())),
        (None, ..) => (Protection::Unprotected, Some("it was never backed up".to_owned())),
        (Some(_), ..) => match (age, declared.rpo) {
            (Some(age), Some(rpo)) if age > rpo => {
                let why = format!(
                    "the newest {} is {} old, at most {} may be lost",
                    if log.is_some() { "that can be had" } else { "point" },
                    duration(age),
                    duration(rpo)
                );
                (Protection::Late, Some(why))
            }
            _ => (Protection::Protected, None),
        },
    };
    ComponentReadiness {
        component: name.to_owned(),
        protection,
        why,
        newest: reached,
        age_seconds: age.map(|age| age.as_secs_f64()),
        rpo_seconds: declared.rpo.map(|rpo| rpo.as_secs_f64()),
        points: catalogue.of(name).filter(|point| point.counts()).count(),
        bytes: newest.and_then(|point| point.recorded.bytes),
        log,
        restored: None,
        waiting: None,
    }
}

/// Adds what a server on this machine has still to archive; when that stands still, what is newest is not protected.
fn with_waiting(site: &Site, declared: &plan::Component, one: ComponentReadiness) -> ComponentReadiness {
    let waiting = crate::ship::archives(declared).and_then(|data| {
        let data = site.path(data);
        let cluster = estate::component::postgres::wal::Cluster::of(&data).ok()?;
        Waiting::of(&data, cluster.segment_bytes)
    });
    let alarm = waiting.filter(Waiting::is_alarming).map(|waiting| waiting.words());
    let (protection, why) = match (one.protection, alarm) {
        (Protection::Broken, Some(alarm)) => {
            let before = one.why.map(|why| format!("{why}; "));
            (Protection::Broken, Some(before.unwrap_or_default() + &alarm))
        }
        (_, Some(alarm)) => (Protection::Broken, Some(alarm)),
        (protection, None) => (protection, one.why),
    };
    ComponentReadiness { protection, why, waiting, ..one }
}

fn scenario(
    site: &Site,
    name: &str,
    declared: &plan::Scenario,
    catalogue: &Catalogue,
    records: &[Record],
    now: Timestamp,
) -> ScenarioReadiness {
    let last = records.iter().rev().find(|record| {
        record.scenario.as_deref() == Some(name) && matches!(record.kind, Kind::Drill | Kind::Recover)
    });
    let (proof, why) = match last {
        None => (Proof::NeverTried, vec![format!("try it with `lifeboat drill {name}`")]),
        Some(record) if record.outcome != Outcome::Verified => (Proof::Failed, record.reasons.clone()),
        Some(record) => match staleness(site, name, record, catalogue, now) {
            reasons if reasons.is_empty() => (Proof::Proven, Vec::new()),
            reasons => (Proof::Stale, reasons),
        },
    };
    ScenarioReadiness {
        scenario: name.to_owned(),
        proof,
        why,
        run: last.map(|record| record.run.clone()),
        when: last.map(|record| record.ended),
        rto_measured_seconds: last.and_then(|record| record.rto_seconds),
        rto_seconds: declared.rto.map(|rto| rto.as_secs_f64()),
    }
}

/// What has changed since a proof, so that it proves less than it did.
fn staleness(
    site: &Site,
    scenario: &str,
    proof: &Record,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Vec<String> {
    let mut reasons = Vec::new();
    if site.plan.scenario_digest(scenario).ok().as_ref() != Some(&proof.plan_digest) {
        reasons.push("what it stands on in the plan has changed since".to_owned());
    }
    if proof.program != site.program {
        reasons.push(format!("it was proven with {}, this is {}", proof.program, site.program));
    }
    reasons.extend(other_engines(proof, catalogue, None));
    let every = site
        .plan
        .drills
        .iter()
        .find(|drill| drill.scenario.as_str() == scenario)
        .and_then(|drill| match &*drill.every {
            Every::Interval(every) => Some(*every),
            Every::Cron(_) | Every::Continuous => None,
        })
        .unwrap_or(DRILL_EVERY);
    let age = Duration::try_from(now.duration_since(proof.ended)).unwrap_or_default();
    if age > every {
        reasons.push(format!("it was proven {} ago, and is to be every {}", duration(age), duration(every)));
    }
    reasons
}
