//! The estate from outside: real files, real databases, real servers and processes.

mod checks;
#![expect(clippy::unwrap_used, reason = "a test fails by it, in helpers too")]

//! The estate from outside: real databases, files, commands, servers and processes.
mod command;
mod conformance;
mod files;
mod services;
mod sqlite;
mod sqlite_exports;
mod sqlite_faults;
mod support;
mod swap;
mod twin;
