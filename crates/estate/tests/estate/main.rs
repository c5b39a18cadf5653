//! Tests of the components against real databases, files and commands.

#![expect(clippy::unwrap_used, reason = "a test fails by it, in helpers too")]

mod cache;
mod checks;
mod command;
mod conformance;
mod files;
mod redis;
mod redis_faults;
mod redis_log;
mod rehearsal;
mod services;
mod sqlite;
mod sqlite_exports;
mod sqlite_faults;
mod support;
mod swap;
mod systemd;
mod twin;
