//! Files of secrets: the names are kept, the values never.
//!
//! What is kept of `/srv/app/.env` is `/srv/app/.env.names`: its names, one a line, in their order. A restore
//! puts that file down beside the place of the values, and never touches the values' own file.

use std::fs;
use std::path::{Path, PathBuf};

use super::LeftToPeople;
use super::restore::appended;
use crate::{Error, Result};

/// The ending of a file of names.
pub(super) const NAMES: &str = ".names";

/// Where the names of an env file are kept.
pub(super) fn names_file(path: &Path) -> PathBuf {
    appended(path, NAMES)
}

/// Reads the names of an env file, in order, each once.
///
/// Fails when it is missing, cannot be read, or has a line that is neither empty, a comment nor `NAME=…`:
/// such a line may be the rest of a secret, and its name would be one, too.
pub(super) fn names(path: &Path) -> Result<Vec<String>> {
    let text = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let hint = "create it, or correct `env_files:` in the plan".to_owned();
            return Err(Error::Missing { path: path.to_owned(), hint });
        }
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let entries = parse(&text).map_err(|line| Error::BadSource {
        path: path.to_owned(),
        why: format!("line {line} is not of the form NAME=value"),
    })?;
    let mut names: Vec<String> = Vec::new();
    for (name, _) in entries {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        let why = "it holds no names: an env file without any is not worth a plan's line".to_owned();
        return Err(Error::BadSource { path: path.to_owned(), why });
    }
    Ok(names)
}

/// Tells which of the recorded names have no value now.
pub(super) fn left(path: &Path, recorded: &[String]) -> Option<LeftToPeople> {
    let entries = fs::read(path).ok().and_then(|text| parse(&text).ok()).unwrap_or_default();
    let has_value = |name: &String| entries.iter().any(|(there, filled)| there == name && *filled);
    let names: Vec<String> = recorded.iter().filter(|&name| !has_value(name)).cloned().collect();
    let what = format!("fill in the values of {}", path.display());
    (!names.is_empty()).then(|| LeftToPeople { path: path.to_owned(), what, names })
}

/// Splits a text into names and whether each has a value; the number of the first line that has no name
/// otherwise.
///
/// A value in quotes may go over several lines, as compose and most shells have it.
fn parse(text: &[u8]) -> std::result::Result<Vec<(String, bool)>, usize> {
    let text = String::from_utf8_lossy(text);
    let mut entries = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let name = name.trim();
        let plain =
            |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-');
        let named = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !named || !name.chars().all(plain) || !line.contains('=') {
            return Err(number + 1);
        }
        let value = value.trim();
        if let Some(quote) = value.chars().next().filter(|&first| matches!(first, '"' | '\'')) {
            let mut open = !closes(&value[1..], quote);
            while open {
                let Some((_, more)) = lines.next() else { return Err(number + 1) };
                open = !closes(more, quote);
            }
        }
        let filled = !matches!(value, "" | "\"\"" | "''");
        entries.push((name.to_owned(), filled));
    }
    Ok(entries)
}

/// Tells whether a quoted value ends in this text; a backslash keeps a double quote from ending it.
fn closes(text: &str, quote: char) -> bool {
    let mut escaped = false;
    for character in text.chars() {
        if character == quote && !escaped {
            return true;
        }
        escaped = quote == '"' && character == '\\' && !escaped;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_values() {
        let text = b"# of the hub\nSECRET_KEY=abc=def\nexport TOKEN = \"two\nEVIL=lines \\\" of\" # end\n\nEMPTY=\nNONE=''\n";
        let names = |entries: Vec<(String, bool)>| {
            entries.into_iter().map(|(name, filled)| format!("{name} {filled}")).collect::<Vec<_>>()
        };
        assert_eq!(
            parse(text).map(names),
            Ok(vec![
                "SECRET_KEY true".to_owned(),
                "TOKEN true".to_owned(),
                "EMPTY false".to_owned(),
                "NONE false".to_owned()
            ])
        );
        assert_eq!(parse(b"A=1\nthe rest of a secret\n"), Err(2));
        assert_eq!(
            parse(b"A=1\nc2VjcmV0Cg==\n").map(names),
            Ok(vec!["A true".to_owned(), "c2VjcmV0Cg true".to_owned()])
        );
        assert_eq!(parse(b"A=\"never closed\nB=2\n"), Err(1));
    }
}
