//! Trees of files with everything that makes backups stumble.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

use super::{is_root, noise, text};

/// Names that are hard to write: quotes and escapes of both layers, and characters from all over Unicode.
const ODD_NAMES: [&str; 12] = [
    "<script>&amp;\"'\\n\\x41",
    "line\u{2028}para\u{2029}",
    "bell\u{7}back\u{8}feed\u{c}tab\t",
    "é世🦀",
    "combining e\u{301}",
    "soft\u{ad}hyphen\u{200b}\u{feff}",
    "private \u{e000}\u{f0000}\u{10ffff}",
    "no-break\u{a0}space\u{3000}",
    "not assigned \u{378}\u{e01f0}",
    "tags \u{e0001}",
    "replacement \u{fffd}",
    " space ",
];

/// Makes every nasty entry that a file system takes, but no socket: restic leaves those out of its backups.
pub fn fill(source: &Path) {
    for name in ["names", "kinds", "times", "nothing", "kinds/directory"] {
        fs::create_dir_all(source.join(name)).unwrap();
    }
    fill_names(&source.join("names"));
    fill_kinds(&source.join("kinds"));
    fill_times(&source.join("times"));
}

fn fill_names(directory: &Path) {
    for byte in (1..=u8::MAX).filter(|byte| *byte != b'/') {
        for name in [vec![byte], vec![b'a', byte, b'b'], vec![0xc3, byte], vec![0xf0, 0x9f, byte]] {
            if name != b"." {
                fs::write(directory.join(OsStr::from_bytes(&name)), "").unwrap();
            }
        }
    }
    for name in ODD_NAMES {
        symlink(format!("to {name}\r\n"), directory.join(name)).unwrap();
    }
    fs::write(directory.join("n".repeat(255)), "").unwrap();
}

fn fill_kinds(directory: &Path) {
    let at = |name: &str| directory.join(name);
    fs::write(at("empty"), "").unwrap();
    fs::write(at("full"), "some bytes").unwrap();
    fs::hard_link(at("full"), at("linked")).unwrap();
    // What nobody may read, only root can back up.
    let none = if is_root() { 0 } else { 0o400 };
    for (name, mode) in [("none", none), ("setuid", 0o4755), ("setgid", 0o2711), ("all", 0o7777)] {
        fs::write(at(name), name).unwrap();
        fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(at("sticky")).unwrap();
    fs::set_permissions(at("sticky"), Permissions::from_mode(0o3777)).unwrap();
    let make = |name: &str, kind, device| mknodat(CWD, at(name), kind, Mode::RUSR, device);
    make("fifo", FileType::Fifo, 0).unwrap();
    // Only root may make these; elsewhere the rest of the test still holds.
    if is_root() {
        make("block", FileType::BlockDevice, makedev(7, 300)).unwrap();
        make("character", FileType::CharacterDevice, makedev(1, 3)).unwrap();
    }
    fs::write(at("attributes"), "x").unwrap();
    for (name, value) in
        [("user.plain", b"text".as_slice()), ("user.empty", b""), ("user.<odd>&\u{2028}", b"\x00\xff\n")]
    {
        setxattr(at("attributes"), name, value, XattrFlags::empty()).unwrap();
    }
}

fn fill_times(directory: &Path) {
    let after = |seconds, nanos| UNIX_EPOCH + Duration::new(seconds, nanos);
    let times = [
        after(0, 0),
        after(951_782_400, 120_000_000),
        after(1_700_000_000, 1),
        after(1_709_208_000, 999_999_999),
        after(4_102_444_800, 10),
        UNIX_EPOCH - Duration::new(1, 500_000_000),
        UNIX_EPOCH - Duration::new(1_000_000_000, 0),
    ];
    for (number, time) in times.into_iter().enumerate() {
        let file = File::create(directory.join(number.to_string())).unwrap();
        file.set_times(FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
    }
}

const KIB: usize = 1024;

/// Everything: the entries of [`fill`], contents large and sparse, links, ACLs, owners and closed directories.
pub fn fill_all(source: &Path) {
    fill(source);
    for name in ["contents", "links", "owners", "closed"] {
        fs::create_dir_all(source.join(name)).unwrap();
    }
    fill_contents(&source.join("contents"));
    fill_links(&source.join("links"));
    fill_owners(&source.join("owners"));
    fill_closed(&source.join("closed"));
    let long_ago = UNIX_EPOCH + Duration::new(1_234_567_890, 987_654_321);
    for name in ["nothing", "kinds", "contents", "owners"] {
        let directory = File::open(source.join(name)).unwrap();
        directory.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
    }
}

fn fill_contents(directory: &Path) {
    let write = |name: &str, data: &[u8]| fs::write(directory.join(name), data).unwrap();
    write("noise of 20 MiB", &noise(1, 20 << 20));
    write("text of 20 MiB", &text(20 << 20));
    write("zeros of 512 KiB", &vec![0; 512 * KIB]);
    write("zeros of 5 MiB and 7", &vec![0; (5 << 20) + 7]);
    write("zeros between", &[noise(2, 700 * KIB), vec![0; 1536 * KIB], noise(3, 300 * KIB)].concat());
    write("repeated", &noise(4, 700).repeat(20_000));
    write("ones of 9 MiB", &vec![1; 9 << 20]);
    for length in [1, 512 * KIB - 1, 512 * KIB + 1, 8192 * KIB, 8192 * KIB + 1] {
        write(&format!("noise of {length}"), &noise(5, length));
    }
    // Holes at the beginning, in the middle at odd places, and at the end.
    let holes = File::create(directory.join("holes")).unwrap();
    holes.write_all_at(b"after a hole", 3_000_001).unwrap();
    holes.write_all_at(&noise(6, 900 * KIB), 5_000_000).unwrap();
    holes.write_all_at(b"far", 40_000_000).unwrap();
    holes.set_len(50_000_003).unwrap();
    File::create(directory.join("hole alone")).unwrap().set_len(3_000_000).unwrap();
}

fn fill_links(directory: &Path) {
    let at = |name: &str| directory.join(name);
    for (name, target) in [
        ("dangling", "nowhere/at all"),
        ("itself", "itself"),
        ("up", "../../../../../../etc/passwd"),
        ("absolute", "/dev/null"),
        ("spaces", "  a\nb\t\"'\\  "),
    ] {
        symlink(target, at(name)).unwrap();
    }
    symlink("x".repeat(4000), at("long")).unwrap();
    symlink(OsStr::from_bytes(b"caf\xc3\xa9"), at("utf-8")).unwrap();
    let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    rustix::fs::utimensat(CWD, at("dangling"), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    fs::create_dir(at("a")).unwrap();
    fs::create_dir(at("b")).unwrap();
    fs::write(at("a/one"), noise(7, 2 << 20)).unwrap();
    for name in ["a/two", "b/three", "four"] {
        fs::hard_link(at("a/one"), at(name)).unwrap();
    }
    fs::write(at("b/empty"), "").unwrap();
    fs::hard_link(at("b/empty"), at("b/empty too")).unwrap();
}

fn fill_owners(directory: &Path) {
    let at = |name: &str| directory.join(name);
    for name in ["acl", "plain", "suid of another"] {
        fs::write(at(name), name).unwrap();
    }
    fs::create_dir(at("default acl")).unwrap();
    run("setfacl", &["-m", "u:1234:rwx,g:4321:r,m::rx"], &at("acl"));
    run("setfacl", &["-m", "u:1234:rw,d:u:1234:rwx,d:g::-,d:o::-"], &at("default acl"));
    if is_root() {
        chown(at("plain"), Some(1234), Some(4321)).unwrap();
        chown(at("suid of another"), Some(65534), Some(65534)).unwrap();
        symlink("plain", at("link of another")).unwrap();
        lchown(at("link of another"), Some(77), Some(88)).unwrap();
        setxattr(at("plain"), "trusted.lifeboat", b"root alone sees this", XattrFlags::empty()).unwrap();
    }
    fs::set_permissions(at("suid of another"), Permissions::from_mode(0o6755)).unwrap();
    setxattr(at("default acl"), "user.of a directory", b"\0\x01", XattrFlags::empty()).unwrap();
    setxattr(at("acl"), "user.large", &noise(8, 3000), XattrFlags::empty()).unwrap();
}

/// What its owner may neither read nor write; only root can back it up.
fn fill_closed(directory: &Path) {
    fs::create_dir(directory.join("directory")).unwrap();
    fs::write(directory.join("directory/within"), "within").unwrap();
    fs::write(directory.join("file"), "closed").unwrap();
    let mode = |owner, root| Permissions::from_mode(if is_root() { root } else { owner });
    fs::set_permissions(directory.join("file"), mode(0o400, 0)).unwrap();
    fs::set_permissions(directory.join("directory"), mode(0o700, 0)).unwrap();
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}; run `cargo xtask setup`"));
    assert!(status.success(), "{program} {arguments:?} {path:?}");
}
