//! Which segments of a lineage count, of several that have the same positions.
//!
//! What the greatest inheritance says decides (see `fence` and `inherit`): of earlier writers, what leads to the ends of its
//! runs, which is found from behind, as a link stands for all that is before; and all of the writer that recorded it.
//! Where a run that was inherited is not whole any more, because an object was lost, what fits into the hole counts too.
//! Without an inheritance (somebody removed it) what counts can only be guessed: of segments that contradict each
//! other, that with the greater epoch.
//!
//! Where several that remain say the same (the parts of an interrupted compaction and what they became), those count
//! from which the chain goes farthest, and of these the fewest.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::catalogue::{Aside, AsideKind, continues};
use super::inherit::Inheritance;
use super::name::{Link, Segment};

/// Decides which segments count; see the module. Gives them in order, and all others.
pub(super) fn choose(
    mut all: Vec<Segment>,
    inheritance: Option<&Inheritance>,
    is_start: &dyn Fn(&Segment) -> bool,
) -> (Vec<Segment>, Vec<Aside>) {
    all.sort_unstable_by_key(|segment| {
        (segment.first, segment.last, segment.before, segment.after, segment.epoch)
    });
    let Some(inheritance) = inheritance else {
        let chosen = best_way(&all, is_start);
        return divide(&all, &chosen, None);
    };
    let is_settled = settled(&all, inheritance);
    let mut chosen = among(&all, &|number| is_settled[number], is_start);
    let counts: Vec<Segment> =
        (0..all.len()).filter(|number| chosen[*number]).map(|number| all[number]).collect();
    if !is_whole(&counts, inheritance) {
        let fits = |number: usize| {
            let segment = &all[number];
            !is_settled[number] && inheritance.has(segment) && across(&counts, segment).is_empty()
        };
        let more = among(&all, &fits, is_start);
        chosen.iter_mut().zip(more).for_each(|(chosen, more)| *chosen |= more);
    }
    divide(&all, &chosen, Some(&is_settled))
}

/// Finds what the inheritance says to count, and what is not older.
fn settled(all: &[Segment], inheritance: &Inheritance) -> Vec<bool> {
    let mut ends: HashSet<(u64, Link)> = inheritance.runs.iter().map(|run| (run.last, run.after)).collect();
    let mut from_behind: Vec<usize> = (0..all.len()).collect();
    from_behind.sort_unstable_by_key(|number| Reverse(all[*number].last));
    let mut settled = vec![false; all.len()];
    for number in from_behind {
        let Segment { first, last, before, after, epoch, .. } = all[number];
        if ends.contains(&(last, after)) {
            ends.insert((first, before));
            settled[number] = true;
        } else {
            settled[number] = epoch >= inheritance.epoch;
        }
    }
    settled
}

impl Inheritance {
    /// Whether the segment lies within a run.
    fn has(&self, segment: &Segment) -> bool {
        self.runs.iter().any(|run| run.first <= segment.first && segment.last <= run.last)
    }
}

/// Whether what counts reaches from the beginning to the end of every run, as far as its first object that is left.
fn is_whole(counts: &[Segment], inheritance: &Inheritance) -> bool {
    inheritance.runs.iter().all(|run| {
        let to = counts.partition_point(|segment| segment.first < run.last);
        let from = counts.partition_point(|segment| segment.last <= run.first);
        let across = counts.get(from..to).unwrap_or(&[]);
        across.first().is_some_and(|head| head.first <= run.first)
            && across.last().is_some_and(|tail| tail.last >= run.last)
            && across.windows(2).all(|pair| pair[0].last == pair[1].first)
    })
}

/// The best way through those of `all` that `wanted` accepts; marks them.
fn among(all: &[Segment], wanted: &dyn Fn(usize) -> bool, is_start: &dyn Fn(&Segment) -> bool) -> Vec<bool> {
    let numbers: Vec<usize> = (0..all.len()).filter(|number| wanted(*number)).collect();
    let some: Vec<Segment> = numbers.iter().map(|number| all[*number]).collect();
    let mut chosen = vec![false; all.len()];
    for (number, is_chosen) in numbers.into_iter().zip(best_way(&some, is_start)) {
        chosen[number] = is_chosen;
    }
    chosen
}

/// Divides into those that are chosen and the others.
fn divide(all: &[Segment], chosen: &[bool], settled: Option<&[bool]>) -> (Vec<Segment>, Vec<Aside>) {
    let of = |wanted: bool| (0..all.len()).filter(move |number| chosen[*number] == wanted);
    let counts: Vec<Segment> = of(true).map(|number| all[number]).collect();
    let aside = of(false).map(|number| {
        let is_settled = settled.map(|settled| settled[number]);
        Aside { segment: all[number], kind: why_not(&counts, &all[number], is_settled) }
    });
    let aside = aside.collect();
    (counts, aside)
}

/// Finds the way through segments that goes farthest, where later writers overrule earlier ones; marks it.
fn best_way(all: &[Segment], is_start: &dyn Fn(&Segment) -> bool) -> Vec<bool> {
    let overruled = overruled(all, is_start);
    // What continues a segment begins behind its beginning, so it is sorted behind it.
    let mut reaches: Vec<u64> = all.iter().map(|segment| segment.last).collect();
    for number in (0..all.len()).rev() {
        let Segment { last, after, .. } = all[number];
        if let Some(next) = best(all, &overruled, &reaches, last, Some(after)) {
            reaches[number] = reaches[next];
        }
    }
    let mut chosen = vec![false; all.len()];
    let mut end: Option<(u64, Link)> = None;
    loop {
        let next = end.and_then(|(last, after)| best(all, &overruled, &reaches, last, Some(after)));
        let next = next.or_else(|| {
            let from = all.partition_point(|segment| end.is_some_and(|(last, _)| segment.first < last));
            let offset = overruled[from..].iter().position(|overruled| !overruled)?;
            best(all, &overruled, &reaches, all[from + offset].first, None)
        });
        let Some(next) = next else { break };
        chosen[next] = true;
        end = Some((all[next].last, all[next].after));
    }
    chosen
}

/// The best segment that begins at `first`, behind the chain's value `link` if that is given.
fn best(
    all: &[Segment],
    overruled: &[bool],
    reaches: &[u64],
    first: u64,
    link: Option<Link>,
) -> Option<usize> {
    let from = all.partition_point(|segment| segment.first < first);
    let here = (from..all.len()).take_while(|number| all[*number].first == first);
    here.filter(|number| !overruled[*number] && link.is_none_or(|link| all[*number].before == link))
        .max_by_key(|number| (all[*number].epoch, reaches[*number], all[*number].last, Reverse(*number)))
}

/// Finds the segments that contradict one of a later writer.
fn overruled(all: &[Segment], is_start: &dyn Fn(&Segment) -> bool) -> Vec<bool> {
    let mut contradictions: Vec<(usize, usize)> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for (number, segment) in all.iter().enumerate() {
        open.retain(|other| all[*other].last > segment.first);
        for &other in &open {
            if all[other].epoch != segment.epoch && contradict(&all[other], segment, is_start) {
                let earlier_first = all[other].epoch < segment.epoch;
                contradictions.push(if earlier_first { (other, number) } else { (number, other) });
            }
        }
        open.push(number);
    }
    // The latest writers first: what is overruled itself overrules nothing.
    contradictions.sort_unstable_by_key(|(_, later)| Reverse(all[*later].epoch));
    let mut overruled = vec![false; all.len()];
    for (earlier, later) in contradictions {
        overruled[earlier] |= !overruled[later];
    }
    overruled
}

/// Whether two segments that overlap, `a` beginning no later than `b`, cannot be the same log cut differently.
fn contradict(a: &Segment, b: &Segment, is_start: &dyn Fn(&Segment) -> bool) -> bool {
    if a.first == b.first {
        // Which of the two is chosen is decided where they begin.
        return a.before != b.before || (a.last == b.last && a.after != b.after);
    }
    b.last > a.last || (b.last == a.last && a.after != b.after) || is_start(b)
}

/// The part of what counts that has positions which `segment` has too.
fn across<'a>(counts: &'a [Segment], segment: &Segment) -> &'a [Segment] {
    let from = counts.partition_point(|other| other.last <= segment.first);
    let to = counts.partition_point(|other| other.first < segment.last);
    counts.get(from..to).unwrap_or(&[])
}

/// Tells why `segment` is not among those that count; `is_settled` is what the inheritance says of it, if there is one.
fn why_not(counts: &[Segment], segment: &Segment, is_settled: Option<bool>) -> AsideKind {
    let across = across(counts, segment);
    let (Some(head), Some(tail)) = (across.first(), across.last()) else {
        return if is_settled == Some(false) { AsideKind::Late } else { AsideKind::Overlap };
    };
    let is_whole = head.first <= segment.first
        && tail.last >= segment.last
        && across.windows(2).all(|pair| continues(&pair[0], &pair[1]));
    let begins_alike = head.first != segment.first || head.before == segment.before;
    let ends_alike = tail.last != segment.last || tail.after == segment.after;
    // What is cut finer than one that counts agrees with it in nothing that a listing shows: then it is believed to be the
    // same if it is part of what counts, and guessed to be if it is of the same writer.
    let is_equal = (head.first, head.before) == (segment.first, segment.before)
        && (tail.last, tail.after) == (segment.last, segment.after);
    let same_writer = head.first != segment.first || head.epoch == segment.epoch;
    if is_whole && begins_alike && ends_alike && (is_equal || is_settled.unwrap_or(same_writer)) {
        return AsideKind::Duplicate;
    }
    if head.first == segment.first && head.before == segment.before {
        AsideKind::Fork
    } else {
        AsideKind::Overlap
    }
}

#[cfg(test)]
mod tests {
    use super::super::inherit::Inherited;
    use super::*;

    /// A segment whose chain values are those of a chain called `chain` at its ends.
    fn segment(chain: u8, first: u64, last: u64, epoch: u32) -> Segment {
        forked(chain, chain, first, last, epoch)
    }

    fn forked(chain: u8, other: u8, first: u64, last: u64, epoch: u32) -> Segment {
        let link = |chain: u8, position: u64| {
            let mut bytes = [chain; 16];
            bytes[..8].copy_from_slice(&position.to_be_bytes());
            Link(bytes)
        };
        let (before, after) = (link(chain, first), link(other, last));
        Segment { first, last, until: 0, before, after, size: 1, epoch }
    }

    fn chosen(all: &[Segment]) -> (Vec<(u64, u64, u32)>, Vec<AsideKind>) {
        let (counts, aside) = choose(all.to_vec(), None, &|_| false);
        // The order of a listing must not matter.
        let reversed = choose(all.iter().rev().copied().collect(), None, &|_| false);
        assert_eq!((&counts, &aside), (&reversed.0, &reversed.1));
        let counts = counts.iter().map(|segment| (segment.first, segment.last, segment.epoch)).collect();
        (counts, aside.iter().map(|aside| aside.kind).collect())
    }

    #[test]
    fn what_a_compaction_left_counts_once() {
        use AsideKind::Duplicate;
        let part = |number: u64| segment(1, number, number + 1, 1);
        let merged = segment(1, 1, 5, 1);
        let all = [part(0), part(1), part(2), part(3), part(4), merged, part(5)];
        let expected = vec![(0, 1, 1), (1, 5, 1), (5, 6, 1)];
        assert_eq!(chosen(&all), (expected.clone(), vec![Duplicate; 4]));
        assert_eq!(chosen(&[part(0), part(3), merged, part(5)]), (expected.clone(), vec![Duplicate]));
        assert_eq!(chosen(&[part(0), part(1), merged, part(5)]), (expected, vec![Duplicate]));
        // Two compactions of which the first was superseded before it removed anything.
        let all = [part(0), part(1), segment(1, 0, 4, 1), segment(1, 2, 6, 1)];
        assert_eq!(chosen(&all), (vec![(0, 1, 1), (1, 2, 1), (2, 6, 1)], vec![Duplicate]));
    }

    #[test]
    fn the_later_writer_counts() {
        // Both wrote what follows position 10.
        let all =
            [segment(1, 0, 10, 1), forked(1, 2, 10, 30, 1), segment(1, 10, 20, 2), segment(1, 20, 25, 2)];
        let (counts, aside) = chosen(&all);
        assert_eq!(counts, [(0, 10, 1), (10, 20, 2), (20, 25, 2)]);
        assert_eq!(aside, [AsideKind::Fork]);
        // Both began, at different positions.
        let (counts, aside) = chosen(&[segment(1, 0, 10, 1), segment(2, 5, 15, 2)]);
        assert_eq!(counts, [(5, 15, 2)]);
        assert_eq!(aside, [AsideKind::Overlap]);
        // The earlier wrote to the end where the later began anew behind a gap, inside of what the earlier wrote.
        let all = [segment(1, 0, 10, 1), segment(1, 10, 30, 1), segment(2, 20, 25, 2)];
        let (counts, _) = choose(all.to_vec(), None, &|segment| segment.first == 20);
        assert_eq!(counts, [all[0], all[2]]);
    }

    #[test]
    fn what_the_latest_writer_inherited_counts() {
        let run = |segment: &Segment| Inherited { first: 0, last: segment.last, after: segment.after };
        let with = |epoch, runs: Vec<Inherited>, all: &[Segment]| {
            let (counts, aside) = choose(all.to_vec(), Some(&Inheritance { epoch, runs }), &|_| false);
            let counts: Vec<_> = counts.iter().map(|s| (s.first, s.last, s.epoch)).collect();
            (counts, aside.iter().map(|aside| aside.kind).collect::<Vec<_>>())
        };
        // The writer 3 found what 1 had left. What 2 wrote beside that, after it was looked for, does not count.
        let all =
            [segment(1, 0, 10, 1), segment(1, 10, 20, 1), forked(1, 2, 10, 20, 2), segment(1, 20, 30, 3)];
        let (counts, aside) = with(3, vec![run(&all[1])], &all);
        assert_eq!(counts, [(0, 10, 1), (10, 20, 1), (20, 30, 3)]);
        assert_eq!(aside, [AsideKind::Fork]);
        // Nor does it when nothing is in its place, or only a part.
        let late = [all[0], all[2]];
        assert_eq!(with(3, vec![run(&all[0])], &late).0, [(0, 10, 1)]);
        assert_eq!(with(3, vec![], &late).0, []);
        // What became one object with what follows counts as that does.
        let merged = Segment { epoch: 3, ..segment(1, 0, 30, 3) };
        assert_eq!(with(3, vec![run(&all[1])], &[all[0], all[2], merged]).0, [(0, 30, 3)]);
        // An object was lost in the middle: what was before it counts.
        let holed = [all[0], segment(1, 20, 30, 1), segment(1, 30, 40, 2)];
        assert_eq!(with(3, vec![run(&holed[2])], &holed).0, [(0, 10, 1), (20, 30, 1), (30, 40, 2)]);
        // Of the oldest some were given up.
        assert_eq!(with(3, vec![run(&all[1])], &all[1..]).0, [(10, 20, 1), (20, 30, 3)]);
    }
}
