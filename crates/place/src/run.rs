//! Running a command to its end: one loop over its outputs, its input, its end and the clock.
//!
//! The command leads a session of its own, and its environment carries a marker, so that whatever it leaves
//! behind is found and ended also when it has moved to another session. The leader is not reaped before its
//! session is cleared: until then nobody else can be given its number.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use crate::command::{Captured, Command, Daemons, End, Finished, Input, Limits, Stream};
use crate::error::{Error, Result};
use crate::place::Place;
use crate::process::{Family, MARKER, ProcessId};
use crate::sys;

/// A longer line is told in pieces, so that memory stays bounded.
const LINE_BYTES_MAX: usize = 16 << 10;

/// How often the cancel flag is looked at.
const TICK: Duration = Duration::from_millis(50);

/// How long the outputs are read on when the command has ended and a daemon may hold them open.
const LAST_OUTPUT: Duration = Duration::from_millis(300);

/// Turns the data into what the standard library starts; to be called on a thread that is in the place.
pub(crate) fn prepare(command: &Command, place: &Place) -> io::Result<std::process::Command> {
    let mut prepared = std::process::Command::new(&command.program);
    prepared.args(&command.arguments).current_dir(&command.directory);
    if command.clean_environment {
        prepared.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    }
    prepared.envs(command.environment.iter().map(|(name, value)| (name, value)));
    prepared.env(MARKER, new_marker());
    if let Some((uid, gid)) = command.user {
        prepared.uid(uid).gid(gid);
    }
    prepared.stdin(match &command.input {
        Input::Nothing => Stdio::null(),
        Input::Bytes(_) => Stdio::piped(),
        Input::File(path) => File::open(path)?.into(),
    });
    sys::in_own_session(&mut prepared, place.is_twin());
    Ok(prepared)
}

/// Unique on this host: our number, the instant, and a count.
fn new_marker() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{now}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A command that runs, with what is needed to watch and end it.
pub(crate) struct Running {
    child: Child,
    ended: OwnedFd,
    family: Family,
    started: Instant,
    label: String,
    place: Place,
}

impl Running {
    /// Takes over a child that was made by [`prepare`].
    pub fn new(mut child: Child, label: &str, place: &Place) -> Result<Self> {
        let started = Instant::now();
        match Self::identify(&child) {
            Ok((ended, family)) => {
                place.remember_child(child.id().cast_signed());
                Ok(Self { child, ended, family, started, label: label.into(), place: place.clone() })
            }
            Err(reason) => {
                // What cannot be watched must not go on; that it has ended already is as good.
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::Watch {
                    what: "find the process",
                    command: label.into(),
                    place: place.name().into(),
                    reason,
                })
            }
        }
    }

    fn identify(child: &Child) -> io::Result<(OwnedFd, Family)> {
        let pid = Pid::from_child(child);
        let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let id = ProcessId::of(pid.as_raw_nonzero().get()).map_err(io::Error::other)?;
        Ok((ended, Family::of(id)))
    }

    /// Watches it to its end and clears up behind it.
    pub fn finish(mut self, input: &Input, limits: &Limits<'_>) -> Result<Finished> {
        let pipes = self.pipes(input, limits)?;
        self.finish_with(pipes, limits)
    }

    fn pipes<'a>(&mut self, input: &'a Input, limits: &Limits<'a>) -> Result<Pipes<'a>> {
        Pipes::new(&mut self.child, input, limits).map_err(|reason| self.abandon("set up the pipes", reason))
    }

    fn finish_with(mut self, mut pipes: Pipes<'_>, limits: &Limits<'_>) -> Result<Finished> {
        let cut = match self.watch(&mut pipes, limits) {
            Ok(cut) => cut,
            Err(reason) => return Err(self.abandon("watch the run", reason)),
        };
        let took = self.started.elapsed();
        let (left_behind, daemons) = match (cut, limits.daemons) {
            (Some(_), _) | (None, Daemons::Die) => (self.family.kill(), Vec::new()),
            (None, Daemons::Stay) => self.family.clear_session(),
        };
        if let Err(reason) = pipes.drain(Instant::now() + LAST_OUTPUT) {
            return Err(self.abandon("read the last output", reason));
        }
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(reason) => return Err(self.abandon("learn the status", reason)),
        };
        let (out, err) = pipes.captured();
        Ok(Finished { end: cut.unwrap_or_else(|| end_of(status)), out, err, took, left_behind, daemons })
    }

    /// Returns when it has ended, or tells why it must be ended, after SIGTERM and grace.
    fn watch(&self, pipes: &mut Pipes<'_>, limits: &Limits<'_>) -> io::Result<Option<End>> {
        let deadline = self.started.checked_add(limits.timeout);
        let mut cut: Option<(End, Instant)> = None;
        loop {
            if pipes.serve(Some(&self.ended), TICK)? {
                return Ok(cut.map(|(end, _)| end));
            }
            let now = Instant::now();
            match cut {
                Some((end, last)) if now >= last => return Ok(Some(end)),
                Some(_) => {}
                None => {
                    let end = if limits.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                        End::Cancelled
                    } else if deadline.is_some_and(|deadline| now >= deadline) {
                        End::TimedOut
                    } else {
                        continue;
                    };
                    self.family.terminate();
                    cut = Some((end, now + limits.grace));
                }
            }
        }
    }

    /// Ends it because it can no longer be watched.
    fn abandon(&mut self, what: &'static str, reason: io::Error) -> Error {
        self.kill();
        Error::Watch { what, command: self.label.clone(), place: self.place.name().into(), reason }
    }

    /// Ends it and all that it started, now.
    pub fn kill(&mut self) {
        self.family.kill();
        // The only failure is that it was waited for already.
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.place.forget_child(self.child.id().cast_signed());
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Killed { signal: signal.unwrap_or_default() },
    }
}

/// A running command whose standard output is read to its end by the caller; dropped before that, it is killed.
///
/// Its standard error is kept within the limits while the output is read. A read fails when the time is up
/// or the cancel flag is set. The end of the output
/// says nothing about success: [`finish`](Self::finish) does.
pub struct Reading<'a> {
    running: Option<(Running, Pipes<'a>)>,
    output: Option<ChildStdout>,
    limits: Limits<'a>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(mut running: Running, limits: &Limits<'a>) -> Result<Self> {
        let mut pipes = running.pipes(&Input::Nothing, limits)?;
        let output = pipes.out.take();
        Ok(Self { running: Some((running, pipes)), output, limits: *limits })
    }

    /// Waits for its end and tells how it was; `out` is empty, because it was read.
    pub fn finish(mut self) -> Result<Finished> {
        self.output = None;
        let (running, pipes) = self.running.take().expect("only this function, which consumes, takes it");
        running.finish_with(pipes, &self.limits)
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (Some((running, pipes)), Some(output)) = (&mut self.running, &mut self.output) else {
            return Ok(0);
        };
        loop {
            match output.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => return other,
            }
            if self.limits.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return Err(io::Error::other("the command was cancelled"));
            }
            if running.started.elapsed() >= self.limits.timeout {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the command did not end in time"));
            }
            let mut polled = vec![PollFd::new(&*output, PollFlags::IN)];
            polled.extend(pipes.err.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            poll(&mut polled, &Timespec::try_from(TICK).map_err(io::Error::other)?)?;
            drop(polled);
            read_some(&mut pipes.err, &mut pipes.kept_err)?;
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some((running, _)) = &mut self.running {
            running.kill();
        }
    }
}

/// The near ends of a command's pipes. None of them ever blocks.
struct Pipes<'a> {
    input: Option<(ChildStdin, &'a [u8])>,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    kept_out: Keeper<'a>,
    kept_err: Keeper<'a>,
}

impl<'a> Pipes<'a> {
    fn new(child: &mut Child, input: &'a Input, limits: &Limits<'a>) -> io::Result<Self> {
        let bytes: &[u8] = if let Input::Bytes(bytes) = input { bytes } else { &[] };
        let pipes = Self {
            input: child.stdin.take().map(|pipe| (pipe, bytes)),
            out: child.stdout.take(),
            err: child.stderr.take(),
            kept_out: Keeper::new(Stream::Out, limits),
            kept_err: Keeper::new(Stream::Err, limits),
        };
        let descriptors = [
            pipes.input.as_ref().map(|(pipe, _)| pipe.as_fd()),
            pipes.out.as_ref().map(AsFd::as_fd),
            pipes.err.as_ref().map(AsFd::as_fd),
        ];
        for descriptor in descriptors.into_iter().flatten() {
            rustix::io::ioctl_fionbio(descriptor, true)?;
        }
        Ok(pipes)
    }

    /// Waits for at most `patience`, moves what can be moved, and tells whether the process has ended.
    fn serve(&mut self, ended: Option<&OwnedFd>, patience: Duration) -> io::Result<bool> {
        let mut polled = Vec::with_capacity(4);
        polled.extend(ended.map(|descriptor| PollFd::new(descriptor, PollFlags::IN)));
        polled.extend(self.input.as_ref().map(|(pipe, _)| PollFd::new(pipe, PollFlags::OUT)));
        polled.extend(self.out.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        polled.extend(self.err.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        poll(&mut polled, &patience)?;
        let has_ended = ended.is_some() && polled.first().is_some_and(|first| !first.revents().is_empty());
        drop(polled);
        self.feed();
        read_some(&mut self.out, &mut self.kept_out)?;
        read_some(&mut self.err, &mut self.kept_err)?;
        Ok(has_ended)
    }

    /// Gives the command what fits of its input; one that does not want to read it has its reasons.
    fn feed(&mut self) {
        let Some((pipe, left)) = &mut self.input else { return };
        let done = match pipe.write(left) {
            Ok(written) => {
                *left = left.get(written..).unwrap_or_default();
                left.is_empty()
            }
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
        if done {
            self.input = None;
        }
    }

    /// Reads what is still in the pipes until their writers are gone or `deadline` has passed.
    fn drain(&mut self, deadline: Instant) -> io::Result<()> {
        self.input = None;
        while self.out.is_some() || self.err.is_some() {
            self.serve(None, Duration::from_millis(10))?;
            if Instant::now() > deadline {
                break;
            }
        }
        Ok(())
    }

    fn captured(self) -> (Captured, Captured) {
        (self.kept_out.finish(), self.kept_err.finish())
    }
}

fn poll(polled: &mut [PollFd<'_>], patience: &Timespec) -> io::Result<()> {
    match rustix::event::poll(polled, Some(patience)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads until the pipe would block, but no more than a few buffers, so that no output starves the clock.
fn read_some<R: Read>(pipe: &mut Option<R>, keeper: &mut Keeper<'_>) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    for _ in 0..16 {
        let Some(open) = pipe else { return Ok(()) };
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => keeper.take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Keeps the beginning and the end of an output, and tells its lines.
struct Keeper<'a> {
    stream: Stream,
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    omitted: u64,
    line: Vec<u8>,
    on_line: Option<crate::command::OnLine<'a>>,
}

impl<'a> Keeper<'a> {
    fn new(stream: Stream, limits: &Limits<'a>) -> Self {
        Self {
            stream,
            half: limits.output_bytes_max / 2,
            head: Vec::new(),
            tail: VecDeque::new(),
            omitted: 0,
            line: Vec::new(),
            on_line: limits.on_line,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.tell(bytes);
        let (first, rest) = bytes.split_at(bytes.len().min(self.half - self.head.len()));
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..excess);
        self.omitted += excess as u64;
    }

    fn tell(&mut self, bytes: &[u8]) {
        if self.on_line.is_none() {
            return;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LINE_BYTES_MAX {
                self.tell_line();
            }
        }
    }

    fn tell_line(&mut self) {
        if let Some(on_line) = self.on_line {
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            on_line(self.stream, &String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)));
        }
        self.line.clear();
    }

    fn finish(mut self) -> Captured {
        if !self.line.is_empty() {
            self.tell_line();
        }
        Captured { head: self.head, tail: self.tail.into(), omitted: self.omitted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(limit: usize, pieces: &[&str]) -> Captured {
        let limits = Limits { output_bytes_max: limit, ..Limits::timeout(Duration::ZERO) };
        let mut keeper = Keeper::new(Stream::Out, &limits);
        pieces.iter().for_each(|piece| keeper.take(piece.as_bytes()));
        keeper.finish()
    }

    #[test]
    fn head_and_tail_are_kept_and_the_middle_is_counted() {
        let kept = keep(6, &["ab", "cdef", "ghij"]);
        assert_eq!((&kept.head[..], &kept.tail[..], kept.omitted), (&b"abc"[..], &b"hij"[..], 4));
        assert_eq!(kept.text(), "abc\n[4 bytes left out]\nhij");
        assert_eq!(kept.whole(), None);
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let kept = keep(6, &["ab", "cdef"]);
        assert_eq!((kept.text().as_str(), kept.omitted), ("abcdef", 0));
        assert_eq!(kept.whole().as_deref(), Some(&b"abcdef"[..]));
        assert_eq!(keep(0, &["ab"]).omitted, 2);
    }
}
