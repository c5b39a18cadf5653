//! What is run: command lines, and shell commands that are templates over the plan's values.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Value as Json, json};

use crate::decode::{Decode, Reader};
use crate::schema::Schemas;
use crate::suggest;
use crate::yaml::{Node, Value};

/// A command as a plan writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// Text for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments, without a shell; never empty.
    Arguments(Vec<String>),
}

/// A shell command that is a minijinja template over the plan's values; kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

/// A template that cannot be rendered: it names a value that is not there, or does with one what cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to render the template, line {line}: {why}")]
pub struct TemplateError {
    /// The line of the template, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// The values that a template can name: those of the plan
/// ([`Plan::template_values`](crate::Plan::template_values)), and those that the engine adds to them.
pub const TEMPLATE_NAMES: [&str; 11] = [
    "name",
    "repository",
    "components",
    "services",
    "checks",
    "scenarios",
    "host",
    "run",
    "scenario",
    "place",
    "instant",
];

/// Functions that minijinja has.
const FUNCTIONS: [&str; 4] = ["range", "dict", "namespace", "debug"];

/// Longest command: a script that is longer is a file of its own.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// Longest command in which anything is put: the parser of templates recurses over operators (measured: 8000 times `-`
/// overflow a stack of 2 MiB).
const TEMPLATE_BYTES_MAX: usize = 4 << 10;

impl Template {
    /// Gives the template as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Renders it with values by name.
    ///
    /// A value that is not there is an error, never an empty text: `rm -rf {{ dri }}/x` must not be run.
    pub fn render(&self, values: &Json) -> Result<String, TemplateError> {
        let environment = environment();
        let template = environment.template_from_str(&self.0).map_err(|error| explain(&error))?;
        template.render(Serde(values)).map_err(|error| explain(&error))
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // `{#`, which usually begins a comment, is in `${#array}` of every other shell script.
    let syntax = SyntaxConfig::builder().comment_delimiters("{//", "//}").keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("the delimiters differ"));
    environment
}

fn explain(error: &minijinja::Error) -> TemplateError {
    let kind = error.kind().to_string();
    let why = error.detail().map_or(kind.clone(), |detail| format!("{kind}: {detail}"));
    TemplateError { line: error.line().unwrap_or(1), why }
}

/// Tells what is wrong with a template, and what to do.
fn problem(text: &str) -> Option<(String, String)> {
    let is_template = ["{{", "{%", "{//"].into_iter().any(|start| text.contains(start));
    let (what, most) = match is_template {
        true => ("a command with `{{` or `{%` in it", TEMPLATE_BYTES_MAX),
        false => ("a command", COMMAND_BYTES_MAX),
    };
    if text.len() > most {
        let message = format!("{what} has at most {most} bytes, and this has {}", text.len());
        return Some((message, "put the script into a file of a component".to_owned()));
    }
    if !is_template {
        return None;
    }
    let environment = environment();
    let template = match environment.template_from_str(text) {
        Ok(template) => template,
        Err(error) => {
            let TemplateError { line, why } = explain(&error);
            let hint =
                "`{{` and `{%` begin a template; write {% raw %}…{% endraw %} around those of the shell";
            return Some((format!("line {line} of the command is not a template: {why}"), hint.to_owned()));
        }
    };
    let mut unknown: Vec<String> = template
        .undeclared_variables(false)
        .into_iter()
        .filter(|name| !TEMPLATE_NAMES.contains(&name.as_str()) && !FUNCTIONS.contains(&name.as_str()))
        .collect();
    unknown.sort();
    let name = unknown.first()?;
    let hint = match suggest::closest(name, TEMPLATE_NAMES) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there are: {}", TEMPLATE_NAMES.join(", ")),
    };
    Some((format!("the template names `{name}`, which is no value of the plan"), hint))
}

/// Refuses late values in what is run: they would show in the list of processes and in the journal.
fn no_late_values(text: &str, node: &Node, reader: &mut Reader) -> Option<()> {
    let late = ["${env:", "${file:", "${host:"].into_iter().find(|start| text.contains(start))?;
    let message = format!("`{late}…}}` is not looked up in a command, where everybody could read it");
    reader.say_with_hint(node.at, message, "put it into `env:` and use the variable: \"$NAME\"");
    Some(())
}

impl Decode for Template {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = String::decode(node, reader)?;
        if no_late_values(&text, node, reader).is_some() {
            return None;
        }
        match problem(&text) {
            Some((message, hint)) => {
                reader.say_with_hint(node.at, message, hint);
                None
            }
            None => Some(Self(text)),
        }
    }

    fn encode(&self) -> Option<Json> {
        Some(self.0.as_str().into())
    }

    fn schema(schemas: &mut Schemas) -> Json {
        String::schema(schemas)
    }
}

impl Decode for CommandLine {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            let text = String::decode(node, reader)?;
            let late = no_late_values(&text, node, reader).is_some();
            return (!late).then_some(Self::Shell(text));
        };
        if items.is_empty() {
            reader.say_with_hint(node.at, "a command cannot be empty", "for example [pg_dump, app]");
            return None;
        }
        // Numbers as they were written: `[sleep, 5]`.
        let read: Vec<Option<String>> = items
            .iter()
            .map(|item| {
                let text = reader.scalar(item, "an argument", "[pg_dump, \"--no-owner\", app]")?.to_owned();
                no_late_values(&text, item, reader).is_none().then_some(text)
            })
            .collect();
        let arguments: Vec<String> = read.into_iter().collect::<Option<_>>()?;
        if arguments[0].is_empty() {
            reader.say(node.at, "the program has no name");
            return None;
        }
        Some(Self::Arguments(arguments))
    }

    fn encode(&self) -> Option<Json> {
        Some(match self {
            Self::Shell(text) => text.as_str().into(),
            Self::Arguments(arguments) => arguments.as_slice().into(),
        })
    }

    fn schema(schemas: &mut Schemas) -> Json {
        let argument = json!({ "type": ["string", "number", "boolean"] });
        json!({ "anyOf": [String::schema(schemas), { "type": "array", "items": argument, "minItems": 1 }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_rendered_with_values_and_never_without() {
        let values = json!({ "components": { "database": { "sqlite": "data/x.db" } } });
        let template = Template("sqlite3 {{ components.database.sqlite }} 'pragma optimize'\n".to_owned());
        assert_eq!(template.render(&values).as_deref(), Ok("sqlite3 data/x.db 'pragma optimize'\n"));
        let template = Template("true\nrm -rf {{ components.databse.sqlite }}/x".to_owned());
        assert_eq!(template.render(&values).map_err(|error| error.line), Err(2));
    }

    #[test]
    fn what_is_wrong_with_a_template_is_known_before_it_is_rendered() {
        assert_eq!(
            problem("echo {{ name }} {% for i in range(3) %}{{ i }}{% endfor %} ${HOME:-/root} ${#array}"),
            None
        );
        for text in ["echo {{ name", "echo {{ nmae }}", "{% if %}"] {
            assert!(problem(text).is_some(), "{text}");
        }
    }
}
