//! The JSON Schema of the plan language, made from the tables that read it.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::decode::{Decode, Object};
use crate::language::Body;
use crate::record::{ChoiceSchema, Record, RecordSchema, prose};

/// Gives the JSON Schema (2020-12) of a plan file, as pretty-printed text with a line end.
///
/// It knows all keys, types, words and defaults; references, cycles and expressions only [`Plan::parse`](crate::Plan::parse)
/// can check.
pub fn schema() -> String {
    let mut schemas = Schemas::default();
    let whole = Body::schema(&mut schemas);
    schemas.overlay = true;
    let overlay = Body::schema(&mut schemas);
    let environments = json!({
        "description": "What is different in other environments, by name: laid over the plan key by key; \
            `~` takes a key away.",
        "type": "object",
        "additionalProperties": overlay,
    });
    let plan = schemas.definitions.get_mut(&name_of(Body::WHAT, false)).expect("it was just described");
    plan["properties"]["environments"] = environments;
    let document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lifeboat.yaml",
        "$defs": schemas.definitions,
        "$ref": whole["$ref"],
    });
    let mut text = serde_json::to_string_pretty(&document).expect("what is JSON can be written");
    text.push('\n');
    text
}

/// The definitions of a schema while it is made.
#[derive(Default)]
pub struct Schemas {
    definitions: BTreeMap<String, Json>,
    /// Whether overlays are described: nothing is required, and everything can be taken away.
    overlay: bool,
}

impl Schemas {
    /// Describes a record once and refers to it.
    pub fn record<R: Record>(&mut self) -> Json {
        let name = name_of(R::WHAT, self.overlay);
        let reference = json!({ "$ref": format!("#/$defs/{name}") });
        if !self.definitions.contains_key(&name) {
            // Steps hold steps: the name must be taken before the fields are described.
            self.definitions.insert(name.clone(), Json::Null);
            let fields = R::describe_fields(self);
            let short = R::SHORT.and_then(|short| fields.properties.get(short).cloned());
            let mut schema = self.build(fields);
            if let Some(short) = short {
                schema = json!({ "anyOf": [schema, short] });
            }
            schema["description"] = prose(R::ABOUT).into();
            self.definitions.insert(name, schema);
        }
        reference
    }

    fn build(&self, fields: RecordSchema) -> Json {
        let mut rules = Vec::new();
        let mut dependent = Object::new();
        let mut properties = fields.properties;
        for choice in fields.choices {
            if !self.overlay {
                rules.push(exactly_one(&choice));
            }
            add_variants(choice, &mut properties, &mut dependent, self.overlay);
        }
        if self.overlay {
            for property in properties.values_mut() {
                *property = json!({ "anyOf": [property.take(), { "type": "null" }] });
            }
        }
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if !self.overlay && !fields.required.is_empty() {
            schema["required"] = json!(fields.required);
        }
        if !rules.is_empty() {
            schema["allOf"] = rules.into();
        }
        if !dependent.is_empty() {
            schema["dependentSchemas"] = Json::Object(dependent);
        }
        schema
    }
}

fn name_of(what: &str, overlay: bool) -> String {
    let name = what.replace(' ', "_");
    if overlay { format!("overlay_{name}") } else { name }
}

/// Requires that one variant of a choice is there, whole.
fn exactly_one(choice: &ChoiceSchema) -> Json {
    let mut branches: Vec<Json> = choice
        .variants
        .iter()
        .map(|(told_by, record)| {
            let mut branch = any_of(told_by);
            if !record.required.is_empty() {
                branch["required"] = json!(record.required);
            }
            branch
        })
        .collect();
    if choice.optional {
        let all: Vec<&str> =
            choice.variants.iter().flat_map(|(told_by, _)| told_by.iter().copied()).collect();
        branches.push(json!({ "not": any_of(&all) }));
    }
    json!({ "oneOf": branches })
}

fn any_of(keys: &[&str]) -> Json {
    match keys {
        [key] => json!({ "required": [key] }),
        keys => {
            let each: Vec<Json> = keys.iter().map(|key| json!({ "required": [key] })).collect();
            json!({ "anyOf": each })
        }
    }
}

/// Adds the keys of all variants, each bound to those variants that have it.
fn add_variants(choice: ChoiceSchema, properties: &mut Object, dependent: &mut Object, overlay: bool) {
    let own: Vec<String> = properties.keys().cloned().collect();
    let mut owners: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (told_by, record) in choice.variants {
        for (key, schema) in record.properties {
            if own.contains(&key) {
                continue;
            }
            if !told_by.contains(&key.as_str()) {
                owners.entry(key.clone()).or_default().extend(told_by);
            }
            match properties.get_mut(&key) {
                None => drop(properties.insert(key, schema)),
                Some(known) if *known == schema => {}
                Some(known) => match known.get_mut("anyOf").and_then(Json::as_array_mut) {
                    Some(several) => several.push(schema),
                    None => *known = json!({ "anyOf": [known.take(), schema] }),
                },
            }
        }
    }
    if !overlay {
        dependent.extend(owners.into_iter().map(|(key, told_by)| (key, any_of(&told_by))));
    }
}
