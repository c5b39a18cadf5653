//! Asking the resident helper of `lifeboat serve`, so that a server's `archive_command` need not open the repository.
//!
//! # The protocol
//! The helper listens on the socket `wal/COMPONENT.socket` below the state directory. A connection is one question and one
//! answer, each a line of JSON; behind the answer `found` come as many bytes as it says. With the question `fetch` go files
//! without a name that the helper may fill (`sheet`), and with the answer `filled` comes the one that holds what was asked
//! for; whoever asks but cannot use that asks again without them. Either side that does not understand the other says so or
//! hangs up, and then whoever asks does the work itself: the repository keeps two that write at once apart, and an answer
//! that was given stays true.
//!
//! | question | answers |
//! |---|---|
//! | `push`: archive this file of the data directory's `pg_wal` | `pushed`: it is durable; `failed` |
//! | `fetch`: this file of the log of this cluster | `filled` and the file; `found` and its bytes; `absent`: it is proven that there is none; `failed` |
//! | any | `not_mine`: ask somebody else, such as yourself |
//!
//! # Who is believed
//! The helper answers root, its own user, and the owner of the data directory; the kernel says who asks. Whoever asks
//! believes root, itself, and that owner, because a stranger's "it is durable" would lose data. Directories are named by device
//! and inode, so that a copy of the data directory, or one in a twin, is another one.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use estate::component::postgres::wal::Cluster;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use super::{Fetched, Pushed, parse, server_has, sheet, target};
use crate::{Error, Result};

/// The version of the protocol.
pub(super) const PROTOCOL: u32 = 2;
/// How long an answer is waited for; then the helper is taken to be stuck, and the work is done without it.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest line of either side.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// The longest path that a socket's address takes.
const ADDRESS_BYTES_MAX: usize = 100;
/// The most bytes of a file of a log: a segment of the largest size that there is.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Question {
    Push {
        protocol: u32,
        /// The file's name.
        name: String,
        /// The data directory.
        device: u64,
        inode: u64,
        accepts_damage: bool,
    },
    Fetch {
        protocol: u32,
        name: String,
        /// Whose log it is.
        system: u64,
        major: u32,
        segment_bytes: u64,
        /// Whether the server that asks has the file itself.
        server_has_it: bool,
        /// Device and inode of the directory where it is wanted, if files without a name go along that can get one there.
        directory: Option<(u64, u64)>,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    Pushed { was_there: bool, along: u64, warning: Option<String> },
    Found { bytes: u64 },
    Filled { bytes: u64 },
    Absent { why: String },
    Failed { why: String, hint: Option<String> },
    NotMine { why: String },
}

/// The socket of a component's helper, below a state directory.
pub fn socket(state: &Path, component: &str) -> PathBuf {
    state.join("wal").join(format!("{component}.socket"))
}

/// Whom to ask, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Sockets at which a helper may listen.
    pub sockets: &'a [PathBuf],
    /// The data directory of the server.
    pub data: &'a Path,
}

impl Asker<'_> {
    /// Lets the helper archive `file`; `None` when there is none that would.
    ///
    /// Fails when the helper has tried and failed.
    pub fn push(&self, file: &Path, accepts_damage: bool) -> Result<Option<Pushed>> {
        let Some(name) = self.name_of_own(file) else { return Ok(None) };
        let Ok(found) = std::fs::metadata(self.data) else { return Ok(None) };
        let question = Question::Push {
            protocol: PROTOCOL,
            name,
            device: found.dev(),
            inode: found.ino(),
            accepts_damage,
        };
        match self.ask(&question, &found, &[]) {
            Some((Answer::Pushed { was_there, along, warning }, _)) => {
                Ok(Some(Pushed { was_there, along, warning }))
            }
            Some((Answer::Failed { why, hint }, _)) => Err(failed(why, hint)),
            _ => Ok(None),
        }
    }

    /// Lets the helper get the file `name`, and puts it to `target`; `None` when there is none that would.
    pub fn fetch(&self, name: &str, target: &Path) -> Result<Option<Fetched>> {
        parse(name)?;
        let (Ok(found), Ok(cluster)) = (std::fs::metadata(self.data), Cluster::of(self.data)) else {
            return Ok(None);
        };
        let question = |directory| Question::Fetch {
            protocol: PROTOCOL,
            name: name.to_owned(),
            system: cluster.system,
            major: cluster.major,
            segment_bytes: cluster.segment_bytes,
            server_has_it: server_has(self.data, name),
            directory,
        };
        let directory = std::fs::metadata(target::directory(target)).ok();
        let directory = directory.map(|found| (found.dev(), found.ino()));
        let sheets = target::sheets(target, sheet::PASSED);
        if !sheets.is_empty() && directory.is_some() {
            match self.ask(&question(directory), &found, &sheets) {
                Some((Answer::Filled { bytes }, mut stream)) => {
                    let filled = stream.get_mut().files.pop_front().map(File::from);
                    let is_put = filled.is_some_and(|file| {
                        file.metadata().is_ok_and(|found| found.is_file() && found.len() == bytes)
                            && target::put_sheet(&file, target).is_ok()
                    });
                    if is_put {
                        return Ok(Some(Fetched::Written));
                    }
                }
                answer => return take(answer, target),
            }
        }
        take(self.ask(&question(None), &found, &[]), target)
    }

    /// Whether anybody listens.
    pub fn is_listened_to(&self) -> bool {
        self.sockets.iter().any(|socket| at(socket, |path| UnixStream::connect(path)).is_ok())
    }

    /// The name of a file that lies where the server has its log.
    fn name_of_own(&self, file: &Path) -> Option<String> {
        let (there, own) = (std::fs::metadata(file.parent()?), std::fs::metadata(self.data.join("pg_wal")));
        let (there, own) = (there.ok()?, own.ok()?);
        let is_own = (there.dev(), there.ino()) == (own.dev(), own.ino());
        is_own.then(|| file.file_name()?.to_str().map(str::to_owned))?
    }

    /// The answer of the first that gives one.
    fn ask(&self, question: &Question, data: &Metadata, sheets: &[File]) -> Option<Reply> {
        self.sockets.iter().find_map(|socket| ask(socket, question, data, sheets).ok())
    }
}

/// An answer, and the connection on which what belongs to it follows.
type Reply = (Answer, BufReader<Carrier<UnixStream>>);

/// Puts what was answered to `target`; `None` when nobody has answered it.
fn take(answer: Option<Reply>, target: &Path) -> Result<Option<Fetched>> {
    match answer {
        Some((Answer::Found { bytes }, mut stream)) if bytes <= FILE_BYTES_MAX => {
            let mut is_whole = true;
            let written = target::write(target, |file| {
                let mut left = bytes;
                while left > 0 {
                    let piece = stream.fill_buf().unwrap_or_default();
                    let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if length == 0 {
                        is_whole = false;
                        return Err(io::Error::other("the helper has hung up"));
                    }
                    file.write_all(&piece[..length])?;
                    stream.consume(length);
                    left -= length as u64;
                }
                Ok(())
            });
            match written {
                Ok(()) => Ok(Some(Fetched::Written)),
                // Killed in the middle, or the disk is full: without it that will be seen.
                Err(_) if !is_whole => Ok(None),
                Err(error) => Err(error),
            }
        }
        Some((Answer::Absent { why }, _)) => Ok(Some(Fetched::Absent(why))),
        Some((Answer::Failed { why, hint }, _)) => Err(failed(why, hint)),
        _ => Ok(None),
    }
}

fn ask(socket: &Path, question: &Question, data: &Metadata, sheets: &[File]) -> io::Result<Reply> {
    let stream = at(socket, |path| UnixStream::connect(path))?;
    if !is_trusted(&stream, Some(data.uid()))? {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    send_with(&stream, question, sheets)?;
    let mut stream = BufReader::with_capacity(256 << 10, Carrier::new(stream));
    let answer = receive(&mut stream)?;
    Ok((answer, stream))
}

fn failed(why: String, hint: Option<String>) -> Error {
    match hint {
        Some(hint) => Error::refused(why, hint),
        None => Error::Failed(why),
    }
}

/// Whether the other side is root, this user, or the owner of the data directory.
pub(super) fn is_trusted(stream: &UnixStream, owner: Option<u32>) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?.uid;
    Ok(peer.is_root() || peer == rustix::process::geteuid() || Some(peer.as_raw()) == owner)
}

/// Writes a question or an answer.
pub(super) fn send(stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    send_with(stream, message, &[])
}

/// Writes a question or an answer with which files go along, at most [`sheet::PASSED`].
pub(super) fn send_with(mut stream: &UnixStream, message: &impl Serialize, files: &[File]) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(sheet::PASSED))];
    let mut along = SendAncillaryBuffer::new(&mut room);
    if !files.is_empty() && !along.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&line)], &mut along, SendFlags::NOSIGNAL)?;
    stream.write_all(&line[sent..])
}

/// A connection that also carries open files.
#[derive(Debug)]
pub(super) struct Carrier<S> {
    stream: S,
    /// Those that have come.
    pub files: VecDeque<OwnedFd>,
}

impl<S> Carrier<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, files: VecDeque::new() }
    }
}

impl<S: AsFd> Read for Carrier<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(sheet::PASSED))];
        let mut along = RecvAncillaryBuffer::new(&mut room);
        let into = &mut [IoSliceMut::new(into)];
        let received = rustix::net::recvmsg(&self.stream, into, &mut along, RecvFlags::CMSG_CLOEXEC)?;
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        // Nobody needs more; a connection that goes on sending files gets rid of them.
        self.files.truncate(sheet::PASSED);
        Ok(received.bytes)
    }
}

/// Reads a question or an answer.
pub(super) fn receive<T: for<'a> Deserialize<'a>>(stream: &mut impl BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Calls `with` with a path to the socket that is short enough for an address.
pub(super) fn at<T>(socket: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return with(socket);
    };
    if socket.as_os_str().len() <= ADDRESS_BYTES_MAX {
        return with(socket);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(directory, flags, Mode::empty())?;
    with(&Path::new(&format!("/proc/self/fd/{}", open.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_lines() {
        let (one, other) = UnixStream::pair().unwrap();
        let question = Question::Push {
            protocol: PROTOCOL,
            name: "000000010000000000000001".into(),
            device: 1,
            inode: 2,
            accepts_damage: false,
        };
        send(&one, &question).unwrap();
        let read: Question = receive(&mut BufReader::new(&other)).unwrap();
        assert_eq!(read, question);
        let text = r#"{"answer":"found","bytes":3}"#;
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), Answer::Found { bytes: 3 });
        // A file goes along with it.
        let file = tempfile::tempfile().unwrap();
        send_with(&one, &question, std::slice::from_ref(&file)).unwrap();
        let mut carrier = BufReader::new(Carrier::new(&other));
        assert_eq!(receive::<Question>(&mut carrier).unwrap(), question);
        let came = File::from(carrier.get_mut().files.pop_front().unwrap());
        let inode = |file: &File| file.metadata().unwrap().ino();
        assert_eq!((inode(&came), carrier.get_mut().files.len()), (inode(&file), 0));
        // What is cut off is no answer.
        (&one).write_all(text.as_bytes()).unwrap();
        drop(one);
        assert!(receive::<Answer>(&mut BufReader::new(&other)).is_err());
    }
}
