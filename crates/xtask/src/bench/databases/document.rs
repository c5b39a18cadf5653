//! The report: a table for each engine with a column for each contender, the targets, and the commentary that people wrote
//! into the last one.

use super::super::report::{COMMENTARY_BEGINS, COMMENTARY_ENDS, line, median, plural, seconds, verdict};

/// Everything that the report tells.
pub struct Input<'a> {
    pub sections: &'a [Section],
    pub machine: &'a [(&'static str, String)],
    pub versions: &'a [(&'static str, String)],
    pub date: &'a str,
    pub load: f64,
    pub runs: u32,
    pub scale: f64,
}

/// What was measured of one engine.
#[derive(Default)]
pub struct Section {
    pub title: &'static str,
    /// What was measured and how, as Markdown.
    pub about: String,
    /// Who was measured, Lifeboat first.
    pub columns: Vec<&'static str>,
    /// How many columns behind the first are Lifeboat's, too.
    pub more_of_ours: usize,
    pub rows: Vec<Row>,
    /// What is told below the table, as Markdown.
    pub notes: Vec<String>,
    pub targets: Vec<Target>,
}

/// One thing that was done, by each contender that can do it.
pub struct Row {
    pub what: String,
    pub unit: Unit,
    /// For each column the figures of the runs; none where the contender has no such thing.
    pub cells: Vec<Vec<f64>>,
}

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// On the clock; less is better.
    Seconds,
    /// Of something; more is better.
    PerSecond,
    /// Of a disk; less is better.
    Megabytes,
    /// Less is better.
    Percent,
}

/// A figure that is meant to be reached.
pub struct Target {
    pub what: String,
    /// In words.
    pub target: &'static str,
    pub figure: f64,
    pub limit: Limit,
    pub unit: &'static str,
}

/// Where a figure is meant to be.
#[derive(Clone, Copy)]
pub enum Limit {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Limit {
    fn holds(self, figure: f64) -> bool {
        match self {
            Limit::AtLeast(limit) => figure >= limit,
            Limit::AtMost(limit) => figure <= limit,
            Limit::Below(limit) => figure < limit,
        }
    }
}

impl Section {
    /// The row of that name; where there is none yet, an empty one is made.
    pub fn row(&mut self, what: &str, unit: Unit) -> &mut Row {
        let found = self.rows.iter().position(|row| row.what == what);
        let number = found.unwrap_or_else(|| {
            self.rows.push(Row { what: what.to_owned(), unit, cells: vec![Vec::new(); self.columns.len()] });
            self.rows.len() - 1
        });
        &mut self.rows[number]
    }

    /// Notes a figure in that row, in the column `contender`.
    pub fn add(&mut self, what: &str, unit: Unit, contender: usize, figure: f64) {
        self.row(what, unit).cells[contender].push(figure);
    }

    /// How many times as good as the contender's Lifeboat's median of that row is, where both were measured.
    pub fn ratio(&self, what: &str, contender: usize) -> Option<f64> {
        self.rows.iter().find(|row| row.what == what)?.ratio(0, contender)
    }

    /// Lifeboat's median of that row.
    pub fn ours(&self, what: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.what == what)?.median(0)
    }

    /// A target in comparison to a contender, where both were measured.
    pub fn times_as_good(&mut self, row: &str, contender: usize, target: &'static str, limit: f64) {
        if let Some(figure) = self.ratio(row, contender) {
            let what = format!("{}: {row}, beside {}", self.title, self.columns[contender]);
            self.targets.push(Target { what, target, figure, limit: Limit::AtLeast(limit), unit: "×" });
        }
    }
}

impl Row {
    pub fn median(&self, contender: usize) -> Option<f64> {
        let figures = self.cells.get(contender)?;
        (!figures.is_empty()).then(|| median(figures.clone()))
    }

    fn ratio(&self, ours: usize, contender: usize) -> Option<f64> {
        let (ours, theirs) = (self.median(ours)?, self.median(contender)?);
        Some(if self.unit == Unit::PerSecond { ours / theirs } else { theirs / ours })
    }
}

impl Unit {
    fn text(self, figure: f64) -> String {
        match self {
            Unit::Seconds => format!("{} s", seconds(figure)),
            Unit::PerSecond if figure < 1000.0 => format!("{figure:.1}/s"),
            Unit::PerSecond => format!("{figure:.0}/s"),
            Unit::Megabytes => format!("{figure:.0} MB"),
            Unit::Percent => format!("{figure:.1} %"),
        }
    }
}

/// Writes the whole report, with an empty commentary.
pub fn write(input: &Input) -> String {
    let mut text = String::new();
    let out = &mut text;
    line(out, "# Benchmarks of databases\n");
    line(out, "Written by `cargo xtask bench databases`; change the commentary by hand and nothing else.\n");
    line(out, "| | |\n|---|---|");
    line(out, &format!("| date | {} |", input.date));
    for (fact, value) in input.machine.iter().chain(input.versions) {
        line(out, &format!("| {fact} | {value} |"));
    }
    line(out, &format!("| load average before the run | {:.2} |", input.load));
    if input.scale != 1.0 {
        line(out, &format!("| scale of the databases | {} |", input.scale));
    }
    line(
        out,
        &format!(
            "\nMedians of {}, the contenders taking turns; seconds on the clock from the start of a command to its end. In bold is \
             how many times as good as the contender Lifeboat is, each column of it: the quotient of the two figures of this \
             very run of the benchmark. Warm cache, one local disk that holds databases and repositories. Lifeboat always encrypts. \
             Whatever was restored was compared with its source; a difference would have ended the benchmark.\n",
            plural(input.runs.into(), "run")
        ),
    );
    for section in input.sections {
        table(out, section);
    }
    targets(out, input.sections);
    line(out, &format!("## Where the time goes\n\n{COMMENTARY_BEGINS}\n{COMMENTARY_ENDS}\n"));
    every_run(out, input.sections);
    text
}

fn targets(out: &mut String, sections: &[Section]) {
    if sections.iter().all(|section| section.targets.is_empty()) {
        return;
    }
    line(out, "## Targets\n\n| | target | measured |\n|---|---|---|");
    for target in sections.iter().flat_map(|section| &section.targets) {
        let figure =
            verdict(target.limit.holds(target.figure), &format!("{:.2}{}", target.figure, target.unit));
        line(out, &format!("| {} | {} | {figure} |", target.what, target.target));
    }
    line(out, "");
}

fn table(out: &mut String, section: &Section) {
    line(out, &format!("## {}\n\n{}\n", section.title, section.about));
    line(
        out,
        &format!("| | {} |\n|---{}|", section.columns.join(" | "), "|---".repeat(section.columns.len())),
    );
    for row in &section.rows {
        let cells: Vec<String> =
            (0..section.columns.len()).map(|column| cell(row, column, section.more_of_ours)).collect();
        line(out, &format!("| {} | {} |", row.what, cells.join(" | ")));
    }
    line(out, "");
    for note in &section.notes {
        line(out, &format!("{note}\n"));
    }
}

fn cell(row: &Row, column: usize, more_of_ours: usize) -> String {
    let Some(figure) = row.median(column) else { return String::new() };
    let ours = if column > more_of_ours { more_of_ours + 1 } else { 0 };
    let ratios = (0..ours).filter_map(|ours| row.ratio(ours, column));
    let ratios: Vec<String> = ratios
        .filter(|ratio| ratio.is_finite() && row.unit != Unit::Percent)
        .map(|ratio| format!("{ratio:.1}×"))
        .collect();
    let bold = if ratios.is_empty() { String::new() } else { format!(" **{}**", ratios.join(", ")) };
    format!("{}{bold}", row.unit.text(figure))
}

fn every_run(out: &mut String, sections: &[Section]) {
    line(
        out,
        "## Every measurement\n\nFigures in the order of the runs, before medians were taken.\n\n```text",
    );
    for section in sections {
        for row in &section.rows {
            for (name, figures) in section.columns.iter().zip(&row.cells).filter(|(_, cell)| !cell.is_empty())
            {
                let figures: Vec<String> = figures.iter().map(|figure| format!("{figure:9.3}")).collect();
                line(out, &format!("{:58} {name:22} {}", row.what, figures.join(" ")));
            }
        }
    }
    line(out, "```");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        let mut section =
            Section { title: "An engine", columns: vec!["lifeboat", "peer"], ..Section::default() };
        for (ours, theirs) in [(2.0, 9.0), (4.0, 8.0), (3.0, 30.0)] {
            section.add("backup", Unit::Seconds, 0, ours);
            section.add("backup", Unit::Seconds, 1, theirs);
        }
        section.add("push", Unit::PerSecond, 0, 50.0);
        section.add("push", Unit::PerSecond, 1, 100.0);
        section.add("only here", Unit::Percent, 0, 1.25);
        section.times_as_good("backup", 1, "≥ 3×", 3.0);
        section.times_as_good("push", 1, "≥ 1×", 1.0);
        section.times_as_good("only here", 1, "≥ 1×", 1.0);
        section
    }

    #[test]
    fn medians_ratios_and_verdicts_come_from_the_runs() {
        let sections = [section()];
        let report = write(&Input {
            sections: &sections,
            machine: &[("cores", "2".to_owned())],
            versions: &[("peer", "peer 0".to_owned())],
            date: "2026-01-31",
            load: 0.1,
            runs: 3,
            scale: 0.5,
        });
        for expected in [
            "| peer | peer 0 |",
            "| scale of the databases | 0.5 |",
            "| | lifeboat | peer |\n|---|---|---|",
            "| backup | 3.0 s | 9.0 s **3.0×** |",
            "| push | 50.0/s | 100.0/s **0.5×** |",
            "| only here | 1.2 % |  |",
            "| An engine: backup, beside peer | ≥ 3× | 3.00×, met |",
            "| An engine: push, beside peer | ≥ 1× | 0.50×, **not met** |",
            "Medians of 3 runs",
        ] {
            assert!(report.contains(expected), "{expected} is not in\n{report}");
        }
        let two_of_ours = Section { more_of_ours: 1, ..section() };
        let mut text = String::new();
        table(&mut text, &two_of_ours);
        assert!(text.contains("| 3.0 s | 9.0 s |"), "no ratio of ours to ours: {text}");
        assert_eq!(
            cell(
                &Row {
                    what: String::new(),
                    unit: Unit::PerSecond,
                    cells: vec![vec![5.0], vec![10.0], vec![4.0]]
                },
                2,
                1
            ),
            "4.0/s **1.2×, 2.5×**"
        );
        assert_eq!(sections[0].targets.len(), 2, "what was not measured beside a contender has no ratio");
    }

    #[test]
    fn limits_mean_what_their_names_say() {
        assert!(Limit::AtLeast(1.0).holds(1.0) && !Limit::AtLeast(1.0).holds(0.99));
        assert!(Limit::AtMost(1.0).holds(1.0) && !Limit::AtMost(1.0).holds(1.01));
        assert!(Limit::Below(1.0).holds(0.99) && !Limit::Below(1.0).holds(1.0));
        assert!(!Limit::AtLeast(1.0).holds(f64::NAN) && !Limit::AtMost(1.0).holds(f64::NAN));
    }
}
