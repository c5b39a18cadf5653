//! Shipping logs: what the continuous components write is in the repository within a second, until one is told to stop.
//!
//! Each component has a thread that looks at its source and one that archives, so that a slow repository
//! does not blur the instants. A new lineage gets a base at once: an ordinary backup of the component, which knows where it
//! stands in the log. Nothing here is durable but what is archived: a process that is killed at any point is followed
//! by one that proves where it may go on.
//!
//! | module | what lives there |
//! |---|---|
//! | `line` | one component |
//! | `seen` | that nothing was written for a while, as a record |

mod line;
pub(crate) mod seen;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;
use place::Place;
use plan::{ComponentKind, Every};
use serde::Serialize;

use crate::drivers::Drivers;
use crate::site::Site;
use crate::wal::helper::Helper;
use crate::wal::mark;
use crate::wal::waiting::Waiting;
use crate::{Error, Result};
use line::Line;

/// What happens while logs are shipped.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Event {
    /// A new lineage has begun, and with it the need for a base.
    Began {
        /// Its component.
        component: String,
        /// Its name.
        lineage: String,
        /// Why the last one could not go on.
        why: String,
    },
    /// The lineage goes on where the archive ends.
    Continues {
        /// Its component.
        component: String,
        /// Its name.
        lineage: String,
    },
    /// A piece is in the repository.
    Shipped {
        /// Its component.
        component: String,
        /// The position behind it.
        position: u64,
        /// The latest commit in it.
        until: Option<Timestamp>,
        /// Its size in bytes.
        bytes: u64,
        /// How old its first commit was when it was durable, in seconds.
        delay_seconds: Option<f64>,
    },
    /// There is a base from which the log can be replayed.
    Based {
        /// Its component.
        component: String,
        /// The run that made it.
        run: String,
    },
    /// No base could be made; it is tried again.
    NotBased {
        /// Its component.
        component: String,
        /// Why not.
        why: String,
    },
    /// The repository does not take what is to be archived; it is tried again, and the source keeps it.
    Away {
        /// Its component.
        component: String,
        /// What failed.
        why: String,
        /// How much waits, in bytes.
        behind_bytes: u64,
    },
    /// The repository takes it again.
    Back {
        /// Its component.
        component: String,
    },
    /// The log is interrupted: from here on until the next base nothing can be restored.
    Interrupted {
        /// Its component.
        component: String,
        /// What happened.
        why: String,
    },
    /// Who archives a server's log is answered by a helper from here on.
    Listening {
        /// Its component.
        component: String,
        /// Where it listens.
        socket: std::path::PathBuf,
    },
    /// A server's archiving stands still; it is told again as long as it does.
    Standing {
        /// Its component.
        component: String,
        /// What the server has still to archive.
        waiting: Waiting,
        /// How many of these files are in the repository already: then it is the server's command that fails.
        archived: u64,
    },
    /// A server's archiving goes on.
    Moving {
        /// Its component.
        component: String,
    },
    /// The source cannot be followed now; it is tried again.
    Waiting {
        /// Its component.
        component: String,
        /// Why not.
        why: String,
    },
}

/// What came of shipping one component.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Shipped {
    /// The component.
    pub component: String,
    /// How many pieces were archived.
    pub pieces: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// The latest instant up to which everything is in the repository.
    pub until: Option<Timestamp>,
    /// How often the log was interrupted.
    pub interruptions: u64,
    /// What was not archived, or cannot be restored, at the end; `None` if all was well.
    pub missing: Option<String>,
}

/// Is told what happens, from several threads.
pub type Watch<'a> = &'a (dyn Fn(&Event) + Sync);

/// The components of the plan whose logs are shipped: the continuous ones, and those whose servers archive.
pub fn continuous(site: &Site) -> Vec<String> {
    let is_shipped = |declared: &plan::Component| {
        matches!(declared.every, Some(Every::Continuous)) || archives(declared).is_some()
    };
    let components = site.plan.components.iter().filter(|(_, declared)| is_shipped(declared));
    components.map(|(name, _)| name.to_owned()).collect()
}

/// The data directory of a server that archives its log.
pub(crate) fn archives(declared: &plan::Component) -> Option<&std::path::Path> {
    match &declared.kind {
        ComponentKind::Postgres(postgres) if *postgres.archive => Some(&postgres.postgres),
        _ => None,
    }
}

/// Ships the logs of the components `names`, or of all continuous ones, until `stop` becomes true; and helps the servers
/// that archive theirs.
///
/// What goes wrong with one is told to `watch` and tried again; it keeps nothing else from being shipped. Those who help a
/// server end by themselves when it has not asked for `until_idle`. Fails when there is nothing to ship.
pub fn ship(
    site: &Site,
    names: &[String],
    watch: Watch<'_>,
    stop: &AtomicBool,
    until_idle: Option<Duration>,
) -> Result<Vec<Shipped>> {
    for name in names {
        site.plan.component(name)?;
    }
    let names = if names.is_empty() { continuous(site) } else { names.to_vec() };
    if names.is_empty() {
        let message = "no component of the plan is continuous";
        let hint = "write `every: continuous` at a component of kind sqlite or redis, or `archive: true` at one of kind \
                    postgres";
        return Err(Error::refused(message, hint));
    }
    let (mut lines, mut helpers, mut marked) = (Vec::new(), Vec::new(), Vec::new());
    let drivers = Drivers::of(site, &Place::host())?;
    for name in &names {
        match archives(site.plan.component(name)?) {
            Some(data) => {
                helpers.push(Helper::new(site, name, site.path(data), watch, stop, until_idle));
                // One that was started for a call is there for that, and gone when it was not called for a while.
                if until_idle.is_none() {
                    marked.push((name, drivers.component(name)?));
                }
            }
            None => lines.push(Line::new(site, name, drivers.component(name)?, watch, stop)?),
        }
    }
    Ok(std::thread::scope(|scope| {
        for (name, driver) in marked {
            scope.spawn(move || mark::run(site, name, driver, stop));
        }
        let helpers = helpers.into_iter().map(|helper| scope.spawn(move || helper.run()));
        let helpers: Vec<_> = helpers.collect();
        let lines = lines.into_iter().map(|line| scope.spawn(move || line.run()));
        let threads: Vec<_> = lines.collect::<Vec<_>>().into_iter().chain(helpers).collect();
        threads.into_iter().map(|thread| thread.join().expect("shipping does not panic")).collect()
    }))
}

#[cfg(test)]
mod tests;
