//! PostgreSQL's log followed as it is written: how old a commit is when it is in the repository, and what that costs the server.

use std::time::{Duration, Instant};

use super::cluster::{Cluster, USER};
use super::document::{Limit, Section, Target, Unit};
use super::home::{Bench, Home, text};
use super::statistics::percentile;
use crate::process::Result;

/// Transactions a second at the given rate, and for how many seconds.
const PACE: &str = "500";
const PACED_S: f64 = 30.0;
/// For how many seconds the server runs as fast as it goes, and how often.
const FLAT_S: f64 = 10.0;
const FLAT_TURNS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);

const AGE: [(&str, f64); 3] =
    [("the age of what is archived, p50", 0.5), (P99, 0.99), ("the same, the longest", 1.0)];
const P99: &str = "the age of what is archived, p99";
const RATE: &str = "transactions at the given rate";
const FLAT: &str = "transactions as fast as they go";
const LOSS: &str = "loss of throughput as fast as they go";

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    println!("followed");
    let mut section = Section {
        title: "PostgreSQL, followed",
        columns: vec!["lifeboat serve", "nothing beside"],
        about: format!(
            "A server with pgbench's tables, `lifeboat serve` with `every: continuous` beside it, which follows the log as a \
             replica does. pgbench runs its own transactions with two clients: at the given rate, {PACE} a second, and as \
             fast as they go, {FLAT_TURNS} times beside `lifeboat serve` and {FLAT_TURNS} times beside nothing, in turns. The \
             age is that of the first transaction of each piece when the piece is durable in the repository, by the time that \
             the server has written into the log: no transaction of the piece waited longer."
        ),
        ..Section::default()
    };
    for run in 0..bench.runs {
        let home = bench.home(&format!("followed-{run}"), Some(USER))?;
        let cluster =
            Cluster::make(&home, &[], "autovacuum = off\nshared_buffers = '512MB'\nmax_wal_size = '8GB'")?;
        cluster.pgbench(&["-i", "-q", "-s", "20"])?;
        home.plan(&format!("  orders:\n    postgres: {}\n    every: continuous\n", text(&cluster.data)?))?;
        paced(bench, &home, &cluster, &mut section)?;
        flat_out(bench, &home, &cluster, &mut section)?;
        drop(cluster);
        super::super::corpus::remove(&home.path)?;
    }
    if let (Some(ours), Some(alone)) = (section.ours(FLAT), section.row(FLAT, Unit::PerSecond).median(1)) {
        section.add(LOSS, Unit::Percent, 0, 100.0 * (1.0 - ours / alone));
    }
    let figure = section.ours(P99).ok_or("nothing was archived")?;
    let what = format!("PostgreSQL, followed: {P99}");
    section.targets.push(Target { what, target: "≤ 1 s", figure, limit: Limit::AtMost(1.0), unit: " s" });
    Ok(section)
}

fn paced(bench: &Bench, home: &Home<'_>, cluster: &Cluster, section: &mut Section) -> Result<()> {
    let seconds = format!("{:.0}", bench.scaled(PACED_S, 5.0));
    let options = ["-n", "-c", "2", "-j", "1", "-R", PACE, "-T", &seconds];
    section.add(RATE, Unit::PerSecond, 1, cluster.transactions(&options)?);
    let serve = home.serve()?;
    let started = Instant::now();
    while !serve.said()?.contains("\"what\":\"based\"") {
        if started.elapsed() > PATIENCE {
            return Err(format!("no base was made: {}", serve.said()?).into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = ages(&serve.said()?).len();
    section.add(RATE, Unit::PerSecond, 0, cluster.transactions(&options)?);
    // What was written last is archived, too.
    std::thread::sleep(Duration::from_secs(3));
    let ages = ages(&serve.said()?).split_off(before);
    serve.stop()?;
    for (what, share) in AGE {
        let figure = percentile(&ages, share).ok_or("nothing was archived")?;
        println!("  {what}: {figure:.3} s");
        section.add(what, Unit::Seconds, 0, figure);
    }
    Ok(())
}

/// How old each piece was, in seconds, by what `lifeboat serve --json` says.
fn ages(said: &str) -> Vec<f64> {
    let age = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        event["answer"]["delay_seconds"].as_f64()
    };
    said.lines().filter_map(age).collect()
}

fn flat_out(bench: &Bench, home: &Home<'_>, cluster: &Cluster, section: &mut Section) -> Result<()> {
    let seconds = format!("{:.0}", bench.scaled(FLAT_S, 3.0));
    for turn in 0..2 * FLAT_TURNS {
        let column = turn % 2;
        let serve = if column == 0 { Some(home.serve()?) } else { None };
        std::thread::sleep(Duration::from_secs(2));
        let rate = cluster.transactions(&["-n", "-c", "2", "-j", "1", "-T", &seconds])?;
        println!("  {FLAT}: {rate:.0}/s");
        section.add(FLAT, Unit::PerSecond, column, rate);
        serve.map_or(Ok(()), super::home::Beside::stop)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_each_piece_is_read() {
        let said = "{\"event\":\"answer\",\"answer\":{\"what\":\"shipped\",\"delay_seconds\":0.25}}\nnonsense\n\
                    {\"event\":\"answer\",\"answer\":{\"what\":\"shipped\",\"delay_seconds\":null}}\n";
        assert_eq!(ages(said), [0.25]);
    }
}
