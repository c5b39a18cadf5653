//! A connection to a server: commands and answers of Redis' protocol (RESP 2), over a Unix socket, TCP or TLS.
//!
//! Small on purpose: one command, one answer. What the server sends is bounded before memory is
//! taken for it; the dump itself is not an answer and is read as a stream (`sync`).

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use place::Place;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

pub(super) use super::super::address::Address;
use super::super::{Cancel, Tls};
use crate::tls::{self, Encrypted, NoTls};

/// How often a silent server's reader looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 64 << 10;
/// The longest line, the longest text and the longest list that are taken for an answer.
const LINE_BYTES_MAX: usize = 64 << 10;
const TEXT_BYTES_MAX: usize = 64 << 20;
const LIST_MAX: usize = 1 << 20;
/// How deep lists may be in lists.
const DEPTH_MAX: u32 = 8;

/// Who connects, and how.
#[derive(Clone, Default)]
pub(super) struct Login {
    pub tls: Option<Tls>,
    pub username: Option<String>,
    pub password: Option<String>,
}

/// How long a server is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until it takes a connection.
    connect: Duration,
    /// While it says nothing at all.
    silence: Duration,
}

impl Patience {
    /// With a server that works for us. While it makes a dump it sends an empty line every ten seconds.
    pub(super) const WORK: Self = Self::of(15, 120);
    /// With one that is only asked something that others wait for, and is asked again: one that hangs has no answer.
    pub(super) const QUESTION: Self = Self::of(5, 5);

    const fn of(connect: u64, silence: u64) -> Self {
        Self { connect: Duration::from_secs(connect), silence: Duration::from_secs(silence) }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server said so.
    #[error("{0}{hint}", hint = hint(.0))]
    Server(String),
    /// No encrypted connection came about.
    #[error("no TLS with it: {0}")]
    Tls(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The server says what this client does not understand.
    #[error("{0}")]
    Strange(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What a server answers; an error is a [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// A status or a string.
    Text(Vec<u8>),
    /// A whole number.
    Integer(i64),
    /// Nothing at that key.
    Nil,
    /// Several answers.
    List(Vec<Answer>),
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<Encrypted<TcpStream>>),
}

/// An open connection.
pub(super) struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    /// How much of the buffer is used up.
    at: usize,
    cancel: Cancel,
    silence_max: Duration,
}

/// What to do about what a server said, behind its words.
fn hint(said: &str) -> &'static str {
    let known = [
        ("NOAUTH", ": give the password with `password:`"),
        ("WRONGPASS", ": correct `username:` and `password:`"),
        ("ERR invalid password", ": correct `password:`"),
        ("ERR AUTH", ": take `password:` out of the plan, or set one in the server"),
        (
            "NOPERM",
            ": allow the user `+auth +ping +info +config|get +replconf +psync +sync`, or `+bgsave` on its own machine",
        ),
        ("NOMASTERLINK", ": it is a replica without its master; mend that, or back up the master"),
        ("LOADING", ": wait until it has read its data"),
        ("MISCONF", ": it cannot write to its own disk; make room there"),
    ];
    known.iter().find(|(begin, _)| said.starts_with(begin)).map_or("", |(_, hint)| hint)
}

impl Connection {
    /// Connects and says who it is.
    pub(super) fn open(
        address: &Address,
        login: &Login,
        place: &Place,
        cancel: &Cancel,
        patience: Patience,
    ) -> Result<Self, Failure> {
        let other = |error: place::Error| io::Error::other(error.to_string());
        let socket = match address {
            Address::Socket(path) => {
                Socket::Unix(place.within(|| connect_to_path(path, patience.connect)).map_err(other)??)
            }
            Address::Tcp(host, port) => {
                let stream = place.connect(host, *port, patience.connect).map_err(other)?;
                stream.set_nodelay(true)?;
                match &login.tls {
                    Some(tls) => {
                        Socket::Tls(Box::new(encrypted(tls, host, stream, place, patience.connect)?))
                    }
                    None => Socket::Tcp(stream),
                }
            }
        };
        socket.set_timeouts(patience.silence)?;
        let silence_max = patience.silence;
        let mut connection = Self { socket, buffer: Vec::new(), at: 0, cancel: cancel.clone(), silence_max };
        if let Some(password) = &login.password {
            let mut words = vec![b"AUTH".as_slice()];
            words.extend(login.username.as_ref().map(String::as_bytes));
            words.push(password.as_bytes());
            connection.ask(&words)?;
        }
        Ok(connection)
    }

    /// Sends a command and reads its answer.
    pub(super) fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Result<Answer, Failure> {
        self.send(words)?;
        self.answer(0)
    }

    /// Sends a command.
    pub(super) fn send<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Result<(), Failure> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend_from_slice(format!("${}\r\n", word.as_ref().len()).as_bytes());
            out.extend_from_slice(word.as_ref());
            out.extend_from_slice(b"\r\n");
        }
        self.socket.write_all(&out)?;
        Ok(self.socket.flush()?)
    }

    fn answer(&mut self, depth: u32) -> Result<Answer, Failure> {
        let line = self.line()?;
        let (kind, rest) = line.split_first().ok_or_else(|| strange(&line))?;
        let number = || std::str::from_utf8(rest).ok()?.parse::<i64>().ok();
        let count = |most: usize| number().and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= most);
        Ok(match kind {
            b'+' => Answer::Text(rest.to_vec()),
            b'-' => return Err(Failure::Server(String::from_utf8_lossy(rest).into_owned())),
            b':' => Answer::Integer(number().ok_or_else(|| strange(&line))?),
            b'$' | b'*' if rest == b"-1" => Answer::Nil,
            b'$' => {
                let bytes = count(TEXT_BYTES_MAX).ok_or_else(|| strange(&line))?;
                let mut text = self.bytes(bytes + 2)?;
                text.truncate(bytes);
                Answer::Text(text)
            }
            b'*' if depth < DEPTH_MAX => {
                let count = count(LIST_MAX).ok_or_else(|| strange(&line))?;
                Answer::List((0..count).map(|_| self.answer(depth + 1)).collect::<Result<_, _>>()?)
            }
            _ => return Err(strange(&line)),
        })
    }

    /// Reads a line without its end.
    pub(super) fn line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut looked = 0;
        loop {
            let held = &self.buffer[self.at..];
            if let Some(end) = held[looked..].iter().position(|&byte| byte == b'\n').map(|at| at + looked) {
                let line = held[..end].strip_suffix(b"\r").unwrap_or(&held[..end]).to_vec();
                self.at += end + 1;
                return Ok(line);
            }
            looked = held.len();
            if looked > LINE_BYTES_MAX {
                return Err(Failure::Strange("the server sends a line without an end".to_owned()));
            }
            self.fill()?;
        }
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, Failure> {
        while self.buffer.len() - self.at < count {
            self.fill()?;
        }
        let bytes = self.buffer[self.at..self.at + count].to_vec();
        self.at += count;
        Ok(bytes)
    }

    /// Reads more into the buffer.
    fn fill(&mut self) -> Result<(), Failure> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let held = self.buffer.len();
        self.buffer.resize(held + READ_BYTES, 0);
        let read = wait(&mut self.socket, &mut self.buffer[held..], &self.cancel, self.silence_max);
        self.buffer.truncate(held + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => {
                let ended = io::Error::new(ErrorKind::UnexpectedEof, "the server closed it");
                Err(Failure::Broken(ended))
            }
            Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Reads what the server streams; nothing when it has closed the connection.
    pub(super) fn stream(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        let held = &self.buffer[self.at..];
        if held.is_empty() {
            return wait(&mut self.socket, into, &self.cancel, self.silence_max);
        }
        let count = held.len().min(into.len());
        into[..count].copy_from_slice(&held[..count]);
        self.at += count;
        Ok(count)
    }
}

/// Reads once, and looks meanwhile whether somebody still wants it.
fn wait(
    socket: &mut Socket,
    into: &mut [u8],
    cancel: &Cancel,
    silence_max: Duration,
) -> Result<usize, Failure> {
    let deadline = Instant::now() + silence_max;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        match socket.read(into) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if Instant::now() > deadline {
                    let why = format!("the server said nothing for {} s", silence_max.as_secs());
                    return Err(Failure::Broken(io::Error::new(ErrorKind::TimedOut, why)));
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return Ok(read?),
        }
    }
}

/// Connects to a socket in the file system. One whose server takes no connections any more, so that too many wait
/// already, would be waited for without end.
fn connect_to_path(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(within))?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(UnixStream::from(socket)),
        Err(Errno::AGAIN) => {
            let why = format!("the server took no connection for {} s", within.as_secs());
            Err(io::Error::new(ErrorKind::TimedOut, why))
        }
        Err(error) => Err(error.into()),
    }
}

fn encrypted(
    tls: &Tls,
    host: &str,
    stream: TcpStream,
    place: &Place,
    within: Duration,
) -> Result<Encrypted<TcpStream>, Failure> {
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    tls::encrypt(place, &tls.trust, tls.identity.as_ref(), host, stream).map_err(|no| match no {
        NoTls::Trust(why) => Failure::Tls(why),
        NoTls::Broken(error) => Failure::Tls(error.to_string()),
    })
}

fn strange(line: &[u8]) -> Failure {
    let line = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
    Failure::Strange(format!("the server answered {line:?}, which is not Redis' protocol: check the address"))
}

impl Socket {
    fn set_timeouts(&self, silence_max: Duration) -> io::Result<()> {
        let of_tcp = |stream: &TcpStream| {
            stream.set_read_timeout(Some(LOOK_EVERY))?;
            stream.set_write_timeout(Some(silence_max))
        };
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(LOOK_EVERY))?;
                stream.set_write_timeout(Some(silence_max))
            }
            Self::Tcp(stream) => of_tcp(stream),
            Self::Tls(stream) => of_tcp(&stream.sock),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buffer),
            Self::Tcp(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(_) | Self::Tcp(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Answer {
    /// The text of a string or a number.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Self::Integer(number) => Some(number.to_string()),
            Self::Nil | Self::List(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection to what has been sent already, and then closed.
    fn sent(bytes: &[u8]) -> Connection {
        let (one, mut other) = UnixStream::pair().unwrap();
        other.write_all(bytes).unwrap();
        let (cancel, silence_max) = (Cancel::default(), Patience::QUESTION.silence);
        Connection { socket: Socket::Unix(one), buffer: Vec::new(), at: 0, cancel, silence_max }
    }

    fn answered(bytes: &[u8]) -> Result<Answer, Failure> {
        sent(bytes).answer(0)
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(answered(b"+OK\r\n").unwrap(), Answer::Text(b"OK".to_vec()));
        assert_eq!(answered(b":-3\r\n").unwrap(), Answer::Integer(-3));
        assert_eq!(answered(b"$-1\r\n").unwrap(), Answer::Nil);
        assert_eq!(answered(b"$4\r\na\r\nb\r\n").unwrap(), Answer::Text(b"a\r\nb".to_vec()));
        let list = Answer::List(vec![Answer::Integer(1), Answer::List(vec![Answer::Nil])]);
        assert_eq!(answered(b"*2\r\n:1\r\n*1\r\n*-1\r\n").unwrap(), list);
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_takes_no_memory() {
        for bytes in [
            &b"HTTP/1.1 200\r\n"[..],
            b"$99999999999\r\n",
            b"$-2\r\n",
            b"*9999999999\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
            b"\r\n",
            b"$4\r\nab",
            b"+OK",
        ] {
            assert!(answered(bytes).is_err(), "{bytes:?}");
        }
        let long = [b"+".as_slice(), &[b'x'; 2 * LINE_BYTES_MAX]].concat();
        let reader = std::thread::spawn(move || answered(&long).is_err());
        assert!(reader.join().unwrap());
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let failure = answered(b"-NOAUTH Authentication required.\r\n").unwrap_err();
        assert_eq!(
            failure.to_string(),
            "NOAUTH Authentication required.: give the password with `password:`"
        );
    }
}
