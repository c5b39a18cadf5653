//! Sealed content and chunk boundaries.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use repository::chunker::{Chunker, Fixed, Gear, Polynomial, Rabin};
use repository::crypto::ScryptCost;
use repository::format::{BlobKind, Chunking, IndexFile, PackedBlob};
use repository::sidecar::{decode, encode};
use repository::{Clock, FileKind, Id, InitOptions, Opener, Repository, Sealer, keys};
use store::{Memory, Store};

/// Longest uncompressed length that is claimed here; what may be claimed in a repository is four times the memory
/// that a run may take.
const CLAIM_BYTES_MAX: u32 = 64 << 20;

/// A sealed blob whose index entry states any uncompressed length: it opens to what its id says or not at all.
pub fn blob(data: &[u8]) {
    let Some((claim, content)) = data.split_first_chunk::<4>() else { return };
    let claim = u32::from_le_bytes(*claim) % CLAIM_BYTES_MAX;
    let expected = zstd::bulk::decompress(content, claim as usize).unwrap_or_default();
    let id = Id::of(&expected);
    let mut sealed = crate::key().seal(content);
    let length = sealed.len() as u32;
    let blob = PackedBlob { kind: BlobKind::Data, id, offset: 0, length, uncompressed_length: claim };
    let mut opener = Opener::new(crate::key());
    if let Ok(plaintext) = opener.open(&blob, &mut sealed) {
        assert_eq!(plaintext, expected);
        assert_eq!(plaintext.len(), blob.plain_length() as usize);
    }
    for kind in [BlobKind::Data, BlobKind::Tree] {
        let mut sealer = Sealer::new(crate::key());
        let (sealed, uncompressed_length) = sealer.seal(kind, content);
        let mut sealed = sealed.to_vec();
        let length = sealed.len() as u32;
        let blob = PackedBlob { kind, id: Id::of(content), offset: 0, length, uncompressed_length };
        assert_eq!(opener.open(&blob, &mut sealed).expect("what we sealed opens"), content);
    }
}

/// A sealed file with any plaintext: the marker for compression and what lies behind it.
pub fn sealed_file(data: &[u8]) {
    static REPOSITORY: OnceLock<Repository> = OnceLock::new();
    let repository = REPOSITORY.get_or_init(|| {
        let options = InitOptions {
            chunking: Chunking::Gear,
            polynomial: Some("25b468838dcb75".into()),
            cost: ScryptCost { n: 2, r: 1, p: 1 },
            author: keys::Author::default(),
        };
        Repository::init(Arc::new(Memory::new()), b"fuzz", &options, Clock::system()).expect("memory")
    });
    let sealed = repository.key().seal(data);
    let id = Id::of(&sealed);
    let object = FileKind::Index.object(&id);
    repository.store().put(&object, sealed.into()).expect("memory");
    let loaded = repository.load(FileKind::Index, &id);
    if let (Some(b'{' | b'['), Ok(plaintext)) = (data.first(), &loaded) {
        assert_eq!(plaintext, data);
    }
    let parsed = repository.load_json::<IndexFile>(FileKind::Index, &id);
    assert!(parsed.is_err() || loaded.is_ok());
    repository.store().delete(&object).expect("memory");
}

/// The plaintext of a sidecar object, as it is and as an envelope before compression: it opens under one name only.
pub fn sidecar(data: &[u8]) {
    const NAME: &str = "points/00ff";
    let mut compressed = vec![2];
    compressed.extend(zstd::bulk::compress(data, 1).expect("a buffer of the library's own bound suffices"));
    for plaintext in [data, &compressed] {
        let Ok(content) = decode(NAME, plaintext) else { continue };
        assert!(decode("points/00f", plaintext).is_err());
        assert_eq!(decode(NAME, &encode(NAME, &content)).expect("what we write opens"), content);
    }
    assert!(decode("plan", &encode(NAME, data)).is_err());
}

/// Longest content that is cut here; above the longest chunk, so that it is reached too.
const CONTENT_BYTES_MAX: usize = 9 << 20;

/// Content made of runs and noise: cuts cover it, keep to their bounds and do not depend on how it is fed.
pub fn chunks(data: &[u8]) {
    let Some((&[which, feed], recipe)) = data.split_first_chunk::<2>() else { return };
    let content = content(recipe);
    let chunker = &chunkers()[usize::from(which) % chunkers().len()];
    let whole = cut(chunker, &content, usize::MAX);
    let fed = cut(chunker, &content, (usize::from(feed) + 1) * 40_009);
    assert_eq!(whole, fed);
    assert_eq!(whole.iter().sum::<usize>(), content.len());
    assert!(whole.iter().all(|length| (1..=chunker.max_bytes()).contains(length)));
    if !matches!(chunker, Chunker::Gear(_)) {
        let before_last = &whole[..whole.len().saturating_sub(1)];
        assert!(before_last.iter().all(|length| *length >= chunker.min_bytes()));
    }
}

/// Makes content: each four bytes are a run of one byte, or of noise, and its length.
fn content(recipe: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut state = 1_u64;
    for &[kind, value, low, high] in recipe.as_chunks::<4>().0 {
        let length = usize::from(u16::from_le_bytes([low, high])) * if kind & 1 == 0 { 1 } else { 32 };
        let length = length.min(CONTENT_BYTES_MAX - content.len());
        if kind & 2 == 0 {
            content.resize(content.len() + length, value);
        } else {
            content.extend((0..length).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(value) | 1);
                (state >> 56) as u8
            }));
        }
    }
    content
}

fn chunkers() -> &'static [Chunker] {
    static CHUNKERS: OnceLock<Vec<Chunker>> = OnceLock::new();
    CHUNKERS.get_or_init(|| {
        let polynomial: Polynomial = "25b468838dcb75".parse().expect("an irreducible polynomial");
        vec![
            Chunker::Gear(Box::new(Gear::new(&[7; 32]))),
            Chunker::Rabin(Box::new(Rabin::new(polynomial))),
            Chunker::Fixed(Fixed::new(NonZeroUsize::new(100_003).expect("not zero"))),
        ]
    })
}

/// Cuts content of which `step` bytes more are shown whenever more is asked for.
fn cut(chunker: &Chunker, content: &[u8], step: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    let (mut start, mut shown) = (0, 0);
    loop {
        let last = shown == content.len();
        match chunker.next_cut(&content[start..shown], last) {
            Some(length) => {
                lengths.push(length);
                start += length;
            }
            None if last => return lengths,
            None => shown = content.len().min(shown.saturating_add(step)),
        }
    }
}
