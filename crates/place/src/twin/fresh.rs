//! What a machine makes anew when it boots, and so a twin: `/dev`, `/proc`, `/run`, `/sys`, `/tmp`, and `lo`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::build::{Failed, Named, mount, mount_tmpfs, take_attributes};

/// Devices that give nothing away and take nothing but what they are given.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// Parts of `/proc` that act on the whole machine; most of them ask for no capability, only for root.
const PROC_READ_ONLY: [&str; 9] =
    ["acpi", "bus", "driver", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger"];

/// Parts of `/proc` that tell of the whole machine's memory, keys and log.
const PROC_MASKED: [&str; 6] = ["kcore", "keys", "key-users", "kmsg", "sched_debug", "timer_list"];

/// Directories of `/run` by which programs would take something for running that is not.
const RUN_LEFT_OUT: [&str; 4] = ["dbus", "systemd", "udev", "user"];

/// More directories of `/run` are not made: nothing in a twin may grow with the number of files.
const RUN_DIRECTORIES_MAX: usize = 500;

/// Mounts all of it below `root`; what the kernel does not allow and the twin can do without is told.
pub(super) fn mount_all(root: &Path, limits: &mut Vec<String>) -> Result<(), Failed> {
    for name in ["dev", "proc", "run", "sys", "tmp"] {
        let directory = root.join(name);
        if !directory.is_dir() {
            fs::create_dir(&directory).named(|| format!("make /{name}"))?;
        }
    }
    mount_dev(&root.join("dev"))?;
    mount_proc(&root.join("proc"), &root.join("dev/null"))?;
    mount_tmpfs(&root.join("tmp"), MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")
        .named(|| "mount /tmp".into())?;
    mount_tmpfs(&root.join("run"), MountFlags::NOSUID | MountFlags::NODEV, "mode=755")
        .named(|| "mount /run".into())?;
    let mut made = 0;
    copy_directories(Path::new("/run"), &root.join("run"), 2, &mut made).named(|| "fill /run".into())?;
    let guarded = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(error) = mount("sysfs", &root.join("sys"), "sysfs", guarded, "") {
        limits.push(format!("there is no /sys: {error}"));
    }
    Ok(())
}

fn mount_dev(dev: &Path) -> Result<(), Failed> {
    let guarded = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_tmpfs(dev, guarded | MountFlags::NODEV, "mode=755,size=1m").named(|| "mount /dev".into())?;
    for name in DEVICES {
        let (host, target) = (Path::new("/dev").join(name), dev.join(name));
        File::create(&target)
            .and_then(|_| bind_read_only(&host, &target))
            .named(|| format!("show {}", host.display()))?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, dev.join(name)).named(|| format!("make /dev/{name}"))?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name)).named(|| format!("make /dev/{name}"))?;
    }
    let terminals = dev.join("pts");
    mount("devpts", &terminals, "devpts", guarded, "newinstance,ptmxmode=0666,mode=0620")
        .named(|| "mount /dev/pts".into())?;
    mount_tmpfs(&dev.join("shm"), MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")
        .named(|| "mount /dev/shm".into())
}

fn mount_proc(proc: &Path, null: &Path) -> Result<(), Failed> {
    let guarded = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", proc, "proc", guarded, "").named(|| {
        "mount /proc (a container that masks parts of its own /proc allows nobody a fresh one)".into()
    })?;
    for name in PROC_READ_ONLY {
        let path = proc.join(name);
        if path.exists() {
            bind_read_only(&path, &path).named(|| format!("make /proc/{name} read-only"))?;
        }
    }
    for name in PROC_MASKED {
        let path = proc.join(name);
        if path.exists() {
            bind_read_only(null, &path).named(|| format!("mask /proc/{name}"))?;
        }
    }
    Ok(())
}

/// Shows `source` at `target` so that neither it nor its attributes can be changed; a device still works.
fn bind_read_only(source: &Path, target: &Path) -> io::Result<()> {
    rustix::mount::mount_bind(source, target)?;
    let has = rustix::fs::statvfs(target)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    // In a user namespace the kernel refuses to take one of these away.
    flags.set(MountFlags::NOSUID, has.contains(StatVfsMountFlags::NOSUID));
    flags.set(MountFlags::NODEV, has.contains(StatVfsMountFlags::NODEV));
    flags.set(MountFlags::NOEXEC, has.contains(StatVfsMountFlags::NOEXEC));
    Ok(rustix::mount::mount_remount(target, flags, "")?)
}

/// Makes the directories that services find when the host has booted, as `/run/postgresql`, without content.
fn copy_directories(from: &Path, to: &Path, depth: usize, made: &mut usize) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries.flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let left_out = RUN_LEFT_OUT.iter().any(|name| entry.file_name() == *name);
        if !is_directory || left_out || *made >= RUN_DIRECTORIES_MAX {
            continue;
        }
        *made += 1;
        let target = to.join(entry.file_name());
        fs::create_dir(&target)?;
        match take_attributes(&target, &entry.path()) {
            // It has vanished meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        }
        if depth > 1 {
            copy_directories(&entry.path(), &target, depth - 1, made)?;
        }
    }
    Ok(())
}

/// Brings up `lo`, the only interface of a network namespace that was just made, by asking the kernel over
/// rtnetlink(7): a request RTM_NEWLINK for interface 1 with the flag IFF_UP.
pub(super) fn bring_up_loopback() -> io::Result<()> {
    const MESSAGE_BYTES: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_AND_ACK: u16 = 5;
    const LOOPBACK: i32 = 1;
    const IFF_UP: u32 = 1;
    let header =
        [&MESSAGE_BYTES.to_ne_bytes()[..], &RTM_NEWLINK.to_ne_bytes(), &NLM_F_REQUEST_AND_ACK.to_ne_bytes()];
    let numbers = [[0; 4], [0; 4]].concat();
    let interface = [&[0; 4][..], &LOOPBACK.to_ne_bytes(), &IFF_UP.to_ne_bytes(), &IFF_UP.to_ne_bytes()];
    let message = [header.concat(), numbers, interface.concat()].concat();
    // No protocol is protocol 0, which is NETLINK_ROUTE.
    let kind = SocketType::RAW;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (count, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    let error = answer[..count].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match error {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel's answer is too short")),
    }
}
