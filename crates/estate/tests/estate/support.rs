//! What the tests share: a stand-in for the repository that keeps members in a directory, and SQLite from
//! outside.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use estate::component::{
    Cancel, Capture, CaptureRequest, Component, Content, Entry, EntryKind, Member, Origin, Part, PointFacts,
    Problem, Proof, Tally,
};
use estate::{Error, Result};

/// A run's id in tests.
pub const RUN: &str = "r1";

/// A stored point: what a repository would hold of a capture.
pub struct Stored {
    pub directory: tempfile::TempDir,
    pub point: PointFacts,
    pub unchanged: bool,
    pub problems: Vec<Problem>,
    pub notes: Vec<String>,
    /// The files that streams gave as they were, as a repository keeps them: inode, length and time of change.
    pub origins: BTreeMap<PathBuf, (u64, u64, jiff::Timestamp)>,
}

/// Captures and stores everything, as the engine does: read all members, count what is stored, finish.
pub fn back_up(component: &dyn Component, previous: Option<&Stored>) -> Result<Stored> {
    let scratch = tempfile::tempdir().unwrap();
    let capture = component.capture(&CaptureRequest {
        run: RUN,
        scratch: scratch.path(),
        previous: previous.map(|stored| &stored.point),
        cancel: Cancel::default(),
    })?;
    let stored = store(capture, previous);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "a capture leaves nothing in scratch");
    stored
}

/// Reads and finishes a capture.
pub fn store(capture: Capture, previous: Option<&Stored>) -> Result<Stored> {
    store_with(capture, previous, || ())
}

/// Reads and finishes a capture, and does something when only the late members are left.
pub fn store_with(
    capture: Capture,
    previous: Option<&Stored>,
    before_the_end: impl FnOnce(),
) -> Result<Stored> {
    let directory = tempfile::tempdir().unwrap();
    let mut origins = BTreeMap::new();
    let unchanged = capture.is_unchanged();
    let Capture { members, mut point, mut finish } = capture;
    // Directories first: other members may stand in the place of what they hold.
    let (directories, files): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|member| matches!(member.content, Content::Host { .. }));
    for member in directories.into_iter().chain(files) {
        take(directory.path(), member, previous, &mut origins)?;
    }
    before_the_end();
    for member in finish.later()? {
        take(directory.path(), member, previous, &mut origins)?;
    }
    let tally = tally(directory.path(), &point.roots);
    let finished = finish.finish(Some(&tally))?;
    point.complete(&finished);
    // It must survive the way through a snapshot's record.
    let point = serde_json::from_str(&serde_json::to_string(&point).unwrap()).unwrap();
    let estate::component::Finished { problems, notes, .. } = finished;
    Ok(Stored { directory, point, unchanged, problems, notes, origins })
}

fn take(
    directory: &Path,
    member: Member,
    previous: Option<&Stored>,
    origins: &mut BTreeMap<PathBuf, (u64, u64, jiff::Timestamp)>,
) -> Result<()> {
    let to = inside(directory, &member.path_in_snapshot);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    match member.content {
        Content::Host { path, excludes, live } => {
            if live {
                // What vanishes meanwhile fails `cp`, and is no problem.
                _ = Command::new("cp")
                    .args(["-a", "--no-target-directory"])
                    .args([&path, &to])
                    .output()
                    .unwrap();
                excludes.iter().for_each(|pattern| remove_matching(directory, pattern));
            } else {
                copy(&path, &to);
            }
        }
        Content::AsBefore => {
            let before = previous.expect("there is a point to be as before");
            copy(&inside(before.directory.path(), &member.path_in_snapshot), &to);
        }
        Content::Later if to.is_dir() => {
            // Its directory is kept, what it holds comes later.
            for entry in fs::read_dir(&to).unwrap() {
                estate::swap::remove(&entry.unwrap().path()).unwrap();
            }
        }
        Content::Later => estate::swap::remove(&to).unwrap(),
        Content::Stream { meta, size, open, origin, .. } => {
            if let Some(Origin { as_before, inode, size, ctime, .. }) = origin {
                let now = (inode, size, ctime);
                let before =
                    previous.filter(|before| before.origins.get(&member.path_in_snapshot) == Some(&now));
                if before.is_some() || ctime.duration_until(jiff::Timestamp::now()).as_secs() >= 2 {
                    origins.insert(member.path_in_snapshot.clone(), now);
                }
                if let (Some(before), Some(told)) = (before, as_before) {
                    told();
                    copy(&inside(before.directory.path(), &member.path_in_snapshot), &to);
                    return Ok(());
                }
            }
            let read = || -> io::Result<u64> {
                let mut file = File::create(&to)?;
                let bytes = io::copy(&mut open()?, &mut file)?;
                file.set_permissions(fs::Permissions::from_mode(meta.mode))?;
                file.set_modified(SystemTime::from(meta.mtime))?;
                std::os::unix::fs::fchown(&file, Some(meta.uid), Some(meta.gid))?;
                Ok(bytes)
            };
            // From another thread, as the repository does.
            let bytes = std::thread::scope(|scope| scope.spawn(read).join().unwrap());
            let bytes = bytes.map_err(|source| Error::Io { action: "read", path: to.clone(), source })?;
            assert!(size.is_none_or(|size| size == bytes), "{size:?} were promised, {bytes} came");
        }
    }
    Ok(())
}

/// Removes what an absolute pattern of the walk leaves out; `*` is its only wildcard.
fn remove_matching(directory: &Path, pattern: &str) {
    let pattern = format!("{}{pattern}", directory.display());
    // Not through links: they lead to what is live.
    let found = ["-path", &pattern, "-prune", "-exec", "rm", "-rf", "{}", "+"];
    let status = Command::new("find").arg(directory).args(found).status().unwrap();
    assert!(status.success());
}

/// Where a member lies in the stand-in.
pub fn inside(directory: &Path, path_in_snapshot: &Path) -> PathBuf {
    directory.join(path_in_snapshot.strip_prefix("/").unwrap())
}

impl Stored {
    /// The stored file or directory of that path.
    pub fn path(&self, path_in_snapshot: impl AsRef<Path>) -> PathBuf {
        inside(self.directory.path(), path_in_snapshot.as_ref())
    }

    /// Puts every part beside its target.
    pub fn restore(&self, parts: &[Part]) {
        for part in parts {
            copy(&self.path(&part.in_snapshot), &part.beside);
        }
    }

    /// Restores beside, proves and swaps.
    pub fn recover(&self, component: &dyn Component, run: &str) -> Result<(Proof, estate::swap::SwapPlan)> {
        let parts = component.parts(run, &self.point);
        component.prepare(&parts, &self.point)?;
        self.restore(&parts);
        let proof = component.prove(&parts, &self.point, &Cancel::default())?;
        let plan = estate::swap::plan(run, &parts)?;
        plan.apply(&mut |_, _| Ok(()))?;
        component.after_swap(&parts, &self.point, &Cancel::default())?;
        Ok((proof, plan))
    }
}

/// Copies a tree with everything that it has.
pub fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").args(["-a", "--no-target-directory"]).args([from, to]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Counts what is stored under the roots, as the engine does over the snapshot's trees.
pub fn tally(directory: &Path, roots: &[PathBuf]) -> Tally {
    fn count(path: &Path, named: &Path, tally: &mut Tally) {
        let found = fs::symlink_metadata(path).unwrap();
        let link = fs::read_link(path).unwrap_or_default();
        let kind = match found.file_type() {
            kind if kind.is_dir() => EntryKind::Directory,
            kind if kind.is_symlink() => EntryKind::Symlink(&link),
            kind if kind.is_file() => EntryKind::File(found.len()),
            _ => EntryKind::Special,
        };
        let mtime_nanoseconds = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        let (mode, uid, gid) = (found.mode() & 0o7777, found.uid(), found.gid());
        tally.add(&Entry { path: named, kind, mode, uid, gid, mtime_nanoseconds });
        if found.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                let name = entry.unwrap().file_name();
                count(&path.join(&name), &named.join(&name), tally);
            }
        }
    }
    let mut tally = Tally::default();
    for root in roots {
        count(&inside(directory, root), root, &mut tally);
    }
    tally
}

/// Runs the real `sqlite3`, as the application or an administrator would.
pub fn sqlite3(path: &Path, script: &str) -> String {
    let output = sqlite3_output(path, script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Runs the real `sqlite3` and tells how it went.
pub fn sqlite3_output(path: &Path, script: &str) -> Output {
    let mut child = Command::new("sqlite3")
        .arg("-batch")
        .arg("-bail")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sqlite3 is installed by `cargo xtask setup`");
    let mut stdin = child.stdin.take().unwrap();
    let script = script.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().unwrap();
    _ = writer.join().unwrap();
    output
}

/// A `sqlite3` that stays open: another process that holds the database.
pub struct Shell {
    child: std::process::Child,
    answers: io::Lines<io::BufReader<std::process::ChildStdout>>,
}

impl Shell {
    /// Opens the database in another process.
    pub fn open(path: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
        Self { child, answers }
    }

    /// Runs a script and waits until it is done.
    pub fn run(&mut self, script: &str) -> Vec<String> {
        let stdin = self.child.stdin.as_mut().unwrap();
        write!(stdin, "{script}\n.print done\n").unwrap();
        stdin.flush().unwrap();
        let lines = self.answers.by_ref().map(|line| line.unwrap());
        lines.take_while(|line| line != "done").collect()
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Makes a file look as if it had been written long ago, without opening it.
pub fn age(path: &Path) {
    let ago = SystemTime::now() - Duration::from_secs(60);
    let since = ago.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let time = rustix::fs::Timespec { tv_sec: since.as_secs().cast_signed(), tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

/// Overwrites bytes in the middle of a file.
pub fn scribble(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xa5; 64], at).unwrap();
}
