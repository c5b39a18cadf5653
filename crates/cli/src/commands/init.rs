//! `lifeboat init`

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use engine::first_plan::{self, Layout};
use engine::survey::{self, Found, Survey};
use repository::{Clock, InitOptions, Repository};
use store::{Local, Store as _};

use super::run;
use crate::access::{KEY_COST, author};
use crate::outcome::{Answer, Done, Failure};
use crate::password::Source;
use crate::ui::{Style, Ui, printable, printable_path};

/// Look at this machine, write a first plan, and make the repository
///
/// Looks for databases, configuration, services and ports, and writes what it found as a plan with comments: what is
/// sure as keys, the rest as remarks for you to decide. Reads only; no link is followed. Beside the plan it makes the
/// repository and the file with its password. Nothing that exists is ever overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat init                                        what is in this directory
  lifeboat init /srv/shop /etc/shop --output /etc/lifeboat/lifeboat.yaml
  sudo lifeboat init --system --yes                    what is in /srv, /opt, /var/lib and /etc")]
pub struct Args {
    /// Where to look; without one, in the current directory
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Look through /srv, /opt, /var/lib and /etc as well
    #[arg(long)]
    system: bool,
    /// The plan file that is written
    #[arg(short, long, value_name = "FILE", default_value = "lifeboat.yaml")]
    output: PathBuf,
    /// Do not ask before files are written
    #[arg(short, long)]
    yes: bool,
}

const REPOSITORY: &str = "lifeboat-repository";
const PASSWORD: &str = "lifeboat-password";
const SYSTEM_DIRS: [&str; 4] = ["/srv", "/opt", "/var/lib", "/etc"];

pub fn run(args: &Args, ui: &Ui) -> Answer {
    let files = Files::beside(&args.output)?;
    let dirs = dirs(args)?;
    let survey = Survey {
        leave_out: vec![files.plan.clone(), files.repository.clone(), files.password.clone()],
        ..Survey::of(dirs)
    };
    let found = survey::look(&survey)?;
    let name = match found.dirs.as_slice() {
        [dir] if !args.system => dir.file_name().map(|name| name.to_string_lossy().into_owned()),
        _ => None,
    };
    let layout = Layout {
        file: args.output.clone(),
        base: files.base.clone(),
        name: name.unwrap_or_else(crate::values::host_name),
        repository: format!("./{REPOSITORY}"),
        password_file: PASSWORD.to_owned(),
    };
    let text = first_plan::write(&found, &layout)?;
    show(&found, ui)?;
    if !args.yes {
        let question = format!(
            "This writes {}, {} and {}.",
            printable_path(&files.plan),
            printable_path(&files.password),
            printable_path(&files.repository)
        );
        ask(ui, &question)?;
    }
    let password = files.make_password()?;
    files.make_repository(&password)?;
    // Last, so that a plan that is there is one that can be used.
    write_new(&files.plan, text.as_bytes(), 0o644)?;
    tell(args, &files, ui)?;
    Ok(Done::verified(&serde_json::json!({
        "plan": files.plan.to_string_lossy(),
        "repository": files.repository.to_string_lossy(),
        "password_file": files.password.to_string_lossy(),
        "databases": found.databases.len(),
        "remarks": found.remarks,
    })))
}

/// Where everything goes, absolute.
struct Files {
    base: PathBuf,
    plan: PathBuf,
    repository: PathBuf,
    password: PathBuf,
}

impl Files {
    fn beside(output: &Path) -> Result<Self, Failure> {
        let absolute = std::path::absolute(output).map_err(|error| io("find", output, &error))?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(Failure::usage("the plan needs a file name", "such as --output lifeboat.yaml"));
        };
        let base = fs::canonicalize(parent).map_err(|error| {
            let message = format!("failed to find the directory {}: {error}", parent.display());
            Failure::usage(message, "make it first, or write the plan somewhere else with --output FILE")
        })?;
        let plan = base.join(name);
        if fs::symlink_metadata(&plan).is_ok() {
            let message = format!("there is a plan already: {}", plan.display());
            return Err(Failure::usage(
                message,
                "it is never overwritten: write beside it with --output FILE, or check it with `lifeboat validate`",
            ));
        }
        let files = Self { plan, repository: base.join(REPOSITORY), password: base.join(PASSWORD), base };
        if files.repository.join("config").exists() && !files.password.exists() {
            let message =
                format!("there is a repository at {}, and no password for it", files.repository.display());
            let hint = format!(
                "put its password into {}, or write the plan elsewhere with --output FILE",
                files.password.display()
            );
            return Err(Failure::usage(message, hint));
        }
        Ok(files)
    }

    /// The password: the one that is there from an earlier attempt, or a new one.
    fn make_password(&self) -> Result<Vec<u8>, Failure> {
        if fs::symlink_metadata(&self.password).is_err() {
            write_new(&self.password, format!("{}\n", first_plan::password()?).as_bytes(), 0o600)?;
        }
        Source::File(self.password.clone()).read("the new repository", false)
    }

    /// Makes the repository; one that is there must open with the password.
    fn make_repository(&self, password: &[u8]) -> Result<(), Failure> {
        let opening = |error| Failure::Opening { error, hints: Vec::new() };
        let store = Local::open(&self.repository).map_err(|error| opening(error.into()))?;
        let there = store.size("config").is_ok();
        let store = std::sync::Arc::new(store);
        let made = if there {
            Repository::open(store, password, Clock::system())
        } else {
            let options = InitOptions {
                chunking: repository::format::Chunking::Gear,
                polynomial: None,
                cost: KEY_COST,
                author: author(),
            };
            Repository::init(store, password, &options, Clock::system())
        };
        made.map(|_| ()).map_err(opening)
    }
}

fn dirs(args: &Args) -> Result<Vec<PathBuf>, Failure> {
    let mut dirs = args.dirs.clone();
    if args.system {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::usage(
                "--system looks into directories that only root may read",
                "run it with sudo, or name the directories that are yours: lifeboat init DIR…",
            ));
        }
        dirs.extend(SYSTEM_DIRS.iter().map(PathBuf::from).filter(|dir| dir.is_dir()));
    } else if dirs.is_empty() {
        dirs.push(PathBuf::from("."));
    }
    if let Some(missing) = dirs.iter().find(|dir| !dir.is_dir()) {
        let message = format!("there is no directory {}", missing.display());
        return Err(Failure::usage(message, "name directories that exist: lifeboat init DIR…"));
    }
    Ok(dirs)
}

fn ask(ui: &Ui, question: &str) -> Result<(), Failure> {
    let refused = || Failure::usage("not confirmed, so nothing was written", "answer yes, or give --yes");
    match run::confirm(ui, false, question) {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused()),
        Err(Failure::Usage { message, .. }) => {
            Err(Failure::usage(message, "give --yes to write the files; nothing that exists is overwritten"))
        }
        Err(failure) => Err(failure),
    }
}

/// What was found, in a few lines.
fn show(found: &Found, ui: &Ui) -> Result<(), Failure> {
    for dir in &found.dirs {
        ui.talk(format!("looked through {}", printable_path(dir)))?;
    }
    for database in &found.databases {
        let open = if database.programs.is_empty() {
            String::new()
        } else {
            format!(", open in {}", database.programs.join(", "))
        };
        ui.line(format!("found  SQLite database {}{}", printable_path(&database.path), printable(&open)))?;
    }
    for path in found.config.iter().chain(&found.env_files) {
        ui.line(format!("found  configuration {}", printable_path(path)))?;
    }
    for unit in found.units.iter().filter(|unit| unit.belongs) {
        ui.line(format!("found  service {} of systemd", printable(&unit.name)))?;
    }
    for later in &found.later {
        ui.line(format!(
            "found  {:?}, which the plan tells of in a comment only: {}",
            later.kind,
            printable(&later.seen)
        ))?;
    }
    for remark in &found.remarks {
        ui.problem("the survey", remark);
    }
    Ok(())
}

fn tell(args: &Args, files: &Files, ui: &Ui) -> Result<(), Failure> {
    ui.line(format!("wrote  the plan {}", printable_path(&files.plan)))?;
    ui.line(format!("made  the repository {}", printable_path(&files.repository)))?;
    ui.line(format!("wrote  its password {}", printable_path(&files.password)))?;
    ui.note(&ui.paint_err(
        Style::Bold,
        "Keep a copy of the password somewhere else, off this machine: without it nothing in the repository can be read.",
    ));
    if files.base.ancestors().any(|dir| dir.join(".git").exists()) {
        ui.note(&format!("This is a git work tree: put {PASSWORD} and {REPOSITORY}/ into .gitignore."));
    }
    let plan = match args.output.to_str() {
        Some("lifeboat.yaml" | "./lifeboat.yaml") => String::new(),
        _ => format!(" --plan {}", shell_word(&args.output.to_string_lossy())),
    };
    ui.talk("Read the plan and correct it. Then:")?;
    ui.talk(format!("  lifeboat validate{plan}"))?;
    ui.talk(format!("  lifeboat backup{plan}"))?;
    ui.talk(format!("  lifeboat drill server-lost{plan}"))
}

/// A word as a shell takes it.
fn shell_word(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", printable(text).replace('\'', r"'\''")) }
}

/// Writes a file that must not be there yet, durably; it has these permissions from its first moment.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::usage(
            format!("{} exists already", path.display()),
            "nothing is overwritten: move it away, or choose another --output",
        ),
        _ => io("write", path, &error),
    })
}

fn io(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::other(format!("failed to {action} {}: {error}", path.display()))
}
