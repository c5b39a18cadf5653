//! A standby that archives its log and is backed up, beside a primary that knows nothing of Lifeboat.

use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::postgres::{Cluster, program, run, server_user};
use crate::wal::Shop;

const PATIENCE: Duration = Duration::from_secs(60);

/// A standby of a primary, which streams from it.
fn standby_of(primary: &Cluster) -> Cluster {
    let mode = std::fs::Permissions::from_mode(0o755);
    let home = tempfile::Builder::new().prefix("pg").permissions(mode).tempdir().unwrap();
    if let Some((uid, gid)) = server_user() {
        chown(home.path(), Some(uid), Some(gid)).unwrap();
    }
    let standby = Cluster { home };
    let mut copy = program("pg_basebackup");
    copy.args(["-U", "keeper", "-R", "-c", "fast", "-X", "stream", "-h"]).arg(primary.home.path());
    run(copy.arg("-D").arg(standby.data()));
    let sockets = standby.home.path().display().to_string();
    standby.configure(&format!("unix_socket_directories = '{sockets}'\n"));
    standby.start();
    standby
}

/// Ends the segment that the primary writes, and waits until the standby has archived it.
fn switch(primary: &Cluster, standby: &Cluster) {
    let name = primary.sql("select pg_walfile_name(pg_switch_wal())");
    let begin = Instant::now();
    while standby.sql("select coalesce(last_archived_wal, '') from pg_stat_archiver") < name {
        assert!(begin.elapsed() < PATIENCE, "{name} is not archived: {}", standby.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_standby_archives_is_backed_up_and_comes_back_to_an_instant() {
    let primary = Cluster::with(&["--wal-segsize=1"]);
    primary.sql("create table orders(writer int, n int, primary key (writer, n))");
    let shop = Shop::of(standby_of(&primary));
    shop.archive("always");
    let standby = &shop.cluster;
    let insert = |n: u32| {
        primary.sql(&format!("insert into orders values (0, {n})"));
        Timestamp::now()
    };
    // A backup of a standby begins where its primary made a checkpoint: one after the archive was begun.
    primary.sql("checkpoint");
    insert(1);
    switch(&primary, standby);
    standby.sql("checkpoint");

    // A standby ends no segment: what it has replayed when the backup ends is archived when its primary goes on.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                primary.sql("select pg_switch_wal()");
                primary.sql("select pg_current_xact_id()");
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let (code, said) = shop.run(&["backup"]);
        stop.store(true, Ordering::SeqCst);
        assert_eq!(code, 0, "{said}");
    });
    assert_eq!(standby.sql("select pg_is_in_recovery()"), "t", "it is one still");

    let second = insert(2);
    std::thread::sleep(Duration::from_millis(20));
    insert(3);
    switch(&primary, standby);
    let count = "select count(*), max(n), pg_is_in_recovery() from orders";
    assert_eq!(shop.restored(None, count).unwrap(), "3|3|f");
    assert_eq!(shop.restored(Some(second), count).unwrap(), "2|2|f");
    shop.succeeds(&["verify", "--restore"]);
    assert_eq!(standby.sql("select count(*) from orders"), "3", "the source was not touched");
}
