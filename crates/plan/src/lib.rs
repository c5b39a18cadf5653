//! The plan file: text → typed [`Plan`] + located errors. Knows no other crate and does no I/O: the text, and the lookup of
//! late values, come from the caller.

mod language;
mod problem;
mod table;
mod values;

pub use language::*;
pub use problem::{PlanError, Position, Problem};
pub use values::*;

/// A plan that was read, checked, and had its defaults filled in.
///
/// Dereferences to its [`Body`]: `plan.components`, `plan.scenarios` and so on.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The plan file, as the caller named it. Relative paths in the plan are relative to its directory.
    pub file: String,
    /// The environment that was laid over it.
    pub environment: Option<String>,
    /// What it says.
    pub body: Body,
    /// The text of the file.
    text: String,
}

impl std::ops::Deref for Plan {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.body
    }
}
