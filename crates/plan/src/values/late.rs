//! Values that are looked up late, when they are needed, so that they are never in the plan: `${env:NAME}`, `${file:PATH}`; and
//! what is run: command lines and templates.

use std::fmt;

/// Text that may refer to values outside the plan.
///
/// `$${` stands for `${` itself. What it shows of itself is the text as it was written, never a value.
#[derive(Clone, PartialEq, Eq)]
pub struct Late {
    pub(crate) written: String,
    pub(crate) parts: Vec<Part>,
}

/// A piece of a late text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Reference(Reference),
}

/// One value outside the plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Where it is looked up.
    pub source: Source,
    /// Its name, or its path (relative to the plan file).
    pub name: String,
}

/// Where a late value is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// `${env:NAME}`: a variable of Lifeboat's own environment. Secret.
    Env,
    /// `${file:PATH}`: the content of a file, without the line ends at its end. Secret.
    File,
    /// `${host:NAME}`: something about the machine on which the recovery runs, such as `address` or `name`. Not secret.
    Host,
}

/// Finds the values of references; the caller's, because this crate reads neither environment nor files.
pub trait Lookup {
    /// Gives the value, or why there is none (without saying anything of a value).
    fn look_up(&self, reference: &Reference) -> Result<String, String>;
}

/// A late value that could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to resolve {reference}: {why}")]
pub struct LateError {
    /// What was looked for.
    pub reference: Reference,
    /// Why it was not found.
    pub why: String,
}

/// A value that shows itself only to those who [`expose`](Secret::expose) it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Gives the value, which the caller must show nowhere.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl Late {
    /// Makes a text that refers to nothing.
    pub fn literal(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { written: text.replace("${", "$${"), parts: vec![Part::Text(text)] }
    }

    /// Gives the text as it was written in the plan, references and all.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Gives the text if it refers to nothing.
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Gives what it refers to, in order.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reference(reference) => Some(reference),
            Part::Text(_) => None,
        })
    }

    /// Tells whether its value must be shown nowhere: it refers to the environment or to a file.
    pub fn is_secret(&self) -> bool {
        self.references().any(|reference| reference.source != Source::Host)
    }

    /// Looks up everything that it refers to and gives the whole text.
    ///
    /// Fails with the first reference that cannot be looked up.
    pub fn resolve(&self, lookup: &dyn Lookup) -> Result<Secret, LateError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(piece) => text.push_str(piece),
                Part::Reference(reference) => text.push_str(
                    &lookup
                        .look_up(reference)
                        .map_err(|why| LateError { reference: reference.clone(), why })?,
                ),
            }
        }
        Ok(Secret(text))
    }
}

impl fmt::Debug for Late {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Late({:?})", self.written)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::Env => "env",
            Source::File => "file",
            Source::Host => "host",
        };
        write!(formatter, "${{{source}:{}}}", self.name)
    }
}

/// A late text that must not be written out in the plan: a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretLate(pub(crate) Late);

impl std::ops::Deref for SecretLate {
    type Target = Late;

    fn deref(&self) -> &Late {
        &self.0
    }
}

/// A command as a plan writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// Text for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments, without a shell; never empty.
    Arguments(Vec<String>),
}

/// A shell command that is a minijinja template over the plan's values; kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub(crate) String);

impl Template {
    /// Gives the template as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
