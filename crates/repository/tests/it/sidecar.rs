//! Sidecar objects: sealed, bound to their names, created once, and left alone by stock restic.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use repository::check::{Finding, Severity};
use repository::copy::{CopyOptions, copy};
use repository::crypto::MasterKey;
use repository::sidecar::{Created, NAME_BYTES_MAX, SIDECAR_BYTES_MAX, decode, encode, is_name};
use repository::{Clock, Context, Error, FileKind, Repository};
use store::{Fault, Memory, Store};

use crate::sample::{Sample, assert_sound, check_all, noise, open};
use crate::support::engine::in_memory;

fn read(repository: &Repository, name: &str) -> Option<Vec<u8>> {
    repository.sidecar_read(name).unwrap()
}

fn damage(result: &repository::Result<Option<Vec<u8>>>) -> &str {
    match result {
        Err(Error::Damaged { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_created_is_read_listed_and_removed() {
    let (_, repository) = in_memory();
    for (name, bytes) in [
        ("points/00ff", b"facts".to_vec()),
        ("runs/r1/000002", noise(1, 3_000_000)),
        ("runs/r1/000001", Vec::new()),
        ("runs/r1.b/000001", vec![0; 1_000_000]),
        ("plan", b"{".to_vec()),
    ] {
        assert_eq!(read(&repository, name), None);
        assert_eq!(repository.sidecar_create(name, &bytes).unwrap(), Created::Created);
        assert!(read(&repository, name) == Some(bytes), "{name}");
    }
    let names = |prefix: &str| -> Vec<String> {
        repository.sidecar_list(prefix).unwrap().into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("runs/r1"), ["runs/r1/000001", "runs/r1/000002"]);
    let all = ["plan", "points/00ff", "runs/r1.b/000001", "runs/r1/000001", "runs/r1/000002"];
    assert_eq!(names(""), all);
    assert_eq!(names("proofs"), [""; 0]);
    let sizes = repository.sidecar_list("runs/r1.b").unwrap();
    assert!(sizes[0].1 < 10_000, "compressed: {sizes:?}");
    let wanted: Vec<String> = all.iter().rev().chain(&["proofs/none"]).map(ToString::to_string).collect();
    let found = repository.sidecar_read_many(&wanted);
    let lengths: Vec<_> = found.into_iter().map(|found| found.unwrap().map(|bytes| bytes.len())).collect();
    assert_eq!(lengths, [Some(3_000_000), Some(0), Some(1_000_000), Some(5), Some(1), None]);
    repository.sidecar_remove("plan").unwrap();
    repository.sidecar_remove("plan").unwrap();
    assert_eq!(names(""), all[1..]);
    assert_eq!(repository.sidecar_read_many(&[]).len(), 0);
}

#[test]
fn nothing_is_overwritten() {
    let (memory, repository) = in_memory();
    repository.sidecar_create("proofs/1", b"first").unwrap();
    let before = memory.contents();
    assert_eq!(repository.sidecar_create("proofs/1", b"first").unwrap(), Created::AlreadyThereEqual);
    let result = repository.sidecar_create("proofs/1", b"second");
    assert!(matches!(&result, Err(Error::SidecarDiffers { name }) if name == "proofs/1"), "{result:?}");
    assert!(memory.contents() == before);
    // One that cannot be read is not replaced either.
    memory.put("lifeboat/proofs/1", vec![1; 100].into()).unwrap();
    assert!(matches!(repository.sidecar_create("proofs/1", b"first"), Err(Error::Damaged { .. })));
    assert_eq!(memory.get("lifeboat/proofs/1").unwrap(), vec![1; 100]);
}

#[test]
fn of_several_creators_one_succeeds() {
    let (_, repository) = in_memory();
    let (created, differed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (repository, created, differed) = (&repository, &created, &differed);
            scope.spawn(move || match repository.sidecar_create("runs/1/000001", &[number % 4]) {
                Ok(Created::Created) => created.fetch_add(1, Ordering::Relaxed),
                Ok(Created::AlreadyThereEqual) => 0,
                Err(Error::SidecarDiffers { .. }) => differed.fetch_add(1, Ordering::Relaxed),
                other => panic!("{other:?}"),
            });
        }
    });
    assert_eq!((created.into_inner(), differed.into_inner()), (1, 6));
}

/// A process killed around the write has written it or not, and may say it again.
#[test]
fn an_interrupted_create_can_be_repeated() {
    let (memory, _) = in_memory();
    for point in 1..=2 {
        let store = Arc::new(Fault::new(Memory::from_contents(memory.contents())));
        let repository = open(store.clone(), Clock::system());
        store.freeze_before(point);
        let result = repository.sidecar_create("points/1", b"facts");
        assert_eq!(result.is_ok(), point == 2);
        let survivor = open(Arc::new(Memory::from_contents(store.inner().contents())), Clock::system());
        let expected = if point == 1 { Created::Created } else { Created::AlreadyThereEqual };
        assert_eq!(survivor.sidecar_create("points/1", b"facts").unwrap(), expected);
        assert_eq!(read(&survivor, "points/1").unwrap(), b"facts");
    }
}

#[test]
fn names_are_checked_before_the_store_is_asked() {
    let (memory, repository) = in_memory();
    let long = "a".repeat(NAME_BYTES_MAX + 1);
    for name in [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "a/..",
        "../config",
        "a/../b",
        ".hidden",
        "a/.b",
        "A",
        "a b",
        "a\\b",
        "a\0",
        "é",
        "checkpoints",
        "checkpoints/00",
        "runs/%2e%2e",
        &long,
    ] {
        assert!(!is_name(name), "{name:?}");
        assert!(matches!(repository.sidecar_create(name, b"x"), Err(Error::Refused(_))), "{name:?}");
        assert!(matches!(repository.sidecar_read(name), Err(Error::Refused(_))), "{name:?}");
        assert!(matches!(repository.sidecar_remove(name), Err(Error::Refused(_))), "{name:?}");
        assert!(
            name.is_empty() || matches!(repository.sidecar_list(name), Err(Error::Refused(_))),
            "{name:?}"
        );
    }
    assert!(is_name(&long[1..]) && is_name("a-b_c.d/0..1/checkpoints"));
    let too_long = vec![0; SIDECAR_BYTES_MAX + 1];
    assert!(matches!(repository.sidecar_create("a", &too_long), Err(Error::Refused(_))));
    assert!(memory.contents().keys().all(|key| !key.starts_with("lifeboat")));
    repository.sidecar_create("a", &too_long[1..]).unwrap();
    assert_eq!(read(&repository, "a").unwrap().len(), SIDECAR_BYTES_MAX);
    // What is no name of ours is not listed.
    memory.put("lifeboat/README", vec![1].into()).unwrap();
    memory.put("lifeboat/checkpoints/00", vec![1].into()).unwrap();
    assert_eq!(repository.sidecar_list("").unwrap().len(), 1);
}

#[test]
fn an_object_is_believed_under_its_own_name_only() {
    let (memory, repository) = in_memory();
    repository.sidecar_create("proofs/good", b"it was restored").unwrap();
    let sealed = memory.get("lifeboat/proofs/good").unwrap();
    memory.put("lifeboat/proofs/bad", sealed.clone().into()).unwrap();
    assert!(damage(&repository.sidecar_read("proofs/bad")).contains("another name"));
    // Every bit counts.
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        memory.put("lifeboat/proofs/good", changed.into()).unwrap();
        damage(&repository.sidecar_read("proofs/good"));
    }
    for length in [0, 31, sealed.len() - 1] {
        memory.put("lifeboat/proofs/good", sealed[..length].to_vec().into()).unwrap();
        damage(&repository.sidecar_read("proofs/good"));
    }
    // Sealed with the same master key, but not as a sidecar object: a chunk of somebody's file, say.
    let forged = repository.key().seal(&encode("proofs/good", b"forged"));
    memory.put("lifeboat/proofs/good", forged.into()).unwrap();
    assert!(damage(&repository.sidecar_read("proofs/good")).contains("tag"));
    // And of another repository.
    let (other_memory, other) = in_memory();
    other.sidecar_create("proofs/good", b"elsewhere").unwrap();
    let foreign = other_memory.get("lifeboat/proofs/good").unwrap();
    memory.put("lifeboat/proofs/good", foreign.into()).unwrap();
    damage(&repository.sidecar_read("proofs/good"));
    // Too long to be one: it is not read.
    let long = vec![0; SIDECAR_BYTES_MAX + (4 << 20)];
    memory.put("lifeboat/proofs/good", long.into()).unwrap();
    assert!(damage(&repository.sidecar_read("proofs/good")).contains("more than any"));
}

#[test]
fn an_envelope_that_unpacks_to_too_much_is_refused() {
    let mut bomb = vec![1, 1, b'a'];
    bomb.resize(SIDECAR_BYTES_MAX + 1000, 0);
    let mut plaintext = vec![2];
    plaintext.extend(zstd::bulk::compress(&bomb, 3).unwrap());
    assert!(plaintext.len() < 100_000);
    assert!(decode("a", &plaintext).unwrap_err().contains("more than"));
}

proptest! {
    #[test]
    fn envelopes_come_back(name in "[a-z0-9._-]{1,30}(/[a-z0-9._-]{1,30}){0,4}", content: Vec<u8>, other: Vec<u8>) {
        let plaintext = encode(&name, &content);
        prop_assert_eq!(decode(&name, &plaintext).unwrap(), content);
        let longer = name.clone() + "x";
        prop_assert!(decode(&longer, &plaintext).is_err());
        prop_assert!(decode(&name[1..], &plaintext).is_err());
        // Anything at all is answered and not believed.
        prop_assert!(decode(&name, &other).is_err());
        let mut compressed = vec![2];
        compressed.extend(zstd::bulk::compress(&other, 1).unwrap());
        if let Ok(content) = decode(&name, &compressed) {
            prop_assert_eq!(encode(&name, &content), encode(&name, &other[2 + name.len()..]));
        }
    }
}

#[test]
fn a_key_of_its_own_seals_them() {
    let key = MasterKey::from_bytes(&[7; 64]);
    let one = key.derive("lifeboat sidecar encrypt");
    assert_ne!(one, key.derive("lifeboat sidecar authenticate"));
    assert_ne!(one, key.encrypt);
}

#[test]
fn restic_neither_sees_nor_removes_them() {
    let sample = Sample::ours();
    let repository = sample.open();
    let snapshots = repository.list(FileKind::Snapshot).unwrap();
    let names = [format!("points/{}", snapshots[0].0), "runs/r/000001".into(), "plan".into()];
    for name in &names {
        repository.sidecar_create(name, name.as_bytes()).unwrap();
    }
    sample.restic(&["check", "--read-data"]);
    sample.restic(&["forget", "--keep-last", "1", "--prune", "--group-by", ""]);
    sample.restic(&["rebuild-index"]);
    sample.restic(&["prune", "--max-unused", "0"]);
    sample.restic(&["backup", sample.source().to_str().unwrap()]);
    let said = sample.restic(&["check", "--read-data"]);
    assert!(!said.contains("lifeboat"), "{said}");
    let repository = sample.open();
    for name in &names {
        assert_eq!(read(&repository, name).unwrap(), name.as_bytes());
    }
    assert_sound(&repository);
}

#[test]
fn a_check_names_the_damaged_ones() {
    let sample = Sample::ours();
    let repository = sample.open();
    for number in 0..30 {
        repository.sidecar_create(&format!("runs/r/{number:06}"), &noise(number, 1000)).unwrap();
    }
    let report = check_all(&repository);
    assert_eq!((report.findings.len(), report.sidecar_objects), (0, 30));
    sample.change("lifeboat/runs/r/000011", |data| data[40] ^= 1);
    let moved = repository.store().get("lifeboat/runs/r/000003").unwrap();
    sample.change("lifeboat/runs/r/000004", |data| *data = moved);
    let report = check_all(&repository);
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| match finding {
            Finding::SidecarDamaged { name, .. } => (name.as_str(), finding.severity()),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(found, [("runs/r/000004", Severity::Error), ("runs/r/000011", Severity::Error)]);
    assert_eq!(report.remedies(), []);
}

#[test]
fn a_copy_takes_the_points_of_its_snapshots_and_nothing_else() {
    let (source, target) = (Sample::ours(), Sample::new());
    let (from, to) = (source.open(), target.open());
    let snapshots: Vec<_> = from.snapshots().unwrap().into_iter().map(|entry| entry.id).collect();
    from.sidecar_create(&format!("points/{}", snapshots[0]), b"point 0").unwrap();
    for name in ["points/of-no-snapshot", "runs/r/000001", "proofs/1"] {
        from.sidecar_create(name, b"stays").unwrap();
    }
    let report = copy(&from, &to, &CopyOptions::default(), Context::silent()).unwrap();
    assert_eq!((report.copied.len(), report.points), (2, 1));
    let (old, new) = report.copied[0];
    assert_eq!(old, snapshots[0]);
    assert_eq!(read(&to, &format!("points/{new}")).unwrap(), b"point 0");
    assert_eq!(to.sidecar_list("").unwrap().len(), 1);
    // A point that came later, or whose copy was interrupted, comes with the next copy.
    from.sidecar_create(&format!("points/{}", snapshots[1]), b"point 1").unwrap();
    let report = copy(&from, &to, &CopyOptions::default(), Context::silent()).unwrap();
    assert_eq!((report.known.len(), report.points), (2, 1));
    let (_, new) = report.known[1];
    assert_eq!(read(&to, &format!("points/{new}")).unwrap(), b"point 1");
    assert_eq!(copy(&from, &to, &CopyOptions::default(), Context::silent()).unwrap().points, 0);
    assert_sound(&to);
}
