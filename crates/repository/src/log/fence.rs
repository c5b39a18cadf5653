//! Keeping apart those who do the same work on a lineage: the later takes over, the earlier notices.
//!
//! Whoever begins takes the next **epoch**: it creates a *mark*, an object whose name has a number greater than all,
//! and looks again; if another has the same number or a greater one, it takes a greater one. After each write, before it
//! is acknowledged, the writer looks whether it still has the greatest.
//!
//! # What a look shows
//! A store promises that a listing shows what was created before it began and not removed; it may be read entry by
//! entry, while others create and remove. So a listing alone could miss two marks: one that is removed while it is
//! read, and the one on behalf of which it is removed, which is newer than the listing. Therefore marks are
//! removed in the order of their epochs, by one who has a greater one, and a look is a listing and then a question for
//! the own mark. *If a look finds the own mark and none that is greater, there was none that is greater when it began.*
//! For let there have been one, and let the listing miss it: then it was removed meanwhile, on behalf of a greater one
//! still. Whoever removed it had listed the marks after creating its own. If that listing shows ours, ours was removed
//! before, and the question finds that out. If not, ours was created after that listing began, so that the mark of whoever
//! removed was there when our look began, and the same holds for it; there are not endlessly many.
//!
//! # Why one content is acknowledged for each position
//! A writer W with the epoch E begins in this order: it creates its mark; looks; lists the lineage; records what of it
//! counts (its *inheritance*, see `inherit`); looks again. An append is: create the segment, look, acknowledge.
//!
//! 1. *What was acknowledged by an epoch below E is in W's inheritance, or W acknowledges nothing.* Whoever acknowledged
//!    it looked after it was written, and that look began before W's mark was there, or it would have found it. So it
//!    was written before W's mark was, and W's listing of the lineage shows it. It counts there: its writer's own
//!    inheritance was recorded before too, and by induction that or a later one decides, with the same answer.
//! 2. *What is not in W's inheritance and has a smaller epoch does not count* once the inheritance is recorded, whenever
//!    it is written: a create that was slow, or on its way when the process that asked for it died, changes nothing.
//!    It was not acknowledged by 1.
//! 3. *What W finds there and acknowledges as the same* is in its inheritance, which was recorded before and was followed
//!    by a look: by 1, whoever comes later inherits it. To acknowledge what an earlier writer had left without having
//!    recorded that, would be wrong: a writer between the two, which had not seen it, could still overrule it.
//! 4. Two with the same number both create before they look, so at least one sees the other and goes on to another number.
//!
//! All this needs of a store is what [`store::Store`] promises of a listing. It does not need a conditional create: that
//! would be a fence for a name, and the names of rivals differ in what the log was. So it is the same in a directory,
//! where create is `link`, in a bucket with conditional writes, and in one that ignores them.
//!
//! For keepers of the house (`k`) it is weaker: they look before they remove, and removing cannot be taken back. Two
//! compactions at once, the earlier of which sleeps between its look and its removal, are kept apart by the
//! repository's lock, which whoever keeps house has to hold.
//!
//! # Crash
//! A mark of a writer that is gone remains until the next one takes over and removes it. The greatest is never removed.

use store::ErrorKind;

use super::name::parse_hex;
use super::{Archive, Error, Result, escape, object};

/// How often two that take over at once try for different numbers.
const ATTEMPTS_MAX: u32 = 8;
/// Digits of an epoch.
const EPOCH_DIGITS: usize = 8;

/// The objects of those who took over, as a listing shows them.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    pub(super) names: Vec<String>,
    /// The greatest epoch among them.
    pub(super) epoch: u32,
}

impl Marks {
    pub(super) fn add(&mut self, file: &str) -> Option<()> {
        let (epoch, rest) = file.split_at_checked(EPOCH_DIGITS)?;
        rest.strip_prefix('-')?;
        let epoch = u32::try_from(parse_hex(epoch)?).ok()?;
        self.epoch = self.epoch.max(epoch);
        self.names.push(file.to_owned());
        Some(())
    }

    pub(super) fn has(&self, epoch: u32) -> bool {
        self.names.iter().any(|name| epoch_of(name) == epoch)
    }
}

/// The right to do one kind of work on a lineage, until somebody takes over.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    archive: Archive,
    lineage: String,
    /// `w` for writing, `k` for keeping house.
    kind: &'static str,
    pub(super) epoch: u32,
    /// The name of the mark.
    own: String,
}

impl Fence {
    /// Takes over the work `kind` on `lineage`, with an epoch greater than `above`.
    pub(super) fn take(archive: &Archive, lineage: &str, kind: &'static str, above: u32) -> Result<Self> {
        let (archive, lineage) = (archive.clone(), lineage.to_owned());
        let mut fence = Self { archive, lineage, kind, epoch: above, own: String::new() };
        let mut marks = fence.archive.marks(&fence.lineage, kind)?;
        for attempts in 0..ATTEMPTS_MAX {
            super::append::pause(attempts.min(3));
            fence.epoch = next(marks.epoch.max(fence.epoch), &fence.lineage)?;
            fence.own = fence.create()?;
            marks = fence.archive.marks(&fence.lineage, kind)?;
            let is_below = |name: &String| *name == fence.own || epoch_of(name) < fence.epoch;
            if marks.names.iter().all(is_below) && fence.is_marked()? {
                fence.remove_below(marks)?;
                return Ok(fence);
            }
        }
        Err(fence.superseded())
    }

    /// Looks; fails with [`Error::Superseded`] when somebody has taken over.
    pub(super) fn check(&self) -> Result<()> {
        let marks = self.archive.marks(&self.lineage, self.kind)?;
        // In this order: the listing is believed because the own mark is there after it.
        if marks.epoch > self.epoch || !self.is_marked()? {
            return Err(self.superseded());
        }
        Ok(())
    }

    fn superseded(&self) -> Error {
        Error::Superseded { lineage: self.lineage.clone() }
    }

    fn create(&self) -> Result<String> {
        let random = crate::Id::random().to_hex();
        let own = format!("{:0EPOCH_DIGITS$x}-{}", self.epoch, &random[..16]);
        self.archive.create_small(&self.name(&own), b"")?;
        Ok(own)
    }

    /// Whether the own mark is there.
    fn is_marked(&self) -> Result<bool> {
        match self.archive.repository().store().size(&object(&self.name(&self.own))) {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the marks of those whose time is over, the smallest first.
    fn remove_below(&self, mut marks: Marks) -> Result<()> {
        marks.names.sort_unstable();
        for name in marks.names.iter().filter(|name| epoch_of(name) < self.epoch) {
            self.archive.repository().sidecar_remove(&self.name(name))?;
        }
        Ok(())
    }

    fn name(&self, file: &str) -> String {
        self.archive.name(&self.lineage, &format!("{}/{file}", self.kind))
    }
}

impl Archive {
    pub(super) fn marks(&self, lineage: &str, kind: &str) -> Result<Marks> {
        let mut marks = Marks::default();
        self.list(&format!("{}/{kind}", escape(lineage)), &mut |file, _| _ = marks.add(file))?;
        Ok(marks)
    }
}

fn next(epoch: u32, lineage: &str) -> Result<u32> {
    epoch
        .checked_add(1)
        .ok_or_else(|| Error::Refused(format!("the epochs of {lineage} are used up; begin another lineage")))
}

fn epoch_of(name: &str) -> u32 {
    let mut marks = Marks::default();
    marks.add(name).map_or(0, |()| marks.epoch)
}
