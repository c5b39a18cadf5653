//! A file per command: its arguments, whose documentation is the help, and what it does with them.

pub mod backup;
pub mod copy;
pub mod demo;
pub mod diagnose;
pub mod drill;
pub mod forget;
pub mod hidden;
pub mod init;
pub mod order;
pub mod points;
pub mod recover;
pub mod report;
pub mod repository;
pub mod restore;
pub mod rollback;
pub mod run;
pub mod runbook;
pub mod serve;
pub mod status;
pub mod validate;
pub mod verify;
pub mod wal;
