//! What is to be run and within which limits, and what came of it: plain data.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::process::ProcessId;

/// A command as data: what to run, from where, with what around it.
///
/// Arguments are visible to every user of the machine while the command runs. A secret belongs into the
/// environment or the input, which no message and no `Debug` output shows.
#[derive(Clone)]
pub struct Command {
    /// The program: a path, or a name that is looked up in `PATH` as the place sees it.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// How messages name it.
    pub label: String,
    /// The working directory as the place sees it; `/` unless it is given.
    pub directory: PathBuf,
    /// Variables that are set besides, or instead of, those of this process.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether it gets only the variables of `environment`, and `PATH`.
    pub clean_environment: bool,
    /// What it reads.
    pub input: Input,
    /// The user and group to run as, without further groups; as this process unless it is given.
    pub user: Option<(u32, u32)>,
}

/// What a command reads as its standard input.
#[derive(Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing: `/dev/null`.
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file, by its path as the place sees it.
    File(PathBuf),
}

impl Command {
    /// Names a program and its arguments.
    pub fn new<A: Into<OsString>>(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let program = program.into();
        Self {
            label: program.to_string_lossy().into_owned(),
            program,
            arguments: arguments.into_iter().map(Into::into).collect(),
            directory: PathBuf::from("/"),
            environment: Vec::new(),
            clean_environment: false,
            input: Input::Nothing,
            user: None,
        }
    }

    /// Runs `text` with `/bin/sh -c`.
    pub fn shell(text: impl AsRef<OsStr>) -> Self {
        Self::new("/bin/sh", [OsStr::new("-c"), text.as_ref()])
    }

    /// Sets how messages name it.
    pub fn named(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets the working directory.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Adds a variable to the environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Keeps the environment of this process from it, but for `PATH`.
    pub fn clean_environment(mut self) -> Self {
        self.clean_environment = true;
        self
    }

    /// Sets what it reads.
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Sets the user and the group by number.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }
}

/// Shows nothing that may be secret: neither values of the environment nor the input.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&OsString> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("Command")
            .field("label", &self.label)
            .field("program", &self.program)
            .field("directory", &self.directory)
            .field("environment", &names)
            .field("clean_environment", &self.clean_environment)
            .field("input", &self.input)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Shows how many bytes there are, not which.
impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// One of the two outputs of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Takes the lines of a running command, without their ends, as they come.
pub type OnLine<'a> = &'a (dyn Fn(Stream, &str) + Sync);

/// What bounds a command that is run to its end.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// How long it may run.
    pub timeout: Duration,
    /// How long it gets between SIGTERM and SIGKILL when its time is up.
    pub grace: Duration,
    /// Ends it as a timeout does when somebody sets the flag.
    pub cancel: Option<&'a AtomicBool>,
    /// How many bytes of each output are kept: half of them its beginning, half its end.
    pub output_bytes_max: usize,
    /// Who is told each line; a line of more than 16 KiB comes in pieces.
    pub on_line: Option<OnLine<'a>>,
    /// What becomes of daemons that it started.
    pub daemons: Daemons,
}

impl Limits<'_> {
    /// Bounds the time; 5 s of grace and 64 KiB of each output, nobody is told lines, daemons stay.
    pub fn timeout(timeout: Duration) -> Self {
        Self {
            timeout,
            grace: Duration::from_secs(5),
            cancel: None,
            output_bytes_max: 64 << 10,
            on_line: None,
            daemons: Daemons::Stay,
        }
    }
}

impl fmt::Debug for Limits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("timeout", &self.timeout)
            .field("grace", &self.grace)
            .field("output_bytes_max", &self.output_bytes_max)
            .field("daemons", &self.daemons)
            .finish_non_exhaustive()
    }
}

/// What becomes of processes that leave the command's session on purpose, when the command ends by itself; they
/// have a second after its end to do so.
///
/// When it ends by its timeout or by cancellation they are always killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemons {
    /// They go on, and are told in [`Finished::daemons`]: `redis-server --daemonize yes` means it.
    Stay,
    /// They are killed, and counted in [`Finished::left_behind`].
    Die,
}

/// What came of a command that was run to its end.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// Its standard output, within the limit.
    pub out: Captured,
    /// Its standard error, within the limit.
    pub err: Captured,
    /// How long it took.
    pub took: Duration,
    /// How many processes it had left behind when it ended; they were killed.
    pub left_behind: usize,
    /// Daemons that it started and that go on running.
    pub daemons: Vec<ProcessId>,
}

impl Finished {
    /// Tells whether it ended by itself with status 0.
    pub fn success(&self) -> bool {
        self.end == End::Exited(0)
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal that was not ours.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// Its time was up; it and what it had started were killed.
    TimedOut,
    /// The cancel flag was set; it and what it had started were killed.
    Cancelled,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "ended with status {status}"),
            Self::Killed { signal } => write!(f, "was killed by signal {signal}"),
            Self::TimedOut => f.write_str("did not end in time and was killed"),
            Self::Cancelled => f.write_str("was cancelled and killed"),
        }
    }
}

/// The beginning and the end of an output, and how much lay between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// Its first bytes.
    pub head: Vec<u8>,
    /// Its last bytes, those of `head` not repeated.
    pub tail: Vec<u8>,
    /// How many bytes between them were not kept.
    pub omitted: u64,
}

impl Captured {
    /// Tells all that was kept as text; what is not UTF-8 is replaced, what was not kept is counted.
    pub fn text(&self) -> String {
        if self.omitted == 0 {
            return String::from_utf8_lossy(&[&self.head[..], &self.tail].concat()).into_owned();
        }
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&self.tail));
        format!("{head}\n[{} bytes left out]\n{tail}", self.omitted)
    }

    /// Tells all bytes, or nothing when some were not kept.
    pub fn whole(&self) -> Option<Vec<u8>> {
        (self.omitted == 0).then(|| [&self.head[..], &self.tail].concat())
    }
}
