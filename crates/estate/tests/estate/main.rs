//! The estate from outside: real databases, files, commands, servers and processes.

mod checks;
mod command;
mod conformance;
mod files;
mod services;
mod sqlite;
mod sqlite_exports;
mod sqlite_faults;
mod support;
mod swap;
