//! Tests that need a process of their own: to be killed, to have few rights, to mount.
//!
//! The child is this same test binary, told to run one test; an environment variable tells that test that it
//! is the child and what it is to do.

use std::process::{Child, Command, Stdio};

const VARIABLE: &str = "LIFEBOAT_TEST_CHILD";

/// What the parent told this process, when it is a child.
#[expect(clippy::disallowed_methods, reason = "the one place where a test learns that it is a child")]
pub fn orders() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// The command that runs the test `name`, such as `module::test`, as a child with `orders`.
///
/// `through` comes before it on the command line: `["unshare", "--mount"]`.
pub fn command(through: &[&str], name: &str, orders: &str) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut words = through.iter().map(std::ffi::OsString::from).chain([this.into()]);
    let mut command = Command::new(words.next().expect("this binary at least"));
    command
        .args(words)
        .args(["--exact", name, "--include-ignored", "--nocapture", "--quiet"])
        .env(VARIABLE, orders);
    command
}

/// Starts a child whose standard input and output are pipes.
pub fn start(name: &str, orders: &str) -> Child {
    command(&[], name, orders).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Runs the calling test again through another program; `true` in that child, which then does the work.
///
/// In the parent it fails the test if the child failed.
pub fn inside(through: &[&str], name: &str) -> bool {
    if orders().is_some() {
        return true;
    }
    let output = command(through, name, "inside").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "in {through:?}: {said}");
    // A name that fits no test would be a success without any.
    assert!(said.contains("1 passed"), "{said}");
    false
}

/// The same in a mount namespace of its own, where the test may mount.
pub fn inside_mount_namespace(name: &str) -> bool {
    let through: &[&str] =
        if super::is_root() { &["unshare", "--mount"] } else { &["unshare", "--mount", "--map-root-user"] };
    inside(through, name)
}

/// Runs `work` as a user who may not read what others have closed: a thread of its own changes its rights.
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use rustix::process::Uid;
    let nobody = Uid::from_raw(65534);
    std::thread::scope(|scope| {
        let work = || {
            if super::is_root() {
                // Rights belong to threads on Linux, and threads started from here inherit them.
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            work()
        };
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
