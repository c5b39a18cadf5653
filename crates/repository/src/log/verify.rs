//! Verification: reads what was not verified yet, and tells everything that is wrong.
//!
//! # What is remembered
//! Objects never change, so what was verified once need not be read again while the listing shows the same name and
//! size. A name has the chain's values in it, so whatever replaces a segment has another. A record of a lineage
//! holds 8 bytes of a SHA-256 over name and size for each verified object. Records are created once; a later
//! verification writes one that has everything, and then removes those that it has read.
//!
//! # Crash
//! A record that was not written means reading again; one that was not removed is read as well.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::catalogue::{AsideKind, Gap, Lineage};
use super::name::Segment;
use super::{Archive, Catalogue, Error, Result, object};
use crate::check::Severity;
use crate::parallel::{in_parallel, threads_for};
use crate::{Context, Id};

/// How many objects one record has at most: 32 MiB, half of what an object may hold.
const RECORD_OBJECTS_MAX: usize = 4 << 20;
/// The version of a record.
const VERSION: u8 = 1;

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// What no earlier verification has read.
    New,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// What is wrong; empty if nothing.
    pub findings: Vec<Finding>,
    /// Objects that were read now and are sound.
    pub verified: u64,
    /// Objects that earlier verifications had read.
    pub known: u64,
    /// Bytes of the store that were read.
    pub bytes: u64,
    /// Why what was verified will be read again, where it could not be remembered: in a store that is only read.
    pub not_remembered: Option<String>,
}

/// Something that is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// An object vanished.
    #[error("{object} is missing")]
    Missing {
        /// The object.
        object: String,
    },
    /// An object cannot be read or contradicts its name.
    #[error("{object} is damaged: {why}")]
    Damaged {
        /// The object.
        object: String,
        /// What is wrong.
        why: String,
    },
    /// An object has the place of another.
    #[error("{object} was written under another name, {written_as}")]
    WrongName {
        /// The object.
        object: String,
        /// Its right name.
        written_as: String,
    },
    /// A lineage is interrupted.
    #[error("the log of {} has a gap from {:#x} to {:#x}", .0.lineage, .0.after, .0.before)]
    Gap(Gap),
    /// A segment overlaps others and does not fit to them.
    #[error("{object} overlaps other segments and contradicts them; it is not used")]
    Overlap {
        /// The object.
        object: String,
    },
    /// A segment begins like another and says something else.
    #[error("{object} contradicts what a later writer wrote at the same position; it is not used")]
    Fork {
        /// The object.
        object: String,
    },
    /// A segment of a writer that another had superseded when it was written.
    #[error(
        "{object} was written after another writer had begun, so it was not acknowledged; it is not used"
    )]
    Late {
        /// The object.
        object: String,
    },
    /// Objects whose names say nothing.
    #[error("{count} objects in the log have names that nobody gave them")]
    Unknown {
        /// How many.
        count: u64,
    },
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Missing { .. } | Self::Damaged { .. } | Self::WrongName { .. } | Self::Gap(_) => {
                Severity::Error
            }
            Self::Overlap { .. } | Self::Fork { .. } => Severity::Warning,
            Self::Late { .. } | Self::Unknown { .. } => Severity::Note,
        }
    }

    /// What to do about it.
    pub fn repair(&self) -> &'static str {
        match self {
            Self::Missing { .. } | Self::Gap(_) => {
                "archive what is missing again while the source still has it; otherwise take a new base"
            }
            Self::Damaged { .. } | Self::WrongName { .. } => {
                "discard the object and archive it again while the source still has it; otherwise take a new base"
            }
            Self::Overlap { .. } | Self::Fork { .. } | Self::Late { .. } => {
                "let only one process archive; what was acknowledged is in the segments that are used"
            }
            Self::Unknown { .. } => "see what they are and who put them there",
        }
    }
}

impl Archive {
    /// Reads and verifies what `scope` says, on several threads, and remembers what was sound.
    ///
    /// Fails when the store cannot be read; what was verified until then is remembered, if it can be written.
    pub fn verify(&self, scope: Scope, context: Context<'_>) -> Result<VerifyReport> {
        let catalogue = self.catalogue()?;
        let mut report = VerifyReport::default();
        self.look_at(&catalogue, &mut report.findings);
        for (name, lineage) in catalogue.lineages() {
            self.verify_lineage(name, lineage, scope, &mut report, context)?;
        }
        Ok(report)
    }

    /// Finds what a listing alone shows.
    fn look_at(&self, catalogue: &Catalogue, findings: &mut Vec<Finding>) {
        findings.extend(catalogue.gaps().into_iter().map(Finding::Gap));
        for (name, lineage) in catalogue.lineages() {
            findings.extend(lineage.aside.iter().filter_map(|aside| {
                let object = object(&self.segment_name(name, &aside.segment));
                match aside.kind {
                    AsideKind::Duplicate => None,
                    AsideKind::Fork => Some(Finding::Fork { object }),
                    AsideKind::Overlap => Some(Finding::Overlap { object }),
                    AsideKind::Late => Some(Finding::Late { object }),
                }
            }));
        }
        if catalogue.unknown > 0 {
            findings.push(Finding::Unknown { count: catalogue.unknown });
        }
    }

    fn verify_lineage(
        &self,
        name: &str,
        lineage: &Lineage,
        scope: Scope,
        report: &mut VerifyReport,
        context: Context<'_>,
    ) -> Result<()> {
        let records = self.records(name, lineage)?;
        let segments = lineage.segments.iter().map(|segment| Item::Segment(*segment));
        let files = lineage.files.iter().map(|(file, size)| Item::File(file, *size));
        let (known, new): (Vec<_>, Vec<_>) = segments
            .chain(files)
            .map(|item| (item.fingerprint(), item))
            .partition(|(print, _)| scope == Scope::New && records.contains(print));
        let sound = Mutex::new(Vec::with_capacity(new.len()));
        let (findings, bytes) = (Mutex::new(Vec::new()), AtomicU64::new(0));
        let read = in_parallel(
            &new,
            threads_for(&self.repository),
            context,
            || (),
            |(), (print, item)| {
                match self.verify_item(name, item) {
                    Ok(()) => sound.lock().expect("no holder panics").push(*print),
                    Err(error) => findings.lock().expect("no holder panics").push(finding(error)?),
                }
                bytes.fetch_add(item.size(), Ordering::Relaxed);
                Ok(())
            },
        );
        let sound = sound.into_inner().expect("no holder panics");
        report.known += known.len() as u64;
        report.verified += sound.len() as u64;
        report.bytes += bytes.into_inner();
        let mut findings = findings.into_inner().expect("no holder panics");
        findings.sort_unstable_by_key(ToString::to_string);
        report.findings.append(&mut findings);
        if !sound.is_empty() {
            let prints = known.into_iter().map(|(print, _)| print).chain(sound).collect();
            if let Err(error) = self.remember(name, lineage, prints) {
                report.not_remembered = Some(error.to_string());
            }
        }
        Ok(read?)
    }

    fn verify_item(&self, lineage: &str, item: &Item<'_>) -> Result<()> {
        match item {
            Item::Segment(segment) => self.read(lineage, segment).map(drop),
            Item::File(file, _) => match self.file(lineage, file)? {
                Some(_) => Ok(()),
                None => Err(Error::Missing { object: object(&self.file_name(lineage, file)?) }),
            },
        }
    }

    /// What earlier verifications remember; a record that cannot be read remembers nothing.
    fn records(&self, name: &str, lineage: &Lineage) -> Result<HashSet<u64>> {
        let mut records = HashSet::new();
        for record in &lineage.verified {
            match self.repository.sidecar_read(&self.name(name, &format!("v/{record}"))) {
                Ok(Some(content)) => records.extend(parse_record(&content)),
                Ok(None) | Err(crate::Error::Damaged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(records)
    }

    fn remember(&self, name: &str, lineage: &Lineage, mut prints: Vec<u64>) -> Result<()> {
        prints.sort_unstable();
        prints.dedup();
        let mut written = HashSet::new();
        for prints in prints.chunks(RECORD_OBJECTS_MAX) {
            let mut content = vec![VERSION];
            prints.iter().for_each(|print| content.extend(print.to_le_bytes()));
            let record = Id::of(&content).to_hex()[..32].to_owned();
            self.create_small(&self.name(name, &format!("v/{record}")), &content)?;
            written.insert(record);
        }
        for old in lineage.verified.iter().filter(|old| !written.contains(*old)) {
            self.repository.sidecar_remove(&self.name(name, &format!("v/{old}")))?;
        }
        Ok(())
    }

    /// Removes the object of a segment that is damaged or was moved there, so that it can be archived again.
    ///
    /// Reads it first: `false`, and nothing is removed, when it is sound or gone.
    pub fn discard_damaged(&self, lineage: &str, segment: &Segment) -> Result<bool> {
        match self.read_object(lineage, segment) {
            Ok(_) | Err(Error::Missing { .. }) => Ok(false),
            Err(Error::Damaged { .. } | Error::WrongName { .. }) => {
                self.repository.sidecar_remove(&self.segment_name(lineage, segment))?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

/// What a verification reads.
enum Item<'a> {
    Segment(Segment),
    File(&'a str, u64),
}

impl Item<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Segment(segment) => u64::from(segment.size),
            Self::File(_, size) => *size,
        }
    }

    /// Eight bytes that stand for a name and a size.
    fn fingerprint(&self) -> u64 {
        let mut hash = Sha256::new();
        match self {
            Self::Segment(segment) => hash.update(segment.file_name()),
            Self::File(file, _) => hash.update(format!("a/{file}")),
        }
        hash.update(self.size().to_le_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        u64::from_le_bytes(*digest.first_chunk().expect("32 bytes have 8"))
    }
}

fn parse_record(content: &[u8]) -> Vec<u64> {
    match content {
        [VERSION, prints @ ..] => {
            prints.as_chunks().0.iter().map(|print| u64::from_le_bytes(*print)).collect()
        }
        // Of a later version, perhaps: what it says is read again.
        _ => Vec::new(),
    }
}

/// What an error of one object says about the archive; other errors stop the verification.
fn finding(error: Error) -> crate::Result<Finding> {
    Ok(match error {
        Error::Missing { object } => Finding::Missing { object },
        Error::Damaged { object, why } => Finding::Damaged { object, why },
        Error::WrongName { object, written_as } => Finding::WrongName { object, written_as },
        Error::Repository(error) => return Err(error),
        other => return Err(crate::Error::Refused(other.to_string())),
    })
}
