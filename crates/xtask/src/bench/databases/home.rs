//! What is measured with, and where: directories with a plan each, commands as the user of a server, `lifeboat serve` beside.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::measure::{self, Invocation};
use super::super::warm::Ballast;
use crate::process::{Result, not_started, output};

/// How long is waited for what takes a moment: a server that starts, a file that appears.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured with, and where.
pub struct Bench {
    pub lifeboat: PathBuf,
    pub scratch: PathBuf,
    /// Fills memory; a small run goes without, because that takes longer than what it measures.
    pub ballast: Option<Ballast>,
    pub runs: u32,
    pub scale: f64,
}

/// A directory with a plan, its repository and its state, that belongs to a user.
pub struct Home<'a> {
    pub bench: &'a Bench,
    pub path: PathBuf,
    /// Whose it is and who runs what is run in it; whoever runs this, if `None`.
    user: Option<&'static str>,
}

/// A process that runs beside, and is ended with this.
pub struct Beside {
    child: Child,
    log: PathBuf,
}

impl Bench {
    /// Makes a directory for an engine, of that user if this process may choose.
    pub fn home(&self, name: &str, user: Option<&'static str>) -> Result<Home<'_>> {
        let home = Home { bench: self, path: self.scratch.join(name), user };
        make_directory(&home.path)?;
        home.give(&home.path)?;
        Ok(home)
    }

    /// Runs a command once everything is written back and memory is full, `reads` being what it will read; gives the seconds on
    /// the clock.
    pub fn time(&self, what: &str, invocation: &Invocation, reads: &Path) -> Result<f64> {
        self.settle(reads)?;
        let sample = measure::measure(invocation, &self.scratch)?;
        println!(
            "  {what:44} {:8.2} s  {:8.2} s of processors  {:5} MB",
            sample.wall_s,
            sample.cpu_s,
            sample.memory_bytes / 1_000_000
        );
        Ok(sample.wall_s)
    }

    /// Writes everything back and fills memory, with `reads` in the cache.
    pub fn settle(&self, reads: &Path) -> Result<()> {
        rustix::fs::sync();
        self.ballast.as_ref().map_or(Ok(()), |ballast| ballast.fill(reads))
    }

    /// Runs a command and hands back what it wrote.
    pub fn untimed(&self, invocation: &Invocation) -> Result<String> {
        measure::measure(invocation, &self.scratch)?;
        Ok(fs::read_to_string(self.scratch.join(measure::LOG))?)
    }

    /// `full` at scale 1, less in a smaller run, and never below `least`.
    pub fn scaled(&self, full: f64, least: f64) -> f64 {
        (full * self.scale).round().max(least)
    }
}

impl Home<'_> {
    /// Puts a plan with these components here, beside a new repository.
    pub fn plan(&self, components: &str) -> Result<()> {
        let plan = format!(
            "lifeboat: 1\nname: bench\n\nrepository:\n  location: ./repository\n  password: ${{file:password}}\n\n\
             components:\n{components}"
        );
        self.write("lifeboat.yaml", &plan)?;
        self.write("password", "benchmark")?;
        let init = ["repository", "init", "--repository", "repository", "--password-file", "password"];
        self.bench.untimed(&self.lifeboat(&init)).map(drop)
    }

    /// Writes a file here.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(|error| format!("failed to write {}: {error}", path.display()))?;
        self.give(&path)
    }

    /// Makes an empty directory here; what was there before is removed.
    pub fn empty(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        super::super::corpus::remove(&path)?;
        make_directory(&path)?;
        self.give(&path)?;
        Ok(path)
    }

    /// The plan's file.
    pub fn plan_file(&self) -> PathBuf {
        self.path.join("lifeboat.yaml")
    }

    /// Lifeboat with the plan of this home.
    pub fn lifeboat(&self, arguments: &[&str]) -> Invocation {
        let mut words = vec![self.bench.lifeboat.as_os_str()];
        words.extend(arguments.iter().map(OsStr::new));
        self.invocation(&words)
    }

    /// A line of shell in this home, as a runbook has it.
    pub fn shell(&self, line: &str) -> Invocation {
        // A pipe fails with any of its parts; dash cannot do that.
        self.invocation(&["bash", "-o", "pipefail", "-ec", line].map(OsStr::new))
    }

    fn invocation(&self, words: &[&OsStr]) -> Invocation {
        let words = prefix(self.user).into_iter().chain(words.iter().map(OsString::from)).collect();
        Invocation { words, variables: self.variables(), directory: self.path.clone() }
    }

    fn variables(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LIFEBOAT_PLAN", self.plan_file().into()),
            ("LIFEBOAT_STATE", self.path.join("state").into()),
            ("XDG_CACHE_HOME", self.path.join("cache").into()),
        ]
    }

    /// Starts `lifeboat serve --json` with the plan of this home.
    pub fn serve(&self) -> Result<Beside> {
        let mut command = as_user(self.user, self.bench.lifeboat.as_os_str());
        command.args(["serve", "--json"]).envs(self.variables()).current_dir(&self.path);
        Beside::start(&mut command, self.bench.scratch.join("serve.log"))
    }

    fn give(&self, path: &Path) -> Result<()> {
        let Some(user) = self.user.filter(|_| is_root()) else { return Ok(()) };
        output(Command::new("chown").arg(format!("{user}:{user}")).arg(path)).map(drop)
    }
}

impl Beside {
    /// Starts a process whose output goes to the file `log`.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let file =
            fs::File::create(&log).map_err(|error| format!("failed to make {}: {error}", log.display()))?;
        command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file);
        let child = command.spawn().map_err(|error| not_started(command, &error))?;
        Ok(Self { child, log })
    }

    /// Tells what it said, if it has ended by itself.
    pub fn ended(&mut self) -> Result<Option<String>> {
        match self.child.try_wait()? {
            None => Ok(None),
            Some(status) => Ok(Some(format!("{status}: {}", self.said()?.trim()))),
        }
    }

    /// What it has said so far.
    pub fn said(&self) -> Result<String> {
        fs::read_to_string(&self.log)
            .map_err(|error| format!("failed to read {}: {error}", self.log.display()).into())
    }

    /// Ends it in order and waits for that; an error unless it ends well.
    pub fn stop(mut self) -> Result<()> {
        self.terminate();
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(format!("what ran beside ended with {status}: {}", self.said()?).into())
    }

    fn terminate(&self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // Who has ended already cannot be asked to.
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
            let _status = self.child.wait();
        }
    }
}

/// A program as that user, where this process is root.
pub fn as_user(user: Option<&str>, program: &OsStr) -> Command {
    let mut words = prefix(user).into_iter().chain([program.to_owned()]);
    let mut command = Command::new(words.next().expect("there is the program at least"));
    command.args(words);
    command
}

/// Waits until `holds`, looking every `pause`; an error says for what in vain.
pub fn wait(what: &str, pause: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            return Err(format!("waited {} s in vain: {what}", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

/// The file of that name somewhere below a directory.
pub fn find(below: &Path, name: &str) -> Result<Option<PathBuf>> {
    let mut open = vec![below.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in directory.read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.file_name() == OsStr::new(name) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

/// A path as commands take it.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is no text", path.display()).into())
}

/// setpriv becomes the program, so that signals reach it and nothing else counts as its time.
fn prefix(user: Option<&str>) -> Vec<OsString> {
    match user.filter(|_| is_root()) {
        None => Vec::new(),
        Some(user) => {
            ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--"].map(OsString::from).to_vec()
        }
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| format!("failed to make {}: {error}", path.display()).into())
}
