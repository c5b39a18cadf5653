//! The plan that a command works with: which file, which environment, which state directory, and the repository that it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::copies::CopySite;
use engine::site::Site;
use jiff::tz::TimeZone;
use plan::Plan;
use repository::{Clock, InitOptions, Repository};

use crate::access::{Access, AccessArgs, KEY_COST, author};
use crate::environment;
use crate::outcome::Failure;
use crate::password::Source;
use crate::s3::S3Args;
use crate::ui::Ui;
use crate::values::{Values, host_name};

/// Which plan, and where Lifeboat keeps what it must remember.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Plan")]
pub struct PlanArgs {
    /// The plan file [env: LIFEBOAT_PLAN; else ./lifeboat.yaml, then /etc/lifeboat/lifeboat.yaml]
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// The environment of the plan that is laid over it, such as staging
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    /// Where runs are kept on this machine [env: LIFEBOAT_STATE; else /var/lib/lifeboat/NAME, or below your home]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// The program, as records name it.
pub const PROGRAM: &str = concat!("lifeboat ", env!("CARGO_PKG_VERSION"));

/// The hidden subcommand that is pid 1 of a twin.
pub const TWIN_INIT: &str = "twin-init";

/// The hidden subcommand that looks at one restored SQLite database.
pub const SQLITE_PROOF: &str = "sqlite-proof";

/// How long others who have locked a repository are waited for: as long as a forget or a copy of theirs may take.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Where it is looked for when it is not here.
const EVERYWHERE: &str = "/etc/lifeboat/lifeboat.yaml";

/// Where root keeps states, each below its estate's name.
const STATE_OF_ROOT: &str = "/var/lib/lifeboat";

/// A plan that was read.
pub struct Read {
    pub plan: Plan,
    pub text: String,
    /// The directory against which its paths are resolved.
    pub base: PathBuf,
}

impl PlanArgs {
    /// The plan file's path, whether or not it exists.
    pub fn file(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = self.plan.clone().or_else(|| environment::path("LIFEBOAT_PLAN")) {
            return Ok(path);
        }
        let usual = [Path::new("lifeboat.yaml"), Path::new(EVERYWHERE)];
        usual.iter().find(|path| path.exists()).map(|path| path.to_path_buf()).ok_or_else(|| {
            Failure::usage(
                format!("there is no plan: neither ./lifeboat.yaml nor {EVERYWHERE} exists"),
                "name one with --plan FILE, or write a first one with `lifeboat init`",
            )
        })
    }

    /// Reads the plan.
    pub fn read(&self) -> Result<Read, Failure> {
        let file = self.file()?;
        let text = std::fs::read_to_string(&file).map_err(|error| {
            let message = format!("failed to read the plan {}: {error}", file.display());
            Failure::usage(message, "name another with --plan FILE")
        })?;
        let plan = Plan::parse(&text, &file.to_string_lossy(), self.environment.as_deref())
            .map_err(engine::Error::from)?;
        let absolute = std::path::absolute(&file).unwrap_or(file);
        let base = absolute.parent().unwrap_or(Path::new("/"));
        let base = base.canonicalize().unwrap_or_else(|_| base.to_owned());
        Ok(Read { plan, text, base })
    }

    /// Reads the plan and opens its repository.
    pub fn open(&self, ui: &Ui) -> Result<Site, Failure> {
        let read = self.read()?;
        let access = access(&read)?;
        let repository = access.open(ui)?;
        self.site(read, repository, ui)
    }

    /// Reads the plan and opens its repository, or the copy that stands in for it.
    pub fn open_from(&self, from: &FromArgs, ui: &Ui) -> Result<Site, Failure> {
        let read = self.read()?;
        let Some(wanted) = &from.from else {
            let opened = access(&read).and_then(|access| access.open(ui));
            let repository = opened.map_err(|failure| offer_copies(failure, &read.plan))?;
            return self.site(read, repository, ui);
        };
        let index = engine::copies::find(&read.plan, wanted)?;
        let location = read.plan.copies[index].location.written().to_owned();
        let repository = access_to_copy(&read, index)?.open(ui)?;
        let site = self.site(read, repository, ui)?;
        ui.note(&format!("note: from the copy {location} instead of the plan's repository"));
        Ok(Site { copies: Vec::new(), from: Some(location), ..site })
    }

    /// The same for what needs no repository, and is wanted most when it is gone: where it cannot be opened, an empty one in
    /// memory stands in for it, and a person is told why.
    pub fn open_or_do_without(&self, from: &FromArgs, ui: &Ui) -> Result<Site, Failure> {
        let failure = match self.open_from(from, ui) {
            Ok(site) => return Ok(site),
            // A copy that was asked for by name is wanted.
            Err(failure) if from.from.is_some() => return Err(failure),
            Err(failure) => failure,
        };
        let site = self.site(self.read()?, stand_in()?, ui)?;
        let why = failure.to_string();
        ui.note(&format!(
            "note: the repository cannot be opened ({why}); what needs none is done, and what is recorded of it stays on this \
             machine"
        ));
        Ok(Site { copies: Vec::new(), ..site })
    }

    /// The directory in which Lifeboat keeps what it must remember of the plan's estate; absolute.
    pub fn state(&self, read: &Read) -> Result<PathBuf, Failure> {
        let state = match self.state.clone().or_else(|| environment::path("LIFEBOAT_STATE")) {
            Some(state) => state,
            None => default_state(read.plan.name.as_str())?,
        };
        Ok(std::path::absolute(&state).unwrap_or(state))
    }

    /// Where a `lifeboat serve` of this plan may have its state: where this user's would be, and where root's is.
    pub fn states(&self, read: &Read) -> Vec<PathBuf> {
        let own = self.state(read).ok();
        let is_given = self.state.is_some() || environment::path("LIFEBOAT_STATE").is_some();
        let of_root = (!is_given).then(|| Path::new(STATE_OF_ROOT).join(read.plan.name.as_str()));
        let of_root = of_root.filter(|of_root| own.as_ref() != Some(of_root));
        own.into_iter().chain(of_root).collect()
    }

    /// Puts a plan and its repository together.
    pub fn site(&self, read: Read, repository: Repository, ui: &Ui) -> Result<Site, Failure> {
        let state = self.state(&read)?;
        let copies = (0..read.plan.copies.len()).map(|index| copy_site(&read, index, ui)).collect();
        let Read { plan, text, base } = read;
        Ok(Site {
            plan: Arc::new(plan),
            plan_text: text,
            lookup: Arc::new(Values { base: base.clone() }),
            base,
            state,
            repository,
            copies,
            from: None,
            zone: TimeZone::system(),
            who: who(),
            host: host_name(),
            program: PROGRAM.to_owned(),
            twin_init: place::Init::this_program([TWIN_INIT]),
            sqlite_proof: std::env::current_exe()
                .ok()
                .map(|program| place::Init { program, arguments: vec![SQLITE_PROOF.into()] }),
            lock_wait: LOCK_WAIT,
        })
    }
}

/// Who asks, as journals name people: `user@host`.
pub fn who() -> String {
    let user = environment::text("SUDO_USER").or_else(|| environment::text("USER"));
    format!("{}@{}", user.unwrap_or_else(|| "root".to_owned()), host_name())
}

/// From which repository something is brought back.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FromArgs {
    /// Use this copy of the plan instead of its repository: its location as the plan writes it, or its number from 1
    #[arg(long, value_name = "COPY", help_heading = "Plan")]
    pub from: Option<String>,
}

/// An empty repository in memory.
fn stand_in() -> Result<Repository, Failure> {
    let options = InitOptions {
        chunking: repository::format::Chunking::Gear,
        polynomial: None,
        cost: KEY_COST,
        author: author(),
    };
    let store = Arc::new(store::Memory::new());
    Repository::init(store, b"in memory", &options, Clock::system())
        .map_err(|error| Failure::Opening { error, hints: Vec::new() })
}

/// Tells of the copies when the repository cannot be opened.
fn offer_copies(failure: Failure, plan: &Plan) -> Failure {
    let offers = plan
        .copies
        .iter()
        .map(|copy| format!("or go on from a copy of it: add --from {}", copy.location.written()))
        .collect();
    failure.with_hints(offers)
}

/// A copy of the plan, opened when it is needed.
fn copy_site(read: &Read, index: usize, ui: &Ui) -> CopySite {
    let access = access_to_copy(read, index).map_err(|failure| failure.to_string());
    let ui = ui.clone();
    let open = move || {
        access.clone()?.open(&ui).map_err(|failure| match failure {
            Failure::Opening { error: error @ repository::Error::NoRepository { .. }, .. } => {
                format!("{error}; make it with `lifeboat copy --init`")
            }
            other => other.to_string(),
        })
    };
    CopySite::new(read.plan.copies[index].location.written(), Arc::new(open))
}

/// How the plan's repository is reached.
pub fn access(read: &Read) -> Result<Access, Failure> {
    let declared = &read.plan.repository;
    access_to(read, &declared.location, declared.password.as_ref())
}

/// How a copy of the plan is reached; without a password of its own, what opens the repository opens it.
pub fn access_to_copy(read: &Read, index: usize) -> Result<Access, Failure> {
    let copy = &read.plan.copies[index];
    access_to(read, &copy.location, copy.password.as_ref().or(read.plan.repository.password.as_ref()))
}

fn access_to(
    read: &Read,
    location: &plan::Late,
    password: Option<&plan::SecretLate>,
) -> Result<Access, Failure> {
    let values = Values { base: read.base.clone() };
    let resolve = |late: &plan::Late| late.resolve(&values).map_err(engine::Error::from);
    let location = resolve(location)?.expose().to_owned();
    let location = if location.starts_with("s3:") {
        location
    } else {
        // Without the `.` of `./repository`, because messages show it.
        let path: PathBuf = read.base.join(&location).components().collect();
        path.to_string_lossy().into_owned()
    };
    let args = AccessArgs {
        repository: Some(location),
        password_file: None,
        password_command: None,
        retry_lock: None,
        limit_upload: None,
        limit_download: None,
        no_lock: false,
        s3: S3Args::default(),
    };
    let mut access = Access::resolve(&args)?;
    if let Some(password) = password {
        access.password = Source::Plan(resolve(password)?);
    }
    Ok(access)
}

fn default_state(estate: &str) -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new(STATE_OF_ROOT).join(estate));
    }
    let home = environment::path("XDG_STATE_HOME")
        .or_else(|| environment::path("HOME").map(|home| home.join(".local/state")));
    home.map(|home| home.join("lifeboat").join(estate)).ok_or_else(|| {
        Failure::usage("there is no HOME to keep runs in", "name a directory with --state DIR")
    })
}
