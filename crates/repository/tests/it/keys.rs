//! Passwords, by us and by restic; and repositories that cannot be opened, each for its own reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use repository::crypto::ScryptCost;
use repository::format::Chunking;
use repository::{Clock, Context, Error, FileKind, Id, Index, Repository};
use store::{Memory, Store};

use crate::support::engine::{
    CHEAP, PASSWORD, backup, in_memory, init, init_options, local, open, write_out,
};
use crate::support::restic::{Restic, ResticRepository};

fn opens(path: &Path, password: &str) -> bool {
    match Repository::open(local(path), password.as_bytes(), Clock::system()) {
        Ok(_) => true,
        Err(Error::WrongPassword { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn restic_opens(path: &Path, password: &str) -> bool {
    let output = Restic::at(path).with_password(password).try_run(["cat", "config"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("wrong password"), "{said}");
    output.status.success()
}

fn assert_passwords(path: &Path, passwords: &[(&str, bool)]) {
    for (password, expected) in passwords {
        assert_eq!(opens(path, password), *expected, "{password}");
        assert_eq!(restic_opens(path, password), *expected, "restic, {password}");
    }
}

#[test]
fn keys_are_added_changed_and_removed_by_both() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    let repository = init(local(&path));
    assert_passwords(&path, &[(PASSWORD, true), ("Secret", false), ("secret ", false)]);
    assert!(!opens(&path, ""));

    let added = repository.add_key("пароль\n".as_bytes(), CHEAP, &Default::default()).unwrap();
    assert_passwords(&path, &[(PASSWORD, true), ("second", false)]);
    assert!(opens(&path, "пароль\n"));

    let file = directory.path().join("new password");
    let by_restic = |command: &[&str], old: &str, new: &str| {
        fs::write(&file, new).unwrap();
        let restic = Restic::at(&path).with_password(old);
        restic.run([&["key"], command, &["--new-password-file", file.to_str().unwrap()]].concat());
    };
    by_restic(&["add"], PASSWORD, "third");
    assert_passwords(&path, &[(PASSWORD, true), ("third", true)]);
    by_restic(&["passwd"], PASSWORD, "fourth");
    assert_passwords(&path, &[(PASSWORD, false), ("third", true), ("fourth", true)]);

    let third = Repository::open(local(&path), b"third", Clock::system()).unwrap();
    assert_eq!(third.keys().unwrap().len(), 3);
    assert_eq!(third.keys().unwrap().iter().filter(|key| key.current).count(), 1);
    third.change_password(b"fifth", CHEAP, &Default::default()).unwrap();
    assert_passwords(&path, &[("third", false), ("fourth", true), ("fifth", true)]);
    let fifth = Repository::open(local(&path), b"fifth", Clock::system()).unwrap();
    assert!(matches!(fifth.remove_key(&fifth.key_id()), Err(Error::Refused(_))));
    fifth.remove_key(&added).unwrap();
    assert!(!opens(&path, "пароль\n"));
    assert!(fifth.remove_key(&added).is_err());
    Restic::at(&path).with_password("fourth").run(["key", "remove", &fifth.key_id().to_hex()]);
    assert_passwords(&path, &[("fourth", true), ("fifth", false)]);
}

#[test]
fn any_sound_scrypt_cost_will_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    let repository = init(local(&path));
    let costs =
        [(2, 1, 1), (1 << 10, 1, 1), (1 << 4, 8, 3), (1 << 15, 1, 2), (1 << 12, 32, 1), (1 << 6, 3, 7)];
    for (n, r, p) in costs {
        let password = format!("{n} {r} {p}");
        repository.add_key(password.as_bytes(), ScryptCost { n, r, p }, &Default::default()).unwrap();
        assert_passwords(&path, &[(&password, true)]);
    }
    for (n, r, p) in
        [(0, 1, 1), (1, 1, 1), (3, 1, 1), (1 << 40, 8, 1), (16, 0, 1), (16, 1, 0), (16, u32::MAX, u32::MAX)]
    {
        let result = repository.add_key(b"x", ScryptCost { n, r, p }, &Default::default());
        assert!(matches!(result, Err(Error::Refused(_))), "{n} {r} {p}: {result:?}");
    }
    assert!(matches!(repository.add_key(b"", CHEAP, &Default::default()), Err(Error::Refused(_))));
}

/// With the cost that restic chooses by itself.
#[test]
fn restic_made_keys_open() {
    let directory = tempfile::tempdir().unwrap();
    let restic = Restic::at(directory.path().join("repository"));
    restic.run(["init", "--repository-version", "2"]);
    assert!(opens(&restic.repository, PASSWORD));
    assert!(!opens(&restic.repository, "another"));
}

fn open_memory(contents: BTreeMap<String, Bytes>) -> repository::Result<Repository> {
    Repository::open(Arc::new(Memory::from_contents(contents)), PASSWORD.as_bytes(), Clock::system())
}

/// A small repository with one snapshot, object by object.
fn contents() -> BTreeMap<String, Bytes> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "content").unwrap();
    let (memory, repository) = in_memory();
    backup(&repository, &[directory.path()]);
    memory.contents()
}

fn key_of(contents: &BTreeMap<String, Bytes>, directory: &str) -> String {
    contents.keys().find(|key| key.starts_with(directory)).unwrap().clone()
}

#[test]
fn what_is_no_repository_is_said_to_be_none() {
    let empty = tempfile::tempdir().unwrap();
    let error = |path: &Path| Repository::open(local(path), b"x", Clock::system()).unwrap_err();
    assert!(matches!(error(empty.path()), Error::NoRepository { .. }));
    assert!(matches!(error(&empty.path().join("nowhere")), Error::NoRepository { .. }));
    assert!(error(empty.path()).to_string().contains(empty.path().to_str().unwrap()));
    fs::write(empty.path().join("letter.txt"), "dear").unwrap();
    assert!(matches!(error(empty.path()), Error::NoRepository { .. }));
    // Opening makes nothing.
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 1);
    // The directory layout alone, as restic lays it out before it writes a key.
    for name in ["data", "index", "keys", "locks", "snapshots"] {
        fs::create_dir(empty.path().join(name)).unwrap();
    }
    assert!(matches!(error(empty.path()), Error::NoRepository { .. }));
}

#[test]
fn half_a_repository_is_said_to_be_half() {
    let whole = contents();
    let without = |directory: &str| {
        let mut contents = whole.clone();
        contents.retain(|key, _| !key.starts_with(directory));
        contents
    };
    for part in ["config", "keys/"] {
        let error = open_memory(without(part)).unwrap_err();
        assert!(matches!(error, Error::Incomplete { .. }), "{part}: {error}");
        assert!(error.to_string().contains(part.trim_end_matches('/')), "{part}: {error}");
    }
    let mut key_alone = whole.clone();
    key_alone.retain(|key, _| key.starts_with("keys/"));
    assert!(matches!(open_memory(key_alone), Err(Error::Incomplete { .. })));

    // Nobody makes a new repository on top of the remains of one, or of a whole one.
    let init = |contents: BTreeMap<String, Bytes>| {
        let store = Arc::new(Memory::from_contents(contents));
        Repository::init(store, PASSWORD.as_bytes(), &init_options(Chunking::Gear), Clock::system())
    };
    assert!(matches!(init(without("config")), Err(Error::Incomplete { .. })));
    assert!(matches!(init(whole.clone()), Err(Error::AlreadyExists { .. })));
    let store: Arc<dyn Store> = Arc::new(Memory::from_contents(without("config")));
    Repository::rebuild_config(store, PASSWORD.as_bytes(), &init_options(Chunking::Gear), Clock::system())
        .unwrap()
        .snapshots()
        .unwrap();
}

#[test]
fn a_newer_version_is_not_opened() {
    let whole = contents();
    let repository = open_memory(whole.clone()).unwrap();
    for version in [1, 3, 77] {
        let config = serde_json::json!({ "version": version, "from": "the future" }).to_string();
        let mut contents = whole.clone();
        contents.insert("config".into(), repository.key().seal(config.as_bytes()).into());
        let error = open_memory(contents).unwrap_err();
        assert!(
            matches!(error, Error::UnsupportedVersion { version: found, .. } if found == version),
            "{error}"
        );
    }
}

#[test]
fn a_version_1_repository_of_restic_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let restic = Restic::at(directory.path().join("repository"));
    restic.run(["init", "--repository-version", "1"]);
    let error =
        Repository::open(local(&restic.repository), PASSWORD.as_bytes(), Clock::system()).unwrap_err();
    assert!(matches!(error, Error::UnsupportedVersion { version: 1, .. }), "{error}");
}

/// Every bit that we look at, and files that are empty or cut.
#[test]
fn damage_is_found_and_named() {
    let whole = contents();
    for directory in ["config", "keys/", "index/", "snapshots/"] {
        let key = key_of(&whole, directory);
        let sound = &whole[&key];
        let mut damages: Vec<(String, Vec<u8>)> = (0..sound.len())
            .map(|position| {
                let mut bytes = sound.to_vec();
                bytes[position] ^= 1 << (position % 8);
                (format!("{key}: bit {} of byte {position}", position % 8), bytes)
            })
            .collect();
        for length in [0, 1, 16, 31, 32, sound.len() - 1] {
            damages.push((format!("{key}: cut to {length}"), sound[..length].to_vec()));
        }
        damages.push((format!("{key}: one more byte"), [&sound[..], b"x"].concat()));
        for (what, bytes) in damages {
            let mut contents = whole.clone();
            contents.insert(key.clone(), bytes.into());
            let error = match directory {
                "index/" => Index::load(&open_memory(contents).unwrap(), Context::silent()).err(),
                "snapshots/" => open_memory(contents).unwrap().snapshots().err(),
                _ => open_memory(contents).err(),
            };
            let object =
                key.replacen('/', " ", 1).replacen("keys", "key", 1).replacen("snapshots", "snapshot", 1);
            assert!(
                matches!(&error, Some(Error::Damaged { object: found, .. }) if *found == object),
                "{what}: {error:?}"
            );
        }
    }
}

/// A damaged snapshot or index does not keep the other snapshots from being found.
#[test]
fn what_is_sound_is_still_there() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "content").unwrap();
    let (memory, repository) = in_memory();
    let sound = backup(&repository, &[directory.path()]).snapshot;
    let broken = backup(&repository, &[directory.path()]).snapshot;
    memory.put(&FileKind::Snapshot.object(&broken.id), Bytes::from_static(b"")).unwrap();
    assert!(matches!(repository.snapshots(), Err(Error::Damaged { .. })));
    let (entries, failures) = repository.snapshots_tolerant().unwrap();
    assert_eq!(entries, std::slice::from_ref(&sound));
    assert_eq!(failures[0].0, broken.id);
    assert_eq!(repository.find_snapshot(&sound.id.short(), &Default::default()).unwrap(), sound);
    // The newest might be the damaged one, so nothing passes for it.
    assert!(matches!(repository.find_snapshot("latest", &Default::default()), Err(Error::Damaged { .. })));
    // A backup goes on, with the sound one for its parent.
    let next = backup(&repository, &[directory.path()]);
    assert_eq!(next.snapshot.snapshot.parent, Some(sound.id));
}

/// A damaged key beside a sound one: the sound one opens.
#[test]
fn one_sound_key_is_enough() {
    let mut contents = contents();
    contents.insert(FileKind::Key.object(&Id([0; 32])), Bytes::from_static(b"{}"));
    contents.insert(FileKind::Key.object(&Id([255; 32])), Bytes::new());
    let repository = open_memory(contents.clone()).unwrap();
    assert_eq!(repository.keys().unwrap().iter().filter(|key| key.content.is_err()).count(), 2);
    let directory = tempfile::tempdir().unwrap();
    contents.retain(|key, _| !key.contains(&"0".repeat(64)) && !key.contains(&"f".repeat(64)));
    write_out(&Memory::from_contents(contents), directory.path());
    assert_passwords(directory.path(), &[(PASSWORD, true)]);
}

/// What restic's own tools say of a repository after ours have changed its keys.
#[test]
fn restic_lists_our_keys() {
    let theirs = ResticRepository::init();
    let repository = open(local(theirs.path()));
    repository
        .add_key(
            b"another",
            CHEAP,
            &repository::keys::Author { username: "somebody".into(), hostname: "somewhere".into() },
        )
        .unwrap();
    let listed = theirs.json(["key", "list", "--json"]);
    let keys = listed.as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert!(
        keys.iter().any(|key| key["userName"] == "somebody" && key["hostName"] == "somewhere"),
        "{listed}"
    );
    theirs.check();
}
