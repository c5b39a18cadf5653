//! Entering a twin: threads that move into its namespaces, do one thing, and end.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::{filter, user};
use crate::error::{Error, Result};
use crate::place::connect_any;
use crate::sys;

/// The way into a twin: its first process, by a descriptor that never comes to mean another one.
#[derive(Debug)]
pub(crate) struct Inside {
    init: OwnedFd,
    /// Children of ours in the twin: its first process can end only when somebody has waited for them.
    children: Mutex<Vec<Pid>>,
}

/// All namespaces of a command.
const OF_COMMANDS: ThreadNameSpaceType = ThreadNameSpaceType::MOUNT
    .union(ThreadNameSpaceType::NETWORK)
    .union(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION)
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME)
    .union(ThreadNameSpaceType::PROCESS_ID);

impl Inside {
    pub fn new(init: OwnedFd) -> Self {
        Self { init, children: Mutex::default() }
    }

    /// Remembers a child of ours, so that it is not forgotten when the twin is destroyed.
    pub fn remember(&self, pid: i32) {
        self.children().extend(Pid::from_raw(pid));
    }

    /// Forgets a child that was waited for.
    pub fn forget(&self, pid: i32) {
        self.children().retain(|child| child.as_raw_pid() != pid);
    }

    /// Lets go of children that have ended.
    pub fn reap_children(&self) {
        // An error means that it was waited for elsewhere.
        let waits = |child: &mut Pid| rustix::process::waitpid(Some(*child), WaitOptions::NOHANG);
        self.children().retain_mut(|child| matches!(waits(child), Ok(None)));
    }

    fn children(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on a thread that sees the twin's files, and else what the host has.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.on_thread(|| {
            self.enter(ThreadNameSpaceType::MOUNT)?;
            Ok(work())
        })
    }

    /// Runs `spawn` on a thread whose children are commands of the twin, without the rights to leave it.
    ///
    /// A thread whose children get another PID namespace than its own cannot start threads; `spawn` must not.
    pub fn as_command<T: Send>(&self, spawn: impl FnOnce() -> T + Send) -> Result<T> {
        self.on_thread(|| {
            self.enter(OF_COMMANDS)?;
            filter::install().and_then(|()| user::confine_children()).map_err(enter_error)?;
            Ok(spawn())
        })
    }

    /// Connects on a thread that has the twin's network.
    pub fn connect(&self, host: &str, port: u16, timeout: Duration) -> Result<io::Result<TcpStream>> {
        let addresses = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => match self.within(|| fs::read_to_string("/etc/hosts"))? {
                Ok(hosts) => look_up(&hosts, host),
                Err(error) if error.kind() == io::ErrorKind::NotFound => look_up("", host),
                Err(error) => return Ok(Err(error)),
            },
        };
        self.on_thread(|| {
            self.enter(ThreadNameSpaceType::NETWORK)?;
            Ok(connect_any(addresses.iter().map(|address| SocketAddr::new(*address, port)), timeout))
        })
    }

    /// A panic goes on in the caller, as if there were no other thread.
    fn on_thread<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let started = thread::Builder::new().name("twin".into()).spawn_scoped(scope, work);
            let thread = started.map_err(enter_error)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread, which must be a fresh one, for good.
    fn enter(&self, namespaces: ThreadNameSpaceType) -> Result<()> {
        // The root and the working directory of a process belong to all its threads until they are parted.
        sys::unshare(UnshareFlags::FS).map_err(enter_error)?;
        match rustix::thread::move_into_thread_name_spaces(self.init.as_fd(), namespaces) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::SRCH) => Err(Error::Gone { place: "the twin".into() }),
            Err(error) => Err(enter_error(error.into())),
        }
    }
}

fn enter_error(reason: io::Error) -> Error {
    Error::Enter { place: "the twin".into(), reason }
}

/// Looks a name up in the text of a hosts file; `localhost` is known without.
fn look_up(hosts: &str, name: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut found: Vec<IpAddr> = lines
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
        })
        .collect();
    if found.is_empty() && name.eq_ignore_ascii_case("localhost") {
        found = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_in_the_hosts_file() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.1 db\n10.0.0.2 DB web # not mail\nbroken db\n::1 db\n";
        let found = |name: &str| look_up(hosts, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("db"), ["10.0.0.2", "::1"]);
        assert_eq!(found("localhost"), ["127.0.0.1"]);
        assert!(found("mail").is_empty());
        assert_eq!(look_up("", "localhost").len(), 2);
    }
}
