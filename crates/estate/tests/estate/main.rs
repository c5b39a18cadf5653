//! Tests of the components against real databases, files and commands.

#![expect(clippy::unwrap_used, reason = "a test fails by it, in helpers too")]

mod cache;
mod checks;
mod cluster;
mod command;
mod conformance;
mod files;
mod papers;
mod postgres;
mod postgres_again;
mod postgres_dump;
mod postgres_standby;
mod postgres_wal;
mod postgres_ways;
mod redis;
mod redis_faults;
mod redis_hangs;
mod redis_log;
mod redis_ways;
mod rehearsal;
mod services;
mod ship;
mod sqlite;
mod sqlite_aside;
mod sqlite_exports;
mod sqlite_faults;
mod support;
mod swap;
mod systemd;
mod twin;
