//! The environment, read in this one place.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A variable as it is; an empty one counts as not set.
#[expect(clippy::disallowed_methods, reason = "the command line is what reads the environment")]
pub fn raw(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A variable as text; bytes that are no text become replacement characters.
pub fn text(name: &str) -> Option<String> {
    raw(name).map(|value| value.to_string_lossy().into_owned())
}

/// A variable as bytes.
pub fn bytes(name: &str) -> Option<Vec<u8>> {
    raw(name).map(OsStringExt::into_vec)
}

/// A variable as a path.
pub fn path(name: &str) -> Option<PathBuf> {
    raw(name).map(PathBuf::from)
}

/// Replaces `$NAME` and `${NAME}` by the variables' values, and `$$` by a dollar, as restic does in exclude files.
pub fn expand(text: &str) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, tail) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        if let Some(tail) = after.strip_prefix('$') {
            expanded.push('$');
            rest = tail;
        } else if name.is_empty() {
            expanded.push('$');
            rest = after;
        } else {
            expanded.push_str(&self::text(name).unwrap_or_default());
            rest = tail;
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded() {
        let path = text("PATH").expect("PATH is set where tests run");
        assert_eq!(expand("a/$PATH/b"), format!("a/{path}/b"));
        assert_eq!(expand("${PATH}x"), format!("{path}x"));
        assert_eq!(expand("$$PATH $ $-"), "$PATH $ $-");
        assert_eq!(expand("$LIFEBOAT_IS_NOT_SET/x"), "/x");
    }
}
