//! The conformance suite of the driver contract. Every driver runs all of it, on a specimen of its own.

use std::fs;
use std::path::Path;

use estate::component::command::Dump;
use estate::component::files::Files;
use estate::component::sqlite::Sqlite;
use estate::component::{
    Cancel, CaptureRequest, CommandOptions, Component, Export, Exported, FilesOptions, Holds, Pages, Proven,
    Severity, SqliteOptions,
};
use estate::{Error, Result};

use crate::cache::Cache;
use crate::cluster::Cluster;
use crate::support::{RUN, Shell, Stored, age, back_up, copy, scribble, sqlite3};

/// A component with something in it, and what a test may do to it.
struct Specimen {
    directory: tempfile::TempDir,
    component: Box<dyn Component>,
    /// Changes the source.
    change: fn(&Path),
    /// What is at the source, for people.
    contents: fn(&Path) -> String,
    /// Damages what lies beside, keeping its size.
    damage: fn(&Path),
    /// Takes a part of what lies beside away, leaving it well-formed.
    lessen: fn(&Path),
    /// A server that runs as long as the specimen is there.
    _server: Option<crate::cluster::Server>,
    /// Removes what no removal of files does.
    lose: fn(&Path),
    /// Knows an unchanged source by its token.
    has_token: bool,
    /// Does what is left to people after a disaster.
    fill_in: fn(&Path),
    /// Has the application run, if it must for a capture.
    wake: fn(&Path),
    /// Has it stand still, for what is there to be replaced.
    rest: fn(&Path),
}

impl Drop for Specimen {
    fn drop(&mut self) {
        (self.rest)(self.path());
    }
}

impl Specimen {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn contents(&self) -> String {
        (self.contents)(self.path())
    }

    fn back_up(&self, previous: Option<&Stored>) -> Result<Stored> {
        (self.wake)(self.path());
        back_up(&*self.component, previous)
    }

    fn destroy(&self) {
        (self.lose)(self.path());
        (self.rest)(self.path());
        for path in self.component.destroy() {
            estate::swap::remove(&path).unwrap();
        }
    }

    /// Restores beside without swapping.
    fn beside(&self, stored: &Stored, run: &str) -> Vec<estate::component::Part> {
        (self.rest)(self.path());
        let parts = self.component.parts(run, &stored.point);
        self.component.prepare(&parts, &stored.point).unwrap();
        stored.restore(&parts);
        parts
    }

    fn recover(&self, stored: &Stored) -> (estate::component::Proof, estate::swap::SwapPlan) {
        (self.rest)(self.path());
        stored.recover(&*self.component, RUN).unwrap()
    }

    fn prove(&self, stored: &Stored, parts: &[estate::component::Part]) -> estate::component::Proof {
        self.component.prove(parts, &stored.point, &Cancel::default()).unwrap()
    }
}

macro_rules! conformance {
    ($($driver:ident => $specimen:expr;)*) => {$(
        mod $driver {
            use super::*;

            #[test] fn looks_well() { super::looks_well(&$specimen); }
            #[test] fn is_proven() { super::is_proven(&$specimen); }
            #[test] fn knows_what_has_not_changed() { super::knows_what_has_not_changed(&$specimen); }
            #[test] fn sees_a_change() { super::sees_a_change(&$specimen); }
            #[test] fn aborts() { super::aborts(&$specimen); }
            #[test] fn refuses_an_unread_capture() { super::refuses_an_unread_capture(&$specimen); }
            #[test] fn damage_is_not_proven() { super::damage_is_not_proven(&$specimen); }
            #[test] fn less_is_not_proven() { super::less_is_not_proven(&$specimen); }
            #[test] fn nothing_beside_is_not_proven() { super::nothing_beside_is_not_proven(&$specimen); }
            #[test] fn comes_back_from_nothing() { super::comes_back_from_nothing(&$specimen); }
            #[test] fn comes_back_over_what_is_there() { super::comes_back_over_what_is_there(&$specimen); }
            #[test] fn a_lost_source_is_no_backup() { super::a_lost_source_is_no_backup(&$specimen); }
        }
    )*};
}

conformance! {
    sqlite_with_log => sqlite("wal", Pages::Auto);
    sqlite_with_journal => sqlite("delete", Pages::Auto);
    sqlite_copied => sqlite("wal", Pages::Copied);
    files => files();
    command => command();
    postgres => postgres();
    postgres_dump => postgres_dump();
    redis => redis(false);
    redis_that_appends => redis(true);
}

fn sqlite(journal: &str, pages: Pages) -> Specimen {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.db");
    sqlite3(
        &path,
        &format!(
            "pragma journal_mode={journal}; create table agents(id integer primary key, name text);
             create table events(id integer primary key, agent references agents(id), body blob);
             with recursive n(i) as (select 1 union all select i+1 from n where i<500)
             insert into agents select i, 'agent ' || i from n;
             insert into events select id, id, randomblob(600) from agents;"
        ),
    );
    age(&path);
    let options = SqliteOptions {
        facts: vec![
            ("agents".to_owned(), "select count(*) from agents".to_owned()),
            ("last".to_owned(), "select max(name) from agents".to_owned()),
        ],
        exports: vec![
            Export { name: "dump.sql".to_owned(), what: Exported::Dump },
            Export { name: "agents.csv".to_owned(), what: Exported::Csv("select * from agents".to_owned()) },
        ],
        pages,
        // One of the two specimens is proven in a process of its own.
        prover: (pages == Pages::Auto).then(|| crate::sqlite_aside::prover(place::Place::host())),
        ..SqliteOptions::of(&path)
    };
    Specimen {
        directory,
        component: Box::new(Sqlite::new(options)),
        change: |directory| _ = sqlite3(&directory.join("hub.db"), "insert into agents(name) values('new')"),
        contents: |directory| match directory.join("hub.db").exists() {
            true => sqlite3(&directory.join("hub.db"), ".dump"),
            false => String::new(),
        },
        damage: |path| scribble(path, 4096 * 20 + 8),
        lessen: |path| {
            _ = sqlite3(
                path,
                "pragma foreign_keys=off; delete from events where id > 490; pragma journal_mode=delete",
            );
        },
        _server: None,
        lose: |_| (),
        has_token: true,
        fill_in: |_| (),
        wake: |_| (),
        rest: |_| (),
    }
}

fn files() -> Specimen {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("k8s/base")).unwrap();
    for (path, text) in
        [("compose.yml", "services: {}"), ("k8s/a.yaml", "kind: A"), ("k8s/base/b.yaml", "kind: B")]
    {
        fs::write(root.join(path), text).unwrap();
    }
    fs::write(root.join(".env"), "SECRET=hunter2\n").unwrap();
    std::os::unix::fs::symlink("a.yaml", root.join("k8s/link")).unwrap();
    let options = FilesOptions {
        base: root.to_owned(),
        paths: vec!["compose*.yml".to_owned(), "k8s/".to_owned()],
        excludes: Vec::new(),
        env_files: vec![".env".into()],
    };
    Specimen {
        component: Box::new(Files::new(options)),
        directory,
        change: |directory| fs::write(directory.join("k8s/c.yaml"), "kind: C").unwrap(),
        contents: |directory| {
            let found = std::process::Command::new("sh")
                .args(["-c", "find compose.yml k8s -type f 2>/dev/null | sort | xargs -r tail -n +1"])
                .current_dir(directory)
                .output()
                .unwrap();
            String::from_utf8(found.stdout).unwrap()
        },
        // Bytes of the same length are the repository's to verify; time, mode and size are ours.
        damage: |path| {
            let damaged = if path.is_dir() { path.join("base/b.yaml") } else { path.to_owned() };
            fs::write(damaged, "kind: X").unwrap();
        },
        lessen: |path| {
            if path.is_dir() {
                fs::remove_file(path.join("a.yaml")).unwrap();
            }
        },
        _server: None,
        lose: |_| (),
        has_token: false,
        fill_in: |directory| fs::write(directory.join(".env"), "SECRET=hunter3\n").unwrap(),
        wake: |_| (),
        rest: |_| (),
    }
}

fn command() -> Specimen {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    fs::write(root.join("state"), "one\ntwo\nthree\nend\n").unwrap();
    let shell = |text: &str| place::Command::shell(text).directory(&root);
    let options = CommandOptions {
        name: "ledger".to_owned(),
        file: "ledger.txt".to_owned(),
        backup: shell("cat state"),
        restore: shell("cat > state"),
        verify: Some(shell("tail -n 1 | grep -qx end")),
        facts: Vec::new(),
        hold: root.join("hold"),
        destroy: vec![root.join("state")],
        timeout: std::time::Duration::from_secs(20),
    };
    Specimen {
        directory,
        component: Box::new(Dump::new(options, place::Place::host())),
        change: |directory| fs::write(directory.join("state"), "one\ntwo\nfour\nmore\nend\n").unwrap(),
        contents: |directory| fs::read_to_string(directory.join("state")).unwrap_or_default(),
        damage: |path| fs::write(path, "one\ntwo\nthree\nEND\n").unwrap(),
        lessen: |path| fs::write(path, "one\ntwo\nend\n").unwrap(),
        _server: None,
        lose: |_| (),
        has_token: false,
        fill_in: |_| (),
        wake: |_| (),
        rest: |_| (),
    }
}

fn postgres() -> Specimen {
    let directory = crate::cluster::directory();
    let cluster = Cluster::make(directory.path());
    cluster.sql(
        "create table agents(id bigint primary key, name text);
         insert into agents select i, 'agent ' || i from generate_series(1, 3000) i; checkpoint",
    );
    let facts = [("agents", "select count(*) from agents"), ("last", "select max(name) from agents")];
    Specimen {
        component: Box::new(cluster.component(&facts)),
        directory,
        change: |directory| {
            Cluster::at(directory).start();
            _ = Cluster::at(directory).sql("insert into agents select max(id) + 1, 'new' from agents");
        },
        contents: |directory| {
            let cluster = Cluster::at(directory);
            cluster.start();
            match cluster.is_running() {
                true => cluster.sql("select id, name from agents order by id"),
                false => String::new(),
            }
        },
        damage: |data| {
            let script = "find \"$1\"/base -type f -regex '.*/[1-9][0-9][0-9][0-9][0-9]+' -size +15";
            let found =
                std::process::Command::new("sh").args(["-c", script, "sh"]).arg(data).output().unwrap();
            for path in String::from_utf8(found.stdout).unwrap().lines() {
                scribble(Path::new(path), 8192 + 5000);
            }
        },
        // One user and no server: what an administrator does with a cluster that must not be reached.
        lessen: |data| crate::cluster::alone(data, "delete from agents where id > 2900"),
        _server: None,
        lose: |_| (),
        has_token: false,
        fill_in: |_| (),
        wake: |directory| Cluster::at(directory).start(),
        rest: |directory| Cluster::at(directory).stop(),
    }
}

fn postgres_dump() -> Specimen {
    let directory = crate::cluster::directory();
    let cluster = Cluster::make(directory.path());
    crate::postgres_dump::fill(&cluster);
    let facts = [("agents", "select count(*) from agents"), ("last", "select max(name) from agents")];
    Specimen {
        component: Box::new(crate::postgres_dump::component(
            &cluster,
            Some(crate::postgres_dump::NAMES),
            &facts,
        )),
        directory,
        change: |directory| {
            _ = crate::postgres_dump::sql(
                &Cluster::at(directory),
                "shop",
                "insert into agents select max(id) + 1, 'new' from agents",
            );
        },
        contents: |directory| crate::postgres_dump::contents(&Cluster::at(directory)),
        damage: |dump| {
            crate::postgres_dump::in_rows(dump, |text| {
                let middle = text.len() / 2;
                text[middle..middle + 64].fill(0xa5);
            });
        },
        lessen: |dump| {
            crate::postgres_dump::in_rows(dump, |text| {
                let end = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                text.drain(..end);
            });
        },
        _server: Some(crate::cluster::Server(cluster)),
        lose: |directory| crate::postgres_dump::drop_all(&Cluster::at(directory)),
        has_token: false,
        fill_in: |_| (),
        wake: |_| (),
        rest: |_| (),
    }
}

fn redis(appends: bool) -> Specimen {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path());
    let settings: &[(&str, &str)] = if appends { &[("appendonly", "yes")] } else { &[("save", "3600 1")] };
    cache.make(settings);
    cache.fill("agent", 3000);
    cache.ask(&["SADD", "agents", "a", "b", "c"]);
    cache.ask(&["-n", "3", "SET", "version", "v1"]);
    let facts = [("agents", "SCARD agents"), ("version", "-n 3 GET version")];
    Specimen {
        component: Box::new(cache.component(&facts)),
        directory,
        change: |directory| {
            Cache::at(directory).start();
            _ = Cache::at(directory).ask(&[
                "SADD",
                "agents",
                "d",
                &format!("{:?}", std::time::Instant::now()),
            ]);
            _ = Cache::at(directory).ask(&["SET", "new", "key"]);
        },
        contents: |directory| {
            let cache = Cache::at(directory);
            if !cache.data().exists() {
                return String::new();
            }
            cache.start();
            cache.contents()
        },
        damage: |path| {
            let dump = if path.is_dir() { crate::cache::dump_in(path) } else { path.to_owned() };
            scribble(&dump, fs::metadata(&dump).unwrap().len() / 2);
        },
        lessen: |path| {
            if path.is_dir() {
                crate::cache::lessen(&crate::cache::dump_in(path));
            }
        },
        _server: None,
        lose: |_| (),
        has_token: false,
        fill_in: |_| (),
        wake: |directory| Cache::at(directory).start(),
        rest: |directory| Cache::at(directory).stop(),
    }
}

fn looks_well(specimen: &Specimen) {
    (specimen.wake)(specimen.path());
    let component = &specimen.component;
    let errors: Vec<_> =
        component.preflight().into_iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert_eq!(errors, []);
    let state = component.state().unwrap();
    assert!(state.present);
    assert_eq!(state.damage, None);
    assert!(!component.engine().is_empty());
    // What is on a server, only the server can remove.
    assert!(!component.destroy().is_empty() || component.kind() == "postgres_dump");
    let stored = specimen.back_up(None).unwrap();
    assert_eq!(stored.point.kind, component.kind());
    assert!(stored.point.engine.ends_with(&component.engine()), "{}", stored.point.engine);
    assert!(stored.point.bytes.unwrap() > 0);
    assert!(!stored.point.facts.is_empty());
}

fn is_proven(specimen: &Specimen) {
    let before = specimen.contents();
    let stored = specimen.back_up(None).unwrap();
    assert_eq!(specimen.contents(), before, "a capture changes nothing");
    let parts = specimen.beside(&stored, RUN);
    let proof = specimen.prove(&stored, &parts);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    // Proving changes nothing, so that it can be done again.
    assert_eq!(specimen.prove(&stored, &parts), proof);
    let litter: Vec<_> = fs::read_dir(parts[0].beside.parent().unwrap()).unwrap().flatten().collect();
    let beside = |name: &str| name.contains(".lifeboat-") && !name.ends_with(RUN);
    assert!(!litter.iter().any(|entry| beside(&entry.file_name().to_string_lossy())), "{litter:?}");
}

fn knows_what_has_not_changed(specimen: &Specimen) {
    let first = specimen.back_up(None).unwrap();
    let second = specimen.back_up(Some(&first)).unwrap();
    assert_eq!(second.unchanged, specimen.has_token);
    assert_eq!(second.point.facts, first.point.facts);
    assert_eq!(second.point.bytes, first.point.bytes);
    assert_eq!(second.point.roots, first.point.roots);
    assert!(second.point.instant > first.point.instant, "the same state, at a later moment");
    let parts = specimen.beside(&second, RUN);
    assert_eq!(specimen.prove(&second, &parts).outcome(), Proven::Proven);
}

fn sees_a_change(specimen: &Specimen) {
    let first = specimen.back_up(None).unwrap();
    (specimen.change)(specimen.path());
    let changed = specimen.contents();
    let second = specimen.back_up(Some(&first)).unwrap();
    assert!(!second.unchanged);
    assert_ne!(second.point.facts, first.point.facts);
    let (proof, _) = specimen.recover(&second);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert_eq!(specimen.contents(), changed);
    // What was restored of one point is not proven by what was recorded of another.
    let parts = specimen.beside(&first, "r2");
    let wrong = specimen.component.prove(&parts, &second.point, &Cancel::default()).unwrap();
    assert_eq!(wrong.outcome(), Proven::Failed, "{wrong:#?}");
}

fn aborts(specimen: &Specimen) {
    let scratch = tempfile::tempdir().unwrap();
    let request =
        CaptureRequest { run: RUN, scratch: scratch.path(), previous: None, cancel: Cancel::default() };
    (specimen.wake)(specimen.path());
    drop(specimen.component.capture(&request).unwrap());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    // Nothing holds the source still any more.
    (specimen.change)(specimen.path());
    specimen.back_up(None).unwrap();
}

fn refuses_an_unread_capture(specimen: &Specimen) {
    if specimen.component.kind() == "files" {
        // Who walks a tree knows whether it was read.
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let request =
        CaptureRequest { run: RUN, scratch: scratch.path(), previous: None, cancel: Cancel::default() };
    (specimen.wake)(specimen.path());
    let capture = specimen.component.capture(&request).unwrap();
    drop(capture.members);
    assert!(capture.finish.finish(None).is_err());
}

fn damage_is_not_proven(specimen: &Specimen) {
    let stored = specimen.back_up(None).unwrap();
    let parts = specimen.beside(&stored, RUN);
    (specimen.damage)(&parts[parts.len() - 1].beside);
    if parts.len() > 1 {
        (specimen.damage)(&parts[0].beside);
    }
    let proof = specimen.prove(&stored, &parts);
    assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
}

fn less_is_not_proven(specimen: &Specimen) {
    let stored = specimen.back_up(None).unwrap();
    let parts = specimen.beside(&stored, RUN);
    parts.iter().for_each(|part| (specimen.lessen)(&part.beside));
    let proof = specimen.prove(&stored, &parts);
    assert_eq!(proof.outcome(), Proven::Failed, "{proof:#?}");
    let failed = proof.shown.iter().filter(|shown| shown.holds == Holds::No);
    assert!(failed.clone().all(|shown| shown.expected != shown.found) && failed.count() > 0);
}

fn nothing_beside_is_not_proven(specimen: &Specimen) {
    let stored = specimen.back_up(None).unwrap();
    let parts = specimen.component.parts("never", &stored.point);
    assert!(specimen.component.prove(&parts, &stored.point, &Cancel::default()).is_err());
    assert!(estate::swap::plan("never", &parts).is_err());
}

fn comes_back_from_nothing(specimen: &Specimen) {
    let before = specimen.contents();
    let stored = specimen.back_up(None).unwrap();
    specimen.destroy();
    assert!(!specimen.component.state().unwrap().present);
    assert_ne!(specimen.contents(), before);
    let (proof, plan) = specimen.recover(&stored);
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    assert_eq!(specimen.contents(), before);
    // Done twice, nothing more happens; what was committed is not there to be rolled back to.
    plan.apply(&mut |_, _| panic!("there is nothing left to move")).unwrap();
    plan.commit().unwrap();
    assert_eq!(plan.kept(), [""; 0].map(std::path::PathBuf::from));
    assert_eq!(specimen.contents(), before);
    // The recovered source can be backed up again, once people have done their part.
    (specimen.fill_in)(specimen.path());
    assert_eq!(specimen.component.left_to_people(&stored.point), []);
    specimen.back_up(Some(&stored)).unwrap();
}

fn comes_back_over_what_is_there(specimen: &Specimen) {
    let before = specimen.contents();
    let stored = specimen.back_up(None).unwrap();
    (specimen.change)(specimen.path());
    let changed = specimen.contents();
    let (_, plan) = specimen.recover(&stored);
    assert_eq!(specimen.contents(), before);
    if specimen.component.kind() == "command" {
        // What a command has put back, only a command can take away.
        return;
    }
    if specimen.component.kind() == "postgres_dump" {
        return goes_back_by_names(specimen, &stored, &changed);
    }
    assert!(!plan.kept().is_empty());
    (specimen.rest)(specimen.path());
    plan.rollback(&mut |_, _| Ok(())).unwrap();
    assert_eq!(specimen.contents(), changed);
    plan.rollback(&mut |_, _| panic!("there is nothing left to move")).unwrap();
    plan.commit().unwrap();
    assert_eq!(specimen.contents(), changed);
}

/// What is on a server is kept there, and not in files.
fn goes_back_by_names(specimen: &Specimen, stored: &Stored, changed: &str) {
    let (component, cancel) = (&specimen.component, Cancel::default());
    let parts = component.parts(RUN, &stored.point);
    assert_eq!(component.kept(&parts, &cancel).unwrap().len(), 2);
    for _twice in 0..2 {
        component.undo_swap(&parts, &stored.point, &cancel).unwrap();
        assert_eq!(specimen.contents(), changed);
    }
    for _twice in 0..2 {
        component.commit(&parts, &cancel).unwrap();
        assert_eq!(component.kept(&parts, &cancel).unwrap(), [""; 0]);
    }
    assert_eq!(specimen.contents(), changed);
}

fn a_lost_source_is_no_backup(specimen: &Specimen) {
    let stored = specimen.back_up(None).unwrap();
    specimen.destroy();
    let failed = specimen.back_up(Some(&stored)).err().expect("a lost source must not be backed up");
    assert!(!matches!(failed, Error::Interrupted), "{failed}");
}

#[test]
fn a_copy_is_no_part_of_it() {
    // Keeps the helpers honest: a stored tree is the tree.
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(one.path().join("a"), "a").unwrap();
    copy(one.path(), &two.path().join("copy"));
    assert_eq!(fs::read(two.path().join("copy/a")).unwrap(), b"a");
    drop(Shell::open(&one.path().join("db")));
}
