//! The file of a journal: making, locking, appending durably, reading.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::format::{Sum, header, line, parse};
use super::{JournalError, Parsed, Replayed};
use crate::event::Entry;
use crate::state::State;

/// Where lines go. Given by tests to break things; otherwise it is the file.
pub trait Sink: Send {
    /// Appends the bytes durably: when it returns `Ok`, they survive a power cut. After an `Err` nothing more is
    /// appended by this process, because what is there is not known.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A journal to which this process, and no other, can append.
pub struct Journal {
    sink: Box<dyn Sink>,
    path: PathBuf,
    run: String,
    entries: Vec<Entry>,
    sum: Sum,
    broken: bool,
}

impl Journal {
    /// Makes the journal of a new run and locks it. The directory is made if need be.
    ///
    /// Order of writes: the file, locked; its first line, synced; the directory, synced. A crash in between leaves a
    /// journal that holds no run, which is an error when it is opened and harmless otherwise.
    pub fn create(path: &Path, run: &str) -> Result<Self, JournalError> {
        let failed = |verb, source| JournalError::Io { verb, path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        fs::create_dir_all(folder).map_err(|error| failed("make the folder of", error))?;
        let opened = OpenOptions::new().append(true).create_new(true).open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(JournalError::Exists(path.to_owned()));
            }
            other => other.map_err(|error| failed("make", error))?,
        };
        lock(&file, path)?;
        let mut journal = Self::onto(Box::new(file), run)?;
        path.clone_into(&mut journal.path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failed("sync the folder of", error))?;
        Ok(journal)
    }

    /// Makes the journal of a new run in a sink that is empty and that nobody else writes to.
    pub fn onto(mut sink: Box<dyn Sink>, run: &str) -> Result<Self, JournalError> {
        let (text, sum) = header(run);
        let path = PathBuf::from(run);
        match sink.append(text.as_bytes()) {
            Err(source) => Err(JournalError::Io { verb: "append to", path, source }),
            Ok(()) => Ok(Self { sink, path, run: run.to_owned(), entries: Vec::new(), sum, broken: false }),
        }
    }

    /// Opens the journal of a run that was begun, locks it, and cuts off what was never acknowledged.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |verb, source| JournalError::Io { verb, path: path.to_owned(), source };
        let file = OpenOptions::new().append(true).open(path).map_err(|error| failed("open", error))?;
        lock(&file, path)?;
        let bytes = fs::read(path).map_err(|error| failed("read", error))?;
        let parsed = parse(&bytes)?;
        if parsed.torn {
            let length = u64::try_from(parsed.whole_bytes).expect("a length in memory fits 64 bits");
            file.set_len(length)
                .and_then(|()| file.sync_all())
                .map_err(|error| failed("cut the torn end off", error))?;
        }
        let mut journal = Self::continued(Box::new(file), parsed);
        path.clone_into(&mut journal.path);
        Ok(journal)
    }

    /// Continues a journal that was read from elsewhere; the sink must hold exactly what was whole.
    pub fn continued(sink: Box<dyn Sink>, parsed: Parsed) -> Self {
        let Parsed { run, entries, sum, .. } = parsed;
        Self { sink, path: PathBuf::from(&run), run, entries, sum, broken: false }
    }

    /// The run's id.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// What the journal held when it was opened.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Appends an entry durably, and returns its line.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<String, JournalError> {
        let failed = |source| JournalError::Io { verb: "append to", path: self.path.clone(), source };
        if self.broken {
            return Err(failed(io::Error::other("an earlier append failed")));
        }
        let (text, sum) = line(&self.sum, entry);
        if let Err(error) = self.sink.append(text.as_bytes()) {
            self.broken = true;
            return Err(failed(error));
        }
        self.sum = sum;
        Ok(text)
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Journal")
            .field("run", &self.run)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Sink for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        self.sync_data()
    }
}

/// Reads the journal of a run, which another process may be writing at the same time.
pub fn read(path: &Path) -> Result<Replayed, JournalError> {
    let bytes =
        fs::read(path).map_err(|source| JournalError::Io { verb: "read", path: path.to_owned(), source })?;
    let Parsed { run, entries, torn, .. } = parse(&bytes)?;
    if entries.is_empty() {
        return Err(JournalError::Empty);
    }
    let state = State::replay(&entries)?;
    same_run(&run, &state)?;
    Ok(Replayed { state, entries, torn })
}

/// Tells whether a process holds the lock of a journal: whether somebody is at the run. One that cannot be opened is held by
/// nobody.
pub fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// The first line and the first entry must be of one run.
pub(crate) fn same_run(run: &str, state: &State) -> Result<(), JournalError> {
    if state.run() == run {
        return Ok(());
    }
    let why = format!("it is in the journal of run {run}, and says that it is of {}", state.run());
    Err(JournalError::Damaged { line: 2, why })
}

fn lock(file: &File, path: &Path) -> Result<(), JournalError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::Locked(path.to_owned())),
        Err(error) => {
            Err(JournalError::Io { verb: "lock", path: path.to_owned(), source: io::Error::from(error) })
        }
        Ok(()) => Ok(()),
    }
}
