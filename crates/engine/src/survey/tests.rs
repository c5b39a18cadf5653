//! Surveys of real directories, with real databases and a process that has one open.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, Stdio};

use rusqlite::Connection;
use rustix::thread::CapabilitySet;

use super::*;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn database(path: &Path, sql: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

/// Looks through a directory on a machine without processes and units.
fn look_at(dir: &Path) -> Found {
    let nowhere = dir.join("nowhere");
    look(&Survey { proc: nowhere.clone(), units: nowhere, ..Survey::of(vec![dir.to_owned()]) }).unwrap()
}

fn names(paths: &[PathBuf], dir: &Path) -> Vec<String> {
    let dir = dir.canonicalize().unwrap();
    paths.iter().map(|path| path.strip_prefix(&dir).unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn databases_are_known_by_their_bytes_and_their_tables_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    database(
        &dir.path().join("data/shop"),
        "create table few (x); insert into few values (1);
         create table \"order\" (x); insert into \"order\" values (1), (2), (3);
         create table none (x);",
    );
    write(&dir.path().join("fake.db"), &"x".repeat(4096));
    write(&dir.path().join("short.db"), "SQLite format 3\0");
    let found = look_at(dir.path());
    assert_eq!(found.databases.len(), 1);
    let shop = &found.databases[0];
    assert_eq!(shop.tables, [("order".to_owned(), 3), ("few".to_owned(), 1)]);
    assert_eq!((shop.untold.as_deref(), shop.programs.len()), (None, 0));
    let beside: Vec<_> = fs::read_dir(dir.path().join("data")).unwrap().collect();
    assert_eq!(beside.len(), 1, "looking leaves nothing beside the database");
}

#[test]
fn a_damaged_database_is_told_of_and_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = MAGIC.to_vec();
    bytes.resize(8192, 0xff);
    fs::write(dir.path().join("broken.db"), bytes).unwrap();
    let found = look_at(dir.path());
    assert_eq!(found.databases.len(), 1);
    assert!(found.databases[0].untold.as_deref().unwrap().contains("could not be read"));
}

#[test]
fn links_pipes_caches_copies_and_repositories_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let sql = "create table t (x)";
    database(&other.path().join("far.db"), sql);
    std::os::unix::fs::symlink(other.path(), dir.path().join("away")).unwrap();
    std::os::unix::fs::symlink(other.path().join("far.db"), dir.path().join("link.db")).unwrap();
    database(&dir.path().join("node_modules/x.db"), sql);
    database(&dir.path().join("tagged/x.db"), sql);
    write(&dir.path().join("tagged/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55");
    database(&dir.path().join("app.db.bak"), sql);
    database(&dir.path().join("repo/data/x.db"), sql);
    for name in ["config", "keys/k", "snapshots/s", "index/i"] {
        write(&dir.path().join("repo").join(name), "");
    }
    let pipe = Command::new("mkfifo").arg(dir.path().join("pipe.db")).status().unwrap();
    assert!(pipe.success());
    let found = look_at(dir.path());
    assert_eq!(found.databases, []);
    assert!(found.remarks.iter().any(|remark| remark.contains("app.db.bak")), "{:?}", found.remarks);
}

#[test]
fn what_is_not_looked_at_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..20 {
        write(&dir.path().join(format!("d/{number}")), "");
    }
    let survey = Survey { entries_max: 10, ..Survey::of(vec![dir.path().to_owned()]) };
    assert!(look(&survey).unwrap().remarks.iter().any(|remark| remark.contains("stopped in")));
    let survey = Survey { depth_max: 1, ..Survey::of(vec![dir.path().to_owned()]) };
    assert!(look(&survey).unwrap().remarks.iter().any(|remark| remark.contains("too deep")));
    assert!(look(&Survey::of(vec![dir.path().join("missing")])).is_err());
    let closed = dir.path().join("d");
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    // Nothing is closed to root; a thread of root's may give that up.
    let look_as_anybody = || {
        let reaches = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(reaches);
        rustix::thread::set_capabilities(None, sets).unwrap();
        look_at(dir.path())
    };
    let found = std::thread::scope(|scope| scope.spawn(look_as_anybody).join().unwrap());
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(found.remarks.iter().any(|remark| remark.contains("could not look into")));
}

#[test]
fn configuration_is_sorted_from_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "docker-compose.yml",
        "k8s/app.yaml",
        "web/nginx.conf",
        ".env",
        ".env.example",
        "uploads/cat.jpg",
        "config/a.toml",
        "deploy/config/secret/.env",
        "a/b/c/d/nginx.conf",
    ] {
        write(&dir.path().join(name), "x");
    }
    let found = look_at(dir.path());
    // `deploy/config` is not taken whole: there are values of secrets in it.
    assert_eq!(names(&found.config, dir.path()), ["config", "docker-compose.yml", "k8s", "web/nginx.conf"]);
    assert_eq!(names(&found.env_files, dir.path()), [".env", "deploy/config/secret/.env"]);
    assert_eq!(found.later.len(), 1);
    assert_eq!(found.later[0].kind, LaterKind::Compose);
    assert!(names(&found.others, dir.path()).contains(&"uploads".to_owned()));
}

#[test]
fn data_of_other_engines_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("pg/PG_VERSION"), "16");
    write(&dir.path().join("pg/global/pg_control"), "");
    write(&dir.path().join("pg/base/1/.env"), "not looked at");
    write(&dir.path().join("cache/dump.rdb"), "REDIS");
    let found = look_at(dir.path());
    let kinds: Vec<LaterKind> = found.later.iter().map(|later| later.kind).collect();
    assert_eq!(kinds, [LaterKind::Redis]);
    let data = dir.path().canonicalize().unwrap().join("pg");
    assert_eq!(found.clusters, [Cluster { data, runs: false }]);
    assert_eq!((found.env_files.len(), names(&found.others, dir.path())), (0, vec!["cache".to_owned()]));
}

#[test]
fn a_server_is_found_by_where_it_works() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (proc, data, here) = (root.join("proc"), root.join("srv/pg"), root.join("srv"));
    write(&data.join("PG_VERSION"), "16");
    write(&data.join("global/pg_control"), "");
    write(&proc.join("100/comm"), "postgres\n");
    std::os::unix::fs::symlink(&data, proc.join("100/cwd")).unwrap();
    let survey = Survey { proc, units: root.join("none"), ..Survey::of(vec![here]) };
    let found = look(&survey).unwrap();
    assert_eq!(found.clusters, [Cluster { data: data.clone(), runs: true }]);
    assert!(found.remarks.is_empty(), "{:?}", found.remarks);

    // One of which nothing can be seen is told of, and one in a temporary directory that was not named is not taken.
    write(&survey.proc.join("101/comm"), "postgres\n");
    let other = Survey { dirs: vec![root.join("empty")], ..survey };
    fs::create_dir(root.join("empty")).unwrap();
    let found = look(&other).unwrap();
    assert_eq!((found.clusters.len(), found.remarks.len()), (0, 1), "{found:?}");
}

#[test]
fn own_enabled_units_are_told_from_the_distributions() {
    let dir = tempfile::tempdir().unwrap();
    let (units, app) = (dir.path().join("units"), dir.path().join("app"));
    fs::create_dir_all(&app).unwrap();
    let app = app.canonicalize().unwrap();
    write(
        &units.join("mine.service"),
        &format!("[Service]\nWorkingDirectory={}\nExecStart=/bin/x --token s3cr3t\n", app.display()),
    );
    write(&units.join("other.service"), "[Service]\nExecStart=/usr/bin/other\n");
    write(&units.join("disabled.service"), "[Service]\n");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    for name in ["mine", "other", "ssh"] {
        std::os::unix::fs::symlink(
            format!("/anywhere/{name}.service"),
            wants.join(format!("{name}.service")),
        )
        .unwrap();
    }
    std::os::unix::fs::symlink("/lib/systemd/system/ssh.service", units.join("ssh.service")).unwrap();
    let survey = Survey { proc: dir.path().join("none"), units, ..Survey::of(vec![app]) };
    let found = look(&survey).unwrap();
    let unit = |name: &str, belongs| Unit { name: name.to_owned(), belongs };
    assert_eq!(found.units, [unit("mine", true), unit("other", false)]);
    assert!(!format!("{found:?}").contains("s3cr3t"));
}

#[test]
fn names_that_are_no_text_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let name = std::ffi::OsString::from_vec(b"\xff\n \".db".to_vec());
    database(&dir.path().join("plain"), "create table t (x); insert into t values (1)");
    fs::copy(dir.path().join("plain"), dir.path().join(name)).unwrap();
    let found = look_at(dir.path());
    assert_eq!(found.databases.len(), 2);
    assert!(found.databases.iter().all(|database| database.tables.len() == 1), "{found:?}");
}

/// A process that has a database open and listens at a port, until it is dropped.
struct Holder(Child, u16);

impl Holder {
    fn hold(path: &Path, dir: &Path) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program)
            .args(["--exact", "survey::tests::holder", "--ignored", "--nocapture"])
            .env("LIFEBOAT_TEST_HOLDS", path)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines
            .map_while(std::result::Result::ok)
            .find_map(|line| line.split_once("port ")?.1.trim().parse().ok());
        Self(child, port.unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
#[ignore = "is started by hold"]
#[expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a helper process is told what to do, and answers"
)]
fn holder() {
    let Some(path) = std::env::var_os("LIFEBOAT_TEST_HOLDS") else { return };
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("pragma journal_mode = wal; insert into t values (2)").unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    println!("port {}", listener.local_addr().unwrap().port());
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    // Ends with its parent, too.
    let _end = std::io::stdin().read_line(&mut line);
}

#[test]
fn who_has_a_database_open_and_listens_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    database(&here.join("live.db"), "create table t (x); insert into t values (1)");
    fs::create_dir(&there).unwrap();
    let holder = Holder::hold(&here.join("live.db"), &there);
    let comm = fs::read_to_string(format!("/proc/{}/comm", holder.0.id())).unwrap();
    let survey = Survey { units: dir.path().join("none"), ..Survey::of(vec![here.clone()]) };
    let found = look(&survey).unwrap();
    let live = &found.databases[0];
    assert_eq!(live.programs, [comm.trim_end()]);
    assert_eq!(live.tables, [("t".to_owned(), 2)], "rows that are in the log only are counted");
    let listener = found.listeners.iter().find(|listener| listener.port == holder.1).unwrap();
    assert_eq!((listener.program.as_deref(), listener.belongs), (Some(comm.trim_end()), true));
    // From elsewhere the same database is told of as somebody else's.
    let found = look(&Survey { dirs: vec![there], ..survey }).unwrap();
    assert_eq!(found.databases, []);
    let live = here.canonicalize().unwrap().join("live.db");
    assert!(found.elsewhere.iter().any(|(path, programs)| *path == live && programs == &[comm.trim_end()]));
}

/// A Redis server is known by the directory in which it works; one in a container calls it what it is not called here.
#[test]
fn a_redis_server_is_known_by_where_it_works() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().canonicalize().unwrap().join("app/redis");
    write(&data.join("dump.rdb"), "REDIS");
    let proc = dir.path().join("proc");
    write(&proc.join("70/comm"), "redis-server\n");
    std::os::unix::fs::symlink(&data, proc.join("70/cwd")).unwrap();
    write(&proc.join("71/comm"), "valkey-server\n");
    std::os::unix::fs::symlink("/no/such/directory", proc.join("71/cwd")).unwrap();
    let units = dir.path().join("none");
    let survey = Survey { proc, units, ..Survey::of(vec![dir.path().join("app")]) };
    let found = look(&survey).unwrap();
    assert_eq!(found.redis, [Redis { data, port: None, program: "redis-server".to_owned() }]);
    // Its own dump is not told of again; the other server is.
    assert_eq!(found.later, [Later { kind: LaterKind::Redis, seen: "valkey-server runs".to_owned() }]);
    assert!(found.others.is_empty(), "{:?}", found.others);
}
