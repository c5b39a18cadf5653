//! One request and its response over a connection: HTTP/1.1, as much of it as a check needs.
//!
//! The framing rules are those of RFC 9112, section 6.3. Everything that is read is bounded: the head by
//! [`HEAD_BYTES_MAX`], the body by [`BODY_BYTES_MAX`], time by the connection itself.

use std::io::{self, Read, Write};

use crate::check::answer::Over;
use crate::check::http::wire::over_in;

/// A head of this size is no head; servers themselves allow 8 to 64 KiB.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Header fields of one head.
const HEADERS_MAX: usize = 128;

/// Interim responses (1xx) before the real one; a server has at most two reasons for them.
const INTERIM_MAX: usize = 8;

/// How much of a body a check reads; a longer one cannot be judged.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// All values of a field, as text.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        self.headers
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| String::from_utf8_lossy(value).trim().to_owned())
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Broken {
    Over(Over),
    /// The connection broke or ended.
    Io(io::Error),
    /// What came is not HTTP; says in which way.
    Garbage(String),
    /// The body is longer than a check reads.
    TooLong,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        over_in(&error).map_or(Broken::Io(error), Broken::Over)
    }
}

/// A response whose body has not been read yet.
pub(super) struct Response<S> {
    pub(super) head: Head,
    rest: Rest<S>,
    body: Body,
}

/// How the end of a body is told.
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Nothing,
    Length(u64),
    Chunked,
    UntilEnd,
}

/// Sends a request and reads the head of its response.
pub(super) fn exchange<S: Read + Write>(
    mut stream: S,
    method: &str,
    request: &[u8],
) -> Result<Response<S>, Broken> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut rest = Rest { stream, buffer: Vec::new(), at: 0 };
    for _ in 0..=INTERIM_MAX {
        let head = rest.head()?;
        if !(100..200).contains(&head.status) {
            let body = framing(&head, method)?;
            return Ok(Response { head, rest, body });
        }
    }
    Err(Broken::Garbage("interim responses without end".into()))
}

impl<S: Read> Response<S> {
    /// Reads the whole body, or says why it is not whole.
    pub(super) fn whole(mut self) -> Result<(Head, Vec<u8>), Broken> {
        let body = match self.body {
            Body::Nothing => Vec::new(),
            Body::Length(length) if length > BODY_BYTES_MAX as u64 => return Err(Broken::TooLong),
            Body::Length(length) => self.rest.exactly(length as usize)?,
            Body::Chunked => self.rest.chunks()?,
            Body::UntilEnd => self.rest.until_end()?,
        };
        Ok((self.head, body))
    }
}

fn framing(head: &Head, method: &str) -> Result<Body, Broken> {
    if method == "HEAD" || matches!(head.status, 204 | 304) {
        return Ok(Body::Nothing);
    }
    let codings: Vec<String> = head.values("transfer-encoding").collect();
    match codings.as_slice() {
        [] => {}
        [only] if only.eq_ignore_ascii_case("chunked") => return Ok(Body::Chunked),
        _ => return Err(Broken::Garbage(format!("an unknown transfer coding {:?}", codings.join(", ")))),
    }
    let mut lengths: Vec<String> = head.values("content-length").collect();
    lengths.dedup();
    match lengths.as_slice() {
        [] => Ok(Body::UntilEnd),
        [only] if !only.is_empty() && only.bytes().all(|byte| byte.is_ascii_digit()) => {
            // More digits than a u64 has are too long for any check.
            Ok(Body::Length(only.parse().unwrap_or(u64::MAX)))
        }
        _ => Err(Broken::Garbage(format!("a content length of {:?}", lengths.join(", ")))),
    }
}

/// What has been received and not been used yet, and where more comes from.
struct Rest<S> {
    stream: S,
    buffer: Vec<u8>,
    at: usize,
}

impl<S: Read> Rest<S> {
    fn head(&mut self) -> Result<Head, Broken> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut response = httparse::Response::new(&mut fields);
            let parsed = response
                .parse(&self.buffer[self.at..])
                .map_err(|error| Broken::Garbage(format!("{error}: {:?}", self.beginning())))?;
            if let httparse::Status::Complete(length) = parsed {
                let status = response.code.expect("a complete head has a status");
                let owned = |field: &httparse::Header<'_>| (field.name.to_owned(), field.value.to_vec());
                let headers = response.headers.iter().map(owned).collect();
                self.at += length;
                return Ok(Head { status, headers });
            }
            if self.buffer.len() - self.at > HEAD_BYTES_MAX {
                return Err(Broken::Garbage(format!("a head of more than {HEAD_BYTES_MAX} bytes")));
            }
            self.more()?;
        }
    }

    /// The first of what came, for a message; binary is shown as such.
    fn beginning(&self) -> String {
        let bytes = &self.buffer[self.at..];
        String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned()
    }

    /// Receives at least one byte.
    fn more(&mut self) -> Result<(), Broken> {
        match self.receive()? {
            0 => Err(Broken::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    fn receive(&mut self) -> Result<usize, Broken> {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Broken> {
        while self.buffer.len() - self.at < length {
            self.more()?;
        }
        let bytes = self.buffer[self.at..self.at + length].to_vec();
        self.at += length;
        Ok(bytes)
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        loop {
            let size = self.chunk_size()?;
            if size == 0 {
                return Ok(body);
            }
            if size > (BODY_BYTES_MAX - body.len()) as u64 {
                return Err(Broken::TooLong);
            }
            body.extend(self.exactly(size as usize)?);
            if self.exactly(2)? != b"\r\n" {
                return Err(Broken::Garbage("a chunk that is longer than it says".into()));
            }
            // What has been used is let go, so that memory is bounded by one chunk and the body.
            self.buffer.drain(..self.at);
            self.at = 0;
        }
    }

    fn chunk_size(&mut self) -> Result<u64, Broken> {
        loop {
            match httparse::parse_chunk_size(&self.buffer[self.at..]) {
                Ok(httparse::Status::Complete((length, size))) => {
                    self.at += length;
                    return Ok(size);
                }
                Ok(httparse::Status::Partial) if self.buffer.len() - self.at > HEAD_BYTES_MAX => {
                    return Err(Broken::Garbage("a chunk size without end".into()));
                }
                Ok(httparse::Status::Partial) => self.more()?,
                Err(error) => return Err(Broken::Garbage(error.to_string())),
            }
        }
    }

    fn until_end(mut self) -> Result<Vec<u8>, Broken> {
        loop {
            if self.buffer.len() - self.at > BODY_BYTES_MAX {
                return Err(Broken::TooLong);
            }
            match self.receive() {
                Ok(0) => return Ok(self.buffer.split_off(self.at)),
                // TLS without a farewell, which half of all servers omit.
                Err(Broken::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(self.buffer.split_off(self.at));
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
