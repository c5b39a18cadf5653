//! The resident helper of `lifeboat serve`: it archives for a server and gives back to one that recovers, ahead of both, and
//! whoever is killed in the middle of it, nothing that was acknowledged is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::postgres::{program, run, server_user};
use crate::shipping::Serve;
use crate::wal::{Shop, told};

const PATIENCE: Duration = Duration::from_secs(60);

impl Shop {
    /// Starts the helper as the server's user, and waits until it listens.
    fn serve(&self) -> Serve {
        let serve = Serve::start(&mut self.command(&["serve", "--json"]));
        serve.await_event("listening");
        serve
    }

    /// Takes away what only those need who open the repository themselves.
    fn hide_password(&self) -> impl Drop {
        struct Hidden(PathBuf, PathBuf);
        impl Drop for Hidden {
            fn drop(&mut self) {
                fs::rename(&self.1, &self.0).unwrap();
            }
        }
        let hidden = Hidden(self.directory.join("password"), self.directory.join("hidden"));
        fs::rename(&hidden.0, &hidden.1).unwrap();
        hidden
    }

    fn wal(&self) -> PathBuf {
        self.cluster.data().join("pg_wal")
    }

    /// The segments that the server has marked as archived and still has.
    fn archived(&self) -> Vec<String> {
        let entries = fs::read_dir(self.wal().join("archive_status")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut done: Vec<String> =
            names.filter_map(|name| name.strip_suffix(".done").map(str::to_owned)).collect();
        done.retain(|name| name.len() == 24 && self.wal().join(name).is_file());
        done.sort();
        done
    }

    /// What names end so in the server's notes.
    fn ready(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.wal().join("archive_status")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "ready")).collect()
    }
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_helper_archives_and_gives_back_without_anybody_opening_the_repository() {
    let shop = Shop::new();
    let serve = shop.serve();
    let hidden = shop.hide_password();
    let names: Vec<String> = (0..12)
        .map(|n| {
            shop.insert(n);
            shop.switch()
        })
        .collect();
    let bytes = |name: &str| fs::read(shop.wal().join(name)).unwrap();
    for name in &names {
        let (code, text) = shop.fetch(name);
        assert_eq!(code, 0, "{text}");
        assert_eq!(shop.fetched(), bytes(name), "{name}");
        assert_eq!(shop.push(&shop.wal().join(name)).0, 0);
    }
    let (code, text) = shop.fetch("0000000100000000000000FF");
    assert!(code == 1 && text.contains("ends at"), "{code}: {text}");
    assert_eq!(shop.fetch("00000002.history").0, 1);
    // Nothing is left beside what was fetched.
    let beside = fs::read_dir(&shop.directory).unwrap();
    let beside =
        beside.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("fetched"));
    assert_eq!(beside.count(), 1);

    // A file that was changed behind its back is no longer the one that it has archived.
    let changed = shop.wal().join(&names[11]);
    let good = bytes(&names[11]);
    let mut bad = good.clone();
    let length = bad.len();
    bad[length - 1] ^= 1;
    fs::write(&changed, &bad).unwrap();
    let (code, text) = shop.push(&changed);
    assert!(code != 0 && text.contains("other content"), "{code}: {text}");
    fs::write(&changed, &good).unwrap();
    assert_eq!(shop.push(&changed).0, 0);

    // A gap is told by it as without it.
    let objects = shop.segments();
    fs::remove_file(&objects[objects.len() - 2]).unwrap();
    let missing = Shop::segment_of(&objects[objects.len() - 2]);
    let own = shop.wal().join(&missing);
    if own.exists() {
        fs::remove_file(&own).unwrap();
    }
    assert_eq!(serve.end(), Some(0));
    drop(hidden);
    let serve = shop.serve();
    let hidden = shop.hide_password();
    let (code, text) = shop.fetch(&missing);
    assert!(code == 255 && text.contains("missing"), "{code}: {text}");
    // Without it and without the password there is nobody left.
    assert_eq!(serve.end(), Some(0));
    assert_ne!(shop.push(&changed).0, 0);
    assert_eq!(shop.fetch(&names[0]).0, 255);
    drop(hidden);
    assert_eq!((shop.push(&changed).0, shop.fetch(&names[0]).0), (0, 0));
}

/// The numbers of the processes whose command line has these words one behind the other.
fn running(words: &[&str]) -> Vec<String> {
    let wanted = words.join("\0");
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let of = |entry: fs::DirEntry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_wanted = String::from_utf8_lossy(&command).contains(&wanted);
        is_wanted.then(|| entry.file_name().into_string().unwrap())
    };
    entries.filter_map(of).collect()
}

#[test]
fn what_will_be_asked_for_lies_in_the_servers_directory_without_a_name() {
    let shop = Shop::new();
    let names: Vec<String> = (0..8)
        .map(|n| {
            shop.insert(n);
            shop.switch()
        })
        .collect();
    let serve = shop.serve();
    let hidden = shop.hide_password();
    let plan = shop.plan().display().to_string();
    // Files that have no name, of the directory where what is fetched is put.
    let sheets = || {
        let open = fs::read_dir(format!("/proc/{}/fd", serve.process())).unwrap().flatten();
        let nameless = |entry: &fs::DirEntry| {
            let path = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
            path.starts_with(&shop.directory.display().to_string()) && path.ends_with("(deleted)")
        };
        let full =
            |entry: &fs::DirEntry| fs::metadata(entry.path()).is_ok_and(|found| found.len() == 1 << 20);
        let (full, empty): (Vec<_>, Vec<_>) = open.filter(nameless).partition(full);
        (full.len(), empty.len())
    };
    let target = shop.directory.join("RECOVERYXLOG");
    let fetch = |name: &str| {
        let mut command =
            shop.command(&["wal", "fetch", "--plan", &plan, name, &target.display().to_string()]);
        told(&command.current_dir(shop.cluster.data()).output().unwrap())
    };
    for (number, name) in names[..6].iter().enumerate() {
        assert_eq!(fetch(name).0, 0, "{name}");
        assert_eq!(fs::read(&target).unwrap(), fs::read(shop.wal().join(name)).unwrap(), "{name}");
        // What is read before there are more sheets than came with the first question is held in memory.
        until("a sheet that is filled", || number > 0 || sheets().0 > 0);
        fs::remove_file(&target).unwrap();
    }
    // Somebody who wants it elsewhere gets it, too.
    let elsewhere = shop.cluster.home.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    shop.cluster.give(&elsewhere);
    let there = elsewhere.join("file").display().to_string();
    let mut command = shop.command(&["wal", "fetch", "--plan", &plan, &names[6], &there]);
    let (code, text) = told(&command.current_dir(shop.cluster.data()).output().unwrap());
    assert_eq!(code, 0, "{text}");
    assert_eq!(fs::read(there).unwrap(), fs::read(shop.wal().join(&names[6])).unwrap());
    // At the end of the log nothing of the directory is held open any longer.
    assert_eq!(fetch("0000000100000000000000FF").0, 1);
    until("the end of the sheets", || sheets() == (0, 0));
    assert_eq!(serve.end(), Some(0));
    drop(hidden);
}

#[test]
fn what_follows_nothing_is_left_to_the_server_and_not_read_again_and_again() {
    let shop = Shop::new();
    shop.cluster.configure("archive_command = '/bin/false'\n");
    shop.cluster.sql("select pg_reload_conf()");
    assert!(shop.segments().is_empty());
    let names: Vec<String> = (0..6)
        .map(|n| {
            shop.insert(n);
            shop.cluster.sql("select pg_walfile_name(pg_switch_wal())")
        })
        .collect();
    until("the notes", || shop.ready().len() >= names.len());
    // The archive begins in the middle of what waits.
    assert_eq!(shop.push(&shop.wal().join(&names[3])).0, 0);
    let serve = shop.serve();
    until("what follows it", || shop.fetch(&names[5]).0 == 0);
    let read = || {
        let text = fs::read_to_string(format!("/proc/{}/io", serve.process())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    until("an end of reading", || {
        let before = read();
        std::thread::sleep(Duration::from_millis(500));
        read() - before < 1 << 20
    });
    // The server decides: then all of it is archived.
    shop.cluster.configure(&format!("archive_command = '{}'\n", shop.archive_command()));
    shop.cluster.sql("select pg_reload_conf()");
    until("the end of the archiving", || shop.ready().is_empty());
    assert_eq!(serve.end(), Some(0));
    for name in &names {
        let (code, text) = shop.fetch(name);
        assert_eq!(code, 0, "{name}: {text}");
    }
}

#[test]
fn a_call_starts_a_helper_that_ends_by_itself() {
    let shop = Shop::new();
    shop.archive("off");
    let plan = shop.plan().display().to_string();
    let helper = || running(&["serve", "orders", "--until-idle", "60", "--plan", &plan]);
    let names: Vec<String> = (0..4)
        .map(|n| {
            shop.insert(n);
            shop.cluster.sql("select pg_walfile_name(pg_switch_wal())")
        })
        .collect();
    let push =
        |name: &str| shop.run(&["wal", "push", "--start-helper", &shop.wal().join(name).to_string_lossy()]);
    // One that cannot be started is no reason to do nothing, nor to hide what is wrong.
    let hidden = shop.hide_password();
    let (code, text) = push(&names[0]);
    assert!(code != 0 && text.contains("password"), "{code}: {text}");
    drop(hidden);
    until("the end of the helper that knows no password", || helper().is_empty());
    // Without the wish there is none.
    assert_eq!(shop.push(&shop.wal().join(&names[0])).0, 0);
    assert!(helper().is_empty());

    assert_eq!(push(&names[1]).0, 0);
    let processes = helper();
    let [process] = &processes[..] else { panic!("{processes:?}") };
    let hidden = shop.hide_password();
    assert_eq!((push(&names[2]).0, push(&names[3]).0, push(&names[2]).0), (0, 0, 0));
    for name in &names {
        let (code, text) = shop.fetch(name);
        assert_eq!(code, 0, "{text}");
        assert_eq!(shop.fetched(), fs::read(shop.wal().join(name)).unwrap(), "{name}");
    }
    assert_eq!(helper(), processes);
    drop(hidden);
    // Killed, it is started anew; so it is by one that recovers, for which nothing is archived ahead.
    run(Command::new("kill").args(["-KILL", process]));
    until("its end", || helper().is_empty());
    let mut command =
        shop.command(&["wal", "fetch", "--start-helper", "--plan", &plan, &names[0], "fetched"]);
    assert_eq!(told(&command.output().unwrap()).0, 0);
    let processes = helper();
    assert_eq!(processes.len(), 1);
    run(Command::new("kill").args(["-TERM", &processes[0]]));
    until("its end", || helper().is_empty());

    let arguments = ["serve", "orders", "--until-idle", "1", "--json"];
    let serve = Serve::start(&mut shop.command(&arguments));
    serve.await_event("listening");
    until("its end by itself", || running(&arguments).is_empty());
    assert_eq!(serve.end(), Some(0));
}

#[test]
fn strangers_are_not_answered() {
    let Some((uid, gid)) = server_user() else { return };
    let shop = Shop::new();
    shop.insert(1);
    let name = shop.switch();
    let serve = shop.serve();
    let hidden = shop.hide_password();
    // The permissions of the socket keep them out already; what is looked at here is what comes behind.
    let socket = shop.directory.join("state/wal/orders.socket");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    // A data directory that anybody may look at.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(directory.path().join("global")).unwrap();
    for file in ["global/pg_control", "PG_VERSION"] {
        fs::copy(shop.cluster.data().join(file), directory.path().join(file)).unwrap();
        fs::set_permissions(directory.path().join(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    // Who asks believes a helper that runs as its owner.
    shop.cluster.give(directory.path());
    let plan = shop.plan().display().to_string();
    let ask = |uid: u32, gid: u32| {
        let mut command = shop.command(&["wal", "fetch", "--plan", &plan, &name, "fetched"]);
        told(&command.uid(uid).gid(gid).current_dir(directory.path()).output().unwrap())
    };
    let (code, text) = ask(65534, 65534);
    assert!(code == 255 && !directory.path().join("fetched").exists(), "{code}: {text}");
    let (code, text) = ask(uid, gid);
    assert_eq!(code, 0, "{text}");
    assert_eq!(serve.end(), Some(0));
    drop(hidden);
}

#[test]
fn nothing_acknowledged_is_missing_whoever_is_killed() {
    let shop = Shop::new();
    shop.cluster.configure("wal_keep_size = 4000\n");
    shop.cluster.stop("fast");
    shop.cluster.start();
    shop.succeeds(&["backup"]);
    let (stop, killed) = (AtomicBool::new(false), AtomicU32::new(0));
    let written: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=2)
            .map(|writer| {
                let (stop, cluster) = (&stop, &shop.cluster);
                scope.spawn(move || cluster.write(writer, stop).len())
            })
            .collect();
        // What makes segments fast.
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                shop.cluster.sql("create table if not exists x(t text); insert into x select repeat(md5(random()::text), 20) from generate_series(1, 3000)");
            }
        });
        // Those who archive without the helper: a writer of their own each.
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                for note in shop.ready().iter().take(2) {
                    let file = shop.wal().join(note.file_stem().unwrap());
                    let file = file.display().to_string();
                    shop.run(&["wal", "push", &file, "--state", "/nonexistent/state"]);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        // Those whom the server calls.
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                killed.fetch_add(kill_clients(shop.plan().as_path()), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(90));
            }
        });
        for round in 0..8_u64 {
            let serve = Serve::start(&mut shop.command(&["serve", "--json"]));
            serve.await_event("listening");
            std::thread::sleep(Duration::from_millis(300 + round * 137 % 400));
            serve.kill();
        }
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let serve = shop.serve();
    shop.switch();
    until("the end of the archiving", || shop.ready().is_empty());
    let archived = shop.archived();
    assert!(archived.len() > 20 && written > 20, "{} segments, {written} rows", archived.len());
    assert!(killed.load(Ordering::Relaxed) > 0, "nobody was killed");
    assert_eq!(serve.end(), Some(0));
    // Asked of the repository itself.
    for name in &archived {
        let (code, text) = shop.fetch(name);
        assert_eq!(code, 0, "{name}: {text}");
        assert_eq!(shop.fetched(), fs::read(shop.wal().join(name)).unwrap(), "{name}");
    }
    let count = shop.restored(None, "select count(*) from orders").unwrap();
    assert_eq!(count, written.to_string());
}

/// Kills the processes that a server has started to archive by this plan; tells how many.
fn kill_clients(plan: &Path) -> u32 {
    let wanted = format!("wal\0push\0--plan\0{}\0--state", plan.display());
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&wanted) {
            let pid = entry.file_name().into_string().unwrap();
            let mut kill = Command::new("kill");
            killed += u32::from(kill.args(["-KILL", &pid]).stderr(Stdio::null()).status().unwrap().success());
        }
    }
    killed
}

#[test]
fn what_is_fetched_is_whole_or_absent_whoever_is_killed() {
    let shop = Shop::new();
    let serve = shop.serve();
    let names: Vec<String> = (0..6)
        .map(|n| {
            shop.insert(n);
            shop.switch()
        })
        .collect();
    serve.kill();
    let stop = AtomicBool::new(false);
    let plan = shop.plan().display().to_string();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let serve = Serve::start(&mut shop.command(&["serve", "--json"]));
                serve.await_event("listening");
                std::thread::sleep(Duration::from_millis(130));
                serve.kill();
            }
        });
        for round in 0..60_u64 {
            let name = &names[usize::try_from(round).unwrap() % names.len()];
            let target = shop.directory.join("recovery");
            let (text, is_killed) = (target.display().to_string(), round % 3 == 0);
            let mut command = shop.command(&["wal", "fetch", "--plan", &plan, name, &text]);
            command.current_dir(shop.cluster.data()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            if is_killed {
                std::thread::sleep(Duration::from_millis(round * 7 % 23));
                child.kill().unwrap();
            }
            let status = child.wait().unwrap();
            assert!(status.success() || is_killed, "{status}");
            if target.exists() {
                assert_eq!(fs::read(&target).unwrap(), fs::read(shop.wal().join(name)).unwrap(), "{name}");
                fs::remove_file(&target).unwrap();
            } else {
                assert!(is_killed, "{name}");
            }
            let left = fs::read_dir(&shop.directory).unwrap().flatten();
            let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("recovery"));
            assert_eq!(left.count(), 0);
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn archiving_that_stands_still_is_told_and_never_dropped() {
    let shop = Shop::new();
    shop.succeeds(&["backup"]);
    shop.cluster.configure("archive_command = '/bin/false'\n");
    shop.cluster.sql("select pg_reload_conf()");
    let serve = shop.serve();
    shop.insert(1);
    let name = shop.cluster.sql("select pg_walfile_name(pg_switch_wal())");
    until("the note", || !shop.ready().is_empty());
    assert!(!shop.run(&["status"]).1.contains("stands still"));
    let before = SystemTime::now() - Duration::from_secs(300);
    for note in shop.ready() {
        fs::File::options().write(true).open(note).unwrap().set_modified(before).unwrap();
    }
    let told = serve.await_event("standing");
    assert!(told.contains("\"files\":1") && told.contains("\"component\":\"orders\""), "{told}");
    let (code, text) = shop.run(&["status"]);
    assert!(code == 1 && text.contains("archiving stands still: 1 file of its log"), "{code}: {text}");
    // It is in the repository meanwhile, because the helper waits for nobody; and the server's note is still there.
    until("the segment", || shop.fetch(&name).0 == 0);
    assert_eq!(shop.ready().len(), 1);
    shop.cluster.configure(&format!("archive_command = '{}'\n", shop.archive_command()));
    shop.cluster.sql("select pg_reload_conf()");
    serve.await_event("moving");
    assert_eq!(serve.end(), Some(0));
    assert!(!shop.run(&["status"]).1.contains("stands still"));
}

/// Lets a server recover as it is configured, and asks it when it has.
fn recovered(data: &Path, question: &str) -> String {
    let socket = data.display();
    let options =
        format!("-c archive_mode=off -c unix_socket_directories={socket} -c listen_addresses= -c fsync=off");
    let log = data.join("asked.log");
    let mut command = program("pg_ctl");
    command.args(["start", "-w", "-o", &options, "-l"]).arg(&log).arg("-D").arg(data);
    let started = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let said = || fs::read_to_string(&log).unwrap_or_default();
    assert!(started.success(), "{}", said());
    let ask = |question: &str| {
        let arguments = ["-AtXq", "-U", "keeper", "-d", "postgres", "-c", question, "-h"];
        run(program("psql").args(arguments).arg(data))
    };
    until(&format!("the end of the recovery: {}", said()), || ask("select pg_is_in_recovery()") == "f");
    let answer = ask(question);
    _ = program("pg_ctl").args(["stop", "-w", "-m", "immediate", "-D"]).arg(data).output().unwrap();
    answer
}

#[test]
fn a_server_recovers_through_the_helper() {
    let shop = Shop::new();
    let serve = shop.serve();
    let copy = shop.directory.join("copy");
    run(program("pg_basebackup")
        .args(["-U", "keeper", "-X", "none", "-c", "fast", "--no-sync", "-h"])
        .arg(shop.cluster.home.path())
        .arg("-D")
        .arg(&copy));
    for n in 0..25 {
        shop.insert(n);
        shop.switch();
    }
    let end = shop.cluster.sql("select pg_current_wal_insert_lsn()");
    // Behind the target, so that there is something before which the server can stop.
    shop.insert(99);
    shop.switch();
    let hidden = shop.hide_password();
    let config = copy.join("postgresql.conf");
    let settings = fs::read_to_string(&config).unwrap()
        + &format!(
            "restore_command = '{} wal fetch --plan {} --state {} %f %p'\nrecovery_target_lsn = '{end}'\nrecovery_target_action = promote\n",
            env!("CARGO_BIN_EXE_lifeboat"),
            shop.plan().display(),
            shop.directory.join("state").display()
        );
    fs::write(&config, settings).unwrap();
    fs::write(copy.join("recovery.signal"), "").unwrap();
    shop.cluster.give(&copy);
    assert_eq!(recovered(&copy, "select count(*), max(n) from orders"), "25|24");
    assert_eq!(serve.end(), Some(0));
    drop(hidden);
}
