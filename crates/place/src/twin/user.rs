//! The rights to make a twin: those that root has, and those that an ordinary user gets in a user namespace.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use crate::error::{Error, Result};
use crate::sys;

/// What a command in a twin may at most be able to do: nothing that reaches past the twin's namespaces.
///
/// Left out are, among others, modules, clock, raw I/O, reboot, device nodes, mounting, network set-up,
/// tracing, the host's log and accounting, scheduling, quotas, and file handles (`DAC_READ_SEARCH`), by which
/// any file of a file system could be opened.
const OF_COMMANDS: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::IPC_OWNER)
    .union(CapabilitySet::SYS_CHROOT)
    // Without it `su` and `sudo` refuse; with it a line may be added to the host's audit log.
    .union(CapabilitySet::AUDIT_WRITE);

/// The numbers of all capabilities that any kernel may know.
fn all() -> impl Iterator<Item = CapabilitySet> {
    (0..64).map(|number| CapabilitySet::from_bits_retain(1 << number))
}

/// Sees to it that whatever this thread starts can do no more than commands of a twin may.
///
/// The thread itself keeps its rights. That is on purpose: a process may trace only one that has no right
/// which it lacks itself, so nobody in the twin can trace what we start between fork and exec, when it
/// still has our memory.
pub(super) fn confine_children() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let sets = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { inheritable: CapabilitySet::empty(), ..sets })?;
    for capability in all().filter(|capability| !OF_COMMANDS.contains(*capability)) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel knows no capability of that number.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Gives all rights of this thread to what it starts, also when it is not root.
pub(super) fn entrust_children() -> io::Result<()> {
    let sets = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { inheritable: sets.permitted, ..sets })?;
    for capability in all().filter(|capability| sets.permitted.contains(*capability)) {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Gives up all rights of this process for good.
pub(super) fn give_up_rights() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    Ok(rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?)
}

/// Tells whether this process is in another user namespace than the host's first.
pub(super) fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().ne(["0", "0", "4294967295"])
}

/// Gives an ordinary user the rights that [`Twin::make`](crate::Twin::make) needs, in a user namespace of its
/// own; does nothing for who has them.
///
/// To be called at the start of `main`, while the process has one thread. From then on every file of another
/// user belongs to `nobody` in the eyes of this process, and it and what it starts can become no other user.
/// Errors: [`Error::UserNamespaces`] when the system forbids it, [`Error::TooLate`] when there are threads.
pub fn enter_user_namespace() -> Result<()> {
    let sets = rustix::thread::capabilities(None).map_err(|error| forbidden(&error.into()))?;
    if sets.effective.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(());
    }
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(Error::TooLate { threads });
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::unshare(UnshareFlags::NEWUSER).map_err(|reason| forbidden(&reason))?;
    let written = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")));
    written.map_err(|reason| forbidden(&reason))?;
    // AppArmor lets the namespace be made and takes every right in it away: only a trial tells.
    let trial = thread::scope(|scope| scope.spawn(|| sys::unshare(UnshareFlags::NEWUTS)).join());
    trial.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(|reason| forbidden(&reason))
}

/// Names what forbids user namespaces, as far as the kernel shows it.
fn forbidden(reason: &io::Error) -> Error {
    blame(Path::new("/proc/sys"), reason)
}

/// The settings by which systems forbid user namespaces: file, forbidding value, what it is called, remedy.
const SETTINGS: [(&str, &str, &str, &str); 3] = [
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor takes the rights of user namespaces away (kernel.apparmor_restrict_unprivileged_userns is 1)",
        "give Lifeboat an AppArmor profile that allows `userns`, or set that to 0",
    ),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "the system forbids user namespaces (kernel.unprivileged_userns_clone is 0)",
        "set kernel.unprivileged_userns_clone to 1",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "the system forbids user namespaces (user.max_user_namespaces is 0)",
        "raise user.max_user_namespaces",
    ),
];

fn blame(settings: &Path, reason: &io::Error) -> Error {
    let is_set = |(file, value, ..): &&(&str, &str, &str, &str)| {
        fs::read_to_string(settings.join(file)).is_ok_and(|text| text.trim() == *value)
    };
    match SETTINGS.iter().find(is_set) {
        Some((_, _, forbidden_by, remedy)) => {
            Error::UserNamespaces { forbidden_by: (*forbidden_by).into(), remedy: (*remedy).into() }
        }
        None => Error::UserNamespaces {
            forbidden_by: format!("the kernel refuses a user namespace ({reason})"),
            remedy: "leave the chroot, or the container whose seccomp filter forbids `unshare`".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_is_named() {
        let denied = io::Error::from_raw_os_error(1);
        for (file, value, ..) in SETTINGS {
            let settings = tempfile::tempdir().unwrap();
            let path = settings.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("{value}\n")).unwrap();
            let message = blame(settings.path(), &denied).to_string();
            assert!(message.contains(&file.replace('/', ".")), "{message}");
            fs::write(&path, "77\n").unwrap();
            assert!(blame(settings.path(), &denied).to_string().contains("Operation not permitted"));
        }
    }

    #[test]
    fn a_process_with_threads_and_without_rights_is_too_late() {
        // Rights are a thread's own: this one gives its up and is an ordinary user's from then on.
        let result = thread::spawn(|| {
            give_up_rights().unwrap();
            enter_user_namespace()
        });
        assert!(matches!(result.join().unwrap(), Err(Error::TooLate { threads }) if threads > 1));
    }
}
