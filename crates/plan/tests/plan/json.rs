//! What the schema's tests need: YAML as JSON, and a validator for the keywords that our schema uses. It panics at a
//! keyword that it does not know, so that no rule of the schema goes unlooked at.

use std::collections::BTreeMap;
use std::sync::Mutex;

use regex::Regex;
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value, json};

/// Reads a small, valid YAML document (without aliases) as JSON.
pub fn of_yaml(text: &str) -> Value {
    let mut events = Parser::new_from_str(text).map(|event| event.expect("it is YAML").0).peekable();
    while !matches!(events.peek(), Some(Event::DocumentStart(_))) {
        events.next();
    }
    events.next();
    value(&mut events)
}

fn value<'a>(events: &mut std::iter::Peekable<impl Iterator<Item = Event<'a>>>) -> Value {
    match events.next().expect("a value") {
        Event::Scalar(text, ScalarStyle::Plain, ..) => plain(&text),
        Event::Scalar(text, ..) => text.into_owned().into(),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            while !matches!(events.peek(), Some(Event::SequenceEnd)) {
                items.push(value(events));
            }
            events.next();
            items.into()
        }
        Event::MappingStart(..) => {
            let mut object = Map::new();
            while !matches!(events.peek(), Some(Event::MappingEnd)) {
                let Some(Event::Scalar(key, ..)) = events.next() else { panic!("a key is text") };
                object.insert(key.into_owned(), value(events));
            }
            events.next();
            object.into()
        }
        event => panic!("{event:?}"),
    }
}

fn plain(text: &str) -> Value {
    match text {
        "~" | "null" | "" => Value::Null,
        "true" => true.into(),
        "false" => false.into(),
        _ if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => text.into(),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => whole.into(),
            (_, Ok(number)) => json!(number),
            _ => text.into(),
        },
    }
}

/// Tells whether a value is valid under a schema.
pub fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(rules) = schema else { return schema.as_bool().expect("a schema") };
    rules.iter().all(|(keyword, rule)| holds(root, rules, keyword, rule, value))
}

fn holds(root: &Value, rules: &Map<String, Value>, keyword: &str, rule: &Value, value: &Value) -> bool {
    let valid = |schema: &Value, value: &Value| is_valid(root, schema, value);
    let each =
        || rule.as_array().expect("a list of schemas").iter().filter(|schema| valid(schema, value)).count();
    let object = value.as_object();
    match keyword {
        "$ref" => {
            let pointer = rule.as_str().and_then(|text| text.strip_prefix('#')).expect("a reference to here");
            valid(root.pointer(pointer).expect("what is referred to is there"), value)
        }
        "anyOf" => each() > 0,
        "oneOf" => each() == 1,
        "allOf" => each() == rule.as_array().expect("a list").len(),
        "not" => !valid(rule, value),
        "enum" => rule.as_array().expect("a list").contains(value),
        "const" => rule == value,
        "type" => match rule {
            Value::String(name) => has_type(value, name),
            names => names
                .as_array()
                .expect("a list")
                .iter()
                .any(|name| has_type(value, name.as_str().expect("text"))),
        },
        "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().expect("text"), text)),
        "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().expect("a number")),
        "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().expect("a number")),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| valid(rule, item))),
        "minItems" => {
            value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().expect("a number"))
        }
        "required" => {
            let keys = rule.as_array().expect("a list");
            object
                .is_none_or(|object| keys.iter().all(|key| object.contains_key(key.as_str().expect("text"))))
        }
        "properties" => object.is_none_or(|object| {
            let rules = rule.as_object().expect("an object");
            object.iter().all(|(key, value)| rules.get(key).is_none_or(|schema| valid(schema, value)))
        }),
        "additionalProperties" => object.is_none_or(|object| {
            let known = rules.get("properties").and_then(Value::as_object);
            let mut others =
                object.iter().filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)));
            others.all(|(_, value)| valid(rule, value))
        }),
        "propertyNames" => {
            object.is_none_or(|object| object.keys().all(|key| valid(rule, &key.as_str().into())))
        }
        "dependentSchemas" => object.is_none_or(|object| {
            let rules = rule.as_object().expect("an object");
            rules.iter().all(|(key, schema)| !object.contains_key(key) || valid(schema, value))
        }),
        "description" | "default" | "title" | "$schema" | "$defs" => true,
        unknown => panic!("the schema uses {unknown}, which its tests cannot judge"),
    }
}

/// Compiles each pattern once: the tests ask a million times.
fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().expect("no test panics in here");
    let compile = || Regex::new(pattern).expect("a pattern");
    compiled.entry(pattern.to_owned()).or_insert_with(compile).is_match(text)
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        unknown => panic!("no type is called {unknown}"),
    }
}
