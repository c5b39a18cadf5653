//! Where in its directory a server finds its data when it starts: in the dump, or in what it appends to.
//!
//! A server with `appendonly yes` never looks at the dump: with only that in its directory it starts empty, and writes
//! the empty state over the dump when it stops. So the dump is put where this server looks.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// From this version on what is appended to is several files and a list of them.
const PARTS_SINCE: u32 = 7;
/// From this version on the single file may begin with a dump.
const PREAMBLE_SINCE: u32 = 4;

/// Where a dump goes in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Layout {
    /// The server loads a dump of this name.
    Dump(String),
    /// The server loads what the list in this directory names; the second is what all names begin with.
    Parts(String, String),
    /// The server loads this one file, which may begin with a dump: before version 7.
    Single(String),
}

/// What a server loads: files of the data directory, and the list of them where it needs one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    /// Their paths in the data directory.
    pub files: Vec<PathBuf>,
    /// The path and the text of the list.
    pub list: Option<(PathBuf, String)>,
    /// An empty file that the list names as the last, to which a private server would append if it did.
    pub empty: Option<PathBuf>,
}

/// What a server says of it.
pub(super) struct Said<'a> {
    pub appends: bool,
    /// The first number of its version.
    pub major: u32,
    pub dump: &'a str,
    pub directory: &'a str,
    pub name: &'a str,
}

impl Layout {
    /// Chooses what a server like this one loads; the reason in words when there is nothing.
    pub(super) fn of(said: &Said<'_>) -> Result<Self, String> {
        for name in [said.dump, said.directory, said.name] {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if !name.chars().all(plain) || name.trim_matches('.').is_empty() {
                return Err(format!(
                    "its file name {name:?} is not one of letters, digits, dots and dashes: give it a plain one"
                ));
            }
        }
        match (said.appends, said.major) {
            (false, _) => Ok(Self::Dump(said.dump.to_owned())),
            (true, PARTS_SINCE..) => Ok(Self::Parts(said.directory.to_owned(), said.name.to_owned())),
            (true, PREAMBLE_SINCE..) => Ok(Self::Single(said.name.to_owned())),
            (true, _) => {
                Err("a server older than version 4 with `appendonly yes` cannot begin with a dump: \
                              switch it off, or back it up as files while it is stopped"
                    .to_owned())
            }
        }
    }

    /// Where the dump lies, in the data directory.
    pub(super) fn dump(&self) -> PathBuf {
        match self {
            Self::Dump(name) | Self::Single(name) => PathBuf::from(name),
            Self::Parts(directory, name) => Path::new(directory).join(base_name(name)),
        }
    }

    /// The list that goes with it, if there is one, and what it says.
    pub(super) fn list(&self) -> Option<(PathBuf, String)> {
        let Self::Parts(directory, name) = self else { return None };
        let path = Path::new(directory).join(format!("{name}.manifest"));
        Some((path, format!("file {} seq 1 type b\n", base_name(name))))
    }

    /// All files of a dump in this layout.
    pub(super) fn files(&self) -> Files {
        Files { files: vec![self.dump()], list: self.list(), empty: None }
    }

    /// The settings by which a server finds it.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Dump(name) => vec![("dbfilename", name.clone()), ("appendonly", "no".to_owned())],
            Self::Single(name) => {
                vec![("appendonly", "yes".to_owned()), ("appendfilename", name.clone())]
            }
            Self::Parts(directory, name) => vec![
                ("appendonly", "yes".to_owned()),
                ("appenddirname", directory.clone()),
                ("appendfilename", name.clone()),
            ],
        }
    }
}

fn base_name(name: &str) -> String {
    format!("{name}.1.base.rdb")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(appends: bool, major: u32, name: &str) -> Result<Layout, String> {
        Layout::of(&Said { appends, major, dump: "dump.rdb", directory: "appendonlydir", name })
    }

    #[test]
    fn the_dump_goes_where_the_server_looks() {
        assert_eq!(said(false, 7, "a.aof").unwrap().dump(), Path::new("dump.rdb"));
        assert_eq!(said(true, 6, "a.aof").unwrap().dump(), Path::new("a.aof"));
        let parts = said(true, 7, "a.aof").unwrap();
        assert_eq!(parts.dump(), Path::new("appendonlydir/a.aof.1.base.rdb"));
        let (path, text) = parts.list().unwrap();
        assert_eq!(path, Path::new("appendonlydir/a.aof.manifest"));
        assert_eq!(text, "file a.aof.1.base.rdb seq 1 type b\n");
        assert!(said(true, 3, "a.aof").is_err());
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_directory() {
        for name in ["../a", "a/b", "..", "", "a b", "a\nb"] {
            assert!(said(true, 7, name).is_err(), "{name:?}");
        }
    }
}
