//! Telling whether the streams of a capture were read to their ends.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many streams of a capture have not been read to their ends.
pub(in crate::component) type Unread = Arc<AtomicUsize>;

/// A stream of known length that tells when all of it was read.
pub(in crate::component) struct Whole<R> {
    inner: R,
    left: u64,
    unread: Unread,
}

impl<R: Read> Whole<R> {
    /// Counts as unread from now until `bytes` have come.
    pub(in crate::component) fn new(inner: R, bytes: u64, unread: &Unread) -> Self {
        unread.fetch_add(usize::from(bytes > 0), Ordering::AcqRel);
        Self { inner, left: bytes, unread: Arc::clone(unread) }
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if self.left > 0 {
            self.left = self.left.saturating_sub(count as u64);
            if self.left == 0 {
                self.unread.fetch_sub(1, Ordering::AcqRel);
            } else if count == 0 && !buffer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(count)
    }
}

/// A stream of unknown length that tells when its end was seen.
pub(in crate::component) struct Ended<R> {
    inner: R,
    unread: Option<Unread>,
}

impl<R: Read> Ended<R> {
    /// Counts as unread already, because it is opened late: see [`expect`].
    pub(in crate::component) fn new(inner: R, unread: Unread) -> Self {
        Self { inner, unread: Some(unread) }
    }
}

/// Counts one more stream as unread, to be opened as [`Ended`].
pub(in crate::component) fn expect(unread: &Unread) -> Unread {
    unread.fetch_add(1, Ordering::AcqRel);
    Arc::clone(unread)
}

/// Takes back what [`expect`] counted: the content is had from elsewhere.
pub(in crate::component) fn taken(unread: &Unread) {
    unread.fetch_sub(1, Ordering::AcqRel);
}

impl<R: Read> Read for Ended<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0
            && !buffer.is_empty()
            && let Some(unread) = self.unread.take()
        {
            unread.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(count)
    }
}

impl<R> Whole<R> {
    /// The same, read from somewhere else.
    pub(in crate::component) fn with<S>(self, inner: S) -> Whole<S> {
        Whole { inner, left: self.left, unread: self.unread }
    }
}
