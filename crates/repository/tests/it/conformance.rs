//! What we write, stock restic checks, reads and restores; what restic writes, we read; both work on one repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use repository::format::Chunking;
use repository::{Id, Repository};
use serde_json::Value;

use crate::support::engine::{self, backup, entries_below, listing, local, open};
use crate::support::restic::{Restic, ResticRepository};
use crate::support::tree::{assert_same, describe};
use crate::support::{child, nasty, noise, text};

/// A repository of ours and a nasty tree beside it.
struct Scene {
    directory: tempfile::TempDir,
    restic: Restic,
    repository: Repository,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("repository");
        let repository = engine::init(local(&path));
        Self { directory, restic: Restic::at(path), repository }
    }

    /// In a repository that restic made.
    fn of_restic() -> Self {
        let ResticRepository { directory, restic } = ResticRepository::init();
        let repository = open(local(&restic.repository));
        assert_eq!(repository.config().chunking(), Chunking::Rabin);
        Self { directory, restic, repository }
    }

    fn source(&self) -> PathBuf {
        let path = self.directory.path().join("source");
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Has restic restore a snapshot and compares `source` with what comes back.
    fn assert_restic_restores(&self, snapshot: &Id, source: &Path) {
        let target = self.directory.path().join(format!("restored {}", snapshot.short()));
        self.restic.restore(snapshot, &target);
        assert_same(&describe(source), &describe(&target.join(source.strip_prefix("/").unwrap())));
        fs::remove_dir_all(target).unwrap();
    }

    fn tree_of(&self, snapshot: &Id) -> Id {
        let id = snapshot.to_hex();
        self.repository.find_snapshot(&id, &Default::default()).unwrap().snapshot.tree
    }
}

#[test]
fn restic_restores_what_we_back_up() {
    let scene = Scene::new();
    let source = scene.source();
    nasty::fill_all(&source);
    let snapshot = backup(&scene.repository, &[&source]).snapshot;
    scene.restic.check();
    scene.assert_restic_restores(&snapshot.id, &source);
    // And so says our own reading of it.
    assert_same(&describe(&source), &listing(&scene.repository, &snapshot.snapshot.tree, &source));
    assert_eq!(scene.repository.list(repository::FileKind::Lock).unwrap(), []);
}

#[test]
fn we_read_what_restic_backs_up() {
    let scene = Scene::of_restic();
    let source = scene.source();
    nasty::fill_all(&source);
    let snapshot = scene.restic.backup(&[&source]);
    assert_same(&describe(&source), &listing(&scene.repository, &scene.tree_of(&snapshot), &source));
}

#[test]
fn restic_lists_dumps_and_finds_what_we_back_up() {
    let scene = Scene::new();
    let source = scene.source();
    nasty::fill_all(&source);
    let snapshot = backup(&scene.repository, &[&source]).snapshot;
    let tree = snapshot.snapshot.tree;

    let lines = scene.restic.json_lines(["ls", "--json", "latest"]);
    let by_path: BTreeMap<&str, &Value> = lines
        .iter()
        .filter(|line| line["struct_type"] == "node")
        .map(|line| (line["path"].as_str().unwrap(), line))
        .collect();
    let mut compared = 0;
    for (path, node) in entries_below(&scene.repository, &tree, &source) {
        // Other names are written with the replacement character.
        let Some(path) = path.to_str().filter(|path| !path.contains('\u{fffd}')) else { continue };
        let line = by_path[source.join(path).to_str().unwrap()];
        assert_eq!(line["type"], node.kind.as_str(), "{path}");
        // Numbers that are 0 are left out.
        let number = |field: &str| line[field].as_u64().unwrap_or(0);
        assert_eq!(number("mode"), u64::from(node.mode), "{path}");
        assert_eq!(number("uid"), u64::from(node.uid), "{path}");
        assert_eq!(number("size"), node.size, "{path}");
        compared += 1;
    }
    assert!(compared > 300, "{compared}");

    for file in ["contents/holes", "contents/text of 20 MiB", "kinds/setuid", "links/b/three"] {
        let path = source.join(file);
        let dumped = scene.restic.run(["dump", "latest", path.to_str().unwrap()]);
        assert!(dumped == fs::read(&path).unwrap(), "{file}");
    }
    let found = scene.restic.json(["find", "--json", "noise of 8388609"]);
    assert_eq!(found[0]["matches"][0]["path"], source.join("contents/noise of 8388609").to_str().unwrap());
}

/// Whoever comes second finds every chunk there that the first one made, in a repository of restic's.
#[test]
fn neither_stores_again_what_the_other_has_stored() {
    for ours_first in [true, false] {
        let scene = Scene::of_restic();
        let source = scene.source();
        nasty::fill_all(&source);
        let ours = || backup(&scene.repository, &[&source]).snapshot.id;
        let theirs = || scene.restic.backup(&[&source]);
        if ours_first {
            ours()
        } else {
            theirs()
        };
        let blobs = scene.restic.blobs("data");
        assert!(blobs.len() > 50, "{}", blobs.len());
        if ours_first {
            theirs()
        } else {
            ours()
        };
        assert_eq!(scene.restic.blobs("data"), blobs, "ours first: {ours_first}");
        scene.restic.check();
    }
}

#[test]
fn backups_of_both_alternate_in_one_repository() {
    for scene in [Scene::new(), Scene::of_restic()] {
        let source = scene.source();
        nasty::fill(&source);
        let mut states = Vec::new();
        for round in 0..4 {
            fs::write(source.join("grows"), text(3_000_000 * (round + 1))).unwrap();
            fs::write(source.join(format!("new {round}")), noise(round as u64, 1_500_000)).unwrap();
            if round == 2 {
                fs::remove_dir_all(source.join("names")).unwrap();
            }
            let snapshot = if round % 2 == 0 {
                scene.restic.backup(&[&source])
            } else {
                backup(&scene.repository, &[&source]).snapshot.id
            };
            states.push((snapshot, describe(&source)));
        }
        scene.restic.check();
        for (snapshot, state) in &states {
            assert_same(state, &listing(&scene.repository, &scene.tree_of(snapshot), &source));
            let target = scene.directory.path().join(snapshot.short());
            scene.restic.restore(snapshot, &target);
            assert_same(state, &describe(&target.join(source.strip_prefix("/").unwrap())));
            fs::remove_dir_all(target).unwrap();
        }
    }
}

/// With every snapshot as the next one's parent, whoever wrote it.
#[test]
fn each_takes_the_others_snapshot_for_a_parent() {
    let scene = Scene::of_restic();
    let source = scene.source();
    for number in 0..20 {
        fs::write(source.join(format!("file {number}")), noise(number, 10_000)).unwrap();
    }
    let first = scene.restic.backup(&[&source]);
    let report = backup(&scene.repository, &[&source]);
    assert_eq!(report.snapshot.snapshot.parent, Some(first));
    assert_eq!((report.summary.files_unmodified, report.summary.files_new), (20, 0));
    let output = scene.restic.json_lines(["backup", "--json", source.to_str().unwrap()]);
    let summary = output.last().unwrap();
    assert_eq!(summary["files_unmodified"], 20, "{summary}");
    let parents: Vec<Value> = (scene.restic.snapshots().iter())
        .map(|id| scene.restic.json(["cat", "snapshot", &id.to_hex()])["parent"].clone())
        .collect();
    assert!(parents.contains(&report.snapshot.id.to_hex().into()), "{parents:?}");
}

/// Targets as a user gives them, each list with the same result as restic's.
const TARGETS: &[&[&str]] = &[
    &["source"],
    &["source/"],
    &["./source"],
    &["."],
    &[".."],
    &["source/.."],
    &["source/a"],
    &["source/a/file"],
    &["source/a", "source/b"],
    &["source/a/deep", "source/a/file"],
    &["source", "source/a"],
    &["source/a", "source"],
    &["source/a", "source/a"],
    &["source/a/../b"],
    &["../inner/source/a"],
    &["../beside"],
    &["../beside", "source"],
    &["source/link to a"],
    &["source/link to a/file"],
    &["source/dangling"],
    &["ABSOLUTE/source"],
    &["ABSOLUTE/source/a", "ABSOLUTE/source/b/file"],
    &["ABSOLUTE/source", "ABSOLUTE/source/a"],
    &["ABSOLUTE/../beside"],
    &["ABSOLUTE/source/a", "source/b"],
];

#[test]
fn paths_are_kept_as_restic_keeps_them() {
    if let Some(orders) = child::orders() {
        return back_up_targets(&orders);
    }
    let scene = Scene::new();
    let mut theirs = Scene::new();
    let inner = scene.directory.path().join("inner");
    fs::create_dir_all(inner.join("source/a/deep")).unwrap();
    fs::create_dir_all(inner.join("source/b")).unwrap();
    fs::create_dir_all(scene.directory.path().join("beside/below")).unwrap();
    for file in ["a/file", "a/deep/file", "b/file"] {
        fs::write(inner.join("source").join(file), file).unwrap();
    }
    std::os::unix::fs::symlink("a", inner.join("source/link to a")).unwrap();
    std::os::unix::fs::symlink("none", inner.join("source/dangling")).unwrap();

    theirs.restic.working_directory = inner.clone();
    for targets in TARGETS {
        let targets: Vec<PathBuf> = targets
            .iter()
            .map(|target| PathBuf::from(target.replace("ABSOLUTE", inner.to_str().unwrap())))
            .collect();
        let paths: Vec<&Path> = targets.iter().map(PathBuf::as_path).collect();
        let id = theirs.restic.backup(&paths);
        let expected = outline(&theirs.restic, &id);

        let before = scene.restic.snapshots();
        let orders = serde_json::json!({
            "repository": scene.restic.repository, "directory": inner, "targets": targets,
        });
        let output =
            child::command(&[], "conformance::paths_are_kept_as_restic_keeps_them", &orders.to_string())
                .output()
                .unwrap();
        assert!(output.status.success(), "{targets:?}: {}", String::from_utf8_lossy(&output.stdout));
        let new: Vec<_> = scene.restic.snapshots().into_iter().filter(|id| !before.contains(id)).collect();
        assert_eq!(outline(&scene.restic, &new[0]), expected, "{targets:?}");
    }
}

fn back_up_targets(orders: &str) {
    let orders: Value = serde_json::from_str(orders).unwrap();
    std::env::set_current_dir(orders["directory"].as_str().unwrap()).unwrap();
    let repository = open(local(orders["repository"].as_str().unwrap()));
    let targets = orders["targets"].as_array().unwrap();
    let targets: Vec<&Path> = targets.iter().map(|target| Path::new(target.as_str().unwrap())).collect();
    backup(&repository, &targets);
}

/// The paths that a snapshot states, and its entries.
fn outline(restic: &Restic, snapshot: &Id) -> (Value, Vec<[Value; 6]>) {
    let id = snapshot.to_hex();
    let said = restic.json(["cat", "snapshot", &id]);
    let mut paths: Vec<_> = said["paths"].as_array().unwrap().clone();
    paths.sort_by_key(Value::to_string);
    paths.dedup();
    let lines = restic.json_lines(["ls", "--json", &id]);
    let nodes = lines.iter().filter(|line| line["struct_type"] == "node");
    let entries = nodes
        .map(|line| ["path", "type", "mode", "uid", "gid", "mtime"].map(|field| line[field].clone()))
        .filter(|line: &[Value; 6]| !line[0].as_str().unwrap().contains("repository"))
        .map(|mut line| {
            // What lies above all that the test makes may change at any time.
            if line[0].as_str().is_some_and(|path| std::env::temp_dir().starts_with(path)) {
                line[5] = Value::Null;
            }
            line
        })
        .collect();
    (paths.into(), entries)
}
