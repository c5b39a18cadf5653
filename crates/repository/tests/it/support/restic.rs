//! The stock restic binary, on repositories of its own making or of ours.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use repository::Id;
use repository::format::{Node, parse_tree};
use serde_json::Value;

use super::engine::{CHEAP, PASSWORD, local, open};

/// restic at work on one repository.
pub struct Restic {
    pub repository: PathBuf,
    password: String,
    /// Where its relative paths begin.
    pub working_directory: PathBuf,
}

impl Restic {
    pub fn at(repository: impl Into<PathBuf>) -> Self {
        Self { repository: repository.into(), password: PASSWORD.into(), working_directory: "/".into() }
    }

    pub fn with_password(self, password: &str) -> Self {
        Self { password: password.into(), ..self }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("restic");
        command
            .args(["--no-cache", "--quiet", "--repo"])
            .arg(&self.repository)
            .env("RESTIC_PASSWORD", &self.password)
            .env("TZ", "UTC")
            .current_dir(&self.working_directory);
        command
    }

    /// Runs restic to its end, however that is.
    pub fn try_run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.command().args(arguments).output().expect("restic does not start; run `cargo xtask setup`")
    }

    /// Runs restic to a good end and gives what it printed.
    pub fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Vec<u8> {
        let output = self.try_run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic: {said}\n{}", String::from_utf8_lossy(&output.stdout));
        output.stdout
    }

    pub fn json(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Value {
        serde_json::from_slice(&self.run(arguments)).unwrap()
    }

    /// Every line that restic prints as a JSON value.
    pub fn json_lines(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Vec<Value> {
        let output = self.run(arguments);
        output
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// Has restic check the repository, every byte of it; fails for errors.
    pub fn check(&self) {
        self.run(["check", "--read-data"]);
    }

    /// Backs up `paths` and gives the snapshot's id.
    pub fn backup(&self, paths: &[&Path]) -> Id {
        let before = self.snapshots();
        let arguments: Vec<&OsStr> =
            [OsStr::new("backup")].into_iter().chain(paths.iter().map(|path| path.as_os_str())).collect();
        self.run(arguments);
        let mut new = self.snapshots();
        new.retain(|id| !before.contains(id));
        assert_eq!(new.len(), 1);
        new[0]
    }

    /// The snapshots by their file names, which spares a process.
    pub fn snapshots(&self) -> Vec<Id> {
        let files = std::fs::read_dir(self.repository.join("snapshots"));
        files
            .into_iter()
            .flatten()
            .map(|file| file.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Restores a snapshot whole into `target`.
    pub fn restore(&self, snapshot: &Id, target: &Path) {
        let snapshot = snapshot.to_hex();
        let arguments =
            [OsStr::new("restore"), OsStr::new(&snapshot), OsStr::new("--target"), target.as_os_str()];
        self.run(arguments);
    }

    /// The ids of all blobs of a kind, `data` or `tree`, that the index lists.
    pub fn blobs(&self, kind: &str) -> Vec<String> {
        let listed = String::from_utf8(self.run(["list", "blobs"])).unwrap();
        let mut ids: Vec<String> = listed
            .lines()
            .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))
            .map(str::to_owned)
            .collect();
        ids.sort();
        ids
    }
}

/// A repository that restic made, in a directory that goes away with it.
pub struct ResticRepository {
    pub directory: tempfile::TempDir,
    pub restic: Restic,
}

impl std::ops::Deref for ResticRepository {
    type Target = Restic;

    fn deref(&self) -> &Restic {
        &self.restic
    }
}

impl ResticRepository {
    pub fn init() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let restic = Restic::at(directory.path().join("repository"));
        restic.run(["init", "--repository-version", "2"]);
        // restic's own key takes it half a second at every start.
        open(local(&restic.repository))
            .change_password(PASSWORD.as_bytes(), CHEAP, &Default::default())
            .unwrap();
        Self { directory, restic }
    }

    /// Where the repository lies.
    pub fn path(&self) -> &Path {
        &self.restic.repository
    }

    /// A directory beside the repository for what is to be backed up.
    pub fn source(&self) -> PathBuf {
        let path = self.directory.path().join("source");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Backs up `path` and gives the id of the root tree.
    pub fn backup(&self, path: &Path) -> Id {
        let snapshot = self.restic.backup(&[path]);
        let snapshot = self.restic.json(["cat", "snapshot", &snapshot.to_hex()]);
        snapshot["tree"].as_str().unwrap().parse().unwrap()
    }

    /// The bytes of a tree blob as restic wrote them.
    pub fn tree(&self, id: Id) -> Vec<u8> {
        self.restic.run(["cat", "blob", &id.to_hex()])
    }

    /// The nodes of the directory `path` below `root`, which restic keeps with its full path.
    pub fn directory(&self, root: Id, path: &Path) -> Vec<Node> {
        let mut nodes = parse_tree(&self.tree(root)).unwrap();
        for part in path.components().skip(1) {
            let name = part.as_os_str().as_encoded_bytes();
            let node = nodes.into_iter().find(|node| node.name == name).expect("restic keeps the whole path");
            nodes = parse_tree(&self.tree(node.subtree.unwrap())).unwrap();
        }
        nodes
    }
}
