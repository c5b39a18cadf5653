//! Answering a disaster: preview, execution, resumption, rollback, commit; and the same for one component.

use std::path::Path;
use std::sync::Arc;

use estate::component::{Finding, Severity};
use jiff::Timestamp;
use place::Place;
use runbook::journal::Journal;
use runbook::{
    Body, ControlDirectory, Ended, Environment, Failure, Options, Order, Runbook, State, Status, SystemClock,
};

use crate::drivers::Drivers;
use crate::execute::{Conduct, Finished, What, execute};
use crate::goal::{self, Goal};
use crate::perform::Performer;
use crate::point::Catalogue;
use crate::resolve::{self, Chosen, Context, Mode, Numbers, Resolution, Wanted};
use crate::runs::{self, Files, Kind, new_id};
use crate::site::Site;
use crate::work::{Restored, Work, read};
use crate::{Error, Result, log, preflight, status};

/// A run that is resolved and not begun: what is shown before anything is done.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The id that the run will have.
    pub id: String,
    /// What kind of run it will be.
    pub kind: Kind,
    /// What is to be done.
    pub runbook: Runbook,
    /// What is pinned with it.
    pub context: Context,
    /// What speaks against beginning, or should be known before.
    pub findings: Vec<Finding>,
}

impl Preview {
    /// Whether something stands in the way of beginning.
    pub fn is_blocked(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// The moment to which a recovery is to bring its components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wished {
    /// Each component to the latest that there is of it.
    #[default]
    Latest,
    /// All of them to the latest moment that all of them have.
    Common,
    /// All of them to this moment.
    At(Timestamp),
}

/// What is wanted of a recovery.
#[derive(Debug, Clone, Default)]
pub struct RecoverOptions {
    /// To which moment.
    pub to: Wished,
    /// When the disaster was declared; now if `None`.
    pub declared: Option<Timestamp>,
    /// When it happened; when it was declared if `None`.
    pub happened: Option<Timestamp>,
}

/// Resolves a recovery and looks for what would make it fail, changing nothing.
///
/// Fails when the plan has no such scenario, when a component has no fitting point, and when the repository cannot be
/// read.
pub fn preview(site: &Site, scenario: &str, mode: Mode, options: &RecoverOptions) -> Result<Preview> {
    let now = site.now();
    let kind = if mode == Mode::Drill { Kind::Drill } else { Kind::Recover };
    let id = new_id(kind, now);
    let declared = options.declared.unwrap_or(now);
    let wanted = Wanted {
        run: &id,
        scenario,
        mode,
        at: None,
        declared,
        happened: options.happened.unwrap_or(declared),
    };
    let catalogue = site.catalogue()?;
    let at = match options.to {
        Wished::Latest => None,
        Wished::At(at) => Some(at),
        // What the latest of each comes to says which moment all of them have. One that was looked at later, and had nothing new,
        // has that moment, too.
        Wished::Common => {
            let latest = resolve::scenario(site, &catalogue, wanted)?.context.chosen;
            let up_to = |chosen: &Chosen| {
                let looked = status::looked_at(site, &catalogue, &chosen.component)?;
                Ok(looked.map_or(chosen.recovered(), |looked| looked.max(chosen.recovered())))
            };
            latest.iter().map(up_to).collect::<Result<Vec<_>>>()?.into_iter().min()
        }
    };
    refuse_future(at, now, &catalogue)?;
    let Resolution { runbook, context } = resolve::scenario(site, &catalogue, Wanted { at, ..wanted })?;
    let findings = preflight::of(site, &runbook, &context, &catalogue);
    Ok(Preview { id, kind, runbook, context, findings })
}

/// Resolves the restore of one component; `to` is a directory to put it in instead of its own place.
pub fn preview_restore(site: &Site, component: &str, goal: &Goal, to: Option<&Path>) -> Result<Preview> {
    let at = goal.instant();
    site.plan.component(component)?;
    let now = site.now();
    let id = new_id(Kind::Restore, now);
    let catalogue = site.catalogue()?;
    refuse_future(at, now, &catalogue)?;
    let drivers = Drivers::of(site, &Place::host())?;
    let driver = drivers.component(component)?;
    let choice = goal::choose(&site.repository, &catalogue, component, driver, goal)?;
    let mut parts = driver.parts(&id, &choice.point.recorded);
    if let Some(directory) = to {
        parts = parts.iter().map(|part| part.moved_to(directory)).collect();
    }
    let restored = log::restored(component, &choice, parts);
    let steps = resolve::restore_steps(&id, vec![restored], &drivers, &mut Numbers::top())?;
    let context = Context { at, chosen: vec![Chosen::of(&choice)], ..plain_context(site, now) };
    let runbook = runbook(format!("restore {component}"), steps, &context);
    let findings = preflight::of(site, &runbook, &context, &catalogue);
    Ok(Preview { id, kind: Kind::Restore, runbook, context, findings })
}

/// Refuses an instant of which nothing can be known yet: it was mistyped, and the latest would pass for it. A point of a
/// machine whose clock is ahead is known.
pub(crate) fn refuse_future(at: Option<Timestamp>, now: Timestamp, catalogue: &Catalogue) -> Result<()> {
    let known = catalogue.all().last().map_or(now, |newest| newest.instant().max(now));
    match at.filter(|at| *at > known) {
        None => Ok(()),
        Some(at) => Err(Error::refused(
            format!("the instant {at} is in the future: it is {now} now"),
            "leave --at out for the latest; `lifeboat points` shows what there is",
        )),
    }
}

/// The context of a run that is no scenario.
pub(crate) fn plain_context(site: &Site, now: Timestamp) -> Context {
    Context {
        version: 1,
        estate: site.estate(),
        plan_file: site.plan.file.clone(),
        plan_text: site.plan_text.clone(),
        environment: site.plan.environment.clone(),
        base: site.base.clone(),
        scenario: None,
        mode: Mode::Disaster,
        declared: now,
        happened: now,
        at: None,
        chosen: Vec::new(),
        left_out: Vec::new(),
        from: site.from.clone(),
    }
}

/// A runbook with its context pinned.
pub(crate) fn runbook(title: String, steps: Vec<runbook::Step>, context: &Context) -> Runbook {
    let context = serde_json::to_value(context).expect("a context has only text keys");
    Runbook { title, steps, context }
}

/// Executes a preview on this host.
///
/// Fails when something stands in the way; nothing was done then.
pub fn execute_preview(site: &Site, preview: Preview, conduct: Conduct<'_>) -> Result<Finished> {
    refuse_blocked(&preview)?;
    let drivers = Drivers::of(site, &Place::host())?;
    let performer = Performer::new(site, &drivers, Place::host(), site.repository.clone());
    execute(site, preview.kind, &preview.id, What::Begin(preview.runbook), &performer, conduct)
}

pub(crate) fn refuse_blocked(preview: &Preview) -> Result<()> {
    let blocking: Vec<String> = preview
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| finding.what.clone())
        .collect();
    if blocking.is_empty() {
        return Ok(());
    }
    Err(Error::refused(
        format!("something stands in the way: {}", blocking.join("; ")),
        "mend it and begin again; nothing was changed",
    ))
}

/// Takes up a run of this machine that was interrupted or failed.
///
/// Fails for a drill or a restore test, whose twin or scratch is gone with the process that had it.
pub fn resume(site: &Site, id: &str, orders: Vec<Order>, conduct: Conduct<'_>) -> Result<Finished> {
    let (state, pinned) = pinned(site, id)?;
    let kind = kind_of(&state)?;
    if kind == Kind::Drill {
        return Err(Error::refused(
            format!("the drill {id} cannot go on: its twin is gone"),
            "begin a new drill; nothing of the old one is left",
        ));
    }
    if kind == Kind::Verify {
        return Err(Error::refused(
            format!("the restore test {id} cannot go on: what it had restored is gone"),
            "begin a new one with `lifeboat verify --restore`",
        ));
    }
    go_on(&pinned, kind, id, What::Resume(orders), conduct)
}

/// Takes back what a run of this machine did, the last first.
pub fn rollback(site: &Site, id: &str, orders: Vec<Order>, conduct: Conduct<'_>) -> Result<Finished> {
    let (state, pinned) = pinned(site, id)?;
    let kind = kind_of(&state)?;
    if !matches!(kind, Kind::Recover | Kind::Restore) {
        return Err(Error::refused(
            format!("run {id} is a {} and changed nothing that could be taken back", kind.as_str()),
            "name the run that did with its id; `lifeboat status` shows the last runs",
        ));
    }
    go_on(&pinned, kind, id, What::Rollback(orders), conduct)
}

fn go_on(site: &Site, kind: Kind, id: &str, what: What, conduct: Conduct<'_>) -> Result<Finished> {
    let drivers = Drivers::of(site, &Place::host())?;
    let performer = Performer::new(site, &drivers, Place::host(), site.repository.clone());
    execute(site, kind, id, what, &performer, conduct)
}

/// Removes what a run kept for a rollback, and tells what that is to `confirm` first; nothing is done if it says no.
pub fn commit(
    site: &Site,
    id: &str,
    conduct: Conduct<'_>,
    confirm: &mut dyn FnMut(&[String]) -> bool,
) -> Result<Option<Vec<String>>> {
    let (state, pinned) = pinned(site, id)?;
    let swaps = swaps_of(&state);
    let drivers = Drivers::of(&pinned, &Place::host())?;
    let cancel = estate::component::Cancel::default();
    let mut kept = Vec::new();
    for (restored, swap) in &swaps {
        kept.extend(swap.kept().iter().map(|path| path.display().to_string()));
        let driver = drivers.component(&restored.component)?;
        kept.extend(driver.kept(&restored.parts, &cancel).map_err(Error::component(&restored.component))?);
    }
    if !confirm(&kept) {
        return Ok(None);
    }
    let files = Files::of(&site.state, id);
    let performer = Performer::new(&pinned, &drivers, Place::host(), site.repository.clone());
    let orders = ControlDirectory::of(&files.journal());
    let controls = (conduct.controls, orders);
    let environment = Environment {
        actions: &performer,
        controls: &controls,
        observer: conduct.observer,
        clock: &SystemClock,
        interrupt: conduct.interrupt,
        host: &site.host,
        version: &site.program,
        options: Options { answer_within: None },
    };
    let journal = Journal::open(&files.journal())?;
    let _: Ended = runbook::commit(journal, &site.who, environment, &mut |_| {
        for (restored, swap) in &swaps {
            let failed = |why: String| Failure::failed(why);
            swap.commit().map_err(|error| failed(error.to_string()))?;
            let driver = drivers.component(&restored.component).map_err(|error| failed(error.to_string()))?;
            driver.commit(&restored.parts, &cancel).map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    })?;
    Ok(Some(kept))
}

/// The swaps that a run did.
pub(crate) fn swaps_of(state: &State) -> Vec<(Restored, estate::swap::SwapPlan)> {
    let mut swaps = Vec::new();
    state.runbook().visit(&mut |step, _| {
        if let Body::Action(action) = &step.body
            && matches!(state.step(&step.id).map(|step| &step.status), Some(Status::Succeeded { .. }))
            && let Ok(Work::Swap { restored, swap }) = read::<Work>(action)
        {
            swaps.push((restored, swap));
        }
    });
    swaps
}

/// The state of a run of this machine, and the site as the run has pinned it.
fn pinned(site: &Site, id: &str) -> Result<(State, Site)> {
    let state = runs::read(&site.state, None, id)?.state;
    let context = runs::context_of(&state)?;
    let plan = plan::Plan::parse(&context.plan_text, &context.plan_file, context.environment.as_deref())?;
    let pinned =
        Site { plan: Arc::new(plan), plan_text: context.plan_text, base: context.base, ..site.clone() };
    Ok((state, pinned))
}

fn kind_of(state: &State) -> Result<Kind> {
    let word = serde_json::Value::String(state.begun().kind.clone());
    serde_json::from_value(word)
        .map_err(|error| Error::damaged(&format!("the journal of run {}", state.run()), error))
}
