//! Writing a lineage: pieces in the order of their positions, forks, and the engine's small files.

use std::borrow::Cow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use store::ErrorKind;

use super::catalogue::Lineage;
use super::fence::Fence;
use super::name::{Fork, Link, Segment};
use super::segment::{Content, PARTS_MAX, PIECE_BYTES_MAX, Packed, Part, Piece, segment_of};
use super::{Archive, Error, LEVEL, Result, escape, object};

/// How often an append begins anew because another writer, or a compaction, has changed what is there.
const ATTEMPTS_MAX: u32 = 4;

/// How long a writer that was superseded waits on average before its first attempt to take over again.
const PAUSE: Duration = Duration::from_millis(10);

/// What came of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It was written, and is durable.
    Written,
    /// It was there, with the same content, which was read and verified, and is durable.
    AlreadyThere,
}

/// Neighbouring pieces, hashed and mostly compressed too, so that little is left to do when it is their turn.
#[derive(Debug)]
pub struct Prepared<'a> {
    parts: Vec<Part>,
    bytes: Cow<'a, [u8]>,
    packed: Option<Packed>,
}

/// Writes one lineage; several threads may append at once.
///
/// Making one takes over from any other of the same lineage, in whatever process. Another's next append fails over to a
/// new look at what is there by itself, a few times; two that go on writing are told apart by what they write: the same
/// is a success for both, something else is refused to the second.
#[derive(Debug)]
pub struct Appender {
    archive: Archive,
    lineage: String,
    state: Mutex<State>,
    /// Something was begun to be written, or is to be looked at anew.
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    fence: Arc<Fence>,
    known: Lineage,
    /// Where the next piece has to begin, when there is anything.
    end: Option<(u64, Link)>,
    /// A write failed, so that nobody knows what is there.
    is_stale: bool,
}

/// What is to be done with neighbouring parts, as far as what is known goes.
enum Decision {
    Write(Segment),
    Compare(Segment),
    /// Some of several may be there: each has to be decided about.
    OneByOne,
    Refuse(Error),
}

/// What a piece that follows nothing that is there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// It is refused.
    Refused,
    /// It begins a new chain.
    New,
    /// It continues, in another archive, what has this link; so it does here, also where that is not there.
    Link(Link),
}

impl Archive {
    /// Begins to write `lineage`; what is there is listed, and other writers are superseded.
    pub fn appender(&self, lineage: &str) -> Result<Appender> {
        Self::check_lineage(lineage)?;
        let state = State::take(self, lineage, 0)?;
        Ok(Appender {
            archive: self.clone(),
            lineage: lineage.to_owned(),
            state: Mutex::new(state),
            moved: Condvar::new(),
        })
    }

    /// Records that `lineage` continues `parent` from `position` on, and returns the record; repeatable.
    ///
    /// The first piece of the lineage then has to begin there. Fails with [`Error::Refused`] where the archive of the
    /// parent has no boundary of pieces at the position, and when the lineage has other beginnings already.
    pub fn fork(&self, lineage: &str, parent: &str, position: u64) -> Result<Fork> {
        Self::check_lineage(lineage)?;
        let refuse =
            |why: String| Error::Refused(format!("failed to let {lineage} continue {parent}: {why}"));
        if lineage == parent {
            return Err(refuse("it is the same lineage".into()));
        }
        let own = self.lineage(lineage)?;
        if let Some(known) = own.forks.first() {
            let is_same = known.parent == parent && known.position == position;
            return if is_same {
                Ok(known.clone())
            } else {
                Err(refuse("it continues another already".into()))
            };
        }
        if !own.segments.is_empty() {
            return Err(refuse("it has segments already".into()));
        }
        let Some(link) = self.link_at(parent, position)? else {
            return Err(refuse(format!("no archived piece of {parent} begins or ends at {position:#x}")));
        };
        let fork = Fork { parent: parent.to_owned(), position, link };
        self.create_small(&self.name(lineage, &format!("f/{}", fork.file_name())), b"")?;
        Ok(fork)
    }

    /// The chain's value at a position, where a piece begins or ends.
    fn link_at(&self, lineage: &str, position: u64) -> Result<Option<Link>> {
        let known = self.lineage(lineage)?;
        if let Some(segment) = known.segments.iter().find(|segment| segment.last == position) {
            return Ok(Some(segment.after));
        }
        let Some(segment) = known.at(position).map(|number| known.segments[number]) else { return Ok(None) };
        if segment.first == position {
            return Ok(Some(segment.before));
        }
        let mut link = segment.before;
        for content in self.read(lineage, &segment)? {
            link = content.part.link(link);
            if content.part.last == position {
                return Ok(Some(link));
            }
        }
        Ok(None)
    }

    /// Keeps a small file of a lineage, such as a timeline's history, under the engine's own name; at most once.
    ///
    /// The same content again is [`Appended::AlreadyThere`], other content an [`Error::Conflict`].
    pub fn put_file(&self, lineage: &str, name: &str, bytes: &[u8]) -> Result<Appended> {
        use crate::sidecar::Created;
        Self::check_lineage(lineage)?;
        let object_name = self.file_name(lineage, name)?;
        match self.repository.sidecar_create(&object_name, bytes) {
            Ok(Created::Created) => Ok(Appended::Written),
            Ok(Created::AlreadyThereEqual) => Ok(Appended::AlreadyThere),
            Err(crate::Error::SidecarDiffers { .. }) => Err(Error::Conflict {
                lineage: lineage.to_owned(),
                first: 0,
                object: object(&object_name),
                why: format!("another {name} is archived"),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a small file of a lineage; `None` when there is none of that name.
    pub fn file(&self, lineage: &str, name: &str) -> Result<Option<Vec<u8>>> {
        Self::check_lineage(lineage)?;
        let object_name = self.file_name(lineage, name)?;
        match self.repository.sidecar_read(&object_name) {
            Err(crate::Error::Damaged { why, .. }) => Err(Error::damaged(&object(&object_name), why)),
            other => Ok(other?),
        }
    }

    pub(super) fn file_name(&self, lineage: &str, name: &str) -> Result<String> {
        let file = self.name(lineage, &format!("a/{}", escape(name)));
        if name.is_empty() || !crate::sidecar::is_name(&file) {
            return Err(Error::Refused(format!(
                "{name:?} is empty or too long for the name of a file of a log"
            )));
        }
        Ok(file)
    }
}

impl<'a> Prepared<'a> {
    /// Hashes and compresses a piece, which is nearly all that its append costs the processor.
    ///
    /// Fails with [`Error::Refused`] for what no archive can hold.
    pub fn new(piece: &Piece<'a>) -> Result<Self> {
        let mut prepared = Self::one(piece)?;
        prepared.packed = Some(Packed::new(&prepared.parts, &prepared.bytes, LEVEL));
        Ok(prepared)
    }

    fn one(piece: &Piece<'a>) -> Result<Self> {
        Ok(Self { parts: vec![Part::describe(piece)?], bytes: piece.bytes.into(), packed: None })
    }

    fn all(pieces: &[Piece<'a>]) -> Result<Self> {
        match pieces {
            [] => Err(Error::Refused("no piece is no segment".into())),
            [piece] => Self::one(piece),
            pieces => {
                let parts: Vec<Part> = pieces.iter().map(Part::describe).collect::<Result<_>>()?;
                check_neighbours(&parts)?;
                let bytes: Vec<&[u8]> = pieces.iter().map(|piece| piece.bytes).collect();
                Ok(Self { parts, bytes: bytes.concat().into(), packed: None })
            }
        }
    }
}

impl Appender {
    /// Archives a piece that continues what is there; it is durable when this returns `Ok`.
    ///
    /// Safe to repeat, whatever became of an earlier attempt. A piece that fills a gap mends it, if it is what was there.
    /// Several threads may append neighbours at once, in the order of their positions; each answer speaks of its own piece
    /// only, and a piece whose predecessor failed stands behind a gap until that is repeated.
    ///
    /// Fails with [`Error::Gap`] when what lies between is missing, with [`Error::Conflict`] when something else is there,
    /// with [`Error::Damaged`] when what is there cannot be read, with [`Error::Superseded`] when others keep taking
    /// over. After any other error nobody knows whether it was written.
    pub fn append(&self, piece: &Piece<'_>) -> Result<Appended> {
        self.append_with(&mut Prepared::one(piece)?, Beginning::Refused, None)
    }

    /// Archives what was prepared; what it fails with can be tried again.
    ///
    /// While a piece before it is missing, it waits for up to `wait`, for another thread to append that: so threads of
    /// which each prepares, then appends, have several pieces in all stages at once. Fails as [`append`](Self::append).
    pub fn append_prepared(&self, prepared: &mut Prepared<'_>, wait: Duration) -> Result<Appended> {
        self.append_with(prepared, Beginning::Refused, Some(Instant::now() + wait))
    }

    /// Archives neighbours as one segment, if nothing of them is there; as [`append`](Self::append) otherwise.
    ///
    /// What is small and known together costs one object so. Fails with [`Error::Refused`] when they do not follow
    /// each other or are too many or too large for a segment.
    pub fn append_all(&self, pieces: &[Piece<'_>]) -> Result<Appended> {
        self.append_with(&mut Prepared::all(pieces)?, Beginning::Refused, None)
    }

    /// Archives a piece even where it does not follow what is there: it then begins a new chain behind a gap.
    ///
    /// Nothing can be restored across the gap; behind it, a new base is needed.
    pub fn append_after_gap(&self, piece: &Piece<'_>) -> Result<Appended> {
        self.append_with(&mut Prepared::one(piece)?, Beginning::New, None)
    }

    /// Archives neighbours that have this link before them in another archive.
    pub(super) fn append_copied(&self, pieces: &[Piece<'_>], before: Link) -> Result<Appended> {
        self.append_with(&mut Prepared::all(pieces)?, Beginning::Link(before), None)
    }

    /// Where the lineage ends, as far as this appender knows: the position at which the next piece has to begin.
    pub fn end(&self) -> Option<u64> {
        self.state().end.map(|(position, _)| position)
    }

    fn append_with(
        &self,
        prepared: &mut Prepared<'_>,
        beginning: Beginning,
        deadline: Option<Instant>,
    ) -> Result<Appended> {
        let mut failure = Error::Superseded { lineage: self.lineage.clone() };
        for attempts in 0..ATTEMPTS_MAX {
            pause(attempts);
            let attempt = match self.decide(&prepared.parts, beginning, deadline)? {
                (Decision::Write(segment), fence) => self.write(&segment, prepared, &fence),
                (Decision::Compare(segment), fence) => self.find(&segment, &prepared.parts, &fence),
                (Decision::OneByOne, _) => return self.append_each(prepared, beginning),
                (Decision::Refuse(error), _) => return Err(error),
            };
            match attempt {
                // Somebody took over, or compacted what was known: what is there has to be looked at anew.
                Err(error @ (Error::Superseded { .. } | Error::Missing { .. })) => failure = error,
                other => return other,
            }
        }
        Err(failure)
    }

    fn append_each(&self, prepared: &Prepared<'_>, beginning: Beginning) -> Result<Appended> {
        let (mut beginning, mut rest) = (beginning, &prepared.bytes[..]);
        let mut all = Appended::AlreadyThere;
        for part in &prepared.parts {
            let (own, behind) = rest.split_at(usize::try_from(part.length).expect("it is in memory"));
            rest = behind;
            let mut one = Prepared { parts: vec![part.clone()], bytes: own.into(), packed: None };
            if self.append_with(&mut one, beginning, None)? == Appended::Written {
                all = Appended::Written;
            }
            beginning = match beginning {
                Beginning::Link(before) => Beginning::Link(part.link(before)),
                _ => Beginning::Refused,
            };
        }
        Ok(all)
    }

    /// Decides what to do; one at a time, so that each piece finds those before it decided about.
    fn decide(
        &self,
        parts: &[Part],
        beginning: Beginning,
        deadline: Option<Instant>,
    ) -> Result<(Decision, Arc<Fence>)> {
        let mut state = self.state();
        loop {
            if state.is_stale {
                *state = State::take(&self.archive, &self.lineage, state.fence.epoch)?;
            }
            let decision = state.decide(&self.archive, &self.lineage, parts, beginning);
            let left = deadline
                .map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()));
            match &decision {
                Decision::Refuse(Error::Gap { .. }) if left > Duration::ZERO => {
                    state = self.moved.wait_timeout(state, left).expect("no holder panics").0;
                    continue;
                }
                Decision::Write(segment) => {
                    state.reserve(*segment);
                    self.moved.notify_all();
                }
                _ => {}
            }
            return Ok((decision, Arc::clone(&state.fence)));
        }
    }

    fn write(&self, segment: &Segment, prepared: &mut Prepared<'_>, fence: &Fence) -> Result<Appended> {
        let name = self.archive.segment_name(&self.lineage, segment);
        let packed =
            prepared.packed.take().unwrap_or_else(|| Packed::new(&prepared.parts, &prepared.bytes, LEVEL));
        let sealed = packed.seal(&self.archive.key, &name, &prepared.parts, LEVEL);
        let created = self.archive.repository.store().create(&object(&name), sealed);
        let appended = match created {
            Ok(()) => Ok(Appended::Written),
            // An earlier attempt whose answer was lost, perhaps of a wrapper that repeats by itself.
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                prepared.parts.iter().try_fold(Appended::AlreadyThere, |_, part| self.compare(segment, part))
            }
            Err(error) => Err(error.into()),
        };
        let appended = appended.and_then(|appended| fence.check().map(|()| appended));
        if appended.is_err() {
            self.forget(fence);
        }
        appended
    }

    /// Acknowledges what this writer inherited or wrote already: so it has to be the writer still.
    fn find(&self, segment: &Segment, parts: &[Part], fence: &Fence) -> Result<Appended> {
        let found = parts.iter().try_fold(Appended::AlreadyThere, |_, part| self.compare(segment, part));
        let found = found.and_then(|found| fence.check().map(|()| found));
        if let Err(Error::Superseded { .. } | Error::Missing { .. }) = &found {
            self.forget(fence);
        }
        found
    }

    /// What is known with this fence may not be so any more: before the next piece, everything is looked at anew.
    fn forget(&self, fence: &Fence) {
        let mut state = self.state();
        if state.fence.epoch == fence.epoch {
            state.is_stale = true;
            self.moved.notify_all();
        }
    }

    /// Compares with what is there, all of which is verified.
    fn compare(&self, segment: &Segment, part: &Part) -> Result<Appended> {
        let contents = self.archive.read_object(&self.lineage, segment)?;
        let same = |content: &Content| content.part.is_same_as(part);
        if contents.iter().any(same) {
            return Ok(Appended::AlreadyThere);
        }
        let there = contents.iter().find(|content| content.part.last > part.first);
        let why = match there.map(|content| &content.part) {
            Some(there) if (there.first, there.last) != (part.first, part.last) => {
                format!("it has {:#x} to {:#x} in one", there.first, there.last)
            }
            Some(there) if there.name != part.name => "it is called otherwise".to_owned(),
            _ => "its bytes are others".to_owned(),
        };
        Err(self.conflict(part, segment, why))
    }

    fn conflict(&self, part: &Part, segment: &Segment, why: String) -> Error {
        conflict(&self.archive, &self.lineage, part, segment, why)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// Lets others who take over come to an end, longer after each attempt; by chance, so that two do not go on in step.
pub(super) fn pause(attempts: u32) {
    if attempts > 0 {
        let [random, ..] = crate::Id::random().0;
        std::thread::sleep(PAUSE * (1 << attempts) * u32::from(random) / 256);
    }
}

/// Fails with [`Error::Refused`] for parts that are no segment together.
fn check_neighbours(parts: &[Part]) -> Result<()> {
    let refuse = |why: &str| Err(Error::Refused(format!("failed to archive {:#x}: {why}", parts[0].first)));
    if parts.windows(2).any(|pair| pair[0].last != pair[1].first) {
        return refuse("the pieces do not follow each other");
    }
    let bytes: u64 = parts.iter().map(|part| part.length).sum();
    let table_bytes: usize = parts.iter().map(Part::table_bytes).sum();
    if parts.len() > PARTS_MAX || bytes > PIECE_BYTES_MAX as u64 || table_bytes > PIECE_BYTES_MAX {
        return refuse("the pieces are more than a segment holds");
    }
    Ok(())
}

fn conflict(archive: &Archive, lineage: &str, part: &Part, segment: &Segment, why: String) -> Error {
    let object = object(&archive.segment_name(lineage, segment));
    Error::Conflict { lineage: lineage.to_owned(), first: part.first, object, why }
}

impl State {
    /// Takes over, looks at what is there after that, and records that it goes on from there.
    fn take(archive: &Archive, lineage: &str, above: u32) -> Result<Self> {
        let mut above = above;
        for _ in 0..ATTEMPTS_MAX {
            let fence = Fence::take(archive, lineage, "w", above)?;
            let known = archive.lineage(lineage)?;
            // Somebody may be ahead, or the marks of those who were may have been lost; what they wrote has their numbers.
            above = known.epoch();
            if above < fence.epoch {
                archive.inherit(lineage, &known, &fence)?;
                let end = known.end().or_else(|| known.forks.first().map(|fork| (fork.position, fork.link)));
                return Ok(Self { fence: Arc::new(fence), known, end, is_stale: false });
            }
        }
        Err(Error::Superseded { lineage: lineage.to_owned() })
    }

    fn decide(&self, archive: &Archive, lineage: &str, parts: &[Part], beginning: Beginning) -> Decision {
        let first = parts[0].first;
        let write = |before| Decision::Write(segment_of(before, parts, self.fence.epoch));
        let gap = |end| Decision::Refuse(Error::Gap { lineage: lineage.to_owned(), end, first });
        match (self.end, beginning) {
            (Some((end, _)), _) if first < end && parts.len() > 1 => Decision::OneByOne,
            (Some((end, _)), _) if first < end => {
                self.decide_before_end(archive, lineage, &parts[0], beginning, &write)
            }
            (_, Beginning::Link(before)) => write(before),
            (Some((end, link)), _) if first == end => write(link),
            (None, _) | (_, Beginning::New) => write(Link::start(&archive.component, lineage, first)),
            (Some((end, _)), Beginning::Refused) => gap(end),
        }
    }

    /// Decides about a piece that begins before the end: it is there, or fills a gap, or contradicts.
    fn decide_before_end(
        &self,
        archive: &Archive,
        lineage: &str,
        part: &Part,
        beginning: Beginning,
        write: &dyn Fn(Link) -> Decision,
    ) -> Decision {
        let segments = &self.known.segments;
        let conflict =
            |segment, why: &str| Decision::Refuse(conflict(archive, lineage, part, segment, why.into()));
        let next = segments.partition_point(|segment| segment.last <= part.first);
        let gap = |end| Decision::Refuse(Error::Gap { lineage: lineage.to_owned(), end, first: part.first });
        // Nothing is there but the position from which on the lineage goes its own way.
        let Some(there) = segments.get(next) else { return gap(self.end.map_or(0, |(end, _)| end)) };
        if there.first <= part.first {
            return Decision::Compare(*there);
        }
        if part.last > there.first {
            return conflict(there, "it begins within this piece");
        }
        let before =
            next.checked_sub(1).map(|number| &segments[number]).filter(|before| before.last == part.first);
        let fork = self.known.forks.first().filter(|fork| next == 0 && fork.position == part.first);
        let link = match (beginning, before, fork) {
            (Beginning::Link(link), ..) => link,
            (_, Some(before), _) => before.after,
            (_, None, Some(fork)) => fork.link,
            (Beginning::New, None, None) => Link::start(&archive.component, lineage, part.first),
            (Beginning::Refused, None, None) => {
                return gap(next.checked_sub(1).map_or(0, |number| segments[number].last));
            }
        };
        let is_new_start = there.before == Link::start(&archive.component, lineage, there.first);
        if part.last == there.first && part.link(link) != there.before && !is_new_start {
            return conflict(there, "it continues something else");
        }
        write(link)
    }

    /// Takes note of a segment that is being written.
    fn reserve(&mut self, mut segment: Segment) {
        segment.size = 0;
        let at = self.known.segments.partition_point(|known| known.first < segment.first);
        self.known.segments.insert(at, segment);
        if self.end.is_none_or(|(end, _)| segment.last > end) {
            self.end = Some((segment.last, segment.after));
        }
    }
}
