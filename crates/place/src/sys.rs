//! The few system calls that nobody offers without `unsafe`, each with the reason why it is sound here.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::ptr;

use rustix::process::{Resource, Rlimit};
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
/// can be found and ended. `without_core`: should it crash, the host's handler of core dumps, which the kernel
/// starts outside of all namespaces, is not started; the limit that means so is 1 byte, not 0 (core(5)).
#[expect(unsafe_code, reason = "the standard library offers setsid on nightly only")]
pub(crate) fn in_own_session(command: &mut std::process::Command, without_core: bool) {
    let begin = move || {
        rustix::process::setsid()?;
        if without_core {
            let limit = Rlimit { current: Some(1), maximum: Some(1) };
            rustix::process::setrlimit(Resource::Core, limit)?;
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec; it makes system calls and touches neither memory that
    // another thread may hold a lock on nor the allocator.
    unsafe { command.pre_exec(begin) };
}

/// Keeps descriptors that this process got from its parent from what it starts.
///
/// All that it opens itself are closed on exec anyway.
#[expect(unsafe_code, reason = "a descriptor that was inherited is only known by its number")]
pub(crate) fn keep_inherited_descriptors() -> io::Result<()> {
    let numbers: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // SAFETY: the descriptor is borrowed for one call that sets a flag of it. Should it have been closed
        // or replaced since the listing, the call fails or sets the flag that every descriptor of ours has.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        match rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC) {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Puts a seccomp filter on the calling thread and all that it will start; for good.
#[expect(unsafe_code, reason = "the crates that offer it set no_new_privs, with which sudo does not work")]
pub(crate) fn filter_system_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = program.len().try_into().map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions at `filter`, which is the slice, writes nothing there, and
    // checks every instruction before it takes the program.
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, ptr::from_ref(&program)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
