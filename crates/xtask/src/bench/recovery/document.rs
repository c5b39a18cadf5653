//! The report: a table for each estate, the targets, and the commentary that people wrote into the last one.

use super::super::report::{COMMENTARY_BEGINS, COMMENTARY_ENDS, line, median, plural, seconds, verdict};

/// Everything that the report tells.
pub struct Input<'a> {
    pub sections: &'a [Section],
    pub machine: &'a [(&'static str, String)],
    pub date: &'a str,
    pub version: &'a str,
    pub load: f64,
    pub runs: u32,
    pub scale: f64,
}

/// What was measured on one estate.
pub struct Section {
    pub title: &'static str,
    /// What the estate is, as Markdown.
    pub about: String,
    pub rows: Vec<Row>,
    pub targets: Vec<Target>,
}

/// One thing that was done.
pub struct Row {
    pub what: String,
    /// What Lifeboat took, in seconds, run by run; empty for what is done by hand alone.
    pub lifeboat: Vec<f64>,
    /// What was typed by hand for the same, and the seconds that it took.
    pub by_hand: Option<(String, f64)>,
}

/// A figure that is meant to be reached.
pub struct Target {
    pub what: &'static str,
    /// In words.
    pub target: String,
    pub figure: f64,
    /// The figure must be below.
    pub limit: f64,
    pub unit: &'static str,
}

impl Row {
    /// Lifeboat's figures alone.
    pub fn of(what: impl Into<String>, lifeboat: Vec<f64>) -> Self {
        Self { what: what.into(), lifeboat, by_hand: None }
    }

    /// Lifeboat's beside what is typed by hand.
    pub fn beside(what: &str, lifeboat: Vec<f64>, typed: &str, seconds: f64) -> Self {
        Self { what: what.to_owned(), lifeboat, by_hand: Some((typed.to_owned(), seconds)) }
    }
}

/// Writes the whole report, with an empty commentary.
pub fn write(input: &Input) -> String {
    let mut text = String::new();
    let out = &mut text;
    line(out, "# Benchmarks of recovery\n");
    line(out, "Written by `cargo xtask bench recovery`; change the commentary by hand and nothing else.\n");
    line(out, "| | |\n|---|---|");
    line(out, &format!("| date | {} |", input.date));
    for (fact, value) in input.machine {
        line(out, &format!("| {fact} | {value} |"));
    }
    line(out, &format!("| lifeboat | {} |", input.version));
    line(out, &format!("| load average before the run | {:.2} |", input.load));
    if input.scale != 1.0 {
        line(out, &format!("| scale of the estates | {} |", input.scale));
    }
    line(
        out,
        &format!(
            "\nSeconds on the clock from the start of the process to its end; Lifeboat's are medians of {}, what is \
             done by hand was measured once in the same run of the benchmark. × is the time by hand divided by Lifeboat's. \
             Memory in use, warm cache, one local disk that holds everything. Lifeboat encrypts, and proves what it restores; \
             the commands by hand do neither. What was recovered was compared with what was backed up, every \
             byte of it.\n",
            plural(input.runs.into(), "run")
        ),
    );
    for section in input.sections {
        table(out, section);
    }
    line(out, "## Targets\n\n| | target | measured |\n|---|---|---|");
    for target in input.sections.iter().flat_map(|section| &section.targets) {
        let figure = verdict(target.figure < target.limit, &format!("{:.2}{}", target.figure, target.unit));
        line(out, &format!("| {} | {} | {figure} |", target.what, target.target));
    }
    line(out, &format!("\n## Where the time goes\n\n{COMMENTARY_BEGINS}\n{COMMENTARY_ENDS}\n"));
    every_run(out, input.sections);
    text
}

fn table(out: &mut String, section: &Section) {
    line(out, &format!("## {}\n\n{}\n", section.title, section.about));
    line(out, "| | lifeboat | by hand | | by hand it is |\n|---|---|---|---|---|");
    for Row { what, lifeboat, by_hand } in &section.rows {
        let ours = (!lifeboat.is_empty()).then(|| median(lifeboat.clone()));
        let (hand, ratio, typed) = match (by_hand, ours) {
            (Some((typed, hand)), Some(ours)) => {
                (seconds(*hand), format!("**{:.1}×**", hand / ours), typed.clone())
            }
            (Some((typed, hand)), None) => (seconds(*hand), String::new(), typed.clone()),
            (None, _) => Default::default(),
        };
        let ours = ours.map(seconds).unwrap_or_default();
        line(out, &format!("| {what} | {ours} | {hand} | {ratio} | {typed} |"));
    }
    line(out, "");
}

fn every_run(out: &mut String, sections: &[Section]) {
    line(out, "## Every measurement\n\nLifeboat's seconds in the order of the runs.\n\n```text");
    for row in sections.iter().flat_map(|section| &section.rows).filter(|row| !row.lifeboat.is_empty()) {
        let seconds: Vec<String> = row.lifeboat.iter().map(|seconds| format!("{seconds:8.2}")).collect();
        line(out, &format!("{:44} {}", row.what, seconds.join(" ")));
    }
    line(out, "```");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_verdicts_come_from_the_runs() {
        let target = |figure| Target {
            what: "a backup without a change",
            target: "< 3 s".to_owned(),
            figure,
            limit: 3.0,
            unit: " s",
        };
        let sections = [Section {
            title: "An estate",
            about: "Some bytes.".to_owned(),
            rows: vec![
                Row::beside("back up", vec![2.0, 4.0, 3.0], "`tar` and `gzip`", 30.0),
                Row::of("twin up", vec![0.5]),
            ],
            targets: vec![target(2.999), target(3.0)],
        }];
        let (machine, date, version) = ([("cores", "2".to_owned())], "2026-01-31", "lifeboat 0");
        let report = write(&Input {
            sections: &sections,
            machine: &machine,
            date,
            version,
            load: 0.1,
            runs: 3,
            scale: 1.0,
        });
        for expected in [
            "| back up | 3.0 | 30.0 | **10.0×** | `tar` and `gzip` |",
            "| twin up | 0.50 |  |  |  |",
            "| a backup without a change | < 3 s | 3.00 s, met |",
            "| a backup without a change | < 3 s | 3.00 s, **not met** |",
            "Lifeboat's are medians of 3 runs",
        ] {
            assert!(report.contains(expected), "{expected} is not in\n{report}");
        }
    }
}
