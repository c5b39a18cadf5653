//! Power cuts at every step of archiving a server's log and of giving it back: whatever was acknowledged is there, what was
//! begun can be repeated, and what was asked for lies whole at its place or not at all.
//!
//! Pushes run on a store that freezes before its nth write, and again on one that freezes after it, for every n until they come
//! through: what the store holds then is what a dead process leaves. Fetches are killed for real, at each of their calls to the
//! kernel that gives a file its bytes, its name or another place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use engine::wal::{Fetched, Wal};
use repository::crypto::ScryptCost;
use repository::format::Chunking;
use repository::log::{Archive, Scope};
use repository::{Clock, Context, InitOptions, Repository};
use store::fault::{Call, Effect, Filter};
use store::{ErrorKind, Fault, Memory, Store};

use crate::postgres::Cluster;
use crate::wal::Shop;

type Frozen = Arc<Fault<Memory>>;

/// What a server would push, one after the other; some of it was missed before and is taken along.
struct Server {
    cluster: Cluster,
    directory: tempfile::TempDir,
    pushes: Vec<PathBuf>,
    /// All that is archived when the last push has come through.
    files: Vec<PathBuf>,
}

impl Server {
    /// A server that has written a few segments, marked a backup, and gone on as another timeline.
    fn forked() -> Self {
        let cluster = Cluster::with(&["--wal-segsize=1"]);
        cluster.configure("wal_keep_size = 1GB\n");
        cluster.sql("select pg_reload_conf()");
        cluster.sql("create table orders(n int)");
        let mut names: Vec<String> = (0..5).map(|n| Self::segment(&cluster, n)).collect();
        cluster.stop("fast");
        fs::write(cluster.data().join("standby.signal"), "").unwrap();
        cluster.start();
        assert_eq!(cluster.sql("select pg_promote()"), "t");
        names.extend((5..7).map(|n| Self::segment(&cluster, n)));
        assert!(names[5].starts_with("00000002"), "{names:?}");
        let server = Self { cluster, directory: tempfile::tempdir().unwrap(), pushes: vec![], files: vec![] };
        // Two are missed, and a mark is kept beside; a new timeline's history comes before its segments.
        let mark = format!("{}.00000028.backup", names[3]);
        fs::write(server.path(&mark), "START WAL LOCATION: 0/2000028\n").unwrap();
        let order = [0, 1, 4].map(|at| names[at].clone()).into_iter();
        let order =
            order.chain([mark.clone(), "00000002.history".to_owned(), names[5].clone(), names[6].clone()]);
        let all = names.iter().cloned().chain([mark, "00000002.history".to_owned()]);
        let (order, all): (Vec<String>, Vec<String>) = (order.collect(), all.collect());
        server.with(&order, &all)
    }

    /// A server whose segments are archived in several pieces each.
    fn of_large_segments() -> Self {
        let cluster = Cluster::with(&["--wal-segsize=32"]);
        cluster.sql("create table orders(n int)");
        let names: Vec<String> = (0..2).map(|n| Self::segment(&cluster, n)).collect();
        let server = Self { cluster, directory: tempfile::tempdir().unwrap(), pushes: vec![], files: vec![] };
        server.with(&names, &names)
    }

    fn segment(cluster: &Cluster, n: u32) -> String {
        cluster.sql(&format!("insert into orders values ({n})"));
        cluster.sql("select pg_walfile_name(pg_switch_wal())")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Keeps what the server has of these, as it may reuse it.
    fn with(mut self, pushes: &[String], files: &[String]) -> Self {
        for name in files {
            let own = self.cluster.data().join("pg_wal").join(name);
            if own.exists() {
                fs::copy(own, self.path(name)).unwrap();
            }
        }
        (self.pushes, self.files) = (
            pushes.iter().map(|name| self.path(name)).collect(),
            files.iter().map(|name| self.path(name)).collect(),
        );
        self
    }

    fn wal<'a>(&self, repository: &'a Repository, data: &'a Path) -> Wal<'a> {
        Wal { repository, component: "orders", data }
    }

    /// Pushes one after the other until one fails; gives what was acknowledged, and why the next one was not.
    fn push(&self, store: &Frozen) -> (Vec<&Path>, Option<String>) {
        let data = self.cluster.data();
        let mut acknowledged: Vec<&Path> = Vec::new();
        let repository = match open(Arc::clone(store) as Arc<dyn Store>) {
            Ok(repository) => repository,
            Err(error) => return (acknowledged, Some(error.to_string())),
        };
        for file in &self.pushes {
            match self.wal(&repository, &data).push(file, false) {
                Ok(pushed) => {
                    let at = self.files.iter().position(|known| known == file).unwrap();
                    let along = usize::try_from(pushed.along).unwrap();
                    acknowledged.extend(self.files[at - along..=at].iter().map(PathBuf::as_path));
                    assert_eq!(pushed.warning, None);
                }
                Err(error) => return (acknowledged, Some(error.to_string())),
            }
        }
        (acknowledged, None)
    }

    /// Holds what a dead process left to what it had acknowledged.
    fn assert_there(&self, left: &Memory, acknowledged: &[&Path], what: &str) {
        let repository = open(Arc::new(left.snapshot())).unwrap();
        let data = self.cluster.data();
        let target = self.path("fetched");
        for file in acknowledged {
            let name = file.file_name().unwrap().to_str().unwrap();
            let fetched = self.wal(&repository, &data).fetch(name, &target);
            let fetched = fetched.unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
            assert_eq!(fetched, Fetched::Written, "{what}: {name}");
            assert!(fs::read(&target).unwrap() == fs::read(file).unwrap(), "{what}: {name} is another");
        }
        let archive = Archive::new(&repository, "orders").unwrap();
        assert_eq!(archive.catalogue().unwrap().gaps(), [], "{what}");
        assert_eq!(archive.verify(Scope::All, Context::silent()).unwrap().findings, [], "{what}");
    }

    /// Repeats all of it on what a dead process left: that comes through, and everything is there.
    fn assert_repeated(&self, left: &Memory, what: &str) {
        let store = Arc::new(Fault::new(left.snapshot()));
        let (_, why) = self.push(&store);
        assert_eq!(why, None, "{what}: repeated");
        let all: Vec<&Path> = self.files.iter().map(PathBuf::as_path).collect();
        self.assert_there(store.inner(), &all, &format!("{what}: repeated"));
    }

    /// Cuts the power before and after every write of the store; gives what these were.
    fn cut_everywhere(&self, start: &Memory) -> Vec<Call> {
        for point in 1.. {
            for freeze in [Fault::freeze_before as fn(&Fault<Memory>, u64), Fault::freeze_after] {
                let store = Arc::new(Fault::new(start.snapshot()));
                freeze(&store, point);
                let (acknowledged, why) = self.push(&store);
                let calls = store.durable_log();
                if !store.is_frozen() {
                    assert_eq!(why, None);
                    return calls;
                }
                assert!(why.is_some(), "a push that was cut off was acknowledged");
                let what = format!("cut at write {point}, {}", calls[usize::try_from(point).unwrap() - 1]);
                self.assert_there(store.inner(), &acknowledged, &what);
                self.assert_repeated(store.inner(), &what);
            }
        }
        unreachable!()
    }
}

fn open(store: Arc<dyn Store>) -> repository::Result<Repository> {
    Repository::open(store, b"secret", Clock::system())
}

/// An empty repository.
fn repository() -> Memory {
    let memory = Arc::new(Memory::new());
    let options = InitOptions {
        chunking: Chunking::Gear,
        polynomial: None,
        cost: ScryptCost { n: 2, r: 1, p: 1 },
        author: Default::default(),
    };
    Repository::init(Arc::clone(&memory) as Arc<dyn Store>, b"secret", &options, Clock::system()).unwrap();
    memory.snapshot()
}

#[test]
fn the_power_is_cut_before_and_after_every_write_of_pushes() {
    let server = Server::forked();
    let calls = server.cut_everywhere(&repository());
    let count = |part: &str| calls.iter().filter(|call| call.key.contains(part)).count();
    // Every kind of write was among them: writers' marks and what they go on from, the fork, small files, segments.
    let text: Vec<String> = calls.iter().map(ToString::to_string).collect();
    assert!(count("/w/") >= 8 && count("/i/") >= 4 && count("/f/") == 1 && count("/a/") >= 2, "{text:#?}");
    assert!(calls.len() >= 25, "{text:#?}");
}

#[test]
fn the_power_is_cut_between_the_pieces_of_a_segment() {
    let server = Server::of_large_segments();
    let calls = server.cut_everywhere(&repository());
    let segments =
        calls.iter().filter(|call| call.key.rsplit('/').next().is_some_and(|name| name.len() == 125));
    assert_eq!(segments.count(), 4, "two segments of two pieces: {calls:?}");
}

/// The store fails at any of its operations, reads and listings included: once, for good, or behind the back of a write.
#[test]
fn a_push_is_acknowledged_by_no_store_that_failed_it() {
    let server = Server::forked();
    let start = repository();
    let fresh = || Arc::new(Fault::new(start.snapshot()));
    let whole = fresh();
    assert_eq!(server.push(&whole).1, None);
    let operations = whole.log().len() as u64;
    assert!(operations > 60, "{operations}");
    let mut failed = 0;
    for point in 1..=operations {
        let faults = [
            (Filter::any().only(point), Effect::Fail(ErrorKind::Unavailable)),
            (Filter::any().from(point), Effect::Fail(ErrorKind::Unavailable)),
            (Filter::any().only(point), Effect::LoseAcknowledgement),
        ];
        for (filter, effect) in faults {
            let what = format!("operation {point} of {operations}: {effect:?}");
            let store = fresh();
            store.inject(filter, effect);
            let (acknowledged, why) = server.push(&store);
            failed += u64::from(why.is_some());
            server.assert_there(store.inner(), &acknowledged, &what);
            server.assert_repeated(store.inner(), &what);
        }
    }
    assert!(failed >= operations * 2, "{failed} of {operations} operations were noticed to fail");
}

/// What a kernel does for a file to get bytes, a name, or another place.
const CALLS: &str =
    "open,openat,write,pwrite64,ftruncate,linkat,link,rename,renameat,renameat2,unlink,unlinkat";

impl Shop {
    /// Fetches as a server does, and is killed when it makes one of `calls` for the nth time; gives whether it was.
    ///
    /// `more` says, as options of strace, which paths the calls have to be about, and what fails besides.
    fn killed_in(&self, name: &str, target: &Path, calls: &str, nth: u32, more: &[String]) -> bool {
        let plan = self.plan().display().to_string();
        let target = target.display().to_string();
        let (trace, inject) = (format!("trace={CALLS}"), format!("inject={calls}:signal=KILL:when={nth}"));
        let mut strace =
            self.command_of("strace", &["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
        strace.args(more).arg(env!("CARGO_BIN_EXE_lifeboat"));
        strace.args(["wal", "fetch", "--plan", &plan, name, &target]);
        strace.current_dir(self.cluster.data()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = strace.status().expect("cargo xtask setup installs strace");
        match status.signal() {
            Some(9) => true,
            _ => {
                assert_eq!(status.code(), Some(0), "{calls} {nth}: {status}");
                false
            }
        }
    }
}

#[test]
fn a_fetch_that_is_killed_leaves_its_target_whole_or_as_it_was() {
    let shop = Shop::new();
    shop.insert(1);
    let name = shop.switch();
    let whole = fs::read(shop.cluster.data().join("pg_wal").join(&name)).unwrap();
    let directory = shop.directory.join("recovering");
    fs::create_dir(&directory).unwrap();
    shop.cluster.give(&directory);
    let target = directory.join("RECOVERYXLOG");
    let at = |path: &Path| ["-P".to_owned(), path.display().to_string()];
    let about: Vec<String> = at(&directory).into_iter().chain(at(&target)).collect();
    let mut killed = BTreeMap::new();
    for old in [None, Some(b"what a fetch before it has left".to_vec())] {
        let ways: [(&str, &[String]); 5] = [
            ("open,openat", &about),
            ("write,pwrite64", &[]),
            ("linkat,link", &[]),
            ("unlink,unlinkat", &[]),
            ("rename,renameat,renameat2", &[]),
        ];
        for (number, (calls, more)) in ways.into_iter().enumerate() {
            for nth in 1..200 {
                _ = fs::remove_file(&target);
                if let Some(old) = &old {
                    fs::write(&target, old).unwrap();
                    shop.cluster.give(&target);
                }
                let was_killed = shop.killed_in(&name, &target, calls, nth, more);
                let what = format!("{calls} {nth} over {:?}", old.as_ref().map(Vec::len));
                let there = fs::read(&target).ok();
                if !was_killed {
                    assert!(there.as_ref() == Some(&whole), "{what}: came through");
                    break;
                }
                assert!(
                    there.as_ref() == Some(&whole) || there == old,
                    "{what}: {:?} bytes",
                    there.map(|it| it.len())
                );
                *killed.entry((number, old.is_some())).or_insert(0) += 1;
                // The server asks again.
                assert_eq!(shop.fetch_to(&name, &target).0, 0, "{what}");
                assert!(fs::read(&target).unwrap() == whole, "{what}: again");
            }
        }
    }
    // The file is opened, filled and named; over an old one by a second name and a rename.
    for expected in [(0, false), (0, true), (1, false), (1, true), (2, false), (2, true), (4, true)] {
        assert!(killed.contains_key(&expected), "{expected:?} was never killed: {killed:?}");
    }
}
