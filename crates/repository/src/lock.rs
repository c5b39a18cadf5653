//! Locks: files that tell other processes what is going on, by restic's rules.
//!
//! # Concurrency
//! | | shared held | exclusive held |
//! |---|---|---|
//! | backup, copy (target), restore, check, reading: shared | goes on | refused |
//! | prune, forget, repair, key removal: exclusive | refused | refused |
//!
//! A lock is taken by looking for others, writing one's own, and looking again: of two processes that do this at
//! once, at least one sees the other, because every store shows in a listing what was written before it
//! began. (restic also sleeps 200 ms between, for stores that did not; those are no more.)
//!
//! # Crash
//! A dead process leaves its lock. One of this host whose process is gone is removed by whoever meets it;
//! any other blocks until `unlock`, which removes those not refreshed for 30 minutes. A holder that cannot
//! refresh its lock stops writing after 22.5 minutes, so that a lock removed as stale has no living writer.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, test_kill_process};
use store::ErrorKind;

use crate::format::LockFile;
use crate::{Error, FileKind, Id, Repository, Result, Users};

/// The intervals of the lock protocol; other values than restic's are for tests.
#[derive(Debug, Clone, Copy)]
pub struct LockOptions {
    /// How often a held lock is written anew.
    pub refresh_every: Duration,
    /// After how long without a refresh the holder must stop.
    pub lost_after: Duration,
    /// After how long without a refresh others may remove the lock.
    pub stale_after: Duration,
    /// How long to wait for others to finish before giving up.
    pub wait: Duration,
}

impl Default for LockOptions {
    /// restic's intervals; no waiting.
    fn default() -> Self {
        Self {
            refresh_every: Duration::from_secs(5 * 60),
            lost_after: Duration::from_secs(22 * 60 + 30),
            stale_after: Duration::from_secs(30 * 60),
            wait: Duration::ZERO,
        }
    }
}

/// How long to pause between two looks at a lock that others hold.
const WAIT_STEP: Duration = Duration::from_secs(1);
/// How long to pause after a refresh that failed.
const REFRESH_RETRY: Duration = Duration::from_secs(30);

/// Whom a lock keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Others may add and read; nobody may remove.
    Shared,
    /// Nobody else may do anything.
    Exclusive,
}

/// A held lock; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    held: Arc<Held>,
    refresher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Held {
    repository: Repository,
    exclusive: bool,
    options: LockOptions,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    id: Id,
    refreshed: Instant,
    refreshed_at: Timestamp,
    lost: Option<String>,
    released: bool,
}

/// Lets a thread ask whether the lock still holds.
#[derive(Debug, Clone)]
pub struct LockGuard(Arc<Held>);

impl LockGuard {
    /// Fails with [`Error::LockLost`] when others may have removed the lock; to be asked before every write.
    pub fn check(&self) -> Result<()> {
        let held = &self.0;
        let state = held.state.lock().expect("no holder panics");
        if let Some(why) = &state.lost {
            return Err(Error::LockLost { why: why.clone() });
        }
        // A suspended machine stops the monotonic clock, a wrong one moves the wall clock: either counts.
        let by_wall = held.repository.clock().now().duration_since(state.refreshed_at).unsigned_abs();
        if state.refreshed.elapsed().max(by_wall) > held.options.lost_after {
            let why = format!("it was not refreshed for {} minutes", held.options.lost_after.as_secs() / 60);
            return Err(Error::LockLost { why });
        }
        Ok(())
    }
}

impl Lock {
    /// Takes a lock that lets others add and read.
    pub fn shared(repository: &Repository, options: LockOptions) -> Result<Self> {
        Self::acquire(repository, LockKind::Shared, options)
    }

    /// Takes a lock that lets nobody else do anything.
    pub fn exclusive(repository: &Repository, options: LockOptions) -> Result<Self> {
        Self::acquire(repository, LockKind::Exclusive, options)
    }

    /// Takes a lock; fails with [`Error::Locked`] when others still hold one after `options.wait`.
    pub fn acquire(repository: &Repository, kind: LockKind, options: LockOptions) -> Result<Self> {
        let deadline = Instant::now() + options.wait;
        loop {
            match try_acquire(repository, kind, options) {
                Err(Error::Locked { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(WAIT_STEP.min(deadline - Instant::now()));
                }
                other => return other,
            }
        }
    }

    /// Something that threads can ask whether the lock still holds.
    pub fn guard(&self) -> LockGuard {
        LockGuard(Arc::clone(&self.held))
    }

    /// Gives the lock back, and says when that fails.
    pub fn release(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        let Some(refresher) = self.refresher.take() else { return Ok(()) };
        self.held.state.lock().expect("no holder panics").released = true;
        self.held.wake.notify_all();
        refresher.join().expect("the refresher does not panic");
        let id = self.held.state.lock().expect("no holder panics").id;
        self.held.repository.remove(FileKind::Lock, &id)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An unreachable store keeps the lock; it will be found to be of a dead process.
        let _unreachable = self.stop();
    }
}

fn try_acquire(repository: &Repository, kind: LockKind, options: LockOptions) -> Result<Lock> {
    let exclusive = kind == LockKind::Exclusive;
    refuse_conflicts(repository, exclusive, None)?;
    let id = write(repository, exclusive)?;
    if let Err(conflict) = refuse_conflicts(repository, exclusive, Some(id)) {
        repository.remove(FileKind::Lock, &id)?;
        return Err(conflict);
    }
    let state = State {
        id,
        refreshed: Instant::now(),
        refreshed_at: repository.clock().now(),
        lost: None,
        released: false,
    };
    let held = Arc::new(Held {
        repository: repository.clone(),
        exclusive,
        options,
        state: Mutex::new(state),
        wake: Condvar::new(),
    });
    let refresher = std::thread::Builder::new()
        .name("lock".into())
        .spawn({
            let held = Arc::clone(&held);
            move || keep_fresh(&held)
        })
        .map_err(|error| Error::io("start a thread for", "the lock", error))?;
    Ok(Lock { held, refresher: Some(refresher) })
}

fn write(repository: &Repository, exclusive: bool) -> Result<Id> {
    let users = Users::load(std::path::Path::new("/"));
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let file = LockFile {
        time: repository.now(),
        exclusive,
        hostname: hostname(),
        username: users.user(uid).to_owned(),
        pid: i64::from(rustix::process::getpid().as_raw_nonzero().get()),
        uid,
        gid,
    };
    repository.save_json(FileKind::Lock, &file)
}

/// This host's name, as locks and snapshots state it.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn refuse_conflicts(repository: &Repository, exclusive: bool, own: Option<Id>) -> Result<()> {
    for (id, content) in repository.locks()? {
        if own == Some(id) {
            continue;
        }
        let (other_exclusive, holder) = match content {
            Ok(file) if is_dead(&file) => {
                repository.remove(FileKind::Lock, &id)?;
                continue;
            }
            Ok(file) if !exclusive && !file.exclusive => continue,
            Ok(file) => (file.exclusive, Ok(file)),
            // Nobody can tell what a lock means that cannot be read, so it is taken for the worst.
            Err(why) => (true, Err(why)),
        };
        let lock = match &holder {
            Ok(file) => format!("lock {} {file}", id.short()),
            Err(why) => format!("lock {} cannot be read: {why}", id.short()),
        };
        let location = repository.location();
        return Err(Error::Locked {
            location,
            lock,
            exclusive: other_exclusive,
            holder: holder.ok().map(Box::new),
        });
    }
    Ok(())
}

/// Whether the holder was a process of this host that is no more.
fn is_dead(file: &LockFile) -> bool {
    if file.hostname != hostname() {
        return false;
    }
    // A number that is not positive would ask the kernel about a group of processes.
    match i32::try_from(file.pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) {
        Some(pid) => test_kill_process(pid) == Err(rustix::io::Errno::SRCH),
        None => false,
    }
}

fn keep_fresh(held: &Held) {
    let mut state = held.state.lock().expect("no holder panics");
    let mut pause = held.options.refresh_every;
    loop {
        let (next, _) =
            held.wake.wait_timeout_while(state, pause, |state| !state.released).expect("no holder panics");
        state = next;
        if state.released || state.lost.is_some() {
            return;
        }
        let old = state.id;
        drop(state);
        // Time counts from before the attempt: others judge by the time that the lock states.
        let (before, before_at) = (Instant::now(), held.repository.clock().now());
        let refreshed = refresh(held, old);
        state = held.state.lock().expect("no holder panics");
        match refreshed {
            Ok(id) => {
                (state.id, state.refreshed, state.refreshed_at) = (id, before, before_at);
                pause = held.options.refresh_every;
            }
            Err(Error::LockLost { why }) => state.lost = Some(why),
            // The store may come back; `check` stops the work when it does not in time.
            Err(_) => pause = REFRESH_RETRY.min(held.options.refresh_every),
        }
    }
}

/// Writes the lock anew and then removes the old one; a crash between leaves both.
fn refresh(held: &Held, old: Id) -> Result<Id> {
    let repository = &held.repository;
    match repository.store().size(&FileKind::Lock.object(&old)) {
        Err(error) if error.kind == ErrorKind::NotFound => {
            return Err(Error::LockLost { why: "somebody removed it".into() });
        }
        other => other?,
    };
    let new = write(repository, held.exclusive)?;
    repository.remove(FileKind::Lock, &old)?;
    Ok(new)
}

impl Repository {
    /// Loads all locks; the inner result tells a lock that cannot be read.
    pub fn locks(&self) -> Result<Vec<(Id, std::result::Result<LockFile, String>)>> {
        let mut locks = Vec::new();
        for (id, _) in self.list(FileKind::Lock)? {
            match self.load_json::<LockFile>(FileKind::Lock, &id) {
                Ok(file) => locks.push((id, Ok(file))),
                // Its holder gave it back between the listing and now.
                Err(Error::Store(error)) if error.kind == ErrorKind::NotFound => {}
                Err(error) if error.is_isolated() => locks.push((id, Err(error.to_string()))),
                Err(error) => return Err(error),
            }
        }
        Ok(locks)
    }

    /// Removes stale locks, or with `all` every lock, and returns those removed.
    ///
    /// Stale is a lock that was not refreshed for 30 minutes, whose process of this host is gone, or that cannot be
    /// read.
    pub fn unlock(&self, all: bool, options: LockOptions) -> Result<Vec<Id>> {
        let mut removed = Vec::new();
        for (id, content) in self.locks()? {
            let stale = match content {
                Ok(file) => {
                    let age = self.clock().now().duration_since(file.time.to_timestamp());
                    is_dead(&file)
                        || age > jiff::SignedDuration::try_from(options.stale_after).unwrap_or_default()
                }
                Err(_) => true,
            };
            if all || stale {
                self.remove(FileKind::Lock, &id)?;
                removed.push(id);
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_is_gone_is_dead() {
        let lock = |pid, hostname: String| LockFile {
            time: crate::format::Time::default(),
            exclusive: false,
            hostname,
            username: String::new(),
            pid,
            uid: 0,
            gid: 0,
        };
        let own = i64::from(std::process::id());
        for pid in [own, 0, -1, -own, i64::MIN, i64::MAX] {
            assert!(!is_dead(&lock(pid, hostname())), "{pid}");
        }
        // Above the greatest number that Linux gives to a process.
        let gone = (1 << 22) + 1;
        assert!(is_dead(&lock(gone, hostname())));
        assert!(!is_dead(&lock(gone, "elsewhere".into())));
    }
}
