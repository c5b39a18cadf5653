//! Values that are looked up late, when they are needed, so that they are never in the plan: `${env:NAME}`, `${file:PATH}`.

use std::fmt;

use serde_json::{Value as Json, json};

use crate::decode::{Decode, Reader};
use crate::schema::Schemas;
use crate::yaml::{Node, Value};

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

impl Late {
    /// Parses a text with references.
    ///
    /// Says what is wrong with one: an unknown source, no name, no end. `${NAME}` is no reference and an error, because it
    /// would look like one that works.
    pub fn parse(written: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = written;
        while let Some(start) = rest.find("${") {
            if rest[..start].ends_with('$') {
                text.push_str(&rest[..start - 1]);
                text.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            text.push_str(&rest[..start]);
            let (inside, after) =
                rest[start + 2..].split_once('}').ok_or_else(|| "a `${` has no `}`".to_owned())?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Reference(Reference::parse(inside)?));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { written: written.to_owned(), parts })
    }
}

impl Reference {
    fn parse(inside: &str) -> Result<Self, String> {
        let (source, name) = inside.split_once(':').unwrap_or((inside, ""));
        let source = match source {
            "env" => Source::Env,
            "file" => Source::File,
            "host" => Source::Host,
            _ => {
                return Err(format!(
                    "`${{{inside}}}` is none of `${{env:NAME}}`, `${{file:PATH}}`, `${{host:NAME}}`"
                ));
            }
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match source {
            _ if name.is_empty() => Err(format!("`${{{inside}}}` names nothing")),
            Source::Env if !name.chars().all(plain) => Err(format!("`{name}` is no name of a variable")),
            Source::Host if !HOST_NAMES.contains(&name) => {
                Err(format!("of a host there are {}, and not `{name}`", HOST_NAMES.join(" and ")))
            }
            _ => Ok(Self { source, name: name.to_owned() }),
        }
    }
}

/// What `${host:…}` can name.
pub const HOST_NAMES: [&str; 2] = ["address", "name"];

/// What stands for `${` itself, for hints.
const ESCAPE: &str = "to write `${` itself, write `$${`";

impl Decode for Late {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        // Numbers and truth values as they were written: variables of an environment are often both.
        let text = reader.scalar(node, "text", "\"some text\" or ${env:NAME}")?;
        match Self::parse(text) {
            Ok(late) => Some(late),
            Err(why) => {
                reader.say_with_hint(node.at, why, ESCAPE);
                None
            }
        }
    }

    fn encode(&self) -> Option<Json> {
        Some(self.written.as_str().into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

impl Decode for SecretLate {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let before = reader.findings.len();
        let late = Late::decode(node, reader).filter(|late| {
            let named = late.is_secret() && late.parts.iter().all(|part| matches!(part, Part::Reference(_)));
            if !named {
                let hint = "name where it is: ${file:/etc/lifeboat/password} or ${env:LIFEBOAT_PASSWORD}";
                reader.say_with_hint(node.at, "a password is not written in a plan", hint);
            }
            named
        });
        // Whatever is wrong with it, it may be a password.
        if matches!(node.value, Value::Scalar(_)) {
            for finding in &mut reader.findings[before..] {
                finding.masked = true;
            }
        }
        late.map(Self)
    }

    fn encode(&self) -> Option<Json> {
        self.0.encode()
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "string", "pattern": "^(\\$\\{(env|file|host):[^}]+\\})+$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    impl Lookup for Known {
        fn look_up(&self, reference: &Reference) -> Result<String, String> {
            match (reference.source, reference.name.as_str()) {
                (Source::Env, "TOKEN") => Ok("s3cret".to_owned()),
                (Source::Host, "address") => Ok("192.0.2.7".to_owned()),
                _ => Err("it is not set".to_owned()),
            }
        }
    }

    #[test]
    fn references_are_resolved_and_escapes_are_undone() {
        let cases = [
            ("plain", "plain", false),
            ("", "", false),
            ("Bearer ${env:TOKEN}!", "Bearer s3cret!", true),
            ("${host:address}", "192.0.2.7", false),
            ("${env:TOKEN}${env:TOKEN}", "s3crets3cret", true),
            ("$${env:TOKEN} costs $5", "${env:TOKEN} costs $5", false),
        ];
        for (written, resolved, secret) in cases {
            let late = Late::parse(written).expect(written);
            assert_eq!(late.resolve(&Known).expect(written).expose(), resolved);
            assert_eq!(late.is_secret(), secret, "{written}");
            assert_eq!(late.written(), written);
        }
        let literal = Late::literal("a ${b}");
        assert_eq!(literal.as_literal(), Some("a ${b}"));
        assert_eq!(Late::parse(literal.written()).expect("it was escaped"), literal);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for written in [
            "${TOKEN}",
            "${env:}",
            "${env:A B}",
            "${env:A",
            "${host:colour}",
            "${vault:x}",
            "${}",
            "${env:A-B}",
        ] {
            assert!(Late::parse(written).is_err(), "{written}");
        }
    }

    #[test]
    fn a_value_is_shown_nowhere() {
        let late = Late::parse("Bearer ${env:TOKEN}").expect("a reference");
        let secret = late.resolve(&Known).expect("it is known");
        assert_eq!(format!("{secret:?} {late:?}"), "Secret(…) Late(\"Bearer ${env:TOKEN}\")");
        let error =
            Late::parse("${env:OTHER}").expect("a reference").resolve(&Known).expect_err("it is unknown");
        assert_eq!(error.to_string(), "failed to resolve ${env:OTHER}: it is not set");
    }
}
