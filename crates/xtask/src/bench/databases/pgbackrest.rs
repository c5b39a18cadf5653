//! pgBackRest as a contender: configured in a directory of its own, called as the server's user.

use std::path::Path;

use super::super::measure::Invocation;
use super::cluster::{Cluster, USER};
use super::home::{Bench, Home, text};
use crate::packages::{Package, on_path};
use crate::process::Result;

/// What brings it.
pub const PACKAGE: Package = Package { name: "pgbackrest", present: || on_path("pgbackrest") };
const STANZA: &str = "--stanza=bench";

/// A repository of pgBackRest for one cluster.
pub struct PgBackRest<'a> {
    pub home: Home<'a>,
}

impl<'a> PgBackRest<'a> {
    /// Configures it, with these settings beside those that all have, and makes its repository.
    pub fn make(bench: &'a Bench, name: &str, cluster: &Cluster, settings: &[&str]) -> Result<Self> {
        let one = Self { home: bench.home(name, Some(USER))? };
        let home = text(&one.home.path)?;
        let global = format!(
            "[global]\nrepo1-path={home}/repository\nrepo1-retention-full=9\nprocess-max=2\ncompress-type=zst\n\
             start-fast=y\nlog-level-file=off\nlog-level-console=warn\nlog-path={home}\nlock-path={home}/lock\n\
             spool-path={home}/spool\n{}\n",
            settings.join("\n")
        );
        let (data, sockets) = (text(&cluster.data)?, text(&cluster.sockets)?);
        one.home.write(
            "pgbackrest.conf",
            &format!("{global}\n[bench]\npg1-path={data}\npg1-socket-path={sockets}\n"),
        )?;
        one.home.empty("spool")?;
        bench.untimed(&one.call(&["stanza-create"]))?;
        Ok(one)
    }

    /// A call of it.
    pub fn call(&self, arguments: &[&str]) -> Invocation {
        self.home.shell(&self.line(&arguments.join(" ")))
    }

    /// A call of it as a line of shell, and as what a server calls.
    pub fn line(&self, arguments: &str) -> String {
        format!(
            "pgbackrest --config={} {STANZA} {arguments}",
            self.home.path.join("pgbackrest.conf").display()
        )
    }

    /// Restores the newest backup into a directory, up to the moment at which it ended and no further.
    pub fn restore_line(&self, target: &Path, delta: bool) -> Result<String> {
        let delta = if delta { "--delta" } else { "" };
        let target = text(target)?;
        Ok(self
            .line(&format!("restore {delta} --pg1-path='{target}' --type=immediate --target-action=promote")))
    }
}
