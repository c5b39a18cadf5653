//! Reading: one segment verified, or all that a restore needs, ahead of need and in order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use store::ErrorKind;

use super::name::{Link, Segment};
use super::segment::{Content, open};
use super::spans::{Needed, Step};
use super::{Archive, Error, Result, object};
use crate::sidecar::sealed_bytes_max;

/// How often a reader looks again for what was compacted while it read.
const ATTEMPTS_MAX: u32 = 3;

/// How far a [`Replay`] reads ahead.
#[derive(Debug, Clone, Copy)]
pub struct ReadAhead {
    /// How many segments are fetched at once.
    pub threads: usize,
    /// How many bytes are held for the caller; exceeded by what one segment a thread unpacks to.
    pub bytes_max: u64,
}

impl Default for ReadAhead {
    /// Four threads, 128 MiB: eight WAL files of PostgreSQL.
    fn default() -> Self {
        Self { threads: 4, bytes_max: 128 << 20 }
    }
}

impl Archive {
    /// Reads a segment, and verifies its seal, its name, its positions, every part's SHA-256 and the chain.
    ///
    /// A segment that was compacted since it was listed is found in what it became. Fails with [`Error::Missing`],
    /// [`Error::Damaged`] or [`Error::WrongName`], all of which name the object.
    pub fn read(&self, lineage: &str, segment: &Segment) -> Result<Vec<Content>> {
        let mut read = self.read_object(lineage, segment);
        for _ in 0..ATTEMPTS_MAX {
            match read {
                Err(Error::Missing { .. }) => read = self.read_elsewhere(lineage, segment),
                other => return other,
            }
        }
        read
    }

    /// Reads the object of this very name.
    pub(super) fn read_object(&self, lineage: &str, segment: &Segment) -> Result<Vec<Content>> {
        let name = self.segment_name(lineage, segment);
        let object = object(&name);
        let fetched = self.fetch(&object, segment.size);
        let sealed = match fetched {
            Err(Error::Repository(crate::Error::Store(error))) if error.kind == ErrorKind::NotFound => {
                return Err(Error::Missing { object });
            }
            Err(Error::Repository(crate::Error::Store(error))) if error.kind == ErrorKind::Truncated => {
                return Err(Error::damaged(&object, "it is shorter than its listing says"));
            }
            other => other?,
        };
        open(&self.key, &object, &name, segment, sealed)
    }

    /// Fetches an object of a size that was listed, or is asked for when it is 0.
    fn fetch(&self, object: &str, listed: u32) -> Result<Vec<u8>> {
        let store = self.repository().store();
        let size = if listed == 0 { store.size(object)? } else { u64::from(listed) };
        if size > sealed_bytes_max() {
            return Err(Error::damaged(object, format!("it has {size} bytes, more than any segment")));
        }
        let mut sealed = Vec::new();
        store.get_range(object, 0..size, &mut sealed)?;
        Ok(sealed)
    }

    /// Reads the parts of a segment whose object is gone from those that have them now.
    fn read_elsewhere(&self, lineage: &str, segment: &Segment) -> Result<Vec<Content>> {
        let missing = || Error::Missing { object: object(&self.segment_name(lineage, segment)) };
        let known = self.lineage(lineage)?;
        let from = known.at(segment.first).ok_or_else(missing)?;
        let across = known.segments[from..].iter().take_while(|other| other.first < segment.last);
        let mut found: Vec<Content> = Vec::new();
        let mut expected = segment.before;
        for other in across {
            let mut link = other.before;
            for content in self.read_object(lineage, other)? {
                let before = link;
                link = content.part.link(before);
                if content.part.first < segment.first || content.part.last > segment.last {
                    continue;
                }
                if before != expected {
                    return Err(missing());
                }
                expected = link;
                found.push(content);
            }
        }
        if expected == segment.after { Ok(found) } else { Err(missing()) }
    }

    /// Reads what a restore needs, in order, verified to be one unbroken chain; ahead of need, on threads of its own.
    ///
    /// After the first error it ends.
    pub fn replay(&self, needed: &Needed, ahead: ReadAhead) -> Replay {
        let shared = Arc::new(Shared {
            archive: self.clone(),
            steps: needed.steps.clone(),
            bytes_max: ahead.bytes_max,
            state: Mutex::default(),
            wake: Condvar::new(),
        });
        let threads = (0..ahead.threads.clamp(1, shared.steps.len().max(1)))
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.fetch_all())
            })
            .collect();
        Replay { shared, threads, ready: VecDeque::new(), link: None }
    }
}

/// Gives the needed parts of a log in order, each with its lineage; see [`Archive::replay`].
///
/// Dropping it ends its threads, each after the segment that it reads.
#[derive(Debug)]
pub struct Replay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    ready: VecDeque<(String, Content)>,
    /// The chain's value behind what was given last.
    link: Option<Link>,
}

#[derive(Debug)]
struct Shared {
    archive: Archive,
    steps: Vec<Step>,
    bytes_max: u64,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The first step that nobody fetches yet.
    next: usize,
    /// The step that the caller needs next.
    wanted: usize,
    fetched: HashMap<usize, (u64, Result<Vec<Content>>)>,
    /// Bytes fetched and not taken, and those that are on their way.
    held_bytes: u64,
    is_stopped: bool,
}

impl Shared {
    fn fetch_all(&self) {
        while let Some(number) = self.begin() {
            let step = &self.steps[number];
            let read = self.archive.read(&step.lineage, &step.segment);
            let parts = read.iter().flatten();
            let bytes = parts.map(|content| content.bytes.len() as u64).sum();
            let mut state = self.state();
            state.held_bytes = state.held_bytes - u64::from(step.segment.size) + bytes;
            state.fetched.insert(number, (bytes, read));
            self.wake.notify_all();
        }
    }

    /// Waits until there is room for the next step, and takes it.
    fn begin(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            let step = self.steps.get(state.next).filter(|_| !state.is_stopped)?;
            let bytes = u64::from(step.segment.size);
            // What the caller waits for is fetched in any case, or it would wait for ever.
            if state.held_bytes + bytes <= self.bytes_max || state.next == state.wanted {
                state.held_bytes += bytes;
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.wake.wait(state).expect("no holder panics");
        }
    }

    /// Waits for the next step's parts; `None` after the last.
    fn take(&self) -> Option<(&Step, Result<Vec<Content>>)> {
        let mut state = self.state();
        let step = self.steps.get(state.wanted).filter(|_| !state.is_stopped)?;
        loop {
            let wanted = state.wanted;
            if let Some((bytes, read)) = state.fetched.remove(&wanted) {
                state.held_bytes -= bytes;
                state.wanted += 1;
                self.wake.notify_all();
                return Some((step, read));
            }
            state = self.wake.wait(state).expect("no holder panics");
        }
    }

    fn stop(&self) {
        self.state().is_stopped = true;
        self.wake.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl Replay {
    /// Keeps the needed parts of a step, each of which must continue what was given before.
    fn keep(&mut self, step: &Step, contents: Vec<Content>) -> Result<()> {
        let mut link = step.segment.before;
        for content in contents {
            let before = link;
            link = content.part.link(before);
            if content.part.last <= step.from || content.part.first >= step.to {
                continue;
            }
            if self.link.is_some_and(|expected| expected != before) {
                let object = object(&self.shared.archive.segment_name(&step.lineage, &step.segment));
                return Err(Error::damaged(&object, "it does not continue the segment before"));
            }
            self.link = Some(link);
            self.ready.push_back((step.lineage.clone(), content));
        }
        Ok(())
    }
}

impl Iterator for Replay {
    type Item = Result<(String, Content)>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            let shared = Arc::clone(&self.shared);
            let (step, read) = shared.take()?;
            if let Err(error) = read.and_then(|contents| self.keep(step, contents)) {
                shared.stop();
                self.ready.clear();
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            thread.join().expect("reading does not panic");
        }
    }
}
