//! What a user of the command line sees: standard output, standard error and exit code of the real binary, on real
//! directories.
//!
//! Nothing of the caller's environment reaches the binary, and nothing that differs from run to run (ids, times,
//! sizes, paths) reaches the snapshots.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bounds;
mod demo;
mod faults;
mod harness;
mod help;
mod hub;
mod init;
mod json;
mod logs;
mod open;
mod postgres;
mod postgres_dump;
mod proving;
mod redis;
mod redis_large;
mod redis_log;
mod resume;
mod retention;
mod s3;
mod sabotage;
mod scenarios;
mod shipping;
mod shown;
mod signals;
mod snapshots;
mod stale;
mod standing;
mod streaming;
mod three;
mod units;
mod upkeep;
mod wal;
mod wal_cuts;
mod wal_helper;
mod wal_restores;
mod wal_standby;
mod without;
