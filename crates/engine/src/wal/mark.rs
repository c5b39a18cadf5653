//! Marks beside the archive of a server's log: up to which instant everything is archived that the server has written.
//!
//! An idle server archives nothing, so that from another machine its archive looks like the one of a server, or of an
//! archiver, that is dead: only on the server's own machine can it be asked. So `lifeboat serve` asks there, and where all is
//! archived it writes that down, as it does for logs that it follows (`ship/seen`): the newest mark counts, as long as it
//! speaks of the end of what is archived, and takes the place of the one before. A server that does not answer, one whose
//! archiver is stuck, and one that ends no segments by itself get none, and what is newest grows old.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use estate::component::{Component, Standing};
use jiff::Timestamp;
use repository::log::Archive;

use crate::Result;
use crate::ship::seen::Seen;
use crate::site::Site;

/// How often a mark is renewed.
const MARK_EVERY: Duration = Duration::from_secs(20);
/// How often is looked whether one is to stop.
const TICK: Duration = Duration::from_millis(100);

/// Marks the archive of one component until it is to stop.
pub(crate) fn run(site: &Site, name: &str, driver: &dyn Component, stop: &AtomicBool) {
    let mut next = Instant::now();
    let never = Arc::new(AtomicBool::new(false));
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            if let Some(standing) = driver.log().and_then(|log| log.standing(&never)) {
                // What could not be marked now is marked the next time; and what is shipped says whether the repository is away.
                _ = mark(site, name, &standing);
            }
            next = Instant::now() + MARK_EVERY;
        }
        std::thread::sleep(TICK);
    }
}

/// Writes down where a server stands, if all before that is archived.
fn mark(site: &Site, name: &str, standing: &Standing) -> Result<()> {
    let Ok(instant) = &standing.instant else { return Ok(()) };
    let archive = Archive::new(&site.repository, name)?;
    let known = archive.lineage(&standing.lineage)?;
    if known.segments.last().is_none_or(|last| last.last != standing.position) {
        return Ok(());
    }
    // A mark that says no more than what is archived would say by itself is none.
    let told = known.segments.iter().filter_map(repository::log::Segment::until_ms).max();
    let told = told.and_then(|ms| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
    if told.is_some_and(|told| told >= *instant) {
        return Ok(());
    }
    Seen::new(&standing.lineage, standing.position, *instant).save(&site.repository, name)
}
