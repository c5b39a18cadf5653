//! Names: what they may look like, maps by name that keep their order, and suggestions for names that are unknown.

use std::fmt;

use crate::Position;

/// A name in a plan: letters, digits, `-`, `_` and `.`, beginning with a letter or a digit, at most 64 long.
///
/// It knows where it stands; two names are equal if they read the same.
#[derive(Debug, Clone)]
pub struct Name {
    pub(crate) text: String,
    pub(crate) at: Position,
}

impl Name {
    /// Gives the name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Gives where it stands in the plan file.
    pub fn at(&self) -> Position {
        self.at
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Name {}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Things by name, in the order in which the plan has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Named<T>(pub(crate) Vec<(String, T)>);

impl<T> Named<T> {
    /// Gives the thing of a name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, thing)| thing)
    }

    /// Gives all names and things, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &T)> + ExactSizeIterator {
        self.0.iter().map(|(name, thing)| (name.as_str(), thing))
    }

    /// Gives all names, in order.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Counts.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A name that a person or a plan used and that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unknown {
    /// What was looked for: `component`, `scenario` and so on.
    pub what: &'static str,
    /// The name that was used.
    pub name: String,
    /// The name that was probably meant.
    pub suggestion: Option<String>,
    /// All names that there are.
    pub known: Vec<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "there is no {} `{}`", self.what, self.name)?;
        match (&self.suggestion, self.known.as_slice()) {
            (Some(meant), _) => write!(formatter, "; did you mean `{meant}`?"),
            (None, []) => write!(formatter, "; the plan has none"),
            (None, known) => write!(formatter, "; there are {}", known.join(", ")),
        }
    }
}

/// Some things by name, or all there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// `all`.
    All,
    /// These, in this order.
    These(Vec<Name>),
}
