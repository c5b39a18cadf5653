//! Scripts that PostgreSQL's programs write, taken apart into statements: they are run one at a time through our own
//! connection, so that nothing in them can speak to `psql` (CVE-2025-8714), and only those that are needed.

use std::collections::BTreeSet;

/// Splits a script into its statements, without comments and without what is meant for psql alone.
pub(super) fn statements(script: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut statement = String::new();
    let mut chars = script.chars().peekable();
    let skip_line = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        for char in chars.by_ref() {
            if char == '\n' {
                break;
            }
        }
    };
    while let Some(char) = chars.next() {
        match char {
            _ if statement.is_empty() && char.is_whitespace() => {}
            '\\' if statement.is_empty() => skip_line(&mut chars),
            '-' if chars.peek() == Some(&'-') => skip_line(&mut chars),
            ';' => statements.push(std::mem::take(&mut statement).trim_end().to_owned()),
            '\'' => {
                let escapes = is_escape(&statement);
                statement.push(char);
                quoted('\'', escapes, &mut chars, &mut statement);
            }
            '"' => {
                statement.push(char);
                quoted('"', false, &mut chars, &mut statement);
            }
            _ => statement.push(char),
        }
    }
    let rest = statement.trim_end();
    if !rest.is_empty() {
        statements.push(rest.to_owned());
    }
    statements
}

/// Takes over what is quoted up to and with its end; a doubled quote ends one and begins another.
fn quoted(
    quote: char,
    escapes: bool,
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    into: &mut String,
) {
    while let Some(char) = chars.next() {
        into.push(char);
        if char == '\\' && escapes {
            into.extend(chars.next());
        } else if char == quote {
            if chars.peek() != Some(&quote) {
                return;
            }
            into.extend(chars.next());
        }
    }
}

/// Tells whether a text that begins here is written as `E'…'`.
fn is_escape(before: &str) -> bool {
    let mut chars = before.chars().rev();
    matches!(chars.next(), Some('E' | 'e')) && !chars.next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// Chooses the statements of a script of roles that make those of `wanted` what they are; memberships count if either side is
/// wanted.
pub(super) fn about_roles<'a>(statements: &'a [String], wanted: &BTreeSet<String>) -> Vec<&'a str> {
    let is_wanted = |statement: &&str| roles_of(statement).iter().any(|name| wanted.contains(name));
    statements.iter().map(String::as_str).filter(is_wanted).collect()
}

/// The roles that a statement is about.
fn roles_of(statement: &str) -> Vec<String> {
    let first = |text: &str| identifier(text).map(|(name, _)| name).into_iter().collect();
    for head in ["CREATE ROLE ", "ALTER ROLE ", "COMMENT ON ROLE "] {
        if let Some(rest) = statement.strip_prefix(head) {
            return first(rest);
        }
    }
    if let Some(rest) = statement.strip_prefix("GRANT ")
        && let Some((group, rest)) = identifier(rest)
        && let Some(rest) = rest.strip_prefix(" TO ")
        && let Some((member, _)) = identifier(rest)
    {
        return vec![group, member];
    }
    if statement.starts_with("SECURITY LABEL ")
        && let Some((_, rest)) = statement.split_once(" ON ROLE ")
    {
        return first(rest);
    }
    Vec::new()
}

/// Reads an identifier as it is written in a statement, and what follows it.
pub(super) fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut chars = rest.char_indices().peekable();
        while let Some((at, char)) = chars.next() {
            if char != '"' {
                name.push(char);
            } else if chars.next_if(|(_, next)| *next == '"').is_some() {
                name.push('"');
            } else {
                return Some((name, &rest[at + 1..]));
            }
        }
        return None;
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || "_$".contains(c))).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// Writes an identifier.
pub(super) fn id(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_taken_apart() {
        let script = "--\n-- Roles; not a statement\n--\n\n\\restrict abc\nSET a = on;\n\
                      CREATE ROLE \"odd;\"\"name\";\nCOMMENT ON ROLE x IS 'it''s; -- here\n\\! rm';\n\
                      ALTER ROLE x SET y TO E'a\\';b';  SELECT 1 -- why\n;\n\\unrestrict abc\n";
        let found = statements(script);
        let expected = [
            "SET a = on",
            "CREATE ROLE \"odd;\"\"name\"",
            "COMMENT ON ROLE x IS 'it''s; -- here\n\\! rm'",
            "ALTER ROLE x SET y TO E'a\\';b'",
            "SELECT 1",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_cut_off_is_a_statement_that_the_server_refuses() {
        assert_eq!(
            statements("CREATE ROLE a;\nALTER ROLE a WITH PASSW"),
            ["CREATE ROLE a", "ALTER ROLE a WITH PASSW"]
        );
        assert_eq!(statements("COMMENT ON ROLE a IS 'x"), ["COMMENT ON ROLE a IS 'x"]);
    }

    #[test]
    fn only_what_is_about_missing_roles_is_chosen() {
        let all = statements(
            "SET x = on; CREATE ROLE keeper; ALTER ROLE keeper WITH LOGIN; CREATE ROLE \"o\"\"dd\"; ALTER ROLE \"o\"\"dd\" \
             SET search_path TO 'a'; GRANT keeper TO \"o\"\"dd\" GRANTED BY postgres; GRANT a TO b; COMMENT ON ROLE a IS ''",
        );
        let wanted = BTreeSet::from(["o\"dd".to_owned()]);
        let expected = [
            "CREATE ROLE \"o\"\"dd\"",
            "ALTER ROLE \"o\"\"dd\" SET search_path TO 'a'",
            "GRANT keeper TO \"o\"\"dd\" GRANTED BY postgres",
        ];
        assert_eq!(about_roles(&all, &wanted), expected);
        assert_eq!(about_roles(&all, &BTreeSet::new()), [""; 0]);
    }

    #[test]
    fn identifiers_are_written_and_read() {
        for name in ["a", "O dd", "a\"b\"", "ä;x"] {
            assert_eq!(identifier(&format!("{} WITH", id(name))), Some((name.to_owned(), " WITH")));
        }
        assert_eq!(identifier("plain TO x"), Some(("plain".to_owned(), " TO x")));
        assert_eq!(identifier("\"open"), None);
    }
}
