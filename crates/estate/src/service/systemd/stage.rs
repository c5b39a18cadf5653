//! A unit rehearsed in a twin, which has no systemd: started, asked and stopped as a process of the twin.
//!
//! The supervisor is that of services of kind process (`service::process`): its record, its mark, its lock. What is here is
//! only what systemd does around a process: commands before and after, the word that it is ready, who stays of a
//! process that forks.
//!
//! What the twin's own files say counts, never what the host's systemd has loaded: a unit that a disaster takes away and
//! that no step brings back is not there.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use place::{Command, End, Limits, ProcessId};
use rustix::process::{Pid, Signal, kill_process};

use super::exec::Exec;
use super::gathered::{Gathered, Machine, Refused, make_directories};
use super::rehearsal::Kind;
use super::unit::Name;
use crate::proc;
use crate::service::process::{self, Launched};
use crate::service::{Context, Ended, Error, GRACE, SETTLE, Started, Status, Systemd, how_it_ended};

/// How often is looked for a word, a file or an end.
const TICK: Duration = Duration::from_millis(20);

/// Where systemd keeps units that no boot finds again: made by generators, or by hand for this boot only.
const PASSING: [&str; 6] = [
    "/run/systemd/generator.early",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/run/systemd/transient",
    "/run/systemd/system.control",
    "/run/systemd/system",
];

/// What a person can do where a unit cannot be rehearsed.
const INSTEAD: &str = "declare it as a process, or as commands that work in a twin, to rehearse it";

/// A unit that can be rehearsed, with its own words for errors.
struct Stage<'a> {
    service: &'a str,
    context: &'a Context<'a>,
    gathered: Gathered,
}

pub(super) fn start(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Started, Error> {
    if matches!(process::status(service, context), Status::Running { .. }) {
        let process = process::leader(service, context);
        return Ok(Started { already: true, process, cleared: 0, stand_in: None, notes: Vec::new() });
    }
    let gathered = gather(service, unit, context)?;
    let secrets = context.secrets.and(gathered.secrets.iter().cloned());
    let context = Context { secrets: &secrets, ..*context };
    Stage { service, context: &context, gathered }.start()
}

pub(super) fn stop(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Ended, Error> {
    if process::status(service, context) == Status::Stopped {
        return Ok(Ended { was_running: false, killed: 0 });
    }
    // What has been started is ended, whatever has become of its unit since.
    match gather(service, unit, context) {
        Ok(gathered) => {
            let secrets = context.secrets.and(gathered.secrets.iter().cloned());
            let context = Context { secrets: &secrets, ..*context };
            Stage { service, context: &context, gathered }.stop()
        }
        Err(_) => process::stop(service, GRACE, context),
    }
}

/// Tells what it is doing; of what cannot be rehearsed it is not known that it does not run.
pub(super) fn status(service: &str, unit: &Systemd, context: &Context<'_>) -> Status {
    match process::status(service, context) {
        Status::Stopped => match gather(service, unit, context) {
            Err(error @ Error::NotHere { .. }) => Status::Unknown { why: error.to_string() },
            _ => Status::Stopped,
        },
        Status::Failed { why } => match gather(service, unit, context) {
            Ok(gathered) => {
                Status::Failed { why: context.secrets.and(gathered.secrets.iter().cloned()).mask(&why) }
            }
            Err(_) => Status::Failed { why },
        },
        other => other,
    }
}

/// Looks up everything that a rehearsal needs, and refuses what would show nothing.
fn gather(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Gathered, Error> {
    let not_here = |reasons: &[String]| Error::NotHere {
        service: service.to_owned(),
        place: context.place.name().to_owned(),
        why: format!("no process can stand in for {}, for {}; {INSTEAD}", unit.unit, reasons.join("; ")),
    };
    if unit.user {
        return Err(not_here(&["the manager of its user starts it, and a twin has none".to_owned()]));
    }
    let Some(name) = Name::parse(&unit.unit) else {
        return Err(not_here(&["only units of services can be run as processes".to_owned()]));
    };
    let uname = rustix::system::uname();
    let machine = Machine {
        boot: proc::boot(),
        host: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
    };
    let gathered = match context.place.within(|| Gathered::of(&name, &machine))? {
        Ok(gathered) => gathered,
        Err(Refused::NotHere(reasons)) => return Err(not_here(&reasons)),
        Err(Refused::Fails(why)) => {
            // Only the host can have it: what systemd makes at boot is not in a twin.
            let passing = PASSING.map(|directory| Path::new(directory).join(&name.full));
            return Err(match passing.iter().find(|path| path.exists()) {
                Some(path) => {
                    let made = format!("its file is made at boot, as {}, and not in a twin", path.display());
                    not_here(&[made])
                }
                None => Error::Failed { verb: "start", service: service.to_owned(), why },
            });
        }
    };
    let reasons = reasons_here(&gathered, unit, context);
    if reasons.is_empty() { Ok(gathered) } else { Err(not_here(&reasons)) }
}

/// What stands in the way in this very twin.
fn reasons_here(gathered: &Gathered, unit: &Systemd, context: &Context<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    let own = rustix::process::geteuid().as_raw();
    if own != 0 && gathered.who.uid != own {
        let uid = gathered.who.uid;
        reasons.push(format!(
            "it runs as user {uid}, and in the twin of an ordinary user nobody can become \
             another one: run the drill as root"
        ));
    }
    for required in &gathered.rehearsal.requires {
        match unit.others.iter().find(|other| same_unit(&other.unit, required)) {
            Some(other) => {
                if !matches!(process::status(&other.service, context), Status::Running { .. }) {
                    let name = &other.service;
                    reasons.push(format!(
                        "it requires {required}, which is {name} in the plan and does not \
                         run: let it need {name}"
                    ));
                }
            }
            None => reasons.push(format!(
                "it requires {required}, which does not run in a twin: make it a \
                 service of the plan and let this one need it"
            )),
        }
    }
    reasons
}

fn same_unit(one: &str, other: &str) -> bool {
    one.trim_end_matches(".service") == other.trim_end_matches(".service")
}

impl Stage<'_> {
    fn start(&self) -> Result<Started, Error> {
        let rehearsal = &self.gathered.rehearsal;
        self.make_directories()?;
        self.run_all("ExecCondition", &rehearsal.exec_condition, &[])?;
        self.run_all("ExecStartPre", &rehearsal.before, &[])?;
        let invocation = ("INVOCATION_ID".to_owned(), new_id().map_err(|why| self.failed("start", why))?);
        let started = match &rehearsal.kind {
            Kind::Lasting => self.launch(&[invocation]),
            Kind::Notify => self.launch_and_listen(invocation),
            Kind::Forking { pid_file } => self.fork(pid_file.as_deref(), &[invocation]),
            Kind::Oneshot { remains } => self.do_all(*remains, &[invocation]),
        };
        let ready = started.and_then(|started| {
            let main = self.main_pid(started.process.as_ref());
            self.run_all("ExecStartPost", &rehearsal.after, &main)?;
            Ok(started)
        });
        match ready {
            Ok(started) => Ok(Started { notes: rehearsal.notes.clone(), ..started }),
            Err(error) => {
                // systemd, too, leaves nothing of a start that failed; what cannot be ended is not the first fault. That
                // the process died by itself stays on record.
                if !matches!(error, Error::Died { .. }) {
                    let _ = process::stop(self.service, self.grace(), self.context);
                }
                Err(error)
            }
        }
    }

    fn stop(&self) -> Result<Ended, Error> {
        let rehearsal = &self.gathered.rehearsal;
        let main = process::leader(self.service, self.context);
        if matches!(process::status(self.service, self.context), Status::Running { .. }) {
            self.run_all("ExecStop", &rehearsal.stop, &self.main_pid(main.as_ref()))?;
        }
        let mut grace = self.grace();
        if let (Some(main), Some(signal)) = (&main, rehearsal.kill_signal.as_deref().and_then(signal)) {
            grace = self.ask_to_end(main, signal, grace);
        }
        let ended = process::stop(self.service, grace, self.context)?;
        self.run_all("ExecStopPost", &rehearsal.after_stop, &[])?;
        if !rehearsal.keeps_runtime_directory {
            self.remove_runtime_directories()?;
        }
        // Asked to end in its own way, it was not killed.
        Ok(Ended { was_running: ended.was_running || main.is_some(), ..ended })
    }

    fn launch(&self, extra: &[(String, String)]) -> Result<Started, Error> {
        self.start_by(|mark, log| {
            let command = self.main_command(extra)?.env(crate::served::MARK, mark);
            Ok(Launched::Process(self.context.place.start(&command, log)?))
        })
    }

    /// Starts it and waits until it says that it is ready, by the protocol of sd_notify(3).
    fn launch_and_listen(&self, invocation: (String, String)) -> Result<Started, Error> {
        let path = format!("/run/lifeboat-{}", &invocation.1[..16]);
        let bind = || {
            let socket = UnixDatagram::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
            socket.set_read_timeout(Some(TICK))?;
            Ok(socket)
        };
        let bound: io::Result<UnixDatagram> = self.context.place.within(bind)?;
        let socket =
            bound.map_err(|error| self.failed("start", format!("failed to make {path}: {error}")))?;
        let started = self.launch(&[invocation, ("NOTIFY_SOCKET".to_owned(), path.clone())]);
        let ready = started.and_then(|started| self.listen(&socket, started));
        // A socket that nobody reads would block the service; one that is gone does not.
        drop(socket);
        self.context.place.within(|| _ = std::fs::remove_file(&path))?;
        ready
    }

    fn listen(&self, socket: &UnixDatagram, started: Started) -> Result<Started, Error> {
        let end = Instant::now() + self.patience();
        let mut message = [0; 4096];
        loop {
            if let Ok(length) = socket.recv(&mut message)
                && message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
            {
                return Ok(started);
            }
            if !started.process.is_some_and(|process| process.is_running()) {
                let why = match process::status(self.service, self.context) {
                    Status::Failed { why } => why,
                    _ => "it ended by itself".into(),
                };
                return Err(self.failed("start", format!("before it said that it was ready, {why}")));
            }
            self.check_time(end, || "it did not say that it is ready (Type=notify, READY=1)".to_owned())?;
        }
    }

    /// Starts what makes itself a daemon, and finds the process that stays.
    fn fork(&self, pid_file: Option<&str>, extra: &[(String, String)]) -> Result<Started, Error> {
        self.start_by(|mark, log| {
            let command = self.main_command(extra)?.env(crate::served::MARK, mark);
            // Whoever stays must not write to us.
            let log = log.as_os_str().to_owned();
            let command = wrapped([OsString::from("/bin/sh"), "-c".into(), TO_LOG.into(), log], command);
            let finished = self.context.place.run(&command, &self.limits())?;
            self.judge("ExecStart", &self.gathered.rehearsal.main[0], &finished)?;
            let mut stayed = finished.daemons;
            stayed.extend(process::carrying(mark));
            stayed.sort_by_key(|process| (process.start_ticks, process.pid));
            stayed.dedup();
            if stayed.is_empty() && finished.left_behind > 0 {
                let why = format!(
                    "what it starts stays in the session of the process that starts it, which a rehearsal ends; {INSTEAD}"
                );
                return Err(self.not_here(why));
            }
            let main = match pid_file {
                Some(file) => self.named_in(file, &stayed)?,
                None => stayed.first().copied(),
            };
            main.map(Launched::Process)
                .ok_or_else(|| self.failed("start", "its first process ended and left none that stays".into()))
        })
    }

    /// The process whose number, as the twin counts, is in the file.
    fn named_in(&self, file: &str, stayed: &[ProcessId]) -> Result<Option<ProcessId>, Error> {
        let path = Path::new("/run").join(file);
        let end = Instant::now() + self.patience();
        loop {
            let text = self.context.place.within(|| std::fs::read_to_string(&path))?;
            let pid: Option<i32> = text.ok().and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid {
                let named = stayed.iter().find(|process| proc::pid_inside(process.pid) == Some(pid));
                return Ok(named.copied());
            }
            if !stayed.iter().any(ProcessId::is_running) {
                return Ok(None);
            }
            self.check_time(end, || format!("no number of a process is in its PIDFile {}", path.display()))?;
            thread::sleep(TICK);
        }
    }

    fn do_all(&self, remains: bool, extra: &[(String, String)]) -> Result<Started, Error> {
        self.start_by(|mark, _| {
            let mut extra = extra.to_vec();
            extra.push((crate::served::MARK.to_owned(), mark.to_owned()));
            self.run_all("ExecStart", &self.gathered.rehearsal.main, &extra)?;
            Ok(if remains { Launched::Remains } else { Launched::Over })
        })
    }

    fn start_by(
        &self,
        launch: impl FnOnce(&str, &Path) -> Result<Launched, Error>,
    ) -> Result<Started, Error> {
        process::start_by(self.service, self.grace(), SETTLE, self.context, launch)
    }

    /// Runs commands one after the other, each to its end.
    fn run_all(&self, key: &str, commands: &[Exec], extra: &[(String, String)]) -> Result<(), Error> {
        for exec in commands {
            let finished = self.context.place.run(&self.command(exec, extra)?, &self.limits())?;
            self.judge(key, exec, &finished)?;
        }
        Ok(())
    }

    fn judge(&self, key: &str, exec: &Exec, finished: &place::Finished) -> Result<(), Error> {
        match finished.end {
            End::Exited(0) => Ok(()),
            End::Cancelled => Err(Error::Interrupted),
            End::Exited(code) if exec.may_fail || self.gathered.rehearsal.good_codes.contains(&code) => {
                Ok(())
            }
            End::Killed { .. } if exec.may_fail => Ok(()),
            _ => {
                let how = how_it_ended(finished, self.context.secrets);
                let verb = if key.starts_with("ExecStop") { "stop" } else { "start" };
                Err(self.failed(verb, format!("its {key} {} {how}", exec.program)))
            }
        }
    }

    fn main_command(&self, extra: &[(String, String)]) -> Result<Command, Error> {
        self.command(&self.gathered.rehearsal.main[0], extra)
    }

    /// The command as systemd would run it: as the right user, in the right directory, with the right environment.
    fn command(&self, exec: &Exec, extra: &[(String, String)]) -> Result<Command, Error> {
        let Gathered { who, rehearsal, working_directory, .. } = &self.gathered;
        let mut environment = self.gathered.environment.clone();
        environment.splice(0..0, extra.iter().cloned());
        let mut command = Command::new(&exec.program, exec.expanded(&environment))
            .directory(working_directory)
            .clean_environment();
        for (name, value) in environment {
            command = command.env(name, value);
        }
        if let Some(called) = &exec.called {
            self.require("/bin/bash", &format!("it is to be called {called}"))?;
            command = wrapped(["/bin/bash", "-c", r#"exec -a "$0" "$@""#, called], command);
        }
        if !exec.privileged && !who.is_root() && rustix::process::geteuid().is_root() {
            self.require("/usr/bin/setpriv", "it runs as another user")?;
            let numbers: Vec<String> = who.groups.iter().map(ToString::to_string).collect();
            let groups = match numbers.is_empty() {
                true => "--clear-groups".to_owned(),
                false => format!("--groups={}", numbers.join(",")),
            };
            let (uid, gid) = (format!("--reuid={}", who.uid), format!("--regid={}", who.gid));
            command = wrapped(["/usr/bin/setpriv", &uid, &gid, &groups, "--"], command);
        }
        let umask = format!("umask {:04o} && exec \"$@\"", rehearsal.umask);
        Ok(wrapped(["/bin/sh", "-c", &umask, "sh"], command).named(&exec.program))
    }

    fn require(&self, program: &str, what_for: &str) -> Result<(), Error> {
        match self.context.place.within(|| Path::new(program).exists())? {
            true => Ok(()),
            false => Err(self.not_here(format!("{what_for}, and for that {program} is needed; install it"))),
        }
    }

    fn make_directories(&self) -> Result<(), Error> {
        let Gathered { who, rehearsal, .. } = &self.gathered;
        let made = self.context.place.within(|| make_directories(&rehearsal.directories, who))?;
        made.map_err(|error| self.failed("start", format!("failed to make its directories: {error}")))
    }

    fn remove_runtime_directories(&self) -> Result<(), Error> {
        let directories = self.gathered.rehearsal.directories.iter();
        let paths: Vec<PathBuf> = directories
            .filter(|directory| directory.variable == "RUNTIME_DIRECTORY")
            .map(|directory| PathBuf::from(&directory.path))
            .collect();
        let removed = self.context.place.within(|| {
            paths.iter().try_for_each(|path| match std::fs::remove_dir_all(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
        })?;
        removed
            .map_err(|error| self.failed("stop", format!("failed to remove its RuntimeDirectory: {error}")))
    }

    /// Sends the signal that the unit names, and waits; gives what is left of the time.
    fn ask_to_end(&self, main: &ProcessId, signal: Signal, grace: Duration) -> Duration {
        let end = Instant::now() + grace;
        if let Some(pid) = Pid::from_raw(main.pid).filter(|_| main.is_running()) {
            // It fails only when the process has just ended.
            let _ = kill_process(pid, signal);
        }
        while main.is_running() && Instant::now() < end && !self.context.cancel.load(Ordering::Relaxed) {
            thread::sleep(TICK);
        }
        end.saturating_duration_since(Instant::now())
    }

    /// The number of the main process, as the twin counts, in the variable of systemd.
    fn main_pid(&self, main: Option<&ProcessId>) -> Vec<(String, String)> {
        let pid = main.and_then(|main| proc::pid_inside(main.pid));
        pid.map(|pid| ("MAINPID".to_owned(), pid.to_string())).into_iter().collect()
    }

    fn check_time(&self, end: Instant, what: impl FnOnce() -> String) -> Result<(), Error> {
        if self.context.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if Instant::now() >= end {
            let seconds = self.patience().as_secs_f32();
            return Err(self.failed("start", format!("{} within {seconds} s", what())));
        }
        Ok(())
    }

    /// How long a start may take, by the unit and by whoever starts it.
    fn patience(&self) -> Duration {
        let own = self.gathered.rehearsal.start_within.unwrap_or(self.context.timeout);
        own.min(self.context.timeout)
    }

    fn grace(&self) -> Duration {
        let own = self.gathered.rehearsal.stop_within.unwrap_or(self.context.timeout);
        own.min(self.context.timeout)
    }

    fn limits(&self) -> Limits<'_> {
        Limits { timeout: self.patience(), ..self.context.limits() }
    }

    fn failed(&self, verb: &'static str, why: String) -> Error {
        Error::Failed { verb, service: self.service.to_owned(), why }
    }

    fn not_here(&self, why: String) -> Error {
        let place = self.context.place.name().to_owned();
        Error::NotHere { service: self.service.to_owned(), place, why }
    }
}

/// Appends the outputs of a command to the file that `$0` names.
const TO_LOG: &str = r#"exec "$@" >> "$0" 2>&1"#;

/// Puts words before a command; everything else stays.
fn wrapped(words: impl IntoIterator<Item = impl Into<OsString>>, command: Command) -> Command {
    let mut words = words.into_iter().map(Into::into).chain([command.program.clone()]);
    let program = words.next().expect("a wrapper has a program");
    let arguments = words.chain(command.arguments.iter().cloned()).collect();
    Command { program, arguments, ..command }
}

/// The signals by which services are asked to end.
fn signal(name: &str) -> Option<Signal> {
    Some(match name {
        "HUP" | "1" => Signal::HUP,
        "INT" | "2" => Signal::INT,
        "QUIT" | "3" => Signal::QUIT,
        "ABRT" | "6" => Signal::ABORT,
        "KILL" | "9" => Signal::KILL,
        "USR1" | "10" => Signal::USR1,
        "USR2" | "12" => Signal::USR2,
        "CONT" | "18" => Signal::CONT,
        "WINCH" | "28" => Signal::WINCH,
        _ => return None,
    })
}

/// A name for one start, of 32 hexadecimal digits, as systemd's invocations have.
fn new_id() -> Result<String, String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
