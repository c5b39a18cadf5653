//! A connection to a server: the wire protocol 3.0, one statement at a time, over a Unix socket or TCP.
//!
//! Small on purpose: statements go through the extended protocol, which takes one statement and no more, so
//! that a query of the plan cannot end the transaction that keeps it from writing. What comes back is text.
//! TLS is spoken where the plan says so; a password is sent as it is to a socket, to this machine, or to a server whose
//! certificate was believed, and to nobody else.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{
    COPY_DATA_TAG, COPY_DONE_TAG, ERROR_RESPONSE_TAG, ErrorResponseBody, Message,
};
use postgres_protocol::message::frontend;

use place::Place;

pub(super) use super::super::address::Address;
use super::super::{Cancel, Tls};
use crate::check::Trust;
use crate::tls::{self, Encrypted, NoTls};

/// How often a silent server's reader looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a server on this machine may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const READ_BYTES: usize = 64 << 10;
/// The longest message of a copy that is taken; servers send at most 128 KiB of their log at once.
const FRAME_BYTES_MAX: u32 = 16 << 20;
/// What a server says before both sides copy (`CopyBothResponse`).
const COPIES_BOTH_WAYS: u8 = b'W';

/// Who connects, to which database.
#[derive(Clone)]
pub(super) struct Login {
    pub user: String,
    pub database: String,
    pub password: Option<String>,
    /// How TLS is spoken with a host.
    pub tls: Option<Tls>,
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server said so.
    #[error("{message}")]
    Server {
        /// The SQLSTATE, such as `57P01`.
        code: String,
        /// Its words, with detail and hint.
        message: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The server asks for what this client cannot do, or must not.
    #[error("{0}")]
    Refused(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// The rows of a statement; the types of the columns are PostgreSQL's numbers.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub types: Vec<u32>,
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<Encrypted<TcpStream>>),
}

/// An open connection. Dropping it ends the session, and with it whatever the server keeps for it.
pub(super) struct Connection {
    socket: Socket,
    read: BytesMut,
    cancel: Cancel,
    /// Shown in messages of the server only; kept so that no statement needs it again.
    pub database: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Address {
    /// Reaches the server as the user `uid`: with `peer` authentication the server believes the kernel's word
    /// for it.
    fn reach(&self, uid: Option<u32>, tls: Option<&Tls>) -> Result<Socket, Failure> {
        match self {
            Self::Socket(path) => {
                let connect = || UnixStream::connect(path).map(Socket::Unix);
                Ok(match uid {
                    Some(uid) if rustix::process::geteuid().is_root() && uid != 0 => as_user(uid, connect)?,
                    _ => connect()?,
                })
            }
            Self::Tcp(host, port) => {
                let stream = Place::host()
                    .connect(host, *port, CONNECT_TIMEOUT)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                stream.set_nodelay(true)?;
                match tls {
                    None => Ok(Socket::Tcp(stream)),
                    Some(tls) => Ok(Socket::Tls(Box::new(encrypted(tls, host, stream)?))),
                }
            }
        }
    }
}

/// Asks the server for TLS and does the handshake.
fn encrypted(tls: &Tls, host: &str, mut stream: TcpStream) -> Result<Encrypted<TcpStream>, Failure> {
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    stream.write_all(&out)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer != *b"S" {
        let why =
            "the server speaks no TLS: set `ssl = on` in postgresql.conf, or take `tls` out of the plan";
        return Err(Failure::Refused(why.to_owned()));
    }
    tls::encrypt(&Place::host(), &tls.trust, tls.identity.as_ref(), host, stream).map_err(|no| {
        let why = match no {
            NoTls::Trust(why) => why,
            NoTls::Broken(error) => error.to_string(),
        };
        Failure::Refused(format!("no TLS with it: {why}"))
    })
}

/// Does something on a thread of its own that is another user; only root can.
fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let work = || {
        let user = rustix::process::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(user, user, user)?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join().expect("connecting does not panic"))
}

impl Connection {
    /// Opens a session; `uid` is the user as whom a socket is reached, where that can be chosen.
    pub(super) fn open(
        address: &Address,
        login: &Login,
        uid: Option<u32>,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        Self::open_as(address, login, uid, cancel, &[])
    }

    /// Opens a session in which the server sends its log, or answers what replicas ask; see [`copy`](Self::copy).
    pub(super) fn open_for_log(
        address: &Address,
        login: &Login,
        uid: Option<u32>,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        Self::open_as(address, login, uid, cancel, &[("replication", "true")])
    }

    fn open_as(
        address: &Address,
        login: &Login,
        uid: Option<u32>,
        cancel: &Cancel,
        more: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let socket = address.reach(uid, login.tls.as_ref())?;
        let is_safe = match (&socket, &login.tls) {
            (Socket::Tls(_), Some(tls)) => tls.trust != Trust::Anyone,
            _ => address.is_here(),
        };
        let mut connection =
            Self { socket, read: BytesMut::new(), cancel: cancel.clone(), database: login.database.clone() };
        let mut out = BytesMut::new();
        let parameters = [
            ("user", login.user.as_str()),
            ("database", &login.database),
            ("client_encoding", "UTF8"),
            ("application_name", "lifeboat"),
        ];
        frontend::startup_message(parameters.into_iter().chain(more.iter().copied()), &mut out)?;
        connection.send(&out)?;
        connection.authenticate(login, is_safe)?;
        Ok(connection)
    }

    /// Says who it is; a password is sent as it is only if that `is_safe`.
    fn authenticate(&mut self, login: &Login, is_safe: bool) -> Result<(), Failure> {
        let password = || {
            let why = format!("the server asks for a password of {}: give one with `password:`", login.user);
            login.password.as_deref().ok_or(Failure::Refused(why))
        };
        let mut scram = None;
        loop {
            let mut out = BytesMut::new();
            match self.message()? {
                Message::AuthenticationCleartextPassword if is_safe => {
                    frontend::password_message(password()?.as_bytes(), &mut out)?;
                }
                Message::AuthenticationCleartextPassword => {
                    let why = "the server asks for the password unencrypted over the network: use its socket, `tls`, \
                               or scram-sha-256 in pg_hba.conf";
                    return Err(Failure::Refused(why.to_owned()));
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(login.user.as_bytes(), password()?.as_bytes(), body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out)?;
                }
                Message::AuthenticationSasl(_) => {
                    let begun = ScramSha256::new(password()?.as_bytes(), ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), &mut out)?;
                    scram = Some(begun);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let Some(scram) = &mut scram else { return Err(unexpected("SASLContinue")) };
                    scram.update(body.data())?;
                    frontend::sasl_response(scram.message(), &mut out)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let Some(scram) = &mut scram else { return Err(unexpected("SASLFinal")) };
                    scram.finish(body.data())?;
                }
                Message::AuthenticationOk
                | Message::ParameterStatus(_)
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => return Err(said(&body)),
                _ => {
                    let why = "the server asks for an authentication that lifeboat does not know: use peer, \
                               scram-sha-256 or md5 in pg_hba.conf";
                    return Err(Failure::Refused(why.to_owned()));
                }
            }
            if !out.is_empty() {
                self.send(&out)?;
            }
        }
    }

    /// Ends whatever waits for the server when `cancel` becomes true, from now on.
    pub(super) fn give_up_by(&mut self, cancel: &Cancel) {
        self.cancel = Cancel::clone(cancel);
    }

    /// Runs one statement and gives all of its rows, as text.
    ///
    /// Fails when the text holds more than one statement.
    pub(super) fn query(&mut self, sql: &str) -> Result<Rows, Failure> {
        let mut out = BytesMut::new();
        frontend::parse("", sql, [], &mut out)?;
        let nothing = |(): (), _: &mut BytesMut| Ok(IsNull::Yes);
        frontend::bind("", "", [], [], nothing, [], &mut out)
            .map_err(|_| Failure::Refused("the statement cannot be sent".to_owned()))?;
        frontend::describe(b'P', "", &mut out)?;
        frontend::execute("", 0, &mut out)?;
        frontend::sync(&mut out);
        self.send(&out)?;
        let (mut rows, mut failure) = (Rows::default(), None);
        loop {
            match self.message()? {
                Message::RowDescription(body) => {
                    let mut fields = body.fields();
                    while let Some(field) = fallible_next(&mut fields)? {
                        rows.types.push(field.type_oid());
                    }
                }
                Message::DataRow(body) => {
                    let (mut ranges, mut row) = (body.ranges(), Vec::new());
                    while let Some(range) = fallible_next(&mut ranges)? {
                        row.push(range.map(|range| body.buffer()[range].to_vec()));
                    }
                    rows.rows.push(row);
                }
                Message::ErrorResponse(body) => failure = Some(said(&body)),
                Message::ReadyForQuery(_) => return failure.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Runs a statement that gives one value, as text; `None` for null or no row.
    pub(super) fn value(&mut self, sql: &str) -> Result<Option<String>, Failure> {
        let rows = self.query(sql)?;
        let first = rows.rows.into_iter().next().and_then(|row| row.into_iter().next());
        Ok(first.flatten().map(text))
    }

    /// Runs a statement that must give one value.
    pub(super) fn known(&mut self, sql: &str) -> Result<String, Failure> {
        self.value(sql)?.ok_or_else(|| Failure::Refused(format!("{sql} gives nothing")))
    }

    /// Lets the server begin to copy, by a command that replicas know: from now on there is only what
    /// [`arrived`](Self::arrived).
    pub(super) fn copy(&mut self, command: &str) -> Result<(), Failure> {
        let mut out = BytesMut::new();
        frontend::query(command, &mut out)?;
        self.send(&out)?;
        while self.frame()?.is_none_or(|(tag, _)| tag != COPIES_BOTH_WAYS) {
            self.receive(LOOK_EVERY)?;
        }
        Ok(())
    }

    /// The next message of a copy, if one comes within `wait`.
    pub(super) fn arrived(&mut self, wait: Duration) -> Result<Option<BytesMut>, Failure> {
        for may_wait in [true, false] {
            while let Some((tag, body)) = self.frame()? {
                match tag {
                    COPY_DATA_TAG => return Ok(Some(body)),
                    COPY_DONE_TAG => return Err(unexpected("the end of its log")),
                    _ => {}
                }
            }
            if may_wait && !self.receive(wait)? {
                break;
            }
        }
        Ok(None)
    }

    /// Sends a message of a copy.
    pub(super) fn say(&mut self, message: &[u8]) -> Result<(), Failure> {
        let mut out = BytesMut::new();
        frontend::CopyData::new(message)?.write(&mut out);
        self.send(&out)
    }

    /// Takes the next message, if all of it is there.
    fn frame(&mut self) -> Result<Option<(u8, BytesMut)>, Failure> {
        let Some([tag, length @ ..]) = self.read.first_chunk::<5>() else { return Ok(None) };
        let (tag, length) = (*tag, u32::from_be_bytes(*length));
        if !(4..=FRAME_BYTES_MAX).contains(&length) {
            return Err(Failure::Refused(format!("the server sends a message of {length} bytes")));
        }
        let whole = 1 + length as usize;
        if self.read.len() < whole {
            return Ok(None);
        }
        if tag == ERROR_RESPONSE_TAG {
            return match Message::parse(&mut self.read)? {
                Some(Message::ErrorResponse(body)) => Err(said(&body)),
                _ => Err(unexpected("an error")),
            };
        }
        let mut frame = self.read.split_to(whole);
        Ok(Some((tag, frame.split_off(5))))
    }

    /// Reads what there is, or comes within `wait`; tells whether that was anything.
    fn receive(&mut self, wait: Duration) -> Result<bool, Failure> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        self.socket.set_read_timeout(wait)?;
        let mut piece = [0; READ_BYTES];
        match self.socket.read(&mut piece) {
            Ok(0) => Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
            Ok(length) => {
                self.read.extend_from_slice(&piece[..length]);
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.socket.write_all(bytes)?)
    }

    fn message(&mut self) -> Result<Message, Failure> {
        loop {
            if let Some(message) = Message::parse(&mut self.read)? {
                return Ok(message);
            }
            self.receive(LOOK_EVERY)?;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        // The server notices a closed connection as well, only later.
        _ = self.socket.write_all(&out);
    }
}

impl Socket {
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(timeout)),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

impl Failure {
    /// The SQLSTATE, if the server said one.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Server { code, .. } => code,
            _ => "",
        }
    }
}

/// Bytes of the server as text.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Writes a text as a literal.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''").replace('\\', "\\\\");
    // The E form means the same whatever `standard_conforming_strings` says.
    format!("E'{quoted}'")
}

fn fallible_next<I: fallible_iterator::FallibleIterator<Error = io::Error>>(
    iterator: &mut I,
) -> io::Result<Option<I::Item>> {
    iterator.next()
}

fn unexpected(what: &str) -> Failure {
    Failure::Refused(format!("the server sent {what} out of turn"))
}

/// What the server said, in one line.
fn said(body: &ErrorResponseBody) -> Failure {
    let (mut code, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fallible_next(&mut fields) {
        let value = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'C' => code = value.into_owned(),
            b'M' => message = value.into_owned(),
            b'D' | b'H' => message += &format!(" ({})", value.replace('\n', " ")),
            _ => {}
        }
    }
    Failure::Server { code, message }
}
