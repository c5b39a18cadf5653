//! Records and choices: what the tables of `table` expand to. How keys are taken from a mapping, which ones are unknown,
//! missing or of another kind, and how all of that is described.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::Position;
use crate::decode::{Object, Reader};
use crate::schema::Schemas;
use crate::suggest;
use crate::yaml::{Entry, Node, Value};

/// A mapping with known keys; implemented by `record!` only.
pub trait Record: Sized {
    const WHAT: &'static str;
    const ABOUT: &'static [&'static str];
    /// The key that anything but a mapping is the value of.
    const SHORT: Option<&'static str>;

    fn keys(keys: &mut Keys);
    fn from_fields(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<Self>;
    fn put_fields(&self, object: &mut Object);
    fn describe_fields(schemas: &mut Schemas) -> RecordSchema;
}

/// One of several records; implemented by `choice!` only.
pub trait Choice: Sized + 'static {
    const WHAT: &'static str;
    /// Keys of kinds that are known and not yet supported.
    const LATER: &'static [&'static str];
    const VARIANTS: &'static [Variant<Self>];

    fn put_variant(&self, object: &mut Object);
}

/// One of the records of a choice.
pub struct Variant<C> {
    /// Keys of which any shows that it is this one.
    pub told_by: &'static [&'static str],
    pub keys: fn(&mut Keys),
    pub from_fields: fn(&mut Fields<'_>, &mut Reader) -> Option<C>,
    pub describe: fn(&mut Schemas) -> RecordSchema,
}

/// The keys that a record knows.
#[derive(Default)]
pub struct Keys {
    pub own: Vec<&'static str>,
    /// Those of the variants of its choices, of which only some may be there.
    pub of_choices: Vec<&'static str>,
    /// Those of its choices that are not yet supported.
    pub later: Vec<&'static str>,
}

/// A mapping while a record is read from it.
pub struct Fields<'n> {
    what: &'static str,
    at: Position,
    entries: Cow<'n, [Entry]>,
    own: Vec<&'static str>,
    /// Whether there were keys that nobody knows, and which ones were probably meant by them.
    unknown: bool,
    meant: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Opens a mapping and tells which of its keys are unknown.
    pub fn open<R: Record>(node: &'n Node, reader: &mut Reader) -> Option<Self> {
        let entries: Cow<'n, [Entry]> = match (&node.value, R::SHORT) {
            (Value::Map(entries), _) => Cow::Borrowed(entries),
            (Value::Null, _) | (_, None) => {
                return reader.expected(node, "a mapping (`key: value`)", "{ key: value }");
            }
            (_, Some(short)) => {
                Cow::Owned(vec![Entry { key: short.to_owned(), key_at: node.at, value: node.clone() }])
            }
        };
        let mut keys = Keys::default();
        R::keys(&mut keys);
        let at = node.key_at.unwrap_or(node.at);
        let mut fields =
            Self { what: R::WHAT, at, entries, own: Vec::new(), unknown: false, meant: Vec::new() };
        fields.tell_unknown(&keys, reader);
        fields.own = keys.own;
        Some(fields)
    }

    fn tell_unknown(&mut self, keys: &Keys, reader: &mut Reader) {
        let known = || keys.own.iter().chain(&keys.of_choices).copied();
        for entry in self.entries.iter() {
            if known().chain(keys.later.iter().copied()).any(|key| key == entry.key) {
                continue;
            }
            self.unknown = true;
            let meant = suggest::closest(&entry.key, known());
            self.meant.extend(meant);
            let hint = match meant {
                _ if entry.key == "<<" => {
                    "merge keys (`<<`) are not part of YAML 1.2; use `environments`".to_owned()
                }
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known keys: {}", unique(known()).join(", ")),
            };
            let message = format!("{} has no key `{}`", with_article(self.what), entry.key);
            reader.say_with_hint(entry.key_at, message, hint);
        }
    }

    /// Where the record stands: its key, if it is the value of one.
    pub fn at(&self) -> Position {
        self.at
    }

    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    pub fn value(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// Tells that a key must be there; not if a misspelt one was told already.
    pub fn missing<T>(&self, key: &'static str, reader: &mut Reader) -> Option<T> {
        if !self.meant.contains(&key) {
            reader.say(self.at, format!("this {} needs the key `{key}`", self.what));
        }
        None
    }
}

fn with_article(what: &str) -> String {
    let article = if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {what}")
}

fn unique<'k>(keys: impl Iterator<Item = &'k str>) -> Vec<&'k str> {
    let mut unique = Vec::new();
    for key in keys {
        if !unique.contains(&key) {
            unique.push(key);
        }
    }
    unique
}

/// Reads a record.
pub fn decode<R: Record>(node: &Node, reader: &mut Reader) -> Option<R> {
    let mut fields = Fields::open::<R>(node, reader)?;
    R::from_fields(&mut fields, reader)
}

/// Writes a record.
pub fn encode<R: Record>(record: &R) -> Json {
    let mut object = Object::new();
    record.put_fields(&mut object);
    Json::Object(object)
}

/// Tells whether any variant of a choice is there, also one that is not yet supported.
pub fn is_there<C: Choice>(fields: &Fields<'_>) -> bool {
    told_by::<C>().chain(C::LATER.iter().copied()).any(|key| fields.has(key))
}

fn told_by<C: Choice>() -> impl Iterator<Item = &'static str> {
    C::VARIANTS.iter().flat_map(|variant| variant.told_by.iter().copied())
}

/// Reads a choice: exactly one of its variants must be there, and no key of another.
pub fn take<C: Choice>(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<C> {
    let what = fields.what;
    let later: Vec<&Entry> =
        fields.entries.iter().filter(|entry| C::LATER.contains(&entry.key.as_str())).collect();
    for entry in &later {
        let hint = format!("supported: {}", told_by::<C>().collect::<Vec<_>>().join(", "));
        reader.say_with_hint(
            entry.key_at,
            format!("{}: `{}` is not yet supported", C::WHAT, entry.key),
            hint,
        );
    }
    if !later.is_empty() {
        return None;
    }
    let there = |variant: &&Variant<C>| variant.told_by.iter().any(|key| fields.has(key));
    let chosen: Vec<&Variant<C>> = C::VARIANTS.iter().filter(there).collect();
    let &[variant] = chosen.as_slice() else {
        return none_or_several::<C>(fields, &chosen, reader);
    };
    let mut keys = Keys::default();
    (variant.keys)(&mut keys);
    let others = of_choice::<C>();
    for entry in fields.entries.iter() {
        let key = entry.key.as_str();
        if others.contains(&key) && !keys.own.contains(&key) && !fields.own.contains(&key) {
            let message = format!("`{key}` does not go with `{}`", variant.told_by[0]);
            let what = with_article(what);
            let hint = format!("with `{}` {what} has: {}", variant.told_by[0], keys.own.join(", "));
            reader.say_with_hint(entry.key_at, message, hint);
        }
    }
    (variant.from_fields)(fields, reader)
}

fn none_or_several<C: Choice>(fields: &Fields<'_>, chosen: &[&Variant<C>], reader: &mut Reader) -> Option<C> {
    let what = fields.what;
    if chosen.is_empty() {
        // A key that nobody knows was told already, and was probably meant.
        if !fields.unknown {
            // A key that belongs to another variant may have been meant to tell this one: `file` for `files`.
            let meant = fields.entries.iter().find_map(|entry| suggest::closest(&entry.key, told_by::<C>()));
            let hint = match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("one of: {}", told_by::<C>().collect::<Vec<_>>().join(", ")),
            };
            reader.say_with_hint(fields.at, format!("this {what} says no {}", C::WHAT), hint);
        }
        return None;
    }
    let keys: Vec<&Entry> =
        fields.entries.iter().filter(|entry| told_by::<C>().any(|key| key == entry.key)).collect();
    let names: Vec<String> = keys.iter().map(|entry| format!("`{}`", entry.key)).collect();
    let message = format!("this {what} says more than one {}: {}", C::WHAT, names.join(" and "));
    let at = keys.get(1).map_or(fields.at, |entry| entry.key_at);
    reader.say_with_hint(at, message, format!("make {} of each", with_article(what)));
    None
}

fn of_choice<C: Choice>() -> Vec<&'static str> {
    let mut all = Keys::default();
    add_keys::<C>(&mut all);
    all.of_choices
}

/// Adds the keys of all variants to those of the record around them.
pub fn add_keys<C: Choice>(keys: &mut Keys) {
    for variant in C::VARIANTS {
        let mut of_variant = Keys::default();
        (variant.keys)(&mut of_variant);
        keys.of_choices.extend(of_variant.own);
        keys.of_choices.extend(of_variant.of_choices);
    }
    keys.later.extend(C::LATER);
}

/// A field as its table declares it.
pub struct About<'a> {
    pub key: &'static str,
    /// Its documentation.
    pub lines: &'a [&'static str],
    /// Whether its key may be left out, whatever its type says.
    pub optional: bool,
}

/// A record as JSON Schema has to say it.
#[derive(Default)]
pub struct RecordSchema {
    pub properties: Object,
    pub required: Vec<&'static str>,
    pub choices: Vec<ChoiceSchema>,
}

/// A choice within a record.
pub struct ChoiceSchema {
    pub optional: bool,
    /// What tells each variant, and what it needs and has.
    pub variants: Vec<(&'static [&'static str], RecordSchema)>,
}

impl RecordSchema {
    /// Adds a field.
    pub fn property(&mut self, about: &About<'_>, schema: Json, default: Option<Json>, required: bool) {
        let mut property = match schema {
            Json::Object(object) => object,
            _ => Object::new(),
        };
        property.insert("description".to_owned(), prose(about.lines).into());
        if let Some(default) = default {
            property.insert("default".to_owned(), default);
        }
        self.properties.insert(about.key.to_owned(), Json::Object(property));
        if required {
            self.required.push(about.key);
        }
    }

    /// Adds a choice.
    pub fn choice<C: Choice>(&mut self, about: &About<'_>, schemas: &mut Schemas) {
        let variants =
            C::VARIANTS.iter().map(|variant| (variant.told_by, (variant.describe)(schemas))).collect();
        self.choices.push(ChoiceSchema { optional: about.optional, variants });
    }

    /// Adds all that another record has.
    pub fn absorb(&mut self, other: RecordSchema) {
        self.properties.extend(other.properties);
        self.required.extend(other.required);
        self.choices.extend(other.choices);
    }
}

/// Makes one text of a documentation comment.
pub fn prose(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ").trim().to_owned()
}

/// Implements `Decode` for a record.
macro_rules! decode_as_record {
    ($name:ident) => {
        impl $crate::decode::Decode for $name {
            fn decode(node: &$crate::yaml::Node, reader: &mut $crate::decode::Reader) -> Option<Self> {
                $crate::record::decode(node, reader)
            }

            fn encode(&self) -> Option<serde_json::Value> {
                Some($crate::record::encode(self))
            }

            fn schema(schemas: &mut $crate::schema::Schemas) -> serde_json::Value {
                schemas.record::<Self>()
            }
        }
    };
}

/// Implements `Decode` for a choice, whose keys stand among those of its record.
macro_rules! decode_as_choice {
    ($name:ident) => {
        impl $crate::decode::Decode for $name {
            fn decode(node: &$crate::yaml::Node, reader: &mut $crate::decode::Reader) -> Option<Self> {
                reader.expected(node, "a mapping", "{ key: value }")
            }

            fn encode(&self) -> Option<serde_json::Value> {
                let mut object = $crate::decode::Object::new();
                $crate::record::Choice::put_variant(self, &mut object);
                Some(serde_json::Value::Object(object))
            }

            fn schema(_: &mut $crate::schema::Schemas) -> serde_json::Value {
                serde_json::Value::Bool(false)
            }

            fn take(
                fields: &mut $crate::record::Fields<'_>,
                _: &'static str,
                _: Option<&dyn Fn() -> Self>,
                reader: &mut $crate::decode::Reader,
            ) -> Option<Self> {
                $crate::record::take(fields, reader)
            }

            fn is_there(fields: &$crate::record::Fields<'_>, _: &'static str) -> bool {
                $crate::record::is_there::<Self>(fields)
            }

            fn put(&self, _: &'static str, object: &mut $crate::decode::Object) {
                $crate::record::Choice::put_variant(self, object);
            }

            fn keys(_: &'static str, keys: &mut $crate::record::Keys) {
                $crate::record::add_keys::<Self>(keys);
            }

            fn describe(
                about: &$crate::record::About<'_>,
                _: Option<Self>,
                record: &mut $crate::record::RecordSchema,
                schemas: &mut $crate::schema::Schemas,
            ) {
                record.choice::<Self>(about, schemas);
            }
        }
    };
}

pub(crate) use {decode_as_choice, decode_as_record};
