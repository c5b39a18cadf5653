//! A file per command: its arguments, whose documentation is the help, and what it does with them.

pub mod demo;
pub mod repository;
