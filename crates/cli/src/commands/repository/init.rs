//! `lifeboat repository init`

use repository::format::Chunking;
use repository::{Clock, InitOptions, Repository};
use serde::Serialize;

use crate::access::{Access, KEY_COST, author};
use crate::json::Line;
use crate::outcome::{Answer, Done, Failure};
use crate::password::Source;
use crate::ui;
use crate::ui::Ui;

/// Make a new repository
///
/// The password that is given becomes the first key. Whoever loses all passwords loses the repository: nothing can
/// be read without one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository init -r /srv/backup
  lifeboat repository init -r /srv/copy --like /srv/backup     to copy into, cut alike")]
pub struct Args {
    /// Cut files at the same places as this repository does, so that what is copied from it is stored once
    #[arg(long, value_name = "LOCATION")]
    like: Option<String>,
    /// Read the password of that repository from a file [env: LIFEBOAT_FROM_PASSWORD_FILE, or LIFEBOAT_FROM_PASSWORD]
    #[arg(long, value_name = "FILE", requires = "like")]
    from_password_file: Option<std::path::PathBuf>,
    /// Cut files as restic does, for a repository that restic will back up to as well
    #[arg(long)]
    restic_chunks: bool,
}

#[derive(Serialize)]
struct Summary {
    id: String,
    location: String,
    chunking: &'static str,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let store = access.store(ui)?;
    let polynomial = match &args.like {
        Some(location) => Some(polynomial_of(location, args, access, ui)?),
        None => None,
    };
    // The gear chunker is keyed by its repository, so that two repositories share boundaries only with restic's.
    let rabin = args.restic_chunks || polynomial.is_some();
    let chunking = if rabin { Chunking::Rabin } else { Chunking::Gear };
    if let Ok(_size) = store.size("config") {
        let location = store.location();
        return Err(repository::Error::AlreadyExists { location }.into());
    }
    let password = access.password.read(&format!("the new repository {}", access.location), true)?;
    let options = InitOptions { chunking, polynomial, cost: KEY_COST, author: author() };
    let repository = Repository::init(store, &password, &options, Clock::system())
        .map_err(|error| Failure::Opening { error, hints: Vec::new() })?;

    let (id, location) = (repository.config().id, repository.location());
    ui.line(format!("made repository {} at {}", id.short(), ui::printable(&location)))?;
    ui.talk("keep the password somewhere else too: without it nothing in there can ever be read")?;
    ui.event(&Line::Repository { id: id.to_hex(), location: location.clone() })?;
    let chunking = if rabin { "rabin" } else { "gear" };
    Ok(Done::verified(&Summary { id: id.to_hex(), location, chunking }))
}

fn polynomial_of(location: &str, args: &Args, access: &Access, ui: &Ui) -> Result<String, Failure> {
    let password = Source::resolve(args.from_password_file.as_deref(), None, "LIFEBOAT_FROM");
    let other = access.beside(location, password)?.open(ui)?;
    Ok(other.config().chunker_polynomial.clone())
}
