//! What a key may look like; every store asks here before it touches anything.

use crate::{Error, ErrorKind, Result};

/// Refuses a key that breaks the rule of [`Store`](crate::Store).
pub(crate) fn check(operation: &'static str, key: &str, location: impl FnOnce() -> String) -> Result<()> {
    if is_key(key) {
        return Ok(());
    }
    let reason = "not a valid key: segments of letters, digits, '.', '_' and '-', none starting with '.', \
                  joined by '/'";
    Err(Error::new(ErrorKind::Other, operation, &format!("{key:?}"), location(), reason))
}

/// Refuses a prefix that is neither empty nor shaped like a key.
pub(crate) fn check_prefix(prefix: &str, location: impl FnOnce() -> String) -> Result<()> {
    if prefix.is_empty() { Ok(()) } else { check("list", prefix, location) }
}

/// Whether `key` is below `prefix`: in the folder of that name, not merely starting with its letters.
pub(crate) fn is_below(key: &str, prefix: &str) -> bool {
    prefix.is_empty() || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether `text` is a key.
pub(crate) fn is_key(text: &str) -> bool {
    text.split('/').all(is_segment)
}

/// Whether `text` may stand between two slashes of a key.
pub(crate) fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
