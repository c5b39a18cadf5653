//! Writes a tree, byte for byte as restic 0.14 does.
//!
//! Two differences, both only where restic 0.14 loses something: a link target that is not UTF-8 also gets
//! `linktarget_raw` (restic 0.16 and later), and attributes of other systems are kept (0.17 and later).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Id;
use crate::format::json_text::{write_list, write_number, write_string, write_value};
use crate::format::quote::write_name;

use super::{Node, TreeError, Xattr, check_name};

/// Collects the nodes of one directory, in order, into the bytes of its tree.
#[derive(Debug)]
pub struct TreeBuilder {
    out: Vec<u8>,
    previous: Vec<u8>,
}

const HEAD: &[u8] = b"{\"nodes\":[";
const TAIL: &[u8] = b"]}\n";

impl TreeBuilder {
    /// Starts an empty tree.
    pub fn new() -> Self {
        Self { out: HEAD.to_vec(), previous: Vec::new() }
    }

    /// Appends a node, whose name must come after those before it.
    pub fn add(&mut self, node: &Node) -> Result<(), TreeError> {
        check_name(&node.name, &self.previous)?;
        if !self.is_empty() {
            self.out.push(b',');
        }
        write_node(node, &mut self.out);
        self.previous.clear();
        self.previous.extend_from_slice(&node.name);
        Ok(())
    }

    /// Whether no node was added yet.
    pub fn is_empty(&self) -> bool {
        self.previous.is_empty()
    }

    /// Length of the tree if it ended now.
    pub fn len_bytes(&self) -> usize {
        self.out.len() + TAIL.len()
    }

    /// Ends the tree and gives its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(TAIL);
        self.out
    }
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

fn write_node(node: &Node, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"name\":");
    write_name(&node.name, out);
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(node.kind.as_str().as_bytes());
    out.push(b'"');
    number_unless_zero(b",\"mode\":", u64::from(node.mode), out);
    for (key, time) in
        [(b",\"mtime\":\"", node.mtime), (b",\"atime\":\"", node.atime), (b",\"ctime\":\"", node.ctime)]
    {
        out.extend_from_slice(key);
        time.write(out);
        out.push(b'"');
    }
    out.extend_from_slice(b",\"uid\":");
    write_number(u64::from(node.uid), out);
    out.extend_from_slice(b",\"gid\":");
    write_number(u64::from(node.gid), out);
    text_unless_empty(b",\"user\":", node.user.as_bytes(), out);
    text_unless_empty(b",\"group\":", node.group.as_bytes(), out);
    number_unless_zero(b",\"inode\":", node.inode, out);
    number_unless_zero(b",\"device_id\":", node.device_id, out);
    number_unless_zero(b",\"size\":", node.size, out);
    number_unless_zero(b",\"links\":", node.links, out);
    write_link_target(&node.link_target, out);
    write_xattrs(&node.xattrs, out);
    if let Some(attributes) = &node.generic_attributes {
        out.extend_from_slice(b",\"generic_attributes\":");
        write_value(attributes, out);
    }
    number_unless_zero(b",\"device\":", node.device, out);
    write_content(node.content.as_deref(), out);
    if let Some(subtree) = &node.subtree {
        out.extend_from_slice(b",\"subtree\":");
        write_id(subtree, out);
    }
    text_unless_empty(b",\"error\":", node.error.as_bytes(), out);
    out.push(b'}');
}

fn number_unless_zero(key: &[u8], value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.extend_from_slice(key);
        write_number(value, out);
    }
}

fn text_unless_empty(key: &[u8], text: &[u8], out: &mut Vec<u8>) {
    if !text.is_empty() {
        out.extend_from_slice(key);
        write_string(text, out);
    }
}

fn write_link_target(target: &[u8], out: &mut Vec<u8>) {
    text_unless_empty(b",\"linktarget\":", target, out);
    if std::str::from_utf8(target).is_err() {
        out.extend_from_slice(b",\"linktarget_raw\":");
        write_base64(target, out);
    }
}

fn write_xattrs(xattrs: &[Xattr], out: &mut Vec<u8>) {
    if xattrs.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"extended_attributes\":");
    write_list(b"[]", xattrs, out, |xattr, out| {
        out.extend_from_slice(b"{\"name\":");
        write_string(xattr.name.as_bytes(), out);
        out.extend_from_slice(b",\"value\":");
        write_base64(&xattr.value, out);
        out.push(b'}');
    });
}

fn write_content(content: Option<&[Id]>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"content\":");
    match content {
        Some(blobs) => write_list(b"[]", blobs, out, write_id),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_id(id: &Id, out: &mut Vec<u8>) {
    let mut text = [b'"'; 66];
    for (byte, pair) in id.0.iter().zip(text[1..65].chunks_exact_mut(2)) {
        pair.copy_from_slice(&HEX_PAIRS[usize::from(*byte)]);
    }
    out.extend_from_slice(&text);
}

const HEX_PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}
