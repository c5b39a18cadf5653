//! The driver of logical backups: databases of a PostgreSQL server, each as `pg_dump` writes it, and the server's roles. It
//! needs no access to the server's files, so that a server on another machine will do.
//!
//! # Consistency
//! Each database is of one moment: a transaction exports its snapshot, facts are measured in it, and `pg_dump` reads the same
//! snapshot with several workers. Databases are dumped one after the other, so that two of them are of two moments; the
//! point's instant is the one before the first, and nothing that was committed by then is missing. Everything is dumped into scratch before
//! anything is stored: a dump that fails, or that is empty, makes no point.
//!
//! # On the way back
//! For a restore test the dumps are loaded into a private cluster that is made for it and thrown away (`proof`). For a
//! restore they are loaded into the server of the plan, beside what is there, under the names `NAME.lifeboat-RUN`; their facts are
//! compared there, and then databases change names in one transaction (`swap`), as files do elsewhere: what was there is
//! `NAME.before-RUN` until the commit. Roles that the server does not have are made, and those that it has stay as they are.
//!
//! # Where things live
//! `reach`: the way to a server. `programs`: PostgreSQL's own. `script`: what they write, as statements. `measure`: facts.
//! `capture`: the dumps. `load`: into a server. `proof`, `swap`, `damage`, `by_hand`: as their names say.

mod by_hand;
mod capture;
mod damage;
mod load;
mod measure;
mod programs;
mod proof;
mod reach;
mod script;
mod swap;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use place::Place;
use serde::{Deserialize, Serialize};

use self::measure::Asked;
use self::reach::Reach;
use super::super::restore::make_way;
use super::super::{
    Cancel, Capture, CaptureRequest, Component, Damage, DumpOptions, Finding, LeftToPeople, Part, PointFacts,
    Proof, Severity, State, appended,
};
use crate::{Error, Result};

const KIND: &str = "postgres_dump";
/// Where dumps lie in a snapshot, below the component's name.
pub const DUMPS: &str = "/lifeboat/postgres";
/// What captures and proves on our side; another number makes a proof stale.
const DRIVER: &str = "dump driver 1";
/// The name of what is restored, in the directory in which it is held.
const HELD: &str = "dump";
/// The file of the server's roles, beside the directories of its databases.
const ROLES: &str = "roles.sql";
/// The file of the server's tablespaces, for people: a restore makes none.
const TABLESPACES: &str = "tablespaces.sql";
/// The detail that holds [`Contents`].
const CONTENTS: &str = "contents";
/// The oldest version whose dumps are known to come back.
const VERSION_MIN: u32 = 130_000;

/// Databases of a server.
#[derive(Debug, Clone)]
pub struct Dumps {
    options: DumpOptions,
    place: Place,
}

/// What a point holds, as its restore must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    /// The version of the programs that made the dumps, such as 15.
    programs: u32,
    databases: Vec<Database>,
    /// The roles of the server, but for those that every server has.
    roles: Vec<String>,
    /// Whether the roles' passwords are in it.
    passwords: bool,
    /// The role that every cluster is made with.
    bootstrap: String,
    /// The tablespaces in which the databases have something.
    tablespaces: Vec<String>,
    /// The database of the facts of the plan.
    fact_database: String,
    /// How the driver's own facts were measured.
    asked: BTreeMap<String, Asked>,
}

/// A database in a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Database {
    name: String,
    /// The directory of its dump.
    directory: String,
    /// What stands behind its name in the statement that makes it: encoding and locale.
    made_with: String,
    owner: String,
    /// Statements about it by its name: comments, settings, rights.
    properties: Vec<String>,
}

/// Facts that are not asked of a single database.
const DATABASES: &str = "databases";
const SERVER_ROLES: &str = "roles";

fn counted_by_us(fact: &str) -> bool {
    matches!(fact, DATABASES | SERVER_ROLES)
}

impl Contents {
    fn of(recorded: &PointFacts) -> Result<Self> {
        let text = recorded.details.get(CONTENTS).map_or("", String::as_str);
        serde_json::from_str(text).map_err(|error| Error::BadTarget {
            path: recorded.roots.first().cloned().unwrap_or_default(),
            why: format!("the point does not say what it holds ({error}): choose another one"),
        })
    }

    fn names(&self) -> Vec<&str> {
        self.databases.iter().map(|database| database.name.as_str()).collect()
    }
}

impl Dumps {
    /// Makes the driver for a server that is reached from `place`; touches nothing.
    pub fn new(options: DumpOptions, place: Place) -> Self {
        Self { options, place }
    }

    fn in_snapshot(&self) -> PathBuf {
        Path::new(DUMPS).join(&self.options.name)
    }

    fn held(&self) -> PathBuf {
        self.options.hold.join(HELD)
    }

    fn reach<'a>(&'a self, cancel: &'a Cancel) -> Result<Reach<'a>> {
        Reach::of(&self.options, &self.place, cancel)
    }

    /// Whether the parts go to the server of the plan, and not into scratch or another directory to be looked at.
    fn is_for_the_server(&self, part: &Part) -> bool {
        part.target == self.held()
    }
}

/// The run of a part, which names of databases end with.
fn run_of(part: &Part) -> Result<&str> {
    let name = part.beside.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix(HELD).and_then(|rest| rest.strip_prefix(".lifeboat-")).ok_or_else(|| Error::BadTarget {
        path: part.target.clone(),
        why: "its run is not known: restore it anew".to_owned(),
    })
}

/// The one part of a point.
fn only(parts: &[Part]) -> Result<&Part> {
    parts.first().ok_or_else(|| Error::BadTarget {
        path: PathBuf::from(DUMPS),
        why: "the point has no parts: choose another one".to_owned(),
    })
}

/// Lets the user of programs through to `directory`, from the directory `state` on, which is ours.
fn let_through(state: &Path, directory: &Path) -> Result<()> {
    for upper in directory.ancestors().take_while(|upper| *upper == directory || upper.starts_with(state)) {
        let found = fs::metadata(upper).map_err(Error::io("look at", upper))?;
        let mut permissions = found.permissions();
        if permissions.mode() & 0o011 != 0o011 && found.uid() == rustix::process::geteuid().as_raw() {
            permissions.set_mode(permissions.mode() | 0o011);
            fs::set_permissions(upper, permissions).map_err(Error::io("let others through", upper))?;
        }
    }
    Ok(())
}

/// Gives a tree to the user as whom programs run, and to nobody else.
fn give(path: &Path, user: Option<(u32, u32)>) -> Result<()> {
    let Some((uid, gid)) = user else { return Ok(()) };
    let found = fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
    if (found.uid(), found.gid()) != (uid, gid) {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(Error::io("give away", path))?;
    }
    if found.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(Error::io("close", path))?;
        for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
            give(&entry.map_err(Error::io("list", path))?.path(), user)?;
        }
    }
    Ok(())
}

impl Component for Dumps {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn enters_by_itself(&self) -> bool {
        true
    }

    fn is_proven_as_another_user(&self) -> bool {
        true
    }

    fn is_proven_by_bytes(&self) -> bool {
        // A flipped letter in a row is a row as well; the counts are the same.
        true
    }

    fn engine(&self) -> String {
        DRIVER.to_owned()
    }

    fn preflight(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |severity, what: String, hint: &str| {
            findings.push(Finding { severity, what, hint: hint.to_owned() });
        };
        let cancel = Cancel::default();
        let looked = self.reach(&cancel).and_then(|reach| capture::look(&self.options, &reach));
        match looked {
            Err(error) => find(Severity::Error, error.to_string(), "a backup fails as things are"),
            Ok(found) => {
                if !found.passwords {
                    let what = format!("the role {} may not read passwords of roles", found.user);
                    find(
                        Severity::Warning,
                        what,
                        "they are in no backup: keep them elsewhere, or let it read pg_authid",
                    );
                }
                let major = found.programs.major;
                let binaries = self.options.binaries.as_deref();
                if let Ok(Err(why)) = programs::find(&self.place, binaries, major, programs::SERVER, &cancel)
                {
                    find(Severity::Warning, why, "without them a restore cannot be tested");
                }
            }
        }
        findings
    }

    fn state(&self) -> Result<State> {
        let cancel = Cancel::default();
        let reach = self.reach(&cancel)?;
        let found = capture::databases(&mut reach.admin(&[])?, &reach)?;
        let present = match &self.options.databases {
            Some(wanted) => wanted.iter().any(|name| found.contains(name)),
            None => found.iter().any(|name| name != "postgres"),
        };
        Ok(State { present, ..State::default() })
    }

    fn capture(&self, request: &CaptureRequest<'_>) -> Result<Capture> {
        capture::begin(self, request)
    }

    fn parts(&self, run: &str, recorded: &PointFacts) -> Vec<Part> {
        let target = self.held();
        let part = |root: &PathBuf| Part {
            in_snapshot: root.clone(),
            beside: appended(&target, &format!(".lifeboat-{run}")),
            target: target.clone(),
            companions: Vec::new(),
        };
        recorded.roots.iter().map(part).collect()
    }

    fn prepare(&self, parts: &[Part], recorded: &PointFacts) -> Result<()> {
        let part = only(parts)?;
        reach::within(&self.place, || make_way(part, true))??;
        if self.is_for_the_server(part) {
            let cancel = Cancel::default();
            swap::may_replace(&self.reach(&cancel)?, &Contents::of(recorded)?)?;
        }
        Ok(())
    }

    fn prove(&self, parts: &[Part], recorded: &PointFacts, cancel: &Cancel) -> Result<Proof> {
        let part = only(parts)?;
        let contents = Contents::of(recorded)?;
        let found = reach::within(&self.place, || fs::metadata(&part.beside))?;
        found.map_err(Error::io("look at", &part.beside))?;
        match self.is_for_the_server(part) {
            true => swap::prove_beside(self, part, &contents, recorded, cancel),
            false => proof::prove(self, part, &contents, recorded, cancel),
        }
    }

    fn damage(
        &self,
        parts: &[Part],
        recorded: &PointFacts,
        how: Damage,
        _cancel: &Cancel,
    ) -> Result<Option<String>> {
        let contents = Contents::of(recorded)?;
        reach::within(&self.place, || damage::damage(parts, &contents, how))?
    }

    fn after_swap(&self, parts: &[Part], recorded: &PointFacts, cancel: &Cancel) -> Result<()> {
        let part = only(parts)?;
        if !self.is_for_the_server(part) {
            return Ok(());
        }
        swap::apply(&self.reach(cancel)?, part, &Contents::of(recorded)?)
    }

    fn undo_swap(&self, parts: &[Part], _recorded: &PointFacts, cancel: &Cancel) -> Result<()> {
        let part = only(parts)?;
        if !self.is_for_the_server(part) {
            return Ok(());
        }
        swap::undo(&self.reach(cancel)?, part)
    }

    fn kept(&self, parts: &[Part], cancel: &Cancel) -> Result<Vec<String>> {
        let part = only(parts)?;
        if !self.is_for_the_server(part) {
            return Ok(Vec::new());
        }
        swap::kept(&self.reach(cancel)?, part)
    }

    fn commit(&self, parts: &[Part], cancel: &Cancel) -> Result<()> {
        let part = only(parts)?;
        if !self.is_for_the_server(part) {
            return Ok(());
        }
        swap::commit(&self.reach(cancel)?, part)
    }

    fn swap_by_hand(&self, parts: &[Part], recorded: &PointFacts) -> Option<String> {
        let part = parts.first().filter(|part| self.is_for_the_server(part))?;
        by_hand::swap(self, part, &Contents::of(recorded).ok()?)
    }

    fn prove_by_hand(&self, parts: &[Part], recorded: &PointFacts) -> Option<String> {
        by_hand::proof(self, parts.first()?, &Contents::of(recorded).ok()?, recorded)
    }

    fn left_to_people(&self, recorded: &PointFacts) -> Vec<LeftToPeople> {
        let Ok(contents) = Contents::of(recorded) else { return Vec::new() };
        if contents.passwords || contents.roles.is_empty() {
            return Vec::new();
        }
        let what = format!(
            "set the passwords of the roles that were made anew: they are not in the backup ({})",
            contents.roles.join(", ")
        );
        vec![LeftToPeople { path: self.in_snapshot().join(ROLES), what, names: contents.roles }]
    }

    fn destroy(&self) -> Vec<PathBuf> {
        // What is on a server, only the server can remove.
        Vec::new()
    }
}
