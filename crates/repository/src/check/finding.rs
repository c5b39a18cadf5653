//! What a check can find, how bad it is, and what helps.

use std::fmt;

use crate::Id;
use crate::format::Time;
use crate::packs::PackFault;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing to do; good to know.
    Note,
    /// Nothing is lost; something should be put in order.
    Warning,
    /// Something is lost or may not be restored.
    Error,
}

/// What to do about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remedy {
    /// Rebuild the index from the packs.
    RepairIndex,
    /// Take the readable blobs out of damaged packs.
    RepairPacks,
    /// Rewrite the snapshots that lost something.
    RepairSnapshots,
    /// Prune.
    Prune,
    /// Look at the snapshots, and at the clocks of the hosts that made them.
    InspectSnapshots,
    /// Remove the key, and add one anew if it is missed.
    RemoveKey,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RepairIndex => "repair the index",
            Self::RepairPacks => "salvage the damaged packs, then repair the snapshots and back up again",
            Self::RepairSnapshots => "repair the snapshots and back up again",
            Self::Prune => "prune",
            Self::InspectSnapshots => "look at these snapshots and at the clock of the host that made them",
            Self::RemoveKey => "remove the key, and add one anew if its password is still in use",
        })
    }
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A key file that no password can open.
    #[error("key {id} is damaged: {why}")]
    KeyDamaged {
        /// The key.
        id: Id,
        /// What is wrong with it.
        why: String,
    },
    /// An index file that cannot be used.
    #[error("index {id} cannot be used: {why}")]
    IndexUnusable {
        /// The file.
        id: Id,
        /// Why.
        why: String,
    },
    /// Index files that list one pack differently.
    #[error("pack {pack} is listed differently by several index files")]
    IndexContradiction {
        /// The pack.
        pack: Id,
    },
    /// Listed blobs that overlap.
    #[error("the blobs listed for pack {pack} overlap")]
    IndexOverlap {
        /// The pack.
        pack: Id,
    },
    /// A snapshot that cannot be loaded.
    #[error("snapshot {id} cannot be loaded: {why}")]
    SnapshotUnusable {
        /// The snapshot.
        id: Id,
        /// Why.
        why: String,
    },
    /// A snapshot that is dated in the future: retention by age cannot be trusted with it.
    #[error("snapshot {id} is dated {time}, which is in the future")]
    SnapshotInFuture {
        /// The snapshot.
        id: Id,
        /// Its date.
        time: Time,
    },
    /// An indexed pack that is not there.
    #[error("pack {pack} is missing; {blobs} blobs were in it")]
    PackMissing {
        /// The pack.
        pack: Id,
        /// How many blobs the index lists for it.
        blobs: usize,
    },
    /// A pack that is longer or shorter than what the index lists for it.
    #[error("pack {pack} has {found} bytes instead of {expected}")]
    PackSize {
        /// The pack.
        pack: Id,
        /// Bytes of the listed blobs and their header.
        expected: u64,
        /// Bytes in the store.
        found: u64,
    },
    /// A pack whose bytes are not what they should be.
    #[error("pack {pack} is damaged: {}", summary(faults))]
    PackDamaged {
        /// The pack.
        pack: Id,
        /// Everything that is wrong with it.
        faults: Vec<PackFault>,
    },
    /// A pack that holds data and trees.
    #[error("pack {pack} holds both data and trees")]
    PackMixed {
        /// The pack.
        pack: Id,
    },
    /// Packs that no index lists: left by a backup that was interrupted, or being written at this moment.
    #[error("{} packs with {bytes} bytes are in no index", packs.len())]
    PacksUnindexed {
        /// The packs.
        packs: Vec<Id>,
        /// Their bytes in all.
        bytes: u64,
    },
    /// Packs that a prune marked and a later one will delete.
    #[error("{packs} packs with {bytes} bytes are marked for deletion")]
    PacksMarked {
        /// How many.
        packs: usize,
        /// Their bytes in all.
        bytes: u64,
    },
    /// A pack that was marked for deletion at a time yet to come.
    #[error("pack {pack} was marked for deletion at {time}, which is in the future")]
    PackMarkedInFuture {
        /// The pack.
        pack: Id,
        /// When it says it was marked.
        time: Time,
    },
    /// A tree that a snapshot needs and that cannot be read.
    #[error("tree {tree} cannot be read: {why}")]
    TreeUnreadable {
        /// The tree.
        tree: Id,
        /// Why.
        why: String,
    },
    /// An entry of a tree that makes no sense.
    #[error("{name:?} in tree {tree} {fault}")]
    NodeInvalid {
        /// The tree.
        tree: Id,
        /// The entry.
        name: String,
        /// What is wrong with it.
        fault: NodeFault,
    },
    /// Blobs of files that no index has.
    #[error("{} data blobs that snapshots need are in no index", blobs.len())]
    DataMissing {
        /// The blobs, in the order of their ids.
        blobs: Vec<Id>,
        /// How many of them are in packs that are marked for deletion, from where a prune takes them back.
        marked: usize,
    },
    /// What Lifeboat keeps beside the snapshots, such as a proof or the facts of a recovery point, and what
    /// cannot be read.
    #[error("sidecar object {name} cannot be read: {why}")]
    SidecarDamaged {
        /// Its name, without `lifeboat/`.
        name: String,
        /// Why.
        why: String,
    },
    /// Blobs that are stored more than once.
    #[error("{blobs} blobs are stored more than once; the copies take {bytes} bytes")]
    BlobsDuplicate {
        /// How many copies too many.
        blobs: u64,
        /// Their sealed bytes.
        bytes: u64,
    },
    /// Blobs that no snapshot needs.
    #[error("{blobs} blobs with {bytes} bytes are needed by no snapshot")]
    BlobsUnused {
        /// How many.
        blobs: u64,
        /// Their sealed bytes.
        bytes: u64,
    },
}

/// What is wrong with an entry of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeFault {
    /// A file without a list of blobs.
    NoContent,
    /// A directory without a tree.
    NoSubtree,
    /// A file whose blobs have another length in all than its size.
    Size {
        /// The size that the entry states.
        stated: u64,
        /// The length of its blobs.
        content: u64,
    },
}

impl fmt::Display for NodeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoContent => f.write_str("is a file without content"),
            Self::NoSubtree => f.write_str("is a directory without a tree"),
            Self::Size { stated, content } => {
                write!(f, "states a size of {stated} bytes and has {content}")
            }
        }
    }
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::IndexUnusable { .. }
            | Self::IndexOverlap { .. }
            | Self::SnapshotUnusable { .. }
            | Self::PackMissing { .. }
            | Self::PackSize { .. }
            | Self::PackDamaged { .. }
            | Self::TreeUnreadable { .. }
            | Self::DataMissing { .. }
            | Self::SidecarDamaged { .. } => Severity::Error,
            Self::NodeInvalid { fault: NodeFault::Size { .. }, .. } => Severity::Warning,
            Self::NodeInvalid { .. } => Severity::Error,
            Self::KeyDamaged { .. }
            | Self::IndexContradiction { .. }
            | Self::SnapshotInFuture { .. }
            | Self::PackMixed { .. }
            | Self::PackMarkedInFuture { .. } => Severity::Warning,
            Self::PacksUnindexed { .. }
            | Self::PacksMarked { .. }
            | Self::BlobsDuplicate { .. }
            | Self::BlobsUnused { .. } => Severity::Note,
        }
    }

    /// What helps, if anything is to be done.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::KeyDamaged { .. } => Remedy::RemoveKey,
            Self::IndexUnusable { .. }
            | Self::IndexContradiction { .. }
            | Self::IndexOverlap { .. }
            | Self::PackMissing { .. } => Remedy::RepairIndex,
            Self::SnapshotUnusable { .. } | Self::TreeUnreadable { .. } => Remedy::RepairSnapshots,
            Self::NodeInvalid { .. } => Remedy::RepairSnapshots,
            Self::SnapshotInFuture { .. } | Self::PackMarkedInFuture { .. } => Remedy::InspectSnapshots,
            Self::PackSize { .. } => Remedy::RepairPacks,
            Self::PackDamaged { faults, .. } if faults == &[PackFault::IndexMismatch] => Remedy::RepairIndex,
            Self::PackDamaged { .. } => Remedy::RepairPacks,
            Self::DataMissing { blobs, marked } if *marked == blobs.len() => Remedy::Prune,
            // An index file may be lost and its packs still there; only when that did not help, they are gone.
            Self::DataMissing { .. } => Remedy::RepairIndex,
            Self::PackMixed { .. } | Self::BlobsDuplicate { .. } | Self::BlobsUnused { .. } => Remedy::Prune,
            Self::PacksUnindexed { .. } => Remedy::Prune,
            Self::PacksMarked { .. } | Self::SidecarDamaged { .. } => return None,
        })
    }
}

/// Names the first fault, and how many more there are.
fn summary(faults: &[PackFault]) -> String {
    match faults {
        [] => "nothing".into(),
        [fault] => fault.to_string(),
        [fault, rest @ ..] => format!("{fault} (and {} more)", rest.len()),
    }
}
