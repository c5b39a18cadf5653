//! Boots a real systemd for tests: the machine's own, as the first process of a machine in namespaces, with this one's
//! programs and `/etc` and no unit but those that a test writes. A dev-dependency only; everything here panics with
//! what to do.
//!
//! It needs root, and a kernel that lets root mount control groups; else the test fails, it is never
//! skipped. Nothing is left: all processes end with the first one, which ends with the test, and what was
//! written was in memory. The control group is removed when this is dropped, or by the next one that boots.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long booting may take; on an idle machine it is well under a second.
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the control groups of tests are called; a number follows.
const GROUP: &str = "lifeboat-test-";

/// Where commands inside are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A machine that has booted; it is switched off when this is dropped.
#[derive(Debug)]
pub struct Booted {
    scratch: TempDir,
    process: Child,
    first: u32,
    group: String,
}

impl Booted {
    /// Boots. The directory of the test's own programs is seen inside at its own path.
    ///
    /// # Panics
    ///
    /// When there is no systemd, no root, or the kernel forbids what it takes.
    pub fn new() -> Self {
        assert!(
            Path::new("/lib/systemd/systemd").exists(),
            "there is no systemd on this machine: `cargo xtask setup` installs it"
        );
        remove_groups(None);
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let group = format!("{GROUP}{}-{count}", std::process::id());
        let scratch = tempfile::tempdir_in("/var/tmp").expect("a directory for temporary files must exist");
        let log = File::create(scratch.path().join("log")).expect("the directory was just made");
        let empty = scratch.path().join("machine");
        std::fs::create_dir(&empty).expect("the directory was just made");
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
            .args(["/bin/sh", "-c", include_str!("boot.sh"), "sh"])
            .args([empty.as_os_str(), OsStr::new(&group), programs().as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("setpriv and unshare of util-linux can be run");
        let mut booted = Self { scratch, process, first: 0, group };
        booted.wait();
        booted
    }

    /// A command inside, with a clean environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let first = self.first.to_string();
        command.args(["--all", "--wd", "--target", &first, "--"]).arg(program);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Runs a line of shell inside, which must succeed, and gives what it printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn shell(&self, line: &str) -> String {
        let output = self.command("/bin/sh").args(["-euc", line]).output().expect("nsenter can be run");
        assert!(output.status.success(), "{line}: {}", told(&output));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Writes a unit file inside, and lets systemd read it.
    pub fn write_unit(&self, name: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{name}"), text);
        self.shell("systemctl daemon-reload");
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, text: &str) {
        // Quoted by the shell's rules; what is written ends with a line end.
        let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let folder = Path::new(path).parent().expect("the path of a file").display().to_string();
        self.shell(&format!("mkdir -p {} && printf %s {} > {}", quote(&folder), quote(text), quote(path)));
    }

    /// What systemd has said since it was booted.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// Waits until systemd is there, is the first process of its namespace, and has reached its target.
    fn wait(&mut self) {
        let deadline = Instant::now() + BOOT_TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!(
                    "systemd did not boot ({status}); root and its rights to mount are needed: {}",
                    self.log()
                );
            }
            self.first = first_of(self.process.id()).unwrap_or(0);
            if self.first != 0 {
                let asked = self.command("systemctl").args(["is-active", "lifeboat.target"]).output();
                if asked.is_ok_and(|output| output.status.success()) {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("systemd did not boot within {} s: {}", BOOT_TIMEOUT.as_secs(), self.log());
    }
}

impl Default for Booted {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // An error means that it has ended already. `unshare` takes systemd with it, and that one all others.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.first != 0 && Path::new(&format!("/proc/{}/ns/pid", self.first)).exists() {
            if Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        remove_groups(Some(&self.group));
    }
}

/// The directory with the programs that cargo has built, which is above that of the tests.
fn programs() -> PathBuf {
    let test = std::env::current_exe().expect("a program knows its path");
    test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned()
}

/// The number of systemd: the only child of `unshare`, once it has become systemd.
fn first_of(unshare: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
    let child: u32 = children.split_ascii_whitespace().next()?.parse().ok()?;
    let program = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    (program.trim() == "systemd").then_some(child)
}

/// Removes the control groups of this machine and of tests that have ended without doing so. Those of others that run
/// are left alone: systemd makes a group first and puts a process into it then.
fn remove_groups(own: Option<&str>) {
    let script = "at=$(mktemp -d); mount -t cgroup2 cgroup2 $at; for group in $at/$1*; do \
                  test=${group#$at/$1}; test=${test%%-*}; \
                  if [ $group = \"$at/$2\" ] || [ ! -d /proc/$test ]; then find $group -depth -type d -exec rmdir {} +; fi; \
                  done; umount $at; rmdir $at";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh", GROUP]);
    command.arg(own.unwrap_or_default()).stdin(Stdio::null());
    // Whether control groups can be mounted is said, with the reason, where one is needed.
    let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn told(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}\n{err}", output.status)
}
