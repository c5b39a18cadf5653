//! What is shown about a restored cluster: it is the one, it replays its log to the end of the backup, it answers as the
//! source did, its indexes and pages are whole.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use place::Place;

use super::super::{Cancel, Part, PointFacts, PostgresOptions, Proof};
use super::boot::{Boot, No, Private, Recovery, hindrance, programs};
use super::connection::{Connection, Failure, Login};
use super::control::Control;
use super::listing::Tablespace;
use super::log::Lsn;
use super::{detail, facts, identity, links};
use crate::{Error, Result};

const BOOT: &str = "the server starts and replays its log";
/// How many findings of a check are told.
const FINDINGS_MAX: usize = 5;

/// Shows what can be shown about `parts`, which no server has open.
pub(super) fn prove(
    options: &PostgresOptions,
    place: &Place,
    parts: &[Part],
    recorded: &PointFacts,
    cancel: &Cancel,
) -> Result<Proof> {
    let mut proof = Proof::default();
    let Some(part) = parts.last() else {
        proof.unknown("data directory", "one", "the point has no parts");
        return Ok(proof);
    };
    let data = &part.beside;
    let within =
        |error: place::Error| Error::Command { what: "the proof".to_owned(), why: error.to_string() };
    let (found, control, major) = place.within(|| look(data)).map_err(within)??;
    match &control {
        Ok(control) => {
            let expected = recorded.identity.clone().unwrap_or_default();
            proof.compare("cluster", expected, identity(control.system));
        }
        Err(why) => proof.compare("pg_control", "whole", why),
    }
    if proof.outcome() == super::super::Proven::Failed {
        return Ok(proof);
    }
    let owner = (found.uid(), found.gid());
    if let Some(why) = hindrance(owner.0) {
        proof.unknown(BOOT, "it does", why);
        return Ok(proof);
    }
    let programs = match place.within(|| programs(options.binaries.as_deref(), &major)).map_err(within)? {
        Ok(programs) => programs,
        Err(why) => {
            proof.unknown(BOOT, "it does", why);
            return Ok(proof);
        }
    };
    let of = |name: &str| recorded.details.get(name).map_or("", String::as_str);
    let settings = serde_json::from_str(of(detail::SETTINGS)).unwrap_or_default();
    let tablespaces: Vec<Tablespace> = serde_json::from_str(of(detail::TABLESPACES)).unwrap_or_default();
    let boot = Boot {
        place,
        data,
        programs,
        owner,
        settings,
        timeout: options.proof_timeout,
        cancel,
        recovery: match recorded.details.get(detail::FROM_STANDBY).map(String::as_str) {
            Some("true") => Recovery::StandbysBackup,
            _ => Recovery::Backup,
        },
    };

    let beside = links::locations(&tablespaces, parts, |part| &part.beside)?;
    let home = links::locations(&tablespaces, parts, |part| &part.target)?;
    if made_tablespaces(&mut proof, &boot, recorded)? {
        return Ok(proof);
    }
    boot.within(|| links::set(data, &beside))??;
    let booted = boot.start()?;
    let ended = match booted {
        Ok(server) => {
            proof.compare(BOOT, "it does", "it does");
            let login = Login {
                user: super::server::login(options, owner.0).user,
                database: options.database.clone(),
                password: None,
                tls: None,
            };
            ask(&mut proof, &server, &login, options, recorded)?;
            Some(server.stop()?)
        }
        Err(No::Wrong(said)) => {
            proof.compare(BOOT, "it does", said);
            None
        }
        Err(No::Untried(why)) => {
            proof.unknown(BOOT, "it does", why);
            None
        }
    };
    match ended {
        Some(Ok(())) => checksums(&mut proof, &boot, recorded)?,
        Some(Err(why)) => proof.unknown("an orderly stop", "it stops", why),
        None => {}
    }
    boot.clean()?;
    boot.within(|| links::set(data, &home))??;
    Ok(proof)
}

/// Looks at a restored data directory: its owner, its control file or what is wrong with it, its version.
type Looked = (fs::Metadata, std::result::Result<Control, String>, String);

fn look(data: &Path) -> Result<Looked> {
    let found = fs::metadata(data).map_err(Error::io("look at", data))?;
    let control = Control::read(data).map_err(|error| error.to_string());
    let version = data.join("PG_VERSION");
    let major = fs::read_to_string(&version).map_err(Error::io("read", &version))?;
    Ok((found, control, major.trim().to_owned()))
}

/// Looks for tablespaces that the log would make or remove at their own paths, outside of what was restored; tells
/// whether there are any, so that the server must not be started.
fn made_tablespaces(proof: &mut Proof, boot: &Boot<'_>, recorded: &PointFacts) -> Result<bool> {
    const WHAT: &str = "tablespaces made in the log";
    let of = |name: &str| recorded.details.get(name).cloned().unwrap_or_default();
    let is_fresh = boot.within(|| boot.data.join("backup_label").exists())?;
    if !is_fresh {
        return Ok(false);
    }
    let log: PathBuf = boot.data.join("pg_wal");
    let (start, stop, timeline) = (of(detail::START), of(detail::STOP), of(detail::TIMELINE));
    let arguments =
        ["--rmgr=Tablespace", "--start", &start, "--end", &stop, "--timeline", &timeline, "--path"];
    let found = boot.run_on("pg_waldump", &arguments, &log)?;
    // What is wrong with the log, the server says better.
    let made: Vec<String> =
        found.out.text().lines().filter(|line| line.contains("Tablespace")).map(str::to_owned).collect();
    if made.is_empty() {
        return Ok(false);
    }
    proof.compare(WHAT, "none", made.into_iter().take(FINDINGS_MAX).collect::<Vec<_>>().join("; "));
    Ok(true)
}

/// Asks the running server everything that is to be asked.
fn ask(
    proof: &mut Proof,
    server: &Private<'_>,
    login: &Login,
    options: &PostgresOptions,
    recorded: &PointFacts,
) -> Result<()> {
    let mut connection = match server.connect(login) {
        Ok(connection) => connection,
        Err(Failure::Interrupted) => return Err(Error::Interrupted),
        Err(error) => {
            proof.unknown("facts", "asked", error);
            return Ok(());
        }
    };
    let stop = recorded.details.get(detail::STOP).and_then(|stop| stop.parse::<Lsn>().ok());
    match (stop, connection.known("select pg_catalog.pg_current_wal_insert_lsn()")) {
        (Some(stop), Ok(found)) => {
            let reached = found.parse::<Lsn>().is_ok_and(|found| found >= stop);
            let found = if reached { "reached".to_owned() } else { found };
            proof.compare(format!("the end of the backup at {stop}"), "reached", found);
        }
        (_, Err(error)) => proof.unknown("the end of the backup", "reached", error),
        (None, _) => proof.unknown("the end of the backup", "reached", "the point does not say where it is"),
    }
    if recorded.facts.all().next().is_none() {
        // It was replayed beyond the moment in which they were measured.
        facts::asked(proof, &options.facts, &mut connection, options.query_timeout)?;
    } else {
        let declared: Vec<String> = options.facts.iter().map(|(name, _)| name.clone()).collect();
        facts::compare(proof, recorded, &declared, &mut connection, options.query_timeout)?;
    }
    amcheck(proof, &mut connection)
}

/// Checks every index of the database, where its administrator has installed the extension for that.
fn amcheck(proof: &mut Proof, connection: &mut Connection) -> Result<()> {
    const WHAT: &str = "amcheck";
    let schema = "select n.nspname from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace \
                  where e.extname = 'amcheck'";
    let Ok(Some(schema)) = connection.value(schema) else { return Ok(()) };
    let schema = schema.replace('"', "\"\"");
    let indexes = "select c.oid::regclass::text, c.oid::text from pg_catalog.pg_class c join pg_catalog.pg_am a on \
                   a.oid = c.relam join pg_catalog.pg_index i on i.indexrelid = c.oid where a.amname = 'btree' and \
                   c.relpersistence = 'p' and c.relkind = 'i' and i.indisvalid and i.indisready order by c.oid";
    let found = match connection.query(indexes) {
        Ok(found) => found,
        Err(error) => {
            proof.unknown(WHAT, "no findings", error);
            return Ok(());
        }
    };
    let mut findings = Vec::new();
    for row in found.rows {
        let mut fields = row.into_iter().map(|field| super::connection::text(field.unwrap_or_default()));
        let (name, oid) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        match connection.query(&format!("select \"{schema}\".bt_index_check({oid}::oid::regclass)")) {
            Ok(_) => {}
            Err(Failure::Interrupted) => return Err(Error::Interrupted),
            Err(error) if error.code().starts_with("XX") => findings.push(format!("{name}: {error}")),
            Err(error) => {
                proof.unknown(WHAT, "no findings", error);
                return Ok(());
            }
        }
    }
    let count = findings.len();
    findings.truncate(FINDINGS_MAX);
    let told = if count == 0 { "no findings".to_owned() } else { findings.join("; ") };
    proof.compare(WHAT, "no findings", told);
    Ok(())
}

/// Checks every page of the stopped cluster, where it has checksums.
fn checksums(proof: &mut Proof, boot: &Boot<'_>, recorded: &PointFacts) -> Result<()> {
    if recorded.details.get(detail::CHECKSUMS).map(String::as_str) != Some("true") {
        return Ok(());
    }
    let checked = boot.run("pg_checksums", &["--check", "-D"])?;
    if checked.success() {
        proof.compare("pg_checksums", "no bad page", "no bad page");
        return Ok(());
    }
    let said = format!("{}{}", checked.out.text(), checked.err.text());
    let bad: Vec<&str> = said.lines().filter(|line| line.contains("checksum verification failed")).collect();
    if bad.is_empty() {
        proof.unknown("pg_checksums", "no bad page", format!("it {}: {}", checked.end, said.trim()));
    } else {
        proof.compare("pg_checksums", "no bad page", bad[..bad.len().min(FINDINGS_MAX)].join("; "));
    }
    Ok(())
}
