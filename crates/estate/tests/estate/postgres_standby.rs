//! Backups of standbys: real ones that stream from a primary under load.

use std::path::Path;

use estate::component::postgres::Postgres;
use estate::component::{Cancel, Capture, CaptureRequest, Component, Proven};

use crate::cluster::{Cluster, Server, Writer, directory};
use crate::support::{RUN, back_up, store_with};

/// A primary with a table of 2 000 rows and a standby of it.
fn pair(home: &Path, other: &Path) -> (Server, Server) {
    let primary = Cluster::make(home);
    primary.sql(
        "create table agents(id bigint primary key, name text);
         insert into agents select i, 'agent ' || i from generate_series(1, 2000) i",
    );
    let standby = primary.standby(other);
    (Server(primary), Server(standby))
}

const AGENTS: &[(&str, &str)] = &[("agents", "select count(*) from agents")];

fn begin(component: &Postgres) -> Capture {
    let scratch = Path::new("/nowhere");
    let request = CaptureRequest { run: RUN, scratch, previous: None, cancel: Cancel::default() };
    component.capture(&request).unwrap()
}

#[test]
fn a_standby_is_backed_up_with_all_that_it_has_replayed() {
    let (home, other) = (directory(), directory());
    let (primary, standby) = pair(home.path(), other.path());
    standby.0.catch_up(&primary.0);
    let component = standby.0.component(AGENTS);
    // What was replayed last is in no file yet: it is in the log alone.
    primary.0.sql("insert into agents select i, 'late' from generate_series(2001, 2500) i");
    standby.0.catch_up(&primary.0);
    let stored = back_up(&component, None).unwrap();
    assert_eq!(stored.point.facts.declared["agents"].to_string(), "2500");
    primary.0.sql("insert into agents select i, 'after' from generate_series(2501, 3000) i");
    standby.0.catch_up(&primary.0);

    standby.0.kill();
    let (proof, plan) = stored.recover(&component, "r2").unwrap();
    assert_eq!(proof.outcome(), Proven::Proven, "{proof:#?}");
    plan.commit().unwrap();
    standby.0.start();
    assert_eq!(standby.0.sql("select count(*), max(id), pg_is_in_recovery() from agents"), "2500|2500|f");
}

#[test]
fn a_standby_under_load_comes_back_without_a_hole() {
    let (home, other) = (directory(), directory());
    let (primary, standby) = pair(home.path(), other.path());
    let writer = Writer::begin(&primary.0);
    writer.wait_for(20);
    standby.0.catch_up(&primary.0);
    let component = standby.0.component(&[("ledger", "select count(*) from ledger")]);
    let mut before_the_end = 0;
    let stored = store_with(begin(&component), None, || {
        writer.wait_for(writer.acknowledged() + 200);
        before_the_end = writer.acknowledged();
        standby.0.catch_up(&primary.0);
    })
    .unwrap();
    let after_the_end = writer.acknowledged() + 1;
    writer.wait_for(writer.acknowledged() + 50);
    drop(writer);
    standby.0.kill();
    let (proof, _) = stored.recover(&component, "r2").unwrap();
    assert_ne!(proof.outcome(), Proven::Failed, "{proof:#?}");
    standby.0.start();
    let rows = standby.0.sql("select count(*), max(n) from ledger");
    let (count, last) = rows.split_once('|').unwrap();
    assert_eq!(count, last, "no number is missing in between");
    let last: u64 = last.parse().unwrap();
    assert!(
        (before_the_end..=after_the_end).contains(&last),
        "{before_the_end} <= {last} <= {after_the_end}"
    );
}

#[test]
fn a_standby_that_is_promoted_meanwhile_makes_the_backup_void() {
    let (home, other) = (directory(), directory());
    let (primary, standby) = pair(home.path(), other.path());
    standby.0.catch_up(&primary.0);
    let component = standby.0.component(AGENTS);
    let stored = store_with(begin(&component), None, || standby.0.promote());
    let error = stored.err().unwrap().to_string();
    assert!(error.contains("promoted"), "{error}");
    // As a primary it can be backed up.
    let stored = back_up(&component, None).unwrap();
    assert_eq!(stored.point.details["timeline"], "2");
}

#[test]
fn a_standby_without_the_log_makes_no_backup() {
    let (home, other) = (directory(), directory());
    let (primary, standby) = pair(home.path(), other.path());
    standby.0.catch_up(&primary.0);
    let component = standby.0.component(AGENTS);
    let stored = store_with(begin(&component), None, || {
        let log = standby.0.data().join("pg_wal");
        let segments = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap());
        let mut segments: Vec<_> =
            segments.filter(|entry| entry.file_name().len() == 24).map(|entry| entry.path()).collect();
        segments.sort();
        for segment in segments {
            std::fs::rename(&segment, segment.with_extension("away")).unwrap();
        }
    });
    let error = stored.err().unwrap().to_string();
    assert!(error.contains("a standby must stream its log"), "{error}");
}
