//! Names: what they may look like, maps by name that keep their order, and suggestions for names that are unknown.

use std::fmt;

use serde_json::{Value as Json, json};

use crate::Position;
use crate::decode::{Decode, Object, Reader};
use crate::schema::Schemas;
use crate::suggest;
use crate::yaml::{Node, Value};

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
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator + Clone {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Gives the thing of a name, or what is known instead; `what` says what is looked for.
    pub fn find(&self, what: &'static str, name: &str) -> Result<&T, Unknown> {
        self.get(name).ok_or_else(|| Unknown::new(what, name, self.names()))
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
    /// The first names that there are.
    pub known: Vec<String>,
}

/// Most names that are listed for one that is unknown.
const KNOWN_MAX: usize = 20;

impl Unknown {
    pub(crate) fn new<'k>(
        what: &'static str,
        name: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) -> Self {
        let suggestion = suggest::closest(name, known.clone()).map(str::to_owned);
        Self {
            what,
            name: name.to_owned(),
            suggestion,
            known: known.take(KNOWN_MAX).map(str::to_owned).collect(),
        }
    }

    /// Says what is there instead.
    pub fn hint(&self) -> String {
        match (&self.suggestion, self.known.as_slice()) {
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, []) => "the plan has none".to_owned(),
            (None, known) => format!("there are: {}", known.join(", ")),
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "there is no {} `{}`; {}", self.what, self.name, self.hint())
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

/// Longest name; names become parts of paths in the repository.
const NAME_CHARS_MAX: usize = 64;

fn check_name(text: &str) -> Result<(), String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text.chars().next() {
        None => Err("it is empty".to_owned()),
        Some(_) if text.chars().count() > NAME_CHARS_MAX => {
            Err(format!("it is longer than {NAME_CHARS_MAX} characters"))
        }
        Some(first) if !first.is_ascii_alphanumeric() && first != '_' => {
            Err("it begins with neither a letter nor a digit".to_owned())
        }
        Some(_) => match text.chars().find(|c| !known(*c)) {
            Some(wrong) => Err(format!("{wrong:?} is not a letter, a digit, `-`, `_` or `.`")),
            None => Ok(()),
        },
    }
}

/// What names look like, for the schema.
const NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$";

impl Decode for Name {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        // A number would be another one when it is written another way: `1.0` and `1.00`.
        reader.text(node)?;
        let parse = |text: &str| check_name(text).map(|()| Self { text: text.to_owned(), at: node.at });
        reader.parsed(node, "a name", "web-1", parse)
    }

    fn encode(&self) -> Option<Json> {
        Some(self.text.as_str().into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "string", "pattern": NAME })
    }
}

impl<T: Decode> Decode for Named<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return reader.expected(node, "a mapping of names", "{ name: … }");
        };
        let mut named = Vec::new();
        for entry in entries {
            if let Err(why) = check_name(&entry.key) {
                let message = format!("`{}` is not a name: {why}", entry.key);
                reader.say_with_hint(entry.key_at, message, "for example web-1");
            }
            if let Some(thing) = T::decode(&entry.value, reader) {
                named.push((entry.key.clone(), thing));
            }
        }
        Some(Self(named))
    }

    fn encode(&self) -> Option<Json> {
        if self.is_empty() {
            return None;
        }
        let object: Object =
            self.iter().filter_map(|(name, thing)| Some((name.to_owned(), thing.encode()?))).collect();
        Some(Json::Object(object))
    }

    fn schema(schemas: &mut Schemas) -> Json {
        let things = T::schema(schemas);
        json!({ "type": "object", "propertyNames": { "pattern": NAME }, "additionalProperties": things })
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl Decode for Selection {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(text) = &node.value
            && text.text == "all"
        {
            return Some(Self::All);
        }
        super::OneOrMore::<Name>::decode(node, reader).map(|names| Self::These(names.0))
    }

    fn encode(&self) -> Option<Json> {
        match self {
            Self::All => Some("all".into()),
            Self::These(names) => names.encode(),
        }
    }

    fn schema(schemas: &mut Schemas) -> Json {
        super::OneOrMore::<Name>::schema(schemas)
    }
}

/// Databases of a server: `all` of them, or these by their own names, which may hold anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Databases {
    /// `all`.
    All,
    /// These. A database that is called `all` is written `[all]`.
    These(Vec<String>),
}

impl Decode for Databases {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(text) = &node.value
            && text.text == "all"
        {
            return Some(Self::All);
        }
        let names = super::OneOrMore::<String>::decode(node, reader)?.0;
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
            reader.say_with_hint(node.at, format!("the database `{twice}` is named twice"), "name it once");
            return None;
        }
        if names.is_empty() {
            reader.say_with_hint(node.at, "this names no database", "name one at least, or write `all`");
            return None;
        }
        Some(Self::These(names))
    }

    fn encode(&self) -> Option<Json> {
        match self {
            Self::All => Some("all".into()),
            Self::These(names) => names.encode(),
        }
    }

    fn schema(schemas: &mut Schemas) -> Json {
        super::OneOrMore::<String>::schema(schemas)
    }
}
