//! Repairing the index: from the index files that are sound, and for all else from the packs themselves.
//!
//! # Order of writes, and what a crash leaves
//! 1. New index files. *Packs are listed twice, alike.*
//! 2. The old files are deleted. *Those that remain say what the new ones say, or cannot be read, as before.*

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use crate::check::expected_size;
use crate::event::{Event, Task};
use crate::format::{IndexFile, IndexPack, PackedBlob};
use crate::index_files::IndexFileWriter;
use crate::packs::read_header;
use crate::parallel::{in_parallel, remove_all, threads_for};
use crate::{Context, FileKind, Id, Index, IndexProblem, Lock, LockOptions, Repository, Result};

/// How the index is repaired.
#[derive(Debug, Clone, Copy, Default)]
pub struct RepairIndexOptions {
    /// Believe no index file, and read the header of every pack.
    pub read_all: bool,
    /// Intervals of the lock.
    pub lock: LockOptions,
}

/// What reading a pack's header gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderRead {
    /// Its blobs, which will be listed.
    Blobs(Vec<PackedBlob>),
    /// It cannot be read. The index lists the pack, which stays listed, so that its blobs can be salvaged.
    Listed(String),
    /// It cannot be read, and no index lists the pack.
    Unlisted(String),
}

/// What the repaired index will list, as differences; nothing has changed yet.
#[derive(Debug)]
pub struct RepairIndexPlan {
    /// Index files that cannot be used, and why.
    pub unusable: Vec<(Id, String)>,
    /// Packs that are listed and not there.
    pub missing: Vec<Id>,
    /// Packs whose header was read, because no index lists them as they are.
    pub read: Vec<(Id, HeaderRead)>,
    repository: Repository,
    lock: Lock,
    usable: Vec<Id>,
    present: HashSet<Id>,
}

/// What a repair of the index did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairIndexReport {
    /// The new index files.
    pub written: Vec<Id>,
    /// The old ones, all removed.
    pub removed: Vec<Id>,
}

/// Compares the index with the packs that are there, and reads the headers of those that it does not list right.
pub fn plan_repair_index(
    repository: &Repository,
    options: &RepairIndexOptions,
    context: Context<'_>,
) -> Result<RepairIndexPlan> {
    let lock = Lock::exclusive(repository, options.lock)?;
    let (index, problems) = Index::load_tolerant(repository, context)?;
    let packs = repository.list(FileKind::Pack)?;
    let sizes: HashMap<Id, u64> = packs.iter().copied().collect();
    let mut unusable = Vec::new();
    let mut doubtful = HashSet::new();
    for problem in problems {
        match problem {
            IndexProblem::Unusable { id, error } => unusable.push((id, error.to_string())),
            IndexProblem::Contradiction { pack } | IndexProblem::Overlap { pack } => {
                doubtful.insert(pack);
            }
        }
    }
    let mut listed = HashSet::new();
    let mut missing = Vec::new();
    let view = index.by_pack();
    for number in 0..index.pack_count() {
        let pack = index.pack_id(number);
        listed.insert(pack);
        match sizes.get(&pack) {
            None => missing.push(pack),
            Some(size) if *size != expected_size(&view.blobs(number)) => _ = doubtful.insert(pack),
            Some(_) => {}
        }
    }
    drop(view);
    missing.sort_unstable();
    missing.dedup();
    let marked: HashSet<Id> = index.packs_to_delete().iter().map(|pack| pack.id).collect();
    let mut to_read = packs;
    to_read.retain(|(id, _)| {
        !marked.contains(id) && (options.read_all || doubtful.contains(id) || !listed.contains(id))
    });
    let read = read_headers(repository, &to_read, &listed, context)?;
    Ok(RepairIndexPlan {
        unusable,
        missing,
        read,
        repository: repository.clone(),
        lock,
        usable: index.files().to_vec(),
        present: sizes.into_keys().collect(),
    })
}

fn read_headers(
    repository: &Repository,
    packs: &[(Id, u64)],
    listed: &HashSet<Id>,
    context: Context<'_>,
) -> Result<Vec<(Id, HeaderRead)>> {
    context.tell(Event::Begin(Task::Packs));
    context.tell(Event::Expect { task: Task::Packs, items: packs.len() as u64, bytes: 0 });
    let read = Mutex::new(Vec::new());
    in_parallel(
        packs,
        threads_for(repository),
        context,
        || (),
        |(), (pack, size)| {
            let outcome = match read_header(repository, pack, *size)? {
                Ok(blobs) => HeaderRead::Blobs(blobs),
                Err(why) if listed.contains(pack) => HeaderRead::Listed(why),
                Err(why) => HeaderRead::Unlisted(why),
            };
            read.lock().expect("no holder panics").push((*pack, outcome));
            context.tell(Event::Advance { task: Task::Packs, items: 1, bytes: 0 });
            Ok(())
        },
    )?;
    context.tell(Event::End(Task::Packs));
    let mut read = read.into_inner().expect("no holder panics");
    read.sort_unstable_by_key(|(pack, _)| *pack);
    Ok(read)
}

impl RepairIndexPlan {
    /// Whether the index is right as it is.
    pub fn is_empty(&self) -> bool {
        let news = self.read.iter().any(|(_, read)| matches!(read, HeaderRead::Blobs(_)));
        self.unusable.is_empty() && self.missing.is_empty() && !news
    }

    /// Writes the index anew, removes the old one, and gives the lock back.
    pub fn execute(self, context: Context<'_>) -> Result<RepairIndexReport> {
        let mut report = RepairIndexReport::default();
        if !self.is_empty() {
            context.check()?;
            report.written = self.write()?;
            report.removed =
                self.usable.iter().copied().chain(self.unusable.iter().map(|(id, _)| *id)).collect();
            self.lock.guard().check()?;
            context.tell(Event::Begin(Task::Delete));
            let kept = remove_all(&self.repository, FileKind::Index, &report.removed, context)?;
            if let Some((_, error)) = kept.into_iter().next() {
                return Err(error);
            }
            context.tell(Event::End(Task::Delete));
        }
        self.lock.release()?;
        Ok(report)
    }

    fn write(&self) -> Result<Vec<Id>> {
        let mut writer = IndexFileWriter::new(&self.repository, self.lock.guard());
        let mut done = HashSet::new();
        for (pack, read) in &self.read {
            if let HeaderRead::Blobs(blobs) = read {
                let blobs = blobs.iter().copied().map(Into::into).collect();
                writer.add(IndexPack { id: *pack, blobs, time: None })?;
                done.insert(*pack);
            }
        }
        let mut marked = Vec::new();
        for id in &self.usable {
            let file: IndexFile = self.repository.load_json(FileKind::Index, id)?;
            for pack in file.packs {
                if self.present.contains(&pack.id) && done.insert(pack.id) {
                    writer.add(pack)?;
                }
            }
            marked.extend(file.packs_to_delete);
        }
        for pack in marked {
            if self.present.contains(&pack.id) && done.insert(pack.id) {
                writer.mark(pack)?;
            }
        }
        writer.finish()
    }
}
