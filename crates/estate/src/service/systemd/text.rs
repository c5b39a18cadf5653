//! The syntax of unit files, of words in them, and of environment files, as systemd reads them. Pure: text in, data out.
//!
//! The rules are those of systemd.syntax(7), systemd.service(5) and systemd.exec(5), and where these are silent or wrong,
//! those of systemd's own parser: a quote may also begin within a word, an unknown escape stays as it is written.

/// The blanks between words.
const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// `KEY=VALUE` under a `[SECTION]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub section: String,
    pub key: String,
    pub value: String,
}

/// Reads a unit file or a drop-in; an unreadable section header spoils the file, an unreadable line only itself.
pub(super) fn assignments(text: &str) -> Result<Vec<Assignment>, String> {
    let mut found = Vec::new();
    let mut section: Option<String> = None;
    for line in logical_lines(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let name = header.strip_suffix(']').ok_or_else(|| format!("the header {line:?} has no end"))?;
            section = Some(name.to_owned());
        } else if let (Some(section), Some((key, value))) = (&section, line.split_once('=')) {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            found.push(Assignment { section: section.clone(), key, value });
        }
    }
    Ok(found)
}

/// Lines without comments; one that ends with a backslash goes on in the next that is no comment.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let mut whole = open.take().unwrap_or_default();
        whole.push_str(line);
        let backslashes = whole.len() - whole.trim_end_matches('\\').len();
        if backslashes % 2 == 1 {
            whole.pop();
            whole.push(' ');
            open = Some(whole);
        } else {
            lines.push(whole);
        }
    }
    lines.extend(open);
    lines
}

/// Takes the first word off a text: quotes are removed, escapes are what they stand for.
pub(super) fn next_word(rest: &mut &str) -> Result<Option<String>, String> {
    let text = rest.trim_start_matches(BLANKS);
    if text.is_empty() {
        *rest = text;
        return Ok(None);
    }
    let mut word = Vec::new();
    let mut quote = None;
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        match letter {
            '\\' => {
                let taken = unescape(&text[at + 1..], &mut word);
                if taken == 0 {
                    word.push(b'\\');
                }
                at += taken;
            }
            _ if quote == Some(letter) => quote = None,
            '\'' | '"' if quote.is_none() => quote = Some(letter),
            _ if quote.is_none() && BLANKS.contains(&letter) => break,
            _ => word.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        at += letter.len_utf8();
    }
    if let Some(quote) = quote {
        return Err(format!("a quotation that began with {quote} has no end"));
    }
    *rest = &text[at..];
    String::from_utf8(word).map(Some).map_err(|_| "an escape makes what is not UTF-8".to_owned())
}

/// All words of a text.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut rest = text;
    let mut words = Vec::new();
    while let Some(word) = next_word(&mut rest)? {
        words.push(word);
    }
    Ok(words)
}

/// The words of a variable's value: a backslash takes the next letter as it is, and a quotation may have no end.
pub(super) fn loose_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if quote.is_none() && BLANKS.contains(&letter) {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match letter {
            '\\' => word.extend(letters.next()),
            _ if quote == Some(letter) => quote = None,
            '\'' | '"' if quote.is_none() => quote = Some(letter),
            _ => word.push(letter),
        }
    }
    words.extend(word);
    words
}

/// Appends what the escape behind a backslash stands for; tells how many bytes it is, none if it is no escape.
fn unescape(behind: &str, word: &mut Vec<u8>) -> usize {
    let Some(letter) = behind.chars().next() else { return 0 };
    let simple = match letter {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        's' => b' ',
        '\\' | '"' | '\'' => letter as u8,
        'x' => return number(behind, 1, 2, 16, word),
        'u' => return number(behind, 1, 4, 16, word),
        'U' => return number(behind, 1, 8, 16, word),
        '0'..='7' => return number(behind, 0, 3, 8, word),
        _ => return 0,
    };
    word.push(simple);
    1
}

/// Two or three digits are a byte, four or eight a letter; nothing may be NUL.
fn number(behind: &str, from: usize, digits: usize, radix: u32, word: &mut Vec<u8>) -> usize {
    let Some(text) = behind.get(from..from + digits) else { return 0 };
    let is_number = text.chars().all(|digit| digit.is_digit(radix));
    match u32::from_str_radix(text, radix) {
        Ok(value @ 1..) if is_number && digits <= 3 => match u8::try_from(value) {
            Ok(byte) => word.push(byte),
            Err(_) => return 0,
        },
        Ok(value @ 1..) if is_number => match char::from_u32(value) {
            Some(letter) => word.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            None => return 0,
        },
        _ => return 0,
    }
    from + digits
}

/// Reads an environment file: a line for each variable, quotes and backslashes as in a shell, nothing expanded.
pub(super) fn environment(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|letter| BLANKS.contains(letter)).is_some() {}
        match letters.peek() {
            None => return found,
            // Up to version 253 a comment that ends with a backslash went on in the next line.
            Some('#' | ';') => while letters.next_if(|letter| *letter != '\n').is_some() {},
            Some(_) => {
                let mut key = String::new();
                while let Some(letter) = letters.next_if(|letter| !['=', '\n', '\r'].contains(letter)) {
                    key.push(letter);
                }
                if letters.next() == Some('=') {
                    let value = value(&mut letters);
                    if is_variable(key.trim_end()) {
                        found.push((key.trim_end().to_owned(), value));
                    }
                }
            }
        }
    }
}

/// Tells whether systemd takes it for the name of a variable.
pub(super) fn is_variable(name: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()) && name.chars().all(is_plain)
}

type Letters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Up to the end of the line; quotes count only at the beginning and right behind another quotation.
fn value(letters: &mut Letters<'_>) -> String {
    let mut value = String::new();
    // Blanks at the end of what is not quoted do not count.
    let mut keep = 0;
    let mut at_beginning = true;
    while let Some(letter) = letters.next() {
        match letter {
            '\n' | '\r' => break,
            '\'' if at_beginning => value.extend(letters.by_ref().take_while(|letter| *letter != '\'')),
            '"' if at_beginning => double_quoted(letters, &mut value),
            ' ' | '\t' if at_beginning => continue,
            ' ' | '\t' => {
                value.push(letter);
                continue;
            }
            '\\' => {
                at_beginning = false;
                // Without what is escaped, a line that goes on.
                value.extend(letters.next().filter(|escaped| *escaped != '\n'));
            }
            _ => {
                at_beginning = false;
                value.push(letter);
            }
        }
        keep = value.len();
    }
    value.truncate(keep);
    value
}

fn double_quoted(letters: &mut Letters<'_>, value: &mut String) {
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return,
            '\\' => match letters.next() {
                Some(escaped @ ('"' | '\\' | '`' | '$')) => value.push(escaped),
                Some('\n') | None => {}
                Some(other) => value.extend(['\\', other]),
            },
            _ => value.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(String, String, String)> {
        let found = assignments(text).unwrap();
        found.into_iter().map(|found| (found.section, found.key, found.value)).collect()
    }

    #[test]
    fn lines_go_on_and_comments_do_not_count() {
        let text = "\u{feff}lost=1\n[Unit]\nDescription = a = b \n# no\n; no\n[Service]\r\nExecStart=/bin/a \\\n\
                    # in between\n   b\\\\\nnonsense\nType=";
        let found = read(text);
        let expected = [
            ("Unit", "Description", "a = b"),
            ("Service", "ExecStart", r"/bin/a     b\\"),
            ("Service", "Type", ""),
        ];
        assert_eq!(
            found,
            expected.map(|(section, key, value)| (section.into(), key.into(), value.into())).to_vec()
        );
        assert_eq!(read("[A]\nb=c \\").len(), 1);
        assert!(assignments("[Service\nType=simple").is_err());
    }

    #[test]
    fn words_are_split_as_systemd_does() {
        let check = |text: &str, expected: &[&str]| assert_eq!(words(text).unwrap(), expected, "{text}");
        check(r#"a "b c" 'd "e' f"g h"i"#, &["a", "b c", "d \"e", "fg hi"]);
        check(r#"\x41\102 a\sb \u00e4 "\tx" \q \"#, &["AB", "a b", "ä", "\tx", r"\q", r"\"]);
        check(r"\xc3\xa4 \x00 \400 \ud800 \x4", &["ä", r"\x00", r"\400", r"\ud800", r"\x4"]);
        check("  ", &[]);
        check("'' \"\"", &["", ""]);
        for bad in ["'a", "a \"b c", r"\xff"] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_variables_are_split_loosely() {
        assert_eq!(loose_words(" a 'b c'\"d\" e\\ f\\n '' "), ["a", "b cd", "e fn", ""]);
        assert_eq!(loose_words("a 'b c\\"), ["a", "b c"]);
    }

    #[test]
    fn environment_files_are_read() {
        let text = "# no\nA=1\n B = two words \nC=\"q \\\" \\n $A\" tail\nD='it''s'\nI=it's\n;no=1\nE=a\\\n b\nbad name=1\n\
                    9=x\nF=\nG=back\\ slash\njunk\nH=last";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "q \" \\n $Atail"),
            ("D", "its"),
            ("I", "it's"),
            ("E", "a b"),
            ("F", ""),
            ("G", "back slash"),
            ("H", "last"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment(text), expected);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "[\\[\\]=A-Zab0-9xuU\\\\'\"#; \\n\\r%${}ä]*", any in ".*") {
            for text in [&text, &any] {
                let _ = assignments(text);
                let _ = words(text);
                let _ = loose_words(text);
                let _ = environment(text);
            }
        }

        #[test]
        fn quoted_words_come_back(list in proptest::collection::vec("[^\\x00]{0,12}", 0..5)) {
            let quoted = |word: &String| format!("\"{}\"", word.replace('\\', r"\\").replace('"', "\\\""));
            let text = list.iter().map(quoted).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(words(&text).unwrap(), list);
        }

        #[test]
        fn quoted_variables_come_back(value in "[^'\\x00]*") {
            prop_assert_eq!(environment(&format!("A='{value}'\n")), [("A".to_owned(), value)]);
        }
    }
}
