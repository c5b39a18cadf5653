//! Backing up by the plan, and verifying what is stored: the use cases that need no disaster.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use place::Place;
use runbook::{Body, Step};

use crate::drivers::Drivers;
use crate::execute::{Conduct, Finished, What, execute};
use crate::perform::Performer;
use crate::recover::{plain_context, runbook};
use crate::resolve::{Chosen, Context, Numbers, backup_steps, fetch_and_prove, phase};
use crate::runs::{Kind, new_id};
use crate::site::Site;
use crate::work::Work;
use crate::{Error, Result, copies, log};

/// How long the backup or test of everything may take at most; single components have limits of their own.
const ALL_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// Backs up the components `names`, or all of the plan; what was backed up well is copied to the plan's copies, and what
/// `keep` does not keep of it is forgotten.
///
/// A component that fails does not keep the others from being backed up. `accept` accepts what is implausible.
pub fn backup(site: &Site, names: &[String], accept: bool, conduct: Conduct<'_>) -> Result<Finished> {
    let names = chosen_components(site, names)?;
    let now = site.now();
    let context = plain_context(site, now);
    let accept = accept.then_some(site.who.as_str());
    let mut numbers = Numbers::top();
    let together = numbers.next();
    let steps = backup_steps(names.clone(), accept, false, &mut Numbers::inside(&together));
    let steps = steps
        .into_iter()
        .zip(&names)
        .map(|(step, name)| with_upkeep(site, with_timeout(site, step), name))
        .collect();
    let mut all =
        Step::new(together.as_str(), format!("back up {}", names.join(", ")), Body::Parallel(steps));
    all.timeout = Some(ALL_WITHIN);
    let runbook = runbook(format!("backup of {}", site.estate()), vec![phase(all, "backup")], &context);
    carry_out(site, Kind::Backup, &new_id(Kind::Backup, now), runbook, conduct)
}

/// The backup of a component and what follows it if it goes well. Without copies and `keep` nothing does.
fn with_upkeep(site: &Site, backup: Step, name: &str) -> Step {
    let component = || name.to_owned();
    let mut after = Vec::new();
    for (copy, declared) in site.copies.iter().enumerate() {
        let work = Work::Copy { component: component(), copy };
        let title = format!("copy {name} to {}", declared.location);
        after.push((title, "copy", work.action("lifeboat copy")));
    }
    if site.plan.components.get(name).is_some_and(|declared| declared.keep.is_some()) {
        let work = Work::Forget { component: component() };
        let title = format!("forget what is not kept of {name}");
        after.push((title, "forget", work.action(format!("lifeboat forget {name}"))));
    }
    if after.is_empty() {
        return backup;
    }
    let id = backup.id.clone();
    let mut numbers = Numbers::inside(&id);
    let mut steps = vec![Step { id: numbers.next(), ..backup }];
    for (title, of, action) in after {
        let mut step = phase(Step::new(numbers.next().as_str(), title, Body::Action(action)), of);
        step.timeout = Some(ALL_WITHIN);
        steps.push(step);
    }
    Step::new(id.as_str(), format!("protect {name}"), Body::Sequence(steps))
}

/// Restores the newest point of the components `names`, or of all, into scratch, proves it, and throws it away.
///
/// Fails when a component has no point that counts.
pub fn verify_restore(site: &Site, names: &[String], conduct: Conduct<'_>) -> Result<Finished> {
    let names = chosen_components(site, names)?;
    let now = site.now();
    let id = new_id(Kind::Verify, now);
    let catalogue = site.catalogue()?;
    let drivers = Drivers::of(site, &Place::host())?;
    let mut chosen = Vec::new();
    let mut numbers = Numbers::top();
    let together = numbers.next();
    let mut inside = Numbers::inside(&together);
    let mut steps = Vec::new();
    for name in &names {
        let choice = log::choose(&site.repository, &catalogue, name, None)?;
        chosen.push(Chosen::of(&choice));
        let directory: PathBuf = site.state.join("scratch").join(&id).join(name);
        let driver = drivers.component(name)?;
        if driver.is_proven_as_another_user() {
            let_through(&site.state, &directory)?;
        }
        let parts = driver.parts(&id, &choice.point.recorded);
        let parts = parts.iter().map(|part| part.moved_to(&directory)).collect();
        let restored = log::restored(name, &choice, parts);
        let step = inside.next();
        let mut tested = fetch_and_prove(&restored, &step.child("test"));
        tested.name = format!("restore {name} into scratch and prove it");
        let discard = Work::Discard { component: name.clone(), directory: directory.clone() };
        let discard = discard.action(format!("rm -rf {}", directory.display()));
        let discard = phase(
            Step::new(step.child("discard").as_str(), format!("throw {name} away"), Body::Action(discard)),
            "clean up",
        );
        steps.push(Step::new(step.as_str(), format!("test {name}"), Body::Sequence(vec![tested, discard])));
    }
    let mut all = Step::new(together.as_str(), "restore tests".to_owned(), Body::Parallel(steps));
    all.timeout = Some(ALL_WITHIN);
    let context = Context { chosen, ..plain_context(site, now) };
    let runbook = runbook(format!("restore test of {}", names.join(", ")), vec![all], &context);
    carry_out(site, Kind::Verify, &id, runbook, conduct)
}

/// Makes `directory`, and lets other users of this machine go through it from `state` on, without showing them what is in
/// there: a server that is started for a proof must reach the files that it is given.
pub(crate) fn let_through(state: &Path, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
    for made in directory.ancestors().take_while(|upper| upper.starts_with(state)) {
        let found = std::fs::metadata(made).map_err(Error::io("look at", made))?;
        let mut permissions = found.permissions();
        permissions.set_mode(permissions.mode() | 0o011);
        std::fs::set_permissions(made, permissions).map_err(Error::io("let others through", made))?;
    }
    Ok(())
}

fn carry_out(
    site: &Site,
    kind: Kind,
    id: &str,
    runbook: runbook::Runbook,
    conduct: Conduct<'_>,
) -> Result<Finished> {
    let drivers = Drivers::of(site, &Place::host())?;
    let performer = Performer::new(site, &drivers, Place::host(), site.repository.clone());
    let mut finished = execute(site, kind, id, What::Begin(runbook), &performer, conduct);
    if let Ok(finished) = &mut finished {
        carry_records(site, &performer, finished);
    }
    // Also what a failed test left there is of no use to anybody.
    let _left = std::fs::remove_dir_all(site.state.join("scratch").join(id));
    finished
}

/// The record of a run is written at its very end; the copies that the run has reached get it, too.
fn carry_records(site: &Site, performer: &Performer<'_>, finished: &mut Finished) {
    for (declared, opened) in site.copies.iter().zip(&performer.copies) {
        let Some(Ok(target)) = opened.get() else { continue };
        if let Err(error) = copies::carry_beside(&site.repository, target) {
            let remark = format!("the copy {} did not get the record of the run: {error}", declared.location);
            finished.remarks.push(remark);
        }
    }
}

fn with_timeout(site: &Site, step: Step) -> Step {
    let component = match &step.body {
        Body::Action(action) => action.input.get("component").and_then(serde_json::Value::as_str),
        _ => None,
    };
    let timeout =
        component.and_then(|name| site.plan.components.get(name)).map(|component| *component.timeout);
    Step { timeout: timeout.or(step.timeout), ..step }
}

fn chosen_components(site: &Site, names: &[String]) -> Result<Vec<String>> {
    for name in names {
        site.plan.component(name)?;
    }
    let names: Vec<String> = if names.is_empty() {
        site.plan.components.names().map(str::to_owned).collect()
    } else {
        names.to_vec()
    };
    if names.is_empty() {
        return Err(Error::refused("the plan has no components", "declare what is to be protected"));
    }
    Ok(names)
}
