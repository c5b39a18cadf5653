//! How commands end: exit codes, and the one mapping from errors to them and to hints.

use std::io;

use repository::Error;
use store::ErrorKind;

/// Everything that was asked for is done and was seen to be right.
pub const VERIFIED: u8 = 0;
/// Something failed.
pub const FAILED: u8 = 1;
/// Nothing failed outright, but something asked for was left out or could not be shown.
pub const NOT_PROVEN: u8 = 2;
/// The work did not begin: wrong usage, wrong password, no repository, locked.
pub const COULD_NOT_RUN: u8 = 3;
/// A server that recovers must stop: what its `restore_command` was asked for is neither there nor proven to be absent.
pub const STOP_RECOVERY: u8 = 255;
/// A signal ended it.
pub const INTERRUPTED: u8 = 130;

/// What a command comes back with.
pub type Answer = Result<Done, Failure>;

/// The end of a command that ran through.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub verdict: Verdict,
    /// What it did, for the last line of `--json`.
    pub summary: serde_json::Value,
}

/// How a command that ran through ended.
#[derive(Debug)]
pub enum Verdict {
    Verified,
    NotProven(Explained),
    Failed(Explained),
    CouldNotRun(Explained),
    Interrupted(Explained),
}

/// Why, and what to do.
#[derive(Debug)]
pub struct Explained {
    pub why: String,
    pub hints: Vec<String>,
}

impl Explained {
    pub fn new(why: impl Into<String>, hint: &str) -> Self {
        Self { why: why.into(), hints: vec![hint.to_owned()] }
    }
}

impl Done {
    /// All is well.
    pub fn verified(summary: &impl serde::Serialize) -> Self {
        Self::new(Verdict::Verified, summary)
    }

    pub fn new(verdict: Verdict, summary: &impl serde::Serialize) -> Self {
        let summary = serde_json::to_value(summary).expect("summaries have only text keys");
        Self { verdict, summary }
    }
}

/// Why a command did not run through.
#[derive(Debug)]
pub enum Failure {
    /// The engine failed while it worked.
    Working(Error),
    /// A use case could not be carried out.
    UseCase(engine::Error),
    /// The engine failed before the work began.
    Opening { error: Error, hints: Vec<String> },
    /// What was given makes no sense, or is not there.
    Usage { message: String, hints: Vec<String> },
    /// A server's `restore_command` failed.
    Recovery(Box<Failure>),
    /// Standard output could not be written.
    Output(io::Error),
    /// Anything else, in words.
    Other { message: String, hints: Vec<String> },
}

impl Failure {
    /// What was given makes no sense; `hint` says what to do.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hints: vec![hint.into()] }
    }

    /// Something of this machine failed.
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other { message: message.into(), hints: Vec::new() }
    }

    /// The same with more of what to do; a store that fails while a repository is opened keeps the work from beginning.
    pub fn with_hints(self, more: Vec<String>) -> Self {
        let joined = |hints: Vec<String>| hints.into_iter().chain(more.clone()).collect();
        match self {
            Self::Working(error @ Error::Store(_)) => Self::Opening { error, hints: more },
            Self::Opening { error, hints } => Self::Opening { error, hints: joined(hints) },
            Self::Usage { message, hints } => Self::Usage { message, hints: joined(hints) },
            Self::Other { message, hints } => Self::Other { message, hints: joined(hints) },
            other => other,
        }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Working(Error::Interrupted) | Self::Opening { error: Error::Interrupted, .. } => {
                INTERRUPTED
            }
            Self::Recovery(_) => STOP_RECOVERY,
            Self::Opening { .. } | Self::Usage { .. } => COULD_NOT_RUN,
            Self::Output(_) | Self::Other { .. } => FAILED,
            Self::UseCase(error) => use_case_code(error),
            Self::Working(error) => match error {
                Error::NoRepository { .. }
                | Error::AlreadyExists { .. }
                | Error::Incomplete { .. }
                | Error::WrongPassword { .. }
                | Error::UnsupportedVersion { .. }
                | Error::Locked { .. }
                | Error::NoSuchSnapshot(_)
                | Error::Refused(_) => COULD_NOT_RUN,
                _ => FAILED,
            },
        }
    }

    /// What to do, a line each.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Working(error) => hints(error),
            Self::UseCase(engine::Error::Repository(error)) => hints(error),
            Self::UseCase(engine::Error::Refused { hint, .. }) => vec![hint.clone()],
            Self::UseCase(error) if stopped_by_its_journal(error) => vec![
                "nothing is done that cannot be written down, so the run stopped there; what was done stays done"
                    .to_owned(),
                "make room for the state directory, and go on with `lifeboat recover SCENARIO --resume latest`"
                    .to_owned(),
            ],
            Self::UseCase(_) => Vec::new(),
            Self::Opening { error, hints: more } => hints(error).into_iter().chain(more.clone()).collect(),
            Self::Usage { hints, .. } | Self::Other { hints, .. } => hints.clone(),
            Self::Recovery(failure) => failure.hints(),
            Self::Output(_) => Vec::new(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Working(error) | Self::Opening { error, .. } => error.fmt(f),
            Self::UseCase(error) => error.fmt(f),
            Self::Recovery(failure) => failure.fmt(f),
            Self::Usage { message, .. } | Self::Other { message, .. } => f.write_str(message),
            Self::Output(error) => write!(f, "failed to write standard output: {error}"),
        }
    }
}

/// Carries a failure of the command line out through a callback of the engine, which knows its own errors only.
#[derive(Debug, Default)]
pub struct Relay(Option<Failure>);

impl Relay {
    /// Keeps the failure, and gives the engine a reason to stop.
    pub fn pass<T>(&mut self, result: Result<T, Failure>) -> repository::Result<T> {
        result.map_err(|failure| {
            self.0 = Some(failure);
            Error::Interrupted
        })
    }

    /// Puts the failure that was kept in the place of the engine's.
    pub fn settle<T>(self, result: repository::Result<T>) -> Result<T, Failure> {
        result.map_err(|error| self.0.unwrap_or(Failure::Working(error)))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Working(error)
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::Repository(error) => Self::Working(error),
            other => Self::UseCase(other),
        }
    }
}

/// Whether a use case was not even tried.
fn use_case_code(error: &engine::Error) -> u8 {
    match error {
        engine::Error::Plan(_)
        | engine::Error::Unknown(_)
        | engine::Error::Late(_)
        | engine::Error::Place(_)
        | engine::Error::Journal(_)
        | engine::Error::Refused { .. } => COULD_NOT_RUN,
        engine::Error::Run(_) if !stopped_by_its_journal(error) => COULD_NOT_RUN,
        _ => FAILED,
    }
}

/// Whether a run was begun and ended because its journal could not be written any more.
fn stopped_by_its_journal(error: &engine::Error) -> bool {
    use runbook::journal::JournalError;
    matches!(error, engine::Error::Run(runbook::Error::Journal(JournalError::Io { .. })))
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Working(error.into())
    }
}

/// What to do about an error of the engine.
fn hints(error: &Error) -> Vec<String> {
    let lines: &[&str] = match error {
        Error::Store(error) => return store_hints(error),
        Error::NoRepository { .. } => {
            &["check the location, or make a repository there with `lifeboat repository init`"]
        }
        Error::AlreadyExists { .. } => {
            &["use it as it is, or choose another location; `lifeboat repository key add` adds a password"]
        }
        Error::Incomplete { what, .. } if what.contains("making was interrupted") => {
            &["run `lifeboat repository init` again with the same password"]
        }
        Error::Incomplete { what, .. } if what.contains("config is missing") => {
            &["bring `config` back from a copy; or write a new one with `lifeboat repository repair config`"]
        }
        Error::Incomplete { .. } => &["bring the missing files back from a copy of the repository"],
        Error::UnsupportedVersion { version: 0 | 1, .. } => {
            &["bring it to version 2 with `restic migrate upgrade_repo_v2`"]
        }
        Error::UnsupportedVersion { .. } => &["use a newer lifeboat"],
        Error::Damaged { object, .. } if object == "config" => {
            &["bring `config` back from a copy; or write a new one with `lifeboat repository repair config`"]
        }
        Error::Damaged { object, .. } if object.starts_with("key ") => {
            &["open it with another password, or bring the file below keys/ back from a copy"]
        }
        Error::Damaged { .. } | Error::Missing { .. } => {
            &["see what else is damaged with `lifeboat repository check --read-data`, and what can be done"]
        }
        Error::Locked { .. } => &[
            "wait for the other process with --retry-lock 10m",
            "if that process is surely gone, remove its lock with `lifeboat repository unlock`",
        ],
        Error::NotAsBefore { .. } => &["take it in anew instead"],
        Error::SidecarDiffers { .. } => &["run `lifeboat repository check`"],
        Error::LockLost { .. } => &[
            "what was saved so far is safe; see that no clock jumps and nobody runs `unlock --all`, and try again",
        ],
        Error::NoSuchSnapshot(what) if what.starts_with("the snapshot has no") => {
            &["see what it has with `lifeboat repository ls SNAPSHOT`"]
        }
        Error::NoSuchSnapshot(_) => &["list the snapshots with `lifeboat repository snapshots`"],
        Error::Io { source, .. } => io_hints(source.kind()),
        Error::WrongPassword { .. } | Error::Refused(_) | Error::Interrupted => &[],
    };
    lines.iter().map(|&line| line.to_owned()).collect()
}

fn io_hints(kind: io::ErrorKind) -> &'static [&'static str] {
    match kind {
        io::ErrorKind::PermissionDenied => &["run it as a user who may do that"],
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            &["free space and run the same command again: it goes on where it stopped"]
        }
        _ => &[],
    }
}

fn store_hints(error: &store::Error) -> Vec<String> {
    let hint = match error.kind {
        ErrorKind::NotFound | ErrorKind::Truncated => {
            "see what else is missing with `lifeboat repository check`; another copy of the repository may have it"
        }
        ErrorKind::AlreadyExists => return Vec::new(),
        ErrorKind::Denied if error.key.starts_with("locks/") => "read without a lock with --no-lock",
        ErrorKind::Denied if error.location.starts_with("s3:") => {
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what these credentials may do in the bucket"
        }
        ErrorKind::Denied => "run it as a user who may read and write the repository",
        ErrorKind::Full => "free space there and run the same command again: it goes on where it stopped",
        ErrorKind::Unavailable => "see that the store can be reached, and run the same command again",
        ErrorKind::Other => return Vec::new(),
    };
    vec![hint.to_owned()]
}
