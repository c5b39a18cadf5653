//! The append-only files of a server that goes on writing, held still.
//!
//! # Consistency
//! The list is read, every file that it names is opened, and the list is read again: as long as it says the same, the open
//! files are what it names. An open file keeps its bytes also when a rewrite removes it a moment later, so that
//! nothing of the server's settings has to be changed meanwhile, no link is left behind by a crash, and a rewrite under
//! way does no harm. Only the last file still grows.
//!
//! # Positions
//! The files that were appended to, one after the other in the order of the list, are one log that begins with the base. A position
//! is a place in it. The lineage is the base: a rewrite, a server that was refilled or restarted from something else, and
//! a server that did not append for a while all begin with a new one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::aof::Scan;
use crate::{Error, Result};

/// How often, and how far apart, the list is read before it counts as damaged.
const ATTEMPTS: u32 = 40;
const BETWEEN: Duration = Duration::from_millis(50);
/// A list names a handful of files.
const LIST_BYTES_MAX: u64 = 1 << 20;
const HEAD_BYTES: u64 = 4096;
const FOOTER_BYTES: u64 = 8;
const READ_BYTES: usize = 1 << 20;

/// A list of append-only files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct List {
    /// The file with which it begins.
    pub base: Option<Listed>,
    /// The files that were appended to, the oldest first.
    pub appended: Vec<Listed>,
}

/// A file of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub name: String,
    pub number: u64,
}

impl List {
    /// Reads a list; what is wrong with it in words.
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut list = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let wrong = || format!("its line {line:?} is not `file NAME seq NUMBER type LETTER`");
            let ["file", name, "seq", number, "type", kind] = words[..] else { return Err(wrong()) };
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if !name.chars().all(plain) || name.trim_matches('.').is_empty() {
                return Err(wrong());
            }
            let listed = Listed { name: name.to_owned(), number: number.parse().map_err(|_| wrong())? };
            match kind {
                "b" if list.base.is_none() => list.base = Some(listed),
                "b" => return Err("it names two bases".to_owned()),
                "i" => list.appended.push(listed),
                // What a rewrite has replaced and not yet removed.
                "h" => {}
                _ => return Err(wrong()),
            }
        }
        if list.appended.windows(2).any(|pair| pair[0].number >= pair[1].number) {
            return Err("its numbers do not rise".to_owned());
        }
        Ok(list)
    }

    /// The list as a server reads it.
    pub(super) fn text(&self) -> String {
        let line =
            |listed: &Listed, kind: char| format!("file {} seq {} type {kind}\n", listed.name, listed.number);
        let base = self.base.iter().map(|listed| line(listed, 'b'));
        base.chain(self.appended.iter().map(|listed| line(listed, 'i'))).collect()
    }

    /// All that it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &Listed> {
        self.base.iter().chain(&self.appended)
    }

    /// The same with one more file at its end, which begins with this name.
    pub(super) fn and(&self, name: &str) -> (Self, Listed) {
        let number = self.appended.last().map_or(0, |last| last.number) + 1;
        let added = Listed { name: format!("{name}.{number}.incr.aof"), number };
        let mut list = self.clone();
        list.appended.push(added.clone());
        (list, added)
    }
}

/// The files of a list, open.
pub(super) struct Held {
    pub list: List,
    pub lineage: String,
    pub base: File,
    pub appended: Vec<File>,
    /// The list as it was read.
    text: String,
    path: PathBuf,
}

impl Held {
    /// Opens what the list of `directory` names.
    pub(super) fn open(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(format!("{name}.manifest"));
        let mut missing = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(BETWEEN);
            }
            let text = read(&path)?;
            let list = List::parse(&text).map_err(|why| bad(&path, why))?;
            let Some(first) = &list.base else {
                return Err(bad(&path, "it names no base: run `redis-cli BGREWRITEAOF`".to_owned()));
            };
            if !first.name.ends_with(".rdb") {
                let why =
                    "its base is no dump: set `aof-use-rdb-preamble yes`, then run `redis-cli BGREWRITEAOF`";
                return Err(bad(&path, why.to_owned()));
            }
            let opened: io::Result<Vec<File>> = list
                .files()
                .map(|listed| {
                    missing = Some(directory.join(&listed.name));
                    File::open(directory.join(&listed.name))
                })
                .collect();
            match opened {
                // A rewrite has just removed it; or it is gone for good.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("open", &missing.unwrap_or(path))(error)),
                Ok(mut files) if read(&path)? == text => {
                    let base = files.remove(0);
                    let lineage = lineage(&base, first.number).map_err(Error::io("read", &path))?;
                    return Ok(Self { list, lineage, base, appended: files, text, path });
                }
                Ok(_) => missing = None,
            }
        }
        Err(match missing {
            Some(missing) => bad(&path, format!("it names {}, which is not there", missing.display())),
            None => bad(&path, "it changes faster than its files can be opened".to_owned()),
        })
    }

    /// Tells whether the list has changed since it was read, or names other files by the same names: a restore puts another
    /// directory in the place of this one.
    pub(super) fn is_old(&self) -> Result<bool> {
        if read(&self.path)? != self.text {
            return Ok(true);
        }
        let (Some(listed), Some(file)) = (self.list.appended.last(), self.appended.last()) else {
            return Ok(false);
        };
        let path = self.path.with_file_name(&listed.name);
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        let held = file.metadata().map(id).map_err(Error::io("look at", &path))?;
        Ok(fs::metadata(&path).map(id).ok() != Some(held))
    }

    /// Reads what was appended from `scan`'s position on, as far as it is there now, and says where the files end.
    ///
    /// Fails when a file other than the last ends in the middle of a command, or when anything is no command.
    pub(super) fn read_on(&self, scan: &mut Scan) -> Result<Vec<u64>> {
        let mut ends = Vec::new();
        let (mut begin, count) = (0, self.appended.len());
        for (number, file) in self.appended.iter().enumerate() {
            let path = self.path.with_file_name(&self.list.appended[number].name);
            let length = file.metadata().map_err(Error::io("look at", &path))?.size();
            let end = begin + length;
            if scan.position < end {
                feed(file, scan, begin, length).map_err(|why| bad(&path, why))?;
            }
            if number + 1 < count && scan.position == end && !scan.is_whole() {
                return Err(bad(
                    &path,
                    "it ends in the middle of a command, and is not the last file".to_owned(),
                ));
            }
            if number + 1 == count && scan.position > end {
                return Err(bad(&path, format!("it has become shorter: {length} bytes are left")));
            }
            ends.push(end);
            begin = end;
        }
        Ok(ends)
    }

    /// Reads bytes of the log.
    pub(super) fn bytes(&self, from: u64, to: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
        let (mut begin, mut filled) = (0, 0);
        for file in &self.appended {
            let length = file.metadata().map_err(Error::io("look at", &self.path))?.size();
            let at = from + filled as u64;
            if at < begin + length && filled < bytes.len() {
                let here =
                    usize::try_from(begin + length - at).unwrap_or(usize::MAX).min(bytes.len() - filled);
                file.read_exact_at(&mut bytes[filled..filled + here], at - begin)
                    .map_err(Error::io("read", &self.path))?;
                filled += here;
            }
            begin += length;
        }
        if filled < bytes.len() {
            return Err(bad(&self.path, format!("its files end before {to}")));
        }
        Ok(bytes)
    }
}

fn feed(file: &File, scan: &mut Scan, begin: u64, length: u64) -> std::result::Result<(), String> {
    let mut buffer = vec![0; READ_BYTES];
    while scan.position < begin + length {
        let at = scan.position - begin;
        let most = usize::try_from(length - at).unwrap_or(usize::MAX).min(READ_BYTES);
        let count = file.read_at(&mut buffer[..most], at).map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("it became shorter while it was read".to_owned());
        }
        scan.feed(&buffer[..count], None).map_err(|torn| torn.to_string())?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    let found = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing {
            path: path.to_owned(),
            hint: "does the server append (`appendonly yes`), and is it version 7 or later?".to_owned(),
        },
        _ => Error::io("look at", path)(error),
    })?;
    if found.len() > LIST_BYTES_MAX {
        return Err(bad(path, "it is too long for a list of files".to_owned()));
    }
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// Names a base: a dump has its time at its beginning and the checksum of everything at its end.
fn lineage(base: &File, number: u64) -> io::Result<String> {
    let length = base.metadata()?.len();
    let mut digest = Sha256::new();
    digest.update(length.to_le_bytes());
    for (at, count) in
        [(0, HEAD_BYTES.min(length)), (length.saturating_sub(FOOTER_BYTES), FOOTER_BYTES.min(length))]
    {
        let mut bytes = vec![0; count as usize];
        base.read_exact_at(&mut bytes, at)?;
        digest.update(&bytes);
    }
    Ok(format!("{}-{number}", super::hex(&digest.finalize()[..8])))
}

fn bad(path: &Path, why: String) -> Error {
    Error::BadSource { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written() {
        let text = "file a.3.base.rdb seq 3 type b\nfile a.7.incr.aof seq 7 type i\nfile a.8.incr.aof seq 8 type i\n";
        let list = List::parse(&format!("{text}file a.6.incr.aof seq 6 type h\n")).unwrap();
        assert_eq!(list.text(), text);
        assert_eq!(list.and("a").1, Listed { name: "a.9.incr.aof".to_owned(), number: 9 });
        for wrong in [
            "file ../a seq 1 type b",
            "file a seq x type b",
            "file a seq 1 type q",
            "file a seq 1",
            "file a seq 2 type b\nfile b seq 3 type b",
            "file a seq 2 type i\nfile b seq 1 type i",
        ] {
            assert!(List::parse(wrong).is_err(), "{wrong}");
        }
    }
}
