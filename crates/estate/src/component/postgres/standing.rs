//! Where the log of the running server stands, and whether archiving goes on: an idle server archives nothing, and is not
//! behind for that.
//!
//! What was written longer ago than `archive_timeout` is in a segment that has ended, because the server ends the one that
//! it writes to after that time as soon as there is anything in it that matters (`CheckArchiveTimeout` of `checkpointer.c`). So
//! all of it is archived if everything before the present segment is. Without `archive_timeout` nothing of the kind is known:
//! the last transactions of an idle server may be in its own directory only.

use std::time::Duration;

use jiff::Timestamp;
use place::Place;

use super::super::{Cancel, PostgresOptions, Standing};
use super::log::Lsn;
use super::question;

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

/// Asks the server; `None` when none answers here, or it is a standby.
pub(super) fn standing(options: &PostgresOptions, place: &Place, cancel: &Cancel) -> Option<Standing> {
    let asked = Timestamp::now();
    let answered = place.within(|| question::ask(options, place, QUERY, cancel)).ok()?.ok()?;
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
