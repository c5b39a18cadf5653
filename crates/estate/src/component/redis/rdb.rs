//! Reading a dump (RDB) from begin to end without its values: what made it, how many keys each database has, and whether
//! it is whole. Counts are of the very moment of the dump.
//!
//! A dump that holds what this reader does not know (a newer format) is read to its end all the same, and its checksum
//! compared; only its keys are not counted, which is said.

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::checksum::Checksum;

const BUFFER_BYTES: usize = 256 << 10;
/// Fields about the dump that are longer than this are not kept.
const FIELD_BYTES_MAX: u64 = 4096;
const FOOTER_BYTES: usize = 8;
/// From this version on a dump has a checksum at its end.
const VERSION_WITH_CHECKSUM: u32 = 5;

/// The codes of `rdb.h` that stand where the type of a value could.
mod code {
    pub(super) const SLOT_INFO: u8 = 244;
    pub(super) const FUNCTION: u8 = 245;
    pub(super) const MODULE_AUX: u8 = 247;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQUENCY: u8 = 249;
    pub(super) const FIELD: u8 = 250;
    pub(super) const SIZES: u8 = 251;
    pub(super) const EXPIRES_MS: u8 = 252;
    pub(super) const EXPIRES: u8 = 253;
    pub(super) const DATABASE: u8 = 254;
    pub(super) const END: u8 = 255;
}

/// What a dump is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Dump {
    /// The version of its format.
    pub version: u32,
    /// What the server wrote about itself, such as `redis-ver` and `ctime`.
    pub fields: BTreeMap<String, String>,
    /// The keys of each database that has some.
    pub keys: BTreeMap<u64, u64>,
    /// Why the keys could not be counted.
    pub uncounted: Option<String>,
    pub bytes: u64,
    /// How many of them the server wrote about itself: those change from dump to dump.
    pub bytes_of_fields: u64,
    /// The digest of all its bytes, in hexadecimal.
    pub sha256: String,
}

impl Dump {
    /// The keys of all databases.
    pub(super) fn keys_in_all(&self) -> u64 {
        self.keys.values().sum()
    }
}

/// Why a dump is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Bad {
    /// It could not be read.
    #[error("{0}")]
    Unreadable(io::Error),
    /// It is not whole, or no dump.
    #[error("{0}")]
    Damaged(String),
}

/// Reads a dump to its end.
pub(super) fn read(from: impl Read) -> Result<Dump, Bad> {
    let mut input = Input {
        from,
        buffer: vec![0; BUFFER_BYTES],
        at: 0,
        held: 0,
        bytes: 0,
        sum: Checksum::default(),
        digest: Sha256::new(),
    };
    let mut dump = Dump { version: input.version()?, ..Dump::default() };
    let stored = match input.body(&mut dump) {
        Ok(()) => {
            input.account();
            let sum = input.sum;
            let stored = match dump.version {
                VERSION_WITH_CHECKSUM.. => u64::from_le_bytes(input.array()?),
                _ => 0,
            };
            input.at_end()?;
            (stored, sum)
        }
        Err(Stop::Unknown(what)) => {
            dump.keys.clear();
            dump.uncounted = Some(what);
            input.read_the_rest()?
        }
        Err(Stop::Bad(bad)) => return Err(bad),
    };
    let (stored, sum) = stored;
    // A server with `rdbchecksum no` writes zeros.
    if stored != 0 && stored != sum.0 {
        return Err(Bad::Damaged(format!(
            "its checksum is {:016x} and not {stored:016x}, as was written behind it",
            sum.0
        )));
    }
    (dump.bytes, dump.sha256) = (input.bytes, super::hex(&input.digest.finalize()));
    Ok(dump)
}

/// Why counting ends before the end.
enum Stop {
    Bad(Bad),
    Unknown(String),
}

impl From<Bad> for Stop {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

/// A length, or how the string is encoded that it stands before.
enum Length {
    Of(u64),
    Encoded(u8),
}

/// Bytes on their way through the sums.
struct Input<R> {
    from: R,
    buffer: Vec<u8>,
    /// Between these are bytes that were read and not used.
    at: usize,
    held: usize,
    /// How many bytes of the dump are in the sums.
    bytes: u64,
    sum: Checksum,
    digest: Sha256,
}

impl<R: Read> Input<R> {
    /// Takes what was used into the sums.
    fn account(&mut self) {
        let used = &self.buffer[..self.at];
        self.sum.add(used);
        self.digest.update(used);
        self.bytes += used.len() as u64;
        self.buffer.copy_within(self.at..self.held, 0);
        self.held -= self.at;
        self.at = 0;
    }

    fn position(&self) -> u64 {
        self.bytes + self.at as u64
    }

    /// Reads more; `false` at the end.
    fn more(&mut self) -> Result<bool, Bad> {
        self.account();
        let count = loop {
            match self.from.read(&mut self.buffer[self.held..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(Bad::Unreadable)?,
            }
        };
        self.held += count;
        Ok(count > 0)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), Bad> {
        loop {
            let here = ((self.held - self.at) as u64).min(count);
            self.at += here as usize;
            count -= here;
            if count == 0 {
                return Ok(());
            }
            if !self.more()? {
                let at = self.bytes;
                return Err(Bad::Damaged(format!("it ends after {at} bytes, in the middle of something")));
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        while self.held - self.at < N {
            if !self.more()? {
                let bytes = self.bytes + self.held as u64;
                return Err(Bad::Damaged(format!("it ends after {bytes} bytes, in the middle of something")));
            }
        }
        let bytes = self.buffer[self.at..self.at + N].try_into().expect("there are as many bytes");
        self.at += N;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Bad> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn at_end(&mut self) -> Result<(), Bad> {
        if self.held > self.at || self.more()? {
            return Err(Bad::Damaged("there is more behind its end".to_owned()));
        }
        Ok(())
    }

    /// Reads what is left without understanding it; the checksum behind it, and that of what is before that.
    fn read_the_rest(&mut self) -> Result<(u64, Checksum), Bad> {
        loop {
            self.at = self.held.saturating_sub(FOOTER_BYTES).max(self.at);
            if !self.more()? {
                break;
            }
        }
        let sum = self.sum;
        let stored = u64::from_le_bytes(self.array()?);
        self.at_end()?;
        Ok((stored, sum))
    }

    fn version(&mut self) -> Result<u32, Bad> {
        let head: [u8; 9] = self.array().map_err(|bad| match bad {
            Bad::Damaged(_) => Bad::Damaged("it is shorter than the head of a dump".to_owned()),
            bad @ Bad::Unreadable(_) => bad,
        })?;
        let digits = head.strip_prefix(b"REDIS").or_else(|| head.strip_prefix(b"VALKEY"));
        let version = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        version.ok_or_else(|| Bad::Damaged("it does not begin as a dump of Redis does".to_owned()))
    }

    fn length(&mut self) -> Result<Length, Bad> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Of(u64::from(first & 0x3f)),
            1 => Length::Of(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 => match first {
                0x80 => Length::Of(u64::from(u32::from_be_bytes(self.array()?))),
                0x81 => Length::Of(u64::from_be_bytes(self.array()?)),
                _ => return Err(Bad::Damaged(format!("a length begins with {first:#x}"))),
            },
            _ => Length::Encoded(first & 0x3f),
        })
    }

    fn number(&mut self) -> Result<u64, Bad> {
        match self.length()? {
            Length::Of(number) => Ok(number),
            Length::Encoded(_) => Err(Bad::Damaged("a number is where it cannot be".to_owned())),
        }
    }

    fn numbers(&mut self, count: u64) -> Result<(), Bad> {
        (0..count).try_for_each(|_| self.number().map(|_| ()))
    }

    fn string(&mut self) -> Result<(), Bad> {
        match self.length()? {
            Length::Of(bytes) => self.skip(bytes),
            Length::Encoded(kind @ 0..=2) => self.skip(1 << kind),
            Length::Encoded(3) => {
                let packed = self.number()?;
                self.number()?;
                self.skip(packed)
            }
            Length::Encoded(kind) => Err(Bad::Damaged(format!("a string is encoded as {kind}"))),
        }
    }

    fn strings(&mut self, count: u64) -> Result<(), Bad> {
        (0..count).try_for_each(|_| self.string())
    }

    /// A string that is kept if it is short.
    fn field(&mut self) -> Result<String, Bad> {
        Ok(match self.length()? {
            Length::Of(bytes @ ..=FIELD_BYTES_MAX) => {
                let mut text = Vec::new();
                for _ in 0..bytes {
                    text.push(self.byte()?);
                }
                String::from_utf8_lossy(&text).into_owned()
            }
            Length::Of(bytes) => {
                self.skip(bytes)?;
                String::new()
            }
            Length::Encoded(0) => i8::from_le_bytes(self.array()?).to_string(),
            Length::Encoded(1) => i16::from_le_bytes(self.array()?).to_string(),
            Length::Encoded(2) => i32::from_le_bytes(self.array()?).to_string(),
            Length::Encoded(_) => {
                let packed = self.number()?;
                self.number()?;
                self.skip(packed)?;
                String::new()
            }
        })
    }

    /// Goes through everything between the head and the checksum.
    fn body(&mut self, dump: &mut Dump) -> Result<(), Stop> {
        let mut database = 0;
        loop {
            match self.byte()? {
                code::END => return Ok(()),
                code::DATABASE => database = self.number()?,
                code::SIZES => self.numbers(2)?,
                code::SLOT_INFO => self.numbers(3)?,
                code::FIELD => {
                    let before = self.position();
                    let (name, value) = (self.field()?, self.field()?);
                    dump.fields.insert(name, value);
                    dump.bytes_of_fields += self.position() - before;
                }
                code::FUNCTION => self.string()?,
                code::MODULE_AUX => {
                    // The module, and when it wants to read this.
                    self.numbers(3)?;
                    self.module()?;
                }
                // These stand before a key.
                code::EXPIRES_MS => self.skip(8)?,
                code::EXPIRES => self.skip(4)?,
                code::IDLE => self.numbers(1)?,
                code::FREQUENCY => self.skip(1)?,
                kind => {
                    self.string()?;
                    self.value(kind)?;
                    *dump.keys.entry(database).or_default() += 1;
                }
            }
        }
    }

    /// Goes past a value, by its type in `rdb.h`.
    fn value(&mut self, kind: u8) -> Result<(), Stop> {
        match kind {
            // A string, or one string that holds all of a small list, set, hash or sorted set.
            0 | 9..=13 | 16 | 17 | 20 => self.string()?,
            // A list, a set, a list of packed pieces.
            1 | 2 | 14 => {
                let count = self.number()?;
                self.strings(count)?;
            }
            // A sorted set with its scores as text.
            3 => {
                for _ in 0..self.number()? {
                    self.string()?;
                    let bytes = self.byte()?;
                    // Not a number, and the two infinities.
                    self.skip(if bytes < 253 { u64::from(bytes) } else { 0 })?;
                }
            }
            // A hash.
            4 => {
                let count = self.number()?;
                self.strings(count.saturating_mul(2))?;
            }
            // A sorted set.
            5 => {
                for _ in 0..self.number()? {
                    self.string()?;
                    self.skip(8)?;
                }
            }
            // What a module keeps.
            7 => {
                self.numbers(1)?;
                self.module()?;
            }
            // Streams; each version has added to the one before.
            15 => self.stream(1)?,
            19 => self.stream(2)?,
            21 => self.stream(3)?,
            // A list of pieces, each with its kind.
            18 => {
                for _ in 0..self.number()? {
                    self.numbers(1)?;
                    self.string()?;
                }
            }
            // A hash whose fields expire.
            24 => {
                self.skip(8)?;
                for _ in 0..self.number()? {
                    self.numbers(1)?;
                    self.strings(2)?;
                }
            }
            25 => {
                self.skip(8)?;
                self.string()?;
            }
            unknown => {
                return Err(Stop::Unknown(format!(
                    "it holds values of type {unknown}, which this lifeboat does not know"
                )));
            }
        }
        Ok(())
    }

    /// Goes past what a module wrote.
    fn module(&mut self) -> Result<(), Stop> {
        loop {
            match self.number()? {
                0 => return Ok(()),
                1 | 2 => self.numbers(1)?,
                3 => self.skip(4)?,
                4 => self.skip(8)?,
                5 => self.string()?,
                other => {
                    return Err(Bad::Damaged(format!("a module's value has a part of kind {other}")).into());
                }
            }
        }
    }

    fn stream(&mut self, version: u8) -> Result<(), Bad> {
        let nodes = self.number()?;
        self.strings(nodes.saturating_mul(2))?;
        // How many entries, the last id; the first id, the greatest deleted one, how many were ever added.
        self.numbers(if version >= 2 { 8 } else { 3 })?;
        for _ in 0..self.number()? {
            self.string()?;
            self.numbers(if version >= 2 { 3 } else { 2 })?;
            for _ in 0..self.number()? {
                // An id and a time.
                self.skip(24)?;
                self.numbers(1)?;
            }
            for _ in 0..self.number()? {
                self.string()?;
                self.skip(if version >= 3 { 16 } else { 8 })?;
                let pending = self.number()?;
                self.skip(pending.saturating_mul(16))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two keys in database 0, one of which expires, and a list in database 300.
    fn dump(with_checksum: bool) -> Vec<u8> {
        let mut bytes = b"REDIS0010".to_vec();
        bytes.extend(b"\xfa\x09redis-ver\x067.0.15\xfa\x05ctime\xc2\x01\x02\x03\x04");
        bytes.extend(
            b"\xfe\x00\xfb\x02\x01\x00\x01a\x03abc\xfc\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01b\xc1\x10\x20",
        );
        bytes.extend(b"\xfe\x41\x2c\xfb\x01\x00\x12\x01l\x01\x02\xc3\x05\x40\x90\x01aa\x80\x00\xff");
        let mut sum = Checksum::default();
        sum.add(&bytes);
        bytes.extend(if with_checksum { sum.0 } else { 0 }.to_le_bytes());
        bytes
    }

    #[test]
    fn keys_and_fields_are_found() {
        let bytes = dump(true);
        let found = read(&bytes[..]).unwrap();
        assert_eq!(found.keys, BTreeMap::from([(0, 2), (300, 1)]));
        assert_eq!(found.fields["redis-ver"], "7.0.15");
        assert_eq!(found.fields["ctime"], 0x0403_0201.to_string());
        assert_eq!((found.version, found.bytes, found.uncounted), (10, bytes.len() as u64, None));
        assert_eq!(found.sha256, super::super::hex(&Sha256::digest(&bytes)));
        read(&dump(false)[..]).unwrap();
    }

    #[test]
    fn a_part_of_a_dump_is_none_and_neither_is_more() {
        for bytes in [dump(true), dump(false)] {
            for length in 0..bytes.len() {
                assert!(read(&bytes[..length]).is_err(), "{length}");
            }
            assert!(read(&[&bytes[..], b"x"].concat()[..]).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for at in 0..dump(true).len() * 8 {
            let mut bytes = dump(true);
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(read(&bytes[..]).is_err(), "bit {at}");
            // Without a checksum nothing worse may happen than that it is not found.
            let mut bytes = dump(false);
            bytes[at / 8] ^= 1 << (at % 8);
            _ = read(&bytes[..]);
        }
    }

    #[test]
    fn what_is_not_known_is_read_to_its_end_and_checked() {
        let mut bytes = dump(true);
        let length = bytes.len();
        bytes.truncate(length - 9);
        bytes.extend(b"\x63\x01k and what nobody knows\xff");
        let mut sum = Checksum::default();
        sum.add(&bytes);
        bytes.extend(sum.0.to_le_bytes());
        let found = read(&bytes[..]).unwrap();
        assert!(found.uncounted.is_some() && found.keys.is_empty());
        assert_eq!(found.bytes, bytes.len() as u64);
        for at in 0..bytes.len() {
            let mut harmed = bytes.clone();
            harmed[at] ^= 1;
            assert!(read(&harmed[..]).is_err(), "byte {at}");
        }
    }
}
