//! Fetching: packs in long ranges by some threads, blobs opened and handed to the writer by others.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::format::BlobKind;
use crate::{BlobReader, Error, FileKind, Location, Opener, Result};

use super::content::Writer;
use super::execute::{Run, is_fatal};
use super::work::Outcome;

/// Bytes that are fetched at a time, unless one blob alone is longer.
const RANGE_BYTES: u64 = 4 << 20;
/// Bytes between two blobs that are rather read through than made two requests of.
const GAP_BYTES: u64 = 1 << 20;
/// Fetching threads for a store that likes many; each holds one range.
const FETCHERS_MAX: usize = 16;

/// A range of one pack and the pieces whose blobs lie in it.
struct Range {
    pack: u32,
    start: u64,
    end: u64,
    uses: std::ops::Range<usize>,
}

/// A range on its way from a fetcher to a worker.
struct Fetched<'r> {
    range: &'r Range,
    bytes: std::result::Result<Vec<u8>, Error>,
}

/// Fetches and writes the pieces `uses`, which are in the order of packs and offsets.
pub(super) fn fetch_all(run: &Run<'_>, writer: &Writer<'_>, uses: &[u32]) -> Result<()> {
    let ranges = ranges(run, uses);
    let outcome = Outcome::default();
    let next = AtomicUsize::new(0);
    let workers = run.threads();
    let fetchers = run.plan.repository.store().parallelism().clamp(1, FETCHERS_MAX).min(ranges.len());
    std::thread::scope(|scope| {
        let (fetched, waiting) = bounded(workers);
        let (spare, spares) = unbounded();
        for _ in 0..fetchers {
            let (fetched, spares) = (fetched.clone(), spares.clone());
            let fetcher = Fetcher { run, ranges: &ranges, next: &next, outcome: &outcome };
            scope.spawn(move || fetcher.work(&fetched, &spares));
        }
        drop(fetched);
        for _ in 0..workers {
            let (waiting, spare) = (waiting.clone(), spare.clone());
            let worker = Worker::new(run, writer, uses, &outcome);
            scope.spawn(move || worker.work(&waiting, &spare));
        }
    });
    outcome.into_result()
}

/// Joins pieces, which are in the order of packs and offsets, into ranges.
fn ranges(run: &Run<'_>, uses: &[u32]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for (number, piece) in uses.iter().enumerate() {
        let piece = &run.tables.pieces[*piece as usize];
        let (start, end) =
            (u64::from(piece.pack_offset), u64::from(piece.pack_offset) + u64::from(piece.length));
        match ranges.last_mut() {
            Some(last)
                if last.pack == piece.pack
                    && start <= last.end + GAP_BYTES
                    && (end <= last.end || end - last.start <= RANGE_BYTES) =>
            {
                last.end = last.end.max(end);
                last.uses.end = number + 1;
            }
            _ => ranges.push(Range { pack: piece.pack, start, end, uses: number..number + 1 }),
        }
    }
    ranges
}

struct Fetcher<'a> {
    run: &'a Run<'a>,
    ranges: &'a [Range],
    next: &'a AtomicUsize,
    outcome: &'a Outcome,
}

impl<'a> Fetcher<'a> {
    fn work(self, fetched: &Sender<Fetched<'a>>, spares: &Receiver<Vec<u8>>) {
        while !self.outcome.failed() {
            let Some(range) = self.ranges.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            let mut buffer = spares.try_recv().unwrap_or_default();
            let result = self.fetch(range, &mut buffer);
            let bytes = match result {
                Err(error) if is_fatal(&error) => return self.outcome.note(Err(error)),
                other => other.map(|()| buffer),
            };
            if fetched.send(Fetched { range, bytes }).is_err() {
                return;
            }
        }
    }

    fn fetch(&self, range: &Range, buffer: &mut Vec<u8>) -> Result<()> {
        self.run.context.check()?;
        let object = FileKind::Pack.object(&self.run.plan.index.pack_id(range.pack));
        self.run.plan.repository.store().get_range(&object, range.start..range.end, buffer)?;
        self.run.bytes_fetched.fetch_add(range.end - range.start, Ordering::Relaxed);
        Ok(())
    }
}

struct Worker<'a> {
    run: &'a Run<'a>,
    writer: &'a Writer<'a>,
    uses: &'a [u32],
    outcome: &'a Outcome,
    opener: Opener,
    reader: BlobReader<'a>,
}

impl<'a> Worker<'a> {
    fn new(run: &'a Run<'a>, writer: &'a Writer<'a>, uses: &'a [u32], outcome: &'a Outcome) -> Self {
        let opener = Opener::new(run.plan.repository.key().clone());
        Self {
            run,
            writer,
            uses,
            outcome,
            opener,
            reader: BlobReader::new(run.plan.repository, run.plan.index),
        }
    }

    fn work(mut self, waiting: &Receiver<Fetched<'_>>, spare: &Sender<Vec<u8>>) {
        // To the end even after a failure: a fetcher may be waiting to hand over.
        for Fetched { range, bytes } in waiting {
            if self.outcome.failed() {
                continue;
            }
            let mut buffer = bytes.unwrap_or_default();
            let result = self.write_range(range, &mut buffer);
            self.outcome.note(result);
            // The receiver lives as long as any fetcher does.
            let _ = spare.send(buffer);
        }
    }

    fn write_range(&mut self, range: &Range, buffer: &mut [u8]) -> Result<()> {
        let (uses, pieces) = (&self.uses[range.uses.clone()], &self.run.tables.pieces);
        for uses in uses
            .chunk_by(|one, other| pieces[*one as usize].pack_offset == pieces[*other as usize].pack_offset)
        {
            self.run.context.check()?;
            self.write_blob(range, buffer, uses)?;
        }
        Ok(())
    }

    /// Writes one blob wherever it belongs; `buffer` is empty when the range could not be fetched.
    fn write_blob(&mut self, range: &Range, buffer: &mut [u8], uses: &[u32]) -> Result<()> {
        let piece = &self.run.tables.pieces[uses[0] as usize];
        let location = self
            .run
            .plan
            .index
            .find_all(BlobKind::Data, &piece.id)
            .find(|location| location.pack == piece.pack && location.blob.offset == piece.pack_offset)
            .expect("the plan was made with this index, which does not change");
        let start = (u64::from(piece.pack_offset) - range.start) as usize;
        let sealed = buffer.get_mut(start..start + piece.length as usize);
        if let Some(Ok(plaintext)) = sealed.map(|sealed| self.opener.open(&location.blob, sealed)) {
            return uses.iter().try_for_each(|piece| self.writer.write(*piece, plaintext));
        }
        match self.read_anywhere(&location) {
            Ok(plaintext) => uses.iter().try_for_each(|piece| self.writer.write(*piece, &plaintext)),
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => uses.iter().try_for_each(|piece| self.writer.give_up(*piece, same_error(&error))),
        }
    }

    /// Reads the blob by itself, where it was looked for and then wherever else it lies.
    fn read_anywhere(&self, location: &Location) -> Result<Vec<u8>> {
        let mut failure = None;
        for other in self.reader.index().find_all(BlobKind::Data, &location.blob.id) {
            match self.reader.read_at(&other) {
                Ok(plaintext) => return Ok(plaintext),
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.expect("at least the copy that was looked for is listed"))
    }
}

/// The error again, for every file that it befalls.
fn same_error(error: &Error) -> Error {
    match error {
        Error::Damaged { object, why } => Error::Damaged { object: object.clone(), why: why.clone() },
        other => Error::Missing { what: format!("a part of it ({other})") },
    }
}
