//! The first process of a twin: builds it, reaps its orphans, and takes everything with it when it ends.
//!
//! It is this very program started again, because the first process of a PID namespace must be born in it; its
//! other namespaces are those of the thread that started it.
//! Its standard input is one end of a socket, over which it gets its task and answers; its standard output is
//! the lock of the scratch directory, which is held that way as long as it lives. It ends when the other end
//! of the socket is closed, or when the thread that started it ends: then the kernel kills all others.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::build::{self, Built, Failed, Named, Spec};
use super::{fresh, user};

/// What the first process says when it has built the twin, or could not.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Ready(Built),
    /// The step, why, and the number of the system's error where there is one.
    Failed(String, String, Option<i32>),
}

/// How often the dead are looked for; only orphans are this process's to reap.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Is the first process of a twin; the hidden command that [`TwinOptions`](crate::TwinOptions) names calls it
/// and nothing else, before any thread is started, and returns what it returns.
pub fn twin_init() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever started us is gone, and with him everybody to tell.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut parent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut task = String::new();
    BufReader::new(parent.try_clone()?).read_line(&mut task)?;
    let answer =
        match serde_json::from_str(&task).named(|| "read its task".into()).and_then(|spec| prepare(&spec)) {
            Ok(built) => Answer::Ready(built),
            Err(Failed { what, reason }) => Answer::Failed(what, reason.to_string(), reason.raw_os_error()),
        };
    let failed = matches!(answer, Answer::Failed(..));
    let text = serde_json::to_string(&answer)? + "\n";
    parent.write_all(text.as_bytes())?;
    if failed { Ok(()) } else { reap_until_closed(&parent) }
}

fn prepare(spec: &Spec) -> Result<Built, Failed> {
    rustix::process::setsid().named(|| "leave the session".into())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    fresh::bring_up_loopback().named(|| "bring up lo".into())?;
    let built = build::build(spec)?;
    // Nobody in the twin may look into this process, which has seen the host.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).named(|| "hide".into())?;
    user::give_up_rights().named(|| "give up its rights".into())?;
    Ok(built)
}

fn reap_until_closed(parent: &UnixStream) -> io::Result<()> {
    loop {
        let mut polled = [PollFd::new(parent, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&TICK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()), // Nothing is ever sent: this is the end.
            Err(error) => return Err(error.into()),
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}
