//! Reading single values out of the tree, writing them again, and describing them; and the reader that collects what is
//! wrong. Records and choices are in `record`.

use serde_json::{Map, Value as Json, json};

use crate::Position;
use crate::problem::Finding;
use crate::record::{About, Fields, Keys, RecordSchema};
use crate::schema::Schemas;
use crate::suggest;
use crate::yaml::{self, Node, Text, Value};

/// A JSON object.
pub type Object = Map<String, Json>;

/// Collects what is wrong with a plan while it is read.
#[derive(Default)]
pub struct Reader {
    pub findings: Vec<Finding>,
}

/// A value of the language. What cannot be read is told to the reader and is `None`.
pub trait Decode: Sized {
    /// Reads it.
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self>;

    /// Writes it so that it can be read again; `None` if there is nothing to write.
    fn encode(&self) -> Option<Json>;

    /// Describes it as JSON Schema.
    fn schema(schemas: &mut Schemas) -> Json;

    /// What it is when its key is not there and no default is declared; `None` if its key must be there.
    fn absent() -> Option<Self> {
        None
    }

    /// Reads it as a field of a record.
    fn take(
        fields: &mut Fields<'_>,
        key: &'static str,
        default: Option<&dyn Fn() -> Self>,
        reader: &mut Reader,
    ) -> Option<Self> {
        match fields.value(key) {
            Some(node) => Self::decode(node, reader),
            None => {
                default.map(|default| default()).or_else(Self::absent).or_else(|| fields.missing(key, reader))
            }
        }
    }

    /// Tells whether its field is there at all.
    fn is_there(fields: &Fields<'_>, key: &'static str) -> bool {
        fields.has(key)
    }

    /// Writes it as a field of a record.
    fn put(&self, key: &'static str, object: &mut Object) {
        if let Some(json) = self.encode() {
            object.insert(key.to_owned(), json);
        }
    }

    /// Adds its keys to those of its record.
    fn keys(key: &'static str, keys: &mut Keys) {
        keys.own.push(key);
    }

    /// Describes it as a field of a record.
    fn describe(about: &About<'_>, default: Option<Self>, record: &mut RecordSchema, schemas: &mut Schemas) {
        let required = !about.optional && default.is_none() && Self::absent().is_none();
        let default = default.and_then(|default| default.encode());
        let schema = Self::schema(schemas);
        record.property(about, schema, default, required);
    }
}

impl Reader {
    /// Notes what is wrong.
    pub fn say(&mut self, at: Position, message: impl Into<String>) {
        self.findings.push(Finding::new(at, message.into()));
    }

    /// Notes what is wrong and what to do.
    pub fn say_with_hint(&mut self, at: Position, message: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding::new(at, message.into()).hint(hint.into()));
    }

    /// Notes that something else was expected.
    pub fn expected<T>(&mut self, node: &Node, what: &str, example: &str) -> Option<T> {
        let hint = format!("for example {example}");
        match &node.value {
            Value::Null => {
                let at = node.key_at.unwrap_or(node.at);
                let message = format!("this needs {what}, and nothing is there");
                self.say_with_hint(at, message, "write a value, or leave the key out");
            }
            _ => self.say_with_hint(node.at, format!("expected {what}, found {}", node.kind()), hint),
        }
        None
    }

    /// Reads text as such: quoted, or plain and neither a number nor a truth value.
    pub fn text<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(Text { text, plain }) => {
                if *plain && (yaml::is_number(text) || yaml::truth(text).is_some()) {
                    let message = format!("expected text, found {}", node.kind());
                    self.say_with_hint(node.at, message, format!("quote it to make it text: \"{text}\""));
                    return None;
                }
                Some(text)
            }
            _ => self.expected(node, "text", "\"some text\""),
        }
    }

    /// Reads any scalar as it was written.
    pub fn scalar<'n>(&mut self, node: &'n Node, what: &str, example: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(Text { text, .. }) => Some(text),
            _ => self.expected(node, what, example),
        }
    }

    /// Reads one of several words.
    pub fn word<T: Copy>(&mut self, node: &Node, what: &str, all: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
        let written = self.scalar(node, what, words.first().copied().unwrap_or_default())?;
        if let Some((_, value)) = all.iter().find(|(word, _)| *word == written) {
            return Some(*value);
        }
        let hint = match suggest::closest(written, words.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("one of: {}", words.join(", ")),
        };
        self.say_with_hint(node.at, format!("`{written}` is no {what}"), hint);
        None
    }

    /// Reads a value whose text is parsed by a function that says what is wrong.
    pub fn parsed<T>(
        &mut self,
        node: &Node,
        what: &str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.scalar(node, what, example)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.say_with_hint(
                    node.at,
                    format!("`{text}` is not {what}: {why}"),
                    format!("for example {example}"),
                );
                None
            }
        }
    }
}

impl Decode for bool {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Scalar(Text { text, plain: true }) = &node.value else {
            return reader.expected(node, "true or false", "true");
        };
        if let Some(truth) = yaml::truth(text) {
            return Some(truth);
        }
        let lower = text.to_ascii_lowercase();
        let meant = match lower.as_str() {
            "yes" | "on" | "y" => Some(true),
            "no" | "off" | "n" => Some(false),
            _ => None,
        };
        match meant {
            Some(meant) => {
                let message = format!("expected true or false, found the text `{text}`");
                reader.say_with_hint(
                    node.at,
                    message,
                    format!("in YAML 1.2 `{text}` is text; write {meant}"),
                );
                None
            }
            None => reader.expected(node, "true or false", "true"),
        }
    }

    fn encode(&self) -> Option<Json> {
        Some((*self).into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "boolean" })
    }
}

impl Decode for String {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.text(node)?;
        if text.trim().is_empty() {
            reader.say_with_hint(node.at, "this text is empty", "write something, or leave the key out");
            return None;
        }
        Some(text.to_owned())
    }

    fn encode(&self) -> Option<Json> {
        Some(self.as_str().into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "string", "pattern": "\\S" })
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        T::decode(node, reader).map(Some)
    }

    fn encode(&self) -> Option<Json> {
        self.as_ref().and_then(T::encode)
    }

    fn schema(schemas: &mut Schemas) -> Json {
        T::schema(schemas)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn take(
        fields: &mut Fields<'_>,
        key: &'static str,
        _: Option<&dyn Fn() -> Self>,
        reader: &mut Reader,
    ) -> Option<Self> {
        match T::is_there(fields, key) {
            true => T::take(fields, key, None, reader).map(Some),
            false => Some(None),
        }
    }

    fn put(&self, key: &'static str, object: &mut Object) {
        if let Some(value) = self {
            value.put(key, object);
        }
    }

    fn keys(key: &'static str, keys: &mut Keys) {
        T::keys(key, keys);
    }

    fn describe(about: &About<'_>, _: Option<Self>, record: &mut RecordSchema, schemas: &mut Schemas) {
        T::describe(&About { optional: true, ..*about }, None, record, schemas);
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return reader.expected(node, "a list", "[ … ], or one line with `- ` for each element");
        };
        // What cannot be read is told, and left out: the rest can still be checked.
        Some(items.iter().filter_map(|item| T::decode(item, reader)).collect())
    }

    fn encode(&self) -> Option<Json> {
        if self.is_empty() {
            return None;
        }
        Some(Json::Array(self.iter().filter_map(T::encode).collect()))
    }

    fn schema(schemas: &mut Schemas) -> Json {
        let items = T::schema(schemas);
        json!({ "type": "array", "items": items })
    }

    fn absent() -> Option<Self> {
        Some(Vec::new())
    }
}

/// Whole numbers, each with its bounds.
macro_rules! whole {
    ($($type:ty),+) => {$(
        impl Decode for $type {
            fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
                let Value::Scalar(Text { text, plain: true }) = &node.value else {
                    return reader.expected(node, "a whole number", "3");
                };
                if !yaml::is_number(text) {
                    return reader.expected(node, "a whole number", "3");
                }
                let (least, most) = (<$type>::MIN, <$type>::MAX);
                let number = text.parse::<$type>().ok();
                if number.is_none() {
                    reader.say(node.at, format!("`{text}` is not a whole number from {least} to {most}"));
                }
                number
            }

            fn encode(&self) -> Option<Json> {
                Some((*self).into())
            }

            fn schema(_: &mut Schemas) -> Json {
                json!({ "type": "integer", "minimum": <$type>::MIN, "maximum": <$type>::MAX })
            }
        }
    )+};
}

whole!(u16, u32, i32);

impl Decode for f64 {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Scalar(Text { text, plain: true }) if yaml::is_number(text) => {
                let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
                if number.is_none() {
                    reader.say(node.at, format!("`{text}` is not a number that can be compared"));
                }
                number
            }
            _ => reader.expected(node, "a number", "3.5"),
        }
    }

    fn encode(&self) -> Option<Json> {
        Some(json!(self))
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "number" })
    }
}

impl Decode for Position {
    fn decode(node: &Node, _: &mut Reader) -> Option<Self> {
        Some(node.at)
    }

    fn encode(&self) -> Option<Json> {
        None
    }

    fn schema(_: &mut Schemas) -> Json {
        Json::Bool(false)
    }

    fn take(
        fields: &mut Fields<'_>,
        _: &'static str,
        _: Option<&dyn Fn() -> Self>,
        _: &mut Reader,
    ) -> Option<Self> {
        Some(fields.at())
    }

    fn keys(_: &'static str, _: &mut Keys) {}

    fn describe(_: &About<'_>, _: Option<Self>, _: &mut RecordSchema, _: &mut Schemas) {}
}
