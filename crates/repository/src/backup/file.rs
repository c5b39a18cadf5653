//! Reading one file: whole when it is small, chunk by chunk when it is not.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::chunker::{Chunker, ZERO_RUN_BYTES};
use crate::event::Change;
use crate::format::{BlobKind, Node, NodeKind};
use crate::writer::Saved;
use crate::{Error, Id, Result, Sealer};

use super::ProblemKind;
use super::node::{self, Metadata};
use super::tree::Place;
use super::walk::{Run, Task, Worker};

/// A file that is to be read.
pub(super) struct FileTask {
    pub place: Place,
    /// The directory that holds it.
    pub upper: Arc<OwnedFd>,
    pub name: Box<[u8]>,
    /// Its path, when that is not what its place says: a target of its own.
    pub path: Option<PathBuf>,
    pub metadata: Metadata,
    pub change: Change,
}

impl FileTask {
    fn path(&self) -> PathBuf {
        let listed = || self.place.directory.path.join(OsStr::from_bytes(&self.name));
        self.path.clone().unwrap_or_else(listed)
    }

    fn open(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        // A target may have another name in the snapshot than here.
        let here = self.path.as_deref().and_then(Path::file_name);
        let name = here.unwrap_or(OsStr::from_bytes(&self.name));
        rustix::fs::openat(&self.upper, name, flags, Mode::empty())
    }
}

/// A chunk that another worker than the reader saves.
pub(super) struct ChunkTask {
    file: Arc<PendingFile>,
    position: usize,
    data: Vec<u8>,
}

/// A file whose chunks are being saved.
struct PendingFile {
    path: PathBuf,
    place: Place,
    change: Change,
    /// Set by the reader when it has read everything.
    node: Mutex<Option<Node>>,
    content: Mutex<Vec<Option<Id>>>,
    /// Chunks not saved yet, and the reader.
    waiting: AtomicUsize,
}

/// The chunk that runs of zeros are cut into.
pub(super) struct ZeroChunk {
    id: Id,
    data: Vec<u8>,
}

impl ZeroChunk {
    /// Of the length that restic's restore recognises, or of one block: a hole must not move what is behind it.
    pub fn of(chunker: &Chunker) -> Self {
        let bytes = if let Chunker::Fixed(blocks) = chunker { blocks.bytes() } else { ZERO_RUN_BYTES };
        let data = vec![0; bytes];
        Self { id: Id::of(&data), data }
    }
}

/// How much is read at once.
const READ_BYTES: usize = 2 << 20;
/// Bytes of chunks that may wait for another worker; beyond, the reader saves its chunks itself.
const HANDED_BYTES_MAX: usize = 16 << 20;

impl Run<'_> {
    /// Reads a file and saves what is new of it.
    pub(super) fn file(&self, worker: &mut Worker, task: &FileTask) -> Result<()> {
        let (file, before) = match self.open_file(task) {
            Ok(opened) => opened,
            Err(error) => return self.lost(worker, task, error),
        };
        if before.size <= self.small_file_bytes_max {
            self.small_file(worker, task, &file, &before)
        } else {
            self.large_file(worker, task, &file, &before)
        }
    }

    fn open_file(&self, task: &FileTask) -> rustix::io::Result<(OwnedFd, Metadata)> {
        // Non-blocking: what was a file a moment ago may be a pipe now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match task.open(flags | OFlags::NOATIME) {
            // Only owners may read without leaving a trace.
            Err(Errno::PERM) => task.open(flags)?,
            other => other?,
        };
        // Small files are compared with what the listing showed; one look after reading is enough for them.
        if task.metadata.size <= self.small_file_bytes_max {
            return Ok((file, task.metadata));
        }
        let metadata = node::look(&file, OsStr::new(""))?;
        Ok((file, metadata))
    }

    fn lost(&self, worker: &mut Worker, task: &FileTask, error: Errno) -> Result<()> {
        let kind = if error == Errno::NOENT { ProblemKind::Vanished } else { ProblemKind::Unreadable };
        self.problem(task.path(), kind, &std::io::Error::from(error));
        self.complete(&mut worker.sealer, &task.place, None)
    }

    fn small_file(
        &self,
        worker: &mut Worker,
        task: &FileTask,
        file: &OwnedFd,
        before: &Metadata,
    ) -> Result<()> {
        let mut data = std::mem::take(&mut worker.buffer);
        data.clear();
        let read = read_up_to(file, before.size as usize, &mut data);
        let result = match read.and_then(|()| node::look(file, OsStr::new(""))) {
            Err(error) => self.lost(worker, task, error),
            // Replaced or grown beyond one chunk since it was listed.
            Ok(after) if after.kind == NodeKind::File && after.size > self.small_file_bytes_max => {
                match rustix::fs::seek(file, SeekFrom::Start(0)) {
                    Ok(_) => self.large_file(worker, task, file, &after),
                    Err(error) => self.lost(worker, task, error),
                }
            }
            Ok(after) => {
                let content = match data.as_slice() {
                    [] => Vec::new(),
                    data => vec![self.save_chunk(&mut worker.sealer, data)?],
                };
                let node = self.file_node(task, file, before, &after, data.len() as u64);
                let node = node.map(|node| Node { content: Some(content), ..node });
                let path = task.path();
                self.save_file(&mut worker.sealer, &path, &task.place, task.change, node)
            }
        };
        worker.buffer = data;
        result
    }

    fn large_file(
        &self,
        worker: &mut Worker,
        task: &FileTask,
        file: &OwnedFd,
        before: &Metadata,
    ) -> Result<()> {
        let pending = self.begin_file(task.path(), task.place.clone(), task.change);
        let has_holes = before.allocated < before.size;
        match self.read_chunks(worker, &pending, &self.chunker, &mut FileBytes { file, has_holes }) {
            Err(ReadError::Source(error)) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                // Chunks handed to others refer to a file that will never be finished.
                return self.lost(worker, task, errno);
            }
            Err(ReadError::Repository(error)) => return Err(error),
            Ok(bytes) => match node::look(file, OsStr::new("")) {
                Err(error) => return self.lost(worker, task, error),
                Ok(after) => {
                    let node = self.file_node(task, file, before, &after, bytes);
                    *pending.node.lock().expect("no holder panics") = node;
                }
            },
        }
        self.chunk_saved(&mut worker.sealer, &pending)
    }

    /// Makes the node of a file that was read, and tells when it changed meanwhile.
    fn file_node(
        &self,
        task: &FileTask,
        file: &OwnedFd,
        before: &Metadata,
        after: &Metadata,
        bytes: u64,
    ) -> Option<Node> {
        if after.kind != NodeKind::File {
            self.problem(task.path(), ProblemKind::Unreadable, &"it is no longer a regular file");
            return None;
        }
        if !before.same_content(after) || bytes != after.size {
            self.problem(task.path(), ProblemKind::Changed, &"it changed while it was read");
        }
        let mut node = before.node(&task.name, self.users(), self.options.with_atime);
        node.size = bytes;
        match node::xattrs_of_file(file) {
            Ok(xattrs) => node.xattrs = xattrs,
            Err(error) => self.problem_reading_xattrs(task.path(), error),
        }
        Some(node)
    }

    /// Reads a stream into chunks; the node gets the content when the last chunk is saved.
    pub(super) fn stream_file(
        &self,
        worker: &mut Worker,
        place: Place,
        node: Node,
        path: PathBuf,
        chunker: &Chunker,
        reader: &mut dyn Read,
    ) -> std::result::Result<(), ReadError> {
        let was_there = place.directory.earlier(&node.name).any(|before| before.kind == NodeKind::File);
        let change = if was_there { Change::Changed } else { Change::New };
        let pending = self.begin_file(path, place, change);
        let bytes = self.read_chunks(worker, &pending, chunker, &mut StreamBytes(reader))?;
        *pending.node.lock().expect("no holder panics") = Some(Node { size: bytes, ..node });
        self.chunk_saved(&mut worker.sealer, &pending).map_err(ReadError::Repository)
    }

    fn begin_file(&self, path: PathBuf, place: Place, change: Change) -> Arc<PendingFile> {
        let (node, content) = (Mutex::new(None), Mutex::new(Vec::new()));
        Arc::new(PendingFile { path, place, change, node, content, waiting: AtomicUsize::new(1) })
    }

    /// Cuts everything that `source` gives into chunks and saves them; returns the number of bytes.
    fn read_chunks(
        &self,
        worker: &mut Worker,
        file: &Arc<PendingFile>,
        chunker: &Chunker,
        source: &mut dyn ByteSource,
    ) -> std::result::Result<u64, ReadError> {
        let mut buffer = std::mem::take(&mut worker.buffer);
        buffer.clear();
        let mut reading = Reading { start: 0, ended: false, total: 0, position: 0 };
        let result = self.read_chunks_with(worker, file, chunker, source, &mut buffer, &mut reading);
        worker.buffer = buffer;
        result.map(|()| reading.total)
    }

    fn read_chunks_with(
        &self,
        worker: &mut Worker,
        file: &Arc<PendingFile>,
        chunker: &Chunker,
        source: &mut dyn ByteSource,
        buffer: &mut Vec<u8>,
        reading: &mut Reading,
    ) -> std::result::Result<(), ReadError> {
        loop {
            self.context.check().map_err(ReadError::Repository)?;
            if buffer.len() == reading.start && !reading.ended {
                let zeros = source.skip_zeros(self.zeros.data.len()).map_err(ReadError::Source)?;
                for _ in 0..zeros {
                    self.save_zero_chunk(worker, file, reading).map_err(ReadError::Repository)?;
                }
            }
            match chunker.next_cut(&buffer[reading.start..], reading.ended) {
                Some(length) => {
                    let chunk = &buffer[reading.start..reading.start + length];
                    self.take_chunk(worker, file, reading.position, chunk).map_err(ReadError::Repository)?;
                    reading.advance(length);
                }
                None if reading.ended => return Ok(()),
                None => {
                    reading.refill(buffer, source, chunker).map_err(ReadError::Source)?;
                }
            }
        }
    }

    fn take_chunk(
        &self,
        worker: &mut Worker,
        file: &Arc<PendingFile>,
        position: usize,
        chunk: &[u8],
    ) -> Result<()> {
        file.waiting.fetch_add(1, Ordering::Relaxed);
        let handed = self.handed_bytes.fetch_add(chunk.len(), Ordering::Relaxed);
        if self.threads > 1 && handed + chunk.len() <= HANDED_BYTES_MAX {
            let task = ChunkTask { file: Arc::clone(file), position, data: chunk.to_vec() };
            self.pool.push([Task::Chunk(task)]);
            return Ok(());
        }
        self.handed_bytes.fetch_sub(chunk.len(), Ordering::Relaxed);
        let id = self.save_chunk(&mut worker.sealer, chunk)?;
        file.set(position, id);
        self.chunk_saved(&mut worker.sealer, file)
    }

    fn save_zero_chunk(
        &self,
        worker: &mut Worker,
        file: &Arc<PendingFile>,
        reading: &mut Reading,
    ) -> Result<()> {
        file.waiting.fetch_add(1, Ordering::Relaxed);
        let ZeroChunk { id, data } = &self.zeros;
        self.writer.save(&mut worker.sealer, BlobKind::Data, *id, data)?;
        self.advance(0, data.len() as u64);
        file.set(reading.position, *id);
        reading.position += 1;
        reading.total += data.len() as u64;
        self.chunk_saved(&mut worker.sealer, file)
    }

    /// Saves a chunk that a reader handed over.
    pub(super) fn chunk(&self, worker: &mut Worker, task: ChunkTask) -> Result<()> {
        let ChunkTask { file, position, data } = task;
        let id = self.save_chunk(&mut worker.sealer, &data);
        self.handed_bytes.fetch_sub(data.len(), Ordering::Relaxed);
        file.set(position, id?);
        self.chunk_saved(&mut worker.sealer, &file)
    }

    fn save_chunk(&self, sealer: &mut Sealer, data: &[u8]) -> Result<Id> {
        let ZeroChunk { id, data: zeros } = &self.zeros;
        let id = if data.len() == zeros.len() && is_zero(data) { *id } else { Id::of(data) };
        if let Saved::New(_) = self.writer.save(sealer, BlobKind::Data, id, data)? {
            self.context.check()?;
        }
        self.advance(0, data.len() as u64);
        Ok(id)
    }

    /// Counts one of the things that a file waits for as done, and completes the file with the last.
    fn chunk_saved(&self, sealer: &mut Sealer, file: &PendingFile) -> Result<()> {
        if file.waiting.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let node = file.node.lock().expect("no holder panics").take();
        let content = std::mem::take(&mut *file.content.lock().expect("no holder panics"));
        let content = content.into_iter().map(|id| id.expect("every chunk of the file is saved")).collect();
        let node = node.map(|node| Node { content: Some(content), ..node });
        self.save_file(sealer, &file.path, &file.place, file.change, node)
    }

    fn save_file(
        &self,
        sealer: &mut Sealer,
        path: &Path,
        place: &Place,
        change: Change,
        node: Option<Node>,
    ) -> Result<()> {
        if let Some(node) = &node {
            self.file_done(path, place.member, node, change);
        }
        self.complete(sealer, place, node)
    }
}

impl PendingFile {
    fn set(&self, position: usize, id: Id) {
        let mut content = self.content.lock().expect("no holder panics");
        if content.len() <= position {
            content.resize(position + 1, None);
        }
        content[position] = Some(id);
    }
}

/// Why a file could not be taken in.
pub(super) enum ReadError {
    /// The file itself: the backup goes on without it.
    Source(std::io::Error),
    /// The repository or the caller: the backup is over.
    Repository(Error),
}

/// How far a file is read.
struct Reading {
    /// Where in the buffer the next chunk begins.
    start: usize,
    ended: bool,
    total: u64,
    position: usize,
}

impl Reading {
    fn advance(&mut self, length: usize) {
        self.start += length;
        self.total += length as u64;
        self.position += 1;
    }

    /// Moves what is left to the front and reads until the longest chunk must be in the buffer.
    fn refill(
        &mut self,
        buffer: &mut Vec<u8>,
        source: &mut dyn ByteSource,
        chunker: &Chunker,
    ) -> std::io::Result<()> {
        buffer.copy_within(self.start.., 0);
        buffer.truncate(buffer.len() - self.start);
        self.start = 0;
        let enough = chunker.max_bytes() + READ_BYTES;
        buffer.reserve_exact(enough.saturating_sub(buffer.len()));
        while buffer.len() < chunker.max_bytes() && !self.ended {
            self.ended = source.read_more(buffer)? == 0;
        }
        Ok(())
    }
}

/// Gives the bytes of a file in order.
trait ByteSource {
    /// Appends what it can read at once to `buffer`; 0 at the end.
    fn read_more(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<usize>;

    /// Passes over whole chunks of `chunk_bytes` zeros that need not be read, and returns how many.
    fn skip_zeros(&mut self, chunk_bytes: usize) -> std::io::Result<u64>;
}

struct FileBytes<'a> {
    file: &'a OwnedFd,
    has_holes: bool,
}

impl ByteSource for FileBytes<'_> {
    fn read_more(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
        buffer.reserve(READ_BYTES);
        loop {
            match rustix::io::read(self.file, rustix::buffer::spare_capacity(buffer)) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn skip_zeros(&mut self, chunk_bytes: usize) -> std::io::Result<u64> {
        if !self.has_holes {
            return Ok(0);
        }
        let here = rustix::fs::tell(self.file)?;
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(here)) {
            Ok(data) => data,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => rustix::fs::seek(self.file, SeekFrom::End(0))?.max(here),
            // The file system cannot tell.
            Err(_) => {
                self.has_holes = false;
                here
            }
        };
        let chunks = (data - here) / chunk_bytes as u64;
        rustix::fs::seek(self.file, SeekFrom::Start(here + chunks * chunk_bytes as u64))?;
        Ok(chunks)
    }
}

struct StreamBytes<'a>(&'a mut dyn Read);

impl ByteSource for StreamBytes<'_> {
    fn read_more(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
        // All that is wanted at once, which a reader may fill without a copy between; `read_to_end` asks for less.
        let start = buffer.len();
        buffer.resize(start + READ_BYTES, 0);
        let (mut end, mut result) = (start, Ok(()));
        while end < buffer.len() {
            match self.0.read(&mut buffer[end..]) {
                Ok(0) => break,
                Ok(more) => end += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        buffer.truncate(end);
        result.map(|()| end - start)
    }

    fn skip_zeros(&mut self, _chunk_bytes: usize) -> std::io::Result<u64> {
        Ok(0)
    }
}

/// Reads a small file of the expected size; one byte more would show that it has grown.
fn read_up_to(file: impl AsFd, expected: usize, data: &mut Vec<u8>) -> rustix::io::Result<()> {
    data.reserve(expected + 1);
    loop {
        match rustix::io::read(&file, rustix::buffer::spare_capacity(data)) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(0) => return Ok(()),
            // The look that follows tells whether this was all.
            Ok(_) if data.len() >= expected => return Ok(()),
            Ok(_) => {}
        }
    }
}

fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}
