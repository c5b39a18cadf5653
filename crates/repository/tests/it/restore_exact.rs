//! Single entries restored to exactly one path, whatever lies there and beside it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use repository::restore::{Ownership, RestoreOptions, RestorePlan, RestoreReport, restore_to};
use repository::{BlobReader, Context, Error, Id, Index, Repository, Result, find_entry};

use crate::support::engine::{backup, in_memory};
use crate::support::tree::{assert_same, describe, read_tree};
use crate::support::{nasty, noise};

/// A snapshot of a source, and a place to restore to.
struct Scene {
    directory: tempfile::TempDir,
    repository: Repository,
    tree: Id,
}

impl Scene {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        fs::create_dir(directory.path().join("target")).unwrap();
        let (_, repository) = in_memory();
        let tree = backup(&repository, &[&source]).snapshot.snapshot.tree;
        Self { directory, repository, tree }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.directory.path().join("source").join(name)
    }

    fn target(&self, name: &str) -> PathBuf {
        self.directory.path().join("target").join(name)
    }

    fn try_restore(&self, name: &str, target: &Path, options: RestoreOptions) -> Result<RestoreReport> {
        let index = Index::load(&self.repository, Context::silent()).unwrap();
        let from = self.source(name);
        restore_to(&self.repository, &index, (self.tree, &from), target, options, Context::silent())
    }

    fn restore(&self, name: &str, target: &str) {
        let options = RestoreOptions { verify: true, ..Default::default() };
        let report = self.try_restore(name, &self.target(target), options).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }
}

fn simple(source: &Path) {
    fs::create_dir(source.join("app")).unwrap();
    fs::write(source.join("app/hub.db"), noise(1, 3_000_000)).unwrap();
    fs::write(source.join("app/empty"), "").unwrap();
    fs::set_permissions(source.join("app/hub.db"), fs::Permissions::from_mode(0o604)).unwrap();
    fs::set_permissions(source.join("app"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("app/hub.db", source.join("link")).unwrap();
}

/// Everything a file system takes, each entry under another name than its own.
#[test]
fn every_kind_of_entry_is_restored_under_another_name() {
    let scene = Scene::new(nasty::fill_all);
    for name in
        ["contents", "kinds", "times", "names", "links", "contents/holes", "kinds/empty", "kinds/setuid"]
    {
        scene.restore(name, "other name");
        assert_same(&describe(&scene.source(name)), &describe(&scene.target("other name")));
        let names: Vec<_> = fs::read_dir(scene.target("")).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let _ = fs::remove_file(scene.target("other name"))
            .or_else(|_| fs::remove_dir_all(scene.target("other name")));
    }
    for entry in fs::read_dir(scene.source("kinds")).unwrap() {
        let name = Path::new("kinds").join(entry.unwrap().file_name());
        let name = name.to_str().unwrap();
        if fs::symlink_metadata(scene.source(name)).unwrap().is_dir() {
            continue;
        }
        scene.restore(name, "kind");
        let (mut expected, mut found) = (describe(&scene.source(name)), describe(&scene.target("kind")));
        expected.values_mut().chain(found.values_mut()).for_each(|entry| entry.same_as = None);
        assert_same(&expected, &found);
        fs::remove_file(scene.target("kind")).unwrap();
    }
}

#[test]
fn what_lies_beside_is_left_alone() {
    let scene = Scene::new(simple);
    fs::write(scene.target("hub.db"), "the present one").unwrap();
    fs::write(scene.target("beside"), "beside").unwrap();
    fs::set_permissions(scene.target(""), fs::Permissions::from_mode(0o705)).unwrap();
    let before = read_tree(&scene.target(""));
    let options = RestoreOptions { delete: true, ..Default::default() };
    scene.try_restore("app/hub.db", &scene.target("hub.db.lifeboat-7"), options.clone()).unwrap();
    scene.try_restore("app", &scene.target("app.lifeboat-7"), options.clone()).unwrap();
    let mut after = read_tree(&scene.target(""));
    let restored = after.remove(Path::new("hub.db.lifeboat-7")).unwrap();
    assert_eq!(restored, describe(&scene.source("app/hub.db"))[Path::new("")]);
    after.retain(|path, _| !path.starts_with("app.lifeboat-7"));
    assert_same(&before, &after);
    assert_eq!(fs::metadata(scene.target("")).unwrap().mode() & 0o777, 0o705);
    // Only below the directory that is restored is deleted.
    fs::write(scene.target("app.lifeboat-7/surplus"), "surplus").unwrap();
    scene.try_restore("app", &scene.target("app.lifeboat-7"), options).unwrap();
    assert_same(&describe(&scene.source("app")), &describe(&scene.target("app.lifeboat-7")));
    assert!(scene.target("beside").exists());
}

#[test]
fn a_link_at_the_last_component_gives_way_and_is_not_followed() {
    let scene = Scene::new(simple);
    let outside = scene.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "outside").unwrap();
    let before = describe(&outside);
    for name in ["app/hub.db", "app/empty", "app", "link"] {
        for link in ["../outside/file", "../outside", "../outside/new", "nowhere", "/"] {
            symlink(link, scene.target("at")).unwrap();
            scene.restore(name, "at");
            assert_same(&describe(&scene.source(name)), &describe(&scene.target("at")));
            assert_same(&before, &describe(&outside));
            let _ = fs::remove_file(scene.target("at")).or_else(|_| fs::remove_dir_all(scene.target("at")));
        }
    }
    // A file with another name elsewhere is replaced and not written.
    fs::hard_link(outside.join("file"), scene.target("at")).unwrap();
    scene.restore("app/hub.db", "at");
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"outside");
    fs::remove_file(scene.target("at")).unwrap();
    // A link further up is the caller's own path.
    symlink("../outside", scene.target("up")).unwrap();
    scene.restore("app/empty", "up/made");
    assert!(outside.join("made").is_file());
}

#[test]
fn directories_above_are_made_and_nonsense_is_refused() {
    let scene = Scene::new(simple);
    scene.restore("app/hub.db", "a/b/c");
    assert_eq!(fs::read(scene.target("a/b/c")).unwrap(), noise(1, 3_000_000));
    for target in ["/", "..", "", "a/.."] {
        let result = scene.try_restore("app/hub.db", Path::new(target), RestoreOptions::default());
        assert!(matches!(result, Err(Error::Refused(_))), "{target}: {result:?}");
    }
    for name in ["none", "app/none", "app/hub.db/below", "../../.."] {
        let result = scene.try_restore(name, &scene.target("x"), RestoreOptions::default());
        assert!(matches!(result, Err(Error::NoSuchSnapshot(_))), "{name}: {result:?}");
    }
    assert!(!scene.target("x").exists());
    let index = Index::load(&scene.repository, Context::silent()).unwrap();
    let reader = BlobReader::new(&scene.repository, &index);
    let root = find_entry(&reader, scene.tree, Path::new("/"));
    assert!(matches!(&root, Err(Error::NoSuchSnapshot(_))), "{root:?}");
    let entry = find_entry(&reader, scene.tree, &scene.source("app")).unwrap();
    assert_eq!(entry.name, b"app");
    // Patterns begin at the new name.
    let include = repository::Patterns::parse(["/new/empty"].into_iter(), false).unwrap();
    let options = RestoreOptions { include, ownership: Ownership::Skip, ..Default::default() };
    let target = scene.target("new");
    let plan =
        RestorePlan::to_exact_path(&scene.repository, &index, entry, &target, options, Context::silent());
    plan.unwrap().execute(Context::silent()).unwrap();
    let names: Vec<_> = fs::read_dir(target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["empty"]);
}
