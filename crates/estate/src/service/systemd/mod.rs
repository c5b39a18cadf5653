//! The service that is a unit of systemd.
//!
//! On the host everything goes through `systemctl`. A twin has no systemd: there the unit is read and run as a process.
//!
//! | module | what lives there |
//! |---|---|
//! | `text` | the syntax of unit files and environment files, words, quotes, escapes |
//! | `exec` | command lines: prefixes, specifiers, variables |
//! | `unit` | which files make up a unit, and what they say together |
//! | `rehearsal` | what a unit amounts to without systemd, and what forbids to rehearse it |
//! | `gathered` | what a rehearsal needs of the twin's files |
//! | `stage` | starting, asking and stopping it in a twin |

mod exec;
mod gathered;
mod rehearsal;
mod stage;
mod text;
mod unit;

use std::time::Duration;

use jiff::Timestamp;
use place::{Command, End, Finished};
use rustix::time::{ClockId, clock_gettime};

use super::process;
use super::{Context, Ended, Error, Identity, Started, Status, Systemd, Verb, how_it_ended};
use crate::by_hand::quoted;
use crate::served::{Family, Served};

/// What is asked of a unit.
const PROPERTIES: &str =
    "LoadState,ActiveState,SubState,Result,InvocationID,NRestarts,ControlGroup,ActiveEnterTimestampMonotonic";

/// Accepts names that systemd could know and that are no option.
pub(super) fn well_named(unit: &str) -> Result<(), Error> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if unit.is_empty() || unit.len() > 255 || unit.starts_with('-') || !unit.bytes().all(is_plain) {
        let why = "it is made of letters, digits and :-_.\\@, and does not begin with a hyphen";
        return Err(Error::BadName { name: unit.to_owned(), what: "a unit", why });
    }
    Ok(())
}

pub(super) fn start(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Started, Error> {
    if context.place.is_twin() {
        return stage::start(service, unit, context);
    }
    let already = matches!(status(service, unit, context), Status::Running { .. });
    if !already {
        forget_failures(unit, context)?;
        control(service, "start", unit, context)?;
    }
    Ok(Started { already, process: None, cleared: 0, stand_in: None, notes: Vec::new() })
}

pub(super) fn stop(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Ended, Error> {
    if context.place.is_twin() {
        return stage::stop(service, unit, context);
    }
    let was_running = matches!(status(service, unit, context), Status::Running { .. });
    control(service, "stop", unit, context)?;
    Ok(Ended { was_running, killed: 0 })
}

pub(super) fn restart(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Started, Error> {
    forget_failures(unit, context)?;
    control(service, "restart", unit, context)?;
    Ok(Started { already: false, process: None, cleared: 0, stand_in: None, notes: Vec::new() })
}

pub(super) fn status(service: &str, unit: &Systemd, context: &Context<'_>) -> Status {
    if context.place.is_twin() {
        return stage::status(service, unit, context);
    }
    match Shown::of(service, unit, context) {
        Ok(shown) => shown.status(&unit.unit),
        Err(error) => Status::Unknown { why: error.to_string() },
    }
}

pub(super) fn identity(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Identity, Error> {
    if context.place.is_twin() {
        return process::identity(service, context);
    }
    let shown = Shown::of(service, unit, context)?;
    match (shown.value("InvocationID"), shown.value("NRestarts").parse()) {
        // Old versions of systemd have neither.
        ("", _) | (_, Err(_)) => Ok(Identity::Nameless),
        (id, Ok(restarts)) => Ok(Identity::Invocation { id: id.to_owned(), restarts }),
    }
}

pub(super) fn served(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Served, Error> {
    if context.place.is_twin() {
        return process::served(service, context);
    }
    let shown = Shown::of(service, unit, context)?;
    match shown.value("ControlGroup") {
        "" | "/" => Err(Error::Failed {
            verb: "find the processes of",
            service: service.to_owned(),
            why: format!("{} has no control group, so it does not run", unit.unit),
        }),
        group => Ok(Served::new(service, Family::ControlGroup(group.to_owned()))),
    }
}

pub(super) fn by_hand(unit: &Systemd, verb: Verb) -> String {
    let user = if unit.user { " --user" } else { "" };
    let word = match verb {
        Verb::Start => "start",
        Verb::Stop => "stop",
        Verb::Restart => "restart",
        Verb::Status => "status",
    };
    let typed = |verb: &str| format!("systemctl{user} {verb} -- {}", quoted(&unit.unit));
    match verb {
        // See `forget_failures`.
        Verb::Start | Verb::Restart => format!("{}; {}", typed("reset-failed"), typed(word)),
        Verb::Stop | Verb::Status => typed(word),
    }
}

fn systemctl(unit: &Systemd, words: &[&str]) -> Command {
    let user = unit.user.then_some("--user");
    let words = user.into_iter().chain(words.iter().copied()).chain(["--", &unit.unit]);
    // Never ask, never page: there is nobody at the terminal, and there is no terminal.
    Command::new("systemctl", ["--no-ask-password", "--no-pager"].into_iter().chain(words)).env("LC_ALL", "C")
}

/// Makes systemd forget how often the unit failed: after a disaster it has usually restarted it until it gave up
/// (`StartLimitBurst=`), and would refuse to start what has been mended.
fn forget_failures(unit: &Systemd, context: &Context<'_>) -> Result<(), Error> {
    // It fails for units that are not loaded, of which there is nothing to forget.
    context.place.run(&systemctl(unit, &["reset-failed"]), &context.limits())?;
    Ok(())
}

fn control(
    service: &str,
    verb: &'static str,
    unit: &Systemd,
    context: &Context<'_>,
) -> Result<Finished, Error> {
    run(service, verb, &systemctl(unit, &[verb]), context)
}

fn run(
    service: &str,
    verb: &'static str,
    command: &Command,
    context: &Context<'_>,
) -> Result<Finished, Error> {
    let finished = context.place.run(command, &context.limits())?;
    match finished.end {
        End::Exited(0) => Ok(finished),
        End::Cancelled => Err(Error::Interrupted),
        _ => {
            let why = how_it_ended(&finished, context.secrets);
            Err(Error::Failed { verb, service: service.to_owned(), why })
        }
    }
}

/// What `systemctl show` printed: `NAME=VALUE`, a line each.
struct Shown(Vec<(String, String)>);

impl Shown {
    fn of(service: &str, unit: &Systemd, context: &Context<'_>) -> Result<Shown, Error> {
        let command = systemctl(unit, &["show", "--property", PROPERTIES]);
        let finished = run(service, "ask for", &command, context)?;
        Ok(Shown::parse(&finished.out.text()))
    }

    fn parse(text: &str) -> Shown {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Shown(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn status(&self, unit: &str) -> Status {
        match (self.value("LoadState"), self.value("ActiveState")) {
            ("not-found", _) => Status::Failed { why: format!("systemd knows no unit {unit}") },
            ("bad-setting" | "error", _) => Status::Failed { why: format!("systemd cannot load {unit}") },
            ("masked", "inactive") => Status::Failed { why: format!("{unit} is masked") },
            (_, "active" | "reloading") => Status::Running { since: self.since() },
            (_, "inactive") => Status::Stopped,
            (_, "failed") => Status::Failed {
                why: format!("{unit} failed: {}; see journalctl -u {unit}", self.value("Result")),
            },
            (_, state) => {
                Status::Unknown { why: format!("{unit} is {state:?} ({})", self.value("SubState")) }
            }
        }
    }

    /// Given as microseconds of the clock that counts from boot, which no setting of the time disturbs.
    fn since(&self) -> Option<Timestamp> {
        let then = Duration::from_micros(self.value("ActiveEnterTimestampMonotonic").parse().ok()?);
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
        Timestamp::now().checked_sub(now.checked_sub(then)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Shown, Status, Systemd, Verb, by_hand, systemctl, well_named};

    fn status(text: &str) -> Status {
        Shown::parse(text).status("web.service")
    }

    #[test]
    fn states_of_units_are_understood() {
        let running = status("LoadState=loaded\nActiveState=active\nActiveEnterTimestampMonotonic=1000\n");
        assert!(matches!(running, Status::Running { since: Some(_) }));
        assert!(matches!(status("LoadState=loaded\nActiveState=active\n"), Status::Running { since: None }));
        assert_eq!(status("LoadState=loaded\nActiveState=inactive"), Status::Stopped);
        for failed in [
            "LoadState=not-found\nActiveState=inactive",
            "LoadState=masked\nActiveState=inactive",
            "LoadState=loaded\nActiveState=failed\nResult=exit-code",
        ] {
            assert!(matches!(status(failed), Status::Failed { .. }), "{failed}");
        }
        for unknown in ["LoadState=loaded\nActiveState=activating\nSubState=start-pre", "", "nonsense"] {
            assert!(matches!(status(unknown), Status::Unknown { .. }), "{unknown}");
        }
    }

    #[test]
    fn a_unit_is_an_argument_and_never_an_option() {
        let unit = Systemd { unit: "web@a.service".into(), user: true, others: Vec::new() };
        let words: Vec<_> = systemctl(&unit, &["start"]).arguments;
        assert_eq!(words, ["--no-ask-password", "--no-pager", "--user", "start", "--", "web@a.service"]);
        assert_eq!(by_hand(&unit, Verb::Stop), "systemctl --user stop -- web@a.service");
        let start = "systemctl --user reset-failed -- web@a.service; systemctl --user start -- web@a.service";
        assert_eq!(by_hand(&unit, Verb::Start), start);
        for bad in ["", "--now", "a b", "a;b", "a/b"] {
            assert!(well_named(bad).is_err(), "{bad}");
        }
        assert!(well_named(r"dev-disk\x2dby.service").is_ok());
    }
}
