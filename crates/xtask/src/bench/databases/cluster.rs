//! PostgreSQL servers of the benchmark: made, filled by pgbench, asked, started on what was restored.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::home::{Home, as_user, text};
use crate::packages::{Package, postgres_programs};
use crate::process::{Result, output};

/// The user of the server, who owns its data directory.
pub const USER: &str = "postgres";
/// What brings the server.
pub const PACKAGE: Package = Package { name: "postgresql", present: || postgres_programs().is_some() };
/// What has been measured must be there afterwards: rows and sums over all of them.
const FACTS: &str = "select (select (count(*), sum(abalance), sum(bid)) from pgbench_accounts), \
    (select (count(*), sum(delta)) from pgbench_history), (select sum(bbalance) from pgbench_branches)";
const PAGE_BYTES: usize = 8192;

/// A data directory and the server on it; the server is stopped with this.
pub struct Cluster {
    programs: PathBuf,
    pub data: PathBuf,
    /// The directory of its socket and its log.
    pub sockets: PathBuf,
    /// Given to the server when it starts, and stronger than its configuration.
    options: String,
}

impl Cluster {
    /// Makes one with page checksums in the home, configures it, and starts its server.
    ///
    /// Nothing listens on a network, and nobody waits for a disk: the data is made up.
    pub fn make(home: &Home, initdb: &[&str], settings: &str) -> Result<Self> {
        let cluster = Self::at(&home.path.join("data"), &home.path, "-c fsync=off")?;
        let options = ["--data-checksums", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"];
        output(cluster.program("initdb").args(options).args(initdb).arg("-D").arg(&cluster.data))?;
        let configuration = cluster.data.join("postgresql.conf");
        let default = fs::read_to_string(&configuration)?;
        fs::write(&configuration, format!("{default}\n{settings}\n"))?;
        cluster.start()?;
        Ok(cluster)
    }

    /// What is in that directory, with its socket in another.
    pub fn at(data: &Path, sockets: &Path, options: &str) -> Result<Self> {
        let programs = postgres_programs().ok_or("no programs of a PostgreSQL server are installed")?;
        let options =
            format!("-c listen_addresses='' -c unix_socket_directories={} {options}", text(sockets)?);
        Ok(Self { programs, data: data.to_owned(), sockets: sockets.to_owned(), options })
    }

    /// Starts the server and waits until it answers.
    pub fn start(&self) -> Result<()> {
        let log = self.sockets.join("log");
        let mut command = self.program("pg_ctl");
        command.args(["start", "-w", "-s", "-t", "600", "-l"]).arg(&log).arg("-D").arg(&self.data);
        output(command.arg("-o").arg(&self.options))
            .map_err(|error| format!("{error}\n{}", fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(())
    }

    /// Stops the server in order.
    pub fn stop(&self) -> Result<()> {
        output(self.program("pg_ctl").args(["stop", "-w", "-s", "-m", "fast", "-D"]).arg(&self.data))
            .map(drop)
    }

    /// The answer to a question, fields separated by `|`.
    pub fn ask(&self, question: &str) -> Result<String> {
        self.ask_in("postgres", question)
    }

    fn ask_in(&self, database: &str, question: &str) -> Result<String> {
        output(self.client("psql").args(["-AtXq", "-v", "ON_ERROR_STOP=1", "-c", question, database]))
    }

    /// Runs pgbench.
    pub fn pgbench(&self, options: &[&str]) -> Result<()> {
        output(self.client("pgbench").args(options).arg("postgres")).map(drop)
    }

    /// Runs pgbench and gives its transactions a second.
    pub fn transactions(&self, options: &[&str]) -> Result<f64> {
        let said = output(self.client("pgbench").args(options).arg("postgres"))?;
        let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.ok_or_else(|| format!("pgbench does not say how fast it was: {said}").into())
    }

    /// Rows and sums of all tables of pgbench in a database.
    pub fn facts(&self, database: &str) -> Result<String> {
        self.ask_in(database, FACTS)
    }

    /// Lets the server archive its log by a command from now on; by none, if it is empty.
    pub fn archive_by(&self, command: &str) -> Result<()> {
        let quoted = command.replace('\'', "''");
        self.ask(&format!("alter system set archive_command = '{quoted}'"))?;
        self.ask("select pg_reload_conf()").map(drop)
    }

    /// The share of pages that were written after a position of the log, and of how many.
    pub fn changed_since(&self, lsn: &str) -> Result<(f64, u64)> {
        self.ask("checkpoint")?;
        let since = parse_lsn(lsn).ok_or_else(|| format!("{lsn} is no position of a log"))?;
        let (mut changed, mut all) = (0, 0);
        for database in self.data.join("base").read_dir()? {
            for file in database?.path().read_dir()? {
                let path = file?.path();
                if is_relation(&path) {
                    let bytes = fs::read(&path)?;
                    all += (bytes.len() / PAGE_BYTES) as u64;
                    changed += bytes.chunks_exact(PAGE_BYTES).filter(|page| page_lsn(page) > since).count();
                }
            }
        }
        Ok((changed as f64 / all as f64, all))
    }

    /// Starts the server on what was restored, compares its facts, stops it, and has every page's checksum verified.
    pub fn expect(&self, facts: &str) -> Result<()> {
        self.start()?;
        let found = self.facts("postgres");
        self.stop()?;
        let found = found?;
        if found != facts {
            return Err(format!(
                "{} is not what was backed up: it has {found} instead of {facts}",
                self.data.display()
            )
            .into());
        }
        output(self.program("pg_checksums").args(["--check", "-D"]).arg(&self.data)).map(drop)
    }

    /// What [`expect`](Self::expect) does as a line of shell, as whoever wants to be sure would type it.
    pub fn proof(&self) -> Result<String> {
        let (programs, data, sockets) = (text(&self.programs)?, text(&self.data)?, text(&self.sockets)?);
        let options = &self.options;
        Ok(format!(
            "'{programs}/pg_ctl' start -w -s -t 600 -l '{sockets}/log' -D '{data}' -o \"{options}\"; \
             '{programs}/psql' -AtXq -h '{sockets}' -c '{FACTS}' postgres; \
             '{programs}/pg_ctl' stop -w -s -m fast -D '{data}'; '{programs}/pg_checksums' --check -D '{data}'"
        ))
    }

    /// A line of shell can name the programs by this.
    pub fn programs(&self) -> Result<&str> {
        text(&self.programs)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.program(program);
        command.arg("-h").arg(&self.sockets);
        command
    }

    fn program(&self, program: &str) -> Command {
        let mut command = as_user(Some(USER), self.programs.join(program).as_os_str());
        command.current_dir(OsStr::new("/"));
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists()
            && let Err(error) = self.stop()
        {
            eprintln!("the server of {} may still run: {error}", self.data.display());
        }
    }
}

/// The number of a position of the log that is written as `1/AB`.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let (high, low) = (u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?);
    Some(u64::from(high) << 32 | u64::from(low))
}

/// The position of the log at which a page was last changed: its first 8 bytes, the more significant half first.
fn page_lsn(page: &[u8]) -> u64 {
    let word = |at: usize| u32::from_ne_bytes(*page[at..].first_chunk().expect("a page has 8 bytes"));
    u64::from(word(0)) << 32 | u64::from(word(4))
}

/// Whether it holds pages of a table or an index: `16384`, `16384.1`.
fn is_relation(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    !name.is_empty()
        && name.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_the_server_writes_them() {
        assert_eq!(parse_lsn("1/AB"), Some(0x1_0000_00ab));
        assert_eq!(parse_lsn("0/FFFFFFFF"), Some(0xffff_ffff));
        assert_eq!(parse_lsn("AB"), None);
        let mut page = [0_u8; PAGE_BYTES];
        page[..4].copy_from_slice(&1_u32.to_ne_bytes());
        page[4..8].copy_from_slice(&0xab_u32.to_ne_bytes());
        assert_eq!(page_lsn(&page), 0x1_0000_00ab);
    }

    #[test]
    fn relations_are_told_from_maps_and_versions() {
        for (name, expected) in [
            ("16384", true),
            ("16384.12", true),
            ("16384_vm", false),
            ("PG_VERSION", false),
            ("t3_16384", false),
        ] {
            assert_eq!(is_relation(Path::new("/base/5").join(name).as_path()), expected, "{name}");
        }
    }
}
