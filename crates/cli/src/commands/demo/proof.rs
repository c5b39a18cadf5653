//! A tree as it is, read with the standard library only, and how two such readings differ.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use repository::Id;

/// Everything of a directory tree that a restore must bring back, by path relative to the root.
#[derive(Debug)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Content,
    /// The first path of those that share the inode.
    linked_with: Option<PathBuf>,
    attributes: Vec<(OsString, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    File {
        size: u64,
        digest: Id,
    },
    Symlink(PathBuf),
    /// A directory, whose content are entries of their own, or a device or pipe, whose type the mode tells.
    Other {
        device: u64,
    },
}

/// One path that is not the same in two trees.
#[derive(Debug)]
pub struct Difference {
    pub path: PathBuf,
    pub what: String,
}

/// Something of the tree could not be read or written.
#[derive(Debug)]
pub struct Error {
    pub verb: &'static str,
    pub path: PathBuf,
    pub source: std::io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {} {}: {}", self.verb, self.path.display(), self.source)
    }
}

/// Names the path in an error.
pub trait At<T> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<std::io::Error>> At<T> for Result<T, E> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error { verb, path: path.to_owned(), source: source.into() })
    }
}

impl Tree {
    /// Reads everything at and below `root`.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let mut tree = BTreeMap::new();
        let mut inodes: HashMap<u64, Vec<PathBuf>> = HashMap::new();
        let mut open = vec![PathBuf::new()];
        while let Some(relative) = open.pop() {
            let path = root.join(&relative);
            let metadata = fs::symlink_metadata(&path).at("look at", &path)?;
            if metadata.is_dir() {
                for child in fs::read_dir(&path).at("list", &path)? {
                    open.push(relative.join(child.at("list", &path)?.file_name()));
                }
            } else if metadata.nlink() > 1 {
                inodes.entry(metadata.ino()).or_default().push(relative.clone());
            }
            tree.insert(relative, Entry::read(&path, &metadata)?);
        }
        for mut paths in inodes.into_values() {
            paths.sort_unstable();
            let first = paths[0].clone();
            for path in &paths {
                tree.entry(path.clone()).and_modify(|entry| entry.linked_with = Some(first.clone()));
            }
        }
        Ok(Self(tree))
    }

    /// Everything in which `now` differs from this.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (path, was) in &self.0 {
            let what = match now.0.get(path) {
                None => "is gone".to_owned(),
                Some(is) if is == was => continue,
                Some(is) => was.difference(is),
            };
            differences.push(Difference { path: path.clone(), what });
        }
        let strangers = now.0.keys().filter(|path| !self.0.contains_key(*path));
        differences
            .extend(strangers.map(|path| Difference { path: path.clone(), what: "was not there".into() }));
        differences
    }
}

impl Entry {
    fn read(path: &Path, metadata: &Metadata) -> Result<Self, Error> {
        let content = if metadata.is_file() {
            let bytes = fs::read(path).at("read", path)?;
            Content::File { size: bytes.len() as u64, digest: Id::of(&bytes) }
        } else if metadata.is_symlink() {
            Content::Symlink(fs::read_link(path).at("read", path)?)
        } else {
            Content::Other { device: metadata.rdev() }
        };
        Ok(Self {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            content,
            linked_with: None,
            attributes: attributes(path)?,
        })
    }

    fn difference(&self, now: &Self) -> String {
        let mut parts = Vec::new();
        let mut differs = |yes: bool, what: &str| {
            if yes {
                parts.push(what.to_owned());
            }
        };
        differs(self.content != now.content, "content");
        differs(self.mode != now.mode, "mode");
        differs(self.owner != now.owner, "owner");
        differs(self.mtime != now.mtime, "time");
        differs(self.linked_with != now.linked_with, "hard links");
        differs(self.attributes != now.attributes, "attributes");
        format!("differs in {}", parts.join(", "))
    }
}

/// The extended attributes that a user can set; those of the system follow from elsewhere.
fn attributes(path: &Path) -> Result<Vec<(OsString, Vec<u8>)>, Error> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        other => other.at("list the attributes of", path)?,
    };
    let mut attributes = Vec::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")) {
        let name = OsString::from_vec(name.to_vec());
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, &name, &mut value).at("read an attribute of", path)?;
        value.truncate(length);
        attributes.push((name, value));
    }
    attributes.sort();
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// The proof must see every kind of change on its own, else the demo proves less than it says.
    #[test]
    fn every_kind_of_difference_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
        let set_time = |name: &str| fs::File::open(root.join(name)).unwrap().set_modified(time).unwrap();
        for name in ["bytes", "mode", "time", "gone", "linked"] {
            fs::write(root.join(name), name).unwrap();
            set_time(name);
        }
        std::os::unix::fs::symlink("a", root.join("symlink")).unwrap();
        let before = Tree::read(root).unwrap();
        assert!(before.differences(&Tree::read(root).unwrap()).is_empty());

        fs::write(root.join("bytes"), "bYtes").unwrap();
        set_time("bytes");
        fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::File::open(root.join("time"))
            .unwrap()
            .set_modified(time + std::time::Duration::new(0, 1))
            .unwrap();
        fs::remove_file(root.join("gone")).unwrap();
        fs::hard_link(root.join("linked"), root.join("new")).unwrap();
        fs::remove_file(root.join("symlink")).unwrap();
        std::os::unix::fs::symlink("b", root.join("symlink")).unwrap();
        let seen: Vec<_> = before
            .differences(&Tree::read(root).unwrap())
            .iter()
            .filter(|difference| !difference.path.as_os_str().is_empty())
            .map(|difference| format!("{} {}", difference.path.display(), difference.what))
            .collect();
        assert_eq!(
            seen,
            [
                "bytes differs in content",
                "gone is gone",
                "linked differs in hard links",
                "mode differs in mode",
                "symlink differs in content, time",
                "time differs in time",
                "new was not there",
            ]
        );
    }
}
