//! The small files of a repository, as JSON: config, keys, locks, indexes, snapshots.
//!
//! Field names and their order are restic's; fields that restic does not know are ignored by it.

use serde::{Deserialize, Serialize};

use super::{BlobKind, Time};
use crate::Id;
use crate::crypto::ScryptCost;

/// The file `config`: what holds for the whole repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Version of the format; we write 2.
    pub version: u32,
    /// A random id.
    pub id: Id,
    /// An irreducible polynomial of degree 53, in hexadecimal; restic's chunker uses it.
    pub chunker_polynomial: String,
    /// What we add; absent in a repository that another program made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifeboat: Option<LifeboatConfig>,
}

/// What a repository made by Lifeboat says beside restic's own fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeboatConfig {
    /// How files are cut into chunks.
    pub chunking: Chunking,
}

/// How files are cut into chunks; all writers of a repository must agree, or they store everything twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chunking {
    /// Rabin fingerprints over the repository's polynomial, as restic does.
    Rabin,
    /// A gear hash keyed by the master key.
    Gear,
}

impl Config {
    /// How files are cut: as a Lifeboat repository says, or as restic does in a repository it made.
    pub fn chunking(&self) -> Chunking {
        self.lifeboat.as_ref().map_or(Chunking::Rabin, |lifeboat| lifeboat.chunking)
    }
}

/// A file below `keys/`: the master key, sealed with a key that a password gives. Not itself sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// When the key was added.
    pub created: Time,
    /// Who added it.
    #[serde(default)]
    pub username: String,
    /// Where it was added.
    #[serde(default)]
    pub hostname: String,
    /// Name of the key derivation function; always `scrypt`.
    pub kdf: String,
    /// Iterations of scrypt.
    #[serde(rename = "N")]
    pub n: u64,
    /// Block size of scrypt.
    pub r: u32,
    /// Parallelism of scrypt.
    pub p: u32,
    /// 64 random bytes.
    #[serde(with = "super::base64_serde")]
    pub salt: Vec<u8>,
    /// The sealed [`KeyFileSecret`].
    #[serde(with = "super::base64_serde")]
    pub data: Vec<u8>,
}

impl KeyFile {
    /// The cost that the file states.
    pub fn cost(&self) -> ScryptCost {
        ScryptCost { n: self.n, r: self.r, p: self.p }
    }
}

/// What is sealed inside a key file.
#[derive(Serialize, Deserialize)]
pub struct KeyFileSecret {
    /// The keys of the authentication.
    pub mac: KeyFileMac,
    /// The 32 bytes of the encryption key.
    #[serde(with = "super::base64_serde")]
    pub encrypt: Vec<u8>,
}

/// The keys of the authentication inside a key file.
#[derive(Serialize, Deserialize)]
pub struct KeyFileMac {
    /// 16 bytes.
    #[serde(with = "super::base64_serde")]
    pub k: Vec<u8>,
    /// 16 bytes.
    #[serde(with = "super::base64_serde")]
    pub r: Vec<u8>,
}

/// A file below `locks/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFile {
    /// When the lock was taken or last refreshed.
    pub time: Time,
    /// Whether nobody else may hold a lock.
    pub exclusive: bool,
    /// Host of the holder.
    #[serde(default)]
    pub hostname: String,
    /// User of the holder.
    #[serde(default)]
    pub username: String,
    /// Process of the holder.
    #[serde(default)]
    pub pid: i64,
    /// User number of the holder.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub uid: u32,
    /// Group number of the holder.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub gid: u32,
}

impl std::fmt::Display for LockFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { time, hostname, username, pid, .. } = self;
        write!(f, "held since {time} by process {pid} of {username}@{hostname}")
    }
}

/// A file below `index/`: which blobs lie in which packs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFile {
    /// The packs in use.
    #[serde(default, deserialize_with = "null_is_default")]
    pub packs: Vec<IndexPack>,
    /// Packs that a prune found unneeded and a later one will delete. rustic's field; restic ignores it and
    /// sees the packs as orphans.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub packs_to_delete: Vec<IndexPack>,
}

/// A pack in an index file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPack {
    /// The pack.
    pub id: Id,
    /// All its blobs.
    #[serde(deserialize_with = "null_is_default")]
    pub blobs: Vec<IndexBlob>,
    /// In `packs_to_delete`, when the pack was found unneeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

/// A blob in an index file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexBlob {
    /// SHA-256 of its plaintext.
    pub id: Id,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: BlobKind,
    /// Where its sealed bytes begin.
    pub offset: u32,
    /// How many sealed bytes it has.
    pub length: u32,
    /// Length of its plaintext when compressed, else 0.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub uncompressed_length: u32,
}

impl From<IndexBlob> for super::PackedBlob {
    fn from(blob: IndexBlob) -> Self {
        let IndexBlob { id, kind, offset, length, uncompressed_length } = blob;
        Self { kind, id, offset, length, uncompressed_length }
    }
}

impl From<super::PackedBlob> for IndexBlob {
    fn from(blob: super::PackedBlob) -> Self {
        let super::PackedBlob { kind, id, offset, length, uncompressed_length } = blob;
        Self { id, kind, offset, length, uncompressed_length }
    }
}

/// A file below `snapshots/`: one state of some paths at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the backup began.
    pub time: Time,
    /// The snapshot that this one was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The root directory.
    pub tree: Id,
    /// The absolute paths that were backed up.
    #[serde(deserialize_with = "null_is_default")]
    pub paths: Vec<String>,
    /// Where the backup ran.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Who ran it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Who ran it, by number.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub uid: u32,
    /// Who ran it, by group number.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub gid: u32,
    /// What was left out, as it was asked for.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    /// Free labels.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The snapshot that this one was made from by rewriting or copying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// The program that made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// What the backup did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<SnapshotSummary>,
}

/// What a backup did, inside its snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotSummary {
    /// When it began.
    pub backup_start: Time,
    /// When it ended.
    pub backup_end: Time,
    /// Files that the parent had not.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files that are as in the parent.
    pub files_unmodified: u64,
    /// Directories that the parent had not.
    pub dirs_new: u64,
    /// Directories that differ from the parent's.
    pub dirs_changed: u64,
    /// Directories that are as in the parent.
    pub dirs_unmodified: u64,
    /// New data blobs.
    pub data_blobs: i64,
    /// New tree blobs.
    pub tree_blobs: i64,
    /// Plaintext bytes of the new blobs.
    pub data_added: u64,
    /// Stored bytes of the new blobs.
    pub data_added_packed: u64,
    /// Files in all.
    pub total_files_processed: u64,
    /// Bytes in all files.
    pub total_bytes_processed: u64,
}

fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

/// Go writes a nil list as `null`.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
