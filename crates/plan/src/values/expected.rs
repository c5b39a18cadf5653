//! What checks expect: texts, statuses, expressions, digests; and where they ask.

use std::fmt;

/// What is expected of a text: `contains` is what plain text means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMatch {
    /// The text holds this somewhere.
    Contains(String),
    /// The text is this, white space at both ends aside.
    Equals(String),
    /// The text matches this regular expression somewhere.
    Regex(Pattern),
}

/// A regular expression that was compiled once, so that it is known to be valid. Syntax of the crate `regex`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub(crate) String);

impl Pattern {
    /// Gives the expression.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A JMESPath expression that was compiled once, so that it is known to be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonExpression(pub(crate) String);

impl JsonExpression {
    /// Gives the expression.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value as a query yields it, as it is written in the plan: `ok`, `42`, `true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar(pub(crate) String);

impl Scalar {
    /// Gives the value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A SHA-256 as 64 hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sha256(pub(crate) String);

impl Sha256 {
    /// Gives the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A status of HTTP, or a class of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Exactly this one.
    Is(u16),
    /// All with this first digit: 2 is `2xx`.
    Class(u8),
}

/// A host, by name or address, and a port: `localhost:5432`, `[::1]:22`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The name or address, without brackets.
    pub host: String,
    /// The port, from 1.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}
