//! Carrying out the steps of a run: what `work` describes becomes effects on components, services and the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use estate::check::{self, AskContext};
use estate::component::{Component, Holds, Proof, Proven as Shown};
use estate::served::Served;
use estate::service;
use place::{Limits, Place, Stream};
use repository::restore::{Fsync, RestoreOptions, RestorePlan};
use repository::{BlobReader, Context, Event, Id, Index, Observer, Repository, Task, find_entry};
use runbook::{
    Action, Actions, Answer, Failure, Performed, Probe, Progress, Proven, StepContext, Undone, Unit,
};
use serde_json::json;

use crate::drivers::{CheckDriver, Drivers, Gate, Send};
use crate::resolve::STEADY_AFTER;
use crate::site::Site;
use crate::units::counted;
use crate::work::{At, Backup, Question, Restored, Work, read};
use crate::{Error, backup, log, upkeep};

/// How long an operation on a service may take where neither plan nor step says.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long telling people may take where the step does not say.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(60);
/// So much is worth all cores; smaller fetches spend their time on asking, and go on beside each other.
const LARGE_BYTES: u64 = 64 << 20;
/// How long before the end of its time a check has to answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);
/// How much of what a command says goes into a message.
const OUTPUT_LINES_MAX: usize = 12;

/// Carries out the steps of one run.
pub(crate) struct Performer<'a> {
    pub site: &'a Site,
    pub drivers: &'a Drivers,
    pub place: Place,
    /// The repository as this run reaches it: from a twin, through threads of the host.
    pub repository: Repository,
    /// The index as it was last loaded.
    known: Mutex<Option<Arc<Index>>>,
    /// Backups are made one after the other: each uses all cores by itself.
    backing_up: Mutex<()>,
    /// So do large fetches; what was fetched is proven while the next one goes on.
    fetching: Mutex<()>,
    /// When services were started by this process, for the second look at them.
    started: Mutex<BTreeMap<String, Instant>>,
    /// The plan's copies, or why one could not be opened: it is tried once in a run.
    pub copies: Vec<OnceLock<Result<Repository, String>>>,
}

impl<'a> Performer<'a> {
    pub fn new(site: &'a Site, drivers: &'a Drivers, place: Place, repository: Repository) -> Self {
        Self {
            site,
            drivers,
            place,
            repository,
            known: Mutex::default(),
            backing_up: Mutex::new(()),
            fetching: Mutex::new(()),
            started: Mutex::new(BTreeMap::new()),
            copies: site.copies.iter().map(|_| OnceLock::new()).collect(),
        }
    }

    /// The index as it was last loaded, if it was.
    pub fn known_index(&self) -> Option<Arc<Index>> {
        self.known.lock().expect("no holder panics").clone()
    }

    /// The repository's index as it is now; what was read of it before is not read again.
    pub fn index(&self, context: Context<'_>) -> repository::Result<Arc<Index>> {
        let mut known = self.known.lock().expect("no holder panics");
        let index = Index::load_since(known.as_ref(), &self.repository, context)?;
        Ok(Arc::clone(known.insert(index)))
    }

    /// Runs what a driver does where the place's files are. A driver of commands finds its way by itself, because
    /// commands are not started from within.
    pub fn beside<T: std::marker::Send>(
        &self,
        driver: &dyn Component,
        work: impl FnOnce() -> T + std::marker::Send,
    ) -> crate::Result<T> {
        Ok(if driver.enters_by_itself() { work() } else { self.place.within(work)? })
    }

    /// The same for the capture and the reading of its members, for which a driver may go another way.
    pub fn captured<T: std::marker::Send>(
        &self,
        driver: &dyn Component,
        work: impl FnOnce() -> T + std::marker::Send,
    ) -> crate::Result<T> {
        Ok(if driver.is_captured_within() { self.place.within(work)? } else { work() })
    }

    fn work(&self, work: Work, at: &StepContext<'_>) -> Result<Performed, Failure> {
        match work {
            Work::Backup(backup) => self.back_up(&backup, at),
            Work::Copy { component, copy } => {
                self.keep_up(Task::Copy, at, |context| upkeep::copy(self, &component, copy, context))
            }
            Work::Forget { component } => {
                self.keep_up(Task::Delete, at, |context| upkeep::forget(self, &component, at.run(), context))
            }
            Work::Disaster { components } => self.destroy(&components),
            Work::Control { checks } => Ok(self.control(&checks, at)),
            Work::Fetch(restored) => self.fetch(&restored, at),
            Work::Replay(restored) => self.replay(&restored, at),
            Work::Prove(restored) => self.prove(&restored, at),
            Work::Compare(restored) => self.compare(&restored, at),
            Work::Notice { restored, how } => self.notice(&restored, how, at),
            Work::Swap { restored, swap } => self.swap(&restored, &swap, at),
            Work::Discard { directory, .. } => self.discard(&directory),
            Work::Start { service } => self.start(&service, at),
            Work::Stop { service } => self.stop(&service, at),
            Work::Steady { services } => self.steady(&services, at),
            Work::Run { script, at: step } => self.run(&script, step, at),
            Work::Notify { at: step } => self.notify(step, at),
            Work::Note { text } => Ok(Performed::new(text)),
            Work::NotHere { why } => {
                Ok(Performed { proven: Proven::Not(why.clone()), ..Performed::new(why) })
            }
        }
    }

    fn back_up(&self, backup: &Backup, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let _one_at_a_time = self.backing_up.lock().expect("nobody panics while backing up");
        let teller = Teller::new(at, Task::Backup);
        let cancel = at.cancel_flag();
        let context = Context { observer: &teller, cancel: &cancel };
        backup::component(self, backup, at.run(), &cancel, context).map_err(failure)
    }

    /// Does something to repositories, one at a time like backups: their locks would keep each other out.
    fn keep_up(
        &self,
        task: Task,
        at: &StepContext<'_>,
        work: impl FnOnce(Context<'_>) -> crate::Result<Performed>,
    ) -> Result<Performed, Failure> {
        let _one_at_a_time = self.backing_up.lock().expect("nobody panics while backing up");
        let teller = Teller::new(at, task);
        let cancel = at.cancel_flag();
        work(Context { observer: &teller, cancel: &cancel }).map_err(failure)
    }

    /// Removes what is protected. Only ever in a twin.
    fn destroy(&self, components: &[String]) -> Result<Performed, Failure> {
        if !self.place.is_twin() {
            return Err(Failure::could_not_run("a disaster is only staged in a twin, and this is not one"));
        }
        if components.is_empty() {
            let why = "the scenario restores nothing, so nothing was destroyed, and its checks are answered by a copy \
                       of the live data";
            return Ok(Performed { proven: Proven::Not(why.to_owned()), ..Performed::new(why) });
        }
        let mut paths = BTreeSet::new();
        for name in components {
            paths.extend(self.drivers.component(name).map_err(failure)?.destroy());
        }
        // The twin was made without them, where that can be.
        self.place
            .within(|| {
                paths.iter().try_for_each(|path| match remove(path) {
                    Ok(_) => Ok(()),
                    // Nothing of the recovery was tried.
                    Err(error) => Err(Failure::not_proven(format!(
                        "{} cannot be removed in the twin, so that there was no disaster to recover from: {error}; {}",
                        path.display(),
                        what_keeps_it(&error, rustix::process::geteuid().is_root())
                    ))),
                })
            })
            .map_err(|error| failure(error.into()))??;
        Ok(Performed::new(format!("nothing is left of {} in the twin", components.join(", "))))
    }

    /// Asks checks that must not hold now. One that holds although everything it could be about is destroyed proves
    /// nothing afterwards; when none fails, nothing of the drill does.
    fn control(&self, checks: &[String], at: &StepContext<'_>) -> Performed {
        let (mut noticed, mut blind) = (Vec::new(), Vec::new());
        for name in checks {
            match self.ask_check(name, at) {
                Answer::Holds(_) => blind.push(name.as_str()),
                _ => noticed.push(name.as_str()),
            }
        }
        if noticed.is_empty() {
            let why = format!("no check notices that everything is destroyed: {}", blind.join(", "));
            return Performed { proven: Proven::Not(why.clone()), ..Performed::new(why) };
        }
        let unaffected = match blind.as_slice() {
            [] => String::new(),
            blind => format!("; {} would hold without a recovery, too", blind.join(", ")),
        };
        Performed::new(format!("fails as it must: {}{unaffected}", noticed.join(", ")))
            .with_output(json!({ "noticed": noticed, "blind": blind }))
    }

    fn fetch(&self, restored: &Restored, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let driver = self.drivers.component(&restored.component).map_err(failure)?;
        let tree: Id = restored.tree.parse().map_err(|error| {
            Failure::could_not_run(format!("the run names no tree of {}: {error}", restored.component))
        })?;
        let teller = Teller::new(at, Task::Restore);
        let cancel = at.cancel_flag();
        let context = Context { observer: &teller, cancel: &cancel };
        let index = self.index(context).map_err(|error| failure(error.into()))?;
        let lock = repository::Lock::shared(&self.repository, repository::LockOptions::default())
            .map_err(|error| failure(error.into()))?;
        let fsync = if self.place.is_twin() { Fsync::None } else { Fsync::Syncfs };
        self.beside(driver, || driver.prepare(&restored.parts, &restored.recorded))
            .map_err(failure)?
            .map_err(|error| failure(Error::component(&restored.component)(error)))?;
        let is_large = restored.recorded.bytes.is_none_or(|bytes| bytes >= LARGE_BYTES);
        let fetched = self.place.within(|| {
            let alone = || self.fetching.lock().expect("nobody panics while fetching");
            let (mut bytes, mut taken, mut files, mut problems) = (0, 0, 0, Vec::new());
            for part in &restored.parts {
                let alone = is_large.then(alone);
                // What an attempt before this one left there is brought up to date instead of fetched again. What is there
                // still is only read: whatever of it is right need not come from the repository.
                let seed = part.target.exists().then(|| part.target.clone());
                let options = RestoreOptions { fsync, delete: true, seed, ..RestoreOptions::default() };
                let entry = find_entry(&BlobReader::new(&self.repository, &index), tree, &part.in_snapshot)?;
                let plan = RestorePlan::to_exact_path(
                    &self.repository,
                    &index,
                    entry,
                    &part.beside,
                    options,
                    context,
                )?;
                // Who waits for the disk only needs no processor: the next may begin.
                let report = plan.execute_telling(context, move || drop(alone))?;
                bytes += report.bytes_written;
                taken += report.bytes_taken;
                files += report.files_restored;
                problems.extend(
                    report
                        .problems
                        .into_iter()
                        .map(|problem| format!("{}: {}", problem.path.display(), problem.error)),
                );
            }
            Ok::<_, Error>((bytes, taken, files, problems))
        });
        let released = lock.release();
        let (bytes, taken, files, problems) =
            fetched.map_err(|error| failure(error.into()))?.map_err(failure)?;
        released.map_err(|error| failure(error.into()))?;
        if !problems.is_empty() {
            return Err(Failure::failed(format!(
                "{} of {} could not be restored: {}; see `lifeboat repository check --read-data`, and \
                 choose an older point with --at",
                problems.len(),
                restored.component,
                first_lines(&problems.join("\n")),
            )));
        }
        let snapshot = restored.snapshot.get(..8).unwrap_or(&restored.snapshot);
        let instant = restored.recorded.instant;
        Ok(Performed::new(format!(
            "{} from snapshot {snapshot} of {instant}",
            counted(files, "file", "files")
        ))
        .with_output(json!({ "bytes": bytes, "bytes_taken_from_the_old": taken, "files": files })))
    }

    fn replay(&self, restored: &Restored, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let driver = self.drivers.component(&restored.component).map_err(failure)?;
        let cancel = at.cancel_flag();
        // Beside the directories of restore tests, because it is removed.
        let name = format!("{}-replay", restored.component);
        let scratch = self.site.state.join("scratch").join(at.run()).join(name);
        let replayed = self
            .beside(driver, || {
                backup::make(&scratch)?;
                let replayed = log::replay(&self.repository, driver, restored, &scratch, &cancel);
                // Whatever is left there is of no use to anybody.
                let _left = std::fs::remove_dir_all(&scratch);
                replayed
            })
            .and_then(|replayed| replayed)
            .map_err(failure)?;
        let instant = replayed.instant.map_or(String::new(), |instant| format!(", {instant}"));
        let reached = format!("replayed to {:#x}{instant}", replayed.position);
        let performed = match replayed.proof.shown.is_empty() {
            true => Performed::new(reached),
            false => {
                let judged = judge(&restored.component, &replayed.proof)?;
                Performed { summary: format!("{reached}; {}", judged.summary), ..judged }
            }
        };
        Ok(performed.with_output(json!({ "position": replayed.position, "instant": replayed.instant, "shown": replayed.proof.shown })))
    }

    fn prove(&self, restored: &Restored, at: &StepContext<'_>) -> Result<Performed, Failure> {
        judge(&restored.component, &self.proof(restored, at)?)
    }

    /// What the driver shows about what lies beside.
    pub(crate) fn proof(&self, restored: &Restored, at: &StepContext<'_>) -> Result<Proof, Failure> {
        let driver = self.drivers.component(&restored.component).map_err(failure)?;
        let cancel = at.cancel_flag();
        let recorded = log::recorded_after(restored);
        let prove = || driver.prove(&restored.parts, &recorded, &cancel);
        let proof = if driver.is_proven_within() { self.place.within(prove) } else { Ok(prove()) };
        proof
            .map_err(|error| failure(error.into()))?
            .map_err(|error| failure(Error::component(&restored.component)(error)))
    }

    fn swap(
        &self,
        restored: &Restored,
        swap: &estate::swap::SwapPlan,
        at: &StepContext<'_>,
    ) -> Result<Performed, Failure> {
        let driver = self.drivers.component(&restored.component).map_err(failure)?;
        let cancel = at.cancel_flag();
        let wrong = |error| failure(Error::component(&restored.component)(error));
        let kept = self
            .place
            .within(|| swap.apply(&mut |_, _| Ok(())).map(|()| swap.kept()))
            .map_err(|error| failure(error.into()))?
            .map_err(wrong)?;
        let (left, elsewhere) = self
            .beside(driver, || {
                driver.after_swap(&restored.parts, &restored.recorded, &cancel)?;
                let elsewhere = driver.kept(&restored.parts, &cancel)?;
                Ok((driver.left_to_people(&restored.recorded), elsewhere))
            })
            .map_err(failure)?
            .map_err(wrong)?;
        let targets: Vec<String> = swap.parts.iter().map(|part| part.target.display().to_string()).collect();
        let mut performed = Performed::new(match (elsewhere.as_slice(), kept.len()) {
            ([], 0) => format!("{} in place; nothing was there before", targets.join(", ")),
            ([], n) => format!("{} in place; {n} old kept until commit", targets.join(", ")),
            (elsewhere, _) => format!("in place; kept until commit: {}", elsewhere.join(", ")),
        });
        let left: Vec<String> = left.into_iter().map(|left| left.what).collect();
        performed.output = json!({ "kept": kept, "left_to_people": left });
        if !left.is_empty() {
            performed.losses = left.iter().map(|what| format!("left to people: {what}")).collect();
        }
        Ok(performed)
    }

    fn discard(&self, directory: &Path) -> Result<Performed, Failure> {
        let removed = self.place.within(|| remove(directory)).map_err(|error| failure(error.into()))?;
        match removed {
            Ok(_) => Ok(Performed::new("thrown away")),
            Err(error) => Err(Failure::failed(format!("failed to remove {}: {error}", directory.display()))),
        }
    }

    fn start(&self, service: &str, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let driver = self.drivers.service(service).map_err(failure)?;
        let started =
            self.on_service(at, |context| driver.service.start(context)).map_err(service_failure)?;
        // A process of ours has been watched since it began.
        let watched =
            started.process.filter(|_| !started.already).map_or(Duration::ZERO, |_| service::SETTLE);
        let since = Instant::now().checked_sub(watched).unwrap_or_else(Instant::now);
        self.started.lock().expect("nobody panics while noting").insert(service.to_owned(), since);
        let mut summary = if started.already { "was running".to_owned() } else { "started".to_owned() };
        if let Some(process) = started.process {
            summary += &format!(", process {}", process.pid);
        }
        if !started.notes.is_empty() {
            summary += &format!(" ({})", started.notes.join("; "));
        }
        Ok(match started.stand_in {
            Some(what) => {
                let why = format!("what runs is a stand-in: {what}");
                Performed { proven: Proven::Not(why), ..Performed::new(summary) }
            }
            None => Performed::new(summary),
        })
    }

    fn stop(&self, service: &str, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let driver = self.drivers.service(service).map_err(failure)?;
        let ended = self.on_service(at, |context| driver.service.stop(context)).map_err(service_failure)?;
        Ok(Performed::new(match (ended.was_running, ended.killed) {
            (false, _) => "was not running".to_owned(),
            (true, 0) => "stopped".to_owned(),
            (true, killed) => format!("stopped; {killed} processes had to be killed"),
        }))
    }

    fn on_service<T>(&self, at: &StepContext<'_>, act: impl FnOnce(&service::Context<'_>) -> T) -> T {
        let cancel = at.cancel_flag();
        act(&service::Context {
            place: &self.place,
            state: self.drivers.state(),
            timeout: at.time_left().unwrap_or(SERVICE_TIMEOUT),
            cancel: &cancel,
            secrets: self.drivers.secrets(),
        })
    }

    fn ask_running(&self, service: &str, at: &StepContext<'_>) -> Answer {
        let driver = match self.drivers.service(service) {
            Ok(driver) => driver,
            Err(error) => return Answer::Fatal(error.to_string()),
        };
        match self.on_service(at, |context| driver.service.status(context)) {
            service::Status::Running { since } => Answer::Holds(
                since.map_or_else(|| "it runs".to_owned(), |since| format!("it runs since {since}")),
            ),
            service::Status::Stopped => Answer::Fails("it is stopped".into()),
            service::Status::Failed { why } => Answer::Fails(why),
            service::Status::Unknown { why } => Answer::Unknown(why),
        }
    }

    /// Asks a service's gate; what answers over the network must be this service and no other.
    fn ask_gate(&self, service: &str, at: &StepContext<'_>) -> Answer {
        let driver = match self.drivers.service(service) {
            Ok(driver) => driver,
            Err(error) => return Answer::Fatal(error.to_string()),
        };
        match &driver.gate {
            None => self.ask_running(service, at),
            Some(Gate::Checks(names)) => self.ask_all(names, at),
            Some(Gate::Own(check)) => {
                let served = self.on_service(at, |context| driver.service.served(context));
                self.ask(check, served.ok().as_ref(), at)
            }
        }
    }

    fn ask(&self, driver: &CheckDriver, served_by: Option<&Served>, at: &StepContext<'_>) -> Answer {
        let cancel = at.cancel_flag();
        // A little less than there is: whoever is cut off can only say that it was interrupted, and not that nobody answered.
        let left = at.time_left().map(|left| left.saturating_sub(ANSWER_MARGIN.min(left / 10)));
        let context = AskContext {
            timeout: left.map_or(driver.timeout, |left| left.min(driver.timeout)),
            cancel: &cancel,
            secrets: self.drivers.secrets(),
            served_by,
        };
        match driver.check.ask(&self.place, &context) {
            check::Answer::Holds { detail } => Answer::Holds(detail),
            check::Answer::Fails { why, expected, found } => {
                Answer::Fails(format!("{why}: expected {expected}, found {found}"))
            }
            check::Answer::Unknown { why } => Answer::Unknown(why),
            check::Answer::Fatal { why } => Answer::Fatal(why),
        }
    }

    /// Looks a second time, once each service has been up for a while.
    fn steady(&self, services: &[String], at: &StepContext<'_>) -> Result<Performed, Failure> {
        let newest = self.started.lock().expect("nobody panics while noting").values().max().copied();
        while newest.is_some_and(|start| start.elapsed() < STEADY_AFTER) {
            if at.is_cancelled() {
                return Err(Failure::interrupted("ended while it waited for a second look"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for service in services {
            let answer = match self.ask_running(service, at) {
                Answer::Holds(_) => self.ask_gate(service, at),
                other => other,
            };
            match answer {
                Answer::Holds(_) => {}
                Answer::Unknown(why) => {
                    return Err(Failure::not_proven(format!("whether {service} still runs: {why}")));
                }
                Answer::Fails(why) | Answer::Fatal(why) => {
                    return Err(Failure::failed(format!("{service} was ready and is not any more: {why}")));
                }
            }
        }
        let summary =
            format!("{} still up {} s after the start", services.join(", "), STEADY_AFTER.as_secs());
        Ok(Performed { proven: Proven::Shown(summary.clone()), ..Performed::new(summary) })
    }

    fn run(&self, script: &str, step: At, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let command = self.drivers.run_command(step, script).map_err(failure)?;
        let secrets = self.drivers.secrets();
        let cancel: Arc<AtomicBool> = at.cancel_flag();
        let tell = |_: Stream, line: &str| at.progress(&Progress::Line(secrets.mask(line)));
        let mut limits = Limits::timeout(at.time_left().unwrap_or(Duration::from_secs(600)));
        limits.cancel = Some(&cancel);
        limits.on_line = Some(&tell);
        let finished = self.place.run(&command, &limits).map_err(|error| failure(error.into()))?;
        let said = secrets.mask(&format!("{}{}", finished.out.text(), finished.err.text()));
        if !finished.success() {
            let why = match last_lines(&said).as_str() {
                "" => format!("the command {}", finished.end),
                said => format!("the command {}: {said}", finished.end),
            };
            return Err(if cancel.load(Ordering::Relaxed) {
                Failure::interrupted(why)
            } else {
                Failure::failed(why)
            });
        }
        let mut summary = last_lines(&said).lines().last().unwrap_or("done").to_owned();
        if finished.left_behind > 0 {
            summary += &format!(" ({} processes that it left behind were killed)", finished.left_behind);
        }
        Ok(Performed::new(summary))
    }

    fn notify(&self, step: At, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let messages = self.drivers.messages(step).map_err(failure)?;
        let mut told = Vec::new();
        for message in messages {
            match &message.send {
                Send::Command(command) => {
                    let finished = self
                        .place
                        .run(command, &Limits::timeout(at.time_left().unwrap_or(NOTIFY_TIMEOUT)))
                        .map_err(|error| failure(error.into()))?;
                    if !finished.success() {
                        let said = self.drivers.secrets().mask(&finished.err.text());
                        let why =
                            format!("{} was not told: the command {}: {said}", message.channel, finished.end);
                        return Err(Failure::failed(why));
                    }
                }
                Send::Http(check) => match self.ask(check, None, at) {
                    Answer::Holds(_) => {}
                    other => {
                        let why = format!("{} was not told: {}", message.channel, other.detail());
                        return Err(Failure::failed(why));
                    }
                },
            }
            told.push(message.channel.as_str());
        }
        Ok(match told.as_slice() {
            [] => Performed::new("the plan names nobody to tell"),
            told => Performed::new(format!("told {}", told.join(", "))),
        })
    }

    fn question(&self, question: Question, at: &StepContext<'_>) -> Answer {
        match question {
            Question::Checks(names) => self.ask_all(&names, at),
            Question::Inline(position) => match self.drivers.inline(position) {
                Some(check) => self.ask(check, None, at),
                None => Answer::Fatal("the plan has no such question".into()),
            },
            Question::Gate(service) => self.ask_gate(&service, at),
            Question::Running(service) => self.ask_running(&service, at),
        }
    }

    fn ask_all(&self, names: &[String], at: &StepContext<'_>) -> Answer {
        let mut held = Vec::new();
        for name in names {
            match self.ask_check(name, at) {
                Answer::Holds(detail) => held.push(format!("{name}: {detail}")),
                Answer::Fails(why) => return Answer::Fails(format!("{name}: {why}")),
                Answer::Fatal(why) => return Answer::Fatal(format!("{name}: {why}")),
                Answer::Unknown(why) => return Answer::Unknown(format!("{name}: {why}")),
            }
        }
        Answer::Holds(held.join("; "))
    }

    fn ask_check(&self, name: &str, at: &StepContext<'_>) -> Answer {
        match self.drivers.check(name) {
            Ok(check) => self.ask(check, None, at),
            Err(error) => Answer::Fatal(error.to_string()),
        }
    }
}

impl Actions for Performer<'_> {
    fn perform(&self, action: &Action, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let work = read(action).map_err(Failure::could_not_run)?;
        self.work(work, at)
    }

    fn ask(&self, check: &Action, at: &StepContext<'_>) -> Answer {
        match read(check) {
            Ok(question) => self.question(question, at),
            Err(why) => Answer::Fatal(why),
        }
    }

    fn probe(&self, action: &Action, _: &StepContext<'_>) -> Probe {
        match read(action) {
            // All of these find out by themselves what is done already.
            Ok(
                Work::Fetch(_)
                | Work::Replay(_)
                | Work::Prove(_)
                | Work::Compare(_)
                | Work::Swap { .. }
                | Work::Discard { .. }
                | Work::Start { .. }
                | Work::Stop { .. }
                | Work::Steady { .. }
                | Work::Backup(_)
                | Work::Copy { .. }
                | Work::Forget { .. }
                | Work::Disaster { .. }
                | Work::Control { .. }
                | Work::Note { .. }
                | Work::NotHere { .. },
            ) => Probe::NotDone,
            // The language demands that these are safe to run twice, or say when they are done.
            Ok(Work::Run { .. } | Work::Notify { .. }) => Probe::NotDone,
            // What was damaged once is not damaged again: a restore test is begun anew.
            Ok(Work::Notice { .. }) => Probe::Unknown,
            Err(_) => Probe::Unknown,
        }
    }

    fn undo(&self, action: &Action, _: &Performed, at: &StepContext<'_>) -> Result<Undone, Failure> {
        match read(action).map_err(Failure::could_not_run)? {
            Work::Swap { restored, swap } => {
                let driver = self.drivers.component(&restored.component).map_err(failure)?;
                let cancel = at.cancel_flag();
                self.beside(driver, || driver.undo_swap(&restored.parts, &restored.recorded, &cancel))
                    .map_err(failure)?
                    .map_err(|error| failure(Error::component(&restored.component)(error)))?;
                self.place
                    .within(|| swap.rollback(&mut |_, _| Ok(())))
                    .map_err(|error| failure(error.into()))?
                    .map_err(|error| failure(Error::component(&restored.component)(error)))?;
                Ok(Undone::Done(format!("{} is what it was before", restored.component)))
            }
            _ => Ok(Undone::Nothing),
        }
    }
}

/// What a proof makes of the step.
fn judge(component: &str, proof: &Proof) -> Result<Performed, Failure> {
    let told = |holds: fn(&Holds) -> bool| -> Vec<String> {
        let those = proof.shown.iter().filter(|shown| holds(&shown.holds));
        those
            .map(|shown| match &shown.holds {
                Holds::Unknown(why) => format!("{} is not known: {why}", shown.what),
                _ => format!("{} is {}, expected {}", shown.what, shown.found, shown.expected),
            })
            .collect()
    };
    match proof.outcome() {
        Shown::Failed => {
            let wrong = told(|holds| *holds == Holds::No);
            Err(Failure::failed(format!(
                "{component} as restored is not what was backed up: {}; what is there was not touched",
                wrong.join("; ")
            )))
        }
        Shown::Proven => {
            let summary = proven_summary(proof);
            Ok(Performed { proven: Proven::Shown(summary.clone()), ..Performed::new(summary) }
                .with_output(json!({ "shown": proof.shown })))
        }
        Shown::NotProven => {
            let unknown = told(|holds| matches!(holds, Holds::Unknown(_)));
            let why = match unknown.as_slice() {
                [] => format!("nothing of {component} was shown"),
                unknown => unknown.join("; "),
            };
            Ok(Performed { proven: Proven::Not(why.clone()), ..Performed::new(why) })
        }
    }
}

/// What was shown, the plan's own facts by name; the whole list is in the step's output.
fn proven_summary(proof: &Proof) -> String {
    let declared = proof.shown.iter().filter_map(|shown| {
        let name = shown.what.strip_prefix("fact ")?;
        Some(format!("{name} {}", shown.found))
    });
    let all = format!("{} of {} comparisons hold", proof.shown.len(), proof.shown.len());
    std::iter::once(all).chain(declared).collect::<Vec<_>>().join(", ")
}

/// Removes a file, link or directory; tells whether there was one.
fn remove(path: &Path) -> estate::Result<bool> {
    let is_there = path.symlink_metadata().is_ok();
    estate::swap::remove(path)?;
    Ok(is_there)
}

/// What an error of the engine makes of a step.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(crate) fn failure(error: Error) -> Failure {
    match &error {
        Error::Repository(repository::Error::Interrupted)
        | Error::Component { source: estate::Error::Interrupted, .. } => Failure::interrupted("interrupted"),
        Error::Refused { message, hint } => Failure::could_not_run(format!("{message}; {hint}")),
        Error::Plan(_) | Error::Unknown(_) | Error::Late(_) => Failure::could_not_run(error.to_string()),
        Error::Component {
            source: estate::Error::InUse { .. } | estate::Error::OtherIdentity { .. },
            ..
        } => Failure::could_not_run(error.to_string()),
        _ if is_full(&error) => Failure::failed(format!("{error}; free space there")),
        _ => Failure::failed(error.to_string()),
    }
}

/// What to do when something cannot be removed in a twin.
fn what_keeps_it(error: &estate::Error, is_root: bool) -> &'static str {
    use rustix::io::Errno;
    let errno = match error {
        estate::Error::Io { source, .. } => Errno::from_io_error(source),
        _ => None,
    };
    match errno {
        // An overlay that notes that something is gone needs a directory of its own, which can belong to this user only.
        Some(Errno::OVERFLOW | Errno::ACCESS | Errno::PERM) if !is_root => {
            "something of it belongs to another user, and an ordinary user's twin cannot write there: run the drill as \
             root, or as the user whom all of it belongs to"
        }
        Some(Errno::BUSY) => {
            "a file system is mounted below it, and neither a disaster nor a recovery can take its place: declare what \
             is beside that as the component, by itself"
        }
        _ => "mend that, and run the drill again",
    }
}

/// Whether a disk has no room for what was to be written.
fn is_full(error: &Error) -> bool {
    match error {
        Error::Repository(repository::Error::Store(error)) => error.kind == store::ErrorKind::Full,
        Error::Repository(repository::Error::Io { source, .. })
        | Error::Component { source: estate::Error::Io { source, .. }, .. }
        | Error::Io { source, .. } => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        _ => false,
    }
}

/// What an error of a service makes of a step: what cannot be rehearsed here is not proven.
fn service_failure(error: service::Error) -> Failure {
    match error {
        service::Error::NotHere { .. } => Failure::not_proven(error.to_string()),
        service::Error::Interrupted => Failure::interrupted("interrupted"),
        other => Failure::failed(other.to_string()),
    }
}

fn first_lines(text: &str) -> String {
    text.lines().take(OUTPUT_LINES_MAX).collect::<Vec<_>>().join("\n")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(OUTPUT_LINES_MAX)..].join("\n")
}

/// Hands the progress of the repository's work to the live view, now and then.
struct Teller<'a, 'b> {
    at: &'a StepContext<'b>,
    task: Task,
    done: AtomicU64,
    total: AtomicU64,
    told: Mutex<Instant>,
}

/// How often the live view is told of progress.
const TELL_EVERY: Duration = Duration::from_millis(100);

impl<'a, 'b> Teller<'a, 'b> {
    fn new(at: &'a StepContext<'b>, task: Task) -> Self {
        let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { at, task, done, total, told: Mutex::new(Instant::now()) }
    }
}

impl Observer for Teller<'_, '_> {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Expect { task, bytes, .. } if task == self.task => {
                self.total.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Advance { task, bytes, .. } if task == self.task => {
                let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                // Whoever finds it locked leaves the telling to the one that has the lock.
                if let Ok(mut told) = self.told.try_lock()
                    && told.elapsed() >= TELL_EVERY
                {
                    *told = Instant::now();
                    let total = Some(self.total.load(Ordering::Relaxed)).filter(|total| *total >= done);
                    self.at.progress(&Progress::Amount { done, total, unit: Unit::Bytes });
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::what_keeps_it;

    #[test]
    fn what_cannot_be_removed_in_a_twin_has_a_remedy() {
        let check = |errno: Errno, is_root, told: &str| {
            let (action, path) = ("remove", "/srv/app/data".into());
            let error = estate::Error::Io { action, path, source: errno.into() };
            let said = what_keeps_it(&error, is_root);
            assert!(said.contains(told), "{error}: {said}");
        };
        check(Errno::OVERFLOW, false, "run the drill as root");
        check(Errno::ACCESS, false, "run the drill as root");
        check(Errno::BUSY, false, "a file system is mounted below it");
        check(Errno::BUSY, true, "a file system is mounted below it");
        check(Errno::OVERFLOW, true, "mend that");
        check(Errno::IO, true, "mend that");
    }
}
