//! `wal`: the log of a server, archived by its `archive_command` and fetched as its `restore_command` does, beside pgBackRest's
//! asynchronous archiving.
//!
//! The segments are a real server's under a real load. They are made while nothing archives; for each contender they are marked
//! as not yet archived, as the server itself marks them, and the server is given the contender's command.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::corpus;
use super::cluster::{Cluster, USER};
use super::document::{Limit, Section, Target, Unit};
use super::home::{Bench, Beside, Home, text};
use super::pgbackrest::PgBackRest;
use crate::process::{Result, output};

/// A log that is archived: the size of its segments in MB, and how many there are at scale 1.
struct Series {
    segment_mb: u64,
    count: f64,
}

/// PostgreSQL's own size, and the smallest one, with which what each call costs shows most.
const ALL: [Series; 2] = [Series { segment_mb: 16, count: 160.0 }, Series { segment_mb: 1, count: 1000.0 }];

/// What is updated at once of the accounts, and of how many such ranges they consist.
const RANGE: u32 = 200_000;
const RANGES: u32 = 10;

const COLUMNS: [&str; 3] = ["lifeboat", "lifeboat beside serve", "pgBackRest"];
/// How often is looked whether everything is archived.
const LOOK: Duration = Duration::from_millis(10);
/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long `lifeboat serve` has to say that it has nothing to do.
const SERVE_STARTS: Duration = Duration::from_secs(2);

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    println!("wal");
    let mut section = Section {
        title: "PostgreSQL's log",
        columns: COLUMNS.to_vec(),
        more_of_ours: 1,
        about: "A server under pgbench and updates of whole ranges wrote the log while nothing archived it. Then it was given \
                each contender's `archive_command`, and the time was taken until all segments were archived; the server calls \
                that command for each segment. Fetched is as `restore_command` does, one process for each segment after the \
                other, into files that were compared with the log. pgBackRest archives and fetches asynchronously with two \
                processes and zstd at level 1, as Lifeboat has; its queue holds 1 GiB of what it fetches ahead. *Beside serve* is \
                the same command with `lifeboat serve` running by the same plan."
            .to_owned(),
        ..Section::default()
    };
    for series in &ALL {
        measure_series(bench, series, &mut section)?;
    }
    let [default, smallest] = ALL.map(|series| series.segment_mb);
    for column in [0, 1] {
        for (what, segment_mb) in [(pushed(default), default), (pushed(smallest), smallest)] {
            let figure = section.rows.iter().find(|row| row.what == what).and_then(|row| row.median(column));
            section.targets.extend(figure.map(|figure| Target {
                what: format!("segments of {segment_mb} MB pushed, {}", COLUMNS[column]),
                target: "≥ 100/s",
                figure,
                limit: Limit::AtLeast(100.0),
                unit: "/s",
            }));
        }
    }
    for what in [fetched(default), fetched(smallest)] {
        section.times_as_good(&what, 2, "≥ 1×", 1.0);
        let row = section.rows.iter().find(|row| row.what == what);
        let beside = row.and_then(|row| Some(row.median(1)? / row.median(2)?));
        section.targets.extend(beside.map(|figure| Target {
            what: format!("PostgreSQL's log: {what}, beside serve and pgBackRest"),
            target: "≥ 1×",
            figure,
            limit: Limit::AtLeast(1.0),
            unit: "×",
        }));
    }
    Ok(section)
}

fn pushed(segment_mb: u64) -> String {
    format!("segments of {segment_mb} MB pushed")
}

fn fetched(segment_mb: u64) -> String {
    format!("segments of {segment_mb} MB fetched")
}

/// A server and the segments of its log that are archived.
struct Log {
    cluster: Cluster,
    segments: Vec<String>,
    segment_mb: u64,
}

fn measure_series(bench: &Bench, series: &Series, section: &mut Section) -> Result<()> {
    let name = format!("wal-{}", series.segment_mb);
    let home = bench.home(&name, Some(USER))?;
    let log = Log::make(&home, series, bench.scaled(series.count, 20.0) as usize)?;
    let bytes = log.segments.len() as u64 * (series.segment_mb << 20);
    section.notes.push(format!(
        "{} segments of {} MB: {:.2} GB of log, of which gzip leaves {:.0} % of a sample.",
        log.segments.len(),
        series.segment_mb,
        bytes as f64 / 1e9,
        log.compressibility()?
    ));
    for run in 0..bench.runs {
        for place in 0..COLUMNS.len() {
            let column = (place + run as usize) % COLUMNS.len();
            let directory = format!("{name}/{run}-{column}");
            measure_contender(bench, &log, column, &directory, section)
                .map_err(|error| format!("{}: {error}", COLUMNS[column]))?;
            corpus::remove(&bench.scratch.join(directory))?;
        }
    }
    drop(log);
    corpus::remove(&home.path)
}

fn measure_contender(
    bench: &Bench,
    log: &Log,
    column: usize,
    directory: &str,
    section: &mut Section,
) -> Result<()> {
    let contender = Contender::make(bench, log, column, directory)?;
    let mut serve = if column == 1 { Some(contender.home().serve()?) } else { None };
    if let Some(why) = ended(&mut serve)? {
        let note = format!(
            "`lifeboat serve` had nothing to do with this plan, so nothing was measured beside it ({why})."
        );
        if !section.notes.contains(&note) {
            section.notes.push(note);
        }
        return Ok(());
    }
    let seconds = log.push(bench, &contender.push_command()?)?;
    note(section, &pushed(log.segment_mb), column, log.segments.len(), seconds);
    let to = contender.home().empty("fetched")?;
    let loop_of = contender.fetch_loop(log, &to)?;
    let what = format!("{}: {}", COLUMNS[column], fetched(log.segment_mb));
    let seconds =
        bench.time(&what, &contender.home().shell(&loop_of), &contender.home().path.join("repository"))?;
    log.expect_same(&to)?;
    note(section, &fetched(log.segment_mb), column, log.segments.len(), seconds);
    if let Contender::PgBackRest(peer) = &contender {
        // What it fetches ahead by itself would come into what is being removed.
        bench.untimed(&peer.call(&["stop", "--force"]))?;
    }
    serve.map_or(Ok(()), Beside::stop)
}

fn note(section: &mut Section, what: &str, column: usize, segments: usize, seconds: f64) {
    let figure = segments as f64 / seconds;
    println!("  {}: {what}: {figure:.1}/s", COLUMNS[column]);
    section.add(what, Unit::PerSecond, column, figure);
}

/// What `lifeboat serve` said, if it did not stay.
fn ended(serve: &mut Option<Beside>) -> Result<Option<String>> {
    let Some(serve) = serve else { return Ok(None) };
    let started = Instant::now();
    while started.elapsed() < SERVE_STARTS {
        if let Some(why) = serve.ended()? {
            return Ok(Some(why.lines().last().unwrap_or_default().to_owned()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

enum Contender<'a> {
    Lifeboat(Home<'a>),
    PgBackRest(PgBackRest<'a>),
}

impl<'a> Contender<'a> {
    fn make(bench: &'a Bench, log: &Log, column: usize, directory: &str) -> Result<Self> {
        if column == 2 {
            let settings = ["compress-level=1", "archive-async=y", "archive-get-queue-max=1GiB"];
            return PgBackRest::make(bench, directory, &log.cluster, &settings).map(Contender::PgBackRest);
        }
        let home = bench.home(directory, Some(USER))?;
        home.plan(&format!("  orders:\n    postgres: {}\n    archive: true\n", text(&log.cluster.data)?))?;
        Ok(Contender::Lifeboat(home))
    }

    fn home(&self) -> &Home<'_> {
        match self {
            Contender::Lifeboat(home) => home,
            Contender::PgBackRest(peer) => &peer.home,
        }
    }

    fn push_command(&self) -> Result<String> {
        Ok(match self {
            Contender::Lifeboat(home) => format!("{} %p", lifeboat_wal(home, "push")?),
            Contender::PgBackRest(peer) => peer.line("archive-push %p"),
        })
    }

    /// A line of shell that fetches one segment after the other in the server's data directory, as a server does.
    fn fetch_loop(&self, log: &Log, to: &Path) -> Result<String> {
        let fetch = match self {
            Contender::Lifeboat(home) => lifeboat_wal(home, "fetch")?,
            Contender::PgBackRest(peer) => peer.line("archive-get"),
        };
        let (first, last) = (&log.segments[0], &log.segments[log.segments.len() - 1]);
        let (data, to) = (text(&log.cluster.data)?, text(to)?);
        Ok(format!(
            "cd '{data}'; for name in $(ls pg_wal | grep -E '^[0-9A-F]{{24}}$' | sort); do \
             if [[ ! $name < {first} && ! $name > {last} ]]; then {fetch} $name '{to}'/$name; fi; done"
        ))
    }
}

fn lifeboat_wal(home: &Home, what: &str) -> Result<String> {
    let (program, plan, state) = (text(&home.bench.lifeboat)?, home.plan_file(), home.path.join("state"));
    Ok(format!("{program} wal {what} --plan {} --state {}", text(&plan)?, text(&state)?))
}

impl Log {
    /// Makes the server, and load until its log has so many segments.
    fn make(home: &Home, series: &Series, count: usize) -> Result<Self> {
        println!("making a log of {count} segments of {} MB", series.segment_mb);
        let kept_mb = series.segment_mb * (count as u64 + 64) * 2;
        let settings = format!(
            "archive_mode = on\narchive_command = ''\nautovacuum = off\nwal_keep_size = '{kept_mb}MB'\n\
             max_wal_size = '{kept_mb}MB'\nshared_buffers = '512MB'"
        );
        let segment_mb = series.segment_mb;
        let cluster = Cluster::make(home, &["--wal-segsize", &segment_mb.to_string()], &settings)?;
        cluster.pgbench(&["-i", "-q", "-s", "20"])?;
        let first = cluster.ask("select pg_walfile_name(pg_switch_wal() + 1)")?;
        let mut round = 0;
        while segments_since(&cluster, &first)?.len() < count {
            // Each round writes whole pages once after its checkpoint, and small changes of them after that.
            cluster.ask("checkpoint")?;
            cluster.pgbench(&[
                "-n",
                "-c",
                "4",
                "-j",
                "2",
                "-t",
                "1000",
                "--random-seed",
                &round.to_string(),
            ])?;
            cluster.ask(&format!(
                "update pgbench_accounts set abalance = abalance + 1 where aid / {RANGE} = {}",
                round % RANGES
            ))?;
            cluster.ask("vacuum pgbench_accounts")?;
            round += 1;
        }
        cluster.ask("select pg_switch_wal()")?;
        let mut segments = segments_since(&cluster, &first)?;
        segments.truncate(count);
        Ok(Self { cluster, segments, segment_mb })
    }

    /// Marks all as not yet archived, gives the server this command, and gives the seconds until all are archived.
    fn push(&self, bench: &Bench, command: &str) -> Result<f64> {
        self.cluster.archive_by("")?;
        std::thread::sleep(Duration::from_millis(500));
        bench.settle(&self.cluster.data.join("pg_wal"))?;
        let failures = "select failed_count from pg_stat_archiver";
        let before = self.cluster.ask(failures)?;
        // From here on a helper that looks at the marks may archive ahead of the server.
        let started = Instant::now();
        self.mark()?;
        self.cluster.archive_by(command)?;
        let mut waiting: BTreeSet<PathBuf> =
            self.segments.iter().map(|name| self.status(name, "done")).collect();
        while let Some(next) = waiting.first() {
            if next.exists() {
                waiting.pop_first();
                continue;
            }
            if started.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.cluster.sockets.join("log")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(format!("{} segments are not archived: {}", waiting.len(), end.join("\n")).into());
            }
            std::thread::sleep(LOOK);
        }
        let seconds = started.elapsed().as_secs_f64();
        let after = self.cluster.ask(failures)?;
        self.cluster.archive_by("")?;
        if before != after {
            return Err(
                format!("`{command}` failed at times: {before} failures before, {after} after").into()
            );
        }
        Ok(seconds)
    }

    /// Marks exactly the segments that are measured as to be archived.
    fn mark(&self) -> Result<()> {
        let chosen: BTreeSet<&String> = self.segments.iter().collect();
        let notes = self.cluster.data.join("pg_wal/archive_status").read_dir()?;
        let mut notes: Vec<PathBuf> = notes.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        // As a server does: from the first on.
        notes.sort();
        for path in notes {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let wanted = if chosen.contains(&name) { "ready" } else { "done" };
            fs::rename(&path, path.with_extension(wanted))?;
        }
        match self.segments.iter().find(|name| !self.status(name, "ready").exists()) {
            None => Ok(()),
            Some(name) => Err(format!("the server has no mark for {name}").into()),
        }
    }

    fn status(&self, segment: &str, mark: &str) -> PathBuf {
        self.cluster.data.join("pg_wal/archive_status").join(format!("{segment}.{mark}"))
    }

    fn expect_same(&self, fetched: &Path) -> Result<()> {
        for name in &self.segments {
            let (ours, theirs) = (self.cluster.data.join("pg_wal").join(name), fetched.join(name));
            let same = fs::read(&ours)? == fs::read(&theirs).map_err(|error| format!("{name}: {error}"))?;
            if !same {
                return Err(format!("{name} was fetched with other content").into());
            }
        }
        Ok(())
    }

    /// How many percent gzip leaves of one segment in the middle.
    fn compressibility(&self) -> Result<f64> {
        let path = self.cluster.data.join("pg_wal").join(&self.segments[self.segments.len() / 2]);
        let line = format!("gzip < '{}' | wc -c", text(&path)?);
        let bytes: f64 = output(std::process::Command::new("sh").args(["-c", &line]))?.trim().parse()?;
        Ok(100.0 * bytes / fs::metadata(&path)?.len() as f64)
    }
}

/// The finished segments from that one on.
fn segments_since(cluster: &Cluster, first: &str) -> Result<Vec<String>> {
    let current = cluster.ask("select pg_walfile_name(pg_current_wal_lsn())")?;
    let mut names = Vec::new();
    for entry in cluster.data.join("pg_wal/archive_status").read_dir()? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.len() == first.len() && *name >= *first && name < current {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
