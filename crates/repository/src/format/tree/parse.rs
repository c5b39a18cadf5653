//! Reads a tree that anyone wrote: restic, rustic, ourselves, or an attacker.
//!
//! Tolerates unknown fields, any order of fields, white space, and `null` for any field, as Go does. Names are
//! checked, because a restore will join them to a path.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Id;
use crate::format::Time;
use crate::format::json_cursor::{Cursor, RawString, Unexpected};
use crate::format::quote::unquote;

use super::{Node, NodeKind, TreeError, Xattr, check_name};

impl From<Unexpected> for TreeError {
    fn from(error: Unexpected) -> Self {
        Self::Syntax { offset: error.offset, expected: error.expected }
    }
}

/// Reads the nodes of a tree blob.
pub fn parse_tree(bytes: &[u8]) -> Result<Vec<Node>, TreeError> {
    let mut cursor = Cursor::new(bytes);
    let mut nodes = Vec::new();
    cursor.expect(b'{', "`{`")?;
    let mut first = true;
    while let Some(key) = cursor.next_field(&mut first)? {
        if key.as_plain() == Some(b"nodes") {
            nodes = parse_nodes(&mut cursor)?;
        } else {
            cursor.skip_value()?;
        }
    }
    cursor.expect_end()?;
    Ok(nodes)
}

fn parse_nodes(cursor: &mut Cursor<'_>) -> Result<Vec<Node>, TreeError> {
    let mut nodes: Vec<Node> = Vec::new();
    if cursor.take_null() {
        return Ok(nodes);
    }
    cursor.expect(b'[', "`[`")?;
    let mut first = true;
    while cursor.next_item(&mut first)? {
        let node = parse_node(cursor)?;
        check_name(&node.name, nodes.last().map_or(b"", |previous| &previous.name))?;
        nodes.push(node);
    }
    Ok(nodes)
}

fn parse_node(cursor: &mut Cursor<'_>) -> Result<Node, TreeError> {
    let mut node = Node::new(b"", NodeKind::File);
    let mut kind = Err(String::new());
    let mut raw_target = None;
    cursor.expect(b'{', "`{`")?;
    let mut first = true;
    while let Some(key) = cursor.next_field(&mut first)? {
        if cursor.take_null() {
            continue;
        }
        match key.as_plain().unwrap_or_default() {
            b"name" => node.name = parse_name(cursor)?,
            b"type" => kind = parse_kind(cursor)?,
            b"mode" => node.mode = parse_u32(cursor)?,
            b"mtime" => node.mtime = parse_time(cursor)?,
            b"atime" => node.atime = parse_time(cursor)?,
            b"ctime" => node.ctime = parse_time(cursor)?,
            b"uid" => node.uid = parse_u32(cursor)?,
            b"gid" => node.gid = parse_u32(cursor)?,
            b"user" => node.user = parse_text(cursor)?,
            b"group" => node.group = parse_text(cursor)?,
            b"inode" => node.inode = cursor.number()?,
            b"device_id" => node.device_id = cursor.number()?,
            b"size" => node.size = cursor.number()?,
            b"links" => node.links = cursor.number()?,
            b"linktarget" => node.link_target = parse_text(cursor)?.into_bytes(),
            b"linktarget_raw" => raw_target = Some(parse_base64(cursor)?),
            b"extended_attributes" => node.xattrs = parse_xattrs(cursor)?,
            b"generic_attributes" => node.generic_attributes = Some(parse_attributes(cursor)?),
            b"device" => node.device = cursor.number()?,
            b"content" => node.content = Some(parse_content(cursor)?),
            b"subtree" => node.subtree = Some(Id(cursor.id()?)),
            b"error" => node.error = parse_text(cursor)?,
            _ => _ = cursor.skip_value()?,
        }
    }
    if let Some(target) = raw_target {
        node.link_target = target;
    }
    node.kind = kind.map_err(|kind| TreeError::UnknownKind {
        name: String::from_utf8_lossy(&node.name).into_owned(),
        kind,
    })?;
    Ok(node)
}

fn syntax(offset: usize, expected: &'static str) -> TreeError {
    TreeError::Syntax { offset, expected }
}

fn parse_name(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, TreeError> {
    let offset = cursor.offset();
    let raw = cursor.string()?;
    if let Some(plain) = raw.as_plain() {
        return Ok(plain.to_vec());
    }
    raw.text().and_then(|text| unquote(&text)).ok_or_else(|| syntax(offset, "a quoted name"))
}

/// Gives the word itself when it is unknown: whose kind it is may only be read later.
fn parse_kind(cursor: &mut Cursor<'_>) -> Result<Result<NodeKind, String>, TreeError> {
    let text = parse_text(cursor)?;
    Ok(NodeKind::from_bytes(text.as_bytes()).ok_or(text))
}

fn parse_u32(cursor: &mut Cursor<'_>) -> Result<u32, TreeError> {
    let offset = cursor.offset();
    u32::try_from(cursor.number()?).map_err(|_| syntax(offset, "a number of 32 bits"))
}

fn parse_time(cursor: &mut Cursor<'_>) -> Result<Time, TreeError> {
    let offset = cursor.offset();
    let raw = cursor.string()?;
    raw.as_plain().and_then(Time::parse).ok_or_else(|| syntax(offset, "an RFC 3339 time"))
}

fn parse_text(cursor: &mut Cursor<'_>) -> Result<String, TreeError> {
    let offset = cursor.offset();
    decode(cursor.string()?).ok_or_else(|| syntax(offset, "a string with known escapes"))
}

fn decode(raw: RawString<'_>) -> Option<String> {
    raw.text().map(std::borrow::Cow::into_owned)
}

fn parse_base64(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, TreeError> {
    let offset = cursor.offset();
    let text = cursor.string()?.text();
    text.and_then(|text| STANDARD.decode(text.as_bytes()).ok()).ok_or_else(|| syntax(offset, "base64"))
}

fn parse_xattrs(cursor: &mut Cursor<'_>) -> Result<Vec<Xattr>, TreeError> {
    let mut xattrs = Vec::new();
    cursor.expect(b'[', "`[`")?;
    let mut first = true;
    while cursor.next_item(&mut first)? {
        xattrs.push(parse_xattr(cursor)?);
    }
    Ok(xattrs)
}

fn parse_xattr(cursor: &mut Cursor<'_>) -> Result<Xattr, TreeError> {
    let mut xattr = Xattr { name: String::new(), value: Vec::new() };
    cursor.expect(b'{', "`{`")?;
    let mut first = true;
    while let Some(key) = cursor.next_field(&mut first)? {
        if cursor.take_null() {
            continue;
        }
        match key.as_plain().unwrap_or_default() {
            b"name" => xattr.name = parse_text(cursor)?,
            b"value" => xattr.value = parse_base64(cursor)?,
            _ => _ = cursor.skip_value()?,
        }
    }
    Ok(xattr)
}

fn parse_attributes(cursor: &mut Cursor<'_>) -> Result<serde_json::Value, TreeError> {
    let offset = cursor.offset();
    let bytes = cursor.skip_value()?;
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|_| syntax(offset, "a JSON object"))?;
    if value.is_object() { Ok(value) } else { Err(syntax(offset, "a JSON object")) }
}

fn parse_content(cursor: &mut Cursor<'_>) -> Result<Vec<Id>, TreeError> {
    let mut blobs = Vec::new();
    cursor.expect(b'[', "`[`")?;
    let mut first = true;
    while cursor.next_item(&mut first)? {
        blobs.push(Id(cursor.id()?));
    }
    Ok(blobs)
}
