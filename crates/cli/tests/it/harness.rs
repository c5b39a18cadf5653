//! Runs the binary in a directory of its own and writes down what came of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A place with a repository location and a password, and nothing else in the environment.
pub struct Place {
    dir: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// What differs from run to run, and what stands for it.
pub const FILTERS: [(&str, &str); 11] = [
    (r"\b[0-9a-f]{64}\b", "[id]"),
    (r"\b[0-9a-f]{8}\b", "[id]"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?", "[time]"),
    (r"\b[\d.]+ [KMG]iB\b", "[size]"),
    (r"\b\d+ B\b", "[size]"),
    (r"\b\d+ bytes\b", "[size]"),
    (r"\(\d+\.\d %\)", "([share])"),
    (r"in \d+(\.\d+)? s\b", "in [duration]"),
    (r"process \d+ of \S+", "process [pid] of [user]"),
    (r"host [\w.-]+,", "host [host],"),
    // The width of columns follows from the above.
    (r" {2,}", "  "),
];

/// Compares a transcript with an inline snapshot.
macro_rules! check {
    ($transcript:expr, @$snapshot:literal) => {{
        let filters = $crate::harness::FILTERS.to_vec();
        insta::with_settings!({ filters => filters, omit_expression => true }, {
            insta::assert_snapshot!($transcript, @$snapshot);
        });
    }};
}
pub(crate) use check;

impl Place {
    /// An empty directory; the repository will be at `repository`, its password is `secret`.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir, variables: Vec::new() };
        place.with("LIFEBOAT_REPOSITORY", "repository").with("LIFEBOAT_PASSWORD", "secret")
    }

    /// The same with a repository, a tree `tree` and a snapshot of it.
    pub fn with_snapshot() -> Self {
        let place = Self::new();
        place.write("tree/a.txt", b"first");
        place.write("tree/sub/b.txt", b"second");
        place.succeeds(&["repository", "init"]);
        place.succeeds(&["repository", "backup", "tree", "--host", "here"]);
        place
    }

    /// Sets a variable of the environment; an empty value takes it away.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.variables.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_lifeboat"), arguments)
    }

    /// Another program than Lifeboat, where Lifeboat runs otherwise.
    pub fn command_of(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.dir.path()).env_clear().env("TZ", "UTC");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(std::process::Stdio::null());
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs and writes down everything that a user sees.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.transcript(&self.output(arguments))
    }

    pub fn transcript(&self, output: &Output) -> String {
        let mut text = String::new();
        for (name, stream) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            if !stream.is_empty() {
                text += &format!("--- {name}\n{}\n", String::from_utf8_lossy(stream).trim_end());
            }
        }
        text +=
            &format!("--- exit code {}", output.status.code().map_or("none".into(), |code| code.to_string()));
        let here = self.dir.path().to_string_lossy().into_owned();
        text.replace(&here, "[dir]")
    }

    /// Runs what must succeed, and gives its standard output.
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", self.transcript(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The files below a directory of the repository.
    pub fn files(&self, directory: &str) -> Vec<PathBuf> {
        let mut open = vec![self.path(directory)];
        let mut files = Vec::new();
        while let Some(path) = open.pop() {
            match std::fs::read_dir(&path) {
                Ok(entries) => open.extend(entries.map(|entry| entry.unwrap().path())),
                Err(_) => files.push(path),
            }
        }
        files.sort();
        files
    }
}

/// Flips a bit in the middle of a file.
pub fn flip_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}
