//! The append-only files of a server that goes on writing, held still.
//!
//! # Consistency
//! The list is read, every file that it names is opened, and the list is read again: as long as it says the same, the open
//! files are what it names. An open file keeps its bytes also when a rewrite removes it a moment later, so that
//! nothing of the server's settings has to be changed meanwhile, no link is left behind by a crash, and a rewrite under
//! way does no harm. Only the last file still grows.
//!
//! # Positions
//! What a server appends is one stream of commands, whichever file it is in: a rewrite makes a new base and goes on in a
//! new file, which the list names beside the one before until the base is there. A list that names both is the proof that
//! one follows the other; a server that did not append for a while never writes such a list. A position is a place in the stream.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::aof::Scan;
use crate::{Error, Result};

/// How often, and how far apart, the list is read before it counts as damaged.
const ATTEMPTS: u32 = 40;
const BETWEEN: Duration = Duration::from_millis(50);
/// A list names a handful of files.
const LIST_BYTES_MAX: u64 = 1 << 20;
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

impl Listed {
    fn id(&self, found: &fs::Metadata) -> FileId {
        (found.dev(), found.ino(), self.number)
    }
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

/// Which file it is: its file system, its number there, and its number in the list, as another file may get the former
/// when it is gone.
pub(super) type FileId = (u64, u64, u64);

/// An appended file, open.
pub(super) struct Kept {
    pub listed: Listed,
    pub id: FileId,
    /// The position of its first byte.
    pub at: u64,
    file: File,
}

/// The files of a list, open.
pub(super) struct Held {
    pub list: List,
    pub base: File,
    /// What the list names, the oldest first; before that what it has named and is still needed.
    pub appended: Vec<Kept>,
    /// The list as it was read.
    text: String,
    path: PathBuf,
}

impl Held {
    /// Opens what the list of `directory` names; the first of the appended files begins at position 0.
    pub(super) fn open(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(format!("{name}.manifest"));
        let mut missing = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(BETWEEN);
            }
            let text = read(&path)?;
            let list = List::parse(&text).map_err(|why| bad(&path, why))?;
            let Some(base) = &list.base else {
                return Err(bad(&path, "it names no base: run `redis-cli BGREWRITEAOF`".to_owned()));
            };
            if !base.name.ends_with(".rdb") {
                let why =
                    "its base is no dump: set `aof-use-rdb-preamble yes`, then run `redis-cli BGREWRITEAOF`";
                return Err(bad(&path, why.to_owned()));
            }
            match open_all(directory, &list) {
                // A rewrite has just removed it; or it is gone for good.
                Err((name, error)) if error.kind() == io::ErrorKind::NotFound => missing = Some(name),
                Err((name, error)) => return Err(Error::io("open", &directory.join(name))(error)),
                Ok((base, appended)) if read(&path)? == text => {
                    return Ok(Self { list, base, appended, text, path });
                }
                Ok(_) => missing = None,
            }
        }
        Err(match missing {
            Some(missing) => bad(&path, format!("it names {missing}, which is not there")),
            None => bad(&path, "it changes faster than its files can be opened".to_owned()),
        })
    }

    /// Tells whether the list has changed since it was read, or names other files by the same names: a restore puts another
    /// directory in the place of this one.
    pub(super) fn is_old(&self) -> Result<bool> {
        if read(&self.path)? != self.text {
            return Ok(true);
        }
        let Some(last) = self.appended.last() else { return Ok(false) };
        let path = self.path.with_file_name(&last.listed.name);
        Ok(fs::metadata(&path).map(|found| last.listed.id(&found)).ok() != Some(last.id))
    }

    /// Says that the first of the appended files begins at this position.
    pub(super) fn begin_at(mut self, position: u64) -> Self {
        self.appended.iter_mut().for_each(|kept| kept.at += position);
        self
    }

    /// Where the first appended file begins, if `known` has one of them with its position; nothing where it has none, or where
    /// they contradict each other.
    pub(super) fn beginning(&self, known: impl Iterator<Item = (FileId, u64)>) -> Option<u64> {
        let known: Vec<(FileId, u64)> = known.collect();
        let of =
            |kept: &Kept| known.iter().find(|(id, _)| *id == kept.id).map(|(_, at)| at.checked_sub(kept.at));
        let mut found = self.appended.iter().filter_map(of);
        let first = found.next()??;
        found.all(|other| other == Some(first)).then_some(first)
    }

    /// Opens the list anew and goes on in the files that it names by now; lets go of what is before `position`.
    ///
    /// Gives `false`, and stays as it is, if these are not the same stream.
    pub(super) fn catch_up(&mut self, directory: &Path, name: &str, position: u64) -> Result<bool> {
        let renewed = Self::open(directory, name)?;
        let last = self.appended.last().map(|kept| (kept.id, kept.at));
        let Some(first) = renewed.beginning(last.into_iter()) else { return Ok(false) };
        *self = renewed.begin_at(first).behind(self, position);
        Ok(true)
    }

    /// Puts before it what `old` has and it has not, from the file on in which `position` is.
    fn behind(mut self, old: &mut Self, position: u64) -> Self {
        let Some(first) = self.appended.first().map(|kept| kept.at) else { return self };
        let ends: Vec<u64> = old.appended.iter().skip(1).map(|next| next.at).collect();
        let of_old = std::mem::take(&mut old.appended).into_iter().zip(ends);
        let needed = of_old.filter(|(kept, end)| kept.at < first && *end > position).map(|(kept, _)| kept);
        let mut all: Vec<Kept> = needed.collect();
        all.append(&mut self.appended);
        Self { appended: all, ..self }
    }

    /// Reads what was appended from `scan`'s position on, as far as it is there now, and says where each file ends.
    ///
    /// Fails when a file other than the last ends in the middle of a command, or when anything is no command.
    pub(super) fn read_on(&self, scan: &mut Scan) -> Result<Vec<u64>> {
        let mut ends = Vec::new();
        for (number, kept) in self.appended.iter().enumerate() {
            let path = self.path.with_file_name(&kept.listed.name);
            let length = kept.file.metadata().map_err(Error::io("look at", &path))?.size();
            let end = kept.at + length;
            if scan.position < end {
                feed(kept, scan, end).map_err(|why| bad(&path, why))?;
            }
            match self.appended.get(number + 1) {
                Some(next) if next.at != end => {
                    return Err(bad(
                        &path,
                        format!("it has {length} bytes, and is not the last file any more"),
                    ));
                }
                Some(_) if scan.position == end && !scan.is_whole() => {
                    let why = "it ends in the middle of a command, and is not the last file";
                    return Err(bad(&path, why.to_owned()));
                }
                None if scan.position > end => {
                    return Err(bad(&path, format!("it has become shorter: {length} bytes are left")));
                }
                _ => {}
            }
            ends.push(end);
        }
        Ok(ends)
    }

    /// Reads bytes of the stream.
    pub(super) fn bytes(&self, from: u64, to: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)];
        let mut at = from;
        for (number, kept) in self.appended.iter().enumerate() {
            let end = self.appended.get(number + 1).map_or(to, |next| next.at.min(to));
            if kept.at <= at && at < end {
                let part = &mut bytes[(at - from) as usize..(end - from) as usize];
                let path = self.path.with_file_name(&kept.listed.name);
                kept.file.read_exact_at(part, at - kept.at).map_err(Error::io("read", &path))?;
                at = end;
            }
        }
        if at < to {
            return Err(bad(&self.path, format!("its files do not have the bytes from {at} to {to}")));
        }
        Ok(bytes)
    }
}

/// The base and what was appended; or the name that could not be opened.
fn open_all(directory: &Path, list: &List) -> std::result::Result<(File, Vec<Kept>), (String, io::Error)> {
    let open = |listed: &Listed| {
        let file = File::open(directory.join(&listed.name))?;
        Ok((file.metadata()?, file))
    };
    let open = |listed: &Listed| open(listed).map_err(|error| (listed.name.clone(), error));
    let base = list.base.as_ref().map(open).transpose()?;
    let (_, base) = base.ok_or_else(|| (String::new(), io::ErrorKind::NotFound.into()))?;
    let (mut appended, mut at) = (Vec::new(), 0);
    for listed in &list.appended {
        let (found, file) = open(listed)?;
        appended.push(Kept { listed: listed.clone(), id: listed.id(&found), at, file });
        at += found.size();
    }
    Ok((base, appended))
}

fn feed(kept: &Kept, scan: &mut Scan, end: u64) -> std::result::Result<(), String> {
    let mut buffer = vec![0; READ_BYTES];
    while scan.position < end {
        let most = usize::try_from(end - scan.position).unwrap_or(usize::MAX).min(READ_BYTES);
        let at = scan.position - kept.at;
        let count = kept.file.read_at(&mut buffer[..most], at).map_err(|error| error.to_string())?;
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
