//! What a plan may say and should not: it is right, and the bad day will show that it was unwise. Told by `lifeboat validate`
//! beside errors, and never a reason not to run.

use std::collections::BTreeSet;

use crate::language::{Action, Body, ComponentKind, Scenario, Step};
use crate::problem::{Finding, PlanError, Problem};
use crate::values::show_duration;
use crate::{Every, Name, Plan, Position};

impl Plan {
    /// Gives what is unwise in the plan, in the order of the file, each with its place.
    pub fn warnings(&self) -> Vec<Problem> {
        let findings = RULES.iter().flat_map(|rule| rule(&self.body)).collect();
        PlanError::new(&self.file, self.text(), findings).problems
    }
}

/// The rules: each looks at a plan that is right.
const RULES: [fn(&Body) -> Vec<Finding>; 7] =
    [one_disk, too_seldom, kept_for_ever, never_restored, unchecked_restores, no_gate, never_rehearsed];

fn finding(at: Position, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding::new(at, message.into()).hint(hint)
}

/// A repository that burns with the machine.
fn one_disk(body: &Body) -> Vec<Finding> {
    let location = body.repository.location.as_literal();
    if !body.copies.is_empty() || location.is_none_or(|location| location.starts_with("s3:")) {
        return Vec::new();
    }
    vec![finding(
        body.repository.at,
        "the repository is a directory of this machine, and there is no copy of it: who loses the machine loses both",
        "add `copies`, for example s3://BUCKET/PREFIX; nothing is to be done if another machine's disk is mounted there",
    )]
}

/// Backups that come more seldom than what may be lost.
fn too_seldom(body: &Body) -> Vec<Finding> {
    let late = body.components.iter().filter_map(|(name, component)| {
        let (every, rpo) = (component.every.as_ref()?, component.rpo?);
        let gap = every.longest_gap();
        (gap > rpo).then(|| {
            let (gap, rpo) = (show_duration(gap), show_duration(rpo));
            finding(
                component.at,
                format!("`{name}` is backed up every {gap}, and at most {rpo} of it may be lost"),
                format!("make `every` {rpo} or shorter, or `rpo` {gap} or longer"),
            )
        })
    });
    late.collect()
}

/// Logs that only grow: without `keep` nothing of them is ever needless.
fn kept_for_ever(body: &Body) -> Vec<Finding> {
    let growing = body.components.iter().filter_map(|(name, component)| {
        let is_archived = matches!(&component.kind, ComponentKind::Postgres(postgres) if *postgres.archive);
        let said = match component.every {
            Some(Every::Continuous) => "is continuous",
            _ if is_archived => "archives its log",
            _ => return None,
        };
        component.keep.is_none().then(|| {
            finding(
                component.at,
                format!(
                    "`{name}` {said} and has no `keep`: everything that it ever writes stays in the repository, which grows \
                     for ever"
                ),
                "say how far back it must be possible to go, for example `keep: { daily: 14 }`; the log from the oldest point \
                 that is kept stays whole",
            )
        })
    });
    growing.collect()
}

/// Components that are backed up and that nothing brings back.
fn never_restored(body: &Body) -> Vec<Finding> {
    let mut restored = BTreeSet::new();
    let mut note = |step: &Step| {
        if let Action::Restore(step) = &step.action {
            restored.extend(step.restore.iter().map(Name::to_string));
        }
    };
    body.scenarios.iter().for_each(|(_, scenario)| scenario.walk(&mut note));
    let remedies = body.services.iter().flat_map(|(_, service)| &service.on_error);
    remedies.flat_map(|remedy| &remedy.steps).for_each(|step| step.walk(&mut note));
    let forgotten = body.components.iter().filter(|(name, _)| !restored.contains(*name));
    forgotten
        .map(|(name, component)| {
            finding(
                component.at,
                format!("no scenario restores `{name}`"),
                format!("write `restore: {name}` in the scenario of the disaster that takes it"),
            )
        })
        .collect()
}

/// Scenarios that bring something back and do not look whether it works.
fn unchecked_restores(body: &Body) -> Vec<Finding> {
    let unchecked = body.scenarios.iter().filter_map(|(name, scenario)| {
        let at = Followed { body, restore: None }.scenario(scenario)?;
        Some(finding(
            at,
            format!("nothing is checked after this restore, the last of `{name}`"),
            "end the scenario with a `check` that shows that what uses the data works",
        ))
    });
    unchecked.collect()
}

/// Follows the steps of a scenario, in order: the last restore after which nothing was checked.
struct Followed<'a> {
    body: &'a Body,
    restore: Option<Position>,
}

impl Followed<'_> {
    fn scenario(mut self, scenario: &Scenario) -> Option<Position> {
        self.steps(&scenario.steps);
        self.restore
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) {
        match &step.action {
            Action::Restore(_) => self.restore = Some(step.at),
            // Its checks are asked after each of its attempts.
            Action::Check(_) | Action::Try(_) => self.restore = None,
            Action::Start(start) => self.services(&mut start.start.iter().map(Name::as_str)),
            Action::Restart(restart) => self.services(&mut restart.restart.iter().map(Name::as_str)),
            Action::Boot(boot) => self.services(&mut self.body.boot_order(&boot.boot).into_iter().flatten()),
            // A scenario that recovers itself was refused when the plan was read.
            Action::Recover(recover) => {
                if let Ok(scenario) = self.body.scenario(&recover.recover) {
                    self.steps(&scenario.steps);
                }
            }
            Action::Group(group) if group.group.is_parallel() => self.together(group.group.steps()),
            Action::Group(group) => self.steps(group.group.steps()),
            Action::Stop(_)
            | Action::Run(_)
            | Action::Dns(_)
            | Action::Approve(_)
            | Action::Notify(_)
            | Action::Wait(_)
            | Action::Backup(_) => {}
        }
    }

    /// A gate is a check.
    fn services(&mut self, names: &mut dyn Iterator<Item = &str>) {
        let mut services = names.filter_map(|name| self.body.services.get(name));
        if services.any(|service| service.ready.is_some()) {
            self.restore = None;
        }
    }

    /// Of steps that run together none comes after another: a restore among them is checked by none of them.
    fn together(&mut self, steps: &[Step]) {
        let alone = |step: &Step, restore: Option<Position>| {
            let mut followed = Followed { body: self.body, restore };
            followed.step(step);
            followed.restore
        };
        let restored = steps.iter().find_map(|step| alone(step, None));
        let before = self.restore.filter(|at| steps.iter().all(|step| alone(step, Some(*at)).is_some()));
        self.restore = restored.or(before);
    }
}

/// Services that count as started when their process is.
fn no_gate(body: &Body) -> Vec<Finding> {
    let without = body.services.iter().filter(|(_, service)| service.ready.is_none());
    without
        .map(|(name, service)| {
            finding(
                service.at,
                format!("`{name}` has no `ready`: it counts as started before it can answer"),
                "say by what it shows that it works, for example `ready: { http: \"http://localhost:80/health\" }`",
            )
        })
        .collect()
}

/// Scenarios that are tried for the first time on the bad day.
fn never_rehearsed(body: &Body) -> Vec<Finding> {
    let mut rehearsed = BTreeSet::new();
    for drill in &body.drills {
        rehearsed.extend(body.reach(&drill.scenario).map(|reach| reach.scenarios).unwrap_or_default());
    }
    let left = body.scenarios.iter().filter(|(name, _)| !rehearsed.contains(*name));
    left.map(|(name, scenario)| {
        finding(
            scenario.at,
            format!("no drill rehearses `{name}`"),
            format!("add it to `drills`: {{ scenario: {name}, every: 30d }}"),
        )
    })
    .collect()
}
