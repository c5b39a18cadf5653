//! Sidecar objects: what Lifeboat keeps beside the snapshots, sealed, under names of its own choice.
//!
//! Facts of recovery points, journals of runs, proofs and plans lie under `lifeboat/`, where no other program
//! looks. What is in them is the caller's; this module knows bytes under names: `points/<snapshot id>`,
//! `runs/<run>/<nnnnnn>`, `proofs/…`, `plans/<digest>`. `docs/format.md` describes the bytes.
//!
//! # Consistency
//! An object is created once and never overwritten. Its name is in what is sealed, so that an object moved to
//! another name is not believed; and it is sealed with a key derived for this purpose, so that no other sealed
//! thing of the repository, whose plaintext somebody else may have chosen, passes for one.
//!
//! # Crash
//! The store writes an object whole or not at all, and durably before it answers. An interrupted create may be
//! repeated: it finds its own object and says [`Created::AlreadyThereEqual`].
//!
//! # Concurrency
//! No lock is needed: nothing that a lock protects refers to these objects. Of several creators of one name one
//! succeeds; the others are told whether they wanted to write the same.

use store::ErrorKind;

use crate::crypto::{MasterKey, OVERHEAD_BYTES};
use crate::parallel::threads_for;
use crate::{Error, Repository, Result};

/// The most bytes that one object holds. Journals are cut into many; nothing else comes near.
pub const SIDECAR_BYTES_MAX: usize = 64 << 20;
/// The most bytes of a name: file systems take 255 for a segment, S3 1024 for a key.
pub const NAME_BYTES_MAX: usize = 200;

/// The directory of all sidecar objects.
pub(crate) const DIRECTORY: &str = "lifeboat";
/// Kept by `backup` under names that are digests; no sidecar object lies there.
const RESERVED: &str = "checkpoints";
/// The first byte of an envelope; `{` and `[` of JSON never are it.
pub(crate) const VERSION: u8 = 1;
/// Compression level: these objects are small and read seldom.
const LEVEL: i32 = 3;

/// What came of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was written.
    Created,
    /// It was there, with the same content.
    AlreadyThereEqual,
}

impl Repository {
    /// Creates the object `name` with the content `bytes`; never overwrites one.
    ///
    /// Fails with [`Error::SidecarDiffers`] when there is one with other content, with [`Error::Damaged`] when the
    /// one that is there cannot be read, and with [`Error::Refused`] for a bad name or more than
    /// [`SIDECAR_BYTES_MAX`].
    pub fn sidecar_create(&self, name: &str, bytes: &[u8]) -> Result<Created> {
        check_name(name)?;
        if bytes.len() > SIDECAR_BYTES_MAX {
            let (length, most) = (bytes.len(), SIDECAR_BYTES_MAX);
            return Err(Error::Refused(format!(
                "{name} has {length} bytes; a sidecar object has at most {most}"
            )));
        }
        let sealed = sealing_key(self.key()).seal(&encode(name, bytes));
        match self.store().create(&object(name), sealed.into()) {
            Ok(()) => Ok(Created::Created),
            Err(error) if error.kind == ErrorKind::AlreadyExists => match self.sidecar_read(name)? {
                Some(there) if there == bytes => Ok(Created::AlreadyThereEqual),
                Some(_) => Err(Error::SidecarDiffers { name: name.into() }),
                // Removed by somebody since; the caller may try again.
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the object `name`; `None` when there is none.
    ///
    /// Fails with [`Error::Damaged`] when it is too long, does not open, or was written under another name.
    pub fn sidecar_read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        check_name(name)?;
        let object = object(name);
        let size = match self.store().size(&object) {
            Ok(size) => size,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if size > sealed_bytes_max() {
            return Err(damaged(name, format!("it has {size} bytes, more than any such object")));
        }
        let mut sealed = Vec::new();
        match self.store().get_range(&object, 0..size, &mut sealed) {
            Ok(()) => {}
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let key = sealing_key(self.key());
        let plaintext = key.open(&mut sealed).map_err(|error| damaged(name, error))?;
        decode(name, plaintext).map(Some).map_err(|why| damaged(name, why))
    }

    /// Reads several objects at once, on as many threads as the store likes; in the order of `names`.
    pub fn sidecar_read_many(&self, names: &[String]) -> Vec<Result<Option<Vec<u8>>>> {
        let share = names.len().div_ceil(threads_for(self)).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = names
                .chunks(share)
                .map(|names| {
                    scope.spawn(|| names.iter().map(|name| self.sidecar_read(name)).collect::<Vec<_>>())
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("reading does not panic")).collect()
        })
    }

    /// Lists the objects below `prefix`, such as `runs` or `runs/<run>`, or all when it is empty, in the order of
    /// their names, with their sizes in the store in bytes. Names that no sidecar object can have are passed over.
    pub fn sidecar_list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let directory = if prefix.is_empty() {
            DIRECTORY.to_owned()
        } else {
            check_name(prefix)?;
            object(prefix)
        };
        let mut found = Vec::new();
        self.store().list(&directory, &mut |object| {
            if let Some(name) = object.key.strip_prefix(DIRECTORY).and_then(|rest| rest.strip_prefix('/'))
                && is_name(name)
            {
                found.push((name.to_owned(), object.size));
            }
            Ok(())
        })?;
        found.sort_unstable();
        Ok(found)
    }

    /// Removes the object `name`; `Ok` when there is none.
    pub fn sidecar_remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        Ok(self.store().delete(&object(name))?)
    }
}

fn object(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

fn damaged(name: &str, why: impl std::fmt::Display) -> Error {
    Error::damaged(format!("sidecar object {name}"), why)
}

fn check_name(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{name:?} is no name of a sidecar object: segments of a-z, 0-9, '.', '_' and '-', none beginning with '.', \
         joined by '/', at most {NAME_BYTES_MAX} bytes, the first not {RESERVED}"
    )))
}

/// Whether `name` may be the name of a sidecar object.
pub fn is_name(name: &str) -> bool {
    let is_segment = |segment: &str| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(allowed)
    };
    name.len() <= NAME_BYTES_MAX
        && name.split('/').all(is_segment)
        && name.split('/').next() != Some(RESERVED)
}

/// The key that seals sidecar objects and nothing else.
pub(crate) fn sealing_key(key: &MasterKey) -> MasterKey {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&key.derive("lifeboat sidecar encrypt"));
    bytes[32..].copy_from_slice(&key.derive("lifeboat sidecar authenticate"));
    MasterKey::from_bytes(&bytes)
}

/// The most bytes of a sealed object: what does not compress grows by less than a part in 128.
pub(crate) fn sealed_bytes_max() -> u64 {
    (zstd::zstd_safe::compress_bound(ENVELOPE_BYTES_MAX) + 1 + OVERHEAD_BYTES) as u64
}

/// The most bytes of an envelope: version, length of the name, name, content.
pub(crate) const ENVELOPE_BYTES_MAX: usize = 2 + NAME_BYTES_MAX + SIDECAR_BYTES_MAX;
/// The first byte of a sealed file whose rest is zstd, here as everywhere.
pub(crate) const COMPRESSED: u8 = 2;

/// Makes the plaintext of the object `name`: the byte 2, then, compressed by zstd, the envelope.
///
/// The envelope is a version, the length of the name (a byte each), the name and the content.
pub fn encode(name: &str, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("a name has at most 200 bytes");
    let mut envelope = Vec::with_capacity(2 + name.len() + content.len());
    envelope.extend_from_slice(&[VERSION, length]);
    envelope.extend_from_slice(name.as_bytes());
    envelope.extend_from_slice(content);
    let compressed = zstd::bulk::compress(&envelope, LEVEL)
        .expect("compressing into a buffer of the library's own bound does not fail");
    let mut plaintext = vec![COMPRESSED];
    plaintext.extend_from_slice(&compressed);
    plaintext
}

/// Reads the plaintext of the object `name` and gives its content; the reason in words when it is none.
pub fn decode(name: &str, plaintext: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let envelope = match plaintext {
        [COMPRESSED, compressed @ ..] => decompress(compressed).map_err(|error| error.to_string())?,
        [byte, ..] => return Err(format!("its content begins with the unknown byte {byte:#04x}")),
        [] => return Err("it is empty".into()),
    };
    let (named, content) = match &envelope[..] {
        [VERSION, length, rest @ ..] => {
            rest.split_at_checked(usize::from(*length)).ok_or("its name is cut off")?
        }
        [VERSION] => return Err("its name is cut off".into()),
        [version, ..] => {
            return Err(format!("it has version {version}; this lifeboat knows version {VERSION}"));
        }
        [] => return Err("it is empty".into()),
    };
    if named != name.as_bytes() {
        return Err(format!("it was written under another name, {:?}", String::from_utf8_lossy(named)));
    }
    if content.len() > SIDECAR_BYTES_MAX {
        return Err(format!("it holds more than {SIDECAR_BYTES_MAX} bytes"));
    }
    Ok(content.to_vec())
}

fn decompress(compressed: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let limit = ENVELOPE_BYTES_MAX as u64;
    let mut envelope = Vec::new();
    zstd::stream::Decoder::with_buffer(compressed)?.take(limit + 1).read_to_end(&mut envelope)?;
    if envelope.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it decompresses to more than {limit} bytes")));
    }
    Ok(envelope)
}
