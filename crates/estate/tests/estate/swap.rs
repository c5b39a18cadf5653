//! The swap: killed before and after every move, resumed, rolled back; and what it must never do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use estate::component::Part;
use estate::swap::{self, Moment, SwapPlan};
use estate::{Error, Result};

/// A directory with an old database, its log, an old tree, and what was restored beside both.
struct Scene {
    directory: tempfile::TempDir,
    parts: Vec<Part>,
}

impl Scene {
    fn new(with_old: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        if with_old {
            fs::write(root.join("db"), "old").unwrap();
            fs::write(root.join("db-wal"), "old log").unwrap();
            fs::create_dir_all(root.join("tree/sub")).unwrap();
            fs::write(root.join("tree/sub/file"), "old").unwrap();
        }
        fs::write(root.join("db.lifeboat-r1"), "new").unwrap();
        fs::create_dir(root.join("tree.lifeboat-r1")).unwrap();
        fs::write(root.join("tree.lifeboat-r1/file"), "new").unwrap();
        let mut db = Part::home(&root.join("db"), "r1");
        db.companions = vec!["-wal".to_owned(), "-shm".to_owned(), "-journal".to_owned()];
        let parts = vec![db, Part::home(&root.join("tree"), "r1")];
        Self { parts, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Every file by its path, with its text.
    fn files(&self) -> BTreeMap<String, String> {
        fn walk(root: &Path, directory: &Path, files: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(root, &path, files);
                } else {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    files.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(self.directory.path(), self.directory.path(), &mut files);
        files
    }
}

fn files(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn old() -> BTreeMap<String, String> {
    files(&[("db", "old"), ("db-wal", "old log"), ("tree/sub/file", "old")])
}

fn swapped() -> BTreeMap<String, String> {
    files(&[
        ("db", "new"),
        ("db.before-r1", "old"),
        ("db.before-r1-wal", "old log"),
        ("tree/file", "new"),
        ("tree.before-r1/sub/file", "old"),
    ])
}

fn quietly(_: Moment, _: &swap::Move) -> Result<()> {
    Ok(())
}

/// A caller that dies at its n-th word.
fn dying(after: usize) -> impl FnMut(Moment, &swap::Move) -> Result<()> {
    let mut left = after;
    move |_, _| {
        if left == 0 {
            return Err(Error::Interrupted);
        }
        left -= 1;
        Ok(())
    }
}

/// The plan as it comes back from a journal.
fn journalled(plan: &SwapPlan) -> SwapPlan {
    serde_json::from_str(&serde_json::to_string(plan).unwrap()).unwrap()
}

#[test]
fn swaps_and_keeps_the_old_with_its_log() {
    let scene = Scene::new(true);
    let plan = swap::plan("r1", &scene.parts).unwrap();
    assert!(!plan.is_applied().unwrap());
    let mut moves = Vec::new();
    plan.apply(&mut |moment, one| {
        moves.push((moment, one.to.file_name().unwrap().to_str().unwrap().to_owned()));
        Ok(())
    })
    .unwrap();
    assert_eq!(scene.files(), swapped());
    let after: Vec<&str> =
        moves.iter().filter(|(moment, _)| *moment == Moment::After).map(|(_, to)| &**to).collect();
    assert_eq!(after, ["db.before-r1", "db.before-r1-wal", "db", "tree.before-r1", "tree"]);
    assert!(plan.is_applied().unwrap());
    plan.commit().unwrap();
    assert_eq!(scene.files(), files(&[("db", "new"), ("tree/file", "new")]));
    plan.commit().unwrap();
}

#[test]
fn a_missing_target_is_fine() {
    let scene = Scene::new(false);
    // A log without its database is of no use, and would be applied to the new one.
    fs::write(scene.path("db-wal"), "stale").unwrap();
    let plan = swap::plan("r1", &scene.parts).unwrap();
    plan.apply(&mut quietly).unwrap();
    let expected = files(&[("db", "new"), ("db.before-r1-wal", "stale"), ("tree/file", "new")]);
    assert_eq!(scene.files(), expected);
    plan.rollback(&mut quietly).unwrap();
    let undone = [("db.undone-r1", "new"), ("db.before-r1-wal", "stale"), ("tree.undone-r1/file", "new")];
    assert_eq!(scene.files(), files(&undone));
    plan.rollback(&mut |_, one| panic!("{one:?}")).unwrap();
    plan.commit().unwrap();
    assert_eq!(scene.files(), files(&[]));
}

/// Every kill before and after every move of swap and rollback, each resumed by a plan read from the journal.
#[test]
fn survives_a_kill_at_every_move() {
    for with_old in [true, false] {
        let mut done = Vec::new();
        for (name, undo_first) in [("apply", false), ("rollback", true)] {
            let mut kills = 0;
            loop {
                let scene = Scene::new(with_old);
                let before = scene.files();
                let plan = swap::plan("r1", &scene.parts).unwrap();
                let run = |plan: &SwapPlan, told: swap::Told<'_>| match undo_first {
                    true => plan.rollback(told),
                    false => plan.apply(told),
                };
                if undo_first {
                    plan.apply(&mut quietly).unwrap();
                    // The restored service has run meanwhile.
                    fs::write(scene.path("db-wal"), "new log").unwrap();
                }
                let killed = run(&journalled(&plan), &mut dying(kills));
                // Wherever it died, everything is still somewhere.
                let texts: Vec<String> = scene.files().into_values().collect();
                for text in before.values() {
                    assert!(texts.contains(text), "{name} killed at {kills}: {text} is lost");
                }
                if killed.is_err() {
                    let half = run(&journalled(&plan), &mut dying(1));
                    assert!(half.is_ok() || matches!(half, Err(Error::Interrupted)), "{half:?}");
                }
                run(&journalled(&plan), &mut quietly).unwrap();
                run(&journalled(&plan), &mut |_, one| panic!("{name}: {one:?} is done twice")).unwrap();
                done.push(scene.files());
                if killed.is_ok() {
                    break;
                }
                kills += 1;
            }
            assert!(kills >= 4, "{name} of {with_old} was killed {kills} times");
            let expected = match (undo_first, with_old) {
                (false, true) => swapped(),
                (false, false) => files(&[("db", "new"), ("tree/file", "new")]),
                (true, true) => {
                    let mut all = old();
                    all.extend(files(&[
                        ("db.undone-r1", "new"),
                        ("db.undone-r1-wal", "new log"),
                        ("tree.undone-r1/file", "new"),
                    ]));
                    all
                }
                (true, false) => files(&[
                    ("db.undone-r1", "new"),
                    ("db.undone-r1-wal", "new log"),
                    ("tree.undone-r1/file", "new"),
                ]),
            };
            assert!(done.drain(..).all(|files| files == expected));
        }
    }
}

/// A swap that was cut off anywhere can be rolled back instead of finished, and that can be cut off as well.
#[test]
fn a_swap_cut_off_anywhere_can_be_undone() {
    for kills in 0..10 {
        for again in 0..10 {
            let scene = Scene::new(true);
            let plan = swap::plan("r1", &scene.parts).unwrap();
            assert!(plan.apply(&mut dying(kills)).is_err());
            _ = plan.rollback(&mut dying(again));
            plan.rollback(&mut quietly).unwrap();
            let files = scene.files();
            for (name, text) in old() {
                assert_eq!(files.get(&name), Some(&text), "killed at {kills}, then at {again}: {files:?}");
            }
            plan.rollback(&mut |_, one| panic!("{one:?} is done twice")).unwrap();
        }
    }
}

#[test]
fn what_is_half_done_is_not_committed() {
    for kills in 1..9 {
        let scene = Scene::new(true);
        let plan = swap::plan("r1", &scene.parts).unwrap();
        assert!(plan.apply(&mut dying(kills)).is_err());
        let before = scene.files();
        if plan.commit().is_err() {
            assert_eq!(scene.files(), before, "killed at {kills}");
        } else {
            // What is placed may be committed; what was not begun has nothing to lose.
            for (name, text) in [("db", "new"), ("tree/sub/file", "old")] {
                assert_eq!(scene.files().get(name).map(String::as_str), Some(text), "killed at {kills}");
            }
        }
    }
    let scene = Scene::new(true);
    let plan = swap::plan("r1", &scene.parts).unwrap();
    plan.apply(&mut quietly).unwrap();
    assert!(plan.rollback(&mut dying(7)).is_err());
    let before = scene.files();
    plan.commit().unwrap_err();
    assert_eq!(scene.files(), before);
}

#[test]
fn nothing_is_overwritten() {
    // A kept name of an earlier run.
    let scene = Scene::new(true);
    fs::write(scene.path("db.before-r1"), "older").unwrap();
    let refused = swap::plan("r1", &scene.parts).unwrap_err();
    assert!(
        refused.to_string().contains("db.before-r1") && refused.to_string().contains("commit"),
        "{refused}"
    );

    // Something that appears at the target while it is being replaced.
    let scene = Scene::new(true);
    let plan = swap::plan("r1", &scene.parts).unwrap();
    let target = scene.path("db");
    let mut intruder = |moment, one: &swap::Move| {
        if moment == Moment::Before && one.to == target {
            fs::write(&target, "intruder").unwrap();
        }
        Ok(())
    };
    let refused = plan.apply(&mut intruder).unwrap_err();
    assert!(matches!(&refused, Error::Swap { path, .. } if *path == target), "{refused}");
    let refused = plan.apply(&mut quietly).unwrap_err();
    assert!(matches!(refused, Error::Swap { .. }));
    plan.rollback(&mut quietly).unwrap_err();
    assert_eq!(fs::read_to_string(&target).unwrap(), "intruder");
    assert_eq!(fs::read_to_string(scene.path("db.before-r1")).unwrap(), "old");
    // Moved away, the swap goes on.
    fs::rename(&target, scene.path("elsewhere")).unwrap();
    plan.apply(&mut quietly).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
}

#[test]
fn what_vanished_is_told() {
    let scene = Scene::new(false);
    let plan = swap::plan("r1", &scene.parts).unwrap();
    fs::remove_file(scene.path("db.lifeboat-r1")).unwrap();
    let refused = plan.apply(&mut quietly).unwrap_err();
    assert!(refused.to_string().contains("restore again"), "{refused}");
    // A run that was rolled back is not applied again by a late resume.
    let scene = Scene::new(true);
    let plan = swap::plan("r1", &scene.parts).unwrap();
    plan.apply(&mut quietly).unwrap();
    plan.rollback(&mut quietly).unwrap();
    plan.apply(&mut quietly).unwrap_err();
}

#[test]
fn removing_follows_no_link() {
    let scene = Scene::new(true);
    std::os::unix::fs::symlink(scene.path("tree"), scene.path("link")).unwrap();
    swap::remove(&scene.path("link")).unwrap();
    swap::remove(&scene.path("link")).unwrap();
    assert!(scene.path("tree/sub/file").exists() && !scene.path("link").is_symlink());
}

/// In an overlay a directory of the lower layer cannot be renamed whole; the swap moves its entries.
#[test]
fn works_in_an_overlay() {
    let place = tempfile::tempdir().unwrap();
    let lower = place.path().join("lower");
    fs::create_dir_all(lower.join("tree/sub/deep")).unwrap();
    fs::write(lower.join("tree/sub/deep/file"), "old").unwrap();
    fs::write(lower.join("tree/top"), "old").unwrap();
    let script = format!(
        "set -e; cd {0}; mkdir upper work merged; mount -t tmpfs none work; mkdir work/u work/w
         mount -t overlay -o lowerdir=lower,upperdir=work/u,workdir=work/w,userxattr none merged
         exec {1} --exact swap::is_started_by_works_in_an_overlay --nocapture --include-ignored",
        place.path().display(),
        std::env::current_exe().unwrap().display()
    );
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .current_dir(place.path())
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("swapped in the overlay"), "{said}");
    assert!(lower.join("tree/sub/deep/file").exists());
}

/// The other half of the test above, inside the namespace.
#[test]
#[ignore = "is started by works_in_an_overlay"]
fn is_started_by_works_in_an_overlay() {
    let root = std::env::current_dir().unwrap().join("merged");
    let target = root.join("tree");
    let refused = fs::rename(&target, root.join("elsewhere")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(18), "the overlay refuses: {refused}");
    fs::create_dir(root.join("tree.lifeboat-r1")).unwrap();
    fs::write(root.join("tree.lifeboat-r1/file"), "new").unwrap();
    // A first attempt was cut off in the middle of the entries.
    fs::create_dir_all(root.join("tree.before-r1.moving/sub")).unwrap();
    fs::rename(root.join("tree/top"), root.join("tree.before-r1.moving/top")).unwrap();
    let plan = swap::plan("r1", &[Part::home(&target, "r1")]).unwrap();
    plan.apply(&mut quietly).unwrap();
    assert_eq!(fs::read_to_string(root.join("tree/file")).unwrap(), "new");
    assert_eq!(fs::read_to_string(root.join("tree.before-r1/sub/deep/file")).unwrap(), "old");
    assert_eq!(fs::read_to_string(root.join("tree.before-r1/top")).unwrap(), "old");
    plan.rollback(&mut quietly).unwrap();
    assert_eq!(fs::read_to_string(root.join("tree/sub/deep/file")).unwrap(), "old");
    let mut out = std::io::stdout();
    std::io::Write::write_all(&mut out, b"swapped in the overlay\n").unwrap();
}
