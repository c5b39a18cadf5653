//! Loading: a dump becomes a database of a server, under its own name or another.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

pub(super) use super::super::boot::No;
use super::super::connection::{Connection, Failure};
use super::reach::{self, Reach, conninfo};
use super::script::{self, id};
use super::{Contents, Database, ROLES, capture};
use crate::{Error, Result};

/// What came of loading something.
pub(super) type Loaded = std::result::Result<(), No>;

/// Says that this machine, and not the dump, is in the way: what an extension or a locale needs is not installed.
const NOT_HERE: &[&str] = &[
    "could not open extension control file",
    "is not available",
    "has no installation script",
    "could not access file \"$libdir",
    "invalid locale name",
    "invalid LC_COLLATE",
    "invalid LC_CTYPE",
    "is not recognized by the operating system",
    "No space left on device",
];

/// Loads the dumps of a point into a server.
pub(super) struct Loader<'a> {
    pub reach: &'a Reach<'a>,
    /// The directory of `pg_restore`.
    pub programs: &'a Path,
    pub contents: &'a Contents,
    /// The directory of the dumps.
    pub dump: &'a Path,
}

impl Loader<'_> {
    /// Makes the roles that the server does not have. Those that it has stay as they are.
    pub(super) fn roles(&self, connection: &mut Connection) -> Result<Loaded> {
        let missing = missing_roles(connection, self.reach, self.contents)?;
        let path = self.dump.join(ROLES);
        let script =
            reach::within(self.reach.place, || fs::read(&path))?.map_err(Error::io("read", &path))?;
        let Ok(script) = String::from_utf8(script) else {
            return Ok(Err(No::Wrong(format!("{ROLES} is not UTF-8"))));
        };
        let statements = script::statements(&script);
        for statement in script::about_roles(&statements, &missing) {
            match connection.query(statement) {
                Ok(_) => {}
                Err(Failure::Interrupted) => return Err(Error::Interrupted),
                // Not the statement itself: it may hold a password.
                Err(error) => return Ok(Err(sorted(format!("a statement about roles: {error}")))),
            }
        }
        let still = missing_roles(connection, self.reach, self.contents)?;
        Ok(match still.first() {
            None => Ok(()),
            Some(role) => Err(No::Wrong(format!("{ROLES} does not make the role {role}"))),
        })
    }

    /// Makes a database under the name `into` and loads its dump into it.
    pub(super) fn database(&self, admin: &mut Connection, database: &Database, into: &str) -> Result<Loaded> {
        let statements = [
            format!("create database {} {}", id(into), database.made_with),
            format!("alter database {} owner to {}", id(into), id(&database.owner)),
        ];
        for statement in statements {
            match admin.query(&statement) {
                Ok(_) => {}
                Err(Failure::Interrupted) => return Err(Error::Interrupted),
                Err(error) => return Ok(Err(sorted(error.to_string()))),
            }
        }
        let arguments = vec![
            format!("--jobs={}", capture::jobs()).into(),
            "--exit-on-error".into(),
            "--no-password".into(),
            format!("--dbname={}", conninfo(into)).into(),
            self.dump.join(&database.directory).into(),
        ];
        let command = self.reach.command(&self.programs.join("pg_restore"), arguments);
        Ok(self.reach.run(&command)?.map(drop).map_err(sorted))
    }

    /// Gives a database, which has its own name by now, its comments, settings and rights.
    pub(super) fn properties(&self, admin: &mut Connection, database: &Database) -> Result<Loaded> {
        for statement in &database.properties {
            match admin.query(statement) {
                Ok(_) => {}
                Err(Failure::Interrupted) => return Err(Error::Interrupted),
                Err(error) => return Ok(Err(sorted(error.to_string()))),
            }
        }
        Ok(Ok(()))
    }
}

/// The roles of a point that a server does not have.
pub(super) fn missing_roles(
    connection: &mut Connection,
    reach: &Reach<'_>,
    contents: &Contents,
) -> Result<BTreeSet<String>> {
    let there = capture::list(connection, reach, "select rolname from pg_catalog.pg_roles")?;
    Ok(contents.roles.iter().filter(|role| !there.contains(role)).cloned().collect())
}

/// Tells what is wrong with a dump from what this machine lacks.
fn sorted(said: String) -> No {
    if NOT_HERE.iter().any(|words| said.contains(words)) { No::Untried(said) } else { No::Wrong(said) }
}
