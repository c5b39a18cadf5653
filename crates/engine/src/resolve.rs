//! From a scenario of the plan to a runbook: which point for which component, which steps in which order, as plain data.
//!
//! Nothing is changed here. What comes out is shown to a person, pinned in the journal, and carried out by `perform`.

use std::collections::BTreeSet;
use std::time::Duration;

use estate::swap::SwapPlan;
use jiff::Timestamp;
use plan::{
    Action as PlanAction, Ask, Gate, Only, Plan, Position, Remedy as PlanRemedy, Selection, Step as PlanStep,
    Template,
};
use runbook::{Action, Body, OnFailure, Pattern, Remedy, Runbook, Step, StepId};
use serde::{Deserialize, Serialize};

use crate::drivers::Drivers;
use crate::log::{self, Choice};
use crate::point::Catalogue;
use crate::site::Site;
use crate::work::{Backup, Question, Restored, Work};
use crate::{Error, Result};

/// For what a scenario is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It has happened.
    Disaster,
    /// It is rehearsed in a twin.
    Drill,
}

/// What every run pins beside its steps: enough to go on with it whatever becomes of the plan file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// The version of this record.
    pub version: u32,
    /// The estate: the plan's name.
    pub estate: String,
    /// The plan file, as it was named.
    pub plan_file: String,
    /// Its text.
    pub plan_text: String,
    /// Its environment.
    pub environment: Option<String>,
    /// The directory against which its paths are resolved.
    pub base: std::path::PathBuf,
    /// The scenario, for a recovery or drill.
    pub scenario: Option<String>,
    /// Whether it is rehearsed.
    pub mode: Mode,
    /// When the disaster was declared: the RTO runs from here.
    pub declared: Timestamp,
    /// When the disaster happened, as far as is known: the RPO counts back from here.
    pub happened: Timestamp,
    /// The instant that was asked for; the latest if none was.
    pub at: Option<Timestamp>,
    /// Which point for which component.
    pub chosen: Vec<Chosen>,
    /// Steps that this kind of run leaves out because the plan says so.
    pub left_out: Vec<LeftOut>,
    /// The copy that stands in for the plan's repository, as the plan writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A recovery point that is brought back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The component.
    pub component: String,
    /// The snapshot's id in hexadecimal.
    pub snapshot: String,
    /// The moment that it represents.
    pub instant: Timestamp,
    /// The moment to which its component's log brings it, as far as that is known before it is done; `None` without a log.
    #[serde(default)]
    pub further: Option<Timestamp>,
    /// How much it is, in bytes.
    pub bytes: Option<u64>,
    /// The engine that made it.
    pub engine: String,
}

/// A step that is left out because the plan says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// What it would do.
    pub step: String,
    /// Why it is left out.
    pub why: String,
}

/// A scenario, resolved.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// What is to be done.
    pub runbook: Runbook,
    /// What is pinned with it.
    pub context: Context,
}

/// What is wanted of a scenario.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The run's id, for names on disk that must be its own.
    pub run: &'a str,
    /// The scenario's name.
    pub scenario: &'a str,
    /// Disaster or drill.
    pub mode: Mode,
    /// The recovery instant; the latest if `None`.
    pub at: Option<Timestamp>,
    /// When the disaster was declared.
    pub declared: Timestamp,
    /// When it happened.
    pub happened: Timestamp,
}

/// Scenarios that recover other scenarios nest at most so deep; the plan's own check finds circles first.
const NESTED_MAX: usize = 16;

/// How long a service must have been up before the last look at it.
///
/// What falls over after its first answer mostly does so at once; a recovery may add less than a second to each of its
/// stages, and this wait is the largest part of what it adds.
pub(crate) const STEADY_AFTER: Duration = Duration::from_secs(1);

/// Resolves a scenario.
///
/// Fails when the plan has no such scenario, and when a component that it restores has no point that fits.
pub fn scenario(site: &Site, catalogue: &Catalogue, wanted: Wanted<'_>) -> Result<Resolution> {
    scenario_with(site, catalogue, wanted, &Drivers::of(site, &place::Place::host())?)
}

/// The same with drivers that were made already.
pub(crate) fn scenario_with(
    site: &Site,
    catalogue: &Catalogue,
    wanted: Wanted<'_>,
    drivers: &Drivers,
) -> Result<Resolution> {
    let scenario = site.plan.scenario(wanted.scenario)?;
    let mut resolver = Resolver {
        site,
        catalogue,
        drivers,
        wanted,
        chosen: Vec::new(),
        left_out: Vec::new(),
        services: Vec::new(),
        checked: Vec::new(),
    };
    let mut numbered = Vec::new();
    resolver.sequence(&scenario.steps, &mut Numbers::top(), 0, &mut numbered)?;
    let mut steps = resolver.before(&scenario.when);
    steps.append(&mut numbered);
    steps.extend(resolver.after());
    let title = scenario.title.clone().unwrap_or_else(|| wanted.scenario.to_owned());
    let context = Context {
        version: 1,
        estate: site.estate(),
        plan_file: site.plan.file.clone(),
        plan_text: site.plan_text.clone(),
        environment: site.plan.environment.clone(),
        base: site.base.clone(),
        scenario: Some(wanted.scenario.to_owned()),
        mode: wanted.mode,
        declared: wanted.declared,
        happened: wanted.happened,
        at: wanted.at,
        chosen: resolver.chosen,
        left_out: resolver.left_out,
        from: site.from.clone(),
    };
    let pinned = serde_json::to_value(&context).expect("a context has only text keys");
    Ok(Resolution { runbook: Runbook { title, steps, context: pinned }, context })
}

impl Chosen {
    pub(crate) fn of(choice: &Choice<'_>) -> Self {
        let point = choice.point;
        Self {
            component: point.component.clone(),
            snapshot: point.snapshot.to_hex(),
            instant: point.instant(),
            further: choice.further.as_ref().map(|_| choice.instant()),
            bytes: point.recorded.bytes,
            engine: point.recorded.engine.clone(),
        }
    }

    /// The moment to which the component comes back.
    pub fn recovered(&self) -> Timestamp {
        self.further.unwrap_or(self.instant)
    }
}

/// Gives ids: `1`, `2`, and inside of one `2.1`.
pub(crate) struct Numbers {
    parent: Option<StepId>,
    last: usize,
}

impl Numbers {
    pub(crate) fn top() -> Self {
        Self { parent: None, last: 0 }
    }

    pub(crate) fn inside(parent: &StepId) -> Self {
        Self { parent: Some(parent.clone()), last: 0 }
    }

    pub(crate) fn next(&mut self) -> StepId {
        self.last += 1;
        match &self.parent {
            Some(parent) => parent.child(self.last),
            None => StepId::new(self.last.to_string()),
        }
    }
}

struct Resolver<'a> {
    site: &'a Site,
    catalogue: &'a Catalogue,
    drivers: &'a Drivers,
    wanted: Wanted<'a>,
    chosen: Vec<Chosen>,
    left_out: Vec<LeftOut>,
    services: Vec<String>,
    checked: Vec<String>,
}

impl Resolver<'_> {
    fn plan(&self) -> &Plan {
        &self.site.plan
    }

    fn is_drill(&self) -> bool {
        self.wanted.mode == Mode::Drill
    }

    /// What comes before the scenario's own steps in a drill: the disaster itself, and the proof that the checks see it.
    fn before(&self, when: &[plan::Name]) -> Vec<Step> {
        if !self.is_drill() {
            return Vec::new();
        }
        let components: Vec<String> = self.chosen.iter().map(|chosen| chosen.component.clone()).collect();
        let mut checks: Vec<String> = self.checked.clone();
        checks.extend(when.iter().map(|name| name.as_str().to_owned()));
        let mut seen = BTreeSet::new();
        checks.retain(|check| seen.insert(check.clone()));
        let disaster = Work::Disaster { components: components.clone() };
        let named = if components.is_empty() { "nothing".to_owned() } else { components.join(", ") };
        let mut steps = vec![phase(
            Step::new(
                "disaster",
                format!("the disaster: {named} destroyed in the twin"),
                Body::Action(disaster.action("rm -rf …  # in the twin only")),
            ),
            "disaster",
        )];
        if !checks.is_empty() && !components.is_empty() {
            let control = Work::Control { checks: checks.clone() };
            let name = "the checks notice the disaster".to_owned();
            steps.push(phase(
                Step::new(
                    "control",
                    name,
                    Body::Action(control.action(format!("lifeboat diagnose  # {}", checks.join(", ")))),
                ),
                "detect",
            ));
        }
        for step in &mut steps {
            step.timeout = Some(Duration::from_secs(10 * 60));
        }
        steps
    }

    /// What comes after: a second look at the services that were started.
    fn after(&self) -> Option<Step> {
        if self.services.is_empty() {
            return None;
        }
        let services = self.services.clone();
        let name = format!("still running: {}", services.join(", "));
        let command = format!("lifeboat status  # {}", services.join(", "));
        let work = Work::Steady { services };
        let mut step = phase(Step::new("steady", name, Body::Action(work.action(command))), "validate");
        step.timeout = Some(Duration::from_secs(5 * 60));
        Some(step)
    }

    fn sequence(
        &mut self,
        steps: &[PlanStep],
        numbers: &mut Numbers,
        nested: usize,
        into: &mut Vec<Step>,
    ) -> Result<()> {
        for step in steps {
            if let Some(step) = self.step(step, numbers, nested)? {
                into.push(step);
            }
        }
        Ok(())
    }

    /// Resolves one step of the plan; `None` when this kind of run leaves it out and nothing is missing for it.
    fn step(&mut self, step: &PlanStep, numbers: &mut Numbers, nested: usize) -> Result<Option<Step>> {
        let other = match (step.only, self.wanted.mode) {
            (Some(Only::Disaster), Mode::Drill) => Some("it is for disasters only, the plan says"),
            (Some(Only::Drill), Mode::Disaster) => Some("it is for drills only, the plan says"),
            _ => None,
        };
        let title = step.name.clone().unwrap_or_else(|| title(&step.action));
        if let Some(why) = other {
            self.left_out.push(LeftOut { step: title.clone(), why: why.to_owned() });
            // What people do or are told leaves the machine as it is, so that nothing of the proof is missing.
            let changes_nothing = matches!(step.action, PlanAction::Approve(_) | PlanAction::Notify(_));
            if changes_nothing || self.wanted.mode == Mode::Disaster {
                return Ok(None);
            }
            let id = numbers.next();
            let mut left = Step::new(id.as_str(), title, Body::Sequence(Vec::new()));
            left.skip_reason = Some(why.to_owned());
            return Ok(Some(left));
        }
        let id = numbers.next();
        let body = self.body(step, &id, nested)?;
        let mut resolved = Step::new(id.as_str(), title, body);
        resolved.phase = phase_of(&step.action).map(str::to_owned);
        resolved.timeout = Some(*step.timeout);
        resolved.retries = *step.retries;
        resolved.retry_delay = *step.retry_delay;
        resolved.on_failure = match *step.on_failure {
            plan::OnFailure::Stop => OnFailure::Stop,
            plan::OnFailure::Continue => OnFailure::Continue,
            plan::OnFailure::Ask => OnFailure::Ask,
        };
        resolved.remedies = self.remedies(&step.on_error, &id, nested)?;
        resolved.undo = self.undo(step)?;
        if let Some(ask) = &step.done_when {
            resolved = with_done_when(resolved, &question(ask, step.at), &id);
        }
        Ok(Some(resolved))
    }

    fn body(&mut self, step: &PlanStep, id: &StepId, nested: usize) -> Result<Body> {
        let mut numbers = Numbers::inside(id);
        Ok(match &step.action {
            PlanAction::Restore(restore) => {
                let names: Vec<String> =
                    restore.restore.iter().map(|name| name.as_str().to_owned()).collect();
                Body::Sequence(self.restore(&names, &mut numbers)?)
            }
            PlanAction::Start(start) => Body::Sequence(self.each(&start.start, &mut numbers, Self::start)?),
            PlanAction::Stop(stop) => {
                Body::Sequence(
                    self.each(&stop.stop, &mut numbers, |own, name, numbers| Ok(own.stop(name, numbers)))?,
                )
            }
            PlanAction::Restart(restart) => {
                let mut steps = Vec::new();
                for name in restart.restart.iter() {
                    steps.push(self.stop(name, &mut numbers));
                    steps.push(self.start(name, &mut numbers)?);
                }
                Body::Sequence(steps)
            }
            PlanAction::Boot(boot) => Body::Sequence(self.boot(&boot.boot, &mut numbers)?),
            PlanAction::Run(run) => Body::Action(self.run(run, step.at)?),
            PlanAction::Check(check) => {
                Body::Gate { check: self.checks(&check.check), within: *check.within, every: *check.every }
            }
            PlanAction::Approve(approve) if self.is_drill() => {
                let text = format!("a person would be asked: {}", approve.approve);
                Body::Action(Work::Note { text: text.clone() }.action(format!("# {text}")))
            }
            PlanAction::Approve(approve) => Body::Approve {
                message: approve.approve.clone(),
                within: approve.within.or(Some(*step.timeout)),
            },
            PlanAction::Dns(dns) => Body::Action(self.dns(dns)),
            PlanAction::Notify(notify) if self.is_drill() => {
                let text = format!("a message would be sent: {}", notify.notify.message.written());
                Body::Action(Work::Note { text: text.clone() }.action(format!("# {text}")))
            }
            PlanAction::Notify(notify) => Body::Action(
                Work::Notify { at: step.at.into() }
                    .action(format!("# tell: {}", notify.notify.message.written())),
            ),
            PlanAction::Wait(wait) => Body::Wait { time: wait.wait },
            PlanAction::Recover(recover) => {
                if nested >= NESTED_MAX {
                    return Err(Error::refused(
                        format!("scenarios recover each other more than {NESTED_MAX} levels deep"),
                        "flatten them",
                    ));
                }
                let other = self.site.plan.scenario(&recover.recover)?;
                let mut steps = Vec::new();
                self.sequence(&other.steps, &mut numbers, nested + 1, &mut steps)?;
                Body::Sequence(steps)
            }
            PlanAction::Group(group) => {
                let mut steps = Vec::new();
                let is_parallel = !group.group.parallel.is_empty();
                let of = if is_parallel { &group.group.parallel } else { &group.group.sequence };
                self.sequence(of, &mut numbers, nested, &mut steps)?;
                if is_parallel { Body::Parallel(steps) } else { Body::Sequence(steps) }
            }
            PlanAction::Try(attempt) => {
                let mut attempts = Vec::new();
                for remedy in &attempt.attempt.attempts {
                    let id = numbers.next();
                    let mut steps = Vec::new();
                    self.sequence(remedy, &mut Numbers::inside(&id), nested, &mut steps)?;
                    let name = steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", ");
                    attempts.push(Step::new(id.as_str(), name, Body::Sequence(steps)));
                }
                Body::Try {
                    until: self.checks(&attempt.attempt.until),
                    within: *attempt.attempt.within,
                    every: *attempt.attempt.every,
                    attempts,
                }
            }
            PlanAction::Backup(backup) => {
                let names = match &backup.backup {
                    Selection::All => self.plan().components.names().map(str::to_owned).collect(),
                    Selection::These(names) => names.iter().map(|name| name.as_str().to_owned()).collect(),
                };
                Body::Sequence(backup_steps(names, None, self.is_drill(), &mut numbers))
            }
        })
    }

    fn each(
        &mut self,
        names: &[plan::Name],
        numbers: &mut Numbers,
        mut make: impl FnMut(&mut Self, &str, &mut Numbers) -> Result<Step>,
    ) -> Result<Vec<Step>> {
        names.iter().map(|name| make(self, name, numbers)).collect()
    }

    /// Fetches and proves all components together, and swaps only when all of them are proven.
    fn restore(&mut self, components: &[String], numbers: &mut Numbers) -> Result<Vec<Step>> {
        let mut restored = Vec::new();
        for name in components {
            let choice = log::choose(&self.site.repository, self.catalogue, name, self.wanted.at)?;
            let driver = self.drivers.component(name)?;
            let parts = driver.parts(self.wanted.run, &choice.point.recorded);
            restored.push(log::restored(name, &choice, parts));
            if !self.chosen.iter().any(|chosen| chosen.component == *name) {
                self.chosen.push(Chosen::of(&choice));
            }
        }
        restore_steps(self.wanted.run, restored, self.drivers, numbers)
    }

    fn start(&mut self, service: &str, numbers: &mut Numbers) -> Result<Step> {
        if !self.services.iter().any(|known| known == service) {
            self.services.push(service.to_owned());
        }
        let declared = self.site.plan.service(service)?;
        let id = numbers.next();
        let mut inner = Numbers::inside(&id);
        let typed = self.drivers.typed(service);
        let work = Work::Start { service: service.to_owned() };
        let mut start = phase(
            Step::new(
                inner.next().as_str(),
                format!("start {service}"),
                Body::Action(work.action(typed.start)),
            ),
            "boot",
        );
        start.timeout = Some(*declared.start_within);
        let running = Question::Running(service.to_owned());
        start.done_when = Some(running.action(typed.status));
        start.undo = vec![Work::Stop { service: service.to_owned() }.action(typed.stop)];
        let mut steps = vec![start];
        if let Some(gate) = &declared.ready {
            steps.push(self.gate(service, gate, &mut inner));
        }
        let mut step = phase(Step::new(id.as_str(), format!("{service} up"), Body::Sequence(steps)), "boot");
        step.remedies = self.remedies(&declared.on_error, &id, 0)?;
        Ok(step)
    }

    fn gate(&mut self, service: &str, gate: &Gate, numbers: &mut Numbers) -> Step {
        self.checked.extend(gate.ask.check.iter().map(|name| name.as_str().to_owned()));
        let asked = Question::Gate(service.to_owned());
        let body = Body::Gate {
            check: asked.action(format!("# until {service} answers")),
            within: *gate.within,
            every: *gate.every,
        };
        phase(Step::new(numbers.next().as_str(), format!("{service} is ready"), body), "boot")
    }

    fn stop(&mut self, service: &str, numbers: &mut Numbers) -> Step {
        let typed = self.drivers.typed(service);
        let work = Work::Stop { service: service.to_owned() };
        let mut step = Step::new(
            numbers.next().as_str(),
            format!("stop {service}"),
            Body::Action(work.action(typed.stop)),
        );
        step.timeout = self.site.plan.services.get(service).map(|service| *service.stop_within);
        step.undo = vec![Work::Start { service: service.to_owned() }.action(typed.start)];
        step
    }

    fn boot(&mut self, selection: &Selection, numbers: &mut Numbers) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for (number, stage) in self.site.plan.boot_order(selection).into_iter().enumerate() {
            let id = numbers.next();
            let mut inner = Numbers::inside(&id);
            let mut services = Vec::new();
            for service in &stage {
                services.push(self.start(service, &mut inner)?);
            }
            let name = format!("stage {}: {}", number + 1, stage.join(", "));
            steps.push(phase(Step::new(id.as_str(), name, Body::Parallel(services)), "boot"));
        }
        Ok(steps)
    }

    fn run(&self, run: &plan::RunStep, at: Position) -> Result<Action> {
        let template = match &run.stand_in {
            Some(stand_in) if self.is_drill() => stand_in,
            _ => &run.run,
        };
        let script = self.render(template, at)?;
        Ok(Work::Run { script: script.clone(), at: at.into() }.action(script))
    }

    /// Fills the plan's values, and what is known of this run, into a command.
    fn render(&self, template: &Template, at: Position) -> Result<String> {
        let mut values = self.site.plan.template_values();
        if let Some(values) = values.as_object_mut() {
            values.insert("run".to_owned(), self.wanted.run.into());
            values.insert("scenario".to_owned(), self.wanted.scenario.into());
            values.insert("host".to_owned(), serde_json::json!({ "name": self.site.host }));
        }
        template.render(&values).map_err(|error| {
            Error::refused(format!("line {}: {error}", at.line), "correct the template in the plan")
        })
    }

    fn dns(&self, dns: &plan::DnsStep) -> Action {
        let typed =
            format!("# set {} {} to {}", dns.dns.record, dns.dns.kind.as_str(), dns.dns.value.written());
        let why = "DNS records are not set by this version; set it by hand";
        Work::NotHere { why: why.to_owned() }.action(typed)
    }

    fn checks(&mut self, names: &[plan::Name]) -> Action {
        let names: Vec<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
        self.checked.extend(names.iter().cloned());
        let command = format!("lifeboat diagnose {}", names.join(" "));
        Question::Checks(names).action(command)
    }

    fn remedies(&mut self, rules: &[PlanRemedy], id: &StepId, nested: usize) -> Result<Vec<Remedy>> {
        let mut remedies = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let mut steps = Vec::new();
            let parent = id.child(format!("remedy{}", number + 1));
            self.sequence(&rule.steps, &mut Numbers::inside(&parent), nested, &mut steps)?;
            let pattern = Pattern::Regex(rule.pattern.as_str().to_owned());
            remedies.push(Remedy { pattern, steps, loses: rule.loses.clone() });
        }
        Ok(remedies)
    }

    /// What a rollback does for a step, as its plan says: commands and services only.
    fn undo(&self, step: &PlanStep) -> Result<Vec<Action>> {
        let mut actions = Vec::new();
        for undo in step.undo.iter() {
            match &undo.action {
                PlanAction::Run(run) => actions.push(self.run(run, undo.at)?),
                PlanAction::Start(start) => actions.extend(start.start.iter().map(|name| {
                    Work::Start { service: name.as_str().to_owned() }.action(format!("# start {name}"))
                })),
                PlanAction::Stop(stop) => actions.extend(stop.stop.iter().map(|name| {
                    Work::Stop { service: name.as_str().to_owned() }.action(format!("# stop {name}"))
                })),
                _ => {
                    return Err(Error::refused(
                        format!("line {}: an undo runs commands and starts and stops services", undo.at.line),
                        "write it as run, start or stop",
                    ));
                }
            }
        }
        Ok(actions)
    }
}

/// Backups of components, one step each, which do not keep each other from being made.
pub(crate) fn backup_steps(
    components: Vec<String>,
    accept: Option<&str>,
    rehearsal: bool,
    numbers: &mut Numbers,
) -> Vec<Step> {
    components
        .into_iter()
        .map(|component| {
            let command = format!("lifeboat backup {component}");
            let name = format!("back up {component}");
            let accept = accept.map(str::to_owned);
            let work = Work::Backup(Backup { component, accept, rehearsal });
            phase(Step::new(numbers.next().as_str(), name, Body::Action(work.action(command))), "backup")
        })
        .collect()
}

/// Each component is fetched and proven, all of them together; then they are swapped in, one after the other, so that
/// nothing is replaced before everything that replaces it is proven.
pub(crate) fn restore_steps(
    run: &str,
    restored: Vec<Restored>,
    drivers: &Drivers,
    numbers: &mut Numbers,
) -> Result<Vec<Step>> {
    let mut proven = Vec::new();
    let together = numbers.next();
    let mut inside = Numbers::inside(&together);
    for one in &restored {
        let id = inside.next();
        proven.push(fetch_and_prove(one, &id));
    }
    let mut steps = match <[Step; 1]>::try_from(proven) {
        Ok([only]) => vec![Step { id: together, ..only }],
        Err(proven) => {
            let names: Vec<&str> = restored.iter().map(|one| one.component.as_str()).collect();
            let name = format!("{} beside, proven", names.join(", "));
            vec![phase(Step::new(together.as_str(), name, Body::Parallel(proven)), "restore")]
        }
    };
    for one in restored {
        let swap = SwapPlan::of(run, &one.parts);
        let name = format!("{} in its place, the old kept", one.component);
        let moves = one.parts.iter().map(|part| {
            let (target, beside) = (part.target.display(), part.beside.display());
            format!("mv {target} {target}.before-{run}; mv {beside} {target}")
        });
        let driver = drivers.component(&one.component)?;
        // Where it is not files that are replaced, what happens to those is of no interest.
        let command = driver
            .swap_by_hand(&one.parts, &one.recorded)
            .unwrap_or_else(|| moves.collect::<Vec<_>>().join("; "));
        let work = Work::Swap { restored: one, swap };
        steps.push(phase(
            Step::new(numbers.next().as_str(), name, Body::Action(work.action(command))),
            "cut over",
        ));
    }
    Ok(steps)
}

pub(crate) fn fetch_and_prove(one: &Restored, id: &StepId) -> Step {
    let mut inside = Numbers::inside(id);
    let command = one
        .parts
        .iter()
        .map(|part| {
            let snapshot = one.snapshot.get(..8).unwrap_or(&one.snapshot);
            let (path, beside) = (part.in_snapshot.display(), part.beside.display());
            format!(
                "restic restore {snapshot} --include {path} --target {beside}.d; mv {beside}.d{path} {beside}"
            )
        })
        .collect::<Vec<_>>()
        .join("; ");
    let fetch = Work::Fetch(one.clone()).action(command);
    let fetch = Step::new(inside.next().as_str(), format!("fetch {}", one.component), Body::Action(fetch));
    let replay = one.further.as_ref().map(|further| {
        let until = further.at.or(further.until).map_or(String::new(), |until| format!(" up to {until}"));
        let replay =
            Work::Replay(one.clone()).action(format!("# replay the log of {}{until}", one.component));
        Step::new(inside.next().as_str(), format!("replay {}", one.component), Body::Action(replay))
    });
    let prove =
        Work::Prove(one.clone()).action(format!("# compare {} with what was recorded", one.component));
    let prove = Step::new(inside.next().as_str(), format!("prove {}", one.component), Body::Action(prove));
    let mut steps = vec![phase(fetch, "restore")];
    steps.extend(replay.map(|replay| phase(replay, "replay")));
    steps.push(phase(prove, "validate"));
    phase(
        Step::new(id.as_str(), format!("{} beside, proven", one.component), Body::Sequence(steps)),
        "restore",
    )
}

pub(crate) fn phase(mut step: Step, phase: &str) -> Step {
    step.phase = Some(phase.to_owned());
    step
}

/// What a person calls a step that has no name.
pub(crate) fn title(action: &PlanAction) -> String {
    let all = |names: &[plan::Name]| names.iter().map(plan::Name::as_str).collect::<Vec<_>>().join(", ");
    let selected = |selection: &Selection| match selection {
        Selection::All => "all".to_owned(),
        Selection::These(names) => all(names),
    };
    match action {
        PlanAction::Restore(step) => format!("restore {}", all(&step.restore)),
        PlanAction::Start(step) => format!("start {}", all(&step.start)),
        PlanAction::Stop(step) => format!("stop {}", all(&step.stop)),
        PlanAction::Restart(step) => format!("restart {}", all(&step.restart)),
        PlanAction::Boot(step) => format!("boot {}", selected(&step.boot)),
        PlanAction::Run(step) => format!("run {}", step.run.as_str().lines().next().unwrap_or_default()),
        PlanAction::Check(step) => format!("check {}", all(&step.check)),
        PlanAction::Dns(step) => format!("set {}", step.dns.record),
        PlanAction::Approve(step) => format!("approve: {}", step.approve),
        PlanAction::Notify(step) => format!("notify: {}", step.notify.message.written()),
        PlanAction::Wait(step) => format!("wait {}", crate::units::duration(step.wait)),
        PlanAction::Recover(step) => format!("recover {}", step.recover),
        PlanAction::Group(_) => "together".to_owned(),
        PlanAction::Try(step) => format!("try until {}", all(&step.attempt.until)),
        PlanAction::Backup(step) => format!("back up {}", selected(&step.backup)),
    }
}

/// To which part of a recovery the time of a step counts; its children may say otherwise.
fn phase_of(action: &PlanAction) -> Option<&'static str> {
    Some(match action {
        PlanAction::Restore(_) => "restore",
        PlanAction::Start(_) | PlanAction::Stop(_) | PlanAction::Restart(_) | PlanAction::Boot(_) => "boot",
        PlanAction::Run(_) => "provision",
        PlanAction::Check(_) => "validate",
        PlanAction::Dns(_) => "cut over",
        PlanAction::Backup(_) => "backup",
        PlanAction::Approve(_)
        | PlanAction::Notify(_)
        | PlanAction::Wait(_)
        | PlanAction::Recover(_)
        | PlanAction::Group(_)
        | PlanAction::Try(_) => return None,
    })
}

/// A step that is no single action and has a `done_when` becomes the one attempt of a try.
fn with_done_when(step: Step, asked: &Question, id: &StepId) -> Step {
    let question = asked.action("# unless it is there already");
    if matches!(step.body, Body::Action(_)) {
        return Step { done_when: Some(question), ..step };
    }
    let outer =
        Step::new(id.child("unless").as_str(), step.name.clone(), Body::Wait { time: Duration::ZERO });
    let outer =
        Step { phase: step.phase.clone(), timeout: step.timeout, on_failure: step.on_failure, ..outer };
    let (within, every) = (Duration::ZERO, Duration::from_secs(1));
    Step { body: Body::Try { until: question, within, every, attempts: vec![step] }, ..outer }
}

fn question(ask: &Ask, at: Position) -> Question {
    if ask.question.is_some() {
        Question::Inline(at.into())
    } else {
        Question::Checks(ask.check.iter().map(|name| name.as_str().to_owned()).collect())
    }
}
