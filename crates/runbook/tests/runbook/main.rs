//! Tests of the runbook engine: made-up actions in a made-up world, a clock that waits for nobody, and a journal that can
//! break at every append.

#![expect(clippy::unwrap_used, reason = "a test fails by it, in helpers too")]

mod faults;
mod harness;
mod journal;
mod kill;
mod operators;
mod outcomes;
mod properties;
mod rollback;
mod sigkill;
mod transcripts;
