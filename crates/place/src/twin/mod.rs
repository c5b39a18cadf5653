//! The twin: a copy-on-write overlay of this host in namespaces of its own, destroyed after use.
//!
//! | module | what lives there |
//! |---|---|
//! | `mounts` | the host's mounts, as the kernel lists them |
//! | `build`, `fresh` | the twin's tree of mounts: overlays of the host's, and what is made anew |
//! | `init` | the twin's first process |
//! | `inside` | entering a twin |
//! | `user` | rights: of root, of an ordinary user, of commands in the twin |
//! | `filter` | system calls that no command in the twin gets |
//! | `scratch` | directories for what is written, and how none is forgotten |
//!
//! **What protects the host.** Files: an overlay never writes below. Processes, network, abstract sockets,
//! shared memory, host name: namespaces of its own. Sockets in the file system: an overlay has inodes of its
//! own, and nobody listens on them. Disks: overlays open no device nodes, and `/dev` has none. Kernel: the
//! capabilities to change it are not in the bounding set of any command, and what of `/proc` asks for no
//! capability is read-only; calls that no namespace covers are filtered. `no_new_privs` is not set, because `sudo` would not work in the twin then as it
//! does on the host; setuid programs get no right beyond the bounding set either.
//!
//! **Concurrency.** A twin belongs to whoever made it; its places may be used from any thread. The host goes
//! on while a twin lives. What it changes below an overlay may or may not be seen in the twin.
//!
//! **Crash.** A thread of this process is the parent of the twin's first process, which dies with it, and
//! with that one everything in the twin. Scratch directories stay, and [`Twin::reap`] finds them.

mod build;
mod filter;
mod fresh;
mod init;
mod inside;
mod mounts;
mod scratch;
mod user;

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use self::build::Spec;
use self::init::Answer;
use self::scratch::Scratch;
use crate::error::{Error, Result};
use crate::place::Place;
use crate::sys;

pub use self::init::twin_init;
pub(crate) use self::inside::Inside;
pub use self::user::enter_user_namespace;

/// How long building a twin may take; one file system that does not answer must not hang a drill.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How a twin is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinOptions {
    /// Where what is written in the twin is kept until it is destroyed: a directory of the host, made when it
    /// is not there. Give every user one of his own.
    pub scratch: PathBuf,
    /// The program and the arguments that do nothing but call [`twin_init`].
    pub init: Init,
    /// Directories that the twin must show although it would not: below `/tmp`, `/run` or `/dev/shm`, which are
    /// fresh in a twin, or on a file system of the network. What is renamed into or out of such a directory
    /// must lie in it too. One that the host does not have is passed over.
    ///
    /// For an ordinary user also every directory in which the scenario writes: an overlay of his cannot be
    /// written in below directories of others unless it was made for it.
    pub keep: Vec<PathBuf>,
    /// Files and directories of the host that the twin does not show, however large they are. What holds a mount or
    /// something kept is shown nevertheless, and so is what cannot be left out: look, and remove what is there.
    pub gone: Vec<PathBuf>,
}

/// The program that becomes a twin's first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Init {
    /// This very program with these arguments, as `["twin-init"]`.
    pub fn this_program<A: Into<OsString>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self { program: "/proc/self/exe".into(), arguments: arguments.into_iter().map(Into::into).collect() }
    }
}

/// What a twin shows of the host, and what it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinReport {
    /// Each mount of the host that holds files, and what became of it.
    pub mounts: Vec<Mounted>,
    /// Whether what is written in the twin is kept in memory, because the scratch directory cannot hold it.
    pub scratch_in_memory: bool,
    /// Whether a directory of the host can be renamed in the twin; else the rename fails with EXDEV, as
    /// between file systems. Overlays of an ordinary user cannot do it.
    pub renames_directories: bool,
    /// What else the twin lacks, in words for the report.
    pub limits: Vec<String>,
    /// How long it took until the twin was ready.
    pub took: Duration,
}

/// One mount of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Where the host has it.
    pub path: PathBuf,
    /// Its file system's type.
    pub kind: String,
    /// What the twin shows there.
    pub fate: Fate,
}

/// What the twin shows in the place of a mount of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The same files; what is changed stays in the twin.
    Overlaid,
    /// A copy of the single file that was mounted there.
    Copied,
    /// None of its files, for this reason: there is what the mount covers, or nothing.
    LeftOut(String),
}

/// A twin of this host; destroyed when it is dropped.
#[derive(Debug)]
pub struct Twin {
    inside: Arc<Inside>,
    report: TwinReport,
    scratch: Scratch,
    keeper: Option<Keeper>,
}

impl Twin {
    /// Makes a twin of this host.
    ///
    /// Needs `CAP_SYS_ADMIN`: root's, or that of a user namespace that [`enter_user_namespace`] was called for.
    /// Nothing is left when it fails. Descriptors that this process inherited are closed on exec from now on.
    pub fn make(options: &TwinOptions) -> Result<Self> {
        let started = Instant::now();
        sys::keep_inherited_descriptors()
            .map_err(|reason| Error::Make { what: "keep descriptors from it".into(), reason })?;
        let scratch = Scratch::make(&options.scratch)?;
        match Keeper::start(options, &scratch) {
            Ok((keeper, init, built)) => Ok(Self {
                inside: Arc::new(Inside::new(init)),
                report: TwinReport {
                    mounts: built.mounts,
                    scratch_in_memory: built.scratch_in_memory,
                    renames_directories: built.renames_directories,
                    limits: built.limits,
                    took: started.elapsed(),
                },
                scratch,
                keeper: Some(keeper),
            }),
            Err(error) => {
                // The next `reap` finds what cannot be removed now; why there is no twin matters more.
                let _ = scratch.remove();
                Err(error)
            }
        }
    }

    /// The place in it.
    pub fn place(&self) -> Place {
        Place::twin(Arc::clone(&self.inside))
    }

    /// What it shows of the host.
    pub fn report(&self) -> &TwinReport {
        &self.report
    }

    /// Kills every process in it and removes all that was written in it.
    ///
    /// Its places answer [`Error::Gone`] from now on. An error means that something is left in the scratch
    /// directory; no process is. A closure that is still [`within`](Place::within) it keeps its files until it
    /// returns.
    pub fn destroy(mut self) -> Result<()> {
        self.end()
    }

    /// Removes what twins left in a scratch directory whose process was killed; tells how many there were.
    pub fn reap(scratch: &Path) -> Result<usize> {
        scratch::reap(scratch)
    }

    fn end(&mut self) -> Result<()> {
        let Some(keeper) = self.keeper.take() else { return Ok(()) };
        keeper.end(&self.inside);
        self.scratch.remove()
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        // What cannot be removed is found by the next `reap`.
        let _ = self.end();
    }
}

/// The parent of a twin's first process, which dies with it: a thread that does nothing but be there.
#[derive(Debug)]
struct Keeper {
    thread: JoinHandle<()>,
    /// Closed to end the thread.
    stay: mpsc::Sender<()>,
    child: Child,
    /// Closed to end the first process. It never says anything again.
    socket: UnixStream,
}

impl Keeper {
    fn start(options: &TwinOptions, scratch: &Scratch) -> Result<(Self, OwnedFd, build::Built)> {
        let failed = |what: &'static str| move |reason| Error::Make { what: what.to_owned(), reason };
        let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket"))?;
        let lock = scratch.lock.try_clone().map_err(failed("share the lock"))?;
        let mut command = std::process::Command::new(&options.init.program);
        command.args(&options.init.arguments).env_clear().current_dir("/");
        command.stdin(OwnedFd::from(theirs)).stdout(lock).stderr(Stdio::piped());
        let (stay, told_to_go) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let spawn_and_stay = move || {
            // Fails when the receiver is gone, which waits for it.
            let _ = tell.send(spawn_first(command));
            let _ = told_to_go.recv();
        };
        let thread = thread::Builder::new()
            .name("twin-keeper".into())
            .spawn(spawn_and_stay)
            .map_err(failed("start a thread"))?;
        let spawned = told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread died")));
        let child = spawned.map_err(failed("start its first process"))?;
        let mut keeper = Self { thread, stay, child, socket: ours };
        let pid = Pid::from_child(&keeper.child);
        let ready = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| failed("watch its first process")(error.into()))
            .and_then(|init| Ok((init, keeper.build(options, scratch)?)));
        match ready {
            Ok((init, built)) => Ok((keeper, init, built)),
            Err(error) => {
                keeper.kill();
                Err(error)
            }
        }
    }

    /// Lets the first process build the twin.
    fn build(&mut self, options: &TwinOptions, scratch: &Scratch) -> Result<build::Built> {
        let failed = |reason| Error::Make { what: "talk to its first process".to_owned(), reason };
        let spec = Spec {
            scratch: scratch.directory.clone(),
            keep: options.keep.clone(),
            gone: options.gone.clone(),
        };
        let task = serde_json::to_string(&spec).map_err(|error| failed(error.into()))? + "\n";
        let mut answer = String::new();
        let talk = (|| {
            self.socket.set_read_timeout(Some(READY_WITHIN))?;
            (&self.socket).write_all(task.as_bytes())?;
            BufReader::new(&self.socket).read_line(&mut answer)
        })();
        match talk {
            Err(slow) if slow.kind() == io::ErrorKind::WouldBlock => Err(failed(io::Error::new(
                io::ErrorKind::TimedOut,
                "it does not answer; does a file system?",
            ))),
            Ok(0) | Err(_) => Err(failed(io::Error::other(self.last_words()))),
            Ok(_) => match serde_json::from_str(&answer).map_err(|error| failed(error.into()))? {
                Answer::Ready(built) => {
                    let apart = self.is_apart();
                    apart.map_err(|reason| Error::Make { what: "part it from the host".into(), reason })?;
                    Ok(built)
                }
                Answer::Failed(what, _, Some(number)) => {
                    Err(Error::Make { what, reason: io::Error::from_raw_os_error(number) })
                }
                Answer::Failed(what, why, None) => Err(Error::Make { what, reason: io::Error::other(why) }),
            },
        }
    }

    /// Makes sure that the first process shares no namespace with this one: entering it would lead nowhere.
    fn is_apart(&self) -> io::Result<()> {
        for name in ["mnt", "net", "pid", "ipc", "uts"] {
            let theirs = fs::read_link(format!("/proc/{}/ns/{name}", self.child.id()))?;
            if theirs == fs::read_link(format!("/proc/self/ns/{name}"))? {
                return Err(io::Error::other(format!("its first process has the host's {name} namespace")));
            }
        }
        Ok(())
    }

    /// What the first process wrote before it died without an answer.
    fn last_words(&mut self) -> String {
        const WORDS_BYTES_MAX: u64 = 2000;
        let mut words = Vec::new();
        if let Some(errors) = self.child.stderr.take() {
            // Nothing is what it said then.
            let _ = errors.take(WORDS_BYTES_MAX).read_to_end(&mut words);
        }
        format!("it ended without an answer: {}", String::from_utf8_lossy(&words).trim())
    }

    /// Ends the first process, which ends all others.
    fn end(mut self, inside: &Inside) {
        // It fails only when it is dead already.
        let _ = self.child.kill();
        // The kernel lets the first process end when all others have been waited for, and some are ours.
        while let Ok(None) = self.child.try_wait() {
            inside.reap_children();
            thread::sleep(Duration::from_millis(1));
        }
        inside.reap_children();
        self.let_go();
    }

    fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.let_go();
    }

    fn let_go(self) {
        drop(self.stay);
        // It does nothing that could panic.
        let _ = self.thread.join();
    }
}

/// Starts the first process of new namespaces, which the calling thread is in as well, but for that of PIDs;
/// it can start no threads from now on.
fn spawn_first(mut command: std::process::Command) -> io::Result<Child> {
    let of_files = UnshareFlags::NEWNS | UnshareFlags::FS;
    let of_the_rest =
        UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWPID;
    sys::unshare(of_files | of_the_rest)?;
    if !rustix::process::geteuid().is_root() {
        user::entrust_children()?;
    }
    command.spawn()
}
