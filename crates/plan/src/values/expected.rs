//! What checks expect: texts, statuses, expressions, digests; and where they ask.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use crate::decode::{Decode, Reader};
use crate::schema::Schemas;
use crate::suggest;
use crate::yaml::{Entry, Node, Value};

/// What is expected of a text: `contains` is what plain text means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMatch {
    /// The text holds this somewhere.
    Contains(String),
    /// The text is this, white space at both ends aside.
    Equals(String),
    /// The text matches this regular expression somewhere.
    Regex(Pattern),
}

/// A regular expression that was compiled once, so that it is known to be valid. Syntax of the crate `regex`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub(crate) String);

impl Pattern {
    /// Gives the expression.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A JMESPath expression that was compiled once, so that it is known to be valid.
///
/// A plan may compare with a bare number (`length(@) > 0`), which JMESPath itself wants between backticks; here it has
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonExpression(pub(crate) String);

impl JsonExpression {
    /// Gives the expression.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value as a query yields it, as it is written in the plan: `ok`, `42`, `true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar(pub(crate) String);

impl Scalar {
    /// Gives the value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A SHA-256 as 64 hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sha256(pub(crate) String);

impl Sha256 {
    /// Gives the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A status of HTTP, or a class of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Exactly this one.
    Is(u16),
    /// All with this first digit: 2 is `2xx`.
    Class(u8),
}

/// A host, by name or address, and a port: `localhost:5432`, `[::1]:22`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The name or address, without brackets.
    pub host: String,
    /// The port, from 1.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

impl Decode for TextMatch {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return String::decode(node, reader).map(Self::Contains);
        };
        let [Entry { key, key_at, value, .. }] = entries.as_slice() else {
            let hint = "write exactly one of: contains, equals, matches";
            reader.say_with_hint(
                node.key_at.unwrap_or(node.at),
                "this says not exactly one thing about a text",
                hint,
            );
            return None;
        };
        match key.as_str() {
            "contains" => String::decode(value, reader).map(Self::Contains),
            // Unlike the others, an empty text can be told from anything else.
            "equals" => reader.text(value).map(|text| Self::Equals(text.to_owned())),
            "matches" => Pattern::decode(value, reader).map(Self::Regex),
            key => {
                let known = ["contains", "equals", "matches"];
                let hint = match suggest::closest(key, known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("known keys: {}", known.join(", ")),
                };
                reader.say_with_hint(*key_at, format!("an expected text has no key `{key}`"), hint);
                None
            }
        }
    }

    fn encode(&self) -> Option<Json> {
        Some(match self {
            Self::Contains(part) => json!({ "contains": part }),
            Self::Equals(whole) => json!({ "equals": whole }),
            Self::Regex(pattern) => json!({ "matches": pattern.0 }),
        })
    }

    fn schema(schemas: &mut Schemas) -> Json {
        let text = String::schema(schemas);
        let one = |key: &str, schema: &Json| {
            json!({
                "type": "object", "properties": { key: schema }, "required": [key],
                "additionalProperties": false,
            })
        };
        let any = json!({ "type": "string" });
        json!({ "anyOf": [text, one("contains", &text), one("equals", &any), one("matches", &text)] })
    }
}

impl Decode for Pattern {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = String::decode(node, reader)?;
        match regex::Regex::new(&text) {
            Ok(regex) if regex.is_match("") => {
                let hint = "a regular expression that says nothing cannot tell anything";
                reader.say_with_hint(node.at, format!("`{text}` matches everything"), hint);
                None
            }
            Ok(_) => Some(Self(text)),
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                let hint = "in single quotes a backslash stands for itself: '\\d+'";
                reader.say_with_hint(node.at, format!("`{text}` is not a regular expression: {why}"), hint);
                None
            }
        }
    }

    fn encode(&self) -> Option<Json> {
        Some(self.0.as_str().into())
    }

    fn schema(schemas: &mut Schemas) -> Json {
        String::schema(schemas)
    }
}

/// Longest JMESPath expression: its parser recurses (measured: 1900 `[` overflow a stack of 2 MiB).
const EXPRESSION_BYTES_MAX: usize = 500;

fn compile(text: &str) -> Result<String, String> {
    jmespath::compile(text).map(|_| text.to_owned()).map_err(|error| error.reason.to_string())
}

/// Puts numbers that something is compared with between backticks, as JMESPath wants them: `length(@) > 0`.
fn with_numbers(text: &str) -> String {
    let number =
        regex::Regex::new(r"(==|!=|<=?|>=?)\s*(-?[0-9]+(?:\.[0-9]+)?)").expect("the expression is valid");
    number.replace_all(text, "$1 `$2`").into_owned()
}

impl Decode for JsonExpression {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = String::decode(node, reader)?;
        let valid = match text.len() > EXPRESSION_BYTES_MAX {
            true => Err(format!("it is longer than {EXPRESSION_BYTES_MAX} bytes")),
            false => compile(&text).or_else(|why| compile(&with_numbers(&text)).map_err(|_| why)),
        };
        match valid {
            Ok(expression) => Some(Self(expression)),
            Err(why) => {
                let hint = "for example \"length(@) > `0`\"; see https://jmespath.org";
                reader.say_with_hint(node.at, format!("`{text}` is not a JMESPath expression: {why}"), hint);
                None
            }
        }
    }

    fn encode(&self) -> Option<Json> {
        Some(self.0.as_str().into())
    }

    fn schema(schemas: &mut Schemas) -> Json {
        String::schema(schemas)
    }
}

impl Decode for Scalar {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.scalar(node, "a value", "ok or 42").map(|text| Self(text.to_owned()))
    }

    fn encode(&self) -> Option<Json> {
        Some(self.0.as_str().into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

impl Decode for Sha256 {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let parse = |text: &str| match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err("it has not 64 hexadecimal digits".to_owned()),
        };
        reader.parsed(node, "a SHA-256", "what `sha256sum` prints", parse)
    }

    fn encode(&self) -> Option<Json> {
        Some(self.0.as_str().into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "string", "pattern": "^[0-9a-fA-F]{64}$" })
    }
}

impl Decode for Status {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a status of HTTP", "200 or 2xx", |text| {
            let class = text.strip_suffix("xx").filter(|class| class.len() == 1);
            if let Some(class) =
                class.and_then(|class| class.parse::<u8>().ok()).filter(|class| (1..=5).contains(class))
            {
                return Ok(Self::Class(class));
            }
            let status = text.parse::<u16>().ok().filter(|status| (100..600).contains(status));
            status.map(Self::Is).ok_or_else(|| "it is not from 100 to 599".to_owned())
        })
    }

    fn encode(&self) -> Option<Json> {
        Some(match self {
            Self::Is(status) => (*status).into(),
            Self::Class(class) => format!("{class}xx").into(),
        })
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^([1-5]xx|[1-5][0-9][0-9])$" },
        ] })
    }
}

impl Decode for HostPort {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a host and a port", "localhost:5432 or \"[::1]:22\"", |text| {
            let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            let port = port.ok_or("its port is not from 1 to 65535")?;
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host = match bare {
                Some(host) if host.parse::<std::net::Ipv6Addr>().is_ok() => host,
                None if !host.contains(|c: char| c.is_whitespace() || ":[]/@".contains(c)) => host,
                _ => return Err("its host is neither a name nor an address".to_owned()),
            };
            match host {
                "" => Err("it has no host".to_owned()),
                host => Ok(Self { host: host.to_owned(), port }),
            }
        })
    }

    fn encode(&self) -> Option<Json> {
        Some(self.to_string().into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "string", "pattern": "^.+:[0-9]+$" })
    }
}

impl Decode for IpAddr {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let parse = |text: &str| text.parse::<Self>().map_err(|_| "it has not the form of one".to_owned());
        reader.parsed(node, "an address", "127.0.0.1 or \"::1\"", parse)
    }

    fn encode(&self) -> Option<Json> {
        Some(self.to_string().into())
    }

    fn schema(_: &mut Schemas) -> Json {
        json!({ "type": "string", "pattern": "^[0-9a-fA-F:.]+$" })
    }
}

impl Decode for PathBuf {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = String::decode(node, reader)?;
        let problem = if text.contains("${") {
            Some((
                "a path is not looked up late",
                "write it out, and what differs elsewhere under `environments`",
            ))
        } else if text == "~" || text.starts_with("~/") {
            Some((
                "`~` is not replaced in a path",
                "write the directory out, or a path relative to the plan file",
            ))
        } else if text.contains('\0') {
            Some(("no path can hold a zero byte", "remove it"))
        } else {
            None
        };
        match problem {
            Some((message, hint)) => {
                reader.say_with_hint(node.at, message, hint);
                None
            }
            None => Some(Self::from(text)),
        }
    }

    fn encode(&self) -> Option<Json> {
        Some(self.to_str().expect("a path of a plan was text").into())
    }

    fn schema(schemas: &mut Schemas) -> Json {
        String::schema(schemas)
    }
}
