//! Patterns that choose paths, in restic's syntax: what `--exclude`, `--iexclude` and `--include` take.
//!
//! A pattern is a path of components. It fits a path when its components fit some run of the path's
//! components, so it fits everything below what it names as well; with a leading `/` the run begins at the
//! root. Within a component `*` stands for any characters, `?` for one, `[a-z]` and `[^a-z]` for one of
//! a class, and `\` takes a character as it is. The component `**` stands for any number of components.
//! A leading `!` takes back what earlier patterns of the same list chose.
//!
//! Which patterns there are and what is done with what they choose is the caller's business; so is the
//! expansion of variables.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A compiled set of patterns; none choose nothing.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    /// A path is chosen when one list chooses it. A negation speaks to its own list only.
    lists: Vec<List>,
}

/// A pattern that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?} is not valid: {why}")]
pub struct PatternError {
    /// The pattern as it was given.
    pub pattern: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Patterns {
    /// Compiles one list of patterns; empty ones are passed over.
    pub fn parse<'a>(
        patterns: impl Iterator<Item = &'a str>,
        case_insensitive: bool,
    ) -> Result<Self, PatternError> {
        let patterns = patterns
            .filter(|pattern| !pattern.is_empty())
            .map(|pattern| Pattern::parse(pattern, case_insensitive))
            .collect::<Result<Vec<_>, _>>()?;
        if patterns.is_empty() {
            return Ok(Self::default());
        }
        let negates = patterns.iter().any(|pattern| pattern.negated);
        Ok(Self { lists: vec![List { patterns, case_insensitive, negates }] })
    }

    /// Chooses what either of the two chooses.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.lists.extend(other.lists);
        self
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Whether `path` is chosen: an absolute path, of this machine or within a snapshot.
    pub fn matches(&self, path: &Path) -> bool {
        self.any_list(path, List::matches)
    }

    /// Whether something below the directory `dir` could be chosen.
    pub fn may_match_below(&self, dir: &Path) -> bool {
        self.any_list(dir, List::may_match_below)
    }

    fn any_list(&self, path: &Path, fits: impl Fn(&List, &[&[u8]], bool) -> bool) -> bool {
        let bytes = path.as_os_str().as_bytes();
        self.lists.iter().any(|list| {
            if list.case_insensitive {
                with_components(&lowercase(bytes), |components, rooted| fits(list, components, rooted))
            } else {
                with_components(bytes, |components, rooted| fits(list, components, rooted))
            }
        })
    }
}

/// Tells the patterns in an exclude file: a line each, without blanks around it; empty lines and those that
/// begin with `#` are no patterns.
pub fn patterns_in_file(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[derive(Debug, Clone)]
struct List {
    patterns: Vec<Pattern>,
    case_insensitive: bool,
    negates: bool,
}

impl List {
    fn matches(&self, path: &[&[u8]], rooted: bool) -> bool {
        let mut matched = false;
        for pattern in &self.patterns {
            // Only what changes the answer is looked at.
            if matched == pattern.negated && pattern.matches(path, rooted) {
                matched = !pattern.negated;
                if !self.negates {
                    return true;
                }
            }
        }
        matched
    }

    fn may_match_below(&self, dir: &[&[u8]], rooted: bool) -> bool {
        let mut may = false;
        for pattern in &self.patterns {
            if pattern.negated {
                may = may && !pattern.matches_all_below(dir, rooted);
            } else {
                may = may || pattern.may_match_below(dir, rooted);
            }
        }
        may
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    negated: bool,
    /// Begins with `/`.
    anchored: bool,
    parts: Vec<Part>,
}

/// One component of a pattern; the common shapes are told apart so that they cost one comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `**`
    AnyNumber,
    /// `*`
    Any,
    Literal(Vec<u8>),
    /// `name*`
    Prefix(Vec<u8>),
    /// `*.name`
    Suffix(Vec<u8>),
    Glob(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Many,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    fn parse(text: &str, case_insensitive: bool) -> Result<Self, PatternError> {
        let error = |why| PatternError { pattern: text.to_owned(), why };
        let (negated, body) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if body.is_empty() {
            return Err(error("nothing follows the !"));
        }
        let body = if case_insensitive { body.to_lowercase() } else { body.to_owned() };
        let mut parts: Vec<Part> = Vec::new();
        for component in body.split('/') {
            match component {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                // Two in a row say no more than one.
                "**" if parts.last() == Some(&Part::AnyNumber) => {}
                _ => parts.push(Part::parse(component).map_err(error)?),
            }
        }
        Ok(Self { negated, anchored: body.starts_with('/'), parts })
    }

    fn matches(&self, path: &[&[u8]], rooted: bool) -> bool {
        if self.parts.is_empty() {
            // `/` names the root alone; were it to choose what is below, it would choose everything.
            return self.anchored && rooted && path.is_empty();
        }
        if self.anchored {
            return rooted && fits_at_start(&self.parts, path);
        }
        (0..path.len().max(1)).any(|start| fits_at_start(&self.parts, &path[start..]))
    }

    /// Whether everything below `dir` fits: below what a pattern names all does, but for the root.
    fn matches_all_below(&self, dir: &[&[u8]], rooted: bool) -> bool {
        !self.parts.is_empty() && self.matches(dir, rooted)
    }

    fn may_match_below(&self, dir: &[&[u8]], rooted: bool) -> bool {
        if !self.anchored {
            return true;
        }
        // Up to a `**` the components must fit one by one as far as both go; behind it anything may.
        let fixed = self.parts.iter().position(|part| *part == Part::AnyNumber).unwrap_or(self.parts.len());
        rooted && self.parts[..fixed].iter().zip(dir).all(|(part, component)| part.fits(component))
    }
}

/// Whether `parts` fit the first components of `path`.
///
/// On a mismatch the last `**` takes one component more; an earlier one never has to, since the last could
/// take as many.
fn fits_at_start(parts: &[Part], path: &[&[u8]]) -> bool {
    let (mut part, mut component) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while part < parts.len() {
        if parts[part] == Part::AnyNumber {
            part += 1;
            retry = Some((part, component));
        } else if path.get(component).is_some_and(|component| parts[part].fits(component)) {
            part += 1;
            component += 1;
        } else {
            match &mut retry {
                Some((after, taken)) if *taken < path.len() => {
                    *taken += 1;
                    (part, component) = (*after, *taken);
                }
                _ => return false,
            }
        }
    }
    true
}

impl Part {
    fn parse(component: &str) -> Result<Self, &'static str> {
        if component == "**" {
            return Ok(Self::AnyNumber);
        }
        let tokens = parse_tokens(component)?;
        let literal = |tokens: &[Token]| -> Option<Vec<u8>> {
            let text: Option<String> = tokens
                .iter()
                .map(|token| if let Token::Char(char) = token { Some(*char) } else { None })
                .collect();
            text.map(String::into_bytes)
        };
        if let Some(text) = literal(&tokens) {
            return Ok(Self::Literal(text));
        }
        Ok(match tokens.as_slice() {
            [Token::Many] => Self::Any,
            [Token::Many, rest @ ..] if literal(rest).is_some() => {
                Self::Suffix(literal(rest).expect("just seen"))
            }
            [rest @ .., Token::Many] if literal(rest).is_some() => {
                Self::Prefix(literal(rest).expect("just seen"))
            }
            _ => Self::Glob(tokens),
        })
    }

    fn fits(&self, component: &[u8]) -> bool {
        match self {
            Self::AnyNumber | Self::Any => true,
            Self::Literal(text) => component == text,
            Self::Prefix(text) => component.starts_with(text),
            Self::Suffix(text) => component.ends_with(text),
            Self::Glob(tokens) => glob_fits(tokens, component),
        }
    }
}

fn parse_tokens(component: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut chars = component.chars();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' if tokens.last() == Some(&Token::Many) => continue,
            '*' => Token::Many,
            '?' => Token::One,
            '\\' => Token::Char(chars.next().ok_or("a backslash at its end escapes nothing")?),
            '[' => parse_class(&mut chars)?,
            other => Token::Char(other),
        });
    }
    Ok(tokens)
}

/// Parses the rest of a class whose `[` is taken.
fn parse_class(chars: &mut std::str::Chars<'_>) -> Result<Token, &'static str> {
    const OPEN: &str = "a [ without its ]";
    let negated = chars.as_str().starts_with('^');
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    let bound = |chars: &mut std::str::Chars<'_>| match chars.next() {
        Some('\\') => chars.next().ok_or(OPEN),
        Some('-') => Err("a - in a [ ] without its two ends"),
        Some(char) => Ok(char),
        None => Err(OPEN),
    };
    loop {
        if chars.as_str().starts_with(']') {
            chars.next();
            return if ranges.is_empty() {
                Err("a [ ] with nothing in it")
            } else {
                Ok(Token::Class { negated, ranges })
            };
        }
        let low = bound(chars)?;
        let high = if chars.as_str().starts_with('-') {
            chars.next();
            if chars.as_str().starts_with(']') {
                return Err("a - in a [ ] without its two ends");
            }
            bound(chars)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

/// Whether the tokens fit the whole of `text`; as with `**`, only the last `*` is ever tried again.
fn glob_fits(tokens: &[Token], text: &[u8]) -> bool {
    let (mut token, mut position) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if let Some(Token::Many) = tokens.get(token) {
            token += 1;
            retry = Some((token, position));
            continue;
        }
        let (char, length) = first_char(&text[position..]);
        let fits = match tokens.get(token) {
            None if length == 0 => return true,
            None => false,
            Some(wanted) => length > 0 && wanted.fits(char),
        };
        if fits {
            token += 1;
            position += length;
            continue;
        }
        match &mut retry {
            Some((after, taken)) if *taken < text.len() => {
                *taken += first_char(&text[*taken..]).1;
                (token, position) = (*after, *taken);
            }
            _ => return false,
        }
    }
}

impl Token {
    fn fits(&self, char: char) -> bool {
        match self {
            Self::Char(wanted) => *wanted == char,
            Self::One | Self::Many => true,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (low..=high).contains(&&char)) != *negated
            }
        }
    }
}

/// The first character and its length in bytes; a byte that is not UTF-8 is a character by itself.
fn first_char(text: &[u8]) -> (char, usize) {
    match text.first() {
        None => (char::REPLACEMENT_CHARACTER, 0),
        Some(byte) if byte.is_ascii() => (char::from(*byte), 1),
        Some(_) => {
            let window = &text[..text.len().min(4)];
            match window.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next()) {
                Some(char) => (char, char.len_utf8()),
                None => (char::REPLACEMENT_CHARACTER, 1),
            }
        }
    }
}

fn lowercase(bytes: &[u8]) -> Vec<u8> {
    let mut lower = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        lower.extend_from_slice(chunk.valid().to_lowercase().as_bytes());
        lower.extend_from_slice(chunk.invalid());
    }
    lower
}

/// Hands the components of `path` to `act`, and whether they begin at the root.
fn with_components<T>(path: &[u8], act: impl FnOnce(&[&[u8]], bool) -> T) -> T {
    /// Paths this deep need no allocation.
    const DEPTH: usize = 32;
    let rooted = path.first() == Some(&b'/');
    let mut components = path.split(|byte| *byte == b'/').filter(|component| !component.is_empty());
    let mut few: [&[u8]; DEPTH] = [&[]; DEPTH];
    for count in 0..DEPTH {
        match components.next() {
            Some(component) => few[count] = component,
            None => return act(&few[..count], rooted),
        }
    }
    let many: Vec<&[u8]> = few.into_iter().chain(components).collect();
    act(&many, rooted)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Patterns::parse([pattern].into_iter(), false).unwrap().matches(Path::new(path))
    }

    #[test]
    fn documented_examples() {
        // From restic's manual, "Excluding Files".
        assert!(matches("*.go", "/home/u/work/x.go"));
        assert!(matches("foo/**/bar", "/dir1/foo/dir2/bar/file"));
        assert!(matches("foo/**/bar", "/foo/bar/file"));
        assert!(matches("foo/**/bar", "/tmp/foo/bar"));
        assert!(!matches("foo/**/bar", "/tmp/foo/baz"));
        assert!(matches("foo", "/dir1/foo/dir2/file"));
        assert!(matches("foo", "/dir/foo"));
        assert!(!matches("foo", "/dir/foobar"));
        assert!(matches("/foo", "/foo/file"));
        assert!(!matches("/foo", "/dir1/foo"));
        assert!(matches("*/cache/*", "/home/u/cache/x"));
        assert!(!matches("*/cache/*", "/cache/x"));
    }

    #[test]
    fn components() {
        for (pattern, path, expected) in [
            ("*", "/a", true),
            ("*", "/", false),
            ("/", "/a", false),
            ("/", "/", true),
            ("a/", "/x/a", true),
            ("./a", "/x/a", true),
            ("a/b", "/a/x/b", false),
            ("a/b", "/x/a/b/c", true),
            ("/a/**", "/a", true),
            ("/a/**/z", "/a/b/c/z/y", true),
            ("/a/**/b/**/c", "/a/b/x/b/y/c", true),
            ("/a/**/b/**/c", "/a/x/c/b", false),
            ("**", "/a/b", true),
            ("a?c", "/a\u{e4}c", true),
            ("a?c", "/ac", false),
            ("[a-c]x", "/bx", true),
            ("[^a-c]x", "/bx", false),
            ("[^a-c]x", "/dx", true),
            ("[\\]]x", "/]x", true),
            ("\\*x", "/*x", true),
            ("\\*x", "/ax", false),
            ("a*b*c", "/aXbYbZc", true),
            ("a*b*c", "/aXbYbZ", false),
            ("*.tar.*", "/x.tar.gz", true),
            ("a*a", "/a", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn negation_takes_back_what_came_before() {
        let patterns = Patterns::parse(["*.log", "!keep.log", "very/keep.log"].into_iter(), false).unwrap();
        assert!(patterns.matches(Path::new("/x/a.log")));
        assert!(!patterns.matches(Path::new("/x/keep.log")));
        assert!(patterns.matches(Path::new("/very/keep.log")));
        let both = patterns.or(Patterns::parse(["KEEP.*"].into_iter(), true).unwrap());
        assert!(both.matches(Path::new("/x/keep.LOG")));
    }

    #[test]
    fn below() {
        let below = |pattern: &str, dir: &str| {
            Patterns::parse([pattern].into_iter(), false).unwrap().may_match_below(Path::new(dir))
        };
        assert!(below("foo", "/anything"));
        assert!(below("/home/u/x", "/home"));
        assert!(below("/home/u/x", "/home/u/x/below"));
        assert!(below("/home/*/x", "/home/you"));
        assert!(!below("/home/u/x", "/etc"));
        assert!(!below("/home/u/x", "/home/v"));
        assert!(below("/home/**/x", "/home/a/b/c"));
        assert!(!below("/home/**/x", "/etc/a"));
        assert!(!Patterns::default().may_match_below(Path::new("/")));
    }

    #[test]
    fn taking_the_root_back_leaves_what_is_below() {
        let patterns = Patterns::parse(["/srv/*.log", "!/"].into_iter(), false).unwrap();
        assert!(patterns.matches(Path::new("/srv/a.log")));
        assert!(patterns.may_match_below(Path::new("/")) && patterns.may_match_below(Path::new("/srv")));
        let patterns = Patterns::parse(["/srv/*.log", "!/srv"].into_iter(), false).unwrap();
        assert!(patterns.may_match_below(Path::new("/")) && !patterns.may_match_below(Path::new("/srv")));
    }

    #[test]
    fn case_and_bytes() {
        let patterns = Patterns::parse(["*.JPG", "\u{c4}x"].into_iter(), true).unwrap();
        assert!(patterns.matches(Path::new("/a.jPg")));
        assert!(patterns.matches(Path::new("/\u{e4}X")));
        let name = Path::new(OsStr::from_bytes(b"/\xff\xfe.jpg"));
        assert!(patterns.matches(name));
        assert!(matches("*.jpg", "/x.jpg") && !matches("*.jpg", "/x.JPG"));
        let two = Patterns::parse(["??.jpg"].into_iter(), false).unwrap();
        assert!(two.matches(name));
    }

    #[test]
    fn errors_name_the_pattern() {
        for pattern in ["a/[b", "x\\", "[]", "[a-]", "[-a]", "!"] {
            let error = Patterns::parse([pattern].into_iter(), false).unwrap_err();
            assert_eq!(error.pattern, pattern);
        }
        assert!(Patterns::parse(["", ""].into_iter(), false).unwrap().is_empty());
    }

    #[test]
    fn file_lines() {
        let text = "# comment\n\n*.go  \n   # another\n  a b \r\n";
        assert_eq!(patterns_in_file(text).collect::<Vec<_>>(), ["*.go", "a b"]);
    }

    #[test]
    fn deep_paths() {
        let path = format!("/{}/needle/x", ["d"; 100].join("/"));
        assert!(matches("needle", &path));
        assert!(!matches("needles", &path));
    }
}
