//! What a backup leaves out: the same as restic leaves out, and what lies on other file systems.

use std::fs;
use std::path::Path;
use std::process::Command;

use repository::Patterns;
use repository::backup::{BackupOptions, IfPresent, Selection};

use crate::support::child;
use crate::support::engine::{backup_with, in_memory, init, local, names_below, options};
use crate::support::restic::Restic;

const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# and more";

fn selecting(selection: Selection) -> BackupOptions {
    BackupOptions { selection, ..options() }
}

fn excluding(patterns: &[&str], case_insensitive: bool) -> Selection {
    let excludes = Patterns::parse(patterns.iter().copied(), case_insensitive).unwrap();
    Selection { excludes, ..Selection::default() }
}

fn if_present(mark: IfPresent) -> Selection {
    Selection { if_present: vec![mark], ..Selection::default() }
}

fn fill(root: &Path) {
    for directory in
        ["src/deep/er", "target/debug", "cache", "no cache", "marked/within", "headed", "tagged.d"]
    {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (file, content) in [
        ("src/main.rs", "fn main() {}"),
        ("src/deep/er/a.o", "object"),
        ("src/deep/b.O", "object"),
        ("src/deep/er/[x].txt", "brackets"),
        ("target/debug/out", "out"),
        ("cache/CACHEDIR.TAG", CACHE_TAG),
        ("cache/data", "cached"),
        ("no cache/CACHEDIR.TAG", "something else"),
        ("no cache/data", "not cached"),
        ("marked/.nobackup", ""),
        ("marked/file", "file"),
        ("marked/within/file", "file"),
        ("headed/.mark", "head and tail"),
        ("headed/file", "file"),
        ("big", &"x".repeat(5000)),
        ("edge", &"x".repeat(1024)),
        ("target.rs", ""),
    ] {
        fs::write(root.join(file), content).unwrap();
    }
    // A directory of that name marks as well as a file does.
    fs::create_dir(root.join("tagged.d/.nobackup")).unwrap();
    fs::write(root.join("tagged.d/file"), "").unwrap();
}

#[test]
fn we_leave_out_what_restic_leaves_out() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("source");
    fill(&root);
    let repository = init(local(directory.path().join("repository")));
    let restic = Restic::at(directory.path().join("repository"));
    let absolute = format!("{}/src/*/er", root.display());
    let cases: Vec<(Vec<&str>, Selection)> = vec![
        (vec![], Selection::default()),
        (vec!["--exclude=*.o"], excluding(&["*.o"], false)),
        (vec!["--iexclude=*.o"], excluding(&["*.o"], true)),
        (vec!["--exclude=target"], excluding(&["target"], false)),
        (vec!["--exclude=src/**/*.o"], excluding(&["src/**/*.o"], false)),
        (vec!["--exclude", &absolute], excluding(&[&absolute], false)),
        (vec!["--exclude=\\[x\\].txt"], excluding(&["\\[x\\].txt"], false)),
        (vec!["--exclude=source/*", "--exclude=!*.rs"], excluding(&["source/*", "!*.rs"], false)),
        (vec!["--exclude=deep/*", "--exclude=!er"], excluding(&["deep/*", "!er"], false)),
        (vec!["--exclude-if-present=.nobackup"], if_present(IfPresent::parse(".nobackup").unwrap())),
        (vec!["--exclude-if-present=.mark:head"], if_present(IfPresent::parse(".mark:head").unwrap())),
        (vec!["--exclude-if-present=.mark:tail"], if_present(IfPresent::parse(".mark:tail").unwrap())),
        (vec!["--exclude-caches"], if_present(IfPresent::cache_tag())),
        (
            vec!["--exclude-larger-than=1024"],
            Selection { larger_than_bytes: Some(1024), ..Selection::default() },
        ),
        (
            vec!["--exclude-larger-than=1023"],
            Selection { larger_than_bytes: Some(1023), ..Selection::default() },
        ),
    ];
    let mut outcomes = std::collections::BTreeSet::new();
    for (arguments, selection) in cases {
        let mut command = vec!["backup", root.to_str().unwrap()];
        command.extend(&arguments);
        let before = restic.snapshots();
        restic.run(command);
        let theirs = restic.snapshots().into_iter().find(|id| !before.contains(id)).unwrap();
        let theirs = repository.find_snapshot(&theirs.to_hex(), &Default::default()).unwrap().snapshot.tree;
        let ours = backup_with(&repository, &[&root], &selecting(selection)).snapshot.snapshot.tree;
        let ours = names_below(&repository, &ours, &root);
        assert_eq!(ours, names_below(&repository, &theirs, &root), "{arguments:?}");
        outcomes.insert(ours);
    }
    assert!(outcomes.len() >= 11, "patterns that change nothing prove nothing: {}", outcomes.len());
}

#[test]
fn a_target_that_is_excluded_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let (_, repository) = in_memory();
    let targets = [directory.path().join("src"), directory.path().join("target")];
    let options = selecting(excluding(&["target"], false));
    let report = backup_with(&repository, &[&targets[0], &targets[1]], &options);
    let names = names_below(&repository, &report.snapshot.snapshot.tree, directory.path());
    assert!(names.iter().all(|name| name.starts_with("src")) && !names.is_empty(), "{names:?}");
}

#[test]
fn one_file_system_stays_on_it() {
    if !child::inside_mount_namespace("backup_excludes::one_file_system_stays_on_it") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["here", "mounted", "second"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::write(root.join("here/file"), "here").unwrap();
    fs::write(root.join("mounted/hidden"), "below the mount").unwrap();
    let mount = |name: &str| {
        let status = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(root.join(name)).status();
        assert!(status.unwrap().success());
    };
    mount("mounted");
    mount("second");
    fs::create_dir(root.join("mounted/deep")).unwrap();
    fs::write(root.join("mounted/deep/file"), "there").unwrap();
    fs::write(root.join("second/file"), "there").unwrap();
    let (_, repository) = in_memory();
    let names = |paths: &[&Path], one_file_system| {
        let options = selecting(Selection { one_file_system, ..Selection::default() });
        let report = backup_with(&repository, paths, &options);
        names_below(&repository, &report.snapshot.snapshot.tree, root)
    };
    let all = ["here", "here/file", "mounted", "mounted/deep", "mounted/deep/file", "second", "second/file"];
    assert_eq!(names(&[root], false), all);
    assert_eq!(names(&[root], true), ["here", "here/file", "mounted", "second"]);
    // A mount point that is a target itself is wanted with what is in it.
    let mounted = root.join("mounted");
    assert_eq!(names(&[&mounted], true), ["mounted", "mounted/deep", "mounted/deep/file"]);
}
