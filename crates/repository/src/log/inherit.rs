//! What a writer inherits: which of the segments of earlier writers count, recorded when it begins.
//!
//! An inheritance is the runs that the writer found, each as an object without content whose name says its extent and
//! the chain's value at its end; that value stands for all that is before. It is whole when all its runs are there, and
//! of several the one with the greatest epoch decides.
//!
//! # Removal
//! A writer removes those of smaller epochs once its own is whole and a look (see `fence`) has shown that nobody
//! has taken over. So a listing by a later writer, which began after that one's mark was there, can miss an inheritance
//! only when a greater one is there that was whole before the listing began. Other readers, without a mark,
//! may meet the moment in which one is removed and miss the next: they see segments that no inheritance allows for,
//! and look again.

use std::collections::BTreeMap;

use super::catalogue::{Lineage, Run};
use super::fence::Fence;
use super::name::{Link, parse_hex};
use super::{Archive, Result};

/// The runs that count of what was there when a writer began.
#[derive(Debug, Clone, Default)]
pub(super) struct Inheritance {
    pub(super) epoch: u32,
    pub(super) runs: Vec<Inherited>,
}

/// One run of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inherited {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The chain's value at its end.
    pub(super) after: Link,
}

/// The inheritances that a listing shows, whole or not.
#[derive(Debug, Clone, Default)]
pub(super) struct Inheritances {
    names: Vec<String>,
    /// By epoch: how many runs there are to be, and those that are there.
    found: BTreeMap<u32, (u32, BTreeMap<u32, Inherited>)>,
}

impl Inheritances {
    /// Takes up one name below `i/` of a listing; `None` when it says nothing.
    pub(super) fn add(&mut self, file: &str) -> Option<()> {
        let (epoch, number, count, run) = parse(file)?;
        let (expected, runs) = self.found.entry(epoch).or_insert((count, BTreeMap::new()));
        if *expected != count {
            return None;
        }
        // Number 0 stands for an inheritance without runs.
        if number > 0 {
            runs.insert(number, run);
        }
        self.names.push(file.to_owned());
        Some(())
    }

    /// The greatest epoch of which anything is there.
    pub(super) fn epoch(&self) -> u32 {
        self.found.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// The one that decides: the greatest that is whole.
    pub(super) fn latest(&self) -> Option<Inheritance> {
        let whole =
            |(_, (count, runs)): &(&u32, &(u32, BTreeMap<u32, Inherited>))| runs.len() == *count as usize;
        let (epoch, (_, runs)) = self.found.iter().rev().find(whole)?;
        Some(Inheritance { epoch: *epoch, runs: runs.values().copied().collect() })
    }
}

impl Archive {
    /// Records that what counts of `known` is what the writer that has the fence goes on from.
    ///
    /// Fails with [`super::Error::Superseded`] when somebody has taken over meanwhile.
    pub(super) fn inherit(&self, lineage: &str, known: &Lineage, fence: &Fence) -> Result<()> {
        let name = |file: &str| self.name(lineage, &format!("i/{file}"));
        let last = |run: &Run| known.segments[run.segments.end - 1].after;
        let runs =
            known.runs.iter().map(|run| Inherited { first: run.first, last: run.last, after: last(run) });
        let runs: Vec<Inherited> = runs.collect();
        let count = u32::try_from(runs.len()).expect("a run takes more memory than 4 billion of them have");
        for (number, run) in (1..=count).zip(&runs) {
            self.create_small(&name(&file_name(fence.epoch, number, count, run)), b"")?;
        }
        if count == 0 {
            let nothing = Inherited { first: 0, last: 0, after: Link([0; 16]) };
            self.create_small(&name(&file_name(fence.epoch, 0, 0, &nothing)), b"")?;
        }
        fence.check()?;
        let mut old = known.inheritances.names.clone();
        old.sort_unstable();
        for file in old {
            self.repository().sidecar_remove(&name(&file))?;
        }
        Ok(())
    }
}

fn file_name(epoch: u32, number: u32, count: u32, run: &Inherited) -> String {
    let Inherited { first, last, after } = run;
    format!("{epoch:08x}-{number:08x}-{count:08x}-{first:016x}-{last:016x}-{after}")
}

fn parse(file: &str) -> Option<(u32, u32, u32, Inherited)> {
    let mut fields = file.split('-');
    let mut field = |digits: usize| fields.next().filter(|field| field.len() == digits).and_then(parse_hex);
    let mut small = || field(8).and_then(|number| u32::try_from(number).ok());
    let (epoch, number, count) = (small()?, small()?, small()?);
    let mut position = || field(16).and_then(|number| u64::try_from(number).ok());
    let (first, last) = (position()?, position()?);
    let run = Inherited { first, last, after: Link(field(32)?.to_be_bytes()) };
    (number <= count && (number == 0) == (count == 0) && file == file_name(epoch, number, count, &run))
        .then_some((epoch, number, count, run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_whole_ones_the_greatest_decides() {
        let run = |last| Inherited { first: 1, last, after: Link([7; 16]) };
        let mut all = Inheritances::default();
        assert!(all.latest().is_none());
        all.add(&file_name(4, 1, 1, &run(9))).unwrap();
        all.add(&file_name(5, 2, 2, &run(30))).unwrap();
        assert_eq!((all.latest().unwrap().epoch, all.epoch()), (4, 5));
        all.add(&file_name(5, 1, 2, &run(20))).unwrap();
        let latest = all.latest().unwrap();
        assert_eq!((latest.epoch, latest.runs), (5, vec![run(20), run(30)]));
        all.add(&file_name(6, 0, 0, &Inherited { first: 0, last: 0, after: Link([0; 16]) })).unwrap();
        assert_eq!(all.latest().unwrap().runs, []);
        let name = file_name(4, 1, 1, &run(9));
        for other in [&name[1..], &name.to_uppercase(), &format!("{name}-0"), &file_name(4, 2, 1, &run(9))] {
            assert!(*other == name || all.add(other).is_none(), "{other}");
        }
    }
}
