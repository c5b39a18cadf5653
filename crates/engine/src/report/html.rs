//! A report as one page of HTML that needs nothing else: to be mailed, archived and printed. It runs no script and loads
//! nothing, and says so to the browser; every text that comes from outside is escaped.

use std::fmt::Write;

use runbook::Outcome;

use super::{Clock, Met, Report, Stage, StepLine, StepStatus, Tone, Why, words};

/// How the page looks, on a screen and on paper.
const STYLE: &str = include_str!("report.css");

/// Phases have so many colours before they begin anew.
const COLOURS: usize = 8;

/// Writes the report as a page.
pub fn html(report: &Report) -> String {
    let mut page = Page(String::new());
    let title = format!("{} · {} · {}", report.title, words::ending(report), report.run);
    page.0.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.0.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
    );
    page.0.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.add(format_args!("<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n", text(&title)));
    head(&mut page, report);
    measured(&mut page, report);
    points(&mut page, report);
    proof(&mut page, report);
    afterwards(&mut page, report);
    steps(&mut page, report);
    timeline(&mut page, report);
    page.add(format_args!(
        "<footer>{} · {} · derived from the run's journal</footer>\n</body>\n</html>\n",
        text(&report.run),
        text(report.processes.last().map_or("", |process| &process.program)),
    ));
    page.0
}

struct Page(String);

impl Page {
    fn add(&mut self, piece: std::fmt::Arguments<'_>) {
        self.0.write_fmt(piece).expect("a string takes everything");
    }

    fn section(&mut self, title: &str, inside: &str) {
        self.add(format_args!("<section>\n<h2>{}</h2>\n{inside}</section>\n", text(title)));
    }

    fn list(&mut self, title: &str, class: &str, items: &[String]) {
        if items.is_empty() {
            return;
        }
        let items: String = items.iter().map(|item| format!("<li>{item}</li>\n")).collect();
        self.section(title, &format!("<ul class=\"{class}\">\n{items}</ul>\n"));
    }
}

/// Text as HTML shows it, in elements and in attributes.
fn text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in words::plain(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The class that colours an outcome.
fn class(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Verified) => "good",
        Some(Outcome::NotProven) | None => "doubt",
        Some(Outcome::CouldNotRun | Outcome::Failed | Outcome::Interrupted) => "bad",
    }
}

fn head(page: &mut Page, report: &Report) {
    let scenario = report.scenario.as_ref();
    let severity = scenario.and_then(|scenario| scenario.severity.as_ref());
    let severity =
        severity.map(|word| format!(" <span class=\"tag\">{}</span>", text(word))).unwrap_or_default();
    page.add(format_args!(
        "<header class=\"{}\">\n<p class=\"kind\">{} · {}{severity}</p>\n<h1>{}</h1>\n\
         <p class=\"outcome\"><b>{}</b> {}</p>\n",
        class(report.outcome),
        text(&words::kind(report)),
        text(&report.estate),
        text(&report.title),
        words::ending(report),
        text(&after(report)),
    ));
    if !report.reasons.is_empty() {
        let reasons: String = report.reasons.iter().map(reason).collect();
        page.add(format_args!("<ul class=\"reasons\">\n{reasons}</ul>\n"));
    }
    page.0.push_str("</header>\n<dl class=\"facts\">\n");
    for (name, value) in facts(report) {
        page.add(format_args!("<div><dt>{name}</dt><dd>{}</dd></div>\n", text(&value)));
    }
    page.0.push_str("</dl>\n");
    for remark in &report.remarks {
        page.add(format_args!("<p class=\"remark\">{}</p>\n", text(remark)));
    }
}

fn after(report: &Report) -> String {
    let took = words::duration(report.took_seconds);
    let when =
        if report.stage == Stage::Open { format!("{took} in so far") } else { format!("after {took}") };
    match words::afterwards(report.stage) {
        Some(afterwards) => format!("{when}; {afterwards}"),
        None => when,
    }
}

fn reason(why: &Why) -> String {
    let name = why.name.as_ref().map(|name| format!("<b>{}</b>: ", text(name))).unwrap_or_default();
    format!("<li>{name}{} <i>{}</i></li>\n", text(&why.why), words::outcome(why.outcome))
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let mut facts = vec![("run", report.run.clone())];
    if let Some(scenario) = &report.scenario {
        facts.push(("scenario", scenario.name.clone()));
    }
    facts.push(("begun by", report.by.clone()));
    for process in &report.processes {
        let left = process.left.as_ref().map(|why| format!("; it left: {why}")).unwrap_or_default();
        facts.push(("on", format!("{}, {}{left}", process.host, process.program)));
    }
    if let Some(disaster) = &report.disaster {
        facts.push(("disaster happened", words::instant(disaster.happened)));
        facts.push(("disaster declared", words::instant(disaster.declared)));
        facts.extend(disaster.at.map(|at| ("recovered to", words::instant(at))));
    }
    facts.push(("from", words::instant(report.began)));
    facts.push(("to", words::instant(report.last)));
    let environment = report.plan.environment.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let digest = report.plan.digest.get(..12).unwrap_or(&report.plan.digest);
    facts.push(("plan", format!("{}{environment}, digest {digest}", report.plan.file)));
    facts
}

fn measured(page: &mut Page, report: &Report) {
    let clocks: String = report.clocks.iter().map(clock).collect();
    let clocks = if clocks.is_empty() { clocks } else { format!("<div class=\"clocks\">\n{clocks}</div>\n") };
    page.section("Measured", &format!("{clocks}{}", phases(report)));
}

fn clock(clock: &Clock) -> String {
    let class = match clock.met {
        Met::Met => "good",
        Met::Missed => "bad",
        Met::NotShown | Met::NoObjective => "doubt",
    };
    let measured = clock.measured_seconds.map_or_else(|| "–".to_owned(), words::duration);
    let objective = match clock.objective_seconds {
        Some(objective) => format!("objective {} · {}", words::duration(objective), words::met(clock.met)),
        None => words::met(clock.met).to_owned(),
    };
    let bar = match (clock.measured_seconds, clock.objective_seconds) {
        (Some(measured), Some(objective)) if objective > 0.0 => {
            let share = (measured / objective * 100.0).clamp(0.5, 100.0);
            format!("<div class=\"bar\"><span style=\"width:{share:.1}%\"></span></div>")
        }
        _ => "<div class=\"bar\"></div>".to_owned(),
    };
    format!(
        "<div class=\"clock {class}\"><h3>{}</h3><p class=\"figure\">{measured}</p>{bar}<p>{objective}</p>\
         <p class=\"small\">{}</p></div>\n",
        text(&clock.name),
        text(&clock.meaning),
    )
}

/// A bar of all phases, one after the other, and what its colours mean.
fn phases(report: &Report) -> String {
    let mut parts: Vec<(String, String, f64)> = Vec::new();
    for (number, phase) in report.phases.iter().enumerate() {
        parts.push((format!("p{}", number % COLOURS), phase.phase.clone(), phase.seconds));
    }
    parts.push(("people".to_owned(), "waiting for people".to_owned(), report.people_seconds));
    parts.push(("down".to_owned(), "no process at it".to_owned(), report.down_seconds));
    parts.retain(|(class, _, seconds)| *seconds > 0.0 || class.starts_with('p') && class != "people");
    let total: f64 = parts.iter().map(|(.., seconds)| seconds).sum();
    if parts.is_empty() || total <= 0.0 {
        return String::new();
    }
    let mut bar = String::new();
    let mut legend = String::new();
    for (class, name, seconds) in &parts {
        let (name, share, seconds) = (text(name), seconds / total * 100.0, words::duration(*seconds));
        write!(bar, "<span class=\"{class}\" style=\"width:{share:.2}%\"></span>")
            .expect("a string takes everything");
        writeln!(legend, "<li><span class=\"{class}\"></span>{name} <b>{seconds}</b></li>")
            .expect("a string takes everything");
    }
    format!("<div class=\"phases\">{bar}</div>\n<ul class=\"legend\">\n{legend}</ul>\n")
}

fn table(columns: &[&str], rows: &str) -> String {
    let columns: String = columns.iter().map(|column| format!("<th>{column}</th>")).collect();
    format!("<table>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n")
}

fn points(page: &mut Page, report: &Report) {
    if report.points.is_empty() {
        return;
    }
    let or_dash = |seconds: Option<f64>| seconds.map_or_else(|| "–".to_owned(), words::duration);
    let mut rows = String::new();
    for point in &report.points {
        let is_late =
            matches!((point.before_seconds, point.rpo_seconds), (Some(age), Some(rpo)) if age > rpo);
        writeln!(
            rows,
            "<tr><td><b>{}</b></td><td>{}</td><td class=\"{}\">{}</td><td>{}</td><td>{}</td>\
             <td><code>{}</code></td><td>{}</td></tr>",
            text(&point.component),
            words::instant(point.further.unwrap_or(point.instant)),
            if is_late { "bad" } else { "" },
            or_dash(point.before_seconds),
            or_dash(point.rpo_seconds),
            point.bytes.map_or_else(|| "–".to_owned(), words::bytes),
            text(words::short(&point.snapshot)),
            text(&point.engine),
        )
        .expect("a string takes everything");
    }
    let old = words::how_old(report);
    let columns = ["component", "as of", old, "RPO", "size", "snapshot", "engine"];
    page.section("What was brought back", &table(&columns, &rows));
}

fn proof(page: &mut Page, report: &Report) {
    let mut items = String::new();
    let mut item = |class: &str, mark: &str, step: &str, name: &str, what: &str| {
        let (step, name, what) = (text(step), text(name), text(what));
        writeln!(
            items,
            "<li class=\"{class}\"><span class=\"mark\">{mark}</span><div><b>{name}</b> \
             <span class=\"id\">{step}</span><br>{what}</div></li>\n"
        )
        .expect("a string takes everything");
    };
    for shown in &report.shown {
        item("good", "✓", &shown.step, &shown.name, &shown.what);
    }
    for why in &report.not_shown {
        let class = class(Some(why.outcome));
        let (step, name) = (why.step.as_deref().unwrap_or_default(), why.name.as_deref().unwrap_or_default());
        item(class, "✗", step, name, &why.why);
    }
    for left in &report.left_out {
        item("left", "–", "", &left.step, &format!("left out: {}", left.why));
    }
    let nothing = if report.shown.is_empty() { "<p class=\"remark\">Nothing was shown.</p>\n" } else { "" };
    let list = format!("{nothing}<ul class=\"proof\">\n{items}</ul>\n");
    page.section("What was shown, and what was not", &list);
}

fn afterwards(page: &mut Page, report: &Report) {
    let losses: Vec<String> = report
        .losses
        .iter()
        .map(|loss| format!("{} <span class=\"id\">{}</span>", text(&loss.what), text(&loss.step)))
        .collect();
    page.list("Lost", "plain bad", &losses);
    let left: Vec<String> = report.left_to_people.iter().map(|what| text(what)).collect();
    page.list("Left to people", "plain", &left);
    let kept: Vec<String> =
        report.kept.iter().map(|path| format!("<code>{}</code>", text(&path.to_string_lossy()))).collect();
    page.list("Kept until commit", "plain", &kept);
    let people: Vec<String> = report
        .people
        .iter()
        .map(|said| {
            format!(
                "<time>{}</time> <b>{}</b>: {}",
                words::instant(said.at),
                text(&said.who),
                text(&said.what)
            )
        })
        .collect();
    page.list("Orders and answers", "plain", &people);
}

fn steps(page: &mut Page, report: &Report) {
    let rows: String = report.steps.iter().map(step).collect();
    page.section("Steps", &table(&["", "step, and what a person would type", "", "took"], &rows));
}

fn step(step: &StepLine) -> String {
    let class = match step.status {
        StepStatus::Done | StepStatus::AlreadyThere => "good",
        StepStatus::NotProven | StepStatus::Skipped | StepStatus::FailedTolerated | StepStatus::Open => {
            "doubt"
        }
        StepStatus::Failed => "bad",
        StepStatus::NotReached | StepStatus::NotNeeded => "left",
    };
    let phase = step.phase.as_ref().map(|phase| format!(" <span class=\"id\">{}</span>", text(phase)));
    let remedy = if step.in_remedy { " <span class=\"id\">remedy</span>" } else { "" };
    let said = step.said.as_ref().map(|said| format!("<div class=\"said\">{}</div>", text(said)));
    let command = step.command.as_ref().map(|command| format!("<pre>{}</pre>", text(command)));
    let attempts = if step.attempts > 1 { format!("<br>{} attempts", step.attempts) } else { String::new() };
    format!(
        "<tr class=\"{class} d{}\"><td class=\"id\">{}</td><td><div class=\"in\"><b>{}</b>{}{remedy}{}{}</div></td>\
         <td><span class=\"pill\">{}</span>{attempts}</td><td class=\"number\">{}</td></tr>",
        step.depth.min(4),
        text(&step.id),
        text(&step.name),
        phase.unwrap_or_default(),
        said.unwrap_or_default(),
        command.unwrap_or_default(),
        words::status(step.status),
        step.took_seconds.map(words::duration).unwrap_or_default(),
    )
}

fn timeline(page: &mut Page, report: &Report) {
    let mut rows = String::new();
    for moment in &report.timeline {
        let class = match moment.tone {
            Tone::Plain => "left",
            Tone::Good => "good",
            Tone::Doubt => "doubt",
            Tone::Bad => "bad",
            Tone::People => "people",
        };
        writeln!(
            rows,
            "<tr class=\"{class}\"><td><time>{}</time></td><td class=\"number\">+{}</td>\
             <td><span class=\"dot\"></span>{}</td></tr>",
            words::instant(moment.at),
            words::duration(moment.seconds),
            text(&moment.what),
        )
        .expect("a string takes everything");
    }
    page.section("Timeline", &format!("<div class=\"timeline\">{}</div>", table(&["when", "", ""], &rows)));
}
