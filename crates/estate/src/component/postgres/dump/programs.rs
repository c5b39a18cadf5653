//! PostgreSQL's programs of a version, or of a later one: a dump is made by a `pg_dump` that is not older than its server,
//! and read by a `pg_restore` that is not older than its `pg_dump`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use place::Place;

use super::super::super::Cancel;
use super::reach;
use crate::Result;

/// Where packages put the programs of a version.
const VERSIONED: &[&str] = &["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin"];
const PLAIN: &[&str] = &["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"];
/// How many versions later programs are looked for: each reads dumps of those from ten years before.
const LATER_MAX: u32 = 10;
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// What makes and reads dumps.
pub(super) const CLIENT: &[&str] = &["pg_dump", "pg_dumpall", "pg_restore"];
/// What a private server needs, too.
pub(super) const SERVER: &[&str] = &["pg_restore", "initdb", "postgres", "pg_ctl"];

/// A directory of programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    pub directory: PathBuf,
    /// Their version, such as 15.
    pub major: u32,
}

/// Finds the programs `wanted` of version `major` or later; the reason in words when there are none.
pub(super) fn find(
    place: &Place,
    given: Option<&Path>,
    major: u32,
    wanted: &[&str],
    cancel: &Cancel,
) -> Result<std::result::Result<Programs, String>> {
    let directories: Vec<PathBuf> = match given {
        Some(given) => vec![given.to_owned()],
        None => (major..=major + LATER_MAX)
            .flat_map(|major| VERSIONED.iter().map(move |pattern| pattern.replace("{}", &major.to_string())))
            .chain(PLAIN.iter().map(|&plain| plain.to_owned()))
            .map(PathBuf::from)
            .collect(),
    };
    let whole = |directory: &PathBuf| wanted.iter().all(|name| directory.join(name).is_file());
    let found: Vec<PathBuf> =
        reach::within(place, || directories.into_iter().filter(whole).collect::<Vec<_>>())?;
    let mut older = Vec::new();
    for directory in found {
        let program = directory.join(wanted[0]);
        let asked = reach::plain(&program, vec!["--version".into()]);
        match reach::run(place, &asked, VERSION_TIMEOUT, cancel)?.as_deref().map(version) {
            Ok(Some(found)) if found >= major => return Ok(Ok(Programs { directory, major: found })),
            Ok(Some(found)) => older.push(format!("{} is of PostgreSQL {found}", program.display())),
            Ok(None) => older.push(format!("{} does not say its version", program.display())),
            Err(why) => older.push(format!("{}: {why}", program.display())),
        }
    }
    let where_to = given.map_or_else(String::new, |given| format!(" in {}", given.display()));
    let older = if older.is_empty() { String::new() } else { format!(" ({})", older.join("; ")) };
    let package = if wanted == CLIENT { "postgresql-client" } else { "postgresql" };
    Ok(Err(format!(
        "there is no {} of PostgreSQL {major} or later{where_to}{older}: install it (on Debian `{package}-{major}`), or \
         name its directory with `binaries:`",
        wanted.join(", ")
    )))
}

/// Reads `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn version(text: &str) -> Option<u32> {
    let number = text.split_once(") ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(version("pg_restore (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(version("pg_dump"), None);
    }
}
