//! From text to a plan: the tree, the environment laid over it, the types, and what only the whole can tell.

use serde_json::Value as Json;

use crate::decode::{Decode, Reader};
use crate::language::Body;
use crate::problem::{Finding, PlanError, Position, Problem};
use crate::suggest;
use crate::validate::{Names, Validator, fill_in_gates};
use crate::yaml::{self, Entry, Node, Text, Value};

/// A plan that was read, checked, and had its defaults filled in.
///
/// Dereferences to its [`Body`]: `plan.components`, `plan.scenarios` and so on.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The plan file, as the caller named it. Relative paths in the plan are relative to its directory.
    pub file: String,
    /// The environment that was laid over it.
    pub environment: Option<String>,
    /// What it says.
    pub body: Body,
    text: String,
}

impl std::ops::Deref for Plan {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.body
    }
}

/// Most environments of a plan: each is laid over the plan and checked, whichever is chosen.
const ENVIRONMENTS_MAX: usize = 32;

impl Plan {
    /// Reads a plan; `file` names it in errors, `environment` is laid over it.
    ///
    /// Fails with everything that is wrong at once, also in environments that were not chosen. What cannot be read is
    /// not checked further, but everything else is. Values of `${env:…}` and the like are not looked up.
    pub fn parse(text: &str, file: &str, environment: Option<&str>) -> Result<Self, PlanError> {
        let mut findings = Vec::new();
        let body = read(text, environment, &mut findings);
        match body {
            Some(body) if findings.is_empty() => Ok(Self {
                file: file.to_owned(),
                environment: environment.map(str::to_owned),
                body,
                text: text.to_owned(),
            }),
            _ => Err(PlanError::new(file, text, findings)),
        }
    }

    /// Gives the text that it was read from. With `file` and `environment` it is all that is needed to have the same plan
    /// again, so it is what a run pins.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Makes a problem of something that was found out about the plan later, for example that a file is not there.
    pub fn problem(&self, at: Position, message: &str, hint: Option<&str>) -> Problem {
        let finding = Finding { hint: hint.map(str::to_owned), ..Finding::new(at, message.to_owned()) };
        let mut error = PlanError::new(&self.file, &self.text, vec![finding]);
        error.problems.pop().expect("one finding is one problem")
    }

    /// Gives the names of a plan's environments, in order, without reading the rest of it.
    ///
    /// Empty if the text is no YAML: [`Plan::parse`] tells why.
    pub fn environments(text: &str) -> Vec<String> {
        let root = yaml::parse(text, &mut Vec::new());
        let environments = root.as_ref().and_then(|root| root.get("environments")).map(|node| &node.value);
        match environments {
            Some(Value::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Gives the plan as JSON with all defaults: keys as in the plan file, late values as they were written.
    pub fn to_json(&self) -> Json {
        self.body.encode().expect("a record is always written")
    }
}

fn read(text: &str, environment: Option<&str>, findings: &mut Vec<Finding>) -> Option<Body> {
    let mut root = yaml::parse(text, findings)?;
    let overlays = take_environments(&mut root, findings);
    let chosen = environment.map(|name| (name, overlays.iter().find(|entry| entry.key == name)));
    if let Some((name, None)) = chosen {
        findings.push(unknown_environment(name, &overlays));
    }
    let (mut body, of_base) = read_tree(&root);
    findings.extend(of_base.iter().cloned());
    for overlay in &overlays {
        let mut merged = root.clone();
        yaml::lay_over(&mut merged, &overlay.value);
        let (of_environment, found) = read_tree(&merged);
        let new = found.into_iter().filter(|finding| !of_base.contains(finding));
        findings.extend(new.map(|finding| Finding { environment: Some(overlay.key.clone()), ..finding }));
        if environment == Some(overlay.key.as_str()) {
            body = of_environment;
        }
    }
    // An empty key, an empty list: the tree can be read, and nothing is told; it cannot happen, and must not be a plan.
    if body.is_none() && findings.is_empty() {
        findings.push(Finding::new(yaml::START, "this is not a plan".to_owned()));
    }
    body
}

/// Takes the environments out of the tree.
fn take_environments(root: &mut Node, findings: &mut Vec<Finding>) -> Vec<Entry> {
    let Value::Map(sections) = &mut root.value else { return Vec::new() };
    let Some(index) = sections.iter().position(|entry| entry.key == "environments") else {
        return Vec::new();
    };
    let section = sections.remove(index);
    let Value::Map(mut overlays) = section.value.value else {
        let message = "expected environments by name".to_owned();
        let hint = "for example { staging: { repository: { location: ./staging } } }";
        findings.push(Finding::new(section.key_at, message).hint(hint));
        return Vec::new();
    };
    if overlays.len() > ENVIRONMENTS_MAX {
        let message = format!("there are more than {ENVIRONMENTS_MAX} environments");
        findings.push(Finding::new(section.key_at, message).hint("make several plans of them"));
        overlays.truncate(ENVIRONMENTS_MAX);
    }
    overlays.retain(|overlay| {
        let is_map = matches!(overlay.value.value, Value::Map(_));
        if !is_map {
            let message = format!("the environment `{}` is not a mapping", overlay.key);
            findings
                .push(Finding::new(overlay.key_at, message).hint("write the keys of the plan that differ"));
        }
        is_map
    });
    overlays
}

fn unknown_environment(name: &str, overlays: &[Entry]) -> Finding {
    let names = || overlays.iter().map(|entry| entry.key.as_str());
    let hint = match suggest::closest(name, names()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if overlays.is_empty() => "the plan has no `environments`".to_owned(),
        None => format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
    };
    Finding::new(yaml::START, format!("the plan has no environment `{name}`")).hint(hint)
}

/// Reads a whole tree and checks what could be read of it.
fn read_tree(root: &Node) -> (Option<Body>, Vec<Finding>) {
    let mut reader = Reader::default();
    let stand_ins = with_stand_ins(root, &mut reader);
    let Some(mut body) = Body::decode(&stand_ins, &mut reader) else { return (None, reader.findings) };
    fill_in_gates(&mut body);
    let complete = reader.findings.is_empty();
    Validator { body: &body, names: Names::of(root), reader: &mut reader, complete }.run();
    (Some(body), reader.findings)
}

/// Tells what every plan must have, and puts something in its place: the rest is worth checking without it.
fn with_stand_ins(root: &Node, reader: &mut Reader) -> Node {
    let mut whole = root.clone();
    let Value::Map(sections) = &mut whole.value else { return whole };
    for (key, value, hint) in [
        ("lifeboat", "1", "begin the plan with `lifeboat: 1`, the version of its language"),
        ("name", "unnamed", "give the estate a name: `name: my-estate`"),
    ] {
        if sections.iter().any(|entry| entry.key == key) {
            continue;
        }
        reader.say_with_hint(root.at, format!("the plan has no `{key}`"), hint);
        let value = Value::Scalar(Text { text: value.to_owned(), plain: true });
        let value = Node { value, at: root.at, key_at: None };
        sections.push(Entry { key: key.to_owned(), key_at: root.at, value });
    }
    whole
}
