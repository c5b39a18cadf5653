//! Where a repository is, who opens it, and how: from options and environment to an open [`Repository`].

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use repository::crypto::ScryptCost;
use repository::keys::Author;
use repository::{Clock, Error, Lock, LockOptions, Repository};
use store::limit::Bandwidth;
use store::{ErrorKind, Limit, Local, Location, Store};

use crate::environment;
use crate::outcome::Failure;
use crate::password::Source;
use crate::s3::S3Args;
use crate::ui::Ui;
use crate::units::parse_duration;

/// Which repository, and how to get at it; understood by every repository command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Repository")]
pub struct AccessArgs {
    /// Where the repository is: a directory, s3://BUCKET/PREFIX or s3:https://HOST/BUCKET/PREFIX
    /// [env: LIFEBOAT_REPOSITORY]
    #[arg(short, long, global = true, value_name = "LOCATION")]
    pub repository: Option<String>,
    /// Read the password from a file [env: LIFEBOAT_PASSWORD_FILE, or LIFEBOAT_PASSWORD itself]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "password_command")]
    pub password_file: Option<PathBuf>,
    /// Take the password from what a shell command prints [env: LIFEBOAT_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND")]
    pub password_command: Option<String>,
    /// Wait this long for others who have locked the repository, such as 10m
    #[arg(long, global = true, hide_short_help = true, value_name = "DURATION", value_parser = parse_duration)]
    pub retry_lock: Option<Duration>,
    /// Send no more than this many KiB per second
    #[arg(long, global = true, hide_short_help = true, value_name = "KIB")]
    pub limit_upload: Option<NonZeroU64>,
    /// Fetch no more than this many KiB per second
    #[arg(long, global = true, hide_short_help = true, value_name = "KIB")]
    pub limit_download: Option<NonZeroU64>,
    /// Take no lock for reading, as from a store that cannot be written to
    #[arg(long, global = true, hide_short_help = true)]
    pub no_lock: bool,
    #[command(flatten)]
    pub s3: S3Args,
}

/// The same, resolved.
#[derive(Debug, Clone)]
pub struct Access {
    pub location: Location,
    pub password: Source,
    bandwidth: Bandwidth,
    wait: Duration,
    no_lock: bool,
    s3: S3Args,
}

/// How often a person may mistype.
const PASSWORD_ATTEMPTS: usize = 3;

impl Access {
    /// Takes what the options say, and else what the environment says.
    pub fn resolve(args: &AccessArgs) -> Result<Self, Failure> {
        let location = args.repository.clone().or_else(|| environment::text("LIFEBOAT_REPOSITORY"));
        let location = location.ok_or_else(|| {
            Failure::usage("no repository given", "name it with -r LOCATION, or set LIFEBOAT_REPOSITORY")
        })?;
        let bytes = |kib: Option<NonZeroU64>| kib.map(|kib| kib.saturating_mul(KIB));
        Ok(Self {
            location: parse_location(&location)?,
            password: Source::resolve(
                args.password_file.as_deref(),
                args.password_command.as_deref(),
                "LIFEBOAT",
            ),
            bandwidth: Bandwidth { upload: bytes(args.limit_upload), download: bytes(args.limit_download) },
            wait: args.retry_lock.unwrap_or_default(),
            no_lock: args.no_lock,
            s3: args.s3.clone(),
        })
    }

    /// Another repository, reached with the same limits.
    pub fn beside(&self, location: &str, password: Source) -> Result<Self, Failure> {
        Ok(Self { location: parse_location(location)?, password, ..self.clone() })
    }

    /// Opens the store, whether or not there is a repository in it.
    pub fn store(&self, ui: &Ui) -> Result<Arc<dyn Store>, Failure> {
        let path = match &self.location {
            Location::Local(path) => path,
            Location::S3(bucket) => return crate::s3::open(bucket, &self.s3, self.bandwidth, ui),
        };
        let store = Local::open(path).map_err(opening)?;
        Ok(if self.bandwidth == Bandwidth::default() {
            Arc::new(store)
        } else {
            Arc::new(Limit::new(store, self.bandwidth))
        })
    }

    /// Opens the repository; a person may mistype the password twice.
    pub fn open(&self, ui: &Ui) -> Result<Repository, Failure> {
        let store = self.store(ui)?;
        // Nobody is asked for the password of a repository that is not there.
        if let Err(error) = store.size("config")
            && error.kind == ErrorKind::NotFound
        {
            return Repository::open(store, b"", Clock::system())
                .map_err(|error| Failure::Opening { error, hints: Vec::new() });
        }
        let attempts = if matches!(self.password, Source::Prompt) { PASSWORD_ATTEMPTS } else { 1 };
        let mut attempt = 1;
        loop {
            let password = self.password.read(&self.location.to_string(), false)?;
            match Repository::open(Arc::clone(&store), &password, Clock::system()) {
                Err(Error::WrongPassword { .. }) if attempt < attempts => {
                    ui.write_err("wrong password, try again");
                    attempt += 1;
                }
                Err(error @ Error::WrongPassword { .. }) => {
                    let hints = vec![self.password.to_string()];
                    return Err(Failure::Opening { error, hints });
                }
                Err(error) => return Err(Failure::Opening { error, hints: Vec::new() }),
                Ok(repository) => return Ok(repository),
            }
        }
    }

    /// Locks the repository for reading, unless that is not wanted.
    pub fn lock_for_reading(&self, repository: &Repository) -> Result<Option<Lock>, Failure> {
        if self.no_lock { Ok(None) } else { Ok(Some(Lock::shared(repository, self.lock())?)) }
    }

    /// Removes what writers left behind in the store that died more than a day ago, and tells how many files.
    pub fn remove_leftovers(&self) -> Result<u64, Failure> {
        const OLDER_THAN: Duration = Duration::from_secs(24 * 60 * 60);
        match &self.location {
            Location::Local(path) => {
                let removed = Local::open(path).and_then(|store| store.remove_stale_temporaries(OLDER_THAN));
                Ok(removed.map_err(Error::from)?)
            }
            // An object store shows nothing of an upload that did not end.
            Location::S3(_) => Ok(0),
        }
    }

    /// How a check takes its lock.
    pub fn lock_of_check(&self) -> Option<LockOptions> {
        (!self.no_lock).then(|| self.lock())
    }

    /// How locks are taken.
    pub fn lock(&self) -> LockOptions {
        LockOptions { wait: self.wait, ..LockOptions::default() }
    }
}

const KIB: NonZeroU64 = NonZeroU64::new(1024).expect("not zero");

fn parse_location(text: &str) -> Result<Location, Failure> {
    Location::parse(text)
        .map_err(|error| Failure::Usage { message: format!("no such location: {error}"), hints: Vec::new() })
}

fn opening(error: store::Error) -> Failure {
    Failure::Opening { error: error.into(), hints: Vec::new() }
}

/// Who adds keys: this user on this host.
pub fn author() -> Author {
    Author::this_process()
}

/// What new keys cost to open.
pub const KEY_COST: ScryptCost = ScryptCost::DEFAULT;
