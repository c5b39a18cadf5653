//! Databases that change names: what was loaded beside takes the place of what is there, and what was there is kept.
//!
//! # Order, and what a crash leaves
//! (1) Each dump is loaded as `NAME.lifeboat-RUN`, and its facts are compared. (2) The numbers of the loaded databases, which
//! stay the same whatever they are called, are written to `loaded-RUN.json` where the dump is held. (3) In one transaction every `NAME` becomes
//! `NAME.before-RUN` and every `NAME.lifeboat-RUN` becomes `NAME`. (4) Comments, settings and rights follow. Before (3)
//! nothing of what was there has changed; (3) happens as a whole or not at all; and (4) is done again by a run that goes on.
//! A rollback changes the names back in one transaction, and what had been loaded is `NAME.undone-RUN` until the commit.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::super::{Cancel, Part, PointFacts, Proof, Proven};
use super::super::connection::{Connection, Failure, literal, text};
use super::load::{self, Loader};
use super::reach::{self, Reach};
use super::script::id;
use super::{Contents, Dumps, capture, programs, proof, run_of};
use crate::{Error, Result};

/// The longest name of a database, in bytes (`NAMEDATALEN` less the end).
const NAME_BYTES_MAX: usize = 63;
/// Characters of a digest that tell apart names that had to be cut.
const DIGEST_CHARS: usize = 8;

/// What is done to the databases that are there.
const ACTION: &str = "replace databases";

/// What a run has loaded, by the names that it is to have.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Loads {
    oids: BTreeMap<String, u32>,
}

/// The names that a database has on its way.
struct Names {
    beside: String,
    kept: String,
    undone: String,
}

impl Names {
    fn of(name: &str, run: &str) -> Self {
        let of = |word: &str| aside(name, &format!(".{word}-{run}"));
        Self { beside: of("lifeboat"), kept: of("before"), undone: of("undone") }
    }
}

/// A name with an ending; one that would be too long is cut, and told apart by a digest.
fn aside(name: &str, ending: &str) -> String {
    let whole = format!("{name}{ending}");
    if whole.len() <= NAME_BYTES_MAX {
        return whole;
    }
    let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = &digest[..DIGEST_CHARS];
    let room = NAME_BYTES_MAX.saturating_sub(ending.len() + 1 + DIGEST_CHARS);
    let cut = (0..=room).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}~{digest}{ending}", &name[..cut])
}

/// The name under which a database is loaded by a run.
pub(super) fn beside(name: &str, run: &str) -> String {
    Names::of(name, run).beside
}

/// The name under which what was there is kept by a run.
pub(super) fn kept_name(name: &str, run: &str) -> String {
    Names::of(name, run).kept
}

/// Refuses to begin when the server would not let the databases be replaced.
pub(super) fn may_replace(reach: &Reach<'_>, contents: &Contents) -> Result<()> {
    let mut admin = reach.admin(&contents.names())?;
    let refused = |why: String| Err(reach.failed(ACTION, why));
    let mut flag = |sql: &str| {
        let found = admin.known(sql).map_err(|error| reach.at("ask what the role may do", &error))?;
        Ok::<_, Error>(found == "t")
    };
    let may = |right: &str| {
        format!("select rolsuper or {right} from pg_catalog.pg_roles where rolname = current_user")
    };
    let role = &reach.user;
    if !flag(&may("rolcreatedb"))? {
        return refused(format!(
            "the role {role} may not make databases: `ALTER ROLE {} CREATEDB`, or restore as another one",
            id(role)
        ));
    }
    let may_make_roles = flag(&may("rolcreaterole"))?;
    let missing = load::missing_roles(&mut admin, reach, contents)?;
    if !missing.is_empty() && !may_make_roles {
        let missing: Vec<String> = missing.into_iter().collect();
        return refused(format!(
            "the roles {} are not there, and the role {role} may not make them: make them by hand, or `ALTER ROLE {} CREATEROLE`",
            missing.join(", "),
            id(role)
        ));
    }
    let tablespaces = capture::list(&mut admin, reach, "select spcname from pg_catalog.pg_tablespace")?;
    if let Some(missing) = contents.tablespaces.iter().find(|name| !tablespaces.contains(name)) {
        return refused(format!(
            "it has no tablespace {missing:?}, in which a database has tables: make it with CREATE TABLESPACE, as \
             tablespaces.sql of the snapshot has it"
        ));
    }
    nobody_connected(&mut admin, reach, &contents.names())
}

/// Refuses as long as somebody is connected to one of the databases.
fn nobody_connected(admin: &mut Connection, reach: &Reach<'_>, names: &[&str]) -> Result<()> {
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let sql = format!(
        "select pg_catalog.format('%s (%s of %s)', datname, coalesce(nullif(application_name, ''), 'a session'), usename) \
         from pg_catalog.pg_stat_activity where datname in ({}) and backend_type = 'client backend' and pid <> \
         pg_catalog.pg_backend_pid() order by 1",
        names.join(", ")
    );
    let mut found = capture::list(admin, reach, &sql)?;
    found.dedup();
    if found.is_empty() {
        return Ok(());
    }
    Err(reach.failed(
        ACTION,
        format!("somebody is connected to {}: stop what uses them, then try again", found.join(", ")),
    ))
}

/// Loads everything beside what is there and compares its facts.
pub(super) fn prove_beside(
    dumps: &Dumps,
    part: &Part,
    contents: &Contents,
    recorded: &PointFacts,
    cancel: &Cancel,
) -> Result<Proof> {
    let (reach, run) = (dumps.reach(cancel)?, run_of(part)?);
    let binaries = dumps.options.binaries.as_deref();
    let wanted = &["pg_restore"];
    let found = programs::find(&dumps.place, binaries, contents.programs, wanted, cancel)?;
    let found = found.map_err(|why| reach.failed("load the dumps", why))?;
    if reach.as_user.is_some() {
        let hold = part.beside.parent().unwrap_or(&part.beside);
        reach::within(&dumps.place, || {
            super::let_through(&dumps.options.state, hold)?;
            super::give(&part.beside, reach.as_user)
        })??;
    }
    let mut admin = reach.admin(&contents.names())?;
    let beside = |name: &str| beside(name, run);
    let drop_all = |admin: &mut Connection| {
        contents.databases.iter().try_for_each(|database| remove(admin, &reach, &beside(&database.name)))
    };
    // What an attempt before this one has left is of this run alone.
    drop_all(&mut admin)?;
    let loader = Loader { reach: &reach, programs: &found.directory, contents, dump: &part.beside };
    let mut proof = Proof::default();
    proof::load_and_compare(&mut proof, &loader, dumps, recorded, &mut admin, &beside)?;
    if proof.outcome() == Proven::Failed {
        drop_all(&mut admin)?;
        return Ok(proof);
    }
    let there = all(&mut admin, &reach)?;
    let oids = contents.databases.iter().filter_map(|database| {
        let oid = there.get(&beside(&database.name))?;
        Some((database.name.clone(), *oid))
    });
    write(&reach, part, &Loads { oids: oids.collect() })?;
    Ok(proof)
}

/// Puts what was loaded in its place.
pub(super) fn apply(reach: &Reach<'_>, part: &Part, contents: &Contents) -> Result<()> {
    let run = run_of(part)?;
    let refused = |why: String| Err(reach.failed(ACTION, why));
    let Some(loads) = read(reach, part)? else {
        return refused("this run has loaded nothing: restore anew".to_owned());
    };
    let mut admin = reach.admin(&contents.names())?;
    let there = all(&mut admin, reach)?;
    let mut renames = Vec::new();
    for database in &contents.databases {
        let (name, names) = (&database.name, Names::of(&database.name, run));
        let oid = loads.oids.get(name);
        let now = there.iter().find(|(_, known)| Some(*known) == oid).map(|(now, _)| now);
        match now {
            Some(now) if now == name => {}
            Some(now) if *now == names.beside => {
                if there.contains_key(name) {
                    if there.contains_key(&names.kept) {
                        return refused(format!(
                            "somebody has made {name:?} while it was replaced: move it away"
                        ));
                    }
                    renames.push((name.clone(), names.kept));
                }
                renames.push((names.beside, name.clone()));
            }
            Some(now) => {
                return refused(format!("what was loaded for {name:?} is called {now:?}: restore anew"));
            }
            None => return refused(format!("what was loaded for {name:?} is gone: restore anew")),
        }
    }
    rename(&mut admin, reach, &renames)?;
    let loader = Loader { reach, programs: &PathBuf::new(), contents, dump: &part.target };
    for database in &contents.databases {
        if let Err(load::No::Wrong(why) | load::No::Untried(why)) = loader.properties(&mut admin, database)? {
            return refused(format!(
                "comments, settings and rights of {:?} could not be given: {why}",
                database.name
            ));
        }
    }
    Ok(())
}

/// Gives what was there its name back.
pub(super) fn undo(reach: &Reach<'_>, part: &Part) -> Result<()> {
    let run = run_of(part)?;
    let Some(loads) = read(reach, part)? else { return Ok(()) };
    let mut admin = reach.admin(&loads.names())?;
    let there = all(&mut admin, reach)?;
    let mut renames = Vec::new();
    for (name, oid) in &loads.oids {
        if there.get(name) == Some(oid) {
            let names = Names::of(name, run);
            renames.push((name.clone(), names.undone));
            if there.contains_key(&names.kept) {
                renames.push((names.kept, name.clone()));
            }
        }
    }
    rename(&mut admin, reach, &renames)
}

/// What a commit would remove.
pub(super) fn kept(reach: &Reach<'_>, part: &Part) -> Result<Vec<String>> {
    let Some(loads) = read(reach, part)? else { return Ok(Vec::new()) };
    let mut admin = reach.admin(&loads.names())?;
    let ours = ours(&mut admin, reach, &loads, run_of(part)?)?;
    Ok(ours.into_iter().map(|name| format!("the database {name} of {}", reach.name())).collect())
}

/// Removes what was kept, and the dump.
pub(super) fn commit(reach: &Reach<'_>, part: &Part) -> Result<()> {
    let run = run_of(part)?;
    if let Some(loads) = read(reach, part)? {
        let mut admin = reach.admin(&loads.names())?;
        let there = all(&mut admin, reach)?;
        for (name, oid) in &loads.oids {
            if there.get(name) != Some(oid) && there.contains_key(&Names::of(name, run).kept) {
                let why = format!(
                    "{name:?} is neither replaced nor rolled back: finish the one or the other first"
                );
                return Err(reach.failed("remove what was kept", why));
            }
        }
        for name in ours(&mut admin, reach, &loads, run)? {
            remove(&mut admin, reach, &name)?;
        }
    }
    let held = file(part)?;
    reach::within(reach.place, || {
        crate::swap::remove(&part.target)?;
        crate::swap::remove(&held)
    })?
}

impl Loads {
    fn names(&self) -> Vec<&str> {
        self.oids.keys().map(String::as_str).collect()
    }
}

/// The databases that are only kept, of those that a run has made or moved.
fn ours(admin: &mut Connection, reach: &Reach<'_>, loads: &Loads, run: &str) -> Result<Vec<String>> {
    let there = all(admin, reach)?;
    let names = loads.oids.keys().flat_map(|name| {
        let Names { beside, kept, undone } = Names::of(name, run);
        [beside, kept, undone]
    });
    Ok(names.filter(|name| there.contains_key(name)).collect())
}

/// All databases, by name and number.
fn all(admin: &mut Connection, reach: &Reach<'_>) -> Result<BTreeMap<String, u32>> {
    let rows = admin.query("select datname, oid::text from pg_catalog.pg_database");
    let rows = rows.map_err(|error| reach.at("ask what it has", &error))?;
    let pair = |row: Vec<Option<Vec<u8>>>| {
        let mut fields = row.into_iter().map(|field| text(field.unwrap_or_default()));
        Some((fields.next()?, fields.next()?.parse().ok()?))
    };
    Ok(rows.rows.into_iter().filter_map(pair).collect())
}

/// Changes names, all or none.
fn rename(admin: &mut Connection, reach: &Reach<'_>, renames: &[(String, String)]) -> Result<()> {
    if renames.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = renames.iter().map(|(from, _)| from.as_str()).collect();
    nobody_connected(admin, reach, &names)?;
    let mut all = || {
        admin.query("begin")?;
        for (from, to) in renames {
            admin.query(&format!("alter database {} rename to {}", id(from), id(to)))?;
        }
        admin.query("commit")
    };
    match all() {
        Ok(_) => Ok(()),
        Err(error) => {
            // The end of the session does the same.
            _ = admin.query("rollback");
            Err(reach.at(ACTION, &error))
        }
    }
}

fn remove(admin: &mut Connection, reach: &Reach<'_>, name: &str) -> Result<()> {
    let dropped = admin.query(&format!("drop database if exists {}", id(name)));
    dropped.map(drop).map_err(|error: Failure| reach.at("remove a database", &error))
}

/// Where it is written down what was loaded.
fn file(part: &Part) -> Result<PathBuf> {
    let run = run_of(part)?;
    Ok(part.target.with_file_name(format!("loaded-{run}.json")))
}

fn read(reach: &Reach<'_>, part: &Part) -> Result<Option<Loads>> {
    let path = file(part)?;
    let found = reach::within(reach.place, || fs::read(&path))?;
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let wrong = |error: serde_json::Error| Error::io("read", &path)(error.into());
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}

/// Writes it down durably: it says what may be moved.
fn write(reach: &Reach<'_>, part: &Part, loads: &Loads) -> Result<()> {
    let path = file(part)?;
    let text = serde_json::to_vec(loads).expect("it has only text keys");
    let written = || -> std::io::Result<()> {
        let beside = path.with_extension("new");
        fs::write(&beside, text)?;
        fs::File::open(&beside)?.sync_all()?;
        fs::rename(&beside, &path)?;
        path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    };
    reach::within(reach.place, written)?.map_err(Error::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_cut_are_told_apart() {
        let run = "20261121-234455-123-restore-ab12";
        assert_eq!(beside("shop", run), format!("shop.lifeboat-{run}"));
        let long = "a-database-with-a-name-that-is-as-long-as-names-can-be";
        let (one, other) = (format!("{long}-1"), format!("{long}-2"));
        let names = [beside(&one, run), beside(&other, run), kept_name(&one, run)];
        assert!(names.iter().all(|name| name.len() <= NAME_BYTES_MAX && name.contains(run)), "{names:?}");
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        // Not in the middle of a letter.
        assert!(beside(&"ä".repeat(31), run).len() <= NAME_BYTES_MAX);
    }
}
