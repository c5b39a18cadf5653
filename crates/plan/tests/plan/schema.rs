//! The JSON Schema: current, and of one mind with the parser.

use std::path::Path;

use serde_json::Value;

use crate::{EVERYTHING, HUB, read};

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
