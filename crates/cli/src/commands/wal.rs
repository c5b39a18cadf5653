//! `lifeboat wal`: what a PostgreSQL server calls as `archive_command` and as `restore_command`.
//!
//! What the exit codes mean is the server's contract, not ours. To `restore_command` 1 says that there is no such file, so
//! that recovery ends; everything above 125 that the server must stop. So whatever goes wrong with a fetch, a wrong
//! command line and a panic included, ends with [`STOP_RECOVERY`].
//!
//! A `lifeboat serve` of the same plan is asked first, which has the repository open and the work often done; only if there is
//! none, the repository is opened here, or such a helper is started that outlives the call (`--start-helper`).

use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use engine::wal::ask::{Asker, socket};
use engine::wal::{Fetched, Pushed, Wal};
use plan::{ComponentKind, Plan};
use repository::Repository;

use crate::estate::{PlanArgs, Read, access};
use crate::outcome::{Answer, Done, Explained, Failure, STOP_RECOVERY, Verdict};
use crate::ui::Ui;

/// For how long nobody may ask a helper that was started for a call.
const HELPER_STAYS: Duration = Duration::from_secs(60);
/// How long is waited for it to listen: it derives a key and opens the repository first.
const HELPER_STARTS: Duration = Duration::from_secs(10);

/// Archive the log of a PostgreSQL server, and give it back to one that recovers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat wal push --plan /etc/lifeboat/lifeboat.yaml %p        in archive_command
  lifeboat wal fetch --plan /etc/lifeboat/lifeboat.yaml %f %p    in restore_command")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Push(PushArgs),
    Fetch(FetchArgs),
}

/// Archive one file: for `archive_command`
///
/// When it ends with 0 the file is durable in the repository. The same file again is fine; another one of the same name is
/// refused, and so is one of another cluster. Segments that the archive lacks before it are taken along, if the server
/// still has them.
///
/// A running `lifeboat serve` does the work if there is one, mostly ahead of the call: it answers root, its own user and the
/// owner of the data directory. Without one the work is done here, which takes longer and needs the repository's password.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  archive_mode = on
  archive_command = 'lifeboat wal push --plan /etc/lifeboat/lifeboat.yaml %p'")]
struct PushArgs {
    /// The file, as the server names it: %p
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Archive a segment of which records are damaged: nothing can be replayed beyond them
    #[arg(long)]
    accept_damage: bool,
    #[command(flatten)]
    of: OfArgs,
}

/// Get one file back: for `restore_command`
///
/// Ends with 0 when the file is there, with 1 when it is proven that there is none, and with 255 whenever anything else is the
/// matter, a gap in the log included: the server then stops instead of taking that for the end.
///
/// A running `lifeboat serve` does the work if there is one, and reads ahead what will be asked for next.
///
/// A recovery by `lifeboat restore` needs none of this.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  restore_command = 'lifeboat wal fetch --plan /etc/lifeboat/lifeboat.yaml %f %p'")]
struct FetchArgs {
    /// The file's name: %f
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to put it: %p
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    #[command(flatten)]
    of: OfArgs,
}

#[derive(Debug, clap::Args)]
struct OfArgs {
    /// The component, where the plan has more than one of PostgreSQL
    #[arg(long, value_name = "NAME")]
    component: Option<String>,
    /// Start a helper if there is none, so that the calls to come are fast: it knows the password until a minute after the last
    #[arg(long)]
    start_helper: bool,
    #[command(flatten)]
    plan: PlanArgs,
}

/// What is needed of the plan.
struct Of {
    read: Read,
    component: String,
    data: PathBuf,
    /// Where a helper may listen.
    sockets: Vec<PathBuf>,
}

pub fn run(args: &Args, ui: &Ui) -> Answer {
    match &args.command {
        Command::Push(args) => push(args, ui),
        Command::Fetch(args) => {
            let fetched = catch_unwind(AssertUnwindSafe(|| fetch(args, ui)));
            let failed = Failure::other("lifeboat itself failed, which is a fault of it");
            fetched.unwrap_or(Err(failed)).map_err(|failure| Failure::Recovery(Box::new(failure)))
        }
    }
}

/// The exit code for a command line that makes no sense: a server must not take it for the end of its log.
pub fn code_of_wrong_usage(usual: u8) -> ExitCode {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let is_fetch = words.next().as_deref() == Some("wal") && words.next().as_deref() == Some("fetch");
    ExitCode::from(if is_fetch { STOP_RECOVERY } else { usual })
}

fn push(args: &PushArgs, ui: &Ui) -> Answer {
    let of = args.of.read()?;
    let data = of.data_of_the_server()?;
    let asker = Asker { sockets: &of.sockets, data: &data };
    let ask = || asker.push(&args.file, args.accept_damage);
    let pushed = match args.of.asked(&of, &asker, &ask)? {
        Some(pushed) => pushed,
        None => of.wal(&of.open(ui)?, &data).push(&args.file, args.accept_damage)?,
    };
    let Pushed { was_there, along, warning } = &pushed;
    if let Some(warning) = warning {
        ui.warning(&format!("{}: {warning}", of.component));
    }
    Ok(Done::verified(&serde_json::json!({ "was_there": was_there, "along": along, "warning": warning })))
}

fn fetch(args: &FetchArgs, ui: &Ui) -> Answer {
    let of = args.of.read()?;
    // A server that recovers works in its data directory, wherever that is.
    let here = Path::new(".");
    let data = if is_data(here) { here.to_owned() } else { of.data.clone() };
    let asker = Asker { sockets: &of.sockets, data: &data };
    let ask = || asker.fetch(&args.name, &args.target);
    let fetched = match args.of.asked(&of, &asker, &ask)? {
        Some(fetched) => fetched,
        None => of.wal(&of.open(ui)?, &data).fetch(&args.name, &args.target)?,
    };
    match fetched {
        Fetched::Written => Ok(Done::verified(&serde_json::json!({ "found": true }))),
        Fetched::Absent(why) => {
            let explained = Explained { why: format!("there is no {}: {why}", args.name), hints: Vec::new() };
            Ok(Done::new(Verdict::Failed(explained), &serde_json::json!({ "found": false })))
        }
    }
}

impl OfArgs {
    fn read(&self) -> Result<Of, Failure> {
        let read = self.plan.read()?;
        let (component, data) = choose(&read.plan, self.component.as_deref())?;
        let data = read.base.join(data);
        let sockets = self.plan.states(&read).iter().map(|state| socket(state, &component)).collect();
        Ok(Of { read, component, data, sockets })
    }

    /// What a helper answers, which is started if that is wanted and there is none; `None` when nobody answers.
    fn asked<T>(
        &self,
        of: &Of,
        asker: &Asker<'_>,
        ask: &dyn Fn() -> engine::Result<Option<T>>,
    ) -> engine::Result<Option<T>> {
        let answer = ask()?;
        if answer.is_some() || !self.start_helper || asker.is_listened_to() {
            return Ok(answer);
        }
        self.start(of, asker);
        ask()
    }

    /// Starts a helper that outlives this call, and waits until it listens or has ended.
    fn start(&self, of: &Of, asker: &Asker<'_>) {
        let (Ok(program), Ok(plan), Ok(state)) =
            (std::env::current_exe(), self.plan.file(), self.plan.state(&of.read))
        else {
            return;
        };
        let mut helper = std::process::Command::new(program);
        helper.args(["serve", &of.component, "--until-idle", &HELPER_STAYS.as_secs().to_string()]);
        helper.arg("--plan").arg(std::path::absolute(&plan).unwrap_or(plan)).arg("--state").arg(state);
        if let Some(environment) = &self.plan.environment {
            helper.args(["--environment", environment]);
        }
        // It is not the server's any more: neither its directory nor its terminal, signals or pipes.
        helper.current_dir("/").process_group(0);
        helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut helper) = helper.spawn() else { return };
        let started = Instant::now();
        while started.elapsed() < HELPER_STARTS
            && !asker.is_listened_to()
            && matches!(helper.try_wait(), Ok(None))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Of {
    fn open(&self, ui: &Ui) -> Result<Repository, Failure> {
        access(&self.read)?.open(ui)
    }

    fn wal<'a>(&'a self, repository: &'a Repository, data: &'a Path) -> Wal<'a> {
        Wal { repository, component: &self.component, data }
    }

    /// The data directory of the server that archives: it is called there, unless a person calls.
    ///
    /// Fails when the server is another one than the component's, such as a copy of it that kept its settings.
    fn data_of_the_server(&self) -> Result<PathBuf, Failure> {
        use std::os::unix::fs::MetadataExt;
        let here = Path::new(".");
        let same = |one: &Path, other: &Path| {
            let (one, other) = (std::fs::metadata(one), std::fs::metadata(other));
            matches!((one, other), (Ok(one), Ok(other)) if (one.dev(), one.ino()) == (other.dev(), other.ino()))
        };
        if is_data(here) && !same(here, &self.data) {
            let at = std::env::current_dir().unwrap_or_default();
            return Err(Failure::usage(
                format!(
                    "the server in {} is not {}, whose data is in {}",
                    at.display(),
                    self.component,
                    self.data.display()
                ),
                "give it a component of its own, or set archive_mode = off there if it is a copy",
            ));
        }
        Ok(self.data.clone())
    }
}

fn is_data(directory: &Path) -> bool {
    directory.join("global/pg_control").is_file()
}

/// The component that is meant, and its data directory.
fn choose(plan: &Plan, wanted: Option<&str>) -> Result<(String, PathBuf), Failure> {
    let all: Vec<(&str, &Path)> = plan
        .components
        .iter()
        .filter_map(|(name, component)| match &component.kind {
            ComponentKind::Postgres(postgres) => Some((name, postgres.postgres.as_path())),
            _ => None,
        })
        .collect();
    let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let chosen = match (wanted, all.as_slice()) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(wanted), all) => all.iter().find(|(name, _)| *name == wanted),
    };
    chosen.map(|(name, data)| ((*name).to_owned(), data.to_path_buf())).ok_or_else(|| match wanted {
        Some(wanted) => Failure::usage(
            format!("the plan has no PostgreSQL component {wanted}"),
            format!("it has these: {}", names()),
        ),
        None if all.is_empty() => Failure::usage("the plan has no PostgreSQL component", "add one to it"),
        None => Failure::usage(
            "the plan has more than one PostgreSQL component",
            format!("say which with --component: {}", names()),
        ),
    })
}
