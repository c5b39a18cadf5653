//! Our trees are restic's trees, byte for byte, for every kind of entry and every odd name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use repository::Id;
use repository::format::{Node, NodeKind, Time, TreeBuilder, mode_from_unix, parse_tree};

use crate::support::nasty::fill;
use crate::support::restic::ResticRepository;

#[test]
fn our_trees_are_restic_trees() {
    let repository = ResticRepository::init();
    let source = repository.source();
    fill(&source);
    let mut directories = BTreeMap::new();
    rebuild_all(&repository, repository.backup(&source), Path::new("/"), &mut directories);
    for name in ["names", "times", "kinds"] {
        let path = source.join(name);
        compare_directory(&path, &directories[&path]);
    }
    assert_eq!(directories[&source.join("nothing")], []);
    check_kinds(&directories[&source.join("kinds")]);
}

fn check_kinds(nodes: &[Node]) {
    let node = |name: &str| nodes.iter().find(|node| node.name == name.as_bytes()).unwrap();
    assert_eq!(node("empty").content, Some(Vec::new()));
    assert_eq!(node("directory").content, None);
    assert_eq!(node("full").content, Some(vec![Id::of(b"some bytes")]));
    assert_eq!(node("full").inode, node("linked").inode);
    assert_eq!(node("full").links, 2);
    assert_eq!(node("fifo").kind, NodeKind::Fifo);
    // In the order of the file system, which restic keeps.
    let xattrs: BTreeMap<_, _> =
        node("attributes").xattrs.iter().map(|xattr| (xattr.name.as_str(), xattr.value.as_slice())).collect();
    let expected =
        [("user.<odd>&\u{2028}", b"\x00\xff\n".as_slice()), ("user.empty", b""), ("user.plain", b"text")];
    assert_eq!(xattrs, expected.into());
}

/// Reads the tree at `path` and those below it, and checks that each is written again as it was.
fn rebuild_all(repository: &ResticRepository, id: Id, path: &Path, found: &mut BTreeMap<PathBuf, Vec<Node>>) {
    let theirs = repository.tree(id);
    let nodes = parse_tree(&theirs).unwrap();
    let mut builder = TreeBuilder::new();
    for node in &nodes {
        builder.add(node).unwrap();
    }
    let ours = builder.finish();
    assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs), "{path:?}");
    assert_eq!(Id::of(&ours), id, "{path:?}");
    for node in &nodes {
        if let Some(subtree) = node.subtree {
            rebuild_all(repository, subtree, &path.join(OsStr::from_bytes(&node.name)), found);
        }
    }
    found.insert(path.to_owned(), nodes);
}

/// Compares the nodes of a directory with what the file system says now.
fn compare_directory(directory: &Path, nodes: &[Node]) {
    let found: BTreeMap<Vec<u8>, PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().as_bytes().to_vec(), entry.path()))
        .collect();
    assert_eq!(nodes.iter().map(|node| &node.name).collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for node in nodes {
        compare(node, &found[&node.name]);
    }
}

fn compare(node: &Node, path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    let nanos = |nanos| u32::try_from(nanos).unwrap();
    assert_eq!(node.mode, mode_from_unix(meta.mode()), "{path:?}");
    assert_eq!(node.mtime, Time::new(meta.mtime(), nanos(meta.mtime_nsec())), "{path:?}");
    assert_eq!(node.ctime, Time::new(meta.ctime(), nanos(meta.ctime_nsec())), "{path:?}");
    assert_eq!((node.uid, node.gid, node.inode), (meta.uid(), meta.gid(), meta.ino()), "{path:?}");
    match node.kind {
        NodeKind::File => assert_eq!((node.size, node.links), (meta.len(), meta.nlink()), "{path:?}"),
        NodeKind::Symlink => {
            assert_eq!(node.link_target, fs::read_link(path).unwrap().as_os_str().as_bytes(), "{path:?}");
        }
        NodeKind::Dev | NodeKind::Chardev => assert_eq!(node.device, meta.rdev(), "{path:?}"),
        NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket => {}
    }
}
