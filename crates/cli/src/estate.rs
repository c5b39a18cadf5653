//! The plan that a command works with: which file, which environment, which state directory, and the repository that it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::site::Site;
use plan::Plan;
use repository::Repository;

use crate::access::{Access, AccessArgs};
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

const EVERYWHERE: &str = "/etc/lifeboat/lifeboat.yaml";

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
        self.site(read, repository)
    }

    /// The directory in which Lifeboat keeps what it must remember of the plan's estate; absolute.
    pub fn state(&self, read: &Read) -> Result<PathBuf, Failure> {
        let state = match self.state.clone().or_else(|| environment::path("LIFEBOAT_STATE")) {
            Some(state) => state,
            None => default_state(read.plan.name.as_str())?,
        };
        Ok(std::path::absolute(&state).unwrap_or(state))
    }

    /// Puts a plan and its repository together.
    pub fn site(&self, read: Read, repository: Repository) -> Result<Site, Failure> {
        let state = self.state(&read)?;
        let Read { plan, text, base } = read;
        let host = host_name();
        let user = environment::text("SUDO_USER").or_else(|| environment::text("USER"));
        Ok(Site {
            plan: Arc::new(plan),
            plan_text: text,
            lookup: Arc::new(Values { base: base.clone() }),
            base,
            state,
            repository,
            who: format!("{}@{host}", user.unwrap_or_else(|| "root".to_owned())),
            host,
            program: PROGRAM.to_owned(),
            twin_init: place::Init::this_program([TWIN_INIT]),
        })
    }
}

/// How the plan's repository is reached.
pub fn access(read: &Read) -> Result<Access, Failure> {
    let values = Values { base: read.base.clone() };
    let resolve = |late: &plan::Late| late.resolve(&values).map_err(engine::Error::from);
    let declared = &read.plan.repository;
    let location = resolve(&declared.location)?.expose().to_owned();
    let location = if location.starts_with("s3:") {
        location
    } else {
        read.base.join(&location).to_string_lossy().into_owned()
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
    if let Some(password) = &declared.password {
        access.password = Source::Plan(resolve(password)?);
    }
    Ok(access)
}

fn default_state(estate: &str) -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/lifeboat").join(estate));
    }
    let home = environment::path("XDG_STATE_HOME")
        .or_else(|| environment::path("HOME").map(|home| home.join(".local/state")));
    home.map(|home| home.join("lifeboat").join(estate)).ok_or_else(|| {
        Failure::usage("there is no HOME to keep runs in", "name a directory with --state DIR")
    })
}
