//! The values that plans are made of: names, durations, sizes, late values, templates, schedules.

mod amounts;
mod commands;
mod every;
mod expected;
mod late;
mod names;
mod wrappers;

pub use amounts::{Bytes, Free, Percent, show_duration};
pub use commands::{CommandLine, TEMPLATE_NAMES, Template, TemplateError};
pub use every::{Cron, Every};
pub use expected::{HostPort, JsonExpression, Pattern, Scalar, Sha256, Status, TextMatch};
pub use late::{HOST_NAMES, Late, LateError, Lookup, Reference, Secret, SecretLate, Source};
pub use names::{Databases, Name, Named, Selection, Unknown};
pub use wrappers::{Flat, Given, OneOrMore, Version};
