//! The driver of commands: what a command prints is kept, and another reads it back.
//!
//! The dump is streamed while the command runs; nothing is put on a disk on the way in. A capture counts only
//! when the command has ended with 0 and has printed something. That the data is good is more than this
//! driver can see: without a `verify` command or a fact its proofs say so.
//!
//! # Facts
//! A fact is a shell command that prints one line. It is asked of the source when the dump begins and again when it has
//! ended, because nothing holds the source still meanwhile: only what is the same both times is recorded. In a
//! proof it is asked again, of what was restored: then [`RESTORED`] names the restored dump, which is
//! its standard input, too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use place::{Command, Finished as Ended, Input, Limits, Place};

use super::{
    Cancel, Capture, CaptureRequest, CommandOptions, Component, Content, Damage, Finding, Finish, Finished,
    Member, Open, Part, PointFacts, Problem, Proof, State, StreamMeta, Tally, appended, damage,
};
use crate::facts::{Facts, Value};
use crate::{Error, Result};

/// Where dumps lie in a snapshot, below the component's name.
pub const COMMANDS: &str = "/lifeboat/commands";
/// The variable that tells a fact's command where the restored dump lies. It is not set while the source is asked.
pub const RESTORED: &str = "LIFEBOAT_RESTORED";
/// The longest answer of a fact, in bytes: it stands in records and messages.
const FACT_BYTES_MAX: usize = 1024;
/// The fact that every point of a command has.
const BYTES: &str = "bytes";
/// How much is taken from the command at once, and how many of such pieces wait for the reader: 1 MiB in all.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_WAITING: usize = 16;
/// How often a silent command's reader looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The output of a command.
#[derive(Debug, Clone)]
pub struct Dump {
    options: CommandOptions,
    place: Place,
}

impl Dump {
    /// Makes the driver for commands that run in `place`; touches nothing.
    pub fn new(options: CommandOptions, place: Place) -> Self {
        Self { options, place }
    }

    fn in_snapshot(&self) -> PathBuf {
        Path::new(COMMANDS).join(&self.options.name).join(&self.options.file)
    }

    /// Runs a command that reads the dump; its own words when it fails.
    fn feed(
        &self,
        command: &Command,
        dump: &Path,
        cancel: &Cancel,
    ) -> Result<std::result::Result<(), String>> {
        let limits = Limits { cancel: Some(cancel), ..Limits::timeout(self.options.timeout) };
        let command = command.clone().input(Input::File(dump.to_owned()));
        let ended = self.place.run(&command, &limits).map_err(|error| self.failed(error.to_string()))?;
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(verdict(&ended))
    }

    /// Asks every fact of `queries` of the source, or of the dump that was restored.
    ///
    /// Fails with the first that cannot be asked; a proof asks them one by one.
    fn measure(&self, cancel: &Cancel) -> Result<BTreeMap<String, Value>> {
        let facts = self.options.facts.iter();
        facts.map(|(name, query)| Ok((name.clone(), self.ask(name, query, None, cancel)?))).collect()
    }

    /// Asks one fact, with what is around the command that dumps: directory, environment, user.
    fn ask(&self, name: &str, query: &str, restored: Option<&Path>, cancel: &Cancel) -> Result<Value> {
        let failed = |why: String| self.failed(format!("the fact {name} could not be measured: {why}"));
        let mut command = Command {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), query.into()],
            ..self.options.backup.clone()
        };
        if let Some(path) = restored {
            command = command.env(RESTORED, path).input(Input::File(path.to_owned()));
        }
        let limits = Limits { cancel: Some(cancel), ..Limits::timeout(self.options.timeout) };
        let ended = self.place.run(&command, &limits).map_err(|error| failed(error.to_string()))?;
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        verdict(&ended).map_err(failed)?;
        value(&ended.out.text()).map_err(failed)
    }

    fn failed(&self, why: String) -> Error {
        Error::Command { what: self.options.name.clone(), why }
    }

    /// Does something to the place's files.
    fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.place.within(work).map_err(|error| self.failed(error.to_string()))?
    }
}

impl Component for Dump {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn enters_by_itself(&self) -> bool {
        true
    }

    fn engine(&self) -> String {
        "command 1".to_owned()
    }

    fn preflight(&self) -> Vec<Finding> {
        Vec::new()
    }

    fn state(&self) -> Result<State> {
        let destroyed = self.options.destroy.clone();
        let present = self.within(|| Ok(destroyed.iter().any(|path| fs::symlink_metadata(path).is_ok())))?;
        Ok(State { present, ..State::default() })
    }

    fn capture(&self, request: &CaptureRequest<'_>) -> Result<Capture> {
        let outcome = Outcome::default();
        let before = self.measure(&request.cancel)?;
        let instant = Timestamp::now();
        let open: Open = {
            let (dump, outcome, cancel) = (self.clone(), outcome.clone(), request.cancel.clone());
            let stop = Cancel::default();
            Box::new(move || {
                let (give, take) = sync_channel(PIECES_WAITING);
                let pieces = Pieces { take, piece: Vec::new(), given: 0, cancel, stop: stop.clone() };
                thread::Builder::new()
                    .name(format!("dump of {}", dump.options.name))
                    .spawn(move || outcome.set(run(&dump, &stop, &give)))?;
                Ok(Box::new(pieces) as Box<dyn Read + Send>)
            })
        };
        let meta = StreamMeta {
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: instant,
        };
        let point = PointFacts {
            kind: self.kind().to_owned(),
            engine: self.engine(),
            instant,
            facts: Facts::default(),
            queries: self.options.facts.iter().cloned().collect(),
            bytes: None,
            roots: vec![self.in_snapshot()],
            identity: None,
            token: None,
            details: [].into(),
            log: None,
        };
        let content = Content::Stream { meta, size: None, block_bytes: None, open, origin: None };
        let members = vec![Member { path_in_snapshot: self.in_snapshot(), content }];
        let cancel = request.cancel.clone();
        let finish = Box::new(Ending { outcome, dump: self.clone(), before, cancel });
        Ok(Capture { members, point, finish })
    }

    fn parts(&self, run: &str, recorded: &PointFacts) -> Vec<Part> {
        let part = |root: &PathBuf| {
            let target = self.options.hold.join(&self.options.file);
            Part {
                in_snapshot: root.clone(),
                beside: appended(&target, &format!(".lifeboat-{run}")),
                target,
                companions: Vec::new(),
            }
        };
        recorded.roots.iter().map(part).collect()
    }

    fn prepare(&self, parts: &[Part], _recorded: &PointFacts) -> Result<()> {
        self.within(|| parts.iter().try_for_each(|part| super::restore::make_way(part, false)))
    }

    fn prove(&self, parts: &[Part], recorded: &PointFacts, cancel: &Cancel) -> Result<Proof> {
        let mut proof = Proof::default();
        for part in parts {
            let path = &part.beside;
            let bytes = self.within(|| Ok(fs::metadata(path).map_err(Error::io("look at", path))?.len()))?;
            match recorded.facts.automatic.get(BYTES) {
                Some(expected) => proof.agree(BYTES, expected, &number(bytes)),
                None => proof.unknown(BYTES, "", "the point does not record it"),
            }
            for (name, query) in &recorded.queries {
                let what = format!("fact {name}");
                // One that moved while it was dumped was told of then, and there is nothing to compare with.
                let Some(expected) = recorded.facts.declared.get(name) else { continue };
                match self.ask(name, query, Some(path), cancel) {
                    Ok(found) => proof.agree(what, expected, &found),
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => proof.unknown(what, expected, error),
                }
            }
            match &self.options.verify {
                Some(verify) => {
                    let found = self
                        .feed(verify, path, cancel)?
                        .map_or_else(|why| why, |()| "ended with status 0".to_owned());
                    proof.compare("verify", "ended with status 0", found);
                }
                None if !recorded.facts.declared.is_empty() => {}
                None => {
                    let why =
                        "only a check of the plan can show it: give the component a `verify`, or a fact";
                    proof.unknown("what was dumped", "whole", why);
                }
            }
        }
        Ok(proof)
    }

    fn damage(
        &self,
        parts: &[Part],
        _recorded: &PointFacts,
        how: Damage,
        _cancel: &Cancel,
    ) -> Result<Option<String>> {
        self.within(|| match (how, parts.first()) {
            (Damage::Lose, Some(part)) => {
                damage::cut(&part.beside, 0)?;
                Ok(Some(format!("{} was emptied", part.beside.display())))
            }
            _ => damage::of_files(parts, how),
        })
    }

    fn after_swap(&self, parts: &[Part], _recorded: &PointFacts, cancel: &Cancel) -> Result<()> {
        for part in parts {
            self.feed(&self.options.restore, &part.target, cancel)?.map_err(|why| self.failed(why))?;
        }
        Ok(())
    }

    fn destroy(&self) -> Vec<PathBuf> {
        self.options.destroy.clone()
    }
}

/// Runs the command to its end and gives away what it prints; how many bytes that was.
fn run(dump: &Dump, stop: &Cancel, give: &SyncSender<io::Result<Vec<u8>>>) -> Result<u64> {
    let ended = run_to_end(dump, stop, give);
    if let Err(error) = &ended {
        // The reader must not take what came so far for everything. One that has gone away needs no telling.
        _ = give.send(Err(io::Error::other(error.to_string())));
    }
    ended
}

fn run_to_end(dump: &Dump, stop: &Cancel, give: &SyncSender<io::Result<Vec<u8>>>) -> Result<u64> {
    let limits = Limits { cancel: Some(stop), ..Limits::timeout(dump.options.timeout) };
    let mut reading =
        dump.place.read(&dump.options.backup, &limits).map_err(|error| dump.failed(error.to_string()))?;
    let mut bytes = 0;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let count = match reading.read(&mut piece) {
            Ok(count) => count,
            Err(_) if stop.load(Ordering::Relaxed) => return Err(Error::Interrupted),
            Err(error) => return Err(dump.failed(error.to_string())),
        };
        if count == 0 {
            break;
        }
        bytes += count as u64;
        piece.truncate(count);
        if give.send(Ok(piece)).is_err() {
            return Err(dump.failed("what it printed was not read to the end".to_owned()));
        }
    }
    let ended = reading.finish().map_err(|error| dump.failed(error.to_string()))?;
    verdict(&ended).map_err(|why| dump.failed(why))?;
    if bytes == 0 {
        return Err(
            dump.failed("it ended with status 0 and printed nothing: an empty dump is no backup".to_owned())
        );
    }
    Ok(bytes)
}

/// What a command's end says: nothing, or how it failed and the last of what it said.
fn verdict(ended: &Ended) -> std::result::Result<(), String> {
    if ended.success() {
        return Ok(());
    }
    let said = ended.err.text();
    let lines: Vec<&str> = said.trim().lines().collect();
    let last = lines[lines.len().saturating_sub(LINES_TOLD)..].join("; ");
    Err(if last.is_empty() { ended.end.to_string() } else { format!("{}: {last}", ended.end) })
}

/// What a fact's command has printed: one line, a number if it reads as one.
fn value(printed: &str) -> std::result::Result<Value, String> {
    let line = printed.trim();
    if line.is_empty() {
        return Err("it printed nothing".to_owned());
    }
    if line.contains('\n') || line.len() > FACT_BYTES_MAX {
        return Err(format!("it printed more than one line of at most {FACT_BYTES_MAX} bytes"));
    }
    let real = || line.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::Real);
    let number = line.parse::<i64>().map(Value::Integer).ok().or_else(real);
    Ok(number.unwrap_or_else(|| Value::Text(line.to_owned())))
}

/// How many of a failed command's last lines are told.
const LINES_TOLD: usize = 3;

/// How the command ended; nothing as long as it has not.
#[derive(Clone, Default)]
struct Outcome(Arc<Mutex<Option<Result<u64>>>>);

impl Outcome {
    fn set(&self, outcome: Result<u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    fn take(&self) -> Option<Result<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the command prints, in the order in which it comes. Dropping it ends the command.
struct Pieces {
    take: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    given: usize,
    cancel: Cancel,
    stop: Cancel,
}

impl Pieces {
    /// Waits for the next piece; nothing at the end.
    fn next(&self) -> Option<io::Result<Vec<u8>>> {
        loop {
            match self.take.recv_timeout(LOOK_EVERY) {
                Ok(piece) => return Some(piece),
                Err(RecvTimeoutError::Timeout) => {
                    if self.cancel.load(Ordering::Relaxed) {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
                // The channel closes when the command has ended well; every other end was sent before.
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.piece.len() {
            let Some(piece) = self.next() else { return Ok(0) };
            (self.piece, self.given) = (piece?, 0);
        }
        let count = buffer.len().min(self.piece.len() - self.given);
        buffer[..count].copy_from_slice(&self.piece[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The end of a capture: the command must have ended well, and the facts are asked a second time.
struct Ending {
    outcome: Outcome,
    dump: Dump,
    /// The facts when the dump began.
    before: BTreeMap<String, Value>,
    cancel: Cancel,
}

impl Finish for Ending {
    fn finish(self: Box<Self>, _stored: Option<&Tally>) -> Result<Finished> {
        let unread = || self.dump.failed("it was not run to its end".to_owned());
        let bytes = self.outcome.take().ok_or_else(unread)??;
        let mut declared = self.dump.measure(&self.cancel)?;
        let mut problems = Vec::new();
        declared.retain(|name, after| {
            let before = self.before.get(name);
            if before == Some(after) {
                return true;
            }
            let before = before.map_or_else(String::new, ToString::to_string);
            problems.push(Problem {
                path: PathBuf::from(format!("fact {name}")),
                what: format!(
                    "it changed from {before} to {after} while {} was dumped, so that nobody knows which of them the \
                     dump holds; measure something that stands still meanwhile",
                    self.dump.options.name
                ),
            });
            false
        });
        let facts = Facts { declared, automatic: [(BYTES.to_owned(), number(bytes))].into() };
        Ok(Finished { facts, bytes: Some(bytes), problems, ..Finished::default() })
    }
}

fn number(bytes: u64) -> Value {
    Value::Integer(i64::try_from(bytes).unwrap_or(i64::MAX))
}
