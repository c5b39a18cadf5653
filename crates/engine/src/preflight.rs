//! What is looked at before a run begins: whether it can end well, as far as that can be seen without doing it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use estate::component::{Finding, Severity};
use runbook::{Body, Runbook};

use crate::point::Catalogue;
use crate::resolve::{Context, Mode};
use crate::site::Site;
use crate::units;
use crate::work::{Restored, Work, read};

/// What speaks against beginning this run, or should be known before; changes nothing.
pub(crate) fn of(site: &Site, runbook: &Runbook, context: &Context, catalogue: &Catalogue) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(space(runbook));
    findings.extend(ages(site, context));
    findings.extend(catalogue.unreadable.iter().map(|what| Finding {
        severity: Severity::Warning,
        what: format!("a recovery point cannot be read: {what}"),
        hint: "see what is damaged with `lifeboat verify --data`".into(),
    }));
    if let Err(error) = runbook.validate() {
        findings.push(Finding {
            severity: Severity::Error,
            what: format!("the scenario makes no runbook: {error}"),
            hint: "correct the scenario in the plan".into(),
        });
    }
    findings
}

/// Whether the file systems have room for what is restored beside.
fn space(runbook: &Runbook) -> Vec<Finding> {
    let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    runbook.visit(&mut |step, _| {
        if let Body::Action(action) = &step.body
            && let Ok(Work::Fetch(restored)) = read::<Work>(action)
            && let Some((directory, device)) = target_of(&restored)
        {
            needed.entry(device).or_insert((directory, 0)).1 += restored.recorded.bytes.unwrap_or(0);
        }
    });
    let too_small = |(path, bytes): &(PathBuf, u64)| {
        let free = rustix::fs::statvfs(path).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)).ok()?;
        (free < *bytes).then(|| Finding {
            severity: Severity::Error,
            what: format!(
                "{} are restored beside what is there, and {} has {} free",
                units::bytes(*bytes),
                path.display(),
                units::bytes(free),
            ),
            hint: "free space, or restore to another place with `lifeboat restore COMPONENT --to DIR`".into(),
        })
    };
    needed.values().filter_map(too_small).collect()
}

/// The nearest directory that exists above what is restored, and its file system.
fn target_of(restored: &Restored) -> Option<(PathBuf, u64)> {
    use std::os::unix::fs::MetadataExt;
    let target = restored.parts.first()?.target.clone();
    let there = target.ancestors().skip(1).find(|path| path.is_dir()).map(Path::to_owned)?;
    let device = there.metadata().ok()?.dev();
    Some((there, device))
}

/// Points that are older than the objective says.
fn ages(site: &Site, context: &Context) -> Vec<Finding> {
    if context.mode == Mode::Drill {
        return Vec::new();
    }
    let old = context.chosen.iter().filter_map(|chosen| {
        let rpo = site.plan.components.get(&chosen.component)?.rpo?;
        let age = context.happened.duration_since(chosen.recovered());
        let age = std::time::Duration::try_from(age).ok()?;
        (age > rpo).then(|| Finding {
            severity: Severity::Warning,
            what: format!(
                "what there is of {} is {} {}; at most {} may be lost",
                chosen.component,
                units::duration(age),
                if context.scenario.is_some() { "older than the disaster" } else { "old" },
                units::duration(rpo)
            ),
            hint: "what was written after it is lost; see `lifeboat points`".into(),
        })
    });
    old.collect()
}
