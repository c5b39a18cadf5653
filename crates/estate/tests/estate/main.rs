//! Tests of the components against real databases, files and commands.

mod command;
mod conformance;
mod files;
mod sqlite;
mod sqlite_exports;
mod sqlite_faults;
mod support;
mod swap;
//! The estate from outside: real files, real databases, real servers and processes.
mod checks;
mod services;
