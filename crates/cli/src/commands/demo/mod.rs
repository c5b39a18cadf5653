//! `lifeboat demo`: a small real estate is backed up by a plan, destroyed, recovered, proved, and rehearsed in a twin.
//!
//! `estate` makes and destroys it, `service` serves it, `proof` looks at it with eyes of its own: it shares no code with
//! the engine, so that one cannot hide the other's mistakes.

mod estate;
mod proof;
pub mod service;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engine::execute::Finished;
use engine::recover::{RecoverOptions, execute_preview, preview};
use engine::resolve::Mode;
use engine::site::Site;
use engine::{diagnose, drill, protect};
use repository::format::Chunking;
use repository::{Clock, Id, InitOptions, Repository};
use runbook::Outcome;
use serde::Serialize;
use store::Local;

use super::run;
use crate::access::{KEY_COST, author};
use crate::environment;
use crate::estate::PlanArgs;
use crate::live::Live;
use crate::outcome::{Answer, Done, Explained, Failure, Verdict};
use crate::ui::{Style, Ui, printable_path};
use crate::units::{count, counted, duration};
use proof::Tree;

/// See it all: an estate is backed up, destroyed, recovered and rehearsed
///
/// Makes a small shop in a temporary directory: a SQLite database with thousands of orders behind an HTTP service, and its
/// configuration. Backs it up by a plan, destroys it for real, diagnoses, recovers it step by step, and compares every
/// row and every file with what was there. Then it rehearses the same disaster in a twin of this machine while
/// the service goes on serving. Needs no network and no set-up, and takes everything away again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat demo
  lifeboat demo --keep /tmp/demo    leave plan, estate and repository there, to play with")]
pub struct Args {
    /// Work in this directory, which must not exist or be empty, and leave it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// So many differences are named; more would only scroll by.
const DIFFERENCES_SHOWN: usize = 10;

/// What was done, with figures as measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    orders: u64,
    files: u64,
    destroyed: u64,
    checks_failing: u64,
    recovery: Option<engine::runs::Record>,
    rows_are_back: bool,
    files_differing: u64,
    drill: Option<engine::runs::Record>,
    drill_impossible: Option<String>,
    answered_during_drill: u64,
    unanswered_during_drill: u64,
    changed_by_drill: u64,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    // Before the first thread: an ordinary user needs a user namespace for the twin, which only a single thread can
    // enter.
    let may_drill = match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => place::enter_user_namespace().map_err(|error| error.to_string()),
    };
    let place = Directory::make(args.keep.as_deref())?;
    let shop = place.path.join("shop");
    let mut report = Report::default();
    let heading = |text: &str| ui.talk(format!("\n{}", ui.paint(Style::Bold, text)));

    heading("A small estate")?;
    estate::make(&shop)?;
    let site = open(&place, ui)?;
    report.orders = estate::ORDERS.unsigned_abs();
    report.files = estate::FILES;
    ui.talk(format!(
        "{} orders in a SQLite database behind an HTTP service, {} of configuration, one plan",
        count(report.orders),
        counted(report.files, "file", "files"),
    ))?;
    expect(&recover(&site, "first-start", ui)?)?;
    let before = (estate::rows(&shop.join("orders.db"))?, Tree::read(&shop.join("config"))?);

    heading("Backed up by its plan")?;
    let live = Live::new(ui, &site.who, None);
    let backed_up = protect::backup(&site, &[], false, run::conduct(&live));
    drop(live);
    expect(&backed_up?)?;

    heading("The disaster")?;
    report.destroyed = estate::destroy(&shop)?;
    ui.talk(format!("{} are overwritten or gone", counted(report.destroyed, "file", "files")))?;
    let diagnosis = diagnose::diagnose(&site, &[], &Arc::new(AtomicBool::new(false)))?;
    for asked in diagnosis.asked.iter().filter(|asked| !matches!(asked.answer, runbook::Answer::Holds(_))) {
        report.checks_failing += 1;
        ui.talk(format!("{} {}: {}", ui.paint(Style::Red, "✗"), asked.name, asked.answer.detail()))?;
    }
    let Some((scenario, _)) = diagnosis.scenarios.first().cloned() else {
        return Ok(report.done(&place, ui));
    };
    ui.talk(format!("the scenario that fits: {scenario}"))?;

    heading("Recovered")?;
    let recovered = recover(&site, &scenario, ui)?;
    tell_clocks(ui, &site, &recovered)?;
    report.recovery = Some(recovered.record);
    let after = (estate::rows(&shop.join("orders.db"))?, Tree::read(&shop.join("config"))?);
    report.rows_are_back = after.0 == before.0;
    let differences = before.1.differences(&after.1);
    report.files_differing = differences.len() as u64;
    for difference in differences.iter().take(DIFFERENCES_SHOWN) {
        ui.problem(&difference.path.to_string_lossy(), &difference.what);
    }
    if report.rows_are_back && report.files_differing == 0 {
        let text = format!(
            "all {} rows and {} files are what they were, by a comparison of its own",
            count(after.0.1),
            count(report.files)
        );
        ui.talk(format!("{} {text}", ui.paint(Style::Green, "✓")))?;
    }

    heading("Rehearsed in a twin, while the shop goes on")?;
    match may_drill {
        Ok(()) => rehearse(&site, &place, &scenario, &mut report, ui)?,
        Err(why) => {
            ui.talk(format!("not possible here: {why}"))?;
            report.drill_impossible = Some(why);
        }
    }
    Ok(report.done(&place, ui))
}

/// Makes the repository and the plan, and opens both.
fn open(place: &Directory, ui: &Ui) -> Result<Site, Failure> {
    let password = Id::random().to_hex();
    let path = place.path.join("password");
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, password.as_bytes()));
    written.map_err(|error| Failure::other(format!("failed to write {}: {error}", path.display())))?;
    let store = Arc::new(Local::open(place.path.join("repository"))?);
    let options =
        InitOptions { chunking: Chunking::Gear, polynomial: None, cost: KEY_COST, author: author() };
    Repository::init(store, password.as_bytes(), &options, Clock::system())?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::other(format!("failed to find this program: {error}")))?;
    let file = place.path.join("lifeboat.yaml");
    let plan = estate::plan(&program.to_string_lossy(), free_port()?);
    std::fs::write(&file, plan)
        .map_err(|error| Failure::other(format!("failed to write {}: {error}", file.display())))?;
    let args = PlanArgs { plan: Some(file), environment: None, state: Some(place.path.join("state")) };
    args.open(ui)
}

fn free_port() -> Result<u16, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::other(format!("failed to find a free port: {error}")))
}

fn recover(site: &Site, scenario: &str, ui: &Ui) -> Result<Finished, Failure> {
    let objective = site.plan.scenario(scenario).map_err(engine::Error::from)?.rto;
    let preview = preview(site, scenario, Mode::Disaster, &RecoverOptions::default())?;
    let live = Live::new(ui, &site.who, objective);
    let finished = execute_preview(site, preview, run::conduct(&live));
    drop(live);
    Ok(finished?)
}

/// What the rest of the demo stands on must have gone well.
fn expect(finished: &Finished) -> Result<(), Failure> {
    match finished.outcome() {
        Outcome::Verified => Ok(()),
        _ => Err(Failure::other(finished.record.reasons.join("; "))),
    }
}

fn tell_clocks(ui: &Ui, site: &Site, finished: &Finished) -> Result<(), Failure> {
    let record = &finished.record;
    let scenario = record.scenario.as_deref().and_then(|name| site.plan.scenarios.get(name));
    let seconds = |seconds: f64| duration(Duration::from_secs_f64(seconds.max(0.0)));
    if let Some(measured) = record.rto_seconds {
        let objective = scenario.and_then(|scenario| scenario.rto).map(duration).unwrap_or_default();
        ui.talk(format!("RTO {} measured, {objective} allowed", seconds(measured)))?;
    }
    if let Some(measured) = record.rpo_seconds {
        let allowed = site.plan.components.get("orders").and_then(|orders| orders.rpo).map(duration);
        let allowed = allowed.unwrap_or_default();
        ui.talk(format!("RPO {} measured, {allowed} allowed", seconds(measured)))?;
    }
    Ok(())
}

/// Runs the drill while a customer asks for the orders again and again.
fn rehearse(
    site: &Site,
    place: &Directory,
    scenario: &str,
    report: &mut Report,
    ui: &Ui,
) -> Result<(), Failure> {
    let shop = place.path.join("shop");
    let before = (estate::rows(&shop.join("orders.db"))?, Tree::read(&shop.join("config"))?);
    let port = port_of(&site.plan_text)?;
    let (answered, unanswered, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let preview = preview(site, scenario, Mode::Drill, &RecoverOptions::default())?;
    let objective = site.plan.scenario(scenario).map_err(engine::Error::from)?.rto;
    let drilled = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let counter = if is_served(port) { &answered } else { &unanswered };
                counter.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let live = Live::new(ui, &site.who, objective);
        let drilled = drill::execute_preview(site, preview, run::conduct(&live));
        drop(live);
        stop.store(true, Ordering::Relaxed);
        drilled
    });
    let drilled = match drilled {
        Ok(drilled) => drilled,
        Err(error @ engine::Error::Place(_)) => {
            ui.talk(format!("not possible here: {error}"))?;
            report.drill_impossible = Some(error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let after = (estate::rows(&shop.join("orders.db"))?, Tree::read(&shop.join("config"))?);
    report.answered_during_drill = answered.into_inner();
    report.unanswered_during_drill = unanswered.into_inner();
    report.changed_by_drill = before.1.differences(&after.1).len() as u64 + u64::from(before.0 != after.0);
    ui.talk(format!("the twin was up after {}", duration(drilled.twin.took)))?;
    tell_clocks(ui, site, &drilled.finished)?;
    ui.talk(format!(
        "meanwhile the shop answered {} of {} requests, and not a byte of it changed",
        count(report.answered_during_drill),
        count(report.answered_during_drill + report.unanswered_during_drill),
    ))?;
    report.drill = Some(drilled.finished.record);
    Ok(())
}

/// The port that the plan made for itself.
fn port_of(plan: &str) -> Result<u16, Failure> {
    plan.split("http://127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .and_then(|port| port.parse().ok())
        .ok_or_else(|| Failure::other("the demo's plan names no port"))
}

/// Asks as a customer would.
fn is_served(port: u16) -> bool {
    use std::io::{Read, Write};
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /orders HTTP/1.1\r\nHost: shop\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200")
            && answer.ends_with(&format!("{{\"orders\": {}}}", estate::ORDERS)))
    };
    ask().unwrap_or(false)
}

impl Report {
    fn done(&self, place: &Directory, ui: &Ui) -> Done {
        place.leave(ui);
        Done::new(self.verdict(), self)
    }

    fn verdict(&self) -> Verdict {
        let explained = |why: &str| Explained::new(why, "repeat it with `lifeboat demo --keep DIR` and look");
        let (Some(recovery), drill) = (&self.recovery, &self.drill) else {
            return Verdict::Failed(explained("the checks did not notice the disaster, so no scenario fits"));
        };
        if recovery.outcome != Outcome::Verified {
            return Verdict::Failed(explained(&recovery.reasons.join("; ")));
        }
        if !self.rows_are_back || self.files_differing > 0 {
            return Verdict::Failed(explained(
                "what came back is not what was there, and the recovery did not notice",
            ));
        }
        match (drill, &self.drill_impossible) {
            (Some(drill), _) if drill.outcome != Outcome::Verified => {
                Verdict::Failed(explained(&drill.reasons.join("; ")))
            }
            (Some(_), _) if self.changed_by_drill > 0 || self.unanswered_during_drill > 0 => {
                Verdict::Failed(explained("the drill was noticed by the live estate"))
            }
            (Some(_), _) if self.answered_during_drill == 0 => {
                Verdict::NotProven(explained("nobody asked the shop during the drill"))
            }
            (Some(_), _) => Verdict::Verified,
            (None, why) => {
                let why = why.as_deref().unwrap_or("the rehearsal did not take place");
                Verdict::NotProven(explained(&format!("recovered and proved, but not rehearsed: {why}")))
            }
        }
    }
}

impl From<proof::Error> for Failure {
    fn from(error: proof::Error) -> Self {
        Self::other(error.to_string())
    }
}

/// Where the demo takes place; its service is stopped and it is taken away when dropped, unless it is to be kept.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let path = match keep {
            Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            None => {
                let base = environment::path("TMPDIR").unwrap_or_else(|| "/tmp".into());
                base.join(format!("lifeboat-demo-{}", Id::random().short()))
            }
        };
        let fail =
            |error: std::io::Error| Failure::other(format!("failed to make {}: {error}", path.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail)?;
        if std::fs::read_dir(&path).map_err(fail)?.next().is_some() {
            let message = format!("{} is not empty", path.display());
            return Err(Failure::usage(message, "name a directory that does not exist yet"));
        }
        let path = path.canonicalize().map_err(fail)?;
        Ok(Self { path, keep: keep.is_some() })
    }

    fn leave(&self, ui: &Ui) {
        if !self.keep {
            return;
        }
        let path = printable_path(&self.path);
        ui.tell(&format!("\nleft in {path}, with the shop running; try"));
        ui.tell(&format!("  cd {path} && lifeboat status --state state"));
        ui.tell("  lifeboat drill server-lost --state state");
        ui.tell("  RESTIC_PASSWORD_FILE=password restic -r repository snapshots");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        stop_services(&self.path.join("state/services"));
        // What cannot be removed is left in the system's temporary directory, where it harms nobody.
        let _left = std::fs::remove_dir_all(&self.path);
    }
}

/// Stops whatever the demo's runs have started.
fn stop_services(state: &Path) {
    let shop = estate_service();
    let (cancel, secrets) = (AtomicBool::new(false), ::estate::secrets::Secrets::default());
    let place = place::Place::host();
    let context = ::estate::service::Context {
        place: &place,
        state,
        timeout: Duration::from_secs(10),
        cancel: &cancel,
        secrets: &secrets,
    };
    // A service that is not there any more needs no stopping.
    let _gone = shop.stop(&context);
}

/// The shop as far as is needed to stop it.
fn estate_service() -> ::estate::service::Service {
    let process = ::estate::service::Process {
        command: place::Command::new("true", [""; 0]),
        grace: ::estate::service::GRACE,
        settle: ::estate::service::SETTLE,
    };
    ::estate::service::Service::new("shop", ::estate::service::Kind::Process(process))
        .expect("shop is a plain name")
}
