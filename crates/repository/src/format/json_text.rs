//! JSON as Go's `encoding/json` writes it, byte for byte, for the parts that trees need.
//!
//! Only writing lives here; reading is in `json_cursor`. Go escapes `<`, `>` and `&`, the two line separators
//! U+2028 and U+2029, and replaces what is not UTF-8 by U+FFFD. Tree hashes depend on all of it.

/// Bytes that stand for themselves in a JSON string and in a quoted name.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = !matches!(byte as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        byte += 1;
    }
    plain
};

/// Whether `text` needs no escape of any kind: printable ASCII without quotes, backslashes, `<`, `>` and `&`.
pub(super) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| PLAIN[usize::from(*byte)])
}

/// Appends `text` as a JSON string with its quotes.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        for chunk in text.utf8_chunks() {
            write_escaped(chunk.valid(), out);
            for _ in chunk.invalid() {
                out.extend_from_slice(b"\\ufffd");
            }
        }
    }
    out.push(b'"');
}

fn write_escaped(text: &str, out: &mut Vec<u8>) {
    for part in text.chars() {
        match part {
            '"' | '\\' => out.extend_from_slice(&[b'\\', part as u8]),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => write_unicode_escape(part, out),
            _ => out.extend_from_slice(part.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn write_unicode_escape(part: char, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(hex_digit(u32::from(part) >> shift));
    }
}

/// The lower-case digit of the lowest four bits.
pub(super) fn hex_digit(value: u32) -> u8 {
    b"0123456789abcdef"[(value & 15) as usize]
}

/// Appends a number in decimal digits.
pub(super) fn write_number(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends any JSON value, objects with their keys in order.
pub(super) fn write_value(value: &serde_json::Value, out: &mut Vec<u8>) {
    match value {
        serde_json::Value::String(text) => write_string(text.as_bytes(), out),
        serde_json::Value::Array(items) => write_list(b"[]", items, out, write_value),
        serde_json::Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            write_list(b"{}", sorted, out, |(key, value), out| {
                write_string(key.as_bytes(), out);
                out.push(b':');
                write_value(value, out);
            });
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
            out.extend_from_slice(value.to_string().as_bytes());
        }
    }
}

/// Appends `items` between two brackets, with commas.
pub(super) fn write_list<T>(
    brackets: &[u8; 2],
    items: impl IntoIterator<Item = T>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>),
) {
    out.push(brackets[0]);
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(brackets[1]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> String {
        let mut out = Vec::new();
        write_string(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_what_go_escapes() {
        assert_eq!(written(b"plain text"), r#""plain text""#);
        assert_eq!(written(b"a\"b\\c"), r#""a\"b\\c""#);
        assert_eq!(written(b"\n\r\t\x08\x0c\x00\x1f"), r#""\n\r\t\u0008\u000c\u0000\u001f""#);
        assert_eq!(written(b"<&>"), r#""\u003c\u0026\u003e""#);
        assert_eq!(written("\u{2028}\u{2029}é\u{7f}".as_bytes()), "\"\\u2028\\u2029é\u{7f}\"");
        assert_eq!(written(b"a\xff\xe2\x28b"), "\"a\\ufffd\\ufffd(b\"");
        assert_eq!(written(b"\xe2\x82"), r#""\ufffd\ufffd""#);
    }

    #[test]
    fn numbers_and_values() {
        let mut out = Vec::new();
        for value in [0, 7, 10, u64::MAX] {
            write_number(value, &mut out);
            out.push(b' ');
        }
        assert_eq!(out, b"0 7 10 18446744073709551615 ");
        out.clear();
        let value = serde_json::json!({"b": [1, null, true], "a": "<"});
        write_value(&value, &mut out);
        assert_eq!(out, br#"{"a":"\u003c","b":[1,null,true]}"#);
    }
}
