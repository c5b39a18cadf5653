//! Second backups of PostgreSQL clusters: what is unchanged is not read again, what is changed always is, and nobody is told more
//! than was looked at.

use std::fs;
use std::time::Duration;

use estate::component::{Component, Proven};

use crate::cluster::{Cluster, Server, directory};
use crate::support::{Stored, back_up};

fn number(stored: &Stored, detail: &str) -> u64 {
    stored.point.details[detail].parse().unwrap()
}

/// A cluster with two tables whose files' times tell every change by now.
fn settled(root: &std::path::Path) -> Server {
    let cluster = Cluster::make(root);
    cluster.sql(
        "create table still(n int); insert into still select generate_series(1, 50000);
         create table moving(n int); insert into moving select generate_series(1, 1000)",
    );
    cluster.sql("vacuum freeze");
    cluster.sql("checkpoint");
    std::thread::sleep(Duration::from_millis(2100));
    Server(cluster)
}

fn component(cluster: &Cluster) -> impl Component + use<> {
    cluster.component(&[("still", "select sum(n) from still"), ("moving", "select sum(n) from moving")])
}

#[test]
fn what_is_unchanged_is_not_read_again_and_comes_back_right() {
    let home = directory();
    let server = settled(home.path());
    let cluster = &server.0;
    let component = component(cluster);
    let first = back_up(&component, None).unwrap();
    assert_eq!((number(&first, "bytes_kept"), &first.notes[..]), (0, &[][..]));
    assert!(number(&first, "pages_verified") > 200);

    cluster.sql("update moving set n = n + 1");
    let second = back_up(&component, Some(&first)).unwrap();
    assert!(number(&second, "bytes_kept") > 50_000 * 30, "{:?}", second.point.details);
    assert!(number(&second, "bytes_read") < number(&first, "bytes_read") / 4, "{:?}", second.point.details);
    assert_eq!(second.point.details["read_whole"], first.point.details["read_whole"]);
    let [note] = &second.notes[..] else { panic!("{:?}", second.notes) };
    assert!(note.contains("were not read") && note.contains("pages verified"), "{note}");
    // What was changed was read, however little later.
    assert_eq!(
        fs::read(cluster.file_of("moving")).unwrap(),
        fs::read(second.path(cluster.file_of("moving"))).unwrap()
    );

    // And from that one once more.
    cluster.sql("insert into still values (7)");
    let third = back_up(&component, Some(&second)).unwrap();
    cluster.kill();
    let (proof, _) = third.recover(&component, "r3").unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    cluster.start();
    assert_eq!(cluster.sql("select count(*), (select sum(n) from moving) from still"), "50001|501500");
}

#[test]
fn a_file_that_was_replaced_or_came_is_read() {
    let home = directory();
    let server = settled(home.path());
    let cluster = &server.0;
    let component = component(cluster);
    let first = back_up(&component, None).unwrap();
    let before = cluster.file_of("still");
    cluster.sql("vacuum full still");
    cluster.sql("create table new(n int); insert into new values (1)");
    let second = back_up(&component, Some(&first)).unwrap();
    assert_ne!(cluster.file_of("still"), before);
    for table in ["still", "new"] {
        let file = cluster.file_of(table);
        assert_eq!(fs::read(&file).unwrap(), fs::read(second.path(&file)).unwrap(), "{table}");
    }
    cluster.kill();
    let (proof, _) = second.recover(&component, "r2").unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
}

#[test]
fn a_damaged_file_is_told_each_time() {
    let home = directory();
    let server = settled(home.path());
    let cluster = &server.0;
    let file = cluster.file_of("still");
    cluster.stop();
    crate::support::scribble(&file, 8192 * 3 + 4000);
    cluster.start();
    std::thread::sleep(Duration::from_millis(2100));
    let component = cluster.component(&[]);
    let mut previous = None;
    for _ in 0..3 {
        let stored = back_up(&component, previous.as_ref()).unwrap();
        let [problem] = &stored.problems[..] else { panic!("{:?}", stored.problems) };
        assert_eq!(problem.path, file);
        previous = Some(stored);
    }
    assert!(number(&previous.unwrap(), "bytes_kept") > 0, "the others need not be read");
}

#[test]
fn after_a_recovery_and_after_a_week_everything_is_read() {
    let home = directory();
    let server = settled(home.path());
    let cluster = &server.0;
    let component = component(cluster);
    let mut first = back_up(&component, None).unwrap();
    let kept = |previous: &Stored| number(&back_up(&component, Some(previous)).unwrap(), "bytes_kept");
    assert!(kept(&first) > 0);

    let whole = first.point.details["read_whole"].clone();
    let week_ago = first.point.instant - jiff::SignedDuration::from_hours(7 * 24);
    first.point.details.insert("read_whole".to_owned(), week_ago.to_string());
    assert_eq!(kept(&first), 0);
    first.point.details.insert("read_whole".to_owned(), whole);
    assert!(kept(&first) > 0);

    cluster.kill();
    let (_, plan) = first.recover(&component, "r2").unwrap();
    plan.commit().unwrap();
    cluster.start();
    assert_eq!(kept(&first), 0, "another timeline");
}
