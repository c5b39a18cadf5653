//! A running server: what it says about itself, and whether its data can be dumped now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use place::Place;

use super::super::{Cancel, RedisOptions};
use super::connection::{Address, Answer, Connection, Failure, Login, Patience};
use super::layout::{Layout, Said};
use crate::{Error, Result};

/// Settings that are secret, by parts of their names.
const SECRET: &[&str] = &["pass", "auth", "user"];
const DEFAULT_PORT: u16 = 6379;

/// A connection to the server of a component, and what it said.
pub(super) struct Server {
    pub connection: Connection,
    pub address: Address,
    info: BTreeMap<String, String>,
    /// Nothing where it does not tell its settings.
    settings: Option<BTreeMap<String, String>>,
}

/// Where the server of a component is.
pub(super) fn address(options: &RedisOptions) -> Address {
    match (&options.socket, &options.host) {
        (Some(socket), _) => Address::Socket(socket.clone()),
        (None, host) => Address::Tcp(
            host.clone().unwrap_or_else(|| "127.0.0.1".to_owned()),
            options.port.unwrap_or(DEFAULT_PORT),
        ),
    }
}

pub(super) fn login(options: &RedisOptions) -> Login {
    Login { tls: options.tls.clone(), username: options.username.clone(), password: options.password.clone() }
}

impl Server {
    /// Connects, to let it work, and asks what it is.
    pub(super) fn reach(options: &RedisOptions, place: &Place, cancel: &Cancel) -> Result<Self> {
        Self::open(options, place, cancel, Patience::WORK)
    }

    /// Asks what it is, and no more; fails within seconds when it hangs.
    pub(super) fn ask(options: &RedisOptions, place: &Place) -> Result<Self> {
        Self::open(options, place, &Cancel::default(), Patience::QUESTION)
    }

    fn open(options: &RedisOptions, place: &Place, cancel: &Cancel, patience: Patience) -> Result<Self> {
        let address = address(options);
        let failed = failed("ask for its state", &address);
        let mut connection = Connection::open(&address, &login(options), place, cancel, patience)
            .map_err(self::failed("log in", &address))?;
        let said = connection.ask(&["INFO"]).map_err(&failed)?;
        let info = parsed(&said.text().unwrap_or_default());
        let settings = match connection.ask(&["CONFIG", "GET", "*"]) {
            Ok(Answer::List(list)) => Some(pairs(&list)),
            // It is forbidden or renamed.
            Ok(_) | Err(Failure::Server(_)) => None,
            Err(failure) => return Err(failed(failure)),
        };
        let server = Self { connection, address, info, settings };
        if server.info("redis_version").is_empty() {
            let why = "it does not say its version: is it Redis?".to_owned();
            return Err(Error::Server {
                action: "ask for its state",
                server: server.address.to_string(),
                why,
            });
        }
        Ok(server)
    }

    /// One line of `INFO`; empty when there is none.
    pub(super) fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Its version as people write it, such as `Redis 7.0.15`.
    pub(super) fn version(&self) -> String {
        match self.info("valkey_version") {
            "" => format!("Redis {}", self.info("redis_version")),
            version => format!("Valkey {version}"),
        }
    }

    /// Tells whether it says its settings.
    pub(super) fn tells_settings(&self) -> bool {
        self.settings.is_some()
    }

    pub(super) fn layout(&self) -> std::result::Result<Layout, String> {
        let major = self.info("redis_version").split('.').next().and_then(|major| major.parse().ok());
        Layout::of(&Said {
            appends: self.info("aof_enabled") == "1",
            major: major.unwrap_or_default(),
            dump: self.dump_name(),
            directory: self.setting("appenddirname").unwrap_or("appendonlydir"),
            name: self.setting("appendfilename").unwrap_or("appendonly.aof"),
        })
    }

    /// The name of its own dump.
    pub(super) fn dump_name(&self) -> &str {
        self.setting("dbfilename").unwrap_or("dump.rdb")
    }

    /// Tells whether it writes times into what it appends; nothing where it does not say.
    pub(super) fn appends_time(&self) -> Option<bool> {
        self.settings.as_ref()?;
        Some(self.setting("aof-timestamp-enabled") == Some("yes"))
    }

    /// How many databases it has at most.
    pub(super) fn databases(&self) -> Option<u64> {
        self.setting("databases")?.parse().ok()
    }

    /// The file in which it keeps its users, if it has one.
    pub(super) fn users_file(&self) -> Option<PathBuf> {
        self.setting("aclfile").map(PathBuf::from)
    }

    /// The file in which a member of a cluster keeps who it is.
    pub(super) fn cluster_file(&self) -> Option<PathBuf> {
        let is_member = self.info("cluster_enabled") == "1";
        is_member.then(|| PathBuf::from(self.setting("cluster-config-file").unwrap_or("nodes.conf")))
    }

    /// Its settings as lines of text, without those that are secret.
    pub(super) fn settings_text(&self) -> Option<String> {
        let settings = self.settings.as_ref()?;
        let is_secret = |name: &str| SECRET.iter().any(|part| name.contains(part));
        let lines = settings.iter().filter(|(name, _)| !is_secret(name));
        Some(lines.map(|(name, value)| format!("{name} {value:?}\n")).collect())
    }

    /// Refuses a server that has not all of its data, or that works in another directory than the plan says.
    pub(super) fn may_be_dumped(&self, data: &Path) -> Result<()> {
        let refused = |why: String| {
            Err(Error::Server { action: "begin a dump", server: self.address.to_string(), why })
        };
        if self.info("redis_mode") == "sentinel" {
            return refused("it is a sentinel, which has no data: name the server itself".to_owned());
        }
        if self.info("loading") == "1" {
            return refused("it is still loading its data: wait until it has".to_owned());
        }
        if self.info("role") == "slave" {
            if self.info("master_sync_in_progress") == "1" {
                return refused(
                    "it is a replica that is just being filled: wait until it has been".to_owned(),
                );
            }
            if self.info("master_link_status") != "up" {
                return refused(
                    "it is a replica that has lost its master, so that nobody knows how old its data is: \
                     mend that, or back up the master"
                        .to_owned(),
                );
            }
        }
        if let Some(directory) = self.setting("dir").filter(|_| self.address.is_here())
            && same(Path::new(directory)) != same(data)
        {
            let why = format!("its server works in {directory}: name that directory in the plan");
            return Err(Error::BadSource { path: data.to_owned(), why });
        }
        Ok(())
    }

    /// What is the matter with it, though it can be dumped.
    pub(super) fn complaints(&self) -> Vec<(String, &'static str)> {
        let mut complaints = Vec::new();
        if self.info("rdb_last_bgsave_status") == "err" {
            let what = "its last own dump failed, so that it may refuse to be written to (MISCONF)";
            complaints.push((what.to_owned(), "look into its log; its disk may be full"));
        }
        for (name, what) in [("aof_last_bgrewrite_status", "rewrite"), ("aof_last_write_status", "write")] {
            if self.info(name) == "err" {
                let what = format!("its last {what} of its append-only file failed");
                complaints.push((what, "look into its log; its disk may be full"));
            }
        }
        complaints
    }
}

/// Says what was tried at which server.
pub(super) fn failed(action: &'static str, address: &Address) -> impl Fn(Failure) -> Error + use<> {
    let server = address.to_string();
    move |failure| match failure {
        Failure::Interrupted => Error::Interrupted,
        failure => Error::Server { action, server: server.clone(), why: failure.to_string() },
    }
}

fn same(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

pub(super) fn parsed(info: &str) -> BTreeMap<String, String> {
    let lines = info.lines().filter_map(|line| line.trim().split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn pairs(list: &[Answer]) -> BTreeMap<String, String> {
    let pairs = list.as_chunks::<2>().0.iter();
    pairs.filter_map(|[name, value]| Some((name.text()?, value.text()?))).collect()
}

/// How many keys each database has, by `INFO keyspace`.
pub(super) fn keyspace(info: &str) -> BTreeMap<u64, u64> {
    let lines = parsed(info);
    let keys = |value: &str| value.split(',').find_map(|field| field.strip_prefix("keys=")?.parse().ok());
    let one =
        |(name, value): (&String, &String)| Some((name.strip_prefix("db")?.parse().ok()?, keys(value)?));
    lines.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_databases_are_read() {
        let info =
            "# Keyspace\r\ndb0:keys=12,expires=1,avg_ttl=0\r\ndb3:keys=1,expires=0,avg_ttl=0,subexpiry=0\r\n";
        assert_eq!(keyspace(info), BTreeMap::from([(0, 12), (3, 1)]));
        assert_eq!(keyspace("# Keyspace\r\n"), BTreeMap::new());
    }
}
