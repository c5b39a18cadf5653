//! Files of the write-ahead log: what is read from them against what PostgreSQL's own tool says of them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use estate::component::postgres::wal::{Cluster as Whose, Kind, Name};

use crate::cluster::{Cluster, Server, directory, program, run};

/// The whole segments of a cluster, in order, with their bytes.
fn segments(cluster: &Cluster, last: &str) -> Vec<(String, Vec<u8>)> {
    let log = cluster.data().join("pg_wal");
    let names: BTreeSet<String> =
        fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let whole = |name: &String| {
        Name::parse(name).is_some_and(|name| name.kind == Kind::Segment) && name.as_str() <= last
    };
    names.into_iter().filter(whole).map(|name| (name.clone(), fs::read(log.join(&name)).unwrap())).collect()
}

/// Lines of `pg_waldump` about records that begin in one segment.
fn dumped(cluster: &Cluster, name: &str) -> Vec<String> {
    let file = cluster.data().join("pg_wal").join(name);
    let output = program("pg_waldump").arg(file).env("TZ", "UTC").stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.starts_with("rmgr:")).map(str::to_owned).collect()
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let rest = line.split_once(&format!("{name}: ")).unwrap().1.trim_start();
    rest.split([',', ' ']).next().unwrap()
}

/// The times at which transactions ended, as the tool prints them.
fn times(lines: &[String]) -> Vec<i64> {
    let ends = lines.iter().filter(|line| line.contains("rmgr: Transaction"));
    let words = ends.filter_map(|line| line.split_once("desc: ")).map(|(_, desc)| desc);
    let times = words.filter(|desc| desc.starts_with("COMMIT") || desc.starts_with("ABORT"));
    let stamps = times.filter_map(|desc| {
        let mut words = desc.split_whitespace().skip_while(|word| !word.starts_with("20"));
        Some(format!("{}T{}Z", words.next()?, words.next()?.trim_end_matches(';')))
    });
    stamps.map(|stamp| stamp.parse::<jiff::Timestamp>().unwrap().as_microsecond()).collect()
}

#[test]
fn records_are_seen_as_the_servers_own_tool_sees_them() {
    let home = directory();
    let cluster = Cluster::make(home.path());
    let _server = Server(cluster.clone());
    let socket = home.path().join("run").display().to_string();
    let database = ["-U", "postgres", "-h", &socket, "postgres"];
    run(program("pgbench").args(["-i", "-q", "-s", "1"]).args(database).stderr(Stdio::null()));
    run(program("pgbench").args(["-c", "3", "-t", "200"]).args(database).stderr(Stdio::null()));
    cluster.sql("create table wide(t text); alter table wide alter t set storage external; insert into wide values (repeat('x', 3000000))");
    cluster.sql("select pg_create_restore_point('before the worst')");
    cluster.sql("do $$ begin perform 1/0; exception when others then null; end $$");
    let last = cluster.sql("select pg_walfile_name(pg_switch_wal())");
    let whose = Whose::of(&cluster.data()).unwrap();
    assert_eq!(whose.segment_bytes, 1 << 20);
    assert_eq!(
        cluster.sql("select system_identifier from pg_control_system()"),
        whose.system.cast_signed().to_string()
    );
    let all = segments(&cluster, &last);
    assert!(all.len() > 8, "{}", all.len());
    let mut points = Vec::new();
    for (name, bytes) in &all {
        let segment = whose.look(&Name::parse(name).unwrap(), bytes).unwrap();
        assert_eq!(segment.damage, None, "{name}");
        let lines = dumped(&cluster, name);
        let whole: Vec<&str> = lines.iter().map(|line| field(line, "lsn")).collect();
        let seen = segment.seen.last.map(|(begin, _)| begin);
        // The tool leaves out what ends in the next segment, too.
        let expected = whole.last().map(|lsn| lsn.parse().unwrap());
        assert_eq!(seen, expected, "{name}");
        let times = times(&lines);
        let expected = times.iter().min().copied().zip(times.iter().max().copied());
        assert_eq!(segment.seen.times, expected, "{name}");
        points.extend(segment.seen.points.into_iter().map(|(name, _)| name));
        assert_eq!(segment.seen.tablespace, None);
    }
    assert_eq!(points, ["before the worst"]);
}

#[test]
fn a_record_that_is_not_as_it_was_written_is_noticed() {
    let home = directory();
    let cluster = Cluster::make(home.path());
    let _server = Server(cluster.clone());
    cluster.sql("create table t(n int, filler text); insert into t select i, repeat('y', 50) from generate_series(1, 30000) i");
    let name = cluster.sql("select pg_walfile_name(pg_switch_wal())");
    let (name, bytes) =
        segments(&cluster, &name).into_iter().rev().nth(1).unwrap_or_else(|| panic!("{name}"));
    let whose = Whose::of(&cluster.data()).unwrap();
    let parsed = Name::parse(&name).unwrap();
    let begin = parsed.begin(whose.segment_bytes).unwrap().0;
    let lines = dumped(&cluster, &name);
    let mut noticed = 0;
    for line in lines.iter().step_by(lines.len() / 60 + 1) {
        let lsn: estate::component::postgres::wal::Lsn = field(line, "lsn").parse().unwrap();
        // Its length, its predecessor, its kind, its checksum, its first byte.
        for offset in [0, 9, 16, 21, 24] {
            let at = usize::try_from(lsn.0 - begin).unwrap() + offset;
            if at / 8192 != (at - offset) / 8192 || at >= bytes.len() {
                continue;
            }
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let looked = whose.look(&parsed, &changed);
            assert!(looked.is_err() || looked.unwrap().damage.is_some(), "{line}: byte {offset}");
            noticed += 1;
        }
    }
    assert!(noticed > 100, "{noticed}");
    for (what, range) in [("a page", 8192..16384), ("half of it", bytes.len() / 2..bytes.len())] {
        let mut changed = bytes.clone();
        changed[range].fill(0);
        assert!(whose.look(&parsed, &changed).unwrap().damage.is_some(), "{what}");
    }
}
