//! Looking at a machine for what a first plan should name: databases, configuration, services, ports.
//!
//! Only looks: nothing is written, no symlink below a given directory is followed, and nothing but regular files is
//! opened, so that a pipe cannot make it wait. Whatever was not looked at is a remark in [`Found`], never silence.
//! Command lines and variables of processes are not read: they may hold secrets.
//!
//! `tables` looks into SQLite databases, `machine` at processes, ports and units of systemd.

mod machine;
mod tables;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::{Error, Result};
use machine::Machine;
pub(crate) use tables::query as query_of_rows;

/// Where to look, and for how long.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The directories that are looked through.
    pub dirs: Vec<PathBuf>,
    /// Paths that are never looked into, such as the repository's.
    pub leave_out: Vec<PathBuf>,
    /// The kernel's file system of processes, `/proc`.
    pub proc: PathBuf,
    /// Where the administrator's own units of systemd are, `/etc/systemd/system`.
    pub units: PathBuf,
    /// How deep below each directory.
    pub depth_max: usize,
    /// How many files and directories are looked at.
    pub entries_max: usize,
    /// How long all of it may take.
    pub patience: Duration,
}

impl Survey {
    /// Looks through `dirs` of this machine, eight levels deep, at 200 000 entries and for 20 s at most: enough for an
    /// application's directory, and little enough that somebody waits for it.
    pub fn of(dirs: Vec<PathBuf>) -> Self {
        Self {
            dirs,
            leave_out: Vec::new(),
            proc: PathBuf::from("/proc"),
            units: PathBuf::from("/etc/systemd/system"),
            depth_max: 8,
            entries_max: 200_000,
            patience: Duration::from_secs(20),
        }
    }
}

/// What was found; all paths are absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The directories that were looked through.
    pub dirs: Vec<PathBuf>,
    /// SQLite databases in them.
    pub databases: Vec<Database>,
    /// PostgreSQL clusters in them, and those in which a server works elsewhere on the machine.
    pub clusters: Vec<Cluster>,
    /// SQLite databases elsewhere that a process has open, with the names of the programs.
    pub elsewhere: Vec<(PathBuf, Vec<String>)>,
    /// Redis servers that run.
    pub redis: Vec<Redis>,
    /// Files and directories of configuration.
    pub config: Vec<PathBuf>,
    /// Files of `NAME=VALUE` lines.
    pub env_files: Vec<PathBuf>,
    /// What lies directly in the directories and is none of the above.
    pub others: Vec<PathBuf>,
    /// What Lifeboat has no driver for yet.
    pub later: Vec<Later>,
    /// Units of systemd that the administrator wrote and enabled.
    pub units: Vec<Unit>,
    /// TCP ports at which something listens.
    pub listeners: Vec<Listener>,
    /// What was not looked at, and why.
    pub remarks: Vec<String>,
}

/// A SQLite database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its file.
    pub path: PathBuf,
    /// The file's size.
    pub bytes: u64,
    /// Tables that have rows, and how many, the most first.
    pub tables: Vec<(String, u64)>,
    /// Why its tables are not known, or not all of them.
    pub untold: Option<String>,
    /// The names of the programs that have it open.
    pub programs: Vec<String>,
}

/// A PostgreSQL cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cluster {
    /// Its data directory.
    pub data: PathBuf,
    /// Whether a server works in it.
    pub runs: bool,
}

/// A Redis server that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// The directory in which it works: its data.
    pub data: PathBuf,
    /// The port at which it listens, if it does.
    pub port: Option<u16>,
    /// Its program's name.
    pub program: String,
}

/// Something that Lifeboat has no driver for yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Later {
    /// What it is.
    pub kind: LaterKind,
    /// Where or how it was seen.
    pub seen: String,
}

/// What Lifeboat knows of and has no driver for yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaterKind {
    /// Redis' data, or a server of which not enough may be seen.
    Redis,
    /// Containers described by a compose file.
    Compose,
}

/// A unit of systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name without `.service`.
    pub name: String,
    /// Whether it runs a program in, or from, one of the directories that were looked through.
    pub belongs: bool,
}

/// A TCP port at which something listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// The program's name, where it may be seen.
    pub program: Option<String>,
    /// Whether that program works in one of the directories, or has a database there open.
    pub belongs: bool,
}

/// What the first bytes of every SQLite database are.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The smallest page, and so the smallest database.
const DATABASE_BYTES_MIN: u64 = 512;
/// More databases than this are no plan that a person reads.
const DATABASES_MAX: usize = 40;
/// How deep below a given directory configuration is looked for.
const CONFIG_DEPTH_MAX: usize = 3;

/// Directories whose content is made anew, or belongs to somebody else's program.
const SKIPPED_DIRS: &[&str] = &[
    ".cache",
    ".cargo",
    ".git",
    ".hg",
    ".mozilla",
    ".npm",
    ".rustup",
    ".snapshots",
    ".svn",
    ".thunderbird",
    ".tox",
    ".venv",
    "Cache",
    "Trash",
    "__pycache__",
    "chromium",
    "google-chrome",
    "lost+found",
    "node_modules",
    "venv",
];
/// Directories of the distribution below `/var/lib`, and of engines that keep others' files there.
const SKIPPED_OF_VAR_LIB: &[&str] = &[
    "NetworkManager",
    "PackageKit",
    "apt",
    "command-not-found",
    "containerd",
    "containers",
    "dnf",
    "docker",
    "dpkg",
    "fwupd",
    "kubelet",
    "lifeboat",
    "man-db",
    "mlocate",
    "pacman",
    "plocate",
    "rpm",
    "snapd",
    "systemd",
];
const CONFIG_DIRS: &[&str] = &["conf", "conf.d", "config", "k8s", "kubernetes", "manifests"];
const CONFIG_FILES: &[&str] = &[
    "Caddyfile",
    "haproxy.cfg",
    "litestream.yml",
    "mosquitto.conf",
    "nginx.conf",
    "prometheus.yml",
    "redis.conf",
    "settings.toml",
    "supervisord.conf",
    "traefik.yml",
];
/// Directories that the system may clear.
const TEMPORARY: &[&str] = &["/tmp", "/var/tmp", "/dev/shm"];
/// What a copy that somebody once made is called at its end.
const COPY_ENDINGS: &[&str] = &[".bak", ".old", ".orig", ".backup", ".copy", "~"];

/// Looks.
///
/// # Errors
/// A directory that was given and cannot be read.
pub fn look(survey: &Survey) -> Result<Found> {
    let mut walk = Walk {
        survey,
        deadline: Instant::now() + survey.patience,
        entries: 0,
        candidates: Vec::new(),
        found: Found::default(),
    };
    for dir in &survey.dirs {
        let root = fs::canonicalize(dir).map_err(Error::io("look at", dir))?;
        // Told here, because below a directory that cannot be read is a remark only.
        fs::read_dir(&root).map_err(Error::io("look into", &root))?;
        walk.found.dirs.push(root);
    }
    for root in walk.found.dirs.clone() {
        walk.tree(&root);
    }
    let machine = Machine::look(&survey.proc, &walk.found.dirs);
    Ok(walk.conclude(&machine))
}

struct Walk<'s> {
    survey: &'s Survey,
    deadline: Instant,
    entries: usize,
    candidates: Vec<(PathBuf, u64)>,
    found: Found,
}

impl Walk<'_> {
    fn tree(&mut self, root: &Path) {
        let mut open = vec![(root.to_owned(), 0)];
        while let Some((dir, depth)) = open.pop() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) => {
                    self.remark(format!("could not look into {}: {error}", dir.display()));
                    continue;
                }
            };
            if dir.join("CACHEDIR.TAG").exists() && depth > 0 || is_repository(&dir) {
                continue;
            }
            let mut entries: Vec<_> = entries.flatten().collect();
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self.entries += 1;
                if self.entries > self.survey.entries_max || Instant::now() > self.deadline {
                    self.remark(format!(
                        "stopped in {}: there is more here than is looked at; name the directories",
                        dir.display()
                    ));
                    return;
                }
                let path = entry.path();
                let Ok(kind) = entry.file_type() else { continue };
                if self.survey.leave_out.contains(&path) {
                    continue;
                }
                if kind.is_dir() && !is_skipped(&path) {
                    self.directory(&path, depth);
                    if is_cluster(&path) {
                        // What lies in it is the server's.
                        self.found.clusters.push(Cluster { data: path.clone(), runs: false });
                    } else if depth + 1 < self.survey.depth_max {
                        open.push((path.clone(), depth + 1));
                    } else {
                        self.remark(format!("did not look into {}: too deep", path.display()));
                    }
                } else if kind.is_file() {
                    self.file(&path, depth);
                }
                if depth == 0 && (kind.is_dir() || kind.is_file()) {
                    self.found.others.push(path);
                }
            }
        }
    }

    fn directory(&mut self, path: &Path, depth: usize) {
        if depth < CONFIG_DEPTH_MAX && name_of(path).is_some_and(|name| CONFIG_DIRS.contains(&name)) {
            self.found.config.push(path.to_owned());
        }
    }

    fn file(&mut self, path: &Path, depth: usize) {
        let name = name_of(path).unwrap_or_default();
        let yaml = name.ends_with(".yml") || name.ends_with(".yaml");
        let example = [".example", ".sample", ".template", ".dist"].iter().any(|end| name.ends_with(end));
        // At any depth, because a directory that holds one must not be kept with its values.
        if (name == ".env" || name.starts_with(".env.")) && !example {
            self.found.env_files.push(path.to_owned());
        } else if depth >= CONFIG_DEPTH_MAX {
            // Deeper down it is somebody else's.
        } else if yaml && (name.starts_with("docker-compose") || name.starts_with("compose.")) {
            self.found.config.push(path.to_owned());
            let seen = format!("containers are described in {}", path.display());
            self.found.later.push(Later { kind: LaterKind::Compose, seen });
        } else if CONFIG_FILES.contains(&name) {
            self.found.config.push(path.to_owned());
        } else if name == "dump.rdb" || name == "appendonly.aof.manifest" {
            let seen = format!("its data is in {}", path.display());
            self.found.later.push(Later { kind: LaterKind::Redis, seen });
        }
        match begins_like_a_database(path) {
            Ok(None) => {}
            Ok(Some(_)) if is_a_copy(path) => {
                self.remark(format!("left out {}: its name is that of a copy", path.display()));
            }
            Ok(Some(_)) if self.candidates.len() >= DATABASES_MAX => {
                self.remark(format!(
                    "left out the database {}: there are more than {DATABASES_MAX}",
                    path.display()
                ));
            }
            Ok(Some(bytes)) => self.candidates.push((path.to_owned(), bytes)),
            Err(error) => self.remark(format!("could not look at {}: {error}", path.display())),
        }
    }

    fn conclude(mut self, machine: &Machine) -> Found {
        for (path, bytes) in std::mem::take(&mut self.candidates) {
            let programs = machine.programs_with(&path);
            let (tables, untold) = tables::count(&path, !programs.is_empty(), self.deadline);
            self.found.databases.push(Database { path, bytes, tables, untold, programs });
        }
        let found = &mut self.found;
        let (running, unseen) = machine.clusters();
        for cluster in &mut found.clusters {
            cluster.runs = running.contains(&cluster.data);
        }
        let known: Vec<PathBuf> = found.clusters.iter().map(|cluster| cluster.data.clone()).collect();
        // What works in a temporary directory is somebody's experiment, unless it was asked for.
        let lasts = |path: &&PathBuf| !TEMPORARY.iter().any(|temporary| path.starts_with(temporary));
        let elsewhere = running.iter().filter(|data| !known.contains(data)).filter(lasts);
        found.clusters.extend(elsewhere.map(|data| Cluster { data: data.clone(), runs: true }));
        found.clusters.sort();
        if unseen {
            let remark = "a PostgreSQL server runs whose data directory may not be seen: do this as root";
            found.remarks.push(remark.to_owned());
        }
        found.redis = machine.redis();
        // A directory with a live database or with secrets in it is not to be taken as it is.
        let alone = |path: &PathBuf| {
            let databases = found.databases.iter().map(|database| &database.path).chain(&known);
            !databases.chain(&found.env_files).any(|inside| inside.starts_with(path) && inside != path)
        };
        let config: Vec<PathBuf> = found.config.iter().filter(|path| alone(path)).cloned().collect();
        let within = |path: &PathBuf| config.iter().any(|other| path != other && path.starts_with(other));
        found.config = config.iter().filter(|path| !within(path)).cloned().collect();
        let covered: Vec<&PathBuf> = found
            .databases
            .iter()
            .map(|database| &database.path)
            .chain(&known)
            .chain(found.redis.iter().map(|server| &server.data))
            .chain(&found.config)
            .chain(&found.env_files)
            .collect();
        let companions = |path: &Path| {
            let text = path.as_os_str().as_encoded_bytes();
            [&b"-wal"[..], b"-shm", b"-journal"].iter().any(|end| {
                text.strip_suffix(*end).is_some_and(|stem| {
                    covered.iter().any(|path| path.as_os_str().as_encoded_bytes() == stem)
                })
            })
        };
        let others: Vec<PathBuf> = found
            .others
            .iter()
            .filter(|path| !covered.contains(path) && !companions(path))
            .cloned()
            .collect();
        found.others = others;
        found.elsewhere = machine.databases(|path| !found.dirs.iter().any(|dir| path.starts_with(dir)));
        let of_a_server = |later: &Later| {
            let data = found.redis.iter().map(|server| server.data.display().to_string() + "/");
            later.kind == LaterKind::Redis && data.into_iter().any(|data| later.seen.contains(&data))
        };
        found.later.retain(|later| !of_a_server(later));
        found.later.extend(machine.servers());
        found.listeners = machine.listeners(&found.databases);
        found.units = machine::units(&self.survey.units, &found.dirs, &mut found.remarks);
        for list in [&mut found.config, &mut found.env_files] {
            list.sort();
            list.dedup();
        }
        found.databases.sort_by(|a, b| a.path.cmp(&b.path));
        found.databases.dedup_by(|a, b| a.path == b.path);
        found.later.sort();
        found.later.dedup();
        self.found
    }

    fn remark(&mut self, text: String) {
        /// So many remarks say enough.
        const MAX: usize = 50;
        if self.found.remarks.len() < MAX {
            self.found.remarks.push(text);
        }
    }
}

/// Opens what is a regular file, without following a link and without waiting; `None` for anything else.
fn open_regular(path: &Path) -> std::io::Result<Option<(File, u64)>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let found = file.metadata()?;
    Ok(found.is_file().then_some((file, found.len())))
}

/// The size of a file that begins as a SQLite database does.
///
/// It is closed before SQLite opens it: closing a descriptor drops this process's locks on the file.
fn begins_like_a_database(path: &Path) -> std::io::Result<Option<u64>> {
    if fs::symlink_metadata(path)?.len() < DATABASE_BYTES_MIN {
        return Ok(None);
    }
    let Some((mut file, bytes)) = open_regular(path)? else { return Ok(None) };
    let mut start = [0; MAGIC.len()];
    match file.read_exact(&mut start) {
        Ok(()) => Ok((start == *MAGIC).then_some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn is_skipped(path: &Path) -> bool {
    let in_var_lib = path.parent() == Some(Path::new("/var/lib"));
    let kernel = ["/proc", "/sys", "/dev", "/run"].iter().any(|other| path == Path::new(other));
    kernel
        || name_of(path).is_some_and(|name| {
            SKIPPED_DIRS.contains(&name) || in_var_lib && SKIPPED_OF_VAR_LIB.contains(&name)
        })
}

fn is_a_copy(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains(".before-") || COPY_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a directory is the data directory of a PostgreSQL cluster.
fn is_cluster(dir: &Path) -> bool {
    dir.join("PG_VERSION").is_file() && dir.join("global/pg_control").is_file()
}

/// Whether a directory is a repository of Lifeboat or restic.
fn is_repository(dir: &Path) -> bool {
    ["config", "keys", "snapshots", "index", "data"].iter().all(|name| dir.join(name).exists())
}
