//! [`Place`]: this host or a twin, with the same methods, so that a scenario need not know where it runs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::{Command, Finished, Input, Limits};
use crate::error::{Error, Result};
use crate::process::{ProcessId, Stopped};
use crate::run::{self, Reading, Running};
use crate::twin::Inside;

/// Where things take effect: this host, or a twin of it.
///
/// A copy is another handle to the same place. None of the methods may be called on a thread that is
/// [`within`](Self::within) a twin, because such a thread no longer sees the host.
#[derive(Clone, Debug)]
pub struct Place {
    inside: Option<Arc<Inside>>,
}

impl Place {
    /// This host.
    pub fn host() -> Self {
        Self { inside: None }
    }

    pub(crate) fn twin(inside: Arc<Inside>) -> Self {
        Self { inside: Some(inside) }
    }

    /// Names the place in messages: `this host` or `the twin`.
    pub fn name(&self) -> &str {
        if self.is_twin() { "the twin" } else { "this host" }
    }

    /// Tells whether what happens here leaves this host as it was.
    pub fn is_twin(&self) -> bool {
        self.inside.is_some()
    }

    /// Runs a command to its end.
    ///
    /// It leads a session of its own and has no terminal. When it has ended, whoever is left in its session
    /// is killed and counted; when its time is up or it is cancelled, it and all that it started, daemons
    /// included, get SIGTERM and after `limits.grace` SIGKILL. A command that ends with another status than
    /// 0 is no error of this function.
    pub fn run(&self, command: &Command, limits: &Limits<'_>) -> Result<Finished> {
        let child =
            self.spawn(command, |prepared| prepared.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())?;
        Running::new(child, &command.label, self)?.finish(&command.input, limits)
    }

    /// Starts a command whose standard output is read piece by piece, however long it is.
    ///
    /// `command.input` must not be bytes: nobody would feed them while the output is read.
    pub fn read<'a>(&self, command: &Command, limits: &Limits<'a>) -> Result<Reading<'a>> {
        self.refuse_bytes(command)?;
        let child =
            self.spawn(command, |prepared| prepared.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())?;
        Reading::new(Running::new(child, &command.label, self)?, limits)
    }

    /// Starts a command that goes on when this function has returned, and on the host when this process has
    /// ended; its outputs are appended to the file `log` of the place, which is made with mode 0600.
    ///
    /// That it was started does not say that it is well: ask [`is_running`](Self::is_running) or a check.
    pub fn start(&self, command: &Command, log: &Path) -> Result<ProcessId> {
        self.refuse_bytes(command)?;
        let out = self.within(|| open_log(log))?.map_err(|reason| Error::File {
            what: "open the log",
            path: log.to_owned(),
            place: self.name().to_owned(),
            reason,
        })?;
        let child = self.spawn(command, |prepared| prepared.stdout(out.try_clone()?).stderr(out).spawn())?;
        let pid = child.id().cast_signed();
        self.remember_child(pid);
        ProcessId::of(pid)
    }

    /// Tells whether a process that [`start`](Self::start) returned is still running.
    pub fn is_running(&self, process: &ProcessId) -> bool {
        process.is_running()
    }

    /// Ends a process that [`start`](Self::start) returned: SIGTERM to its group, after `grace` SIGKILL to
    /// all that belongs to it.
    pub fn stop(&self, process: &ProcessId, grace: Duration) -> Result<Stopped> {
        process.stop(grace)
    }

    /// Connects to a TCP port as a program in the place would.
    ///
    /// In a twin a name is looked up in the twin's `/etc/hosts` and nowhere else: there is no network to ask.
    pub fn connect(&self, host: &str, port: u16, timeout: Duration) -> Result<TcpStream> {
        let address = format!("{host}:{port}");
        let connected = match &self.inside {
            None => (host, port).to_socket_addrs().and_then(|found| connect_any(found, timeout)),
            Some(inside) => inside.connect(host, port, timeout)?,
        };
        connected.map_err(|reason| Error::Connect { address, place: self.name().to_owned(), reason })
    }

    /// Runs `work` where the place's files are: absolute paths, and symlinks on the way, lead to them.
    ///
    /// In a twin `work` runs on a thread that has moved into the twin's mount namespace and keeps the host's
    /// network; threads that it starts are there as well, and must have ended when it returns (scoped
    /// threads). `/proc/self` means nothing there. A panic of `work` goes on in the caller.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        match &self.inside {
            None => Ok(work()),
            Some(inside) => inside.within(work),
        }
    }

    /// Takes care that a child of ours does not keep a twin from being destroyed.
    pub(crate) fn remember_child(&self, pid: i32) {
        if let Some(inside) = &self.inside {
            inside.remember(pid);
        }
    }

    pub(crate) fn forget_child(&self, pid: i32) {
        if let Some(inside) = &self.inside {
            inside.forget(pid);
        }
    }

    fn spawn<T: Send>(
        &self,
        command: &Command,
        start: impl FnOnce(&mut std::process::Command) -> io::Result<T> + Send,
    ) -> Result<T> {
        let spawn = || run::prepare(command, self).and_then(|mut prepared| start(&mut prepared));
        let spawned = match &self.inside {
            None => spawn(),
            Some(inside) => inside.as_command(spawn)?,
        };
        spawned.map_err(|reason| self.spawn_error(command, reason))
    }

    fn spawn_error(&self, command: &Command, reason: io::Error) -> Error {
        Error::Spawn { command: command.label.clone(), place: self.name().to_owned(), reason }
    }

    fn refuse_bytes(&self, command: &Command) -> Result<()> {
        if matches!(command.input, Input::Bytes(_)) {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "its input must be a file or nothing");
            return Err(self.spawn_error(command, reason));
        }
        Ok(())
    }
}

fn open_log(log: &Path) -> io::Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(log)
}

/// Tries one address after the other within one timeout, and tells the last failure.
pub(crate) fn connect_any(
    addresses: impl IntoIterator<Item = SocketAddr>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
