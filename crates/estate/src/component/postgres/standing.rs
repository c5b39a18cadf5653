//! Where the log of the running server stands, and whether archiving goes on: an idle server archives nothing, and is not
//! behind for that.
//!
//! What was written longer ago than `archive_timeout` is in a segment that has ended, because the server ends the one that
//! it writes to after that time as soon as there is anything in it that matters (`CheckArchiveTimeout` of `checkpointer.c`). So
//! all of it is archived if everything before the present segment is. Without `archive_timeout` nothing of the kind is known:
//! the last transactions of an idle server may be in its own directory only.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use place::Place;

use super::super::{Cancel, PostgresOptions, Standing};
use super::log::Lsn;
use super::question;

/// How long the server may take to answer: one that hangs has no answer, and others wait for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often is looked whether the answer is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How late the checkpointer may come to it.
const LATE: Duration = Duration::from_secs(5);

const QUERY: &str = "select pg_catalog.pg_current_wal_insert_lsn()::text, \
    pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8), \
    (select system_identifier::text from pg_catalog.pg_control_system()), \
    (select setting from pg_catalog.pg_settings where name = 'wal_segment_size'), \
    (select setting from pg_catalog.pg_settings where name = 'archive_timeout'), \
    (select coalesce(last_failed_wal, '') from pg_catalog.pg_stat_archiver where last_failed_time > \
     coalesce(last_archived_time, '-infinity')), \
    (select setting from pg_catalog.pg_settings where name = 'archive_mode')";

/// Asks the server; `None` when none answers here within seconds, or it is a standby.
pub(super) fn standing(options: &PostgresOptions, place: &Place, cancel: &Cancel) -> Option<Standing> {
    let asked = Timestamp::now();
    let ask = |cancel: &Cancel| place.within(|| question::ask(options, place, QUERY, cancel)).ok()?.ok();
    let answered = within(ANSWER_WITHIN, cancel, ask)?;
    let row: Vec<&str> = answered.rows.first()?.iter().map(String::as_str).collect();
    let [at, timeline, system, segment_bytes, timeout, failed, mode] = row[..] else { return None };
    let (at, segment_bytes) = (at.parse::<Lsn>().ok()?.0, segment_bytes.parse::<u64>().ok()?);
    let system = system.parse::<i64>().ok()?.cast_unsigned();
    let timeline = u32::from_str_radix(timeline, 16).ok()?;
    let timeout = timeout.parse().ok().map(Duration::from_secs).filter(|timeout| !timeout.is_zero());
    let stuck = match (mode, failed) {
        ("on" | "always", "") => None,
        ("on" | "always", failed) => {
            Some(format!("{failed} could not be archived the last time that it was tried"))
        }
        (mode, _) => Some(format!("archive_mode is {mode}, so that its log is not archived")),
    };
    Some(Standing {
        lineage: super::wal::lineage(system, timeline),
        position: at - at % segment_bytes.max(1),
        instant: timeout.and_then(|timeout| asked.checked_sub(timeout + LATE).ok()).ok_or_else(|| {
            "archive_timeout is 0, so that the last transactions of an idle server may not be archived: set it in \
             postgresql.conf"
                .to_owned()
        }),
        stuck,
    })
}

/// Runs `ask`, which is told to stop when `cancel` says so or the time is over.
fn within<T>(time: Duration, cancel: &Cancel, ask: impl FnOnce(&Cancel) -> T) -> T {
    let over = Cancel::default();
    let (asked, is_answered) = channel::<()>();
    std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            let begin = Instant::now();
            let mut is_waiting = true;
            while is_waiting && begin.elapsed() < time && !cancel.load(Ordering::Relaxed) {
                is_waiting = matches!(is_answered.recv_timeout(LOOK_EVERY), Err(RecvTimeoutError::Timeout));
            }
            over.store(true, Ordering::Relaxed);
        });
        // Its end says that there is an answer, however it ends.
        let _asked = asked;
        ask(over)
    })
}
