//! Writing a lineage: pieces in the order of their positions, forks, and the engine's small files.

use std::sync::{Arc, Mutex, MutexGuard};

use store::ErrorKind;

use super::catalogue::Lineage;
use super::fence::Fence;
use super::name::{Fork, Link, Segment};
use super::segment::{Content, Part, Piece, seal, segment_of};
use super::{Archive, Error, LEVEL, Result, escape, object};

/// How often an append begins anew because another writer, or a compaction, has changed what is there.
const ATTEMPTS_MAX: u32 = 4;

/// What came of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It was written, and is durable.
    Written,
    /// It was there, with the same content, which was read and verified, and is durable.
    AlreadyThere,
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

/// What is to be done with a piece, as far as what is known goes.
enum Decision {
    Write(Segment, Arc<Fence>),
    Compare(Segment),
    Refuse(Error),
}

impl Archive {
    /// Begins to write `lineage`; what is there is listed, and other writers are superseded.
    pub fn appender(&self, lineage: &str) -> Result<Appender> {
        Self::check_lineage(lineage)?;
        let state = State::take(self, lineage, 0)?;
        Ok(Appender { archive: self.clone(), lineage: lineage.to_owned(), state: Mutex::new(state) })
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
        self.append_with(piece, false)
    }

    /// Archives a piece even where it does not follow what is there: it then begins a new chain behind a gap.
    ///
    /// Nothing can be restored across the gap; behind it, a new base is needed.
    pub fn append_after_gap(&self, piece: &Piece<'_>) -> Result<Appended> {
        self.append_with(piece, true)
    }

    /// Where the lineage ends, as far as this appender knows: the position at which the next piece has to begin.
    pub fn end(&self) -> Option<u64> {
        self.state().end.map(|(position, _)| position)
    }

    fn append_with(&self, piece: &Piece<'_>, accepts_gap: bool) -> Result<Appended> {
        let part = Part::describe(piece)?;
        let mut failure = Error::Superseded { lineage: self.lineage.clone() };
        for _ in 0..ATTEMPTS_MAX {
            let attempt = match self.decide(&part, accepts_gap)? {
                Decision::Write(segment, fence) => self.write(&segment, &part, piece.bytes, &fence),
                Decision::Compare(segment) => self.compare(&segment, &part),
                Decision::Refuse(error) => return Err(error),
            };
            match attempt {
                // Somebody took over, or compacted what was known: what is there has to be looked at anew.
                Err(error @ (Error::Superseded { .. } | Error::Missing { .. })) => {
                    self.state().is_stale = true;
                    failure = error;
                }
                other => return other,
            }
        }
        Err(failure)
    }

    fn decide(&self, part: &Part, accepts_gap: bool) -> Result<Decision> {
        let mut state = self.state();
        if state.is_stale {
            *state = State::take(&self.archive, &self.lineage, state.fence.epoch)?;
        }
        let decision = state.decide(&self.archive, &self.lineage, part, accepts_gap);
        if let Decision::Write(segment, _) = &decision {
            state.reserve(*segment);
        }
        Ok(decision)
    }

    fn write(&self, segment: &Segment, part: &Part, bytes: &[u8], fence: &Fence) -> Result<Appended> {
        let name = self.archive.segment_name(&self.lineage, segment);
        let sealed = seal(&self.archive.key, &name, std::slice::from_ref(part), bytes, LEVEL);
        let created = self.archive.repository.store().create(&object(&name), sealed.into());
        let appended = match created {
            Ok(()) => Ok(Appended::Written),
            // An earlier attempt whose answer was lost, perhaps of a wrapper that repeats by itself.
            Err(error) if error.kind == ErrorKind::AlreadyExists => self.compare(segment, part),
            Err(error) => Err(error.into()),
        };
        let appended = appended.and_then(|appended| fence.check().map(|()| appended));
        if appended.is_err() {
            self.state().is_stale = true;
        }
        appended
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

fn conflict(archive: &Archive, lineage: &str, part: &Part, segment: &Segment, why: String) -> Error {
    let object = object(&archive.segment_name(lineage, segment));
    Error::Conflict { lineage: lineage.to_owned(), first: part.first, object, why }
}

impl State {
    /// Takes over, and looks at what is there after that.
    fn take(archive: &Archive, lineage: &str, above: u32) -> Result<Self> {
        // Objects of writers may have been lost; what they wrote has their numbers too.
        let fence = Fence::take(archive, lineage, "w", above)?;
        let known = archive.lineage(lineage)?;
        let greatest = known.segments.iter().map(|segment| segment.epoch).max().unwrap_or(0);
        if greatest > fence.epoch {
            return Self::take(archive, lineage, greatest);
        }
        let end = known.end().or_else(|| known.forks.first().map(|fork| (fork.position, fork.link)));
        Ok(Self { fence: Arc::new(fence), known, end, is_stale: false })
    }

    fn decide(&self, archive: &Archive, lineage: &str, part: &Part, accepts_gap: bool) -> Decision {
        let start = || Link::start(&archive.component, lineage, part.first);
        let write = |before| {
            Decision::Write(
                segment_of(before, std::slice::from_ref(part), self.fence.epoch),
                Arc::clone(&self.fence),
            )
        };
        match self.end {
            None => write(start()),
            Some((end, link)) if part.first == end => write(link),
            Some((end, _)) if part.first > end && accepts_gap => write(start()),
            Some((end, _)) if part.first > end => {
                Decision::Refuse(Error::Gap { lineage: lineage.to_owned(), end, first: part.first })
            }
            Some(_) => self.decide_before_end(archive, lineage, part, accepts_gap, &write, start()),
        }
    }

    /// Decides about a piece that begins before the end: it is there, or fills a gap, or contradicts.
    fn decide_before_end(
        &self,
        archive: &Archive,
        lineage: &str,
        part: &Part,
        accepts_gap: bool,
        write: &dyn Fn(Link) -> Decision,
        start: Link,
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
        let link = match (before, fork) {
            (Some(before), _) => before.after,
            (None, Some(fork)) => fork.link,
            (None, None) if accepts_gap => start,
            (None, None) => return gap(next.checked_sub(1).map_or(0, |number| segments[number].last)),
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
