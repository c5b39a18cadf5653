//! The running server: finding it, and what must hold before it can be backed up.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::{Cancel, Holder, PostgresOptions};
use super::connection::{Address, Connection, Failure, Login};
use super::control::Control;
use crate::{Error, Result};

/// The oldest version whose functions are known: `pg_start_backup` that is not exclusive, `pg_current_snapshot`.
const VERSION_MIN: u32 = 130_000;
/// From here on the functions are called `pg_backup_start` and `pg_backup_stop`.
const RENAMED: u32 = 150_000;
const PORT: u16 = 5432;
/// Where Debian's servers and those built from source have their sockets.
const SOCKETS: &[&str] = &["/run/postgresql", "/tmp"];

/// A server that may be backed up.
pub(super) struct Server {
    pub connection: Connection,
    /// How another connection is made.
    access: Access,
    pub name: String,
    /// As `server_version_num` has it: 150018.
    pub version: u32,
    /// The cluster's own number.
    pub system: u64,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Pages have checksums, of `Some` many pages in each part of a relation.
    pub part_pages: Option<u64>,
    /// The directory of the version in tablespaces.
    pub tablespace_version: String,
    /// Settings that a server needs to replay this one's log.
    pub settings: Vec<(String, String)>,
    /// Files of the configuration outside of the data directory.
    pub outside: Vec<PathBuf>,
    /// It replays the log of another server.
    pub is_standby: bool,
}

/// Where a server is reached, and by whom.
#[derive(Clone)]
pub(super) struct Access {
    address: Address,
    login: Login,
    owner: u32,
}

/// What a file `postmaster.pid` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub pid: u32,
    port: Option<u16>,
    socket: Option<PathBuf>,
}

impl Postmaster {
    /// Reads the file of a data directory; nothing when there is none, or nothing in it.
    pub(super) fn of(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let line = |number: usize| text.lines().nth(number).map(str::trim).filter(|line| !line.is_empty());
        // Negative for a server in single-user mode.
        let pid = line(0)?.trim_start_matches('-').parse().ok()?;
        let port = line(3).and_then(|port| port.parse().ok());
        Some(Self { pid, port, socket: line(4).map(PathBuf::from) })
    }

    /// The server that works in `data`, if it is alive: by its file, or by a process whose working directory it is.
    pub(super) fn alive(data: &Path) -> Option<Holder> {
        let by_file = Self::of(data).map(|postmaster| postmaster.pid).filter(|pid| is_postgres(*pid));
        let here = fs::metadata(data).ok()?;
        let works_here = |pid: &u32| {
            let found = fs::metadata(format!("/proc/{pid}/cwd"));
            found.is_ok_and(|found| (found.dev(), found.ino()) == (here.dev(), here.ino()))
                && is_postgres(*pid)
        };
        let pid = by_file.or_else(|| {
            let processes = fs::read_dir("/proc").ok()?.flatten();
            processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(works_here)
        })?;
        Some(Holder { pid, name: "postgres".to_owned() })
    }
}

fn is_postgres(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(name.trim(), "postgres" | "postmaster")
}

/// Where the server of a data directory listens, by the plan or by what the server wrote down.
pub(super) fn address(options: &PostgresOptions) -> Address {
    let running = Postmaster::of(&options.data);
    let port = options.port.or(running.as_ref().and_then(|running| running.port)).unwrap_or(PORT);
    if let Some(host) = &options.host {
        return Address::Tcp(host.clone(), port);
    }
    let file = |directory: &Path| directory.join(format!(".s.PGSQL.{port}"));
    let directory = options.socket.clone().or(running.and_then(|running| running.socket));
    let directory = directory
        .or_else(|| SOCKETS.iter().map(PathBuf::from).find(|directory| file(directory).exists()))
        .unwrap_or_else(|| PathBuf::from(SOCKETS[0]));
    Address::Socket(file(&directory))
}

/// Who connects: the role of the plan, or the one with the name of the data directory's owner.
pub(super) fn login(options: &PostgresOptions, owner: u32) -> Login {
    let user = options.user.clone().or_else(|| name_of(owner)).unwrap_or_else(|| "postgres".to_owned());
    Login {
        user,
        database: options.database.clone(),
        password: options.password.clone(),
        tls: options.tls.clone(),
    }
}

/// The name of a user of this machine.
pub(super) fn name_of(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

impl Access {
    /// The server of a data directory.
    pub(super) fn of(options: &PostgresOptions) -> Result<Self> {
        let data = &options.data;
        let found = match fs::metadata(data) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let hint = "make the cluster, or correct `postgres:` in the plan".to_owned();
                return Err(Error::Missing { path: data.clone(), hint });
            }
            Err(error) => return Err(Error::io("look at", data)(error)),
        };
        Ok(Self { address: address(options), login: login(options, found.uid()), owner: found.uid() })
    }

    /// Its socket, or its host and port.
    pub(super) fn name(&self) -> String {
        self.address.to_string()
    }

    /// Opens a session in which the server sends its log.
    pub(super) fn open_for_log(&self, cancel: &Cancel) -> std::result::Result<Connection, Failure> {
        Connection::open_for_log(&self.address, &self.login, Some(self.owner), cancel)
    }

    /// Opens a session.
    pub(super) fn open(&self, cancel: &Cancel) -> std::result::Result<Connection, Failure> {
        Connection::open(&self.address, &self.login, Some(self.owner), cancel)
    }
}

impl Server {
    /// Connects to the server of `options` and checks that it can be backed up and is the one of the data directory.
    pub(super) fn reach(options: &PostgresOptions, cancel: &Cancel) -> Result<Self> {
        let data = &options.data;
        let bad = |why: String| Error::BadSource { path: data.clone(), why };
        let access = Access::of(options)?;
        let control = Control::read(data).map_err(Error::io("read", &data.join(super::control::PATH)))?;
        let name = access.name();
        let mut connection = access.open(cancel).map_err(|error| at("connect", &name, &error))?;
        let ask = |action: &'static str| {
            let name = name.clone();
            move |error: Failure| at(action, &name, &error)
        };
        let number = |connection: &mut Connection, setting: &str| -> Result<u64> {
            let sql = format!("select setting from pg_catalog.pg_settings where name = '{setting}'");
            let text = connection.known(&sql).map_err(ask("ask for a setting"))?;
            text.parse().map_err(|_| bad(format!("{setting} is {text}, and no number")))
        };
        let version = u32::try_from(number(&mut connection, "server_version_num")?).unwrap_or_default();
        if version < VERSION_MIN {
            return Err(bad(format!("its server is PostgreSQL {}: 13 or later is needed", version / 10_000)));
        }
        let system =
            "select system_identifier::text, catalog_version_no::text from pg_catalog.pg_control_system()";
        let system = connection.query(system).map_err(ask("ask whose cluster it is"))?;
        let fields: Vec<String> = system
            .rows
            .into_iter()
            .flatten()
            .map(|field| super::connection::text(field.unwrap_or_default()))
            .collect();
        let [system, catalog] = &fields[..] else {
            return Err(bad("its server does not say whose it is".to_owned()));
        };
        // A bigint, which shows numbers beyond its half as negative.
        let theirs = system.parse::<i64>().map(i64::cast_unsigned).unwrap_or_default();
        if theirs != control.system {
            return Err(Error::OtherIdentity {
                path: data.clone(),
                expected: format!("system {theirs}, which the server at {name} is"),
                found: super::identity(control.system),
            });
        }
        let state = connection.known("select pg_catalog.pg_is_in_recovery()");
        let is_standby = state.map_err(ask("ask for its state"))? != "f";
        let level = connection.known("show wal_level").map_err(ask("ask for a setting"))?;
        if level == "minimal" {
            let why = "its server has wal_level = minimal, which loses what a backup needs: set it to replica in \
                       postgresql.conf and restart the server";
            return Err(bad(why.to_owned()));
        }
        let page_bytes = number(&mut connection, "block_size")?;
        let checksums = connection.known("show data_checksums").map_err(ask("ask for a setting"))? == "on";
        let part_pages = (checksums && page_bytes == super::pages::PAGE_BYTES as u64)
            .then(|| number(&mut connection, "segment_size"))
            .transpose()?;
        let names = "'max_connections', 'max_prepared_transactions', 'max_locks_per_transaction', \
                     'max_worker_processes', 'max_wal_senders'";
        let sql =
            format!("select name, setting from pg_catalog.pg_settings where name in ({names}) order by name");
        let settings = pairs(connection.query(&sql).map_err(ask("ask for settings"))?);
        let segment_bytes = number(&mut connection, "wal_segment_size")?;
        let outside = outside(&mut connection, data);
        let tablespace_version = format!("PG_{}_{catalog}", version / 10_000);
        Ok(Self {
            connection,
            access,
            name,
            version,
            system: theirs,
            segment_bytes,
            part_pages,
            tablespace_version,
            settings,
            outside,
            is_standby,
        })
    }

    /// What makes another connection to it, which ends when it is told to.
    pub(super) fn another(
        &self,
    ) -> impl FnOnce(&Cancel) -> std::result::Result<Connection, Failure> + Send + 'static {
        let access = self.access.clone();
        move |cancel| access.open(cancel)
    }

    /// How far a standby has replayed its log: where the next record begins.
    pub(super) fn replayed(&mut self) -> Result<String> {
        let sql = "select pg_catalog.pg_last_wal_replay_lsn()::text";
        self.connection.known(sql).map_err(|error| at("ask how far it has replayed", &self.name, &error))
    }

    /// Begins a backup; the log that it needs is kept by a slot that lives as long as the connection.
    ///
    /// The checkpoint that it makes is a fast one: waiting minutes for a slow one helps nobody who waits for a
    /// backup.
    pub(super) fn begin(&mut self, run: &str) -> Result<()> {
        let mut set = vec!["set statement_timeout = 0", "set lock_timeout = 0"];
        set.push("set idle_in_transaction_session_timeout = 0");
        if self.version >= 140_000 {
            set.push("set idle_session_timeout = 0");
        }
        for statement in set {
            self.ask("prepare the session", statement)?;
        }
        let slot = slot_name();
        let sql = format!("select pg_catalog.pg_create_physical_replication_slot('{slot}', true, true)");
        self.connection.query(&sql).map_err(|error| {
            let why = match error.code() {
                "42501" => format!("{error}: give the role the attribute REPLICATION"),
                "53400" | "55000" => {
                    format!("{error}: raise max_replication_slots by one, or drop unused slots")
                }
                _ => error.to_string(),
            };
            Error::Server {
                action: "keep the log for the time of the backup",
                server: self.name.clone(),
                why,
            }
        })?;
        let label = super::connection::literal(&format!("lifeboat {run}"));
        let sql = if self.version >= RENAMED {
            format!("select pg_catalog.pg_backup_start({label}, fast => true)")
        } else {
            format!("select pg_catalog.pg_start_backup({label}, fast => true, exclusive => false)")
        };
        self.connection.query(&sql).map(drop).map_err(|error| {
            let why = match error.code() {
                "42501" => {
                    format!("{error}: grant the role EXECUTE on the functions that begin and end a backup")
                }
                _ => error.to_string(),
            };
            Error::Server { action: "begin a backup", server: self.name.clone(), why }
        })
    }

    /// Ends the backup: the position of its end, the label and the map of tablespaces, byte for byte.
    ///
    /// Does not wait for an archive: what the backup needs of the log is read from the server's own directory. On
    /// a primary the end also switches to a new segment, so that the last one is complete. A standby that was promoted
    /// meanwhile refuses.
    pub(super) fn end(&mut self) -> Result<(String, Vec<u8>, Vec<u8>)> {
        // Texts come as they are stored: paths need not be of any encoding.
        self.ask("prepare the session", "set client_encoding = 'SQL_ASCII'")?;
        let function = if self.version >= RENAMED {
            "pg_catalog.pg_backup_stop(wait_for_archive => false)"
        } else {
            "pg_catalog.pg_stop_backup(exclusive => false, wait_for_archive => false)"
        };
        let rows =
            self.ask("end the backup", &format!("select lsn::text, labelfile, spcmapfile from {function}"))?;
        self.ask("go on", "set client_encoding = 'UTF8'")?;
        let mut fields = rows.rows.into_iter().flatten().map(Option::unwrap_or_default);
        let (Some(lsn), Some(label), Some(map)) = (fields.next(), fields.next(), fields.next()) else {
            let why = "it gave no label".to_owned();
            return Err(Error::Server { action: "end the backup", server: self.name.clone(), why });
        };
        Ok((super::connection::text(lsn), label, map))
    }

    /// Runs a statement of ours.
    pub(super) fn ask(&mut self, action: &'static str, sql: &str) -> Result<super::connection::Rows> {
        let name = &self.name;
        self.connection.query(sql).map_err(|error| at(action, name, &error))
    }
}

/// A name for the slot that no other run has.
fn slot_name() -> String {
    let mut random = [0; 8];
    // Without randomness the process and the time would still be enough; two slots of one name are refused.
    _ = getrandom::fill(&mut random);
    format!("lifeboat_{}_{:016x}", std::process::id(), u64::from_le_bytes(random))
}

/// What the server or the way to it said, as an error.
pub(super) fn at(action: &'static str, server: &str, error: &Failure) -> Error {
    if let Failure::Interrupted = error {
        return Error::Interrupted;
    }
    let why = match (error, error.code()) {
        (Failure::Broken(_), _) if action == "connect" => {
            format!("{error}: start the server, or correct `socket`, `host` and `port` in the plan")
        }
        (_, "28000" | "28P01") => {
            format!("{error}: correct `user` and `password` in the plan, or pg_hba.conf")
        }
        _ => error.to_string(),
    };
    Error::Server { action, server: server.to_owned(), why }
}

fn pairs(rows: super::connection::Rows) -> Vec<(String, String)> {
    let pair = |row: Vec<Option<Vec<u8>>>| {
        let mut fields = row.into_iter().map(|field| super::connection::text(field.unwrap_or_default()));
        Some((fields.next()?, fields.next()?))
    };
    rows.rows.into_iter().filter_map(pair).collect()
}

/// Finds the files of the configuration that do not lie in the data directory, as on Debian.
fn outside(connection: &mut Connection, data: &Path) -> Vec<PathBuf> {
    let named = "select name, setting from pg_catalog.pg_settings where name in \
                 ('config_file', 'hba_file', 'ident_file') and setting is not null";
    // Included files are shown to superusers only; the others do without.
    let included =
        "select distinct 'file', sourcefile from pg_catalog.pg_settings where sourcefile is not null";
    let mut files: Vec<PathBuf> = [named, included]
        .iter()
        .filter_map(|sql| connection.query(sql).ok())
        .flat_map(pairs)
        .map(|(_, file)| PathBuf::from(file))
        .filter(|file| file.is_absolute() && !file.starts_with(data) && file.is_file())
        .collect();
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_server_is_found_by_what_it_wrote_down() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("{}\n{}\n1\n5433\n/run/here\nlocalhost\n", u32::MAX, directory.path().display());
        fs::write(directory.path().join("postmaster.pid"), text).unwrap();
        let options = PostgresOptions::of(directory.path());
        assert_eq!(address(&options), Address::Socket("/run/here/.s.PGSQL.5433".into()));
        let other = PostgresOptions { port: Some(1), host: Some("db".to_owned()), ..options.clone() };
        assert_eq!(address(&other), Address::Tcp("db".to_owned(), 1));
        let other = PostgresOptions { socket: Some("/s".into()), ..options };
        assert_eq!(address(&other), Address::Socket("/s/.s.PGSQL.5433".into()));
        assert_eq!(Postmaster::alive(directory.path()), None);
        assert_eq!(name_of(0).as_deref(), Some("root"));
    }
}
