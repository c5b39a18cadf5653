//! Wrappers that say how a value came into the plan: given or by default, one or several, nested or not.

use std::ops::Deref;

/// A value that has a default, and whether the plan gave it.
///
/// Two are equal if their values are. It shows itself as `10m` or `10m, the default`.
#[derive(Debug, Clone, Copy)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Whether it is the default, and the plan says nothing.
    pub is_default: bool,
}

impl<T> Given<T> {
    /// Wraps a default.
    pub const fn by_default(value: T) -> Self {
        Self { value, is_default: true }
    }

    /// Wraps what a plan gave.
    pub const fn given(value: T) -> Self {
        Self { value, is_default: false }
    }
}

impl<T> Deref for Given<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Given<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A list that may be written without brackets if it has one element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMore<T>(pub Vec<T>);

impl<T> Deref for OneOrMore<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> Default for OneOrMore<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A record whose keys stand among those of the record around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Flat<T>(pub T);

impl<T> Deref for Flat<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The version of the plan language: 1, and there is no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version;
