//! The bytes of the format, and nothing else: what lies in a repository, parsed and written.
//!
//! Nothing in here touches a store, a file or a clock. `docs/format.md` is the description.

mod files;
mod json_cursor;
mod json_text;
mod pack;
mod printable;
mod quote;
mod time;
mod tree;

pub use files::{
    Chunking, Config, IndexBlob, IndexFile, IndexPack, KeyFile, KeyFileMac, KeyFileSecret, LifeboatConfig,
    LockFile, Snapshot, SnapshotSummary,
};
pub use pack::{
    BlobKind, HEADER_BYTES_MAX, LENGTH_BYTES, PackHeaderError, PackedBlob, encode_header, entry_bytes,
    parse_header, trailer_bytes,
};
pub use time::Time;
pub use tree::{Node, NodeKind, TreeBuilder, TreeError, Xattr, mode_from_unix, mode_to_unix, parse_tree};

/// Byte strings as standard base64 with padding, as Go's JSON has them.
mod base64_serde {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}
