//! The two system calls that nobody offers without `unsafe`, each with the reason why it is sound here.

use std::io;
use std::os::unix::process::CommandExt;

use rustix::thread::UnshareFlags;

/// Gives the calling thread namespaces, or a root and working directory, of its own.
#[expect(unsafe_code, reason = "rustix offers unshare as unsafe only, for the sake of one flag")]
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "the table of file descriptors stays shared");
    // SAFETY: what makes `unshare` unsafe is CLONE_FILES, after which the descriptors of one thread mean
    // nothing to another; the line above excludes it.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Makes the command the leader of a session of its own when it is started.
///
/// It has no terminal then, so that it cannot ask a question that nobody would see, and all that it starts
/// can be found and ended.
#[expect(unsafe_code, reason = "the standard library offers setsid on nightly only")]
pub(crate) fn in_own_session(command: &mut std::process::Command) {
    // SAFETY: the closure runs between fork and exec; it makes one system call and touches neither memory
    // that another thread may hold a lock on nor the allocator.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from)) };
}
