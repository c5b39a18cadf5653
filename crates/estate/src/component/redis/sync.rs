//! Asking a server for a dump as a replica does: one fork of the server, and nothing on its disk that must be read.
//!
//! The server says how long the dump is, or sends a mark of 40 bytes that stands behind it; from version 7 on it ends
//! there, because only the dump was asked for. `redis-cli --rdb` does the same and leaves the mark in the
//! file, or old bytes behind it: here the reader of the dump must end where the server says it ends.

use std::io::{self, Read};

use super::connection::{Connection, Failure};

const MARK_BYTES: usize = 40;
const READ_BYTES: usize = 64 << 10;

/// A dump as it comes; its end is the end of this stream.
pub(super) struct Incoming {
    connection: Connection,
    end: End,
    /// What has come and was not read yet; the mark may be its end.
    held: Vec<u8>,
    given: usize,
    /// The last failure, which a reader knows only as words.
    interrupted: bool,
}

enum End {
    /// After so many bytes.
    After(u64),
    /// Where this comes.
    At([u8; MARK_BYTES]),
    /// It has come.
    Seen,
}

/// Asks for a dump and waits until it begins to come, which takes as long as the server needs to begin one.
pub(super) fn begin(mut connection: Connection) -> Result<Incoming, Failure> {
    // A server that does not know one of these does without it.
    for option in [["REPLCONF", "rdb-only", "1"], ["REPLCONF", "capa", "eof"]] {
        match connection.ask(&option) {
            Ok(_) => {}
            Err(Failure::Server(said)) if !said.starts_with("NO") => {}
            Err(failure) => return Err(failure),
        }
    }
    connection.send(&["PSYNC", "?", "-1"])?;
    // Empty lines say that the server is alive.
    let mut line = || loop {
        let line = connection.line()?;
        if let Some(said) = line.strip_prefix(b"-") {
            return Err(Failure::Server(String::from_utf8_lossy(said).into_owned()));
        }
        if !line.is_empty() {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
    };
    let first = line()?;
    if !first.starts_with("+FULLRESYNC ") {
        return Err(Failure::Strange(format!("the server answered {first:?} to PSYNC")));
    }
    let second = line()?;
    let end = end(&second).ok_or_else(|| {
        Failure::Strange(format!("the server announced a dump with {second:?}, which says no length"))
    })?;
    Ok(Incoming { connection, end, held: Vec::new(), given: 0, interrupted: false })
}

fn end(line: &str) -> Option<End> {
    let rest = line.strip_prefix('$')?;
    match rest.strip_prefix("EOF:") {
        Some(mark) => Some(End::At(mark.as_bytes().try_into().ok()?)),
        None => Some(End::After(rest.parse().ok()?)),
    }
}

impl Incoming {
    /// Tells whether the last read failed because the caller asked to stop.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.connection.stream(into) {
            Ok(0) => {
                let why = "the server closed the connection before the end of its dump";
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
            }
            Ok(count) => Ok(count),
            Err(failure) => {
                self.interrupted = matches!(failure, Failure::Interrupted);
                Err(io::Error::other(failure.to_string()))
            }
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let End::After(left) = self.end {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            if most == 0 {
                return Ok(0);
            }
            let count = self.receive(&mut buffer[..most])?;
            self.end = End::After(left - count as u64);
            return Ok(count);
        }
        loop {
            // What may be the mark is held back until it is known that it is not.
            let kept = if matches!(self.end, End::Seen) { 0 } else { MARK_BYTES };
            let ready = (self.held.len() - self.given).saturating_sub(kept);
            if ready > 0 {
                let count = ready.min(buffer.len());
                buffer[..count].copy_from_slice(&self.held[self.given..self.given + count]);
                self.given += count;
                return Ok(count);
            }
            let End::At(mark) = self.end else { return Ok(0) };
            self.held.drain(..self.given);
            self.given = 0;
            let mut piece = vec![0; READ_BYTES];
            let count = self.receive(&mut piece)?;
            self.held.extend_from_slice(&piece[..count]);
            if self.held.ends_with(&mark) {
                self.held.truncate(self.held.len() - MARK_BYTES);
                self.end = End::Seen;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_understood() {
        assert!(matches!(end("$176"), Some(End::After(176))));
        let mark = "0123456789abcdef0123456789abcdef01234567";
        assert!(matches!(end(&format!("$EOF:{mark}")), Some(End::At(found)) if found == mark.as_bytes()));
        for wrong in ["$", "$EOF:", "$EOF:short", "+OK", "$-1"] {
            assert!(end(wrong).is_none(), "{wrong}");
        }
    }
}
