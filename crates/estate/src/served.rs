//! Which processes are a service's, so that a check can tell whether the right one answered.

use place::ProcessId;

use crate::check::Answer;
use crate::component::Holder;
use crate::listener::Listener;
use crate::proc;

/// The variable by which processes of a service are known, also those that left their session.
pub(crate) const MARK: &str = "LIFEBOAT_SERVICE";

/// A service that runs, and how its processes are recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    service: String,
    family: Family,
}

/// What the processes of one service have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Family {
    /// They came of this process: its session, its descendants, and who carries the mark.
    Process { leader: ProcessId, mark: String },
    /// They are in this control group, as those of a systemd unit are.
    ControlGroup(String),
}

impl Served {
    pub(crate) fn new(service: &str, family: Family) -> Served {
        Served { service: service.to_owned(), family }
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Tells whether a process of this host, or of a twin by its number on this host, is one of the service's.
    pub fn includes(&self, pid: i32) -> bool {
        match &self.family {
            Family::ControlGroup(group) => proc::is_in_control_group(pid, group),
            Family::Process { leader, mark } => {
                leader.is_running() && (descends(pid, leader.pid) || proc::has_variable(pid, MARK, mark))
            }
        }
    }

    /// Makes sure that every one of the listeners is held by the service.
    pub(crate) fn answers_for(&self, listeners: &[Listener], port: u16) -> Result<(), Answer> {
        if listeners.is_empty() {
            return Err(Answer::unknown(format!(
                "cannot tell whether {} answered: its listener at port {port} is gone, or not of this place",
                self.service
            )));
        }
        for listener in listeners {
            if listener.holders.is_empty() {
                return Err(Answer::unknown(format!(
                    "cannot tell whether {} answered: {listener} cannot be looked into; ask as root",
                    self.service
                )));
            }
            if !listener.holders.iter().any(|Holder { pid, .. }| self.includes(pid.cast_signed())) {
                return Err(Answer::fails(
                    format!("port {port} is not served by {}", self.service),
                    self.describe(),
                    listener.to_string(),
                ));
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        match &self.family {
            Family::Process { leader, .. } => format!("{} (process {})", self.service, leader.pid),
            Family::ControlGroup(group) => format!("{} (control group {group})", self.service),
        }
    }
}

/// Tells whether a process is in the session or group of another, or came of it.
fn descends(pid: i32, leader: i32) -> bool {
    let mut next = pid;
    // The tree is no deeper than there are processes; it changes while it is walked, so there is a limit.
    for _ in 0..1024 {
        let Some(stat) = proc::stat(next) else { return false };
        if next == leader || stat.session == leader || stat.group == leader {
            return true;
        }
        if stat.parent <= 1 {
            return false;
        }
        next = stat.parent;
    }
    false
}
