//! Restoring from repositories that no backup would write: hostile names, damaged blobs with a second copy.

use std::path::Path;
use std::sync::Arc;

use repository::crypto::ScryptCost;
use repository::format::{BlobKind, Chunking};
use repository::keys::Author;
use repository::restore::{Fsync, RestoreOptions, RestorePlan, RestoreReport, Subtree};
use repository::{
    BlobWriter, Clock, Context, FileKind, Id, Index, IndexBuilder, InitOptions, Lock, LockOptions,
    Repository, WriterOptions,
};

fn repository() -> Repository {
    let author = Author { username: String::new(), hostname: String::new() };
    let cost = ScryptCost { n: 2, r: 1, p: 1 };
    let options = InitOptions { chunking: Chunking::Gear, polynomial: None, cost, author };
    Repository::init(Arc::new(store::Memory::new()), b"secret", &options, Clock::system()).unwrap()
}

/// Saves blobs as a writer does that knows of no others.
fn save(repository: &Repository, blobs: &[(BlobKind, &[u8])]) -> Vec<Id> {
    let lock = Lock::shared(repository, LockOptions::default()).unwrap();
    let nothing_known = Arc::new(IndexBuilder::new().finish());
    let writer = BlobWriter::new(repository, nothing_known, &lock, WriterOptions::default());
    let mut sealer = writer.sealer();
    let ids = blobs
        .iter()
        .map(|(kind, bytes)| {
            writer.save(&mut sealer, *kind, Id::of(bytes), bytes).unwrap();
            Id::of(bytes)
        })
        .collect();
    writer.finish().unwrap();
    lock.release().unwrap();
    ids
}

fn restore(repository: &Repository, tree: Id, target: &Path) -> RestoreReport {
    let context = Context::silent();
    let index = Index::load(repository, context).unwrap();
    let options = RestoreOptions { fsync: Fsync::None, ..RestoreOptions::default() };
    let source = Subtree::Dir(tree);
    RestorePlan::new(repository, &index, &source, target, options, context).unwrap().execute(context).unwrap()
}

fn file_node(name: &str, content: Id, size: usize) -> String {
    format!(
        r#"{{"name":"{name}","type":"file","mode":420,"mtime":"2020-01-01T00:00:00Z","uid":0,"gid":0,"size":{size},"content":["{content}"]}}"#
    )
}

fn tree(nodes: &[String]) -> String {
    format!("{{\"nodes\":[{}]}}\n", nodes.join(","))
}

#[test]
fn hostile_names_are_refused_and_the_rest_is_restored() {
    let repository = repository();
    let content = save(&repository, &[(BlobKind::Data, b"content")])[0];
    let good = save(&repository, &[(BlobKind::Tree, tree(&[file_node("good", content, 7)]).as_bytes())])[0];
    let dir = |name: &str, subtree: Id| {
        format!(
            r#"{{"name":"{name}","type":"dir","mode":2147484141,"mtime":"2020-01-01T00:00:00Z","uid":0,"gid":0,"content":null,"subtree":"{subtree}"}}"#
        )
    };
    let link = |name: &str, target: &str| {
        format!(
            r#"{{"name":"{name}","type":"symlink","mode":134218239,"mtime":"2020-01-01T00:00:00Z","uid":0,"gid":0,"linktarget":"{target}","content":null}}"#
        )
    };
    for hostile in [
        tree(&[file_node("..", content, 7)]),
        tree(&[file_node("../escaped", content, 7)]),
        tree(&[file_node("/tmp/escaped", content, 7)]),
        tree(&[file_node("a\\\\x00b", content, 7)]),
        tree(&[file_node(".", content, 7)]),
        tree(&[file_node("", content, 7)]),
        tree(&[dir("..", good)]),
        // A link and a directory of one name: what is below the directory must not go through the link.
        tree(&[link("way", ".."), dir("way", good)]),
        tree(&[dir("way", good), link("way", "..")]),
    ] {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a/target");
        let hostile_tree = save(&repository, &[(BlobKind::Tree, hostile.as_bytes())])[0];
        let root = tree(&[dir("bad", hostile_tree), dir("fine", good)]);
        let root = save(&repository, &[(BlobKind::Tree, root.as_bytes())])[0];
        let report = restore(&repository, root, &target);
        assert_eq!(report.problems.len(), 1, "{hostile}: {:?}", report.problems);
        assert!(report.problems[0].path.starts_with(target.join("bad")), "{:?}", report.problems);
        assert_eq!(std::fs::read(target.join("fine/good")).unwrap(), b"content");
        assert_eq!(names(&target), ["bad", "fine"], "{hostile}");
        assert_eq!(names(&place.path().join("a")), ["target"], "{hostile}");
        assert_eq!(names(place.path()), ["a"], "{hostile}");
        assert!(names(&target.join("bad")).is_empty(), "{hostile}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_second_copy_stands_in_for_a_damaged_one() {
    for damaged in 0..2 {
        let repository = repository();
        let bytes = vec![7; 5000];
        for _ in 0..2 {
            save(&repository, &[(BlobKind::Data, &bytes)]);
        }
        let packs = repository.list(FileKind::Pack).unwrap();
        assert_eq!(packs.len(), 2);
        let object = FileKind::Pack.object(&packs[damaged].0);
        let mut pack = repository.store().get(&object).unwrap();
        pack[20] ^= 1;
        repository.store().put(&object, pack.into()).unwrap();
        let root = tree(&[file_node("file", Id::of(&bytes), bytes.len())]);
        let root = save(&repository, &[(BlobKind::Tree, root.as_bytes())])[0];
        let target = tempfile::tempdir().unwrap();
        let report = restore(&repository, root, target.path());
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(std::fs::read(target.path().join("file")).unwrap(), bytes);
    }
}

#[test]
fn a_size_that_lies_does_not_change_the_content() {
    let repository = repository();
    let content = save(&repository, &[(BlobKind::Data, b"content")])[0];
    for size in [0, 3, 1 << 40] {
        let root = tree(&[file_node("file", content, size)]);
        let root = save(&repository, &[(BlobKind::Tree, root.as_bytes())])[0];
        let target = tempfile::tempdir().unwrap();
        assert!(restore(&repository, root, target.path()).problems.is_empty());
        assert_eq!(std::fs::read(target.path().join("file")).unwrap(), b"content");
    }
}
