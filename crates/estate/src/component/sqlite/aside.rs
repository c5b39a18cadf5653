//! The proof in a process of its own, which may map the database into memory.
//!
//! SQLite's check of a mapped file takes half the time of the processor, because no page costs a call of the system
//! and a copy. But a page of it that cannot be read (a disk that fails, a file that is cut meanwhile) is no error that
//! SQLite could tell: it ends the process with SIGBUS. So the check runs in a process that does nothing else: this very
//! program, started again in the place of the file, with a hidden command that calls [`answer_aside`]. It gets its
//! question as JSON by its standard input and writes its answer to its standard output.
//!
//! Killed with its place's other commands when the caller cancels, it ends by itself when its parent is gone. It is the
//! program as the place shows it: one that has been replaced meanwhile is told by the version of its SQLite, and whatever
//! cannot be asked leaves the proof to this process.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use place::{Command, Daemons, End, Init, Input, Limits, Place};
use rustix::process::{DumpableBehavior, Signal};
use serde::{Deserialize, Serialize};

use super::super::{Cancel, Proof};
use super::proof::{self, Question, Reading};
use crate::{Error, Result};

/// What ends a process that reads a mapped page that cannot be read.
pub(super) const UNREADABLE: i32 = Signal::BUS.as_raw();
/// How often the process looks whether its parent is still there.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// More than the facts of any schema come to; a longer answer is none.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How a proof gets a process of its own.
#[derive(Debug, Clone)]
pub struct Prover {
    /// Where the databases are.
    pub place: Place,
    /// The program and the arguments that do nothing but call [`answer_aside`]; the program by its path, so that a twin
    /// runs it as it runs all others.
    pub program: Init,
}

/// What came of a question to a process of its own.
pub(super) enum Asked {
    /// The answer.
    Answered(Proof),
    /// It was ended by a signal that was not ours.
    Killed {
        /// Which.
        signal: i32,
    },
    /// It could not be started there, or does not understand the question.
    Unable,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// The version of SQLite that looked.
    engine: String,
    proof: Proof,
}

/// Asks a process of its own; called outside of the place.
///
/// Fails with [`Error::Interrupted`] only.
pub(super) fn ask(prover: &Prover, question: &Question, cancel: &Cancel) -> Result<Asked> {
    let Ok(question) = serde_json::to_vec(question) else {
        return Ok(Asked::Unable); // A path that is no text.
    };
    let command = Command::new(&prover.program.program, &prover.program.arguments)
        .named("the proof of a database")
        .input(Input::Bytes(question));
    let limits = Limits {
        grace: Duration::ZERO,
        cancel: Some(cancel),
        output_bytes_max: ANSWER_BYTES_MAX,
        daemons: Daemons::Die,
        ..Limits::timeout(super::AS_LONG_AS_IT_TAKES)
    };
    let Ok(finished) = prover.place.run(&command, &limits) else {
        return Ok(Asked::Unable);
    };
    Ok(match finished.end {
        End::Cancelled => return Err(Error::Interrupted),
        End::Killed { signal } => Asked::Killed { signal },
        End::Exited(0) => understood(finished.out.whole().as_deref()).map_or(Asked::Unable, Asked::Answered),
        End::Exited(_) | End::TimedOut => Asked::Unable,
    })
}

fn understood(answer: Option<&[u8]>) -> Option<Proof> {
    let answer: Answer = serde_json::from_slice(answer?).ok()?;
    (answer.engine == rusqlite::version()).then_some(answer.proof)
}

/// Runs `work` where the file is; with a prover, this is called outside of the place.
pub(super) fn within<T: Send>(
    prover: Option<&Prover>,
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    match prover {
        None => work(),
        Some(prover) => prover
            .place
            .within(work)
            .map_err(|error| Error::io("reach", path)(io::Error::other(error.to_string())))?,
    }
}

/// Answers one question about a restored database; the hidden command that a [`Prover`] names calls it and nothing
/// else.
///
/// Fails when the question cannot be understood, the file cannot be opened, or the parent is gone; nothing has been
/// answered then.
pub fn answer_aside(mut question: impl Read, mut answer: impl Write) -> io::Result<()> {
    // Nobody needs an image of a process that a bad disk has ended, as large as the database.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let mut text = Vec::new();
    question.read_to_end(&mut text)?;
    let question: Question = serde_json::from_slice(&text)?;
    // What this process may not read, its parent may.
    drop(std::fs::File::open(&question.path)?);
    let cancel = Cancel::default();
    let (ended, end) = mpsc::channel::<()>();
    let parent = rustix::process::getppid();
    let proof = std::thread::scope(|scope| {
        scope.spawn(|| {
            let end = end;
            while end.recv_timeout(BETWEEN_LOOKS) == Err(RecvTimeoutError::Timeout) {
                cancel.fetch_or(rustix::process::getppid() != parent, Ordering::Relaxed);
            }
        });
        let proof = proof::answer(&question, Reading::Mapped, &cancel);
        drop(ended);
        proof
    });
    let proof = proof.map_err(|error| io::Error::other(error.to_string()))?;
    let text = serde_json::to_vec(&Answer { engine: rusqlite::version().to_owned(), proof })?;
    answer.write_all(&text)?;
    answer.flush()
}
