//! Integration tests of the repository crate: one binary, one module per subject.

#![expect(clippy::unwrap_used, reason = "a test fails by it, in helpers too")]
#![expect(clippy::print_stdout, reason = "a test that fails by chance prints its seed")]

mod backup_changes;
mod backup_excludes;
mod backup_extremes;
mod backup_trouble;
mod check;
mod conformance;
mod copy;
mod crash_killed;
mod crash_points;
mod damage_store;
mod filter;
mod forget;
mod keys;
mod locks;
mod log_archive;
mod log_copy;
mod log_faults;
mod log_model;
mod log_race;
mod looks;
mod members;
mod prune;
mod repair;
mod restic_chunks;
mod restic_trees;
mod restore;
mod restore_crafted;
mod restore_exact;
mod sample;
mod sidecar;
mod support;
