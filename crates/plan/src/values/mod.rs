//! The values that plans are made of: names, durations, sizes, late values, templates, schedules.

mod amounts;
mod every;
mod expected;
mod late;
mod names;
mod wrappers;

pub use amounts::{Bytes, Free, Percent};
pub use every::{Cron, Every};
pub use expected::{HostPort, JsonExpression, Pattern, Scalar, Sha256, Status, TextMatch};
pub use late::{CommandLine, Late, LateError, Lookup, Reference, Secret, SecretLate, Source, Template};
pub use names::{Name, Named, Selection, Unknown};
pub use wrappers::{Flat, Given, OneOrMore, Version};
