//! Trees of files compared: every name, byte, mode, owner, time, attribute, link and device number.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use repository::Id;

/// Everything that a backup has to keep of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    /// Size and SHA-256 of a file, target of a link, number of a device.
    pub content: Content,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first of the paths that are the same inode, when that is another.
    pub same_as: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    File(u64, Id),
    Link(Vec<u8>),
    Device(u64),
    Nothing,
}

pub type Listing = BTreeMap<PathBuf, Entry>;

/// Describes `root` and everything below it, by relative path. Sockets are passed over: nobody restores those.
pub fn describe(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut inodes = BTreeMap::new();
    describe_entry(root, PathBuf::new(), &mut listing, &mut inodes);
    listing
}

fn describe_entry(
    root: &Path,
    relative: PathBuf,
    listing: &mut Listing,
    inodes: &mut BTreeMap<(u64, u64), PathBuf>,
) {
    // A path that ends in a slash would follow a link, and would not do for a file.
    let path = if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(&relative) };
    let meta = fs::symlink_metadata(&path).unwrap();
    let kind = meta.file_type();
    if kind.is_socket() {
        return;
    }
    let content = if kind.is_file() {
        let data = fs::read(&path).unwrap();
        Content::File(meta.len(), Id::of(&data))
    } else if kind.is_symlink() {
        Content::Link(fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
    } else if kind.is_block_device() || kind.is_char_device() {
        Content::Device(meta.rdev())
    } else {
        Content::Nothing
    };
    let mut same_as = None;
    if meta.nlink() > 1 && !meta.is_dir() {
        let first = inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| relative.clone());
        same_as = Some(first.clone()).filter(|first| *first != relative);
    }
    let entry = Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        content,
        xattrs: xattrs(&path),
        same_as,
    };
    if meta.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            describe_entry(root, relative.join(name), listing, inodes);
        }
    }
    listing.insert(relative, entry);
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
        value.truncate(length);
        (name.to_vec(), value)
    };
    names.map(read).collect()
}

/// Says in words what differs between two trees.
pub fn differences(expected: &Listing, found: &Listing) -> Vec<String> {
    let mut differences = Vec::new();
    for (path, entry) in expected {
        match found.get(path) {
            None => differences.push(format!("{path:?} is missing")),
            Some(other) if other != entry => {
                differences.push(format!("{path:?} should be {entry:?}\n    and is {other:?}"));
            }
            Some(_) => {}
        }
    }
    let surplus = found.keys().filter(|path| !expected.contains_key(*path));
    differences.extend(surplus.map(|path| format!("{path:?} should not be there")));
    differences
}

/// Fails unless both trees are the same in everything.
#[track_caller]
pub fn assert_same(expected: &Listing, found: &Listing) {
    let differences = differences(expected, found);
    let shown: Vec<_> = differences.iter().take(20).map(String::as_str).collect();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), shown.join("\n"));
}

/// Everything below `root` without itself, which a restore to a directory of the user's leaves alone.
pub fn read_tree(root: &Path) -> Listing {
    let mut listing = describe(root);
    listing.remove(Path::new(""));
    listing
}

/// Fails with a list of the differences unless both directories hold the same.
#[track_caller]
pub fn assert_same_tree(expected: &Path, found: &Path) {
    assert_same(&read_tree(expected), &read_tree(found));
}
