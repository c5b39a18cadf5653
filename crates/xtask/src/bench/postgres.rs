//! The corpus `postgres`: the data directory of a PostgreSQL server that pgbench has filled and used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::{self, Package, postgres_programs};
use crate::process::{Result, output, run};

/// pgbench's scale at scale 1: about 1.9 GB of tables and indexes; with its log the directory has 2.3 GB.
const SCALE: f64 = 128.0;
/// Transactions of each of four clients at scale 1, so that pages and log are not only freshly loaded ones.
const TRANSACTIONS: f64 = 10_000.0;

const PACKAGE: &[Package] = &[Package { name: "postgresql", present: || postgres_programs().is_some() }];

/// Makes the data directory at `root`, which must not exist.
pub fn make(root: &Path, scale: f64) -> Result<()> {
    packages::ensure(PACKAGE)?;
    let programs = postgres_programs().expect("the package has just been ensured");
    // The server refuses to run as root, and its own user cannot enter another user's cache: so the
    // directory is made where everyone may, and moved.
    let scratch = output(Command::new("mktemp").arg("--directory"))?;
    let server =
        Server { programs, data: Path::new(&scratch).join("data"), sockets: PathBuf::from(&scratch) };
    let made =
        fill(&server, &scratch, scale).and_then(|()| run(Command::new("mv").arg(&server.data).arg(root)));
    fs::remove_dir_all(&scratch).map_err(|error| format!("failed to remove {scratch}: {error}"))?;
    made
}

fn fill(server: &Server, scratch: &str, scale: f64) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown").args(["postgres", scratch]))?;
    }
    let data = server.data.as_os_str();
    output(
        server
            .command("initdb")
            .args(["--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8", "--username=bench", "-D"])
            .arg(data),
    )?;
    run(server
        .command("pg_ctl")
        .args(["start", "-w", "-s", "-l"])
        .arg(server.sockets.join("log"))
        .arg("-D")
        .arg(data)
        .arg("-o")
        .arg(server.settings()))?;
    let filled = server.transact(scale);
    run(server.command("pg_ctl").args(["stop", "-w", "-s", "-m", "fast", "-D"]).arg(data))?;
    filled
}

struct Server {
    programs: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
}

impl Server {
    fn transact(&self, scale: f64) -> Result<()> {
        let scale_factor = (SCALE * scale).round().max(1.0).to_string();
        let transactions = (TRANSACTIONS * scale).round().max(100.0).to_string();
        let sockets = self.sockets.as_os_str();
        let fill = ["-i", "-q", "-U", "bench", "-s", &scale_factor, "-h"];
        output(self.command("pgbench").args(fill).arg(sockets).arg("postgres"))?;
        let load = ["-n", "-U", "bench", "-c", "4", "-j", "2", "--random-seed=1", "-t", &transactions, "-h"];
        output(self.command("pgbench").args(load).arg(sockets).arg("postgres")).map(drop)
    }

    /// Nothing listens on a network, the log stays small, and nobody waits for a disk: the data is made up.
    fn settings(&self) -> String {
        let sockets = self.sockets.display();
        format!(
            "-c listen_addresses='' -c unix_socket_directories={sockets} -c max_wal_size=256MB -c fsync=off"
        )
    }

    /// A program of PostgreSQL, as the user `postgres` where this process is root.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/");
        command
    }
}
