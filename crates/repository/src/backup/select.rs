//! What a backup leaves out.

use std::io::Read;
use std::path::Path;

use crate::filter::Patterns;

/// What a backup leaves out; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns of absolute paths.
    pub excludes: Patterns,
    /// What the snapshot says was left out.
    pub described: Vec<String>,
    /// Directories that hold such a file, but for that file.
    pub if_present: Vec<IfPresent>,
    /// Files with more bytes than this.
    pub larger_than_bytes: Option<u64>,
    /// Other file systems than the one that a path lies on.
    pub one_file_system: bool,
}

/// A file whose presence excludes its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfPresent {
    /// Its name.
    pub name: String,
    /// What it must begin with.
    pub header: Vec<u8>,
}

impl IfPresent {
    /// The mark of directories that hold nothing but a cache, by the Cache Directory Tagging Specification.
    pub fn cache_tag() -> Self {
        Self { name: "CACHEDIR.TAG".into(), header: b"Signature: 8a477f597d28d172789f06886806bc55".to_vec() }
    }

    /// Reads `NAME` or `NAME:HEADER`; `None` for an empty name or one that is a path.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, header) = text.split_once(':').unwrap_or((text, ""));
        let valid = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        valid.then(|| Self { name: name.into(), header: header.as_bytes().to_vec() })
    }

    /// Whether `directory` holds an entry of that name; a regular file when it must begin with something.
    fn marks(&self, directory: &Path) -> bool {
        let path = directory.join(&self.name);
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { return false };
        if self.header.is_empty() {
            return true;
        }
        if !metadata.is_file() {
            return false;
        }
        let mut head = Vec::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(self.header.len() as u64).read_to_end(&mut head));
        read.is_ok() && head == self.header
    }
}

impl Selection {
    /// Whether the entry at `path` is left out by its name.
    pub(super) fn excludes_path(&self, path: &Path) -> bool {
        self.excludes.matches(path)
    }

    /// Whether any pattern can leave something out; asked once, so that a walk need not build paths.
    pub(super) fn has_patterns(&self) -> bool {
        !self.excludes.is_empty()
    }

    /// Whether a file of this size is left out.
    pub(super) fn excludes_size(&self, bytes: u64) -> bool {
        self.larger_than_bytes.is_some_and(|limit| bytes > limit)
    }

    /// The file that excludes everything else in `directory`, if one does.
    pub(super) fn mark_of<'a>(&'a self, directory: &Path) -> Option<&'a str> {
        self.if_present.iter().find(|mark| mark.marks(directory)).map(|mark| mark.name.as_str())
    }
}
