//! A connection that ends with its deadline, however the other side behaves.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::check::answer::{Deadline, Over};

/// How long a read or write blocks before the flag is looked at again.
const SLICE_MAX: Duration = Duration::from_millis(100);

/// Reads and writes until the deadline; past it every operation fails with [`Over`] inside the error.
pub(in crate::check) struct Wire<'a> {
    stream: TcpStream,
    deadline: Deadline<'a>,
}

impl<'a> Wire<'a> {
    pub(in crate::check) fn new(stream: TcpStream, deadline: Deadline<'a>) -> Wire<'a> {
        Wire { stream, deadline }
    }

    /// Tries until something was done, an error that is not about time came, or time is over.
    fn insist<T>(&mut self, mut attempt: impl FnMut(&mut TcpStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            let slice = self.deadline.left().map_err(over)?.min(SLICE_MAX);
            self.stream.set_read_timeout(Some(slice))?;
            self.stream.set_write_timeout(Some(slice))?;
            match attempt(&mut self.stream) {
                Err(error) if is_about_time(&error) => {}
                done => return done,
            }
        }
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.insist(|stream| stream.read(buffer))
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.insist(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Finds out whether an error of a [`Wire`], also one that went through TLS, says that time is over.
pub(in crate::check) fn over_in(error: &io::Error) -> Option<Over> {
    error.get_ref()?.downcast_ref::<Over>().copied()
}

fn over(over: Over) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, over)
}

fn is_about_time(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
