//! The service that is a process: started detached, remembered by its identity, ended with all that belongs to it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use place::{Command, ProcessId, Stopped};

use super::record::{Files, Phase, Record};
use super::{Context, Ended, Error, Identity, Process, Started, Status, Verb};
use crate::by_hand::{line, path, quoted};
use crate::proc;
use crate::served::{Family, MARK, Served};

/// How often a process that may die early is looked at.
const TICK: Duration = Duration::from_millis(10);

/// What is there of a service.
enum Found {
    /// Its first process runs.
    Running(Record, ProcessId),
    /// It was started and its first process is gone; these that it started are not.
    Left(Record, Vec<ProcessId>),
    /// It did what it had to do and counts as running without a process.
    Done(Record),
    /// It was not started, or was stopped.
    Nothing,
}

/// What a start came to.
pub(super) enum Launched {
    /// A process that is to stay.
    Process(ProcessId),
    /// It is done, and counts as running until it is stopped.
    Remains,
    /// It is done, and does not run.
    Over,
}

/// Starts it unless it runs.
pub(super) fn start(service: &str, process: &Process, context: &Context<'_>) -> Result<Started, Error> {
    start_by(service, process.grace, process.settle, context, |mark, log| {
        let command = process.command.clone().env(MARK, mark);
        Ok(Launched::Process(context.place.start(&command, log)?))
    })
}

/// Starts a service unless it runs, in the order and with the crash safety that `record` describes; `launch` is told the
/// mark that every process of this start must carry, and the log.
pub(super) fn start_by(
    service: &str,
    grace: Duration,
    settle: Duration,
    context: &Context<'_>,
    launch: impl FnOnce(&str, &Path) -> Result<Launched, Error>,
) -> Result<Started, Error> {
    let files = Files::of(context, service);
    let _lock = files.lock("start")?;
    let mut started =
        Started { already: false, process: None, cleared: 0, stand_in: None, notes: Vec::new() };
    match find(&files)? {
        Found::Running(_, process) => {
            return Ok(Started { already: true, process: Some(process), ..started });
        }
        Found::Done(_) => return Ok(Started { already: true, ..started }),
        Found::Left(_, left) => started.cleared = end_all(context, &left, grace)?,
        Found::Nothing => {}
    }
    if context.cancel.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let mut record = Record::starting(context, new_mark(service)?, files.begin_log()?);
    files.write(&record)?;
    let launched = match launch(&record.mark, &files.log()) {
        Ok(launched) => launched,
        Err(error) => {
            end_all(context, &marked(&record), grace)?;
            files.remove()?;
            return Err(error);
        }
    };
    match launched {
        Launched::Process(process) => {
            record.phase = Phase::Running(process);
            files.write(&record)?;
            if !survives(context, &process, settle) {
                let (log, tail) = (files.log().display().to_string(), files.log_tail(record.log_begins));
                return Err(Error::Died { service: service.to_owned(), log, tail });
            }
            started.process = Some(process);
        }
        Launched::Remains => {
            record.phase = Phase::Done;
            files.write(&record)?;
        }
        Launched::Over => files.remove()?,
    }
    Ok(started)
}

/// Ends it with everything that it started, also if its first process is gone already.
pub(super) fn stop(service: &str, grace: Duration, context: &Context<'_>) -> Result<Ended, Error> {
    let files = Files::of(context, service);
    let _lock = files.lock("stop")?;
    let ended = match find(&files)? {
        Found::Running(record, process) => {
            let killed = match context.place.stop(&process, grace)? {
                Stopped::WasNotRunning | Stopped::Terminated => 0,
                Stopped::Killed { processes } => processes,
            };
            let killed = killed + end_all(context, &marked(&record), grace)?;
            Ended { was_running: true, killed }
        }
        Found::Left(_, left) => Ended { was_running: false, killed: end_all(context, &left, grace)? },
        Found::Done(record) => {
            Ended { was_running: true, killed: end_all(context, &marked(&record), grace)? }
        }
        Found::Nothing => Ended { was_running: false, killed: 0 },
    };
    files.remove()?;
    Ok(ended)
}

/// Tells whether it runs; a process that ended without having been stopped has failed.
pub(super) fn status(service: &str, context: &Context<'_>) -> Status {
    let files = Files::of(context, service);
    match find(&files) {
        Ok(Found::Running(record, _) | Found::Done(record)) => Status::Running { since: Some(record.since) },
        Ok(Found::Nothing) => Status::Stopped,
        Ok(Found::Left(record, left)) => {
            let left = match left.len() {
                0 => String::new(),
                count => format!(" and left {count} processes behind"),
            };
            let tail = files.log_tail(record.log_begins);
            Status::Failed { why: format!("{service} ended by itself{left}; its log ends with: {tail}") }
        }
        Err(error) => Status::Unknown { why: error.to_string() },
    }
}

/// Tells which process it is.
pub(super) fn identity(service: &str, context: &Context<'_>) -> Result<Identity, Error> {
    if let Found::Done(record) = find(&Files::of(context, service))? {
        return Ok(Identity::Invocation { id: record.mark, restarts: 0 });
    }
    running(service, context, "watch").map(|(_, process)| Identity::Process(process))
}

/// Its first process, if it runs and has one.
pub(super) fn leader(service: &str, context: &Context<'_>) -> Option<ProcessId> {
    running(service, context, "find").map(|(_, process)| process).ok()
}

/// Tells which processes are its own.
pub(super) fn served(service: &str, context: &Context<'_>) -> Result<Served, Error> {
    let (record, leader) = running(service, context, "find the processes of")?;
    Ok(Served::new(service, Family::Process { leader, mark: record.mark }))
}

pub(super) fn by_hand(service: &str, process: &Process, verb: Verb, state: &Path) -> String {
    let log = path(&state.join(format!("{service}.log")));
    let start = format!("( {} ) < /dev/null >> {log} 2>&1 &", line(&process.command));
    let pattern = quoted(&pattern(&process.command)).into_owned();
    let stop = format!("pkill -TERM -f -- {pattern}");
    match verb {
        Verb::Start => start,
        Verb::Stop => stop,
        Verb::Restart => format!("{stop}; sleep {}; {start}", process.grace.as_secs().max(1)),
        Verb::Status => format!("pgrep -a -f -- {pattern}"),
    }
}

fn running(service: &str, context: &Context<'_>, verb: &'static str) -> Result<(Record, ProcessId), Error> {
    match find(&Files::of(context, service))? {
        Found::Running(record, process) => Ok((record, process)),
        Found::Done(_) => {
            let why = "it did its work and has no process".into();
            Err(Error::Failed { verb, service: service.to_owned(), why })
        }
        Found::Left(..) | Found::Nothing => {
            Err(Error::Failed { verb, service: service.to_owned(), why: "it does not run".into() })
        }
    }
}

/// Finds what is there, by the record and by the mark; writes nothing.
fn find(files: &Files<'_>) -> Result<Found, Error> {
    let Some(record) = files.read()? else { return Ok(Found::Nothing) };
    if record.phase == Phase::Done {
        return Ok(Found::Done(record));
    }
    if let Phase::Running(process) = record.phase {
        return Ok(if process.is_running() {
            Found::Running(record, process)
        } else {
            let left = marked(&record);
            Found::Left(record, left)
        });
    }
    // Whoever began this start was killed, before or after the process was made.
    let left = marked(&record);
    let is_leader =
        |process: &&ProcessId| proc::stat(process.pid).is_some_and(|stat| stat.session == process.pid);
    match left.iter().find(is_leader).copied() {
        Some(leader) => Ok(Found::Running(record, leader)),
        None if left.is_empty() => Ok(Found::Nothing),
        None => Ok(Found::Left(record, left)),
    }
}

/// All processes that carry the mark of a start.
fn marked(record: &Record) -> Vec<ProcessId> {
    carrying(&record.mark)
}

/// All processes that carry a mark.
pub(super) fn carrying(mark: &str) -> Vec<ProcessId> {
    let carries =
        |pid: &i32| proc::stat(*pid).is_some_and(|stat| stat.alive) && proc::has_variable(*pid, MARK, mark);
    proc::all().into_iter().filter(carries).filter_map(|pid| ProcessId::of(pid).ok()).collect()
}

/// Ends each of them with all that belongs to it; tells how many they are.
fn end_all(context: &Context<'_>, processes: &[ProcessId], grace: Duration) -> Result<usize, Error> {
    for process in processes {
        context.place.stop(process, grace)?;
    }
    Ok(processes.len())
}

/// Watches a process that was just started; an end before its time is a failed start.
fn survives(context: &Context<'_>, process: &ProcessId, settle: Duration) -> bool {
    let end = Instant::now() + settle;
    loop {
        if !context.place.is_running(process) {
            return false;
        }
        let now = Instant::now();
        if now >= end || context.cancel.load(Ordering::Relaxed) {
            return true;
        }
        thread::sleep(TICK.min(end - now));
    }
}

/// A word that no other start of any service has or will have.
fn new_mark(service: &str) -> Result<String, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::Failed {
        verb: "start",
        service: service.to_owned(),
        why: format!("no random bytes: {error}"),
    })?;
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{service}-{random}"))
}

/// What the process's command line looks like to `pgrep -f`.
fn pattern(command: &Command) -> String {
    let words = std::iter::once(&command.program).chain(&command.arguments);
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
