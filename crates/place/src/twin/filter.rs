//! The system calls that commands of a twin do not get, because they act on the host past every namespace.
//!
//! - **Keyrings** of a user are the same in the twin and on the host.
//! - **Sockets to the hypervisor** (`AF_VSOCK`) belong to no network namespace.
//! - **io_uring** opens such sockets without a system call that a filter could see. Programs are prepared for
//!   its absence, because containers commonly lack it too.
//! - **User namespaces** would give their maker every capability again, if only in it: enough to mount the
//!   control groups that the twin shares with Lifeboat. `clone3`, whose flags a filter cannot see, is told to be
//!   absent; everybody falls back to `clone`.
//! - **Programs of another architecture** (32-bit ones on a 64-bit kernel) would name these calls by numbers
//!   and arguments that the filter cannot tell; they get nothing at all.
//!
//! A classic BPF program over `struct seccomp_data`, as in seccomp(2).

use std::io;

use libc::sock_filter;

use crate::sys;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// From this number on, x86-64 has the calls of x32; on other machines nothing is there.
const X32: u32 = 0x4000_0000;

const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// The lower half of the first argument; both architectures store it first.
const FIRST_ARGUMENT_AT: u32 = 16;

const REFUSED: [libc::c_long; 6] = [
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Takes the calls away from this thread and all that it will start.
///
/// Needs `CAP_SYS_ADMIN`, or `no_new_privs` would have to be set.
pub(super) fn install() -> io::Result<()> {
    sys::filter_system_calls(&program())
}

fn program() -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCHITECTURE_AT),
        unless_equal(ARCHITECTURE),
        refuse(libc::ENOSYS),
        load(NUMBER_AT),
        if_at_least(X32),
        refuse(libc::ENOSYS),
    ];
    for call in REFUSED {
        program.extend([if_equal(number(call)), refuse(libc::EPERM)]);
    }
    program.extend([if_equal(number(libc::SYS_clone3)), refuse(libc::ENOSYS)]);
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        program.extend([
            jump(libc::BPF_JEQ, number(call), 0, 4),
            load(FIRST_ARGUMENT_AT),
            jump(libc::BPF_JSET, libc::CLONE_NEWUSER.cast_unsigned(), 0, 1),
            refuse(libc::EPERM),
            allow(),
        ]);
    }
    program.extend([
        jump(libc::BPF_JEQ, number(libc::SYS_socket), 0, 3),
        load(FIRST_ARGUMENT_AT),
        if_equal(libc::AF_VSOCK.cast_unsigned()),
        refuse(libc::EAFNOSUPPORT),
        allow(),
    ]);
    program
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("numbers of system calls are small")
}

fn allow() -> sock_filter {
    statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW)
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn refuse(error: i32) -> sock_filter {
    statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | error.cast_unsigned())
}

/// The next instruction is for what equals; others skip it.
fn if_equal(value: u32) -> sock_filter {
    jump(libc::BPF_JEQ, value, 0, 1)
}

fn unless_equal(value: u32) -> sock_filter {
    jump(libc::BPF_JEQ, value, 1, 0)
}

fn if_at_least(value: u32) -> sock_filter {
    jump(libc::BPF_JGE, value, 0, 1)
}

fn jump(condition: u32, value: u32, when_true: u8, when_false: u8) -> sock_filter {
    let code = u16::try_from(libc::BPF_JMP | condition | libc::BPF_K).expect("codes have 16 bits");
    sock_filter { code, jt: when_true, jf: when_false, k: value }
}

fn statement(code: u32, value: u32) -> sock_filter {
    let code = u16::try_from(code).expect("codes have 16 bits");
    sock_filter { code, jt: 0, jf: 0, k: value }
}
