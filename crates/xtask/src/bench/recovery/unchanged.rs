//! The estate `unchanged`: a backup run in which nothing has changed since the last, as most of them are.

use std::time::Duration;

use super::super::corpus::{self, Kind};
use super::document::{Row, Section, Target};
use super::{Bench, Home, made};
use crate::process::Result;

/// How many databases there are, and how large each is at scale 1.
const DATABASES: usize = 10;
const DATABASE_BYTES: f64 = 100e6;
/// A database that was written to less than so long ago is read whole.
const SETTLED: Duration = Duration::from_secs(3);

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    println!("unchanged");
    let files = corpus::ensure(Kind::Files, bench.scale, &bench.corpora)?;
    let home = bench.home("unchanged", &plan(&files.path.to_string_lossy()))?;
    for number in 0..DATABASES {
        let path = home.path.join(format!("data-{number}.db"));
        made::database(&path, DATABASE_BYTES * bench.scale, 100 + number as u64)?;
    }
    rustix::fs::sync();
    std::thread::sleep(SETTLED);
    let first = bench.time("first backup", &home.lifeboat(&["backup"]), &files.path)?;
    let repository = home.path.join("repository");
    let unchanged = home.times("backup without a change", &["backup"], &repository, || Ok(()))?;
    let (backup, archive) = by_hand(&home, &files.path.to_string_lossy())?;
    let typed = "`sqlite3 .backup` ten times, `tar` and `gzip`";
    let manifest = &files.manifest;
    Ok(Section {
        title: "Nothing has changed",
        about: format!(
            "{DATABASES} SQLite databases of {:.0} MB, and {} files of {:.2} GB together; eleven components in one plan. Whoever \
             backs up by hand does everything again: {} for the databases, {} for the files.",
            DATABASE_BYTES * bench.scale / 1e6,
            manifest.files,
            manifest.bytes as f64 / 1e9,
            seconds(backup),
            seconds(archive),
        ),
        targets: vec![Target {
            what: "a backup in which nothing has changed in 10 databases of 100 MB and 100 000 files",
            target: "< 3 s".to_owned(),
            figure: super::report::median(unchanged.clone()),
            limit: 3.0,
            unit: " s",
        }],
        rows: vec![
            Row::beside("first backup", vec![first.wall_s], typed, backup + archive),
            Row::beside("backup without a change", unchanged, "the same again", backup + archive),
        ],
    })
}

/// Backs up as a script does; what the databases took, and what the files took.
fn by_hand(home: &Home, files: &str) -> Result<(f64, f64)> {
    let bench = home.bench;
    let backup = "mkdir by-hand; for number in $(seq 0 9); do sqlite3 data-$number.db \
        \".backup by-hand/data-$number.db\"; done";
    let backup = bench.time("by hand: sqlite3 .backup", &home.by_hand(backup), &home.path)?;
    let archive = format!("tar -C '{files}' -cf - . | gzip > by-hand/files.tar.gz");
    let archive = bench.time("by hand: tar | gzip", &home.by_hand(&archive), files.as_ref())?;
    Ok((backup.wall_s, archive.wall_s))
}

fn seconds(seconds: f64) -> String {
    format!("{} s", super::report::seconds(seconds))
}

fn plan(files: &str) -> String {
    let databases: String = (0..DATABASES)
        .map(|number| {
            format!("  data-{number}:\n    sqlite: data-{number}.db\n    facts: {{ orders: select count(*) from orders }}\n")
        })
        .collect();
    format!(
        "lifeboat: 1\nname: unchanged\n\nrepository:\n  location: ./repository\n  password: ${{file:password}}\n\n\
         components:\n{databases}  files:\n    files: {files}\n"
    )
}
