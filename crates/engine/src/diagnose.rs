//! Asking the checks of a plan on this host, and naming the scenario that fits what they say.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use estate::component::Finding;
use place::Place;
use runbook::{Actions as _, Answer, StepContext, StepId, SystemClock};
use serde::Serialize;

use crate::Result;
use crate::drivers::Drivers;
use crate::perform::Performer;
use crate::site::Site;
use crate::work::Question;

/// What a check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Its name; for a service's gate, the service's.
    pub name: String,
    /// Whether it is a service's gate.
    pub is_gate: bool,
    /// What is asked, in words.
    pub question: String,
    /// The answer.
    pub answer: Answer,
}

/// What is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Every check, in the order of the plan.
    pub asked: Vec<Asked>,
    /// Scenarios one of whose signs is there, those with the most signs first; the signs beside.
    pub scenarios: Vec<(String, Vec<String>)>,
}

impl Diagnosis {
    /// Whether every check holds.
    pub fn all_hold(&self) -> bool {
        self.asked.iter().all(|asked| matches!(asked.answer, Answer::Holds(_)))
    }

    /// Whether a check does not hold, as opposed to could not be asked.
    pub fn any_fails(&self) -> bool {
        self.asked.iter().any(|asked| matches!(asked.answer, Answer::Fails(_) | Answer::Fatal(_)))
    }
}

/// Asks the checks `names`, or all of the plan and the gates of its services, on this host.
pub fn diagnose(site: &Site, names: &[String], cancel: &Arc<AtomicBool>) -> Result<Diagnosis> {
    for name in names {
        site.plan.check(name)?;
    }
    let drivers = Drivers::of(site, &Place::host())?;
    let performer = Performer::new(site, &drivers, Place::host(), site.repository.clone());
    let step = StepId::new("diagnose");
    let at = StepContext::alone("diagnose", &step, &SystemClock, Arc::clone(cancel));
    let mut asked = Vec::new();
    for (name, check) in
        site.plan.checks.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name))
    {
        let question = check.description.clone().unwrap_or_else(|| drivers.describe(name));
        let answer = performer.ask(&Question::Checks(vec![name.to_owned()]).action(""), &at);
        asked.push(Asked {
            name: name.to_owned(),
            is_gate: false,
            question,
            answer: without_name(answer, name),
        });
    }
    if names.is_empty() {
        for (name, service) in site.plan.services.iter() {
            if service.ready.is_some() {
                let answer = performer.ask(&Question::Gate(name.to_owned()).action(""), &at);
                let question = format!("{name} is ready");
                asked.push(Asked { name: name.to_owned(), is_gate: true, question, answer });
            }
        }
    }
    let mut scenarios: Vec<(String, Vec<String>)> = site
        .plan
        .scenarios
        .iter()
        .filter_map(|(scenario, declared)| {
            let signs: Vec<String> = declared
                .when
                .iter()
                .map(|name| name.as_str().to_owned())
                .filter(|name| {
                    asked.iter().any(|asked| {
                        asked.name == *name && matches!(asked.answer, Answer::Fails(_) | Answer::Fatal(_))
                    })
                })
                .collect();
            (!signs.is_empty()).then(|| (scenario.to_owned(), signs))
        })
        .collect();
    scenarios.sort_by_key(|(_, signs)| std::cmp::Reverse(signs.len()));
    Ok(Diagnosis { asked, scenarios })
}

/// The answer for one check, which need not name it.
fn without_name(answer: Answer, name: &str) -> Answer {
    let strip = |text: String| text.strip_prefix(&format!("{name}: ")).map_or(text.clone(), str::to_owned);
    match answer {
        Answer::Holds(text) => Answer::Holds(strip(text)),
        Answer::Fails(text) => Answer::Fails(strip(text)),
        Answer::Fatal(text) => Answer::Fatal(strip(text)),
        Answer::Unknown(text) => Answer::Unknown(strip(text)),
    }
}

/// What stands in the way of backing up what the plan names, or should be known of it: findings by component.
pub fn missing(site: &Site) -> Result<Vec<(String, Finding)>> {
    let drivers = Drivers::of(site, &Place::host())?;
    let mut missing = Vec::new();
    for name in site.plan.components.names() {
        let findings = drivers.component(name)?.preflight();
        missing.extend(findings.into_iter().map(|finding| (name.to_owned(), finding)));
    }
    Ok(missing)
}
