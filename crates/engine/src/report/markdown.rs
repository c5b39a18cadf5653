//! A report as Markdown, for a ticket, a wiki or a terminal.

use std::fmt::Write;

use super::{Report, StepLine, build, words};

/// Writes the report as Markdown. Names and messages that hold Markdown or HTML stay text.
pub fn markdown(report: &Report) -> String {
    let mut out = Out(String::new());
    head(&mut out, report);
    measured(&mut out, report);
    points(&mut out, report);
    proof(&mut out, report);
    afterwards(&mut out, report);
    steps(&mut out, report);
    timeline(&mut out, report);
    by_hand(&mut out, report);
    out.0
}

/// Markdown that grows.
pub(crate) struct Out(pub String);

impl Out {
    /// Adds a line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }

    /// Adds a heading with the empty lines around it.
    pub fn heading(&mut self, level: usize, text: &str) {
        let before = if self.0.is_empty() || self.0.ends_with("\n\n") { "" } else { "\n" };
        writeln!(self.0, "{before}{} {text}\n", "#".repeat(level)).expect("a string takes everything");
    }

    /// Adds a table; nothing if it has no rows. Cells are Markdown already.
    pub fn table<const N: usize>(&mut self, columns: [&str; N], rows: impl Iterator<Item = [String; N]>) {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return;
        }
        self.line(format!("| {} |", columns.join(" | ")));
        self.line(format!("|{}", " --- |".repeat(N)));
        rows.for_each(|row| self.line(format!("| {} |", row.join(" | "))));
        self.line("");
    }

    /// Adds a block of commands, with a fence that its text cannot end.
    pub fn commands(&mut self, text: &str) {
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        self.line(format!("{fence}sh\n{}\n{fence}", words::plain(text).trim_end()));
        self.line("");
    }
}

/// Text that Markdown shows as it is, on one line.
pub(crate) fn text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in words::plain(text.trim()).chars() {
        match c {
            '\\' | '`' | '*' | '[' | ']' | '|' | '~' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

fn head(out: &mut Out, report: &Report) {
    out.heading(1, &text(&report.title));
    out.line(format!("**{}**", text(&build::headline(report))));
    out.line("");
    for why in &report.reasons {
        let name = why.name.as_ref().map(|name| format!("{}: ", text(name))).unwrap_or_default();
        out.line(format!("- {name}{} ({})", text(&why.why), words::outcome(why.outcome)));
    }
    if !report.reasons.is_empty() {
        out.line("");
    }
    let mut facts = vec![("run", text(&report.run))];
    if let Some(scenario) = &report.scenario {
        let severity =
            scenario.severity.as_ref().map(|severity| format!(" ({severity})")).unwrap_or_default();
        facts.push(("scenario", format!("{}{severity}", text(&scenario.name))));
    }
    facts.push(("begun by", text(&report.by)));
    for process in &report.processes {
        let left = process.left.as_ref().map(|why| format!(", which left: {why}")).unwrap_or_default();
        facts.push(("on", text(&format!("{} with {}{left}", process.host, process.program))));
    }
    if let Some(disaster) = &report.disaster {
        facts.push(("disaster", format!("happened {}", words::instant(disaster.happened))));
        facts.push(("declared", words::instant(disaster.declared)));
        if let Some(at) = disaster.at {
            facts.push(("recovered to", words::instant(at)));
        }
    }
    facts.push(("from", words::instant(report.began)));
    facts.push(("to", words::instant(report.last)));
    let environment =
        report.plan.environment.as_ref().map(|name| format!(", environment {name}")).unwrap_or_default();
    facts.push((
        "plan",
        text(&format!("{}{environment}, digest {}", report.plan.file, short(&report.plan.digest))),
    ));
    out.table(["", ""], facts.into_iter().map(|(name, value)| [name.to_owned(), value]));
    for remark in &report.remarks {
        out.line(format!("> {}\n", text(remark)));
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn measured(out: &mut Out, report: &Report) {
    out.heading(2, "Measured");
    let clocks = report.clocks.iter().map(|clock| {
        [
            text(&clock.name),
            clock.measured_seconds.map_or_else(|| "–".to_owned(), words::duration),
            clock.objective_seconds.map_or_else(|| "–".to_owned(), words::duration),
            words::met(clock.met).to_owned(),
            text(&clock.meaning),
        ]
    });
    out.table(["", "measured", "objective", "", ""], clocks);
    let phases = report.phases.iter().map(|phase| [text(&phase.phase), words::duration(phase.seconds)]);
    let people = [("waiting for people", report.people_seconds), ("no process at it", report.down_seconds)];
    let people = people.into_iter().filter(|(_, seconds)| *seconds > 0.0);
    let people = people.map(|(what, seconds)| [what.to_owned(), words::duration(seconds)]);
    out.table(["phase", "time"], phases.chain(people));
}

fn points(out: &mut Out, report: &Report) {
    if report.points.is_empty() {
        return;
    }
    out.heading(2, "What was brought back");
    let or_dash = |seconds: Option<f64>| seconds.map_or_else(|| "–".to_owned(), words::duration);
    let points = report.points.iter().map(|point| {
        [
            text(&point.component),
            words::instant(point.further.unwrap_or(point.instant)),
            or_dash(point.before_seconds),
            or_dash(point.rpo_seconds),
            point.bytes.map_or_else(|| "–".to_owned(), words::bytes),
            text(words::short(&point.snapshot)),
            text(&point.engine),
        ]
    });
    let old = words::how_old(report);
    out.table(["component", "as of", old, "RPO", "size", "snapshot", "engine"], points);
}

fn proof(out: &mut Out, report: &Report) {
    out.heading(2, "What was shown, and what was not");
    let steps = |id: &str, name: &str| format!("{} {}", text(id), text(name));
    let shown =
        report.shown.iter().map(|shown| ["✓".to_owned(), steps(&shown.step, &shown.name), text(&shown.what)]);
    let not = report.not_shown.iter().map(|why| {
        let step = steps(why.step.as_deref().unwrap_or_default(), why.name.as_deref().unwrap_or_default());
        ["✗".to_owned(), step, text(&why.why)]
    });
    let left = report
        .left_out
        .iter()
        .map(|left| ["–".to_owned(), text(&left.step), text(&format!("left out: {}", left.why))]);
    if report.shown.is_empty() {
        out.line("Nothing was shown.\n");
    }
    out.table(["", "step", ""], shown.chain(not).chain(left));
}

fn afterwards(out: &mut Out, report: &Report) {
    let mut list = |title: &str, items: Vec<String>| {
        if !items.is_empty() {
            out.heading(2, title);
            items.iter().for_each(|item| out.line(format!("- {item}")));
        }
    };
    let losses = report.losses.iter().map(|loss| format!("{} (step {})", text(&loss.what), text(&loss.step)));
    list("Lost", losses.collect());
    list("Left to people", report.left_to_people.iter().map(|what| text(what)).collect());
    let kept = report.kept.iter().map(|path| text(&path.to_string_lossy()));
    list("Kept until commit", kept.collect());
    let people = report
        .people
        .iter()
        .map(|said| format!("{} {}: {}", words::instant(said.at), text(&said.who), text(&said.what)));
    list("Orders and answers", people.collect());
}

fn steps(out: &mut Out, report: &Report) {
    out.heading(2, "Steps");
    let row = |step: &StepLine| {
        let attempts =
            if step.attempts > 1 { format!(", {} attempts", step.attempts) } else { String::new() };
        let remedy = if step.in_remedy { " (remedy)" } else { "" };
        [
            format!("{}{}", "&nbsp;&nbsp;".repeat(step.depth), text(&step.id)),
            format!("{}{remedy}", text(&step.name)),
            format!("{}{attempts}", words::status(step.status)),
            step.took_seconds.map(words::duration).unwrap_or_default(),
            step.phase.as_deref().map(text).unwrap_or_default(),
            step.said.as_deref().map(text).unwrap_or_default(),
        ]
    };
    out.table(["", "step", "", "took", "phase", ""], report.steps.iter().map(row));
}

fn timeline(out: &mut Out, report: &Report) {
    out.heading(2, "Timeline");
    let moments = report.timeline.iter().map(|moment| {
        [words::instant(moment.at), format!("+{}", words::duration(moment.seconds)), text(&moment.what)]
    });
    out.table(["when", "", ""], moments);
}

fn by_hand(out: &mut Out, report: &Report) {
    let commands: Vec<String> = report
        .steps
        .iter()
        .filter_map(|step| Some((step, step.command.as_ref()?)))
        .map(|(step, command)| format!("# {} {}\n{command}", step.id, step.name.replace('\n', " ")))
        .collect();
    if !commands.is_empty() {
        out.heading(2, "The same by hand");
        out.commands(&commands.join("\n\n"));
    }
}
