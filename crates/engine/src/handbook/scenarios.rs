//! Scenarios as numbered steps with the commands that a person types.

use plan::Action as PlanAction;
use runbook::{Action, Body, OnFailure, Pattern, Remedy, Step};

use super::by_hand::{ByHand, RUN};
use super::{Book, spoken};
use crate::drivers::Gate;
use crate::point::Catalogue;
use crate::report::markdown::{Out, text};
use crate::report::words;
use crate::resolve::{self, Mode, Wanted};
use crate::work::{Question, Work, read};
use crate::{Error, Result};

/// Writes all scenarios of the plan.
pub(super) fn write(book: &Book<'_>, out: &mut Out) {
    for (name, scenario) in book.site.plan.scenarios.iter() {
        let title = scenario.title.as_deref().unwrap_or(name);
        out.heading(2, &format!("{}: {}", scenario.severity.as_str(), text(title)));
        if let Some(description) = &scenario.description {
            out.line(format!("{}\n", text(description)));
        }
        out.line(format!(
            "- back within {}, data lost at most {}",
            spoken(scenario.rto),
            spoken(scenario.rpo)
        ));
        for check in scenario.when.iter() {
            let asked = book.drivers.as_ref().map(|drivers| drivers.describe(check)).unwrap_or_default();
            out.line(format!("- it shows in: {} fails ({})", text(check), text(&asked)));
        }
        out.line(format!(
            "- with Lifeboat: `lifeboat recover {name}`; rehearsed with `lifeboat drill {name}`"
        ));
        out.line("");
        match resolved(book, name) {
            Ok(resolution) => {
                approvals(&resolution.runbook.steps, out);
                let steps = Steps { book };
                resolution.runbook.steps.iter().for_each(|step| steps.step(step, 0, out));
                for left in &resolution.context.left_out {
                    out.line(format!("- {}: {}", text(&left.step), text(&left.why)));
                }
            }
            Err(error) => {
                let why = text(&error.to_string());
                out.line(format!("> The commands cannot be worked out now: {why}. The plan's own words:\n"));
                outline(&scenario.steps, 0, out);
            }
        }
    }
}

fn resolved(book: &Book<'_>, scenario: &str) -> Result<resolve::Resolution> {
    let refused = |why: &str| Error::refused(why, "print it again when that is mended");
    let drivers =
        book.drivers.as_ref().ok_or_else(|| refused("what the plan names is not known on this machine"))?;
    let empty = Catalogue::default();
    let catalogue = book.catalogue.as_ref().unwrap_or(&empty);
    let now = book.site.now();
    let wanted = Wanted { run: RUN, scenario, mode: Mode::Disaster, at: None, declared: now, happened: now };
    resolve::scenario_with(book.site, catalogue, wanted, drivers).map_err(|error| match &book.catalogue {
        Err(why) => refused(&format!("the repository could not be read: {why}")),
        Ok(_) => error,
    })
}

/// What people must say yes to, before the steps.
fn approvals(steps: &[Step], out: &mut Out) {
    fn collect<'a>(step: &'a Step, into: &mut Vec<(&'a Step, &'a str)>) {
        if let Body::Approve { message, .. } = &step.body {
            into.push((step, message));
        }
        step.all_children().for_each(|child| collect(child, into));
    }
    let mut asked = Vec::new();
    steps.iter().for_each(|step| collect(step, &mut asked));
    if asked.is_empty() {
        return;
    }
    out.line("Whoever leads the recovery says yes, with `lifeboat order latest approve`, to:\n");
    for (step, message) in asked {
        out.line(format!("- {}: {}", text(step.id.as_str()), text(message)));
    }
    out.line("");
}

struct Steps<'a> {
    book: &'a Book<'a>,
}

impl Steps<'_> {
    fn step(&self, step: &Step, depth: usize, out: &mut Out) {
        let how = match &step.body {
            Body::Parallel(_) => " (together)".to_owned(),
            Body::Gate { within, .. } => {
                format!(" (until it holds, at most {})", words::duration(within.as_secs_f64()))
            }
            Body::Try { .. } => " (the cheapest first, the next only while this still fails)".to_owned(),
            Body::Approve { .. } => " (a person)".to_owned(),
            Body::Wait { time } => format!(" ({})", words::duration(time.as_secs_f64())),
            Body::Action(_) | Body::Sequence(_) => String::new(),
        };
        let skip =
            step.skip_reason.as_ref().map(|why| format!("; left out: {}", text(why))).unwrap_or_default();
        let on_failure = match step.on_failure {
            OnFailure::Stop => "",
            OnFailure::Continue => "; goes on if it fails",
            OnFailure::Ask => "; a person decides if it fails",
        };
        let (id, name) = (text(step.id.as_str()), text(&step.name));
        out.line(format!("{}- **{id}** {name}{how}{on_failure}{skip}", "  ".repeat(depth)));
        if let Some(done) = &step.done_when {
            commands(&format!("# not needed if this holds already:\n{}", self.ask(done)), depth, out);
        }
        match &step.body {
            Body::Action(action) => commands(&self.act(action), depth, out),
            Body::Gate { check, .. } => commands(&self.ask(check), depth, out),
            Body::Try { until, .. } => commands(&self.ask(until), depth, out),
            Body::Sequence(_) | Body::Parallel(_) | Body::Approve { .. } | Body::Wait { .. } => {}
        }
        step.children().iter().for_each(|child| self.step(child, depth + 1, out));
        step.remedies.iter().for_each(|remedy| self.remedy(remedy, depth + 1, out));
    }

    fn remedy(&self, remedy: &Remedy, depth: usize, out: &mut Out) {
        let (Pattern::Contains(pattern) | Pattern::Regex(pattern)) = &remedy.pattern;
        let loses = remedy
            .loses
            .as_ref()
            .map(|what| format!(", if a person accepts that this is lost: {}", text(what)));
        let loses = loses.unwrap_or_default();
        out.line(format!("{}- if it fails and says \"{}\"{loses}:", "  ".repeat(depth), text(pattern)));
        remedy.steps.iter().for_each(|step| self.step(step, depth + 1, out));
    }

    fn act(&self, action: &Action) -> String {
        let typed = || action.command.clone();
        let Ok(work) = read::<Work>(action) else { return typed() };
        match work {
            Work::Fetch(restored) => ByHand::of(self.book, &restored.component).fetch,
            Work::Prove(restored) => ByHand::of(self.book, &restored.component).prove,
            Work::Swap { restored, .. } => ByHand::of(self.book, &restored.component).swap,
            Work::Steady { services } => {
                let status = |service: &String| Some(self.book.drivers.as_ref()?.typed(service).status);
                services.iter().filter_map(status).collect::<Vec<_>>().join("\n")
            }
            _ => typed(),
        }
    }

    fn ask(&self, action: &Action) -> String {
        let typed = || action.command.clone();
        let (Ok(question), Some(drivers)) = (read::<Question>(action), &self.book.drivers) else {
            return typed();
        };
        let all = |names: &[String]| {
            names.iter().map(|name| drivers.check_by_hand(name)).collect::<Vec<_>>().join("\n")
        };
        match question {
            Question::Checks(names) => all(&names),
            Question::Running(service) => drivers.typed(&service).status,
            Question::Inline(at) => {
                drivers.inline(at).map_or_else(typed, |driver| driver.check.by_hand(drivers.secrets()))
            }
            Question::Gate(service) => match drivers.service(&service).map(|driver| &driver.gate) {
                Ok(Some(Gate::Own(own))) => own.check.by_hand(drivers.secrets()),
                Ok(Some(Gate::Checks(names))) => all(names),
                _ => typed(),
            },
        }
    }
}

/// A block of commands inside an item of a list.
fn commands(text: &str, depth: usize, out: &mut Out) {
    if text.trim().is_empty() {
        return;
    }
    let mut block = Out(String::new());
    block.commands(text);
    let indent = "  ".repeat(depth + 1);
    out.line("");
    for line in block.0.lines() {
        out.line(if line.is_empty() { String::new() } else { format!("{indent}{line}") });
    }
}

/// The steps in the words of the plan, for when they cannot be resolved.
fn outline(steps: &[plan::Step], depth: usize, out: &mut Out) {
    for (number, step) in steps.iter().enumerate() {
        let title = step.name.clone().unwrap_or_else(|| resolve::title(&step.action));
        let indent = "  ".repeat(depth);
        out.line(format!("{indent}- **{}** {}", number + 1, text(&title)));
        if let PlanAction::Run(run) = &step.action {
            commands(run.run.as_str(), depth, out);
        }
        let children: Vec<plan::Step> = step.children().into_iter().cloned().collect();
        outline(&children, depth + 1, out);
    }
}
