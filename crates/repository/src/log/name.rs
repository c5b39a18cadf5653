//! Names of objects of an archive: what a listing tells, and nothing has to be read for.
//!
//! `docs/format.md` describes them under *Log archives*. Every spelling that is taken is the one that is written, so
//! that two names are the same object or different ones.

use std::fmt;

use sha2::{Digest, Sha256};

/// The length of a segment's name, without its directory.
pub(super) const SEGMENT_NAME_BYTES: usize = 16 + 1 + 16 + 1 + 16 + 1 + 8 + 1 + 32 + 1 + 32;
/// The most bytes of a component's directory: with the longest lineage a segment's name still is a sidecar object's.
const COMPONENT_BYTES_MAX: usize = 36;
/// The most bytes of a lineage, escaped.
const LINEAGE_BYTES_MAX: usize = 33;
/// How much of a component's name that is too long stays before its digest.
const COMPONENT_KEPT_BYTES: usize = 19;
/// How an instant that nobody knows is written.
pub(super) const UNKNOWN_MS: u64 = u64::MAX;

/// A value of the chain: it stands for everything from the beginning of the chain up to a position.
///
/// The first 16 bytes of a SHA-256 over the value before and what describes the piece between.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub [u8; 16]);

impl Link {
    /// The value at which a chain begins that continues nothing.
    pub(super) fn start(component: &str, lineage: &str, first: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"lifeboat log start 1\0");
        for text in [component, lineage] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(first.to_le_bytes());
        Self::from_digest(&hash.finalize().into())
    }

    pub(super) fn from_digest(digest: &[u8; 32]) -> Self {
        Self(*digest.first_chunk().expect("32 bytes have 16"))
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One segment as a listing shows it; 64 bytes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its first position.
    pub first: u64,
    /// The position behind its last.
    pub last: u64,
    pub(super) until: u64,
    /// The chain's value before it.
    pub before: Link,
    /// The chain's value behind it.
    pub after: Link,
    /// Its size in the store in bytes; what is larger than 4 GiB is no segment.
    pub size: u32,
    /// Which writer wrote it; later writers have greater numbers.
    pub epoch: u32,
}

impl Segment {
    /// The latest instant that is known of what is in it, in milliseconds since 1970.
    pub fn until_ms(&self) -> Option<u64> {
        (self.until != UNKNOWN_MS).then_some(self.until)
    }

    /// The name of its object within the lineage's directory.
    pub fn file_name(&self) -> String {
        let Self { first, last, until, before, after, epoch, .. } = self;
        format!("{first:016x}-{last:016x}-{until:016x}-{epoch:08x}-{before}-{after}")
    }

    /// Reads a name that [`file_name`](Self::file_name) gave; `None` for any other.
    pub fn parse(name: &str, size: u64) -> Option<Self> {
        if name.len() != SEGMENT_NAME_BYTES {
            return None;
        }
        let mut fields = name.split('-');
        let mut field =
            |digits: usize| fields.next().filter(|field| field.len() == digits).and_then(parse_hex);
        let mut number = || field(16).and_then(|number| u64::try_from(number).ok());
        let (first, last, until) = (number()?, number()?, number()?);
        let epoch = u32::try_from(field(8)?).ok()?;
        let mut link = || field(32).map(|number| Link(number.to_be_bytes()));
        let (before, after) = (link()?, link()?);
        let size = u32::try_from(size).ok()?;
        (first < last).then_some(Self { first, last, until, before, after, size, epoch })
    }
}

/// Where a lineage continues another, as the name of an object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The lineage that it continues.
    pub parent: String,
    /// The position from which on it goes its own way.
    pub position: u64,
    /// The value of the parent's chain there.
    pub link: Link,
}

impl Fork {
    /// The name of its object within the lineage's directory `f`.
    pub fn file_name(&self) -> String {
        format!("{:016x}-{}-{}", self.position, self.link, escape(&self.parent))
    }

    /// Reads a name that [`file_name`](Self::file_name) gave; `None` for any other.
    pub fn parse(name: &str) -> Option<Self> {
        let (position, rest) = name.split_at_checked(16)?;
        let (link, parent) = rest.strip_prefix('-')?.split_at_checked(32)?;
        Some(Self {
            position: u64::try_from(parse_hex(position)?).ok()?,
            link: Link(parse_hex(link)?.to_be_bytes()),
            parent: unescape(parent.strip_prefix('-')?)?,
        })
    }
}

/// Reads digits in lower case, as all names are written.
pub(super) fn parse_hex(digits: &str) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.is_empty() || !digits.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok()
}

/// Writes any text with the letters that names of sidecar objects have: `A` is `_a`, what is no letter, digit, `.` or
/// `-` is `__` and two hexadecimal digits for each byte, and so is a `.` at the beginning.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => escaped.push(char::from(byte)),
            b'.' if at > 0 => escaped.push('.'),
            b'A'..=b'Z' => escaped.extend(['_', char::from(byte.to_ascii_lowercase())]),
            _ => escaped.push_str(&format!("__{byte:02x}")),
        }
    }
    escaped
}

/// Reads what [`escape`] wrote; `None` for everything that it does not write.
pub fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = match (byte, behind) {
            (b'_', [b'_', digits @ ..]) => {
                let (digits, behind) = digits.split_at_checked(2)?;
                bytes.push(u8::try_from(parse_hex(std::str::from_utf8(digits).ok()?)?).ok()?);
                behind
            }
            (b'_', [letter, behind @ ..]) => {
                bytes.push(letter.to_ascii_uppercase());
                behind
            }
            (byte, behind) => {
                bytes.push(byte);
                behind
            }
        };
    }
    let text = String::from_utf8(bytes).ok()?;
    (escape(&text) == escaped).then_some(text)
}

/// The directory of a component: its name, or the beginning of a long one and a digest of the whole.
pub(super) fn component_directory(component: &str) -> String {
    let escaped = escape(component);
    if escaped.len() <= COMPONENT_BYTES_MAX {
        return escaped;
    }
    let digest: [u8; 32] = Sha256::digest(component.as_bytes()).into();
    let number = u64::from_be_bytes(*digest.first_chunk().expect("32 bytes have 8"));
    format!("{}-{number:016x}", &escaped[..COMPONENT_KEPT_BYTES])
}

/// Whether a lineage may have this name: not empty, and at most 33 bytes once it is escaped.
pub fn is_lineage(lineage: &str) -> bool {
    !lineage.is_empty() && escape(lineage).len() <= LINEAGE_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn segment_names_come_back(
            numbers in any::<(u64, u64, u64, u32, u32)>(), before: [u8; 16], after: [u8; 16], other in ".*",
        ) {
            let (a, b, until, epoch, size) = numbers;
            let (first, last) = (a.min(b), a.max(b).max(a.min(b).saturating_add(1)));
            prop_assume!(first < last);
            let segment = Segment { first, last, until, before: Link(before), after: Link(after), size, epoch };
            let name = segment.file_name();
            prop_assert_eq!(name.len(), SEGMENT_NAME_BYTES);
            prop_assert_eq!(Segment::parse(&name, u64::from(size)), Some(segment));
            prop_assert_eq!(Segment::parse(&name, 1 << 32), None);
            prop_assert_eq!(Segment::parse(&name[1..], 1), None);
            if name != name.to_uppercase() {
                prop_assert_eq!(Segment::parse(&name.to_uppercase(), 1), None);
            }
            prop_assert_eq!(Segment::parse(&other, 1), None);
        }

        #[test]
        fn any_text_can_be_escaped(text in ".{1,12}", other in "[a-z0-9._-]{0,20}") {
            let escaped = escape(&text);
            prop_assert!(crate::sidecar::is_name(&escaped), "{}", escaped);
            prop_assert_eq!(unescape(&escaped), Some(text));
            if let Some(read) = unescape(&other) {
                prop_assert_eq!(escape(&read), other);
            }
        }

        #[test]
        fn forks_come_back(parent in "[A-Za-z0-9 .-]{1,20}", position: u64, link: [u8; 16]) {
            let fork = Fork { parent, position, link: Link(link) };
            prop_assert_eq!(Fork::parse(&fork.file_name()), Some(fork));
        }
    }

    #[test]
    fn the_longest_names_are_names_of_sidecar_objects() {
        let lineage = "1234567890123456789-00000001.xyz-";
        assert!(is_lineage(lineage) && !is_lineage(&format!("{lineage}x")) && !is_lineage(""));
        let component = component_directory(&"Component".repeat(8));
        assert_eq!(component.len(), COMPONENT_BYTES_MAX);
        let name = format!("log/{component}/{lineage}/{}", "0".repeat(SEGMENT_NAME_BYTES));
        assert_eq!(name.len(), crate::sidecar::NAME_BYTES_MAX);
        assert!(crate::sidecar::is_name(&name));
        assert_eq!(
            escape("00000001000000000000000A.00000028.backup"),
            "00000001000000000000000_a.00000028.backup"
        );
        assert_eq!(size_of::<Segment>(), 64);
    }
}
