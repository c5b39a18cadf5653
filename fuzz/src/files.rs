//! Pack headers, trees and the small JSON files.

use repository::format::{
    Config, KeyFile, KeyFileSecret, LockFile, Snapshot, TreeBuilder, encode_header, parse_header, parse_tree,
    trailer_bytes,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A header that parses is written to the same bytes again, and its blobs lie one behind the other.
pub fn pack_header(data: &[u8]) {
    let Ok(blobs) = parse_header(data) else { return };
    assert_eq!(encode_header(&blobs), data);
    assert_eq!(trailer_bytes(blobs.iter().copied()), data.len() + 36);
    let mut end = 0_u64;
    for blob in &blobs {
        assert_eq!(u64::from(blob.offset), end);
        end += u64::from(blob.length);
        assert!(blob.length >= 32);
        blob.plain_length();
    }
}

/// A tree that parses can be written, and then has one spelling for good.
pub fn tree(data: &[u8]) {
    let Ok(nodes) = parse_tree(data) else { return };
    let written = build(&nodes);
    let again = parse_tree(&written).expect("what we write parses");
    assert_eq!(build(&again), written);
    assert_eq!(again.len(), nodes.len());
    for (before, after) in nodes.iter().zip(&again) {
        assert_eq!(before.name, after.name);
        assert_eq!(before.kind, after.kind);
        assert_eq!(before.link_target, after.link_target);
        assert_eq!(before.xattrs, after.xattrs);
        assert_eq!(before.content, after.content);
        assert_eq!(before.generic_attributes, after.generic_attributes);
    }
}

fn build(nodes: &[repository::format::Node]) -> Vec<u8> {
    let mut builder = TreeBuilder::new();
    for node in nodes {
        builder.add(node).expect("a node that was accepted once is accepted again");
    }
    let expected = builder.len_bytes();
    let written = builder.finish();
    assert_eq!(written.len(), expected);
    written
}

/// A snapshot that parses can be written, and then has one spelling for good.
pub fn snapshot(data: &[u8]) {
    settles::<Snapshot>(data);
}

/// The same for config, key and lock.
pub fn small_files(data: &[u8]) {
    if let Some(config) = settles::<Config>(data) {
        config.chunking();
    }
    if let Some(key) = settles::<KeyFile>(data) {
        key.cost();
    }
    settles::<KeyFileSecret>(data);
    if let Some(lock) = settles::<LockFile>(data) {
        lock.to_string();
    }
}

/// Parses, writes, parses and writes again: the two texts must be the same.
pub(crate) fn settles<T: Serialize + DeserializeOwned>(data: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what we write parses");
    assert_eq!(serde_json::to_vec(&again).expect("written a moment ago"), written);
    Some(value)
}
