//! The use cases of Lifeboat: plain data in, plain data out; sentences and screens are the callers'.
//!
//! | module | what lives there |
//! |---|---|
//! | [`site`] | the plan, the repository, who asks from where: what every use case begins with |
//! | [`point`] | recovery points and the choice among them |
//! | [`protect`], [`proving`] | backing up by the plan; restore tests, negative drills |
//! | [`recover`], [`drill`] | a disaster answered, and rehearsed in a twin |
//! | [`log`] | points and logs together: the way to any instant |
//! | [`retain`], [`copies`] | which points go by the plan's `keep`; what its `copies` lack and get |
//! | [`ship`] | logs into the repository as they are written |
//! | [`diagnose`], [`status`] | what is wrong now; how ready one is |
//! | [`survey`], [`first_plan`] | what is on this machine, and a first plan for it |
//! | [`runs`] | the files and records of runs |
//! | [`handbook`] | the whole plan as a document, with the commands to type by hand |
//! | [`report`] | what one run did, showed and measured, for people and machines |
//! | [`wal`] | what a PostgreSQL server archives of its log and asks back |
//! | [`units`] | durations, sizes and counts as people read them, everywhere |
//! | `resolve` | from a scenario to a runbook, as plain data |
//! | `work`, `perform`, `backup`, `upkeep` | the steps of a runbook as data, and their effects |
//! | `drivers` | from the words of a plan to the drivers of the estate |
//! | `execute`, `copy_run` | running a runbook, and the copy of its journal in the repository |
//!
//! The way of the data: plan → `resolve` → runbook → `perform` → estate and repository; everything that happens is an
//! event in a journal, and everything that is shown is derived from events and records.

mod backup;
pub mod copies;
mod copy_run;
pub mod diagnose;
pub mod drill;
mod drivers;
mod error;
pub mod execute;
pub mod first_plan;
pub mod goal;
pub mod handbook;
pub mod log;
pub mod logs;
mod perform;
pub mod point;
mod preflight;
pub mod protect;
pub mod proving;
pub mod recover;
pub mod report;
pub mod resolve;
pub mod retain;
pub mod runs;
pub mod ship;
pub mod site;
pub mod status;
pub mod survey;
pub mod timeline;
pub mod units;
mod upkeep;
pub mod wal;
mod work;

pub use error::{Error, Result};
