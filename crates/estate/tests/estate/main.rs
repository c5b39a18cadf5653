//! Tests of the components against real databases, files and commands.

mod command;
mod conformance;
mod files;
mod sqlite;
mod sqlite_exports;
mod sqlite_faults;
mod support;
mod swap;
