//! Wrappers that say how a value came into the plan: given or by default, one or several, nested or not.

use std::fmt;
use std::ops::Deref;

use serde_json::{Value as Json, json};

use crate::decode::{Decode, Object, Reader};
use crate::record::{About, Fields, Keys, Record, RecordSchema};
use crate::schema::Schemas;
use crate::yaml::{Node, Value};

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
    pub const fn by_plan(value: T) -> Self {
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

impl<T: Decode> fmt::Display for Given<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value.encode() {
            Some(Json::String(text)) => formatter.write_str(&text)?,
            Some(json) => write!(formatter, "{json}")?,
            None => formatter.write_str("nothing")?,
        }
        formatter.write_str(if self.is_default { ", the default" } else { "" })
    }
}

impl<T: Decode> Decode for Given<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        T::decode(node, reader).map(Self::by_plan)
    }

    fn encode(&self) -> Option<Json> {
        self.value.encode()
    }

    fn schema(schemas: &mut Schemas) -> Json {
        T::schema(schemas)
    }
}

impl<T: Decode> Decode for OneOrMore<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::decode(node, reader).map(Self),
            _ => T::decode(node, reader).map(|one| Self(vec![one])),
        }
    }

    fn encode(&self) -> Option<Json> {
        self.0.encode()
    }

    fn schema(schemas: &mut Schemas) -> Json {
        let one = T::schema(schemas);
        json!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl<T: Record + Decode> Decode for Flat<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        T::decode(node, reader).map(Self)
    }

    fn encode(&self) -> Option<Json> {
        self.0.encode()
    }

    fn schema(schemas: &mut Schemas) -> Json {
        T::schema(schemas)
    }

    fn take(
        fields: &mut Fields<'_>,
        _: &'static str,
        _: Option<&dyn Fn() -> Self>,
        reader: &mut Reader,
    ) -> Option<Self> {
        T::from_fields(fields, reader).map(Self)
    }

    fn put(&self, _: &'static str, object: &mut Object) {
        self.0.put_fields(object);
    }

    fn keys(_: &'static str, keys: &mut Keys) {
        <T as Record>::keys(keys);
    }

    fn describe(_: &About<'_>, _: Option<Self>, record: &mut RecordSchema, schemas: &mut Schemas) {
        record.absorb(T::describe_fields(schemas));
    }
}

impl Decode for Version {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "the version of the plan language", "1")?;
        if text == "1" {
            return Some(Self);
        }
        let message =
            format!("this plan is written in version `{text}` of the plan language, and 1 is known");
        reader.say_with_hint(node.at, message, "write `lifeboat: 1`, or use a newer Lifeboat");
        None
    }

    fn encode(&self) -> Option<Json> {
        Some(1.into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "const": 1 })
    }
}
