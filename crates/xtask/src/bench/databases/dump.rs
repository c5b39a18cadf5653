//! `dump`: the same cluster as runbooks keep it, by `pg_dump | gzip` and `gunzip | psql`.

use super::super::corpus;
use super::cluster::{Cluster, USER};
use super::document::{Section, Unit};
use super::home::{Bench, text};
use super::postgres::component;
use crate::process::Result;

const BACKUP: &str = "backup";
const RESTORE: &str = "restore";

/// Measures it.
pub fn measure(bench: &Bench, cluster: &Cluster) -> Result<Section> {
    println!("dump");
    let mut section = Section {
        title: "PostgreSQL, by dumps",
        about: "The same cluster. By hand it is `pg_dump | gzip`, and back `createdb` and `gunzip | psql` into a server that runs \
                already; nothing is proven. Lifeboat's backup is a first one of the whole cluster, its restore \
                (`lifeboat restore --to`) is proven by a server that is started on it, and by the checksum of every page."
            .to_owned(),
        columns: vec!["lifeboat", "by hand"],
        ..Section::default()
    };
    let facts = cluster.facts("postgres")?;
    cluster.archive_by("true")?;
    for run in 0..bench.runs {
        lifeboat(bench, cluster, run, &facts, &mut section)?;
        by_hand(bench, cluster, run, &facts, &mut section)?;
    }
    Ok(section)
}

fn lifeboat(bench: &Bench, cluster: &Cluster, run: u32, facts: &str, section: &mut Section) -> Result<()> {
    let home = bench.home(&format!("dump-{run}/lifeboat"), None)?;
    home.plan(&component(cluster)?)?;
    let backup = bench.time("lifeboat: backup", &home.lifeboat(&["backup"]), &cluster.data.join("base"))?;
    section.add(BACKUP, Unit::Seconds, 0, backup);
    // What is restored is the server's, and so is the directory in which it listens.
    let to = bench.home(&format!("dump-{run}/restored"), Some(USER))?;
    let restore = home.lifeboat(&["restore", "orders", "--to", text(&to.path)?, "--yes"]);
    let restore = bench.time("lifeboat: restore", &restore, &home.path.join("repository"))?;
    section.add(RESTORE, Unit::Seconds, 0, restore);
    let data = to.path.join("data");
    Cluster::at(&data, &to.path, "-c fsync=off -c archive_mode=off")?.expect(facts)?;
    corpus::remove(&to.path)?;
    corpus::remove(&home.path)
}

fn by_hand(bench: &Bench, cluster: &Cluster, run: u32, facts: &str, section: &mut Section) -> Result<()> {
    let home = bench.home(&format!("dump-{run}/by-hand"), Some(USER))?;
    let (programs, sockets) = (cluster.programs()?, text(&cluster.sockets)?);
    let dump = format!("'{programs}/pg_dump' -h '{sockets}' postgres | gzip > dump.sql.gz");
    let dump = bench.time("by hand: pg_dump | gzip", &home.shell(&dump), &cluster.data.join("base"))?;
    section.add(BACKUP, Unit::Seconds, 1, dump);
    let back = format!(
        "'{programs}/createdb' -h '{sockets}' restored; gunzip < dump.sql.gz | \
         '{programs}/psql' -h '{sockets}' -X -q -v ON_ERROR_STOP=1 restored"
    );
    let back = bench.time("by hand: gunzip | psql", &home.shell(&back), &home.path)?;
    section.add(RESTORE, Unit::Seconds, 1, back);
    let found = cluster.facts("restored")?;
    if found != facts {
        return Err(format!("the dump brought back {found} instead of {facts}").into());
    }
    cluster.ask("drop database restored")?;
    corpus::remove(&home.path)
}
