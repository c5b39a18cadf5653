//! The plan file: text → typed [`Plan`] + located errors. Knows no other crate and does no I/O: the text, and the lookup of
//! late values, come from the caller.
//!
//! | module | what lives there |
//! |---|---|
//! | `language` | every type that a plan can hold, declared in tables |
//! | `values` | what those are made of: names, durations, late values, templates, schedules |
//! | `yaml` | text → a tree in which everything knows its place |
//! | `table`, `record`, `decode` | the tables' macros; reading, writing and describing by them |
//! | `validate` | what only the whole plan can tell: unknown names, cycles, checks that expect nothing |
//! | `warnings` | what is right and still unwise |
//! | `problem`, `suggest` | errors with their lines; "did you mean" |
//! | `schema` | the JSON Schema, made from the same tables |
//! | `questions` | what the engine asks a plan: boot order, what a scenario reaches, digests |

mod decode;
mod language;
mod parse;
mod problem;
mod questions;
mod record;
mod schema;
mod suggest;
mod table;
mod validate;
mod values;
mod warnings;
mod yaml;

pub use language::*;
pub use parse::Plan;
pub use problem::{PROBLEMS_MAX, PlanError, Position, Problem};
pub use questions::Reach;
pub use schema::schema;
pub use values::*;
pub use yaml::TEXT_BYTES_MAX;
