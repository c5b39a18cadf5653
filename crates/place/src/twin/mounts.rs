//! The host's mounts as the kernel lists them, and which of them a twin can show: pure functions.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Tells it from a mount that covers it at the same path.
    pub id: u64,
    pub path: PathBuf,
    pub kind: String,
    pub read_only: bool,
    pub no_suid: bool,
    pub no_exec: bool,
}

/// What a file system is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It holds files that are somebody's.
    Files,
    /// It is a window into the kernel.
    Kernel,
    /// Whoever serves it may be far away or gone; looking at it may take forever.
    Remote,
}

/// What every twin has of its own, whatever the host has there.
pub(super) const FRESH: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

const KERNEL: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

const REMOTE: &[&str] =
    &["9p", "afs", "ceph", "cifs", "fuse", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"];

impl Mount {
    pub fn class(&self) -> Class {
        if KERNEL.contains(&self.kind.as_str()) {
            Class::Kernel
        } else if REMOTE.contains(&self.kind.as_str()) || self.kind.starts_with("fuse.") {
            Class::Remote
        } else {
            Class::Files
        }
    }
}

/// Tells whether the path is one that every twin has of its own, or lies below one.
pub(super) fn is_fresh(path: &Path) -> bool {
    FRESH.iter().any(|fresh| path.starts_with(fresh))
}

/// Reads a whole mountinfo; those nearer the root come first, those at one path in the order of mounting.
///
/// The format is that of proc_pid_mountinfo(5); a line that breaks it is `Err` with its text.
pub(super) fn parse(mountinfo: &[u8]) -> Result<Vec<Mount>, String> {
    let lines = mountinfo.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mounts: Result<Vec<Mount>, String> = lines
        .map(|line| parse_line(line).ok_or_else(|| String::from_utf8_lossy(line).into_owned()))
        .collect();
    let mut mounts = mounts?;
    mounts.sort_by_key(|mount| mount.path.components().count());
    Ok(mounts)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |index: usize| std::str::from_utf8(fields.get(index)?).ok();
    let options: Vec<&str> = text(5)?.split(',').collect();
    Some(Mount {
        id: text(0)?.parse().ok()?,
        path: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        kind: text(dash + 1).filter(|kind| !kind.is_empty())?.to_owned(),
        read_only: options.contains(&"ro"),
        no_suid: options.contains(&"nosuid"),
        no_exec: options.contains(&"noexec"),
    })
}

/// The kernel writes space, tab, line feed and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                rest = &after[3..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_is_read() {
        let text = b"36 35 98:0 /mnt1 /a\\040b/c rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
            27 1 254:0 / / ro,nosuid,noexec - fuse.sshfs h rw\n";
        let mounts = parse(text).unwrap();
        assert_eq!(mounts[0].path, Path::new("/"));
        assert!(mounts[0].read_only && mounts[0].no_suid && mounts[0].no_exec);
        assert_eq!(mounts[0].class(), Class::Remote);
        assert_eq!((mounts[1].id, mounts[1].path.as_path()), (36, Path::new("/a b/c")));
        assert!(!mounts[1].read_only);
        assert_eq!(mounts[1].class(), Class::Files);
    }

    #[test]
    fn damage_is_told() {
        for text in ["", "x y", "36 35 98:0 / /a rw", "36 35 98:0 / /a rw - "] {
            assert!(parse_line(text.as_bytes()).is_none(), "{text}");
        }
        assert_eq!(parse(b"36 35 98:0 / /a rw\n").unwrap_err(), "36 35 98:0 / /a rw");
    }

    #[test]
    fn only_octal_escapes_are_undone() {
        assert_eq!(unescape(b"a\\040b\\134c\\x\\04"), b"a b\\c\\x\\04");
    }

    #[test]
    fn fresh_is_what_lies_below_and_not_what_is_named_alike() {
        assert!(is_fresh(Path::new("/tmp")) && is_fresh(Path::new("/run/user/1000")));
        assert!(!is_fresh(Path::new("/tmpfiles")) && !is_fresh(Path::new("/var/tmp")));
    }
}
