//! Keeping apart those who do the same work on a lineage: the later takes over, the earlier notices.
//!
//! Whoever begins to write takes the next **epoch**: it creates an object whose name has a number greater than all, and
//! looks again; if another took the same number meanwhile, it takes a greater one. After each write, before it is
//! acknowledged, the writer looks whether it still has the greatest.
//!
//! # Why that suffices
//! Let A write, and let B take over. B's object is there before B lists the lineage. If A acknowledged a write, A looked
//! after it and did not see B's object; so A's look began before B's object was there, the write was there before
//! that, and B's listing shows it. What B does not see was never acknowledged, and it has a smaller epoch in its name
//! than all that B writes: readers know which of the two counts. Two that take over at once both create before they
//! look, so one at least sees the other, and no two go on with the same number.
//!
//! All this needs of a store is that a listing shows what was written before it began. It does not need a conditional
//! create, so it holds on stores that have none.
//!
//! # Crash
//! An object of a writer that is gone remains until the next one takes over and removes it. The greatest is never removed.

use super::name::parse_hex;
use super::{Archive, Error, Result, escape};

/// How often two that take over at once try for different numbers.
const ATTEMPTS_MAX: u32 = 20;
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
}

/// The right to do one kind of work on a lineage, until somebody takes over.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    archive: Archive,
    lineage: String,
    /// `w` for writing, `k` for keeping house.
    kind: &'static str,
    pub(super) epoch: u32,
}

impl Fence {
    /// Takes over the work `kind` on `lineage`, with an epoch greater than `above`.
    pub(super) fn take(archive: &Archive, lineage: &str, kind: &'static str, above: u32) -> Result<Self> {
        let mut fence = Self { archive: archive.clone(), lineage: lineage.to_owned(), kind, epoch: above };
        let mut marks = fence.marks()?;
        for _ in 0..ATTEMPTS_MAX {
            let greatest = marks.epoch.max(fence.epoch);
            fence.epoch = greatest.checked_add(1).ok_or_else(|| {
                Error::Refused(format!("the epochs of {lineage} are used up; begin another lineage"))
            })?;
            let own = fence.create()?;
            marks = fence.marks()?;
            if marks.names.iter().all(|name| *name == own || epoch_of(name) < fence.epoch) {
                fence.remove(marks.names.iter().filter(|name| **name != own))?;
                return Ok(fence);
            }
        }
        Err(Error::Superseded { lineage: lineage.to_owned() })
    }

    /// Fails with [`Error::Superseded`] when somebody has taken over.
    pub(super) fn check(&self) -> Result<()> {
        if self.marks()?.epoch > self.epoch {
            return Err(Error::Superseded { lineage: self.lineage.clone() });
        }
        Ok(())
    }

    fn create(&self) -> Result<String> {
        let random = crate::Id::random().to_hex();
        let own = format!("{:0EPOCH_DIGITS$x}-{}", self.epoch, &random[..16]);
        self.archive.create_small(&self.name(&own), b"")?;
        Ok(own)
    }

    fn marks(&self) -> Result<Marks> {
        let mut marks = Marks::default();
        let below = format!("{}/{}", escape(&self.lineage), self.kind);
        self.archive.list(&below, &mut |file, _| _ = marks.add(file))?;
        Ok(marks)
    }

    /// Removes the objects of those whose time is over; one that stays does no harm.
    fn remove<'a>(&self, old: impl Iterator<Item = &'a String>) -> Result<()> {
        for name in old {
            self.archive.repository().sidecar_remove(&self.name(name))?;
        }
        Ok(())
    }

    fn name(&self, file: &str) -> String {
        self.archive.name(&self.lineage, &format!("{}/{file}", self.kind))
    }
}

fn epoch_of(name: &str) -> u32 {
    let mut marks = Marks::default();
    marks.add(name).map_or(0, |()| marks.epoch)
}
