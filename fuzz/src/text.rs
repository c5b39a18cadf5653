//! Names, times and patterns.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use repository::Patterns;
use repository::format::{Time, parse_tree};

/// A name in a tree, from the text as which it is written and from the bytes that it is.
pub fn name(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let text = serde_json::to_string(text).expect("a text");
        check_name(format!("{{\"nodes\":[{{\"name\":{text},\"type\":\"file\"}}]}}").as_bytes(), None);
    }
    let mut escaped = Vec::new();
    for byte in data {
        escaped.extend_from_slice(format!("\\\\x{byte:02x}").as_bytes());
    }
    let json = [b"{\"nodes\":[{\"name\":\"".as_slice(), &escaped, b"\",\"type\":\"file\"}]}"].concat();
    check_name(&json, Some(data));
}

fn check_name(json: &[u8], expected: Option<&[u8]>) {
    let Ok(nodes) = parse_tree(json) else {
        let is_segment = |name: &[u8]| {
            !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
        };
        assert!(expected.is_none_or(|name| !is_segment(name)), "a sound name is refused");
        return;
    };
    let name = &nodes[0].name;
    assert!(!name.contains(&b'/') && !name.contains(&0));
    assert!(Path::new("/target").join(OsStr::from_bytes(name)).parent() == Some(Path::new("/target")));
    if let Some(expected) = expected {
        assert_eq!(name, expected);
    }
    crate::tree(json);
}

/// A time that parses can be written, and then has one spelling for good.
pub fn time(data: &[u8]) {
    let Some(time) = Time::parse(data) else { return };
    assert!(time.nanos < 1_000_000_000);
    let text = time.to_string();
    let again = Time::parse(text.as_bytes()).expect("what we write parses");
    assert_eq!(again.to_string(), text);
    // Offsets lead at most a day beyond the years that can be written, and `jiff` ends a little before those.
    let writable = (-62_167_219_200..=253_402_300_799).contains(&time.seconds);
    assert!(!writable || again == time);
    assert!(time.to_timestamp().as_second().abs_diff(time.seconds) <= 3 * 86_400);
}

/// Patterns, a line each, and below an empty line the paths that they are asked about.
pub fn patterns(data: &[u8]) {
    let Some(split) = data.windows(2).position(|pair| pair == b"\n\n") else { return };
    let Ok(text) = std::str::from_utf8(&data[..split]) else { return };
    for case_insensitive in [false, true] {
        let Ok(patterns) = Patterns::parse(text.lines(), case_insensitive) else { continue };
        for path in data[split + 2..].split(|byte| *byte == b'\n').take(16) {
            check_path(&patterns, path);
        }
    }
}

fn check_path(patterns: &Patterns, path: &[u8]) {
    if path.first() != Some(&b'/')
        || path.split(|byte| *byte == b'/').any(|part| part == b".." || part == b".")
    {
        return;
    }
    let path = Path::new(OsStr::from_bytes(path));
    if !patterns.matches(path) {
        return;
    }
    for dir in path.ancestors().skip(1) {
        assert!(patterns.may_match_below(dir), "{path:?} is chosen, yet nothing below {dir:?} could be");
    }
}
