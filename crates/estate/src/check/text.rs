//! Comparing texts with what is expected of them, and showing them in an answer.

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::Invalid;
use crate::secrets::Secrets;

/// How much of a text an answer shows.
const SHOWN_CHARS_MAX: usize = 400;

/// What is expected of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextMatch {
    /// The text holds this somewhere.
    Contains(String),
    /// The text is this, white space at both ends aside.
    Equals(String),
    /// The text matches this regular expression somewhere (syntax of the crate `regex`: linear time, no look-around).
    Regex(String),
}

/// A [`TextMatch`] whose expression has been compiled.
#[derive(Debug, Clone)]
pub(super) enum Matcher {
    Contains(String),
    Equals(String),
    Regex(Regex),
}

impl Matcher {
    /// Compiles an expectation; an empty one would hold for everything and is refused.
    pub(super) fn new(expected: &TextMatch) -> Result<Matcher, Invalid> {
        Ok(match expected {
            TextMatch::Contains(part) if part.is_empty() => return Err(Invalid::EmptyText),
            TextMatch::Contains(part) => Matcher::Contains(part.clone()),
            TextMatch::Equals(whole) => Matcher::Equals(whole.trim().to_owned()),
            TextMatch::Regex(pattern) => {
                let regex = Regex::new(pattern)
                    .map_err(|error| Invalid::Regex { pattern: pattern.clone(), why: error.to_string() })?;
                if regex.is_match("") {
                    return Err(Invalid::RegexOfAnything { pattern: pattern.clone() });
                }
                Matcher::Regex(regex)
            }
        })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Matcher::Contains(part) => text.contains(part.as_str()),
            Matcher::Equals(whole) => text.trim() == whole,
            Matcher::Regex(regex) => regex.is_match(text),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Matcher::Contains(part) => format!("contains {part:?}"),
            Matcher::Equals(whole) => format!("is {whole:?}"),
            Matcher::Regex(regex) => format!("matches /{regex}/"),
        }
    }
}

/// Makes a text fit to be shown: secrets out, one line, no control characters, bounded.
///
/// In this order: a text that was cut first could end in half a secret, which would no longer be found.
pub(super) fn presentable(secrets: &Secrets, text: &str) -> String {
    let masked = secrets.mask(text);
    let masked = masked.trim();
    if masked.is_empty() {
        return "nothing".into();
    }
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = masked.chars().take(SHOWN_CHARS_MAX).map(clean).collect();
    if masked.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
