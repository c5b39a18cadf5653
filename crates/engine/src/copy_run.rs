//! The copy of a run's journal in the repository, which grows while the run goes on.
//!
//! Each object holds whole lines of the journal and is named by the bytes of the file that it holds:
//! `runs/RUN/<first>-<end>`. A repository that is away delays the copy and never the run; what is missing is
//! copied later from the file.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use repository::Repository;

use crate::{Error, Result};

/// How often the copy follows the journal: often enough to be of use after a crash, seldom enough to cost nothing.
const EVERY: Duration = Duration::from_secs(2);
/// One object holds at most so much of a journal.
const PART_BYTES_MAX: u64 = 8 << 20;

/// Follows one journal.
pub(crate) struct CopyRun<'a> {
    repository: &'a Repository,
    run: String,
    journal: PathBuf,
    copied: Mutex<Option<u64>>,
}

impl<'a> CopyRun<'a> {
    pub fn new(repository: &'a Repository, run: &str, journal: PathBuf) -> Self {
        Self { repository, run: run.to_owned(), journal, copied: Mutex::new(None) }
    }

    /// Copies now and then until `stop` is dropped; trouble is left to [`catch_up`](Self::catch_up) at the end.
    pub fn follow(&self, stop: &Receiver<()>) {
        while stop.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            let _later = self.catch_up();
        }
    }

    /// Copies what is not copied yet.
    pub fn catch_up(&self) -> Result<()> {
        let mut copied = self.copied.lock().expect("nobody panics while copying");
        let mut from = match *copied {
            Some(bytes) => bytes,
            None => parts(self.repository, &self.run)?.last().map_or(0, |part| part.end),
        };
        loop {
            let lines = self.lines(from)?;
            if lines.is_empty() {
                *copied = Some(from);
                return Ok(());
            }
            let end = from + lines.len() as u64;
            self.repository.sidecar_create(&name(&self.run, from, end), &lines)?;
            from = end;
            *copied = Some(from);
        }
    }

    /// Whole lines of the journal from that byte on, as many as one object holds.
    fn lines(&self, from: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(&self.journal)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(from))?;
                file.take(PART_BYTES_MAX).read_to_end(&mut bytes)
            })
            .map_err(Error::io("read", &self.journal))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        bytes.truncate(whole);
        Ok(bytes)
    }
}

/// One object of a copy.
pub(crate) struct Part {
    pub name: String,
    pub begin: u64,
    pub end: u64,
}

/// The objects of a run's copy, in order.
pub(crate) fn parts(repository: &Repository, run: &str) -> Result<Vec<Part>> {
    let listed = repository.sidecar_list(&format!("{}/{run}", crate::runs::DIRECTORY))?;
    let mut parts: Vec<Part> = listed
        .into_iter()
        .filter_map(|(name, _)| {
            let (begin, end) = name.rsplit('/').next()?.split_once('-')?;
            let (begin, end) = (begin.parse().ok()?, end.parse().ok()?);
            Some(Part { name, begin, end })
        })
        .collect();
    parts.sort_by_key(|part| part.begin);
    Ok(parts)
}

/// Puts a run's journal together from its copy; `None` when there is no copy.
///
/// Fails when a part is missing or cannot be read.
pub(crate) fn whole(repository: &Repository, run: &str) -> Result<Option<Vec<u8>>> {
    let parts = parts(repository, run)?;
    if parts.is_empty() {
        return Ok(None);
    }
    let names: Vec<String> = parts.iter().map(|part| part.name.clone()).collect();
    let mut text = Vec::new();
    for (part, read) in parts.iter().zip(repository.sidecar_read_many(&names)) {
        let missing = || Error::damaged(&part.name, "a part of the journal's copy is missing before or here");
        if part.begin != text.len() as u64 {
            return Err(missing());
        }
        text.extend(read?.ok_or_else(missing)?);
    }
    Ok(Some(text))
}

fn name(run: &str, begin: u64, end: u64) -> String {
    format!("{}/{run}/{begin:012}-{end:012}", crate::runs::DIRECTORY)
}
