//! Trees: one directory's entries, as a blob.
//!
//! The types are here; `build` writes them, `parse` reads them. A tree is exactly `{"nodes":[…]}` and a line feed,
//! its nodes strictly ascending by the raw bytes of their names. Any other spelling of the same nodes is the same
//! directory under another hash, so the writer keeps restic's spelling to the byte.

mod build;
mod parse;

pub use build::TreeBuilder;
pub use parse::parse_tree;

use crate::Id;

use super::Time;

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A regular file; its bytes are `content`.
    File,
    /// A directory; its entries are the tree `subtree`.
    Dir,
    /// A symbolic link to `link_target`.
    Symlink,
    /// A block device with number `device`.
    Dev,
    /// A character device with number `device`.
    Chardev,
    /// A named pipe.
    Fifo,
    /// A Unix socket; kept for the record, never recreated.
    Socket,
}

impl NodeKind {
    const ALL: [Self; 7] =
        [Self::File, Self::Dir, Self::Symlink, Self::Dev, Self::Chardev, Self::Fifo, Self::Socket];

    /// The word for it in a tree.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
            Self::Dev => "dev",
            Self::Chardev => "chardev",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }

    fn from_bytes(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().as_bytes() == word)
    }
}

/// An extended attribute (POSIX ACLs among them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Full name with its namespace, such as `user.comment`.
    pub name: String,
    /// Raw value.
    pub value: Vec<u8>,
}

/// One entry of a directory.
///
/// Numbers that the entry's kind does not have are 0, texts empty; a writer leaves those out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Raw bytes of the name, one path segment.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// Permission, type, setuid, setgid and sticky bits as Go's `os.FileMode` lays them out.
    pub mode: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last access.
    pub atime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Owner's name, where one was known.
    pub user: String,
    /// Group's name, where one was known.
    pub group: String,
    /// Inode number.
    pub inode: u64,
    /// Device that holds the inode; set for hard-linked files only, elsewhere it would only churn the tree.
    pub device_id: u64,
    /// Size in bytes of a file.
    pub size: u64,
    /// Number of hard links.
    pub links: u64,
    /// Raw bytes of a symbolic link's target.
    pub link_target: Vec<u8>,
    /// Extended attributes in the order of their names.
    pub xattrs: Vec<Xattr>,
    /// Attributes of other systems, kept as the JSON object they came as.
    pub generic_attributes: Option<serde_json::Value>,
    /// Device number of a device node.
    pub device: u64,
    /// Blobs of a file in order; `Some` for every regular file, `None` for everything else.
    pub content: Option<Vec<Id>>,
    /// The tree of a directory.
    pub subtree: Option<Id>,
    /// What went wrong when the entry was read, if anything did.
    pub error: String,
}

impl Node {
    /// An entry of which nothing but name and kind is known; a regular file's `content` too is the caller's to add.
    pub fn new(name: &[u8], kind: NodeKind) -> Self {
        Self {
            name: name.to_vec(),
            kind,
            mode: 0,
            mtime: Time::default(),
            atime: Time::default(),
            ctime: Time::default(),
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            inode: 0,
            device_id: 0,
            size: 0,
            links: 0,
            link_target: Vec::new(),
            xattrs: Vec::new(),
            generic_attributes: None,
            device: 0,
            content: None,
            subtree: None,
            error: String::new(),
        }
    }

    /// The system's permission bits with set-uid, set-gid and sticky: `0o7777` at most.
    pub fn permissions(&self) -> u32 {
        const SETUID: u32 = 1 << 23;
        const SETGID: u32 = 1 << 22;
        const STICKY: u32 = 1 << 20;
        let bit = |go: u32, unix: u32| if self.mode & go != 0 { unix } else { 0 };
        self.mode & 0o777 | bit(SETUID, 0o4000) | bit(SETGID, 0o2000) | bit(STICKY, 0o1000)
    }
}

/// Why a tree was refused, by the reader or by the writer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The bytes are not the JSON of a tree.
    #[error("no tree: expected {expected} at byte {offset}")]
    Syntax {
        /// Where.
        offset: usize,
        /// What should have been there.
        expected: &'static str,
    },
    /// A name is empty.
    #[error("an entry has an empty name")]
    EmptyName,
    /// A name is `.` or `..`, which would lead out of the directory.
    #[error("an entry has the name {name:?}, which leads to another directory")]
    DotName {
        /// The name as text.
        name: String,
    },
    /// A name has a `/`, which would lead out of the directory.
    #[error("the name {name:?} has a `/`")]
    SlashInName {
        /// The name as text.
        name: String,
    },
    /// A name has a NUL byte, which no file system takes.
    #[error("the name {name:?} has a NUL byte")]
    NulInName {
        /// The name as text.
        name: String,
    },
    /// Two entries have the same name.
    #[error("two entries have the name {name:?}")]
    DuplicateName {
        /// The name as text.
        name: String,
    },
    /// An entry comes before one with a smaller name.
    #[error("entries are out of order: {name:?} comes after {previous:?}")]
    Unsorted {
        /// The name as text.
        name: String,
        /// The name before it.
        previous: String,
    },
    /// An entry is of a kind that this version does not know.
    #[error("{name:?} is of unknown kind {kind:?}")]
    UnknownKind {
        /// The name as text.
        name: String,
        /// The unknown word.
        kind: String,
    },
}

/// Refuses a name that is no single path segment, or does not come after `previous` (empty before the first).
fn check_name(name: &[u8], previous: &[u8]) -> Result<(), TreeError> {
    let text = |name| String::from_utf8_lossy(name).into_owned();
    if name.is_empty() {
        return Err(TreeError::EmptyName);
    }
    if name <= previous {
        return Err(if name == previous {
            TreeError::DuplicateName { name: text(name) }
        } else {
            TreeError::Unsorted { name: text(name), previous: text(previous) }
        });
    }
    if name == b"." || name == b".." {
        return Err(TreeError::DotName { name: text(name) });
    }
    if name.contains(&b'/') {
        return Err(TreeError::SlashInName { name: text(name) });
    }
    if name.contains(&0) {
        return Err(TreeError::NulInName { name: text(name) });
    }
    Ok(())
}

// Go's os.FileMode: the nine permission bits as in Unix, everything else at the top.
const GO_DIR: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_FIFO: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_CHARDEV: u32 = 1 << 21;
const GO_STICKY: u32 = 1 << 20;
const GO_KIND: u32 = GO_DIR | GO_SYMLINK | GO_DEVICE | GO_FIFO | GO_SOCKET | GO_CHARDEV;

const UNIX_KIND: u32 = 0o170_000;
const PERMISSIONS: u32 = 0o777;

const KINDS: [(u32, u32); 7] = [
    (0o100_000, 0),
    (0o040_000, GO_DIR),
    (0o120_000, GO_SYMLINK),
    (0o060_000, GO_DEVICE),
    (0o020_000, GO_DEVICE | GO_CHARDEV),
    (0o010_000, GO_FIFO),
    (0o140_000, GO_SOCKET),
];
const BITS: [(u32, u32); 3] = [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)];

/// Converts `st_mode` of Unix to the `mode` of a node.
pub fn mode_from_unix(st_mode: u32) -> u32 {
    let kind = KINDS.iter().find(|(unix, _)| *unix == st_mode & UNIX_KIND).map_or(0, |(_, go)| *go);
    let bits: u32 = BITS.iter().filter(|(unix, _)| st_mode & unix != 0).map(|(_, go)| go).sum();
    kind | bits | st_mode & PERMISSIONS
}

/// Converts the `mode` of a node to `st_mode` of Unix; the kind is 0 when the node's bits name none.
pub fn mode_to_unix(go: u32) -> u32 {
    let kind = KINDS.iter().find(|(_, bits)| *bits == go & GO_KIND).map_or(0, |(unix, _)| *unix);
    let bits: u32 = BITS.iter().filter(|(_, bits)| go & bits != 0).map(|(unix, _)| unix).sum();
    kind | bits | go & PERMISSIONS
}

#[cfg(test)]
mod tests;
