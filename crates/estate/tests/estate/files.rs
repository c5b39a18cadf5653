//! Files and files of secrets: what must be there, what must not be kept, what a proof notices.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use estate::Error;
use estate::component::files::Files;
use estate::component::{Cancel, Component, Content, FilesOptions, Holds, Proven, Severity};

use crate::support::{RUN, back_up, copy};

struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn component(&self, paths: &[&str], env_files: &[&str]) -> Files {
        Files::new(FilesOptions {
            base: self.path().to_owned(),
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
            excludes: vec!["*.tmp".to_owned()],
            env_files: env_files.iter().map(Into::into).collect(),
        })
    }
}

fn roots(component: &Files, tree: &Tree) -> Vec<String> {
    let stored = back_up(component, None).unwrap();
    let root = stored.point.roots.iter();
    root.map(|root| root.strip_prefix(tree.path()).unwrap().display().to_string()).collect()
}

#[test]
fn declared_paths_and_globs_become_roots() {
    let tree = Tree::new(&[
        ("compose.yml", ""),
        ("compose.prod.yml", ""),
        ("k8s/a.yaml", "a"),
        ("k8s/x/b.yaml", "b"),
        ("other", "o"),
    ]);
    let component = tree.component(&["compose*.yml", "./k8s/", "k8s/a.yaml", "k8s/**/*.yaml"], &[]);
    // One inside another is left to the outer.
    assert_eq!(roots(&component, &tree), ["compose.prod.yml", "compose.yml", "k8s"]);
    // The patterns of what is left out go with each.
    let scratch = tempfile::tempdir().unwrap();
    let capture = component
        .capture(&estate::component::CaptureRequest {
            run: RUN,
            scratch: scratch.path(),
            previous: None,
            cancel: Cancel::default(),
        })
        .unwrap();
    let excluding =
        |content: &Content| matches!(content, Content::Host { excludes, .. } if excludes == &["*.tmp"]);
    assert!(capture.members.iter().all(|member| excluding(&member.content)));
}

#[test]
fn what_is_declared_must_be_there() {
    let tree = Tree::new(&[("a", "a"), ("dir/b", "b")]);
    std::os::unix::fs::symlink("dir", tree.path().join("current")).unwrap();
    for (paths, env_files, expected) in [
        (vec!["a", "gone"], vec![], "gone is missing: create it, or correct `files:`"),
        (vec!["a", "*.yml"], vec![], "nothing matches"),
        (vec!["current"], vec![], "symbolic link"),
        (vec!["a"], vec![".env"], ".env is missing"),
        (vec![], vec![], "names no files"),
    ] {
        let component = tree.component(&paths, &env_files);
        let error = back_up(&component, None).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error}");
        if !expected.contains("names no files") {
            let found = component.preflight();
            assert!(
                found.iter().any(|one| one.severity == Severity::Error && one.what.contains(expected)),
                "{found:?}"
            );
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    // Root reads everything; an ordinary user's process is needed to be refused.
    let tree = Tree::new(&[("locked/a", "a"), ("secret", "s")]);
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = rustix::process::geteuid().is_root();
    for (path, expected) in [("locked", "failed to list"), ("secret", "failed to read")] {
        fs::set_permissions(tree.path().join(path), fs::Permissions::from_mode(0o000)).unwrap();
        let component = tree.component(&[path], &[]);
        let refused = || back_up_as_nobody(nobody, &component);
        let error = refused();
        assert!(error.contains(expected), "{error}");
    }
}

/// Captures on a thread that has given up root's rights; threads have their own.
fn back_up_as_nobody(give_up: bool, component: &Files) -> String {
    std::thread::scope(|scope| {
        let capture = scope.spawn(|| {
            if give_up {
                let none = rustix::thread::CapabilitySets {
                    effective: rustix::thread::CapabilitySet::empty(),
                    permitted: rustix::thread::CapabilitySet::empty(),
                    inheritable: rustix::thread::CapabilitySet::empty(),
                };
                rustix::thread::set_capabilities(None, none).unwrap();
            }
            let scratch = std::env::temp_dir();
            let request = estate::component::CaptureRequest {
                run: RUN,
                scratch: &scratch,
                previous: None,
                cancel: Cancel::default(),
            };
            component.capture(&request).err().expect("it cannot be read").to_string()
        });
        capture.join().unwrap()
    })
}

#[test]
fn values_of_env_files_are_nowhere() {
    let secret = "hunter2-very-secret";
    let env = format!("# comment {secret}\nTOKEN={secret}\nEMPTY=\nexport OTHER='{secret}'\n");
    let tree = Tree::new(&[("app/.env", &env), ("app/compose.yml", "x")]);
    fs::set_permissions(tree.path().join("app/.env"), fs::Permissions::from_mode(0o640)).unwrap();
    let component = tree.component(&["app/compose.yml"], &["app/.env"]);
    let stored = back_up(&component, None).unwrap();
    let names = stored.path(tree.path().join("app/.env.names"));
    assert_eq!(fs::read_to_string(&names).unwrap(), "TOKEN\nEMPTY\nOTHER\n");
    assert_eq!(fs::metadata(&names).unwrap().permissions().mode() & 0o777, 0o640);
    let everything = std::process::Command::new("grep")
        .args(["-r", secret])
        .arg(stored.directory.path())
        .output()
        .unwrap();
    assert!(!everything.status.success(), "{}", String::from_utf8_lossy(&everything.stdout));
    assert!(!serde_json::to_string(&stored.point).unwrap().contains(secret));

    // A line that is no assignment may be part of a secret: it is named by its number alone.
    fs::write(tree.path().join("app/.env"), format!("A=1\n{secret}\n")).unwrap();
    let error = back_up(&component, None).err().unwrap().to_string();
    assert!(error.contains("line 2") && !error.contains(secret), "{error}");
}

#[test]
fn values_are_left_to_people_and_never_overwritten() {
    let tree = Tree::new(&[(".env", "TOKEN=one\nKEY=two\n"), ("a", "a")]);
    let component = tree.component(&["a"], &[".env"]);
    let stored = back_up(&component, None).unwrap();
    assert_eq!(component.left_to_people(&stored.point), []);
    // Somebody has changed a value since: it stays.
    fs::write(tree.path().join(".env"), "TOKEN=three\nKEY=\n").unwrap();
    let (proof, plan) = stored.recover(&component, RUN).unwrap();
    assert_eq!(proof.outcome(), Proven::Proven);
    assert_eq!(fs::read_to_string(tree.path().join(".env")).unwrap(), "TOKEN=three\nKEY=\n");
    let left = component.left_to_people(&stored.point);
    assert_eq!(left.len(), 1);
    assert!(left[0].what.contains("fill in the values of") && left[0].names == ["KEY"], "{left:?}");
    plan.commit().unwrap();
    // After a disaster none is there; the names tell which are needed.
    fs::remove_file(tree.path().join(".env")).unwrap();
    let (_, _) = stored.recover(&component, "r2").unwrap();
    assert!(!tree.path().join(".env").exists());
    assert_eq!(fs::read_to_string(tree.path().join(".env.names")).unwrap(), "TOKEN\nKEY\n");
    assert_eq!(component.left_to_people(&stored.point)[0].names, ["TOKEN", "KEY"]);
    fs::write(tree.path().join(".env"), "TOKEN=a\nKEY=b\n").unwrap();
    assert_eq!(component.left_to_people(&stored.point), []);
}

#[test]
fn a_proof_notices_every_kind_of_difference() {
    let tree = Tree::new(&[("t/a", "aaa"), ("t/sub/b", "bbb"), ("t/empty/.keep", "")]);
    std::os::unix::fs::symlink("a", tree.path().join("t/link")).unwrap();
    let component = tree.component(&["t"], &[]);
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts(RUN, &stored.point);
    let mut differences = vec![
        ("true", vec![]),
        ("rm a", vec!["bytes", "files", "paths, sizes, modes, times", "owners"]),
        ("mv a c", vec!["paths, sizes, modes, times", "owners"]),
        ("truncate -s 2 a", vec!["bytes", "paths, sizes, modes, times"]),
        ("touch -d 2001-01-01 sub/b", vec!["paths, sizes, modes, times"]),
        ("chmod 600 a", vec!["paths, sizes, modes, times"]),
        ("chmod 700 sub", vec!["paths, sizes, modes, times"]),
        ("ln -sf sub/b link", vec!["paths, sizes, modes, times"]),
        ("mkdir new", vec!["directories", "paths, sizes, modes, times", "owners"]),
        (
            "rm link && touch -h -r a link 2>/dev/null; rm -f link; echo -n > link",
            vec!["files", "links and special files", "paths, sizes, modes, times"],
        ),
    ];
    if rustix::process::geteuid().is_root() {
        differences.push(("chown 1234 a", vec!["owners"]));
    }
    for (damage, expected) in differences {
        estate::swap::remove(&parts[0].beside).unwrap();
        stored.restore(&parts);
        let ran = std::process::Command::new("sh")
            .args(["-c", damage])
            .current_dir(&parts[0].beside)
            .status()
            .unwrap();
        assert!(ran.success(), "{damage}");
        let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
        let mut found: Vec<&str> =
            proof.shown.iter().filter(|shown| shown.holds == Holds::No).map(|shown| &*shown.what).collect();
        found.sort_unstable();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(found, expected, "{damage}");
    }
}

#[test]
fn what_nobody_counted_is_not_proven() {
    let tree = Tree::new(&[("a", "a")]);
    let component = tree.component(&["a"], &[]);
    let mut stored = back_up(&component, None).unwrap();
    stored.point.facts = estate::facts::Facts::default();
    let parts = component.parts(RUN, &stored.point);
    stored.restore(&parts);
    let proof = component.prove(&parts, &stored.point, &Cancel::default()).unwrap();
    assert_eq!(proof.outcome(), Proven::NotProven);
}

#[test]
fn a_target_that_cannot_be_swapped_is_refused() {
    let tree = Tree::new(&[("dir/a", "a")]);
    let component = tree.component(&["dir"], &[]);
    let stored = back_up(&component, None).unwrap();
    let parts = component.parts(RUN, &stored.point);
    component.prepare(&parts, &stored.point).unwrap();
    copy(&tree.path().join("dir"), &tree.path().join("real"));
    fs::remove_dir_all(tree.path().join("dir")).unwrap();
    std::os::unix::fs::symlink("real", tree.path().join("dir")).unwrap();
    let error = component.prepare(&parts, &stored.point).unwrap_err();
    assert!(
        matches!(&error, Error::BadTarget { .. }) && error.to_string().contains("symbolic link"),
        "{error}"
    );
    // A mount point cannot be renamed, and nobody should wait for a restore to learn it.
    let mount = Files::new(FilesOptions {
        base: "/".into(),
        paths: vec!["proc".to_owned()],
        ..FilesOptions::default()
    });
    let mut point = stored.point.clone();
    point.roots = vec!["/proc".into()];
    let error = mount.prepare(&mount.parts(RUN, &point), &point).unwrap_err();
    assert!(error.to_string().contains("mount point"), "{error}");
}
