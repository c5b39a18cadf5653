//! What a unit amounts to where there is no systemd: what is run and how, what is left out, and what forbids it. Pure.
//!
//! Three kinds of directives are told apart. Those that are stood in for are in [`APPLIED`] and read here. Those without
//! which something else would run than on the host are in [`FORBIDDING`]: with one of them nothing is shown. All others
//! only take something away from the service or bound it (sandboxing, limits, priorities): they are notes.

use std::path::Path;
use std::time::Duration;

use super::exec::{self, Exec, Specifiers};
use super::text::{is_variable, words};
use super::unit::{Unit, span};

/// How long systemd waits for a start and for a stop, unless the unit says otherwise.
const PATIENCE: Duration = Duration::from_secs(90);

/// Directives of `[Service]` that are applied, or that change nothing about whether the service works.
const APPLIED: &[&str] = &[
    "BusName",
    "CacheDirectory",
    "CacheDirectoryMode",
    "ConfigurationDirectory",
    "ConfigurationDirectoryMode",
    "Delegate",
    "DynamicUser",
    "Environment",
    "EnvironmentFile",
    "ExecCondition",
    "ExecReload",
    "ExecStart",
    "ExecStartPost",
    "ExecStartPre",
    "ExecStop",
    "ExecStopPost",
    "Group",
    "GuessMainPID",
    "KillMode",
    "KillSignal",
    "LogLevelMax",
    "LogsDirectory",
    "LogsDirectoryMode",
    "NotifyAccess",
    "PIDFile",
    "RemainAfterExit",
    "Restart",
    "RestartForceExitStatus",
    "RestartPreventExitStatus",
    "RestartSec",
    "RuntimeDirectory",
    "RuntimeDirectoryMode",
    "RuntimeDirectoryPreserve",
    "SendSIGKILL",
    "Slice",
    "StandardError",
    "StandardInput",
    "StandardOutput",
    "StateDirectory",
    "StateDirectoryMode",
    "SuccessExitStatus",
    "SupplementaryGroups",
    "SyslogIdentifier",
    "TimeoutSec",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "Type",
    "UMask",
    "UnsetEnvironment",
    "User",
    "WorkingDirectory",
];

/// Directives of `[Service]` without which something else would run.
const FORBIDDING: &[(&str, &str)] = &[
    ("AmbientCapabilities", "it gives the service rights that a twin's commands do not get"),
    ("BindPaths", "the service sees other files than the twin has"),
    ("BindReadOnlyPaths", "the service sees other files than the twin has"),
    ("ExtensionDirectories", "the service sees other files than the twin has"),
    ("ExtensionImages", "the service sees other files than the twin has"),
    ("ImportCredential", "systemd hands the service credentials"),
    ("LoadCredential", "systemd hands the service credentials"),
    ("LoadCredentialEncrypted", "systemd hands the service credentials"),
    ("MountImages", "the service sees other files than the twin has"),
    ("NetworkNamespacePath", "the service has a network of its own"),
    ("OpenFile", "systemd hands the service open files"),
    ("PAMName", "the service needs a session of PAM"),
    ("RootDirectory", "the service sees other files than the twin has"),
    ("RootImage", "the service sees other files than the twin has"),
    ("SetCredential", "systemd hands the service credentials"),
    ("SetCredentialEncrypted", "systemd hands the service credentials"),
    ("Sockets", "systemd hands the service its sockets"),
    ("StandardInputText", "systemd hands the service its input"),
];

/// What becomes of a unit without systemd.
#[derive(Debug, Clone, Default)]
pub(super) struct Rehearsal {
    pub kind: Kind,
    pub conditions: Vec<Condition>,
    pub requires: Vec<String>,
    pub exec_condition: Vec<Exec>,
    pub before: Vec<Exec>,
    pub main: Vec<Exec>,
    pub after: Vec<Exec>,
    pub stop: Vec<Exec>,
    pub after_stop: Vec<Exec>,
    pub environment: Vec<(String, String)>,
    /// Patterns of files, and whether one may be missing.
    pub environment_files: Vec<(String, bool)>,
    pub unset: Vec<String>,
    pub directories: Vec<Directory>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub groups: Vec<String>,
    pub working_directory: Option<String>,
    /// Whether the working directory may be missing.
    pub anywhere: bool,
    pub umask: u32,
    pub keeps_runtime_directory: bool,
    /// The name of the signal that asks it to end, without `SIG`; none for SIGTERM.
    pub kill_signal: Option<String>,
    /// Codes other than 0 by which a command says that it went well.
    pub good_codes: Vec<i32>,
    /// `None` is for ever.
    pub start_within: Option<Duration>,
    pub stop_within: Option<Duration>,
    /// What of the unit is not applied.
    pub notes: Vec<String>,
    /// Why a rehearsal would show nothing.
    pub reasons: Vec<String>,
}

/// When systemd takes the service for started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// At once: `simple`, `exec`, `idle`.
    #[default]
    Lasting,
    /// When it says so.
    Notify,
    /// When its first process has ended.
    Forking {
        /// The file in which it writes the number of the process that stays.
        pid_file: Option<String>,
    },
    /// When all of it is done.
    Oneshot {
        /// It counts as running then.
        remains: bool,
    },
}

/// A condition of `[Unit]` on a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    /// The directive, `ConditionPathExists`.
    pub key: String,
    pub path: String,
    pub negated: bool,
}

/// A directory that systemd makes for the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    /// The whole path.
    pub path: String,
    /// The variable in which the service finds it.
    pub variable: &'static str,
    pub mode: u32,
    /// Whether it belongs to the user of the service; else to root.
    pub is_own: bool,
}

impl Rehearsal {
    /// Reads a unit; what is wrong with it, or cannot be stood in for, is among the reasons.
    pub fn of(unit: &Unit, specifiers: &Specifiers) -> Rehearsal {
        let mut reader = Reader { unit, specifiers, made: Rehearsal::default() };
        reader.read_kind();
        reader.read_commands();
        reader.read_environment();
        reader.read_user();
        reader.read_directories();
        reader.read_times();
        reader.read_surroundings();
        reader.read_requirements();
        reader.made
    }
}

struct Reader<'a> {
    unit: &'a Unit,
    specifiers: &'a Specifiers,
    made: Rehearsal,
}

impl Reader<'_> {
    fn read_kind(&mut self) {
        let unit = self.unit;
        let has_start = !unit.list("Service", "ExecStart").is_empty();
        let remains = unit.is_on("Service", "RemainAfterExit");
        let default = match (unit.last("Service", "BusName"), has_start) {
            (Some(_), _) => "dbus",
            (None, true) => "simple",
            (None, false) => "oneshot",
        };
        self.made.kind = match unit.last("Service", "Type").unwrap_or(default) {
            "simple" | "exec" | "idle" if remains => {
                self.reason(
                    "it counts as running after its end (RemainAfterExit with a Type that lasts)".into(),
                );
                Kind::Lasting
            }
            "simple" | "exec" | "idle" => Kind::Lasting,
            "notify" | "notify-reload" => Kind::Notify,
            "forking" => Kind::Forking { pid_file: self.one("PIDFile") },
            "oneshot" => Kind::Oneshot { remains },
            "dbus" => {
                self.reason("it says by D-Bus that it is ready (Type=dbus), and there is no D-Bus".into());
                Kind::Lasting
            }
            other => {
                self.reason(format!("it is of a type that is not known here (Type={other})"));
                Kind::Lasting
            }
        };
    }

    fn read_commands(&mut self) {
        self.made.exec_condition = self.commands("ExecCondition");
        self.made.before = self.commands("ExecStartPre");
        self.made.main = self.commands("ExecStart");
        self.made.after = self.commands("ExecStartPost");
        self.made.stop = self.commands("ExecStop");
        self.made.after_stop = self.commands("ExecStopPost");
        match (&self.made.kind, self.made.main.len()) {
            (Kind::Oneshot { .. }, _) | (_, 1) => {}
            (_, 0) => self.reason("it has no ExecStart".into()),
            (_, count) => self.reason(format!("it has {count} ExecStart, and systemd refuses that")),
        }
    }

    fn commands(&mut self, key: &str) -> Vec<Exec> {
        let mut commands = Vec::new();
        for value in self.unit.list("Service", key) {
            match exec::parse(value, self.specifiers) {
                Ok(parsed) => commands.extend(parsed),
                Err(why) => self.reason(format!("its {key} cannot be understood: {why}")),
            }
        }
        commands
    }

    fn read_environment(&mut self) {
        for word in self.words("Environment") {
            match word.split_once('=') {
                Some((name, value)) if is_variable(name) => {
                    self.made.environment.push((name.to_owned(), value.to_owned()));
                }
                _ => self.note(format!("Environment={word:?}, which is no variable")),
            }
        }
        for value in self.unit.list("Service", "EnvironmentFile") {
            let (path, may_miss) = value.strip_prefix('-').map_or((value, false), |path| (path, true));
            if let Some(path) = self.expanded("EnvironmentFile", path) {
                self.made.environment_files.push((path, may_miss));
            }
        }
        self.made.unset = self.words("UnsetEnvironment");
    }

    fn read_user(&mut self) {
        self.made.user = self.one("User");
        self.made.group = self.one("Group");
        self.made.groups = self.words("SupplementaryGroups");
        if self.unit.is_on("Service", "DynamicUser") {
            self.reason("systemd makes up a user for it (DynamicUser)".into());
        }
    }

    fn read_directories(&mut self) {
        const KINDS: [(&str, &str, &str, bool); 5] = [
            ("RuntimeDirectory", "RUNTIME_DIRECTORY", "/run", true),
            ("StateDirectory", "STATE_DIRECTORY", "/var/lib", true),
            ("CacheDirectory", "CACHE_DIRECTORY", "/var/cache", true),
            ("LogsDirectory", "LOGS_DIRECTORY", "/var/log", true),
            ("ConfigurationDirectory", "CONFIGURATION_DIRECTORY", "/etc", false),
        ];
        for (key, variable, parent, is_own) in KINDS {
            let mode = self.octal(&format!("{key}Mode"), 0o755);
            for word in self.words(key) {
                let (name, link) =
                    word.split_once(':').map_or((word.as_str(), false), |(name, _)| (name, true));
                if link {
                    self.reason(format!("it wants a link to a directory ({key}={word})"));
                }
                if name.starts_with('/') || name.split('/').any(|part| part == "..") {
                    self.reason(format!("{key}={word} leaves {parent}, and systemd refuses that"));
                    continue;
                }
                let path = format!("{parent}/{name}");
                self.made.directories.push(Directory { path, variable, mode, is_own });
            }
        }
        let preserve = self.unit.last("Service", "RuntimeDirectoryPreserve").unwrap_or("no");
        self.made.keeps_runtime_directory = !["no", "0", "false", "off", "n", "f"].contains(&preserve);
    }

    fn read_times(&mut self) {
        let both = self.unit.last("Service", "TimeoutSec");
        let start = self.unit.last("Service", "TimeoutStartSec").or(both);
        let stop = self.unit.last("Service", "TimeoutStopSec").or(both);
        let default = (!matches!(self.made.kind, Kind::Oneshot { .. })).then_some(PATIENCE);
        // No time at all and what is no span are no bound.
        let bound = |text: &str| span(text).filter(|span| !span.is_zero());
        self.made.start_within = start.map_or(default, bound);
        self.made.stop_within = stop.map_or(Some(PATIENCE), bound);
        let signal = self.unit.last("Service", "KillSignal").map(|name| name.trim_start_matches("SIG"));
        self.made.kill_signal = signal.filter(|name| !["TERM", "15"].contains(name)).map(str::to_owned);
        let codes = self.words("SuccessExitStatus");
        self.made.good_codes = codes.iter().filter_map(|code| code.parse().ok()).collect();
    }

    fn read_surroundings(&mut self) {
        self.made.umask = self.octal("UMask", 0o022);
        if let Some(directory) = self.one("WorkingDirectory") {
            let path = directory.strip_prefix('-');
            self.made.anywhere = path.is_some();
            self.made.working_directory = Some(path.unwrap_or(&directory).to_owned());
        }
        match self.unit.last("Service", "StandardInput") {
            None | Some("null") => {}
            Some(input) => {
                self.reason(format!("systemd hands the service its input (StandardInput={input})"));
            }
        }
        let mut left_out = Vec::new();
        for key in self.unit.keys("Service") {
            let forbidden = FORBIDDING.iter().find(|(known, _)| *known == key);
            match forbidden {
                // Root has no more of these rights by them than without.
                Some(("AmbientCapabilities", _)) if self.made.user.as_deref().is_none_or(is_root) => {
                    left_out.push(key);
                }
                Some((_, why)) => self.made.reasons.push(format!("{why} ({key})")),
                None if !APPLIED.contains(&key) && !key.starts_with("X-") => left_out.push(key),
                None => {}
            }
        }
        if !left_out.is_empty() {
            let note = format!("without {}", left_out.join(", "));
            self.note(note);
        }
    }

    fn read_requirements(&mut self) {
        let unit = self.unit;
        let mut required = unit.requires.clone();
        for key in ["Requires", "Requisite", "BindsTo"] {
            required.extend(self.words_of("Unit", key));
        }
        for required in required {
            match required.rsplit_once('.').map(|(_, suffix)| suffix) {
                Some("service") => self.made.requires.push(required),
                Some("socket") => {
                    self.reason(format!("systemd hands the service its sockets (it requires {required})"));
                }
                Some("device") => self.reason(format!("it requires {required}, and a twin has no devices")),
                // What is mounted on the host is there in the twin; all others only put services in order.
                _ => {}
            }
        }
        let wanted = self.words_of("Unit", "Wants");
        let wanted: Vec<String> = wanted.into_iter().filter(|unit| unit.ends_with(".service")).collect();
        if !wanted.is_empty() {
            self.note(format!("without what it only wants: {}", wanted.join(", ")));
        }
        self.read_conditions();
    }

    fn read_conditions(&mut self) {
        let mut unasked = Vec::new();
        for key in self.unit.keys("Unit") {
            let Some(question) = key.strip_prefix("Condition").or_else(|| key.strip_prefix("Assert")) else {
                continue;
            };
            for value in self.unit.list("Unit", key) {
                // With a bar, one of several has to hold.
                if value.starts_with('|') || holds(question, Path::new("/")).is_none() {
                    unasked.push(format!("{key}={value}"));
                    continue;
                }
                let (negated, path) = value.strip_prefix('!').map_or((false, value), |path| (true, path));
                if let Ok(path) = self.specifiers.expand(path.trim()) {
                    self.made.conditions.push(Condition { key: key.to_owned(), path, negated });
                }
            }
        }
        if !unasked.is_empty() {
            self.note(format!("{} not asked", unasked.join(", ")));
        }
    }

    fn words(&mut self, key: &str) -> Vec<String> {
        self.words_of("Service", key)
    }

    fn words_of(&mut self, section: &str, key: &str) -> Vec<String> {
        let mut found = Vec::new();
        for value in self.unit.list(section, key) {
            let split = words(value).and_then(|words| {
                words.iter().map(|word| self.specifiers.expand(word)).collect::<Result<Vec<_>, _>>()
            });
            match split {
                Ok(words) => found.extend(words),
                Err(why) => self.reason(format!("its {key} cannot be understood: {why}")),
            }
        }
        found
    }

    fn one(&mut self, key: &str) -> Option<String> {
        let value = self.unit.last("Service", key)?;
        self.expanded(key, value)
    }

    fn expanded(&mut self, key: &str, value: &str) -> Option<String> {
        let expanded = self.specifiers.expand(value);
        expanded.map_err(|why| self.reason(format!("its {key} cannot be understood: {why}"))).ok()
    }

    fn octal(&mut self, key: &str, default: u32) -> u32 {
        let Some(text) = self.unit.last("Service", key) else { return default };
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
        mode.unwrap_or_else(|| {
            self.note(format!("{key}={text}, which is no mode"));
            default
        })
    }

    fn note(&mut self, note: String) {
        self.made.notes.push(note);
    }

    fn reason(&mut self, reason: String) {
        self.made.reasons.push(reason);
    }
}

/// Tells whether it names the superuser.
pub(super) fn is_root(user: &str) -> bool {
    ["root", "0"].contains(&user)
}

impl Condition {
    /// Tells whether it holds for the files that this thread sees.
    pub fn holds(&self) -> bool {
        let question = self.key.trim_start_matches("Condition").trim_start_matches("Assert");
        holds(question, Path::new(&self.path)) != Some(self.negated)
    }
}

/// Answers a condition on a path; `None` for those on other things.
fn holds(question: &str, path: &Path) -> Option<bool> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = path.metadata();
    let is = |wanted: fn(&std::fs::Metadata) -> bool| metadata.as_ref().is_ok_and(wanted);
    Some(match question {
        "PathExists" => metadata.is_ok(),
        "PathIsDirectory" => is(std::fs::Metadata::is_dir),
        "PathIsSymbolicLink" => path.is_symlink(),
        "DirectoryNotEmpty" => path.read_dir().is_ok_and(|mut entries| entries.next().is_some()),
        "FileNotEmpty" => is(|file| file.is_file() && file.len() > 0),
        "FileIsExecutable" => is(|file| file.is_file() && file.permissions().mode() & 0o111 != 0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Rehearsal {
        Rehearsal::of(&Unit::of_text(text).unwrap(), &Specifiers::new([('n', "web.service".into())]))
    }

    #[test]
    fn the_type_is_what_the_unit_says_or_implies() {
        for (text, kind) in [
            ("ExecStart=/bin/a", Kind::Lasting),
            ("ExecStart=/bin/a\nType=idle", Kind::Lasting),
            ("ExecStart=/bin/a\nType=notify", Kind::Notify),
            ("ExecStart=/bin/a\nType=forking", Kind::Forking { pid_file: None }),
            ("ExecStart=/bin/a\nExecStart=/bin/b\nType=oneshot", Kind::Oneshot { remains: false }),
            ("ExecStop=/bin/a\nRemainAfterExit=yes", Kind::Oneshot { remains: true }),
        ] {
            let read = read(&format!("[Service]\n{text}\n"));
            assert_eq!(read.kind, kind, "{text}");
            assert!(read.reasons.is_empty(), "{text}: {:?}", read.reasons);
        }
        let dbus = read("[Service]\nExecStart=/bin/a\nBusName=a.b\n");
        assert!(dbus.reasons[0].contains("Type=dbus"), "{:?}", dbus.reasons);
        let bad = read("[Service]\nExecStart=/bin/a\nExecStart=/bin/b\nType=simple\n");
        assert!(bad.reasons[0].contains("2 ExecStart"), "{:?}", bad.reasons);
    }

    #[test]
    fn what_only_bounds_the_service_is_a_note_and_what_changes_it_a_reason() {
        let text = "[Unit]\nWants=a.service b.target\nRequires=c.service d.target e.mount\nConditionVirtualization=no\n\
                    [Service]\nExecStart=/bin/a\nPrivateTmp=yes\nLimitNOFILE=99\nX-Own=1\nBindPaths=/a:/b\n\
                    AmbientCapabilities=CAP_NET_BIND_SERVICE\nLoadCredential=\n";
        let root = read(text);
        assert_eq!(
            root.notes,
            [
                "without PrivateTmp, LimitNOFILE, AmbientCapabilities",
                "without what it only wants: a.service",
                "ConditionVirtualization=no not asked"
            ]
        );
        assert_eq!(root.reasons, ["the service sees other files than the twin has (BindPaths)"]);
        assert_eq!(root.requires, ["c.service"]);
        let other = read(&format!("{text}User=web\n"));
        assert!(other.reasons.iter().any(|why| why.contains("AmbientCapabilities")), "{:?}", other.reasons);
    }

    #[test]
    fn times_signals_modes_and_directories_are_read() {
        let read = read(
            "[Service]\nExecStart=/bin/a\nTimeoutSec=5min\nTimeoutStopSec=infinity\nKillSignal=SIGQUIT\nUMask=077\n\
             StateDirectory=a b/c\nStateDirectoryMode=0700\nCacheDirectory=../x\nWorkingDirectory=-~\n\
             SuccessExitStatus=7 SIGKILL 8\nEnvironment=A=1 \"B=x y\" nonsense C=%n\n",
        );
        assert_eq!((read.start_within, read.stop_within), (Some(Duration::from_secs(300)), None));
        assert_eq!((read.kill_signal.as_deref(), read.umask), (Some("QUIT"), 0o077));
        let paths: Vec<_> = read.directories.iter().map(|made| (made.path.as_str(), made.mode)).collect();
        assert_eq!(paths, [("/var/lib/a", 0o700), ("/var/lib/b/c", 0o700)]);
        assert!(read.reasons[0].contains("leaves /var/cache"), "{:?}", read.reasons);
        assert_eq!((read.working_directory.as_deref(), read.anywhere), (Some("~"), true));
        assert_eq!(read.good_codes, [7, 8]);
        let variables: Vec<_> = read.environment.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(variables, ["A=1", "B=x y", "C=web.service"]);
    }

    proptest! {
        #[test]
        fn no_unit_makes_it_panic(
            lines in proptest::collection::vec((0..200usize, "[-@%a-z/0=:$ \\\\'\"~!|.;]*"), 0..12)
        ) {
            let keys: Vec<&str> = APPLIED.iter().chain(FORBIDDING.iter().map(|(key, _)| key)).copied().collect();
            let of_unit = ["Requires", "Wants", "ConditionPathExists", "AssertFileNotEmpty"];
            let line = |(key, value): &(usize, String)| format!("{}={value}\n", keys[key % keys.len()]);
            let service: String = lines.iter().map(line).collect();
            let unit: String =
                lines.iter().map(|(key, value)| format!("{}={value}\n", of_unit[key % of_unit.len()])).collect();
            let read = read(&format!("[Unit]\n{unit}[Service]\n{service}"));
            let _ = read.conditions.iter().map(Condition::holds).collect::<Vec<_>>();
        }
    }
}
