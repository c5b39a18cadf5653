//! The JSON Schema: current, and of one mind with the parser.

use std::path::Path;

use plan::Plan;
use serde_json::{Map, Value, json};

use crate::json::{is_valid, of_yaml};
use crate::{EVERYTHING, HUB};

#[test]
fn the_schema_in_the_documents_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lifeboat.schema.json");
    let schema = plan::schema();
    if std::fs::read_to_string(&path).ok().as_deref() == Some(&schema) {
        return;
    }
    std::fs::write(&path, schema).expect("the document can be written");
    panic!("docs/lifeboat.schema.json was not current; it has been written anew, look at it and commit it");
}

#[test]
fn right_plans_are_valid_under_the_schema() {
    let schema = schema();
    for text in [HUB, EVERYTHING] {
        assert!(is_valid(&schema, &schema, &of_yaml(text)));
        let written = crate::read(text).to_json();
        assert!(is_valid(&schema, &schema, &written), "{written}");
    }
}

/// Every value of a large plan is taken away, renamed, and replaced by values of every other kind, one at a time:
/// what the parser takes, the schema must take. The parser refuses more, because it knows what names refer to.
#[test]
fn whatever_the_parser_takes_the_schema_takes() {
    let schema = schema();
    let (mut taken, mut refused, mut disagreements) = (0, 0, Vec::new());
    for (what, changed) in changes(&of_yaml(EVERYTHING)) {
        match Plan::parse(&changed.to_string(), "lifeboat.yaml", None) {
            Ok(_) => {
                disagreements.extend((!is_valid(&schema, &schema, &changed)).then_some(what));
                taken += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(disagreements.is_empty(), "only the parser takes:\n{}", disagreements.join("\n"));
    assert!(
        taken > 300 && refused > 2000,
        "{taken} taken, {refused} refused: the plans have too little in them"
    );
}

/// A key that nobody knows, in each mapping that has known keys.
#[test]
fn an_unknown_key_is_refused_by_both() {
    let schema = schema();
    let mut refused = 0;
    for text in [HUB, EVERYTHING] {
        let plan = of_yaml(text);
        for path in paths(&plan) {
            let mut changed = plan.clone();
            let Some(Value::Object(object)) = changed.pointer_mut(&path) else { continue };
            object.insert("zzzzzzzz".to_owned(), json!({ "zzzzzzzz": 1 }));
            let parsed = Plan::parse(&changed.to_string(), "lifeboat.yaml", None);
            assert!(parsed.is_err(), "the parser takes an unknown key at {path}");
            assert!(!is_valid(&schema, &schema, &changed), "the schema takes an unknown key at {path}");
            refused += 1;
        }
    }
    assert!(refused > 100, "only {refused} mappings");
}

/// What tells kinds apart: none of them, two of them, a key of another one.
#[test]
fn kinds_are_told_apart_by_the_schema_too() {
    let schema = schema();
    let component =
        |component: Value| json!({ "lifeboat": 1, "name": "a", "components": { "a": component } });
    for (right, value) in [
        (true, json!({ "files": "a" })),
        (true, json!({ "env_files": ["a"] })),
        (true, json!({ "files": "a", "env_files": "b" })),
        (true, json!({ "command": "a", "restore": "b" })),
        (false, json!({ "rpo": "1h" })),
        (false, json!({ "files": "a", "sqlite": "b" })),
        (false, json!({ "files": "a", "exports": { "a": "dump" } })),
        (false, json!({ "command": "a" })),
        (true, json!({ "postgres": "a" })),
        (true, json!({ "redis": "a" })),
        (false, json!({ "mariadb": "a" })),
    ] {
        let plan = component(value);
        assert_eq!(is_valid(&schema, &schema, &plan), right, "{plan}");
        assert_eq!(Plan::parse(&plan.to_string(), "lifeboat.yaml", None).is_ok(), right, "{plan}");
    }
}

#[test]
fn an_overlay_needs_nothing_and_can_take_everything_away() {
    let schema = schema();
    let plan = |overlay: Value| {
        json!({
            "lifeboat": 1, "name": "a", "components": { "a": { "files": "a", "rpo": "1h" } },
            "environments": { "staging": overlay },
        })
    };
    for (right, overlay) in [
        (true, json!({})),
        (true, json!({ "components": { "a": { "rpo": "2h" } } })),
        (true, json!({ "components": { "a": { "rpo": null } }, "repository": null })),
        (true, json!({ "components": { "b": { "sqlite": "b" } } })),
        (false, json!({ "components": { "a": { "rop": "2h" } } })),
        (false, json!({ "components": { "a": { "rpo": 2 } } })),
    ] {
        let plan = plan(overlay);
        assert_eq!(is_valid(&schema, &schema, &plan), right, "{plan}");
        assert_eq!(Plan::parse(&plan.to_string(), "lifeboat.yaml", Some("staging")).is_ok(), right, "{plan}");
    }
}

fn schema() -> Value {
    serde_json::from_str(&plan::schema()).expect("the schema is JSON")
}

/// Gives the plan with each of its values taken away, renamed, or replaced.
fn changes(plan: &Value) -> Vec<(String, Value)> {
    let others = [
        json!(null),
        json!(true),
        json!(7.5),
        json!("a"),
        json!("5m"),
        json!([]),
        json!(["a"]),
        json!({}),
        json!({ "check": "a" }),
    ];
    let mut changed = Vec::new();
    for path in paths(plan) {
        for other in &others {
            let mut with_other = plan.clone();
            *with_other.pointer_mut(&path).expect("the path is of this plan") = other.clone();
            changed.push((format!("{path} = {other}"), with_other));
        }
        let Some((parent, key)) = path.rsplit_once('/') else { continue };
        let key = key.replace("~1", "/").replace("~0", "~");
        for new_key in [None, Some(format!("{key}s"))] {
            let what = format!("{path} → {new_key:?}");
            let mut without = plan.clone();
            match without.pointer_mut(parent).expect("the path is of this plan") {
                Value::Object(object) => {
                    let value = object.remove(&key).expect("the path is of this plan");
                    if let Some(new_key) = new_key {
                        object.insert(new_key, value);
                    }
                }
                Value::Array(items) => drop(items.remove(key.parse().expect("an index"))),
                _ => unreachable!("it has a child"),
            }
            changed.push((what, without));
        }
    }
    changed
}

/// Gives JSON pointers to all values, environments aside.
fn paths(plan: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    let plan: Map<String, Value> = plan
        .as_object()
        .expect("a plan")
        .clone()
        .into_iter()
        .filter(|(key, _)| key != "environments")
        .collect();
    add_paths(&plan.into(), "", &mut paths);
    paths
}

fn add_paths(value: &Value, path: &str, paths: &mut Vec<String>) {
    paths.push(path.to_owned());
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = key.replace('~', "~0").replace('/', "~1");
                add_paths(value, &format!("{path}/{key}"), paths);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                add_paths(value, &format!("{path}/{index}"), paths);
            }
        }
        _ => {}
    }
}
