//! Processes by an identity that outlives the reuse of their number, and all that belongs to one of them.
//!
//! Everything here reads `/proc` as this host sees it, so it must not be called on a thread that is
//! [within](crate::Place::within) a twin; processes of a twin have numbers on the host like all others.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The variable by which processes that left their session are still found.
pub(crate) const MARKER: &str = "LIFEBOAT_COMMAND";

/// How long what was killed is waited for; a process in an uninterruptible call dies later by itself.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// How long a process may take to leave the session in which it was started.
const LEFT_WITHIN: Duration = Duration::from_secs(1);

/// How often a process that is to end is looked at.
const TICK: Duration = Duration::from_millis(10);

/// A process for good: its number, and when it was started in clock ticks since the host's boot.
///
/// The number alone is given to another process some time after this one has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// The number that this host gives it.
    pub pid: i32,
    /// Its start, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

/// How a process was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It was not running.
    WasNotRunning,
    /// It ended within the grace after SIGTERM.
    Terminated,
    /// It or something that it had started was killed with SIGKILL.
    Killed {
        /// How many processes were.
        processes: usize,
    },
}

/// What is known of a process from one look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub id: ProcessId,
    parent: i32,
    group: i32,
    session: i32,
    alive: bool,
}

impl ProcessId {
    /// Tells the identity of the process that has that number now.
    pub fn of(pid: i32) -> Result<Self> {
        let failed = |reason| Error::Process { what: "look at", pid, reason };
        look(pid).map(|seen| seen.id).map_err(failed)
    }

    /// Tells whether the very process is there and not a zombie.
    pub fn is_running(&self) -> bool {
        reap(self.pid);
        look(self.pid).is_ok_and(|seen| seen.id == *self && seen.alive)
    }

    /// Ends the process and all that belongs to it: SIGTERM to its group, and after `grace` SIGKILL to its
    /// whole session, to its descendants, and to daemons that it started.
    pub fn stop(&self, grace: Duration) -> Result<Stopped> {
        if !self.is_running() {
            return Ok(Stopped::WasNotRunning);
        }
        let family = Family::of(*self);
        family.terminate();
        let deadline = Instant::now() + grace;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        let processes = family.kill();
        let failed = |reason| Error::Process { what: "stop", pid: self.pid, reason };
        if self.is_running() {
            return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "it is still there after SIGKILL")));
        }
        Ok(if processes == 0 { Stopped::Terminated } else { Stopped::Killed { processes } })
    }
}

/// A process that we started as the leader of a session, and all that came of it.
pub(crate) struct Family {
    leader: ProcessId,
    marker: Option<String>,
}

impl Family {
    /// Knows the family of a running process, also of one that a former run of ours started.
    pub fn of(leader: ProcessId) -> Self {
        let marker = environment(leader.pid).and_then(|text| marker_in(&text));
        Self { leader, marker }
    }

    /// Sends SIGTERM to the leader and its group.
    pub fn terminate(&self) {
        signal_group_or_process(self.leader, Signal::TERM);
    }

    /// Kills every member with SIGKILL and waits until they are gone; tells how many there were.
    pub fn kill(&self) -> usize {
        self.kill_those(Self::members)
    }

    /// Kills those that stay in the session, but not the leader; tells how many there were, and who left it.
    ///
    /// A program that makes itself a daemon ends first and leaves the session then, so there is some time for it.
    pub fn clear_session(&self) -> (usize, Vec<ProcessId>) {
        let mut known = HashSet::new();
        let deadline = Instant::now() + LEFT_WITHIN;
        loop {
            let left = self.session_without_leader(&all());
            known.extend(left.iter().map(|seen| seen.id));
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            thread::sleep(TICK);
        }
        let killed = self.kill_those(Self::session_without_leader);
        // While a process starts another program it has no environment: it is known from before.
        known.extend(self.daemons());
        (killed, known.into_iter().filter(ProcessId::is_running).collect())
    }

    fn session_without_leader(&self, processes: &[Seen]) -> Vec<Seen> {
        let mut left = self.session(processes);
        left.retain(|seen| seen.id != self.leader);
        left
    }

    /// Tells which members left the session.
    fn daemons(&self) -> Vec<ProcessId> {
        let processes = all();
        let in_session: HashSet<i32> = self.session(&processes).iter().map(|seen| seen.id.pid).collect();
        let members = self.members(&processes);
        members.iter().filter(|seen| !in_session.contains(&seen.id.pid)).map(|seen| seen.id).collect()
    }

    /// Looks again after every round, because a process may fork while it is being killed.
    fn kill_those(&self, choose: impl Fn(&Self, &[Seen]) -> Vec<Seen>) -> usize {
        let mut killed: HashSet<ProcessId> = HashSet::new();
        let deadline = Instant::now() + KILLED_WITHIN;
        loop {
            let members = choose(self, &all());
            if members.is_empty() || Instant::now() > deadline {
                return killed.len();
            }
            for seen in members {
                killed.insert(seen.id);
                send(seen.id, Signal::KILL);
                reap_unless_leader(seen.id.pid, self.leader.pid);
            }
            thread::sleep(TICK / 5);
        }
    }

    fn session(&self, processes: &[Seen]) -> Vec<Seen> {
        let leader = self.leader.pid;
        if processes.iter().any(|seen| seen.id.pid == leader && seen.id != self.leader) {
            return Vec::new(); // The number is another's by now, and so is its session.
        }
        let belongs = |seen: &&Seen| seen.alive && (seen.session == leader || seen.group == leader);
        processes.iter().filter(belongs).copied().collect()
    }

    /// The session, those that carry the marker, and the descendants of either.
    fn members(&self, processes: &[Seen]) -> Vec<Seen> {
        let mut members: HashSet<i32> = self.session(processes).iter().map(|seen| seen.id.pid).collect();
        for seen in processes.iter().filter(|seen| seen.alive) {
            if self.marker.is_some()
                && self.marker == environment(seen.id.pid).and_then(|text| marker_in(&text))
            {
                members.insert(seen.id.pid);
            }
        }
        loop {
            let known = members.len();
            for seen in processes {
                if members.contains(&seen.parent) {
                    members.insert(seen.id.pid);
                }
            }
            if members.len() == known {
                break;
            }
        }
        processes.iter().filter(|seen| seen.alive && members.contains(&seen.id.pid)).copied().collect()
    }
}

/// Every process that can be seen.
fn all() -> Vec<Seen> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| look(pid).ok()).collect()
}

fn look(pid: i32) -> io::Result<Seen> {
    let stat = fs::read(proc_file(pid, "stat"))?;
    parse_stat(pid, &stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its stat cannot be read"))
}

fn proc_file(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// Reads `/proc/PID/stat`; the second field is the name in parentheses, which may hold anything.
fn parse_stat(pid: i32, stat: &[u8]) -> Option<Seen> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(&stat[after_name..]).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<i32>().ok();
    Some(Seen {
        id: ProcessId { pid, start_ticks: fields.get(19)?.parse().ok()? },
        alive: !matches!(*fields.first()?, "Z" | "X" | "x"),
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
    })
}

fn environment(pid: i32) -> Option<Vec<u8>> {
    fs::read(proc_file(pid, "environ")).ok()
}

fn marker_in(environment: &[u8]) -> Option<String> {
    let variables = environment.split(|byte| *byte == 0);
    let mut values = variables.filter_map(|variable| {
        variable.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec)
    });
    values.next_back().and_then(|value| String::from_utf8(value).ok())
}

/// Signals the process if it still is the very one.
fn send(id: ProcessId, signal: Signal) {
    let Some(pid) = Pid::from_raw(id.pid) else { return };
    // A process descriptor names the process that was looked at after it was opened, and no other.
    let Ok(descriptor) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    if look(id.pid).is_ok_and(|seen| seen.id == id) {
        // It may have ended in between, which is what the signal is for.
        let _ = rustix::process::pidfd_send_signal(&descriptor, signal);
    }
}

fn signal_group_or_process(leader: ProcessId, signal: Signal) {
    let is_leader = look(leader.pid).is_ok_and(|seen| seen.id == leader && seen.group == leader.pid);
    match Pid::from_raw(leader.pid) {
        Some(pid) if is_leader => {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
        _ => send(leader, signal),
    }
}

/// Lets go of a child of ours that has ended; for all others this does nothing.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn reap_unless_leader(pid: i32, leader: i32) {
    if pid != leader {
        reap(pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse() {
        let stat = b"7 (a) R 1 2) S 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 987654 0 0 0";
        let seen = parse_stat(7, stat).expect("it is well formed");
        assert_eq!((seen.parent, seen.group, seen.session), (3, 4, 5));
        assert_eq!(seen.id, ProcessId { pid: 7, start_ticks: 987_654 });
        assert!(seen.alive);
    }

    #[test]
    fn damage_is_no_process() {
        for stat in [&b""[..], b"7 (x", b"7 (x) S 1 2", b"7 (x) S a b c 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1"]
        {
            assert!(parse_stat(7, stat).is_none());
        }
    }

    #[test]
    fn this_process_runs_and_its_number_at_another_time_does_not() {
        let me = ProcessId::of(std::process::id().cast_signed()).unwrap();
        assert!(me.is_running());
        let namesake = ProcessId { start_ticks: me.start_ticks + 1, ..me };
        assert!(!namesake.is_running());
        assert_eq!(namesake.stop(Duration::ZERO).unwrap(), Stopped::WasNotRunning);
    }
}
