//! The directory: durability in the face of dead writers, full disks and directories that go away.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use store::{Error, ErrorKind, Local, Store, conformance};
use tempfile::TempDir;

use crate::{ALL, keys};

fn data(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// A store in a directory that does not exist yet, and the directory above.
fn local() -> (TempDir, Local) {
    let parent = tempfile::tempdir().unwrap();
    let store = Local::open(parent.path().join("repository")).unwrap();
    (parent, store)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The names of all files below a directory, temporary ones included.
fn files(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            names.extend(files(&entry.path()));
        } else {
            names.push(entry.file_name().into_string().unwrap());
        }
    }
    names.sort();
    names
}

#[test]
fn conforms() {
    let parent = tempfile::tempdir().unwrap();
    let next = std::cell::Cell::new(0);
    conformance::run(ALL, &|| {
        next.set(next.get() + 1);
        Box::new(Local::open(parent.path().join(format!("{}/deep", next.get()))).unwrap())
    });
    assert!(files(parent.path()).iter().all(|name| !name.starts_with('.')), "a temporary file was left");
}

#[test]
fn the_first_write_makes_the_directory_and_nothing_before_it() {
    let (parent, store) = local();
    assert_eq!(store.get("config").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(keys(&store), [""; 0]);
    store.delete("config").unwrap();
    assert!(!store.path().exists());

    store.put("data/ab/x", data("x")).unwrap();
    assert_eq!(mode(store.path()), 0o700);
    assert_eq!(mode(&store.path().join("data/ab")), 0o700);
    assert_eq!(mode(&store.path().join("data/ab/x")), 0o600);
    drop(parent);
}

#[test]
fn what_dead_writers_left_is_invisible_until_it_is_removed() {
    let (_parent, store) = local();
    store.put("data/ab/x", data("x")).unwrap();
    let left = store.path().join("data/ab/.tmp-0123-0");
    fs::write(&left, "half").unwrap();
    fs::write(store.path().join(".tmp-4567-9"), "half").unwrap();
    fs::write(store.path().join(".other"), "not ours").unwrap();
    assert_eq!(keys(&store), ["data/ab/x"]);

    assert_eq!(store.remove_stale_temporaries(Duration::from_secs(3600)).unwrap(), 0);
    assert!(left.exists(), "its writer may still be alive");
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    fs::File::options().write(true).open(&left).unwrap().set_modified(old).unwrap();
    assert_eq!(store.remove_stale_temporaries(Duration::from_secs(3600)).unwrap(), 1);
    assert_eq!(files(store.path()), [".other", ".tmp-4567-9", "x"]);
    assert_eq!(keys(&store), ["data/ab/x"]);
}

/// The directory that a helper process was started on, as its last argument.
fn directory_of_helper() -> String {
    let directory = std::env::args().next_back().unwrap();
    assert!(directory.starts_with('/'), "a helper runs only when the test of its note starts it");
    directory
}

/// Runs in a process of its own, to be killed while it writes.
#[test]
#[ignore = "is started by a_killed_writer_leaves_whole_objects_only"]
fn helper_writes_until_killed() {
    let directory = directory_of_helper();
    let store = Local::open(directory).unwrap();
    for n in 0_u32.. {
        let bytes = Bytes::from(n.to_le_bytes().repeat(300_000));
        store.put(&format!("data/{:02x}/{n}", n % 4), bytes).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_whole_objects_only() {
    let (_parent, store) = local();
    for round in 1..=5 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "local::helper_writes_until_killed", "--skip"])
            .arg(store.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(40 * round));
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    let written = keys(&store);
    assert!(!written.is_empty(), "the writer never came to write");
    for key in written {
        let (_, n) = key.rsplit_once('/').unwrap();
        let expected = n.parse::<u32>().unwrap().to_le_bytes().repeat(300_000);
        assert!(store.get(&key).unwrap() == expected, "{key} is not whole");
    }
    store.remove_stale_temporaries(Duration::ZERO).unwrap();
    assert!(files(store.path()).iter().all(|name| !name.starts_with('.')));
}

/// Runs this test binary's `helper` in a mount namespace of its own, with a tmpfs of 2 MiB on `directory`.
fn in_tmpfs(helper: &str, directory: &Path) {
    let script = "mount -t tmpfs -o size=2m lifeboat-test \"$2\" && \
                  exec \"$0\" --ignored --exact --nocapture \"$1\" --skip \"$2\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(helper)
        .arg(directory)
        .output()
        .expect("unshare of util-linux is needed for this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "this test needs user namespaces (sysctl user.max_user_namespaces); {helper} said:\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "is started by a_full_disk_is_reported_and_leaves_nothing"]
fn helper_fills_the_disk() {
    let directory = directory_of_helper();
    let store = Local::open(directory).unwrap();
    store.put("data/a", Bytes::from(vec![1; 1 << 20])).unwrap();
    for _ in 0..3 {
        let error = store.put("data/b", Bytes::from(vec![2; 4 << 20])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Full, "{error}");
        let error = store.create("data/c", Bytes::from(vec![2; 4 << 20])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Full, "{error}");
        let error = store.put("data/a", Bytes::from(vec![2; 4 << 20])).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    }
    assert_eq!(keys(&store), ["data/a"]);
    assert_eq!(store.get("data/a").unwrap(), vec![1; 1 << 20], "the old version must survive");
    assert_eq!(files(store.path()), ["a"], "the space of a failed write must be free again");
    store.put("data/d", Bytes::from(vec![3; 512 << 10])).unwrap();
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing() {
    let mount = tempfile::tempdir().unwrap();
    in_tmpfs("local::helper_fills_the_disk", mount.path());
}

#[test]
#[ignore = "is started by a_directory_in_use_cannot_be_unmounted"]
fn helper_unmounts() {
    let directory = directory_of_helper();
    let store = Local::open(&directory).unwrap();
    store.put("data/a", data("a")).unwrap();
    let unmount =
        |lazy: &[&str]| Command::new("umount").args(lazy).arg(&directory).status().unwrap().success();
    assert!(!unmount(&[]), "the store must keep its file system busy");
    assert!(unmount(&["--lazy"]));
    // What the path names now is another file system; the store goes on with the one it opened.
    assert!(fs::read_dir(&directory).unwrap().next().is_none());
    store.put("data/b", data("b")).unwrap();
    assert_eq!(keys(&store), ["data/a", "data/b"]);
    assert!(fs::read_dir(&directory).unwrap().next().is_none(), "written where nothing is mounted");
}

#[test]
fn a_directory_in_use_cannot_be_unmounted() {
    let mount = tempfile::tempdir().unwrap();
    in_tmpfs("local::helper_unmounts", mount.path());
}

#[test]
fn a_removed_directory_is_unavailable_not_empty() {
    let (_parent, store) = local();
    store.put("data/a", data("a")).unwrap();
    fs::remove_dir_all(store.path()).unwrap();
    let unavailable = |error: Error| assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    unavailable(store.get("data/a").unwrap_err());
    unavailable(store.size("data/a").unwrap_err());
    unavailable(store.get_range("data/a", 0..1, &mut Vec::new()).unwrap_err());
    unavailable(store.list("", &mut |_| Ok(())).unwrap_err());
    unavailable(store.list("data", &mut |_| Ok(())).unwrap_err());
    unavailable(store.delete("data/a").unwrap_err());
    unavailable(store.put("data/a", data("a")).unwrap_err());
    unavailable(store.put("a", data("a")).unwrap_err());
    unavailable(store.create("data/b", data("b")).unwrap_err());
    fs::create_dir(store.path()).unwrap();
    unavailable(store.get("data/a").unwrap_err());
}

#[test]
fn a_folder_that_vanished_is_made_again() {
    let (_parent, store) = local();
    store.put("data/ab/x", data("x")).unwrap();
    fs::remove_dir_all(store.path().join("data")).unwrap();
    assert_eq!(store.get("data/ab/x").unwrap_err().kind, ErrorKind::NotFound);
    store.put("data/ab/y", data("y")).unwrap();
    assert_eq!(keys(&store), ["data/ab/y"]);
}

#[test]
fn what_is_no_object_is_not_shown_as_one() {
    let (_parent, store) = local();
    store.put("data/a", data("a")).unwrap();
    let root = store.path();
    fs::create_dir_all(root.join("lost+found")).unwrap();
    fs::write(root.join("lost+found/x"), "x").unwrap();
    fs::write(root.join("data/with space"), "x").unwrap();
    fs::create_dir(root.join(".git")).unwrap();
    fs::write(root.join(".git/x"), "x").unwrap();
    symlink("nowhere", root.join("data/dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("data/fifo")).status().unwrap().success());
    assert_eq!(keys(&store), ["data/a"]);
    assert_eq!(store.get("data/fifo").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(store.get("data").unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn links_to_a_second_disk_are_followed() {
    let (parent, store) = local();
    store.put("config", data("c")).unwrap();
    fs::create_dir(parent.path().join("second")).unwrap();
    symlink(parent.path().join("second"), store.path().join("data")).unwrap();
    store.put("data/ab/x", data("x")).unwrap();
    assert_eq!(keys(&store), ["config", "data/ab/x"]);
    assert!(parent.path().join("second/ab/x").exists());
}

#[test]
fn a_path_that_is_no_directory_is_refused_at_once() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("file");
    fs::write(&path, "x").unwrap();
    let error = Local::open(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("failed to open {}: Not a directory", path.display())), "{error}");
}

/// Root may write anywhere, so this runs as nobody in a user namespace, whoever runs the tests.
#[test]
fn what_is_forbidden_is_denied() {
    let parent = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-user=65534", "--map-group=65534"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "local::helper_is_denied", "--skip"])
        .arg(parent.path())
        .output()
        .expect("unshare of util-linux is needed for this test");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}

#[test]
#[ignore = "is started by what_is_forbidden_is_denied"]
fn helper_is_denied() {
    let directory = directory_of_helper();
    let store = Local::open(&directory).unwrap();
    store.put("a", data("a")).unwrap();
    store.put("closed/a", data("a")).unwrap();
    let set = |path: &str, mode| {
        fs::set_permissions(Path::new(&directory).join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("a", 0);
    set("closed", 0);
    let denied = |error: Error| assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    denied(store.get("a").unwrap_err());
    denied(store.get("closed/a").unwrap_err());
    denied(store.size("closed/a").unwrap_err());
    denied(store.put("closed/b", data("b")).unwrap_err());
    denied(store.delete("closed/a").unwrap_err());
    denied(store.list("", &mut |_| Ok(())).unwrap_err());
    set("a", 0o600);
    set("closed", 0o700);
    store.get("closed/a").unwrap();
}
