//! A helper process with a twin, as root or as an ordinary user, and what a test tells it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::LazyLock;

use place::{ProcessId, TwinReport};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A user and a group that nothing belongs to. Not `nobody`, as whom all others appear in a user namespace.
const ORDINARY: u32 = 54321;

/// Who makes the twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Root,
    Ordinary,
}

/// Root, and an ordinary user where the system lets one make a twin; where it does not, it must say so well.
pub fn everybody() -> &'static [Who] {
    static EVERYBODY: LazyLock<Vec<Who>> = LazyLock::new(|| match Ground::new(Who::Ordinary).open("", &[]) {
        Ok(_) => vec![Who::Root, Who::Ordinary],
        Err(said) => {
            assert!(said.contains("forbidden") && said.contains("or run the drill as root"), "{said}");
            vec![Who::Root]
        }
    });
    &EVERYBODY
}

/// A directory on the disk with a helper that everybody may start, and a playground that belongs to `who`.
pub struct Ground {
    pub who: Who,
    folder: TempDir,
}

impl Ground {
    pub fn new(who: Who) -> Self {
        Self::below(who, Path::new("/var/tmp"))
    }

    pub fn below(who: Who, parent: &Path) -> Self {
        let uid = fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(uid, 0, "the tests of twins change users and mount: run them as root");
        let folder = tempfile::Builder::new().prefix("lifeboat-place-").tempdir_in(parent).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_twin-for-tests"), folder.path().join("helper")).unwrap();
        let ground = Self { who, folder };
        for path in [ground.play(), ground.scratch()] {
            fs::create_dir(&path).unwrap();
            ground.give(&path);
        }
        ground
    }

    /// Where a test may do what it likes.
    pub fn play(&self) -> PathBuf {
        self.folder.path().join("play")
    }

    pub fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    pub fn helper(&self) -> PathBuf {
        self.folder.path().join("helper")
    }

    /// Makes `who` the owner.
    pub fn give(&self, path: &Path) {
        if self.who == Who::Ordinary {
            chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
    }

    /// `who` as `chown` takes it.
    pub fn owner(&self) -> &'static str {
        if self.who == Who::Root { "0:0" } else { "54321:54321" }
    }

    /// Runs shell text on the host as `who`.
    pub fn on_host(&self, text: &str) -> place::Finished {
        let mut command = place::Command::shell(text);
        if self.who == Who::Ordinary {
            command = command.user(ORDINARY, ORDINARY);
        }
        let limits = place::Limits::timeout(std::time::Duration::from_secs(20));
        place::Place::host().run(&command, &limits).unwrap()
    }

    pub fn twin(&self) -> Session {
        self.twin_after("", &[&self.play()])
    }

    /// A twin that is made after `preparation`, shell text that root runs in a mount namespace of its own.
    pub fn twin_after(&self, preparation: &str, keep: &[&Path]) -> Session {
        self.open(preparation, keep).unwrap_or_else(|refusal| panic!("{:?}: {refusal}", self.who))
    }

    /// As above; `Err` is what the helper said instead.
    pub fn open(&self, preparation: &str, keep: &[&Path]) -> Result<Session, String> {
        let user = match self.who {
            Who::Root => "",
            Who::Ordinary => "setpriv --reuid=54321 --regid=54321 --clear-groups",
        };
        let keep: Vec<String> = keep.iter().map(|path| format!("'{}'", path.display())).collect();
        let (helper, scratch) = (self.helper(), self.scratch());
        let script = format!(
            "set -e\n{preparation}\nexec {user} {} twin {} {}",
            helper.display(),
            scratch.display(),
            keep.join(" ")
        );
        let mut child = std::process::Command::new("unshare")
            .args(["--mount", "--propagation=private", "/bin/bash", "-c", &script])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tests of twins run as root and need `unshare` of util-linux");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut session = Session { child, input: Some(input), output, report: None };
        let mut said = session.hear().ok_or("the helper died")?;
        match said.get_mut("report") {
            Some(report) => {
                session.report = Some(serde_json::from_value(report.take()).unwrap());
                Ok(session)
            }
            None => Err(said.to_string()),
        }
    }
}

/// A helper that has made a twin; when it is dropped it is told to end, and the twin with it.
pub struct Session {
    pub child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    report: Option<TwinReport>,
}

/// What came of a shell text in the twin.
#[derive(Debug)]
pub struct Ran {
    pub success: bool,
    pub text: String,
}

impl Session {
    pub fn report(&self) -> &TwinReport {
        self.report.as_ref().unwrap()
    }

    /// Gives an order and returns the answer, which may be an error.
    pub fn ask(&mut self, order: &Value) -> Value {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{order}").unwrap();
        self.hear().expect("the helper answers")
    }

    pub fn run(&mut self, text: &str) -> Ran {
        let answer = self.ask(&json!({ "Run": text }));
        let success = answer["success"].as_bool().unwrap_or_else(|| panic!("{answer}"));
        Ran { success, text: answer["text"].as_str().unwrap().to_owned() }
    }

    /// Runs what must succeed; returns its output.
    #[track_caller]
    pub fn must(&mut self, text: &str) -> String {
        let ran = self.run(text);
        assert!(ran.success, "{text}: {}", ran.text);
        ran.text
    }

    /// Runs what must fail; returns its output.
    #[track_caller]
    pub fn must_not(&mut self, text: &str) -> String {
        let ran = self.run(text);
        assert!(!ran.success, "{text} succeeded: {}", ran.text);
        ran.text
    }

    pub fn start(&mut self, text: &str, log: &str) -> ProcessId {
        let answer = self.ask(&json!({ "Start": [text, log] }));
        serde_json::from_value(answer.clone()).unwrap_or_else(|_| panic!("{answer}"))
    }

    fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
