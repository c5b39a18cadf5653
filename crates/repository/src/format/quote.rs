//! Names as the format keeps them: Go's `strconv.Quote` without the outer quotes.
//!
//! That keeps any bytes, UTF-8 or not, in a JSON string. Readable text stays as it is; other bytes become
//! `\xNN`, other characters `\uNNNN`. Reading accepts every escape that Go's `strconv.Unquote` accepts.

use super::json_text::{hex_digit, is_plain, write_string};
use super::printable::is_printable;

/// Appends `name` quoted and as a JSON string with its quotes.
pub(super) fn write_name(name: &[u8], out: &mut Vec<u8>) {
    if is_plain(name) {
        out.push(b'"');
        out.extend_from_slice(name);
        out.push(b'"');
    } else {
        write_string(&quote(name), out);
    }
}

/// Quotes a name.
fn quote(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() * 2);
    for chunk in name.utf8_chunks() {
        for part in chunk.valid().chars() {
            quote_char(part, &mut out);
        }
        for byte in chunk.invalid() {
            write_escape(b'x', 2, u32::from(*byte), &mut out);
        }
    }
    out
}

fn quote_char(part: char, out: &mut Vec<u8>) {
    match part {
        '"' | '\\' => out.extend_from_slice(&[b'\\', part as u8]),
        part if is_printable(part) => out.extend_from_slice(part.encode_utf8(&mut [0; 4]).as_bytes()),
        '\x07' => out.extend_from_slice(b"\\a"),
        '\x08' => out.extend_from_slice(b"\\b"),
        '\x0c' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\x0b' => out.extend_from_slice(b"\\v"),
        '\0'..' ' | '\x7f' => write_escape(b'x', 2, u32::from(part), out),
        '\u{80}'..='\u{ffff}' => write_escape(b'u', 4, u32::from(part), out),
        _ => write_escape(b'U', 8, u32::from(part), out),
    }
}

fn write_escape(kind: u8, digits: u32, value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'\\', kind]);
    for place in (0..digits).rev() {
        out.push(hex_digit(value >> (4 * place)));
    }
}

/// Gives the bytes of a quoted name, `None` when no quoting gives this text.
pub(super) fn unquote(text: &str) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        let plain = rest.find(['\\', '"', '\n']).unwrap_or(rest.len());
        name.extend_from_slice(&rest.as_bytes()[..plain]);
        rest = &rest[plain..];
        if rest.is_empty() {
            return Some(name);
        }
        rest = unquote_escape(rest.strip_prefix('\\')?, &mut name)?;
    }
}

/// Reads what follows a backslash; gives what follows the escape.
fn unquote_escape<'a>(text: &'a str, name: &mut Vec<u8>) -> Option<&'a str> {
    let kind = *text.as_bytes().first()?;
    let byte = match kind {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' | b'"' => kind,
        b'x' => {
            name.push(u8::try_from(number(text.get(1..3)?, 16)?).ok()?);
            return text.get(3..);
        }
        b'0'..=b'7' => {
            name.push(u8::try_from(number(text.get(..3)?, 8)?).ok()?);
            return text.get(3..);
        }
        b'u' | b'U' => {
            let end = if kind == b'u' { 5 } else { 9 };
            let part = char::from_u32(number(text.get(1..end)?, 16)?)?;
            name.extend_from_slice(part.encode_utf8(&mut [0; 4]).as_bytes());
            return text.get(end..);
        }
        _ => return None,
    };
    name.push(byte);
    text.get(1..)
}

/// Digits only: the standard parser would also take a sign.
fn number(digits: &str, radix: u32) -> Option<u32> {
    digits
        .chars()
        .try_fold(0_u32, |value, digit| value.checked_mul(radix)?.checked_add(digit.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(name: &[u8]) -> String {
        String::from_utf8(quote(name)).unwrap()
    }

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(quoted(b"a b\"c\\d"), r#"a b\"c\\d"#);
        assert_eq!(quoted(b"\x01\x07\x08\x0c\n\r\t\x0b\x1f\x7f"), r"\x01\a\b\f\n\r\t\v\x1f\x7f");
        assert_eq!(quoted(b"\x80\xff\xc3"), r"\x80\xff\xc3");
        assert_eq!(quoted("é世🦀\u{fffd}<&>".as_bytes()), "é世🦀\u{fffd}<&>");
        assert_eq!(
            quoted("\u{a0}\u{ad}\u{2028}\u{feff}\u{e000}".as_bytes()),
            r"\u00a0\u00ad\u2028\ufeff\ue000"
        );
        assert_eq!(quoted("\u{10ffff}\u{e0001}".as_bytes()), r"\U0010ffff\U000e0001");
    }

    #[test]
    fn a_quoted_name_is_then_a_json_string() {
        let mut out = Vec::new();
        write_name(b"<a\xff\">", &mut out);
        assert_eq!(out, br#""\u003ca\\xff\\\"\u003e""#);
    }

    #[test]
    fn reads_every_escape() {
        assert_eq!(
            unquote(r#"\a\b\f\n\r\t\v\\\"\x41\101\u00e9\U0001f980"#).unwrap(),
            "\x07\x08\x0c\n\r\t\x0b\\\"AAé🦀".as_bytes()
        );
        assert_eq!(unquote(r"\377\xfF").unwrap(), b"\xff\xff");
        assert_eq!(unquote("\u{ad}\u{1}").unwrap(), "\u{ad}\u{1}".as_bytes());
    }

    #[test]
    fn rejects_what_go_rejects() {
        for text in [
            "\"",
            "\n",
            "\\",
            r"\'",
            r"\z",
            r"\x4",
            r"\x+1",
            r"\xg0",
            r"\400",
            r"\18",
            r"\ud800",
            r"\u12",
            r"\U00110000",
            r"\U0000",
            "\\xé",
            "\\é",
        ] {
            assert_eq!(unquote(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_name_reads_back(name in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(unquote(&quoted(&name)), Some(name));
        }

        #[test]
        fn every_text_reads_back(name in ".*") {
            prop_assert_eq!(unquote(&quoted(name.as_bytes())), Some(name.into_bytes()));
        }

        #[test]
        fn never_panics_on_any_text(text in "[\\\\xuU0-9a-f\"é]{0,20}") {
            let _ = unquote(&text);
        }
    }
}
