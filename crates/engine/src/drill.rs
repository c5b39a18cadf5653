//! Rehearsing a disaster in a twin of this host: the same scenario, unchanged, where it can do no harm.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use place::{Twin, TwinOptions, TwinReport};
use plan::{CommandLine, ServiceKind};
use store::Outside;

use crate::Result;
use crate::drivers::Drivers;
use crate::execute::{Conduct, Finished, What, execute};
use crate::perform::Performer;
use crate::recover::{Preview, refuse_blocked};
use crate::site::Site;

/// Where a twin has something fresh instead of what the host has.
const FRESH: [&str; 3] = ["/tmp", "/run", "/dev/shm"];

/// What came of a drill.
#[derive(Debug)]
pub struct Drilled {
    /// The run.
    pub finished: Finished,
    /// How the twin was made.
    pub twin: TwinReport,
}

/// Executes a drill's preview in a twin that is made for it and destroyed afterwards.
///
/// Fails when something stands in the way and when the kernel forbids a twin; nothing was done then.
pub fn execute_preview(site: &Site, preview: Preview, conduct: Conduct<'_>) -> Result<Drilled> {
    refuse_blocked(&preview)?;
    let scratch = site.state.join("twins");
    Twin::reap(&scratch)?;
    let options = TwinOptions {
        scratch,
        init: site.twin_init.clone(),
        keep: kept(site)?,
        gone: destroyed(site, &preview)?,
    };
    let twin = Twin::make(&options)?;
    let report = twin.report().clone();
    // Threads inside the twin would see a repository in a directory of this host through the twin's overlay.
    let outside = Arc::new(Outside::new(Arc::clone(site.repository.store())));
    let repository = site.repository.with_store(outside);
    let place = twin.place();
    let drivers = Drivers::of(site, &place)?;
    let performer = Performer::new(site, &drivers, place, repository);
    let finished =
        execute(site, preview.kind, &preview.id, What::Begin(preview.runbook), &performer, conduct);
    drop(performer);
    drop(drivers);
    let destroyed = twin.destroy();
    let mut finished = finished?;
    if let Err(error) = destroyed {
        finished
            .remarks
            .push(format!("the twin is not wholly gone: {error}; the next drill removes what is left"));
    }
    Ok(Drilled { finished, twin: report })
}

/// What the disaster takes. The run's first step looks whether all of it is gone, and removes what is not.
fn destroyed(site: &Site, preview: &Preview) -> Result<Vec<PathBuf>> {
    let drivers = Drivers::of(site, &place::Place::host())?;
    let mut paths = Vec::new();
    for chosen in &preview.context.chosen {
        paths.extend(drivers.component(&chosen.component)?.destroy());
    }
    Ok(paths)
}

/// The directories of the programs that the plan names by their whole path.
fn programs(site: &Site) -> impl Iterator<Item = PathBuf> + '_ {
    let lines = site.plan.services.iter().flat_map(|(_, service)| match &service.kind {
        ServiceKind::Process(process) => vec![&process.process.command],
        ServiceKind::Command(commands) => {
            vec![&commands.command.start, &commands.command.stop, &commands.command.status]
        }
        // A unit's programs are the system's, and the system does not live below `/tmp`.
        ServiceKind::Systemd(_) => Vec::new(),
    });
    lines.filter_map(|line| match line {
        CommandLine::Arguments(words) => {
            let program = Path::new(words.first()?);
            program.is_absolute().then(|| program.parent().map(Path::to_owned))?
        }
        CommandLine::Shell(_) => None,
    })
}

/// What the twin must show although it lies where a twin has something fresh, such as below `/tmp`: the plan's
/// directory, what the plan protects, and the programs of its services. An ordinary user's twin must show whatever the scenario writes to.
fn kept(site: &Site) -> Result<Vec<PathBuf>> {
    let drivers = Drivers::of(site, &place::Place::host())?;
    let mut paths = vec![site.base.clone(), site.state.clone()];
    for name in site.plan.components.names() {
        // A path that is gone is shown by its directory, so that it can be restored there.
        paths.extend(
            drivers.component(name)?.destroy().into_iter().filter_map(|path| Some(path.parent()?.to_owned())),
        );
    }
    paths.extend(programs(site));
    paths.sort_unstable();
    paths.dedup();
    let is_fresh = |path: &PathBuf| FRESH.iter().any(|fresh| path.starts_with(fresh));
    if rustix::process::geteuid().is_root() {
        paths.retain(is_fresh);
    }
    Ok(paths)
}
