//! What is shown about dumps in a restore test: they are loaded into a private cluster that is made for it, and every fact is
//! what was measured in the snapshot that they were made of. The cluster is thrown away, however the test ends.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use place::{Command, Place};

use super::super::super::{Cancel, Part, PointFacts, Proof, appended};
use super::super::boot::{Boot, No, Recovery};
use super::super::connection::Connection;
use super::load::{Loaded, Loader};
use super::programs::{self, Programs};
use super::reach::{self, Reach};
use super::script::id;
use super::{Contents, DATABASES, Dumps, SERVER_ROLES, measure};
use crate::facts::Value;
use crate::{Error, Result};

const SERVER: &str = "a private server";
/// The user as whom a private server runs when we are root, who must not.
const SERVER_USER: &str = "postgres";

/// A private server holds nothing that must survive.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "1GB"),
    ("maintenance_work_mem", "128MB"),
];

/// Loads `part` into a private server and compares.
pub(super) fn prove(
    dumps: &Dumps,
    part: &Part,
    contents: &Contents,
    recorded: &PointFacts,
    cancel: &Cancel,
) -> Result<Proof> {
    let mut proof = Proof::default();
    let (place, binaries) = (&dumps.place, dumps.options.binaries.as_deref());
    let programs = match programs::find(place, binaries, contents.programs, programs::SERVER, cancel)? {
        Ok(programs) => programs,
        Err(why) => {
            proof.unknown(SERVER, "it starts", why);
            return Ok(proof);
        }
    };
    let user = match rustix::process::geteuid().is_root() {
        false => None,
        true => match reach::within(place, || reach::user_named(SERVER_USER))? {
            Some(user) => Some(user),
            None => {
                let why = format!(
                    "PostgreSQL does not run as root, and there is no user {SERVER_USER} on this machine"
                );
                proof.unknown(SERVER, "it starts", why);
                return Ok(proof);
            }
        },
    };
    let cluster = Cluster { place, root: appended(&part.beside, ".cluster"), user };
    if let Err(no) = cluster.make(dumps, &programs, contents, cancel)? {
        told(&mut proof, SERVER, "it starts", Err(no));
        return Ok(proof);
    }
    let data = cluster.data();
    let boot = Boot {
        place,
        data: &data,
        programs: programs.directory.clone(),
        owner: user.unwrap_or((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())),
        settings: SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        timeout: dumps.options.timeout,
        cancel,
        recovery: Recovery::Backup,
    };
    let server = match boot.start()? {
        Ok(server) => server,
        Err(No::Wrong(why) | No::Untried(why)) => {
            proof.unknown(SERVER, "it starts", why);
            return Ok(proof);
        }
    };
    let reach = Reach::private(server.socket(), &contents.bootstrap, dumps.options.timeout, place, cancel);
    let loader = Loader { reach: &reach, programs: &programs.directory, contents, dump: &part.beside };
    let mut admin = reach.open("template1")?;
    cluster.tablespaces(&mut admin, contents, &reach)?;
    // It is there from the start, and may be among what was dumped.
    let dropped = admin.query("drop database if exists postgres");
    dropped.map_err(|error| reach.at("make room for the database postgres", &error))?;
    let same = |name: &str| name.to_owned();
    load_and_compare(&mut proof, &loader, dumps, recorded, &mut admin, &same)?;
    if proof.outcome() == super::super::super::Proven::Proven {
        for database in &contents.databases {
            let given = loader.properties(&mut admin, database)?;
            told(&mut proof, format!("comments, settings and rights of {}", database.name), "given", given);
        }
    }
    Ok(proof)
}

/// Loads everything under the names that `names` gives, and compares the facts.
pub(super) fn load_and_compare(
    proof: &mut Proof,
    loader: &Loader<'_>,
    dumps: &Dumps,
    recorded: &PointFacts,
    admin: &mut Connection,
    names: &dyn Fn(&str) -> String,
) -> Result<()> {
    let contents = loader.contents;
    told(proof, "the roles of the server", "made", loader.roles(admin)?);
    let mut loaded = 0;
    for database in &contents.databases {
        let outcome = loader.database(admin, database, &names(&database.name))?;
        loaded += i64::from(outcome.is_ok());
        told(proof, format!("the dump of {}", database.name), "loaded", outcome);
    }
    if proof.outcome() != super::super::super::Proven::Proven {
        // What is not there need not be asked.
        return Ok(());
    }
    let missing = super::load::missing_roles(admin, loader.reach, contents)?.len();
    let roles = i64::try_from(contents.roles.len() - missing).unwrap_or(i64::MAX);
    for (name, found) in [(DATABASES, loaded), (SERVER_ROLES, roles)] {
        match recorded.facts.automatic.get(name) {
            Some(expected) => proof.agree(name, expected, &Value::Integer(found)),
            None => proof.unknown(name, "", "the point does not record it"),
        }
    }
    let options = &dumps.options;
    measure::compare(proof, recorded, contents, &options.facts, options.query_timeout, &mut |database| {
        loader.reach.connect(&names(database))
    })
}

/// Adds what came of something that must succeed.
pub(super) fn told(proof: &mut Proof, what: impl Into<String>, expected: &str, outcome: Loaded) {
    match outcome {
        Ok(()) => proof.compare(what, expected, expected),
        Err(No::Wrong(said)) => proof.compare(what, expected, said),
        Err(No::Untried(why)) => proof.unknown(what, expected, why),
    }
}

/// A cluster that is made for a proof; dropping it removes it. Its server must have been stopped.
struct Cluster<'a> {
    place: &'a Place,
    root: PathBuf,
    user: Option<(u32, u32)>,
}

impl Cluster<'_> {
    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn make(
        &self,
        dumps: &Dumps,
        programs: &Programs,
        contents: &Contents,
        cancel: &Cancel,
    ) -> Result<Loaded> {
        reach::within(self.place, || {
            crate::swap::remove(&self.root)?;
            let made = fs::DirBuilder::new().mode(0o700).create(&self.root);
            made.map_err(Error::io("make", &self.root))?;
            super::give(&self.root, self.user)
        })??;
        let arguments = [
            "--auth=trust".into(),
            "--no-sync".into(),
            "--encoding=UTF8".into(),
            "--locale=C".into(),
            format!("--username={}", contents.bootstrap).into(),
            "-D".into(),
            self.data().into(),
        ];
        let command: Command = reach::plain(&programs.directory.join("initdb"), arguments.into());
        let command = match self.user {
            Some((uid, gid)) => command.user(uid, gid),
            None => command,
        };
        Ok(reach::run(self.place, &command, dumps.options.timeout, cancel)?.map(drop).map_err(No::Untried))
    }

    /// Makes the tablespaces, in scratch: their own directories may be in use.
    fn tablespaces(&self, admin: &mut Connection, contents: &Contents, reach: &Reach<'_>) -> Result<()> {
        for (number, name) in contents.tablespaces.iter().enumerate() {
            let directory: PathBuf = self.root.join(format!("tablespace-{number}"));
            reach::within(self.place, || {
                fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&directory)
                    .map_err(Error::io("make", &directory))?;
                super::give(&directory, self.user)
            })??;
            let location = super::super::connection::literal(&directory.to_string_lossy());
            let sql = format!("create tablespace {} location {location}", id(name));
            admin.query(&sql).map_err(|error| reach.at("make a tablespace", &error))?;
        }
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let root: &Path = &self.root;
        // What is left is removed with the scratch of the run.
        _ = self.place.within(|| crate::swap::remove(root));
    }
}
