//! YAML as a tree in which everything knows its place. Strict: no duplicate keys, no tags, one document; and bounded in
//! size, depth and what aliases may expand to. Nothing in here knows what a plan is.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::Position;
use crate::problem::Finding;

/// Longest text that is read. The largest plan that a person maintains is a tenth of it.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting; what reads the tree recurses. The language itself needs a dozen levels, each nested step three.
const DEPTH_MAX: usize = 100;

/// Most nodes, those that aliases stand for counted each time.
const NODES_MAX: usize = 50_000;

/// A value and its place.
#[derive(Debug, Clone)]
pub struct Node {
    pub value: Value,
    pub at: Position,
    /// Where its key stands, if it is the value of one: the better place for what is missing in it.
    pub key_at: Option<Position>,
}

#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Scalar(Text),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A scalar as it was written; `plain` without quotes, so that it may also be a number or a truth value.
#[derive(Debug, Clone)]
pub struct Text {
    pub text: String,
    pub plain: bool,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub key_at: Position,
    pub value: Node,
}

impl Node {
    /// Gives the value of a key, if it is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// Says what it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Scalar(Text { plain: false, .. }) => "text",
            Value::Scalar(Text { text, .. }) if truth(text).is_some() => "a truth value",
            Value::Scalar(Text { text, .. }) if is_number(text) => "a number",
            Value::Scalar(_) => "text",
        }
    }
}

/// Gives the truth value that YAML 1.2 sees in a plain scalar.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Tells whether YAML 1.2 (core schema) sees a number in a plain scalar.
pub fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str, radix| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    if let Some(rest) = text.strip_prefix("0x") {
        return digits(rest, 16);
    }
    if let Some(rest) = text.strip_prefix("0o") {
        return digits(rest, 8);
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.chars().any(|c| c.is_ascii_digit())
        && text.parse::<f64>().is_ok()
}

/// Reads a text. What is wrong goes to `findings`; without a tree there is at least one.
pub fn parse(text: &str, findings: &mut Vec<Finding>) -> Option<Node> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the file has {} bytes, and at most {TEXT_BYTES_MAX} are read", text.len());
        findings.push(Finding::new(START, message));
        return None;
    }
    let mut builder = Builder { findings, open: Vec::new(), root: None, anchors: HashMap::new(), nodes: 0 };
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let marker = error.marker();
                let at = position(marker.line(), marker.col(), 1);
                builder.findings.push(Finding::new(at, format!("this is not YAML: {}", error.info())));
                return None;
            }
        };
        builder.take(event, place(&span))?;
    }
    let Builder { root, findings, .. } = builder;
    if root.is_none() {
        findings.push(Finding::new(START, "the file is empty".to_owned()));
    }
    root
}

/// The beginning of the file.
pub const START: Position = Position { line: 1, column: 1, width: 1 };

fn place(span: &Span) -> Position {
    let width = match span.end.line() == span.start.line() {
        true => span.end.col().saturating_sub(span.start.col()),
        false => usize::MAX,
    };
    position(span.start.line(), span.start.col(), width)
}

fn position(line: usize, column_from_0: usize, width: usize) -> Position {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position {
        line: number(line.max(1)),
        column: number(column_from_0.saturating_add(1)),
        width: number(width.max(1)),
    }
}

/// Builds the tree from events, without recursion: the depth of a text is not known before.
struct Builder<'a> {
    findings: &'a mut Vec<Finding>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

/// A list or map that has begun.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<(String, Position)>,
    /// The nodes that were there before it.
    nodes_before: usize,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, at: Position) -> Option<()> {
        let tag = match &event {
            Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => {
                tag.clone()
            }
            _ => None,
        };
        if let Some(tag) = tag {
            let message = format!("the tag `{}{}` means nothing here", tag.handle, tag.suffix);
            return self.fail(at, message, "tags are not used in plans; quote a value to make it text");
        }
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                self.fail(at, "a second document begins".to_owned(), "a plan is one document; remove `---`")
            }
            Event::SequenceStart(anchor, _) => self.begin(Value::List(Vec::new()), at, anchor),
            Event::MappingStart(anchor, _) => self.begin(Value::Map(Vec::new()), at, anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().expect("the parser ends only what it began");
                let nodes = self.nodes - open.nodes_before;
                if open.anchor > 0 {
                    self.anchors.insert(open.anchor, (open.node.clone(), nodes));
                }
                self.add(open.node)
            }
            Event::Scalar(text, style, anchor, _) => {
                self.count(1, at)?;
                let node = Node { value: scalar(&text, style), at, key_at: None };
                if anchor > 0 {
                    self.anchors.insert(anchor, (node.clone(), 1));
                }
                self.add(node)
            }
            Event::Alias(anchor) => {
                let Some((node, nodes)) = self.anchors.get(&anchor).cloned() else {
                    let message = "this alias stands for something that it is itself a part of".to_owned();
                    return self.fail(at, message, "write the value out");
                };
                self.count(nodes, at)?;
                if self.open.len() + depth(&node) > DEPTH_MAX {
                    return self.too_deep(at);
                }
                self.add(node)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Some(()),
        }
    }

    fn begin(&mut self, value: Value, at: Position, anchor: usize) -> Option<()> {
        if self.open.len() >= DEPTH_MAX {
            return self.too_deep(at);
        }
        let nodes_before = self.nodes;
        self.count(1, at)?;
        self.open.push(Open { node: Node { value, at, key_at: None }, anchor, key: None, nodes_before });
        Some(())
    }

    /// Puts a finished node where it belongs: at the root, into the open list, or as key or value into the open map.
    fn add(&mut self, mut node: Node) -> Option<()> {
        let Some(Open { node: parent, key, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        match &mut parent.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match key.take() {
                None => match node.value {
                    Value::Scalar(Text { text, .. }) => *key = Some((text, node.at)),
                    _ => {
                        let message = format!("a key must be text, and this is {}", node.kind());
                        return self.fail(
                            node.at,
                            message,
                            "keys are names; `? key` and `[a]: b` are not used",
                        );
                    }
                },
                Some((key, key_at)) => match entries.iter().find(|entry| entry.key == key) {
                    Some(first) => {
                        let message = format!("the key `{key}` is there twice");
                        let hint = format!("it is already in line {}; remove one of them", first.key_at.line);
                        self.findings.push(Finding::new(key_at, message).hint(hint));
                    }
                    None => {
                        node.key_at = Some(key_at);
                        entries.push(Entry { key, key_at, value: node });
                    }
                },
            },
            Value::Null | Value::Scalar(_) => unreachable!("only lists and maps are open"),
        }
        Some(())
    }

    fn count(&mut self, nodes: usize, at: Position) -> Option<()> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            let message = format!("the plan has more than {NODES_MAX} values, aliases written out");
            return self.fail(at, message, "split the plan, or use fewer aliases");
        }
        Some(())
    }

    fn too_deep(&mut self, at: Position) -> Option<()> {
        self.fail(at, format!("this is nested more than {DEPTH_MAX} levels deep"), "no plan needs that")
    }

    fn fail(&mut self, at: Position, message: String, hint: &str) -> Option<()> {
        self.findings.push(Finding::new(at, message).hint(hint));
        None
    }
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar(_) => 0,
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|entry| depth(&entry.value)).max().unwrap_or(0),
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    match plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        true => Value::Null,
        false => Value::Scalar(Text { text: text.to_owned(), plain }),
    }
}

/// Lays one tree over another: maps are merged key by key, nothing (`~`) takes a key away, everything else replaces.
pub fn lay_over(base: &mut Node, overlay: &Node) {
    let (Value::Map(below), Value::Map(above)) = (&mut base.value, &overlay.value) else {
        *base = overlay.clone();
        return;
    };
    for entry in above {
        let known = below.iter().position(|known| known.key == entry.key);
        match (known, &entry.value.value) {
            (Some(known), Value::Null) => drop(below.remove(known)),
            (Some(known), _) => lay_over(&mut below[known].value, &entry.value),
            (None, Value::Null) => {}
            (None, _) => below.push(Entry { value: without_nothing(&entry.value), ..entry.clone() }),
        }
    }
}

/// A part of an overlay that lies over nothing: there is nothing for `~` to take away.
fn without_nothing(node: &Node) -> Node {
    let mut bare = node.clone();
    if let Value::Map(entries) = &mut bare.value {
        entries.retain(|entry| !matches!(entry.value.value, Value::Null));
        for entry in entries {
            entry.value = without_nothing(&entry.value);
        }
    }
    bare
}
