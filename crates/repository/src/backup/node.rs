//! One entry of a directory, looked at without following links: its metadata as a node.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use crate::Users;
use crate::format::{Node, NodeKind, Time, Xattr, mode_from_unix};

/// What the kernel says of an entry, as far as a node needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metadata {
    pub kind: NodeKind,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u64,
    rdev: u64,
    atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub inode: u64,
    pub device: u64,
    pub size: u64,
    /// Bytes that the file occupies; fewer than `size` when it has holes.
    pub allocated: u64,
}

/// Looks at `name` in `directory`, or at `directory` itself when `name` is empty.
pub(super) fn look(directory: impl AsFd, name: &OsStr) -> rustix::io::Result<Metadata> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
    Metadata::from_stat(&stat)
}

impl Metadata {
    fn from_stat(stat: &Statx) -> rustix::io::Result<Self> {
        let mode = u32::from(stat.stx_mode);
        let kind = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => NodeKind::File,
            FileType::Directory => NodeKind::Dir,
            FileType::Symlink => NodeKind::Symlink,
            FileType::BlockDevice => NodeKind::Dev,
            FileType::CharacterDevice => NodeKind::Chardev,
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::Unknown => return Err(Errno::OPNOTSUPP),
        };
        Ok(Self {
            kind,
            mode,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: u64::from(stat.stx_nlink),
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            atime: Time { seconds: stat.stx_atime.tv_sec, nanos: stat.stx_atime.tv_nsec },
            mtime: Time { seconds: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec },
            ctime: Time { seconds: stat.stx_ctime.tv_sec, nanos: stat.stx_ctime.tv_nsec },
            inode: stat.stx_ino,
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            size: stat.stx_size,
            allocated: stat.stx_blocks.saturating_mul(512),
        })
    }

    /// Whether a file read between two looks can be taken to be of one moment.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        (self.inode, self.device, self.size, self.mtime, self.ctime)
            == (other.inode, other.device, other.size, other.mtime, other.ctime)
    }

    /// Makes the node; content, subtree, link target and attributes are the caller's to add.
    pub(super) fn node(&self, name: &[u8], users: &Users, with_atime: bool) -> Node {
        let has_links = !matches!(self.kind, NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket);
        let is_device = matches!(self.kind, NodeKind::Dev | NodeKind::Chardev);
        let is_file = self.kind == NodeKind::File;
        Node {
            name: name.to_vec(),
            kind: self.kind,
            mode: mode_from_unix(self.mode),
            mtime: self.mtime,
            // Without it every read would change the tree; restic does the same.
            atime: if with_atime { self.atime } else { self.mtime },
            ctime: self.ctime,
            uid: self.uid,
            gid: self.gid,
            user: users.user(self.uid).to_owned(),
            group: users.group(self.gid).to_owned(),
            inode: self.inode,
            device_id: if is_file && self.links > 1 { self.device } else { 0 },
            size: if is_file { self.size } else { 0 },
            links: if has_links { self.links } else { 0 },
            link_target: Vec::new(),
            xattrs: Vec::new(),
            generic_attributes: None,
            device: if is_device { self.rdev } else { 0 },
            content: is_file.then(Vec::new),
            subtree: None,
            error: String::new(),
        }
    }
}

/// Whether `node` of an earlier snapshot stands for the file that `metadata` shows now.
pub(super) fn is_unchanged(node: &Node, metadata: &Metadata, ignore_ctime: bool, ignore_inode: bool) -> bool {
    node.kind == NodeKind::File
        && metadata.kind == NodeKind::File
        && node.size == metadata.size
        && node.mtime == metadata.mtime
        && (ignore_ctime || node.ctime == metadata.ctime)
        && (ignore_inode || node.inode == metadata.inode)
}

/// Names of attributes longer than this do not exist on Linux (64 KiB for a list of them).
const XATTR_LIST_BYTES_MAX: usize = 64 << 10;
/// Values longer than this do not exist on Linux.
const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;

/// Reads the extended attributes of an open file or directory, in the order of their names.
pub(super) fn xattrs_of_file(file: impl AsFd + Copy) -> rustix::io::Result<Vec<Xattr>> {
    read_xattrs(
        |list| rustix::fs::flistxattr(file, list),
        |name, value| rustix::fs::fgetxattr(file, name, value),
    )
}

/// Reads the extended attributes of what lies at `path`, a link itself and not what it points to.
pub(super) fn xattrs_of_path(path: &Path) -> rustix::io::Result<Vec<Xattr>> {
    read_xattrs(
        |list| rustix::fs::llistxattr(path, list),
        |name, value| rustix::fs::lgetxattr(path, name, value),
    )
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<Xattr>> {
    let mut names = [0; 1024];
    let mut long_names = Vec::new();
    let names: &[u8] = match list(&mut names) {
        Ok(length) => &names[..length],
        Err(Errno::RANGE) => {
            long_names.resize(XATTR_LIST_BYTES_MAX, 0);
            let length = list(&mut long_names)?;
            &long_names[..length]
        }
        // The file system has no attributes.
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut xattrs = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_VALUE_BYTES_MAX];
        match get(OsStr::from_bytes(name), &mut value) {
            Ok(length) => value.truncate(length),
            // Removed since it was listed, or of a namespace that this user may not read.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(error) => return Err(error),
        }
        value.shrink_to_fit();
        let name = String::from_utf8(name.to_vec()).map_err(|_| Errno::ILSEQ)?;
        xattrs.push(Xattr { name, value });
    }
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(xattrs)
}
