//! Asking the resident helper of `lifeboat serve`, so that a server's `archive_command` need not open the repository.
//!
//! # The protocol
//! The helper listens on the socket `wal/COMPONENT.socket` below the state directory. A connection is one question and one
//! answer, each a line of JSON; behind the answer `found` come as many bytes as it says. Either side that does not
//! understand the other says so or hangs up, and then whoever asks does the work itself: the repository keeps two that
//! write at once apart, and an answer that was given stays true.
//!
//! | question | answers |
//! |---|---|
//! | `push`: archive this file of the data directory's `pg_wal` | `pushed`: it is durable; `failed` |
//! | `fetch`: this file of the log of this cluster | `found` and the file; `absent`: it is proven that there is none; `failed` |
//! | any | `not_mine`: ask somebody else, such as yourself |
//!
//! # Who is believed
//! The helper answers root, its own user, and the owner of the data directory; the kernel says who asks. Whoever asks
//! believes root, itself, and that owner, because a stranger's "it is durable" would lose data. Directories are named by device
//! and inode, so that a copy of the data directory, or one in a twin, is another one.

use std::fs::Metadata;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use estate::component::postgres::wal::Cluster;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Fetched, Pushed, parse, server_has, target};
use crate::{Error, Result};

/// The version of the protocol.
pub(super) const PROTOCOL: u32 = 1;
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
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    Pushed { was_there: bool, along: u64, warning: Option<String> },
    Found { bytes: u64 },
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
        match self.ask(&question, &found) {
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
        let question = Question::Fetch {
            protocol: PROTOCOL,
            name: name.to_owned(),
            system: cluster.system,
            major: cluster.major,
            segment_bytes: cluster.segment_bytes,
            server_has_it: server_has(self.data, name),
        };
        match self.ask(&question, &found) {
            Some((Answer::Found { bytes }, mut stream)) if bytes <= FILE_BYTES_MAX => {
                let mut is_whole = true;
                let written = target::write(target, |file| {
                    is_whole =
                        io::copy(&mut (&mut stream).take(bytes), file).is_ok_and(|copied| copied == bytes);
                    if is_whole { Ok(()) } else { Err(io::Error::other("the helper has hung up")) }
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

    /// The name of a file that lies where the server has its log.
    fn name_of_own(&self, file: &Path) -> Option<String> {
        let (there, own) = (std::fs::metadata(file.parent()?), std::fs::metadata(self.data.join("pg_wal")));
        let (there, own) = (there.ok()?, own.ok()?);
        let is_own = (there.dev(), there.ino()) == (own.dev(), own.ino());
        is_own.then(|| file.file_name()?.to_str().map(str::to_owned))?
    }

    /// The answer of the first that gives one.
    fn ask(&self, question: &Question, data: &Metadata) -> Option<(Answer, BufReader<UnixStream>)> {
        self.sockets.iter().find_map(|socket| ask(socket, question, data).ok())
    }
}

fn ask(socket: &Path, question: &Question, data: &Metadata) -> io::Result<(Answer, BufReader<UnixStream>)> {
    let stream = at(socket, |path| UnixStream::connect(path))?;
    if !is_trusted(&stream, Some(data.uid()))? {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    send(&stream, question)?;
    let mut stream = BufReader::with_capacity(256 << 10, stream);
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
pub(super) fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
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
        // What is cut off is no answer.
        (&one).write_all(text.as_bytes()).unwrap();
        drop(one);
        assert!(receive::<Answer>(&mut BufReader::new(&other)).is_err());
    }
}
