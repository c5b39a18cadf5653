//! Log archives against a model: whatever happens in whatever order, what was acknowledged and is still needed is
//! there, and the spans are those of the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use repository::check::Severity;
use repository::log::{
    Archive, CompactOptions, Error, Link, Part, RetainOptions, Scope, Target, decode_table, encode_table,
};
use repository::{Clock, Context};
use store::{Fault, Memory};

use crate::log_archive::{LINEAGE, base, piece, replay};
use crate::sample::open;
use crate::support::engine::in_memory;

/// What can happen to an archive.
#[derive(Debug, Clone)]
enum Happening {
    /// A piece of so many positions comes, so many behind the end; accepted with a gap or not.
    Append {
        length: u64,
        skip: u64,
        accepts_gap: bool,
    },
    /// The oldest piece behind a gap comes after all.
    Fill,
    /// Something that was archived comes again, or something else in its place.
    Repeat {
        which: usize,
        is_same: bool,
    },
    /// The writer begins anew.
    Reopen,
    Compact {
        objects_min: usize,
    },
    /// Everything before a piece is given up.
    Retain {
        which: usize,
    },
    /// The process dies at its nth write from now, before or after it.
    Crash {
        writes: u64,
        is_before: bool,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (1..4_u64).prop_map(|length| Happening::Append { length, skip: 0, accepts_gap: false }),
        1 => (1..4_u64, 1..4_u64, any::<bool>())
            .prop_map(|(length, skip, accepts_gap)| Happening::Append { length, skip, accepts_gap }),
        1 => Just(Happening::Fill),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, is_same)| Happening::Repeat { which, is_same }),
        1 => Just(Happening::Reopen),
        2 => (2..5_usize).prop_map(|objects_min| Happening::Compact { objects_min }),
        1 => any::<usize>().prop_map(|which| Happening::Retain { which }),
        2 => (1..6_u64, any::<bool>()).prop_map(|(writes, is_before)| Happening::Crash { writes, is_before }),
    ]
}

/// What the archive must hold: pieces by their first position, each with its end and how it follows.
#[derive(Debug, Default)]
struct Model {
    pieces: BTreeMap<u64, (u64, Vec<u8>)>,
    /// Positions at which a chain was begun behind a gap.
    starts: Vec<u64>,
    /// Nothing before this position is needed.
    retained_from: u64,
    /// What was being written when the process died: it may be there or not.
    in_doubt: Option<(u64, u64, Vec<u8>)>,
}

impl Model {
    fn end(&self) -> u64 {
        self.pieces.last_key_value().map_or(0, |(_, (last, _))| *last)
    }

    /// The unbroken stretches of what is still needed, with their bytes.
    fn runs(&self) -> Vec<(u64, u64, Vec<u8>)> {
        let mut runs: Vec<(u64, u64, Vec<u8>)> = Vec::new();
        for (first, (last, bytes)) in &self.pieces {
            match runs.last_mut() {
                Some(run) if run.1 == *first && !self.starts.contains(first) => {
                    run.1 = *last;
                    run.2.extend_from_slice(bytes);
                }
                _ => runs.push((*first, *last, bytes.clone())),
            }
        }
        runs
    }
}

struct Scene {
    store: Arc<Fault<Memory>>,
    archive: Archive,
    appender: Option<repository::log::Appender>,
    model: Model,
    made: u64,
}

impl Scene {
    fn new() -> Self {
        let (memory, _) = in_memory();
        Self::on(Memory::from_contents(memory.contents()), Model::default(), 0)
    }

    fn on(memory: Memory, model: Model, made: u64) -> Self {
        let store = Arc::new(Fault::new(memory));
        let archive = Archive::new(&open(store.clone(), Clock::system()), "c").unwrap();
        Self { store, archive, appender: None, model, made }
    }

    fn content(&mut self, length: u64) -> Vec<u8> {
        self.made += 1;
        vec![self.made as u8; length as usize]
    }

    fn happen(&mut self, happening: &Happening) -> Result<(), Error> {
        match *happening {
            Happening::Append { length, skip, accepts_gap } => {
                let (first, bytes) = (self.model.end() + skip, self.content(length));
                self.append(first, first + length, bytes, accepts_gap)
            }
            Happening::Fill => {
                let runs = self.model.runs();
                // What follows something that was given up follows nothing any more.
                let Some(pair) = runs
                    .windows(2)
                    .find(|pair| pair[0].1 < pair[1].0 && pair[0].1 > self.model.retained_from)
                else {
                    return Ok(());
                };
                let (first, last) = (pair[0].1, pair[1].0);
                let bytes = self.content(last - first);
                self.append(first, last, bytes, false)
            }
            Happening::Repeat { which, is_same } => self.repeat(which, is_same),
            Happening::Reopen => {
                self.appender = Some(self.archive.appender(LINEAGE)?);
                Ok(())
            }
            Happening::Compact { objects_min } => {
                let options = CompactOptions { below_bytes: 900, upto_bytes: 4000, objects_min };
                self.archive.compact(LINEAGE, &options, Context::silent()).map(drop)
            }
            Happening::Retain { which } => self.retain(which),
            Happening::Crash { writes, is_before } => {
                let at = self.store.durable_log().len() as u64 + writes;
                if is_before {
                    self.store.freeze_before(at);
                } else {
                    self.store.freeze_after(at);
                }
                Ok(())
            }
        }
    }

    fn append(&mut self, first: u64, last: u64, bytes: Vec<u8>, accepts_gap: bool) -> Result<(), Error> {
        if self.appender.is_none() {
            self.appender = Some(self.archive.appender(LINEAGE)?);
        }
        let appender = self.appender.as_ref().unwrap();
        self.model.in_doubt = Some((first, last, bytes.clone()));
        let piece = piece(first, last, &bytes);
        let begins = self.model.end() < first && !self.model.pieces.is_empty();
        let appended = if accepts_gap { appender.append_after_gap(&piece) } else { appender.append(&piece) };
        match appended {
            Err(Error::Gap { .. }) if begins && !accepts_gap => {}
            Ok(_) => {
                if begins {
                    self.model.starts.push(first);
                }
                self.model.pieces.insert(first, (last, bytes));
            }
            Err(error) => {
                if begins && accepts_gap {
                    self.model.starts.push(first);
                }
                return Err(error);
            }
        }
        self.model.in_doubt = None;
        Ok(())
    }

    fn repeat(&mut self, which: usize, is_same: bool) -> Result<(), Error> {
        let all: Vec<_> =
            self.model.pieces.iter().filter(|(first, _)| **first >= self.model.retained_from).collect();
        if all.is_empty() {
            return Ok(());
        }
        let (first, (last, bytes)) = all[which % all.len()];
        let bytes = if is_same { bytes.clone() } else { b"something else".to_vec() };
        let again = self.archive.appender(LINEAGE)?.append(&piece(*first, *last, &bytes));
        match again {
            Ok(appended) => assert!(is_same, "{appended:?}"),
            Err(Error::Conflict { .. }) => assert!(!is_same),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn retain(&mut self, which: usize) -> Result<(), Error> {
        let starts: Vec<u64> =
            self.model.pieces.keys().copied().filter(|first| *first >= self.model.retained_from).collect();
        if starts.is_empty() {
            return Ok(());
        }
        let from = starts[which % starts.len()];
        self.model.retained_from = from;
        let options = RetainOptions { keep_marked: Default::default(), ..RetainOptions::default() };
        let plan = self.archive.plan_retention(&[base(LINEAGE, from, from)], &options)?;
        plan.execute(Context::silent()).map(drop)
    }

    /// After a crash: another process, on what is left.
    fn reborn(self) -> Self {
        let mut reborn =
            Self::on(Memory::from_contents(self.store.inner().contents()), self.model, self.made);
        if let Some((first, last, bytes)) = reborn.model.in_doubt.take() {
            let known = reborn.archive.lineage(LINEAGE).unwrap();
            if known.segments.iter().any(|segment| (segment.first, segment.last) == (first, last)) {
                reborn.model.pieces.insert(first, (last, bytes));
            } else {
                reborn.model.starts.retain(|start| *start != first);
            }
        }
        reborn
    }

    fn compare(&self) {
        let from = self.model.retained_from;
        let catalogue = self.archive.catalogue().unwrap();
        let expected: Vec<_> = self.model.runs().into_iter().filter(|run| run.1 > from).collect();
        let found: Vec<(u64, u64)> = catalogue
            .get(LINEAGE)
            .map(|lineage| lineage.runs.iter().map(|run| (run.first, run.last)).collect())
            .unwrap_or_default();
        let found: Vec<_> = found.into_iter().filter(|run| run.1 > from).collect();
        // What was given up may be gone or not, and in between.
        let clip = |first: u64| first.max(from);
        let clipped = |runs: &mut dyn Iterator<Item = (u64, u64)>| -> Vec<(u64, u64)> {
            runs.map(|(first, last)| (clip(first), last)).collect()
        };
        let mut wanted = expected.iter().map(|run| (run.0, run.1));
        assert_eq!(clipped(&mut found.into_iter()), clipped(&mut wanted), "{:?}", self.model);
        for (first, last, bytes) in expected {
            let first_needed = clip(first);
            let bases = [base(LINEAGE, first_needed, first_needed)];
            let read = replay(&self.archive, &bases, LINEAGE, Target::Position(last));
            assert!(read[..] == bytes[(first_needed - first) as usize..], "{:?}", self.model);
        }
        let (spans, _) = catalogue.spans(&[base(LINEAGE, from, from)]);
        assert!(self.model.pieces.is_empty() || spans.len() == 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_nothing_acknowledged_is_lost(happenings in prop::collection::vec(happening(), 1..40)) {
        let mut scene = Scene::new();
        for happening in &happenings {
            let happened = scene.happen(happening);
            if scene.store.is_frozen() {
                scene = scene.reborn();
            } else {
                happened.unwrap();
            }
            scene.compare();
        }
        scene.store.heal();
        let mut findings = scene.archive.verify(Scope::All, Context::silent()).unwrap().findings;
        // A write of which nobody knows may have come too late, which is no error.
        findings.retain(|finding| finding.severity() == Severity::Error);
        let gaps = scene.archive.catalogue().unwrap().gaps().len();
        prop_assert_eq!(findings.len(), gaps, "{:?}", findings);
    }

    #[test]
    fn tables_come_back(
        lengths in prop::collection::vec((1..1000_u64, 0..50_u64, any::<Option<u32>>(), "[A-Z.]{0,8}"), 1..20),
        noise: Vec<u8>, at: usize,
    ) {
        let mut first = 7;
        let parts: Vec<Part> = lengths.into_iter().map(|(positions, length, until, name)| {
            let part = Part {
                first, last: first + positions, from_ms: None, until_ms: until.map(u64::from),
                name: Some(name).filter(|name| !name.is_empty()), length, sha256: [length as u8; 32],
            };
            first += positions;
            part
        }).collect();
        let mut content = encode_table(&parts);
        let table_bytes = content.len();
        let length: u64 = parts.iter().map(|part| part.length).sum();
        content.resize(table_bytes + length as usize, 9);
        prop_assert_eq!(decode_table(&content).unwrap(), (parts.clone(), table_bytes));
        prop_assert!(decode_table(&content[..content.len() - 1]).is_err());
        prop_assert!(decode_table(&noise).is_err());
        // Every field is in the chain.
        let before = Link([1; 16]);
        let part = &parts[at % parts.len()];
        let others = [
            Part { first: part.first ^ 1, ..part.clone() },
            Part { last: part.last + 1, ..part.clone() },
            Part { from_ms: Some(5), ..part.clone() },
            Part { until_ms: Some(u64::MAX - 1), ..part.clone() },
            Part { name: Some("other".into()), ..part.clone() },
            Part { length: part.length + 1, ..part.clone() },
            Part { sha256: [255; 32], ..part.clone() },
        ];
        for other in others {
            prop_assert_ne!(other.link(before), part.link(before));
        }
        prop_assert_ne!(part.link(Link([2; 16])), part.link(before));
    }
}
