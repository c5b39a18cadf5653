//! Reads JSON from the front, value by value, without building anything: what parsing a large tree needs.
//!
//! Follows Go where readers differ: a lone surrogate or a byte that is not UTF-8 becomes U+FFFD. Nothing recurses,
//! so nesting cannot exhaust the stack.

use std::borrow::Cow;

/// What was expected at a byte offset and not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unexpected {
    pub(super) offset: usize,
    pub(super) expected: &'static str,
}

type Result<T> = std::result::Result<T, Unexpected>;

/// A position in a JSON text.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The bytes between the quotes of a JSON string, escapes and all.
#[derive(Clone, Copy)]
pub(super) struct RawString<'a> {
    bytes: &'a [u8],
    /// ASCII without any escape, so that the bytes are the text.
    plain: bool,
}

/// What ends a run of bytes that stand for themselves: the quote, an escape, a control character, or not ASCII.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        special[byte] = byte < 0x20 || byte >= 0x80 || byte == b'"' as usize || byte == b'\\' as usize;
        byte += 1;
    }
    special
};

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn fail<T>(&self, expected: &'static str) -> Result<T> {
        Err(Unexpected { offset: self.at, expected })
    }

    /// The next byte that is not white space, still to be read.
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Reads `byte` if it is next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, byte: u8, expected: &'static str) -> Result<()> {
        if self.take(byte) { Ok(()) } else { self.fail(expected) }
    }

    /// Reads `null` if it is next.
    pub(super) fn take_null(&mut self) -> bool {
        let found = self.peek() == Some(b'n') && self.bytes[self.at..].starts_with(b"null");
        self.at += if found { 4 } else { 0 };
        found
    }

    pub(super) fn expect_end(&mut self) -> Result<()> {
        if self.peek().is_none() { Ok(()) } else { self.fail("the end") }
    }

    /// Steps to the next field of an object whose `{` was read; gives its key, `None` after its `}`.
    pub(super) fn next_field(&mut self, first: &mut bool) -> Result<Option<RawString<'a>>> {
        if !self.next_in(b'}', first, "`,` or `}`")? {
            return Ok(None);
        }
        let key = self.string()?;
        self.expect(b':', "`:`")?;
        Ok(Some(key))
    }

    /// Steps to the next item of an array whose `[` was read; `false` after its `]`.
    pub(super) fn next_item(&mut self, first: &mut bool) -> Result<bool> {
        self.next_in(b']', first, "`,` or `]`")
    }

    fn next_in(&mut self, end: u8, first: &mut bool, expected: &'static str) -> Result<bool> {
        if std::mem::replace(first, false) {
            return Ok(!self.take(end));
        }
        if self.take(b',') {
            return Ok(true);
        }
        self.expect(end, expected)?;
        Ok(false)
    }

    pub(super) fn string(&mut self) -> Result<RawString<'a>> {
        self.expect(b'"', "a string")?;
        let start = self.at;
        let mut plain = true;
        loop {
            self.at += self.bytes[self.at..].iter().take_while(|byte| !SPECIAL[usize::from(**byte)]).count();
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    plain = false;
                    // Whatever is escaped is no end of the string; what it means is for `RawString::text`.
                    self.at += 2;
                    if self.at > self.bytes.len() {
                        self.at = self.bytes.len();
                        return self.fail("the end of a string");
                    }
                }
                Some(0x80..) => {
                    plain = false;
                    self.at += 1;
                }
                Some(_) => return self.fail("no control character in a string"),
                None => return self.fail("the end of a string"),
            }
        }
        let bytes = &self.bytes[start..self.at];
        self.at += 1;
        Ok(RawString { bytes, plain })
    }

    /// Reads a natural number that fits 64 bits.
    pub(super) fn number(&mut self) -> Result<u64> {
        const EXPECTED: &str = "a natural number";
        self.peek();
        let digits = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = &self.bytes[self.at..self.at + digits];
        if digits == 0 || (digits > 1 && text[0] == b'0') {
            return self.fail(EXPECTED);
        }
        let step = |value: u64, digit: &u8| value.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
        let Some(value) = text.iter().try_fold(0, step) else { return self.fail(EXPECTED) };
        self.at += digits;
        if matches!(self.bytes.get(self.at), Some(b'.' | b'e' | b'E')) {
            return self.fail(EXPECTED);
        }
        Ok(value)
    }

    /// Reads a string of 64 hexadecimal digits.
    pub(super) fn id(&mut self) -> Result<[u8; 32]> {
        const EXPECTED: &str = "an id of 64 hexadecimal digits";
        self.peek();
        let Some([b'"', digits @ .., b'"']) = self.bytes[self.at..].first_chunk::<66>() else {
            return self.fail(EXPECTED);
        };
        let mut id = [0; 32];
        let mut seen = 0;
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (HEX[usize::from(pair[0])], HEX[usize::from(pair[1])]);
            seen |= high | low;
            *byte = high << 4 | low & 15;
        }
        if seen > 15 {
            return self.fail(EXPECTED);
        }
        self.at += 66;
        Ok(id)
    }

    /// Reads any value; gives its bytes.
    pub(super) fn skip_value(&mut self) -> Result<&'a [u8]> {
        self.peek();
        let start = self.at;
        let mut open = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => _ = self.string()?,
                Some(b'{') => {
                    self.at += 1;
                    if !self.take(b'}') {
                        open.push(b'}');
                        self.skip_key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.take(b']') {
                        open.push(b']');
                        continue;
                    }
                }
                _ => self.skip_word()?,
            }
            while let Some(end) = open.last().copied() {
                if self.take(b',') {
                    if end == b'}' {
                        self.skip_key()?;
                    }
                    break;
                }
                self.expect(end, "`,` or the end of an array or object")?;
                open.pop();
            }
            if open.is_empty() {
                return Ok(&self.bytes[start..self.at]);
            }
        }
    }

    fn skip_key(&mut self) -> Result<()> {
        self.string()?;
        self.expect(b':', "`:`")
    }

    /// Reads a number, `true`, `false` or `null`; how exactly a number that nobody uses is written is not checked.
    fn skip_word(&mut self) -> Result<()> {
        let rest = &self.bytes[self.at..];
        let length =
            rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        let word = &rest[..length];
        let number = word.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-');
        if !number && ![b"true".as_slice(), b"false", b"null"].contains(&word) {
            return self.fail("a value");
        }
        self.at += length;
        Ok(())
    }
}

impl<'a> RawString<'a> {
    /// The bytes between the quotes, if they are the text.
    pub(super) fn as_plain(self) -> Option<&'a [u8]> {
        self.plain.then_some(self.bytes)
    }

    /// The text; `None` when it has an escape that JSON does not know.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        if self.bytes.contains(&b'\\') {
            return unescape(self.bytes).map(Cow::Owned);
        }
        Some(String::from_utf8_lossy(self.bytes))
    }
}

fn unescape(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        push_lossy(&rest[..at], &mut out);
        let (kind, after) = rest[at + 1..].split_first()?;
        rest = after;
        match kind {
            b'"' | b'\\' | b'/' => out.push(char::from(*kind)),
            b'b' => out.push('\x08'),
            b'f' => out.push('\x0c'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => out.push(unescape_unicode(&mut rest)?),
            _ => return None,
        }
    }
    push_lossy(rest, &mut out);
    Some(out)
}

fn push_lossy(bytes: &[u8], out: &mut String) {
    out.push_str(&String::from_utf8_lossy(bytes));
}

fn unescape_unicode(rest: &mut &[u8]) -> Option<char> {
    let first = four_digits(rest)?;
    *rest = &rest[4..];
    if let (0xd800..=0xdbff, Some([b'\\', b'u', low @ ..])) = (first, rest.first_chunk::<6>())
        && let Some(low @ 0xdc00..=0xdfff) = four_digits(low)
    {
        *rest = &rest[6..];
        return char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00));
    }
    Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
}

fn four_digits(text: &[u8]) -> Option<u32> {
    text.first_chunk::<4>()?
        .iter()
        .try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

const NO_DIGIT: u8 = 0xff;

/// Values of lower-case digits; ids are written so.
const HEX: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(json: &str) -> Option<String> {
        let mut cursor = Cursor::new(json.as_bytes());
        let text = cursor.string().ok()?.text()?.into_owned();
        cursor.expect_end().ok()?;
        Some(text)
    }

    #[test]
    fn strings() {
        assert_eq!(text_of(r#" "" "#).unwrap(), "");
        assert_eq!(text_of(r#""a\"\\\/\b\f\n\r\t\u00e9\ud83e\udd80é""#).unwrap(), "a\"\\/\x08\x0c\n\r\té🦀é");
        assert_eq!(text_of(r#""\ud83e""#).unwrap(), "\u{fffd}");
        assert_eq!(text_of(r#""\ud83e\u0041\udd80""#).unwrap(), "\u{fffd}A\u{fffd}");
        for json in ["", "\"", "\"\\", "\"\\\"", "\"\n\"", r#""\x""#, r#""\u12"x"#, r#""\u123g""#, "a"] {
            assert_eq!(text_of(json), None, "{json}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        for json in [b"\"a\xffb\"".as_slice(), b"\"\\u0061\xffb\""] {
            assert_eq!(Cursor::new(json).string().unwrap().text().unwrap(), "a\u{fffd}b");
        }
    }

    #[test]
    fn numbers() {
        let number = |json: &str| {
            let mut cursor = Cursor::new(json.as_bytes());
            let value = cursor.number()?;
            cursor.expect_end().map(|()| value)
        };
        assert_eq!(number(" 0 "), Ok(0));
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
        for json in ["", "-1", "01", "1.0", "1e3", "18446744073709551616", "x", "\"1\""] {
            assert!(number(json).is_err(), "{json}");
        }
    }

    #[test]
    fn ids_are_lower_case_and_complete() {
        let digits = "00ff".repeat(16);
        let id = |text: &str| Cursor::new(text.as_bytes()).id();
        assert_eq!(id(&format!("\"{digits}\"")), Ok([0, 0xff].repeat(16).try_into().unwrap()));
        for text in
            [digits.to_uppercase(), digits.replace('0', "g"), digits[1..].to_owned(), format!("{digits}0")]
        {
            assert!(id(&format!("\"{text}\"")).is_err(), "{text}");
        }
    }

    #[test]
    fn skips_whole_values() {
        for value in [
            "1",
            "-1.5e+3",
            "true",
            "null",
            "\"a]\"",
            "{}",
            "[]",
            "[[],{\"a\":[1,{}]}, 2]",
            "{\"a\" : 1 , \"b\":[]}",
        ] {
            let json = format!(" {value} ,");
            let mut cursor = Cursor::new(json.as_bytes());
            assert_eq!(cursor.skip_value(), Ok(value.as_bytes()));
            assert!(cursor.take(b','));
        }
        for json in ["", "[", "{", "[1,", "{\"a\"", "{\"a\":}", "[1}", "[,]", "{1:2}", "nul", "[1 2]", ","] {
            assert!(Cursor::new(json.as_bytes()).skip_value().is_err(), "{json}");
        }
    }

    #[test]
    fn nesting_needs_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(Cursor::new(deep.as_bytes()).skip_value().unwrap().len(), deep.len());
        assert!(Cursor::new(&deep.as_bytes()[1..]).skip_value().is_ok());
        assert!(Cursor::new(&deep.as_bytes()[..deep.len() - 1]).skip_value().is_err());
    }

    proptest! {
        /// An independent reader agrees about every string that it accepts.
        #[test]
        fn agrees_with_serde_json(text in ".*") {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(text_of(&json), Some(text));
        }
    }
}
