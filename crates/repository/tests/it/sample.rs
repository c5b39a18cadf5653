//! Small repositories to damage, and the tools for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use repository::backup::{BackupOptions, Source, backup};
use repository::check::{CheckOptions, CheckReport, ReadData, Severity, check};
use repository::crypto::{OVERHEAD_BYTES, ScryptCost};
use repository::format::{
    BlobKind, Chunking, IndexFile, IndexPack, PackedBlob, encode_header, trailer_bytes,
};
use repository::keys::Author;
use repository::{Clock, Context, FileKind, Id, InitOptions, Repository, Sealer};
use store::{Fault, Local, Memory, Store};

pub const PASSWORD: &str = "secret";

/// A repository in a directory that goes away with it, and a source beside it.
pub struct Sample {
    directory: tempfile::TempDir,
}

impl Sample {
    /// An empty repository of our making.
    pub fn new() -> Self {
        let sample = Self { directory: tempfile::tempdir().unwrap() };
        init(Arc::new(Local::open(sample.path()).unwrap()));
        sample
    }

    /// Two snapshots of our making, the second with other files than the first.
    pub fn ours() -> Self {
        let sample = Self::new();
        let repository = sample.open();
        sample.write_source(1);
        sample.back_up(&repository);
        sample.write_source(2);
        sample.back_up(&repository);
        sample
    }

    /// The same two snapshots as restic makes them.
    pub fn restics() -> Self {
        let sample = Self { directory: tempfile::tempdir().unwrap() };
        sample.restic(&["init", "--repository-version", "2"]);
        for version in [1, 2] {
            sample.write_source(version);
            let source = sample.source();
            sample.restic(&["backup", source.to_str().unwrap()]);
        }
        sample
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    pub fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn open(&self) -> Repository {
        open(Arc::new(Local::open(self.path()).unwrap()), Clock::system())
    }

    /// The repository as it is so much later.
    pub fn open_later(&self, hours: i64) -> Repository {
        open(Arc::new(Local::open(self.path()).unwrap()), later(hours))
    }

    /// Everything in the repository, to be put back after damage or carried into memory.
    pub fn contents(&self) -> BTreeMap<String, bytes::Bytes> {
        let store = Local::open(self.path()).unwrap();
        let mut contents = BTreeMap::new();
        store
            .list("", &mut |object| {
                contents.insert(object.key.clone(), store.get(&object.key)?.into());
                Ok(())
            })
            .unwrap();
        contents
    }

    /// A repository on disk that holds `contents`, for restic to look at.
    pub fn from_contents(contents: &BTreeMap<String, bytes::Bytes>) -> Self {
        let sample = Self { directory: tempfile::tempdir().unwrap() };
        let store = Local::open(sample.path()).unwrap();
        for (key, data) in contents {
            store.put(key, data.clone()).unwrap();
        }
        sample
    }

    pub fn back_up(&self, repository: &Repository) -> Id {
        let source = Source::Paths(vec![self.source()]);
        backup(repository, source, &BackupOptions::default(), Context::silent()).unwrap().snapshot.id
    }

    /// Writes the source in one of its versions: half of the files are the same in all.
    pub fn write_source(&self, version: u64) {
        let source = self.source();
        let _absent = std::fs::remove_dir_all(&source);
        std::fs::create_dir_all(source.join("same/deep")).unwrap();
        std::fs::create_dir_all(source.join(format!("only-{version}"))).unwrap();
        for number in 0..20 {
            let text = format!("file {number}, the same in every version\n").repeat(number * 10);
            std::fs::write(source.join(format!("same/deep/{number}.txt")), text).unwrap();
        }
        std::fs::write(source.join("same/noise"), noise(1, 700_000)).unwrap();
        std::fs::write(source.join("empty"), b"").unwrap();
        std::fs::write(source.join("changing"), noise(100 + version, 4_000_000)).unwrap();
        std::fs::write(source.join(format!("only-{version}/file")), noise(version, 400_000)).unwrap();
        std::os::unix::fs::symlink("same", source.join("link")).unwrap();
    }

    /// Runs restic to its end, which must be a good one.
    pub fn restic(&self, arguments: &[&str]) -> String {
        let output = self.try_restic(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "restic {arguments:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    pub fn try_restic(&self, arguments: &[&str]) -> Output {
        Command::new("restic")
            .args(arguments)
            // A comparison that is told to be quiet says nothing.
            .args(arguments.first().filter(|command| **command != "diff").map(|_| "--quiet"))
            .args(["--no-cache", "--repo"])
            .arg(self.path())
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("TZ", "UTC")
            .output()
            .expect("restic does not start; run `cargo xtask setup`")
    }

    /// Changes the bytes of an object.
    pub fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let store = Local::open(self.path()).unwrap();
        let mut data = store.get(key).unwrap();
        change(&mut data);
        store.delete(key).unwrap();
        store.put(key, data.into()).unwrap();
    }

    pub fn delete(&self, key: &str) {
        Local::open(self.path()).unwrap().delete(key).unwrap();
    }

    /// Restores `snapshot` with restic and compares it with version `version` of the source.
    pub fn assert_restores(&self, snapshot: Id, version: u64) {
        let target = self.beside(&format!("restored-{snapshot}"));
        self.restic(&["restore", &snapshot.to_hex(), "--target", target.to_str().unwrap()]);
        self.write_source(version);
        let restored = target.join(self.source().strip_prefix("/").unwrap());
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference"]).arg(self.source()).arg(&restored);
        let output = diff.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        std::fs::remove_dir_all(target).unwrap();
    }
}

pub fn init(store: Arc<dyn Store>) -> Repository {
    let options = InitOptions {
        chunking: Chunking::Gear,
        polynomial: None,
        cost: ScryptCost { n: 1 << 10, r: 8, p: 1 },
        author: Author::default(),
    };
    Repository::init(store, PASSWORD.as_bytes(), &options, Clock::system()).unwrap()
}

pub fn open(store: Arc<dyn Store>, clock: Clock) -> Repository {
    Repository::open(store, PASSWORD.as_bytes(), clock).unwrap()
}

pub fn later(hours: i64) -> Clock {
    Clock::new(move || Timestamp::now() + SignedDuration::from_hours(hours))
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Checks the whole repository, every byte.
pub fn check_all(repository: &Repository) -> CheckReport {
    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    check(repository, &options, Context::silent()).unwrap()
}

/// Checks that nothing is wrong; notes may be there.
pub fn assert_sound(repository: &Repository) {
    let report = check_all(repository);
    assert!(report.worst().is_none_or(|worst| worst == Severity::Note), "{:#?}", report.findings);
    assert_eq!(report.affected, []);
}

pub fn ids(repository: &Repository, kind: FileKind) -> Vec<Id> {
    let mut ids: Vec<Id> = repository.list(kind).unwrap().into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

/// Writes a pack of these blobs, without an index.
pub fn write_pack(repository: &Repository, plaintexts: &[(BlobKind, &[u8])]) -> IndexPack {
    let mut sealer = Sealer::new(repository.key().clone());
    let mut bytes = Vec::new();
    let mut blobs = Vec::new();
    for (kind, plaintext) in plaintexts {
        let (sealed, uncompressed_length) = sealer.seal(*kind, plaintext);
        let (offset, length) = (bytes.len() as u32, sealed.len() as u32);
        bytes.extend_from_slice(sealed);
        blobs.push(PackedBlob { kind: *kind, id: Id::of(plaintext), offset, length, uncompressed_length });
    }
    seal_pack(repository, bytes, blobs)
}

/// Ends a pack with a header of `blobs` and stores it.
pub fn seal_pack(repository: &Repository, mut bytes: Vec<u8>, blobs: Vec<PackedBlob>) -> IndexPack {
    let header = repository.key().seal(&encode_header(&blobs));
    assert_eq!(header.len() + 4, trailer_bytes(blobs.iter().copied()));
    assert!(header.len() >= OVERHEAD_BYTES);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    let id = Id::of(&bytes);
    repository.store().put(&FileKind::Pack.object(&id), bytes.into()).unwrap();
    IndexPack { id, blobs: blobs.into_iter().map(Into::into).collect(), time: None }
}

pub fn write_index(repository: &Repository, packs: Vec<IndexPack>, packs_to_delete: Vec<IndexPack>) -> Id {
    repository.save_json(FileKind::Index, &IndexFile { packs, packs_to_delete }).unwrap()
}

/// All packs that the index files list.
pub fn listed_packs(repository: &Repository) -> Vec<IndexPack> {
    let files = ids(repository, FileKind::Index);
    files
        .iter()
        .flat_map(|id| repository.load_json::<IndexFile>(FileKind::Index, id).unwrap().packs)
        .collect()
}

/// Kills `operation` before each of its durable writes in turn, and hands over what the store holds then.
///
/// Killed after a write is killed before the next. Returns how many such points there were.
pub fn at_every_crash_point(
    contents: &BTreeMap<String, bytes::Bytes>,
    clock: &Clock,
    operation: impl Fn(&Repository) -> repository::Result<()>,
    mut survivor: impl FnMut(u64, BTreeMap<String, bytes::Bytes>),
) -> u64 {
    for point in 1.. {
        let store = Arc::new(Fault::new(Memory::from_contents(contents.clone())));
        let repository = open(store.clone(), clock.clone());
        store.freeze_before(point);
        let result = operation(&repository);
        let frozen = store.is_frozen();
        assert!(frozen || result.is_ok(), "{result:?}");
        let mut left = store.inner().contents();
        // The process is dead, and its lock is removed by whoever meets it; here it would seem to live.
        left.retain(|key, _| !key.starts_with("locks/"));
        survivor(point, left);
        if !frozen {
            return point - 1;
        }
    }
    unreachable!("an operation ends")
}

/// Whether restic finds the repository sound, to the last byte.
pub fn assert_restic_finds_sound(contents: &BTreeMap<String, bytes::Bytes>) {
    Sample::from_contents(contents).restic(&["check", "--read-data"]);
}

pub fn pack_key(pack: &Id) -> String {
    FileKind::Pack.object(pack)
}

/// The path in a snapshot of what lies at `relative` in the source.
pub fn in_snapshot(sample: &Sample, relative: &str) -> PathBuf {
    Path::new(&sample.source()).join(relative)
}
