//! `sqlite`: a database that is shipped while it is written to: how long a commit waits for its place in the repository, and
//! what shipping costs the writer.
//!
//! The writer is SQLite's shell. Each commit changes one row in place, which writes one page and so one frame of the log. The
//! names of the archive's pieces tell up to which frame of the log they reach, so that a listing shows from outside which
//! commits are in the repository. What `lifeboat serve` itself commits counts against it: see [`latencies`].

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::material::Random;
use super::document::{Limit, Section, Target, Unit};
use super::home::{Bench, Home, find, text, wait};
use super::statistics::{Seen, delays, percentile};
use crate::process::{Result, not_started, output};

/// Rows of the database, of about 200 bytes each.
const ROWS: f64 = 250_000.0;
const COMMITS_PER_SECOND: f64 = 500.0;
/// Commits at that rate, at scale 1.
const PACED: f64 = 15_000.0;
/// Commits as fast as they go, at scale 1: 0.8 GB of log, so that all of it may wait, as serve lets go beyond 1 GiB.
const FLAT_OUT: f64 = 200_000.0;
/// How often the archive is listed.
const LIST: Duration = Duration::from_millis(2);
/// How often flat-out writing is measured with and without shipping, in turns; odd, so that the last is with it and what is
/// restored afterwards is all that was written.
const TURNS: usize = 3;
/// The length of a segment's name: positions, instant, writer, two values of the chain.
const SEGMENT_NAME_BYTES: usize = 125;
const SETTINGS: &str = ".timeout 10000\npragma synchronous=normal;\n";

const P50: &str = "from the acknowledgement of a commit to the repository, p50";
const P99: &str = "from the acknowledgement of a commit to the repository, p99";
const WORST: &str = "the same, the longest";
const RATE: &str = "commits at the given rate";
const FLAT: &str = "commits as fast as they go";
const LOSS: &str = "loss of throughput as fast as they go";
const RATE_LOSS: &str = "loss of throughput at the given rate";

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    println!("sqlite");
    let mut section = Section {
        title: "SQLite, shipped continuously",
        columns: vec!["lifeboat serve", "nothing beside"],
        ..Section::default()
    };
    let rows = bench.scaled(ROWS, 10_000.0) as usize;
    for run in 0..bench.runs {
        let home = bench.home(&format!("sqlite-{run}"), None)?;
        make_database(&home, rows)?;
        home.plan("  orders:\n    sqlite: orders.db\n    every: continuous\n")?;
        paced(&home, rows, &mut section)?;
        flat_out(&home, rows, &mut section)?;
    }
    section.about = about(bench, rows);
    let targets = [
        (P99, "≤ 1 s", Limit::AtMost(1.0), " s"),
        (RATE_LOSS, "< 5 %", Limit::Below(5.0), " %"),
        (LOSS, "< 5 %", Limit::Below(5.0), " %"),
    ];
    for (row, target, limit, unit) in targets {
        let figure = section.ours(row).ok_or_else(|| format!("nothing was measured: {row}"))?;
        section.targets.push(Target { what: format!("SQLite: {row}"), target, figure, limit, unit });
    }
    Ok(section)
}

fn about(bench: &Bench, rows: usize) -> String {
    format!(
        "A database in WAL mode with {rows} rows and `synchronous=normal`, `lifeboat serve` with `every: continuous` beside it. The \
         writer, SQLite's shell, commits a change of one row at a time. At the given rate, {} commits, each is sent \
         {COMMITS_PER_SECOND} times a second and its acknowledgement is awaited. The directory of the log's pieces is listed every \
         {} ms: a commit is in the repository when a piece is listed that reaches at least to its frame of the log. \
         A piece appears there by a rename after its content was synced; the directory is synced right after. As fast as they \
         go, {} commits are read from a file by the shell, {TURNS} times beside `lifeboat serve` and {TURNS} times beside nothing, in \
         turns; the loss is that of the medians. Afterwards the database was restored and compared with the live one, row by row.",
        bench.scaled(PACED, 1000.0),
        LIST.as_millis(),
        bench.scaled(FLAT_OUT, 10_000.0)
    )
}

fn make_database(home: &Home, rows: usize) -> Result<()> {
    let mut shell = shell(home);
    let script = format!(
        "pragma journal_mode=wal; create table orders(id integer primary key, note text not null, filler text not null); \
         with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows}) \
         insert into orders select i, hex(randomblob(16)), hex(randomblob(80)) from n; pragma wal_checkpoint(truncate)"
    );
    output(shell.arg(script)).map(drop)
}

fn database(home: &Home) -> PathBuf {
    home.path.join("orders.db")
}

fn shell(home: &Home) -> Command {
    let mut command = Command::new("sqlite3");
    command.args(["-bail", "-batch"]).arg(database(home));
    command
}

/// A statement that changes one row in place: the text is always as long.
fn change(random: &mut Random, rows: usize) -> String {
    let (first, second) = (random.bits(), random.bits());
    format!("update orders set note='{first:016X}{second:016X}' where id={};", 1 + random.below(rows))
}

/// Commits at a given rate, first beside nothing, then beside `lifeboat serve` with an eye on the archive.
fn paced(home: &Home, rows: usize, section: &mut Section) -> Result<()> {
    let commits = home.bench.scaled(PACED, 1000.0) as usize;
    home.bench.settle(&database(home))?;
    let alone = write_paced(home, rows, commits, Instant::now(), 5)?;
    section.add(RATE, Unit::PerSecond, 1, rate(&alone));

    let serve = home.serve()?;
    wait_for_base(home)?;
    let archive = home.path.join("repository/lifeboat/log");
    let before = settled(&archive)?;
    let (started, over) = (Instant::now(), AtomicBool::new(false));
    let (acknowledged, seen) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&archive, started, &over));
        let written = write_paced(home, rows, commits, started, 6);
        let archived = settled(&archive);
        over.store(true, Ordering::Relaxed);
        let seen = watcher.join().expect("it does not panic")?;
        archived?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((written?, seen))
    })?;
    serve.stop()?;
    let latencies = latencies(&acknowledged, before, &seen)?;
    section.add(RATE, Unit::PerSecond, 0, rate(&acknowledged));
    section.add(RATE_LOSS, Unit::Percent, 0, 100.0 * (1.0 - rate(&acknowledged) / rate(&alone)));
    for (what, share) in [(P50, 0.5), (P99, 0.99), (WORST, 1.0)] {
        let figure = percentile(&latencies, share).ok_or("there were no commits")?;
        println!("  {what}: {figure:.3} s");
        section.add(what, Unit::Seconds, 0, figure);
    }
    expect_restored(home)
}

/// How long each commit waited.
///
/// The log has a frame for each commit and a few of `lifeboat serve` itself, nobody can tell where. All of them are taken to
/// lie before the first commit, so that no figure is too small; too large it is by no more than that many commits take.
fn latencies(acknowledged_s: &[f64], before: u64, seen: &[Seen]) -> Result<Vec<f64>> {
    let last = seen.last().ok_or("nothing was seen in the archive")?.position;
    let commits = acknowledged_s.len() as u64;
    let own = last.checked_sub(before + commits).ok_or_else(|| {
        format!("of {commits} commits after position {before} the archive has what is before {last}")
    })?;
    println!("  {own} frames beside those of {} commits", acknowledged_s.len());
    if own > acknowledged_s.len() as u64 / 20 {
        return Err(format!(
            "{own} frames of the log are no commits of the writer's: too many to tell anything"
        )
        .into());
    }
    delays(acknowledged_s, before + own + 1, seen).ok_or_else(|| "not all commits were archived".into())
}

fn rate(acknowledged_s: &[f64]) -> f64 {
    match (acknowledged_s.first(), acknowledged_s.last()) {
        (Some(first), Some(last)) if last > first => (acknowledged_s.len() - 1) as f64 / (last - first),
        _ => f64::NAN,
    }
}

/// A shell that answers each line before the next is sent.
struct Writer {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<std::process::ChildStdout>,
}

impl Writer {
    fn start(home: &Home) -> Result<Self> {
        let mut command = shell(home);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| not_started(&command, &error))?;
        let mut to = child.stdin.take().expect("it was asked for");
        to.write_all(SETTINGS.as_bytes())?;
        let from = BufReader::new(child.stdout.take().expect("it was asked for"));
        Ok(Self { child, to: Some(to), from })
    }

    /// Commits, and waits until that is acknowledged.
    fn commit(&mut self, statement: &str) -> Result<()> {
        let to = self.to.as_mut().expect("it is closed at the end only");
        writeln!(to, "{statement} select changes();")?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        if answer.trim_end() == "1" { Ok(()) } else { Err(format!("the writer said {answer:?}").into()) }
    }

    fn end(mut self) -> Result<()> {
        drop(self.to.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the writer ended with {status}").into()) }
    }
}

/// When each commit was acknowledged, in seconds since `started`.
///
/// No two may have the same seed: SQLite does not write a page again that is the same afterwards.
fn write_paced(home: &Home, rows: usize, commits: usize, started: Instant, seed: u64) -> Result<Vec<f64>> {
    let (mut writer, mut random) = (Writer::start(home)?, Random::seeded(seed));
    let begun = Instant::now();
    let mut acknowledged_s = Vec::with_capacity(commits);
    for number in 0..commits {
        let due = Duration::from_secs_f64(number as f64 / COMMITS_PER_SECOND);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        writer.commit(&change(&mut random, rows))?;
        acknowledged_s.push(started.elapsed().as_secs_f64());
    }
    writer.end()?;
    Ok(acknowledged_s)
}

/// Lists the archive until it is told to stop, and notes each moment at which it reached further.
fn watch(archive: &Path, started: Instant, over: &AtomicBool) -> Result<Vec<Seen>> {
    let mut seen: Vec<Seen> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let position = archived(archive)?;
        // The listing is over: what it shows was there at this moment at the latest.
        let at_s = started.elapsed().as_secs_f64();
        if seen.last().is_none_or(|last| position > last.position) {
            seen.push(Seen { at_s, position });
        }
        std::thread::sleep(LIST);
    }
    Ok(seen)
}

/// The position up to which the archive reaches, by the names in it; 0 for none.
fn archived(archive: &Path) -> Result<u64> {
    let (mut open, mut reached) = (vec![archive.to_owned()], 0);
    while let Some(directory) = open.pop() {
        let entries = match directory.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("failed to list {}: {error}", directory.display()).into()),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if let Some(end) = entry.file_name().to_str().and_then(end_of_segment) {
                reached = reached.max(end);
            }
        }
    }
    Ok(reached)
}

/// The position behind a segment, by its name as `docs/format.md` describes it; `None` for other objects.
fn end_of_segment(name: &str) -> Option<u64> {
    let end = name.split('-').nth(1).filter(|_| name.len() == SEGMENT_NAME_BYTES)?;
    u64::from_str_radix(end, 16).ok()
}

/// Waits until the archive grows no more, and gives where it ends.
fn settled(archive: &Path) -> Result<u64> {
    let (mut last, mut since) = (archived(archive)?, Instant::now());
    wait("the archive comes to rest", Duration::from_millis(50), || {
        let now = archived(archive)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok(since.elapsed() > Duration::from_secs(3))
    })?;
    Ok(last)
}

/// Waits until there is a base, from which on the log can be replayed.
fn wait_for_base(home: &Home) -> Result<()> {
    let points = home.lifeboat(&["points", "--json"]);
    wait("lifeboat serve makes a base", Duration::from_millis(300), || {
        Ok(home.bench.untimed(&points)?.lines().any(|line| line.contains("\"point\"")))
    })
}

/// Commits as fast as they go, in turns beside `lifeboat serve` and beside nothing.
fn flat_out(home: &Home, rows: usize, section: &mut Section) -> Result<()> {
    let commits = home.bench.scaled(FLAT_OUT, 10_000.0) as usize;
    let script = home.path.join("flat-out.sql");
    let line = format!("sqlite3 -bail -batch orders.db < '{}'", text(&script)?);
    let (mut rates, mut interruptions) = ([Vec::new(), Vec::new()], 0);
    for turn in 0..TURNS {
        for column in if turn % 2 == 0 { [1, 0] } else { [0, 1] } {
            write_script(&script, rows, commits, (10 + 2 * turn + column) as u64)?;
            let serve = if column == 0 { Some(home.serve()?) } else { None };
            if serve.is_some() {
                wait_for_base(home)?;
                settled(&home.path.join("repository/lifeboat/log"))?;
            }
            let what = ["flat out, beside lifeboat serve", "flat out, beside nothing"][column];
            let seconds = home.bench.time(what, &home.shell(&line), &database(home))?;
            rates[column].push(commits as f64 / seconds);
            if let Some(serve) = serve {
                settled(&home.path.join("repository/lifeboat/log"))?;
                interruptions += u32::from(serve.said()?.contains("interrupted"));
                serve.stop()?;
            }
        }
    }
    let medians = rates.each_ref().map(|rates| super::super::report::median(rates.clone()));
    for (column, rates) in rates.into_iter().enumerate() {
        section.row(FLAT, Unit::PerSecond).cells[column].extend(rates);
    }
    section.add(LOSS, Unit::Percent, 0, 100.0 * (1.0 - medians[0] / medians[1]));
    if interruptions > 0 {
        let note = format!(
            "In {interruptions} of {TURNS} turns as fast as they go the log was interrupted, because more waited than serve holds: \
             a new base was made."
        );
        section.notes.push(note);
    }
    expect_restored(home)
}

/// Writes the commits down; for the seed, see [`write_paced`].
fn write_script(script: &Path, rows: usize, commits: usize, seed: u64) -> Result<()> {
    let mut random = Random::seeded(seed);
    let lines: String = (0..commits).map(|_| change(&mut random, rows) + "\n").collect();
    fs::write(script, format!("{SETTINGS}{lines}"))
        .map_err(|error| format!("failed to write {}: {error}", script.display()).into())
}

/// Restores the end of the log and compares every row with the live database, to which nobody writes any more.
fn expect_restored(home: &Home) -> Result<()> {
    let to = home.empty("restored")?;
    home.bench.untimed(&home.lifeboat(&["restore", "orders", "--to", text(&to)?, "--yes"]))?;
    let restored = find(&to, "orders.db")?.ok_or("nothing was restored")?;
    let digest =
        |path: &Path| -> Result<String> { output(Command::new("sqlite3").arg(path).arg(".sha3sum")) };
    let (live, back) = (digest(&database(home))?, digest(&restored)?);
    if live == back {
        Ok(())
    } else {
        Err(format!("restored were rows with the digest {back}, not {live}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_segment_tells_its_end() {
        let link = "0123456789abcdef0123456789abcdef";
        let name = format!("{:016x}-{:016x}-{:016x}-{:08x}-{link}-{link}", 5, 0x1f, 1, 2);
        assert_eq!(end_of_segment(&name), Some(0x1f));
        assert_eq!(end_of_segment(&name[1..]), None);
        assert_eq!(end_of_segment("seen"), None);
    }

    #[test]
    fn what_serve_commits_counts_against_it() {
        let seen = |at_s, position| Seen { at_s, position };
        // Before: 100. Twenty-one frames for twenty commits: one is serve's own.
        let acknowledged: Vec<f64> = (0..20).map(f64::from).collect();
        let looks: Vec<Seen> =
            (0..21_u32).map(|number| seen(f64::from(number) + 0.5, 101 + u64::from(number))).collect();
        let waited = latencies(&acknowledged, 100, &looks).expect("all are there");
        assert!(waited.iter().all(|waited| *waited == 1.5), "{waited:?}");
        assert!(latencies(&acknowledged, 102, &looks).is_err(), "not all are there");
        assert!(latencies(&acknowledged[..10], 100, &looks).is_err(), "too much is unknown");
    }

    #[test]
    fn a_change_is_always_as_long() {
        let mut random = Random::seeded(1);
        let lengths: Vec<usize> = (0..100).map(|_| change(&mut random, 9).len()).collect();
        assert!(lengths.iter().all(|length| *length == lengths[0]));
    }
}
