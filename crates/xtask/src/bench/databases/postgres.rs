//! `postgres`: whole backups of a running cluster and what they become again, beside pgBackRest.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::corpus;
use super::super::measure::Invocation;
use super::cluster::{Cluster, USER};
use super::document::{Section, Unit};
use super::home::{Bench, Home, text};
use super::pgbackrest::PgBackRest;
use crate::process::{Result, output};

/// pgbench's scale at scale 1: about 1.9 GB of tables and indexes; with its log the directory has 2.3 GB.
const SCALE: f64 = 128.0;
/// Transactions of each of four clients at scale 1, so that pages are not only freshly loaded ones.
const TRANSACTIONS: f64 = 10_000.0;
/// One account of so many is changed: with the pages of the index and the new versions, about 1 % of all pages.
const CHANGE_ONE_OF: u32 = 12_200;

const FIRST: &str = "first backup";
const SECOND: &str = "second backup, 1 % changed";
const RESTORE: &str = "restore into an empty directory";
const RESTORE_PROVEN: &str = "restore into an empty directory, proven";
const DELTA: &str = "restore over 1 % changed, by size and time";
const DELTA_READ: &str = "restore over 1 % changed, every byte read";
const DELTA_PROVEN: &str = "restore over 1 % changed, proven";

/// Other programs: the name in the report, that of their directory, and what is set beside what all have.
const PEERS: [(&str, &str, &[&str]); 2] = [
    ("pgBackRest", "pgbackrest", &["compress-level=2"]),
    (
        "pgBackRest, encrypted",
        "pgbackrest-encrypted",
        &["compress-level=2", "repo1-cipher-type=aes-256-cbc", "repo1-cipher-pass=benchmark"],
    ),
];

/// Makes the cluster that `postgres` and `dump` back up.
pub fn make_cluster(home: &Home, bench: &Bench) -> Result<Cluster> {
    println!("making the cluster");
    let settings = "archive_mode = on\narchive_command = 'true'\nmax_wal_size = '256MB'\nautovacuum = off";
    let cluster = Cluster::make(home, &[], settings)?;
    let accounts = bench.scaled(SCALE, 1.0).to_string();
    cluster.pgbench(&["-i", "-q", "-s", &accounts])?;
    let transactions = bench.scaled(TRANSACTIONS, 100.0).to_string();
    cluster.pgbench(&["-n", "-c", "4", "-j", "2", "--random-seed=1", "-t", &transactions])?;
    cluster.ask("vacuum")?;
    Ok(cluster)
}

/// The plan's component for it.
pub fn component(cluster: &Cluster) -> Result<String> {
    Ok(format!(
        "  orders:\n    postgres: {}\n    facts:\n      accounts: select count(*) from pgbench_accounts\n      \
         balance: select sum(abalance) from pgbench_accounts\n",
        text(&cluster.data)?
    ))
}

/// One backup program in one run.
struct Contender<'a> {
    name: &'static str,
    column: usize,
    tool: Tool<'a>,
}

enum Tool<'a> {
    Lifeboat(Home<'a>),
    PgBackRest(PgBackRest<'a>),
}

/// Measures it.
pub fn measure(bench: &Bench, cluster: &Cluster) -> Result<Section> {
    println!("postgres");
    let columns = std::iter::once("lifeboat").chain(PEERS.map(|(name, ..)| name)).collect();
    let mut section = Section { title: "PostgreSQL", columns, ..Section::default() };
    let mut changed = (0.0, 0);
    for run in 0..bench.runs {
        changed = measure_run(bench, cluster, run, &mut section)?;
    }
    section.about = about(changed);
    for peer in 1..=PEERS.len() {
        section.times_as_good(FIRST, peer, "≥ 1.5×", 1.5);
        section.times_as_good(SECOND, peer, "≥ 5×", 5.0);
        section.times_as_good(RESTORE, peer, "≥ 1.5×", 1.5);
        section.times_as_good(DELTA, peer, "≥ 5×", 5.0);
        section.times_as_good(DELTA_READ, peer, "≥ 5×", 5.0);
    }
    Ok(section)
}

fn about((share, pages): (f64, u64)) -> String {
    format!(
        "A running cluster with page checksums, {:.2} GB of tables and indexes made and used by pgbench. Before the second \
         backup and before the restores over an old directory, one account of {CHANGE_ONE_OF}, evenly spread, was changed: \
         {:.2} % of all pages, those of indexes and new versions included. pgBackRest has two processes and zstd at level 2, as \
         Lifeboat has; its second backup is an incremental one, its restore over an old directory `--delta`, which \
         always reads every byte, so that one figure of it stands in two rows. A backup of Lifeboat \
         (`lifeboat backup`) verifies every page's checksum as pgBackRest does, measures two facts, and holds the log \
         that it needs; that log goes to pgBackRest's archive. The plain restores (`lifeboat repository restore` and \
         `pgbackrest restore`) put files into place and start nothing. The proven ones (`lifeboat restore`, and with pgBackRest \
         what one types after it) also start a server, let it recover, ask it, stop it, and have `pg_checksums` read every \
         page; over an old directory Lifeboat does that beside it, and swaps at the end.",
        pages as f64 * 8192.0 / 1e9,
        100.0 * share
    )
}

fn measure_run(bench: &Bench, cluster: &Cluster, run: u32, section: &mut Section) -> Result<(f64, u64)> {
    let mut contenders = contenders(bench, cluster, run)?;
    let count = contenders.len();
    contenders.rotate_left(run as usize % count);
    for contender in &contenders {
        contender.backup(bench, cluster, false, section)?;
    }
    let changed = change(cluster, 2 * run)?;
    for contender in &contenders {
        contender.backup(bench, cluster, true, section)?;
    }
    let facts = cluster.facts("postgres")?;
    for contender in &contenders {
        contender.restore_empty(bench, cluster, &facts, section)?;
    }
    change(cluster, 2 * run + 1)?;
    cluster.archive_by("true")?;
    cluster.stop()?;
    for contender in &contenders {
        contender.restore_over(bench, cluster, &facts, section)?;
    }
    for contender in contenders {
        let home = contender.home().path.clone();
        drop(contender);
        corpus::remove(&home)?;
    }
    cluster.start()?;
    Ok(changed)
}

fn contenders<'a>(bench: &'a Bench, cluster: &Cluster, run: u32) -> Result<Vec<Contender<'a>>> {
    let home = bench.home(&format!("postgres-{run}/lifeboat"), None)?;
    home.plan(&component(cluster)?)?;
    let mut all = vec![Contender { name: "lifeboat", column: 0, tool: Tool::Lifeboat(home) }];
    for (number, (name, directory, settings)) in PEERS.iter().enumerate() {
        let peer = PgBackRest::make(bench, &format!("postgres-{run}/{directory}"), cluster, settings)?;
        all.push(Contender { name, column: number + 1, tool: Tool::PgBackRest(peer) });
    }
    Ok(all)
}

/// Changes 1 % of the pages, others each time; gives the share that was changed and the number of pages.
fn change(cluster: &Cluster, number: u32) -> Result<(f64, u64)> {
    cluster.ask("checkpoint")?;
    let before = cluster.ask("select pg_current_wal_insert_lsn()")?;
    cluster.ask(&format!(
        "update pgbench_accounts set abalance = abalance + 1 where aid % {CHANGE_ONE_OF} = {}",
        (100 + 977 * number) % CHANGE_ONE_OF
    ))?;
    cluster.changed_since(&before)
}

impl Contender<'_> {
    fn home(&self) -> &Home<'_> {
        match &self.tool {
            Tool::Lifeboat(home) => home,
            Tool::PgBackRest(peer) => &peer.home,
        }
    }

    fn repository(&self) -> PathBuf {
        self.home().path.join("repository")
    }

    fn time(&self, bench: &Bench, what: &'static str, invocation: &Invocation, reads: &Path) -> Result<f64> {
        bench.time(&format!("{}: {what}", self.name), invocation, reads)
    }

    fn backup(&self, bench: &Bench, cluster: &Cluster, again: bool, section: &mut Section) -> Result<()> {
        let what = if again { SECOND } else { FIRST };
        let invocation = match &self.tool {
            Tool::Lifeboat(home) => {
                cluster.archive_by("true")?;
                home.lifeboat(&["backup"])
            }
            Tool::PgBackRest(peer) => {
                cluster.archive_by(&peer.line("archive-push %p"))?;
                peer.call(&["backup", if again { "--type=incr" } else { "--type=full" }])
            }
        };
        let seconds = self.time(bench, what, &invocation, &cluster.data.join("base"))?;
        section.add(what, Unit::Seconds, self.column, seconds);
        let size = format!("repository after the {what}");
        section.add(&size, Unit::Megabytes, self.column, size_of(&self.repository())? as f64 / 1e6);
        Ok(())
    }

    /// Restores plainly and proven, and compares.
    fn restore_empty(
        &self,
        bench: &Bench,
        cluster: &Cluster,
        facts: &str,
        section: &mut Section,
    ) -> Result<()> {
        let target = target(self.home(), "restored")?;
        let seconds = self.time(bench, RESTORE, &self.plain(cluster, &target, false)?, &self.repository())?;
        section.add(RESTORE, Unit::Seconds, self.column, seconds);
        self.expect(&target, facts)?;
        corpus::remove(&target)?;

        let to = target_parent(self.home(), "proven")?;
        let data = to.join("data");
        let invocation = match &self.tool {
            Tool::Lifeboat(home) => home.lifeboat(&["restore", "orders", "--to", text(&to)?, "--yes"]),
            Tool::PgBackRest(peer) => {
                make_private(&data)?;
                peer.home.shell(&format!(
                    "{}; {}",
                    peer.restore_line(&data, false)?,
                    self.restored(&data)?.proof()?
                ))
            }
        };
        let seconds = self.time(bench, RESTORE_PROVEN, &invocation, &self.repository())?;
        section.add(RESTORE_PROVEN, Unit::Seconds, self.column, seconds);
        self.expect(&data, facts)?;
        corpus::remove(&to)
    }

    /// Restores over directories in which 1 % was changed since the backup, and compares.
    fn restore_over(
        &self,
        bench: &Bench,
        cluster: &Cluster,
        facts: &str,
        section: &mut Section,
    ) -> Result<()> {
        let plain = |what: &'static str, reads_all: bool| {
            let old = self.home().path.join("old");
            corpus::remove(&old)?;
            output(Command::new("cp").arg("-a").arg(&cluster.data).arg(&old))?;
            let mut invocation = self.plain(cluster, &old, true)?;
            if reads_all && matches!(self.tool, Tool::Lifeboat(_)) {
                invocation.words.extend(["--overwrite", "always"].map(Into::into));
            }
            let seconds = self.time(bench, what, &invocation, &old)?;
            self.expect(&old, facts)?;
            corpus::remove(&old)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(seconds)
        };
        let seconds = plain(DELTA, false)?;
        section.add(DELTA, Unit::Seconds, self.column, seconds);
        let seconds = match &self.tool {
            Tool::Lifeboat(_) => plain(DELTA_READ, true)?,
            // It always reads every byte.
            Tool::PgBackRest(_) => seconds,
        };
        section.add(DELTA_READ, Unit::Seconds, self.column, seconds);
        self.restore_over_proven(bench, cluster, facts, section)
    }

    fn restore_over_proven(
        &self,
        bench: &Bench,
        cluster: &Cluster,
        facts: &str,
        section: &mut Section,
    ) -> Result<()> {
        // Its own place, where alone Lifeboat replaces something: what is there is kept for the next contender.
        let kept = cluster.data.with_extension("kept");
        output(Command::new("cp").arg("-a").arg(&cluster.data).arg(&kept))?;
        let invocation = match &self.tool {
            Tool::Lifeboat(home) => home.lifeboat(&["restore", "orders", "--yes"]),
            Tool::PgBackRest(peer) => {
                let restore = peer.restore_line(&cluster.data, true)?;
                peer.home.shell(&format!("{restore}; {}", self.restored(&cluster.data)?.proof()?))
            }
        };
        let seconds = self.time(bench, DELTA_PROVEN, &invocation, &cluster.data)?;
        section.add(DELTA_PROVEN, Unit::Seconds, self.column, seconds);
        self.expect(&cluster.data, facts)?;
        if let Tool::Lifeboat(home) = &self.tool {
            bench.untimed(&home.lifeboat(&["commit", "latest", "--yes"]))?;
        }
        corpus::remove(&cluster.data)?;
        std::fs::rename(&kept, &cluster.data)?;
        Ok(())
    }

    /// Files into place, nothing else.
    fn plain(&self, cluster: &Cluster, target: &Path, over: bool) -> Result<Invocation> {
        Ok(match &self.tool {
            Tool::PgBackRest(peer) => peer.home.shell(&peer.restore_line(target, over)?),
            Tool::Lifeboat(home) => {
                let snapshot = format!("latest:{}", text(&cluster.data)?);
                let options = ["--repository", "repository", "--password-file", "password"];
                let mut invocation =
                    home.lifeboat(&["repository", "restore", &snapshot, "--target", text(target)?]);
                invocation.words.extend(options.map(Into::into));
                invocation.words.extend(over.then(|| "--delete".into()));
                invocation
            }
        })
    }

    fn restored(&self, data: &Path) -> Result<Cluster> {
        Cluster::at(data, &self.sockets(), "-c fsync=off -c archive_mode=off")
    }

    /// Where the server of what was restored has its socket and its log.
    fn sockets(&self) -> PathBuf {
        self.home().path.join("sockets")
    }

    fn expect(&self, data: &Path, facts: &str) -> Result<()> {
        give_to_server(&make_directory(&self.sockets())?)?;
        self.restored(data)?.expect(facts).map_err(|error| format!("{}: {error}", self.name).into())
    }
}

/// An empty directory for a restore, as `pgbackrest` and a server want it.
fn target(home: &Home, name: &str) -> Result<PathBuf> {
    let path = home.path.join(name);
    corpus::remove(&path)?;
    make_private(&path)?;
    Ok(path)
}

fn target_parent(home: &Home, name: &str) -> Result<PathBuf> {
    let path = home.path.join(name);
    corpus::remove(&path)?;
    give_to_server(&make_directory(&path)?)?;
    give_to_server(&make_directory(&home.path.join("sockets"))?)?;
    Ok(path)
}

fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    make_directory(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    give_to_server(path)
}

fn make_directory(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).map_err(|error| format!("failed to make {}: {error}", path.display()))?;
    Ok(path.to_owned())
}

fn give_to_server(path: &Path) -> Result<()> {
    if super::home::is_root() {
        output(Command::new("chown").arg(format!("{USER}:{USER}")).arg(path))?;
    }
    Ok(())
}

/// Bytes of all files below the directory.
fn size_of(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in directory.read_dir()? {
        let entry = entry?;
        let metadata = entry.path().symlink_metadata()?;
        bytes += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
