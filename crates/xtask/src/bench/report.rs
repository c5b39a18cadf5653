//! The report: tables in Markdown, and the commentary that people wrote into the last one.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::corpus::Kind;
use super::measure::Sample;
use super::repository::{Measured, Operation, Turn};
use super::tools::Tool;
use crate::process::Result;

/// Everything that the report tells.
pub struct Input<'a> {
    pub measured: &'a [Measured],
    pub versions: &'a [(Tool, String)],
    pub machine: &'a [(&'static str, String)],
    pub date: &'a str,
    pub load: f64,
    pub runs: u32,
    pub scale: f64,
}

pub(super) const COMMENTARY_BEGINS: &str =
    "<!-- commentary: what stands between these marks is kept when this file is made again -->";
pub(super) const COMMENTARY_ENDS: &str = "<!-- end of commentary -->";

/// How many times as fast as restic Lifeboat is meant to be, in the order of [`Operation::ALL`].
const SPEED_TARGETS: [f64; 4] = [2.0, 3.0, 1.7, 1.5];
/// The most memory that Lifeboat is meant to need.
const MEMORY_TARGET_BYTES: u64 = 250_000_000;
/// The largest repository, as a share of restic's, that Lifeboat is meant to make.
const SIZE_TARGET: f64 = 1.05;

/// One tool's medians on one corpus.
struct Row {
    tool: Tool,
    wall_s: [f64; 4],
    cpu_s: [f64; 4],
    memory_bytes: u64,
    repository_bytes: u64,
}

/// Writes the whole report, with an empty commentary.
pub fn write(input: &Input) -> String {
    let mut text = String::new();
    let out = &mut text;
    line(out, "# Benchmarks\n");
    line(out, "Written by `cargo xtask bench repository`; change the commentary by hand and nothing else.\n");
    head(out, input);
    for measured in input.measured {
        table(out, measured);
    }
    targets(out, input.measured);
    line(out, &format!("## Where the time goes\n\n{COMMENTARY_BEGINS}\n{COMMENTARY_ENDS}\n"));
    every_turn(out, input.measured);
    text
}

/// Puts the commentary of the report `before` into the new one.
fn with_commentary_of(text: &str, before: &str) -> String {
    let between = |text: &str| {
        let begin = text.find(COMMENTARY_BEGINS)? + COMMENTARY_BEGINS.len();
        Some(begin..begin + text[begin..].find(COMMENTARY_ENDS)?)
    };
    match (between(text), between(before)) {
        (Some(new), Some(old)) => format!("{}{}{}", &text[..new.start], &before[old], &text[new.end..]),
        _ => text.to_owned(),
    }
}

/// Writes a report down, with the commentary of the one that it replaces.
pub fn save(path: &Path, text: &str) -> Result<()> {
    let before = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, with_commentary_of(text, &before))
        .map_err(|error| format!("failed to write {}: {error}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

fn head(out: &mut String, input: &Input) {
    line(out, "| | |\n|---|---|");
    line(out, &format!("| date | {} |", input.date));
    for (fact, value) in input.machine {
        line(out, &format!("| {fact} | {value} |"));
    }
    for (tool, version) in input.versions {
        line(out, &format!("| {} | {version} |", tool.name()));
    }
    line(out, &format!("| load average before the run | {:.2} |", input.load));
    if input.scale != 1.0 {
        line(out, &format!("| scale of the corpora | {} |", input.scale));
    }
    line(
        out,
        &format!(
            "\nMedians of {}, the tools taking turns; memory in use, warm cache, one local disk. A time is in seconds on the clock, in \
             brackets those of all processors; × is restic's time divided by this one, in the same run of the benchmark. \
             Memory is the most that was resident in any of the four commands. Every restore was compared with the \
             corpus: content, modes, owners and times of all files. All tools encrypt; settings are their defaults, \
             borg's are `zstd,1` and `repokey`.\n",
            plural(input.runs.into(), "run")
        ),
    );
}

fn table(out: &mut String, measured: &Measured) {
    let (corpus, rows) = (&measured.corpus, rows(&measured.turns));
    let restic = rows.iter().find(|row| row.tool == Tool::Restic);
    line(out, &format!("## {}\n", title(corpus.kind)));
    let manifest = &corpus.manifest;
    let (files, directories) = (plural(manifest.files, "file"), plural(manifest.directories, "directory"));
    line(out, &format!("{files} in {directories}, {:.2} GB.\n", gigabytes(manifest.bytes)));
    let columns = Operation::ALL.map(Operation::name).join(" | ");
    line(out, &format!("| | {columns} | memory | repository |\n|---|---|---|---|---|---|---|"));
    for row in &rows {
        let against = restic.filter(|restic| restic.tool != row.tool);
        let cell = |number: usize| {
            let ratio =
                against.map(|restic| format!(" **{:.1}×**", restic.wall_s[number] / row.wall_s[number]));
            format!(
                "{} ({}){}",
                seconds(row.wall_s[number]),
                seconds(row.cpu_s[number]),
                ratio.unwrap_or_default()
            )
        };
        let size_ratio = against.map(|restic| format!(" {:.1} %", 100.0 * size_ratio(row, restic)));
        let cells = [0, 1, 2, 3].map(cell).join(" | ");
        let (memory, size) = (row.memory_bytes / 1_000_000, gigabytes(row.repository_bytes));
        line(
            out,
            &format!(
                "| {} | {cells} | {memory} MB | {size:.3} GB{} |",
                row.tool.name(),
                size_ratio.unwrap_or_default()
            ),
        );
    }
    line(out, "");
}

/// What Lifeboat is meant to reach beside restic, and whether it did in this run.
fn targets(out: &mut String, measured: &[Measured]) {
    let pairs: Vec<(Kind, Row, Row)> = measured.iter().filter_map(pair).collect();
    if pairs.is_empty() {
        return;
    }
    let names: Vec<&str> = pairs.iter().map(|(kind, ..)| kind.name()).collect();
    line(
        out,
        &format!(
            "## Targets\n\n| | target | {} |\n|---|---|{}",
            names.join(" | "),
            "---|".repeat(names.len())
        ),
    );
    for (number, operation) in Operation::ALL.into_iter().enumerate() {
        let target = SPEED_TARGETS[number];
        let cells = pairs.iter().map(|(_, ours, restic)| {
            let ratio = restic.wall_s[number] / ours.wall_s[number];
            verdict(ratio >= target, &format!("{ratio:.2}×"))
        });
        target_line(out, operation.name(), &format!("≥ {target}× as fast as restic"), cells);
    }
    let memory = pairs.iter().map(|(_, ours, _)| {
        verdict(ours.memory_bytes <= MEMORY_TARGET_BYTES, &format!("{} MB", ours.memory_bytes / 1_000_000))
    });
    target_line(out, "memory", &format!("≤ {} MB", MEMORY_TARGET_BYTES / 1_000_000), memory);
    let size = pairs.iter().map(|(_, ours, restic)| {
        let ratio = size_ratio(ours, restic);
        verdict(ratio <= SIZE_TARGET, &format!("{:.1} %", 100.0 * ratio))
    });
    target_line(out, "repository", &format!("≤ {:.0} % of restic's", 100.0 * SIZE_TARGET), size);
    line(out, "");
}

fn target_line(out: &mut String, what: &str, target: &str, cells: impl Iterator<Item = String>) {
    line(out, &format!("| {what} | {target} | {} |", cells.collect::<Vec<_>>().join(" | ")));
}

pub(super) fn verdict(met: bool, figure: &str) -> String {
    if met { format!("{figure}, met") } else { format!("{figure}, **not met**") }
}

/// Lifeboat's and restic's medians, where both were measured.
fn pair(measured: &Measured) -> Option<(Kind, Row, Row)> {
    let mut rows = rows(&measured.turns);
    let mut take = |tool: Tool| rows.iter().position(|row| row.tool == tool).map(|at| rows.swap_remove(at));
    Some((measured.corpus.kind, take(Tool::Lifeboat)?, take(Tool::Restic)?))
}

fn every_turn(out: &mut String, measured: &[Measured]) {
    line(
        out,
        "## Every measurement\n\nSeconds on the clock in the order of the runs, before medians were taken.\n\n```text",
    );
    for Measured { corpus, turns } in measured {
        for Turn { tool, samples, .. } in turns {
            let seconds: Vec<String> =
                samples.iter().map(|sample| format!("{:8.2}", sample.wall_s)).collect();
            line(out, &format!("{:8}  {:8}  {}", corpus.kind.name(), tool.name(), seconds.join(" ")));
        }
    }
    line(out, "```");
}

fn rows(turns: &[Turn]) -> Vec<Row> {
    let mut tools: Vec<Tool> = Vec::new();
    for turn in turns {
        if !tools.contains(&turn.tool) {
            tools.push(turn.tool);
        }
    }
    tools
        .into_iter()
        .map(|tool| row(tool, &turns.iter().filter(|turn| turn.tool == tool).collect::<Vec<_>>()))
        .collect()
}

fn row(tool: Tool, turns: &[&Turn]) -> Row {
    let of = |figure: fn(&Sample) -> f64| {
        std::array::from_fn(|number| median(turns.iter().map(|turn| figure(&turn.samples[number])).collect()))
    };
    let memory = turns.iter().flat_map(|turn| &turn.samples).map(|sample| sample.memory_bytes);
    Row {
        tool,
        wall_s: of(|sample| sample.wall_s),
        cpu_s: of(|sample| sample.cpu_s),
        memory_bytes: memory.max().unwrap_or_default(),
        repository_bytes: median(turns.iter().map(|turn| turn.repository_bytes as f64).collect()) as u64,
    }
}

/// The middle one; of an even number, the mean of the middle two.
pub(super) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) }
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Files => "Many files",
        Kind::Postgres => "A PostgreSQL data directory",
        Kind::Random => "Random bytes",
    }
}

pub(super) fn plural(count: u64, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {what}s"),
    }
}

fn size_ratio(ours: &Row, restic: &Row) -> f64 {
    ours.repository_bytes as f64 / restic.repository_bytes as f64
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 2.0 { format!("{seconds:.2}") } else { format!("{seconds:.1}") }
}

pub(super) fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a string takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::corpus::Corpus;
    use crate::bench::tree::Manifest;

    fn measured() -> Vec<Measured> {
        let turn = |tool, wall_s, memory_bytes, repository_bytes| Turn {
            tool,
            samples: [Sample { wall_s, cpu_s: 2.0 * wall_s, memory_bytes }; 4],
            repository_bytes,
        };
        let manifest = Manifest::from_text("3 1 3000000000\n").expect("a manifest");
        let corpus = Corpus { kind: Kind::Files, path: "/corpus".into(), manifest };
        let turns = vec![
            turn(Tool::Lifeboat, 9.0, 200_000_000, 1_000_000_000),
            turn(Tool::Restic, 20.0, 210_000_000, 1_000_000_000),
            turn(Tool::Lifeboat, 10.0, 260_000_000, 1_000_000_000),
            turn(Tool::Restic, 30.0, 220_000_000, 1_000_000_000),
            turn(Tool::Lifeboat, 50.0, 100_000_000, 1_000_000_000),
            turn(Tool::Restic, 25.0, 190_000_000, 1_000_000_000),
        ];
        vec![Measured { corpus, turns }]
    }

    fn report() -> String {
        let machine = [("cores", "2".to_owned())];
        let versions = [(Tool::Restic, "restic 0".to_owned())];
        let measured = measured();
        write(&Input {
            measured: &measured,
            versions: &versions,
            machine: &machine,
            date: "2026-01-31",
            load: 0.1,
            runs: 3,
            scale: 1.0,
        })
    }

    #[test]
    fn medians_ratios_and_verdicts_come_from_the_turns() {
        let report = report();
        for expected in [
            "| lifeboat | 10.0 (20.0) **2.5×** | 10.0 (20.0) **2.5×** |",
            "| restic | 25.0 (50.0) | 25.0 (50.0) |",
            "3 files in 1 directory, 3.00 GB.",
            "| first backup | ≥ 2× as fast as restic | 2.50×, met |",
            "| no change | ≥ 3× as fast as restic | 2.50×, **not met** |",
            "| memory | ≤ 250 MB | 260 MB, **not met** |",
            "| repository | ≤ 105 % of restic's | 100.0 %, met |",
        ] {
            assert!(report.contains(expected), "{expected} is not in\n{report}");
        }
    }

    #[test]
    fn commentary_survives_a_new_report() {
        let commented =
            report().replace(COMMENTARY_ENDS, &format!("Hashing is half of it.\n{COMMENTARY_ENDS}"));
        assert_eq!(with_commentary_of(&report(), &commented), commented);
        assert_eq!(with_commentary_of(&report(), ""), report());
    }
}
