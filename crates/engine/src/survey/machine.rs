//! What runs on the machine: which program has which file open, who listens where, which units are enabled.
//!
//! Whatever may not be seen is not there; an ordinary user sees the open files of the own processes only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Database, Later, LaterKind, Listener, Redis, Unit, begins_like_a_database, open_regular};

/// More open databases elsewhere than this are not worth telling.
const ELSEWHERE_MAX: usize = 20;
/// A unit is a few hundred bytes.
const UNIT_BYTES_MAX: u64 = 64 * 1024;

/// The processes, as they were at one look.
#[derive(Debug, Default)]
pub(super) struct Machine {
    processes: Vec<Process>,
    /// Ports at which something listens, with the socket's number.
    ports: BTreeSet<(u16, u64)>,
}

#[derive(Debug)]
struct Process {
    program: String,
    files: Vec<PathBuf>,
    sockets: Vec<u64>,
    /// Where it works, if that may be seen and is a directory of this process's file systems, too.
    cwd: Option<PathBuf>,
    works_here: bool,
}

fn is_postgres(program: &str) -> bool {
    matches!(program, "postgres" | "postmaster")
}

impl Machine {
    /// Looks at `proc`; `dirs` are what is of interest.
    pub(super) fn look(proc: &Path, dirs: &[PathBuf]) -> Self {
        let own = std::process::id();
        let numbers = fs::read_dir(proc).into_iter().flatten().flatten();
        let processes = numbers
            .filter(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
                    .is_some_and(|pid: u32| pid != own)
            })
            .map(|entry| Process::look(&entry.path(), dirs))
            .collect();
        let tables =
            ["net/tcp", "net/tcp6"].map(|name| fs::read_to_string(proc.join(name)).unwrap_or_default());
        let ports = tables.iter().flat_map(|table| table.lines().filter_map(listening)).collect();
        Self { processes, ports }
    }

    /// The programs that have this file open.
    pub(super) fn programs_with(&self, path: &Path) -> Vec<String> {
        let holders = self.processes.iter().filter(|process| process.files.iter().any(|file| file == path));
        holders.map(|process| process.program.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Open databases among the files that `wanted` picks.
    pub(super) fn databases(&self, wanted: impl Fn(&Path) -> bool) -> Vec<(PathBuf, Vec<String>)> {
        let files: BTreeSet<&PathBuf> = self.processes.iter().flat_map(|process| &process.files).collect();
        let of_programs = |path: &Path| {
            path.components()
                .any(|part| part.as_os_str().to_str().is_some_and(|name| super::SKIPPED_DIRS.contains(&name)))
        };
        files
            .into_iter()
            .filter(|path| wanted(path) && !of_programs(path))
            .filter(|path| matches!(begins_like_a_database(path), Ok(Some(_))))
            .take(ELSEWHERE_MAX)
            .map(|path| (path.clone(), self.programs_with(path)))
            .collect()
    }

    /// Redis servers, by the directories in which they work, which are those of their data.
    pub(super) fn redis(&self) -> Vec<Redis> {
        let servers = self.processes.iter().filter(|process| is_redis(&process.program));
        let one = |process: &Process| {
            let data = process.cwd.clone()?;
            Some(Redis { data, port: self.ports_of(process).min(), program: process.program.clone() })
        };
        servers.filter_map(one).collect()
    }

    /// Servers that there is no driver for yet, and those of which not enough may be seen.
    pub(super) fn servers(&self) -> Vec<Later> {
        let kind = |process: &Process| match process.program.as_str() {
            program if is_redis(program) && process.cwd.is_none() => Some(LaterKind::Redis),
            _ => None,
        };
        let seen = |process: &Process| {
            let ports: BTreeSet<u16> = self.ports_of(process).collect();
            let at = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            if at.is_empty() {
                format!("{} runs", process.program)
            } else {
                format!("{} listens at port {at}", process.program)
            }
        };
        self.processes
            .iter()
            .filter_map(|process| Some(Later { kind: kind(process)?, seen: seen(process) }))
            .collect()
    }

    /// The data directories in which a PostgreSQL server works; and whether there is one of which that may not be seen.
    pub(super) fn clusters(&self) -> (BTreeSet<PathBuf>, bool) {
        let servers = || self.processes.iter().filter(|process| is_postgres(&process.program));
        let directories = servers().filter_map(|process| process.cwd.clone());
        let directories = directories.filter(|directory| super::is_cluster(directory)).collect();
        (directories, servers().any(|process| process.cwd.is_none()))
    }

    /// Everything that listens.
    pub(super) fn listeners(&self, databases: &[Database]) -> Vec<Listener> {
        let mut listeners: BTreeMap<u16, Listener> = BTreeMap::new();
        for (port, socket) in &self.ports {
            let process = self.processes.iter().find(|process| process.sockets.contains(socket));
            let program = process.map(|process| process.program.clone());
            let holds =
                |process: &Process| databases.iter().any(|database| process.files.contains(&database.path));
            let belongs = process.is_some_and(|process| process.works_here || holds(process));
            let listener =
                listeners.entry(*port).or_insert(Listener { port: *port, program: None, belongs: false });
            listener.belongs |= belongs;
            listener.program = listener.program.take().or(program);
        }
        listeners.into_values().collect()
    }

    fn ports_of<'m>(&'m self, process: &'m Process) -> impl Iterator<Item = u16> + 'm {
        self.ports.iter().filter(|(_, socket)| process.sockets.contains(socket)).map(|(port, _)| *port)
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    id(one).is_some() && id(one) == id(other)
}

fn is_redis(program: &str) -> bool {
    matches!(program, "redis-server" | "valkey-server")
}

impl Process {
    fn look(dir: &Path, dirs: &[PathBuf]) -> Self {
        let program = fs::read(dir.join("comm")).unwrap_or_default();
        let program = String::from_utf8_lossy(&program).trim_end_matches('\n').to_owned();
        let link = dir.join("cwd");
        let cwd = fs::read_link(&link).ok();
        let works_here = cwd.as_ref().is_some_and(|cwd| dirs.iter().any(|dir| cwd.starts_with(dir)));
        // In a container it may be called as something else is here.
        let cwd = cwd.filter(|cwd| is_same(cwd, &link));
        let (mut files, mut sockets) = (Vec::new(), Vec::new());
        for descriptor in fs::read_dir(dir.join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let socket = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            match socket {
                Some(socket) => sockets.push(socket),
                None if target.is_absolute()
                    && !target.starts_with("/dev")
                    && !target.starts_with("/proc") =>
                {
                    files.push(target);
                }
                None => {}
            }
        }
        Self { program, files, sockets, cwd, works_here }
    }
}

/// The port and the socket of a line of `/proc/net/tcp` that describes a listening socket.
fn listening(line: &str) -> Option<(u16, u64)> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    if *state != LISTEN {
        return None;
    }
    let port = u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()?;
    Some((port, inode.parse().ok()?))
}

/// The services in `dir` that somebody wrote there (not a link to the distribution's) and enabled.
pub(super) fn units(dir: &Path, dirs: &[PathBuf], remarks: &mut Vec<String>) -> Vec<Unit> {
    let entries: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let wanting: Vec<&PathBuf> = entries
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "wants" || ending == "requires"))
        .collect();
    let mut units = Vec::new();
    for path in &entries {
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(name) = file.strip_suffix(".service") else { continue };
        let enabled = wanting.iter().any(|wants| fs::symlink_metadata(wants.join(file)).is_ok());
        let own = match fs::read_link(path) {
            Ok(target) => !["/lib", "/usr/lib", "/dev"].iter().any(|system| target.starts_with(system)),
            Err(_) => true,
        };
        if !enabled || !own {
            continue;
        }
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => {
                remarks.push(format!("could not read {}: {error}", path.display()));
                String::new()
            }
        };
        units.push(Unit { name: name.to_owned(), belongs: works_in(&text, dirs) });
    }
    units.sort_by(|a, b| a.name.cmp(&b.name));
    units
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some((file, _)) = open_regular(path)? {
        file.take(UNIT_BYTES_MAX).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a unit's working directory or program lies in one of the directories.
fn works_in(unit: &str, dirs: &[PathBuf]) -> bool {
    unit.lines().any(|line| {
        let Some((key, value)) = line.split_once('=') else { return false };
        let first = value.split_ascii_whitespace().next().unwrap_or_default();
        let path = first.trim_start_matches(['-', '@', ':', '+', '!']);
        matches!(key.trim(), "WorkingDirectory" | "ExecStart")
            && dirs.iter().any(|dir| Path::new(path).starts_with(dir))
    })
}
