//! `lifeboat repository key`

use std::path::PathBuf;

use clap::Subcommand;
use repository::keys::KeyEntry;
use repository::{FileKind, Lock, Repository};
use serde::Serialize;

use crate::access::{Access, KEY_COST, author};
use crate::json::{KeyLine, Line};
use crate::outcome::{Answer, Done, Failure};
use crate::password::Source;
use crate::table::Table;
use crate::ui::{Style, Ui, printable};
use crate::units;

/// Manage the passwords
///
/// A repository may have many; each opens a key of its own, and all keys hold the same master key. Who once
/// had a key can have kept the master key: to lock him out for good, copy the snapshots into a new repository.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lifeboat repository key list
  lifeboat repository key add --new-password-file /root/second
  lifeboat repository key passwd
  lifeboat repository key remove 4a1b2c3d")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the keys; `*` marks the one that opened the repository
    List,
    /// Add a password
    Add(NewPasswordArgs),
    /// Remove a key and with it its password
    Remove {
        /// The beginning of the key's id
        id: String,
    },
    /// Replace the password that opened the repository by a new one
    Passwd(NewPasswordArgs),
}

#[derive(Debug, clap::Args)]
struct NewPasswordArgs {
    /// Read the new password from a file [env: LIFEBOAT_NEW_PASSWORD_FILE, or LIFEBOAT_NEW_PASSWORD itself]
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_command")]
    new_password_file: Option<PathBuf>,
    /// Take the new password from what a shell command prints [env: LIFEBOAT_NEW_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND")]
    new_password_command: Option<String>,
}

#[derive(Serialize)]
struct Summary {
    keys: usize,
}

pub fn run(args: &Args, access: &Access, ui: &Ui) -> Answer {
    let repository = access.open(ui)?;
    match &args.command {
        Command::List => list(&repository, ui)?,
        Command::Add(new) => {
            let id = repository.add_key(&new.read(access)?, KEY_COST, &author())?;
            ui.line(format!("added key {}", id.short()))?;
            tell_key(&repository, id, ui)?;
        }
        Command::Remove { id } => {
            let id = repository.find_file(FileKind::Key, id)?;
            let lock = Lock::exclusive(&repository, access.lock())?;
            repository.remove_key(&id)?;
            lock.release()?;
            ui.line(format!("removed key {}", id.short()))?;
            ui.event(&Line::Removed { kind: "key", id: id.to_hex() })?;
        }
        Command::Passwd(new) => {
            let password = new.read(access)?;
            let lock = Lock::exclusive(&repository, access.lock())?;
            let old = repository.key_id();
            let id = repository.change_password(&password, KEY_COST, &author())?;
            lock.release()?;
            ui.line(format!("changed the password: key {} replaces {}", id.short(), old.short()))?;
            tell_key(&repository, id, ui)?;
            ui.event(&Line::Removed { kind: "key", id: old.to_hex() })?;
        }
    }
    Ok(Done::verified(&Summary { keys: repository.list(FileKind::Key)?.len() }))
}

impl NewPasswordArgs {
    fn read(&self, access: &Access) -> Result<Vec<u8>, Failure> {
        let (file, command) = (self.new_password_file.as_deref(), self.new_password_command.as_deref());
        let source = Source::resolve(file, command, "LIFEBOAT_NEW");
        source.read(&format!("the new key of {}", access.location), true)
    }
}

fn list(repository: &Repository, ui: &Ui) -> Result<(), Failure> {
    let mut table = Table::new(&["", "id", "user", "host", "created"], &[]);
    for entry in repository.keys()? {
        let mark = if entry.current { "*" } else { "" };
        match &entry.content {
            Ok(file) => table.row([
                mark.to_owned(),
                entry.id.short(),
                printable(&file.username),
                printable(&file.hostname),
                units::local_time(file.created),
            ]),
            Err(error) => table.row([mark.to_owned(), entry.id.short(), format!("damaged: {error}")]),
        }
        ui.event(&Line::Key(json(entry)))?;
    }
    for (number, line) in table.lines().enumerate() {
        ui.line(if number == 0 { ui.paint(Style::Dim, &line) } else { line })?;
    }
    Ok(())
}

fn tell_key(repository: &Repository, id: repository::Id, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json()
        && let Some(entry) = repository.keys()?.into_iter().find(|entry| entry.id == id)
    {
        ui.event(&Line::Key(json(entry)))?;
    }
    Ok(())
}

fn json(entry: KeyEntry) -> KeyLine {
    let (id, current) = (entry.id.to_hex(), entry.current);
    match entry.content {
        Ok(file) => KeyLine {
            id,
            current,
            created: Some(file.created.to_string()),
            username: Some(file.username),
            hostname: Some(file.hostname),
            error: None,
        },
        Err(error) => {
            KeyLine { id, current, created: None, username: None, hostname: None, error: Some(error) }
        }
    }
}
